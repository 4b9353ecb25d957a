/* JoinGroup (API key 11): enters a rebalance. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_protocols[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("Metadata", BYTES, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_FIELD("GroupId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("SessionTimeoutMs", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("RebalanceTimeoutMs", I32, 1, KAFKA_ALL),
    KAFKA_FIELD("MemberId", STRING, 0, KAFKA_ALL),
    KAFKA_NULLABLE("GroupInstanceId", ONE, STRING, 5, KAFKA_ALL, 5, NULL),
    KAFKA_FIELD("ProtocolType", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Protocols", STRUCT, 0, KAFKA_ALL, request_protocols),
    KAFKA_NULLABLE("Reason", ONE, STRING, 8, KAFKA_ALL, 8, NULL),
    KAFKA_END,
};

static const struct kafka_field response_members[] = {
    KAFKA_FIELD("MemberId", STRING, 0, KAFKA_ALL),
    KAFKA_NULLABLE("GroupInstanceId", ONE, STRING, 5, KAFKA_ALL, 5, NULL),
    KAFKA_FIELD("Metadata", BYTES, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 2, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("GenerationId", I32, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ProtocolType", ONE, STRING, 7, KAFKA_ALL, 7, NULL),
    KAFKA_NULLABLE("ProtocolName", ONE, STRING, 0, KAFKA_ALL, 7, NULL),
    KAFKA_FIELD("Leader", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("SkipAssignment", BOOL, 9, KAFKA_ALL),
    KAFKA_FIELD("MemberId", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Members", STRUCT, 0, KAFKA_ALL, response_members),
    KAFKA_END,
};

const struct kafka_message kafka_join_group_request = {"JoinGroupRequest", 6, request};
const struct kafka_message kafka_join_group_response = {"JoinGroupResponse", 6, response};
