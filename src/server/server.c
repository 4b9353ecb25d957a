#include "server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/member/member.h"
#include "cluster/replicate/replicate.h"
#include "cluster/topology/identity.h"
#include "metrics/metrics.h"
#include "protocols/amqp/amqp.h"
#include "protocols/http/http.h"
#include "protocols/kafka/front.h"
#include "protocols/resp/resp.h"
#include "server/internal.h"
#include "server/notify.h"

const char *server_state_name(enum server_state state)
{
    static const char *const names[] = {"starting", "recovering", "ready", "stopping"};

    return names[state];
}

/* ---- the process -------------------------------------------------------------------------------------------------- */

static void raise_file_limit(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

/* Connections at most: a quarter of the descriptors is for segment files (P11), some for everything else. */
static uint32_t sockets_limit(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur == RLIM_INFINITY)
        return 0;
    return (uint32_t)MAX_OF((int64_t)(r.rlim_cur - r.rlim_cur / 4) - 48, 16);
}

static int open_signals(void)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* One process a data directory; the file names who holds it. */
static int lock_data_dir(struct server *s)
{
    char *path = mem_printf("%s/gomsgd.pid", s->config->node_data_dir), text[32] = "";
    int err = file_make_dirs(s->config->node_data_dir);

    if (err < 0) {
        diag_error("the data directory cannot be made", "dir=%s err=\"%s\"", s->config->node_data_dir, err_text(err));
        goto done;
    }
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (s->lock_fd < 0) {
        err = err_from_errno(errno);
        diag_error("the data directory cannot be used", "file=%s err=\"%s\"", path, err_text(err));
        goto done;
    }
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        if (pread(s->lock_fd, text, sizeof(text) - 1, 0) < 0)
            text[0] = '\0';
        diag_error("the data directory is in use by another gomsgd", "dir=%s pid=%.*s", s->config->node_data_dir,
                   (int)strcspn(text, "\n"), text);
        err = ERR_IN_USE;
        goto done;
    }
    snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(s->lock_fd, 0) < 0 || pwrite(s->lock_fd, text, strlen(text), 0) < 0)
        err = err_from_errno(errno);
done:
    mem_free(path);
    return err;
}

static char *own_host_name(void)
{
    char name[256] = "";

    if (gethostname(name, sizeof(name) - 1) < 0 || name[0] == '\0')
        return mem_strdup("localhost");
    return mem_strdup(name);
}

/* ---- listeners ------------------------------------------------------------------------------------------------------- */

static int open_listener(struct server *s, const char *protocol, const char *address, const struct conn_ops *ops, void *arg,
                         uint32_t max, const char *refuse)
{
    struct listener_options o = {.address = address, .ops = ops, .arg = arg, .max_connections = max, .refuse = refuse};
    struct listener *l;
    int err;

    CHECK(s->listener_count < SERVER_LISTENERS_MAX);
    err = listener_open(s->workers, &o, &l);
    if (err < 0) {
        diag_error("a listener cannot be opened", "protocol=%s address=%s option=%s.listen err=\"%s\"", protocol, address,
                   protocol, err_text(err));
        return err;
    }
    s->listeners[s->listener_count] = (struct server_listener){l, protocol};
    __atomic_store_n(&s->listener_count, s->listener_count + 1, __ATOMIC_RELEASE);
    diag_info("listening", "protocol=%s address=%s", protocol, listener_address(l));
    return 0;
}

static int open_listeners(struct server *s, const char *protocol, const struct config_list *list, const struct conn_ops *ops,
                          void *arg, uint32_t max, const char *refuse)
{
    for (unsigned i = 0; i < list->count; i++) {
        int err = open_listener(s, protocol, list->items[i], ops, arg, max, refuse);

        if (err < 0)
            return err;
    }
    return 0;
}

static int open_resp(struct server *s)
{
    char *ctl = mem_printf("unix:%s/ctl.sock", s->config->node_data_dir);
    int err = open_listener(s, "ctl", ctl, resp_front_ctl_ops(s->resp), s->resp, 256, resp_refuse_text);

    mem_free(ctl);
    if (err < 0)
        return err;
    err = open_listeners(s, "resp", &s->config->resp_listen, resp_front_ops(s->resp), s->resp,
                         (uint32_t)s->config->resp_max_connections, resp_refuse_text);
    if (err == 0 && s->listener_count > 1)
        resp_front_set_port(s->resp, listener_port(s->listeners[1].listener));
    return err;
}

static int open_kafka_and_amqp(struct server *s)
{
    int err = open_listeners(s, "kafka", &s->config->kafka_listen, kafka_front_ops(s->kafka), s->kafka,
                             (uint32_t)s->config->kafka_max_connections, NULL);

    if (err < 0)
        return err;
    return open_listeners(s, "amqp", &s->config->amqp_listen, amqp_front_ops(s->amqp), s->amqp,
                          (uint32_t)s->config->amqp_max_connections, NULL);
}

/* Listeners belong to worker 0, which accepts for all: once the workers run, they are opened and closed there. */
struct on_first {
    struct server *server;
    int (*fn)(struct server *s);
    int err;
};

static void run_on_first(struct worker *w, void *arg)
{
    struct on_first *o = arg;

    if (worker_index(w) == 0)
        o->err = o->fn(o->server);
}

static int on_first_worker(struct server *s, int (*fn)(struct server *s))
{
    struct on_first o = {s, fn, 0};

    workers_run_each(s->workers, run_on_first, &o);
    return o.err;
}

uint32_t server_connections(struct server *s, const char *protocol)
{
    unsigned count = __atomic_load_n(&s->listener_count, __ATOMIC_ACQUIRE);
    uint32_t n = 0;

    for (unsigned i = 0; i < count; i++) {
        if (strcmp(s->listeners[i].protocol, protocol) == 0)
            n += listener_connections(s->listeners[i].listener);
    }
    return n;
}

static int close_listeners(struct server *s)
{
    for (unsigned i = 0; i < s->listener_count; i++)
        listener_close(s->listeners[i].listener);
    s->listener_count = 0;
    return 0;
}

/* ---- parts ---------------------------------------------------------------------------------------------------------------- */

static int open_workers(struct server *s)
{
    struct workers_options o = {.count = (unsigned)s->config->node_threads, .coalesce_us = (unsigned)s->config->amqp_coalesce_us,
                                .extra = server_is_clustered(s) ? 2 : 1, .sockets_max = sockets_limit()};
    int err;

    if (o.count == 0) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);

        o.count = n < 1 ? 1 : n > 256 ? 256 : (unsigned)n;
    }
    err = workers_new(&o, &s->workers);
    if (err < 0)
        diag_error("the workers cannot be made", "err=\"%s\"", err_text(err));
    return err;
}

static void render_metrics(void *arg, struct buf *out)
{
    (void)arg;
    metrics_render(out);
}

static bool render_ready(void *arg, struct buf *out)
{
    struct server *s = arg;
    enum server_state state = __atomic_load_n(&s->state, __ATOMIC_ACQUIRE);

    buf_printf(out, "{\"ready\":%s,\"state\":\"%s\",\"partitions_recovered\":%u,\"partitions\":%lld",
               state == SERVER_READY ? "true" : "false", server_state_name(state), __atomic_load_n(&s->recovered, __ATOMIC_RELAXED),
               (long long)s->config->cluster_total_partitions);
    if (server_is_clustered(s) && state != SERVER_STARTING) {
        struct topology_group g;
        static const char *const phases[] = {"loading", "forming", "member", "failed"};

        topology_group_get(s->topology, &g);
        buf_printf(out, ",\"cluster\":\"%s: ", phases[g.phase]);
        for (const char *c = g.text; *c != '\0'; c++)
            buf_put_u8(out, *c == '"' || *c == '\\' || (unsigned char)*c < ' ' ? '\'' : (uint8_t)*c);
        buf_put_str(out, "\"");
    }
    buf_put_str(out, "}\n");
    return state == SERVER_READY;
}

static int open_http(struct server *s)
{
    struct http_options o = {.metrics = render_metrics, .ready = render_ready, .arg = s};
    char *host;
    int err;

    if (s->config->http_listen.count == 0)
        return 0;
    o.address = s->config->http_listen.items[0];
    err = http_start(&o, &s->http);
    if (err < 0) {
        diag_error("a listener cannot be opened", "protocol=http address=%s option=http.listen err=\"%s\"", o.address, err_text(err));
        return err;
    }
    host = mem_strdup_slice(slice_of(o.address, (size_t)(strrchr(o.address, ':') - o.address)));
    diag_info("listening", "protocol=http address=%s:%u", host, http_port(s->http));
    mem_free(host);
    return 0;
}

static int open_topology(struct server *s)
{
    char why[512], *listen = NULL, *advertise = NULL;
    struct topology_options o = {
        .data_dir = s->config->node_data_dir,
        .workers = s->workers,
        .control = workers_extra(s->workers, 0),
        .node_name = s->config->node_name,
        .rack = s->config->node_rack,
        .total_partitions = (uint32_t)s->config->cluster_total_partitions,
        .bus = s->bus,
        .seeds = (const char *const *)s->config->cluster_seeds.items,
        .seed_count = s->config->cluster_seeds.count,
        .election_timeout_ms = (uint32_t)s->config->cluster_raft_election_timeout_ms,
        .heartbeat_ms = (uint32_t)s->config->cluster_raft_heartbeat_ms,
        .replace_after_ms = (uint32_t)s->config->cluster_replace_after_ms,
        .changed = server_topology_changed,
        .changed_arg = s,
    };
    int err;

    if (s->bus != NULL) {
        o.listen = listen = server_bus_address(s);
        o.address = advertise = server_bus_advertise(s);
        o.phase = server_cluster_phase;
        o.published = server_cluster_published;
        o.leading = server_cluster_leading;
        o.arg = s;
    }
    server_endpoints(s, o.endpoints);
    err = topology_open(&o, why, sizeof(why), &s->topology);
    mem_free(listen);
    mem_free(advertise);
    if (err < 0)
        diag_error("the data directory is refused", "reason=\"%s\"", why);
    return err;
}

static int open_engines(struct server *s)
{
    struct log_store_options logs = {
        .data_dir = s->config->node_data_dir,
        .fsync = (enum log_fsync)CONFIG_GET(s->config, log_fsync),
        .sync_interval_ms = (uint32_t)CONFIG_GET(s->config, log_fsync_interval_ms),
        .segment_bytes = (uint64_t)s->config->log_segment_bytes,
        .disk_reserve_bytes = (uint64_t)s->config->log_disk_reserve,
        .hot_max = (uint32_t)s->config->log_hot_max,
        .failpoint = getenv("GOMSG_FAILPOINT"),
    };
    struct partitions_options partitions = {
        .count = (uint32_t)s->config->cluster_total_partitions,
        .workers = s->workers,
        .data_dir = s->config->node_data_dir,
        .snapshot_log_bytes = (uint64_t)CONFIG_GET(s->config, kv_snapshot_log_bytes),
        .snapshot_keep_bytes = server_is_clustered(s) ? (uint64_t)s->config->kv_snapshot_keep_bytes : 1, /* nobody lags behind a node that is alone (rule 3) */
        .clustered = server_is_clustered(s),
        .queue_ended = server_queue_ended,
        .queue_ended_arg = s,
    };
    struct identity id;
    int err;

    static const uint8_t none[16];

    if (identity_load(s->config->node_data_dir, &id) == 0)
        logs.level = id.level;
    topology_cluster_id(s->topology, logs.cluster_id);
    s->cluster_known = memcmp(logs.cluster_id, none, 16) != 0;
    memcpy(partitions.cluster_id, logs.cluster_id, 16);
    err = log_store_open(&logs, s->workers, &s->logs);
    if (err < 0) {
        diag_error("the logs cannot be opened", "dir=%s err=\"%s\"", s->config->node_data_dir, err_text(err));
        return err;
    }
    log_store_set_scrub(s->logs, (uint64_t)CONFIG_GET(s->config, log_scrub_interval_ms), (uint64_t)CONFIG_GET(s->config, log_scrub_rate));
    partitions.store = s->logs;
    err = partitions_new(&partitions, &s->partitions);
    if (err < 0) {
        diag_error("the partitions cannot be made", "err=\"%s\"", err_text(err));
        return err;
    }
    s->streams = stream_table_new(&(struct stream_table_options){s->logs, s->workers, s->config->node_data_dir});
    return 0;
}

static struct amqp_limits amqp_limits_of(const struct config *c)
{
    return (struct amqp_limits){
        .frame_max = (uint32_t)CONFIG_GET(c, amqp_frame_max_bytes),
        .channel_max = (uint16_t)CONFIG_GET(c, amqp_channel_max),
        .heartbeat_s = (uint16_t)(CONFIG_GET(c, amqp_heartbeat_ms) / 1000),
        .handshake_timeout_ms = (uint32_t)CONFIG_GET(c, amqp_handshake_timeout_ms),
        .max_message_bytes = (uint64_t)CONFIG_GET(c, amqp_message_max_bytes),
    };
}

static int open_fronts(struct server *s)
{
    struct resp_options resp = {
        .workers = s->workers,
        .partitions = s->partitions,
        .config = s->config,
        .store = s->logs,
        .admin = admin_submit,
        .cluster_mode = server_is_clustered(s),
        .topology = s->topology,
        .cast = server_is_clustered(s) ? server_cast_pubsub : NULL,
        .cast_arg = s,
        .links = server_is_clustered(s) ? server_list_links : NULL,
        .links_arg = s,
    };
    struct kafka_front_options kafka = {
        .workers = s->workers,
        .partitions = s->partitions,
        .streams = s->streams,
        .topology = s->topology,
        .config = s->config,
        .logs = s->logs,
        .group_initial_rebalance_delay_ms = 0,
        .farewell_ms = 10000,
    };
    struct amqp_front_options amqp = {
        .workers = s->workers,
        .partitions = s->partitions,
        .topology = s->topology,
        .store = s->logs,
        .bus = s->bus,
        .data = s->bus != NULL ? workers_extra(s->workers, 1) : NULL,
        .limits = amqp_limits_of(s->config),
    };
    int err;

    s->admin = admin_new(s);
    resp.admin_arg = s->admin;
    err = resp_front_new(&resp, &s->resp);
    if (err < 0)
        return err;
    s->kafka = kafka_front_new(&kafka);
    kafka_front_start(s->kafka);
    if (err == 0)
        err = amqp_front_new(&amqp, &s->amqp);
    return err;
}

/* What of the options was copied when its owner was made, anew: by whatever way one was changed (config_on_change). All else reads the option when it needs it. */
static void apply_config(void *arg)
{
    struct server *s = arg;
    const struct amqp_limits amqp = amqp_limits_of(s->config);
    struct log_store *logs = __atomic_load_n(&s->logs, __ATOMIC_ACQUIRE);

    diag_set_level((enum diag_level)CONFIG_GET(s->config, diag_level));
    if (logs != NULL) {
        log_store_set_fsync(logs, (enum log_fsync)CONFIG_GET(s->config, log_fsync), (uint32_t)CONFIG_GET(s->config, log_fsync_interval_ms));
        log_store_set_scrub(logs, (uint64_t)CONFIG_GET(s->config, log_scrub_interval_ms), (uint64_t)CONFIG_GET(s->config, log_scrub_rate));
    }
    if (s->partitions != NULL)
        partitions_set_snapshot_log_bytes(s->partitions, (uint64_t)CONFIG_GET(s->config, kv_snapshot_log_bytes));
    amqp_front_set_limits(s->amqp, &amqp);
}

/* ---- recovery ---------------------------------------------------------------------------------------------------------------- */

static void recovery_progress(void *arg, uint32_t done, uint32_t total, uint64_t bytes)
{
    static struct diag_limit limit;
    uint64_t left_out;
    struct server *s = arg;

    __atomic_store_n(&s->recovered, done, __ATOMIC_RELAXED);
    /* Called for each partition, on several threads; people and systemd hear of it once a second. */
    if (!diag_limit_pass(&limit, &left_out))
        return;
    diag_info("recovering", "partitions=%u of=%u bytes=%llu", done, total, (unsigned long long)bytes);
    notify_send("STATUS=recovering: %u of %u partitions\nEXTEND_TIMEOUT_USEC=60000000", done, total);
}

static void recovery_done(void *arg)
{
    struct server *s = arg;

    __atomic_store_n(&s->recovered, partitions_count(s->partitions), __ATOMIC_RELAXED);
    CHECK(eventfd_write(s->recovered_fd, 1) == 0);
}

void server_recover(struct server *s)
{
    CHECK(!s->recovering);
    s->recovering = true;
    partitions_recover(s->partitions, recovery_progress, recovery_done, s);
}

/* Recovered, and the view is as new as this start: only then is what the topology does not know really gone. */
static int become_ready(struct server *s)
{
    int err = 0;

    server_sweep_logs(s->logs, s->topology);
    if (!server_is_clustered(s))
        err = topology_start(s->topology);
    if (err == 0)
        server_open_expiring_queues(s);
    if (err == 0)
        err = on_first_worker(s, open_kafka_and_amqp);
    if (err < 0)
        return err;
    if (server_is_clustered(s))
        server_cluster_ready(s);
    s->recovery_us = clock_mono_us() - s->started_us;
    __atomic_store_n(&s->state, SERVER_READY, __ATOMIC_RELEASE);
    diag_info("ready", "start_ms=%llu partitions=%u", (unsigned long long)(s->recovery_us / 1000), partitions_count(s->partitions));
    notify_send("READY=1\nSTATUS=serving");
    return 0;
}

/* ---- running --------------------------------------------------------------------------------------------------------------------- */

static void reload(struct server *s, const char *file, int argc, char **argv)
{
    struct config *next = NULL;
    struct buf text = {0};
    int err;

    notify_send("RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_mono_us());
    err = config_load(file, argc, argv, &next, &text);
    if (err == 0) {
        config_reload(s->config, next, &text);
        config_free(next);
    }
    diag(err < 0 ? DIAG_ERROR : DIAG_INFO, err < 0 ? "the configuration was not reloaded" : "the configuration was reloaded",
         "report=\"%.*s\"", (int)MIN_OF(text.len, 1000u), text.len == 0 ? "" : (const char *)text.data);
    buf_fini(&text);
    notify_send("READY=1");
}

/* Waits for signals and the end of recovery. 0 when told to end. */
static int serve(struct server *s, int signals, const char *file, int argc, char **argv)
{
    uint64_t watchdog = notify_watchdog_us();
    int timeout = watchdog == 0 ? -1 : (int)MAX_OF(watchdog / 1000, 1u);

    for (;;) {
        struct pollfd fds[3] = {{signals, POLLIN, 0}, {s->recovered_fd, POLLIN, 0}, {s->news_fd, POLLIN, 0}};
        struct signalfd_siginfo info;
        eventfd_t unused;
        int n = poll(fds, 3, timeout);

        if (n < 0 && errno != EINTR)
            return err_from_errno(errno);
        if (watchdog != 0)
            notify_send("WATCHDOG=1");
        if (fds[1].revents != 0 && eventfd_read(s->recovered_fd, &unused) == 0)
            s->recovery_over = true;
        if (fds[2].revents != 0 && eventfd_read(s->news_fd, &unused) == 0) {
            int err = server_cluster_news(s);

            if (err < 0)
                return err;
        }
        if (s->recovery_over && !s->served && (s->member_of_cluster || !server_is_clustered(s))) {
            int err = become_ready(s);

            if (err < 0)
                return err;
            s->served = true;
        }
        if (fds[0].revents == 0 || read(signals, &info, sizeof(info)) != sizeof(info))
            continue;
        if (info.ssi_signo == SIGHUP) {
            reload(s, file, argc, argv);
            continue;
        }
        diag_info("stopping", "signal=%s", info.ssi_signo == SIGTERM ? "TERM" : "INT");
        return 0;
    }
}

static void prepare_worker(struct worker *w, void *arg)
{
    (void)arg;
    mem_thread_own_arena();
    metrics_thread_init(worker_index(w) + 1);
}

static int start(struct server *s)
{
    int err = lock_data_dir(s);

    if (err == 0)
        err = open_workers(s);
    if (err == 0)
        err = open_http(s);
    if (err == 0 && server_is_clustered(s))
        err = server_open_bus(s);
    if (err == 0)
        err = open_topology(s);
    if (err == 0)
        err = open_engines(s);
    if (err == 0)
        err = open_fronts(s);
    if (err < 0)
        return err;
    config_on_change(s->config, apply_config, s);
    err = open_resp(s);
    if (err < 0)
        return err;
    server_register_gauges(s);
    err = workers_start(s->workers);
    if (err < 0)
        return err;
    workers_run_each(s->workers, prepare_worker, NULL);
    __atomic_store_n(&s->state, SERVER_RECOVERING, __ATOMIC_RELEASE);
    if (server_is_clustered(s))
        return server_start_cluster(s);
    server_recover(s);
    return 0;
}

static void stop(struct server *s)
{
    __atomic_store_n(&s->state, SERVER_STOPPING, __ATOMIC_RELEASE);
    notify_send("STOPPING=1");
    /* What looks at listeners and partitions from other threads goes first. */
    http_stop(s->http);
    metrics_gauges_clear();
    admin_stop(s->admin);
    if (s->workers != NULL)
        on_first_worker(s, close_listeners);
    server_leave_cluster(s);
    if (s->workers != NULL)
        workers_stop(s->workers);
    admin_free(s->admin);
    topology_close(s->topology);
    replication_free(s->replication); /* what it proposed was answered, or never will be */
    member_free(s->member);
    amqp_front_free(s->amqp);
    if (s->kafka != NULL)
        kafka_front_free(s->kafka);
    resp_front_free(s->resp);
    if (s->streams != NULL)
        stream_table_free(s->streams);
    partitions_free(s->partitions);
    if (s->logs != NULL)
        log_store_close(s->logs);
    workers_free(s->workers);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
}

int server_run(struct config *config, const char *file, int argc, char **argv)
{
    struct server s = {.config = config, .lock_fd = -1, .started_us = clock_mono_us()};
    uint8_t seed[16];
    int signals, err;

    diag_set_level((enum diag_level)config->diag_level);
    raise_file_limit();
    clock_calibrate();
    rand_secure(seed, sizeof(seed));
    hash_seed(seed);
    signals = open_signals();
    s.recovered_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s.news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(signals >= 0 && s.recovered_fd >= 0 && s.news_fd >= 0);
    if (config->node_name[0] == '\0') {
        mem_free(config->node_name);
        config->node_name = own_host_name();
    }
    diag_info("starting", "version=%s pid=%ld data_dir=%s", PACKAGE_VERSION, (long)getpid(), config->node_data_dir);
    err = start(&s);
    if (err == 0)
        err = serve(&s, signals, file, argc, argv);
    stop(&s);
    close(signals);
    close(s.recovered_fd);
    close(s.news_fd);
    diag_info("stopped", "code=%s", err_name(err));
    return err;
}
