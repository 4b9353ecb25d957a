/* The reply encoder in both versions, and the words of every error. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "protocols/resp/reply.h"

static void check(struct reply *r, const char *want)
{
    cr_assert(slice_eq(buf_slice(r->out), slice_str(want)), "got %.*s, want %s", (int)r->out->len,
              r->out->data, want);
    buf_clear(r->out);
}

Test(reply, shapes_of_both_versions)
{
    struct buf b = {0};
    struct reply r2 = {&b, 2}, r3 = {&b, 3};
    size_t at;

    reply_int(&r2, -123);
    check(&r2, ":-123\r\n");
    reply_int(&r2, INT64_MIN);
    check(&r2, ":-9223372036854775808\r\n");
    reply_bulk(&r2, SLICE_LIT("hello"));
    check(&r2, "$5\r\nhello\r\n");
    reply_bulk(&r2, SLICE_LIT("0123456789abc"));
    check(&r2, "$13\r\n0123456789abc\r\n");
    reply_map(&r2, 2);
    check(&r2, "*4\r\n");
    reply_map(&r3, 2);
    check(&r3, "%2\r\n");
    reply_null(&r2);
    reply_null_array(&r2);
    check(&r2, "$-1\r\n*-1\r\n");
    reply_null(&r3);
    reply_null_array(&r3);
    check(&r3, "_\r\n_\r\n");
    reply_double(&r3, 3.5);
    reply_double(&r3, INFINITY);
    reply_double(&r3, 0.1);
    check(&r3, ",3.5\r\n,inf\r\n,0.1\r\n");
    reply_double(&r2, 10);
    check(&r2, "$2\r\n10\r\n");
    reply_verbatim(&r3, "txt", SLICE_LIT("ab"));
    check(&r3, "=6\r\ntxt:ab\r\n");
    reply_bool(&r3, true);
    reply_bool(&r2, true);
    check(&r2, "#t\r\n:1\r\n");
    reply_push(&r3, 3);
    reply_set(&r3, 1);
    check(&r3, ">3\r\n~1\r\n");
    at = reply_deferred_begin(&r2);
    reply_int(&r2, 1);
    reply_int(&r2, 2);
    reply_deferred_array(&r2, at, 2);
    check(&r2, "*2\r\n:1\r\n:2\r\n");
    reply_errorf(&r2, "ERR a%sb", "\r\n");
    check(&r2, "-ERR a  b\r\n");
    buf_fini(&b);
}

Test(reply, every_error_has_words)
{
    for (int err = ERR__FIRST + 1; err < ERR__END; err++) {
        const char *text = reply_err_text(err);
        size_t code = strcspn(text, " ");

        cr_assert(code >= 2 && text[code] == ' ' && text[code + 1] != '\0', "%s: %s", err_name(err), text);
        for (size_t i = 0; i < code; i++)
            cr_assert(isupper((unsigned char)text[i]), "%s", text);
        cr_assert_null(strpbrk(text, "\r\n"));
        cr_assert_str_neq(text, "ERR unknown error");
    }
}
