/* Inside of src/kv: what its files share. Nothing outside includes this but its tests.
 *
 * A command (string.c, hash.c, …) looks a key up for reading or for writing, changes the object and adds the effect; apply.c looks up
 * and changes through the same functions. A look-up for writing first removes a key that has expired, with its effect. */
#ifndef GM_KV_STATE_H
#define GM_KV_STATE_H

#include "base/buf.h"
#include "base/hash.h"
#include "kv/compact.h"
#include "kv/entry.h"
#include "kv/kv.h"
#include "kv/table.h"

#define KV_DB_COUNT (KV_DATABASES + 1)
#define KV_FREE_LATER 256 /* objects with more elements are freed in the background */

struct kv_db {
    struct table keys;    /* struct kv_entry, owned */
    struct table expires; /* those of them with a TTL, borrowed */
    uint64_t expire_cursor;
    uint64_t bytes; /* what the entries take */
};

struct kv {
    /* what every command looks at, in a cache line with the beginning of database 0 */
    uint64_t *bytes;   /* of the database looked into last: every change begins with a look-up */
    struct list ready; /* blocked.c: of struct kv_name */
    bool walking;      /* a snapshot walk runs: tables do not shrink (P18) */
    bool walk_restart; /* asks it to begin anew */
    struct kv_db dbs[KV_DB_COUNT];
    struct kv_options o;
    struct buf scratch; /* integers rendered, names gathered */
    struct buf value;   /* an effect's, while a command makes it */
    uint64_t expired_total;
    uint64_t keys, expires; /* of the databases that SELECT reaches */
    /* pin.c */
    const void **pins; /* owned array of elements */
    uint32_t pins_count, pins_cap;
    struct let_go *let_go; /* owned */
    /* watch.c */
    struct table watched; /* struct kv_name, owned */
    /* blocked.c */
    struct table blocked; /* struct kv_name, owned */
};

_Static_assert(offsetof(struct kv, dbs[0].keys.level) < 64, "a look-up begins in one cache line");

/* A key that somebody waits for or watches. */
struct kv_name {
    struct list who;   /* struct kv_watch.peers or struct kv_blocked.node */
    struct list ready; /* in kv.ready */
    uint32_t db;
    size_t key_len;
    uint8_t key[];
};
uint64_t kv_name_hash(uint32_t db, struct slice key);
uint64_t kv_name_hash_of(const void *name);
table_slot *kv_name_find(const struct table *t, uint32_t db, struct slice key);
struct kv_name *kv_name_get(struct table *t, uint32_t db, struct slice key); /* made when missing */
void kv_name_drop(struct table *t, struct kv_name *n);

/* The buffer for an effect's value, empty; kv_value_done when the effect was added. */
static inline struct buf *kv_value_begin(struct kv *kv)
{
    buf_clear(&kv->value);
    return &kv->value;
}
static inline void kv_value_done(struct kv *kv)
{
    if (GM_UNLIKELY(kv->value.cap > 64 << 10))
        buf_fini(&kv->value);
}

/* ---- look-up: kv.c -------------------------------------------------------------------------------------------------- */
struct kv_ref {
    struct kv *kv;
    struct kv_db *db;
    uint32_t db_index;
    uint64_t hash;
    struct slice key;
    table_slot *slot;   /* NULL: missing */
    struct kv_entry *e; /* NULL: missing */
};
/* Finds whatever is there, expired or not. */
void kv_ref_find(struct kv *kv, uint32_t db, struct slice key, struct kv_ref *ret);
void kv_ref_find_hashed(struct kv *kv, uint32_t db, struct slice key, uint64_t hash, struct kv_ref *ret);
/* The same, of a command's key. */
static inline void kv_ref_look_up(struct kv_ctx *c, struct slice key, struct kv_ref *ret)
{
    bool known = key.data == c->known.data && key.len == c->known.len && key.len != 0;

    kv_ref_find_hashed(c->kv, c->db, key, known ? c->known_hash : hash_bytes(key.data, key.len), ret);
}
/* For reading: an expired key is missing. */
static inline bool kv_ref_read(struct kv_ctx *c, struct slice key, struct kv_ref *ret)
{
    kv_ref_look_up(c, key, ret);
    if (ret->e != NULL && entry_is_expired(ret->e, c->now_ms)) {
        ret->e = NULL;
        ret->slot = NULL;
    }
    return ret->e != NULL;
}
/* For writing: an expired key is removed, with its effect. */
bool kv_ref_write(struct kv_ctx *c, struct slice key, struct kv_ref *ret);
/* Links a new entry at a missing key. */
void kv_ref_insert(struct kv_ref *r, struct kv_entry *e);
/* Puts another entry of the same key in place of the present one, whose memory is freed (not what it owns). */
void kv_ref_replace(struct kv_ref *r, struct kv_entry *e);
/* Removes the key and frees what it owns. */
void kv_ref_remove(struct kv_ref *r);
/* Sets or clears (0) the TTL; may replace the entry. */
void kv_ref_expire(struct kv_ref *r, int64_t at_ms);
/* The key has changed: watchers are told. */
void kv_ref_touch(const struct kv_ref *r);
/* Frees what an entry owns besides itself, at once or later, and takes it from the byte count. */
void kv_entry_release_object(struct kv *kv, struct kv_entry *e);

void kv_touched(struct kv *kv, uint32_t db, struct slice key);      /* watch.c */
void kv_touched_all(struct kv *kv, uint32_t db);                    /* watch.c: a flush */
void kv_blocked_ready(struct kv *kv, uint32_t db, struct slice key); /* blocked.c: it got elements */
void kv_watch_fini(struct kv *kv);
void kv_blocked_fini(struct kv *kv);

/* pin.c: elements whose bytes stay while the lock is given up. */
void kv_pin(struct kv *kv, const void *element);
bool kv_is_pinned(const struct kv *kv, const void *element);
void kv_unpin_all(struct kv *kv);
/* Frees what may be or contain something pinned: now, or in the background (`later`), or after the pins. */
void kv_let_go(struct kv *kv, void (*fn)(void *p), void *p, bool later);

/* Empties a database; apply.c and kv_db_flush. */
void kv_db_clear(struct kv *kv, uint32_t db);

/* ---- what apply.c calls: each finds its key and ignores one of another type ------------------------------------------ */
void kv_string_put(struct kv_ref *r, struct slice value, int64_t expire_at); /* at whatever the key held; expire_at 0: none */
int kv_string_put_range(struct kv_ref *r, uint64_t offset, struct slice part);
/* A string's bytes; an integer is rendered into kv->scratch. */
struct slice kv_string_bytes(struct kv *kv, const struct kv_entry *e);

/* members.c: the large form of sets and hashes. An element is (length, bytes) or (field length, value length, field, value). */
struct members {
    struct table table;
    uint64_t bytes;
    bool pairs;
};
struct members *members_new(bool pairs);
void members_free(void *m);
bool members_put(struct kv *kv, struct members *m, struct slice name, struct slice value); /* true: it is new */
/* All that an effect still lists, looking ahead (P19): a snapshot's effect may have a thousand. ERR_CORRUPT. */
int members_put_all(struct kv *kv, struct members *m, struct reader *rd);
bool members_get(const struct members *m, struct slice name, struct slice *ret_value);
bool members_del(struct kv *kv, struct members *m, struct slice name);
void members_element_parts(const void *element, bool pairs, struct slice *ret_name, struct slice *ret_value);
void members_parts(const struct members *m, const void *element, struct slice *ret_name, struct slice *ret_value);

bool kv_hash_put(struct kv_ref *r, struct slice field, struct slice value); /* r->e is a hash, or NULL: made; true: it is new */
bool kv_hash_drop(struct kv_ref *r, struct slice field);
uint64_t kv_hash_count(const struct kv_entry *e);
void kv_hash_walk(const struct kv_entry *e, void (*fn)(struct slice field, struct slice value, void *arg), void *arg);
bool kv_set_put(struct kv_ref *r, struct slice member);
bool kv_set_drop(struct kv_ref *r, struct slice member);
uint64_t kv_set_count(const struct kv_entry *e);
void kv_set_walk(const struct kv_entry *e, void (*fn)(struct slice member, void *arg), void *arg);

/* list.c: elements by logical index, in chunks sorted by it. Replay over a fuzzy snapshot may leave gaps between chunks, which a later
 * effect of the same replay closes (P17). */
#define KV_LIST_INDEX_MAX (INT64_C(1) << 62)
struct kv_list;
struct kv_list *list_new(void);
void list_free(void *l);
uint64_t list_bytes(const struct kv_list *l);
int64_t list_head(const struct kv_list *l); /* index of the first */
int64_t list_tail(const struct kv_list *l); /* index behind the last */
void list_put(struct kv *kv, struct kv_list *l, int64_t index, struct slice value);
void list_cut_head(struct kv *kv, struct kv_list *l, int64_t head); /* those below go */
void list_cut_tail(struct kv *kv, struct kv_list *l, int64_t tail); /* those at and above go */
uint32_t list_chunks(const struct kv_list *l);
/* Calls fn from the first element at or above `from` until it returns false or there are no more. */
void list_walk(const struct kv_list *l, int64_t from, bool (*fn)(int64_t index, struct slice value, void *arg), void *arg);
struct kv_entry *kv_list_entry(struct kv_ref *r); /* r->e is a list, or NULL: made */

/* ---- snapshot file: snapshot.h describes it ---------------------------------------------------------------------------- */
#define SNAPSHOT_MAGIC "GMSNAP01"
#define SNAPSHOT_LEVEL 1 /* what is in it is of this level (rule 10): raise it with the first section or kind that is not, and write that only when the topology has it */
#define SNAPSHOT_HEADER 56     /* magic 8, cluster id 16, partition u32, level u32, S i64, written ms i64, zero u32, CRC32C u32 of what stands before */
#define SNAPSHOT_BLOCK (64 << 10)
#define SNAPSHOT_BLOCK_HEAD 8  /* length u32, CRC32C u32 of length and payload */
#define SNAPSHOT_END 0xffffffffu /* in place of a length: the footer */
#define SNAPSHOT_FOOTER 36     /* END u32, E i64, keys u64, blocks u64, CRC32C u32 of the block CRCs, CRC32C u32 of what stands before */

#endif
