/* Sets: https://redis.io/commands/?group=set */
#include "base/err.h"
#include "protocols/resp/exec.h"
#include "protocols/resp/handlers.h"

static void reply_count(struct exec *x, int err, uint64_t n)
{
    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_int(&x->r, (int64_t)n);
}

void cmd_sadd(struct exec *x)
{
    uint64_t n = 0;
    int err = kv_set_add(exec_kv(x, x->argv[1]), x->argv[1], x->argv + 2, x->argc - 2, &n);

    reply_count(x, err, n);
}

void cmd_srem(struct exec *x)
{
    uint64_t n = 0;
    int err = kv_set_rem(exec_kv(x, x->argv[1]), x->argv[1], x->argv + 2, x->argc - 2, &n);

    reply_count(x, err, n);
}

void cmd_scard(struct exec *x)
{
    uint64_t n = 0;
    int err = kv_set_len(exec_kv(x, x->argv[1]), x->argv[1], &n);

    reply_count(x, err, n);
}

void cmd_sismember(struct exec *x)
{
    bool is = false;
    int err = kv_set_has(exec_kv(x, x->argv[1]), x->argv[1], x->argv[2], &is);

    reply_count(x, err, is);
}

void cmd_smismember(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    uint64_t n;
    int err = kv_set_len(kv, x->argv[1], &n);

    if (err != 0) {
        reply_err(&x->r, err);
        return;
    }
    reply_array(&x->r, x->argc - 2);
    for (uint32_t i = 2; i < x->argc; i++) {
        bool is = false;

        kv_set_has(kv, x->argv[1], x->argv[i], &is);
        reply_int(&x->r, is);
    }
}

static void reply_member(struct slice member, void *arg)
{
    reply_bulk(arg, member);
}

void cmd_smembers(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    uint64_t n = 0;
    int err = kv_set_len(kv, x->argv[1], &n);

    if (err != 0) {
        reply_err(&x->r, err);
        return;
    }
    reply_set(&x->r, n);
    kv_set_each(kv, x->argv[1], reply_member, &x->r);
}
