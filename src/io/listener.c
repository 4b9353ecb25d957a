/* Listeners: accepting on worker 0, or on one of its own, handing out by P7.
 *
 * Counts. A connection is counted, in its listener and in its worker, when worker 0 chooses its worker, not
 * when that worker opens it; so a burst of accepts spreads evenly. The connection's end takes it off both.
 *
 * Options that an accepted socket inherits (TCP_NODELAY, SO_KEEPALIVE, TCP_CONGESTION) are set on the listening socket once.
 */
#include "io/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/address.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "io/internal.h"

enum { ACCEPTS_A_TURN = 64, BACKLOG = 4096, EMFILE_PAUSE_MS = 100 };

#define LISTENER_MAGIC 0x6c69736eu

struct listener {
    uint32_t magic;
    int fd;
    struct workers *ws; /* borrowed */
    struct worker *worker; /* borrowed; accepts */
    struct listener_options options;
    struct address address; /* as bound: the port is the real one */
    char *text;             /* owned */
    ev_io accept;
    struct io_timer pause;
    _Atomic uint32_t connections;
    _Atomic uint64_t refused;
    _Atomic uint32_t refs; /* one for who opened it, one a connection */
};

static void listener_unref(struct listener *l)
{
    if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1)
        return;
    l->magic = 0;
    mem_free(l->text);
    mem_free(l);
}

void listener_conn_closed(struct listener *l)
{
    atomic_fetch_sub_explicit(&l->connections, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&l->ws->sockets, 1, memory_order_relaxed);
    listener_unref(l);
}

/* ---- handing out ---- */

struct handover {
    struct mail mail;
    struct listener *listener; /* counted */
    int fd;
    struct sockaddr_storage peer;
};

static struct worker *choose_worker(struct workers *ws, enum conn_protocol protocol)
{
    struct worker *best = NULL;
    uint32_t best_count = 0;
    uint64_t best_bytes = 0;

    for (unsigned i = 0; i < ws->client_count; i++) {
        struct worker *w = &ws->list[i];
        uint32_t count = atomic_load_explicit(&w->conn_count[protocol], memory_order_relaxed);
        uint64_t bytes = __atomic_load_n(&w->bytes_last_second, __ATOMIC_RELAXED);

        if (best == NULL || count < best_count || (count == best_count && bytes < best_bytes)) {
            best = w;
            best_count = count;
            best_bytes = bytes;
        }
    }
    return best;
}

static void deliver_handover(struct worker *w, struct mail *m)
{
    struct handover *h = CONTAINER_OF(m, struct handover, mail);

    conn_open(w, h->fd, h->listener->options.ops, h->listener, h->listener->options.arg, &h->peer, NULL);
    mem_free(h);
}

static void hand_out(struct listener *l, int fd, const struct sockaddr_storage *peer)
{
    struct worker *to = l->options.worker != NULL ? l->worker : choose_worker(l->ws, l->options.ops->protocol);

    atomic_fetch_add_explicit(&l->connections, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->ws->sockets, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&to->conn_count[l->options.ops->protocol], 1, memory_order_relaxed);
    if (to == l->worker) {
        conn_open(to, fd, l->options.ops, l, l->options.arg, peer, NULL);
    } else {
        struct handover *h = mem_alloc(sizeof(*h));

        h->mail.deliver = deliver_handover;
        h->listener = l;
        h->fd = fd;
        h->peer = *peer;
        worker_post(to, &h->mail);
    }
}

static void refuse(struct listener *l, int fd)
{
    char rest[1024];

    atomic_fetch_add_explicit(&l->refused, 1, memory_order_relaxed);
    if (l->options.refuse != NULL) {
        if (send(fd, l->options.refuse, strlen(l->options.refuse), MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
            shutdown(fd, SHUT_WR);
            /* What it sent already must not turn the close into a reset that eats the text. */
            while (recv(fd, rest, sizeof(rest), MSG_DONTWAIT) > 0)
                ;
        }
    }
    close(fd);
    DIAG_EVERY(DIAG_WARN, "connection refused: too many", "listener=%s max=%u", l->text,
               l->options.max_connections);
}

static void resume_accept(struct worker *w, struct io_timer *t)
{
    struct listener *l = CONTAINER_OF(t, struct listener, pause);

    ev_io_start(w->loop, &l->accept);
}

/* The pending connections stay in the backlog; without a pause their readiness would spin. */
static void pause_accept(struct listener *l, struct ev_loop *loop)
{
    ev_io_stop(loop, &l->accept);
    io_timer_start(l->worker, &l->pause, EMFILE_PAUSE_MS, 0);
}

static void accept_ready(struct ev_loop *loop, ev_io *watcher, int revents)
{
    struct listener *l = watcher->data;

    (void)revents;
    for (unsigned i = 0; i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_storage peer;
        socklen_t len = sizeof(peer);
        int fd;

        if (l->ws->sockets_max != 0 && l->options.ops->protocol != CONN_CTL && l->options.ops->protocol != CONN_BUS &&
            atomic_load_explicit(&l->ws->sockets, memory_order_relaxed) >= l->ws->sockets_max) {
            DIAG_EVERY(DIAG_ERROR, "cannot accept: the other file descriptors are kept for files", "listener=%s connections=%u", l->text,
                       l->ws->sockets_max);
            pause_accept(l, loop);
            return;
        }
        memset(&peer, 0, sizeof(peer));
        fd = accept4(l->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            if (l->options.max_connections != 0 &&
                atomic_load_explicit(&l->connections, memory_order_relaxed) >= l->options.max_connections)
                refuse(l, fd);
            else
                hand_out(l, fd, &peer);
            continue;
        }
        switch (errno) {
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
            DIAG_EVERY(DIAG_ERROR, "cannot accept: out of file descriptors or memory", "listener=%s errno=%d",
                       l->text, errno);
            pause_accept(l, loop);
            return;
        case EAGAIN:
            return;
        default: /* ECONNABORTED and network errors of the new connection (accept(2)): try the next */
            break;
        }
    }
}

/* ---- opening ---- */

static int bind_unix(const struct address *a, int *ret)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int err = 0;

    if (fd < 0)
        return err_from_errno(errno);
    memcpy(un.sun_path, a->host, strlen(a->host) + 1);
    /* Before bind, so that the name never exists with other rights. */
    if (fchmod(fd, 0600) < 0)
        err = err_from_errno(errno);
    if (err == 0 && bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
        err = err_from_errno(errno);
        if (errno == EADDRINUSE) {
            /* Somebody's, or left behind by a killed process: only a listener answers. */
            int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

            if (probe >= 0 && connect(probe, (struct sockaddr *)&un, sizeof(un)) < 0 &&
                errno == ECONNREFUSED && unlink(un.sun_path) == 0)
                err = bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0 ? err_from_errno(errno) : 0;
            if (probe >= 0)
                close(probe);
        }
    }
    if (err == 0 && (chmod(un.sun_path, 0600) < 0 || listen(fd, BACKLOG) < 0))
        err = err_from_errno(errno);
    if (err < 0) {
        close(fd);
        return err;
    }
    *ret = fd;
    return 0;
}

static int bind_one(const struct addrinfo *ai, bool dual, bool loopback, int *ret)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1, v6only = dual ? 0 : 1;
    int err = 0;

    if (fd < 0)
        return errno == EAFNOSUPPORT ? ERR_UNSUPPORTED : err_from_errno(errno);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){300}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){100}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){3}, sizeof(int));
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only));
    /* Nothing is congested within a machine: the cheapest control will do. Pacing ones (BBR) cost a hundredth of a small request. Where it may not be chosen, the system's stays. */
    if (loopback)
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
        err = errno == EADDRNOTAVAIL ? ERR_NOT_FOUND : err_from_errno(errno);
    if (err < 0) {
        close(fd);
        return err;
    }
    *ret = fd;
    return 0;
}

static int bind_inet(const struct address *a, int *ret)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    bool any = a->host[0] == '\0';
    char port[8];
    int err = ERR_NOT_FOUND;

    snprintf(port, sizeof(port), "%u", a->port);
    if (any)
        hints.ai_family = AF_INET6; /* both families through one socket, IPv4 alone where there is no IPv6 */
    if (getaddrinfo(any ? NULL : a->host, port, &hints, &list) == 0) {
        for (struct addrinfo *ai = list; ai != NULL && err < 0; ai = ai->ai_next)
            err = bind_one(ai, any, address_is_loopback(a), ret);
        freeaddrinfo(list);
    }
    if (err < 0 && any && err != ERR_ADDR_IN_USE && err != ERR_ACCESS) {
        hints.ai_family = AF_INET;
        if (getaddrinfo(NULL, port, &hints, &list) == 0) {
            err = bind_one(list, false, false, ret);
            freeaddrinfo(list);
        }
    }
    return err;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
        return 0;
    return ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
                                          : ((struct sockaddr_in *)&ss)->sin_port);
}

static int bind_address(const char *text, struct address *ret_address, int *ret_fd)
{
    int err = address_parse(text, ret_address);

    if (err == 0)
        err = ret_address->is_unix ? bind_unix(ret_address, ret_fd) : bind_inet(ret_address, ret_fd);
    if (err == 0 && !ret_address->is_unix)
        ret_address->port = port_of(*ret_fd);
    return err;
}

int listener_bind(const char *address, int *ret_fd, uint16_t *ret_port)
{
    struct address a;
    int err = bind_address(address, &a, ret_fd);

    if (err == 0)
        *ret_port = a.port;
    return err;
}

static void make_text(struct listener *l)
{
    if (l->address.is_unix)
        l->text = mem_printf("unix:%s", l->address.host);
    else
        l->text = mem_printf(strchr(l->address.host, ':') != NULL ? "[%s]:%u" : "%s:%u", l->address.host,
                             l->address.port);
}

int listener_reserve(struct workers *ws, const struct listener_options *options, struct listener **ret)
{
    struct listener *l;
    struct address a;
    int fd = -1, err;

    err = bind_address(options->address, &a, &fd);
    if (err < 0)
        return err;
    l = mem_zalloc(sizeof(*l));
    l->magic = LISTENER_MAGIC;
    l->fd = fd;
    l->ws = ws;
    l->worker = options->worker != NULL ? options->worker : workers_get(ws, 0);
    l->options = *options;
    l->options.address = NULL;
    l->address = a;
    atomic_store(&l->refs, 1);
    make_text(l);
    io_timer_init(&l->pause, resume_accept);
    ev_io_init(&l->accept, accept_ready, fd, EV_READ);
    l->accept.data = l;
    *ret = l;
    return 0;
}

void listener_begin(struct listener *l)
{
    CHECK(worker_is_here(l->worker));
    ev_io_start(l->worker->loop, &l->accept);
}

int listener_open(struct workers *ws, const struct listener_options *options, struct listener **ret)
{
    int err = listener_reserve(ws, options, ret);

    if (err == 0)
        listener_begin(*ret);
    return err;
}

void listener_close(struct listener *l)
{
    struct worker *w;

    if (l == NULL)
        return;
    MAGIC_CHECK(l, LISTENER_MAGIC);
    w = l->worker;
    CHECK(worker_is_here(w));
    ev_io_stop(w->loop, &l->accept);
    io_timer_stop(w, &l->pause);
    if (l->address.is_unix)
        unlink(l->address.host);
    close(l->fd);
    l->fd = -1;
    listener_unref(l);
}

uint16_t listener_port(const struct listener *l)
{
    return l->address.port;
}

const char *listener_address(const struct listener *l)
{
    return l->text;
}

uint32_t listener_connections(const struct listener *l)
{
    return atomic_load_explicit(&l->connections, memory_order_relaxed);
}

uint64_t listener_refused(const struct listener *l)
{
    return atomic_load_explicit(&l->refused, memory_order_relaxed);
}
