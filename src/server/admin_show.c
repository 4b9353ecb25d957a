/* GOMSG status, partitions, topics, queues, connections, version: what only looks. On the admin thread. */
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "cluster/topology/identity.h"
#include "protocols/amqp/amqp.h"
#include "queue/queue.h"
#include "server/internal.h"

json_t *admin_json_slice(struct slice s)
{
    json_t *text = json_stringn((const char *)s.data, s.len);

    if (text == NULL) {
        /* Names are bytes to two of the protocols; JSON wants UTF-8. */
        char *ascii = mem_strdup_slice(s);

        for (size_t i = 0; i < s.len; i++) {
            if (ascii[i] & 0x80)
                ascii[i] = '?';
        }
        text = json_stringn(ascii, s.len);
        mem_free(ascii);
    }
    return text == NULL ? json_string("") : text;
}

json_t *admin_version(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    (void)s;
    (void)argc;
    (void)argv;
    (void)why;
    return json_pack("{s:s, s:i}", "gomsgd", PACKAGE_VERSION, "feature_level", EFFECT_LEVEL_MAX);
}

static json_t *listeners_json(struct server *s)
{
    unsigned count = __atomic_load_n(&s->listener_count, __ATOMIC_ACQUIRE);
    json_t *a = json_object();

    for (unsigned i = 0; i < count; i++) {
        const char *protocol = s->listeners[i].protocol;
        json_t *list = json_object_get(a, protocol);

        if (list == NULL) {
            list = json_array();
            json_object_set_new(a, protocol, list);
        }
        json_array_append_new(list, json_string(listener_address(s->listeners[i].listener)));
    }
    return a;
}

static json_t *connection_counts(struct server *s)
{
    static const char *const protocols[] = {"resp", "kafka", "amqp", "ctl"};
    json_t *a = json_object();

    for (size_t i = 0; i < ARRAY_LEN(protocols); i++)
        json_object_set_new(a, protocols[i], json_integer(server_connections(s, protocols[i])));
    return a;
}

json_t *admin_status(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    enum server_state state = __atomic_load_n(&s->state, __ATOMIC_ACQUIRE);
    const struct topology *v = topology_pin(s->topology);
    char cluster[33];
    uint64_t keys = 0, log_bytes = 0;
    unsigned failed = 0;
    struct log_store_stats stats;
    int health = log_store_health(s->logs);
    json_t *o;

    (void)argc;
    (void)argv;
    (void)why;
    identity_hex(v->cluster_id, cluster);
    for (uint32_t i = 0; i < partitions_count(s->partitions); i++) {
        struct partition_info info;

        partition_info(partitions_get(s->partitions, i), &info);
        keys += info.keys;
        log_bytes += info.log_bytes;
        failed += info.state == PARTITION_FAILED;
    }
    log_store_stats(s->logs, &stats);
    o = json_pack("{s:s, s:s, s:i, s:s, s:s, s:i, s:I}", "state", server_state_name(state), "version", PACKAGE_VERSION, "node_id",
                  (int)topology_node_id(s->topology), "node_name", s->config->node_name, "cluster_id", cluster,
                  "feature_level", (int)v->level, "uptime_seconds", (json_int_t)((clock_mono_us() - s->started_us) / 1000000));
    json_object_set_new(o, "listeners", listeners_json(s));
    json_object_set_new(o, "connections", connection_counts(s));
    json_object_set_new(o, "partitions", json_pack("{s:i, s:i, s:i}", "count", (int)partitions_count(s->partitions), "recovered",
                                                   (int)__atomic_load_n(&s->recovered, __ATOMIC_RELAXED), "failed", (int)failed));
    json_object_set_new(o, "keys", json_integer((json_int_t)keys));
    json_object_set_new(o, "topics", json_integer((json_int_t)v->topics.count));
    json_object_set_new(o, "queues", json_integer((json_int_t)v->queues.count));
    json_object_set_new(o, "memory_rss_bytes", json_integer((json_int_t)mem_rss()));
    json_object_set_new(
        o, "log", json_pack("{s:s, s:I, s:I, s:I, s:I, s:b}", "health", health == 0 ? "good" : err_text(health), "main_logs_bytes",
                            (json_int_t)log_bytes, "open_files", (json_int_t)stats.open_files, "sync_rounds",
                            (json_int_t)stats.sync_rounds, "disk_free_bytes", (json_int_t)stats.disk_free, "accepts_growth",
                            log_store_may_grow(s->logs)));
    topology_unpin(s->topology);
    return o;
}

json_t *admin_partitions(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    static const char *const names[] = {"closed", "recovering", "open", "failed"};
    json_t *rows = json_array();

    (void)argc;
    (void)argv;
    (void)why;
    for (uint32_t i = 0; i < partitions_count(s->partitions); i++) {
        struct partition_info info;

        partition_info(partitions_get(s->partitions, i), &info);
        json_array_append_new(
            rows, json_pack("{s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "index", (int)i, "state", names[info.state],
                            "error", info.error == 0 ? "" : err_text(info.error), "keys", (json_int_t)info.keys, "log_start",
                            (json_int_t)info.log_start, "log_end", (json_int_t)info.log_end, "log_durable",
                            (json_int_t)info.log_durable, "log_bytes", (json_int_t)info.log_bytes, "snapshot",
                            (json_int_t)info.snapshot_start, "parked", (json_int_t)info.parked_total, "hold_max_us",
                            (json_int_t)info.snapshot_hold_max_us));
    }
    return rows;
}

/* What a replica's memory comes to: replicas that applied the same log up to the same offset have the same hash. Holds each partition's lock for as long as its keys take. */
json_t *admin_partitions_hash(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    json_t *rows = json_array();

    (void)argc;
    (void)argv;
    (void)why;
    for (uint32_t i = 0; i < partitions_count(s->partitions); i++) {
        struct partition *p = partitions_get(s->partitions, i);
        struct partition_guard g;
        char hash[17];
        int64_t at;

        if (partition_state(p) != PARTITION_OPEN || partition_role(p) == PARTITION_NONE)
            continue;
        partition_enter_background(p, 0, &g);
        at = partition_applied(p);
        snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)kv_state_hash(partition_kv(p)));
        (void)partition_leave(&g); /* nothing was written */
        json_array_append_new(rows, json_pack("{s:i, s:i, s:I, s:s}", "partition", (int)i, "epoch", (int)log_last_epoch(partition_main_log(p)), "offset",
                                              (json_int_t)at, "hash", hash));
    }
    return rows;
}

/* ---- topics ---------------------------------------------------------------------------------------------------------------- */

struct names {
    struct buf bytes; /* of copies, so that the view need not be pinned while engines are asked */
    unsigned count;
};

static bool copy_topic(const struct topo_topic *t, void *arg)
{
    struct names *n = arg;
    char id[33];

    identity_hex(t->uuid, id);
    buf_put_lslice(&n->bytes, t->name);
    buf_put_uvarint(&n->bytes, t->id);
    buf_put_uvarint(&n->bytes, t->partitions);
    buf_put_lslice(&n->bytes, slice_str(id));
    n->count++;
    return true;
}

json_t *admin_topics(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct names n = {0};
    json_t *rows = json_array();
    struct reader r;

    (void)argc;
    (void)argv;
    (void)why;
    topo_each_topic(topology_pin(s->topology), copy_topic, &n);
    topology_unpin(s->topology);
    r = reader_of(buf_slice(&n.bytes));
    for (unsigned i = 0; i < n.count; i++) {
        struct stream_place place = {.topic = reader_lslice(&r)};
        uint32_t partitions;
        int64_t records = 0, bytes = 0;
        struct slice uuid;

        place.topic_id = reader_uvarint(&r);
        partitions = (uint32_t)reader_uvarint(&r);
        uuid = reader_lslice(&r);
        for (uint32_t p = 0; p < partitions; p++) {
            struct stream *stream;

            place.index = p;
            place.partition = placement_of_topic(place.topic, p, partitions_count(s->partitions));
            stream = stream_find(s->streams, place.topic_id, p);
            if (stream == NULL && stream_open(s->streams, &place, &stream) < 0)
                continue;
            records += stream_high_watermark(stream) - stream_start(stream);
            bytes += (int64_t)log_bytes(stream_log(stream));
            stream_unref(stream);
        }
        json_array_append_new(rows, json_pack("{s:o, s:i, s:I, s:I, s:o}", "name", admin_json_slice(place.topic), "partitions",
                                              (int)partitions, "records", (json_int_t)records, "bytes", (json_int_t)bytes, "id",
                                              admin_json_slice(uuid)));
    }
    buf_fini(&n.bytes);
    return rows;
}

/* ---- queues ----------------------------------------------------------------------------------------------------------------- */

static bool copy_queue(const struct topo_queue *q, void *arg)
{
    struct names *n = arg;

    buf_put_uvarint(&n->bytes, q->id);
    n->count++;
    return true;
}

/* Entered; this thread may wait while it is opened, but opens none that was deleted meanwhile. */
static int open_for_looking(struct server *s, struct partition_guard *g, const struct queue_spec *spec, struct queue **ret)
{
    struct partition *p = g->p;

    while (topo_queue_by_id(topology_view(s->topology), spec->id) != NULL) {
        int err = queue_open(partition_queues(p), spec, clock_wall_ms(), ret);

        if (err != ERR_AGAIN || partition_role(p) != PARTITION_LEADER)
            return err;
        (void)partition_leave(g);
        usleep(2000);
        partition_enter_background(p, 0, g);
    }
    return ERR_NOT_FOUND;
}

static json_t *queue_row(struct server *s, uint64_t id)
{
    const struct topo_queue *q = topo_queue_by_id(topology_pin(s->topology), id);
    struct queue_info info = {0};
    struct partition_guard g;
    struct queue_spec spec;
    struct queue *engine;
    char flags[4] = "", led[48] = "";
    json_t *row = NULL;
    int err = 0;

    if (q == NULL)
        goto gone;
    amqp_queue_spec(q, &spec);
    partition_enter_background(partitions_get(s->partitions, q->partition), 0, &g);
    engine = queue_find(partition_queues(g.p), id);
    if (engine == NULL && partition_role(g.p) == PARTITION_LEADER)
        err = open_for_looking(s, &g, &spec, &engine);
    else if (engine == NULL) /* a follower's copy is not opened: what is in it is the leader's business */
        snprintf(led, sizeof(led), "led by node %u", topo_partition_at(topology_view(s->topology), q->partition)->leader);
    if (engine != NULL)
        queue_info(engine, &info);
    partition_leave(&g);
    if (q->durable)
        strcat(flags, "D");
    if (q->exclusive)
        strcat(flags, "X");
    if (q->auto_delete)
        strcat(flags, "A");
    row = json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:s, s:i, s:s}", "vhost", admin_json_slice(q->vhost), "name",
                    admin_json_slice(q->name), "ready", (json_int_t)info.ready, "unacked", (json_int_t)info.unacked, "consumers",
                    (json_int_t)info.consumers, "bytes", (json_int_t)info.log_bytes, "flags", flags, "partition",
                    (int)q->partition, "error", err == 0 ? led : err_text(err));
gone:
    topology_unpin(s->topology);
    return row;
}

json_t *admin_queues(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct names n = {0};
    json_t *rows;
    struct reader r;
    const struct topology *v = topology_pin(s->topology);

    if (argc > 0 && topo_vhost_find(v, argv[0]) == NULL) {
        topology_unpin(s->topology);
        buf_put_str(why, "no such virtual host");
        return NULL;
    }
    topo_each_queue(v, argc > 0 ? argv[0] : SLICE_NONE, copy_queue, &n);
    topology_unpin(s->topology);
    rows = json_array();
    r = reader_of(buf_slice(&n.bytes));
    for (unsigned i = 0; i < n.count; i++) {
        json_t *row = queue_row(s, reader_uvarint(&r));

        if (row != NULL)
            json_array_append_new(rows, row);
    }
    buf_fini(&n.bytes);
    return rows;
}

/* ---- connections --------------------------------------------------------------------------------------------------------------- */

struct gather {
    struct mutex lock;
    json_t *rows;
};

static void add_connection(struct conn *c, void *arg)
{
    static const char *const protocols[] = {"resp", "kafka", "amqp", "ctl", "bus"};
    struct gather *g = arg;
    char peer[128], local[128];
    uint64_t now = worker_now_us(c->worker);
    json_t *row;

    conn_peer_text(c, peer, sizeof(peer));
    conn_local_text(c, local, sizeof(local));
    row = json_pack("{s:I, s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I}", "id", (json_int_t)c->id, "protocol",
                    protocols[c->ops->protocol], "peer", peer, "local", local, "worker", (int)worker_index(c->worker), "age",
                    (json_int_t)((now - c->opened_us) / 1000000), "idle",
                    (json_int_t)((now - MIN_OF(now, c->last_input_us)) / 1000000), "in", (json_int_t)c->bytes_in, "out",
                    (json_int_t)c->bytes_out);
    mutex_lock(&g->lock);
    json_array_append_new(g->rows, row);
    mutex_unlock(&g->lock);
}

static void gather_worker(struct worker *w, void *arg)
{
    worker_each_conn(w, add_connection, arg);
}

json_t *admin_connections(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct gather g = {.rows = json_array()};

    (void)argc;
    (void)argv;
    (void)why;
    mutex_init(&g.lock);
    workers_run_each(s->workers, gather_worker, &g);
    mutex_fini(&g.lock);
    return g.rows;
}
