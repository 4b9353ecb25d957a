/* Serving gateways.
 *
 * A served consumer stands for a consumer (or a holder of deliveries) of a gateway's channel: the engine's consumer, and the set of what its client holds, so that a settlement counts once and the deliveries of a node that
 * died come back. It is known by (node, node epoch, the gateway's number for it); each attachment raises its generation.
 *
 *   ATTACH -> attached -> DELIVER ... -> broken (a DELIVER was not answered: what arrived is unknown) -> GONE until the gateway attaches anew, telling what its client holds: the rest is ready again
 *                      -> holding (DETACH): until what it holds is settled
 *                      -> dropped: requeued when the gateway's node was fenced or has a new epoch, or does not know the consumer; forgotten when this node no longer leads
 *
 * DELIVER is answered when the client's connection has taken it, and few of them are under way at once: that is the credit. Requests for a partition somebody else holds wait in order with the partition's park. */
#include "protocols/amqp/serve.h"

#include "base/diag.h"
#include "base/mem.h"
#include "cluster/bus/bus.h"
#include "protocols/amqp/forward.h"
#include "protocols/amqp/remote.h"
#include "protocols/amqp/session.h"

enum {
    DELIVERS_MAX = 4,             /* under way of a consumer */
    DELIVER_BYTES = 192 << 10,    /* of one, roughly */
    DELIVER_TIMEOUT_MS = 600000,  /* a client may be slow; a lost connection ends it at once */
    TICK_MS = 200,
    GONE_TIMEOUT_MS = 2000,
    CONSUMERS_MAX = 1 << 20, /* of one gateway */
};

struct holding { /* open addressing by offset; offset_flags UINT64_MAX: free */
    struct queue_handle *slots;
    uint32_t mask, count;
};

struct served;

struct deliver_call {
    struct bus_call call;
    struct served *served;
    uint32_t generation;
    bool busy;
};

struct served {
    struct queue_consumer qc; /* first */
    struct amqp_serve *serve;
    struct list node;  /* of its hash bucket */
    struct list ready; /* of the serve's ready list */
    struct mail mail;
    bool mailed;
    uint32_t node_id;
    uint64_t node_epoch;
    uint64_t id;
    uint32_t generation;
    uint32_t partition;
    uint64_t queue_id;
    bool home;
    bool attached; /* to its queue */
    bool broken, deleted;
    bool gone;     /* dropped: freed when nothing names it any more */
    bool full;     /* paused: enough DELIVERs are under way */
    bool committing;
    bool warming, read_cold;
    bool again; /* it could not be served: the tick comes back to it */
    uint32_t pins;
    struct log_commit commit;
    struct holding holding;
    struct deliver_call delivers[DELIVERS_MAX];
    struct bus_call gone_call;
    bool gone_busy;
    uint64_t gone_at_us;
};

/* What waits for a partition. */
struct parked {
    struct partition_park park;
    struct list node;
    struct list jobs;
    struct list consumers; /* served.ready */
    struct amqp_serve *serve;
    uint32_t partition;
};

struct job {
    struct list node;
    struct bus_request *request;
    uint32_t node_id;
    uint64_t node_epoch;
    enum bus_type type;
    size_t len;
    uint8_t payload[];
};

#define BUCKETS 4096

struct amqp_serve {
    struct amqp_front *front;
    struct bus *bus;
    struct worker *worker; /* the data worker */
    struct list buckets[BUCKETS];
    uint32_t count;
    struct list ready;
    struct list parks;
    struct list waits; /* answers that wait for a commit */
    bool stopped;      /* the bus is about to close */
    struct worker_hook hook;
    struct io_timer timer;
    struct mail start;
    struct buf answer, out;
};

/* One request in hand. */
struct ask {
    struct amqp_serve *v;
    struct bus_request *request;
    uint32_t node_id;
    uint64_t node_epoch;
    enum bus_type type;
    struct forward_head head;
    struct reader r;
    struct partition_guard g;
    struct queue *q;
    uint64_t mark;      /* of the log's commits, before anything is appended */
    int64_t commit_end; /* > 0: the answer waits for it, in q's log */
    struct log_commit *commit;
};

/* ---- the set of what a client holds -------------------------------------------------------------------- */

static uint32_t slot_of(const struct holding *h, int64_t offset)
{
    return (uint32_t)(((uint64_t)offset * 0x9e3779b97f4a7c15ull) >> 32) & h->mask;
}

static struct queue_handle *holding_find(const struct holding *h, int64_t offset)
{
    if (h->slots == NULL)
        return NULL;
    for (uint32_t i = slot_of(h, offset);; i = (i + 1) & h->mask) {
        if (h->slots[i].offset_flags == UINT64_MAX)
            return NULL;
        if (queue_handle_offset(&h->slots[i]) == offset)
            return &h->slots[i];
    }
}

static void holding_put(struct holding *h, const struct queue_handle *handle)
{
    uint32_t i;

    if (h->slots == NULL || h->count * 2 > h->mask) {
        struct holding old = *h;

        h->mask = old.slots == NULL ? 15 : old.mask * 2 + 1;
        h->slots = mem_alloc((h->mask + 1) * sizeof(h->slots[0]));
        memset(h->slots, 0xff, (h->mask + 1) * sizeof(h->slots[0]));
        h->count = 0;
        for (uint32_t k = 0; old.slots != NULL && k <= old.mask; k++) {
            if (old.slots[k].offset_flags != UINT64_MAX)
                holding_put(h, &old.slots[k]);
        }
        mem_free(old.slots);
    }
    for (i = slot_of(h, queue_handle_offset(handle)); h->slots[i].offset_flags != UINT64_MAX; i = (i + 1) & h->mask) {
        if (queue_handle_offset(&h->slots[i]) == queue_handle_offset(handle))
            return;
    }
    h->slots[i] = *handle;
    h->count++;
}

static bool holding_take(struct holding *h, int64_t offset, struct queue_handle *ret)
{
    struct queue_handle *at = holding_find(h, offset);
    uint32_t hole, i;

    if (at == NULL)
        return false;
    *ret = *at;
    hole = (uint32_t)(at - h->slots);
    for (i = (hole + 1) & h->mask; h->slots[i].offset_flags != UINT64_MAX; i = (i + 1) & h->mask) {
        uint32_t home = slot_of(h, queue_handle_offset(&h->slots[i]));

        if (((i - home) & h->mask) >= ((i - hole) & h->mask)) {
            h->slots[hole] = h->slots[i];
            hole = i;
        }
    }
    memset(&h->slots[hole], 0xff, sizeof(h->slots[hole]));
    h->count--;
    return true;
}

static void holding_clear(struct holding *h)
{
    mem_free(h->slots);
    *h = (struct holding){0};
}

/* ---- served consumers ---------------------------------------------------------------------------------- */

static struct list *bucket_of(struct amqp_serve *v, uint64_t id)
{
    return &v->buckets[(id * 0x9e3779b97f4a7c15ull >> 40) % BUCKETS];
}

static struct served *find(struct amqp_serve *v, uint32_t node_id, uint64_t node_epoch, uint64_t id)
{
    LIST_FOREACH (n, bucket_of(v, id)) {
        struct served *c = LIST_ENTRY(n, struct served, node);

        if (c->id == id && c->node_id == node_id && c->node_epoch == node_epoch)
            return c;
    }
    return NULL;
}

static void ready(struct served *c)
{
    if (c->gone || c->serve->stopped)
        return;
    if (!list_linked(&c->ready))
        list_push_back(&c->serve->ready, &c->ready);
    worker_hook_once(c->serve->worker, &c->serve->hook);
}

static void free_if_unused(struct served *c)
{
    if (!c->gone || c->pins != 0 || c->mailed || c->gone_busy)
        return;
    for (unsigned i = 0; i < DELIVERS_MAX; i++) {
        if (c->delivers[i].busy)
            return;
    }
    list_remove(&c->ready);
    holding_clear(&c->holding);
    mem_free(c);
}

static void news_mail(struct worker *w, struct mail *m)
{
    struct served *c = CONTAINER_OF(m, struct served, mail);

    (void)w;
    c->mailed = false;
    if (c->gone)
        free_if_unused(c);
    else
        ready(c);
}

/* Under the partition's lock, any thread. */
static void news(struct queue_consumer *qc)
{
    struct served *c = CONTAINER_OF(qc, struct served, qc);

    if (worker_current() == c->serve->worker) {
        ready(c);
        return;
    }
    c->mailed = true;
    c->mail.deliver = news_mail;
    worker_post(c->serve->worker, &c->mail);
}

/* Off its queue, under the lock (of whatever role). */
static void detach(struct served *c, int64_t now_ms)
{
    (void)queue_consumer_remove(&c->qc, now_ms);
    if (c->committing)
        log_commit_cancel(&c->commit);
    c->committing = false;
    c->attached = false;
}

static void requeue_all(struct queue *q, struct served *c)
{
    struct holding *h = &c->holding;

    for (uint32_t i = 0; h->slots != NULL && i <= h->mask; i++) {
        if (h->slots[i].offset_flags != UINT64_MAX)
            queue_settle(q, c->attached ? &c->qc : NULL, QUEUE_REQUEUE, &h->slots[i], 1);
    }
    holding_clear(h);
}

/* It is no more; not under a lock of ours, or under that of its partition after detach. */
static void forget(struct served *c)
{
    CHECK(!c->attached);
    if (!c->gone) {
        c->gone = true;
        list_remove(&c->node);
        list_remove(&c->ready);
        c->serve->count--;
    }
    free_if_unused(c);
}

static void reservation_done(struct log_commit *commit, int err)
{
    struct served *c = CONTAINER_OF(commit, struct served, commit);

    c->committing = false;
    if (err == 0)
        ready(c);
}

/* ---- entering ------------------------------------------------------------------------------------------ */

static struct parked *park_find(struct amqp_serve *v, uint32_t partition)
{
    LIST_FOREACH (n, &v->parks) {
        struct parked *p = LIST_ENTRY(n, struct parked, node);

        if (p->partition == partition)
            return p;
    }
    return NULL;
}

static int run(struct amqp_serve *v, struct bus_request *r, uint32_t node_id, uint64_t node_epoch, enum bus_type type, struct slice payload);

static void retry(struct worker *w, struct partition_park *park)
{
    struct parked *p = CONTAINER_OF(park, struct parked, park);
    struct amqp_serve *v = p->serve;
    struct list *n;

    list_remove(&p->node);
    list_splice(&v->ready, &p->consumers);
    worker_hook_once(w, &v->hook);
    while ((n = list_pop_front(&p->jobs)) != NULL) {
        struct job *j = LIST_ENTRY(n, struct job, node);

        run(v, j->request, j->node_id, j->node_epoch, j->type, slice_of(j->payload, j->len));
        mem_free(j);
    }
    mem_free(p);
}

/* 0, ERR_PARKED (*ret_parked: who waits is to be added), or why not. */
static int enter(struct amqp_serve *v, uint32_t partition, bool home, bool upkeep, struct partition_guard *g, struct parked **ret_parked)
{
    struct partition *p = partitions_get(v->front->o.partitions, partition);
    struct parked *w = list_empty(&v->parks) ? NULL : park_find(v, partition);
    int err = ERR_PARKED;

    if (w == NULL) {
        w = mem_zalloc(sizeof(*w));
        w->serve = v;
        w->partition = partition;
        w->park.worker = v->worker;
        w->park.retry = retry;
        list_init(&w->jobs);
        list_init(&w->consumers);
        err = home || upkeep ? partition_enter_upkeep(p, &w->park, g) : partition_enter(p, 0, &w->park, g);
        if (err != ERR_PARKED) {
            mem_free(w);
            return err;
        }
        list_push_back(&v->parks, &w->node);
    }
    *ret_parked = w;
    return ERR_PARKED;
}

/* The queue, opened when it is not. *ret_err: ERR_NOT_FOUND when the topology does not know it. */
static struct queue *open_queue(struct amqp_serve *v, struct queue_table *t, uint64_t id, int *ret_err)
{
    struct queue *q = queue_find(t, id);
    const struct topo_queue *tq;
    struct queue_spec spec;

    *ret_err = 0;
    if (q != NULL)
        return q;
    tq = topo_queue_by_id(topology_view(v->front->o.topology), id);
    if (tq == NULL) {
        *ret_err = ERR_NOT_FOUND;
        return NULL;
    }
    amqp_queue_spec(tq, &spec);
    *ret_err = queue_open(t, &spec, worker_wall_ms(v->worker), &q);
    return *ret_err == 0 ? q : NULL;
}

/* ---- requests: each writes its answer to v->answer, or returns an error that the gateway takes for "try again" ---- */

static int say(struct ask *a, enum forward_status status)
{
    buf_put_u8(&a->v->answer, (uint8_t)status);
    return 0;
}

static int refuse(struct ask *a, int err)
{
    if (err == ERR_NOT_FOUND)
        return say(a, FORWARD_NO_QUEUE);
    if (err == ERR_LOCKED)
        return say(a, FORWARD_LOCKED);
    forward_put_refused(&a->v->answer, err);
    return 0;
}

/* The answer waits until the queue's log is committed up to its end. */
static void wait_for_commit(struct ask *a)
{
    struct queue_info info;

    queue_info(a->q, &info);
    if (info.durable)
        a->commit_end = log_end(queue_log(a->q));
}

struct ended_arg {
    const struct topology *view;
};

/* Producer ids of queue logs: see remote.c. */
static bool producer_ended(void *arg, int64_t id)
{
    const struct topo_node *n = topo_node_find(((struct ended_arg *)arg)->view, AMQP_PRODUCER_NODE(id));

    return n == NULL || (uint32_t)n->epoch != AMQP_PRODUCER_EPOCH(id);
}

static int publish_new(struct ask *a, int64_t producer, int16_t incarnation, int32_t number, uint64_t n)
{
    struct buf refused = {0};
    uint64_t refused_count = 0;
    int err;

    for (uint64_t i = 0; i < n; i++) {
        struct forward_message m;
        struct queue_message qm;

        forward_get_message(&a->r, &m);
        qm = (struct queue_message){.exchange = m.exchange,
                                    .routing_key = m.routing_key,
                                    .properties = m.properties,
                                    .body = &m.body,
                                    .body_count = 1,
                                    .persistent = m.persistent,
                                    .priority = m.priority,
                                    .expiration_ms = m.expiration_ms};
        if (queue_publish(a->q, &qm, worker_wall_ms(a->v->worker), NULL) != 0) {
            buf_put_uvarint(&refused, i);
            refused_count++;
        }
    }
    err = queue_forward_end(a->q, producer, incarnation, number);
    if (err != 0) {
        buf_fini(&refused);
        (void)queue_table_flush(partition_queues(a->g.p), NULL); /* its error is answered here */
        return refuse(a, err);
    }
    say(a, FORWARD_OK);
    buf_put_uvarint(&a->v->answer, refused_count);
    buf_put_slice(&a->v->answer, buf_slice(&refused));
    buf_fini(&refused);
    return 0;
}

/* The messages are read before anything is done: a malformed batch has no effect. */
static bool messages_are_sound(struct reader r, uint64_t n)
{
    while (n-- > 0) {
        struct forward_message m;

        forward_get_message(&r, &m);
    }
    return forward_is_whole(&r);
}

static int on_publish(struct ask *a)
{
    int64_t producer = (int64_t)reader_be64(&a->r);
    int16_t incarnation = (int16_t)reader_be16(&a->r);
    int32_t number = (int32_t)reader_be32(&a->r), expected;
    uint64_t n = forward_get_count(&a->r, 5);
    int err;

    if (a->r.bad || n == 0 || producer < 0 || incarnation < 0 || number < 0 || !messages_are_sound(a->r, n))
        return ERR_MALFORMED;
    a->q = open_queue(a->v, partition_queues(a->g.p), a->head.queue_id, &err);
    if (a->q == NULL)
        return refuse(a, err);
    if (queue_producers(a->q) >= 64) {
        struct ended_arg e = {topology_view(a->v->front->o.topology)};

        queue_producers_forget(a->q, producer_ended, &e);
    }
    if ((a->head.flags & FORWARD_COMMIT) != 0 && !partition_quorum_ok(a->g.p))
        return refuse(a, ERR_NO_REPLICAS);
    err = queue_forward_begin(a->q, producer, incarnation, number, &expected);
    switch (err) {
    case 0:
        err = publish_new(a, producer, incarnation, number, n);
        break;
    case ERR_DUPLICATE:
        say(a, FORWARD_OK);
        /* Which of them a full queue had refused is not known any more: all are, for who asked for that overflow. */
        err = 0;
        if (queue_refuses_when_full(a->q)) {
            buf_put_uvarint(&a->v->answer, n);
            for (uint64_t i = 0; i < n; i++)
                buf_put_uvarint(&a->v->answer, i);
        } else {
            buf_put_uvarint(&a->v->answer, 0);
        }
        break;
    case ERR_OUT_OF_ORDER:
        say(a, FORWARD_EXPECTED);
        buf_put_be32(&a->v->answer, (uint32_t)expected);
        return 0;
    case ERR_FENCED:
        return say(a, FORWARD_FENCED);
    default:
        return refuse(a, err);
    }
    if ((a->head.flags & FORWARD_COMMIT) != 0)
        wait_for_commit(a);
    return err;
}

static bool claims_are_sound(struct reader r, uint64_t n)
{
    struct queue_handle h;

    while (n-- > 0)
        forward_get_handle(&r, &h);
    return forward_is_whole(&r);
}

/* What the client holds and what we think it holds become the same: ours that it does not name were lost on the way and are ready again; its that we do not have are claimed. */
static void reconcile(struct ask *a, struct served *c, uint64_t n)
{
    struct holding told = {0};
    struct holding *h = &c->holding;

    while (n-- > 0) {
        struct queue_handle handle;

        forward_get_handle(&a->r, &handle);
        if (holding_find(h, queue_handle_offset(&handle)) != NULL || queue_claim(a->q, c->attached ? &c->qc : NULL, &handle))
            holding_put(&told, &handle);
    }
    for (uint32_t i = 0; h->slots != NULL && i <= h->mask; i++) {
        if (h->slots[i].offset_flags != UINT64_MAX && holding_find(&told, queue_handle_offset(&h->slots[i])) == NULL)
            queue_settle(a->q, c->attached ? &c->qc : NULL, QUEUE_REQUEUE, &h->slots[i], 1);
    }
    holding_clear(h);
    c->holding = told;
}

static struct served *served_new(struct ask *a, uint64_t id)
{
    struct amqp_serve *v = a->v;
    struct served *c = mem_zalloc(sizeof(*c));

    c->serve = v;
    c->node_id = a->node_id;
    c->node_epoch = a->node_epoch;
    c->id = id;
    c->partition = a->head.partition;
    c->queue_id = a->head.queue_id;
    c->home = (a->head.flags & FORWARD_HOME) != 0;
    c->qc.news = news;
    log_commit_init(&c->commit, v->worker, reservation_done);
    for (unsigned i = 0; i < DELIVERS_MAX; i++)
        c->delivers[i].served = c;
    list_push_back(bucket_of(v, id), &c->node);
    v->count++;
    return c;
}

static int on_attach(struct ask *a)
{
    uint64_t id = reader_be64(&a->r);
    uint32_t generation = reader_be32(&a->r), prefetch = reader_be32(&a->r);
    int32_t priority = (int32_t)reader_be32(&a->r);
    uint64_t n = forward_get_count(&a->r, FORWARD_HANDLE_SIZE);
    struct served *c;
    bool fresh;
    int err;

    if (a->r.bad || id == 0 || !claims_are_sound(a->r, n))
        return ERR_MALFORMED;
    c = find(a->v, a->node_id, a->node_epoch, id);
    fresh = c == NULL;
    if (c != NULL && c->queue_id != a->head.queue_id)
        return ERR_MALFORMED;
    if (fresh && a->v->count >= CONSUMERS_MAX)
        return refuse(a, ERR_LIMIT);
    a->q = open_queue(a->v, partition_queues(a->g.p), a->head.queue_id, &err);
    if (a->q == NULL)
        return refuse(a, err);
    if (fresh)
        c = served_new(a, id);
    if (c->attached && c->qc.queue == NULL) { /* the queue was lost and found again */
        detach(c, worker_wall_ms(a->v->worker));
        holding_clear(&c->holding);
    }
    c->qc.no_ack = (a->head.flags & FORWARD_NO_ACK) != 0;
    c->qc.exclusive = (a->head.flags & FORWARD_EXCLUSIVE) != 0;
    c->qc.prefetch = prefetch;
    c->qc.priority = priority;
    if (c->attached && (a->head.flags & FORWARD_HOLD) != 0)
        detach(c, worker_wall_ms(a->v->worker));
    if (!c->attached && (a->head.flags & FORWARD_HOLD) == 0) {
        c->qc.cancelled = c->qc.lost = false;
        err = queue_consumer_add(a->q, &c->qc, worker_wall_ms(a->v->worker));
        if (err != 0) {
            if (fresh)
                forget(c);
            return refuse(a, err);
        }
        c->attached = true;
    }
    reconcile(a, c, n);
    c->generation = generation;
    c->broken = c->deleted = false;
    if (c->attached) {
        if (c->full)
            queue_consumer_resume(&c->qc);
        c->full = false;
        ready(c);
    }
    return say(a, FORWARD_OK);
}

static int on_detach(struct ask *a)
{
    uint64_t id = reader_be64(&a->r);
    struct served *c;
    uint32_t left = 0;
    int err;

    if (!forward_is_whole(&a->r))
        return ERR_MALFORMED;
    c = find(a->v, a->node_id, a->node_epoch, id);
    a->q = open_queue(a->v, partition_queues(a->g.p), a->head.queue_id, &err);
    if (a->q == NULL && err != ERR_NOT_FOUND)
        return refuse(a, err);
    if (c != NULL) {
        if (a->q != NULL && (a->head.flags & FORWARD_REQUEUE) != 0)
            requeue_all(a->q, c);
        if (c->attached)
            detach(c, worker_wall_ms(a->v->worker));
        if (a->q == NULL || c->holding.count == 0)
            forget(c);
    }
    if (a->q != NULL)
        left = queue_consumers(a->q);
    say(a, FORWARD_OK);
    buf_put_be32(&a->v->answer, left);
    return 0;
}

static bool settles_are_sound(struct reader r, uint64_t n)
{
    while (n-- > 0) {
        struct queue_handle h;
        uint64_t k;

        reader_be64(&r);
        if (reader_u8(&r) > QUEUE_DISCARD)
            return false;
        k = forward_get_count(&r, FORWARD_HANDLE_SIZE);
        while (k-- > 0)
            forward_get_handle(&r, &h);
    }
    return forward_is_whole(&r);
}

static void settle_group(struct ask *a, struct served *c, enum queue_settle how, uint64_t k)
{
    while (k-- > 0) {
        struct queue_handle asked, h;

        forward_get_handle(&a->r, &asked);
        if (holding_take(&c->holding, queue_handle_offset(&asked), &h))
            queue_settle(a->q, c->attached ? &c->qc : NULL, how, &h, 1);
    }
}

static int on_settle(struct ask *a)
{
    uint64_t n = forward_get_count(&a->r, 10);
    struct reader again;
    int err;

    if (a->r.bad || !settles_are_sound(a->r, n))
        return ERR_MALFORMED;
    a->q = open_queue(a->v, partition_queues(a->g.p), a->head.queue_id, &err);
    if (a->q == NULL)
        return refuse(a, err);
    again = a->r;
    for (uint64_t i = 0; i < n; i++) { /* all are known, or none is settled */
        uint64_t id = reader_be64(&again), k;

        reader_u8(&again);
        k = forward_get_count(&again, FORWARD_HANDLE_SIZE);
        reader_take(&again, (size_t)k * FORWARD_HANDLE_SIZE);
        if (find(a->v, a->node_id, a->node_epoch, id) == NULL)
            return say(a, FORWARD_NOT_ATTACHED);
    }
    for (uint64_t i = 0; i < n; i++) {
        struct served *c = find(a->v, a->node_id, a->node_epoch, reader_be64(&a->r));
        enum queue_settle how = (enum queue_settle)reader_u8(&a->r);
        uint64_t k = forward_get_count(&a->r, FORWARD_HANDLE_SIZE);

        settle_group(a, c, how, k);
    }
    (void)queue_table_flush(partition_queues(a->g.p), NULL); /* a full disk: they hold in memory, and the commit waits for the log's end as it is */
    wait_for_commit(a);
    return say(a, FORWARD_OK);
}

static bool got(void *arg, const struct queue_delivery *d)
{
    forward_put_delivery(arg, d);
    return true;
}

struct got_arg {
    struct buf *out;
    struct served *served;
    bool no_ack;
};

static bool keep_got(void *arg, const struct queue_delivery *d)
{
    struct got_arg *g = arg;

    if (!g->no_ack)
        holding_put(&g->served->holding, &d->handle);
    return got(g->out, d);
}

static int on_get(struct ask *a)
{
    uint64_t id = reader_be64(&a->r);
    struct served *c;
    struct buf *out = &a->v->out;
    struct log_commit *commit;
    struct got_arg arg;
    struct queue_take take;
    int err;

    if (!forward_is_whole(&a->r))
        return ERR_MALFORMED;
    c = find(a->v, a->node_id, a->node_epoch, id);
    if (c == NULL || c->broken)
        return say(a, FORWARD_NOT_ATTACHED);
    a->q = open_queue(a->v, partition_queues(a->g.p), a->head.queue_id, &err);
    if (a->q == NULL)
        return refuse(a, err);
    commit = mem_zalloc(sizeof(*commit));
    log_commit_init(commit, a->v->worker, NULL);
    buf_clear(out);
    arg = (struct got_arg){out, c, (a->head.flags & FORWARD_NO_ACK) != 0};
    /* A cold message is read here: gets are rare, and this worker serves nobody who cannot wait a moment. */
    take = (struct queue_take){.max = 1, .deliver = keep_got, .arg = &arg, .commit = commit, .read_cold = true};
    err = queue_get(a->q, arg.no_ack, &take, worker_wall_ms(a->v->worker));
    if (take.commit_added && take.stalled)
        a->commit = commit; /* arm it, and try again when it is done */
    else {
        if (take.commit_added)
            log_commit_cancel(commit);
        mem_free(commit);
    }
    if (err != 0)
        return refuse(a, err);
    if (take.stalled)
        return take.commit_added ? ERR_AGAIN : refuse(a, ERR_NOSPACE);
    say(a, FORWARD_OK);
    buf_put_u8(&a->v->answer, take.count != 0);
    if (take.count != 0) {
        buf_put_be32(&a->v->answer, (uint32_t)MIN_OF(take.ready, UINT32_MAX));
        buf_put_slice(&a->v->answer, buf_slice(out));
    }
    return 0;
}

static int on_control(struct ask *a)
{
    uint8_t what = reader_u8(&a->r);
    uint64_t n;
    int err;

    if (!forward_is_whole(&a->r) || what > FORWARD_PURGE)
        return ERR_MALFORMED;
    a->q = open_queue(a->v, partition_queues(a->g.p), a->head.queue_id, &err);
    if (a->q == NULL)
        return refuse(a, err);
    n = queue_ready(a->q);
    if (what == FORWARD_TOUCH)
        queue_touch(a->q, worker_wall_ms(a->v->worker));
    if (what == FORWARD_PURGE) {
        n = queue_purge(a->q);
        (void)queue_table_flush(partition_queues(a->g.p), NULL);
        wait_for_commit(a);
    }
    say(a, FORWARD_OK);
    buf_put_be64(&a->v->answer, n);
    buf_put_be32(&a->v->answer, queue_consumers(a->q));
    return 0;
}

static const struct {
    enum bus_type type;
    int (*fn)(struct ask *a);
} requests[] = {
    {BUS_QUEUE_PUBLISH, on_publish}, {BUS_QUEUE_ATTACH, on_attach},   {BUS_QUEUE_DETACH, on_detach},
    {BUS_QUEUE_SETTLE, on_settle},   {BUS_QUEUE_GET, on_get},         {BUS_QUEUE_CONTROL, on_control},
};

static int handle(struct ask *a)
{
    for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
        if (requests[i].type == a->type)
            return requests[i].fn(a);
    }
    UNREACHABLE();
}

/* ---- answering ----------------------------------------------------------------------------------------- */

struct waiting {
    struct log_commit commit; /* first */
    struct list node;
    struct amqp_serve *serve;
    struct bus_request *request;
    size_t len;
    uint8_t payload[];
};

static void committed(struct log_commit *commit, int err)
{
    struct waiting *w = CONTAINER_OF(commit, struct waiting, commit);

    list_remove(&w->node);
    bus_reply(w->serve->bus, w->request, err, err == 0 ? slice_of(w->payload, w->len) : SLICE_NONE);
    mem_free(w);
}

/* A get's reservation: whatever came of it, the gateway asks again at once. */
static void get_again(struct log_commit *commit, int err)
{
    struct waiting *w = CONTAINER_OF(commit, struct waiting, commit);

    list_remove(&w->node);
    bus_reply(w->serve->bus, w->request, err != 0 ? err : ERR_BUSY, SLICE_NONE);
    mem_free(w);
}

static struct waiting *waiting_new(struct ask *a, void (*done)(struct log_commit *, int))
{
    struct slice answer = buf_slice(&a->v->answer);
    struct waiting *w = mem_alloc(sizeof(*w) + answer.len);

    memset(w, 0, sizeof(*w));
    log_commit_init(&w->commit, a->v->worker, done);
    log_commit_since(&w->commit, a->mark);
    w->serve = a->v;
    w->request = a->request;
    w->len = answer.len;
    if (answer.len != 0)
        memcpy(w->payload, answer.data, answer.len);
    return w;
}

/* Without a partition nothing can be done; with a stale or early idea of who leads, the gateway looks again. */
static int run(struct amqp_serve *v, struct bus_request *r, uint32_t node_id, uint64_t node_epoch, enum bus_type type, struct slice payload)
{
    struct ask a = {.v = v, .request = r, .node_id = node_id, .node_epoch = node_epoch, .type = type, .r = reader_of(payload)};
    struct waiting *w = NULL;
    struct parked *parked;
    int err, left;

    if (v->stopped)
        return 0;
    forward_get_head(&a.r, &a.head);
    if (a.r.bad || a.head.partition >= partitions_count(v->front->o.partitions) || node_id == 0) {
        bus_reply(v->bus, r, ERR_MALFORMED, SLICE_LIT("a malformed request"));
        return 0;
    }
    err = enter(v, a.head.partition, (a.head.flags & FORWARD_HOME) != 0, false, &a.g, &parked);
    if (err == ERR_PARKED) {
        struct job *j = mem_alloc(sizeof(*j) + payload.len);

        *j = (struct job){.request = r, .node_id = node_id, .node_epoch = node_epoch, .type = type, .len = payload.len};
        memcpy(j->payload, payload.data, payload.len);
        list_push_back(&parked->jobs, &j->node);
        return ERR_PARKED;
    }
    if (err < 0) {
        bus_reply(v->bus, r, err, SLICE_NONE);
        return 0;
    }
    buf_clear(&v->answer);
    a.mark = log_commit_mark();
    if ((a.head.flags & FORWARD_HOME) == 0 && partition_epoch(a.g.p) != a.head.epoch)
        err = ERR_NOT_LEADER;
    else
        err = handle(&a);
    if (a.commit != NULL) {
        w = waiting_new(&a, get_again);
        log_commit_cancel(a.commit);
        mem_free(a.commit);
        log_commit_add(&w->commit, queue_log(a.q), log_end(queue_log(a.q)));
        err = 0;
    } else if (err == 0 && a.commit_end > 0) {
        w = waiting_new(&a, committed);
        log_commit_add(&w->commit, queue_log(a.q), a.commit_end);
    }
    left = partition_leave(&a.g);
    if (w != NULL) {
        if (left < 0) {
            log_commit_cancel(&w->commit);
            mem_free(w);
        } else {
            list_push_back(&v->waits, &w->node);
            if (log_commit_arm(&w->commit))
                w->commit.done(&w->commit, 0);
            return 0;
        }
    }
    /* Without a lease the outcome is not told: the gateway asks again, and what was done counts once. */
    if (left < 0)
        err = left;
    bus_reply(v->bus, r, err, err == 0 ? buf_slice(&v->answer) : SLICE_NONE);
    return 0;
}

#define HANDLER(name)                                                                                                    \
    static void take_##name(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)         \
    {                                                                                                                    \
        struct amqp_serve *v = arg;                                                                                      \
                                                                                                                         \
        if (r != NULL)                                                                                                   \
            run(v, r, from->node_id, from->node_epoch, BUS_##name, payload);                                             \
    }
HANDLER(QUEUE_PUBLISH)
HANDLER(QUEUE_ATTACH)
HANDLER(QUEUE_DETACH)
HANDLER(QUEUE_SETTLE)
HANDLER(QUEUE_GET)
HANDLER(QUEUE_CONTROL)

/* ---- delivering ---------------------------------------------------------------------------------------- */

static void drop(struct served *c);

static void deliver_done(struct bus_call *call, int err, struct slice payload)
{
    struct deliver_call *d = CONTAINER_OF(call, struct deliver_call, call);
    struct served *c = d->served;

    d->busy = false;
    if (c->gone) {
        free_if_unused(c);
        return;
    }
    if (d->generation != c->generation)
        return; /* attached anew since: that has told what arrived */
    if (err != 0) {
        c->broken = true;
        return;
    }
    if (payload.len == 1 && payload.data[0] == FORWARD_NOT_ATTACHED) {
        drop(c);
        return;
    }
    if (c->attached)
        ready(c);
}

static struct deliver_call *free_call(struct served *c)
{
    for (unsigned i = 0; i < DELIVERS_MAX; i++) {
        if (!c->delivers[i].busy)
            return &c->delivers[i];
    }
    return NULL;
}

struct encoding {
    struct served *served;
    struct buf *out;
};

static bool encode(void *arg, const struct queue_delivery *d)
{
    struct encoding *e = arg;

    if (e->out->len > DELIVER_BYTES)
        return false;
    if (!e->served->qc.no_ack)
        holding_put(&e->served->holding, &d->handle);
    forward_put_delivery(e->out, d);
    return true;
}

struct warm_job {
    struct bg_job job;
    struct log_span span;
    struct served *served;
};

static void warm_run(struct bg_job *job)
{
    (void)queue_warm(&CONTAINER_OF(job, struct warm_job, job)->span);
}

static void warm_done(struct bg_job *job)
{
    struct warm_job *w = CONTAINER_OF(job, struct warm_job, job);
    struct served *c = w->served;

    log_span_release(&w->span);
    mem_free(w);
    c->warming = false;
    c->pins--;
    c->read_cold = true;
    if (c->gone)
        free_if_unused(c);
    else
        ready(c);
}

static void warm(struct served *c, const struct log_span *span)
{
    struct warm_job *w = mem_zalloc(sizeof(*w));

    w->span = *span;
    w->served = c;
    w->job.reply_to = c->serve->worker;
    w->job.run = warm_run;
    w->job.done = warm_done;
    c->warming = true;
    c->pins++;
    bg_submit(c->serve->front->o.workers, BG_DISK, &w->job);
}

/* Under the lock. Encodes what the consumer may have into v->out; returns how many. */
static uint32_t take(struct served *c, int64_t now_ms, bool *ret_arm)
{
    struct amqp_serve *v = c->serve;
    struct encoding e = {c, &v->out};
    struct queue_take t = {.max = QUEUE_TAKE_MAX, .deliver = encode, .arg = &e, .commit = c->committing ? NULL : &c->commit, .read_cold = c->read_cold};
    int err;

    *ret_arm = false;
    buf_clear(&v->out);
    if (c->warming || c->broken)
        return 0;
    if (free_call(c) == NULL) {
        if (!c->full) {
            c->full = true;
            queue_consumer_pause(&c->qc);
        }
        (void)queue_take(&c->qc, &t, now_ms); /* takes nothing, answers its news */
        return 0;
    }
    if (c->full) {
        c->full = false;
        queue_consumer_resume(&c->qc);
    }
    c->read_cold = false;
    err = queue_take(&c->qc, &t, now_ms);
    if (c->qc.paused) /* the bytes of one DELIVER were full */
        queue_consumer_resume(&c->qc);
    if (err == ERR_AGAIN)
        warm(c, &t.cold);
    else if (err < 0)
        DIAG_EVERY(DIAG_ERROR, "amqp: a queue cannot be read", "queue=%llu error=\"%s\"", (unsigned long long)c->queue_id, err_text(err));
    *ret_arm = t.commit_added;
    return t.count;
}

static void send_deliver(struct served *c, uint32_t n)
{
    struct amqp_serve *v = c->serve;
    struct deliver_call *d = free_call(c);
    struct buf *text = &v->answer;

    buf_clear(text);
    buf_put_be64(text, c->id);
    buf_put_be32(text, c->generation);
    buf_put_uvarint(text, n);
    buf_put_slice(text, buf_slice(&v->out));
    d->busy = true;
    d->generation = c->generation;
    d->call.worker = v->worker;
    d->call.done = deliver_done;
    bus_call(v->bus, c->node_id, BUS_QUEUE_DELIVER, buf_slice(text), DELIVER_TIMEOUT_MS, &d->call);
    amqp_count(&v->front->workers[worker_index(v->worker)].count.delivered, n);
}

static void serve_one(struct served *c)
{
    struct amqp_serve *v = c->serve;
    struct partition_guard g;
    struct parked *parked;
    bool arm = false, upkeep;
    uint32_t n = 0;
    int err;

    if (!c->attached)
        return;
    c->again = false;
    err = enter(v, c->partition, c->home, false, &g, &parked);
    upkeep = err < 0 && err != ERR_PARKED; /* not led here, or without a lease */
    if (upkeep)
        err = enter(v, c->partition, c->home, true, &g, &parked);
    if (err == ERR_PARKED) {
        list_push_back(&parked->consumers, &c->ready);
        return;
    }
    if (err < 0 || (upkeep && c->qc.queue != NULL)) {
        if (err == 0)
            (void)partition_leave(&g);
        c->again = true;
        return;
    }
    if (c->qc.queue == NULL) {
        bool deleted = c->qc.cancelled;

        detach(c, worker_wall_ms(v->worker));
        holding_clear(&c->holding);
        (void)partition_leave(&g);
        if (deleted)
            c->deleted = true; /* the gateway is to know */
        else
            forget(c);
        return;
    }
    n = take(c, worker_wall_ms(v->worker), &arm);
    err = partition_leave(&g);
    if (err < 0 && n != 0) {
        c->broken = true; /* without a lease nothing is delivered */
        n = 0;
    }
    if (arm) {
        if (log_commit_arm(&c->commit))
            ready(c);
        else
            c->committing = true;
    }
    if (n != 0)
        send_deliver(c, n);
}

static void hook_run(struct worker *w, struct worker_hook *h)
{
    struct amqp_serve *v = CONTAINER_OF(h, struct amqp_serve, hook);
    struct list *n;

    for (unsigned i = 0; !v->stopped && i < 256 && (n = list_pop_front(&v->ready)) != NULL; i++)
        serve_one(LIST_ENTRY(n, struct served, ready));
    if (!v->stopped && !list_empty(&v->ready))
        worker_hook_once(w, h);
}

/* ---- those whose gateway is gone, and those who must attach anew ---- */

/* What it holds is ready again. When the lock is not to be had within the moment a worker may wait, the tick comes again. */
static void drop(struct served *c)
{
    struct amqp_serve *v = c->serve;
    struct partition_guard g;
    struct queue *q;
    int err = partition_enter_upkeep(partitions_get(v->front->o.partitions, c->partition), NULL, &g);

    if (err == ERR_BUSY) {
        c->broken = true;
        return;
    }
    if (err == 0) {
        q = queue_find(partition_queues(g.p), c->queue_id);
        if (q != NULL && (!c->attached || c->qc.queue == q))
            requeue_all(q, c);
        if (c->attached)
            detach(c, worker_wall_ms(v->worker));
        (void)partition_leave(&g);
    } else if (c->attached) {
        c->pins++; /* the partition has failed: the engine may refer to it for ever */
        c->attached = false;
    }
    holding_clear(&c->holding);
    forget(c);
}

static void gone_done(struct bus_call *call, int err, struct slice payload)
{
    struct served *c = CONTAINER_OF(call, struct served, gone_call);

    c->gone_busy = false;
    if (c->gone)
        free_if_unused(c);
    else if (err == 0 && c->deleted)
        forget(c);
    else if (err == 0 && payload.len == 1 && payload.data[0] == FORWARD_NOT_ATTACHED && c->broken)
        drop(c);
}

static void tell_gone(struct served *c)
{
    struct amqp_serve *v = c->serve;
    struct buf *text = &v->answer;

    if (c->gone_busy || worker_now_us(v->worker) - c->gone_at_us < 900000)
        return;
    buf_clear(text);
    buf_put_be64(text, c->id);
    buf_put_be32(text, c->generation);
    buf_put_u8(text, c->deleted ? FORWARD_DELETED : FORWARD_ATTACH_ANEW);
    c->gone_busy = true;
    c->gone_at_us = worker_now_us(v->worker);
    c->gone_call.worker = v->worker;
    c->gone_call.done = gone_done;
    bus_call(v->bus, c->node_id, BUS_QUEUE_GONE, buf_slice(text), GONE_TIMEOUT_MS, &c->gone_call);
}

static bool gateway_ended(const struct topology *view, const struct served *c)
{
    const struct topo_node *n = topo_node_find(view, c->node_id);

    return n == NULL || n->epoch != c->node_epoch || n->state == TOPO_NODE_FENCED;
}

static void tick(struct worker *w, struct io_timer *t)
{
    struct amqp_serve *v = CONTAINER_OF(t, struct amqp_serve, timer);
    const struct topology *view = topology_view(v->front->o.topology);

    (void)w;
    for (unsigned i = 0; v->count != 0 && i < BUCKETS; i++) {
        LIST_FOREACH_SAFE (n, &v->buckets[i]) {
            struct served *c = LIST_ENTRY(n, struct served, node);

            if (gateway_ended(view, c))
                drop(c);
            else if (c->broken || c->deleted)
                tell_gone(c);
            else if (!c->attached && c->holding.count != 0 && partition_role(partitions_get(v->front->o.partitions, c->partition)) < PARTITION_OPENING && !c->home)
                drop(c); /* it held deliveries of a queue that is led elsewhere now */
            else if (c->again && !list_linked(&c->ready))
                ready(c);
        }
    }
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static void start(struct worker *w, struct mail *m)
{
    struct amqp_serve *v = CONTAINER_OF(m, struct amqp_serve, start);

    io_timer_start(w, &v->timer, TICK_MS, TICK_MS);
}

struct amqp_serve *amqp_serve_new(struct amqp_front *f)
{
    struct amqp_serve *v = mem_zalloc(sizeof(*v));

    v->front = f;
    v->bus = f->o.bus;
    v->worker = f->o.data;
    for (unsigned i = 0; i < BUCKETS; i++)
        list_init(&v->buckets[i]);
    list_init(&v->ready);
    list_init(&v->parks);
    list_init(&v->waits);
    v->hook.run = hook_run;
    io_timer_init(&v->timer, tick);
    bus_handle(v->bus, BUS_QUEUE_PUBLISH, take_QUEUE_PUBLISH, v);
    bus_handle(v->bus, BUS_QUEUE_ATTACH, take_QUEUE_ATTACH, v);
    bus_handle(v->bus, BUS_QUEUE_DETACH, take_QUEUE_DETACH, v);
    bus_handle(v->bus, BUS_QUEUE_SETTLE, take_QUEUE_SETTLE, v);
    bus_handle(v->bus, BUS_QUEUE_GET, take_QUEUE_GET, v);
    bus_handle(v->bus, BUS_QUEUE_CONTROL, take_QUEUE_CONTROL, v);
    v->start.deliver = start;
    worker_post(v->worker, &v->start);
    return v;
}

void amqp_serve_stop(struct amqp_serve *v)
{
    struct list *n;

    v->stopped = true;
    io_timer_stop(v->worker, &v->timer);
    while ((n = list_pop_front(&v->ready)) != NULL)
        ;
    while ((n = list_pop_front(&v->waits)) != NULL) {
        struct waiting *w = LIST_ENTRY(n, struct waiting, node);

        log_commit_cancel(&w->commit);
        mem_free(w);
    }
    for (unsigned i = 0; i < BUCKETS; i++) {
        LIST_FOREACH (k, &v->buckets[i]) {
            struct served *c = LIST_ENTRY(k, struct served, node);

            for (unsigned d = 0; d < DELIVERS_MAX; d++)
                bus_call_cancel(&c->delivers[d].call);
            bus_call_cancel(&c->gone_call);
            if (c->committing)
                log_commit_cancel(&c->commit);
            c->committing = false;
        }
    }
}

void amqp_serve_free(struct amqp_serve *v)
{
    if (v == NULL)
        return;
    for (unsigned i = 0; i < BUCKETS; i++) {
        struct list *n;

        while ((n = list_pop_front(&v->buckets[i])) != NULL) {
            struct served *c = LIST_ENTRY(n, struct served, node);
            struct partition_guard g;

            if (c->attached) {
                partition_enter_background(partitions_get(v->front->o.partitions, c->partition), 0, &g);
                detach(c, 0);
                (void)partition_leave(&g);
            }
            holding_clear(&c->holding);
            mem_free(c);
        }
    }
    while (!list_empty(&v->parks)) {
        struct parked *p = LIST_ENTRY(v->parks.next, struct parked, node);
        struct list *n;

        list_remove(&p->node);
        while ((n = list_pop_front(&p->jobs)) != NULL)
            mem_free(LIST_ENTRY(n, struct job, node));
        mem_free(p);
    }
    buf_fini(&v->answer);
    buf_fini(&v->out);
    mem_free(v);
}
