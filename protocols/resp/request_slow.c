/* The slow path of the request parser: a bounded scan in front of hiredis' redisReader.
 *
 * redisReader (0.14.1) knows neither limits nor inline commands, computes with unchecked lengths and scans a
 * long line anew at each call; behind the scan it only sees whole, valid requests: one flat array of bulk
 * strings. The scan's checks, their order and their words are those of processMultibulkBuffer in Redis 7.2's
 * networking.c, with one difference: CR must be followed by LF in a header, where Redis skips two bytes. The
 * two bytes behind a bulk string are skipped unseen, as in Redis and in hiredis. */
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "protocols/resp/request_parser.h"

enum { READER_KEEP = 1024 * 1024 }; /* a reader whose buffer grew beyond is thrown away */

static void *arg_string(const redisReadTask *task, char *text, size_t len)
{
    struct request_parser *p = task->privdata;

    CHECK(p->argc < p->argv_cap);
    p->argv[p->argc++] = slice_of(text, len);
    return p;
}
#if defined(HIREDIS_MAJOR) && HIREDIS_MAJOR >= 1
static void *arg_array(const redisReadTask *task, size_t n)
#else
static void *arg_array(const redisReadTask *task, int n)
#endif
{
    (void)n;
    return task->privdata;
}
static void *arg_integer(const redisReadTask *task, long long value)
{
    (void)value;
    return task->privdata;
}
static void *arg_nil(const redisReadTask *task)
{
    return task->privdata;
}
static void arg_free(void *object)
{
    (void)object;
}

static redisReplyObjectFunctions request_functions = {
    .createString = arg_string,
    .createArray = arg_array,
    .createInteger = arg_integer,
    .createNil = arg_nil,
    .freeObject = arg_free,
};

static void reader_open(struct request_parser *p)
{
    p->reader = redisReaderCreateWithFunctions(&request_functions);
    CHECK(p->reader != NULL);
    p->reader->privdata = p;
}

struct request_parser *request_parser_new(void)
{
    struct request_parser *p = mem_zalloc(sizeof(*p));

    reader_open(p);
    return p;
}

void request_parser_free(struct request_parser *p)
{
    if (p == NULL)
        return;
    redisReaderFree(p->reader);
    mem_free(p->argv);
    mem_free(p->text);
    mem_free(p);
}

const char *request_error(const struct request_parser *p)
{
    return p->error;
}

static int refuse(struct request_parser *p, const char *what)
{
    snprintf(p->error, sizeof(p->error), "Protocol error: %s", what);
    return ERR_MALFORMED;
}

/* The line at data[at..]: its length without CRLF. ERR_MORE, or ERR_MALFORMED when CR is followed by
 * something else or nothing comes within the bound. */
static int64_t line_length(const uint8_t *data, size_t len, uint64_t at)
{
    size_t left = len - at, window = MIN_OF(left, (size_t)REQUEST_INLINE_MAX + 1);
    const uint8_t *cr = memchr(data + at, '\r', window);

    if (cr == NULL)
        return window > REQUEST_INLINE_MAX ? ERR_TOO_LARGE : ERR_MORE;
    if ((size_t)(cr - data) + 1 >= len)
        return ERR_MORE;
    return cr[1] == '\n' ? (int64_t)(cr - data - (int64_t)at) : ERR_MALFORMED;
}

static void argv_reserve(struct request_parser *p, uint32_t n)
{
    if (n <= p->argv_cap)
        return;
    p->argv = mem_realloc(p->argv, sizeof(p->argv[0]) * n);
    p->argv_cap = n;
}

static int parse_inline(struct request_parser *p, const uint8_t *data, size_t len, struct request *ret)
{
    size_t window = MIN_OF(len, (size_t)REQUEST_INLINE_MAX + 1), line;
    const uint8_t *lf = memchr(data, '\n', window);
    int n;

    if (lf == NULL) {
        if (window > REQUEST_INLINE_MAX)
            return refuse(p, "too big inline request");
        return ERR_MORE;
    }
    line = (size_t)(lf - data);
    ret->size = (uint32_t)line + 1;
    if (line > 0 && data[line - 1] == '\r')
        line--;
    if (p->text == NULL)
        p->text = mem_alloc(REQUEST_INLINE_MAX);
    argv_reserve(p, 64);
    while ((n = request_split_inline(data, line, p->text, p->argv, p->argv_cap)) == -2)
        argv_reserve(p, p->argv_cap * 4);
    if (n < 0)
        return refuse(p, "unbalanced quotes in request");
    ret->argv = p->argv;
    ret->argc = (uint32_t)n;
    return 1;
}

/* 0: the scan passed the whole command and scan->at is its size. */
static int scan_command(struct request_parser *p, struct request_scan *scan,
                        const struct request_limits *limits, const uint8_t *data, size_t len)
{
    int64_t line, v;
    char what[32];

    if (!scan->in_args) {
        line = line_length(data, len, 0);
        if (line == ERR_MORE)
            return ERR_MORE;
        if (line == ERR_TOO_LARGE)
            return refuse(p, "too big mbulk count string");
        if (line < 0 || !slice_to_i64(slice_of(data + 1, (size_t)line - 1), &v) || v > limits->args_max)
            return refuse(p, "invalid multibulk length");
        if (v > REQUEST_UNAUTH_ARGC_MAX && limits->unauthenticated)
            return refuse(p, "unauthenticated multibulk length");
        scan->in_args = true;
        scan->argc = scan->args = v > 0 ? (uint32_t)v : 0;
        scan->at = (uint64_t)line + 2;
    }
    while (scan->args > 0) {
        if (scan->at >= len)
            return ERR_MORE;
        line = line_length(data, len, scan->at);
        if (line == ERR_MORE)
            return ERR_MORE;
        if (line == ERR_TOO_LARGE)
            return refuse(p, "too big bulk count string");
        if (data[scan->at] != '$') {
            uint8_t c = data[scan->at];

            snprintf(what, sizeof(what), "expected '$', got '%c'", c < ' ' || c > '~' ? '?' : c);
            return refuse(p, what);
        }
        if (line < 0 || !slice_to_i64(slice_of(data + scan->at + 1, (size_t)line - 1), &v) || v < 0 ||
            (uint64_t)v > limits->bulk_max)
            return refuse(p, "invalid bulk length");
        if (v > REQUEST_UNAUTH_BULK_MAX && limits->unauthenticated)
            return refuse(p, "unauthenticated bulk length");
        /* The header is read again when the body is not here yet: a few bytes, and the place stays at an
         * argument's start. */
        if (len - scan->at - (uint64_t)line - 2 < (uint64_t)v + 2)
            return ERR_MORE;
        scan->at += (uint64_t)line + 2 + (uint64_t)v + 2;
        scan->args--;
    }
    return 0;
}

int request_parse_slow(struct request_parser *p, struct request_scan *scan,
                       const struct request_limits *limits, const uint8_t *data, size_t len,
                       struct request *ret)
{
    void *reply = NULL;
    int err;

    if (len == 0)
        return ERR_MORE;
    if (data[0] != '*')
        return parse_inline(p, data, len, ret);
    err = scan_command(p, scan, limits, data, len);
    if (err != 0) {
        if (err != ERR_MORE)
            *scan = (struct request_scan){0};
        return err;
    }
    CHECK(scan->at <= UINT32_MAX);
    ret->size = (uint32_t)scan->at;
    p->argc = 0;
    if (scan->argc > 0) {
        argv_reserve(p, scan->argc);
        if (redisReaderFeed(p->reader, (const char *)data, scan->at) != REDIS_OK ||
            redisReaderGetReply(p->reader, &reply) != REDIS_OK || reply == NULL || p->argc != scan->argc) {
            /* Cannot happen behind the scan but for memory; the reader is of no use afterwards. */
            snprintf(p->error, sizeof(p->error), "Protocol error: %.60s", p->reader->errstr);
            redisReaderFree(p->reader);
            reader_open(p);
            *scan = (struct request_scan){0};
            return ERR_MALFORMED;
        }
    }
    ret->argv = p->argv;
    ret->argc = p->argc;
    *scan = (struct request_scan){0};
    return 1;
}

void request_parser_trim(struct request_parser *p, uint32_t last_size)
{
    if (last_size > READER_KEEP) {
        redisReaderFree(p->reader);
        reader_open(p);
    }
    if (p->argv_cap > 65536) {
        mem_free(p->argv);
        p->argv = NULL;
        p->argv_cap = 0;
    }
}
