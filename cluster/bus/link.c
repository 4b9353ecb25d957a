/* A link: one connection's place.
 *
 *   dialled    IDLE -> CONNECT -> HELLO -> PROOF -> UP -> IDLE -> ... until its peer is removed (GONE)
 *   accepted   HELLO -> (moves to the data worker if the hello names that channel) -> PROOF -> UP -> GONE
 *   loopback   UP; frames go from the outbox straight into dispatch
 *
 * The dialler says hello first and proves first: whoever merely connects to us learns no proof that he could guess the secret from. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/bus/private.h"

static const struct conn_ops dial_ops[BUS_CHANNELS];
static const struct conn_ops moved_ops;

static void timer_fired(struct worker *w, struct io_timer *t);

/* ---- life ---- */

struct link *link_new(struct bus *b, enum bus_channel channel)
{
    struct link *l = mem_zalloc(sizeof(*l));

    MAGIC_INIT(l, LINK_MAGIC);
    atomic_store(&l->refs, 1);
    l->bus = b;
    l->channel = channel;
    l->worker = b->workers[channel];
    mutex_init(&l->lock);
    list_init(&l->ready);
    list_init(&l->bulk_new);
    list_init(&l->requests);
    list_init(&l->requests_free);
    l->pump.deliver = link_pump;
    l->who.address = l->who_address;
    io_timer_init(&l->timer, timer_fired);
    mutex_lock(&b->lock);
    list_push_back(&b->all_links, &l->all);
    mutex_unlock(&b->lock);
    return l;
}

struct link *link_ref(struct link *l)
{
    atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
    return l;
}

void link_unref(struct link *l)
{
    struct list *n;

    MAGIC_CHECK(l, LINK_MAGIC);
    if (atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1)
        return;
    CHECK(l->conn == NULL && l->connecting == NULL && !list_linked(&l->node) && list_empty(&l->requests));
    mutex_lock(&l->bus->lock);
    list_remove(&l->all); /* before anything of it ends: bus_links looks at those in the list */
    mutex_unlock(&l->bus->lock);
    while ((n = list_pop_front(&l->requests_free)) != NULL)
        mem_free(LIST_ENTRY(n, struct bus_request, node));
    buf_fini(&l->out);
    buf_fini(&l->spare);
    buf_fini(&l->my_hello);
    buf_fini(&l->their_hello);
    mutex_fini(&l->lock);
    MAGIC_FINI(l, LINK_MAGIC);
    mem_free(l);
}

static uint32_t silence_max_ms(const struct link *l)
{
    uint32_t beat = MAX_OF(l->bus->options.heartbeat_ms, MIN_OF(l->theirs.heartbeat_ms, 60000u));

    return beat * (l->channel == BUS_CONTROL ? CONTROL_SILENT : DATA_SILENT);
}

static uint32_t half_beat_ms(const struct link *l)
{
    return MAX_OF(l->bus->options.heartbeat_ms / 2, 1u);
}

/* Why it went, of a connection's closing reason. */
static enum bus_down down_of(int reason)
{
    return reason == ERR_TIMEOUT ? BUS_DOWN_TIMEOUT : BUS_DOWN_CLOSED;
}

static void dial_later(struct link *l, enum bus_down why)
{
    uint32_t delay = l->backoff_ms;
    uint8_t jitter;

    rand_secure(&jitter, 1);
    if (l->resting)
        delay = BACKOFF_IDLE_MS;
    else if (why == BUS_DOWN_REJECTED)
        delay = BACKOFF_REFUSED_MS;
    else if (l->was_up)
        delay = 0; /* at once; those after it wait */
    l->backoff_ms = l->was_up ? BACKOFF_FIRST_MS : MIN_OF(MAX_OF(l->backoff_ms * 2, (uint32_t)BACKOFF_FIRST_MS), (uint32_t)BACKOFF_MAX_MS);
    delay += delay * jitter / 1024;
    io_timer_start(l->worker, &l->timer, delay, 0);
}

static void stop_connection(struct link *l, enum bus_down why)
{
    struct conn *c = l->conn;

    mutex_lock(&l->lock);
    l->up = false;
    mutex_unlock(&l->lock);
    if (l->connecting != NULL)
        conn_connect_cancel(l->connecting);
    l->connecting = NULL;
    if (c != NULL) {
        l->conn = NULL;
        c->session = NULL;
        if (why == BUS_DOWN_REJECTED)
            conn_close_soon(c, ERR_CLOSED); /* it is to read why */
        else
            conn_abort(c, ERR_CLOSED);
    }
    io_timer_stop(l->worker, &l->timer);
    flow_reset(l);
    calls_fail_link(l->bus, l, l->bus->closing ? ERR_CANCELLED : ERR_CLOSED);
}

static void leave(struct link *l)
{
    l->state = LINK_GONE;
    list_remove(&l->node);
    link_unref(l);
}

void link_end(struct link *l, enum bus_down why, const char *reason)
{
    CHECK(!l->loopback);
    if (l->state == LINK_IDLE || l->state == LINK_GONE)
        return;
    l->was_up = l->state == LINK_UP;
    stop_connection(l, why);
    if (!l->dialled) {
        leave(l);
        return;
    }
    l->state = LINK_IDLE;
    if (l->was_up)
        atomic_fetch_add_explicit(&l->reconnects, 1, memory_order_relaxed);
    dial_later(l, why);
    peer_tell(l, EVENT_DOWN, why, reason);
}

void link_remove(struct link *l)
{
    if (l->state == LINK_GONE)
        return;
    stop_connection(l, BUS_DOWN_CLOSED);
    leave(l);
}

void link_rest(struct link *l)
{
    l->resting = true;
    if (l->state != LINK_IDLE && l->state != LINK_GONE)
        link_end(l, BUS_DOWN_CLOSED, "");
    else if (l->state == LINK_IDLE)
        dial_later(l, BUS_DOWN_CLOSED);
}

/* ---- refusing ---- */

static void say_refused(const struct link *l, const char *who, const char *reason, bool by_peer)
{
    if (l->dialled)
        return; /* the peer's own record tells once, peer.c */
    if (by_peer)
        DIAG_EVERY(DIAG_WARN, "a node refused us", "peer=%s reason=\"%s\"", who, reason);
    else
        DIAG_EVERY(DIAG_WARN, "refused a node", "peer=%s reason=\"%s\"", who, reason);
}

static void refuse(struct link *l, enum bus_refusal code)
{
    uint8_t text[1] = {(uint8_t)code};
    char who[128] = "?";

    conn_peer_text(l->conn, who, sizeof(who));
    if (code != REFUSAL_OURSELVES)
        say_refused(l, who, refusal_text(code), false);
    /* A stranger who does not even speak the protocol gets no answer to amplify. */
    if (code != REFUSAL_MALFORMED)
        frame_put(conn_out(l->conn), FRAME_REFUSED, 0, 0, slice_of(text, sizeof(text)));
    link_end(l, BUS_DOWN_REJECTED, refusal_text(code));
}

static void take_refusal(struct link *l, struct slice payload)
{
    unsigned code = payload.len >= 1 ? payload.data[0] : 0;
    char who[128] = "?";

    conn_peer_text(l->conn, who, sizeof(who));
    if (code != REFUSAL_OURSELVES)
        say_refused(l, who, refusal_text(code), true);
    link_end(l, BUS_DOWN_REJECTED, refusal_text(code));
}

/* ---- the handshake ---- */

static void build_hello(struct link *l)
{
    bus_identity(l->bus, l->channel, &l->mine);
    rand_secure(l->mine.nonce, sizeof(l->mine.nonce));
    buf_clear(&l->my_hello);
    hello_put(&l->my_hello, &l->mine);
}

static void say_hello(struct link *l)
{
    frame_put(conn_out(l->conn), FRAME_HELLO, 0, 0, buf_slice(&l->my_hello));
}

static void say_proof(struct link *l)
{
    uint8_t proof[PROOF_SIZE];

    hello_proof(l->bus->secret, !l->dialled, buf_slice(l->dialled ? &l->my_hello : &l->their_hello), buf_slice(l->dialled ? &l->their_hello : &l->my_hello), proof);
    frame_put(conn_out(l->conn), FRAME_PROOF, 0, 0, slice_of(proof, sizeof(proof)));
}

static bool proof_is_right(struct link *l, struct slice theirs)
{
    uint8_t proof[PROOF_SIZE];

    hello_proof(l->bus->secret, l->dialled, buf_slice(l->dialled ? &l->my_hello : &l->their_hello), buf_slice(l->dialled ? &l->their_hello : &l->my_hello), proof);
    return proof_equal(proof, theirs);
}

/* Two processes with one identity would vote twice: whoever is here already stays. One that died has closed its connections, or they are silent and end soon. */
static bool is_copy(const struct link *l)
{
    LIST_FOREACH (n, &l->bus->links[l->channel]) {
        const struct link *o = LIST_ENTRY(n, struct link, node);

        if (o != l && o->state == LINK_UP && !o->loopback && memcmp(o->theirs.uuid, l->theirs.uuid, sizeof(o->theirs.uuid)) == 0 && o->theirs.process != l->theirs.process)
            return true;
    }
    return false;
}

static enum bus_refusal judge(struct link *l)
{
    enum bus_refusal code = hello_judge(&l->mine, &l->theirs);

    if (code == REFUSAL_NONE && peers_id_taken(l->bus, &l->theirs))
        code = REFUSAL_DISK;
    if (code == REFUSAL_NONE && peers_knows_newer(l->bus, &l->theirs))
        code = REFUSAL_OLD;
    if (code == REFUSAL_NONE && is_copy(l))
        code = REFUSAL_COPY;
    return code;
}

static void go_up(struct link *l)
{
    l->state = LINK_UP;
    l->who.node_id = l->theirs.node_id;
    l->who.node_epoch = l->theirs.node_epoch;
    memcpy(l->who.uuid, l->theirs.uuid, sizeof(l->who.uuid));
    if (l->theirs.address[0] != '\0')
        snprintf(l->who_address, sizeof(l->who_address), "%s", l->theirs.address);
    else if (l->dialled)
        snprintf(l->who_address, sizeof(l->who_address), "%s", l->dial_address);
    else
        conn_peer_text(l->conn, l->who_address, sizeof(l->who_address));
    l->backoff_ms = 0;
    l->beat_us = worker_now_us(l->worker);
    l->half_beat = l->pinged = l->silent = false;
    l->doubts = 0;
    mutex_lock(&l->lock);
    l->up = true;
    l->up_node = l->theirs.node_id;
    l->up_wall_ms = clock_wall_ms();
    mutex_unlock(&l->lock);
    io_timer_start(l->worker, &l->timer, half_beat_ms(l), half_beat_ms(l));
    if (l->dialled)
        peer_tell(l, EVENT_UP, BUS_DOWN_CLOSED, "");
}

/* The hello named the data channel: the socket changes hands. Nothing but the hello can have been read, as the peer waits for ours. */
struct move {
    struct mail mail;
    struct link *link;
    int fd;
};

static void arrive(struct worker *w, struct mail *m)
{
    struct move *v = CONTAINER_OF(m, struct move, mail);
    struct link *l = v->link;
    int fd = v->fd;

    mem_free(v);
    if (l->bus->closing) {
        close(fd);
        l->state = LINK_GONE;
        link_unref(l);
        return;
    }
    link_ref(l);
    list_push_back(&l->bus->links[BUS_DATA], &l->node);
    if (conn_adopt(w, fd, &moved_ops, l, NULL) < 0 && l->state != LINK_GONE)
        leave(l); /* the worker stops: nobody would look after it */
    link_unref(l);
}

static void move_to_data(struct link *l)
{
    struct conn *c = l->conn;
    struct move *v;
    int fd = conn_take_socket(c);

    if (fd < 0) {
        link_end(l, BUS_DOWN_CLOSED, "");
        return;
    }
    io_timer_stop(l->worker, &l->timer);
    io_timer_init(&l->timer, timer_fired);
    list_remove(&l->node);
    l->conn = NULL;
    c->session = NULL;
    l->channel = BUS_DATA;
    l->worker = l->bus->workers[BUS_DATA];
    v = mem_alloc(sizeof(*v));
    *v = (struct move){{NULL, arrive}, l, fd};
    worker_post(l->worker, &v->mail);
}

static void answer_hello(struct link *l)
{
    enum bus_refusal code;

    build_hello(l);
    code = judge(l);
    if (code != REFUSAL_NONE) {
        refuse(l, code);
        return;
    }
    say_hello(l);
    l->state = LINK_PROOF;
}

/* 0, or <0: end the connection without an answer. */
static int take_hello(struct link *l, const struct frame *f, bool last)
{
    enum bus_refusal code;

    if (f->type != FRAME_HELLO || f->flags != 0 || f->id != 0 || !last || hello_get(f->payload, &l->theirs) < 0)
        return ERR_MALFORMED;
    buf_clear(&l->their_hello);
    buf_put_slice(&l->their_hello, f->payload);
    if (!l->dialled) {
        if (l->theirs.channel == BUS_DATA)
            move_to_data(l);
        else
            answer_hello(l);
        return 0;
    }
    code = judge(l);
    if (code != REFUSAL_NONE) {
        refuse(l, code);
        return 0;
    }
    say_proof(l);
    l->state = LINK_PROOF;
    return 0;
}

static int take_proof(struct link *l, const struct frame *f)
{
    if (f->type != FRAME_PROOF || f->flags != 0 || f->id != 0 || f->payload.len != PROOF_SIZE)
        return ERR_MALFORMED;
    if (!proof_is_right(l, f->payload)) {
        refuse(l, REFUSAL_SECRET);
        return 0;
    }
    if (!l->dialled)
        say_proof(l);
    go_up(l);
    return 0;
}

static int take_handshake(struct link *l, const struct frame *f, bool last)
{
    if (f->type == FRAME_REFUSED) {
        take_refusal(l, f->payload);
        return 0;
    }
    return l->state == LINK_HELLO ? take_hello(l, f, last) : take_proof(l, f);
}

/* ---- the connection's callbacks ---- */

static int open_accepted(struct conn *c)
{
    struct bus *b = conn_listener_arg(c);
    struct link *l;

    MAGIC_CHECK(b, BUS_MAGIC);
    if (b->closing)
        return ERR_CLOSED;
    l = link_new(b, BUS_CONTROL);
    l->state = LINK_HELLO;
    l->conn = c;
    c->session = l;
    list_push_back(&b->links[BUS_CONTROL], &l->node);
    io_timer_start(l->worker, &l->timer, HANDSHAKE_MS, 0);
    return 0;
}

static int open_moved(struct conn *c)
{
    struct link *l = conn_listener_arg(c);

    MAGIC_CHECK(l, LINK_MAGIC);
    l->conn = c;
    c->session = l;
    io_timer_start(l->worker, &l->timer, HANDSHAKE_MS, 0);
    answer_hello(l);
    return 0;
}

static int open_dialled(struct conn *c)
{
    struct link *l = conn_listener_arg(c);

    MAGIC_CHECK(l, LINK_MAGIC);
    l->connecting = NULL;
    l->conn = c;
    l->state = LINK_HELLO;
    c->session = l;
    io_timer_start(l->worker, &l->timer, HANDSHAKE_MS, 0);
    build_hello(l);
    say_hello(l);
    return 0;
}

static int take_frame(struct link *l, struct frame *f, bool last)
{
    int err = 0;

    if (l->state != LINK_UP)
        return take_handshake(l, f, last);
    if (f->type == FRAME_REFUSED) { /* it learned meanwhile who we are, or who we should be */
        take_refusal(l, f->payload);
        return 0;
    }
    atomic_fetch_add_explicit(&l->frames_in, 1, memory_order_relaxed);
    if ((f->flags & FRAME_LZ4) != 0)
        err = l->channel == BUS_DATA ? flow_unpack(l->bus, l->channel, f) : ERR_MALFORMED;
    if (err == 0 && !link_dispatch(l, f))
        err = ERR_MALFORMED;
    return err;
}

static void bad_input(struct link *l, int err)
{
    char who[128] = "?";

    conn_peer_text(l->conn, who, sizeof(who));
    if (l->state == LINK_UP) {
        DIAG_EVERY(DIAG_ERROR, "a connection between nodes carried what is no frame and was closed", "peer=%s node=%u error=%s", who, l->who.node_id, err_name(err));
        link_end(l, BUS_DOWN_CLOSED, "");
    } else {
        refuse(l, REFUSAL_MALFORMED);
    }
}

static ssize_t input(struct conn *c, const uint8_t *data, size_t len)
{
    struct link *l = c->session;
    size_t pos = 0;

    if (l == NULL)
        return (ssize_t)len;
    MAGIC_CHECK(l, LINK_MAGIC);
    link_ref(l);
    while (l->conn == c && pos < len) {
        size_t used = 0, max = l->state != LINK_UP ? (size_t)HELLO_FRAME_MAX : l->channel == BUS_CONTROL ? (size_t)CONTROL_FRAME_MAX : (size_t)DATA_FRAME_MAX;
        struct frame f;
        int err = frame_decode(data + pos, len - pos, max, &f, &used);

        if (err == ERR_MORE) {
            conn_want_input(c, used);
            break;
        }
        if (err == 0) {
            pos += used;
            err = take_frame(l, &f, pos == len);
        }
        if (err < 0 && l->conn == c)
            bad_input(l, err);
    }
    atomic_fetch_add_explicit(&l->bytes_in, pos, memory_order_relaxed);
    link_unref(l);
    return (ssize_t)pos;
}

static void writable(struct conn *c)
{
    struct link *l = c->session;

    if (l != NULL)
        flow_continue(l);
}

static void closed(struct conn *c, int reason)
{
    struct link *l = c->session;

    if (l == NULL)
        return;
    c->session = NULL;
    l->conn = NULL;
    link_end(l, down_of(reason), "");
}

#define LINK_OPS(opener, name_, max)                                                                                                                     \
    {                                                                                                                                                    \
        .protocol = CONN_BUS, .name = name_, .open = opener, .input = input, .writable = writable, .closed = closed, .input_max = max,                   \
        .output_soft_max = OUTPUT_SOFT_MAX, .output_hard_max = CONTROL_OUT_MAX                                                                           \
    }
const struct conn_ops link_accept_ops = LINK_OPS(open_accepted, "bus", CONTROL_FRAME_MAX);
static const struct conn_ops moved_ops = LINK_OPS(open_moved, "bus-data", DATA_FRAME_MAX);
static const struct conn_ops dial_ops[BUS_CHANNELS] = {LINK_OPS(open_dialled, "bus", CONTROL_FRAME_MAX), LINK_OPS(open_dialled, "bus-data", DATA_FRAME_MAX)};

/* ---- dialling, heartbeats ---- */

static void dial_failed(void *arg, int sys_errno)
{
    struct link *l = arg;

    MAGIC_CHECK(l, LINK_MAGIC);
    l->connecting = NULL;
    link_end(l, sys_errno == ECONNREFUSED ? BUS_DOWN_REFUSED : sys_errno == ETIMEDOUT ? BUS_DOWN_TIMEOUT : BUS_DOWN_UNREACHABLE, "");
}

void link_dial(struct link *l)
{
    char address[sizeof(l->dial_address)];
    struct connect_options o = {.address = address,
                                .timeout_ms = CONNECT_MS,
                                .user_timeout_ms = l->channel == BUS_CONTROL ? CONTROL_USER_TIMEOUT_MS : DATA_USER_TIMEOUT_MS,
                                .ops = &dial_ops[l->channel],
                                .arg = l,
                                .failed = dial_failed};

    CHECK(l->state == LINK_IDLE && l->dialled);
    mutex_lock(&l->lock);
    memcpy(address, l->dial_address, sizeof(address));
    mutex_unlock(&l->lock);
    l->state = LINK_CONNECT;
    l->connecting = conn_connect(l->worker, &o);
}

/* A worker that was late itself (a stopped process) reads before it judges. */
static bool peer_is_silent(const struct link *l, uint64_t now)
{
    return now - l->conn->last_input_us > silence_max_ms(l) * 1000ull;
}

#define DOUBT_BEATS 2

/* Between two beats: an answer to the last ping would have come long ago. */
static void look_for_pong(struct link *l)
{
    if (!l->pinged || l->silent || l->channel != BUS_CONTROL)
        return;
    l->silent = true;
    peer_tell(l, EVENT_SILENT, BUS_DOWN_CLOSED, "");
}

static void beat(struct link *l)
{
    uint64_t now = worker_now_us(l->worker);
    bool late = now - l->beat_us > l->bus->options.heartbeat_ms * 1500ull;
    uint8_t text[8];

    l->beat_us = now;
    if (!late && peer_is_silent(l, now)) {
        link_end(l, BUS_DOWN_TIMEOUT, "");
        return;
    }
    if (l->doubts > 0 && --l->doubts == 0 && peers_knows_newer(l->bus, &l->theirs)) {
        refuse(l, REFUSAL_OLD);
        return;
    }
    if (!l->dialled)
        return;
    l->pinged = true;
    be64_put(text, clock_mono_us());
    frame_put(conn_out(l->conn), l->channel == BUS_CONTROL ? BUS_PING : BUS_DATA_PING, 0, 0, slice_of(text, sizeof(text)));
}

static void timer_fired(struct worker *w, struct io_timer *t)
{
    struct link *l = CONTAINER_OF(t, struct link, timer);

    (void)w;
    switch (l->state) {
    case LINK_IDLE:
        link_dial(l);
        break;
    case LINK_HELLO:
    case LINK_PROOF:
        link_end(l, BUS_DOWN_TIMEOUT, "");
        break;
    case LINK_UP:
        l->half_beat = !l->half_beat;
        if (l->half_beat)
            look_for_pong(l);
        else
            beat(l);
        break;
    case LINK_CONNECT:
    case LINK_GONE:
        break;
    }
}

/* ---- what arrives on a link that is up ---- */

void link_say_identity(struct link *l)
{
    struct buf text = {0};

    if (l->state != LINK_UP || l->loopback)
        return;
    bus_identity(l->bus, l->channel, &l->mine);
    hello_put(&text, &l->mine);
    frame_put(conn_out(l->conn), l->channel == BUS_CONTROL ? BUS_IDENTITY : BUS_DATA_IDENTITY, 0, 0, buf_slice(&text));
    buf_fini(&text);
}

void link_judge_again(struct link *l)
{
    /* A node that has just registered says its new epoch on each connection itself, but the topology may be here first. */
    if (l->state == LINK_UP && !l->loopback && l->doubts == 0 && peers_knows_newer(l->bus, &l->theirs))
        l->doubts = DOUBT_BEATS;
}

/* The peer learned its id, or belongs to a cluster now. */
static bool take_identity(struct link *l, struct slice payload)
{
    enum bus_refusal code;

    if (hello_get(payload, &l->theirs) < 0)
        return false;
    bus_identity(l->bus, l->channel, &l->mine);
    code = judge(l);
    if (code != REFUSAL_NONE) {
        refuse(l, code);
        return true;
    }
    l->who.node_id = l->theirs.node_id;
    l->who.node_epoch = l->theirs.node_epoch;
    mutex_lock(&l->lock);
    l->up_node = l->theirs.node_id;
    mutex_unlock(&l->lock);
    if (l->dialled)
        peer_tell(l, EVENT_IDENTITY, BUS_DOWN_CLOSED, "");
    return true;
}

static bool take_ping(struct link *l, const struct frame *f, enum bus_type answer)
{
    if (f->payload.len != 8 || f->flags != 0 || l->dialled)
        return false;
    frame_put(conn_out(l->conn), (uint16_t)answer, 0, 0, f->payload);
    return true;
}

static bool take_pong(struct link *l, const struct frame *f)
{
    uint64_t now = clock_mono_us(), sent;

    if (f->payload.len != 8 || f->flags != 0 || !l->dialled)
        return false;
    sent = be64_get(f->payload.data);
    if (sent > now)
        return false;
    l->pinged = false;
    if (l->silent)
        peer_tell(l, EVENT_HEARD, BUS_DOWN_CLOSED, "");
    l->silent = false;
    atomic_store_explicit(&l->round_trip_us, (uint32_t)MIN_OF(now - sent, (uint64_t)UINT32_MAX), memory_order_relaxed);
    return true;
}

static int error_of_name(struct slice name)
{
    for (int err = ERR__FIRST + 1; err < ERR__END; err++) {
        if (slice_eq(name, slice_str(err_name(err))))
            return err;
    }
    return ERR_IO;
}

static bool take_reply(struct link *l, const struct frame *f)
{
    struct slice payload = f->payload;
    int err = 0;

    if (!l->dialled || f->id == 0)
        return false;
    if ((f->flags & FRAME_ERROR) != 0) {
        struct reader r = reader_of(payload);

        err = error_of_name(reader_lslice(&r));
        if (r.bad)
            return false;
        payload = slice_of(r.p, reader_left(&r));
    }
    calls_complete(l->bus, l, f->id, err, payload);
    return true;
}

static struct bus_request *new_request(struct link *l, const struct frame *f)
{
    struct bus_request *r = NULL;
    struct list *n;

    mutex_lock(&l->lock);
    n = list_pop_front(&l->requests_free);
    if (n != NULL) {
        r = LIST_ENTRY(n, struct bus_request, node);
        l->requests_free_count--;
    } else {
        r = mem_zalloc(sizeof(*r));
    }
    *r = (struct bus_request){.link = link_ref(l), .id = f->id, .type = f->type};
    list_push_back(&l->requests, &r->node);
    mutex_unlock(&l->lock);
    return r;
}

void requests_drop(struct link *l)
{
    struct list *n;

    link_ref(l);
    while ((n = list_pop_front(&l->requests)) != NULL) {
        mem_free(LIST_ENTRY(n, struct bus_request, node));
        link_unref(l);
    }
    link_unref(l);
}

static bool take_message(struct link *l, const struct frame *f)
{
    struct bus *b = l->bus;
    struct bus_request *r;

    if (l->dialled || (f->flags & FRAME_ERROR) != 0)
        return false;
    r = f->id != 0 ? new_request(l, f) : NULL;
    if (b->handlers[f->type].fn != NULL) {
        b->handlers[f->type].fn(b->handlers[f->type].arg, &l->who, r, f->payload);
    } else {
        DIAG_EVERY(DIAG_WARN, "a node sent what nobody here handles", "node=%u type=%s", l->who.node_id, bus_type_name(f->type));
        if (r != NULL)
            bus_reply(b, r, ERR_UNSUPPORTED, SLICE_LIT("this node does not handle it"));
    }
    return true;
}

bool link_dispatch(struct link *l, const struct frame *f)
{
    const struct bus_row *row = bus_row(f->type);

    if (!row->known || row->channel != l->channel)
        return false;
    if ((f->flags & FRAME_CHUNK) != 0)
        return l->channel == BUS_DATA && !l->loopback && flow_take_chunk(l, f) == 0;
    switch (f->type) {
    case BUS_PING:
        return take_ping(l, f, BUS_PONG);
    case BUS_DATA_PING:
        return take_ping(l, f, BUS_DATA_PONG);
    case BUS_PONG:
    case BUS_DATA_PONG:
        return take_pong(l, f);
    case BUS_CREDIT:
        return flow_take_credit(l, f->payload) == 0;
    case BUS_IDENTITY:
    case BUS_DATA_IDENTITY:
        return take_identity(l, f->payload);
    default:
        return (f->flags & FRAME_REPLY) != 0 ? take_reply(l, f) : take_message(l, f);
    }
}
