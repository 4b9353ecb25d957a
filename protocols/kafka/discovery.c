/* How clients find their way: ApiVersions 0-4, Metadata 0-13, FindCoordinator 0-6, DescribeCluster 0-2. Who serves what is
 * cluster.c's; on a node alone every answer names it. */
#include "protocols/kafka/session.h"

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/commands.h"

/* AclOperation bits of KIP-430, all that exist for the resource: nobody is refused anything yet. */
#define TOPIC_OPERATIONS 0x0df8
#define CLUSTER_OPERATIONS 0x1fa0
#define NOT_ASKED INT32_MIN

/* ---- ApiVersions -------------------------------------------------------------------------------------- */

/* KIP-511: [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])? */
static bool software_name_ok(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = s.data[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

        if (!alnum && (i == 0 || i == s.len - 1 || (c != '-' && c != '.')))
            return false;
    }
    return s.len != 0;
}

int kafka_handle_api_versions(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_reply r;
    struct kin in;
    struct kout *o;
    bool ok = true;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    if (rq->version >= 3)
        ok = software_name_ok(kin_string(&in, "ClientSoftwareName")) &&
             software_name_ok(kin_string(&in, "ClientSoftwareVersion"));
    o = kafka_reply_begin(s, rq, &r);
    kout_i16(o, "ErrorCode", ok ? KAFKA_ERR_NONE : KAFKA_ERR_INVALID_REQUEST);
    kout_array(o, "ApiKeys");
    for (unsigned i = 0; ok && i < kafka_api_count; i++) {
        kout_item(o);
        kout_i16(o, "ApiKey", kafka_apis[i].key);
        kout_i16(o, "MinVersion", kafka_apis[i].first);
        kout_i16(o, "MaxVersion", kafka_apis[i].last);
    }
    kout_array_end(o);
    kout_i32(o, "ThrottleTimeMs", 0);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

/* ---- Metadata ----------------------------------------------------------------------------------------- */

/* Topics made because somebody asked for them; the request runs again when all are there, or have failed. */
struct auto_create {
    struct kafka_async async;
    unsigned open; /* proposals not answered yet */
    int err;
};

struct auto_topic {
    struct topology_proposal proposal;
    struct auto_create *all;
};

static void topic_was_created(struct topology_proposal *p)
{
    struct auto_topic *t = CONTAINER_OF(p, struct auto_topic, proposal);
    struct auto_create *all = t->all;

    if (p->err != 0 && p->err != ERR_EXISTS)
        all->err = p->err;
    buf_fini(&p->command);
    mem_free(t);
    if (--all->open != 0)
        return;
    kafka_retry(&all->async, all->err);
    mem_free(all);
}

static void create_topic(struct kafka_session *s, struct auto_create **all, struct slice name)
{
    struct auto_topic *t = mem_zalloc(sizeof(*t));
    uint8_t uuid[16];

    if (*all == NULL) {
        *all = mem_zalloc(sizeof(**all));
        kafka_retry_later(s, &(*all)->async);
    }
    rand_secure(uuid, sizeof(uuid));
    t->all = *all;
    t->all->open++;
    t->proposal.worker = s->conn->worker;
    t->proposal.done = topic_was_created;
    topo_cmd_topic_create(&t->proposal.command, name, uuid, (uint32_t)KAFKA_CONFIG(s, kafka_num_partitions),
                          -1, SLICE_NONE);
    topology_propose(s->front->options.topology, &t->proposal);
}

/* KIP-4's auto-creation: when the client allows it and so do we. True: the request is run again. */
static bool create_missing(struct kafka_session *s, const struct kafka_request *rq)
{
    const struct topology *v = kafka_view(s);
    struct auto_create *all = NULL;
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Topics");
    while (kin_item(&in)) {
        struct slice name = kin_string(&in, "Name");

        if (name.data != NULL && kafka_topic_name_ok(name) && !kafka_topic_is_reserved(name) &&
            topo_topic_find(v, name) == NULL)
            create_topic(s, &all, name);
    }
    return all != NULL;
}

static bool may_create(const struct kafka_session *s, const struct kafka_request *rq)
{
    struct kin in;

    if (s->retried || !KAFKA_CONFIG(s, kafka_auto_create_topics) ||
        !log_store_may_grow(s->front->options.logs))
        return false;
    kin_init(&in, rq->api->request, rq->version, rq->body);
    return kin_bool(&in, "AllowAutoTopicCreation", true);
}

struct metadata {
    struct kafka_session *s;
    struct kout *o;
    bool operations; /* asked for */
};

static void put_broker(const struct kafka_broker *b, void *arg)
{
    struct metadata *m = arg;
    struct kout *o = m->o;

    if (b->fenced && !kafka_left_lately(m->s, (uint32_t)b->id))
        return;
    kout_item(o);
    kout_i32(o, "NodeId", b->id);
    kout_str(o, "Host", b->at.host);
    kout_i32(o, "Port", b->at.port);
    kout_string(o, "Rack", b->rack);
}

static void put_brokers(struct metadata *m)
{
    kout_array(m->o, "Brokers");
    kafka_each_broker(m->s, true, put_broker, m);
    kout_array_end(m->o);
}

static void put_nodes(struct kout *o, const char *name, const struct topo_replica_set *set)
{
    kout_list(o, name);
    for (unsigned i = 0; i < set->count; i++)
        kout_elem_i32(o, (int32_t)set->nodes[i]);
    kout_list_end(o);
}

/* Leader, epoch and sets of the partition that owns it. */
static void put_partition(struct metadata *m, const struct topo_topic *t, uint32_t index)
{
    uint32_t partition = placement_of_topic(t->name, index, m->s->front->partition_count);
    struct kafka_leadership l = kafka_leadership_of(m->s, partition);
    struct topo_replica_set replicas = {0}, insync = {0}, offline = {0};
    struct kout *o = m->o;

    if (l.record != NULL) {
        replicas = topo_replicas(l.record);
        insync = topo_insync(l.record);
    } else if (l.leader >= 0) {
        (void)topo_set_add(&replicas, (uint32_t)l.leader);
        insync = replicas;
    }
    for (unsigned i = 0; i < replicas.count; i++)
        if (!kafka_node_is_up(m->s, replicas.nodes[i]))
            (void)topo_set_add(&offline, replicas.nodes[i]);
    kout_item(o);
    kout_i16(o, "ErrorCode", l.leader < 0 ? KAFKA_ERR_LEADER_NOT_AVAILABLE : 0);
    kout_i32(o, "PartitionIndex", (int32_t)index);
    kout_i32(o, "LeaderId", l.leader);
    kout_i32(o, "LeaderEpoch", l.epoch);
    put_nodes(o, "ReplicaNodes", &replicas);
    put_nodes(o, "IsrNodes", &insync);
    put_nodes(o, "OfflineReplicas", &offline);
}

static bool put_topic(const struct topo_topic *t, void *arg)
{
    struct metadata *m = arg;
    struct kout *o = m->o;

    kout_item(o);
    kout_i16(o, "ErrorCode", 0);
    kout_string(o, "Name", t->name);
    kout_uuid(o, "TopicId", t->uuid);
    kout_bool(o, "IsInternal", false);
    kout_array(o, "Partitions");
    for (uint32_t i = 0; i < t->partitions; i++)
        put_partition(m, t, i);
    kout_array_end(o);
    kout_i32(o, "TopicAuthorizedOperations", m->operations ? TOPIC_OPERATIONS : NOT_ASKED);
    return true;
}

static void put_no_topic(struct metadata *m, int16_t code, struct slice name, const uint8_t *uuid)
{
    struct kout *o = m->o;

    kout_item(o);
    kout_i16(o, "ErrorCode", code);
    kout_string(o, "Name", name);
    kout_uuid(o, "TopicId", uuid);
    kout_bool(o, "IsInternal", false);
    kout_array(o, "Partitions");
    kout_array_end(o);
    kout_i32(o, "TopicAuthorizedOperations", NOT_ASKED);
}

static void put_wanted_topic(struct metadata *m, struct slice name, const uint8_t *uuid)
{
    static const uint8_t zero[16];
    bool by_id = uuid != NULL && memcmp(uuid, zero, 16) != 0;
    struct kafka_topic_ref ref = {name, by_id ? uuid : NULL};
    const struct topo_topic *t = kafka_topic_resolve(kafka_view(m->s), &ref);

    if (t != NULL)
        (void)put_topic(t, m);
    else if (by_id)
        put_no_topic(m, KAFKA_ERR_UNKNOWN_TOPIC_ID, SLICE_NONE, uuid);
    else
        put_no_topic(m,
                     kafka_topic_name_ok(name) && !kafka_topic_is_reserved(name)
                         ? KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION
                         : KAFKA_ERR_INVALID_TOPIC_EXCEPTION,
                     name, NULL);
}

static bool topic_waits(const struct kafka_session *s, const struct topo_topic *t)
{
    for (uint32_t i = 0; t != NULL && i < t->partitions; i++)
        if (kafka_election_is_due(s, placement_of_topic(t->name, i, s->front->partition_count)))
            return true;
    return false;
}

/* Whether a topic that is asked for by name or id has a partition without a leader that lives: the answer can wait for its election. */
static bool waits_for_election(const struct kafka_session *s, const struct kafka_request *rq)
{
    static const uint8_t zero[16];
    bool waits = false;
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Topics");
    while (!waits && kin_item(&in)) {
        const uint8_t *uuid = kin_uuid(&in, "TopicId");
        struct kafka_topic_ref ref = {kin_string(&in, "Name"), uuid != NULL && memcmp(uuid, zero, 16) != 0 ? uuid : NULL};

        waits = topic_waits(s, kafka_topic_resolve(kafka_view(s), &ref));
    }
    return waits;
}

static bool names_topics(const struct kafka_request *rq)
{
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    return kin_array(&in, "Topics") > 0;
}

int kafka_handle_metadata(struct kafka_session *s, struct kafka_request *rq)
{
    struct metadata m = {.s = s};
    struct kafka_reply r;
    struct kin in, flags;
    char cluster_id[23];
    bool cluster_operations;
    int64_t n;

    /* Who asks for all topics looks around, and is shown what was known last. */
    if (kafka_is_cut_off(s) && names_topics(rq))
        return ERR_CLOSED;
    if (kafka_wait_answers(s) != 0 || (may_create(s, rq) && create_missing(s, rq)))
        return KAFKA_RETRY;
    if (waits_for_election(s, rq))
        return kafka_wait_election(s);
    kin_init(&flags, rq->api->request, rq->version, rq->body);
    cluster_operations = kin_bool(&flags, "IncludeClusterAuthorizedOperations", false);
    m.operations = kin_bool(&flags, "IncludeTopicAuthorizedOperations", false);
    kafka_cluster_id_text(s, cluster_id);
    m.o = kafka_reply_begin(s, rq, &r);
    kout_i32(m.o, "ThrottleTimeMs", 0);
    put_brokers(&m);
    kout_str(m.o, "ClusterId", cluster_id);
    kout_i32(m.o, "ControllerId", kafka_node_id(s));
    kin_init(&in, rq->api->request, rq->version, rq->body);
    n = kin_array(&in, "Topics");
    kout_array(m.o, "Topics");
    if (n < 0 || (n == 0 && rq->version == 0)) {
        topo_each_topic(kafka_view(s), put_topic, &m);
    } else {
        while (kin_item(&in)) {
            const uint8_t *uuid = kin_uuid(&in, "TopicId");

            put_wanted_topic(&m, kin_string(&in, "Name"), uuid);
        }
    }
    kout_array_end(m.o);
    kout_i32(m.o, "ClusterAuthorizedOperations", cluster_operations ? CLUSTER_OPERATIONS : NOT_ASKED);
    kout_i16(m.o, "ErrorCode", 0);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

/* ---- FindCoordinator ---------------------------------------------------------------------------------- */

enum { COORDINATOR_GROUP, COORDINATOR_TRANSACTION };

static int16_t coordinator_code(int8_t type, struct slice key, const char **ret_why)
{
    *ret_why = NULL;
    if (type == COORDINATOR_GROUP && key.len != 0)
        return 0;
    if (type == COORDINATOR_GROUP) {
        *ret_why = kafka_error_text(KAFKA_ERR_INVALID_GROUP_ID);
        return KAFKA_ERR_INVALID_GROUP_ID;
    }
    *ret_why = type == COORDINATOR_TRANSACTION ? "transactions are not served by this version"
                                               : "there is no coordinator of this type";
    return type == COORDINATOR_TRANSACTION ? KAFKA_ERR_UNSUPPORTED_VERSION : KAFKA_ERR_INVALID_REQUEST;
}

struct coordinator {
    int32_t node; /* -1: see code */
    struct kafka_endpoint at;
    int16_t code;
    const char *why;
};

static void find_coordinator(const struct kafka_session *s, int8_t type, struct slice key, struct coordinator *ret)
{
    *ret = (struct coordinator){.node = -1, .at.port = 0};
    ret->code = coordinator_code(type, key, &ret->why);
    if (ret->code != 0)
        return;
    ret->node = kafka_leadership_of(s, kafka_group_partition(s, key)).leader;
    if (ret->node >= 0 && kafka_endpoint_of_node(s, ret->node, &ret->at))
        return;
    ret->node = -1;
    ret->code = KAFKA_ERR_COORDINATOR_NOT_AVAILABLE;
    ret->why = "the group's partition has no leader at the moment";
}

static void put_coordinator(struct kout *o, const struct coordinator *c)
{
    kout_i32(o, "NodeId", c->node);
    kout_str(o, "Host", c->code == 0 ? c->at.host : "");
    kout_i32(o, "Port", c->code == 0 ? c->at.port : -1);
}

/* As for Metadata. */
static bool coordinator_waits(const struct kafka_session *s, const struct kafka_request *rq)
{
    bool waits;
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    waits = kafka_election_is_due(s, kafka_group_partition(s, kin_string(&in, "Key")));
    for (int64_t n = kin_list(&in, "CoordinatorKeys"); n > 0; n--)
        waits |= kafka_election_is_due(s, kafka_group_partition(s, kin_elem_string(&in)));
    return waits;
}

int kafka_handle_find_coordinator(struct kafka_session *s, struct kafka_request *rq)
{
    struct coordinator c;
    struct kafka_reply r;
    struct kin in;
    struct slice key;
    struct kout *o;
    int8_t type;
    int64_t n;

    if (kafka_is_cut_off(s))
        return ERR_CLOSED;
    if (kafka_wait_answers(s) != 0)
        return KAFKA_RETRY;
    if (coordinator_waits(s, rq))
        return kafka_wait_election(s);
    kin_init(&in, rq->api->request, rq->version, rq->body);
    key = kin_string(&in, "Key");
    type = kin_i8(&in, "KeyType", COORDINATOR_GROUP);
    find_coordinator(s, type, key, &c);
    o = kafka_reply_begin(s, rq, &r);
    kout_i32(o, "ThrottleTimeMs", 0);
    kout_i16(o, "ErrorCode", c.code);
    kout_str(o, "ErrorMessage", c.why);
    put_coordinator(o, &c);
    kout_array(o, "Coordinators");
    for (n = kin_list(&in, "CoordinatorKeys"); n > 0; n--) {
        key = kin_elem_string(&in);
        find_coordinator(s, type, key, &c);
        kout_item(o);
        kout_string(o, "Key", key);
        put_coordinator(o, &c);
        kout_i16(o, "ErrorCode", c.code);
        kout_str(o, "ErrorMessage", c.why);
    }
    kout_array_end(o);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

/* ---- DescribeCluster ---------------------------------------------------------------------------------- */

static void put_described_broker(const struct kafka_broker *b, void *arg)
{
    struct kout *o = arg;

    kout_item(o);
    kout_i32(o, "BrokerId", b->id);
    kout_str(o, "Host", b->at.host);
    kout_i32(o, "Port", b->at.port);
    kout_string(o, "Rack", b->rack);
    kout_bool(o, "IsFenced", b->fenced);
}

int kafka_handle_describe_cluster(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_reply r;
    struct kin in;
    struct kout *o;
    char cluster_id[23];
    bool operations, fenced;
    int8_t type;
    bool ok;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    operations = kin_bool(&in, "IncludeClusterAuthorizedOperations", false);
    type = kin_i8(&in, "EndpointType", 1);
    fenced = kin_bool(&in, "IncludeFencedBrokers", false);
    ok = type == 1; /* 2 asks for controllers, which have no listener of their own */
    kafka_cluster_id_text(s, cluster_id);
    o = kafka_reply_begin(s, rq, &r);
    kout_i32(o, "ThrottleTimeMs", 0);
    kout_i16(o, "ErrorCode", ok ? 0 : KAFKA_ERR_INVALID_REQUEST);
    kout_str(o, "ErrorMessage", ok ? NULL : "only brokers can be described");
    kout_i8(o, "EndpointType", 1);
    kout_str(o, "ClusterId", cluster_id);
    kout_i32(o, "ControllerId", kafka_node_id(s));
    kout_array(o, "Brokers");
    if (ok)
        kafka_each_broker(s, fenced, put_described_broker, o);
    kout_array_end(o);
    kout_i32(o, "ClusterAuthorizedOperations", operations ? CLUSTER_OPERATIONS : NOT_ASKED);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}
