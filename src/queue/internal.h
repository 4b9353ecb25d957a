/* What the files of src/queue share. Everything under the partition's lock.
 *
 * Invariants of a queue, `end` being the offset the next record will get (queue_next_offset):
 *   I1  acks.end <= end, and equal after a flush; offsets in [log_end, end) are in the pending batch.
 *   I2  acks.live == ready + unacked: a live message is ready or held by a channel.
 *   I3  ready == heap.count + sum of rings + live offsets at or above head.
 *   I4  head <= end; a live message below head is in the heap, in a ring, or unacked.
 *   I5  granted == sum over consumers of c->granted.
 *   I6  on disk only: nothing at or above reserve_committed was ever delivered. */
#ifndef GM_QUEUE_INTERNAL_H
#define GM_QUEUE_INTERNAL_H

#include <stdatomic.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "log/batch.h"
#include "log/effect.h"
#include "queue/ackmap.h"
#include "queue/heap.h"
#include "queue/queue.h"

#define QUEUE_MAGIC 0x51c0de01u
#define QUEUE_TABLE_MAGIC 0x51c0de02u

#define QUEUE_RESERVE_AHEAD 1000      /* rule 8: reservations are this far ahead of the head ... */
#define QUEUE_RESERVE_AHEAD_MAX 16384 /* ... and doubled up to this when deliveries waited for one */
#define QUEUE_ZERO_TTL_GRACE_MS                                                                              \
    20 /* a message with TTL 0 may live this long for a consumer that was waiting for it */
#define QUEUE_LOG_DB 0

struct queue_range {
    int64_t first, count;
};

/* What a queue gathers between two flushes; taken from the table's pool while it is not empty. */
struct queue_pending {
    struct queue_pending *next; /* in the pool */
    struct batch_builder batch; /* messages and reservations */
    struct effects fx;          /* over batch */
    int64_t base;               /* offset of the batch's first record */
    uint32_t messages;
    uint64_t bytes;             /* of their bodies */
    bool reserved;              /* the batch holds a reservation */
    bool sorted;                /* ranges ascend */
    struct queue_range *ranges; /* settled since the last flush; owned */
    size_t range_count, range_cap;
};

/* Reads the messages of one log one after the other, forward. */
struct queue_reader {
    struct log_span span;
    bool open;
    const uint8_t *data; /* of the span */
    size_t len, at;      /* at: where the batch in hand ends */
    bool in_batch;
    struct batch_header header;
    struct record_iter records;
    int64_t next; /* offset of the next record */
};

struct queue_checkpoint_job;
struct queue_frozen;

struct queue {
    uint32_t magic;
    bool on_disk;
    bool dirty;   /* in table->dirty */
    bool timed;   /* in table->timed */
    bool has_ttl; /* some ready message may expire */
    bool ending;  /* `ended` was called */
    bool had_consumer;
    bool bytes_inexact; /* ready_bytes cannot be trusted */
    bool wrote;         /* appended since the last queue_table_flush */
    bool wait_cold;     /* waiter waits for a cold read, not for a reservation */
    bool apart;         /* opened in the background, or followed: not in the table, and nobody holds the lock for it */
    bool followed;      /* ... the latter */
    _Atomic bool stop;  /* ... give up */
    bool forwarding;    /* between queue_forward_begin and _end: one batch, whatever its size */
    int failed;
    struct queue_table *table;
    struct queue *hash_next;
    struct list dirty_node, timed_node;
    struct list follow_node; /* in table->followed */
    struct log_watch hw_watch;   /* of its log: the high watermark moved */
    struct list hw_node;         /* in table->hw_news, under its mutex */
    _Atomic bool hw_wanted;      /* somebody waits for what lies above it */
    struct queue_spec spec;
    struct log *log;
    struct ackmap acks;
    struct queue_pending *pending; /* NULL: nothing gathered */

    int64_t head;                  /* the cursor: everything below was passed */
    int64_t cursor_batch;          /* base of the batch the cursor is in, -1: none; */
    uint32_t cursor_pos;           /* ... how far into its records, */
    int32_t cursor_left;           /* ... and how many are left there */
    struct log_place cursor_place; /* where the log is read next: that batch, or the one behind it */
    struct queue_heap heap;        /* requeued */
    struct queue_ring *rings; /* max_priority + 1 of them for a priority queue, whose cursor is always at the
                                 end; else NULL */

    uint64_t ready, unacked;
    uint64_t ready_bytes;
    uint32_t average_size; /* of a record, roughly */

    int64_t reserve_committed, reserve_logged; /* M that may be delivered below; M last written */
    int64_t reserve_end; /* log end that commits reserve_logged; 0: nothing outstanding */
    uint32_t reserve_ahead;
    int64_t redeliver_below; /* may have been delivered before the last start */

    struct list consumers, turn;
    uint32_t consumer_count;
    uint64_t granted;
    struct queue_consumer *active; /* of a single-active queue */
    struct queue_consumer
        *waiter; /* will call queue_take when a reservation is committed or cold data is there */

    int64_t ttl_end;      /* no message at or above it expires, but by x-message-ttl */
    int64_t next_expiry;  /* when the head may expire; INT64_MAX none, 0 look */
    int64_t unused_since; /* for x-expires */

    int64_t checkpoint_end;                  /* log end of the last checkpoint */
    uint64_t bytes_since;                    /* appended since */
    uint64_t settled_since;                  /* messages settled since */
    struct queue_checkpoint_job *checkpoint; /* under way */
    struct queue_job *warm;                  /* a warming for the expiry tick is under way */
    bool tick_cold;                          /* what the tick wants was warmed */

    struct buf own_window; /* of one that is `apart`: the table's is not its own */
    struct queue_frozen *frozen; /* owned; of one that is followed: a checkpoint that waits until the log is durable */
    uint64_t opened; /* which opening of a queue of this process it is */
    struct queue_producer *producers; /* owned; those who forward to it, rule 16 */
    uint32_t producer_count, producer_cap;

    uint64_t published, delivered, redelivered, acked, expired, dropped;
};

/* The last batch of a producer of another node's front end. */
struct queue_producer {
    int64_t id;
    int32_t sequence;
    int16_t epoch; /* its incarnation */
};

struct queue_table {
    uint32_t magic;
    struct queue_table_options options;
    struct queue **buckets; /* by id; a power of two */
    uint32_t bucket_count;
    uint64_t count;
    struct list dirty; /* to flush, to grant */
    struct list timed; /* TTL, x-expires, checkpoints waiting */
    struct queue_pending *pool;
    uint32_t pool_count;
    struct buf window;  /* what was read from disk */
    struct buf scratch; /* encodings */
    int64_t now_ms;     /* the latest time anybody told us */
    uint32_t jobs;      /* under way */
    bool *stirred;      /* options.stirred, or unlooked */
    bool unlooked;
    int flush_error;    /* messages were lost since the last queue_table_flush */
    _Atomic int64_t next_tick;
    struct mutex hw_mutex; /* behind a log's own locks; a leaf */
    struct list hw_news;   /* queues whose high watermark moved */
    bool hw_told;          /* the host knows */
    struct list openings;  /* of struct queue_opening: under way, or failed a moment ago */
    struct mutex opening_mutex; /* a leaf: the states of openings */
    pthread_cond_t opening_ran;
    struct mutex follow_mutex; /* a leaf */
    struct mutex files_mutex;  /* a leaf, held over a sync: checkpoints that were begun while this node led */
    struct list followed;  /* of struct queue, by follow_node, under it */
    _Atomic uint64_t replayed_background, replayed_locked, replayed_followed; /* records */
};

/* table.c */
void queue_mark_dirty(struct queue *q);
void queue_mark_timed(struct queue *q, int64_t at_ms);
void queue_see_time(struct queue_table *t, int64_t now_ms);
void queue_free(struct queue *q); /* its log is closed */
struct queue *queue_new(struct queue_table *t, const struct queue_spec *spec);
void queue_enter(struct queue_table *t, struct queue *q); /* it is open from here on */
void queue_dir(const struct queue_table *t, uint64_t id, char *out,
               size_t size); /* relative to the data directory */
void queue_submit(struct queue_table *t, struct queue_job *job);

/* pending.c */
int64_t queue_next_offset(const struct queue *q);
struct queue_pending *queue_pending_open(struct queue *q);
void queue_pending_free(struct queue_pending *p);
void queue_note_settled(struct queue *q, int64_t first, int64_t count); /* an acknowledgement to be logged */
int queue_flush(struct queue *q);                                       /* appends; grants nothing */
/* Where nothing is delivered any more: below it something may have been, here or before the last start. (Of a priority queue that is the end: its cursor is always there.) */
int64_t queue_reserve_exact(const struct queue *q);
void queue_reserve(struct queue *q); /* logs a reservation when the last one runs out */

/* reader.c */
void queue_reader_init(struct queue_reader *r);
void queue_reader_close(struct queue_reader *r);
/* Finds the record with this offset, which must exist and be flushed. 0; ERR_AGAIN: *cold is the span to
 * warm, the reader is closed; ERR_CORRUPT, ERR_IO. */
int queue_reader_find(struct queue_reader *r, struct queue *q, int64_t offset, size_t want_bytes,
                      bool read_cold, struct record *ret, struct log_span *cold);
void queue_reader_save(struct queue_reader *r, struct queue *q); /* the cursor: where the next read resumes */

/* ready.c: which message is next */
struct queue_next {
    enum { QUEUE_FROM_NOWHERE, QUEUE_FROM_HEAP, QUEUE_FROM_RING, QUEUE_FROM_LOG } source;
    struct queue_entry entry;
};
struct queue_next queue_next_ready(struct queue *q, int64_t below); /* of those with offsets below */
/* What may be delivered lies below: the high watermark of a replicated log. INT64_MAX: anything. */
int64_t queue_visible_end(const struct queue *q);
uint64_t queue_visible_ready(const struct queue *q);
void queue_next_take(struct queue *q, const struct queue_next *n); /* it is no longer ready: passed */
void queue_settle_one(struct queue *q, int64_t offset);            /* live -> settled, noted for the log */
void queue_drop_head(struct queue *q);
bool queue_is_expired(const struct queue *q, const struct record *r, const struct queue_message_view *m,
                      int64_t now_ms);
int64_t queue_expiry_of(const struct queue *q, const struct record *r,
                        const struct queue_message_view *m); /* INT64_MAX: never */
/* Settles what has expired at the head. */
void queue_expire_head(struct queue *q, int64_t now_ms);
/* Rebuilds what is ready from the live offsets, all of which are ready: after recovery. */
int queue_rebuild_ready(struct queue *q);

/* forward.c */
struct queue_producer *queue_producer_find(const struct queue *q, int64_t id);
void queue_producer_note(struct queue *q, int64_t id, int16_t epoch, int32_t sequence);

/* publish.c */
void queue_bound_length(struct queue *q); /* drops what is over x-max-length */

/* consumer.c */
void queue_grant(struct queue *q);
void queue_turn_update(struct queue_consumer *c);
void queue_detach_all(struct queue *q, bool lost); /* the queue is going, or its leadership is */
bool queue_reserve_stalls(struct queue *q); /* the next message may not be delivered yet */

/* checkpoint.c */
int queue_checkpoint_load(
    struct queue *q, bool *ret_found); /* fills acks, reserve_logged, counts; found false: there is none */
int queue_checkpoint_write_clean(struct queue *q); /* at a clean stop */
bool queue_checkpoint_due(const struct queue *q);
void queue_checkpoint_tick(struct queue *q);   /* starts one when due, submits one that became durable */
void queue_checkpoint_forget(struct queue *q); /* the queue goes while one is under way */
/* S is where the state of `acks` ends; nothing is pending. */
void queue_checkpoint_encode(struct queue *q, struct buf *out);
int queue_checkpoint_write(struct queue *q, bool durable); /* at once; background */
int queue_checkpoint_put(struct queue *q, struct slice bytes, int64_t end, bool durable); /* one that was encoded, with its S; background */
/* Bases of the sealed segments below S without a live message there; owned by the caller. */
int64_t *queue_checkpoint_dead(struct queue *q, size_t *ret_n);
int queue_checkpoint_decode(struct queue *q, struct slice in);
void queue_drop_settled(struct queue *q); /* memory logs: give back what lies below the first live message */

/* recover.c */
int queue_recover(struct queue *q);
/* The newest checkpoint, and nothing if there is none. */
int queue_load_state(struct queue *q, bool *ret_found);
void queue_follow_start(struct queue *q);
/* From acks.end on, whole batches below `to`, until `budget` bytes are read: 0, *ret_more when there are more; ERR_CANCELLED: told to stop. */
int queue_replay(struct queue *q, int64_t to, uint64_t budget, bool *ret_more);

/* open.c */
bool queue_opening_cancel(struct queue_table *t, uint64_t id); /* of this one; waits until its thread has let go. True: there was one */
void queue_openings_cancel(struct queue_table *t);
void queue_openings_free(struct queue_table *t);

/* follow.c */
struct queue *queue_followed_take(struct queue_table *t, uint64_t id); /* NULL: none; it is the caller's */
void queue_frozen_free(struct queue_frozen *f);

#endif
