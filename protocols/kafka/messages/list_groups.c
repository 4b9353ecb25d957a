/* ListGroups (API key 16): the groups of a node. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request[] = {
    KAFKA_ARRAY("StatesFilter", STRING, 4, KAFKA_ALL, NULL),
    KAFKA_ARRAY("TypesFilter", STRING, 5, KAFKA_ALL, NULL),
    KAFKA_END,
};

static const struct kafka_field response_groups[] = {
    KAFKA_FIELD("GroupId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("ProtocolType", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("GroupState", STRING, 4, KAFKA_ALL),
    KAFKA_FIELD("GroupType", STRING, 5, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_ARRAY("Groups", STRUCT, 0, KAFKA_ALL, response_groups),
    KAFKA_END,
};

const struct kafka_message kafka_list_groups_request = {"ListGroupsRequest", 3, request};
const struct kafka_message kafka_list_groups_response = {"ListGroupsResponse", 3, response};
