/* WAIT and WAITAOF: how far the writes of this connection have come (rule 13). What a session wrote is remembered a
 * partition; in a cluster only, for a node alone has nobody to wait for. On the session's worker. */
#ifndef GM_RESP_WAIT_H
#define GM_RESP_WAIT_H

#include "protocols/resp/exec.h"

struct writes;

/* The connection wrote to the main log of a partition, which ended there. */
void wait_note_write(struct session *s, uint32_t partition, int64_t end);
void wait_forget(struct session *s); /* the session goes away */

#endif
