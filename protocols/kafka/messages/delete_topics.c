/* DeleteTopics (API key 20): removes topics. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics[] = {
    KAFKA_NULLABLE("Name", ONE, STRING, 6, KAFKA_ALL, 6, NULL),
    KAFKA_FIELD("TopicId", UUID, 6, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_ARRAY("Topics", STRUCT, 6, KAFKA_ALL, request_topics),
    KAFKA_ARRAY("TopicNames", STRING, 0, 5, NULL),
    KAFKA_FIELD("TimeoutMs", I32, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_responses[] = {
    KAFKA_NULLABLE("Name", ONE, STRING, 0, KAFKA_ALL, 6, NULL),
    KAFKA_FIELD("TopicId", UUID, 6, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 5, KAFKA_ALL, 5, NULL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_ARRAY("Responses", STRUCT, 0, KAFKA_ALL, response_responses),
    KAFKA_END,
};

const struct kafka_message kafka_delete_topics_request = {"DeleteTopicsRequest", 4, request};
const struct kafka_message kafka_delete_topics_response = {"DeleteTopicsResponse", 4, response};
