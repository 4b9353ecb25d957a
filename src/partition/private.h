/* What the files of src/partition share. Nobody else includes this but the tests.
 *
 * Locks: ps->spanning -> partition.lock (ascending) -> ps->park_mutex. ps->mutex guards the lists of background work and is a leaf. */
#ifndef GM_PARTITION_PRIVATE_H
#define GM_PARTITION_PRIVATE_H

#include <pthread.h>
#include <stddef.h>

#include "base/err.h"
#include "base/futex_lock.h"
#include "partition/partition.h"
#include "partition/queues.h"
#include "partition/replay.h"

#define PARTITION_MAGIC 0x70617274u
#define PARTITIONS_MAGIC 0x70617273u

/* Who was parked here, in order of arrival. */
struct parking {
    uint32_t count;      /* atomic; changed under park_mutex */
    bool for_opening;    /* nobody is woken because the lock is free: only by partition_unpark_opened */
    struct list list;    /* under park_mutex */
    struct partitions *ps;
    struct partition *p; /* NULL: the spanning lock's */
    uint64_t total;      /* atomic */
};

struct partition {
    /* the fast path's: one cache line */
    _Alignas(64) struct futex_lock lock;
    uint32_t magic;
    uint32_t index;
    uint32_t state;   /* atomic: enum partition_state */
    uint32_t waiters; /* atomic: workers that try to enter */
    uint32_t role;    /* atomic: enum partition_role */
    int32_t epoch;    /* atomic: leader epoch of that role */
    bool leased;      /* atomic: the node's lease is to be looked at */
    bool quorum_missing; /* atomic: fewer than min_insync replicas are in sync */
    bool queues_stirred; /* under the lock: leaving has queues to flush */
    struct kv *kv;
    struct log *main;
    int64_t floor_ms; /* under the lock: while this node leads, no effect of the main log is younger (rule 10) */
    struct parking parking;
    struct partitions *ps;
    struct partition_queues queues;
    struct batch_builder builder; /* for commands over several partitions; others use their thread's */
    struct parking opening; /* who waits for a queue that is being opened */

    int error;                  /* atomic */
    struct mutex replica_mutex; /* a follower's appends and what cuts its main log; behind `lock`, a leaf */
    int64_t recovered_end;      /* of the main log, before anything is dropped (rule 5) */
    int64_t snapshot_start;     /* atomic; -1: none */
    uint64_t snapshot_bytes;    /* atomic: of the log when the last snapshot was valid */
    uint64_t snapshot_hold_max_us; /* atomic */
    uint64_t snapshot_hold_cpu_max_us; /* atomic */
    uint64_t snapshot_retry_us; /* atomic: maintenance starts none before */
    uint64_t keys;              /* atomic: as last seen under the lock */
    uint64_t expired_total;     /* the same */
    uint64_t expires;           /* atomic: maintenance looks only where there are some */
    uint64_t replayed_bytes;
    bool rebuilding;            /* atomic */
    int64_t applied;            /* atomic: a follower's memory is the main log up to here (apply.c); the leader's is its end */
    uint32_t cuts;              /* atomic: how often the log was cut or replaced */
    uint32_t apply_cuts;        /* of which `apply` knows */
    struct replay apply;        /* the applier's (apply.c) */
    int64_t stale_from;         /* atomic: below, memory is a fuzzy snapshot that its log has not made whole yet */
    int64_t pinned;             /* atomic: the log stays from here on for a replica that gets a snapshot; INT64_MAX: no pin */
};

_Static_assert(offsetof(struct partition, parking.count) + 4 <= 64, "entering and leaving look at one cache line");

/* A worker's woken parks: one mail for all of them. */
struct waker {
    struct mail mail;
    struct partitions *ps;
    struct list woken; /* under park_mutex */
    bool posted;       /* under park_mutex */
};

struct snapshot_request {
    struct list node;
    uint32_t index;
    void (*done)(void *arg, int err);
    void *arg;
};

struct partitions {
    uint32_t magic;
    struct partitions_options o;
    struct partition *all; /* owned, aligned to cache lines */
    pthread_rwlock_t spanning;
    struct parking spanning_parking;
    struct mutex park_mutex;
    struct waker *wakers;
    unsigned waker_count;
    bool ready; /* atomic */
    uint64_t lease_until_us; /* atomic: CLOCK_BOOTTIME; UINT64_MAX: for ever */

    struct mutex mutex;
    pthread_cond_t maintenance_wake;
    pthread_cond_t idle; /* a job ended */
    pthread_t maintenance;
    bool maintenance_started;
    bool stopping; /* atomic; set under mutex */
    struct list snapshot_requests;
    bool snapshot_running;
    uint32_t jobs; /* background jobs under way */
};

/* lock.c */
void parking_init(struct parking *k, struct partitions *ps, struct partition *p);
void parking_fini_all(struct partitions *ps);
void wakers_init(struct partitions *ps);
/* 0, or ERR_PARKED / ERR_BUSY after the wait of P2. */
int partition_lock_slow(struct partition *p, struct partition_park *park);
static inline int partition_lock_worker(struct partition *p, struct partition_park *park) NO_THREAD_SAFETY_ANALYSIS
{
    return GM_LIKELY(futex_lock_try(&p->lock)) ? 0 : partition_lock_slow(p, park);
}
void partition_lock_background(struct partition *p);
void partition_wake_parked(struct partition *p);
static inline void partition_unlock(struct partition *p) NO_THREAD_SAFETY_ANALYSIS
{
    futex_lock_release(&p->lock);
    if (GM_UNLIKELY(__atomic_load_n(&p->parking.count, __ATOMIC_SEQ_CST) != 0))
        partition_wake_parked(p);
}
int spanning_lock_shared(struct partitions *ps, struct partition_park *park);
void spanning_unlock_shared(struct partitions *ps);
void spanning_lock_exclusive(struct partitions *ps);
void spanning_unlock_exclusive(struct partitions *ps);
/* Parks whatever the lock does: the partition hands over (rule 21). */
void partition_park_here(struct partition *p, struct partition_park *park);
/* Openings of queues have ended: all that wait for one look again. */
void partition_unpark_opened(struct partition *p);
/* The role changed: all that are parked try again. */
void partition_unpark_all(struct partition *p);
/* Wakes one of each parking that has some although nobody holds its lock; maintenance calls it as a safety net. True: somebody was parked. */
bool parking_nudge(struct partitions *ps);

/* partition.c */
void partition_fail(struct partition *p, int err, const char *why);
void guard_fill(struct partition_guard *g, struct partition *p, uint32_t db, struct batch_builder *builder);
/* Another than a leader's command may have written the main log since: its time is looked at. Under the lock. */
void partition_note_time(struct partition *p);
#define PARTITION_BUILDER_KEPT (64u << 10) /* a larger batch buffer is freed */
void partition_note_counts(struct partition *p); /* under the lock: for who looks without it */
void partitions_job_begin(struct partitions *ps);
void partitions_job_end(struct partitions *ps);
/* Memory and log have parted (an append failed): forget the memory and replay. On a background thread, later. */
void partition_rebuild(struct partition *p, int err);
char *partition_kv_dir(const struct partition *p); /* owned by the caller */

/* role.c. 0: whoever serves clients may enter now; ERR_* why not. ERR_PARKED: `park` was registered. */
int partition_admit_slow(struct partition *p, struct partition_park *park);
/* One branch on a node alone: open, leader, no lease to look at. */
static inline int partition_admit(struct partition *p, struct partition_park *park)
{
    uint32_t odd = (__atomic_load_n(&p->state, __ATOMIC_ACQUIRE) ^ PARTITION_OPEN) |
                   (__atomic_load_n(&p->role, __ATOMIC_RELAXED) ^ PARTITION_LEADER) | __atomic_load_n(&p->leased, __ATOMIC_RELAXED);

    return GM_LIKELY(odd == 0) ? 0 : partition_admit_slow(p, park);
}
/* This node appends to the partition's logs by itself. Under the lock it stands still. */
static inline bool partition_writes(const struct partition *p)
{
    return __atomic_load_n(&p->role, __ATOMIC_RELAXED) >= PARTITION_LEADER;
}
int partition_stale_refusal(const struct partition *p);
/* Looked at again when a command was executed (rule 20): ERR_NO_LEASE. */
static inline int partition_still_leased(const struct partition *p)
{
    return GM_LIKELY(!__atomic_load_n(&p->leased, __ATOMIC_RELAXED)) || partitions_lease_ok(p->ps) ? 0 : ERR_NO_LEASE;
}

/* apply.c: memory anew from snapshot and log, as far as the role may show; under the lock. */
int partition_reload(struct partition *p);

/* recover.c: loads the snapshot and replays the main log into an empty kv. */
int partition_replay(struct partition *p, void (*progress)(void *arg, uint64_t bytes), void *arg);
/* The newest snapshot alone: *ret_from is where its log begins, *ret_whole the offset from which on memory is consistent. */
int partition_load_snapshot(struct partition *p, int64_t *ret_from, int64_t *ret_whole);

/* maintenance.c */
void maintenance_start(struct partitions *ps);
void maintenance_stop(struct partitions *ps);

/* snapshots.c */
void snapshots_stop(struct partitions *ps);

#define ALOAD(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ALOADX(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define ASTORE(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define ASTOREX(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)

#endif
