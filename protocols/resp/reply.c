#include "protocols/resp/reply.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"

static const char two_digits[201] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
    "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
    "8081828384858687888990919293949596979899";

size_t reply_digits(uint8_t *p, uint64_t v)
{
    uint8_t text[20];
    size_t at = sizeof(text);

    if (GM_LIKELY(v < 100)) {
        if (v < 10) {
            p[0] = (uint8_t)('0' + v);
            return 1;
        }
        memcpy(p, two_digits + v * 2, 2);
        return 2;
    }
    while (v >= 100) {
        at -= 2;
        memcpy(text + at, two_digits + v % 100 * 2, 2);
        v /= 100;
    }
    if (v >= 10) {
        at -= 2;
        memcpy(text + at, two_digits + v * 2, 2);
    } else {
        text[--at] = (uint8_t)('0' + v);
    }
    memcpy(p, text + at, sizeof(text) - at);
    return sizeof(text) - at;
}

static size_t header_put(uint8_t *p, char mark, int64_t n)
{
    size_t len = 0;

    p[len++] = (uint8_t)mark;
    if (n < 0)
        p[len++] = '-';
    len += reply_digits(p + len, n < 0 ? 0 - (uint64_t)n : (uint64_t)n);
    p[len++] = '\r';
    p[len++] = '\n';
    return len;
}

void reply_header(struct reply *r, char mark, int64_t n)
{
    buf_advance(r->out, header_put(buf_reserve(r->out, 24), mark, n));
}

void reply_bulk_long(struct reply *r, struct slice s)
{
    uint8_t *p = buf_reserve(r->out, s.len + 26);
    size_t len = header_put(p, '$', (int64_t)s.len);

    memcpy(p + len, s.data, s.len);
    p[len + s.len] = '\r';
    p[len + s.len + 1] = '\n';
    buf_advance(r->out, len + s.len + 2);
}

void reply_simple(struct reply *r, const char *text)
{
    buf_put_u8(r->out, '+');
    buf_put_str(r->out, text);
    REPLY_LIT(r, "\r\n");
}

void reply_map(struct reply *r, size_t pairs)
{
    if (r->proto == 3)
        reply_header(r, '%', (int64_t)pairs);
    else
        reply_header(r, '*', (int64_t)pairs * 2);
}

void reply_set(struct reply *r, size_t n)
{
    reply_header(r, r->proto == 3 ? '~' : '*', (int64_t)n);
}

void reply_push(struct reply *r, size_t n)
{
    reply_header(r, r->proto == 3 ? '>' : '*', (int64_t)n);
}

void reply_null(struct reply *r)
{
    if (r->proto == 3)
        REPLY_LIT(r, "_\r\n");
    else
        REPLY_LIT(r, "$-1\r\n");
}

void reply_null_array(struct reply *r)
{
    if (r->proto == 3)
        REPLY_LIT(r, "_\r\n");
    else
        REPLY_LIT(r, "*-1\r\n");
}

void reply_bool(struct reply *r, bool v)
{
    if (r->proto == 3)
        reply_raw(r, v ? "#t\r\n" : "#f\r\n", 4);
    else
        reply_int(r, v);
}

int reply_double_text(char *text, size_t size, double v)
{
    int n = 0;

    if (isnan(v))
        return snprintf(text, size, "nan");
    if (isinf(v))
        return snprintf(text, size, v > 0 ? "inf" : "-inf");
    if (v == (double)(long long)v && v > -1e17 && v < 1e17)
        return v == 0 && signbit(v) ? snprintf(text, size, "-0") : snprintf(text, size, "%lld", (long long)v);
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(text, size, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    return n;
}

void reply_double(struct reply *r, double v)
{
    char text[40];
    int n = reply_double_text(text, sizeof(text), v);

    if (r->proto == 3) {
        buf_put_u8(r->out, ',');
        buf_put(r->out, text, (size_t)n);
        REPLY_LIT(r, "\r\n");
    } else {
        reply_bulk(r, slice_of(text, (size_t)n));
    }
}

void reply_verbatim(struct reply *r, const char *format, struct slice text)
{
    if (r->proto != 3) {
        reply_bulk(r, text);
        return;
    }
    reply_header(r, '=', (int64_t)text.len + 4);
    buf_put(r->out, format, 3);
    buf_put_u8(r->out, ':');
    buf_put_slice(r->out, text);
    REPLY_LIT(r, "\r\n");
}

void reply_bulk_printf(struct reply *r, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0)
        n = 0;
    reply_bulk(r, slice_of(text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1));
}

void reply_bulk_int(struct reply *r, int64_t v)
{
    uint8_t text[24];
    size_t n = 0;

    if (v < 0)
        text[n++] = '-';
    n += reply_digits(text + n, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
    reply_bulk(r, slice_of(text, n));
}

static void error_put(struct reply *r, const char *text, size_t n)
{
    uint8_t *p = buf_reserve(r->out, n + 3);

    p[0] = '-';
    for (size_t i = 0; i < n; i++)
        p[1 + i] = text[i] == '\r' || text[i] == '\n' ? ' ' : (uint8_t)text[i];
    p[n + 1] = '\r';
    p[n + 2] = '\n';
    buf_advance(r->out, n + 3);
}

void reply_error(struct reply *r, const char *text)
{
    error_put(r, text, strlen(text));
}

void reply_errorf(struct reply *r, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0)
        n = 0;
    error_put(r, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

size_t reply_deferred_begin(struct reply *r)
{
    return r->out->len;
}

static void deferred_header(struct reply *r, size_t at, char mark, size_t n)
{
    uint8_t head[24];
    size_t len = header_put(head, mark, (int64_t)n);

    buf_reserve(r->out, len);
    memmove(r->out->data + at + len, r->out->data + at, r->out->len - at);
    memcpy(r->out->data + at, head, len);
    buf_advance(r->out, len);
}

void reply_deferred_array(struct reply *r, size_t at, size_t n)
{
    deferred_header(r, at, '*', n);
}

void reply_deferred_set(struct reply *r, size_t at, size_t n)
{
    deferred_header(r, at, r->proto == 3 ? '~' : '*', n);
}

void reply_deferred_map(struct reply *r, size_t at, size_t pairs)
{
    if (r->proto == 3)
        deferred_header(r, at, '%', pairs);
    else
        deferred_header(r, at, '*', pairs * 2);
}
