/* The command table: facts of commands.def, found by name; what COMMAND answers, what is checked before a
 * handler runs, and where a command's keys are, all read these rows. Immutable after command_table_init; any
 * thread. */
#ifndef GM_RESP_COMMAND_H
#define GM_RESP_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

struct exec;

/* In the order in which COMMAND INFO names them; those behind CMD_OURS are not shown. */
enum {
    CMD_WRITE = 1 << 0,
    CMD_READONLY = 1 << 1,
    CMD_DENYOOM = 1 << 2, /* grows data: refused when memory or disk is short */
    CMD_ADMIN = 1 << 3,
    CMD_PUBSUB = 1 << 4,
    CMD_NOSCRIPT = 1 << 5,
    CMD_BLOCKING = 1 << 6,
    CMD_LOADING = 1 << 7,
    CMD_STALE = 1 << 8,
    CMD_SKIP_SLOWLOG = 1 << 9,
    CMD_FAST = 1 << 10,
    CMD_NO_AUTH = 1 << 11,
    CMD_MAY_REPLICATE = 1 << 12,
    CMD_ALLOW_BUSY = 1 << 13,
    CMD_NO_MULTI = 1 << 14,
    CMD_TOUCHES_ANY = 1 << 15,
    CMD_PROTECTED = 1 << 16,
    CMD_OURS = 1 << 20,
    CMD_NOT_KEY = 1 << 22, /* what stands at the key positions decides the slot but is no key: shard channels */
    CMD_WALKS = 1 << 21, /* asks other workers or threads and answers later, or (CLIENT REPLY) not at all: not
                            inside a transaction */
    CMD_SPAN =
        1 << 20, /* may use every partition: visits them one after another, inside EXEC all are locked (P2) */
};

enum {
    ACL_KEYSPACE = 1 << 0,
    ACL_READ = 1 << 1,
    ACL_WRITE = 1 << 2,
    ACL_SET = 1 << 3,
    ACL_SORTEDSET = 1 << 4,
    ACL_LIST = 1 << 5,
    ACL_HASH = 1 << 6,
    ACL_STRING = 1 << 7,
    ACL_BITMAP = 1 << 8,
    ACL_HYPERLOGLOG = 1 << 9,
    ACL_GEO = 1 << 10,
    ACL_STREAM = 1 << 11,
    ACL_PUBSUB = 1 << 12,
    ACL_ADMIN = 1 << 13,
    ACL_FAST = 1 << 14,
    ACL_SLOW = 1 << 15,
    ACL_BLOCKING = 1 << 16,
    ACL_DANGEROUS = 1 << 17,
    ACL_CONNECTION = 1 << 18,
    ACL_TRANSACTION = 1 << 19,
    ACL_SCRIPTING = 1 << 20,
};

enum command_id {
#define COMMAND(id, ...) COMMAND_##id,
#define SUBCOMMAND(id, container, ...) COMMAND_##id,
#include "protocols/resp/commands.def"
#undef COMMAND
#undef SUBCOMMAND
    COMMANDS
};

struct command {
    const char *name;                /* "get"; of a subcommand the last word */
    const char *fullname;            /* "client|list" */
    int container;                   /* the id of the container, -1 for none */
    void (*handler)(struct exec *x); /* NULL: a container */
    int arity;                       /* with the name; negative: at least so many */
    uint32_t flags;
    int first, last, step; /* key positions; 0: none */
    const char *key_flags; /* "RW ACCESS UPDATE" */
    uint32_t acl;          /* with what the flags imply */
    const char *group, *since, *tips, *complexity, *syntax, *summary;
    uint8_t id, name_len;
    bool has_subcommands;
    bool one_key; /* exactly one key at argument 1, nothing blocking: the hot path */
};

extern struct command command_table[COMMANDS];

/* Fills what follows from other columns and the name index; once, before any thread. Repeating it changes
 * nothing. */
void command_table_init(void);
/* A top-level command, in any case; NULL when there is none. */
const struct command *command_find(struct slice name);
/* With the subcommand where there is one: argv[0], argv[1]. The container itself when its subcommand is
 * unknown or missing. */
const struct command *command_resolve(const struct slice *argv, uint32_t argc);
const struct command *command_find_sub(const struct command *container, struct slice name);
static inline bool command_arity_ok(const struct command *c, uint32_t argc)
{
    return c->arity >= 0 ? argc == (uint32_t)c->arity : argc >= (uint32_t)-c->arity;
}

/* Walks a command's keys: for (i = first; i <= last; i += step). False when it has none in this argv. */
bool command_keys(const struct command *c, uint32_t argc, uint32_t *ret_first, uint32_t *ret_last,
                  uint32_t *ret_step);

/* "write" for bit 0 and so on; NULL beyond. Of categories without "@". */
const char *command_flag_name(unsigned bit);
const char *command_acl_name(unsigned bit);
/* The bit of a category, 0 for an unknown one. */
uint32_t command_acl_parse(struct slice name);

#endif
