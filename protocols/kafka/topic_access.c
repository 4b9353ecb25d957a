/* Topics as requests name them, and the streams behind them; this node as clients see it. */
#include "protocols/kafka/session.h"

#include <string.h>

#include "base/address.h"
#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

/* Kafka's rule: 1 to 249 of [a-zA-Z0-9._-], neither "." nor "..". */
bool kafka_topic_name_ok(struct slice name)
{
    if (name.len == 0 || name.len > 249 || slice_eq(name, SLICE_LIT(".")) || slice_eq(name, SLICE_LIT("..")))
        return false;
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.data[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
              c == '_' || c == '-'))
            return false;
    }
    return true;
}

/* Kafka's internal topics do not exist here; their names stay free of others. */
bool kafka_topic_is_reserved(struct slice name)
{
    return slice_eq(name, SLICE_LIT("__consumer_offsets")) ||
           slice_eq(name, SLICE_LIT("__transaction_state")) ||
           slice_eq(name, SLICE_LIT("__share_group_state")) ||
           slice_eq(name, SLICE_LIT("__cluster_metadata"));
}

const struct topo_topic *kafka_topic_resolve(const struct topology *v, const struct kafka_topic_ref *ref)
{
    if (ref->uuid != NULL)
        return topo_topic_by_uuid(v, ref->uuid);
    return ref->name.data == NULL ? NULL : topo_topic_find(v, ref->name);
}

void kafka_stream_place(const struct kafka_front *f, const struct topo_topic *t, uint32_t index,
                        struct stream_place *ret)
{
    *ret = (struct stream_place){
        .topic_id = t->id,
        .topic = t->name,
        .index = index,
        .partition = placement_of_topic(t->name, index, f->partition_count),
        .segment_bytes = topo_topic_config(t, "segment.bytes").data == NULL
                             ? 0
                             : (uint64_t)kafka_topic_number(f->options.config, t, "segment.bytes"),
    };
}

static struct stream *stream_for(struct kafka_session *s, const struct topo_topic *t, int32_t index, bool read,
                                 struct kafka_open **open, int16_t *ret_code)
{
    struct stream *st;
    struct stream_place place;
    uint32_t partition;

    *ret_code = KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION;
    if (t == NULL || index < 0 || (uint32_t)index >= t->partitions)
        return NULL;
    st = stream_find(s->front->options.streams, t->id, (uint32_t)index);
    partition = st != NULL ? stream_partition(st) : placement_of_topic(t->name, (uint32_t)index, s->front->partition_count);
    *ret_code = read ? kafka_reader_code(s, partition) : kafka_leader_code(s, partition);
    if (*ret_code != 0) {
        stream_unref(st);
        return NULL;
    }
    if (st != NULL)
        return st;
    if (s->retried) { /* opening it did not help */
        *ret_code = s->retry_err == 0 || s->retry_err == ERR_BUSY ? KAFKA_ERR_NOT_LEADER_OR_FOLLOWER
                                                                  : kafka_error_of(s->retry_err);
        return NULL;
    }
    kafka_stream_place(s->front, t, (uint32_t)index, &place);
    *open = kafka_open_add(*open, &place);
    return NULL;
}

struct stream *kafka_stream_of(struct kafka_session *s, const struct topo_topic *t, int32_t index,
                               struct kafka_open **open, int16_t *ret_code)
{
    return stream_for(s, t, index, false, open, ret_code);
}

struct stream *kafka_stream_to_read(struct kafka_session *s, const struct topo_topic *t, int32_t index,
                                    struct kafka_open **open, int16_t *ret_code)
{
    return stream_for(s, t, index, true, open, ret_code);
}

/* ---- this node ---------------------------------------------------------------------------------------- */

static bool split(const char *text, struct kafka_endpoint *ret)
{
    struct address a;

    if (address_parse(text, &a) != 0 || a.is_unix || a.host[0] == '\0')
        return false;
    memcpy(ret->host, a.host, sizeof(a.host));
    ret->port = a.port;
    return true;
}

/* `kafka.advertise`, else the address this connection came in by: never an empty host, never 0.0.0.0. An
 * advertised host without a port has this connection's. */
void kafka_endpoint_of(const struct kafka_session *s, struct kafka_endpoint *ret)
{
    const char *advertise = s->front->options.config->kafka_advertise;
    char local[128];
    bool here;

    conn_local_text(s->conn, local, sizeof(local));
    here = split(local, ret);
    if (!here)
        *ret = (struct kafka_endpoint){.host = "localhost",
                                       .port = 9092}; /* a unix socket: nobody can be sent there */
    if (advertise != NULL && advertise[0] != '\0') {
        struct kafka_endpoint told;

        if (split(advertise, &told)) {
            *ret = told;
        } else {
            size_t n = strlen(advertise);

            if (n < sizeof(ret->host))
                memcpy(ret->host, advertise, n + 1);
        }
    }
}

int32_t kafka_node_id(const struct kafka_session *s)
{
    return (int32_t)topology_node_id(s->front->options.topology);
}

void kafka_cluster_id_text(const struct kafka_session *s, char ret[23])
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const uint8_t *id = kafka_view(s)->cluster_id;

    for (unsigned i = 0; i < 22; i++) {
        unsigned bit = i * 6, v = (unsigned)id[bit / 8] << 8 | (bit / 8 + 1 < 16 ? id[bit / 8 + 1] : 0);

        ret[i] = letters[v >> (10 - bit % 8) & 63];
    }
    ret[22] = '\0';
}
