/* Ready messages that the cursor has passed: a heap of those that came back (a lower offset first, within a
 * higher priority), and for priority queues a ring a priority of those never delivered. 16 bytes an entry;
 * not synchronised. */
#ifndef GM_QUEUE_HEAP_H
#define GM_QUEUE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct queue_entry {
    uint64_t offset_flags; /* as in struct queue_handle */
    uint32_t size;         /* of the body */
    uint32_t unused;
};

static inline int64_t queue_entry_offset(const struct queue_entry *e)
{
    return (int64_t)(e->offset_flags >> 16);
}
static inline uint8_t queue_entry_priority(const struct queue_entry *e)
{
    return (uint8_t)e->offset_flags;
}

struct queue_heap {
    struct queue_entry *entries; /* owned; entries[0] is next */
    size_t count, cap;
};
void queue_heap_push(struct queue_heap *h, struct queue_entry e);
struct queue_entry queue_heap_pop(struct queue_heap *h); /* not empty */
void queue_heap_fini(struct queue_heap *h);

struct queue_ring {
    struct queue_entry *entries; /* owned; cap is a power of two */
    uint32_t head, count, cap;
};
void queue_ring_push(struct queue_ring *r, struct queue_entry e);
struct queue_entry queue_ring_pop(struct queue_ring *r); /* not empty */
static inline struct queue_entry *queue_ring_at(const struct queue_ring *r, uint32_t i)
{
    return &r->entries[(r->head + i) & (r->cap - 1)];
}
void queue_ring_fini(struct queue_ring *r);

#endif
