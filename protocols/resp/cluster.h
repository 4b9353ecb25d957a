/* What a cluster adds to RESP: whose slot a key is, and what a client is told that asked the wrong node.
 * https://redis.io/docs/reference/cluster-spec
 *
 * A partition is a contiguous range of slots, so a slot is never half here and half there: there is no ASK
 * phase, ASKING is accepted and changes nothing. The way to the right node costs a command nothing: it tries
 * the partition, and only when that refuses (ERR_NOT_LEADER and its kin) the topology is asked who leads.
 *
 * A partition that is being opened here is worth waiting for: the session is parked for a moment and tries
 * again (cluster_retry), for OPENING_MAX_MS at most.
 *
 * On the session's worker. On a node alone (no cluster mode) nothing of this is called. */
#ifndef GM_RESP_CLUSTER_H
#define GM_RESP_CLUSTER_H

#include "cluster/topology/topology.h"
#include "protocols/resp/exec.h"

#define CLUSTER_SLOTS 16384u
#define CLUSTER_NO_SLOT UINT32_MAX

struct cluster_retry;

static inline bool cluster_on(const struct resp_front *f)
{
    return f->o.cluster_mode;
}
/* This node leads the partition at this moment (its lease apart). */
bool cluster_leads(const struct resp_front *f, uint32_t partition);

/* The common slot of argv[first..last] step; false: "CROSSSLOT …" was written. */
bool cluster_common_slot(struct exec *x, uint32_t first, uint32_t last, uint32_t step, uint32_t *ret_slot);
/* A partition could not be entered or left: writes MOVED, CLUSTERDOWN or the error's words; or sets
 * x->outcome to EXEC_PARKED, when it is worth trying again in a moment. `may_wait`: nothing was done yet. */
void cluster_refuse(struct exec *x, uint32_t slot, int err, bool may_wait);
/* Whether the command, queued in a transaction or about a shard channel, is for this node at all: else MOVED,
 * CLUSTERDOWN or CROSSSLOT was written. `replica_too`: a replica will do. */
bool cluster_check_here(struct exec *x, uint32_t slot, bool replica_too);

/* The session waits for an opening partition no more (it got through, or goes away). */
void cluster_retry_end(struct session *s);
void cluster_retry_free(struct session *s);

/* Where a node is told to be: what it advertises, of ourselves else the address the client reached. False:
 * that node has no RESP listener. */
bool cluster_node_address(struct session *s, const struct topo_node *n, char *host, size_t size, uint16_t *ret_port);
/* First and last slot of a partition. */
void cluster_partition_slots(uint32_t partition, uint32_t partitions, uint32_t *ret_first, uint32_t *ret_last);

#endif
