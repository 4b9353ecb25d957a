/* Serving gateways.
 *
 * A served consumer stands for a consumer (or a holder of deliveries) of a gateway's channel: the engine's consumer, and the set of what its client holds, so that a settlement counts once and the deliveries of a node that
 * died come back. It is known by (node, node epoch, the gateway's number for it); each attachment raises its generation.
 *
 *   ATTACH -> attached -> DELIVER ... -> broken (a DELIVER was not answered: what arrived is unknown) -> GONE until the gateway attaches anew, telling what its client holds: the rest is ready again
 *                      -> holding (DETACH): until what it holds is settled
 *                      -> dropped: requeued when the gateway's node was fenced or has a new epoch, or does not know the consumer; forgotten when this node no longer leads
 *
 * DELIVER is answered when the client's connection has taken it, and few of them are under way at once: that is the credit. Requests for a partition somebody else holds wait in order with the partition's park, those for a queue that is being opened with one of
 * that queue. */
#include "protocols/amqp/served.h"

#include "base/diag.h"
#include "base/mem.h"
#include "protocols/amqp/remote.h"

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

/* ---- entering ------------------------------------------------------------------------------------------ */

static struct parked *park_find(struct amqp_serve *v, uint32_t partition, uint64_t queue_id)
{
    LIST_FOREACH (n, &v->parks) {
        struct parked *p = LIST_ENTRY(n, struct parked, node);

        if (p->partition == partition && p->queue_id == queue_id)
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

static struct parked *park_new(struct amqp_serve *v, uint32_t partition, uint64_t queue_id)
{
    struct parked *w = mem_zalloc(sizeof(*w));

    w->serve = v;
    w->partition = partition;
    w->queue_id = queue_id;
    w->park.worker = v->worker;
    w->park.retry = retry;
    list_init(&w->jobs);
    list_init(&w->consumers);
    return w;
}

/* 0, ERR_PARKED (*ret_parked: who waits is to be added), or why not. */
int serve_enter(struct amqp_serve *v, uint32_t partition, bool home, bool upkeep, struct partition_guard *g, struct parked **ret_parked)
{
    struct partition *p = partitions_get(v->front->o.partitions, partition);
    struct parked *w = list_empty(&v->parks) ? NULL : park_find(v, partition, 0);
    int err = ERR_PARKED;

    if (w == NULL) {
        w = park_new(v, partition, 0);
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
    err = queue_forward_look(a->q, producer, incarnation, number, &expected);
    /* Only what is new is refused: a refusal says that it is not in the log, and frees its number. */
    if (err == 0 && (a->head.flags & FORWARD_COMMIT) != 0 && !partition_quorum_ok(a->g.p))
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
    c->qc.news = served_news;
    log_commit_init(&c->commit, v->worker, served_reservation_done);
    for (unsigned i = 0; i < DELIVERS_MAX; i++)
        c->delivers[i].served = c;
    list_push_back(served_bucket(v, id), &c->node);
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
    c = served_find(a->v, a->node_id, a->node_epoch, id);
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
    if (c->opened != queue_opened(a->q)) { /* the queue was lost and found again: what it held is ready */
        if (c->attached)
            served_detach(c, worker_wall_ms(a->v->worker));
        holding_clear(&c->holding);
        c->opened = queue_opened(a->q);
    }
    c->qc.no_ack = (a->head.flags & FORWARD_NO_ACK) != 0;
    c->qc.exclusive = (a->head.flags & FORWARD_EXCLUSIVE) != 0;
    c->qc.prefetch = prefetch;
    c->qc.priority = priority;
    if (c->attached && (a->head.flags & FORWARD_HOLD) != 0)
        served_detach(c, worker_wall_ms(a->v->worker));
    if (!c->attached && (a->head.flags & FORWARD_HOLD) == 0) {
        c->qc.cancelled = c->qc.lost = false;
        err = queue_consumer_add(a->q, &c->qc, worker_wall_ms(a->v->worker));
        if (err != 0) {
            if (fresh)
                served_forget(c);
            return refuse(a, err);
        }
        c->attached = true;
    }
    reconcile(a, c, n);
    c->generation = generation;
    c->broken = c->deleted = false;
    if (c->attached) {
        c->full = false;
        queue_consumer_resume(&c->qc); /* its prefetch may be another */
        served_ready(c);
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
    c = served_find(a->v, a->node_id, a->node_epoch, id);
    a->q = open_queue(a->v, partition_queues(a->g.p), a->head.queue_id, &err);
    if (a->q == NULL && err != ERR_NOT_FOUND)
        return refuse(a, err);
    if (c != NULL) {
        if (a->q == NULL || c->opened != queue_opened(a->q))
            holding_clear(&c->holding);
        else if ((a->head.flags & FORWARD_REQUEUE) != 0)
            served_requeue_all(a->q, c);
        if (c->attached)
            served_detach(c, worker_wall_ms(a->v->worker));
        if (a->q == NULL || c->holding.count == 0)
            served_forget(c);
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
        const struct served *c;

        reader_u8(&again);
        k = forward_get_count(&again, FORWARD_HANDLE_SIZE);
        reader_take(&again, (size_t)k * FORWARD_HANDLE_SIZE);
        c = served_find(a->v, a->node_id, a->node_epoch, id);
        if (c == NULL || c->opened != queue_opened(a->q))
            return say(a, FORWARD_NOT_ATTACHED);
    }
    for (uint64_t i = 0; i < n; i++) {
        struct served *c = served_find(a->v, a->node_id, a->node_epoch, reader_be64(&a->r));
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
    c = served_find(a->v, a->node_id, a->node_epoch, id);
    if (c == NULL || c->broken)
        return say(a, FORWARD_NOT_ATTACHED);
    a->q = open_queue(a->v, partition_queues(a->g.p), a->head.queue_id, &err);
    if (a->q == NULL)
        return refuse(a, err);
    if (c->opened != queue_opened(a->q))
        return say(a, FORWARD_NOT_ATTACHED);
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

static void park_job(struct parked *parked, struct bus_request *r, uint32_t node_id, uint64_t node_epoch, enum bus_type type, struct slice payload)
{
    struct job *j = mem_alloc(sizeof(*j) + payload.len);

    *j = (struct job){.request = r, .node_id = node_id, .node_epoch = node_epoch, .type = type, .len = payload.len};
    memcpy(j->payload, payload.data, payload.len);
    list_push_back(&parked->jobs, &j->node);
}

/* Entered. True: the request's queue is being opened, and it waits for that. */
static bool waits_for_opening(struct ask *a, struct parked **ret)
{
    int err;

    if (open_queue(a->v, partition_queues(a->g.p), a->head.queue_id, &err) != NULL || err != ERR_AGAIN)
        return false;
    *ret = park_new(a->v, a->head.partition, a->head.queue_id);
    list_push_back(&a->v->parks, &(*ret)->node);
    partition_park_opening(&a->g, &(*ret)->park);
    return true;
}

/* Without a partition nothing can be done; with a stale or early idea of who leads, the gateway looks again. */
static int run(struct amqp_serve *v, struct bus_request *r, uint32_t node_id, uint64_t node_epoch, enum bus_type type, struct slice payload)
{
    struct ask a = {.v = v, .request = r, .node_id = node_id, .node_epoch = node_epoch, .type = type, .r = reader_of(payload)};
    struct waiting *w = NULL;
    struct parked *parked;
    bool home;
    int err, left;

    if (v->stopped)
        return 0;
    forward_get_head(&a.r, &a.head);
    if (a.r.bad || a.head.partition >= partitions_count(v->front->o.partitions) || node_id == 0) {
        bus_reply(v->bus, r, ERR_MALFORMED, SLICE_LIT("a malformed request"));
        return 0;
    }
    home = (a.head.flags & FORWARD_HOME) != 0;
    parked = list_empty(&v->parks) ? NULL : park_find(v, a.head.partition, a.head.queue_id);
    err = parked != NULL ? ERR_PARKED : serve_enter(v, a.head.partition, home, false, &a.g, &parked);
    if (err == ERR_PARKED) {
        park_job(parked, r, node_id, node_epoch, type, payload);
        return ERR_PARKED;
    }
    if (err < 0) {
        bus_reply(v->bus, r, err, SLICE_NONE);
        return 0;
    }
    buf_clear(&v->answer);
    a.mark = log_commit_mark();
    if (!home && partition_epoch(a.g.p) != a.head.epoch) {
        err = ERR_NOT_LEADER;
    } else if (!home && waits_for_opening(&a, &parked)) {
        park_job(parked, r, node_id, node_epoch, type, payload);
        (void)partition_leave(&a.g);
        return ERR_PARKED;
    } else {
        err = handle(&a);
    }
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
    v->hook.run = served_hook_run;
    io_timer_init(&v->timer, served_tick);
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
                served_detach(c, 0);
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
