/* DescribeConfigs (API key 32): settings with their sources. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_resources[] = {
    KAFKA_FIELD("ResourceType", I8, 0, KAFKA_ALL),
    KAFKA_FIELD("ResourceName", STRING, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ConfigurationKeys", ARRAY, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_ARRAY("Resources", STRUCT, 0, KAFKA_ALL, request_resources),
    KAFKA_FIELD("IncludeSynonyms", BOOL, 1, KAFKA_ALL),
    KAFKA_FIELD("IncludeDocumentation", BOOL, 3, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_results_configs_synonyms[] = {
    KAFKA_FIELD("Name", STRING, 1, KAFKA_ALL),
    KAFKA_NULLABLE("Value", ONE, STRING, 1, KAFKA_ALL, 0, NULL),
    KAFKA_FIELD("Source", I8, 1, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_results_configs[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_NULLABLE("Value", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_FIELD("ReadOnly", BOOL, 0, KAFKA_ALL),
    KAFKA_FIELD("ConfigSource", I8, 1, KAFKA_ALL),
    KAFKA_FIELD("IsSensitive", BOOL, 0, KAFKA_ALL),
    KAFKA_ARRAY("Synonyms", STRUCT, 1, KAFKA_ALL, response_results_configs_synonyms),
    KAFKA_FIELD("ConfigType", I8, 3, KAFKA_ALL),
    KAFKA_NULLABLE("Documentation", ONE, STRING, 3, KAFKA_ALL, 0, NULL),
    KAFKA_END,
};

static const struct kafka_field response_results[] = {
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_FIELD("ResourceType", I8, 0, KAFKA_ALL),
    KAFKA_FIELD("ResourceName", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Configs", STRUCT, 0, KAFKA_ALL, response_results_configs),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("Results", STRUCT, 0, KAFKA_ALL, response_results),
    KAFKA_END,
};

const struct kafka_message kafka_describe_configs_request = {"DescribeConfigsRequest", 4, request};
const struct kafka_message kafka_describe_configs_response = {"DescribeConfigsResponse", 4, response};
