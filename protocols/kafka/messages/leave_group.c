/* LeaveGroup (API key 13): members go. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_members[] = {
    KAFKA_FIELD("MemberId", STRING, 3, KAFKA_ALL),
    KAFKA_NULLABLE("GroupInstanceId", ONE, STRING, 3, KAFKA_ALL, 3, NULL),
    KAFKA_NULLABLE("Reason", ONE, STRING, 5, KAFKA_ALL, 5, NULL),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_FIELD("GroupId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("MemberId", STRING, 0, 2),
    KAFKA_ARRAY("Members", STRUCT, 3, KAFKA_ALL, request_members),
    KAFKA_END,
};

static const struct kafka_field response_members[] = {
    KAFKA_FIELD("MemberId", STRING, 3, KAFKA_ALL),
    KAFKA_NULLABLE("GroupInstanceId", ONE, STRING, 3, KAFKA_ALL, 3, NULL),
    KAFKA_FIELD("ErrorCode", I16, 3, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_ARRAY("Members", STRUCT, 3, KAFKA_ALL, response_members),
    KAFKA_END,
};

const struct kafka_message kafka_leave_group_request = {"LeaveGroupRequest", 4, request};
const struct kafka_message kafka_leave_group_response = {"LeaveGroupResponse", 4, response};
