/* Workers: `threads` threads, each with one libev loop. A connection lives on one worker for life; a worker
 * never blocks (fsync, snapshots, large frees, cold reads go to background threads). src/io is the only user
 * of <ev.h>.
 *
 * Unless a function says "any thread", call it on the worker it concerns.
 *
 * One turn of the loop: poll; read ready sockets once each and hand the bytes to their protocols; deliver
 * mail; fire timers; run the turn-end hooks; write every connection with output once (P4); wake other workers
 * once each. */
#ifndef GM_IO_WORKER_H
#define GM_IO_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

struct worker;
struct workers;

/* ---- mail: the way news reaches another worker
 * --------------------------------------------------------------- Intrusive and allocation-free: embed a
 * struct mail in what the news is about. A mail is owned by the poster until worker_post, by the worker until
 * `deliver` runs; it must not be posted again before that (keep a flag under your own lock to coalesce).
 * Mails from one thread arrive in order. */
struct mail {
    struct mail *next;
    void (*deliver)(struct worker *w, struct mail *m);
};

/* Any thread, also not a worker. From a worker, the wake-up is sent at its turn's end, once a target (P4). */
void worker_post(struct worker *to, struct mail *m);

/* ---- the set of workers
 * --------------------------------------------------------------------------------------- */

struct workers_options {
    unsigned count;          /* 1..256, those that get connections of clients */
    unsigned extra;          /* further workers, behind those, that listeners hand nothing to: the control and the data worker of a cluster */
    unsigned coalesce_us;    /* P5: sleep before polling when traffic is one-way and dense; 0 = off */
    size_t read_buffer_size; /* default 64 KiB, one a worker */
    uint32_t sockets_max;    /* accepting pauses at so many connections, so that files can still be opened; 0 = no bound. CONN_CTL is exempt */
};

/* Creates the workers without starting their threads: listeners, timers and hooks may be added before
 * workers_start. 0 or ERR_*. */
int workers_new(const struct workers_options *options, struct workers **ret);
/* Starts the threads; worker 0 gets a thread too. */
int workers_start(struct workers *ws);
/* Any thread: asks every worker to close its connections (closed callbacks run), end its loop, and joins
 * them. */
void workers_stop(struct workers *ws);
void workers_free(struct workers *ws);
unsigned workers_count(const struct workers *ws);         /* all of them */
unsigned workers_client_count(const struct workers *ws);  /* without the extra ones */
/* The extra worker i. */
struct worker *workers_extra(struct workers *ws, unsigned i);
struct worker *workers_get(struct workers *ws, unsigned index);
/* Runs `fn(worker, arg)` on every worker and waits for all; not from a worker. */
void workers_run_each(struct workers *ws, void (*fn)(struct worker *w, void *arg), void *arg);

/* The same on one worker. */
void worker_run(struct worker *w, void (*fn)(struct worker *w, void *arg), void *arg);

/* The worker this thread is, NULL on other threads. */
struct worker *worker_current(void);
unsigned worker_index(const struct worker *w);
struct workers *worker_set(struct worker *w);

/* The turn's clock, read once a turn (P4). */
uint64_t worker_now_us(const struct worker *w); /* CLOCK_MONOTONIC */
int64_t worker_wall_ms(const struct worker *w); /* CLOCK_REALTIME, never goes back within a worker */

/* A quiescent counter: raised once a loop turn, and even while the worker sleeps in poll. What was
 * unpublished before every worker's counter moved (or is asleep) can be freed: see workers_after_grace. */
/* Calls fn(arg) on a background thread once every worker has passed a turn boundary since this call; any
 * thread. Immutable views (topology, ACL) are reclaimed by this (P6). */
void workers_after_grace(struct workers *ws, void (*fn)(void *arg), void *arg);

/* Any thread: what a worker has done since it started, read without stopping it (values of one moment may be
 * torn apart by one turn). */
struct worker_stats {
    uint64_t turns;         /* loop turns */
    uint64_t naps;          /* turns that ended with the pause of P5 */
    uint64_t mails;         /* mails delivered */
    uint64_t reads, writes; /* system calls on connections */
    uint64_t bytes_in, bytes_out;
    uint64_t opened, closed; /* connections */
};
void worker_get_stats(const struct worker *w, struct worker_stats *ret);

/* ---- turn-end hooks
 * ------------------------------------------------------------------------------------------- */
struct worker_hook {
    struct list node;
    void (*run)(struct worker *w, struct worker_hook *h); /* before connections are written */
};
/* Permanent hook, every turn. */
void worker_hook_add(struct worker *w, struct worker_hook *h);
/* One run at the end of this turn; adding twice in a turn is one run. */
void worker_hook_once(struct worker *w, struct worker_hook *h);

/* P5: a protocol says this turn handled n one-way messages (AMQP publishes, acks), or something that waits
 * for a reply (anything of RESP or Kafka, synchronous AMQP methods), which forbids the nap. */
void worker_note_oneway(struct worker *w, unsigned n);
void worker_note_reply(struct worker *w);

/* ---- timers: coarse (1 ms), cheap; embed in the owner
 * --------------------------------------------------------- */
struct io_timer {
    void *impl[8]; /* private: an ev_timer and links */
    void (*fire)(struct worker *w, struct io_timer *t);
};
void io_timer_init(struct io_timer *t, void (*fire)(struct worker *w, struct io_timer *t));
void io_timer_start(struct worker *w, struct io_timer *t, uint64_t delay_ms,
                    uint64_t repeat_ms);                  /* restarts */
void io_timer_stop(struct worker *w, struct io_timer *t); /* idle is fine */
bool io_timer_active(const struct io_timer *t);

/* ---- background threads
 * --------------------------------------------------------------------------------------- */
/* A job runs once on one of a few background threads (`run`), then, when `done` is set, `done` runs: by mail
 * on the worker `reply_to`, or on the background thread when that is NULL. Embedded in its owner, which must
 * outlive it; the job may be freed by `done` (or by `run` when there is no `done`). Jobs still queued at
 * workers_stop are run to their end. */
struct bg_job {
    struct mail mail;
    struct list node;
    struct worker *reply_to; /* NULL: `done` runs on the background thread */
    void (*run)(struct bg_job *job);
    void (*done)(struct bg_job *job);
};
enum bg_class {
    BG_DISK, /* cold reads, prefault, unlink: nice 10, takes no partition lock */
    BG_FREE, /* freeing large things, snapshots, recovery: normal priority, may take partition locks */
};
/* Any thread. */
void bg_submit(struct workers *ws, enum bg_class klass, struct bg_job *job);

#endif
