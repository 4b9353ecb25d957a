/* Connecting out.
 *
 *   1. the address is parsed; one in digits is resolved at once, a name by a background job
 *   2. connect(2) without blocking; writability or the timer says how it went; then the next address
 *   3. the socket is adopted (`open`), or `failed` runs, always from the loop
 *   4. freed; a cancelled one whose job still runs is freed when the job comes back */
#include "io/connect.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/address.h"
#include "base/err.h"
#include "base/mem.h"
#include "io/internal.h"

#define CONNECTING_MAGIC 0x636e6e67u

enum { ADDRESSES_MAX = 8 };

struct target {
    struct sockaddr_storage addr;
    socklen_t len;
};

struct connecting {
    uint32_t magic;
    struct worker *worker;
    struct connect_options options;
    struct address address;
    struct bg_job job;
    bool resolving, cancelled;
    int fd; /* -1: none under way */
    ev_io ready;
    struct io_timer timer; /* of the whole attempt, and with 0 ms: call back from the loop */
    struct target targets[ADDRESSES_MAX];
    unsigned count, next;
    unsigned refused; /* of the tried */
    int error;        /* errno of the last failure that was not a refusal */
};

static void connecting_free(struct connecting *c)
{
    MAGIC_FINI(c, CONNECTING_MAGIC);
    mem_free(c);
}

static void let_go(struct connecting *c)
{
    if (c->fd >= 0) {
        ev_io_stop(c->worker->loop, &c->ready);
        close(c->fd);
        c->fd = -1;
    }
    io_timer_stop(c->worker, &c->timer);
}

static void fail(struct connecting *c, int sys_errno)
{
    void (*failed)(void *, int) = c->options.failed;
    void *arg = c->options.arg;

    let_go(c);
    connecting_free(c);
    failed(arg, sys_errno);
}

static void succeed(struct connecting *c)
{
    struct worker *w = c->worker;
    const struct conn_ops *ops = c->options.ops;
    void *arg = c->options.arg;
    int fd = c->fd;

    ev_io_stop(w->loop, &c->ready);
    c->fd = -1;
    let_go(c);
    connecting_free(c);
    conn_adopt(w, fd, ops, arg, NULL);
}

static void set_options(int fd, uint32_t user_timeout_ms)
{
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    if (user_timeout_ms != 0) {
        unsigned timeout = user_timeout_ms;

        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
    }
}

/* Begins with the next address. False: none is left. */
static bool try_next(struct connecting *c)
{
    while (c->next < c->count) {
        const struct target *t = &c->targets[c->next++];
        int fd = socket(t->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        if (fd < 0) {
            c->error = errno;
            continue;
        }
        set_options(fd, c->options.user_timeout_ms);
        if (connect(fd, (const struct sockaddr *)&t->addr, t->len) == 0 || errno == EINPROGRESS) {
            c->fd = fd;
            ev_io_set(&c->ready, fd, EV_WRITE);
            ev_io_start(c->worker->loop, &c->ready);
            return true;
        }
        if (errno == ECONNREFUSED)
            c->refused++;
        else
            c->error = errno;
        close(fd);
    }
    return false;
}

static int verdict(const struct connecting *c)
{
    return c->count != 0 && c->refused == c->count ? ECONNREFUSED : c->error != 0 ? c->error : EHOSTUNREACH;
}

static void socket_ready(struct ev_loop *loop, ev_io *watcher, int revents)
{
    struct connecting *c = watcher->data;
    int error = 0;
    socklen_t len = sizeof(error);

    (void)revents;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    if (error == 0) {
        succeed(c);
        return;
    }
    if (error == ECONNREFUSED)
        c->refused++;
    else
        c->error = error;
    ev_io_stop(loop, &c->ready);
    close(c->fd);
    c->fd = -1;
    if (!try_next(c))
        fail(c, verdict(c));
}

static void timer_fired(struct worker *w, struct io_timer *t)
{
    struct connecting *c = CONTAINER_OF(t, struct connecting, timer);

    (void)w;
    if (c->resolving) {
        /* The job still points here: it is freed when it comes back. */
        c->cancelled = true;
        c->options.failed(c->options.arg, ETIMEDOUT);
        return;
    }
    fail(c, c->fd >= 0 || c->next < c->count ? ETIMEDOUT : verdict(c));
}

static void begin(struct connecting *c)
{
    if (!try_next(c))
        io_timer_start(c->worker, &c->timer, 0, 0);
}

/* ---- names ---- */

static int look_up(struct connecting *c, int flags)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags}, *list = NULL;
    char port[8];
    int err;

    snprintf(port, sizeof(port), "%u", c->address.port);
    err = getaddrinfo(c->address.host, port, &hints, &list);
    if (err != 0)
        return err;
    for (struct addrinfo *ai = list; ai != NULL && c->count < ADDRESSES_MAX; ai = ai->ai_next) {
        struct target *t = &c->targets[c->count++];

        memcpy(&t->addr, ai->ai_addr, ai->ai_addrlen);
        t->len = ai->ai_addrlen;
    }
    freeaddrinfo(list);
    return 0;
}

static void resolve(struct bg_job *job)
{
    struct connecting *c = CONTAINER_OF(job, struct connecting, job);

    if (look_up(c, 0) != 0)
        c->error = ENOENT;
}

static void resolved(struct bg_job *job)
{
    struct connecting *c = CONTAINER_OF(job, struct connecting, job);

    c->resolving = false;
    if (c->cancelled) {
        let_go(c);
        connecting_free(c);
    } else if (c->worker->stopping) {
        fail(c, ECANCELED);
    } else {
        begin(c);
    }
}

struct connecting *conn_connect(struct worker *w, const struct connect_options *options)
{
    struct connecting *c = mem_zalloc(sizeof(*c));

    CHECK(worker_is_here(w) && options->failed != NULL);
    MAGIC_INIT(c, CONNECTING_MAGIC);
    c->worker = w;
    c->options = *options;
    c->options.address = NULL;
    c->fd = -1;
    ev_init(&c->ready, socket_ready);
    c->ready.data = c;
    io_timer_init(&c->timer, timer_fired);
    if (address_parse(options->address, &c->address) < 0 || c->address.is_unix) {
        c->error = EINVAL;
        io_timer_start(w, &c->timer, 0, 0);
        return c;
    }
    io_timer_start(w, &c->timer, options->timeout_ms, 0);
    if (look_up(c, AI_NUMERICHOST) == 0) {
        begin(c);
        return c;
    }
    c->resolving = true;
    c->job.run = resolve;
    c->job.done = resolved;
    c->job.reply_to = w;
    bg_submit(w->set, BG_FREE, &c->job);
    return c;
}

void conn_connect_cancel(struct connecting *c)
{
    if (c == NULL)
        return;
    MAGIC_CHECK(c, CONNECTING_MAGIC);
    CHECK(worker_is_here(c->worker));
    let_go(c);
    if (c->resolving)
        c->cancelled = true;
    else
        connecting_free(c);
}
