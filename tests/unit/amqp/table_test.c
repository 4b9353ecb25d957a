/* Field tables: every type comes back as it went in, hostile bytes are refused, comparison is RabbitMQ's. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "base/err.h"
#include "protocols/amqp/table.h"

static void put_raw(struct buf *b, const char *name, char type, const void *data, size_t n)
{
    buf_put_u8(b, (uint8_t)strlen(name));
    buf_put_str(b, name);
    buf_put_u8(b, (uint8_t)type);
    buf_put(b, data, n);
}

Test(amqp_table, reads_every_type_of_rabbitmq)
{
    struct buf b = {0}, inner = {0};
    struct amqp_value v;

    amqp_table_put_i64(&inner, "n", 7);
    amqp_table_put_str(&b, "S", SLICE_LIT("text"));
    amqp_table_put_bool(&b, "t", true);
    amqp_table_put_i64(&b, "l", -5);
    amqp_table_put_i32(&b, "I", -6);
    amqp_table_put_table(&b, "F", buf_slice(&inner));
    put_raw(&b, "b", 'b', "\xff", 1);
    put_raw(&b, "B", 'B', "\xff", 1);
    put_raw(&b, "s", 's', "\xff\xfe", 2);
    put_raw(&b, "u", 'u', "\xff\xfe", 2);
    put_raw(&b, "i", 'i', "\xff\xff\xff\xfe", 4);
    put_raw(&b, "L", 'L', "\0\0\0\0\0\0\0\x09", 8);
    put_raw(&b, "T", 'T', "\0\0\0\0\0\0\0\x0a", 8);
    put_raw(&b, "f", 'f', "\x3f\x80\0\0", 4);
    put_raw(&b, "d", 'd', "\x40\0\0\0\0\0\0\0", 8);
    put_raw(&b, "D", 'D', "\x02\0\0\0\x7b", 5);
    put_raw(&b, "A", 'A',
            "\0\0\0\x03"
            "bAV",
            7);
    b.data[b.len - 2] = 5; /* array of i8 5, void */
    put_raw(&b, "x", 'x', "\0\0\0\x02\xca\xfe", 6);
    put_raw(&b, "V", 'V', "", 0);
    cr_assert_eq(amqp_table_check(buf_slice(&b)), 0);

    static const struct {
        const char *name, *type;
        int64_t i;
    } integers[] = {{"t", "bool", 1},
                    {"l", "long", -5},
                    {"I", "signedint", -6},
                    {"b", "byte", -1},
                    {"B", "unsignedbyte", 255},
                    {"s", "short", -2},
                    {"u", "unsignedshort", 65534},
                    {"i", "unsignedint", 4294967294},
                    {"L", "long", 9},
                    {"T", "timestamp", 10},
                    {"D", "decimal", 123}};
    for (size_t k = 0; k < sizeof(integers) / sizeof(integers[0]); k++) {
        cr_assert(amqp_table_find(buf_slice(&b), integers[k].name, &v), "%s", integers[k].name);
        cr_assert_eq(v.i, integers[k].i, "%s", integers[k].name);
        cr_assert_str_eq(amqp_value_type_name(&v), integers[k].type);
    }
    cr_assert(amqp_table_find(buf_slice(&b), "f", &v) && v.f == 1.0);
    cr_assert(amqp_table_find(buf_slice(&b), "d", &v) && v.f == 2.0);
    cr_assert(amqp_table_find(buf_slice(&b), "V", &v) && v.type == 'V');
    cr_assert(amqp_table_find(buf_slice(&b), "x", &v) && v.bytes.len == 2);
    cr_assert(amqp_table_find(buf_slice(&b), "F", &v) && amqp_table_find(v.bytes, "n", &v) && v.i == 7);
    cr_assert(amqp_table_find(buf_slice(&b), "A", &v));

    struct amqp_table_iter it;
    struct slice name;
    int n = 0;
    amqp_array_iter_init(&it, v.bytes);
    while (amqp_table_next(&it, &name, &v))
        n++;
    cr_assert_eq(n, 2);
    cr_assert_not(amqp_table_find(buf_slice(&b), "absent", &v));
    cr_assert_eq(v.type, 0);
    buf_fini(&b);
    buf_fini(&inner);
}

Test(amqp_table, every_truncation_is_refused_or_whole)
{
    struct buf b = {0};
    size_t ends[3];

    amqp_table_put_str(&b, "name", SLICE_LIT("value"));
    ends[0] = b.len;
    amqp_table_put_i64(&b, "n", 1);
    ends[1] = b.len;
    amqp_table_put_table(&b, "t",
                         SLICE_LIT("\x01"
                                   "ab\x01"));
    ends[2] = b.len;
    for (size_t n = 1; n <= b.len; n++) {
        /* An exact copy, so that a read past the end is seen by a sanitizer. */
        struct buf copy = {0};
        int want = n == ends[0] || n == ends[1] || n == ends[2] ? 0 : ERR_MALFORMED;

        buf_put(&copy, b.data, n);
        cr_assert_eq(amqp_table_check(buf_slice(&copy)), want, "at %zu", n);
        buf_fini(&copy);
    }
    buf_fini(&b);
}

Test(amqp_table, hostile_lengths_and_depth_are_refused)
{
    struct buf b = {0};

    put_raw(&b, "s", 'S', "\xff\xff\xff\xff", 4);
    cr_assert_eq(amqp_table_check(buf_slice(&b)), ERR_MALFORMED);
    b.len = 0;
    put_raw(&b, "s", 'Z', "", 0);
    cr_assert_eq(amqp_table_check(buf_slice(&b)), ERR_MALFORMED, "unknown type");
    b.len = 0;
    for (int depth = 1; depth < 40; depth++) {
        struct buf outer = {0};

        amqp_table_put_table(&outer, "t", buf_slice(&b));
        buf_fini(&b);
        b = outer;
        cr_assert_eq(amqp_table_check(buf_slice(&b)), depth < AMQP_TABLE_DEPTH_MAX ? 0 : ERR_MALFORMED,
                     "depth %d", depth);
    }
    buf_fini(&b);
}

Test(amqp_table, integers_compare_by_value_the_rest_by_type)
{
    struct amqp_value a = {.type = 'I', .i = 5}, b = {.type = 'l', .i = 5},
                      c = {.type = 'S', .bytes = SLICE_LIT("5")};

    cr_assert(amqp_value_eq(&a, &b));
    b.i = 6;
    cr_assert_not(amqp_value_eq(&a, &b));
    cr_assert_not(amqp_value_eq(&a, &c));
    cr_assert(amqp_value_eq(&c, &c));
}

Test(amqp_table, copy_without_leaves_one_name_out)
{
    struct buf b = {0}, out = {0}, want = {0};

    amqp_table_put_i32(&b, "a", 1);
    amqp_table_put_i32(&b, "BCC", 2);
    amqp_table_put_i32(&b, "c", 3);
    amqp_table_put_i32(&want, "a", 1);
    amqp_table_put_i32(&want, "c", 3);
    amqp_table_copy_without(&out, buf_slice(&b), "BCC");
    cr_assert(slice_eq(buf_slice(&out), buf_slice(&want)));
    buf_fini(&b);
    buf_fini(&out);
    buf_fini(&want);
}
