/* FindCoordinator (API key 10): which node serves a group. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request[] = {
    KAFKA_FIELD("Key", STRING, 0, 3),
    KAFKA_FIELD("KeyType", I8, 1, KAFKA_ALL),
    KAFKA_ARRAY("CoordinatorKeys", STRING, 4, KAFKA_ALL, NULL),
    KAFKA_END,
};

static const struct kafka_field response_coordinators[] = {
    KAFKA_FIELD("Key", STRING, 4, KAFKA_ALL),
    KAFKA_FIELD("NodeId", I32, 4, KAFKA_ALL),
    KAFKA_FIELD("Host", STRING, 4, KAFKA_ALL),
    KAFKA_FIELD("Port", I32, 4, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 4, KAFKA_ALL),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 4, KAFKA_ALL, 4, NULL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, 3),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 1, 3, 1, NULL),
    KAFKA_FIELD("NodeId", I32, 0, 3),
    KAFKA_FIELD("Host", STRING, 0, 3),
    KAFKA_FIELD("Port", I32, 0, 3),
    KAFKA_ARRAY("Coordinators", STRUCT, 4, KAFKA_ALL, response_coordinators),
    KAFKA_END,
};

const struct kafka_message kafka_find_coordinator_request = {"FindCoordinatorRequest", 3, request};
const struct kafka_message kafka_find_coordinator_response = {"FindCoordinatorResponse", 3, response};
