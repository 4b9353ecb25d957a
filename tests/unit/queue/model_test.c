/* A queue against the simplest thing that could be one, through random operations, restarts and crashes.
 * GM_QUEUE_SEED and GM_QUEUE_ROUNDS choose others. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/rand.h"
#include "fixture.h"
#include "queue/internal.h"

enum { MESSAGES = 60000 };
enum state { READY, HELD, GONE };

struct model_message {
    uint64_t number;
    uint8_t priority;
    uint8_t state;
    bool delivered; /* at least once */
    bool maybe;     /* a restart came between: redelivered may be either when it was not delivered */
};

static struct model_message model[MESSAGES];
static size_t model_count, model_first;

static struct fixture f;
static struct taster a;
static struct rand r;

/* The next ready one: the highest priority, then the oldest. */
static struct model_message *model_next(void)
{
    struct model_message *best = NULL;

    for (size_t i = model_first; i < model_count; i++)
        if (model[i].state == READY && (best == NULL || model[i].priority > best->priority))
            best = &model[i];
    return best;
}

static size_t model_total(enum state s)
{
    size_t n = 0;

    for (size_t i = model_first; i < model_count; i++)
        n += model[i].state == s;
    while (model_first < model_count && model[model_first].state == GONE)
        model_first++;
    return n;
}

static struct model_message *model_find(uint64_t number)
{
    return &model[number];
}

static void check_taken(size_t from)
{
    for (size_t i = from; i < a.count; i++) {
        struct model_message *m = model_next();

        cr_assert_not_null(m);
        cr_assert_eq(a.got[i].number, m->number, "got %d, want %d", (int)a.got[i].number, (int)m->number);
        if (m->delivered)
            cr_assert(a.got[i].redelivered, "%d", (int)m->number);
        else if (!m->maybe)
            cr_assert_not(a.got[i].redelivered, "%d", (int)m->number);
        m->state = HELD;
        m->delivered = true;
    }
}

static void settle_random(struct queue *q)
{
    size_t n = a.count == 0 ? 0 : 1 + rand_below(&r, a.count < 40 ? a.count : 40);
    size_t first = a.count == 0 || rand_below(&r, 3) ? 0 : rand_below(&r, a.count - n + 1);
    enum queue_settle how = rand_below(&r, 10) < 7 ? QUEUE_ACK
                            : rand_below(&r, 3)    ? QUEUE_REQUEUE
                                                   : QUEUE_DISCARD;

    (void)q;
    if (n == 0)
        return;
    taster_settle(&a, how, first, n);
    for (size_t i = first; i < first + n; i++)
        model_find(a.got[i].number)->state = how == QUEUE_REQUEUE ? READY : GONE;
    memmove(&a.got[first], &a.got[first + n], (a.count - first - n) * sizeof(a.got[0]));
    a.count -= n;
}

static struct queue *open_queue(const struct queue_spec *s)
{
    struct queue *q;

    cr_assert_eq(queue_open(f.table, s, f.now_ms, &q), 0);
    taster_init(&a, &f);
    a.c.prefetch = rand_below(&r, 2) ? 0 : (uint32_t)rand_below(&r, 300) + 1;
    cr_assert_eq(queue_consumer_add(q, &a.c, f.now_ms), 0);
    return q;
}

static void run(uint64_t seed, unsigned steps)
{
    struct queue_spec s;
    struct queue *q;

    rand_seed(&r, seed);
    model_count = model_first = 0;
    fixture_init(&f);
    f.segment_bytes = 16 << 10;
    f.checkpoint_bytes = 8 << 10;
    fixture_open(&f);
    queue_spec_init(&s, 9);
    s.durable = true;
    if (seed % 3 == 0)
        s.max_priority = 4;
    q = open_queue(&s);
    for (unsigned step = 0; step < steps; step++) {
        size_t before = a.count;

        f.now_ms += (int64_t)rand_below(&r, 20);
        switch (rand_below(&r, 100)) {
        default:
            for (uint64_t n = rand_below(&r, 30) + 1; n > 0 && model_count < MESSAGES; n--) {
                struct model_message *m = &model[model_count];

                *m = (struct model_message){.number = model_count, .state = READY};
                if (s.max_priority != 0)
                    m->priority = (uint8_t)rand_below(&r, 5);
                if (s.max_priority != 0)
                    cr_assert_eq(publish_with(&f, q, m->number, m->priority, -1), 0);
                else
                    cr_assert_eq(
                        publish(&f, q, m->number, 8 + rand_below(&r, rand_below(&r, 10) ? 60 : 3000)), 0);
                model_count++;
            }
            if (rand_below(&r, 3))
                cr_assert_eq(queue_table_flush(f.table, NULL), 0);
            break;
        case 40 ... 64:
            if (a.count + 64 > GOT_MAX)
                break;
            cr_assert_eq(taster_take(&a, 1 + (uint32_t)rand_below(&r, 64)), 0);
            check_taken(before);
            break;
        case 65 ... 68:
            if (a.count + 1 > GOT_MAX)
                break;
            cr_assert_eq(taster_get(&a, q, false), 0);
            check_taken(before);
            break;
        case 69:
            cr_assert_eq(taster_get(&a, q, true), 0);
            check_taken(before);
            if (a.count > before)
                model_find(a.got[--a.count].number)->state = GONE;
            break;
        case 70 ... 91:
            settle_random(q);
            break;
        case 92:
            if (rand_below(&r, 4) == 0) {
                cr_assert_eq(queue_purge(q), model_total(READY));
                for (size_t i = 0; i < model_count; i++)
                    if (model[i].state == READY)
                        model[i].state = GONE;
            }
            break;
        case 93 ... 96:
            queue_table_tick(f.table, f.now_ms);
            break;
        case 97 ... 98: {
            bool crash = rand_below(&r, 3) != 0;

            cr_assert_eq(queue_table_flush(f.table, NULL), 0);
            queue_consumer_remove(&a.c, f.now_ms);
            if (crash) {
                fixture_crash(&f);
            } else {
                fixture_close(&f);
                fixture_open(&f);
            }
            for (size_t i = 0; i < model_count; i++) {
                if (model[i].state == HELD)
                    model[i].state = READY;
                model[i].maybe = true;
            }
            q = open_queue(&s);
            break;
        }
        }
        cr_assert_eq(queue_ready(q), model_total(READY), "seed %d step %u", (int)seed, step);
        cr_assert_eq(queue_unacked(q), model_total(HELD));
        cr_assert_eq(q->acks.live, q->ready + q->unacked);
    }
    /* and at the end everything comes out */
    a.c.prefetch = 0;
    while (queue_ready(q) > 0) {
        size_t before = a.count;

        if (a.count + 64 > GOT_MAX) {
            taster_settle(&a, QUEUE_ACK, 0, a.count);
            for (size_t i = 0; i < a.count; i++)
                model_find(a.got[i].number)->state = GONE;
            before = a.count = 0;
        }
        queue_turn_update(&a.c);
        cr_assert_eq(taster_take(&a, 64), 0);
        check_taken(before);
        cr_assert_gt(a.count, before);
    }
    taster_settle(&a, QUEUE_ACK, 0, a.count);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}

Test(queue_model, random_operations_restarts_and_crashes, .timeout = 240)
{
    const char *seed = getenv("GM_QUEUE_SEED"), *rounds = getenv("GM_QUEUE_ROUNDS");
    uint64_t first = seed != NULL ? strtoull(seed, NULL, 10) : 1;
    uint64_t n = rounds != NULL ? strtoull(rounds, NULL, 10) : 12;

    for (uint64_t i = 0; i < n; i++)
        run(first + i, 600);
}
