#include "protocols/resp/command.h"

#include <ctype.h>

#include "base/check.h"
#include "protocols/resp/handlers.h"

struct command command_table[COMMANDS] = {
#define COMMAND(id_, handler_, name_, arity_, flags_, first_, last_, step_, key_flags_, acl_, group_,        \
                since_, tips_, complexity_, syntax_, summary_)                                               \
    [COMMAND_##id_] = {.name = name_,                                                                        \
                       .fullname = name_,                                                                    \
                       .container = -1,                                                                      \
                       .handler = handler_,                                                                  \
                       .arity = arity_,                                                                      \
                       .flags = flags_,                                                                      \
                       .first = first_,                                                                      \
                       .last = last_,                                                                        \
                       .step = step_,                                                                        \
                       .key_flags = key_flags_,                                                              \
                       .acl = acl_,                                                                          \
                       .group = group_,                                                                      \
                       .since = since_,                                                                      \
                       .tips = tips_,                                                                        \
                       .complexity = complexity_,                                                            \
                       .syntax = syntax_,                                                                    \
                       .summary = summary_,                                                                  \
                       .id = COMMAND_##id_,                                                                  \
                       .name_len = sizeof(name_) - 1},
#define SUBCOMMAND(id_, container_, handler_, name_, arity_, flags_, first_, last_, step_, key_flags_, acl_, \
                   group_, since_, tips_, complexity_, syntax_, summary_)                                    \
    [COMMAND_##id_] = {.name = name_,                                                                        \
                       .container = COMMAND_##container_,                                                    \
                       .handler = handler_,                                                                  \
                       .arity = arity_,                                                                      \
                       .flags = flags_,                                                                      \
                       .first = first_,                                                                      \
                       .last = last_,                                                                        \
                       .step = step_,                                                                        \
                       .key_flags = key_flags_,                                                              \
                       .acl = acl_,                                                                          \
                       .group = group_,                                                                      \
                       .since = since_,                                                                      \
                       .tips = tips_,                                                                        \
                       .complexity = complexity_,                                                            \
                       .syntax = syntax_,                                                                    \
                       .summary = summary_,                                                                  \
                       .id = COMMAND_##id_,                                                                  \
                       .name_len = sizeof(name_) - 1},
#include "protocols/resp/commands.def"
#undef COMMAND
#undef SUBCOMMAND
};
_Static_assert(COMMANDS <= 256, "command ids are one byte");

enum { INDEX_SIZE = 1024, NAME_MAX_LEN = 24 };
static uint8_t name_index[INDEX_SIZE]; /* id + 1, linear probing */
static char fullnames[COMMANDS][48];
static bool initialised;

/* The name in lower case into 24 bytes, the rest zero; its hash. Names with other bytes than letters still
 * compare exactly below. */
static inline uint32_t name_fold(struct slice name, uint64_t folded[3])
{
    uint64_t h;

    folded[0] = folded[1] = folded[2] = 0;
    memcpy(folded, name.data, name.len);
    for (int i = 0; i < 3; i++) {
        /* Adds 0x20 to each byte that is 'A'..'Z', eight at a time. */
        uint64_t w = folded[i], low = w & 0x7f7f7f7f7f7f7f7full;
        uint64_t above = low + 0x3f3f3f3f3f3f3f3full, beyond = low + 0x2525252525252525ull;

        folded[i] = w + (((above & ~beyond & ~w) & 0x8080808080808080ull) >> 2);
    }
    h = (folded[0] ^ folded[1] * 31 ^ folded[2] * 131) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(h >> 40);
}

static uint64_t folded_names[COMMANDS][3];

void command_table_init(void)
{
    if (initialised)
        return;
    initialised = true;
    for (int i = 0; i < COMMANDS; i++) {
        struct command *c = &command_table[i];
        uint32_t at;

        CHECK(c->name_len < NAME_MAX_LEN);
        at = name_fold(slice_str(c->name), folded_names[i]);
        if (c->container >= 0) {
            command_table[c->container].has_subcommands = true;
            strcat(strcat(strcpy(fullnames[i], command_table[c->container].name), "|"), c->name);
            c->fullname = fullnames[i];
        } else {
            while (name_index[at % INDEX_SIZE] != 0)
                at++;
            name_index[at % INDEX_SIZE] = (uint8_t)(i + 1);
        }
        /* ACL categories that follow from flags: setImplicitACLCategories in Redis' server.c. */
        if (c->flags & CMD_WRITE)
            c->acl |= ACL_WRITE;
        if ((c->flags & CMD_READONLY) && !(c->acl & ACL_SCRIPTING))
            c->acl |= ACL_READ;
        if (c->flags & CMD_ADMIN)
            c->acl |= ACL_ADMIN | ACL_DANGEROUS;
        if (c->flags & CMD_PUBSUB)
            c->acl |= ACL_PUBSUB;
        if (c->flags & CMD_FAST)
            c->acl |= ACL_FAST;
        if (c->flags & CMD_BLOCKING)
            c->acl |= ACL_BLOCKING;
        if (!(c->acl & ACL_FAST))
            c->acl |= ACL_SLOW;
        c->one_key =
            c->first == 1 && c->last == 1 && c->container < 0 && !(c->flags & (CMD_BLOCKING | CMD_SPAN | CMD_NOT_KEY));
    }
}

const struct command *command_find(struct slice name)
{
    uint64_t folded[3];
    uint32_t at;

    if (name.len == 0 || name.len >= NAME_MAX_LEN)
        return NULL;
    for (at = name_fold(name, folded);; at++) {
        unsigned id = name_index[at % INDEX_SIZE];

        if (id == 0)
            return NULL;
        id--;
        if (folded[0] == folded_names[id][0] && folded[1] == folded_names[id][1] &&
            folded[2] == folded_names[id][2] && command_table[id].name_len == name.len)
            return &command_table[id];
    }
}

const struct command *command_find_sub(const struct command *container, struct slice name)
{
    for (int i = container->id + 1; i < COMMANDS && command_table[i].container == container->id; i++)
        if (slice_ieq(name, command_table[i].name))
            return &command_table[i];
    return NULL;
}

const struct command *command_resolve(const struct slice *argv, uint32_t argc)
{
    const struct command *c = command_find(argv[0]);

    if (GM_UNLIKELY(c != NULL && c->has_subcommands && argc > 1)) {
        const struct command *sub = command_find_sub(c, argv[1]);

        return sub != NULL ? sub : c;
    }
    return c;
}

bool command_keys(const struct command *c, uint32_t argc, uint32_t *ret_first, uint32_t *ret_last,
                  uint32_t *ret_step)
{
    int64_t last = c->last < 0 ? (int64_t)argc + c->last : c->last;

    if (c->first <= 0 || (c->flags & CMD_NOT_KEY) || last < c->first || (uint32_t)c->first >= argc)
        return false;
    *ret_first = (uint32_t)c->first;
    *ret_last = last < (int64_t)argc ? (uint32_t)last : argc - 1;
    *ret_step = (uint32_t)c->step;
    return true;
}

const char *command_flag_name(unsigned bit)
{
    static const char *const names[] = {"write",         "readonly",     "denyoom",  "admin",
                                        "pubsub",        "noscript",     "blocking", "loading",
                                        "stale",         "skip_slowlog", "fast",     "no_auth",
                                        "may_replicate", "allow_busy",   "no_multi", "touches_arbitrary_keys",
                                        "protected"};

    return bit < ARRAY_LEN(names) ? names[bit] : NULL;
}

const char *command_acl_name(unsigned bit)
{
    static const char *const names[] = {
        "keyspace", "read",   "write",       "set",       "sortedset",  "list",        "hash",
        "string",   "bitmap", "hyperloglog", "geo",       "stream",     "pubsub",      "admin",
        "fast",     "slow",   "blocking",    "dangerous", "connection", "transaction", "scripting"};

    return bit < ARRAY_LEN(names) ? names[bit] : NULL;
}

uint32_t command_acl_parse(struct slice name)
{
    const char *word;

    for (unsigned bit = 0; (word = command_acl_name(bit)) != NULL; bit++)
        if (slice_ieq(name, word))
            return 1u << bit;
    return 0;
}
