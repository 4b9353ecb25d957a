/* Making the topology's objects: each is one allocation with its strings behind it. Private to cluster/topology. The insert functions put one into the
 * maps of a state; what it replaces is retired. */
#ifndef GM_CLUSTER_TOPOLOGY_OBJECT_H
#define GM_CLUSTER_TOPOLOGY_OBJECT_H

#include "cluster/topology/state.h"

struct topo_vhost *topo_vhost_new(uint64_t id, struct slice name);
struct topo_user *topo_user_new(struct slice name, const uint8_t salt[4], const uint8_t hash[32], struct slice tags);
struct topo_user *topo_user_new_password(struct slice name, const uint8_t salt[4], struct slice password, struct slice tags);
struct topo_permission *topo_permission_new(struct slice user, struct slice vhost, struct slice configure, struct slice write, struct slice read);
struct topo_exchange *topo_exchange_new(uint64_t id, uint64_t vhost_id, struct slice vhost, struct slice name, enum topo_exchange_type type, bool durable,
                                        bool auto_delete, bool internal, bool had_binding, struct slice args);
struct topo_queue *topo_queue_new(uint64_t id, uint64_t vhost_id, struct slice vhost, struct slice name, bool durable, bool exclusive, bool auto_delete,
                                  uint32_t owner_node, uint64_t owner_node_epoch, uint32_t partition, struct slice args);
struct topo_binding *topo_binding_new(uint64_t source_id, enum topo_binding_kind kind, uint64_t destination_id, struct slice routing_key, struct slice args);
struct topo_topic *topo_topic_new(uint64_t id, const uint8_t uuid[16], struct slice name, uint32_t partitions, int16_t replication_factor, struct slice configs);
struct topo_node *topo_node_copy(const struct topo_node *n);
struct topo_config_item *topo_config_item_new(struct slice name, struct slice value);

void topo_insert_vhost(struct topo_state *s, struct topo_vhost *o);
void topo_insert_user(struct topo_state *s, struct topo_user *o);
void topo_insert_permission(struct topo_state *s, struct topo_permission *o);
void topo_insert_exchange(struct topo_state *s, struct topo_exchange *o);
void topo_insert_queue(struct topo_state *s, struct topo_queue *o);
void topo_insert_binding(struct topo_state *s, struct topo_binding *o);
void topo_insert_topic(struct topo_state *s, struct topo_topic *o);
void topo_insert_node(struct topo_state *s, struct topo_node *o);
void topo_insert_config(struct topo_state *s, struct topo_config_item *o);

/* SHA-256(salt + password) into hash. */
void topo_password_hash(const uint8_t salt[4], struct slice password, uint8_t hash[32]);

#endif
