#include "cluster/member/wire.h"

#include "base/err.h"

#define WIRE_VERSION 1

void heartbeat_put(struct buf *b, const struct heartbeat *h)
{
    buf_put_u8(b, WIRE_VERSION);
    buf_put_be32(b, h->node_id);
    buf_put_be64(b, h->node_epoch);
    buf_put_be64(b, h->applied);
    buf_put_be32(b, h->sync_age_ms);
    buf_put_be32(b, h->replication_age_ms);
    buf_put_be64(b, (uint64_t)h->wall_ms);
    buf_put_uvarint(b, h->refuse_count);
    for (unsigned i = 0; i < h->refuse_count; i++)
        buf_put_uvarint(b, h->refuses[i]);
}

/* A newer build may add fields behind those that are known here: they are left unread. */
static int begin(struct reader *r)
{
    return reader_u8(r) >= WIRE_VERSION ? 0 : ERR_MALFORMED;
}

int heartbeat_get(struct slice in, struct heartbeat *ret)
{
    struct reader r = reader_of(in);
    uint64_t n;
    int err = begin(&r);

    ret->node_id = reader_be32(&r);
    ret->node_epoch = reader_be64(&r);
    ret->applied = reader_be64(&r);
    ret->sync_age_ms = reader_be32(&r);
    ret->replication_age_ms = reader_be32(&r);
    ret->wall_ms = (int64_t)reader_be64(&r);
    n = reader_uvarint(&r);
    if (n > REFUSED_MAX)
        return ERR_MALFORMED;
    ret->refuse_count = (unsigned)n;
    for (unsigned i = 0; i < ret->refuse_count; i++)
        ret->refuses[i] = (uint32_t)reader_uvarint(&r);
    return r.bad ? ERR_MALFORMED : err;
}

void heartbeat_answer_put(struct buf *b, const struct heartbeat_answer *a)
{
    buf_put_u8(b, WIRE_VERSION);
    buf_put_u8(b, a->granted);
    buf_put_be64(b, a->index);
}

int heartbeat_answer_get(struct slice in, struct heartbeat_answer *ret)
{
    struct reader r = reader_of(in);
    int err = begin(&r);

    ret->granted = reader_u8(&r) & 1;
    ret->index = reader_be64(&r);
    return r.bad ? ERR_MALFORMED : err;
}

void handover_put(struct buf *b, const struct handover *h)
{
    buf_put_u8(b, WIRE_VERSION);
    buf_put_be32(b, h->partition);
    buf_put_be32(b, (uint32_t)h->epoch);
    buf_put_be32(b, h->to);
}

int handover_get(struct slice in, struct handover *ret)
{
    struct reader r = reader_of(in);
    int err = begin(&r);

    ret->partition = reader_be32(&r);
    ret->epoch = (int32_t)reader_be32(&r);
    ret->to = reader_be32(&r);
    return r.bad ? ERR_MALFORMED : err;
}

void question_put(struct buf *b, enum question q)
{
    buf_put_u8(b, WIRE_VERSION);
    buf_put_u8(b, (uint8_t)q);
}

int question_get(struct reader *r, enum question *ret)
{
    int err = begin(r);

    *ret = (enum question)reader_u8(r);
    return r->bad ? ERR_MALFORMED : err;
}

void node_infos_put(struct buf *b, const struct member_node_info *infos, unsigned n)
{
    buf_put_uvarint(b, n);
    for (unsigned i = 0; i < n; i++) {
        buf_put_uvarint(b, infos[i].node_id);
        buf_put_varint(b, infos[i].heard_ms_ago);
        buf_put_uvarint(b, infos[i].sync_age_ms);
        buf_put_uvarint(b, infos[i].replication_age_ms);
        buf_put_varint(b, infos[i].clock_skew_ms);
    }
}

int node_infos_get(struct slice in, struct member_node_info *ret, unsigned max)
{
    struct reader r = reader_of(in);
    uint64_t n = reader_uvarint(&r);

    if (n > max)
        n = max;
    for (unsigned i = 0; i < n; i++) {
        ret[i].node_id = (uint32_t)reader_uvarint(&r);
        ret[i].heard_ms_ago = reader_varint(&r);
        ret[i].sync_age_ms = (uint32_t)reader_uvarint(&r);
        ret[i].replication_age_ms = (uint32_t)reader_uvarint(&r);
        ret[i].clock_skew_ms = reader_varint(&r);
    }
    return r.bad ? ERR_MALFORMED : (int)n;
}
