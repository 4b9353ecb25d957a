/* Connections: their life, input, pausing, the wheel. Output is in output.c.
 *
 * Reading. One recv into the worker's buffer a readiness, another only if it was filled (P8, P4). What
 * `input` leaves is copied to conn->in; with the next readiness it goes back in front of the new bytes, in
 * the shared buffer while it is small, else new bytes are read behind it where it lies. So between messages a
 * connection owns no input memory.
 *
 * Watchers. The read watcher stays active from open to close; a pause stops it only when input really arrives
 * meanwhile, so pausing and resuming around a command costs no epoll_ctl.
 *
 * Dying. conn_abort stops the watchers and queues the connection; at the turn's end conn_finish_dead calls
 * `closed`, lets go of everything and frees. Between the two every function still works on it and does
 * nothing. */
#include "io/conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/internal.h"

enum {
    READS_A_TURN = 4,
    SHARED_KEEP_MAX = 16384, /* kept bytes up to this much go back into the shared buffer */
    READ_ROOM_MAX = 1 << 20,
};

_Static_assert(sizeof(struct conn_impl) <= 512,
               "an idle connection is to cost at most 1 KiB with its bookkeeping");

/* ---- id -> connection ---- */

static size_t map_home(const struct conn_map *m, uint64_t id)
{
    return (size_t)(id * 0x9e3779b97f4a7c15ull >> 20) & m->mask;
}

struct conn_impl *conn_map_find(const struct conn_map *m, uint64_t id)
{
    if (m->slots == NULL)
        return NULL;
    for (size_t i = map_home(m, id); m->slots[i] != NULL; i = (i + 1) & m->mask) {
        if (m->slots[i]->pub.id == id)
            return m->slots[i];
    }
    return NULL;
}

static void map_put(struct conn_map *m, struct conn_impl *c)
{
    size_t i = map_home(m, c->pub.id);

    while (m->slots[i] != NULL)
        i = (i + 1) & m->mask;
    m->slots[i] = c;
}

static void map_add(struct conn_map *m, struct conn_impl *c)
{
    if (m->slots == NULL || m->count * 2 > m->mask) {
        struct conn_map old = *m;

        m->mask = old.slots == NULL ? 15 : old.mask * 2 + 1;
        m->slots = mem_calloc(m->mask + 1, sizeof(m->slots[0]));
        for (size_t i = 0; old.slots != NULL && i <= old.mask; i++) {
            if (old.slots[i] != NULL)
                map_put(m, old.slots[i]);
        }
        mem_free(old.slots);
    }
    map_put(m, c);
    m->count++;
}

static void map_remove(struct conn_map *m, const struct conn_impl *c)
{
    size_t i = map_home(m, c->pub.id), hole;

    while (m->slots[i] != c)
        i = (i + 1) & m->mask;
    /* Close the hole: move back whoever would not be found across it. */
    for (hole = i, i = (i + 1) & m->mask; m->slots[i] != NULL; i = (i + 1) & m->mask) {
        size_t home = map_home(m, m->slots[i]->pub.id);

        if (((i - home) & m->mask) >= ((i - hole) & m->mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole] = NULL;
    m->count--;
}

struct conn *worker_find_conn(struct worker *w, uint64_t id)
{
    struct conn_impl *c = conn_map_find(&w->map, id);

    return c == NULL || c->dead ? NULL : &c->pub;
}

void worker_each_conn(struct worker *w, void (*fn)(struct conn *c, void *arg), void *arg)
{
    LIST_FOREACH_SAFE (n, &w->conns) {
        struct conn_impl *c = LIST_ENTRY(n, struct conn_impl, all);

        if (!c->dead && c->opened)
            fn(&c->pub, arg);
    }
}

/* ---- input ---- */

static void stop_reading(struct conn_impl *c)
{
    if (!c->read_stopped) {
        c->read_stopped = true;
        ev_io_stop(c->pub.worker->loop, &c->rio);
    }
}

static void start_reading(struct conn_impl *c)
{
    if (c->read_stopped && !c->eof && !c->dead) {
        c->read_stopped = false;
        ev_io_start(c->pub.worker->loop, &c->rio);
    }
}

/* Gives data to the protocol. Returns what is left of it, starting at *data_io. The caller keeps that. */
static size_t give_input(struct conn_impl *c, const uint8_t **data_io, size_t len)
{
    ssize_t n;

    if (len < c->want)
        return len;
    c->want = 0;
    c->in_input = true;
    n = c->pub.ops->input(&c->pub, *data_io, len);
    c->in_input = false;
    if (c->dead || c->closing)
        return 0;
    if (n < 0) {
        conn_close_soon(&c->pub, (int)n);
        return 0;
    }
    CHECK((size_t)n <= len);
    *data_io += n;
    len -= (size_t)n;
    if (len > c->pub.ops->input_max && c->pauses == 0) {
        conn_close_soon(&c->pub, ERR_TOO_LARGE);
        return 0;
    }
    return len;
}

static void drop_kept(struct conn_impl *c)
{
    if (c->in.cap != 0)
        buf_fini(&c->in);
}

static void keep_input(struct conn_impl *c, const uint8_t *data, size_t len)
{
    /* data may lie in c->in itself */
    if (len == 0) {
        drop_kept(c);
    } else if (c->in.data != NULL && data >= c->in.data && data < c->in.data + c->in.cap) {
        buf_consume(&c->in, (size_t)(data - c->in.data));
    } else {
        buf_clear(&c->in);
        buf_put(&c->in, data, len);
    }
}

static void peer_ended(struct conn_impl *c)
{
    c->eof = true;
    stop_reading(c);
    if (c->closing) {
        output_mark_dirty(c);
    } else if (c->pauses > 0) {
        if (c->pub.ops->hangup != NULL)
            c->pub.ops->hangup(&c->pub);
    } else {
        /* A message cut short by the end is dropped; replies to what came before it are sent. */
        conn_close_soon(&c->pub, ERR_CLOSED);
    }
}

/* One recv, with the bookkeeping. Bytes that came, or 0 when there is nothing to go on with. */
static size_t receive(struct conn_impl *c, uint8_t *to, size_t room)
{
    struct worker *w = c->pub.worker;
    ssize_t n;

    do {
        n = io_recv(c->fd, to, room, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    stat_add(&w->stats.reads, 1);
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            conn_abort(&c->pub, err_from_errno(errno));
        return 0;
    }
    if (n == 0) {
        peer_ended(c);
        return 0;
    }
    c->pub.bytes_in += (uint64_t)n;
    c->pub.last_input_us = w->now_us;
    stat_add(&w->stats.bytes_in, (uint64_t)n);
    return (size_t)n;
}

/* Reads once. Returns true when the buffer was filled, so that there may be more. */
static bool read_once(struct conn_impl *c)
{
    struct worker *w = c->pub.worker;
    bool shared = c->in.len <= SHARED_KEEP_MAX && c->in.len < w->read_buf_size / 2;
    const uint8_t *data;
    uint8_t *to;
    size_t room, len, n;

    if (shared) {
        if (c->in.len != 0)
            memcpy(w->read_buf, c->in.data, c->in.len);
        to = w->read_buf + c->in.len;
        room = w->read_buf_size - c->in.len;
    } else {
        /* Doubles what has arrived at most: no peer makes us allocate by announcing. */
        room =
            MIN_OF(MAX_OF(c->want > c->in.len ? c->want - c->in.len : 0, 65536u), MAX_OF(c->in.len, 65536u));
        room = MIN_OF(room, (size_t)READ_ROOM_MAX);
        to = buf_reserve(&c->in, room);
    }
    n = receive(c, to, room);
    if (n == 0)
        return false;
    if (shared) {
        data = w->read_buf;
        len = c->in.len + n;
    } else {
        buf_advance(&c->in, n);
        data = c->in.data;
        len = c->in.len;
    }
    len = give_input(c, &data, len);
    if (!c->dead)
        keep_input(c, data, len);
    c->bulky = n >= AHEAD_BYTES;
    return n == room && !c->dead && !c->closing && c->pauses == 0;
}

/* ---- reading ahead ----
 *
 * When many connections are ready with a small message each, what a message needs from memory can be on its
 * way while the next ones are read from their sockets. So a read waits for two more before it is given:
 *
 *   read n, foresee its first need   foresee the rest of n-1's   give n-2
 *
 * Who is bulky, has half a message here, or is ready alone is given its input at once. All are given before the
 * turn's other work begins. */

static void give_ahead(const struct ahead *a)
{
    struct conn_impl *c = a->c;
    const uint8_t *data = a->data;
    size_t len = a->len;

    if (c->dead || c->closing)
        return;
    if (c->pauses == 0)
        len = give_input(c, &data, len);
    if (!c->dead)
        keep_input(c, data, len);
}

void conn_run_ahead(struct worker *w)
{
    struct ahead a[AHEAD];
    unsigned n = w->ahead_count;

    if (n == 0)
        return;
    memcpy(a, w->ahead, sizeof(a));
    w->ahead_count = 0;
    if (!a[n - 1].c->dead)
        a[n - 1].c->pub.ops->foresee(&a[n - 1].c->pub, a[n - 1].data, a[n - 1].len, FORESEE_REST);
    for (unsigned i = 0; i < n; i++)
        give_ahead(&a[i]);
}

/* False: not for this connection, or there is nobody to wait for. */
static bool read_ahead(struct conn_impl *c)
{
    struct worker *w = c->pub.worker;
    uint8_t *to = w->ahead_buf + (size_t)w->ahead_at * AHEAD_BYTES;
    struct ahead now;

    if (c->pub.ops->foresee == NULL || c->bulky || c->in.len != 0 ||
        (w->ahead_count == 0 && ev_pending_count(w->loop) == 0))
        return false;
    now = (struct ahead){c, to, receive(c, to, AHEAD_BYTES)};
    if (now.len == 0)
        return true;
    if (now.len == AHEAD_BYTES) {
        give_ahead(&now);
        c->bulky = true;
        return c->dead || c->closing || c->pauses > 0; /* there may be more */
    }
    w->ahead_at = (w->ahead_at + 1) % (AHEAD + 1);
    c->pub.ops->foresee(&c->pub, now.data, now.len, FORESEE_FIRST);
    if (w->ahead_count > 0) {
        struct ahead *last = &w->ahead[w->ahead_count - 1];

        if (!last->c->dead)
            last->c->pub.ops->foresee(&last->c->pub, last->data, last->len, FORESEE_REST);
    }
    if (w->ahead_count == AHEAD) {
        struct ahead oldest = w->ahead[0];

        memmove(w->ahead, w->ahead + 1, sizeof(w->ahead[0]) * (AHEAD - 1));
        w->ahead[AHEAD - 1] = now;
        give_ahead(&oldest);
    } else {
        w->ahead[w->ahead_count++] = now;
    }
    return true;
}

/* Closing: what the peer still says is thrown away. */
static void discard_input(struct conn_impl *c)
{
    ssize_t n = recv(c->fd, c->pub.worker->read_buf, c->pub.worker->read_buf_size, MSG_DONTWAIT);

    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)))
        return;
    if (n < 0 || c->shut) {
        conn_abort(&c->pub, c->reason);
        return;
    }
    peer_ended(c);
}

static void readable(struct ev_loop *loop, ev_io *watcher, int revents)
{
    struct conn_impl *c = watcher->data;

    (void)loop;
    (void)revents;
    if (GM_UNLIKELY(c->dead))
        return;
    if (GM_UNLIKELY(c->closing)) {
        discard_input(c);
        return;
    }
    if (c->pauses > 0) {
        char byte;
        ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

        if (n == 0)
            peer_ended(c);
        else if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            conn_abort(&c->pub, err_from_errno(errno));
        else
            stop_reading(c);
        return;
    }
    if (read_ahead(c))
        return;
    for (unsigned i = 0; i < READS_A_TURN && read_once(c); i++)
        ;
}

static void writable(struct ev_loop *loop, ev_io *watcher, int revents)
{
    struct conn_impl *c = watcher->data;

    (void)loop;
    (void)revents;
    if (!c->dead)
        output_ready(c);
}

void conn_want_input(struct conn *conn, size_t n)
{
    struct conn_impl *c = conn_impl(conn);

    CHECK(c->in_input);
    if (n > c->pub.ops->input_max)
        conn_close_soon(conn, ERR_TOO_LARGE);
    else
        c->want = n;
}

/* ---- pausing ---- */

void conn_pause_input(struct conn *conn)
{
    conn_impl(conn)->pauses++;
}

void conn_resume_input(struct conn *conn)
{
    struct conn_impl *c = conn_impl(conn);

    CHECK(c->pauses > 0);
    if (--c->pauses == 0 && !c->dead && !c->closing && !list_linked(&c->resume))
        list_push_back(&c->pub.worker->resumes, &c->resume);
}

bool conn_input_paused(const struct conn *conn)
{
    return conn_impl(conn)->pauses > 0;
}

void conn_run_resumes(struct worker *w)
{
    struct list now, *n;

    if (list_empty(&w->resumes))
        return;
    list_init(&now);
    list_splice(&now, &w->resumes);
    while ((n = list_pop_front(&now)) != NULL) {
        struct conn_impl *c = LIST_ENTRY(n, struct conn_impl, resume);

        if (c->dead || c->closing || c->pauses > 0)
            continue;
        if (c->in.len != 0) {
            const uint8_t *data = c->in.data;
            size_t len = c->in.len;

            c->want = 0;
            len = give_input(c, &data, len);
            if (c->dead || c->closing)
                continue;
            keep_input(c, data, len);
            if (c->pauses > 0) {
                /* Paused anew, behind the end of input: what it waits for now may be nothing without a client. */
                if (c->eof && c->pub.ops->hangup != NULL)
                    c->pub.ops->hangup(&c->pub);
                continue;
            }
        }
        if (c->eof)
            conn_close_soon(&c->pub, ERR_CLOSED);
        else
            start_reading(c);
    }
}

/* ---- life ---- */

static void store_peer(struct conn_impl *c, const struct sockaddr_storage *peer)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    if (peer == NULL) {
        memset(&ss, 0, sizeof(ss));
        if (getpeername(c->fd, (struct sockaddr *)&ss, &len) < 0)
            ss.ss_family = AF_UNIX;
        peer = &ss;
    }
    c->peer_family = (uint8_t)peer->ss_family;
    if (peer->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)peer;

        c->peer_port = ntohs(v4->sin_port);
        memcpy(c->peer_addr, &v4->sin_addr, 4);
    } else if (peer->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)peer;

        c->peer_port = ntohs(v6->sin6_port);
        memcpy(c->peer_addr, &v6->sin6_addr, 16);
        if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
            c->peer_family = AF_INET;
            memmove(c->peer_addr, c->peer_addr + 12, 4);
        }
    }
}

static uint64_t next_conn_id(void)
{
    static _Atomic uint64_t last;

    return atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
}

int conn_open(struct worker *w, int fd, const struct conn_ops *ops, struct listener *l, void *arg,
              const struct sockaddr_storage *peer, struct conn **ret)
{
    struct conn_impl *c;
    int err;

    CHECK(worker_is_here(w) && ops->input != NULL);
    c = mem_zalloc(sizeof(*c));
    MAGIC_INIT(&c->pub, CONN_MAGIC);
    c->pub.ops = ops;
    c->pub.worker = w;
    c->pub.id = next_conn_id();
    c->pub.opened_us = c->pub.last_input_us = w->now_us;
    c->fd = fd;
    c->listener = l;
    c->counted = l != NULL;
    c->arg = arg;
    store_peer(c, peer);
    ev_io_init(&c->rio, readable, fd, EV_READ);
    ev_io_init(&c->wio, writable, fd, EV_WRITE);
    c->rio.data = c->wio.data = c;
    list_push_back(&w->conns, &c->all);
    list_push_back(&w->wheel[w->wheel_next++ % WHEEL_SLOTS], &c->wheel);
    map_add(&w->map, c);
    stat_add(&w->stats.opened, 1);
    if (!ev_is_active(&w->wheel_timer))
        ev_timer_again(w->loop, &w->wheel_timer);
    err = w->stopping ? ERR_CANCELLED : ops->open == NULL ? 0 : ops->open(&c->pub);
    if (err < 0) {
        conn_abort(&c->pub, err);
        return err;
    }
    c->opened = true;
    if (!c->dead)
        ev_io_start(w->loop, &c->rio);
    if (ret != NULL)
        *ret = &c->pub;
    return 0;
}

int conn_adopt(struct worker *w, int fd, const struct conn_ops *ops, void *arg, struct conn **ret)
{
    atomic_fetch_add_explicit(&w->conn_count[ops->protocol], 1, memory_order_relaxed);
    return conn_open(w, fd, ops, NULL, arg, NULL, ret);
}

void conn_close_soon(struct conn *conn, int reason)
{
    struct conn_impl *c = conn_impl(conn);

    if (c->closing || c->dead)
        return;
    c->closing = true;
    c->reason = reason;
    c->deadline_us = c->pub.worker->now_us + CLOSE_FLUSH_US;
    list_remove(&c->resume);
    if (!c->in_input)
        drop_kept(c);
    output_mark_dirty(c);
}

void conn_abort(struct conn *conn, int reason)
{
    struct conn_impl *c = conn_impl(conn);
    struct worker *w = c->pub.worker;

    if (c->dead)
        return;
    c->dead = true;
    c->reason = reason;
    ev_io_stop(w->loop, &c->rio);
    ev_io_stop(w->loop, &c->wio);
    list_remove(&c->resume);
    list_push_back(&w->dead, &c->dead_node);
}

/* epoll's registrations belong to the socket: one that lives on under another descriptor keeps its place in the set after the close, and every
 * event of it wakes this loop, which then asks epoll to change a descriptor that may be anybody's by now. libev, which counts on the close, has
 * no call for this and no name for its epoll descriptor but in a watcher that embeds the loop into another. */
static void poll_set_forget(struct ev_loop *loop, int fd)
{
    struct ev_loop *outer = ev_loop_new(EVBACKEND_POLL | EVFLAG_NOENV);
    struct epoll_event unused = {0};
    ev_embed embed;

    if (outer == NULL)
        return; /* out of descriptors: some needless turns, no harm */
    ev_embed_init(&embed, NULL, loop);
    ev_embed_start(outer, &embed);
    epoll_ctl(embed.io.fd, EPOLL_CTL_DEL, fd, &unused);
    ev_embed_stop(outer, &embed);
    ev_loop_destroy(outer);
}

int conn_take_socket(struct conn *conn)
{
    struct conn_impl *c = conn_impl(conn);
    int fd = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);

    CHECK(worker_is_here(conn->worker));
    if (fd < 0)
        return -1;
    conn_abort(conn, ERR_CANCELLED); /* closes its descriptor, not the socket */
    poll_set_forget(conn->worker->loop, c->fd);
    return fd;
}

bool conn_closing(const struct conn *conn)
{
    const struct conn_impl *c = conn_impl(conn);

    return c->closing || c->dead;
}

void conn_finish_dead(struct worker *w)
{
    struct list *n;

    if (w->sink.cap > OUT_BUF_KEEP)
        buf_fini(&w->sink);
    while ((n = list_pop_front(&w->dead)) != NULL) {
        struct conn_impl *c = LIST_ENTRY(n, struct conn_impl, dead_node);

        CHECK(!c->in_input);
        if (c->opened && c->pub.ops->closed != NULL)
            c->pub.ops->closed(&c->pub, c->reason);
        output_drop(c);
        /* It may have become dirty before it died in this very turn. */
        if (c->dirty) {
            struct conn_impl **p = &w->dirty;

            while (*p != c)
                p = &(*p)->dirty_next;
            *p = c->dirty_next;
        }
        drop_kept(c);
        map_remove(&w->map, c);
        list_remove(&c->all);
        list_remove(&c->wheel);
        close(c->fd);
        if (c->counted)
            listener_conn_closed(c->listener);
        atomic_fetch_sub_explicit(&w->conn_count[c->pub.ops->protocol], 1, memory_order_relaxed);
        stat_add(&w->stats.closed, 1);
        MAGIC_FINI(&c->pub, CONN_MAGIC);
        mem_free(c);
    }
}

/* The worker's loop has ended. */
void conn_close_all(struct worker *w)
{
    LIST_FOREACH_SAFE (n, &w->conns) {
        struct conn_impl *c = LIST_ENTRY(n, struct conn_impl, all);

        if (!c->dead)
            output_flush_last(c);
        conn_abort(&c->pub, ERR_CANCELLED);
    }
    conn_finish_dead(w);
}

/* ---- the wheel ---- */

static void look_at(struct conn_impl *c, uint64_t now)
{
    if (c->closing) {
        if (now >= c->deadline_us)
            conn_abort(&c->pub, c->reason);
        return;
    }
    if (c->pauses > 0 && c->read_stopped && !c->eof) {
        /* Nobody watches this socket: has the peer died? */
        struct pollfd p = {.fd = c->fd, .events = 0};

        if (poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0) {
            conn_abort(&c->pub, ERR_CLOSED);
            return;
        }
    }
    if (c->pub.ops->tick != NULL)
        c->pub.ops->tick(&c->pub, now);
}

void conn_wheel_tick(struct worker *w)
{
    unsigned slot = w->wheel_at++ % WHEEL_SLOTS;

    LIST_FOREACH_SAFE (n, &w->wheel[slot]) {
        struct conn_impl *c = LIST_ENTRY(n, struct conn_impl, wheel);

        if (!c->dead)
            look_at(c, w->now_us);
    }
}

/* ---- what is it connected to ---- */

static void format_address(int family, const uint8_t *addr, uint16_t port, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";

    inet_ntop(family, addr, host, sizeof(host));
    snprintf(text, size, family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, port);
}

static void local_unix_text(const struct conn_impl *c, char *text, size_t size)
{
    struct sockaddr_un un;
    socklen_t len = sizeof(un);

    memset(&un, 0, sizeof(un));
    if (getsockname(c->fd, (struct sockaddr *)&un, &len) < 0 || un.sun_family != AF_UNIX)
        un.sun_path[0] = '\0';
    snprintf(text, size, "unix:%.*s", (int)sizeof(un.sun_path), un.sun_path);
}

void conn_peer_text(const struct conn *conn, char *text, size_t size)
{
    const struct conn_impl *c = conn_impl(conn);

    /* The client's end of a unix socket has no name; which socket it came in by says more. */
    if (c->peer_family != AF_INET && c->peer_family != AF_INET6)
        local_unix_text(c, text, size);
    else
        format_address(c->peer_family, c->peer_addr, c->peer_port, text, size);
}

void conn_local_text(const struct conn *conn, char *text, size_t size)
{
    const struct conn_impl *c = conn_impl(conn);
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    memset(&ss, 0, sizeof(ss));
    if (getsockname(c->fd, (struct sockaddr *)&ss, &len) < 0) {
        snprintf(text, size, "?");
    } else if (ss.ss_family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&ss;

        format_address(AF_INET, (uint8_t *)&v4->sin_addr, ntohs(v4->sin_port), text, size);
    } else if (ss.ss_family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&ss;

        if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
            format_address(AF_INET, v6->sin6_addr.s6_addr + 12, ntohs(v6->sin6_port), text, size);
        else
            format_address(AF_INET6, v6->sin6_addr.s6_addr, ntohs(v6->sin6_port), text, size);
    } else {
        local_unix_text(c, text, size);
    }
}

bool conn_peer_is_loopback(const struct conn *conn)
{
    const struct conn_impl *c = conn_impl(conn);
    struct in6_addr v6;

    if (c->peer_family == AF_INET)
        return c->peer_addr[0] == 127;
    if (c->peer_family != AF_INET6)
        return true;
    memcpy(&v6, c->peer_addr, sizeof(v6));
    return IN6_IS_ADDR_LOOPBACK(&v6);
}

int conn_fd(const struct conn *conn)
{
    return conn_impl(conn)->fd;
}

void *conn_listener_arg(const struct conn *conn)
{
    return conn_impl(conn)->arg;
}
