/* Pinned elements: what a snapshot's walk copies while it has given the partition's lock up, because copying it under the lock would hold
 * everybody up (P18). Until kv_unpin_all the bytes of a pinned element stay what and where they are: a command that changes it makes a new one, and what is
 * to be freed meanwhile and may contain it is kept until then.
 *
 * All under the lock, but for the reading of what is pinned. */
#include "base/mem.h"
#include "kv/state.h"

struct let_go {
    struct let_go *next;
    void (*fn)(void *p);
    void *p;
    bool later;
};

void kv_pin(struct kv *kv, const void *element)
{
    if (kv->pins_count == kv->pins_cap) {
        kv->pins_cap = kv->pins_cap == 0 ? 8 : kv->pins_cap * 2;
        kv->pins = mem_realloc(kv->pins, kv->pins_cap * sizeof(kv->pins[0]));
    }
    kv->pins[kv->pins_count++] = element;
}

bool kv_is_pinned(const struct kv *kv, const void *element)
{
    for (uint32_t i = 0; i < kv->pins_count; i++)
        if (kv->pins[i] == element)
            return true;
    return false;
}

static void free_now(struct kv *kv, void (*fn)(void *p), void *p, bool later)
{
    if (later && kv->o.free_later != NULL)
        kv->o.free_later(kv->o.free_arg, fn, p);
    else
        fn(p);
}

void kv_let_go(struct kv *kv, void (*fn)(void *p), void *p, bool later)
{
    struct let_go *g;

    if (GM_LIKELY(kv->pins_count == 0)) {
        free_now(kv, fn, p, later);
        return;
    }
    g = mem_alloc(sizeof(*g));
    *g = (struct let_go){kv->let_go, fn, p, later};
    kv->let_go = g;
}

void kv_unpin_all(struct kv *kv)
{
    mem_free(kv->pins);
    kv->pins = NULL;
    kv->pins_count = kv->pins_cap = 0;
    while (kv->let_go != NULL) {
        struct let_go *g = kv->let_go;

        kv->let_go = g->next;
        free_now(kv, g->fn, g->p, g->later);
        mem_free(g);
    }
}
