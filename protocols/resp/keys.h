/* KEYS that goes on over several turns (cmd_keys.c). On the session's worker. */
#ifndef GM_RESP_KEYS_H
#define GM_RESP_KEYS_H

#include "protocols/resp/session.h"

/* The session goes away: its KEYS ends. */
void keys_abandon(struct session *s);

#endif
