#include "log/batch.h"

#include "base/check.h"
#include "base/crc32c.h"
#include "base/err.h"

#define CRC_AT 17
#define CRC_FROM 21

int batch_header_read(const uint8_t *data, size_t len, struct batch_header *ret)
{
    uint32_t length;

    if (len < BATCH_HEADER_SIZE)
        return ERR_MORE;
    length = be32_get(data + 8);
    if (data[16] != 2 || length < BATCH_HEADER_SIZE - 12 || length > INT32_MAX - 12)
        return ERR_MALFORMED;
    ret->base_offset = (int64_t)be64_get(data);
    ret->length = length + 12;
    ret->leader_epoch = (int32_t)be32_get(data + 12);
    ret->crc = be32_get(data + CRC_AT);
    ret->attributes = be16_get(data + 21);
    ret->last_offset_delta = (int32_t)be32_get(data + 23);
    ret->base_timestamp = (int64_t)be64_get(data + 27);
    ret->max_timestamp = (int64_t)be64_get(data + 35);
    ret->producer_id = (int64_t)be64_get(data + 43);
    ret->producer_epoch = (int16_t)be16_get(data + 51);
    ret->base_sequence = (int32_t)be32_get(data + 53);
    ret->record_count = (int32_t)be32_get(data + 57);
    if (ret->base_offset < 0 || ret->last_offset_delta < 0 || ret->record_count < 0 ||
        ret->base_offset > INT64_MAX - 1 - ret->last_offset_delta)
        return ERR_MALFORMED;
    return 0;
}

bool batch_crc_ok(const uint8_t *data, const struct batch_header *h)
{
    return crc32c(0, data + CRC_FROM, h->length - CRC_FROM) == h->crc;
}

void batch_assign(uint8_t *data, int64_t base_offset, int32_t leader_epoch)
{
    be64_put(data, (uint64_t)base_offset);
    be32_put(data + 12, (uint32_t)leader_epoch);
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

void record_iter_init(struct record_iter *it, const struct batch_header *h, struct slice records)
{
    it->r = reader_of(records);
    it->h = h;
    it->left = h->record_count;
}

static struct slice read_nullable(struct reader *r)
{
    int64_t n = reader_varint(r);

    if (n == -1)
        return SLICE_NONE;
    if (n < 0 || (uint64_t)n > reader_left(r)) {
        r->bad = 1;
        return SLICE_NONE;
    }
    return reader_slice(r, (size_t)n);
}

int record_iter_next(struct record_iter *it, struct record *ret)
{
    struct reader body;
    struct slice bytes;
    int64_t length, delta, headers;

    if (it->left == 0)
        return 0;
    length = reader_varint(&it->r);
    if (it->r.bad || length < 0 || (uint64_t)length > reader_left(&it->r))
        return ERR_CORRUPT;
    bytes = reader_slice(&it->r, (size_t)length);
    body = reader_of(bytes);
    reader_u8(&body); /* attributes: unused in v2 */
    ret->timestamp = (int64_t)((uint64_t)it->h->base_timestamp + (uint64_t)reader_varint(&body));
    delta = reader_varint(&body);
    if (it->h->attributes & BATCH_ATTR_LOG_APPEND_TIME)
        ret->timestamp = it->h->max_timestamp;
    ret->key = read_nullable(&body);
    ret->value = read_nullable(&body);
    headers = reader_varint(&body);
    if (body.bad || delta < 0 || delta > it->h->last_offset_delta || headers < 0 ||
        (uint64_t)headers > reader_left(&body) / 2)
        return ERR_CORRUPT;
    ret->offset = it->h->base_offset + delta;
    ret->header_count = (uint32_t)headers;
    ret->headers = slice_of(body.p, reader_left(&body));
    it->left--;
    return 1;
}

static bool headers_ok(const struct record *rec)
{
    struct reader r = reader_of(rec->headers);

    for (uint32_t i = 0; i < rec->header_count && !r.bad; i++) {
        int64_t n = reader_varint(&r);

        if (r.bad || n < 0 || (uint64_t)n > reader_left(&r)) /* a header's key is never null */
            return false;
        reader_slice(&r, (size_t)n);
        read_nullable(&r);
    }
    return !r.bad && reader_left(&r) == 0;
}

static int validate_records(const struct batch_header *h, struct slice records)
{
    struct record_iter it;
    struct record rec;
    int64_t expected = h->base_offset;
    int rc;

    record_iter_init(&it, h, records);
    while ((rc = record_iter_next(&it, &rec)) == 1) {
        if (rec.offset != expected++ || !headers_ok(&rec))
            return ERR_MALFORMED;
    }
    if (rc < 0 || reader_left(&it.r) != 0)
        return ERR_MALFORMED;
    return 0;
}

int batch_validate(const uint8_t *data, size_t len, size_t max_bytes, struct batch_header *ret)
{
    struct slice records;
    struct buf plain = {0};
    unsigned codec;
    int err = batch_header_read(data, len, ret);

    if (err == ERR_MORE)
        return ERR_MALFORMED;
    if (err != 0)
        return err;
    if (ret->length > len)
        return ERR_MALFORMED;
    if (!batch_crc_ok(data, ret))
        return ERR_CORRUPT;
    if (ret->record_count < 1 || ret->last_offset_delta != ret->record_count - 1)
        return ERR_MALFORMED;
    records = slice_of(data + BATCH_HEADER_SIZE, ret->length - BATCH_HEADER_SIZE);
    codec = ret->attributes & BATCH_ATTR_CODEC;
    if (codec == BATCH_NONE)
        return validate_records(ret, records);
    err = batch_decompress((enum batch_codec)codec, records, max_bytes, &plain);
    if (err == 0)
        err = validate_records(ret, buf_slice(&plain));
    buf_fini(&plain);
    return err;
}

/* ---- building --------------------------------------------------------------------------------------------------- */

void batch_begin(struct batch_builder *b, int64_t timestamp_ms)
{
    buf_clear(&b->bytes);
    buf_reserve(&b->bytes, BATCH_HEADER_SIZE);
    buf_advance(&b->bytes, BATCH_HEADER_SIZE);
    b->count = 0;
    b->base_timestamp = b->max_timestamp = timestamp_ms;
    b->attributes = 0;
    b->producer_id = BATCH_NO_PRODUCER;
    b->producer_epoch = -1;
    b->base_sequence = -1;
}

void batch_set_producer(struct batch_builder *b, int64_t id, int16_t epoch, int32_t base_sequence)
{
    b->producer_id = id;
    b->producer_epoch = epoch;
    b->base_sequence = base_sequence;
}

static uint8_t *put_slice(uint8_t *p, struct slice s)
{
    if (s.len != 0)
        memcpy(p, s.data, s.len);
    return p + s.len;
}

void batch_add_parts(struct batch_builder *b, int64_t timestamp_ms, struct slice key_a, struct slice key_b,
                     const struct slice *parts, size_t part_count)
{
    int64_t ts_delta = timestamp_ms - b->base_timestamp;
    bool key_null = key_a.data == NULL && key_b.data == NULL;
    bool value_null = part_count == 0 || (part_count == 1 && parts[0].data == NULL);
    size_t key_len = key_a.len + key_b.len, value_len = 0, body;
    uint8_t *p;

    CHECK(b->bytes.len >= BATCH_HEADER_SIZE);
    for (size_t i = 0; i < part_count; i++)
        value_len += parts[i].len;
    body = 1 + varint_len(ts_delta) + varint_len(b->count) + varint_len(key_null ? -1 : (int64_t)key_len) + key_len +
           varint_len(value_null ? -1 : (int64_t)value_len) + value_len + 1;
    p = buf_reserve(&b->bytes, VARINT_MAX + body);
    b->record_start = b->bytes.len;
    p += varint_put(p, (int64_t)body);
    *p++ = 0;
    p += varint_put(p, ts_delta);
    p += varint_put(p, b->count);
    p += varint_put(p, key_null ? -1 : (int64_t)key_len);
    p = put_slice(put_slice(p, key_a), key_b);
    p += varint_put(p, value_null ? -1 : (int64_t)value_len);
    for (size_t i = 0; i < part_count; i++)
        p = put_slice(p, parts[i]);
    *p++ = 0; /* no headers */
    b->bytes.len = (size_t)(p - b->bytes.data);
    if (timestamp_ms > b->max_timestamp || b->count == 0)
        b->max_timestamp = timestamp_ms;
    b->count++;
}

void batch_add(struct batch_builder *b, int64_t timestamp_ms, struct slice key, struct slice value)
{
    batch_add_parts(b, timestamp_ms, key, SLICE_NONE, &value, 1);
}

struct slice batch_finish(struct batch_builder *b)
{
    uint8_t *p = b->bytes.data;

    CHECK(b->count > 0 && b->bytes.len <= INT32_MAX);
    be64_put(p, 0);
    be32_put(p + 8, (uint32_t)(b->bytes.len - 12));
    be32_put(p + 12, 0);
    p[16] = 2;
    be16_put(p + 21, b->attributes);
    be32_put(p + 23, (uint32_t)(b->count - 1));
    be64_put(p + 27, (uint64_t)b->base_timestamp);
    be64_put(p + 35, (uint64_t)b->max_timestamp);
    be64_put(p + 43, (uint64_t)b->producer_id);
    be16_put(p + 51, (uint16_t)b->producer_epoch);
    be32_put(p + 53, (uint32_t)b->base_sequence);
    be32_put(p + 57, (uint32_t)b->count);
    be32_put(p + CRC_AT, crc32c(0, p + CRC_FROM, b->bytes.len - CRC_FROM));
    return buf_slice(&b->bytes);
}

void batch_builder_fini(struct batch_builder *b)
{
    buf_fini(&b->bytes);
    *b = (struct batch_builder){0};
}
