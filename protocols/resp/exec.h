/* Running one command: what a handler is given.
 *
 * The executor (exec.c) looks the command up, checks arity, login, memory and disk, enters the partitions of
 * its keys in ascending order, calls the handler, leaves (which appends the effects) and takes the reply back
 * if that failed. A handler finds the keyspace of a key with exec_kv and writes exactly one reply to x->r,
 * unless it sets x->outcome. */
#ifndef GM_RESP_EXEC_H
#define GM_RESP_EXEC_H

#include "base/check.h"
#include "protocols/resp/session.h"

enum exec_outcome {
    EXEC_DONE,
    EXEC_PARKED,  /* run the same command again later: no reply was written, nothing changed that may not
                     change twice */
    EXEC_BLOCKED, /* the command is over, its reply comes later */
};

struct exec {
    struct session *s;
    struct resp_worker *w;
    const struct command *cmd;
    const struct slice *argv;
    uint32_t argc;
    struct reply r;
    struct partition_guard *guards; /* those entered, ascending; NULL without keys */
    uint32_t guards_count;
    bool in_exec; /* one of EXEC's commands: may neither park nor block */
    bool unknown; /* set by leaving: something is in the log that cannot be answered for */
    enum exec_outcome outcome;
    size_t error_at; /* exec_each_partition: where its error begins */
    uint32_t slot;   /* in a cluster: of its keys */
};

/* The keyspace of a key whose partition was entered, with the session's database. */
struct kv_ctx *exec_kv(struct exec *x, struct slice key);
static inline int64_t exec_now_ms(const struct exec *x)
{
    return worker_wall_ms(x->w->worker);
}
/* Visits partitions one after another (P2), inside EXEC those that are held: fn under each; a fn that returns
 * false ends the walk. `from` is where to begin. False: the command must stop, an error was written or it is
 * parked; what fn wrote stays in front of it. */
bool exec_each_partition(struct exec *x, uint32_t from,
                         bool (*fn)(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg), void *arg);

/* After a walk that failed half way: drops what was written since `at` except the error at the end. */
void exec_keep_last_error(struct exec *x, size_t at);

/* Enters the partitions of keys argv[first..last] step; EXEC_DONE with guards set in x, or an outcome or
 * error written (false). */
bool exec_enter_indexes(struct exec *x, uint32_t n); /* w->indexes[0..n), sorted, unique */
bool exec_enter_keys(struct exec *x, uint32_t first, uint32_t last, uint32_t step);
/* Level quorum is asked for by the configuration and cannot be had in this partition: a write is refused before
 * anything is done (rule 13). */
bool exec_lacks_replicas(const struct exec *x, uint32_t index);
/* Leaves what was entered; the error of the append. */
int exec_leave(struct exec *x);
/* Adds the partition of a key to w->indexes[0..n) when it is missing, keeping order; the new n. Room for all
 * partitions is made. */
uint32_t exec_index_add(struct exec *x, uint32_t n, uint32_t index);
uint32_t exec_index_of_key(struct exec *x, struct slice key);

/* Runs the handler and counts; EXEC uses it for its commands. `began`: clock_ticks() of when the command was begun; returns that of when it ended. */
uint64_t exec_call(struct exec *x, uint64_t began);
/* Everything that is refused before a handler runs; true: an error was written. */
bool exec_refuse(struct exec *x);

/* ---- what many handlers need ---- */
/* Array of `n` slices that lives until the next call on this worker. */
struct slice *exec_slices(struct exec *x, uint32_t n);
/* argv[i] as an integer; false: "ERR value is not an integer or out of range" was written. */
bool exec_arg_int(struct exec *x, uint32_t i, int64_t *ret);
void exec_syntax_error(struct exec *x);
static inline bool exec_arg_is(const struct exec *x, uint32_t i, const char *word)
{
    return slice_ieq(x->argv[i], word);
}

#endif
