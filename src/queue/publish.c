/* Publishing. */
#include "queue/internal.h"

#define PARTS_ON_STACK 16
#define PENDING_BYTES_MAX (1u << 20) /* a batch larger than this is written at once */

static bool is_full(const struct queue *q)
{
    const struct queue_spec *s = &q->spec;

    return (s->max_length >= 0 && q->ready >= (uint64_t)s->max_length) ||
           (s->max_length_bytes >= 0 && q->ready_bytes >= (uint64_t)s->max_length_bytes);
}

static bool is_over(const struct queue *q)
{
    const struct queue_spec *s = &q->spec;

    return (s->max_length >= 0 && q->ready > (uint64_t)s->max_length) ||
           (s->max_length_bytes >= 0 && q->ready_bytes > (uint64_t)s->max_length_bytes);
}

void queue_bound_length(struct queue *q)
{
    while (is_over(q) && q->ready > 0)
        queue_drop_head(q);
}

static void note_expiry(struct queue *q, const struct queue_message *m, int64_t offset)
{
    int64_t at = INT64_MAX;

    if (q->spec.message_ttl_ms >= 0)
        at = q->table->now_ms + q->spec.message_ttl_ms;
    if (m->expiration_ms >= 0)
        at = MIN_OF(at, q->table->now_ms + m->expiration_ms);
    if (at == INT64_MAX)
        return;
    q->ttl_end = offset + 1;
    if (!q->has_ttl || q->ready == 0) {
        q->has_ttl = true;
        q->next_expiry = 0;
        queue_mark_timed(q, at);
    }
}

int queue_publish(struct queue *q, const struct queue_message *m, int64_t now_ms, int64_t *ret_offset)
{
    struct slice on_stack[PARTS_ON_STACK], *parts = on_stack;
    uint8_t head[QUEUE_MESSAGE_HEAD_MAX];
    struct queue_pending *p;
    int64_t offset;
    size_t n, size = 0;

    queue_see_time(q->table, now_ms);
    if (q->failed != 0)
        return q->failed;
    if (q->on_disk && !log_store_may_grow(q->table->options.store))
        return ERR_NOSPACE;
    if (q->spec.overflow == QUEUE_REJECT_PUBLISH && is_full(q))
        return ERR_LIMIT;
    if (q->pending != NULL && !q->forwarding && q->pending->batch.bytes.len > PENDING_BYTES_MAX) {
        int err = queue_flush(q);

        if (err != 0)
            return err;
    }
    for (size_t i = 0; i < m->body_count; i++)
        size += m->body[i].len;
    if (m->body_count > PARTS_ON_STACK - QUEUE_MESSAGE_PARTS)
        parts = mem_alloc((m->body_count + QUEUE_MESSAGE_PARTS) * sizeof(*parts));
    p = queue_pending_open(q);
    n = queue_message_encode(m, p->fx.now_ms, head, parts);
    effect_add_parts(&p->fx, EFFECT_QUEUE_MESSAGE, QUEUE_LOG_DB, SLICE_NONE, parts, n);
    if (parts != on_stack)
        mem_free(parts);
    offset = p->base + p->batch.count - 1;
    p->messages++;
    p->bytes += size;
    ackmap_add_live(&q->acks, offset);
    note_expiry(q, m, offset);
    q->ready++;
    q->ready_bytes += size;
    q->published++;
    q->average_size = q->average_size == 0
                          ? (uint32_t)MIN_OF(size, 1u << 20) + 64
                          : (uint32_t)((q->average_size * 15ull + MIN_OF(size, 1u << 20) + 64) / 16);
    if (q->rings != NULL) {
        uint8_t priority = MIN_OF(m->priority, q->spec.max_priority);

        queue_ring_push(&q->rings[priority],
                        (struct queue_entry){(uint64_t)offset << 16 | priority, (uint32_t)size, 0});
        q->head = offset + 1;
    }
    if (q->consumer_count > 0)
        queue_reserve(q);
    if (!q->forwarding)
        queue_bound_length(q);
    if (ret_offset != NULL)
        *ret_offset = offset;
    return 0;
}
