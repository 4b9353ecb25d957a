/* Heartbeat (API key 12): a member is alive. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request[] = {
    KAFKA_FIELD("GroupId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("GenerationId", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("MemberId", STRING, 0, KAFKA_ALL),
    KAFKA_NULLABLE("GroupInstanceId", ONE, STRING, 3, KAFKA_ALL, 3, NULL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_END,
};

const struct kafka_message kafka_heartbeat_request = {"HeartbeatRequest", 4, request};
const struct kafka_message kafka_heartbeat_response = {"HeartbeatResponse", 4, response};
