/* Replication: followers fetch the logs of the partitions they hold from each partition's leader (R6 to R25, rules 1 to 3, 12 to 14).
 *
 * One follower side and one leader side a node, both on the data worker (the *replication thread* of rule 25); applying to memory and rebuilding runs on background threads.
 *
 *   follower   one FETCH at a time and pair of nodes, long-polled: positions (end, last epoch, durable end) of the logs that changed since the last one. Answers carry batches as the leader has them, the leader's high
 *              watermark and start, or that the logs diverge (R10, R11), or that the follower must install a snapshot (rule 3).
 *   leader     keeps a session a follower (KIP-227 in spirit): logs with news stand in its ready list, put there by the log's watch when something was appended. What a follower asks for tells its end; the high
 *              watermark is computed from ends, the maximal in-sync set and rule 12, and published with log_set_hw, which wakes the commits that waited.
 *   in-sync    shrinking after cluster.replica_lag_max, scanned every 250 ms; expanding when a follower has reached HW in every log of the partition (rule 1). A proposal to the controller (INSYNC), one at a time a partition.
 *
 * Roles follow the topology: replication_topology_changed compares each partition's record with the role it plays here and steps it (partition_set_role): none -> follower -> opening -> leader -> follower ... */
#ifndef GM_CLUSTER_REPLICATE_H
#define GM_CLUSTER_REPLICATE_H

#include "cluster/bus/bus.h"
#include "cluster/topology/topology.h"
#include "partition/partition.h"
#include "stream/stream.h"

struct replication;

struct replication_options {
    struct workers *workers;
    const char *data_dir; /* borrowed */
    struct worker *data;
    struct bus *bus;
    struct topology_store *topology;
    struct partitions *partitions;
    struct stream_table *streams;
    struct log_store *logs;
    uint32_t replica_lag_max_ms;
    uint32_t lease_ms; /* cluster.lease; 0: 1000 */
    uint32_t min_insync; /* cluster.min_insync */
    uint64_t queue_segment_bytes; /* of queues' logs here; 0: QUEUE_SEGMENT_BYTES */
    /* This node opened or stopped leading a partition, or holds it no more; after the fact, on any thread, may only post: fronts free blocked clients, re-attach gateways. */
    void (*role_changed)(void *arg, uint32_t partition, bool leader);
    void *arg;
};
int replication_new(const struct replication_options *options, struct replication **ret);
void replication_start(struct replication *r);
/* Before a planned stop, while workers and bus run; not on a worker: hands every partition led here over to another in-sync member, where there is one, and waits until that is done or given up. */
void replication_leave(struct replication *r, uint32_t timeout_ms);
void replication_stop(struct replication *r);
void replication_free(struct replication *r);

/* On the control worker, after a new version of the topology was published. */
void replication_topology_changed(struct replication *r);
/* rule 21. On the control worker; answered through the topology. */
void replication_hand_over(struct replication *r, uint32_t partition, uint32_t to_node);
uint32_t replication_age_ms(const struct replication *r); /* since its last pass, any thread */

/* ---- WAIT and WAITAOF ----------------------------------------------------------------------------------------------- */
/* How many in-sync followers have this log up to `end` (durably: synced there), 0 until the high watermark covers it (rule 13). Any worker. */
uint32_t replication_acked(struct replication *r, struct partition *p, int64_t end, bool durable);
/* Calls `changed` by mail on `worker` whenever positions of followers of this partition moved, until it is taken away: WAIT looks again then. */
struct replication_waiter {
    struct mail mail; /* private */
    struct list node; /* private */
    struct worker *worker;
    void (*changed)(struct replication_waiter *w);
    bool posted; /* private, atomic: a mail is under way; the memory stays until it arrived */
    uint32_t *count; /* private */
};
void replication_wait(struct replication *r, struct partition *p, struct replication_waiter *w);
void replication_unwait(struct replication *r, struct replication_waiter *w);

/* ---- for people; any thread ---- */
struct replica_info {
    uint32_t node_id;
    bool in_sync;
    int64_t end;          /* of the main log, as last heard; -1 unknown */
    uint64_t lag_records; /* over all logs of the partition */
    uint64_t lag_ms;      /* since it was last caught up */
};
/* Of a partition led here; returns how many. */
unsigned replication_replicas(struct replication *r, uint32_t partition, struct replica_info *ret, unsigned max);
struct replication_totals {
    uint32_t led, followed;    /* partitions */
    uint32_t below_min_insync; /* of those led */
    uint32_t out_of_sync;      /* followers of partitions led */
    uint32_t damaged;          /* copies here that are damaged and not repaired yet */
    uint64_t lag_records_max, lag_ms_max;
};
void replication_totals(struct replication *r, struct replication_totals *ret);

#endif
