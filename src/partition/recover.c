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
#define COPY_MAX (64u << 10) /* batches up to this are gathered so that 32 records are ahead (P19) */

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

/* Whether every participant that a PARTICIPANTS record names has its batch. */
static int participants_whole(struct partitions *ps, struct slice value, bool *ret)
{
    struct reader rd = reader_of(value);
    uint64_t n = reader_uvarint(&rd);

    *ret = true;
    for (uint64_t i = 0; i < n && !rd.bad; i++) {
        uint64_t index = reader_uvarint(&rd), offset = reader_uvarint(&rd);

        if (rd.bad || index >= ps->o.count)
            return ERR_CORRUPT;
        /* A participant that has failed does not tell; its part is lost whatever is done here, so ours stays. */
        if (partition_state(&ps->all[index]) != PARTITION_FAILED && (uint64_t)ps->all[index].recovered_end <= offset)
            *ret = false;
    }
    return rd.bad ? ERR_CORRUPT : 0;
}

/* Looks at the last batch of a log. */
static int last_is_whole(struct partition *p, const struct batch_header *h, struct slice batch, bool *ret)
{
    struct record_iter it;
    struct record r;
    struct effect e;
    int more, err;

    *ret = true;
    record_iter_init(&it, h, slice_of(batch.data + BATCH_HEADER_SIZE, batch.len - BATCH_HEADER_SIZE));
    while ((more = record_iter_next(&it, &r)) == 1) {
        if (effect_read(&r, &e) != 0 || e.kind != EFFECT_PARTICIPANTS)
            continue;
        err = participants_whole(p->ps, e.value, ret);
        if (err != 0)
            return err;
    }
    return more;
}

static int add_records(struct kv_replay *replay, const struct batch_header *h, struct slice batch)
{
    struct record_iter it;
    struct record r;
    struct effect e;
    int more;

    record_iter_init(&it, h, slice_of(batch.data + BATCH_HEADER_SIZE, batch.len - BATCH_HEADER_SIZE));
    while ((more = record_iter_next(&it, &r)) == 1) {
        int err = effect_read(&r, &e);

        if (err == 0)
            err = kv_replay_add(replay, &e);
        if (err != 0)
            return err;
    }
    return more;
}

static int replay_log(struct partition *p, int64_t from, void (*progress)(void *arg, uint64_t bytes), void *arg)
{
    struct kv_replay *replay = mem_zalloc(sizeof(*replay));
    struct log_cursor c;
    struct buf copies = {0};
    struct batch_header h;
    struct slice batch;
    uint64_t unreported = 0;
    int more, err = 0;

    replay->kv = p->kv;
    buf_reserve(&copies, COPY_MAX);
    log_cursor_init(&c, p->main, from, WINDOW);
    while ((more = log_cursor_next(&c, &h, &batch)) == 1) {
        int64_t next = h.base_offset + h.last_offset_delta + 1;

        if (!batch_crc_ok(batch.data, &h) || (h.attributes & BATCH_ATTR_CODEC) != 0) {
            err = ERR_CORRUPT;
            break;
        }
        if (next == p->recovered_end) {
            bool whole;

            err = last_is_whole(p, &h, batch, &whole);
            if (err != 0)
                break;
            if (!whole) {
                diag_warn("an incomplete command over several partitions is dropped", "partition=%u offset=%lld", p->index,
                          (long long)h.base_offset);
                err = kv_replay_flush(replay);
                if (err == 0)
                    err = log_truncate(p->main, h.base_offset);
                break;
            }
        }
        /* The cursor's bytes go with its next step; small batches are copied until there are enough records to look ahead. */
        if (batch.len > COPY_MAX) {
            err = kv_replay_flush(replay);
            copies.len = 0;
            if (err == 0)
                err = add_records(replay, &h, batch);
            if (err == 0)
                err = kv_replay_flush(replay);
        } else {
            if (copies.len + batch.len > COPY_MAX) {
                err = kv_replay_flush(replay);
                copies.len = 0;
            }
            buf_put_slice(&copies, batch);
            if (err == 0)
                err = add_records(replay, &h, slice_of(copies.data + copies.len - batch.len, batch.len));
        }
        if (err != 0)
            break;
        unreported += batch.len;
        if (unreported >= WINDOW && progress != NULL) {
            progress(arg, unreported);
            unreported = 0;
        }
    }
    if (err == 0)
        err = kv_replay_flush(replay);
    if (err == 0 && more < 0)
        err = more;
    if (progress != NULL)
        progress(arg, unreported);
    log_cursor_fini(&c);
    buf_fini(&copies);
    mem_free(replay);
    return err;
}

int partition_replay(struct partition *p, void (*progress)(void *arg, uint64_t bytes), void *arg)
{
    char *dir = partition_kv_dir(p);
    int64_t from = 0;
    int err = kv_snapshot_load(p->kv, dir, p->ps->o.cluster_id, p->index, &from);

    mem_free(dir);
    if (err == ERR_NOT_FOUND) {
        ASTOREX(&p->snapshot_start, -1);
        from = 0;
    } else if (err != 0) {
        return err;
    } else {
        struct log_segment_info segs[64];
        size_t n = log_segments(p->main, segs, ARRAY_LEN(segs));
        uint64_t behind = 0;

        for (size_t i = 0; i < MIN_OF(n, ARRAY_LEN(segs)); i++)
            if (segs[i].next <= from)
                behind += segs[i].bytes;
        ASTOREX(&p->snapshot_start, from);
        ASTOREX(&p->snapshot_bytes, behind);
    }
    /* The log must begin where the snapshot can be continued. */
    if (log_start(p->main) > from || log_end(p->main) < from)
        return ERR_CORRUPT;
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
    int err = partition_replay(p, note_bytes, r);

    if (err != 0) {
        partition_fail(p, err,
                       err == ERR_LEVEL     ? "an effect of a kind this version does not know"
                       : err == ERR_FOREIGN ? "its snapshot belongs to another cluster or partition"
                                            : "its snapshot or main log is damaged");
        kv_clear(p->kv);
    } else {
        partition_note_counts(p);
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
