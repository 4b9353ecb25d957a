/* The cluster as clients see it: who serves what, where that is, and what this node may answer itself.
 *
 * Brokers are the nodes of the topology, their ids its small integers. A topic partition is led by whoever leads the partition that owns it, a group is
 * coordinated by the leader of the partition it hashes to; leader epoch, replicas and in-sync set are that partition's (rule 1). Every node
 * answers administration, so each names itself as the controller.
 *
 * What the topology says can be older than what this node plays (partition_role): redirects go by the topology, refusals by the role. */
#include "protocols/kafka/session.h"

#include "base/err.h"

static struct partition *partition_of(const struct kafka_session *s, uint32_t partition)
{
    return partitions_get(s->front->options.partitions, partition);
}

static bool is_up(const struct topo_node *n)
{
    return n->state == TOPO_NODE_ACTIVE || n->state == TOPO_NODE_DRAINING;
}

bool kafka_node_is_up(const struct kafka_session *s, uint32_t node)
{
    const struct topo_node *n = topo_node_find(kafka_view(s), node);

    return (int32_t)node == kafka_node_id(s) || (n != NULL && is_up(n));
}

bool kafka_endpoint_of_node(const struct kafka_session *s, int32_t node, struct kafka_endpoint *ret)
{
    const struct topo_node *n;

    if (node == kafka_node_id(s)) {
        kafka_endpoint_of(s, ret);
        return true;
    }
    n = node <= 0 ? NULL : topo_node_find(kafka_view(s), (uint32_t)node);
    return n != NULL && topo_node_address(n, TOPO_KAFKA, ret->host, sizeof(ret->host), &ret->port);
}

/* ---- brokers -------------------------------------------------------------------------------------------- */

struct brokers {
    const struct kafka_session *s;
    bool fenced; /* those too */
    bool told_me;
    void (*fn)(const struct kafka_broker *b, void *arg);
    void *arg;
};

static bool tell_broker(const struct topo_node *n, void *arg)
{
    struct brokers *all = arg;
    struct kafka_broker b = {.id = (int32_t)n->id, .rack = n->rack.len == 0 ? SLICE_NONE : n->rack, .fenced = !is_up(n)};

    if (b.id == kafka_node_id(all->s)) {
        b.fenced = false;
        all->told_me = true;
    } else if (b.fenced && !all->fenced) {
        return true;
    }
    if (kafka_endpoint_of_node(all->s, b.id, &b.at))
        all->fn(&b, all->arg);
    return true;
}

void kafka_each_broker(const struct kafka_session *s, bool fenced, void (*fn)(const struct kafka_broker *b, void *arg), void *arg)
{
    struct brokers all = {.s = s, .fenced = fenced, .fn = fn, .arg = arg};
    struct kafka_broker me = {.id = kafka_node_id(s), .rack = SLICE_NONE};

    topo_each_node(kafka_view(s), tell_broker, &all);
    if (all.told_me)
        return;
    kafka_endpoint_of(s, &me.at); /* not registered yet */
    fn(&me, arg);
}

/* ---- partitions ------------------------------------------------------------------------------------------- */

struct kafka_leadership kafka_leadership_of(const struct kafka_session *s, uint32_t partition)
{
    struct kafka_leadership l = {.record = topo_partition_at(kafka_view(s), partition), .leader = -1};

    l.epoch = partition_epoch(partition_of(s, partition));
    if (l.record == NULL) { /* a node alone, or a cluster that has not placed its partitions yet */
        if (partition_role(partition_of(s, partition)) == PARTITION_LEADER)
            l.leader = kafka_node_id(s);
        return l;
    }
    l.epoch = l.record->epoch;
    l.leader = l.record->leader != 0 && kafka_node_is_up(s, l.record->leader) ? (int32_t)l.record->leader : -1;
    /* Cut off from the others this node leads nothing, whatever it last heard: a client that it sent back to itself would stay for good. */
    if (l.leader == kafka_node_id(s) && !partitions_lease_ok(s->front->options.partitions))
        l.leader = -1;
    return l;
}

int16_t kafka_leader_code(const struct kafka_session *s, uint32_t partition)
{
    if (partition_role(partition_of(s, partition)) != PARTITION_LEADER)
        return KAFKA_ERR_NOT_LEADER_OR_FOLLOWER;
    return partitions_lease_ok(s->front->options.partitions) ? 0 : KAFKA_ERR_NOT_LEADER_OR_FOLLOWER;
}

int kafka_wait_handover(struct kafka_session *s, uint32_t partition)
{
    struct partition_guard g;
    int err;

    if (partition_role(partition_of(s, partition)) != PARTITION_PARKED)
        return 0;
    err = kafka_enter(s, partition, &g); /* which parks us, unless it is over */
    if (err == 0)
        (void)partition_leave(&g);
    return err == KAFKA_RETRY ? KAFKA_RETRY : 0;
}

int16_t kafka_reader_code(const struct kafka_session *s, uint32_t partition)
{
    enum partition_role role = partition_role(partition_of(s, partition));

    return role == PARTITION_FOLLOWER ? 0 : kafka_leader_code(s, partition);
}

int16_t kafka_epoch_code(const struct kafka_session *s, uint32_t partition, int32_t epoch)
{
    int32_t mine = partition_epoch(partition_of(s, partition));

    if (epoch < 0 || epoch == mine)
        return 0;
    return epoch < mine ? KAFKA_ERR_FENCED_LEADER_EPOCH : KAFKA_ERR_UNKNOWN_LEADER_EPOCH;
}

/* Rule 23: a topic's min.insync.replicas can only raise the bar, up to the number of replicas. */
bool kafka_enough_in_sync(const struct kafka_session *s, const struct topo_topic *t, uint32_t partition)
{
    const struct topology *v = kafka_view(s);
    const struct topo_partition *p = topo_partition_at(v, partition);
    int64_t wanted = t == NULL || t->configs.len == 0 ? 1 : kafka_topic_number(s->front->options.config, t, "min.insync.replicas");

    if (!partition_quorum_ok(partition_of(s, partition)))
        return false;
    if (p == NULL)
        return true;
    wanted = MAX_OF(wanted, (int64_t)topo_partition_min_insync(v, p));
    return (int64_t)topo_insync(p).count >= MIN_OF(wanted, (int64_t)p->replica_count);
}

/* KIP-392: a replica in sync in the client's own rack, when this node is in another one. */
int32_t kafka_preferred_reader(const struct kafka_session *s, uint32_t partition, struct slice rack)
{
    const struct topo_partition *p = topo_partition_at(kafka_view(s), partition);
    struct topo_replica_set set;
    int32_t found = -1;

    if (rack.len == 0 || p == NULL)
        return -1;
    set = topo_insync(p);
    for (unsigned i = 0; i < set.count; i++) {
        const struct topo_node *n = topo_node_find(kafka_view(s), set.nodes[i]);
        struct kafka_endpoint at;

        if (n == NULL || !slice_eq(n->rack, rack) || !kafka_node_is_up(s, n->id) || !kafka_endpoint_of_node(s, (int32_t)n->id, &at))
            continue;
        if ((int32_t)n->id == kafka_node_id(s))
            return -1;
        if (found < 0)
            found = (int32_t)n->id;
    }
    return found;
}

/* ---- KIP-951 --------------------------------------------------------------------------------------------------- */

void kafka_put_current_leader(const struct kafka_session *s, struct buf *b, uint32_t tag, uint32_t partition, struct kafka_hints *hints)
{
    struct kafka_leadership l = kafka_leadership_of(s, partition);
    bool known = l.leader < 0;

    buf_put_uvarint(b, tag);
    buf_put_uvarint(b, 4 + 4 + 1);
    buf_put_be32(b, (uint32_t)l.leader);
    buf_put_be32(b, (uint32_t)l.epoch);
    buf_put_u8(b, 0);
    for (unsigned i = 0; i < hints->count; i++)
        known = known || hints->nodes[i] == l.leader;
    if (!known && hints->count < ARRAY_LEN(hints->nodes))
        hints->nodes[hints->count++] = l.leader;
}

void kafka_put_node_endpoints(const struct kafka_session *s, struct buf *b, const struct kafka_hints *hints)
{
    struct kafka_endpoint at[ARRAY_LEN(hints->nodes)];
    struct buf field = {0};
    unsigned n = 0;

    for (unsigned i = 0; i < hints->count; i++)
        n += kafka_endpoint_of_node(s, hints->nodes[i], &at[i]);
    if (n == 0 || n != hints->count) {
        buf_put_u8(b, 0);
        return;
    }
    kafka_put_len(&field, n, true);
    for (unsigned i = 0; i < n; i++) {
        const struct topo_node *node = topo_node_find(kafka_view(s), (uint32_t)hints->nodes[i]);

        buf_put_be32(&field, (uint32_t)hints->nodes[i]);
        kafka_put_string(&field, slice_str(at[i].host), true);
        buf_put_be32(&field, at[i].port);
        kafka_put_string(&field, node == NULL || node->rack.len == 0 ? SLICE_NONE : node->rack, true);
        buf_put_u8(&field, 0);
    }
    buf_put_u8(b, 1);
    buf_put_uvarint(b, 0);
    buf_put_uvarint(b, field.len);
    buf_put(b, field.data, field.len);
    buf_fini(&field);
}

/* ---- coordinators --------------------------------------------------------------------------------------------- */

int16_t kafka_coordinator_code(int err)
{
    switch (err) {
    case 0:
        return 0;
    case ERR_NOT_LEADER:
    case ERR_NO_LEASE:
        return KAFKA_ERR_NOT_COORDINATOR;
    case ERR_AGAIN: /* it opens */
    case ERR_BUSY:
        return KAFKA_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    default:
        return KAFKA_ERR_COORDINATOR_NOT_AVAILABLE;
    }
}

int kafka_enter_coordinator(struct kafka_session *s, uint32_t partition, struct partition_guard *g)
{
    if (partition_role(partition_of(s, partition)) == PARTITION_LEADER && !partition_quorum_ok(partition_of(s, partition)))
        return ERR_NO_REPLICAS; /* rule 14 */
    return kafka_enter(s, partition, g);
}
