/* The fast path and the inline splitter; request_slow.c has the rest. */
#include "protocols/resp/request_parser.h"

#include "base/check.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers are compared as little-endian words");

/* Parses "<mark><digits>\r\n" with 1 to 5 digits and no leading zero at *pp. The value, or -1 for anything
 * else. */
static inline int32_t header_fast(const uint8_t **pp, const uint8_t *end, uint8_t mark)
{
    const uint8_t *p = *pp;
    uint32_t v, head;

    if (end - p < 4)
        return -1;
    memcpy(&head, p, 4);
    v = (head >> 8 & 0xff) - '0'; /* little-endian: the second byte */
    if (v > 9)
        return -1;
    if (GM_LIKELY((head & 0xffff00ff) == (mark | 0x0a0d0000u))) {
        *pp = p + 4;
        return (int32_t)v;
    }
    if (v == 0 || (uint8_t)head != mark)
        return -1;
    p += 2;
    for (int i = 0; i < 4; i++) {
        uint32_t d = (uint32_t)p[0] - '0';

        if (d > 9)
            return -1;
        v = v * 10 + d;
        p++;
        if (end - p < 2)
            return -1;
        if (p[0] == '\r') {
            if (p[1] != '\n')
                return -1;
            *pp = p + 2;
            return (int32_t)v;
        }
    }
    return -1;
}

uint32_t request_parse_fast(struct request_parser *parser, const uint8_t *data, size_t len,
                            struct request *ret)
{
    const uint8_t *p = data, *end = data + len;
    struct slice *args = parser->fast;
    uint32_t used = 0, n = 0;

    while (n < REQUEST_BATCH && p < end && *p == '*') {
        const uint8_t *start = p;
        int32_t argc = header_fast(&p, end, '*');

        if (argc < 1 || argc > REQUEST_FAST_ARGC || used + (uint32_t)argc > REQUEST_FAST_ARGS)
            break;
        for (int32_t i = 0; i < argc; i++) {
            int32_t size = header_fast(&p, end, '$');

            if (size < 0 || size > REQUEST_UNAUTH_BULK_MAX || end - p < size + 2)
                return n;
            args[used + (uint32_t)i] = slice_of(p, (size_t)size);
            p += size + 2;
        }
        ret[n].argv = args + used;
        ret[n].argc = (uint32_t)argc;
        ret[n].size = (uint32_t)(p - start);
        used += (uint32_t)argc;
        n++;
    }
    return n;
}

bool request_peek_key(const uint8_t *data, size_t len, struct slice *ret_key)
{
    const uint8_t *p = data, *end = data + len;
    struct slice word;
    int32_t size = 0;

    if (len == 0 || *p != '*' || header_fast(&p, end, '*') < 2)
        return false;
    for (int i = 0; i < 2; i++) {
        size = header_fast(&p, end, '$');
        if (size < 0 || end - p < size + 2)
            return false;
        word = slice_of(p, (size_t)size);
        p += size + 2;
    }
    *ret_key = word;
    return true;
}

enum request_stranger request_stranger(const uint8_t *data, size_t len)
{
    /* TLS record: handshake (22), version 3.x. AMQP 0-9-1, 4.2.2: "AMQP" and four bytes of version. */
    if (len >= 3 && data[0] == 0x16 && data[1] == 0x03 && data[2] <= 0x04)
        return STRANGER_TLS;
    if (len >= 8 && memcmp(data, "AMQP", 4) == 0 && data[4] < ' ')
        return STRANGER_AMQP;
    /* Kafka: the size of a first request, well under 16 MiB, and the key of an API below 256. */
    if (len >= 6 && data[0] == 0 && data[4] == 0)
        return STRANGER_KAFKA;
    return STRANGER_NONE;
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint8_t unescape(uint8_t c)
{
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'b':
        return '\b';
    case 'a':
        return '\a';
    default:
        return c;
    }
}

/* The blanks of C's isspace in the C locale, and NUL, which ends a line for sdssplitargs. */
static bool is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || c == '\0';
}

/* What ends an unquoted word: fewer than the blanks, as there. */
static bool ends_word(uint8_t c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

int request_split_inline(const uint8_t *line, size_t len, uint8_t *text, struct slice *argv, uint32_t max)
{
    const uint8_t *p = line, *end = line + len;
    const uint8_t *nul = memchr(line, 0, len);
    uint32_t n = 0;

    if (nul != NULL)
        end = nul;
    for (;;) {
        uint8_t *start = text;

        while (p < end && is_blank(*p))
            p++;
        if (p == end)
            return (int)n;
        if (n == max)
            return -2;
        while (p < end && !ends_word(*p)) {
            if (*p == '"') {
                for (p++;; p++) {
                    if (p == end)
                        return -1;
                    if (*p == '"') {
                        p++;
                        break;
                    }
                    if (*p == '\\' && end - p >= 4 && p[1] == 'x' && hex_value(p[2]) >= 0 &&
                        hex_value(p[3]) >= 0) {
                        *text++ = (uint8_t)(hex_value(p[2]) * 16 + hex_value(p[3]));
                        p += 3;
                    } else if (*p == '\\' && end - p >= 2) {
                        *text++ = unescape(*++p);
                    } else {
                        *text++ = *p;
                    }
                }
                /* A closing quote must be followed by a blank or the end. */
                if (p < end && !is_blank(*p))
                    return -1;
                break;
            }
            if (*p == '\'') {
                for (p++;; p++) {
                    if (p == end)
                        return -1;
                    if (*p == '\'') {
                        p++;
                        break;
                    }
                    if (*p == '\\' && end - p >= 2 && p[1] == '\'')
                        p++;
                    *text++ = *p;
                }
                if (p < end && !is_blank(*p))
                    return -1;
                break;
            }
            *text++ = *p++;
        }
        argv[n++] = slice_of(start, (size_t)(text - start));
    }
}
