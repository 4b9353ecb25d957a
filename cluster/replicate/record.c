/* What the topology says of a partition, as replication needs it. */
#include <stdlib.h>

#include "base/mem.h"
#include "cluster/replicate/private.h"
#include "cluster/topology/partition.h"

int record_member(const struct part_record *rec, uint32_t node)
{
    for (unsigned i = 0; i < rec->count; i++)
        if (rec->nodes[i] == node)
            return (int)i;
    return -1;
}

static uint32_t bits_of(const struct part_record *rec, struct topo_replica_set set)
{
    uint32_t bits = 0;

    for (unsigned i = 0; i < set.count; i++) {
        int at = record_member(rec, set.nodes[i]);

        if (at >= 0)
            bits |= 1u << at;
    }
    return bits;
}

static void add_members(struct part_record *rec, struct topo_replica_set set)
{
    for (unsigned i = 0; i < set.count && rec->count < TOPO_REPLICAS_MAX; i++)
        if (record_member(rec, set.nodes[i]) < 0)
            rec->nodes[rec->count++] = set.nodes[i];
}

void record_read(struct replication *r, const struct topology *v, uint32_t index, struct part_record *ret)
{
    const struct topo_partition *p = topo_partition_at(v, index);

    *ret = (struct part_record){0};
    if (p == NULL)
        return;
    ret->placed = true;
    ret->leader = p->leader;
    ret->epoch = p->epoch;
    ret->version = p->version;
    add_members(ret, topo_replicas(p));
    add_members(ret, topo_adding(p));
    ret->insync = bits_of(ret, topo_insync(p));
    ret->eligible = bits_of(ret, topo_eligible(p));
    ret->adding = bits_of(ret, topo_adding(p));
    ret->last_known = bits_of(ret, topo_last_known(p));
    ret->min_insync = topo_partition_min_insync(v, p);
    ret->mine = record_member(ret, r->node_id) >= 0;
    /* Whoever led before and may believe to do so still is among the members that the fast path fenced (rule 20). */
    for (unsigned i = 0; i < ret->count; i++) {
        const struct topo_node *n = topo_node_find(v, ret->nodes[i]);

        if (n != NULL && n->state == TOPO_NODE_FENCED && n->lease_may_run)
            ret->lease_may_run = true;
    }
}

bool record_node_active(struct replication *r, uint32_t node, uint64_t *ret_epoch)
{
    const struct topo_node *n = topo_node_find(topology_view(r->o.topology), node);

    if (n == NULL)
        return false;
    *ret_epoch = n->epoch; /* an in-sync set names its members' epochs, whatever their state */
    return n->state == TOPO_NODE_ACTIVE && !n->slow; /* rule 25 */
}

bool record_node_may_join(struct replication *r, uint32_t node)
{
    const struct topo_node *n = topo_node_find(topology_view(r->o.topology), node);

    return n != NULL && topo_node_alive(n) && !topo_node_leaves(n) && !n->slow;
}

/* ---- topics by id -------------------------------------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const struct topo_topic *x = *(struct topo_topic *const *)a, *y = *(struct topo_topic *const *)b;

    return x->id < y->id ? -1 : x->id > y->id;
}

static bool add_topic(const struct topo_topic *t, void *arg)
{
    struct replication *r = arg;

    if (r->topic_count == r->topic_cap) {
        r->topic_cap = r->topic_cap == 0 ? 64 : r->topic_cap * 2;
        r->topics = mem_realloc(r->topics, r->topic_cap * sizeof(r->topics[0]));
    }
    r->topics[r->topic_count++] = t;
    return true;
}

/* The topology finds topics by name and by Kafka's id; ours are asked for when a log is opened. Gathered once a version of the view, in which they live. */
const struct topo_topic *record_topic(struct replication *r, uint64_t id)
{
    const struct topology *v = topology_view(r->o.topology);
    const struct topo_topic key = {.id = id}, *at = &key, **found;

    if (r->topics_index != v->index || r->topics == NULL) {
        r->topic_count = 0;
        topo_each_topic(v, add_topic, r);
        if (r->topic_count != 0)
            qsort(r->topics, r->topic_count, sizeof(r->topics[0]), by_id);
        r->topics_index = v->index;
    }
    found = r->topic_count == 0 ? NULL : bsearch(&at, r->topics, r->topic_count, sizeof(r->topics[0]), by_id);
    return found == NULL ? NULL : *found;
}
