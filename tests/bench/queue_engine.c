/* What the queue engine costs without a protocol around it: publish, take and acknowledge, in batches, over a
 * log in memory and one on disk; RAM a queued message and an idle queue. Usage: bench-queue [messages
 * [queues]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "queue/queue.h"

static struct queue_table *table;
static struct queue_handle handles[QUEUE_TAKE_MAX];
static size_t held;
static uint64_t sum;

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool deliver(void *arg, const struct queue_delivery *d)
{
    (void)arg;
    handles[held++] = d->handle;
    sum += d->body.data[0];
    return true;
}

static void news(struct queue_consumer *c)
{
    (void)c;
}

static void publish_batch(struct queue *q, unsigned batch, size_t size)
{
    static uint8_t bytes[65536];
    struct slice body = slice_of(bytes, size);
    struct queue_message m = {.routing_key = SLICE_LIT("bench"),
                              .properties = slice_of("\x10\x00\x02", 3),
                              .body = &body,
                              .body_count = 1,
                              .expiration_ms = -1};

    for (unsigned i = 0; i < batch; i++)
        CHECK(queue_publish(q, &m, 1, NULL) == 0);
    CHECK(queue_table_flush(table, NULL) == 0);
}

static struct queue *open_queue(uint64_t id, bool durable)
{
    struct queue_spec s;
    struct queue *q;

    queue_spec_init(&s, id);
    s.durable = durable;
    CHECK(queue_open(table, &s, 1, &q) == 0);
    return q;
}

static void run(uint64_t id, bool durable, unsigned batch, size_t size, unsigned messages)
{
    struct queue *q = open_queue(id, durable);
    struct queue_consumer c = {.news = news};
    struct queue_take take = {.max = QUEUE_TAKE_MAX, .deliver = deliver};
    double began, publish = 0, taking = 0, settling = 0, t;

    CHECK(queue_consumer_add(q, &c, 1) == 0);
    began = now_s();
    for (unsigned n = 0; n < messages; n += batch) {
        t = now_s();
        publish_batch(q, batch, size);
        publish += now_s() - t;
        t = now_s();
        held = 0;
        CHECK(queue_take(&c, &take, 1) == 0 && take.count == batch);
        queue_table_flush(table, NULL);
        taking += now_s() - t;
        t = now_s();
        queue_settle(q, &c, QUEUE_ACK, handles, held);
        CHECK(queue_table_flush(table, NULL) == 0);
        settling += now_s() - t;
        if (n % 65536 < batch)
            queue_table_tick(table, 1);
    }
    t = (now_s() - began) / messages * 1e9;
    printf("%-7s batch %2u, %5zu B: %5.0f ns a message (publish %.0f, take %.0f, ack %.0f)\n",
           durable ? "disk" : "memory", batch, size, t, publish / messages * 1e9, taking / messages * 1e9,
           settling / messages * 1e9);
    queue_consumer_remove(&c, 1);
    queue_delete(table, id);
}

static double since(double *t)
{
    double before = *t;

    *t = now_s();
    return *t - before;
}

/* Many durable queues, a message in each, on few file descriptors: made, stopped, opened again one by one. */
static void many(const char *dir, unsigned count)
{
    struct log_store_options so = {.data_dir = dir, .fsync = LOG_FSYNC_INTERVAL, .fd_max = 1000};
    struct queue_table_options o = {.data_dir = dir, .partition = 1};
    struct log_store_stats stats;
    size_t before = mem_rss();
    uint64_t ready = 0;
    double t = now_s();

    CHECK(log_store_open(&so, NULL, &o.store) == 0);
    table = queue_table_new(&o);
    for (unsigned i = 0; i < count; i++)
        publish_batch(open_queue(1000000 + i, true), 1, 16);
    log_store_stats(o.store, &stats);
    printf("%u queues with a message each: %.1f us a queue, %.0f B of RSS a queue, %llu open files\n", count,
           since(&t) / count * 1e6, (double)(mem_rss() - before) / count,
           (unsigned long long)stats.open_files);
    queue_table_free(table);
    printf("  clean checkpoints: %.1f us a queue\n", since(&t) / count * 1e6);
    log_store_close(o.store);
    printf("  store closed: %.2f s\n", since(&t));
    CHECK(log_store_open(&so, NULL, &o.store) == 0);
    printf("  store opened: %.2f s\n", since(&t));
    table = queue_table_new(&o);
    for (unsigned i = 0; i < count; i++)
        ready += queue_ready(open_queue(1000000 + i, true));
    printf("  queues opened again: %.1f us a queue\n", since(&t) / count * 1e6);
    CHECK(ready == count);
    queue_table_free(table);
    log_store_close(o.store);
}

int main(int argc, char **argv)
{
    unsigned messages = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 500000;
    char dir[] = "/tmp/gomsg-bench-XXXXXX";
    struct log_store_options so = {.data_dir = dir, .fsync = LOG_FSYNC_NEVER};
    struct queue_table_options o = {.data_dir = dir, .commit_at_end = true};
    struct queue_info info;
    struct queue *q;
    size_t before;

    CHECK(mkdtemp(dir) != NULL);
    CHECK(log_store_open(&so, NULL, &o.store) == 0);
    table = queue_table_new(&o);
    for (int durable = 0; durable < 2; durable++) {
        run(1 + (uint64_t)durable, durable, 1, 16, messages / 4);
        run(3 + (uint64_t)durable, durable, 50, 16, messages);
        run(5 + (uint64_t)durable, durable, 50, 1024, messages / 2);
    }
    before = mem_allocated();
    for (uint64_t i = 0; i < 10000; i++)
        open_queue(1000 + i, true);
    printf("an idle durable queue: %.0f B\n", (double)(mem_allocated() - before) / 10000);
    q = open_queue(100, true);
    for (unsigned n = 0; n < messages; n += 50)
        publish_batch(q, 50, 16);
    queue_info(q, &info);
    printf("%llu messages queued on disk: %.3f B of RAM a message\n", (unsigned long long)info.ready,
           (double)info.memory_bytes / (double)info.ready);
    queue_table_free(table);
    log_store_close(o.store);
    many(dir, argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 10000);
    file_remove_tree(dir);
    return sum == 1;
}
