/* Times as commands give them, checked as Redis checks them (expireGenericCommand,
 * getExpireMillisecondsOrReply). */
#ifndef GM_RESP_EXPIRY_H
#define GM_RESP_EXPIRY_H

#include "protocols/resp/exec.h"

enum expiry_unit { EXPIRY_SECONDS, EXPIRY_MS, EXPIRY_AT_SECONDS, EXPIRY_AT_MS };

/* argv[i] to absolute ms. With `positive`, times of 0 and below are refused, as SET and GETEX do. False: an
 * error was written. */
bool expiry_parse(struct exec *x, uint32_t i, enum expiry_unit unit, bool positive, int64_t *ret_at_ms);
/* EX, PX, EXAT, PXAT at argv[i] in any case; false for another word. */
bool expiry_option(const struct exec *x, uint32_t i, enum expiry_unit *ret);

#endif
