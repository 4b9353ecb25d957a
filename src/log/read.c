/* Reading. A reader takes the stripe for some nanoseconds to look up a segment and its file, then reads without any lock: bytes below the published
 * end do not change (truncation is the owner's, who keeps readers away).
 *
 * Where a batch lies: the sparse index gives a place at most 64 KiB before it (or the walk that found it teaches the index), then headers are walked. A caller who remembers a position
 * gives it as a hint and skips both. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/private.h"

#define WARM_TAIL (8u << 20) /* the last bytes of a log are taken to be in the page cache (P16) */
#define PROBE_STEP (64u * 1024)
#define COLD_STEP (256u * 1024) /* read ahead when even a header is cold */
#define HINT_BATCHES 64 /* looked at from a hint on before the index is asked */

/* What a lookup needs to know of a segment, taken under the stripe. */
struct view {
    int64_t base, next; /* offsets */
    uint64_t bytes;
    struct index_entry from;  /* to find the offset */
    bool sealed;
    bool has_index;
    bool nowait;
    struct segfile *file; /* counted */
    const uint8_t *map;   /* of a hot log, good from map_from on: what was not given back, so that no read through it goes to the disk */
    uint64_t map_from;
};

/* The view of the segment that holds `offset`, or of the next one when a hole does. */
static int view_of(struct log *l, int64_t offset, struct view *v)
{
    struct segment *seg;
    int64_t end, max_ts;
    uint64_t pos;
    int i;

    mutex_lock(log_stripe(l));
    i = segment_find(l, offset);
    if (i < 0 || ((seg_at(l, (uint32_t)i)->flags & SEG_SEALED) && seg_at(l, (uint32_t)i)->next <= offset))
        i++;
    if ((uint32_t)i >= l->seg_count) {
        mutex_unlock(log_stripe(l));
        return ERR_NOT_FOUND;
    }
    seg = seg_at(l, (uint32_t)i);
    v->sealed = (seg->flags & SEG_SEALED) != 0;
    v->base = seg->base;
    if (v->sealed) {
        v->next = seg->next;
        v->bytes = seg->bytes;
    } else {
        log_tail(l, &end, &pos, &max_ts);
        v->next = end;
        v->bytes = pos;
    }
    v->from = index_before(seg, offset, UINT64_MAX);
    v->has_index = seg->index != NULL || !v->sealed || v->bytes <= INDEX_INTERVAL;
    v->file = seg->file;
    v->map = NULL;
    v->map_from = 0;
    v->nowait = false;
    if (v->file != NULL) {
        if (!v->sealed && l->hot != NULL && l->hot->file == v->file) {
            v->map = ALOAD(&v->file->map);
            v->map_from = ALOAD(&l->hot->dropped);
        }
        segfile_ref(v->file);
        if (!ALOADX(&v->file->used))
            ASTOREX(&v->file->used, true);
    }
    mutex_unlock(log_stripe(l));
    return v->file != NULL ? 0 : segment_open(l, v->base, &v->file);
}

/* ---- the index of a sealed segment --------------------------------------------------------------------------------------- */

static void load_index(struct log *l, struct view *v, int64_t offset)
{
    struct buf b = {0};
    char *path = mem_printf("%s/%s/%020lld.index", l->store->data_dir, l->dir, (long long)v->base);
    int i;

    if (file_read(path, 64u << 20, &b) == 0 && b.len >= 20 && memcmp(b.data, "GMINDEX1", 8) == 0 &&
        be32_get(b.data + b.len - 4) == index_file_sum(b.data, b.len - 4) && be64_get(b.data + 8) == v->bytes) {
        mutex_lock(log_stripe(l));
        i = segment_find(l, v->base);
        if (i >= 0 && seg_at(l, (uint32_t)i)->base == v->base && (seg_at(l, (uint32_t)i)->flags & SEG_SEALED)) {
            struct segment *seg = seg_at(l, (uint32_t)i);

            for (size_t at = 16; at + 16 <= b.len - 4; at += 16)
                index_add(seg, seg->base + be32_get(b.data + at), be32_get(b.data + at + 4), (int64_t)be64_get(b.data + at + 8));
            v->from = index_before(seg, offset, UINT64_MAX);
        }
        mutex_unlock(log_stripe(l));
    }
    buf_fini(&b);
    mem_free(path);
    v->has_index = true;
}

static void learn(struct log *l, const struct view *v, int64_t offset, uint64_t pos, int64_t max_ts)
{
    int i;

    if (l->memory)
        return;
    mutex_lock(log_stripe(l));
    i = segment_find(l, v->base);
    if (i >= 0 && seg_at(l, (uint32_t)i)->base == v->base)
        index_add(seg_at(l, (uint32_t)i), offset, pos, max_ts);
    mutex_unlock(log_stripe(l));
}

static struct index_entry index_near(struct log *l, const struct view *v, int64_t offset, uint64_t pos)
{
    struct index_entry e = {0, 0, -1};
    int i;

    mutex_lock(log_stripe(l));
    i = segment_find(l, v->base);
    if (i >= 0 && seg_at(l, (uint32_t)i)->base == v->base)
        e = index_before(seg_at(l, (uint32_t)i), offset, pos);
    mutex_unlock(log_stripe(l));
    return e;
}

/* ---- spans ------------------------------------------------------------------------------------------------------------------- */

static void walk_init(struct header_walk *w, const struct view *v, uint64_t pos)
{
    header_walk_init(w, v->file, pos, v->bytes);
    w->map = v->map;
    w->map_from = v->map_from;
    w->nowait = v->nowait;
}

/* The position and base of the batch that holds `offset`, or of the first behind it. */
static int locate(struct log *l, struct view *v, int64_t offset, struct log_place hint, uint64_t *ret_pos, struct batch_header *ret)
{
    struct header_walk w;
    int64_t max_ts;
    uint64_t last;
    int rc;

    if (hint.segment == v->base && hint.pos < v->bytes) {
        /* Here, or a few batches on: whoever reads as it is written leaves off before batches that it has no use for. */
        int64_t expected = -1;

        walk_init(&w, v, hint.pos);
        for (unsigned n = 0; n < HINT_BATCHES; n++) {
            rc = header_walk_at(&w, ret);
            if (rc == ERR_AGAIN) {
                *ret_pos = w.pos;
                return rc;
            }
            if (rc != 1 || ret->base_offset > offset || ret->base_offset < v->base || (expected >= 0 && ret->base_offset != expected))
                break;
            expected = ret->base_offset + ret->last_offset_delta + 1;
            if (expected > offset) {
                *ret_pos = w.pos;
                return 0;
            }
            header_walk_skip(&w, ret);
        }
    }
    if (!v->has_index && l->kind == LOG_TOPIC && !v->nowait)
        load_index(l, v, offset);
    walk_init(&w, v, v->from.pos);
    max_ts = v->from.max_ts;
    last = w.pos;
    while ((rc = header_walk_at(&w, ret)) == 1) {
        if (ret->base_offset + ret->last_offset_delta >= offset) {
            *ret_pos = w.pos;
            return 0;
        }
        if (w.pos - last >= INDEX_INTERVAL) {
            learn(l, v, ret->base_offset, w.pos, max_ts);
            last = w.pos;
        }
        max_ts = MAX_OF(max_ts, ret->max_timestamp);
        header_walk_skip(&w, ret);
    }
    *ret_pos = w.pos;
    return rc < 0 ? rc : ERR_CORRUPT;
}

/* How far a span from `pos` may go: whole batches, at most max_bytes, below `end`. */
static int extend(struct log *l, const struct view *v, uint64_t pos, const struct batch_header *first, int64_t end, size_t max_bytes, bool strict,
                  struct log_span *ret)
{
    struct header_walk w;
    struct batch_header h = *first;
    struct index_entry e;
    int rc;

    ret->base = first->base_offset;
    ret->next = first->base_offset;
    ret->len = 0;
    if (first->base_offset + first->last_offset_delta >= end)
        return 0;
    if (first->length > max_bytes) {
        if (strict)
            return 0;
        ret->len = first->length;
        ret->next = first->base_offset + first->last_offset_delta + 1;
        return 0;
    }
    if (v->next <= end && v->bytes - pos <= max_bytes) { /* all there is: nothing to walk */
        ret->len = (size_t)(v->bytes - pos);
        ret->next = v->next;
        return 0;
    }
    e = index_near(l, v, end - 1, pos + max_bytes);
    walk_init(&w, v, e.pos > pos ? e.pos : pos);
    while ((rc = header_walk_at(&w, &h)) == 1) {
        ret->len = (size_t)(w.pos - pos);
        ret->next = h.base_offset;
        if (h.base_offset + h.last_offset_delta >= end || w.pos + h.length - pos > max_bytes)
            return 0;
        header_walk_skip(&w, &h);
    }
    if (rc == 0) {
        ret->len = (size_t)(w.pos - pos);
        ret->next = v->next;
    } else if (rc == ERR_AGAIN) { /* as far as can be told without waiting */
        if (ret->len == 0) {
            ret->len = first->length;
            ret->next = first->base_offset + first->last_offset_delta + 1;
        }
        rc = 0;
    }
    return rc;
}

static int read_at(struct log *l, int64_t offset, struct log_place hint, int64_t end, size_t max_bytes, bool strict, bool nowait, struct log_span *ret)
{
    struct batch_header first;
    struct view v;
    struct hot *h;
    uint64_t pos;
    uint8_t *map;
    int64_t log_end_now;
    int err = log_touch(l);

    *ret = (struct log_span){.fd = -1, .base = offset, .next = offset};
    if (err == ERR_CORRUPT)
        return err;
    log_end_now = ALOAD(&l->end);
    if (offset < ALOAD(&l->start) || offset > log_end_now)
        return ERR_OFFSET_RANGE;
    end = MIN_OF(end, log_end_now);
    if (offset >= end)
        return 0;
    err = view_of(l, offset, &v);
    if (err == ERR_NOT_FOUND) /* dropped meanwhile */
        return ERR_OFFSET_RANGE;
    if (err != 0)
        return err;
    if (v.base >= end) { /* nothing but a hole in between */
        segfile_unref(v.file);
        return 0;
    }
    v.nowait = nowait;
    err = locate(l, &v, MAX_OF(offset, v.base), hint, &pos, &first);
    if (err == ERR_AGAIN) {
        ret->fd = v.file->fd;
        ret->pos = pos;
        ret->len = (size_t)MIN_OF(v.bytes - pos, (uint64_t)COLD_STEP);
        ret->ref = v.file;
        ret->segment = v.base;
        return err;
    }
    if (err == 0)
        err = extend(l, &v, pos, &first, end, max_bytes, strict, ret);
    if (err != 0 || ret->len == 0) {
        if (err == ERR_CORRUPT)
            log_fail(l, ERR_CORRUPT, "a batch header is damaged", offset);
        segfile_unref(v.file);
        return err;
    }
    ret->fd = v.file->fd;
    ret->pos = pos;
    ret->ref = v.file;
    ret->segment = v.base;
    map = ALOAD(&v.file->map);
    if (v.file->memory) {
        ret->data = map + pos;
    } else if (map != NULL && !v.sealed) {
        /* Only what was not given back: a read through the mapping must never go to the disk. */
        mutex_lock(log_stripe(l));
        h = l->hot;
        if (h != NULL && h->file == v.file && pos >= ALOAD(&h->dropped))
            ret->data = map + pos;
        mutex_unlock(log_stripe(l));
    }
    ret->warm = v.file->memory || ret->data != NULL || (!v.sealed && v.bytes - pos <= WARM_TAIL);
    return 0;
}

int log_read_at(struct log *l, int64_t offset, struct log_place hint, int64_t end, size_t max_bytes, bool strict, struct log_span *ret)
{
    return read_at(l, offset, hint, end, max_bytes, strict, false, ret);
}

int log_read_nowait(struct log *l, int64_t offset, struct log_place hint, int64_t end, size_t max_bytes, bool strict, struct log_span *ret)
{
    return read_at(l, offset, hint, end, max_bytes, strict, true, ret);
}

int log_read(struct log *l, int64_t offset, int64_t end, size_t max_bytes, bool strict, struct log_span *ret)
{
    return log_read_at(l, offset, LOG_NOWHERE, end, max_bytes, strict, ret);
}

void log_span_release(struct log_span *span)
{
    if (span->ref != NULL)
        segfile_unref(span->ref);
    *span = (struct log_span){.fd = -1};
}

int log_span_copy(const struct log_span *span, struct buf *out)
{
    int err;

    if (span->len == 0)
        return 0;
    if (span->data != NULL) {
        buf_put(out, span->data, span->len);
        return 0;
    }
    err = file_pread_all(span->fd, buf_reserve(out, span->len), span->len, span->pos);
    if (err == 0)
        buf_advance(out, span->len);
    return err == ERR_MORE ? ERR_CORRUPT : err;
}

bool log_span_is_warm(const struct log_span *span)
{
    if (span->len == 0 || span->warm)
        return true;
    for (size_t at = 0; at < span->len; at += PROBE_STEP) {
        uint8_t byte;
        struct iovec iov = {&byte, 1};

        if (preadv2(span->fd, &iov, 1, (off_t)(span->pos + at), RWF_NOWAIT) < 0 && errno == EAGAIN)
            return false;
    }
    return true;
}

/* ---- times ------------------------------------------------------------------------------------------------------------------------ */

/* The first record of a batch at or after a timestamp. */
static int search_batch(struct segfile *f, uint64_t pos, const struct batch_header *h, int64_t start, int64_t ts, int64_t *ret_offset, int64_t *ret_ts)
{
    struct buf bytes = {0}, plain = {0};
    struct record_iter it;
    struct record r;
    int rc = 0;

    if (f->memory)
        buf_put(&bytes, f->map + pos, h->length);
    else
        rc = file_pread_all(f->fd, buf_reserve(&bytes, h->length), h->length, pos);
    if (rc == 0 && !f->memory)
        buf_advance(&bytes, h->length);
    if (rc == 0)
        rc = batch_decompress((enum batch_codec)(h->attributes & BATCH_ATTR_CODEC),
                              slice_of(bytes.data + BATCH_HEADER_SIZE, h->length - BATCH_HEADER_SIZE), 256u << 20, &plain);
    if (rc == 0) {
        record_iter_init(&it, h, buf_slice(&plain));
        while ((rc = record_iter_next(&it, &r)) == 1) {
            if (r.timestamp >= ts && r.offset >= start) {
                *ret_offset = r.offset;
                *ret_ts = r.timestamp;
                break;
            }
        }
    }
    buf_fini(&bytes);
    buf_fini(&plain);
    return rc;
}

static int search_segment(struct log *l, int64_t base, int64_t ts, int64_t *ret_offset, int64_t *ret_ts)
{
    struct header_walk w;
    struct batch_header h;
    struct view v;
    struct index_entry e = {0, 0, -1};
    int i, rc = view_of(l, base, &v);

    if (rc != 0)
        return rc == ERR_NOT_FOUND ? 0 : rc;
    if (!v.has_index && l->kind == LOG_TOPIC)
        load_index(l, &v, base);
    mutex_lock(log_stripe(l));
    i = segment_find(l, v.base);
    if (i >= 0 && seg_at(l, (uint32_t)i)->base == v.base)
        e = index_before_time(seg_at(l, (uint32_t)i), ts);
    mutex_unlock(log_stripe(l));
    header_walk_init(&w, v.file, e.pos, v.bytes);
    while ((rc = header_walk_at(&w, &h)) == 1) {
        if (h.max_timestamp >= ts && h.base_offset + h.last_offset_delta >= ALOAD(&l->start)) {
            rc = search_batch(v.file, w.pos, &h, ALOAD(&l->start), ts, ret_offset, ret_ts);
            if (rc != 0)
                break;
        }
        header_walk_skip(&w, &h);
    }
    segfile_unref(v.file);
    return rc;
}

int log_find_timestamp(struct log *l, int64_t timestamp_ms, int64_t *ret_offset, int64_t *ret_timestamp)
{
    int64_t base = ALOAD(&l->start);
    int rc = log_touch(l);

    if (rc == ERR_CORRUPT)
        return rc;
    for (;;) {
        int64_t next, max_ts, end;
        bool sealed, found = false;
        uint64_t pos;

        mutex_lock(log_stripe(l));
        for (uint32_t i = 0; i < l->seg_count && !found; i++) {
            const struct segment *seg = seg_at(l, i);

            sealed = (seg->flags & SEG_SEALED) != 0;
            log_tail(l, &end, &pos, &max_ts);
            next = sealed ? seg->next : end;
            if (sealed)
                max_ts = seg->max_ts;
            if (next > base && max_ts >= timestamp_ms) {
                base = MAX_OF(base, seg->base);
                found = true;
            }
        }
        mutex_unlock(log_stripe(l));
        if (!found)
            return ERR_NOT_FOUND;
        rc = search_segment(l, base, timestamp_ms, ret_offset, ret_timestamp);
        if (rc != 0)
            return rc < 0 ? rc : 0;
        if (!sealed)
            return ERR_NOT_FOUND;
        base = next;
    }
}

/* ---- cursors ------------------------------------------------------------------------------------------------------------------------ */

void log_cursor_init(struct log_cursor *c, struct log *l, int64_t offset, size_t window_bytes)
{
    *c = (struct log_cursor){.log = l, .offset = offset, .window_bytes = window_bytes, .hint = LOG_NOWHERE};
    c->span.fd = -1;
}

static int refill(struct log_cursor *c)
{
    int64_t end = log_end(c->log);
    int err;

    buf_clear(&c->bytes);
    c->at = 0;
    log_span_release(&c->span);
    err = log_read_at(c->log, c->offset, c->hint, end, c->window_bytes, false, &c->span);
    if (err != 0 || c->span.len == 0)
        return err;
    err = log_span_copy(&c->span, &c->bytes);
    c->hint = (struct log_place){c->span.segment, c->span.pos + c->span.len};
    return err != 0 ? err : 1;
}

int log_cursor_next(struct log_cursor *c, struct batch_header *ret_header, struct slice *ret_batch)
{
    for (;;) {
        const uint8_t *p;
        int rc;

        if (c->at == c->bytes.len) {
            rc = refill(c);
            if (rc != 1)
                return rc;
        }
        p = c->bytes.data + c->at;
        if (batch_header_read(p, c->bytes.len - c->at, ret_header) != 0 || ret_header->length > c->bytes.len - c->at ||
            !batch_crc_ok(p, ret_header)) {
            log_fail(c->log, ERR_CORRUPT, "a batch is damaged", c->offset);
            return ERR_CORRUPT;
        }
        c->place = (struct log_place){c->span.segment, c->span.pos + c->at};
        c->at += ret_header->length;
        if (ret_header->base_offset + ret_header->last_offset_delta < c->offset)
            continue;
        c->offset = ret_header->base_offset + ret_header->last_offset_delta + 1;
        *ret_batch = slice_of(p, ret_header->length);
        return 1;
    }
}

void log_cursor_fini(struct log_cursor *c)
{
    log_span_release(&c->span);
    buf_fini(&c->bytes);
}
