/* Clients that wait for a key to get elements (BLPOP and its kin). Registered by key under the partition's lock; whoever pushes marks the key
 * ready, and before the partition is left the waiters are served in order of arrival, under the same lock (P9). */
#include "base/mem.h"
#include "kv/state.h"

void kv_blocked_add(struct kv_ctx *c, struct kv_blocked *b, struct slice key)
{
    struct kv_name *n = kv_name_get(&c->kv->blocked, c->db, key);

    b->db = c->db;
    b->key = (char *)n->key;
    b->key_len = key.len;
    list_push_back(&n->who, &b->node);
}

static struct kv_name *name_of(struct kv *kv, const struct kv_blocked *b)
{
    table_slot *s = kv_name_find(&kv->blocked, b->db, slice_of(b->key, b->key_len));

    CHECK(s != NULL);
    return table_slot_entry(*s);
}

void kv_blocked_remove(struct kv *kv, struct kv_blocked *b)
{
    struct kv_name *n;

    if (!list_linked(&b->node))
        return;
    n = name_of(kv, b);
    list_remove(&b->node);
    b->key = NULL;
    /* A key that is being served is dropped by whoever serves it. */
    if (list_empty(&n->who) && !list_linked(&n->ready))
        kv_name_drop(&kv->blocked, n);
}

void kv_blocked_ready(struct kv *kv, uint32_t db, struct slice key)
{
    table_slot *s;
    struct kv_name *n;

    if (GM_LIKELY(kv->blocked.count == 0))
        return;
    s = kv_name_find(&kv->blocked, db, key);
    if (s == NULL)
        return;
    n = table_slot_entry(*s);
    if (!list_linked(&n->ready))
        list_push_back(&kv->ready, &n->ready);
}

/* Serves the first waiter that can be satisfied; false when none can. */
static bool serve_one(struct kv_ctx *c, struct kv_name *n)
{
    struct slice key = slice_of(n->key, n->key_len);

    for (struct list *p = n->who.next; p != &n->who;) {
        struct kv_blocked *b = LIST_ENTRY(p, struct kv_blocked, node);
        struct list *before = p->prev, *next;
        struct kv_ref r;

        if (!kv_ref_read(c, key, &r))
            return false;
        if (entry_type(r.e) != b->type) {
            p = p->next;
            continue;
        }
        /* Unlinked first: once satisfied, its owner may free it. One that declines has changed nothing and keeps its place. */
        list_remove(p);
        if (b->serve(c, b, key))
            return true;
        next = before->next;
        list_insert_between(p, before, next);
        p = next;
    }
    return false;
}

static __attribute__((noinline)) void serve_ready(struct kv_ctx *c)
{
    struct kv *kv = c->kv;
    uint32_t db = c->db;

    while (!list_empty(&kv->ready)) {
        struct kv_name *n = LIST_ENTRY(kv->ready.next, struct kv_name, ready);

        c->db = n->db;
        while (serve_one(c, n))
            ;
        list_remove(&n->ready);
        if (list_empty(&n->who))
            kv_name_drop(&kv->blocked, n);
    }
    c->db = db;
}

void kv_blocked_serve(struct kv_ctx *c)
{
    if (GM_UNLIKELY(!list_empty(&c->kv->ready)))
        serve_ready(c);
}
