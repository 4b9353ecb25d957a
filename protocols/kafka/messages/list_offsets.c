/* ListOffsets (API key 2): offsets by place or time. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("CurrentLeaderEpoch", I32, 4, KAFKA_ALL),
    KAFKA_FIELD("Timestamp", I64, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, request_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_FIELD("ReplicaId", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("IsolationLevel", I8, 2, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, request_topics),
    KAFKA_FIELD("TimeoutMs", I32, 10, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL), KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("Timestamp", I64, 1, KAFKA_ALL),      KAFKA_FIELD("Offset", I64, 1, KAFKA_ALL),
    KAFKA_FIELD("LeaderEpoch", I32, 4, KAFKA_ALL),    KAFKA_END,
};

static const struct kafka_field response_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, response_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 2, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, response_topics),
    KAFKA_END,
};

const struct kafka_message kafka_list_offsets_request = {"ListOffsetsRequest", 6, request};
const struct kafka_message kafka_list_offsets_response = {"ListOffsetsResponse", 6, response};
