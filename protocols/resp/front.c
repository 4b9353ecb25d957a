/* The front end as a whole: made before the workers run, freed after they ended. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "config/config.h"
#include "protocols/resp/blocked.h"
#include "protocols/resp/cluster.h"
#include "protocols/resp/info.h"
#include "protocols/resp/pubsub.h"
#include "protocols/resp/session.h"
#include "protocols/resp/slowlog.h"

enum { MEMORY_CHECK_MS = 100 };

static const char *command_names[COMMANDS];
static const char *const code_names[] = {
#define X(name) #name,
    RESP_CODES(X)
#undef X
};

static void check_memory(struct worker *w, struct io_timer *t)
{
    struct resp_front *f = CONTAINER_OF(t, struct resp_front, memory_timer);
    int64_t max = f->o.config != NULL ? CONFIG_GET(f->o.config, kv_maxmemory) : 0;
    uint64_t used = 0;

    (void)w;
    /* Asking the allocator is not free: only when there is a limit, else once in ten times for the peak. */
    if (max > 0 || ++f->memory_ticks % 10 == 0) {
        used = mem_allocated();
        if (used > __atomic_load_n(&f->memory_peak, __ATOMIC_RELAXED))
            __atomic_store_n(&f->memory_peak, used, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&f->over_memory, max > 0 && used > (uint64_t)max, __ATOMIC_RELAXED);
}

static void worker_init(struct resp_front *f, unsigned i)
{
    struct resp_worker *w = &f->workers[i];

    w->front = f;
    w->worker = workers_get(f->o.workers, i);
    w->parser = request_parser_new();
    w->pubsub = pubsub_worker_new();
    list_init(&w->free_holds);
    rand_seed(&w->rand, clock_mono_ns() + i);
}

static void make_run_id(struct resp_front *f)
{
    uint8_t random[20];

    if (f->o.run_id != NULL) {
        snprintf(f->run_id, sizeof(f->run_id), "%s", f->o.run_id);
        return;
    }
    rand_secure(random, sizeof(random));
    for (int i = 0; i < 20; i++)
        snprintf(f->run_id + i * 2, 3, "%02x", random[i]);
}

int resp_front_new(const struct resp_options *options, struct resp_front **ret)
{
    struct resp_front *f = mem_zalloc(sizeof(*f));

    command_table_init();
    f->o = *options;
    f->workers_count = workers_count(options->workers);
    f->workers = aligned_alloc(64, sizeof(f->workers[0]) * f->workers_count);
    CHECK(f->workers != NULL);
    memset(f->workers, 0, sizeof(f->workers[0]) * f->workers_count);
    f->pubsub = pubsub_new(f->workers_count);
    f->slowlog = slowlog_new();
    f->slow_us = 10000;
    f->started_us = clock_mono_us();
    f->reset_base = mem_calloc(info_base_count(), sizeof(f->reset_base[0]));
    make_run_id(f);
    for (unsigned i = 0; i < f->workers_count; i++)
        worker_init(f, i);
    for (int i = 0; i < COMMANDS; i++)
        command_names[i] = command_table[i].fullname;
    metrics_protocol_register(&f->metrics, "resp", "command", command_names, COMMANDS, code_names, CODES);
    f->rejected = metrics_counters_register("gomsg_resp_rejected_total", "Commands refused before they ran",
                                            NULL, "command", command_names, COMMANDS);
    f->failed = metrics_counters_register("gomsg_resp_failed_total", "Commands that answered an error", NULL,
                                          "command", command_names, COMMANDS);
    session_ops_init(&f->ops);
    session_ops_init(&f->ctl_ops);
    f->ctl_ops.protocol = CONN_CTL;
    f->ctl_ops.name = "ctl";
    f->ctl_ops.tick = NULL;
    if (options->config != NULL)
        f->ops.output_hard_max = (size_t)options->config->resp_output_max_bytes;
    io_timer_init(&f->memory_timer, check_memory);
    io_timer_start(f->workers[0].worker, &f->memory_timer, MEMORY_CHECK_MS, MEMORY_CHECK_MS);
    *ret = f;
    return 0;
}

void resp_front_set_port(struct resp_front *f, uint16_t port)
{
    f->o.tcp_port = port;
}

void resp_front_set_replication(struct resp_front *f, struct replication *r)
{
    f->replication = r;
}

void resp_front_free(struct resp_front *f)
{
    if (f == NULL)
        return;
    for (unsigned i = 0; i < f->workers_count; i++) {
        struct resp_worker *w = &f->workers[i];

        request_parser_free(w->parser);
        pubsub_worker_free(w->pubsub);
        hold_free_all(w);
        mem_free(w->guards);
        mem_free(w->indexes);
        mem_free(w->slices);
    }
    free(f->workers);
    pubsub_free(f->pubsub);
    slowlog_free(f->slowlog);
    mem_free(f->reset_base);
    mem_free(f);
}

/* ---- roles ---- */

struct role_news {
    struct mail mail;
    struct resp_worker *w;
    uint32_t partition;
};

static bool shard_gone(struct slice name, void *arg)
{
    struct role_news *n = arg;
    struct partitions *ps = n->w->front->o.partitions;

    return placement_of_key(name, partitions_count(ps)) == n->partition &&
           partition_role(partitions_get(ps, n->partition)) == PARTITION_NONE;
}

static void redirect_blocked(struct conn *c, void *arg)
{
    struct role_news *n = arg;
    struct session *s = session_find(n->w, c->id);

    if (s != NULL)
        blocked_redirect(s, n->partition);
}

static void hear_role(struct worker *worker, struct mail *m)
{
    struct role_news *n = CONTAINER_OF(m, struct role_news, mail);

    /* It may lead again by now: then nobody has to go. */
    if (!cluster_leads(n->w->front, n->partition)) {
        worker_each_conn(worker, redirect_blocked, n);
        pubsub_end_shards(n->w, shard_gone, n);
    }
    mem_free(n);
}

void resp_front_role_changed(struct resp_front *f, uint32_t partition)
{
    for (unsigned i = 0; i < f->workers_count; i++) {
        struct role_news *n = mem_zalloc(sizeof(*n));

        n->mail.deliver = hear_role;
        n->w = &f->workers[i];
        n->partition = partition;
        worker_post(n->w->worker, &n->mail);
    }
}

const struct conn_ops *resp_front_ops(const struct resp_front *f)
{
    return &f->ops;
}

const struct conn_ops *resp_front_ctl_ops(const struct resp_front *f)
{
    return &f->ctl_ops;
}
