/* Queues open on first use. Those with x-expires are used when this node begins to lead them, at the start or later: their time runs from there, as in
 * RabbitMQ, though nobody asks for them. A follower leaves them alone: it does not know who uses them. */
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "protocols/amqp/amqp.h"
#include "queue/queue.h"
#include "server/internal.h"

struct expiring {
    struct {
        struct queue_spec spec;
        uint32_t partition;
    } * queues; /* owned */
    size_t count, cap;
    int64_t partition; /* of this one alone; -1: all */
};

static bool note(const struct topo_queue *q, void *arg)
{
    struct expiring *e = arg;
    struct queue_spec spec;

    if (!q->durable || q->exclusive || q->args.len == 0 || (e->partition >= 0 && q->partition != e->partition))
        return true;
    amqp_queue_spec(q, &spec);
    if (spec.expires_ms < 0)
        return true;
    if (e->count == e->cap) {
        e->cap = e->cap == 0 ? 16 : e->cap * 2;
        e->queues = mem_realloc(e->queues, e->cap * sizeof(*e->queues));
    }
    e->queues[e->count].spec = spec;
    e->queues[e->count++].partition = q->partition;
    return true;
}

static void open_expiring(struct server *s, int64_t partition)
{
    struct expiring e = {.partition = partition};

    topo_each_queue(topology_pin(s->topology), SLICE_NONE, note, &e);
    topology_unpin(s->topology);
    for (size_t i = 0; i < e.count; i++) {
        struct partition *p = partitions_get(s->partitions, e.queues[i].partition);
        struct partition_guard g;
        struct queue *q;
        int err;

        if (partition_state(p) != PARTITION_OPEN || partition_role(p) != PARTITION_LEADER)
            continue; /* it said why; or others' use of the queue is not known here */
        partition_enter_background(p, 0, &g);
        err = partition_role(p) == PARTITION_LEADER ? queue_open(partition_queues(p), &e.queues[i].spec, clock_wall_ms(), &q) : 0;
        (void)partition_leave(&g);
        if (err < 0 && err != ERR_AGAIN) /* that one is being opened */
            diag_error("a queue cannot be opened", "queue=%llu error=\"%s\"",
                       (unsigned long long)e.queues[i].spec.id, err_text(err));
    }
    mem_free(e.queues);
}

void server_open_expiring_queues(struct server *s)
{
    open_expiring(s, -1);
}

struct opening_job {
    struct bg_job job;
    struct server *server;
    uint32_t partition;
};

static void run_opening(struct bg_job *job)
{
    struct opening_job *o = CONTAINER_OF(job, struct opening_job, job);

    open_expiring(o->server, o->partition);
    mem_free(o);
}

void server_leads(struct server *s, uint32_t partition)
{
    struct opening_job *o = mem_zalloc(sizeof(*o));

    o->job.run = run_opening;
    o->server = s;
    o->partition = partition;
    bg_submit(s->workers, BG_FREE, &o->job);
}
