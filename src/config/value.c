/* Values: text to field and back. Printing gives the shortest text that parses to the same value. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/address.h"
#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/slice.h"
#include "config/internal.h"

struct unit {
    const char *name;
    int64_t factor;
};
/* Largest first: printing takes the first that divides. Further spellings of the same factor follow. */
static const struct unit byte_units[] = {
    {"TiB", 1ll << 40}, {"GiB", 1ll << 30}, {"MiB", 1ll << 20}, {"KiB", 1ll << 10}, {"", 1},
    {"B", 1},           {"T", 1ll << 40},   {"G", 1ll << 30},   {"M", 1ll << 20},   {"K", 1ll << 10},
    {"TB", 1ll << 40},  {"GB", 1ll << 30},  {"MB", 1ll << 20},  {"KB", 1ll << 10},  {NULL, 0},
};
static const struct unit ms_units[] = {
    {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}, {"d", 86400000}, {NULL, 0},
};
static const struct unit us_units[] = {
    {"s", 1000000},
    {"ms", 1000},
    {"us", 1},
    {NULL, 0},
};

static const struct unit *units_of(enum option_type type)
{
    return type == OPT_BYTES ? byte_units : type == OPT_MS ? ms_units : us_units;
}

static int invalid(struct buf *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int invalid(struct buf *why, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    buf_put_str(why, text);
    return ERR_INVALID;
}

/* ---- parsing ---- */

static int check_range(const struct option *o, int64_t v, struct buf *why)
{
    struct buf lo = {0}, hi = {0};

    if (v >= o->min && v <= o->max)
        return 0;
    value_print(o, &(union value){.i = o->min}, &lo);
    value_print(o, &(union value){.i = o->max}, &hi);
    if (o->max == INT64_MAX)
        buf_printf(why, "must be at least %.*s", (int)lo.len, (char *)lo.data);
    else
        buf_printf(why, "must be from %.*s to %.*s", (int)lo.len, (char *)lo.data, (int)hi.len,
                   (char *)hi.data);
    buf_fini(&lo);
    buf_fini(&hi);
    return ERR_INVALID;
}

static int parse_bool(const char *text, int64_t *ret, struct buf *why)
{
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};

    for (unsigned i = 0; i < 3; i++) {
        if (strcasecmp(text, yes[i]) == 0) {
            *ret = 1;
            return 0;
        }
        if (strcasecmp(text, no[i]) == 0) {
            *ret = 0;
            return 0;
        }
    }
    return invalid(why, "is true or false, not \"%.40s\"", text);
}

/* "5", "1.5s", "64 KiB": a decimal number and a unit of the table. */
static int parse_with_unit(const struct option *o, const char *text, int64_t *ret, struct buf *why)
{
    const struct unit *units = units_of(o->type), *u;
    size_t n = strspn(text, "0123456789");
    const char *unit = text + n;
    int64_t whole, part = 0, scale = 1, v;

    if (strcmp(text, "-1") == 0 && o->min == -1) {
        *ret = -1;
        return 0;
    }
    if (n == 0 || n > 18 || !slice_to_i64(slice_of(text, n), &whole))
        return invalid(why,
                       o->type == OPT_BYTES ? "is a size such as 512, 64KiB or 1GiB, not \"%.40s\""
                                            : "is a duration such as 250ms, 10s or 5m, not \"%.40s\"",
                       text);
    if (*unit == '.') {
        for (unit++; *unit >= '0' && *unit <= '9'; unit++) {
            if (scale < 1000000) {
                part = part * 10 + (*unit - '0');
                scale *= 10;
            }
        }
    }
    while (*unit == ' ')
        unit++;
    for (u = units; u->name != NULL; u++) {
        if (strcmp(u->name, unit) == 0 || (o->type == OPT_BYTES && strcasecmp(u->name, unit) == 0))
            break;
    }
    if (u->name == NULL && *unit == '\0' && whole == 0 && part == 0) {
        *ret = 0;
        return check_range(o, 0, why);
    }
    if (u->name == NULL) {
        if (*unit == '\0')
            return invalid(why, "needs a unit: %s, %s or %s", o->type == OPT_US ? "us" : "ms",
                           o->type == OPT_US ? "ms" : "s", o->type == OPT_US ? "s" : "m");
        return invalid(why, "has the unknown unit \"%.20s\"", unit);
    }
    if (__builtin_mul_overflow(whole, u->factor, &v) ||
        __builtin_add_overflow(v, part * u->factor / scale, &v))
        return invalid(why, "is too large");
    *ret = v;
    return check_range(o, v, why);
}

static int parse_word(const struct option *o, const char *text, int64_t *ret, struct buf *why)
{
    const char *p = o->words;
    size_t len = strlen(text);

    for (int64_t i = 0; *p != '\0'; i++) {
        size_t n = strcspn(p, " ");

        if (n == len && strncmp(p, text, n) == 0) {
            *ret = i;
            return 0;
        }
        p += n;
        p += *p == ' ';
    }
    return invalid(why, "is one of: %s; not \"%.40s\"", o->words, text);
}

static bool is_unspecified(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (host[0] == '\0')
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return v4.s_addr == 0;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6);
}

static int check_advertise(const char *text, struct buf *why)
{
    char with_port[ADDRESS_HOST_MAX + 16];
    struct address a;

    if (text[0] == '\0')
        return 0;
    if (address_parse(text, &a) < 0) {
        /* a host alone: the listener's port */
        if (strlen(text) > ADDRESS_HOST_MAX)
            return invalid(why, "is too long");
        snprintf(with_port, sizeof(with_port), strchr(text, ':') != NULL ? "[%s]:0" : "%s:0", text);
        if (address_parse(with_port, &a) < 0)
            return invalid(why, "is HOST:PORT or HOST, not \"%.60s\"", text);
    }
    if (a.is_unix || is_unspecified(a.host))
        return invalid(why, "is what clients connect to: \"%.60s\" is no such address", text);
    return 0;
}

static int check_text(const struct option *o, const char *text, struct buf *why)
{
    size_t n = strlen(text);

    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            return invalid(why, "contains a control character");
    }
    if (o->type == OPT_ADVERTISE)
        return check_advertise(text, why);
    if (n < (size_t)o->min)
        return invalid(why, "must not be empty");
    if (n > (size_t)o->max)
        return invalid(why, "is longer than %" PRId64 " bytes", o->max);
    return 0;
}

int value_parse_items(const struct option *o, const char *const *items, unsigned count, union value *ret,
                      struct buf *why)
{
    struct config_list list = {0};

    if (count > (unsigned)o->max)
        return invalid(why, o->max == 1 ? "takes one address" : "has more than %" PRId64 " entries", o->max);
    for (unsigned i = 0; i < count; i++) {
        struct address a;

        if (items[i][0] == '\0')
            return invalid(why, "has an empty entry");
        if (address_parse(items[i], &a) < 0)
            return invalid(why, "is HOST:PORT%s, not \"%.60s\"",
                           o->type == OPT_LISTEN ? ", :PORT or unix:/path" : "", items[i]);
        if (o->type == OPT_LIST && (a.is_unix || is_unspecified(a.host) || a.port == 0))
            return invalid(why, "is HOST:PORT as other nodes reach it, not \"%.60s\"", items[i]);
    }
    if (count > 0) {
        list.items = mem_calloc(count, sizeof(list.items[0]));
        for (; list.count < count; list.count++)
            list.items[list.count] = mem_strdup(items[list.count]);
    }
    ret->list = list;
    return 0;
}

static int parse_commas(const struct option *o, const char *text, union value *ret, struct buf *why)
{
    char *copy = mem_strdup(text), *p = copy;
    const char *items[65];
    unsigned count = 0;
    int err;

    while (*p == ' ')
        p++;
    while (*p != '\0' && count < ARRAY_LEN(items)) {
        char *end = p + strcspn(p, ","), *tail = end;
        bool more = *end == ',';

        while (tail > p && tail[-1] == ' ')
            tail--;
        *tail = '\0';
        *end = '\0';
        items[count++] = p;
        p = more ? end + 1 : end;
        while (*p == ' ')
            p++;
        if (more && *p == '\0' && count < ARRAY_LEN(items))
            items[count++] = "";
    }
    err = value_parse_items(o, items, count, ret, why);
    mem_free(copy);
    return err;
}

int value_parse(const struct option *o, const char *text, union value *ret, struct buf *why)
{
    union value v = {0};
    int err;

    switch (o->type) {
    case OPT_BOOL:
        err = parse_bool(text, &v.i, why);
        break;
    case OPT_INT:
        if (!slice_to_i64(slice_str(text), &v.i))
            err = invalid(why, "is a whole number, not \"%.40s\"", text);
        else
            err = check_range(o, v.i, why);
        break;
    case OPT_FLOAT:
        if (!slice_to_double(slice_str(text), &v.f))
            err = invalid(why, "is a number, not \"%.40s\"", text);
        else if (v.f < (double)o->min || v.f > (double)o->max)
            err = invalid(why, "must be from %" PRId64 " to %" PRId64, o->min, o->max);
        else
            err = 0;
        break;
    case OPT_BYTES:
    case OPT_MS:
    case OPT_US:
        err = parse_with_unit(o, text, &v.i, why);
        break;
    case OPT_ENUM:
        err = parse_word(o, text, &v.i, why);
        break;
    case OPT_LIST:
    case OPT_LISTEN:
        err = parse_commas(o, text, &v, why);
        break;
    default:
        err = check_text(o, text, why);
        if (err == 0)
            v.s = mem_strdup(text);
        break;
    }
    if (err == 0)
        *ret = v;
    return err;
}

/* ---- the rest of a value's life ---- */

static bool is_text(const struct option *o)
{
    return o->type == OPT_STRING || o->type == OPT_SECRET || o->type == OPT_ADVERTISE;
}

static bool is_list(const struct option *o)
{
    return o->type == OPT_LIST || o->type == OPT_LISTEN;
}

void value_fini(const struct option *o, union value *v)
{
    if (is_text(o))
        mem_free(v->s);
    if (is_list(o)) {
        for (unsigned i = 0; i < v->list.count; i++)
            mem_free(v->list.items[i]);
        mem_free(v->list.items);
    }
    *v = (union value){0};
}

static void print_with_unit(const struct option *o, int64_t v, struct buf *out)
{
    const struct unit *u = units_of(o->type);

    if (v <= 0) {
        buf_printf(out, "%" PRId64, v);
        return;
    }
    while (u->factor != 1 && v % u->factor != 0)
        u++;
    buf_printf(out, "%" PRId64 "%s", v / u->factor, u->name);
}

void value_print(const struct option *o, const union value *v, struct buf *out)
{
    const char *p = o->words;

    switch (o->type) {
    case OPT_BOOL:
        buf_put_str(out, v->i != 0 ? "true" : "false");
        break;
    case OPT_INT:
        buf_printf(out, "%" PRId64, v->i);
        break;
    case OPT_FLOAT:
        buf_printf(out, "%.9g", v->f);
        break;
    case OPT_BYTES:
    case OPT_MS:
    case OPT_US:
        print_with_unit(o, v->i, out);
        break;
    case OPT_ENUM:
        for (int64_t i = 0; i < v->i; i++)
            p = strchr(p, ' ') + 1;
        buf_put(out, p, strcspn(p, " "));
        break;
    case OPT_LIST:
    case OPT_LISTEN:
        for (unsigned i = 0; i < v->list.count; i++)
            buf_printf(out, "%s%s", i == 0 ? "" : ",", v->list.items[i]);
        break;
    case OPT_SECRET:
        buf_put_str(out, v->s[0] == '\0' ? "" : "(hidden)");
        break;
    default:
        buf_put_str(out, v->s);
        break;
    }
}

bool value_equal(const struct option *o, const union value *a, const union value *b)
{
    if (is_text(o))
        return strcmp(a->s, b->s) == 0;
    if (is_list(o)) {
        if (a->list.count != b->list.count)
            return false;
        for (unsigned i = 0; i < a->list.count; i++) {
            if (strcmp(a->list.items[i], b->list.items[i]) != 0)
                return false;
        }
        return true;
    }
    return o->type == OPT_FLOAT ? a->f == b->f : a->i == b->i;
}

union value value_load(const struct option *o, const struct config *cfg)
{
    const void *field = (const char *)cfg + o->offset;
    union value v = {0};

    if (is_text(o))
        v.s = *(char *const *)field;
    else if (is_list(o))
        v.list = *(const struct config_list *)field;
    else if (o->type == OPT_FLOAT)
        v.f = *(const double *)field;
    else
        v.i = __atomic_load_n((const int64_t *)field, __ATOMIC_RELAXED);
    return v;
}

void value_store(const struct option *o, struct config *cfg, union value v)
{
    void *field = (char *)cfg + o->offset;
    union value old = value_load(o, cfg);

    if (is_text(o))
        *(char **)field = v.s;
    else if (is_list(o))
        *(struct config_list *)field = v.list;
    else if (o->type == OPT_FLOAT)
        *(double *)field = v.f;
    else
        __atomic_store_n((int64_t *)field, v.i, __ATOMIC_RELAXED);
    if (is_text(o) || is_list(o))
        value_fini(o, &old);
}
