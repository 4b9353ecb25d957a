/* Output of a connection: a chain of segments (memory, borrowed memory, file ranges), written once a turn.
 *
 * All bytes ever appended form one stream; a position is a byte's number in it.
 *
 *      0 ........ sent ............. sealed ............ end
 *                  | head seg | ... | tail MEM segment   |
 *
 * `end` (output_end) grows as somebody encodes straight into the tail's buffer, so it is computed, not kept.
 * A hold is a position behind which nothing leaves while it is open: holds cut no segment and cost 16 bytes.
 *
 * Memory segments come from a pool a worker and go back when drained: an idle connection owns no output
 * buffer, and a busy worker always writes into the same few warm ones. */
#include <errno.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/internal.h"

enum {
    IOV_MAX_ONCE = 64,
    TURN_BYTES_MAX =
        1 << 20, /* of one connection; more waits for the next turn, the others are not starved */
    SOFT_DEFAULT = 1 << 20,
    HARD_DEFAULT = 64 << 20,
};

/* ---- segments ---- */

static struct seg *seg_take(struct worker *w, enum seg_kind kind)
{
    struct seg **pool = kind == SEG_MEM ? &w->pool_mem : &w->pool_plain;
    struct seg *s = *pool;

    if (s != NULL) {
        *pool = s->next;
        if (kind == SEG_MEM)
            w->pool_mem_count--;
        else
            w->pool_plain_count--;
    } else {
        s = mem_zalloc(sizeof(*s));
    }
    s->next = NULL;
    s->kind = kind;
    s->off = 0;
    return s;
}

static void seg_give(struct worker *w, struct seg *s)
{
    if (s->kind == SEG_MEM) {
        if (s->mem.cap <= OUT_BUF_KEEP && w->pool_mem_count < POOL_BUFS_MAX) {
            buf_clear(&s->mem);
            s->next = w->pool_mem;
            w->pool_mem = s;
            w->pool_mem_count++;
            return;
        }
        buf_fini(&s->mem);
    } else {
        if (s->release != NULL)
            s->release(s->arg);
        s->release = NULL;
    }
    if (w->pool_plain_count >= POOL_BUFS_MAX) {
        mem_free(s);
        return;
    }
    s->next = w->pool_plain;
    w->pool_plain = s;
    w->pool_plain_count++;
}

static void trim(struct seg **pool, unsigned *count, unsigned keep)
{
    while (*count > keep) {
        struct seg *s = *pool;

        *pool = s->next;
        (*count)--;
        buf_fini(&s->mem);
        mem_free(s);
    }
}

void output_trim_pools(struct worker *w, unsigned keep)
{
    trim(&w->pool_mem, &w->pool_mem_count, keep);
    trim(&w->pool_plain, &w->pool_plain_count, keep);
}

/* ---- positions ---- */

static inline uint64_t output_end(const struct conn_impl *c)
{
    return c->tail != NULL && c->tail->kind == SEG_MEM ? c->sealed + c->tail->mem.len : c->sealed;
}

/* The position up to which bytes may leave now. */
static inline uint64_t output_limit(const struct conn_impl *c)
{
    return c->hold_first == c->hold_next ? output_end(c) : c->holds[c->hold_first & (c->hold_cap - 1)].pos;
}

static size_t seg_len(const struct seg *s)
{
    return s->kind == SEG_MEM ? s->mem.len : s->len;
}

static void push_seg(struct conn_impl *c, struct seg *s)
{
    c->sealed = output_end(c);
    if (s->kind != SEG_MEM)
        c->sealed += s->len;
    if (c->tail == NULL)
        c->head = s;
    else
        c->tail->next = s;
    c->tail = s;
}

static void pop_seg(struct conn_impl *c)
{
    struct seg *s = c->head;

    if (s == c->tail) {
        c->sealed = output_end(c);
        c->tail = NULL;
    }
    c->head = s->next;
    seg_give(c->pub.worker, s);
}

void output_mark_dirty(struct conn_impl *c)
{
    if (c->dirty || c->dead)
        return;
    c->dirty = true;
    c->dirty_next = c->pub.worker->dirty;
    c->pub.worker->dirty = c;
}

static size_t soft_max(const struct conn_impl *c)
{
    return c->pub.ops->output_soft_max != 0 ? c->pub.ops->output_soft_max : SOFT_DEFAULT;
}

static size_t hard_max(const struct conn_impl *c)
{
    size_t hard = c->pub.ops->output_hard_max != 0 ? c->pub.ops->output_hard_max : HARD_DEFAULT;

    return MAX_OF(hard, soft_max(c));
}

/* True when the connection takes no more output: it is gone, or goes now because of what waits already. */
static bool refuses_output(struct conn_impl *c)
{
    if (GM_UNLIKELY(c->dead))
        return true;
    if (GM_UNLIKELY(output_end(c) - c->sent > hard_max(c))) {
        conn_abort(&c->pub, ERR_LIMIT);
        return true;
    }
    return false;
}

struct buf *conn_out(struct conn *conn)
{
    struct conn_impl *c = conn_impl(conn);
    struct seg *s = c->tail;

    if (GM_LIKELY(s != NULL && s->kind == SEG_MEM && s->mem.len < OUT_BUF_KEEP && !c->dead)) {
        output_mark_dirty(c);
        return &s->mem;
    }
    if (refuses_output(c)) {
        buf_clear(&c->pub.worker->sink);
        return &c->pub.worker->sink;
    }
    s = seg_take(c->pub.worker, SEG_MEM);
    buf_reserve(&s->mem, OUT_BUF_FIRST);
    push_seg(c, s);
    output_mark_dirty(c);
    return &s->mem;
}

void conn_write_ref(struct conn *conn, const void *data, size_t n, void (*release)(void *arg), void *arg)
{
    struct conn_impl *c = conn_impl(conn);
    struct seg *s;

    if (n == 0 || refuses_output(c)) {
        if (release != NULL)
            release(arg);
        return;
    }
    s = seg_take(c->pub.worker, SEG_REF);
    s->ref = data;
    s->len = n;
    s->release = release;
    s->arg = arg;
    push_seg(c, s);
    output_mark_dirty(c);
}

void conn_write_file(struct conn *conn, int fd, uint64_t pos, size_t n, void (*release)(void *arg), void *arg)
{
    struct conn_impl *c = conn_impl(conn);
    struct seg *s;

    if (n == 0 || refuses_output(c)) {
        if (release != NULL)
            release(arg);
        return;
    }
    s = seg_take(c->pub.worker, SEG_FILE);
    s->fd = fd;
    s->pos = pos;
    s->len = n;
    s->release = release;
    s->arg = arg;
    push_seg(c, s);
    output_mark_dirty(c);
}

size_t conn_output_pending(const struct conn *conn)
{
    const struct conn_impl *c = conn_impl(conn);

    return c->dead ? 0 : (size_t)(output_end(c) - c->sent);
}

bool conn_output_full(const struct conn *conn)
{
    struct conn_impl *c = conn_impl(conn);

    if (c->dead || output_end(c) - c->sent <= soft_max(c))
        return false;
    c->want_writable = true;
    return true;
}

/* ---- holds ---- */

uint64_t conn_hold(struct conn *conn)
{
    struct conn_impl *c = conn_impl(conn);

    if (c->hold_next - c->hold_first == c->hold_cap) {
        uint32_t cap = c->hold_cap == 0 ? 4 : c->hold_cap * 2;
        struct hold *holds = mem_alloc(cap * sizeof(holds[0]));

        for (uint64_t h = c->hold_first; h != c->hold_next; h++)
            holds[h & (cap - 1)] = c->holds[h & (c->hold_cap - 1)];
        mem_free(c->holds);
        c->holds = holds;
        c->hold_cap = cap;
    }
    c->holds[c->hold_next & (c->hold_cap - 1)] = (struct hold){output_end(c), true};
    return c->hold_next++;
}

void conn_hold_release(struct conn *conn, uint64_t hold)
{
    struct conn_impl *c = conn_impl(conn);
    uint64_t first = c->hold_first;

    CHECK(hold >= c->hold_first && hold < c->hold_next && c->holds[hold & (c->hold_cap - 1)].open);
    c->holds[hold & (c->hold_cap - 1)].open = false;
    while (c->hold_first != c->hold_next && !c->holds[c->hold_first & (c->hold_cap - 1)].open)
        c->hold_first++;
    if (c->hold_first == first)
        return;
    if (c->hold_first == c->hold_next && c->hold_cap > 64) {
        mem_free(c->holds);
        c->holds = NULL;
        c->hold_cap = 0;
    }
    output_mark_dirty(c);
}

void conn_hold_patch(struct conn *conn, uint64_t hold, size_t at, const void *data, size_t len)
{
    struct conn_impl *c = conn_impl(conn);
    const uint8_t *from = data;
    uint64_t start = output_end(c), pos;

    CHECK(hold >= c->hold_first && hold < c->hold_next && c->holds[hold & (c->hold_cap - 1)].open);
    pos = c->holds[hold & (c->hold_cap - 1)].pos + at;
    CHECK(pos + len <= start);
    for (const struct seg *s = c->head; s != NULL; s = s->next)
        start -= seg_len(s);
    for (struct seg *s = c->head; s != NULL && len > 0; start += seg_len(s), s = s->next) {
        size_t n = seg_len(s), k;

        if (pos >= start + n)
            continue;
        CHECK(s->kind == SEG_MEM);
        k = MIN_OF(len, (size_t)(start + n - pos));
        memcpy(s->mem.data + (pos - start), from, k);
        from += k;
        pos += k;
        len -= k;
    }
    CHECK(len == 0);
}

bool conn_held(const struct conn *conn)
{
    const struct conn_impl *c = conn_impl(conn);

    return c->hold_first != c->hold_next;
}

/* ---- writing ---- */

static void block_write(struct conn_impl *c)
{
    struct worker *w = c->pub.worker;
    struct seg *s = c->head;

    if (!c->write_blocked) {
        c->write_blocked = true;
        if (!ev_is_active(&c->wio))
            ev_io_start(w->loop, &c->wio);
    }
    /* Many slow readers with little to read should not own a whole buffer each. */
    if (s != NULL && s == c->tail && s->kind == SEG_MEM && s->mem.len - s->off <= s->mem.cap / 8) {
        struct buf exact = {0};

        buf_put(&exact, s->mem.data + s->off, s->mem.len - s->off);
        c->sealed += s->off;
        s->off = 0;
        buf_fini(&s->mem);
        s->mem = exact;
    }
}

static void advance(struct conn_impl *c, size_t n)
{
    struct worker *w = c->pub.worker;

    c->sent += n;
    c->pub.bytes_out += n;
    stat_add(&w->stats.bytes_out, n);
    while (n > 0) {
        struct seg *s = c->head;
        size_t left = seg_len(s) - s->off;

        if (n < left) {
            s->off += n;
            return;
        }
        n -= left;
        s->off += left;
        pop_seg(c);
    }
}

/* Gathers memory from the head on, at most max bytes. *ret_more: a file range follows at once, so the kernel
 * should not push a short packet. */
static int gather(const struct conn_impl *c, size_t max, struct iovec *iov, size_t *ret_total, bool *ret_more)
{
    size_t total = 0;
    int n = 0;
    const struct seg *s;

    for (s = c->head; s != NULL && s->kind != SEG_FILE && n < IOV_MAX_ONCE && total < max; s = s->next) {
        const uint8_t *p = s->kind == SEG_MEM ? s->mem.data : s->ref;
        size_t left = MIN_OF(seg_len(s) - s->off, max - total);

        if (left == 0)
            continue;
        iov[n].iov_base = (void *)(uintptr_t)(p + s->off);
        iov[n].iov_len = left;
        total += left;
        n++;
    }
    *ret_total = total;
    *ret_more = s != NULL && s->kind == SEG_FILE && total < max;
    return n;
}

/* What a write of `asked` bytes came to: n, or <0 with errno. False: no more for now. */
static bool after_write(struct conn_impl *c, ssize_t n, size_t asked)
{
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            block_write(c);
        else if (errno == EINTR)
            output_mark_dirty(c);
        else
            conn_abort(&c->pub, err_from_errno(errno));
        return false;
    }
    advance(c, (size_t)n);
    if ((size_t)n < asked)
        block_write(c);
    return true;
}

/* One system call. Returns bytes, or <0 with errno; *ret_asked is what it was given. */
static ssize_t write_some(struct conn_impl *c, size_t max, size_t *ret_asked)
{
    struct iovec iov[IOV_MAX_ONCE];
    struct msghdr msg = {0};
    struct seg *s = c->head;
    bool more;

    stat_add(&c->pub.worker->stats.writes, 1);
    if (s->kind == SEG_FILE) {
        off_t pos = (off_t)(s->pos + s->off);
        ssize_t n;

        *ret_asked = MIN_OF(s->len - s->off, max);
        n = sendfile(c->fd, s->fd, &pos, *ret_asked);
        if (n == 0)
            errno = EIO; /* the file is shorter than it was when the range was promised */
        return n == 0 ? -1 : n;
    }
    msg.msg_iov = iov;
    msg.msg_iovlen = (size_t)gather(c, max, iov, ret_asked, &more);
    if (msg.msg_iovlen == 1)
        return io_send(c->fd, iov[0].iov_base, iov[0].iov_len,
                       MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
    return sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
}

/* The usual case spelt out: one buffer of memory, nothing held, all of it taken at once. False: nothing was done. */
static bool send_whole(struct conn_impl *c)
{
    struct worker *w = c->pub.worker;
    struct seg *s = c->head;
    size_t len;
    ssize_t n;

    if (s == NULL || s != c->tail || s->kind != SEG_MEM || s->off != 0 || c->hold_first != c->hold_next || c->write_blocked)
        return false;
    len = s->mem.len;
    if (len == 0 || len > OUT_BUF_KEEP)
        return false;
    n = io_send(c->fd, s->mem.data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    stat_add(&w->stats.writes, 1);
    if (GM_UNLIKELY(n != (ssize_t)len)) {
        after_write(c, n, len);
        return true;
    }
    c->sent += len;
    c->sealed = c->sent;
    c->pub.bytes_out += len;
    stat_add(&w->stats.bytes_out, len);
    c->head = c->tail = NULL;
    seg_give(w, s);
    return true;
}

static void flush(struct conn_impl *c)
{
    size_t budget = TURN_BYTES_MAX;

    while (!c->dead && !c->write_blocked) {
        uint64_t limit = output_limit(c);
        size_t asked, max = MIN_OF((size_t)(limit - c->sent), budget);
        ssize_t n;

        if (c->sent == limit)
            break;
        if (max == 0) {
            output_mark_dirty(c);
            break;
        }
        while (c->head->off == seg_len(c->head)) /* an empty one, taken and not written to */
            pop_seg(c);
        n = write_some(c, max, &asked);
        if (!after_write(c, n, asked))
            break;
        budget -= (size_t)n;
    }
}

static void flush_and_follow_up(struct conn_impl *c)
{
    struct worker *w = c->pub.worker;
    uint64_t pending;

    if (c->shut)
        return;
    if (!send_whole(c))
        flush(c);
    if (c->dead)
        return;
    if (c->head != NULL && c->sent == output_end(c)) {
        while (c->head != NULL)
            pop_seg(c);
    }
    /* Not before the socket took what it refused: stopping and starting it for each message would cost two
     * epoll_ctl. But never left active with nothing to write, a hold in front for instance: it would fire
     * every turn. */
    if (!c->write_blocked && ev_is_active(&c->wio))
        ev_io_stop(w->loop, &c->wio);
    pending = output_end(c) - c->sent;
    if (GM_UNLIKELY(pending > soft_max(c))) {
        c->want_writable = true;
        if (pending > hard_max(c)) {
            conn_abort(&c->pub, ERR_LIMIT);
            return;
        }
    } else if (GM_UNLIKELY(c->want_writable) && pending <= soft_max(c) / 2) {
        c->want_writable = false;
        if (c->pub.ops->writable != NULL && !c->closing)
            c->pub.ops->writable(&c->pub);
    }
    if (GM_UNLIKELY(c->closing) && !c->dead && c->sent == output_end(c)) {
        if (c->eof) {
            conn_abort(&c->pub, c->reason);
            return;
        }
        /* Say that nothing more comes, and wait a moment for the peer to hang up: to close a socket with
         * unread input would reset it, and the peer could lose the last reply. */
        shutdown(c->fd, SHUT_WR);
        c->shut = true;
        c->deadline_us = w->now_us + LINGER_US;
        if (c->read_stopped) {
            c->read_stopped = false;
            ev_io_start(w->loop, &c->rio);
        }
    }
}

void output_write_dirty(struct worker *w)
{
    struct conn_impl *c = w->dirty;

    /* Who becomes dirty while this runs (`writable` produced more) is written in the next turn. */
    w->dirty = NULL;
    while (c != NULL) {
        struct conn_impl *next = c->dirty_next;

        if (next != NULL)
            __builtin_prefetch(next->tail);
        c->dirty = false;
        c->dirty_next = NULL;
        if (!c->dead && (!c->write_blocked || c->closing || output_end(c) - c->sent > soft_max(c)))
            flush_and_follow_up(c);
        c = next;
    }
}

void output_ready(struct conn_impl *c)
{
    c->write_blocked = false;
    output_mark_dirty(c);
}

/* The worker stops: what the socket takes at once still goes. */
void output_flush_last(struct conn_impl *c)
{
    if (!c->shut)
        flush(c);
}

void output_drop(struct conn_impl *c)
{
    while (c->head != NULL)
        pop_seg(c);
    mem_free(c->holds);
    c->holds = NULL;
    c->hold_cap = 0;
}
