/* Keys of every type: https://redis.io/commands/?group=generic */
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "protocols/resp/blocked.h"
#include "protocols/resp/expiry.h"
#include "protocols/resp/handlers.h"

void cmd_del(struct exec *x)
{
    int64_t n = 0;

    for (uint32_t i = 1; i < x->argc; i++)
        n += kv_key_del(exec_kv(x, x->argv[i]), x->argv[i]);
    reply_int(&x->r, n);
}

void cmd_exists(struct exec *x)
{
    int64_t n = 0;

    for (uint32_t i = 1; i < x->argc; i++)
        n += kv_key_type(exec_kv(x, x->argv[i]), x->argv[i]) != KV_NONE;
    reply_int(&x->r, n);
}

void cmd_type(struct exec *x)
{
    reply_simple(&x->r, kv_type_name(kv_key_type(exec_kv(x, x->argv[1]), x->argv[1])));
}

/* ---- expiry ---- */

bool expiry_parse(struct exec *x, uint32_t i, enum expiry_unit unit, bool positive, int64_t *ret_at_ms)
{
    bool relative = unit == EXPIRY_SECONDS || unit == EXPIRY_MS;
    int64_t v, now = exec_now_ms(x);

    if (!exec_arg_int(x, i, &v))
        return false;
    if (positive && v <= 0)
        goto invalid;
    if (unit == EXPIRY_SECONDS || unit == EXPIRY_AT_SECONDS) {
        if (v > INT64_MAX / 1000 || v < INT64_MIN / 1000)
            goto invalid;
        v *= 1000;
    }
    if (relative) {
        if (v > INT64_MAX - now)
            goto invalid;
        v += now;
    }
    *ret_at_ms = v;
    return true;
invalid:
    reply_errorf(&x->r, "ERR invalid expire time in '%s' command", x->cmd->fullname);
    return false;
}

bool expiry_option(const struct exec *x, uint32_t i, enum expiry_unit *ret)
{
    static const char *const words[] = {"ex", "px", "exat", "pxat"};

    for (unsigned k = 0; k < ARRAY_LEN(words); k++) {
        if (exec_arg_is(x, i, words[k])) {
            *ret = (enum expiry_unit)k;
            return true;
        }
    }
    return false;
}

enum { EXPIRE_NX = 1, EXPIRE_XX = 2, EXPIRE_GT = 4, EXPIRE_LT = 8 };

static void expire(struct exec *x, enum expiry_unit unit)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    int64_t at, old;
    int flags = 0;

    for (uint32_t i = 3; i < x->argc; i++) {
        if (exec_arg_is(x, i, "nx")) {
            flags |= EXPIRE_NX;
        } else if (exec_arg_is(x, i, "xx")) {
            flags |= EXPIRE_XX;
        } else if (exec_arg_is(x, i, "gt")) {
            flags |= EXPIRE_GT;
        } else if (exec_arg_is(x, i, "lt")) {
            flags |= EXPIRE_LT;
        } else {
            reply_errorf(&x->r, "ERR Unsupported option %.*s", (int)MIN_OF(x->argv[i].len, (size_t)128),
                         (const char *)x->argv[i].data);
            return;
        }
    }
    if ((flags & EXPIRE_NX) && (flags & (EXPIRE_XX | EXPIRE_GT | EXPIRE_LT))) {
        reply_error(&x->r, "ERR NX and XX, GT or LT options at the same time are not compatible");
        return;
    }
    if ((flags & EXPIRE_GT) && (flags & EXPIRE_LT)) {
        reply_error(&x->r, "ERR GT and LT options at the same time are not compatible");
        return;
    }
    if (!expiry_parse(x, 2, unit, false, &at))
        return;
    old = kv_key_expire_time(kv, x->argv[1]);
    if (old == -2 || ((flags & EXPIRE_NX) && old != -1) || ((flags & EXPIRE_XX) && old == -1) ||
        ((flags & EXPIRE_GT) && (old == -1 || at <= old)) ||
        ((flags & EXPIRE_LT) && old != -1 && at >= old)) {
        reply_int(&x->r, 0);
        return;
    }
    reply_int(&x->r, kv_key_expire_at(kv, x->argv[1], at));
}

void cmd_expire(struct exec *x)
{
    expire(x, EXPIRY_SECONDS);
}

void cmd_pexpire(struct exec *x)
{
    expire(x, EXPIRY_MS);
}

void cmd_expireat(struct exec *x)
{
    expire(x, EXPIRY_AT_SECONDS);
}

void cmd_pexpireat(struct exec *x)
{
    expire(x, EXPIRY_AT_MS);
}

/* `unit` 1000 or 1 ms; relative or absolute. */
static void time_to_live(struct exec *x, int64_t unit, bool absolute)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    int64_t at = kv_key_expire_time(kv, x->argv[1]);

    if (at >= 0 && !absolute)
        at = MAX_OF(at - kv->now_ms, (int64_t)0);
    reply_int(&x->r, at < 0 || unit == 1 ? at : (at + 500) / 1000);
}

void cmd_ttl(struct exec *x)
{
    time_to_live(x, 1000, false);
}

void cmd_pttl(struct exec *x)
{
    time_to_live(x, 1, false);
}

void cmd_expiretime(struct exec *x)
{
    time_to_live(x, 1000, true);
}

void cmd_pexpiretime(struct exec *x)
{
    time_to_live(x, 1, true);
}

void cmd_persist(struct exec *x)
{
    reply_int(&x->r, kv_key_persist(exec_kv(x, x->argv[1]), x->argv[1]));
}

/* ---- the whole database ---- */

static bool add_size(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg)
{
    uint64_t *n = arg;

    (void)index;
    *n += kv_db_size(kv->kv, x->s->db);
    return true;
}

void cmd_dbsize(struct exec *x)
{
    uint64_t n = 0;

    if (exec_each_partition(x, 0, add_size, &n))
        reply_int(&x->r, (int64_t)n);
}

struct random_walk {
    uint64_t seen;
    struct buf key;
    bool found;
};

/* Partition by partition, each chosen with the share of keys it has among those seen: one pass, every key as
 * likely as its partition makes it. */
static bool choose_random(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg)
{
    struct random_walk *walk = arg;
    uint64_t n = kv_db_size(kv->kv, x->s->db);
    struct slice key;

    (void)index;
    if (n == 0)
        return true;
    walk->seen += n;
    if (rand_below(&x->w->rand, walk->seen) < n || !walk->found) {
        kv->rand = &x->w->rand;
        if (kv_key_random(kv, &key)) {
            walk->found = true;
            buf_clear(&walk->key);
            buf_put_slice(&walk->key, key);
        }
    }
    return true;
}

void cmd_randomkey(struct exec *x)
{
    struct random_walk walk = {0};

    if (exec_each_partition(x, 0, choose_random, &walk)) {
        if (walk.found)
            reply_bulk(&x->r, buf_slice(&walk.key));
        else
            reply_null(&x->r);
    }
    buf_fini(&walk.key);
}

static bool flush_one(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg)
{
    (void)x;
    (void)index;
    (void)arg;
    if (kv_db_size(kv->kv, kv->db) != 0)
        kv_db_flush(kv);
    return true;
}

static bool flush_every(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg)
{
    uint32_t db = kv->db;

    for (kv->db = 0; kv->db < KV_DATABASES; kv->db++)
        flush_one(x, kv, index, arg);
    kv->db = db;
    return true;
}

static void flush(struct exec *x, bool (*fn)(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg))
{
    /* ASYNC and SYNC are one: the tables are swapped now and freed in the background. */
    if (x->argc > 2 || (x->argc == 2 && !exec_arg_is(x, 1, "async") && !exec_arg_is(x, 1, "sync"))) {
        exec_syntax_error(x);
        return;
    }
    if (exec_each_partition(x, 0, fn, NULL))
        reply_ok(&x->r);
}

void cmd_flushdb(struct exec *x)
{
    flush(x, flush_one);
}

void cmd_flushall(struct exec *x)
{
    flush(x, flush_every);
}

/* ---- OBJECT, MEMORY ---- */

void cmd_object_encoding(struct exec *x)
{
    const char *word = kv_key_encoding(exec_kv(x, x->argv[2]), x->argv[2]);

    if (word == NULL)
        reply_null(&x->r);
    else
        reply_bulk_str(&x->r, word);
}

void cmd_object_refcount(struct exec *x)
{
    if (kv_key_type(exec_kv(x, x->argv[2]), x->argv[2]) == KV_NONE)
        reply_null(&x->r);
    else
        reply_int(&x->r, 1);
}

/* Exact, so SAMPLES, by which Redis bounds its estimate, is checked and changes nothing. */
void cmd_memory_usage(struct exec *x)
{
    uint64_t bytes;
    int64_t samples;

    if (x->argc != 3 && (x->argc != 5 || !exec_arg_is(x, 3, "samples"))) {
        exec_syntax_error(x);
        return;
    }
    if (x->argc == 5 && !exec_arg_int(x, 4, &samples))
        return;
    if (x->argc == 5 && samples < 0) {
        exec_syntax_error(x);
        return;
    }
    if (kv_key_bytes(exec_kv(x, x->argv[2]), x->argv[2], &bytes) != 0)
        reply_null(&x->r);
    else
        reply_int(&x->r, (int64_t)bytes);
}
