/* A table of queues over a store in a directory of its own, and a consumer that writes down what it gets. */
#ifndef GM_TESTS_QUEUE_FIXTURE_H
#define GM_TESTS_QUEUE_FIXTURE_H

#include "queue/queue.h"

struct fixture {
    char dir[64];
    struct workers *workers;
    struct log_store *store;
    struct queue_table *table;
    int64_t now_ms;
    bool commit_at_end; /* default true: no waiting for reservations */
    uint64_t segment_bytes, checkpoint_bytes;
    const char *failpoint;
    uint64_t ended_id; /* the last queue that reached its end */
    enum queue_end ended;
    unsigned ended_count;
    bool background;        /* jobs wait in `jobs` until the test runs them; default: at once */
    struct queue_job *jobs; /* one; a second CHECKs */
    unsigned opened;        /* how often an opening ended */
};

/* Runs the job that waits, both halves. */
void fixture_run_job(struct fixture *f);

void fixture_init(struct fixture *f); /* defaults; a fresh directory */
void fixture_open(struct fixture *f);
void fixture_close(struct fixture *f); /* cleanly */
void fixture_fini(struct fixture *f);  /* closes and removes the directory */
/* kill -9: goes on with what the files hold at this moment. */
void fixture_crash(struct fixture *f);

struct queue *fixture_queue(struct fixture *f, uint64_t id, bool durable);

#define GOT_MAX 4096
struct taster {
    struct queue_consumer c;
    struct fixture *f;
    unsigned news;
    uint32_t refuse_after; /* deliveries accepted in one take before refusing; default all */
    uint32_t taken;        /* in this take */
    size_t count;
    struct {
        struct queue_handle handle;
        uint64_t number; /* what the body says */
        uint32_t delivery_count;
        bool redelivered;
    } got[GOT_MAX];
    struct queue_take take;
};
void taster_init(struct taster *s, struct fixture *f);
/* Takes until nothing more comes; returns how many came. */
size_t taster_drain(struct taster *s);
/* One queue_take of at most max. */
int taster_take(struct taster *s, uint32_t max);
int taster_get(struct taster *s, struct queue *q, bool no_ack);
void taster_settle(struct taster *s, enum queue_settle how, size_t first, size_t n);

/* Publishes a message whose body is the number, padded to size bytes. */
int publish(struct fixture *f, struct queue *q, uint64_t number, size_t size);
int publish_with(struct fixture *f, struct queue *q, uint64_t number, uint8_t priority,
                 int64_t expiration_ms);
void publish_n(struct fixture *f, struct queue *q, uint64_t first, uint64_t n); /* and flushes */

#endif
