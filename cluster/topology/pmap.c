#include "cluster/topology/pmap.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

struct pmap_node {
    struct pmap_node *left, *right;
    void *value;
    uint64_t priority; /* a parent's is never below its children's */
    uint32_t key_len;
    uint8_t key[];
};

static struct slice node_key(const struct pmap_node *n)
{
    return slice_of(n->key, n->key_len);
}

static struct pmap_node *node_new(struct slice key, void *value)
{
    struct pmap_node *n = mem_alloc(sizeof(*n) + key.len);

    n->left = n->right = NULL;
    n->value = value;
    n->priority = hash_bytes(key.data, key.len);
    n->key_len = (uint32_t)key.len;
    if (key.len != 0)
        memcpy(n->key, key.data, key.len);
    return n;
}

static void retire(struct pmap_retired *r, struct pmap_node *n)
{
    if (r->count == r->cap) {
        r->cap = r->cap == 0 ? 32 : r->cap * 2;
        r->nodes = mem_realloc(r->nodes, r->cap * sizeof(r->nodes[0]));
    }
    r->nodes[r->count++] = n;
}

void pmap_retired_free(struct pmap_retired *r)
{
    for (size_t i = 0; i < r->count; i++)
        mem_free(r->nodes[i]);
    mem_free(r->nodes);
    *r = (struct pmap_retired){0};
}

/* The path to a change is made of such copies; the originals stay for readers of the old root. */
static struct pmap_node *node_copy(const struct pmap_node *n, struct pmap_retired *r)
{
    struct pmap_node *c = mem_alloc(sizeof(*c) + n->key_len);

    memcpy(c, n, sizeof(*n) + n->key_len);
    retire(r, (struct pmap_node *)n);
    return c;
}

static struct pmap_node *put(struct pmap_node *n, struct slice key, void *value, void **old, struct pmap_retired *r)
{
    struct pmap_node *c, *child;
    int cmp;

    if (n == NULL)
        return node_new(key, value);
    c = node_copy(n, r);
    cmp = slice_cmp(key, node_key(c));
    if (cmp == 0) {
        *old = c->value;
        c->value = value;
        return c;
    }
    if (cmp < 0) {
        child = c->left = put(c->left, key, value, old, r);
        if (child->priority > c->priority) {
            c->left = child->right;
            child->right = c;
            return child;
        }
    } else {
        child = c->right = put(c->right, key, value, old, r);
        if (child->priority > c->priority) {
            c->right = child->left;
            child->left = c;
            return child;
        }
    }
    return c;
}

void *pmap_put(struct pmap *m, struct slice key, void *value, struct pmap_retired *retired)
{
    void *old = NULL;

    CHECK(value != NULL);
    m->root = put(m->root, key, value, &old, retired);
    if (old == NULL)
        m->count++;
    return old;
}

/* Joins two treaps whose keys do not overlap. */
static struct pmap_node *merge(struct pmap_node *a, struct pmap_node *b, struct pmap_retired *r)
{
    struct pmap_node *c;

    if (a == NULL)
        return b;
    if (b == NULL)
        return a;
    if (a->priority >= b->priority) {
        c = node_copy(a, r);
        c->right = merge(a->right, b, r);
    } else {
        c = node_copy(b, r);
        c->left = merge(a, b->left, r);
    }
    return c;
}

static struct pmap_node *cut(struct pmap_node *n, struct slice key, struct pmap_retired *r)
{
    int cmp = slice_cmp(key, node_key(n));
    struct pmap_node *c;

    if (cmp == 0) {
        retire(r, n);
        return merge(n->left, n->right, r);
    }
    c = node_copy(n, r);
    if (cmp < 0)
        c->left = cut(n->left, key, r);
    else
        c->right = cut(n->right, key, r);
    return c;
}

void *pmap_remove(struct pmap *m, struct slice key, struct pmap_retired *retired)
{
    void *old = pmap_get(m, key);

    if (old == NULL)
        return NULL;
    m->root = cut(m->root, key, retired);
    m->count--;
    return old;
}

void *pmap_get(const struct pmap *m, struct slice key)
{
    const struct pmap_node *n = m->root;

    while (n != NULL) {
        int cmp = slice_cmp(key, node_key(n));

        if (cmp == 0)
            return n->value;
        n = cmp < 0 ? n->left : n->right;
    }
    return NULL;
}

bool pmap_seek(const struct pmap *m, struct slice from, struct slice *ret_key, void **ret_value)
{
    const struct pmap_node *n = m->root, *best = NULL;

    while (n != NULL) {
        if (slice_cmp(node_key(n), from) >= 0) {
            best = n;
            n = n->left;
        } else {
            n = n->right;
        }
    }
    if (best == NULL)
        return false;
    *ret_key = node_key(best);
    *ret_value = best->value;
    return true;
}

static bool has_prefix(struct slice key, struct slice prefix)
{
    return key.len >= prefix.len && (prefix.len == 0 || memcmp(key.data, prefix.data, prefix.len) == 0);
}

static bool each(const struct pmap_node *n, struct slice prefix, bool (*fn)(struct slice, void *, void *), void *arg)
{
    if (n == NULL)
        return true;
    if (!has_prefix(node_key(n), prefix))
        return each(slice_cmp(node_key(n), prefix) < 0 ? n->right : n->left, prefix, fn, arg);
    return each(n->left, prefix, fn, arg) && fn(node_key(n), n->value, arg) && each(n->right, prefix, fn, arg);
}

bool pmap_each_prefix(const struct pmap *m, struct slice prefix, bool (*fn)(struct slice key, void *value, void *arg),
                      void *arg)
{
    return each(m->root, prefix, fn, arg);
}

static void free_nodes(struct pmap_node *n)
{
    if (n == NULL)
        return;
    free_nodes(n->left);
    free_nodes(n->right);
    mem_free(n);
}

void pmap_free(struct pmap *m)
{
    free_nodes(m->root);
    *m = (struct pmap){0};
}
