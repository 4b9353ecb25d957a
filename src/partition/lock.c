/* The partition lock (P1, P2).
 *
 * A worker tries; failing that it announces itself in `waiters`, spins 5 us, waits until 500 us have passed, then parks: its session leaves a struct partition_park and
 * goes on with other work. Whoever unlocks wakes one of those parked, by a mail to its worker.
 *
 * Nobody is forgotten: a worker enters the parking's list first and then tries the lock once more, an unlocker unlocks first and then looks at the count. Either the
 * last try succeeds or the unlocker sees the count: neither the exchange that unlocks nor the try that locks lets a load pass. Maintenance nudges nevertheless
 * (parking_nudge), for the spanning lock, which promises no such thing.
 *
 * A background holder looks at partition_is_wanted after every key or 16 elements; when it has given the lock up it waits until no worker waits before it takes it
 * again, since a released lock goes to whoever is running, and that is the one who released it.
 *
 * Clang's analysis cannot follow sets of locks taken in order: the functions here that take or give them are exempt. */
#include <sched.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "partition/private.h"

#define SPIN_NS 5000
#define WAIT_NS 500000
#define POLITE_MAX_US 100000 /* a background holder waits no longer for workers to be done */

static void deliver_woken(struct worker *w, struct mail *m);

void parking_init(struct parking *k, struct partitions *ps, struct partition *p)
{
    k->ps = ps;
    k->p = p;
    list_init(&k->list);
    k->count = 0;
}

void wakers_init(struct partitions *ps)
{
    ps->waker_count = workers_count(ps->o.workers);
    ps->wakers = mem_calloc(ps->waker_count, sizeof(ps->wakers[0]));
    for (unsigned i = 0; i < ps->waker_count; i++) {
        ps->wakers[i].mail.deliver = deliver_woken;
        ps->wakers[i].ps = ps;
        list_init(&ps->wakers[i].woken);
    }
}

/* ---- parking ----------------------------------------------------------------------------------------------------------- */

static void park_add(struct parking *k, struct partition_park *park)
{
    struct partitions *ps = k->ps;

    CHECK(!list_linked(&park->node));
    mutex_lock(&ps->park_mutex);
    park->at = park->from = k;
    list_push_back(&k->list, &park->node);
    __atomic_fetch_add(&k->count, 1, __ATOMIC_SEQ_CST);
    mutex_unlock(&ps->park_mutex);
    __atomic_fetch_add(&k->total, 1, __ATOMIC_RELAXED);
}

/* Wherever it is; under park_mutex. */
static void park_take(struct partition_park *park)
{
    if (park->at != NULL)
        __atomic_fetch_sub(&park->at->count, 1, __ATOMIC_SEQ_CST);
    park->at = NULL;
    list_remove(&park->node);
}

/* Who waits for the end of a handover is not woken by an unlock: it would only park again. */
static bool hands_over(const struct parking *k)
{
    return !k->for_opening && k->p != NULL && ALOADX(&k->p->role) == PARTITION_PARKED;
}

static void wake_one(struct parking *k)
{
    struct partitions *ps = k->ps;
    struct waker *waker;
    bool post = false;

    mutex_lock(&ps->park_mutex);
    if (!list_empty(&k->list) && !hands_over(k)) {
        struct partition_park *park = LIST_ENTRY(k->list.next, struct partition_park, node);

        park_take(park);
        waker = &ps->wakers[worker_index(park->worker)];
        list_push_back(&waker->woken, &park->node);
        post = !waker->posted;
        waker->posted = true;
        if (post)
            worker_post(park->worker, &waker->mail);
    }
    mutex_unlock(&ps->park_mutex);
}

static bool is_free(struct parking *k) NO_THREAD_SAFETY_ANALYSIS
{
    if (k->for_opening)
        return false;
    if (k->p == NULL) {
        if (pthread_rwlock_tryrdlock(&k->ps->spanning) != 0)
            return false;
        pthread_rwlock_unlock(&k->ps->spanning);
        return true;
    }
    if (hands_over(k) || !futex_lock_try(&k->p->lock))
        return false;
    futex_lock_release(&k->p->lock);
    return true;
}

static void deliver_woken(struct worker *w, struct mail *m)
{
    struct waker *waker = CONTAINER_OF(m, struct waker, mail);
    struct partitions *ps = waker->ps;
    unsigned n = 0;

    for (;;) {
        struct partition_park *park;
        struct parking *from;

        mutex_lock(&ps->park_mutex);
        if (n == 0)
            waker->posted = false; /* who is woken from here on gets a mail of its own */
        if (list_empty(&waker->woken) || n++ == 64) {
            /* A command that parks again and is woken at once must not keep the loop from its other work. */
            if (!list_empty(&waker->woken) && !waker->posted) {
                waker->posted = true;
                worker_post(w, &waker->mail);
            }
            mutex_unlock(&ps->park_mutex);
            return;
        }
        park = LIST_ENTRY(waker->woken.next, struct partition_park, node);
        from = park->from;
        park_take(park);
        mutex_unlock(&ps->park_mutex);
        park->retry(w, park);
        /* Had it no more business here, the next must not wait for somebody else's unlock. */
        if (__atomic_load_n(&from->count, __ATOMIC_SEQ_CST) != 0 && is_free(from))
            wake_one(from);
    }
}

void partition_park_cancel(struct partition_park *park)
{
    struct parking *from = park->from;
    bool woken;

    if (from == NULL)
        return;
    mutex_lock(&from->ps->park_mutex);
    woken = list_linked(&park->node);
    park_take(park);
    mutex_unlock(&from->ps->park_mutex);
    park->from = NULL;
    if (woken && __atomic_load_n(&from->count, __ATOMIC_SEQ_CST) != 0 && is_free(from))
        wake_one(from);
}

static bool nudge(struct parking *k)
{
    if (ALOADX(&k->count) == 0)
        return false;
    if (is_free(k))
        wake_one(k);
    return true;
}

bool parking_nudge(struct partitions *ps)
{
    bool any = nudge(&ps->spanning_parking);

    for (uint32_t i = 0; i < ps->o.count; i++)
        any = nudge(&ps->all[i].parking) || any;
    return any;
}

void partition_park_here(struct partition *p, struct partition_park *park)
{
    park_add(&p->parking, park);
}

void partition_park_opening(struct partition_guard *g, struct partition_park *park)
{
    park_add(&g->p->opening, park);
}

void partition_unpark_opened(struct partition *p)
{
    for (uint32_t n = ALOAD(&p->opening.count); n > 0; n--)
        wake_one(&p->opening);
}

void partition_unpark_all(struct partition *p)
{
    for (uint32_t n = ALOAD(&p->parking.count); n > 0; n--)
        wake_one(&p->parking);
}

/* ---- the lock of one ------------------------------------------------------------------------------------------------------ */

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static struct timespec deadline_in(uint64_t ns)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    ns += (uint64_t)ts.tv_nsec;
    ts.tv_sec += (time_t)(ns / 1000000000);
    ts.tv_nsec = (long)(ns % 1000000000);
    return ts;
}

/* gcc 12's ThreadSanitizer does not know the clock variants of the waits, and takes their locks for not held. */
#if defined(__SANITIZE_THREAD__)
#define WAIT_UNTIL(until, try)                                                                               \
    ({                                                                                                       \
        struct timespec now_, nap_ = {0, 10000};                                                             \
        int err_;                                                                                            \
        while ((err_ = (try)) != 0) {                                                                        \
            clock_gettime(CLOCK_MONOTONIC, &now_);                                                           \
            if (now_.tv_sec > (until)->tv_sec || (now_.tv_sec == (until)->tv_sec && now_.tv_nsec > (until)->tv_nsec)) \
                break;                                                                                       \
            nanosleep(&nap_, NULL);                                                                          \
        }                                                                                                    \
        err_;                                                                                                \
    })
#define RWLOCK_WAIT(l, until) WAIT_UNTIL(until, pthread_rwlock_tryrdlock(l))
#else
#define RWLOCK_WAIT(l, until) pthread_rwlock_clockrdlock(l, CLOCK_MONOTONIC, until)
#endif

int partition_lock_slow(struct partition *p, struct partition_park *park) NO_THREAD_SAFETY_ANALYSIS
{
    uint64_t begun = clock_mono_ns();
    int err = 0;

    __atomic_fetch_add(&p->waiters, 1, __ATOMIC_SEQ_CST);
    do {
        for (int i = 0; i < 32; i++)
            relax();
        if (futex_lock_try(&p->lock))
            goto done;
    } while (clock_mono_ns() - begun < SPIN_NS);
    if (futex_lock_take_until(&p->lock, clock_mono_ns() + WAIT_NS))
        goto done;
    if (park == NULL) {
        err = ERR_BUSY;
        goto done;
    }
    park_add(&p->parking, park);
    err = ERR_PARKED;
    if (futex_lock_try(&p->lock)) {
        mutex_lock(&p->ps->park_mutex);
        park_take(park);
        mutex_unlock(&p->ps->park_mutex);
        err = 0;
    }
done:
    __atomic_fetch_sub(&p->waiters, 1, __ATOMIC_SEQ_CST);
    return err;
}

void partition_wake_parked(struct partition *p)
{
    wake_one(&p->parking);
}

struct kv *partition_peek(struct partition *p) NO_THREAD_SAFETY_ANALYSIS
{
    if (__atomic_load_n(&p->state, __ATOMIC_ACQUIRE) != PARTITION_OPEN || ALOADX(&p->role) != PARTITION_LEADER || !futex_lock_try(&p->lock))
        return NULL;
    return p->kv;
}

void partition_unpeek(struct partition *p)
{
    partition_unlock(p);
}

bool partition_is_wanted(const struct partition *p)
{
    return ALOADX(&p->waiters) != 0 || ALOADX(&p->parking.count) != 0;
}

void partition_lock_background(struct partition *p) NO_THREAD_SAFETY_ANALYSIS
{
    if (ALOAD(&p->waiters) != 0) {
        uint64_t begun = clock_mono_us();

        for (unsigned i = 0; ALOAD(&p->waiters) != 0 && clock_mono_us() - begun < POLITE_MAX_US; i++) {
            if (i < 50) {
                sched_yield();
            } else {
                struct timespec nap = {0, 20000};

                nanosleep(&nap, NULL);
            }
        }
    }
    futex_lock_take(&p->lock);
}

/* ---- the spanning lock ------------------------------------------------------------------------------------------------------- */

int spanning_lock_shared(struct partitions *ps, struct partition_park *park) NO_THREAD_SAFETY_ANALYSIS
{
    struct timespec until;
    uint64_t begun;

    if (pthread_rwlock_tryrdlock(&ps->spanning) == 0)
        return 0;
    begun = clock_mono_ns();
    do {
        for (int i = 0; i < 32; i++)
            relax();
        if (pthread_rwlock_tryrdlock(&ps->spanning) == 0)
            return 0;
    } while (clock_mono_ns() - begun < SPIN_NS);
    until = deadline_in(WAIT_NS);
    if (RWLOCK_WAIT(&ps->spanning, &until) == 0)
        return 0;
    if (park == NULL)
        return ERR_BUSY;
    park_add(&ps->spanning_parking, park);
    if (pthread_rwlock_tryrdlock(&ps->spanning) != 0)
        return ERR_PARKED;
    mutex_lock(&ps->park_mutex);
    park_take(park);
    mutex_unlock(&ps->park_mutex);
    return 0;
}

void spanning_unlock_shared(struct partitions *ps) NO_THREAD_SAFETY_ANALYSIS
{
    CHECK(pthread_rwlock_unlock(&ps->spanning) == 0);
}

void spanning_lock_exclusive(struct partitions *ps) NO_THREAD_SAFETY_ANALYSIS
{
    CHECK(pthread_rwlock_wrlock(&ps->spanning) == 0);
}

void spanning_unlock_exclusive(struct partitions *ps) NO_THREAD_SAFETY_ANALYSIS
{
    CHECK(pthread_rwlock_unlock(&ps->spanning) == 0);
    while (GM_UNLIKELY(__atomic_load_n(&ps->spanning_parking.count, __ATOMIC_SEQ_CST) != 0))
        wake_one(&ps->spanning_parking);
}
