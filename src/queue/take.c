/* Delivering: consumers' takes and basic.get. */
#include "queue/internal.h"

#define READ_MIN (8u << 10)
#define READ_MAX (256u << 10)

/* The reservation that covers what comes next must be committed: have the caller wait for it. */
static void want_commit(struct queue *q, struct queue_take *take)
{
    if (take->commit == NULL || q->reserve_end == 0)
        return;
    log_commit_begin(take->commit); /* made with the consumer */
    log_commit_add(take->commit, q->log, q->reserve_end);
    take->commit_added = true;
}

/* basic.get finds what was published before it: it waits until that is committed. */
static void want_visible(struct queue *q, struct queue_take *take)
{
    take->stalled = true;
    if (take->commit == NULL)
        return;
    log_commit_begin(take->commit);
    log_commit_add(take->commit, q->log, log_end(q->log));
    take->commit_added = true;
}

static void deliver_to(struct queue *q, struct queue_consumer *c, bool no_ack, int64_t offset, uint32_t size)
{
    q->delivered++;
    q->ready_bytes -= MIN_OF(q->ready_bytes, size);
    if (no_ack) {
        q->acked++;
        queue_settle_one(q, offset);
    } else {
        q->unacked++;
        if (c != NULL)
            c->unsettled++;
    }
}

static int take_some(struct queue *q, struct queue_consumer *c, bool no_ack, uint32_t max,
                     struct queue_take *take, int64_t now_ms)
{
    struct queue_reader r;
    size_t want = (size_t)max * (q->average_size + 32) + 4096;
    bool read_cold = take->read_cold;
    int err = q->failed;

    if (err != 0)
        return err;
    if (q->pending != NULL && q->pending->messages != 0)
        queue_flush(q); /* its error is the publisher's, who gets it from queue_table_flush */
    want = MIN_OF(MAX_OF(want, READ_MIN), READ_MAX);
    queue_reader_init(&r);
    while (take->count < max && q->ready > 0) {
        struct queue_next n = queue_next_ready(q, queue_visible_end(q));
        int64_t offset = queue_entry_offset(&n.entry);
        struct record record;
        struct effect e;
        struct queue_message_view m;
        struct queue_delivery d;
        uint32_t before = (uint32_t)(n.entry.offset_flags & QUEUE_HANDLE_COUNT) >> 8;

        if (n.source == QUEUE_FROM_NOWHERE) { /* all that is left lies above the high watermark */
            if (c == NULL && take->count == 0)
                want_visible(q, take);
            break;
        }
        if (offset >= q->reserve_committed && queue_reserve_stalls(q)) {
            if (q->reserve_end != 0 && q->reserve_ahead < QUEUE_RESERVE_AHEAD_MAX && take->count > 0)
                q->reserve_ahead *= 2;
            queue_reserve(q);
            err = queue_flush(q);
            if (err == 0 && !queue_reserve_stalls(q)) /* writing it was enough */
                continue;
            take->stalled = true;
            want_commit(q, take);
            if (c != NULL) {
                q->waiter = c;
                q->wait_cold = false;
                if (err == ERR_NOSPACE) { /* the tick tries again */
                    err = 0;
                    queue_mark_timed(q, now_ms + 1000);
                }
            }
            break;
        }
        err = queue_reader_find(&r, q, offset, want, read_cold, &record, &take->cold);
        read_cold = false; /* what was warmed was the first span */
        if (err == ERR_AGAIN) {
            if (c != NULL) {
                q->waiter = c;
                q->wait_cold = true;
            }
            break;
        }
        if (err != 0 || (err = effect_read(&record, &e)) != 0 ||
            (err = e.kind == EFFECT_QUEUE_MESSAGE ? queue_message_decode(e.value, &m) : ERR_CORRUPT) != 0) {
            q->failed = err;
            break;
        }
        if (queue_is_expired(q, &record, &m, now_ms)) {
            queue_next_take(q, &n);
            q->ready_bytes -= MIN_OF(q->ready_bytes, m.body.len);
            q->expired++;
            queue_settle_one(q, offset);
            continue;
        }
        d.redelivered = (n.entry.offset_flags & QUEUE_HANDLE_REDELIVERED) != 0 || offset < q->redeliver_below;
        if (d.redelivered && before == 0)
            before = 1;
        d.handle = (struct queue_handle){
            .offset_flags = (uint64_t)offset << 16 | (d.redelivered ? QUEUE_HANDLE_REDELIVERED : 0) |
                            before << 8 | (q->rings != NULL ? queue_entry_priority(&n.entry) : 0),
            .size = (uint32_t)m.body.len,
        };
        d.exchange = m.exchange;
        d.routing_key = m.routing_key;
        d.properties = m.properties;
        d.body = m.body;
        d.timestamp_ms = record.timestamp;
        d.delivery_count = before;
        if (!take->deliver(take->arg, &d)) {
            if (c != NULL)
                c->paused = true;
            break;
        }
        queue_next_take(q, &n);
        take->count++;
        q->redelivered += d.redelivered;
        deliver_to(q, c, no_ack, offset, (uint32_t)m.body.len);
    }
    queue_reader_save(&r, q);
    queue_reader_close(&r);
    if (q->table->window.cap > (1u << 20))
        buf_fini(&q->table->window);
    if (err == 0 && q->on_disk && !take->stalled && take->count > 0) {
        bool outstanding = q->reserve_end != 0;

        queue_reserve(q);
        if (!outstanding && q->reserve_end != 0 && queue_flush(q) == 0)
            want_commit(q, take); /* early, so that nobody has to wait */
    }
    take->ready = q->ready;
    queue_mark_dirty(q);
    return err;
}

static void clear_results(struct queue_take *take)
{
    CHECK(take->max <= QUEUE_TAKE_MAX);
    take->count = 0;
    take->ready = 0;
    take->commit_added = take->stalled = false;
}

int queue_take(struct queue_consumer *c, struct queue_take *take, int64_t now_ms)
{
    struct queue *q = c->queue;
    int err;

    clear_results(take);
    c->told = false;
    if (q == NULL || c->paused)
        return 0;
    queue_see_time(q->table, now_ms);
    if (q->waiter == c)
        q->waiter = NULL;
    if (c->granted == 0) { /* it comes by itself, to try again */
        c->told = true;    /* no news of what it is about to hear */
        if (queue_reserve_stalls(q)) {
            queue_reserve(q);
            queue_flush(q);
        }
        queue_grant(q);
        c->told = false;
        if (q->waiter == c) { /* nothing granted, but it may find out what to wait for */
            err = take_some(q, c, c->no_ack, MIN_OF(take->max, 1u), take, now_ms);
            return err;
        }
    }
    err = take_some(q, c, c->no_ack, MIN_OF(take->max, c->granted), take, now_ms);
    q->granted -= c->granted;
    c->granted = 0;
    queue_turn_update(c);
    return err;
}

int queue_get(struct queue *q, bool no_ack, struct queue_take *take, int64_t now_ms)
{
    clear_results(take);
    queue_see_time(q->table, now_ms);
    queue_touch(q, now_ms);
    if (q->spec.single_active)
        return ERR_LOCKED;
    return take_some(q, NULL, no_ack, 1, take, now_ms);
}
