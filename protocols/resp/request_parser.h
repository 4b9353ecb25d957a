/* The inside of a request parser, shared by request.c and request_slow.c. */
#ifndef GM_RESP_REQUEST_PARSER_H
#define GM_RESP_REQUEST_PARSER_H

#include <hiredis/read.h>

#include "protocols/resp/request.h"

struct request_parser {
    struct slice fast[REQUEST_FAST_ARGS];
    redisReader *reader; /* owned */
    struct slice *argv;  /* owned: the slow path's */
    uint32_t argc, argv_cap;
    uint8_t *text; /* owned: an inline command's arguments */
    char error[96];
};

#endif
