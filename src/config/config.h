/* The configuration: one struct of plain fields, generated from options.def.
 *
 * A value comes from the default, the YAML file, `--section.name=value` or, for options that allow it, from a
 * change while running; the last wins. Everything wrong is told at once, each with file:line (or "command
 * line"), the option and what would be right; a file with an error is refused whole.
 *
 * Threads. config_load, _check, _print, _free: one thread, before or after everything else. While running,
 * fields of START options never change: read them plainly. Fields of RELOAD options are numbers, changed by
 * config_set and config_reload (serialised by a lock inside) with an atomic store: read them with
 * CONFIG_GET(cfg, field). */
#ifndef GM_CONFIG_CONFIG_H
#define GM_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct config_list {
    char **items; /* owned, NULL when empty */
    unsigned count;
};

/* The words of ENUM options, in the order of options.def. */
enum config_debug_command { CONFIG_DEBUG_NO, CONFIG_DEBUG_LOCAL, CONFIG_DEBUG_YES };
enum config_kv_ack { CONFIG_ACK_NONE, CONFIG_ACK_LEADER, CONFIG_ACK_QUORUM };
enum config_log_fsync { CONFIG_FSYNC_INTERVAL, CONFIG_FSYNC_ALWAYS, CONFIG_FSYNC_NEVER };

#define CONFIG_FIELD_BOOL(s, n) int64_t s##_##n;
#define CONFIG_FIELD_INT(s, n) int64_t s##_##n;
#define CONFIG_FIELD_FLOAT(s, n) double s##_##n;
#define CONFIG_FIELD_BYTES(s, n) int64_t s##_##n;
#define CONFIG_FIELD_MS(s, n) int64_t s##_##n##_ms;
#define CONFIG_FIELD_US(s, n) int64_t s##_##n##_us;
#define CONFIG_FIELD_STRING(s, n) char *s##_##n;
#define CONFIG_FIELD_SECRET(s, n) char *s##_##n;
#define CONFIG_FIELD_LIST(s, n) struct config_list s##_##n;
#define CONFIG_FIELD_LISTEN(s, n) struct config_list s##_##n;
#define CONFIG_FIELD_ADVERTISE(s, n) char *s##_##n;
#define CONFIG_FIELD_ENUM_(s, n) int64_t s##_##n;
/* ENUM("words") pastes to CONFIG_FIELD_ENUM("words"), which gives the macro that takes the names. */
#define CONFIG_FIELD_ENUM(words) CONFIG_FIELD_ENUM_

struct config_source;

struct config {
#define OPTION(section, name, type, def, min, max, when, help) CONFIG_FIELD_##type(section, name)
#include "config/options.def"
#undef OPTION
    struct config_source *sources; /* owned: where each value came from */
    void (*changed)(void *arg);    /* config_on_change */
    void *changed_arg;
};

#define CONFIG_GET(cfg, field) __atomic_load_n(&(cfg)->field, __ATOMIC_RELAXED)

/* `file` NULL: no file. argv[0..argc) are the arguments to take, all of the form --section.name=value. 0, or
 * ERR_INVALID (ERR_NOT_FOUND, ERR_ACCESS… when the file cannot be read) with lines of text in errors. */
int config_load(const char *file, int argc, char **argv, struct config **ret, struct buf *errors);
/* From text instead of a file; `name` stands in messages. */
int config_load_text(const char *name, const char *text, size_t len, int argc, char **argv,
                     struct config **ret, struct buf *errors);
void config_free(struct config *cfg);

/* What no single option can know: listeners and trust, limits against each other. config_load has done it
 * already. */
int config_check(const struct config *cfg, struct buf *errors);

/* What is allowed but does nothing: options of a cluster set on a node that runs alone. A line each, "where:
 * what". */
void config_notes(const struct config *cfg, struct buf *out);

/* The effective values as YAML that config_load reads back, each under its help; secrets are left out. With
 * `defaults`, the defaults instead: the text of conf/gomsg.yaml. */
void config_print(const struct config *cfg, bool defaults, struct buf *out);

/* ---- one option, by its name "section.name" ---- */

struct config_option {
    const char *section, *name;
    const char *type;  /* "bool", "int", "number", "bytes", "duration", "string", "secret", "list",
                          "addresses", "address", "word" */
    const char *words; /* of a word option: "none leader quorum" */
    const char *def, *help;
    bool reloadable;
    bool cluster_only; /* without effect while the node runs alone */
};
unsigned config_option_count(void);
/* The options in the order of the table. */
void config_option_at(unsigned index, struct config_option *ret);

/* The value as it would stand in the file, without quotes; secrets give "(hidden)". ERR_NOT_FOUND. */
int config_get(const struct config *cfg, const char *name, struct buf *out);
/* Where it came from: "default", "FILE:LINE", "command line", "runtime". */
int config_get_source(const struct config *cfg, const char *name, struct buf *out);
/* Any thread. ERR_NOT_FOUND, ERR_INVALID, ERR_READ_ONLY (needs a restart) with one line in errors. */
int config_set(struct config *cfg, const char *name, const char *value, struct buf *errors);
/* SIGHUP: takes over what `next` has for reloadable options; one line a change in `report`, also for those
 * that wait for a restart. Any thread; `next` stays the caller's. */
void config_reload(struct config *cfg, const struct config *next, struct buf *report);
/* `changed` runs after each config_set and config_reload, on its thread, one at a time and in the order of the changes: whoever had to copy a value takes the new one over there, whichever way it
 * came. It may take locks, but must not change options. To be set before another thread may change any. */
void config_on_change(struct config *cfg, void (*changed)(void *arg), void *arg);

#endif
