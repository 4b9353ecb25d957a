/* A hash table that never rehashes: linear hashing (Litwin, "Linear Hashing", 1980) over 64-byte buckets (performance rule P21).
 *
 *   bucket   byte 0      presence of slots 0..6 (bits 0..6), chained (bit 7)
 *            bytes 1..7  the top byte of each slot's hash
 *            8 x 7       slots: 48 bits of pointer, 16 bits of hash; when chained, slot 6 is the next bucket
 *
 * The 16 hash bits beside a pointer are bits 8..23, which are those a split asks for in tables of 256 to 16 million buckets, so that splitting touches no
 * entry. Buckets lie in pages of 64 behind a directory; the first page starts with 8. An insert that lifts the load over 5.5 a bucket splits
 * one, a delete below 2 merges one: the cost of growing is spread evenly.
 *
 * Invariants: 2^level <= buckets < 2^(level+1); an entry of hash h is in bucket h mod 2^(level+1) if that exists, else h mod 2^level; in a chain only
 * the last bucket has free slots, and slots are filled from 0 on.
 *
 * The table does not own its entries. Pointers to slots are valid until the next insert or removal. Not synchronised. */
#ifndef GM_KV_TABLE_H
#define GM_KV_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/rand.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bucket headers are compared as little-endian words");
_Static_assert(sizeof(void *) == 8, "slots hold 48 bits of pointer");

#define TABLE_SLOTS 7
#define TABLE_CHAINED 0x80
#define TABLE_PTR_MASK ((UINT64_C(1) << 48) - 1)

typedef uint64_t table_slot;

struct table_bucket {
    uint8_t meta;
    uint8_t tags[TABLE_SLOTS];
    table_slot slots[TABLE_SLOTS];
};

struct table {
    struct table_bucket **pages; /* owned */
    uint32_t buckets;            /* 0: nothing allocated yet */
    uint8_t level;
    uint8_t first_cap_log; /* buckets the first page has room for: 8 << this, up to 64 */
    uint64_t count;
    uint64_t (*hash)(const void *entry); /* of an entry; for splits the slot's bits do not decide */
    uint32_t overflow;                   /* chained buckets */
    uint32_t pages_cap;
};

typedef bool table_match(const void *entry, const void *arg);
typedef void table_visit_fn(void *entry, void *arg);

void table_init(struct table *t, uint64_t (*hash)(const void *entry));
/* Frees the table; free_entry (may be NULL) is called for each entry. The table is empty and usable again. */
void table_fini(struct table *t, table_visit_fn *free_entry, void *arg);
/* The caller knows that it is not there. */
void table_insert(struct table *t, uint64_t hash, void *entry);
/* Removes what table_find returned. `shrink`: may merge buckets (not while a walk runs, P18). */
void table_remove(struct table *t, uint64_t hash, table_slot *slot, bool shrink);
/* Redis' reverse-binary cursor over the lower power of two, a bucket together with its split image: whatever is there from the first call
 * (cursor 0) to the last (0 returned) is visited at least once, whatever grows or shrinks between. */
uint64_t table_scan(const struct table *t, uint64_t cursor, table_visit_fn *visit, void *arg);
void table_each(const struct table *t, table_visit_fn *visit, void *arg);
/* Visits all buckets that descend from bucket v of a table of 2^level: with v from 0 to 2^level - 1 a walk sees everything that was there throughout,
 * in a table that may split meanwhile, and is not prolonged by splits. */
void table_visit_family(const struct table *t, unsigned level, uint32_t v, table_visit_fn *visit, void *arg);
/* A random entry, NULL when empty. Not quite uniform: entries of full buckets come less often. */
void *table_random(const struct table *t, struct rand *r);
uint64_t table_bytes(const struct table *t);
/* Checks the invariants; for tests. */
bool table_is_sound(const struct table *t);

static inline void *table_slot_entry(table_slot s)
{
    return (void *)(uintptr_t)(s & TABLE_PTR_MASK);
}
/* Replaces the entry by another of the same hash. */
static inline void table_slot_replace(table_slot *s, const void *entry)
{
    *s = (*s & ~TABLE_PTR_MASK) | (uint64_t)(uintptr_t)entry;
}
static inline struct table_bucket *table_bucket_at(const struct table *t, uint32_t i)
{
    return &t->pages[i >> 6][i & 63];
}
static inline uint32_t table_home(const struct table *t, uint64_t hash)
{
    uint32_t i = (uint32_t)(hash & ((UINT64_C(2) << t->level) - 1));

    return i < t->buckets ? i : i & ((UINT32_C(1) << t->level) - 1);
}
static inline struct table_bucket *table_next(const struct table_bucket *b)
{
    return (struct table_bucket *)(uintptr_t)b->slots[TABLE_SLOTS - 1];
}
static inline unsigned table_bucket_count(const struct table_bucket *b)
{
    return (unsigned)__builtin_popcount(b->meta & 0x7f);
}
/* One bit a candidate slot, at 8 * (slot + 1) + 7. May be set for a slot whose tag differs; never missing for one that matches. */
static inline uint64_t table_candidates(const struct table_bucket *b, uint64_t hash)
{
    uint64_t word, x;

    memcpy(&word, b, sizeof(word));
    x = word ^ (UINT64_C(0x0101010101010101) * (hash >> 56));
    return (x - UINT64_C(0x0101010101010101)) & ~x & UINT64_C(0x8080808080808000);
}

/* The slot of the entry that matches, NULL when there is none. */
static inline table_slot *table_find(const struct table *t, uint64_t hash, table_match *match, const void *arg)
{
    struct table_bucket *b;

    if (t->buckets == 0)
        return NULL;
    b = table_bucket_at(t, table_home(t, hash));
    for (;;) {
        for (uint64_t m = table_candidates(b, hash); m != 0; m &= m - 1) {
            unsigned i = (unsigned)__builtin_ctzll(m) / 8 - 1;

            if ((b->meta >> i & 1) && (b->slots[i] >> 48) == (hash >> 8 & 0xffff) &&
                match(table_slot_entry(b->slots[i]), arg))
                return &b->slots[i];
        }
        if (!(b->meta & TABLE_CHAINED))
            return NULL;
        b = table_next(b);
    }
}

/* The empty asm keeps gcc from taking a function that only prefetches for one that does nothing, and leaving it out. */
static inline void table_touch(const void *p)
{
    __builtin_prefetch(p);
    __asm__ volatile("");
}

/* P6: first the buckets of a pipeline's keys, then their entries, then execute. */
static inline void table_prefetch(const struct table *t, uint64_t hash)
{
    if (t->buckets != 0)
        table_touch(table_bucket_at(t, table_home(t, hash)));
}
static inline bool table_touch_entry(const struct table_bucket *b, uint64_t hash)
{
    for (uint64_t m = table_candidates(b, hash); m != 0; m &= m - 1) {
        unsigned i = (unsigned)__builtin_ctzll(m) / 8 - 1;

        if ((b->meta >> i & 1) && (b->slots[i] >> 48) == (hash >> 8 & 0xffff)) {
            table_touch(table_slot_entry(b->slots[i]));
            return true;
        }
    }
    return false;
}
/* False: it is not in its first bucket, and the one chained behind that is touched. */
static inline bool table_prefetch_entry(const struct table *t, uint64_t hash)
{
    const struct table_bucket *b;

    if (t->buckets == 0)
        return true;
    b = table_bucket_at(t, table_home(t, hash));
    if (table_touch_entry(b, hash) || !(b->meta & TABLE_CHAINED))
        return true;
    table_touch(table_next(b));
    return false;
}
static inline void table_prefetch_chained(const struct table *t, uint64_t hash)
{
    const struct table_bucket *b;

    if (t->buckets == 0)
        return;
    b = table_bucket_at(t, table_home(t, hash));
    if (b->meta & TABLE_CHAINED)
        table_touch_entry(table_next(b), hash);
}

/* The same for a walk by table_visit_family: the entries of a bucket soon to be visited, and a bucket further on. */
static inline void table_prefetch_family(const struct table *t, uint32_t v)
{
    if (v + 16 < t->buckets)
        table_touch(table_bucket_at(t, v + 16));
    if (v + 6 < t->buckets) {
        const struct table_bucket *b = table_bucket_at(t, v + 6);

        for (unsigned m = b->meta; m != 0; m &= m - 1) {
            unsigned i = (unsigned)__builtin_ctz(m);

            table_touch(table_slot_entry(b->slots[i == TABLE_SLOTS ? TABLE_SLOTS - 1 : i])); /* chained: the next bucket */
        }
    }
}

#endif
