/* Hot logs (P11, P12): the active segment is mapped whole, and a window ahead of the tail is written with zeros and faulted in for writing by the
 * prefault thread, so that a small append is a memcpy.
 *
 * The zeros come by pwrite: a full disk shows as an error there and not as SIGBUS, and the file grows with its window instead of taking a whole segment's blocks in
 * advance. Where the thread fell behind, the owner extends the window by one step itself; while the thread is at it, the append goes by pwrite, which is coherent with the
 * mapping (log_append_unprefaulted_total). So nobody ever faults or is parked.
 *
 * A log that was not appended to for two seconds keeps its window in the file and 16 KiB of it mapped: memory goes by what is written, not by how many logs were. Its next
 * append calls the thread, which faults the window in anew (P26).
 *
 * h->mutex orders everything that writes at or beyond `zeroed`: the thread's zeros and the owner's pwrites. A log cools when it was idle for 10 s or when another one
 * wants its place: the mapping stays with the segfile until its last reader lets go, the list gets a descriptor of its own. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/private.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE 4096u
#define PAGE_FLOOR(x) ((x) & ~(uint64_t)(PAGE - 1))
#define REST_TICKS 2
#define REST_KEPT (16u * 1024)
#define REST_WINDOW UINT32_MAX /* no append finds it large enough, so the first one calls */
#define ASKED_AGAIN_US 50000 /* a window used up faster than this is doubled */

static void hot_ref(struct hot *h)
{
    __atomic_add_fetch(&h->refs, 1, __ATOMIC_RELAXED);
}

void hot_unref(struct hot *h)
{
    if (__atomic_sub_fetch(&h->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    segfile_unref(h->file);
    mutex_fini(&h->mutex);
    mem_free(h);
}

void hot_promote(struct log *l)
{
    struct log_store *s = l->store;
    struct segfile *f;
    struct hot *h;
    size_t len = (size_t)(l->segment_bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
    uint8_t *map;

    if (l->hot != NULL || l->pos + PREFAULT_STEP > len || !ALOADX(&s->may_grow))
        return;
    if (__atomic_add_fetch(&s->hot_count, 1, __ATOMIC_RELAXED) > s->opt.hot_max) {
        __atomic_sub_fetch(&s->hot_count, 1, __ATOMIC_RELAXED);
        ASTOREX(&s->hot_wanted, true);
        return;
    }
    if (segment_open(l, seg_active(l)->base, &f) != 0) {
        __atomic_sub_fetch(&s->hot_count, 1, __ATOMIC_RELAXED);
        return;
    }
    map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    if (map == MAP_FAILED) {
        DIAG_EVERY(DIAG_WARN, "a log cannot be mapped; it stays cold", "log=\"%s\" error=\"%s\"", l->dir, strerror(errno));
        segfile_unref(f);
        __atomic_sub_fetch(&s->hot_count, 1, __ATOMIC_RELAXED);
        return;
    }
    h = mem_zalloc(sizeof(*h));
    h->refs = 1;
    h->log = l;
    h->file = f;
    mutex_init(&h->mutex);
    h->zeroed = l->pos;
    h->synced = 0; /* what was appended by pwrite since the last round counts too */
    h->dropped = PAGE_FLOOR(l->pos);
    h->window = PREFAULT_WINDOW;
    h->seen_end = l->end;
    f->map_len = len;
    ASTORE(&f->map, map);
    mutex_lock(log_stripe(l));
    l->hot = h;
    mutex_unlock(log_stripe(l));
    mutex_lock(&s->mutex);
    list_push_back(&s->hot_list, &h->node);
    mutex_unlock(&s->mutex);
    hot_want(l, h);
}

void hot_demote(struct log *l, bool truncate)
{
    struct log_store *s = l->store;
    struct hot *h = l->hot;
    struct segfile *old, *fresh = NULL;
    int fd = fcntl(h->file->fd, F_DUPFD_CLOEXEC, 0);

    if (fd >= 0)
        fresh = segfile_new(l, h->file->base, fd);
    mutex_lock(log_stripe(l));
    l->hot = NULL;
    old = seg_active(l)->file; /* h->file: a mapped file is not evicted */
    seg_active(l)->file = fresh;
    if (fresh != NULL)
        segfile_lru_add(fresh);
    mutex_unlock(log_stripe(l));
    mutex_lock(&s->mutex);
    list_remove(&h->node);
    list_remove(&h->queue);
    mutex_unlock(&s->mutex);
    mutex_lock(&h->mutex);
    h->log = NULL; /* from here on nobody writes zeros */
    if (truncate && ftruncate(h->file->fd, (off_t)l->pos) < 0)
        diag_warn("a cooled log cannot be cut to its size", "log=\"%s\" error=\"%s\"", l->dir, strerror(errno));
    l->written_back = l->pos;
    l->reserved = 0;
    mutex_unlock(&h->mutex);
    if (old != NULL) {
        segfile_lru_remove(old);
        segfile_unref(old);
    }
    hot_unref(h);
    __atomic_sub_fetch(&s->hot_count, 1, __ATOMIC_RELAXED);
}

void hot_want(struct log *l, struct hot *h)
{
    struct log_store *s = l->store;
    uint32_t window;
    uint64_t now;

    if (ALOADX(&h->queued) || ALOADX(&h->zeroed) >= h->file->map_len)
        return;
    now = clock_mono_us();
    window = ALOADX(&h->window);
    if (now - h->asked_us < ASKED_AGAIN_US && window < PREFAULT_WINDOW_MAX)
        ASTOREX(&h->window, window * 2);
    h->asked_us = now;
    ASTOREX(&h->queued, true);
    mutex_lock(&s->mutex);
    list_push_back(&s->prefault_queue, &h->queue);
    pthread_cond_signal(&s->prefault_cond);
    mutex_unlock(&s->mutex);
}

int hot_extend(struct log *l, struct hot *h, uint64_t to)
{
    static const uint8_t zeros[PREFAULT_STEP];
    uint64_t at = ALOAD(&h->zeroed);

    to = MIN_OF(to, (uint64_t)h->file->map_len);
    while (at < to) {
        uint64_t next = MIN_OF(PAGE_FLOOR(at + PREFAULT_STEP), (uint64_t)h->file->map_len), from = PAGE_FLOOR(at);
        int err = file_pwrite_all(h->file->fd, zeros, (size_t)(next - at), at);

        if (err != 0) {
            if (err == ERR_NOSPACE)
                ASTOREX(&l->store->may_grow, false);
            return err;
        }
        /* Refused by kernels before 5.14; the first touch of a page then faults, nothing worse. */
        madvise(h->file->map + from, (size_t)(next - from), MADV_POPULATE_WRITE);
        ASTORE(&h->zeroed, next);
        at = next;
    }
    return 0;
}

/* A step a hold: the owner may want to write behind the window meanwhile. */
static bool prefault_step(struct hot *h)
{
    struct log *l;
    bool more = false;

    mutex_lock(&h->mutex);
    l = h->log;
    if (l != NULL) {
        uint64_t at = ALOAD(&h->zeroed), to = MIN_OF(ALOAD(&l->pos) + ALOADX(&h->window), (uint64_t)h->file->map_len);

        more = at < to && hot_extend(l, h, MIN_OF(at + PREFAULT_STEP, to)) == 0;
    }
    mutex_unlock(&h->mutex);
    return more;
}

/* Page tables only: the pages stay in the page cache, and a store that comes first faults one in. */
static void lie_down(struct hot *h)
{
    struct log *l;

    mutex_lock(&h->mutex);
    l = h->log;
    if (l != NULL) {
        uint64_t from = PAGE_FLOOR(ALOAD(&l->pos) + REST_KEPT + PAGE - 1), to = PAGE_FLOOR(ALOAD(&h->zeroed));

        h->rests = true;
        ASTOREX(&h->window, REST_WINDOW);
        if (from < to)
            madvise(h->file->map + from, (size_t)(to - from), MADV_DONTNEED);
    }
    mutex_unlock(&h->mutex);
}

static void get_up(struct hot *h)
{
    struct log *l;

    mutex_lock(&h->mutex);
    l = h->log;
    h->rests = false;
    ASTOREX(&h->window, PREFAULT_WINDOW);
    if (l != NULL) {
        uint64_t from = PAGE_FLOOR(ALOAD(&l->pos)), to = PAGE_FLOOR(ALOAD(&h->zeroed));

        if (from < to)
            madvise(h->file->map + from, (size_t)(to - from), MADV_POPULATE_WRITE);
    }
    mutex_unlock(&h->mutex);
}

/* The next log that has just come to rest, with a reference; under s->mutex. */
static struct hot *tired(struct log_store *s)
{
    LIST_FOREACH(n, &s->hot_list)
    {
        struct hot *h = LIST_ENTRY(n, struct hot, node);

        if (h->idle_ticks >= REST_TICKS && !h->rests) {
            hot_ref(h);
            return h;
        }
    }
    return NULL;
}

/* Takes the log with the longest rest, when that is long enough. Under s->mutex; with references of its own. */
static struct hot *most_idle(struct log_store *s, struct log **ret_log)
{
    struct hot *best = NULL;
    unsigned least = !ALOADX(&s->may_grow) ? 0 : ALOADX(&s->hot_wanted) ? 1 : s->opt.hot_idle_s;

    LIST_FOREACH(n, &s->hot_list)
    {
        struct hot *h = LIST_ENTRY(n, struct hot, node);

        if (!h->tried && h->idle_ticks >= least && (best == NULL || h->idle_ticks > best->idle_ticks))
            best = h;
    }
    if (best != NULL) {
        *ret_log = best->log;
        log_ref(best->log);
        hot_ref(best);
        best->tried = true;
    }
    return best;
}

/* A nearly full disk cools everything: file systems that write a page elsewhere each time could fail a store into a mapping, and that is no error but a SIGBUS. */
static void tick(struct log_store *s)
{
    struct hot *h;
    struct log *l;

    mutex_lock(&s->mutex);
    LIST_FOREACH(n, &s->hot_list)
    {
        h = LIST_ENTRY(n, struct hot, node);
        h->tried = false;
        if (h->seen_end == ALOAD(&h->log->end)) {
            h->idle_ticks++;
        } else {
            h->idle_ticks = 0;
            h->seen_end = ALOAD(&h->log->end);
            if (!h->rests)
                ASTOREX(&h->window, PREFAULT_WINDOW); /* grows back when it is asked for */
        }
    }
    while ((h = tired(s)) != NULL) {
        mutex_unlock(&s->mutex);
        lie_down(h);
        h->rests = true; /* also when it has cooled meanwhile: once is enough */
        hot_unref(h);
        mutex_lock(&s->mutex);
    }
    while ((h = most_idle(s, &l)) != NULL) {
        mutex_unlock(&s->mutex);
        ASTOREX(&s->hot_wanted, false);
        if (__atomic_exchange_n(&l->append_lock, 1, __ATOMIC_ACQUIRE) == 0) {
            if (l->hot == h && (h->seen_end == l->end || !ALOADX(&s->may_grow)))
                hot_demote(l, true);
            log_append_unlock(l);
        }
        hot_unref(h);
        log_unref(l);
        mutex_lock(&s->mutex);
    }
    mutex_unlock(&s->mutex);
    store_refresh_disk(s);
}

void *hot_thread_main(void *arg)
{
    struct log_store *s = arg;
    uint64_t next_tick = clock_mono_us() + 1000000;

    setpriority(PRIO_PROCESS, (id_t)gettid(), 10);
    mutex_lock(&s->mutex);
    while (!s->stopping) {
        struct list *n = list_pop_front(&s->prefault_queue);
        struct timespec until;

        if (n != NULL) {
            struct hot *h = LIST_ENTRY(n, struct hot, queue);

            hot_ref(h);
            mutex_unlock(&s->mutex);
            if (h->rests)
                get_up(h);
            while (prefault_step(h))
                ;
            ASTORE(&h->queued, false);
            hot_unref(h);
            mutex_lock(&s->mutex);
        } else if (clock_mono_us() < next_tick) {
            until.tv_sec = (time_t)(next_tick / 1000000);
            until.tv_nsec = (long)(next_tick % 1000000 * 1000);
            pthread_cond_timedwait(&s->prefault_cond, &s->mutex.m, &until);
        }
        if (clock_mono_us() >= next_tick) {
            mutex_unlock(&s->mutex);
            tick(s);
            next_tick = clock_mono_us() + 1000000;
            mutex_lock(&s->mutex);
        }
    }
    mutex_unlock(&s->mutex);
    return NULL;
}
