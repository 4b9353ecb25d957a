/* Served consumers: what their clients hold, news, deliveries, and those whose gateway is gone. See serve.c for their life. */
#include "base/diag.h"
#include "base/mem.h"
#include "protocols/amqp/served.h"

/* ---- the set of what a client holds -------------------------------------------------------------------- */

static uint32_t slot_of(const struct holding *h, int64_t offset)
{
    return (uint32_t)(((uint64_t)offset * 0x9e3779b97f4a7c15ull) >> 32) & h->mask;
}

struct queue_handle *holding_find(const struct holding *h, int64_t offset)
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

void holding_put(struct holding *h, const struct queue_handle *handle)
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

bool holding_take(struct holding *h, int64_t offset, struct queue_handle *ret)
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

void holding_clear(struct holding *h)
{
    mem_free(h->slots);
    *h = (struct holding){0};
}

/* ---- served consumers ---------------------------------------------------------------------------------- */

struct list *served_bucket(struct amqp_serve *v, uint64_t id)
{
    return &v->buckets[(id * 0x9e3779b97f4a7c15ull >> 40) % BUCKETS];
}

struct served *served_find(struct amqp_serve *v, uint32_t node_id, uint64_t node_epoch, uint64_t id)
{
    LIST_FOREACH (n, served_bucket(v, id)) {
        struct served *c = LIST_ENTRY(n, struct served, node);

        if (c->id == id && c->node_id == node_id && c->node_epoch == node_epoch)
            return c;
    }
    return NULL;
}

void served_ready(struct served *c)
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
        served_ready(c);
}

/* Under the partition's lock, any thread. */
void served_news(struct queue_consumer *qc)
{
    struct served *c = CONTAINER_OF(qc, struct served, qc);

    if (worker_current() == c->serve->worker) {
        served_ready(c);
        return;
    }
    c->mailed = true;
    c->mail.deliver = news_mail;
    worker_post(c->serve->worker, &c->mail);
}

/* Off its queue, under the lock (of whatever role). */
void served_detach(struct served *c, int64_t now_ms)
{
    (void)queue_consumer_remove(&c->qc, now_ms);
    if (c->committing)
        log_commit_cancel(&c->commit);
    c->committing = false;
    c->attached = false;
}

void served_requeue_all(struct queue *q, struct served *c)
{
    struct holding *h = &c->holding;

    for (uint32_t i = 0; h->slots != NULL && i <= h->mask; i++) {
        if (h->slots[i].offset_flags != UINT64_MAX)
            queue_settle(q, c->attached ? &c->qc : NULL, QUEUE_REQUEUE, &h->slots[i], 1);
    }
    holding_clear(h);
}

/* It is no more; not under a lock of ours, or under that of its partition after detach. */
void served_forget(struct served *c)
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

void served_reservation_done(struct log_commit *commit, int err)
{
    struct served *c = CONTAINER_OF(commit, struct served, commit);

    c->committing = false;
    if (err == 0)
        served_ready(c);
}

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
        served_ready(c);
        return;
    }
    if (payload.len == 1 && payload.data[0] == FORWARD_NOT_ATTACHED) {
        drop(c);
        return;
    }
    if (c->attached)
        served_ready(c);
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
        served_ready(c);
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
    if (c->warming)
        return 0;
    if (c->broken || free_call(c) == NULL) { /* what it was granted goes to others meanwhile */
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
    err = serve_enter(v, c->partition, c->home, false, &g, &parked);
    upkeep = err < 0 && err != ERR_PARKED; /* not led here, or without a lease */
    if (upkeep)
        err = serve_enter(v, c->partition, c->home, true, &g, &parked);
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

        served_detach(c, worker_wall_ms(v->worker));
        holding_clear(&c->holding);
        (void)partition_leave(&g);
        if (deleted)
            c->deleted = true; /* the gateway is to know */
        else
            served_forget(c);
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
            served_ready(c);
        else
            c->committing = true;
    }
    if (n != 0)
        send_deliver(c, n);
}

void served_hook_run(struct worker *w, struct worker_hook *h)
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

    if (err == ERR_BUSY || err == ERR_AGAIN) { /* held by another, or its keys are being rebuilt */
        c->broken = true;
        return;
    }
    if (err == 0) {
        q = queue_find(partition_queues(g.p), c->queue_id);
        if (q != NULL && c->opened == queue_opened(q))
            served_requeue_all(q, c);
        if (c->attached)
            served_detach(c, worker_wall_ms(v->worker));
        (void)partition_leave(&g);
    } else if (c->attached) {
        c->pins++; /* the partition has failed: the engine may refer to it for ever */
        c->attached = false;
    }
    holding_clear(&c->holding);
    served_forget(c);
}

static void gone_done(struct bus_call *call, int err, struct slice payload)
{
    struct served *c = CONTAINER_OF(call, struct served, gone_call);

    c->gone_busy = false;
    if (c->gone)
        free_if_unused(c);
    else if (err == 0 && c->deleted)
        served_forget(c);
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

void served_tick(struct worker *w, struct io_timer *t)
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
                served_ready(c);
        }
    }
}
