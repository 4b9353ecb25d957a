/* Every ERR_* in the words of the Kafka protocol: the one table, walked by a test. Where a client can do
 * something about an error, the code is the one that makes it do that: what may pass is retriable. A full
 * disk is KAFKA_STORAGE_ERROR, which producers retry until delivery.timeout.ms; Kafka itself takes the log
 * directory offline then and answers the same code. */
#include "protocols/kafka/api.h"

#include "base/check.h"
#include "base/err.h"

static const struct {
    int err;
    int16_t code;
} rows[] = {
    {ERR_NOMEM, KAFKA_ERR_UNKNOWN_SERVER_ERROR},
    {ERR_IO, KAFKA_ERR_KAFKA_STORAGE_ERROR},
    {ERR_NOSPACE, KAFKA_ERR_KAFKA_STORAGE_ERROR},
    {ERR_NOFILE, KAFKA_ERR_KAFKA_STORAGE_ERROR},
    {ERR_TIMEOUT, KAFKA_ERR_REQUEST_TIMED_OUT},
    {ERR_AGAIN, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER},
    {ERR_PARKED, KAFKA_ERR_COORDINATOR_LOAD_IN_PROGRESS},
    {ERR_BUSY, KAFKA_ERR_COORDINATOR_LOAD_IN_PROGRESS},
    {ERR_CLOSED, KAFKA_ERR_NETWORK_EXCEPTION},
    {ERR_CANCELLED, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER},
    {ERR_IN_USE, KAFKA_ERR_UNKNOWN_SERVER_ERROR},
    {ERR_ADDR_IN_USE, KAFKA_ERR_UNKNOWN_SERVER_ERROR},
    {ERR_LIMIT, KAFKA_ERR_POLICY_VIOLATION},
    {ERR_READ_ONLY, KAFKA_ERR_KAFKA_STORAGE_ERROR},
    {ERR_MORE, KAFKA_ERR_CORRUPT_MESSAGE},
    {ERR_MALFORMED, KAFKA_ERR_INVALID_RECORD},
    {ERR_TOO_LARGE, KAFKA_ERR_MESSAGE_TOO_LARGE},
    {ERR_UNSUPPORTED, KAFKA_ERR_UNSUPPORTED_COMPRESSION_TYPE},
    {ERR_SYNTAX, KAFKA_ERR_INVALID_REQUEST},
    {ERR_INVALID, KAFKA_ERR_INVALID_REQUEST},
    {ERR_RANGE, KAFKA_ERR_INVALID_REQUEST},
    {ERR_NOT_INTEGER, KAFKA_ERR_INVALID_REQUEST},
    {ERR_NOT_FLOAT, KAFKA_ERR_INVALID_REQUEST},
    {ERR_OVERFLOW, KAFKA_ERR_INVALID_REQUEST},
    {ERR_WRONG_TYPE, KAFKA_ERR_UNKNOWN_SERVER_ERROR},
    {ERR_NOT_FOUND, KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION},
    {ERR_EXISTS, KAFKA_ERR_TOPIC_ALREADY_EXISTS},
    {ERR_MISMATCH, KAFKA_ERR_INVALID_REQUEST},
    {ERR_NOT_EMPTY, KAFKA_ERR_NON_EMPTY_GROUP},
    {ERR_ACCESS, KAFKA_ERR_CLUSTER_AUTHORIZATION_FAILED},
    {ERR_AUTH, KAFKA_ERR_CLUSTER_AUTHORIZATION_FAILED},
    {ERR_LOCKED, KAFKA_ERR_FENCED_INSTANCE_ID},
    {ERR_OFFSET_RANGE, KAFKA_ERR_OFFSET_OUT_OF_RANGE},
    {ERR_OUT_OF_ORDER, KAFKA_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER},
    {ERR_DUPLICATE, KAFKA_ERR_DUPLICATE_SEQUENCE_NUMBER},
    {ERR_FENCED, KAFKA_ERR_INVALID_PRODUCER_EPOCH},
    {ERR_UNKNOWN_PRODUCER, KAFKA_ERR_UNKNOWN_PRODUCER_ID},
    {ERR_NOT_LEADER, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER},
    {ERR_NO_REPLICAS, KAFKA_ERR_NOT_ENOUGH_REPLICAS},
    {ERR_NO_LEASE, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER},
    {ERR_NO_LEADER, KAFKA_ERR_LEADER_NOT_AVAILABLE},
    {ERR_INELIGIBLE, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER},
    {ERR_CORRUPT, KAFKA_ERR_KAFKA_STORAGE_ERROR},
    {ERR_FOREIGN, KAFKA_ERR_KAFKA_STORAGE_ERROR},
    {ERR_LEVEL, KAFKA_ERR_UNSUPPORTED_VERSION},
};

int16_t kafka_error_of(int err)
{
    if (err >= 0)
        return KAFKA_ERR_NONE;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].err == err)
            return rows[i].code;
    return KAFKA_ERR_UNKNOWN_SERVER_ERROR;
}

const char *kafka_error_name(int code)
{
    switch (code) {
#define X(NAME, number, text)                                                                                \
    case number:                                                                                             \
        return #NAME;
#include "protocols/kafka/errors.def"
#undef X
    }
    return "UNKNOWN_SERVER_ERROR";
}

const char *kafka_error_text(int code)
{
    switch (code) {
#define X(NAME, number, text)                                                                                \
    case number:                                                                                             \
        return text;
#include "protocols/kafka/errors.def"
#undef X
    }
    return "the server met an error it has no better code for";
}

const char *const kafka_error_names[] = {
#define X(NAME, number, text) #NAME,
#include "protocols/kafka/errors.def"
#undef X
};
const unsigned kafka_error_rows = ARRAY_LEN(kafka_error_names);

unsigned kafka_error_row(int code)
{
    static const int16_t codes[] = {
#define X(NAME, number, text) number,
#include "protocols/kafka/errors.def"
#undef X
    };

    for (unsigned i = 0; i < ARRAY_LEN(codes); i++)
        if (codes[i] == code)
            return i;
    return 0;
}
