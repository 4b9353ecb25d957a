#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "harness.h"

static struct workers *start(unsigned count)
{
    struct workers_options options = {.count = count};
    struct workers *ws;

    clock_calibrate();
    cr_assert_eq(workers_new(&options, &ws), 0);
    cr_assert_eq(workers_start(ws), 0);
    return ws;
}

static void finish(struct workers *ws)
{
    workers_stop(ws);
    workers_free(ws);
}

struct numbered {
    struct mail mail;
    unsigned from, n;
};
static unsigned next_from[4];
static _Atomic int delivered;

static void deliver_numbered(struct worker *w, struct mail *m)
{
    struct numbered *x = CONTAINER_OF(m, struct numbered, mail);

    cr_assert_eq(worker_current(), w);
    cr_assert_eq(next_from[x->from], x->n);
    next_from[x->from]++;
    mem_free(x);
    delivered++;
}

static struct workers *mail_ws;

static void *post_many(void *arg)
{
    unsigned from = (unsigned)(uintptr_t)arg;

    for (unsigned i = 0; i < 5000; i++) {
        struct numbered *x = mem_zalloc(sizeof(*x));

        x->mail.deliver = deliver_numbered;
        x->from = from;
        x->n = i;
        worker_post(workers_get(mail_ws, 0), &x->mail);
    }
    return NULL;
}

Test(worker, mails_from_one_thread_arrive_in_order)
{
    pthread_t threads[4];

    mail_ws = start(1);
    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, post_many, (void *)i);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    wait_for(&delivered, 20000);
    finish(mail_ws);
}

/* A mail that goes round between two workers, and then round on one. */
static _Atomic int hops;
static bool to_self;

static void deliver_ball(struct worker *w, struct mail *m)
{
    struct workers *ws = worker_set(w);

    if (++hops < 1000)
        worker_post(to_self ? w : workers_get(ws, 1 - worker_index(w)), m);
}

Test(worker, workers_wake_each_other_and_themselves)
{
    struct workers *ws = start(2);
    struct mail ball = {NULL, deliver_ball};

    worker_post(workers_get(ws, 0), &ball);
    wait_for(&hops, 1000);
    hops = 0;
    to_self = true;
    worker_post(workers_get(ws, 1), &ball);
    wait_for(&hops, 1000);
    finish(ws);
}

struct timed {
    struct io_timer timer;
    _Atomic int fired;
    uint64_t started_us, fired_us;
};

static void timed_fire(struct worker *w, struct io_timer *t)
{
    struct timed *x = CONTAINER_OF(t, struct timed, timer);

    x->fired_us = clock_mono_us();
    if (++x->fired == 3)
        io_timer_stop(w, t);
}

Test(worker, timers_fire_repeat_and_stop)
{
    struct workers_options options = {.count = 1};
    struct workers *ws;
    struct timed once = {0}, repeated = {0}, stopped = {0};

    cr_assert_eq(workers_new(&options, &ws), 0);
    io_timer_init(&once.timer, timed_fire);
    io_timer_init(&repeated.timer, timed_fire);
    io_timer_init(&stopped.timer, timed_fire);
    once.started_us = clock_mono_us();
    io_timer_start(workers_get(ws, 0), &once.timer, 50, 0);
    io_timer_start(workers_get(ws, 0), &repeated.timer, 1, 5);
    io_timer_start(workers_get(ws, 0), &stopped.timer, 20, 0);
    io_timer_stop(workers_get(ws, 0), &stopped.timer);
    cr_assert(!io_timer_active(&stopped.timer));
    cr_assert(io_timer_active(&once.timer));
    cr_assert_eq(workers_start(ws), 0);
    wait_for(&once.fired, 1);
    wait_for(&repeated.fired, 3);
    usleep(20000);
    finish(ws);
    cr_assert_eq(once.fired, 1);
    cr_assert_geq(once.fired_us - once.started_us, 49000);
    cr_assert_eq(repeated.fired, 3);
    cr_assert_eq(stopped.fired, 0);
}

static _Atomic int hook_runs, once_runs;

static void count_hook(struct worker *w, struct worker_hook *h)
{
    (void)w;
    (void)h;
    hook_runs++;
}

static void count_once(struct worker *w, struct worker_hook *h)
{
    if (++once_runs < 5)
        worker_hook_once(w, h);
}

static void add_once_twice(struct worker *w, void *arg)
{
    worker_hook_once(w, arg);
    worker_hook_once(w, arg);
}

Test(worker, hooks_run_at_the_end_of_the_turn)
{
    struct workers *ws;
    struct workers_options options = {.count = 1};
    struct worker_hook always = {.run = count_hook}, once = {.run = count_once};

    cr_assert_eq(workers_new(&options, &ws), 0);
    worker_hook_add(workers_get(ws, 0), &always);
    cr_assert_eq(workers_start(ws), 0);
    workers_run_each(ws, add_once_twice, &once);
    wait_for(&once_runs, 5);
    usleep(5000);
    finish(ws);
    cr_assert_eq(once_runs, 5, "each of five turns ran it once");
    cr_assert_geq(hook_runs, 5);
}

struct job {
    struct bg_job job;
    _Atomic int ran, done;
    struct worker *on;
};

static void job_run(struct bg_job *j)
{
    cr_assert_null(worker_current());
    CONTAINER_OF(j, struct job, job)->ran++;
}

static void job_done(struct bg_job *j)
{
    struct job *x = CONTAINER_OF(j, struct job, job);

    x->on = worker_current();
    x->done++;
}

Test(worker, jobs_run_in_the_background_and_report_where_asked)
{
    struct workers *ws = start(2);
    struct job a = {.job = {.run = job_run, .done = job_done, .reply_to = workers_get(ws, 1)}};
    struct job b = {.job = {.run = job_run, .done = job_done}};
    struct job c = {.job = {.run = job_run}};

    bg_submit(ws, BG_DISK, &a.job);
    bg_submit(ws, BG_FREE, &b.job);
    bg_submit(ws, BG_FREE, &c.job);
    wait_for(&a.done, 1);
    wait_for(&b.done, 1);
    wait_for(&c.ran, 1);
    cr_assert_eq(a.on, workers_get(ws, 1));
    cr_assert_null(b.on);
    finish(ws);
}

static _Atomic int grace_ran, busy, let_go;

static void grace_over(void *arg)
{
    (void)arg;
    grace_ran++;
}

static void be_busy(struct worker *w, struct mail *m)
{
    (void)w;
    (void)m;
    busy = 1;
    while (!let_go)
        usleep(100);
}

Test(worker, a_grace_period_waits_for_who_is_inside_a_turn_and_not_for_sleepers)
{
    struct workers *ws = start(2);
    struct mail m = {NULL, be_busy};

    usleep(10000);
    workers_after_grace(ws, grace_over, NULL);
    wait_for(&grace_ran, 1); /* both asleep */
    worker_post(workers_get(ws, 1), &m);
    wait_for(&busy, 1);
    workers_after_grace(ws, grace_over, NULL);
    usleep(50000);
    cr_assert_eq(grace_ran, 1);
    let_go = 1;
    wait_for(&grace_ran, 2);
    finish(ws);
}

static void check_clock(struct worker *w, void *arg)
{
    (void)arg;
    cr_assert(llabs((long long)worker_wall_ms(w) - clock_wall_ms()) < 1000);
    cr_assert(clock_mono_us() - worker_now_us(w) < 1000000);
}

Test(worker, the_clock_of_a_turn_is_right)
{
    struct workers *ws = start(3);

    workers_run_each(ws, check_clock, NULL);
    finish(ws);
}

/* P5: bytes are one-way messages, 'r' asks for a reply. */
static ssize_t oneway_input(struct conn *c, const uint8_t *data, size_t len)
{
    if (memchr(data, 'r', len) != NULL)
        worker_note_reply(c->worker);
    else
        worker_note_oneway(c->worker, (unsigned)len);
    server.lines += len;
    return (ssize_t)len;
}

/* Three thousand of them, one every 10 us or so: how many turns ended with a pause? */
static uint64_t naps_after(int fd, char what)
{
    struct worker_stats before, after;
    uint64_t goal = server.lines + 3000;

    worker_get_stats(workers_get(server.ws, 0), &before);
    for (int i = 0; i < 3000; i++) {
        uint64_t next = clock_mono_ns() + 10000;

        client_send(fd, &what, 1);
        while (clock_mono_ns() < next)
            ;
    }
    for (int i = 0; i < 5000 && server.lines < goal; i++)
        usleep(1000);
    cr_assert_eq(server.lines, goal);
    worker_get_stats(workers_get(server.ws, 0), &after);
    return after.naps - before.naps;
}

Test(worker, dense_one_way_traffic_is_gathered_and_what_waits_for_a_reply_is_not)
{
    uint64_t naps = 0;
    int fd;

    server.ops.input = oneway_input;
    server.coalesce_us = 100;
    server_start(1, 0);
    fd = client_connect();
    cr_assert_eq(naps_after(fd, 'r'), 0);
    /* On a busy machine the bytes may come in heaps by themselves, which needs no pause: then again. */
    for (int i = 0; i < 50 && naps == 0; i++)
        naps = naps_after(fd, 'o');
    cr_assert_gt(naps, 0);
    cr_assert_leq(naps_after(fd, 'r'), 1); /* the pause the last of them left behind */
    close(fd);
    server_stop();
}
