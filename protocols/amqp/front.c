/* The front end as a whole: options, server properties, exclusive queues, numbers. */
#include "base/mem.h"
#include "cluster/topology/commands.h"
#include "protocols/amqp/batch.h"
#include "protocols/amqp/remote.h"
#include "protocols/amqp/serve.h"
#include "protocols/amqp/session.h"

/* The version of RabbitMQ whose behaviour this is: clients parse it (kombu decides about qos by it). */
#define COMPATIBLE_VERSION "3.12.14"

#define ASSEMBLY_SLACK 64
enum { FRAME_MAX_MAX = 16 << 20 }; /* of amqp.frame_max_bytes */

/* Clients decide by these (specs: pika, amqplib, kombu, the Java client). */
static void put_server_properties(struct buf *out, const char *cluster_name)
{
    static const char *const capabilities[] = {
        "publisher_confirms",           "exchange_exchange_bindings", "basic.nack",
        "consumer_cancel_notify",       "connection.blocked",         "consumer_priorities",
        "authentication_failure_close", "per_consumer_qos",           "direct_reply_to"};
    struct buf table = {0};

    for (size_t i = 0; i < ARRAY_LEN(capabilities); i++)
        amqp_table_put_bool(&table, capabilities[i], true);
    amqp_table_put_table(out, "capabilities", buf_slice(&table));
    amqp_table_put_str(out, "cluster_name", slice_str(cluster_name));
    amqp_table_put_str(out, "copyright", SLICE_LIT("Copyright (c) The GoMsg authors"));
    amqp_table_put_str(out, "information", SLICE_LIT("Licensed under the Apache License 2.0"));
    amqp_table_put_str(out, "platform", SLICE_LIT("GoMsg " PACKAGE_VERSION));
    amqp_table_put_str(out, "product", SLICE_LIT("RabbitMQ"));
    amqp_table_put_str(out, "version", SLICE_LIT(COMPATIBLE_VERSION));
    buf_fini(&table);
}

void amqp_front_set_limits(struct amqp_front *f, const struct amqp_limits *l)
{
#define SET(field, value, otherwise) __atomic_store_n(&f->limits.field, (value) != 0 ? (value) : (otherwise), __ATOMIC_RELAXED)
    SET(frame_max, l->frame_max, 131072u);
    SET(channel_max, l->channel_max, 2047);
    SET(heartbeat_s, l->heartbeat_s, 0);
    SET(handshake_timeout_ms, l->handshake_timeout_ms, 10000u);
    SET(max_message_bytes, l->max_message_bytes, 16ull << 20);
#undef SET
}

#define DEFAULT(field, value) f->o.field = options->field != 0 ? options->field : (value)

int amqp_front_new(const struct amqp_front_options *options, struct amqp_front **ret)
{
    struct amqp_front *f = mem_zalloc(sizeof(*f));

    MAGIC_INIT(f, AMQP_FRONT_MAGIC);
    f->o = *options;
    DEFAULT(cluster_name, "gomsg");
    DEFAULT(max_content_bytes, 64u << 20);
    amqp_front_set_limits(f, &options->limits);
    if (f->limits.frame_max < AMQP_FRAME_MIN) {
        mem_free(f);
        return ERR_INVALID;
    }
    amqp_stats_register();
    f->ops = (struct conn_ops){
        .protocol = CONN_AMQP,
        .name = "amqp",
        .open = amqp_session_open,
        .input = amqp_session_input,
        .writable = amqp_session_writable,
        .tick = amqp_session_tick,
        .closed = amqp_session_closed,
        /* What a session agreed on bounds its frames; this is for all that may still be agreed on. */
        .input_max = MAX_OF(f->limits.frame_max, FRAME_MAX_MAX) + AMQP_FRAME_OVERHEAD + ASSEMBLY_SLACK,
    };
    put_server_properties(&f->server_properties, f->o.cluster_name);
    amqp_ids_init(&f->exclusive);
    amqp_ids_init(&f->replies);
    f->workers = mem_calloc(workers_count(options->workers), sizeof(*f->workers));
    for (unsigned i = 0; i < workers_count(options->workers); i++)
        amqp_worker_init(&f->workers[i], f, workers_get(options->workers, i));
    if (options->bus != NULL) {
        CHECK(options->data != NULL);
        amqp_remote_init(f);
        f->serve = amqp_serve_new(f);
    }
    *ret = f;
    return 0;
}

static void leave_cluster(struct worker *w, void *arg)
{
    struct amqp_front *f = arg;

    amqp_remote_stop(&f->workers[worker_index(w)]);
    if (w == f->o.data)
        amqp_serve_stop(f->serve);
}

void amqp_front_leave_cluster(struct amqp_front *f)
{
    if (f != NULL && f->serve != NULL)
        workers_run_each(f->o.workers, leave_cluster, f);
}

void amqp_front_free(struct amqp_front *f)
{
    if (f == NULL)
        return;
    amqp_serve_free(f->serve);
    for (unsigned i = 0; i < workers_count(f->o.workers); i++) {
        amqp_remote_fini(&f->workers[i]);
        amqp_batch_free(f->workers[i].spare);
        amqp_regexes_free(f->workers[i].regexes);
        buf_fini(&f->workers[i].scratch);
    }
    mem_free(f->workers);
    amqp_ids_fini(&f->exclusive);
    amqp_ids_fini(&f->replies);
    buf_fini(&f->server_properties);
    MAGIC_FINI(f, AMQP_FRONT_MAGIC);
    mem_free(f);
}

const struct conn_ops *amqp_front_ops(const struct amqp_front *f)
{
    return &f->ops;
}

/* ---- exclusive queues ---------------------------------------------------------------------------------- */

bool amqp_exclusive_claim(struct amqp_session *s, uint64_t queue_id)
{
    return amqp_ids_claim(&s->front->exclusive, queue_id, s->conn_id, worker_index(s->aw->worker));
}

bool amqp_exclusive_is_mine(struct amqp_session *s, uint64_t queue_id)
{
    uint64_t conn_id;
    unsigned worker;

    return amqp_ids_find(&s->front->exclusive, queue_id, &conn_id, &worker) && conn_id == s->conn_id;
}

void amqp_exclusive_drop(struct amqp_front *f, uint64_t queue_id)
{
    amqp_ids_drop(&f->exclusive, queue_id);
}

struct exclusive_end {
    struct topology_proposal proposal;
    struct amqp_front *front;
    struct amqp_session *waiting; /* NULL: nobody */
    uint64_t queue_id;
};

static void exclusive_ended(struct topology_proposal *p)
{
    struct exclusive_end *end = CONTAINER_OF(p, struct exclusive_end, proposal);
    struct amqp_session *s = end->waiting;

    amqp_exclusive_drop(end->front, end->queue_id);
    buf_fini(&p->command);
    mem_free(end);
    if (s != NULL && --s->ending == 0)
        amqp_session_continue(s);
}

bool amqp_exclusive_delete_all(struct amqp_session *s, bool wait)
{
    struct reader r = reader_of(buf_slice(&s->exclusive));

    while (reader_left(&r) > 0) {
        struct exclusive_end *end;
        uint64_t id = reader_be64(&r);

        if (!amqp_exclusive_is_mine(s, id))
            continue; /* deleted by its owner */
        end = mem_zalloc(sizeof(*end));
        end->front = s->front;
        end->queue_id = id;
        end->proposal.done = exclusive_ended;
        if (wait) {
            end->waiting = s;
            end->proposal.worker = s->aw->worker;
            s->ending++;
        } /* else on the metadata thread: the worker may be ending */
        topo_cmd_queue_delete(&end->proposal.command, id);
        topology_propose(s->front->o.topology, &end->proposal);
    }
    buf_clear(&s->exclusive);
    return s->ending == 0;
}

/* ---- numbers ------------------------------------------------------------------------------------------- */

void amqp_front_stats(struct amqp_front *f, struct amqp_front_stats *ret)
{
    uint64_t *sum = (uint64_t *)ret;

    static_assert(sizeof(struct amqp_front_stats) == sizeof(struct amqp_counters), "one list of numbers");
    *ret = (struct amqp_front_stats){0};
    for (unsigned i = 0; i < workers_count(f->o.workers); i++) {
        const uint64_t *one = (const uint64_t *)&f->workers[i].count;

        for (size_t k = 0; k < sizeof(*ret) / sizeof(uint64_t); k++)
            sum[k] += __atomic_load_n(&one[k], __ATOMIC_RELAXED);
    }
}

bool amqp_connection_info(const struct conn *c, struct amqp_connection_info *ret)
{
    static const char *const states[] = {"starting", "starting", "tuning", "opening",
                                         "running",  "closing",  "closed"};
    const struct amqp_session *s = c->session;

    if (c->ops->protocol != CONN_AMQP || s == NULL)
        return false;
    *ret = (struct amqp_connection_info){.user = s->user,
                                         .vhost = s->vhost,
                                         .state = s->blocked ? "blocked" : states[s->state],
                                         .channels = s->channel_count,
                                         .frame_max = s->frame_max,
                                         .heartbeat_s = s->heartbeat_s,
                                         .blocked = s->blocked};
    for (uint32_t i = 0; i < s->channel_count; i++) {
        ret->consumers += s->channels[i]->consumer_count;
        ret->unacked += amqp_unacked_count(&s->channels[i]->unacked);
    }
    return true;
}
