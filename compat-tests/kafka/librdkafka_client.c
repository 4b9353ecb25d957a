/*
 * librdkafka, unchanged, against the server: delivery reports, idempotence, watermarks, seeking, times,
 * headers, consumer groups with two members in one process and offsets committed by hand.
 */
#include <librdkafka/rdkafka.h>
#include <time.h>

#include "compat-tests/lib/compat.h"

static char err[512];
static int reports, report_errors;
static int64_t last_offset;
static int names;

static void topic_name(char *out, size_t len, const char *prefix)
{
    snprintf(out, len, "%s-%d-%ld-%d", prefix, (int)getpid(), (long)time(NULL) % 100000, names++);
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk;
    (void)opaque;
    if (m->err)
        report_errors++;
    reports++;
    last_offset = m->offset;
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    if (rd_kafka_conf_set(conf, name, value, err, sizeof(err)) != RD_KAFKA_CONF_OK)
        FAIL("%s=%s: %s", name, value, err);
}

static rd_kafka_conf_t *base_conf(const struct compat_target *t)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char where[256];

    snprintf(where, sizeof(where), "%s:%d", t->host, t->port);
    set(conf, "bootstrap.servers", where);
    set(conf, "broker.address.family", "v4");
    return conf;
}

static rd_kafka_t *new_producer(const struct compat_target *t, const char *name, const char *value)
{
    rd_kafka_conf_t *conf = base_conf(t);
    rd_kafka_t *rk;

    if (name)
        set(conf, name, value);
    set(conf, "message.timeout.ms", "20000");
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, err, sizeof(err));
    if (!rk)
        FAIL("producer: %s", err);
    reports = report_errors = 0;
    last_offset = -1;
    return rk;
}

static rd_kafka_t *new_consumer(const struct compat_target *t, const char *group)
{
    rd_kafka_conf_t *conf = base_conf(t);
    rd_kafka_t *rk;

    set(conf, "group.id", group);
    set(conf, "enable.auto.commit", "false");
    set(conf, "auto.offset.reset", "earliest");
    set(conf, "session.timeout.ms", "20000");
    set(conf, "heartbeat.interval.ms", "300");
    rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, err, sizeof(err));
    if (!rk)
        FAIL("consumer: %s", err);
    rd_kafka_poll_set_consumer(rk);
    return rk;
}

static void send_many(rd_kafka_t *rk, const char *topic, int partition, int first, int n)
{
    for (int i = first; i < first + n; i++) {
        char value[64];
        rd_kafka_resp_err_t e;

        snprintf(value, sizeof(value), "%d", i);
        e = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
                              RD_KAFKA_V_VALUE(value, strlen(value)), RD_KAFKA_V_KEY("key", 3),
                              RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (e)
            FAIL("produce: %s", rd_kafka_err2str(e));
        rd_kafka_poll(rk, 0);
    }
    EXPECT_INT(rd_kafka_flush(rk, 20000), RD_KAFKA_RESP_ERR_NO_ERROR);
    EXPECT_INT(report_errors, 0);
}

/* The value of the next message as a number, or -1 after limit_ms without one. */
static int next_value(rd_kafka_t *rk, int limit_ms, int32_t *partition, int64_t *offset)
{
    rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, limit_ms);
    char value[64];

    if (!m)
        return -1;
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF || m->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) {
        rd_kafka_message_destroy(m);
        return -1;
    }
    if (m->err)
        FAIL("consume: %s", rd_kafka_message_errstr(m));
    snprintf(value, sizeof(value), "%.*s", (int)m->len, (const char *)m->payload);
    if (partition)
        *partition = m->partition;
    if (offset)
        *offset = m->offset;
    rd_kafka_message_destroy(m);
    return atoi(value);
}

static void assign_one(rd_kafka_t *rk, const char *topic, int32_t partition, int64_t offset)
{
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);

    rd_kafka_topic_partition_list_add(l, topic, partition)->offset = offset;
    EXPECT_INT(rd_kafka_assign(rk, l), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_topic_partition_list_destroy(l);
}

static void subscribe(rd_kafka_t *rk, const char *topic)
{
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);

    rd_kafka_topic_partition_list_add(l, topic, RD_KAFKA_PARTITION_UA);
    EXPECT_INT(rd_kafka_subscribe(rk, l), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_topic_partition_list_destroy(l);
}

static void delivery_reports_carry_offsets(const struct compat_target *t)
{
    char topic[128];
    rd_kafka_t *rk = new_producer(t, "acks", "all");

    topic_name(topic, sizeof(topic), "reports");
    send_many(rk, topic, 0, 0, 1000);
    EXPECT_INT(reports, 1000);
    EXPECT_INT(last_offset, 999);
    send_many(rk, topic, 0, 1000, 1);
    EXPECT_INT(last_offset, 1000);
    rd_kafka_destroy(rk);
}

static void idempotent_producer_in_order(const struct compat_target *t)
{
    char topic[128];
    rd_kafka_t *rk = new_producer(t, "enable.idempotence", "true"), *c;

    topic_name(topic, sizeof(topic), "idem");
    for (int i = 0; i < 50; i++)
        send_many(rk, topic, 1, i * 20, 20);
    EXPECT_INT(last_offset, 999);
    rd_kafka_destroy(rk);
    c = new_consumer(t, "unused");
    assign_one(c, topic, 1, RD_KAFKA_OFFSET_BEGINNING);
    for (int i = 0; i < 1000; i++)
        EXPECT_INT(next_value(c, 30000, NULL, NULL), i);
    rd_kafka_consumer_close(c);
    rd_kafka_destroy(c);
}

static void watermarks_seek_and_times(const struct compat_target *t)
{
    char topic[128];
    rd_kafka_t *rk = new_producer(t, NULL, NULL), *c;
    int64_t low = -1, high = -1, offset, now;
    rd_kafka_topic_partition_list_t *l;
    struct timespec ts;

    topic_name(topic, sizeof(topic), "seek");
    send_many(rk, topic, 0, 0, 100);
    usleep(20000);
    clock_gettime(CLOCK_REALTIME, &ts);
    now = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
    usleep(20000);
    send_many(rk, topic, 0, 100, 100);
    EXPECT_INT(rd_kafka_query_watermark_offsets(rk, topic, 0, &low, &high, 30000),
               RD_KAFKA_RESP_ERR_NO_ERROR);
    EXPECT_INT(low, 0);
    EXPECT_INT(high, 200);
    l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, topic, 0)->offset = now;
    EXPECT_INT(rd_kafka_offsets_for_times(rk, l, 30000), RD_KAFKA_RESP_ERR_NO_ERROR);
    EXPECT_INT(l->elems[0].offset, 100);
    rd_kafka_topic_partition_list_destroy(l);
    rd_kafka_destroy(rk);

    c = new_consumer(t, "unused");
    assign_one(c, topic, 0, 150);
    EXPECT_INT(next_value(c, 30000, NULL, &offset), 150);
    EXPECT_INT(offset, 150);
    l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(l, topic, 0)->offset = 17;
    rd_kafka_error_destroy(rd_kafka_seek_partitions(c, l, 30000));
    rd_kafka_topic_partition_list_destroy(l);
    EXPECT_INT(next_value(c, 30000, NULL, NULL), 17);
    EXPECT_INT(next_value(c, 30000, NULL, NULL), 18);
    rd_kafka_consumer_close(c);
    rd_kafka_destroy(c);
}

static void headers_come_back(const struct compat_target *t)
{
    char topic[128];
    rd_kafka_t *rk = new_producer(t, "compression.codec", "zstd"), *c;
    rd_kafka_message_t *m;
    rd_kafka_headers_t *h = NULL;
    const void *value;
    size_t len;

    topic_name(topic, sizeof(topic), "headers");
    EXPECT_INT(rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0),
                                 RD_KAFKA_V_VALUE("v", 1), RD_KAFKA_V_HEADER("a", "1", 1),
                                 RD_KAFKA_V_HEADER("b", "", 0), RD_KAFKA_V_HEADER("null", NULL, 0),
                                 RD_KAFKA_V_TIMESTAMP(1700000000123), RD_KAFKA_V_END),
               RD_KAFKA_RESP_ERR_NO_ERROR);
    EXPECT_INT(rd_kafka_flush(rk, 20000), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_destroy(rk);
    c = new_consumer(t, "unused");
    assign_one(c, topic, 0, RD_KAFKA_OFFSET_BEGINNING);
    m = rd_kafka_consumer_poll(c, 30000);
    EXPECT(m != NULL);
    EXPECT_INT(m->err, 0);
    EXPECT_INT(m->key_len, 0);
    EXPECT_INT(rd_kafka_message_timestamp(m, NULL), 1700000000123);
    EXPECT_INT(rd_kafka_message_headers(m, &h), RD_KAFKA_RESP_ERR_NO_ERROR);
    EXPECT_INT(rd_kafka_header_cnt(h), 3);
    EXPECT_INT(rd_kafka_header_get_last(h, "a", &value, &len), RD_KAFKA_RESP_ERR_NO_ERROR);
    EXPECT_INT(len, 1);
    EXPECT_INT(rd_kafka_header_get_last(h, "null", &value, &len), RD_KAFKA_RESP_ERR_NO_ERROR);
    EXPECT(value == NULL);
    rd_kafka_message_destroy(m);
    rd_kafka_consumer_close(c);
    rd_kafka_destroy(c);
}

static void committed_offsets_are_kept(const struct compat_target *t)
{
    char topic[128], group[128];
    rd_kafka_t *rk = new_producer(t, NULL, NULL), *c;
    rd_kafka_topic_partition_list_t *l;

    topic_name(topic, sizeof(topic), "commit");
    topic_name(group, sizeof(group), "group");
    send_many(rk, topic, 2, 0, 50);
    rd_kafka_destroy(rk);
    c = new_consumer(t, group);
    subscribe(c, topic);
    for (int i = 0, tries = 0; i < 20; tries++) {
        int v = next_value(c, 1000, NULL, NULL);

        if (v >= 0)
            EXPECT_INT(v, i++);
        EXPECT(tries < 100);
    }
    l = rd_kafka_topic_partition_list_new(2);
    rd_kafka_topic_partition_list_add(l, topic, 2)->offset = 20;
    EXPECT_INT(rd_kafka_topic_partition_list_set_offset(l, topic, 2, 20), RD_KAFKA_RESP_ERR_NO_ERROR);
    EXPECT_INT(rd_kafka_commit(c, l, 0), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_topic_partition_list_add(l, topic, 0);
    EXPECT_INT(rd_kafka_committed(c, l, 30000), RD_KAFKA_RESP_ERR_NO_ERROR);
    EXPECT_INT(l->elems[0].offset, 20);
    EXPECT_INT(l->elems[1].offset, RD_KAFKA_OFFSET_INVALID);
    rd_kafka_topic_partition_list_destroy(l);
    rd_kafka_consumer_close(c);
    rd_kafka_destroy(c);

    c = new_consumer(t, group);
    subscribe(c, topic);
    for (int i = 20, tries = 0; i < 50; tries++) {
        int v = next_value(c, 1000, NULL, NULL);

        if (v >= 0)
            EXPECT_INT(v, i++);
        EXPECT(tries < 100);
    }
    rd_kafka_consumer_close(c);
    rd_kafka_destroy(c);
}

static int assigned(rd_kafka_t *rk)
{
    rd_kafka_topic_partition_list_t *l = NULL;
    int n;

    EXPECT_INT(rd_kafka_assignment(rk, &l), RD_KAFKA_RESP_ERR_NO_ERROR);
    n = l->cnt;
    rd_kafka_topic_partition_list_destroy(l);
    return n;
}

static void two_members_balance(const struct compat_target *t)
{
    char topic[128], group[128];
    rd_kafka_t *rk = new_producer(t, NULL, NULL), *a, *b;
    int got = 0;
    time_t end;

    topic_name(topic, sizeof(topic), "balance");
    topic_name(group, sizeof(group), "group");
    for (int p = 0; p < 4; p++)
        send_many(rk, topic, p, 0, 10);
    a = new_consumer(t, group);
    subscribe(a, topic);
    for (end = time(NULL) + 20; got < 40 && time(NULL) < end;)
        got += next_value(a, 200, NULL, NULL) >= 0;
    EXPECT_INT(got, 40);
    EXPECT_INT(assigned(a), 4);
    EXPECT_INT(rd_kafka_commit(a, NULL, 0), RD_KAFKA_RESP_ERR_NO_ERROR);

    b = new_consumer(t, group);
    subscribe(b, topic);
    for (end = time(NULL) + 20; (assigned(a) != 2 || assigned(b) != 2) && time(NULL) < end;) {
        EXPECT_INT(next_value(a, 100, NULL, NULL), -1);
        EXPECT_INT(next_value(b, 100, NULL, NULL), -1);
    }
    EXPECT_INT(assigned(a), 2);
    EXPECT_INT(assigned(b), 2);
    for (int p = 0; p < 4; p++)
        send_many(rk, topic, p, 10, 10);
    for (got = 0, end = time(NULL) + 20; got < 40 && time(NULL) < end;) {
        got += next_value(a, 50, NULL, NULL) >= 0;
        got += next_value(b, 50, NULL, NULL) >= 0;
    }
    EXPECT_INT(got, 40);
    rd_kafka_consumer_close(b);
    rd_kafka_destroy(b);
    for (end = time(NULL) + 20; assigned(a) != 4 && time(NULL) < end;)
        next_value(a, 100, NULL, NULL);
    EXPECT_INT(assigned(a), 4);
    rd_kafka_consumer_close(a);
    rd_kafka_destroy(a);
    rd_kafka_destroy(rk);
}

static void unknown_partition_is_an_error(const struct compat_target *t)
{
    char topic[128];
    rd_kafka_t *rk = new_producer(t, NULL, NULL);
    int64_t low, high;

    topic_name(topic, sizeof(topic), "unknown");
    send_many(rk, topic, 0, 0, 1);
    EXPECT_INT(rd_kafka_query_watermark_offsets(rk, topic, 77, &low, &high, 5000),
               RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION);
    rd_kafka_destroy(rk);
}

static const struct compat_test tests[] = {
    {"delivery_reports_carry_offsets", delivery_reports_carry_offsets},
    {"idempotent_producer_in_order", idempotent_producer_in_order},
    {"watermarks_seek_and_times", watermarks_seek_and_times},
    {"headers_come_back", headers_come_back},
    {"committed_offsets_are_kept", committed_offsets_are_kept},
    {"two_members_balance", two_members_balance},
    {"unknown_partition_is_an_error", unknown_partition_is_an_error},
};

COMPAT_MAIN("kafka/librdkafka", tests)
