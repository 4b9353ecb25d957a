/* Headers exchanges and CC/BCC: pure matching. */
#include <criterion/criterion.h>

#include "protocols/amqp/route.h"

static struct slice table(struct buf *b, const char *match, int a, int x)
{
    buf_clear(b);
    if (match != NULL)
        amqp_table_put_str(b, "x-match", slice_str(match));
    if (a != 0)
        amqp_table_put_i32(b, "a", a);
    if (x != 0)
        amqp_table_put_i64(b, "x-b", x);
    return buf_slice(b);
}

Test(amqp_headers, all_and_any_with_and_without_x)
{
    struct buf b = {0}, m = {0};

    cr_assert(amqp_headers_match(table(&b, "all", 1, 0), table(&m, NULL, 1, 0)));
    cr_assert_not(amqp_headers_match(table(&b, "all", 1, 0), table(&m, NULL, 2, 0)));
    cr_assert_not(amqp_headers_match(table(&b, "all", 1, 0), table(&m, NULL, 0, 0)));
    cr_assert(amqp_headers_match(table(&b, NULL, 1, 5), table(&m, NULL, 1, 0)), "x- keys do not count");
    cr_assert_not(amqp_headers_match(table(&b, "all-with-x", 1, 5), table(&m, NULL, 1, 0)));
    cr_assert(amqp_headers_match(table(&b, "any-with-x", 1, 5), table(&m, NULL, 2, 5)));
    cr_assert_not(amqp_headers_match(table(&b, "any", 1, 5), table(&m, NULL, 2, 5)));
    cr_assert(amqp_headers_match(table(&b, "all", 0, 0), table(&m, NULL, 1, 0)), "empty: all matches");
    cr_assert_not(amqp_headers_match(table(&b, "any", 0, 0), table(&m, NULL, 1, 0)), "empty: any does not");
    buf_fini(&b);
    buf_fini(&m);
}

Test(amqp_headers, a_void_value_asks_for_presence)
{
    struct buf m = {0};

    cr_assert(amqp_headers_match(SLICE_LIT("\x01"
                                           "aV"),
                                 table(&m, NULL, 9, 0)));
    cr_assert_not(amqp_headers_match(SLICE_LIT("\x01"
                                               "bV"),
                                     table(&m, NULL, 9, 0)));
    buf_fini(&m);
}

Test(amqp_headers, x_match_must_be_one_of_four_words)
{
    struct buf b = {0};
    struct amqp_value v;

    cr_assert(amqp_headers_args_check(table(&b, "any-with-x", 1, 0), &v));
    cr_assert(amqp_headers_args_check(table(&b, NULL, 1, 0), &v));
    cr_assert_not(amqp_headers_args_check(table(&b, "some", 1, 0), &v));
    cr_assert(slice_eq(v.bytes, SLICE_LIT("some")));
    buf_fini(&b);
}

Test(amqp_headers, cc_must_be_an_array_of_strings)
{
    struct buf b = {0};
    const char *name, *type;

    amqp_table_put_str(&b, "CC", SLICE_LIT("k"));
    cr_assert_eq(amqp_route_check_cc(buf_slice(&b), &name, &type), ERR_WRONG_TYPE);
    cr_assert_str_eq(name, "CC");
    cr_assert_str_eq(type, "longstr");
    cr_assert_eq(amqp_route_check_cc(SLICE_LIT("\x03"
                                               "BCCA\0\0\0\x06S\0\0\0\x01k"),
                                     &name, &type),
                 0);
    cr_assert_eq(amqp_route_check_cc(SLICE_LIT("\x03"
                                               "BCCA\0\0\0\x02t\x01"),
                                     &name, &type),
                 ERR_WRONG_TYPE);
    cr_assert_str_eq(type, "bool");
    buf_fini(&b);
}
