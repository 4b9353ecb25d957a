/* Gauges of the whole node, read at each scrape on the HTTP thread. */
#include "base/mem.h"
#include "base/clock.h"
#include "cluster/replicate/replicate.h"
#include "metrics/metrics.h"
#include "partition/partition.h"
#include "protocols/amqp/amqp.h"
#include "queue/queue.h"
#include "server/internal.h"

static double up(void *arg)
{
    struct server *s = arg;

    return __atomic_load_n(&s->state, __ATOMIC_ACQUIRE) == SERVER_READY;
}

static double uptime(void *arg)
{
    struct server *s = arg;

    return (double)(clock_mono_us() - s->started_us) / 1e6;
}

static double resident(void *arg)
{
    (void)arg;
    return (double)mem_rss();
}

static double allocated(void *arg)
{
    (void)arg;
    return (double)mem_allocated();
}

static double keys(void *arg)
{
    struct server *s = arg;
    uint64_t n = 0;

    for (uint32_t i = 0; i < partitions_count(s->partitions); i++) {
        struct partition_info info;

        partition_info(partitions_get(s->partitions, i), &info);
        n += info.keys;
    }
    return (double)n;
}

/* The longest single hold of a partition's lock by a snapshot's walk (P18). */
static double snapshot_hold(void *arg)
{
    struct server *s = arg;
    uint64_t us = 0;

    for (uint32_t i = 0; i < partitions_count(s->partitions); i++) {
        struct partition_info info;

        partition_info(partitions_get(s->partitions, i), &info);
        if (info.snapshot_hold_max_us > us)
            us = info.snapshot_hold_max_us;
    }
    return (double)us / 1e6;
}

static double parked(void *arg)
{
    struct server *s = arg;
    uint64_t n = 0;

    for (uint32_t i = 0; i < partitions_count(s->partitions); i++) {
        struct partition_info info;

        partition_info(partitions_get(s->partitions, i), &info);
        n += info.parked_total;
    }
    return (double)n;
}

static double expired(void *arg)
{
    struct server *s = arg;
    uint64_t n = 0;

    for (uint32_t i = 0; i < partitions_count(s->partitions); i++) {
        struct partition_info info;

        partition_info(partitions_get(s->partitions, i), &info);
        n += info.expired_total;
    }
    return (double)n;
}

static double partitions_failed(void *arg)
{
    struct server *s = arg;
    unsigned n = 0;

    for (uint32_t i = 0; i < partitions_count(s->partitions); i++)
        n += partition_state(partitions_get(s->partitions, i)) == PARTITION_FAILED;
    return n;
}

#define LOG_GAUGE(field, scale)                                                                              \
    static double log_##field(void *arg)                                                                     \
    {                                                                                                        \
        struct server *s = arg;                                                                              \
        struct log_store_stats stats;                                                                        \
        log_store_stats(s->logs, &stats);                                                                    \
        return (double)stats.field * (scale);                                                                \
    }

LOG_GAUGE(logs, 1)
LOG_GAUGE(hot_logs, 1)
LOG_GAUGE(open_files, 1)
LOG_GAUGE(sync_rounds, 1)
LOG_GAUGE(sync_last_us, 1e-6)
LOG_GAUGE(sync_max_us, 1e-6)
LOG_GAUGE(unprefaulted, 1)
LOG_GAUGE(bytes_appended, 1)
LOG_GAUGE(disk_free, 1)
LOG_GAUGE(scrub_bytes, 1)
LOG_GAUGE(scrub_passes, 1)
LOG_GAUGE(suspects, 1)

#define WORKER_GAUGE(field)                                                                                  \
    static double worker_##field(void *arg)                                                                  \
    {                                                                                                        \
        struct server *s = arg;                                                                              \
        uint64_t n = 0;                                                                                      \
        for (unsigned i = 0; i < workers_count(s->workers); i++) {                                           \
            struct worker_stats stats;                                                                       \
            worker_get_stats(workers_get(s->workers, i), &stats);                                            \
            n += stats.field;                                                                                \
        }                                                                                                    \
        return (double)n;                                                                                    \
    }

WORKER_GAUGE(turns)
WORKER_GAUGE(naps)
WORKER_GAUGE(mails)
WORKER_GAUGE(bytes_in)
WORKER_GAUGE(bytes_out)
WORKER_GAUGE(opened)

static double refused(void *arg)
{
    struct server *s = arg;
    unsigned n = __atomic_load_n(&s->listener_count, __ATOMIC_ACQUIRE);
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++)
        sum += listener_refused(s->listeners[i].listener);
    return (double)sum;
}

#define AMQP_GAUGE(field)                                                                                    \
    static double amqp_##field(void *arg)                                                                    \
    {                                                                                                        \
        struct server *s = arg;                                                                              \
        struct amqp_front *front = __atomic_load_n(&s->amqp, __ATOMIC_ACQUIRE);                              \
        struct amqp_front_stats stats = {0};                                                                 \
        if (front != NULL)                                                                                   \
            amqp_front_stats(front, &stats);                                                                 \
        return (double)stats.field;                                                                          \
    }

AMQP_GAUGE(channels)
AMQP_GAUGE(consumers)
AMQP_GAUGE(published)
AMQP_GAUGE(unroutable)
AMQP_GAUGE(confirmed)
AMQP_GAUGE(nacked)
AMQP_GAUGE(delivered)
AMQP_GAUGE(got)
AMQP_GAUGE(acked)
AMQP_GAUGE(redelivered)

static double topics(void *arg)
{
    struct server *s = arg;
    double n = (double)topology_pin(s->topology)->topics.count;

    topology_unpin(s->topology);
    return n;
}

static double queues(void *arg)
{
    struct server *s = arg;
    double n = (double)topology_pin(s->topology)->queues.count;

    topology_unpin(s->topology);
    return n;
}

static struct queue_replayed replayed(const struct server *s)
{
    struct queue_replayed sum = {0};

    for (uint32_t i = 0; i < partitions_count(s->partitions); i++) {
        struct queue_replayed r = queue_table_replayed(partition_queues(partitions_get(s->partitions, i)));

        sum.background += r.background;
        sum.locked += r.locked;
        sum.followed += r.followed;
    }
    return sum;
}

static double replayed_opening(void *arg)
{
    return (double)replayed(arg).background;
}

static double replayed_locked(void *arg)
{
    return (double)replayed(arg).locked;
}

static double replayed_following(void *arg)
{
    return (double)replayed(arg).followed;
}

static double resp_connections(void *arg)
{
    return server_connections(arg, "resp");
}

static double kafka_connections(void *arg)
{
    return server_connections(arg, "kafka");
}

#define REPLICATION(name, member, unit)                   \
    static double name(void *arg)                         \
    {                                                     \
        struct server *s = arg;                           \
        struct replication_totals t = {0};                \
                                                          \
        if (s->replication != NULL)                       \
            replication_totals(s->replication, &t);       \
        return (double)t.member / (unit);                 \
    }
REPLICATION(partitions_led, led, 1)
REPLICATION(partitions_followed, followed, 1)
REPLICATION(partitions_below, below_min_insync, 1)
REPLICATION(replicas_out, out_of_sync, 1)
REPLICATION(replicas_damaged, damaged, 1)
REPLICATION(replica_lag_records, lag_records_max, 1)
REPLICATION(replica_lag, lag_ms_max, 1e3)

static double amqp_connections(void *arg)
{
    return server_connections(arg, "amqp");
}

static double ctl_connections(void *arg)
{
    return server_connections(arg, "ctl");
}

/* ---- of a cluster ---- */

static double is_controller(void *arg)
{
    struct server *s = arg;

    return topology_is_leading(s->topology);
}

static double has_lease(void *arg)
{
    struct server *s = arg;

    return partitions_lease_ok(s->partitions);
}

static double count_roles(struct server *s, enum partition_role role)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < partitions_count(s->partitions); i++)
        n += partition_role(partitions_get(s->partitions, i)) == role;
    return n;
}

static double leaders(void *arg)
{
    return count_roles(arg, PARTITION_LEADER);
}

static double followers(void *arg)
{
    return count_roles(arg, PARTITION_FOLLOWER);
}

static double opening(void *arg)
{
    return count_roles(arg, PARTITION_OPENING);
}

static double offline(void *arg)
{
    struct server *s = arg;
    const struct topology *v = topology_pin(s->topology);
    unsigned n = 0;

    for (uint32_t i = 0; i < v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);

        n += p != NULL && p->leader == 0;
    }
    topology_unpin(s->topology);
    return n;
}

static double below_min_insync(void *arg)
{
    struct server *s = arg;
    const struct topology *v = topology_pin(s->topology);
    unsigned n = 0;

    for (uint32_t i = 0; i < v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);

        n += p != NULL && topo_insync(p).count < topo_partition_min_insync(v, p);
    }
    topology_unpin(s->topology);
    return n;
}

/* ---- a series a partition: of the first that have a role here, so that thousands of partitions do not flood a scrape ---- */

#define PARTITION_SERIES_MAX 512

static void each_partition(struct server *s, struct buf *out, const char *name, bool led_only, void (*put)(struct server *s, struct buf *out, const char *name, struct partition *p))
{
    unsigned n = 0;

    for (uint32_t i = 0; i < partitions_count(s->partitions) && n < PARTITION_SERIES_MAX; i++) {
        struct partition *p = partitions_get(s->partitions, i);
        enum partition_role role = partition_role(p);

        if (role == PARTITION_NONE || (led_only && role < PARTITION_LEADER))
            continue;
        put(s, out, name, p);
        n++;
    }
}

static void put_role(struct server *s, struct buf *out, const char *name, struct partition *p)
{
    (void)s;
    buf_printf(out, "%s{partition=\"%u\",role=\"%s\"} 1\n", name, partition_index(p), partition_role_name(partition_role(p)));
}

static void put_epoch(struct server *s, struct buf *out, const char *name, struct partition *p)
{
    (void)s;
    buf_printf(out, "%s{partition=\"%u\"} %d\n", name, partition_index(p), partition_epoch(p));
}

static void put_lag(struct server *s, struct buf *out, const char *name, struct partition *p)
{
    struct replica_info replicas[TOPO_REPLICAS_MAX];
    bool seconds = strstr(name, "seconds") != NULL;
    unsigned n = s->replication == NULL ? 0 : replication_replicas(s->replication, partition_index(p), replicas, TOPO_REPLICAS_MAX);

    for (unsigned i = 0; i < MIN_OF(n, (unsigned)TOPO_REPLICAS_MAX); i++) {
        buf_printf(out, "%s{partition=\"%u\",node=\"%u\"} ", name, partition_index(p), replicas[i].node_id);
        if (seconds)
            buf_printf(out, "%.3f\n", (double)replicas[i].lag_ms / 1e3);
        else
            buf_printf(out, "%llu\n", (unsigned long long)replicas[i].lag_records);
    }
}

static void write_roles(struct buf *out, const char *name, void *arg)
{
    each_partition(arg, out, name, false, put_role);
}

static void write_epochs(struct buf *out, const char *name, void *arg)
{
    each_partition(arg, out, name, false, put_epoch);
}

static void write_lags(struct buf *out, const char *name, void *arg)
{
    each_partition(arg, out, name, true, put_lag);
}

static void register_partition_series(struct server *s)
{
    metrics_collector_register("gomsg_partition_role", "What this node is to a partition: 1 with its role; the first 512 partitions that have one", 0, write_roles, s);
    metrics_collector_register("gomsg_partition_epoch", "The leader epoch of that role", 0, write_epochs, s);
    metrics_collector_register("gomsg_partition_lag_records", "Records a follower of a partition led here has not got, over its logs", 0, write_lags, s);
    metrics_collector_register("gomsg_partition_lag_seconds", "Time since a follower of a partition led here had everything", 0, write_lags, s);
}

static void register_cluster_gauges(struct server *s)
{
    if (server_is_clustered(s))
        register_partition_series(s);
    metrics_gauge_register("gomsg_cluster_controller", "1 on the node that is the controller", NULL, 0, is_controller, s);
    metrics_gauge_register("gomsg_cluster_lease", "1 while this node may serve as a leader", NULL, 0, has_lease, s);
    metrics_gauge_register("gomsg_partitions_by_role", "Partitions by what this node is to them", "role=\"leader\"", 0, leaders, s);
    metrics_gauge_register("gomsg_partitions_by_role", "Partitions by what this node is to them", "role=\"follower\"", 0, followers, s);
    metrics_gauge_register("gomsg_partitions_by_role", "Partitions by what this node is to them", "role=\"opening\"", 0, opening, s);
    metrics_gauge_register("gomsg_cluster_partitions_offline", "Partitions of the cluster that have no leader", NULL, 0, offline, s);
    metrics_gauge_register("gomsg_cluster_partitions_below_min_insync", "Partitions of the cluster that refuse writes of level quorum", NULL, 0, below_min_insync, s);
}

void server_register_gauges(struct server *s)
{
    static const struct {
        const char *name, *help;
        int counter;
        double (*read)(void *arg);
    } gauges[] = {
        {"gomsg_up", "1 when every protocol is served", 0, up},
        {"gomsg_uptime_seconds", "Time since the process started", 0, uptime},
        {"gomsg_memory_resident_bytes", "Resident memory of the process", 0, resident},
        {"gomsg_memory_allocated_bytes", "Memory handed out by the allocator", 0, allocated},
        {"gomsg_kv_keys", "Keys of all databases", 0, keys},
        {"gomsg_kv_snapshot_hold_max_seconds", "Longest hold of a partition's lock by a snapshot", 0, snapshot_hold},
        {"gomsg_keys_expired_total", "Keys removed because their time had come", 1, expired},
        {"gomsg_partition_parked_total", "Commands that waited for a partition", 1, parked},
        {"gomsg_partitions_failed", "Partitions that refuse to work", 0, partitions_failed},
        {"gomsg_topics", "Topics", 0, topics},
        {"gomsg_queues", "Queues", 0, queues},
        {"gomsg_logs", "Logs known", 0, log_logs},
        {"gomsg_logs_hot", "Logs that are mapped", 0, log_hot_logs},
        {"gomsg_log_open_files", "Segment files held open", 0, log_open_files},
        {"gomsg_log_sync_rounds_total", "Sync rounds", 1, log_sync_rounds},
        {"gomsg_log_sync_last_seconds", "Duration of the last sync round", 0, log_sync_last_us},
        {"gomsg_log_sync_max_seconds", "Longest sync round", 0, log_sync_max_us},
        {"gomsg_log_append_unprefaulted_total", "Appends that met a page not faulted in before", 1, log_unprefaulted},
        {"gomsg_log_scrub_bytes_total", "Bytes of sealed segments read and compared with their checksums", 1, log_scrub_bytes},
        {"gomsg_log_scrub_passes_total", "Passes over all sealed segments that came to their end", 1, log_scrub_passes},
        {"gomsg_logs_suspect", "Logs of which a sealed segment differs from its checksum", 0, log_suspects},
        {"gomsg_log_appended_bytes_total", "Bytes appended to all logs", 1, log_bytes_appended},
        {"gomsg_worker_turns_total", "Turns of the workers' loops", 1, worker_turns},
        {"gomsg_worker_naps_total", "Turns that waited to gather one-way messages (amqp.coalesce)", 1, worker_naps},
        {"gomsg_worker_mails_total", "Messages between workers", 1, worker_mails},
        {"gomsg_connections_opened_total", "Connections accepted", 1, worker_opened},
        {"gomsg_connections_refused_total", "Connections refused because of a limit", 1, refused},
        {"gomsg_net_input_bytes_total", "Bytes read from connections", 1, worker_bytes_in},
        {"gomsg_net_output_bytes_total", "Bytes written to connections", 1, worker_bytes_out},
        {"gomsg_amqp_channels", "Open channels", 0, amqp_channels},
        {"gomsg_amqp_consumers", "Consumers of queues", 0, amqp_consumers},
        {"gomsg_amqp_messages_published_total", "Messages published", 1, amqp_published},
        {"gomsg_amqp_messages_unroutable_total", "Messages no queue wanted", 1, amqp_unroutable},
        {"gomsg_amqp_messages_confirmed_total", "Messages confirmed to publishers", 1, amqp_confirmed},
        {"gomsg_amqp_messages_nacked_total", "Messages refused to publishers", 1, amqp_nacked},
        {"gomsg_amqp_messages_delivered_total", "Messages delivered to consumers", 1, amqp_delivered},
        {"gomsg_amqp_messages_got_total", "Messages fetched by basic.get", 1, amqp_got},
        {"gomsg_amqp_messages_acknowledged_total", "Messages acknowledged", 1, amqp_acked},
        {"gomsg_amqp_messages_redelivered_total", "Deliveries that were not a message's first", 1, amqp_redelivered},
        {"gomsg_partitions_led", "Partitions this node leads in a cluster", 0, partitions_led},
        {"gomsg_partitions_followed", "Partitions this node follows", 0, partitions_followed},
        {"gomsg_partitions_below_min_insync", "Partitions led here that cannot serve level quorum", 0, partitions_below},
        {"gomsg_replicas_out_of_sync", "Followers of partitions led here that are not in sync", 0, replicas_out},
        {"gomsg_replicas_damaged", "Copies of partitions on this node that are damaged and not repaired yet", 0, replicas_damaged},
        {"gomsg_replica_lag_records", "Records the slowest follower of a partition led here has not got, over its logs", 0, replica_lag_records},
        {"gomsg_replica_lag_seconds", "Time since the slowest follower of a partition led here had everything", 0, replica_lag},
        {"gomsg_disk_free_bytes", "Free space where the data directory lies", 0, log_disk_free},
    };

    for (size_t i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++)
        metrics_gauge_register(gauges[i].name, gauges[i].help, NULL, gauges[i].counter, gauges[i].read, s);
    register_cluster_gauges(s);
    metrics_gauge_register("gomsg_queue_replayed_records_total", "Records of queues that were read back from their logs", "when=\"opening\"", 1, replayed_opening, s);
    metrics_gauge_register("gomsg_queue_replayed_records_total", "Records of queues that were read back from their logs", "when=\"opening_locked\"", 1, replayed_locked, s);
    metrics_gauge_register("gomsg_queue_replayed_records_total", "Records of queues that were read back from their logs", "when=\"following\"", 1, replayed_following, s);
    metrics_gauge_register("gomsg_connections", "Connections", "protocol=\"resp\"", 0, resp_connections, s);
    metrics_gauge_register("gomsg_connections", "Connections", "protocol=\"kafka\"", 0, kafka_connections, s);
    metrics_gauge_register("gomsg_connections", "Connections", "protocol=\"amqp\"", 0, amqp_connections, s);
    metrics_gauge_register("gomsg_connections", "Connections", "protocol=\"ctl\"", 0, ctl_connections, s);
}
