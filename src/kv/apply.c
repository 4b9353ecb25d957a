/* From an effect to the state it stands for: recovery, followers and the snapshot reader. Everything is checked, since a record that passed its CRC may still have been
 * written by a faulty program: ERR_CORRUPT stops the partition.
 *
 * Effects are absolute and idempotent an element (P17). During replay over a fuzzy snapshot an effect may meet a key of another type: a later state of
 * the key was copied, and the log goes on to say how it came about, so the effect is ignored (P18). Removing elements never removes the key here; commands
 * say so with KV_DEL. */
#include "base/err.h"
#include "kv/state.h"

static bool is_other(const struct kv_ref *r, enum kv_type type)
{
    return r->e != NULL && entry_type(r->e) != type;
}

static bool is_table(const struct kv_entry *e)
{
    return e != NULL && entry_encoding(e) == ENC_TABLE;
}

static int apply_del_many(struct kv *kv, const struct effect *e)
{
    struct reader rd = reader_of(e->value);

    while (reader_left(&rd) > 0) {
        struct slice key = reader_lslice(&rd);
        struct kv_ref r;

        if (rd.bad)
            return ERR_CORRUPT;
        kv_ref_find(kv, e->db, key, &r);
        if (r.e != NULL) {
            kv_ref_touch(&r);
            kv_ref_remove(&r);
        }
    }
    return 0;
}

static int apply_hash_set(struct kv_ref *r, struct reader *rd)
{
    while (reader_left(rd) > 0) {
        struct slice field, value;

        if (is_table(r->e))
            return members_put_all(r->kv, entry_object(r->e), rd);
        field = reader_lslice(rd);
        value = reader_lslice(rd);
        if (rd->bad)
            return ERR_CORRUPT;
        kv_hash_put(r, field, value);
    }
    return 0;
}

static int apply_list_put(struct kv_ref *r, struct reader *rd)
{
    int64_t index = reader_varint(rd);

    if (rd->bad)
        return ERR_CORRUPT;
    while (reader_left(rd) > 0) {
        struct slice value = reader_lslice(rd);

        if (rd->bad || index <= -KV_LIST_INDEX_MAX || index >= KV_LIST_INDEX_MAX)
            return ERR_CORRUPT;
        list_put(r->kv, entry_object(kv_list_entry(r)), index++, value);
    }
    return 0;
}

static int apply_members(struct kv_ref *r, struct reader *rd, enum effect_kind kind)
{
    while (reader_left(rd) > 0) {
        struct slice name;

        if (kind == EFFECT_KV_SET_ADD && is_table(r->e))
            return members_put_all(r->kv, entry_object(r->e), rd);
        name = reader_lslice(rd);
        if (rd->bad)
            return ERR_CORRUPT;
        if (kind == EFFECT_KV_SET_ADD)
            kv_set_put(r, name);
        else if (kind == EFFECT_KV_SET_REM)
            kv_set_drop(r, name);
        else
            kv_hash_drop(r, name);
    }
    return 0;
}

static int apply(struct kv *kv, const struct effect *e, uint64_t hash)
{
    struct kv_ref r;
    struct reader rd = reader_of(e->value);
    int64_t at;

    if (e->kind == EFFECT_PARTICIPANTS || e->kind == EFFECT_NOOP || e->kind == EFFECT_HANDOVER)
        return 0;
    if (e->db >= KV_DB_COUNT || e->name.len > KV_KEY_MAX || e->value.len > KV_VALUE_MAX + VARINT_MAX)
        return ERR_CORRUPT;
    switch (e->kind) {
    case EFFECT_KV_FLUSH:
        kv_db_clear(kv, e->db);
        return 0;
    case EFFECT_KV_DEL_MANY:
        return apply_del_many(kv, e);
    default:
        break;
    }
    kv_ref_find_hashed(kv, e->db, e->name, hash, &r);
    kv_ref_touch(&r);
    switch (e->kind) {
    case EFFECT_KV_DEL:
        if (r.e != NULL)
            kv_ref_remove(&r);
        return 0;
    case EFFECT_KV_EXPIRE:
        at = reader_varint(&rd);
        if (rd.bad || at < 0)
            return ERR_CORRUPT;
        if (r.e != NULL)
            kv_ref_expire(&r, at);
        return 0;
    case EFFECT_KV_STRING_SET:
        at = reader_varint(&rd);
        if (rd.bad || at < 0)
            return ERR_CORRUPT;
        kv_string_put(&r, slice_of(rd.p, reader_left(&rd)), at);
        return 0;
    case EFFECT_KV_STRING_RANGE: {
        uint64_t offset = reader_uvarint(&rd);

        if (rd.bad || offset > KV_VALUE_MAX)
            return ERR_CORRUPT;
        if (is_other(&r, KV_STRING))
            return 0;
        return kv_string_put_range(&r, offset, slice_of(rd.p, reader_left(&rd))) == 0 ? 0 : ERR_CORRUPT;
    }
    case EFFECT_KV_HASH_SET:
        return is_other(&r, KV_HASH) ? 0 : apply_hash_set(&r, &rd);
    case EFFECT_KV_HASH_DEL:
        return r.e == NULL || is_other(&r, KV_HASH) ? 0 : apply_members(&r, &rd, e->kind);
    case EFFECT_KV_SET_ADD:
        return is_other(&r, KV_SET) ? 0 : apply_members(&r, &rd, e->kind);
    case EFFECT_KV_SET_REM:
        return r.e == NULL || is_other(&r, KV_SET) ? 0 : apply_members(&r, &rd, e->kind);
    case EFFECT_KV_LIST_PUT:
        return is_other(&r, KV_LIST) ? 0 : apply_list_put(&r, &rd);
    case EFFECT_KV_LIST_HEAD:
    case EFFECT_KV_LIST_TAIL:
        at = reader_varint(&rd);
        if (rd.bad)
            return ERR_CORRUPT;
        if (r.e == NULL || is_other(&r, KV_LIST))
            return 0;
        if (e->kind == EFFECT_KV_LIST_HEAD)
            list_cut_head(kv, entry_object(r.e), at);
        else
            list_cut_tail(kv, entry_object(r.e), at);
        return 0;
    default:
        return ERR_LEVEL;
    }
}

int kv_apply(struct kv *kv, const struct effect *e)
{
    return apply(kv, e, hash_bytes(e->name.data, e->name.len));
}

int kv_replay_add(struct kv_replay *r, const struct effect *e)
{
    uint64_t hash = hash_bytes(e->name.data, e->name.len);

    r->effects[r->n] = *e;
    r->hashes[r->n] = hash;
    if (e->db < KV_DB_COUNT)
        table_prefetch(&r->kv->dbs[e->db].keys, hash);
    return ++r->n == KV_REPLAY_AHEAD ? kv_replay_flush(r) : 0;
}

/* The same for an element of a large hash or set: its bucket, by the first name in the effect. */
static void touch_element(struct kv_replay *r, unsigned i)
{
    const struct effect *e = &r->effects[i];
    struct reader rd = reader_of(e->value);
    struct slice name;
    struct kv_ref ref;

    switch (e->kind) {
    case EFFECT_KV_HASH_SET:
    case EFFECT_KV_HASH_DEL:
    case EFFECT_KV_SET_ADD:
    case EFFECT_KV_SET_REM:
        break;
    default:
        return;
    }
    name = reader_lslice(&rd);
    if (rd.bad || e->db >= KV_DB_COUNT)
        return;
    kv_ref_find_hashed(r->kv, e->db, e->name, r->hashes[i], &ref);
    if (ref.e != NULL && entry_encoding(ref.e) == ENC_TABLE)
        table_prefetch(&((struct members *)entry_object(ref.e))->table, hash_bytes(name.data, name.len));
}

int kv_replay_flush(struct kv_replay *r)
{
    unsigned n = r->n;

    r->n = 0;
    for (unsigned i = 0; i < n; i++)
        if (r->effects[i].db < KV_DB_COUNT)
            table_prefetch_entry(&r->kv->dbs[r->effects[i].db].keys, r->hashes[i]);
    for (unsigned i = 0; i < n; i++)
        touch_element(r, i);
    for (unsigned i = 0; i < n; i++) {
        int err = apply(r->kv, &r->effects[i], r->hashes[i]);

        if (err != 0)
            return err;
    }
    return 0;
}
