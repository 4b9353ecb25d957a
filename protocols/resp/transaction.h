/* MULTI, EXEC and WATCH: what a session holds between them. On the session's worker.
 *
 * EXEC locks the ascending set of all partitions its commands and its watched keys need once, asks the
 * watches under those locks, runs, and each partition appends one batch naming all participants (rule 5): all
 * of it or nothing, also across kill -9.
 *
 * A watch is linked into its partition's keyspace and may only be let go under that partition's lock, which
 * may be busy: what a session drops goes to a reaper that enters one partition after another, parked where it
 * must be, and outlives the session. */
#ifndef GM_RESP_TRANSACTION_H
#define GM_RESP_TRANSACTION_H

#include "protocols/resp/exec.h"

/* The session goes away or is reset: the queue is freed, the watches are let go. */
void transaction_drop(struct session *s);
/* A command could not be queued: EXEC will answer EXECABORT. */
void transaction_fail(struct session *s);
/* Whether a command is queued after MULTI rather than run. */
bool transaction_queues(const struct command *c);
/* Copies the command behind the others and answers QUEUED. */
void transaction_queue(struct exec *x);

#endif
