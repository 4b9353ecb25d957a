/* A connection from its first byte to its end: header, frames, waiting, heartbeats, teardown. What methods do
 * stands in the handlers' files. */
#include "protocols/amqp/session.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/mem.h"
#include "protocols/amqp/batch.h"
#include "protocols/amqp/content.h"
#include "protocols/amqp/remote.h"

#define CLOSE_WAIT_US 5000000 /* for close-ok */

int amqp_session_open(struct conn *c)
{
    struct amqp_front *f = conn_listener_arg(c);
    struct amqp_session *s = mem_zalloc(sizeof(*s));

    MAGIC_CHECK(f, AMQP_FRONT_MAGIC);
    MAGIC_INIT(s, AMQP_SESSION_MAGIC);
    s->front = f;
    s->aw = &f->workers[worker_index(c->worker)];
    s->conn = c;
    s->conn_id = c->id;
    s->frame_max = AMQP_LIMIT(s, frame_max);
    s->channel_max = AMQP_LIMIT(s, channel_max);
    list_init(&s->rounds);
    c->session = s;
    amqp_count(&s->aw->count.connections, 1);
    return 0;
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

void amqp_session_park(struct amqp_session *s)
{
    if (s->parked)
        return;
    s->parked = true;
    if (s->conn != NULL)
        conn_pause_input(s->conn);
}

static void session_free(struct amqp_session *s)
{
    CHECK(s->conn == NULL && s->channel_count == 0 && s->batch == NULL && list_empty(&s->rounds));
    amqp_session_wait_drop(s);
    mem_free((void *)s->user.data);
    mem_free((void *)s->vhost.data);
    mem_free(s->channels);
    buf_fini(&s->exclusive);
    amqp_count(&s->aw->count.connections, (uint64_t)-1);
    MAGIC_FINI(s, AMQP_SESSION_MAGIC);
    mem_free(s);
}

/* Phase 7: gives everything back, as far as partitions let it, and comes again through amqp_session_continue.
 */
static void session_teardown(struct amqp_session *s)
{
    list_remove(&s->remote_full);
    if (s->wait != NULL && s->wait->asking)
        amqp_remote_forget(s);
    if (s->park_waiting || s->ending != 0 ||
        (s->wait != NULL && ((s->wait->proposed && !s->wait->answered) || s->wait->warming)))
        return;
    if (amqp_batch_flush(s) == ERR_PARKED)
        return;
    while (s->channel_count != 0) {
        struct amqp_channel *ch = s->channels[s->channel_count - 1];

        if (amqp_channel_drain(ch) == ERR_PARKED)
            return;
        amqp_channel_free(ch);
    }
    amqp_rounds_cancel(s);
    (void)amqp_exclusive_delete_all(s, false);
    session_free(s);
}

/* Takes back what ended channels hold, and every channel of a connection that ends. */
static int drain_closing(struct amqp_session *s)
{
    for (uint32_t i = 0; i < s->channel_count; i++) {
        struct amqp_channel *ch = s->channels[i];

        if (ch->drained || (ch->state == AMQP_CHANNEL_OPEN && s->state < AMQP_CLOSING))
            continue;
        if (amqp_channel_drain(ch) == ERR_PARKED)
            return ERR_PARKED;
    }
    return 0;
}

void amqp_session_continue(struct amqp_session *s)
{
    if (s->conn == NULL) {
        session_teardown(s);
        return;
    }
    if (amqp_batch_flush(s) == ERR_PARKED)
        return;
    if (drain_closing(s) == ERR_PARKED)
        return;
    if (s->parked) {
        s->parked = false;
        list_remove(&s->remote_full);
        conn_resume_input(s->conn);
    }
}

static void park_retry(struct worker *w, struct partition_park *park)
{
    struct amqp_session *s = CONTAINER_OF(park, struct amqp_session, park);

    (void)w;
    s->park_waiting = false;
    amqp_session_continue(s);
}

static inline int enter(struct amqp_session *s, uint32_t partition, bool upkeep, struct partition_guard *g)
{
    struct partition *p = partitions_get(s->front->o.partitions, partition);
    int err;

    if (s->park_waiting)
        return ERR_PARKED;
    s->park.worker = s->aw->worker;
    s->park.retry = park_retry;
    err = GM_UNLIKELY(upkeep) ? partition_enter_upkeep(p, &s->park, g) : partition_enter(p, 0, &s->park, g);
    if (err == ERR_PARKED) {
        s->park_waiting = true;
        amqp_session_park(s);
    }
    return err;
}

int amqp_session_enter(struct amqp_session *s, uint32_t partition, struct partition_guard *g)
{
    return enter(s, partition, false, g);
}

/* On a node alone this is how everybody enters: effects of a failed partition's neighbour need no other rule. */
int amqp_session_enter_upkeep(struct amqp_session *s, uint32_t partition, struct partition_guard *g)
{
    int err = enter(s, partition, s->front->o.bus != NULL, g);

    /* Its keys are being rebuilt (after a full disk, say) and it refuses commands; what ends must let go of its queues all the same, and waits for the lock. */
    if (GM_UNLIKELY(err == ERR_AGAIN)) {
        partition_enter_background(partitions_get(s->front->o.partitions, partition), 0, g);
        err = 0;
    }
    return err;
}

int amqp_session_enter_queue(struct amqp_session *s, const struct topo_queue *q, struct partition_guard *g)
{
    int err = enter(s, q->partition, q->exclusive && s->front->o.bus != NULL, g);

    return err != 0 ? err : amqp_session_await_opening(s, q->id, g);
}

int amqp_session_await_opening(struct amqp_session *s, uint64_t queue_id, struct partition_guard *g)
{
    int err;

    if (GM_LIKELY(amqp_queue_enter(s, partition_queues(g->p), queue_id, &err) != NULL || err != ERR_AGAIN))
        return 0; /* another error shows when it is entered */
    partition_park_opening(g, &s->park);
    s->park_waiting = true;
    amqp_session_park(s);
    (void)partition_leave(g);
    return ERR_PARKED;
}

struct amqp_wait *amqp_session_wait(struct amqp_session *s)
{
    if (s->wait == NULL) {
        s->wait = mem_zalloc(sizeof(*s->wait));
        s->wait->session = s;
    }
    return s->wait;
}

void amqp_session_wait_drop(struct amqp_session *s)
{
    struct amqp_wait *w = s->wait;

    if (w == NULL)
        return;
    CHECK(!(w->proposed && !w->answered) && !w->warming);
    if (w->committing)
        log_commit_cancel(&w->commit);
    CHECK(!w->asking);
    buf_fini(&w->ask_answer);
    buf_fini(&w->proposal.command);
    mem_free(w);
    s->wait = NULL;
}

const struct topology *amqp_session_view(const struct amqp_session *s)
{
    return topology_view(s->front->o.topology);
}

/* ---- errors of the connection -------------------------------------------------------------------------- */

size_t amqp_reply_text(char text[256], unsigned code, const char *fmt, va_list ap)
{
    const char *name = amqp_reply_name(code);
    char whole[1024];
    int n = snprintf(whole, sizeof(whole), "%s - ", name == NULL ? "INTERNAL_ERROR" : name);

    n += vsnprintf(whole + n, sizeof(whole) - (size_t)n, fmt, ap);
    if (n > 255) {
        memcpy(text, whole, 252);
        memcpy(text + 252, "...", 4);
        return 255;
    }
    memcpy(text, whole, (size_t)n + 1);
    return (size_t)n;
}

static void connection_close(struct amqp_session *s, unsigned code, const char *text, size_t len)
{
    struct amqp_connection_close m = {.reply_code = (uint16_t)code,
                                      .reply_text = slice_of(text, len),
                                      .class_id = (uint16_t)(s->method >> 16),
                                      .method_id = (uint16_t)s->method};

    if (s->conn == NULL || s->state >= AMQP_CLOSING)
        return;
    amqp_count(&s->aw->count.connection_errors, 1);
    amqp_stats_error(code);
    amqp_put_connection_close(conn_out(s->conn), 0, &m);
    s->state = AMQP_CLOSING;
    s->closing_since_us = worker_now_us(s->aw->worker);
    if (amqp_batch_flush(s) == 0)
        (void)drain_closing(s);
    diag_debug("amqp connection error", "conn=%llu code=%u text=\"%.*s\"", (unsigned long long)s->conn_id,
               code, (int)len, text);
}

int amqp_connection_fail(struct amqp_session *s, unsigned code, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    size_t n;

    va_start(ap, fmt);
    n = amqp_reply_text(text, code, fmt, ap);
    va_end(ap);
    connection_close(s, code, text, n);
    return 0;
}

int amqp_fail(struct amqp_channel *ch, unsigned code, const char *fmt, ...)
{
    struct amqp_session *s = ch->session;
    struct amqp_channel_close m = {.reply_code = (uint16_t)code,
                                   .class_id = (uint16_t)(s->method >> 16),
                                   .method_id = (uint16_t)s->method};
    char text[256];
    va_list ap;
    size_t n;

    va_start(ap, fmt);
    n = amqp_reply_text(text, code, fmt, ap);
    va_end(ap);
    if (amqp_reply_is_hard(code)) {
        connection_close(s, code, text, n);
        return 0;
    }
    if (s->conn == NULL || ch->state != AMQP_CHANNEL_OPEN)
        return 0;
    amqp_count(&s->aw->count.channel_errors, 1);
    amqp_stats_error(code);
    m.reply_text = slice_of(text, n);
    ch->state = AMQP_CHANNEL_CLOSING;
    amqp_content_drop(ch);
    /* What it did before the error counts; confirms that are still under way are not answered any more. */
    if (amqp_batch_flush(s) == 0)
        amqp_channel_drain(ch);
    amqp_put_channel_close(conn_out(s->conn), ch->number, &m);
    diag_debug("amqp channel error", "conn=%llu channel=%u code=%u text=\"%.*s\"",
               (unsigned long long)s->conn_id, ch->number, code, (int)n, text);
    return 0;
}

/* "<<1,2,3>>" of the first 16 octets, as RabbitMQ shows them. */
static void payload_text(char *text, size_t size, struct slice payload)
{
    size_t n = 0, shown = payload.data == NULL ? 0 : MIN_OF(payload.len, 16);

    n += (size_t)snprintf(text, size, "%s octets = <<",
                          payload.data != NULL && payload.len > 16 ? "first 16" : "all");
    for (size_t i = 0; i < shown && n + 8 < size; i++)
        n += (size_t)snprintf(text + n, size - n, i == 0 ? "%u" : ",%u", payload.data[i]);
    snprintf(text + n, size - n, ">>");
}

static int unexpected_frame(struct amqp_session *s, const struct amqp_frame *f)
{
    char text[128];

    payload_text(text, sizeof(text), f->payload);
    s->method = 0;
    return amqp_connection_fail(s, AMQP_UNEXPECTED_FRAME, "type %u, %s", f->type, text);
}

static int frame_error(struct amqp_session *s, const struct amqp_frame *f, const char *why)
{
    char text[128];

    payload_text(text, sizeof(text), f->payload);
    s->method = 0;
    return amqp_connection_fail(s, AMQP_FRAME_ERROR, "type %u, %s: %s", f->type, text, why);
}

/* ---- input --------------------------------------------------------------------------------------------- */

static struct slice server_properties(struct amqp_session *s)
{
    struct buf *out = &s->aw->scratch;

    if (s->front->o.bus == NULL)
        return buf_slice(&s->front->server_properties);
    buf_clear(out);
    buf_put_slice(out, buf_slice(&s->front->server_properties));
    amqp_put_hint(amqp_session_view(s), out);
    return buf_slice(out);
}

/* Section 4.2.2. Returns bytes consumed, 0 when more are needed. A wrong protocol is answered by what it is
 * and closed. */
static size_t protocol_header(struct amqp_session *s, const uint8_t *data, size_t len)
{
    static const uint8_t ours[8] = {'A', 'M', 'Q', 'P', 0, 0, 9, 1},
                         v09[8] = {'A', 'M', 'Q', 'P', 1, 1, 0, 9};
    static const char http[] = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: "
                               "close\r\n\r\nThis port speaks AMQP 0-9-1, not HTTP.\n";
    const char *what = "unknown";

    if (len >= 4 &&
        (memcmp(data, "GET ", 4) == 0 || memcmp(data, "POST", 4) == 0 || memcmp(data, "HEAD", 4) == 0)) {
        conn_write(s->conn, http, sizeof(http) - 1);
        what = "HTTP";
    } else if (len >= 3 && data[0] == 0x16 && data[1] == 3) {
        /* A fatal alert, protocol_version: the peer's TLS library says so. */
        static const uint8_t alert[] = {0x15, 3, 1, 0, 2, 2, 70};

        conn_write(s->conn, alert, sizeof(alert));
        what = "TLS";
    } else if (len >= 1 && (data[0] == '*' || data[0] == '$')) {
        static const char resp[] = "-ERR this port speaks AMQP 0-9-1, not RESP\r\n";

        conn_write(s->conn, resp, sizeof(resp) - 1);
        what = "RESP";
    } else if (len < 8 && memcmp(data, ours, MIN_OF(len, 4)) == 0) {
        return 0;
    } else if (memcmp(data, ours, MIN_OF(len, 8)) == 0 || memcmp(data, v09, MIN_OF(len, 8)) == 0) {
        struct amqp_connection_start m = {.version_minor = 9,
                                          .server_properties = server_properties(s),
                                          .mechanisms = SLICE_LIT("PLAIN AMQPLAIN"),
                                          .locales = SLICE_LIT("en_US")};

        amqp_put_connection_start(conn_out(s->conn), 0, &m);
        s->state = AMQP_STARTING;
        return 8;
    } else {
        /* The specification has the server name a version it speaks. */
        conn_write(s->conn, ours, sizeof(ours));
    }
    diag_info("amqp: not an AMQP 0-9-1 client", "conn=%llu speaks=%s", (unsigned long long)s->conn_id, what);
    s->state = AMQP_CLOSED;
    conn_close_soon(s->conn, ERR_UNSUPPORTED);
    return len;
}

/* In CLOSING everything but the end of the handshake is ignored (section 4.2.3). */
static int closing_frame(struct amqp_session *s, const struct amqp_frame *f)
{
    if (f->type != AMQP_FRAME_METHOD || f->channel != 0 || f->payload.len < 4)
        return 0;
    if (be32_get(f->payload.data) == AMQP_ID_connection_close)
        amqp_put_connection_close_ok(conn_out(s->conn), 0, &(struct amqp_connection_close_ok){});
    if (be32_get(f->payload.data) == AMQP_ID_connection_close ||
        be32_get(f->payload.data) == AMQP_ID_connection_close_ok) {
        s->state = AMQP_CLOSED;
        conn_close_soon(s->conn, ERR_CLOSED);
    }
    return 0;
}

static int handle_frame(struct amqp_session *s, const struct amqp_frame *f)
{
    if (GM_UNLIKELY(s->state >= AMQP_CLOSING))
        return closing_frame(s, f);
    switch (f->type) {
    case AMQP_FRAME_METHOD:
    case AMQP_FRAME_CONTENT_HEADER:
    case AMQP_FRAME_BODY:
        if (f->type == AMQP_FRAME_METHOD && f->payload.len < 4)
            return frame_error(s, f, "unknown_frame");
        if (f->channel != 0)
            return s->state == AMQP_RUNNING ? amqp_channel_frame(s, f) : unexpected_frame(s, f);
        if (f->type != AMQP_FRAME_METHOD)
            return unexpected_frame(s, f);
        return amqp_connection_method(s, be32_get(f->payload.data),
                                      slice_of(f->payload.data + 4, f->payload.len - 4));
    case AMQP_FRAME_HEARTBEAT:
        if (f->channel != 0)
            return unexpected_frame(s, f);
        return 0;
    default:
        return frame_error(s, f, "unknown_frame");
    }
}

static void broken_stream(struct amqp_session *s, const struct amqp_frame *f, int err)
{
    char why[80];

    if (err == ERR_TOO_LARGE)
        snprintf(why, sizeof(why), "{frame_too_large,%zu,%u}", f->payload.len,
                 s->frame_max - AMQP_FRAME_OVERHEAD);
    else
        snprintf(why, sizeof(why), "{invalid_frame_end_marker,%u}", f->payload.data[f->payload.len]);
    frame_error(s, f, why);
    s->broken = true;
    if (s->state == AMQP_CLOSING)
        s->closing_since_us =
            worker_now_us(s->aw->worker) - CLOSE_WAIT_US + 1000000; /* its close-ok could not be read */
}

ssize_t amqp_session_input(struct conn *c, const uint8_t *data, size_t len)
{
    struct amqp_session *s = c->session;
    uint64_t began = clock_ticks();
    size_t at = 0, out = conn_output_pending(c), pending;

    MAGIC_CHECK(s, AMQP_SESSION_MAGIC);
    if (s->state == AMQP_HEADER) {
        at = protocol_header(s, data, len);
        if (at == 0)
            return 0;
    }
    while (at < len && !s->parked && s->state != AMQP_CLOSED && !s->broken) {
        struct amqp_frame f;
        ssize_t n = amqp_frame_read(slice_of(data + at, len - at), s->frame_max, &f);

        if (n == 0)
            break;
        if (n < 0) {
            broken_stream(s, &f, (int)n);
            break;
        }
        if (handle_frame(s, &f) == AMQP_AGAIN)
            break;
        at += (size_t)n;
        pending = conn_output_pending(c); /* none when the connection was ended meanwhile */
        amqp_stats_frame(&s->aw->tally, &f, (size_t)n, pending > out ? pending - out : 0);
        out = pending;
    }
    if (s->broken || s->state == AMQP_CLOSED)
        at = len;
    amqp_batch_flush(s);
    if (GM_UNLIKELY(amqp_remote_is_full(s->aw)) && !s->parked && s->conn != NULL) {
        list_push_back(amqp_remote_full_list(s->aw), &s->remote_full);
        amqp_session_park(s);
    }
    amqp_stats_flush(&s->aw->tally, began, s->aw->count.published);
    if (s->borrowing != NULL)
        amqp_content_own(s->borrowing);
    return (ssize_t)at;
}

/* ---- once a second ------------------------------------------------------------------------------------- */

static void blocked_check(struct amqp_session *s)
{
    bool cut_off = s->front->o.bus != NULL && !partitions_lease_ok(s->front->o.partitions);
    bool full = cut_off || !log_store_may_grow(s->front->o.store);

    if (s->state != AMQP_RUNNING || !(s->capabilities & AMQP_CAP_BLOCKED) || full == s->blocked ||
        !(s->published || s->blocked))
        return;
    s->blocked = full;
    if (full)
        amqp_put_connection_blocked(conn_out(s->conn), 0,
                                    &(struct amqp_connection_blocked){cut_off ? SLICE_LIT("cut off from the cluster") : SLICE_LIT("low on disk")});
    else
        amqp_put_connection_unblocked(conn_out(s->conn), 0, &(struct amqp_connection_unblocked){});
}

void amqp_session_tick(struct conn *c, uint64_t now_us)
{
    struct amqp_session *s = c->session;

    switch (s->state) {
    case AMQP_HEADER:
    case AMQP_STARTING:
    case AMQP_TUNING:
    case AMQP_OPENING:
        if (now_us - c->opened_us > AMQP_LIMIT(s, handshake_timeout_ms) * 1000ull)
            conn_abort(c, ERR_TIMEOUT);
        return;
    case AMQP_RUNNING:
        break;
    case AMQP_CLOSING:
        if (now_us - s->closing_since_us > CLOSE_WAIT_US)
            conn_close_soon(c, ERR_TIMEOUT);
        return;
    case AMQP_CLOSED:
        return;
    }
    blocked_check(s);
    if (s->heartbeat_s == 0)
        return;
    /* Half the interval without a byte sent: a heartbeat. Two whole ones without a byte received: the peer is
     * gone. */
    if (c->bytes_out != s->last_sent_bytes) {
        s->last_sent_bytes = c->bytes_out;
        s->last_sent_us = now_us;
    } else if (now_us - s->last_sent_us >= s->heartbeat_s * 500000ull && conn_output_pending(c) == 0) {
        amqp_put_heartbeat(conn_out(c));
        s->last_sent_us = now_us;
    }
    if (!s->parked && now_us > c->last_input_us && now_us - c->last_input_us > s->heartbeat_s * 2000000ull) {
        diag_info("amqp: missed heartbeats from client", "conn=%llu heartbeat_s=%u",
                  (unsigned long long)s->conn_id, s->heartbeat_s);
        conn_abort(c, ERR_TIMEOUT);
    }
}

void amqp_session_writable(struct conn *c)
{
    struct amqp_session *s = c->session;

    for (uint32_t i = 0; i < s->channel_count; i++) {
        LIST_FOREACH (n, &s->channels[i]->consumers) {
            struct amqp_consumer *consumer = LIST_ENTRY(n, struct amqp_consumer, node);

            if (consumer->full)
                amqp_consumer_ready(consumer);
        }
    }
}

void amqp_session_closed(struct conn *c, int reason)
{
    struct amqp_session *s = c->session;

    (void)reason;
    MAGIC_CHECK(s, AMQP_SESSION_MAGIC);
    c->session = NULL;
    s->conn = NULL;
    s->state = AMQP_CLOSED;
    session_teardown(s);
}
