/* Strings: https://redis.io/commands/?group=string */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "protocols/resp/expiry.h"
#include "protocols/resp/handlers.h"

/* Answers a string key: bulk, null, or WRONGTYPE (false). */
static bool reply_string(struct exec *x, struct kv_ctx *kv, struct slice key)
{
    struct slice value;
    int err = kv_string_get(kv, key, &value);

    if (GM_LIKELY(err == 0)) {
        metrics_add(METRIC_KEYSPACE_HITS, 1);
        reply_bulk(&x->r, value);
        return true;
    }
    if (err == ERR_NOT_FOUND) {
        metrics_add(METRIC_KEYSPACE_MISSES, 1);
        reply_null(&x->r);
        return true;
    }
    reply_err(&x->r, err);
    return false;
}

static bool value_too_large(struct exec *x, struct slice value)
{
    if (value.len <= KV_VALUE_MAX)
        return false;
    reply_err(&x->r, ERR_TOO_LARGE);
    return true;
}

/* ---- reading ---- */

void cmd_get(struct exec *x)
{
    reply_string(x, exec_kv(x, x->argv[1]), x->argv[1]);
}

void cmd_mget(struct exec *x)
{
    reply_array(&x->r, x->argc - 1);
    for (uint32_t i = 1; i < x->argc; i++) {
        struct slice value;

        /* A key of another type counts as missing. */
        if (kv_string_get(exec_kv(x, x->argv[i]), x->argv[i], &value) == 0)
            reply_bulk(&x->r, value);
        else
            reply_null(&x->r);
    }
}

void cmd_strlen(struct exec *x)
{
    uint64_t n = 0;
    int err = kv_string_len(exec_kv(x, x->argv[1]), x->argv[1], &n);

    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_int(&x->r, (int64_t)n);
}

void cmd_getrange(struct exec *x)
{
    struct slice value;
    int64_t start, end, len;
    int err;

    if (!exec_arg_int(x, 2, &start) || !exec_arg_int(x, 3, &end))
        return;
    err = kv_string_get(exec_kv(x, x->argv[1]), x->argv[1], &value);
    if (err == ERR_NOT_FOUND) {
        reply_bulk(&x->r, SLICE_LIT(""));
        return;
    }
    if (err != 0) {
        reply_err(&x->r, err);
        return;
    }
    len = (int64_t)value.len;
    if (start < 0 && end < 0 && start > end) {
        reply_bulk(&x->r, SLICE_LIT(""));
        return;
    }
    if (start < 0)
        start = MAX_OF(start + len, (int64_t)0);
    if (end < 0)
        end = MAX_OF(end + len, (int64_t)0);
    if (end >= len)
        end = len - 1;
    if (start > end || len == 0)
        reply_bulk(&x->r, SLICE_LIT(""));
    else
        reply_bulk(&x->r, slice_of(value.data + start, (size_t)(end - start) + 1));
}

/* ---- SET and its relatives ---- */

enum { SET_NX = 1, SET_XX = 2, SET_GET = 4 };

/* What SET does once everything is parsed. */
static void set_value(struct exec *x, struct slice key, struct slice value, int options, int64_t expire_at)
{
    struct kv_ctx *kv = exec_kv(x, key);
    bool exists = false;

    if (value_too_large(x, value))
        return;
    if ((options & SET_GET) && !reply_string(x, kv, key))
        return;
    if (options & (SET_NX | SET_XX)) {
        exists = kv_key_type(kv, key) != KV_NONE;
        if ((options & SET_NX) ? exists : !exists) {
            if (!(options & SET_GET))
                reply_null(&x->r);
            return;
        }
    }
    kv_string_set(kv, key, value, expire_at);
    /* A time in the past (EXAT) leaves no key, as in Redis. */
    if (expire_at > 0 && expire_at <= kv->now_ms)
        kv_key_del(kv, key);
    if (!(options & SET_GET))
        reply_ok(&x->r);
}

void cmd_set(struct exec *x)
{
    enum expiry_unit unit = EXPIRY_SECONDS;
    int options = 0;
    bool keep = false;
    uint32_t at = 0;
    int64_t expire_at = KV_EXPIRE_NONE;

    for (uint32_t i = 3; i < x->argc; i++) {
        if (exec_arg_is(x, i, "nx") && !(options & SET_XX)) {
            options |= SET_NX;
        } else if (exec_arg_is(x, i, "xx") && !(options & SET_NX)) {
            options |= SET_XX;
        } else if (exec_arg_is(x, i, "get")) {
            options |= SET_GET;
        } else if (exec_arg_is(x, i, "keepttl") && at == 0) {
            keep = true;
        } else if (expiry_option(x, i, &unit) && i + 1 < x->argc && !keep && at == 0) {
            at = ++i;
        } else {
            exec_syntax_error(x);
            return;
        }
    }
    if (at != 0 && !expiry_parse(x, at, unit, true, &expire_at))
        return;
    set_value(x, x->argv[1], x->argv[2], options, keep ? KV_EXPIRE_KEEP : expire_at);
}

void cmd_setnx(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);

    if (value_too_large(x, x->argv[2]))
        return;
    if (kv_key_type(kv, x->argv[1]) != KV_NONE) {
        reply_int(&x->r, 0);
        return;
    }
    kv_string_set(kv, x->argv[1], x->argv[2], KV_EXPIRE_NONE);
    reply_int(&x->r, 1);
}

void cmd_setex(struct exec *x)
{
    int64_t at;

    if (expiry_parse(x, 2, EXPIRY_SECONDS, true, &at))
        set_value(x, x->argv[1], x->argv[3], 0, at);
}

void cmd_psetex(struct exec *x)
{
    int64_t at;

    if (expiry_parse(x, 2, EXPIRY_MS, true, &at))
        set_value(x, x->argv[1], x->argv[3], 0, at);
}

void cmd_getset(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);

    if (!value_too_large(x, x->argv[2]) && reply_string(x, kv, x->argv[1]))
        kv_string_set(kv, x->argv[1], x->argv[2], KV_EXPIRE_NONE);
}

void cmd_getdel(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);

    if (reply_string(x, kv, x->argv[1]))
        kv_key_del(kv, x->argv[1]);
}

void cmd_getex(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    enum expiry_unit unit = EXPIRY_SECONDS;
    bool persist = false;
    uint32_t at = 0;
    int64_t expire_at = 0;

    for (uint32_t i = 2; i < x->argc; i++) {
        if (exec_arg_is(x, i, "persist") && at == 0) {
            persist = true;
        } else if (expiry_option(x, i, &unit) && i + 1 < x->argc && !persist && at == 0) {
            at = ++i;
        } else {
            exec_syntax_error(x);
            return;
        }
    }
    if (kv_key_type(kv, x->argv[1]) == KV_NONE) {
        reply_null(&x->r);
        return;
    }
    if (at != 0 && !expiry_parse(x, at, unit, true, &expire_at))
        return;
    if (!reply_string(x, kv, x->argv[1]))
        return;
    if (persist)
        kv_key_persist(kv, x->argv[1]);
    else if (at != 0)
        kv_key_expire_at(kv, x->argv[1], expire_at);
}

void cmd_append(struct exec *x)
{
    uint64_t len;
    int err = kv_string_append(exec_kv(x, x->argv[1]), x->argv[1], x->argv[2], &len);

    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_int(&x->r, (int64_t)len);
}

void cmd_setrange(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    int64_t offset;
    uint64_t len;
    int err;

    if (!exec_arg_int(x, 2, &offset))
        return;
    if (offset < 0) {
        reply_error(&x->r, "ERR offset is out of range");
        return;
    }
    if (x->argv[3].len == 0)
        err = kv_string_len(kv, x->argv[1], &len);
    else
        err = kv_string_set_range(kv, x->argv[1], (uint64_t)offset, x->argv[3], &len);
    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_int(&x->r, (int64_t)len);
}

/* ---- several keys ---- */

static bool pairs_ok(struct exec *x)
{
    if (x->argc % 2 == 1) {
        for (uint32_t i = 2; i < x->argc; i += 2)
            if (value_too_large(x, x->argv[i]))
                return false;
        return true;
    }
    reply_errorf(&x->r, "ERR wrong number of arguments for '%s' command", x->cmd->fullname);
    return false;
}

void cmd_mset(struct exec *x)
{
    if (!pairs_ok(x))
        return;
    for (uint32_t i = 1; i < x->argc; i += 2)
        kv_string_set(exec_kv(x, x->argv[i]), x->argv[i], x->argv[i + 1], KV_EXPIRE_NONE);
    reply_ok(&x->r);
}

void cmd_msetnx(struct exec *x)
{
    if (!pairs_ok(x))
        return;
    for (uint32_t i = 1; i < x->argc; i += 2) {
        if (kv_key_type(exec_kv(x, x->argv[i]), x->argv[i]) != KV_NONE) {
            reply_int(&x->r, 0);
            return;
        }
    }
    for (uint32_t i = 1; i < x->argc; i += 2)
        kv_string_set(exec_kv(x, x->argv[i]), x->argv[i], x->argv[i + 1], KV_EXPIRE_NONE);
    reply_int(&x->r, 1);
}

/* ---- numbers ---- */

static void increment(struct exec *x, int64_t by)
{
    int64_t v;
    int err = kv_string_incr(exec_kv(x, x->argv[1]), x->argv[1], by, &v);

    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_int(&x->r, v);
}

void cmd_incr(struct exec *x)
{
    increment(x, 1);
}

void cmd_decr(struct exec *x)
{
    increment(x, -1);
}

void cmd_incrby(struct exec *x)
{
    int64_t by;

    if (exec_arg_int(x, 2, &by))
        increment(x, by);
}

void cmd_decrby(struct exec *x)
{
    int64_t by;

    if (!exec_arg_int(x, 2, &by))
        return;
    if (by == INT64_MIN) {
        reply_error(&x->r, "ERR decrement would overflow");
        return;
    }
    increment(x, -by);
}

/* A long double as Redis stores it: 17 decimals, trailing zeros cut (ld2string, LD_STR_HUMAN). */
static size_t human_text(char *text, size_t size, long double v)
{
    int n = snprintf(text, size, "%.17Lf", v);

    if (n <= 0 || (size_t)n >= size)
        return 0;
    if (strchr(text, '.') != NULL) {
        while (text[n - 1] == '0')
            n--;
        if (text[n - 1] == '.')
            n--;
    }
    if (n == 2 && text[0] == '-' && text[1] == '0') {
        text[0] = '0';
        n = 1;
    }
    return (size_t)n;
}

/* Fills the slice, not NaN: as getLongDoubleFromObject. */
static bool to_long_double(struct slice s, long double *ret)
{
    char text[5 * 1024], *end;

    if (s.len == 0 || s.len >= 256 || s.data[0] == ' ')
        return false;
    memcpy(text, s.data, s.len);
    text[s.len] = '\0';
    *ret = strtold(text, &end);
    return (size_t)(end - text) == s.len && !isnan(*ret);
}

void cmd_incrbyfloat(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    long double value = 0, by;
    struct slice old;
    char text[5120];
    size_t n;
    int err = kv_string_get(kv, x->argv[1], &old);

    if (err != 0 && err != ERR_NOT_FOUND) {
        reply_err(&x->r, err);
        return;
    }
    if ((err == 0 && !to_long_double(old, &value)) || !to_long_double(x->argv[2], &by)) {
        reply_err(&x->r, ERR_NOT_FLOAT);
        return;
    }
    value += by;
    if (isnan(value) || isinf(value) || (n = human_text(text, sizeof(text), value)) == 0) {
        reply_error(&x->r, "ERR increment would produce NaN or Infinity");
        return;
    }
    /* The effect is the value it produced, so replay needs no floating point. */
    kv_string_set(kv, x->argv[1], slice_of(text, n), KV_EXPIRE_KEEP);
    reply_bulk(&x->r, slice_of(text, n));
}
