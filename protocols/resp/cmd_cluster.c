/* CLUSTER, ASKING, READONLY, READWRITE: https://redis.io/commands/?group=cluster
 *
 * Read from the topology, never from gossip. Every node is a master in CLUSTER NODES, since nearly every node
 * leads some partitions; who holds copies of which range is in CLUSTER SLOTS and SHARDS. What an administrator
 * does there by hand (ADDSLOTS, SETSLOT, MEET ...) is the controller's work here: such commands are refused with
 * the name of the command to use. */
#include <openssl/evp.h>
#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"
#include "protocols/resp/cluster.h"
#include "protocols/resp/handlers.h"

static bool is_on(struct exec *x)
{
    if (cluster_on(x->w->front))
        return true;
    reply_error(&x->r, "ERR This instance has cluster support disabled");
    return false;
}

/* NULL: an error was written. */
static const struct topology *view_of(struct exec *x)
{
    return is_on(x) ? topology_view(x->w->front->o.topology) : NULL;
}

/* The same for what clients route by. A node that is cut off may name leaders that are none any more, itself first of all, and a client that asks it again and again (redis-py keeps the order of its start
 * nodes) would never get away; refused, it asks the next one. CLUSTER NODES, for people, says what is known. */
static const struct topology *map_of(struct exec *x)
{
    const struct topology *v = view_of(x);

    if (v != NULL && !partitions_lease_ok(x->w->front->o.partitions)) {
        reply_err(&x->r, ERR_NO_LEASE);
        return NULL;
    }
    return v;
}

void cmd_asking(struct exec *x)
{
    /* No slot is ever half here and half there, so there is nothing to be asked for. */
    if (is_on(x))
        reply_ok(&x->r);
}

void cmd_readonly(struct exec *x)
{
    if (!is_on(x))
        return;
    x->s->readonly = true;
    reply_ok(&x->r);
}

void cmd_readwrite(struct exec *x)
{
    if (!is_on(x))
        return;
    x->s->readonly = false;
    reply_ok(&x->r);
}

/* ---- names of nodes and shards ---- */

enum { NODE_ID_LEN = 40 };

/* 40 hex digits: SHA-1 of cluster id and node id (and, for a shard, a mark between them). */
static void redis_id(const struct topology *v, uint32_t node, bool shard, char ret[NODE_ID_LEN + 1])
{
    uint8_t text[16 + 1 + 4], sum[EVP_MAX_MD_SIZE];
    size_t n = 16;

    memcpy(text, v->cluster_id, 16);
    if (shard)
        text[n++] = 's';
    be32_put(text + n, node);
    CHECK(EVP_Digest(text, n + 4, sum, NULL, EVP_sha1(), NULL) == 1);
    for (int i = 0; i < NODE_ID_LEN / 2; i++)
        snprintf(ret + i * 2, 3, "%02x", sum[i]);
}

/* ---- walking nodes and ranges ---- */

struct node_list {
    const struct topo_node **nodes; /* owned array of borrowed nodes */
    size_t count, cap;
};

static bool add_node(const struct topo_node *n, void *arg)
{
    struct node_list *l = arg;

    if (l->count == l->cap) {
        l->cap = MAX_OF(l->cap * 2, (size_t)8);
        l->nodes = mem_realloc(l->nodes, l->cap * sizeof(l->nodes[0]));
    }
    l->nodes[l->count++] = n;
    return true;
}

static struct node_list nodes_of(const struct topology *v)
{
    struct node_list l = {0};

    topo_each_node(v, add_node, &l);
    return l;
}

/* A run of partitions with one leader and the same replicas in the same order. */
struct range {
    const struct topo_partition *p; /* the first of them */
    uint32_t first, last;           /* slots */
};

static bool same_replicas(const struct topo_partition *a, const struct topo_partition *b)
{
    return a->replica_count == b->replica_count &&
           memcmp(a->members, b->members, a->replica_count * sizeof(a->members[0])) == 0;
}

/* The next range with a leader from partition *at on; false: no more. */
static bool next_range(const struct topology *v, uint32_t *at, struct range *ret)
{
    for (; *at < v->total_partitions; ++*at) {
        const struct topo_partition *p = topo_partition_at(v, *at);
        uint32_t end, first, last;

        if (p == NULL || p->leader == 0)
            continue;
        for (end = *at + 1; end < v->total_partitions; end++) {
            const struct topo_partition *q = topo_partition_at(v, end);

            if (q == NULL || q->leader != p->leader || !same_replicas(q, p))
                break;
        }
        cluster_partition_slots(*at, v->total_partitions, &first, &last);
        ret->p = p;
        ret->first = first;
        cluster_partition_slots(end - 1, v->total_partitions, &first, &last);
        ret->last = last;
        *at = end;
        return true;
    }
    return false;
}

static bool is_up(const struct topo_node *n)
{
    return n->state == TOPO_NODE_ACTIVE || n->state == TOPO_NODE_DRAINING;
}

/* ---- SLOTS ---- */

static void slots_node(struct exec *x, const struct topology *v, const struct topo_node *n)
{
    char host[256], id[NODE_ID_LEN + 1];
    uint16_t port = 0;

    if (!cluster_node_address(x->s, n, host, sizeof(host), &port))
        host[0] = '\0';
    redis_id(v, n->id, false, id);
    reply_array(&x->r, 4);
    if (host[0] == '\0')
        reply_null(&x->r); /* "unknown endpoint": never an empty host, which some clients dial for ever */
    else
        reply_bulk_str(&x->r, host);
    reply_int(&x->r, port);
    reply_bulk_str(&x->r, id);
    reply_array(&x->r, 0);
}

static uint32_t live_replicas(const struct topology *v, const struct topo_partition *p, const struct topo_node **ret)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->replica_count; i++) {
        const struct topo_node *node = topo_node_find(v, p->members[i]);

        if (node != NULL && node->id != p->leader && is_up(node) && topo_is_insync(p, node->id))
            ret[n++] = node;
    }
    return n;
}

static void slots_entry(struct exec *x, const struct topology *v, const struct range *r, uint32_t first, uint32_t last,
                        bool with_replicas)
{
    const struct topo_node *replicas[TOPO_REPLICAS_MAX];
    uint32_t n = with_replicas ? live_replicas(v, r->p, replicas) : 0;

    reply_array(&x->r, 3 + n);
    reply_int(&x->r, first);
    reply_int(&x->r, last);
    slots_node(x, v, topo_node_find(v, r->p->leader));
    for (uint32_t i = 0; i < n; i++)
        slots_node(x, v, replicas[i]);
}

/* Some clients (redis-py) take for a node's only role the one they read first, and here a node leads some ranges
 * and copies others. So each leader's first range begins with a slot named alone, and these come before all
 * entries that name replicas. */
void cmd_cluster_slots(struct exec *x)
{
    const struct topology *v = map_of(x);
    struct node_list seen = {0};
    size_t count = 0, at_reply;
    struct range r;

    if (v == NULL)
        return;
    at_reply = reply_deferred_begin(&x->r);
    for (int pass = 0; pass < 2; pass++) {
        seen.count = 0;
        for (uint32_t at = 0; next_range(v, &at, &r);) {
            const struct topo_node *leader = topo_node_find(v, r.p->leader);
            bool first = true;

            if (leader == NULL)
                continue;
            for (size_t i = 0; i < seen.count; i++)
                first = first && seen.nodes[i] != leader;
            if (first)
                add_node(leader, &seen);
            if (pass == 0 && first) {
                slots_entry(x, v, &r, r.first, r.first, false);
                count++;
            } else if (pass == 1 && (!first || r.last > r.first)) {
                slots_entry(x, v, &r, first ? r.first + 1 : r.first, r.last, true);
                count++;
            }
        }
    }
    reply_deferred_array(&x->r, at_reply, count);
    mem_free(seen.nodes);
}

/* ---- SHARDS ---- */

static void shards_node(struct exec *x, const struct topology *v, const struct topo_node *n, bool leader)
{
    char host[256], id[NODE_ID_LEN + 1];
    uint16_t port = 0;
    bool known = cluster_node_address(x->s, n, host, sizeof(host), &port);

    redis_id(v, n->id, false, id);
    reply_map(&x->r, 7);
    reply_bulk_str(&x->r, "id");
    reply_bulk_str(&x->r, id);
    reply_bulk_str(&x->r, "port");
    reply_int(&x->r, port);
    reply_bulk_str(&x->r, "ip");
    reply_bulk_str(&x->r, known ? host : "?");
    reply_bulk_str(&x->r, "endpoint");
    reply_bulk_str(&x->r, known ? host : "?");
    reply_bulk_str(&x->r, "role");
    reply_bulk_str(&x->r, leader ? "master" : "replica");
    /* Positions are a partition's, not a node's: how far a replica is behind is in `gomsgctl cluster partitions`. */
    reply_bulk_str(&x->r, "replication-offset");
    reply_int(&x->r, 0);
    reply_bulk_str(&x->r, "health");
    reply_bulk_str(&x->r, is_up(n) ? "online" : "fail");
}

static bool same_shard(const struct topo_partition *a, const struct topo_partition *b)
{
    return a->leader == b->leader && same_replicas(a, b);
}

/* The ranges of one shard: all those like `p`. */
static void shard_slots(struct exec *x, const struct topology *v, const struct topo_partition *p)
{
    size_t at_reply = reply_deferred_begin(&x->r), n = 0;
    struct range r;

    for (uint32_t at = 0; next_range(v, &at, &r);) {
        if (!same_shard(r.p, p))
            continue;
        reply_int(&x->r, r.first);
        reply_int(&x->r, r.last);
        n += 2;
    }
    reply_deferred_array(&x->r, at_reply, n);
}

static void shard_entry(struct exec *x, const struct topology *v, const struct topo_partition *p)
{
    size_t at_reply, n = 0;

    reply_map(&x->r, 2);
    reply_bulk_str(&x->r, "slots");
    shard_slots(x, v, p);
    reply_bulk_str(&x->r, "nodes");
    at_reply = reply_deferred_begin(&x->r);
    shards_node(x, v, topo_node_find(v, p->leader), true);
    n++;
    for (uint32_t i = 0; i < p->replica_count; i++) {
        const struct topo_node *node = topo_node_find(v, p->members[i]);

        if (node == NULL || node->id == p->leader)
            continue;
        shards_node(x, v, node, false);
        n++;
    }
    reply_deferred_array(&x->r, at_reply, n);
}

void cmd_cluster_shards(struct exec *x)
{
    const struct topology *v = map_of(x);
    size_t at_reply, count = 0;
    struct range r, before;

    if (v == NULL)
        return;
    at_reply = reply_deferred_begin(&x->r);
    for (uint32_t at = 0; next_range(v, &at, &r);) {
        bool known = topo_node_find(v, r.p->leader) == NULL;

        for (uint32_t k = 0; !known && next_range(v, &k, &before) && before.p != r.p;)
            known = same_shard(before.p, r.p);
        if (known)
            continue;
        shard_entry(x, v, r.p);
        count++;
    }
    reply_deferred_array(&x->r, at_reply, count);
}

/* ---- NODES, REPLICAS ---- */

static int32_t epoch_of(const struct topology *v, uint32_t node)
{
    int32_t epoch = 0;

    for (uint32_t i = 0; i < v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);

        if (p != NULL && p->leader == node)
            epoch = MAX_OF(epoch, p->epoch);
    }
    return epoch;
}

static void node_slots(const struct topology *v, uint32_t node, struct buf *b)
{
    struct range r;
    uint32_t first = 0, last = 0;
    bool open = false;

    for (uint32_t at = 0; next_range(v, &at, &r);) {
        if (r.p->leader != node)
            continue;
        if (open && r.first == last + 1) {
            last = r.last;
            continue;
        }
        if (open)
            buf_printf(b, first == last ? " %u" : " %u-%u", first, last);
        first = r.first;
        last = r.last;
        open = true;
    }
    if (open)
        buf_printf(b, first == last ? " %u" : " %u-%u", first, last);
}

/* "id ip:port@cport flags master ping pong epoch link slots", as Redis' clusterGenNodeDescription. */
static void node_line(struct exec *x, const struct topology *v, const struct topo_node *n, uint32_t master, struct buf *b)
{
    char host[256] = "?", id[NODE_ID_LEN + 1], master_id[NODE_ID_LEN + 1] = "-";
    uint16_t port = 0;
    bool myself = n->id == topology_node_id(x->w->front->o.topology);

    cluster_node_address(x->s, n, host, sizeof(host), &port);
    redis_id(v, n->id, false, id);
    if (master != 0)
        redis_id(v, master, false, master_id);
    buf_printf(b, "%s %s:%u@%u %s%s%s %s 0 0 %d %s", id, host, port, n->endpoints[TOPO_BUS].port,
               myself ? "myself," : "", master != 0 ? "slave" : "master", is_up(n) || myself ? "" : ",fail", master_id,
               epoch_of(v, n->id), is_up(n) || myself ? "connected" : "disconnected");
    if (master == 0)
        node_slots(v, n->id, b);
}

void cmd_cluster_nodes(struct exec *x)
{
    const struct topology *v = view_of(x);
    struct node_list l;
    struct buf b = {0};

    if (v == NULL)
        return;
    l = nodes_of(v);
    for (size_t i = 0; i < l.count; i++) {
        node_line(x, v, l.nodes[i], 0, &b);
        buf_put_u8(&b, '\n');
    }
    reply_verbatim(&x->r, "txt", buf_slice(&b));
    buf_fini(&b);
    mem_free(l.nodes);
}

static const struct topo_node *node_by_redis_id(const struct topology *v, struct slice id)
{
    struct node_list l = nodes_of(v);
    const struct topo_node *found = NULL;

    for (size_t i = 0; i < l.count && found == NULL; i++) {
        char text[NODE_ID_LEN + 1];

        redis_id(v, l.nodes[i]->id, false, text);
        if (slice_eq(id, slice_str(text)))
            found = l.nodes[i];
    }
    mem_free(l.nodes);
    return found;
}

static bool replicates(const struct topology *v, uint32_t node, uint32_t leader)
{
    for (uint32_t i = 0; i < v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);

        if (p != NULL && p->leader == leader && topo_is_replica(p, node))
            return true;
    }
    return false;
}

/* Nodes that hold a copy of something this one leads. */
void cmd_cluster_replicas(struct exec *x)
{
    const struct topology *v = view_of(x);
    const struct topo_node *leader;
    struct node_list l;
    size_t at_reply, n = 0;

    if (v == NULL)
        return;
    leader = node_by_redis_id(v, x->argv[2]);
    if (leader == NULL) {
        reply_errorf(&x->r, "ERR Unknown node %.*s", (int)MIN_OF(x->argv[2].len, (size_t)128),
                     (const char *)x->argv[2].data);
        return;
    }
    l = nodes_of(v);
    at_reply = reply_deferred_begin(&x->r);
    for (size_t i = 0; i < l.count; i++) {
        struct buf b = {0};

        if (l.nodes[i] == leader || !replicates(v, l.nodes[i]->id, leader->id))
            continue;
        node_line(x, v, l.nodes[i], leader->id, &b);
        reply_bulk(&x->r, buf_slice(&b));
        buf_fini(&b);
        n++;
    }
    reply_deferred_array(&x->r, at_reply, n);
    mem_free(l.nodes);
}

/* ---- INFO, MYID, slots of keys ---- */

void cmd_cluster_info(struct exec *x)
{
    const struct resp_front *f = x->w->front;
    const struct topology *v = view_of(x);
    uint32_t ok = 0, size = 0;
    int32_t epoch = 0;
    struct node_list l;
    struct buf b = {0};
    struct range r;

    if (v == NULL)
        return;
    for (uint32_t at = 0; next_range(v, &at, &r);)
        ok += r.last - r.first + 1;
    l = nodes_of(v);
    for (size_t i = 0; i < l.count; i++) {
        int32_t e = epoch_of(v, l.nodes[i]->id);

        size += e > 0;
        epoch = MAX_OF(epoch, e);
    }
    buf_printf(&b,
               "cluster_state:%s\r\ncluster_slots_assigned:%u\r\ncluster_slots_ok:%u\r\ncluster_slots_pfail:0\r\n"
               "cluster_slots_fail:%u\r\ncluster_known_nodes:%zu\r\ncluster_size:%u\r\ncluster_current_epoch:%d\r\n"
               "cluster_my_epoch:%d\r\n",
               ok == CLUSTER_SLOTS && partitions_lease_ok(f->o.partitions) ? "ok" : "fail", CLUSTER_SLOTS, ok,
               CLUSTER_SLOTS - ok, l.count, size, epoch, epoch_of(v, topology_node_id(f->o.topology)));
    reply_verbatim(&x->r, "txt", buf_slice(&b));
    buf_fini(&b);
    mem_free(l.nodes);
}

static void my_id(struct exec *x, bool shard)
{
    char id[NODE_ID_LEN + 1];

    if (!is_on(x))
        return;
    redis_id(topology_view(x->w->front->o.topology), topology_node_id(x->w->front->o.topology), shard, id);
    reply_bulk_str(&x->r, id);
}

void cmd_cluster_myid(struct exec *x)
{
    my_id(x, false);
}

void cmd_cluster_myshardid(struct exec *x)
{
    my_id(x, true);
}

void cmd_cluster_keyslot(struct exec *x)
{
    if (is_on(x))
        reply_int(&x->r, placement_slot(x->argv[2]));
}

struct slot_walk {
    struct exec *x;
    uint32_t slot;
    uint64_t found, max; /* max: keys to name; 0: only count */
};

static void visit_slot_key(struct slice key, enum kv_type type, void *arg)
{
    struct slot_walk *walk = arg;

    (void)type;
    if (placement_slot(key) != walk->slot || (walk->max != 0 && walk->found == walk->max))
        return;
    if (walk->max != 0)
        reply_bulk(&walk->x->r, key);
    walk->found++;
}

/* False: parked, or an error was written. What this node holds of the slot, led or copied. */
static bool walk_slot(struct slot_walk *walk)
{
    struct exec *x = walk->x;
    struct partitions *ps = x->w->front->o.partitions;
    struct partition *p = partitions_get(ps, placement_of_slot(walk->slot, partitions_count(ps)));
    struct partition_guard g;
    uint64_t cursor = 0;
    int err = partition_enter(p, 0, &x->s->park, &g);

    if (err == ERR_NOT_LEADER)
        err = partition_enter_stale(p, 0, &x->s->park, &g);
    if (err == ERR_NOT_LEADER)
        return true;
    if (err != 0) {
        if (err == ERR_PARKED)
            x->outcome = EXEC_PARKED;
        else
            cluster_refuse(x, walk->slot, err, true);
        return false;
    }
    do {
        cursor = kv_scan(&g.kv, cursor, 1024, visit_slot_key, walk);
    } while (cursor != 0 && (walk->max == 0 || walk->found < walk->max));
    err = partition_leave(&g);
    if (err != 0)
        cluster_refuse(x, walk->slot, err, false);
    return err == 0;
}

static bool arg_slot(struct exec *x, uint32_t *ret)
{
    int64_t slot;

    if (!exec_arg_int(x, 2, &slot))
        return false;
    if (slot < 0 || slot >= CLUSTER_SLOTS) {
        reply_error(&x->r, "ERR Invalid slot");
        return false;
    }
    *ret = (uint32_t)slot;
    return true;
}

void cmd_cluster_countkeysinslot(struct exec *x)
{
    struct slot_walk walk = {.x = x};

    if (is_on(x) && arg_slot(x, &walk.slot) && walk_slot(&walk))
        reply_int(&x->r, (int64_t)walk.found);
}

void cmd_cluster_getkeysinslot(struct exec *x)
{
    struct slot_walk walk = {.x = x};
    size_t at;
    int64_t max;

    if (!is_on(x) || !arg_slot(x, &walk.slot) || !exec_arg_int(x, 3, &max))
        return;
    if (max < 0) {
        reply_error(&x->r, "ERR Invalid slot or number of keys");
        return;
    }
    at = reply_deferred_begin(&x->r);
    walk.max = (uint64_t)max;
    if (max != 0 && !walk_slot(&walk)) {
        if (x->outcome == EXEC_DONE)
            exec_keep_last_error(x, at);
        return;
    }
    reply_deferred_array(&x->r, at, walk.found);
}

/* ---- LINKS ---- */

enum { LINKS_MAX = 1024 };

/* A pair of nodes has four: two each way, control and data. */
void cmd_cluster_links(struct exec *x)
{
    const struct resp_options *o = &x->w->front->o;
    const struct topology *v = view_of(x);
    struct bus_link_info *links;
    unsigned n;

    if (v == NULL)
        return;
    links = mem_calloc(LINKS_MAX, sizeof(links[0]));
    n = o->links == NULL ? 0 : o->links(o->links_arg, links, LINKS_MAX);
    n = MIN_OF(n, (unsigned)LINKS_MAX);
    reply_array(&x->r, n);
    for (unsigned i = 0; i < n; i++) {
        char id[NODE_ID_LEN + 1];

        redis_id(v, links[i].node_id, false, id);
        reply_map(&x->r, 6);
        reply_bulk_str(&x->r, "direction");
        reply_bulk_str(&x->r, links[i].ours ? "to" : "from");
        reply_bulk_str(&x->r, "node");
        reply_bulk_str(&x->r, id);
        reply_bulk_str(&x->r, "create-time");
        reply_int(&x->r, links[i].since_wall_ms);
        reply_bulk_str(&x->r, "events");
        reply_bulk_str(&x->r, links[i].waiting_bytes != 0 ? "rw" : "r");
        reply_bulk_str(&x->r, "send-buffer-allocated");
        reply_int(&x->r, (int64_t)links[i].allocated_bytes);
        reply_bulk_str(&x->r, "send-buffer-used");
        reply_int(&x->r, (int64_t)links[i].waiting_bytes);
    }
    mem_free(links);
}

/* ---- what is done otherwise here ---- */

void cmd_migrate(struct exec *x)
{
    reply_error(&x->r, "ERR migrate is not done by clients here: partitions are moved whole; use gomsgctl cluster transfer-leader");
}

void cmd_cluster_refused(struct exec *x)
{
    static const struct {
        uint8_t id;
        const char *instead;
    } hints[] = {
        {COMMAND_CLUSTER_ADDSLOTS, "slots are always placed; see gomsgctl cluster partitions"},
        {COMMAND_CLUSTER_ADDSLOTSRANGE, "slots are always placed; see gomsgctl cluster partitions"},
        {COMMAND_CLUSTER_BUMPEPOCH, "epochs are the controller's; see gomsgctl cluster partitions"},
        {COMMAND_CLUSTER_COUNT_FAILURE_REPORTS, "the controller decides who has failed; see gomsgctl cluster nodes"},
        {COMMAND_CLUSTER_DELSLOTS, "slots are always placed; see gomsgctl cluster partitions"},
        {COMMAND_CLUSTER_DELSLOTSRANGE, "slots are always placed; see gomsgctl cluster partitions"},
        {COMMAND_CLUSTER_FAILOVER, "use gomsgctl cluster transfer-leader"},
        {COMMAND_CLUSTER_FLUSHSLOTS, "slots are always placed; see gomsgctl cluster partitions"},
        {COMMAND_CLUSTER_FORGET, "the controller replaces nodes that stay away; see gomsgctl cluster nodes"},
        {COMMAND_CLUSTER_MEET, "a node joins by the cluster.seeds of its configuration"},
        {COMMAND_CLUSTER_REPLICATE, "the controller places replicas; see cluster.replication_factor"},
        {COMMAND_CLUSTER_RESET, "a node leaves by stopping it and removing its data directory"},
        {COMMAND_CLUSTER_SAVECONFIG, "the topology is saved with every change"},
        {COMMAND_CLUSTER_SET_CONFIG_EPOCH, "epochs are the controller's; see gomsgctl cluster partitions"},
        {COMMAND_CLUSTER_SETSLOT, "partitions are moved whole; use gomsgctl cluster transfer-leader"},
    };

    if (!is_on(x))
        return;
    for (size_t i = 0; i < ARRAY_LEN(hints); i++) {
        if (hints[i].id == x->cmd->id) {
            reply_errorf(&x->r, "ERR %s is not done by clients here: %s", x->cmd->fullname, hints[i].instead);
            return;
        }
    }
    CHECK(false);
}
