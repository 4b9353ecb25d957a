#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

struct server server;

/* A line "big N" is answered by N bytes of 'x'; "pause" stops input until somebody resumes; "quit" closes
 * after the replies; "bad" is a protocol error; "die" aborts. Everything else is echoed. */
static ssize_t line_command(struct conn *c, const char *line, size_t n)
{
    if (n > 5 && memcmp(line, "big ", 4) == 0) {
        size_t size = strtoul(line + 4, NULL, 10);

        while (size > 0) {
            size_t k = size < 4096 ? size : 4096;

            memset(buf_reserve(conn_out(c), k), 'x', k);
            buf_advance(conn_out(c), k);
            size -= k;
        }
    } else if (n == 6 && memcmp(line, "pause\n", 6) == 0) {
        conn_pause_input(c);
    } else if (n == 5 && memcmp(line, "quit\n", 5) == 0) {
        conn_write(c, "bye\n", 4);
        conn_close_soon(c, ERR_CLOSED);
    } else if (n == 4 && memcmp(line, "bad\n", 4) == 0) {
        conn_write(c, "error\n", 6);
        return ERR_MALFORMED;
    } else if (n == 4 && memcmp(line, "die\n", 4) == 0) {
        conn_abort(c, ERR_CANCELLED);
    } else {
        conn_write(c, line, n);
    }
    return 0;
}

static int line_open(struct conn *c)
{
    server.last_id = c->id;
    server.opened++;
    return 0;
}

static ssize_t line_input(struct conn *c, const uint8_t *data, size_t len)
{
    size_t used = 0;

    while (used < len && !conn_closing(c) && !conn_input_paused(c)) {
        const uint8_t *nl = memchr(data + used, '\n', len - used);
        ssize_t err;
        size_t n;

        if (nl == NULL)
            break;
        n = (size_t)(nl + 1 - (data + used));
        server.lines++;
        err = line_command(c, (const char *)data + used, n);
        if (err < 0)
            return err;
        used += n;
    }
    return (ssize_t)used;
}

static void line_closed(struct conn *c, int reason)
{
    (void)c;
    server.last_reason = reason;
    server.closed++;
}

static void line_hangup(struct conn *c)
{
    server.hangups++;
    conn_abort(c, ERR_CLOSED);
}

static void line_writable(struct conn *c)
{
    (void)c;
    server.writables++;
}

static void line_tick(struct conn *c, uint64_t now_us)
{
    cr_assert(now_us >= c->opened_us);
    server.ticks++;
}

void server_start(unsigned workers, uint32_t max_connections)
{
    struct workers_options options = {.count = workers, .coalesce_us = server.coalesce_us};
    struct listener_options lo = {
        .address = "127.0.0.1:0", .ops = &server.ops, .max_connections = max_connections, .refuse = "full\n"};

    if (server.ops.input == NULL)
        server.ops.input = line_input;
    if (server.ops.open == NULL)
        server.ops.open = line_open;
    if (server.ops.closed == NULL)
        server.ops.closed = line_closed;
    server.ops.name = "lines";
    server.ops.writable = line_writable;
    server.ops.tick = line_tick;
    server.ops.hangup = line_hangup;
    if (server.ops.input_max == 0)
        server.ops.input_max = 1 << 20;
    clock_calibrate();
    cr_assert_eq(workers_new(&options, &server.ws), 0);
    cr_assert_eq(listener_open(server.ws, &lo, &server.l), 0);
    cr_assert_eq(workers_start(server.ws), 0);
}

void server_stop(void)
{
    workers_stop(server.ws);
    listener_close(server.l);
    cr_assert_eq(server.opened, server.closed);
    workers_free(server.ws);
}

int client_connect(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(listener_port(server.l)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval tv = {10, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert(fd >= 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0, "%s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
    return fd;
}

void client_send(int fd, const void *data, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, data, n, MSG_NOSIGNAL);

        cr_assert(k > 0, "%s", strerror(errno));
        data = (const char *)data + k;
        n -= (size_t)k;
    }
}

void client_say(int fd, const char *text)
{
    client_send(fd, text, strlen(text));
}

size_t client_read(int fd, void *data, size_t n)
{
    size_t got = 0;

    while (got < n) {
        ssize_t k = recv(fd, (char *)data + got, n - got, 0);

        if (k <= 0)
            break;
        got += (size_t)k;
    }
    return got;
}

void client_expect(int fd, const char *text)
{
    size_t n = strlen(text);
    char *got = mem_zalloc(n + 1);

    cr_assert_eq(client_read(fd, got, n), n, "wanted \"%s\", got \"%s\"", text, got);
    cr_assert_str_eq(got, text);
    mem_free(got);
}

bool client_at_end(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);

    return n == 0 || (n < 0 && errno == ECONNRESET);
}

void wait_for(_Atomic int *counter, int n)
{
    for (int i = 0; i < 10000 && *counter < n; i++)
        usleep(1000);
    cr_assert(*counter >= n, "waited for %d, is %d", n, *counter);
}

struct on_conn {
    void (*fn)(struct conn *c, void *arg);
    void *arg;
    bool found;
};

static void find_and_run(struct worker *w, void *arg)
{
    struct on_conn *o = arg;
    struct conn *c = worker_find_conn(w, server.last_id);

    if (c != NULL) {
        o->found = true;
        o->fn(c, o->arg);
    }
}

void on_conn(void (*fn)(struct conn *c, void *arg), void *arg)
{
    struct on_conn o = {fn, arg, false};

    workers_run_each(server.ws, find_and_run, &o);
    if (!o.found)
        fn(NULL, arg);
}
