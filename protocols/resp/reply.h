/* The reply encoder: RESP2 or RESP3 straight into a buffer (the connection's output).
 *
 * Where the two differ the function takes what RESP3 has and RESP2 gets what Redis sends there: a map becomes
 * an array of twice the length, a set and a push an array, a double and a verbatim string a bulk string, null
 * "$-1" or, where RESP2 had one, "*-1". https://redis.io/docs/reference/protocol-spec. Pure; the buffer's
 * thread. */
#ifndef GM_RESP_REPLY_H
#define GM_RESP_REPLY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct reply {
    struct buf *out; /* borrowed */
    int proto;       /* 2 or 3 */
};

/* Decimal digits of v at p (20 bytes of room); returns how many. */
size_t reply_digits(uint8_t *p, uint64_t v);
void reply_header(struct reply *r, char mark, int64_t n); /* "<mark><n>\r\n" */
void reply_bulk_long(struct reply *r, struct slice s);

static inline void reply_raw(struct reply *r, const char *text, size_t n)
{
    buf_put(r->out, text, n);
}
#define REPLY_LIT(r, text) reply_raw(r, text, sizeof(text) - 1)

static inline void reply_ok(struct reply *r)
{
    REPLY_LIT(r, "+OK\r\n");
}
static inline void reply_int(struct reply *r, int64_t v)
{
    if (v == 0)
        REPLY_LIT(r, ":0\r\n");
    else if (v == 1)
        REPLY_LIT(r, ":1\r\n");
    else
        reply_header(r, ':', v);
}
static inline void reply_bulk(struct reply *r, struct slice s)
{
    if (s.len < 10) {
        uint8_t *p = buf_reserve(r->out, 6 + 10);

        p[0] = '$';
        p[1] = (uint8_t)('0' + s.len);
        p[2] = '\r';
        p[3] = '\n';
        if (s.len != 0)
            memcpy(p + 4, s.data, s.len);
        p[4 + s.len] = '\r';
        p[5 + s.len] = '\n';
        buf_advance(r->out, s.len + 6);
        return;
    }
    reply_bulk_long(r, s);
}
static inline void reply_bulk_str(struct reply *r, const char *s)
{
    reply_bulk(r, slice_str(s));
}
static inline void reply_array(struct reply *r, size_t n)
{
    reply_header(r, '*', (int64_t)n);
}
void reply_simple(struct reply *r, const char *text);
void reply_map(struct reply *r, size_t pairs);
void reply_set(struct reply *r, size_t n);
void reply_push(struct reply *r, size_t n);
void reply_null(struct reply *r);       /* RESP2 "$-1" */
void reply_null_array(struct reply *r); /* RESP2 "*-1" */
void reply_bool(struct reply *r, bool v);
void reply_double(struct reply *r, double v);
/* `format` has three letters, "txt". */
void reply_verbatim(struct reply *r, const char *format, struct slice text);
void reply_bulk_printf(struct reply *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void reply_bulk_int(struct reply *r, int64_t v); /* a number as a bulk string */

/* Text "CODE words" without the dash; line breaks inside become blanks. */
void reply_error(struct reply *r, const char *text);
void reply_errorf(struct reply *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The words for an ERR_* of the layers below (error.c). */
void reply_err(struct reply *r, int err);
/* The same words without dash and line end; static. Every error of base/err.def has some. */
const char *reply_err_text(int err);

/* Arrays whose length is known only behind their elements: begin remembers the place, end puts the header in
 * front by moving the elements. */
size_t reply_deferred_begin(struct reply *r);
void reply_deferred_array(struct reply *r, size_t at, size_t n);
void reply_deferred_set(struct reply *r, size_t at, size_t n);
void reply_deferred_map(struct reply *r, size_t at, size_t pairs);

/* A double as Redis prints it in RESP3 and in scores: shortest that reads back, "inf", "-inf", "nan". Returns
 * the length; text of 40. */
int reply_double_text(char *text, size_t size, double v);

#endif
