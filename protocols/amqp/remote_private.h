/* What remote.c (publishes, the queue's state, timers) and attach.c (operations, attachments, deliveries) share. */
#ifndef GM_AMQP_REMOTE_PRIVATE_H
#define GM_AMQP_REMOTE_PRIVATE_H

#include "base/mem.h"
#include "cluster/bus/bus.h"
#include "protocols/amqp/forward.h"
#include "protocols/amqp/remote.h"

enum {
    REMOTE_TICK_MS = 50,
    REMOTE_RETRY_US = 20000,
    REMOTE_CALL_MS = 30000, /* of a leader that stays one; another is asked as soon as the topology names it */
    REMOTE_ASK_US = 30000000, /* then the client is told */
    REMOTE_IDLE_US = 10000000,
    REMOTE_BATCH_BYTES = 512 << 10, /* a batch is closed at so much: the leader writes it as one (rule 16) */
    REMOTE_BATCH_COUNT = 1024,
    REMOTE_KEPT_MAX = 64 << 20, /* bytes of a worker that wait for leaders before its clients wait, too */
};

/* Confirms, or failures to be told, of a stretch of a batch. */
struct remote_part {
    struct list node;  /* of the batch */
    struct list round_node; /* of the round; unlinked: nobody waits */
    struct amqp_round *round;
    uint64_t conn_id, serial;
    uint16_t channel;
    uint32_t first, count; /* messages */
};

struct remote_batch {
    struct list node;
    struct buf messages;
    uint32_t count;
    bool commit;
    bool closed; /* takes no more */
    bool unsure; /* it was sent before, and may be in some leader's log */
    uint64_t *confirms; /* owned: publish numbers, 0: none */
    uint32_t confirm_cap;
    struct list parts;
};

struct remote_settle {
    uint64_t consumer;
    struct queue_handle handle;
    enum queue_settle how;
};

struct remote_op {
    struct list node;
    enum bus_type type;
    uint8_t flags;
    uint64_t seq;
    struct amqp_session *asker; /* NULL: nobody waits */
    uint64_t deadline_us;
    struct amqp_attachment *attachment; /* of DETACH and GET */
    uint8_t what;                       /* of CONTROL */
    bool last;                          /* DETACH that frees the attachment */
    struct remote_settle *settles;      /* owned */
    uint32_t settle_count, settle_cap;
};

struct remote_wait {
    struct list node; /* of the remote */
    struct list round_node;
    struct amqp_round *round;
    uint64_t until;
};

/* A DELIVER on its way to the client. */
struct remote_delivery {
    struct mail mail;
    struct list node;
    struct amqp_worker *aw;
    struct bus_request *request;
    uint64_t consumer;
    uint32_t generation;
    bool gone; /* a GONE instead */
    uint8_t why;
    size_t len, at; /* at: of what was not written yet */
    uint64_t left;
    uint8_t payload[];
};

struct amqp_attachment {
    struct list node; /* of the remote */
    struct list hash;
    struct amqp_remote *remote;
    uint64_t id;
    uint32_t generation;
    struct amqp_channel *channel; /* NULL: its source is gone */
    uint16_t source;
    struct amqp_consumer *consumer; /* NULL: holds deliveries only */
    struct amqp_session *asker;     /* waits for the first answer */
    uint64_t deadline_us;
    bool attached; /* where the remote's attachments are */
    bool as_holder; /* it was asked for that way last */
    bool announced;
    bool no_ack, exclusive;
    uint32_t prefetch;
    int32_t priority;
    struct list held; /* deliveries that the client's connection has no room for */
};

struct amqp_remote {
    struct list node; /* of the worker's bucket */
    struct list dirty;
    struct amqp_worker *aw;
    uint64_t queue_id;
    uint32_t partition, home;
    bool durable;
    uint64_t retry_us; /* not before */
    uint64_t used_us;
    /* publishes */
    int16_t incarnation;
    int32_t number; /* of the first kept batch */
    struct list batches;
    bool publishing;
    uint32_t publish_node; /* who was asked, as leader of that epoch */
    int32_t publish_epoch;
    struct bus_call publish_call;
    /* operations */
    struct list ops;
    bool op_running;
    struct amqp_attachment *attaching;
    uint32_t op_node; /* who was asked, as leader of that epoch */
    int32_t op_epoch;
    struct bus_call op_call;
    uint64_t issued;
    struct list waits;
    struct list attachments;
    uint32_t at_node; /* where they are attached */
    int32_t at_epoch;
};

#define REMOTE_BUCKETS 256

struct amqp_remotes {
    struct list buckets[REMOTE_BUCKETS];     /* amqp_remote.node, by queue */
    struct list attachments[REMOTE_BUCKETS]; /* amqp_attachment.hash, by id */
    uint32_t count;
    struct list dirty; /* to be looked at at the turn's end */
    struct list full;  /* amqp_session.remote_full */
    uint64_t bytes;
    uint64_t serial;
    struct io_timer timer;
};

/* remote.c */
struct amqp_remote *remote_get(struct amqp_worker *aw, uint64_t queue_id, uint32_t partition, uint32_t home, bool durable);
/* Node and epoch to ask now; 0: nobody leads. */
uint32_t remote_target(const struct amqp_remote *q, int32_t *ret_epoch);
void remote_mark_dirty(struct amqp_remote *q);
void remote_put_head(const struct amqp_remote *q, struct buf *out, int32_t epoch, uint8_t flags);
void remote_retry_later(struct amqp_remote *q, int err);
bool remote_exists(const struct amqp_remote *q); /* in the topology */
void remote_round_step(struct amqp_round *r); /* one less to wait for */
/* attach.c */
void attach_run(struct amqp_remote *q); /* sends what is next, when nothing is under way */
void attach_tick(struct amqp_remote *q, uint64_t now_us);
void attach_queue_is_gone(struct amqp_remote *q);
void attach_init(struct amqp_front *f);
void attach_stop(struct amqp_remote *q);
void attach_fini(struct amqp_remote *q);

#endif
