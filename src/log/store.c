/* The store: all logs of a data directory, their table, the threads that serve them.
 *
 *     lock       flock'ed while a process uses the directory
 *     ledger     names, sync marks and segment lists of all logs (ledger.c)
 *     trash/     what was deleted; emptied in the background
 *     <log dir>/identity, <base offset>.log, <base offset>.index
 *
 * A struct log stays in the table from the moment the ledger or log_open knows it until log_delete, open or not: at most half a KiB for one
 * that rests. Opening a log of a cleanly stopped store reads nothing but this table. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/hash.h"
#include "base/mem.h"
#include "log/effect.h"
#include "log/private.h"

#define STORE_MAGIC 0x106d5704u

/* ---- the table ---------------------------------------------------------------------------------------------------- */

static uint32_t table_slot(const struct log_store *s, const char *dir)
{
    return fnv1a32(dir, strlen(dir)) & (s->table_size - 1);
}

struct log *log_table_find(struct log_store *s, const char *dir)
{
    for (struct log *l = s->table[table_slot(s, dir)]; l != NULL; l = l->table_next) {
        if (strcmp(l->dir, dir) == 0)
            return l;
    }
    return NULL;
}

static void table_grow(struct log_store *s)
{
    struct log **old = s->table;
    uint32_t n = s->table_size;

    s->table_size = n * 2;
    s->table = mem_calloc(s->table_size, sizeof(*s->table));
    for (uint32_t i = 0; i < n; i++) {
        for (struct log *l = old[i], *next; l != NULL; l = next) {
            uint32_t slot = table_slot(s, l->dir);

            next = l->table_next;
            l->table_next = s->table[slot];
            s->table[slot] = l;
        }
    }
    mem_free(old);
}

void log_table_add(struct log_store *s, struct log *l)
{
    uint32_t slot;

    if (s->table_count >= s->table_size)
        table_grow(s);
    slot = table_slot(s, l->dir);
    l->table_next = s->table[slot];
    s->table[slot] = l;
    s->table_count++;
    log_ref(l);
}

void log_table_remove(struct log_store *s, struct log *l)
{
    struct log **at = &s->table[table_slot(s, l->dir)];

    while (*at != l)
        at = &(*at)->table_next;
    *at = l->table_next;
    s->table_count--;
    log_unref(l);
}

struct log *log_alloc(struct log_store *s, const char *dir)
{
    struct log *l = mem_zalloc(sizeof(*l));

    l->store = s;
    l->refs = 1;
    l->dir = mem_strdup(dir);
    l->stripe = (uint8_t)(((uintptr_t)l >> 6) * 0x9e3779b97f4a7c15ull >> 58);
    l->segment_bytes = s->opt.segment_bytes;
    l->last_ts = l->seg_max_ts = -1;
    l->mark_off = l->mark_seg = l->tail_from = l->tail_next = -1;
    l->last_epoch = -1;
    list_init(&l->waits);
    l->ready = true;
    return l;
}

void log_ref(struct log *l)
{
    __atomic_add_fetch(&l->refs, 1, __ATOMIC_RELAXED);
}

void log_unref(struct log *l)
{
    if (__atomic_sub_fetch(&l->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    CHECK(l->hot == NULL && list_empty(&l->waits));
    mutex_lock(log_stripe(l));
    while (l->seg_count > 0)
        segment_remove(l, l->seg_count - 1);
    mutex_unlock(log_stripe(l));
    mem_free(l->segs);
    mem_free(l->epochs);
    mem_free(l->dir);
    mem_free(l);
}

void log_fail(struct log *l, int err, const char *why, int64_t offset)
{
    int none = 0;

    if (__atomic_compare_exchange_n(&l->failed, &none, err, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        diag_error("a log has failed", "log=\"%s\" error=%s offset=%lld why=\"%s\"", l->dir, err_name(err),
                   (long long)offset, why);
}

void log_damaged(struct log *l, const char *why)
{
    log_fail(l, ERR_CORRUPT, why, ALOAD(&l->end));
}

/* ---- disk space ----------------------------------------------------------------------------------------------------- */

void store_refresh_disk(struct log_store *s)
{
    struct statvfs st;
    uint64_t avail;
    bool may;

    if (fstatvfs(s->dirfd, &st) < 0)
        return;
    avail = (uint64_t)st.f_bavail * st.f_frsize;
    ASTOREX(&s->disk_free, avail);
    may = avail >= s->opt.disk_reserve_bytes;
    if (may != ALOADX(&s->may_grow)) {
        ASTOREX(&s->may_grow, may);
        if (may)
            diag_info("disk space is back, writes are accepted", "free_bytes=%llu", (unsigned long long)avail);
        else
            diag_warn("disk nearly full, what grows data is refused", "free_bytes=%llu reserve_bytes=%llu",
                      (unsigned long long)avail, (unsigned long long)s->opt.disk_reserve_bytes);
    }
}

bool log_store_may_grow(const struct log_store *s)
{
    return ALOADX(&s->may_grow);
}

int log_store_health(const struct log_store *s)
{
    return ALOAD(&s->health);
}

bool log_store_never_syncs(const struct log_store *s)
{
    return store_fsync(s) == LOG_FSYNC_NEVER;
}

bool log_store_sync_always(const struct log_store *s)
{
    return store_fsync(s) == LOG_FSYNC_ALWAYS;
}

void log_store_set_fsync(struct log_store *s, enum log_fsync fsync, uint32_t interval_ms)
{
    mutex_lock(&s->mutex);
    ASTOREX(&s->opt.fsync, fsync);
    ASTOREX(&s->opt.sync_interval_ms, interval_ms == 0 ? 1000 : interval_ms);
    pthread_cond_signal(&s->sync_cond);
    mutex_unlock(&s->mutex);
}

void log_store_set_cut(struct log_store *s, void (*begin)(void *arg), void (*end)(void *arg), void *arg)
{
    mutex_lock(&s->mutex);
    /* Whoever takes it away frees what it works with. */
    while (s->cutting)
        pthread_cond_wait(&s->done_cond, &s->mutex.m);
    s->cut_begin = begin;
    s->cut_end = end;
    s->cut_arg = arg;
    mutex_unlock(&s->mutex);
}

/* ---- opening and closing --------------------------------------------------------------------------------------------- */

static int lock_dir(struct log_store *s)
{
    s->lockfd = openat(s->dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (s->lockfd < 0)
        return err_from_errno(errno);
    if (flock(s->lockfd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? ERR_IN_USE : err_from_errno(errno);
    return 0;
}

static void read_boot_id(uint8_t out[16])
{
    struct buf b = {0};
    unsigned n = 0, v = 0;

    memset(out, 0, 16);
    if (file_read("/proc/sys/kernel/random/boot_id", 256, &b) == 0) {
        for (size_t i = 0; i < b.len && n < 32; i++) {
            int c = b.data[i];
            int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

            if (d < 0)
                continue;
            v = v << 4 | (unsigned)d;
            if (n++ & 1)
                out[n / 2 - 1] = (uint8_t)v;
        }
    }
    buf_fini(&b);
}

static void empty_trash(struct log_store *s)
{
    int fd = openat(s->dirfd, "trash", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        struct job *job;

        if (e->d_name[0] == '.')
            continue;
        job = mem_zalloc(sizeof(*job));
        job->kind = JOB_RMTREE;
        job->path = mem_printf("trash/%s", e->d_name);
        store_submit(s, job);
    }
    if (d != NULL)
        closedir(d);
    else if (fd >= 0)
        close(fd);
}

void store_trash(struct log_store *s, const char *dir)
{
    static uint32_t serial; /* names in trash/ only have to differ */
    struct job *job = mem_zalloc(sizeof(*job));

    job->kind = JOB_RMTREE;
    job->path = mem_printf("trash/%lld-%u", (long long)clock_wall_us(), __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED));
    if (mkdirat(s->dirfd, "trash", 0750) < 0 && errno != EEXIST)
        diag_warn("trash/ cannot be made", "error=\"%s\"", strerror(errno));
    if (renameat(s->dirfd, dir, s->dirfd, job->path) < 0) {
        if (errno != ENOENT)
            diag_error("a log directory cannot be moved to trash/", "log=\"%s\" error=\"%s\"", dir, strerror(errno));
        mem_free(job->path);
        mem_free(job);
        return;
    }
    store_submit(s, job);
}

/* ---- what is damaged ----------------------------------------------------------------------------------------------------- */

#define DAMAGED_MAX 8

/* The oldest of what lies in damaged/ goes until there is room for one more. Names begin with their time. */
static void make_room(struct log_store *s)
{
    for (unsigned tries = 0; tries < 64; tries++) {
        int fd = openat(s->dirfd, "damaged", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        char oldest[256] = "";
        char *path;
        unsigned n = 0;

        for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
            if (e->d_name[0] == '.')
                continue;
            n++;
            if (oldest[0] == '\0' || strcmp(e->d_name, oldest) < 0)
                snprintf(oldest, sizeof(oldest), "%s", e->d_name);
        }
        if (d != NULL)
            closedir(d);
        else if (fd >= 0)
            close(fd);
        if (n < DAMAGED_MAX)
            return;
        path = mem_printf("damaged/%s", oldest);
        store_trash(s, path);
        mem_free(path);
    }
}

void store_put_aside(struct log_store *s, const char *dir)
{
    static uint32_t serial;
    char *path = mem_printf("damaged/%lld-%04u-%s", (long long)clock_wall_ms(), __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED) % 10000, dir);

    for (char *at = path + strlen("damaged/"); *at != '\0'; at++)
        if (*at == '/')
            *at = '_';
    path[MIN_OF(strlen(path), (size_t)250)] = '\0';
    mutex_lock(&s->aside_mutex);
    make_room(s);
    if (mkdirat(s->dirfd, "damaged", 0750) < 0 && errno != EEXIST)
        diag_warn("damaged/ cannot be made", "error=\"%s\"", strerror(errno));
    if (!ALOADX(&s->may_grow)) {
        store_trash(s, dir); /* what is whole needs the space */
    } else if (renameat(s->dirfd, dir, s->dirfd, path) == 0) {
        diag_warn("what is damaged was put aside; it can be deleted", "from=\"%s\" to=\"%s/%s\" kept=%u", dir, s->data_dir, path, DAMAGED_MAX);
    } else if (errno != ENOENT) {
        diag_error("a damaged directory cannot be put aside", "from=\"%s\" to=\"%s\" error=\"%s\"", dir, path, strerror(errno));
        store_trash(s, dir);
    }
    mutex_unlock(&s->aside_mutex);
    ASTOREX(&s->new_names, true);
    mem_free(path);
}

void log_store_put_aside(struct log_store *s, const char *dir)
{
    store_put_aside(s, dir);
}

static void free_store(struct log_store *s)
{
    for (uint32_t i = 0; i < s->table_size; i++) {
        for (struct log *l = s->table[i], *next; l != NULL; l = next) {
            next = l->table_next;
            CHECK(l->opens == 0);
            log_unref(l);
        }
    }
    mem_free(s->table);
    for (unsigned i = 0; i < STRIPES; i++) {
        mutex_fini(&s->stripes[i]);
        mutex_fini(&s->recover_mutex[i]);
        mutex_fini(&s->wait_mutex[i]);
    }
    for (unsigned i = 0; i < s->queue_count; i++)
        mutex_fini(&s->queues[i].mutex);
    mem_free(s->queues);
    mutex_fini(&s->table_mutex);
    mutex_fini(&s->files_mutex);
    mutex_fini(&s->mutex);
    mutex_fini(&s->ledger_mutex);
    mutex_fini(&s->round_mutex);
    mutex_fini(&s->aside_mutex);
    pthread_cond_destroy(&s->sync_cond);
    pthread_cond_destroy(&s->prefault_cond);
    pthread_cond_destroy(&s->janitor_cond);
    pthread_cond_destroy(&s->scrub_cond);
    pthread_cond_destroy(&s->done_cond);
    buf_fini(&s->pending);
    if (s->ledger_fd >= 0)
        close(s->ledger_fd);
    if (s->lockfd >= 0)
        close(s->lockfd);
    if (s->dirfd >= 0)
        close(s->dirfd);
    mem_free(s->data_dir);
    MAGIC_FINI(s, STORE_MAGIC);
    mem_free(s);
}

static void init_queues(struct log_store *s)
{
    s->queue_count = s->ws == NULL ? 0 : workers_count(s->ws);
    s->queues = mem_calloc(s->queue_count, sizeof(*s->queues));
    for (unsigned i = 0; i < s->queue_count; i++) {
        mutex_init(&s->queues[i].mutex);
        list_init(&s->queues[i].armed);
        list_init(&s->queues[i].ready);
        s->queues[i].store = s;
        s->queues[i].worker = workers_get(s->ws, i);
    }
}

static void cond_init_mono(pthread_cond_t *c)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    CHECK(pthread_cond_init(c, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

static void start_threads(struct log_store *s)
{
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    CHECK(pthread_create(&s->sync_thread, NULL, sync_thread_main, s) == 0);
    pthread_setname_np(s->sync_thread, "sync");
    CHECK(pthread_create(&s->prefault_thread, NULL, hot_thread_main, s) == 0);
    pthread_setname_np(s->prefault_thread, "prefault");
    CHECK(pthread_create(&s->janitor_thread, NULL, store_janitor_main, s) == 0);
    pthread_setname_np(s->janitor_thread, "janitor");
    CHECK(pthread_create(&s->scrub_thread, NULL, store_scrub_main, s) == 0);
    pthread_setname_np(s->scrub_thread, "scrub");
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    s->threads = true;
}

static void set_defaults(struct log_store *s)
{
    struct log_store_options *o = &s->opt;
    struct rlimit rl;

    if (o->sync_interval_ms == 0)
        o->sync_interval_ms = 1000;
    if (o->segment_bytes == 0)
        o->segment_bytes = 64u << 20;
    o->segment_bytes = MIN_OF(o->segment_bytes, (uint64_t)SEGMENT_BYTES_MAX);
    if (o->hot_max == 0)
        o->hot_max = 256;
    if (o->hot_idle_s == 0)
        o->hot_idle_s = 10;
    s->fd_max = o->fd_max;
    if (s->fd_max == 0)
        s->fd_max = getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < 1u << 20 ? (uint32_t)(rl.rlim_cur / 4) : 1u << 18;
    s->fd_max = MAX_OF(s->fd_max, 8u);
}

int log_store_open(const struct log_store_options *options, struct workers *ws, struct log_store **ret)
{
    struct log_store *s = mem_zalloc(sizeof(*s));
    int err;

    MAGIC_INIT(s, STORE_MAGIC);
    s->opt = *options;
    s->level = options->level == 0 ? EFFECT_LEVEL_MAX : options->level;
    s->data_dir = mem_strdup(options->data_dir);
    s->opt.data_dir = s->data_dir;
    s->ws = ws;
    s->dirfd = s->lockfd = s->ledger_fd = -1;
    s->table_size = 64;
    s->table = mem_calloc(s->table_size, sizeof(*s->table));
    for (unsigned i = 0; i < STRIPES; i++) {
        mutex_init(&s->stripes[i]);
        mutex_init(&s->recover_mutex[i]);
        mutex_init(&s->wait_mutex[i]);
    }
    mutex_init(&s->table_mutex);
    mutex_init(&s->files_mutex);
    mutex_init(&s->mutex);
    mutex_init(&s->ledger_mutex);
    mutex_init(&s->round_mutex);
    mutex_init(&s->aside_mutex);
    cond_init_mono(&s->sync_cond);
    cond_init_mono(&s->prefault_cond);
    cond_init_mono(&s->janitor_cond);
    cond_init_mono(&s->scrub_cond);
    cond_init_mono(&s->done_cond);
    list_init(&s->lru);
    list_init(&s->sealed);
    list_init(&s->hot_list);
    list_init(&s->prefault_queue);
    list_init(&s->jobs);
    s->next_number = 1;
    s->round_open = 1;
    s->may_grow = true;
    set_defaults(s);
    init_queues(s);
    failpoint_parse(s, options->failpoint);
    if (options->boot_id != NULL)
        memcpy(s->boot_id, options->boot_id, 16);
    else
        read_boot_id(s->boot_id);

    err = file_make_dirs(s->data_dir);
    if (err != 0)
        goto fail;
    s->dirfd = open(s->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dirfd < 0) {
        err = err_from_errno(errno);
        goto fail;
    }
    err = lock_dir(s);
    if (err == 0)
        err = ledger_open(s);
    if (err == 0)
        err = ledger_start(s);
    if (err != 0)
        goto fail;
    store_refresh_disk(s);
    start_threads(s);
    empty_trash(s);
    *ret = s;
    return 0;
fail:
    free_store(s);
    return err;
}

bool log_store_power_lost(const struct log_store *s)
{
    return s->had_ledger && s->verdict == VERDICT_CUT;
}

int log_store_set_cluster(struct log_store *s, const uint8_t cluster_id[16])
{
    CHECK(s->table_count == 0);
    memcpy(s->opt.cluster_id, cluster_id, 16);
    return ledger_snapshot(s, false);
}

static void wait_jobs(struct log_store *s)
{
    mutex_lock(&s->mutex);
    while (!list_empty(&s->jobs) || s->jobs_running > 0) {
        pthread_cond_broadcast(&s->janitor_cond);
        pthread_cond_wait(&s->done_cond, &s->mutex.m);
    }
    mutex_unlock(&s->mutex);
}

void log_store_close(struct log_store *s)
{
    bool clean;

    MAGIC_CHECK(s, STORE_MAGIC);
    /* One round makes what was written durable and the janitor's deletions due; its checksums need a second. Without them it is no clean stop: the
     * next start scans. */
    clean = log_store_sync(s) == 0;
    if (clean) {
        wait_jobs(s);
        clean = log_store_sync(s) == 0;
    }
    mutex_lock(&s->mutex);
    s->stopping = true;
    pthread_cond_broadcast(&s->sync_cond);
    pthread_cond_broadcast(&s->prefault_cond);
    pthread_cond_broadcast(&s->janitor_cond);
    pthread_cond_broadcast(&s->scrub_cond);
    mutex_unlock(&s->mutex);
    pthread_join(s->sync_thread, NULL);
    pthread_join(s->prefault_thread, NULL);
    pthread_join(s->janitor_thread, NULL);
    pthread_join(s->scrub_thread, NULL);
    if (clean && ledger_snapshot(s, true) != 0)
        diag_error("the clean mark could not be written", "path=\"%s/ledger\"", s->data_dir);
    free_store(s);
}

uint32_t log_store_sync_age_ms(const struct log_store *s)
{
    uint64_t began = ALOAD(&s->round_began_us), now = clock_mono_us();

    return began == 0 || now < began ? 0 : (uint32_t)((now - began) / 1000);
}

void log_store_stats(struct log_store *s, struct log_store_stats *ret)
{
    uint64_t began = ALOAD(&s->round_began_us);

    memset(ret, 0, sizeof(*ret));
    mutex_lock(&s->table_mutex);
    ret->logs = s->table_count;
    for (uint32_t i = 0; i < s->table_size; i++) {
        for (const struct log *l = s->table[i]; l != NULL; l = l->table_next)
            ret->bytes_appended += ALOADX(&l->appended);
    }
    mutex_unlock(&s->table_mutex);
    ret->bytes_appended += ALOADX(&s->memory_appended);
    ret->hot_logs = ALOADX(&s->hot_count);
    ret->open_files = ALOADX(&s->open_files);
    ret->sync_rounds = ALOADX(&s->sync_rounds);
    ret->sync_last_us = ALOADX(&s->sync_last_us);
    ret->sync_max_us = ALOADX(&s->sync_max_us);
    ret->sync_running_us = began == 0 ? 0 : clock_mono_us() - began;
    ret->unprefaulted = ALOADX(&s->unprefaulted);
    ret->disk_free = ALOADX(&s->disk_free);
    ret->scrub_bytes = ALOADX(&s->scrub_bytes);
    ret->scrub_passes = ALOADX(&s->scrub_passes);
    ret->suspects = ALOAD(&s->suspects);
}

/* ---- logs --------------------------------------------------------------------------------------------------------------- */

static void forget(struct log_store *s, struct log *l);
static void close_files(struct log *l);

/* The log is gone, whoever still holds it. Under table_mutex; the table's reference goes. */
static void bury(struct log_store *s, struct log *l)
{
    log_append_lock(l);
    scrub_absolve(l);
    ASTORE(&l->deleted, true); /* before its files move: whoever misses one then knows why; and no append follows */
    ASTORE(&l->failed, ERR_NOT_FOUND);
    log_append_unlock(l);
    close_files(l);
    mutex_lock(log_wait_mutex(l));
    commits_end(l, 0);
    mutex_unlock(log_wait_mutex(l));
    if (l->created)
        store_trash(s, l->dir);
    forget(s, l);
}

static void forget(struct log_store *s, struct log *l)
{
    mutex_lock(&s->mutex);
    if (l->number != 0)
        ledger_put_delete(&s->pending, l);
    mutex_unlock(&s->mutex);
    log_table_remove(s, l);
}

static struct log *open_memory(struct log_store *s, const struct log_options *o)
{
    struct log *l = log_alloc(s, o->dir == NULL ? "memory" : o->dir);

    l->memory = true;
    l->opens = 1;
    l->log_id = o->log_id;
    l->kind = (uint8_t)o->kind;
    return l;
}

int log_open(struct log_store *s, const struct log_options *o, struct log **ret)
{
    void (*opened)(void *arg, struct log *l, uint64_t log_id) = NULL;
    void *opened_arg = NULL;
    struct log *l;
    int err;

    MAGIC_CHECK(s, STORE_MAGIC);
    if (o->memory) {
        *ret = open_memory(s, o);
        return 0;
    }
    mutex_lock(&s->table_mutex);
    l = log_table_find(s, o->dir);
    if (l != NULL && l->log_id != o->log_id) {
        diag_warn("a log directory belongs to another object; moved to trash/", "log=\"%s\" id=%llu wanted=%llu", o->dir,
                  (unsigned long long)l->log_id, (unsigned long long)o->log_id);
        bury(s, l);
        l = NULL;
    }
    if (l == NULL) {
        l = log_alloc(s, o->dir);
        l->log_id = o->log_id;
        l->kind = (uint8_t)o->kind;
        /* A directory the ledger does not know was made after the last round before a crash. On the same boot its files hold what was written;
         * after a power cut it has no mark, so nothing of it was promised (rule 4). */
        err = identity_check(s, o->dir, o->log_id);
        if (err == 0 && s->verdict != VERDICT_CUT) {
            l->verdict = VERDICT_SCAN;
            l->created = true;
            l->ready = false;
        } else if (err == 0 || err == ERR_CORRUPT || err == ERR_MISMATCH || err == ERR_FOREIGN) {
            if (err != 0)
                diag_warn("a log directory has a foreign identity; moved to trash/", "log=\"%s\" error=%s", o->dir, err_name(err));
            store_trash(s, o->dir);
        } else if (err != ERR_NOT_FOUND) {
            log_fail(l, err, "its identity file cannot be read", 0);
        }
        log_table_add(s, l);
        log_unref(l);
    }
    if (l->opens++ == 0) {
        opened = s->opened;
        opened_arg = s->opened_arg;
    }
    log_ref(l);
    if (o->segment_bytes != 0)
        l->segment_bytes = MIN_OF(o->segment_bytes, (uint64_t)SEGMENT_BYTES_MAX);
    mutex_unlock(&s->table_mutex);
    if (opened != NULL)
        opened(opened_arg, l, l->log_id);
    *ret = l;
    return l->ready ? ALOAD(&l->failed) : 0;
}

static void close_files(struct log *l)
{
    struct segfile *active;

    log_append_lock(l);
    if (l->hot != NULL)
        hot_demote(l, true);
    if (l->reserved > l->pos && segment_open(l, seg_active(l)->base, &active) == 0) {
        /* Gives back blocks that log_append_prepare took. */
        if (ftruncate(active->fd, (off_t)l->pos) == 0)
            l->reserved = 0;
        segfile_unref(active);
    }
    log_append_unlock(l);
    mutex_lock(log_stripe(l));
    for (uint32_t i = 0; i < l->seg_count; i++) {
        struct segfile *f = seg_at(l, i)->file;

        seg_at(l, i)->file = NULL;
        if (f != NULL) {
            segfile_lru_remove(f);
            segfile_unref(f);
        }
    }
    mutex_unlock(log_stripe(l));
}

void log_close(struct log *l)
{
    struct log_store *s = l->store;
    bool last;

    CHECK(l->opens > 0);
    if (l->memory) {
        __atomic_add_fetch(&s->memory_appended, l->appended, __ATOMIC_RELAXED);
        l->opens--;
        log_unref(l);
        return;
    }
    mutex_lock(&s->table_mutex);
    last = --l->opens == 0;
    mutex_unlock(&s->table_mutex);
    if (last)
        close_files(l); /* who opened it meanwhile opens its files anew */
    log_unref(l);
}

void log_delete(struct log *l)
{
    struct log_store *s = l->store;

    CHECK(l->opens > 0);
    if (l->memory) {
        log_close(l);
        return;
    }
    mutex_lock(&s->table_mutex);
    l->opens--;
    if (!ALOAD(&l->deleted))
        bury(s, l);
    mutex_unlock(&s->table_mutex);
    log_unref(l);
}

void log_store_set_opened(struct log_store *s, void (*fn)(void *arg, struct log *l, uint64_t log_id), void *arg)
{
    mutex_lock(&s->table_mutex);
    s->opened = fn;
    s->opened_arg = arg;
    mutex_unlock(&s->table_mutex);
}

void log_store_each(struct log_store *s, void (*fn)(void *arg, const char *dir, uint64_t log_id), void *arg)
{
    mutex_lock(&s->table_mutex);
    for (uint32_t i = 0; i < s->table_size; i++) {
        for (struct log *l = s->table[i]; l != NULL; l = l->table_next)
            fn(arg, l->dir, l->log_id);
    }
    mutex_unlock(&s->table_mutex);
}

void log_store_sweep(struct log_store *s, bool (*keep)(void *arg, const char *dir, uint64_t log_id), void *arg)
{
    mutex_lock(&s->table_mutex);
    for (uint32_t i = 0; i < s->table_size; i++) {
        for (struct log *l = s->table[i], *next; l != NULL; l = next) {
            next = l->table_next;
            if (l->opens > 0 || keep(arg, l->dir, l->log_id))
                continue;
            diag_info("a log of nothing that exists; moved to trash/", "log=\"%s\"", l->dir);
            bury(s, l);
        }
    }
    mutex_unlock(&s->table_mutex);
}

int log_touch(struct log *l)
{
    struct mutex *m;
    int err;

    if (GM_LIKELY(ALOAD(&l->ready)))
        return ALOAD(&l->failed);
    m = &l->store->recover_mutex[l->stripe];
    mutex_lock(m);
    if (!l->ready) {
        err = log_recover_files(l);
        if (err != 0)
            log_fail(l, err, "recovery", l->end);
        ASTORE(&l->ready, true);
    }
    mutex_unlock(m);
    return ALOAD(&l->failed);
}

int log_recover(struct log *l)
{
    return log_touch(l);
}

bool log_is_ready(const struct log *l)
{
    return ALOAD(&l->ready);
}

/* ---- state ---------------------------------------------------------------------------------------------------------------- */

static void touch_const(const struct log *l)
{
    if (GM_UNLIKELY(!ALOAD(&l->ready)))
        log_touch((struct log *)l); /* the state it hides is not the caller's to see changed */
}

int64_t log_start(const struct log *l)
{
    touch_const(l);
    return ALOAD(&l->start);
}

int64_t log_end(const struct log *l)
{
    touch_const(l);
    return ALOAD(&l->end);
}

int64_t log_durable(const struct log *l)
{
    touch_const(l);
    return l->memory ? ALOAD(&l->end) : ALOAD(&l->durable);
}

uint64_t log_bytes(const struct log *l)
{
    touch_const(l);
    return ALOADX(&l->sealed_bytes) + ALOADX(&l->pos);
}

int32_t log_epoch(const struct log *l)
{
    touch_const(l);
    return ALOADX(&l->epoch);
}

void log_set_epoch(struct log *l, int32_t epoch)
{
    touch_const(l);
    ASTOREX(&l->epoch, epoch);
}

int64_t log_last_timestamp(const struct log *l)
{
    touch_const(l);
    return ALOADX(&l->last_ts);
}

int log_failed(const struct log *l)
{
    int err = ALOAD(&l->failed);

    return err != 0 || l->memory ? err : ALOAD(&l->store->health);
}

const char *log_dir(const struct log *l)
{
    return l->dir;
}

struct log_store *log_store_of(const struct log *l)
{
    return l->store;
}
