#include "ctl/render.h"

#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"

static char *text_of_bytes(double n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    unsigned u = 0;

    while (n >= 1024 && u + 1 < ARRAY_LEN(units)) {
        n /= 1024;
        u++;
    }
    return u == 0 ? mem_printf("%.0f B", n) : mem_printf("%.1f %s", n, units[u]);
}

static char *text_of_seconds(double s)
{
    long n = (long)s;

    if (n < 60)
        return mem_printf("%lds", n);
    if (n < 3600)
        return mem_printf("%ldm %lds", n / 60, n % 60);
    if (n < 86400)
        return mem_printf("%ldh %ldm", n / 3600, n % 3600 / 60);
    return mem_printf("%ldd %ldh", n / 86400, n % 86400 / 3600);
}

static char *text_of(const json_t *value, char how)
{
    if (value == NULL || json_is_null(value))
        return mem_strdup("");
    if (json_is_number(value) && how == 'b')
        return text_of_bytes(json_number_value(value));
    if (json_is_number(value) && how == 't')
        return text_of_seconds(json_number_value(value));
    if (json_is_string(value))
        return mem_strdup(json_string_value(value));
    if (json_is_boolean(value))
        return mem_strdup(json_is_true(value) ? "yes" : "no");
    char *dumped = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    char *text = mem_strdup(dumped == NULL ? "" : dumped);

    free(dumped);
    return text;
}

struct column {
    char *key; /* owned by the split text */
    char how;
};

#define COLUMNS_MAX 16

void render_table(const json_t *rows, const char *columns, bool header)
{
    struct libscols_table *table = scols_new_table();
    struct column specs[COLUMNS_MAX];
    char *split = mem_strdup(columns), *save = NULL;
    size_t count = 0, i;
    json_t *row;

    CHECK(table != NULL);
    scols_table_enable_noheadings(table, !header);
    for (char *c = strtok_r(split, "|", &save); c != NULL; c = strtok_r(NULL, "|", &save)) {
        char *title = strchr(c, ':'), *how;

        CHECK(title != NULL && count < COLUMNS_MAX);
        *title++ = '\0';
        how = strchr(title, ':');
        CHECK(how != NULL);
        *how++ = '\0';
        specs[count++] = (struct column){c, *how};
        CHECK(scols_table_new_column(table, title, 0, *how == 's' ? 0 : SCOLS_FL_RIGHT) != NULL);
    }
    json_array_foreach(rows, i, row) {
        struct libscols_line *line = scols_table_new_line(table, NULL);

        CHECK(line != NULL);
        for (size_t k = 0; k < count; k++) {
            char *text = text_of(json_object_get(row, specs[k].key), specs[k].how);

            scols_line_set_data(line, k, text);
            mem_free(text);
        }
    }
    scols_print_table(table);
    scols_unref_table(table);
    mem_free(split);
}

static void print_facts(const char *prefix, const json_t *value)
{
    const char *key;
    json_t *child;
    size_t i;

    if (json_is_object(value)) {
        json_object_foreach((json_t *)value, key, child) {
            char *name = prefix[0] == '\0' ? mem_strdup(key) : mem_printf("%s.%s", prefix, key);

            print_facts(name, child);
            mem_free(name);
        }
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, child)
            print_facts(prefix, child);
    } else {
        size_t n = strlen(prefix);
        bool bytes = n > 6 && strcmp(prefix + n - 6, "_bytes") == 0;
        bool seconds = n > 8 && strcmp(prefix + n - 8, "_seconds") == 0;
        char *text = text_of(value, bytes ? 'b' : seconds ? 't' : 's');
        char *name = mem_strdup(prefix);

        if (bytes)
            name[n - 6] = '\0';
        if (seconds)
            name[n - 8] = '\0';
        printf("%-28s %s\n", name, text);
        mem_free(text);
        mem_free(name);
    }
}

void render_object(const json_t *object)
{
    print_facts("", object);
}
