/* INFO: https://redis.io/commands/info. Sections and fields as Redis 7.2 has them, where this server has what
 * they say; and CONFIG RESETSTAT. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "config/config.h"
#include "protocols/resp/exec.h"
#include "protocols/resp/handlers.h"
#include "protocols/resp/info.h"
#include "protocols/resp/pubsub.h"

struct keyspace {
    uint64_t keys[KV_DATABASES], expires[KV_DATABASES], expired;
};

static uint64_t sum(const struct resp_front *f, size_t offset)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < f->workers_count; i++)
        n += __atomic_load_n((uint64_t *)((char *)&f->workers[i] + offset), __ATOMIC_RELAXED);
    return n;
}
#define SUM(f, field) sum(f, __builtin_offsetof(struct resp_worker, field))

/* A statistic since CONFIG RESETSTAT. */
enum base { BASE_COMMANDS, BASE_CONNECTIONS, BASE_ERRORS, BASE_HITS, BASE_MISSES, BASE_EXPIRED, BASE_CALLS };
static uint64_t since_reset(const struct resp_front *f, unsigned i, uint64_t now)
{
    uint64_t base = __atomic_load_n(&f->reset_base[i], __ATOMIC_RELAXED);

    return now > base ? now - base : 0;
}

enum { PER_COMMAND = 4 }; /* calls, ns, rejected, failed: bases behind BASE_CALLS */
static void command_numbers(const struct resp_front *f, int id, uint64_t ret[PER_COMMAND])
{
    struct hist h;

    metrics_family_read_hist(f->metrics.latency, (unsigned)id, &h);
    ret[0] = hist_count(&h);
    ret[1] = h.sum_ns;
    ret[2] = metrics_family_read(f->rejected, (unsigned)id);
    ret[3] = metrics_family_read(f->failed, (unsigned)id);
}
static unsigned base_of_command(int id)
{
    return BASE_CALLS + (unsigned)id * PER_COMMAND;
}
static unsigned base_of_code(int code)
{
    return BASE_CALLS + COMMANDS * PER_COMMAND + (unsigned)code;
}
size_t info_base_count(void)
{
    return BASE_CALLS + COMMANDS * PER_COMMAND + CODES;
}

static void set_base(struct resp_front *f, unsigned i, uint64_t v)
{
    __atomic_store_n(&f->reset_base[i], v, __ATOMIC_RELAXED);
}

static uint64_t keys_expired(struct resp_front *f)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < partitions_count(f->o.partitions); i++) {
        struct partition_info info;

        partition_info(partitions_get(f->o.partitions, i), &info);
        n += info.expired_total;
    }
    return n;
}

void cmd_config_resetstat(struct exec *x)
{
    struct resp_front *f = x->w->front;

    set_base(f, BASE_COMMANDS, SUM(f, commands));
    set_base(f, BASE_CONNECTIONS, SUM(f, connections_total));
    set_base(f, BASE_ERRORS, SUM(f, error_replies));
    set_base(f, BASE_HITS, metrics_read(METRIC_KEYSPACE_HITS));
    set_base(f, BASE_MISSES, metrics_read(METRIC_KEYSPACE_MISSES));
    set_base(f, BASE_EXPIRED, keys_expired(f));
    for (int i = 0; i < COMMANDS; i++) {
        uint64_t n[PER_COMMAND];

        command_numbers(f, i, n);
        for (int k = 0; k < PER_COMMAND; k++)
            set_base(f, base_of_command(i) + (unsigned)k, n[k]);
    }
    for (int i = 0; i < CODES; i++)
        set_base(f, base_of_code(i), metrics_family_read(f->metrics.errors, (unsigned)i));
    reply_ok(&x->r);
}

static void human(char *text, size_t size, uint64_t n)
{
    if (n < 1024)
        snprintf(text, size, "%lluB", (unsigned long long)n);
    else if (n < 1 << 20)
        snprintf(text, size, "%.2fK", (double)n / 1024);
    else if (n < 1 << 30)
        snprintf(text, size, "%.2fM", (double)n / (1 << 20));
    else
        snprintf(text, size, "%.2fG", (double)n / (1 << 30));
}

/* ---- sections ---- */

static void section_server(struct exec *x, struct buf *b)
{
    struct resp_front *f = x->w->front;
    uint64_t up_s = (clock_mono_us() - f->started_us) / 1000000;
    struct utsname u;

    uname(&u);
    buf_printf(b, "redis_version:%s\r\ngomsg_version:%s\r\nredis_mode:%s\r\nos:%s %s %s\r\narch_bits:%d\r\n",
               RESP_REDIS_VERSION, PACKAGE_VERSION, f->o.cluster_mode ? "cluster" : "standalone", u.sysname,
               u.release, u.machine, (int)sizeof(long) * 8);
    buf_printf(
        b, "multiplexing_api:libev\r\ngcc_version:%d.%d.%d\r\nprocess_id:%ld\r\nrun_id:%s\r\ntcp_port:%u\r\n",
        __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__, (long)getpid(), f->run_id, f->o.tcp_port);
    buf_printf(
        b,
        "server_time_usec:%lld\r\nuptime_in_seconds:%llu\r\nuptime_in_days:%llu\r\nio_threads_active:%d\r\n",
        (long long)clock_wall_us(), (unsigned long long)up_s, (unsigned long long)up_s / 86400,
        f->workers_count > 1);
}

static void section_clients(struct exec *x, struct buf *b)
{
    struct resp_front *f = x->w->front;

    buf_printf(b, "connected_clients:%llu\r\nmaxclients:%lld\r\nblocked_clients:%llu\r\n",
               (unsigned long long)SUM(f, connections_now),
               f->o.config != NULL ? (long long)f->o.config->resp_max_connections : 0LL,
               (unsigned long long)SUM(f, blocked_now));
}

static void section_memory(struct exec *x, struct buf *b)
{
    struct resp_front *f = x->w->front;
    uint64_t used = mem_allocated(), rss = mem_rss(),
             peak = __atomic_load_n(&f->memory_peak, __ATOMIC_RELAXED);
    int64_t max = f->o.config != NULL ? CONFIG_GET(f->o.config, kv_maxmemory) : 0;
    char a[32], r[32], p[32], m[32];

    peak = MAX_OF(peak, used);
    human(a, sizeof(a), used);
    human(r, sizeof(r), rss);
    human(p, sizeof(p), peak);
    human(m, sizeof(m), (uint64_t)max);
    buf_printf(b,
               "used_memory:%llu\r\nused_memory_human:%s\r\nused_memory_rss:%llu\r\nused_memory_rss_human:%"
               "s\r\nused_memory_peak:%llu\r\n"
               "used_memory_peak_human:%s\r\n",
               (unsigned long long)used, a, (unsigned long long)rss, r, (unsigned long long)peak, p);
    buf_printf(b,
               "maxmemory:%lld\r\nmaxmemory_human:%s\r\nmaxmemory_policy:noeviction\r\nmem_fragmentation_"
               "ratio:%.2f\r\nmem_allocator:%s\r\n"
               "active_defrag_running:0\r\n",
               (long long)max, m, used == 0 ? 1.0 : (double)rss / (double)used,
#ifdef HAVE_JEMALLOC
               "jemalloc"
#else
               "libc"
#endif
    );
}

static void section_persistence(struct exec *x, struct buf *b)
{
    struct resp_front *f = x->w->front;
    bool ready = partitions_ready(f->o.partitions);
    bool ok = f->o.store == NULL || (log_store_may_grow(f->o.store) && log_store_health(f->o.store) == 0);

    buf_printf(b,
               "loading:%d\r\nasync_loading:0\r\nrdb_changes_since_last_save:0\r\nrdb_bgsave_in_progress:"
               "0\r\naof_enabled:1\r\n"
               "aof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0\r\naof_last_write_status:%s\r\n",
               !ready, ok ? "ok" : "err");
    if (f->o.store != NULL) {
        struct log_store_stats st;

        log_store_stats(f->o.store, &st);
        buf_printf(b,
                   "aof_current_size:%llu\r\nlog_hot:%llu\r\nlog_sync_rounds:%llu\r\nlog_sync_last_usec:%"
                   "llu\r\nlog_sync_max_usec:%llu\r\n",
                   (unsigned long long)st.bytes_appended, (unsigned long long)st.hot_logs,
                   (unsigned long long)st.sync_rounds, (unsigned long long)st.sync_last_us,
                   (unsigned long long)st.sync_max_us);
    }
}

static void section_stats(struct exec *x, struct buf *b)
{
    struct resp_front *f = x->w->front;

    buf_printf(b, "total_connections_received:%llu\r\ntotal_commands_processed:%llu\r\n",
               (unsigned long long)since_reset(f, BASE_CONNECTIONS, SUM(f, connections_total)),
               (unsigned long long)since_reset(f, BASE_COMMANDS, SUM(f, commands)));
    buf_printf(b,
               "expired_keys:%llu\r\nevicted_keys:0\r\nkeyspace_hits:%llu\r\nkeyspace_misses:%llu\r\npubsub_"
               "channels:%llu\r\npubsub_patterns:%llu\r\n"
               "total_error_replies:%llu\r\n",
               (unsigned long long)since_reset(f, BASE_EXPIRED, keys_expired(f)),
               (unsigned long long)since_reset(f, BASE_HITS, metrics_read(METRIC_KEYSPACE_HITS)),
               (unsigned long long)since_reset(f, BASE_MISSES, metrics_read(METRIC_KEYSPACE_MISSES)),
               (unsigned long long)pubsub_channel_count(f), (unsigned long long)pubsub_pattern_count(f),
               (unsigned long long)since_reset(f, BASE_ERRORS, SUM(f, error_replies)));
}

static void section_replication(struct exec *x, struct buf *b)
{
    buf_printf(b,
               "role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\nmaster_replid:%"
               "s\r\nmaster_repl_offset:0\r\n",
               x->w->front->run_id);
}

static void section_cpu(struct exec *x, struct buf *b)
{
    struct rusage u;

    (void)x;
    getrusage(RUSAGE_SELF, &u);
    buf_printf(b, "used_cpu_sys:%ld.%06ld\r\nused_cpu_user:%ld.%06ld\r\n", (long)u.ru_stime.tv_sec,
               (long)u.ru_stime.tv_usec, (long)u.ru_utime.tv_sec, (long)u.ru_utime.tv_usec);
}

static void section_commandstats(struct exec *x, struct buf *b)
{
    struct resp_front *f = x->w->front;

    for (int i = 0; i < COMMANDS; i++) {
        uint64_t n[PER_COMMAND];

        command_numbers(f, i, n);
        for (int k = 0; k < PER_COMMAND; k++)
            n[k] = since_reset(f, base_of_command(i) + (unsigned)k, n[k]);
        if (n[0] + n[2] == 0)
            continue;
        buf_printf(
            b, "cmdstat_%s:calls=%llu,usec=%llu,usec_per_call=%.2f,rejected_calls=%llu,failed_calls=%llu\r\n",
            command_table[i].fullname, (unsigned long long)n[0], (unsigned long long)n[1] / 1000,
            n[0] == 0 ? 0.0 : (double)n[1] / 1000 / (double)n[0], (unsigned long long)n[2],
            (unsigned long long)n[3]);
    }
}

static void section_latencystats(struct exec *x, struct buf *b)
{
    for (int i = 0; i < COMMANDS; i++) {
        struct hist h;

        metrics_family_read_hist(x->w->front->metrics.latency, (unsigned)i, &h);
        if (hist_count(&h) == 0)
            continue;
        buf_printf(b, "latency_percentiles_usec_%s:p50=%.3f,p99=%.3f,p99.9=%.3f\r\n",
                   command_table[i].fullname, (double)hist_quantile_ns(&h, 0.5) / 1000,
                   (double)hist_quantile_ns(&h, 0.99) / 1000, (double)hist_quantile_ns(&h, 0.999) / 1000);
    }
}

static void section_errorstats(struct exec *x, struct buf *b)
{
    static const char *const names[] = {
#define X(name) #name,
        RESP_CODES(X)
#undef X
    };
    struct resp_front *f = x->w->front;

    for (int i = 0; i < CODES; i++) {
        uint64_t n = since_reset(f, base_of_code(i), metrics_family_read(f->metrics.errors, (unsigned)i));

        if (n != 0)
            buf_printf(b, "errorstat_%s:count=%llu\r\n", names[i], (unsigned long long)n);
    }
}

static void section_cluster(struct exec *x, struct buf *b)
{
    buf_printf(b, "cluster_enabled:%d\r\n", x->w->front->o.cluster_mode);
}

static bool add_keyspace(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg)
{
    struct keyspace *ks = arg;

    (void)x;
    (void)index;
    for (uint32_t db = 0; db < KV_DATABASES; db++) {
        ks->keys[db] += kv_db_size(kv->kv, db);
        ks->expires[db] += kv_db_expires(kv->kv, db);
    }
    return true;
}

static void section_keyspace(struct exec *x, struct buf *b)
{
    struct keyspace ks = {0};

    if (!partitions_ready(x->w->front->o.partitions) || !exec_each_partition(x, 0, add_keyspace, &ks))
        return;
    for (int db = 0; db < KV_DATABASES; db++)
        if (ks.keys[db] != 0)
            buf_printf(b, "db%d:keys=%llu,expires=%llu,avg_ttl=0\r\n", db, (unsigned long long)ks.keys[db],
                       (unsigned long long)ks.expires[db]);
}

enum { IN_DEFAULT = 1, IN_ALL = 2 };
static const struct section {
    const char *name, *title;
    void (*write)(struct exec *x, struct buf *b);
    int in;
} sections[] = {
    {"server", "Server", section_server, IN_DEFAULT | IN_ALL},
    {"clients", "Clients", section_clients, IN_DEFAULT | IN_ALL},
    {"memory", "Memory", section_memory, IN_DEFAULT | IN_ALL},
    {"persistence", "Persistence", section_persistence, IN_DEFAULT | IN_ALL},
    {"stats", "Stats", section_stats, IN_DEFAULT | IN_ALL},
    {"replication", "Replication", section_replication, IN_DEFAULT | IN_ALL},
    {"cpu", "CPU", section_cpu, IN_DEFAULT | IN_ALL},
    {"commandstats", "Commandstats", section_commandstats, IN_ALL},
    {"latencystats", "Latencystats", section_latencystats, IN_ALL},
    {"errorstats", "Errorstats", section_errorstats, IN_DEFAULT | IN_ALL},
    {"cluster", "Cluster", section_cluster, IN_DEFAULT | IN_ALL},
    {"keyspace", "Keyspace", section_keyspace, IN_DEFAULT | IN_ALL},
};

void cmd_info(struct exec *x)
{
    struct buf b = {0};

    for (size_t i = 0; i < ARRAY_LEN(sections); i++) {
        const struct section *s = &sections[i];
        bool want = x->argc == 1 && (s->in & IN_DEFAULT);

        for (uint32_t k = 1; k < x->argc; k++)
            want = want || exec_arg_is(x, k, s->name) ||
                   (exec_arg_is(x, k, "default") && (s->in & IN_DEFAULT)) ||
                   ((exec_arg_is(x, k, "all") || exec_arg_is(x, k, "everything")) && (s->in & IN_ALL));
        if (!want)
            continue;
        if (b.len != 0)
            buf_put_str(&b, "\r\n");
        buf_printf(&b, "# %s\r\n", s->title);
        s->write(x, &b);
    }
    if (x->outcome == EXEC_DONE && x->error_at == 0)
        reply_verbatim(&x->r, "txt", buf_slice(&b));
    buf_fini(&b);
}
