/* OffsetFetch (API key 9): reads a group's offsets. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, 7),
    KAFKA_ARRAY("PartitionIndexes", I32, 0, 7, NULL),
    KAFKA_END,
};

static const struct kafka_field request_groups_topics[] = {
    KAFKA_FIELD("Name", STRING, 8, 9),
    KAFKA_FIELD("TopicId", UUID, 10, KAFKA_ALL),
    KAFKA_ARRAY("PartitionIndexes", I32, 8, KAFKA_ALL, NULL),
    KAFKA_END,
};

static const struct kafka_field request_groups[] = {
    KAFKA_FIELD("GroupId", STRING, 8, KAFKA_ALL),
    KAFKA_NULLABLE("MemberId", ONE, STRING, 9, KAFKA_ALL, 9, NULL),
    KAFKA_FIELD("MemberEpoch", I32, 9, KAFKA_ALL),
    KAFKA_NULLABLE("Topics", ARRAY, STRUCT, 8, KAFKA_ALL, 8, request_groups_topics),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_FIELD("GroupId", STRING, 0, 7),
    KAFKA_NULLABLE("Topics", ARRAY, STRUCT, 0, 7, 2, request_topics),
    KAFKA_ARRAY("Groups", STRUCT, 8, KAFKA_ALL, request_groups),
    KAFKA_FIELD("RequireStable", BOOL, 7, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, 7),
    KAFKA_FIELD("CommittedOffset", I64, 0, 7),
    KAFKA_FIELD("CommittedLeaderEpoch", I32, 5, 7),
    KAFKA_NULLABLE("Metadata", ONE, STRING, 0, 7, 0, NULL),
    KAFKA_FIELD("ErrorCode", I16, 0, 7),
    KAFKA_END,
};

static const struct kafka_field response_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, 7),
    KAFKA_ARRAY("Partitions", STRUCT, 0, 7, response_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field response_groups_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 8, KAFKA_ALL),
    KAFKA_FIELD("CommittedOffset", I64, 8, KAFKA_ALL),
    KAFKA_FIELD("CommittedLeaderEpoch", I32, 8, KAFKA_ALL),
    KAFKA_NULLABLE("Metadata", ONE, STRING, 8, KAFKA_ALL, 8, NULL),
    KAFKA_FIELD("ErrorCode", I16, 8, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_groups_topics[] = {
    KAFKA_FIELD("Name", STRING, 8, 9),
    KAFKA_FIELD("TopicId", UUID, 10, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 8, KAFKA_ALL, response_groups_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field response_groups[] = {
    KAFKA_FIELD("GroupId", STRING, 8, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 8, KAFKA_ALL, response_groups_topics),
    KAFKA_FIELD("ErrorCode", I16, 8, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 3, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, 7, response_topics),
    KAFKA_FIELD("ErrorCode", I16, 2, 7),
    KAFKA_ARRAY("Groups", STRUCT, 8, KAFKA_ALL, response_groups),
    KAFKA_END,
};

const struct kafka_message kafka_offset_fetch_request = {"OffsetFetchRequest", 6, request};
const struct kafka_message kafka_offset_fetch_response = {"OffsetFetchResponse", 6, response};
