/* What the files of the state machine share. */
#ifndef GM_CLUSTER_TOPOLOGY_STATE_PRIVATE_H
#define GM_CLUSTER_TOPOLOGY_STATE_PRIVATE_H

#include "cluster/topology/object.h"
#include "cluster/topology/partition.h"
#include "cluster/topology/state.h"

/* state.c */
void topo_retire_object(struct topo_state *s, void *object);
struct topology_change *topo_add_change(struct topo_state *s, enum topology_change_kind kind, struct slice name);
/* Removes the queues, and of exchanges those, that `gone` names; with what hangs on them. */
void topo_remove_queues(struct topo_state *s, bool (*gone)(const struct topo_queue *q, const void *arg), const void *arg);
void topo_remove_transient_exchanges(struct topo_state *s);

/* state_node.c */
int topo_apply_node_register(struct topo_state *s, struct reader *r, struct topo_result *ret);
int topo_apply_node_enter(struct topo_state *s, struct reader *r, struct topo_result *ret);
int topo_apply_node_drain(struct topo_state *s, struct reader *r);
int topo_apply_node_state(struct topo_state *s, struct reader *r);
int topo_apply_node_endpoints(struct topo_state *s, struct reader *r);
int topo_apply_node_remove(struct topo_state *s, struct reader *r);
int topo_apply_cluster_settings(struct topo_state *s, struct reader *r);

/* state_partition.c */
int topo_apply_partitions_place(struct topo_state *s, struct reader *r);
int topo_apply_partition_change(struct topo_state *s, struct reader *r, struct topo_result *ret);
int topo_apply_partition_insync(struct topo_state *s, struct reader *r, struct topo_result *ret);
int topo_apply_partition_damaged(struct topo_state *s, struct reader *r);
/* The node stops serving what it serves: it leaves in-sync sets and its leaderships go to others (R26 to R30, D7). */
void topo_partitions_without(struct topo_state *s, uint32_t node, bool unclean);
/* Leaders for what has none, after a node became alive. */
void topo_partitions_elect(struct topo_state *s);
/* Takes the node out of every set; false, and nothing changed, when a partition would lose its last copy. */
bool topo_partitions_forget(struct topo_state *s, uint32_t node);

#endif
