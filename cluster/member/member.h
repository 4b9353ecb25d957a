/* Membership: who is alive, who leads what. Every node has one `member`; the one whose Raft core leads is the controller.
 *
 *   a node       sends HEARTBEAT to the controller every cluster.health_check_interval. The answer extends its lease: it ends 1.0 s (cluster.lease) after the heartbeat was *sent*, on
 *                CLOCK_BOOTTIME (rule 20). Without a lease a node serves nothing that needs leadership.
 *   controller   answers a heartbeat only after a Raft round to a majority that began after it arrived (ReadIndex). Fences a node that was silent for cluster.failure_timeout, or at once when both it and the
 *                intended successor see "connection refused". Elects leaders out of in-sync and eligible sets (R26 to R30), places replicas, raises the effective factor as nodes join, replaces replicas of nodes that
 *                stay away for cluster.replace_after, moves leaderships back to preferred replicas, asks the slow to hand over (rule 25). Fences nobody for silence before 1.2 s after its own election.
 *
 * What it decides is a topology command, always a compare-and-set on the partition's version; what it decides from is pure and lies in plan.c, tested without a clock.
 *
 * Threads: the control worker. The lease is an atomic that partitions look at (partitions_set_lease). */
#ifndef GM_CLUSTER_MEMBER_H
#define GM_CLUSTER_MEMBER_H

#include "cluster/bus/bus.h"
#include "cluster/topology/topology.h"
#include "partition/partition.h"

struct member;

struct member_options {
    struct worker *control;
    struct bus *bus;
    struct topology_store *topology;
    struct partitions *partitions;
    uint32_t heartbeat_ms, lease_ms, failure_timeout_ms, replace_after_ms;
    uint32_t rebalance_permille; /* cluster.rebalance_threshold */
    uint32_t replication_factor, min_insync; /* of the configuration, for a cluster that has not stored them yet */
    /* Asked for every heartbeat: ages in ms of the oldest running sync round and of the last pass of the replication thread (rule 25). */
    void (*ages)(void *arg, uint32_t *ret_sync_ms, uint32_t *ret_replication_ms);
    /* False when this node may keep nothing any more (a sync failed, rule 6): it sends no heartbeat and gives its lease up, so that others lead and count without it. NULL: always true. */
    bool (*healthy)(void *arg);
    /* The controller, or gomsgctl through it, wants this node to hand the partition over to `to` (rule 21). */
    void (*hand_over)(void *arg, uint32_t partition, uint32_t to);
    /* This node's lease ran out, or was taken: what waits for others to agree waits in vain. Told once for each lease, a few ms later. NULL: nobody wants to know. */
    void (*lease_ended)(void *arg);
    void *arg;
};
int member_new(const struct member_options *options, struct member **ret);
/* The topology is started. From here on this node is the controller whenever it leads the group, and a node alone has its lease. On the control worker or, while workers run, the main thread, as the next two. */
void member_start(struct member *m);
/* Recovered and ready to lead: heartbeats begin, so that the controller takes this node in. */
void member_serve(struct member *m);
void member_stop(struct member *m); /* likewise; before bus_close */
void member_free(struct member *m); /* after topology_close: what it proposed was answered */

/* Told on the control worker: the bus's news and every new version of the topology. */
void member_peer_up(struct member *m, const struct bus_peer *peer);
void member_peer_down(struct member *m, const struct bus_peer *peer, enum bus_down why);
void member_topology_changed(struct member *m);
void member_leading(struct member *m, bool leading, uint64_t term); /* topology_options.leading */
/* For the events: a node's copy of a partition is damaged and left all sets. Any thread. */
void member_partition_damaged(struct member *m, uint32_t node, uint32_t partition);

/* ---- for people; any thread ---- */
struct member_node_info {
    uint32_t node_id;
    int64_t heard_ms_ago; /* -1: not in this term */
    uint32_t sync_age_ms, replication_age_ms;
    int64_t clock_skew_ms;
};
/* What the controller knows, asked of it when that is another node. Not on a worker. Returns how many, or ERR_NO_LEADER, ERR_TIMEOUT. */
int member_nodes(struct member *m, struct member_node_info *ret, unsigned max);
/* Asks the partition's leader to hand over to `to` (0: any that fits) and returns at once; the topology shows when it did. Not on a worker. ERR_NOT_FOUND, ERR_NO_LEADER, ERR_INELIGIBLE: `to` may not lead it. */
int member_transfer(struct member *m, uint32_t partition, uint32_t to, uint32_t *ret_to);
/* Rule 19: partitions (UINT32_MAX: all) without a leader get the live replica with the greatest log; what only others had is lost. Not on a worker. */
int member_recover(struct member *m, uint32_t partition, uint32_t *ret_recovered, uint32_t *ret_left);
/* What happened, newest last: elections, fencing, in-sync changes, moves. A ring of the last 1,000. */
struct member_event {
    int64_t wall_ms;
    char text[260];
};
unsigned member_events(struct member *m, struct member_event *ret, unsigned max);

#endif
