/* Inside src/config: the rows of options.def as data, values, and the two readers. */
#ifndef GM_CONFIG_INTERNAL_H
#define GM_CONFIG_INTERNAL_H

#include <stddef.h>

#include "config/config.h"

enum option_type {
    OPT_BOOL,
    OPT_INT,
    OPT_FLOAT,
    OPT_BYTES,
    OPT_MS,
    OPT_US,
    OPT_STRING,
    OPT_SECRET,
    OPT_LIST,
    OPT_LISTEN,
    OPT_ADVERTISE,
    OPT_ENUM,
};

struct option {
    const char *section, *name;
    const char *full; /* "section.name" */
    enum option_type type;
    const char *words;
    const char *def;
    int64_t min, max;
    bool reloadable, cluster_only;
    const char *help;
    size_t offset; /* of the field in struct config */
};

extern const struct option options[];
extern const unsigned option_count;

enum { CONFIG_ERRORS_MAX = 20, CONFIG_FILE_MAX = 1 << 20, CONFIG_DEPTH_MAX = 4 };

enum source_kind { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_COMMAND_LINE, SOURCE_RUNTIME };

struct config_source {
    enum source_kind kind;
    unsigned line;
    char *file; /* owned */
};

union value {
    int64_t i;
    double f;
    char *s;                 /* owned */
    struct config_list list; /* owned */
};

/* The option's index or -1. */
int option_find(const char *full);
/* The nearest option (or, with whole_section, section) by edit distance; NULL when nothing is near. */
const char *option_nearest(const char *full);
const char *section_nearest(const char *section);
bool section_exists(const char *section);

/* value.c: 0, or ERR_INVALID with the reason (no newline) in why. */
int value_parse(const struct option *o, const char *text, union value *ret, struct buf *why);
/* A list from items; takes nothing. */
int value_parse_items(const struct option *o, const char *const *items, unsigned count, union value *ret,
                      struct buf *why);
void value_fini(const struct option *o, union value *v);
void value_print(const struct option *o, const union value *v, struct buf *out);
bool value_equal(const struct option *o, const union value *a, const union value *b);
union value value_load(const struct option *o, const struct config *cfg); /* borrowed */
/* Frees the old value and takes the new; numbers by an atomic store. */
void value_store(const struct option *o, struct config *cfg, union value v);

/* yaml.c: reads text into cfg. Errors are lines in `errors`, counted in *count. */
void yaml_read(struct config *cfg, const char *file, const char *text, size_t len, struct buf *errors,
               unsigned *count);

/* "where: what" as one line, unless there are CONFIG_ERRORS_MAX already. */
void config_error(struct buf *errors, unsigned *count, const char *where, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void config_set_source(struct config *cfg, unsigned index, enum source_kind kind, const char *file,
                       unsigned line);

#endif
