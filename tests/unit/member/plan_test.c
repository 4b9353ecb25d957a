#include <criterion/criterion.h>

#include "base/err.h"
#include "world.h"

static void start(void)
{
    world_new(32);
}

static void three(void)
{
    world_new(32);
    world_nodes(3);
    world_place();
}

static unsigned states(struct plan_state *ret)
{
    struct plan_input in = world_input();

    return plan_states(&in, ret, WORLD_NODES);
}

/* ---- placing --------------------------------------------------------------------------------------------------------------- */

Test(place, replicas_leaders_and_successors_are_spread, .init = start, .fini = world_free)
{
    world_nodes(4);
    world_place();
    world_check();
    for (uint32_t id = 1; id <= 4; id++) {
        unsigned next[5] = {0};

        cr_assert_eq(world_replicas_of(id), 24);
        cr_assert_eq(world_led_by(id), 8);
        for (uint32_t i = 0; i < 32; i++)
            if (world_at(i)->leader == id)
                next[world_at(i)->members[1]]++;
        for (uint32_t k = 1; k <= 4; k++)
            cr_assert(k == id || next[k] >= 2, "the partitions of node %u go to node %u %u times", id, k, next[k]);
    }
    cr_assert_eq(world_settle(10), 0, "a fresh placement needs nothing");
}

Test(place, racks_are_met_once_while_there_are_enough, .init = start, .fini = world_free)
{
    const char *racks[] = {"a", "a", "b", "b", "c", "c"};

    for (unsigned i = 0; i < 6; i++)
        world_state(world_enter(0, racks[i], false), TOPO_NODE_ACTIVE);
    world_place();
    for (uint32_t i = 0; i < 32; i++) {
        unsigned met[3] = {0};

        for (unsigned k = 0; k < 3; k++)
            met[(world_at(i)->members[k] - 1) / 2]++;
        cr_assert(met[0] == 1 && met[1] == 1 && met[2] == 1, "partition %u", i);
    }
    cr_assert_eq(world_settle(10), 0);
}

Test(place, fewer_nodes_than_the_factor_have_all_and_it_rises_as_they_join, .init = start, .fini = world_free)
{
    struct plan_input in = world_input();

    cr_assert_eq(plan_effective_factor(&in), 1, "never none");
    world_nodes(1);
    world_place();
    cr_assert_eq(world_at(0)->replica_count, 1);
    world_nodes(1);
    cr_assert_lt(world_settle(40), 40);
    cr_assert_eq(world_at(31)->replica_count, 2);
    world_nodes(1);
    cr_assert_lt(world_settle(40), 40);
    for (uint32_t i = 0; i < 32; i++)
        cr_assert_eq(world_at(i)->replica_count, 3);
    for (uint32_t id = 1; id <= 3; id++)
        cr_assert(world_led_by(id) >= 10 && world_led_by(id) <= 11, "node %u leads %u", id, world_led_by(id));
}

Test(place, a_failure_does_not_lower_the_factor, .init = three, .fini = world_free)
{
    struct plan_input in = world_input();

    world_state(2, TOPO_NODE_FENCED);
    cr_assert_eq(plan_effective_factor(&in), 3);
    cr_assert_lt(world_settle(20), 20);
    cr_assert_eq(world_at(0)->replica_count, 3);
}

/* ---- node states -------------------------------------------------------------------------------------------------------------- */

Test(states, a_silent_node_is_fenced_after_the_timeout_and_taken_back_when_heard, .init = three, .fini = world_free)
{
    struct plan_state d[WORLD_NODES];

    world_fact(2)->silent_ms = 1499;
    cr_assert_eq(states(d), 0);
    world_fact(2)->silent_ms = 1500;
    cr_assert_eq(states(d), 1);
    cr_assert_eq(d[0].node, 2);
    cr_assert_eq(d[0].state, TOPO_NODE_FENCED);
    cr_assert_eq(d[0].flags, 0, "1.5 s are more than any lease");
    world_state(2, TOPO_NODE_FENCED);
    cr_assert_eq(states(d), 0);
    world_fact(2)->silent_ms = 0;
    cr_assert_eq(states(d), 1);
    cr_assert_eq(d[0].state, TOPO_NODE_ACTIVE);
}

Test(states, a_new_controller_waits_for_the_leases_of_the_former_one_and_spares_itself, .init = three, .fini = world_free)
{
    struct plan_state d[WORLD_NODES];

    for (uint32_t id = 1; id <= 3; id++) {
        world_fact(id)->heard = false;
        world_fact(id)->silent_ms = 1199;
    }
    cr_assert_eq(states(d), 0);
    for (uint32_t id = 1; id <= 3; id++)
        world_fact(id)->silent_ms = 1200;
    cr_assert_eq(states(d), 2);
    cr_assert_eq(d[0].node, 2);
    cr_assert_eq(d[1].node, 3);
}

Test(states, a_dead_process_is_fenced_at_once_when_every_successor_saw_it_too, .init = three, .fini = world_free)
{
    const uint32_t two[] = {2}, three_[] = {3};
    struct plan_state d[WORLD_NODES];

    world_fact(2)->refused = true;
    world_fact(2)->silent_ms = 300;
    cr_assert_eq(states(d), 0, "node 3 would lead some of its partitions and has not seen it");
    world_fact(3)->refuses = three_;
    world_fact(3)->refuse_count = 1;
    cr_assert_eq(states(d), 0, "it saw another one");
    world_fact(3)->refuses = two;
    cr_assert_eq(states(d), 1);
    cr_assert_eq(d[0].node, 2);
    cr_assert_eq(d[0].flags, TOPO_NODE_LEASE_MAY_RUN, "a firewall's REJECT looks the same");
    world_fact(2)->silent_ms = 100;
    cr_assert_eq(states(d), 0, "it is still heard");
    world_fact(2)->silent_ms = 300;
    world_fact(2)->refused = false;
    cr_assert_eq(states(d), 0, "the controller must see it itself");
}

Test(states, a_clock_that_is_off_keeps_a_node_out, .init = three, .fini = world_free)
{
    struct plan_state d[WORLD_NODES];

    world_state(2, TOPO_NODE_FENCED);
    world_fact(2)->clock_off = true;
    cr_assert_eq(states(d), 1);
    cr_assert_eq(d[0].state, TOPO_NODE_FENCED);
    cr_assert_eq(d[0].flags, TOPO_NODE_CLOCK_OFF, "said, but not taken back");
    world_fact(2)->clock_off = false;
    cr_assert_eq(states(d), 1);
    cr_assert_eq(d[0].state, TOPO_NODE_ACTIVE);
}

/* ---- replicas ------------------------------------------------------------------------------------------------------------------- */

Test(replicas, of_a_node_that_stays_away_are_placed_anew_and_those_of_one_that_returns_are_not, .init = start, .fini = world_free)
{
    world_nodes(4);
    world_place();
    world_state(4, TOPO_NODE_FENCED);
    world_fact(4)->state_ms = 29999;
    cr_assert_lt(world_settle(10), 10);
    cr_assert_eq(world_replicas_of(4), 24);
    world_state(4, TOPO_NODE_ACTIVE);
    world_catch_up();
    cr_assert_lt(world_settle(10), 10);
    cr_assert_eq(world_led_by(4), 8, "what it was the first choice of came back");
    world_state(4, TOPO_NODE_FENCED);
    world_fact(4)->state_ms = 30000;
    cr_assert_lt(world_settle(60), 60);
    cr_assert_eq(world_replicas_of(4), 0);
    for (uint32_t id = 1; id <= 3; id++)
        cr_assert_eq(world_replicas_of(id), 32);
}

Test(replicas, without_a_spare_node_the_dead_one_keeps_its_place, .init = three, .fini = world_free)
{
    world_state(3, TOPO_NODE_FENCED);
    cr_assert_lt(world_settle(20), 20);
    cr_assert_eq(world_replicas_of(3), 32);
    cr_assert_eq(world_at(0)->adding_count, 0);
}

Test(replicas, one_that_is_added_in_place_of_a_node_that_returns_is_a_choice_and_no_oscillation, .init = start, .fini = world_free)
{
    world_nodes(4);
    world_place();
    world_state(4, TOPO_NODE_FENCED);
    world_step();
    world_check();
    world_state(4, TOPO_NODE_ACTIVE);
    cr_assert_lt(world_settle(60), 60);
    for (uint32_t i = 0; i < 32; i++)
        cr_assert(world_at(i)->replica_count == 3 && world_at(i)->adding_count == 0);
}

Test(replicas, a_draining_node_loses_its_leaderships_and_its_replicas, .init = start, .fini = world_free)
{
    struct buf b = {0};

    world_nodes(4);
    world_place();
    world_state(2, TOPO_NODE_DRAINING);
    cr_assert_lt(world_settle(100), 100);
    cr_assert_eq(world_led_by(2), 0);
    cr_assert_eq(world_replicas_of(2), 0);
    for (uint32_t i = 0; i < 32; i++)
        cr_assert_eq(topo_insync(world_at(i)).count, 3);
    topo_cmd_node_remove(&b, 2);
    cr_assert_eq(world_apply(&b), 0);
}

Test(replicas, a_draining_leader_is_waited_for_instead_of_exchanging_the_others, .init = start, .fini = world_free)
{
    struct plan_input in;
    struct plan plan;

    world_nodes(4);
    world_place();
    world_state(2, TOPO_NODE_DRAINING);
    world.o.handovers_max = 0; /* it does not hand over */
    cr_assert_lt(world_settle(100), 100, "nothing goes to and fro meanwhile");
    in = world_input();
    plan_partitions(&in, &plan);
    cr_assert_eq(plan.change_count, 0);
    plan_free(&plan);
    cr_assert_eq(world_led_by(2), 8);
    for (uint32_t i = 0; i < 32; i++)
        cr_assert_eq(topo_insync(world_at(i)).count, world_at(i)->leader == 2 ? 4 : 3);
    world.o.handovers_max = 4;
    cr_assert_lt(world_settle(100), 100);
    cr_assert_eq(world_replicas_of(2), 0);
}

static void drain(uint32_t id, enum topo_drain how)
{
    struct buf b = {0};

    topo_cmd_node_drain(&b, id, how);
    cr_assert_eq(world_apply(&b), 0);
}

Test(replicas, for_maintenance_a_node_gives_its_leaderships_and_keeps_its_replicas, .init = three, .fini = world_free)
{
    struct plan_input in = world_input();
    unsigned had = world_replicas_of(2);

    drain(2, TOPO_DRAIN_LEADERS);
    cr_assert_lt(world_settle(100), 100);
    cr_assert_eq(world_led_by(2), 0);
    cr_assert_eq(world_replicas_of(2), had);
    cr_assert_eq(plan_effective_factor(&in), 3);
    for (uint32_t i = 0; i < world.partitions; i++)
        cr_assert_eq(topo_insync(world_at(i)).count, 3);
    drain(2, TOPO_DRAIN_NONE);
    world_fact(2)->state_ms = 60000;
    cr_assert_lt(world_settle(100), 100);
    cr_assert_gt(world_led_by(2), 0, "its share comes back");
}

Test(replicas, the_threshold_says_how_uneven_is_too_uneven, .init = start, .fini = world_free)
{
    /* A fourth node has nothing: far above any threshold but that of 1, which none can be above. */
    world_nodes(3);
    world_place();
    world.o.rebalance_permille = 1000;
    world_nodes(1);
    for (uint32_t id = 1; id <= 4; id++)
        world_fact(id)->state_ms = 60000;
    cr_assert_eq(world_settle(100), 0);
    cr_assert_eq(world_replicas_of(4), 0);
    world.o.rebalance_permille = 400;
    cr_assert_lt(world_settle(200), 200);
    cr_assert_geq(world_replicas_of(4), 12);
    unsigned loose = world_replicas_of(4);

    world.o.rebalance_permille = 0;
    cr_assert_lt(world_settle(200), 200);
    cr_assert_gt(world_replicas_of(4), loose, "a lower threshold moves more");
}

Test(replicas, a_node_that_joins_gets_its_share_and_of_leaderships_too, .init = three, .fini = world_free)
{
    unsigned steps;

    world_nodes(1);
    steps = world_settle(200);
    cr_assert_lt(steps, 200);
    cr_assert_geq(steps, 10, "a few at a time");
    for (uint32_t id = 1; id <= 4; id++) {
        cr_assert(world_replicas_of(id) >= 22 && world_replicas_of(id) <= 27, "node %u has %u", id, world_replicas_of(id));
        cr_assert(world_led_by(id) >= 7 && world_led_by(id) <= 9, "node %u leads %u", id, world_led_by(id));
    }
}

/* ---- leaders ---------------------------------------------------------------------------------------------------------------------- */

Test(leaders, go_back_to_the_first_choice_once_it_has_settled, .init = three, .fini = world_free)
{
    unsigned led = world_led_by(2);

    world_enter(2, "", false);
    cr_assert_eq(world_led_by(2), 0);
    world_state(2, TOPO_NODE_ACTIVE);
    world_catch_up();
    world_fact(2)->state_ms = world.o.settle_ms - 1;
    cr_assert_not(world_step());
    world_fact(2)->state_ms = world.o.settle_ms;
    cr_assert_lt(world_settle(20), 20);
    cr_assert_eq(world_led_by(2), led);
}

Test(leaders, that_are_slow_or_whose_clock_is_off_hand_over_and_the_slow_leave_the_in_sync_sets, .init = three, .fini = world_free)
{
    world_fact(2)->slow = true;
    cr_assert_lt(world_settle(20), 20);
    cr_assert_eq(world_led_by(2), 0);
    for (uint32_t i = 0; i < 32; i++)
        cr_assert_not(topo_is_insync(world_at(i), 2));
    world_fact(3)->clock_off = true;
    cr_assert_lt(world_settle(20), 20);
    cr_assert_eq(world_led_by(1), 32);
    cr_assert(topo_is_insync(world_at(0), 3), "its data is as good as any");
    world_fact(3)->clock_off = false;
    world_fact(1)->slow = true;
    cr_assert_lt(world_settle(20), 20);
    cr_assert_eq(world_led_by(3), 32);
    cr_assert(topo_is_insync(world_at(0), 1), "below the bar nobody is sent away");
}

Test(leaders, of_a_partition_are_handed_over_only_to_members_that_are_in_sync, .init = three, .fini = world_free)
{
    struct plan_input in = world_input();
    uint32_t leader = world_at(0)->leader, second = world_at(0)->members[1], third = world_at(0)->members[2];

    cr_assert_eq(plan_handover_target(&in, 0, 0), second);
    cr_assert_eq(plan_handover_target(&in, 0, third), third);
    cr_assert_eq(plan_handover_target(&in, 0, leader), 0);
    cr_assert_eq(plan_handover_target(&in, 0, 9), 0);
    world_state(second, TOPO_NODE_FENCED);
    cr_assert_eq(plan_handover_target(&in, 0, second), 0);
    cr_assert_eq(plan_handover_target(&in, 99, 0), 0);
}

/* ---- rule 19 -------------------------------------------------------------------------------------------------------------------------- */

static void power_cut(void)
{
    for (uint32_t id = 1; id <= 3; id++)
        world_enter(id, "", true);
    memset(world.ends, 0xff, sizeof(world.ends));
}

Test(power_cut, the_greatest_log_leads_when_all_are_back_and_known, .init = three, .fini = world_free)
{
    struct plan_input in = world_input();
    struct plan plan;

    power_cut();
    world_state(1, TOPO_NODE_ACTIVE);
    world_state(3, TOPO_NODE_ACTIVE);
    plan_partitions(&in, &plan);
    cr_assert_eq(plan.change_count + plan.end_count, 0, "node 2 may have more");
    plan_free(&plan);
    world_state(2, TOPO_NODE_ACTIVE);
    plan_partitions(&in, &plan);
    cr_assert_eq(plan.change_count, 0);
    cr_assert_eq(plan.end_count, 32, "their ends are asked for");
    plan_free(&plan);
    world.ends[1] = 100;
    world.ends[2] = 300;
    world.ends[3] = 200;
    cr_assert(world_step());
    world_check();
    for (uint32_t i = 0; i < 32; i++) {
        cr_assert_eq(world_at(i)->leader, 2);
        cr_assert_eq(topo_insync(world_at(i)).count, 1);
        cr_assert(topo_is_recovering(world_at(i)), "it pulls what the others have more of");
    }
    world_catch_up();
    cr_assert_not(topo_is_recovering(world_at(0)));
    cr_assert_eq(topo_insync(world_at(0)).count, 3);
}

Test(power_cut, an_administrator_may_go_on_without_the_missing_one, .init = three, .fini = world_free)
{
    struct plan_input in = world_input();
    struct topo_partition_change c;
    struct buf b = {0};

    cr_assert_eq(plan_recover(&in, 0, &c), ERR_EXISTS);
    power_cut();
    cr_assert_eq(plan_recover(&in, 0, &c), ERR_NOT_FOUND);
    world_state(1, TOPO_NODE_ACTIVE);
    cr_assert_eq(plan_recover(&in, 0, &c), 0);
    cr_assert_eq(c.leader, 1);
    world_state(3, TOPO_NODE_ACTIVE);
    cr_assert_eq(plan_recover(&in, 0, &c), ERR_AGAIN, "which of the two has more is not known yet");
    world.ends[1] = 5;
    world.ends[3] = 7;
    cr_assert_eq(plan_recover(&in, 0, &c), 0);
    cr_assert_eq(c.leader, 3);
    topo_cmd_partition_change(&b, 1, &c, 1);
    cr_assert_eq(world_apply(&b), 0);
    cr_assert_eq(world_at(0)->leader, 3);
    cr_assert(topo_is_recovering(world_at(0)));
}

Test(power_cut, clean_restarts_of_all_need_no_comparison, .init = three, .fini = world_free)
{
    for (uint32_t id = 1; id <= 3; id++)
        world_enter(id, "", false);
    for (uint32_t id = 1; id <= 3; id++)
        world_state(id, TOPO_NODE_ACTIVE);
    for (uint32_t i = 0; i < 32; i++)
        cr_assert_neq(world_at(i)->leader, 0);
    world_check();
}
