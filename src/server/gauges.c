/* Gauges of the whole node, read at each scrape on the HTTP thread. */
#include "base/mem.h"
#include "base/clock.h"
#include "metrics/metrics.h"
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

static double resp_connections(void *arg)
{
    return server_connections(arg, "resp");
}

static double kafka_connections(void *arg)
{
    return server_connections(arg, "kafka");
}

static double amqp_connections(void *arg)
{
    return server_connections(arg, "amqp");
}

static double ctl_connections(void *arg)
{
    return server_connections(arg, "ctl");
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
        {"gomsg_log_appended_bytes_total", "Bytes appended to all logs", 1, log_bytes_appended},
        {"gomsg_disk_free_bytes", "Free space where the data directory lies", 0, log_disk_free},
    };

    for (size_t i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++)
        metrics_gauge_register(gauges[i].name, gauges[i].help, NULL, gauges[i].counter, gauges[i].read, s);
    metrics_gauge_register("gomsg_connections", "Connections", "protocol=\"resp\"", 0, resp_connections, s);
    metrics_gauge_register("gomsg_connections", "Connections", "protocol=\"kafka\"", 0, kafka_connections, s);
    metrics_gauge_register("gomsg_connections", "Connections", "protocol=\"amqp\"", 0, amqp_connections, s);
    metrics_gauge_register("gomsg_connections", "Connections", "protocol=\"ctl\"", 0, ctl_connections, s);
}
