#include "cluster/replicate/codec.h"

#include "base/err.h"

#define OFFSET_MAX (INT64_MAX / 2)

static int64_t offset_get(struct reader *r)
{
    uint64_t v = reader_uvarint(r);

    if (v > OFFSET_MAX)
        r->bad = 1;
    return r->bad ? 0 : (int64_t)v;
}

static int32_t epoch_get(struct reader *r)
{
    int64_t v = reader_varint(r);

    if (v < -1 || v > INT32_MAX)
        r->bad = 1;
    return r->bad ? -1 : (int32_t)v;
}

static uint32_t u32_get(struct reader *r)
{
    uint64_t v = reader_uvarint(r);

    if (v > UINT32_MAX)
        r->bad = 1;
    return r->bad ? 0 : (uint32_t)v;
}

static int verdict_of(const struct reader *r)
{
    return r->bad ? ERR_MALFORMED : 0;
}

static void identity_put(struct buf *b, const struct log_key *k)
{
    buf_put_u8(b, k->kind);
    buf_put_uvarint(b, k->id);
    buf_put_uvarint(b, k->index);
}

static void identity_get(struct reader *r, struct log_key *ret)
{
    ret->kind = reader_u8(r);
    ret->id = reader_uvarint(r);
    ret->index = u32_get(r);
    if (ret->kind > LOG_TOPIC)
        r->bad = 1;
}

void log_key_put(struct buf *b, const struct log_key *k)
{
    buf_put_uvarint(b, k->partition);
    identity_put(b, k);
}

int log_key_get(struct reader *r, struct log_key *ret)
{
    ret->partition = u32_get(r);
    identity_get(r, ret);
    return verdict_of(r);
}

void fetch_request_put(struct buf *b, const struct fetch_request *q)
{
    buf_put_u8(b, FETCH_VERSION);
    buf_put_be64(b, q->session);
    buf_put_uvarint(b, q->wait_ms);
    buf_put_uvarint(b, q->max_bytes);
    buf_put_uvarint(b, q->parts);
}

int fetch_request_get(struct reader *r, struct fetch_request *ret)
{
    if (reader_u8(r) != FETCH_VERSION)
        r->bad = 1;
    ret->session = reader_be64(r);
    ret->wait_ms = u32_get(r);
    ret->max_bytes = u32_get(r);
    ret->parts = reader_uvarint(r);
    return verdict_of(r);
}

void fetch_part_put(struct buf *b, uint32_t partition, unsigned flags, int32_t epoch)
{
    buf_put_uvarint(b, partition);
    buf_put_u8(b, (uint8_t)flags);
    buf_put_varint(b, epoch);
}

int fetch_part_get(struct reader *r, uint32_t *ret_partition, unsigned *ret_flags, int32_t *ret_epoch)
{
    *ret_partition = u32_get(r);
    *ret_flags = reader_u8(r);
    *ret_epoch = epoch_get(r);
    return verdict_of(r);
}

void fetch_position_put(struct buf *b, const struct fetch_position *p)
{
    log_key_put(b, &p->key);
    buf_put_uvarint(b, (uint64_t)p->end);
    buf_put_varint(b, p->epoch);
    buf_put_uvarint(b, (uint64_t)p->durable);
}

int fetch_position_get(struct reader *r, struct fetch_position *ret)
{
    log_key_get(r, &ret->key);
    ret->end = offset_get(r);
    ret->epoch = epoch_get(r);
    ret->durable = offset_get(r);
    return verdict_of(r);
}

void fetch_answer_put(struct buf *b, const struct fetch_answer *a)
{
    buf_put_u8(b, FETCH_VERSION);
    buf_put_u8(b, a->unknown_session);
    buf_put_be64(b, a->session);
    buf_put_uvarint(b, a->parts);
}

int fetch_answer_get(struct reader *r, struct fetch_answer *ret)
{
    if (reader_u8(r) != FETCH_VERSION)
        r->bad = 1;
    ret->unknown_session = reader_u8(r) & 1;
    ret->session = reader_be64(r);
    ret->parts = reader_uvarint(r);
    return verdict_of(r);
}

void fetch_verdict_put(struct buf *b, uint32_t partition, enum fetch_verdict verdict, int32_t epoch)
{
    buf_put_uvarint(b, partition);
    buf_put_u8(b, (uint8_t)verdict);
    buf_put_varint(b, epoch);
}

int fetch_verdict_get(struct reader *r, uint32_t *ret_partition, enum fetch_verdict *ret, int32_t *ret_epoch)
{
    unsigned v;

    *ret_partition = u32_get(r);
    v = reader_u8(r);
    *ret_epoch = epoch_get(r);
    if (v > FETCH_AHEAD)
        r->bad = 1;
    *ret = (enum fetch_verdict)v;
    return verdict_of(r);
}

void fetch_log_put(struct buf *b, const struct fetch_log *l)
{
    buf_put_uvarint(b, l->key.partition);
    buf_put_varint(b, l->epoch);
    identity_put(b, &l->key);
    buf_put_u8(b, (uint8_t)l->status);
    buf_put_uvarint(b, (uint64_t)l->start);
    buf_put_uvarint(b, (uint64_t)l->hw);
    if (l->status == FETCH_DIVERGED)
        buf_put_varint(b, l->diverged_epoch);
    if (l->status == FETCH_DIVERGED || l->status == FETCH_RANGE)
        buf_put_uvarint(b, (uint64_t)l->end);
}

int fetch_log_get(struct reader *r, struct fetch_log *ret)
{
    unsigned status;

    *ret = (struct fetch_log){.key.partition = u32_get(r)};
    ret->epoch = epoch_get(r);
    identity_get(r, &ret->key);
    status = reader_u8(r);
    if (status > FETCH_RANGE)
        r->bad = 1;
    ret->status = (enum fetch_status)status;
    ret->start = offset_get(r);
    ret->hw = offset_get(r);
    if (status == FETCH_DIVERGED)
        ret->diverged_epoch = epoch_get(r);
    if (status == FETCH_DIVERGED || status == FETCH_RANGE)
        ret->end = offset_get(r);
    if (status == FETCH_DATA)
        ret->data = reader_lslice(r);
    return verdict_of(r);
}

void log_end_put(struct buf *b, const struct log_end_entry *e)
{
    identity_put(b, &e->key);
    buf_put_uvarint(b, (uint64_t)e->start);
    buf_put_uvarint(b, (uint64_t)e->end);
    buf_put_varint(b, e->epoch);
}

int log_end_get(struct reader *r, uint32_t partition, struct log_end_entry *ret)
{
    *ret = (struct log_end_entry){.key.partition = partition};
    identity_get(r, &ret->key);
    ret->start = offset_get(r);
    ret->end = offset_get(r);
    ret->epoch = epoch_get(r);
    return verdict_of(r);
}
