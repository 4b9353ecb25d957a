/* Encoders of the topology's commands: each appends one command to `out` (a proposal's buffer). Strings are copied. The answer's errors are named beside each. Pure; any thread. */
#ifndef GM_CLUSTER_TOPOLOGY_COMMANDS_H
#define GM_CLUSTER_TOPOLOGY_COMMANDS_H

#include "cluster/topology/topology.h"

enum topo_command {
#define X(name, number, since) TOPO_CMD_##name = number,
#include "cluster/topology/commands.def"
#undef X
};
const char *topo_command_name(unsigned number); /* NULL: unknown */
unsigned topo_command_since(unsigned number);   /* the level that introduced it; 0: unknown */

/* A new cluster: the default vhost "/", user guest/guest with all permissions, the predeclared exchanges. ERR_EXISTS. */
void topo_cmd_form(struct buf *out, const uint8_t cluster_id[16], uint32_t total_partitions, uint32_t level, const uint8_t salt[4]);
/* As builds of level 1 wrote it; only replayed. */
void topo_cmd_node_register(struct buf *out, uint32_t id, const uint8_t uuid[16], struct slice name, bool alone);

/* A node starts: `n` gives id (0: new, answer: id), uuid, name, rack, level, unclean, endpoints. A uuid that is known keeps its id; ERR_MISMATCH: the id belongs to another uuid; ERR_LEVEL as an answer never comes (a node too
 * old stops). Raises the node's epoch; its exclusive queues of former epochs go, and, alone (a group of one), everything else that is not durable. Alone it is ACTIVE and keeps its leaderships; otherwise it is JOINING or
 * FENCED until the controller hears it, and what it led is led by others (rule 20). An unclean one leaves in-sync and eligible sets (D7). The level becomes the lowest of all nodes' if that is higher. */
void topo_cmd_node_enter(struct buf *out, const struct topo_node *n, bool alone);
/* The controller's, for the epoch it saw: ERR_NOT_FOUND, ERR_FENCED (another epoch). Fencing takes the node's exclusive queues of that epoch, removes it from all in-sync sets by R28 and elects leaders, all in this entry;
 * activating elects leaders for partitions that had none. The flags replace those of topo_node. */
enum topo_node_flags { TOPO_NODE_LEASE_MAY_RUN = 1, TOPO_NODE_SLOW = 2, TOPO_NODE_CLOCK_OFF = 4 };
void topo_cmd_node_state(struct buf *out, uint32_t id, uint64_t epoch, enum topo_node_state state, unsigned flags);
/* Other endpoints within the same epoch (a listener opened on a port the system chose). ERR_NOT_FOUND, ERR_FENCED. */
void topo_cmd_node_endpoints(struct buf *out, uint32_t id, uint64_t epoch, const struct topo_endpoint endpoints[TOPO_LISTENERS]);
/* An administrator's wish. ERR_NOT_FOUND; ERR_IN_USE: no other node is active. An active node is DRAINING from then on, and whenever it comes back; TOPO_DRAIN_NONE ends it. */
void topo_cmd_node_drain(struct buf *out, uint32_t id, enum topo_drain drain);
/* For good; its id is never used again. ERR_NOT_FOUND; ERR_IN_USE: it is active and still has replicas, or a partition would lose its last copy. */
void topo_cmd_node_remove(struct buf *out, uint32_t id);
/* 0: keep the default. ERR_INVALID. */
void topo_cmd_cluster_settings(struct buf *out, uint32_t replication_factor, uint32_t min_insync);

/* ---- partitions: the controller computes them, the state machine checks them -------------------------------------------- */
/* A record spelled out: what a change makes of it. Epoch and version follow by themselves. */
struct topo_partition_change {
    uint32_t index;
    uint32_t version; /* the one it was computed from; another: ERR_MISMATCH */
    uint32_t leader;
    bool unclean;     /* may elect whom neither set allows, and take replicas from nowhere: rule 19, an administrator's word */
    struct topo_replica_set replicas, insync, eligible, last_known, adding;
};
void topo_change_of(struct topo_partition_change *c, const struct topo_partition *p);
/* The first placement: total_partitions sets; the first of each leads at epoch 1, all are in sync, since all are empty. ERR_EXISTS; ERR_INVALID: a wrong count, an unknown node, a repeated one. */
void topo_cmd_partitions_place(struct buf *out, const struct topo_replica_set *replicas, uint32_t count);
/* Each a compare-and-set of its own; the answer is the first error, `id` how many were applied. `by` is the proposing node: leadership is taken from a leader that is not fenced only by itself (rule 21): ERR_NOT_LEADER.
 * ERR_INVALID: the leader is not of the in-sync set (or, that empty, an eligible one), a member joins the in-sync set otherwise than by PARTITION_INSYNC, a set is not of the members, a replica comes from nowhere. */
void topo_cmd_partition_change(struct buf *out, uint32_t by, const struct topo_partition_change *changes, uint32_t count);
/* From a partition's leader, checked in the order of R24. Who leaves becomes eligible by R28, who was being added becomes a replica. ERR_NOT_FOUND; ERR_AGAIN: epoch or version are newer than ours; ERR_FENCED: the sender's
 * node epoch or the leader epoch is old; ERR_INVALID: the sender does not lead, or the set is not of the members or lacks the leader; ERR_MISMATCH: the version is old; ERR_INELIGIBLE: a member that joins is not active, is to lose its replicas, is slow or of
 * another epoch. The answer's id is the new version. */
struct topo_insync_request {
    uint32_t node;       /* the sender */
    uint64_t node_epoch;
    uint32_t partition;
    int32_t leader_epoch;
    uint32_t version;
    struct topo_replica_set insync;
    uint64_t epochs[TOPO_REPLICAS_MAX]; /* node epochs of its members as the leader knows them (KIP-903) */
};
void topo_cmd_partition_insync(struct buf *out, const struct topo_insync_request *q);
/* From a replica that has stopped serving this partition: its copy is damaged below what it vouched for (D6). It leaves every set; what it led is led by another of them, and where neither the in-sync nor the eligible set has
 * anybody left, nobody leads by what the sets say, rule 19 included: an administrator decides. The record's version rises in any case, so that no change of the in-sync set from before counts the copy in again. Afterwards the
 * node may throw the copy away. ERR_NOT_FOUND: no such partition, or not a member of it; ERR_FENCED: the node's epoch is old; ERR_IN_USE: it is the only replica there is. */
void topo_cmd_partition_damaged(struct buf *out, uint32_t node, uint64_t node_epoch, uint32_t partition);

/* ERR_EXISTS. Also creates the predeclared exchanges ("", amq.direct, amq.fanout, amq.topic, amq.headers, amq.match, amq.rabbitmq.trace) of the vhost. */
void topo_cmd_vhost_add(struct buf *out, struct slice name);
/* ERR_NOT_FOUND. Its exchanges, queues, bindings and permissions go with it. */
void topo_cmd_vhost_delete(struct buf *out, struct slice name);
/* Adds or replaces. hash = SHA-256(salt + password). */
void topo_cmd_user_put(struct buf *out, struct slice name, const uint8_t salt[4], const uint8_t hash[32], struct slice tags);
void topo_cmd_user_delete(struct buf *out, struct slice name); /* ERR_NOT_FOUND */
void topo_cmd_permission_put(struct buf *out, struct slice user, struct slice vhost, struct slice configure, struct slice write, struct slice read); /* ERR_NOT_FOUND */
void topo_cmd_permission_delete(struct buf *out, struct slice user, struct slice vhost);

/* Exists equal (type, durable, auto_delete, internal, args): 0 and its id; exists otherwise: ERR_MISMATCH. ERR_NOT_FOUND: no such vhost. */
void topo_cmd_exchange_declare(struct buf *out, struct slice vhost, struct slice name, enum topo_exchange_type type, bool durable, bool auto_delete, bool internal,
                               struct slice args);
/* ERR_NOT_FOUND; with if_unused ERR_IN_USE when it has bindings. */
void topo_cmd_exchange_delete(struct buf *out, struct slice vhost, struct slice name, bool if_unused);
/* As for exchanges. A queue that is exclusive to another (node, node epoch) is the front end's to refuse (it knows the connections): ERR_LOCKED only for another node. */
void topo_cmd_queue_declare(struct buf *out, struct slice vhost, struct slice name, bool durable, bool exclusive, bool auto_delete, uint32_t owner_node, uint64_t owner_node_epoch,
                            struct slice args);
/* By id, so that a queue declared anew meanwhile is left alone; ERR_NOT_FOUND. Auto-delete exchanges that lose their last binding go too. */
void topo_cmd_queue_delete(struct buf *out, uint64_t queue_id);
/* Binding twice is one binding: 0. ERR_NOT_FOUND: source or destination is gone. Args take part in a binding's identity. */
void topo_cmd_bind(struct buf *out, uint64_t source_id, enum topo_binding_kind kind, uint64_t destination_id, struct slice routing_key, struct slice args);
/* Unbinding what is not bound: 0, as RabbitMQ. */
void topo_cmd_unbind(struct buf *out, uint64_t source_id, enum topo_binding_kind kind, uint64_t destination_id, struct slice routing_key, struct slice args);

/* ERR_EXISTS (answer's id: the existing one), ERR_INVALID (partitions 0 or above 100,000). configs: lslice name, lslice value pairs. */
void topo_cmd_topic_create(struct buf *out, struct slice name, const uint8_t uuid[16], uint32_t partitions, int16_t replication_factor, struct slice configs);
void topo_cmd_topic_delete(struct buf *out, struct slice name);                           /* ERR_NOT_FOUND */
void topo_cmd_topic_partitions(struct buf *out, struct slice name, uint32_t partitions); /* ERR_NOT_FOUND, ERR_INVALID unless it grows */
/* Replaces the whole set. ERR_NOT_FOUND. */
void topo_cmd_topic_configs(struct buf *out, struct slice name, struct slice configs);
/* A block of `count` producer ids for this node; answer: producer_id = the first (rule 14). */
void topo_cmd_allocate_producer_ids(struct buf *out, uint32_t count);

void topo_cmd_config_put(struct buf *out, struct slice name, struct slice value);
void topo_cmd_config_delete(struct buf *out, struct slice name); /* ERR_NOT_FOUND */

#endif
