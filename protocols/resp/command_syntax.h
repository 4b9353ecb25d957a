/* The arguments of COMMAND DOCS, read from a command's syntax text: `key value [NX | XX] [GET] [EX seconds]`.
 *
 *   a word in lower case    an argument: "key" is a key, "seconds", "count"… integers, else a string
 *   WORD                    a token; `WORD name` is an argument behind a token
 *   [ … ]                   optional
 *   < … >                   a choice that is not
 *   a | b                   one of
 *   [name [name ...]]       name, repeated; `name [name ...]` at least once */
#ifndef GM_RESP_COMMAND_SYNTAX_H
#define GM_RESP_COMMAND_SYNTAX_H

#include "protocols/resp/reply.h"

/* Writes the array of arguments; returns how many there are at the top (0: nothing was written). False: the
 * text is malformed. */
bool command_syntax_reply(struct reply *r, const char *syntax, unsigned *ret_count);

#endif
