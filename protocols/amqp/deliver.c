/* Deliveries: a consumer's news links it to its worker's ready list; at the turn's end each partition with
 * ready consumers is entered once and what they may have is encoded straight into their connections' output
 * (P4, P25).
 *
 * Life of a consumer's memory: made by basic.consume; detached from its queue under the partition's lock
 * (cancel, channel end, queue deleted); freed at once, or, while a mail or a disk read that names it is under
 * way, when that arrives. */
#include "base/diag.h"
#include "base/mem.h"
#include "protocols/amqp/remote.h"
#include "protocols/amqp/session.h"

#define ENTER_CONSUMERS_MAX 32 /* served in one acquisition of a partition */
#define ROUNDS_MAX 64          /* acquisitions a turn; the rest waits for the next */

/* Consumers that wait for a partition somebody else holds. */
struct delivery_park {
    struct partition_park park;
    struct list node;      /* of the worker's parks */
    struct list consumers; /* their `ready` */
    struct amqp_worker *aw;
    uint32_t partition;
};

/* ---- news ---------------------------------------------------------------------------------------------- */

void amqp_consumer_ready(struct amqp_consumer *c)
{
    struct amqp_worker *aw = c->aw;

    if (!list_linked(&c->ready))
        list_push_back(&aw->ready, &c->ready);
    worker_hook_once(aw->worker, &aw->hook);
}

static void consumer_free(struct amqp_consumer *c)
{
    mem_free((void *)c->tag.data);
    buf_fini(&c->prefix);
    mem_free(c);
}

void amqp_consumer_release(struct amqp_consumer *c)
{
    if (c->pins == 0 && !c->mailed)
        consumer_free(c);
}

void amqp_consumer_unpin(struct amqp_consumer *c)
{
    CHECK(c->pins > 0);
    c->pins--;
    if (c->channel == NULL && c->pins == 0 && !c->mailed)
        consumer_free(c);
}

static void news_mail(struct worker *w, struct mail *m)
{
    struct amqp_consumer *c = CONTAINER_OF(m, struct amqp_consumer, mail);

    (void)w;
    c->mailed = false;
    if (c->channel != NULL)
        amqp_consumer_ready(c);
    else if (c->pins == 0)
        consumer_free(c);
}

/* Under the partition's lock, on whatever thread changed the queue. At most one at a time: the engine's
 * `told`. */
void amqp_consumer_news(struct queue_consumer *qc)
{
    struct amqp_consumer *c = CONTAINER_OF(qc, struct amqp_consumer, qc);

    if (worker_current() == c->aw->worker) {
        if (c->channel != NULL) /* else it was abandoned in a partition that had failed, and has been repaired */
            amqp_consumer_ready(c);
        return;
    }
    c->mailed = true;
    c->mail.deliver = news_mail;
    worker_post(c->aw->worker, &c->mail);
}

void amqp_consumer_detach(struct amqp_consumer *c, int64_t now_ms)
{
    struct amqp_channel *ch = c->channel;

    if (GM_UNLIKELY(c->remote != NULL)) {
        amqp_remote_consumer_end(c);
        return;
    }
    (void)queue_consumer_remove(
        &c->qc, now_ms); /* news under way is a mail or a place in a list: both are ours to see */
    if (c->committing)
        log_commit_cancel(&c->commit);
    c->committing = false;
    list_remove(&c->ready);
    list_remove(&c->node);
    ch->consumer_count--;
    amqp_count(&c->aw->count.consumers, (uint64_t)-1);
    c->channel = NULL;
    ch->sources[c->source].consumer = NULL;
    amqp_source_release(ch, c->source);
    if (c->pins == 0 && !c->mailed)
        consumer_free(c);
}

void amqp_consumer_abandon(struct amqp_consumer *c)
{
    struct amqp_channel *ch = c->channel;

    if (c->committing)
        log_commit_cancel(&c->commit);
    c->committing = false;
    list_remove(&c->ready);
    list_remove(&c->node);
    ch->consumer_count--;
    amqp_count(&c->aw->count.consumers, (uint64_t)-1);
    ch->sources[c->source].consumer = NULL;
    amqp_source_release(ch, c->source);
    c->channel = NULL;
    c->pins++; /* for ever */
}

/* ---- encoding ------------------------------------------------------------------------------------------ */

/* The content of a delivery: header and body frames. */
static void put_content(struct buf *out, uint16_t channel, uint32_t frame_max, const struct queue_delivery *d)
{
    amqp_put_content(out, channel, frame_max, d->properties, d->body);
}

/* One basic.deliver with its content, hand-written because every message passes here: the same bytes
 * amqp_put_basic_deliver and amqp_put_content write. */
static void put_deliver(struct buf *out, const struct amqp_consumer *c, uint32_t frame_max, uint64_t tag,
                        const struct queue_delivery *d)
{
    uint16_t channel = c->channel->number;
    size_t fixed = c->prefix.len + 9 + 1 + d->exchange.len + 1 + d->routing_key.len + 1;
    uint8_t *start =
                buf_reserve(out, fixed + AMQP_FRAME_OVERHEAD * 2 + 12 + d->properties.len + d->body.len + 16),
            *p = start;

    memcpy(p, c->prefix.data, c->prefix.len);
    be32_put(p + 3, (uint32_t)(fixed - AMQP_FRAME_OVERHEAD));
    p += c->prefix.len;
    be64_put(p, tag);
    p[8] = d->redelivered;
    p[9] = (uint8_t)d->exchange.len;
    p += 10;
    memcpy(p, d->exchange.data, d->exchange.len);
    p += d->exchange.len;
    *p++ = (uint8_t)d->routing_key.len;
    memcpy(p, d->routing_key.data, d->routing_key.len);
    p += d->routing_key.len;
    *p++ = AMQP_FRAME_END;
    if (d->body.len == 0 || d->body.len > frame_max - AMQP_FRAME_OVERHEAD) {
        buf_advance(out, (size_t)(p - start));
        put_content(out, channel, frame_max, d);
        return;
    }
    *p = AMQP_FRAME_CONTENT_HEADER;
    be16_put(p + 1, channel);
    be32_put(p + 3, (uint32_t)(12 + d->properties.len));
    be32_put(p + 7, AMQP_CLASS_BASIC << 16);
    be64_put(p + 11, d->body.len);
    p += 19;
    memcpy(p, d->properties.data, d->properties.len);
    p += d->properties.len;
    *p++ = AMQP_FRAME_END;
    *p = AMQP_FRAME_BODY;
    be16_put(p + 1, channel);
    be32_put(p + 3, (uint32_t)d->body.len);
    p += AMQP_FRAME_HEADER;
    memcpy(p, d->body.data, d->body.len);
    p += d->body.len;
    *p++ = AMQP_FRAME_END;
    buf_advance(out, (size_t)(p - start));
}

static void deliver(struct amqp_consumer *c, const struct queue_delivery *d)
{
    struct amqp_channel *ch = c->channel;
    struct amqp_session *s = ch->session;
    struct queue_handle h = d->handle;
    uint64_t tag;

    if (c->qc.no_ack) {
        tag = amqp_unacked_skip(&ch->unacked);
    } else {
        h.consumer = c->source;
        tag = amqp_unacked_push(&ch->unacked, &h);
        ch->sources[c->source].outstanding++;
        ch->global_outstanding++;
    }
    put_deliver(conn_out(s->conn), c, s->frame_max, tag, d);
    amqp_count(&s->aw->count.redelivered, d->redelivered);
}

static bool deliver_one(void *arg, const struct queue_delivery *d)
{
    struct amqp_consumer *c = arg;

    if (conn_output_full(c->channel->session->conn)) {
        c->full = true;
        return false;
    }
    deliver(c, d);
    return true;
}

void amqp_consumer_deliver(struct amqp_consumer *c, const struct queue_delivery *d)
{
    struct conn *conn = c->channel->session->conn;
    size_t before = conn_output_pending(conn);

    deliver(c, d);
    amqp_count(&c->aw->count.delivered, 1);
    amqp_stats_delivered(conn_output_pending(conn) - before);
}

/* ---- what one acquisition leaves to be done after it --------------------------------------------------- */

struct warm_job {
    struct bg_job job;
    struct log_span span;
    struct amqp_consumer *consumer;
};

static void warm_run(struct bg_job *job)
{
    struct warm_job *w = CONTAINER_OF(job, struct warm_job, job);

    (void)queue_warm(&w->span); /* an error shows when the messages are read */
}

static void warm_done(struct bg_job *job)
{
    struct warm_job *w = CONTAINER_OF(job, struct warm_job, job);
    struct amqp_consumer *c = w->consumer;

    log_span_release(&w->span);
    mem_free(w);
    c->warming = false;
    if (c->channel != NULL) {
        c->read_cold = true;
        amqp_consumer_ready(c);
    }
    amqp_consumer_unpin(c);
}

static void warm_start(struct amqp_consumer *c, const struct log_span *span)
{
    struct warm_job *w = mem_zalloc(sizeof(*w));

    w->span = *span;
    w->consumer = c;
    w->job.reply_to = c->aw->worker;
    w->job.run = warm_run;
    w->job.done = warm_done;
    c->warming = true;
    c->pins++;
    bg_submit(c->aw->front->o.workers, BG_DISK, &w->job);
}

static void reservation_done(struct log_commit *commit, int err)
{
    struct amqp_consumer *c = CONTAINER_OF(commit, struct amqp_consumer, commit);

    c->committing = false;
    if (err == 0 && c->channel != NULL)
        amqp_consumer_ready(c);
}

/* The queue was deleted, or it failed: the consumer is no more. The client is told if it said it understands
 * that. */
static void cancelled(struct amqp_consumer *c, int64_t now_ms)
{
    struct amqp_channel *ch = c->channel;
    struct amqp_session *s = ch->session;

    if (s->capabilities & AMQP_CAP_CANCEL_NOTIFY && ch->state == AMQP_CHANNEL_OPEN)
        amqp_put_basic_cancel(conn_out(s->conn), ch->number, &(struct amqp_basic_cancel){c->tag, true});
    amqp_consumer_detach(c, now_ms);
}

/* ---- serving ------------------------------------------------------------------------------------------- */

uint32_t amqp_channel_shared_room(const struct amqp_channel *ch)
{
    if (ch->prefetch_global == 0)
        return QUEUE_TAKE_MAX;
    if (ch->global_outstanding >= ch->prefetch_global)
        return 0;
    return MIN_OF(QUEUE_TAKE_MAX, ch->prefetch_global - ch->global_outstanding);
}

/* Serves one consumer, under its partition's lock. True: *ret_arm's commit is to be armed after the lock was
 * left. */
static bool serve(struct amqp_consumer *c, int64_t now_ms)
{
    struct amqp_channel *ch = c->channel;
    struct amqp_session *s = ch->session;
    struct queue_take take = {.deliver = deliver_one,
                              .arg = c,
                              .commit = c->committing ? NULL : &c->commit,
                              .read_cold = c->read_cold};
    size_t out;
    int err;

    if (GM_UNLIKELY(c->qc.lost || c->remote != NULL)) {
        amqp_remote_adopt(ch, c->source);
        return false;
    }
    if (c->qc.cancelled) {
        cancelled(c, now_ms);
        return false;
    }
    if (s->conn == NULL || s->state != AMQP_RUNNING || ch->state != AMQP_CHANNEL_OPEN ||
        conn_closing(s->conn))
        return false; /* it is about to be detached */
    if (c->warming)
        return false;
    if (c->full) {
        if (conn_output_full(s->conn))
            return false;
        c->full = false;
        queue_consumer_resume(&c->qc);
    }
    take.max = c->qc.no_ack ? QUEUE_TAKE_MAX : amqp_channel_shared_room(ch);
    if (take.max == 0) {
        c->shared_out = true;
        queue_consumer_pause(&c->qc);
        (void)queue_take(&c->qc, &take, now_ms); /* takes nothing, answers its news */
        return false;
    }
    if (c->shared_out) {
        c->shared_out = false;
        queue_consumer_resume(&c->qc);
    }
    c->read_cold = false;
    out = conn_output_pending(s->conn);
    err = queue_take(&c->qc, &take, now_ms);
    amqp_count(&s->aw->count.delivered, take.count);
    if (conn_output_pending(s->conn) > out)
        amqp_stats_delivered(conn_output_pending(s->conn) - out);
    if (err == ERR_AGAIN) {
        warm_start(c, &take.cold);
    } else if (err < 0) {
        DIAG_EVERY(DIAG_ERROR, "amqp: a queue cannot be read", "queue=%llu error=\"%s\"",
                   (unsigned long long)c->qc.queue_id, err_text(err));
        cancelled(c, now_ms);
        return false;
    }
    return take.commit_added;
}

static void park_retry(struct worker *w, struct partition_park *park)
{
    struct delivery_park *p = CONTAINER_OF(park, struct delivery_park, park);
    struct amqp_worker *aw = p->aw;

    list_remove(&p->node);
    list_splice(&aw->ready, &p->consumers);
    mem_free(p);
    worker_hook_once(w, &aw->hook);
}

static struct delivery_park *park_find(struct amqp_worker *aw, uint32_t partition)
{
    LIST_FOREACH (n, &aw->parks) {
        struct delivery_park *p = LIST_ENTRY(n, struct delivery_park, node);

        if (p->partition == partition)
            return p;
    }
    return NULL;
}

/* Enters a partition, or leaves the consumer to wait for it. */
static int enter(struct amqp_worker *aw, struct amqp_consumer *c, struct partition_guard *g, bool upkeep)
{
    struct delivery_park *p = list_empty(&aw->parks) ? NULL : park_find(aw, c->partition);
    int err = ERR_PARKED;

    if (p == NULL) {
        p = mem_zalloc(sizeof(*p));
        p->aw = aw;
        p->partition = c->partition;
        p->park.worker = aw->worker;
        p->park.retry = park_retry;
        list_init(&p->consumers);
        err = upkeep ? partition_enter_upkeep(partitions_get(aw->front->o.partitions, c->partition), &p->park, g)
                     : partition_enter(partitions_get(aw->front->o.partitions, c->partition), 0, &p->park, g);
        if (err != ERR_PARKED) {
            mem_free(p);
            return err;
        }
        list_push_back(&aw->parks, &p->node);
    }
    list_push_back(&p->consumers, &c->ready);
    return err;
}

/* This node does not lead its queue (any more), has no lease, or its copy has failed: if the engine has let go of it, it goes to whoever leads; else it is tried again, and nothing is delivered meanwhile (rule 8). Its
 * news was answered by nobody, so no other will come. */
static void served_by_another(struct amqp_worker *aw, struct amqp_consumer *c)
{
    struct partition_guard g;
    int err = enter(aw, c, &g, true);

    if (err == ERR_PARKED)
        return;
    if (err < 0 && err != ERR_AGAIN) { /* failed: the lock is free; while keys are rebuilt it is not */
        partition_enter_background(partitions_get(aw->front->o.partitions, c->partition), 0, &g);
        err = 0;
    }
    if (err == 0 && c->qc.lost)
        amqp_remote_adopt(c->channel, c->source);
    else if (err == 0 && c->qc.cancelled)
        cancelled(c, worker_wall_ms(aw->worker));
    else
        list_push_back(&aw->later, &c->ready);
    if (err == 0)
        (void)partition_leave(&g);
    if (!list_empty(&aw->later) && !io_timer_active(&aw->later_timer))
        io_timer_start(aw->worker, &aw->later_timer, 50, 0);
}

static void try_later(struct worker *w, struct io_timer *t)
{
    struct amqp_worker *aw = CONTAINER_OF(t, struct amqp_worker, later_timer);

    list_splice(&aw->ready, &aw->later);
    worker_hook_once(w, &aw->hook);
}

static void serve_partition(struct amqp_worker *aw, struct amqp_consumer *first)
{
    struct amqp_consumer *arm[ENTER_CONSUMERS_MAX];
    uint32_t partition = first->partition;
    struct partition_guard g;
    unsigned n = 0, served = 0;
    int64_t now_ms = worker_wall_ms(aw->worker);
    int err = enter(aw, first, &g, first->home);

    if (err == ERR_PARKED)
        return;
    if (err < 0) {
        served_by_another(aw, first);
        return;
    }
    if (serve(first, now_ms))
        arm[n++] = first;
    LIST_FOREACH_SAFE (p, &aw->ready) {
        struct amqp_consumer *c = LIST_ENTRY(p, struct amqp_consumer, ready);

        if (c->partition != partition || c->home != first->home || c->remote != NULL)
            continue;
        if (++served == ENTER_CONSUMERS_MAX)
            break;
        list_remove(&c->ready);
        if (serve(c, now_ms))
            arm[n++] = c;
    }
    /* Deliveries are in the output already. If their bookkeeping cannot be logged they may come again after a
     * restart, which is what redelivery means. */
    (void)partition_leave(&g);
    for (unsigned i = 0; i < n; i++) {
        struct amqp_consumer *c = arm[i];

        if (log_commit_arm(&c->commit))
            amqp_consumer_ready(c);
        else
            c->committing = true;
    }
}

static void hook_run(struct worker *w, struct worker_hook *h)
{
    struct amqp_worker *aw = CONTAINER_OF(h, struct amqp_worker, hook);
    unsigned rounds = 0;
    struct list *n;

    while (rounds++ < ROUNDS_MAX && (n = list_pop_front(&aw->ready)) != NULL) {
        struct amqp_consumer *c = LIST_ENTRY(n, struct amqp_consumer, ready);

        if (GM_UNLIKELY(c->remote != NULL))
            amqp_remote_consumer_serve(c);
        else
            serve_partition(aw, c);
    }
    if (aw->remotes != NULL)
        amqp_remote_turn(aw);
    if (!list_empty(&aw->ready))
        worker_hook_once(w, &aw->hook);
}

void amqp_consumer_init(struct amqp_consumer *c)
{
    c->qc.news = amqp_consumer_news;
    log_commit_init(&c->commit, c->aw->worker, reservation_done);
}

void amqp_worker_init(struct amqp_worker *aw, struct amqp_front *f, struct worker *w)
{
    aw->front = f;
    aw->worker = w;
    aw->hook.run = hook_run;
    list_init(&aw->ready);
    list_init(&aw->parks);
    list_init(&aw->later);
    io_timer_init(&aw->later_timer, try_later);
}
