/* What serve.c (requests of gateways) and served.c (consumers that stand for theirs) share. Everything on the data worker; what touches an engine's consumer, under its partition's lock. */
#ifndef GM_AMQP_SERVED_H
#define GM_AMQP_SERVED_H

#include "cluster/bus/bus.h"
#include "protocols/amqp/forward.h"
#include "protocols/amqp/serve.h"
#include "protocols/amqp/session.h"

enum {
    DELIVERS_MAX = 4,             /* under way of a consumer */
    DELIVER_BYTES = 192 << 10,    /* of one, roughly */
    DELIVER_TIMEOUT_MS = 600000,  /* a client may be slow; a lost connection ends it at once */
    TICK_MS = 200,
    GONE_TIMEOUT_MS = 2000,
    CONSUMERS_MAX = 1 << 20, /* of one gateway */
};

struct holding { /* open addressing by offset; offset_flags UINT64_MAX: free */
    struct queue_handle *slots;
    uint32_t mask, count;
};

struct served;

struct deliver_call {
    struct bus_call call;
    struct served *served;
    uint32_t generation;
    bool busy;
};

struct served {
    struct queue_consumer qc; /* first */
    struct amqp_serve *serve;
    struct list node;  /* of its hash bucket */
    struct list ready; /* of the serve's ready list */
    struct mail mail;
    bool mailed;
    uint32_t node_id;
    uint64_t node_epoch;
    uint64_t id;
    uint32_t generation;
    uint32_t partition;
    uint64_t queue_id;
    uint64_t opened; /* of which opening of the queue its deliveries are: those of a former one are no more */
    bool home;
    bool attached; /* to its queue */
    bool broken, deleted;
    bool gone;     /* dropped: freed when nothing names it any more */
    bool full;     /* paused: enough DELIVERs are under way */
    bool committing;
    bool warming, read_cold;
    bool again; /* it could not be served: the tick comes back to it */
    uint32_t pins;
    struct log_commit commit;
    struct holding holding;
    struct deliver_call delivers[DELIVERS_MAX];
    struct bus_call gone_call;
    bool gone_busy;
    uint64_t gone_at_us;
};

/* What waits for a partition, or for a queue of it that is being opened. */
struct parked {
    struct partition_park park;
    struct list node;
    struct list jobs;
    struct list consumers; /* served.ready */
    struct amqp_serve *serve;
    uint32_t partition;
    uint64_t queue_id; /* 0: for the partition */
};

struct job {
    struct list node;
    struct bus_request *request;
    uint32_t node_id;
    uint64_t node_epoch;
    enum bus_type type;
    size_t len;
    uint8_t payload[];
};

#define BUCKETS 4096

struct amqp_serve {
    struct amqp_front *front;
    struct bus *bus;
    struct worker *worker; /* the data worker */
    struct list buckets[BUCKETS];
    uint32_t count;
    struct list ready;
    struct list parks;
    struct list waits; /* answers that wait for a commit */
    bool stopped;      /* the bus is about to close */
    struct worker_hook hook;
    struct io_timer timer;
    struct mail start;
    struct buf answer, out;
};

/* served.c: the set */
struct queue_handle *holding_find(const struct holding *h, int64_t offset);
void holding_put(struct holding *h, const struct queue_handle *handle);
bool holding_take(struct holding *h, int64_t offset, struct queue_handle *ret);
void holding_clear(struct holding *h);

/* served.c: consumers */
struct list *served_bucket(struct amqp_serve *v, uint64_t id);
struct served *served_find(struct amqp_serve *v, uint32_t node_id, uint64_t node_epoch, uint64_t id);
void served_ready(struct served *c); /* it may have something to deliver */
void served_news(struct queue_consumer *qc);
void served_reservation_done(struct log_commit *commit, int err);
/* Off its queue, under the lock (of whatever role). */
void served_detach(struct served *c, int64_t now_ms);
void served_requeue_all(struct queue *q, struct served *c);
/* It is no more; not under a lock of ours, or under that of its partition after served_detach. */
void served_forget(struct served *c);
void served_hook_run(struct worker *w, struct worker_hook *h);
void served_tick(struct worker *w, struct io_timer *t);

/* serve.c: 0, ERR_PARKED (*ret_parked: who waits is to be added), or why not. */
int serve_enter(struct amqp_serve *v, uint32_t partition, bool home, bool upkeep, struct partition_guard *g, struct parked **ret_parked);

#endif
