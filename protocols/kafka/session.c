/* Sessions: bytes into requests, requests to handlers, and the three ways of answering (session.h). */
#include "protocols/kafka/session.h"

#include <stdio.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "io/listener.h"

/* ---- replies ------------------------------------------------------------------------------------------ */

void kafka_frame_begin(struct kafka_reply *r, const struct kafka_request *rq, struct buf *b)
{
    r->at = b->len;
    buf_put_be32(b, 0);
    buf_put_be32(b, (uint32_t)rq->correlation);
    if (rq->flexible && rq->api->key != KAFKA_API_API_VERSIONS)
        buf_put_u8(b, 0);
    kout_init(&r->out, rq->api->response, rq->version, b);
}

void kafka_frame_end(struct kafka_reply *r)
{
    struct buf *b = r->out.b;

    kout_end(&r->out);
    be32_put(b->data + r->at, (uint32_t)(b->len - r->at - 4));
}

struct kout *kafka_reply_begin(struct kafka_session *s, const struct kafka_request *rq, struct kafka_reply *r)
{
    kafka_frame_begin(r, rq, conn_out(s->conn));
    return &r->out;
}

void kafka_count_error(const struct kafka_front *f, int16_t code, uint32_t n)
{
    if (code != 0)
        metrics_count(f->metrics.errors, kafka_error_row(code), n);
}

void kafka_reply_end(struct kafka_session *s, struct kafka_reply *r)
{
    kafka_frame_end(r);
    kafka_count_error(s->front, r->out.error, r->out.error_count);
}

void kafka_reply_drop(struct kafka_reply *r)
{
    r->out.b->len = r->at;
}

/* ---- commits ------------------------------------------------------------------------------------------ */

static void commit_free(struct kafka_commit *k)
{
    if (k->release != NULL)
        k->release(k);
    else
        mem_free(k);
}

static void hold_release(struct kafka_session *s, uint64_t hold)
{
    conn_hold_release(s->conn, hold);
    if (!s->behind || conn_held(s->conn))
        return;
    s->behind = false;
    conn_resume_input(s->conn);
}

int kafka_wait_answers(struct kafka_session *s)
{
    if (!conn_held(s->conn))
        return 0;
    s->behind = true;
    conn_pause_input(s->conn);
    return KAFKA_RETRY;
}

/* It is over: the reply leaves, as it was encoded or corrected, or the connection goes. */
static void commit_end(struct kafka_commit *k, int err)
{
    struct kafka_session *s = k->session;
    uint64_t hold = k->hold;
    bool abort = err != 0 && k->settle == NULL;

    list_remove(&k->node);
    if (k->settle != NULL)
        k->settle(k, err);
    commit_free(k);
    if (abort) { /* the reply that waits would promise what did not happen */
        DIAG_EVERY(DIAG_WARN, "a commit failed, the client is disconnected", "err=%s", err_name(err));
        conn_abort(s->conn, err);
        return;
    }
    hold_release(s, hold);
}

static void commit_done(struct log_commit *c, int err)
{
    commit_end(CONTAINER_OF(c, struct kafka_commit, c), err);
}

/* Started with the first deadline and left to run out, so that a busy connection does not start one a request. */
static void commit_time(struct worker *w, struct io_timer *t)
{
    struct kafka_session *s = CONTAINER_OF(t, struct kafka_session, commit_timer);
    uint64_t now = worker_now_us(w), next = UINT64_MAX;

    LIST_FOREACH_SAFE (n, &s->commits) {
        struct kafka_commit *k = LIST_ENTRY(n, struct kafka_commit, node);

        if (k->deadline_us == 0)
            continue;
        if (k->deadline_us > now) {
            next = MIN_OF(next, k->deadline_us);
            continue;
        }
        log_commit_cancel(&k->c);
        commit_end(k, ERR_TIMEOUT);
    }
    if (next != UINT64_MAX)
        io_timer_start(w, t, (next - now) / 1000 + 1, 0);
}

void kafka_commit_init(struct kafka_commit *k, struct kafka_session *s)
{
    k->session = s;
    log_commit_init(&k->c, s->conn->worker, commit_done);
}

struct kafka_commit *kafka_commit_new(struct kafka_session *s)
{
    struct kafka_commit *k = mem_zalloc(sizeof(*k));

    kafka_commit_init(k, s);
    return k;
}

bool kafka_commit_arm_held(struct kafka_commit *k, uint64_t hold)
{
    struct kafka_session *s = k->session;

    if (log_commit_arm(&k->c)) {
        commit_free(k);
        hold_release(s, hold);
        return false;
    }
    k->hold = hold;
    list_push_back(&s->commits, &k->node);
    return true;
}

void kafka_commit_drop(struct kafka_commit *k, uint64_t hold)
{
    struct kafka_session *s = k->session;

    log_commit_cancel(&k->c);
    commit_free(k);
    hold_release(s, hold);
}

bool kafka_commit_arm(struct kafka_commit *k)
{
    struct kafka_session *s = k->session;
    struct worker *w = s->conn->worker;

    if (log_commit_arm(&k->c)) {
        commit_free(k);
        return false;
    }
    k->hold = conn_hold(s->conn);
    list_push_back(&s->commits, &k->node);
    if (k->deadline_us != 0 && !io_timer_active(&s->commit_timer))
        io_timer_start(w, &s->commit_timer, k->deadline_us > worker_now_us(w) ? (k->deadline_us - worker_now_us(w)) / 1000 + 1 : 1, 0);
    return true;
}

void kafka_commit_log(struct kafka_session *s, struct log *l, int64_t end, uint64_t mark)
{
    struct kafka_commit *k = kafka_commit_new(s);

    log_commit_since(&k->c, mark);
    log_commit_add(&k->c, l, end);
    (void)kafka_commit_arm(k);
}

/* ---- later and again ---------------------------------------------------------------------------------- */

void kafka_async_begin(struct kafka_async *a, struct kafka_session *s, const struct kafka_request *rq,
                       bool keep_body)
{
    CHECK(s->async == NULL);
    a->session = s;
    a->worker = s->conn->worker;
    a->rq = *rq;
    a->frame = (struct buf){0};
    if (keep_body) {
        size_t id_len = rq->client_id.len;

        buf_put_slice(&a->frame, rq->client_id);
        buf_put_slice(&a->frame, rq->body);
        if (rq->client_id.data != NULL)
            a->rq.client_id = slice_of(a->frame.data, id_len);
        a->rq.body_data = a->frame.data + id_len;
        a->rq.body = slice_of(a->rq.body_data, rq->body.len);
    } else {
        a->rq.client_id = a->rq.body = SLICE_NONE;
        a->rq.body_data = NULL;
    }
    s->async = a;
    conn_pause_input(s->conn);
}

void kafka_async_end(struct kafka_async *a)
{
    struct kafka_session *s = a->session;

    buf_fini(&a->frame);
    a->session = NULL;
    if (s == NULL)
        return;
    s->async = NULL;
    conn_resume_input(s->conn);
}

void kafka_retry_later(struct kafka_session *s, struct kafka_async *a)
{
    static const struct kafka_request none;

    kafka_async_begin(a, s, &none, false);
}

void kafka_retry(struct kafka_async *a, int err)
{
    if (a->session != NULL)
        a->session->retry_err = err;
    kafka_async_end(a);
}

struct kafka_open {
    struct kafka_async async;
    struct bg_job job;
    struct stream_table *streams;
    struct stream_place *places; /* owned, names too */
    unsigned count, cap;
    int err;
};

struct kafka_open *kafka_open_add(struct kafka_open *o, const struct stream_place *place)
{
    if (o == NULL)
        o = mem_zalloc(sizeof(*o));
    if (o->count == o->cap) {
        o->cap = o->cap == 0 ? 4 : o->cap * 2;
        o->places = mem_realloc(o->places, o->cap * sizeof(*o->places));
    }
    o->places[o->count] = *place;
    o->places[o->count++].topic = slice_of(mem_strdup_slice(place->topic), place->topic.len);
    return o;
}

static void open_run(struct bg_job *job)
{
    struct kafka_open *o = CONTAINER_OF(job, struct kafka_open, job);

    for (unsigned i = 0; i < o->count; i++) {
        struct stream *st;
        int err = stream_open(o->streams, &o->places[i], &st);

        if (err == 0) {
            stream_unref(st);
            continue;
        }
        o->err = err;
        if (err != ERR_BUSY && err != ERR_NOT_FOUND)
            DIAG_EVERY(DIAG_ERROR, "a topic partition cannot be opened", "topic=%.*s index=%u err=%s",
                       (int)o->places[i].topic.len, (const char *)o->places[i].topic.data, o->places[i].index,
                       err_name(err));
    }
}

void kafka_open_drop(struct kafka_open *o)
{
    for (unsigned i = 0; i < o->count; i++)
        mem_free((void *)(uintptr_t)o->places[i].topic.data);
    mem_free(o->places);
    mem_free(o);
}

static void open_done(struct bg_job *job)
{
    struct kafka_open *o = CONTAINER_OF(job, struct kafka_open, job);

    kafka_retry(&o->async, o->err);
    kafka_open_drop(o);
}

int kafka_open_start(struct kafka_session *s, struct kafka_open *o)
{
    kafka_retry_later(s, &o->async);
    o->streams = s->front->options.streams;
    o->job.reply_to = s->conn->worker;
    o->job.run = open_run;
    o->job.done = open_done;
    bg_submit(s->front->options.workers, BG_FREE, &o->job);
    return KAFKA_RETRY;
}

static void park_retry(struct worker *w, struct partition_park *park)
{
    struct kafka_session *s = CONTAINER_OF(park, struct kafka_session, park);

    (void)w;
    s->parked = false;
    conn_resume_input(s->conn);
}

int kafka_enter(struct kafka_session *s, uint32_t partition, struct partition_guard *g)
{
    int err;

    CHECK(!s->parked);
    s->park.worker = s->conn->worker;
    s->park.retry = park_retry;
    err =
        partition_enter(partitions_get(s->front->options.partitions, partition), KV_DB_INTERNAL, &s->park, g);
    if (err == ERR_PARKED) {
        s->parked = true;
        conn_pause_input(s->conn);
        return KAFKA_RETRY;
    }
    return err;
}

/* ---- the wrong protocol on this port ------------------------------------------------------------------ */

/* What somebody speaks whose first four bytes make no size of a request. All of these are above the largest
 * size we take. */
static const char *foreign_protocol(const uint8_t *data, size_t len, const char **ret_answer)
{
    static const char *const http_words[] = {"GET ", "POST", "PUT ", "HEAD", "DELE", "OPTI", "PATC", "CONN"};

    *ret_answer = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(http_words); i++)
        if (memcmp(data, http_words[i], 4) == 0) {
            *ret_answer = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: "
                          "close\r\nContent-Length: 58\r\n\r\n"
                          "This is GoMsg's Kafka port; HTTP is served on another one\n";
            return "HTTP";
        }
    if (memcmp(data, "AMQP", 4) == 0) {
        *ret_answer = "This is GoMsg's Kafka port; AMQP is served on another one.\n";
        return "AMQP";
    }
    if (data[0] == 0x16 && data[1] == 3)
        return "TLS";
    if ((data[0] == '*' && data[1] >= '0' && data[1] <= '9') ||
        (len >= 4 && (memcmp(data, "PING", 4) == 0 || memcmp(data, "INFO", 4) == 0))) {
        *ret_answer = "-ERR this is GoMsg's Kafka port; Redis clients are served on another one\r\n";
        return "RESP";
    }
    return NULL;
}

static ssize_t refuse_size(struct kafka_session *s, const uint8_t *data, size_t len)
{
    const char *answer, *name = foreign_protocol(data, len, &answer);
    char peer[96];

    conn_peer_text(s->conn, peer, sizeof(peer));
    if (name != NULL)
        DIAG_EVERY(DIAG_WARN, "another protocol on the Kafka port", "protocol=%s peer=%s", name, peer);
    else
        DIAG_EVERY(DIAG_WARN, "a request of an impossible size", "size=%d peer=%s",
                   (int)(int32_t)be32_get(data), peer);
    if (answer != NULL)
        conn_write(s->conn, answer, strlen(answer));
    return name != NULL ? ERR_MALFORMED : ERR_TOO_LARGE;
}

/* ---- requests ----------------------------------------------------------------------------------------- */

static int refuse_request(struct kafka_session *s, const char *why, int key, int version)
{
    char peer[96];

    conn_peer_text(s->conn, peer, sizeof(peer));
    DIAG_EVERY(DIAG_WARN, "a Kafka request was refused", "why=\"%s\" api=%d version=%d peer=%s", why, key,
               version, peer);
    return ERR_MALFORMED;
}

/* Kafka answers an ApiVersions of a version it does not know in version 0, with what it knows of ApiVersions,
 * and closes the connection for any other API: there is no form in which an answer would be understood. */
static int unknown_version(struct kafka_session *s, int key, int version, int32_t correlation)
{
    const struct kafka_api *api = kafka_api_find(key);
    struct kafka_request rq = {.api = api, .correlation = correlation};
    struct kafka_reply r;
    struct kout *o;

    if (key != KAFKA_API_API_VERSIONS)
        return refuse_request(s, api == NULL ? "unknown API" : "version not served", key, version);
    o = kafka_reply_begin(s, &rq, &r);
    kout_i16(o, "ErrorCode", KAFKA_ERR_UNSUPPORTED_VERSION);
    kout_array(o, "ApiKeys");
    kout_item(o);
    kout_i16(o, "ApiKey", api->key);
    kout_i16(o, "MinVersion", api->first);
    kout_i16(o, "MaxVersion", api->last);
    kout_array_end(o);
    kout_i32(o, "ThrottleTimeMs", 0);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

/* One whole request behind its size. */
static int handle_frame(struct kafka_session *s, uint8_t *data, size_t len)
{
    struct reader r = reader_of(slice_of(data, len));
    struct kafka_request rq = {0};
    int16_t key = (int16_t)reader_be16(&r);
    uint64_t began = clock_ticks();
    size_t out_before = s->conn->bytes_out + conn_output_pending(s->conn);
    int64_t id_len;
    int outcome;

    rq.version = (int16_t)reader_be16(&r);
    rq.correlation = (int32_t)reader_be32(&r);
    if (r.bad)
        return refuse_request(s, "shorter than its header", key, rq.version);
    rq.api = kafka_api_find(key);
    if (rq.api == NULL || rq.version < rq.api->first || rq.version > rq.api->last)
        return unknown_version(s, key, rq.version, rq.correlation);
    id_len = kafka_read_string_len(&r, false);
    if (id_len >= 0)
        rq.client_id = reader_slice(&r, (size_t)id_len);
    rq.flexible = kafka_is_flexible(rq.api->request, rq.version);
    if (rq.flexible)
        kafka_skip_tags(&r);
    if (r.bad)
        return refuse_request(s, "malformed header", key, rq.version);
    rq.body = slice_of(r.p, reader_left(&r));
    rq.body_data = data + (r.p - data);
    /* Produce and Fetch read their bodies themselves. */
    if (key != KAFKA_API_PRODUCE && key != KAFKA_API_FETCH &&
        kafka_check(rq.api->request, rq.version, rq.body) != 0)
        return refuse_request(s, "malformed body", key, rq.version);
    outcome = rq.api->handle(s, &rq);
    if (outcome == KAFKA_RETRY)
        return outcome;
    s->retried = false;
    s->retry_err = 0;
    s->election_us = 0;
    metrics_request(&s->front->metrics, (unsigned)(rq.api - kafka_apis),
                    clock_ticks_to_ns(clock_ticks() - began), len + 4,
                    s->conn->bytes_out + conn_output_pending(s->conn) - out_before);
    if (outcome < 0 && outcome != ERR_CLOSED)
        (void)refuse_request(s, err_text(outcome), key, rq.version);
    return outcome;
}

static void pause_for_output(struct kafka_session *s)
{
    if (!s->output_paused && conn_output_full(s->conn)) {
        s->output_paused = true;
        conn_pause_input(s->conn);
    }
}

static ssize_t session_input(struct conn *c, const uint8_t *data, size_t len)
{
    struct kafka_session *s = c->session;
    size_t used = 0;

    MAGIC_CHECK(s, KAFKA_SESSION_MAGIC);
    worker_note_reply(c->worker);
    while (!conn_input_paused(c)) {
        uint32_t size;
        int outcome;

        if (len - used < 4) {
            conn_want_input(c, 4);
            break;
        }
        size = be32_get(data + used);
        if (size < 8 || size > (uint64_t)CONFIG_GET(s->front->options.config, kafka_max_request_bytes))
            return refuse_size(s, data + used, len - used);
        if (len - used - 4 < size) {
            conn_want_input(c, (size_t)size + 4);
            break;
        }
        /* The input buffer is ours until it is consumed; produced batches get their base offsets in it. */
        outcome = handle_frame(s, (uint8_t *)(uintptr_t)data + used + 4, size);
        if (outcome < 0)
            return outcome;
        if (outcome == KAFKA_RETRY) {
            s->retried |= !s->parked && !s->behind; /* those wait for the lock, the end of a handover, or their turn */
            break;
        }
        used += (size_t)size + 4;
        pause_for_output(s);
    }
    return (ssize_t)used;
}

static void session_writable(struct conn *c)
{
    struct kafka_session *s = c->session;

    if (s->output_paused) {
        s->output_paused = false;
        conn_resume_input(c);
    }
}

/* The client went while it waits for an answer: nothing is left to do for it. Answers on their way out are
 * still sent. A request that has not run yet, since its log is being opened or its partition is held, does
 * run: a producer with acks=0 sends and leaves. The input's end is met behind it. */
static void session_hangup(struct conn *c)
{
    struct kafka_session *s = c->session;
    bool runs_again = s->parked || s->behind || (s->async != NULL && s->async->rq.api == NULL);

    if (s->async != NULL && !runs_again)
        conn_abort(c, ERR_CLOSED);
}

static int session_open(struct conn *c)
{
    struct kafka_session *s = mem_zalloc(sizeof(*s));

    MAGIC_INIT(s, KAFKA_SESSION_MAGIC);
    s->front = conn_listener_arg(c);
    MAGIC_CHECK(s->front, KAFKA_FRONT_MAGIC);
    s->conn = c;
    list_init(&s->commits);
    list_push_back(&kafka_scratch_of(s)->sessions, &s->node);
    io_timer_init(&s->commit_timer, commit_time);
    c->session = s;
    return 0;
}

static void session_closed(struct conn *c, int reason)
{
    struct kafka_session *s = c->session;
    struct list *n;

    (void)reason;
    MAGIC_CHECK(s, KAFKA_SESSION_MAGIC);
    if (s->parked)
        partition_park_cancel(&s->park);
    while ((n = list_pop_front(&s->commits)) != NULL) {
        struct kafka_commit *k = LIST_ENTRY(n, struct kafka_commit, node);

        log_commit_cancel(&k->c);
        commit_free(k);
    }
    io_timer_stop(c->worker, &s->commit_timer);
    if (s->async != NULL) {
        struct kafka_async *a = s->async;

        a->session = NULL;
        s->async = NULL;
        if (a->gone != NULL)
            a->gone(a);
    }
    kafka_fetch_session_free(s->fetch_session);
    list_remove(&s->node);
    c->session = NULL;
    MAGIC_FINI(s, KAFKA_SESSION_MAGIC);
    mem_free(s);
}

/* ---- the front ---------------------------------------------------------------------------------------- */

/* Once a process: metrics live as long as it, a front end made anew goes on with them. */
static void register_metrics(struct kafka_front *f)
{
    static const char *apis[128];
    static struct metrics_protocol metrics;
    static bool done;

    for (unsigned i = 0; !done && i < kafka_api_count; i++)
        apis[i] = kafka_apis[i].name;
    if (!done)
        metrics_protocol_register(&metrics, "kafka", "api", apis, kafka_api_count, kafka_error_names,
                                  kafka_error_rows);
    done = true;
    f->metrics = metrics;
}

struct kafka_front *kafka_front_new(const struct kafka_front_options *options)
{
    struct kafka_front *f = mem_zalloc(sizeof(*f));
    int32_t first_session;

    MAGIC_INIT(f, KAFKA_FRONT_MAGIC);
    f->options = *options;
    f->ops = (struct conn_ops){
        .protocol = CONN_KAFKA,
        .name = "kafka",
        .open = session_open,
        .input = session_input,
        .writable = session_writable,
        .hangup = session_hangup,
        .closed = session_closed,
        .output_hard_max =
            (size_t)1
            << 31, /* one answer may hold a batch of any size, in its file; input stops at the soft limit */
        .input_max = (size_t)CONFIG_GET(options->config, kafka_max_request_bytes) + 4,
    };
    mutex_init(&f->ids_mu);
    mutex_init(&f->away_mu);
    f->partition_count = partitions_count(options->partitions);
    f->parts = mem_calloc(f->partition_count, sizeof(*f->parts));
    for (uint32_t i = 0; i < f->partition_count; i++) {
        groups_init(&f->parts[i].groups, &kafka_group_ops, options->group_initial_rebalance_delay_ms);
        list_init(&f->parts[i].ready);
        f->parts[i].deadline_ms = UINT64_MAX;
    }
    f->scratch = mem_calloc(workers_count(options->workers), sizeof(*f->scratch));
    for (unsigned i = 0; i < workers_count(options->workers); i++)
        list_init(&f->scratch[i].sessions);
    rand_secure(&first_session, sizeof(first_session));
    f->next_fetch_session = first_session;
    register_metrics(f);
    return f;
}

const struct conn_ops *kafka_front_ops(const struct kafka_front *f)
{
    return &f->ops;
}

void kafka_front_free(struct kafka_front *f)
{
    if (f == NULL)
        return;
    kafka_groups_fini(f);
    for (unsigned i = 0; i < workers_count(f->options.workers); i++) {
        buf_fini(&f->scratch[i].text);
        buf_fini(&f->scratch[i].pieces);
        buf_fini(&f->scratch[i].chosen);
        buf_fini(&f->scratch[i].parts);
    }
    mem_free(f->scratch);
    mem_free(f->parts);
    mutex_fini(&f->ids_mu);
    kafka_away_fini(f);
    MAGIC_FINI(f, KAFKA_FRONT_MAGIC);
    mem_free(f);
}

const struct topology *kafka_view(const struct kafka_session *s)
{
    return topology_view(s->front->options.topology);
}

uint64_t kafka_now_ms(const struct kafka_session *s)
{
    return worker_now_us(s->conn->worker) / 1000;
}
