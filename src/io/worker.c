/* The loop of a worker.
 *
 * libev gives the frame, and calls `turn` in place of its own ev_invoke_pending: clock and quiescent counter
 * first, then what is ready of sockets and timers, then what is due before the next poll: mail, resumed input,
 * hooks, one write a connection, the dead, the wake-ups of others (P4). One call a turn, where a prepare and
 * a check watcher would have libev feed two events and walk its queues twice. A turn costs epoll_wait plus one
 * read and one write a ready connection; watchers are not started and stopped in between, so there is no epoll_ctl on the way.
 *
 * Nothing that stands in one of the worker's lists may wait for the next event: before the poll, pending work
 * sends the worker's own ev_async. libev does not write to the eventfd then (it is not in the poll), it polls
 * with timeout 0. */
#include "io/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "io/internal.h"

static __thread struct worker *current;

struct worker *worker_current(void)
{
    return current;
}

unsigned worker_index(const struct worker *w)
{
    return w->index;
}

struct workers *worker_set(struct worker *w)
{
    return w->set;
}

uint64_t worker_now_us(const struct worker *w)
{
    return w->now_us;
}

int64_t worker_wall_ms(const struct worker *w)
{
    return w->wall_ms;
}

unsigned workers_count(const struct workers *ws)
{
    return ws->count;
}

unsigned workers_client_count(const struct workers *ws)
{
    return ws->client_count;
}

struct worker *workers_extra(struct workers *ws, unsigned i)
{
    CHECK(i < ws->count - ws->client_count);
    return &ws->list[ws->client_count + i];
}

struct worker *workers_get(struct workers *ws, unsigned index)
{
    CHECK(index < ws->count);
    return &ws->list[index];
}

/* ---- clock: one read a turn; the wall clock is that plus an offset looked at ten times a second ---- */

static void read_clock(struct worker *w)
{
    int64_t wall;

    w->now_us = clock_mono_us();
    if (w->now_us - w->wall_checked_us >= 100000 || w->wall_checked_us == 0) {
        w->wall_offset_us = clock_wall_us() - (int64_t)w->now_us;
        w->wall_checked_us = w->now_us;
    }
    wall = ((int64_t)w->now_us + w->wall_offset_us) / 1000;
    if (wall > w->wall_ms)
        w->wall_ms = wall;
}

/* ---- mail ---- */

/* The box is a stack that posters push and the owner takes whole; reversed, it is in order of posting. */
void worker_post(struct worker *to, struct mail *m)
{
    struct worker *me = current;
    struct mail *head = atomic_load_explicit(&to->mailbox, memory_order_relaxed);

    MAGIC_CHECK(to, WORKER_MAGIC);
    do {
        m->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&to->mailbox, &head, m, memory_order_release,
                                                    memory_order_relaxed));
    if (me != NULL && me->set == to->set) {
        /* One's own mail needs no wake-up: the box is looked at before the poll. */
        if (me != to) {
            me->wake[to->index / 64] |= 1ull << (to->index % 64);
            me->wakes = true;
        }
    } else {
        ev_async_send(to->loop, &to->async);
    }
}

void worker_drain_mail(struct worker *w)
{
    struct mail *m, *in_order = NULL;
    uint64_t n = 0;

    if (atomic_load_explicit(&w->mailbox, memory_order_relaxed) == NULL)
        return;
    m = atomic_exchange_explicit(&w->mailbox, NULL, memory_order_acquire);
    while (m != NULL) {
        struct mail *next = m->next;

        m->next = in_order;
        in_order = m;
        m = next;
    }
    while (in_order != NULL) {
        m = in_order;
        in_order = m->next;
        m->next = NULL;
        m->deliver(w, m);
        n++;
    }
    stat_add(&w->stats.mails, n);
}

static void send_wakeups(struct worker *w)
{
    if (!w->wakes)
        return;
    w->wakes = false;
    for (unsigned i = 0; i < ARRAY_LEN(w->wake); i++) {
        while (w->wake[i] != 0) {
            unsigned bit = (unsigned)__builtin_ctzll(w->wake[i]);
            struct worker *to = &w->set->list[i * 64 + bit];

            w->wake[i] &= w->wake[i] - 1;
            ev_async_send(to->loop, &to->async);
        }
    }
}

/* ---- hooks ---- */

void worker_hook_add(struct worker *w, struct worker_hook *h)
{
    CHECK(worker_is_here(w) && !list_linked(&h->node));
    list_push_back(&w->hooks, &h->node);
}

void worker_hook_once(struct worker *w, struct worker_hook *h)
{
    DCHECK(worker_is_here(w));
    if (!list_linked(&h->node))
        list_push_back(&w->once, &h->node);
}

static void run_hooks(struct worker *w)
{
    struct list now, *n;

    LIST_FOREACH_SAFE (p, &w->hooks) {
        struct worker_hook *h = LIST_ENTRY(p, struct worker_hook, node);
        h->run(w, h);
    }
    /* A hook that adds itself while it runs has its turn next time. */
    list_init(&now);
    list_splice(&now, &w->once);
    while ((n = list_pop_front(&now)) != NULL) {
        struct worker_hook *h = LIST_ENTRY(n, struct worker_hook, node);
        h->run(w, h);
    }
}

/* ---- P5 ---- */

void worker_note_oneway(struct worker *w, unsigned n)
{
    w->oneway += n;
}

void worker_note_reply(struct worker *w)
{
    w->replied = true;
}

/* One-way traffic that comes a message at a time costs a loop turn each, some twenty times what the message
 * does; a short sleep lets the kernel gather them into one read. */
static void nap_if_dense(struct worker *w)
{
    if (w->oneway == 0)
        return;
    if (w->dense && !w->replied && w->oneway < 16) {
        struct timespec ts = {0, (long)w->set->coalesce_us * 1000};

        nanosleep(&ts, NULL);
        stat_add(&w->stats.naps, 1);
    }
    w->turn_end_ticks = clock_ticks();
}

/* ---- the turn ---- */

static bool work_is_pending(const struct worker *w)
{
    return w->dirty != NULL || !list_empty(&w->resumes) || !list_empty(&w->once) || !list_empty(&w->dead) ||
           atomic_load_explicit(&w->mailbox, memory_order_relaxed) != NULL;
}

static void before_poll(struct worker *w)
{
    bool pending;

    conn_run_ahead(w);
    worker_drain_mail(w);
    conn_run_resumes(w);
    run_hooks(w);
    output_write_dirty(w);
    conn_finish_dead(w);
    send_wakeups(w);
    pending = w->stopping || work_is_pending(w);
    if (w->stopping)
        ev_break(w->loop, EVBREAK_ALL); /* in the very first turn a poll follows nevertheless: it must not wait */
    if (pending)
        ev_async_send(w->loop, &w->async);
    stat_add(&w->stats.turns, 1);
    atomic_fetch_add_explicit(&w->quiescent, 1, memory_order_release); /* even: asleep */
    if (w->set->coalesce_us != 0 && !pending)
        nap_if_dense(w);
}

static void after_poll(struct worker *w)
{
    /* Sequentially consistent: a view loaded in this turn must not be loaded before the counter is seen odd.
     */
    atomic_fetch_add_explicit(&w->quiescent, 1, memory_order_seq_cst);
    read_clock(w);
    if (w->turn_end_ticks != 0) {
        w->dense = clock_ticks() - w->turn_end_ticks < w->set->coalesce_ticks;
        w->turn_end_ticks = 0;
    } else {
        w->dense = false;
    }
    w->oneway = 0;
    w->replied = false;
}

/* Stands in for ev_invoke_pending: libev calls it when ev_run begins, and behind every poll. */
static void turn(struct ev_loop *loop)
{
    struct worker *w = ev_userdata(loop);

    after_poll(w);
    ev_invoke_pending(loop);
    before_poll(w);
}

static void wake_up(struct ev_loop *loop, ev_async *watcher, int revents)
{
    /* Its work is to end the poll; before_poll looks at everything. */
    (void)loop;
    (void)watcher;
    (void)revents;
}

static void wheel_fire(struct ev_loop *loop, ev_timer *watcher, int revents)
{
    struct worker *w = watcher->data;

    (void)loop;
    (void)revents;
    conn_wheel_tick(w);
    if (w->now_us - w->rate_checked_us >= 1000000) {
        uint64_t total = w->stats.bytes_in + w->stats.bytes_out;

        __atomic_store_n(&w->bytes_last_second, total - w->bytes_tick, __ATOMIC_RELAXED);
        w->bytes_tick = total;
        w->rate_checked_us = w->now_us;
        output_trim_pools(w, POOL_BUFS_IDLE);
    }
    if (list_empty(&w->conns))
        ev_timer_stop(loop, watcher);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    char name[16];

    current = w;
    snprintf(name, sizeof(name), "worker-%u", w->index);
    pthread_setname_np(pthread_self(), name);
    prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
    ev_now_update(w->loop);
    ev_run(w->loop, 0);
    atomic_fetch_add_explicit(&w->quiescent, 1, memory_order_seq_cst); /* odd: what the closing of connections looks at */
    conn_close_all(w);
    atomic_fetch_add_explicit(&w->quiescent, 1, memory_order_release);
    return NULL;
}

/* ---- the set ---- */

static int worker_init(struct worker *w, struct workers *ws, unsigned index, size_t read_buf_size)
{
    w->magic = WORKER_MAGIC;
    w->index = index;
    w->set = ws;
    list_init(&w->hooks);
    list_init(&w->once);
    list_init(&w->conns);
    list_init(&w->resumes);
    list_init(&w->dead);
    for (unsigned i = 0; i < WHEEL_SLOTS; i++)
        list_init(&w->wheel[i]);
    w->loop = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
    if (w->loop == NULL)
        return ERR_NOFILE; /* an epoll descriptor and an eventfd are all it needs */
    w->read_buf_size = read_buf_size;
    w->read_buf = mem_alloc(read_buf_size);
    w->ahead_buf = mem_alloc((AHEAD + 1) * AHEAD_BYTES);
    ev_set_userdata(w->loop, w);
    ev_set_invoke_pending_cb(w->loop, turn);
    ev_async_init(&w->async, wake_up);
    ev_init(&w->wheel_timer, wheel_fire);
    w->wheel_timer.repeat = 1.0 / WHEEL_SLOTS;
    w->async.data = w->wheel_timer.data = w;
    ev_async_start(w->loop, &w->async);
    read_clock(w);
    return 0;
}

int workers_new(const struct workers_options *options, struct workers **ret)
{
    size_t read_buf_size = options->read_buffer_size == 0 ? 65536 : options->read_buffer_size;
    struct workers *ws;
    int err = 0;

    if (options->count < 1 || options->count > WORKERS_MAX || options->extra > WORKERS_EXTRA_MAX || options->coalesce_us > 100000 ||
        read_buf_size < 4096)
        return ERR_INVALID;
    ws = mem_zalloc(sizeof(*ws));
    ws->client_count = options->count;
    ws->count = options->count + options->extra;
    ws->coalesce_us = options->coalesce_us;
    ws->sockets_max = options->sockets_max;
    if (ws->coalesce_us != 0) {
        /* ticks of coalesce_us, from what a large number of ticks is */
        uint64_t ns = clock_ticks_to_ns(1ull << 30);

        ws->coalesce_ticks =
            (uint64_t)((double)(1ull << 30) * ws->coalesce_us * 1000.0 / (double)MAX_OF(ns, 1u));
    }
    CHECK(posix_memalign((void **)&ws->list, 64, ws->count * sizeof(ws->list[0])) == 0);
    memset(ws->list, 0, ws->count * sizeof(ws->list[0]));
    ws->bg = bg_new(ws);
    for (unsigned i = 0; i < ws->count && err == 0; i++)
        err = worker_init(&ws->list[i], ws, i, read_buf_size);
    if (err < 0) {
        workers_free(ws);
        return err;
    }
    *ret = ws;
    return 0;
}

int workers_start(struct workers *ws)
{
    sigset_t all, old;
    int err = 0;

    CHECK(!ws->started);
    ws->started = true;
    /* Signals are for the main thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned i = 0; i < ws->count; i++)
        ws->list[i].running = true;
    for (unsigned i = 0; i < ws->count && err == 0; i++) {
        struct worker *w = &ws->list[i];

        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            err = ERR_LIMIT;
        else
            w->started = true;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err < 0)
        workers_stop(ws);
    return err;
}

struct stop_mail {
    struct mail mail;
};

static void deliver_stop(struct worker *w, struct mail *m)
{
    mem_free(CONTAINER_OF(m, struct stop_mail, mail));
    w->stopping = true;
}

void workers_stop(struct workers *ws)
{
    struct worker *before = current;

    CHECK(current == NULL || current->set != ws);
    for (unsigned i = 0; i < ws->count; i++) {
        struct worker *w = &ws->list[i];

        if (w->started) {
            struct stop_mail *m = mem_zalloc(sizeof(*m));

            m->mail.deliver = deliver_stop;
            worker_post(w, &m->mail);
        }
    }
    for (unsigned i = 0; i < ws->count; i++) {
        struct worker *w = &ws->list[i];

        if (w->started)
            pthread_join(w->thread, NULL);
        w->started = w->running = false;
        w->stopping = true;
    }
    bg_stop(ws->bg);
    /* Mail that came too late is delivered here, so that its owners can let go of it. */
    for (bool any = true; any;) {
        any = false;
        for (unsigned i = 0; i < ws->count; i++) {
            struct worker *w = &ws->list[i];

            if (atomic_load(&w->mailbox) == NULL && list_empty(&w->conns))
                continue;
            any = true;
            current = w;
            worker_drain_mail(w);
            conn_close_all(w);
            current = before;
        }
    }
}

void workers_free(struct workers *ws)
{
    if (ws == NULL)
        return;
    bg_stop(ws->bg);
    bg_free(ws->bg);
    for (unsigned i = 0; i < ws->count; i++) {
        struct worker *w = &ws->list[i];

        if (w->loop == NULL)
            continue;
        CHECK(!w->started && list_empty(&w->conns));
        output_trim_pools(w, 0);
        buf_fini(&w->sink);
        mem_free(w->map.slots);
        mem_free(w->read_buf);
        mem_free(w->ahead_buf);
        ev_loop_destroy(w->loop);
        w->magic = 0;
    }
    free(ws->list);
    mem_free(ws);
}

/* ---- run on each ---- */

struct each_mail {
    struct mail mail;
    void (*fn)(struct worker *w, void *arg);
    void *arg;
    sem_t *done;
};

static void deliver_each(struct worker *w, struct mail *m)
{
    struct each_mail *e = CONTAINER_OF(m, struct each_mail, mail);

    e->fn(w, e->arg);
    sem_post(e->done);
}

void workers_run_each(struct workers *ws, void (*fn)(struct worker *w, void *arg), void *arg)
{
    struct each_mail *mails;
    sem_t done;

    CHECK(current == NULL || current->set != ws);
    if (!ws->list[0].started) {
        for (unsigned i = 0; i < ws->count; i++)
            fn(&ws->list[i], arg);
        return;
    }
    mails = mem_calloc(ws->count, sizeof(mails[0]));
    CHECK(sem_init(&done, 0, 0) == 0);
    for (unsigned i = 0; i < ws->count; i++) {
        mails[i] = (struct each_mail){{NULL, deliver_each}, fn, arg, &done};
        worker_post(&ws->list[i], &mails[i].mail);
    }
    for (unsigned i = 0; i < ws->count; i++) {
        while (sem_wait(&done) < 0)
            CHECK(errno == EINTR);
    }
    sem_destroy(&done);
    mem_free(mails);
}

void worker_run(struct worker *w, void (*fn)(struct worker *w, void *arg), void *arg)
{
    struct each_mail mail = {{NULL, deliver_each}, fn, arg, NULL};
    sem_t done;

    CHECK(current == NULL || current->set != w->set);
    if (!w->started) {
        fn(w, arg);
        return;
    }
    CHECK(sem_init(&done, 0, 0) == 0);
    mail.done = &done;
    worker_post(w, &mail.mail);
    while (sem_wait(&done) < 0)
        CHECK(errno == EINTR);
    sem_destroy(&done);
}

void worker_get_stats(const struct worker *w, struct worker_stats *ret)
{
    const uint64_t *from = (const uint64_t *)&w->stats;
    uint64_t *to = (uint64_t *)ret;

    for (size_t i = 0; i < sizeof(*ret) / sizeof(uint64_t); i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

/* ---- timers ---- */

struct timer_impl {
    ev_timer timer;
    struct worker *worker;
};
_Static_assert(sizeof(struct timer_impl) <= sizeof(((struct io_timer *)NULL)->impl), "io_timer is too small");

static struct timer_impl *timer_impl(const struct io_timer *t)
{
    return (struct timer_impl *)(uintptr_t)t->impl;
}

static void timer_fire(struct ev_loop *loop, ev_timer *watcher, int revents)
{
    struct io_timer *t = watcher->data;

    (void)loop;
    (void)revents;
    t->fire(timer_impl(t)->worker, t);
}

void io_timer_init(struct io_timer *t, void (*fire)(struct worker *w, struct io_timer *t))
{
    struct timer_impl *i = timer_impl(t);

    memset(t, 0, sizeof(*t));
    t->fire = fire;
    ev_init(&i->timer, timer_fire);
    i->timer.data = t;
}

void io_timer_start(struct worker *w, struct io_timer *t, uint64_t delay_ms, uint64_t repeat_ms)
{
    struct timer_impl *i = timer_impl(t);

    DCHECK(worker_is_here(w));
    CHECK(t->fire != NULL && (i->worker == NULL || i->worker == w));
    i->worker = w;
    ev_timer_stop(w->loop, &i->timer);
    if (!w->running)
        ev_now_update(w->loop);
    ev_timer_set(&i->timer, (double)delay_ms / 1000.0, (double)repeat_ms / 1000.0);
    ev_timer_start(w->loop, &i->timer);
}

void io_timer_stop(struct worker *w, struct io_timer *t)
{
    struct timer_impl *i = timer_impl(t);

    if (t->fire == NULL || i->worker == NULL)
        return;
    DCHECK(worker_is_here(w));
    CHECK(i->worker == w);
    ev_timer_stop(w->loop, &i->timer);
}

bool io_timer_active(const struct io_timer *t)
{
    return t->fire != NULL && ev_is_active(&timer_impl(t)->timer);
}
