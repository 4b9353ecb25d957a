/* The log in memory. One vector; what is dropped in front leaves a gap that is closed when the vector is full. */
#include "cluster/raft/private.h"

#define ENTRY_COST 64 /* what an entry takes beside its payload, about */

uint64_t entries_last(const struct entries *l)
{
    return l->base + l->n;
}

const struct raft_entry *entries_at(const struct entries *l, uint64_t index)
{
    CHECK(index > l->base && index <= l->base + l->n);
    return &l->v[l->head + (size_t)(index - l->base - 1)];
}

uint64_t entries_term(const struct entries *l, uint64_t index)
{
    if (index == l->base)
        return l->base_term;
    if (index < l->base || index > l->base + l->n)
        return 0;
    return entries_at(l, index)->term;
}

uint64_t entries_last_term(const struct entries *l)
{
    return entries_term(l, entries_last(l));
}

bool entries_has(const struct entries *l, uint64_t index, uint64_t term)
{
    if (index == 0)
        return l->base == 0 && term == 0;
    return index >= l->base && index <= l->base + l->n && entries_term(l, index) == term;
}

static void make_room(struct entries *l)
{
    if (l->head + l->n < l->cap)
        return;
    if (l->head > l->cap / 2) {
        memmove(l->v, l->v + l->head, l->n * sizeof(*l->v));
        memmove(l->sums, l->sums + l->head, l->n * sizeof(*l->sums));
        l->head = 0;
        return;
    }
    l->cap = l->cap == 0 ? 64 : 2 * l->cap;
    l->v = mem_realloc(l->v, l->cap * sizeof(*l->v));
    l->sums = mem_realloc(l->sums, l->cap * sizeof(*l->sums));
}

static uint64_t sum_at(const struct entries *l, uint64_t index)
{
    return index <= l->base ? l->base_sum : l->sums[l->head + (size_t)(index - l->base - 1)];
}

uint64_t entries_bytes_above(const struct entries *l, uint64_t index)
{
    uint64_t last = entries_last(l);

    return index >= last ? 0 : sum_at(l, last) - sum_at(l, index);
}

void entries_append(struct entries *l, uint64_t term, uint8_t kind, struct slice data)
{
    struct raft_entry *e;
    uint8_t *copy = NULL;

    CHECK(term >= entries_last_term(l));
    make_room(l);
    if (data.len != 0) {
        copy = mem_alloc(data.len);
        memcpy(copy, data.data, data.len);
    }
    l->sums[l->head + l->n] = sum_at(l, entries_last(l)) + data.len + ENTRY_COST;
    e = &l->v[l->head + l->n++];
    *e = (struct raft_entry){.term = term, .data = copy, .len = (uint32_t)data.len, .kind = kind};
}

void entries_truncate(struct entries *l, uint64_t from)
{
    CHECK(from > l->base);
    while (l->base + l->n >= from)
        mem_free((void *)l->v[l->head + --l->n].data);
}

void entries_drop_below(struct entries *l, uint64_t first)
{
    CHECK(first <= entries_last(l) + 1);
    while (l->base + 1 < first) {
        l->base_term = l->v[l->head].term;
        l->base_sum = l->sums[l->head];
        mem_free((void *)l->v[l->head].data);
        l->head++;
        l->n--;
        l->base++;
    }
}

void entries_reset(struct entries *l, uint64_t base, uint64_t base_term)
{
    if (l->n != 0)
        entries_truncate(l, l->base + 1);
    l->head = 0;
    l->base = base;
    l->base_term = base_term;
}

void entries_fini(struct entries *l)
{
    entries_reset(l, 0, 0);
    mem_free(l->v);
    mem_free(l->sums);
    *l = (struct entries){0};
}
