/* What other nodes' front ends need of a queue: batches they numbered (rule 16), and deliveries that a client holds although the queue's leader changed (rule 8).
 *
 * A forwarded batch is one batch in the log whose header carries the producer's id, its incarnation and the batch's number, so that followers, checkpoints and the next leader know what came already. Producer ids are the
 * front ends' own (their node, its epoch, the worker), not Kafka's. */
#include "queue/internal.h"

struct queue_producer *queue_producer_find(const struct queue *q, int64_t id)
{
    for (uint32_t i = 0; i < q->producer_count; i++) {
        if (q->producers[i].id == id)
            return &q->producers[i];
    }
    return NULL;
}

void queue_producer_note(struct queue *q, int64_t id, int16_t epoch, int32_t sequence)
{
    struct queue_producer *p = queue_producer_find(q, id);

    if (p == NULL) {
        if (q->producer_count == q->producer_cap) {
            q->producer_cap = q->producer_cap == 0 ? 4 : q->producer_cap * 2;
            q->producers = mem_realloc(q->producers, q->producer_cap * sizeof(*q->producers));
        }
        p = &q->producers[q->producer_count++];
    }
    *p = (struct queue_producer){id, sequence, epoch};
}

void queue_producers_forget(struct queue *q, bool (*ended)(void *arg, int64_t id), void *arg)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < q->producer_count; i++) {
        if (!ended(arg, q->producers[i].id))
            q->producers[kept++] = q->producers[i];
    }
    q->producer_count = kept;
}

uint32_t queue_producers(const struct queue *q)
{
    return q->producer_count;
}

bool queue_refuses_when_full(const struct queue *q)
{
    return q->spec.overflow == QUEUE_REJECT_PUBLISH && (q->spec.max_length >= 0 || q->spec.max_length_bytes >= 0);
}

int queue_forward_look(const struct queue *q, int64_t producer, int16_t epoch, int32_t sequence, int32_t *ret_expected)
{
    const struct queue_producer *p = queue_producer_find(q, producer);

    *ret_expected = p == NULL || epoch > p->epoch ? 0 : p->sequence == INT32_MAX ? 0 : p->sequence + 1;
    if (p != NULL && epoch < p->epoch)
        return ERR_FENCED;
    if (sequence != *ret_expected)
        return p != NULL && epoch == p->epoch && sequence <= p->sequence ? ERR_DUPLICATE : ERR_OUT_OF_ORDER;
    return 0;
}

int queue_forward_begin(struct queue *q, int64_t producer, int16_t epoch, int32_t sequence, int32_t *ret_expected)
{
    struct queue_pending *pending;
    int err;

    CHECK(!q->forwarding);
    err = queue_forward_look(q, producer, epoch, sequence, ret_expected);
    if (err != 0)
        return err;
    if (q->failed != 0)
        return q->failed;
    err = queue_flush(q);
    if (err != 0)
        return err;
    pending = queue_pending_open(q);
    batch_set_producer(&pending->batch, producer, epoch, sequence);
    q->forwarding = true;
    return 0;
}

int queue_forward_end(struct queue *q, int64_t producer, int16_t epoch, int32_t sequence)
{
    struct queue_pending *p = q->pending;
    int err;

    CHECK(q->forwarding && p != NULL);
    q->forwarding = false;
    if (p->batch.count == 0) { /* all were refused: the number is used up all the same */
        effect_add(&p->fx, EFFECT_NOOP, QUEUE_LOG_DB, SLICE_NONE, SLICE_NONE);
        ackmap_add_settled(&q->acks, p->base);
    }
    err = queue_flush(q);
    if (err == 0)
        queue_producer_note(q, producer, epoch, sequence);
    queue_bound_length(q);
    queue_mark_dirty(q);
    return err;
}

/* ---- claims ---- */

static bool take_from_heap(struct queue_heap *h, int64_t offset)
{
    for (size_t i = 0; i < h->count; i++) {
        if (queue_entry_offset(&h->entries[i]) != offset)
            continue;
        /* Rare and small: rebuild what is behind the hole. */
        struct queue_heap rest = {0};

        for (size_t k = 0; k < h->count; k++) {
            if (k != i)
                queue_heap_push(&rest, h->entries[k]);
        }
        queue_heap_fini(h);
        *h = rest;
        return true;
    }
    return false;
}

static bool take_from_rings(struct queue *q, int64_t offset)
{
    for (unsigned p = 0; p <= q->spec.max_priority; p++) {
        struct queue_ring *r = &q->rings[p];

        for (uint32_t i = 0; i < r->count; i++) {
            if (queue_entry_offset(queue_ring_at(r, i)) != offset)
                continue;
            for (; i + 1 < r->count; i++)
                *queue_ring_at(r, i) = *queue_ring_at(r, i + 1);
            r->count--;
            return true;
        }
    }
    return false;
}

/* From the log: the cursor goes behind it; what it passes on the way waits in the heap. A delivery lies below the reservation, so that is not far. */
static bool take_from_log(struct queue *q, int64_t offset)
{
    if (offset < q->head || offset >= q->reserve_logged)
        return false;
    for (int64_t o = ackmap_next_live(&q->acks, q->head); o < offset; o = ackmap_next_live(&q->acks, o + 1))
        queue_heap_push(&q->heap, (struct queue_entry){.offset_flags = (uint64_t)o << 16});
    q->head = offset + 1;
    q->cursor_batch = -1;
    q->cursor_place = LOG_NOWHERE;
    if (q->spec.max_length_bytes >= 0)
        q->bytes_inexact = true;
    return true;
}

bool queue_claim(struct queue *q, struct queue_consumer *c, const struct queue_handle *h)
{
    int64_t offset = queue_handle_offset(h);

    if (q->failed != 0 || !ackmap_is_live(&q->acks, offset) || q->ready == 0)
        return false;
    if (!take_from_heap(&q->heap, offset) && !(q->rings != NULL ? take_from_rings(q, offset) : take_from_log(q, offset)))
        return false;
    q->ready--;
    q->ready_bytes -= MIN_OF(q->ready_bytes, h->size);
    q->unacked++;
    if (c != NULL && c->queue == q) {
        c->unsettled++;
        queue_turn_update(c);
    }
    queue_mark_dirty(q);
    return true;
}
