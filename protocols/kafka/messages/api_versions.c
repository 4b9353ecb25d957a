/* ApiVersions (API key 18): what this node speaks. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request[] = {
    KAFKA_FIELD("ClientSoftwareName", STRING, 3, KAFKA_ALL),
    KAFKA_FIELD("ClientSoftwareVersion", STRING, 3, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_api_keys[] = {
    KAFKA_FIELD("ApiKey", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("MinVersion", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("MaxVersion", I16, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_supported_features[] = {
    KAFKA_FIELD("Name", STRING, 3, KAFKA_ALL),
    KAFKA_FIELD("MinVersion", I16, 3, KAFKA_ALL),
    KAFKA_FIELD("MaxVersion", I16, 3, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_finalized_features[] = {
    KAFKA_FIELD("Name", STRING, 3, KAFKA_ALL),
    KAFKA_FIELD("MaxVersionLevel", I16, 3, KAFKA_ALL),
    KAFKA_FIELD("MinVersionLevel", I16, 3, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_ARRAY("ApiKeys", STRUCT, 0, KAFKA_ALL, response_api_keys),
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_TAGGED("SupportedFeatures", ARRAY, STRUCT, 3, KAFKA_ALL, 0, response_supported_features),
    KAFKA_TAGGED("FinalizedFeaturesEpoch", ONE, I64, 3, KAFKA_ALL, 1, NULL),
    KAFKA_TAGGED("FinalizedFeatures", ARRAY, STRUCT, 3, KAFKA_ALL, 2, response_finalized_features),
    KAFKA_TAGGED("ZkMigrationReady", ONE, BOOL, 3, KAFKA_ALL, 3, NULL),
    KAFKA_END,
};

const struct kafka_message kafka_api_versions_request = {"ApiVersionsRequest", 3, request};
const struct kafka_message kafka_api_versions_response = {"ApiVersionsResponse", 3, response};
