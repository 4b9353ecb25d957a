/* Kafka record batches, format v2: the only format of data on our disks (Kafka protocol guide, "Record Batch"; KIP-98).
 *
 *   offset size field
 *        0    8 base offset
 *        8    4 batch length: bytes behind this field
 *       12    4 partition leader epoch        (not under the CRC)
 *       16    1 magic = 2
 *       17    4 CRC32C of everything from 21 on
 *       21    2 attributes: 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
 *       23    4 last offset delta
 *       27    8 base timestamp, ms
 *       35    8 max timestamp, ms
 *       43    8 producer id
 *       51    2 producer epoch
 *       53    4 base sequence
 *       57    4 number of records
 *       61      records: length varint, attributes 1, timestamp delta varint, offset delta varint, key length varint,
 *               key, value length varint, value, header count varint, headers
 *
 * Pure functions and a builder owned by one thread. */
#ifndef GM_LOG_BATCH_H
#define GM_LOG_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define BATCH_HEADER_SIZE 61
#define BATCH_NO_PRODUCER (-1)

enum batch_codec { BATCH_NONE, BATCH_GZIP, BATCH_SNAPPY, BATCH_LZ4, BATCH_ZSTD };
enum {
    BATCH_ATTR_CODEC = 7,
    BATCH_ATTR_LOG_APPEND_TIME = 8,
    BATCH_ATTR_TRANSACTIONAL = 16,
    BATCH_ATTR_CONTROL = 32,
};

struct batch_header {
    int64_t base_offset;
    uint32_t length; /* of the whole batch: the field + 12 */
    int32_t leader_epoch;
    uint32_t crc;
    uint16_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp, max_timestamp;
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;
    int32_t record_count;
};

/* Decodes and checks sizes and magic, not the CRC. ERR_MORE when len < BATCH_HEADER_SIZE, ERR_MALFORMED. The batch need not be whole. */
int batch_header_read(const uint8_t *data, size_t len, struct batch_header *ret);
/* The CRC of a whole batch of h->length bytes at data. */
bool batch_crc_ok(const uint8_t *data, const struct batch_header *h);
/* Overwrites base offset and leader epoch in place; neither is under the CRC. */
void batch_assign(uint8_t *data, int64_t base_offset, int32_t leader_epoch);

struct record {
    int64_t offset;
    int64_t timestamp;
    struct slice key;   /* data == NULL: null */
    struct slice value; /* data == NULL: null */
    struct slice headers; /* raw: the headers' bytes behind their count */
    uint32_t header_count;
};

/* Iterates the records of one uncompressed records area (the bytes behind the header). */
struct record_iter {
    struct reader r;
    const struct batch_header *h; /* borrowed */
    int32_t left;
};
void record_iter_init(struct record_iter *it, const struct batch_header *h, struct slice records);
/* 1: *ret is the next record (borrowed from the batch's bytes); 0: end; ERR_CORRUPT. */
int record_iter_next(struct record_iter *it, struct record *ret);

/* Checks all a produce request must hold: whole batch, CRC, magic, count = last delta + 1, records parse and number gap-free (for an
 * uncompressed batch, or one whose codec is decompressed with at most `max_bytes` of output). ERR_CORRUPT, ERR_MALFORMED, ERR_UNSUPPORTED (codec), ERR_TOO_LARGE. */
int batch_validate(const uint8_t *data, size_t len, size_t max_bytes, struct batch_header *ret);
/* Decompresses the records area into out; BATCH_NONE copies. */
int batch_decompress(enum batch_codec codec, struct slice in, size_t max_bytes, struct buf *out);
int batch_compress(enum batch_codec codec, struct slice in, struct buf *out);

/* ---- building --------------------------------------------------------------------------------------------------
 * One builder a worker, reused: batch_begin clears it without freeing. The finished bytes stay valid until the next batch_begin. */
struct batch_builder {
    struct buf bytes; /* header room, then records */
    int32_t count;
    int64_t base_timestamp, max_timestamp;
    uint16_t attributes;
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;
    size_t record_start; /* of an open record, see batch_record_begin */
};
void batch_begin(struct batch_builder *b, int64_t timestamp_ms);
void batch_set_producer(struct batch_builder *b, int64_t id, int16_t epoch, int32_t base_sequence);
/* Adds a record; key or value with data == NULL is null. */
void batch_add(struct batch_builder *b, int64_t timestamp_ms, struct slice key, struct slice value);
/* The same from parts, without gathering first: key = key_a + key_b, value = the parts in order. */
void batch_add_parts(struct batch_builder *b, int64_t timestamp_ms, struct slice key_a, struct slice key_b,
                     const struct slice *parts, size_t part_count);
static inline bool batch_is_empty(const struct batch_builder *b)
{
    return b->count == 0;
}
/* Fills in the header (offset and epoch zero, CRC set); returns the batch. Not empty. */
struct slice batch_finish(struct batch_builder *b);
void batch_builder_fini(struct batch_builder *b);

#endif
