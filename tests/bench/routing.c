/* bench-routing [partitions]: what it costs to find the leader of a slot, a queue, a topic's partition in the view, and how many bytes the map takes on a node. Nothing is locked: a view is an atomic pointer and what hangs on it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/mem.h"
#include "cluster/topology/commands.h"
#include "cluster/topology/partition.h"
#include "cluster/topology/state.h"
#include "log/effect.h"
#include "partition/partition.h"

enum { NODES = 5, LOOKUPS = 20000000, NAMES = 4096 };

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void apply(struct topo_state *s, struct buf *b)
{
    struct topo_result r;

    CHECK(topo_state_apply(s, buf_slice(b), &r) == 0 && r.err == 0);
    topo_state_clear_changes(s);
    topo_retired_free(&s->retired);
    buf_clear(b);
}

static void make(struct topo_state *s, uint32_t partitions)
{
    struct topo_replica_set *sets = mem_zalloc(partitions * sizeof(sets[0]));
    struct buf b = {0};

    topo_cmd_form(&b, (const uint8_t *)"0123456789abcdef", partitions, EFFECT_LEVEL_MAX, (const uint8_t *)"salt");
    apply(s, &b);
    for (uint32_t i = 1; i <= NODES; i++) {
        struct topo_node n = {.level = EFFECT_LEVEL_MAX, .name = SLICE_LIT("n"), .rack = SLICE_LIT("")};

        n.uuid[0] = (uint8_t)i;
        topo_cmd_node_enter(&b, &n, false);
        apply(s, &b);
        topo_cmd_node_state(&b, i, 1, TOPO_NODE_ACTIVE, 0);
        apply(s, &b);
    }
    for (uint32_t i = 0; i < partitions; i++) {
        for (uint32_t k = 0; k < 3; k++)
            topo_set_add(&sets[i], (i + k) % NODES + 1);
    }
    topo_cmd_partitions_place(&b, sets, partitions);
    apply(s, &b);
    mem_free(sets);
    buf_fini(&b);
}

/* Each walks its names in an order that no prefetcher guesses. */
#define MEASURE(what, expression)                                                                                      \
    do {                                                                                                               \
        uint64_t sum = 0;                                                                                              \
        uint32_t x = 1;                                                                                                \
        double begin = now_s();                                                                                        \
                                                                                                                       \
        for (unsigned n = 0; n < LOOKUPS; n++) {                                                                       \
            const struct topology *v = __atomic_load_n(&view, __ATOMIC_ACQUIRE);                                       \
                                                                                                                       \
            x = x * 1664525u + 1013904223u;                                                                            \
            sum += topo_partition_at(v, (expression))->leader;                                                         \
        }                                                                                                              \
        printf("%-28s %6.1f ns%s\n", what, (now_s() - begin) * 1e9 / LOOKUPS, sum == 0 ? " nobody leads" : "");        \
    } while (0)

int main(int argc, char **argv)
{
    uint32_t partitions = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000;
    struct topo_state s = {0};
    const struct topology *view = &s.v;
    static char names[NAMES][16];
    CHECK(partitions >= 1 && partitions <= 16384);
    make(&s, partitions);
    for (unsigned i = 0; i < NAMES; i++)
        snprintf(names[i], sizeof(names[i]), "queue-%u", i);
    printf("%u partitions, %u nodes, 3 replicas\n", partitions, NODES);
    printf("%-28s %6zu bytes, %.0f a partition\n", "the map on a node", topo_partition_table_bytes(partitions), (double)topo_partition_table_bytes(partitions) / partitions);
    MEASURE("slot -> leader", placement_of_slot(x >> 18, partitions));
    MEASURE("key -> slot -> leader", placement_of_key(slice_str(names[x >> 20]), partitions));
    MEASURE("queue -> leader", placement_of_queue(SLICE_LIT("/"), slice_str(names[x >> 20]), partitions));
    MEASURE("topic partition -> leader", placement_of_topic(slice_str(names[x >> 20]), x >> 24, partitions));
    topo_state_free(&s);
    return 0;
}
