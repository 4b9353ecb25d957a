/* OffsetForLeaderEpoch (API key 23): where an epoch ended. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics_partitions[] = {
    KAFKA_FIELD("Partition", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("CurrentLeaderEpoch", I32, 2, KAFKA_ALL),
    KAFKA_FIELD("LeaderEpoch", I32, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Topic", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, request_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_FIELD("ReplicaId", I32, 3, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, request_topics),
    KAFKA_END,
};

static const struct kafka_field response_topics_partitions[] = {
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("Partition", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("LeaderEpoch", I32, 1, KAFKA_ALL),
    KAFKA_FIELD("EndOffset", I64, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics[] = {
    KAFKA_FIELD("Topic", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, response_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 2, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, response_topics),
    KAFKA_END,
};

const struct kafka_message kafka_offset_for_leader_epoch_request = {"OffsetForLeaderEpochRequest", 4,
                                                                    request};
const struct kafka_message kafka_offset_for_leader_epoch_response = {"OffsetForLeaderEpochResponse", 4,
                                                                     response};
