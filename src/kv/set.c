/* Sets: a struct compact while small (up to set-max-listpack-entries, or set-max-intset-entries while all members are integers), then a table of
 * members. What removes the last member is one KV_DEL (see hash.c). */
#include "base/err.h"
#include "kv/state.h"

static bool is_integer(struct slice s)
{
    int64_t v;

    return s.len <= 20 && slice_to_i64(s, &v);
}

static bool stays_compact(const struct kv *kv, const struct compact *c, struct slice member)
{
    if (!c->other && is_integer(member))
        return c->count < kv->o.set_intset_max_entries;
    return member.len <= kv->o.set_listpack_max_value && c->count < kv->o.set_listpack_max_entries;
}

static struct members *grow(struct kv *kv, struct kv_entry *e)
{
    struct compact *c = entry_object(e);
    struct members *m = members_new(false);
    uint32_t at = 0;

    while (at < c->len)
        members_put(kv, m, compact_next(c, &at), SLICE_NONE);
    kv_entry_release_object(kv, e);
    e->type_encoding = (uint8_t)(KV_SET << 4 | ENC_TABLE);
    entry_object_set(e, m);
    return m;
}

bool kv_set_put(struct kv_ref *r, struct slice member)
{
    struct kv *kv = r->kv;
    struct compact *c;
    uint32_t at;
    size_t before;

    if (r->e == NULL) {
        struct kv_entry *e = entry_new(KV_SET, ENC_COMPACT, r->key, 0, 0);

        c = compact_new();
        *kv->bytes += size_class(compact_bytes(c));
        entry_object_set(e, c);
        kv_ref_insert(r, e);
    }
    if (entry_encoding(r->e) == ENC_TABLE)
        return members_put(kv, entry_object(r->e), member, SLICE_NONE);
    c = entry_object(r->e);
    if (compact_find(c, member, 1, &at))
        return false;
    if (!stays_compact(kv, c, member))
        return members_put(kv, grow(kv, r->e), member, SLICE_NONE);
    before = size_class(compact_bytes(c));
    c = compact_append(c, member);
    c->other |= !is_integer(member);
    entry_object_set(r->e, c);
    *kv->bytes += size_class(compact_bytes(c)) - before;
    return true;
}

bool kv_set_drop(struct kv_ref *r, struct slice member)
{
    struct compact *c;
    uint32_t at;

    if (entry_encoding(r->e) == ENC_TABLE)
        return members_del(r->kv, entry_object(r->e), member);
    c = entry_object(r->e);
    if (!compact_find(c, member, 1, &at))
        return false;
    compact_remove(c, at, 1);
    return true;
}

uint64_t kv_set_count(const struct kv_entry *e)
{
    if (entry_encoding(e) == ENC_TABLE)
        return ((struct members *)entry_object(e))->table.count;
    return ((struct compact *)entry_object(e))->count;
}

static bool contains(const struct kv_entry *e, struct slice member)
{
    uint32_t at;

    if (entry_encoding(e) == ENC_TABLE)
        return members_get(entry_object(e), member, NULL);
    return compact_find(entry_object(e), member, 1, &at);
}

struct walk {
    const struct members *m;
    void (*fn)(struct slice member, void *arg);
    void *arg;
};

static void walk_one(void *element, void *arg)
{
    struct walk *w = arg;
    struct slice name, value;

    members_parts(w->m, element, &name, &value);
    w->fn(name, w->arg);
}

void kv_set_walk(const struct kv_entry *e, void (*fn)(struct slice member, void *arg), void *arg)
{
    if (entry_encoding(e) == ENC_TABLE) {
        struct walk w = {entry_object(e), fn, arg};

        table_each(&w.m->table, walk_one, &w);
    } else {
        const struct compact *c = entry_object(e);
        uint32_t at = 0;

        while (at < c->len)
            fn(compact_next(c, &at), arg);
    }
}

/* ---- commands --------------------------------------------------------------------------------------------------------- */

int kv_set_add(struct kv_ctx *c, struct slice key, const struct slice *members, size_t n, uint64_t *ret_added)
{
    struct kv_ref r;
    struct buf *b = kv_value_begin(c->kv);

    *ret_added = 0;
    if (kv_ref_write(c, key, &r) && entry_type(r.e) != KV_SET)
        return ERR_WRONG_TYPE;
    for (size_t i = 0; i < n; i++) {
        if (kv_set_put(&r, members[i])) {
            buf_put_lslice(b, members[i]);
            ++*ret_added;
        }
    }
    if (*ret_added != 0) {
        effect_add(c->fx, EFFECT_KV_SET_ADD, c->db, key, buf_slice(b));
        kv_ref_touch(&r);
    }
    kv_value_done(c->kv);
    return 0;
}

int kv_set_rem(struct kv_ctx *c, struct slice key, const struct slice *members, size_t n, uint64_t *ret_removed)
{
    struct kv_ref r;
    struct buf *b = kv_value_begin(c->kv);

    *ret_removed = 0;
    if (!kv_ref_write(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_SET)
        return ERR_WRONG_TYPE;
    for (size_t i = 0; i < n; i++) {
        if (kv_set_drop(&r, members[i])) {
            buf_put_lslice(b, members[i]);
            ++*ret_removed;
        }
    }
    if (*ret_removed != 0) {
        kv_ref_touch(&r);
        if (kv_set_count(r.e) == 0) {
            effect_add(c->fx, EFFECT_KV_DEL, c->db, key, SLICE_NONE);
            kv_ref_remove(&r);
        } else {
            effect_add(c->fx, EFFECT_KV_SET_REM, c->db, key, buf_slice(b));
        }
    }
    kv_value_done(c->kv);
    return 0;
}

int kv_set_has(struct kv_ctx *c, struct slice key, struct slice member, bool *ret)
{
    struct kv_ref r;

    *ret = false;
    if (!kv_ref_read(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_SET)
        return ERR_WRONG_TYPE;
    *ret = contains(r.e, member);
    return 0;
}

int kv_set_len(struct kv_ctx *c, struct slice key, uint64_t *ret)
{
    struct kv_ref r;

    *ret = 0;
    if (!kv_ref_read(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_SET)
        return ERR_WRONG_TYPE;
    *ret = kv_set_count(r.e);
    return 0;
}

int kv_set_each(struct kv_ctx *c, struct slice key, void (*fn)(struct slice member, void *arg), void *arg)
{
    struct kv_ref r;

    if (!kv_ref_read(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_SET)
        return ERR_WRONG_TYPE;
    kv_set_walk(r.e, fn, arg);
    return 0;
}
