/* One thread of the node's partitions: expiry (P22), the queues' timers, the start of snapshots, and the safety net under parked commands. It takes partition
 * locks, hence normal priority, and holds one for at most a millisecond (P1).
 *
 * It looks every 20 ms while a timer of a queue is about to end or a command is parked, else every 100 ms: a look touches every partition, and fifty a second were most of
 * what an idle node did. A timer of less than a second that is set on a node at rest may so be seen 100 ms late. */
#include <signal.h>
#include <time.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "partition/private.h"

#define TICK_MS 20
#define IDLE_MS 100
#define EXPIRE_MS 100 /* as Redis' hz 10 */
#define SNAPSHOT_MS 1000
#define HOLD_US 1000
#define EFFECT_ROOM (256u << 10) /* what a batch of deletions may take */

/* Up to a millisecond, in batches of 100 keys, each with its own look at who waits. */
static void expire(struct partition *p)
{
    struct partition_guard g;
    uint64_t begun;
    bool more;

    if (partition_state(p) != PARTITION_OPEN || partition_role(p) != PARTITION_LEADER)
        return;
    partition_enter_background(p, 0, &g);
    if (!partition_writes(p)) {
        partition_leave(&g); /* it stopped leading meanwhile */
        return;
    }
    begun = clock_mono_us();
    /* Deletions may use the reserve of a full disk; beyond that the expired wait, unseen by readers. */
    more = log_append_prepare(p->main, EFFECT_ROOM) == 0;
    while (more && partition_state(p) == PARTITION_OPEN && clock_mono_us() - begun < HOLD_US) {
        more = kv_expire_cycle(&g.kv, 100) == 100;
        if (partition_is_wanted(p))
            break;
    }
    partition_leave(&g);
}

static void start_snapshots(struct partitions *ps, uint64_t now_us)
{
    for (uint32_t i = 0; i < ps->o.count; i++) {
        struct partition *p = &ps->all[i];
        uint64_t bytes;

        if (partition_state(p) != PARTITION_OPEN || now_us < ALOADX(&p->snapshot_retry_us))
            continue;
        bytes = log_bytes(p->main);
        if (bytes >= ALOADX(&p->snapshot_bytes) && bytes - ALOADX(&p->snapshot_bytes) >= ALOADX(&ps->o.snapshot_log_bytes)) {
            ASTOREX(&p->snapshot_retry_us, now_us + 60 * 1000000); /* a minute, if it fails */
            partitions_snapshot(ps, i, NULL, NULL);
        }
    }
}

/* Sleeps so long, or until the node stops. */
static void doze(struct partitions *ps, unsigned ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ms * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    mutex_lock(&ps->mutex);
    if (!ps->stopping)
        pthread_cond_timedwait(&ps->maintenance_wake, &ps->mutex.m, &until);
    mutex_unlock(&ps->mutex);
}

/* One look at all partitions. True: something will be due soon. */
static bool look(struct partitions *ps, bool expiry)
{
    bool soon = parking_nudge(ps);
    int64_t now_ms = clock_wall_ms();

    for (uint32_t i = 0; i < ps->o.count && !ALOAD(&ps->stopping); i++) {
        struct partition *p = &ps->all[i];

        if (partition_state(p) != PARTITION_OPEN)
            continue;
        if (expiry && ALOADX(&p->expires) != 0)
            expire(p);
        if (partition_role(p) == PARTITION_LEADER && partitions_lease_ok(ps)) /* without a lease nobody's use of a queue is known here */
            partition_queues_tick(&p->queues, now_ms);
        soon = soon || partition_queues_due_soon(&p->queues, now_ms);
    }
    return soon;
}

static void *maintenance_main(void *arg)
{
    struct partitions *ps = arg;
    uint64_t expired_us = 0, snapshots_us = 0;
    bool soon = true;

    while (!ALOAD(&ps->stopping)) {
        uint64_t now_us;
        bool expiry;

        doze(ps, soon ? TICK_MS : IDLE_MS);
        now_us = clock_mono_us();
        expiry = now_us - expired_us >= EXPIRE_MS * 1000;
        if (expiry)
            expired_us = now_us;
        soon = look(ps, expiry);
        if (now_us - snapshots_us >= SNAPSHOT_MS * 1000) {
            snapshots_us = now_us;
            start_snapshots(ps, now_us);
        }
    }
    return NULL;
}

void maintenance_start(struct partitions *ps)
{
    pthread_condattr_t attr;
    sigset_t all, old;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&ps->maintenance_wake, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    CHECK(pthread_create(&ps->maintenance, NULL, maintenance_main, ps) == 0);
    pthread_setname_np(ps->maintenance, "partitions");
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    mutex_lock(&ps->mutex);
    ps->maintenance_started = true;
    mutex_unlock(&ps->mutex);
}

void maintenance_stop(struct partitions *ps)
{
    mutex_lock(&ps->mutex);
    /* Recovery, which starts it, is a job too. */
    while (!ps->maintenance_started && ps->jobs != 0)
        pthread_cond_wait(&ps->idle, &ps->mutex.m);
    if (!ps->maintenance_started) {
        mutex_unlock(&ps->mutex);
        return;
    }
    pthread_cond_broadcast(&ps->maintenance_wake);
    mutex_unlock(&ps->mutex);
    pthread_join(ps->maintenance, NULL);
    pthread_cond_destroy(&ps->maintenance_wake);
    ps->maintenance_started = false;
}
