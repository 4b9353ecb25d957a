/* COMMAND and its subcommands: the table as clients read it. https://redis.io/commands/command */
#include <ctype.h>
#include <stdio.h>

#include "base/err.h"
#include "protocols/resp/command_syntax.h"
#include "protocols/resp/exec.h"
#include "protocols/resp/handlers.h"

static bool is_top(const struct command *c)
{
    return c->container < 0;
}

/* Calls fn for the words of a text separated by blanks or commas; returns how many there are. */
static unsigned each_word(const char *text, void (*fn)(struct reply *r, struct slice word), struct reply *r)
{
    unsigned n = 0;

    while (*text != '\0') {
        size_t len = strcspn(text, " ,");

        if (len > 0) {
            n++;
            if (fn != NULL)
                fn(r, slice_of(text, len));
        }
        text += len;
        text += *text != '\0';
    }
    return n;
}

static void put_status(struct reply *r, struct slice word)
{
    buf_put_u8(r->out, '+');
    buf_put_slice(r->out, word);
    REPLY_LIT(r, "\r\n");
}

static void put_bulk(struct reply *r, struct slice word)
{
    reply_bulk(r, word);
}

static void reply_flags(struct reply *r, const struct command *c)
{
    reply_set(r, (size_t)__builtin_popcount(c->flags & (CMD_OURS - 1)));
    for (unsigned bit = 0; command_flag_name(bit) != NULL; bit++)
        if (c->flags & (1u << bit))
            reply_simple(r, command_flag_name(bit));
}

static void reply_acl(struct reply *r, const struct command *c)
{
    reply_set(r, (size_t)__builtin_popcount(c->acl));
    for (unsigned bit = 0; command_acl_name(bit) != NULL; bit++) {
        if (c->acl & (1u << bit)) {
            REPLY_LIT(r, "+@");
            buf_put_str(r->out, command_acl_name(bit));
            REPLY_LIT(r, "\r\n");
        }
    }
}

static void put_key_flag(struct reply *r, struct slice word)
{
    put_status(r, word);
}

static void reply_key_specs(struct reply *r, const struct command *c)
{
    if (c->first == 0) {
        reply_set(r, 0);
        return;
    }
    reply_set(r, 1);
    reply_map(r, 3);
    reply_bulk_str(r, "flags");
    reply_set(r, each_word(c->key_flags, NULL, NULL));
    each_word(c->key_flags, put_key_flag, r);
    reply_bulk_str(r, "begin_search");
    reply_map(r, 2);
    reply_bulk_str(r, "type");
    reply_bulk_str(r, "index");
    reply_bulk_str(r, "spec");
    reply_map(r, 1);
    reply_bulk_str(r, "index");
    reply_int(r, c->first);
    reply_bulk_str(r, "find_keys");
    reply_map(r, 2);
    reply_bulk_str(r, "type");
    reply_bulk_str(r, "range");
    reply_bulk_str(r, "spec");
    reply_map(r, 3);
    reply_bulk_str(r, "lastkey");
    reply_int(r, c->last < 0 ? c->last : c->last - c->first);
    reply_bulk_str(r, "keystep");
    reply_int(r, c->step);
    reply_bulk_str(r, "limit");
    reply_int(r, 0);
}

static unsigned count_subs(const struct command *c)
{
    unsigned n = 0;

    for (int i = c->id + 1; i < COMMANDS && command_table[i].container == c->id; i++)
        n++;
    return n;
}

static void reply_info(struct reply *r, const struct command *c)
{
    reply_array(r, 10);
    reply_bulk_str(r, c->fullname);
    reply_int(r, c->arity);
    reply_flags(r, c);
    reply_int(r, c->first);
    reply_int(r, c->last);
    reply_int(r, c->step);
    reply_acl(r, c);
    reply_set(r, each_word(c->tips, NULL, NULL));
    each_word(c->tips, put_bulk, r);
    reply_key_specs(r, c);
    reply_array(r, count_subs(c));
    for (int i = c->id + 1; i < COMMANDS && command_table[i].container == c->id; i++)
        reply_info(r, &command_table[i]);
}

static unsigned count_top(void)
{
    unsigned n = 0;

    for (int i = 0; i < COMMANDS; i++)
        n += is_top(&command_table[i]);
    return n;
}

/* "get" or "client|list". */
static const struct command *find_full(struct slice name)
{
    const uint8_t *bar = memchr(name.data, '|', name.len);
    const struct command *c;

    if (bar == NULL)
        return command_find(name);
    c = command_find(slice_of(name.data, (size_t)(bar - name.data)));
    return c == NULL ? NULL
                     : command_find_sub(c, slice_of(bar + 1, name.len - (size_t)(bar - name.data) - 1));
}

void cmd_command(struct exec *x)
{
    reply_array(&x->r, count_top());
    for (int i = 0; i < COMMANDS; i++)
        if (is_top(&command_table[i]))
            reply_info(&x->r, &command_table[i]);
}

void cmd_command_count(struct exec *x)
{
    reply_int(&x->r, count_top());
}

void cmd_command_info(struct exec *x)
{
    if (x->argc == 2) {
        cmd_command(x);
        return;
    }
    reply_array(&x->r, x->argc - 2);
    for (uint32_t i = 2; i < x->argc; i++) {
        const struct command *c = find_full(x->argv[i]);

        if (c != NULL)
            reply_info(&x->r, c);
        else
            reply_null_array(&x->r);
    }
}

static void reply_docs(struct reply *r, const struct command *c)
{
    size_t at = reply_deferred_begin(r);
    size_t pairs = 4, args_at;
    unsigned subs = count_subs(c), args = 0;

    reply_bulk_str(r, "summary");
    reply_bulk_str(r, c->summary != NULL ? c->summary : "");
    reply_bulk_str(r, "since");
    reply_bulk_str(r, c->since);
    reply_bulk_str(r, "group");
    reply_bulk_str(r, c->group);
    reply_bulk_str(r, "complexity");
    reply_bulk_str(r, c->complexity);
    args_at = r->out->len;
    reply_bulk_str(r, "arguments");
    if (command_syntax_reply(r, c->syntax, &args) && args > 0)
        pairs++;
    else
        r->out->len = args_at;
    if (subs > 0) {
        pairs++;
        reply_bulk_str(r, "subcommands");
        reply_map(r, subs);
        for (int i = c->id + 1; i < COMMANDS && command_table[i].container == c->id; i++) {
            reply_bulk_str(r, command_table[i].fullname);
            reply_docs(r, &command_table[i]);
        }
    }
    reply_deferred_map(r, at, pairs);
}

void cmd_command_docs(struct exec *x)
{
    size_t at = reply_deferred_begin(&x->r), n = 0;

    for (int i = 0; x->argc == 2 && i < COMMANDS; i++) {
        if (!is_top(&command_table[i]))
            continue;
        reply_bulk_str(&x->r, command_table[i].fullname);
        reply_docs(&x->r, &command_table[i]);
        n++;
    }
    for (uint32_t i = 2; i < x->argc; i++) {
        const struct command *c = find_full(x->argv[i]);

        if (c == NULL)
            continue;
        reply_bulk_str(&x->r, c->fullname);
        reply_docs(&x->r, c);
        n++;
    }
    reply_deferred_map(&x->r, at, n);
}

static void list_subs_too(struct exec *x, const struct command *c, size_t *n, uint32_t acl,
                          struct slice pattern)
{
    if ((acl == 0 || (c->acl & acl)) &&
        (pattern.data == NULL || slice_glob(pattern, slice_str(c->fullname), true))) {
        reply_bulk_str(&x->r, c->fullname);
        ++*n;
    }
}

void cmd_command_list(struct exec *x)
{
    size_t at = reply_deferred_begin(&x->r), n = 0;
    struct slice pattern = SLICE_NONE;
    uint32_t acl = 0;
    bool none = false, filtered = x->argc == 5;

    if (x->argc != 2 && (x->argc != 5 || !exec_arg_is(x, 2, "filterby"))) {
        exec_syntax_error(x);
        return;
    }
    if (filtered && exec_arg_is(x, 3, "module")) {
        none = true; /* there are no modules */
    } else if (filtered && exec_arg_is(x, 3, "aclcat")) {
        acl = command_acl_parse(x->argv[4]);
        none = acl == 0;
    } else if (filtered && exec_arg_is(x, 3, "pattern")) {
        pattern = x->argv[4];
    } else if (filtered) {
        exec_syntax_error(x);
        return;
    }
    for (int i = 0; !none && i < COMMANDS; i++)
        if (filtered || is_top(&command_table[i]))
            list_subs_too(x, &command_table[i], &n, acl, pattern);
    reply_deferred_array(&x->r, at, n);
}

static void reply_keys(struct exec *x, bool with_flags)
{
    const struct command *c = command_resolve(x->argv + 2, x->argc - 2);
    uint32_t first, last, step;

    if (c == NULL) {
        reply_error(&x->r, "ERR Invalid command specified");
        return;
    }
    if (c->first == 0) {
        reply_error(&x->r, "ERR The command has no key arguments");
        return;
    }
    if (!command_arity_ok(c, x->argc - 2)) {
        reply_error(&x->r, "ERR Invalid number of arguments specified for command");
        return;
    }
    if (!command_keys(c, x->argc - 2, &first, &last, &step)) {
        reply_error(&x->r, "ERR Invalid arguments specified for command");
        return;
    }
    reply_array(&x->r, (last - first) / step + 1);
    for (uint32_t i = first; i <= last; i += step) {
        if (with_flags)
            reply_array(&x->r, 2);
        reply_bulk(&x->r, x->argv[2 + i]);
        if (with_flags) {
            reply_set(&x->r, each_word(c->key_flags, NULL, NULL));
            each_word(c->key_flags, put_key_flag, &x->r);
        }
    }
}

void cmd_command_getkeys(struct exec *x)
{
    reply_keys(x, false);
}

void cmd_command_getkeysandflags(struct exec *x)
{
    reply_keys(x, true);
}

/* <CONTAINER> HELP: the subcommands with their syntax and summary, made from the table. */
void cmd_help(struct exec *x)
{
    const struct command *top = &command_table[x->cmd->container];
    size_t at = reply_deferred_begin(&x->r), n = 1;
    char line[512], upper[64];

    for (size_t i = 0; i <= top->name_len; i++)
        upper[i] = (char)toupper((unsigned char)top->name[i]);
    snprintf(line, sizeof(line), "%s <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", upper);
    reply_simple(&x->r, line);
    for (int i = top->id + 1; i < COMMANDS && command_table[i].container == top->id; i++) {
        const struct command *c = &command_table[i];

        for (size_t k = 0; k <= c->name_len; k++)
            upper[k] = (char)toupper((unsigned char)c->name[k]);
        snprintf(line, sizeof(line), "%s%s%s", upper, c->syntax[0] != '\0' ? " " : "", c->syntax);
        reply_simple(&x->r, line);
        snprintf(line, sizeof(line), "    %s", c->summary);
        reply_simple(&x->r, line);
        n += 2;
    }
    reply_deferred_array(&x->r, at, n);
}
