#include "base/diag.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static int min_level = DIAG_INFO;

void diag_set_level(enum diag_level level)
{
    __atomic_store_n(&min_level, (int)level, __ATOMIC_RELAXED);
}

bool diag_level_parse(const char *word, enum diag_level *ret)
{
    for (unsigned i = 0; i < ARRAY_LEN(level_names); i++) {
        if (strcmp(word, level_names[i]) == 0) {
            *ret = (enum diag_level)i;
            return true;
        }
    }
    return false;
}

bool diag_enabled(enum diag_level level)
{
    return (int)level >= __atomic_load_n(&min_level, __ATOMIC_RELAXED);
}

void diag(enum diag_level level, const char *msg, const char *fmt, ...)
{
    char line[2048];
    int64_t us = clock_wall_us();
    time_t s = us / 1000000;
    struct tm tm;
    size_t n;
    int k;
    va_list ap;

    if (!diag_enabled(level))
        return;
    gmtime_r(&s, &tm);
    n = strftime(line, sizeof(line), "ts=%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof(line) - n, ".%03dZ level=%s msg=\"%s\"", (int)(us / 1000 % 1000),
                          level_names[level], msg);
    if (n > sizeof(line) - 2)
        n = sizeof(line) - 2;
    if (fmt[0] != '\0') {
        line[n++] = ' ';
        va_start(ap, fmt);
        k = vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
        va_end(ap);
        if (k > 0)
            n += MIN_OF((size_t)k, sizeof(line) - n - 2);
    }
    /* A value may carry what a peer sent: one event stays one line. */
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0)
        return; /* nowhere left to say so */
}

bool diag_limit_pass(struct diag_limit *limit, uint64_t *ret_left_out)
{
    uint64_t now = clock_mono_us(), next = __atomic_load_n(&limit->next_us, __ATOMIC_RELAXED);

    if (now < next || !__atomic_compare_exchange_n(&limit->next_us, &next, now + 1000000, false,
                                                   __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        __atomic_fetch_add(&limit->left_out, 1, __ATOMIC_RELAXED);
        return false;
    }
    *ret_left_out = __atomic_exchange_n(&limit->left_out, 0, __ATOMIC_RELAXED);
    return true;
}
