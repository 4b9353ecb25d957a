/* Lists: https://redis.io/commands/?group=list */
#include "base/err.h"
#include "protocols/resp/blocked.h"
#include "protocols/resp/handlers.h"

static void push(struct exec *x, enum kv_end end, bool only_if_exists)
{
    uint64_t len = 0;
    int err =
        kv_list_push(exec_kv(x, x->argv[1]), x->argv[1], end, x->argv + 2, x->argc - 2, only_if_exists, &len);

    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_int(&x->r, (int64_t)len);
}

void cmd_lpush(struct exec *x)
{
    push(x, KV_HEAD, false);
}

void cmd_rpush(struct exec *x)
{
    push(x, KV_TAIL, false);
}

void cmd_lpushx(struct exec *x)
{
    push(x, KV_HEAD, true);
}

void cmd_rpushx(struct exec *x)
{
    push(x, KV_TAIL, true);
}

void cmd_llen(struct exec *x)
{
    uint64_t len = 0;
    int err = kv_list_len(exec_kv(x, x->argv[1]), x->argv[1], &len);

    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_int(&x->r, (int64_t)len);
}

/* The key comes before the index: a missing key is answered with null whatever the index says (t_list.c,
 * lindexCommand). */
void cmd_lindex(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    struct slice element;
    uint64_t len = 0;
    int64_t index;
    int err = kv_list_len(kv, x->argv[1], &len);

    if (err == 0 && len != 0 && !exec_arg_int(x, 2, &index))
        return;
    if (err == 0)
        err = len == 0 ? ERR_NOT_FOUND : kv_list_get(kv, x->argv[1], index, &element);
    if (err == ERR_NOT_FOUND || err == ERR_RANGE)
        reply_null(&x->r);
    else if (err != 0)
        reply_err(&x->r, err);
    else
        reply_bulk(&x->r, element);
}

static void pop(struct exec *x, enum kv_end end)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    struct buf element = {0};
    uint64_t len = 0;
    int64_t count = 1;
    int err;

    if (x->argc > 3) {
        reply_errorf(&x->r, "ERR wrong number of arguments for '%s' command", x->cmd->fullname);
        return;
    }
    if (x->argc == 3 && (!slice_to_i64(x->argv[2], &count) || count < 0)) {
        reply_error(&x->r, "ERR value is out of range, must be positive");
        return;
    }
    err = kv_list_len(kv, x->argv[1], &len);
    if (err != 0) {
        reply_err(&x->r, err);
        return;
    }
    if (len == 0) {
        if (x->argc == 3)
            reply_null_array(&x->r);
        else
            reply_null(&x->r);
        return;
    }
    if (x->argc == 3) {
        count = (int64_t)MIN_OF((uint64_t)count, len);
        reply_array(&x->r, (size_t)count);
    }
    for (; count > 0; count--) {
        buf_clear(&element);
        CHECK(kv_list_pop(kv, x->argv[1], end, &element) == 0);
        reply_bulk(&x->r, buf_slice(&element));
    }
    buf_fini(&element);
}

void cmd_lpop(struct exec *x)
{
    pop(x, KV_HEAD);
}

void cmd_rpop(struct exec *x)
{
    pop(x, KV_TAIL);
}

static void reply_element(struct slice value, void *arg)
{
    reply_bulk(arg, value);
}

void cmd_lrange(struct exec *x)
{
    struct kv_ctx *kv = exec_kv(x, x->argv[1]);
    int64_t first, last;
    uint64_t n = 0;
    size_t at;
    int err;

    if (!exec_arg_int(x, 2, &first) || !exec_arg_int(x, 3, &last))
        return;
    at = reply_deferred_begin(&x->r);
    err = kv_list_range(kv, x->argv[1], first, last, reply_element, &x->r, &n);
    if (err != 0)
        reply_err(&x->r, err);
    else
        reply_deferred_array(&x->r, at, n);
}

static void blocking_pop(struct exec *x, enum kv_end end)
{
    struct buf element = {0};
    uint64_t timeout_ms;

    if (!blocked_parse_timeout(x, x->argc - 1, &timeout_ms))
        return;
    for (uint32_t i = 1; i < x->argc - 1; i++) {
        struct kv_ctx *kv = exec_kv(x, x->argv[i]);
        uint64_t len = 0;
        int err = kv_list_len(kv, x->argv[i], &len);

        if (err != 0) {
            reply_err(&x->r, err);
            return;
        }
        if (len == 0)
            continue;
        CHECK(kv_list_pop(kv, x->argv[i], end, &element) == 0);
        reply_array(&x->r, 2);
        reply_bulk(&x->r, x->argv[i]);
        reply_bulk(&x->r, buf_slice(&element));
        buf_fini(&element);
        return;
    }
    /* Inside a transaction nobody can wait. */
    if (x->in_exec)
        reply_null_array(&x->r);
    else
        blocked_on_lists(x, 1, x->argc - 2, end, timeout_ms);
}

void cmd_blpop(struct exec *x)
{
    blocking_pop(x, KV_HEAD);
}

void cmd_brpop(struct exec *x)
{
    blocking_pop(x, KV_TAIL);
}
