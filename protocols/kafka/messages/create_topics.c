/* CreateTopics (API key 19): makes topics. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics_assignments[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("BrokerIds", I32, 0, KAFKA_ALL, NULL),
    KAFKA_END,
};

static const struct kafka_field request_topics_configs[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_NULLABLE("Value", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_END,
};

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("NumPartitions", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ReplicationFactor", I16, 0, KAFKA_ALL),
    KAFKA_ARRAY("Assignments", STRUCT, 0, KAFKA_ALL, request_topics_assignments),
    KAFKA_ARRAY("Configs", STRUCT, 0, KAFKA_ALL, request_topics_configs),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, request_topics),
    KAFKA_FIELD("TimeoutMs", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ValidateOnly", BOOL, 1, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics_configs[] = {
    KAFKA_FIELD("Name", STRING, 5, KAFKA_ALL),
    KAFKA_NULLABLE("Value", ONE, STRING, 5, KAFKA_ALL, 5, NULL),
    KAFKA_FIELD("ReadOnly", BOOL, 5, KAFKA_ALL),
    KAFKA_FIELD("ConfigSource", I8, 5, KAFKA_ALL),
    KAFKA_FIELD("IsSensitive", BOOL, 5, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("TopicId", UUID, 7, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 1, KAFKA_ALL, 0, NULL),
    KAFKA_TAGGED("TopicConfigErrorCode", ONE, I16, 5, KAFKA_ALL, 0, NULL),
    KAFKA_FIELD("NumPartitions", I32, 5, KAFKA_ALL),
    KAFKA_FIELD("ReplicationFactor", I16, 5, KAFKA_ALL),
    KAFKA_NULLABLE("Configs", ARRAY, STRUCT, 5, KAFKA_ALL, 5, response_topics_configs),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 2, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, response_topics),
    KAFKA_END,
};

const struct kafka_message kafka_create_topics_request = {"CreateTopicsRequest", 5, request};
const struct kafka_message kafka_create_topics_response = {"CreateTopicsResponse", 5, response};
