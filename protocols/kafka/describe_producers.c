/* DescribeProducers 0 (KIP-664): the idempotent producers a topic partition remembers. Two walks over the
 * request: the first finds which streams have to be opened, the second answers. */
#include "protocols/kafka/session.h"

/* A partition may be named again and again: beyond this many bytes the rest of the answer is refused. */
#define ANSWER_MAX (16u << 20)

static void put_producer(const struct stream_producer *p, void *arg)
{
    struct kout *o = arg;

    kout_item(o);
    kout_i64(o, "ProducerId", p->id);
    kout_i32(o, "ProducerEpoch", p->epoch);
    kout_i32(o, "LastSequence", p->last_sequence);
    kout_i64(o, "LastTimestamp", p->last_timestamp);
    kout_i32(o, "CoordinatorEpoch", -1); /* both belong to transactions */
    kout_i64(o, "CurrentTxnStartOffset", -1);
}

static void put_partition(struct kafka_session *s, const struct topo_topic *t, int32_t index, size_t begin,
                          struct kout *o)
{
    struct kafka_open *open = NULL;
    const char *why = NULL;
    int16_t code;
    struct stream *st = kafka_stream_of(s, t, index, &open, &code);

    if (open != NULL) { /* it was open a moment ago */
        kafka_open_drop(open);
        code = KAFKA_ERR_NOT_LEADER_OR_FOLLOWER;
    }
    if (t == NULL)
        why = kafka_error_text(code);
    if (code == 0 && o->b->len - begin > ANSWER_MAX) {
        code = KAFKA_ERR_INVALID_REQUEST;
        why = "too many producers for one answer";
    }
    kout_item(o);
    kout_i32(o, "PartitionIndex", index);
    kout_i16(o, "ErrorCode", code);
    kout_str(o, "ErrorMessage", why);
    kout_array(o, "ActiveProducers");
    if (code == 0)
        stream_each_producer(st, put_producer, o);
    kout_array_end(o);
    stream_unref(st);
}

int kafka_handle_describe_producers(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_open *open = NULL;
    struct kafka_reply r;
    struct kout *o;
    struct kin in;
    size_t begin;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Topics");
    while (kin_item(&in)) {
        const struct topo_topic *t = topo_topic_find(kafka_view(s), kin_string(&in, "Name"));

        for (int64_t n = kin_list(&in, "PartitionIndexes"); n > 0; n--) {
            int16_t code;

            stream_unref(kafka_stream_of(s, t, kin_elem_i32(&in), &open, &code));
        }
    }
    if (open != NULL)
        return kafka_open_start(s, open);

    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Topics");
    o = kafka_reply_begin(s, rq, &r);
    begin = o->b->len;
    kout_i32(o, "ThrottleTimeMs", 0);
    kout_array(o, "Topics");
    while (kin_item(&in)) {
        struct slice name = kin_string(&in, "Name");
        const struct topo_topic *t = topo_topic_find(kafka_view(s), name);

        kout_item(o);
        kout_string(o, "Name", name);
        kout_array(o, "Partitions");
        for (int64_t n = kin_list(&in, "PartitionIndexes"); n > 0; n--)
            put_partition(s, t, kin_elem_i32(&in), begin, o);
        kout_array_end(o);
    }
    kout_array_end(o);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}
