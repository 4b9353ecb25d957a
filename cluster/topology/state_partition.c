/* Partition records: placing, changing, in-sync sets. Each change is checked against what the record is now; nothing here chooses, but for elections, whose rule is fixed (R26). */
#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/state_private.h"

static void retire(void *arg, void *object)
{
    topo_retire_object(arg, object);
}

static void edit_begin(struct topo_state *s, struct topo_partition_edit *e)
{
    e->retire = retire;
    e->arg = s;
    topo_partition_edit_begin(e, s->v.partitions, s->v.total_partitions);
}

/* Writes the record that `c` makes of p: version + 1; epoch + 1 when the leader changes or a replica is dropped (R27). */
static void put(struct topo_state *s, struct topo_partition_edit *e, const struct topo_partition *p, const struct topo_partition_change *c)
{
    struct topo_partition n = *p;
    bool dropped = false;

    for (unsigned i = 0; i < p->replica_count; i++)
        dropped |= !topo_set_has(&c->replicas, p->members[i]);
    topo_partition_pack(&n, c);
    n.version++;
    n.epoch += n.leader != p->leader || dropped;
    topo_partition_edit_put(e, &n);
    topo_add_change(s, TOPO_PARTITION_CHANGED, SLICE_NONE)->partition = n.index;
}

/* Runs fn over all records and writes those it changed. */
static void change_all(struct topo_state *s, bool (*fn)(struct topo_state *s, struct topo_partition_change *c, const void *arg), const void *arg)
{
    struct topo_partition_edit e = {0};
    struct topo_partition_table *t = s->v.partitions;

    for (uint32_t i = 0; t != NULL && i < t->count; i++) {
        const struct topo_partition *p = topo_partition_at(&s->v, i);
        struct topo_partition_change c;

        topo_change_of(&c, p);
        if (!fn(s, &c, arg))
            continue;
        if (e.table == NULL)
            edit_begin(s, &e);
        put(s, &e, p, &c);
    }
    if (e.table != NULL)
        s->v.partitions = e.table;
}

struct leaving {
    uint32_t node;
    bool unclean;
};

static bool without(struct topo_state *s, struct topo_partition_change *c, const void *arg)
{
    const struct leaving *l = arg;
    bool led = c->leader == l->node;

    if (!topo_change_drop(&s->v, c, l->node, l->unclean) && !led)
        return false;
    if (led)
        c->leader = 0;
    topo_change_elect(&s->v, c, 0);
    return true;
}

void topo_partitions_without(struct topo_state *s, uint32_t node, bool unclean)
{
    struct leaving l = {node, unclean};

    change_all(s, without, &l);
}

static bool elect(struct topo_state *s, struct topo_partition_change *c, const void *arg)
{
    (void)arg;
    if (c->leader != 0)
        return false;
    topo_change_elect(&s->v, c, 0);
    return c->leader != 0;
}

void topo_partitions_elect(struct topo_state *s)
{
    change_all(s, elect, NULL);
}

static bool forget(struct topo_state *s, struct topo_partition_change *c, const void *arg)
{
    uint32_t node = ((const struct leaving *)arg)->node;

    if (!topo_set_has(&c->replicas, node) && !topo_set_has(&c->adding, node))
        return false;
    topo_set_remove(&c->replicas, node);
    topo_set_remove(&c->adding, node);
    topo_set_remove(&c->eligible, node);
    topo_set_remove(&c->last_known, node);
    topo_change_settle(&s->v, c); /* of two replicas one is enough */
    return true;
}

bool topo_partitions_forget(struct topo_state *s, uint32_t node)
{
    struct leaving l = {.node = node};
    struct topo_partition_table *t = s->v.partitions;

    for (uint32_t i = 0; t != NULL && i < t->count; i++) {
        const struct topo_partition *p = topo_partition_at(&s->v, i);
        struct topo_partition_change c;

        /* A node that is not alive is in no in-sync set. Without a leader now, every copy that is left may be the newest. */
        topo_change_of(&c, p);
        if (topo_is_replica(p, node) && (c.leader == 0 || (topo_set_has(&c.replicas, node) && c.replicas.count == 1)))
            return false;
    }
    change_all(s, forget, &l);
    return true;
}

/* ---- commands ------------------------------------------------------------------------------------------------------------- */

static bool read_set(struct reader *r, struct topo_replica_set *set)
{
    set->count = reader_u8(r);
    if (set->count > TOPO_REPLICAS_MAX) {
        r->bad = 1;
        set->count = 0;
    }
    for (unsigned i = 0; i < set->count; i++) {
        set->nodes[i] = reader_be32(r);
        for (unsigned j = 0; j < i; j++)
            if (set->nodes[j] == set->nodes[i])
                return false;
    }
    return true;
}

static bool nodes_known(const struct topology *v, const struct topo_replica_set *set)
{
    for (unsigned i = 0; i < set->count; i++)
        if (topo_node_find(v, set->nodes[i]) == NULL)
            return false;
    return true;
}

int topo_apply_partitions_place(struct topo_state *s, struct reader *r)
{
    uint32_t count = reader_be32(r);
    struct topo_partition_edit e;
    int err = 0;

    if (r->bad || count > 16384)
        return ERR_CORRUPT;
    if (s->v.partitions != NULL)
        return ERR_EXISTS;
    if (count != s->v.total_partitions)
        return ERR_INVALID;
    edit_begin(s, &e);
    for (uint32_t i = 0; i < count && err == 0 && !r->bad; i++) {
        struct topo_partition p = {.index = i, .epoch = 1, .version = 1};
        struct topo_partition_change c = {0};

        if (!read_set(r, &c.replicas) || c.replicas.count == 0 || !nodes_known(&s->v, &c.replicas)) {
            err = ERR_INVALID;
            continue;
        }
        c.leader = c.replicas.nodes[0];
        c.insync = c.replicas;
        topo_partition_pack(&p, &c);
        topo_partition_edit_put(&e, &p);
    }
    if (err < 0 || r->bad) {
        topo_partition_table_free(e.table);
        return r->bad ? ERR_CORRUPT : err;
    }
    s->v.partitions = e.table;
    for (uint32_t i = 0; i < count; i++)
        topo_add_change(s, TOPO_PARTITION_CHANGED, SLICE_NONE)->partition = i;
    /* Placed on a node that went meanwhile: it is replaced as any failed leader is. */
    for (uint32_t i = 0; i < count; i++) {
        const struct topo_partition *p = topo_partition_at(&s->v, i);

        for (unsigned k = 0; k < p->replica_count; k++)
            if (!topo_node_alive(topo_node_find(&s->v, p->members[k])))
                topo_partitions_without(s, p->members[k], false);
    }
    return 0;
}

static bool subset(const struct topo_replica_set *a, const struct topo_replica_set *b)
{
    for (unsigned i = 0; i < a->count; i++)
        if (!topo_set_has(b, a->nodes[i]))
            return false;
    return true;
}

static bool disjoint(const struct topo_replica_set *a, const struct topo_replica_set *b)
{
    for (unsigned i = 0; i < a->count; i++)
        if (topo_set_has(b, a->nodes[i]))
            return false;
    return true;
}

/* The sets hang together, whatever they were before. */
static bool sets_ok(const struct topology *v, const struct topo_partition_change *c)
{
    return c->replicas.count > 0 && c->replicas.count + c->adding.count <= TOPO_REPLICAS_MAX && disjoint(&c->replicas, &c->adding) && nodes_known(v, &c->replicas) && nodes_known(v, &c->adding) &&
           subset(&c->insync, &c->replicas) && subset(&c->eligible, &c->replicas) && subset(&c->last_known, &c->replicas) && disjoint(&c->insync, &c->eligible);
}

static int check_change(const struct topology *v, uint32_t by, const struct topo_partition *p, const struct topo_partition_change *c)
{
    struct topo_partition_change old;

    topo_change_of(&old, p);
    if (!sets_ok(v, c))
        return ERR_INVALID;
    if (c->leader != old.leader && topo_node_alive(topo_node_find(v, old.leader)) && by != old.leader)
        return ERR_NOT_LEADER; /* rule 21 */
    if (c->leader == 0 ? old.leader != 0 || c->insync.count != 0 : !topo_set_has(&c->insync, c->leader) || !topo_node_alive(topo_node_find(v, c->leader)))
        return ERR_INVALID;
    if (c->unclean)
        return 0;
    if (!subset(&c->replicas, &old.replicas))
        return ERR_INVALID;
    for (unsigned i = 0; i < c->eligible.count; i++)
        if (!topo_set_has(&old.eligible, c->eligible.nodes[i]) && !topo_set_has(&old.insync, c->eligible.nodes[i]))
            return ERR_INVALID;
    if (c->leader != 0 && old.insync.count == 0)
        return topo_set_has(&old.eligible, c->leader) && c->insync.count == 1 ? 0 : ERR_INVALID;
    return subset(&c->insync, &old.insync) ? 0 : ERR_INVALID;
}

static void read_change(struct reader *r, struct topo_partition_change *c, bool *well)
{
    *c = (struct topo_partition_change){.index = reader_be32(r)};
    c->version = reader_be32(r);
    c->leader = reader_be32(r);
    c->unclean = reader_u8(r) & 1;
    *well = read_set(r, &c->replicas);
    *well &= read_set(r, &c->insync);
    *well &= read_set(r, &c->eligible);
    *well &= read_set(r, &c->last_known);
    *well &= read_set(r, &c->adding);
}

int topo_apply_partition_change(struct topo_state *s, struct reader *r, struct topo_result *ret)
{
    uint32_t by = reader_be32(r), count = reader_be32(r);
    struct topo_partition_edit e = {0};
    struct topo_partition_change *list;
    bool *well;
    int first = 0;

    if (r->bad || count > 16384)
        return ERR_CORRUPT;
    list = mem_alloc((count + 1) * sizeof(list[0]));
    well = mem_alloc(count + 1);
    for (uint32_t i = 0; i < count; i++)
        read_change(r, &list[i], &well[i]);
    if (r->bad)
        first = ERR_CORRUPT;
    for (uint32_t i = 0; i < count && first != ERR_CORRUPT; i++) {
        const struct topo_partition *p = topo_partition_at(&s->v, list[i].index);
        int err = p == NULL ? ERR_NOT_FOUND : p->version != list[i].version ? ERR_MISMATCH : !well[i] ? ERR_INVALID : check_change(&s->v, by, p, &list[i]);

        if (err < 0) {
            first = first < 0 ? first : err;
            continue;
        }
        if (e.table == NULL) {
            edit_begin(s, &e);
            s->v.partitions = e.table;
        }
        put(s, &e, p, &list[i]);
        ret->id++;
    }
    mem_free(list);
    mem_free(well);
    return first;
}

static int check_insync(const struct topology *v, const struct topo_insync_request *q, const struct topo_partition *p)
{
    const struct topo_node *sender = topo_node_find(v, q->node);
    struct topo_replica_set now;

    if (sender == NULL || sender->epoch != q->node_epoch)
        return ERR_FENCED; /* R34 */
    if (p == NULL)
        return ERR_NOT_FOUND;
    if (q->leader_epoch > p->epoch || (q->leader_epoch == p->epoch && q->version > p->version))
        return ERR_AGAIN;
    if (q->leader_epoch < p->epoch)
        return ERR_FENCED;
    if (q->node != p->leader)
        return ERR_INVALID;
    if (q->version < p->version)
        return ERR_MISMATCH;
    if (!topo_set_has(&q->insync, q->node))
        return ERR_INVALID;
    for (unsigned i = 0; i < q->insync.count; i++)
        if (!topo_is_replica(p, q->insync.nodes[i]))
            return ERR_INVALID;
    now = topo_insync(p);
    for (unsigned i = 0; i < q->insync.count; i++) {
        const struct topo_node *n = topo_node_find(v, q->insync.nodes[i]);
        bool joins = !topo_set_has(&now, q->insync.nodes[i]);

        if (n == NULL || !topo_node_alive(n) || n->epoch != q->epochs[i] || (joins && (topo_node_leaves(n) || n->slow)))
            return ERR_INELIGIBLE;
    }
    return 0;
}

int topo_apply_partition_insync(struct topo_state *s, struct reader *r, struct topo_result *ret)
{
    struct topo_insync_request q = {.node = reader_be32(r)};
    const struct topo_partition *p;
    struct topo_partition_change c;
    struct topo_partition_edit e;
    bool well;
    int err;

    q.node_epoch = reader_be64(r);
    q.partition = reader_be32(r);
    p = topo_partition_at(&s->v, q.partition);
    q.leader_epoch = (int32_t)reader_be32(r);
    q.version = reader_be32(r);
    well = read_set(r, &q.insync);
    for (unsigned i = 0; i < q.insync.count; i++)
        q.epochs[i] = reader_be64(r);
    if (r->bad)
        return ERR_CORRUPT;
    err = well ? check_insync(&s->v, &q, p) : ERR_INVALID;
    if (err < 0)
        return err;
    topo_change_of(&c, p);
    for (unsigned i = 0; i < q.insync.count; i++) {
        if (topo_set_has(&c.adding, q.insync.nodes[i])) {
            topo_set_remove(&c.adding, q.insync.nodes[i]);
            topo_set_add(&c.replicas, q.insync.nodes[i]);
        }
    }
    c.insync = q.insync;
    c.last_known.count = 0; /* a leader that speaks has more than any of them (rule 19) */
    if (c.insync.count < topo_min_insync_of(&s->v, c.replicas.count))
        /* R28: the high watermark stands still from here on, so all who leave now have what was committed. */
        for (unsigned i = 0; i < p->replica_count; i++)
            if (p->insync >> i & 1 && !topo_set_has(&c.insync, p->members[i]))
                topo_set_add(&c.eligible, p->members[i]);
    topo_change_settle(&s->v, &c);
    edit_begin(s, &e);
    put(s, &e, p, &c);
    s->v.partitions = e.table;
    ret->id = p->version + 1;
    return 0;
}

/* A copy that is damaged vouches for nothing any more (D6), neither now nor by rule 19. Where it leaves nobody who has what was committed, another's last known copy is not enough: it may lack what this one had. */
static void drop_damaged(const struct topology *v, struct topo_partition_change *c, uint32_t node)
{
    bool counted = topo_set_has(&c->insync, node) || topo_set_has(&c->eligible, node) || topo_set_has(&c->last_known, node);
    bool led = c->leader == node;

    topo_set_remove(&c->insync, node);
    topo_set_remove(&c->eligible, node);
    topo_set_remove(&c->last_known, node);
    if (counted && c->insync.count == 0 && c->eligible.count == 0)
        c->last_known.count = 0;
    if (!led)
        return;
    c->leader = 0;
    topo_change_elect(v, c, node);
}

int topo_apply_partition_damaged(struct topo_state *s, struct reader *r)
{
    uint32_t node = reader_be32(r);
    uint64_t epoch = reader_be64(r);
    uint32_t index = reader_be32(r);
    const struct topo_partition *p = topo_partition_at(&s->v, index);
    const struct topo_node *n = topo_node_find(&s->v, node);
    struct topo_partition_change c;
    struct topo_partition_edit e;
    struct topology_change *told;

    if (r->bad)
        return ERR_CORRUPT;
    if (n == NULL || n->epoch != epoch)
        return ERR_FENCED;
    if (p == NULL || !topo_is_replica(p, node))
        return ERR_NOT_FOUND;
    if (p->replica_count == 1 && p->members[0] == node)
        return ERR_IN_USE;
    topo_change_of(&c, p);
    drop_damaged(&s->v, &c, node);
    edit_begin(s, &e);
    put(s, &e, p, &c);
    s->v.partitions = e.table;
    told = topo_add_change(s, TOPO_PARTITION_DAMAGED, SLICE_NONE);
    told->id = node;
    told->partition = index;
    return 0;
}
