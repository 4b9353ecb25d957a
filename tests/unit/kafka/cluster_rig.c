#include "cluster_rig.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/batch.h"
#include "log/effect.h"

struct node n;
struct client c;
struct buf out;
struct kout o;
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

void set_state(uint32_t id, enum topo_node_state state)
{
    struct topology_proposal p = {0};

    epochs[id] = epoch_of(id);
    topo_cmd_node_state(&p.command, id, epochs[id], state, 0);
    propose(&p);
}

struct topo_partition record(uint32_t partition)
{
    struct topo_partition p = *topo_partition_at(topology_pin(n.topology), partition);

    topology_unpin(n.topology);
    return p;
}

void change(uint32_t partition, uint32_t leader, const uint32_t *insync, unsigned count)
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

uint32_t leader_of(uint32_t partition)
{
    return partition % 3 + 1;
}

void play(uint32_t partition, enum partition_role role)
{
    struct partition *p = partitions_get(n.partitions, partition);

    partition_set_role(p, role, record(partition).epoch);
    if (role < PARTITION_LEADER)
        stream_table_close_partition(n.streams, partition);
}

void lead_again(uint32_t partition)
{
    play(partition, PARTITION_OPENING);
    play(partition, PARTITION_LEADER);
}

void cluster_begin(void)
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

void cluster_end(void)
{
    client_close(&c);
    node_fini(&n);
    buf_fini(&out);
    batch_builder_fini(&builder);
}

/* ---- requests ---------------------------------------------------------------------------------------------- */

void request(int key, int version)
{
    client_begin(&c, &out, &o, key, version);
}

void exchange(int key, int version)
{
    client_send(&c, &out);
    client_read(&c, key, version);
}

void create(const char *name, int32_t partitions, int16_t factor, const char *config, const char *value, int16_t want, int16_t want_factor)
{
    request(KAFKA_API_CREATE_TOPICS, 7);
    put_create_topic(&o, name, partitions, factor, config, value);
    exchange(KAFKA_API_CREATE_TOPICS, 7);
    (void)kin_array(&c.in, "Topics");
    cr_assert(kin_item(&c.in));
    cr_assert_eq(kin_i16(&c.in, "ErrorCode", -1), want);
    cr_assert_eq(kin_i16(&c.in, "ReplicationFactor", -2), want_factor);
}

uint32_t owner(const char *topic, uint32_t index)
{
    return placement_of_topic(slice_str(topic), index, PARTITIONS);
}

int32_t index_led(const char *topic, uint32_t leader)
{
    for (uint32_t i = 0; i < PARTITIONS; i++)
        if (leader_of(owner(topic, i)) == leader)
            return (int32_t)i;
    cr_assert_fail();
    return -1;
}

struct slice one_record(int64_t producer, int32_t sequence)
{
    batch_begin(&builder, clock_wall_ms());
    if (producer >= 0)
        batch_set_producer(&builder, producer, 0, sequence);
    batch_add(&builder, clock_wall_ms(), SLICE_NONE, slice_str("value"));
    return batch_finish(&builder);
}

void send_produce(int version, int16_t acks, int32_t timeout_ms, const char *topic, int32_t index, struct slice records)
{
    client_begin(&c, &out, NULL, KAFKA_API_PRODUCE, version);
    put_produce(&out, version, acks, timeout_ms, topic, index, records);
    client_send(&c, &out);
}

int16_t produce(int16_t acks, const char *topic, int32_t index)
{
    int64_t base;

    send_produce(8, acks, 30000, topic, index, one_record(-1, 0));
    return read_produced(&c, 8, &base);
}

bool answered(int within_ms)
{
    struct pollfd p = {.fd = c.fd, .events = POLLIN};

    return poll(&p, 1, within_ms) == 1;
}

bool frame_has(const char *text)
{
    return memmem(c.frame.data, c.frame.len, text, strlen(text)) != NULL;
}

struct log *log_of(const char *topic, int32_t index)
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

struct log *create_replicated(const char *topic, int32_t *ret_index)
{
    struct log *l;

    create(topic, PARTITIONS, -1, NULL, NULL, 0, 3);
    *ret_index = index_led(topic, 1);
    l = log_of(topic, *ret_index);
    log_set_replicated(l, true, 0);
    return l;
}

void send_fetch(int version, int32_t wait_ms, const char *topic, int32_t index, int64_t offset, int32_t leader_epoch, int32_t last_epoch, const char *rack)
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

struct fetched read_fetched(int version)
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

struct fetched fetch(int version, const char *topic, int32_t index, int64_t offset, int32_t leader_epoch, int32_t last_epoch, const char *rack)
{
    send_fetch(version, 0, topic, index, offset, leader_epoch, last_epoch, rack);
    return read_fetched(version);
}

void send_metadata(const char *topic)
{
    request(KAFKA_API_METADATA, 9);
    if (topic == NULL) {
        kout_array_null(&o, "Topics");
    } else {
        kout_array(&o, "Topics");
        kout_item(&o);
        kout_uuid(&o, "TopicId", NULL);
        kout_str(&o, "Name", topic);
        kout_array_end(&o);
    }
    kout_bool(&o, "AllowAutoTopicCreation", false);
    kout_bool(&o, "IncludeClusterAuthorizedOperations", false);
    kout_bool(&o, "IncludeTopicAuthorizedOperations", false);
    kout_end(&o);
    client_send(&c, &out);
}

void metadata(const char *topic)
{
    send_metadata(topic);
    client_read(&c, KAFKA_API_METADATA, 9);
}

/* A group whose partition this node leads, or another does. */
const char *group_led(uint32_t leader)
{
    static char name[16];

    for (unsigned i = 0;; i++) {
        snprintf(name, sizeof(name), "group-%u", i);
        if (leader_of(placement_of_group(slice_str(name), PARTITIONS)) == leader)
            return name;
    }
}

int16_t heartbeat(const char *group, const char *member, int32_t generation)
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

int32_t find_coordinator(const char *group, int16_t *ret_code, int32_t *ret_port)
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
