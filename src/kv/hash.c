/* Hashes: a struct compact up to hash-max-listpack-entries and -value, then a table of fields. A large one never turns back, as in Redis.
 * What removes the last field is one KV_DEL: a removal of fields never implies the key's, so that replay over a fuzzy snapshot keeps the
 * key's TTL (P17). */
#include "base/err.h"
#include "kv/state.h"

static bool stays_compact(const struct kv *kv, const struct compact *c, struct slice field, struct slice value)
{
    return field.len <= kv->o.hash_listpack_max_value && value.len <= kv->o.hash_listpack_max_value &&
           c->count / 2 < kv->o.hash_listpack_max_entries;
}

static void account(struct kv *kv, size_t before, const struct compact *c)
{
    *kv->bytes += size_class(compact_bytes(c)) - before;
}

/* From compact to table. */
static struct members *grow(struct kv *kv, struct kv_entry *e)
{
    struct compact *c = entry_object(e);
    struct members *m = members_new(true);
    uint32_t at = 0;

    while (at < c->len) {
        struct slice field = compact_next(c, &at), value = compact_next(c, &at);

        members_put(kv, m, field, value);
    }
    kv_entry_release_object(kv, e);
    e->type_encoding = (uint8_t)(KV_HASH << 4 | ENC_TABLE);
    entry_object_set(e, m);
    return m;
}

bool kv_hash_put(struct kv_ref *r, struct slice field, struct slice value)
{
    struct kv *kv = r->kv;
    struct compact *c;
    uint32_t at;
    size_t before;

    if (r->e == NULL) {
        struct kv_entry *e = entry_new(KV_HASH, ENC_COMPACT, r->key, 0, 0);

        c = compact_new();
        *kv->bytes += size_class(compact_bytes(c));
        entry_object_set(e, c);
        kv_ref_insert(r, e);
    }
    if (entry_encoding(r->e) == ENC_TABLE)
        return members_put(kv, entry_object(r->e), field, value);
    c = entry_object(r->e);
    before = size_class(compact_bytes(c));
    if (compact_find(c, field, 2, &at) && value.len <= kv->o.hash_listpack_max_value) {
        compact_next(c, &at);
        c = compact_replace(c, at, value);
        entry_object_set(r->e, c);
        account(kv, before, c);
        return false;
    }
    if (!stays_compact(kv, c, field, value))
        return members_put(kv, grow(kv, r->e), field, value);
    c = compact_append(c, field);
    c = compact_append(c, value);
    entry_object_set(r->e, c);
    account(kv, before, c);
    return true;
}

bool kv_hash_drop(struct kv_ref *r, struct slice field)
{
    struct compact *c;
    uint32_t at;

    if (entry_encoding(r->e) == ENC_TABLE)
        return members_del(r->kv, entry_object(r->e), field);
    c = entry_object(r->e);
    if (!compact_find(c, field, 2, &at))
        return false;
    compact_remove(c, at, 2);
    return true;
}

uint64_t kv_hash_count(const struct kv_entry *e)
{
    if (entry_encoding(e) == ENC_TABLE)
        return ((struct members *)entry_object(e))->table.count;
    return ((struct compact *)entry_object(e))->count / 2;
}

static bool lookup(const struct kv_entry *e, struct slice field, struct slice *ret)
{
    const struct compact *c = entry_object(e);
    uint32_t at;

    if (entry_encoding(e) == ENC_TABLE)
        return members_get(entry_object(e), field, ret);
    if (!compact_find(c, field, 2, &at))
        return false;
    compact_next(c, &at);
    *ret = compact_next(c, &at);
    return true;
}

struct walk {
    const struct members *m;
    void (*fn)(struct slice field, struct slice value, void *arg);
    void *arg;
};

static void walk_one(void *element, void *arg)
{
    struct walk *w = arg;
    struct slice field, value;

    members_parts(w->m, element, &field, &value);
    w->fn(field, value, w->arg);
}

void kv_hash_walk(const struct kv_entry *e, void (*fn)(struct slice field, struct slice value, void *arg), void *arg)
{
    if (entry_encoding(e) == ENC_TABLE) {
        struct walk w = {entry_object(e), fn, arg};

        table_each(&w.m->table, walk_one, &w);
    } else {
        const struct compact *c = entry_object(e);
        uint32_t at = 0;

        while (at < c->len) {
            struct slice field = compact_next(c, &at), value = compact_next(c, &at);

            fn(field, value, arg);
        }
    }
}

/* ---- commands --------------------------------------------------------------------------------------------------------- */

int kv_hash_set(struct kv_ctx *c, struct slice key, const struct slice *pairs, size_t n, uint64_t *ret_added)
{
    struct kv_ref r;
    struct buf *b = kv_value_begin(c->kv);

    *ret_added = 0;
    if (kv_ref_write(c, key, &r) && entry_type(r.e) != KV_HASH)
        return ERR_WRONG_TYPE;
    for (size_t i = 0; i < n; i++) {
        buf_put_lslice(b, pairs[2 * i]);
        buf_put_lslice(b, pairs[2 * i + 1]);
        *ret_added += kv_hash_put(&r, pairs[2 * i], pairs[2 * i + 1]);
    }
    if (n != 0) {
        effect_add(c->fx, EFFECT_KV_HASH_SET, c->db, key, buf_slice(b));
        kv_ref_touch(&r);
    }
    kv_value_done(c->kv);
    return 0;
}

int kv_hash_get(struct kv_ctx *c, struct slice key, struct slice field, struct slice *ret)
{
    struct kv_ref r;

    if (!kv_ref_read(c, key, &r))
        return ERR_NOT_FOUND;
    if (entry_type(r.e) != KV_HASH)
        return ERR_WRONG_TYPE;
    return lookup(r.e, field, ret) ? 0 : ERR_NOT_FOUND;
}

int kv_hash_del(struct kv_ctx *c, struct slice key, const struct slice *fields, size_t n, uint64_t *ret_removed)
{
    struct kv_ref r;
    struct buf *b = kv_value_begin(c->kv);

    *ret_removed = 0;
    if (!kv_ref_write(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_HASH)
        return ERR_WRONG_TYPE;
    for (size_t i = 0; i < n; i++) {
        if (kv_hash_drop(&r, fields[i])) {
            buf_put_lslice(b, fields[i]);
            ++*ret_removed;
        }
    }
    if (*ret_removed != 0) {
        kv_ref_touch(&r);
        if (kv_hash_count(r.e) == 0) {
            effect_add(c->fx, EFFECT_KV_DEL, c->db, key, SLICE_NONE);
            kv_ref_remove(&r);
        } else {
            effect_add(c->fx, EFFECT_KV_HASH_DEL, c->db, key, buf_slice(b));
        }
    }
    kv_value_done(c->kv);
    return 0;
}

int kv_hash_len(struct kv_ctx *c, struct slice key, uint64_t *ret)
{
    struct kv_ref r;

    *ret = 0;
    if (!kv_ref_read(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_HASH)
        return ERR_WRONG_TYPE;
    *ret = kv_hash_count(r.e);
    return 0;
}

int kv_hash_each(struct kv_ctx *c, struct slice key, void (*fn)(struct slice field, struct slice value, void *arg), void *arg)
{
    struct kv_ref r;

    if (!kv_ref_read(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_HASH)
        return ERR_WRONG_TYPE;
    kv_hash_walk(r.e, fn, arg);
    return 0;
}
