/* A server of one protocol for the tests of src/io: lines. Each test runs in its own process (Criterion
 * forks). */
#ifndef GM_TESTS_IO_HARNESS_H
#define GM_TESTS_IO_HARNESS_H

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "io/conn.h"
#include "io/listener.h"
#include "io/worker.h"

struct server {
    struct workers *ws;
    struct listener *l;
    struct conn_ops ops;
    unsigned coalesce_us;
    _Atomic int opened, closed, last_reason, hangups, ticks, writables;
    _Atomic uint64_t last_id;
    _Atomic uint64_t lines;
};

extern struct server server;

/* ops default to the line protocol: "text\n" is answered "text\n"; see line_command() for the words that do
 * more. */
void server_start(unsigned workers, uint32_t max_connections);
void server_stop(void);
int client_connect(void);
/* Blocking with a timeout of 10 s. */
void client_send(int fd, const void *data, size_t n);
void client_say(int fd, const char *text);
/* Reads until n bytes or the end; returns how many. */
size_t client_read(int fd, void *data, size_t n);
void client_expect(int fd, const char *text);
/* True when the peer closed (0 or a reset) within 10 s. */
bool client_at_end(int fd);
/* Waits until the counter is at least n, 10 s at most. */
void wait_for(_Atomic int *counter, int n);
/* Runs fn on the worker of the connection opened last, with that connection or NULL, and waits. */
void on_conn(void (*fn)(struct conn *c, void *arg), void *arg);

#endif
