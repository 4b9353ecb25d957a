/* A batch: the publishes and acknowledgements of one read event, grouped by partition so that each partition
 * is entered once and each queue's effects are one record batch.
 *
 * Slices borrow from the input buffer until the batch must wait; then everything is copied once (batch_own)
 * and the input may go. Order is kept within a channel and queue: operations of one partition run in the
 * order they were gathered.
 *
 * A round is what of a batch waits for a commit: the confirms of its channels, and the reply barrier of
 * rule 8. Rounds of a connection end in order. */
#ifndef GM_AMQP_BATCH_H
#define GM_AMQP_BATCH_H

#include "protocols/amqp/route.h"
#include "protocols/amqp/session.h"

/* One publish. */
struct amqp_publish {
    struct amqp_channel *channel;
    uint64_t confirm; /* its number, 0: not confirming */
    struct slice exchange, routing_key, properties, body;
    bool persistent;
    uint8_t priority;
    int64_t expiration_ms;
    int err; /* of its first queue that refused it */
    uint64_t err_queue;
};

enum amqp_op_kind { AMQP_OP_PUBLISH, AMQP_OP_SETTLE, AMQP_OP_DONE /* forwarded */ };

struct amqp_op {
    uint32_t next; /* of the same partition; 0: last */
    enum amqp_op_kind kind : 8;
    enum queue_settle how : 8;
    uint16_t source; /* of a settle */
    uint64_t queue_id;
    uint32_t item;  /* publish index, or the first handle */
    uint32_t count; /* handles */
    struct amqp_channel *channel;
};

struct amqp_batch_part {
    uint32_t partition;
    uint32_t first, last; /* ops */
    bool commit;          /* has a publish whose confirm waits for the disk */
};

struct amqp_batch {
    struct amqp_publish *publishes;
    uint32_t publish_count, publish_cap;
    struct amqp_op *ops; /* [0] is unused: 0 ends a chain */
    uint32_t op_count, op_cap;
    struct queue_handle *handles;
    uint32_t handle_count, handle_cap;
    struct amqp_batch_part *parts;
    uint32_t part_count, part_cap;
    uint32_t done_parts; /* after a park: those before this are through */
    uint32_t last_part;  /* hint */
    bool confirming;
    bool transaction;         /* of tx.commit: output waits for what is persistent */
    struct amqp_round *round; /* of confirms, while the batch runs */
    struct buf owned;         /* what borrowed slices were copied to */
    struct buf *bodies;       /* assembled bodies that publishes point into; owned */
    uint32_t body_count, body_cap;
};

/* A confirmed stretch of one channel. */
struct amqp_round_part {
    uint64_t serial;
    uint16_t channel;
    uint64_t first, last; /* publish numbers */
};
struct amqp_nack {
    uint64_t serial, number;
};

struct amqp_round {
    struct list node;
    struct amqp_session *session;
    struct log_commit commit;
    bool done;
    int err;
    uint32_t remote_left; /* answers of other nodes to come */
    struct list remote_parts, remote_waits; /* private to remote.c */
    uint64_t hold; /* of conn_hold, with rule 8; `held` says whether */
    bool held;
    uint32_t part_count, part_cap;
    struct amqp_round_part *parts;
    uint32_t nack_count, nack_cap;
    struct amqp_nack *nacks; /* in order of gathering */
};

struct amqp_batch *amqp_batch_get(struct amqp_session *s); /* the session's, made on demand */
/* Gathers a publish to these targets. The slices are borrowed; `body` (may be NULL) is taken over when they
 * lie in it. */
void amqp_batch_publish(struct amqp_session *s, const struct amqp_publish *p, const struct amqp_route *route,
                        struct buf *body);
/* Gathers the settling of one delivery. */
void amqp_batch_settle(struct amqp_channel *ch, enum queue_settle how, const struct queue_handle *h);
/* Runs it. 0, or ERR_PARKED: the session was parked and the batch owns what it needs. */
int amqp_batch_flush(struct amqp_session *s);
void amqp_batch_free(struct amqp_batch *b);

struct amqp_round *amqp_round_new(struct amqp_session *s);
/* The commit is armed, or was not needed (`waits` false): appended to the session's rounds, and those that
 * are done answered. */
void amqp_round_submit(struct amqp_round *r, bool waits);
void amqp_round_discard(struct amqp_round *r); /* it was not submitted */
void amqp_round_try(struct amqp_round *r); /* one thing it waited for is there */
void amqp_round_nack(struct amqp_round *r, uint64_t serial, uint64_t number);
void amqp_rounds_cancel(struct amqp_session *s);

#endif
