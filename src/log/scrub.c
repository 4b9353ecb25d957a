/* The scrubber (nice 19, idle I/O class): reads every sealed segment again, once an interval, and compares it with the checksum taken when it was sealed. Disks
 * flip bits in files that nobody reads for months; found while other copies are whole, such a copy is fetched anew (cluster/replicate/repair.c), found when the last
 * of the others dies it is a loss.
 *
 * It reads past the page cache (O_DIRECT): what is cached may be sound where the disk is not, and months of cold segments would push out what consumers read.
 * Where the file system knows no O_DIRECT it reads as everybody does. Its rate is bounded; a pass that an interval is too short for runs into the next.
 *
 * A log with a bad segment is only *suspect*: it goes on serving, since all but one batch of it is sound and its owner may know of no better copy. When the last pass
 * ended is kept in <data_dir>/scrub, seconds since 1970, so that restarts do not put it off for ever. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/private.h"

#define BLOCK (256u * 1024)  /* a multiple of any disk's block */
#define ALIGNED 4096u
#define LOGS_AT_ONCE 256
#define AHEAD_US 20000       /* it may run so far ahead of its rate before it sleeps */
#define IOPRIO_IDLE (3 << 13)
#define SETTLE_US 200000

struct scrub {
    struct log_store *s;
    uint8_t *memory, *block; /* owned; BLOCK bytes in it, aligned */
    bool paced;
    uint64_t began_us, debt_us; /* of the pass: what was read may have taken so long at the wanted rate */
    uint64_t bytes, segments, bad;
};

static void scrub_init(struct scrub *c, struct log_store *s, bool paced)
{
    *c = (struct scrub){.s = s, .paced = paced, .memory = mem_alloc(BLOCK + ALIGNED)};
    c->block = (uint8_t *)(((uintptr_t)c->memory + ALIGNED - 1) & ~(uintptr_t)(ALIGNED - 1));
}

/* False: the store is being closed, or scrubbing was turned off. */
static bool pause_until(struct log_store *s, uint64_t until_us)
{
    struct timespec ts = {(time_t)(until_us / 1000000), (long)(until_us % 1000000) * 1000};
    bool go_on;

    mutex_lock(&s->mutex);
    while (!s->stopping && s->scrub_interval_ms != 0 && clock_mono_us() < until_us)
        pthread_cond_timedwait(&s->scrub_cond, &s->mutex.m, &ts);
    go_on = !s->stopping && s->scrub_interval_ms != 0;
    mutex_unlock(&s->mutex);
    return go_on;
}

static bool pace(struct scrub *c, size_t n)
{
    struct log_store *s = c->s;
    uint64_t now, due;

    c->bytes += n;
    if (!c->paced)
        return true;
    now = clock_mono_us();
    __atomic_add_fetch(&s->scrub_bytes, n, __ATOMIC_RELAXED);
    c->debt_us += (uint64_t)n * 1000000 / MAX_OF(ALOADX(&s->scrub_rate), (uint64_t)1);
    due = c->began_us + c->debt_us;
    if (due + 1000000 < now)
        c->began_us = now - c->debt_us; /* what it did not read in time it does not catch up with */
    return pause_until(s, due > now + AHEAD_US ? due : now);
}

/* The checksum of [0, bytes) of a file. ERR_CORRUPT: it is shorter; ERR_CANCELLED; ERR_*. */
static int sum_file(struct scrub *c, const char *path, uint64_t bytes, uint32_t *ret)
{
    int fd = openat(c->s->dirfd, path, O_RDONLY | O_CLOEXEC | O_DIRECT), err = 0;
    uint32_t crc = 0;

    if (fd < 0 && errno == EINVAL)
        fd = openat(c->s->dirfd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_from_errno(errno);
    for (uint64_t at = 0; at < bytes && err == 0;) {
        size_t want = (size_t)MIN_OF((uint64_t)BLOCK, bytes - at);
        ssize_t k = pread(fd, c->block, (want + ALIGNED - 1) & ~(size_t)(ALIGNED - 1), (off_t)at);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0) {
            err = errno == EIO ? ERR_CORRUPT : err_from_errno(errno); /* a sector that cannot be read is lost as one that differs */
            break;
        }
        if ((size_t)k < want) {
            err = ERR_CORRUPT;
            break;
        }
        crc = crc32c(crc, c->block, want);
        at += want;
        if (!pace(c, want))
            err = ERR_CANCELLED;
    }
    close(fd);
    *ret = crc;
    return err;
}

static bool is_bad(struct scrub *c, const char *path, const struct segment *seg, int *ret_err)
{
    uint32_t crc = 0;

    *ret_err = sum_file(c, path, seg->bytes, &crc);
    return *ret_err == ERR_CORRUPT || *ret_err == ERR_NOT_FOUND || (*ret_err == 0 && crc != seg->crc);
}

/* The log may have been cut, dropped, restarted or deleted while its file was read. */
static bool is_still(struct log *l, const struct segment *seg)
{
    bool still = false;
    int i;

    mutex_lock(log_stripe(l));
    i = segment_find(l, seg->base);
    if (i >= 0) {
        const struct segment *now = seg_at(l, (uint32_t)i);

        still = now->base == seg->base && now->next == seg->next && now->bytes == seg->bytes && now->crc == seg->crc &&
                (now->flags & (SEG_SUMMED | SEG_GOING)) == SEG_SUMMED;
    }
    mutex_unlock(log_stripe(l));
    return still && !ALOAD(&l->deleted) && log_failed(l) == 0;
}

static int scrub_segment(struct scrub *c, struct log *l, const struct segment *seg)
{
    char path[512];
    int err;

    segment_path(l, seg->base, path, sizeof(path));
    c->segments++;
    if (!is_bad(c, path, seg, &err)) {
        if (err != 0 && err != ERR_CANCELLED && is_still(l, seg)) /* no descriptors, say */
            diag_warn("a sealed segment cannot be read and compared", "path=\"%s\" error=%s", path, err_name(err));
        return err == ERR_CANCELLED ? err : 0;
    }
    /* Once more: a cut under way has settled by then, and what was wrong on its way from the disk is right. */
    if (c->paced && !pause_until(c->s, clock_mono_us() + SETTLE_US))
        return ERR_CANCELLED;
    if (!is_still(l, seg) || !is_bad(c, path, seg, &err) || !is_still(l, seg))
        return err == ERR_CANCELLED ? err : 0;
    c->bad++;
    if (!__atomic_exchange_n(&l->suspect, true, __ATOMIC_ACQ_REL))
        __atomic_add_fetch(&l->store->suspects, 1, __ATOMIC_ACQ_REL);
    diag_error("a sealed segment differs from its checksum: its disk lost or changed it. A copy elsewhere replaces it where there is one; the log goes on serving till then", "path=\"%s\" first_offset=%lld next_offset=%lld bytes=%llu",
               path, (long long)seg->base, (long long)seg->next, (unsigned long long)seg->bytes);
    return 0;
}

static int scrub_log(struct scrub *c, struct log *l)
{
    uint64_t bad = c->bad;
    int err = 0;

    if (!ALOAD(&l->ready))
        return 0; /* its recovery comes first */
    for (int64_t at = INT64_MIN; err == 0;) {
        struct segment copy = {0};
        bool found = false;

        if (ALOAD(&l->deleted) || log_failed(l) != 0)
            return 0;
        mutex_lock(log_stripe(l));
        for (uint32_t i = 0; i < l->seg_count && !found; i++) {
            found = seg_at(l, i)->base >= at && (seg_at(l, i)->flags & (SEG_SUMMED | SEG_GOING)) == SEG_SUMMED;
            copy = *seg_at(l, i);
        }
        mutex_unlock(log_stripe(l));
        if (!found)
            break;
        at = copy.next;
        err = scrub_segment(c, l, &copy);
    }
    if (err == 0 && c->bad == bad)
        scrub_absolve(l); /* what was bad is gone by retention, say */
    return err;
}

/* The next logs by their number in the ledger, which is never used again; counted. */
static unsigned next_logs(struct log_store *s, uint64_t above, struct log *ret[LOGS_AT_ONCE])
{
    unsigned n = 0;

    mutex_lock(&s->table_mutex);
    for (uint32_t i = 0; i < s->table_size; i++) {
        for (struct log *l = s->table[i]; l != NULL; l = l->table_next) {
            unsigned at = n;

            uint64_t number = ALOADX(&l->number);

            if (l->memory || number <= above || (n == LOGS_AT_ONCE && number > ALOADX(&ret[n - 1]->number)))
                continue;
            while (at > 0 && ALOADX(&ret[at - 1]->number) > number)
                at--;
            n = MIN_OF(n + 1, (unsigned)LOGS_AT_ONCE);
            memmove(ret + at + 1, ret + at, (n - at - 1) * sizeof(ret[0]));
            ret[at] = l;
        }
    }
    for (unsigned i = 0; i < n; i++)
        log_ref(ret[i]);
    mutex_unlock(&s->table_mutex);
    return n;
}

static int run_pass(struct scrub *c)
{
    struct log *logs[LOGS_AT_ONCE];
    uint64_t above = 0;
    int err = 0;
    unsigned n;

    c->began_us = clock_mono_us();
    c->debt_us = c->bytes = c->segments = c->bad = 0;
    while (err == 0 && (n = next_logs(c->s, above, logs)) > 0) {
        above = ALOADX(&logs[n - 1]->number);
        for (unsigned i = 0; i < n; i++) {
            if (err == 0)
                err = scrub_log(c, logs[i]);
            log_unref(logs[i]);
        }
    }
    if (err == 0)
        diag_info("all sealed segments were read and compared with their checksums", "segments=%llu bytes=%llu bad=%llu s=%llu",
                  (unsigned long long)c->segments, (unsigned long long)c->bytes, (unsigned long long)c->bad,
                  (unsigned long long)((clock_mono_us() - c->began_us) / 1000000));
    return err;
}

/* ---- when ------------------------------------------------------------------------------------------------------------------------ */

static int64_t read_last(struct log_store *s)
{
    char path[512], text[32] = "";
    int fd;
    long long last;

    snprintf(path, sizeof(path), "%s/scrub", s->data_dir);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (read(fd, text, sizeof(text) - 1) < 0)
        text[0] = 0;
    close(fd);
    last = strtoll(text, NULL, 10);
    return last <= 0 ? -1 : (int64_t)last;
}

static void write_last(struct log_store *s, int64_t now_s)
{
    char path[512], text[32];

    snprintf(path, sizeof(path), "%s/scrub", s->data_dir);
    snprintf(text, sizeof(text), "%lld\n", (long long)now_s);
    if (file_replace(path, text, strlen(text)) != 0)
        diag_warn("the time of the last scrub cannot be noted; it begins anew behind the next start", "path=\"%s\"", path);
}

/* Microseconds from now to the next pass, given when the last one ended. A clock that went back does not put it off by more than the interval. */
static uint64_t wait_us(int64_t last_ms, uint64_t interval_ms)
{
    int64_t age = clock_wall_ms() - last_ms;

    age = MAX_OF(age, (int64_t)0);
    return (uint64_t)age >= interval_ms ? 0 : (interval_ms - (uint64_t)age) * 1000;
}

void *store_scrub_main(void *arg)
{
    struct log_store *s = arg;
    struct scrub c;
    int64_t last_s = read_last(s), last_ms;
    int err;

    setpriority(PRIO_PROCESS, (id_t)gettid(), 19);
    (void)syscall(SYS_ioprio_set, 1, 0, IOPRIO_IDLE); /* this thread; refused where the kernel or a sandbox knows it not */
    last_ms = last_s < 0 ? clock_wall_ms() : last_s * 1000;
    if (last_s < 0)
        write_last(s, last_ms / 1000);
    mutex_lock(&s->mutex);
    while (!s->stopping) {
        uint64_t wait = wait_us(last_ms, s->scrub_interval_ms), until = clock_mono_us() + wait;
        struct timespec ts = {(time_t)(until / 1000000), (long)(until % 1000000) * 1000};

        if (s->scrub_interval_ms == 0) {
            pthread_cond_wait(&s->scrub_cond, &s->mutex.m);
        } else if (wait > 0) {
            pthread_cond_timedwait(&s->scrub_cond, &s->mutex.m, &ts);
        } else {
            mutex_unlock(&s->mutex);
            scrub_init(&c, s, true);
            err = run_pass(&c);
            mem_free(c.memory);
            if (err == 0) {
                last_ms = clock_wall_ms();
                write_last(s, last_ms / 1000);
                __atomic_add_fetch(&s->scrub_passes, 1, __ATOMIC_RELAXED);
            }
            mutex_lock(&s->mutex);
        }
    }
    mutex_unlock(&s->mutex);
    return NULL;
}

void log_store_set_scrub(struct log_store *s, uint64_t interval_ms, uint64_t bytes_per_s)
{
    mutex_lock(&s->mutex);
    s->scrub_interval_ms = interval_ms;
    ASTOREX(&s->scrub_rate, bytes_per_s);
    pthread_cond_broadcast(&s->scrub_cond);
    mutex_unlock(&s->mutex);
}

bool log_suspect(const struct log *l)
{
    return ALOAD(&l->suspect);
}

uint32_t log_store_suspects(const struct log_store *s)
{
    return ALOAD(&s->suspects);
}

int log_verify(struct log *l)
{
    struct scrub c;
    int err = log_touch(l);

    if (err != 0)
        return err;
    scrub_init(&c, l->store, false);
    err = scrub_log(&c, l);
    mem_free(c.memory);
    return err != 0 ? err : log_suspect(l) ? ERR_CORRUPT : 0;
}

void scrub_absolve(struct log *l)
{
    if (__atomic_exchange_n(&l->suspect, false, __ATOMIC_ACQ_REL))
        __atomic_sub_fetch(&l->store->suspects, 1, __ATOMIC_ACQ_REL);
}
