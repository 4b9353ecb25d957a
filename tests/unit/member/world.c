#include "world.h"

#include <criterion/criterion.h>

#include "base/mem.h"
#include "log/effect.h"

struct world world;

void world_new(uint32_t partitions)
{
    struct buf b = {0};

    world = (struct world){.o = plan_defaults, .partitions = partitions};
    topo_cmd_form(&b, (const uint8_t *)"0123456789abcdef", partitions, EFFECT_LEVEL_MAX, (const uint8_t *)"salt");
    cr_assert_eq(world_apply(&b), 0);
}

void world_free(void)
{
    topo_state_free(&world.s);
}

int world_apply(struct buf *command)
{
    struct topo_result res;

    cr_assert_eq(topo_state_apply(&world.s, buf_slice(command), &res), 0);
    buf_fini(command);
    topo_retired_free(&world.s.retired);
    topo_state_clear_changes(&world.s);
    return res.err;
}

struct plan_node *world_fact(uint32_t id)
{
    return &world.facts[id - 1];
}

uint32_t world_enter(uint32_t id, const char *rack, bool unclean)
{
    struct buf b = {0};
    uint32_t me = id == 0 ? world.nodes + 1 : id;
    struct topo_node n = {.id = id, .level = EFFECT_LEVEL_MAX, .unclean = unclean, .name = slice_str("n"), .rack = slice_str(rack)};

    memset(n.uuid, (int)me, 16);
    topo_cmd_node_enter(&b, &n, false);
    cr_assert_eq(world_apply(&b), 0);
    if (id == 0)
        world.nodes++;
    *world_fact(me) = (struct plan_node){.id = me, .heard = true, .state_ms = UINT32_MAX, .self = me == 1};
    return me;
}

int world_state(uint32_t id, enum topo_node_state state)
{
    struct buf b = {0};

    topo_cmd_node_state(&b, id, topo_node_find(&world.s.v, id)->epoch, state, topo_node_flags_of(topo_node_find(&world.s.v, id)));
    world_fact(id)->state_ms = UINT32_MAX;
    return world_apply(&b);
}

void world_nodes(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        cr_assert_eq(world_state(world_enter(0, "", false), TOPO_NODE_ACTIVE), 0);
}

static bool get_end(void *arg, uint32_t partition, uint32_t node, int32_t *ret_epoch, int64_t *ret_end)
{
    (void)arg;
    (void)partition;
    *ret_epoch = 1;
    *ret_end = world.ends[node];
    return *ret_end >= 0;
}

struct plan_input world_input(void)
{
    return (struct plan_input){.view = &world.s.v, .nodes = world.facts, .node_count = world.nodes, .options = &world.o, .ends = {get_end, NULL}};
}

const struct topo_partition *world_at(uint32_t i)
{
    return topo_partition_at(&world.s.v, i);
}

void world_place(void)
{
    struct topo_replica_set *sets = mem_zalloc(world.partitions * sizeof(sets[0]));
    struct plan_input in = world_input();
    struct buf b = {0};

    cr_assert(plan_place(&in, sets));
    topo_cmd_partitions_place(&b, sets, world.partitions);
    cr_assert_eq(world_apply(&b), 0);
    mem_free(sets);
}

/* Who is slow or has the time wrong. */
static void take_fitness(void)
{
    struct plan_input in = world_input();
    struct plan_state d[WORLD_NODES];
    unsigned n = plan_states(&in, d, WORLD_NODES);
    struct buf b = {0};

    for (unsigned i = 0; i < n; i++) {
        if (d[i].reason != PLAN_FITNESS)
            continue;
        topo_cmd_node_state(&b, d[i].node, d[i].epoch, d[i].state, d[i].flags);
        cr_assert_eq(world_apply(&b), 0);
    }
}

bool world_step(void)
{
    struct plan_input in = world_input();
    struct plan plan;
    struct buf b = {0};
    bool any;

    take_fitness();
    plan_partitions(&in, &plan);
    any = plan.change_count != 0 || plan.handover_count != 0;
    if (plan.change_count != 0) {
        topo_cmd_partition_change(&b, 1, plan.changes, plan.change_count);
        cr_assert_eq(world_apply(&b), 0, "the state machine takes whatever the plan proposes");
    }
    for (unsigned i = 0; i < plan.handover_count; i++) {
        const struct plan_handover *h = &plan.handovers[i];
        struct topo_partition_change c;

        topo_change_of(&c, world_at(h->partition));
        cr_assert_eq(c.leader, h->from);
        if (!topo_set_has(&c.insync, h->to))
            continue; /* left meanwhile: the leader refuses */
        c.leader = h->to;
        topo_cmd_partition_change(&b, h->from, &c, 1);
        cr_assert_eq(world_apply(&b), 0);
    }
    plan_free(&plan);
    return any;
}

bool world_catch_up(void)
{
    bool any = false;

    for (uint32_t i = 0; i < world.partitions; i++) {
        const struct topo_partition *p = world_at(i);
        struct topo_insync_request q = {.node = p->leader, .partition = i, .leader_epoch = p->epoch, .version = p->version, .insync = topo_insync(p)};
        struct buf b = {0};

        if (p->leader == 0)
            continue;
        for (unsigned k = 0; k < (unsigned)p->replica_count + p->adding_count; k++) {
            const struct topo_node *n = topo_node_find(&world.s.v, p->members[k]);

            if (n->state == TOPO_NODE_ACTIVE && !n->slow)
                topo_set_add(&q.insync, n->id);
        }
        if (q.insync.count == topo_insync(p).count && p->last_known == 0)
            continue;
        q.node_epoch = topo_node_find(&world.s.v, q.node)->epoch;
        for (unsigned k = 0; k < q.insync.count; k++)
            q.epochs[k] = topo_node_find(&world.s.v, q.insync.nodes[k])->epoch;
        topo_cmd_partition_insync(&b, &q);
        cr_assert_eq(world_apply(&b), 0);
        any = true;
    }
    return any;
}

unsigned world_settle(unsigned max)
{
    for (unsigned i = 0; i < max; i++) {
        bool any = world_step();

        world_check();
        any |= world_catch_up();
        world_check();
        if (!any)
            return i;
    }
    return max;
}

static bool subset(const struct topo_replica_set *a, const struct topo_partition *p)
{
    struct topo_replica_set replicas = topo_replicas(p);

    for (unsigned i = 0; i < a->count; i++)
        if (!topo_set_has(&replicas, a->nodes[i]))
            return false;
    return true;
}

void world_check(void)
{
    for (uint32_t i = 0; i < world.partitions; i++) {
        const struct topo_partition *p = world_at(i);
        struct topo_replica_set insync = topo_insync(p), eligible = topo_eligible(p);

        for (unsigned k = 0; k < (unsigned)p->replica_count + p->adding_count; k++)
            for (unsigned j = 0; j < k; j++)
                cr_assert_neq(p->members[k], p->members[j], "partition %u twice on node %u", i, p->members[k]);
        cr_assert_gt(p->replica_count, 0);
        cr_assert(subset(&insync, p) && subset(&eligible, p));
        for (unsigned k = 0; k < insync.count; k++)
            cr_assert(topo_node_alive(topo_node_find(&world.s.v, insync.nodes[k])), "partition %u: node %u is in sync and not alive", i, insync.nodes[k]);
        if (p->leader != 0)
            cr_assert(topo_set_has(&insync, p->leader), "partition %u is led by node %u out of its in-sync set", i, p->leader);
        else
            cr_assert_eq(insync.count, 0);
    }
}

unsigned world_replicas_of(uint32_t id)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < world.partitions; i++)
        n += topo_is_replica(world_at(i), id);
    return n;
}

unsigned world_led_by(uint32_t id)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < world.partitions; i++)
        n += world_at(i)->leader == id;
    return n;
}
