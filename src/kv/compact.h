/* Small hashes and sets: their items (length, bytes) one after another in one allocation, searched in order. A hash holds field, value, field, value.
 * Everything that returns a struct compact may have moved it. */
#ifndef GM_KV_COMPACT_H
#define GM_KV_COMPACT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

struct compact {
    uint32_t count; /* items */
    uint32_t len;   /* bytes */
    uint32_t cap : 31;
    uint32_t other : 1; /* the owner's: a set that has seen a member that is no integer */
    uint8_t data[];
};

struct compact *compact_new(void);
struct compact *compact_append(struct compact *c, struct slice item);
/* The item at byte position `at`; moves it behind it. Call while at < c->len. */
struct slice compact_next(const struct compact *c, uint32_t *at);
/* Looks at every `stride`-th item; true: *ret_at is its byte position. */
bool compact_find(const struct compact *c, struct slice item, unsigned stride, uint32_t *ret_at);
/* Removes n items beginning at byte position `at`. */
void compact_remove(struct compact *c, uint32_t at, unsigned n);
/* Replaces the item at `at`. */
struct compact *compact_replace(struct compact *c, uint32_t at, struct slice item);
size_t compact_bytes(const struct compact *c);

#endif
