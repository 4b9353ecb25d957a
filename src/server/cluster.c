/* The server's part of a cluster: the bus, what this node tells of itself, the phases of getting in.
 *
 *   1. bus_open            binds cluster.listen, so that its port is known
 *   2. topology_open       identity and the disk's log; registers its handlers
 *   3. bus_start, topology_start: the control worker forms, joins or goes on; RESP, ctl.sock and HTTP answer meanwhile
 *   4. the cluster id is known: the partitions recover
 *   5. member and recovered: membership and replication start, Kafka and AMQP open, their ports are registered
 *
 * What the control worker has to say to the main thread goes through an eventfd. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/address.h"
#include "base/check.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/bus/bus.h"
#include "cluster/member/member.h"
#include "cluster/replicate/replicate.h"
#include "cluster/topology/identity.h"
#include "log/effect.h"
#include "protocols/amqp/amqp.h"
#include "protocols/http/http.h"
#include "protocols/kafka/front.h"
#include "protocols/resp/resp.h"
#include "server/internal.h"
#include "server/notify.h"

enum { GIVE_UP_MS = 1000, HAND_OVER_MS = 2000 };

bool server_is_clustered(const struct server *s)
{
    return s->config->cluster_seeds.count > 0;
}

/* ---- the bus ------------------------------------------------------------------------------------------------------- */

static void peer_up(void *arg, const struct bus_peer *peer)
{
    struct server *s = arg;

    if (!__atomic_load_n(&s->members_run, __ATOMIC_ACQUIRE))
        return;
    member_peer_up(s->member, peer);
    kafka_front_peer(s->kafka, peer->node_id, true);
}

static void peer_down(void *arg, const struct bus_peer *peer, enum bus_down why)
{
    struct server *s = arg;

    if (!__atomic_load_n(&s->members_run, __ATOMIC_ACQUIRE))
        return;
    member_peer_down(s->member, peer, why);
    kafka_front_peer(s->kafka, peer->node_id, false);
}

static void peer_silent(void *arg, const struct bus_peer *peer, bool silent)
{
    struct server *s = arg;

    if (__atomic_load_n(&s->members_run, __ATOMIC_ACQUIRE))
        kafka_front_peer(s->kafka, peer->node_id, !silent);
}

int server_open_bus(struct server *s)
{
    struct identity id;
    char why[400];
    struct bus_options o = {
        .workers = s->workers,
        .control = workers_extra(s->workers, 0),
        .data = workers_extra(s->workers, 1),
        .listen = s->config->cluster_listen.items[0],
        .advertise = s->config->cluster_advertise,
        .secret = s->config->cluster_secret,
        .total_partitions = (uint32_t)s->config->cluster_total_partitions,
        .level_min = 1,
        .level_max = EFFECT_LEVEL_MAX,
        .peer_up = peer_up,
        .peer_down = peer_down,
        .peer_silent = peer_silent,
        .arg = s,
    };
    int err = identity_open(s->config->node_data_dir, &id, why, sizeof(why));

    if (err < 0) {
        diag_error("the data directory is refused", "reason=\"%s\"", why);
        return err;
    }
    memcpy(o.node_uuid, id.node_uuid, 16);
    err = bus_open(&o, &s->bus);
    if (err < 0) {
        diag_error("a listener cannot be opened", "protocol=cluster address=%s option=cluster.listen err=\"%s\"", o.listen, err_text(err));
        return err;
    }
    diag_info("listening", "protocol=cluster address=%.*s:%u", (int)(strrchr(o.listen, ':') - o.listen), o.listen, bus_port(s->bus));
    return 0;
}

/* ---- addresses ----------------------------------------------------------------------------------------------------- */

static uint16_t port_of(struct server *s, const char *protocol, const struct config_list *listen)
{
    struct address a;

    for (unsigned i = 0; i < s->listener_count; i++) {
        if (strcmp(s->listeners[i].protocol, protocol) == 0)
            return listener_port(s->listeners[i].listener);
    }
    return listen->count > 0 && address_parse(listen->items[0], &a) == 0 && !a.is_unix ? a.port : 0;
}

/* `advertise` is HOST:PORT or HOST; what it leaves out is the listener's. */
static void set_endpoint(struct topo_endpoint *e, const char *advertise, uint16_t port)
{
    const char *colon = strrchr(advertise, ':');
    struct address a;

    *e = (struct topo_endpoint){.host = SLICE_LIT(""), .port = port};
    if (advertise[0] == '\0')
        return;
    if (address_parse(advertise, &a) < 0) {
        e->host = slice_str(advertise);
        return;
    }
    e->port = a.port != 0 ? a.port : port;
    e->host = advertise[0] == '[' ? slice_of(advertise + 1, (size_t)(colon - advertise) - 2) : slice_of(advertise, (size_t)(colon - advertise));
}

/* Borrowed from the configuration. The hosts that stay empty are this node's in cluster.seeds. */
void server_endpoints(struct server *s, struct topo_endpoint ret[TOPO_LISTENERS])
{
    const struct config *c = s->config;

    memset(ret, 0, sizeof(ret[0]) * TOPO_LISTENERS);
    set_endpoint(&ret[TOPO_RESP], c->resp_advertise, port_of(s, "resp", &c->resp_listen));
    set_endpoint(&ret[TOPO_KAFKA], c->kafka_advertise, port_of(s, "kafka", &c->kafka_listen));
    set_endpoint(&ret[TOPO_AMQP], c->amqp_advertise, port_of(s, "amqp", &c->amqp_listen));
    set_endpoint(&ret[TOPO_HTTP], c->http_advertise, c->http_listen.count == 0 || s->http == NULL ? 0 : http_port(s->http));
    if (s->bus != NULL)
        set_endpoint(&ret[TOPO_BUS], c->cluster_advertise, bus_port(s->bus));
}

/* Where the bus listens, when that is an address others can use. */
char *server_bus_address(struct server *s)
{
    const char *listen = s->config->cluster_listen.items[0];
    struct address a;

    CHECK(address_parse(listen, &a) == 0);
    if (a.is_unix || a.host[0] == '\0' || strcmp(a.host, "0.0.0.0") == 0 || strcmp(a.host, "::") == 0)
        return NULL;
    return mem_printf(strchr(a.host, ':') != NULL ? "[%s]:%u" : "%s:%u", a.host, bus_port(s->bus));
}

/* cluster.advertise with the port it may leave out. */
char *server_bus_advertise(struct server *s)
{
    struct topo_endpoint e;

    if (s->config->cluster_advertise[0] == '\0')
        return NULL;
    set_endpoint(&e, s->config->cluster_advertise, bus_port(s->bus));
    return mem_printf(memchr(e.host.data, ':', e.host.len) != NULL ? "[%.*s]:%u" : "%.*s:%u", (int)e.host.len, (const char *)e.host.data, e.port);
}

/* ---- news of the control worker -------------------------------------------------------------------------------------- */

void server_cluster_phase(void *arg, enum topology_phase phase, const char *text)
{
    struct server *s = arg;

    if (phase == TOPOLOGY_FORMING || phase == TOPOLOGY_LOADING)
        notify_send("STATUS=%s", text);
    CHECK(eventfd_write(s->news_fd, 1) == 0);
}

/* The view is a new one: membership and replication look at what concerns them. */
void server_cluster_published(void *arg)
{
    struct server *s = arg;

    if (s->logs != NULL)
        log_store_set_level(s->logs, topology_view(s->topology)->level);
    if (__atomic_load_n(&s->members_run, __ATOMIC_ACQUIRE))
        member_topology_changed(s->member);
    if (__atomic_load_n(&s->replicating, __ATOMIC_ACQUIRE))
        replication_topology_changed(s->replication);
}

void server_cluster_leading(void *arg, bool leading, uint64_t term)
{
    struct server *s = arg;

    diag_info(leading ? "this node is the controller" : "this node is the controller no more", "term=%llu", (unsigned long long)term);
    member_leading(s->member, leading, term);
}

static void ages(void *arg, uint32_t *ret_sync_ms, uint32_t *ret_replication_ms)
{
    struct server *s = arg;

    uint32_t raft_ms = topology_disk_busy_ms(s->topology);

    *ret_sync_ms = MAX_OF(log_store_sync_age_ms(s->logs), raft_ms); /* one disk, two who write to it */
    *ret_replication_ms = __atomic_load_n(&s->replicating, __ATOMIC_ACQUIRE) ? replication_age_ms(s->replication) : 0;
}

static bool healthy(void *arg)
{
    struct server *s = arg;

    return log_store_health(s->logs) == 0;
}

static void hand_over(void *arg, uint32_t partition, uint32_t to)
{
    struct server *s = arg;

    if (__atomic_load_n(&s->replicating, __ATOMIC_ACQUIRE))
        replication_hand_over(s->replication, partition, to);
}

static void lease_ended(void *arg)
{
    struct server *s = arg;

    if (__atomic_load_n(&s->members_run, __ATOMIC_ACQUIRE))
        kafka_front_lease_ended(s->kafka);
}

/* 0 when nobody asked: rule 12's default, 2, but 1 for fewer than three replicas. Who asks for 2 gets 2 where there are two. */
static uint32_t min_insync_asked(const struct config *c)
{
    struct buf source = {0};
    bool asked = config_get_source(c, "cluster.min_insync", &source) == 0 && !slice_eq(buf_slice(&source), SLICE_LIT("default"));

    buf_fini(&source);
    return asked ? (uint32_t)c->cluster_min_insync : 0;
}

static int make_member(struct server *s)
{
    const struct config *c = s->config;
    struct member_options o = {
        .control = workers_extra(s->workers, 0),
        .bus = s->bus,
        .topology = s->topology,
        .partitions = s->partitions,
        .heartbeat_ms = (uint32_t)c->cluster_health_check_interval_ms,
        .lease_ms = (uint32_t)c->cluster_lease_ms,
        .failure_timeout_ms = (uint32_t)c->cluster_failure_timeout_ms,
        .replace_after_ms = (uint32_t)c->cluster_replace_after_ms,
        .rebalance_permille = (uint32_t)(c->cluster_rebalance_threshold * 1000 + 0.5),
        .replication_factor = (uint32_t)c->cluster_replication_factor,
        .min_insync = min_insync_asked(c),
        .ages = ages,
        .healthy = healthy,
        .hand_over = hand_over,
        .lease_ended = lease_ended,
        .arg = s,
    };

    return member_new(&o, &s->member);
}

/* ---- the fronts ------------------------------------------------------------------------------------------------------ */

void server_cast_pubsub(void *arg, struct slice message)
{
    struct server *s = arg;
    struct bus *bus = __atomic_load_n(&s->bus, __ATOMIC_ACQUIRE);

    if (bus != NULL)
        bus_cast(bus, BUS_PUBSUB, message);
}

unsigned server_list_links(void *arg, struct bus_link_info *ret, unsigned max)
{
    struct server *s = arg;
    struct bus *bus = __atomic_load_n(&s->bus, __ATOMIC_ACQUIRE);

    return bus == NULL ? 0 : bus_links(bus, ret, max);
}

static void hear_pubsub(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct server *s = arg;

    (void)r;
    if (resp_front_receive(s->resp, payload) < 0)
        DIAG_EVERY(DIAG_WARN, "a published message of another node cannot be read", "node=%u", from->node_id);
}

/* Any thread; may only post. */
static void role_changed(void *arg, uint32_t partition, bool leader)
{
    struct server *s = arg;

    if (leader)
        server_leads(s, partition);
    else
        resp_front_role_changed(s->resp, partition);
}

int server_start_cluster(struct server *s)
{
    struct replication_options o = {
        .workers = s->workers,
        .data = workers_extra(s->workers, 1),
        .bus = s->bus,
        .topology = s->topology,
        .partitions = s->partitions,
        .streams = s->streams,
        .logs = s->logs,
        .data_dir = s->config->node_data_dir,
        .replica_lag_max_ms = (uint32_t)s->config->cluster_replica_lag_max_ms,
        .lease_ms = (uint32_t)s->config->cluster_lease_ms,
        .min_insync = (uint32_t)s->config->cluster_min_insync,
        .role_changed = role_changed,
        .arg = s,
    };
    int err = replication_new(&o, &s->replication);

    if (err == 0)
        err = make_member(s);
    if (err < 0)
        return err;
    resp_front_set_replication(s->resp, s->replication);
    bus_handle(s->bus, BUS_PUBSUB, hear_pubsub, s);
    topology_set_unclean(s->topology, log_store_power_lost(s->logs));
    bus_show_metrics(s->bus);
    bus_start(s->bus);
    err = topology_start(s->topology);
    if (err < 0)
        return err;
    member_start(s->member);
    __atomic_store_n(&s->members_run, true, __ATOMIC_RELEASE);
    return 0;
}

/* On the main thread, whenever there is news. 0, or why the node must end. */
int server_cluster_news(struct server *s)
{
    static const uint8_t none[16];
    struct topology_group g;
    uint8_t cluster[16];
    int err;

    topology_group_get(s->topology, &g);
    if (g.phase == TOPOLOGY_FAILED) {
        diag_error("the node cannot take part in its cluster", "reason=\"%s\"", g.text);
        return ERR_FOREIGN;
    }
    topology_cluster_id(s->topology, cluster);
    if (!s->recovering && memcmp(cluster, none, 16) != 0) {
        if (!s->cluster_known) {
            err = log_store_set_cluster(s->logs, cluster);
            if (err < 0) {
                diag_error("the cluster's id cannot be written", "err=\"%s\"", err_text(err));
                return err;
            }
            partitions_set_cluster(s->partitions, cluster);
            s->cluster_known = true;
        }
        server_recover(s);
    }
    s->member_of_cluster = g.phase == TOPOLOGY_MEMBER;
    return 0;
}

/* Recovered, registered, all listeners open: their ports are what the topology shall tell, and what it says of the partitions is followed from now on. */
void server_cluster_ready(struct server *s)
{
    struct topo_endpoint endpoints[TOPO_LISTENERS];

    replication_start(s->replication);
    __atomic_store_n(&s->replicating, true, __ATOMIC_RELEASE);
    replication_topology_changed(s->replication); /* what was published in between */
    member_serve(s->member);
    server_endpoints(s, endpoints);
    topology_set_endpoints(s->topology, endpoints);
}

static void take_turn(struct worker *w, void *arg)
{
    (void)w, (void)arg;
}

/* Before the workers stop: somebody else leads the group first, so that nobody waits for an election. */
void server_leave_cluster(struct server *s)
{
    /* Clients are told where to go on by those who lead then, instead of by a failure. */
    if (s->replicating)
        replication_leave(s->replication, HAND_OVER_MS);
    if (s->topology != NULL)
        topology_give_up_leading(s->topology, GIVE_UP_MS);
    if (s->members_run)
        member_stop(s->member);
    if (s->replicating)
        replication_stop(s->replication);
    amqp_front_leave_cluster(s->amqp);
    topology_leave(s->topology);
    if (s->bus == NULL)
        return;
    struct bus *bus = s->bus;

    /* Clients' commands still run: whoever took the bus for one is through with it a turn later. */
    __atomic_store_n(&s->bus, NULL, __ATOMIC_RELEASE);
    workers_run_each(s->workers, take_turn, NULL);
    bus_close(bus);
}
