/* Partition records: packing, the table of them, and the arithmetic of sets that the state machine and the controller's plan share. Pure. Private to cluster/topology and cluster/member.
 *
 * The table is immutable once published: an edit copies the array of chunk pointers and each chunk it changes, once, and retires what it replaced. A chunk has eight records side by side, so that 1,000 partitions take
 * 58 KB and finding one is two loads. */
#ifndef GM_CLUSTER_TOPOLOGY_PARTITION_H
#define GM_CLUSTER_TOPOLOGY_PARTITION_H

#include "cluster/topology/commands.h"

#define TOPO_CHUNK 8
struct topo_partition_chunk {
    struct topo_partition records[TOPO_CHUNK];
};
struct topo_partition_table {
    uint32_t count;
    const struct topo_partition_chunk *chunks[];
};

/* Bytes it takes for so many partitions. */
size_t topo_partition_table_bytes(uint32_t count);

/* One edit: begin (from NULL: `count` empty records), put records, then take `table`. `retire` gets what the former version alone reaches. */
struct topo_partition_edit {
    struct topo_partition_table *from, *table;
    void (*retire)(void *arg, void *object);
    void *arg;
};
void topo_partition_edit_begin(struct topo_partition_edit *e, struct topo_partition_table *from, uint32_t count);
void topo_partition_edit_put(struct topo_partition_edit *e, const struct topo_partition *p);
void topo_partition_table_free(struct topo_partition_table *t);

/* From the spelled out form, whose sets are subsets of replicas and adding; epoch, version and index are the caller's. */
void topo_partition_pack(struct topo_partition *p, const struct topo_partition_change *c);

/* The node may lead and be in sync. A draining one leads only when nobody else can. */
bool topo_node_alive(const struct topo_node *n);
/* Its replicas are to be placed elsewhere, alive or not. */
bool topo_node_leaves(const struct topo_node *n);
unsigned topo_node_flags_of(const struct topo_node *n); /* enum topo_node_flags */
/* Replicas counted by rule 12b and the bar that follows. */
uint32_t topo_min_insync_of(const struct topology *v, unsigned replicas);
/* Takes a node out of the in-sync set by R28 (it becomes eligible when the set falls below min_insync, or when its last clean member leaves), and, unclean, out of the eligible set too, to be remembered in last_known (rule 19).
 * False: it was in neither. */
bool topo_change_drop(const struct topology *v, struct topo_partition_change *c, uint32_t node, bool unclean);
/* An in-sync set of min_insync clears the eligible one (R28). */
void topo_change_settle(const struct topology *v, struct topo_partition_change *c);
/* R26, R30: keeps a leader that is alive and in sync; else the first live one of the in-sync set in order of preference; that set empty, of the eligible set; both empty, the only one of last_known. Else 0. `not` is passed over
 * (0: nobody). */
void topo_change_elect(const struct topology *v, struct topo_partition_change *c, uint32_t not);

#endif
