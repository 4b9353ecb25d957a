/* CreateTopics 2-7, DeleteTopics 1-6, CreatePartitions 0-3: proposals to the topology. Errors are a topic's
 * own, never the whole request's. */
#include "protocols/kafka/admin.h"
#include "protocols/kafka/config_table.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/commands.h"

#define PARTITIONS_MAX 100000

static const char *text_or_null(const char *why)
{
    return why[0] == '\0' ? NULL : why;
}

/* ---- CreateTopics ------------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

/* The names of the request, sorted; the caller frees them. */
static struct slice *sorted_names(const struct kafka_request *rq, size_t n)
{
    struct slice *names = mem_calloc(n + 1, sizeof(*names));
    struct kin in;
    size_t i = 0;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Topics");
    while (kin_item(&in))
        names[i++] = kin_string(&in, "Name");
    qsort(names, n, sizeof(*names), compare_names);
    return names;
}

/* Whether a name comes twice: Kafka refuses all of them, since neither can be meant. */
static bool named_twice(const struct slice *names, size_t n, struct slice name)
{
    const struct slice *at = bsearch(&name, names, n, sizeof(*names), compare_names);

    return at != NULL &&
           ((at > names && slice_eq(at[-1], name)) || (at + 1 < names + n && slice_eq(at[1], name)));
}

/* Placement is the owning partition's (rule 23): an assignment is valid when it says what is so. */
static bool names_the_replicas(const struct kafka_session *s, struct slice topic, uint32_t index, struct kin *in, int64_t nodes)
{
    struct kafka_leadership l = kafka_leadership_of(s, placement_of_topic(topic, index, s->front->partition_count));
    struct topo_replica_set are = {0}, told = {0};
    bool ok = nodes > 0;

    if (l.record != NULL)
        are = topo_replicas(l.record);
    else
        (void)topo_set_add(&are, (uint32_t)kafka_node_id(s));
    for (; nodes > 0; nodes--) {
        int32_t node = kin_elem_i32(in);

        ok = node > 0 && !topo_set_has(&told, (uint32_t)node) && topo_set_add(&told, (uint32_t)node) && ok;
    }
    return ok && topo_set_equal(&are, &told);
}

/* A manual assignment: contiguous partitions from 0. Returns their number, -1 for none, or < -1 when it is not valid. */
static int32_t read_assignments(const struct kafka_session *s, struct kin *in, struct slice topic)
{
    int64_t n = kin_array(in, "Assignments");
    bool ok = true;
    int64_t sum = 0;

    while (kin_item(in)) {
        int32_t index = kin_i32(in, "PartitionIndex", 0);
        int64_t nodes = kin_list(in, "BrokerIds");

        ok = names_the_replicas(s, topic, (uint32_t)index, in, nodes) && index >= 0 && index < n && ok;
        sum += index;
    }
    if (n <= 0)
        return -1;
    return ok && sum == n * (n - 1) / 2 ? (int32_t)MIN_OF(n, (int64_t)INT32_MAX) : -2;
}

static bool count_node(const struct topo_node *n, void *arg)
{
    (void)n;
    ++*(int *)arg;
    return true;
}

static int node_count(const struct kafka_session *s)
{
    int n = 0;

    topo_each_node(kafka_view(s), count_node, &n);
    return MAX_OF(n, 1);
}

/* What a topic has in truth, whatever was asked for: the replicas of the partition that owns its first. */
static int16_t real_factor(const struct kafka_session *s, struct slice topic)
{
    struct kafka_leadership l = kafka_leadership_of(s, placement_of_topic(topic, 0, s->front->partition_count));

    return l.record == NULL ? 1 : (int16_t)topo_replicas(l.record).count;
}

static void read_configs(struct kin *in, struct kafka_admin_item *item, struct buf *pairs)
{
    (void)kin_array(in, "Configs");
    while (kin_item(in)) {
        struct slice name = kin_string(in, "Name"), value = kin_string(in, "Value");
        char why[KAFKA_ADMIN_WHY];

        if (item->code != 0)
            continue;
        if (kafka_topic_config_check(name, value, why, sizeof(why)) != 0)
            kafka_admin_fail(item, KAFKA_ERR_INVALID_CONFIG, "%s", why);
        else
            kafka_config_pairs_put(pairs, name, value);
    }
}

static void check_new_topic(struct kafka_session *s, bool twice, struct kafka_admin_item *item,
                            struct slice name, int32_t partitions, int16_t factor, int32_t assigned)
{
    if (!kafka_topic_name_ok(name) || kafka_topic_is_reserved(name))
        kafka_admin_fail(item, KAFKA_ERR_INVALID_TOPIC_EXCEPTION, "%s",
                         kafka_error_text(KAFKA_ERR_INVALID_TOPIC_EXCEPTION));
    else if (twice)
        kafka_admin_fail(item, KAFKA_ERR_INVALID_REQUEST, "the request names the topic twice");
    else if (topo_topic_find(kafka_view(s), name) != NULL)
        kafka_admin_fail(item, KAFKA_ERR_TOPIC_ALREADY_EXISTS, "Topic '%.*s' already exists.", (int)name.len,
                         (const char *)name.data);
    else if (assigned < -1)
        kafka_admin_fail(item, KAFKA_ERR_INVALID_REPLICA_ASSIGNMENT, "%s",
                         kafka_error_text(KAFKA_ERR_INVALID_REPLICA_ASSIGNMENT));
    else if (assigned > 0 && (partitions != -1 || factor != -1))
        kafka_admin_fail(item, KAFKA_ERR_INVALID_REQUEST,
                         "with assignments, partitions and replication factor are both -1");
    else if (assigned < 0 && (partitions == 0 || partitions < -1 || partitions > PARTITIONS_MAX))
        kafka_admin_fail(item, KAFKA_ERR_INVALID_PARTITIONS, "%s",
                         kafka_error_text(KAFKA_ERR_INVALID_PARTITIONS));
    else if (assigned < 0 && (factor == 0 || factor < -1 || factor > node_count(s)))
        kafka_admin_fail(item, KAFKA_ERR_INVALID_REPLICATION_FACTOR,
                         "the replication factor is at most the number of nodes, which is %d", node_count(s));
    else if (!log_store_may_grow(s->front->options.logs))
        kafka_admin_fail(item, KAFKA_ERR_KAFKA_STORAGE_ERROR, "the disk is full");
}

static void put_topic_configs(struct kafka_session *s, struct kout *o, struct slice pairs)
{
    kout_array(o, "Configs");
    for (unsigned i = 0; i < kafka_topic_config_count(); i++) {
        const struct kafka_config_row *row = kafka_topic_config_row(i);
        char text[KAFKA_CONFIG_TEXT];
        enum kafka_config_source source = kafka_topic_config_default(s->front->options.config, row, text);
        struct slice set = kafka_config_pairs_get(pairs, slice_str(row->name));

        kout_item(o);
        kout_str(o, "Name", row->name);
        kout_string(o, "Value", set.data != NULL ? set : slice_str(text));
        kout_bool(o, "ReadOnly", false);
        kout_i8(o, "ConfigSource", (int8_t)(set.data != NULL ? KAFKA_SOURCE_TOPIC : source));
        kout_bool(o, "IsSensitive", false);
    }
    kout_array_end(o);
}

static void create_finish(struct kafka_session *s, const struct kafka_request *rq, struct kafka_admin *a)
{
    struct kafka_reply r;
    struct kin in;
    struct kout *o = kafka_reply_begin(s, rq, &r);

    kin_init(&in, rq->api->request, rq->version, rq->body);
    kout_i32(o, "ThrottleTimeMs", 0);
    (void)kin_array(&in, "Topics");
    kout_array(o, "Topics");
    for (unsigned i = 0; kin_item(&in); i++) {
        struct kafka_admin_item *item = &a->items[i];
        struct buf pairs = {0};
        struct kafka_admin_item ignored = {0};
        bool ok = item->code == 0;
        struct slice name;

        name = kin_string(&in, "Name");
        kout_item(o);
        kout_string(o, "Name", name);
        kout_uuid(o, "TopicId", ok ? item->uuid : NULL);
        kout_i16(o, "ErrorCode", item->code);
        kout_str(o, "ErrorMessage", text_or_null(item->why));
        kout_i32(o, "NumPartitions", ok ? item->partitions : -1);
        kout_i16(o, "ReplicationFactor", ok ? real_factor(s, name) : -1);
        if (ok) {
            read_configs(&in, &ignored, &pairs);
            put_topic_configs(s, o, buf_slice(&pairs));
        } else {
            kout_array_null(o, "Configs");
        }
        buf_fini(&pairs);
    }
    kout_array_end(o);
    kafka_reply_end(s, &r);
}

int kafka_handle_create_topics(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_admin *a;
    struct kin in, flags;
    struct slice *names;
    bool validate_only;
    int64_t n;

    kin_init(&flags, rq->api->request, rq->version, rq->body);
    validate_only = kin_bool(&flags, "ValidateOnly", false);
    kin_init(&in, rq->api->request, rq->version, rq->body);
    n = kin_array(&in, "Topics");
    if (n > KAFKA_ADMIN_ITEMS_MAX)
        return ERR_TOO_LARGE;
    names = sorted_names(rq, (size_t)n);
    a = kafka_admin_begin(s, rq, (unsigned)n, create_finish);
    for (unsigned i = 0; kin_item(&in); i++) {
        struct kafka_admin_item *item = &a->items[i];
        struct slice name = kin_string(&in, "Name");
        int32_t partitions = kin_i32(&in, "NumPartitions", -1);
        int16_t factor = kin_i16(&in, "ReplicationFactor", -1);
        int32_t assigned = read_assignments(s, &in, name);
        struct buf pairs = {0};

        check_new_topic(s, named_twice(names, (size_t)n, name), item, name, partitions, factor, assigned);
        read_configs(&in, item, &pairs);
        if (item->code == 0) {
            item->partitions = assigned > 0       ? assigned
                               : partitions == -1 ? (int32_t)KAFKA_CONFIG(s, kafka_num_partitions)
                                                  : partitions;
            if (!validate_only) {
                rand_secure(item->uuid, sizeof(item->uuid));
                topo_cmd_topic_create(&item->proposal.command, name, item->uuid, (uint32_t)item->partitions,
                                      factor, buf_slice(&pairs));
                kafka_admin_propose(a, item);
            }
        }
        buf_fini(&pairs);
    }
    mem_free(names);
    return kafka_admin_run(a);
}

/* ---- DeleteTopics ------------------------------------------------------------------------------------- */

/* By name up to version 5, by name or id from 6 on. Calls fn for each, in order. */
static void each_deleted(struct kafka_session *s, const struct kafka_request *rq,
                         void (*fn)(struct kafka_session *s, unsigned i, struct slice name,
                                    const uint8_t *uuid, void *arg),
                         void *arg)
{
    struct kin in;
    unsigned i = 0;
    int64_t n;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Topics");
    while (kin_item(&in)) {
        struct slice name = kin_string(&in, "Name");

        fn(s, i++, name, kin_uuid(&in, "TopicId"), arg);
    }
    for (n = kin_list(&in, "TopicNames"); n > 0; n--)
        fn(s, i++, kin_elem_string(&in), NULL, arg);
}

static void count_one(struct kafka_session *s, unsigned i, struct slice name, const uint8_t *uuid, void *arg)
{
    (void)s;
    (void)name;
    (void)uuid;
    *(unsigned *)arg = i + 1;
}

static void delete_one(struct kafka_session *s, unsigned i, struct slice name, const uint8_t *uuid, void *arg)
{
    struct kafka_admin *a = arg;
    struct kafka_admin_item *item = &a->items[i];
    struct kafka_topic_ref ref = {name, name.data == NULL ? uuid : NULL};
    const struct topo_topic *t = kafka_topic_resolve(kafka_view(s), &ref);

    if (t == NULL) {
        int16_t code = name.data == NULL ? KAFKA_ERR_UNKNOWN_TOPIC_ID : KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION;

        kafka_admin_fail(item, code, "%s", kafka_error_text(code));
        return;
    }
    memcpy(item->uuid, t->uuid, 16);
    topo_cmd_topic_delete(&item->proposal.command, t->name);
    kafka_admin_propose(a, item);
}

struct deleted_reply {
    struct kafka_admin *a;
    struct kout *o;
};

static void put_deleted(struct kafka_session *s, unsigned i, struct slice name, const uint8_t *uuid,
                        void *arg)
{
    struct deleted_reply *d = arg;
    struct kafka_admin_item *item = &d->a->items[i];

    (void)s;
    kout_item(d->o);
    kout_string(d->o, "Name", name);
    kout_uuid(d->o, "TopicId", item->proposed ? item->uuid : uuid);
    kout_i16(d->o, "ErrorCode", item->code);
    kout_str(d->o, "ErrorMessage", text_or_null(item->why));
}

static void delete_finish(struct kafka_session *s, const struct kafka_request *rq, struct kafka_admin *a)
{
    struct kafka_reply r;
    struct deleted_reply d = {a, kafka_reply_begin(s, rq, &r)};

    kout_i32(d.o, "ThrottleTimeMs", 0);
    kout_array(d.o, "Responses");
    each_deleted(s, rq, put_deleted, &d);
    kout_array_end(d.o);
    kafka_reply_end(s, &r);
}

int kafka_handle_delete_topics(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_admin *a;
    unsigned n = 0;

    each_deleted(s, rq, count_one, &n);
    if (n > KAFKA_ADMIN_ITEMS_MAX)
        return ERR_TOO_LARGE;
    a = kafka_admin_begin(s, rq, n, delete_finish);
    each_deleted(s, rq, delete_one, a);
    return kafka_admin_run(a);
}

/* ---- CreatePartitions --------------------------------------------------------------------------------- */

static void grow_finish(struct kafka_session *s, const struct kafka_request *rq, struct kafka_admin *a)
{
    struct kafka_reply r;
    struct kin in;
    struct kout *o = kafka_reply_begin(s, rq, &r);

    kin_init(&in, rq->api->request, rq->version, rq->body);
    kout_i32(o, "ThrottleTimeMs", 0);
    (void)kin_array(&in, "Topics");
    kout_array(o, "Results");
    for (unsigned i = 0; kin_item(&in); i++) {
        kout_item(o);
        kout_string(o, "Name", kin_string(&in, "Name"));
        kout_i16(o, "ErrorCode", a->items[i].code);
        kout_str(o, "ErrorMessage", text_or_null(a->items[i].why));
    }
    kout_array_end(o);
    kafka_reply_end(s, &r);
}

int kafka_handle_create_partitions(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_admin *a;
    struct kin in, flags;
    bool validate_only;
    int64_t n;

    kin_init(&flags, rq->api->request, rq->version, rq->body);
    validate_only = kin_bool(&flags, "ValidateOnly", false);
    kin_init(&in, rq->api->request, rq->version, rq->body);
    n = kin_array(&in, "Topics");
    if (n > KAFKA_ADMIN_ITEMS_MAX)
        return ERR_TOO_LARGE;
    a = kafka_admin_begin(s, rq, (unsigned)n, grow_finish);
    for (unsigned i = 0; kin_item(&in); i++) {
        struct kafka_admin_item *item = &a->items[i];
        struct slice name = kin_string(&in, "Name");
        int32_t count = kin_i32(&in, "Count", 0);
        int64_t assigned = kin_array(&in, "Assignments");
        const struct topo_topic *t = topo_topic_find(kafka_view(s), name);
        uint32_t index = t == NULL ? 0 : t->partitions;
        bool mine = true;

        while (kin_item(&in))
            mine = names_the_replicas(s, name, index++, &in, kin_list(&in, "BrokerIds")) && mine;
        if (t == NULL)
            kafka_admin_fail(item, KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION, "%s",
                             kafka_error_text(KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION));
        else if (count <= 0 || (uint32_t)count <= t->partitions || count > PARTITIONS_MAX)
            kafka_admin_fail(item, KAFKA_ERR_INVALID_PARTITIONS,
                             "Topic currently has %u partitions, %s than the requested %d.", t->partitions,
                             count > PARTITIONS_MAX ? "and may not have more" : "which is not lower", count);
        else if (assigned > 0 && (!mine || assigned != count - (int64_t)t->partitions))
            kafka_admin_fail(item, KAFKA_ERR_INVALID_REPLICA_ASSIGNMENT, "%s",
                             kafka_error_text(KAFKA_ERR_INVALID_REPLICA_ASSIGNMENT));
        else if (!validate_only) {
            topo_cmd_topic_partitions(&item->proposal.command, name, (uint32_t)count);
            kafka_admin_propose(a, item);
        }
    }
    return kafka_admin_run(a);
}
