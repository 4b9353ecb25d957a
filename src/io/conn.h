/* A connection: one non-blocking socket on one worker.
 *
 * Life cycle
 *   1. accepted (listener.h) or adopted; `open` runs on the connection's worker.
 *   2. `input` is called with every byte not consumed yet, at most once a readiness; it returns how many it
 * consumed. Bytes left over are kept (only then does the connection own an input buffer) and come first next
 * time.
 *   3. output gathers during the turn and is written once at its end; what the socket does not take waits for
 *      writability. Above the soft limit the protocol is asked to pause (conn_output_full), above the hard
 * limit the connection is closed: a client that never reads costs a bounded amount.
 *   4. conn_close_soon (output is flushed first) or conn_abort, the peer's end, an error, or a timeout;
 * `closed` runs once, on the worker, after which the struct is freed at the turn's end.
 *
 * All functions: on the connection's worker. Other threads reach a connection by mail to its worker and a
 * generation-checked handle (conn_id). */
#ifndef GM_IO_CONN_H
#define GM_IO_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "io/worker.h"

struct conn;

enum conn_protocol { CONN_RESP, CONN_KAFKA, CONN_AMQP, CONN_CTL, CONN_BUS, CONN_PROTOCOLS };

enum conn_foresight { FORESEE_FIRST, FORESEE_REST };

struct conn_ops {
    enum conn_protocol protocol;
    const char *name;
    /* Sets up conn->session. <0 refuses the connection. */
    int (*open)(struct conn *c);
    /* Returns bytes consumed (0..len; less than len only for an incomplete message or a paused connection) or
     * ERR_*, which closes after flushing. Not called while input is paused. */
    ssize_t (*input)(struct conn *c, const uint8_t *data, size_t len);
    /* These bytes come to `input` in a moment, at the same place, unless the connection ends or is paused
     * first: the memory they will need may be fetched into the cache meanwhile. Called twice, first with what
     * has to be fetched to know the rest. Changes nothing, writes nothing; may be NULL. */
    void (*foresee)(struct conn *c, const uint8_t *data, size_t len, enum conn_foresight which);
    /* The peer ended its side while input was paused; may be NULL. A client blocked in a pop is given up here
     * (conn_abort). Without it the connection ends when input resumes and what was sent before is consumed.
     */
    void (*hangup)(struct conn *c);
    /* Output has drained below the low-water mark after conn_output_full was true; may be NULL. */
    void (*writable)(struct conn *c);
    /* Once a second from a wheel, for heartbeats and idle timeouts; may be NULL. */
    void (*tick)(struct conn *c, uint64_t now_us);
    /* The connection is gone; frees the session. `reason` is an ERR_* (ERR_CLOSED: the peer closed). */
    void (*closed)(struct conn *c, int reason);
    size_t input_max;       /* bytes of one message at most that may be kept; beyond: ERR_TOO_LARGE */
    size_t output_soft_max; /* default 1 MiB when 0 */
    size_t output_hard_max; /* default 64 MiB when 0 */
};

struct conn {
    uint32_t magic;
    const struct conn_ops *ops; /* borrowed, static */
    struct worker *worker;      /* borrowed */
    void *session;              /* the protocol's */
    uint64_t id;                /* unique in the process, never reused */
    uint64_t opened_us;
    uint64_t last_input_us;
    uint64_t bytes_in, bytes_out; /* totals */
};

/* Makes a connected socket a connection of this worker and runs `open`. Takes fd, closed on failure too;
 * conn_listener_arg gives `arg`. 0 or what `open` returned. ret may be NULL. */
int conn_adopt(struct worker *w, int fd, const struct conn_ops *ops, void *arg, struct conn **ret);
/* On its worker: ends the connection but not its socket, which another worker may adopt: a descriptor of it, or -1 (errno) and nothing was done. */
int conn_take_socket(struct conn *c);

/* ---- output
 * --------------------------------------------------------------------------------------------------- */

/* The buffer to append replies to; valid until any other conn_* output call or the turn's end. Encode
 * straight into it. */
struct buf *conn_out(struct conn *c);
static inline void conn_write(struct conn *c, const void *data, size_t n)
{
    buf_put(conn_out(c), data, n);
}
/* Appends memory that is not copied; `release(arg)` runs on this worker when it was sent or the connection
 * died. */
void conn_write_ref(struct conn *c, const void *data, size_t n, void (*release)(void *arg), void *arg);
/* Appends n bytes of a file from pos by sendfile(2); `release(arg)` as above. A read error aborts the
 * connection. */
void conn_write_file(struct conn *c, int fd, uint64_t pos, size_t n, void (*release)(void *arg), void *arg);
/* Bytes that wait for the socket. */
size_t conn_output_pending(const struct conn *c);
/* True above the soft limit: stop producing until `writable`. */
bool conn_output_full(const struct conn *c);

/* ---- barriers (P8)
 * ------------------------------------------------------------------------------------------- Output appended
 * after conn_hold stays until the hold is released; several holds open and close in any order, output leaves
 * in order behind the oldest open one. What was appended before the hold leaves at once. */
uint64_t conn_hold(struct conn *c);
void conn_hold_release(struct conn *c, uint64_t hold);
bool conn_held(const struct conn *c);
/* Overwrites output that waits behind an open hold: `at` bytes behind it, memory only (not of conn_write_file or borrowed buffers). */
void conn_hold_patch(struct conn *c, uint64_t hold, size_t at, const void *data, size_t len);

/* ---- input
 * ---------------------------------------------------------------------------------------------------- */
/* Stops reading and calling `input`; unconsumed bytes are kept. Counted: as many resumes as pauses. The
 * resume re-runs `input` with the kept bytes at this turn's end or the next's, never recursively. */
void conn_pause_input(struct conn *c);
void conn_resume_input(struct conn *c);
bool conn_input_paused(const struct conn *c);
/* From `input`, when it leaves bytes of an incomplete message: it is not called again before n bytes (counted
 * from the first one left) are there. Saves parsing a large message once a readiness; n above input_max is
 * ERR_TOO_LARGE at once. Holds until the next call of `input`. */
void conn_want_input(struct conn *c, size_t n);

/* ---- ending
 * --------------------------------------------------------------------------------------------------- */
void conn_close_soon(struct conn *c,
                     int reason);            /* no more input; flush output (bounded to 5 s), then close */
void conn_abort(struct conn *c, int reason); /* at once; `closed` runs at the turn's end */
bool conn_closing(const struct conn *c);

/* The connection with this id on this worker, NULL when it is gone. */
struct conn *worker_find_conn(struct worker *w, uint64_t id);
/* Calls fn for each connection of this worker. */
void worker_each_conn(struct worker *w, void (*fn)(struct conn *c, void *arg), void *arg);

/* "127.0.0.1:6379", "[::1]:6379" or "unix:/path"; into text of `size`, always terminated. */
void conn_peer_text(const struct conn *c, char *text, size_t size);
void conn_local_text(const struct conn *c, char *text, size_t size);
bool conn_peer_is_loopback(const struct conn *c); /* unix sockets count as loopback */
int conn_fd(const struct conn *c);

#endif
