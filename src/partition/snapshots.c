/* When and where snapshots are taken: one partition at a time, on a background thread; valid once the log is durable up to the walk's end (rule 2), and only behind
 * a valid one is the log cut (P18, rule 3). */
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "kv/snapshot.h"
#include "partition/private.h"

#define DURABLE_WAIT_US (60u * 1000000)
#define PIN_BYTES (UINT64_C(4) << 30) /* log that stays for a replica that gets a snapshot (rule 3); one that is slower than that begins anew */

static void walk_lock(void *arg) NO_THREAD_SAFETY_ANALYSIS
{
    partition_lock_background(arg);
}

static void walk_unlock(void *arg) NO_THREAD_SAFETY_ANALYSIS
{
    partition_unlock(arg);
}

static bool walk_wanted(void *arg)
{
    return partition_is_wanted(arg);
}

static int64_t walk_end(void *arg)
{
    return partition_applied(arg); /* what memory holds; of a leader the log's end */
}

static void nap(void)
{
    struct timespec ts = {0, 5 * 1000000};

    nanosleep(&ts, NULL);
}

/* Waits until what the walk may have seen survives a power cut and cannot be undone by a failover (rule 2). */
static int wait_valid(struct partition *p, int64_t end)
{
    uint64_t begun = clock_mono_us();

    while ((!log_store_never_syncs(p->ps->o.store) && log_durable(p->main) < end) || log_hw(p->main) < end) {
        if (partition_state(p) != PARTITION_OPEN || ALOAD(&p->ps->stopping))
            return ERR_CANCELLED;
        if (clock_mono_us() - begun > DURABLE_WAIT_US)
            return ERR_TIMEOUT;
        nap();
    }
    return 0;
}

/* Drops whole segments behind the snapshot, but keeps so much that a replica that was away for a moment finds its place (rule 3). */
static int cut_log(struct partition *p, int64_t snapshot) NO_THREAD_SAFETY_ANALYSIS /* partition_unlock gives it back */
{
    struct log_segment_info *segs;
    size_t n;
    uint64_t kept = 0, all = 0;
    int64_t start = snapshot, cut = log_start(p->main);
    int err = 0;

    futex_lock_take(&p->lock);
    mutex_lock(&p->replica_mutex);
    start = MIN_OF(start, ALOADX(&p->pinned));
    n = log_segments(p->main, NULL, 0);
    segs = mem_calloc(n, sizeof(segs[0]));
    n = MIN_OF(n, log_segments(p->main, segs, n));
    for (size_t i = n; i > 0; i--) {
        all += segs[i - 1].bytes;
        if (segs[i - 1].next > start && (segs[i - 1].next > snapshot || all < PIN_BYTES))
            continue;
        if (kept >= p->ps->o.snapshot_keep_bytes) {
            cut = MAX_OF(cut, segs[i - 1].next);
            break;
        }
        kept += segs[i - 1].bytes;
    }
    mem_free(segs);
    if (cut > log_start(p->main))
        err = log_advance_start(p->main, cut);
    ASTOREX(&p->snapshot_bytes, kept);
    mutex_unlock(&p->replica_mutex);
    partition_unlock(p);
    return err;
}

static int take(struct partition *p)
{
    struct kv_snapshot_lock lock = {walk_lock, walk_unlock, walk_wanted, walk_end, p};
    struct kv_snapshot_result result;
    char *dir = partition_kv_dir(p);
    uint64_t begun = clock_mono_us();
    int err;

    if (partition_state(p) != PARTITION_OPEN) {
        mem_free(dir);
        return partition_state(p) == PARTITION_FAILED ? partition_error(p) : ERR_AGAIN;
    }
    err = kv_snapshot_write(p->kv, &lock, dir, p->ps->o.cluster_id, p->index, &result);
    if (result.hold_max_us > ALOADX(&p->snapshot_hold_max_us))
        ASTOREX(&p->snapshot_hold_max_us, result.hold_max_us);
    if (result.hold_cpu_max_us > ALOADX(&p->snapshot_hold_cpu_max_us))
        ASTOREX(&p->snapshot_hold_cpu_max_us, result.hold_cpu_max_us);
    if (err == 0) {
        err = wait_valid(p, result.end);
        if (err == 0)
            err = kv_snapshot_publish(dir, result.start);
        else
            kv_snapshot_discard(dir, result.start);
    }
    if (err == 0) {
        ASTOREX(&p->snapshot_start, result.start);
        err = cut_log(p, result.start);
        ASTOREX(&p->snapshot_retry_us, 0);
        diag_info("snapshot", "partition=%u start=%lld end=%lld keys=%llu bytes=%llu ms=%llu hold_max_us=%llu", p->index,
                  (long long)result.start, (long long)result.end, (unsigned long long)result.keys,
                  (unsigned long long)result.bytes, (unsigned long long)((clock_mono_us() - begun) / 1000),
                  (unsigned long long)result.hold_max_us);
    } else {
        diag_warn("a snapshot failed", "partition=%u error=%s", p->index, err_name(err));
    }
    mem_free(dir);
    return err;
}

static int serve(struct partitions *ps, const struct snapshot_request *r)
{
    int err = 0;

    if (r->index != UINT32_MAX)
        return take(&ps->all[r->index]);
    for (uint32_t i = 0; i < ps->o.count && !ALOAD(&ps->stopping); i++) {
        int one = take(&ps->all[i]);

        if (err == 0)
            err = one;
    }
    return err;
}

struct snapshot_job {
    struct bg_job job;
    struct partitions *ps;
};

static void run_snapshots(struct bg_job *job)
{
    struct snapshot_job *s = CONTAINER_OF(job, struct snapshot_job, job);
    struct partitions *ps = s->ps;

    mem_free(s);
    for (;;) {
        struct snapshot_request *r;
        int err;

        mutex_lock(&ps->mutex);
        if (list_empty(&ps->snapshot_requests) || ps->stopping) {
            ps->snapshot_running = false;
            mutex_unlock(&ps->mutex);
            break;
        }
        r = LIST_ENTRY(list_pop_front(&ps->snapshot_requests), struct snapshot_request, node);
        mutex_unlock(&ps->mutex);
        err = serve(ps, r);
        if (r->done != NULL)
            r->done(r->arg, err);
        mem_free(r);
    }
    partitions_job_end(ps);
}

void partitions_snapshot(struct partitions *ps, uint32_t index, void (*done)(void *arg, int err), void *arg)
{
    struct snapshot_job *s = NULL;
    struct snapshot_request *r = mem_zalloc(sizeof(*r));

    CHECK(index == UINT32_MAX || index < ps->o.count);
    *r = (struct snapshot_request){.index = index, .done = done, .arg = arg};
    mutex_lock(&ps->mutex);
    list_push_back(&ps->snapshot_requests, &r->node);
    if (!ps->snapshot_running && !ps->stopping) {
        ps->snapshot_running = true;
        ps->jobs++;
        s = mem_zalloc(sizeof(*s));
        s->ps = ps;
        s->job.run = run_snapshots;
    }
    mutex_unlock(&ps->mutex);
    if (s != NULL)
        bg_submit(ps->o.workers, BG_FREE, &s->job);
}

/* No job runs any more: who still waits is told. */
void snapshots_stop(struct partitions *ps)
{
    struct list *n;

    while ((n = list_pop_front(&ps->snapshot_requests)) != NULL) {
        struct snapshot_request *r = LIST_ENTRY(n, struct snapshot_request, node);

        if (r->done != NULL)
            r->done(r->arg, ERR_CANCELLED);
        mem_free(r);
    }
}
