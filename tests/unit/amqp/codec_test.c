/* Frames and methods: what is encoded decodes to the same, for every row of methods.def; hostile sizes are
 * refused before anything is allocated. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "protocols/amqp/codec.h"

/* A distinct value for each field of each type, and its comparison. */
static unsigned next_value;
static amqp_octet any_octet(void)
{
    return (amqp_octet)++next_value;
}
static amqp_u16 any_u16(void)
{
    return (amqp_u16)(++next_value * 257);
}
static amqp_u32 any_u32(void)
{
    return ++next_value * 16843009u;
}
static amqp_u64 any_u64(void)
{
    return ++next_value * 72340172838076673ull;
}
static amqp_bit any_bit(void)
{
    return ++next_value % 3 == 0;
}
static amqp_shortstr any_shortstr(void)
{
    static const char text[] = "the quick brown fox jumps over the lazy dog";
    unsigned n = ++next_value % 40;

    return slice_of(text, n);
}
static amqp_longstr any_longstr(void)
{
    return any_shortstr();
}
static amqp_table any_table(void)
{
    static const uint8_t bytes[] = {1, 'a', 'B', 7, 1, 'b', 't', 1};

    return ++next_value % 2 ? slice_of(bytes, sizeof(bytes)) : SLICE_NONE;
}
#define SAME_octet(a, b) ((a) == (b))
#define SAME_u16 SAME_octet
#define SAME_u32 SAME_octet
#define SAME_u64 SAME_octet
#define SAME_bit SAME_octet
#define SAME_shortstr slice_eq
#define SAME_longstr slice_eq
#define SAME_table slice_eq

/* Comparison, from the table, too. */
#define F(ftype, fname) &&SAME_##ftype(a->fname, b->fname)
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    static bool same_##class##_##method(const struct amqp_##class##_##method *a,                             \
                                        const struct amqp_##class##_##method *b)                             \
    {                                                                                                        \
        (void)a, (void)b;                                                                                    \
        return true fields;                                                                                  \
    }
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef F
#undef CLIENT
#undef SERVER
#undef BOTH

Test(amqp_codec, every_method_round_trips_and_no_truncation_passes)
{
    struct buf b = {0};
    struct amqp_frame frame;
    size_t rows = 0;

#define F(ftype, fname) sent.fname = any_##ftype();
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    {                                                                                                        \
        struct amqp_##class##_##method sent;                                                                 \
        memset(&sent, 0, sizeof(sent));                                                                      \
        fields;                                                                                              \
        buf_clear(&b);                                                                                       \
        amqp_put_##class##_##method(&b, 9, &sent);                                                           \
        cr_assert_eq(amqp_frame_read(buf_slice(&b), 131072, &frame), (ssize_t)b.len);                        \
        cr_assert_eq(frame.type, AMQP_FRAME_METHOD);                                                         \
        cr_assert_eq(frame.channel, 9);                                                                      \
        cr_assert_eq(be32_get(frame.payload.data), (uint32_t)AMQP_ID_##class##_##method);                    \
        cr_assert_eq(amqp_method_find(AMQP_ID_##class##_##method)->synchronous, sync);                       \
        struct slice rest = slice_of(frame.payload.data + 4, frame.payload.len - 4);                         \
        struct amqp_##class##_##method got;                                                                  \
        cr_assert_eq(amqp_get_##class##_##method(rest, &got), 0, "%s.%s", #class, #method);                  \
        cr_assert(same_##class##_##method(&sent, &got), "%s.%s", #class, #method);                           \
        for (size_t n = 0; n < rest.len; n++)                                                                \
            cr_assert_eq(amqp_get_##class##_##method(slice_of(rest.data, n), &got), ERR_MALFORMED);          \
        cr_assert_eq(amqp_get_##class##_##method(slice_of(rest.data, rest.len + 1), &got), ERR_MALFORMED);   \
        rows++;                                                                                              \
    }
#define SERVER CLIENT
#define BOTH CLIENT
    for (int round = 0; round < 5; round++) {
#include "protocols/amqp/methods.def"
    }
#undef F
#undef CLIENT
#undef SERVER
#undef BOTH
    cr_assert_eq(rows, 5 * amqp_method_count);
    buf_fini(&b);
}

Test(amqp_codec, method_ids_are_those_of_the_specification)
{
    cr_assert_eq(AMQP_ID_exchange_unbind_ok, 40 << 16 | 51);
    cr_assert_eq(AMQP_ID_basic_nack, 60 << 16 | 120);
    cr_assert_eq(AMQP_ID_confirm_select, 85 << 16 | 10);
    for (size_t i = 0; i < amqp_method_count; i++) {
        for (size_t k = i + 1; k < amqp_method_count; k++)
            cr_assert_neq(amqp_methods[i].id, amqp_methods[k].id);
    }
    cr_assert_null(amqp_method_find(60 << 16 | 200));
}

Test(amqp_codec, bits_share_an_octet_lowest_first)
{
    struct buf b = {0};
    struct amqp_queue_declare m = {.queue = SLICE_LIT("q"), .durable = true, .auto_delete = true};

    amqp_put_queue_declare(&b, 1, &m);
    /* header 7, ids 4, ticket 2, name 2, bits 1, table 4, end 1 */
    cr_assert_eq(b.len, 21);
    cr_assert_eq(b.data[15], 0x02 | 0x08);
    buf_fini(&b);
}

Test(amqp_codec, frames_are_bounded_and_end_with_ce)
{
    struct amqp_frame f;
    static const uint8_t big[] = {1, 0, 1, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t bad_end[] = {8, 0, 0, 0, 0, 0, 0, 0xCD};
    static const uint8_t fudge[] = {3, 0, 1, 0, 0, 0x10, 0};

    cr_assert_eq(amqp_frame_read(slice_of(big, 6), 4096, &f), 0);
    cr_assert_eq(amqp_frame_read(slice_of(big, 7), 4096, &f), ERR_TOO_LARGE);
    cr_assert_eq(f.payload.len, 0xffffffffu);
    cr_assert_eq(amqp_frame_read(slice_of(bad_end, 8), 4096, &f), ERR_MALFORMED);
    /* Off by the overhead is forgiven, as RabbitMQ does. */
    cr_assert_eq(amqp_frame_read(slice_of(fudge, 7), 4096, &f), 0);
    cr_assert_eq(amqp_frame_read(slice_of(fudge, 7), 4095, &f), ERR_TOO_LARGE);
}

Test(amqp_codec, properties_round_trip_and_extra_flag_words_are_refused)
{
    struct buf b = {0};
    struct amqp_properties p = {.flags = AMQP_HAS_content_type | AMQP_HAS_headers | AMQP_HAS_delivery_mode |
                                         AMQP_HAS_timestamp | AMQP_HAS_cluster_id,
                                .content_type = SLICE_LIT("text/plain"),
                                .headers = SLICE_LIT("\x01"
                                                     "at\x01"),
                                .delivery_mode = 2,
                                .timestamp = 1234567890123ull,
                                .cluster_id = SLICE_LIT("c")};
    struct amqp_properties got;

    amqp_properties_write(&p, &b);
    cr_assert_eq(amqp_properties_read(buf_slice(&b), &got), 0);
    cr_assert_eq(got.flags, p.flags);
    cr_assert(slice_eq(got.content_type, p.content_type));
    cr_assert(slice_eq(got.headers, p.headers));
    cr_assert_eq(got.delivery_mode, 2);
    cr_assert_eq(got.timestamp, p.timestamp);
    cr_assert(slice_eq(got.cluster_id, p.cluster_id));
    cr_assert(slice_eq(got.raw, buf_slice(&b)));
    for (size_t n = 0; n < b.len; n++)
        cr_assert_eq(amqp_properties_read(slice_of(b.data, n), &got), ERR_MALFORMED);
    cr_assert_eq(amqp_properties_read(SLICE_LIT("\0\x01"), &got), ERR_MALFORMED);
    cr_assert_eq(amqp_properties_read(SLICE_LIT("\0\0"), &got), 0);
    buf_fini(&b);
}

Test(amqp_codec, content_is_split_to_frame_max)
{
    struct buf b = {0};
    struct amqp_frame f;
    uint8_t body[10000];
    size_t at = 0, seen = 0;
    uint64_t size;
    uint16_t class_id;
    struct slice properties;

    memset(body, 'x', sizeof(body));
    amqp_put_content(&b, 3, 4096, SLICE_LIT("\0\0"), slice_of(body, sizeof(body)));
    ssize_t n = amqp_frame_read(buf_slice(&b), 4096, &f);
    cr_assert_gt(n, 0);
    cr_assert_eq(f.type, AMQP_FRAME_CONTENT_HEADER);
    cr_assert_eq(amqp_content_header_read(f.payload, &class_id, &size, &properties), 0);
    cr_assert_eq(class_id, 60);
    cr_assert_eq(size, sizeof(body));
    cr_assert_eq(properties.len, 2);
    for (at = (size_t)n; at < b.len; at += (size_t)n) {
        n = amqp_frame_read(slice_of(b.data + at, b.len - at), 4096, &f);
        cr_assert_gt(n, 0);
        cr_assert_leq(n, 4096);
        cr_assert_eq(f.type, AMQP_FRAME_BODY);
        seen += f.payload.len;
    }
    cr_assert_eq(seen, sizeof(body));
    b.len = 0;
    amqp_put_content(&b, 3, 4096, SLICE_LIT("\0\0"), SLICE_NONE);
    cr_assert_eq(b.len, 8 + 14, "an empty body has no body frame");
    buf_fini(&b);
}

Test(amqp_codec, every_reply_code_has_a_name_and_a_level)
{
    size_t n = 0;

#define X(name, code, level)                                                                                 \
    cr_assert_str_eq(amqp_reply_name(code), #name);                                                          \
    cr_assert_eq(amqp_reply_is_hard(code), #level[1] == 'O');                                                \
    n++;
#include "protocols/amqp/replies.def"
#undef X
    cr_assert_eq(n, 19);
    cr_assert_null(amqp_reply_name(999));
}
