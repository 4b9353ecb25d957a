/* Produce, versions 0 to 11: hand-written, since this is where the bytes are. One pass parses, one resolves
 * the streams (opening what has not been touched yet, then the request runs again), one checks and appends
 * each batch where it lies in the input buffer, and the answer echoes the topics in their order.
 *
 * acks 0: no answer, an error closes the connection so that the client looks for a new leader; 1: answered
 * when appended, or with log.fsync: always when committed; -1: when committed, later answers waiting behind. Versions 0 to 2 carry message sets of
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
};

struct produce {
    int16_t acks;
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
    (void)reader_be32(&r); /* the timeout: a commit is one sync round, or the node is failing */
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

/* Finds every stream; those not open yet are gathered in *open. */
static void resolve(struct kafka_session *s, struct produce *p, struct kafka_open **open)
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
    }
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

static void put_part(struct buf *b, const struct kafka_request *rq, const struct produce_part *part)
{
    bool ok = part->code == 0;

    buf_put_be32(b, (uint32_t)part->index);
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
    if (rq->flexible)
        buf_put_u8(b, 0);
}

static void answer(struct kafka_session *s, const struct kafka_request *rq, const struct produce *p)
{
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
                put_part(b, rq, &p->parts[i]);
        if (rq->flexible)
            buf_put_u8(b, 0);
    }
    if (rq->version >= 1)
        buf_put_be32(b, 0); /* throttle time */
    if (rq->flexible)
        buf_put_u8(b, 0);
    be32_put(b->data + at, (uint32_t)(b->len - at - 4));
}

static void let_go(struct produce *p)
{
    for (unsigned i = 0; i < p->count; i++)
        stream_unref(p->parts[i].stream);
}

int kafka_handle_produce(struct kafka_session *s, struct kafka_request *rq)
{
    struct produce p = {.store = &kafka_scratch_of(s)->parts};
    struct kafka_open *open = NULL;
    struct kafka_commit *commit = NULL;
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
    resolve(s, &p, &open);
    if (open != NULL) {
        let_go(&p);
        return kafka_open_start(s, open);
    }
    if (p.acks == -1 || (p.acks == 1 && log_store_sync_always(s->front->options.logs)))
        commit = kafka_commit_new(s);
    for (unsigned i = 0; i < p.count; i++) {
        struct produce_part *part = &p.parts[i];

        if (!part->empty && part->code == 0)
            append_part(s, rq, &p, part, commit == NULL ? NULL : &commit->c);
        if (part->code != 0)
            worst = part->code;
        kafka_count_error(s->front, part->code, 1);
    }
    let_go(&p);
    if (commit != NULL)
        kafka_commit_arm(commit);
    if (p.acks != 0) {
        answer(s, rq, &p);
        return KAFKA_DONE;
    }
    if (worst == 0)
        return KAFKA_DONE;
    DIAG_EVERY(DIAG_WARN, "a produce request with acks=0 failed, the client is disconnected", "error=%s",
               kafka_error_name(worst));
    return ERR_CLOSED;
}
