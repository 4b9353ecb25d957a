#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/err.h"

Test(bytes, varints_survive_a_round_trip_at_every_length)
{
    for (int bit = 0; bit < 64; bit++) {
        for (int64_t d = -1; d <= 1; d++) {
            int64_t v = (int64_t)((1ull << bit) + (uint64_t)d), got = 0;
            uint8_t p[VARINT_MAX];
            size_t n = varint_put(p, v);

            cr_assert_eq(n, varint_len(v));
            cr_assert_eq(varint_get(p, p + n, &got), n);
            cr_assert_eq(got, v);
            cr_assert_eq(varint_get(p, p + n - 1, &got), 0, "a truncated varint is refused");
        }
    }
}

Test(bytes, an_overlong_varint_is_refused)
{
    uint8_t p[11];
    uint64_t v;

    memset(p, 0xff, sizeof(p));
    cr_assert_eq(uvarint_get(p, p + sizeof(p), &v), 0);
    p[9] = 0x02;
    cr_assert_eq(uvarint_get(p, p + sizeof(p), &v), 0, "a 65th bit is refused");
}

Test(reader, running_out_is_remembered_and_gives_zeros)
{
    uint8_t data[3] = {1, 2, 3};
    struct reader r = reader_of(slice_of(data, sizeof(data)));

    cr_assert_eq(reader_be16(&r), 0x0102);
    cr_assert_eq(reader_be32(&r), 0);
    cr_assert_eq(r.bad, 1);
    cr_assert_eq(reader_u8(&r), 0);
}

Test(reader, a_length_beyond_the_end_is_bad)
{
    uint8_t data[2] = {0x7f, 'x'};
    struct reader r = reader_of(slice_of(data, sizeof(data)));

    cr_assert_eq(reader_lslice(&r).len, 0);
    cr_assert_eq(r.bad, 1);
}

Test(buf, printf_longer_than_the_first_guess_is_whole)
{
    struct buf b = {0};

    buf_printf(&b, "%0500d", 7);
    cr_assert_eq(b.len, 500);
    cr_assert_eq(b.data[499], '7');
    buf_fini(&b);
}

Test(err, every_error_has_a_name_and_words)
{
    for (int e = ERR__FIRST + 1; e < ERR__END; e++) {
        cr_assert_str_neq(err_name(e), "UNKNOWN");
        cr_assert_str_neq(err_text(e), "unknown error");
    }
    cr_assert_str_eq(err_text(12345), "unknown error");
}
