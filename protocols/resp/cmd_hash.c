/* Hashes: https://redis.io/commands/?group=hash */
#include "base/err.h"
#include "protocols/resp/handlers.h"
#include "protocols/resp/exec.h"

/* 0 and ERR_NOT_FOUND pass; another error is written (false). */
static bool found_or_missing(struct exec *x, int err)
{
    if (err == 0 || err == ERR_NOT_FOUND)
        return true;
    reply_err(&x->r, err);
    return false;
}

static void reply_count(struct exec *x, int err, uint64_t n)
{
    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_int(&x->r, (int64_t)n);
}

static bool set_pairs(struct exec *x, uint64_t *ret_added)
{
    int err;

    if (x->argc % 2 != 0) {
        reply_errorf(&x->r, "ERR wrong number of arguments for '%s' command", x->cmd->fullname);
        return false;
    }
    err = kv_hash_set(exec_kv(x, x->argv[1]), x->argv[1], x->argv + 2, (x->argc - 2) / 2, ret_added);
    if (err != 0)
        reply_err(&x->r, err);
    return err == 0;
}

void cmd_hset(struct exec *x)
{
    uint64_t added;

    if (set_pairs(x, &added))
        reply_int(&x->r, (int64_t)added);
}

void cmd_hmset(struct exec *x)
{
    uint64_t added;

    if (set_pairs(x, &added))
        reply_ok(&x->r);
}

void cmd_hsetnx(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    struct slice old;
    uint64_t added = 0;
    int err = kv_hash_get(kv, x->argv[1], x->argv[2], &old);

    if (err == ERR_NOT_FOUND)
        err = kv_hash_set(kv, x->argv[1], x->argv + 2, 1, &added);
    reply_count(x, err, added);
}

void cmd_hget(struct exec *x)
{
    struct slice value;
    int err = kv_hash_get(exec_kv(x, x->argv[1]), x->argv[1], x->argv[2], &value);

    if (err == 0)
        reply_bulk(&x->r, value);
    else if (found_or_missing(x, err))
        reply_null(&x->r);
}

void cmd_hmget(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    uint64_t len;
    int err = kv_hash_len(kv, x->argv[1], &len);

    if (!found_or_missing(x, err))
        return;
    reply_array(&x->r, x->argc - 2);
    for (uint32_t i = 2; i < x->argc; i++) {
        struct slice value;

        if (kv_hash_get(kv, x->argv[1], x->argv[i], &value) == 0)
            reply_bulk(&x->r, value);
        else
            reply_null(&x->r);
    }
}

void cmd_hexists(struct exec *x)
{
    struct slice value;
    int err = kv_hash_get(exec_kv(x, x->argv[1]), x->argv[1], x->argv[2], &value);

    if (found_or_missing(x, err))
        reply_int(&x->r, err == 0);
}

void cmd_hstrlen(struct exec *x)
{
    struct slice value;
    int err = kv_hash_get(exec_kv(x, x->argv[1]), x->argv[1], x->argv[2], &value);

    if (found_or_missing(x, err))
        reply_int(&x->r, err == 0 ? (int64_t)value.len : 0);
}

void cmd_hlen(struct exec *x)
{
    uint64_t n = 0;
    int err = kv_hash_len(exec_kv(x, x->argv[1]), x->argv[1], &n);

    reply_count(x, err, n);
}

void cmd_hdel(struct exec *x)
{
    uint64_t n = 0;
    int err = kv_hash_del(exec_kv(x, x->argv[1]), x->argv[1], x->argv + 2, x->argc - 2, &n);

    reply_count(x, err, n);
}

enum { PART_FIELD = 1, PART_VALUE = 2 };
struct each {
    struct reply *r;
    int parts;
};

static void reply_field(struct slice field, struct slice value, void *arg)
{
    struct each *each = arg;

    if (each->parts & PART_FIELD)
        reply_bulk(each->r, field);
    if (each->parts & PART_VALUE)
        reply_bulk(each->r, value);
}

static void reply_all(struct exec *x, int parts)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    struct each each = {&x->r, parts};
    uint64_t len = 0;
    int err = kv_hash_len(kv, x->argv[1], &len);

    if (err != 0) {
        reply_err(&x->r, err);
        return;
    }
    if (parts == (PART_FIELD | PART_VALUE))
        reply_map(&x->r, len);
    else
        reply_array(&x->r, len);
    kv_hash_each(kv, x->argv[1], reply_field, &each);
}

void cmd_hgetall(struct exec *x)
{
    reply_all(x, PART_FIELD | PART_VALUE);
}

void cmd_hkeys(struct exec *x)
{
    reply_all(x, PART_FIELD);
}

void cmd_hvals(struct exec *x)
{
    reply_all(x, PART_VALUE);
}

void cmd_hincrby(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    struct slice old, pair[2];
    int64_t by, value = 0;
    uint8_t text[24];
    size_t n = 0;
    uint64_t added;
    int err;

    if (!exec_arg_int(x, 3, &by))
        return;
    err = kv_hash_get(kv, x->argv[1], x->argv[2], &old);
    if (!found_or_missing(x, err))
        return;
    if (err == 0 && !slice_to_i64(old, &value)) {
        reply_error(&x->r, "ERR hash value is not an integer");
        return;
    }
    if (__builtin_add_overflow(value, by, &value)) {
        reply_err(&x->r, ERR_OVERFLOW);
        return;
    }
    if (value < 0)
        text[n++] = '-';
    n += reply_digits(text + n, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
    pair[0] = x->argv[2];
    pair[1] = slice_of(text, n);
    err = kv_hash_set(kv, x->argv[1], pair, 1, &added);
    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_int(&x->r, value);
}
