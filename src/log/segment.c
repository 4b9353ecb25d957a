/* Segments: the list in memory, their open files (counted, an LRU of at most fd_max), their sparse indexes, and walking their headers.
 *
 * A file stays open as long as somebody holds it: a span of a reader keeps the descriptor of a segment that was dropped meanwhile. The list's own
 * reference is what eviction takes away.
 *
 * Index file of a sealed topic segment: "GMINDEX1", bytes of the segment be64, entries {rel be32, pos be32, max timestamp before be64}, CRC32C be32. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/private.h"

/* ---- open files ------------------------------------------------------------------------------------------------------ */

void segment_path(const struct log *l, int64_t base, char *out, size_t size)
{
    int n = snprintf(out, size, "%s/%020lld.log", l->dir, (long long)base);

    CHECK(n > 0 && (size_t)n < size);
}

struct segfile *segfile_new(struct log *l, int64_t base, int fd)
{
    struct segfile *f = mem_zalloc(sizeof(*f));

    f->refs = 1;
    f->fd = fd;
    f->store = l->store;
    f->log = l;
    f->base = base;
    __atomic_add_fetch(&l->store->open_files, 1, __ATOMIC_RELAXED);
    return f;
}

struct segfile *segfile_new_memory(struct log_store *s, size_t size)
{
    struct segfile *f = mem_zalloc(sizeof(*f));

    f->refs = 1;
    f->fd = -1;
    f->store = s;
    f->memory = true;
    f->map = mem_alloc(size);
    f->map_len = size;
    return f;
}

void segfile_ref(struct segfile *f)
{
    __atomic_add_fetch(&f->refs, 1, __ATOMIC_RELAXED);
}

void segfile_unref(struct segfile *f)
{
    if (__atomic_sub_fetch(&f->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    CHECK(!list_linked(&f->lru));
    if (f->memory) {
        mem_free(f->map);
    } else {
        if (f->map != NULL) {
            struct job *job = mem_zalloc(sizeof(*job));

            job->kind = JOB_UNMAP;
            job->map = f->map;
            job->map_len = f->map_len;
            store_submit(f->store, job);
        }
        close(f->fd);
        __atomic_sub_fetch(&f->store->open_files, 1, __ATOMIC_RELAXED);
    }
    mem_free(f);
}

/* Takes the least recently used file that only its list holds out of that list. Under files_mutex; the caller lets go of it. */
static struct segfile *evict_one(struct log_store *s)
{
    unsigned tries = 0;

    for (struct list *n = s->lru.prev, *prev; n != &s->lru && tries < 256; n = prev, tries++) {
        struct segfile *f = LIST_ENTRY(n, struct segfile, lru);
        struct mutex *stripe = log_stripe(f->log);
        struct segfile *victim = NULL;

        prev = n->prev;
        if (__atomic_exchange_n(&f->used, false, __ATOMIC_RELAXED)) {
            list_remove(n);
            list_push_front(&s->lru, n);
            continue;
        }
        if (!mutex_trylock(stripe))
            continue;
        if (ALOAD(&f->refs) == 1 && ALOAD(&f->map) == NULL) {
            int i = segment_find(f->log, f->base);

            if (i >= 0 && seg_at(f->log, (uint32_t)i)->file == f) {
                seg_at(f->log, (uint32_t)i)->file = NULL;
                list_remove(n);
                victim = f;
            }
        }
        mutex_unlock(stripe);
        if (victim != NULL)
            return victim;
    }
    return NULL;
}

void segfile_lru_add(struct segfile *f)
{
    mutex_lock(&f->store->files_mutex);
    list_push_front(&f->store->lru, &f->lru);
    mutex_unlock(&f->store->files_mutex);
}

void segfile_evict(struct log_store *s)
{
    struct segfile *victims[4];
    unsigned n = 0;

    if (ALOADX(&s->open_files) <= s->fd_max)
        return;
    mutex_lock(&s->files_mutex);
    while (n < ARRAY_LEN(victims) && ALOADX(&s->open_files) > s->fd_max + n && (victims[n] = evict_one(s)) != NULL)
        n++;
    mutex_unlock(&s->files_mutex);
    while (n > 0)
        segfile_unref(victims[--n]);
}

void segfile_lru_remove(struct segfile *f)
{
    if (f->memory)
        return;
    mutex_lock(&f->store->files_mutex);
    list_remove(&f->lru);
    mutex_unlock(&f->store->files_mutex);
}

int segment_create(struct log *l, int64_t base, struct segfile **ret)
{
    struct log_store *s = l->store;
    char path[512];
    int fd;

    segment_path(l, base, path, sizeof(path));
    fd = openat(s->dirfd, path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return err_from_errno(errno);
    ASTOREX(&s->new_names, true);
    *ret = segfile_new(l, base, fd);
    return 0;
}

/* The first opening after a clean start: the file must hold what the ledger says, and nothing behind it. */
static int check_active(struct log *l, int fd)
{
    struct stat st;
    uint64_t pos = ALOAD(&l->pos);

    if (l->checked)
        return 0;
    if (fstat(fd, &st) < 0)
        return err_from_errno(errno);
    if ((uint64_t)st.st_size < pos) {
        log_fail(l, ERR_CORRUPT, "a segment is shorter than at the clean stop", l->end);
        return ERR_CORRUPT;
    }
    l->checked = true;
    return 0;
}

int segment_open(struct log *l, int64_t base, struct segfile **ret)
{
    struct segfile *f = NULL, *fresh;
    char path[512];
    bool active, found;
    int i, fd, err;

    mutex_lock(log_stripe(l));
    i = segment_find(l, base);
    found = i >= 0 && seg_at(l, (uint32_t)i)->base == base;
    if (found && (f = seg_at(l, (uint32_t)i)->file) != NULL) {
        segfile_ref(f);
        ASTOREX(&f->used, true);
    }
    active = found && (uint32_t)i == l->seg_count - 1;
    mutex_unlock(log_stripe(l));
    if (!found)
        return ERR_NOT_FOUND;
    if (f != NULL) {
        *ret = f;
        return 0;
    }
    CHECK(!l->memory);
    segment_path(l, base, path, sizeof(path));
    fd = openat(l->store->dirfd, path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        err = errno == ENOENT ? ERR_CORRUPT : err_from_errno(errno);
        mutex_lock(log_stripe(l));
        i = segment_find(l, base);
        found = i >= 0 && seg_at(l, (uint32_t)i)->base == base;
        mutex_unlock(log_stripe(l));
        if (!found || ALOAD(&l->deleted))
            return ERR_NOT_FOUND;
        if (err == ERR_CORRUPT)
            log_fail(l, err, "a segment is missing", base);
        return err;
    }
    if (active && (err = check_active(l, fd)) != 0) {
        close(fd);
        return err;
    }
    fresh = segfile_new(l, base, fd);
    mutex_lock(log_stripe(l));
    i = segment_find(l, base);
    if (i >= 0 && seg_at(l, (uint32_t)i)->base == base) {
        struct segment *seg = seg_at(l, (uint32_t)i);

        if (seg->file != NULL) { /* somebody was faster */
            f = seg->file;
            segfile_ref(f);
        } else {
            seg->file = fresh;
            segfile_ref(fresh);
            segfile_lru_add(fresh);
            f = fresh;
        }
    }
    mutex_unlock(log_stripe(l));
    if (f != fresh)
        segfile_unref(fresh);
    segfile_evict(l->store);
    if (f == NULL)
        return ERR_NOT_FOUND;
    *ret = f;
    return 0;
}

/* ---- the list ---------------------------------------------------------------------------------------------------------- */

struct segment *segment_push(struct log *l, int64_t base)
{
    struct segment *seg;

    if (l->seg_first + l->seg_count == l->seg_cap) {
        if (l->seg_first > l->seg_cap / 2) {
            memmove(l->segs, l->segs + l->seg_first, l->seg_count * sizeof(*l->segs));
            l->seg_first = 0;
        } else {
            l->seg_cap = l->seg_cap == 0 ? 1 : l->seg_cap < 4 ? 4 : l->seg_cap * 2;
            l->segs = mem_realloc(l->segs, l->seg_cap * sizeof(*l->segs));
        }
    }
    seg = &l->segs[l->seg_first + l->seg_count++];
    *seg = (struct segment){.base = base, .next = base, .from = base, .max_ts = -1};
    if (l->tail_from >= 0 && l->tail_next == base)
        seg->from = l->tail_from;
    l->tail_from = l->tail_next = -1;
    return seg;
}

void segment_remove(struct log *l, uint32_t i)
{
    struct segment *seg = seg_at(l, i);

    if (seg->file != NULL) {
        segfile_lru_remove(seg->file);
        segfile_unref(seg->file);
    }
    mem_free(seg->index);
    if (i == 0) {
        l->seg_first++;
        l->seg_count--;
        if (l->seg_count == 0)
            l->seg_first = 0;
        return;
    }
    memmove(seg, seg + 1, (l->seg_count - i - 1) * sizeof(*seg));
    l->seg_count--;
}

int segment_find(const struct log *l, int64_t offset)
{
    uint32_t lo = 0, hi = l->seg_count;

    /* Nearly always the last. */
    if (hi > 0 && seg_at(l, hi - 1)->base <= offset)
        return (int)hi - 1;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (seg_at(l, mid)->base <= offset)
            lo = mid + 1;
        else
            hi = mid;
    }
    return (int)lo - 1;
}

void log_tail(const struct log *l, int64_t *ret_end, uint64_t *ret_pos, int64_t *ret_max_ts)
{
    uint32_t seq;

    do {
        while ((seq = ALOAD(&l->seq)) & 1)
            ;
        *ret_end = ALOAD(&l->end);
        *ret_pos = ALOAD(&l->pos);
        *ret_max_ts = ALOAD(&l->seg_max_ts);
    } while (ALOAD(&l->seq) != seq);
}

/* ---- sparse index -------------------------------------------------------------------------------------------------------- */

void index_add(struct segment *seg, int64_t offset, uint64_t pos, int64_t max_ts)
{
    struct log_index *x = seg->index;
    uint32_t i, rel = (uint32_t)(offset - seg->base);

    if (pos == 0 || pos > UINT32_MAX)
        return;
    if (x == NULL || x->n == x->cap) {
        uint32_t cap = x == NULL ? 4 : x->cap * 2;

        x = mem_realloc(x, sizeof(*x) + cap * sizeof(x->e[0]));
        if (seg->index == NULL)
            x->n = 0;
        x->cap = cap;
        seg->index = x;
    }
    for (i = x->n; i > 0 && x->e[i - 1].pos > pos; i--)
        ;
    if (i > 0 && x->e[i - 1].pos == pos)
        return;
    memmove(&x->e[i + 1], &x->e[i], (x->n - i) * sizeof(x->e[0]));
    x->e[i] = (struct index_entry){rel, (uint32_t)pos, max_ts};
    x->n++;
}

struct index_entry index_before(const struct segment *seg, int64_t offset, uint64_t pos)
{
    const struct log_index *x = seg->index;
    uint32_t lo = 0, hi = x == NULL ? 0 : x->n;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (seg->base + x->e[mid].rel <= offset && x->e[mid].pos <= pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo == 0 ? (struct index_entry){0, 0, -1} : x->e[lo - 1];
}

struct index_entry index_before_time(const struct segment *seg, int64_t ts)
{
    const struct log_index *x = seg->index;
    uint32_t lo = 0, hi = x == NULL ? 0 : x->n;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (x->e[mid].max_ts < ts)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo == 0 ? (struct index_entry){0, 0, -1} : x->e[lo - 1];
}

uint32_t index_file_sum(const void *data, size_t len)
{
    return crc32c(0, data, len);
}

/* ---- walking ---------------------------------------------------------------------------------------------------------------- */

void header_walk_init(struct header_walk *w, struct segfile *f, uint64_t pos, uint64_t limit)
{
    w->file = f;
    w->map = NULL;
    w->nowait = false;
    w->pos = pos;
    w->limit = limit;
    w->buf_pos = 0;
    w->buf_len = 0;
}

int header_walk_at(struct header_walk *w, struct batch_header *ret)
{
    const uint8_t *p;

    if (w->pos >= w->limit)
        return 0;
    if (w->limit - w->pos < BATCH_HEADER_SIZE)
        return ERR_CORRUPT;
    if (w->file->memory) {
        p = w->file->map + w->pos;
    } else if (w->map != NULL && w->pos >= w->map_from) {
        p = w->map + w->pos;
    } else {
        if (w->pos < w->buf_pos || w->pos + BATCH_HEADER_SIZE > w->buf_pos + w->buf_len) {
            size_t n = (size_t)MIN_OF((uint64_t)sizeof(w->buf), w->limit - w->pos);
            int err = 0;

            if (w->nowait) {
                struct iovec iov = {w->buf, n};
                ssize_t got = preadv2(w->file->fd, &iov, 1, (off_t)w->pos, RWF_NOWAIT);

                if (got < BATCH_HEADER_SIZE && (got >= 0 || errno == EAGAIN))
                    return ERR_AGAIN;
                if (got < 0 && errno == EOPNOTSUPP)
                    got = pread(w->file->fd, w->buf, n, (off_t)w->pos); /* a file system that cannot tell (tmpfs): it has no disk to wait for */
                if (got < BATCH_HEADER_SIZE)
                    return got < 0 ? err_from_errno(errno) : ERR_AGAIN;
                n = (size_t)got;
            } else {
                err = file_pread_all(w->file->fd, w->buf, n, w->pos);
            }
            if (err != 0)
                return err == ERR_MORE ? ERR_CORRUPT : err;
            w->buf_pos = w->pos;
            w->buf_len = n;
        }
        p = w->buf + (w->pos - w->buf_pos);
    }
    if (batch_header_read(p, BATCH_HEADER_SIZE, ret) != 0 || ret->length > w->limit - w->pos)
        return ERR_CORRUPT;
    return 1;
}

int segment_sum(struct segfile *f, uint64_t bytes, uint32_t *ret)
{
    uint32_t crc = 0;
    int err = 0;
    uint8_t *block = mem_alloc(256 * 1024);

    for (uint64_t at = 0; at < bytes && err == 0;) {
        size_t n = (size_t)MIN_OF((uint64_t)(256 * 1024), bytes - at);

        err = file_pread_all(f->fd, block, n, at);
        if (err == 0)
            crc = crc32c(crc, block, n);
        at += n;
    }
    mem_free(block);
    if (err == ERR_MORE)
        err = ERR_CORRUPT;
    if (err == 0)
        *ret = crc;
    return err;
}
