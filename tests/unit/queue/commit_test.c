/* Rule 8: nothing is delivered past a reservation that is not committed; and what a full disk does to
 * publishing and settling. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "base/err.h"
#include "fixture.h"
#include "queue/internal.h"

static struct fixture f;
static struct taster a;
static struct queue *q;
static struct log_commit commit;
static bool armed_done;
static volatile unsigned commits_done;

static void committed(struct log_commit *c, int err)
{
    (void)c;
    cr_assert_eq(err, 0);
    __atomic_add_fetch(&commits_done, 1, __ATOMIC_SEQ_CST);
}

static void start(struct worker *w, void *arg)
{
    (void)arg;
    log_commit_init(&commit, w, committed);
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    publish_n(&f, q, 0, 10);
    a.take.commit = &commit;
    taster_take(&a, QUEUE_TAKE_MAX);
    cr_assert(a.take.stalled);
    cr_assert(a.take.commit_added);
    cr_assert_eq(a.count, 0);
    armed_done = log_commit_arm(&commit);
}

static void go_on(struct worker *w, void *arg)
{
    (void)w;
    (void)arg;
    a.take.commit = &commit;
    cr_assert_eq(taster_take(&a, QUEUE_TAKE_MAX), 0);
    cr_assert_not(a.take.stalled);
    queue_table_flush(f.table, NULL);
}

static void many(struct worker *w, void *arg)
{
    (void)w;
    (void)arg;
    a.take.commit = NULL;
    for (unsigned i = 0; i < 40; i++) {
        publish_n(&f, q, 10 + i * 64, 64);
        taster_take(&a, QUEUE_TAKE_MAX);
    }
    /* Delivered up to the reservation, the first or, when a round of the interval came between, the next one;
     * not a message further. */
    cr_assert(a.take.stalled);
    for (size_t i = 0; i < a.count; i++)
        cr_assert_lt(queue_handle_offset(&a.got[i].handle), q->reserve_committed);
    cr_assert_geq(a.count, 500);
    cr_assert_gt(queue_ready(q), 0);
}

static void drain(struct worker *w, void *arg)
{
    (void)w;
    (void)arg;
    a.take.commit = &commit;
    taster_take(&a, QUEUE_TAKE_MAX);
    armed_done = a.take.commit_added ? log_commit_arm(&commit) : true;
}

static void finish(struct worker *w, void *arg)
{
    (void)w;
    (void)arg;
    log_commit_cancel(&commit);
    queue_consumer_remove(&a.c, f.now_ms);
}

static void wait_for(unsigned n)
{
    for (unsigned i = 0; i < 5000 && __atomic_load_n(&commits_done, __ATOMIC_SEQ_CST) < n; i++)
        usleep(1000);
    cr_assert_geq(__atomic_load_n(&commits_done, __ATOMIC_SEQ_CST), n);
}

Test(queue_commit, nothing_is_delivered_past_an_uncommitted_reservation)
{
    struct workers_options wo = {.count = 1};
    unsigned rounds = 0;

    fixture_init(&f);
    f.commit_at_end = false;
    cr_assert_eq(workers_new(&wo, &f.workers), 0);
    cr_assert_eq(workers_start(f.workers), 0);
    fixture_open(&f);
    workers_run_each(f.workers, start, NULL);
    if (!armed_done)
        wait_for(1);
    workers_run_each(f.workers, go_on, NULL);
    cr_assert_eq(a.count, 10);
    workers_run_each(f.workers, many, NULL);
    while (queue_ready(q) > 0 && rounds++ < 1000) {
        unsigned before = __atomic_load_n(&commits_done, __ATOMIC_SEQ_CST);

        workers_run_each(f.workers, drain, NULL);
        if (!armed_done)
            wait_for(before + 1);
    }
    cr_assert_eq(a.count, 10 + 40 * 64);
    workers_run_each(f.workers, finish, NULL);
    queue_table_free(f.table);
    f.table = NULL;
    workers_stop(f.workers);
    log_store_close(f.store);
    f.store = NULL;
    workers_free(f.workers);
    f.workers = NULL;
    fixture_fini(&f);
}

Test(queue_commit, a_full_disk_takes_back_messages_and_keeps_acknowledgements)
{
    fixture_init(&f);
    f.failpoint = "append:3:enospc"; /* after the messages and the reservation; the acknowledgements alone are
                                        the 4th */
    fixture_open(&f);
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
    publish_n(&f, q, 0, 10);
    queue_consumer_add(q, &a.c, f.now_ms);
    cr_assert_eq(taster_drain(&a), 10);
    taster_settle(&a, QUEUE_ACK, 0, 5);
    for (uint64_t n = 10; n < 15; n++)
        cr_assert_eq(publish(&f, q, n, 16), 0);
    cr_assert_eq(queue_ready(q), 5);
    cr_assert_eq(queue_table_flush(f.table, NULL), ERR_NOSPACE);
    cr_assert_eq(queue_ready(q), 0, "what was refused is gone");
    cr_assert_eq(queue_unacked(q), 5);
    cr_assert_eq(queue_table_flush(f.table, NULL), 0);
    for (unsigned i = 0; i < 5000 && !log_store_may_grow(f.store); i++)
        usleep(1000);
    publish_n(&f, q, 20, 2);
    cr_assert_eq(taster_drain(&a), 2);
    cr_assert_eq(a.got[10].number, 20);
    queue_consumer_remove(&a.c, f.now_ms);
    f.failpoint = NULL;
    fixture_crash(&f);
    q = fixture_queue(&f, 1, true);
    cr_assert_eq(queue_ready(q), 7);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    cr_assert_eq(taster_drain(&a), 7);
    cr_assert_eq(a.got[0].number, 5);
    cr_assert_eq(a.got[6].number, 21);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}
