/* Inside the AMQP front end: connections, channels, consumers, and what waits.
 *
 * A session belongs to one worker and is touched by it alone. Other threads reach it in three ways, all of
 * them mail: news for a consumer (queue.h), a finished commit (log.h), an answered proposal (topology.h).
 *
 * Order. Bytes are handled in the order they came. Publishes and acknowledgements of one read event gather in
 * a batch (batch.h), one lock acquisition a partition; any other method first flushes the batch. A handler
 * that must wait (a partition's lock, the topology, a cold read, a commit) returns AMQP_AGAIN: its frame
 * stays unconsumed, the connection stops reading, and when the wait is over the same frame is handled anew.
 * So a handler must have no effect before it waits; what it learnt meanwhile stands in session->wait.
 *
 * Life of a session: 1 HEADER, 2 STARTING, 3 TUNING, 4 OPENING, 5 RUNNING, 6 CLOSING (we sent
 * connection.close) or CLOSED, 7 dead: the connection is gone but unsettled deliveries are still being
 * requeued and exclusive queues deleted; then it is freed. */
#ifndef GM_AMQP_SESSION_H
#define GM_AMQP_SESSION_H

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"
#include "base/list.h"
#include "protocols/amqp/amqp.h"
#include "protocols/amqp/codec.h"
#include "protocols/amqp/ids.h"
#include "protocols/amqp/stats.h"
#include "queue/queue.h"

#define AMQP_AGAIN 1 /* a handler's answer: handle this frame again later */

#define SLICE_FMT(s) (int)(s).len, (const char *)(s).data

struct amqp_batch;
struct amqp_channel;
struct amqp_consumer;
struct amqp_reply_consumer;
struct amqp_route;
struct amqp_session;
struct amqp_tx;

/* ---- the front and its workers ------------------------------------------------------------------------- */

struct amqp_counters {
    uint64_t connections, channels, consumers;
    uint64_t published, returned, unroutable, confirmed, nacked;
    uint64_t delivered, got, get_empty, acked, redelivered;
    uint64_t channel_errors, connection_errors;
    uint64_t logins, login_failures;
};

/* Adds to a number that this worker alone writes and other threads read. */
static inline void amqp_count(uint64_t *number, uint64_t n)
{
    __atomic_store_n(number, *number + n, __ATOMIC_RELAXED);
}

/* What a worker keeps for all its sessions. Counters are written by it alone and read by anybody (torn reads
 * are impossible, stale ones fine). */
struct amqp_worker {
    struct amqp_front *front;
    struct worker *worker;
    struct worker_hook hook;  /* deliveries at the turn's end */
    struct list ready;        /* consumers to be served: amqp_consumer.ready */
    struct list parks;        /* delivery parks waiting for a partition */
    struct list later;        /* consumers whose partition this node may not serve at the moment */
    struct io_timer later_timer;
    struct amqp_batch *spare; /* an empty batch */
    struct buf scratch;       /* valid until the next use */
    struct regex_cache *regexes;
    uint64_t serial; /* of channels */
    bool left_cluster;            /* nothing is sent to other nodes any more */
    struct amqp_remotes *remotes; /* queues that other nodes lead; NULL until there is one */
    struct amqp_counters count;
    struct amqp_tally tally; /* of this read event */
};

struct amqp_front {
    uint32_t magic;
#define AMQP_FRONT_MAGIC 0x414d5146u
    struct amqp_front_options o;
    struct amqp_limits limits; /* changed by any thread: read with AMQP_LIMIT */
    struct conn_ops ops;
    struct amqp_worker *workers;  /* one a worker, by index */
    struct buf server_properties; /* encoded once */
    struct amqp_ids exclusive;    /* queue id -> the connection that owns it */
    struct amqp_ids replies;      /* direct reply-to */
    struct amqp_serve *serve;     /* for the gateways of other nodes; NULL: a node alone */
};

#define AMQP_LIMIT(s, field) __atomic_load_n(&(s)->front->limits.field, __ATOMIC_RELAXED)

void amqp_put_hint(const struct topology *v, struct buf *out); /* hint.c */

bool amqp_exclusive_claim(struct amqp_session *s, uint64_t queue_id); /* false: somebody else's */
bool amqp_exclusive_is_mine(struct amqp_session *s, uint64_t queue_id);
void amqp_exclusive_drop(struct amqp_front *f, uint64_t queue_id);
/* Proposes the deletion of every exclusive queue of a session that ends. With `wait`, false: s->ending of
 * them are under way and amqp_session_continue follows. */
bool amqp_exclusive_delete_all(struct amqp_session *s, bool wait);

/* ---- sessions ------------------------------------------------------------------------------------------ */

enum amqp_state {
    AMQP_HEADER,
    AMQP_STARTING,
    AMQP_TUNING,
    AMQP_OPENING,
    AMQP_RUNNING,
    AMQP_CLOSING, /* connection.close sent, waiting for close-ok; everything else is ignored */
    AMQP_CLOSED,
};

enum { AMQP_CAP_AUTH_FAILURE_CLOSE = 1, AMQP_CAP_BLOCKED = 2, AMQP_CAP_CANCEL_NOTIFY = 4 };

/* What a repeated handler finds. Allocated while something waits and dropped when the frame was consumed. */
struct amqp_wait {
    struct topology_proposal proposal;
    struct amqp_session *session;
    bool proposed, answered;  /* the proposal is under way; it was answered (err in proposal.err) */
    struct log_commit commit; /* of a basic.get's reservation */
    bool committing;
    bool read_cold; /* the disk was read ahead: take it however cold */
    bool warming;
    char name[64];  /* a generated queue name */
    uint64_t count; /* messages of a queue that is being deleted */
    uint64_t queue_id;
    bool asking, asked; /* a question to another node is under way; it was answered (remote.h) */
    int ask_err;
    struct buf ask_answer;
    struct amqp_consumer *consumer; /* being attached there */
};

struct amqp_session {
    uint32_t magic;
#define AMQP_SESSION_MAGIC 0x414d5153u
    enum amqp_state state : 8;
    uint8_t capabilities;
    bool blocked;      /* connection.blocked was sent */
    bool published;    /* has published: blocked concerns it */
    bool parked;       /* input is paused for a wait */
    bool park_waiting; /* `park` is registered with a partition */
    bool broken;       /* the byte stream makes no sense any more: discard it */
    uint16_t channel_max, heartbeat_s;
    uint32_t frame_max;
    struct amqp_front *front;
    struct amqp_worker *aw;
    struct conn *conn; /* NULL once dead */
    uint64_t conn_id;
    struct slice user, vhost;       /* owned */
    struct amqp_channel **channels; /* sorted by number; owned */
    uint32_t channel_count, channel_cap;
    struct amqp_channel *last;      /* of the last frame */
    struct amqp_channel *borrowing; /* whose content points into the input buffer */
    uint32_t method;                /* being handled, for close's class-id and method-id */
    struct amqp_batch *batch;       /* gathered, or parked; NULL: nothing */
    struct list rounds;             /* amqp_round: confirms under way, oldest first */
    struct partition_park park;
    struct amqp_wait *wait;
    uint32_t ending;        /* deletions of exclusive queues that a connection.close waits for */
    struct buf exclusive;   /* u64 ids of exclusive queues declared here */
    uint64_t content_bytes; /* held in assemblies */
    uint64_t last_sent_bytes, last_sent_us; /* for heartbeats */
    uint64_t closing_since_us;
    struct list remote_full; /* among those of the worker that wait because much waits for other nodes */
};

/* ---- channels ------------------------------------------------------------------------------------------ */

enum amqp_channel_state {
    AMQP_CHANNEL_OPEN,
    AMQP_CHANNEL_CLOSING /* channel.close sent; only close and close-ok count */
};

/* Where deliveries of this channel come from; a handle's `consumer` is its index. Kept until nothing
 * unsettled refers to it. */
struct amqp_source {
    uint64_t queue_id;
    uint32_t partition;
    uint32_t outstanding;           /* unsettled deliveries */
    struct amqp_consumer *consumer; /* NULL: basic.get, or it was cancelled */
    bool used;
    bool get;     /* of basic.get; kept for the next one */
    bool durable; /* the queue's log is on disk */
    bool dirty;   /* settled something since the last synchronous reply (rule 8) */
    bool home;    /* an exclusive queue: entered whoever leads its partition (rule 18) */
    uint64_t opened; /* of which opening of the queue its deliveries are (queue_opened): those of a former one are claimed anew. 0: of a remote queue */
    struct amqp_attachment *attachment; /* its queue is led elsewhere; NULL: here */
};

/* Unsettled deliveries: a ring by tag - base; a tag that is settled before older ones leaves a hole. What
 * stays behind while many go by is moved to a sorted array, so that one forgotten delivery does not make the
 * ring grow for ever. */
struct amqp_unacked {
    struct queue_handle *ring; /* power of two; offset_flags UINT64_MAX: hole */
    uint32_t cap;
    uint64_t base, next; /* tags in [base, next) are in the ring */
    uint32_t live;       /* in the ring */
    struct amqp_old_delivery {
        uint64_t tag;
        struct queue_handle handle;
    } * old;
    uint32_t old_first, old_count, old_cap; /* those in [old_first, old_count) */
};

enum amqp_content_stage { AMQP_CONTENT_NONE, AMQP_CONTENT_HEADER, AMQP_CONTENT_BODY };

struct amqp_content {
    enum amqp_content_stage stage : 8;
    bool mandatory;
    bool borrowed; /* slices point into the input buffer */
    struct slice exchange, routing_key, properties;
    struct slice body; /* one frame's, when borrowed */
    uint64_t body_size, body_got;
    struct buf held; /* exchange, key, properties, then the body, once the input is gone */
};

#define AMQP_ROUTE_CACHE 32

struct amqp_channel {
    struct amqp_session *session;
    uint64_t serial; /* tells it from a later one of the same number */
    uint16_t number;
    enum amqp_channel_state state : 8;
    bool confirming;
    bool drained;                /* closing: everything was given back */
    uint16_t prefetch;           /* for consumers to come */
    uint16_t prefetch_global;    /* over all consumers; 0: none */
    uint32_t global_outstanding; /* deliveries to consumers that count against it */
    uint64_t published;          /* publishes since confirm.select */
    struct amqp_content content;
    struct amqp_tx *tx;                /* owned; NULL: not transactional */
    struct amqp_reply_consumer *reply; /* owned; the consumer of direct replies, NULL: none */
    struct amqp_unacked unacked;
    struct amqp_source *sources;
    uint32_t source_cap;
    uint32_t dirty_sources;
    struct list consumers;
    uint32_t consumer_count;
    struct amqp_route *routes[AMQP_ROUTE_CACHE]; /* owned */
    struct slice last_queue;                     /* owned: most recently declared */
};

struct amqp_consumer {
    struct queue_consumer qc; /* first */
    struct amqp_worker *aw;
    struct amqp_channel *channel; /* NULL: cancelled, waiting for what is under way */
    struct list node;             /* of the channel */
    struct list ready;            /* of the worker */
    struct mail mail;
    struct log_commit commit; /* reservations (rule 8) */
    bool committing, stalled;
    bool warming, read_cold;
    bool full;       /* paused because the client does not read */
    bool shared_out; /* paused because the channel's shared prefetch is used up */
    bool mailed;     /* news is in the worker's mailbox */
    uint32_t pins;   /* jobs under way that refer to it */
    uint32_t partition;
    uint16_t source;
    bool home;                      /* of an exclusive queue */
    struct amqp_attachment *remote; /* of a queue led elsewhere: the engine's part is not used */
    struct slice tag;  /* owned */
    struct buf prefix; /* the deliver frame up to the delivery tag */
};

/* ---- session.c, channel.c ------------------------------------------------------------------------------ */
int amqp_session_open(struct conn *c);
ssize_t amqp_session_input(struct conn *c, const uint8_t *data, size_t len);
void amqp_session_writable(struct conn *c);
void amqp_session_tick(struct conn *c, uint64_t now_us);
void amqp_session_closed(struct conn *c, int reason);

/* Pauses the input until amqp_session_continue. */
void amqp_session_park(struct amqp_session *s);
/* Something that was waited for is there: finishes the batch and what is being closed, then handles the
 * waiting frame again. */
void amqp_session_continue(struct amqp_session *s);
struct amqp_wait *amqp_session_wait(struct amqp_session *s); /* made on demand */
void amqp_session_wait_drop(struct amqp_session *s);
/* Enters a partition with the session's park. ERR_PARKED: the session was parked. */
int amqp_session_enter(struct amqp_session *s, uint32_t partition, struct partition_guard *g);
/* The same whoever leads it: for an exclusive queue of this node, and to take out what this session left there. */
int amqp_session_enter_upkeep(struct amqp_session *s, uint32_t partition, struct partition_guard *g);
/* Entered: the queue is open, or cannot be, and 0 is returned; while it is being opened, leaves and returns ERR_PARKED. */
int amqp_session_await_opening(struct amqp_session *s, uint64_t queue_id, struct partition_guard *g);
/* For this queue, which is open then unless it cannot be. */
int amqp_session_enter_queue(struct amqp_session *s, const struct topo_queue *q, struct partition_guard *g);
const struct topology *amqp_session_view(const struct amqp_session *s);

/* Sends connection.close and ignores everything but its answer. Returns 0. */
int amqp_connection_fail(struct amqp_session *s, unsigned code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Raises an exception: the channel's or, when the code says so, the connection's. Returns 0, for handlers to
 * return. */
int amqp_fail(struct amqp_channel *ch, unsigned code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* "NOT_FOUND - no queue 'x'", at most 255 bytes, "..." at its end when cut. */
size_t amqp_reply_text(char text[256], unsigned code, const char *fmt, va_list ap);

struct amqp_channel *amqp_channel_find(struct amqp_session *s, uint16_t number);
struct amqp_channel *amqp_channel_new(struct amqp_session *s, uint16_t number);
/* Removes consumers and requeues what is unsettled. 0, or ERR_PARKED: call again. */
int amqp_channel_drain(struct amqp_channel *ch);
void amqp_channel_free(struct amqp_channel *ch); /* drained */
/* Rule 8: before a synchronous reply. Output from here on waits for the commit of this channel's
 * acknowledgements. 0 or AMQP_AGAIN. */
int amqp_channel_settle_acks(struct amqp_channel *ch);
int amqp_channel_frame(struct amqp_session *s, const struct amqp_frame *f);
int amqp_connection_method(struct amqp_session *s, uint32_t id, struct slice fields);

/* Unacked deliveries (unacked.c). */
uint64_t amqp_unacked_push(struct amqp_unacked *u, const struct queue_handle *h); /* returns the tag */
uint64_t amqp_unacked_skip(struct amqp_unacked *u); /* a tag that needs no settling */
/* Takes one tag out; false: unknown. */
bool amqp_unacked_take(struct amqp_unacked *u, uint64_t tag, struct queue_handle *ret);
/* Takes out everything up to and including `tag` (UINT64_MAX: everything), oldest first, one call at a time;
 * false: no more. */
bool amqp_unacked_pop(struct amqp_unacked *u, uint64_t tag, uint64_t *ret_tag, struct queue_handle *ret);
bool amqp_unacked_known(const struct amqp_unacked *u, uint64_t tag);
uint32_t amqp_unacked_count(const struct amqp_unacked *u);
void amqp_unacked_fini(struct amqp_unacked *u);

/* Puts back what was taken. */
void amqp_unacked_restore(struct amqp_unacked *u, uint64_t tag, const struct queue_handle *h);

/* Transactions (tx.c). */
int amqp_tx_publish(struct amqp_channel *ch); /* keeps the content that is complete */
int amqp_tx_settle(struct amqp_channel *ch, enum queue_settle how, uint64_t tag,
                   const struct queue_handle *h);
void amqp_tx_rollback(struct amqp_channel *ch); /* also of a channel without one */
void amqp_tx_free(struct amqp_channel *ch);

/* Sources (consume.c). */
uint16_t amqp_source_new(struct amqp_channel *ch, const struct topo_queue *q, struct amqp_consumer *consumer,
                         uint64_t opened); /* consumer NULL: basic.get's */
void amqp_source_release(struct amqp_channel *ch,
                         uint16_t index); /* when it lost its consumer or its last delivery */
void amqp_source_settled(struct amqp_channel *ch, uint16_t index, bool dirty); /* one delivery was settled */

/* Its shared prefetch has room again. */
void amqp_channel_wake(struct amqp_channel *ch);
uint32_t amqp_channel_shared_room(const struct amqp_channel *ch); /* deliveries its shared prefetch leaves room for, at most QUEUE_TAKE_MAX (deliver.c) */

/* Deliveries (deliver.c). */
void amqp_worker_init(struct amqp_worker *aw, struct amqp_front *f, struct worker *w);
void amqp_consumer_init(struct amqp_consumer *c);
void amqp_consumer_news(struct queue_consumer *qc);
void amqp_consumer_ready(struct amqp_consumer *c); /* serve it at the turn's end */
/* Takes it off its queue; frees it, or leaves it to what is under way. Under the partition's lock. */
void amqp_consumer_detach(struct amqp_consumer *c, int64_t now_ms);
/* Its partition has failed and cannot be entered: the consumer's memory stays with the engine that still
 * refers to it, as long as the process lives. */
void amqp_consumer_abandon(struct amqp_consumer *c);
void amqp_consumer_unpin(struct amqp_consumer *c);
void amqp_consumer_release(struct amqp_consumer *c); /* it has no channel any more: freed, or left to what is under way */
void amqp_consumer_deliver(struct amqp_consumer *c, const struct queue_delivery *d); /* of a remote queue */
/* Opens the queue if it is not; NULL with the error. Under the partition's lock. */
struct queue *amqp_queue_enter(struct amqp_session *s, struct queue_table *t, uint64_t queue_id,
                               int *ret_err);

/* Names and permissions (access.c). */
enum amqp_permission { AMQP_CONFIGURE, AMQP_WRITE, AMQP_READ };
enum amqp_kind { AMQP_QUEUE, AMQP_EXCHANGE };
/* "queue 'x' in vhost '/'" into text, cut to size. */
#define AMQP_RS_MAX 600
const char *amqp_rs(char text[AMQP_RS_MAX], enum amqp_kind kind, struct slice name, struct slice vhost);
/* True, or the channel was failed with 403. */
bool amqp_permitted(struct amqp_channel *ch, enum amqp_permission p, enum amqp_kind kind, struct slice name);
bool amqp_allowed(struct amqp_session *s, enum amqp_permission p, struct slice name);
/* True when the password is right for the user and the user may come from where it comes. */
bool amqp_authenticate(struct amqp_session *s, struct slice mechanism, struct slice response, int *ret_err);
void amqp_regexes_free(struct regex_cache *c);

/* One handler a method a client may send. 0 (done, or failed as the protocol says) or AMQP_AGAIN. Class
 * connection gets the session. */
#define AMQP_ON_connection struct amqp_session
#define AMQP_ON_channel struct amqp_channel
#define AMQP_ON_access struct amqp_channel
#define AMQP_ON_exchange struct amqp_channel
#define AMQP_ON_queue struct amqp_channel
#define AMQP_ON_basic struct amqp_channel
#define AMQP_ON_tx struct amqp_channel
#define AMQP_ON_confirm struct amqp_channel
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    int amqp_on_##class##_##method(AMQP_ON_##class *on, const struct amqp_##class##_##method *m);
#define SERVER(class, class_id, method, method_id, sync, fields)
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef CLIENT
#undef SERVER
#undef BOTH

#endif
