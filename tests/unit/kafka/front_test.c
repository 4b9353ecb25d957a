/* The front end over sockets against a node in this process: every version of every API is asked and its
 * answer held against its table, then what a client's library does not show: sessions, sequences, limits,
 * groups across a restart, bad input. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "log/batch.h"
#include "node.h"

static struct node n;
static struct client c;
static struct buf out;
static struct kout o;
static struct batch_builder builder;

static void begin(void)
{
    node_init(&n);
    client_open(&c, &n);
}

static void end(void)
{
    client_close(&c);
    node_fini(&n);
    buf_fini(&out);
    batch_builder_fini(&builder);
}

static void request(int key, int version)
{
    client_begin(&c, &out, &o, key, version);
}

static void exchange(int key, int version)
{
    client_send(&c, &out);
    client_read(&c, key, version);
}

static struct slice S(const char *s) {
    return slice_str(s);
}

/* ---- helpers: topics, batches, produce, fetch --------------------------------------------------------- */

static int16_t
create_topic(const char *name, int32_t partitions, const char *config, const char *value)
{
    int16_t code;

    request(KAFKA_API_CREATE_TOPICS, 7);
    put_create_topic(&o, name, partitions, -1, config, value);
    exchange(KAFKA_API_CREATE_TOPICS, 7);
    cr_assert_eq(kin_array(&c.in, "Topics"), 1);
    cr_assert(kin_item(&c.in));
    code = kin_i16(&c.in, "ErrorCode", -1);
    return code;
}

static int16_t delete_topic(const char *name)
{
    request(KAFKA_API_DELETE_TOPICS, 1);
    kout_array(&o, "Topics");
    kout_array_end(&o);
    kout_list(&o, "TopicNames");
    kout_elem_string(&o, S(name));
    kout_list_end(&o);
    kout_i32(&o, "TimeoutMs", 1000);
    kout_end(&o);
    exchange(KAFKA_API_DELETE_TOPICS, 1);
    (void)kin_array(&c.in, "Responses");
    cr_assert(kin_item(&c.in));
    return kin_i16(&c.in, "ErrorCode", -1);
}

static struct slice make_batch(unsigned records, int64_t producer, int32_t sequence, size_t size)
{
    uint8_t *value = mem_zalloc(size + 1);
    struct slice b;

    batch_begin(&builder, clock_wall_ms());
    if (producer >= 0)
        batch_set_producer(&builder, producer, 0, sequence);
    for (unsigned i = 0; i < records; i++)
        batch_add(&builder, clock_wall_ms(), SLICE_NONE, slice_of(value, size));
    b = batch_finish(&builder);
    mem_free(value);
    return b;
}

static void begin_produce(int version, int16_t acks, const char *topic, int32_t index, struct slice records)
{
    client_begin(&c, &out, NULL, KAFKA_API_PRODUCE, version);
    put_produce(&out, version, acks, 5000, topic, index, records);
}

static int16_t produce(int version, int16_t acks, const char *topic, int32_t index, struct slice records,
                       int64_t *ret_base)
{
    begin_produce(version, acks, topic, index, records);
    client_send(&c, &out);
    return read_produced(&c, version, ret_base);
}

/* Metadata of one topic, made when it is not there; how many partitions. */
static int64_t touch_topic(const char *name)
{
    request(KAFKA_API_METADATA, 4);
    kout_array(&o, "Topics");
    kout_item(&o);
    kout_uuid(&o, "TopicId", NULL);
    kout_str(&o, "Name", name);
    kout_array_end(&o);
    kout_bool(&o, "AllowAutoTopicCreation", true);
    kout_bool(&o, "IncludeClusterAuthorizedOperations", false);
    kout_bool(&o, "IncludeTopicAuthorizedOperations", false);
    kout_end(&o);
    exchange(KAFKA_API_METADATA, 4);
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
    return kin_array(&c.in, "Partitions");
}

struct wanted {
    int32_t index;
    int64_t offset;
};

static void put_fetch(int version, int32_t wait_ms, int32_t min_bytes, int32_t session, int32_t epoch,
                      const char *topic, const uint8_t *uuid, const struct wanted *w, unsigned count)
{
    request(KAFKA_API_FETCH, version);
    kout_i32(&o, "ReplicaId", -1);
    kout_i32(&o, "MaxWaitMs", wait_ms);
    kout_i32(&o, "MinBytes", min_bytes);
    kout_i32(&o, "MaxBytes", 1 << 20);
    kout_i8(&o, "IsolationLevel", 1);
    kout_i32(&o, "SessionId", session);
    kout_i32(&o, "SessionEpoch", epoch);
    kout_array(&o, "Topics");
    if (count != 0) {
        kout_item(&o);
        kout_str(&o, "Topic", topic);
        kout_uuid(&o, "TopicId", uuid);
        kout_array(&o, "Partitions");
        for (unsigned i = 0; i < count; i++) {
            kout_item(&o);
            kout_i32(&o, "Partition", w[i].index);
            kout_i32(&o, "CurrentLeaderEpoch", -1);
            kout_i64(&o, "FetchOffset", w[i].offset);
            kout_i32(&o, "LastFetchedEpoch", -1);
            kout_i64(&o, "LogStartOffset", -1);
            kout_i32(&o, "PartitionMaxBytes", 1 << 20);
        }
        kout_array_end(&o);
    }
    kout_array_end(&o);
    kout_array(&o, "ForgottenTopicsData");
    kout_array_end(&o);
    kout_str(&o, "RackId", "");
    kout_end(&o);
    client_send(&c, &out);
}

struct fetched {
    int16_t code; /* of the request */
    int32_t session;
    unsigned partitions; /* in the answer */
    int16_t last_code;
    int64_t high_watermark, start;
    size_t bytes;
};

static struct fetched read_fetched(int version)
{
    struct fetched f = {0};

    client_read(&c, KAFKA_API_FETCH, version);
    f.code = kin_i16(&c.in, "ErrorCode", 0);
    f.session = kin_i32(&c.in, "SessionId", 0);
    (void)kin_array(&c.in, "Responses");
    while (kin_item(&c.in)) {
        (void)kin_array(&c.in, "Partitions");
        while (kin_item(&c.in)) {
            f.partitions++;
            f.last_code = kin_i16(&c.in, "ErrorCode", -1);
            f.high_watermark = kin_i64(&c.in, "HighWatermark", -2);
            f.start = kin_i64(&c.in, "LogStartOffset", -2);
            f.bytes += kin_bytes(&c.in, "Records").len;
        }
    }
    return f;
}

/* ---- every version ------------------------------------------------------------------------------------ */

/* A request in its plainest form: empty arrays, empty strings, null where it may be. */
static void plain_fields(const struct kafka_field *fields, int version, bool flexible, struct buf *b)
{
    for (const struct kafka_field *f = fields; f->name != NULL; f++) {
        static const uint8_t sizes[] = {[KAFKA_BOOL] = 1, [KAFKA_I8] = 1,  [KAFKA_I16] = 2,
                                        [KAFKA_I32] = 4,  [KAFKA_I64] = 8, [KAFKA_UUID] = 16};

        if (version < f->first || version > f->last || f->tag != KAFKA_UNTAGGED)
            continue;
        if (f->arity == KAFKA_ARRAY_)
            kafka_put_len(b, 0, flexible);
        else if (f->type == KAFKA_STRING)
            kafka_put_string(b, S("x"), flexible);
        else if (f->type == KAFKA_BYTES || f->type == KAFKA_RECORDS)
            kafka_put_len(b, 0, flexible);
        else
            for (unsigned i = 0; i < sizes[f->type]; i++)
                buf_put_u8(b, 0);
    }
    if (flexible)
        buf_put_u8(b, 0);
}

Test(front, every_version_of_every_api_is_answered_in_its_form)
{
    begin();
    cr_assert_eq(create_topic("x", 3, NULL, NULL), 0); /* so that listings have something to say */
    for (unsigned i = 0; i < kafka_api_count; i++)
        for (int version = kafka_apis[i].first; version <= kafka_apis[i].last; version++) {
            const struct kafka_api *api = &kafka_apis[i];

            client_begin(&c, &out, NULL, api->key, version);
            plain_fields(api->request->fields, version, kafka_is_flexible(api->request, version), &out);
            client_send(&c, &out);
            if (api->key == KAFKA_API_PRODUCE) /* acks 0: no answer */
                continue;
            client_read(&c, api->key, version);
        }
    end();
}

/* The same with elements in every array, filled at random: unknown topics, groups and members, whatever. */
static void random_fields(const struct kafka_field *fields, int version, bool flexible, struct rand *r,
                          struct buf *b)
{
    static const char *const words[] = {
        "x", "y", "group-1", "group-2", "consumer", "range", "retention.ms", "100000", "", "no/such name"};

    for (const struct kafka_field *f = fields; f->name != NULL; f++) {
        static const uint8_t sizes[] = {[KAFKA_BOOL] = 1, [KAFKA_I8] = 1,  [KAFKA_I16] = 2,
                                        [KAFKA_I32] = 4,  [KAFKA_I64] = 8, [KAFKA_UUID] = 16};
        uint64_t count = 1;

        if (version < f->first || version > f->last || f->tag != KAFKA_UNTAGGED)
            continue;
        if (f->arity == KAFKA_ARRAY_) {
            count = rand_below(r, 4);
            kafka_put_len(b, (int64_t)count, flexible);
        }
        for (; count > 0; count--) {
            if (f->type == KAFKA_STRUCT_) {
                random_fields(f->fields, version, flexible, r, b);
            } else if (f->type == KAFKA_STRING) {
                kafka_put_string(b, S(words[rand_below(r, sizeof(words) / sizeof(words[0]))]), flexible);
            } else if (f->type == KAFKA_BYTES || f->type == KAFKA_RECORDS) {
                kafka_put_len(b, 5, flexible);
                buf_put(b, "bytes", 5);
            } else { /* small numbers are the interesting ones; an acks of 0 has no answer, so none for int16
                      */
                uint64_t v = f->type == KAFKA_BOOL   ? rand_below(r, 2)
                             : f->type == KAFKA_I16  ? 1
                             : rand_below(r, 4) == 0 ? rand_u64(r)
                                                     : rand_below(r, 3) * 6000;
                bool wait = strcmp(f->name, "MaxWaitMs") == 0 || strcmp(f->name, "RebalanceTimeoutMs") == 0;
                bool many = strcmp(f->name, "NumPartitions") == 0 || strcmp(f->name, "Count") == 0;

                if (wait)
                    v = 1;
                if (many)
                    v = rand_below(r, 5);
                for (int i = sizes[f->type] - 1; i >= 0; i--)
                    buf_put_u8(b, (uint8_t)(i >= 8 ? 0 : v >> (8 * i)));
            }
        }
    }
    if (flexible)
        buf_put_u8(b, 0);
}

Test(front, random_but_well_formed_requests_are_answered_in_form, .timeout = 120)
{
    struct rand r;

    rand_seed(&r, 42);
    begin();
    for (unsigned round = 0; round < 12; round++)
        for (unsigned i = 0; i < kafka_api_count; i++)
            for (int version = kafka_apis[i].first; version <= kafka_apis[i].last; version++) {
                const struct kafka_api *api = &kafka_apis[i];

                if (api->key == KAFKA_API_JOIN_GROUP || api->key == KAFKA_API_SYNC_GROUP)
                    continue; /* they may wait for others: tested below */
                client_begin(&c, &out, NULL, api->key, version);
                random_fields(api->request->fields, version, kafka_is_flexible(api->request, version), &r,
                              &out);
                client_send(&c, &out);
                client_read(&c, api->key, version);
            }
    end();
}

/* ---- produce ------------------------------------------------------------------------------------------ */

Test(front, batches_are_produced_and_fetched_in_every_version)
{
    int64_t base, want = 0;

    begin();
    cr_assert_eq(touch_topic("t"), 4);
    for (int version = 3; version <= 11; version++) {
        cr_assert_eq(produce(version, version % 2 == 0 ? 1 : -1, "t", 1, make_batch(2, -1, -1, 100), &base),
                     0, "version %d", version);
        cr_assert_eq(base, want);
        want += 2;
    }
    for (int version = 4; version <= 12; version++) {
        struct fetched f;

        put_fetch(version, 100, 1, 0, -1, "t", NULL, &(struct wanted){1, 0}, 1);
        f = read_fetched(version);
        cr_assert_eq(f.last_code, 0);
        cr_assert_eq(f.high_watermark, want);
        cr_assert_gt(f.bytes, 9 * 200);
    }
    end();
}

Test(front, old_message_sets_are_refused_by_name)
{
    int64_t base;

    begin();
    touch_topic("t");
    for (int version = 0; version <= 2; version++)
        cr_assert_eq(produce(version, 1, "t", 0, S("an old message set of whatever form"), &base),
                     KAFKA_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT);
    cr_assert_eq(base, -1);
    end();
}

Test(front, repeats_and_gaps_of_a_producer)
{
    int64_t base, id;

    begin();
    touch_topic("t");
    request(KAFKA_API_INIT_PRODUCER_ID, 4);
    kout_str(&o, "TransactionalId", NULL);
    kout_i32(&o, "TransactionTimeoutMs", 60000);
    kout_i64(&o, "ProducerId", -1);
    kout_i16(&o, "ProducerEpoch", -1);
    kout_bool(&o, "Enable2Pc", false);
    kout_bool(&o, "KeepPreparedTxn", false);
    kout_end(&o);
    exchange(KAFKA_API_INIT_PRODUCER_ID, 4);
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
    id = kin_i64(&c.in, "ProducerId", -1);
    cr_assert_geq(id, 0);
    cr_assert_eq(produce(8, -1, "t", 0, make_batch(3, id, 0, 10), &base), 0);
    cr_assert_eq(produce(8, -1, "t", 0, make_batch(3, id, 3, 10), &base), 0);
    cr_assert_eq(base, 3);
    cr_assert_eq(produce(8, -1, "t", 0, make_batch(3, id, 0, 10), &base), 0);
    cr_assert_eq(base, 0, "the first one's offset");
    cr_assert_eq(produce(8, -1, "t", 0, make_batch(3, id, 9, 10), &base),
                 KAFKA_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    cr_assert_eq(base, -1);
    end();
}

/* What DescribeProducers says of one partition: its code; with a producer, that is left to be read. */
static int16_t describe_producers(const char *topic, int32_t index, int64_t *ret_count)
{
    int16_t code;

    request(KAFKA_API_DESCRIBE_PRODUCERS, 0);
    kout_array(&o, "Topics");
    kout_item(&o);
    kout_str(&o, "Name", topic);
    kout_list(&o, "PartitionIndexes");
    kout_elem_i32(&o, index);
    kout_list_end(&o);
    kout_array_end(&o);
    kout_end(&o);
    exchange(KAFKA_API_DESCRIBE_PRODUCERS, 0);
    cr_assert_eq(kin_array(&c.in, "Topics"), 1);
    cr_assert(kin_item(&c.in));
    cr_assert_eq(kin_array(&c.in, "Partitions"), 1);
    cr_assert(kin_item(&c.in));
    cr_assert_eq(kin_i32(&c.in, "PartitionIndex", -1), index);
    code = kin_i16(&c.in, "ErrorCode", -1);
    *ret_count = kin_array(&c.in, "ActiveProducers");
    return code;
}

Test(front, producers_of_a_partition_are_described_also_after_a_restart)
{
    int64_t base, count, last;
    char dir[sizeof(n.dir)];
    struct batch_header h;
    struct slice b;

    begin();
    touch_topic("t");
    cr_assert_eq(describe_producers("t", 0, &count), 0);
    cr_assert_eq(count, 0);
    cr_assert_eq(produce(8, -1, "t", 0, make_batch(3, 77, 0, 10), &base), 0);
    cr_assert_eq(produce(8, -1, "t", 0, make_batch(1, -1, -1, 10), &base), 0);
    b = make_batch(4, 77, 3, 10);
    cr_assert_eq(batch_header_read(b.data, b.len, &h), 0);
    last = h.max_timestamp;
    cr_assert_eq(produce(8, -1, "t", 0, b, &base), 0);
    for (int round = 0; round < 2; round++) {
        cr_assert_eq(describe_producers("t", 0, &count), 0);
        cr_assert_eq(count, 1, "a batch without a producer is nobody's");
        cr_assert(kin_item(&c.in));
        cr_assert_eq(kin_i64(&c.in, "ProducerId", -1), 77);
        cr_assert_eq(kin_i32(&c.in, "ProducerEpoch", -1), 0);
        cr_assert_eq(kin_i32(&c.in, "LastSequence", -1), 6);
        cr_assert_eq(kin_i64(&c.in, "LastTimestamp", -1), last);
        cr_assert_eq(kin_i32(&c.in, "CoordinatorEpoch", 0), -1);
        cr_assert_eq(kin_i64(&c.in, "CurrentTxnStartOffset", 0), -1);
        client_close(&c);
        snprintf(dir, sizeof(dir), "%s", n.dir);
        node_stop(&n);
        node_start(&n, dir, 0);
        client_open(&c, &n);
    }
    cr_assert_eq(describe_producers("t", 1000, &count), KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION);
    cr_assert_eq(describe_producers("t", -1, &count), KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION);
    cr_assert_eq(describe_producers("absent", 0, &count), KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION);
    cr_assert_eq(count, 0);
    end();
}

Test(front, acks_0_is_not_answered_and_an_error_ends_the_connection)
{
    int64_t base;

    begin();
    touch_topic("t");
    begin_produce(7, 0, "t", 0, make_batch(1, -1, -1, 10));
    client_send(&c, &out);
    cr_assert_eq(produce(7, 1, "t", 0, make_batch(1, -1, -1, 10), &base), 0,
                 "the next answer is that of the next request");
    cr_assert_eq(base, 1);
    begin_produce(7, 0, "t", 77, make_batch(1, -1, -1, 10));
    client_send(&c, &out);
    cr_assert_not(client_read_raw(&c));
    end();
}

Test(front, pipelined_requests_are_answered_in_order)
{
    begin();
    touch_topic("t");
    for (int i = 0; i < 20;
         i++) { /* every level at once: those that wait for the disk hold back the others */
        begin_produce(7, i % 3 == 0 ? -1 : 1, "t", i % 4, make_batch(1, -1, -1, 1000));
        client_send(&c, &out);
    }
    c.next -= 20;
    for (int i = 0; i < 20; i++) {
        int64_t base;

        c.next++;
        cr_assert_eq(read_produced(&c, 7, &base), 0);
        cr_assert_eq(base, i / 4);
    }
    end();
}

Test(front, a_batch_too_large_is_refused_and_the_connection_goes_on)
{
    int64_t base;

    begin();
    cr_assert_eq(create_topic("small", 1, "max.message.bytes", "1000"), 0);
    cr_assert_eq(produce(7, 1, "small", 0, make_batch(1, -1, -1, 2000), &base), KAFKA_ERR_MESSAGE_TOO_LARGE);
    cr_assert_eq(produce(7, 1, "small", 0, make_batch(1, -1, -1, 500), &base), 0);
    end();
}

Test(front, append_time_is_told)
{
    int64_t base, stamp;

    begin();
    cr_assert_eq(create_topic("stamped", 1, "message.timestamp.type", "LogAppendTime"), 0);
    cr_assert_eq(produce(7, 1, "stamped", 0, make_batch(1, -1, -1, 10), &base), 0);
    stamp = kin_i64(&c.in, "LogAppendTimeMs", -1);
    cr_assert_leq(llabs(stamp - clock_wall_ms()), 5000);
    end();
}

/* ---- fetch -------------------------------------------------------------------------------------------- */

Test(front, a_fetch_waits_and_is_woken)
{
    struct client producer;
    struct fetched f;
    uint64_t began;
    int64_t base;

    begin();
    touch_topic("t");
    began = clock_mono_us();
    put_fetch(11, 300, 1, 0, -1, "t", NULL, &(struct wanted){0, 0}, 1);
    f = read_fetched(11);
    cr_assert_eq(f.bytes, 0);
    cr_assert_geq(clock_mono_us() - began, 280000);
    put_fetch(11, 10000, 1, 0, -1, "t", NULL, (struct wanted[]){{0, 0}, {1, 0}, {2, 0}}, 3);
    client_open(&producer, &n);
    producer.next = 100;
    {
        struct client consumer = c;

        c = producer;
        usleep(100000);
        began = clock_mono_us();
        cr_assert_eq(produce(7, 1, "t", 2, make_batch(1, -1, -1, 10), &base), 0);
        producer = c;
        c = consumer;
    }
    f = read_fetched(11);
    cr_assert_gt(f.bytes, 0);
    cr_assert_lt(clock_mono_us() - began, 2000000);
    client_close(&producer);
    end();
}

Test(front, a_client_that_leaves_while_it_waits)
{
    begin();
    touch_topic("t");
    for (int i = 0; i < 50; i++) {
        struct client gone;
        int64_t base;

        client_open(&gone, &n);
        {
            struct client mine = c;

            c = gone;
            put_fetch(11, 60000, 1, 0, i % 2 == 0 ? -1 : 0, "t", NULL,
                      (struct wanted[]){{0, i}, {1, 0}, {2, 0}}, 3);
            gone = c;
            c = mine;
        }
        if (i % 3 == 0)
            usleep(2000);
        client_close(&gone);
        cr_assert_eq(produce(7, 1, "t", 0, make_batch(1, -1, -1, 10), &base), 0);
    }
    end();
}

Test(front, offsets_outside_of_the_log_are_told)
{
    struct fetched f;

    begin();
    touch_topic("t");
    put_fetch(11, 5000, 1, 0, -1, "t", NULL, &(struct wanted){0, 5}, 1);
    f = read_fetched(11);
    cr_assert_eq(f.last_code, KAFKA_ERR_OFFSET_OUT_OF_RANGE);
    put_fetch(11, 5000, 1, 0, -1, "t", NULL, &(struct wanted){99, 0}, 1);
    f = read_fetched(11);
    cr_assert_eq(f.last_code, KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION);
    end();
}

Test(front, sessions_tell_what_is_new)
{
    struct wanted all[] = {{0, 0}, {1, 0}, {2, 0}, {3, 0}};
    struct fetched f;
    int32_t id;
    int64_t base;

    begin();
    touch_topic("t");
    put_fetch(11, 0, 1, 0, 0, "t", NULL, all, 4);
    f = read_fetched(11);
    cr_assert_eq(f.code, 0);
    cr_assert_neq(f.session, 0);
    cr_assert_eq(f.partitions, 4, "a full answer");
    id = f.session;
    put_fetch(11, 50, 1, id, 1, NULL, NULL, NULL, 0);
    f = read_fetched(11);
    cr_assert_eq(f.session, id);
    cr_assert_eq(f.partitions, 0, "nothing changed");
    cr_assert_eq(produce(7, 1, "t", 2, make_batch(1, -1, -1, 10), &base), 0);
    put_fetch(11, 5000, 1, id, 2, NULL, NULL, NULL, 0);
    f = read_fetched(11);
    cr_assert_eq(f.partitions, 1);
    cr_assert_gt(f.bytes, 0);
    put_fetch(11, 5000, 1, id, 3, NULL, NULL, NULL, 0);
    f = read_fetched(11);
    cr_assert_gt(f.bytes, 0, "it was not moved on: the records come again");
    put_fetch(11, 50, 1, id, 4, "t", NULL, &(struct wanted){2, 1}, 1);
    f = read_fetched(11);
    cr_assert_eq(f.bytes, 0);
    put_fetch(11, 50, 1, id, 4, NULL, NULL, NULL, 0);
    f = read_fetched(11);
    cr_assert_eq(f.code, KAFKA_ERR_INVALID_FETCH_SESSION_EPOCH);
    put_fetch(11, 50, 1, id + 1, 5, NULL, NULL, NULL, 0);
    f = read_fetched(11);
    cr_assert_eq(f.code, KAFKA_ERR_FETCH_SESSION_ID_NOT_FOUND);
    put_fetch(11, 50, 1, id, -1, "t", NULL, all, 4);
    f = read_fetched(11);
    cr_assert_eq(f.partitions, 4);
    cr_assert_eq(f.session, 0, "closed");
    put_fetch(11, 50, 1, id, 6, NULL, NULL, NULL, 0);
    f = read_fetched(11);
    cr_assert_eq(f.code, KAFKA_ERR_FETCH_SESSION_ID_NOT_FOUND);
    end();
}

Test(front, a_deleted_topic_ends_its_fetches_and_begins_empty_when_made_anew)
{
    struct client waiting;
    struct fetched f;
    int64_t base;

    begin();
    touch_topic("t");
    cr_assert_eq(produce(7, 1, "t", 0, make_batch(5, -1, -1, 10), &base), 0);
    client_open(&waiting, &n);
    {
        struct client mine = c;

        c = waiting;
        put_fetch(11, 10000, 1, 0, -1, "t", NULL, &(struct wanted){0, 5}, 1);
        usleep(100000);
        waiting = c;
        c = mine;
    }
    cr_assert_eq(delete_topic("t"), 0);
    {
        struct client mine = c;

        c = waiting;
        f = read_fetched(11);
        cr_assert_eq(f.last_code, KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION);
        client_close(&c);
        c = mine;
    }
    cr_assert_eq(delete_topic("t"), KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION);
    cr_assert_eq(create_topic("t", 1, NULL, NULL), 0);
    for (int i = 0; i < 100; i++) { /* the former directory may still be on its way out */
        int16_t code = produce(7, 1, "t", 0, make_batch(1, -1, -1, 10), &base);

        if (code == 0)
            break;
        cr_assert_eq(code, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
        usleep(10000);
    }
    cr_assert_eq(base, 0);
    end();
}

/* ---- groups ------------------------------------------------------------------------------------------- */

static void put_join(const char *group, const char *member)
{
    request(KAFKA_API_JOIN_GROUP, 5);
    kout_str(&o, "GroupId", group);
    kout_i32(&o, "SessionTimeoutMs", 30000);
    kout_i32(&o, "RebalanceTimeoutMs", 30000);
    kout_str(&o, "MemberId", member);
    kout_str(&o, "GroupInstanceId", NULL);
    kout_str(&o, "ProtocolType", "consumer");
    kout_array(&o, "Protocols");
    kout_item(&o);
    kout_str(&o, "Name", "range");
    kout_bytes(&o, "Metadata", S("m"));
    kout_array_end(&o);
    kout_str(&o, "Reason", NULL);
    kout_end(&o);
    client_send(&c, &out);
}

/* Joins alone and syncs; the member id into `member`. */
static int32_t enter_group(const char *group, char *member, size_t size)
{
    int32_t generation;
    struct slice id;

    put_join(group, "");
    client_read(&c, KAFKA_API_JOIN_GROUP, 5);
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), KAFKA_ERR_MEMBER_ID_REQUIRED);
    id = kin_string(&c.in, "MemberId");
    snprintf(member, size, "%.*s", (int)id.len, (const char *)id.data);
    put_join(group, member);
    client_read(&c, KAFKA_API_JOIN_GROUP, 5);
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
    generation = kin_i32(&c.in, "GenerationId", -1);
    cr_assert(slice_eq(kin_string(&c.in, "Leader"), S(member)));
    request(KAFKA_API_SYNC_GROUP, 3);
    kout_str(&o, "GroupId", group);
    kout_i32(&o, "GenerationId", generation);
    kout_str(&o, "MemberId", member);
    kout_str(&o, "GroupInstanceId", NULL);
    kout_str(&o, "ProtocolType", NULL);
    kout_str(&o, "ProtocolName", NULL);
    kout_array(&o, "Assignments");
    kout_item(&o);
    kout_str(&o, "MemberId", member);
    kout_bytes(&o, "Assignment", S("mine"));
    kout_array_end(&o);
    kout_end(&o);
    exchange(KAFKA_API_SYNC_GROUP, 3);
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
    cr_assert(slice_eq(kin_bytes(&c.in, "Assignment"), S("mine")));
    return generation;
}

static int16_t heartbeat(const char *group, const char *member, int32_t generation)
{
    request(KAFKA_API_HEARTBEAT, 3);
    kout_str(&o, "GroupId", group);
    kout_i32(&o, "GenerationId", generation);
    kout_str(&o, "MemberId", member);
    kout_str(&o, "GroupInstanceId", NULL);
    kout_end(&o);
    exchange(KAFKA_API_HEARTBEAT, 3);
    return kin_i16(&c.in, "ErrorCode", -1);
}

static int16_t commit(const char *group, const char *member, int32_t generation, const char *topic,
                      int32_t index, int64_t offset)
{
    request(KAFKA_API_OFFSET_COMMIT, 7);
    kout_str(&o, "GroupId", group);
    kout_i32(&o, "GenerationIdOrMemberEpoch", generation);
    kout_str(&o, "MemberId", member);
    kout_str(&o, "GroupInstanceId", NULL);
    kout_i64(&o, "RetentionTimeMs", -1);
    kout_array(&o, "Topics");
    kout_item(&o);
    kout_str(&o, "Name", topic);
    kout_uuid(&o, "TopicId", NULL);
    kout_array(&o, "Partitions");
    kout_item(&o);
    kout_i32(&o, "PartitionIndex", index);
    kout_i64(&o, "CommittedOffset", offset);
    kout_i32(&o, "CommittedLeaderEpoch", 0);
    kout_str(&o, "CommittedMetadata", "a note");
    kout_array_end(&o);
    kout_array_end(&o);
    kout_end(&o);
    exchange(KAFKA_API_OFFSET_COMMIT, 7);
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    (void)kin_array(&c.in, "Partitions");
    cr_assert(kin_item(&c.in));
    return kin_i16(&c.in, "ErrorCode", -1);
}

/* All offsets of the group: the number, and the first one. */
static unsigned committed(const char *group, int64_t *ret_offset, struct slice *ret_metadata)
{
    unsigned found = 0;

    request(KAFKA_API_OFFSET_FETCH, 5);
    kout_str(&o, "GroupId", group);
    kout_array_null(&o, "Topics");
    kout_array(&o, "Groups");
    kout_array_end(&o);
    kout_bool(&o, "RequireStable", false);
    kout_end(&o);
    exchange(KAFKA_API_OFFSET_FETCH, 5);
    (void)kin_array(&c.in, "Topics");
    while (kin_item(&c.in)) {
        (void)kin_array(&c.in, "Partitions");
        while (kin_item(&c.in)) {
            int64_t offset = kin_i64(&c.in, "CommittedOffset", -2);
            struct slice metadata = kin_string(&c.in, "Metadata");

            if (found++ == 0) {
                *ret_offset = offset;
                *ret_metadata = metadata;
            }
        }
    }
    return found;
}

Test(front, a_group_survives_a_restart_with_its_offsets)
{
    char member[128];
    struct slice metadata;
    int32_t generation;
    int64_t offset;

    begin();
    touch_topic("t");
    generation = enter_group("g", member, sizeof(member));
    cr_assert_eq(heartbeat("g", member, generation), 0);
    cr_assert_eq(commit("g", member, generation, "t", 3, 4711), 0);
    cr_assert_eq(commit("g", member, generation, "t", 9, 1), KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION);
    cr_assert_eq(commit("g", "other", generation, "t", 3, 1), KAFKA_ERR_UNKNOWN_MEMBER_ID);
    cr_assert_eq(commit("g", member, generation + 1, "t", 3, 1), KAFKA_ERR_ILLEGAL_GENERATION);
    cr_assert_eq(commit("g", "", -1, "t", 3, 1), KAFKA_ERR_UNKNOWN_MEMBER_ID);
    client_close(&c);
    node_stop(&n);
    node_start(&n, n.dir, 0);
    client_open(&c, &n);
    cr_assert_eq(heartbeat("g", member, generation), 0, "the member goes on as if nothing had been");
    cr_assert_eq(committed("g", &offset, &metadata), 1);
    cr_assert_eq(offset, 4711);
    cr_assert(slice_eq(metadata, S("a note")));
    cr_assert_eq(commit("g", member, generation, "t", 3, 5000), 0);
    end();
}

Test(front, offsets_of_a_deleted_topic_do_not_come_back)
{
    struct slice metadata;
    int64_t offset;

    begin();
    touch_topic("t");
    cr_assert_eq(commit("simple", "", -1, "t", 0, 7), 0, "a consumer that only keeps its offsets here");
    cr_assert_eq(committed("simple", &offset, &metadata), 1);
    cr_assert_eq(delete_topic("t"), 0);
    touch_topic("t");
    cr_assert_eq(committed("simple", &offset, &metadata), 0);
    end();
}

Test(front, a_second_member_waits_for_the_first)
{
    struct client other;
    char member[128], second[128];
    int32_t generation;
    struct slice id;

    begin();
    generation = enter_group("g", member, sizeof(member));
    client_open(&other, &n);
    {
        struct client mine = c;

        c = other;
        put_join("g", "");
        client_read(&c, KAFKA_API_JOIN_GROUP, 5);
        id = kin_string(&c.in, "MemberId");
        snprintf(second, sizeof(second), "%.*s", (int)id.len, (const char *)id.data);
        put_join("g", second);
        usleep(100000);
        other = c;
        c = mine;
    }
    cr_assert_eq(heartbeat("g", member, generation), KAFKA_ERR_REBALANCE_IN_PROGRESS);
    put_join("g", member);
    client_read(&c, KAFKA_API_JOIN_GROUP, 5);
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
    cr_assert_eq(kin_i32(&c.in, "GenerationId", -1), generation + 1);
    cr_assert_eq(kin_array(&c.in, "Members"), 2, "the leader is told of both");
    {
        struct client mine = c;

        c = other;
        client_read(&c, KAFKA_API_JOIN_GROUP, 5);
        cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
        cr_assert_eq(kin_i32(&c.in, "GenerationId", -1), generation + 1);
        cr_assert_eq(kin_array(&c.in, "Members"), 0);
        client_close(&c);
        c = mine;
    }
    end();
}

Test(front, a_member_that_leaves_while_it_waits_and_one_that_waits_at_the_end)
{
    struct client gone, mine;
    char member[128], second[128];
    struct slice id;

    begin();
    enter_group("g", member, sizeof(member));
    for (int i = 0; i < 2; i++) {
        client_open(&gone, &n);
        mine = c;
        c = gone;
        put_join("g", "");
        client_read(&c, KAFKA_API_JOIN_GROUP, 5);
        id = kin_string(&c.in, "MemberId");
        snprintf(second, sizeof(second), "%.*s", (int)id.len, (const char *)id.data);
        put_join("g", second);
        usleep(50000);
        client_close(&c);
        c = mine;
    }
    cr_assert_eq(heartbeat("g", member, 1), KAFKA_ERR_REBALANCE_IN_PROGRESS);
    end(); /* the two joins are never answered */
}

/* ---- bad input ---------------------------------------------------------------------------------------- */

static void expect_text(const char *sent, const char *want)
{
    char text[256] = {0};
    struct client x;
    size_t got = 0;
    ssize_t k;

    client_open(&x, &n);
    client_send_raw(&x, sent, strlen(sent));
    while (got < sizeof(text) - 1 && (k = recv(x.fd, text + got, sizeof(text) - 1 - got, 0)) > 0)
        got += (size_t)k;
    cr_assert_not_null(strstr(text, want), "to \"%s\" it says \"%s\"", sent, text);
    client_close(&x);
}

Test(front, other_protocols_are_told_where_they_are)
{
    begin();
    expect_text("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "Kafka port");
    expect_text("*1\r\n$4\r\nPING\r\n", "-ERR this is GoMsg's Kafka port");
    expect_text("AMQP\0\0\x09\x01", "Kafka port");
    end();
}

static void expect_closed(const void *data, size_t len)
{
    struct client x;
    char byte;

    client_open(&x, &n);
    client_send_raw(&x, data, len);
    cr_assert_leq(recv(x.fd, &byte, 1, 0), 0);
    client_close(&x);
}

Test(front, bad_frames_cost_their_connection_and_no_more)
{
    static const uint8_t negative[] = {0xff, 0xff, 0xff, 0xff}, huge[] = {0x7f, 0xff, 0xff, 0xff},
                         tiny[] = {0, 0, 0, 1, 0},
                         unknown[] = {0, 0, 0, 10, 3, 0xe7, 0, 0, 0, 0, 0, 1, 0xff, 0xff},
                         newer[] = {0, 0, 0, 10, 0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff},
                         name[] = {0, 0, 0, 10, 0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff},
                         count[] = {0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff};

    begin();
    expect_closed(negative, sizeof(negative));
    expect_closed(huge, sizeof(huge));
    expect_closed(tiny, sizeof(tiny));
    expect_closed(unknown, sizeof(unknown));
    expect_closed(newer, sizeof(newer));
    expect_closed(name, sizeof(name));
    expect_closed(count, sizeof(count));
    cr_assert_eq(touch_topic("alive"), 4);
    end();
}

Test(front, an_unknown_version_of_api_versions_is_told_the_known_ones)
{
    begin();
    client_begin(&c, &out, NULL, KAFKA_API_API_VERSIONS, 77);
    client_send(&c, &out);
    client_read(&c, KAFKA_API_API_VERSIONS, 0);
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), KAFKA_ERR_UNSUPPORTED_VERSION);
    cr_assert_eq(kin_array(&c.in, "ApiKeys"), 1);
    cr_assert_eq(touch_topic("t"), 4);
    end();
}

/* A gigabyte announced in a request of a megabyte takes no memory beyond what arrives. */
Test(front, announced_sizes_are_not_believed)
{
    size_t before;
    uint8_t head[4];
    struct client x[20];

    begin();
    touch_topic("t");
    before = mem_rss();
    be32_put(head, 90u << 20);
    for (int i = 0; i < 20; i++) {
        client_open(&x[i], &n);
        client_send_raw(&x[i], head, 4);
    }
    usleep(200000);
    cr_assert_lt(mem_rss(), before + (20u << 20));
    for (int i = 0; i < 20; i++)
        client_close(&x[i]);
    end();
}

Test(front, names_and_settings_are_checked)
{
    begin();
    cr_assert_eq(create_topic("bad name", 1, NULL, NULL), KAFKA_ERR_INVALID_TOPIC_EXCEPTION);
    cr_assert_eq(create_topic("__consumer_offsets", 1, NULL, NULL), KAFKA_ERR_INVALID_TOPIC_EXCEPTION);
    cr_assert_eq(create_topic("t", 0, NULL, NULL), KAFKA_ERR_INVALID_PARTITIONS);
    cr_assert_eq(create_topic("t", 1, "no.such.thing", "1"), KAFKA_ERR_INVALID_CONFIG);
    cr_assert_eq(create_topic("t", 1, "retention.ms", "soon"), KAFKA_ERR_INVALID_CONFIG);
    cr_assert_eq(create_topic("t", 1, "cleanup.policy", "compact"), KAFKA_ERR_INVALID_CONFIG,
                 "it would promise what is not done");
    cr_assert_eq(create_topic("t", 1, "retention.ms", "1000"), 0);
    cr_assert_eq(create_topic("t", 1, NULL, NULL), KAFKA_ERR_TOPIC_ALREADY_EXISTS);
    end();
}
