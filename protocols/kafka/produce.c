/* Produce, versions 0 to 11: hand-written, since this is where the bytes are. One pass parses, one resolves
 * the streams (opening what has not been touched yet, then the request runs again), one checks and appends
 * each batch where it lies in the input buffer, and the answer echoes the topics in their order.
 *
 * acks 0: no answer, an error closes the connection so that the client looks for a new leader; 1: answered
 * when appended, or with log.fsync: always when committed; -1: when committed, later answers waiting behind. That answer is encoded at
 * once and corrected while it is held back, should the leadership be lost, replicas be missing or the time run out (R31). Versions 0 to 2 carry message sets of
 * before KIP-98: the node keeps record batches only, so they are refused by name
 * (UNSUPPORTED_FOR_MESSAGE_FORMAT). */
#include "protocols/kafka/session.h"

#include "base/check.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"

struct produce_part {
    struct slice topic; /* of the first part of a topic; data NULL: as the one before */
    int32_t index;
    uint8_t *records; /* NULL: null */
    size_t len;
    bool empty;            /* no part: stands for a topic without any, which is echoed */
    struct stream *stream; /* counted */
    const struct topo_topic *t;
    int16_t code;
    const char *why; /* the error message of version 8 */
    struct stream_appended done;
    size_t at; /* of its error code in the answer */
};

struct produce {
    int16_t acks;
    int32_t timeout_ms;
    bool transactional;
    struct buf *store;          /* the worker's, reused */
    struct produce_part *parts; /* in it */
    unsigned count;
    unsigned topics;
};

/* A part takes at least 8 bytes of the request. */
static struct produce_part *add_part(struct produce *p)
{
    struct produce_part *part;

    (void)buf_reserve(p->store, sizeof(*part));
    buf_advance(p->store, sizeof(*part));
    p->parts = (struct produce_part *)(void *)p->store->data;
    part = &p->parts[p->count++];
    *part = (struct produce_part){.done = {.base = -1, .append_time = -1, .start = -1}};
    return part;
}

static int parse(const struct kafka_request *rq, struct produce *p)
{
    struct reader r = reader_of(rq->body);
    bool flexible = rq->flexible;
    int64_t topics, parts;

    if (rq->version >= 3) {
        struct slice id = kafka_read_string(&r, flexible);

        p->transactional = id.data != NULL;
    }
    p->acks = (int16_t)reader_be16(&r);
    p->timeout_ms = (int32_t)reader_be32(&r);
    topics = kafka_read_len(&r, flexible);
    if (topics < 0)
        return ERR_MALFORMED;
    for (; topics > 0 && !r.bad; topics--) {
        struct slice name = kafka_read_string(&r, flexible);

        parts = kafka_read_len(&r, flexible);
        if (parts < 0 || name.data == NULL)
            return ERR_MALFORMED;
        p->topics++;
        if (parts == 0) { /* echoed as an empty topic */
            struct produce_part *part = add_part(p);

            part->topic = name;
            part->empty = true;
        }
        for (bool first = true; parts > 0 && !r.bad; parts--, first = false) {
            struct produce_part *part = add_part(p);
            int64_t n;

            part->topic = first ? name : SLICE_NONE;
            part->index = (int32_t)reader_be32(&r);
            n = kafka_read_len(&r, flexible);
            if (n >= 0) {
                const uint8_t *at = reader_take(&r, (size_t)n);

                part->records = at == NULL ? NULL : rq->body_data + (at - rq->body.data);
                part->len = (size_t)n;
            }
            if (flexible)
                kafka_skip_tags(&r);
        }
        if (flexible)
            kafka_skip_tags(&r);
    }
    if (flexible)
        kafka_skip_tags(&r);
    return r.bad || reader_left(&r) != 0 ? ERR_MALFORMED : 0;
}

int kafka_produce_check(const struct kafka_request *rq)
{
    struct buf store = {0};
    struct produce p = {.store = &store};
    int err = parse(rq, &p);

    buf_fini(&store);
    return err;
}

/* Finds every stream; those not open yet are gathered in *open. KAFKA_RETRY: one of them hands over, and the request waits for the end of it. That keeps a producer's batches in order: were one refused and the next one taken
 * after the handover was given up, a producer nothing is known of yet would have its first batch behind its second. */
static int resolve(struct kafka_session *s, struct produce *p, struct kafka_open **open)
{
    const struct topology *v = kafka_view(s);
    const struct topo_topic *t = NULL;

    for (unsigned i = 0; i < p->count; i++) {
        struct produce_part *part = &p->parts[i];

        if (part->topic.data != NULL)
            t = topo_topic_find(v, part->topic);
        part->t = t;
        if (part->empty)
            continue;
        if (part->topic.data != NULL && kafka_topic_is_reserved(part->topic))
            part->code = KAFKA_ERR_INVALID_TOPIC_EXCEPTION;
        else
            part->stream = kafka_stream_of(s, t, part->index, open, &part->code);
        if (part->code == KAFKA_ERR_NOT_LEADER_OR_FOLLOWER && kafka_wait_handover(s, placement_of_topic(t->name, (uint32_t)part->index, s->front->partition_count)) != 0)
            return KAFKA_RETRY;
    }
    return 0;
}

static int16_t code_of_fault(enum stream_fault f)
{
    switch (f) {
    case STREAM_OK:
        return KAFKA_ERR_NONE;
    case STREAM_FAULT_FORMAT:
    case STREAM_FAULT_INVALID:
        return KAFKA_ERR_INVALID_RECORD;
    case STREAM_FAULT_CORRUPT:
        return KAFKA_ERR_CORRUPT_MESSAGE;
    case STREAM_FAULT_TOO_LARGE:
        return KAFKA_ERR_MESSAGE_TOO_LARGE;
    case STREAM_FAULT_TRANSACTION:
        return KAFKA_ERR_INVALID_TXN_STATE;
    case STREAM_FAULT_TIMESTAMP:
        return KAFKA_ERR_INVALID_TIMESTAMP;
    }
    UNREACHABLE();
}

static void refuse(struct produce_part *part, int16_t code, const char *why)
{
    part->code = code;
    part->why = why;
}

static void append_part(struct kafka_session *s, const struct kafka_request *rq, struct produce *p,
                        struct produce_part *part, struct log_commit *commit)
{
    const struct config *cfg = s->front->options.config;
    int64_t now_ms = worker_wall_ms(s->conn->worker);
    struct stream_rules rules;
    struct batch_header h;
    enum stream_fault f;
    int err;

    if (rq->version < 3) {
        refuse(part, KAFKA_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT,
               kafka_error_text(KAFKA_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT));
        return;
    }
    if (p->transactional) {
        refuse(part, KAFKA_ERR_INVALID_TXN_STATE, "transactions are not served by this version");
        return;
    }
    if (part->records == NULL) {
        refuse(part, KAFKA_ERR_INVALID_RECORD, "a partition's data holds no batch");
        return;
    }
    rules.max_batch_bytes = (uint32_t)kafka_topic_number(cfg, part->t, "max.message.bytes");
    rules.log_append_time = part->t->configs.len != 0 && kafka_topic_is_log_append_time(part->t);
    rules.timestamp_after_max_ms = kafka_topic_number(cfg, part->t, "message.timestamp.after.max.ms");
    f = stream_check(part->records, part->len, &rules, now_ms, &h, &part->why);
    if (f != STREAM_OK) {
        part->code = code_of_fault(f);
        return;
    }
    if ((h.attributes & BATCH_ATTR_CODEC) == BATCH_ZSTD && rq->version < 7) {
        refuse(part, KAFKA_ERR_UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce 7 or newer");
        return;
    }
    if (!log_store_may_grow(s->front->options.logs)) {
        refuse(part, KAFKA_ERR_KAFKA_STORAGE_ERROR, "the disk is full");
        return;
    }
    if (p->acks == -1 && !kafka_enough_in_sync(s, part->t, stream_partition(part->stream))) {
        refuse(part, KAFKA_ERR_NOT_ENOUGH_REPLICAS, kafka_error_text(KAFKA_ERR_NOT_ENOUGH_REPLICAS));
        return;
    }
    err = stream_append(part->stream, part->records, &h, now_ms, commit, &part->done);
    if (err == ERR_NOT_FOUND)
        part->code = KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION;
    else if (err != 0)
        refuse(part, kafka_error_of(err), err_text(err));
    if (err == 0 && !part->done.duplicate) {
        metrics_add(METRIC_STREAM_MESSAGES_IN, (uint64_t)h.record_count);
        metrics_add(METRIC_STREAM_BYTES_IN, h.length);
    }
}

static void put_part(struct kafka_session *s, struct buf *b, const struct kafka_request *rq, struct produce_part *part, size_t reply, struct kafka_hints *hints)
{
    bool ok = part->code == 0;

    buf_put_be32(b, (uint32_t)part->index);
    part->at = b->len - reply;
    buf_put_be16(b, (uint16_t)part->code);
    buf_put_be64(b, (uint64_t)(ok ? part->done.base : -1));
    if (rq->version >= 2)
        buf_put_be64(b, (uint64_t)(ok ? part->done.append_time : -1));
    if (rq->version >= 5)
        buf_put_be64(b, (uint64_t)(ok ? part->done.start : -1));
    if (rq->version >= 8) {
        kafka_put_len(b, 0, rq->flexible); /* record errors: a batch stands or falls whole */
        kafka_put_string(b, part->why == NULL ? SLICE_NONE : slice_str(part->why), rq->flexible);
    }
    if (rq->version >= 10 && part->code == KAFKA_ERR_NOT_LEADER_OR_FOLLOWER && part->t != NULL) { /* KIP-951 */
        buf_put_u8(b, 1);
        kafka_put_current_leader(s, b, 0, placement_of_topic(part->t->name, (uint32_t)part->index, s->front->partition_count), hints);
    } else if (rq->flexible) {
        buf_put_u8(b, 0);
    }
}

static void answer(struct kafka_session *s, const struct kafka_request *rq, const struct produce *p)
{
    struct kafka_hints hints = {{0}, 0};
    struct buf *b = conn_out(s->conn);
    size_t at = b->len;

    buf_put_be32(b, 0);
    buf_put_be32(b, (uint32_t)rq->correlation);
    if (rq->flexible)
        buf_put_u8(b, 0);
    kafka_put_len(b, p->topics, rq->flexible);
    for (unsigned i = 0; i < p->count;) {
        unsigned n = i + 1;

        while (n < p->count && p->parts[n].topic.data == NULL)
            n++;
        kafka_put_string(b, p->parts[i].topic, rq->flexible);
        kafka_put_len(b, p->parts[i].empty ? 0 : n - i, rq->flexible);
        for (; i < n; i++)
            if (!p->parts[i].empty)
                put_part(s, b, rq, &p->parts[i], at, &hints);
        if (rq->flexible)
            buf_put_u8(b, 0);
    }
    if (rq->version >= 1)
        buf_put_be32(b, 0); /* throttle time */
    if (rq->version >= 10)
        kafka_put_node_endpoints(s, b, &hints);
    else if (rq->flexible)
        buf_put_u8(b, 0);
    be32_put(b->data + at, (uint32_t)(b->len - at - 4));
}

static void let_go(struct produce *p)
{
    for (unsigned i = 0; i < p->count; i++)
        stream_unref(p->parts[i].stream);
}

/* ---- acks=all: what a held answer is corrected to ------------------------------------------------------ */

struct produce_wait_part {
    struct stream *stream; /* counted */
    int64_t end;
    size_t at; /* of its error code in the answer */
};

struct produce_wait {
    struct kafka_commit k;
    bool all; /* acks=all */
    unsigned count;
    struct produce_wait_part parts[];
};

static void wait_free(struct kafka_commit *k)
{
    struct produce_wait *w = CONTAINER_OF(k, struct produce_wait, k);

    for (unsigned i = 0; i < w->count; i++)
        stream_unref(w->parts[i].stream);
    mem_free(w);
}

/* One commit stands for all parts of the request; each is judged by itself. */
static int16_t code_after(const struct kafka_session *s, const struct produce_wait *w, const struct produce_wait_part *part, int err)
{
    struct stream *st = part->stream;
    const struct topo_topic *t;

    if (err != 0 && (stream_is_closed(st) || !log_committed(stream_log(st), part->end)))
        return kafka_error_of(stream_is_closed(st) ? ERR_NOT_LEADER : err);
    if (!w->all || !log_replicated(stream_log(st)))
        return 0;
    t = topo_topic_find(kafka_view(s), stream_topic(st));
    return kafka_enough_in_sync(s, t, stream_partition(st)) ? 0 : KAFKA_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND;
}

static void settle(struct kafka_commit *k, int err)
{
    struct produce_wait *w = CONTAINER_OF(k, struct produce_wait, k);
    struct kafka_session *s = k->session;

    for (unsigned i = 0; i < w->count; i++) {
        int16_t code = code_after(s, w, &w->parts[i], err);
        uint8_t told[2 + 8];

        if (code == 0)
            continue;
        be16_put(told, (uint16_t)code);
        be64_put(told + 2, (uint64_t)-1); /* the base offset */
        conn_hold_patch(s->conn, k->hold, w->parts[i].at, told, sizeof(told));
        kafka_count_error(s->front, code, 1);
    }
}

static struct produce_wait *wait_new(struct kafka_session *s, const struct produce *p)
{
    struct produce_wait *w = mem_zalloc(sizeof(*w) + p->count * sizeof(w->parts[0]));

    kafka_commit_init(&w->k, s);
    w->k.settle = settle;
    w->k.release = wait_free;
    w->all = p->acks == -1;
    if (p->timeout_ms > 0)
        w->k.deadline_us = worker_now_us(s->conn->worker) + (uint64_t)p->timeout_ms * 1000;
    return w;
}

/* Holds the answer back and encodes it; what was appended is remembered with its place in there. */
static void answer_held(struct kafka_session *s, const struct kafka_request *rq, struct produce *p, struct produce_wait *w)
{
    bool held = kafka_commit_arm(&w->k);

    answer(s, rq, p);
    for (unsigned i = 0; held && i < p->count; i++) {
        struct produce_part *part = &p->parts[i];

        if (part->empty || part->code != 0)
            continue;
        w->parts[w->count++] = (struct produce_wait_part){part->stream, part->done.next, part->at};
        stream_ref(part->stream);
    }
}

int kafka_handle_produce(struct kafka_session *s, struct kafka_request *rq)
{
    struct produce p = {.store = &kafka_scratch_of(s)->parts};
    struct kafka_open *open = NULL;
    struct produce_wait *wait = NULL;
    int16_t worst = 0;

    buf_clear(p.store);
    if (parse(rq, &p) != 0)
        return ERR_MALFORMED;
    if (p.acks < -1 || p.acks > 1) {
        for (unsigned i = 0; i < p.count; i++)
            p.parts[i].code = KAFKA_ERR_INVALID_REQUIRED_ACKS;
        answer(s, rq, &p);
        return KAFKA_DONE;
    }
    if (resolve(s, &p, &open) != 0) {
        let_go(&p);
        if (open != NULL)
            kafka_open_drop(open);
        return KAFKA_RETRY;
    }
    if (open != NULL) {
        let_go(&p);
        return kafka_open_start(s, open);
    }
    if (p.acks == -1 || (p.acks == 1 && log_store_sync_always(s->front->options.logs)))
        wait = wait_new(s, &p);
    for (unsigned i = 0; i < p.count; i++) {
        struct produce_part *part = &p.parts[i];

        if (!part->empty && part->code == 0)
            append_part(s, rq, &p, part, wait == NULL ? NULL : &wait->k.c);
        if (part->code != 0)
            worst = part->code;
        kafka_count_error(s->front, part->code, 1);
    }
    if (wait != NULL)
        answer_held(s, rq, &p, wait);
    else if (p.acks != 0)
        answer(s, rq, &p);
    let_go(&p);
    /* Cut off from the others, this node cannot say who leads instead, and librdkafka asks the broker it is connected to for as long as it is. Without the connection it asks another. */
    if (worst == KAFKA_ERR_NOT_LEADER_OR_FOLLOWER && !partitions_lease_ok(s->front->options.partitions))
        return ERR_CLOSED;
    if (p.acks != 0 || worst == 0)
        return KAFKA_DONE;
    DIAG_EVERY(DIAG_WARN, "a produce request with acks=0 failed, the client is disconnected", "error=%s",
               kafka_error_name(worst));
    return ERR_CLOSED;
}
