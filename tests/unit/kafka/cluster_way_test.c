/* What clients are told of the cluster: who is there, who leads, who coordinates. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster_rig.h"
#include "log/batch.h"
#include "log/effect.h"

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

    cluster_begin();
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
    cluster_end();
}

Test(kafka_cluster, a_fenced_node_vanishes_and_its_replicas_are_offline)
{
    int64_t count;

    cluster_begin();
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
    cluster_end();
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
    cluster_begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    kafka_front_peer(n.front, 2, false);
    send_metadata("t");
    cr_assert_not(answered(100), "it would send the client back to the dead");
    set_state(2, TOPO_NODE_FENCED);
    client_read(&c, KAFKA_API_METADATA, 9);
    cr_assert_eq(read_brokers(), 2);
    cr_assert_eq(read_led(2), 0);
    /* the connection alone, or a controller that takes its time: no request waits longer than a client does, it is told what the topology says; the next one waits again */
    kafka_front_peer(n.front, 3, false);
    send_metadata("t");
    cr_assert_not(answered(100));
    client_read(&c, KAFKA_API_METADATA, 9);
    cr_assert_eq(read_brokers(), 2);
    cr_assert_gt(read_led(3), 0);
    send_metadata("t");
    cr_assert_not(answered(100));
    /* it is heard again */
    kafka_front_peer(n.front, 3, true);
    client_read(&c, KAFKA_API_METADATA, 9);
    cr_assert_eq(read_brokers(), 2);
    cr_assert_gt(read_led(3), 0);
    metadata("t"); /* and nobody waits any more */
    /* a client that does not wait for the answer */
    kafka_front_peer(n.front, 3, false);
    send_metadata("t");
    cr_assert_not(answered(50));
    client_close(&c);
    client_open(&c, &n);
    cluster_end();
}

Test(kafka_cluster, find_coordinator_waits_for_the_election_too)
{
    const char *group;
    int16_t code;

    cluster_begin();
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
    cluster_end();
}

Test(kafka_cluster, a_node_that_was_fenced_a_moment_ago_is_still_named)
{
    node_farewell_ms = 700;
    cluster_begin();
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
    cluster_end();
}

Test(kafka_cluster, a_group_is_coordinated_by_its_partitions_leader)
{
    int16_t code;
    int32_t port;
    const char *group;
    uint32_t partition;

    cluster_begin();
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
    cluster_end();
}

Test(kafka_cluster, a_factor_goes_up_to_the_number_of_nodes)
{
    cluster_begin();
    create("a", 2, 3, NULL, NULL, 0, 3);
    create("b", 2, 1, NULL, NULL, 0, 3); /* Metadata tells what is so */
    create("c", 2, 4, NULL, NULL, KAFKA_ERR_INVALID_REPLICATION_FACTOR, -1);
    create("d", 2, 0, NULL, NULL, KAFKA_ERR_INVALID_REPLICATION_FACTOR, -1);
    cluster_end();
}

Test(kafka_cluster, metadata_behind_a_held_answer_is_as_new_as_its_arrival)
{
    int64_t base;
    int32_t index;
    int16_t code;
    struct log *l;

    cluster_begin();
    l = create_replicated("t", &index);
    send_produce(8, -1, 30000, "t", index, one_record(-1, 0));
    send_metadata("t");
    cr_assert_not(answered(100));
    change(owner("t", (uint32_t)index_led("t", 2)), 3, (const uint32_t[]){1, 2, 3}, 3);
    log_set_hw(l, 1);
    c.next--;
    cr_assert_eq(read_produced(&c, 8, &base), 0);
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
    cluster_end();
}
