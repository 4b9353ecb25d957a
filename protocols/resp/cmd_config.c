/* CONFIG GET, SET, RESETSTAT: https://redis.io/commands/config-get. Redis' names for options of ours, for
 * settings of this front end, and for facts that have no switch here: those are answered as they are, and
 * CONFIG SET accepts the value they have and refuses another. Options of ours answer under their own names
 * too ("kv.ack"). */
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "config/config.h"
#include "protocols/resp/exec.h"
#include "protocols/resp/handlers.h"
#include "protocols/resp/slowlog.h"

struct parameter {
    const char *name;
    const char *option; /* of ours, whose value it is; NULL: get or fact */
    void (*get)(struct exec *x, char *text, size_t size);
    bool (*set)(struct exec *x, struct slice value,
                bool apply); /* NULL: through the option, or the fact only */
    const char *fact;
};

static void get_slow(struct exec *x, char *text, size_t size)
{
    uint64_t us = __atomic_load_n(&x->w->front->slow_us, __ATOMIC_RELAXED);

    snprintf(text, size, "%lld", us == UINT64_MAX ? -1LL : (long long)us);
}

static bool set_slow(struct exec *x, struct slice value, bool apply)
{
    int64_t v;

    if (!slice_to_i64(value, &v) || v < -1)
        return false;
    if (apply)
        __atomic_store_n(&x->w->front->slow_us, v < 0 ? UINT64_MAX : (uint64_t)v, __ATOMIC_RELAXED);
    return true;
}

static void get_slow_max(struct exec *x, char *text, size_t size)
{
    snprintf(text, size, "%u", slowlog_max(x->w->front->slowlog));
}

static bool set_slow_max(struct exec *x, struct slice value, bool apply)
{
    int64_t v;

    if (!slice_to_i64(value, &v) || v < 0 || v > 1000000)
        return false;
    if (apply)
        slowlog_set_max(x->w->front->slowlog, (uint32_t)v);
    return true;
}

static int64_t option_number(struct exec *x, const char *name)
{
    const struct config *cfg = x->w->front->o.config;

    if (cfg == NULL)
        return 0;
    if (strcmp(name, "resp.idle_timeout") == 0)
        return CONFIG_GET(cfg, resp_idle_timeout_ms) / 1000;
    if (strcmp(name, "kv.maxmemory") == 0)
        return CONFIG_GET(cfg, kv_maxmemory);
    if (strcmp(name, "resp.max_bulk_bytes") == 0)
        return CONFIG_GET(cfg, resp_max_bulk_bytes);
    if (strcmp(name, "resp.max_connections") == 0)
        return cfg->resp_max_connections;
    return CONFIG_GET(cfg, resp_busy_reply_threshold_ms);
}

static void get_appendfsync(struct exec *x, char *text, size_t size)
{
    static const char *const words[] = {"everysec", "always", "no"};
    const struct config *cfg = x->w->front->o.config;

    snprintf(text, size, "%s", words[cfg == NULL ? 0 : CONFIG_GET(cfg, log_fsync)]);
}

static void get_port(struct exec *x, char *text, size_t size)
{
    snprintf(text, size, "%u", x->w->front->o.tcp_port);
}

static void get_dir(struct exec *x, char *text, size_t size)
{
    const struct config *cfg = x->w->front->o.config;

    snprintf(text, size, "%s", cfg == NULL ? "" : cfg->node_data_dir);
}

static void get_debug(struct exec *x, char *text, size_t size)
{
    static const char *const words[] = {"no", "local", "yes"};
    const struct config *cfg = x->w->front->o.config;

    snprintf(text, size, "%s",
             words[cfg == NULL ? CONFIG_DEBUG_YES : CONFIG_GET(cfg, resp_enable_debug_command)]);
}

static bool set_option(struct exec *x, const char *name, const char *text)
{
    struct buf errors = {0};
    int err =
        x->w->front->o.config == NULL ? ERR_INVALID : config_set(x->w->front->o.config, name, text, &errors);

    buf_fini(&errors);
    return err == 0;
}

/* "512mb" as Redis writes memory (memtoull): a number and b, k, kb, m, mb, g, gb, in any case. */
static bool parse_memory(struct slice s, uint64_t *ret)
{
    static const struct {
        const char *unit;
        uint64_t times;
    } units[] = {{"", 1},        {"b", 1},        {"k", 1000},       {"kb", 1024},
                 {"m", 1000000}, {"mb", 1 << 20}, {"g", 1000000000}, {"gb", 1 << 30}};
    size_t n = 0;
    uint64_t v = 0;

    for (; n < s.len && n < 18 && s.data[n] >= '0' && s.data[n] <= '9'; n++)
        v = v * 10 + (uint64_t)(s.data[n] - '0');
    if (n == 0)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        if (slice_ieq(slice_of(s.data + n, s.len - n), units[i].unit))
            return !__builtin_mul_overflow(v, units[i].times, ret) && *ret <= INT64_MAX;
    return false;
}

static bool set_maxmemory(struct exec *x, struct slice value, bool apply)
{
    char text[32];
    uint64_t v;

    if (!parse_memory(value, &v))
        return false;
    snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    return !apply || set_option(x, "kv.maxmemory", text);
}

static bool set_bulk_max(struct exec *x, struct slice value, bool apply)
{
    char text[32];
    uint64_t v;

    if (!parse_memory(value, &v) || v < 1024 * 1024 || v > REQUEST_BULK_MAX)
        return false;
    snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    return !apply || set_option(x, "resp.max_bulk_bytes", text);
}

static bool set_timeout(struct exec *x, struct slice value, bool apply)
{
    char text[32];
    int64_t v;

    if (!slice_to_i64(value, &v) || v < 0 || v > 31536000)
        return false;
    snprintf(text, sizeof(text), "%llds", (long long)v);
    return !apply || set_option(x, "resp.idle_timeout", text);
}

static bool set_busy(struct exec *x, struct slice value, bool apply)
{
    char text[32];
    int64_t v;

    if (!slice_to_i64(value, &v) || v < 1 || v > 3600000)
        return false;
    snprintf(text, sizeof(text), "%lldms", (long long)v);
    return !apply || set_option(x, "resp.busy_reply_threshold", text);
}

static bool set_appendfsync(struct exec *x, struct slice value, bool apply)
{
    const char *word = slice_ieq(value, "everysec") ? "interval"
                       : slice_ieq(value, "always") ? "always"
                       : slice_ieq(value, "no")     ? "never"
                                                    : NULL;

    return word != NULL && (!apply || set_option(x, "log.fsync", word));
}

static const struct parameter parameters[] = {
    {"maxmemory", "kv.maxmemory", NULL, set_maxmemory, NULL},
    {"maxmemory-policy", NULL, NULL, NULL, "noeviction"},
    {"maxclients", "resp.max_connections", NULL, NULL, NULL},
    {"timeout", "resp.idle_timeout", NULL, set_timeout, NULL},
    {"proto-max-bulk-len", "resp.max_bulk_bytes", NULL, set_bulk_max, NULL},
    {"busy-reply-threshold", "resp.busy_reply_threshold", NULL, set_busy, NULL},
    {"lua-time-limit", "resp.busy_reply_threshold", NULL, set_busy, NULL},
    {"slowlog-log-slower-than", NULL, get_slow, set_slow, NULL},
    {"slowlog-max-len", NULL, get_slow_max, set_slow_max, NULL},
    {"appendfsync", NULL, get_appendfsync, set_appendfsync, NULL},
    {"enable-debug-command", NULL, get_debug, NULL, NULL},
    {"port", NULL, get_port, NULL, NULL},
    {"dir", NULL, get_dir, NULL, NULL},
    /* Every change is in a log from the start; snapshots follow the log's growth, no schedule. */
    {"appendonly", NULL, NULL, NULL, "yes"},
    {"save", NULL, NULL, NULL, ""},
    {"databases", NULL, NULL, NULL, "16"},
    {"cluster-enabled", NULL, NULL, NULL, "no"},
    {"hash-max-listpack-entries", NULL, NULL, NULL, "128"},
    {"hash-max-ziplist-entries", NULL, NULL, NULL, "128"},
    {"hash-max-listpack-value", NULL, NULL, NULL, "64"},
    {"hash-max-ziplist-value", NULL, NULL, NULL, "64"},
    {"set-max-intset-entries", NULL, NULL, NULL, "512"},
    {"set-max-listpack-entries", NULL, NULL, NULL, "128"},
    {"set-max-listpack-value", NULL, NULL, NULL, "64"},
    {"list-max-listpack-size", NULL, NULL, NULL, "-2"},
    {"list-max-ziplist-size", NULL, NULL, NULL, "-2"},
    {"list-compress-depth", NULL, NULL, NULL, "0"},
    {"notify-keyspace-events", NULL, NULL, NULL, ""},
    {"latency-monitor-threshold", NULL, NULL, NULL, "0"},
    {"activedefrag", NULL, NULL, NULL, "no"},
    {"requirepass", NULL, NULL, NULL, ""},
    {"protected-mode", NULL, NULL, NULL, "yes"},
    {"io-threads", NULL, NULL, NULL, "1"},
    {"min-replicas-to-write", NULL, NULL, NULL, "0"},
    {"replica-read-only", NULL, NULL, NULL, "yes"},
};

static void parameter_text(struct exec *x, const struct parameter *p, char *text, size_t size)
{
    if (p->get != NULL)
        p->get(x, text, size);
    else if (p->option != NULL)
        snprintf(text, size, "%lld", (long long)option_number(x, p->option));
    else
        snprintf(text, size, "%s", p->fact);
    if (strcmp(p->name, "cluster-enabled") == 0 && x->w->front->o.cluster_mode)
        snprintf(text, size, "yes");
}

static bool wanted(struct exec *x, const char *name)
{
    for (uint32_t i = 2; i < x->argc; i++)
        if (slice_glob(x->argv[i], slice_str(name), true))
            return true;
    return false;
}

void cmd_config_get(struct exec *x)
{
    size_t at = reply_deferred_begin(&x->r), n = 0;
    char text[4200], name[128];

    for (size_t i = 0; i < ARRAY_LEN(parameters); i++) {
        if (!wanted(x, parameters[i].name))
            continue;
        parameter_text(x, &parameters[i], text, sizeof(text));
        reply_bulk_str(&x->r, parameters[i].name);
        reply_bulk_str(&x->r, text);
        n++;
    }
    for (unsigned i = 0; x->w->front->o.config != NULL && i < config_option_count(); i++) {
        struct config_option o;
        struct buf value = {0};

        config_option_at(i, &o);
        snprintf(name, sizeof(name), "%s.%s", o.section, o.name);
        if (!wanted(x, name) || config_get(x->w->front->o.config, name, &value) != 0) {
            buf_fini(&value);
            continue;
        }
        reply_bulk_str(&x->r, name);
        reply_bulk(&x->r, buf_slice(&value));
        buf_fini(&value);
        n++;
    }
    reply_deferred_map(&x->r, at, n);
}

static const struct parameter *parameter_find(struct slice name)
{
    for (size_t i = 0; i < ARRAY_LEN(parameters); i++)
        if (slice_ieq(name, parameters[i].name))
            return &parameters[i];
    return NULL;
}

/* One pair: checked, and with `apply` done. False: the error was written. */
static bool set_one(struct exec *x, struct slice name, struct slice value, bool apply)
{
    const struct parameter *p = parameter_find(name);
    char text[4200];

    if (p == NULL) {
        struct buf errors = {0}, now = {0};
        char *key = mem_strdup_slice(name), *word = mem_strdup_slice(value);
        int err = ERR_NOT_FOUND;

        if (x->w->front->o.config != NULL && config_get(x->w->front->o.config, key, &now) == 0)
            err = apply ? config_set(x->w->front->o.config, key, word, &errors) : 0;
        if (err == ERR_NOT_FOUND)
            reply_errorf(&x->r, "ERR Unknown option or number of arguments for CONFIG SET - '%.*s'",
                         (int)MIN_OF(name.len, (size_t)128), (const char *)name.data);
        else if (err != 0)
            reply_errorf(&x->r, "ERR CONFIG SET failed (possibly related to argument '%.*s') - %.*s",
                         (int)MIN_OF(name.len, (size_t)128), (const char *)name.data,
                         (int)MIN_OF(errors.len, (size_t)200), (const char *)errors.data);
        buf_fini(&errors);
        buf_fini(&now);
        mem_free(key);
        mem_free(word);
        return err == 0;
    }
    if (p->set != NULL) {
        if (p->set(x, value, apply))
            return true;
        reply_errorf(&x->r, "ERR CONFIG SET failed (possibly related to argument '%s') - %s", p->name,
                     p->set == set_maxmemory || p->set == set_bulk_max
                         ? "argument must be a memory value"
                         : "argument couldn't be parsed or is out of range");
        return false;
    }
    parameter_text(x, p, text, sizeof(text));
    if (slice_eq(value, slice_str(text)))
        return true;
    reply_errorf(&x->r,
                 "ERR CONFIG SET failed (possibly related to argument '%s') - can't set immutable config",
                 p->name);
    return false;
}

void cmd_config_set(struct exec *x)
{
    if (x->argc % 2 != 0) {
        reply_errorf(&x->r, "ERR wrong number of arguments for '%s' command", x->cmd->fullname);
        return;
    }
    /* All are checked before the first is changed. */
    for (int apply = 0; apply < 2; apply++)
        for (uint32_t i = 2; i < x->argc; i += 2)
            if (!set_one(x, x->argv[i], x->argv[i + 1], apply != 0))
                return;
    reply_ok(&x->r);
}
