/* Queues open on first use. Those with x-expires are used at the start: their time runs from there, as in
 * RabbitMQ, though nobody asks for them. */
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
};

static bool note(const struct topo_queue *q, void *arg)
{
    struct expiring *e = arg;
    struct queue_spec spec;

    if (!q->durable || q->exclusive || q->args.len == 0)
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

void server_open_expiring_queues(struct server *s)
{
    struct expiring e = {0};

    topo_each_queue(topology_pin(s->topology), SLICE_NONE, note, &e);
    topology_unpin(s->topology);
    for (size_t i = 0; i < e.count; i++) {
        struct partition *p = partitions_get(s->partitions, e.queues[i].partition);
        struct partition_guard g;
        struct queue *q;
        int err;

        if (partition_state(p) != PARTITION_OPEN)
            continue; /* it said why */
        partition_enter_background(p, 0, &g);
        err = queue_open(partition_queues(p), &e.queues[i].spec, clock_wall_ms(), &q);
        (void)partition_leave(&g);
        if (err < 0)
            diag_error("a queue cannot be opened", "queue=%llu error=\"%s\"",
                       (unsigned long long)e.queues[i].spec.id, err_text(err));
    }
    mem_free(e.queues);
}
