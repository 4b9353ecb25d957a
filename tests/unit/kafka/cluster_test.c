/* What one node of three answers for partitions it leads, follows or lost, and what becomes of groups. */
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

/* ---- producing ---------------------------------------------------------------------------------------------------- */

Test(kafka_cluster, what_others_lead_is_refused_with_a_hint_where_to_go)
{
    int64_t base;
    int32_t index;

    cluster_begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 2);
    send_produce(10, 1, 1000, "t", index, one_record(-1, 0));
    cr_assert_eq(read_produced(&c, 10, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert_eq(base, -1);
    cr_assert(frame_has("n2.example"), "KIP-951");
    send_produce(9, 1, 1000, "t", index, one_record(-1, 0));
    cr_assert_eq(read_produced(&c, 9, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert_not(frame_has("n2.example"), "version 9 has no such field");
    cr_assert_eq(produce(1, "t", index_led("t", 1)), 0);
    /* a follower is read by clients that know of it, and only by them */
    play(owner("t", (uint32_t)index_led("t", 3)), PARTITION_NONE);
    cr_assert_eq(fetch(16, "t", index_led("t", 3), 0, -1, -1, "").code, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert(frame_has("n3.example"));
    cr_assert_eq(fetch(10, "t", index, 0, -1, -1, "").code, KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert_eq(fetch(11, "t", index, 0, -1, -1, "").code, 0);
    cluster_end();
}

/* Reads a Metadata answer on: what this node leads, and nothing else, has no leader. */
static void nothing_is_led_here(void)
{
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
}

static void closed_then_again(void)
{
    cr_assert_eq(client_read_raw(&c), 0, "the connection is closed");
    client_close(&c);
    client_open(&c, &n);
}

Test(kafka_cluster, a_node_that_is_cut_off_sends_away_who_produces_or_asks_who_leads)
{
    int64_t base;
    int32_t index;

    cluster_begin();
    create("t", PARTITIONS, -1, NULL, NULL, 0, 3);
    index = index_led("t", 1);
    cr_assert_eq(produce(1, "t", index), 0);
    partitions_set_lease(n.partitions, 1);
    metadata(NULL); /* who looks around is shown what there is */
    nothing_is_led_here();
    cr_assert_eq(fetch(11, "t", index_led("t", 2), 0, -1, -1, "").code, 0, "who reads from a follower stays");
    send_metadata("t");
    closed_then_again();
    request(KAFKA_API_FIND_COORDINATOR, 2);
    kout_str(&o, "Key", "g");
    kout_i8(&o, "KeyType", 0);
    kout_end(&o);
    client_send(&c, &out);
    closed_then_again();
    send_produce(8, 1, 1000, "t", index, one_record(-1, 0));
    cr_assert_eq(read_produced(&c, 8, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    closed_then_again();
    /* a node that starts has no lease yet: nobody is sent away */
    partitions_set_lease(n.partitions, 0);
    metadata("t");
    nothing_is_led_here();
    cluster_end();
}

Test(kafka_cluster, who_waits_for_replicas_is_sent_away_when_the_lease_ends)
{
    int32_t index;

    cluster_begin();
    create_replicated("t", &index);
    send_produce(8, -1, 600000, "t", index, one_record(-1, 0));
    cr_assert_not(answered(100));
    kafka_front_lease_ended(n.front); /* and the next began before this was heard */
    cr_assert_not(answered(100));
    partitions_set_lease(n.partitions, 1);
    kafka_front_lease_ended(n.front);
    closed_then_again();
    /* others stay */
    cr_assert_eq(fetch(11, "t", index_led("t", 2), 0, -1, -1, "").code, 0);
    kafka_front_lease_ended(n.front);
    cr_assert_not(answered(100));
    cr_assert_eq(fetch(11, "t", index_led("t", 2), 0, -1, -1, "").code, 0);
    cluster_end();
}

Test(kafka_cluster, acks_all_waits_for_the_high_watermark)
{
    int64_t base;
    int32_t index;
    struct log *l;

    cluster_begin();
    l = create_replicated("t", &index);
    send_produce(8, -1, 30000, "t", index, one_record(-1, 0));
    send_produce(8, 1, 30000, "t", index, one_record(-1, 0)); /* appended, and answered behind the first */
    cr_assert_not(answered(200));
    cr_assert_eq(log_end(l), 2);
    log_set_hw(l, 1);
    c.next--;
    cr_assert_eq(read_produced(&c, 8, &base), 0);
    cr_assert_eq(base, 0);
    c.next++;
    cr_assert_eq(read_produced(&c, 8, &base), 0);
    cr_assert_eq(base, 1);
    cluster_end();
}

Test(kafka_cluster, acks_all_needs_its_replicas_before_the_append)
{
    static const uint32_t two[] = {1, 2}, one[] = {1};
    int32_t index;
    uint32_t partition;

    cluster_begin();
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
    cluster_end();
}

Test(kafka_cluster, a_produce_waits_for_the_end_of_a_handover)
{
    int64_t base;
    int32_t index;
    uint32_t partition;
    struct log *l;

    cluster_begin();
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
        cr_assert_eq(read_produced(&c, 8, &base), 0);
        cr_assert_eq(base, i);
    }
    c.next--;
    /* it went through: the next leader is named */
    play(partition, PARTITION_PARKED);
    send_produce(10, 1, 1000, "t", index, one_record(7, 2));
    cr_assert_not(answered(100));
    change(partition, 3, (const uint32_t[]){1, 2, 3}, 3);
    play(partition, PARTITION_FOLLOWER);
    cr_assert_eq(read_produced(&c, 10, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert(frame_has("n3.example"));
    cr_assert_eq(log_end(l), 2);
    cluster_end();
}

Test(kafka_cluster, a_held_answer_says_what_became_of_it)
{
    static const uint32_t two[] = {1, 2};
    int64_t base;
    int32_t index;
    uint32_t partition;
    struct log *l;

    cluster_begin();
    create("strict", PARTITIONS, -1, "min.insync.replicas", "3", 0, 3);
    index = index_led("strict", 1);
    partition = owner("strict", (uint32_t)index);
    l = log_of("strict", index);
    log_set_replicated(l, true, 0);
    /* time */
    send_produce(8, -1, 100, "strict", index, one_record(-1, 0));
    cr_assert_eq(read_produced(&c, 8, &base), KAFKA_ERR_REQUEST_TIMED_OUT);
    cr_assert_eq(base, -1);
    /* replicas */
    send_produce(8, -1, 30000, "strict", index, one_record(-1, 0));
    cr_assert_not(answered(100));
    change(partition, 1, two, 2);
    log_set_hw(l, 2);
    cr_assert_eq(read_produced(&c, 8, &base), KAFKA_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND);
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
    cr_assert_eq(read_produced(&c, 11, &base), KAFKA_ERR_NOT_LEADER_OR_FOLLOWER);
    cr_assert_eq(base, -1);
    cluster_end();
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

Test(kafka_cluster, consumers_see_nothing_above_the_high_watermark)
{
    struct fetched f;
    int32_t index;
    struct log *l;

    cluster_begin();
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
    cluster_end();
}

Test(kafka_cluster, epochs_fence_clients_and_tell_them_where_they_parted)
{
    struct fetched f;
    int32_t index, mine;
    uint32_t partition;
    struct log *l;

    cluster_begin();
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
    cluster_end();
}

Test(kafka_cluster, a_client_reads_from_its_own_rack)
{
    struct fetched f;
    int32_t index;

    cluster_begin();
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
    cluster_end();
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

    cluster_begin();
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
    cluster_end();
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

    cluster_begin();
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
    cluster_end();
}

Test(kafka_cluster, a_waiting_member_is_told_that_its_coordinator_moved)
{
    const char *group;
    char member[100], second[100];
    int32_t generation;
    uint32_t partition;

    cluster_begin();
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
    cluster_end();
}
