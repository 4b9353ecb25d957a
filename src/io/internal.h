/* The inside of src/io: struct worker and struct conn_impl, seen by this folder alone.
 *
 * Everything in struct worker belongs to its thread except what stands behind "any thread": the mailbox head,
 * the quiescent counter, the async watcher (ev_async_send is thread-safe) and the counters, which their owner
 * writes with relaxed stores and others read. */
#ifndef GM_IO_INTERNAL_H
#define GM_IO_INTERNAL_H

#include <ev.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mutex.h"
#include "io/conn.h"
#include "io/listener.h"
#include "io/worker.h"

#define WORKER_MAGIC 0x776f726bu
#define CONN_MAGIC 0x636f6e6eu

enum {
    WORKERS_MAX = 256,
    WORKERS_EXTRA_MAX = 4,
    WORKERS_ALL = WORKERS_MAX + 64, /* a multiple of 64 */
    WHEEL_SLOTS = 8,     /* a connection is looked at once a second, an eighth of them every 125 ms */
    POOL_BUFS_MAX = 256, /* spare output buffers a worker keeps under load… */
    POOL_BUFS_IDLE = 16, /* …and when a second has passed */
    OUT_BUF_FIRST = 4096,
    OUT_BUF_KEEP =
        16384, /* larger ones are freed when drained (P8); a segment that long is followed by a new one */
    CLOSE_FLUSH_US = 5000000,
    LINGER_US = 500000,
    AHEAD = 2,             /* reads that wait while the next are made, */
    AHEAD_BYTES = 4096,    /* each of fewer bytes than this */
};

/* ---- output chain (output.c) ---- */

enum seg_kind { SEG_MEM, SEG_REF, SEG_FILE };

struct seg {
    struct seg *next;
    enum seg_kind kind;
    int fd;             /* FILE: borrowed until release */
    struct buf mem;     /* MEM: owned */
    const uint8_t *ref; /* REF: borrowed until release */
    uint64_t pos;       /* FILE: where the first byte is */
    size_t len;         /* REF, FILE */
    size_t off;         /* bytes of it that were sent */
    void (*release)(void *arg);
    void *arg;
};

/* Output behind `pos` (a position in the stream of all bytes ever appended) stays while `open`. */
struct hold {
    uint64_t pos;
    bool open;
};

struct conn_impl {
    struct conn pub;
    int fd;
    bool dirty : 1;         /* in worker->dirty */
    bool write_blocked : 1; /* the socket was full; wio is active */
    bool read_stopped : 1;  /* rio is not active */
    bool in_input : 1;      /* `input` is on the stack */
    bool eof : 1;           /* the peer sends no more */
    bool closing : 1;
    bool shut : 1;   /* closing, all flushed, FIN sent: waiting for the peer's */
    bool dead : 1;   /* in worker->dead */
    bool opened : 1; /* `open` succeeded, so `closed` is due */
    bool want_writable : 1;
    bool counted : 1;    /* in its listener's count */
    bool bulky : 1;      /* more comes at once than is worth reading ahead */
    uint8_t peer_family; /* AF_INET, AF_INET6, AF_UNIX */
    uint16_t peer_port;
    uint32_t pauses;
    int reason;
    struct conn_impl *dirty_next;
    /* output */
    struct seg *head, *tail;
    uint64_t sealed; /* stream position of the tail segment's first byte, or behind the last when the tail is
                        no MEM */
    uint64_t sent;   /* stream position of the first byte not sent */
    struct hold *holds; /* owned ring of hold_cap (a power of two); hold h is at h % hold_cap */
    uint64_t hold_first, hold_next;
    uint32_t hold_cap;
    /* input */
    size_t want;
    struct buf in; /* bytes not consumed yet */
    ev_io rio, wio;
    struct list all, wheel, resume, dead_node;
    uint64_t deadline_us;      /* of closing */
    struct listener *listener; /* borrowed; NULL when adopted */
    void *arg;
    uint8_t peer_addr[16];
};

static inline struct conn_impl *conn_impl(const struct conn *c)
{
    MAGIC_CHECK(c, CONN_MAGIC);
    return (struct conn_impl *)(uintptr_t)c;
}

/* ---- id -> connection: open addressing, linear probing ---- */
struct conn_map {
    struct conn_impl **slots;
    size_t mask; /* slots - 1; 0 = none allocated */
    size_t count;
};

/* ---- worker ---- */

/* Input that was read and not given to its connection yet (conn.c). */
struct ahead {
    struct conn_impl *c;
    const uint8_t *data;
    size_t len;
};

struct worker {
    uint32_t magic;
    unsigned index;
    struct workers *set;
    struct ev_loop *loop;
    ev_timer wheel_timer;
    pthread_t thread;
    bool started, running;
    bool stopping;

    uint64_t now_us;
    int64_t wall_ms;
    int64_t wall_offset_us; /* wall - mono */
    uint64_t wall_checked_us;

    /* P5 */
    unsigned oneway;
    bool replied;
    bool dense; /* this turn began less than coalesce_us after the last one ended */
    uint64_t turn_end_ticks;

    bool wakes;                      /* a bit of `wake` is set */
    uint64_t wake[WORKERS_ALL / 64]; /* workers to wake at the end of this turn */
    struct list hooks, once;

    /* connections */
    struct list conns, resumes, dead;
    struct conn_impl *dirty;
    struct list wheel[WHEEL_SLOTS];
    unsigned wheel_at, wheel_next;
    struct conn_map map;
    uint8_t *read_buf;
    size_t read_buf_size;
    struct ahead ahead[AHEAD]; /* the older first */
    unsigned ahead_count, ahead_at;
    uint8_t *ahead_buf; /* owned: AHEAD + 1 pieces, used in turn */
    struct buf sink; /* output of the dead goes here */
    struct seg *pool_mem, *pool_plain;
    unsigned pool_mem_count, pool_plain_count;

    /* written by the owner, read by any thread */
    struct worker_stats stats;
    uint64_t bytes_tick, bytes_last_second, rate_checked_us;

    /* any thread */
    _Alignas(64) _Atomic(struct mail *) mailbox;
    ev_async async;
    _Alignas(64) _Atomic uint64_t quiescent; /* odd: inside a turn */
    _Atomic uint32_t conn_count[CONN_PROTOCOLS];
};

struct bg;

struct workers {
    uint32_t sockets_max;
    _Atomic uint32_t sockets; /* accepted and not closed */
    unsigned count;        /* all */
    unsigned client_count; /* the first of them, which get connections */
    unsigned coalesce_us;
    uint64_t coalesce_ticks;
    bool started;
    struct worker *list; /* owned array */
    struct bg *bg;       /* owned */
};

/* recv(2) and send(2) of the hot path. glibc's are cancellation points, which costs two atomic operations a
 * call in a process with threads; nobody here is ever cancelled. Sanitizers see the calls through glibc's
 * names. */
static inline ssize_t io_recv(int fd, void *data, size_t n, int flags)
{
#ifdef GM_SANITIZE
    return recv(fd, data, n, flags);
#else
    return syscall(SYS_recvfrom, fd, data, n, flags, NULL, NULL);
#endif
}
static inline ssize_t io_send(int fd, const void *data, size_t n, int flags)
{
#ifdef GM_SANITIZE
    return send(fd, data, n, flags);
#else
    return syscall(SYS_sendto, fd, data, n, flags, NULL, 0);
#endif
}

/* A counter that its owner alone writes and others read. */
static inline void stat_add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline bool worker_is_here(const struct worker *w)
{
    return !w->running || worker_current() == w;
}

/* bg.c */
struct bg *bg_new(struct workers *ws);
void bg_stop(struct bg *bg); /* runs what is queued and joins */
void bg_free(struct bg *bg);

/* worker.c */
void worker_drain_mail(struct worker *w);

/* conn.c */
int conn_open(struct worker *w, int fd, const struct conn_ops *ops, struct listener *l, void *arg,
              const struct sockaddr_storage *peer, struct conn **ret);
void conn_wheel_tick(struct worker *w);
void conn_run_ahead(struct worker *w); /* gives what was read ahead */
void conn_run_resumes(struct worker *w);
void conn_finish_dead(struct worker *w);
void conn_close_all(struct worker *w);
struct conn_impl *conn_map_find(const struct conn_map *m, uint64_t id);

/* output.c */
void output_write_dirty(struct worker *w);
void output_ready(struct conn_impl *c); /* the socket takes bytes again */
void output_mark_dirty(struct conn_impl *c);
void output_drop(struct conn_impl *c);
void output_flush_last(struct conn_impl *c);
void output_trim_pools(struct worker *w, unsigned keep);

/* listener.c */
void listener_conn_closed(struct listener *l);

#endif
