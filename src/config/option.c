/* The table as data, finding options and guessing what was meant. */
#include <string.h>

#include "base/check.h"
#include "config/internal.h"

#define TYPE_BOOL OPT_BOOL, NULL
#define TYPE_INT OPT_INT, NULL
#define TYPE_FLOAT OPT_FLOAT, NULL
#define TYPE_BYTES OPT_BYTES, NULL
#define TYPE_MS OPT_MS, NULL
#define TYPE_US OPT_US, NULL
#define TYPE_STRING OPT_STRING, NULL
#define TYPE_SECRET OPT_SECRET, NULL
#define TYPE_LIST OPT_LIST, NULL
#define TYPE_LISTEN OPT_LISTEN, NULL
#define TYPE_ADVERTISE OPT_ADVERTISE, NULL
#define TYPE_ENUM(words) OPT_ENUM, words

#define FIELD_BOOL(s, n) s##_##n
#define FIELD_INT(s, n) s##_##n
#define FIELD_FLOAT(s, n) s##_##n
#define FIELD_BYTES(s, n) s##_##n
#define FIELD_MS(s, n) s##_##n##_ms
#define FIELD_US(s, n) s##_##n##_us
#define FIELD_STRING(s, n) s##_##n
#define FIELD_SECRET(s, n) s##_##n
#define FIELD_LIST(s, n) s##_##n
#define FIELD_LISTEN(s, n) s##_##n
#define FIELD_ADVERTISE(s, n) s##_##n
#define FIELD_ENUM(words) FIELD_ENUM_
#define FIELD_ENUM_(s, n) s##_##n

#define WHEN_START false, false
#define WHEN_RELOAD true, false
#define WHEN_CLUSTER false, true

const struct option options[] = {
#define OPTION(section, name, type, def, min, max, when, help)                                               \
    {                                                                                                        \
        #section,                                                                                            \
        #name,                                                                                               \
        #section "." #name,                                                                                  \
        TYPE_##type,                                                                                         \
        def,                                                                                                 \
        min,                                                                                                 \
        max,                                                                                                 \
        WHEN_##when,                                                                                         \
        help,                                                                                                \
        offsetof(struct config, FIELD_##type(section, name))},
#include "config/options.def"
#undef OPTION
};
const unsigned option_count = ARRAY_LEN(options);

static const char *const type_names[] = {
    [OPT_BOOL] = "bool",   [OPT_INT] = "int",          [OPT_FLOAT] = "number",      [OPT_BYTES] = "bytes",
    [OPT_MS] = "duration", [OPT_US] = "duration",      [OPT_STRING] = "string",     [OPT_SECRET] = "secret",
    [OPT_LIST] = "list",   [OPT_LISTEN] = "addresses", [OPT_ADVERTISE] = "address", [OPT_ENUM] = "word",
};

unsigned config_option_count(void)
{
    return option_count;
}

void config_option_at(unsigned index, struct config_option *ret)
{
    const struct option *o = &options[index];

    CHECK(index < option_count);
    *ret = (struct config_option){o->section, o->name, type_names[o->type], o->words,
                                  o->def,     o->help, o->reloadable,       o->cluster_only};
}

int option_find(const char *full)
{
    for (unsigned i = 0; i < option_count; i++) {
        if (strcmp(options[i].full, full) == 0)
            return (int)i;
    }
    return -1;
}

bool section_exists(const char *section)
{
    for (unsigned i = 0; i < option_count; i++) {
        if (strcmp(options[i].section, section) == 0)
            return true;
    }
    return false;
}

/* Levenshtein distance of the first 63 bytes. */
static unsigned distance(const char *a, const char *b)
{
    unsigned char row[64];
    unsigned n = 0;

    while (n < 63 && b[n] != '\0')
        n++;
    for (unsigned k = 0; k <= n; k++)
        row[k] = (unsigned char)k;
    for (unsigned i = 0; i < 63 && a[i] != '\0'; i++) {
        unsigned char diagonal = row[0];

        row[0] = (unsigned char)(i + 1);
        for (unsigned k = 0; k < n; k++) {
            unsigned char up = row[k + 1], cost = a[i] == b[k] ? 0 : 1;
            unsigned best = (unsigned)diagonal + cost;

            best = MIN_OF(best, up + 1u);
            best = MIN_OF(best, row[k] + 1u);
            row[k + 1] = (unsigned char)best;
            diagonal = up;
        }
    }
    return row[n];
}

const char *option_nearest(const char *full)
{
    const char *dot = strchr(full, '.'), *last = dot == NULL ? full : dot + 1, *best = NULL;
    unsigned best_distance = 0, limit = (unsigned)strlen(full) / 3 + 1;

    for (unsigned i = 0; i < option_count; i++) {
        unsigned d = distance(full, options[i].full);

        /* The right name in the wrong section is near, too. */
        if (strcmp(options[i].name, last) == 0)
            d = MIN_OF(d, 1u);
        if (best == NULL || d < best_distance) {
            best = options[i].full;
            best_distance = d;
        }
    }
    return best_distance <= limit ? best : NULL;
}

const char *section_nearest(const char *section)
{
    const char *best = NULL;
    unsigned best_distance = 0;

    for (unsigned i = 0; i < option_count; i++) {
        unsigned d = distance(section, options[i].section);

        if (best == NULL || d < best_distance) {
            best = options[i].section;
            best_distance = d;
        }
    }
    return best_distance <= strlen(section) / 3 + 1 ? best : NULL;
}
