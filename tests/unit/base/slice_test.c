#include <criterion/criterion.h>
#include <math.h>

#include "base/slice.h"

static bool is_int(const char *s, int64_t want)
{
    int64_t v = 0;

    return slice_to_i64(slice_str(s), &v) && v == want;
}

Test(slice, integers_are_what_redis_calls_integers)
{
    int64_t v;

    cr_assert(is_int("0", 0));
    cr_assert(is_int("-9223372036854775808", INT64_MIN));
    cr_assert(is_int("9223372036854775807", INT64_MAX));
    for (const char **s = (const char *[]){"", "-", "+1", "01", "-0", " 1", "1 ", "1a", "9223372036854775808",
                                           "-9223372036854775809", "99999999999999999999", NULL};
         *s != NULL; s++)
        cr_assert_not(slice_to_i64(slice_str(*s), &v), "%s", *s);
}

Test(slice, doubles_refuse_blanks_garbage_and_nan)
{
    double v;

    cr_assert(slice_to_double(slice_str("1e3"), &v));
    cr_assert_eq(v, 1000.0);
    cr_assert(slice_to_double(slice_str("-inf"), &v));
    cr_assert(isinf(v));
    for (const char **s = (const char *[]){"", " 1", "1 ", "nan", "1x", "1e999", NULL}; *s != NULL; s++)
        cr_assert_not(slice_to_double(slice_str(*s), &v), "%s", *s);
}

Test(slice, globs)
{
    static const struct {
        const char *pattern, *text;
        bool match;
    } cases[] = {
        {"*", "", true},         {"a*c", "abbbc", true}, {"a*c", "abbbd", false},   {"h?llo", "hello", true},
        {"h[ae]llo", "hallo", true}, {"h[^e]llo", "hello", false}, {"h[a-b]llo", "hbllo", true},
        {"\\*", "*", true},      {"\\*", "x", false},    {"a[", "a", false},        {"**a", "bba", true},
        {"[\\]]", "]", true},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_eq(slice_glob(slice_str(cases[i].pattern), slice_str(cases[i].text), false), cases[i].match,
                     "%s %s", cases[i].pattern, cases[i].text);
    cr_assert(slice_glob(slice_str("AbC"), slice_str("aBc"), true));
}

Test(slice, short_comparison_agrees_with_the_long_one)
{
    uint8_t a[48], b[48];

    for (size_t i = 0; i < sizeof(a); i++)
        a[i] = b[i] = (uint8_t)(i * 37);
    for (size_t n = 0; n < sizeof(a); n++) {
        cr_assert(slice_eq_short(slice_of(a, n), slice_of(b, n)), "%zu equal bytes", n);
        cr_assert_not(slice_eq_short(slice_of(a, n), slice_of(b, n + 1)));
        for (size_t i = 0; i < n; i++) {
            b[i] ^= 0x80;
            cr_assert_not(slice_eq_short(slice_of(a, n), slice_of(b, n)), "byte %zu of %zu", i, n);
            b[i] ^= 0x80;
        }
    }
}
