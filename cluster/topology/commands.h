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

/* A new cluster: the default vhost "/", user guest/guest with all permissions, the predeclared exchanges. ERR_EXISTS. */
void topo_cmd_form(struct buf *out, const uint8_t cluster_id[16], uint32_t total_partitions, uint32_t level, const uint8_t salt[4]);
/* id 0: a new node (answer: id). Raises the epoch. */
void topo_cmd_node_register(struct buf *out, uint32_t id, const uint8_t uuid[16], struct slice name, bool alone);

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
