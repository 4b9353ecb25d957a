/* Changes of members (dissertation 4): one server at a time, after an entry of the term is committed, the latest configuration in the log counts. */
#include "group.h"

static struct group g;

static void three(void)
{
    group_new(&g, 3);
    elect(&g, 1);
    heartbeat(&g, 1);
    group_blank(&g, 4, 0);
}

static void fini(void)
{
    group_free(&g);
}

#define CORE(name) Test(raft_members, name, .init = three, .fini = fini)

static void settle(uint32_t leader)
{
    for (int i = 0; i < 40; i++)
        heartbeat(&g, leader);
}

static size_t members(struct raft *r, size_t *ret_voters)
{
    struct raft_member *m;
    size_t n;

    cr_assert_eq(raft_config_decode(raft_config(r), &m, &n), 0);
    *ret_voters = 0;
    for (size_t i = 0; i < n; i++)
        *ret_voters += m[i].voter;
    mem_free(m);
    return n;
}

CORE(a_learner_gets_the_log_and_counts_for_nothing)
{
    size_t voters;
    uint64_t index;

    propose(&g, 1, 3);
    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 4, 0), 0);
    settle(1);
    cr_assert_eq(g.s[4].sum, 3);
    cr_assert_eq(members(g.s[4].r, &voters), 4);
    cr_assert_eq(voters, 3);
    isolate(&g, 2, true);
    isolate(&g, 3, true);
    index = propose(&g, 1, 1);
    deliver(&g);
    cr_assert_lt(raft_commit(g.s[1].r), index, "two copies, one of a learner");
}

CORE(a_learner_becomes_a_voter_when_it_has_caught_up)
{
    size_t voters;

    cr_assert_eq(change(&g, 1, RAFT_PROMOTE, 4, 0), ERR_NOT_FOUND);
    isolate(&g, 4, true);
    for (int i = 0; i < 100; i++)
        propose(&g, 1, 1);
    deliver(&g);
    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 4, 0), 0);
    deliver(&g);
    cr_assert_eq(change(&g, 1, RAFT_PROMOTE, 4, 0), ERR_AGAIN);
    isolate(&g, 4, false);
    settle(1);
    cr_assert_eq(change(&g, 1, RAFT_PROMOTE, 4, 9), ERR_NOT_FOUND, "another disk");
    cr_assert_eq(change(&g, 1, RAFT_PROMOTE, 4, 0), 0);
    cr_assert_eq(change(&g, 1, RAFT_PROMOTE, 4, 0), ERR_BUSY);
    deliver(&g);
    settle(1);
    cr_assert_eq(members(g.s[4].r, &voters), 4);
    cr_assert_eq(voters, 4);
    cr_assert_eq(change(&g, 1, RAFT_PROMOTE, 4, 0), ERR_EXISTS);
}

CORE(one_change_at_a_time)
{
    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 4, 0), 0);
    cr_assert_eq(change(&g, 1, RAFT_REMOVE, 3, 0), ERR_BUSY);
    deliver(&g);
    cr_assert_eq(change(&g, 1, RAFT_REMOVE, 3, 0), 0);
}

/* The hole that single-server changes had when they were published (Ongaro, 2015). */
Test(raft_members, no_change_before_an_entry_of_the_term_is_committed, .fini = fini)
{
    group_new(&g, 3);
    group_blank(&g, 4, 0);
    tick(&g, 1, 2 * ELECTION);
    deliver_type(&g, RAFT_MSG_PRE_VOTE);
    deliver_type(&g, RAFT_MSG_PRE_VOTE_RESP);
    deliver_type(&g, RAFT_MSG_VOTE);
    deliver_type(&g, RAFT_MSG_VOTE_RESP);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER);
    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 4, 0), ERR_BUSY);
    cr_assert_eq(change(&g, 2, RAFT_ADD_LEARNER, 4, 0), ERR_NOT_LEADER);
    deliver(&g);
    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 4, 0), 0);
}

CORE(a_configuration_counts_from_the_log_on_and_is_rolled_back_with_it)
{
    size_t voters;

    isolate(&g, 1, true);
    cr_assert_eq(change(&g, 1, RAFT_REMOVE, 3, 0), 0);
    cr_assert_eq(members(g.s[1].r, &voters), 2);
    for (int i = 0; i < 20; i++)
        tick(&g, 1, HEARTBEAT);
    elect(&g, 3);
    isolate(&g, 1, false);
    settle(3);
    cr_assert_eq(members(g.s[1].r, &voters), 3, "as if it had not been");
    cr_assert_eq(raft_leader(g.s[1].r), 3);
}

CORE(a_leader_that_is_removed_leads_until_that_is_committed)
{
    size_t voters;

    cr_assert_eq(change(&g, 1, RAFT_REMOVE, 1, 0), 0);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER);
    deliver(&g);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_FOLLOWER);
    cr_assert_eq(members(g.s[2].r, &voters), 2);
    cr_assert_eq(raft_commit(g.s[2].r), raft_last_index(g.s[2].r), "they were told before it left");
    elect(&g, 2);
    for (int i = 0; i < 10; i++)
        tick(&g, 1, 2 * ELECTION);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_FOLLOWER, "who is out stays quiet");
}

CORE(a_replaced_disk_loses_its_vote_in_the_entry_that_adds_it_as_learner)
{
    size_t voters;

    group_blank(&g, 3, 7);
    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 3, 7), 0);
    deliver(&g);
    settle(1);
    cr_assert_eq(members(g.s[1].r, &voters), 3);
    cr_assert_eq(voters, 2);
    cr_assert_eq(g.s[3].applied, g.s[1].applied);
    cr_assert_eq(change(&g, 1, RAFT_PROMOTE, 3, 7), 0);
    deliver(&g);
    settle(1);
    members(g.s[3].r, &voters);
    cr_assert_eq(voters, 3);
}

CORE(an_address_changes_without_a_vote_lost)
{
    size_t voters;

    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 2, 0), 0, "host:2 instead of host:1");
    deliver(&g);
    cr_assert_eq(members(g.s[2].r, &voters), 3);
    cr_assert_eq(voters, 3);
    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 2, 0), ERR_EXISTS);
    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 1, 5), ERR_INVALID, "its own disk is here and alive");
}

Test(raft_members, the_last_voter_cannot_go, .fini = fini)
{
    group_new(&g, 1);
    tick(&g, 1, 0);
    cr_assert_eq(change(&g, 1, RAFT_REMOVE, 1, 0), ERR_INVALID);
    cr_assert_eq(change(&g, 1, RAFT_DEMOTE, 1, 0), ERR_INVALID);
}

/* A group of one grows to two, then shrinks from the other end: the seeds of trouble (4.2.2), found by the simulator as seed 11. */
Test(raft_members, who_is_being_removed_may_still_be_elected, .fini = fini)
{
    size_t voters;

    group_new(&g, 2);
    elect(&g, 1);
    heartbeat(&g, 1);
    isolate(&g, 2, true);
    cr_assert_eq(change(&g, 1, RAFT_REMOVE, 1, 0), 0);
    for (int i = 0; i < 30; i++)
        tick(&g, 1, HEARTBEAT);
    cr_assert_neq(raft_role(g.s[1].r), RAFT_LEADER);
    isolate(&g, 2, false);
    for (int i = 0; i < 4 && raft_role(g.s[1].r) != RAFT_LEADER && raft_commit(g.s[2].r) < 3; i++) {
        tick(&g, 2, 2 * ELECTION); /* its log is too short to win */
        deliver(&g);
        cr_assert_neq(raft_role(g.s[2].r), RAFT_LEADER);
        tick(&g, 1, 2 * ELECTION);
        deliver(&g);
    }
    cr_assert_eq(members(g.s[2].r, &voters), 1, "1 came back to lead, and committed that it goes");
    elect(&g, 2);
    cr_assert(raft_is_alone(g.s[2].r));
}

/* Leader 1 gives its last entry to learner 4 alone and loses its disk; 2 and 3 could not win against 4 if it had a say, and here must not be kept from electing one. */
CORE(a_learner_with_the_newest_log_leads_as_a_last_resort)
{
    uint64_t index;

    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 4, 0), 0);
    settle(1);
    isolate(&g, 2, true);
    isolate(&g, 3, true);
    index = propose(&g, 1, 9);
    deliver(&g);
    cr_assert_eq(raft_last_index(g.s[4].r), index);
    isolate(&g, 1, true);
    isolate(&g, 2, false);
    isolate(&g, 3, false);
    isolate(&g, 1, true);
    for (int i = 0; i < 5; i++) {
        tick(&g, 4, 2 * ELECTION);
        deliver(&g);
        cr_assert_eq(raft_role(g.s[4].r), RAFT_FOLLOWER, "not while the voters may still do it");
    }
    for (int i = 0; i < 3 && raft_commit(g.s[2].r) < index; i++) {
        tick(&g, 4, 2 * ELECTION);
        deliver(&g);
    }
    cr_assert_geq(raft_commit(g.s[2].r), index);
    cr_assert_eq(raft_role(g.s[4].r), RAFT_FOLLOWER, "it gave the leadership back");
    elect(&g, 2);
}

CORE(a_snapshot_carries_the_configuration)
{
    size_t voters;

    cr_assert_eq(change(&g, 1, RAFT_DEMOTE, 3, 0), 0);
    deliver(&g);
    propose(&g, 1, 4);
    deliver(&g);
    save_snapshot(&g, 1, 0);
    cr_assert_eq(change(&g, 1, RAFT_ADD_LEARNER, 4, 0), 0);
    deliver(&g);
    settle(1);
    cr_assert_eq(g.s[4].sum, 4);
    cr_assert_gt(g.s[4].steps_chunk, 0);
    cr_assert_eq(members(g.s[4].r, &voters), 4);
    cr_assert_eq(voters, 2);
}

Test(raft_members, a_malformed_configuration_is_refused)
{
    struct raft_member m[2] = {{.node = {.id = 1}, .voter = true, .address = SLICE_LIT("a")}, {.node = {.id = 2}, .address = SLICE_LIT("bb")}}, *ret;
    struct buf b = {0};
    size_t n;

    raft_config_encode(m, 2, &b);
    cr_assert_eq(raft_config_decode(buf_slice(&b), &ret, &n), 0);
    cr_assert_eq(n, 2);
    cr_assert(slice_eq(ret[1].address, SLICE_LIT("bb")));
    mem_free(ret);
    for (size_t cut = 0; cut < b.len; cut++)
        cr_assert_eq(raft_config_decode(slice_of(b.data, cut), &ret, &n), ERR_MALFORMED);
    b.data[0] = 3;
    cr_assert_eq(raft_config_decode(buf_slice(&b), &ret, &n), ERR_MALFORMED);
    b.data[0] = 1;
    cr_assert_eq(raft_config_decode(buf_slice(&b), &ret, &n), ERR_MALFORMED, "bytes left over");
    b.data[0] = 2;
    b.data[4] = 2; /* ids must ascend */
    cr_assert_eq(raft_config_decode(buf_slice(&b), &ret, &n), ERR_MALFORMED);
    buf_fini(&b);
}
