/* InitProducerId (API key 22): an id for an idempotent producer. See message.h for what a row says. */
#include "protocols/kafka/message.h"

static const struct kafka_field request[] = {
    KAFKA_NULLABLE("TransactionalId", ONE, STRING, 0, KAFKA_ALL, 0, NULL),
    KAFKA_FIELD("TransactionTimeoutMs", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ProducerId", I64, 3, KAFKA_ALL),
    KAFKA_FIELD("ProducerEpoch", I16, 3, KAFKA_ALL),
    KAFKA_FIELD("Enable2Pc", BOOL, 6, KAFKA_ALL),
    KAFKA_FIELD("KeepPreparedTxn", BOOL, 6, KAFKA_ALL),
    KAFKA_END,
};

static const struct kafka_field response[] = {
    KAFKA_FIELD("ThrottleTimeMs", I32, 0, KAFKA_ALL),
    KAFKA_FIELD("ErrorCode", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("ProducerId", I64, 0, KAFKA_ALL),
    KAFKA_FIELD("ProducerEpoch", I16, 0, KAFKA_ALL),
    KAFKA_FIELD("OngoingTxnProducerId", I64, 6, KAFKA_ALL),
    KAFKA_FIELD("OngoingTxnProducerEpoch", I16, 6, KAFKA_ALL),
    KAFKA_END,
};

const struct kafka_message kafka_init_producer_id_request = {"InitProducerIdRequest", 2, request};
const struct kafka_message kafka_init_producer_id_response = {"InitProducerIdResponse", 2, response};
