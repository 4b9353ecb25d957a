/* Elections: Figure 2 (RequestVote), pre-vote (dissertation 9.6), stickiness (4.2.3), check quorum (6.2), transfer (3.10), identity. */
#include "group.h"

static struct group g;

static void three(void)
{
    group_new(&g, 3);
}

static void fini(void)
{
    group_free(&g);
}

#define CORE(name) Test(raft_election, name, .init = three, .fini = fini)

CORE(a_majority_elects_and_the_rest_follows)
{
    elect(&g, 1);
    for (unsigned i = 1; i <= 3; i++) {
        cr_assert_eq(raft_leader(g.s[i].r), 1);
        cr_assert_eq(raft_current_term(g.s[i].r), 2);
    }
    heartbeat(&g, 1);
    cr_assert_eq(raft_commit(g.s[1].r), 2, "the no-op");
    cr_assert_eq(g.s[3].applied, 2);
}

CORE(no_term_is_spent_while_nobody_would_vote)
{
    isolate(&g, 1, true);
    for (int i = 0; i < 20; i++)
        tick(&g, 1, 2 * ELECTION);
    cr_assert_eq(raft_current_term(g.s[1].r), 1);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_PRE_CANDIDATE);
}

CORE(who_hears_a_leader_does_not_help_to_depose_it)
{
    struct raft_message m;

    elect(&g, 1);
    m = message(&g, RAFT_MSG_VOTE, 3, 2, 9);
    m.index = 100;
    m.index_term = 8;
    give(&g, &m);
    cr_assert_eq(raft_current_term(g.s[2].r), 2, "not even the term is taken over");
    cr_assert_eq(count(&g, RAFT_MSG_VOTE_RESP, 3), 0);
    m.to = g.s[1].self;
    give(&g, &m);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER);
    m = message(&g, RAFT_MSG_PRE_VOTE, 3, 2, 9);
    m.index = 100;
    m.index_term = 8;
    g.now += ELECTION;
    give(&g, &m);
    cr_assert_eq(g.letters[g.letter_n - 1].type, RAFT_MSG_PRE_VOTE_RESP);
    deliver(&g);
    cr_assert_eq(raft_current_term(g.s[2].r), 2);
}

CORE(a_vote_is_given_once_a_term_and_again_to_the_same)
{
    struct raft_message m = message(&g, RAFT_MSG_VOTE, 1, 3, 5);

    m.index = m.index_term = 1;
    give(&g, &m);
    cr_assert_eq(count(&g, RAFT_MSG_VOTE_RESP, 1), 1);
    cr_assert(g.s[3].up.message_count == 1);
    drop_all(&g);
    give(&g, &m); /* the answer was lost */
    deliver_type(&g, 0);
    cr_assert_eq(count(&g, RAFT_MSG_VOTE_RESP, 1), 1);
    m.from = node_of(2, 0);
    give(&g, &m);
    struct raft_decoder d = {0};

    cr_assert_eq(raft_decode(buf_slice(&g.letters[g.letter_n - 1].bytes), &d), 0);
    cr_assert_eq(d.m.to.id, 2);
    cr_assert_not(d.m.granted);
    m.from = node_of(1, 7); /* the same id with another disk is somebody else */
    give(&g, &m);
    cr_assert_eq(raft_decode(buf_slice(&g.letters[g.letter_n - 1].bytes), &d), 0);
    cr_assert_not(d.m.granted);
    raft_decoder_fini(&d);
}

CORE(a_vote_leaves_only_when_it_is_durable)
{
    struct raft_message m = message(&g, RAFT_MSG_VOTE, 1, 3, 5);

    m.index = m.index_term = 1;
    g.s[3].slow = true;
    give(&g, &m);
    cr_assert(g.s[3].up.vote_changed);
    cr_assert_eq(g.s[3].up.vote.id, 1);
    cr_assert_eq(g.letter_n, 0);
    persist(&g, 3);
    cr_assert_eq(count(&g, RAFT_MSG_VOTE_RESP, 1), 1);
}

CORE(a_candidate_asks_only_when_its_own_vote_is_durable)
{
    g.s[1].slow = true;
    tick(&g, 1, 2 * ELECTION);
    deliver(&g); /* pre-votes */
    cr_assert_eq(raft_role(g.s[1].r), RAFT_CANDIDATE);
    cr_assert_eq(g.letter_n, 0);
    persist(&g, 1);
    cr_assert_eq(count(&g, RAFT_MSG_VOTE, 0), 2);
}

Test(raft_election, a_shorter_or_older_log_gets_no_vote, .fini = fini)
{
    struct raft_message m;
    struct raft_decoder d = {0};
    static const struct {
        uint64_t index, term;
        bool granted;
    } cases[] = {{3, 2, false}, {4, 2, false}, {9, 2, false}, {3, 3, false}, {4, 3, true}, {5, 3, true}, {1, 4, true}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (uint8_t type = RAFT_MSG_PRE_VOTE; type <= RAFT_MSG_VOTE; type += 2) {
            memset(&g, 0, sizeof(g));
            g.now = 1;
            group_server(&g, 1, 3, 3, (const uint64_t[]){1, 1, 2, 3}, 4);
            m = message(&g, type, 2, 1, 10);
            m.index = cases[i].index;
            m.index_term = cases[i].term;
            give(&g, &m);
            cr_assert_eq(g.letter_n, 1);
            cr_assert_eq(raft_decode(buf_slice(&g.letters[0].bytes), &d), 0);
            cr_assert_eq(d.m.granted, cases[i].granted, "case %zu", i);
            cr_assert_eq(raft_current_term(g.s[1].r), type == RAFT_MSG_VOTE ? 10 : 3);
            if (i + 1 < sizeof(cases) / sizeof(cases[0]) || type == RAFT_MSG_PRE_VOTE)
                group_free(&g);
        }
    }
    raft_decoder_fini(&d);
}

CORE(a_leader_without_a_majority_steps_down)
{
    uint64_t now;

    elect(&g, 1);
    isolate(&g, 1, true);
    now = g.now;
    while (raft_role(g.s[1].r) == RAFT_LEADER && g.now < now + 10 * ELECTION)
        tick(&g, 1, HEARTBEAT);
    cr_assert_neq(raft_role(g.s[1].r), RAFT_LEADER);
    cr_assert_leq(g.now, now + ELECTION + 2 * HEARTBEAT);
    cr_assert_eq(raft_leader(g.s[1].r), 0);
}

CORE(a_leader_that_sees_a_higher_term_follows)
{
    struct raft_message m;

    elect(&g, 1);
    m = message(&g, RAFT_MSG_APPEND_RESP, 2, 1, 7);
    give(&g, &m);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_FOLLOWER);
    cr_assert_eq(raft_current_term(g.s[1].r), 7);
}

CORE(a_deposed_leader_is_told_so)
{
    elect(&g, 1);
    isolate(&g, 1, true);
    elect(&g, 2);
    isolate(&g, 1, false);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER, "it does not know yet");
    struct raft_message m = message(&g, RAFT_MSG_APPEND, 1, 3, 2);

    give(&g, &m);
    deliver(&g);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_FOLLOWER);
}

CORE(leadership_goes_to_whom_it_is_handed)
{
    struct slice payload = SLICE_LIT("x");

    elect(&g, 1);
    heartbeat(&g, 1);
    isolate(&g, 3, true);
    propose(&g, 1, 1);
    deliver(&g);
    isolate(&g, 3, false);
    cr_assert_eq(step(&g, 1, (struct raft_event){.type = RAFT_TRANSFER, .target = 3}), 0);
    cr_assert_eq(count(&g, RAFT_MSG_TIMEOUT_NOW, 3), 0, "it lacks an entry");
    cr_assert_eq(step(&g, 1, (struct raft_event){.type = RAFT_PROPOSE, .payloads = &payload, .payload_count = 1}), ERR_BUSY);
    tick(&g, 1, HEARTBEAT);
    deliver(&g);
    cr_assert_eq(raft_role(g.s[3].r), RAFT_LEADER, "at once, although 2 and 1 have just heard a leader");
    cr_assert_eq(raft_leader(g.s[1].r), 3);
}

CORE(a_transfer_to_the_dead_is_given_up)
{
    elect(&g, 1);
    heartbeat(&g, 1);
    cr_assert_eq(step(&g, 1, (struct raft_event){.type = RAFT_TRANSFER, .target = 9}), ERR_NOT_FOUND);
    isolate(&g, 3, true);
    propose(&g, 1, 1);
    deliver(&g);
    cr_assert_eq(step(&g, 1, (struct raft_event){.type = RAFT_TRANSFER, .target = 3}), 0);
    for (int i = 0; i < 12 && !g.s[1].up.transfer_failed; i++) {
        tick(&g, 1, HEARTBEAT);
        if (!g.s[1].up.transfer_failed)
            deliver(&g);
    }
    cr_assert(g.s[1].up.transfer_failed);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER);
    propose(&g, 1, 2);
}

CORE(a_leader_known_to_be_dead_is_replaced_without_waiting)
{
    uint64_t died;

    elect(&g, 1);
    heartbeat(&g, 1);
    isolate(&g, 1, true);
    died = g.now;
    step(&g, 2, (struct raft_event){.type = RAFT_LEADER_GONE, .target = 3});
    cr_assert_eq(raft_leader(g.s[2].r), 1, "3 is not the leader");
    step(&g, 2, (struct raft_event){.type = RAFT_LEADER_GONE, .target = 1});
    cr_assert_leq(raft_deadline(g.s[2].r), died + 2 * HEARTBEAT);
    tick(&g, 2, 2 * HEARTBEAT);
    deliver(&g);
    cr_assert_eq(raft_role(g.s[2].r), RAFT_PRE_CANDIDATE, "3 does not believe it");
    step(&g, 3, (struct raft_event){.type = RAFT_LEADER_GONE, .target = 1});
    tick(&g, 3, 2 * HEARTBEAT);
    deliver(&g);
    cr_assert_eq(raft_role(g.s[3].r), RAFT_LEADER);
    cr_assert_lt(g.now, died + ELECTION);
}

CORE(an_empty_disk_with_the_old_id_has_no_vote)
{
    elect(&g, 1);
    heartbeat(&g, 1);
    isolate(&g, 1, true);
    group_blank(&g, 3, 99); /* the same id */
    tick(&g, 2, 2 * ELECTION);
    deliver(&g);
    cr_assert_eq(raft_role(g.s[2].r), RAFT_PRE_CANDIDATE, "messages for the old disk are not for this one");
    /* and even an answer from it does not count */
    struct raft_message m = message(&g, RAFT_MSG_PRE_VOTE_RESP, 3, 2, 3);

    m.granted = true;
    m.from = node_of(3, 99);
    give(&g, &m);
    cr_assert_eq(raft_role(g.s[2].r), RAFT_PRE_CANDIDATE);
    m.from = node_of(3, 0);
    give(&g, &m);
    cr_assert_eq(raft_role(g.s[2].r), RAFT_CANDIDATE);
}

CORE(a_node_without_configuration_never_stands_for_election)
{
    group_blank(&g, 4, 0);
    for (int i = 0; i < 10; i++)
        tick(&g, 4, 2 * ELECTION);
    cr_assert_eq(raft_role(g.s[4].r), RAFT_FOLLOWER);
    cr_assert_eq(g.letter_n, 0);
}

Test(raft_election, a_node_alone_leads_at_its_first_tick_and_commits_at_once, .fini = fini)
{
    group_new(&g, 1);
    cr_assert(raft_is_alone(g.s[1].r));
    cr_assert_leq(raft_deadline(g.s[1].r), g.now);
    tick(&g, 1, 0);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER);
    uint64_t index = propose(&g, 1, 5);

    cr_assert_eq(raft_commit(g.s[1].r), index);
    cr_assert_eq(raft_deadline(g.s[1].r), UINT64_MAX, "nothing to wake up for");
    cr_assert_eq(step(&g, 1, (struct raft_event){.type = RAFT_READ, .ctx = 7}), 0);
    cr_assert_eq(g.s[1].read_n, 1);
    cr_assert_eq(g.s[1].reads[0].index, index);
}

CORE(a_late_vote_of_a_former_term_does_not_count)
{
    struct raft_message m;

    isolate(&g, 2, true);
    isolate(&g, 3, true);
    tick(&g, 1, 2 * ELECTION);
    m = message(&g, RAFT_MSG_PRE_VOTE_RESP, 2, 1, 2);
    m.granted = true;
    give(&g, &m);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_CANDIDATE);
    m = message(&g, RAFT_MSG_VOTE_RESP, 2, 1, 1);
    m.granted = true;
    give(&g, &m);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_CANDIDATE);
    m.term = 2;
    give(&g, &m);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER);
}
