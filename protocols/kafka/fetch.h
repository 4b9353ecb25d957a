/* Fetches: what a request or a session (KIP-227) wants of which partitions, and the ready list by which
 * appends reach it (P20).
 *
 * A part knows whether it may have something to send: then it is on its fetch's ready list. All parts of a
 * new fetch are; evaluating takes a part off, and it goes back on when it has bytes; an append or a deletion
 * puts it back from another thread. So a session of 10,000 partitions costs what is new, not what it holds.
 *
 * Threads: a fetch belongs to its connection's worker. `mu` guards the ready list and what notify touches;
 * order stream -> fetch. */
#ifndef GM_KAFKA_FETCH_H
#define GM_KAFKA_FETCH_H

#include "protocols/kafka/session.h"

struct fetch;

struct fetch_part {
    struct stream_waiter waiter; /* registered while a session holds it, or a fetch waits */
    struct list ready;           /* in fetch->ready, under its mutex */
    struct list order;           /* in fetch->parts */
    struct list answer;          /* in fetch->answer */
    struct fetch_part *next;     /* in the session's bucket */
    struct fetch *fetch;
    struct stream *stream; /* counted; NULL: see code */
    char *topic;           /* owned; NULL: by id */
    uint8_t uuid[16];
    uint64_t topic_id; /* 0: unknown topic */
    uint32_t partition; /* that owns it, when the topic is known */
    bool partition_known;
    int32_t index;
    int32_t leader_epoch; /* -1: not checked */
    int32_t last_epoch;   /* of what the client fetched last; -1: not told */
    int64_t offset;
    int32_t max_bytes;
    /* what was found now */
    int16_t code;
    int64_t high_watermark, start;
    int32_t preferred;     /* KIP-392: read there instead; -1: here */
    bool diverges;         /* KIP-320: the client's log is not a part of this one ... */
    int32_t diverge_epoch; /* ... whose newest epoch that it can share is this ... */
    int64_t diverge_end;   /* ... and ends here */
    struct log_span span; /* len 0: nothing */
    bool has_span;
    /* what the session's client was told last; -1: nothing */
    int64_t told_high_watermark, told_start;
};

struct fetch {
    struct kafka_async async; /* while it waits */
    struct mail mail;         /* news from other threads */
    struct io_timer timer;
    struct bg_job warm; /* reads cold spans into the page cache */
    struct mutex mu;
    struct list ready GUARDED_BY(mu);
    bool waiting GUARDED_BY(mu), posted GUARDED_BY(mu); /* news are wanted; mail is under way */
    bool news GUARDED_BY(mu);                           /* something came since the last evaluation began */
    struct list parts;                                  /* in the order they are served */
    struct list answer;                                 /* parts evaluated for the request being served */
    unsigned part_count;
    bool incremental;    /* the answer leaves out what did not change */
    bool waits, warming; /* what the request being served is at, as its worker knows it */
    bool dead;           /* freed when the mail or job under way has come */
    bool by_id;          /* topics are named by id: version 13 and newer */
    bool may_follow;     /* followers serve it: version 11 and newer */
    char *rack;          /* owned; the client's, NULL: not told */
    /* of the request being served */
    int32_t max_wait_ms, min_bytes, max_bytes;
    int8_t isolation;
    int32_t session_id;            /* to answer */
    struct fetch_session *session; /* NULL: a fetch of its own */
};

struct fetch_session {
    struct fetch fetch;
    int32_t id, epoch;           /* the epoch the next request must carry */
    struct fetch_part **buckets; /* owned */
    uint32_t bucket_count;
};

void fetch_init(struct fetch *f);
struct fetch_part *fetch_part_new(struct fetch *f);
void fetch_part_free(struct fetch_part *p);
void fetch_mark_ready(struct fetch_part *p);
/* Looks at every ready part: code, watermarks and, within the byte limits, a span. Returns the bytes found;
 * *ret_urgent when something must be told at once. */
size_t fetch_evaluate(struct kafka_session *s, struct fetch *f, bool *ret_urgent);
void fetch_release_spans(struct fetch *f);
/* Encodes and sends what was evaluated: fetch_answer.c. Lets the spans go. */
void fetch_answer(struct kafka_session *s, const struct kafka_request *rq, struct fetch *f);
/* An answer of nothing but an error. */
void fetch_answer_error(struct kafka_session *s, const struct kafka_request *rq, int16_t code);

/* KIP-227, fetch_session.c */
struct fetch_session *fetch_session_new(struct kafka_session *s);
struct fetch_part *fetch_session_find(struct fetch_session *fs, const struct kafka_topic_ref *topic,
                                      int32_t index);
void fetch_session_add(struct fetch_session *fs, struct fetch_part *p);
void fetch_session_remove(struct fetch_session *fs, struct fetch_part *p);

#endif
