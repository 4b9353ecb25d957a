/* A log costs what it holds; a full disk is a clean error; readers need no lock. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "rig.h"

#define MANY 1000 /* bench-log does the same with ten thousand, and takes the times */

Test(cost, many_idle_logs_cost_little_memory_and_no_files)
{
    struct rig r;
    static struct log *l[MANY];
    struct log_store_stats st;
    char dir[64];
    size_t before, after;

    rig_init(&r);
    before = mem_allocated();
    for (int i = 0; i < MANY; i++) {
        snprintf(dir, sizeof(dir), "p-%04d/topic/orders-%d", i % 32, i);
        l[i] = rig_log(&r, LOG_TOPIC, dir, (uint64_t)i + 1);
    }
    after = mem_allocated();
#ifdef HAVE_JEMALLOC
    cr_assert_leq((after - before) / MANY, 512);
#endif
    log_store_stats(r.s, &st);
    cr_assert_eq(st.open_files, 0);
    for (int i = 0; i < MANY; i++)
        rig_append(&r, l[i], 1, 50);
    cr_assert_eq(log_store_sync(r.s), 0);
    for (int i = 0; i < MANY / 10; i++)
        rig_append(&r, l[i], 1, 50);
    cr_assert_eq(log_store_sync(r.s), 0);
    for (int i = 0; i < MANY; i++)
        log_close(l[i]);
    rig_close(&r);
    before = mem_allocated();
    rig_open(&r);
    for (int i = 0; i < MANY; i++) {
        snprintf(dir, sizeof(dir), "p-%04d/topic/orders-%d", i % 32, i);
        l[i] = rig_log(&r, LOG_TOPIC, dir, (uint64_t)i + 1);
        cr_assert_eq(log_end(l[i]), i < MANY / 10 ? 2 : 1);
    }
#ifdef HAVE_JEMALLOC
    cr_assert_leq((mem_allocated() - before) / MANY, 512);
#endif
    log_store_stats(r.s, &st);
    cr_assert_eq(st.open_files, 0);
    for (int i = 0; i < MANY; i++)
        log_close(l[i]);
    rig_fini(&r);
}

static void many_then_killed(struct rig *r)
{
    char dir[64];

    for (int i = 0; i < MANY; i++) {
        snprintf(dir, sizeof(dir), "p-%04d/topic/orders-%d", i % 32, i);
        rig_append(r, rig_log(r, LOG_TOPIC, dir, (uint64_t)i + 1), 1, 50);
    }
    log_store_sync(r->s);
}

/* Rule 11: only the log that is touched is scanned. */
Test(cost, killed_with_many_logs_the_first_write_looks_at_its_own_only)
{
    struct rig r;
    static struct log *l[MANY];
    char dir[64];
    struct log_store_stats st;

    rig_init(&r);
    rig_close(&r);
    rig_crash(&r, many_then_killed);
    rig_open(&r);
    for (int i = 0; i < MANY; i++) {
        snprintf(dir, sizeof(dir), "p-%04d/topic/orders-%d", i % 32, i);
        l[i] = rig_log(&r, LOG_TOPIC, dir, (uint64_t)i + 1);
    }
    rig_append(&r, l[471], 1, 50);
    log_store_stats(r.s, &st);
    cr_assert_leq(st.open_files, 1);
    cr_assert_eq(log_end(l[471]), 2);
    for (int i = 0; i < MANY; i++)
        cr_assert_eq(log_recover(l[i]), 0);
    for (int i = 0; i < MANY; i++)
        log_close(l[i]);
    rig_fini(&r);
}

Test(cost, a_hot_log_that_rests_keeps_little_of_its_window_mapped, .timeout = 60)
{
    enum { LOGS = 40 };
    struct rig r;
    struct log *l[LOGS];
    struct log_store_stats st;
    char dir[64];
    size_t awake, rest = 0;

    rig_init(&r);
    rig_close(&r);
    r.opt.hot_idle_s = 600;
    r.opt.segment_bytes = 64 << 20;
    rig_open(&r);
    for (int i = 0; i < LOGS; i++) {
        snprintf(dir, sizeof(dir), "p-%04d/main", i);
        l[i] = rig_log(&r, LOG_MAIN, dir, 1);
        rig_append(&r, l[i], 300, 100);
    }
    log_store_sync(r.s);
    awake = mem_rss();
    for (int i = 0; i < 300; i++) {
        rest = mem_rss();
        if (rest + LOGS * (64u << 10) < awake)
            break;
        usleep(100000);
    }
    cr_assert_lt(rest + LOGS * (64u << 10), awake, "RSS was %zu, is %zu", awake, rest);
    log_store_stats(r.s, &st);
    cr_assert_eq(st.hot_logs, LOGS, "none has cooled");
    for (int i = 0; i < LOGS; i++) {
        rig_append(&r, l[i], 2000, 100);
        cr_assert_eq(rig_check(l[i], 0, log_end(l[i])), log_end(l[i]));
        log_close(l[i]);
    }
    rig_fini(&r);
}

Test(cost, hot_logs_are_bounded_and_cool_when_idle, .timeout = 60)
{
    struct rig r;
    struct log *l[5];
    struct log_store_stats st;
    char dir[64];
    size_t rss;
    uint64_t most = 0;

    rig_init(&r);
    rig_close(&r);
    r.opt.hot_max = 3;
    r.opt.hot_idle_s = 2;
    r.opt.segment_bytes = 64 << 20;
    rig_open(&r);
    rss = mem_rss();
    for (int i = 0; i < 5; i++) {
        snprintf(dir, sizeof(dir), "p-%04d/main", i);
        l[i] = rig_log(&r, LOG_MAIN, dir, 1);
        rig_append(&r, l[i], 300, 100);
        log_store_stats(r.s, &st);
        cr_assert_leq(st.hot_logs, 3);
        most = st.hot_logs > most ? st.hot_logs : most;
    }
    cr_assert_gt(most, 0);
    for (int i = 0; i < 30; i++) { /* the last one takes the place of one that rests */
        usleep(100000);
        rig_append(&r, l[4], 100, 100);
    }
    log_store_sync(r.s);
    cr_assert_lt(mem_rss(), rss + (3u << 20), "RSS was %zu, is %zu", rss, mem_rss());
    for (int i = 0; i < 300; i++) {
        log_store_stats(r.s, &st);
        if (st.hot_logs == 0)
            break;
        usleep(100000);
    }
    cr_assert_eq(st.hot_logs, 0);
    cr_assert_lt(rig_size(rig_segment(&r, "p-0001/main", 0)), 300 * 200, "cut to its size");
    for (int i = 0; i < 5; i++) {
        rig_append(&r, l[i], 100, 100);
        cr_assert_eq(rig_check(l[i], 0, log_end(l[i])), log_end(l[i]));
        log_close(l[i]);
    }
    rig_fini(&r);
}

/* ---- a full disk --------------------------------------------------------------------------------------------------------- */

/* In a child with a mount namespace of its own: a file system of 16 MiB. */
static int fill_disk(const char *dir)
{
    struct rig r = {0};
    struct log *l, *m;
    int64_t base, end;
    int err = 0, n = 0;
    uint8_t value[1000] = {0};

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("none", dir, "tmpfs", 0, "size=16m") < 0)
        return 77;
    strcpy(r.dir, dir);
    r.opt = (struct log_store_options){.data_dir = r.dir, .segment_bytes = 64 << 20, .sync_interval_ms = 3600000};
    if (log_store_open(&r.opt, NULL, &r.s) != 0)
        return 1;
    log_open(r.s, &(struct log_options){.kind = LOG_MAIN, .dir = "p-0001/main", .log_id = 1}, &l);
    log_open(r.s, &(struct log_options){.kind = LOG_MAIN, .dir = "p-0002/main", .log_id = 1}, &m);
    while (err == 0 && n++ < 20000) {
        end = log_end(l);
        batch_begin(&r.b, 1);
        batch_add(&r.b, 1, slice_str("k"), slice_of(value, sizeof(value)));
        err = log_append(l, &r.b, &base);
    }
    if (err != ERR_NOSPACE || log_end(l) != end || end < 10000)
        return 2;
    if (log_store_may_grow(r.s) || log_failed(l) != 0)
        return 3;
    if (log_append_prepare(m, 1000) != ERR_NOSPACE)
        return 4;
    /* reads work; what is cut off makes room again */
    struct log_span span;
    if (log_read(l, end - 1, end, 100, false, &span) != 0 || span.next != end)
        return 5;
    log_span_release(&span);
    if (log_truncate(l, end - 500) != 0)
        return 6;
    batch_begin(&r.b, 1);
    batch_add(&r.b, 1, slice_str("k"), slice_of(value, sizeof(value)));
    if (log_append(l, &r.b, &base) != 0 || base != end - 500)
        return 7;
    end = log_end(l);
    if (log_store_sync(r.s) != 0)
        return 8;
    /* filled to the brim by somebody else: rounds find room in what the ledger wrote ahead, for a while, and then wait */
    int fd, rc = 0;
    char path[128];
    snprintf(path, sizeof(path), "%s/other", dir);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    while (write(fd, value, sizeof(value)) > 0)
        ;
    while (write(fd, value, 1) > 0)
        ;
    for (n = 0; rc == 0 && log_end(l) > 10; n++) {
        rc = log_truncate(l, log_end(l) - 1);
        while (write(fd, value, sizeof(value)) > 0) /* what was cut is taken too */
            ;
        if (rc == 0)
            rc = log_store_sync(r.s);
    }
    if (rc != ERR_NOSPACE || n < 100 || log_store_health(r.s) != 0 || log_failed(l) != 0)
        return 21;
    end = log_end(l);
    close(fd);
    unlink(path);
    if (log_store_sync(r.s) != 0)
        return 22;
    log_close(l);
    log_close(m);
    log_store_close(r.s);
    if (log_store_open(&r.opt, NULL, &r.s) != 0)
        return 9;
    log_open(r.s, &(struct log_options){.kind = LOG_MAIN, .dir = "p-0001/main", .log_id = 1}, &l);
    if (log_end(l) != end)
        return 10;
    log_close(l);
    log_store_close(r.s);
    return 0;
}

Test(cost, a_full_disk_is_a_clean_error)
{
    char dir[64] = "/tmp/gomsg-full-XXXXXX";
    int status;
    pid_t pid;

    cr_assert_not_null(mkdtemp(dir));
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        _exit(fill_disk(dir));
    waitpid(pid, &status, 0);
    cr_assert_eq(file_remove_tree(dir), 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        cr_skip("no right to mount a tmpfs");
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "step %d", WEXITSTATUS(status));
}

Test(cost, an_append_without_space_leaves_nothing)
{
    struct rig r;
    struct log *l;
    int64_t base;

    rig_init(&r);
    rig_close(&r);
    r.opt.failpoint = "append:3:enospc";
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    rig_append(&r, l, 2, 100);
    batch_begin(&r.b, 1);
    batch_add(&r.b, 1, slice_str("k"), slice_str("v"));
    cr_assert_eq(log_append(l, &r.b, &base), ERR_NOSPACE);
    cr_assert_eq(log_end(l), 2);
    rig_append(&r, l, 2, 100);
    cr_assert_eq(rig_check(l, 0, 4), 4);
    log_close(l);
    rig_fini(&r);
}

Test(cost, a_stopped_disk_below_its_reserve_refuses_growth)
{
    struct rig r;

    rig_init(&r);
    cr_assert(log_store_may_grow(r.s));
    rig_close(&r);
    r.opt.disk_reserve_bytes = UINT64_MAX;
    rig_open(&r);
    cr_assert_not(log_store_may_grow(r.s));
    rig_fini(&r);
}

/* ---- readers beside the writer ---------------------------------------------------------------------------------------------- */

struct race {
    struct rig *r;
    struct log *l;
    int stop;
    int64_t checked[3];
};

static void *race_reader(void *arg)
{
    struct race *race = ((void **)arg)[0];
    int64_t *checked = ((void **)arg)[1];
    int64_t at = 0;

    while (!__atomic_load_n(&race->stop, __ATOMIC_ACQUIRE) || at < log_end(race->l)) {
        int64_t end = log_end(race->l);

        if (end > at) {
            *checked += rig_check(race->l, at, end);
            at = end;
        }
    }
    return NULL;
}

static void *race_syncer(void *arg)
{
    struct race *race = arg;

    while (!__atomic_load_n(&race->stop, __ATOMIC_ACQUIRE)) {
        log_store_sync(race->r->s);
        usleep(1000);
    }
    return NULL;
}

Test(cost, readers_see_whole_batches_while_it_is_written_rolled_and_synced, .timeout = 120)
{
    struct rig r;
    struct race race = {.r = &r};
    pthread_t t[3], syncer;
    void *args[3][2];
    struct log_store_stats st;

    rig_init(&r);
    rig_close(&r);
    r.opt.segment_bytes = 256 << 10;
    r.opt.fd_max = 8;
    rig_open(&r);
    race.l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 1);
    for (int i = 0; i < 3; i++) {
        args[i][0] = &race;
        args[i][1] = &race.checked[i];
        pthread_create(&t[i], NULL, race_reader, args[i]);
    }
    pthread_create(&syncer, NULL, race_syncer, &race);
    for (int i = 0; i < 60; i++) {
        rig_append(&r, race.l, 500, 100);
        rig_append(&r, race.l, 1, 20000);
        usleep(500);
    }
    __atomic_store_n(&race.stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 3; i++) {
        pthread_join(t[i], NULL);
        cr_assert_eq(race.checked[i], 60 * 501);
    }
    pthread_join(syncer, NULL);
    log_store_stats(r.s, &st);
    cr_assert_eq(st.hot_logs, 1);
    log_close(race.l);
    rig_fini(&r);
}

Test(cost, prepared_space_is_there)
{
    struct rig r;
    struct log *l;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    for (int i = 0; i < 300; i++) { /* cold, hot, and over a roll */
        cr_assert_eq(log_append_prepare(l, 9000), 0);
        rig_append(&r, l, 1, 8000);
    }
    cr_assert_eq(rig_check(l, 0, 300), 300);
    log_close(l);
    rig_close(&r);
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    cr_assert_eq(rig_check(l, 0, 300), 300);
    log_close(l);
    rig_fini(&r);
}

/* ---- the walker ----------------------------------------------------------------------------------------------------------------- */

static int count_batches(void *arg, const struct log_walk_batch *b)
{
    int *n = arg;

    n[b->defect != NULL]++;
    return 0;
}

Test(cost, the_walker_tells_sound_batches_from_defects)
{
    struct rig r;
    struct log *l;
    int n[2] = {0, 0};
    char path[256];
    uint64_t size;

    rig_init(&r);
    l = rig_log(&r, LOG_TOPIC, "p-0001/topic/a-0", 1);
    rig_append(&r, l, 30, 300);
    log_close(l);
    rig_close(&r);
    strcpy(path, rig_segment(&r, "p-0001/topic/a-0", 0));
    cr_assert_eq(log_file_walk(path, true, count_batches, n), 0);
    cr_assert_eq(n[0], 30);
    size = rig_size(path) / 30;
    rig_flip(path, 10 * size + 80);
    n[0] = 0;
    cr_assert_eq(log_file_walk(path, true, count_batches, n), ERR_CORRUPT);
    cr_assert_eq(n[0], 29);
    cr_assert_eq(n[1], 1);
    cr_assert_eq(truncate(path, (off_t)(29 * size + 20)), 0);
    n[0] = n[1] = 0;
    cr_assert_eq(log_file_walk(path, false, count_batches, n), ERR_CORRUPT);
    cr_assert_eq(n[0], 29);
    cr_assert_eq(n[1], 1);
    cr_assert_eq(log_file_walk("/nonexistent/file", false, count_batches, n), ERR_NOT_FOUND);
    rig_fini(&r);
}
