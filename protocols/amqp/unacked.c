/* Unsettled deliveries of a channel; see struct amqp_unacked. */
#include "base/mem.h"
#include "protocols/amqp/session.h"

#define HOLE UINT64_MAX
#define SPARSE_MIN 1024u /* rings smaller than this are left alone */

static struct queue_handle *slot(const struct amqp_unacked *u, uint64_t tag)
{
    return &u->ring[tag & (u->cap - 1)];
}

static void old_push(struct amqp_unacked *u, uint64_t tag, const struct queue_handle *h)
{
    if (u->old_first != 0 && u->old_first == u->old_count)
        u->old_first = u->old_count = 0;
    if (u->old_count == u->old_cap) {
        u->old_cap = u->old_cap == 0 ? 16 : u->old_cap * 2;
        u->old = mem_realloc(u->old, u->old_cap * sizeof(*u->old));
    }
    u->old[u->old_count++] = (struct amqp_old_delivery){tag, *h};
}

/* The ring is full. If few of its deliveries are still unsettled, they move to the old ones; else it doubles.
 */
static void make_room(struct amqp_unacked *u)
{
    uint64_t span = u->next - u->base;
    uint32_t cap = u->cap == 0 ? 16 : u->cap * 2;
    struct queue_handle *ring;

    if (span >= SPARSE_MIN && (uint64_t)u->live * 8 < span) {
        for (uint64_t tag = u->base; tag < u->next; tag++) {
            if (slot(u, tag)->offset_flags != HOLE)
                old_push(u, tag, slot(u, tag));
        }
        u->base = u->next;
        u->live = 0;
        return;
    }
    CHECK(cap > u->cap);
    ring = mem_alloc(cap * sizeof(*ring));
    for (uint64_t tag = u->base; tag < u->next; tag++)
        ring[tag & (cap - 1)] = *slot(u, tag);
    mem_free(u->ring);
    u->ring = ring;
    u->cap = cap;
}

uint64_t amqp_unacked_push(struct amqp_unacked *u, const struct queue_handle *h)
{
    if (u->next == 0)
        u->base = u->next = 1;
    if (u->next - u->base == u->cap)
        make_room(u);
    *slot(u, u->next) = *h;
    u->live++;
    return u->next++;
}

uint64_t amqp_unacked_skip(struct amqp_unacked *u)
{
    if (u->next == 0)
        u->base = u->next = 1;
    if (u->base == u->next) {
        u->base++;
        return u->next++;
    }
    if (u->next - u->base == u->cap)
        make_room(u);
    if (u->base == u->next)
        return amqp_unacked_skip(u);
    slot(u, u->next)->offset_flags = HOLE;
    return u->next++;
}

static void advance(struct amqp_unacked *u)
{
    while (u->base < u->next && slot(u, u->base)->offset_flags == HOLE)
        u->base++;
}

/* The index of a tag among the old ones, or where it would stand. */
static uint32_t old_seek(const struct amqp_unacked *u, uint64_t tag)
{
    uint32_t a = u->old_first, b = u->old_count;

    while (a < b) {
        uint32_t m = a + (b - a) / 2;

        if (u->old[m].tag < tag)
            a = m + 1;
        else
            b = m;
    }
    return a;
}

bool amqp_unacked_known(const struct amqp_unacked *u, uint64_t tag)
{
    uint32_t i;

    if (tag >= u->base)
        return tag < u->next && tag != 0 && slot(u, tag)->offset_flags != HOLE;
    i = old_seek(u, tag);
    return i < u->old_count && u->old[i].tag == tag;
}

bool amqp_unacked_take(struct amqp_unacked *u, uint64_t tag, struct queue_handle *ret)
{
    if (!amqp_unacked_known(u, tag))
        return false;
    if (tag < u->base) {
        uint32_t i = old_seek(u, tag);

        *ret = u->old[i].handle;
        if (i == u->old_first) {
            u->old_first++;
            return true;
        }
        memmove(&u->old[i], &u->old[i + 1], (--u->old_count - i) * sizeof(*u->old));
        return true;
    }
    *ret = *slot(u, tag);
    slot(u, tag)->offset_flags = HOLE;
    u->live--;
    if (tag == u->base)
        advance(u);
    return true;
}

bool amqp_unacked_pop(struct amqp_unacked *u, uint64_t tag, uint64_t *ret_tag, struct queue_handle *ret)
{
    if (u->old_first < u->old_count)
        *ret_tag = u->old[u->old_first].tag;
    else if (u->base < u->next)
        *ret_tag = u->base; /* never a hole: advance() */
    else
        return false;
    if (*ret_tag > tag)
        return false;
    return amqp_unacked_take(u, *ret_tag, ret);
}

void amqp_unacked_restore(struct amqp_unacked *u, uint64_t tag, const struct queue_handle *h)
{
    uint32_t i;

    CHECK(tag < u->next && !amqp_unacked_known(u, tag));
    if (tag >= u->base) {
        *slot(u, tag) = *h;
        u->live++;
        return;
    }
    old_push(u, tag, h); /* for the room */
    for (i = u->old_count - 1; i > u->old_first && u->old[i - 1].tag > tag; i--)
        u->old[i] = u->old[i - 1];
    u->old[i] = (struct amqp_old_delivery){tag, *h};
}

uint32_t amqp_unacked_count(const struct amqp_unacked *u)
{
    return u->live + u->old_count - u->old_first;
}

void amqp_unacked_fini(struct amqp_unacked *u)
{
    mem_free(u->ring);
    mem_free(u->old);
    *u = (struct amqp_unacked){0};
}
