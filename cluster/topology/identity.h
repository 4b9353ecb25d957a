/* Who a data directory belongs to: data_dir/node.id, text, written before anything else (rules 9, 10, 22).
 *
 *   cluster_id: 32 hex digits
 *   node_uuid: 32 hex digits
 *   level: the highest feature level that wrote here: the topology's. It rises when that does, before anything of it is written, so that an older build can be put back until then, and says why it refuses from then on
 *   formed: yes once the topology exists
 *   node_id: as the cluster gave it; 0, or missing as in versions before clusters: not known, or the only node
 *   epoch: the latest node epoch that a start on this disk may have been registered with, written before it is asked for; 0 or missing: not known. The topology never knows a later one, unless this is an old copy of the disk
 *
 * A cluster id and a node id with `formed: no` is a promise: this node was founded with that cluster and has not begun yet (forming.c).
 */
#ifndef GM_CLUSTER_TOPOLOGY_IDENTITY_H
#define GM_CLUSTER_TOPOLOGY_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct identity {
    uint8_t cluster_id[16];
    uint8_t node_uuid[16];
    uint32_t level;
    bool formed;
    uint32_t node_id;
    uint64_t epoch;
};

/* ERR_NOT_FOUND: a new directory; ERR_CORRUPT; ERR_LEVEL: written by a newer version. */
int identity_load(const char *data_dir, struct identity *ret);
/* The same, or makes a new one (a chance uuid, no cluster) and writes it. On an error the reason stands in why[size]. */
int identity_open(const char *data_dir, struct identity *ret, char *why, size_t size);
int identity_save(const char *data_dir, const struct identity *id);
void identity_hex(const uint8_t id[16], char text[33]);

#endif
