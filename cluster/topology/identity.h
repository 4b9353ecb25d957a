/* Who a data directory belongs to: data_dir/node.id, text, written before anything else (rules 9, 10, 22).
 *
 *   cluster_id: 32 hex digits
 *   node_uuid: 32 hex digits
 *   level: the highest feature level that wrote here
 *   formed: yes once the topology exists
 */
#ifndef GM_CLUSTER_TOPOLOGY_IDENTITY_H
#define GM_CLUSTER_TOPOLOGY_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

struct identity {
    uint8_t cluster_id[16];
    uint8_t node_uuid[16];
    uint32_t level;
    bool formed;
};

/* ERR_NOT_FOUND: a new directory; ERR_CORRUPT; ERR_LEVEL: written by a newer version. */
int identity_load(const char *data_dir, struct identity *ret);
int identity_save(const char *data_dir, const struct identity *id);
void identity_hex(const uint8_t id[16], char text[33]);

#endif
