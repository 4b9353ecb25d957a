/* Nodes and partitions in the state machine: entering, fencing, elections, in-sync sets, placement, levels. */
#include <criterion/criterion.h>

#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/partition.h"
#include "cluster/topology/state.h"
#include "log/effect.h"

#define PARTITIONS 12

static struct topo_state s;
static struct buf b;
static struct topo_result res;

static int apply(void)
{
    topo_state_clear_changes(&s);
    cr_assert_eq(topo_state_apply(&s, buf_slice(&b), &res), 0);
    buf_clear(&b);
    topo_retired_free(&s.retired);
    return res.err;
}

static void form(void)
{
    topo_cmd_form(&b, (const uint8_t *)"0123456789abcdef", PARTITIONS, EFFECT_LEVEL_MAX, (const uint8_t *)"salt");
    cr_assert_eq(apply(), 0);
}

static struct topo_node node_of(uint32_t id, char letter)
{
    struct topo_node n = {.id = id, .level = EFFECT_LEVEL_MAX, .name = slice_str("n"), .rack = slice_str("r1")};

    memset(n.uuid, letter, 16);
    n.endpoints[TOPO_BUS] = (struct topo_endpoint){slice_str("10.0.0.1"), 9000};
    n.endpoints[TOPO_KAFKA] = (struct topo_endpoint){slice_str("kafka.example"), 9092};
    n.endpoints[TOPO_RESP] = (struct topo_endpoint){slice_str("0.0.0.0"), 6379};
    return n;
}

static int enter(uint32_t id, bool unclean)
{
    struct topo_node n = node_of(id, (char)('a' + id));

    n.unclean = unclean;
    if (topo_node_find(&s.v, id) == NULL)
        n.id = 0;
    topo_cmd_node_enter(&b, &n, false);
    return apply();
}

static int set_state(uint32_t id, enum topo_node_state state)
{
    topo_cmd_node_state(&b, id, topo_node_find(&s.v, id)->epoch, state, 0);
    return apply();
}

static struct topo_replica_set set_of(unsigned n, ...)
{
    struct topo_replica_set set = {0};
    va_list ap;

    va_start(ap, n);
    for (unsigned i = 0; i < n; i++)
        topo_set_add(&set, va_arg(ap, unsigned));
    va_end(ap);
    return set;
}

static const struct topo_partition *at(uint32_t i)
{
    return topo_partition_at(&s.v, i);
}

#define ASSERT_SET(got, ...)                                                                                 \
    do {                                                                                                     \
        struct topo_replica_set got_ = (got), want_ = set_of(__VA_ARGS__);                                   \
        cr_assert(topo_set_equal(&got_, &want_), "%u members", got_.count);                                  \
    } while (0)

/* `nodes` active nodes, each partition on three of them, led by turns. */
static void cluster(unsigned nodes, unsigned factor)
{
    struct topo_replica_set sets[PARTITIONS] = {0};

    form();
    for (uint32_t id = 1; id <= nodes; id++) {
        cr_assert_eq(enter(id, false), 0);
        cr_assert_eq(res.id, id);
        cr_assert_eq(set_state(id, TOPO_NODE_ACTIVE), 0);
    }
    for (uint32_t i = 0; i < PARTITIONS; i++)
        for (uint32_t k = 0; k < factor; k++)
            topo_set_add(&sets[i], (i + k) % nodes + 1);
    topo_cmd_partitions_place(&b, sets, PARTITIONS);
    cr_assert_eq(apply(), 0);
}

static void three(void)
{
    cluster(3, 3);
}

static void one_copy(void)
{
    cluster(3, 1);
}

static void teardown(void)
{
    buf_fini(&b);
    topo_state_free(&s);
}

static struct topo_insync_request request(uint32_t partition, struct topo_replica_set insync)
{
    const struct topo_partition *p = at(partition);
    struct topo_insync_request q = {.node = p->leader, .partition = partition, .leader_epoch = p->epoch, .version = p->version, .insync = insync};

    q.node_epoch = topo_node_find(&s.v, q.node)->epoch;
    for (unsigned i = 0; i < insync.count; i++)
        q.epochs[i] = topo_node_find(&s.v, insync.nodes[i])->epoch;
    return q;
}

static int insync(const struct topo_insync_request *q)
{
    topo_cmd_partition_insync(&b, q);
    return apply();
}

static int change(uint32_t by, const struct topo_partition_change *c)
{
    topo_cmd_partition_change(&b, by, c, 1);
    return apply();
}

Test(cluster, a_placement_is_taken_once_and_whole, .init = three, .fini = teardown)
{
    struct topo_replica_set sets[PARTITIONS] = {0};

    cr_assert_eq(s.change_count, PARTITIONS);
    cr_assert_eq(s.changes[3].kind, TOPO_PARTITION_CHANGED);
    cr_assert_eq(s.changes[3].partition, 3);
    cr_assert_eq(at(1)->leader, 2);
    cr_assert_eq(at(1)->epoch, 1);
    cr_assert_eq(at(1)->version, 1);
    ASSERT_SET(topo_replicas(at(1)), 3, 2, 3, 1);
    ASSERT_SET(topo_insync(at(1)), 3, 1, 2, 3);
    cr_assert_eq(topo_partition_min_insync(&s.v, at(1)), 2);
    cr_assert_null(at(PARTITIONS));
    topo_cmd_partitions_place(&b, sets, PARTITIONS);
    cr_assert_eq(apply(), ERR_EXISTS);
}

Test(cluster, a_placement_on_nodes_that_do_not_exist_changes_nothing, .init = form, .fini = teardown)
{
    struct topo_replica_set sets[PARTITIONS] = {0};

    cr_assert_eq(enter(1, false), 0);
    for (uint32_t i = 0; i < PARTITIONS; i++)
        topo_set_add(&sets[i], i == 7 ? 2 : 1);
    topo_cmd_partitions_place(&b, sets, PARTITIONS);
    cr_assert_eq(apply(), ERR_INVALID);
    topo_cmd_partitions_place(&b, sets, PARTITIONS - 1);
    cr_assert_eq(apply(), ERR_INVALID);
    cr_assert_null(at(0));
}

Test(cluster, fencing_moves_every_leadership_in_one_entry_and_takes_exclusive_queues, .init = three, .fini = teardown)
{
    uint64_t index;

    topo_cmd_queue_declare(&b, slice_str("/"), slice_str("mine"), false, true, false, 2, 1, SLICE_NONE);
    cr_assert_eq(apply(), 0);
    topo_cmd_queue_declare(&b, slice_str("/"), slice_str("other"), false, true, false, 1, 1, SLICE_NONE);
    cr_assert_eq(apply(), 0);
    index = s.v.index;
    cr_assert_eq(set_state(2, TOPO_NODE_FENCED), 0);
    cr_assert_eq(s.v.index, index + 1);
    cr_assert_null(topo_queue_find(&s.v, slice_str("/"), slice_str("mine")));
    cr_assert_not_null(topo_queue_find(&s.v, slice_str("/"), slice_str("other")));
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        bool led = i % 3 == 1;

        cr_assert_eq(at(i)->leader, led ? 3 : i % 3 + 1);
        cr_assert_eq(at(i)->epoch, led ? 2 : 1, "the epoch rises with the leader only (R27)");
        cr_assert_eq(at(i)->version, 2);
        ASSERT_SET(topo_insync(at(i)), 2, 1, 3);
        ASSERT_SET(topo_eligible(at(i)), 0);
    }
    topo_cmd_node_state(&b, 2, 99, TOPO_NODE_ACTIVE, 0);
    cr_assert_eq(apply(), ERR_FENCED, "of another epoch");
    topo_cmd_node_state(&b, 9, 1, TOPO_NODE_ACTIVE, 0);
    cr_assert_eq(apply(), ERR_NOT_FOUND);
}

Test(cluster, below_min_insync_who_leaves_stays_eligible_and_is_elected_when_it_returns, .init = three, .fini = teardown)
{
    cr_assert_eq(set_state(1, TOPO_NODE_FENCED), 0);
    cr_assert_eq(set_state(2, TOPO_NODE_FENCED), 0);
    ASSERT_SET(topo_insync(at(0)), 1, 3);
    ASSERT_SET(topo_eligible(at(0)), 1, 2);
    cr_assert_eq(set_state(3, TOPO_NODE_FENCED), 0);
    cr_assert_eq(at(0)->leader, 0);
    ASSERT_SET(topo_insync(at(0)), 0);
    ASSERT_SET(topo_eligible(at(0)), 2, 2, 3);
    cr_assert_eq(set_state(1, TOPO_NODE_ACTIVE), 0);
    cr_assert_eq(at(0)->leader, 0, "it left while others went on: it may lack what they committed (R30)");
    cr_assert_eq(set_state(3, TOPO_NODE_ACTIVE), 0);
    cr_assert_eq(at(0)->leader, 3);
    ASSERT_SET(topo_insync(at(0)), 1, 3);
    ASSERT_SET(topo_eligible(at(0)), 1, 2);
    cr_assert_gt(at(0)->epoch, 3);
}

Test(cluster, an_unclean_restart_leaves_the_eligible_too_and_is_remembered, .init = three, .fini = teardown)
{
    for (uint32_t id = 1; id <= 3; id++)
        cr_assert_eq(enter(id, true), 0);
    cr_assert_eq(at(0)->leader, 0);
    ASSERT_SET(topo_insync(at(0)), 0);
    ASSERT_SET(topo_eligible(at(0)), 0);
    ASSERT_SET(topo_last_known(at(0)), 3, 1, 2, 3);
    for (uint32_t id = 1; id <= 3; id++)
        cr_assert_eq(set_state(id, TOPO_NODE_ACTIVE), 0);
    cr_assert_eq(at(0)->leader, 0, "which log is the greatest is not known here (rule 19)");
}

Test(cluster, the_only_replica_leads_again_even_after_an_unclean_restart, .init = one_copy, .fini = teardown)
{
    cr_assert_eq(topo_partition_min_insync(&s.v, at(0)), 1);
    cr_assert_eq(enter(1, true), 0);
    cr_assert_eq(at(0)->leader, 0);
    cr_assert_eq(set_state(1, TOPO_NODE_ACTIVE), 0);
    cr_assert_eq(at(0)->leader, 1);
    ASSERT_SET(topo_insync(at(0)), 1, 1);
    ASSERT_SET(topo_last_known(at(0)), 0);
}

Test(cluster, a_node_that_enters_again_keeps_its_id_and_loses_its_leaderships, .init = three, .fini = teardown)
{
    struct topo_node n = node_of(2, 'a' + 2);

    cr_assert_eq(enter(2, false), 0);
    cr_assert_eq(topo_node_find(&s.v, 2)->epoch, 2);
    cr_assert_eq(topo_node_find(&s.v, 2)->state, TOPO_NODE_FENCED);
    cr_assert_eq(at(1)->leader, 3);
    n.id = 0;
    topo_cmd_node_enter(&b, &n, false);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(res.id, 2, "known by its uuid");
    n.id = 3;
    topo_cmd_node_enter(&b, &n, false);
    cr_assert_eq(apply(), ERR_MISMATCH);
    n = node_of(9, 'z');
    topo_cmd_node_enter(&b, &n, false);
    cr_assert_eq(apply(), ERR_NOT_FOUND);
    n = node_of(0, 'y');
    n.level = 1;
    topo_cmd_node_enter(&b, &n, false);
    cr_assert_eq(apply(), ERR_UNSUPPORTED, "too old for the cluster's level");
}

Test(cluster, in_sync_requests_are_checked_in_the_order_of_r24, .init = three, .fini = teardown)
{
    struct topo_insync_request q = request(0, set_of(2, 1, 2));

    q.partition = 999;
    cr_assert_eq(insync(&q), ERR_NOT_FOUND);
    q = request(0, set_of(2, 1, 2));
    q.leader_epoch++;
    cr_assert_eq(insync(&q), ERR_AGAIN);
    q = request(0, set_of(2, 1, 2));
    q.version++;
    cr_assert_eq(insync(&q), ERR_AGAIN);
    q = request(0, set_of(2, 1, 2));
    q.node_epoch--;
    cr_assert_eq(insync(&q), ERR_FENCED);
    q = request(0, set_of(2, 1, 2));
    q.leader_epoch--;
    q.node = 2;
    cr_assert_eq(insync(&q), ERR_FENCED, "an old epoch is told before a wrong sender");
    q = request(0, set_of(2, 1, 2));
    q.node = 2;
    q.version--;
    cr_assert_eq(insync(&q), ERR_INVALID, "a wrong sender before an old version");
    q = request(0, set_of(2, 1, 2));
    q.version--;
    cr_assert_eq(insync(&q), ERR_MISMATCH);
    q = request(0, set_of(2, 2, 3));
    cr_assert_eq(insync(&q), ERR_INVALID, "without the leader");
    q = request(0, set_of(2, 1, 2));
    q.epochs[1]--;
    cr_assert_eq(insync(&q), ERR_INELIGIBLE, "a member of an earlier start");
    cr_assert_eq(at(0)->version, 1);
    q = request(0, set_of(2, 1, 2));
    cr_assert_eq(insync(&q), 0);
    cr_assert_eq(res.id, 2);
    cr_assert_eq(at(0)->epoch, 1);
    ASSERT_SET(topo_insync(at(0)), 2, 1, 2);
    ASSERT_SET(topo_eligible(at(0)), 0);
}

Test(cluster, a_shrink_below_the_bar_keeps_all_who_leave_eligible_and_growing_clears_them, .init = three, .fini = teardown)
{
    struct topo_insync_request q = request(0, set_of(1, 1));

    cr_assert_eq(insync(&q), 0);
    ASSERT_SET(topo_insync(at(0)), 1, 1);
    ASSERT_SET(topo_eligible(at(0)), 2, 2, 3);
    q = request(0, set_of(2, 1, 3));
    cr_assert_eq(insync(&q), 0);
    ASSERT_SET(topo_insync(at(0)), 2, 1, 3);
    ASSERT_SET(topo_eligible(at(0)), 0);
}

Test(cluster, a_fenced_or_draining_node_does_not_join_an_in_sync_set, .init = three, .fini = teardown)
{
    struct topo_insync_request q;

    cr_assert_eq(set_state(3, TOPO_NODE_FENCED), 0);
    q = request(0, set_of(3, 1, 2, 3));
    cr_assert_eq(insync(&q), ERR_INELIGIBLE);
    cr_assert_eq(set_state(2, TOPO_NODE_DRAINING), 0);
    q = request(0, set_of(2, 1, 2));
    cr_assert_eq(insync(&q), 0, "who drains may stay");
    cr_assert_eq(set_state(3, TOPO_NODE_DRAINING), 0);
    q = request(0, set_of(3, 1, 2, 3));
    cr_assert_eq(insync(&q), ERR_INELIGIBLE);
}

static int drain(uint32_t id, enum topo_drain how)
{
    topo_cmd_node_drain(&b, id, how);
    return apply();
}

Test(cluster, a_drain_outlives_restarts_and_snapshots_until_it_is_ended, .init = three, .fini = teardown)
{
    struct topo_insync_request q = request(0, set_of(2, 1, 3));
    struct buf snapshot = {0};
    struct topo_state copy = {0};

    cr_assert_eq(drain(9, TOPO_DRAIN_LEADERS), ERR_NOT_FOUND);
    cr_assert_eq(insync(&q), 0);
    cr_assert_eq(drain(2, TOPO_DRAIN_LEADERS), 0);
    cr_assert_eq(topo_node_find(&s.v, 2)->state, TOPO_NODE_DRAINING);
    cr_assert_eq(at(1)->leader, 2, "it hands over itself (rule 21)");
    q = request(0, set_of(3, 1, 2, 3));
    cr_assert_eq(insync(&q), 0, "its replicas stay and may be in sync");
    /* It restarts. */
    cr_assert_eq(enter(2, false), 0);
    cr_assert_eq(topo_node_find(&s.v, 2)->state, TOPO_NODE_FENCED);
    cr_assert_eq(set_state(2, TOPO_NODE_ACTIVE), 0);
    cr_assert_eq(topo_node_find(&s.v, 2)->state, TOPO_NODE_DRAINING, "the controller hears it, the wish stands");
    cr_assert_eq(drain(3, TOPO_DRAIN_REPLICAS), 0);
    cr_assert_eq(drain(1, TOPO_DRAIN_LEADERS), ERR_IN_USE, "somebody has to lead");
    topo_state_encode(&s.v, &snapshot);
    cr_assert_eq(topo_state_decode(&copy, buf_slice(&snapshot)), 0);
    cr_assert_eq(topo_node_find(&copy.v, 1)->drain, TOPO_DRAIN_NONE);
    cr_assert_eq(topo_node_find(&copy.v, 2)->drain, TOPO_DRAIN_LEADERS);
    cr_assert_eq(topo_node_find(&copy.v, 3)->drain, TOPO_DRAIN_REPLICAS);
    topo_state_free(&copy);
    buf_fini(&snapshot);
    cr_assert_eq(drain(2, TOPO_DRAIN_NONE), 0);
    cr_assert_eq(topo_node_find(&s.v, 2)->state, TOPO_NODE_ACTIVE);
}

Test(cluster, a_slow_node_joins_no_in_sync_set_and_leads_only_what_nobody_else_can, .init = three, .fini = teardown)
{
    struct topo_insync_request q = request(0, set_of(2, 1, 3));

    cr_assert_eq(insync(&q), 0);
    topo_cmd_node_state(&b, 2, 1, TOPO_NODE_ACTIVE, TOPO_NODE_SLOW);
    cr_assert_eq(apply(), 0);
    cr_assert(topo_node_find(&s.v, 2)->slow);
    cr_assert_eq(at(1)->leader, 2, "it hands over itself (rule 21)");
    q = request(0, set_of(3, 1, 2, 3));
    cr_assert_eq(insync(&q), ERR_INELIGIBLE);
    cr_assert_eq(set_state(3, TOPO_NODE_FENCED), 0);
    cr_assert_eq(set_state(1, TOPO_NODE_FENCED), 0);
    cr_assert_eq(at(2)->leader, 2);
    topo_cmd_node_state(&b, 2, 1, TOPO_NODE_ACTIVE, 0);
    cr_assert_eq(apply(), 0);
    cr_assert_not(topo_node_find(&s.v, 2)->slow);
}

Test(cluster, one_that_is_added_becomes_a_replica_when_its_leader_reports_it, .fini = teardown)
{
    struct topo_partition_change c;
    struct topo_insync_request q;

    cluster(4, 2);
    cr_assert_eq(topo_partition_min_insync(&s.v, at(0)), 1);
    topo_change_of(&c, at(0));
    topo_set_add(&c.adding, 3);
    cr_assert_eq(change(4, &c), 0);
    ASSERT_SET(topo_adding(at(0)), 1, 3);
    cr_assert(topo_is_replica(at(0), 3));
    cr_assert_eq(topo_partition_min_insync(&s.v, at(0)), 1, "not counted by rule 12b");
    cr_assert_eq(at(0)->epoch, 1);
    q = request(0, set_of(3, 1, 2, 3));
    cr_assert_eq(insync(&q), 0);
    ASSERT_SET(topo_replicas(at(0)), 3, 1, 2, 3);
    ASSERT_SET(topo_adding(at(0)), 0);
    cr_assert_eq(topo_partition_min_insync(&s.v, at(0)), 2);
    topo_change_of(&c, at(0));
    topo_set_remove(&c.replicas, 2);
    topo_set_remove(&c.insync, 2);
    cr_assert_eq(change(4, &c), 0);
    cr_assert_eq(at(0)->epoch, 2, "dropping a replica raises the epoch (R27)");
    cr_assert_eq(at(0)->leader, 1);
}

Test(cluster, changes_that_would_lose_something_are_refused, .init = three, .fini = teardown)
{
    struct topo_partition_change c;

    topo_change_of(&c, at(0));
    c.leader = 2;
    cr_assert_eq(change(3, &c), ERR_NOT_LEADER, "a leader that is not fenced goes by its own handover only (rule 21)");
    cr_assert_eq(change(1, &c), 0);
    cr_assert_eq(at(0)->leader, 2);
    cr_assert_eq(at(0)->epoch, 2);
    cr_assert_eq(change(2, &c), ERR_MISMATCH, "the version moved on");
    topo_change_of(&c, at(0));
    topo_set_remove(&c.insync, 3);
    c.leader = 3;
    cr_assert_eq(change(2, &c), ERR_INVALID, "not in sync");
    topo_change_of(&c, at(0));
    topo_set_remove(&c.insync, 2);
    cr_assert_eq(change(2, &c), ERR_INVALID, "the leader itself");
    topo_change_of(&c, at(0));
    topo_set_add(&c.replicas, 9);
    cr_assert_eq(change(2, &c), ERR_INVALID, "an unknown node");
    topo_change_of(&c, at(0));
    c.replicas.nodes[1] = c.replicas.nodes[0];
    cr_assert_eq(change(2, &c), ERR_INVALID, "twice on a node");
    topo_change_of(&c, at(0));
    topo_set_remove(&c.insync, 3);
    cr_assert_eq(change(2, &c), 0);
    topo_change_of(&c, at(0));
    topo_set_add(&c.insync, 3);
    cr_assert_eq(change(2, &c), ERR_INVALID, "joining is the leader's to report");
    topo_change_of(&c, at(0));
    topo_set_add(&c.eligible, 3);
    cr_assert_eq(change(2, &c), ERR_INVALID, "nobody becomes eligible afterwards");
}

Test(cluster, an_administrators_word_elects_what_no_set_allows, .init = three, .fini = teardown)
{
    struct topo_partition_change c;

    for (uint32_t id = 1; id <= 3; id++)
        cr_assert_eq(enter(id, true), 0);
    cr_assert_eq(set_state(2, TOPO_NODE_ACTIVE), 0);
    topo_change_of(&c, at(0));
    c.leader = 2;
    topo_set_add(&c.insync, 2);
    c.last_known.count = 0;
    cr_assert_eq(change(2, &c), ERR_INVALID);
    c.unclean = true;
    cr_assert_eq(change(2, &c), 0);
    cr_assert_eq(at(0)->leader, 2);
    ASSERT_SET(topo_last_known(at(0)), 0);
}

static int damaged(uint32_t node, uint32_t partition)
{
    topo_cmd_partition_damaged(&b, node, topo_node_find(&s.v, node)->epoch, partition);
    return apply();
}

Test(cluster, a_damaged_copy_leaves_every_set_and_others_lead, .init = three, .fini = teardown)
{
    uint32_t version = at(0)->version;
    struct topo_insync_request late = request(0, set_of(3, 1, 2, 3));

    cr_assert_eq(at(0)->leader, 1);
    cr_assert_eq(damaged(3, 0), 0);
    ASSERT_SET(topo_insync(at(0)), 2, 1, 2);
    ASSERT_SET(topo_eligible(at(0)), 0);
    cr_assert_eq(at(0)->leader, 1);
    cr_assert_eq(at(0)->epoch, 1, "its leader stays");
    cr_assert_eq(at(0)->version, version + 1);
    cr_assert_eq(s.changes[s.change_count - 1].kind, TOPO_PARTITION_DAMAGED);
    cr_assert_eq(s.changes[s.change_count - 1].id, 3);
    cr_assert_eq(insync(&late), ERR_MISMATCH, "what was meant before it was known to be damaged comes too late");
    cr_assert_eq(damaged(3, 0), 0);
    cr_assert_eq(at(0)->version, version + 2, "also when it is in no set");
    cr_assert_eq(damaged(1, 0), 0);
    cr_assert_eq(at(0)->leader, 2);
    cr_assert_eq(at(0)->epoch, 2);
    ASSERT_SET(topo_insync(at(0)), 1, 2);
    ASSERT_SET(topo_insync(at(1)), 3, 1, 2, 3);
}

Test(cluster, the_last_copy_that_is_damaged_leaves_the_choice_to_people, .init = three, .fini = teardown)
{
    struct topo_insync_request q = request(0, set_of(1, 1));
    struct topo_partition_change c;

    cr_assert_eq(insync(&q), 0);
    ASSERT_SET(topo_eligible(at(0)), 2, 2, 3);
    for (uint32_t id = 2; id <= 3; id++) {
        cr_assert_eq(enter(id, true), 0); /* unclean: in last_known from here on */
        cr_assert_eq(set_state(id, TOPO_NODE_ACTIVE), 0);
    }
    ASSERT_SET(topo_eligible(at(0)), 0);
    ASSERT_SET(topo_last_known(at(0)), 2, 2, 3);
    cr_assert_eq(damaged(1, 0), 0);
    cr_assert_eq(at(0)->leader, 0, "what the others have may be less");
    ASSERT_SET(topo_insync(at(0)), 0);
    ASSERT_SET(topo_last_known(at(0)), 0);
    cr_assert_eq(set_state(2, TOPO_NODE_FENCED), 0);
    cr_assert_eq(set_state(2, TOPO_NODE_ACTIVE), 0);
    cr_assert_eq(at(0)->leader, 0);
    topo_change_of(&c, at(0));
    c.leader = 2;
    topo_set_add(&c.insync, 2);
    c.unclean = true;
    cr_assert_eq(change(2, &c), 0);
    cr_assert_eq(at(0)->leader, 2);
}

Test(cluster, a_damaged_last_known_copy_does_not_make_the_other_the_newest, .init = three, .fini = teardown)
{
    for (uint32_t id = 1; id <= 3; id++)
        cr_assert_eq(enter(id, true), 0);
    cr_assert_eq(at(0)->leader, 0);
    ASSERT_SET(topo_last_known(at(0)), 3, 1, 2, 3);
    cr_assert_eq(damaged(1, 0), 0);
    cr_assert_eq(damaged(2, 0), 0);
    cr_assert_eq(set_state(3, TOPO_NODE_ACTIVE), 0);
    cr_assert_eq(at(0)->leader, 0);
    ASSERT_SET(topo_last_known(at(0)), 0);
}

Test(cluster, an_eligible_copy_leads_when_the_last_in_sync_one_is_damaged, .init = three, .fini = teardown)
{
    struct topo_insync_request q = request(0, set_of(1, 1));

    cr_assert_eq(insync(&q), 0);
    cr_assert_eq(damaged(1, 0), 0);
    cr_assert_eq(at(0)->leader, 2);
    ASSERT_SET(topo_insync(at(0)), 1, 2);
}

Test(cluster, the_only_replica_is_not_given_up, .init = one_copy, .fini = teardown)
{
    cr_assert_eq(damaged(1, 0), ERR_IN_USE);
    cr_assert_eq(damaged(2, 0), ERR_NOT_FOUND);
    topo_cmd_partition_damaged(&b, 1, topo_node_find(&s.v, 1)->epoch - 1, 0);
    cr_assert_eq(apply(), ERR_FENCED);
    cr_assert_eq(at(0)->leader, 1);
    cr_assert_eq(at(0)->version, 1);
}

Test(cluster, a_batch_applies_what_fits_and_tells_how_many, .init = three, .fini = teardown)
{
    struct topo_partition_change c[3];

    for (uint32_t i = 0; i < 3; i++) {
        topo_change_of(&c[i], at(i));
        topo_set_remove(&c[i].insync, i == 2 ? 1 : 3 - 2 * i);
    }
    c[1].version = 7;
    topo_cmd_partition_change(&b, 1, c, 3);
    cr_assert_eq(apply(), ERR_MISMATCH);
    cr_assert_eq(res.id, 2);
    cr_assert_eq(at(0)->version, 2);
    cr_assert_eq(at(1)->version, 1);
    cr_assert_eq(at(2)->version, 2);
}

Test(cluster, an_older_version_of_the_view_keeps_its_records, .init = three, .fini = teardown)
{
    struct topology old = s.v;
    const struct topo_partition *untouched;

    topo_cmd_node_state(&b, 1, 1, TOPO_NODE_FENCED, 0);
    cr_assert_eq(topo_state_apply(&s, buf_slice(&b), &res), 0);
    cr_assert_eq(topo_partition_at(&old, 0)->leader, 1, "what a reader holds does not move");
    cr_assert_eq(at(0)->leader, 2);
    topo_retired_free(&s.retired);
    buf_clear(&b);
    untouched = at(9);
    {
        struct topo_insync_request q = request(0, set_of(1, 2));

        cr_assert_eq(insync(&q), 0);
    }
    cr_assert_eq(at(9), untouched, "what did not change is not copied");
}

Test(cluster, a_removed_node_is_gone_from_all_sets_and_its_id_stays_unused, .init = three, .fini = teardown)
{
    topo_cmd_node_remove(&b, 3);
    cr_assert_eq(apply(), ERR_IN_USE, "active, with replicas");
    cr_assert_eq(set_state(3, TOPO_NODE_FENCED), 0);
    topo_cmd_node_remove(&b, 3);
    cr_assert_eq(apply(), 0);
    cr_assert_null(topo_node_find(&s.v, 3));
    ASSERT_SET(topo_replicas(at(0)), 2, 1, 2);
    cr_assert_eq(topo_partition_min_insync(&s.v, at(0)), 1);
    cr_assert_eq(enter(4, false), 0);
    cr_assert_eq(res.id, 4);
}

Test(cluster, a_node_with_the_last_copy_is_not_removed, .init = one_copy, .fini = teardown)
{
    cr_assert_eq(set_state(1, TOPO_NODE_FENCED), 0);
    topo_cmd_node_remove(&b, 1);
    cr_assert_eq(apply(), ERR_IN_USE);
    cr_assert_not_null(topo_node_find(&s.v, 1));
}

Test(cluster, settings_are_bounded_and_raise_the_bar, .init = three, .fini = teardown)
{
    topo_cmd_cluster_settings(&b, 3, 4);
    cr_assert_eq(apply(), ERR_INVALID);
    topo_cmd_cluster_settings(&b, TOPO_REPLICAS_MAX, 2);
    cr_assert_eq(apply(), ERR_INVALID, "no room to move a replica");
    topo_cmd_cluster_settings(&b, 3, 3);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(topo_partition_min_insync(&s.v, at(0)), 3);
}

Test(cluster, addresses_fall_back_to_the_bus_host_and_are_never_wildcards, .init = three, .fini = teardown)
{
    const struct topo_node *n = topo_node_find(&s.v, 1);
    struct topo_endpoint ports[TOPO_LISTENERS] = {0};
    char host[64];
    uint16_t port;

    cr_assert(topo_node_address(n, TOPO_KAFKA, host, sizeof(host), &port));
    cr_assert_str_eq(host, "kafka.example");
    cr_assert_eq(port, 9092);
    cr_assert(topo_node_address(n, TOPO_RESP, host, sizeof(host), &port));
    cr_assert_str_eq(host, "10.0.0.1", "0.0.0.0 tells nobody anything");
    cr_assert_eq(port, 6379);
    cr_assert_not(topo_node_address(n, TOPO_AMQP, host, sizeof(host), &port), "off");
    cr_assert_not(topo_node_address(n, TOPO_KAFKA, host, 5, &port));
    ports[TOPO_AMQP] = (struct topo_endpoint){slice_str("h"), 1};
    topo_cmd_node_endpoints(&b, 1, 1, ports);
    cr_assert_eq(apply(), 0);
    n = topo_node_find(&s.v, 1);
    cr_assert(topo_node_address(n, TOPO_AMQP, host, sizeof(host), &port));
    cr_assert_eq(n->epoch, 1);
    topo_cmd_node_endpoints(&b, 1, 2, ports);
    cr_assert_eq(apply(), ERR_FENCED);
}

Test(cluster, a_snapshot_brings_back_nodes_partitions_and_settings, .init = three, .fini = teardown)
{
    struct topo_state copy = {0};
    struct buf one = {0}, two = {0};

    topo_cmd_cluster_settings(&b, 3, 2);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(set_state(2, TOPO_NODE_FENCED), 0);
    cr_assert_eq(set_state(3, TOPO_NODE_FENCED), 0);
    topo_state_encode(&s.v, &one);
    cr_assert_eq(topo_state_decode(&copy, buf_slice(&one)), 0);
    topo_state_encode(&copy.v, &two);
    cr_assert(slice_eq(buf_slice(&one), buf_slice(&two)));
    cr_assert_eq(copy.v.next_node_id, 4);
    cr_assert_eq(topo_partition_at(&copy.v, 1)->leader, 1);
    topo_state_free(&copy);
    for (size_t cut = 0; cut < one.len; cut++) {
        copy = (struct topo_state){0};
        cr_assert_lt(topo_state_decode(&copy, slice_of(one.data, cut)), 0, "cut at %zu", cut);
        topo_state_free(&copy);
    }
    for (size_t i = 0; i < one.len; i++) {
        copy = (struct topo_state){0};
        one.data[i] ^= 0xff;
        topo_state_decode(&copy, buf_slice(&one)); /* any answer, but no harm */
        one.data[i] ^= 0xff;
        topo_state_free(&copy);
    }
    buf_fini(&one);
    buf_fini(&two);
}

Test(cluster, a_log_of_level_1_is_replayed_and_the_level_rises_when_its_node_enters, .fini = teardown)
{
    struct topo_node n = node_of(1, 'a');
    struct buf snapshot = {0};
    struct topo_state copy = {0};

    topo_cmd_form(&b, (const uint8_t *)"0123456789abcdef", PARTITIONS, 1, (const uint8_t *)"salt");
    cr_assert_eq(apply(), 0);
    topo_cmd_node_register(&b, 0, n.uuid, n.name, true);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(res.id, 1);
    topo_cmd_cluster_settings(&b, 3, 2);
    cr_assert_eq(apply(), ERR_UNSUPPORTED, "nobody writes above the level (rule 10)");
    topo_state_encode(&s.v, &snapshot);
    cr_assert_eq(topo_state_decode(&copy, buf_slice(&snapshot)), 0);
    cr_assert_eq(topo_node_find(&copy.v, 1)->state, TOPO_NODE_ACTIVE);
    cr_assert_eq(copy.v.level, 1);
    cr_assert_eq(copy.v.next_node_id, 2);
    topo_state_free(&copy);
    buf_fini(&snapshot);
    topo_cmd_node_enter(&b, &n, true);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(s.v.level, EFFECT_LEVEL_MAX);
    cr_assert_eq(topo_node_find(&s.v, 1)->epoch, 2);
    cr_assert_eq(topo_node_find(&s.v, 1)->state, TOPO_NODE_ACTIVE);
}

Test(cluster, truncated_commands_are_refused_at_every_length, .init = three, .fini = teardown)
{
    struct topo_partition_change c;
    struct topo_insync_request q = request(0, set_of(2, 1, 2));
    struct topo_node n = node_of(1, 'b');
    struct topo_replica_set sets[2] = {set_of(1, 1), set_of(1, 1)};

    topo_change_of(&c, at(0));
    for (unsigned kind = 0; kind < 8; kind++) {
        switch (kind) {
        case 0: topo_cmd_node_enter(&b, &n, false); break;
        case 1: topo_cmd_node_state(&b, 1, 1, TOPO_NODE_FENCED, 0); break;
        case 2: topo_cmd_node_remove(&b, 1); break;
        case 3: topo_cmd_cluster_settings(&b, 3, 2); break;
        case 4: topo_cmd_partition_change(&b, 1, &c, 1); break;
        case 5: topo_cmd_partition_insync(&b, &q); break;
        case 6: topo_cmd_node_endpoints(&b, 1, 1, n.endpoints); break;
        case 7: topo_cmd_partition_damaged(&b, 1, 1, 0); break;
        }
        for (size_t cut = 0; cut < b.len; cut++)
            cr_assert_eq(topo_state_apply(&s, slice_of(b.data, cut), &res), ERR_CORRUPT, "kind %u cut at %zu", kind, cut);
        buf_clear(&b);
    }
    topo_cmd_partitions_place(&b, sets, 2);
    cr_assert_eq(apply(), ERR_EXISTS);
}

Test(cluster, a_thousand_partitions_take_at_most_64_kib)
{
    cr_assert_leq(topo_partition_table_bytes(1000), 65536);
}
