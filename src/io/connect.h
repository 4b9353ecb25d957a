/* Connecting out: a name is looked up on a background thread, its addresses are tried one after the other, and the socket becomes a
 * connection of the worker. Never blocks, never calls back from within conn_connect.
 *
 * All functions: on the worker named, or before the workers run. */
#ifndef GM_IO_CONNECT_H
#define GM_IO_CONNECT_H

#include <stdint.h>

#include "io/conn.h"

struct connecting;

struct connect_options {
    const char *address;       /* "HOST:PORT", copied */
    uint32_t timeout_ms;       /* for all of it */
    uint32_t user_timeout_ms;  /* TCP_USER_TIMEOUT of the socket; 0: the system's */
    const struct conn_ops *ops; /* of the connection; `open` tells that it is there, and conn_listener_arg gives `arg` */
    void *arg;
    /* It came to nothing: an errno (ECONNREFUSED only when every address refused, ETIMEDOUT, ENOENT: the name is unknown …). */
    void (*failed)(void *arg, int sys_errno);
};

/* The attempt; it is gone (do not cancel it any more) once `open` or `failed` was called. */
struct connecting *conn_connect(struct worker *w, const struct connect_options *options);
void conn_connect_cancel(struct connecting *c); /* nothing is called any more; NULL is fine */

#endif
