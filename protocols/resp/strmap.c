#include "protocols/resp/strmap.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

void strmap_fini(struct strmap *m)
{
    mem_free(m->slots);
    *m = (struct strmap){0};
}

struct strnode *strmap_find(const struct strmap *m, struct slice key)
{
    uint64_t hash;

    if (m->count == 0)
        return NULL;
    hash = hash_bytes(key.data, key.len);
    for (struct strnode *n = m->slots[hash & m->mask]; n != NULL; n = n->next)
        if (n->hash == hash && slice_eq(n->key, key))
            return n;
    return NULL;
}

static void resize(struct strmap *m, uint32_t size)
{
    struct strnode **slots = mem_calloc(size, sizeof(slots[0]));

    for (uint32_t i = 0; m->slots != NULL && i <= m->mask; i++) {
        struct strnode *n = m->slots[i], *next;

        for (; n != NULL; n = next) {
            next = n->next;
            n->next = slots[n->hash & (size - 1)];
            slots[n->hash & (size - 1)] = n;
        }
    }
    mem_free(m->slots);
    m->slots = slots;
    m->mask = size - 1;
}

void strmap_add(struct strmap *m, struct strnode *n)
{
    if (m->slots == NULL)
        resize(m, 8);
    else if (m->count > m->mask)
        resize(m, (m->mask + 1) * 2);
    n->hash = hash_bytes(n->key.data, n->key.len);
    n->next = m->slots[n->hash & m->mask];
    m->slots[n->hash & m->mask] = n;
    m->count++;
}

void strmap_remove(struct strmap *m, struct strnode *n)
{
    struct strnode **at = &m->slots[n->hash & m->mask];

    while (*at != n) {
        CHECK(*at != NULL);
        at = &(*at)->next;
    }
    *at = n->next;
    if (--m->count == 0)
        strmap_fini(m);
    else if (m->mask > 64 && m->count < m->mask / 8)
        resize(m, (m->mask + 1) / 2);
}

void strmap_each(const struct strmap *m, void (*fn)(struct strnode *n, void *arg), void *arg)
{
    struct strnode **slots = m->slots, *next;

    for (uint32_t i = 0; slots != NULL && i <= m->mask; i++)
        for (struct strnode *n = slots[i]; n != NULL; n = next) {
            next = n->next;
            fn(n, arg);
        }
}
