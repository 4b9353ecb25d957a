/* Which message is next, and leaving the ready ones: taken, dropped, expired. */
#include "queue/internal.h"

#define LOOK_MS 100

int64_t queue_visible_end(const struct queue *q)
{
    return q->on_disk && log_replicated(q->log) ? log_hw(q->log) : INT64_MAX;
}

/* All that is live from the high watermark on is ready: nothing there was ever delivered. */
uint64_t queue_visible_ready(const struct queue *q)
{
    int64_t end = queue_visible_end(q);
    uint64_t hidden = end >= q->acks.end ? 0 : ackmap_count_live(&q->acks, end, q->acks.end);

    return q->ready - MIN_OF(q->ready, hidden);
}

struct queue_next queue_next_ready(struct queue *q, int64_t below)
{
    struct queue_next n = {.source = QUEUE_FROM_NOWHERE};
    int64_t offset;

    if (q->ready == 0)
        return n;
    if (q->heap.count > 0) {
        n.source = QUEUE_FROM_HEAP;
        n.entry = q->heap.entries[0];
    }
    if (q->rings != NULL) {
        for (int p = q->spec.max_priority; p >= 0; p--) {
            struct queue_entry e;

            if (n.source == QUEUE_FROM_HEAP && queue_entry_priority(&n.entry) > p)
                break;
            if (q->rings[p].count == 0)
                continue;
            e = *queue_ring_at(&q->rings[p], 0);
            if (queue_entry_offset(&e) >= below)
                continue;
            if (n.source == QUEUE_FROM_NOWHERE || queue_entry_priority(&n.entry) < p ||
                e.offset_flags < n.entry.offset_flags) {
                n.source = QUEUE_FROM_RING;
                n.entry = e;
            }
            break;
        }
        CHECK(n.source != QUEUE_FROM_NOWHERE || below != INT64_MAX);
        return n;
    }
    if (n.source == QUEUE_FROM_HEAP)
        return n;
    offset = ackmap_next_live(&q->acks, q->head);
    CHECK(offset < q->acks.end);
    q->head = offset;
    if (offset >= below)
        return n;
    n.source = QUEUE_FROM_LOG;
    n.entry = (struct queue_entry){.offset_flags = (uint64_t)offset << 16};
    return n;
}

void queue_next_take(struct queue *q, const struct queue_next *n)
{
    CHECK(q->ready > 0);
    q->ready--;
    if (n->source == QUEUE_FROM_HEAP)
        queue_heap_pop(&q->heap);
    else if (n->source == QUEUE_FROM_RING)
        queue_ring_pop(&q->rings[queue_entry_priority(&n->entry)]);
    else
        q->head = queue_entry_offset(&n->entry) + 1;
    if (!q->has_ttl)
        return;
    q->next_expiry = 0;
    if (q->spec.message_ttl_ms < 0 && q->head >= q->ttl_end && q->heap.count == 0 && q->rings == NULL)
        q->has_ttl = false;
    else if (q->ready > 0 && !q->timed)
        queue_mark_timed(q, q->table->now_ms +
                                LOOK_MS); /* the one that is next now may expire: a tick finds out when */
}

void queue_settle_one(struct queue *q, int64_t offset)
{
    if (!ackmap_settle(&q->acks, offset))
        return;
    q->settled_since++;
    queue_note_settled(q, offset, 1);
}

static void lose_bytes(struct queue *q, uint64_t size)
{
    q->ready_bytes -= MIN_OF(q->ready_bytes, size);
}

/* What x-max-length drops: the message that would be delivered next; of a priority queue, the oldest of the
 * lowest priority. */
void queue_drop_head(struct queue *q)
{
    struct queue_next n;

    if (q->rings != NULL && q->heap.count == 0)
        for (unsigned p = 0; p <= q->spec.max_priority; p++)
            if (q->rings[p].count > 0) {
                struct queue_entry e = queue_ring_pop(&q->rings[p]);

                q->ready--;
                q->dropped++;
                lose_bytes(q, e.size);
                queue_settle_one(q, queue_entry_offset(&e));
                return;
            }
    n = queue_next_ready(q, INT64_MAX);
    if (n.source == QUEUE_FROM_NOWHERE)
        return;
    if (n.source == QUEUE_FROM_LOG) {
        if (q->spec.max_length_bytes >= 0) { /* its size is in the log alone */
            struct queue_reader r;
            struct log_span cold;
            struct record record;
            struct effect e;
            struct queue_message_view m;

            queue_reader_init(&r);
            if (queue_flush(q) == 0 && queue_reader_find(&r, q, q->head, 1, true, &record, &cold) == 0 &&
                effect_read(&record, &e) == 0 && queue_message_decode(e.value, &m) == 0)
                lose_bytes(q, m.body.len);
            else
                q->bytes_inexact = true;
            queue_reader_close(&r);
            if (q->ready == 0) /* the flush failed and took it back */
                return;
        } else {
            q->bytes_inexact = true;
        }
    } else {
        lose_bytes(q, n.entry.size);
    }
    queue_next_take(q, &n);
    q->dropped++;
    queue_settle_one(q, queue_entry_offset(&n.entry));
}

int64_t queue_expiry_of(const struct queue *q, const struct record *r, const struct queue_message_view *m)
{
    int64_t at = m->expire_at_ms >= 0 ? m->expire_at_ms : INT64_MAX;

    if (q->spec.message_ttl_ms >= 0 && r->timestamp + q->spec.message_ttl_ms < at)
        at = r->timestamp + q->spec.message_ttl_ms;
    return at;
}

/* A TTL of 0 means "expires unless a consumer takes it at once", and at once takes a moment. */
bool queue_is_expired(const struct queue *q, const struct record *r, const struct queue_message_view *m,
                      int64_t now_ms)
{
    int64_t at = queue_expiry_of(q, r, m);

    if (at == INT64_MAX)
        return false;
    if (at <= r->timestamp)
        at = r->timestamp + QUEUE_ZERO_TTL_GRACE_MS;
    return at <= now_ms;
}

struct warm_job {
    struct queue_job job;
    struct queue_table *table;
    uint64_t queue_id;
    struct log_span span;
};

static void warm_run(struct queue_job *job)
{
    struct warm_job *w = CONTAINER_OF(job, struct warm_job, job);

    queue_warm(&w->span);
    log_span_release(&w->span);
}

static void warm_done(struct queue_job *job)
{
    struct warm_job *w = CONTAINER_OF(job, struct warm_job, job);
    struct queue *q = queue_find(w->table, w->queue_id);

    w->table->jobs--;
    if (q != NULL && q->warm == job) {
        q->warm = NULL;
        q->tick_cold = true;
        queue_mark_timed(q, 0);
    }
    mem_free(w);
}

void queue_expire_head(struct queue *q, int64_t now_ms)
{
    struct queue_reader r;
    struct log_span cold;
    uint32_t budget = 1000; /* a tick's hold of the lock is bounded; the next one goes on */
    int err = 0;

    if (!q->has_ttl || q->ready == 0 || q->next_expiry > now_ms || q->warm != NULL || q->failed != 0)
        return;
    if (queue_flush(q) != 0 || q->ready == 0)
        return;
    queue_reader_init(&r);
    while (q->ready > 0 && budget-- > 0) {
        struct queue_next n = queue_next_ready(q, INT64_MAX);
        struct record record;
        struct effect e;
        struct queue_message_view m;

        err = queue_reader_find(&r, q, queue_entry_offset(&n.entry), 16 << 10, q->tick_cold, &record, &cold);
        if (err != 0)
            break;
        if ((err = effect_read(&record, &e)) != 0 || (err = queue_message_decode(e.value, &m)) != 0)
            break;
        if (!queue_is_expired(q, &record, &m, now_ms)) {
            q->next_expiry = queue_expiry_of(q, &record, &m);
            if (q->next_expiry <= record.timestamp)
                q->next_expiry = record.timestamp + QUEUE_ZERO_TTL_GRACE_MS;
            break;
        }
        queue_next_take(q, &n);
        lose_bytes(q, m.body.len);
        q->expired++;
        queue_settle_one(q, queue_entry_offset(&n.entry));
    }
    queue_reader_close(&r);
    q->tick_cold = false;
    if (err == ERR_AGAIN) {
        struct warm_job *w = mem_zalloc(sizeof(*w));

        w->job.run = warm_run;
        w->job.done = warm_done;
        w->table = q->table;
        w->queue_id = q->spec.id;
        w->span = cold;
        q->warm = &w->job;
        queue_submit(q->table, &w->job);
    } else if (err != 0) {
        q->failed = err;
    }
}

int queue_rebuild_ready(struct queue *q)
{
    bool scan = q->rings != NULL || q->spec.max_length_bytes >= 0;
    struct queue_reader r;
    int err = 0;

    q->head = ackmap_next_live(&q->acks, q->acks.origin);
    q->ready = q->acks.live;
    q->unacked = 0;
    q->has_ttl = q->ready > 0; /* unknown: the first tick looks */
    q->ttl_end = q->acks.end;
    if (q->ready == 0) {
        q->ready_bytes = 0;
        q->bytes_inexact = false;
    }
    if (q->rings != NULL)
        q->head = q->acks.end;
    if (!scan || q->ready == 0)
        return 0;
    /* Priorities and sizes are in the messages alone. */
    q->ready_bytes = 0;
    q->bytes_inexact = false;
    queue_reader_init(&r);
    for (int64_t o = ackmap_next_live(&q->acks, q->acks.origin); o < q->acks.end;
         o = ackmap_next_live(&q->acks, o + 1)) {
        struct record record;
        struct effect e;
        struct queue_message_view m;
        struct log_span cold;

        if (atomic_load_explicit(&q->stop, memory_order_relaxed)) {
            err = ERR_CANCELLED;
            break;
        }
        if ((err = queue_reader_find(&r, q, o, 256 << 10, true, &record, &cold)) != 0 ||
            (err = effect_read(&record, &e)) != 0 || (err = queue_message_decode(e.value, &m)) != 0)
            break;
        q->ready_bytes += m.body.len;
        if (q->rings != NULL) {
            uint8_t p = MIN_OF(m.priority, q->spec.max_priority);

            queue_ring_push(&q->rings[p],
                            (struct queue_entry){(uint64_t)o << 16 | p, (uint32_t)m.body.len, 0});
        }
    }
    queue_reader_close(&r);
    return err;
}
