#include "protocols/resp/command_syntax.h"

#include <ctype.h>
#include <string.h>

/* A cursor over the words of a syntax: brackets and bars are words of their own. */
struct words {
    const char *p;
    struct slice word; /* the current one; len 0 at the end */
};

static void next_word(struct words *w)
{
    const char *p = w->p + strspn(w->p, " ");
    size_t n = strcspn(p, " []<>|");

    if (n == 0 && *p != '\0')
        n = 1;
    /* "ip:port" and "yes/no" are plain words; "[name ...]" ends with dots. */
    w->word = slice_of(p, n);
    w->p = p + n;
}

static bool is_mark(const struct words *w, char c)
{
    return w->word.len == 1 && w->word.data[0] == (uint8_t)c;
}

static bool is_dots(const struct words *w)
{
    return slice_eq(w->word, SLICE_LIT("..."));
}

static bool is_token(struct slice s)
{
    if (s.len < 2 || !isupper(s.data[0]))
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (islower(s.data[i]))
            return false;
    return true;
}

static const char *type_of(struct slice name)
{
    static const char *const integers[] = {"seconds",   "milliseconds", "count",    "index",    "offset",
                                           "start",     "stop",         "end",      "cursor",   "numreplicas",
                                           "increment", "decrement",    "protover", "client-id"};

    if (slice_eq(name, SLICE_LIT("key")))
        return "key";
    if (slice_eq(name, SLICE_LIT("pattern")))
        return "pattern";
    if (slice_eq(name, SLICE_LIT("timeout")))
        return "double";
    if (name.len > 9 && memcmp(name.data, "unix-time", 9) == 0)
        return "unix-time";
    for (size_t i = 0; i < sizeof(integers) / sizeof(integers[0]); i++)
        if (slice_eq(name, slice_str(integers[i])))
            return "integer";
    return "string";
}

struct arg {
    size_t at; /* where its map begins */
    size_t pairs;
};

static struct arg arg_begin(struct reply *r, struct slice name, const char *type, struct slice token)
{
    struct arg a = {reply_deferred_begin(r), 2};
    char lower[64];
    size_t n = name.len < sizeof(lower) ? name.len : sizeof(lower);

    for (size_t i = 0; i < n; i++)
        lower[i] = (char)tolower(name.data[i]);
    reply_bulk_str(r, "name");
    reply_bulk(r, slice_of(lower, n));
    reply_bulk_str(r, "type");
    reply_bulk_str(r, type);
    if (strcmp(type, "key") == 0) {
        reply_bulk_str(r, "key_spec_index");
        reply_int(r, 0);
        a.pairs++;
    }
    if (token.len != 0) {
        reply_bulk_str(r, "token");
        reply_bulk(r, token);
        a.pairs++;
    }
    return a;
}

static void arg_end(struct reply *r, struct arg *a, bool optional, bool multiple)
{
    if (optional || multiple) {
        reply_bulk_str(r, "flags");
        reply_array(r, (size_t)optional + multiple);
        if (optional)
            reply_simple(r, "optional");
        if (multiple)
            reply_simple(r, "multiple");
        a->pairs++;
    }
    reply_deferred_map(r, a->at, a->pairs);
}

/* Skips "[name ... ...]" behind a repeated argument; true when it was there. */
static bool skip_repeat(struct words *w, struct slice name)
{
    struct words ahead = *w;

    if (!is_mark(&ahead, '['))
        return false;
    next_word(&ahead);
    if (!slice_eq(ahead.word, name))
        return false;
    for (;;) {
        bool dots = is_dots(&ahead);

        next_word(&ahead);
        if (ahead.word.len == 0)
            return false;
        if (is_mark(&ahead, ']')) {
            if (!dots)
                return false;
            next_word(&ahead);
            *w = ahead;
            return true;
        }
        if (is_mark(&ahead, '['))
            return false;
    }
}

static bool sequence(struct reply *r, struct words *w, unsigned *ret_count, bool optional, bool in_choice,
                     unsigned depth);

/* The inside of a bracket: one thing, or a choice between several. */
static bool bracket(struct reply *r, struct words *w, bool optional, unsigned depth)
{
    char close = optional ? ']' : '>';
    struct words ahead = *w;
    unsigned n = 0, alternatives = 1;
    int level = 0;

    for (; ahead.word.len != 0 && !(level == 0 && is_mark(&ahead, close)); next_word(&ahead)) {
        level += is_mark(&ahead, '[') || is_mark(&ahead, '<');
        level -= is_mark(&ahead, ']') || is_mark(&ahead, '>');
        alternatives += level == 0 && is_mark(&ahead, '|');
    }
    if (ahead.word.len == 0)
        return false;
    if (alternatives == 1) {
        if (!sequence(r, w, &n, optional, false, depth))
            return false;
    } else {
        struct arg a = arg_begin(r, SLICE_LIT("option"), "oneof", SLICE_NONE);

        reply_bulk_str(r, "arguments");
        reply_array(r, alternatives);
        a.pairs++;
        for (unsigned i = 0; i < alternatives; i++) {
            if (!sequence(r, w, &n, false, true, depth))
                return false;
            if (i + 1 < alternatives) {
                if (!is_mark(w, '|'))
                    return false;
                next_word(w);
            }
        }
        arg_end(r, &a, optional, false);
    }
    if (!is_mark(w, close))
        return false;
    next_word(w);
    if (is_dots(w))
        next_word(w);
    return true;
}

/* Arguments up to a closing bracket, a bar or the end. Inside a bracket or choice several of them become one
 * block. */
static bool sequence(struct reply *r, struct words *w, unsigned *ret_count, bool optional, bool in_choice,
                     unsigned depth)
{
    size_t at = reply_deferred_begin(r);
    bool nested = optional || in_choice;
    unsigned n = 0;

    if (depth > 6)
        return false;
    while (w->word.len != 0 && !is_mark(w, ']') && !is_mark(w, '>') && !is_mark(w, '|')) {
        struct slice first = w->word;
        struct arg a;

        if (is_mark(w, '[') || is_mark(w, '<')) {
            bool opt = is_mark(w, '[');

            next_word(w);
            if (!bracket(r, w, opt, depth + 1))
                return false;
            n++;
            continue;
        }
        next_word(w);
        if (slice_eq(first, SLICE_LIT("...")))
            continue;
        /* A lone optional argument carries the flag itself; in a block the block does. */
        if (is_token(first)) {
            if (w->word.len != 0 && !is_mark(w, ']') && !is_mark(w, '>') && !is_mark(w, '|') &&
                !is_mark(w, '[') && !is_mark(w, '<') && !is_token(w->word)) {
                struct slice name = w->word;
                const char *type = type_of(name);

                next_word(w);
                a = arg_begin(r, name, strcmp(type, "key") == 0 ? "string" : type, first);
                arg_end(r, &a, optional && n == 0 && is_mark(w, ']'), skip_repeat(w, name));
            } else {
                a = arg_begin(r, first, "pure-token", first);
                arg_end(r, &a, optional && n == 0 && is_mark(w, ']'), false);
            }
        } else {
            bool multiple = skip_repeat(w, first);

            a = arg_begin(r, first, type_of(first), SLICE_NONE);
            arg_end(r, &a, optional && n == 0 && is_mark(w, ']'), multiple);
        }
        n++;
    }
    if (nested && n > 1) {
        struct buf inner = {0};
        struct arg a;

        buf_put(&inner, r->out->data + at, r->out->len - at);
        r->out->len = at;
        a = arg_begin(r, SLICE_LIT("block"), "block", SLICE_NONE);
        reply_bulk_str(r, "arguments");
        reply_array(r, n);
        a.pairs++;
        buf_put_slice(r->out, buf_slice(&inner));
        arg_end(r, &a, optional, false);
        buf_fini(&inner);
        n = 1;
    }
    *ret_count = n;
    return true;
}

bool command_syntax_reply(struct reply *r, const char *syntax, unsigned *ret_count)
{
    struct words w = {.p = syntax};
    size_t at = reply_deferred_begin(r);

    next_word(&w);
    if (!sequence(r, &w, ret_count, false, false, 0) || w.word.len != 0)
        return false;
    reply_deferred_array(r, at, *ret_count);
    return true;
}
