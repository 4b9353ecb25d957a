/* Many consumers that come, pause, give up, are attached anew, and queues that are closed and deleted under them, at random. After every step what is granted adds up (I5), no news is sent while
 * one is unanswered, and every message is ready, held, or gone. GM_QUEUE_SEED and GM_QUEUE_ROUNDS choose others. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/rand.h"
#include "fixture.h"
#include "queue/internal.h"

enum { CONSUMERS = 7, QUEUES = 3 };

static struct fixture f;
static struct rand r;
static struct taster tasters[CONSUMERS];
static unsigned heard[CONSUMERS]; /* news that was answered */
static struct queue *queues[QUEUES];
static uint64_t ids[QUEUES], next_id, number;


static struct queue_spec spec_of(unsigned i, uint64_t id)
{
    struct queue_spec s;

    queue_spec_init(&s, id);
    s.durable = i != 1;
    s.single_active = i == 2 && id % 3 == 0;
    if (i == 1 && id % 4 == 0)
        s.max_priority = 3;
    return s;
}

static void open_one(unsigned i)
{
    struct queue_spec s = spec_of(i, ids[i]);

    cr_assert_eq(queue_open(f.table, &s, f.now_ms, &queues[i]), 0);
    if (s.durable && !log_replicated(queue_log(queues[i])))
        log_set_replicated(queue_log(queues[i]), true, log_end(queue_log(queues[i])));
}

static void follow_watermarks(void)
{
    for (unsigned i = 0; i < QUEUES; i++) {
        if (queues[i] != NULL && queues[i]->on_disk)
            log_set_hw(queue_log(queues[i]), log_end(queue_log(queues[i])));
    }
    queue_table_hw_advanced(f.table);
}

/* Handles of a queue that was closed or deleted mean nothing. */
static void forget_handles_of_lost(void)
{
    for (unsigned i = 0; i < CONSUMERS; i++) {
        if (tasters[i].c.queue == NULL)
            tasters[i].count = 0;
    }
}

static void check(uint64_t seed, unsigned step)
{
    for (unsigned i = 0; i < QUEUES; i++) {
        struct queue *q = queues[i];
        uint64_t granted = 0, unsettled = 0;
        uint32_t count = 0;

        if (q == NULL)
            continue;
        LIST_FOREACH (n, &q->consumers) {
            struct queue_consumer *c = LIST_ENTRY(n, struct queue_consumer, node);

            cr_assert_eq(c->queue, q);
            cr_assert_leq(c->granted, QUEUE_TAKE_MAX);
            if (c->granted > 0)
                cr_assert(c->told, "granted, and not told: seed %d step %u", (int)seed, step);
            granted += c->granted;
            unsettled += c->unsettled;
            count++;
        }
        cr_assert_eq(granted, q->granted, "seed %d step %u", (int)seed, step);
        cr_assert_eq(count, queue_consumers(q));
        cr_assert_leq(unsettled, queue_unacked(q), "seed %d step %u", (int)seed, step);
        cr_assert_eq(q->acks.live, q->ready + q->unacked, "seed %d step %u", (int)seed, step);
    }
    for (unsigned i = 0; i < CONSUMERS; i++)
        cr_assert_leq(tasters[i].news, heard[i] + 1, "news while one is unanswered: seed %d step %u", (int)seed, step);
}

static void take(unsigned i)
{
    if (tasters[i].count + QUEUE_TAKE_MAX > GOT_MAX)
        return;
    heard[i] = tasters[i].news;
    tasters[i].refuse_after = rand_below(&r, 6) ? UINT32_MAX : (uint32_t)rand_below(&r, 5);
    cr_assert_eq(taster_take(&tasters[i], 1 + (uint32_t)rand_below(&r, QUEUE_TAKE_MAX)), 0);
}

static void settle(unsigned i)
{
    struct taster *t = &tasters[i];
    size_t n = t->count == 0 ? 0 : 1 + rand_below(&r, t->count), first = n == 0 ? 0 : rand_below(&r, t->count - n + 1);

    if (n == 0 || t->c.queue == NULL)
        return;
    taster_settle(t, rand_below(&r, 10) < 7 ? QUEUE_ACK : QUEUE_REQUEUE, first, n);
    memmove(&t->got[first], &t->got[first + n], (t->count - first - n) * sizeof(t->got[0]));
    t->count -= n;
}

static void leave(unsigned i)
{
    struct taster *t = &tasters[i];

    if (t->c.queue != NULL) { /* what it holds is requeued, in any order with its leaving */
        bool first = rand_below(&r, 2);
        struct queue *q = t->c.queue;
        struct queue_handle h[GOT_MAX];

        for (size_t k = 0; k < t->count; k++)
            h[k] = t->got[k].handle;
        if (first)
            queue_settle(q, &t->c, QUEUE_REQUEUE, h, t->count);
        (void)queue_consumer_remove(&t->c, f.now_ms);
        if (!first)
            queue_settle(q, NULL, QUEUE_REQUEUE, h, t->count);
    } else {
        (void)queue_consumer_remove(&t->c, f.now_ms);
    }
    t->count = 0;
}

static void step_once(void)
{
    unsigned i = (unsigned)rand_below(&r, CONSUMERS), k = (unsigned)rand_below(&r, QUEUES);
    struct taster *t = &tasters[i];

    f.now_ms += (int64_t)rand_below(&r, 20);
    switch (rand_below(&r, 100)) {
    default:
        for (uint64_t n = rand_below(&r, 40); queues[k] != NULL && n > 0; n--)
            cr_assert_eq(queues[k]->rings != NULL ? publish_with(&f, queues[k], number++, (uint8_t)rand_below(&r, 4), -1) : publish(&f, queues[k], number++, 16), 0);
        break;
    case 25 ... 54:
        take(i);
        break;
    case 55 ... 69:
        settle(i);
        break;
    case 70 ... 76:
        if (t->c.queue != NULL || queues[k] == NULL)
            break;
        t->c.prefetch = (uint32_t)rand_below(&r, 3) ? (uint32_t)rand_below(&r, 80) : 0;
        t->c.priority = (int32_t)rand_below(&r, 3);
        (void)queue_consumer_add(queues[k], &t->c, f.now_ms);
        break;
    case 77 ... 80:
        leave(i);
        break;
    case 81 ... 84:
        queue_consumer_pause(&t->c);
        break;
    case 85 ... 89:
        queue_consumer_resume(&t->c);
        break;
    case 90 ... 93:
        queue_table_tick(f.table, f.now_ms);
        break;
    case 94:
        if (rand_below(&r, 4) == 0) {
            queue_table_close(f.table);
            memset(queues, 0, sizeof(queues));
            forget_handles_of_lost();
        }
        break;
    case 95:
        if (queues[k] != NULL && rand_below(&r, 3) == 0) {
            queue_delete(f.table, ids[k]);
            queues[k] = NULL;
            ids[k] = ++next_id;
            forget_handles_of_lost();
        }
        break;
    case 96 ... 98:
        if (queues[k] == NULL)
            open_one(k);
        break;
    case 99:
        if (queues[k] != NULL)
            (void)queue_purge(queues[k]);
        break;
    }
    if (rand_below(&r, 3))
        follow_watermarks();
    if (rand_below(&r, 4))
        cr_assert_eq(queue_table_flush(f.table, NULL), 0);
}

static void run(uint64_t seed, unsigned steps)
{
    rand_seed(&r, seed);
    fixture_init(&f);
    f.commit_at_end = seed % 2;
    f.segment_bytes = 16 << 10;
    f.checkpoint_bytes = 8 << 10;
    fixture_open(&f);
    number = next_id = 0;
    for (unsigned i = 0; i < CONSUMERS; i++) {
        taster_init(&tasters[i], &f);
        heard[i] = 0;
    }
    for (unsigned k = 0; k < QUEUES; k++) {
        ids[k] = ++next_id;
        open_one(k);
    }
    for (unsigned step = 0; step < steps; step++) {
        step_once();
        check(seed, step);
    }
    for (unsigned i = 0; i < CONSUMERS; i++)
        leave(i);
    for (unsigned k = 0; k < QUEUES; k++)
        cr_assert(queues[k] == NULL || queue_unacked(queues[k]) == 0, "seed %d", (int)seed);
    check(seed, steps);
    memset(queues, 0, sizeof(queues));
    fixture_fini(&f);
}

Test(queue_consumers, grants_add_up_whoever_comes_and_goes, .timeout = 240)
{
    const char *seed = getenv("GM_QUEUE_SEED"), *rounds = getenv("GM_QUEUE_ROUNDS");
    uint64_t first = seed == NULL ? 1 : strtoull(seed, NULL, 10);
    unsigned n = rounds == NULL ? 12 : (unsigned)atoi(rounds);

    for (unsigned i = 0; i < n; i++)
        run(first + i, 2500);
}
