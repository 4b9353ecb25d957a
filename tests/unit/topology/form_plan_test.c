#include <criterion/criterion.h>
#include <string.h>

#include "cluster/topology/form_plan.h"

static struct form_seed seeds[3];
static struct form_view view;
static char text[400];
static unsigned chosen;

/* Three empty seeds that agree; this node is the first and has the lowest uuid. */
static void setup(void)
{
    static const char *const names[] = {"a:1", "b:1", "c:1"};

    memset(seeds, 0, sizeof(seeds));
    for (unsigned i = 0; i < 3; i++) {
        seeds[i].address = names[i];
        seeds[i].answered = seeds[i].same_list = true;
        seeds[i].uuid[0] = (uint8_t)(i + 1);
        seeds[i].total_partitions = 32;
    }
    view = (struct form_view){.total_partitions = 32, .seeds = seeds, .count = 3, .settled = true};
    view.own_uuid[0] = 1;
}

static enum form_action decide(void)
{
    chosen = 99;
    return form_decide(&view, &chosen, text, sizeof(text));
}

Test(form_plan, the_lowest_uuid_founds_when_all_are_empty_and_agree, .init = setup)
{
    cr_assert_eq(decide(), FORM_FOUND, "%s", text);
    view.own_uuid[0] = 2;
    cr_assert_eq(decide(), FORM_WAIT);
    cr_assert_not_null(strstr(text, "a:1"), "who will found it: %s", text);
}

Test(form_plan, who_is_missing_is_named_with_the_reason_and_the_way_out, .init = setup)
{
    seeds[1].answered = false;
    strcpy(seeds[1].problem, "the secrets differ");
    cr_assert_eq(decide(), FORM_WAIT);
    cr_assert_not_null(strstr(text, "b:1 (the secrets differ)"), "%s", text);
    cr_assert_not_null(strstr(text, "cluster form --without"), "%s", text);
}

Test(form_plan, an_administrator_leaves_one_out, .init = setup)
{
    const char *without[] = {"b:1"};

    seeds[1].answered = false;
    view.now = true;
    view.without = without;
    view.without_count = 1;
    view.own_uuid[0] = 3; /* whoever was asked founds it */
    cr_assert_eq(decide(), FORM_FOUND, "%s", text);
    cr_assert(form_counts(&view, 0) && !form_counts(&view, 1) && form_counts(&view, 2));
    seeds[1].answered = true; /* left out though it answers */
    cr_assert(!form_counts(&view, 1));
    seeds[2].answered = false;
    cr_assert_eq(decide(), FORM_WAIT, "only what was named is left out");
}

Test(form_plan, two_addresses_of_one_node_are_detected, .init = setup)
{
    seeds[2].uuid[0] = 2;
    cr_assert_eq(decide(), FORM_WAIT);
    cr_assert_not_null(strstr(text, "b:1 and c:1 are the same node"), "%s", text);
}

Test(form_plan, disagreement_is_named, .init = setup)
{
    seeds[2].same_list = false;
    cr_assert_eq(decide(), FORM_WAIT);
    cr_assert_not_null(strstr(text, "c:1 has another list"), "%s", text);
    setup();
    seeds[1].total_partitions = 16;
    cr_assert_eq(decide(), FORM_WAIT);
    cr_assert_not_null(strstr(text, "b:1 has cluster.total_partitions 16"), "%s", text);
}

Test(form_plan, a_node_that_is_no_seed_never_founds, .init = setup)
{
    view.own_uuid[0] = 9;
    seeds[0].uuid[0] = 10;
    seeds[1].uuid[0] = 11;
    seeds[2].uuid[0] = 12;
    cr_assert_eq(decide(), FORM_WAIT);
    cr_assert_not_null(strstr(text, "none of the addresses in cluster.seeds is this node"), "%s", text);
}

Test(form_plan, a_member_is_joined_whoever_is_missing, .init = setup)
{
    seeds[0].answered = false;
    seeds[2].member = true;
    cr_assert_eq(decide(), FORM_JOIN);
    cr_assert_eq(chosen, 2);
    view.settled = false;
    cr_assert_eq(decide(), FORM_WAIT, "another may still answer that it belongs elsewhere");
}

Test(form_plan, a_founding_that_was_missed_is_adopted_at_once, .init = setup)
{
    seeds[0].answered = false;
    seeds[1].member = seeds[1].founding = true;
    view.settled = false;
    cr_assert_eq(decide(), FORM_ADOPT);
    cr_assert_eq(chosen, 1);
}

Test(form_plan, members_of_two_clusters_are_never_merged, .init = setup)
{
    seeds[1].member = seeds[2].member = true;
    seeds[1].cluster_id[0] = 1;
    seeds[2].cluster_id[0] = 2;
    cr_assert_eq(decide(), FORM_REFUSED);
    cr_assert_not_null(strstr(text, "never merge"), "%s", text);
}

Test(form_plan, a_promise_binds_to_one_cluster, .init = setup)
{
    view.promised = true;
    view.cluster_id[0] = 7;
    cr_assert_eq(decide(), FORM_WAIT, "it may not found another");
    seeds[1].member = true;
    seeds[1].cluster_id[0] = 8;
    cr_assert_eq(decide(), FORM_REFUSED);
    seeds[1].cluster_id[0] = 7;
    cr_assert_eq(decide(), FORM_JOIN);
}

Test(form_plan, nobody_founds_with_a_seed_that_is_promised_elsewhere, .init = setup)
{
    seeds[2].promised = true;
    seeds[2].cluster_id[0] = 7;
    cr_assert_eq(decide(), FORM_WAIT);
    cr_assert_not_null(strstr(text, "c:1"), "%s", text);
}

Test(form_plan, a_cluster_of_another_size_is_refused, .init = setup)
{
    seeds[1].member = true;
    seeds[1].total_partitions = 64;
    cr_assert_eq(decide(), FORM_REFUSED);
    cr_assert_not_null(strstr(text, "64"), "%s", text);
}
