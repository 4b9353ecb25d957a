/* OffsetDelete (API key 47): forgets offsets of a group. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, request_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_FIELD("GroupId", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, request_topics),
    KAFKA_END,
};

static const struct kafka_field response_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, response_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("ThrottleTimeMs", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, response_topics),
    KAFKA_END,
};

const struct kafka_message kafka_offset_delete_request = {"OffsetDeleteRequest", KAFKA_NEVER, request};
const struct kafka_message kafka_offset_delete_response = {"OffsetDeleteResponse", KAFKA_NEVER, response};
