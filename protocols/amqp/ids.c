#include "protocols/amqp/ids.h"

#include "base/mem.h"

struct amqp_ids_entry {
    uint64_t id;
    uint64_t conn_id;
    unsigned worker;
};

#define FREE 0
#define GONE UINT64_MAX

void amqp_ids_init(struct amqp_ids *ids)
{
    *ids = (struct amqp_ids){0};
    mutex_init(&ids->lock);
}

void amqp_ids_fini(struct amqp_ids *ids)
{
    mem_free(ids->entries);
    mutex_fini(&ids->lock);
}

static size_t place(uint64_t id)
{
    return id * 0x9e3779b97f4a7c15ull >> 32;
}

static struct amqp_ids_entry *find(struct amqp_ids *ids, uint64_t id) REQUIRES(ids->lock)
{
    for (size_t i = 0, at = place(id); i < ids->cap; i++, at++) {
        struct amqp_ids_entry *e = &ids->entries[at & (ids->cap - 1)];

        if (e->id == id)
            return e;
        if (e->id == FREE)
            return NULL;
    }
    return NULL;
}

static void put(struct amqp_ids *ids, const struct amqp_ids_entry *entry) REQUIRES(ids->lock)
{
    for (size_t at = place(entry->id);; at++) {
        struct amqp_ids_entry *e = &ids->entries[at & (ids->cap - 1)];

        if (e->id == FREE) {
            *e = *entry;
            ids->used++;
            return;
        }
    }
}

/* What was dropped goes when the table is rebuilt. */
static void make_room(struct amqp_ids *ids) REQUIRES(ids->lock)
{
    struct amqp_ids_entry *old = ids->entries;
    size_t old_cap = ids->cap, live = 0;

    if ((ids->used + 1) * 4 <= ids->cap * 3)
        return;
    for (size_t i = 0; i < old_cap; i++)
        live += old[i].id != FREE && old[i].id != GONE;
    ids->cap = 16;
    while (ids->cap < (live + 1) * 2)
        ids->cap *= 2;
    ids->entries = mem_calloc(ids->cap, sizeof(*ids->entries));
    ids->used = 0;
    for (size_t i = 0; i < old_cap; i++) {
        if (old[i].id != FREE && old[i].id != GONE)
            put(ids, &old[i]);
    }
    mem_free(old);
}

bool amqp_ids_claim(struct amqp_ids *ids, uint64_t id, uint64_t conn_id, unsigned worker)
{
    struct amqp_ids_entry *e;
    bool ours = true;

    mutex_lock(&ids->lock);
    e = find(ids, id);
    if (e != NULL) {
        ours = e->conn_id == conn_id;
    } else {
        make_room(ids);
        put(ids, &(struct amqp_ids_entry){id, conn_id, worker});
    }
    mutex_unlock(&ids->lock);
    return ours;
}

bool amqp_ids_find(struct amqp_ids *ids, uint64_t id, uint64_t *ret_conn_id, unsigned *ret_worker)
{
    struct amqp_ids_entry *e;

    mutex_lock(&ids->lock);
    e = find(ids, id);
    if (e != NULL) {
        *ret_conn_id = e->conn_id;
        *ret_worker = e->worker;
    }
    mutex_unlock(&ids->lock);
    return e != NULL;
}

void amqp_ids_drop(struct amqp_ids *ids, uint64_t id)
{
    struct amqp_ids_entry *e;

    mutex_lock(&ids->lock);
    e = find(ids, id);
    if (e != NULL)
        e->id = GONE;
    mutex_unlock(&ids->lock);
}
