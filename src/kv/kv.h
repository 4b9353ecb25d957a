/* The KV engine of one partition: databases of keys with typed values, a deterministic state machine over the partition's main log.
 *
 * Everything here runs under the partition's lock; nothing reads a clock, a socket or chance: the caller gives them in `struct kv_ctx`. A command changes
 * memory and adds the effects that reproduce the change (kinds.def); kv_apply does the same from a record, in recovery and on followers. A command that fails changes nothing and adds no effect.
 *
 * Borrowed slices that come out (values, fields, members) are valid until the next change of that kv or until the lock is left. */
#ifndef GM_KV_KV_H
#define GM_KV_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/rand.h"
#include "log/effect.h"

struct kv;
struct kv_entry;

#define KV_DATABASES 16      /* what SELECT reaches */
#define KV_DB_INTERNAL 16    /* groups, offsets: not reachable from RESP */

#define KV_KEY_MAX (512u << 20)
#define KV_VALUE_MAX (512u << 20)

enum kv_type { KV_NONE, KV_STRING, KV_LIST, KV_SET, KV_ZSET, KV_HASH, KV_STREAM };
const char *kv_type_name(enum kv_type t); /* "none", "string", … as TYPE answers */

struct kv_ctx {
    struct kv *kv;
    struct effects *fx;
    uint32_t db;
    int64_t now_ms;   /* expiry is judged by it */
    struct rand *rand; /* for RANDOMKEY, SPOP: what leaves memory goes into effects */
    struct slice known; /* a key whose hash is known already, recognised by its address; from the first look-ahead (P6) */
    uint64_t known_hash;
};

struct kv_options {
    uint32_t hash_listpack_max_entries, hash_listpack_max_value; /* 128, 64: what OBJECT ENCODING and the compact form go by */
    uint32_t set_listpack_max_entries, set_listpack_max_value, set_intset_max_entries; /* 128, 64, 512 */
    uint32_t list_chunk_bytes; /* 8 KiB */
    uint32_t element_copy_max; /* 64 KiB: a larger field or member is copied by a snapshot without the lock */
    /* Frees something large elsewhere (a background thread); fn(p) must be called exactly once. NULL: at once. */
    void (*free_later)(void *free_arg, void (*fn)(void *p), void *p);
    void *free_arg;
};
struct kv *kv_new(const struct kv_options *options); /* NULL: defaults */
void kv_free(struct kv *kv);

/* ---- keys ------------------------------------------------------------------------------------------------------- */
enum kv_type kv_key_type(struct kv_ctx *c, struct slice key); /* KV_NONE when missing or expired */
bool kv_key_del(struct kv_ctx *c, struct slice key);          /* true: it existed */
/* at_ms absolute; in the past: the key is deleted. False: no such key. */
bool kv_key_expire_at(struct kv_ctx *c, struct slice key, int64_t at_ms);
bool kv_key_persist(struct kv_ctx *c, struct slice key); /* true: it had a TTL */
/* -2 no key, -1 no TTL, else the absolute ms. */
int64_t kv_key_expire_time(struct kv_ctx *c, struct slice key);
const char *kv_key_encoding(struct kv_ctx *c, struct slice key); /* OBJECT ENCODING's words; NULL: no key */
/* The bytes a key and its value take, in the allocator's classes, its share of the keyspace's table left out; ERR_NOT_FOUND. */
int kv_key_bytes(struct kv_ctx *c, struct slice key, uint64_t *ret);
uint64_t kv_db_size(const struct kv *kv, uint32_t db);
uint64_t kv_db_expires(const struct kv *kv, uint32_t db);
void kv_db_flush(struct kv_ctx *c); /* swaps the tables, frees later */
/* Looking ahead (P6), for up to 32 commands at once: hash and touch the buckets, then touch the entries. Under the partition's lock. */
uint64_t kv_key_hash(struct slice key);
void kv_prefetch_bucket(const struct kv *kv, uint32_t db, uint64_t hash);
bool kv_prefetch_entry(const struct kv *kv, uint32_t db, uint64_t hash); /* false: not in the first bucket of its chain; the next one is touched */
void kv_prefetch_chained(const struct kv *kv, uint32_t db, uint64_t hash); /* for those: the entry in the second */
/* SCAN: calls fn for each key of at least `count` buckets' worth; cursor 0 begins, 0 returned ends. A key there from begin to end is seen at least
 * once, whatever grows or shrinks between (P21). */
uint64_t kv_scan(struct kv_ctx *c, uint64_t cursor, uint32_t count, void (*fn)(struct slice key, enum kv_type type, void *arg), void *arg);
/* KEYS in slices: a walk over a database that may lose the lock between two calls. A key there from begin to end is visited exactly once, no other key
 * twice. KV_WALK_RESTARTED: the table has shrunk below what the walk stood on; it begins anew, and what was visited is to be forgotten. */
struct kv_walk {
    uint32_t next; /* family of buckets */
    uint8_t level;
    bool begun;
};
enum kv_walk_step { KV_WALK_MORE, KV_WALK_END, KV_WALK_RESTARTED };
/* Begins with a zeroed walk. A call visits at least so many keys, and a bucket more at most, unless it meets an empty stretch. */
enum kv_walk_step kv_walk_keys(struct kv_ctx *c, struct kv_walk *w, uint32_t count, void (*fn)(struct slice key, enum kv_type type, void *arg), void *arg);
/* A random key, false when the database is empty. */
bool kv_key_random(struct kv_ctx *c, struct slice *ret);

/* ---- strings: kv/string.c ---------------------------------------------------------------------------------------- */
/* ERR_NOT_FOUND, ERR_WRONG_TYPE. An integer-encoded value is rendered into a buffer of the kv. */
int kv_string_get(struct kv_ctx *c, struct slice key, struct slice *ret);
enum { KV_EXPIRE_NONE = 0, KV_EXPIRE_KEEP = -1 };
/* Sets whatever the key held. expire_at: KV_EXPIRE_NONE, KV_EXPIRE_KEEP or absolute ms. */
void kv_string_set(struct kv_ctx *c, struct slice key, struct slice value, int64_t expire_at);
/* ERR_NOT_INTEGER, ERR_OVERFLOW, ERR_WRONG_TYPE. Keeps the TTL. */
int kv_string_incr(struct kv_ctx *c, struct slice key, int64_t by, int64_t *ret);
int kv_string_append(struct kv_ctx *c, struct slice key, struct slice tail, uint64_t *ret_len);  /* ERR_TOO_LARGE */
int kv_string_set_range(struct kv_ctx *c, struct slice key, uint64_t offset, struct slice part, uint64_t *ret_len);
int kv_string_len(struct kv_ctx *c, struct slice key, uint64_t *ret); /* 0 for a missing key */

/* ---- hashes: kv/hash.c -------------------------------------------------------------------------------------------- */
int kv_hash_set(struct kv_ctx *c, struct slice key, const struct slice *pairs, size_t n, uint64_t *ret_added); /* n pairs: field, value, … */
int kv_hash_get(struct kv_ctx *c, struct slice key, struct slice field, struct slice *ret); /* ERR_NOT_FOUND */
int kv_hash_del(struct kv_ctx *c, struct slice key, const struct slice *fields, size_t n, uint64_t *ret_removed);
int kv_hash_len(struct kv_ctx *c, struct slice key, uint64_t *ret);
/* Calls fn for each field, in the order of the encoding; 0 also for a missing key. */
int kv_hash_each(struct kv_ctx *c, struct slice key, void (*fn)(struct slice field, struct slice value, void *arg), void *arg);

/* ---- lists: kv/list.c ----------------------------------------------------------------------------------------------- */
enum kv_end { KV_HEAD, KV_TAIL };
int kv_list_push(struct kv_ctx *c, struct slice key, enum kv_end end, const struct slice *values, size_t n, bool only_if_exists, uint64_t *ret_len);
/* Pops one into out (appended, since the element goes away); ERR_NOT_FOUND when there is none. */
int kv_list_pop(struct kv_ctx *c, struct slice key, enum kv_end end, struct buf *out);
int kv_list_len(struct kv_ctx *c, struct slice key, uint64_t *ret);
/* The element at `index`, negative from the tail; ERR_NOT_FOUND without the key, ERR_RANGE outside of the list. */
int kv_list_get(struct kv_ctx *c, struct slice key, int64_t index, struct slice *ret);
/* Inclusive, negative from the tail, clamped, as LRANGE. */
int kv_list_range(struct kv_ctx *c, struct slice key, int64_t first, int64_t last, void (*fn)(struct slice value, void *arg), void *arg, uint64_t *ret_count);

/* ---- sets: kv/set.c --------------------------------------------------------------------------------------------------- */
int kv_set_add(struct kv_ctx *c, struct slice key, const struct slice *members, size_t n, uint64_t *ret_added);
int kv_set_rem(struct kv_ctx *c, struct slice key, const struct slice *members, size_t n, uint64_t *ret_removed);
int kv_set_has(struct kv_ctx *c, struct slice key, struct slice member, bool *ret);
int kv_set_len(struct kv_ctx *c, struct slice key, uint64_t *ret);
int kv_set_each(struct kv_ctx *c, struct slice key, void (*fn)(struct slice member, void *arg), void *arg);

/* ---- WATCH: kv/watch.c -------------------------------------------------------------------------------------------------- */
/* Owned by the session; linked under the partition's lock. `dirty` is set (atomically, any thread may read it) when the key changes, expires or is flushed. */
struct kv_watch {
    struct list node;
    struct list peers;
    uint32_t db;
    char *key; /* owned by the kv while linked */
    size_t key_len;
    bool dirty;
    bool was_expired; /* when it was added: its expiry is no change then */
};
void kv_watch_add(struct kv_ctx *c, struct kv_watch *w, struct slice key);
void kv_watch_remove(struct kv *kv, struct kv_watch *w);
/* What EXEC asks, under the lock: dirty, or expired since. */
bool kv_watch_is_dirty(struct kv_ctx *c, const struct kv_watch *w);

/* ---- blocked clients: kv/blocked.c ------------------------------------------------------------------------------------------ */
/* A client waits for a key to hold something of `type`. Under the lock that added it, or in kv_blocked_serve, `serve` is called in order of arrival: it pops what it wants through ctx,
 * makes its result and says whether it is satisfied (it is then unlinked). A client waiting for several keys owns one of these a key and unlinks the
 * others itself by mail. */
struct kv_blocked {
    struct list node;
    enum kv_type type;
    uint32_t db;
    char *key;
    size_t key_len;
    bool (*serve)(struct kv_ctx *c, struct kv_blocked *b, struct slice key);
};
void kv_blocked_add(struct kv_ctx *c, struct kv_blocked *b, struct slice key);
void kv_blocked_remove(struct kv *kv, struct kv_blocked *b);
/* Serves the waiters of keys that got elements since the last call; called before a partition is left. */
void kv_blocked_serve(struct kv_ctx *c);

/* ---- expiry: kv/expire.c ------------------------------------------------------------------------------------------------------- */
/* Deletes up to `max` expired keys, sampled as Redis does, as one effect; returns how many were deleted. The caller bounds the time by max and loops. */
uint32_t kv_expire_cycle(struct kv_ctx *c, uint32_t max);

/* ---- replay, snapshots, stats -------------------------------------------------------------------------------------------------------- */
/* Applies one effect. ERR_CORRUPT, ERR_LEVEL. An element effect that meets a key of another type is ignored (P18). */
int kv_apply(struct kv *kv, const struct effect *e);
/* The same for many, looking ahead (P19): buckets are touched as effects come in, their entries when 32 are there, then all are applied. What the effects borrow from
 * must stay until the flush that returns after them; kv_replay_add flushes when it is full. */
#define KV_REPLAY_AHEAD 32
struct kv_replay {
    struct kv *kv;
    unsigned n;
    struct effect effects[KV_REPLAY_AHEAD];
    uint64_t hashes[KV_REPLAY_AHEAD];
};
int kv_replay_add(struct kv_replay *r, const struct effect *e);
int kv_replay_flush(struct kv_replay *r);
/* A hash over the logical content (types, keys, elements, TTLs), independent of layout and order; for tests and replicas. */
uint64_t kv_state_hash(struct kv *kv);
struct kv_stats {
    uint64_t keys, expires, table_bytes, entry_bytes, expired_total;
};
void kv_stats(const struct kv *kv, struct kv_stats *ret);
/* Keys, TTLs and the expired only: cheap enough for every command. */
void kv_stats_counts(const struct kv *kv, struct kv_stats *ret);
/* Forgets all content without effects, to be rebuilt from a log. Watchers are told, blocked clients stay. */
void kv_clear(struct kv *kv);

#endif
