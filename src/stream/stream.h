/* The stream engine: topic partitions. A stream is a data log with its own mutex (P15), the state of its
 * idempotent producers and the fetches that wait for it.
 *
 * Life of a stream
 *   1. A topic of the topology; nothing is in memory or, before the first append, on disk.
 *   2. stream_open, at the first request that touches it: opens the log, rebuilds the producers' state from
 * its snapshot and the batch headers behind it. May read the disk, so it runs on a background thread.
 *   3. Found by stream_find until deleted or the node stops. An idle stream is its struct and its log's,
 * without an open file.
 *   4. stream_delete: taken out of the table, waiting fetches are told; the log's directory goes when the
 * last reference does. Until then a new topic of the same name cannot be opened (ERR_BUSY), for it would
 * share the directory.
 *
 *   5. stream_table_close_partition: taken out of the table, log and directory stay; opened anew when asked for.
 *
 * Threads and locks: any thread. A stream's mutex guards appends and producers, another one behind it its waiters; order partition ->
 * stream -> fetch session. Readers take none: they read up to the atomically published log end. No clock: the
 * caller gives the time. */
#ifndef GM_STREAM_STREAM_H
#define GM_STREAM_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/slice.h"
#include "log/batch.h"
#include "log/log.h"

struct stream;
struct stream_table;

struct stream_table_options {
    struct log_store *store; /* borrowed */
    struct workers *workers; /* borrowed */
    const char *data_dir;    /* the store's */
};
struct stream_table *stream_table_new(const struct stream_table_options *options);
/* Nobody uses the streams any more: writes the producers' snapshots, closes the logs. */
void stream_table_free(struct stream_table *t);

/* Which stream, and where it lives. */
struct stream_place {
    uint64_t topic_id;
    struct slice topic;
    uint32_t index;         /* of the topic's partitions */
    uint32_t partition;     /* that owns it: placement_of_topic */
    uint64_t segment_bytes; /* 0: the store's */
};

/* An open stream, counted; NULL when it is not open (stream_open then). */
struct stream *stream_find(struct stream_table *t, uint64_t topic_id, uint32_t index);
/* Finds or opens. ERR_NOT_FOUND (the topic was deleted), ERR_BUSY (a deleted predecessor of the same name is
 * still in use), ERR_CORRUPT, ERR_IO. Background threads. */
int stream_open(struct stream_table *t, const struct stream_place *place, struct stream **ret);
void stream_ref(struct stream *s);
void stream_unref(struct stream *s); /* NULL is fine */
/* The topic is gone from the topology: open or not, its data goes. Background threads. */
void stream_delete(struct stream_table *t, const struct stream_place *place);
/* Whether streams of a partition take appends, be they open or opened later; all do at first. A node that hands over or stops leading shuts the
 * partition before it looks at the ends of its logs: who looked at the role before and appends after that gets ERR_NOT_LEADER (rule 21). Any thread;
 * shutting waits for appends under way. */
void stream_table_admit(struct stream_table *t, uint32_t partition, bool appends);
/* This node's role in a partition changes: its streams leave the table, so that a new leader reads anew what they know. Appends and commits
 * that wait end with ERR_NOT_LEADER, waiting fetches are told, who holds one finds it closed and lets go; the logs stay open for whoever else
 * holds them. Called when the partition stopped leading, and again before it begins to lead. Any thread; waits for an append under way. */
void stream_table_close_partition(struct stream_table *t, uint32_t partition);
/* Calls fn for every open stream, holding a reference meanwhile. */
void stream_table_each(struct stream_table *t, void (*fn)(struct stream *s, void *arg), void *arg);
uint64_t stream_table_count(struct stream_table *t);

bool stream_is_closed(const struct stream *s);
uint64_t stream_topic_id(const struct stream *s);
struct slice stream_topic(const struct stream *s);
uint32_t stream_index(const struct stream *s);
uint32_t stream_partition(const struct stream *s); /* that owns it */
struct log *stream_log(const struct stream *s); /* for reading; lives as long as the reference */
bool stream_is_deleted(const struct stream *s);
/* On a node alone whatever is appended can be read: start, high watermark and last stable offset. */
int64_t stream_start(const struct stream *s);
int64_t stream_high_watermark(const struct stream *s);
int32_t stream_epoch(const struct stream *s);

/* ---- appending: stream/append.c ----------------------------------------------------------------------- */

struct stream_rules {
    uint32_t max_batch_bytes;       /* max.message.bytes */
    bool log_append_time;           /* message.timestamp.type */
    int64_t timestamp_after_max_ms; /* message.timestamp.after.max.ms; INT64_MAX: no bound */
};

enum stream_fault {
    STREAM_OK,
    STREAM_FAULT_FORMAT,  /* an old message set: magic below 2 */
    STREAM_FAULT_CORRUPT, /* CRC, or shorter than it says */
    STREAM_FAULT_INVALID, /* not exactly one batch, counts, base offset, sequence, control bit, records that
                             do not parse */
    STREAM_FAULT_TOO_LARGE,
    STREAM_FAULT_TRANSACTION, /* the transactional bit */
    STREAM_FAULT_TIMESTAMP,
};
/* What a client's batch must hold before anything is locked; the records of a compressed batch stay opaque.
 * Stamps the append time, when the topic asks for it, into `data`. `why` gets a constant phrase when it is
 * not STREAM_OK. */
enum stream_fault stream_check(uint8_t *data, size_t len, const struct stream_rules *rules, int64_t now_ms,
                               struct batch_header *ret, const char **why);

struct stream_appended {
    int64_t base, next;
    int64_t append_time; /* -1 unless the topic stamps it */
    int64_t start;
    bool duplicate; /* base is the original's */
};
/* Appends a checked batch: base offset and epoch are written into `data`. With `commit`, adds what must be
 * committed (of a repeat too). ERR_FENCED (older producer epoch), ERR_OUT_OF_ORDER, ERR_NOSPACE, ERR_IO,
 * ERR_NOT_FOUND (deleted meanwhile), ERR_NOT_LEADER (closed). */
int stream_append(struct stream *s, uint8_t *data, const struct batch_header *h, int64_t now_ms,
                  struct log_commit *commit, struct stream_appended *ret);

/* ---- offsets and retention: stream/offsets.c ---------------------------------------------------------- */
/* The first record at or after the time; ERR_NOT_FOUND. May read the disk. */
int stream_find_time(struct stream *s, int64_t timestamp_ms, int64_t *ret_offset, int64_t *ret_timestamp);
/* The record with the greatest timestamp; ERR_NOT_FOUND when empty. May read the disk. */
int stream_find_max_time(struct stream *s, int64_t *ret_offset, int64_t *ret_timestamp);
/* Moves the start up to `offset` (-1: the high watermark). ERR_OFFSET_RANGE beyond it. */
int stream_delete_records(struct stream *s, int64_t offset, int64_t *ret_start);
struct stream_retention {
    int64_t max_age_ms; /* -1: for ever */
    int64_t max_bytes;  /* -1: unbounded */
};
/* Drops whole segments that are too old or too much; of the active one all records, when they are too old.
 * Returns how many segments went. Background threads. */
unsigned stream_retain(struct stream *s, const struct stream_retention *r, int64_t now_ms);
/* Forgets producers idle for longer than this and writes their snapshot when enough was appended since the
 * last. Background threads. */
void stream_tend_producers(struct stream *s, int64_t now_ms, int64_t max_idle_ms);
size_t stream_producer_count(struct stream *s);
struct stream_producer {
    int64_t id;
    int16_t epoch;
    int32_t last_sequence;  /* -1: it appended nothing in this epoch */
    int64_t last_timestamp; /* of its last batch; -1 then */
};
/* Calls fn for each producer that is remembered, in no order, under the stream's mutex. */
void stream_each_producer(struct stream *s, void (*fn)(const struct stream_producer *p, void *arg),
                          void *arg);

/* ---- waiting ------------------------------------------------------------------------------------------ */
/* Embedded in the fetch. `notify` runs under a lock of the stream's after an append (of a replicated stream: when the high watermark
 * moved) or when the stream is deleted or closed, on the thread that did it: it only notes the fact and posts mail. It may run again
 * with the next news; registering holds a reference. */
struct stream_waiter {
    struct list node;
    struct stream *stream; /* counted; NULL: not registered */
    void (*notify)(struct stream_waiter *w);
};
void stream_wait(struct stream *s, struct stream_waiter *w);
void stream_unwait(struct stream_waiter *w); /* unregistered is fine; after it, notify does not run */

#endif
