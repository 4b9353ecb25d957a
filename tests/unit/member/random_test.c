/* Nodes come, die, restart (some uncleanly), drain and are slow by chance; the plan answers; leaders report. After every event the records hold together, epochs and versions only rise, no committed data is given up: a
 * model of what each node holds goes along, and whoever is elected by the sets holds all that was committed. And when the trouble ends, so does the planning. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "world.h"

#define PARTITIONS 16
#define ROUNDS 400

static uint64_t seed;

static unsigned chance(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

/* What of each partition's log every node has, and what is committed. Writes happen only where a leader is and the in-sync set is not below the bar (rule 12). */
static struct {
    int64_t end[WORLD_NODES + 1], committed;
    int32_t epoch;
    uint32_t version;
} model[PARTITIONS];

static void look(const char *after)
{
    world_check();
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        const struct topo_partition *p = world_at(i);

        cr_assert_geq(p->epoch, model[i].epoch, "%s", after);
        cr_assert_geq(p->version, model[i].version);
        if (p->epoch == model[i].epoch && model[i].version != 0 && p->leader != 0)
            cr_assert(topo_is_insync(p, p->leader));
        if (p->leader != 0 && !topo_is_recovering(p))
            cr_assert_geq(model[i].end[p->leader], model[i].committed, "partition %u: node %u leads without all that was committed, after %s (seed %lu)", i, p->leader, after, (unsigned long)seed);
        model[i].epoch = p->epoch;
        model[i].version = p->version;
    }
}

/* Every in-sync member takes what the leader writes; it is committed when the set is not below the bar. */
static void write_somewhere(void)
{
    uint32_t i = chance(PARTITIONS);
    const struct topo_partition *p = world_at(i);
    struct topo_replica_set insync = topo_insync(p);
    int64_t end;

    if (p->leader == 0)
        return;
    end = model[i].end[p->leader] + 1;
    model[i].end[p->leader] = end;
    if (insync.count < topo_partition_min_insync(&world.s.v, p))
        return;
    for (unsigned k = 0; k < insync.count; k++)
        model[i].end[insync.nodes[k]] = end;
    model[i].committed = end;
}

static void reports(void)
{
    world_catch_up();
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        const struct topo_partition *p = world_at(i);
        struct topo_replica_set insync = topo_insync(p);

        for (unsigned k = 0; k < insync.count; k++)
            model[i].end[insync.nodes[k]] = model[i].end[p->leader];
        if (p->leader != 0 && insync.count >= topo_partition_min_insync(&world.s.v, p))
            model[i].committed = model[i].end[p->leader];
    }
}

static enum topo_node_state state_of(uint32_t id)
{
    return topo_node_find(&world.s.v, id)->state;
}

static unsigned not_active(void)
{
    unsigned n = 0;

    for (uint32_t id = 1; id <= world.nodes; id++)
        n += state_of(id) != TOPO_NODE_ACTIVE;
    return n;
}

static const char *event(void)
{
    uint32_t id = 1 + chance(world.nodes);

    switch (chance(9)) {
    case 0:
    case 1:
        if (state_of(id) == TOPO_NODE_ACTIVE) {
            world_state(id, TOPO_NODE_FENCED);
            world_fact(id)->state_ms = chance(2) ? 100 : 40000;
        }
        return "a fencing";
    case 2:
    case 3:
        if (state_of(id) != TOPO_NODE_ACTIVE)
            world_state(id, TOPO_NODE_ACTIVE);
        return "an unfencing";
    case 4:
        world_enter(id, "", false);
        return "a clean restart";
    case 5:
        /* What was committed is not lost as long as one in-sync member keeps its tail: one unclean restart at a time. */
        if (not_active() == 0) {
            world_enter(id, "", true);
            reports();
        }
        return "an unclean restart";
    case 6:
        if (world.nodes < WORLD_NODES && chance(10) == 0)
            world_state(world_enter(0, chance(2) ? "a" : "b", false), TOPO_NODE_ACTIVE);
        return "a joining";
    case 7:
        world_fact(id)->slow = chance(4) == 0;
        return "slowness";
    default:
        if (state_of(id) == TOPO_NODE_ACTIVE && chance(8) == 0)
            world_state(id, TOPO_NODE_DRAINING);
        return "draining";
    }
}

static void run(uint64_t from)
{
    seed = from;
    memset(model, 0, sizeof(model));
    world_new(PARTITIONS);
    world_nodes(1 + chance(5));
    world_place();
    for (unsigned round = 0; round < ROUNDS; round++) {
        look(event());
        write_somewhere();
        if (chance(2)) {
            world_step();
            look("a step");
        }
        write_somewhere();
        if (chance(3) == 0) {
            reports();
            look("reports");
        }
    }
    for (uint32_t id = 1; id <= world.nodes; id++) {
        world_fact(id)->slow = false;
        if (state_of(id) != TOPO_NODE_ACTIVE)
            world_state(id, TOPO_NODE_ACTIVE);
    }
    cr_assert_lt(world_settle(300), 300, "the planning does not end, seed %lu", (unsigned long)from);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        const struct topo_partition *p = world_at(i);

        cr_assert_neq(p->leader, 0, "partition %u has no leader, seed %lu", i, (unsigned long)from);
        cr_assert_eq(p->replica_count, world.nodes < 3 ? world.nodes : 3, "partition %u, seed %lu", i, (unsigned long)from);
        cr_assert_eq(topo_insync(p).count, p->replica_count);
        cr_assert_eq(p->adding_count, 0);
    }
    world_free();
}

Test(random, whatever_happens_the_records_hold_and_the_planning_ends)
{
    unsigned long rounds = getenv("GOMSG_PLAN_SEEDS") != NULL ? strtoul(getenv("GOMSG_PLAN_SEEDS"), NULL, 10) : 300;

    for (unsigned long i = 0; i < rounds; i++)
        run(i + 1);
}
