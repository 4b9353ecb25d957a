/* One thread of the node's partitions: expiry (P22), the queues' timers, the start of snapshots, and the safety net under parked commands. It takes partition
 * locks, hence normal priority, and holds one for at most a millisecond (P1). */
#include <signal.h>
#include <time.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "partition/private.h"

#define TICK_MS 20
#define EXPIRE_TICKS 5   /* every 100 ms, as Redis' hz 10 */
#define SNAPSHOT_TICKS 50
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

static void *maintenance_main(void *arg)
{
    struct partitions *ps = arg;
    unsigned tick = 0;

    while (!ALOAD(&ps->stopping)) {
        struct timespec until;
        int64_t now_ms;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += TICK_MS * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        mutex_lock(&ps->mutex);
        if (!ps->stopping)
            pthread_cond_timedwait(&ps->maintenance_wake, &ps->mutex.m, &until);
        mutex_unlock(&ps->mutex);
        tick++;
        now_ms = clock_wall_ms();
        parking_nudge(ps);
        for (uint32_t i = 0; i < ps->o.count && !ALOAD(&ps->stopping); i++) {
            struct partition *p = &ps->all[i];

            if (partition_state(p) != PARTITION_OPEN)
                continue;
            if (tick % EXPIRE_TICKS == 0 && ALOADX(&p->expires) != 0)
                expire(p);
            if (partition_role(p) == PARTITION_LEADER && partitions_lease_ok(ps)) /* without a lease nobody's use of a queue is known here */
                partition_queues_tick(&p->queues, now_ms);
        }
        if (tick % SNAPSHOT_TICKS == 0)
            start_snapshots(ps, clock_mono_us());
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
