/* Making, entering and leaving partitions; see partition.h, lock.c for the lock, set.c for several at once. */
#include "partition/partition.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "kv/snapshot.h"
#include "partition/private.h"



/* ---- background freeing ---------------------------------------------------------------------------------------------------- */

struct free_job {
    struct bg_job job;
    void (*fn)(void *p);
    void *p;
};

static void run_free(struct bg_job *job)
{
    struct free_job *f = CONTAINER_OF(job, struct free_job, job);

    f->fn(f->p);
    mem_free(f);
}

static void free_later(void *arg, void (*fn)(void *p), void *p)
{
    struct partitions *ps = arg;
    struct free_job *f = mem_zalloc(sizeof(*f));

    f->fn = fn;
    f->p = p;
    f->job.run = run_free;
    bg_submit(ps->o.workers, BG_FREE, &f->job);
}

/* ---- background jobs, counted so that closing can wait ------------------------------------------------------------------------ */

void partitions_job_begin(struct partitions *ps)
{
    mutex_lock(&ps->mutex);
    ps->jobs++;
    mutex_unlock(&ps->mutex);
}

void partitions_job_end(struct partitions *ps)
{
    mutex_lock(&ps->mutex);
    ps->jobs--;
    pthread_cond_broadcast(&ps->idle);
    mutex_unlock(&ps->mutex);
}

/* ---- making -------------------------------------------------------------------------------------------------------------------- */

/* Rule 5: the sync marks of one round are taken while no command over several partitions is under way. */
static void cut_begin(void *arg) NO_THREAD_SAFETY_ANALYSIS
{
    spanning_lock_exclusive(arg);
}

static void cut_end(void *arg) NO_THREAD_SAFETY_ANALYSIS
{
    spanning_unlock_exclusive(arg);
}

int partitions_new(const struct partitions_options *options, struct partitions **ret)
{
    struct partitions *ps;
    pthread_rwlockattr_t attr;

    if (options->count < 1 || options->count > 16384)
        return ERR_INVALID;
    ps = mem_zalloc(sizeof(*ps));
    MAGIC_INIT(ps, PARTITIONS_MAGIC);
    ps->o = *options;
    ps->o.data_dir = mem_strdup(options->data_dir);
    if (ps->o.snapshot_log_bytes == 0)
        ps->o.snapshot_log_bytes = UINT64_C(256) << 20;
    if (ps->o.snapshot_keep_bytes == 0)
        ps->o.snapshot_keep_bytes = UINT64_C(256) << 20;
    if (ps->o.kv.free_later == NULL) {
        ps->o.kv.free_later = free_later;
        ps->o.kv.free_arg = ps;
    }
    mutex_init(&ps->mutex);
    mutex_init(&ps->park_mutex);
    ps->lease_until_us = UINT64_MAX;
    pthread_cond_init(&ps->idle, NULL);
    list_init(&ps->snapshot_requests);
    CHECK(pthread_rwlockattr_init(&attr) == 0);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    CHECK(pthread_rwlock_init(&ps->spanning, &attr) == 0);
    pthread_rwlockattr_destroy(&attr);
    parking_init(&ps->spanning_parking, ps, NULL);
    wakers_init(ps);
    CHECK(posix_memalign((void **)&ps->all, _Alignof(struct partition), options->count * sizeof(ps->all[0])) == 0);
    memset(ps->all, 0, options->count * sizeof(ps->all[0]));
    for (uint32_t i = 0; i < options->count; i++) {
        struct partition *p = &ps->all[i];

        MAGIC_INIT(p, PARTITION_MAGIC);
        mutex_init(&p->replica_mutex);
        p->index = i;
        p->ps = ps;
        p->snapshot_start = -1;
        /* A node alone leads everything; in a cluster the topology steps the roles. */
        p->role = ps->o.clustered ? PARTITION_NONE : PARTITION_LEADER;
        p->epoch = ps->o.clustered ? 0 : 1;
        p->pinned = INT64_MAX;
        parking_init(&p->parking, ps, p);
        parking_init(&p->opening, ps, p);
        p->opening.for_opening = true;
        p->kv = kv_new(&ps->o.kv);
        partition_queues_init(&p->queues, p, &ps->o);
    }
    log_store_set_cut(options->store, cut_begin, cut_end, ps);
    *ret = ps;
    return 0;
}

void partitions_set_cluster(struct partitions *ps, const uint8_t cluster_id[16])
{
    memcpy(ps->o.cluster_id, cluster_id, 16);
}

void partitions_free(struct partitions *ps)
{
    if (ps == NULL)
        return;
    MAGIC_CHECK(ps, PARTITIONS_MAGIC);
    mutex_lock(&ps->mutex);
    ASTORE(&ps->stopping, true);
    mutex_unlock(&ps->mutex);
    maintenance_stop(ps);
    mutex_lock(&ps->mutex);
    while (ps->jobs != 0)
        pthread_cond_wait(&ps->idle, &ps->mutex.m);
    mutex_unlock(&ps->mutex);
    snapshots_stop(ps);
    log_store_set_cut(ps->o.store, NULL, NULL, NULL);
    for (uint32_t i = 0; i < ps->o.count; i++) {
        struct partition *p = &ps->all[i];

        partition_queues_fini(&p->queues);
        replay_fini(&p->apply);
        if (p->main != NULL)
            log_close(p->main);
        kv_free(p->kv);
        batch_builder_fini(&p->builder);
        mutex_fini(&p->replica_mutex);
        MAGIC_FINI(p, PARTITION_MAGIC);
    }
    free(ps->all);
    mem_free(ps->wakers);
    pthread_rwlock_destroy(&ps->spanning);
    pthread_cond_destroy(&ps->idle);
    mutex_fini(&ps->mutex);
    mutex_fini(&ps->park_mutex);
    mem_free((char *)ps->o.data_dir);
    MAGIC_FINI(ps, PARTITIONS_MAGIC);
    mem_free(ps);
}

void partitions_set_snapshot_log_bytes(struct partitions *ps, uint64_t bytes)
{
    ASTOREX(&ps->o.snapshot_log_bytes, bytes);
}

bool partitions_ready(const struct partitions *ps)
{
    return ALOAD(&ps->ready);
}

uint32_t partitions_count(const struct partitions *ps)
{
    return ps->o.count;
}

struct partition *partitions_get(struct partitions *ps, uint32_t index)
{
    CHECK(index < ps->o.count);
    return &ps->all[index];
}

uint32_t partition_index(const struct partition *p)
{
    return p->index;
}

struct kv *partition_kv(struct partition *p)
{
    return p->kv;
}

struct queue_table *partition_queues(struct partition *p)
{
    return p->queues.table;
}

struct log *partition_main_log(struct partition *p)
{
    return p->main;
}

enum partition_state partition_state(const struct partition *p)
{
    return (enum partition_state)ALOAD(&p->state);
}

int partition_error(const struct partition *p)
{
    return ALOAD(&p->error);
}

char *partition_kv_dir(const struct partition *p)
{
    return mem_printf("%s/p-%04u/kv", p->ps->o.data_dir, p->index);
}

void partition_fail(struct partition *p, int err, const char *why)
{
    if (ALOAD(&p->state) == PARTITION_FAILED)
        return;
    diag_error("partition failed", "partition=%u error=%s why=\"%s\"", p->index, err_name(err), why);
    ASTORE(&p->error, err);
    ASTORE(&p->state, (uint32_t)PARTITION_FAILED);
}

/* ---- entering and leaving --------------------------------------------------------------------------------------------------------- */

static struct rand *thread_rand(void)
{
    static __thread struct rand r;
    static __thread bool seeded;

    if (GM_UNLIKELY(!seeded)) {
        uint64_t seed;

        rand_secure(&seed, sizeof(seed));
        rand_seed(&r, seed);
        seeded = true;
    }
    return &r;
}

/* Who holds one partition holds no other, so a thread needs one batch for all it enters one by one, and finds it in its cache. */
static struct batch_builder *thread_builder(void)
{
    static __thread struct batch_builder b;
    static __thread bool known;

    if (GM_UNLIKELY(!known)) {
        mem_free_at_thread_exit((void **)&b.bytes.data);
        known = true;
    }
    return &b;
}

void partition_note_time(struct partition *p)
{
    p->floor_ms = MAX_OF(p->floor_ms, log_last_timestamp(p->main));
}

void guard_fill(struct partition_guard *g, struct partition *p, uint32_t db, struct batch_builder *builder)
{
    struct worker *w = worker_current();
    int64_t now = w != NULL ? worker_wall_ms(w) : clock_wall_ms();

    /* Rule 10: time in effects never goes back within a log. */
    now = MAX_OF(now, p->floor_ms);
    g->p = p;
    g->main = p->main;
    g->end = 0;
    g->mark = log_commit_mark();
    g->wrote = g->background = g->in_set = g->stale = g->unknown = false;
    g->set_at = 0;
    batch_begin(builder, now);
    g->fx = (struct effects){builder, now, false};
    g->kv = (struct kv_ctx){.kv = p->kv, .fx = &g->fx, .db = db, .now_ms = now, .rand = thread_rand()};
    g->fx.snapshot_running = kv_snapshot_running(p->kv);
}

/* Lock order, in debug builds: who holds one partition enters no other; sets are taken by set.c in one go. */
#ifdef GM_DEBUG
static __thread unsigned held;
#define NOTE_ENTERED() CHECK(held++ == 0)
#define NOTE_LEFT() CHECK(held-- == 1)
#else
#define NOTE_ENTERED() ((void)0)
#define NOTE_LEFT() ((void)0)
#endif

int partition_enter(struct partition *p, uint32_t db, struct partition_park *park, struct partition_guard *g)
{
    int err = partition_admit(p, park);

    if (GM_UNLIKELY(err != 0))
        return err;
    err = partition_lock_worker(p, park);
    if (GM_UNLIKELY(err != 0))
        return err;
    err = partition_admit(p, park);
    if (GM_UNLIKELY(err != 0)) {
        partition_unlock(p);
        return err;
    }
    NOTE_ENTERED();
    guard_fill(g, p, db, thread_builder());
    return 0;
}

/* Why a partition that is not open cannot be entered, whatever its role. */
static int refusal(const struct partition *p)
{
    switch (ALOAD(&p->state)) {
    case PARTITION_OPEN:
        return 0;
    case PARTITION_FAILED:
        return ALOAD(&p->error);
    default:
        return ERR_AGAIN;
    }
}

int partition_enter_stale(struct partition *p, uint32_t db, struct partition_park *park, struct partition_guard *g)
{
    int err = refusal(p);

    if (err == 0)
        err = partition_lock_worker(p, park);
    if (err != 0)
        return err;
    err = refusal(p);
    if (err == 0)
        err = partition_stale_refusal(p);
    if (err != 0) {
        partition_unlock(p);
        return err;
    }
    NOTE_ENTERED();
    partition_note_time(p);
    guard_fill(g, p, db, thread_builder());
    g->stale = true;
    return 0;
}

int partition_enter_upkeep(struct partition *p, struct partition_park *park, struct partition_guard *g)
{
    int err = refusal(p);

    if (err == 0)
        err = partition_lock_worker(p, park);
    if (err != 0)
        return err;
    err = refusal(p);
    if (err != 0) {
        partition_unlock(p);
        return err;
    }
    NOTE_ENTERED();
    partition_note_time(p);
    guard_fill(g, p, 0, thread_builder());
    g->stale = true;
    return 0;
}

void partition_enter_background(struct partition *p, uint32_t db, struct partition_guard *g)
{
    partition_lock_background(p);
    NOTE_ENTERED();
    partition_note_time(p);
    guard_fill(g, p, db, thread_builder());
    g->background = true;
}

void partition_note_counts(struct partition *p)
{
    struct kv_stats s;

    kv_stats_counts(p->kv, &s);
    ASTOREX(&p->keys, s.keys);
    ASTOREX(&p->expired_total, s.expired_total);
    ASTOREX(&p->expires, s.expires);
}

/* Nothing may have been written: a follower's memory is what its leader's log says. Should something have been, it is thrown away with the memory it stands for. */
static int leave_reader(struct partition_guard *g)
{
    struct partition *p = g->p;

    if (p->queues_stirred)
        queue_table_flush(p->queues.table, NULL); /* exclusive queues live here whoever leads (rule 18) */
    if (!batch_is_empty(g->fx.batch)) {
        diag_error("effects without leadership are dropped", "partition=%u role=%u", p->index, ALOADX(&p->role));
        batch_builder_fini(g->fx.batch);
        partition_rebuild(p, ERR_NOT_LEADER);
    }
    NOTE_LEFT();
    partition_unlock(p);
    return 0;
}

int partition_leave(struct partition_guard *g)
{
    struct partition *p = g->p;
    int err = 0;

    CHECK(!g->in_set);
    /* Under the lock the role stands still: who entered as a leader's client leaves as one. */
    if (GM_UNLIKELY(g->stale || !partition_writes(p)))
        return leave_reader(g);
    kv_blocked_serve(&g->kv);
    if (GM_UNLIKELY(p->queues_stirred))
        queue_table_flush(p->queues.table, NULL);
    if (!batch_is_empty(g->fx.batch)) {
        int64_t base;

        err = log_append(p->main, g->fx.batch, &base);
        if (GM_LIKELY(err == 0)) {
            g->wrote = true;
            g->end = log_end(p->main);
            p->floor_ms = g->fx.now_ms;
        } else {
            partition_rebuild(p, err);
        }
        if (GM_UNLIKELY(g->fx.batch->bytes.cap > PARTITION_BUILDER_KEPT))
            batch_builder_fini(g->fx.batch);
        partition_note_counts(p);
    }
    NOTE_LEFT();
    partition_unlock(p);
    if (err == 0 && !g->background) {
        err = partition_still_leased(p);
        g->unknown = err != 0 && g->wrote;
    }
    return err;
}

/* ---- memory and log have parted ------------------------------------------------------------------------------------------------------ */

struct rebuild_job {
    struct bg_job job;
    struct partition *p;
};

static void run_rebuild(struct bg_job *job) NO_THREAD_SAFETY_ANALYSIS /* partition_unlock gives it back */
{
    struct rebuild_job *r = CONTAINER_OF(job, struct rebuild_job, job);
    struct partition *p = r->p;
    int err;

    futex_lock_take(&p->lock);
    p->recovered_end = -1; /* nothing in this log is incomplete any more */
    if (partition_writes(p)) {
        kv_clear(p->kv);
        err = partition_replay(p, NULL, NULL);
    } else {
        err = partition_reload(p);
    }
    partition_note_time(p);
    ASTOREX(&p->rebuilding, false);
    if (err == 0)
        ASTORE(&p->state, (uint32_t)PARTITION_OPEN);
    else
        partition_fail(p, err, "its memory could not be rebuilt from its log");
    partition_note_counts(p);
    partition_unlock(p);
    if (err == 0)
        diag_info("partition rebuilt", "partition=%u keys=%llu", p->index, (unsigned long long)ALOADX(&p->keys));
    mem_free(r);
    partitions_job_end(p->ps);
}

/* A command's effects could not be appended, but its changes are in memory. With a full disk, or without a file descriptor left, the log is whole, so the memory is thrown away and rebuilt from
 * it (rule 2), and meanwhile commands are told to try again; after an I/O error the partition has failed. */
void partition_rebuild(struct partition *p, int err)
{
    struct rebuild_job *r;

    if (err != ERR_NOSPACE && err != ERR_NOFILE && err != ERR_NOT_LEADER) {
        partition_fail(p, err, "the main log cannot be appended to");
        return;
    }
    if (ALOADX(&p->rebuilding) || ALOAD(&p->state) == PARTITION_FAILED)
        return;
    diag_warn("memory and log have parted, the partition is rebuilt from its log", "partition=%u error=%s", p->index, err_name(err));
    ASTOREX(&p->rebuilding, true);
    ASTORE(&p->state, (uint32_t)PARTITION_RECOVERING);
    r = mem_zalloc(sizeof(*r));
    r->p = p;
    r->job.run = run_rebuild;
    partitions_job_begin(p->ps);
    bg_submit(p->ps->o.workers, BG_FREE, &r->job);
}

void partition_info(struct partition *p, struct partition_info *ret)
{
    *ret = (struct partition_info){
        .state = partition_state(p),
        .error = partition_error(p),
        .keys = ALOADX(&p->keys),
        .expired_total = ALOADX(&p->expired_total),
        .snapshot_start = ALOADX(&p->snapshot_start),
        .snapshot_hold_max_us = ALOADX(&p->snapshot_hold_max_us),
        .snapshot_hold_cpu_max_us = ALOADX(&p->snapshot_hold_cpu_max_us),
        .parked_total = ALOADX(&p->parking.total),
    };
    /* p->main is set before the state leaves PARTITION_RECOVERING and stays. */
    if (ret->state == PARTITION_OPEN || (ret->state == PARTITION_FAILED && p->main != NULL)) {
        ret->log_start = log_start(p->main);
        ret->log_end = log_end(p->main);
        ret->log_durable = log_durable(p->main);
        ret->log_bytes = log_bytes(p->main);
    }
}
