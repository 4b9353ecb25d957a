#include "queue/heap.h"

#include "base/check.h"
#include "base/mem.h"

/* Higher priority first, then the lower offset. */
static inline bool before(const struct queue_entry *a, const struct queue_entry *b)
{
    uint8_t pa = queue_entry_priority(a), pb = queue_entry_priority(b);

    return pa != pb ? pa > pb : a->offset_flags < b->offset_flags;
}

void queue_heap_push(struct queue_heap *h, struct queue_entry e)
{
    size_t i = h->count++;

    if (i == h->cap) {
        h->cap = h->cap == 0 ? 8 : h->cap * 2;
        h->entries = mem_realloc(h->entries, h->cap * sizeof(*h->entries));
    }
    while (i > 0 && before(&e, &h->entries[(i - 1) / 2])) {
        h->entries[i] = h->entries[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h->entries[i] = e;
}

struct queue_entry queue_heap_pop(struct queue_heap *h)
{
    struct queue_entry top = h->entries[0], last;
    size_t i = 0;

    DCHECK(h->count > 0);
    last = h->entries[--h->count];
    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= h->count)
            break;
        if (child + 1 < h->count && before(&h->entries[child + 1], &h->entries[child]))
            child++;
        if (!before(&h->entries[child], &last))
            break;
        h->entries[i] = h->entries[child];
        i = child;
    }
    h->entries[i] = last;
    if (h->count == 0 && h->cap > 64)
        queue_heap_fini(h);
    return top;
}

void queue_heap_fini(struct queue_heap *h)
{
    mem_free(h->entries);
    *h = (struct queue_heap){0};
}

void queue_ring_push(struct queue_ring *r, struct queue_entry e)
{
    if (r->count == r->cap) {
        uint32_t cap = r->cap == 0 ? 8 : r->cap * 2;
        struct queue_entry *entries = mem_alloc(cap * sizeof(*entries));

        for (uint32_t i = 0; i < r->count; i++)
            entries[i] = *queue_ring_at(r, i);
        mem_free(r->entries);
        r->entries = entries;
        r->head = 0;
        r->cap = cap;
    }
    r->entries[(r->head + r->count++) & (r->cap - 1)] = e;
}

struct queue_entry queue_ring_pop(struct queue_ring *r)
{
    struct queue_entry e = *queue_ring_at(r, 0);

    DCHECK(r->count > 0);
    r->head = (r->head + 1) & (r->cap - 1);
    if (--r->count == 0 && r->cap > 64)
        queue_ring_fini(r);
    return e;
}

void queue_ring_fini(struct queue_ring *r)
{
    mem_free(r->entries);
    *r = (struct queue_ring){0};
}
