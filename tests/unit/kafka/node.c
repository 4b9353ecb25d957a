#include "node.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/hash.h"
#include "base/mem.h"
#include "io/listener.h"
#include "metrics/metrics.h"

static void changed(void *arg, const struct topology_change *change)
{
    struct node *n = arg;

    for (uint32_t i = 0; change->kind == TOPO_TOPIC_DELETED && i < change->partitions; i++)
        stream_delete(n->streams,
                      &(struct stream_place){
                          .topic_id = change->id,
                          .topic = change->name,
                          .index = i,
                          .partition = placement_of_topic(change->name, i, partitions_count(n->partitions))});
}

static _Atomic int recovered;

static void recovery_done(void *arg)
{
    (void)arg;
    recovered = 1;
}

static void give_slot(struct worker *w, void *arg)
{
    (void)arg;
    metrics_thread_init(worker_index(w) + 1);
}

struct opening {
    struct node *n;
    const struct listener_options *lo;
};

static void open_front(struct worker *w, void *arg)
{
    struct opening *o = arg;

    if (worker_index(w) != 0)
        return;
    kafka_front_start(o->n->front);
    CHECK(listener_open(o->n->workers, o->lo, &o->n->listener) == 0);
}

static void close_front(struct worker *w, void *arg)
{
    struct node *n = arg;

    if (worker_index(w) == 0)
        listener_close(n->listener);
}

uint32_t node_farewell_ms;

void node_start(struct node *n, const char *dir, uint16_t port)
{
    struct workers_options wo = {.count = 2};
    struct log_store_options so = {
        .data_dir = dir, .fsync = LOG_FSYNC_INTERVAL, .sync_interval_ms = 1000, .segment_bytes = 1u << 20};
    struct topology_options to = {
        .data_dir = dir, .node_name = "test", .total_partitions = 8, .changed = changed, .changed_arg = n};
    struct partitions_options po = {.data_dir = dir, .snapshot_log_bytes = 64u << 20};
    struct stream_table_options sto = {.data_dir = dir};
    struct kafka_front_options fo = {.group_initial_rebalance_delay_ms = 0, .farewell_ms = node_farewell_ms};
    struct listener_options lo = {0};
    struct buf errors = {0};
    char why[256], address[64];
    uint8_t zeros[16] = {0};

    if (dir != n->dir)
        snprintf(n->dir, sizeof(n->dir), "%s", dir);
    hash_seed(zeros);
    clock_calibrate();
    CHECK(config_load(NULL, 0, NULL, &n->config, &errors) == 0);
    CHECK(workers_new(&wo, &n->workers) == 0);
    to.workers = po.workers = sto.workers = fo.workers = n->workers;
    CHECK(topology_open(&to, why, sizeof(why), &n->topology) == 0);
    topology_cluster_id(n->topology, so.cluster_id);
    topology_cluster_id(n->topology, po.cluster_id);
    CHECK(log_store_open(&so, n->workers, &n->logs) == 0);
    po.count = topology_pin(n->topology)->total_partitions;
    topology_unpin(n->topology);
    po.store = sto.store = fo.logs = n->logs;
    CHECK(partitions_new(&po, &n->partitions) == 0);
    n->streams = stream_table_new(&sto);
    CHECK(workers_start(n->workers) == 0);
    workers_run_each(n->workers, give_slot, NULL);
    CHECK(topology_start(n->topology) == 0);
    recovered = 0;
    partitions_recover(n->partitions, NULL, recovery_done, NULL);
    while (!recovered)
        usleep(1000);
    fo.config = n->config;
    fo.partitions = n->partitions;
    fo.streams = n->streams;
    fo.topology = n->topology;
    n->front = kafka_front_new(&fo);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    lo.address = address;
    lo.ops = kafka_front_ops(n->front);
    lo.arg = n->front;
    workers_run_each(n->workers, open_front, &(struct opening){n, &lo});
    n->port = listener_port(n->listener);
}

void node_stop(struct node *n)
{
    workers_run_each(n->workers, close_front, n);
    workers_stop(n->workers);
    topology_close(n->topology);
    stream_table_free(n->streams);
    partitions_free(n->partitions);
    kafka_front_free(n->front);
    n->front = NULL;
    log_store_close(n->logs);
    workers_free(n->workers);
    config_free(n->config);
}

void node_init(struct node *n)
{
    *n = (struct node){.dir = "/tmp/gomsg-kafka-XXXXXX"};
    CHECK(mkdtemp(n->dir) != NULL);
    node_start(n, n->dir, 0);
}

void node_fini(struct node *n)
{
    node_stop(n);
    file_remove_tree(n->dir);
}

/* ---- the client --------------------------------------------------------------------------------------- */

void client_open(struct client *c, const struct node *n)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(n->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 15};

    *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM, 0)};
    CHECK(c->fd >= 0 && connect(c->fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    CHECK(setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0);
}

void client_close(struct client *c)
{
    close(c->fd);
    buf_fini(&c->frame);
}

void client_begin(struct client *c, struct buf *out, struct kout *o, int key, int version)
{
    const struct kafka_api *api = kafka_api_find(key);

    buf_clear(out);
    buf_put_be32(out, 0);
    buf_put_be16(out, (uint16_t)key);
    buf_put_be16(out, (uint16_t)version);
    buf_put_be32(out, (uint32_t)++c->next);
    kafka_put_string(out, SLICE_LIT("test-client"), false);
    if (kafka_is_flexible(api->request, version))
        buf_put_u8(out, 0);
    if (o != NULL)
        kout_init(o, api->request, version, out);
}

void client_send_raw(struct client *c, const void *data, size_t n)
{
    const char *p = data;

    while (n > 0) {
        ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL);

        CHECK(sent > 0);
        p += sent;
        n -= (size_t)sent;
    }
}

void client_send(struct client *c, struct buf *out)
{
    be32_put(out->data, (uint32_t)(out->len - 4));
    client_send_raw(c, out->data, out->len);
}

static int read_all(int fd, void *data, size_t n)
{
    char *p = data;

    while (n > 0) {
        ssize_t got = recv(fd, p, n, 0);

        CHECK(got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)); /* neither an answer nor the end within the time of client_open */
        if (got <= 0)
            return -1;
        p += got;
        n -= (size_t)got;
    }
    return 0;
}

int client_read_raw(struct client *c)
{
    uint8_t size[4];

    if (read_all(c->fd, size, 4) != 0)
        return 0;
    buf_clear(&c->frame);
    CHECK(read_all(c->fd, buf_reserve(&c->frame, be32_get(size)), be32_get(size)) == 0);
    buf_advance(&c->frame, be32_get(size));
    c->body = reader_of(buf_slice(&c->frame));
    return 1;
}

void client_read(struct client *c, int key, int version)
{
    const struct kafka_api *api = kafka_api_find(key);
    struct slice body;

    CHECK(client_read_raw(c));
    CHECK((int32_t)reader_be32(&c->body) == c->next);
    if (kafka_is_flexible(api->request, version) && key != KAFKA_API_API_VERSIONS)
        CHECK(reader_u8(&c->body) == 0);
    body = slice_of(c->body.p, reader_left(&c->body));
    CHECK(kafka_check(api->response, version, body) == 0);
    kin_init(&c->in, api->response, version, body);
}

/* ---- bodies ---- */

void put_create_topic(struct kout *o, const char *name, int32_t partitions, int16_t factor, const char *config, const char *value)
{
    kout_array(o, "Topics");
    kout_item(o);
    kout_str(o, "Name", name);
    kout_i32(o, "NumPartitions", partitions);
    kout_i16(o, "ReplicationFactor", factor);
    kout_array(o, "Assignments");
    kout_array_end(o);
    kout_array(o, "Configs");
    if (config != NULL) {
        kout_item(o);
        kout_str(o, "Name", config);
        kout_str(o, "Value", value);
    }
    kout_array_end(o);
    kout_array_end(o);
    kout_i32(o, "TimeoutMs", 1000);
    kout_bool(o, "ValidateOnly", false);
    kout_end(o);
}

void put_produce(struct buf *out, int version, int16_t acks, int32_t timeout_ms, const char *topic, int32_t index, struct slice records)
{
    bool flexible = version >= 9;

    if (version >= 3)
        kafka_put_string(out, SLICE_NONE, flexible);
    buf_put_be16(out, (uint16_t)acks);
    buf_put_be32(out, (uint32_t)timeout_ms);
    kafka_put_len(out, 1, flexible);
    kafka_put_string(out, slice_str(topic), flexible);
    kafka_put_len(out, 1, flexible);
    buf_put_be32(out, (uint32_t)index);
    kafka_put_len(out, records.data == NULL ? -1 : (int64_t)records.len, flexible);
    buf_put_slice(out, records);
    for (int i = 0; flexible && i < 3; i++)
        buf_put_u8(out, 0);
}

int16_t read_produced(struct client *c, int version, int64_t *ret_base)
{
    int16_t code;

    client_read(c, KAFKA_API_PRODUCE, version);
    CHECK(kin_array(&c->in, "Responses") == 1 && kin_item(&c->in));
    CHECK(kin_array(&c->in, "PartitionResponses") == 1 && kin_item(&c->in));
    code = kin_i16(&c->in, "ErrorCode", -1);
    *ret_base = kin_i64(&c->in, "BaseOffset", -2);
    return code;
}
