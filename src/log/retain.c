/* Making logs shorter: from the front (retention, DeleteRecords, snapshots), in the middle (a queue's settled segments), from the back (rule 5, divergence), and what
 * else looks at whole segments. By the owner.
 *
 * A dropped segment is gone from the list at once; its file is unlinked after the round whose ledger frame says so. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/effect.h"
#include "log/private.h"

#define ROLL_EMPTY (1u << 20) /* a log emptied by advance_start keeps at most this much of dead active segment */

void log_list_sealed(struct log *l, int64_t base)
{
    for (uint32_t i = 0; i < l->seg_count; i++) {
        struct segment *seg = seg_at(l, i);

        if (seg->base > base)
            break;
        if ((seg->flags & (SEG_SEALED | SEG_LISTED | SEG_GOING)) == SEG_SEALED) {
            seg->flags |= SEG_LISTED;
            ledger_put_seal(&l->store->pending, l, seg);
        }
    }
}

static struct job *unlink_job(struct log *l, int64_t base, const char *suffix)
{
    struct job *job = mem_zalloc(sizeof(*job));

    job->kind = JOB_UNLINK;
    job->path = mem_printf("%s/%020lld.%s", l->dir, (long long)base, suffix);
    job->after_round = ALOAD(&l->store->round_open);
    return job;
}

/* Segment i, sealed, goes. Under the stripe. */
static void drop(struct log *l, uint32_t i)
{
    struct log_store *s = l->store;
    struct segment *seg = seg_at(l, i);
    int64_t base = seg->base, next = seg->next, from = seg->from;

    CHECK((seg->flags & SEG_SEALED) && i + 1 < l->seg_count);
    __atomic_sub_fetch(&l->sealed_bytes, seg->bytes, __ATOMIC_RELAXED);
    if (!l->memory) {
        mutex_lock(&s->mutex);
        log_list_sealed(l, base);
        ledger_put_drop(&s->pending, l, base, next);
        mutex_unlock(&s->mutex);
        store_submit(s, unlink_job(l, base, "log"));
        if (l->kind == LOG_TOPIC)
            store_submit(s, unlink_job(l, base, "index"));
    }
    segment_remove(l, i);
    if (i > 0)
        seg_at(l, i)->from = from;
}

static void put_start(struct log *l)
{
    if (l->memory || l->number == 0)
        return;
    mutex_lock(&l->store->mutex);
    ledger_put_start(&l->store->pending, l, l->start);
    mutex_unlock(&l->store->mutex);
}

int log_seal(struct log *l)
{
    int err = log_touch(l);

    if (err == 0)
        err = log_failed(l);
    if (err != 0 || ALOAD(&l->pos) == 0)
        return err;
    log_append_lock(l);
    err = log_roll(l);
    log_append_unlock(l);
    return err;
}

int log_advance_start(struct log *l, int64_t start)
{
    int err = log_touch(l);

    if (err != 0)
        return err;
    if (start > l->end)
        return ERR_OFFSET_RANGE;
    if (start <= l->start)
        return 0;
    ASTORE(&l->start, start);
    put_start(l);
    mutex_lock(log_stripe(l));
    epochs_trim(l, start);
    mutex_unlock(log_stripe(l));
    hw_bound(l);
    if (start == l->end && l->pos >= (l->memory ? MEMORY_CHUNK / 2 : ROLL_EMPTY) && log_seal(l) != 0)
        DIAG_EVERY(DIAG_WARN, "an emptied segment cannot be sealed", "log=\"%s\"", l->dir);
    mutex_lock(log_stripe(l));
    while (l->seg_count > 1 && (seg_at(l, 0)->flags & SEG_SEALED) && seg_at(l, 0)->next <= start)
        drop(l, 0);
    mutex_unlock(log_stripe(l));
    return 0;
}

int log_drop_segment(struct log *l, int64_t base)
{
    int err = log_touch(l), i;
    bool moved = false;

    if (err != 0)
        return err;
    mutex_lock(log_stripe(l));
    i = segment_find(l, base);
    if (i < 0 || seg_at(l, (uint32_t)i)->base != base) {
        err = ERR_NOT_FOUND;
    } else if (!(seg_at(l, (uint32_t)i)->flags & SEG_SEALED) || (uint32_t)i + 1 >= l->seg_count) {
        err = ERR_INVALID;
    } else {
        drop(l, (uint32_t)i);
        if (i == 0 && seg_at(l, 0)->base > l->start) {
            ASTORE(&l->start, seg_at(l, 0)->base);
            moved = true;
        }
    }
    mutex_unlock(log_stripe(l));
    if (moved) {
        put_start(l);
        hw_bound(l);
    }
    return err;
}

size_t log_segments(const struct log *l, struct log_segment_info *ret, size_t max)
{
    int64_t end, max_ts;
    uint64_t pos;
    size_t n;

    log_touch((struct log *)l);
    mutex_lock(log_stripe(l));
    n = l->seg_count;
    log_tail(l, &end, &pos, &max_ts);
    for (size_t i = 0; i < n && i < max; i++) {
        const struct segment *seg = seg_at(l, (uint32_t)i);

        if (seg->flags & SEG_SEALED)
            ret[i] = (struct log_segment_info){seg->base, seg->next, seg->bytes, seg->max_ts, false};
        else
            ret[i] = (struct log_segment_info){seg->base, end, pos, max_ts, true};
    }
    mutex_unlock(log_stripe(l));
    return n;
}

/* ---- truncation ----------------------------------------------------------------------------------------------------------- */

/* Where in segment i the batch that holds `end` (or the first behind it) begins. */
static int find_cut(struct log *l, uint32_t i, int64_t end, int64_t *ret_end, uint64_t *ret_pos, int64_t *ret_max_ts)
{
    struct segment *seg = seg_at(l, i);
    uint64_t bytes = seg->flags & SEG_SEALED ? seg->bytes : l->pos;
    struct index_entry from;
    struct header_walk w;
    struct batch_header h;
    struct segfile *f;
    int rc = segment_open(l, seg->base, &f);

    if (rc != 0)
        return rc;
    from = index_before(seg, end - 1, UINT64_MAX);
    header_walk_init(&w, f, from.pos, bytes);
    *ret_max_ts = from.max_ts;
    *ret_end = seg->base + from.rel;
    while ((rc = header_walk_at(&w, &h)) == 1 && h.base_offset + h.last_offset_delta < end) {
        *ret_max_ts = MAX_OF(*ret_max_ts, h.max_timestamp);
        *ret_end = h.base_offset + h.last_offset_delta + 1;
        header_walk_skip(&w, &h);
    }
    *ret_pos = w.pos;
    segfile_unref(f);
    return rc < 0 ? rc : 0;
}

/* Writes entries to the ledger at once, behind those that wait for the next round: a segment they list may be one that goes. Under round_mutex. */
static int ledger_now(struct log_store *s, const struct buf *entries)
{
    struct buf all, later = {0};
    size_t before;
    int err;

    mutex_lock(&s->mutex);
    all = s->pending;
    s->pending = (struct buf){0};
    mutex_unlock(&s->mutex);
    before = all.len;
    buf_put_slice(&all, buf_slice(entries));
    err = ledger_append(s, &all);
    if (err != 0 && before > 0) {
        mutex_lock(&s->mutex);
        buf_put(&later, all.data, before);
        buf_put_slice(&later, buf_slice(&s->pending));
        buf_fini(&s->pending);
        s->pending = later;
        mutex_unlock(&s->mutex);
    }
    buf_fini(&all);
    return err;
}

/* From segment i on they go, or stay after all. Returns whether the ledger has heard of one. */
static bool set_going(struct log *l, uint32_t i, bool going)
{
    bool listed = false;

    mutex_lock(log_stripe(l));
    for (; i < l->seg_count; i++) {
        struct segment *seg = seg_at(l, i);

        listed = listed || (seg->flags & SEG_LISTED);
        seg->flags = going ? seg->flags | SEG_GOING : seg->flags & ~(uint32_t)SEG_GOING;
    }
    mutex_unlock(log_stripe(l));
    return listed;
}

/* The ledger first: a mark above what is on disk, or a listed segment that is not there, would be corruption. */
static int ledger_cut(struct log *l, int64_t end, int64_t seg, uint64_t pos)
{
    int64_t mark_off = l->mark_off, mark_seg = l->mark_seg;
    uint64_t mark_pos = l->mark_pos;
    struct buf entry = {0};
    int err;

    l->mark_off = MIN_OF(end, l->mark_off);
    if (mark_off >= end) {
        l->mark_seg = seg;
        l->mark_pos = pos;
    }
    ledger_put_cut(&entry, l, l->mark_off, seg, l->mark_pos);
    if (l->start > end)
        ledger_put_start(&entry, l, end);
    err = ledger_now(l->store, &entry);
    buf_fini(&entry);
    if (err != 0) {
        l->mark_off = mark_off;
        l->mark_seg = mark_seg;
        l->mark_pos = mark_pos;
    }
    return err;
}

static int cut_files(struct log *l, uint32_t i, int64_t end, uint64_t pos, int64_t max_ts)
{
    struct log_store *s = l->store;
    struct segment *seg = seg_at(l, i);
    struct segfile *f = NULL;
    bool listed, epochs;
    int err = 0;

    if (!l->memory) {
        listed = set_going(l, i, true);
        if (l->number != 0 && (l->mark_off > end || listed))
            err = ledger_cut(l, end, seg->base, pos);
        if (err != 0)
            (void)set_going(l, i, false);
        if (err == 0)
            err = segment_open(l, seg->base, &f);
        if (err == 0 && ftruncate(f->fd, (off_t)pos) < 0)
            err = err_from_errno(errno);
        for (uint32_t k = i; err == 0 && l->kind == LOG_TOPIC && k < l->seg_count; k++) {
            char *index = mem_printf("%s/%020lld.index", l->dir, (long long)seg_at(l, k)->base);

            (void)unlinkat(s->dirfd, index, 0); /* of what the segment held before */
            mem_free(index);
        }
        for (uint32_t k = i + 1; err == 0 && k < l->seg_count; k++) {
            char path[512];

            segment_path(l, seg_at(l, k)->base, path, sizeof(path));
            if (unlinkat(s->dirfd, path, 0) < 0 && errno != ENOENT)
                err = err_from_errno(errno);
        }
        if (f != NULL)
            segfile_unref(f);
        if (err != 0)
            return err;
    }
    mutex_lock(log_stripe(l));
    while (l->seg_count > i + 1) {
        if (seg_active(l)->flags & SEG_SEALED)
            l->sealed_bytes -= seg_active(l)->bytes;
        segment_remove(l, l->seg_count - 1);
    }
    seg = seg_at(l, i);
    if (seg->flags & SEG_SEALED)
        l->sealed_bytes -= seg->bytes;
    seg->flags = 0;
    while (seg->index != NULL && seg->index->n > 0 && seg->index->e[seg->index->n - 1].pos >= pos)
        seg->index->n--;
    ASTORE(&l->seq, l->seq + 1);
    ASTORE(&l->pos, pos);
    ASTORE(&l->seg_max_ts, max_ts);
    ASTORE(&l->end, end);
    ASTORE(&l->seq, l->seq + 1);
    l->index_pos = seg->index == NULL || seg->index->n == 0 ? 0 : seg->index->e[seg->index->n - 1].pos;
    l->reserved = 0;
    l->written_back = 0;
    if (l->start > end)
        ASTORE(&l->start, end);
    if (ALOAD(&l->durable) > end)
        ASTORE(&l->durable, end);
    epochs = epochs_cut(l, end);
    if (epochs && !l->memory && l->number != 0) {
        mutex_lock(&s->mutex);
        ledger_put_epochs(&s->pending, l);
        mutex_unlock(&s->mutex);
    }
    mutex_unlock(log_stripe(l));
    return 0;
}

int log_truncate(struct log *l, int64_t end)
{
    int err = log_touch(l), i;
    int64_t at, max_ts;
    uint64_t pos;

    if (err == 0)
        err = log_failed(l);
    if (err != 0)
        return err;
    if (end >= l->end || l->seg_count == 0)
        return 0;
    mutex_lock(&l->store->round_mutex); /* a running round would mark what is cut here */
    log_append_lock(l);
    if (l->hot != NULL)
        hot_demote(l, true);
    i = segment_find(l, end);
    if (i < 0)
        i = 0;
    err = find_cut(l, (uint32_t)i, end, &at, &pos, &max_ts);
    if (err == 0)
        err = cut_files(l, (uint32_t)i, at, pos, max_ts);
    if (err != 0 && err != ERR_NOSPACE) /* no room in the ledger: nothing was cut yet */
        log_fail(l, err, "truncation", end);
    log_append_unlock(l);
    mutex_unlock(&l->store->round_mutex);
    if (err == 0 && !l->memory)
        log_mark_dirty(l);
    if (err == 0)
        hw_bound(l);
    return err;
}

/* ---- beginning anew ------------------------------------------------------------------------------------------------------------ */

static void forget_unlinks(struct log *l)
{
    size_t n = strlen(l->dir);

    mutex_lock(&l->store->mutex);
    LIST_FOREACH_SAFE(at, &l->store->jobs)
    {
        struct job *job = LIST_ENTRY(at, struct job, node);

        if (job->kind != JOB_UNLINK || strncmp(job->path, l->dir, n) != 0 || job->path[n] != '/')
            continue;
        list_remove(at);
        mem_free(job->path);
        mem_free(job);
    }
    mutex_unlock(&l->store->mutex);
}

/* The ledger says that nothing is left, and that start and mark are `start`. What a crash leaves of the files lies outside the mark, and recovery removes it. */
static int drop_marks(struct log *l, int64_t start)
{
    struct buf entry = {0};
    int64_t mark_off = l->mark_off, mark_seg = l->mark_seg;
    int err;

    forget_unlinks(l);
    l->mark_off = start;
    l->mark_seg = -1;
    ledger_put_cut(&entry, l, start, -1, 0);
    ledger_put_start(&entry, l, start);
    mutex_lock(log_stripe(l));
    epochs_clear(l);
    ledger_put_epochs(&entry, l);
    mutex_unlock(log_stripe(l));
    (void)set_going(l, 0, true);
    err = ledger_now(l->store, &entry);
    buf_fini(&entry);
    if (err != 0) {
        (void)set_going(l, 0, false);
        l->mark_off = mark_off;
        l->mark_seg = mark_seg;
    }
    return err;
}

static int drop_files(struct log *l, int64_t start)
{
    char *path;
    int err;

    if (!l->created || l->number == 0)
        return log_create_files(l);
    err = drop_marks(l, start);
    for (uint32_t i = 0; err == 0 && i < l->seg_count; i++) {
        path = mem_printf("%s/%020lld.log", l->dir, (long long)seg_at(l, i)->base);
        if (unlinkat(l->store->dirfd, path, 0) < 0 && errno != ENOENT)
            diag_warn("a segment that went could not be removed", "path=\"%s\"", path);
        mem_free(path);
        path = mem_printf("%s/%020lld.index", l->dir, (long long)seg_at(l, i)->base);
        (void)unlinkat(l->store->dirfd, path, 0);
        mem_free(path);
    }
    return err;
}

/* Under the append lock: an empty log that begins at `start`. */
static void empty(struct log *l, int64_t start)
{
    scrub_absolve(l);
    mutex_lock(log_stripe(l));
    while (l->seg_count > 0)
        segment_remove(l, l->seg_count - 1);
    l->tail_from = l->tail_next = -1;
    epochs_clear(l);
    ASTORE(&l->seq, l->seq + 1);
    ASTORE(&l->pos, 0);
    ASTORE(&l->seg_max_ts, -1);
    ASTORE(&l->start, start);
    ASTORE(&l->end, start);
    ASTORE(&l->seq, l->seq + 1);
    ASTORE(&l->durable, start);
    ASTOREX(&l->last_ts, -1);
    ASTOREX(&l->sealed_bytes, 0);
    l->index_pos = l->reserved = 0;
    l->written_back = 0;
    mutex_unlock(log_stripe(l));
}

int log_restart_at(struct log *l, int64_t start)
{
    int err = log_touch(l);

    if (err == 0)
        err = log_failed(l);
    if (err != 0)
        return err;
    mutex_lock(&l->store->round_mutex); /* a running round would mark what goes here */
    log_append_lock(l);
    if (l->hot != NULL)
        hot_demote(l, false);
    err = l->memory ? 0 : drop_files(l, start);
    if (err == 0)
        empty(l, start);
    log_append_unlock(l);
    mutex_unlock(&l->store->round_mutex);
    if (err == 0 && !l->memory)
        log_mark_dirty(l);
    if (err == 0)
        hw_bound(l);
    return err;
}

int log_begin_anew(struct log *l, bool whole_too)
{
    int err;

    (void)log_touch(l);
    err = ALOAD(&l->failed);
    if (err != ERR_CORRUPT && (err != 0 || !whole_too))
        return err;
    mutex_lock(&l->store->round_mutex);
    log_append_lock(l);
    if (l->hot != NULL)
        hot_demote(l, false);
    err = l->number == 0 ? 0 : drop_marks(l, 0);
    if (err == 0) {
        store_put_aside(l->store, l->dir);
        empty(l, 0);
        l->created = false;
        err = log_create_files(l);
    }
    if (err == 0)
        ASTORE(&l->failed, 0);
    log_append_unlock(l);
    mutex_unlock(&l->store->round_mutex);
    if (err == 0) {
        log_mark_dirty(l);
        hw_bound(l);
    }
    return err;
}

/* ---- the last batch ---------------------------------------------------------------------------------------------------------- */

int log_last_batch_participants(struct log *l, struct log_participant *ret, size_t max, int64_t *ret_base)
{
    struct log_span span;
    struct batch_header h;
    struct record_iter it;
    struct record r;
    struct reader rd;
    struct buf b = {0};
    uint64_t n = 0;
    int err = log_touch(l), count = 0;

    if (err != 0 || l->end == l->start)
        return err;
    err = log_read(l, l->end - 1, l->end, 1, false, &span);
    if (err != 0)
        return err;
    err = log_span_copy(&span, &b);
    log_span_release(&span);
    if (err != 0)
        goto done;
    err = batch_header_read(b.data, b.len, &h);
    if (err != 0 || h.length > b.len || !batch_crc_ok(b.data, &h)) {
        err = ERR_CORRUPT;
        goto done;
    }
    *ret_base = h.base_offset;
    record_iter_init(&it, &h, slice_of(b.data + BATCH_HEADER_SIZE, h.length - BATCH_HEADER_SIZE));
    while ((err = record_iter_next(&it, &r)) == 1 && (r.key.len == 0 || r.key.data[0] != EFFECT_PARTICIPANTS))
        ;
    if (err != 1)
        goto done;
    rd = reader_of(r.value);
    n = reader_uvarint(&rd);
    if (n > 16384) {
        err = ERR_CORRUPT;
        goto done;
    }
    for (uint64_t i = 0; i < n; i++) {
        struct log_participant p;

        p.partition = (uint32_t)reader_uvarint(&rd);
        p.offset = (int64_t)reader_uvarint(&rd);
        if (i < max)
            ret[i] = p;
    }
    if (rd.bad)
        err = ERR_CORRUPT;
    count = (int)n;
done:
    buf_fini(&b);
    return err < 0 ? err : count;
}
