/* stress-log [seconds]: writers, readers, sync rounds, retention, cooling and dropping at once, as a plain program so that ThreadSanitizer can watch
 * (Criterion prints nothing under it). Every batch read must be whole, in order and of its log. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mutex.h"
#include "base/rand.h"
#include "fake_workers.h"
#include "log/log.h"

#define LOGS 6
#define WRITERS 3
#define READERS 3
#define REPLICATED 2 /* the first logs */

static struct log_store *store;
static struct log *logs[LOGS];
static struct mutex owner[LOGS]; /* what serialises a log's appends */
static int stop;
static uint64_t appended, seen, committed, told;

static void append_one(struct batch_builder *b, struct rand *rnd, unsigned i)
{
    static const uint8_t filler[40000];
    struct log *l = logs[i];
    int64_t base, end = log_end(l);
    uint8_t key[9];
    size_t size = rand_below(rnd, 50) == 0 ? 20000 + rand_below(rnd, 20000) : rand_below(rnd, 300);

    be64_put(key, (uint64_t)end);
    key[8] = (uint8_t)i;
    batch_begin(b, end);
    batch_add(b, end, slice_of(key, sizeof(key)), slice_of(filler, size));
    if (rand_below(rnd, 8) == 0)
        CHECK(log_append_prepare(l, size + 200) == 0);
    CHECK(log_append(l, b, &base) == 0 && base == end);
    __atomic_add_fetch(&appended, 1, __ATOMIC_RELAXED);
}

static void retain(struct rand *rnd, unsigned i)
{
    struct log_segment_info segs[64];
    size_t n = log_segments(logs[i], segs, 64);

    if (n > 64)
        n = 64;
    if (n > 6)
        CHECK(log_advance_start(logs[i], segs[n - 6].base + 1) == 0);
    else if (n > 4 && rand_below(rnd, 2) == 0)
        CHECK(log_drop_segment(logs[i], segs[2].base) == 0);
}

static void *writer(void *arg)
{
    struct batch_builder b = {0};
    struct rand rnd;

    rand_seed(&rnd, (uintptr_t)arg);
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        unsigned i = (unsigned)rand_below(&rnd, LOGS);

        mutex_lock(&owner[i]);
        for (unsigned k = 0; k < 100; k++)
            append_one(&b, &rnd, i);
        if (rand_below(&rnd, 20) == 0)
            retain(&rnd, i);
        mutex_unlock(&owner[i]);
    }
    batch_builder_fini(&b);
    return NULL;
}

static void *reader(void *arg)
{
    struct rand rnd;

    rand_seed(&rnd, 77 + (uintptr_t)arg);
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        unsigned i = (unsigned)rand_below(&rnd, LOGS);
        int64_t start = log_start(logs[i]), end = log_end(logs[i]), offset, ts;
        struct log_cursor c;
        struct batch_header h;
        struct slice batch;
        int rc = 0;

        if (end == start)
            continue;
        log_cursor_init(&c, logs[i], start + (int64_t)rand_below(&rnd, (uint64_t)(end - start)), 30000);
        for (unsigned k = 0; k < 300 && (rc = log_cursor_next(&c, &h, &batch)) == 1; k++) {
            struct record_iter it;
            struct record r;

            record_iter_init(&it, &h, slice_of(batch.data + BATCH_HEADER_SIZE, batch.len - BATCH_HEADER_SIZE));
            CHECK(record_iter_next(&it, &r) == 1 && r.key.len == 9 && r.key.data[8] == i);
            CHECK((int64_t)be64_get(r.key.data) == h.base_offset);
            __atomic_add_fetch(&seen, 1, __ATOMIC_RELAXED);
        }
        CHECK(rc == 0 || rc == 1 || rc == ERR_OFFSET_RANGE); /* retention may pass a reader */
        log_cursor_fini(&c);
        rc = log_find_timestamp(logs[i], start, &offset, &ts);
        CHECK(rc == 0 || rc == ERR_NOT_FOUND || rc == ERR_OFFSET_RANGE);
    }
    return NULL;
}

static int waiting;
static bool lost;
static void on_done(struct log_commit *c, int err)
{
    (void)c;
    CHECK(err == 0 || err == ERR_NOT_LEADER);
    waiting = 0;
    lost = err != 0;
    committed += err == 0;
}

/* Two logs are replicated: this is what knows how far their followers are; now and then leadership is lost. */
static void *replicator(void *arg)
{
    struct rand rnd;

    (void)arg;
    rand_seed(&rnd, 6);
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        for (unsigned i = 0; i < REPLICATED; i++) {
            int64_t end = log_end(logs[i]), hw = log_hw(logs[i]);

            log_set_hw(logs[i], hw + (int64_t)rand_below(&rnd, (uint64_t)(end - hw) + 1));
            if (rand_below(&rnd, 200) == 0)
                log_fail_commits(logs[i], ERR_NOT_LEADER);
            if (rand_below(&rnd, 50) == 0)
                log_request_sync(logs[i]);
        }
        usleep(200);
    }
    for (unsigned i = 0; i < REPLICATED; i++)
        log_set_replicated(logs[i], false, 0); /* who still waits goes on to a sync round */
    return NULL;
}

static void on_change(struct log_watch *w, struct log *l)
{
    (void)w;
    CHECK(log_hw(l) <= log_end(l));
    __atomic_add_fetch(&told, 1, __ATOMIC_RELAXED);
}
static struct log_watch watches[REPLICATED] = {{on_change}, {on_change}};

static void *watcher(void *arg)
{
    (void)arg;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        for (unsigned i = 0; i < REPLICATED; i++)
            log_set_watch(logs[i], &watches[i]);
        usleep(3000);
        for (unsigned i = 0; i < REPLICATED; i++)
            log_set_watch(logs[i], NULL);
    }
    return NULL;
}

/* The worker: appends, waits for the commit, checks that it is durable, or below the high watermark. */
static void *committer(void *arg)
{
    struct batch_builder b = {0};
    struct rand rnd;
    struct log_commit c;

    (void)arg;
    rand_seed(&rnd, 5);
    log_commit_init(&c, fake_worker(), on_done);
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        unsigned i = (unsigned)rand_below(&rnd, LOGS);
        unsigned also = (unsigned)rand_below(&rnd, LOGS);
        int64_t end;

        log_commit_begin(&c);
        mutex_lock(&owner[i]);
        append_one(&b, &rnd, i);
        end = log_end(logs[i]);
        log_commit_add(&c, logs[i], end);
        mutex_unlock(&owner[i]);
        if (also != i) {
            mutex_lock(&owner[also]);
            append_one(&b, &rnd, also);
            log_commit_add(&c, logs[also], log_end(logs[also]));
            mutex_unlock(&owner[also]);
        }
        waiting = 1;
        lost = false;
        if (rand_below(&rnd, 20) == 0) {
            (void)log_commit_arm(&c);
            log_commit_cancel(&c);
            continue;
        }
        if (!log_commit_arm(&c)) {
            while (waiting)
                if (fake_deliver() == 0)
                    usleep(100);
        }
        CHECK(lost || log_durable(logs[i]) >= end || log_hw(logs[i]) >= end);
    }
    batch_builder_fini(&b);
    return NULL;
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/gomsg-stress-XXXXXX";
    int seconds = argc > 1 ? atoi(argv[1]) : 2;
    pthread_t t[WRITERS + READERS + 3];
    struct log_store_stats st;
    int64_t ends[LOGS];

    CHECK(mkdtemp(dir) != NULL);
    diag_set_level(DIAG_WARN);
    struct log_store_options opt = {.data_dir = dir, .segment_bytes = 512 << 10, .sync_interval_ms = 5, .fd_max = 12, .hot_max = 3};
    CHECK(log_store_open(&opt, fake_workers(), &store) == 0);
    for (unsigned i = 0; i < LOGS; i++) {
        char name[32];

        snprintf(name, sizeof(name), "p-%u/topic", i);
        mutex_init(&owner[i]);
        CHECK(log_open(store, &(struct log_options){.kind = i % 2 ? LOG_TOPIC : LOG_QUEUE, .dir = name, .log_id = i, .memory = i == 5}, &logs[i]) == 0);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_create(&t[i], NULL, writer, (void *)(uintptr_t)(i + 1));
    for (unsigned i = 0; i < READERS; i++)
        pthread_create(&t[WRITERS + i], NULL, reader, (void *)(uintptr_t)(i + 1));
    for (unsigned i = 0; i < REPLICATED; i++)
        log_set_replicated(logs[i], true, 0);
    pthread_create(&t[WRITERS + READERS], NULL, committer, NULL);
    pthread_create(&t[WRITERS + READERS + 1], NULL, replicator, NULL);
    pthread_create(&t[WRITERS + READERS + 2], NULL, watcher, NULL);
    sleep((unsigned)seconds);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < ARRAY_LEN(t); i++)
        pthread_join(t[i], NULL);
    log_store_stats(store, &st);
    for (unsigned i = 0; i < LOGS; i++) {
        CHECK(log_failed(logs[i]) == 0);
        ends[i] = log_end(logs[i]);
        log_close(logs[i]);
    }
    log_store_close(store);
    CHECK(log_store_open(&opt, fake_workers(), &store) == 0);
    for (unsigned i = 0; i < LOGS - 1; i++) {
        char name[32];

        snprintf(name, sizeof(name), "p-%u/topic", i);
        CHECK(log_open(store, &(struct log_options){.kind = i % 2 ? LOG_TOPIC : LOG_QUEUE, .dir = name, .log_id = i}, &logs[i]) == 0);
        CHECK(log_end(logs[i]) == ends[i]);
        CHECK(log_verify(logs[i]) == 0);
        log_close(logs[i]);
    }
    log_store_close(store);
    CHECK(file_remove_tree(dir) == 0);
    printf("appended=%llu read=%llu commits=%llu rounds=%llu unprefaulted=%llu\n", (unsigned long long)appended, (unsigned long long)seen,
           (unsigned long long)committed, (unsigned long long)st.sync_rounds, (unsigned long long)st.unprefaulted);
    CHECK(appended > 0 && seen > 0 && committed > 0 && told > 0);
    return 0;
}
