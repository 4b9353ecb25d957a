/* DeleteGroups (API key 42): removes groups. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request[] = {
    KAFKA_ARRAY("GroupsNames", STRING, 0, KAFKA_ALL, NULL),
    KAFKA_END,
};

static const struct kafka_field response_results[] = {
    KAFKA_FIELD("GroupId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("Results", STRUCT, 0, KAFKA_ALL, response_results),
    KAFKA_END,
};

const struct kafka_message kafka_delete_groups_request = {"DeleteGroupsRequest", 2, request};
const struct kafka_message kafka_delete_groups_response = {"DeleteGroupsResponse", 2, response};
