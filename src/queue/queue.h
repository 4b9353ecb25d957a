/* The queue engine: the queues of one partition, each a log and a cursor over it (performance rule P24).
 *
 * A message is a record in its queue's log and costs no memory: ready messages are the log from the head
 * cursor on. What is settled is a bit an offset; what was delivered is known to the channel that holds its
 * 16-byte handle; what came back is in a small heap that is served before the cursor. A durable queue's log
 * is on disk and holds every message whatever its delivery mode; other queues use the same code on a log in
 * memory.
 *
 * Life of a queue: declared in the topology -> opened on first use (queue_open: checkpoint, then replay of
 * what follows it; a log of some size on a background thread, without the lock: open.c) -> used -> closed with its table (checkpoint written), or deleted with its log.
 * When this node stops leading the partition, all its queues are closed at once (queue_table_close); the new leader opens them from
 * its own copy of the log and from what it kept of it while it followed (queue_follow: follow.c).
 *
 * The log of a durable queue in a partition with several replicas: what lies above its high watermark is not delivered yet. A consumer
 * gets news when it moves; basic.get waits with a commit (stalled) when only such messages are there.
 *
 * Life of a delivery: ready -> granted to a consumer in turn (a count only; news goes to it) -> taken under
 * the lock by the consumer's worker (queue_take) -> settled: acknowledged, discarded, or requeued, which
 * makes it ready again at its old position.
 *
 * Threads: everything here runs under the lock of the partition that owns the table, unless it says
 * otherwise. Nothing blocks, reads a clock or posts mail: time comes in as now_ms (wall clock), news goes out
 * through callbacks that are called under the lock and may only post mail or link lists. Reads of data that
 * is not in the page cache come back as ERR_AGAIN with a span for a background thread (P16).
 *
 * How a front end uses it, in one acquisition of the partition (a guard of partition.h):
 *
 *     enter -> t = partition_queues(p) -> q = queue_find(t, id), else queue_open(t, &spec, &q); ERR_AGAIN: it is being opened, park until `opened` is called
 *           -> queue_publish ... / queue_settle ... / queue_take ...
 *           -> queue_table_flush(t, &commit)  to know about the commit (confirms, acks before a reply)
 *     leave (which flushes too) -> log_commit_arm(&commit)
 *
 * Pointers to queues are good until the lock is left; keep ids. Offsets count records, not messages: there
 * are gaps. */
#ifndef GM_QUEUE_QUEUE_H
#define GM_QUEUE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/slice.h"
#include "log/log.h"
#include "queue/message.h"

struct queue;
struct queue_table;
struct queue_job;

/* ---- the table: all queues of a partition ---------------------------------------------------- */

enum queue_end { QUEUE_END_AUTO_DELETE, QUEUE_END_EXPIRED };

struct queue_table_options {
    struct log_store *store;
    uint32_t partition;        /* its index, for the directory p-NNNN/queue/<id> */
    const char *data_dir;      /* where the checkpoints lie: data_dir/p-NNNN/queue/<id>/checkpoint */
    uint64_t segment_bytes;    /* of durable queue logs; default QUEUE_SEGMENT_BYTES */
    uint64_t checkpoint_bytes; /* log grown by this much starts a checkpoint; default 4 MiB: replaying it takes about 20 ms */
    uint64_t open_at_once_bytes; /* a longer log is opened in the background; default 64 KiB: replaying that takes about 0.5 ms under the lock */
    bool commit_at_end;        /* checkpoints wait for no sync, as with log.fsync: never */
    bool *stirred; /* borrowed; under the lock: set when queue_table_flush has something to do, which clears it. NULL: nobody looks */

    void *arg; /* borrowed, for the callbacks below */
    /* A queue without a user has reached its end (auto-delete, x-expires): propose its deletion to the
     * topology, which then ends in queue_delete. Called under the lock, once a reason's occurrence; may only
     * post mail. NULL: nobody cares. */
    void (*ended)(void *arg, uint64_t queue_id, enum queue_end reason);
    /* Runs job->run(job) on a background thread without any lock, then, under this partition's lock,
     * job->done(job); both exactly once. Called under the lock. NULL: run and done are called at once (tests,
     * small tools). */
    void (*background)(void *arg, struct queue_job *job);
    /* The high watermark of a queue passed what somebody waits for: have queue_table_hw_advanced called. Any thread, under locks of
     * the log; may only post. Once until it is called. */
    void (*hw_moved)(void *arg);
    /* An opening of a queue has ended, one way or the other: who met ERR_AGAIN looks again. Under the lock; may only post. */
    void (*opened)(void *arg);
};

#define QUEUE_SEGMENT_BYTES (16u << 20) /* on a follower too: what is dead goes by whole segments */

struct queue_job {
    void (*run)(struct queue_job *job);
    void (*done)(struct queue_job *job);
    struct queue_job *next; /* for the host's list */
    void *host;             /* for the host */
};

struct queue_table *queue_table_new(const struct queue_table_options *options);
/* Writes checkpoints of what changed and closes the logs. No consumers, no jobs under way. NULL is fine. */
void queue_table_free(struct queue_table *t);

/* Leadership is lost: consumers are detached and told (c->lost), every queue's memory is dropped, nothing more is appended or
 * written; logs and checkpoints stay. Messages of queues in memory are gone; exclusive queues stay, they belong to this node (rule 18). Jobs under way may end later. */
void queue_table_close(struct queue_table *t);
/* Before a planned transfer, when nothing is taken any more: reservations are drawn back to what was delivered, so that the next leader's redelivered flags are exact (rule 8). Goes with the next flush. */
void queue_table_rest(struct queue_table *t);
/* Under the lock, before a flush: grants what high watermarks that moved made visible. The partition calls it by mail whenever
 * hw_moved was called. */
void queue_table_hw_advanced(struct queue_table *t);
/* The S of a queue's durable checkpoint file on this node, -1 when there is none or it cannot be read. For followers: a hole in the
 * leader's log that ends at or below it is explained by it (what was there is settled); above it, the leader's checkpoint has to be
 * fetched first, since acknowledgements of what was dropped may be gone too (rules 3, 7). Any thread, reads the disk. */
int64_t queue_checkpoint_covers(const char *data_dir, uint32_t partition, uint64_t queue_id);
/* For followers, whose segments are not their leader's: drops the sealed ones that lie wholly below the S of that checkpoint and hold nothing that was live there (rule 7). How many. Nobody appends meanwhile; background. */
unsigned queue_checkpoint_drop_dead(struct log *log, const char *data_dir, uint32_t partition, uint64_t queue_id);
/* Before a follower's log is cut to `end` (or begins anew there): checkpoints beyond go first, since what is written there next is something else. True: there was one, and what the log does not tell by itself (the
 * acknowledgements in segments that were dropped) has to come from the leader again. ERR_IO: nothing may be cut. Background. */
int queue_checkpoint_cut(const char *data_dir, uint32_t partition, uint64_t queue_id, int64_t end, bool *ret_gone);

/* ---- following (follow.c) -------------------------------------------------------------------------------------------------
 * A follower keeps of a queue what a checkpoint holds, so that it can lead it at once: replays what arrived, up to the high watermark and at most about a mebibyte a call, and writes checkpoints with the
 * same rhythm as a leader. On a background thread and without the partition's lock, while this node follows; nothing else is done to this log meanwhile but appending. */
struct queue_followed {
    bool more;        /* there is more to replay: call again */
    bool waits;       /* a checkpoint waits until the log is durable: call again in a while */
    int64_t end;      /* replayed up to here */
    int64_t covers;   /* S of the durable checkpoint that was written now; -1: none was */
    unsigned dropped; /* segments without a live message that went */
};
/* `durable`: the checkpoint it writes is synced, whatever it is good for. 0, ERR_* (memory was let go; the next call begins from the files). */
int queue_follow(struct queue_table *t, uint64_t id, struct log *log, bool durable, struct queue_followed *ret);
/* What was kept of this queue (0: of all) is let go: its log was cut, replaced, or rests. */
void queue_unfollow(struct queue_table *t, uint64_t id);
/* Whoever replaces checkpoints or cuts as a follower waits for one that is being written since this node led; those that were not begun will not be. Background. */
void queue_await_writers(struct queue_table *t);

/* Appends what each queue gathered since the last flush as one batch (all acks of a queue are one effect of
 * ranges), then sends the news. Called by partition_leave with NULL; before that by a front end with its
 * commit, to which the log of every queue flushed now is added (log_commit_add). Cheap when nothing is dirty.
 * ERR_NOSPACE, ERR_IO: messages published since the last flush to at least one queue are gone: refuse (nack)
 * what was published in this acquisition. Acks survive a full disk: they hold in memory and are written with
 * the next flush. */
int queue_table_flush(struct queue_table *t, struct log_commit *commit);
/* Expiry of messages and queues, checkpoints, idle memory. Call when queue_table_next_tick says so, and at
 * least every few seconds. */
void queue_table_tick(struct queue_table *t, int64_t now_ms);
/* When the next tick is due; INT64_MAX: nothing waits. Any thread, no lock. */
int64_t queue_table_next_tick(const struct queue_table *t);
uint64_t queue_table_count(const struct queue_table *t); /* open queues */
/* Records replayed since the table was made: by openings in the background, by openings under the lock, and while following. Any thread. */
struct queue_replayed {
    uint64_t background, locked, followed;
};
struct queue_replayed queue_table_replayed(const struct queue_table *t);

/* ---- queues ---------------------------------------------------------------------------------- */

enum queue_overflow { QUEUE_DROP_HEAD, QUEUE_REJECT_PUBLISH };

struct queue_spec {
    uint64_t id; /* the topology's, never reused */
    bool durable, exclusive,
        auto_delete;      /* exclusive queues live in memory whatever `durable` says (rule 18) */
    bool single_active;   /* x-single-active-consumer */
    uint8_t max_priority; /* x-max-priority; 0: not a priority queue */
    enum queue_overflow overflow;
    int64_t message_ttl_ms;   /* x-message-ttl; -1 none */
    int64_t expires_ms;       /* x-expires; -1 none */
    int64_t max_length;       /* x-max-length, ready messages; -1 none */
    int64_t max_length_bytes; /* x-max-length-bytes, bodies of ready messages; -1 none */
};
void queue_spec_init(struct queue_spec *s, uint64_t id); /* id, all limits none */

struct queue *queue_find(const struct queue_table *t,
                         uint64_t id); /* NULL: not open (or does not exist: the topology knows) */
/* Opens, recovering from checkpoint and log if it has one. Already open: that queue, its spec unchanged.
 * ERR_AGAIN: its log is long, so it is being opened on a background thread; ask again when `opened` was called.
 * ERR_CORRUPT, ERR_IO, ERR_LEVEL (the reason in diag): no queue. */
int queue_open(struct queue_table *t, const struct queue_spec *spec, int64_t now_ms, struct queue **ret);
/* Ends the queue: consumers are detached and told (c->cancelled), the log goes. Also for one that was never
 * opened, whose directory then goes. Handles that channels still hold mean nothing from now on. True: it was
 * open. */
bool queue_delete(struct queue_table *t, uint64_t id);
/* Settles all ready messages (unacked ones stay); returns how many. */
uint64_t queue_purge(struct queue *q);
/* Counts as a use for x-expires: declare, get. Consuming does by itself. */
void queue_touch(struct queue *q, int64_t now_ms);

struct queue_info {
    uint64_t id;
    uint64_t ready, unacked, consumers;
    uint64_t log_bytes, memory_bytes; /* on disk (or in memory chunks); RAM of the engine for it */
    uint64_t ready_bytes;             /* bodies; exact only with x-max-length-bytes, else 0 */
    int64_t log_start, log_end, log_durable;
    uint64_t published, delivered, redelivered, acked, expired, dropped; /* since opened */
    bool durable;                                                        /* on disk */
    int failed;                                                          /* 0 or ERR_* that stopped it */
};
void queue_info(const struct queue *q, struct queue_info *ret);
uint64_t queue_id(const struct queue *q);
/* Differs each time a queue is opened: deliveries of a former opening mean nothing here and must be claimed (queue_claim). Never 0. */
uint64_t queue_opened(const struct queue *q);
uint64_t queue_ready(const struct queue *q);
uint64_t queue_unacked(const struct queue *q);
uint32_t queue_consumers(const struct queue *q);
struct log *queue_log(const struct queue *q);
/* All open queues, in no order; stop when fn returns false. */
void queue_each(struct queue_table *t, bool (*fn)(struct queue *q, void *arg), void *arg);

/* ---- publishing ------------------------------------------------------------------------------ */
/* Adds a message. ERR_LIMIT: full, overflow is reject-publish (nack, or silence without confirms).
 * ERR_NOSPACE: the disk is nearly full. ERR_IO, ERR_CORRUPT: the queue has failed. On error nothing was
 * added. *ret_offset (may be NULL) is its offset; it is committed with the next queue_table_flush. */
int queue_publish(struct queue *q, const struct queue_message *m, int64_t now_ms, int64_t *ret_offset);

/* Batches that another node's front end numbers (rule 16): begin, queue_publish each message, end; nothing else of this table in between. Begin: 0; ERR_DUPLICATE: it came already (answer it when the log's end is
 * committed); ERR_OUT_OF_ORDER: *ret_expected is the number it must send next; ERR_FENCED: a later incarnation of the producer wrote already; or what queue_publish fails with as a whole. End: 0, or the error with which the
 * whole batch came to nothing and its number is free. */
int queue_forward_look(const struct queue *q, int64_t producer, int16_t epoch, int32_t sequence, int32_t *ret_expected); /* what begin would say of the number; changes nothing */
int queue_forward_begin(struct queue *q, int64_t producer, int16_t epoch, int32_t sequence, int32_t *ret_expected);
int queue_forward_end(struct queue *q, int64_t producer, int16_t epoch, int32_t sequence);
/* Drops the entries of producers that are no more. */
void queue_producers_forget(struct queue *q, bool (*ended)(void *arg, int64_t id), void *arg);
uint32_t queue_producers(const struct queue *q);
bool queue_refuses_when_full(const struct queue *q); /* x-overflow: reject-publish */

/* ---- consumers ------------------------------------------------------------------------------- */
/* Embedded in what the front end keeps for a consumer. Messages are granted in turn among those with credit,
 * the higher priority first; a consumer with grants gets news, its worker enters the partition and takes.
 *
 * News is at most one at a time: `told` is set with it and cleared by queue_take (or queue_consumer_remove).
 * A consumer's memory must stay while news is on its way: queue_consumer_remove says whether it is. */
struct queue_consumer {
    /* the front end's, set before queue_consumer_add */
    void (*news)(struct queue_consumer *c); /* under the partition's lock, from any thread; may only post a
                                               mail to (or link it to the turn list of) its worker */
    uint32_t prefetch;                      /* unsettled deliveries allowed; 0: any number */
    int32_t priority;                       /* x-priority */
    bool no_ack;                            /* deliveries are settled as they are taken */
    bool exclusive;
    /* the engine's, under the lock */
    struct list node;    /* of the queue's consumers */
    struct list turn;    /* of those that may be granted more */
    struct queue *queue; /* NULL: not attached */
    uint64_t queue_id;
    uint32_t unsettled; /* taken by it, not settled */
    uint32_t granted;   /* messages set aside for it, at most QUEUE_TAKE_MAX */
    bool told;          /* news is on its way */
    bool paused;        /* a deliver callback refused; see queue_consumer_resume */
    bool cancelled;     /* the queue was deleted under it: say basic.cancel */
    bool lost;          /* this node no longer leads the queue's partition: attach to who does */
};
#define QUEUE_TAKE_MAX 64

/* ERR_LOCKED: consumed exclusively, or exclusive was asked for and there are others. One that was attached before keeps `told`: if it was, it must come and take. */
int queue_consumer_add(struct queue *q, struct queue_consumer *c, int64_t now_ms);
/* Detaches; its unsettled deliveries stay so until they are settled with c == NULL. Also for one already
 * detached by queue_delete. True: news was sent and not yet answered by queue_take, so the memory must stay
 * until that mail arrived. May end an auto-delete queue. */
bool queue_consumer_remove(struct queue_consumer *c, int64_t now_ms);
/* After a refused delivery (output full) or queue_consumer_pause: may be granted again. */
void queue_consumer_resume(struct queue_consumer *c);
/* Grants nothing more and gives back what it was granted (channel.flow, a client that does not read, a shared
 * prefetch that is used up). */
void queue_consumer_pause(struct queue_consumer *c);

/* What a channel keeps of an unsettled delivery. */
struct queue_handle {
    uint64_t offset_flags; /* offset << 16 | flags; see queue_handle_offset */
    uint32_t size;         /* of the body: keeps the byte counts exact without reading the message again */
    uint16_t consumer;     /* the channel's, the engine leaves both alone */
    uint16_t slot;
};
enum {
    QUEUE_HANDLE_REDELIVERED = 0x8000,
    QUEUE_HANDLE_COUNT = 0x7f00, /* deliveries before this one, saturating; shifted by 8 */
    QUEUE_HANDLE_PRIORITY = 0x00ff,
};
static inline int64_t queue_handle_offset(const struct queue_handle *h)
{
    return (int64_t)(h->offset_flags >> 16);
}

struct queue_delivery {
    struct queue_handle handle;                           /* keep it (not for no_ack) */
    struct slice exchange, routing_key, properties, body; /* valid during the callback */
    int64_t timestamp_ms;                                 /* of publishing */
    uint32_t delivery_count; /* earlier deliveries, at most 127 counted; after a restart unknown (1 when
                                redelivered) */
    bool redelivered;
};

/* One taking. */
struct queue_take {
    uint32_t max;   /* at most QUEUE_TAKE_MAX; the front end lowers it by a shared prefetch */
    bool read_cold; /* read the disk if it must be: set after the span of an ERR_AGAIN was warmed */
    /* Encodes one delivery. False: not now (output full), it stays ready and the consumer is paused. */
    bool (*deliver)(void *arg, const struct queue_delivery *d);
    void *arg;
    struct log_commit *commit; /* see `commit_added`; NULL while it is armed */
    /* results */
    uint32_t count;       /* deliveries made */
    uint64_t ready;       /* messages ready after it */
    bool commit_added;    /* the reservation of rule 8 must be committed before (much) more is delivered: arm
                           * `commit` after leave and take again when it is done. May come with deliveries,
                           * when it is a reservation for those to come. */
    bool stalled;         /* ... and nothing more can be delivered until then */
    struct log_span cold; /* with ERR_AGAIN: hand it to a background thread: queue_warm, log_span_release;
                             then take again with read_cold */
};
/* Takes up to min(max, granted) messages for c; answers its news. 0, ERR_AGAIN (cold; count may still be
 * above 0), ERR_IO, ERR_CORRUPT. A consumer that is no longer attached takes nothing. */
int queue_take(struct queue_consumer *c, struct queue_take *take, int64_t now_ms);
/* basic.get: one message whatever was granted to whom. count 0: empty (or cold, or stalled: see take; then it
 * is not empty). ERR_LOCKED: x-single-active-consumer. ERR_NOSPACE: the disk is full, even for the
 * reservation. */
int queue_get(struct queue *q, bool no_ack, struct queue_take *take, int64_t now_ms);
/* Reads through a cold span. Any thread, no lock. */
int queue_warm(const struct log_span *span);

/* A delivery of a former leader that a client still holds: it is unacked again, as if c (NULL: nobody) had taken it here. False: it is settled, or somebody else has it. */
bool queue_claim(struct queue *q, struct queue_consumer *c, const struct queue_handle *h);

/* ---- settling -------------------------------------------------------------------------------- */
enum queue_settle { QUEUE_ACK, QUEUE_REQUEUE, QUEUE_DISCARD /* reject, nack without requeue */ };
/* Settles n deliveries of this queue; c is the consumer that took them, NULL for basic.get or a consumer that
 * is gone. Requeued messages are ready again at their position, redelivered. The caller asks once for a
 * delivery. */
void queue_settle(struct queue *q, struct queue_consumer *c, enum queue_settle how,
                  const struct queue_handle *handles, size_t n);

#endif
