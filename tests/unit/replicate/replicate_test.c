/* Replication of main logs: three nodes in one process. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "random.h"
#include "sim.h"

static struct sim s;

static uint32_t leader_of(const char *key)
{
    return sim_leader(&s, sim_partition_of(&s, key));
}

/* On whoever leads; a leader that is just being stepped is asked again. */
static int set(const char *key, const char *value, int64_t *ret_end)
{
    int err = 0;

    for (int i = 0; i < 5000; i++) {
        err = sim_set(&s, leader_of(key), key, value, ret_end);
        if (err != ERR_NOT_LEADER && err != ERR_AGAIN && err != ERR_BUSY)
            return err;
        sim_nap();
    }
    return err;
}

static const char *get(uint32_t node, const char *key, bool stale)
{
    static char out[64];

    return sim_get(&s, node, key, out, sizeof(out), stale) == 0 ? out : "(refused)";
}

static struct log *main_log(uint32_t node, uint32_t partition)
{
    return partition_main_log(sim_partition(&s, node, partition));
}

static uint32_t other(uint32_t leader)
{
    return leader % s.nodes + 1;
}

static void fill(int from, int to)
{
    char value[1024];

    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    for (int i = from; i < to; i++) {
        char key[32];

        snprintf(key, sizeof(key), "key:%d", i % 700);
        cr_assert_eq(set(key, value, NULL), 0);
    }
}

Test(replicate, what_is_written_to_a_leader_is_in_all_its_replicas)
{
    sim_init(&s, 3, 4);
    sim_begin(&s, 3);
    for (int i = 0; i < 500; i++) {
        char key[32];

        snprintf(key, sizeof(key), "key:%d", i);
        cr_assert_eq(set(key, "value", NULL), 0);
    }
    cr_assert(SIM_WAIT(sim_equal(&s)));
    for (uint32_t p = 0; p < s.partitions; p++) {
        for (uint32_t n = 1; n <= 3; n++)
            cr_assert_eq(log_hw(main_log(n, p)), log_end(main_log(n, p)));
        cr_assert_eq(sim_insync(&s, p), 3);
    }
    sim_end(&s);
}

Test(replicate, a_follower_serves_only_who_asked_for_stale_reads)
{
    uint32_t leader;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    leader = leader_of("k");
    cr_assert_eq(set("k", "v", NULL), 0);
    cr_assert_eq(sim_set(&s, other(leader), "k", "w", NULL), ERR_NOT_LEADER);
    cr_assert_str_eq(get(other(leader), "k", false), "(refused)");
    cr_assert(SIM_WAIT(strcmp(get(other(leader), "k", true), "v") == 0));
    sim_end(&s);
}

Test(replicate, after_a_failover_what_was_committed_is_there_and_the_old_leader_follows)
{
    uint32_t old, now;
    int64_t end;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    old = leader_of("k");
    cr_assert_eq(set("k", "first", &end), 0);
    cr_assert(SIM_WAIT(log_hw(main_log(old, 0)) >= end));
    sim_stop(&s, old);
    sim_fence(&s, old, false);
    now = leader_of("k");
    cr_assert(now != 0 && now != old);
    cr_assert_eq(set("j", "second", NULL), 0);
    cr_assert_str_eq(get(now, "k", false), "first");
    sim_start(&s, old);
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    cr_assert(SIM_WAIT(sim_equal(&s)));
    cr_assert_eq(partition_role(sim_partition(&s, old, 0)), PARTITION_FOLLOWER);
    sim_end(&s);
}

Test(replicate, a_cut_off_leader_gives_up_what_only_it_had)
{
    uint32_t old, now;
    int64_t end;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    old = leader_of("k");
    cr_assert_eq(set("k", "kept", &end), 0);
    cr_assert(SIM_WAIT(log_hw(main_log(old, 0)) >= end));
    sim_isolate(&s, old, true);
    /* It does not hear of its end yet: at level leader it still takes writes. */
    s.node[old].up = false;
    for (int i = 0; i < 50; i++)
        cr_assert_eq(sim_set(&s, old, "k", "lost", NULL), 0);
    cr_assert_eq(log_hw(main_log(old, 0)), end);
    sim_fence(&s, old, false);
    now = leader_of("k");
    cr_assert_neq(now, old);
    cr_assert_eq(set("j", "other", NULL), 0);
    s.node[old].up = true;
    sim_isolate(&s, old, false);
    sim_activate(&s, old);
    cr_assert(SIM_WAIT(sim_equal(&s)));
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    cr_assert_str_eq(get(old, "k", true), "kept");
    cr_assert_str_eq(get(old, "j", true), "other");
    sim_end(&s);
}

Test(replicate, a_lagging_follower_leaves_the_set_and_comes_back)
{
    uint32_t leader, gone;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    leader = leader_of("k");
    gone = other(leader);
    sim_isolate(&s, gone, true);
    cr_assert_eq(set("k", "v", NULL), 0);
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 2));
    cr_assert(!sim_is_insync(&s, 0, gone));
    cr_assert(SIM_WAIT(log_hw(main_log(leader, 0)) == log_end(main_log(leader, 0))));
    cr_assert(partition_quorum_ok(sim_partition(&s, leader, 0)));
    sim_isolate(&s, gone, false);
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    cr_assert(SIM_WAIT(sim_equal(&s)));
    sim_end(&s);
}

Test(replicate, below_min_insync_nothing_is_committed)
{
    uint32_t leader;
    int64_t hw;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    leader = leader_of("k");
    cr_assert_eq(set("k", "v", NULL), 0);
    cr_assert(SIM_WAIT(log_hw(main_log(leader, 0)) == log_end(main_log(leader, 0))));
    hw = log_hw(main_log(leader, 0));
    for (uint32_t n = 1; n <= 3; n++)
        if (n != leader)
            sim_isolate(&s, n, true);
    cr_assert_eq(set("k", "w", NULL), 0);
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 1));
    cr_assert(SIM_WAIT(!partition_quorum_ok(sim_partition(&s, leader, 0))));
    cr_assert(SIM_WAIT(log_durable(main_log(leader, 0)) == log_end(main_log(leader, 0))));
    for (int i = 0; i < 50; i++)
        sim_nap();
    cr_assert_eq(log_hw(main_log(leader, 0)), hw);
    for (uint32_t n = 1; n <= 3; n++)
        sim_isolate(&s, n, false);
    cr_assert(SIM_WAIT(log_hw(main_log(leader, 0)) == log_end(main_log(leader, 0))));
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3 && partition_quorum_ok(sim_partition(&s, leader, 0))));
    sim_end(&s);
}

Test(replicate, alone_in_the_set_a_leader_commits_what_it_has_synced)
{
    uint32_t leader;

    sim_init(&s, 2, 1);
    s.sync_ms = 3600 * 1000; /* only when asked */
    sim_begin(&s, 2);
    leader = leader_of("k");
    sim_isolate(&s, other(leader), true);
    cr_assert_eq(set("k", "v", NULL), 0);
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 1));
    cr_assert(SIM_WAIT(log_hw(main_log(leader, 0)) == log_end(main_log(leader, 0))));
    cr_assert_eq(log_durable(main_log(leader, 0)), log_end(main_log(leader, 0)));
    sim_end(&s);
}

/* A new leader with a log that nobody appends to: it hears nothing of a follower, which is no sign that it has everything. */
Test(replicate, a_follower_that_a_new_leader_never_hears_of_leaves_the_set)
{
    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    cr_assert_eq(leader_of("k"), 1);
    cr_assert_eq(set("k", "v", NULL), 0);
    cr_assert(SIM_WAIT(sim_equal(&s) && sim_insync(&s, 0) == 3));
    sim_isolate(&s, 3, true);
    sim_fence(&s, 1, false);
    cr_assert(SIM_WAIT(sim_leader(&s, 0) == 2 && partition_role(sim_partition(&s, 2, 0)) == PARTITION_LEADER));
    cr_assert(SIM_WAIT(!sim_is_insync(&s, 0, 3)));
    cr_assert(SIM_WAIT(log_hw(main_log(2, 0)) == log_end(main_log(2, 0))));
    sim_end(&s);
}

Test(replicate, wait_counts_in_sync_followers_once_the_write_is_committed)
{
    uint32_t leader;
    int64_t end;
    struct partition *p;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    leader = leader_of("k");
    p = sim_partition(&s, leader, 0);
    cr_assert_eq(set("k", "v", &end), 0);
    cr_assert(SIM_WAIT(replication_acked(s.node[leader].r, p, end, false) == 2));
    cr_assert(SIM_WAIT(replication_acked(s.node[leader].r, p, end, true) == 2));
    cr_assert_eq(replication_acked(s.node[leader].r, p, end + 1, false), 0);
    sim_end(&s);
}

Test(replicate, a_successor_commits_nothing_while_the_old_lease_may_run)
{
    uint32_t old, now;
    int64_t end;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    old = leader_of("k");
    cr_assert_eq(set("k", "v", &end), 0);
    cr_assert(SIM_WAIT(log_hw(main_log(old, 0)) >= end));
    sim_stop(&s, old);
    sim_fence(&s, old, true);
    now = leader_of("k");
    cr_assert_eq(set("k", "w", &end), 0);
    for (int i = 0; i < 60; i++)
        sim_nap();
    cr_assert_lt(log_hw(main_log(now, 0)), end);
    cr_assert(SIM_WAIT(log_hw(main_log(now, 0)) >= end));
    sim_end(&s);
}

Test(replicate, a_handover_moves_the_leadership_and_loses_nothing)
{
    uint32_t from, to;
    int written = 0;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    from = leader_of("k");
    to = other(from);
    for (int round = 0; round < 4; round++) {
        uint32_t leader = leader_of("k");

        cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
        replication_hand_over(s.node[leader].r, 0, leader == from ? to : from);
        for (int i = 0; i < 200; i++, written++) {
            char key[32];

            snprintf(key, sizeof(key), "key:%d", written);
            cr_assert_eq(set(key, "v", NULL), 0);
        }
        cr_assert(SIM_WAIT(leader_of("k") != leader));
        cr_assert(SIM_WAIT(partition_role(sim_partition(&s, leader_of("k"), 0)) == PARTITION_LEADER));
    }
    for (int i = 0; i < written; i++) {
        char key[32];

        snprintf(key, sizeof(key), "key:%d", i);
        cr_assert_str_eq(get(leader_of("k"), key, false), "v");
    }
    cr_assert(SIM_WAIT(sim_equal(&s)));
    sim_end(&s);
}

Test(replicate, who_leaves_hands_everything_over_first)
{
    sim_init(&s, 3, 8);
    sim_begin(&s, 3);
    fill(0, 50);
    for (uint32_t p = 0; p < s.partitions; p++)
        cr_assert(SIM_WAIT(sim_insync(&s, p) == 3));
    replication_leave(s.node[1].r, 5000);
    for (uint32_t p = 0; p < s.partitions; p++)
        cr_assert_neq(sim_leader(&s, p), 1);
    fill(50, 100);
    cr_assert(SIM_WAIT(sim_equal(&s)));
    sim_end(&s);
}

Test(replicate, a_handover_that_cannot_drain_is_given_up)
{
    uint32_t leader, to;

    sim_init(&s, 3, 1);
    s.lag_max_ms = 5000;
    sim_begin(&s, 3);
    leader = leader_of("k");
    to = other(leader);
    sim_isolate(&s, to, true);
    cr_assert_eq(set("k", "v", NULL), 0);
    replication_hand_over(s.node[leader].r, 0, to);
    cr_assert(SIM_WAIT(partition_role(sim_partition(&s, leader, 0)) == PARTITION_PARKED));
    cr_assert(SIM_WAIT(partition_role(sim_partition(&s, leader, 0)) == PARTITION_LEADER));
    cr_assert_eq(leader_of("k"), leader);
    cr_assert_eq(set("k", "w", NULL), 0);
    sim_isolate(&s, to, false);
    cr_assert(SIM_WAIT(sim_equal(&s)));
    sim_end(&s);
}

static void snapshot_taken(void *arg, int err)
{
    __atomic_store_n((int *)arg, err == 0 ? 1 : err, __ATOMIC_RELEASE);
}

static bool take_snapshot(uint32_t node)
{
    int done = 0;

    partitions_snapshot(s.node[node].ps, 0, snapshot_taken, &done);
    return SIM_WAIT(__atomic_load_n(&done, __ATOMIC_ACQUIRE) != 0) && done == 1;
}

Test(replicate, a_follower_too_far_behind_gets_the_leaders_snapshot)
{
    uint32_t leader, away;

    sim_init(&s, 3, 1);
    s.segment_bytes = 128 << 10;
    sim_begin(&s, 3);
    leader = leader_of("k");
    away = other(leader);
    fill(0, 100);
    cr_assert(SIM_WAIT(sim_equal(&s)));
    sim_stop(&s, away);
    sim_fence(&s, away, false);
    fill(100, 3000);
    cr_assert(take_snapshot(leader));
    cr_assert_gt(log_start(main_log(leader, 0)), 200);
    fill(3000, 3200);
    sim_start(&s, away);
    cr_assert(SIM_WAIT(sim_equal(&s)));
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    cr_assert_gt(log_start(main_log(away, 0)), 200);
    /* It is a replica like any other: it restarts from what it got, and leads. */
    sim_stop(&s, away);
    sim_start(&s, away);
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    sim_stop(&s, leader);
    sim_fence(&s, leader, false);
    fill(3200, 3300);
    sim_start(&s, leader);
    cr_assert(SIM_WAIT(sim_equal(&s)));
    sim_end(&s);
}

Test(replicate, a_snapshot_comes_through_a_lossy_network)
{
    uint32_t leader, away;

    sim_init(&s, 3, 1);
    s.segment_bytes = 128 << 10;
    sim_begin(&s, 3);
    leader = leader_of("k");
    away = other(leader);
    sim_isolate(&s, away, true);
    fill(0, 1000);
    cr_assert(SIM_WAIT(log_hw(main_log(leader, 0)) == log_end(main_log(leader, 0))));
    cr_assert(take_snapshot(leader));
    fill(1000, 2000);
    cr_assert(take_snapshot(leader));
    s.loss = 100; /* a tenth of all messages breaks: the transfer goes on where it was */
    sim_isolate(&s, away, false);
    cr_assert(SIM_WAIT(sim_equal(&s)));
    s.loss = 0;
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    sim_end(&s);
}

Test(replicate, random_faults_leave_equal_replicas)
{
    const char *from = getenv("REPLICATE_SEED"), *n = getenv("REPLICATE_SEEDS");
    uint64_t first = from != NULL ? strtoull(from, NULL, 10) : 1, count = n != NULL ? strtoull(n, NULL, 10) : 3;

    for (uint64_t seed = first; seed < first + count; seed++)
        cr_assert(random_run(seed, NULL), "seed %llu", (unsigned long long)seed);
}
