/* The inside of the Kafka front end: sessions, requests, replies and what the handlers share.
 *
 * A request is answered in one of three ways (enum kafka_outcome)
 *   at once:  kafka_reply_begin .. kafka_reply_end; with something to commit first, kafka_commit_arm before
 * the reply holds it back, and what follows on the connection stays behind it, so replies leave in the order
 * of requests; later:    struct kafka_async keeps a copy of the request and pauses input, as Kafka mutes a
 * channel; kafka_async_end resumes it; again:    something has to be opened, made or unlocked first: input is
 * paused, nothing is consumed, and the same bytes come again. session->retried says so.
 *
 * All of it on the connection's worker. */
#ifndef GM_KAFKA_SESSION_H
#define GM_KAFKA_SESSION_H

#include <stdatomic.h>

#include "base/list.h"
#include "base/mutex.h"
#include "io/conn.h"
#include "metrics/metrics.h"
#include "protocols/kafka/api.h"
#include "protocols/kafka/front.h"
#include "stream/group_store.h"
#include "stream/stream.h"

#define KAFKA_SESSION_MAGIC 0x4b53534eu
#define KAFKA_FRONT_MAGIC 0x4b46524eu

struct kafka_async;
struct fetch;
struct fetch_session;

struct kafka_request {
    const struct kafka_api *api;
    int16_t version;
    int32_t correlation;
    struct slice client_id; /* data NULL: none */
    struct slice body;
    uint8_t *body_data; /* the same, to be written to: produced batches get their offsets in place */
    bool flexible;
};

struct kafka_session {
    uint32_t magic;
    struct kafka_front *front;           /* borrowed */
    struct conn *conn;                   /* borrowed: ends after the session */
    struct kafka_async *async;           /* what this connection waits for; NULL: nothing */
    struct fetch_session *fetch_session; /* KIP-227, owned; NULL: none */
    struct list node;                    /* of its worker's sessions */
    struct list commits;                 /* struct kafka_commit not done yet */
    struct io_timer commit_timer;        /* runs while one of them has a deadline */
    struct partition_park park;
    bool parked;
    bool behind; /* a request waits until the answers before it have left */
    bool output_paused;
    bool retried;  /* the request being handled was handled before and answered KAFKA_RETRY, not merely parked or behind */
    int retry_err; /* what the step in between came to */
    uint64_t election_us; /* since when the request being handled waits for an election; 0: it does not */
};

struct kafka_group_part { /* of one partition; under its lock unless atomic */
    struct groups groups;
    struct list ready; /* struct kafka_group_wait with an answer */
    bool all_loaded;
    _Atomic bool used;      /* there may be groups in memory ... */
    _Atomic int32_t epoch;  /* ... as led at this epoch; of any other they are not to be believed */
    _Atomic bool dropping;  /* a job is under way that drops them */
    _Atomic uint64_t deadline_ms; /* when the tick has to look here; UINT64_MAX: never */
};

/* What belongs to one worker: arrays that are used within one call and kept for the next, and its sessions. */
struct kafka_scratch {
    struct buf text, pieces, chosen, parts;
    struct list sessions; /* struct kafka_session */
};

struct kafka_away { /* another node: away.c */
    uint32_t node;
    bool up;            /* when the topology was looked at last */
    uint64_t lost_us;   /* since when the bus does not reach it, or has no answer; 0: it does */
    uint64_t fenced_us; /* since when it is no broker any more; 0: it is one, or that is long ago */
};

struct kafka_front {
    uint32_t magic;
    struct kafka_front_options options;
    struct conn_ops ops;
    uint32_t partition_count;
    struct kafka_group_part *parts;
    struct kafka_scratch *scratch; /* one a worker */
    struct mutex ids_mu;
    int64_t ids_next GUARDED_BY(ids_mu), ids_end
        GUARDED_BY(ids_mu); /* of this node's block of producer ids */
    struct mutex away_mu;
    struct kafka_away *away GUARDED_BY(away_mu); /* owned */
    unsigned away_count GUARDED_BY(away_mu);
    unsigned away_heard GUARDED_BY(away_mu); /* how often one that was lost was reached again */
    _Atomic int32_t next_fetch_session;
    struct io_timer group_timer, upkeep_timer;
    struct bg_job upkeep_job;
    bool upkeep_running;   /* on worker 0 */
    unsigned upkeep_count; /* in the job */
    struct metrics_protocol metrics;
};

static inline struct kafka_front *kafka_front_of(const struct kafka_session *s)
{
    return s->front;
}
static inline struct kafka_scratch *kafka_scratch_of(const struct kafka_session *s)
{
    return &s->front->scratch[worker_index(s->conn->worker)];
}
#define KAFKA_CONFIG(s, field) CONFIG_GET((s)->front->options.config, field)

/* ---- replies ------------------------------------------------------------------------------------------ */
struct kafka_reply {
    struct kout out;
    size_t at; /* of the size field in the buffer */
};
/* Begins a reply in `b`: size, correlation id and, in flexible versions but of ApiVersions, the header's
 * tags. */
void kafka_frame_begin(struct kafka_reply *r, const struct kafka_request *rq, struct buf *b);
void kafka_frame_end(struct kafka_reply *r);
/* The same into the connection's output; between the two no other output function is called. */
struct kout *kafka_reply_begin(struct kafka_session *s, const struct kafka_request *rq,
                               struct kafka_reply *r);
/* Also counts the errors it told. */
void kafka_reply_end(struct kafka_session *s, struct kafka_reply *r);
void kafka_count_error(const struct kafka_front *f, int16_t code, uint32_t n);
/* Drops a reply that was begun and not ended. */
void kafka_reply_drop(struct kafka_reply *r);

/* ---- commits ------------------------------------------------------------------------------------------ */
struct kafka_commit {
    struct log_commit c;
    struct list node;
    struct kafka_session *session;
    uint64_t hold;
    uint64_t deadline_us; /* 0: none */
    /* What a reply that can still be corrected (conn_hold_patch) says instead; it then leaves. NULL: a commit that fails aborts the
     * connection. ERR_TIMEOUT: the deadline passed. */
    void (*settle)(struct kafka_commit *k, int err);
    void (*release)(struct kafka_commit *k); /* frees it; NULL: mem_free */
};
struct kafka_commit *kafka_commit_new(struct kafka_session *s);
void kafka_commit_init(struct kafka_commit *k, struct kafka_session *s); /* embedded: all else zero */
/* Before the reply is begun: holds the connection's output back until all that was added is committed. Takes
 * `k`. False: it is committed, and gone. */
bool kafka_commit_arm(struct kafka_commit *k);
/* For a reply that shows what it then turns out to wait for: `hold` is conn_hold's from before the reply was begun. No deadline. */
bool kafka_commit_arm_held(struct kafka_commit *k, uint64_t hold);
void kafka_commit_drop(struct kafka_commit *k, uint64_t hold); /* instead: nothing is waited for */
/* Whether answers before this request's are still held back: KAFKA_RETRY, hand it up, and it runs again when they have left. For what tells the client where to go: Kafka answers a connection's requests
 * one after the other, so an answer is as new as its arrival, and clients count on that. librdkafka before 2.1 that is told of a leader's successor by one node, and then by another of the leader himself in an answer that waited
 * behind a produce for a second, can be left with a partition that it sends to the one and believes at the other, for good. 0: handle it. */
int kafka_wait_answers(struct kafka_session *s);
/* One log up to `end`; `mark` is that of its guard. */
void kafka_commit_log(struct kafka_session *s, struct log *l, int64_t end, uint64_t mark);

/* ---- answering later ---------------------------------------------------------------------------------- */
struct kafka_async {
    struct kafka_session
        *session; /* NULL once the connection is gone: whoever finishes then only cleans up */
    struct worker *worker;
    struct kafka_request rq; /* in `frame` */
    struct buf frame;
    void (*gone)(struct kafka_async
                     *a); /* the connection went; may be NULL. It must not free what others still refer to */
};
/* Copies the request when keep_body, pauses input. */
void kafka_async_begin(struct kafka_async *a, struct kafka_session *s, const struct kafka_request *rq,
                       bool keep_body);
/* Frees the copy, resumes input when the connection is still there. */
void kafka_async_end(struct kafka_async *a);

/* For KAFKA_RETRY: pauses input; kafka_retry resumes with session->retried set and the error of the step
 * between. */
void kafka_retry_later(struct kafka_session *s, struct kafka_async *a);
void kafka_retry(struct kafka_async *a, int err);

/* Opens streams in the background, then runs the request again. places' topic names are copied. */
struct kafka_open;
struct kafka_open *kafka_open_add(struct kafka_open *o,
                                  const struct stream_place *place); /* o NULL: a new one */
int kafka_open_start(struct kafka_session *s, struct kafka_open *o); /* KAFKA_RETRY */
void kafka_open_drop(struct kafka_open *o);

/* Enters a partition. 0; KAFKA_RETRY: parked, hand it up; ERR_*: the partition cannot be used. */
int kafka_enter(struct kafka_session *s, uint32_t partition, struct partition_guard *g);

/* ---- topics ------------------------------------------------------------------------------------------- */
const struct topology *kafka_view(const struct kafka_session *s);
bool kafka_topic_name_ok(struct slice name);
bool kafka_topic_is_reserved(struct slice name);
struct kafka_topic_ref { /* how a request names a topic */
    struct slice name;
    const uint8_t *uuid; /* NULL: by name */
};
const struct topo_topic *kafka_topic_resolve(const struct topology *v, const struct kafka_topic_ref *ref);
void kafka_stream_place(const struct kafka_front *f, const struct topo_topic *t, uint32_t index,
                        struct stream_place *ret);
/* An open stream with a reference, or NULL: *ret_code is the protocol's error, or 0 with the place added to
 * *open because it has to be opened first. */
struct stream *kafka_stream_of(struct kafka_session *s, const struct topo_topic *t, int32_t index,
                               struct kafka_open **open, int16_t *ret_code);
/* The same for reading: of a follower too. */
struct stream *kafka_stream_to_read(struct kafka_session *s, const struct topo_topic *t, int32_t index,
                                    struct kafka_open **open, int16_t *ret_code);

/* ---- settings of topics: config_table.c --------------------------------------------------------------- */
/* The effective value of a numeric topic setting (topic_configs.def): the topic's, else the node's, else the
 * default. */
int64_t kafka_topic_number(const struct config *cfg, const struct topo_topic *t, const char *name);
bool kafka_topic_is_log_append_time(const struct topo_topic *t);

/* ---- this node as clients see it ---------------------------------------------------------------------- */
struct kafka_endpoint {
    char host[256];
    uint16_t port;
};
void kafka_endpoint_of(const struct kafka_session *s, struct kafka_endpoint *ret);
int32_t kafka_node_id(const struct kafka_session *s);

/* ---- the cluster: cluster.c ----------------------------------------------------------------------------- */
/* Where clients of this connection reach a node; false: it has no Kafka listener, or does not exist. */
bool kafka_endpoint_of_node(const struct kafka_session *s, int32_t node, struct kafka_endpoint *ret);
bool kafka_node_is_up(const struct kafka_session *s, uint32_t node);
struct kafka_broker {
    int32_t id;
    struct kafka_endpoint at;
    struct slice rack; /* data NULL: none */
    bool fenced;
};
/* All nodes that clients can reach; `fenced`: those that are away, too. */
void kafka_each_broker(const struct kafka_session *s, bool fenced, void (*fn)(const struct kafka_broker *b, void *arg), void *arg);
struct kafka_leadership {
    int32_t leader; /* -1: none now */
    int32_t epoch;
    const struct topo_partition *record; /* NULL: not placed yet, or a node alone */
};
struct kafka_leadership kafka_leadership_of(const struct kafka_session *s, uint32_t partition);
/* KIP-951: the tagged fields of a partition that say who leads it now, and of an answer that say where those nodes are. */
struct kafka_hints {
    int32_t nodes[8]; /* that were named; what does not fit is looked up by the client */
    unsigned count;
};
/* The field CurrentLeader (of this tag) alone, without the count of fields. */
void kafka_put_current_leader(const struct kafka_session *s, struct buf *b, uint32_t tag, uint32_t partition, struct kafka_hints *hints);
/* The tagged fields of the whole answer, their count included: NodeEndpoints, or none. */
void kafka_put_node_endpoints(const struct kafka_session *s, struct buf *b, const struct kafka_hints *hints);
/* 0, or NOT_LEADER_OR_FOLLOWER: whether this node may answer as the leader, or as a replica that is read. */
int16_t kafka_leader_code(const struct kafka_session *s, uint32_t partition);
int16_t kafka_reader_code(const struct kafka_session *s, uint32_t partition);
/* Rule 21: while the partition hands over, a request that would append waits: KAFKA_RETRY, hand it up. 0: it need not, or not any more. */
int kafka_wait_handover(struct kafka_session *s, uint32_t partition);
/* R9: 0, FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH; -1 is not checked. */
int16_t kafka_epoch_code(const struct kafka_session *s, uint32_t partition, int32_t epoch);
/* R31, rule 23: whether acks=all has its replicas. t may be NULL. */
bool kafka_enough_in_sync(const struct kafka_session *s, const struct topo_topic *t, uint32_t partition);
/* KIP-392: the replica a client in this rack should read from, -1: the leader. */
int32_t kafka_preferred_reader(const struct kafka_session *s, uint32_t partition, struct slice rack);
/* What entering a group's partition came to, in the protocol's words. */
int16_t kafka_coordinator_code(int err);
/* kafka_enter for a group: its state is always of level quorum (rule 14), ERR_NO_REPLICAS when that cannot be had. */
int kafka_enter_coordinator(struct kafka_session *s, uint32_t partition, struct partition_guard *g);

/* ---- nodes that went away a moment ago: away.c ------------------------------------------------------------ */
void kafka_away_tick(struct kafka_front *f); /* on worker 0 */
void kafka_away_fini(struct kafka_front *f);
bool kafka_left_lately(const struct kafka_session *s, uint32_t node); /* it is still to be named */
/* Its leader was lost, or fell silent, a moment ago: whoever asks for it is answered when there is another. */
bool kafka_election_is_due(const struct kafka_session *s, uint32_t partition);
int kafka_wait_election(struct kafka_session *s); /* KAFKA_RETRY: the request runs again when the topology has changed */

/* ---- this node without its lease: cut_off.c ---------------------------------------------------------------- */
/* It had a lease, and that ran out: who leads what is not known here any more. */
bool kafka_is_cut_off(const struct kafka_session *s);

/* 22 characters of URL-safe base64, as Kafka writes its cluster ids. */
void kafka_cluster_id_text(const struct kafka_session *s, char ret[23]);

/* ---- groups ------------------------------------------------------------------------------------------- */
int16_t kafka_group_code(enum group_error err);
uint32_t kafka_group_partition(const struct kafka_session *s, struct slice group);
/* The group's entry, loaded; NULL when there is none. Inside kafka_enter. */
struct group *kafka_group_get(struct kafka_session *s, struct partition_guard *g, uint32_t partition,
                              struct slice id);
/* Stores what changed, leaves, and sends the answers that became ready. 0 or the append's error, which is
 * then the answer of this request (all waits were given it, too). */
int kafka_group_leave(struct kafka_front *f, struct partition_guard *g, uint32_t partition,
                      struct group *group);
uint64_t kafka_now_ms(const struct kafka_session *s);
extern const struct group_ops kafka_group_ops;
/* Under the partition's lock: forgets groups that are in memory from a former leadership. */
void kafka_groups_refresh(struct kafka_front *f, struct partition_guard *g, uint32_t partition);
/* Runs due deadlines of groups and drops those this node no longer coordinates; on worker 0. */
void kafka_groups_tick(struct kafka_front *f, struct worker *w);
/* All groups, with the requests that still wait in them: their connections are gone. */
void kafka_groups_fini(struct kafka_front *f);

/* Whether the hand-written parsers take a body: 0 or ERR_MALFORMED, as kafka_check says by the table. The
 * fuzz target holds one against the other. */
int kafka_produce_check(const struct kafka_request *rq);
int kafka_fetch_check(const struct kafka_request *rq);

/* ---- fetch -------------------------------------------------------------------------------------------- */
void kafka_fetch_session_free(struct fetch_session *fs);

#endif
