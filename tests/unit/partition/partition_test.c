#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "partition/private.h"
#include "rig.h"

static void fill(struct rig *r, int n, const char *tag)
{
    char k[40], v[60];

    for (int i = 0; i < n; i++) {
        snprintf(k, sizeof(k), "%s:%d", tag, i);
        snprintf(v, sizeof(v), "value of %s %d", tag, i);
        cr_assert_eq(rig_set(r, k, v), 0);
    }
}

Test(partition, what_was_written_is_there_after_a_clean_stop)
{
    struct rig r;
    uint64_t state;

    rig_init(&r, 8);
    rig_open(&r);
    cr_assert_str_eq(rig_get(&r, "a:1"), "");
    fill(&r, 2000, "a");
    state = rig_state(&r);
    rig_close(&r);
    rig_open(&r);
    cr_assert_eq(rig_state(&r), state);
    cr_assert_str_eq(rig_get(&r, "a:1999"), "value of a 1999");
    rig_close(&r);
    rig_fini(&r);
}

Test(partition, an_idle_node_makes_no_files_of_partitions)
{
    struct rig r;
    DIR *d;
    struct dirent *de;

    rig_init(&r, 32);
    rig_open(&r);
    cr_assert_str_eq(rig_get(&r, "k"), "");
    rig_close(&r);
    d = opendir(r.dir);
    while ((de = readdir(d)) != NULL)
        cr_assert_neq(strncmp(de->d_name, "p-", 2), 0, "%s", de->d_name);
    closedir(d);
    rig_fini(&r);
}

static void write_and_report(struct rig *r, int out)
{
    uint64_t state;

    fill(r, 1000, "b");
    cr_assert_eq(rig_set_all(r, 4, "all"), 0);
    state = rig_state(r);
    CHECK(write(out, &state, sizeof(state)) == sizeof(state));
}

Test(partition, what_was_written_is_there_after_a_kill)
{
    struct rig r;
    uint64_t state = 0;

    rig_init(&r, 4);
    cr_assert_eq(rig_crash(&r, write_and_report, &state, sizeof(state)), sizeof(state));
    rig_open(&r);
    cr_assert_eq(rig_state(&r), state);
    rig_close(&r);
    rig_fini(&r);
}

/* ---- several partitions (rule 5) ------------------------------------------------------------------------------------------ */

static void set_all_until_killed(struct rig *r, int out)
{
    char v[20];

    for (int i = 1; i < 100; i++) {
        snprintf(v, sizeof(v), "round %d", i);
        CHECK(rig_set_all(r, 5, v) == 0);
        CHECK(write(out, &i, sizeof(i)) == sizeof(i));
        /* One partition is ahead of the others now and then. */
        if (i % 3 == 0)
            CHECK(rig_set(r, "lonely", v) == 0);
    }
}

Test(set, a_kill_between_any_two_appends_leaves_all_or_nothing, .timeout = 120)
{
    for (int at = 1; at <= 24; at++) {
        struct rig r;
        char failpoint[40];
        const char *first;
        int acked[100] = {0}, n, last;

        rig_init(&r, 5);
        snprintf(failpoint, sizeof(failpoint), "append:%d:kill", at);
        r.so.failpoint = failpoint;
        n = (int)(rig_crash(&r, set_all_until_killed, acked, sizeof(acked)) / sizeof(int));
        last = n == 0 ? 0 : acked[n - 1];
        cr_assert_lt(last, 10, "the failpoint was not reached");
        r.so.failpoint = NULL;
        rig_open(&r);
        first = rig_get(&r, rig_key_in(&r, 0));
        for (uint32_t p = 1; p < 5; p++)
            cr_assert_str_eq(rig_get(&r, rig_key_in(&r, p)), first, "killed at append %d: partition %u", at, p);
        /* What was acknowledged is there; the one that was cut may be there, whole. */
        cr_assert_geq(*first == '\0' ? 0 : atoi(first + 6), last, "killed at append %d: %s after ack of %d", at, first, last);
        cr_assert_leq(*first == '\0' ? 0 : atoi(first + 6), last + 1);
        /* And the logs go on from there. */
        cr_assert_eq(rig_set_all(&r, 5, "after"), 0);
        rig_close(&r);
        rig_open(&r);
        cr_assert_str_eq(rig_get(&r, rig_key_in(&r, 4)), "after");
        rig_close(&r);
        rig_fini(&r);
    }
}

static int set_two(struct rig *r, const char *first, const char *last, const char *value)
{
    struct partition_guard guards[2];
    uint32_t indexes[2] = {0, r->po.count - 1};
    int err = partition_enter_set(r->ps, indexes, 2, 0, NULL, guards);

    if (err != 0)
        return err;
    kv_string_set(&guards[0].kv, slice_str(first), slice_str(value), 0);
    kv_string_set(&guards[1].kv, slice_str(last), slice_str(value), 0);
    return partition_leave_set(r->ps, guards, 2);
}

/* Many commands over the first and the last log, while a round takes the positions of all in between. */
static void set_two_forever(struct rig *r, int out)
{
    char v[20], first[40], last[40], between[14][40];
    uint64_t begun = clock_mono_us();

    strcpy(first, rig_key_in(r, 0));
    strcpy(last, rig_key_in(r, r->po.count - 1));
    for (uint32_t p = 1; p < r->po.count - 1; p++)
        strcpy(between[p - 1], rig_key_in(r, p));
    for (int i = 1; clock_mono_us() - begun < 60000; i++) {
        int err;

        snprintf(v, sizeof(v), "round %d", i);
        err = set_two(r, first, last, v);
        CHECK(err == 0 || err == ERR_BUSY);
        for (uint32_t p = 1; i % 40 == 0 && p < r->po.count - 1; p++)
            CHECK(rig_set(r, between[p - 1], v) == 0);
    }
    CHECK(write(out, &begun, 1) == 1);
}

Test(set, a_power_cut_leaves_all_or_nothing_since_the_marks_are_one_cut, .timeout = 120)
{
    static const uint8_t another_boot[16] = "another boot id";
    int advanced = 0;

    for (int round = 0; round < 5; round++) {
        struct rig r;
        const char *first;
        char byte;

        rig_init(&r, 16);
        r.so.sync_interval_ms = 1; /* rounds while commands run */
        cr_assert_eq(rig_crash(&r, set_two_forever, &byte, 1), 1);
        /* As after a power cut, everything above the sync marks is cut off (rule 4). */
        r.so.boot_id = another_boot;
        rig_open(&r);
        first = rig_get(&r, rig_key_in(&r, 0));
        cr_assert_str_eq(rig_get(&r, rig_key_in(&r, 15)), first);
        advanced += *first != '\0';
        rig_close(&r);
        rig_fini(&r);
    }
    cr_assert_gt(advanced, 0, "no round was ever finished: nothing was tested");
}

struct syncer {
    struct rig *r;
    bool done; /* atomic */
};

static void *sync_once(void *arg)
{
    struct syncer *s = arg;

    cr_assert_eq(log_store_sync(s->r->store), 0);
    __atomic_store_n(&s->done, true, __ATOMIC_RELEASE);
    return NULL;
}

Test(set, no_round_takes_its_positions_while_a_command_is_under_way)
{
    struct rig r;
    struct partition_guard guards[3], one;
    uint32_t indexes[3] = {0, 1, 2};
    struct syncer s = {.r = &r};
    pthread_t thread;

    rig_init(&r, 4);
    r.so.sync_interval_ms = 100000;
    rig_open(&r);
    cr_assert_eq(rig_set_all(&r, 4, "v"), 0);
    cr_assert_eq(partition_enter_set(r.ps, indexes, 3, 0, NULL, guards), 0);
    for (uint32_t p = 0; p < 3; p++)
        kv_string_set(&guards[p].kv, slice_str(rig_key_in(&r, p)), slice_str("w"), 0);
    cr_assert_eq(pthread_create(&thread, NULL, sync_once, &s), 0);
    usleep(100000);
    cr_assert_not(__atomic_load_n(&s.done, __ATOMIC_ACQUIRE));
    cr_assert_eq(partition_leave_set(r.ps, guards, 3), 0);
    pthread_join(thread, NULL);
    cr_assert(s.done);
    for (uint32_t p = 0; p < 4; p++)
        cr_assert_eq(log_durable(partition_main_log(partitions_get(r.ps, p))), log_end(partition_main_log(partitions_get(r.ps, p))));
    /* A command in one partition holds nothing up. */
    cr_assert_eq(partition_enter(partitions_get(r.ps, 0), 0, NULL, &one), 0);
    cr_assert_eq(log_store_sync(r.store), 0);
    cr_assert_eq(partition_leave(&one), 0);
    rig_close(&r);
    rig_fini(&r);
}

static void wait_open(struct rig *r)
{
    for (uint32_t i = 0; i < r->po.count; i++) {
        struct partition *p = partitions_get(r->ps, i);

        for (int n = 0; n < 5000 && partition_state(p) == PARTITION_RECOVERING; n++)
            usleep(1000);
        cr_assert_eq(partition_state(p), PARTITION_OPEN);
    }
}

Test(set, a_full_disk_at_any_append_takes_the_command_back_whole, .timeout = 120)
{
    for (int at = 1; at <= 8; at++) {
        struct rig r;
        char failpoint[40];
        int done = 0, err = 0;
        uint64_t state;
        char v[20];

        rig_init(&r, 4);
        snprintf(failpoint, sizeof(failpoint), "append:%d:enospc", at);
        r.so.failpoint = failpoint;
        rig_open(&r);
        for (; err == 0 && done < 10; done++) {
            snprintf(v, sizeof(v), "round %d", done);
            err = rig_set_all(&r, 4, v);
        }
        cr_assert_eq(err, ERR_NOSPACE);
        done -= 2; /* the last that succeeded */
        wait_open(&r);
        snprintf(v, sizeof(v), "round %d", done);
        for (uint32_t p = 0; p < 4; p++)
            cr_assert_str_eq(rig_get(&r, rig_key_in(&r, p)), done < 0 ? "" : v);
        cr_assert_eq(rig_set_all(&r, 4, "again"), 0);
        state = rig_state(&r);
        rig_close(&r);
        r.so.failpoint = NULL;
        rig_open(&r);
        cr_assert_eq(rig_state(&r), state);
        rig_close(&r);
        rig_fini(&r);
    }
}

Test(partition, an_append_on_a_full_disk_is_taken_back_by_rebuilding)
{
    struct rig r;

    rig_init(&r, 1);
    r.so.failpoint = "append:3:enospc";
    rig_open(&r);
    cr_assert_eq(rig_set(&r, "k", "1"), 0);
    cr_assert_eq(rig_set(&r, "k", "2"), 0);
    cr_assert_eq(rig_set(&r, "k", "3"), ERR_NOSPACE);
    wait_open(&r);
    cr_assert_str_eq(rig_get(&r, "k"), "2");
    cr_assert_eq(rig_set(&r, "k", "4"), 0);
    rig_close(&r);
    rig_fini(&r);
}

/* Rule 10, where the clock of the leader before was ahead of this node's. */
Test(partition, a_new_leaders_time_does_not_go_back_behind_its_log)
{
    const int64_t ahead = clock_wall_ms() + 3600000;
    struct batch_builder b = {0};
    struct effects fx = {&b, ahead, false};
    struct partition_guard g;
    struct partition *p;
    struct slice batch;
    int64_t end;
    struct rig r;

    rig_init(&r, 1);
    r.po.clustered = true;
    rig_open(&r);
    p = partitions_get(r.ps, 0);
    partition_set_role(p, PARTITION_FOLLOWER, 1);
    batch_begin(&b, ahead);
    effect_add(&fx, EFFECT_KV_DEL, 0, slice_str("none"), SLICE_NONE);
    batch = batch_finish(&b);
    cr_assert_eq(partition_append_replica(p, batch.data, batch.len, &end), 0);
    batch_builder_fini(&b);
    partition_set_role(p, PARTITION_OPENING, 2);
    cr_assert_eq(partition_apply(p, end), 0);
    partition_set_role(p, PARTITION_LEADER, 2);

    cr_assert_eq(partition_enter(p, 0, NULL, &g), 0);
    cr_assert_geq(g.fx.now_ms, ahead);
    kv_string_set(&g.kv, slice_str("k"), slice_str("v"), 0);
    cr_assert_eq(partition_leave(&g), 0);
    cr_assert(g.wrote);
    cr_assert_eq(partition_guard_end(&g), end + 1);
    cr_assert_geq(log_last_timestamp(partition_main_log(p)), ahead);
    rig_close(&r);

    /* The same for a node alone, which finds such a log when it starts. */
    r.po.clustered = false;
    rig_open(&r);
    p = partitions_get(r.ps, 0);
    cr_assert_eq(partition_enter(p, 0, NULL, &g), 0);
    cr_assert_geq(g.fx.now_ms, ahead);
    cr_assert_eq(partition_leave(&g), 0);
    cr_assert_not(g.wrote);
    cr_assert_eq(partition_guard_end(&g), end + 1);
    rig_close(&r);
    rig_fini(&r);
}

Test(partition, an_unknown_kind_stops_its_partition_and_no_other)
{
    struct rig r;
    struct partition_guard g;
    struct partition_info info;

    rig_init(&r, 3);
    rig_open(&r);
    for (uint32_t p = 0; p < 3; p++)
        cr_assert_eq(rig_set(&r, rig_key_in(&r, p), "v"), 0);
    cr_assert_eq(partition_enter(partitions_get(r.ps, 1), 0, NULL, &g), 0);
    effect_add(&g.fx, (enum effect_kind)250, 0, slice_str("k"), slice_str("from the future"));
    cr_assert_eq(partition_leave(&g), 0);
    rig_close(&r);
    rig_open(&r);
    cr_assert_eq(partition_state(partitions_get(r.ps, 1)), PARTITION_FAILED);
    cr_assert_eq(partition_error(partitions_get(r.ps, 1)), ERR_LEVEL);
    cr_assert_eq(rig_set(&r, rig_key_in(&r, 1), "v"), ERR_LEVEL);
    cr_assert_eq(rig_set_all(&r, 3, "v"), ERR_LEVEL);
    cr_assert_str_eq(rig_get(&r, rig_key_in(&r, 0)), "v");
    cr_assert_str_eq(rig_get(&r, rig_key_in(&r, 2)), "v");
    partition_info(partitions_get(r.ps, 1), &info);
    cr_assert_eq(info.error, ERR_LEVEL);
    rig_close(&r);
    rig_fini(&r);
}

Test(partition, a_flipped_byte_stops_its_partition_and_no_other)
{
    struct rig r;
    char path[512], *dir;
    struct dirent *de;
    DIR *d;
    int fd = -1;
    char byte;

    rig_init(&r, 3);
    rig_open(&r);
    for (uint32_t p = 0; p < 3; p++)
        cr_assert_eq(rig_set(&r, rig_key_in(&r, p), "a value of some length"), 0);
    rig_close(&r);
    dir = mem_printf("%s/p-0001/main", r.dir);
    d = opendir(dir);
    cr_assert_not_null(d);
    while ((de = readdir(d)) != NULL && fd < 0) {
        if (strstr(de->d_name, ".log") == NULL)
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, de->d_name);
        fd = open(path, O_RDWR);
    }
    closedir(d);
    mem_free(dir);
    cr_assert_geq(fd, 0);
    cr_assert_eq(pread(fd, &byte, 1, 80), 1);
    byte ^= 4;
    cr_assert_eq(pwrite(fd, &byte, 1, 80), 1);
    close(fd);
    rig_open(&r);
    cr_assert_eq(partition_state(partitions_get(r.ps, 1)), PARTITION_FAILED);
    cr_assert_eq(partition_error(partitions_get(r.ps, 1)), ERR_CORRUPT);
    cr_assert_eq(rig_set(&r, rig_key_in(&r, 1), "v"), ERR_CORRUPT);
    cr_assert_str_eq(rig_get(&r, rig_key_in(&r, 0)), "a value of some length");
    cr_assert_eq(rig_set(&r, rig_key_in(&r, 2), "v"), 0);
    rig_close(&r);
    rig_fini(&r);
}

/* ---- snapshots --------------------------------------------------------------------------------------------------------------- */

struct waited {
    int err;
    bool done; /* atomic */
};

static void snapshot_done(void *arg, int err)
{
    struct waited *w = arg;

    w->err = err;
    __atomic_store_n(&w->done, true, __ATOMIC_RELEASE);
}

static int snapshot(struct rig *r, uint32_t index)
{
    struct waited w = {0, false};

    partitions_snapshot(r->ps, index, snapshot_done, &w);
    for (int n = 0; n < 20000 && !__atomic_load_n(&w.done, __ATOMIC_ACQUIRE); n++)
        usleep(1000);
    cr_assert(w.done);
    return w.err;
}

Test(snapshot, a_node_starts_from_it_and_the_log_behind_it_goes, .timeout = 60)
{
    struct rig r;
    uint64_t state;
    struct partition_info info;

    rig_init(&r, 2);
    r.po.snapshot_keep_bytes = 1;
    r.so.segment_bytes = 64 << 10;
    rig_open(&r);
    fill(&r, 8000, "c");
    cr_assert_eq(snapshot(&r, UINT32_MAX), 0);
    fill(&r, 8000, "c");
    fill(&r, 100, "d");
    cr_assert_eq(snapshot(&r, UINT32_MAX), 0);
    fill(&r, 100, "e");
    partition_info(partitions_get(r.ps, 0), &info);
    cr_assert_gt(info.snapshot_start, 0);
    cr_assert_gt(info.log_start, 0);
    cr_assert_leq(info.log_start, info.snapshot_start);
    state = rig_state(&r);
    rig_close(&r);
    rig_open(&r);
    cr_assert_eq(rig_state(&r), state);
    partition_info(partitions_get(r.ps, 0), &info);
    cr_assert_gt(info.snapshot_start, 0);
    cr_assert_gt(info.keys, 0);
    rig_close(&r);
    rig_fini(&r);
}

enum { COUNTERS = 40 };

struct told {
    uint32_t counter;
    int64_t value;
};

static void *snapshot_on_and_on(void *arg)
{
    struct rig *r = arg;

    for (;;) {
        struct waited w = {0, false};

        partitions_snapshot(r->ps, UINT32_MAX, snapshot_done, &w);
        while (!__atomic_load_n(&w.done, __ATOMIC_ACQUIRE))
            usleep(100);
    }
    return NULL;
}

static void count_until_killed(struct rig *r, int out)
{
    pthread_t thread;
    struct rand rand;

    rand_seed(&rand, clock_mono_ns());
    fill(r, 3000, "ballast");
    CHECK(pthread_create(&thread, NULL, snapshot_on_and_on, r) == 0);
    for (;;) {
        struct partition_guard g;
        struct told told = {(uint32_t)rand_below(&rand, COUNTERS), 0};
        char key[20];
        struct slice k = slice_of(key, (size_t)snprintf(key, sizeof(key), "counter:%u", told.counter));
        int err;

        err = partition_enter(partitions_get(r->ps, placement_of_key(k, r->po.count)), 0, NULL, &g);
        if (err == ERR_BUSY)
            continue;
        CHECK(err == 0);
        CHECK(kv_string_incr(&g.kv, k, 1, &told.value) == 0);
        CHECK(partition_leave(&g) == 0);
        CHECK(write(out, &told, sizeof(told)) == sizeof(told));
    }
}

Test(snapshot, a_kill_beside_snapshots_loses_nothing_that_was_answered, .timeout = 120)
{
    enum { TOLD_MAX = 100000 };
    struct told *told = mem_alloc(TOLD_MAX * sizeof(*told));
    int from_snapshot = 0;

    for (int round = 0; round < 8; round++) {
        struct rig r;
        int64_t last[COUNTERS] = {0};
        char failpoint[40];
        size_t n;

        rig_init(&r, 3);
        r.so.segment_bytes = 16 << 10;
        r.so.sync_interval_ms = 2;
        r.po.snapshot_keep_bytes = 1;
        snprintf(failpoint, sizeof(failpoint), "append:%d:kill", 6000 + round * 3001);
        r.so.failpoint = failpoint;
        n = rig_crash(&r, count_until_killed, told, TOLD_MAX * sizeof(*told)) / sizeof(*told);
        for (size_t i = 0; i < n; i++)
            last[told[i].counter] = told[i].value;
        r.so.failpoint = NULL;
        rig_open(&r);
        for (uint32_t i = 0; i < COUNTERS; i++) {
            char key[20];
            int64_t value;

            snprintf(key, sizeof(key), "counter:%u", i);
            value = atoll(rig_get(&r, key));
            cr_assert(value == last[i] || value == last[i] + 1, "round %d: %s is %lld, told %lld", round, key, (long long)value,
                      (long long)last[i]);
        }
        cr_assert_str_eq(rig_get(&r, "ballast:77"), "value of ballast 77");
        for (uint32_t p = 0; p < 3; p++) {
            struct partition_info info;

            partition_info(partitions_get(r.ps, p), &info);
            from_snapshot += info.snapshot_start > 0;
        }
        rig_close(&r);
        rig_fini(&r);
    }
    mem_free(told);
    cr_assert_gt(from_snapshot, 0, "no start used a snapshot: nothing was tested");
}

Test(snapshot, starts_by_itself_when_the_log_has_grown, .timeout = 60)
{
    struct rig r;
    struct partition_info info;

    rig_init(&r, 1);
    r.po.snapshot_log_bytes = 64 << 10;
    rig_open(&r);
    fill(&r, 3000, "f");
    for (int n = 0; n < 10000; n++) {
        partition_info(partitions_get(r.ps, 0), &info);
        if (info.snapshot_start > 0)
            break;
        usleep(1000);
    }
    cr_assert_gt(info.snapshot_start, 0);
    rig_close(&r);
    rig_fini(&r);
}

/* ---- expiry -------------------------------------------------------------------------------------------------------------------- */

Test(expiry, the_due_go_by_themselves_and_stay_gone, .timeout = 60)
{
    struct rig r;
    struct partition_guard g;
    struct partition_info info;
    char k[20];

    rig_init(&r, 1);
    rig_open(&r);
    for (int i = 0; i < 3000; i++) {
        snprintf(k, sizeof(k), "t:%d", i);
        cr_assert_eq(partition_enter(partitions_get(r.ps, 0), 0, NULL, &g), 0);
        kv_string_set(&g.kv, slice_str(k), slice_str("v"), i < 2900 ? g.kv.now_ms + 1 : 0);
        cr_assert_eq(partition_leave(&g), 0);
    }
    for (int n = 0; n < 30000; n++) {
        partition_info(partitions_get(r.ps, 0), &info);
        if (info.keys == 100)
            break;
        usleep(1000);
    }
    cr_assert_eq(info.keys, 100);
    rig_close(&r);
    rig_open(&r);
    partition_info(partitions_get(r.ps, 0), &info);
    cr_assert_eq(info.keys, 100);
    rig_close(&r);
    rig_fini(&r);
}

/* ---- parking -------------------------------------------------------------------------------------------------------------------- */

struct client {
    struct mail mail;
    struct partition_park park;
    struct rig *r;
    bool set;      /* enters all partitions */
    bool cancel;   /* goes away while it is parked */
    int first;     /* what the first try said */
    int entered;   /* atomic */
    int retried;   /* atomic */
    uint64_t took_us;
};

static void try_enter(struct client *c)
{
    struct partition_guard guards[4];
    uint32_t all[4] = {0, 1, 2, 3};
    uint64_t begun = clock_mono_us();
    int err;

    c->park.worker = worker_current();
    err = c->set ? partition_enter_set(c->r->ps, all, 4, 0, &c->park, guards)
                 : partition_enter(partitions_get(c->r->ps, 2), 0, &c->park, &guards[0]);
    c->took_us = clock_mono_us() - begun;
    if (c->first == 1)
        c->first = err;
    if (err == ERR_PARKED && c->cancel) {
        partition_park_cancel(&c->park);
        partition_park_cancel(&c->park);
    }
    if (err != 0)
        return;
    if (c->set)
        cr_assert_eq(partition_leave_set(c->r->ps, guards, 4), 0);
    else
        cr_assert_eq(partition_leave(&guards[0]), 0);
    __atomic_add_fetch(&c->entered, 1, __ATOMIC_RELEASE);
}

static void retry(struct worker *w, struct partition_park *park)
{
    struct client *c = CONTAINER_OF(park, struct client, park);

    cr_assert_eq(w, park->worker);
    __atomic_add_fetch(&c->retried, 1, __ATOMIC_RELEASE);
    try_enter(c);
}

static void deliver(struct worker *w, struct mail *m)
{
    struct client *c = CONTAINER_OF(m, struct client, mail);

    (void)w;
    c->first = 1;
    c->park.retry = retry;
    try_enter(c);
}

static void park_and_wake(bool set)
{
    struct rig r;
    struct client c[4];
    struct partition_guard g;

    memset(c, 0, sizeof(c));
    rig_init(&r, 4);
    rig_open(&r);
    partition_enter_background(partitions_get(r.ps, 2), 0, &g);
    for (int i = 0; i < 4; i++) {
        c[i].r = &r;
        c[i].set = set;
        c[i].cancel = i == 1;
        c[i].mail.deliver = deliver;
        worker_post(workers_get(r.ws, (unsigned)i % 2), &c[i].mail);
    }
    usleep(50000);
    cr_assert(partition_is_wanted(partitions_get(r.ps, 2)));
    for (int i = 0; i < 4; i++)
        cr_assert_eq(__atomic_load_n(&c[i].entered, __ATOMIC_ACQUIRE), 0);
    cr_assert_eq(partition_leave(&g), 0);
    for (int n = 0; n < 5000; n++) {
        int entered = 0;

        for (int i = 0; i < 4; i++)
            entered += __atomic_load_n(&c[i].entered, __ATOMIC_ACQUIRE);
        if (entered == 3)
            break;
        usleep(1000);
    }
    workers_stop(r.ws);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(c[i].entered, i == 1 ? 0 : 1, "client %d", i);
        cr_assert_eq(c[i].first, ERR_PARKED);
        cr_assert(i != 1 || c[i].retried == 0);
        cr_assert_not(partition_is_parked(&c[i].park));
    }
    cr_assert_not(partition_is_wanted(partitions_get(r.ps, 2)));
    partitions_free(r.ps);
    log_store_close(r.store);
    workers_free(r.ws);
    rig_fini(&r);
}

Test(parking, who_waits_too_long_is_parked_and_woken, .timeout = 60)
{
    park_and_wake(false);
}

Test(parking, the_same_for_sets, .timeout = 60)
{
    park_and_wake(true);
}

Test(parking, without_a_park_it_is_busy)
{
    struct rig r;
    struct partition_guard g, h;

    rig_init(&r, 1);
    rig_open(&r);
    partition_enter_background(partitions_get(r.ps, 0), 0, &g);
    cr_assert_eq(partition_enter(partitions_get(r.ps, 0), 0, NULL, &h), ERR_BUSY);
    cr_assert_eq(partition_leave(&g), 0);
    cr_assert_eq(partition_enter(partitions_get(r.ps, 0), 0, NULL, &h), 0);
    cr_assert_eq(partition_leave(&h), 0);
    rig_close(&r);
    rig_fini(&r);
}

Test(enter, without_contention_it_costs_next_to_nothing)
{
    enum { N = 200000 };
    struct rig r;
    struct partition_guard g;
    uint64_t begun, ns;

    rig_init(&r, 1);
    rig_open(&r);
    begun = clock_mono_ns();
    for (int i = 0; i < N; i++) {
        cr_assert_eq(partition_enter(partitions_get(r.ps, 0), 0, NULL, &g), 0);
        cr_assert_eq(partition_leave(&g), 0);
    }
    ns = (clock_mono_ns() - begun) / N;
    fprintf(stderr, "enter and leave: %llu ns\n", (unsigned long long)ns);
    /* Generous: the machine may be busy and instrumented. */
    cr_assert_lt(ns, 5000);
    rig_close(&r);
    rig_fini(&r);
}
