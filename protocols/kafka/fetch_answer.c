/* The Fetch response, versions 4 to 18: headers are gathered in a buffer, spans of 16 KiB and more go from
 * the segment file to the socket by sendfile, smaller ones are copied (P20). */
#include "protocols/kafka/fetch.h"

#include "base/check.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"

#define SENDFILE_MIN_BYTES 16384

/* Where in the headers a file's bytes go. */
struct piece {
    size_t at;
    struct fetch_part *part;
};

/* One answer being made, in the worker's scratch. */
struct answer {
    struct buf *text, *pieces, *chosen;
    const struct kafka_request *rq;
    struct fetch *f;
    const struct kafka_front *front;
    struct kafka_session *s;
    struct kafka_hints hints; /* KIP-951 */
};

static void add_piece(struct answer *a, size_t at, struct fetch_part *p)
{
    buf_put(a->pieces, &(struct piece){at, p}, sizeof(struct piece));
}

static void choose(struct answer *a, struct fetch_part *p)
{
    buf_put(a->chosen, &p, sizeof(p));
}

static void put_part_head(struct answer *a, const struct fetch_part *p)
{
    const struct kafka_request *rq = a->rq;
    struct buf *text = a->text;
    bool told = p->code == 0;

    buf_put_be32(text, (uint32_t)p->index);
    buf_put_be16(text, (uint16_t)p->code);
    buf_put_be64(text, (uint64_t)(told ? p->high_watermark : -1));
    buf_put_be64(text, (uint64_t)(told ? p->high_watermark
                                       : -1)); /* last stable offset: there are no open transactions */
    if (rq->version >= 5)
        buf_put_be64(text, (uint64_t)(told ? p->start : -1));
    kafka_put_len(text, a->f->isolation == 1 && told ? 0 : -1, rq->flexible); /* aborted transactions */
    if (rq->version >= 11)
        buf_put_be32(text, (uint32_t)p->preferred); /* KIP-392 */
}

/* DivergingEpoch (KIP-320) and CurrentLeader (KIP-951). */
static void put_part_tags(struct answer *a, const struct fetch_part *p)
{
    struct buf *text = a->text;
    bool leader = a->rq->version >= 16 && p->partition_known && (p->code == KAFKA_ERR_NOT_LEADER_OR_FOLLOWER || p->code == KAFKA_ERR_FENCED_LEADER_EPOCH);

    buf_put_u8(text, (uint8_t)(p->diverges + leader));
    if (p->diverges) {
        buf_put_u8(text, 0);
        buf_put_u8(text, 4 + 8 + 1);
        buf_put_be32(text, (uint32_t)p->diverge_epoch);
        buf_put_be64(text, (uint64_t)p->diverge_end);
        buf_put_u8(text, 0);
    }
    if (leader)
        kafka_put_current_leader(a->s, text, 1, p->partition, &a->hints);
}

static void put_part(struct answer *a, struct fetch_part *p)
{
    const struct kafka_request *rq = a->rq;
    struct buf *text = a->text;
    size_t from = text->len;
    size_t len = p->has_span ? p->span.len : 0;

    put_part_head(a, p);
    kafka_put_len(text, (int64_t)len, rq->flexible);
    if (len >= SENDFILE_MIN_BYTES && p->span.fd >= 0) {
        add_piece(a, text->len, p);
    } else if (len != 0 && log_span_copy(&p->span, text) != 0) {
        text->len = from; /* the disk fails under a read: say so for this partition */
        p->code = KAFKA_ERR_KAFKA_STORAGE_ERROR;
        put_part_head(a, p);
        kafka_put_len(text, 0, rq->flexible);
        len = 0;
    }
    if (rq->flexible)
        put_part_tags(a, p);
    metrics_add(METRIC_STREAM_BYTES_OUT, len);
}

static bool same_topic(const struct fetch_part *a, const struct fetch_part *b)
{
    if (a->topic != NULL)
        return b->topic != NULL && strcmp(a->topic, b->topic) == 0;
    return b->topic == NULL && memcmp(a->uuid, b->uuid, 16) == 0;
}

/* What goes into the answer, gathered so that counts can stand first. */
static void choose_parts(struct answer *a)
{
    struct fetch *f = a->f;

    buf_clear(a->chosen);
    if (!f->incremental) {
        LIST_FOREACH (n, &f->parts)
            choose(a, LIST_ENTRY(n, struct fetch_part, order));
        return;
    }
    LIST_FOREACH (n, &f->answer) {
        struct fetch_part *p = LIST_ENTRY(n, struct fetch_part, answer);

        if (p->code != 0 || p->has_span || p->diverges || p->preferred >= 0 || p->high_watermark != p->told_high_watermark ||
            p->start != p->told_start)
            choose(a, p);
    }
}

static void put_topics(struct answer *a)
{
    const struct kafka_request *rq = a->rq;
    struct buf *text = a->text;
    struct fetch_part **chosen;
    size_t chosen_count;
    unsigned topics = 0;

    choose_parts(a);
    chosen = (struct fetch_part **)(void *)a->chosen->data;
    chosen_count = a->chosen->len / sizeof(*chosen);
    for (size_t i = 0; i < chosen_count; i++)
        topics += i == 0 || !same_topic(chosen[i - 1], chosen[i]);
    kafka_put_len(text, topics, rq->flexible);
    for (size_t i = 0; i < chosen_count;) {
        size_t n = i + 1;

        while (n < chosen_count && same_topic(chosen[i], chosen[n]))
            n++;
        if (rq->version >= 13)
            buf_put(text, chosen[i]->uuid, 16);
        else
            kafka_put_string(text, slice_str(chosen[i]->topic), rq->flexible);
        kafka_put_len(text, (int64_t)(n - i), rq->flexible);
        for (; i < n; i++) {
            put_part(a, chosen[i]);
            kafka_count_error(a->front, chosen[i]->code, 1);
            chosen[i]->told_high_watermark = chosen[i]->code != 0 ? -1 : chosen[i]->high_watermark;
            chosen[i]->told_start = chosen[i]->code != 0 ? -1 : chosen[i]->start;
        }
        if (rq->flexible)
            buf_put_u8(text, 0);
    }
}

static void put_head(struct answer *a, int16_t code, int32_t session_id)
{
    const struct kafka_request *rq = a->rq;
    struct buf *text = a->text;

    buf_clear(text);
    buf_clear(a->pieces);
    buf_put_be32(text, 0);
    buf_put_be32(text, (uint32_t)rq->correlation);
    if (rq->flexible)
        buf_put_u8(text, 0);
    buf_put_be32(text, 0); /* throttle time */
    if (rq->version >= 7) {
        buf_put_be16(text, (uint16_t)code);
        buf_put_be32(text, (uint32_t)session_id);
    }
}

/* A span on its way to the socket, with what keeps its file. */
struct sent_span {
    struct log_span span;
    struct stream *stream;
};

static void span_was_sent(void *arg)
{
    struct sent_span *sent = arg;

    log_span_release(&sent->span);
    stream_unref(sent->stream);
    mem_free(sent);
}

static void send_pieces(struct kafka_session *s, struct answer *a)
{
    struct buf *text = a->text;
    struct piece *pieces = (struct piece *)(void *)a->pieces->data;
    size_t piece_count = a->pieces->len / sizeof(*pieces);
    size_t total = text->len, from = 0;

    for (size_t i = 0; i < piece_count; i++)
        total += pieces[i].part->span.len;
    be32_put(text->data, (uint32_t)(total - 4));
    for (size_t i = 0; i < piece_count; i++) {
        struct fetch_part *p = pieces[i].part;
        struct sent_span *sent = mem_alloc(sizeof(*sent));

        conn_write(s->conn, text->data + from, pieces[i].at - from);
        from = pieces[i].at;
        sent->span = p->span;
        sent->stream = p->stream;
        stream_ref(p->stream);
        p->has_span = false; /* it is the connection's now */
        conn_write_file(s->conn, sent->span.fd, sent->span.pos, sent->span.len, span_was_sent, sent);
    }
    conn_write(s->conn, text->data + from, text->len - from);
    if (text->cap > 1u << 20)
        buf_fini(text);
}

static struct answer begin_answer(struct kafka_session *s, const struct kafka_request *rq, struct fetch *f)
{
    struct kafka_scratch *scratch = kafka_scratch_of(s);

    return (struct answer){&scratch->text, &scratch->pieces, &scratch->chosen, rq, f, s->front, s, {{0}, 0}};
}

void fetch_answer(struct kafka_session *s, const struct kafka_request *rq, struct fetch *f)
{
    struct answer a = begin_answer(s, rq, f);

    put_head(&a, 0, f->session_id);
    put_topics(&a);
    if (rq->flexible)
        kafka_put_node_endpoints(s, a.text, &a.hints);
    send_pieces(s, &a);
    fetch_release_spans(f);
}

void fetch_answer_error(struct kafka_session *s, const struct kafka_request *rq, int16_t code)
{
    struct answer a = begin_answer(s, rq, NULL);

    kafka_count_error(s->front, code, 1);
    put_head(&a, code, 0);
    kafka_put_len(a.text, 0, rq->flexible);
    if (rq->flexible)
        buf_put_u8(a.text, 0);
    send_pieces(s, &a);
}
