/* What survives of consumer groups, in the internal database of the partition a group hashes to: a hash
 * "group:<id>" with the field
 *
 *   m                    the group: version 1 | be32 generation | texts type, protocol, leader (length + 1, 0
 * = null) | zigzag empty since (wall ms) | members: texts id, instance, client id, host; uvarint timeouts;
 * protocols (name, metadata); assignment o be32 p, topic      an offset: be64 topic id | be64 offset | be32
 * leader epoch | be64 commit time | metadata
 *
 * Offsets name the topic id as well: those of a topic deleted and made anew do not count. Under the
 * partition's lock; ctx->db is KV_DB_INTERNAL. */
#ifndef GM_STREAM_GROUP_STORE_H
#define GM_STREAM_GROUP_STORE_H

#include "kv/kv.h"
#include "stream/group.h"

struct group_offset {
    uint64_t topic_id;
    int64_t offset;
    int32_t leader_epoch; /* -1: not told */
    int64_t commit_ms;
    struct slice metadata; /* borrowed from the store */
};

/* The group from memory, else from the store; NULL when there is none. Members that come from the store have
 * their sessions begun anew. */
struct group *group_load(struct kv_ctx *c, struct groups *gs, struct slice id, uint64_t now_ms);
/* Loads every group of this partition, for listings. */
void group_load_all(struct kv_ctx *c, struct groups *gs, uint64_t now_ms);
/* Stores the group when it changed and is not amid a rebalance. wall_ms: when a group became empty is kept. */
void group_save(struct kv_ctx *c, struct group *g, int64_t wall_ms);
/* Everything of the group, offsets included. */
void group_erase(struct kv_ctx *c, struct slice id);

void group_offset_put(struct kv_ctx *c, struct slice group, struct slice topic, uint32_t partition,
                      const struct group_offset *o);
/* False: none. */
bool group_offset_get(struct kv_ctx *c, struct slice group, struct slice topic, uint32_t partition,
                      struct group_offset *ret);
bool group_offset_delete(struct kv_ctx *c, struct slice group, struct slice topic, uint32_t partition);
/* In no order; fn must not change the store. */
void group_offset_each(struct kv_ctx *c, struct slice group,
                       void (*fn)(struct slice topic, uint32_t partition, const struct group_offset *o,
                                  void *arg),
                       void *arg);

/* The codec of field m, for the test. */
void group_encode(const struct group *g, struct buf *out);
int group_decode(struct group *g, struct slice bytes); /* into a new group; ERR_CORRUPT */

#endif
