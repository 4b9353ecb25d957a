/* GOMSG DOCTOR: what usually goes wrong around a node, looked at by the node itself. Each finding says what is so and what to do; level ok, warn or bad. On the admin thread, which may block. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include "base/address.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "cluster/bus/bus.h"
#include "cluster/member/member.h"
#include "cluster/replicate/replicate.h"
#include "server/internal.h"

enum level { OK, WARN, BAD };

static void find(json_t *out, const char *check, enum level level, const char *advice, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
static void find(json_t *out, const char *check, enum level level, const char *advice, const char *fmt, ...)
{
    static const char *const levels[] = {"ok", "warn", "bad"};
    char text[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    json_array_append_new(out, json_pack("{s:s, s:s, s:s, s:s}", "check", check, "level", levels[level], "finding", text, "advice", advice));
}

/* ---- addresses (DESIGN: the first thing that breaks behind NAT and in containers) ------------------------------------------ */

static bool is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

struct address_walk {
    json_t *out;
    unsigned nodes, loopback_buses;
    bool bad;
};

static bool count_bus(const struct topo_node *n, void *arg)
{
    struct address_walk *walk = arg;
    char host[256];
    uint16_t port;

    walk->nodes++;
    if (topo_node_address(n, TOPO_BUS, host, sizeof(host), &port) && is_loopback(host))
        walk->loopback_buses++;
    return true;
}

static bool check_node_addresses(const struct topo_node *n, void *arg)
{
    static const char *const names[TOPO_LISTENERS] = {"resp", "kafka", "amqp", "http", "cluster"};
    struct address_walk *walk = arg;
    bool all_local = walk->loopback_buses == walk->nodes;

    for (unsigned i = 0; i < TOPO_LISTENERS; i++) {
        char host[256], *advice;
        uint16_t port;

        if (n->endpoints[i].port == 0)
            continue;
        if (!topo_node_address(n, (enum topo_listener)i, host, sizeof(host), &port)) {
            advice = mem_printf("set %s.advertise on node %u, or name it in cluster.seeds by an address others can use", names[i], n->id);
            find(walk->out, "addresses", BAD, advice, "node %u has no address to tell for %s", n->id, names[i]);
        } else if (is_loopback(host) && !all_local) {
            advice = mem_printf("set %s.advertise on node %u", names[i], n->id);
            find(walk->out, "addresses", BAD, advice, "node %u tells clients of other machines %s:%u for %s", n->id, host, port, names[i]);
        } else {
            continue;
        }
        walk->bad = true;
        mem_free(advice);
    }
    return true;
}

static void check_addresses(struct server *s, json_t *out)
{
    struct address_walk walk = {.out = out};
    const struct topology *v = topology_pin(s->topology);

    topo_each_node(v, count_bus, &walk);
    topo_each_node(v, check_node_addresses, &walk);
    topology_unpin(s->topology);
    if (!walk.bad)
        find(out, "addresses", OK, "", "%u node%s, each with addresses that can be told", walk.nodes, walk.nodes == 1 ? "" : "s");
}

/* ---- the other nodes -------------------------------------------------------------------------------------------------------- */

static void check_peers(struct server *s, json_t *out)
{
    struct bus_peer_info peers[64];
    unsigned n, up = 0;

    if (s->bus == NULL)
        return;
    n = bus_peers(s->bus, peers, ARRAY_LEN(peers));
    n = n > ARRAY_LEN(peers) ? ARRAY_LEN(peers) : n;
    for (unsigned i = 0; i < n; i++) {
        if (peers[i].control_up && peers[i].data_up) {
            up++;
            continue;
        }
        find(out, "peers", BAD, peers[i].refused[0] != '\0' ? "see the reason" : "is it running, and can this machine reach its cluster.listen port, also in the other direction?",
             "no connection to node %u at %s%s%s", peers[i].node_id, peers[i].address, peers[i].refused[0] != '\0' ? ": " : "", peers[i].refused);
    }
    if (up == n)
        find(out, "peers", OK, "", "connected to %u other node%s", up, up == 1 ? "" : "s");
}

static void check_clocks(struct server *s, json_t *out)
{
    struct member_node_info nodes[64];
    int64_t worst = 0;
    unsigned n;

    if (s->member == NULL)
        return;
    n = member_nodes(s->member, nodes, ARRAY_LEN(nodes));
    for (unsigned i = 0; i < n && i < ARRAY_LEN(nodes); i++) {
        int64_t skew = nodes[i].clock_skew_ms < 0 ? -nodes[i].clock_skew_ms : nodes[i].clock_skew_ms;

        worst = MAX_OF(worst, skew);
        if (skew > 500)
            find(out, "clocks", skew > 10000 ? BAD : WARN, "let chrony or systemd-timesyncd set it; above 10 s a node may not lead (rule 26)", "the clock of node %u is off by %lld ms", nodes[i].node_id,
                 (long long)nodes[i].clock_skew_ms);
    }
    if (worst <= 500)
        find(out, "clocks", OK, "", "clocks agree within %lld ms", (long long)worst);
}

/* ---- partitions --------------------------------------------------------------------------------------------------------------- */

static void check_partitions(struct server *s, json_t *out)
{
    const struct topology *v = topology_pin(s->topology);
    struct replication_totals totals = {0};
    uint32_t offline = 0, short_of = 0, behind = 0, led = 0, me = topology_node_id(s->topology), workers = workers_client_count(s->workers);

    for (uint32_t i = 0; i < v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);
        struct topo_replica_set in;

        if (p == NULL)
            continue;
        in = topo_insync(p);
        offline += p->leader == 0;
        short_of += p->leader != 0 && in.count < topo_partition_min_insync(v, p);
        behind += p->leader != 0 && in.count < p->replica_count;
        led += p->leader == me;
    }
    topology_unpin(s->topology);
    if (s->replicating)
        replication_totals(s->replication, &totals);
    if (totals.damaged != 0)
        find(out, "partitions", BAD, "each is fetched anew from its leader by itself, the files go to damaged/ in the data directory; where it was the last copy that may lead: bring its files back and restart if you can, then gomsgctl partitions recover PARTITION --accept-loss. Look after the disk: smartctl -a, dmesg",
             "the copies of %u partitions on this node are damaged", totals.damaged);
    if (offline != 0)
        find(out, "partitions", BAD, "start the nodes that hold them; gomsgctl cluster partitions names them, gomsgctl partitions recover gives a lost one up", "%u partitions have no leader", offline);
    if (short_of != 0)
        find(out, "partitions", BAD, "writes of level quorum are refused there until more replicas are in sync", "%u partitions have fewer than min_insync replicas in sync", short_of);
    if (behind != 0)
        find(out, "partitions", WARN, "they catch up by themselves when their nodes are back; gomsgctl cluster partitions", "%u partitions lack a replica", behind);
    if (offline + short_of + behind == 0)
        find(out, "partitions", OK, "", "every partition has its leader and its replicas");
    if (led != 0 && led < 4 * workers)
        find(out, "parallelism", WARN, "a partition is used by one thread at a time: form clusters of many cores with more of cluster.total_partitions", "this node leads %u partitions for %u worker threads", led, workers);
}

/* ---- this machine ---------------------------------------------------------------------------------------------------------------- */

static void check_disk(struct server *s, json_t *out)
{
    const char *dir = s->config->node_data_dir;
    struct statvfs v;
    struct statfs f;
    uint64_t free_bytes, reserve = (uint64_t)s->config->log_disk_reserve;

    if (statvfs(dir, &v) < 0 || statfs(dir, &f) < 0) {
        find(out, "disk", BAD, "", "%s: %s", dir, strerror(errno));
        return;
    }
    free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
    if (free_bytes < reserve)
        find(out, "disk", BAD, "writes are refused; make room, or delete topics and queues", "%s has %llu MiB left, less than log.disk_reserve", dir, (unsigned long long)(free_bytes >> 20));
    else if (free_bytes < 4 * reserve || v.f_bavail < v.f_blocks / 10)
        find(out, "disk", WARN, "make room before writes are refused at log.disk_reserve", "%s has %llu MiB left", dir, (unsigned long long)(free_bytes >> 20));
    else
        find(out, "disk", OK, "", "%s has %llu MiB left", dir, (unsigned long long)(free_bytes >> 20));
    switch ((unsigned long)f.f_type) {
    case 0x01021994: /* tmpfs */
        find(out, "file system", WARN, "put node.data_dir on a disk", "%s is in memory (tmpfs): nothing survives a reboot", dir);
        break;
    case 0x6969: /* NFS */
        find(out, "file system", WARN, "put node.data_dir on a local disk", "%s is on NFS, where a sync may mean little", dir);
        break;
    default:
        break;
    }
    if (log_store_health(s->logs) != 0)
        find(out, "disk", BAD, "replace the disk; the other nodes go on", "a sync failed (%s): no log takes appends any more", err_name(log_store_health(s->logs)));
    if (log_store_suspects(s->logs) != 0)
        find(out, "disk", BAD, "the diagnostics name the files. A partition with replicas fetches them anew by itself; look at the disk, and copy what has no replica", "%u logs have a sealed segment that differs from its checksum", log_store_suspects(s->logs));
}

/* A number of /proc or /sys; -1: not to be had. */
static long long number_of(const char *path)
{
    struct buf b = {0};
    long long v = -1;

    if (file_read(path, 4096, &b) == 0) {
        buf_put_u8(&b, 0);
        if (sscanf((const char *)b.data, "%lld", &v) != 1)
            v = -1;
    }
    buf_fini(&b);
    return v;
}

static void check_limits(struct server *s, json_t *out)
{
    struct rlimit r;
    uint64_t wanted = (uint64_t)(s->config->resp_max_connections + s->config->kafka_max_connections + s->config->amqp_max_connections);
    long long maps = number_of("/proc/sys/vm/max_map_count"), backlog = number_of("/proc/sys/net/core/somaxconn");
    struct buf b = {0};
    bool all = true;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur != RLIM_INFINITY && r.rlim_cur - r.rlim_cur / 4 < wanted) {
        find(out, "limits", WARN, "raise it (LimitNOFILE= of the unit, ulimit -n), or lower *.max_connections", "%llu file descriptors are fewer than the connections allowed (%llu) and a quarter for segment files",
             (unsigned long long)r.rlim_cur, (unsigned long long)wanted);
        all = false;
    }
    if (maps >= 0 && maps < 4 * s->config->log_hot_max + 4096) {
        find(out, "limits", WARN, "sysctl -w vm.max_map_count=262144, or lower log.hot_max", "vm.max_map_count is %lld", maps);
        all = false;
    }
    if (backlog >= 0 && backlog < 511) {
        find(out, "limits", WARN, "sysctl -w net.core.somaxconn=4096", "net.core.somaxconn is %lld: connections that come all at once are dropped", backlog);
        all = false;
    }
    if (file_read("/sys/kernel/mm/transparent_hugepage/enabled", 256, &b) == 0) {
        buf_put_u8(&b, 0);
        if (strstr((const char *)b.data, "[always]") != NULL) {
            find(out, "limits", WARN, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled", "transparent huge pages are always used: memory grows beyond what the keys need");
            all = false;
        }
    }
    buf_fini(&b);
    if (all)
        find(out, "limits", OK, "", "file descriptors, mappings and backlog suffice");
}

static void check_settings(struct server *s, json_t *out)
{
    if (CONFIG_GET(s->config, log_fsync) == LOG_FSYNC_NEVER)
        find(out, "settings", WARN, "log.fsync: interval bounds what a power cut of all replicas loses", "log.fsync is never");
    if (s->config->security_allow_unauthenticated)
        find(out, "settings", WARN, "keep the ports behind a firewall", "security.allow_unauthenticated lets whoever reaches a listener in");
    if (s->bus != NULL && s->config->cluster_secret[0] == '\0')
        find(out, "settings", WARN, "set cluster.secret, the same on every node", "nodes do not have to prove that they belong to this cluster");
}

json_t *admin_doctor(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    json_t *out = json_array();

    (void)argc;
    (void)argv;
    (void)why;
    check_addresses(s, out);
    check_peers(s, out);
    check_clocks(s, out);
    check_partitions(s, out);
    check_disk(s, out);
    check_limits(s, out);
    check_settings(s, out);
    return out;
}
