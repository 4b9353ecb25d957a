/* Sessions: bytes in, batches of commands to the executor, and what pauses and resumes that. */
#include "protocols/resp/session.h"

#include <stdio.h>

#include "base/diag.h"
#include "io/listener.h"
#include "base/err.h"
#include "base/mem.h"
#include "config/config.h"
#include "protocols/resp/blocked.h"
#include "protocols/resp/cluster.h"
#include "protocols/resp/keys.h"
#include "protocols/resp/pubsub.h"
#include "protocols/resp/run.h"
#include "protocols/resp/transaction.h"
#include "protocols/resp/wait.h"

static ssize_t session_input(struct conn *c, const uint8_t *data, size_t len);

const char resp_refuse_text[] = "-ERR max number of clients reached\r\n";

struct session *session_find(struct resp_worker *w, uint64_t conn_id)
{
    struct conn *c = worker_find_conn(w->worker, conn_id);

    return c == NULL || conn_closing(c) || c->ops->input != session_input ? NULL : c->session;
}

/* ---- pausing ---- */

static void park_retry(struct worker *worker, struct partition_park *park)
{
    struct session *s = CONTAINER_OF(park, struct session, park);

    (void)worker;
    s->parked = false;
    conn_resume_input(s->c);
}

void session_block(struct session *s)
{
    CHECK(!s->waiting);
    s->waiting = true;
    conn_pause_input(s->c);
}

void session_unblock(struct session *s)
{
    CHECK(s->waiting);
    s->waiting = false;
    conn_resume_input(s->c);
}

/* ---- opening and closing ---- */

static int session_open(struct conn *c)
{
    struct resp_front *f = conn_listener_arg(c);
    struct resp_worker *w = &f->workers[worker_index(c->worker)];
    struct session *s = mem_zalloc(sizeof(*s));

    s->c = c;
    s->w = w;
    s->proto = 2;
    s->ctl = c->ops == &f->ctl_ops;
    s->authenticated = true; /* the user "default" has no password */
    s->park.worker = c->worker;
    s->park.retry = park_retry;
    list_init(&s->subscriptions);
    c->session = s;
    __atomic_store_n(&w->connections_now, w->connections_now + 1, __ATOMIC_RELAXED);
    __atomic_store_n(&w->connections_total, w->connections_total + 1, __ATOMIC_RELAXED);
    return 0;
}

static void session_closed(struct conn *c, int reason)
{
    struct session *s = c->session;
    struct resp_worker *w = s->w;

    (void)reason;
    if (s->parked)
        partition_park_cancel(&s->park);
    cluster_retry_free(s);
    wait_forget(s);
    blocked_abandon(s);
    keys_abandon(s);
    transaction_drop(s);
    pubsub_drop(s);
    mem_free(s->name);
    mem_free(s->lib_name);
    mem_free(s->lib_ver);
    mem_free(s->user);
    c->session = NULL;
    __atomic_store_n(&w->connections_now, w->connections_now - 1, __ATOMIC_RELAXED);
    mem_free(s);
}

/* The client went while its input is paused. Commands that only wait for a partition's lock, or their turn, are
 * executed first, as those are that wait for nothing: who pipes commands and leaves finds them done. Who is blocked,
 * or does not read its replies, ends. */
static void session_hangup(struct conn *c)
{
    struct session *s = c->session;

    if ((s->parked && !s->waiting && !s->full) || s->keys != NULL)
        return;
    conn_abort(c, ERR_CLOSED);
}

static void session_writable(struct conn *c)
{
    struct session *s = c->session;

    if (s->full) {
        s->full = false;
        conn_resume_input(c);
    }
}

static void session_tick(struct conn *c, uint64_t now_us)
{
    struct session *s = c->session;
    const struct config *cfg = s->w->front->o.config;
    int64_t timeout_ms = cfg == NULL ? 0 : CONFIG_GET(cfg, resp_idle_timeout_ms);

    if (timeout_ms > 0 && !s->waiting && !s->ctl && !session_is_subscribed(s) &&
        now_us > c->last_input_us + (uint64_t)timeout_ms * 1000)
        conn_close_soon(c, ERR_TIMEOUT);
}

/* ---- input ---- */

static void log_protocol_error(struct conn *c, const char *what)
{
    char peer[128];

    conn_peer_text(c, peer, sizeof(peer));
    DIAG_EVERY(DIAG_WARN, "resp: client closed", "client=%s reason=\"%s\"", peer, what);
}

/* What came is not RESP: says what it seems to be, if anything can be said. True: the connection ends. */
static bool refuse_stranger(struct session *s, const uint8_t *data, size_t len)
{
    struct reply r = session_reply(s);

    switch (request_stranger(data, len)) {
    case STRANGER_NONE:
        return false;
    case STRANGER_TLS:
        log_protocol_error(s->c, "a TLS handshake on a port without TLS");
        reply_error(&r, "ERR Protocol error: this port speaks RESP without TLS");
        break;
    case STRANGER_AMQP:
        log_protocol_error(s->c, "AMQP on the port of RESP");
        reply_error(&r, "ERR Protocol error: this port speaks RESP, not AMQP; see amqp.listen");
        break;
    case STRANGER_KAFKA:
        log_protocol_error(s->c, "Kafka on the port of RESP");
        reply_error(&r, "ERR Protocol error: this port speaks RESP, not Kafka; see kafka.listen");
        break;
    }
    conn_close_soon(s->c, ERR_MALFORMED);
    return true;
}

/* A browser, or a page that makes one talk to us: nothing of it may be executed (Redis'
 * securityWarningCommand). */
static bool is_http(const struct request *q)
{
    return q->argc > 0 && (slice_ieq(q->argv[0], "post") || slice_ieq(q->argv[0], "host:"));
}

/* Runs one request of the slow path. False: stop reading. */
static bool run_slow(struct session *s, const struct request *q, enum exec_outcome *outcome)
{
    if (q->argc == 0)
        return true;
    if (is_http(q)) {
        log_protocol_error(s->c, "HTTP on the port of RESP");
        conn_close_soon(s->c, ERR_MALFORMED);
        return false;
    }
    *outcome = run_one(s, q, command_resolve(q->argv, q->argc));
    return *outcome != EXEC_PARKED;
}

static ssize_t read_commands(struct session *s, const uint8_t *data, size_t len)
{
    struct resp_worker *w = s->w;
    struct conn *c = s->c;
    const struct config *cfg = w->front->o.config;
    struct request_limits limits;
    enum exec_outcome outcome = EXEC_DONE;
    size_t at = 0;

    limits.bulk_max = cfg != NULL ? (uint64_t)CONFIG_GET(cfg, resp_max_bulk_bytes) : REQUEST_BULK_MAX;
    limits.args_max = cfg != NULL ? (uint32_t)CONFIG_GET(cfg, resp_max_arguments) : REQUEST_ARGS_MAX;
    while (at < len && !conn_closing(c)) {
        struct request q;
        uint32_t n = 0, ran;
        int err;

        if (GM_UNLIKELY(conn_output_full(c))) {
            if (!s->full) {
                s->full = true;
                conn_pause_input(c);
            }
            break;
        }
        if (GM_LIKELY(s->scan.at == 0 && s->authenticated))
            n = request_parse_fast(w->parser, data + at, len - at, w->batch);
        if (GM_LIKELY(n > 0)) {
            ran = run_batch(s, w->batch, n, &outcome);
            for (uint32_t i = 0; i < ran; i++)
                at += w->batch[i].size;
            if (outcome != EXEC_DONE)
                break;
            continue;
        }
        limits.unauthenticated = !s->authenticated;
        if (at == 0 && s->scan.at == 0 && refuse_stranger(s, data, len))
            return (ssize_t)len;
        err = request_parse_slow(w->parser, &s->scan, &limits, data + at, len - at, &q);
        if (err == ERR_MORE)
            break;
        if (err < 0) {
            struct reply r = session_reply(s);

            log_protocol_error(c, request_error(w->parser));
            reply_errorf(&r, "ERR %s", request_error(w->parser));
            session_count_error(w, (const uint8_t *)"ERR ", 4);
            conn_close_soon(c, ERR_MALFORMED);
            return (ssize_t)len;
        }
        if (run_slow(s, &q, &outcome))
            at += q.size;
        request_parser_trim(w->parser, q.size);
        if (outcome != EXEC_DONE)
            break;
    }
    if (outcome == EXEC_PARKED) {
        s->parked = true;
        metrics_add(METRIC_COMMANDS_PARKED, 1);
        conn_pause_input(c);
    }
    return (ssize_t)at;
}

/* P6 over connections: the bucket of the first command's key, then its entry. What follows in a pipeline is
 * fetched by run_batch. */
static void session_foresee(struct conn *c, const uint8_t *data, size_t len, enum conn_foresight which)
{
    struct session *s = c->session;
    struct partitions *ps = s->w->front->o.partitions;
    struct partition *p;
    struct kv *kv;

    if (which == FORESEE_FIRST && request_peek_key(data, len, &s->foreseen)) {
        s->foreseen_index = placement_of_key(s->foreseen, partitions_count(ps));
        s->foreseen_hash = kv_key_hash(s->foreseen);
    }
    if (s->foreseen.data == NULL)
        return;
    p = partitions_get(ps, s->foreseen_index);
    kv = partition_peek(p);
    if (kv == NULL)
        return;
    if (which == FORESEE_FIRST)
        kv_prefetch_bucket(kv, s->db, s->foreseen_hash);
    else
        kv_prefetch_entry(kv, s->db, s->foreseen_hash);
    partition_unpeek(p);
}

static ssize_t session_input(struct conn *c, const uint8_t *data, size_t len)
{
    struct session *s = c->session;
    struct resp_worker *w = s->w;
    ssize_t n;

    worker_note_reply(c->worker);
    if (GM_UNLIKELY(hold_wanted(w->front)))
        hold_begin(s);
    n = read_commands(s, data, len);
    s->foreseen = SLICE_NONE;
    if (GM_UNLIKELY(w->hold != NULL))
        hold_arm(w);
    return n;
}

void session_ops_init(struct conn_ops *ops)
{
    *ops = (struct conn_ops){
        .protocol = CONN_RESP,
        .name = "resp",
        .open = session_open,
        .input = session_input,
        .foresee = session_foresee,
        .hangup = session_hangup,
        .writable = session_writable,
        .tick = session_tick,
        .closed = session_closed,
        .input_max =
            (1ull << 30) + (64u << 20), /* one command in all; resp.max_bulk_bytes bounds each string in it */
    };
}
