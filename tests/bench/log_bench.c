/* bench-log [DIR]: what appending, syncing and recovering cost, without a server. Prints one line a measure. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/log.h"

static struct log_store_options opt = {.segment_bytes = 64 << 20, .sync_interval_ms = 1000};

static struct log_store *open_store(void)
{
    struct log_store *s = NULL;
    int err = log_store_open(&opt, NULL, &s);

    if (err != 0) {
        fprintf(stderr, "log_store_open: %s\n", err_text(err));
        exit(1);
    }
    return s;
}

static struct log *open_log(struct log_store *s, const char *dir)
{
    struct log *l = NULL;

    log_open(s, &(struct log_options){.kind = LOG_MAIN, .dir = dir, .log_id = 1}, &l);
    CHECK(l != NULL);
    return l;
}

/* One record of `size` bytes a batch. `pause` every so many appends, as a loop turn would. */
static void append(struct log *l, struct batch_builder *b, unsigned n, size_t size, unsigned pause)
{
    static uint8_t value[1 << 20];
    int64_t base;

    for (unsigned i = 0; i < n; i++) {
        batch_begin(b, 1700000000000);
        batch_add(b, 1700000000000, slice_of("\x14\x00key:000000000", 15), slice_of(value, size));
        CHECK(log_append(l, b, &base) == 0);
        if (pause != 0 && i % pause == 0)
            usleep(50);
    }
}

static void build_only(struct batch_builder *b, unsigned n, size_t size)
{
    static uint8_t value[1 << 16];

    for (unsigned i = 0; i < n; i++) {
        batch_begin(b, 1700000000000);
        batch_add(b, 1700000000000, slice_of("\x14\x00key:000000000", 15), slice_of(value, size));
        batch_finish(b);
    }
}

static double thread_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void report(const char *what, double us, unsigned n)
{
    printf("%-56s %8.0f ns\n", what, us * 1000 / n);
}

static void appends(struct batch_builder *b)
{
    struct log_store *s = open_store();
    struct log *l = open_log(s, "p-0001/main");
    struct log_store_stats st;
    double at;

    at = thread_us();
    build_only(b, 1000000, 64);
    report("build a batch of one 64 B record", thread_us() - at, 1000000);
    at = thread_us();
    append(l, b, 60, 64, 0);
    report("cold append (64 B record)", thread_us() - at, 60);
    append(l, b, 1000, 64, 10);
    at = thread_us();
    append(l, b, 200000, 64, 0);
    report("hot append, flat out (64 B record, building it included)", thread_us() - at, 200000);
    at = 0;
    for (unsigned turn = 0; turn < 3000; turn++) {
        double began = thread_us();

        append(l, b, 64, 64, 0);
        at += thread_us() - began;
        usleep(50);
    }
    report("hot append, 64 a turn, sleeping in between", at, 192000);
    log_store_stats(s, &st);
    printf("%-56s %8llu of 393060\n", "appends that found no faulted window", (unsigned long long)st.unprefaulted);
    at = thread_us();
    append(l, b, 2000, 65536, 0);
    report("append of 64 KiB", thread_us() - at, 2000);
    log_close(l);
    log_store_close(s);
}

static void rounds(struct batch_builder *b, unsigned logs)
{
    struct log_store *s;
    struct log **l = mem_calloc(logs, sizeof(*l));
    uint64_t at, best = UINT64_MAX, worst = 0;
    char dir[64];

    opt.sync_interval_ms = 3600000;
    s = open_store();
    for (unsigned i = 0; i < logs; i++) {
        snprintf(dir, sizeof(dir), "p-%04u/queue/%u", i % 32, i);
        l[i] = open_log(s, dir);
    }
    for (unsigned round = 0; round < 6; round++) {
        for (unsigned i = 0; i < logs; i++)
            append(l[i], b, 1, 64, 0);
        at = clock_mono_us();
        CHECK(log_store_sync(s) == 0);
        at = clock_mono_us() - at;
        if (round == 0)
            continue; /* new names */
        best = MIN_OF(best, at);
        worst = MAX_OF(worst, at);
    }
    printf("sync round over %u dirty logs %*s %8.1f to %.1f ms\n", logs, logs < 100 ? 24 : 22, "", (double)best / 1000, (double)worst / 1000);
    for (unsigned i = 0; i < logs; i++)
        log_close(l[i]);
    log_store_close(s);
    mem_free(l);
}

static void recovery(struct batch_builder *b, size_t size)
{
    const unsigned mb = 512;
    struct log_store *s;
    struct log *l;
    int status;
    uint64_t at;
    double cpu;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        opt.segment_bytes = 1 << 30;
        s = open_store();
        append(open_log(s, "p-0001/main"), b, (unsigned)(mb * 1048576ul / (size + 90)), size, 0);
        raise(SIGKILL);
    }
    waitpid(pid, &status, 0);
    s = open_store();
    l = open_log(s, "p-0001/main");
    at = clock_mono_us();
    cpu = thread_us();
    CHECK(log_recover(l) == 0);
    printf("recovery, records of %5zu B %29s %8.0f MB/s (CPU: %.0f)\n", size, "", (double)log_bytes(l) / (double)(clock_mono_us() - at),
           (double)log_bytes(l) / (thread_us() - cpu));
    log_delete(l);
    log_store_close(s);
}

/* ---- ten thousand logs (rule 11, P19) ------------------------------------------------------------------------------------------- */

#define MANY 10000

static struct log *many[MANY];

static void open_many(struct log_store *s)
{
    char dir[64];

    for (int i = 0; i < MANY; i++) {
        snprintf(dir, sizeof(dir), "p-%04d/topic/orders-%d", i % 32, i);
        log_open(s, &(struct log_options){.kind = LOG_TOPIC, .dir = dir, .log_id = (uint64_t)i + 1}, &many[i]);
        CHECK(many[i] != NULL);
    }
}

static void write_many_and_die(struct batch_builder *b)
{
    struct log_store *s = open_store();
    size_t before = mem_allocated();
    uint64_t at = clock_mono_us();

    open_many(s);
    printf("%d logs declared: %zu bytes and %.1f us each\n", MANY, (mem_allocated() - before) / MANY, (double)(clock_mono_us() - at) / MANY);
    at = clock_mono_us();
    for (int i = 0; i < MANY; i++)
        append(many[i], b, 1, 50, 0);
    printf("first append: %.1f us each\n", (double)(clock_mono_us() - at) / MANY);
    at = clock_mono_us();
    CHECK(log_store_sync(s) == 0);
    printf("a round over %d new logs: %.1f ms\n", MANY, (double)(clock_mono_us() - at) / 1000);
    for (int i = 0; i < 1000; i++)
        append(many[i], b, 1, 50, 0);
    at = clock_mono_us();
    CHECK(log_store_sync(s) == 0);
    printf("a round over 1000 dirty logs: %.1f ms\n", (double)(clock_mono_us() - at) / 1000);
    fflush(NULL);
    raise(SIGKILL);
}

static void many_logs(struct batch_builder *b)
{
    struct log_store *s;
    size_t before;
    uint64_t at;
    int status;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    if (pid == 0)
        write_many_and_die(b);
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    at = clock_mono_us();
    s = open_store();
    open_many(s);
    append(many[4711], b, 1, 50, 0);
    printf("first write after a kill with %d logs: %.1f ms\n", MANY, (double)(clock_mono_us() - at) / 1000);
    at = clock_mono_us();
    for (int i = 0; i < MANY; i++)
        CHECK(log_recover(many[i]) == 0);
    printf("recovering them all: %.1f us each\n", (double)(clock_mono_us() - at) / MANY);
    for (int i = 0; i < MANY; i++)
        log_close(many[i]);
    at = clock_mono_us();
    log_store_close(s);
    printf("clean stop: %.1f ms\n", (double)(clock_mono_us() - at) / 1000);
    before = mem_allocated();
    at = clock_mono_us();
    s = open_store();
    open_many(s);
    printf("clean start with %d logs: %.1f ms, %zu bytes a log\n", MANY, (double)(clock_mono_us() - at) / 1000, (mem_allocated() - before) / MANY);
    for (int i = 0; i < MANY; i++)
        log_close(many[i]);
    log_store_close(s);
}

int main(int argc, char **argv)
{
    char dir[256];
    struct batch_builder b = {0};

    snprintf(dir, sizeof(dir), "%s/gomsg-bench-XXXXXX", argc > 1 ? argv[1] : "/tmp");
    CHECK(mkdtemp(dir) != NULL);
    opt.data_dir = dir;
    appends(&b);
    rounds(&b, 3);
    rounds(&b, 32);
    rounds(&b, 1000);
    recovery(&b, 64);
    recovery(&b, 1024);
    recovery(&b, 65536);
    many_logs(&b);
    batch_builder_fini(&b);
    CHECK(file_remove_tree(dir) == 0);
    return 0;
}
