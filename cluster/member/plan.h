/* What the controller decides, and nothing else: from the view, from what it knows of the nodes, and from options, to commands and requests. No clock, no I/O, no memory of former decisions: run again on an unchanged
 * input it decides the same, and run again after its decisions were carried out it has nothing more to say (the tests hold it to that).
 *
 * Pure; any thread. */
#ifndef GM_CLUSTER_MEMBER_PLAN_H
#define GM_CLUSTER_MEMBER_PLAN_H

#include "cluster/topology/commands.h"

/* What the controller knows of a node. A node of the view without a fact was never heard and is silent for as long as the controller leads. */
struct plan_node {
    uint32_t id;
    bool self;              /* the controller's own node: not fenced for silence */
    bool heard;             /* a heartbeat of its present epoch came in this term */
    uint32_t silent_ms;     /* since that, or since the controller began to lead */
    uint32_t state_ms;      /* how long it has been in its present state, as far as the controller saw */
    bool refused;           /* the controller's own last attempt to reach it ended with "connection refused" */
    const uint32_t *refuses; /* whom it sees so itself, told with its last heartbeat */
    unsigned refuse_count;
    bool slow;              /* rule 25; the plan goes by what the topology keeps of these two, once it does */
    bool clock_off;         /* rule 26: is not taken in, may not lead */
};

struct plan_options {
    uint32_t replication_factor;   /* as asked; 0: 3 */
    uint32_t failure_timeout_ms;   /* a silent node is fenced after this, */
    uint32_t first_fence_ms;       /* or, never heard in this term, after this: a lease of the former controller has ended (rule 20) */
    uint32_t refused_ms;           /* of silence besides "connection refused" */
    uint32_t replace_after_ms;     /* a fenced node's replicas are placed anew after this */
    uint32_t settle_ms;            /* a node is active for this long before leaderships move back to it */
    uint32_t rebalance_permille;   /* replicas above or below the mean, with 2 between most and least, before one moves */
    uint32_t moves_max;            /* replicas on their way for balance, in the cluster */
    uint32_t adding_max;           /* being added to one node at a time */
    uint32_t handovers_max;
};
extern const struct plan_options plan_defaults;

/* (last epoch, end) of a partition's main log at a node (LOG_ENDS); false: not known. */
struct plan_ends {
    bool (*get)(void *arg, uint32_t partition, uint32_t node, int32_t *ret_epoch, int64_t *ret_end);
    void *arg;
};

struct plan_input {
    const struct topology *view;
    const struct plan_node *nodes;
    unsigned node_count;
    const struct plan_options *options;
    struct plan_ends ends; /* get may be NULL */
};

/* ---- node states ------------------------------------------------------------------------------------------------------------ */
enum plan_reason { PLAN_HEARD, PLAN_SILENT, PLAN_REFUSED, PLAN_FITNESS };
struct plan_state {
    uint32_t node;
    uint64_t epoch;
    enum topo_node_state state;
    unsigned flags; /* enum topo_node_flags */
    enum plan_reason reason;
};
/* Whom to fence, whom to take back, who is slow or has the time wrong; returns how many, at most max. */
unsigned plan_states(const struct plan_input *in, struct plan_state *ret, unsigned max);

/* ---- partitions --------------------------------------------------------------------------------------------------------------- */
struct plan_handover {
    uint32_t partition, from, to;
};
struct plan {
    struct topo_partition_change *changes; /* at most one a partition */
    unsigned change_count;
    struct plan_handover *handovers; /* leaders are asked (rule 21) */
    unsigned handover_count;
    uint32_t *ends;                  /* partitions whose log ends must be asked for (rule 19) */
    unsigned end_count;
    unsigned change_cap, handover_cap, end_cap; /* private */
};
void plan_partitions(const struct plan_input *in, struct plan *ret);
void plan_free(struct plan *p);

/* The first placement, over all active nodes: fills total_partitions sets. Never two replicas on a node, racks spread, leaders and those who would follow them spread. False: no active node. */
bool plan_place(const struct plan_input *in, struct topo_replica_set *ret);

/* min(factor, nodes): nodes that failed count, those whose replicas are to leave them do not. */
unsigned plan_effective_factor(const struct plan_input *in);

/* Rule 19, by an administrator's word: elects among the live replicas whose ends are known the one with the greatest main log. ERR_NOT_FOUND: none; ERR_EXISTS: it has a leader; ERR_AGAIN: ends of a live one are not known. */
int plan_recover(const struct plan_input *in, uint32_t partition, struct topo_partition_change *ret);

/* Where a leadership may be moved to by hand: 0: any that fits. Returns the node, or 0 when `to` (or nobody) may. */
uint32_t plan_handover_target(const struct plan_input *in, uint32_t partition, uint32_t to);

#endif
