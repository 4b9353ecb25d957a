/* Partitions: the unit of placement, locking, replication and failover. One owns a KV keyspace with its main log, the queues that hash to it (guarded by the same lock), and the topic partitions
 * that hash to it (each with its own mutex, P15).
 *
 * Lock order: spanning lock (shared) -> partitions ascending -> topic log -> pub/sub stripe. A worker never sleeps on a partition (P2): it enters at a command's start or is parked.
 * Background holders use partition_enter_background and look at partition_is_wanted (P1).
 *
 * Life of a partition: closed -> recovering (snapshot, replay; parallel over background threads) -> open -> failed (corruption or I/O error: refuses, says why, the others serve) -> closed. */
#ifndef GM_PARTITION_PARTITION_H
#define GM_PARTITION_PARTITION_H

#include "base/mutex.h"
#include "kv/kv.h"
#include "log/log.h"
#include "queue/queue.h"

struct partition;
struct partitions;

enum partition_state { PARTITION_CLOSED, PARTITION_RECOVERING, PARTITION_OPEN, PARTITION_FAILED };

struct partitions_options {
    uint32_t count; /* 1..16384 */
    struct log_store *store;
    struct workers *workers;
    const char *data_dir;
    uint8_t cluster_id[16];
    uint64_t snapshot_log_bytes; /* main log grown by this much since the last snapshot starts one; default 256 MiB */
    uint64_t snapshot_keep_bytes; /* log that stays behind a snapshot for replicas that lag (rule 3); default 256 MiB */
    struct kv_options kv;         /* free_later NULL: freed by a background thread of the workers */
    bool clustered; /* roles follow the topology: partitions start as NONE, memory as their snapshot (rule 2), and cluster/replicate steps them */
    /* A queue without users has reached its end (auto-delete, x-expires): propose its deletion. Under the partition's lock, any thread; may only post. */
    void (*queue_ended)(void *arg, uint64_t queue_id, uint32_t partition);
    void *queue_ended_arg;
};
int partitions_new(const struct partitions_options *options, struct partitions **ret);
/* The cluster id became known; before partitions_recover. */
void partitions_set_cluster(struct partitions *ps, const uint8_t cluster_id[16]);
void partitions_set_snapshot_log_bytes(struct partitions *ps, uint64_t bytes); /* any thread */
/* Recovers all, in parallel on background threads; calls progress now and then (any thread) and done once on a background thread; both may be NULL. A partition that fails does not fail the others. */
void partitions_recover(struct partitions *ps, void (*progress)(void *arg, uint32_t done, uint32_t total, uint64_t bytes), void (*done)(void *arg), void *arg);
bool partitions_ready(const struct partitions *ps); /* any thread */
/* Stops background work, closes logs. No worker uses them any more. */
void partitions_free(struct partitions *ps);

uint32_t partitions_count(const struct partitions *ps);
struct partition *partitions_get(struct partitions *ps, uint32_t index);
uint32_t partition_index(const struct partition *p);

/* ---- placement: partition/placement.c, pure ------------------------------------------------------------------------------------------------ */
uint32_t placement_slot(struct slice key);                       /* CRC16 of the hash tag, 0..16383 */
uint32_t placement_of_slot(uint32_t slot, uint32_t partitions);  /* slot * P / 16384 */
uint32_t placement_of_key(struct slice key, uint32_t partitions);
uint32_t placement_of_queue(struct slice vhost, struct slice name, uint32_t partitions);
uint32_t placement_of_topic(struct slice topic, uint32_t index, uint32_t partitions);
uint32_t placement_of_group(struct slice id, uint32_t partitions); /* groups and transactional ids */

/* ---- entering -------------------------------------------------------------------------------------------------------------------------------------- */
/* Embedded in the session: what a parked command leaves behind. `retry` runs on its worker when the lock is free again; the session then runs the same command anew (usually conn_resume_input). */
struct parking;
struct partition_park {
    struct worker *worker; /* set before entering */
    void (*retry)(struct worker *w, struct partition_park *park);
    struct list node;   /* private from here on */
    struct parking *at; /* where it waits; NULL: its mail is under way */
    struct parking *from;
};

/* What a holder works with. `kv.fx` gathers effects; leaving appends them as one batch. On the stack. */
struct partition_guard {
    struct partition *p;
    struct kv_ctx kv;
    struct effects fx;
    struct log *main;
    int64_t end;  /* set by leave when something was appended: the log's end behind it (the offset a quorum reply waits for); partition_guard_end */
    bool wrote;   /* set by leave: something was appended */
    uint64_t mark; /* log_commit_mark of when it was entered: for commits begun after it was left */
    bool unknown; /* set by leave with an error: it was appended, but may be undone by a failover: the client must not read that it was not done (close its connection) */
    bool background;
    bool stale; /* private: only reads */
    bool in_set;
    uint32_t set_at; /* its place among the guards of partition_enter_set */
};

/* 0: entered. ERR_PARKED: the park is registered (park == NULL: ERR_BUSY instead). ERR_READ_ONLY / ERR_CORRUPT / ERR_IO: the partition has failed. ERR_AGAIN: still recovering. `db` goes
 * into the kv context. Spins 5 us, waits at most 500 us. On a worker. */
int partition_enter(struct partition *p, uint32_t db, struct partition_park *park, struct partition_guard *g);
/* Serves blocked clients, appends the effects, unlocks, wakes one parked. An append that failed marks the partition failed and is returned: replies written since enter must be taken back. */
int partition_leave(struct partition_guard *g);
/* A queue that is needed is being opened (queue_open: ERR_AGAIN): `park`, whose worker and retry are set, is retried when an opening of this partition has ended. Under the lock; then leave. */
void partition_park_opening(struct partition_guard *g, struct partition_park *park);
/* Forgets a park whose session is going away. On its worker. */
void partition_park_cancel(struct partition_park *park);
static inline bool partition_is_parked(const struct partition_park *park)
{
    return list_linked(&park->node);
}

/* P6: the keyspace when the lock is free this very instant, else NULL; only to prefetch with. Ends with partition_unpeek. */
struct kv *partition_peek(struct partition *p);
void partition_unpeek(struct partition *p);

/* Behind leave: what a reply that tells of this visit has to wait for: the log's end behind what was appended, or, of who only read, its end now. */
static inline int64_t partition_guard_end(const struct partition_guard *g)
{
    return g->wrote ? g->end : log_end(g->main);
}

/* Several partitions, ascending and without repeats, under the spanning lock held shared; leave appends one batch to each that was written, naming all participants (rule 5), before any lock is released. `guards` has
 * n elements, in the same order. */
int partition_enter_set(struct partitions *ps, const uint32_t *indexes, uint32_t n, uint32_t db, struct partition_park *park, struct partition_guard *guards);
int partition_leave_set(struct partitions *ps, struct partition_guard *guards, uint32_t n);

/* For clients that asked for stale reads (READONLY): a follower is entered too, whose memory is applied up to its high watermark (rule 2). Only to read. */
int partition_enter_stale(struct partition *p, uint32_t db, struct partition_park *park, struct partition_guard *g);

/* For housekeeping of who waits or watches there (taking blocked clients and watches out of their lists): whatever the role and without a lease, unless the partition has failed or is not recovered yet. Writes nothing. On a worker. */
int partition_enter_upkeep(struct partition *p, struct partition_park *park, struct partition_guard *g);

/* Background threads: waits as long as it takes, honours P1. */
void partition_enter_background(struct partition *p, uint32_t db, struct partition_guard *g);
bool partition_is_wanted(const struct partition *p); /* a worker waits: leave soon */

/* ---- roles ----------------------------------------------------------------------------------------------------------------------------------------------
 * What this node is to a partition follows the topology; cluster/replicate steps it. On a node alone every partition is LEADER at epoch 1 without lease, and none of this costs anything.
 *
 *   NONE      no replica here: entering is ERR_NOT_LEADER
 *   FOLLOWER  fetches; memory is applied up to the high watermark; only partition_enter_stale enters
 *   OPENING   elected: applies what is left of its log, then opens; entering is ERR_AGAIN (answered as "try again" or parked for a moment)
 *   LEADER    serves, as long as the node's lease runs
 *   PARKED    hands over: who enters waits in the parking, until the role changes (rule 21)
 *
 * The lease (rule 20) is looked at on entering and again on leaving, after the command was executed: without it entering is ERR_NO_LEASE, and leaving is too, when replies must be taken back. A write that was appended but
 * cannot be answered has an unknown outcome: the connection is closed rather than told an error that means "not done". */
enum partition_role { PARTITION_NONE, PARTITION_FOLLOWER, PARTITION_OPENING, PARTITION_LEADER, PARTITION_PARKED };
enum partition_role partition_role(const struct partition *p); /* any thread */
const char *partition_role_name(enum partition_role role);
int32_t partition_epoch(const struct partition *p);            /* leader epoch of that role; any thread */
/* Steps the role, under the partition's lock (background). Leaving LEADER fails commits that wait in its logs with ERR_NOT_LEADER, frees blocked clients through kv's callbacks, closes its queues and streams (their logs stay open
 * for the follower), and wakes everything that is parked. */
void partition_set_role(struct partition *p, enum partition_role role, int32_t epoch);
/* A follower's memory follows its log: applies the main log up to `to` (or its end), under short holds of the lock. Background; one caller a partition at a time, none while a role is stepped. */
int partition_apply(struct partition *p, int64_t to);
int64_t partition_applied(const struct partition *p); /* any thread; the log's end while this node leads */
/* A follower's append to its main log, as its leader has it; the one append that does not take the partition's lock. */
int partition_append_replica(struct partition *p, const uint8_t *data, size_t len, int64_t *ret_end);
/* The main log was cut to `end`, or replaced behind a snapshot that was installed: memory that holds more is built anew (rule 2). As above. */
int partition_apply_cut(struct partition *p, int64_t end);
int partition_apply_snapshot(struct partition *p);
/* A follower's memory, snapshots and main log are thrown away (put aside, log_begin_anew), whatever state they are in: it is open again, empty and at 0. As above; a copy that counts nowhere any more (D6). */
int partition_begin_anew(struct partition *p);
/* Snapshots for those too far behind (rule 3); background. The newest one, opened, and the log pinned from its S on (until partition_pin(p, INT64_MAX), and within a bound); ERR_NOT_FOUND: there is none that the log continues. */
int partition_snapshot_open(struct partition *p, int *ret_fd, int64_t *ret_start, uint64_t *ret_size);
void partition_pin(struct partition *p, int64_t start);
/* A leader's, to be filled (`keep`: with what an earlier attempt left) and then installed whole: log and memory begin anew with it. The caller closes fd. */
int partition_snapshot_create(struct partition *p, int64_t start, bool keep, int *ret_fd);
int partition_snapshot_install(struct partition *p, int64_t start, int fd);
/* The node's lease: CLOCK_BOOTTIME in microseconds until which it may serve as leader; UINT64_MAX: for ever (a node alone). Any thread. */
void partitions_set_lease(struct partitions *ps, uint64_t until_us);
bool partitions_lease_ok(const struct partitions *ps);
/* There was one, and its time ran out. */
bool partitions_lease_over(const struct partitions *ps);
/* False while fewer than min_insync replicas are in sync: level quorum is refused before it is executed (ERR_NO_REPLICAS; -NOREPLICAS, NOT_ENOUGH_REPLICAS, basic.nack). Any thread. */
bool partition_quorum_ok(const struct partition *p);
void partition_set_quorum_ok(struct partition *p, bool ok);

/* ---- parts ------------------------------------------------------------------------------------------------------------------------------------------- */
struct kv *partition_kv(struct partition *p);                 /* under the lock */
struct queue_table *partition_queues(struct partition *p);    /* under the lock; leaving flushes it */
struct log *partition_main_log(struct partition *p);
enum partition_state partition_state(const struct partition *p); /* any thread */
int partition_error(const struct partition *p);                  /* why it failed */

/* ---- snapshots ------------------------------------------------------------------------------------------------------------------------------------------ */
/* Asks for a snapshot now, on a background thread; one partition at a time. `index` UINT32_MAX: all. done(arg, err) on a background thread. */
void partitions_snapshot(struct partitions *ps, uint32_t index, void (*done)(void *arg, int err), void *arg);

struct partition_info {
    enum partition_state state;
    int error;
    uint64_t keys, expired_total;
    int64_t log_start, log_end, log_durable, snapshot_start;
    uint64_t log_bytes, snapshot_hold_max_us, snapshot_hold_cpu_max_us, parked_total;
};
void partition_info(struct partition *p, struct partition_info *ret); /* any thread */

#endif
