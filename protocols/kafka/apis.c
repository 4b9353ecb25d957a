/* The table of APIs; see apis.def. */
#include "protocols/kafka/api.h"

#include "base/check.h"

const struct kafka_api kafka_apis[] = {
#define X(NAME, key, first, last, base)                                                                      \
    {#NAME, key, first, last, &kafka_##base##_request, &kafka_##base##_response, kafka_handle_##base},
#include "protocols/kafka/apis.def"
#undef X
};
const unsigned kafka_api_count = ARRAY_LEN(kafka_apis);

const struct kafka_api *kafka_api_find(int key)
{
    for (unsigned i = 0; i < kafka_api_count; i++)
        if (kafka_apis[i].key == key)
            return &kafka_apis[i];
    return NULL;
}
