/* The slow log: the latest commands that ran longer than a threshold, one ring for all workers under a mutex
 * that is only taken when a command was slow or somebody asks. Arguments are cut as Redis cuts them: 32 of
 * them, 128 bytes each. */
#ifndef GM_RESP_SLOWLOG_H
#define GM_RESP_SLOWLOG_H

#include "protocols/resp/exec.h"

struct slowlog *slowlog_new(void);
void slowlog_free(struct slowlog *l);
void slowlog_add(struct exec *x, uint64_t duration_us);
/* CONFIG: how many are kept. */
uint32_t slowlog_max(struct slowlog *l);
void slowlog_set_max(struct slowlog *l, uint32_t max);

#endif
