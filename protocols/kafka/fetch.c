/* Fetch, versions 4 to 18: hand-written parsing, sessions, evaluation and the long poll. The answer is
 * encoded in fetch_answer.c.
 *
 * A request is served when it has min_bytes, or anything urgent (an error, a fetch of nothing), or its time
 * is up; a cold span (P16) is read into the page cache by a background thread first. While it waits, input is
 * paused, as Kafka mutes the channel. */
#include "protocols/kafka/fetch.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

#define FETCH_MAX_BYTES (55u << 20) /* Kafka's fetch.max.bytes: the most one answer holds */

/* ---- parts -------------------------------------------------------------------------------------------- */

static void fetch_deliver(struct worker *w, struct mail *m);
static void fetch_time_is_up(struct worker *w, struct io_timer *t);

void fetch_init(struct fetch *f)
{
    mutex_init(&f->mu);
    list_init(&f->ready);
    list_init(&f->parts);
    list_init(&f->answer);
    f->mail.deliver = fetch_deliver;
    io_timer_init(&f->timer, fetch_time_is_up);
}

/* An append or a deletion, on any thread, under the stream's mutex. */
static void part_notify(struct stream_waiter *w)
{
    struct fetch_part *p = CONTAINER_OF(w, struct fetch_part, waiter);
    struct fetch *f = p->fetch;
    bool post = false;

    mutex_lock(&f->mu);
    if (!list_linked(&p->ready))
        list_push_back(&f->ready, &p->ready);
    f->news = true;
    if (f->waiting && !f->posted)
        post = f->posted = true;
    mutex_unlock(&f->mu);
    if (post)
        worker_post(f->async.worker, &f->mail);
}

struct fetch_part *fetch_part_new(struct fetch *f)
{
    struct fetch_part *p = mem_zalloc(sizeof(*p));

    p->fetch = f;
    p->waiter.notify = part_notify;
    p->told_high_watermark = p->told_start = -1;
    list_push_back(&f->parts, &p->order);
    f->part_count++;
    return p;
}

static void part_release_span(struct fetch_part *p)
{
    if (p->has_span)
        log_span_release(&p->span);
    p->has_span = false;
}

static void part_drop_stream(struct fetch_part *p)
{
    part_release_span(p);
    stream_unwait(&p->waiter);
    stream_unref(p->stream);
    p->stream = NULL;
}

void fetch_part_free(struct fetch_part *p)
{
    struct fetch *f = p->fetch;

    part_drop_stream(p);
    mutex_lock(&f->mu);
    list_remove(&p->ready);
    mutex_unlock(&f->mu);
    list_remove(&p->order);
    list_remove(&p->answer);
    f->part_count--;
    mem_free(p->topic);
    mem_free(p);
}

void fetch_mark_ready(struct fetch_part *p)
{
    mutex_lock(&p->fetch->mu);
    if (!list_linked(&p->ready))
        list_push_back(&p->fetch->ready, &p->ready);
    mutex_unlock(&p->fetch->mu);
}

void fetch_release_spans(struct fetch *f)
{
    struct list *n;

    while ((n = list_pop_front(&f->answer)) != NULL)
        part_release_span(LIST_ENTRY(n, struct fetch_part, answer));
}

/* ---- freeing: when neither mail nor job is under way -------------------------------------------------- */

static void fetch_destroy(struct fetch *f)
{
    mutex_fini(&f->mu);
    mem_free(f->rack);
    if (f->session != NULL) {
        mem_free(f->session->buckets);
        mem_free(f->session);
    } else {
        mem_free(f);
    }
}

/* On the worker, with no request being served any more. */
static void fetch_free(struct fetch *f)
{
    bool later;

    io_timer_stop(f->async.worker, &f->timer);
    LIST_FOREACH_SAFE (n, &f->parts)
        if (!f->warming)
            fetch_part_free(LIST_ENTRY(n, struct fetch_part, order));
    mutex_lock(&f->mu);
    f->waiting = false;
    later = f->posted || f->warming;
    mutex_unlock(&f->mu);
    f->waits = false;
    if (later)
        f->dead = true;
    else
        fetch_destroy(f);
}

void kafka_fetch_session_free(struct fetch_session *fs)
{
    if (fs != NULL)
        fetch_free(&fs->fetch);
}

/* The connection went while the request was being served. A session's fetch goes with the session, which
 * follows at once. */
static void fetch_gone(struct kafka_async *a)
{
    struct fetch *f = CONTAINER_OF(a, struct fetch, async);

    buf_fini(&a->frame);
    if (f->session == NULL)
        fetch_free(f);
}

/* ---- evaluation --------------------------------------------------------------------------------------- */

/* R10: whether what the client has ends in an epoch that ended later here, or not at all. */
static void part_compare(struct fetch_part *p, struct log *l)
{
    int32_t epoch;
    int64_t end;

    if (p->last_epoch < 0)
        return;
    if (log_epoch_end(l, p->last_epoch, &epoch, &end) != 0) {
        p->code = KAFKA_ERR_OFFSET_OUT_OF_RANGE;
    } else if (epoch < p->last_epoch || end < p->offset) {
        p->diverges = true;
        p->diverge_epoch = epoch;
        p->diverge_end = end;
    }
}

/* Code and watermarks. True when records wait behind the offset. */
static bool part_look(struct kafka_session *s, struct fetch *f, struct fetch_part *p)
{
    uint32_t partition;
    struct log *l;

    p->preferred = -1;
    p->diverges = false;

    if (p->stream == NULL)
        return false; /* its code says why */
    if (stream_is_deleted(p->stream)) {
        part_drop_stream(p);
        p->code = p->topic != NULL ? KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION : KAFKA_ERR_UNKNOWN_TOPIC_ID;
        return false;
    }
    partition = stream_partition(p->stream);
    if (stream_is_closed(p->stream)) { /* the role changed: opened anew by the next request, if this node may serve it */
        part_drop_stream(p);
        p->code = KAFKA_ERR_NOT_LEADER_OR_FOLLOWER;
        return false;
    }
    p->code = f->may_follow ? kafka_reader_code(s, partition) : kafka_leader_code(s, partition);
    if (p->code == 0)
        p->code = kafka_epoch_code(s, partition, p->leader_epoch);
    l = stream_log(p->stream);
    p->start = log_start(l);
    p->high_watermark = stream_high_watermark(p->stream);
    if (p->code != 0)
        return false;
    /* Between high watermark and end it waits: a new leader's watermark may still be behind what its predecessor told. */
    if (p->offset < p->start || p->offset > log_end(l))
        p->code = KAFKA_ERR_OFFSET_OUT_OF_RANGE;
    else
        part_compare(p, l);
    if (p->code != 0 || p->diverges)
        return false;
    if (f->rack != NULL && kafka_leader_code(s, partition) == 0)
        p->preferred = kafka_preferred_reader(s, partition, slice_str(f->rack));
    return p->preferred < 0 && p->offset < p->high_watermark;
}

/* A span within what is left of the answer; the first one may be larger (KIP-74). */
static size_t part_read(struct fetch_part *p, size_t left, bool first)
{
    size_t max = MIN_OF((size_t)MAX_OF(p->max_bytes, 0), left);
    int err;

    if (max == 0 && !first)
        return 0;
    p->span = (struct log_span){.fd = -1};
    err = log_read(stream_log(p->stream), p->offset, p->high_watermark, max, !first, &p->span);
    if (err == ERR_OFFSET_RANGE)
        p->code = KAFKA_ERR_OFFSET_OUT_OF_RANGE;
    else if (err != 0 && err != ERR_TOO_LARGE)
        p->code = kafka_error_of(err);
    if (err != 0)
        return 0;
    p->has_span = true;
    if (p->span.len != 0)
        return p->span.len;
    part_release_span(p);
    return 0;
}

size_t fetch_evaluate(struct kafka_session *s, struct fetch *f, bool *ret_urgent)
{
    size_t bytes = 0, budget = MIN_OF((size_t)MAX_OF(f->max_bytes, 0), (size_t)FETCH_MAX_BYTES);
    struct list now, *n;

    list_init(&now);
    mutex_lock(&f->mu);
    list_splice(&now, &f->ready);
    f->news = false;
    mutex_unlock(&f->mu);
    *ret_urgent = f->part_count == 0;
    /* A part is taken off before it is looked at: an append after that puts it back itself. */
    for (;;) {
        struct fetch_part *p;
        bool more;

        mutex_lock(&f->mu);
        n = list_pop_front(&now);
        mutex_unlock(&f->mu);
        if (n == NULL)
            break;
        p = LIST_ENTRY(n, struct fetch_part, ready);
        part_release_span(p);
        if (!list_linked(&p->answer))
            list_push_back(&f->answer, &p->answer);
        more = part_look(s, f, p);
        if (more)
            bytes += part_read(p, budget > bytes ? budget - bytes : 0, bytes == 0);
        if (p->code != 0 || p->diverges || p->preferred >= 0)
            *ret_urgent = true;
        if (more || p->code != 0 || p->diverges || p->preferred >= 0)
            fetch_mark_ready(p);
    }
    return bytes;
}

/* ---- serving ------------------------------------------------------------------------------------------ */

static void serve(struct kafka_session *s, const struct kafka_request *rq, struct fetch *f, bool time_is_up);

static void finish(struct kafka_session *s, const struct kafka_request *rq, struct fetch *f)
{
    fetch_answer(s, rq, f);
    io_timer_stop(s->conn->worker, &f->timer);
    if (f->async.session != NULL)
        kafka_async_end(&f->async);
    if (f->session == NULL)
        fetch_free(f);
}

/* P16: touching a cold page here would stop every connection of this worker. */
static void warm_run(struct bg_job *job)
{
    struct fetch *f = CONTAINER_OF(job, struct fetch, warm);
    uint8_t *block = mem_alloc(1u << 18);

    LIST_FOREACH (n, &f->answer) {
        struct fetch_part *p = LIST_ENTRY(n, struct fetch_part, answer);

        if (!p->has_span || p->span.fd < 0 || log_span_is_warm(&p->span))
            continue;
        (void)posix_fadvise(p->span.fd, (off_t)p->span.pos, (off_t)p->span.len, POSIX_FADV_WILLNEED);
        for (size_t at = 0; at < p->span.len; at += 1u << 18)
            if (pread(p->span.fd, block, MIN_OF(p->span.len - at, (size_t)1u << 18),
                      (off_t)(p->span.pos + at)) <= 0)
                break; /* sending it will meet the same error and say so */
    }
    mem_free(block);
}

static void warm_done(struct bg_job *job)
{
    struct fetch *f = CONTAINER_OF(job, struct fetch, warm);
    struct kafka_session *s = f->async.session;

    f->warming = false;
    if (f->dead) {
        f->dead = false;
        fetch_free(f);
        return;
    }
    finish(s, &f->async.rq, f);
}

static bool is_cold(struct fetch *f)
{
    LIST_FOREACH (n, &f->answer) {
        struct fetch_part *p = LIST_ENTRY(n, struct fetch_part, answer);

        if (p->has_span && p->span.fd >= 0 && !log_span_is_warm(&p->span))
            return true;
    }
    return false;
}

static void answer_or_warm(struct kafka_session *s, const struct kafka_request *rq, struct fetch *f)
{
    f->waits = false;
    if (!is_cold(f)) {
        finish(s, rq, f);
        return;
    }
    if (f->async.session == NULL)
        kafka_async_begin(&f->async, s, rq, false);
    f->async.gone = fetch_gone;
    f->warming = true;
    f->warm.reply_to = s->conn->worker;
    f->warm.run = warm_run;
    f->warm.done = warm_done;
    bg_submit(s->front->options.workers, BG_DISK, &f->warm);
}

/* Registers with the streams it is not registered with yet. True when one of them moved on since it was
 * looked at. */
static bool register_parts(struct fetch *f)
{
    bool moved = false;

    LIST_FOREACH (n, &f->parts) {
        struct fetch_part *p = LIST_ENTRY(n, struct fetch_part, order);

        if (p->stream == NULL || p->waiter.stream != NULL)
            continue;
        stream_wait(p->stream, &p->waiter);
        if (stream_high_watermark(p->stream) != p->high_watermark || stream_is_deleted(p->stream) || stream_is_closed(p->stream)) {
            fetch_mark_ready(p);
            moved = true;
        }
    }
    return moved;
}

static void wait_for_news(struct kafka_session *s, const struct kafka_request *rq, struct fetch *f)
{
    bool again;

    fetch_release_spans(f);
    if (f->async.session == NULL) {
        kafka_async_begin(&f->async, s, rq, false);
        f->async.gone = fetch_gone;
        io_timer_start(s->conn->worker, &f->timer, (uint64_t)f->max_wait_ms, 0);
    }
    f->waits = true;
    again = register_parts(f);
    mutex_lock(&f->mu);
    again = again || f->news;
    f->waiting = !again;
    mutex_unlock(&f->mu);
    if (again)
        serve(s, &f->async.rq, f, false);
}

static void serve(struct kafka_session *s, const struct kafka_request *rq, struct fetch *f, bool time_is_up)
{
    bool urgent;
    size_t bytes = fetch_evaluate(s, f, &urgent);

    if (urgent || time_is_up || f->max_wait_ms <= 0 || (int64_t)bytes >= f->min_bytes)
        answer_or_warm(s, rq, f);
    else
        wait_for_news(s, rq, f);
}

static void fetch_deliver(struct worker *w, struct mail *m)
{
    struct fetch *f = CONTAINER_OF(m, struct fetch, mail);

    (void)w;
    mutex_lock(&f->mu);
    f->posted = f->waiting = false;
    mutex_unlock(&f->mu);
    if (f->dead) {
        f->dead = false;
        fetch_free(f);
    } else if (f->waits) {
        serve(f->async.session, &f->async.rq, f, false);
    }
}

static void fetch_time_is_up(struct worker *w, struct io_timer *t)
{
    struct fetch *f = CONTAINER_OF(t, struct fetch, timer);

    (void)w;
    if (!f->waits)
        return;
    mutex_lock(&f->mu);
    f->waiting = false;
    mutex_unlock(&f->mu);
    serve(f->async.session, &f->async.rq, f, true);
}

/* ---- requests ----------------------------------------------------------------------------------------- */

struct fetch_request {
    int32_t max_wait_ms, min_bytes, max_bytes;
    int8_t isolation;
    int32_t session_id, session_epoch;
    struct reader topics, forgotten; /* positioned at their counts */
    struct slice rack;
};

struct wanted {
    struct kafka_topic_ref topic;
    int32_t index, leader_epoch, last_epoch, max_bytes;
    int64_t offset;
};

/* Neither may be null here. */
static int64_t read_count(struct reader *r, bool flexible)
{
    int64_t count = kafka_read_len(r, flexible);

    if (count < 0)
        r->bad = 1;
    return count;
}

static struct slice read_name(struct reader *r, bool flexible)
{
    struct slice s = kafka_read_string(r, flexible);

    if (s.data == NULL)
        r->bad = 1;
    return s;
}

/* Walks the topics at `r` and calls fn for each partition; NULL only checks. */
static void each_wanted(const struct kafka_request *rq, struct reader *r,
                        void (*fn)(const struct wanted *w, void *arg), void *arg)
{
    int64_t topics = read_count(r, rq->flexible);

    for (; topics > 0 && !r->bad; topics--) {
        struct wanted w = {0};
        int64_t parts;

        if (rq->version >= 13)
            w.topic.uuid = reader_take(r, 16);
        else
            w.topic.name = read_name(r, rq->flexible);
        for (parts = read_count(r, rq->flexible); parts > 0 && !r->bad; parts--) {
            w.index = (int32_t)reader_be32(r);
            w.leader_epoch = rq->version >= 9 ? (int32_t)reader_be32(r) : -1;
            w.offset = (int64_t)reader_be64(r);
            w.last_epoch = rq->version >= 12 ? (int32_t)reader_be32(r) : -1;
            if (rq->version >= 5)
                (void)reader_be64(r); /* log start: for replicas */
            w.max_bytes = (int32_t)reader_be32(r);
            if (rq->flexible)
                kafka_skip_tags(r);
            if (fn != NULL && !r->bad)
                fn(&w, arg);
        }
        if (rq->flexible)
            kafka_skip_tags(r);
    }
}

static void each_forgotten(const struct kafka_request *rq, struct reader *r,
                           void (*fn)(const struct kafka_topic_ref *t, int32_t index, void *arg), void *arg)
{
    int64_t topics = read_count(r, rq->flexible);

    for (; topics > 0 && !r->bad; topics--) {
        struct kafka_topic_ref t = {0};
        int64_t parts;

        if (rq->version >= 13)
            t.uuid = reader_take(r, 16);
        else
            t.name = read_name(r, rq->flexible);
        for (parts = read_count(r, rq->flexible); parts > 0 && !r->bad; parts--) {
            int32_t index = (int32_t)reader_be32(r);

            if (fn != NULL && !r->bad && (t.uuid != NULL || t.name.data != NULL))
                fn(&t, index, arg);
        }
        if (rq->flexible)
            kafka_skip_tags(r);
    }
}

static int parse(const struct kafka_request *rq, struct fetch_request *q)
{
    struct reader r = reader_of(rq->body);

    if (rq->version <= 14)
        (void)reader_be32(&r); /* replica id */
    q->max_wait_ms = (int32_t)reader_be32(&r);
    q->min_bytes = (int32_t)reader_be32(&r);
    q->max_bytes = (int32_t)reader_be32(&r);
    q->isolation = (int8_t)reader_u8(&r);
    q->session_epoch = -1;
    if (rq->version >= 7) {
        q->session_id = (int32_t)reader_be32(&r);
        q->session_epoch = (int32_t)reader_be32(&r);
    }
    q->topics = r;
    each_wanted(rq, &r, NULL, NULL);
    if (rq->version >= 7) {
        q->forgotten = r;
        each_forgotten(rq, &r, NULL, NULL);
    }
    if (rq->version >= 11)
        q->rack = read_name(&r, rq->flexible);
    if (rq->flexible)
        kafka_skip_tags(&r);
    return r.bad || reader_left(&r) != 0 ? ERR_MALFORMED : 0;
}

int kafka_fetch_check(const struct kafka_request *rq)
{
    struct fetch_request q = {0};

    return parse(rq, &q);
}

/* What has to be opened before the request can be served; nothing is changed by looking. */
struct lookup {
    struct kafka_session *s;
    struct kafka_open *open;
};

static void look_up(const struct wanted *w, void *arg)
{
    struct lookup *l = arg;
    const struct topo_topic *t = kafka_topic_resolve(kafka_view(l->s), &w->topic);
    int16_t code;

    stream_unref(kafka_stream_to_read(l->s, t, w->index, &l->open, &code));
}

/* The stream of a part that has none yet. */
static void part_resolve(struct kafka_session *s, struct fetch_part *p)
{
    struct kafka_topic_ref ref = {p->topic == NULL ? SLICE_NONE : slice_str(p->topic),
                                  p->topic == NULL ? p->uuid : NULL};
    const struct topo_topic *t = kafka_topic_resolve(kafka_view(s), &ref);
    struct kafka_open *none = NULL;

    p->partition_known = t != NULL && p->index >= 0;
    if (p->partition_known)
        p->partition = placement_of_topic(t->name, (uint32_t)p->index, s->front->partition_count);
    p->stream = kafka_stream_to_read(s, t, p->index, &none, &p->code);
    if (p->stream == NULL && p->code == 0)
        p->code = KAFKA_ERR_NOT_LEADER_OR_FOLLOWER;
    if (t == NULL && p->topic == NULL)
        p->code = KAFKA_ERR_UNKNOWN_TOPIC_ID;
    if (none != NULL) /* made known since the look-up a moment ago: the client comes back for it */
        kafka_open_drop(none);
}

struct update {
    struct kafka_session *s;
    struct fetch *f;
    struct fetch_session *fs; /* NULL: no session */
};

static void take_wanted(const struct wanted *w, void *arg)
{
    struct update *u = arg;
    struct fetch_part *p = u->fs == NULL ? NULL : fetch_session_find(u->fs, &w->topic, w->index);

    if (p == NULL) {
        p = fetch_part_new(u->f);
        p->index = w->index;
        if (w->topic.uuid != NULL)
            memcpy(p->uuid, w->topic.uuid, 16);
        else
            p->topic = mem_strdup_slice(w->topic.name);
        if (u->fs != NULL)
            fetch_session_add(u->fs, p);
    }
    p->offset = w->offset;
    p->leader_epoch = w->leader_epoch;
    p->last_epoch = w->last_epoch;
    p->max_bytes = w->max_bytes;
    p->code = 0;
    if (p->stream == NULL)
        part_resolve(u->s, p);
    fetch_mark_ready(p);
}

static void take_forgotten(const struct kafka_topic_ref *t, int32_t index, void *arg)
{
    struct update *u = arg;
    struct fetch_part *p = fetch_session_find(u->fs, t, index);

    if (p != NULL)
        fetch_session_remove(u->fs, p);
}

/* Parts of the session whose topic was unknown the last time. */
static void resolve_again(struct kafka_session *s, struct fetch *f)
{
    LIST_FOREACH (n, &f->ready) {
        struct fetch_part *p = LIST_ENTRY(n, struct fetch_part, ready);

        if (p->stream == NULL)
            part_resolve(s, p);
    }
}

static struct fetch *begin_fetch(struct kafka_session *s, const struct kafka_request *rq,
                                 const struct fetch_request *q, int16_t *ret_code)
{
    struct fetch_session *fs = s->fetch_session;
    struct fetch *f;

    *ret_code = 0;
    if (rq->version < 7 || q->session_epoch <= 0) { /* a full fetch, which ends a session and may begin one */
        if (fs != NULL && (q->session_epoch == 0 || q->session_id == fs->id)) {
            kafka_fetch_session_free(fs);
            s->fetch_session = NULL;
        }
        if (rq->version < 7 || q->session_epoch < 0) {
            f = mem_zalloc(sizeof(*f));
            fetch_init(f);
            return f;
        }
        s->fetch_session = fetch_session_new(s);
        f = &s->fetch_session->fetch;
        f->session_id = s->fetch_session->id;
        f->incremental = false;
        f->by_id = rq->version >= 13;
        return f;
    }
    if (fs == NULL || fs->id != q->session_id) {
        *ret_code = KAFKA_ERR_FETCH_SESSION_ID_NOT_FOUND;
        return NULL;
    }
    if (fs->epoch != q->session_epoch) {
        *ret_code = KAFKA_ERR_INVALID_FETCH_SESSION_EPOCH;
        return NULL;
    }
    if (fs->fetch.by_id != (rq->version >= 13)) {
        *ret_code = KAFKA_ERR_FETCH_SESSION_TOPIC_ID_ERROR;
        return NULL;
    }
    fs->epoch = fs->epoch == INT32_MAX ? 1 : fs->epoch + 1;
    fs->fetch.incremental = true;
    return &fs->fetch;
}

int kafka_handle_fetch(struct kafka_session *s, struct kafka_request *rq)
{
    struct fetch_request q = {0};
    struct lookup look = {.s = s};
    struct update u = {.s = s};
    struct reader r;
    int16_t code;

    if (parse(rq, &q) != 0)
        return ERR_MALFORMED;
    if (!s->retried) {
        r = q.topics;
        each_wanted(rq, &r, look_up, &look);
        if (look.open != NULL)
            return kafka_open_start(s, look.open);
    }
    u.f = begin_fetch(s, rq, &q, &code);
    if (u.f == NULL) {
        fetch_answer_error(s, rq, code);
        return KAFKA_DONE;
    }
    u.fs = u.f->session;
    u.f->async.worker = s->conn->worker;
    u.f->max_wait_ms = q.max_wait_ms;
    u.f->min_bytes = q.min_bytes;
    u.f->max_bytes = q.max_bytes;
    u.f->isolation = q.isolation;
    u.f->may_follow = rq->version >= 11;
    mem_free(u.f->rack);
    u.f->rack = q.rack.len == 0 ? NULL : mem_strdup_slice(q.rack);
    if (u.fs != NULL && rq->version >= 7) {
        r = q.forgotten;
        each_forgotten(rq, &r, take_forgotten, &u);
        resolve_again(s, u.f);
    }
    r = q.topics;
    each_wanted(rq, &r, take_wanted, &u);
    if (u.fs != NULL)
        (void)register_parts(u.f);
    serve(s, rq, u.f, false);
    return KAFKA_DONE;
}
