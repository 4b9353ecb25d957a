/* Sync rounds (rule 6, P14): one a node, for everybody.
 *
 *     cut      under the partition layer's exclusive lock: raise the round number, take the dirty logs' positions, then the sealed files and the ledger's pending entries
 *     sync     up to three files: msync of a mapped range, fdatasync of others; more files, or new names: one syncfs of the data directory
 *     mark     one frame in the ledger with the new durable positions, synced
 *     publish  durable offsets, the round's number; one mail a worker that has waiters
 *
 * Where commits come in crowds, a round that would begin at once behind another waits for company: while more comes, and no longer than that one took. The answers just given bring the next requests, and one
 * round serves them where two would, each with a part. Nobody waits longer for it than he might have without: for the rest of a round that began just before he came.
 *
 * A round always syncs what it marks: with `log.fsync: never` rounds are as rare as an operating system's own, and only what asks for one (the only copy of a replicated log, rule 12c; a clean stop) has one at once. A mark
 * that nothing stands behind would be worse than none, since what is missing below it is corruption.
 *
 * A commit that is told of an append after it happened needs the round that is open then: that round's cut is still to come. An error is never retried: the store is
 * unhealthy from then on, appends are refused, waiters get the error. Who waits is commit.c's. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "log/private.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE_FLOOR(x) ((x) & ~(uint64_t)4095)
#define PAGE_CEIL(x) PAGE_FLOOR((x) + 4095)
#define FILES_ONE_BY_ONE 3
#define CROWD 8             /* records a round made durable: more will come */
#define GATHER_US_MAX 1000
#define GATHER_STEPS 4
#define GATHER_BEHIND_US 10000 /* the end of the last round */
#define POSTPONED_US 500000     /* after a round found no space for its marks */
#define NEVER_INTERVAL_MS 30000 /* with `log.fsync: never`: as an operating system would by itself */

struct item {
    struct log *log; /* counted, from the dirty stack */
    struct hot *hot; /* counted or NULL */
    int64_t end, segment;
    uint64_t pos;
    bool clean; /* its last mark says the same: it is here for its high watermark */
};

struct round {
    struct log_store *s;
    uint64_t number;
    struct item *items;
    size_t count, cap, unclean;
    struct list sealed;
    size_t sealed_count;
    struct buf entries;
    size_t pending_len; /* of entries, the rest are marks */
    bool new_names, by_syncfs;
    int64_t records; /* made durable */
};

/* ---- cut -------------------------------------------------------------------------------------------------------------- */

static void take_position(struct round *r, struct log *l)
{
    struct item *it;
    struct segment *seg;
    int64_t max_ts;

    if (r->count == r->cap) {
        r->cap = r->cap == 0 ? 64 : r->cap * 2;
        r->items = mem_realloc(r->items, r->cap * sizeof(*r->items));
    }
    it = &r->items[r->count++];
    it->log = l;
    mutex_lock(log_stripe(l));
    seg = seg_active(l);
    log_tail(l, &it->end, &it->pos, &max_ts);
    it->segment = seg == NULL ? -1 : seg->base;
    it->hot = l->hot;
    it->clean = it->end == l->mark_off && it->segment == l->mark_seg && it->pos == l->mark_pos && it->end == ALOADX(&l->durable);
    if (it->hot != NULL)
        __atomic_add_fetch(&it->hot->refs, 1, __ATOMIC_RELAXED);
    mutex_unlock(log_stripe(l));
    r->unclean += !it->clean;
}

/* Leaves round_mutex taken: it is given back when the round is over. */
static void cut(struct round *r) ACQUIRE(r->s->round_mutex) NO_THREAD_SAFETY_ANALYSIS
{
    struct log_store *s = r->s;
    void (*begin)(void *), (*end)(void *), *arg;

    mutex_lock(&s->mutex);
    begin = s->cut_begin;
    end = s->cut_end;
    arg = s->cut_arg;
    s->cutting = true;
    mutex_unlock(&s->mutex);
    if (begin != NULL)
        begin(arg);
    mutex_lock(&s->round_mutex);
    r->number = __atomic_fetch_add(&s->round_open, 1, __ATOMIC_SEQ_CST);
    for (struct log *l = __atomic_exchange_n(&s->dirty, NULL, __ATOMIC_SEQ_CST), *next; l != NULL; l = next) {
        next = l->dirty_next;
        __atomic_store_n(&l->dirty, false, __ATOMIC_SEQ_CST); /* before the position: a later append stands in the stack again */
        take_position(r, l);
    }
    mutex_lock(&s->mutex);
    list_splice(&r->sealed, &s->sealed);
    r->entries = s->pending;
    s->pending = (struct buf){0};
    mutex_unlock(&s->mutex);
    r->pending_len = r->entries.len;
    r->new_names = __atomic_exchange_n(&s->new_names, false, __ATOMIC_SEQ_CST);
    if (end != NULL)
        end(arg);
    mutex_lock(&s->mutex);
    s->cutting = false;
    pthread_cond_broadcast(&s->done_cond);
    mutex_unlock(&s->mutex);
    LIST_FOREACH(n, &r->sealed)
    {
        r->sealed_count++;
    }
}

/* ---- sync ------------------------------------------------------------------------------------------------------------- */

static int sync_item(const struct item *it)
{
    struct hot *h = it->hot;
    struct segfile *f;
    int err = 0;

    if (it->segment < 0 || it->clean || ALOAD(&it->log->deleted))
        return 0;
    if (h != NULL && h->file->base == it->segment) {
        uint64_t from = PAGE_FLOOR(h->synced);

        if (it->pos > from && msync(h->file->map + from, (size_t)(it->pos - from), MS_SYNC) < 0)
            return err_from_errno(errno);
        return 0;
    }
    err = segment_open(it->log, it->segment, &f);
    if (err != 0)
        return err == ERR_NOT_FOUND || ALOAD(&it->log->deleted) ? 0 : err;
    if (fdatasync(f->fd) < 0)
        err = err_from_errno(errno);
    segfile_unref(f);
    return err;
}

static int sync_files(struct round *r)
{
    struct log_store *s = r->s;
    int err = 0;

    if (failpoint_hit(&s->fp_sync_eio))
        return ERR_IO;
    if (r->unclean == 0 && r->sealed_count == 0 && !r->new_names)
        return 0;
    r->by_syncfs = r->new_names || r->unclean + r->sealed_count > FILES_ONE_BY_ONE;
    if (r->by_syncfs)
        return syncfs(s->dirfd) < 0 ? err_from_errno(errno) : 0;
    LIST_FOREACH(n, &r->sealed)
    {
        if (err == 0 && fdatasync(LIST_ENTRY(n, struct sealed_file, node)->file->fd) < 0)
            err = err_from_errno(errno);
    }
    for (size_t i = 0; i < r->count && err == 0; i++)
        err = sync_item(&r->items[i]);
    return err;
}

/* ---- mark and publish ---------------------------------------------------------------------------------------------------- */

static int mark(struct round *r)
{
    for (size_t i = 0; i < r->count; i++) {
        struct item *it = &r->items[i];
        struct log *l = it->log;

        if (ALOAD(&l->deleted) || l->number == 0)
            continue;
        l->mark_off = it->end;
        l->mark_seg = it->segment;
        l->mark_pos = it->pos;
        ledger_put_mark(&r->entries, l, it->end, it->segment, it->pos);
        if (ALOAD(&l->replicated))
            ledger_put_hw(&r->entries, l, it->end);
    }
    return ledger_append(r->s, &r->entries);
}

/* No room for the frame: the round did not happen. Everything waits for the next; nothing is lost and nothing was promised. */
static void postpone(struct round *r)
{
    struct log_store *s = r->s;
    struct buf later = {0};

    DIAG_EVERY(DIAG_WARN, "no space left for the sync marks; acknowledgements wait", "path=\"%s/ledger\"", s->data_dir);
    ASTOREX(&s->may_grow, false);
    for (size_t i = 0; i < r->count; i++) {
        if (!ALOAD(&r->items[i].log->deleted))
            log_mark_dirty(r->items[i].log);
    }
    mutex_lock(&s->mutex);
    buf_put(&later, r->entries.data, r->pending_len);
    buf_put_slice(&later, buf_slice(&s->pending));
    buf_fini(&s->pending);
    s->pending = later;
    mutex_unlock(&s->mutex);
    ASTOREX(&s->new_names, true);
}

/* Gives back the pages behind the tail of a mapped log, and faults its window in anew when the sync write-protected it (P12). */
static void trim_window(const struct round *r, const struct item *it)
{
    struct hot *h = it->hot;
    uint64_t tail = PAGE_FLOOR(it->pos), from = ALOAD(&h->dropped), zeroed;

    if (h->file->base != it->segment)
        return;
    h->synced = it->pos;
    if (tail > from) {
        ASTORE(&h->dropped, tail);
        madvise(h->file->map + from, (size_t)(tail - from), MADV_DONTNEED);
    }
    if (!r->by_syncfs)
        return;
    /* When it was cooled and cut meanwhile this fails, which is fine: the mapping lives as long as our reference. */
    zeroed = PAGE_FLOOR(ALOAD(&h->zeroed));
    if (zeroed > tail)
        madvise(h->file->map + tail, (size_t)(zeroed - tail), MADV_POPULATE_WRITE);
}

/* False: postponed. *ret_gather_us: how long the next one may wait for company at most. */
static bool run_round(struct log_store *s, uint64_t *ret_gather_us) NO_THREAD_SAFETY_ANALYSIS /* cut() takes what its end gives back */
{
    struct round r = {.s = s};
    uint64_t began = clock_mono_us(), us;
    bool postponed = false;
    int err;

    list_init(&r.sealed);
    ASTORE(&s->round_began_us, began);
    cut(&r);
    err = sync_files(&r);
    if (err == 0) {
        err = mark(&r);
        postponed = err == ERR_NOSPACE;
        if (postponed)
            postpone(&r);
    }
    for (size_t i = 0; i < r.count; i++) {
        struct item *it = &r.items[i];

        if (err == 0) {
            r.records += MAX_OF(it->end - ALOADX(&it->log->durable), (int64_t)0);
            ASTORE(&it->log->durable, it->end);
            log_changed(it->log);
        }
        if (it->hot != NULL) {
            if (err == 0)
                trim_window(&r, it);
            hot_unref(it->hot);
        }
        log_unref(it->log);
    }
    for (struct list *n; (n = list_pop_front(&r.sealed)) != NULL;) {
        struct sealed_file *sf = LIST_ENTRY(n, struct sealed_file, node);

        segfile_unref(sf->file);
        mem_free(sf);
    }
    mem_free(r.items);
    buf_fini(&r.entries);
    us = clock_mono_us() - began;
    *ret_gather_us = r.records >= CROWD ? MIN_OF(us, (uint64_t)GATHER_US_MAX) : 0;
    ASTORE(&s->round_began_us, 0);
    if (postponed) {
        mutex_unlock(&s->round_mutex);
        return false;
    }
    if (err != 0) {
        diag_error("a sync round failed; no log takes appends any more", "error=%s", err_name(err));
        ASTORE(&s->health, err);
    } else {
        ASTORE(&s->round_done, r.number);
        ASTOREX(&s->sync_last_us, us);
        if (us > s->sync_max_us)
            ASTOREX(&s->sync_max_us, us);
        ASTOREX(&s->sync_rounds, s->sync_rounds + 1);
    }
    mutex_unlock(&s->round_mutex);
    commits_round_over(s);
    return true;
}

/* Waits for company: in steps, until none of them brings any. */
static void gather(struct log_store *s, uint64_t us_max)
{
    uint64_t seen = ALOADX(&s->sync_requests), before;
    unsigned step = 0;

    do {
        before = seen;
        nanosleep(&(struct timespec){.tv_nsec = (long)us_max * 1000 / GATHER_STEPS}, NULL);
        seen = ALOADX(&s->sync_requests);
    } while (++step < GATHER_STEPS && seen != before);
}

static uint64_t interval_us(const struct log_store *s)
{
    return 1000ull * (store_fsync(s) == LOG_FSYNC_NEVER ? NEVER_INTERVAL_MS : ALOADX(&s->opt.sync_interval_ms));
}

void *sync_thread_main(void *arg)
{
    struct log_store *s = arg;
    uint64_t last = clock_mono_us(), not_before = 0, ended = 0, gather_us = 0;

    setpriority(PRIO_PROCESS, (id_t)gettid(), 10);
    prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
    mutex_lock(&s->mutex);
    for (;;) {
        uint64_t now = clock_mono_us(), next = last + interval_us(s); /* it may be another by now */
        bool due = s->round_wanted > s->round_done;

        if (now >= next) {
            due = due || ALOAD(&s->dirty) != NULL || s->pending.len > 0 || !list_empty(&s->sealed);
            last = now;
            next = now + interval_us(s);
        }
        if (s->stopping)
            break;
        if (s->health != 0 || !due || now < not_before) {
            uint64_t at = now < not_before ? MIN_OF(next, not_before) : next;
            struct timespec until = {.tv_sec = (time_t)(at / 1000000), .tv_nsec = (long)(at % 1000000 * 1000)};

            pthread_cond_timedwait(&s->sync_cond, &s->mutex.m, &until);
            continue;
        }
        mutex_unlock(&s->mutex);
        if (gather_us != 0 && now - ended < GATHER_BEHIND_US)
            gather(s, gather_us);
        not_before = run_round(s, &gather_us) ? 0 : clock_mono_us() + POSTPONED_US;
        ended = clock_mono_us();
        mutex_lock(&s->mutex);
        if (not_before != 0)
            s->postponed++;
        pthread_cond_broadcast(&s->done_cond);
        if (!list_empty(&s->jobs)) /* the round may have made some due */
            pthread_cond_signal(&s->janitor_cond);
    }
    mutex_unlock(&s->mutex);
    /* What is still marked dirty gives its references back. */
    for (struct log *l = __atomic_exchange_n(&s->dirty, NULL, __ATOMIC_SEQ_CST), *n; l != NULL; l = n) {
        n = l->dirty_next;
        log_unref(l);
    }
    return NULL;
}

void sync_request(struct log_store *s, uint64_t round)
{
    __atomic_fetch_add(&s->sync_requests, 1, __ATOMIC_RELAXED);
    mutex_lock(&s->mutex);
    if (round > s->round_wanted) {
        s->round_wanted = round;
        pthread_cond_signal(&s->sync_cond);
    }
    mutex_unlock(&s->mutex);
}

int log_store_sync(struct log_store *s)
{
    uint64_t round = __atomic_load_n(&s->round_open, __ATOMIC_SEQ_CST), postponed;
    int err;

    mutex_lock(&s->mutex);
    if (round > s->round_wanted)
        s->round_wanted = round;
    pthread_cond_signal(&s->sync_cond);
    postponed = s->postponed;
    while (ALOAD(&s->round_done) < round && ALOAD(&s->health) == 0 && s->postponed == postponed)
        pthread_cond_wait(&s->done_cond, &s->mutex.m);
    err = ALOAD(&s->health);
    if (err == 0 && ALOAD(&s->round_done) < round)
        err = ERR_NOSPACE;
    mutex_unlock(&s->mutex);
    return err;
}
