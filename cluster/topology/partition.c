#include "cluster/topology/partition.h"

#include "base/check.h"
#include "base/mem.h"

_Static_assert(sizeof(struct topo_partition) == 56, "a node keeps one a partition");

/* ---- sets ------------------------------------------------------------------------------------------------------------- */

bool topo_set_has(const struct topo_replica_set *s, uint32_t node)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->nodes[i] == node)
            return true;
    return false;
}

bool topo_set_add(struct topo_replica_set *s, uint32_t node)
{
    if (topo_set_has(s, node))
        return true;
    if (s->count == TOPO_REPLICAS_MAX)
        return false;
    s->nodes[s->count++] = node;
    return true;
}

void topo_set_remove(struct topo_replica_set *s, uint32_t node)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < s->count; i++)
        if (s->nodes[i] != node)
            s->nodes[kept++] = s->nodes[i];
    s->count = (uint8_t)kept;
}

bool topo_set_equal(const struct topo_replica_set *a, const struct topo_replica_set *b)
{
    for (unsigned i = 0; i < a->count; i++)
        if (!topo_set_has(b, a->nodes[i]))
            return false;
    return a->count == b->count;
}

/* ---- records ----------------------------------------------------------------------------------------------------------- */

static struct topo_replica_set members_from(const struct topo_partition *p, unsigned first, unsigned count)
{
    struct topo_replica_set s = {.count = (uint8_t)count};

    for (unsigned i = 0; i < count; i++)
        s.nodes[i] = p->members[first + i];
    return s;
}

static struct topo_replica_set members_of(const struct topo_partition *p, uint8_t bits)
{
    struct topo_replica_set s = {0};

    for (unsigned i = 0; i < TOPO_REPLICAS_MAX; i++)
        if (bits >> i & 1)
            s.nodes[s.count++] = p->members[i];
    return s;
}

struct topo_replica_set topo_replicas(const struct topo_partition *p)
{
    return members_from(p, 0, p->replica_count);
}

struct topo_replica_set topo_adding(const struct topo_partition *p)
{
    return members_from(p, p->replica_count, p->adding_count);
}

struct topo_replica_set topo_insync(const struct topo_partition *p)
{
    return members_of(p, p->insync);
}

struct topo_replica_set topo_eligible(const struct topo_partition *p)
{
    return members_of(p, p->eligible);
}

struct topo_replica_set topo_last_known(const struct topo_partition *p)
{
    return members_of(p, p->last_known);
}

bool topo_is_replica(const struct topo_partition *p, uint32_t node)
{
    for (unsigned i = 0; i < (unsigned)p->replica_count + p->adding_count; i++)
        if (p->members[i] == node)
            return true;
    return false;
}

bool topo_is_insync(const struct topo_partition *p, uint32_t node)
{
    for (unsigned i = 0; i < TOPO_REPLICAS_MAX; i++)
        if (p->insync >> i & 1 && p->members[i] == node)
            return true;
    return false;
}

bool topo_is_recovering(const struct topo_partition *p)
{
    for (unsigned i = 0; i < TOPO_REPLICAS_MAX; i++)
        if (p->leader != 0 && p->last_known >> i & 1 && p->members[i] == p->leader)
            return true;
    return false;
}

void topo_change_of(struct topo_partition_change *c, const struct topo_partition *p)
{
    *c = (struct topo_partition_change){
        .index = p->index,
        .version = p->version,
        .leader = p->leader,
        .replicas = topo_replicas(p),
        .insync = topo_insync(p),
        .eligible = topo_eligible(p),
        .last_known = topo_last_known(p),
        .adding = topo_adding(p),
    };
}

static uint8_t bits_of(const struct topo_partition *p, const struct topo_replica_set *s)
{
    uint8_t bits = 0;

    for (unsigned i = 0; i < (unsigned)p->replica_count + p->adding_count; i++)
        if (topo_set_has(s, p->members[i]))
            bits |= (uint8_t)(1u << i);
    return bits;
}

void topo_partition_pack(struct topo_partition *p, const struct topo_partition_change *c)
{
    CHECK(c->replicas.count + c->adding.count <= TOPO_REPLICAS_MAX);
    p->leader = c->leader;
    p->replica_count = c->replicas.count;
    p->adding_count = c->adding.count;
    memset(p->members, 0, sizeof(p->members));
    memcpy(p->members, c->replicas.nodes, c->replicas.count * sizeof(uint32_t));
    memcpy(p->members + c->replicas.count, c->adding.nodes, c->adding.count * sizeof(uint32_t));
    p->insync = bits_of(p, &c->insync);
    p->eligible = bits_of(p, &c->eligible);
    p->last_known = bits_of(p, &c->last_known);
}

/* ---- the table ------------------------------------------------------------------------------------------------------------ */

static uint32_t chunks_of(uint32_t count)
{
    return (count + TOPO_CHUNK - 1) / TOPO_CHUNK;
}

static size_t head_bytes(uint32_t count)
{
    return sizeof(struct topo_partition_table) + chunks_of(count) * sizeof(struct topo_partition_chunk *);
}

size_t topo_partition_table_bytes(uint32_t count)
{
    return head_bytes(count) + chunks_of(count) * sizeof(struct topo_partition_chunk);
}

const struct topo_partition *topo_partition_at(const struct topology *v, uint32_t index)
{
    const struct topo_partition_table *t = v->partitions;

    if (t == NULL || index >= t->count)
        return NULL;
    return &t->chunks[index / TOPO_CHUNK]->records[index % TOPO_CHUNK];
}

void topo_partition_edit_begin(struct topo_partition_edit *e, struct topo_partition_table *from, uint32_t count)
{
    e->from = from;
    e->table = mem_zalloc(head_bytes(count));
    e->table->count = count;
    if (from != NULL) {
        CHECK(from->count == count);
        memcpy(e->table->chunks, from->chunks, chunks_of(count) * sizeof(from->chunks[0]));
        e->retire(e->arg, from);
    }
}

void topo_partition_edit_put(struct topo_partition_edit *e, const struct topo_partition *p)
{
    uint32_t at = p->index / TOPO_CHUNK;
    struct topo_partition_chunk *c = (struct topo_partition_chunk *)e->table->chunks[at];

    CHECK(p->index < e->table->count);
    if (c == NULL) {
        e->table->chunks[at] = c = mem_zalloc(sizeof(*c));
    } else if (e->from != NULL && e->from->chunks[at] == c) {
        struct topo_partition_chunk *copy = mem_alloc(sizeof(*copy));

        *copy = *c;
        e->retire(e->arg, c);
        e->table->chunks[at] = c = copy;
    }
    c->records[p->index % TOPO_CHUNK] = *p;
}

void topo_partition_table_free(struct topo_partition_table *t)
{
    if (t == NULL)
        return;
    for (uint32_t i = 0; i < chunks_of(t->count); i++)
        mem_free((void *)t->chunks[i]);
    mem_free(t);
}

/* ---- elections and in-sync sets ---------------------------------------------------------------------------------------------- */

bool topo_node_alive(const struct topo_node *n)
{
    return n != NULL && (n->state == TOPO_NODE_ACTIVE || n->state == TOPO_NODE_DRAINING);
}

bool topo_node_leaves(const struct topo_node *n)
{
    return n->drain == TOPO_DRAIN_REPLICAS || (n->state == TOPO_NODE_DRAINING && n->drain == TOPO_DRAIN_NONE);
}

unsigned topo_node_flags_of(const struct topo_node *n)
{
    return (n->lease_may_run ? TOPO_NODE_LEASE_MAY_RUN : 0u) | (n->slow ? TOPO_NODE_SLOW : 0u) | (n->clock_off ? TOPO_NODE_CLOCK_OFF : 0u);
}

uint32_t topo_min_insync_of(const struct topology *v, unsigned replicas)
{
    uint32_t asked = v->min_insync != 0 ? v->min_insync : replicas >= 3 ? 2 : 1;

    return asked < replicas ? asked : replicas;
}

uint32_t topo_partition_min_insync(const struct topology *v, const struct topo_partition *p)
{
    return topo_min_insync_of(v, p->replica_count);
}

void topo_change_settle(const struct topology *v, struct topo_partition_change *c)
{
    if (c->insync.count >= topo_min_insync_of(v, c->replicas.count) && c->insync.count > 0)
        c->eligible.count = 0;
    for (unsigned i = 0; i < c->insync.count; i++)
        topo_set_remove(&c->eligible, c->insync.nodes[i]);
}

bool topo_change_drop(const struct topology *v, struct topo_partition_change *c, uint32_t node, bool unclean)
{
    bool was_insync = topo_set_has(&c->insync, node), was_eligible = topo_set_has(&c->eligible, node);

    if (!was_insync && !(unclean && was_eligible))
        return false;
    topo_set_remove(&c->insync, node);
    if (unclean) {
        topo_set_remove(&c->eligible, node);
        topo_set_add(&c->last_known, node);
    } else if (c->insync.count < topo_min_insync_of(v, c->replicas.count)) {
        topo_set_add(&c->eligible, node);
    }
    return true;
}

/* The first live member in order of preference; one that drains, is slow or whose clock is off comes after those that are well. */
static uint32_t first_live(const struct topology *v, const struct topo_replica_set *order, const struct topo_replica_set *of, uint32_t not)
{
    uint32_t unfit = 0;

    for (unsigned i = 0; i < order->count; i++) {
        const struct topo_node *n = topo_node_find(v, order->nodes[i]);

        if (order->nodes[i] == not || !topo_set_has(of, order->nodes[i]) || !topo_node_alive(n))
            continue;
        if (n->state == TOPO_NODE_ACTIVE && !n->slow && !n->clock_off)
            return n->id;
        if (unfit == 0)
            unfit = n->id;
    }
    return unfit;
}

void topo_change_elect(const struct topology *v, struct topo_partition_change *c, uint32_t not)
{
    uint32_t leader;

    if (c->leader != 0 && c->leader != not && topo_set_has(&c->insync, c->leader) && topo_node_alive(topo_node_find(v, c->leader)))
        return;
    leader = first_live(v, &c->replicas, &c->insync, not);
    if (leader == 0 && c->insync.count == 0) {
        leader = first_live(v, &c->replicas, &c->eligible, not);
        if (leader == 0 && c->eligible.count == 0 && c->last_known.count == 1) {
            leader = first_live(v, &c->replicas, &c->last_known, not);
            if (leader != 0)
                c->last_known.count = 0;
        }
        if (leader != 0) {
            c->insync.count = 0;
            topo_set_add(&c->insync, leader);
            topo_change_settle(v, c);
        }
    }
    c->leader = leader;
}
