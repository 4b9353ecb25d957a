/* Listeners. Worker 0 accepts (until EAGAIN or 64) and hands each socket to the worker with the fewest
 * connections of that protocol, ties by bytes in the last second (P7). Out of file descriptors, accepting
 * pauses for 100 ms instead of spinning. Set up before workers_start or on
 * the accepting worker. Sockets of the bus and of ctl.sock do not count against sockets_max: they work when clients have used up the rest. */
#ifndef GM_IO_LISTENER_H
#define GM_IO_LISTENER_H

#include <stdint.h>

#include "io/conn.h"

struct listener;

struct listener_options {
    const char *address; /* "HOST:PORT", "[::1]:PORT", ":PORT" (any), "unix:/path" (0600); port 0 picks one */
    const struct conn_ops *ops;
    void *arg;                /* conn_listener_arg() gives it to `open` */
    struct worker *worker;    /* accepts and serves all of them itself (the bus); NULL: worker 0 accepts and hands out */
    uint32_t max_connections; /* 0 = unlimited; beyond, `refuse` bytes are sent and the socket is closed */
    const char *refuse;       /* borrowed, e.g. "-ERR max number of clients reached\r\n"; may be NULL */
};

/* ERR_ADDR_IN_USE, ERR_ACCESS, ERR_INVALID (malformed address), ERR_NOT_FOUND (unknown host), ERR_NOFILE. */
int listener_open(struct workers *ws, const struct listener_options *options, struct listener **ret);
/* The same in two steps: bound by any thread, and accepting from listener_begin on, on the accepting worker. */
int listener_reserve(struct workers *ws, const struct listener_options *options, struct listener **ret);
void listener_begin(struct listener *l);
void listener_close(struct listener *l); /* stops accepting; existing connections stay */
uint16_t listener_port(const struct listener *l);
/* The bound address as text, "127.0.0.1:6379". */
const char *listener_address(const struct listener *l);
/* The listening socket alone, for who accepts by himself (protocols/http). Any thread; same errors. */
int listener_bind(const char *address, int *ret_fd, uint16_t *ret_port);
void *conn_listener_arg(const struct conn *c);
uint32_t listener_connections(const struct listener *l); /* any thread */
uint64_t listener_refused(const struct listener *l); /* beyond max_connections, since opened; any thread */

#endif
