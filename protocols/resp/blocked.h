/* Clients that wait: BLPOP, BRPOP for an element, WAIT for replicas.
 *
 * A waiting client is registered under the partition's lock in the keyspace's list of each of its keys (P9).
 * The command that brings an element hands it over under the same lock: `serve` pops it into the waiter and
 * mails the waiter's worker. There the waiter enters each of its partitions once, which (a) takes it out of
 * the other lists and (b) means that the command that served it has left, so its effects, our pop among them,
 * are in the log; then the reply is written.
 *
 * One word decides who ends the wait: WAITING is left once, by compare-and-swap, to SERVED (any thread, under
 * a partition's lock), or on the own worker to ENDED (timeout, CLIENT UNBLOCK, the connection is gone). A
 * waiter whose session is gone frees itself when it is out of all lists.
 *
 * On the session's worker, but for `serve`. */
#ifndef GM_RESP_BLOCKED_H
#define GM_RESP_BLOCKED_H

#include "protocols/resp/exec.h"

/* "ERR timeout is …" was written: false. 0: for ever. */
bool blocked_parse_timeout(struct exec *x, uint32_t i, uint64_t *ret_ms);
/* Waits for an element in one of argv[first..last]; the partitions are entered, the lists empty. x->outcome
 * becomes EXEC_BLOCKED. */
void blocked_on_lists(struct exec *x, uint32_t first, uint32_t last, enum kv_end end, uint64_t timeout_ms);
/* Waits for time to pass, then answers an integer, or OK. */
#define BLOCKED_ANSWER_OK INT64_MIN
void blocked_on_time(struct exec *x, uint64_t timeout_ms, int64_t answer);
/* This node no longer leads the partition: who waits there is told who does. */
void blocked_redirect(struct session *s, uint32_t partition);
/* Waits for a condition; who made it ends the wait by blocked_end(c->session, false) when it is met. At the end, also
 * by time, `reply` writes the answer; `release` runs in any case and may free it. */
struct blocked_condition {
    struct session *session; /* NULL: the wait is over */
    void (*reply)(struct blocked_condition *c, struct reply *r);
    void (*release)(struct blocked_condition *c);
};
void blocked_on_condition(struct exec *x, uint64_t timeout_ms, struct blocked_condition *c);
/* The session goes away or is reset. */
void blocked_abandon(struct session *s);
/* CLIENT UNBLOCK: as if timed out, or with the error UNBLOCKED. False: it does not wait, or was served just
 * now. */
bool blocked_end(struct session *s, bool with_error);

#endif
