/* Entries of a keyspace: one allocation a key (performance rule P22).
 *
 *   0  type:4 (high) encoding:4
 *   1  flags: ENTRY_TTL, ENTRY_LONG_KEY
 *   2  3 bytes for LRU or LFU, written only when they change
 *   5  key length, 0 with ENTRY_LONG_KEY
 *   6  value length u16, of an inline value
 *   8  [expiry, ms since 1970, 8]     with ENTRY_TTL
 *      [payload, 8]                   every encoding but ENC_RAW: an integer, or a pointer the entry owns
 *      [key length u32]               with ENTRY_LONG_KEY
 *      key
 *      value                          ENC_RAW
 *
 * Pure memory layout; whoever changes what an entry owns keeps the kv's byte count. */
#ifndef GM_KV_ENTRY_H
#define GM_KV_ENTRY_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/slice.h"
#include "kv/kv.h"

#define ENTRY_INLINE_MAX 512 /* longer values are blobs */

enum kv_encoding {
    ENC_RAW,     /* a string, inline */
    ENC_INT,     /* a string that is a decimal integer, kept as int64 */
    ENC_BLOB,    /* a string: struct blob */
    ENC_COMPACT, /* a small hash or set: struct compact */
    ENC_TABLE,   /* a large hash or set: struct members */
    ENC_LIST,    /* struct kv_list */
};

enum { ENTRY_TTL = 1, ENTRY_LONG_KEY = 2 };

struct kv_entry {
    uint8_t type_encoding;
    uint8_t flags;
    uint8_t lru[3];
    uint8_t key_len;
    uint16_t value_len;
    uint8_t data[];
};

/* The size a request of n takes in the allocator's classes: 16 apart up to 128, then four to a doubling. Entries and elements ask for this
 * much, so that a value may grow in place up to it. */
static inline size_t size_class(size_t n)
{
    size_t step = 16;

    if (n > 128)
        step = (size_t)1 << (61 - __builtin_clzll(n - 1));
    return (n + step - 1) & ~(step - 1);
}

static inline enum kv_type entry_type(const struct kv_entry *e)
{
    return (enum kv_type)(e->type_encoding >> 4);
}
static inline enum kv_encoding entry_encoding(const struct kv_entry *e)
{
    return (enum kv_encoding)(e->type_encoding & 15);
}
static inline size_t entry_payload_at(const struct kv_entry *e)
{
    return e->flags & ENTRY_TTL ? 8 : 0;
}
static inline size_t entry_key_at(const struct kv_entry *e)
{
    return entry_payload_at(e) + (entry_encoding(e) != ENC_RAW ? 8 : 0) + (e->flags & ENTRY_LONG_KEY ? 4 : 0);
}
static inline struct slice entry_key(const struct kv_entry *e)
{
    size_t at = entry_key_at(e);
    uint32_t len = e->key_len;

    if (e->flags & ENTRY_LONG_KEY)
        memcpy(&len, e->data + at - 4, 4);
    return slice_of(e->data + at, len);
}
/* 0: none. */
static inline int64_t entry_expire_at(const struct kv_entry *e)
{
    int64_t at = 0;

    if (e->flags & ENTRY_TTL)
        memcpy(&at, e->data, 8);
    return at;
}
static inline uint64_t entry_payload(const struct kv_entry *e)
{
    uint64_t v;

    memcpy(&v, e->data + entry_payload_at(e), 8);
    return v;
}
static inline void entry_payload_set(struct kv_entry *e, uint64_t v)
{
    memcpy(e->data + entry_payload_at(e), &v, 8);
}
static inline void *entry_object(const struct kv_entry *e)
{
    return (void *)(uintptr_t)entry_payload(e);
}
static inline void entry_object_set(struct kv_entry *e, const void *p)
{
    entry_payload_set(e, (uint64_t)(uintptr_t)p);
}
static inline struct slice entry_inline_value(const struct kv_entry *e)
{
    struct slice key = entry_key(e);

    return slice_of(key.data + key.len, e->value_len);
}
static inline bool entry_is_expired(const struct kv_entry *e, int64_t now_ms)
{
    return (e->flags & ENTRY_TTL) && entry_expire_at(e) <= now_ms;
}
/* Bytes asked for when an entry like this is made. */
size_t entry_size(enum kv_encoding encoding, size_t key_len, bool ttl, size_t value_len);
static inline size_t entry_size_of(const struct kv_entry *e)
{
    return sizeof(*e) + entry_key_at(e) + entry_key(e).len + (entry_encoding(e) == ENC_RAW ? e->value_len : 0);
}
/* A new entry; the inline value or the payload is left to the caller. expire_at 0: no TTL. */
struct kv_entry *entry_new(enum kv_type type, enum kv_encoding encoding, struct slice key, int64_t expire_at, size_t value_len);

/* A long string. */
struct blob {
    uint64_t len, cap;
    uint8_t data[];
};

#endif
