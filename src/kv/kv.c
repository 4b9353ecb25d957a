#include "kv/kv.h"

#include "base/err.h"
#include "base/mem.h"
#include "kv/state.h"

const char *kv_type_name(enum kv_type t)
{
    static const char *const names[] = {
        [KV_NONE] = "none", [KV_STRING] = "string", [KV_LIST] = "list",     [KV_SET] = "set",
        [KV_ZSET] = "zset", [KV_HASH] = "hash",     [KV_STREAM] = "stream",
    };

    return names[t];
}

static uint64_t entry_hash(const void *entry)
{
    struct slice key = entry_key(entry);

    return hash_bytes(key.data, key.len);
}

static bool entry_matches(const void *entry, const void *arg)
{
    return slice_eq_short(entry_key(entry), *(const struct slice *)arg);
}

static bool entry_is(const void *entry, const void *arg)
{
    return entry == arg;
}

struct kv *kv_new(const struct kv_options *options)
{
    struct kv *kv = mem_zalloc(sizeof(*kv));

    if (options != NULL)
        kv->o = *options;
    if (kv->o.hash_listpack_max_entries == 0)
        kv->o.hash_listpack_max_entries = 128;
    if (kv->o.hash_listpack_max_value == 0)
        kv->o.hash_listpack_max_value = 64;
    if (kv->o.set_listpack_max_entries == 0)
        kv->o.set_listpack_max_entries = 128;
    if (kv->o.set_listpack_max_value == 0)
        kv->o.set_listpack_max_value = 64;
    if (kv->o.set_intset_max_entries == 0)
        kv->o.set_intset_max_entries = 512;
    if (kv->o.list_chunk_bytes == 0)
        kv->o.list_chunk_bytes = 8192;
    if (kv->o.element_copy_max == 0)
        kv->o.element_copy_max = 64 << 10;
    kv->bytes = &kv->dbs[0].bytes;
    for (int i = 0; i < KV_DB_COUNT; i++) {
        table_init(&kv->dbs[i].keys, entry_hash);
        table_init(&kv->dbs[i].expires, entry_hash);
    }
    table_init(&kv->watched, kv_name_hash_of);
    table_init(&kv->blocked, kv_name_hash_of);
    list_init(&kv->ready);
    return kv;
}

/* ---- what entries own ------------------------------------------------------------------------------------------- */

static void compact_free(void *p)
{
    mem_free(p);
}

/* How to free an entry's object, NULL when it has none; its bytes and element count. */
static void (*object_free(const struct kv_entry *e, uint64_t *ret_bytes, uint64_t *ret_count))(void *)
{
    *ret_count = 1;
    switch (entry_encoding(e)) {
    case ENC_BLOB: {
        const struct blob *b = entry_object(e);

        *ret_bytes = size_class(sizeof(*b) + b->cap);
        return mem_free;
    }
    case ENC_COMPACT:
        *ret_bytes = size_class(compact_bytes(entry_object(e)));
        return compact_free;
    case ENC_TABLE: {
        const struct members *m = entry_object(e);

        *ret_bytes = m->bytes;
        *ret_count = m->table.count;
        return members_free;
    }
    case ENC_LIST:
        *ret_bytes = list_bytes(entry_object(e));
        *ret_count = list_chunks(entry_object(e));
        return list_free;
    case ENC_RAW:
    case ENC_INT:
        break;
    }
    *ret_bytes = 0;
    return NULL;
}

int kv_key_bytes(struct kv_ctx *c, struct slice key, uint64_t *ret)
{
    uint64_t bytes = 0, count = 0;
    struct kv_ref r;

    if (!kv_ref_read(c, key, &r))
        return ERR_NOT_FOUND;
    object_free(r.e, &bytes, &count);
    if (entry_encoding(r.e) == ENC_TABLE)
        bytes += table_bytes(&((const struct members *)entry_object(r.e))->table);
    *ret = size_class(entry_size_of(r.e)) + bytes;
    return 0;
}

void kv_entry_release_object(struct kv *kv, struct kv_entry *e)
{
    uint64_t bytes, count;
    void (*release)(void *) = object_free(e, &bytes, &count);

    if (release == NULL)
        return;
    *kv->bytes -= bytes;
    kv_let_go(kv, release, entry_object(e), count > KV_FREE_LATER);
}

static void entry_free_whole(void *entry, void *arg)
{
    uint64_t bytes, count;
    void (*release)(void *) = object_free(entry, &bytes, &count);

    (void)arg;
    if (release != NULL)
        release(entry_object(entry));
    mem_free(entry);
}

void kv_free(struct kv *kv)
{
    if (kv == NULL)
        return;
    kv_watch_fini(kv);
    kv_blocked_fini(kv);
    for (int i = 0; i < KV_DB_COUNT; i++) {
        table_fini(&kv->dbs[i].expires, NULL, NULL);
        table_fini(&kv->dbs[i].keys, entry_free_whole, NULL);
    }
    buf_fini(&kv->scratch);
    buf_fini(&kv->value);
    mem_free(kv);
}

/* ---- look-up ------------------------------------------------------------------------------------------------------ */

void kv_ref_find(struct kv *kv, uint32_t db, struct slice key, struct kv_ref *ret)
{
    kv_ref_find_hashed(kv, db, key, hash_bytes(key.data, key.len), ret);
}

void kv_ref_find_hashed(struct kv *kv, uint32_t db, struct slice key, uint64_t hash, struct kv_ref *ret)
{
    struct kv_db *d = &kv->dbs[db];
    table_slot *slot;

    CHECK(db < KV_DB_COUNT);
    slot = table_find(&d->keys, hash, entry_matches, &key);
    kv->bytes = &d->bytes;
    *ret = (struct kv_ref){kv, d, db, hash, key, slot, slot == NULL ? NULL : table_slot_entry(*slot)};
}

bool kv_ref_write(struct kv_ctx *c, struct slice key, struct kv_ref *ret)
{
    kv_ref_look_up(c, key, ret);
    if (ret->e != NULL && entry_is_expired(ret->e, c->now_ms)) {
        effect_add(c->fx, EFFECT_KV_DEL, c->db, key, SLICE_NONE);
        c->kv->expired_total++;
        kv_ref_touch(ret);
        kv_ref_remove(ret);
    }
    return ret->e != NULL;
}

static void count_entry(const struct kv_ref *r, const struct kv_entry *e, int sign)
{
    size_t n = size_class(entry_size_of(e));
    struct kv *kv = r->kv;

    *kv->bytes += sign > 0 ? n : -n;
    if (r->db_index != KV_DB_INTERNAL) {
        kv->keys += (uint64_t)sign;
        kv->expires += (uint64_t)(e->flags & ENTRY_TTL ? sign : 0);
    }
}

void kv_ref_insert(struct kv_ref *r, struct kv_entry *e)
{
    DCHECK(r->e == NULL);
    table_insert(&r->db->keys, r->hash, e);
    if (e->flags & ENTRY_TTL)
        table_insert(&r->db->expires, r->hash, e);
    count_entry(r, e, 1);
    r->slot = table_find(&r->db->keys, r->hash, entry_is, e); /* the insert may have split its bucket */
    r->e = e;
}

void kv_ref_replace(struct kv_ref *r, struct kv_entry *e)
{
    struct kv_entry *old = r->e;

    if (old->flags & ENTRY_TTL) {
        table_slot *s = table_find(&r->db->expires, r->hash, entry_is, old);

        if (e->flags & ENTRY_TTL)
            table_slot_replace(s, e);
        else
            table_remove(&r->db->expires, r->hash, s, !r->kv->walking);
    } else if (e->flags & ENTRY_TTL) {
        table_insert(&r->db->expires, r->hash, e);
    }
    table_slot_replace(r->slot, e);
    count_entry(r, old, -1);
    count_entry(r, e, 1);
    r->e = e;
    mem_free(old);
}

void kv_ref_remove(struct kv_ref *r)
{
    struct kv_entry *e = r->e;

    if (e->flags & ENTRY_TTL)
        table_remove(&r->db->expires, r->hash, table_find(&r->db->expires, r->hash, entry_is, e), !r->kv->walking);
    table_remove(&r->db->keys, r->hash, r->slot, !r->kv->walking);
    count_entry(r, e, -1);
    kv_entry_release_object(r->kv, e);
    mem_free(e);
    r->e = NULL;
    r->slot = NULL;
}

void kv_ref_expire(struct kv_ref *r, int64_t at_ms)
{
    struct kv_entry *old = r->e, *e;
    size_t rest;

    if (at_ms == 0 && !(old->flags & ENTRY_TTL))
        return;
    if (at_ms != 0 && (old->flags & ENTRY_TTL)) {
        memcpy(old->data, &at_ms, 8);
        return;
    }
    e = entry_new(entry_type(old), entry_encoding(old), entry_key(old), at_ms, old->value_len);
    rest = entry_encoding(old) == ENC_RAW ? old->value_len : 0;
    if (entry_encoding(old) != ENC_RAW)
        entry_payload_set(e, entry_payload(old));
    if (rest != 0)
        memcpy((uint8_t *)entry_inline_value(e).data, entry_inline_value(old).data, rest);
    memcpy(e->lru, old->lru, sizeof(e->lru));
    kv_ref_replace(r, e);
}

void kv_ref_touch(const struct kv_ref *r)
{
    if (GM_UNLIKELY(r->kv->watched.count != 0))
        kv_touched(r->kv, r->db_index, r->key);
}

/* ---- keys ----------------------------------------------------------------------------------------------------------- */

enum kv_type kv_key_type(struct kv_ctx *c, struct slice key)
{
    struct kv_ref r;

    return kv_ref_read(c, key, &r) ? entry_type(r.e) : KV_NONE;
}

bool kv_key_del(struct kv_ctx *c, struct slice key)
{
    struct kv_ref r;

    if (!kv_ref_write(c, key, &r))
        return false;
    effect_add(c->fx, EFFECT_KV_DEL, c->db, key, SLICE_NONE);
    kv_ref_touch(&r);
    kv_ref_remove(&r);
    return true;
}

static void add_expire_effect(struct kv_ctx *c, struct slice key, int64_t at_ms)
{
    uint8_t b[VARINT_MAX];

    effect_add(c->fx, EFFECT_KV_EXPIRE, c->db, key, slice_of(b, varint_put(b, at_ms)));
}

bool kv_key_expire_at(struct kv_ctx *c, struct slice key, int64_t at_ms)
{
    struct kv_ref r;

    if (!kv_ref_write(c, key, &r))
        return false;
    kv_ref_touch(&r);
    if (at_ms <= c->now_ms || at_ms <= 0) {
        effect_add(c->fx, EFFECT_KV_DEL, c->db, key, SLICE_NONE);
        kv_ref_remove(&r);
        return true;
    }
    add_expire_effect(c, key, at_ms);
    kv_ref_expire(&r, at_ms);
    return true;
}

bool kv_key_persist(struct kv_ctx *c, struct slice key)
{
    struct kv_ref r;

    if (!kv_ref_write(c, key, &r) || !(r.e->flags & ENTRY_TTL))
        return false;
    kv_ref_touch(&r);
    add_expire_effect(c, key, 0);
    kv_ref_expire(&r, 0);
    return true;
}

int64_t kv_key_expire_time(struct kv_ctx *c, struct slice key)
{
    struct kv_ref r;

    if (!kv_ref_read(c, key, &r))
        return -2;
    return r.e->flags & ENTRY_TTL ? entry_expire_at(r.e) : -1;
}

/* The words OBJECT ENCODING knows (Redis 7.2, object.c, strEncoding). */
const char *kv_key_encoding(struct kv_ctx *c, struct slice key)
{
    struct kv_ref r;

    if (!kv_ref_read(c, key, &r))
        return NULL;
    switch (entry_encoding(r.e)) {
    case ENC_RAW:
        return r.e->value_len <= 44 ? "embstr" : "raw";
    case ENC_INT:
        return "int";
    case ENC_BLOB:
        return "raw";
    case ENC_COMPACT: {
        const struct compact *m = entry_object(r.e);

        return entry_type(r.e) == KV_SET && !m->other ? "intset" : "listpack";
    }
    case ENC_TABLE:
        return "hashtable";
    case ENC_LIST:
        return list_chunks(entry_object(r.e)) <= 1 ? "listpack" : "quicklist";
    }
    UNREACHABLE();
}

uint64_t kv_db_size(const struct kv *kv, uint32_t db)
{
    return kv->dbs[db].keys.count;
}

uint64_t kv_db_expires(const struct kv *kv, uint32_t db)
{
    return kv->dbs[db].expires.count;
}

static void tables_free(void *p)
{
    struct kv_db *d = p;

    table_fini(&d->expires, NULL, NULL);
    table_fini(&d->keys, entry_free_whole, NULL);
    mem_free(d);
}

void kv_db_clear(struct kv *kv, uint32_t db)
{
    struct kv_db *d = &kv->dbs[db], *old;

    if (kv->watched.count != 0)
        kv_touched_all(kv, db);
    if (d->keys.count == 0)
        return;
    if (db != KV_DB_INTERNAL) {
        kv->keys -= d->keys.count;
        kv->expires -= d->expires.count;
    }
    old = mem_alloc(sizeof(*old));
    *old = *d;
    table_init(&d->keys, entry_hash);
    table_init(&d->expires, entry_hash);
    d->expire_cursor = 0;
    d->bytes = 0;
    kv_let_go(kv, tables_free, old, old->keys.count > KV_FREE_LATER || old->bytes > 1 << 20);
}

void kv_db_flush(struct kv_ctx *c)
{
    effect_add(c->fx, EFFECT_KV_FLUSH, c->db, SLICE_NONE, SLICE_NONE);
    kv_db_clear(c->kv, c->db);
}

uint64_t kv_key_hash(struct slice key)
{
    return hash_bytes(key.data, key.len);
}

void kv_prefetch_bucket(const struct kv *kv, uint32_t db, uint64_t hash)
{
    table_prefetch(&kv->dbs[db].keys, hash);
}

bool kv_prefetch_entry(const struct kv *kv, uint32_t db, uint64_t hash)
{
    return table_prefetch_entry(&kv->dbs[db].keys, hash);
}

void kv_prefetch_chained(const struct kv *kv, uint32_t db, uint64_t hash)
{
    table_prefetch_chained(&kv->dbs[db].keys, hash);
}

struct scan {
    struct kv_ctx *c;
    void (*fn)(struct slice key, enum kv_type type, void *arg);
    void *arg;
    uint64_t seen;
};

static void scan_visit(void *entry, void *arg)
{
    struct scan *s = arg;

    s->seen++;
    if (!entry_is_expired(entry, s->c->now_ms))
        s->fn(entry_key(entry), entry_type(entry), s->arg);
}

/* At most ten buckets an element asked for, as Redis does it, so that an empty stretch ends. */
uint64_t kv_scan(struct kv_ctx *c, uint64_t cursor, uint32_t count, void (*fn)(struct slice key, enum kv_type type, void *arg), void *arg)
{
    struct scan s = {c, fn, arg, 0};
    uint64_t buckets = 0;

    do {
        cursor = table_scan(&c->kv->dbs[c->db].keys, cursor, scan_visit, &s);
        buckets++;
    } while (cursor != 0 && s.seen < count && buckets < (uint64_t)count * 10);
    return cursor;
}

enum kv_walk_step kv_walk_keys(struct kv_ctx *c, struct kv_walk *w, uint32_t count, void (*fn)(struct slice key, enum kv_type type, void *arg), void *arg)
{
    const struct table *t = &c->kv->dbs[c->db].keys;
    struct scan s = {c, fn, arg, 0};
    uint64_t buckets = 0, families;

    /* A key's family of a level holds for good while the table has that level or a higher one, flushed and filled anew though it may be. */
    if (!w->begun || t->level < w->level) {
        bool lost = w->begun;

        *w = (struct kv_walk){.level = t->level, .begun = true};
        if (lost)
            return KV_WALK_RESTARTED;
    }
    families = t->buckets == 0 ? 0 : UINT64_C(1) << w->level;
    while (w->next < families && s.seen < count && buckets++ < (uint64_t)count * 10) {
        table_prefetch_family(t, w->next);
        table_visit_family(t, w->level, w->next++, scan_visit, &s);
    }
    return w->next < families ? KV_WALK_MORE : KV_WALK_END;
}

bool kv_key_random(struct kv_ctx *c, struct slice *ret)
{
    /* A database of expired keys only would never yield one; Redis gives up after 100 tries too. */
    for (int i = 0; i < 100; i++) {
        const struct kv_entry *e = table_random(&c->kv->dbs[c->db].keys, c->rand);

        if (e == NULL)
            return false;
        if (!entry_is_expired(e, c->now_ms)) {
            *ret = entry_key(e);
            return true;
        }
    }
    return false;
}

void kv_clear(struct kv *kv)
{
    for (uint32_t db = 0; db < KV_DB_COUNT; db++)
        kv_db_clear(kv, db);
}

void kv_stats_counts(const struct kv *kv, struct kv_stats *ret)
{
    *ret = (struct kv_stats){
        .keys = kv->keys, .expires = kv->expires, .expired_total = kv->expired_total};
}

void kv_stats(const struct kv *kv, struct kv_stats *ret)
{
    kv_stats_counts(kv, ret);
    for (int i = 0; i < KV_DB_COUNT; i++) {
        ret->entry_bytes += kv->dbs[i].bytes;
        ret->table_bytes += table_bytes(&kv->dbs[i].keys) + table_bytes(&kv->dbs[i].expires);
    }
}
