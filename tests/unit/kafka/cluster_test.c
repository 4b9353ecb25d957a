/* The front end of one node of three: the others exist in the topology alone. What clients are told of the cluster, what this node
 * answers for partitions it leads, follows or lost, and what becomes of groups. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/commands.h"
#include "log/batch.h"
#include "log/effect.h"
#include "node.h"

#define PARTITIONS 8

static struct node n;
static struct client c;
static struct buf out;
static struct kout o;
static struct batch_builder builder;
static uint64_t epochs[4]; /* of nodes */

/* ---- the cluster ----------------------------------------------------------------------------------------- */

static void propose(struct topology_proposal *p)
{
    int err = topology_propose_wait(n.topology, p);

    cr_assert_eq(err, 0, "command %u: %s", p->command.data[0], err_name(err));
    buf_fini(&p->command);
}

static uint64_t epoch_of(uint32_t id)
{
    uint64_t epoch = topo_node_find(topology_pin(n.topology), id)->epoch;

    topology_unpin(n.topology);
    return epoch;
}

static void add_node(uint32_t id)
{
    struct topology_proposal p = {0};
    char host[16], rack[8];
    struct topo_node node = {.uuid = {(uint8_t)id, 7}, .level = EFFECT_LEVEL_MAX};

    snprintf(host, sizeof(host), "n%u.example", id);
    snprintf(rack, sizeof(rack), "r%u", id);
    node.name = slice_str(host);
    node.rack = slice_str(rack);
    node.endpoints[TOPO_KAFKA] = (struct topo_endpoint){slice_str(host), (uint16_t)(9000 + id)};
    node.endpoints[TOPO_BUS] = (struct topo_endpoint){slice_str(host), 9000};
    topo_cmd_node_enter(&p.command, &node, false);
    propose(&p);
    cr_assert_eq(p.id, id);
}

static void set_state(uint32_t id, enum topo_node_state state)
{
    struct topology_proposal p = {0};

    epochs[id] = epoch_of(id);
    topo_cmd_node_state(&p.command, id, epochs[id], state, 0);
    propose(&p);
}

static struct topo_partition record(uint32_t partition)
{
    struct topo_partition p = *topo_partition_at(topology_pin(n.topology), partition);

    topology_unpin(n.topology);
    return p;
}

static void change(uint32_t partition, uint32_t leader, const uint32_t *insync, unsigned count)
{
    struct topology_proposal p = {0};
    struct topo_partition now = record(partition);
    struct topo_partition_change ch;

    topo_change_of(&ch, &now);
    ch.leader = leader;
    ch.unclean = true;
    ch.replicas = (struct topo_replica_set){3, {1, 2, 3}};
    ch.insync = ch.eligible = ch.last_known = ch.adding = (struct topo_replica_set){0};
    for (unsigned i = 0; i < count; i++)
        topo_set_add(&ch.insync, insync[i]);
    topo_cmd_partition_change(&p.command, now.leader, &ch, 1);
    propose(&p);
}

static uint32_t leader_of(uint32_t partition)
{
    return partition % 3 + 1;
}

/* This node plays what the topology says. */
static void play(uint32_t partition, enum partition_role role)
{
    struct partition *p = partitions_get(n.partitions, partition);

    partition_set_role(p, role, record(partition).epoch);
    if (role < PARTITION_LEADER)
        stream_table_close_partition(n.streams, partition);
}

static void lead_again(uint32_t partition)
{
    play(partition, PARTITION_OPENING);
    play(partition, PARTITION_LEADER);
}

static void begin(void)
{
    static const uint32_t all[] = {1, 2, 3};

    node_init(&n);
    cr_assert_eq(topology_node_id(n.topology), 1);
    for (uint32_t id = 2; id <= 3; id++) {
        add_node(id);
        set_state(id, TOPO_NODE_ACTIVE);
    }
    if (topo_partition_at(topology_pin(n.topology), 0) == NULL) {
        struct topology_proposal p = {0};
        struct topo_replica_set sets[PARTITIONS];

        for (uint32_t i = 0; i < PARTITIONS; i++)
            sets[i] = (struct topo_replica_set){3, {1, 2, 3}};
        topo_cmd_partitions_place(&p.command, sets, PARTITIONS);
        propose(&p);
    }
    topology_unpin(n.topology);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        change(i, leader_of(i), all, 3);
        if (leader_of(i) != 1)
            play(i, PARTITION_FOLLOWER);
        else
            partition_set_role(partitions_get(n.partitions, i), PARTITION_LEADER, record(i).epoch);
    }
    client_open(&c, &n);
}

static void end(void)
{
    client_close(&c);
    node_fini(&n);
    buf_fini(&out);
    batch_builder_fini(&builder);
}

/* ---- requests ---------------------------------------------------------------------------------------------- */

static void request(int key, int version)
{
    client_begin(&c, &out, &o, key, version);
}

static void exchange(int key, int version)
{
    client_send(&c, &out);
    client_read(&c, key, version);
}

static void create(const char *name, int32_t partitions, int16_t factor, const char *config, const char *value, int16_t want, int16_t want_factor)
{
    request(KAFKA_API_CREATE_TOPICS, 7);
    kout_array(&o, "Topics");
    kout_item(&o);
    kout_str(&o, "Name", name);
    kout_i32(&o, "NumPartitions", partitions);
    kout_i16(&o, "ReplicationFactor", factor);
    kout_array(&o, "Assignments");
    kout_array_end(&o);
    kout_array(&o, "Configs");
    if (config != NULL) {
        kout_item(&o);
        kout_str(&o, "Name", config);
        kout_str(&o, "Value", value);
    }
    kout_array_end(&o);
    kout_array_end(&o);
    kout_i32(&o, "TimeoutMs", 1000);
    kout_bool(&o, "ValidateOnly", false);
    kout_end(&o);
    exchange(KAFKA_API_CREATE_TOPICS, 7);
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), want);
    cr_assert_eq(kin_i16(&c.in, "ReplicationFactor", -2), want_factor);
}

static uint32_t owner(const char *topic, uint32_t index)
{
    return placement_of_topic(slice_str(topic), index, PARTITIONS);
}

/* An index of the topic whose partition this node leads, or that another one leads. */
static int32_t index_led(const char *topic, uint32_t leader)
{
    for (uint32_t i = 0; i < PARTITIONS; i++)
        if (leader_of(owner(topic, i)) == leader)
            return (int32_t)i;
    cr_assert_fail();
    return -1;
}

static struct slice one_record(int64_t producer, int32_t sequence)
{
    batch_begin(&builder, clock_wall_ms());
    if (producer >= 0)
        batch_set_producer(&builder, producer, 0, sequence);
    batch_add(&builder, clock_wall_ms(), SLICE_NONE, slice_str("value"));
    return batch_finish(&builder);
}

static void send_produce(int version, int16_t acks, int32_t timeout_ms, const char *topic, int32_t index, struct slice records)
{
    bool flexible = version >= 9;

    client_begin(&c, &out, NULL, KAFKA_API_PRODUCE, version);
    kafka_put_string(&out, SLICE_NONE, flexible);
    buf_put_be16(&out, (uint16_t)acks);
    buf_put_be32(&out, (uint32_t)timeout_ms);
    kafka_put_len(&out, 1, flexible);
    kafka_put_string(&out, slice_str(topic), flexible);
    kafka_put_len(&out, 1, flexible);
    buf_put_be32(&out, (uint32_t)index);
    kafka_put_len(&out, (int64_t)records.len, flexible);
    buf_put_slice(&out, records);
    for (int i = 0; flexible && i < 3; i++)
        buf_put_u8(&out, 0);
    client_send(&c, &out);
}

static int16_t read_produced(int version, int64_t *ret_base)
{
    int16_t code;

    client_read(&c, KAFKA_API_PRODUCE, version);
    (void)kin_array(&c.in, "Responses");
    cr_assert(kin_item(&c.in));
    (void)kin_array(&c.in, "PartitionResponses");
    cr_assert(kin_item(&c.in));
    code = kin_i16(&c.in, "ErrorCode", -1);
    *ret_base = kin_i64(&c.in, "BaseOffset", -2);
    return code;
}

static int16_t produce(int16_t acks, const char *topic, int32_t index)
{
    int64_t base;

    send_produce(8, acks, 30000, topic, index, one_record(-1, 0));
    return read_produced(8, &base);
}

static bool answered(int within_ms)
{
    struct pollfd p = {.fd = c.fd, .events = POLLIN};

    return poll(&p, 1, within_ms) == 1;
}

static bool frame_has(const char *text)
{
    return memmem(c.frame.data, c.frame.len, text, strlen(text)) != NULL;
}

static struct log *log_of(const char *topic, int32_t index)
{
    uint64_t id = topo_topic_find(topology_pin(n.topology), slice_str(topic))->id;
    struct stream_place place = {.topic_id = id, .topic = slice_str(topic), .index = (uint32_t)index, .partition = owner(topic, (uint32_t)index)};
    struct stream *st;
    struct log *l;

    topology_unpin(n.topology);
    cr_assert_eq(stream_open(n.streams, &place, &st), 0);
    l = stream_log(st);
    stream_unref(st); /* the table keeps it */
    return l;
}

struct fetched {
    int16_t code;
    int64_t high_watermark;
    int32_t preferred;
    size_t bytes;
};

static void send_fetch(int version, int32_t wait_ms, const char *topic, int32_t index, int64_t offset, int32_t leader_epoch, int32_t last_epoch, const char *rack)
{
    request(KAFKA_API_FETCH, version);
    kout_i32(&o, "ReplicaId", -1);
    kout_i32(&o, "MaxWaitMs", wait_ms);
    kout_i32(&o, "MinBytes", 1);
    kout_i32(&o, "MaxBytes", 1 << 20);
    kout_i8(&o, "IsolationLevel", 0);
    kout_i32(&o, "SessionId", 0);
    kout_i32(&o, "SessionEpoch", -1);
    kout_array(&o, "Topics");
    kout_item(&o);
    kout_str(&o, "Topic", topic);
    {
        const struct topo_topic *t = topo_topic_find(topology_pin(n.topology), slice_str(topic));

        kout_uuid(&o, "TopicId", t->uuid);
        topology_unpin(n.topology);
    }
    kout_array(&o, "Partitions");
    kout_item(&o);
    kout_i32(&o, "Partition", index);
    kout_i32(&o, "CurrentLeaderEpoch", leader_epoch);
    kout_i64(&o, "FetchOffset", offset);
    kout_i32(&o, "LastFetchedEpoch", last_epoch);
    kout_i64(&o, "LogStartOffset", -1);
    kout_i32(&o, "PartitionMaxBytes", 1 << 20);
    kout_array_end(&o);
    kout_array_end(&o);
    kout_array(&o, "ForgottenTopicsData");
    kout_array_end(&o);
    kout_str(&o, "RackId", rack);
    kout_end(&o);
    client_send(&c, &out);
}

static struct fetched read_fetched(int version)
{
    struct fetched f = {0};

    client_read(&c, KAFKA_API_FETCH, version);
    (void)kin_array(&c.in, "Responses");
    cr_assert(kin_item(&c.in));
    (void)kin_array(&c.in, "Partitions");
    cr_assert(kin_item(&c.in));
    f.code = kin_i16(&c.in, "ErrorCode", -1);
    f.high_watermark = kin_i64(&c.in, "HighWatermark", -2);
    f.preferred = kin_i32(&c.in, "PreferredReadReplica", -2);
    f.bytes = kin_bytes(&c.in, "Records").len;
    return f;
}

static struct fetched fetch(int version, const char *topic, int32_t index, int64_t offset, int32_t leader_epoch, int32_t last_epoch, const char *rack)
{
    send_fetch(version, 0, topic, index, offset, leader_epoch, last_epoch, rack);
    return read_fetched(version);
}

/* ---- finding the way ------------------------------------------------------------------------------------------ */

static void send_metadata(const char *topic)
{
    request(KAFKA_API_METADATA, 9);
    kout_array(&o, "Topics");
    kout_item(&o);
    kout_uuid(&o, "TopicId", NULL);
    kout_str(&o, "Name", topic);
    kout_array_end(&o);
    kout_bool(&o, "AllowAutoTopicCreation", false);
    kout_bool(&o, "IncludeClusterAuthorizedOperations", false);
    kout_bool(&o, "IncludeTopicAuthorizedOperations", false);
    kout_end(&o);
    client_send(&c, &out);
}

static void metadata(const char *topic)
{
    send_metadata(topic);
    client_read(&c, KAFKA_API_METADATA, 9);
}

static unsigned read_brokers(void)
{
    unsigned count = 0;

    (void)kin_array(&c.in, "Brokers");
    while (kin_item(&c.in)) {
        int32_t id = kin_i32(&c.in, "NodeId", -1);
        struct slice host = kin_string(&c.in, "Host");
        int32_t port = kin_i32(&c.in, "Port", -1);
        struct slice rack = kin_string(&c.in, "Rack");
        char want[16];

        count++;
        if (id == 1) {
            cr_assert(slice_eq(host, slice_str("127.0.0.1")), "as the client reached it");
            cr_assert_eq(port, n.port);
            continue;
        }
        snprintf(want, sizeof(want), "n%d.example", id);
        cr_assert(slice_eq(host, slice_str(want)));
        cr_assert_eq(port, 9000 + id);
        cr_assert_eq(rack.len, 2);
    }
    return count;
}

static int64_t list_of(const char *name, int64_t want)
{
    int64_t count = kin_list(&c.in, name);

    cr_assert_eq(count, want, "%s", name);
    return count;
}

Test(kafka_cluster, metadata_names_all_nodes_leaders_and_sets)
{
    int64_t count;

    begin();
    create("t", 6, -1, NULL, NULL, 0, 3);
    metadata("t");
    cr_assert_eq(read_brokers(), 3);
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    cr_assert_eq(kin_array(&c.in, "Partitions"), 6);
    while (kin_item(&c.in)) {
        uint32_t index;

        cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
        index = (uint32_t)kin_i32(&c.in, "PartitionIndex", -1);
        cr_assert_eq(kin_i32(&c.in, "LeaderId", -1), leader_of(owner("t", index)));
        cr_assert_eq(kin_i32(&c.in, "LeaderEpoch", -1), record(owner("t", index)).epoch);
        for (count = list_of("ReplicaNodes", 3); count > 0; count--)
            (void)kin_elem_i32(&c.in);
        for (count = list_of("IsrNodes", 3); count > 0; count--)
            (void)kin_elem_i32(&c.in);
        cr_assert_eq(kin_list(&c.in, "OfflineReplicas"), 0);
    }
    end();
}

Test(kafka_cluster, a_fenced_node_vanishes_and_its_replicas_are_offline)
{
    int64_t count;

    begin();
    create("t", 6, -1, NULL, NULL, 0, 3);
    set_state(3, TOPO_NODE_FENCED);
    metadata("t");
    cr_assert_eq(read_brokers(), 2);
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    (void)kin_array(&c.in, "Partitions");
    while (kin_item(&c.in)) {
        cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
        cr_assert_neq(kin_i32(&c.in, "LeaderId", -1), 3);
        for (count = list_of("ReplicaNodes", 3); count > 0; count--)
            (void)kin_elem_i32(&c.in);
        for (count = list_of("IsrNodes", 2); count > 0; count--)
            cr_assert_neq(kin_elem_i32(&c.in), 3);
        cr_assert_eq(kin_list(&c.in, "OfflineReplicas"), 1);
        cr_assert_eq(kin_elem_i32(&c.in), 3);
    }
    /* DescribeCluster can name it nevertheless */
    request(KAFKA_API_DESCRIBE_CLUSTER, 2);
    kout_bool(&o, "IncludeClusterAuthorizedOperations", false);
    kout_i8(&o, "EndpointType", 1);
    kout_bool(&o, "IncludeFencedBrokers", true);
    kout_end(&o);
    exchange(KAFKA_API_DESCRIBE_CLUSTER, 2);
    cr_assert_eq(kin_array(&c.in, "Brokers"), 3);
    while (kin_item(&c.in)) {
        int32_t id = kin_i32(&c.in, "BrokerId", -1);

        cr_assert_eq(kin_bool(&c.in, "IsFenced", false), id == 3);
    }
    end();
}

/* A group whose partition this node leads, or another does. */
static const char *group_led(uint32_t leader)
{
    static char name[16];

    for (unsigned i = 0;; i++) {
        snprintf(name, sizeof(name), "group-%u", i);
        if (leader_of(placement_of_group(slice_str(name), PARTITIONS)) == leader)
            return name;
    }
}

/* How many of the answer's partitions are led by a node. */
static unsigned read_led(int32_t leader)
{
    unsigned led = 0;

    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    (void)kin_array(&c.in, "Partitions");
    while (kin_item(&c.in)) {
        (void)kin_i32(&c.in, "PartitionIndex", -1);
        led += kin_i32(&c.in, "LeaderId", -1) == leader;
    }
    return led;
}

Test(kafka_cluster, metadata_waits_for_the_election_when_a_leader_was_lost)
{
    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    kafka_front_peer(n.front, 2, false);
    send_metadata("t");
    cr_assert_not(answered(100), "it would send the client back to the dead");
    set_state(2, TOPO_NODE_FENCED);
    client_read(&c, KAFKA_API_METADATA, 9);
    cr_assert_eq(read_brokers(), 2);
    cr_assert_eq(read_led(2), 0);
    /* it was the connection alone: a second later the answer is what the topology says */
    kafka_front_peer(n.front, 3, false);
    send_metadata("t");
    cr_assert_not(answered(100));
    client_read(&c, KAFKA_API_METADATA, 9);
    cr_assert_eq(read_brokers(), 2);
    cr_assert_gt(read_led(3), 0);
    metadata("t"); /* and nobody waits any more */
    kafka_front_peer(n.front, 3, true);
    /* a client that does not wait for the answer */
    kafka_front_peer(n.front, 3, false);
    send_metadata("t");
    cr_assert_not(answered(50));
    client_close(&c);
    client_open(&c, &n);
    end();
}

Test(kafka_cluster, find_coordinator_waits_for_the_election_too)
{
    const char *group;
    int16_t code;

    begin();
    group = group_led(2);
    kafka_front_peer(n.front, 2, false);
    request(KAFKA_API_FIND_COORDINATOR, 2);
    kout_str(&o, "Key", group);
    kout_i8(&o, "KeyType", 0);
    kout_end(&o);
    client_send(&c, &out);
    cr_assert_not(answered(100));
    set_state(2, TOPO_NODE_FENCED);
    client_read(&c, KAFKA_API_FIND_COORDINATOR, 2);
    code = kin_i16(&c.in, "ErrorCode", -1);
    cr_assert_eq(code, 0);
    cr_assert_neq(kin_i32(&c.in, "NodeId", -1), 2);
    end();
}

Test(kafka_cluster, a_node_that_was_fenced_a_moment_ago_is_still_named)
{
    node_farewell_ms = 700;
    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    usleep(250000); /* the front end has looked at the topology: this node was there */
    set_state(2, TOPO_NODE_FENCED);
    metadata("t");
    cr_assert_eq(read_brokers(), 3);
    cr_assert_eq(read_led(2), 0);
    for (int i = 0; i < 200; i++) {
        usleep(20000);
        metadata("t");
        if (read_brokers() == 2)
            break;
    }
    metadata("t");
    cr_assert_eq(read_brokers(), 2);
    end();
}

static int32_t find_coordinator(const char *group, int16_t *ret_code, int32_t *ret_port)
{
    int32_t id;

    request(KAFKA_API_FIND_COORDINATOR, 2);
    kout_str(&o, "Key", group);
    kout_i8(&o, "KeyType", 0);
    kout_end(&o);
    exchange(KAFKA_API_FIND_COORDINATOR, 2);
    *ret_code = kin_i16(&c.in, "ErrorCode", -1);
    id = kin_i32(&c.in, "NodeId", -2);
    (void)kin_string(&c.in, "Host");
    *ret_port = kin_i32(&c.in, "Port", -2);
    return id;
}

static int16_t heartbeat(const char *group, const char *member, int32_t generation)
{
    request(KAFKA_API_HEARTBEAT, 3);
    kout_str(&o, "GroupId", group);
    kout_i32(&o, "GenerationId", generation);
    kout_str(&o, "MemberId", member);
    kout_str(&o, "GroupInstanceId", NULL);
    kout_end(&o);
    exchange(KAFKA_API_HEARTBEAT, 3);
    (void)kin_i32(&c.in, "ThrottleTimeMs", 0);
    return kin_i16(&c.in, "ErrorCode", -1);
}

Test(kafka_cluster, a_group_is_coordinated_by_its_partitions_leader)
{
    int16_t code;
    int32_t port;
    const char *group;
    uint32_t partition;

    begin();
    cr_assert_eq(find_coordinator(group_led(1), &code, &port), 1);
    cr_assert_eq(port, n.port);
    cr_assert_eq(code, 0);
    group = group_led(2);
    cr_assert_eq(find_coordinator(group, &code, &port), 2);
    cr_assert_eq(port, 9002);
    cr_assert_eq(heartbeat(group, "m", 1), KAFKA_ERR_NOT_COORDINATOR);
    partition = placement_of_group(slice_str(group), PARTITIONS);
    change(partition, 2, (const uint32_t[]){2}, 1);
    set_state(2, TOPO_NODE_FENCED); /* nobody else may lead it */
    cr_assert_eq(record(partition).leader, 0);
    cr_assert_eq(find_coordinator(group, &code, &port), -1);
    cr_assert_eq(code, KAFKA_ERR_COORDINATOR_NOT_AVAILABLE);
    end();
}

Test(kafka_cluster, a_factor_goes_up_to_the_number_of_nodes)
{
    begin();
    create("a", 2, 3, NULL, NULL, 0, 3);
    create("b", 2, 1, NULL, NULL, 0, 3); /* Metadata tells what is so */
    create("c", 2, 4, NULL, NULL, KAFKA_ERR_INVALID_REPLICATION_FACTOR, -1);
    create("d", 2, 0, NULL, NULL, KAFKA_ERR_INVALID_REPLICATION_FACTOR, -1);
    end();
}

/* ---- producing ---------------------------------------------------------------------------------------------------- */

Test(kafka_cluster, what_others_lead_is_refused_with_a_hint_where_to_go)
{
    int64_t base;
    int32_t index;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 2);
    send_produce(10, 1, 1000, "t", index, one_record(-1, 0));
    cr_assert_eq(read_produced(10, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert_eq(base, -1);
    cr_assert(frame_has("n2.example"), "KIP-951");
    send_produce(9, 1, 1000, "t", index, one_record(-1, 0));
    cr_assert_eq(read_produced(9, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert_not(frame_has("n2.example"), "version 9 has no such field");
    cr_assert_eq(produce(1, "t", index_led("t", 1)), 0);
    /* a follower is read by clients that know of it, and only by them */
    play(owner("t", (uint32_t)index_led("t", 3)), PARTITION_NONE);
    cr_assert_eq(fetch(16, "t", index_led("t", 3), 0, -1, -1, "").code, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert(frame_has("n3.example"));
    cr_assert_eq(fetch(10, "t", index, 0, -1, -1, "").code, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert_eq(fetch(11, "t", index, 0, -1, -1, "").code, 0);
    end();
}

Test(kafka_cluster, a_node_that_is_cut_off_names_no_leader_and_sends_producers_away)
{
    int64_t base;
    int32_t index;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 1);
    cr_assert_eq(produce(1, "t", index), 0);
    partitions_set_lease(n.partitions, 1);
    metadata("t");
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    (void)kin_array(&c.in, "Partitions");
    while (kin_item(&c.in)) {
        int16_t code = kin_i16(&c.in, "ErrorCode", -1);
        uint32_t at = (uint32_t)kin_i32(&c.in, "PartitionIndex", -1);
        bool mine = leader_of(owner("t", at)) == 1;

        cr_assert_eq(code, mine ? KAFKA_ERR_LEADER_NOT_AVAILABLE : 0);
        cr_assert_eq(kin_i32(&c.in, "LeaderId", 0), mine ? -1 : (int32_t)leader_of(owner("t", at)));
    }
    send_produce(8, 1, 1000, "t", index, one_record(-1, 0));
    cr_assert_eq(read_produced(8, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert_eq(client_read_raw(&c), 0, "the connection is closed");
    end();
}

Test(kafka_cluster, acks_all_waits_for_the_high_watermark)
{
    int64_t base;
    int32_t index;
    struct log *l;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 1);
    l = log_of("t", index);
    log_set_replicated(l, true, 0);
    send_produce(8, -1, 30000, "t", index, one_record(-1, 0));
    send_produce(8, 1, 30000, "t", index, one_record(-1, 0)); /* appended, and answered behind the first */
    cr_assert_not(answered(200));
    cr_assert_eq(log_end(l), 2);
    log_set_hw(l, 1);
    c.next--;
    cr_assert_eq(read_produced(8, &base), 0);
    cr_assert_eq(base, 0);
    c.next++;
    cr_assert_eq(read_produced(8, &base), 0);
    cr_assert_eq(base, 1);
    end();
}

Test(kafka_cluster, acks_all_needs_its_replicas_before_the_append)
{
    static const uint32_t two[] = {1, 2}, one[] = {1};
    int32_t index;
    uint32_t partition;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    create("strict", PARTITIONS, -1, "min.insync.replicas", "3", 0, 3);
    index = index_led("t", 1);
    partition = owner("t", (uint32_t)index);
    partition_set_quorum_ok(partitions_get(n.partitions, partition), false);
    cr_assert_eq(produce(-1, "t", index), KAFKA_ERR_NOT_ENOUGH_REPLICAS);
    cr_assert_eq(log_end(log_of("t", index)), 0);
    cr_assert_eq(produce(1, "t", index), 0, "acks=1 asks nobody");
    partition_set_quorum_ok(partitions_get(n.partitions, partition), true);
    cr_assert_eq(produce(-1, "t", index), 0);
    /* a topic may ask for more (rule 23) */
    for (uint32_t i = 0; i < PARTITIONS; i++)
        if (leader_of(i) == 1)
            change(i, 1, two, 2);
    cr_assert_eq(produce(-1, "t", index), 0);
    cr_assert_eq(produce(-1, "strict", index_led("strict", 1)), KAFKA_ERR_NOT_ENOUGH_REPLICAS);
    for (uint32_t i = 0; i < PARTITIONS; i++)
        if (leader_of(i) == 1)
            change(i, 1, one, 1);
    cr_assert_eq(produce(-1, "t", index), KAFKA_ERR_NOT_ENOUGH_REPLICAS);
    end();
}

Test(kafka_cluster, metadata_behind_a_held_answer_is_as_new_as_its_arrival)
{
    int64_t base;
    int32_t index;
    int16_t code;
    struct log *l;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 1);
    l = log_of("t", index);
    log_set_replicated(l, true, 0);
    send_produce(8, -1, 30000, "t", index, one_record(-1, 0));
    send_metadata("t");
    cr_assert_not(answered(100));
    change(owner("t", (uint32_t)index_led("t", 2)), 3, (const uint32_t[]){1, 2, 3}, 3);
    log_set_hw(l, 1);
    c.next--;
    cr_assert_eq(read_produced(8, &base), 0);
    c.next++;
    client_read(&c, KAFKA_API_METADATA, 9);
    cr_assert_eq(read_brokers(), 3);
    cr_assert_eq(read_led(2), 2, "of three it led when it was asked");
    /* likewise, and the client leaves meanwhile */
    send_produce(8, -1, 30000, "t", index, one_record(-1, 0));
    request(KAFKA_API_FIND_COORDINATOR, 2);
    kout_str(&o, "Key", "group");
    kout_i8(&o, "KeyType", 0);
    kout_end(&o);
    client_send(&c, &out);
    cr_assert_not(answered(50));
    client_close(&c);
    client_open(&c, &n);
    log_set_hw(l, 2);
    (void)find_coordinator("group", &code, &index);
    cr_assert_eq(code, 0);
    end();
}

Test(kafka_cluster, a_produce_waits_for_the_end_of_a_handover)
{
    int64_t base;
    int32_t index;
    uint32_t partition;
    struct log *l;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 1);
    partition = owner("t", (uint32_t)index);
    l = log_of("t", index);
    /* given up: it goes on, in order */
    play(partition, PARTITION_PARKED);
    send_produce(8, 1, 1000, "t", index, one_record(7, 0));
    send_produce(8, 1, 1000, "t", index, one_record(7, 1));
    cr_assert_not(answered(100));
    cr_assert_eq(log_end(l), 0);
    play(partition, PARTITION_LEADER);
    c.next--;
    for (int i = 0; i < 2; i++, c.next++) {
        cr_assert_eq(read_produced(8, &base), 0);
        cr_assert_eq(base, i);
    }
    c.next--;
    /* it went through: the next leader is named */
    play(partition, PARTITION_PARKED);
    send_produce(10, 1, 1000, "t", index, one_record(7, 2));
    cr_assert_not(answered(100));
    change(partition, 3, (const uint32_t[]){1, 2, 3}, 3);
    play(partition, PARTITION_FOLLOWER);
    cr_assert_eq(read_produced(10, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert(frame_has("n3.example"));
    cr_assert_eq(log_end(l), 2);
    end();
}

Test(kafka_cluster, a_held_answer_says_what_became_of_it)
{
    static const uint32_t two[] = {1, 2};
    int64_t base;
    int32_t index;
    uint32_t partition;
    struct log *l;

    begin();
    create("strict", PARTITIONS, -1, "min.insync.replicas", "3", 0, 3);
    index = index_led("strict", 1);
    partition = owner("strict", (uint32_t)index);
    l = log_of("strict", index);
    log_set_replicated(l, true, 0);
    /* time */
    send_produce(8, -1, 100, "strict", index, one_record(-1, 0));
    cr_assert_eq(read_produced(8, &base), KAFKA_ERR_REQUEST_TIMED_OUT);
    cr_assert_eq(base, -1);
    /* replicas */
    send_produce(8, -1, 30000, "strict", index, one_record(-1, 0));
    cr_assert_not(answered(100));
    change(partition, 1, two, 2);
    log_set_hw(l, 2);
    cr_assert_eq(read_produced(8, &base), KAFKA_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND);
    cr_assert_eq(log_end(l), 2, "the record stays");
    /* leadership */
    {
        static const uint32_t three[] = {1, 2, 3};

        change(partition, 1, three, 3);
    }
    send_produce(11, -1, 30000, "strict", index, one_record(-1, 0));
    cr_assert_not(answered(100));
    play(partition, PARTITION_FOLLOWER);
    log_fail_commits(l, ERR_NOT_LEADER);
    cr_assert_eq(read_produced(11, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert_eq(base, -1);
    end();
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

Test(kafka_cluster, consumers_see_nothing_above_the_high_watermark)
{
    struct fetched f;
    int32_t index;
    struct log *l;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 1);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(produce(1, "t", index), 0);
    l = log_of("t", index);
    log_set_replicated(l, true, 2);
    f = fetch(11, "t", index, 0, -1, -1, "");
    cr_assert_eq(f.code, 0);
    cr_assert_eq(f.high_watermark, 2);
    cr_assert_gt(f.bytes, 0);
    f = fetch(11, "t", index, 3, -1, -1, "");
    cr_assert_eq(f.code, 0, "between watermark and end a consumer waits");
    cr_assert_eq(f.bytes, 0);
    cr_assert_eq(fetch(11, "t", index, 5, -1, -1, "").code, KAFKA_ERR_OFFSET_OUT_OF_RANGE);
    /* the long poll ends with the watermark */
    send_fetch(11, 20000, "t", index, 2, -1, -1, "");
    cr_assert_not(answered(100));
    cr_assert_eq(log_hw(l), 2);
    log_set_hw(l, 3);
    f = read_fetched(11);
    cr_assert_eq(f.high_watermark, 3);
    cr_assert_gt(f.bytes, 0);
    /* and with the leadership */
    send_fetch(10, 20000, "t", index, 3, -1, -1, "");
    cr_assert_not(answered(100));
    play(owner("t", (uint32_t)index), PARTITION_FOLLOWER);
    cr_assert_eq(read_fetched(10).code, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    f = fetch(11, "t", index, 0, -1, -1, "");
    cr_assert_eq(f.code, 0, "as a follower it is read on");
    cr_assert_eq(f.high_watermark, 3);
    end();
}

Test(kafka_cluster, epochs_fence_clients_and_tell_them_where_they_parted)
{
    struct fetched f;
    int32_t index, mine;
    uint32_t partition;
    struct log *l;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 1);
    partition = owner("t", (uint32_t)index);
    l = log_of("t", index);
    mine = record(partition).epoch;
    log_set_epoch(l, mine);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(produce(1, "t", index), 0);
    cr_assert_eq(fetch(12, "t", index, 0, mine, -1, "").code, 0);
    cr_assert_eq(fetch(12, "t", index, 0, mine - 1, -1, "").code, KAFKA_ERR_FENCED_LEADER_EPOCH);
    cr_assert_eq(fetch(12, "t", index, 0, mine + 1, -1, "").code, KAFKA_ERR_UNKNOWN_LEADER_EPOCH);
    f = fetch(12, "t", index, 2, mine, mine, "");
    cr_assert_eq(f.code, 0);
    cr_assert_gt(f.bytes, 0);
    f = fetch(12, "t", index, 2, mine, mine - 1, ""); /* an epoch that had ended before */
    cr_assert_eq(f.code, 0);
    cr_assert_eq(f.bytes, 0, "it diverges: nothing but where");
    request(KAFKA_API_OFFSET_FOR_LEADER_EPOCH, 2);
    kout_i32(&o, "ReplicaId", -1);
    kout_array(&o, "Topics");
    kout_item(&o);
    kout_str(&o, "Topic", "t");
    kout_array(&o, "Partitions");
    for (int i = 0; i < 2; i++) {
        kout_item(&o);
        kout_i32(&o, "Partition", index);
        kout_i32(&o, "CurrentLeaderEpoch", mine);
        kout_i32(&o, "LeaderEpoch", mine + i);
    }
    kout_array_end(&o);
    kout_array_end(&o);
    kout_end(&o);
    exchange(KAFKA_API_OFFSET_FOR_LEADER_EPOCH, 2);
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    (void)kin_array(&c.in, "Partitions");
    cr_assert(kin_item(&c.in));
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
    cr_assert_eq(kin_i32(&c.in, "LeaderEpoch", -2), mine);
    cr_assert_eq(kin_i64(&c.in, "EndOffset", -2), 4);
    cr_assert(kin_item(&c.in));
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), 0);
    cr_assert_eq(kin_i32(&c.in, "LeaderEpoch", -2), -1);
    cr_assert_eq(kin_i64(&c.in, "EndOffset", -2), -1);
    end();
}

Test(kafka_cluster, a_client_reads_from_its_own_rack)
{
    struct fetched f;
    int32_t index;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 1);
    cr_assert_eq(produce(1, "t", index), 0);
    f = fetch(11, "t", index, 0, -1, -1, "r2");
    cr_assert_eq(f.code, 0);
    cr_assert_eq(f.preferred, 2);
    cr_assert_eq(f.bytes, 0);
    f = fetch(11, "t", index, 0, -1, -1, "elsewhere");
    cr_assert_eq(f.preferred, -1);
    cr_assert_gt(f.bytes, 0);
    set_state(2, TOPO_NODE_FENCED);
    f = fetch(11, "t", index, 0, -1, -1, "r2");
    cr_assert_eq(f.preferred, -1, "who is away serves nobody");
    end();
}

static int16_t list_offset(int version, const char *topic, int32_t index, int64_t at, int64_t *ret_offset)
{
    int16_t code;

    request(KAFKA_API_LIST_OFFSETS, version);
    kout_i32(&o, "ReplicaId", -1);
    kout_i8(&o, "IsolationLevel", 0);
    kout_array(&o, "Topics");
    kout_item(&o);
    kout_str(&o, "Name", topic);
    kout_array(&o, "Partitions");
    kout_item(&o);
    kout_i32(&o, "PartitionIndex", index);
    kout_i32(&o, "CurrentLeaderEpoch", -1);
    kout_i64(&o, "Timestamp", at);
    kout_array_end(&o);
    kout_array_end(&o);
    kout_end(&o);
    exchange(KAFKA_API_LIST_OFFSETS, version);
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    (void)kin_array(&c.in, "Partitions");
    cr_assert(kin_item(&c.in));
    code = kin_i16(&c.in, "ErrorCode", -1);
    *ret_offset = kin_i64(&c.in, "Offset", -2);
    return code;
}

Test(kafka_cluster, a_new_leader_tells_no_latest_offset_before_it_knows_it)
{
    int32_t index, mine;
    int64_t at;
    struct log *l;

    begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 1);
    l = log_of("t", index);
    mine = record(owner("t", (uint32_t)index)).epoch;
    log_set_epoch(l, mine - 1);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(produce(1, "t", index), 0);
    log_set_epoch(l, mine);
    log_set_replicated(l, true, 2);
    cr_assert_eq(list_offset(5, "t", index, -1, &at), KAFKA_ERR_OFFSET_NOT_AVAILABLE);
    cr_assert_eq(list_offset(4, "t", index, -1, &at), KAFKA_ERR_LEADER_NOT_AVAILABLE);
    cr_assert_eq(list_offset(5, "t", index, -2, &at), 0);
    cr_assert_eq(at, 0);
    log_set_hw(l, 4);
    cr_assert_eq(list_offset(5, "t", index, -1, &at), 0);
    cr_assert_eq(at, 4);
    cr_assert_eq(list_offset(5, "t", index_led("t", 2), -1, &at), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    end();
}

/* ---- groups --------------------------------------------------------------------------------------------------------- */

static int16_t join(const char *group, const char *member, char *ret_member, int32_t *ret_generation)
{
    struct slice id;
    int16_t code;

    request(KAFKA_API_JOIN_GROUP, 5);
    kout_str(&o, "GroupId", group);
    kout_i32(&o, "SessionTimeoutMs", 10000);
    kout_i32(&o, "RebalanceTimeoutMs", 10000);
    kout_str(&o, "MemberId", member);
    kout_str(&o, "GroupInstanceId", NULL);
    kout_str(&o, "ProtocolType", "consumer");
    kout_array(&o, "Protocols");
    kout_item(&o);
    kout_str(&o, "Name", "range");
    kout_bytes(&o, "Metadata", slice_str("meta"));
    kout_array_end(&o);
    kout_end(&o);
    exchange(KAFKA_API_JOIN_GROUP, 5);
    code = kin_i16(&c.in, "ErrorCode", -1);
    *ret_generation = kin_i32(&c.in, "GenerationId", -2);
    id = kin_string(&c.in, "MemberId");
    snprintf(ret_member, 100, "%.*s", (int)id.len, (const char *)id.data);
    return code;
}

static void put_sync(const char *group, const char *member, int32_t generation, const char *assignment)
{
    request(KAFKA_API_SYNC_GROUP, 3);
    kout_str(&o, "GroupId", group);
    kout_i32(&o, "GenerationId", generation);
    kout_str(&o, "MemberId", member);
    kout_str(&o, "GroupInstanceId", NULL);
    kout_str(&o, "ProtocolType", NULL);
    kout_str(&o, "ProtocolName", NULL);
    kout_array(&o, "Assignments");
    if (assignment != NULL) {
        kout_item(&o);
        kout_str(&o, "MemberId", member);
        kout_bytes(&o, "Assignment", slice_str(assignment));
    }
    kout_array_end(&o);
    kout_end(&o);
}

static int16_t sync_group(const char *group, const char *member, int32_t generation, const char *assignment)
{
    put_sync(group, member, generation, assignment);
    exchange(KAFKA_API_SYNC_GROUP, 3);
    return kin_i16(&c.in, "ErrorCode", -1);
}

static int16_t commit_offset(const char *group, const char *member, int32_t generation, int64_t offset)
{
    request(KAFKA_API_OFFSET_COMMIT, 7);
    kout_str(&o, "GroupId", group);
    kout_i32(&o, "GenerationIdOrMemberEpoch", generation);
    kout_str(&o, "MemberId", member);
    kout_str(&o, "GroupInstanceId", NULL);
    kout_i64(&o, "RetentionTimeMs", -1);
    kout_array(&o, "Topics");
    kout_item(&o);
    kout_str(&o, "Name", "t");
    kout_uuid(&o, "TopicId", NULL);
    kout_array(&o, "Partitions");
    kout_item(&o);
    kout_i32(&o, "PartitionIndex", 0);
    kout_i64(&o, "CommittedOffset", offset);
    kout_i32(&o, "CommittedLeaderEpoch", -1);
    kout_str(&o, "CommittedMetadata", "");
    kout_array_end(&o);
    kout_array_end(&o);
    kout_end(&o);
    exchange(KAFKA_API_OFFSET_COMMIT, 7);
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    (void)kin_array(&c.in, "Partitions");
    cr_assert(kin_item(&c.in));
    return kin_i16(&c.in, "ErrorCode", -1);
}

Test(kafka_cluster, a_group_goes_on_with_its_next_coordinator)
{
    const char *group;
    char member[100], again[100];
    int32_t generation, other;
    uint32_t partition;

    begin();
    create("t", 1, -1, NULL, NULL, 0, 3);
    group = group_led(1);
    partition = placement_of_group(slice_str(group), PARTITIONS);
    cr_assert_eq(join(group, "", member, &generation), KAFKA_ERR_MEMBER_ID_REQUIRED);
    cr_assert_eq(join(group, member, member, &generation), 0);
    cr_assert_eq(sync_group(group, member, generation, "mine"), 0);
    cr_assert_eq(commit_offset(group, member, generation, 42), 0);
    cr_assert_eq(heartbeat(group, member, generation), 0);
    /* below min_insync its state cannot be kept (rule 14) */
    partition_set_quorum_ok(partitions_get(n.partitions, partition), false);
    cr_assert_eq(heartbeat(group, member, generation), KAFKA_ERR_COORDINATOR_NOT_AVAILABLE);
    partition_set_quorum_ok(partitions_get(n.partitions, partition), true);
    /* it moves away */
    play(partition, PARTITION_FOLLOWER);
    cr_assert_eq(heartbeat(group, member, generation), KAFKA_ERR_NOT_COORDINATOR);
    cr_assert_eq(commit_offset(group, member, generation, 43), KAFKA_ERR_NOT_COORDINATOR);
    /* and comes back with the member, its generation, its assignment and its offset */
    {
        static const uint32_t three[] = {1, 2, 3};

        change(partition, 2, three, 3);
        change(partition, 1, three, 3);
    }
    lead_again(partition);
    cr_assert_eq(heartbeat(group, member, generation), 0);
    cr_assert_eq(sync_group(group, member, generation, NULL), 0);
    cr_assert(slice_eq(kin_bytes(&c.in, "Assignment"), slice_str("mine")));
    /* amid a rebalance what was agreed last counts: who joined the next generation joins again */
    cr_assert_eq(join(group, member, again, &other), 0);
    cr_assert_eq(other, generation + 1);
    play(partition, PARTITION_FOLLOWER);
    {
        static const uint32_t three[] = {1, 2, 3};

        change(partition, 2, three, 3);
        change(partition, 1, three, 3);
    }
    lead_again(partition);
    cr_assert_eq(sync_group(group, member, other, "mine"), KAFKA_ERR_ILLEGAL_GENERATION);
    cr_assert_eq(join(group, member, again, &other), 0);
    end();
}

Test(kafka_cluster, a_waiting_member_is_told_that_its_coordinator_moved)
{
    const char *group;
    char member[100], second[100];
    int32_t generation;
    uint32_t partition;

    begin();
    group = group_led(1);
    partition = placement_of_group(slice_str(group), PARTITIONS);
    cr_assert_eq(join(group, "", member, &generation), KAFKA_ERR_MEMBER_ID_REQUIRED);
    cr_assert_eq(join(group, member, member, &generation), 0);
    cr_assert_eq(sync_group(group, member, generation, "mine"), 0);
    cr_assert_eq(join(group, "", second, &generation), KAFKA_ERR_MEMBER_ID_REQUIRED);
    /* the second's join waits for the first to join again */
    request(KAFKA_API_JOIN_GROUP, 5);
    kout_str(&o, "GroupId", group);
    kout_i32(&o, "SessionTimeoutMs", 10000);
    kout_i32(&o, "RebalanceTimeoutMs", 10000);
    kout_str(&o, "MemberId", second);
    kout_str(&o, "GroupInstanceId", NULL);
    kout_str(&o, "ProtocolType", "consumer");
    kout_array(&o, "Protocols");
    kout_item(&o);
    kout_str(&o, "Name", "range");
    kout_bytes(&o, "Metadata", slice_str("meta"));
    kout_array_end(&o);
    kout_end(&o);
    client_send(&c, &out);
    cr_assert_not(answered(200));
    play(partition, PARTITION_FOLLOWER);
    client_read(&c, KAFKA_API_JOIN_GROUP, 5);
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), KAFKA_ERR_NOT_COORDINATOR);
    end();
}
