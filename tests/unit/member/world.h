/* A cluster of the mind for the plan's tests: the real state machine, facts about its nodes, and hands that carry out what the plan says as the real parts would (the controller proposes changes, leaders hand over and report
 * in-sync sets). */
#ifndef GM_TESTS_MEMBER_WORLD_H
#define GM_TESTS_MEMBER_WORLD_H

#include "cluster/member/plan.h"
#include "cluster/topology/partition.h"
#include "cluster/topology/state.h"

#define WORLD_NODES 12

struct world {
    struct topo_state s;
    struct plan_options o;
    struct plan_node facts[WORLD_NODES];
    unsigned nodes;
    uint32_t partitions;
    int64_t ends[WORLD_NODES + 1]; /* of every partition's main log at a node; -1: not known */
};
extern struct world world;

void world_new(uint32_t partitions);
void world_free(void);
int world_apply(struct buf *command);
uint32_t world_enter(uint32_t id, const char *rack, bool unclean); /* 0: a new node */
int world_state(uint32_t id, enum topo_node_state state);
void world_nodes(unsigned n); /* so many active ones */
void world_place(void);
struct plan_node *world_fact(uint32_t id);
struct plan_input world_input(void);
const struct topo_partition *world_at(uint32_t i);
/* Plans and carries out, handovers included. Returns whether there was anything to do. */
bool world_step(void);
/* Leaders report every live member whose node is not slow as in sync, those being added too. */
bool world_catch_up(void); /* whether anything changed */
/* Steps and catches up until the plan has nothing more to say; the number of steps, or `max` when it never ends. */
unsigned world_settle(unsigned max);
/* Sets are of members, no node twice, a leader alive and in sync. Fails the test otherwise. */
void world_check(void);
unsigned world_replicas_of(uint32_t id);
unsigned world_led_by(uint32_t id);
#endif
