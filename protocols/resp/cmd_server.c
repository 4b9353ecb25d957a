/* TIME, DEBUG, LATENCY. */
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/err.h"
#include "config/config.h"
#include "protocols/resp/blocked.h"
#include "protocols/resp/handlers.h"

void cmd_time(struct exec *x)
{
    int64_t us = clock_wall_us();

    reply_array(&x->r, 2);
    reply_bulk_int(&x->r, us / 1000000);
    reply_bulk_int(&x->r, us % 1000000);
}

static bool debug_allowed(const struct exec *x)
{
    const struct config *cfg = x->w->front->o.config;

    if (cfg == NULL || CONFIG_GET(cfg, resp_enable_debug_command) == CONFIG_DEBUG_YES)
        return true;
    return CONFIG_GET(cfg, resp_enable_debug_command) == CONFIG_DEBUG_LOCAL && session_is_trusted(x->s);
}

/* The reply types, as DEBUG PROTOCOL of Redis names them; for tests of clients. */
static bool debug_protocol(struct exec *x, uint32_t i)
{
    if (exec_arg_is(x, i, "string")) {
        reply_bulk(&x->r, SLICE_LIT("Hello World"));
    } else if (exec_arg_is(x, i, "integer")) {
        reply_int(&x->r, 12345);
    } else if (exec_arg_is(x, i, "double")) {
        reply_double(&x->r, 3.141);
    } else if (exec_arg_is(x, i, "null")) {
        reply_null(&x->r);
    } else if (exec_arg_is(x, i, "array")) {
        reply_array(&x->r, 3);
        for (int k = 0; k < 3; k++)
            reply_int(&x->r, k);
    } else if (exec_arg_is(x, i, "set")) {
        reply_set(&x->r, 3);
        for (int k = 0; k < 3; k++)
            reply_int(&x->r, k);
    } else if (exec_arg_is(x, i, "map")) {
        reply_map(&x->r, 3);
        for (int k = 0; k < 3; k++) {
            reply_int(&x->r, k);
            reply_bool(&x->r, k == 1);
        }
    } else if (exec_arg_is(x, i, "verbatim")) {
        reply_verbatim(&x->r, "txt", SLICE_LIT("This is a verbatim\nstring"));
    } else if (exec_arg_is(x, i, "true") || exec_arg_is(x, i, "false")) {
        reply_bool(&x->r, exec_arg_is(x, i, "true"));
    } else {
        return false;
    }
    return true;
}

void cmd_debug(struct exec *x)
{
    double seconds;

    if (!debug_allowed(x)) {
        reply_error(&x->r, "ERR DEBUG command not allowed. If the enable-debug-command option is set to "
                           "\"local\", you can run it from a "
                           "local connection, otherwise you need to set this option in the configuration "
                           "file, and then restart the server.");
        return;
    }
    if (exec_arg_is(x, 1, "sleep") && x->argc == 3) {
        /* Only this connection sleeps: a worker never does. */
        if (!slice_to_double(x->argv[2], &seconds) || !isfinite(seconds) || seconds < 0 || seconds > 3600)
            reply_err(&x->r, ERR_NOT_FLOAT);
        else if (seconds == 0 || x->in_exec)
            reply_ok(&x->r);
        else
            blocked_on_time(x, (uint64_t)ceil(seconds * 1000), BLOCKED_ANSWER_OK);
        return;
    }
    if (exec_arg_is(x, 1, "protocol") && x->argc == 3 && debug_protocol(x, 2))
        return;
    reply_errorf(&x->r, "ERR unknown subcommand or wrong number of arguments for '%.*s'. Try DEBUG HELP.",
                 (int)MIN_OF(x->argv[1].len, (size_t)128), (const char *)x->argv[1].data);
}

/* ---- LATENCY HISTOGRAM: https://redis.io/commands/latency-histogram ---- */

/* Buckets by powers of two of microseconds, cumulative, as Redis answers them. */
static void reply_histogram(struct exec *x, const struct command *c, const struct hist *h)
{
    uint64_t calls = hist_count(h), seen = 0, limit_us = 1;
    size_t at, pairs = 0;

    reply_bulk_str(&x->r, c->fullname);
    reply_map(&x->r, 2);
    reply_bulk_str(&x->r, "calls");
    reply_int(&x->r, (int64_t)calls);
    reply_bulk_str(&x->r, "histogram_usec");
    at = reply_deferred_begin(&x->r);
    for (unsigned i = 0; i < HIST_BUCKETS && seen < calls; i++) {
        uint64_t end_us = hist_bucket_start(i + 1) / 1000;

        if (end_us > limit_us) {
            if (seen > 0) {
                reply_int(&x->r, (int64_t)limit_us);
                reply_int(&x->r, (int64_t)seen);
                pairs++;
            }
            while (limit_us < end_us)
                limit_us *= 2;
        }
        seen += h->buckets[i];
    }
    reply_int(&x->r, (int64_t)limit_us);
    reply_int(&x->r, (int64_t)seen);
    reply_deferred_map(&x->r, at, pairs + 1);
}

void cmd_latency_histogram(struct exec *x)
{
    size_t at = reply_deferred_begin(&x->r), n = 0;
    struct hist h;

    for (int i = 0; i < COMMANDS; i++) {
        const struct command *c = &command_table[i];
        bool wanted = x->argc == 2;

        for (uint32_t k = 2; k < x->argc; k++)
            wanted = wanted || exec_arg_is(x, k, c->fullname) ||
                     (c->container >= 0 && exec_arg_is(x, k, command_table[c->container].name));
        if (!wanted || c->handler == NULL)
            continue;
        metrics_family_read_hist(x->w->front->metrics.latency, c->id, &h);
        if (hist_count(&h) == 0)
            continue;
        reply_histogram(x, c, &h);
        n++;
    }
    reply_deferred_map(&x->r, at, n);
}
