/* The YAML file: two levels, sections and options. Anchors, aliases, tags, several documents and deeper
 * nesting are refused: a configuration needs none of them, and an alias could stand for a gigabyte. Reading
 * goes on after an error as far as the YAML itself is sound, so that all mistakes are told at once. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "base/err.h"
#include "base/mem.h"
#include "config/internal.h"

struct reading {
    struct config *cfg;
    const char *file;
    struct buf *errors;
    unsigned *count;
    yaml_parser_t parser;
    bool broken;         /* the YAML cannot be read on */
    unsigned *seen_line; /* one an option: where it stood first, 0 = not yet */
};

static void complain(struct reading *r, unsigned line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void complain(struct reading *r, unsigned line, const char *fmt, ...)
{
    char where[4096 + 32], text[1024];
    va_list ap;

    snprintf(where, sizeof(where), "%s:%u", r->file, line);
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    config_error(r->errors, r->count, where, "%s", text);
}

/* False when there is no next event; the complaint is made. */
static bool next(struct reading *r, yaml_event_t *ret)
{
    if (r->broken)
        return false;
    if (yaml_parser_parse(&r->parser, ret) == 0) {
        size_t line = r->parser.problem_mark.line;

        r->broken = true;
        if (r->parser.error == YAML_READER_ERROR)
            complain(r, 1, "is not UTF-8 text");
        else if (r->parser.context != NULL)
            complain(r, (unsigned)line + 1, "%s (%s)", r->parser.problem, r->parser.context);
        else
            complain(r, (unsigned)line + 1, "%s",
                     r->parser.problem != NULL ? r->parser.problem : "cannot be read");
        return false;
    }
    return true;
}

static unsigned line_of(const yaml_event_t *e)
{
    return (unsigned)e->start_mark.line + 1;
}

static bool opens(const yaml_event_t *e)
{
    return e->type == YAML_SEQUENCE_START_EVENT || e->type == YAML_MAPPING_START_EVENT;
}

static bool closes(const yaml_event_t *e)
{
    return e->type == YAML_SEQUENCE_END_EVENT || e->type == YAML_MAPPING_END_EVENT;
}

/* Behind the event that opened something: skips to its end. */
static void skip(struct reading *r)
{
    unsigned depth = 1;
    yaml_event_t e;

    while (depth > 0 && next(r, &e)) {
        if (opens(&e) && ++depth > 64) {
            complain(r, line_of(&e), "is nested too deeply");
            r->broken = true;
        }
        if (closes(&e))
            depth--;
        if (e.type == YAML_STREAM_END_EVENT)
            r->broken = true;
        yaml_event_delete(&e);
    }
}

/* A scalar's text; NULL, with the complaint made, for what is none. A NUL inside is none either. */
static char *scalar(struct reading *r, const yaml_event_t *e, const char *what)
{
    if (e->type != YAML_SCALAR_EVENT) {
        if (e->type == YAML_ALIAS_EVENT)
            complain(r, line_of(e), "%s is an alias: anchors and aliases are not read here", what);
        else
            complain(r, line_of(e), "%s must be a plain value", what);
        if (opens(e))
            skip(r);
        return NULL;
    }
    if (e->data.scalar.anchor != NULL || (e->data.scalar.tag != NULL && !e->data.scalar.quoted_implicit)) {
        complain(r, line_of(e), "%s has an anchor or a tag: these are not read here", what);
        return NULL;
    }
    if (memchr(e->data.scalar.value, '\0', e->data.scalar.length) != NULL) {
        complain(r, line_of(e), "%s contains a NUL byte", what);
        return NULL;
    }
    return mem_strdup_slice(slice_of(e->data.scalar.value, e->data.scalar.length));
}

static void store(struct reading *r, unsigned index, unsigned line, int err, union value v, struct buf *why)
{
    const struct option *o = &options[index];

    buf_put_u8(why, 0);
    if (err < 0) {
        complain(r, line, "%s %s", o->full, (char *)why->data);
    } else {
        value_store(o, r->cfg, v);
        config_set_source(r->cfg, index, SOURCE_FILE, r->file, line);
    }
}

static void read_list(struct reading *r, unsigned index, unsigned line)
{
    const struct option *o = &options[index];
    const char *items[66];
    unsigned count = 0;
    bool good = true, end = false;
    union value v = {0};
    struct buf why = {0};
    yaml_event_t e;

    while (!end && next(r, &e)) {
        if (e.type == YAML_SEQUENCE_END_EVENT) {
            end = true;
        } else {
            char *text = scalar(r, &e, o->full);

            if (text == NULL)
                good = false;
            else if (count < 66)
                items[count++] = text;
            else
                mem_free(text);
        }
        yaml_event_delete(&e);
    }
    if (good && end)
        store(r, index, line, value_parse_items(o, items, count, &v, &why), v, &why);
    for (unsigned i = 0; i < count; i++)
        mem_free((void *)(uintptr_t)items[i]);
    buf_fini(&why);
}

static void read_value(struct reading *r, unsigned index, yaml_event_t *e)
{
    const struct option *o = &options[index];
    bool list = o->type == OPT_LIST || o->type == OPT_LISTEN;
    unsigned line = line_of(e);
    char *text;

    if (e->type == YAML_SEQUENCE_START_EVENT && list && e->data.sequence_start.anchor == NULL) {
        read_list(r, index, line);
        return;
    }
    text = scalar(r, e, o->full);
    if (text == NULL)
        return;
    if (e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
        (strcmp(text, "~") == 0 || strcmp(text, "null") == 0))
        text[0] = '\0';
    if (text[0] == '\0' && !list && o->type != OPT_STRING && o->type != OPT_SECRET &&
        o->type != OPT_ADVERTISE) {
        complain(r, line, "%s has no value; leave the line out for the default, %s", o->full, o->def);
    } else {
        union value v = {0};
        struct buf why = {0};

        store(r, index, line, value_parse(o, text, &v, &why), v, &why);
        buf_fini(&why);
    }
    mem_free(text);
}

static void unknown_option(struct reading *r, unsigned line, const char *full)
{
    const char *near = option_nearest(full);

    if (near != NULL)
        complain(r, line, "unknown option %.80s; did you mean %s?", full, near);
    else
        complain(r, line, "unknown option %.80s; gomsgd --print-config lists all", full);
}

/* One section's mapping, behind its start. */
static void read_section(struct reading *r, const char *section)
{
    yaml_event_t key, value;

    while (next(r, &key)) {
        unsigned line = line_of(&key);
        char *name, *full;
        int index;

        if (key.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&key);
            return;
        }
        name = scalar(r, &key, "an option's name");
        yaml_event_delete(&key);
        if (!next(r, &value)) {
            mem_free(name);
            return;
        }
        if (name == NULL) {
            if (opens(&value))
                skip(r);
            yaml_event_delete(&value);
            continue;
        }
        full = mem_printf("%s.%s", section, name);
        index = option_find(full);
        if (index < 0) {
            unknown_option(r, line, full);
            if (opens(&value))
                skip(r);
        } else if (r->seen_line[index] != 0) {
            complain(r, line, "%s stands in line %u already", full, r->seen_line[index]);
            if (opens(&value))
                skip(r);
        } else {
            r->seen_line[index] = line;
            read_value(r, (unsigned)index, &value);
        }
        yaml_event_delete(&value);
        mem_free(full);
        mem_free(name);
    }
}

static void unknown_section(struct reading *r, unsigned line, const char *section)
{
    const char *dot = strchr(section, '.'), *near = section_nearest(section);

    if (dot != NULL && option_find(section) >= 0)
        complain(r, line, "%.80s: in the file write the section, %.*s:, and below it %s:", section,
                 (int)(dot - section), section, dot + 1);
    else if (near != NULL)
        complain(r, line, "unknown section %.80s; did you mean %s?", section, near);
    else
        complain(r, line, "unknown section %.80s", section);
}

static void read_sections(struct reading *r)
{
    yaml_event_t key, value;

    while (next(r, &key)) {
        unsigned line = line_of(&key);
        char *section;

        if (key.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&key);
            return;
        }
        section = scalar(r, &key, "a section's name");
        yaml_event_delete(&key);
        if (!next(r, &value)) {
            mem_free(section);
            return;
        }
        if (section != NULL && !section_exists(section)) {
            unknown_section(r, line, section);
            if (opens(&value))
                skip(r);
        } else if (section != NULL && value.type == YAML_MAPPING_START_EVENT &&
                   value.data.mapping_start.anchor == NULL) {
            read_section(r, section);
        } else if (section != NULL && value.type == YAML_SCALAR_EVENT && value.data.scalar.length == 0) {
            /* a section with everything commented out */
        } else {
            if (section != NULL)
                complain(r, line, "section %.80s must hold options, one a line, indented", section);
            if (opens(&value))
                skip(r);
        }
        yaml_event_delete(&value);
        mem_free(section);
    }
}

void yaml_read(struct config *cfg, const char *file, const char *text, size_t len, struct buf *errors,
               unsigned *count)
{
    struct reading r = {.cfg = cfg, .file = file, .errors = errors, .count = count};
    unsigned documents = 0;
    bool end = false;
    yaml_event_t e;

    if (yaml_parser_initialize(&r.parser) == 0) {
        complain(&r, 1, "%s", err_text(ERR_NOMEM));
        return;
    }
    r.seen_line = mem_calloc(option_count, sizeof(r.seen_line[0]));
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    while (!end && next(&r, &e)) {
        if (e.type == YAML_STREAM_END_EVENT) {
            end = true;
        } else if (e.type == YAML_DOCUMENT_START_EVENT && ++documents > 1) {
            complain(&r, line_of(&e), "a second document begins; one is read");
            end = true;
        } else if (e.type == YAML_MAPPING_START_EVENT) {
            read_sections(&r);
        } else if (e.type == YAML_SCALAR_EVENT && e.data.scalar.length == 0) {
            /* an empty document */
        } else if (e.type == YAML_SCALAR_EVENT || e.type == YAML_SEQUENCE_START_EVENT ||
                   e.type == YAML_ALIAS_EVENT) {
            complain(&r, line_of(&e), "the file must hold sections, such as \"resp:\"");
            if (opens(&e))
                skip(&r);
        }
        yaml_event_delete(&e);
    }
    yaml_parser_delete(&r.parser);
    mem_free(r.seen_line);
}
