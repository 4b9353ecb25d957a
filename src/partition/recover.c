/* Recovery of all partitions, in parallel on background threads, in two phases, since a batch of a command over several partitions
 * is dropped wherever some participant's log does not reach the offset it names (rule 5): first every main log is opened, verified and cut, and its end
 * noted; then each partition loads its snapshot and replays its log from there. */
#include <stdio.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "kv/snapshot.h"
#include "partition/private.h"

#define WINDOW (1u << 20)

struct recovery {
    struct partitions *ps;
    uint32_t next, done, running; /* atomics */
    uint64_t bytes;               /* atomic */
    bool replaying;               /* the second phase */
    uint64_t begun_us;
    void (*progress)(void *arg, uint32_t done, uint32_t total, uint64_t bytes);
    void (*finished)(void *arg);
    void *arg;
    unsigned job_count;
};

static void run_phase(struct bg_job *job);

struct recovery_slot {
    struct bg_job job;
    struct recovery *r;
};

static void start_phase(struct recovery *r)
{
    struct workers *ws = r->ps->o.workers;
    unsigned n = r->job_count;

    ASTOREX(&r->next, 0);
    ASTORE(&r->running, n);
    /* The last job may be done, and r freed, before this loop is. */
    for (unsigned i = 0; i < n; i++) {
        struct recovery_slot *s = mem_zalloc(sizeof(*s));

        s->r = r;
        s->job.run = run_phase;
        bg_submit(ws, BG_FREE, &s->job);
    }
}

/* ---- first: the logs ---------------------------------------------------------------------------------------------------- */

static void open_log(struct partition *p)
{
    char dir[32];
    int err;

    snprintf(dir, sizeof(dir), "p-%04u/main", p->index);
    err = log_open(p->ps->o.store, &(struct log_options){.kind = LOG_MAIN, .dir = dir, .log_id = p->index}, &p->main);
    if (err == 0)
        err = log_recover(p->main);
    if (err == 0)
        p->recovered_end = log_end(p->main);
    else
        partition_fail(p, err, "the main log cannot be opened");
}

/* ---- second: the state ----------------------------------------------------------------------------------------------------- */

/* Drops the last batch of a log when it is part of a command that did not reach all its partitions (rule 5): such a batch can only be the last. */
static int drop_incomplete(struct partition *p)
{
    struct log_participant *parts;
    int64_t base;
    bool whole = true;
    int n = log_last_batch_participants(p->main, NULL, 0, &base);

    if (n <= 0)
        return n;
    parts = mem_calloc((size_t)n, sizeof(parts[0]));
    n = log_last_batch_participants(p->main, parts, (size_t)n, &base);
    for (int i = 0; i < n; i++) {
        struct partition *other;

        if (parts[i].partition >= p->ps->o.count) {
            n = ERR_CORRUPT;
            break;
        }
        other = &p->ps->all[parts[i].partition];
        /* A participant that has failed does not tell; its part is lost whatever is done here, so ours stays. */
        if (partition_state(other) != PARTITION_FAILED && other->recovered_end <= parts[i].offset)
            whole = false;
    }
    mem_free(parts);
    if (n < 0 || whole)
        return MIN_OF(n, 0);
    diag_warn("an incomplete command over several partitions is dropped", "partition=%u offset=%lld", p->index, (long long)base);
    return log_truncate(p->main, base);
}

static int replay_log(struct partition *p, int64_t from, void (*progress)(void *arg, uint64_t bytes), void *arg)
{
    struct replay r;
    int more, err = 0;

    replay_init(&r, p, from, WINDOW);
    while (err == 0 && (more = replay_gather(&r, INT64_MAX)) != 0) {
        size_t bytes = r.bytes.len;

        err = more < 0 ? more : replay_apply(&r);
        if (err == 0 && progress != NULL)
            progress(arg, bytes);
    }
    replay_fini(&r);
    return err;
}

int partition_load_snapshot(struct partition *p, int64_t *ret_from, int64_t *ret_whole)
{
    char *dir = partition_kv_dir(p);
    int err = kv_snapshot_load(p->kv, dir, p->ps->o.cluster_id, p->index, ret_from);

    *ret_whole = *ret_from;
    if (err == ERR_NOT_FOUND) {
        ASTOREX(&p->snapshot_start, -1);
        *ret_from = *ret_whole = 0;
        err = 0;
    } else if (err == 0) {
        struct log_segment_info segs[64];
        size_t n = log_segments(p->main, segs, ARRAY_LEN(segs));
        uint64_t behind = 0;

        for (size_t i = 0; i < MIN_OF(n, ARRAY_LEN(segs)); i++)
            if (segs[i].next <= *ret_from)
                behind += segs[i].bytes;
        ASTOREX(&p->snapshot_start, *ret_from);
        ASTOREX(&p->snapshot_bytes, behind);
        err = kv_snapshot_end(dir, *ret_from, ret_whole);
    }
    mem_free(dir);
    return err;
}

int partition_replay(struct partition *p, void (*progress)(void *arg, uint64_t bytes), void *arg)
{
    int64_t from, whole;
    int err = partition_load_snapshot(p, &from, &whole);

    if (err != 0)
        return err;
    /* The log must begin where the snapshot can be continued. */
    if (log_start(p->main) > from || log_end(p->main) < from)
        return ERR_CORRUPT;
    ASTORE(&p->stale_from, whole);
    return replay_log(p, from, progress, arg);
}

static void note_bytes(void *arg, uint64_t bytes)
{
    struct recovery *r = arg;
    uint64_t total = __atomic_add_fetch(&r->bytes, bytes, __ATOMIC_RELAXED);

    if (r->progress != NULL)
        r->progress(r->arg, ALOADX(&r->done), r->ps->o.count, total);
}

static void recover_state(struct recovery *r, struct partition *p)
{
    int err = drop_incomplete(p);

    /* In a cluster nobody knows yet how much of the log is committed: memory stays at the snapshot until the leader says (rule 2). */
    if (err == 0)
        err = p->ps->o.clustered ? partition_reload(p) : partition_replay(p, note_bytes, r);
    if (err != 0) {
        partition_fail(p, err,
                       err == ERR_LEVEL     ? "an effect of a kind this version does not know"
                       : err == ERR_FOREIGN ? "its snapshot belongs to another cluster or partition"
                                            : "its snapshot or main log is damaged");
        kv_clear(p->kv);
    } else {
        partition_note_counts(p);
        partition_note_time(p);
        ASTORE(&p->state, (uint32_t)PARTITION_OPEN);
    }
    __atomic_fetch_add(&r->done, 1, __ATOMIC_RELAXED);
    note_bytes(r, 0);
}

/* ---- the phases ---------------------------------------------------------------------------------------------------------------- */

static void finish(struct recovery *r)
{
    struct partitions *ps = r->ps;
    void (*finished)(void *) = r->finished;
    void *arg = r->arg;
    uint64_t keys = 0;

    for (uint32_t i = 0; i < ps->o.count; i++)
        keys += ALOADX(&ps->all[i].keys);
    diag_info("partitions recovered", "partitions=%u keys=%llu log_bytes=%llu ms=%llu", ps->o.count, (unsigned long long)keys,
              (unsigned long long)r->bytes, (unsigned long long)((clock_mono_us() - r->begun_us) / 1000));
    mem_free(r);
    maintenance_start(ps);
    ASTORE(&ps->ready, true);
    if (finished != NULL)
        finished(arg);
    partitions_job_end(ps);
}

static void run_phase(struct bg_job *job)
{
    struct recovery_slot *s = CONTAINER_OF(job, struct recovery_slot, job);
    struct recovery *r = s->r;
    uint32_t i;

    mem_free(s);
    while ((i = __atomic_fetch_add(&r->next, 1, __ATOMIC_RELAXED)) < r->ps->o.count) {
        struct partition *p = &r->ps->all[i];

        if (!r->replaying)
            open_log(p);
        else if (partition_state(p) != PARTITION_FAILED)
            recover_state(r, p);
        else
            __atomic_fetch_add(&r->done, 1, __ATOMIC_RELAXED);
    }
    if (__atomic_sub_fetch(&r->running, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    if (r->replaying) {
        finish(r);
    } else {
        r->replaying = true;
        start_phase(r);
    }
}

void partitions_recover(struct partitions *ps, void (*progress)(void *arg, uint32_t done, uint32_t total, uint64_t bytes),
                        void (*done)(void *arg), void *arg)
{
    struct recovery *r = mem_zalloc(sizeof(*r));

    *r = (struct recovery){.ps = ps, .progress = progress, .finished = done, .arg = arg, .begun_us = clock_mono_us()};
    r->job_count = MIN_OF(workers_client_count(ps->o.workers), ps->o.count);
    for (uint32_t i = 0; i < ps->o.count; i++)
        ASTORE(&ps->all[i].state, (uint32_t)PARTITION_RECOVERING);
    partitions_job_begin(ps);
    start_phase(r);
}
