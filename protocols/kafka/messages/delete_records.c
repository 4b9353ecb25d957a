/* DeleteRecords (API key 21): moves the start of a log up. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("Offset", I64, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, request_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, request_topics),
    KAFKA_FIELD("TimeoutMs", I32, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("LowWatermark", I64, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, response_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, response_topics),
    KAFKA_END,
};

const struct kafka_message kafka_delete_records_request = {"DeleteRecordsRequest", 2, request};
const struct kafka_message kafka_delete_records_response = {"DeleteRecordsResponse", 2, response};
