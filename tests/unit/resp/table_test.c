/* commands.def: every row is sane, found by its name, and documented in a syntax that can be read. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <string.h>

#include "protocols/resp/command.h"
#include "protocols/resp/command_syntax.h"

Test(table, every_row_is_sane)
{
    command_table_init();
    for (int i = 0; i < COMMANDS; i++) {
        const struct command *c = &command_table[i];

        cr_assert_eq(c->id, i);
        cr_assert(c->arity != 0, "%s", c->fullname);
        for (const char *p = c->name; *p != '\0'; p++)
            cr_assert(islower((unsigned char)*p) || *p == '-', "%s", c->name);
        cr_assert(c->handler != NULL || c->has_subcommands, "%s has no handler", c->fullname);
        cr_assert(!(c->flags & CMD_WRITE) || !(c->flags & CMD_READONLY), "%s", c->fullname);
        cr_assert((c->first == 0) == (c->step == 0), "%s", c->fullname);
        cr_assert(c->first == 0 || c->key_flags[0] != '\0', "%s", c->fullname);
        cr_assert(c->first == 0 || (c->flags & (CMD_WRITE | CMD_READONLY | CMD_FAST | CMD_NOT_KEY)), "%s",
                  c->fullname);
        cr_assert(c->first <= 0 || (c->flags & CMD_NOT_KEY) || c->arity <= -c->first || c->arity > c->first,
                  "%s: the first key is not required", c->fullname);
        cr_assert(c->acl & (ACL_FAST | ACL_SLOW), "%s", c->fullname);
        cr_assert(c->summary[0] != '\0' && c->summary[strlen(c->summary) - 1] == '.', "%s", c->fullname);
        cr_assert(isdigit((unsigned char)c->since[0]));
        if (c->container >= 0)
            cr_assert_null(strchr(c->name, '|'));
    }
}

Test(table, names_are_found_in_any_case)
{
    command_table_init();
    for (int i = 0; i < COMMANDS; i++) {
        const struct command *c = &command_table[i];
        char upper[32];
        size_t n = strlen(c->name);

        for (size_t k = 0; k <= n; k++)
            upper[k] = (char)toupper((unsigned char)c->name[k]);
        if (c->container < 0) {
            cr_assert_eq(command_find(slice_str(c->name)), c);
            cr_assert_eq(command_find(slice_str(upper)), c);
            cr_assert_null(command_find(slice_of(c->name, n - 1)) == c ? c : NULL);
        } else {
            struct slice argv[2] = {slice_str(command_table[c->container].name), slice_str(upper)};

            cr_assert_eq(command_resolve(argv, 2), c);
            cr_assert_eq(command_resolve(argv, 1), &command_table[c->container]);
        }
    }
    cr_assert_null(command_find(SLICE_LIT("")));
    cr_assert_null(command_find(SLICE_LIT("nosuch")));
    cr_assert_null(command_find(SLICE_LIT("g\xc5t")));
    cr_assert_null(command_find(SLICE_LIT("averyveryverylongnamethatnobodyhas")));
}

Test(table, keys_follow_the_row)
{
    const struct command *mset = NULL, *blpop, *get;
    uint32_t first, last, step;

    command_table_init();
    mset = command_find(SLICE_LIT("mset"));
    blpop = command_find(SLICE_LIT("blpop"));
    get = command_find(SLICE_LIT("get"));
    cr_assert(command_keys(mset, 5, &first, &last, &step));
    cr_assert(first == 1 && last == 4 && step == 2);
    cr_assert(command_keys(blpop, 4, &first, &last, &step));
    cr_assert(first == 1 && last == 2 && step == 1);
    cr_assert(command_keys(get, 2, &first, &last, &step));
    cr_assert(first == 1 && last == 1);
    cr_assert(get->one_key && !blpop->one_key && !mset->one_key);
    cr_assert_not(command_keys(command_find(SLICE_LIT("ping")), 1, &first, &last, &step));
}

/* Reads one RESP2 value; returns what is behind it, NULL when it is broken. */
static const uint8_t *skip_value(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *cr = memchr(p, '\r', (size_t)(end - p));
    long n;

    if (cr == NULL || cr + 2 > end)
        return NULL;
    n = strtol((const char *)p + 1, NULL, 10);
    switch (*p) {
    case '+':
    case ':':
        return cr + 2;
    case '$':
        return cr + 2 + n + 2 <= end ? cr + 2 + n + 2 : NULL;
    case '*':
        p = cr + 2;
        for (long i = 0; i < n && p != NULL; i++)
            p = p < end ? skip_value(p, end) : NULL;
        return p;
    default:
        return NULL;
    }
}

Test(table, every_syntax_is_read_into_one_well_formed_value)
{
    command_table_init();
    for (int i = 0; i < COMMANDS; i++) {
        struct buf b = {0};
        struct reply r = {&b, 2};
        unsigned n = 0;

        cr_assert(command_syntax_reply(&r, command_table[i].syntax, &n), "%s: %s", command_table[i].fullname,
                  command_table[i].syntax);
        cr_assert_eq(skip_value(b.data, b.data + b.len), b.data + b.len, "%s: %.*s",
                     command_table[i].fullname, (int)b.len, b.data);
        buf_fini(&b);
    }
}

Test(table, broken_syntaxes_are_refused)
{
    static const char *const broken[] = {"[a", "a]", "<a | b", "[a | b"};

    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        struct buf b = {0};
        struct reply r = {&b, 2};
        unsigned n;

        cr_assert_not(command_syntax_reply(&r, broken[i], &n), "%s", broken[i]);
        buf_fini(&b);
    }
}
