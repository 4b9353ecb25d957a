/* A borrowed run of bytes. Valid as long as whatever it points into; never owns, never NUL-terminated. */
#ifndef GM_BASE_SLICE_H
#define GM_BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
    const uint8_t *data;
    size_t len;
};

#define SLICE_NONE ((struct slice){NULL, 0})
#define SLICE_LIT(s) ((struct slice){(const uint8_t *)("" s), sizeof(s) - 1})

static inline struct slice slice_of(const void *data, size_t len)
{
    return (struct slice){data, len};
}

static inline struct slice slice_str(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* The same for what is mostly 8 to 32 bytes long, without a call. */
static inline bool slice_eq_short(struct slice a, struct slice b)
{
    uint64_t x, y, differ = 0;
    size_t n = a.len;

    if (n != b.len)
        return false;
    if (n < 8 || n > 32)
        return slice_eq(a, b);
    for (size_t i = 0; i + 8 < n; i += 8) {
        memcpy(&x, a.data + i, 8);
        memcpy(&y, b.data + i, 8);
        differ |= x ^ y;
    }
    memcpy(&x, a.data + n - 8, 8);
    memcpy(&y, b.data + n - 8, 8);
    return (differ | (x ^ y)) == 0;
}

/* Bytewise order, a prefix first: <0, 0, >0. */
static inline int slice_cmp(struct slice a, struct slice b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n == 0 ? 0 : memcmp(a.data, b.data, n);

    if (c != 0)
        return c;
    return a.len < b.len ? -1 : a.len > b.len;
}

/* ASCII case-insensitive equality with a C string, for command and option words. */
bool slice_ieq(struct slice a, const char *word);
/* Decimal, optional leading '-', no spaces, no leading zeros or plus: what Redis calls an integer. False when it
 * is not one or does not fit. */
bool slice_to_i64(struct slice s, int64_t *ret);
/* A finite or infinite decimal floating-point number filling the slice; false for NaN, blanks and garbage. */
bool slice_to_double(struct slice s, double *ret);
/* Glob match as Redis' KEYS does it (`*`, `?`, `[a-z^]`, `\x`); work is bounded by pattern x text. */
bool slice_glob(struct slice pattern, struct slice text, bool nocase);

#endif
