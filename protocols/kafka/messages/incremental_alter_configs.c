/* IncrementalAlterConfigs (API key 44): changes single settings. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_resources_configs[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("ConfigOperation", I8, 0, KAFKA_ALL),
    KAFKA_NULLABLE("Value", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_END,
};

static const struct kafka_field request_resources[] = {
    KAFKA_FIELD("ResourceType", I8, 0, KAFKA_ALL),
    KAFKA_FIELD("ResourceName", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Configs", STRUCT, 0, KAFKA_ALL, request_resources_configs),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_ARRAY("Resources", STRUCT, 0, KAFKA_ALL, request_resources),
    KAFKA_FIELD("ValidateOnly", BOOL, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_responses[] = {
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_FIELD("ResourceType", I8, 0, KAFKA_ALL),
    KAFKA_FIELD("ResourceName", STRING, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("Responses", STRUCT, 0, KAFKA_ALL, response_responses),
    KAFKA_END,
};

const struct kafka_message kafka_incremental_alter_configs_request = {"IncrementalAlterConfigsRequest", 1,
                                                                      request};
const struct kafka_message kafka_incremental_alter_configs_response = {"IncrementalAlterConfigsResponse", 1,
                                                                       response};
