/* OffsetCommit (API key 8): stores a group's offsets. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("CommittedOffset", I64, 0, KAFKA_ALL),
    KAFKA_FIELD("CommittedLeaderEpoch", I32, 6, KAFKA_ALL),
    KAFKA_NULLABLE("CommittedMetadata", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_END,
};

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, 9),
    KAFKA_FIELD("TopicId", UUID, 10, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, request_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_FIELD("GroupId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("GenerationIdOrMemberEpoch", I32, 1, KAFKA_ALL),
    KAFKA_FIELD("MemberId", STRING, 1, KAFKA_ALL),
    KAFKA_NULLABLE("GroupInstanceId", ONE, STRING, 7, KAFKA_ALL, 7, NULL),
    KAFKA_FIELD("RetentionTimeMs", I64, 2, 4),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, request_topics),
    KAFKA_END,
};

static const struct kafka_field response_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, 9),
    KAFKA_FIELD("TopicId", UUID, 10, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, response_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 3, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, response_topics),
    KAFKA_END,
};

const struct kafka_message kafka_offset_commit_request = {"OffsetCommitRequest", 8, request};
const struct kafka_message kafka_offset_commit_response = {"OffsetCommitResponse", 8, response};
