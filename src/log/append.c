/* Appending. The owner serialises appends of a log; the spin lock here only keeps the prefault thread from cooling a log under an append, and costs one
 * exchange.
 *
 *   hot, small, window faulted in:  memcpy into the mapping                       no system call
 *   everything else:                pwrite into the active segment's file         the page cache is coherent with the mapping
 *   memory log:                     memcpy into a chunk
 *
 * Bytes first, then position and end are published together. Whatever fails before that leaves nothing visible: a partial write is cut off or zeroed. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/private.h"

void log_append_lock(struct log *l)
{
    unsigned spins = 0;

    while (__atomic_exchange_n(&l->append_lock, 1, __ATOMIC_ACQUIRE) != 0) {
        if (++spins % 64 == 0)
            sched_yield();
    }
}

/* ---- dirty logs ------------------------------------------------------------------------------------------------------ */

void log_mark_dirty(struct log *l)
{
    struct log_store *s = l->store;
    struct log *head;

    if (ALOADX(&l->dirty) || __atomic_exchange_n(&l->dirty, true, __ATOMIC_SEQ_CST))
        return;
    log_ref(l);
    head = ALOADX(&s->dirty);
    do {
        l->dirty_next = head;
    } while (!__atomic_compare_exchange_n(&s->dirty, &head, l, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */

/* The first append: directory, identity, a number in the ledger. */
int log_create_files(struct log *l)
{
    struct log_store *s = l->store;
    int err = identity_write(l);

    if (err != 0)
        return err;
    ASTOREX(&s->new_names, true);
    mutex_lock(&s->mutex);
    if (l->number == 0) {
        ASTOREX(&l->number, s->next_number++);
        ledger_put_name(&s->pending, l);
        if (l->start != 0)
            ledger_put_start(&s->pending, l, l->start);
    }
    mutex_unlock(&s->mutex);
    l->created = true;
    return 0;
}

static int first_segment(struct log *l)
{
    struct segfile *f;
    int64_t base = l->end;
    int err = 0;

    if (!l->created || l->number == 0)
        err = log_create_files(l);
    if (err == 0)
        err = segment_create(l, base, &f);
    if (err == ERR_NOT_FOUND) { /* its directory was put aside, and the node stopped before there was another */
        err = log_create_files(l);
        if (err == 0)
            err = segment_create(l, base, &f);
    }
    if (err != 0)
        return err;
    mutex_lock(log_stripe(l));
    segment_push(l, base)->file = f;
    segfile_lru_add(f);
    mutex_unlock(log_stripe(l));
    segfile_evict(l->store);
    l->index_pos = l->reserved = 0;
    l->written_back = 0;
    l->checked = true;
    return 0;
}

/* A chunk of a memory log: small ones first, so that an idle transient queue costs little. */
static int push_chunk(struct log *l, size_t need)
{
    struct segment *last = seg_active(l);
    size_t size = 2048;
    struct segfile *f;

    if (last != NULL)
        size = MIN_OF(last->file->map_len * 4, (size_t)MEMORY_CHUNK);
    f = segfile_new_memory(l->store, MAX_OF(size, need));
    mutex_lock(log_stripe(l));
    last = seg_active(l);
    if (last != NULL) {
        last->next = l->end;
        last->bytes = l->pos;
        last->max_ts = l->seg_max_ts;
        last->flags |= SEG_SEALED;
        l->sealed_bytes += l->pos;
    }
    segment_push(l, l->end)->file = f;
    ASTORE(&l->pos, 0);
    ASTORE(&l->seg_max_ts, -1);
    mutex_unlock(log_stripe(l));
    return 0;
}

/* Under the append lock: seals the active segment and begins one at the end. On error nothing has changed. */
int log_roll(struct log *l)
{
    struct log_store *s = l->store;
    struct segment *seg = seg_active(l);
    struct segfile *old, *fresh;
    struct sealed_file *sealed;
    struct job *job;
    bool was_hot = l->hot != NULL;
    int err;

    if (l->memory)
        return push_chunk(l, 0);
    if (seg == NULL || l->pos == 0)
        return 0;
    err = segment_open(l, seg->base, &old);
    if (err == 0) {
        err = segment_create(l, l->end, &fresh);
        if (err != 0)
            segfile_unref(old);
    }
    if (err != 0)
        return err;
    if (was_hot)
        hot_demote(l, false);
    /* Zeros written ahead and blocks reserved ahead go. */
    if (ftruncate(old->fd, (off_t)l->pos) < 0)
        diag_warn("a sealed segment cannot be cut to its size", "log=\"%s\"", l->dir);
    sealed = mem_zalloc(sizeof(*sealed));
    sealed->file = old;
    job = mem_zalloc(sizeof(*job));
    job->kind = JOB_SEAL;
    job->log = l;
    job->base = old->base;
    log_ref(l);
    /* A round takes positions first and sealed files then: whoever sees the position in the new segment finds the old one listed. */
    mutex_lock(&s->mutex);
    list_push_back(&s->sealed, &sealed->node);
    mutex_unlock(&s->mutex);

    mutex_lock(log_stripe(l));
    seg = seg_active(l);
    seg->next = l->end;
    seg->bytes = l->pos;
    seg->max_ts = l->seg_max_ts;
    seg->flags |= SEG_SEALED;
    __atomic_add_fetch(&l->sealed_bytes, l->pos, __ATOMIC_RELAXED);
    seg = segment_push(l, l->end);
    seg->file = fresh;
    segfile_lru_add(fresh);
    ASTORE(&l->seq, l->seq + 1);
    ASTORE(&l->pos, 0);
    ASTORE(&l->seg_max_ts, -1);
    ASTORE(&l->seq, l->seq + 1);
    mutex_unlock(log_stripe(l));
    segfile_evict(s);
    l->index_pos = l->reserved = 0;
    l->written_back = 0;
    l->checked = true;
    log_mark_dirty(l);
    store_submit(s, job);
    if (was_hot)
        hot_promote(l);
    return 0;
}

/* ---- one write ------------------------------------------------------------------------------------------------------------ */

static int write_failed(struct log *l, struct segfile *f, struct hot *h, uint64_t pos, size_t len, int err)
{
    if (err == ERR_NOSPACE) {
        ASTOREX(&l->store->may_grow, false);
        DIAG_EVERY(DIAG_WARN, "no space left for the log", "log=\"%s\"", l->dir);
    }
    if (h == NULL) {
        l->reserved = 0;
        if (ftruncate(f->fd, (off_t)pos) == 0)
            return err;
    } else {
        /* The mapping needs the file to stay as long as it is: what was written becomes zeros again. */
        static const uint8_t zeros[4096];
        uint64_t size = (uint64_t)lseek(f->fd, 0, SEEK_END), to = MIN_OF(pos + len, size);
        int bad = 0;

        for (uint64_t at = pos; at < to && bad == 0; at += sizeof(zeros))
            bad = file_pwrite_all(f->fd, zeros, (size_t)MIN_OF((uint64_t)sizeof(zeros), to - at), at);
        if (bad == 0)
            return err;
    }
    log_fail(l, ERR_IO, "a partial write cannot be taken back", l->end);
    return ERR_IO;
}

static int write_bytes(struct log *l, struct segfile *f, struct hot *h, const uint8_t *data, size_t len)
{
    uint64_t pos = l->pos;
    int err;

    if (l->store->fp_any && failpoint_hit(&l->store->fp_append_enospc))
        err = ERR_NOSPACE;
    else
        err = file_pwrite_all(f->fd, data, len, pos);
    return err == 0 ? 0 : write_failed(l, f, h, pos, len, err);
}

static int write_file(struct log *l, const uint8_t *data, size_t len)
{
    struct hot *h = l->hot;
    uint64_t end = l->pos + len;
    struct segfile *f;
    int err = segment_open(l, seg_active(l)->base, &f);

    if (err != 0)
        return err;
    if (h != NULL) {
        mutex_lock(&h->mutex);
        if (end > ALOAD(&h->zeroed))
            __atomic_add_fetch(&l->store->unprefaulted, 1, __ATOMIC_RELAXED);
        err = write_bytes(l, f, h, data, len);
        if (err == 0 && end > h->zeroed)
            ASTORE(&h->zeroed, end);
        mutex_unlock(&h->mutex);
    } else {
        err = write_bytes(l, f, NULL, data, len);
        if (err == 0 && end - l->written_back >= WRITEBACK_STEP) {
            /* Bulk writers start write-back early, so that a round does not find it all (rule 6, P14). */
            sync_file_range(f->fd, (off_t)l->written_back, (off_t)(end - l->written_back), SYNC_FILE_RANGE_WRITE);
            l->written_back = end;
        }
    }
    if (err == 0 && l->store->opt.disk_reserve_bytes != 0 &&
        __atomic_add_fetch(&l->store->unchecked_bytes, len, __ATOMIC_RELAXED) > l->store->opt.disk_reserve_bytes / 16) {
        /* A second is long for a fast writer: the free space is looked at again after a part of the reserve, too. */
        ASTOREX(&l->store->unchecked_bytes, 0);
        store_refresh_disk(l->store);
    }
    segfile_unref(f);
    return err;
}

/* A small append to a hot log whose window is used up: one step of zeros here costs 20 us and serves hundreds of appends, where a pwrite each would cost 1.3 us. The thread
 * runs at nice 10 and falls behind when workers leave it no processor. While it is at it, a pwrite is the shorter way. */
static bool extend_here(struct log *l, struct hot *h, size_t len)
{
    int err;

    if (l->pos + len > h->file->map_len || !mutex_trylock(&h->mutex))
        return false;
    err = hot_extend(l, h, l->pos + PREFAULT_STEP);
    mutex_unlock(&h->mutex);
    return err == 0 && l->pos + len <= ALOAD(&h->zeroed);
}

/* Counts small appends; 64 within a second make the log hot (P11). */
static void note_small(struct log *l)
{
    uint32_t now = (uint32_t)(clock_mono_us() / 1000);

    if (now - l->small_since_ms > 1000) {
        l->small_since_ms = now;
        l->small_count = 0;
    }
    if (++l->small_count >= HOT_APPENDS && store_fsync(l->store) != LOG_FSYNC_ALWAYS) {
        l->small_count = 0;
        hot_promote(l);
    }
}

static int make_room(struct log *l, size_t len, int64_t count)
{
    struct segment *seg = seg_active(l);

    if (l->memory) {
        if (seg == NULL || l->pos + len > seg->file->map_len)
            return push_chunk(l, len);
        return 0;
    }
    if (seg == NULL)
        return first_segment(l);
    if (l->pos != 0 && (l->pos + len > l->segment_bytes || l->end - seg->base + count > INT32_MAX))
        return log_roll(l);
    return 0;
}

static inline void publish(struct log *l, size_t len, int64_t count, int64_t max_ts)
{
    ASTOREX(&l->seq, l->seq + 1);
#ifndef __SANITIZE_THREAD__ /* which knows no fences; what follows are release stores */
    __atomic_thread_fence(__ATOMIC_RELEASE);
#endif
    ASTORE(&l->pos, l->pos + len);
    if (max_ts > l->seg_max_ts) {
        ASTOREX(&l->seg_max_ts, max_ts);
        if (max_ts > l->last_ts)
            ASTOREX(&l->last_ts, max_ts);
    }
    ASTORE(&l->end, l->end + count);
    ASTORE(&l->seq, l->seq + 1);
    ASTOREX(&l->appended, l->appended + len);
}

static void after_failpoints(struct log *l, const uint8_t *data, size_t len)
{
    struct log_store *s = l->store;
    bool spans = false;

    if (l->kind == LOG_MAIN && len > BATCH_HEADER_SIZE) {
        struct batch_header h;
        struct record_iter it;
        struct record r;

        if (batch_header_read(data, len, &h) == 0) {
            record_iter_init(&it, &h, slice_of(data + BATCH_HEADER_SIZE, len - BATCH_HEADER_SIZE));
            while (!spans && record_iter_next(&it, &r) == 1)
                spans = r.key.len > 0 && r.key.data[0] == 1 /* EFFECT_PARTICIPANTS */;
        }
    }
    if (failpoint_hit(&s->fp_append_kill) || (spans && failpoint_hit(&s->fp_mappend_kill)))
        raise(SIGKILL);
}

/* A batch of another epoch begins at the end. */
static void new_epoch(struct log *l, int32_t epoch)
{
    mutex_lock(log_stripe(l));
    epochs_note(l, epoch, l->end);
    if (!l->memory) {
        mutex_lock(&l->store->mutex);
        ledger_put_epochs(&l->store->pending, l);
        mutex_unlock(&l->store->mutex);
    }
    mutex_unlock(log_stripe(l));
}

/* A run of a leader's batches is as long as its fetch: each place in it where an entry is due gets one. */
static void index_run(struct log *l, const uint8_t *data, size_t len)
{
    int64_t max_ts = l->seg_max_ts;
    uint64_t pos = l->pos;
    struct batch_header h;

    for (size_t at = 0; at < len && batch_header_read(data + at, len - at, &h) == 0; at += h.length, pos += h.length) {
        if (pos - l->index_pos >= INDEX_INTERVAL) {
            mutex_lock(log_stripe(l));
            index_add(seg_active(l), h.base_offset, pos, max_ts);
            mutex_unlock(log_stripe(l));
            l->index_pos = (uint32_t)pos;
        }
        max_ts = MAX_OF(max_ts, h.max_timestamp);
    }
}

/* `replica`: the batches keep their offsets and their epoch, which is `epoch` in all of them. */
static inline __attribute__((always_inline)) int append_bytes(struct log *l, uint8_t *data, size_t len, int64_t count, int64_t max_ts, bool replica,
                                                              int32_t epoch, int64_t *ret_base)
{
    struct hot *h;
    bool slow = false;
    int err;

    if (GM_UNLIKELY(!ALOAD(&l->ready)))
        log_touch(l);
    err = log_failed(l);
    if (GM_UNLIKELY(err != 0))
        return err;
    log_append_lock(l);
    if (!replica)
        epoch = ALOADX(&l->epoch);
    h = l->hot;
    if (GM_LIKELY(h != NULL && len < SMALL_APPEND) && l->pos + len <= l->segment_bytes && !l->store->fp_any &&
        (GM_LIKELY(l->pos + len <= ALOAD(&h->zeroed)) || extend_here(l, h, len))) {
        if (!replica)
            batch_assign(data, l->end, epoch);
        memcpy(h->file->map + l->pos, data, len);
        /* Where the next one goes, while this command is answered: the lock's release waits for these stores. */
        __builtin_prefetch(h->file->map + l->pos + len + 64, 1);
        __builtin_prefetch(h->file->map + l->pos + len + 128, 1);
        if (GM_UNLIKELY(ALOADX(&h->zeroed) - l->pos - len < ALOADX(&h->window) / 2))
            hot_want(l, h);
    } else {
        err = ALOAD(&l->deleted) ? ERR_NOT_FOUND : make_room(l, len, count);
        if (err != 0)
            goto out;
        if (!replica)
            batch_assign(data, l->end, epoch);
        if (l->memory) {
            memcpy(seg_active(l)->file->map + l->pos, data, len);
        } else {
            err = write_file(l, data, len);
            if (err != 0)
                goto out;
            slow = len < SMALL_APPEND;
        }
    }
    *ret_base = l->end;
    if (GM_UNLIKELY(epoch != l->last_epoch))
        new_epoch(l, epoch);
    if (replica) {
        index_run(l, data, len);
    } else if (GM_UNLIKELY(l->pos - l->index_pos >= INDEX_INTERVAL && !l->memory)) {
        mutex_lock(log_stripe(l));
        index_add(seg_active(l), l->end, l->pos, l->seg_max_ts);
        mutex_unlock(log_stripe(l));
        l->index_pos = (uint32_t)l->pos;
    }
    publish(l, len, count, max_ts);
    if (!l->memory) {
        log_mark_dirty(l);
        if (GM_UNLIKELY(l->store->fp_any))
            after_failpoints(l, data, len);
    }
    if (slow && l->hot != NULL)
        hot_want(l, l->hot);
    else if (slow)
        note_small(l); /* behind publish: a window begins at the position */
out:
    log_append_unlock(l);
    if (err == 0)
        log_changed(l);
    return err;
}

/* ---- the interface ----------------------------------------------------------------------------------------------------------- */

int log_append(struct log *l, struct batch_builder *b, int64_t *ret_base)
{
    struct slice s = batch_finish(b);

    return append_bytes(l, (uint8_t *)s.data, s.len, b->count, b->max_timestamp, false, 0, ret_base);
}

/* Several batches in one piece get their offsets first; the end cannot move in between, appends are serialised by the owner. */
int log_append_encoded(struct log *l, uint8_t *data, size_t len, int64_t *ret_base)
{
    struct batch_header h;
    int64_t next, max_ts = -1, first;
    size_t at = 0;

    if (!ALOAD(&l->ready))
        log_touch(l);
    first = next = ALOAD(&l->end);
    while (at < len) {
        int err = batch_header_read(data + at, len - at, &h);

        if (err != 0 || h.length > len - at)
            return ERR_MALFORMED;
        batch_assign(data + at, next, ALOADX(&l->epoch));
        next += (int64_t)h.last_offset_delta + 1;
        max_ts = MAX_OF(max_ts, h.max_timestamp);
        at += h.length;
    }
    if (at == 0)
        return ERR_MALFORMED;
    return append_bytes(l, data, len, next - first, max_ts, false, 0, ret_base);
}

/* ---- as a leader has them ------------------------------------------------------------------------------------------------------- */

/* The next batch begins at `base`, behind a hole: a segment begins there, and the ledger says why. */
static int begin_behind_hole(struct log *l, int64_t base)
{
    struct log_store *s = l->store;
    struct segfile *f;
    struct segment *seg;
    int64_t from = l->end;
    char path[512];
    int err = ALOAD(&l->deleted) ? ERR_NOT_FOUND : 0;

    if (err == 0 && (!l->created || l->number == 0))
        err = log_create_files(l);
    if (err == 0 && l->pos != 0)
        err = log_roll(l);
    if (err == 0)
        err = segment_create(l, base, &f);
    if (err != 0)
        return err;
    if (l->hot != NULL)
        hot_demote(l, true);
    mutex_lock(log_stripe(l));
    seg = seg_active(l);
    if (seg != NULL) { /* it is empty: nothing was written where the hole is */
        segment_path(l, seg->base, path, sizeof(path));
        if (unlinkat(s->dirfd, path, 0) < 0)
            diag_warn("an empty segment could not be removed", "path=\"%s\"", path);
        from = seg->from;
        segment_remove(l, l->seg_count - 1);
    }
    if (l->seg_count == 0)
        ASTORE(&l->start, base);
    mutex_lock(&s->mutex);
    if (l->seg_count > 0)
        log_list_sealed(l, seg_active(l)->base);
    ledger_put_drop(&s->pending, l, from, base);
    if (l->seg_count == 0)
        ledger_put_start(&s->pending, l, ALOAD(&l->start));
    mutex_unlock(&s->mutex);
    seg = segment_push(l, base);
    seg->from = from;
    seg->file = f;
    segfile_lru_add(f);
    ASTORE(&l->seq, l->seq + 1);
    ASTORE(&l->pos, 0);
    ASTORE(&l->seg_max_ts, -1);
    ASTORE(&l->end, base);
    ASTORE(&l->seq, l->seq + 1);
    mutex_unlock(log_stripe(l));
    segfile_evict(s);
    l->index_pos = l->reserved = 0;
    l->written_back = 0;
    l->checked = true;
    log_mark_dirty(l);
    return 0;
}

/* All or nothing of a run is sound; only a lack of room can end it in its middle. */
static int check_run(struct log *l, const uint8_t *data, size_t len)
{
    int64_t next = ALOAD(&l->end);
    int32_t epoch = ALOAD(&l->last_epoch);
    struct batch_header h;

    for (size_t at = 0; at < len; at += h.length) {
        int err = batch_header_read(data + at, len - at, &h);

        if (err != 0 || h.length > len - at || !batch_crc_ok(data + at, &h) || h.leader_epoch < 0)
            return ERR_MALFORMED;
        if (h.leader_epoch < epoch || h.base_offset < next || (h.base_offset > next && l->kind != LOG_QUEUE))
            return ERR_OUT_OF_ORDER;
        next = h.base_offset + h.last_offset_delta + 1;
        epoch = h.leader_epoch;
    }
    return len == 0 ? ERR_MALFORMED : 0;
}

int log_append_replica(struct log *l, const uint8_t *data, size_t len, int64_t *ret_end)
{
    int err = log_touch(l);

    if (err == 0)
        err = log_failed(l);
    if (err == 0)
        err = check_run(l, data, len);
    for (size_t at = 0, n; at < len && err == 0; at += n) {
        uint64_t room = l->segment_bytes > l->pos ? l->segment_bytes - l->pos : 0;
        int64_t next, max_ts = -1, base;
        struct batch_header h, first;

        CHECK(batch_header_read(data + at, len - at, &first) == 0);
        next = first.base_offset;
        if (next != l->end) {
            log_append_lock(l);
            err = begin_behind_hole(l, next);
            log_append_unlock(l);
            if (err != 0)
                break;
        }
        if (first.length > room)
            room = l->segment_bytes;
        /* What follows without a hole, in one epoch, and fits the segment, is one write. */
        for (n = 0; at + n < len; n += h.length) {
            CHECK(batch_header_read(data + at + n, len - at - n, &h) == 0);
            if (n > 0 && (h.base_offset != next || h.leader_epoch != first.leader_epoch || n + h.length > room))
                break;
            next = h.base_offset + h.last_offset_delta + 1;
            max_ts = MAX_OF(max_ts, h.max_timestamp);
        }
        /* The bytes are only read: they have their offsets. */
        err = append_bytes(l, (uint8_t *)data + at, n, next - l->end, max_ts, true, first.leader_epoch, &base);
    }
    *ret_end = ALOAD(&l->end);
    return err;
}

int log_append_prepare(struct log *l, size_t bytes)
{
    struct segfile *f;
    uint64_t to;
    int err = log_touch(l);

    if (err == 0)
        err = log_failed(l);
    if (err != 0 || l->memory)
        return err;
    log_append_lock(l);
    err = make_room(l, bytes, 1);
    if (err != 0)
        goto out;
    to = l->pos + bytes;
    if (l->hot != NULL) {
        if (to <= ALOAD(&l->hot->zeroed))
            goto out;
        mutex_lock(&l->hot->mutex);
        err = hot_extend(l, l->hot, MIN_OF(to, l->hot->file->map_len));
        mutex_unlock(&l->hot->mutex);
        if (err != 0 || to <= ALOAD(&l->hot->zeroed))
            goto out;
    }
    if (to <= l->reserved)
        goto out;
    err = segment_open(l, seg_active(l)->base, &f);
    if (err != 0)
        goto out;
    /* In steps, so that most calls find room; what is left over goes when the segment is sealed or the log closed. */
    to = (to + 256 * 1024 - 1) & ~(uint64_t)(256 * 1024 - 1);
    if (fallocate(f->fd, FALLOC_FL_KEEP_SIZE, (off_t)l->pos, (off_t)(to - l->pos)) == 0)
        l->reserved = (uint32_t)MIN_OF(to, (uint64_t)UINT32_MAX);
    else if (errno != EOPNOTSUPP && errno != ENOSYS)
        err = err_from_errno(errno);
    if (err == ERR_NOSPACE)
        ASTOREX(&l->store->may_grow, false);
    segfile_unref(f);
out:
    log_append_unlock(l);
    return err;
}
