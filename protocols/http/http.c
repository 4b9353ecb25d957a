/* See http.h. libmicrohttpd parses and answers; accepting is ours, because its own loop spins while the
 * process is out of file descriptors. So is counting connections: Debian's 0.9.75 never gives back what its
 * own limit refused.
 *
 * What a peer can cost: 64 connections of 16 KiB each, 10 s of silence, one rendered body a request. Bodies
 * of requests are refused unread. */
#include "protocols/http/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "io/listener.h"

enum { CONNECTIONS_MAX = 64, CONNECTION_MEMORY = 16384, IDLE_SECONDS = 10, EMFILE_PAUSE_MS = 100 };

#define HTTP_MAGIC 0x68747470u

struct http {
    uint32_t magic;
    struct http_options options;
    char *address; /* owned */
    struct MHD_Daemon *daemon;
    pthread_t thread;
    bool serving;
    int listen_fd, stop_fd;
    uint16_t port;
    _Atomic unsigned connections;
};

static const char text_plain[] = "text/plain; charset=utf-8";
static const char application_json[] = "application/json";
static const char prometheus[] = "text/plain; version=0.0.4; charset=utf-8";

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *type, struct buf *body)
{
    struct MHD_Response *r;
    enum MHD_Result result;

    buf_reserve(body, 1); /* never NULL */
    r = MHD_create_response_from_buffer(body->len, body->data, MHD_RESPMEM_MUST_COPY);
    buf_fini(body);
    if (r == NULL)
        return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    result = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result answer_text(struct MHD_Connection *c, unsigned status, const char *text)
{
    struct buf body = {0};

    buf_put_str(&body, text);
    return answer(c, status, text_plain, &body);
}

static enum MHD_Result answer_check(struct http *h, struct MHD_Connection *c,
                                    bool (*check)(void *, struct buf *))
{
    struct buf body = {0};
    bool good = check == NULL || check(h->options.arg, &body);

    if (body.len == 0)
        buf_put_str(&body, good ? "{\"status\":\"ok\"}" : "{\"status\":\"failed\"}");
    buf_put_u8(&body, '\n');
    return answer(c, good ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, application_json, &body);
}

static enum MHD_Result handle(void *arg, struct MHD_Connection *c, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_size, void **state)
{
    struct http *h = arg;
    static char seen;

    (void)version;
    (void)upload;
    MAGIC_CHECK(h, HTTP_MAGIC);
    /* First call: the headers are there, the body is not. */
    if (*state == NULL) {
        *state = &seen;
        if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
            return answer_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        return MHD_YES;
    }
    if (*upload_size != 0) {
        *upload_size = 0; /* a GET with a body: thrown away */
        return MHD_YES;
    }
    if (strcmp(url, "/metrics") == 0) {
        struct buf body = {0};

        h->options.metrics(h->options.arg, &body);
        return answer(c, MHD_HTTP_OK, prometheus, &body);
    }
    if (strcmp(url, "/readyz") == 0)
        return answer_check(h, c, h->options.ready);
    if (strcmp(url, "/healthz") == 0)
        return answer_check(h, c, h->options.healthy);
    return answer_text(c, MHD_HTTP_NOT_FOUND, "not found; there are /metrics, /healthz and /readyz\n");
}

static void connection_changed(void *arg, struct MHD_Connection *c, void **state,
                               enum MHD_ConnectionNotificationCode what)
{
    struct http *h = arg;

    (void)c;
    (void)state;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED)
        atomic_fetch_sub(&h->connections, 1);
}

static void take(struct http *h, int fd, const struct sockaddr_storage *peer, socklen_t len)
{
    if (atomic_fetch_add(&h->connections, 1) >= CONNECTIONS_MAX) {
        atomic_fetch_sub(&h->connections, 1);
        close(fd);
    } else if (MHD_add_connection(h->daemon, fd, (const struct sockaddr *)peer, len) != MHD_YES) {
        atomic_fetch_sub(&h->connections, 1); /* it has closed fd */
    }
}

/* Accepts until stop_fd is readable; false when it is to pause. */
static bool accept_some(struct http *h)
{
    for (;;) {
        struct sockaddr_storage peer;
        socklen_t len = sizeof(peer);
        int fd = accept4(h->listen_fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            if (peer.ss_family == AF_UNIX)
                len = sizeof(struct sockaddr_un);
            take(h, fd, &peer, len);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            DIAG_EVERY(DIAG_ERROR, "cannot accept: out of file descriptors or memory", "listener=%s errno=%d",
                       h->address, errno);
            return false;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return true;
        }
    }
}

/* One thread accepts and serves: handing sockets to a thread of libmicrohttpd's own made that thread fault when the
 * daemon was stopped soon afterwards (0.9.75). */
static void *serve_main(void *arg)
{
    struct http *h = arg;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct pollfd fds[3] = {{.fd = h->stop_fd, .events = POLLIN},
                            {.fd = info->epoll_fd, .events = POLLIN},
                            {.fd = h->listen_fd, .events = POLLIN}};
    bool paused = false;

    pthread_setname_np(pthread_self(), "http");
    for (;;) {
        MHD_UNSIGNED_LONG_LONG next = 0;
        int timeout = MHD_get_timeout(h->daemon, &next) == MHD_YES ? (int)MIN_OF(next, 60000u) : -1;

        if (paused && (timeout < 0 || timeout > EMFILE_PAUSE_MS))
            timeout = EMFILE_PAUSE_MS;
        if (poll(fds, paused ? 2 : 3, timeout) < 0 && errno != EINTR)
            return NULL;
        if (fds[0].revents != 0)
            return NULL;
        if (paused || fds[2].revents != 0)
            paused = !accept_some(h);
        MHD_run(h->daemon);
    }
}

static int start_threads(struct http *h)
{
    sigset_t all, old;
    int err = 0;

    /* Signals are for the main thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, handle, h,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX * 4, MHD_OPTION_NOTIFY_CONNECTION,
        connection_changed, h, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_END);
    if (h->daemon == NULL)
        err = ERR_LIMIT;
    else if (pthread_create(&h->thread, NULL, serve_main, h) != 0)
        err = ERR_LIMIT;
    else
        h->serving = true;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return err;
}

int http_start(const struct http_options *options, struct http **ret)
{
    struct http *h = mem_zalloc(sizeof(*h));
    int err;

    CHECK(options->metrics != NULL && options->ready != NULL);
    MAGIC_INIT(h, HTTP_MAGIC);
    h->options = *options;
    h->address = mem_strdup(options->address);
    h->options.address = h->address;
    h->listen_fd = h->stop_fd = -1;
    err = listener_bind(h->address, &h->listen_fd, &h->port);
    if (err == 0) {
        h->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (h->stop_fd < 0)
            err = err_from_errno(errno);
    }
    if (err == 0)
        err = start_threads(h);
    if (err < 0) {
        http_stop(h);
        return err;
    }
    *ret = h;
    return 0;
}

void http_stop(struct http *h)
{
    if (h == NULL)
        return;
    MAGIC_CHECK(h, HTTP_MAGIC);
    if (h->serving) {
        CHECK(eventfd_write(h->stop_fd, 1) == 0);
        pthread_join(h->thread, NULL);
    }
    if (h->daemon != NULL)
        MHD_stop_daemon(h->daemon);
    if (h->listen_fd >= 0) {
        close(h->listen_fd);
        if (strncmp(h->address, "unix:", 5) == 0)
            unlink(h->address + 5);
    }
    if (h->stop_fd >= 0)
        close(h->stop_fd);
    mem_free(h->address);
    MAGIC_FINI(h, HTTP_MAGIC);
    mem_free(h);
}

uint16_t http_port(const struct http *h)
{
    return h->port;
}
