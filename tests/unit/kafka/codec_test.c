/* The codec against an encoder of the test's own: every version of every message, filled at random, must be
 * taken, walked and written again byte for byte, and no shorter or longer bytes may pass. Then a few messages
 * written out by hand. */
#include <criterion/criterion.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "protocols/kafka/api.h"

static const struct {
    const char *name;
    int16_t first, last;
    const struct kafka_message *messages[2];
} apis[] = {
#define X(NAME, key, first, last, base)                                                                      \
    {#NAME, first, last, {&kafka_##base##_request, &kafka_##base##_response}},
#include "protocols/kafka/apis.def"
#undef X
};

/* ---- an encoder that knows the rules of the wire, but not the codec ----------------------------------- */

static void put_unsigned(struct buf *b, uint64_t v)
{
    do {
        buf_put_u8(b, (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0)));
        v >>= 7;
    } while (v != 0);
}

static void put_length(struct buf *b, int64_t n, unsigned wide, bool flexible)
{
    if (flexible)
        put_unsigned(b, (uint64_t)(n + 1));
    else if (wide == 2)
        buf_put_be16(b, (uint16_t)n);
    else
        buf_put_be32(b, (uint32_t)n);
}

static void put_random(struct buf *b, struct rand *r, size_t n)
{
    while (n-- > 0)
        buf_put_u8(b, (uint8_t)rand_u64(r));
}

static void make_fields(const struct kafka_field *fields, int version, bool flexible, struct rand *r,
                        struct buf *b, bool tags);

static void make_value(const struct kafka_field *f, int version, bool flexible, bool nullable, struct rand *r,
                       struct buf *b, bool tags)
{
    static const size_t sizes[] = {[KAFKA_BOOL] = 1, [KAFKA_I8] = 1,  [KAFKA_I16] = 2,
                                   [KAFKA_I32] = 4,  [KAFKA_I64] = 8, [KAFKA_UUID] = 16};
    int64_t n = (int64_t)rand_below(r, rand_below(r, 20) == 0 ? 300 : 8);

    if (f->type == KAFKA_STRUCT_) {
        make_fields(f->fields, version, flexible, r, b, tags);
        return;
    }
    if (f->type == KAFKA_BOOL) {
        buf_put_u8(b, (uint8_t)rand_below(r, 2));
        return;
    }
    if (f->type != KAFKA_STRING && f->type != KAFKA_BYTES && f->type != KAFKA_RECORDS) {
        put_random(b, r, sizes[f->type]);
        return;
    }
    if (nullable && rand_below(r, 3) == 0)
        n = -1;
    put_length(b, n, f->type == KAFKA_STRING ? 2 : 4, flexible);
    if (n > 0)
        put_random(b, r, (size_t)n);
}

static void make_fields(const struct kafka_field *fields, int version, bool flexible, struct rand *r,
                        struct buf *b, bool tags)
{
    for (const struct kafka_field *f = fields; f->name != NULL; f++) {
        bool nullable = version >= f->null_first;
        int64_t n;

        if (version < f->first || version > f->last || f->tag != KAFKA_UNTAGGED)
            continue;
        if (f->arity != KAFKA_ARRAY_) {
            make_value(f, version, flexible, nullable, r, b, tags);
            continue;
        }
        n = nullable && rand_below(r, 3) == 0
                ? -1
                : (int64_t)rand_below(r, f->type != KAFKA_STRUCT_ && rand_below(r, 10) == 0 ? 200 : 4);
        put_length(b, n, 4, flexible);
        for (; n > 0; n--)
            make_value(f, version, flexible, false, r, b, tags);
    }
    if (!flexible)
        return;
    if (tags && rand_below(r, 3) == 0) {
        put_unsigned(b, 2);
        put_unsigned(b, 0);
        put_unsigned(b, 3);
        put_random(b, r, 3);
        put_unsigned(b, 1000);
        put_unsigned(b, 0);
    } else {
        put_unsigned(b, 0);
    }
}

/* ---- a copier: reads with kin, writes with kout ------------------------------------------------------- */

static void copy_fields(const struct kafka_field *fields, int version, struct kin *in, struct kout *out)
{
    for (const struct kafka_field *f = fields; f->name != NULL; f++) {
        if (f->tag != KAFKA_UNTAGGED)
            continue;
        if (f->arity == KAFKA_ARRAY_ && f->type == KAFKA_STRUCT_) {
            int64_t n = kin_array(in, f->name);

            if (n < 0) {
                cr_assert_not(kin_item(in));
                kout_array_null(out, f->name);
                continue;
            }
            kout_array(out, f->name);
            while (kin_item(in)) {
                kout_item(out);
                copy_fields(f->fields, version, in, out);
            }
            kout_array_end(out);
            continue;
        }
        if (f->arity == KAFKA_ARRAY_) {
            int64_t n = kin_list(in, f->name);

            if (n < 0) {
                kout_array_null(out, f->name);
                continue;
            }
            kout_list(out, f->name);
            for (; n > 0; n--) {
                if (f->type == KAFKA_I32) {
                    kout_elem_i32(out, kin_elem_i32(in));
                } else if (f->type == KAFKA_STRING) {
                    kout_elem_string(out, kin_elem_string(in));
                } else { /* no message of ours lists anything else for a handler to read */
                    cr_assert_eq(f->type, KAFKA_I8);
                    out->frames[out->depth].count++;
                    buf_put_u8(out->b, reader_u8(&in->r));
                }
            }
            kout_list_end(out);
            continue;
        }
        switch ((enum kafka_type)f->type) {
        case KAFKA_BOOL:
            kout_bool(out, f->name, kin_bool(in, f->name, false));
            break;
        case KAFKA_I8:
            kout_i8(out, f->name, kin_i8(in, f->name, 0));
            break;
        case KAFKA_I16:
            kout_i16(out, f->name, kin_i16(in, f->name, 0));
            break;
        case KAFKA_I32:
            kout_i32(out, f->name, kin_i32(in, f->name, 0));
            break;
        case KAFKA_I64:
            kout_i64(out, f->name, kin_i64(in, f->name, 0));
            break;
        case KAFKA_UUID:
            kout_uuid(out, f->name, kin_uuid(in, f->name));
            break;
        case KAFKA_STRING:
            kout_string(out, f->name, kin_string(in, f->name));
            break;
        case KAFKA_BYTES:
            kout_bytes(out, f->name, kin_bytes(in, f->name));
            break;
        case KAFKA_RECORDS: { /* only the hand-written paths touch them */
            struct slice s = kin_bytes(in, f->name);

            out->frames[out->depth].next = f + 1;
            if (version >= f->first && version <= f->last) {
                kafka_put_len(out->b, s.data == NULL ? -1 : (int64_t)s.len, out->flexible);
                buf_put_slice(out->b, s);
            }
            break;
        }
        default:
            cr_assert_fail("no such type");
        }
    }
}

static void walk_every_version(void (*visit)(const char *name, const struct kafka_message *m, int version,
                                             struct rand *r))
{
    struct rand r;

    rand_seed(&r, 20260101);
    for (unsigned i = 0; i < sizeof(apis) / sizeof(apis[0]); i++)
        for (int version = apis[i].first; version <= apis[i].last; version++)
            for (unsigned way = 0; way < 2; way++)
                for (unsigned round = 0; round < 40; round++)
                    visit(apis[i].name, apis[i].messages[way], version, &r);
}

static void round_trip(const char *name, const struct kafka_message *m, int version, struct rand *r)
{
    struct buf made = {0}, copied = {0};
    struct kin in;
    struct kout out;

    make_fields(m->fields, version, version >= m->flexible, r, &made, false);
    cr_assert_eq(kafka_check(m, version, buf_slice(&made)), 0, "%s %s v%d is refused", name, m->name,
                 version);
    kin_init(&in, m, version, buf_slice(&made));
    kout_init(&out, m, version, &copied);
    copy_fields(m->fields, version, &in, &out);
    kout_end(&out);
    cr_assert(slice_eq(buf_slice(&made), buf_slice(&copied)), "%s v%d: %zu bytes became %zu", m->name,
              version, made.len, copied.len);
    buf_fini(&made);
    buf_fini(&copied);
}

Test(codec, every_version_of_every_message_is_copied_byte_for_byte)
{
    walk_every_version(round_trip);
}

static void cut_and_extended(const char *name, const struct kafka_message *m, int version, struct rand *r)
{
    struct buf made = {0};
    uint8_t *exact;

    make_fields(m->fields, version, version >= m->flexible, r, &made, true);
    for (size_t n = made.len > 200 ? made.len - 200 : 0; n < made.len; n++) {
        exact = mem_alloc(n + 1); /* a read behind the end is seen by ASan */
        memcpy(exact, made.data, n);
        cr_assert_eq(kafka_check(m, version, slice_of(exact, n)), ERR_MALFORMED,
                     "%s v%d: %zu of %zu bytes pass", name, version, n, made.len);
        mem_free(exact);
    }
    cr_assert_eq(kafka_check(m, version, buf_slice(&made)), 0);
    buf_put_u8(&made, 0);
    cr_assert_eq(kafka_check(m, version, buf_slice(&made)), ERR_MALFORMED, "%s v%d takes a byte too many",
                 name, version);
    buf_fini(&made);
}

Test(codec, no_prefix_and_no_surplus_passes)
{
    walk_every_version(cut_and_extended);
}

static void flipped(const char *name, const struct kafka_message *m, int version, struct rand *r)
{
    struct buf made = {0};

    (void)name;
    make_fields(m->fields, version, version >= m->flexible, r, &made, true);
    for (unsigned i = 0; i < 20 && made.len != 0; i++) {
        uint8_t *at = made.data + rand_below(r, made.len), was = *at;
        struct kin in;
        struct kout out;
        struct buf copied = {0};

        *at = (uint8_t)rand_u64(r);
        if (kafka_check(m, version, buf_slice(&made)) == 0) { /* what passes can be walked without a fault */
            kin_init(&in, m, version, buf_slice(&made));
            kout_init(&out, m, version, &copied);
            copy_fields(m->fields, version, &in, &out);
            kout_end(&out);
            cr_assert_eq(in.r.bad, 0);
        }
        buf_fini(&copied);
        *at = was;
    }
    buf_fini(&made);
}

Test(codec, damaged_messages_are_refused_or_walked_safely)
{
    walk_every_version(flipped);
}

/* ---- by hand ------------------------------------------------------------------------------------------ */

#define BYTES(...) slice_of((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

Test(codec, metadata_request_of_version_1_null_means_all)
{
    struct kin in;

    cr_assert_eq(kafka_check(&kafka_metadata_request, 1, BYTES(0xff, 0xff, 0xff, 0xff)), 0);
    kin_init(&in, &kafka_metadata_request, 1, BYTES(0xff, 0xff, 0xff, 0xff));
    cr_assert_eq(kin_array(&in, "Topics"), -1);
    cr_assert_not(kin_item(&in));
    cr_assert(kin_bool(&in, "AllowAutoTopicCreation", true), "absent: the default");
    cr_assert_eq(kafka_check(&kafka_metadata_request, 0, BYTES(0xff, 0xff, 0xff, 0xff)), ERR_MALFORMED,
                 "version 0 knows no null");
}

Test(codec, fields_that_are_passed_over_are_skipped)
{
    struct slice five =
        slice_of((const uint8_t[]){0, 1, 'g', 0, 0, 0, 1, 0, 1, 't', 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 9}, 22);
    struct kin in;

    cr_assert_eq(kafka_check(&kafka_offset_fetch_request, 5, five), 0);
    kin_init(&in, &kafka_offset_fetch_request, 5, five);
    cr_assert(slice_eq(kin_string(&in, "GroupId"), SLICE_LIT("g")));
    cr_assert_eq(kin_array(&in, "Topics"), 1);
    cr_assert(kin_item(&in));
    cr_assert_not(kin_item(&in), "the element's fields were not read");
    cr_assert_eq(kin_array(&in, "Groups"), 0);
    cr_assert_not(kin_item(&in));
    cr_assert_not(kin_bool(&in, "RequireStable", false));
    cr_assert_eq(reader_left(&in.r), 0);
}

Test(codec, join_group_of_version_6_is_flexible)
{
    static const uint8_t want[] = {0,   0, 0,   5, 0,   0, 0, 0,   0, 1, 6, 'r', 'a', 'n', 'g',
                                   'e', 2, 'm', 2, 'm', 2, 2, 'm', 0, 3, 1, 2,   0,   0};
    struct buf b = {0};
    struct kout o;

    kout_init(&o, &kafka_join_group_response, 6, &b);
    kout_i32(&o, "ThrottleTimeMs", 5);
    kout_i16(&o, "ErrorCode", 0);
    kout_i32(&o, "GenerationId", 1);
    kout_str(&o, "ProtocolType", "consumer"); /* version 7 and newer */
    kout_str(&o, "ProtocolName", "range");
    kout_str(&o, "Leader", "m");
    kout_bool(&o, "SkipAssignment", true); /* version 9 */
    kout_str(&o, "MemberId", "m");
    kout_array(&o, "Members");
    kout_item(&o);
    kout_str(&o, "MemberId", "m");
    kout_str(&o, "GroupInstanceId", NULL);
    kout_bytes(&o, "Metadata", BYTES(1, 2));
    kout_array_end(&o);
    kout_end(&o);
    cr_assert(slice_eq(buf_slice(&b), slice_of(want, sizeof(want))), "%zu bytes", b.len);
    buf_fini(&b);
}

Test(codec, long_compact_arrays_count_in_more_than_one_byte)
{
    struct buf b = {0};
    struct kout o;
    struct reader r;

    kout_init(&o, &kafka_list_groups_response, 3, &b);
    kout_i32(&o, "ThrottleTimeMs", 0);
    kout_i16(&o, "ErrorCode", 0);
    kout_array(&o, "Groups");
    for (int i = 0; i < 20000; i++) {
        kout_item(&o);
        kout_str(&o, "GroupId", "g");
        kout_str(&o, "ProtocolType", "");
        kout_str(&o, "GroupState", "Empty");
        kout_str(&o, "GroupType", "classic");
    }
    kout_array_end(&o);
    kout_end(&o);
    cr_assert_eq(kafka_check(&kafka_list_groups_response, 3, buf_slice(&b)), 0);
    r = reader_of(slice_of(b.data + 6, 3));
    cr_assert_eq(reader_uvarint(&r), 20001);
    cr_assert_eq(b.len, 6 + 3 + 20000 * 4 + 1);
    buf_fini(&b);
}
