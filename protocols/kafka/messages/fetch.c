/* Fetch (API key 1): record batches out. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_replica_state[] = {
    KAFKA_FIELD("ReplicaId", I32, 15, KAFKA_ALL),
    KAFKA_FIELD("ReplicaEpoch", I64, 15, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field request_topics_partitions[] = {
    KAFKA_FIELD("Partition", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("CurrentLeaderEpoch", I32, 9, KAFKA_ALL),
    KAFKA_FIELD("FetchOffset", I64, 0, KAFKA_ALL),
    KAFKA_FIELD("LastFetchedEpoch", I32, 12, KAFKA_ALL),
    KAFKA_FIELD("LogStartOffset", I64, 5, KAFKA_ALL),
    KAFKA_FIELD("PartitionMaxBytes", I32, 0, KAFKA_ALL),
    KAFKA_TAGGED("ReplicaDirectoryId", ONE, UUID, 17, KAFKA_ALL, 0, NULL),
    KAFKA_TAGGED("HighWatermark", ONE, I64, 18, KAFKA_ALL, 1, NULL),
    KAFKA_END,
};

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Topic", STRING, 0, 12),
    KAFKA_FIELD("TopicId", UUID, 13, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, request_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field request_forgotten_topics_data[] = {
    KAFKA_FIELD("Topic", STRING, 7, 12),
    KAFKA_FIELD("TopicId", UUID, 13, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", I32, 7, KAFKA_ALL, NULL),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_TAGGED("ClusterId", ONE, STRING, 12, KAFKA_ALL, 0, NULL),
    KAFKA_FIELD("ReplicaId", I32, 0, 14),
    KAFKA_TAGGED("ReplicaState", ONE, STRUCT, 15, KAFKA_ALL, 1, request_replica_state),
    KAFKA_FIELD("MaxWaitMs", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("MinBytes", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("MaxBytes", I32, 3, KAFKA_ALL),
    KAFKA_FIELD("IsolationLevel", I8, 4, KAFKA_ALL),
    KAFKA_FIELD("SessionId", I32, 7, KAFKA_ALL),
    KAFKA_FIELD("SessionEpoch", I32, 7, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, request_topics),
    KAFKA_ARRAY("ForgottenTopicsData", STRUCT, 7, KAFKA_ALL, request_forgotten_topics_data),
    KAFKA_FIELD("RackId", STRING, 11, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_responses_partitions_diverging_epoch[] = {
    KAFKA_FIELD("Epoch", I32, 12, KAFKA_ALL),
    KAFKA_FIELD("EndOffset", I64, 12, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_responses_partitions_current_leader[] = {
    KAFKA_FIELD("LeaderId", I32, 12, KAFKA_ALL),
    KAFKA_FIELD("LeaderEpoch", I32, 12, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_responses_partitions_snapshot_id[] = {
    KAFKA_FIELD("EndOffset", I64, 0, KAFKA_ALL),
    KAFKA_FIELD("Epoch", I32, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_responses_partitions_aborted_transactions[] = {
    KAFKA_FIELD("ProducerId", I64, 4, KAFKA_ALL),
    KAFKA_FIELD("FirstOffset", I64, 4, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_responses_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("HighWatermark", I64, 0, KAFKA_ALL),
    KAFKA_FIELD("LastStableOffset", I64, 4, KAFKA_ALL),
    KAFKA_FIELD("LogStartOffset", I64, 5, KAFKA_ALL),
    KAFKA_TAGGED("DivergingEpoch", ONE, STRUCT, 12, KAFKA_ALL, 0,
                 response_responses_partitions_diverging_epoch),
    KAFKA_TAGGED("CurrentLeader", ONE, STRUCT, 12, KAFKA_ALL, 1,
                 response_responses_partitions_current_leader),
    KAFKA_TAGGED("SnapshotId", ONE, STRUCT, 12, KAFKA_ALL, 2, response_responses_partitions_snapshot_id),
    KAFKA_NULLABLE("AbortedTransactions", ARRAY, STRUCT, 4, KAFKA_ALL, 4,
                   response_responses_partitions_aborted_transactions),
    KAFKA_FIELD("PreferredReadReplica", I32, 11, KAFKA_ALL),
    KAFKA_NULLABLE("Records", ONE, RECORDS, 0, KAFKA_ALL, 0, NULL),
    KAFKA_END,
};

static const struct kafka_field response_responses[] = {
    KAFKA_FIELD("Topic", STRING, 0, 12),
    KAFKA_FIELD("TopicId", UUID, 13, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, response_responses_partitions),
    KAFKA_END,
};

static const struct kafka_field response_node_endpoints[] = {
    KAFKA_FIELD("NodeId", I32, 16, KAFKA_ALL),
    KAFKA_FIELD("Host", STRING, 16, KAFKA_ALL),
    KAFKA_FIELD("Port", I32, 16, KAFKA_ALL),
    KAFKA_NULLABLE("Rack", ONE, STRING, 16, KAFKA_ALL, 16, NULL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 7, KAFKA_ALL),
    KAFKA_FIELD("SessionId", I32, 7, KAFKA_ALL),
    KAFKA_ARRAY("Responses", STRUCT, 0, KAFKA_ALL, response_responses),
    KAFKA_TAGGED("NodeEndpoints", ARRAY, STRUCT, 16, KAFKA_ALL, 0, response_node_endpoints),
    KAFKA_END,
};

const struct kafka_message kafka_fetch_request = {"FetchRequest", 12, request};
const struct kafka_message kafka_fetch_response = {"FetchResponse", 12, response};
