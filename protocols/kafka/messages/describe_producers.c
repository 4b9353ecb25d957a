/* DescribeProducers (API key 61): who writes to a topic partition. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("PartitionIndexes", I32, 0, KAFKA_ALL, NULL),
    KAFKA_END,
};

static const struct kafka_field request[] = {
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, request_topics),
    KAFKA_END,
};

static const struct kafka_field response_topics_partitions_active_producers[] = {
    KAFKA_FIELD("ProducerId", I64, 0, KAFKA_ALL),
    KAFKA_FIELD("ProducerEpoch", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("LastSequence", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("LastTimestamp", I64, 0, KAFKA_ALL),
    KAFKA_FIELD("CoordinatorEpoch", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("CurrentTxnStartOffset", I64, 0, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response_topics_partitions[] = {
    KAFKA_FIELD("PartitionIndex", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_NULLABLE("ErrorMessage", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_ARRAY("ActiveProducers", STRUCT, 0, KAFKA_ALL, response_topics_partitions_active_producers),
    KAFKA_END,
};

static const struct kafka_field response_topics[] = {
    KAFKA_FIELD("Name", STRING, 0, KAFKA_ALL),
    KAFKA_ARRAY("Partitions", STRUCT, 0, KAFKA_ALL, response_topics_partitions),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 0, KAFKA_ALL),
    KAFKA_ARRAY("Topics", STRUCT, 0, KAFKA_ALL, response_topics),
    KAFKA_END,
};

const struct kafka_message kafka_describe_producers_request = {"DescribeProducersRequest", 0, request};
const struct kafka_message kafka_describe_producers_response = {"DescribeProducersResponse", 0, response};
