/* AppendEntries, commit (Figure 2, Figure 8), what is promised before it is durable, ReadIndex (6.4), snapshots (5.3). */
#include "group.h"

static struct group g;

static void three(void)
{
    group_new(&g, 3);
    elect(&g, 1);
    heartbeat(&g, 1);
}

static void five(void)
{
    group_new(&g, 5);
}

static void fini(void)
{
    group_free(&g);
}

#define CORE(name) Test(raft_replicate, name, .init = three, .fini = fini)

CORE(an_entry_is_committed_by_a_majority_and_applied_by_all_without_a_heartbeat)
{
    uint64_t index = propose(&g, 1, 5);

    deliver(&g);
    for (unsigned i = 1; i <= 3; i++) {
        cr_assert_eq(raft_commit(g.s[i].r), index);
        cr_assert_eq(g.s[i].sum, 5);
    }
    struct raft_peer_status peers[5];

    cr_assert_eq(raft_peers(g.s[1].r, peers, 5), 3);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(peers[i].match, index);
        cr_assert_eq(peers[i].applied, index, "rule 17: answers carry the applied index");
    }
}

CORE(the_leaders_own_vote_counts_when_its_disk_has_the_entry)
{
    uint64_t index;

    g.s[1].slow = true;
    isolate(&g, 3, true);
    index = propose(&g, 1, 5);
    cr_assert_eq(count(&g, RAFT_MSG_APPEND, 2), 1, "sent before it is durable here");
    deliver(&g);
    cr_assert_lt(raft_commit(g.s[1].r), index, "one durable copy of three");
    persist(&g, 1);
    cr_assert_eq(raft_commit(g.s[1].r), index);
}

CORE(a_majority_commits_without_the_leaders_disk)
{
    uint64_t index;

    g.s[1].slow = true;
    index = propose(&g, 1, 5);
    deliver(&g);
    cr_assert_eq(raft_commit(g.s[1].r), index);
}

CORE(a_follower_vouches_for_what_is_durable_only_and_still_answers_heartbeats)
{
    uint64_t index;

    g.s[2].slow = true;
    isolate(&g, 3, true);
    index = propose(&g, 1, 5);
    deliver(&g);
    for (int i = 0; i < 30; i++)
        heartbeat(&g, 1);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER, "2 is slow, not silent");
    cr_assert_lt(raft_commit(g.s[1].r), index);
    persist(&g, 2);
    deliver(&g);
    cr_assert_eq(raft_commit(g.s[1].r), index);
}

CORE(a_follower_that_was_away_catches_up)
{
    uint64_t index = 0;

    isolate(&g, 3, true);
    for (int i = 0; i < 100; i++) {
        index = propose(&g, 1, 1);
        deliver(&g);
    }
    isolate(&g, 3, false);
    heartbeat(&g, 1);
    heartbeat(&g, 1);
    cr_assert_eq(g.s[3].applied, index);
    cr_assert_eq(g.s[3].sum, 100);
}

CORE(a_lost_message_is_noticed_by_the_next)
{
    uint64_t index;

    propose(&g, 1, 1);
    drop_all(&g);
    index = propose(&g, 1, 1);
    deliver(&g);
    cr_assert_eq(g.s[2].applied, index);
    cr_assert_eq(g.s[3].applied, index);
}

CORE(the_window_bounds_what_is_under_way)
{
    isolate(&g, 3, true);
    for (int i = 0; i < 200; i++)
        propose(&g, 1, 1);
    cr_assert_eq(count(&g, RAFT_MSG_APPEND, 2), 32);
    deliver(&g);
    cr_assert_eq(g.s[2].sum, 200);
}

static const struct raft_entry *entry(uint64_t term, struct raft_entry *e)
{
    *e = (struct raft_entry){.term = term, .data = (const uint8_t *)"\1", .len = 1};
    return e;
}

/* Figure 7's follower (f): a long tail of a term the leader never had. */
Test(raft_replicate, a_conflicting_tail_is_replaced_a_matching_one_is_kept, .fini = fini)
{
    struct raft_message m;
    struct raft_entry e[4];

    memset(&g, 0, sizeof(g));
    g.now = 1;
    group_server(&g, 1, 3, 3, (const uint64_t[]){1, 1, 2, 2, 3, 3}, 6);
    m = message(&g, RAFT_MSG_APPEND, 2, 1, 8);
    m.index = 2;
    m.index_term = 1;
    m.entries = e;
    m.entry_count = 2;
    entry(2, &e[0]);
    entry(2, &e[1]);
    give(&g, &m); /* all there: nothing may be cut, it could be an old message (Figure 2, AppendEntries 3) */
    cr_assert_eq(raft_last_index(g.s[1].r), 6);
    cr_assert_eq(g.s[1].up.truncate_from, 0);
    entry(4, &e[1]);
    g.s[1].slow = true;
    give(&g, &m);
    cr_assert_eq(raft_last_index(g.s[1].r), 4);
    cr_assert_eq(g.s[1].up.truncate_from, 4);
    cr_assert_eq(g.s[1].up.first_index, 4);
    cr_assert_eq(g.s[1].up.entry_count, 1);
    cr_assert_eq(raft_term_at(g.s[1].r, 4), 4);
}

Test(raft_replicate, a_missing_or_different_predecessor_is_refused_with_a_hint, .fini = fini)
{
    struct raft_message m;
    struct raft_decoder d = {0};

    memset(&g, 0, sizeof(g));
    g.now = 1;
    group_server(&g, 1, 3, 3, (const uint64_t[]){1, 1, 2, 2, 3, 3}, 6);
    m = message(&g, RAFT_MSG_APPEND, 2, 1, 8);
    m.index = 20;
    m.index_term = 7;
    give(&g, &m);
    cr_assert_eq(raft_decode(buf_slice(&g.letters[g.letter_n - 1].bytes), &d), 0);
    cr_assert_not(d.m.granted);
    cr_assert_eq(d.m.index, 20);
    cr_assert_eq(d.m.hint, 6);
    cr_assert_eq(d.m.hint_term, 3);
    m.index = 6;
    m.index_term = 2;
    give(&g, &m);
    cr_assert_eq(raft_decode(buf_slice(&g.letters[g.letter_n - 1].bytes), &d), 0);
    cr_assert_not(d.m.granted);
    cr_assert_eq(d.m.hint, 4, "the whole of term 3 is passed over");
    cr_assert_eq(d.m.hint_term, 2);
    raft_decoder_fini(&d);
}

CORE(what_contradicts_a_committed_entry_stops_the_node)
{
    struct raft_message m;
    struct raft_entry e;
    uint64_t index = propose(&g, 1, 1);

    deliver(&g);
    cr_assert_eq(raft_commit(g.s[2].r), index);
    m = message(&g, RAFT_MSG_APPEND, 3, 2, 9);
    m.index = index - 1;
    m.index_term = 2;
    m.entries = entry(9, &e);
    m.entry_count = 1;
    cr_assert_eq(give(&g, &m), ERR_CORRUPT);
    cr_assert_eq(step(&g, 2, (struct raft_event){.type = RAFT_TICK}), ERR_CORRUPT, "and it stays so");
    g.s[2].slow = true;
}

CORE(the_commit_index_of_a_follower_stops_at_what_it_has_seen_of_this_leader)
{
    struct raft_message m = message(&g, RAFT_MSG_APPEND, 3, 2, 9);
    uint64_t last = raft_last_index(g.s[2].r);

    m.index = last;
    m.index_term = 2;
    m.commit = 1000;
    give(&g, &m);
    cr_assert_eq(raft_commit(g.s[2].r), last);
}

/* The host's state machine may be further than what it tells (engines follow later); it may snapshot there. */
Test(raft_replicate, a_snapshot_may_be_ahead_of_what_was_told_as_applied, .fini = fini)
{
    struct raft_update up;
    struct raft_event ev = {.type = RAFT_SNAPSHOT_SAVED, .now_us = 2, .log_first = 3};
    struct raft_message m;
    struct raft_entry e;

    memset(&g, 0, sizeof(g));
    g.now = 1;
    group_server(&g, 1, 3, 1, (const uint64_t[]){1, 1, 1}, 3);
    m = message(&g, RAFT_MSG_APPEND, 2, 1, 1);
    m.index = 3;
    m.index_term = 1;
    m.commit = 3;
    m.entries = entry(1, &e);
    raft_step(g.s[1].r, &(struct raft_event){.type = RAFT_MSG, .now_us = 2, .message = &m}, &up);
    cr_assert_eq(up.commit, 3);
    ev.snapshot = (struct raft_snapshot){.index = 3, .term = 1, .config = raft_config(g.s[1].r)};
    cr_assert_eq(raft_step(g.s[1].r, &ev, &up), 0);
    cr_assert_eq(raft_first_index(g.s[1].r), 3);
    cr_assert_eq(raft_step(g.s[1].r, &(struct raft_event){.type = RAFT_APPLIED, .now_us = 2, .applied = 2}, &up), 0);
    cr_assert_eq(raft_step(g.s[1].r, &(struct raft_event){.type = RAFT_APPLIED, .now_us = 2, .applied = 1}, &up), 0, "an old one changes nothing");
}

/* ---- Figure 8 -------------------------------------------------------------------------------------------------------------- */

/* (c) of the figure: S1 leads term 4 and has copied the entry of term 2 to a majority, its own entry is on its disk only. */
Test(raft_replicate, figure_8_an_entry_of_an_older_term_is_not_committed_by_counting, .fini = fini)
{
    struct raft_message m;

    memset(&g, 0, sizeof(g));
    g.now = 1;
    group_server(&g, 1, 5, 3, (const uint64_t[]){1, 2}, 2);
    for (uint32_t i = 2; i <= 5; i++)
        group_server(&g, i, 5, 3, (const uint64_t[]){1, 3}, i == 5 ? 2 : 1);
    isolate(&g, 4, true);
    isolate(&g, 5, true);
    tick(&g, 1, 2 * ELECTION);
    deliver_type(&g, RAFT_MSG_PRE_VOTE);
    deliver_type(&g, RAFT_MSG_PRE_VOTE_RESP);
    deliver_type(&g, RAFT_MSG_VOTE);
    deliver_type(&g, RAFT_MSG_VOTE_RESP);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER);
    cr_assert_eq(raft_current_term(g.s[1].r), 4);
    drop_all(&g);
    for (uint32_t i = 2; i <= 3; i++) {
        m = message(&g, RAFT_MSG_APPEND_RESP, i, 1, 4);
        m.granted = true;
        m.index = m.hint = 2;
        give(&g, &m);
    }
    cr_assert_eq(raft_commit(g.s[1].r), 0, "three copies of five, and still S5 may win and overwrite it");
    for (uint32_t i = 2; i <= 3; i++) {
        m = message(&g, RAFT_MSG_APPEND_RESP, i, 1, 4);
        m.granted = true;
        m.index = m.hint = 3;
        give(&g, &m);
    }
    cr_assert_eq(raft_commit(g.s[1].r), 3, "with an entry of its own term all before is committed");
}

/* The whole figure, (a) to (e): nothing that was applied is ever lost. */
Test(raft_replicate, figure_8_replayed, .init = five, .fini = fini)
{
    elect(&g, 1);
    heartbeat(&g, 1);
    for (uint32_t i = 3; i <= 5; i++)
        isolate(&g, i, true);
    propose(&g, 1, 10); /* (a): on S1 and S2 */
    deliver(&g);
    isolate(&g, 1, true);
    isolate(&g, 2, true);
    for (uint32_t i = 3; i <= 5; i++)
        isolate(&g, i, false);
    isolate(&g, 1, true);
    isolate(&g, 2, true);
    tick(&g, 5, 2 * ELECTION);
    deliver_type(&g, RAFT_MSG_PRE_VOTE);
    deliver_type(&g, RAFT_MSG_PRE_VOTE_RESP);
    deliver_type(&g, RAFT_MSG_VOTE);
    deliver_type(&g, RAFT_MSG_VOTE_RESP);
    cr_assert_eq(raft_role(g.s[5].r), RAFT_LEADER); /* (b): its entry is on S5 alone */
    drop_all(&g);
    isolate(&g, 5, true);
    for (uint32_t i = 1; i <= 4; i++)
        isolate(&g, i, false);
    isolate(&g, 5, true);
    g.now += 4 * ELECTION;
    for (uint32_t i = 1; i <= 4; i++)
        tick(&g, i, 0);
    drop_all(&g);
    for (int i = 0; i < 5 && raft_role(g.s[1].r) != RAFT_LEADER; i++) {
        tick(&g, 1, 2 * ELECTION); /* at first its term is behind */
        deliver(&g);
    }
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER); /* (c) */
    heartbeat(&g, 1);
    uint64_t committed = raft_commit(g.s[1].r);

    cr_assert_eq(g.s[1].sum, 10);
    isolate(&g, 1, true);
    isolate(&g, 5, false);
    isolate(&g, 1, true);
    for (int i = 0; i < 5; i++) {
        tick(&g, 5, 2 * ELECTION);
        deliver(&g);
    }
    cr_assert_neq(raft_role(g.s[5].r), RAFT_LEADER, "(d) cannot happen once an entry of term 4 is committed");
    for (int i = 0; i < 3 && raft_role(g.s[2].r) != RAFT_LEADER; i++) {
        tick(&g, 2, 2 * ELECTION);
        deliver(&g);
    }
    cr_assert_eq(raft_role(g.s[2].r), RAFT_LEADER); /* (e) */
    heartbeat(&g, 2);
    cr_assert_geq(raft_commit(g.s[2].r), committed);
    cr_assert_eq(g.s[5].sum, 10);
}

/* ---- reads ------------------------------------------------------------------------------------------------------------------- */

static int read_index(uint32_t id, uint64_t ctx)
{
    return step(&g, id, (struct raft_event){.type = RAFT_READ, .ctx = ctx});
}

CORE(a_read_waits_for_a_round_that_began_after_it)
{
    heartbeat(&g, 1);
    tick(&g, 1, HEARTBEAT);
    deliver_type(&g, RAFT_MSG_APPEND); /* answers of an older round are under way */
    cr_assert_eq(read_index(1, 77), 0);
    cr_assert_eq(deliver_type(&g, RAFT_MSG_APPEND_RESP), 2);
    cr_assert_eq(g.s[1].read_n, 0);
    deliver(&g);
    cr_assert_eq(g.s[1].read_n, 1);
    cr_assert_eq(g.s[1].reads[0].ctx, 77);
    cr_assert_eq(g.s[1].reads[0].err, 0);
    cr_assert_eq(g.s[1].reads[0].index, raft_commit(g.s[1].r));
}

CORE(reads_on_a_cut_off_leader_fail_and_followers_refuse_them)
{
    cr_assert_eq(read_index(2, 1), ERR_NOT_LEADER);
    isolate(&g, 1, true);
    cr_assert_eq(read_index(1, 77), 0);
    cr_assert_eq(read_index(1, 78), 0);
    for (int i = 0; i < 20; i++)
        tick(&g, 1, HEARTBEAT);
    cr_assert_eq(g.s[1].read_n, 2);
    cr_assert_eq(g.s[1].reads[0].err, ERR_NOT_LEADER);
    cr_assert_eq(g.s[1].reads[1].ctx, 78);
}

Test(raft_replicate, a_read_waits_for_an_entry_of_this_term, .fini = fini)
{
    struct raft_message m;

    group_new(&g, 3);
    tick(&g, 1, 2 * ELECTION);
    deliver_type(&g, RAFT_MSG_PRE_VOTE);
    deliver_type(&g, RAFT_MSG_PRE_VOTE_RESP);
    deliver_type(&g, RAFT_MSG_VOTE);
    deliver_type(&g, RAFT_MSG_VOTE_RESP);
    drop_all(&g);
    cr_assert_eq(read_index(1, 5), 0);
    for (uint32_t i = 2; i <= 3; i++) {
        m = message(&g, RAFT_MSG_APPEND_RESP, i, 1, 2);
        m.granted = true;
        m.index = m.hint = 1;
        m.round = 1;
        give(&g, &m); /* confirmed as leader, but what was committed before is not known yet (6.4, step 1) */
    }
    cr_assert_eq(g.s[1].read_n, 0);
    drop_all(&g);
    heartbeat(&g, 1);
    heartbeat(&g, 1);
    cr_assert_eq(g.s[1].read_n, 1);
    cr_assert_eq(g.s[1].reads[0].index, 2);
}

/* ---- snapshots --------------------------------------------------------------------------------------------------------------- */

static void lag(int entries)
{
    isolate(&g, 3, true);
    for (int i = 0; i < entries; i++) {
        propose(&g, 1, 1);
        deliver(&g);
    }
}

static void settle(void)
{
    for (int i = 0; i < 60; i++)
        heartbeat(&g, 1);
}

CORE(who_lags_behind_the_log_gets_a_snapshot_in_pieces_and_then_the_rest)
{
    lag(20);
    save_snapshot(&g, 1, 0);
    cr_assert_eq(raft_first_index(g.s[1].r), raft_last_index(g.s[1].r) + 1);
    propose(&g, 1, 7);
    isolate(&g, 3, false);
    settle();
    cr_assert_eq(g.s[3].sum, 27);
    cr_assert_eq(g.s[3].steps_chunk, 4, "32 bytes in pieces of 8");
    cr_assert_eq(g.s[3].applied, raft_last_index(g.s[1].r));
    propose(&g, 1, 1);
    deliver(&g);
    cr_assert_eq(g.s[3].sum, 28);
}

CORE(entries_behind_a_snapshot_spare_one_after_a_short_outage)
{
    lag(20);
    save_snapshot(&g, 1, 20);
    isolate(&g, 3, false);
    settle();
    cr_assert_eq(g.s[3].sum, 20);
    cr_assert_eq(g.s[3].steps_chunk, 0);
}

CORE(a_transfer_that_was_cut_resumes_where_it_was)
{
    lag(20);
    save_snapshot(&g, 1, 0);
    isolate(&g, 3, false);
    tick(&g, 1, HEARTBEAT);
    for (int i = 0; i < 20 && g.s[3].steps_chunk < 2; i++)
        for (uint8_t type = 1; type < RAFT_MSG__END; type++)
            deliver_type(&g, type);
    cr_assert_eq(g.s[3].steps_chunk, 2);
    drop_all(&g);
    settle();
    cr_assert_eq(g.s[3].steps_chunk, 4);
    cr_assert_eq(g.s[3].sum, 20);
}

CORE(a_damaged_snapshot_is_received_again)
{
    lag(20);
    save_snapshot(&g, 1, 0);
    isolate(&g, 3, false);
    g.s[1].payload[9] ^= 1;
    settle();
    cr_assert_geq(g.s[3].steps_chunk, 8);
    cr_assert_lt(g.s[3].applied, 10u);
    g.s[1].payload[9] ^= 1;
    settle();
    cr_assert_eq(g.s[3].sum, 20);
}

CORE(a_second_snapshot_follows_when_the_log_has_moved_on)
{
    lag(20);
    save_snapshot(&g, 1, 0);
    isolate(&g, 3, false);
    tick(&g, 1, HEARTBEAT);
    for (int i = 0; i < 20 && g.s[3].steps_chunk < 2; i++)
        for (uint8_t type = 1; type < RAFT_MSG__END; type++)
            deliver_type(&g, type);
    uint8_t first[32];

    memcpy(first, g.s[1].payload, sizeof(first));
    drop_all(&g);
    isolate(&g, 3, true);
    propose(&g, 1, 1);
    deliver(&g);
    save_snapshot(&g, 1, 0);
    isolate(&g, 3, false);
    memcpy(g.s[1].payload, first, sizeof(first)); /* the host still has the file of the one before */
    for (int i = 0; i < 60 && g.s[3].steps_chunk < 4; i++)
        heartbeat(&g, 1);
    for (size_t i = 0; i < 4; i++)
        memcpy(g.s[1].payload + 8 * i, &g.s[1].sum, 8);
    settle();
    cr_assert_eq(g.s[3].sum, 21);
    cr_assert_eq(g.s[3].applied, raft_last_index(g.s[1].r));
}

CORE(too_large_a_proposal_and_too_many_are_refused)
{
    static uint8_t big[RAFT_PROPOSAL_MAX + 1];
    struct slice payload = slice_of(big, sizeof(big));
    struct raft_event ev = {.type = RAFT_PROPOSE, .payloads = &payload, .payload_count = 1};
    int err = 0, n = 0;

    cr_assert_eq(step(&g, 1, ev), ERR_TOO_LARGE);
    cr_assert_eq(step(&g, 2, ev), ERR_NOT_LEADER);
    isolate(&g, 1, true);
    payload.len--;
    while ((err = step(&g, 1, ev)) == 0 && n++ < 200)
        ;
    cr_assert_eq(err, ERR_LIMIT);
    cr_assert_eq(n, 65, "64 MiB");
}

/* ---- a disk that forgot ---- */

static struct raft_peer_status peer_of(uint32_t id)
{
    struct raft_peer_status peers[5];
    size_t n = raft_peers(g.s[1].r, peers, 5);

    for (size_t i = 0; i < n; i++) {
        if (peers[i].node.id == id)
            return peers[i];
    }
    cr_assert_fail("no such member");
    return peers[0];
}

CORE(a_follower_that_denies_what_it_vouched_for_is_known_to_have_lost_it)
{
    uint64_t index = propose(&g, 1, 5);

    deliver(&g);
    cr_assert_eq(peer_of(3).match, index);
    /* An old copy of its disk: the founding, no more. */
    raft_free(g.s[3].r);
    memset(&g.s[3], 0, sizeof(g.s[3]));
    group_server(&g, 3, 3, 1, (uint64_t[]){1}, 1);
    heartbeat(&g, 1);
    cr_assert_not(peer_of(3).lost, "once may be a message that was under way for long");
    for (int i = 0; i < 12; i++)
        heartbeat(&g, 1);
    cr_assert(peer_of(3).lost);
    cr_assert_not(peer_of(2).lost);
    cr_assert_eq(raft_role(g.s[1].r), RAFT_LEADER);
    /* The others go on. */
    index = propose(&g, 1, 6);
    deliver(&g);
    cr_assert_eq(raft_commit(g.s[1].r), index);
    cr_assert_lt(peer_of(3).match, index);
}

CORE(a_late_denial_is_forgotten_with_the_next_answer)
{
    struct raft_message m;

    propose(&g, 1, 5);
    deliver(&g);
    m = message(&g, RAFT_MSG_APPEND_RESP, 3, 1, raft_current_term(g.s[1].r));
    m.index = 1;
    for (int i = 0; i < 30; i++) {
        give(&g, &m);
        heartbeat(&g, 1);
    }
    cr_assert_not(peer_of(3).lost);
}
