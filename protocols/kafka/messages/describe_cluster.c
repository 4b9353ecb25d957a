/* DescribeCluster (API key 60): nodes and the cluster's id. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request[] = {
    KAFKA_FIELD("IncludeClusterAuthorizedOperations", BOOL, 0, KAFKA_ALL),
    KAFKA_FIELD("EndpointType", I8, 1, KAFKA_ALL),
    KAFKA_FIELD("IncludeFencedBrokers", BOOL, 2, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_brokers[] = {
    KAFKA_FIELD("BrokerId", I32, 0, KAFKA_ALL),  KAFKA_FIELD("Host", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("Port", I32, 0, KAFKA_ALL),      KAFKA_NULLABLE("Rack", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_FIELD("IsFenced", BOOL, 2, KAFKA_ALL), KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_FIELD("EndpointType", I8, 1, KAFKA_ALL),
    KAFKA_FIELD("ClusterId", STRING, 0, KAFKA_ALL),
    KAFKA_FIELD("ControllerId", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("Brokers", STRUCT, 0, KAFKA_ALL, response_brokers),
    KAFKA_FIELD("ClusterAuthorizedOperations", I32, 0, KAFKA_ALL),
    KAFKA_END,
};

const struct kafka_message kafka_describe_cluster_request = {"DescribeClusterRequest", 0, request};
const struct kafka_message kafka_describe_cluster_response = {"DescribeClusterResponse", 0, response};
