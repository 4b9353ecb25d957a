/* The whole topology as bytes, for the Raft log's snapshots.
 *
 *   be32 level, be64 index, 16 cluster id, be32 partitions, be64 next id, be64 next producer id, then objects: a letter and its fields, ended by 'E'.
 *
 * From level 2 on (rule 10: written only when the topology is there): 'n' instead of 'N', 'S' the cluster's settings, 'R' a partition's record. */
#include "base/err.h"
#include "cluster/topology/object.h"
#include "cluster/topology/partition.h"
#include "log/effect.h"

#define EACH(map, type, body)                                                                                \
    static bool encode_##map(struct slice key, void *value, void *arg)                                       \
    {                                                                                                        \
        const struct type *o = value;                                                                        \
        struct buf *b = arg;                                                                                 \
        (void)key;                                                                                           \
        body;                                                                                                \
        return true;                                                                                         \
    }

EACH(nodes, topo_node, {
    buf_put_u8(b, 'n');
    buf_put_be32(b, o->id);
    buf_put(b, o->uuid, 16);
    buf_put_be64(b, o->epoch);
    buf_put_be32(b, o->level);
    buf_put_u8(b, (uint8_t)o->state);
    buf_put_u8(b, (uint8_t)(o->unclean | topo_node_flags_of(o) << 1 | (unsigned)o->drain << 4));
    buf_put_lslice(b, o->name);
    buf_put_lslice(b, o->rack);
    for (unsigned i = 0; i < TOPO_LISTENERS; i++) {
        buf_put_lslice(b, o->endpoints[i].host);
        buf_put_be16(b, o->endpoints[i].port);
    }
})
EACH(nodes_of_level_1, topo_node, {
    buf_put_u8(b, 'N');
    buf_put_be32(b, o->id);
    buf_put(b, o->uuid, 16);
    buf_put_be64(b, o->epoch);
    buf_put_lslice(b, o->name);
})
EACH(vhosts, topo_vhost, {
    buf_put_u8(b, 'V');
    buf_put_be64(b, o->id);
    buf_put_lslice(b, o->name);
})
EACH(users, topo_user, {
    buf_put_u8(b, 'U');
    buf_put(b, o->salt, 4);
    buf_put(b, o->hash, 32);
    buf_put_lslice(b, o->name);
    buf_put_lslice(b, o->tags);
})
EACH(permissions, topo_permission, {
    buf_put_u8(b, 'P');
    buf_put_lslice(b, o->user);
    buf_put_lslice(b, o->vhost);
    buf_put_lslice(b, o->configure);
    buf_put_lslice(b, o->write);
    buf_put_lslice(b, o->read);
})
EACH(exchanges, topo_exchange, {
    buf_put_u8(b, 'X');
    buf_put_be64(b, o->id);
    buf_put_be64(b, o->vhost_id);
    buf_put_u8(b, (uint8_t)o->type);
    buf_put_u8(b, (uint8_t)(o->durable | o->auto_delete << 1 | o->internal << 2 | o->had_binding << 3));
    buf_put_lslice(b, o->vhost);
    buf_put_lslice(b, o->name);
    buf_put_lslice(b, o->args);
})
EACH(queues, topo_queue, {
    buf_put_u8(b, 'Q');
    buf_put_be64(b, o->id);
    buf_put_be64(b, o->vhost_id);
    buf_put_u8(b, (uint8_t)(o->durable | o->exclusive << 1 | o->auto_delete << 2));
    buf_put_be32(b, o->owner_node);
    buf_put_be64(b, o->owner_node_epoch);
    buf_put_be32(b, o->partition);
    buf_put_lslice(b, o->vhost);
    buf_put_lslice(b, o->name);
    buf_put_lslice(b, o->args);
})
EACH(bindings, topo_binding, {
    buf_put_u8(b, 'B');
    buf_put_be64(b, o->source_id);
    buf_put_u8(b, (uint8_t)o->kind);
    buf_put_be64(b, o->destination_id);
    buf_put_lslice(b, o->routing_key);
    buf_put_lslice(b, o->args);
})
EACH(topics, topo_topic, {
    buf_put_u8(b, 'T');
    buf_put_be64(b, o->id);
    buf_put(b, o->uuid, 16);
    buf_put_be32(b, o->partitions);
    buf_put_be16(b, (uint16_t)o->replication_factor);
    buf_put_lslice(b, o->name);
    buf_put_lslice(b, o->configs);
})
EACH(configs, topo_config_item, {
    buf_put_u8(b, 'C');
    buf_put_lslice(b, o->name);
    buf_put_lslice(b, o->value);
})

static void encode_level_2(const struct topology *v, struct buf *b)
{
    buf_put_u8(b, 'S');
    buf_put_be32(b, v->next_node_id);
    buf_put_be32(b, v->replication_factor);
    buf_put_be32(b, v->min_insync);
    for (uint32_t i = 0; v->partitions != NULL && i < v->partitions->count; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);

        buf_put_u8(b, 'R');
        buf_put_be32(b, p->index);
        buf_put_be32(b, p->leader);
        buf_put_be32(b, (uint32_t)p->epoch);
        buf_put_be32(b, p->version);
        buf_put_u8(b, p->replica_count);
        buf_put_u8(b, p->adding_count);
        buf_put_u8(b, p->insync);
        buf_put_u8(b, p->eligible);
        buf_put_u8(b, p->last_known);
        for (unsigned k = 0; k < (unsigned)p->replica_count + p->adding_count; k++)
            buf_put_be32(b, p->members[k]);
    }
}

void topo_state_encode(const struct topology *v, struct buf *out)
{
    buf_put_be32(out, v->level);
    buf_put_be64(out, v->index);
    buf_put(out, v->cluster_id, 16);
    buf_put_be32(out, v->total_partitions);
    buf_put_be64(out, v->next_id);
    buf_put_be64(out, (uint64_t)v->next_producer_id);
    pmap_each_prefix(&v->nodes, SLICE_NONE, v->level < 2 ? encode_nodes_of_level_1 : encode_nodes, out);
    if (v->level >= 2)
        encode_level_2(v, out);
    pmap_each_prefix(&v->vhosts, SLICE_NONE, encode_vhosts, out);
    pmap_each_prefix(&v->users, SLICE_NONE, encode_users, out);
    pmap_each_prefix(&v->permissions, SLICE_NONE, encode_permissions, out);
    pmap_each_prefix(&v->exchanges, SLICE_NONE, encode_exchanges, out);
    pmap_each_prefix(&v->queues, SLICE_NONE, encode_queues, out);
    pmap_each_prefix(&v->bindings, SLICE_NONE, encode_bindings, out);
    pmap_each_prefix(&v->topics, SLICE_NONE, encode_topics, out);
    pmap_each_prefix(&v->configs, SLICE_NONE, encode_configs, out);
    buf_put_u8(out, 'E');
}

static const uint8_t nothing[32];

/* Bytes of a fixed field; zeros once the reader has run out, so that decoding may go on to its check. */
static const uint8_t *fixed(struct reader *r, size_t n)
{
    const uint8_t *p = reader_take(r, n);

    return p == NULL ? nothing : p;
}

static int decode_node(struct topo_state *s, struct reader *r)
{
    struct topo_node n = {.id = reader_be32(r)};
    uint8_t flags;

    memcpy(n.uuid, fixed(r, 16), 16);
    n.epoch = reader_be64(r);
    n.level = reader_be32(r);
    n.state = (enum topo_node_state)reader_u8(r);
    flags = reader_u8(r);
    n.unclean = flags & 1;
    n.lease_may_run = flags >> 1 & TOPO_NODE_LEASE_MAY_RUN;
    n.slow = flags >> 1 & TOPO_NODE_SLOW;
    n.clock_off = flags >> 1 & TOPO_NODE_CLOCK_OFF;
    n.drain = (enum topo_drain)(flags >> 4);
    n.name = reader_lslice(r);
    n.rack = reader_lslice(r);
    for (unsigned i = 0; i < TOPO_LISTENERS; i++) {
        n.endpoints[i].host = reader_lslice(r);
        n.endpoints[i].port = reader_be16(r);
    }
    if (r->bad || n.state > TOPO_NODE_DRAINING || n.drain > TOPO_DRAIN_REPLICAS)
        return ERR_CORRUPT;
    topo_insert_node(s, topo_node_copy(&n));
    return 0;
}

/* The records come in order, all or none: the table is in reach of the state from the first on, so that a damaged rest frees it too. */
static int decode_partition(struct topo_state *s, struct reader *r)
{
    struct topo_partition p = {.index = reader_be32(r)};
    struct topo_partition_edit e = {.table = s->v.partitions};
    unsigned members;

    p.leader = reader_be32(r);
    p.epoch = (int32_t)reader_be32(r);
    p.version = reader_be32(r);
    p.replica_count = reader_u8(r);
    p.adding_count = reader_u8(r);
    p.insync = reader_u8(r);
    p.eligible = reader_u8(r);
    p.last_known = reader_u8(r);
    members = (unsigned)p.replica_count + p.adding_count;
    if (r->bad || p.replica_count == 0 || members > TOPO_REPLICAS_MAX || p.index >= s->v.total_partitions || s->v.total_partitions > 16384 || (p.insync | p.eligible | p.last_known) >> members != 0)
        return ERR_CORRUPT;
    for (unsigned i = 0; i < members; i++)
        p.members[i] = reader_be32(r);
    if (r->bad)
        return ERR_CORRUPT;
    if (e.table == NULL) {
        topo_partition_edit_begin(&e, NULL, s->v.total_partitions);
        s->v.partitions = e.table;
    }
    topo_partition_edit_put(&e, &p);
    return 0;
}

static bool partitions_whole(const struct topology *v)
{
    for (uint32_t i = 0; v->partitions != NULL && i < v->total_partitions; i++)
        if (v->partitions->chunks[i / TOPO_CHUNK] == NULL || topo_partition_at(v, i)->replica_count == 0)
            return false;
    return true;
}

static int decode_object(struct topo_state *s, struct reader *r, uint8_t kind)
{
    struct slice a, b, c, d, e;
    const uint8_t *p, *q;
    uint64_t id, id2;
    uint32_t n, n2;
    uint8_t x, y;

    switch (kind) {
    case 'N': {
        struct topo_node old = {.id = reader_be32(r), .level = 1, .state = TOPO_NODE_ACTIVE};

        memcpy(old.uuid, fixed(r, 16), 16);
        old.epoch = reader_be64(r);
        old.name = reader_lslice(r);
        if (!r->bad)
            topo_insert_node(s, topo_node_copy(&old));
        break;
    }
    case 'n':
        return decode_node(s, r);
    case 'R':
        return decode_partition(s, r);
    case 'S':
        n = reader_be32(r);
        s->v.replication_factor = reader_be32(r);
        s->v.min_insync = reader_be32(r);
        if (n > s->v.next_node_id)
            s->v.next_node_id = n;
        break;
    case 'V':
        id = reader_be64(r);
        a = reader_lslice(r);
        if (!r->bad)
            topo_insert_vhost(s, topo_vhost_new(id, a));
        break;
    case 'U':
        p = fixed(r, 4);
        q = fixed(r, 32);
        a = reader_lslice(r);
        b = reader_lslice(r);
        if (!r->bad)
            topo_insert_user(s, topo_user_new(a, p, q, b));
        break;
    case 'P':
        a = reader_lslice(r);
        b = reader_lslice(r);
        c = reader_lslice(r);
        d = reader_lslice(r);
        e = reader_lslice(r);
        if (!r->bad)
            topo_insert_permission(s, topo_permission_new(a, b, c, d, e));
        break;
    case 'X':
        id = reader_be64(r);
        id2 = reader_be64(r);
        x = reader_u8(r);
        y = reader_u8(r);
        a = reader_lslice(r);
        b = reader_lslice(r);
        c = reader_lslice(r);
        if (x > TOPO_HEADERS)
            return ERR_CORRUPT;
        if (!r->bad)
            topo_insert_exchange(s, topo_exchange_new(id, id2, a, b, (enum topo_exchange_type)x, y & 1, y >> 1 & 1,
                                                      y >> 2 & 1, y >> 3 & 1, c));
        break;
    case 'Q':
        id = reader_be64(r);
        id2 = reader_be64(r);
        y = reader_u8(r);
        n = reader_be32(r);
        {
            uint64_t epoch = reader_be64(r);

            n2 = reader_be32(r);
            a = reader_lslice(r);
            b = reader_lslice(r);
            c = reader_lslice(r);
            if (!r->bad)
                topo_insert_queue(s, topo_queue_new(id, id2, a, b, y & 1, y >> 1 & 1, y >> 2 & 1, n, epoch, n2, c));
        }
        break;
    case 'B':
        id = reader_be64(r);
        x = reader_u8(r);
        id2 = reader_be64(r);
        a = reader_lslice(r);
        b = reader_lslice(r);
        if (x > TOPO_TO_EXCHANGE)
            return ERR_CORRUPT;
        if (!r->bad)
            topo_insert_binding(s, topo_binding_new(id, (enum topo_binding_kind)x, id2, a, b));
        break;
    case 'T':
        id = reader_be64(r);
        p = fixed(r, 16);
        n = reader_be32(r);
        n2 = reader_be16(r);
        a = reader_lslice(r);
        b = reader_lslice(r);
        if (!r->bad)
            topo_insert_topic(s, topo_topic_new(id, p, a, n, (int16_t)n2, b));
        break;
    case 'C':
        a = reader_lslice(r);
        b = reader_lslice(r);
        if (!r->bad)
            topo_insert_config(s, topo_config_item_new(a, b));
        break;
    default:
        return ERR_CORRUPT;
    }
    return r->bad ? ERR_CORRUPT : 0;
}

int topo_state_decode(struct topo_state *s, struct slice in)
{
    struct reader r = reader_of(in);
    uint8_t kind;
    int err;

    s->v.level = reader_be32(&r);
    if (s->v.level > EFFECT_LEVEL_MAX)
        return ERR_LEVEL;
    s->v.index = reader_be64(&r);
    memcpy(s->v.cluster_id, fixed(&r, 16), 16);
    s->v.total_partitions = reader_be32(&r);
    s->v.next_id = reader_be64(&r);
    s->v.next_producer_id = (int64_t)reader_be64(&r);
    s->v.next_node_id = 1;
    while ((kind = reader_u8(&r)) != 'E') {
        if (r.bad)
            return ERR_CORRUPT;
        err = decode_object(s, &r, kind);
        if (err < 0)
            return err;
    }
    return r.bad || reader_left(&r) != 0 || s->v.total_partitions == 0 || !partitions_whole(&s->v) ? ERR_CORRUPT : 0;
}
