/* DescribeGroups (API key 15): a group's state and members. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request[] = {
    KAFKA_ARRAY("Groups", STRING, 0, KAFKA_ALL, NULL),
    KAFKA_FIELD("IncludeAuthorizedOperations", BOOL, 3, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_groups_members[] = {
    KAFKA_FIELD("MemberId", STRING, 0, KAFKA_ALL),
    KAFKA_NULLABLE("GroupInstanceId", ONE, STRING, 4, KAFKA_ALL, 4, NULL),
    KAFKA_FIELD("ClientId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("ClientHost", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("MemberMetadata", BYTES, 0, KAFKA_ALL),
    KAFKA_FIELD("MemberAssignment", BYTES, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_groups[] = {
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 6, KAFKA_ALL, 6, NULL),
    KAFKA_FIELD("GroupId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("GroupState", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("ProtocolType", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("ProtocolData", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Members", STRUCT, 0, KAFKA_ALL, response_groups_members),
    KAFKA_FIELD("AuthorizedOperations", I32, 3, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_ARRAY("Groups", STRUCT, 0, KAFKA_ALL, response_groups),
    KAFKA_END,
};

const struct kafka_message kafka_describe_groups_request = {"DescribeGroupsRequest", 5, request};
const struct kafka_message kafka_describe_groups_response = {"DescribeGroupsResponse", 5, response};
