/* Tells the server what changed. The engines may have to be waited for (a partition's lock), which the control worker never does; so a thread of its own does the telling, in order, and a proposal is answered when the
 * server has been told of it: who hears "deleted" finds nothing. Changes of nodes and partitions concern the control worker's own neighbours and are seen through `published`. */
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/private.h"

struct change_batch {
    struct change_batch *next;
    struct topology_change *changes; /* owned, names too */
    size_t count;
    uint64_t number, index; /* of the last entry they come from */
};

void changes_init(struct topology_store *t)
{
    mutex_init(&t->changes_lock);
    CHECK(pthread_cond_init(&t->changes_news, NULL) == 0);
    t->changes_tail = &t->changes_head;
}

static void tell(struct topology_store *t, struct change_batch *b)
{
    for (size_t i = 0; i < b->count; i++) {
        t->o.changed(t->o.changed_arg, &b->changes[i]);
        mem_free((void *)b->changes[i].name.data);
    }
    mem_free(b->changes);
    __atomic_store_n(&t->changes_told_index, b->index, __ATOMIC_RELEASE);
    __atomic_store_n(&t->changes_told, b->number, __ATOMIC_RELEASE);
    mem_free(b);
    store_wake(t);
}

static void *run(void *arg)
{
    struct topology_store *t = arg;

    MAGIC_CHECK(t, STORE_MAGIC);
    for (;;) {
        struct change_batch *b;

        mutex_lock(&t->changes_lock);
        while (t->changes_head == NULL && !t->changes_stop)
            pthread_cond_wait(&t->changes_news, &t->changes_lock.m);
        b = t->changes_head;
        if (b != NULL) {
            t->changes_head = b->next;
            if (b->next == NULL)
                t->changes_tail = &t->changes_head;
        }
        mutex_unlock(&t->changes_lock);
        if (b == NULL)
            return NULL;
        tell(t, b);
    }
}

static bool concerns_server(const struct topo_state *s)
{
    for (size_t i = 0; i < s->change_count; i++) {
        if (s->changes[i].kind != TOPO_NODE_CHANGED && s->changes[i].kind != TOPO_PARTITION_CHANGED)
            return true;
    }
    return false;
}

/* Before the start they gather in the state, and the engines hear of them when they are there (changes_start). */
void changes_tell(struct topology_store *t)
{
    struct topo_state *s = &t->state;
    struct change_batch *b;

    if (s->change_count == 0)
        return;
    if (t->o.changed == NULL || (t->started && !concerns_server(s))) {
        topo_state_clear_changes(s);
        return;
    }
    if (!t->started)
        return;
    b = mem_zalloc(sizeof(*b));
    b->changes = s->changes;
    b->count = s->change_count;
    b->number = ++t->changes_made;
    b->index = t->applied;
    s->changes = NULL;
    s->change_count = s->change_cap = 0;
    mutex_lock(&t->changes_lock);
    *t->changes_tail = b;
    t->changes_tail = &b->next;
    pthread_cond_signal(&t->changes_news);
    mutex_unlock(&t->changes_lock);
}

uint64_t changes_told_upto(struct topology_store *t)
{
    /* In this order: who is told of the last batch is told of everything. */
    uint64_t index = __atomic_load_n(&t->changes_told_index, __ATOMIC_ACQUIRE);

    return __atomic_load_n(&t->changes_told, __ATOMIC_ACQUIRE) == t->changes_made ? t->applied : index;
}

int changes_start(struct topology_store *t)
{
    if (t->o.changed == NULL)
        return 0;
    for (size_t i = 0; i < t->state.change_count; i++)
        t->o.changed(t->o.changed_arg, &t->state.changes[i]);
    topo_state_clear_changes(&t->state);
    if (pthread_create(&t->changes_thread, NULL, run, t) != 0)
        return ERR_LIMIT;
    pthread_setname_np(t->changes_thread, "changes");
    t->changes_thread_runs = true;
    return 0;
}

void changes_stop(struct topology_store *t)
{
    if (t->changes_thread_runs) {
        mutex_lock(&t->changes_lock);
        t->changes_stop = true;
        pthread_cond_signal(&t->changes_news);
        mutex_unlock(&t->changes_lock);
        CHECK(pthread_join(t->changes_thread, NULL) == 0);
    }
    t->changes_thread_runs = false;
    pthread_cond_destroy(&t->changes_news);
    mutex_fini(&t->changes_lock);
}
