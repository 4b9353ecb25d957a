#include "base/slice.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

bool slice_ieq(struct slice a, const char *word)
{
    size_t i;

    for (i = 0; i < a.len; i++) {
        if (word[i] == '\0' || tolower(a.data[i]) != tolower((unsigned char)word[i]))
            return false;
    }
    return word[i] == '\0';
}

bool slice_to_i64(struct slice s, int64_t *ret)
{
    size_t i = 0;
    bool neg = false;
    uint64_t v = 0;

    if (s.len == 0 || s.len > 20)
        return false;
    if (s.len == 1 && s.data[0] == '0') {
        *ret = 0;
        return true;
    }
    if (s.data[0] == '-') {
        neg = true;
        i = 1;
    }
    if (i == s.len || s.data[i] < '1' || s.data[i] > '9')
        return false;
    for (; i < s.len; i++) {
        unsigned d = (unsigned)s.data[i] - '0';

        if (d > 9 || v > (UINT64_MAX - d) / 10)
            return false;
        v = v * 10 + d;
    }
    if (v > (uint64_t)INT64_MAX + (neg ? 1 : 0))
        return false;
    *ret = neg ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

bool slice_to_double(struct slice s, double *ret)
{
    char text[256];
    char *end;
    double v;

    if (s.len == 0 || s.len >= sizeof(text) || isspace(s.data[0]))
        return false;
    memcpy(text, s.data, s.len);
    text[s.len] = '\0';
    errno = 0;
    v = strtod(text, &end);
    if (end != text + s.len || isnan(v))
        return false;
    if (errno == ERANGE && (v == HUGE_VAL || v == -HUGE_VAL || fpclassify(v) == FP_ZERO))
        return false;
    *ret = v;
    return true;
}

/* Matches one [class] at p (just behind '['); *next is behind its ']'. */
static bool glob_class(struct slice pat, size_t p, uint8_t c, bool nocase, size_t *next)
{
    bool negate = p < pat.len && pat.data[p] == '^';
    bool hit = false;

    if (negate)
        p++;
    while (p < pat.len && pat.data[p] != ']') {
        uint8_t lo = pat.data[p], hi;

        if (lo == '\\' && p + 1 < pat.len)
            lo = pat.data[++p];
        hi = lo;
        if (p + 2 < pat.len && pat.data[p + 1] == '-' && pat.data[p + 2] != ']') {
            hi = pat.data[p + 2];
            p += 2;
        }
        if (lo > hi) {
            uint8_t t = lo;
            lo = hi;
            hi = t;
        }
        if (nocase) {
            lo = (uint8_t)tolower(lo);
            hi = (uint8_t)tolower(hi);
        }
        if (c >= lo && c <= hi)
            hit = true;
        p++;
    }
    *next = p < pat.len ? p + 1 : p;
    return hit != negate;
}

bool slice_glob(struct slice pat, struct slice text, bool nocase)
{
    size_t p = 0, t = 0, star_p = SIZE_MAX, star_t = 0;

    /* Iterative with one backtrack point: a later star makes the earlier ones irrelevant. */
    while (t < text.len) {
        uint8_t c = nocase ? (uint8_t)tolower(text.data[t]) : text.data[t];
        size_t next = p + 1;
        bool hit = false;

        if (p < pat.len && pat.data[p] == '*') {
            star_p = ++p;
            star_t = t;
            continue;
        }
        if (p < pat.len) {
            uint8_t q = pat.data[p];

            if (q == '?') {
                hit = true;
            } else if (q == '[') {
                hit = glob_class(pat, p + 1, c, nocase, &next);
            } else {
                if (q == '\\' && p + 1 < pat.len) {
                    q = pat.data[p + 1];
                    next = p + 2;
                }
                hit = (nocase ? (uint8_t)tolower(q) : q) == c;
            }
        }
        if (hit) {
            p = next;
            t++;
        } else if (star_p != SIZE_MAX) {
            p = star_p;
            t = ++star_t;
        } else {
            return false;
        }
    }
    while (p < pat.len && pat.data[p] == '*')
        p++;
    return p == pat.len;
}
