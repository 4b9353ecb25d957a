#include "kv/compact.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "kv/entry.h"

struct compact *compact_new(void)
{
    struct compact *c = mem_alloc(64);

    *c = (struct compact){.cap = 64 - sizeof(*c)};
    return c;
}

size_t compact_bytes(const struct compact *c)
{
    return sizeof(*c) + c->cap;
}

static struct compact *reserve(struct compact *c, size_t more)
{
    size_t need = sizeof(*c) + c->len + more;

    if (need <= sizeof(*c) + c->cap)
        return c;
    need = size_class(need + need / 8);
    CHECK(need < UINT32_C(1) << 31);
    c = mem_realloc(c, need);
    c->cap = (uint32_t)(need - sizeof(*c)) & 0x7fffffff;
    return c;
}

static void put(struct compact *c, uint32_t at, struct slice item)
{
    uint8_t *p = c->data + at;

    p += uvarint_put(p, item.len);
    if (item.len != 0)
        memcpy(p, item.data, item.len);
}

struct compact *compact_append(struct compact *c, struct slice item)
{
    size_t n = uvarint_len(item.len) + item.len;

    c = reserve(c, n);
    put(c, c->len, item);
    c->len += (uint32_t)n;
    c->count++;
    return c;
}

struct slice compact_next(const struct compact *c, uint32_t *at)
{
    uint64_t len = 0;
    const uint8_t *p = c->data + *at;

    p += uvarint_get(p, c->data + c->len, &len);
    *at = (uint32_t)(p + len - c->data);
    return slice_of(p, (size_t)len);
}

bool compact_find(const struct compact *c, struct slice item, unsigned stride, uint32_t *ret_at)
{
    uint32_t at = 0;

    while (at < c->len) {
        uint32_t here = at;

        if (slice_eq(compact_next(c, &at), item)) {
            *ret_at = here;
            return true;
        }
        for (unsigned i = 1; i < stride; i++)
            compact_next(c, &at);
    }
    return false;
}

void compact_remove(struct compact *c, uint32_t at, unsigned n)
{
    uint32_t end = at;

    for (unsigned i = 0; i < n; i++)
        compact_next(c, &end);
    memmove(c->data + at, c->data + end, c->len - end);
    c->len -= end - at;
    c->count -= n;
}

struct compact *compact_replace(struct compact *c, uint32_t at, struct slice item)
{
    uint32_t end = at;
    size_t n = uvarint_len(item.len) + item.len, old;

    compact_next(c, &end);
    old = end - at;
    if (n > old)
        c = reserve(c, n - old);
    memmove(c->data + at + n, c->data + end, c->len - end);
    put(c, at, item);
    c->len = (uint32_t)(c->len + n - old);
    return c;
}
