/* Settling deliveries, and purging. */
#include "queue/internal.h"

static void requeue(struct queue *q, const struct queue_handle *h)
{
    uint32_t count = (uint32_t)(h->offset_flags & QUEUE_HANDLE_COUNT) >> 8;
    struct queue_entry e = {.size = h->size};

    count = MIN_OF(count + 1, 127u);
    e.offset_flags = (h->offset_flags & ~(uint64_t)0xff00) | QUEUE_HANDLE_REDELIVERED | count << 8;
    queue_heap_push(&q->heap, e);
    if (queue_handle_offset(h) < q->ttl_end || q->spec.message_ttl_ms >= 0) {
        q->has_ttl = true;
        q->next_expiry = 0;
        queue_mark_timed(q, q->table->now_ms);
    }
    q->ready++;
    q->ready_bytes += h->size;
}

void queue_settle(struct queue *q, struct queue_consumer *c, enum queue_settle how,
                  const struct queue_handle *handles, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t offset = queue_handle_offset(&handles[i]);

        if (!ackmap_is_live(&q->acks, offset) || q->unacked == 0)
            continue;
        q->unacked--;
        if (how == QUEUE_REQUEUE) {
            requeue(q, &handles[i]);
            continue;
        }
        q->acked += how == QUEUE_ACK;
        queue_settle_one(q, offset);
    }
    if (c != NULL && c->queue == q) {
        c->unsettled -= (uint32_t)MIN_OF((size_t)c->unsettled, n);
        queue_turn_update(c);
    }
    queue_mark_dirty(q);
}

uint64_t queue_purge(struct queue *q)
{
    uint64_t n = q->ready, seen = 0;

    for (size_t i = 0; i < q->heap.count; i++, seen++)
        queue_settle_one(q, queue_entry_offset(&q->heap.entries[i]));
    queue_heap_fini(&q->heap);
    if (q->rings != NULL)
        for (unsigned p = 0; p <= q->spec.max_priority; p++) {
            struct queue_ring *r = &q->rings[p];

            for (uint32_t i = 0; i < r->count; i++, seen++)
                queue_settle_one(q, queue_entry_offset(queue_ring_at(r, i)));
            queue_ring_fini(r);
        }
    if (seen < n) { /* from the cursor on everything was ready: one range */
        int64_t from = q->head, end = q->acks.end;

        uint64_t settled = ackmap_settle_range(&q->acks, from, end);

        seen += settled;
        q->settled_since += settled;
        queue_note_settled(q, from, end - from);
        q->head = end;
    }
    CHECK(seen == n);
    q->ready = 0;
    q->ready_bytes = 0;
    q->bytes_inexact = false;
    queue_mark_dirty(q);
    return n;
}
