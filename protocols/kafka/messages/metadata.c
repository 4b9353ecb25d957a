/* Metadata (API key 3): nodes, topics and who leads them. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("TopicId", UUID, 10, KAFKA_ALL),
    KAFKA_NULLABLE("Name", ONE, STRING, 0, KAFKA_ALL, 10, NULL),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_NULLABLE("Topics", ARRAY, STRUCT, 0, KAFKA_ALL, 1, request_topics),
    KAFKA_FIELD("AllowAutoTopicCreation", BOOL, 4, KAFKA_ALL),
    KAFKA_FIELD("IncludeClusterAuthorizedOperations", BOOL, 8, 10),
    KAFKA_FIELD("IncludeTopicAuthorizedOperations", BOOL, 8, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_brokers[] = {
    KAFKA_FIELD("NodeId", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("Host", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("Port", I32, 0, KAFKA_ALL),
    KAFKA_NULLABLE("Rack", ONE, STRING, 1, KAFKA_ALL, 1, NULL),
    KAFKA_END,
};

static const struct kafka_field response_topics_partitions[] = {
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("LeaderId", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("LeaderEpoch", I32, 7, KAFKA_ALL),
    KAFKA_ARRAY("ReplicaNodes", I32, 0, KAFKA_ALL, NULL),
    KAFKA_ARRAY("IsrNodes", I32, 0, KAFKA_ALL, NULL),
    KAFKA_ARRAY("OfflineReplicas", I32, 5, KAFKA_ALL, NULL),
    KAFKA_END,
};

static const struct kafka_field response_topics[] = {
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("Name", ONE, STRING, 0, KAFKA_ALL, 12, NULL),
    KAFKA_FIELD("TopicId", UUID, 10, KAFKA_ALL),
    KAFKA_FIELD("IsInternal", BOOL, 1, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, response_topics_partitions),
    KAFKA_FIELD("TopicAuthorizedOperations", I32, 8, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 3, KAFKA_ALL),
    KAFKA_ARRAY("Brokers", STRUCT, 0, KAFKA_ALL, response_brokers),
    KAFKA_NULLABLE("ClusterId", ONE, STRING, 2, KAFKA_ALL, 2, NULL),
    KAFKA_FIELD("ControllerId", I32, 1, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, response_topics),
    KAFKA_FIELD("ClusterAuthorizedOperations", I32, 8, 10),
    KAFKA_FIELD("ErrorCode", I16, 13, KAFKA_ALL),
    KAFKA_END,
};

const struct kafka_message kafka_metadata_request = {"MetadataRequest", 9, request};
const struct kafka_message kafka_metadata_response = {"MetadataResponse", 9, response};
