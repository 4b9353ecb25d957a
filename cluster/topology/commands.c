#include "cluster/topology/commands.h"

#include "base/check.h"

static const char *const names[256] = {
#define X(name, number, since) [number] = #name,
#include "cluster/topology/commands.def"
#undef X
};

static const uint8_t sinces[256] = {
#define X(name, number, since) [number] = since,
#include "cluster/topology/commands.def"
#undef X
};

unsigned topo_command_since(unsigned number)
{
    return number < ARRAY_LEN(sinces) ? sinces[number] : 0;
}

const char *topo_command_name(unsigned number)
{
    return number < ARRAY_LEN(names) ? names[number] : NULL;
}

void topo_cmd_form(struct buf *out, const uint8_t cluster_id[16], uint32_t total_partitions, uint32_t level,
                   const uint8_t salt[4])
{
    buf_put_u8(out, TOPO_CMD_FORM);
    buf_put(out, cluster_id, 16);
    buf_put_be32(out, total_partitions);
    buf_put_be32(out, level);
    buf_put(out, salt, 4);
}

void topo_cmd_node_register(struct buf *out, uint32_t id, const uint8_t uuid[16], struct slice name, bool alone)
{
    buf_put_u8(out, TOPO_CMD_NODE_REGISTER);
    buf_put_be32(out, id);
    buf_put(out, uuid, 16);
    buf_put_lslice(out, name);
    buf_put_u8(out, alone);
}

static void put_named(struct buf *out, enum topo_command cmd, struct slice name)
{
    buf_put_u8(out, (uint8_t)cmd);
    buf_put_lslice(out, name);
}

void topo_cmd_vhost_add(struct buf *out, struct slice name)
{
    put_named(out, TOPO_CMD_VHOST_ADD, name);
}

void topo_cmd_vhost_delete(struct buf *out, struct slice name)
{
    put_named(out, TOPO_CMD_VHOST_DELETE, name);
}

void topo_cmd_user_put(struct buf *out, struct slice name, const uint8_t salt[4], const uint8_t hash[32],
                       struct slice tags)
{
    put_named(out, TOPO_CMD_USER_PUT, name);
    buf_put(out, salt, 4);
    buf_put(out, hash, 32);
    buf_put_lslice(out, tags);
}

void topo_cmd_user_delete(struct buf *out, struct slice name)
{
    put_named(out, TOPO_CMD_USER_DELETE, name);
}

void topo_cmd_permission_put(struct buf *out, struct slice user, struct slice vhost, struct slice configure,
                             struct slice write, struct slice read)
{
    put_named(out, TOPO_CMD_PERMISSION_PUT, user);
    buf_put_lslice(out, vhost);
    buf_put_lslice(out, configure);
    buf_put_lslice(out, write);
    buf_put_lslice(out, read);
}

void topo_cmd_permission_delete(struct buf *out, struct slice user, struct slice vhost)
{
    put_named(out, TOPO_CMD_PERMISSION_DELETE, user);
    buf_put_lslice(out, vhost);
}

void topo_cmd_exchange_declare(struct buf *out, struct slice vhost, struct slice name, enum topo_exchange_type type,
                               bool durable, bool auto_delete, bool internal, struct slice args)
{
    put_named(out, TOPO_CMD_EXCHANGE_DECLARE, vhost);
    buf_put_lslice(out, name);
    buf_put_u8(out, (uint8_t)type);
    buf_put_u8(out, (uint8_t)(durable | auto_delete << 1 | internal << 2));
    buf_put_lslice(out, args);
}

void topo_cmd_exchange_delete(struct buf *out, struct slice vhost, struct slice name, bool if_unused)
{
    put_named(out, TOPO_CMD_EXCHANGE_DELETE, vhost);
    buf_put_lslice(out, name);
    buf_put_u8(out, if_unused);
}

void topo_cmd_queue_declare(struct buf *out, struct slice vhost, struct slice name, bool durable, bool exclusive,
                            bool auto_delete, uint32_t owner_node, uint64_t owner_node_epoch, struct slice args)
{
    put_named(out, TOPO_CMD_QUEUE_DECLARE, vhost);
    buf_put_lslice(out, name);
    buf_put_u8(out, (uint8_t)(durable | exclusive << 1 | auto_delete << 2));
    buf_put_be32(out, owner_node);
    buf_put_be64(out, owner_node_epoch);
    buf_put_lslice(out, args);
}

void topo_cmd_queue_delete(struct buf *out, uint64_t queue_id)
{
    buf_put_u8(out, TOPO_CMD_QUEUE_DELETE);
    buf_put_be64(out, queue_id);
}

static void put_binding(struct buf *out, enum topo_command cmd, uint64_t source_id, enum topo_binding_kind kind,
                        uint64_t destination_id, struct slice routing_key, struct slice args)
{
    buf_put_u8(out, (uint8_t)cmd);
    buf_put_be64(out, source_id);
    buf_put_u8(out, (uint8_t)kind);
    buf_put_be64(out, destination_id);
    buf_put_lslice(out, routing_key);
    buf_put_lslice(out, args);
}

void topo_cmd_bind(struct buf *out, uint64_t source_id, enum topo_binding_kind kind, uint64_t destination_id,
                   struct slice routing_key, struct slice args)
{
    put_binding(out, TOPO_CMD_BIND, source_id, kind, destination_id, routing_key, args);
}

void topo_cmd_unbind(struct buf *out, uint64_t source_id, enum topo_binding_kind kind, uint64_t destination_id,
                     struct slice routing_key, struct slice args)
{
    put_binding(out, TOPO_CMD_UNBIND, source_id, kind, destination_id, routing_key, args);
}

void topo_cmd_topic_create(struct buf *out, struct slice name, const uint8_t uuid[16], uint32_t partitions,
                           int16_t replication_factor, struct slice configs)
{
    put_named(out, TOPO_CMD_TOPIC_CREATE, name);
    buf_put(out, uuid, 16);
    buf_put_be32(out, partitions);
    buf_put_be16(out, (uint16_t)replication_factor);
    buf_put_lslice(out, configs);
}

void topo_cmd_topic_delete(struct buf *out, struct slice name)
{
    put_named(out, TOPO_CMD_TOPIC_DELETE, name);
}

void topo_cmd_topic_partitions(struct buf *out, struct slice name, uint32_t partitions)
{
    put_named(out, TOPO_CMD_TOPIC_PARTITIONS, name);
    buf_put_be32(out, partitions);
}

void topo_cmd_topic_configs(struct buf *out, struct slice name, struct slice configs)
{
    put_named(out, TOPO_CMD_TOPIC_CONFIGS, name);
    buf_put_lslice(out, configs);
}

void topo_cmd_allocate_producer_ids(struct buf *out, uint32_t count)
{
    buf_put_u8(out, TOPO_CMD_ALLOCATE_PRODUCER_IDS);
    buf_put_be32(out, count);
}

void topo_cmd_config_put(struct buf *out, struct slice name, struct slice value)
{
    put_named(out, TOPO_CMD_CONFIG_PUT, name);
    buf_put_lslice(out, value);
}

void topo_cmd_config_delete(struct buf *out, struct slice name)
{
    put_named(out, TOPO_CMD_CONFIG_DELETE, name);
}

static void put_endpoints(struct buf *out, const struct topo_endpoint endpoints[TOPO_LISTENERS])
{
    for (unsigned i = 0; i < TOPO_LISTENERS; i++) {
        buf_put_lslice(out, endpoints[i].host);
        buf_put_be16(out, endpoints[i].port);
    }
}

void topo_cmd_node_enter(struct buf *out, const struct topo_node *n, bool alone)
{
    buf_put_u8(out, TOPO_CMD_NODE_ENTER);
    buf_put_be32(out, n->id);
    buf_put(out, n->uuid, 16);
    buf_put_lslice(out, n->name);
    buf_put_lslice(out, n->rack);
    buf_put_be32(out, n->level);
    buf_put_u8(out, n->unclean);
    put_endpoints(out, n->endpoints);
    buf_put_u8(out, alone);
}

void topo_cmd_node_endpoints(struct buf *out, uint32_t id, uint64_t epoch, const struct topo_endpoint endpoints[TOPO_LISTENERS])
{
    buf_put_u8(out, TOPO_CMD_NODE_ENDPOINTS);
    buf_put_be32(out, id);
    buf_put_be64(out, epoch);
    put_endpoints(out, endpoints);
}

void topo_cmd_node_state(struct buf *out, uint32_t id, uint64_t epoch, enum topo_node_state state, unsigned flags)
{
    buf_put_u8(out, TOPO_CMD_NODE_STATE);
    buf_put_be32(out, id);
    buf_put_be64(out, epoch);
    buf_put_u8(out, (uint8_t)state);
    buf_put_u8(out, (uint8_t)flags);
}

void topo_cmd_node_drain(struct buf *out, uint32_t id, enum topo_drain drain)
{
    buf_put_u8(out, TOPO_CMD_NODE_DRAIN);
    buf_put_be32(out, id);
    buf_put_u8(out, (uint8_t)drain);
}

void topo_cmd_node_remove(struct buf *out, uint32_t id)
{
    buf_put_u8(out, TOPO_CMD_NODE_REMOVE);
    buf_put_be32(out, id);
}

void topo_cmd_cluster_settings(struct buf *out, uint32_t replication_factor, uint32_t min_insync)
{
    buf_put_u8(out, TOPO_CMD_CLUSTER_SETTINGS);
    buf_put_be32(out, replication_factor);
    buf_put_be32(out, min_insync);
}

static void put_set(struct buf *out, const struct topo_replica_set *s)
{
    buf_put_u8(out, s->count);
    for (unsigned i = 0; i < s->count; i++)
        buf_put_be32(out, s->nodes[i]);
}

void topo_cmd_partitions_place(struct buf *out, const struct topo_replica_set *replicas, uint32_t count)
{
    buf_put_u8(out, TOPO_CMD_PARTITIONS_PLACE);
    buf_put_be32(out, count);
    for (uint32_t i = 0; i < count; i++)
        put_set(out, &replicas[i]);
}

void topo_cmd_partition_change(struct buf *out, uint32_t by, const struct topo_partition_change *changes, uint32_t count)
{
    buf_put_u8(out, TOPO_CMD_PARTITION_CHANGE);
    buf_put_be32(out, by);
    buf_put_be32(out, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct topo_partition_change *c = &changes[i];

        buf_put_be32(out, c->index);
        buf_put_be32(out, c->version);
        buf_put_be32(out, c->leader);
        buf_put_u8(out, c->unclean);
        put_set(out, &c->replicas);
        put_set(out, &c->insync);
        put_set(out, &c->eligible);
        put_set(out, &c->last_known);
        put_set(out, &c->adding);
    }
}

void topo_cmd_partition_insync(struct buf *out, const struct topo_insync_request *q)
{
    buf_put_u8(out, TOPO_CMD_PARTITION_INSYNC);
    buf_put_be32(out, q->node);
    buf_put_be64(out, q->node_epoch);
    buf_put_be32(out, q->partition);
    buf_put_be32(out, (uint32_t)q->leader_epoch);
    buf_put_be32(out, q->version);
    put_set(out, &q->insync);
    for (unsigned i = 0; i < q->insync.count; i++)
        buf_put_be64(out, q->epochs[i]);
}

void topo_cmd_partition_damaged(struct buf *out, uint32_t node, uint64_t node_epoch, uint32_t partition)
{
    buf_put_u8(out, TOPO_CMD_PARTITION_DAMAGED);
    buf_put_be32(out, node);
    buf_put_be64(out, node_epoch);
    buf_put_be32(out, partition);
}
