/* Between the session, which reads bytes, and the executor, which runs commands. */
#ifndef GM_RESP_RUN_H
#define GM_RESP_RUN_H

#include "protocols/resp/exec.h"

/* Runs requests in order, consecutive ones of a partition under one acquisition. Returns how many were
 * consumed: fewer than n when one is parked, blocks, the connection closes or its output is full. */
uint32_t run_batch(struct session *s, const struct request *q, uint32_t n, enum exec_outcome *ret_outcome);
/* One request of any kind. */
enum exec_outcome run_one(struct session *s, const struct request *q, const struct command *cmd);

#endif
