/* What a queue gathers while its partition is held, and how it reaches the log: messages and reservations in
 * order, then all settled offsets as one effect of ranges; one batch (P17, P24). */
#include <stdlib.h>

#include "queue/internal.h"

#define POOL_MAX 16
#define POOL_BYTES_MAX (256u << 10)

int64_t queue_next_offset(const struct queue *q)
{
    return q->pending == NULL ? log_end(q->log) : q->pending->base + q->pending->batch.count;
}

struct queue_pending *queue_pending_open(struct queue *q)
{
    struct queue_table *t = q->table;
    struct queue_pending *p = q->pending;
    int64_t last;

    if (p != NULL)
        return p;
    p = t->pool;
    if (p != NULL) {
        t->pool = p->next;
        t->pool_count--;
    } else {
        p = mem_zalloc(sizeof(*p));
    }
    last = log_last_timestamp(q->log);
    p->fx = (struct effects){.batch = &p->batch, .now_ms = MAX_OF(t->now_ms, last)};
    batch_begin(&p->batch, p->fx.now_ms);
    p->base = log_end(q->log);
    p->messages = 0;
    p->bytes = 0;
    p->reserved = false;
    p->sorted = true;
    p->range_count = 0;
    q->pending = p;
    queue_mark_dirty(q);
    return p;
}

void queue_pending_free(struct queue_pending *p)
{
    batch_builder_fini(&p->batch);
    mem_free(p->ranges);
    mem_free(p);
}

static void give_back(struct queue *q)
{
    struct queue_table *t = q->table;
    struct queue_pending *p = q->pending;

    q->pending = NULL;
    if (t->pool_count >= POOL_MAX || p->batch.bytes.cap > POOL_BYTES_MAX || p->range_cap > 4096) {
        queue_pending_free(p);
        return;
    }
    p->next = t->pool;
    t->pool = p;
    t->pool_count++;
}

void queue_note_settled(struct queue *q, int64_t first, int64_t count)
{
    struct queue_pending *p;

    if (!q->on_disk) {
        queue_mark_dirty(q);
        return;
    }
    p = queue_pending_open(q);
    if (p->range_count > 0) {
        struct queue_range *last = &p->ranges[p->range_count - 1];

        if (last->first + last->count == first) {
            last->count += count;
            return;
        }
        if (first < last->first)
            p->sorted = false;
    }
    if (p->range_count == p->range_cap) {
        p->range_cap = p->range_cap == 0 ? 16 : p->range_cap * 2;
        p->ranges = mem_realloc(p->ranges, p->range_cap * sizeof(*p->ranges));
    }
    p->ranges[p->range_count++] = (struct queue_range){first, count};
}

static int compare_ranges(const void *a, const void *b)
{
    const struct queue_range *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

/* QUEUE_ACK: n x (uvarint gap from the end of the range before, uvarint count). */
static void add_ack_effect(struct queue *q, struct queue_pending *p)
{
    struct buf *out = &q->table->scratch;
    int64_t at = 0;

    if (!p->sorted)
        qsort(p->ranges, p->range_count, sizeof(*p->ranges), compare_ranges);
    buf_clear(out);
    for (size_t i = 0; i < p->range_count;) {
        int64_t first = p->ranges[i].first, end = first + p->ranges[i].count;

        for (i++; i < p->range_count && p->ranges[i].first <= end; i++)
            end = MAX_OF(end, p->ranges[i].first + p->ranges[i].count);
        buf_put_uvarint(out, (uint64_t)(first - at));
        buf_put_uvarint(out, (uint64_t)(end - first));
        at = end;
    }
    effect_add(&p->fx, EFFECT_QUEUE_ACK, QUEUE_LOG_DB, SLICE_NONE, buf_slice(out));
    ackmap_add_settled(&q->acks, p->base + p->batch.count - 1);
}

/* The batch did not reach the log: forget its messages and its reservation, keep what was settled for the
 * next try. */
static void take_back(struct queue *q, struct queue_pending *p)
{
    size_t kept = 0;
    uint64_t gone = ackmap_cut(&q->acks, p->base);

    CHECK(q->ready >= gone);
    q->ready -= gone;
    if (q->rings != NULL)
        for (unsigned i = 0; i <= q->spec.max_priority; i++) {
            struct queue_ring *r = &q->rings[i];

            while (r->count > 0 && queue_entry_offset(queue_ring_at(r, r->count - 1)) >= p->base)
                r->count--;
        }
    if (q->head > p->base)
        q->head = p->base;
    q->ready_bytes -= MIN_OF(q->ready_bytes, p->bytes);
    q->published -= MIN_OF(q->published, p->messages);
    for (size_t i = 0; i < p->range_count; i++) {
        struct queue_range r = p->ranges[i];

        if (r.first >= p->base)
            continue;
        r.count = MIN_OF(r.count, p->base - r.first);
        p->ranges[kept++] = r;
    }
    p->range_count = kept;
    if (p->reserved) {
        q->reserve_logged = q->reserve_committed;
        q->reserve_end = 0;
        p->reserved = false;
    }
    p->messages = 0;
    p->bytes = 0;
    batch_begin(&p->batch, p->fx.now_ms);
}

static int append(struct queue *q, struct queue_pending *p)
{
    int64_t base;
    int err;

    if (p->range_count > 0)
        add_ack_effect(q, p);
    if (p->batch.count == 0)
        return 0;
    q->bytes_since += p->batch.bytes.len;
    err = log_append(q->log, &p->batch, &base);
    if (err != 0)
        return err;
    CHECK(base == p->base);
    return 0;
}

int queue_flush(struct queue *q)
{
    struct queue_pending *p = q->pending;
    bool lossy;
    int err, again;

    if (p == NULL)
        return 0;
    lossy = p->messages != 0;
    if (q->failed != 0)
        err = q->failed;
    else
        err = append(q, p);
    if (err == 0) {
        if (p->reserved)
            q->reserve_end = log_end(q->log);
        if (queue_checkpoint_due(q))
            queue_mark_timed(q, q->table->now_ms);
        q->wrote = true;
        give_back(q);
        return 0;
    }
    if (lossy) {
        q->table->flush_error = err;
        *q->table->stirred = true;
    }
    take_back(q, p);
    if (err == ERR_NOSPACE && p->range_count > 0) {
        /* What was settled is small and may still fit. If not, it holds in memory and goes with the next
         * flush. */
        again = append(q, p);
        if (again == ERR_NOSPACE) {
            take_back(q, p);
            return err;
        }
        if (again != 0)
            q->failed = again;
    } else if (err != ERR_NOSPACE) {
        q->failed = err;
    }
    give_back(q);
    return err;
}

static void log_reservation(struct queue *q, int64_t m)
{
    struct queue_pending *p = queue_pending_open(q);
    uint8_t value[VARINT_MAX];

    effect_add(&p->fx, EFFECT_QUEUE_RESERVE, QUEUE_LOG_DB, SLICE_NONE, slice_of(value, uvarint_put(value, (uint64_t)m)));
    ackmap_add_settled(&q->acks, p->base + p->batch.count - 1);
    q->reserve_logged = m;
    q->reserve_end = p->base + p->batch.count; /* refined when appended */
    p->reserved = true;
}

int64_t queue_reserve_exact(const struct queue *q)
{
    return MIN_OF(q->reserve_logged, MAX_OF(q->head, q->redeliver_below));
}

void queue_table_rest(struct queue_table *t)
{
    for (uint32_t i = 0; i < t->bucket_count; i++)
        for (struct queue *q = t->buckets[i]; q != NULL; q = q->hash_next) {
            int64_t exact = queue_reserve_exact(q);

            if (!q->on_disk || q->failed != 0 || q->pending != NULL || exact == q->reserve_logged)
                continue;
            q->reserve_committed = MIN_OF(q->reserve_committed, exact);
            log_reservation(q, exact);
        }
}

void queue_reserve(struct queue *q)
{
    struct queue_pending *p;

    if (!q->on_disk || q->failed != 0 || q->reserve_end != 0 ||
        q->head + q->reserve_ahead / 2 < q->reserve_logged)
        return;
    p = queue_pending_open(q);
    if (p->reserved)
        return;
    log_reservation(q, q->head + q->reserve_ahead);
}
