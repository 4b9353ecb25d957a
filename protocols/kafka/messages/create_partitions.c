/* CreatePartitions (API key 37): grows a topic. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics_assignments[] = {
    KAFKA_ARRAY("BrokerIds", I32, 0, KAFKA_ALL, NULL),
    KAFKA_END,
};

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("Count", I32, 0, KAFKA_ALL),
    KAFKA_NULLABLE("Assignments", ARRAY, STRUCT, 0, KAFKA_ALL, 0, request_topics_assignments),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, request_topics),
    KAFKA_FIELD("TimeoutMs", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ValidateOnly", BOOL, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_results[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("Results", STRUCT, 0, KAFKA_ALL, response_results),
    KAFKA_END,
};

const struct kafka_message kafka_create_partitions_request = {"CreatePartitionsRequest", 2, request};
const struct kafka_message kafka_create_partitions_response = {"CreatePartitionsResponse", 2, response};
