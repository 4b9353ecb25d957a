/* Requests of RESP: from bytes of the input buffer to argv.
 *
 * Two paths that give the same answer for the same bytes (held together by tests/fuzz/fuzz_resp_request.c):
 *   - the fast path parses small, complete, well-formed multibulk commands in place: argv points into the
 *     input, up to REQUEST_BATCH commands at once, so that a pipeline can be looked at before it runs (P6);
 *   - the slow path takes everything else: a bounded, resumable scan finds the end of one command and refuses
 *     what Redis refuses, with Redis' words, before a byte of the body is needed; then hiredis' redisReader
 *     cuts the complete command up (its object functions fill argv, no allocation an argument). Inline
 *     commands are split as sdssplitargs does.
 *
 * Nothing is allocated because of a length that was announced, only for bytes that have arrived.
 *
 * argv is valid until the parser is used again or the input goes away. One parser a worker; what must outlive
 * a call, the place where the scan of an incomplete command stopped, is in `struct request_scan`, one a
 * connection. */
#ifndef GM_RESP_REQUEST_H
#define GM_RESP_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

enum {
    REQUEST_BATCH = 32,      /* commands looked at together */
    REQUEST_FAST_ARGS = 512, /* of one batch together */
    REQUEST_FAST_ARGC = 64,  /* of one command on the fast path */
    REQUEST_INLINE_MAX = 64 * 1024,
    REQUEST_ARGS_MAX = 1024 * 1024, /* default of limits.args_max */
    REQUEST_UNAUTH_ARGC_MAX = 10,
    REQUEST_UNAUTH_BULK_MAX = 16384,
};
#define REQUEST_BULK_MAX (512ull << 20)

struct request {
    const struct slice *argv; /* borrowed */
    uint32_t argc;            /* 0: an empty line, "*0", "*-1": nothing to answer */
    uint32_t size;            /* bytes of the whole command, or of those that led to an error */
};

/* Where the scan of an incomplete command stands; zeroed at each new command. */
struct request_scan {
    uint64_t at;   /* bytes scanned */
    uint32_t args; /* still to come */
    bool in_args;  /* the count was read */
    uint32_t argc;
};

struct request_limits {
    uint64_t bulk_max;    /* resp.max_bulk_bytes */
    uint32_t args_max;    /* resp.max_arguments */
    bool unauthenticated; /* the smaller limits of a client that has not proved itself */
};

struct request_parser;
struct request_parser *request_parser_new(void);
void request_parser_free(struct request_parser *p);

/* The fast path: as many whole commands as stand at the front of `data`, at most REQUEST_BATCH, into ret[].
 * Stops in front of what needs the slow path or more bytes; returns how many there are. Its limits are at most
 * the least that resp.max_bulk_bytes and resp.max_arguments can be set to; for others only the slow path serves. */
uint32_t request_parse_fast(struct request_parser *p, const uint8_t *data, size_t len, struct request *ret);

/* The second word of a multibulk command that begins here, mostly a key, if it came whole and is of the fast
 * path's kind. Only good for guessing. */
bool request_peek_key(const uint8_t *data, size_t len, struct slice *ret_key);

/* The slow path, one command of any shape. 1: *ret is it (also with argc 0) and *scan was reset; ERR_MORE:
 * incomplete, *scan remembers; ERR_MALFORMED: request_error tells the words and ret->size is meaningless, the
 * connection must end. */
int request_parse_slow(struct request_parser *p, struct request_scan *scan,
                       const struct request_limits *limits, const uint8_t *data, size_t len,
                       struct request *ret);
/* Gives back what a large command made the parser hold; after the command was run. */
void request_parser_trim(struct request_parser *p, uint32_t last_size);
/* "Protocol error: …" without the leading "-ERR "; valid until the next call. */
const char *request_error(const struct request_parser *p);

/* What a client that does not speak RESP seems to speak, by its first bytes. */
enum request_stranger { STRANGER_NONE, STRANGER_TLS, STRANGER_AMQP, STRANGER_KAFKA };
enum request_stranger request_stranger(const uint8_t *data, size_t len);

/* The quoting rules of an inline command: blanks separate, "…" with \n \r \t \b \a \xHH, '…' with \'. Appends
 * the arguments to text and argv (argv points into text, which must have room for len bytes). The count, or
 * -1 for unbalanced quotes, or -2 when argv is too short. */
int request_split_inline(const uint8_t *line, size_t len, uint8_t *text, struct slice *argv, uint32_t max);

#endif
