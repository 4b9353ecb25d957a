/* Long logs are opened beside the lock: what is found, and what deletion, a loss of leadership and damage do to an opening. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/rand.h"
#include "fixture.h"
#include "queue/internal.h"

#define MESSAGES 400

static struct fixture f;
static struct taster a;
static struct queue_spec spec;

/* MESSAGES of 500 bytes of which every third is acknowledged, and no checkpoint; the table opens queues in the background from then on. */
static void begin(uint8_t priorities)
{
    struct queue *q;

    fixture_init(&f);
    fixture_open(&f);
    queue_spec_init(&spec, 1);
    spec.durable = true;
    spec.max_priority = priorities;
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), 0);
    for (unsigned i = 0; i < MESSAGES; i++)
        cr_assert_eq(publish(&f, q, i, 500), 0);
    queue_table_flush(f.table, NULL);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    while (taster_drain(&a) > 0)
        ;
    for (unsigned i = 0; i < MESSAGES; i += 3)
        taster_settle(&a, QUEUE_ACK, i, 1);
    queue_table_flush(f.table, NULL);
    queue_consumer_remove(&a.c, f.now_ms);
    f.background = true;
    fixture_crash(&f);
}

static void holds_what_it_should(struct queue *q)
{
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    queue_table_flush(f.table, NULL);
    while (taster_drain(&a) > 0)
        ;
    cr_assert_eq(a.count, MESSAGES - (MESSAGES + 2) / 3);
    for (unsigned i = 0; i < a.count; i++) {
        cr_assert_eq(a.got[i].number, i / 2 * 3 + 1 + i % 2);
        cr_assert(a.got[i].redelivered);
    }
    queue_consumer_remove(&a.c, f.now_ms);
}

Test(opening, a_long_log_is_read_without_the_lock)
{
    struct queue *q = NULL;

    for (uint8_t priorities = 0; priorities < 2; priorities++) {
        begin(priorities);
        f.opened = 0;
        cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), ERR_AGAIN);
        cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), ERR_AGAIN);
        cr_assert_null(queue_find(f.table, 1));
        cr_assert_eq(f.opened, 0);
        fixture_run_job(&f);
        cr_assert_eq(f.opened, 1);
        cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), 0);
        cr_assert_eq(q, queue_find(f.table, 1));
        cr_assert_eq(queue_table_replayed(f.table).locked, 0);
        cr_assert_geq(queue_table_replayed(f.table).background, MESSAGES);
        holds_what_it_should(q);
        fixture_fini(&f);
    }
}

Test(opening, a_short_log_is_read_at_once)
{
    struct queue *q;

    fixture_init(&f);
    fixture_open(&f);
    publish_n(&f, fixture_queue(&f, 1, true), 0, 10);
    f.background = true;
    fixture_close(&f);
    fixture_open(&f);
    q = fixture_queue(&f, 1, true);
    cr_assert_eq(queue_ready(q), 10);
    cr_assert_eq(queue_ready(fixture_queue(&f, 2, true)), 0, "a new one too");
    fixture_fini(&f);
}

Test(opening, is_given_up_when_leadership_is_lost_and_begins_anew)
{
    struct queue *q;

    begin(0);
    f.opened = 0;
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), ERR_AGAIN);
    queue_table_close(f.table);
    cr_assert_eq(f.opened, 1, "who waits is told to look again");
    fixture_run_job(&f);
    cr_assert_eq(f.opened, 1);
    cr_assert_null(queue_find(f.table, 1));
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), ERR_AGAIN);
    fixture_run_job(&f);
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), 0);
    holds_what_it_should(q);
    fixture_fini(&f);
}

Test(opening, of_a_queue_that_is_deleted_comes_to_nothing)
{
    struct queue *q;
    char path[128];

    begin(0);
    snprintf(path, sizeof(path), "%s/p-0007/queue/0000000000000001", f.dir);
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), ERR_AGAIN);
    cr_assert_not(queue_delete(f.table, 1));
    cr_assert_neq(access(path, F_OK), 0);
    fixture_run_job(&f);
    cr_assert_null(queue_find(f.table, 1));
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), 0);
    cr_assert_eq(queue_ready(q), 0);
    fixture_fini(&f);
}

static void *replay(void *arg)
{
    struct queue_job *job = arg;

    job->run(job);
    return NULL;
}

/* A follower's log is cut as soon as it does not lead: the thread that reads it must have let go of it by then, or it would take zeros for damage. */
Test(opening, has_let_go_of_the_log_when_leadership_is_gone)
{
    struct rand r;

    rand_seed(&r, 7);
    for (unsigned i = 0; i < 60; i++) {
        struct log_options lo = {.kind = LOG_QUEUE, .dir = "p-0007/queue/0000000000000001", .log_id = 1};
        struct queue_job *job;
        struct queue *q;
        struct log *l;
        pthread_t t;

        begin(0);
        cr_assert_eq(log_open(f.store, &lo, &l), 0);
        cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), ERR_AGAIN);
        job = f.jobs;
        f.jobs = NULL;
        cr_assert_eq(pthread_create(&t, NULL, replay, job), 0);
        usleep((useconds_t)rand_below(&r, 300));
        queue_table_close(f.table);
        cr_assert_eq(log_truncate(l, log_end(l) / 2), 0);
        pthread_join(t, NULL);
        job->done(job);
        cr_assert_eq(log_failed(l), 0);
        log_close(l);
        fixture_fini(&f);
    }
}

Test(opening, tells_its_error_to_all_who_waited)
{
    struct queue *q;
    char path[128];
    int fd;

    begin(0);
    snprintf(path, sizeof(path), "%s/p-0007/queue/0000000000000001/checkpoint", f.dir);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    cr_assert_eq(write(fd, "GMQC no checkpoint", 18), 18);
    close(fd);
    f.opened = 0;
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), ERR_AGAIN);
    fixture_run_job(&f);
    cr_assert_eq(f.opened, 1);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), ERR_CORRUPT);
    f.now_ms += 2000;
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), ERR_CORRUPT, "its log has failed");
    fixture_fini(&f);
}

/* A checkpoint beyond the log's end (the tail went with a power cut) must not be believed once other records have these offsets. */
Test(opening, rewrites_a_checkpoint_that_knows_more_than_the_log)
{
    struct log_options lo = {.kind = LOG_QUEUE, .dir = "p-0007/queue/0000000000000001", .log_id = 1};
    struct queue *q;
    struct log *l;

    fixture_init(&f);
    fixture_open(&f);
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    publish_n(&f, q, 0, 10);
    publish_n(&f, q, 10, 30);
    while (taster_drain(&a) > 0)
        ;
    taster_settle(&a, QUEUE_ACK, 10, 30);
    queue_table_flush(f.table, NULL);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_close(&f); /* with a clean checkpoint */
    fixture_open(&f);
    cr_assert_eq(log_open(f.store, &lo, &l), 0);
    {
        char from[128], to[128];

        snprintf(from, sizeof(from), "%s/%s/checkpoint.clean", f.dir, lo.dir);
        snprintf(to, sizeof(to), "%s/%s/checkpoint", f.dir, lo.dir);
        cr_assert_eq(rename(from, to), 0);
    }
    cr_assert_eq(log_truncate(l, 15), 0);
    log_close(l);
    q = fixture_queue(&f, 1, true);
    publish_n(&f, q, 100, 60);
    fixture_crash(&f);
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    while (taster_drain(&a) > 0)
        ;
    cr_assert_geq(a.count, 60u);
    for (unsigned i = 0; i < 60; i++)
        cr_assert_eq(a.got[a.count - 60 + i].number, 100 + i);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}
