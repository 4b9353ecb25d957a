/* SyncGroup (API key 14): the leader's assignment, to everyone. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_assignments[] = {
    KAFKA_FIELD("MemberId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("Assignment", BYTES, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_FIELD("GroupId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("GenerationId", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("MemberId", STRING, 0, KAFKA_ALL),
    KAFKA_NULLABLE("GroupInstanceId", ONE, STRING, 3, KAFKA_ALL, 3, NULL),
    KAFKA_NULLABLE("ProtocolType", ONE, STRING, 5, KAFKA_ALL, 5, NULL),
    KAFKA_NULLABLE("ProtocolName", ONE, STRING, 5, KAFKA_ALL, 5, NULL),
    KAFKA_ARRAY("Assignments", STRUCT, 0, KAFKA_ALL, request_assignments),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ProtocolType", ONE, STRING, 5, KAFKA_ALL, 5, NULL),
    KAFKA_NULLABLE("ProtocolName", ONE, STRING, 5, KAFKA_ALL, 5, NULL),
    KAFKA_FIELD("Assignment", BYTES, 0, KAFKA_ALL),
    KAFKA_END,
};

const struct kafka_message kafka_sync_group_request = {"SyncGroupRequest", 4, request};
const struct kafka_message kafka_sync_group_response = {"SyncGroupResponse", 4, response};
