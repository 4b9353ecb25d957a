/* Who votes (rule 22): the first three nodes, five from five nodes on; the others learn. A voter that stays away is replaced, one change at a time. Pure. Private to cluster/topology. */
#ifndef GM_CLUSTER_TOPOLOGY_VOTERS_PLAN_H
#define GM_CLUSTER_TOPOLOGY_VOTERS_PLAN_H

#include <stdbool.h>
#include <stdint.h>

struct voter_candidate {
    uint32_t id;
    bool voter;
    bool known;        /* the topology knows it: not removed */
    bool registered;   /* it ever was in the topology, or never had time to register */
    bool alive;        /* heard of lately */
    uint64_t away_us;  /* since it was heard of */
};

enum voter_change { VOTERS_KEEP, VOTERS_PROMOTE, VOTERS_DEMOTE, VOTERS_REMOVE };

/* Members in order of id, the leader itself among them (self). *ret_id: whom it concerns. */
enum voter_change voters_plan(const struct voter_candidate *members, unsigned n, uint32_t self, uint64_t replace_after_us, uint32_t *ret_id);

#endif
