/* A RESP connection, what a worker keeps for its connections, and the front that holds them together. Private
 * to protocols/resp.
 *
 * States of a session, each with what ends it:
 *   running   commands are read and executed
 *   parked    a partition is busy: input paused, nothing consumed; partition_park.retry runs it anew (P2)
 *   blocked   BLPOP, WAIT, GOMSG, CLIENT LIST, a long KEYS: consumed, the reply comes later; input paused
 *   closing   conn_close_soon was called
 * MULTI, subscriptions and these are independent of each other, but a blocked session runs nothing.
 *
 * All on the session's worker. Other threads know a session by (worker, connection id) only. */
#ifndef GM_RESP_SESSION_H
#define GM_RESP_SESSION_H

#include "base/list.h"
#include "base/mutex.h"
#include "base/rand.h"
#include "io/conn.h"
#include "metrics/metrics.h"
#include "partition/partition.h"
#include "protocols/resp/command.h"
#include "protocols/resp/reply.h"
#include "protocols/resp/request.h"
#include "protocols/resp/resp.h"

struct blocked;
struct cluster_retry;
struct keys_job;
struct writes;
struct pubsub;
struct pubsub_worker;
struct slowlog;
struct transaction;
struct reply_hold;

/* Codes of error replies that are counted by name (INFO errorstats, metrics); others count as OTHER. */
#define RESP_CODES(X)                                                                                        \
    X(ERR)                                                                                                   \
    X(WRONGTYPE) X(NOAUTH) X(WRONGPASS) X(NOPERM) X(NOPROTO) X(LOADING) X(MISCONF) X(OOM) X(BUSY)            \
        X(EXECABORT) X(NOREPLICAS) X(UNBLOCKED) X(READONLY) X(CLUSTERDOWN) X(MOVED)             \
            X(CROSSSLOT) X(OTHER)
enum resp_code {
#define X(name) CODE_##name,
    RESP_CODES(X)
#undef X
        CODES
};

struct session {
    struct conn *c; /* borrowed: it owns the session */
    struct resp_worker *w;
    struct request_scan scan;
    struct partition_park park;
    struct transaction *tx;    /* owned: MULTI's queue and the watched keys; NULL mostly */
    struct blocked *blocked;   /* counted elsewhere: see blocked.c */
    struct keys_job *keys;       /* owned: a KEYS under way; NULL mostly */
    struct cluster_retry *retry; /* owned: waits for a partition that is being opened; NULL mostly */
    struct writes *writes;       /* owned: what WAIT covers; NULL until something was written in a cluster */
    struct list subscriptions;   /* pubsub.c */
    uint32_t channels, patterns, shard_channels;
    char *name, *lib_name, *lib_ver, *user; /* owned, NULL when unset; user NULL: "default" */
    uint64_t last_command_us;
    uint64_t last_word;        /* the name of the command resolved last, as it was written, if it has 3 to 8 bytes */
    const struct command *last_resolved; /* NULL: none yet */
    struct slice foreseen;   /* the key that session_foresee found, by its address; NULL: none */
    uint64_t foreseen_hash;
    uint32_t foreseen_index; /* its partition */
    uint32_t db;
    uint8_t proto;
    uint8_t last_command; /* command id */
    bool ctl, authenticated, in_multi, multi_failed, no_evict, no_touch;
    bool reply_off, reply_skip, reply_skip_next;
    bool parked, waiting; /* waiting: blocked, input paused */
    bool kill_me;         /* CLIENT KILL named its own connection */
    bool full;            /* input paused until output drains */
    bool readonly;        /* READONLY: replicas may answer reads */
};

static inline bool session_is_subscribed(const struct session *s)
{
    return s->channels + s->patterns + s->shard_channels > 0;
}

/* One a worker; only its worker writes it. Counters are read by others (relaxed). */
struct resp_worker {
    struct resp_front *front;
    struct worker *worker;
    struct request_parser *parser;
    struct request batch[REQUEST_BATCH];
    struct pubsub_worker *pubsub; /* owned */
    struct list free_holds;       /* struct reply_hold */
    struct reply_hold *hold;      /* of the input call that runs now */
    struct rand rand;
    /* scratch for several-partition commands */
    struct partition_guard *guards;
    uint32_t *indexes;
    uint32_t guards_cap;
    struct slice *slices;
    uint32_t slices_cap;
    /* counters */
    uint64_t commands, connections_total, blocked_now, connections_now, error_replies, slow_seen;
} __attribute__((aligned(64)));

struct resp_front {
    struct resp_options o;
    struct conn_ops ops, ctl_ops;
    unsigned workers_count;
    struct resp_worker *workers; /* owned array */
    struct pubsub *pubsub;       /* owned */
    struct slowlog *slowlog;     /* owned */
    struct metrics_protocol metrics;
    const struct metrics_family *rejected, *failed;
    uint64_t *reset_base; /* owned: what CONFIG RESETSTAT subtracts; stats.c */
    struct replication *replication; /* borrowed; NULL without cluster mode */
    char run_id[41];
    uint64_t started_us;
    uint64_t slow_us;                  /* atomic; slowlog-log-slower-than, UINT64_MAX: never */
    bool over_memory;                  /* atomic; refreshed by worker 0 */
    uint64_t memory_used, memory_peak; /* atomic */
    struct io_timer memory_timer;
    unsigned memory_ticks;
};

static inline bool session_is_trusted(const struct session *s)
{
    return s->ctl || conn_peer_is_loopback(s->c);
}
/* Input is paused until session_unblock; the command's reply is written by whoever calls it. */
void session_block(struct session *s);
void session_unblock(struct session *s);
/* The session of a connection that may be gone. */
struct session *session_find(struct resp_worker *w, uint64_t conn_id);
/* Fills the callbacks of a conn_ops. */
void session_ops_init(struct conn_ops *ops);
/* The connection's output as a reply in its protocol version. */
static inline struct reply session_reply(struct session *s)
{
    return (struct reply){conn_out(s->c), s->proto};
}
/* Notes an error reply for the statistics; `text` begins behind the dash. */
void session_count_error(struct resp_worker *w, const uint8_t *text, size_t len);

/* ---- promises (hold.c): replies that wait for the log (kv.ack: quorum, log.fsync: always)
 * ------------------------------- */
/* Whether replies may have to wait, by the configuration of this moment. */
bool hold_wanted(const struct resp_front *f);
/* Everything this session writes from now on stays until hold_arm's promise is kept. One is open a worker at
 * a time. */
void hold_begin(struct session *s);
/* After a partition was left: the reply depends on this log's end. */
void hold_note(struct resp_worker *w, struct log *log, int64_t end, bool wrote);
void hold_since(struct resp_worker *w, uint64_t mark); /* log_commit_mark of an append before hold_begin */
/* Ends the input call: the hold goes on its own. */
void hold_arm(struct resp_worker *w);
void hold_free_all(struct resp_worker *w); /* when the worker has ended */

#endif
