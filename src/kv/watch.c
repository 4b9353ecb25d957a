/* WATCH: who watches a key is told when it changes. Names of keys that somebody watches or waits for are kept in tables of their own, empty nearly
 * always, so that a change costs one test. */
#include "base/mem.h"
#include "kv/state.h"

/* ---- struct kv_name ----------------------------------------------------------------------------------------------------- */

uint64_t kv_name_hash(uint32_t db, struct slice key)
{
    return hash_bytes(key.data, key.len) + db * UINT64_C(0x9e3779b97f4a7c15);
}

uint64_t kv_name_hash_of(const void *name)
{
    const struct kv_name *n = name;

    return kv_name_hash(n->db, slice_of(n->key, n->key_len));
}

struct name_arg {
    uint32_t db;
    struct slice key;
};

static bool name_matches(const void *name, const void *arg)
{
    const struct kv_name *n = name;
    const struct name_arg *a = arg;

    return n->db == a->db && slice_eq(slice_of(n->key, n->key_len), a->key);
}

table_slot *kv_name_find(const struct table *t, uint32_t db, struct slice key)
{
    struct name_arg arg = {db, key};

    return table_find(t, kv_name_hash(db, key), name_matches, &arg);
}

struct kv_name *kv_name_get(struct table *t, uint32_t db, struct slice key)
{
    table_slot *s = kv_name_find(t, db, key);
    struct kv_name *n;

    if (s != NULL)
        return table_slot_entry(*s);
    n = mem_alloc(sizeof(*n) + key.len);
    *n = (struct kv_name){.db = db, .key_len = key.len};
    list_init(&n->who);
    if (key.len != 0)
        memcpy(n->key, key.data, key.len);
    table_insert(t, kv_name_hash(db, key), n);
    return n;
}

void kv_name_drop(struct table *t, struct kv_name *n)
{
    struct slice key = slice_of(n->key, n->key_len);
    table_slot *s = kv_name_find(t, n->db, key);

    CHECK(s != NULL && table_slot_entry(*s) == n);
    table_remove(t, kv_name_hash(n->db, key), s, true);
    list_remove(&n->ready);
    mem_free(n);
}

static void free_name(void *name, void *arg)
{
    (void)arg;
    mem_free(name);
}

/* ---- watches -------------------------------------------------------------------------------------------------------------- */

void kv_watch_add(struct kv_ctx *c, struct kv_watch *w, struct slice key)
{
    struct kv_name *n = kv_name_get(&c->kv->watched, c->db, key);
    struct kv_ref r;

    kv_ref_find(c->kv, c->db, key, &r);
    w->db = c->db;
    w->key = (char *)n->key;
    w->key_len = key.len;
    w->was_expired = r.e != NULL && entry_is_expired(r.e, c->now_ms);
    __atomic_store_n(&w->dirty, false, __ATOMIC_RELAXED);
    list_push_back(&n->who, &w->peers);
}

void kv_watch_remove(struct kv *kv, struct kv_watch *w)
{
    table_slot *s;

    if (!list_linked(&w->peers))
        return;
    s = kv_name_find(&kv->watched, w->db, slice_of(w->key, w->key_len));
    CHECK(s != NULL);
    list_remove(&w->peers);
    w->key = NULL;
    if (list_empty(&((struct kv_name *)table_slot_entry(*s))->who))
        kv_name_drop(&kv->watched, table_slot_entry(*s));
}

/* A key that has expired since but was not removed yet counts as changed (Redis, multi.c, isWatchedKeyExpired). */
bool kv_watch_is_dirty(struct kv_ctx *c, const struct kv_watch *w)
{
    struct kv_ref r;

    if (__atomic_load_n(&w->dirty, __ATOMIC_RELAXED))
        return true;
    if (w->key == NULL)
        return false;
    kv_ref_find(c->kv, w->db, slice_of(w->key, w->key_len), &r);
    return !w->was_expired && r.e != NULL && entry_is_expired(r.e, c->now_ms);
}

static void mark(struct kv_name *n)
{
    LIST_FOREACH (p, &n->who)
        __atomic_store_n(&LIST_ENTRY(p, struct kv_watch, peers)->dirty, true, __ATOMIC_RELAXED);
}

void kv_touched(struct kv *kv, uint32_t db, struct slice key)
{
    table_slot *s = kv_name_find(&kv->watched, db, key);

    if (s != NULL)
        mark(table_slot_entry(*s));
}

struct flush {
    struct kv *kv;
    uint32_t db;
};

/* Only keys that were there have changed by a flush. */
static void mark_of_db(void *name, void *arg)
{
    const struct flush *f = arg;
    struct kv_name *n = name;
    struct kv_ref r;

    if (n->db != f->db)
        return;
    kv_ref_find(f->kv, f->db, slice_of(n->key, n->key_len), &r);
    if (r.e != NULL)
        mark(n);
}

void kv_touched_all(struct kv *kv, uint32_t db)
{
    struct flush f = {kv, db};

    table_each(&kv->watched, mark_of_db, &f);
}

static void unlink_watches(void *name, void *arg)
{
    struct kv_name *n = name;
    struct list *p;

    (void)arg;
    while ((p = list_pop_front(&n->who)) != NULL) {
        struct kv_watch *w = LIST_ENTRY(p, struct kv_watch, peers);

        w->key = NULL;
        __atomic_store_n(&w->dirty, true, __ATOMIC_RELAXED);
    }
    mem_free(n);
}

void kv_watch_fini(struct kv *kv)
{
    table_fini(&kv->watched, unlink_watches, NULL);
}

void kv_blocked_fini(struct kv *kv)
{
    table_fini(&kv->blocked, free_name, NULL);
}
