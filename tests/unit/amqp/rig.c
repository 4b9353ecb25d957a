#include "rig.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "cluster/topology/commands.h"
#include "io/listener.h"
#include "protocols/amqp/amqp.h"
#include "queue/queue.h"

struct rig {
    char *dir;
    bool temporary;
    struct workers *workers;
    struct topology_store *topology;
    struct log_store *logs;
    struct partitions *partitions;
    struct amqp_front *front;
    struct listener *listener;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool recovered;
    const char *address;
    pthread_t disturber;
    unsigned disturb_us; /* 0: calm; atomic */
};

static void changed(void *arg, const struct topology_change *c)
{
    struct rig *r = arg;
    struct partition_guard g;

    if (c->kind != TOPO_QUEUE_DELETED || r->partitions == NULL)
        return;
    partition_enter_background(partitions_get(r->partitions, c->partition), 0, &g);
    queue_delete(partition_queues(g.p), c->id);
    partition_leave(&g);
}

static void proposal_done(struct topology_proposal *p)
{
    buf_fini(&p->command);
    mem_free(p);
}

static void queue_ended(void *arg, uint64_t queue_id, uint32_t partition)
{
    struct rig *r = arg;
    struct topology_proposal *p = mem_zalloc(sizeof(*p));

    (void)partition;
    p->done = proposal_done;
    topo_cmd_queue_delete(&p->command, queue_id);
    topology_propose(r->topology, p);
}

static void recovered(void *arg)
{
    struct rig *r = arg;

    pthread_mutex_lock(&r->lock);
    r->recovered = true;
    pthread_cond_signal(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

static void progress(void *arg, uint32_t done, uint32_t total, uint64_t bytes)
{
    (void)arg, (void)done, (void)total, (void)bytes;
}

/* Worker 0 accepts. */
static void open_listener(struct worker *w, void *arg)
{
    struct rig *r = arg;
    struct listener_options o = {.address = r->address, .ops = amqp_front_ops(r->front), .arg = r->front};

    if (worker_index(w) == 0)
        CHECK(listener_open(r->workers, &o, &r->listener) == 0);
}

static void close_listener(struct worker *w, void *arg)
{
    if (worker_index(w) == 0)
        listener_close(((struct rig *)arg)->listener);
}

struct rig *rig_start(const struct rig_options *options)
{
    struct rig *r = mem_zalloc(sizeof(*r));
    struct workers_options wo = {.count = options->workers == 0 ? 2 : options->workers,
                                 .coalesce_us = options->coalesce_us};
    char dir[] = "/tmp/gomsg-amqp-XXXXXX", why[256] = "", address[64];
    struct log_store_options lo = {.sync_interval_ms =
                                       options->sync_interval_ms == 0 ? 10 : options->sync_interval_ms};
    struct partitions_options po = {.count = 8, .queue_ended = queue_ended, .queue_ended_arg = r};
    struct topology_options to = {
        .node_name = "test", .total_partitions = 8, .changed = changed, .changed_arg = r};
    struct amqp_front_options ao = {.limits = {.heartbeat_s = 60, .max_message_bytes = options->max_message_bytes}};

    r->temporary = options->data_dir == NULL;
    r->dir = mem_strdup(r->temporary ? mkdtemp(dir) : options->data_dir);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->cond, NULL);
    CHECK(workers_new(&wo, &r->workers) == 0);
    to.data_dir = lo.data_dir = po.data_dir = r->dir;
    to.workers = po.workers = ao.workers = r->workers;
    CHECK(topology_open(&to, why, sizeof(why), &r->topology) == 0);
    topology_cluster_id(r->topology, lo.cluster_id);
    memcpy(po.cluster_id, lo.cluster_id, 16);
    CHECK(log_store_open(&lo, r->workers, &r->logs) == 0);
    po.store = r->logs;
    CHECK(partitions_new(&po, &r->partitions) == 0);
    ao.partitions = r->partitions;
    ao.topology = r->topology;
    ao.store = r->logs;
    CHECK(amqp_front_new(&ao, &r->front) == 0);
    CHECK(workers_start(r->workers) == 0);
    partitions_recover(r->partitions, progress, recovered, r);
    pthread_mutex_lock(&r->lock);
    while (!r->recovered)
        pthread_cond_wait(&r->cond, &r->lock);
    pthread_mutex_unlock(&r->lock);
    CHECK(topology_start(r->topology) == 0);
    snprintf(address, sizeof(address), "127.0.0.1:%u", options->port);
    r->address = address;
    workers_run_each(r->workers, open_listener, r);
    return r;
}

uint16_t rig_port(const struct rig *r)
{
    return listener_port(r->listener);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

void rig_stop(struct rig *r)
{
    workers_run_each(r->workers, close_listener, r);
    workers_stop(r->workers);
    topology_close(r->topology);
    amqp_front_free(r->front);
    partitions_free(r->partitions);
    log_store_close(r->logs);
    workers_free(r->workers);
    if (r->temporary)
        nftw(r->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    mem_free(r->dir);
    mem_free(r);
}

static void *disturb(void *arg)
{
    struct rig *r = arg;
    unsigned us;

    for (uint32_t i = 0; (us = __atomic_load_n(&r->disturb_us, __ATOMIC_RELAXED)) != 0; i++) {
        struct partition_guard g;

        partition_enter_background(partitions_get(r->partitions, i % 8), 0, &g);
        usleep(us);
        partition_leave(&g);
        usleep(50);
    }
    return NULL;
}

void rig_disturb(struct rig *r, unsigned us)
{
    r->disturb_us = us;
    CHECK(pthread_create(&r->disturber, NULL, disturb, r) == 0);
}

uint64_t rig_parked(const struct rig *r)
{
    struct partition_info info;
    uint64_t sum = 0;

    for (uint32_t i = 0; i < 8; i++) {
        partition_info(partitions_get(r->partitions, i), &info);
        sum += info.parked_total;
    }
    return sum;
}

void rig_calm(struct rig *r)
{
    __atomic_store_n(&r->disturb_us, 0, __ATOMIC_RELAXED);
    pthread_join(r->disturber, NULL);
}

/* ---- the client ---------------------------------------------------------------------------------------- */

void client_connect(struct client *c, uint16_t port)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    cr_assert_eq(connect(c->fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
}

void client_close(struct client *c)
{
    close(c->fd);
    buf_fini(&c->in);
    buf_fini(&c->out);
    buf_fini(&c->held);
}

void client_flush(struct client *c)
{
    size_t at = 0;

    while (at < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + at, c->out.len - at, MSG_NOSIGNAL);

        if (n <= 0)
            break;
        at += (size_t)n;
    }
    buf_clear(&c->out);
}

bool client_readable(struct client *c, int ms)
{
    struct pollfd p = {c->fd, POLLIN, 0};

    return c->in.len != 0 || poll(&p, 1, ms) == 1;
}

struct frame client_read(struct client *c)
{
    client_flush(c);
    for (;;) {
        struct amqp_frame f;
        ssize_t n = amqp_frame_read(buf_slice(&c->in), 0, &f);

        cr_assert_geq(n, 0, "a broken frame");
        if (n > 0) {
            struct frame got = {.type = f.type, .channel = f.channel};

            buf_clear(&c->held);
            buf_put_slice(&c->held, f.payload);
            buf_consume(&c->in, (size_t)n);
            got.payload = buf_slice(&c->held);
            if (f.type == AMQP_FRAME_HEARTBEAT)
                continue;
            if (f.type == AMQP_FRAME_METHOD) {
                got.id = be32_get(got.payload.data);
                got.payload = slice_of(got.payload.data + 4, got.payload.len - 4);
            }
            return got;
        }
        struct pollfd p = {c->fd, POLLIN, 0};

        cr_assert_eq(poll(&p, 1, 5000), 1, "nothing came for 5 s");
        n = recv(c->fd, buf_reserve(&c->in, 65536), 65536, 0);
        if (n <= 0)
            return (struct frame){0};
        buf_advance(&c->in, (size_t)n);
    }
}

struct frame client_expect(struct client *c, uint16_t channel, uint32_t id)
{
    struct frame f = client_read(c);

    if (f.type == AMQP_FRAME_METHOD && f.id != id &&
        (f.id == AMQP_ID_channel_close || f.id == AMQP_ID_connection_close)) {
        struct amqp_channel_close m;

        cr_assert_eq(amqp_get_channel_close(f.payload, &m), 0);
        cr_assert_fail("expected %s, got %u %.*s", amqp_method_find(id)->name, m.reply_code,
                       (int)m.reply_text.len, (const char *)m.reply_text.data);
    }
    cr_assert_eq(f.type, AMQP_FRAME_METHOD, "expected %s, got a frame of type %u", amqp_method_find(id)->name,
                 f.type);
    cr_assert_eq(f.id, id, "expected %s, got %s", amqp_method_find(id)->name, amqp_method_find(f.id)->name);
    cr_assert_eq(f.channel, channel);
    return f;
}

void client_expect_error(struct client *c, unsigned code, const char *text)
{
    struct frame f = client_read(c);
    struct amqp_channel_close m;

    cr_assert_eq(f.type, AMQP_FRAME_METHOD);
    cr_assert_eq(
        f.id, amqp_reply_is_hard(code) ? (uint32_t)AMQP_ID_connection_close : (uint32_t)AMQP_ID_channel_close,
        "expected %u %s, got %s", code, text, amqp_method_find(f.id)->name);
    cr_assert_eq(amqp_get_channel_close(f.payload, &m), 0);
    cr_assert_eq(m.reply_code, code, "%u %.*s", m.reply_code, (int)m.reply_text.len,
                 (const char *)m.reply_text.data);
    cr_assert(slice_eq(m.reply_text, slice_str(text)), "%.*s, not %s", (int)m.reply_text.len,
              (const char *)m.reply_text.data, text);
    if (amqp_reply_is_hard(code)) {
        amqp_put_connection_close_ok(&c->out, 0, &(struct amqp_connection_close_ok){});
        client_flush(c);
        cr_assert_eq(client_read(c).type, 0, "the connection ends");
    } else {
        amqp_put_channel_close_ok(&c->out, f.channel, &(struct amqp_channel_close_ok){});
        client_open_channel(c, f.channel);
    }
}

void client_open_channel(struct client *c, uint16_t channel)
{
    amqp_put_channel_open(&c->out, channel, &(struct amqp_channel_open){SLICE_NONE});
    client_expect(c, channel, AMQP_ID_channel_open_ok);
}

void client_login(struct client *c, uint16_t port)
{
    struct buf properties = {0}, capabilities = {0};

    client_connect(c, port);
    buf_put(&c->out, "AMQP\0\0\x09\x01", 8);
    client_expect(c, 0, AMQP_ID_connection_start);
    amqp_table_put_bool(&capabilities, "consumer_cancel_notify", true);
    amqp_table_put_bool(&capabilities, "authentication_failure_close", true);
    amqp_table_put_table(&properties, "capabilities", buf_slice(&capabilities));
    amqp_put_connection_start_ok(
        &c->out, 0,
        &(struct amqp_connection_start_ok){buf_slice(&properties), SLICE_LIT("PLAIN"),
                                           SLICE_LIT("\0guest\0guest"), SLICE_LIT("en_US")});
    client_expect(c, 0, AMQP_ID_connection_tune);
    amqp_put_connection_tune_ok(&c->out, 0, &(struct amqp_connection_tune_ok){2047, 131072, 60});
    amqp_put_connection_open(&c->out, 0, &(struct amqp_connection_open){.virtual_host = SLICE_LIT("/")});
    client_expect(c, 0, AMQP_ID_connection_open_ok);
    client_open_channel(c, 1);
    buf_fini(&properties);
    buf_fini(&capabilities);
}

void client_declare(struct client *c, uint16_t channel, const char *queue, bool durable)
{
    amqp_put_queue_declare(&c->out, channel,
                           &(struct amqp_queue_declare){.queue = slice_str(queue), .durable = durable});
    client_expect(c, channel, AMQP_ID_queue_declare_ok);
}

void client_publish(struct client *c, uint16_t channel, const char *exchange, const char *key,
                    const char *properties, size_t properties_len, struct slice body)
{
    amqp_put_basic_publish(
        &c->out, channel,
        &(struct amqp_basic_publish){.exchange = slice_str(exchange), .routing_key = slice_str(key)});
    amqp_put_content(&c->out, channel, 131072,
                     properties == NULL ? SLICE_LIT("\0\0") : slice_of(properties, properties_len), body);
}

uint64_t client_read_content(struct client *c, uint32_t id, struct buf *ret_body, bool *ret_redelivered)
{
    struct frame f = client_read(c);
    struct amqp_basic_deliver deliver = {0};
    struct amqp_basic_get_ok get = {0};
    struct slice properties;
    uint64_t size;
    uint16_t class_id;

    cr_assert_eq(f.id, id, "expected %s", amqp_method_find(id)->name);
    if (id == AMQP_ID_basic_deliver)
        cr_assert_eq(amqp_get_basic_deliver(f.payload, &deliver), 0);
    else if (id == AMQP_ID_basic_get_ok)
        cr_assert_eq(amqp_get_basic_get_ok(f.payload, &get), 0);
    *ret_redelivered = deliver.redelivered || get.redelivered;
    f = client_read(c);
    cr_assert_eq(f.type, AMQP_FRAME_CONTENT_HEADER);
    cr_assert_eq(amqp_content_header_read(f.payload, &class_id, &size, &properties), 0);
    buf_clear(ret_body);
    while (ret_body->len < size) {
        f = client_read(c);
        cr_assert_eq(f.type, AMQP_FRAME_BODY);
        buf_put_slice(ret_body, f.payload);
    }
    cr_assert_eq(ret_body->len, size);
    return id == AMQP_ID_basic_deliver ? deliver.delivery_tag : get.delivery_tag;
}
