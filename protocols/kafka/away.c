/* Nodes that went away a moment ago, as clients should see them.
 *
 *   lost     the bus lost its connection to the node, or has had no answer from it for a quarter of a second (it is paused, or cut off). What it leads is about to get another leader, and a
 *            client that asks for it now would be sent back to the dead and ask again only after a while (librdkafka: a second). So Metadata and FindCoordinator wait for the
 *            election: the answer is late, and right. They do so while the controller may still be deciding (cluster.failure_timeout, and as long again for another controller), but
 *            none longer than clients with short timeouts wait; and not when the node answers after all.
 *   fenced   it is no broker any more. Metadata names it a while longer: librdkafka from 2.10 on ends a broker's thread with the first answer that leaves the broker out, and
 *            partitions that the same answer moves to another one may be caught in that until it asks again.
 *
 * Both are for tens of seconds at most and change nothing of what this node serves. The table is under a mutex, for the bus tells of losses on the control worker. */
#include "protocols/kafka/session.h"

#include "base/clock.h"
#include "base/mem.h"

#define LOST_MAX_US 2500000
#define WAIT_MAX_US 900000 /* of one request */
#define LOOK_MS 5 /* while a request waits */

static struct kafka_away *find(struct kafka_front *f, uint32_t node) REQUIRES(f->away_mu)
{
    for (unsigned i = 0; i < f->away_count; i++)
        if (f->away[i].node == node)
            return &f->away[i];
    return NULL;
}

static struct kafka_away *find_or_add(struct kafka_front *f, uint32_t node) REQUIRES(f->away_mu)
{
    struct kafka_away *a = find(f, node);

    if (a != NULL)
        return a;
    f->away = mem_realloc(f->away, (f->away_count + 1) * sizeof(*f->away));
    a = &f->away[f->away_count++];
    *a = (struct kafka_away){.node = node};
    return a;
}

void kafka_front_peer(struct kafka_front *f, uint32_t node, bool reachable)
{
    struct kafka_away *a;

    if (node == 0)
        return;
    mutex_lock(&f->away_mu);
    a = find_or_add(f, node);
    f->away_heard += reachable && a->lost_us != 0;
    if (reachable)
        a->lost_us = 0;
    else if (a->lost_us == 0)
        a->lost_us = clock_mono_us();
    mutex_unlock(&f->away_mu);
}

static bool note_state(const struct topo_node *n, void *arg) NO_THREAD_SAFETY_ANALYSIS
{
    struct kafka_front *f = arg;
    bool up = n->state == TOPO_NODE_ACTIVE || n->state == TOPO_NODE_DRAINING;
    struct kafka_away *a = up ? find_or_add(f, n->id) : find(f, n->id);

    if (a != NULL && a->up != up)
        a->fenced_us = up ? 0 : clock_mono_us();
    if (a != NULL)
        a->up = up;
    return true;
}

void kafka_away_tick(struct kafka_front *f)
{
    mutex_lock(&f->away_mu);
    topo_each_node(topology_view(f->options.topology), note_state, f);
    mutex_unlock(&f->away_mu);
}

bool kafka_left_lately(const struct kafka_session *s, uint32_t node)
{
    struct kafka_front *f = s->front;
    const struct kafka_away *a;
    bool lately = false;

    if (f->options.farewell_ms == 0)
        return false;
    mutex_lock(&f->away_mu);
    a = find(f, node);
    if (a != NULL) /* still up: the tick has not seen it go */
        lately = a->up || (a->fenced_us != 0 && clock_mono_us() - a->fenced_us < (uint64_t)f->options.farewell_ms * 1000);
    mutex_unlock(&f->away_mu);
    return lately;
}

/* ---- waiting for an election ------------------------------------------------------------------------------------------------ */

bool kafka_election_is_due(const struct kafka_session *s, uint32_t partition)
{
    const struct topo_partition *p = topo_partition_at(kafka_view(s), partition);
    struct kafka_front *f = s->front;
    const struct kafka_away *a;
    bool due = false;

    if (p == NULL || p->leader == 0 || (int32_t)p->leader == kafka_node_id(s))
        return false;
    if (s->election_us != 0 && worker_now_us(s->conn->worker) - s->election_us >= WAIT_MAX_US)
        return false;
    mutex_lock(&f->away_mu);
    a = find(f, p->leader);
    due = a != NULL && a->lost_us != 0 && clock_mono_us() - a->lost_us < LOST_MAX_US;
    mutex_unlock(&f->away_mu);
    return due;
}

/* Looks every few ms at the topology's version and at who was heard again; the request, run again, finds out whether that was it. */
struct election {
    struct kafka_async async;
    struct io_timer timer;
    uint64_t index, until_us;
    unsigned heard;
};

static unsigned heard_count(struct kafka_front *f)
{
    unsigned n;

    mutex_lock(&f->away_mu);
    n = f->away_heard;
    mutex_unlock(&f->away_mu);
    return n;
}

static void look(struct worker *w, struct io_timer *t)
{
    struct election *e = CONTAINER_OF(t, struct election, timer);
    struct kafka_session *s = e->async.session;

    if (kafka_view(s)->index == e->index && heard_count(s->front) == e->heard && worker_now_us(w) < e->until_us)
        return;
    io_timer_stop(w, &e->timer);
    kafka_retry(&e->async, 0);
    mem_free(e);
}

static void gone(struct kafka_async *a)
{
    struct election *e = CONTAINER_OF(a, struct election, async);

    io_timer_stop(a->worker, &e->timer);
    mem_free(e);
}

int kafka_wait_election(struct kafka_session *s)
{
    struct election *e = mem_zalloc(sizeof(*e));
    struct worker *w = s->conn->worker;

    kafka_retry_later(s, &e->async);
    e->async.gone = gone;
    e->index = kafka_view(s)->index;
    e->heard = heard_count(s->front);
    if (s->election_us == 0)
        s->election_us = worker_now_us(w);
    e->until_us = s->election_us + WAIT_MAX_US;
    io_timer_init(&e->timer, look);
    io_timer_start(w, &e->timer, LOOK_MS, LOOK_MS);
    return KAFKA_RETRY;
}

void kafka_away_fini(struct kafka_front *f)
{
    mem_free(f->away);
    mutex_fini(&f->away_mu);
}
