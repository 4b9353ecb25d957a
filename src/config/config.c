/* Loading, checking, printing and changing. See config.h. */
#include "config/config.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/address.h"
#include "base/check.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "config/internal.h"

/* Held over a change and what follows from it, so that two changes are taken over in their order; taken before any other lock. */
static struct mutex apply_lock = {.m = PTHREAD_MUTEX_INITIALIZER};
/* Guards values and sources; taken last, nothing is called under it. */
static struct mutex change_lock = {.m = PTHREAD_MUTEX_INITIALIZER};

void config_error(struct buf *errors, unsigned *count, const char *where, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    if (++*count > CONFIG_ERRORS_MAX) {
        if (*count == CONFIG_ERRORS_MAX + 1)
            buf_put_str(errors, "more errors follow\n");
        return;
    }
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    buf_printf(errors, "%s%s%s\n", where, where[0] == '\0' ? "" : ": ", text);
}

void config_set_source(struct config *cfg, unsigned index, enum source_kind kind, const char *file,
                       unsigned line)
{
    struct config_source *s = &cfg->sources[index];

    mem_free(s->file);
    *s = (struct config_source){kind, line, file == NULL ? NULL : mem_strdup(file)};
}

static struct config *config_new(void)
{
    struct config *cfg = mem_zalloc(sizeof(*cfg));

    cfg->sources = mem_calloc(option_count, sizeof(cfg->sources[0]));
    for (unsigned i = 0; i < option_count; i++) {
        struct buf why = {0};
        union value v;

        CHECK(value_parse(&options[i], options[i].def, &v, &why) == 0);
        value_store(&options[i], cfg, v);
        buf_fini(&why);
    }
    return cfg;
}

void config_free(struct config *cfg)
{
    if (cfg == NULL)
        return;
    for (unsigned i = 0; i < option_count; i++) {
        union value v = value_load(&options[i], cfg);

        value_fini(&options[i], &v);
        mem_free(cfg->sources[i].file);
    }
    mem_free(cfg->sources);
    mem_free(cfg);
}

/* ---- the command line ---- */

static void read_argument(struct config *cfg, const char *arg, struct buf *errors, unsigned *count)
{
    const char *equals = strchr(arg, '='), *near;
    struct buf why = {0};
    union value v;
    char *full;
    int index;

    if (strncmp(arg, "--", 2) != 0 || equals == NULL) {
        config_error(errors, count, "command line", "%.80s is not of the form --section.name=value", arg);
        return;
    }
    full = mem_strdup_slice(slice_of(arg + 2, (size_t)(equals - arg - 2)));
    index = option_find(full);
    if (index < 0) {
        near = option_nearest(full);
        if (near != NULL)
            config_error(errors, count, "command line", "unknown option --%.80s; did you mean --%s?", full,
                         near);
        else
            config_error(errors, count, "command line",
                         "unknown option --%.80s; gomsgd --print-config lists all", full);
    } else if (value_parse(&options[index], equals + 1, &v, &why) < 0) {
        buf_put_u8(&why, 0);
        config_error(errors, count, "command line", "%s %s", full, (char *)why.data);
    } else {
        value_store(&options[index], cfg, v);
        config_set_source(cfg, (unsigned)index, SOURCE_COMMAND_LINE, NULL, 0);
    }
    buf_fini(&why);
    mem_free(full);
}

static int load(const char *name, const char *text, size_t len, int argc, char **argv, struct config **ret,
                struct buf *errors)
{
    struct config *cfg = config_new();
    unsigned count = 0;

    if (text != NULL)
        yaml_read(cfg, name, text, len, errors, &count);
    for (int i = 0; i < argc; i++)
        read_argument(cfg, argv[i], errors, &count);
    if (count == 0 && config_check(cfg, errors) == 0) {
        *ret = cfg;
        return 0;
    }
    config_free(cfg);
    return ERR_INVALID;
}

int config_load_text(const char *name, const char *text, size_t len, int argc, char **argv,
                     struct config **ret, struct buf *errors)
{
    return load(name, text, len, argc, argv, ret, errors);
}

int config_load(const char *file, int argc, char **argv, struct config **ret, struct buf *errors)
{
    struct buf text = {0};
    int err;

    if (file == NULL)
        return load(NULL, NULL, 0, argc, argv, ret, errors);
    err = file_read(file, CONFIG_FILE_MAX, &text);
    if (err < 0)
        buf_printf(errors, "%s: %s\n", file, err == ERR_NOT_FOUND ? "no such file" : err_text(err));
    else
        err = load(file, text.data == NULL ? "" : (char *)text.data, text.len, argc, argv, ret, errors);
    buf_fini(&text);
    return err;
}

/* ---- checks over several options ---- */

/* "conf/gomsg.yaml:12", "command line" or "" for a default. */
static void where_of(const struct config *cfg, const char *full, char *text, size_t size)
{
    int index = option_find(full);
    const struct config_source *s;

    CHECK(index >= 0);
    s = &cfg->sources[index];
    if (s->kind == SOURCE_FILE)
        snprintf(text, size, "%s:%u", s->file, s->line);
    else
        snprintf(text, size, "%s", s->kind == SOURCE_COMMAND_LINE ? "command line" : "");
}

struct check {
    const struct config *cfg;
    struct buf *errors;
    unsigned count;
};

static void check_listener(struct check *c, const char *full, const struct config_list *list)
{
    char where[4200];

    where_of(c->cfg, full, where, sizeof(where));
    for (unsigned i = 0; i < list->count; i++) {
        struct address a;

        CHECK(address_parse(list->items[i], &a) == 0);
        if (!address_is_loopback(&a) && c->cfg->security_allow_unauthenticated == 0)
            config_error(c->errors, &c->count, where,
                         "%s %s can be reached from other machines, and nobody has to log in; use a loopback "
                         "address, or set "
                         "security.allow_unauthenticated: true if the network is trusted%s",
                         full, list->items[i], strcmp(full, "cluster.listen") == 0 ? ", or give the nodes a cluster.secret" : "");
    }
}

static void check_twice(struct check *c)
{
    const struct config_list *lists[] = {&c->cfg->resp_listen, &c->cfg->kafka_listen, &c->cfg->amqp_listen,
                                         &c->cfg->http_listen, &c->cfg->cluster_listen};
    static const char *const names[] = {"resp.listen", "kafka.listen", "amqp.listen", "http.listen",
                                        "cluster.listen"};
    char where[4200];

    for (unsigned a = 0; a < ARRAY_LEN(lists); a++) {
        for (unsigned i = 0; i < lists[a]->count; i++) {
            const char *text = lists[a]->items[i];

            if (strlen(text) > 2 && strcmp(text + strlen(text) - 2, ":0") == 0)
                continue;
            for (unsigned b = 0; b <= a; b++) {
                for (unsigned k = 0; k < (b == a ? i : lists[b]->count); k++) {
                    if (strcmp(lists[b]->items[k], text) != 0)
                        continue;
                    where_of(c->cfg, names[a], where, sizeof(where));
                    config_error(c->errors, &c->count, where, "%s and %s both want %s", names[b], names[a],
                                 text);
                }
            }
        }
    }
}

static void check_order(struct check *c, const char *low, int64_t low_ms, const char *high, int64_t high_ms)
{
    char where[4200];

    if (low_ms < high_ms)
        return;
    where_of(c->cfg, low, where, sizeof(where));
    if (where[0] == '\0')
        where_of(c->cfg, high, where, sizeof(where));
    config_error(c->errors, &c->count, where, "%s must be shorter than %s", low, high);
}

/* A file that shows the defaults, as conf/gomsg.yaml does, sets nothing. */
static bool is_default(const struct config *cfg, unsigned index)
{
    const struct option *o = &options[index];
    union value is = value_load(o, cfg), def;
    struct buf why = {0};
    bool same;

    CHECK(value_parse(o, o->def, &def, &why) == 0);
    same = value_equal(o, &is, &def);
    value_fini(o, &def);
    buf_fini(&why);
    return same;
}

static void check_seeds(struct check *c)
{
    const struct config_list *seeds = &c->cfg->cluster_seeds;
    char where[4200];

    where_of(c->cfg, "cluster.seeds", where, sizeof(where));
    for (unsigned i = 0; i < seeds->count; i++) {
        struct address a;

        if (address_parse(seeds->items[i], &a) < 0 || a.is_unix || a.port == 0 || a.host[0] == '\0')
            config_error(c->errors, &c->count, where, "cluster.seeds takes HOST:PORT, where the others listen (cluster.listen), not \"%s\"", seeds->items[i]);
        for (unsigned k = 0; k < i; k++) {
            if (strcmp(seeds->items[i], seeds->items[k]) == 0)
                config_error(c->errors, &c->count, where, "cluster.seeds names %s twice", seeds->items[i]);
        }
    }
    if (seeds->count > 0 && c->cfg->cluster_listen.count == 0)
        config_error(c->errors, &c->count, where, "cluster.seeds is set, so cluster.listen must not be empty");
}

int config_check(const struct config *cfg, struct buf *errors)
{
    struct check c = {cfg, errors, 0};
    char where[4200];

    check_listener(&c, "resp.listen", &cfg->resp_listen);
    check_listener(&c, "kafka.listen", &cfg->kafka_listen);
    check_listener(&c, "amqp.listen", &cfg->amqp_listen);
    check_listener(&c, "http.listen", &cfg->http_listen);
    /* Whoever knows the secret is trusted on the bus. */
    if (cfg->cluster_secret[0] == '\0')
        check_listener(&c, "cluster.listen", &cfg->cluster_listen);
    check_twice(&c);
    check_order(&c, "cluster.health_check_interval", cfg->cluster_health_check_interval_ms, "cluster.lease",
                cfg->cluster_lease_ms);
    check_order(&c, "cluster.lease", cfg->cluster_lease_ms, "cluster.failure_timeout",
                cfg->cluster_failure_timeout_ms);
    check_order(&c, "cluster.raft_heartbeat", cfg->cluster_raft_heartbeat_ms, "cluster.raft_election_timeout",
                cfg->cluster_raft_election_timeout_ms);
    if (cfg->cluster_min_insync > cfg->cluster_replication_factor) {
        where_of(cfg, "cluster.min_insync", where, sizeof(where));
        config_error(errors, &c.count, where,
                     "cluster.min_insync must not be above cluster.replication_factor (%lld)",
                     (long long)cfg->cluster_replication_factor);
    }
    check_seeds(&c);
    return c.count == 0 ? 0 : ERR_INVALID;
}

void config_notes(const struct config *cfg, struct buf *out)
{
    char where[4200];

    for (unsigned i = 0; i < option_count; i++) {
        if (!options[i].cluster_only || cfg->sources[i].kind == SOURCE_DEFAULT ||
            cfg->cluster_seeds.count > 0)
            continue;
        if (is_default(cfg, i))
            continue;
        where_of(cfg, options[i].full, where, sizeof(where));
        buf_printf(out, "%s: %s has no effect on a node that runs alone\n", where, options[i].full);
    }
}

/* ---- printing ---- */

/* Plain where YAML reads it as the same text, else in single quotes. */
static void print_scalar(const char *text, struct buf *out)
{
    size_t n = strlen(text);
    bool plain = n > 0 && strcmp(text, "~") != 0 && strcmp(text, "null") != 0;

    for (size_t i = 0; i < n && plain; i++) {
        char ch = text[i];

        plain = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
                ch == '_' || ch == '/' || (ch == '.') || (ch == '-' && (i > 0 || n > 1)) ||
                (ch == ':' && i > 0 && i + 1 < n && text[i + 1] != ' ');
    }
    if (plain) {
        buf_put_str(out, text);
        return;
    }
    buf_put_u8(out, '\'');
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\'')
            buf_put_u8(out, '\'');
        buf_put_u8(out, (uint8_t)text[i]);
    }
    buf_put_u8(out, '\'');
}

static void print_value(const struct option *o, const union value *v, struct buf *out)
{
    struct buf text = {0};

    if (o->type == OPT_LIST || o->type == OPT_LISTEN) {
        buf_put_str(out, "[");
        for (unsigned i = 0; i < v->list.count; i++) {
            buf_put_str(out, i == 0 ? "" : ", ");
            buf_put_u8(out, '"'); /* flow context: an address may hold brackets */
            for (const char *p = v->list.items[i]; *p != '\0'; p++) {
                if (*p == '"' || *p == '\\')
                    buf_put_u8(out, '\\');
                buf_put_u8(out, (uint8_t)*p);
            }
            buf_put_u8(out, '"');
        }
        buf_put_str(out, "]");
        return;
    }
    value_print(o, v, &text);
    buf_put_u8(&text, 0);
    print_scalar((char *)text.data, out);
    buf_fini(&text);
}

void config_print(const struct config *cfg, bool defaults, struct buf *out)
{
    struct config *fresh = defaults ? config_new() : NULL;
    const char *section = "";

    if (defaults)
        cfg = fresh;
    for (unsigned i = 0; i < option_count; i++) {
        const struct option *o = &options[i];
        union value v = value_load(o, cfg);
        bool hidden = o->type == OPT_SECRET && v.s[0] != '\0';

        if (strcmp(section, o->section) != 0) {
            buf_printf(out, "%s%s:\n", i == 0 ? "" : "\n", o->section);
            section = o->section;
        }
        buf_printf(out, "  # %s%s\n  %s%s: ", o->help,
                   o->reloadable     ? ". Reloadable"
                   : o->cluster_only ? ". In a cluster"
                                     : "",
                   hidden ? "# " : "", o->name);
        print_value(o, &v, out);
        buf_put_u8(out, '\n');
    }
    config_free(fresh);
}

/* ---- one option ---- */

int config_get(const struct config *cfg, const char *name, struct buf *out)
{
    int index = option_find(name);
    union value v;

    if (index < 0)
        return ERR_NOT_FOUND;
    v = value_load(&options[index], cfg);
    value_print(&options[index], &v, out);
    return 0;
}

int config_get_source(const struct config *cfg, const char *name, struct buf *out)
{
    int index = option_find(name);
    const struct config_source *s;

    if (index < 0)
        return ERR_NOT_FOUND;
    mutex_lock(&change_lock);
    s = &cfg->sources[index];
    switch (s->kind) {
    case SOURCE_DEFAULT:
        buf_put_str(out, "default");
        break;
    case SOURCE_FILE:
        buf_printf(out, "%s:%u", s->file, s->line);
        break;
    case SOURCE_COMMAND_LINE:
        buf_put_str(out, "command line");
        break;
    case SOURCE_RUNTIME:
        buf_put_str(out, "runtime");
        break;
    }
    mutex_unlock(&change_lock);
    return 0;
}

void config_on_change(struct config *cfg, void (*changed)(void *arg), void *arg)
{
    mutex_lock(&apply_lock);
    cfg->changed = changed;
    cfg->changed_arg = arg;
    mutex_unlock(&apply_lock);
}

static void tell_change(const struct config *cfg)
{
    if (cfg->changed != NULL)
        cfg->changed(cfg->changed_arg);
}

int config_set(struct config *cfg, const char *name, const char *value, struct buf *errors)
{
    int index = option_find(name);
    struct buf why = {0};
    union value v;
    int err;

    if (index < 0) {
        const char *near = option_nearest(name);

        buf_printf(errors, "unknown option %.80s", name);
        if (near != NULL)
            buf_printf(errors, "; did you mean %s?", near);
        buf_put_u8(errors, '\n');
        return ERR_NOT_FOUND;
    }
    if (!options[index].reloadable) {
        buf_printf(errors, "%s can be changed by a restart only\n", name);
        return ERR_READ_ONLY;
    }
    err = value_parse(&options[index], value, &v, &why);
    if (err == 0) {
        mutex_lock(&apply_lock);
        mutex_lock(&change_lock);
        value_store(&options[index], cfg, v);
        config_set_source(cfg, (unsigned)index, SOURCE_RUNTIME, NULL, 0);
        mutex_unlock(&change_lock);
        tell_change(cfg);
        mutex_unlock(&apply_lock);
    } else {
        buf_put_u8(&why, 0);
        buf_printf(errors, "%s %s\n", name, (char *)why.data);
    }
    buf_fini(&why);
    return err;
}

void config_reload(struct config *cfg, const struct config *next, struct buf *report)
{
    mutex_lock(&apply_lock);
    mutex_lock(&change_lock);
    for (unsigned i = 0; i < option_count; i++) {
        const struct option *o = &options[i];
        union value was = value_load(o, cfg), is = value_load(o, next);
        const struct config_source *s = &next->sources[i];

        if (value_equal(o, &was, &is))
            continue;
        buf_printf(report, "%s: ", o->full);
        value_print(o, &was, report);
        buf_put_str(report, " -> ");
        value_print(o, &is, report);
        if (o->reloadable) {
            /* reloadable options are numbers: nothing is shared between the two */
            value_store(o, cfg, is);
            config_set_source(cfg, i, s->kind, s->file, s->line);
            buf_put_u8(report, '\n');
        } else {
            buf_put_str(report, " (at the next start)\n");
        }
    }
    mutex_unlock(&change_lock);
    tell_change(cfg);
    mutex_unlock(&apply_lock);
}
