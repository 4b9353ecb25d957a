/* The group state machine, step by step with a clock of the test's. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "base/hash.h"
#include "stream/group.h"

/* What came back through a wait. */
struct answer {
    int joined, synced;
    enum group_error err;
    int32_t generation;
    char member[64], leader[64], protocol[32], assignment[64];
    bool skip;
    unsigned members; /* of the group at that moment */
};

static void on_joined(void *wait, struct group *g, struct group_member *m, enum group_error err)
{
    struct answer *a = wait;

    a->joined++;
    a->err = err;
    a->generation = g->generation;
    if (m == NULL)
        return;
    snprintf(a->member, sizeof(a->member), "%s", m->id);
    snprintf(a->leader, sizeof(a->leader), "%s", g->leader == NULL ? "" : g->leader);
    snprintf(a->protocol, sizeof(a->protocol), "%s", g->protocol == NULL ? "" : g->protocol);
    a->skip = m->skip_assignment;
    a->members = g->member_count;
}

static void on_synced(void *wait, struct group *g, struct group_member *m, enum group_error err)
{
    struct answer *a = wait;

    (void)g;
    a->synced++;
    a->err = err;
    if (m != NULL)
        snprintf(a->assignment, sizeof(a->assignment), "%.*s", (int)m->assignment.len,
                 m->assignment.len == 0 ? "" : (const char *)m->assignment.data);
}

static const struct group_ops ops = {on_joined, on_synced};
static struct groups gs;
static struct group *g;

static void begin(uint32_t delay)
{
    uint8_t zero[16] = {0};

    hash_seed(zero);
    groups_init(&gs, &ops, delay);
    g = group_add(&gs, SLICE_LIT("g"));
}

static void end(void)
{
    groups_fini(&gs);
}

static struct slice S(const char *s) {
    return s == NULL ? SLICE_NONE : slice_str(s);
}

/* A join with one or two protocols, "range" first. */
static enum group_error
join_as(const char *member, const char *instance, const char *fresh, const char *first, const char *second,
        bool id_required, struct answer *a, uint64_t now)
{
    struct slice names[2] = {S(first), S(second)}, metadata[2] = {S("meta-1"), S("meta-2")};
    struct group_join j = {
        .member_id = S(member),
        .instance = S(instance),
        .client_id = S("client"),
        .client_host = S("/host"),
        .new_member_id = S(fresh),
        .rebalance_timeout_ms = 10000,
        .session_timeout_ms = 6000,
        .protocol_type = S("consumer"),
        .names = names,
        .metadata = metadata,
        .protocol_count = second == NULL ? 1 : 2,
        .id_required = id_required,
        .wait = a,
    };

    return group_join(&gs, g, &j, now);
}

static enum group_error join(const char *member, const char *fresh, struct answer *a, uint64_t now)
{
    return join_as(member, NULL, fresh, "range", NULL, false, a, now);
}

static enum group_error sync_as(const char *member, int32_t generation, const char *who, const char *what,
                                const char *who2, const char *what2, struct answer *a, uint64_t now)
{
    struct slice members[2] = {S(who), S(who2)}, assignments[2] = {S(what), S(what2)};
    struct group_sync y = {
        .member_id = S(member),
        .generation = generation,
        .members = members,
        .assignments = assignments,
        .assignment_count = who == NULL    ? 0
                            : who2 == NULL ? 1
                                           : 2,
        .wait = a,
    };

    return group_sync(&gs, g, &y, now);
}

/* Two members, Stable, generation 2. */
static void two_stable(struct answer *a, struct answer *b)
{
    cr_assert_eq(join("", "a", a, 0), GROUP_OK);
    cr_assert_eq(join("", "b", b, 10), GROUP_OK); /* a has to come again */
    cr_assert_eq(join("a", "", a, 20), GROUP_OK);
    cr_assert_eq(g->state, GROUP_COMPLETING);
    cr_assert_eq(sync_as("b", g->generation, NULL, NULL, NULL, NULL, b, 30), GROUP_OK);
    cr_assert_eq(b->synced, 0);
    cr_assert_eq(sync_as("a", g->generation, "a", "p0", "b", "p1", a, 40), GROUP_OK);
    cr_assert_eq(g->state, GROUP_STABLE);
}

Test(group, one_member_becomes_stable)
{
    struct answer a = {0};

    begin(0);
    cr_assert_eq(join("", "a", &a, 0), GROUP_OK);
    cr_assert_eq(a.joined, 1);
    cr_assert_eq(a.generation, 1);
    cr_assert_str_eq(a.leader, "a");
    cr_assert_str_eq(a.protocol, "range");
    cr_assert_eq(g->state, GROUP_COMPLETING);
    cr_assert_eq(group_heartbeat(&gs, g, S("a"), SLICE_NONE, 1, 5), GROUP_OK);
    cr_assert_eq(group_may_commit(&gs, g, S("a"), SLICE_NONE, 1, 5), GROUP_ERR_REBALANCING);
    cr_assert_eq(sync_as("a", 1, "a", "all", NULL, NULL, &a, 10), GROUP_OK);
    cr_assert_eq(a.synced, 1);
    cr_assert_str_eq(a.assignment, "all");
    cr_assert_eq(g->state, GROUP_STABLE);
    cr_assert(g->changed);
    cr_assert_eq(group_may_commit(&gs, g, S("a"), SLICE_NONE, 1, 15), GROUP_OK);
    end();
}

Test(group, second_member_rebalances_and_both_are_assigned)
{
    struct answer a = {0}, b = {0};

    begin(0);
    two_stable(&a, &b);
    cr_assert_eq(a.joined, 2);
    cr_assert_eq(b.joined, 1);
    cr_assert_eq(g->generation, 2);
    cr_assert_eq(b.members, 2);
    cr_assert_str_eq(a.assignment, "p0");
    cr_assert_str_eq(b.assignment, "p1");
    end();
}

Test(group, heartbeat_tells_of_the_rebalance)
{
    struct answer a = {0}, b = {0};

    begin(0);
    cr_assert_eq(join("", "a", &a, 0), GROUP_OK);
    cr_assert_eq(sync_as("a", 1, NULL, NULL, NULL, NULL, &a, 1), GROUP_OK);
    cr_assert_eq(join("", "b", &b, 10), GROUP_OK);
    cr_assert_eq(g->state, GROUP_PREPARING);
    cr_assert_eq(group_heartbeat(&gs, g, S("a"), SLICE_NONE, 1, 20), GROUP_ERR_REBALANCING);
    cr_assert_eq(group_may_commit(&gs, g, S("a"), SLICE_NONE, 1, 20), GROUP_OK,
                 "what was consumed may still be committed");
    cr_assert_eq(sync_as("a", 1, NULL, NULL, NULL, NULL, &a, 21), GROUP_ERR_REBALANCING);
    cr_assert_eq(group_heartbeat(&gs, g, S("a"), SLICE_NONE, 7, 20), GROUP_ERR_ILLEGAL_GENERATION);
    cr_assert_eq(group_heartbeat(&gs, g, S("x"), SLICE_NONE, 1, 20), GROUP_ERR_UNKNOWN_MEMBER);
    end();
}

Test(group, member_that_does_not_rejoin_is_dropped_in_time)
{
    struct answer a = {0}, b = {0};

    begin(0);
    two_stable(&a, &b);
    cr_assert_eq(join("a", "", &a, 100), GROUP_OK, "the leader joining anew wants a rebalance");
    cr_assert_eq(g->state, GROUP_PREPARING);
    for (uint64_t t = 1000; t < 10000; t += 1000) /* b is alive, but does not come */
        cr_assert_eq(group_heartbeat(&gs, g, S("b"), SLICE_NONE, 2, t), GROUP_ERR_REBALANCING);
    group_tick(&gs, g, 10099);
    cr_assert_eq(a.joined, 2);
    group_tick(&gs, g, 10100);
    cr_assert_eq(a.joined, 3);
    cr_assert_eq(g->generation, 3);
    cr_assert_eq(g->member_count, 1);
    cr_assert_eq(group_heartbeat(&gs, g, S("b"), SLICE_NONE, 2, 10101), GROUP_ERR_UNKNOWN_MEMBER);
    end();
}

Test(group, silent_member_loses_its_session)
{
    struct answer a = {0}, b = {0};

    begin(0);
    two_stable(&a, &b);
    cr_assert_eq(group_heartbeat(&gs, g, S("a"), SLICE_NONE, 2, 5000), GROUP_OK);
    cr_assert_eq(group_deadline(g), 6040, "b's session: it was last heard of when the sync ended");
    group_tick(&gs, g, 6039);
    cr_assert_eq(g->member_count, 2);
    group_tick(&gs, g, 6040);
    cr_assert_eq(g->member_count, 1);
    cr_assert_eq(g->state, GROUP_PREPARING);
    cr_assert_eq(join("a", "", &a, 7000), GROUP_OK);
    cr_assert_eq(g->state, GROUP_COMPLETING);
    cr_assert_str_eq(a.leader, "a");
    end();
}

Test(group, member_that_never_syncs_is_dropped)
{
    struct answer a = {0}, b = {0};

    begin(0);
    cr_assert_eq(join("", "a", &a, 0), GROUP_OK);
    cr_assert_eq(join("", "b", &b, 10), GROUP_OK);
    cr_assert_eq(join("a", "", &a, 20), GROUP_OK);
    cr_assert_eq(sync_as("a", 2, "a", "p0", "b", "p1", &a, 30), GROUP_OK);
    cr_assert_eq(g->state, GROUP_STABLE, "b has not synced, but the assignment holds");
    for (uint64_t t = 1000; t <= 10000; t += 1000)
        cr_assert_eq(group_heartbeat(&gs, g, S("b"), SLICE_NONE, 2, t), GROUP_OK);
    for (uint64_t t = 1000; t <= 10000; t += 1000)
        cr_assert_eq(group_heartbeat(&gs, g, S("a"), SLICE_NONE, 2, t), GROUP_OK);
    group_tick(&gs, g, 10020);
    cr_assert_eq(g->member_count, 1);
    cr_assert_eq(g->state, GROUP_PREPARING);
    end();
}

Test(group, leaving_empties_it)
{
    struct answer a = {0}, b = {0};

    begin(0);
    two_stable(&a, &b);
    cr_assert_eq(group_leave(&gs, g, S("x"), SLICE_NONE, 50), GROUP_ERR_UNKNOWN_MEMBER);
    cr_assert_eq(group_leave(&gs, g, S("b"), SLICE_NONE, 50), GROUP_OK);
    cr_assert_eq(g->state, GROUP_PREPARING);
    cr_assert_eq(group_leave(&gs, g, S("a"), SLICE_NONE, 60), GROUP_OK);
    cr_assert_eq(g->state, GROUP_EMPTY);
    cr_assert_eq(g->generation, 3);
    cr_assert_eq(group_deadline(g), UINT64_MAX);
    cr_assert_eq(group_may_commit(&gs, g, S(""), SLICE_NONE, -1, 70), GROUP_OK,
                 "from outside, while nobody is in it");
    cr_assert_eq(group_may_commit(&gs, g, S("a"), SLICE_NONE, 3, 70), GROUP_ERR_UNKNOWN_MEMBER);
    end();
}

Test(group, commits_from_outside_are_refused_while_it_has_members)
{
    struct answer a = {0}, b = {0};

    begin(0);
    two_stable(&a, &b);
    cr_assert_eq(group_may_commit(&gs, g, S(""), SLICE_NONE, -1, 70), GROUP_ERR_UNKNOWN_MEMBER);
    cr_assert_eq(group_may_commit(&gs, g, S("a"), SLICE_NONE, 1, 70), GROUP_ERR_ILLEGAL_GENERATION);
    end();
}

Test(group, member_ids_come_first)
{
    struct answer a = {0}, b = {0};

    begin(0);
    cr_assert_eq(join_as("", NULL, "a", "range", NULL, true, &a, 0), GROUP_ERR_MEMBER_ID_REQUIRED);
    cr_assert_eq(g->state, GROUP_EMPTY);
    cr_assert_eq(join_as("zzz", NULL, "", "range", NULL, true, &b, 1), GROUP_ERR_UNKNOWN_MEMBER);
    cr_assert_eq(join_as("a", NULL, "", "range", NULL, true, &a, 2), GROUP_OK);
    cr_assert_eq(a.joined, 1);
    cr_assert_eq(join_as("", NULL, "b", "range", NULL, true, &b, 3), GROUP_ERR_MEMBER_ID_REQUIRED);
    cr_assert_eq(join("a", "", &a, 4), GROUP_OK);
    group_tick(&gs, g, 6003);
    cr_assert(list_empty(&g->pending), "an id that is not used in time is forgotten");
    end();
}

Test(group, a_pending_member_is_waited_for)
{
    struct answer a = {0}, b = {0};

    begin(0);
    cr_assert_eq(join("", "a", &a, 0), GROUP_OK);
    cr_assert_eq(sync_as("a", 1, NULL, NULL, NULL, NULL, &a, 1), GROUP_OK);
    cr_assert_eq(join_as("", NULL, "b", "range", NULL, true, &b, 2), GROUP_ERR_MEMBER_ID_REQUIRED);
    cr_assert_eq(join_as("a", NULL, "", "range", "other", false, &a, 3), GROUP_OK);
    cr_assert_eq(a.joined, 1, "the rebalance waits for b");
    cr_assert_eq(join_as("b", NULL, "", "range", NULL, true, &b, 4), GROUP_OK);
    cr_assert_eq(a.joined, 2);
    cr_assert_eq(b.joined, 1);
    cr_assert_eq(a.generation, 2);
    end();
}

Test(group, the_first_join_waits_for_more)
{
    struct answer a = {0}, b = {0};

    begin(3000);
    cr_assert_eq(join("", "a", &a, 0), GROUP_OK);
    cr_assert_eq(a.joined, 0);
    cr_assert_eq(group_deadline(g), 3000);
    cr_assert_eq(join("", "b", &b, 2900), GROUP_OK);
    group_tick(&gs, g, 3000);
    cr_assert_eq(a.joined, 0, "somebody came: another delay");
    cr_assert_eq(group_deadline(g), 6000);
    group_tick(&gs, g, 6000);
    cr_assert_eq(a.joined, 1);
    cr_assert_eq(b.joined, 1);
    cr_assert_eq(a.generation, 1, "one generation for both");
    end();
}

Test(group, the_protocol_all_know_wins)
{
    struct answer a = {0}, b = {0};

    begin(0);
    cr_assert_eq(join_as("", NULL, "a", "sticky", "range", false, &a, 0), GROUP_OK);
    cr_assert_str_eq(a.protocol, "sticky");
    cr_assert_eq(join_as("", NULL, "b", "range", NULL, false, &b, 1), GROUP_OK);
    cr_assert_eq(join_as("a", NULL, "", "sticky", "range", false, &a, 2), GROUP_OK);
    cr_assert_str_eq(a.protocol, "range");
    cr_assert_str_eq(b.protocol, "range");
    cr_assert_eq(join_as("", NULL, "c", "roundrobin", NULL, false, &b, 3), GROUP_ERR_INCONSISTENT_PROTOCOL);
    end();
}

Test(group, a_repeated_join_of_a_follower_changes_nothing)
{
    struct answer a = {0}, b = {0};

    begin(0);
    two_stable(&a, &b);
    cr_assert_eq(join("b", "", &b, 100), GROUP_OK);
    cr_assert_eq(b.joined, 2);
    cr_assert_eq(g->generation, 2);
    cr_assert_eq(g->state, GROUP_STABLE);
    cr_assert_eq(sync_as("b", 2, NULL, NULL, NULL, NULL, &b, 110), GROUP_OK);
    cr_assert_eq(b.synced, 2);
    cr_assert_str_eq(b.assignment, "p1", "a sync sent again gets the same");
    end();
}

Test(group, static_member_comes_back_without_rebalance)
{
    struct answer a = {0}, b = {0}, again = {0};

    begin(0);
    cr_assert_eq(join_as("", "i1", "a", "range", NULL, true, &a, 0), GROUP_OK,
                 "static members need no id first");
    cr_assert_eq(join_as("", "i2", "b", "range", NULL, true, &b, 1), GROUP_OK);
    cr_assert_eq(join_as("a", "i1", "", "range", NULL, true, &a, 2), GROUP_OK);
    cr_assert_eq(sync_as("a", 2, "a", "p0", "b", "p1", &a, 3), GROUP_OK);
    cr_assert_eq(sync_as("b", 2, NULL, NULL, NULL, NULL, &b, 3), GROUP_OK);
    cr_assert_eq(join_as("", "i2", "b-again", "range", NULL, true, &again, 10), GROUP_OK);
    cr_assert_eq(again.joined, 1);
    cr_assert_eq(again.generation, 2, "no rebalance");
    cr_assert_eq(g->state, GROUP_STABLE);
    cr_assert_str_eq(again.member, "b-again");
    cr_assert_eq(group_heartbeat(&gs, g, S("b"), S("i2"), 2, 11), GROUP_ERR_FENCED_INSTANCE);
    cr_assert_eq(group_heartbeat(&gs, g, S("b-again"), S("i2"), 2, 11), GROUP_OK);
    cr_assert_eq(group_leave(&gs, g, S(""), S("i2"), 12), GROUP_OK,
                 "an administrator removes it by its instance id");
    cr_assert_eq(g->member_count, 1);
    end();
}

Test(group, static_member_survives_a_missed_rebalance)
{
    struct answer a = {0}, b = {0};

    begin(0);
    cr_assert_eq(join_as("", "i1", "a", "range", NULL, true, &a, 0), GROUP_OK);
    cr_assert_eq(sync_as("a", 1, NULL, NULL, NULL, NULL, &a, 1), GROUP_OK);
    cr_assert_eq(join("", "b", &b, 2), GROUP_OK);
    group_tick(&gs, g, 10002); /* a's session has ended by then as well */
    cr_assert_eq(b.joined, 1);
    end();
}

Test(group, removal_answers_who_waits)
{
    struct answer a = {0}, b = {0};

    begin(0);
    cr_assert_eq(join("", "a", &a, 0), GROUP_OK);
    cr_assert_eq(sync_as("a", 1, NULL, NULL, NULL, NULL, &a, 1), GROUP_OK);
    cr_assert_eq(join("", "b", &b, 2), GROUP_OK);
    group_remove(&gs, g);
    cr_assert_eq(b.joined, 1);
    cr_assert_eq(b.err, GROUP_ERR_NOT_AVAILABLE);
    cr_assert_null(group_find(&gs, SLICE_LIT("g")));
    end();
}

Test(group, a_join_sent_again_replaces_the_wait)
{
    struct answer a = {0}, b = {0}, second = {0};

    begin(0);
    two_stable(&a, &b);
    cr_assert_eq(join("a", "", &a, 100), GROUP_OK);
    cr_assert_eq(join("a", "", &second, 200), GROUP_OK);
    cr_assert_eq(a.joined, 3, "the former wait is answered");
    cr_assert_eq(a.err, GROUP_ERR_UNKNOWN_MEMBER);
    cr_assert_eq(join("b", "", &b, 300), GROUP_OK);
    cr_assert_eq(second.joined, 1);
    cr_assert_eq(second.err, GROUP_OK);
    end();
}

Test(group, thousands_of_groups_are_found)
{
    char id[32];

    begin(0);
    for (int i = 0; i < 5000; i++) {
        snprintf(id, sizeof(id), "group-%d", i);
        group_add(&gs, S(id));
    }
    for (int i = 0; i < 5000; i++) {
        snprintf(id, sizeof(id), "group-%d", i);
        cr_assert_not_null(group_find(&gs, S(id)));
    }
    cr_assert_eq(gs.count, 5001);
    end();
}
