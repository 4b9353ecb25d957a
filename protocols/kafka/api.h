/* The table of APIs (apis.def) and the errors the protocol knows (errors.def). Pure; any thread. */
#ifndef GM_KAFKA_API_H
#define GM_KAFKA_API_H

#include "protocols/kafka/message.h"

struct kafka_session;
struct kafka_request;

/* What became of a request. Negative values are ERR_* and close the connection. */
enum kafka_outcome {
    KAFKA_DONE = 0, /* answered, or nothing is to be answered */
    KAFKA_WAIT,     /* input is paused; the answer comes later and resumes it */
    KAFKA_RETRY, /* nothing was done; input is paused and the same request is run again when it is resumed */
};

enum kafka_api_key {
#define X(NAME, key, first, last, base) KAFKA_API_##NAME = key,
#include "protocols/kafka/apis.def"
#undef X
};

struct kafka_api {
    const char *name;
    int16_t key, first, last;
    const struct kafka_message *request, *response;
    int (*handle)(struct kafka_session *s, struct kafka_request *rq); /* enum kafka_outcome or ERR_* */
};

extern const struct kafka_api kafka_apis[];
extern const unsigned kafka_api_count;
/* NULL: not served. */
const struct kafka_api *kafka_api_find(int key);

#define X(NAME, key, first, last, base)                                                                      \
    extern const struct kafka_message kafka_##base##_request, kafka_##base##_response;                       \
    int kafka_handle_##base(struct kafka_session *s, struct kafka_request *rq);
#include "protocols/kafka/apis.def"
#undef X

enum kafka_error {
#define X(NAME, code, text) KAFKA_ERR_##NAME = code,
#include "protocols/kafka/errors.def"
#undef X
};

/* The protocol's code for one of our errors; the table is in errors.c, every ERR_* has a row. */
int16_t kafka_error_of(int err);
const char *
kafka_error_name(int code); /* "UNKNOWN_MEMBER_ID"; "UNKNOWN_SERVER_ERROR" for what is not in the table */
const char *kafka_error_text(int code);
/* Its row in errors.def, from 0; that of UNKNOWN_SERVER_ERROR for what is not in the table. And all names by
 * row. */
unsigned kafka_error_row(int code);
extern const char *const kafka_error_names[];
extern const unsigned kafka_error_rows;

#endif
