/* A partition by itself, over a real log: nanoseconds of a GET and a SET with entering and leaving, recovery in MB of log a second, and what a background snapshot costs a
 * busy thread (longest hold of the lock, latencies of SET with and without).
 *
 *     bench-partition-engine [keys, default 1000000] [set]
 *
 * With `set` the keys are members of one set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "rig.h"

static uint64_t n;
static bool one_set;

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Of all threads: what recovery takes, which runs in the background. */
static uint64_t process_cpu_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void enter(struct rig *r, struct partition_guard *g)
{
    int err;

    do {
        err = partition_enter(partitions_get(r->ps, 0), 0, NULL, g);
    } while (err == ERR_BUSY);
    CHECK(err == 0);
}

static void put(struct rig *r, uint64_t i)
{
    static const uint8_t value[32] = "thirty-two bytes of a value.....";
    struct partition_guard g;
    char k[32];
    struct slice key = slice_of(k, (size_t)snprintf(k, sizeof(k), "key:%012llu", (unsigned long long)i));
    uint64_t added;

    enter(r, &g);
    if (one_set)
        CHECK(kv_set_add(&g.kv, slice_str("set"), &key, 1, &added) == 0);
    else
        kv_string_set(&g.kv, key, slice_of(value, 32), 0);
    CHECK(partition_leave(&g) == 0);
}

static void fill(struct rig *r, int out)
{
    uint64_t begun = cpu_ns();

    for (uint64_t i = 0; i < n; i++)
        put(r, i);
    begun = (cpu_ns() - begun) / n;
    CHECK(write(out, &begun, sizeof(begun)) == sizeof(begun));
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

struct waited {
    int err;
    bool done;
};

static void snapshot_done(void *arg, int err)
{
    struct waited *w = arg;

    w->err = err;
    __atomic_store_n(&w->done, true, __ATOMIC_RELEASE);
}

/* SETs at random keys until a snapshot is done, or for as many rounds as given. */
static void latencies(struct rig *r, const char *what, const struct waited *w, uint64_t rounds)
{
    enum { MAX = 4000000 };
    uint64_t *ns = mem_alloc(MAX * sizeof(*ns)), count = 0;
    struct rand rand;

    rand_seed(&rand, 5);
    while (count < MAX && (w != NULL ? !__atomic_load_n(&w->done, __ATOMIC_ACQUIRE) : count < rounds)) {
        uint64_t begun = clock_mono_ns();

        put(r, rand_below(&rand, n));
        ns[count++] = clock_mono_ns() - begun;
    }
    while (w != NULL && !__atomic_load_n(&w->done, __ATOMIC_ACQUIRE))
        put(r, rand_below(&rand, n));
    qsort(ns, count, sizeof(*ns), compare);
    printf("%-24s %8llu x  p50 %llu ns  p99 %llu  p99.9 %llu  max %llu us\n", what, (unsigned long long)count,
           (unsigned long long)ns[count / 2], (unsigned long long)ns[count * 99 / 100], (unsigned long long)ns[count * 999 / 1000],
           (unsigned long long)ns[count - 1] / 1000);
    mem_free(ns);
}

int main(int argc, char **argv)
{
    struct rig r;
    struct partition_info info;
    struct partition_guard g;
    struct waited w = {0, false};
    uint64_t begun, cpu_ms, set_ns = 0;
    double us;

    n = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    one_set = argc > 2 && strcmp(argv[2], "set") == 0;
    if (n == 0)
        return 2;
    rig_init(&r, 1);
    r.so.sync_interval_ms = 1000;
    r.so.segment_bytes = 64 << 20;
    r.po.snapshot_log_bytes = UINT64_C(1) << 50; /* only when asked for */
    CHECK(rig_crash(&r, fill, &set_ns, sizeof(set_ns)) == sizeof(set_ns));
    printf("%-24s %6llu ns of CPU, entered, appended and left\n", one_set ? "SADD" : "SET", (unsigned long long)set_ns);

    begun = clock_mono_us();
    cpu_ms = process_cpu_ms();
    rig_open(&r);
    us = (double)(clock_mono_us() - begun);
    cpu_ms = process_cpu_ms() - cpu_ms;
    partition_info(partitions_get(r.ps, 0), &info);
    printf("%-24s %llu MB of log in %.0f ms: %.0f MB/s, %.0f ns a record; %llu ms of CPU\n", "recovery after a kill",
           (unsigned long long)info.log_bytes >> 20, us / 1000, (double)info.log_bytes / us, us * 1000 / (double)n,
           (unsigned long long)cpu_ms);
    begun = cpu_ns();
    for (int i = 0; i < 1000000; i++) {
        enter(&r, &g);
        CHECK(partition_leave(&g) == 0);
    }
    printf("%-24s %6llu ns\n", "enter and leave", (unsigned long long)(cpu_ns() - begun) / 1000000);
    latencies(&r, "alone", NULL, 300000);
    partitions_snapshot(r.ps, 0, snapshot_done, &w);
    latencies(&r, "beside a snapshot", &w, 0);
    partition_info(partitions_get(r.ps, 0), &info);
    printf("%-24s error %d, longest hold %llu us, %llu of CPU\n", "snapshot", w.err, (unsigned long long)info.snapshot_hold_max_us,
           (unsigned long long)info.snapshot_hold_cpu_max_us);
    /* Another one while nobody writes, so that the start reads it and nothing else. */
    w.done = false;
    partitions_snapshot(r.ps, 0, snapshot_done, &w);
    while (!__atomic_load_n(&w.done, __ATOMIC_ACQUIRE))
        usleep(1000);
    CHECK(w.err == 0);
    rig_close(&r);
    hash_seed((const uint8_t *)"another process."); /* has another seed: the keys come in no order that suits its table */
    begun = clock_mono_us();
    cpu_ms = process_cpu_ms();
    rig_open(&r);
    us = (double)(clock_mono_us() - begun);
    printf("%-24s %.0f ms, %.0f ns a key; %llu ms of CPU\n", "start from the snapshot", us / 1000, us * 1000 / (double)n,
           (unsigned long long)(process_cpu_ms() - cpu_ms));
    rig_close(&r);
    rig_fini(&r);
    return 0;
}
