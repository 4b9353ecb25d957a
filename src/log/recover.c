/* Recovery of one log that was not cleanly closed (rule 4).
 *
 * What is known: from the ledger the sealed segments with their sizes, the holes between them and the sync mark (offset, segment, position); from the directory the
 * files. Segments that the ledger knows and that lie below the mark are taken by their size; every other file is read whole: batch by batch it must have the next
 * offset exactly, an epoch that does not go back, and its CRC. The first batch that does not ends the log. Below the mark that is corruption; above it, a torn tail: cut
 * there, and files behind it go. When the machine was restarted in between (VERDICT_CUT) the page cache is gone and anything may have been written back in any order: the
 * log is cut exactly at its mark. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/private.h"

#define SCAN_BLOCK (1u << 20)

struct scan {
    struct log *log;
    int64_t expected; /* the next offset */
    int32_t epoch;
    int64_t max_ts;     /* in this segment */
    uint64_t pos;       /* end of what is sound */
    bool first;         /* no batch was seen yet */
    bool cut;           /* ends at the mark */
    const char *why;
};

/* One file from its beginning. 0: ended at s->pos for the reason s->why; ERR_IO. */
static int scan_file(struct scan *s, struct segment *seg, int fd)
{
    struct log *l = s->log;
    struct buf b = {0};
    uint64_t at = 0, last_index = 0; /* file position of b.data[0] */
    size_t used = 0;
    int err = 0;
    bool eof = false;

    s->pos = 0;
    s->max_ts = -1;
    s->why = "end of file";
    for (;;) {
        struct batch_header h;
        size_t left = b.len - used, need = BATCH_HEADER_SIZE;
        int rc;

        if (s->cut && s->expected >= l->mark_off)
            break;
        rc = left == 0 ? ERR_MORE : batch_header_read(b.data + used, left, &h);
        if (rc == 0 && h.length > left) {
            need = h.length;
            /* Not past the file: a length nobody wrote must not make us allocate. */
            if (eof) {
                s->why = "a batch is cut short";
                break;
            }
        } else if (rc == 0) {
            if (h.base_offset != s->expected) {
                s->why = "a batch has another offset than the next";
                break;
            }
            if (h.leader_epoch < s->epoch) {
                s->why = "the epoch goes back";
                break;
            }
            if (!batch_crc_ok(b.data + used, &h)) {
                s->why = "a batch fails its CRC";
                break;
            }
            if (s->pos - last_index >= INDEX_INTERVAL) {
                index_add(seg, h.base_offset, s->pos, s->max_ts);
                last_index = s->pos;
            }
            if (s->first || h.leader_epoch != s->epoch)
                epochs_note(l, h.leader_epoch, h.base_offset);
            s->first = false;
            s->expected = h.base_offset + h.last_offset_delta + 1;
            s->epoch = h.leader_epoch;
            s->max_ts = MAX_OF(s->max_ts, h.max_timestamp);
            s->pos += h.length;
            used += h.length;
            continue;
        } else if (rc != ERR_MORE) {
            static const uint8_t zeros[BATCH_HEADER_SIZE];

            if (memcmp(b.data + used, zeros, sizeof(zeros)) != 0) /* zeros: written ahead of the tail */
                s->why = "what follows is no batch";
            break;
        } else if (eof) {
            break;
        }
        buf_consume(&b, used);
        at += used;
        used = 0;
        while (b.len < need && !eof) {
            ssize_t k = pread(fd, buf_reserve(&b, SCAN_BLOCK), SCAN_BLOCK, (off_t)(at + b.len));

            if (k < 0 && errno == EINTR)
                continue;
            if (k < 0) {
                err = err_from_errno(errno);
                goto done;
            }
            eof = k == 0;
            buf_advance(&b, (size_t)k);
        }
    }
done:
    buf_fini(&b);
    return err;
}

static int compare_bases(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

/* The base offsets of the segment files in the directory, ascending. */
static int list_files(struct log *l, int64_t **ret, size_t *ret_n)
{
    int fd = openat(l->store->dirfd, l->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    int64_t *bases = NULL;
    size_t n = 0, cap = 0;

    *ret = NULL;
    *ret_n = 0;
    if (d == NULL)
        return errno == ENOENT ? 0 : err_from_errno(errno);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char *end;
        long long base;

        if (strlen(e->d_name) != 24 || strcmp(e->d_name + 20, ".log") != 0)
            continue;
        base = strtoll(e->d_name, &end, 10);
        if (end != e->d_name + 20 || base < 0)
            continue;
        if (n == cap) {
            cap = cap == 0 ? 16 : cap * 2;
            bases = mem_realloc(bases, cap * sizeof(*bases));
        }
        bases[n++] = base;
    }
    closedir(d);
    if (n > 1)
        qsort(bases, n, sizeof(*bases), compare_bases);
    *ret = bases;
    *ret_n = n;
    return 0;
}

static void remove_file(struct log *l, int64_t base)
{
    char path[512];

    segment_path(l, base, path, sizeof(path));
    if (unlinkat(l->store->dirfd, path, 0) < 0 && errno != ENOENT)
        diag_warn("a segment behind the end cannot be removed", "path=\"%s\"", path);
}

/* What the ledger lists but its sync mark does not cover was not promised, and is read like any other file. */
static void forget_above_mark(struct log *l)
{
    while (l->seg_count > 0 && seg_active(l)->next > l->mark_off)
        segment_remove(l, l->seg_count - 1);
}

static const struct segment *listed(const struct log *l, int64_t base)
{
    int i = segment_find(l, base);

    return i >= 0 && seg_at(l, (uint32_t)i)->base == base ? seg_at(l, (uint32_t)i) : NULL;
}

static int fail_at(struct log *l, int64_t offset, const char *why)
{
    log_fail(l, ERR_CORRUPT, why, offset);
    return ERR_CORRUPT;
}

/* The segments of the ledger must be there with their sizes. */
static int check_listed(struct log *l)
{
    for (uint32_t i = 0; i < l->seg_count; i++) {
        const struct segment *seg = seg_at(l, i);
        char path[512];
        struct stat st;

        segment_path(l, seg->base, path, sizeof(path));
        if (fstatat(l->store->dirfd, path, &st, 0) < 0)
            return errno == ENOENT ? fail_at(l, seg->base, "a sealed segment is missing") : err_from_errno(errno);
        if ((uint64_t)st.st_size < seg->bytes)
            return fail_at(l, seg->base, "a sealed segment is shorter than it was");
        if (i > 0 && seg->from != seg_at(l, i - 1)->next)
            return fail_at(l, seg->base, "a hole that nothing explains");
        l->sealed_bytes += seg->bytes;
    }
    return 0;
}

/* Reads one file that the ledger does not vouch for and appends it to the list. *ret_done: the log ends in it. */
static int take_file(struct log *l, struct scan *sc, int64_t base, bool last, bool *ret_done)
{
    struct segment *seg;
    struct stat st;
    char path[512];
    int fd, err;

    segment_path(l, base, path, sizeof(path));
    fd = openat(l->store->dirfd, path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_from_errno(errno);
    if (fstat(fd, &st) < 0) {
        close(fd);
        return err_from_errno(errno);
    }
    seg = segment_push(l, base);
    if (seg->from != base && seg->from == sc->expected)
        sc->expected = base; /* the hole in front of it is in the ledger */
    err = scan_file(sc, seg, fd);
    if (err == 0 && sc->expected < l->mark_off && sc->pos < (uint64_t)st.st_size)
        err = fail_at(l, sc->expected, sc->why);
    seg->max_ts = sc->max_ts;
    l->last_ts = MAX_OF(l->last_ts, sc->max_ts);
    *ret_done = last || sc->pos < (uint64_t)st.st_size || (sc->cut && sc->expected >= l->mark_off);
    if (err == 0 && *ret_done) {
        if (sc->pos < (uint64_t)st.st_size) {
            if (strcmp(sc->why, "end of file") != 0)
                diag_info("a log was cut behind its last sound batch", "log=\"%s\" offset=%lld file=%lld position=%llu cut_bytes=%llu why=\"%s\"", l->dir,
                          (long long)sc->expected, (long long)base, (unsigned long long)sc->pos,
                          (unsigned long long)((uint64_t)st.st_size - sc->pos), sc->cut && sc->expected >= l->mark_off ? "not synced before the machine went down" : sc->why);
            if (ftruncate(fd, (off_t)sc->pos) < 0)
                err = err_from_errno(errno);
        }
        l->pos = sc->pos;
        l->index_pos = seg->index == NULL ? 0 : seg->index->e[seg->index->n - 1].pos;
        l->seg_max_ts = sc->max_ts;
    } else if (err == 0) { /* sealed, though the ledger did not hear of it */
        seg->next = sc->expected;
        seg->bytes = sc->pos;
        seg->flags = SEG_SEALED;
        l->sealed_bytes += sc->pos;
    }
    close(fd);
    return err;
}

/* Has the janitor sum and list what was found sealed. Only when the list is whole: from here on it is no longer ours alone. */
static void seal_found(struct log *l)
{
    for (uint32_t i = 0; i < l->seg_count; i++) {
        struct segment *seg = seg_at(l, i);
        struct job *job;

        if ((seg->flags & (SEG_SEALED | SEG_LISTED)) != SEG_SEALED)
            continue;
        job = mem_zalloc(sizeof(*job));
        job->kind = JOB_SEAL;
        job->log = l;
        job->base = seg->base;
        log_ref(l);
        store_submit(l->store, job);
    }
}

/* Readers and appenders wait in log_touch; nobody else looks at the list yet, which is why the stripe is not taken. */
int log_recover_files(struct log *l)
{
    struct log_store *s = l->store;
    struct scan sc = {.log = l, .why = "end of file", .first = true, .cut = l->verdict == VERDICT_CUT};
    int64_t *bases;
    size_t n;
    bool done = false;
    int64_t mark = MAX_OF(l->mark_off, 0);
    int err = list_files(l, &bases, &n);

    if (err != 0)
        return err;
    l->sealed_bytes = 0;
    forget_above_mark(l);
    err = check_listed(l);
    if (err != 0)
        goto out;
    sc.expected = l->seg_count > 0 ? seg_active(l)->next : l->start;
    (void)epochs_cut(l, sc.expected);
    sc.epoch = MAX_OF(l->last_epoch, 0);
    for (size_t i = 0; i < n && err == 0; i++) {
        if (listed(l, bases[i]) != NULL)
            continue;
        if (done) { /* behind the end */
            remove_file(l, bases[i]);
            continue;
        }
        if (l->seg_count > 0 && bases[i] < seg_active(l)->base) {
            remove_file(l, bases[i]); /* dropped, its unlink was still due */
            continue;
        }
        if (l->tail_from >= 0 && bases[i] < l->tail_next) {
            remove_file(l, bases[i]);
            continue;
        }
        if (l->seg_count == 0 && l->mark_off >= 0 && i + 1 < n && bases[i + 1] <= l->start && bases[i + 1] <= l->mark_seg) {
            remove_file(l, bases[i]); /* wholly below the start */
            continue;
        }
        if (l->mark_off >= 0 && sc.expected >= mark && sc.cut && bases[i] != l->mark_seg) {
            remove_file(l, bases[i]);
            continue;
        }
        if (l->seg_count == 0 && l->mark_off >= 0 && l->mark_seg < 0 && bases[i] != l->mark_off && bases[i] != l->tail_next) {
            remove_file(l, bases[i]); /* the log began anew there, and this is from before */
            continue;
        }
        if (l->seg_count > 0 && bases[i] > sc.expected && !(l->tail_from == sc.expected && l->tail_next == bases[i])) {
            if (sc.expected < mark) {
                err = fail_at(l, sc.expected, "a hole that nothing explains");
                break;
            }
            remove_file(l, bases[i]); /* written behind a hole that no round told the ledger of */
            done = true;
            continue;
        }
        if (l->seg_count == 0) {
            if (l->mark_off >= 0 && l->mark_off <= l->start && bases[i] > l->start && bases[i] != l->tail_next) {
                remove_file(l, bases[i]); /* nothing was promised of the log, and this was written behind a hole that no round told of */
                continue;
            }
            if (l->mark_off >= 0 && bases[i] > l->start && bases[i] != l->tail_next) {
                err = fail_at(l, l->start, "the first segment is missing");
                break;
            }
            sc.expected = bases[i];
        }
        err = take_file(l, &sc, bases[i], i + 1 == n, &done);
    }
    if (err != 0)
        goto out;
    if (sc.expected < mark) {
        err = fail_at(l, sc.expected, "the log ends below its sync mark");
        goto out;
    }
    /* The last file may have been sealed and its successor never made, or be listed: appends need an active one. */
    if (l->seg_count > 0 && (seg_active(l)->flags & SEG_SEALED)) {
        struct segfile *f;

        err = segment_create(l, sc.expected, &f);
        if (err != 0)
            goto out;
        segment_push(l, sc.expected);
        segfile_unref(f);
        l->pos = 0;
        l->seg_max_ts = -1;
        l->index_pos = 0;
    }
    l->checked = true;
    if (l->seg_count > 0)
        l->start = MAX_OF(l->start, seg_at(l, 0)->base);
    l->start = MIN_OF(l->start, sc.expected);
    l->epoch = MAX_OF(l->epoch, sc.epoch);
    (void)epochs_cut(l, sc.expected);
    ASTORE(&l->durable, mark);
    ASTORE(&l->end, sc.expected);
    mutex_lock(&s->mutex);
    if (l->number == 0) {
        ASTOREX(&l->number, s->next_number++);
        ledger_put_name(&s->pending, l);
    }
    ledger_put_epochs(&s->pending, l);
    mutex_unlock(&s->mutex);
    ASTOREX(&s->new_names, true);
    log_mark_dirty(l);
    seal_found(l);
out:
    mem_free(bases);
    return err;
}
