/* GOMSG cluster: what people ask about nodes and partitions, and the two things an administrator may do to leaderships. On the admin thread. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/member/member.h"
#include "cluster/replicate/replicate.h"
#include "cluster/topology/identity.h"
#include "server/internal.h"

enum { NODES_MAX = 256, TRANSFER_MS = 5000 };

static const char *const state_names[] = {"joining", "active", "failed", "draining"};

/* ---- what is wrong -------------------------------------------------------------------------------------------------------- */

struct health {
    unsigned nodes, active, partitions, led, whole, quorum; /* quorum: enough are in sync for writes of level quorum */
    unsigned adding;
};

static bool count_node(const struct topo_node *n, void *arg)
{
    struct health *h = arg;

    h->nodes++;
    h->active += n->state == TOPO_NODE_ACTIVE || n->state == TOPO_NODE_DRAINING;
    return true;
}

static struct health health_of(const struct topology *v)
{
    struct health h = {0};

    topo_each_node(v, count_node, &h);
    for (uint32_t i = 0; i < v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);
        struct topo_replica_set insync;

        if (p == NULL)
            break;
        insync = topo_insync(p);
        h.partitions++;
        h.led += p->leader != 0;
        h.whole += p->leader != 0 && insync.count == p->replica_count && p->adding_count == 0;
        h.quorum += p->leader != 0 && insync.count >= topo_partition_min_insync(v, p);
        h.adding += p->adding_count;
    }
    return h;
}

static bool is_healthy(const struct health *h)
{
    return h->partitions != 0 && h->whole == h->partitions && h->active == h->nodes;
}

static json_t *health_json(const struct topology *v, const struct health *h)
{
    json_t *reasons = json_array(), *o;
    char text[160];

    if (h->partitions == 0)
        json_array_append_new(reasons, json_string(v->nodes.count == 0 ? "the cluster is not formed yet" : "the partitions are not placed yet"));
    if (h->active < h->nodes) {
        snprintf(text, sizeof(text), "%u of %u nodes are not active", h->nodes - h->active, h->nodes);
        json_array_append_new(reasons, json_string(text));
    }
    if (h->led < h->partitions) {
        snprintf(text, sizeof(text), "%u partitions have no leader", h->partitions - h->led);
        json_array_append_new(reasons, json_string(text));
    }
    if (h->quorum < h->led) {
        snprintf(text, sizeof(text), "%u partitions refuse writes of level quorum: too few replicas are in sync", h->led - h->quorum);
        json_array_append_new(reasons, json_string(text));
    }
    if (h->whole < h->led) {
        snprintf(text, sizeof(text), "%u partitions have replicas that are not in sync", h->led - h->whole);
        json_array_append_new(reasons, json_string(text));
    }
    o = json_pack("{s:b, s:i, s:i, s:i, s:i, s:i, s:i}", "healthy", is_healthy(h), "nodes", (int)h->nodes, "active", (int)h->active, "partitions", (int)h->partitions, "led", (int)h->led, "quorum",
                  (int)h->quorum, "whole", (int)h->whole);
    json_object_set_new(o, "reasons", reasons);
    return o;
}

json_t *admin_cluster_health(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    const struct topology *v = topology_pin(s->topology);
    struct health h = health_of(v);
    json_t *o = health_json(v, &h);

    (void)argc, (void)argv, (void)why;
    topology_unpin(s->topology);
    return o;
}

json_t *admin_cluster_status(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    const struct topology *v = topology_pin(s->topology);
    struct health h = health_of(v);
    struct topology_group g;
    char cluster[33];
    json_t *o;

    (void)argc, (void)argv, (void)why;
    topology_group_get(s->topology, &g);
    identity_hex(v->cluster_id, cluster);
    o = json_pack("{s:s, s:i, s:i, s:I, s:s, s:b, s:i, s:i}", "cluster_id", cluster, "node_id", (int)topology_node_id(s->topology), "controller", (int)topology_controller(s->topology), "term", (json_int_t)g.term, "phase",
                  g.text, "lease", partitions_lease_ok(s->partitions), "replication_factor", (int)(v->replication_factor == 0 ? 3 : v->replication_factor), "feature_level", (int)v->level);
    json_object_set_new(o, "health", health_json(v, &h));
    topology_unpin(s->topology);
    return o;
}

/* ---- nodes ------------------------------------------------------------------------------------------------------------------ */

struct listing {
    struct server *s;
    const struct topology *v;
    json_t *rows;
    const struct member_node_info *infos;
    int info_count;
};

static json_t *address_json(const struct topo_node *n, enum topo_listener l)
{
    char host[256], text[300];
    uint16_t port;

    if (!topo_node_address(n, l, host, sizeof(host), &port))
        return json_string("");
    snprintf(text, sizeof(text), strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
    return json_string(text);
}

static bool add_node(const struct topo_node *n, void *arg)
{
    struct listing *l = arg;
    json_t *row = json_pack("{s:i, s:s, s:I}", "node", (int)n->id, "state", state_names[n->state], "epoch", (json_int_t)n->epoch);
    unsigned leads = 0, replicas = 0;
    char notes[128];

    for (uint32_t i = 0; i < l->v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(l->v, i);

        leads += p != NULL && p->leader == n->id;
        replicas += p != NULL && topo_is_replica(p, n->id);
    }
    snprintf(notes, sizeof(notes), "%s%s%s%s%s", n->id == topology_controller(l->s->topology) ? "controller " : "", n->drain == TOPO_DRAIN_LEADERS ? "gives leaderships up " : n->drain == TOPO_DRAIN_REPLICAS ? "gives replicas up " : "", n->slow ? "slow " : "", n->clock_off ? "clock off " : "", n->unclean ? "started after a crash " : "");
    if (notes[0] != '\0')
        notes[strlen(notes) - 1] = '\0';
    json_object_set_new(row, "name", admin_json_slice(n->name));
    json_object_set_new(row, "rack", admin_json_slice(n->rack));
    json_object_set_new(row, "address", address_json(n, TOPO_BUS));
    json_object_set_new(row, "resp", address_json(n, TOPO_RESP));
    json_object_set_new(row, "kafka", address_json(n, TOPO_KAFKA));
    json_object_set_new(row, "amqp", address_json(n, TOPO_AMQP));
    json_object_set_new(row, "http", address_json(n, TOPO_HTTP));
    json_object_set_new(row, "leads", json_integer(leads));
    json_object_set_new(row, "replicas", json_integer(replicas));
    json_object_set_new(row, "notes", json_string(notes));
    for (int i = 0; i < l->info_count; i++) {
        const struct member_node_info *x = &l->infos[i];

        if (x->node_id != n->id)
            continue;
        if (x->heard_ms_ago >= 0)
            json_object_set_new(row, "heard_ms", json_integer(x->heard_ms_ago));
        json_object_set_new(row, "sync_age_ms", json_integer(x->sync_age_ms));
        json_object_set_new(row, "replication_age_ms", json_integer(x->replication_age_ms));
        json_object_set_new(row, "skew_ms", json_integer(x->clock_skew_ms));
    }
    json_array_append_new(l->rows, row);
    return true;
}

json_t *admin_cluster_nodes(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct member_node_info infos[NODES_MAX];
    struct listing l = {.s = s, .rows = json_array(), .infos = infos};

    (void)argc, (void)argv, (void)why;
    /* Without a controller the rest is shown still. */
    if (s->member != NULL)
        l.info_count = member_nodes(s->member, infos, NODES_MAX);
    l.v = topology_pin(s->topology);
    topo_each_node(l.v, add_node, &l);
    topology_unpin(s->topology);
    return l.rows;
}

/* ---- partitions ---------------------------------------------------------------------------------------------------------------- */

static json_t *set_json(const struct topo_replica_set *set)
{
    char text[TOPO_REPLICAS_MAX * 12 + 1] = "";

    for (unsigned i = 0; i < set->count; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%u", i == 0 ? "" : ",", set->nodes[i]);
    return json_string(text);
}

static const char *partition_health(const struct topology *v, const struct topo_partition *p)
{
    struct topo_replica_set insync = topo_insync(p);

    if (p->leader == 0)
        return p->eligible != 0 ? "offline: waits for an eligible replica" : p->last_known != 0 ? "offline: waits for all last known replicas" : p->insync != 0 ? "offline: waits for an in-sync replica" : "offline: the last copies are damaged; gomsgctl partitions recover";
    if (topo_is_recovering(p))
        return "recovering";
    if (insync.count < topo_partition_min_insync(v, p))
        return "below min_insync";
    return insync.count < p->replica_count ? "degraded" : p->adding_count != 0 ? "adding" : "ok";
}

json_t *admin_cluster_partitions(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    static const char *const roles[] = {"none", "follower", "opening", "leader", "parked"};
    const struct topology *v = topology_pin(s->topology);
    json_t *rows = json_array();

    (void)argc, (void)argv, (void)why;
    for (uint32_t i = 0; i < v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);
        struct topo_replica_set sets[5];
        struct replica_info lags[TOPO_REPLICAS_MAX];
        unsigned n;
        uint64_t records = 0, ms = 0;
        json_t *row;

        if (p == NULL)
            break;
        sets[0] = topo_replicas(p);
        sets[1] = topo_insync(p);
        sets[2] = topo_eligible(p);
        sets[3] = topo_last_known(p);
        sets[4] = topo_adding(p);
        row = json_pack("{s:i, s:i, s:i, s:I, s:o, s:o, s:o, s:o, s:o, s:s, s:s}", "partition", (int)i, "leader", (int)p->leader, "epoch", (int)p->epoch, "version", (json_int_t)p->version, "replicas", set_json(&sets[0]),
                        "insync", set_json(&sets[1]), "eligible", set_json(&sets[2]), "last_known", set_json(&sets[3]), "adding", set_json(&sets[4]), "health", partition_health(v, p), "role",
                        roles[partition_role(partitions_get(s->partitions, i))]);
        if (s->replicating && p->leader == topology_node_id(s->topology)) {
            n = replication_replicas(s->replication, i, lags, TOPO_REPLICAS_MAX);
            for (unsigned k = 0; k < n && k < TOPO_REPLICAS_MAX; k++) {
                records = MAX_OF(records, lags[k].lag_records);
                ms = MAX_OF(ms, lags[k].lag_ms);
            }
            json_object_set_new(row, "lag_records", json_integer((json_int_t)records));
            json_object_set_new(row, "lag_ms", json_integer((json_int_t)ms));
        }
        json_array_append_new(rows, row);
    }
    topology_unpin(s->topology);
    return rows;
}

/* ---- events -------------------------------------------------------------------------------------------------------------------- */

json_t *admin_cluster_events(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    int64_t count = 100;
    struct member_event *events;
    json_t *rows;
    unsigned n;

    if (argc == 1 && (!slice_to_i64(argv[0], &count) || count < 1 || count > 1000)) {
        buf_put_str(why, "COUNT is a number from 1 to 1000");
        return NULL;
    }
    rows = json_array();
    if (s->member == NULL)
        return rows;
    events = mem_alloc((size_t)count * sizeof(events[0]));
    n = member_events(s->member, events, (unsigned)count);
    for (unsigned i = 0; i < n; i++) {
        time_t t = (time_t)(events[i].wall_ms / 1000);
        struct tm tm;
        char text[40];
        size_t at;

        gmtime_r(&t, &tm);
        at = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
        snprintf(text + at, sizeof(text) - at, ".%03dZ", (int)(events[i].wall_ms % 1000));
        json_array_append_new(rows, json_pack("{s:s, s:s}", "time", text, "event", events[i].text));
    }
    mem_free(events);
    return rows;
}

/* ---- leaderships ------------------------------------------------------------------------------------------------------------------ */

static bool partition_arg(struct server *s, struct slice arg, int64_t *ret, struct buf *why)
{
    if (slice_to_i64(arg, ret) && *ret >= 0 && *ret < partitions_count(s->partitions))
        return true;
    buf_printf(why, "a partition is a number from 0 to %u", partitions_count(s->partitions) - 1);
    return false;
}

static uint32_t leader_now(struct server *s, uint32_t partition)
{
    const struct topo_partition *p = topo_partition_at(topology_pin(s->topology), partition);
    uint32_t leader = p == NULL ? 0 : p->leader;

    topology_unpin(s->topology);
    return leader;
}

json_t *admin_cluster_transfer_leader(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    uint64_t until = clock_mono_us() + TRANSFER_MS * 1000ull;
    int64_t partition, to = 0;
    uint32_t target = 0, again;
    int err;

    if (!partition_arg(s, argv[0], &partition, why))
        return NULL;
    if (argc == 2 && (!slice_to_i64(argv[1], &to) || to < 1 || to > UINT32_MAX)) {
        buf_put_str(why, "a node is a number from 1; gomsgctl cluster nodes lists them");
        return NULL;
    }
    if (s->member == NULL) {
        buf_put_str(why, "this node is alone: it leads every partition");
        return NULL;
    }
    err = member_transfer(s->member, (uint32_t)partition, (uint32_t)to, &target);
    if (err == ERR_INELIGIBLE)
        buf_printf(why, to == 0 ? "no other replica of the partition is in sync and fit to lead" : "node %lld is no in-sync replica that may lead; gomsgctl cluster partitions shows them", (long long)to);
    else if (err < 0)
        buf_put_str(why, err_text(err));
    if (err < 0)
        return NULL;
    /* A leader gives a handover up rather than keep writes waiting; a moment later it may well do. */
    for (unsigned i = 1; leader_now(s, (uint32_t)partition) != target && clock_mono_us() < until; i++) {
        nanosleep(&(struct timespec){0, 5000000}, NULL);
        if (i % 150 == 0)
            (void)member_transfer(s->member, (uint32_t)partition, target, &again);
    }
    if (leader_now(s, (uint32_t)partition) == target)
        return json_pack("{s:i, s:i}", "partition", (int)partition, "leader", (int)target);
    buf_printf(why, "the leader did not hand over within %d s: a replica may be too far behind, or too many writes wait; it goes on leading", TRANSFER_MS / 1000);
    return NULL;
}

json_t *admin_partitions_recover(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    int64_t partition = UINT32_MAX;
    uint32_t recovered = 0, left = 0;
    int err;

    if (!slice_ieq(argv[0], "all") && !partition_arg(s, argv[0], &partition, why))
        return NULL;
    if (argc != 2 || !slice_ieq(argv[1], "--accept-loss")) {
        buf_put_str(why, "what only the absent replicas have will be lost; say --accept-loss to go on without them");
        return NULL;
    }
    if (s->member == NULL) {
        buf_put_str(why, "this node is alone: its partitions have no other replicas");
        return NULL;
    }
    err = member_recover(s->member, (uint32_t)partition, &recovered, &left);
    if (err < 0) {
        buf_put_str(why, err == ERR_NO_LEADER ? "the cluster has no controller now: a majority of the voters must run" : err_text(err));
        return NULL;
    }
    return json_pack("{s:i, s:i}", "recovered", (int)recovered, "left", (int)left);
}
