#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/rand.h"
#include "log/batch.h"

static struct slice lit(const char *s)
{
    return slice_str(s);
}

static void three_records(struct batch_builder *b)
{
    struct slice parts[2] = {lit("va"), lit("lue")};

    batch_begin(b, 1000);
    batch_add(b, 1000, lit("k0"), lit("v0"));
    batch_add(b, 1500, SLICE_NONE, SLICE_NONE);
    batch_add_parts(b, 900, lit("ke"), lit("y"), parts, 2);
}

Test(batch, what_is_built_reads_back)
{
    struct batch_builder b = {0};
    struct batch_header h;
    struct record_iter it;
    struct record r;
    struct slice s;

    three_records(&b);
    s = batch_finish(&b);
    cr_assert_eq(batch_validate(s.data, s.len, 1 << 20, &h), 0);
    cr_assert_eq(h.length, s.len);
    cr_assert_eq(h.record_count, 3);
    cr_assert_eq(h.last_offset_delta, 2);
    cr_assert_eq(h.base_timestamp, 1000);
    cr_assert_eq(h.max_timestamp, 1500);
    cr_assert_eq(h.producer_id, BATCH_NO_PRODUCER);
    batch_assign((uint8_t *)s.data, 77, 5);
    cr_assert_eq(batch_validate(s.data, s.len, 1 << 20, &h), 0, "offset and epoch are not under the CRC");
    cr_assert_eq(h.base_offset, 77);
    cr_assert_eq(h.leader_epoch, 5);
    record_iter_init(&it, &h, slice_of(s.data + BATCH_HEADER_SIZE, s.len - BATCH_HEADER_SIZE));
    cr_assert_eq(record_iter_next(&it, &r), 1);
    cr_assert_eq(r.offset, 77);
    cr_assert(slice_eq(r.key, lit("k0")));
    cr_assert(slice_eq(r.value, lit("v0")));
    cr_assert_eq(record_iter_next(&it, &r), 1);
    cr_assert_null(r.key.data);
    cr_assert_null(r.value.data);
    cr_assert_eq(r.timestamp, 1500);
    cr_assert_eq(record_iter_next(&it, &r), 1);
    cr_assert(slice_eq(r.key, lit("key")));
    cr_assert(slice_eq(r.value, lit("value")));
    cr_assert_eq(r.timestamp, 900);
    cr_assert_eq(record_iter_next(&it, &r), 0);
    batch_builder_fini(&b);
}

Test(batch, any_flipped_bit_is_refused)
{
    struct batch_builder b = {0};
    struct batch_header h;
    struct slice s;
    uint8_t copy[512];

    three_records(&b);
    s = batch_finish(&b);
    cr_assert_leq(s.len, sizeof(copy));
    for (size_t i = 8; i < s.len; i++) {
        if (i >= 12 && i < 16)
            continue; /* the epoch, not covered */
        for (int bit = 0; bit < 8; bit++) {
            memcpy(copy, s.data, s.len);
            copy[i] ^= (uint8_t)(1 << bit);
            cr_assert_neq(batch_validate(copy, s.len, 1 << 20, &h), 0, "byte %zu bit %d", i, bit);
        }
    }
    batch_builder_fini(&b);
}

Test(batch, short_input_is_never_read_past)
{
    struct batch_builder b = {0};
    struct batch_header h;
    struct slice s;

    three_records(&b);
    s = batch_finish(&b);
    for (size_t n = 0; n < s.len; n++) {
        cr_assert_eq(batch_validate(s.data, n, 1 << 20, &h), ERR_MALFORMED);
        if (n < BATCH_HEADER_SIZE)
            cr_assert_eq(batch_header_read(s.data, n, &h), ERR_MORE);
    }
    batch_builder_fini(&b);
}

static size_t recompress(struct slice s, enum batch_codec codec, struct buf *out)
{
    uint8_t *p;

    buf_put(out, s.data, BATCH_HEADER_SIZE);
    cr_assert_eq(batch_compress(codec, slice_of(s.data + BATCH_HEADER_SIZE, s.len - BATCH_HEADER_SIZE), out), 0);
    p = out->data;
    be32_put(p + 8, (uint32_t)out->len - 12);
    be16_put(p + 21, (uint16_t)codec);
    be32_put(p + 17, crc32c(0, p + 21, out->len - 21));
    return out->len;
}

Test(batch, every_codec_comes_back_and_is_bounded)
{
    struct batch_builder b = {0};
    struct rand rnd;
    struct slice s, records;

    rand_seed(&rnd, 1);
    batch_begin(&b, 1);
    for (int i = 0; i < 3000; i++) {
        char text[64];

        snprintf(text, sizeof(text), "value %d %llu", i, (unsigned long long)rand_below(&rnd, 1000000));
        batch_add(&b, 1, lit("key"), lit(text));
    }
    s = batch_finish(&b);
    records = slice_of(s.data + BATCH_HEADER_SIZE, s.len - BATCH_HEADER_SIZE);
    for (int codec = BATCH_NONE; codec <= BATCH_ZSTD; codec++) {
        struct buf packed = {0}, whole = {0}, plain = {0};
        struct batch_header h;

        cr_assert_eq(batch_compress(codec, records, &packed), 0);
        cr_assert_eq(batch_decompress(codec, buf_slice(&packed), records.len, &plain), 0, "codec %d", codec);
        cr_assert(slice_eq(buf_slice(&plain), records), "codec %d", codec);
        buf_clear(&plain);
        cr_assert_eq(batch_decompress(codec, buf_slice(&packed), records.len - 1, &plain), ERR_TOO_LARGE, "codec %d", codec);
        for (size_t cut = 1; codec != BATCH_NONE && cut < packed.len; cut += 997) {
            buf_clear(&plain);
            int err = batch_decompress(codec, slice_of(packed.data, packed.len - cut), records.len, &plain);
            cr_assert(err == ERR_CORRUPT || plain.len < records.len, "codec %d cut %zu err %d", codec, cut, err);
        }
        recompress(s, codec, &whole);
        cr_assert_eq(batch_validate(whole.data, whole.len, records.len, &h), 0, "codec %d", codec);
        cr_assert_eq(h.record_count, 3000);
        buf_fini(&packed);
        buf_fini(&whole);
        buf_fini(&plain);
    }
    batch_builder_fini(&b);
}

Test(batch, raw_snappy_of_librdkafka_is_read_too)
{
    /* snappy_compress("aaaaaaaaaaaaaaaaaaaa"), one raw block */
    static const uint8_t raw[] = {20, 0x00, 'a', 0x4a, 0x01, 0x00};
    struct buf out = {0};

    cr_assert_eq(batch_decompress(BATCH_SNAPPY, slice_of(raw, sizeof(raw)), 100, &out), 0);
    cr_assert(slice_eq(buf_slice(&out), lit("aaaaaaaaaaaaaaaaaaaa")));
    buf_fini(&out);
}

Test(batch, a_bomb_stops_at_the_bound)
{
    struct buf zeros = {0};

    buf_reserve(&zeros, 8 << 20);
    memset(zeros.data, 0, 8 << 20);
    zeros.len = 8 << 20;
    for (int codec = BATCH_GZIP; codec <= BATCH_ZSTD; codec++) {
        struct buf packed = {0}, out = {0};

        cr_assert_eq(batch_compress(codec, buf_slice(&zeros), &packed), 0);
        cr_assert_eq(batch_decompress(codec, buf_slice(&packed), 100000, &out), ERR_TOO_LARGE);
        cr_assert_leq(out.cap, 512 * 1024, "codec %d took %zu", codec, out.cap);
        buf_fini(&packed);
        buf_fini(&out);
    }
    buf_fini(&zeros);
}

Test(batch, unknown_codec_and_wrong_counts)
{
    struct batch_builder b = {0};
    struct batch_header h;
    struct slice s;
    uint8_t *p;

    three_records(&b);
    s = batch_finish(&b);
    p = (uint8_t *)s.data;
    be16_put(p + 21, 5);
    be32_put(p + 17, crc32c(0, p + 21, s.len - 21));
    cr_assert_eq(batch_validate(s.data, s.len, 1 << 20, &h), ERR_UNSUPPORTED);
    be16_put(p + 21, 0);
    be32_put(p + 57, 2);
    be32_put(p + 17, crc32c(0, p + 21, s.len - 21));
    cr_assert_eq(batch_validate(s.data, s.len, 1 << 20, &h), ERR_MALFORMED);
    be32_put(p + 57, 4);
    be32_put(p + 23, 3);
    be32_put(p + 17, crc32c(0, p + 21, s.len - 21));
    cr_assert_eq(batch_validate(s.data, s.len, 1 << 20, &h), ERR_MALFORMED, "more records announced than there are");
    batch_builder_fini(&b);
}
