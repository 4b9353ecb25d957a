/* Produce (API key 0): record batches in. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topic_data_partition_data[] = {
    KAFKA_FIELD("Index", I32, 0, KAFKA_ALL),
    KAFKA_NULLABLE("Records", ONE, RECORDS, 0, KAFKA_ALL, 0, NULL),
    KAFKA_END,
};

static const struct kafka_field request_topic_data[] = {
    KAFKA_FIELD("Name", STRING, 0, 12),
    KAFKA_FIELD("TopicId", UUID, 13, KAFKA_ALL),
    KAFKA_ARRAY("PartitionData", STRUCT, 0, KAFKA_ALL, request_topic_data_partition_data),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_NULLABLE("TransactionalId", ONE, STRING, 3, KAFKA_ALL, 3, NULL),
    KAFKA_FIELD("Acks", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("TimeoutMs", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("TopicData", STRUCT, 0, KAFKA_ALL, request_topic_data),
    KAFKA_END,
};

static const struct kafka_field response_responses_partition_responses_record_errors[] = {
    KAFKA_FIELD("BatchIndex", I32, 8, KAFKA_ALL),
    KAFKA_NULLABLE("BatchIndexErrorMessage", ONE, STRING, 8, KAFKA_ALL, 8, NULL),
    KAFKA_END,
};

static const struct kafka_field response_responses_partition_responses_current_leader[] = {
    KAFKA_FIELD("LeaderId", I32, 10, KAFKA_ALL),
    KAFKA_FIELD("LeaderEpoch", I32, 10, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_responses_partition_responses[] = {
    KAFKA_FIELD("Index", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("BaseOffset", I64, 0, KAFKA_ALL),
    KAFKA_FIELD("LogAppendTimeMs", I64, 2, KAFKA_ALL),
    KAFKA_FIELD("LogStartOffset", I64, 5, KAFKA_ALL),
    KAFKA_ARRAY("RecordErrors", STRUCT, 8, KAFKA_ALL, response_responses_partition_responses_record_errors),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 8, KAFKA_ALL, 8, NULL),
    KAFKA_TAGGED("CurrentLeader", ONE, STRUCT, 10, KAFKA_ALL, 0,
                 response_responses_partition_responses_current_leader),
    KAFKA_END,
};

static const struct kafka_field response_responses[] = {
    KAFKA_FIELD("Name", STRING, 0, 12),
    KAFKA_FIELD("TopicId", UUID, 13, KAFKA_ALL),
    KAFKA_ARRAY("PartitionResponses", STRUCT, 0, KAFKA_ALL, response_responses_partition_responses),
    KAFKA_END,
};

static const struct kafka_field response_node_endpoints[] = {
    KAFKA_FIELD("NodeId", I32, 10, KAFKA_ALL),
    KAFKA_FIELD("Host", STRING, 10, KAFKA_ALL),
    KAFKA_FIELD("Port", I32, 10, KAFKA_ALL),
    KAFKA_NULLABLE("Rack", ONE, STRING, 10, KAFKA_ALL, 10, NULL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_ARRAY("Responses", STRUCT, 0, KAFKA_ALL, response_responses),
    KAFKA_FIELD("ThrottleTimeMs", I32, 1, KAFKA_ALL),
    KAFKA_TAGGED("NodeEndpoints", ARRAY, STRUCT, 10, KAFKA_ALL, 0, response_node_endpoints),
    KAFKA_END,
};

const struct kafka_message kafka_produce_request = {"ProduceRequest", 9, request};
const struct kafka_message kafka_produce_response = {"ProduceResponse", 9, response};
