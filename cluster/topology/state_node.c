/* Nodes: entering, states, leaving. What a node was to queues and partitions goes in the same entry as the change of its state, so that nobody ever sees one without the other (rule 18). */
#include "base/err.h"
#include "cluster/topology/state_private.h"
#include "log/effect.h"

#define HOST_MAX 255
#define LEVEL_OF_OLD_BUILDS 1

struct owner {
    uint32_t node;
    uint64_t below; /* exclusive queues of node epochs below this one */
    bool alone;     /* and every other one that is not durable */
};

static bool is_gone(const struct topo_queue *q, const void *arg)
{
    const struct owner *o = arg;

    return (q->exclusive && q->owner_node == o->node && q->owner_node_epoch < o->below) || (o->alone && !q->durable);
}

static void remove_transient(struct topo_state *s, uint32_t node, uint64_t below, bool alone)
{
    struct owner o = {node, below, alone};

    topo_remove_queues(s, is_gone, &o);
    if (alone)
        topo_remove_transient_exchanges(s);
}

static void put_node(struct topo_state *s, const struct topo_node *n)
{
    topo_insert_node(s, topo_node_copy(n));
    topo_add_change(s, TOPO_NODE_CHANGED, n->name)->id = n->id;
}

int topo_apply_node_register(struct topo_state *s, struct reader *r, struct topo_result *ret)
{
    struct topo_node n = {.id = reader_be32(r), .epoch = 1, .level = LEVEL_OF_OLD_BUILDS, .state = TOPO_NODE_ACTIVE};
    const uint8_t *uuid = reader_take(r, 16);
    const struct topo_node *old;
    bool alone;

    n.name = reader_lslice(r);
    alone = reader_u8(r);
    if (r->bad)
        return ERR_CORRUPT;
    if (n.id == 0) {
        n.id = s->v.next_node_id;
    } else {
        old = topo_node_find(&s->v, n.id);
        if (old == NULL)
            return ERR_NOT_FOUND;
        n.epoch = old->epoch + 1;
    }
    memcpy(n.uuid, uuid, 16);
    put_node(s, &n);
    /* That build removed the exclusive queues of the node whatever their epoch. */
    remove_transient(s, n.id, UINT64_MAX, alone);
    ret->id = n.id;
    return 0;
}

struct by_uuid {
    const uint8_t *uuid;
    const struct topo_node *found;
};

static bool match_uuid(const struct topo_node *n, void *arg)
{
    struct by_uuid *b = arg;

    if (memcmp(n->uuid, b->uuid, 16) == 0)
        b->found = n;
    return b->found == NULL;
}

static bool lowest_level(const struct topo_node *n, void *arg)
{
    uint32_t *level = arg;

    if (n->level < *level)
        *level = n->level;
    return true;
}

/* Rule 10: the level is raised when all nodes have it. A node that never comes back holds it down until it is removed. */
static void raise_level(struct topo_state *s)
{
    uint32_t level = EFFECT_LEVEL_MAX;

    topo_each_node(&s->v, lowest_level, &level);
    if (level > s->v.level)
        s->v.level = level;
}

static int read_endpoints(struct reader *r, struct topo_endpoint endpoints[TOPO_LISTENERS])
{
    int err = 0;

    for (unsigned i = 0; i < TOPO_LISTENERS; i++) {
        endpoints[i].host = reader_lslice(r);
        endpoints[i].port = reader_be16(r);
        if (endpoints[i].host.len > HOST_MAX)
            err = ERR_INVALID;
    }
    return r->bad ? ERR_CORRUPT : err;
}

static int read_node(struct reader *r, struct topo_node *n)
{
    const uint8_t *uuid;
    int err;

    *n = (struct topo_node){.id = reader_be32(r)};
    uuid = reader_take(r, 16);
    n->name = reader_lslice(r);
    n->rack = reader_lslice(r);
    n->level = reader_be32(r);
    n->unclean = reader_u8(r) & 1;
    err = read_endpoints(r, n->endpoints);
    if (r->bad)
        return ERR_CORRUPT;
    memcpy(n->uuid, uuid, 16);
    return n->name.len > HOST_MAX || n->rack.len > HOST_MAX ? ERR_INVALID : err;
}

int topo_apply_node_enter(struct topo_state *s, struct reader *r, struct topo_result *ret)
{
    struct topo_node n;
    int err = read_node(r, &n);
    bool alone = reader_u8(r);
    struct by_uuid by = {.uuid = n.uuid};

    if (r->bad)
        return ERR_CORRUPT;
    if (err < 0)
        return err;
    if (n.level < s->v.level)
        return ERR_UNSUPPORTED; /* a build too old for this cluster */
    topo_each_node(&s->v, match_uuid, &by);
    if (n.id != 0 && by.found == NULL)
        return topo_node_find(&s->v, n.id) == NULL ? ERR_NOT_FOUND : ERR_MISMATCH;
    if (n.id != 0 && by.found->id != n.id)
        return ERR_MISMATCH;
    n.id = by.found != NULL ? by.found->id : s->v.next_node_id;
    n.epoch = by.found != NULL ? by.found->epoch + 1 : 1;
    n.drain = by.found != NULL ? by.found->drain : TOPO_DRAIN_NONE;
    n.state = alone ? TOPO_NODE_ACTIVE : by.found != NULL ? TOPO_NODE_FENCED : TOPO_NODE_JOINING;
    ret->id = n.id;
    put_node(s, &n);
    remove_transient(s, n.id, n.epoch, alone);
    raise_level(s);
    if (!alone)
        topo_partitions_without(s, n.id, n.unclean);
    return 0;
}

int topo_apply_node_state(struct topo_state *s, struct reader *r)
{
    uint32_t id = reader_be32(r);
    uint64_t epoch = reader_be64(r);
    uint8_t state = reader_u8(r), flags = reader_u8(r);
    const struct topo_node *old;
    enum topo_node_state was;
    struct topo_node n;

    if (r->bad || state > TOPO_NODE_DRAINING || state == TOPO_NODE_JOINING)
        return ERR_CORRUPT;
    old = topo_node_find(&s->v, id);
    if (old == NULL)
        return ERR_NOT_FOUND;
    if (old->epoch != epoch)
        return ERR_FENCED;
    if (old->state == state && topo_node_flags_of(old) == flags)
        return 0;
    n = *old; /* its strings live until the old one is freed, after this entry */
    n.state = state == TOPO_NODE_ACTIVE && n.drain != TOPO_DRAIN_NONE ? TOPO_NODE_DRAINING : (enum topo_node_state)state;
    n.lease_may_run = n.state == TOPO_NODE_FENCED && (flags & TOPO_NODE_LEASE_MAY_RUN);
    n.slow = flags & TOPO_NODE_SLOW;
    n.clock_off = flags & TOPO_NODE_CLOCK_OFF;
    was = old->state;
    put_node(s, &n);
    if (n.state == was)
        return 0;
    if (n.state == TOPO_NODE_FENCED) {
        remove_transient(s, id, epoch + 1, false);
        topo_partitions_without(s, id, false);
    } else {
        topo_partitions_elect(s);
    }
    return 0;
}

struct others {
    uint32_t than;
    bool active;
};

static bool find_other_active(const struct topo_node *n, void *arg)
{
    struct others *o = arg;

    o->active |= n->id != o->than && n->state == TOPO_NODE_ACTIVE;
    return !o->active;
}

int topo_apply_node_drain(struct topo_state *s, struct reader *r)
{
    struct others others = {.than = reader_be32(r)};
    uint8_t drain = reader_u8(r);
    const struct topo_node *old;
    struct topo_node n;

    if (r->bad || drain > TOPO_DRAIN_REPLICAS)
        return ERR_CORRUPT;
    old = topo_node_find(&s->v, others.than);
    if (old == NULL)
        return ERR_NOT_FOUND;
    topo_each_node(&s->v, find_other_active, &others);
    if (drain != TOPO_DRAIN_NONE && !others.active)
        return ERR_IN_USE;
    n = *old;
    n.drain = (enum topo_drain)drain;
    if (topo_node_alive(old))
        n.state = drain == TOPO_DRAIN_NONE ? TOPO_NODE_ACTIVE : TOPO_NODE_DRAINING;
    put_node(s, &n);
    return 0;
}

int topo_apply_node_endpoints(struct topo_state *s, struct reader *r)
{
    uint32_t id = reader_be32(r);
    uint64_t epoch = reader_be64(r);
    struct topo_endpoint endpoints[TOPO_LISTENERS];
    int err = read_endpoints(r, endpoints);
    const struct topo_node *old = topo_node_find(&s->v, id);
    struct topo_node n;

    if (err < 0)
        return err;
    if (old == NULL)
        return ERR_NOT_FOUND;
    if (old->epoch != epoch)
        return ERR_FENCED;
    n = *old;
    memcpy(n.endpoints, endpoints, sizeof(endpoints));
    put_node(s, &n);
    return 0;
}

int topo_apply_node_remove(struct topo_state *s, struct reader *r)
{
    uint32_t id = reader_be32(r);
    const struct topo_node *n;
    uint8_t key[4];

    if (r->bad)
        return ERR_CORRUPT;
    n = topo_node_find(&s->v, id);
    if (n == NULL)
        return ERR_NOT_FOUND;
    if (topo_node_alive(n)) {
        for (uint32_t i = 0; s->v.partitions != NULL && i < s->v.partitions->count; i++)
            if (topo_is_replica(topo_partition_at(&s->v, i), id))
                return ERR_IN_USE;
    } else if (!topo_partitions_forget(s, id)) {
        return ERR_IN_USE;
    }
    remove_transient(s, id, UINT64_MAX, false);
    topo_add_change(s, TOPO_NODE_CHANGED, n->name)->id = id;
    be32_put(key, id);
    pmap_remove(&s->v.nodes, slice_of(key, 4), &s->retired.nodes);
    topo_retire_object(s, (void *)n);
    raise_level(s);
    return 0;
}

int topo_apply_cluster_settings(struct topo_state *s, struct reader *r)
{
    uint32_t factor = reader_be32(r), min_insync = reader_be32(r);

    if (r->bad)
        return ERR_CORRUPT;
    if (factor >= TOPO_REPLICAS_MAX || min_insync > (factor == 0 ? 3 : factor))
        return ERR_INVALID;
    s->v.replication_factor = factor;
    s->v.min_insync = min_insync;
    topo_add_change(s, TOPO_CONFIG_CHANGED, SLICE_LIT("cluster"));
    return 0;
}
