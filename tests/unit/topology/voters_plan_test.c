#include <criterion/criterion.h>

#include "cluster/topology/voters_plan.h"

#define AFTER 30000000u

static struct voter_candidate m[8];
static unsigned n;
static uint32_t id;

static void nodes(unsigned count, unsigned voters)
{
    n = count;
    for (unsigned i = 0; i < count; i++)
        m[i] = (struct voter_candidate){.id = i + 1, .voter = i < voters, .known = true, .registered = true, .alive = true};
}

static enum voter_change plan(void)
{
    id = 0;
    return voters_plan(m, n, 1, AFTER, &id);
}

/* Acts the plan out until it has nothing more to do. */
static unsigned settle(void)
{
    unsigned steps = 0;
    enum voter_change c;

    while ((c = plan()) != VOTERS_KEEP) {
        cr_assert_lt(steps++, 20, "it goes on for ever");
        if (c == VOTERS_REMOVE) {
            for (unsigned i = id - 1; i + 1 < n; i++)
                m[i] = m[i + 1];
            n--;
            continue;
        }
        m[id - 1].voter = c == VOTERS_PROMOTE;
    }
    return steps;
}

static unsigned voters(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < n; i++)
        count += m[i].voter;
    return count;
}

Test(voters_plan, three_vote_and_five_from_five_nodes_on)
{
    static const unsigned wanted[] = {0, 1, 2, 3, 3, 5, 5, 5, 5};

    for (unsigned count = 1; count <= 8; count++) {
        nodes(count, 1);
        settle();
        cr_assert_eq(voters(), wanted[count], "%u nodes: %u", count, voters());
        cr_assert(m[0].voter, "the first ones");
    }
}

Test(voters_plan, a_voter_away_is_replaced_after_the_delay_and_the_replacement_votes_first)
{
    nodes(4, 3);
    m[1].alive = false;
    m[1].away_us = AFTER - 1;
    cr_assert_eq(plan(), VOTERS_KEEP);
    m[1].away_us = AFTER;
    cr_assert_eq(plan(), VOTERS_PROMOTE);
    cr_assert_eq(id, 4);
    m[3].voter = true;
    cr_assert_eq(plan(), VOTERS_DEMOTE);
    cr_assert_eq(id, 2);
    m[1].voter = false;
    cr_assert_eq(plan(), VOTERS_KEEP);
    m[1].alive = true;
    cr_assert_eq(plan(), VOTERS_KEEP, "it came back and learns");
}

Test(voters_plan, who_came_back_while_it_was_replaced_leaves_three)
{
    nodes(4, 4);
    cr_assert_eq(plan(), VOTERS_DEMOTE);
    cr_assert_eq(id, 4);
}

Test(voters_plan, without_anybody_to_replace_it_a_voter_stays)
{
    nodes(3, 3);
    m[2].alive = false;
    m[2].away_us = 100 * (uint64_t)AFTER;
    cr_assert_eq(plan(), VOTERS_KEEP);
}

Test(voters_plan, who_was_removed_leaves_the_group_but_a_node_that_is_only_being_entered_stays)
{
    nodes(4, 3);
    m[2].known = false;
    m[3].known = m[3].registered = false;
    cr_assert_eq(plan(), VOTERS_REMOVE);
    cr_assert_eq(id, 3);
    m[2].known = true;
    cr_assert_eq(plan(), VOTERS_KEEP);
}

Test(voters_plan, the_leader_never_demotes_or_removes_itself)
{
    nodes(3, 3);
    m[0].known = false;
    cr_assert_neq(plan(), VOTERS_REMOVE);
    nodes(4, 4);
    id = 0;
    cr_assert_eq(voters_plan(m, n, 4, AFTER, &id), VOTERS_DEMOTE);
    cr_assert_eq(id, 3);
}
