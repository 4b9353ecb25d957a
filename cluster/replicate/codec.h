/* The payloads of FETCH, SNAPSHOT_* and LOG_ENDS. Varints are unsigned (u) or zigzag (v), as in base/buf.h. What a peer sent is read strictly and nothing of it is trusted: the reader goes bad, the caller answers ERR_MALFORMED.
 *
 * FETCH request
 *   u8 version | be64 session (0: begin anew) | u max wait ms | u max bytes
 *   u count, count x partition:  u partition | u8 flags | v epoch
 *                                SUBSCRIBE: its logs follow below, those that are not listed have end 0.  MORE: not all of them yet
 *   until the end, a position:   u partition | u8 kind | u id | u index | u end | v last epoch (-1: empty) | u durable end
 *
 * FETCH answer
 *   u8 version | u8 flags (1: the session is unknown: begin anew) | be64 session
 *   u count, count x verdict:    u partition | u8 verdict | v epoch here
 *   until the end, a log:        u partition | v epoch | u8 kind | u id | u index | u8 status | u start | u high watermark | by status
 *                                  POSITION   -
 *                                  DATA       u length | whole batches
 *                                  DIVERGED   v epoch | u end         (R10, R11)
 *                                  RANGE      u end                   the asked offset lies beyond the leader's end or before its start (R13, rule 3)
 *
 * SNAPSHOT_OPEN request    u partition | u8 kind | u id | u index
 *               answer     u64 handle | u start S | u size of the file
 * SNAPSHOT_READ request    be64 handle | u position | u length     answer: the bytes
 * SNAPSHOT_CLOSE           be64 handle
 *
 * LOG_ENDS request         u partition | v epoch (the asker's record's)
 *          answer          v epoch | until the end: u8 kind | u id | u index | u start | u end | v last epoch
 *
 * LOG_READ request         a position, as in FETCH           answer: a log, as in FETCH */
#ifndef GM_CLUSTER_REPLICATE_CODEC_H
#define GM_CLUSTER_REPLICATE_CODEC_H

#include "base/buf.h"
#include "log/log.h"

#define FETCH_VERSION 1

/* Which log: of a partition, its main log, a queue's, a topic partition's. */
struct log_key {
    uint32_t partition;
    uint8_t kind;   /* enum log_kind */
    uint32_t index; /* of the topic's partitions */
    uint64_t id;    /* of the topology; the partition for a main log */
};

enum fetch_flag { FETCH_SUBSCRIBE = 1, FETCH_MORE = 2 };
enum fetch_verdict {
    FETCH_OK,
    FETCH_FENCED,  /* a newer epoch is known here, or this node does not lead */
    FETCH_AHEAD,   /* the follower's epoch is newer: ask again in a moment */
};
enum fetch_status { FETCH_POSITION, FETCH_DATA, FETCH_DIVERGED, FETCH_RANGE };

struct fetch_request {
    uint64_t session;
    uint32_t wait_ms, max_bytes;
    uint64_t parts; /* how many partition entries follow */
};
void fetch_request_put(struct buf *b, const struct fetch_request *q);
void fetch_part_put(struct buf *b, uint32_t partition, unsigned flags, int32_t epoch);
/* Reads the head; the entries follow in the reader. */
int fetch_request_get(struct reader *r, struct fetch_request *ret);
int fetch_part_get(struct reader *r, uint32_t *ret_partition, unsigned *ret_flags, int32_t *ret_epoch);

struct fetch_position {
    struct log_key key;
    int64_t end, durable;
    int32_t epoch;
};
void fetch_position_put(struct buf *b, const struct fetch_position *p);
int fetch_position_get(struct reader *r, struct fetch_position *ret);

struct fetch_answer {
    bool unknown_session;
    uint64_t session;
    uint64_t parts;
};
void fetch_answer_put(struct buf *b, const struct fetch_answer *a);
int fetch_answer_get(struct reader *r, struct fetch_answer *ret);
void fetch_verdict_put(struct buf *b, uint32_t partition, enum fetch_verdict verdict, int32_t epoch);
int fetch_verdict_get(struct reader *r, uint32_t *ret_partition, enum fetch_verdict *ret, int32_t *ret_epoch);

struct fetch_log {
    struct log_key key;
    int32_t epoch; /* of the partition */
    enum fetch_status status;
    int64_t start, hw;
    struct slice data;       /* DATA */
    int32_t diverged_epoch;  /* DIVERGED */
    int64_t end;             /* DIVERGED, RANGE */
};
/* DATA: the caller puts a length and the bytes behind it. */
void fetch_log_put(struct buf *b, const struct fetch_log *l);
int fetch_log_get(struct reader *r, struct fetch_log *ret);

struct log_end_entry {
    struct log_key key; /* partition is the request's */
    int64_t start, end;
    int32_t epoch;
};
void log_end_put(struct buf *b, const struct log_end_entry *e);
int log_end_get(struct reader *r, uint32_t partition, struct log_end_entry *ret);

void log_key_put(struct buf *b, const struct log_key *k);
int log_key_get(struct reader *r, struct log_key *ret);

#endif
