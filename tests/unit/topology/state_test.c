#include <criterion/criterion.h>

#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/state.h"

static struct topo_state s;
static struct buf b;
static struct topo_result res;

static int apply(void)
{
    cr_assert_eq(topo_state_apply(&s, buf_slice(&b), &res), 0);
    buf_clear(&b);
    topo_retired_free(&s.retired);
    return res.err;
}

static void setup(void)
{
    topo_cmd_form(&b, (const uint8_t *)"0123456789abcdef", 32, 1, (const uint8_t *)"salt");
    cr_assert_eq(apply(), 0);
}

static void teardown(void)
{
    buf_fini(&b);
    topo_state_free(&s);
}

static uint64_t declare_queue(const char *name, bool durable, bool exclusive)
{
    topo_cmd_queue_declare(&b, slice_str("/"), slice_str(name), durable, exclusive, false, 1, 1, SLICE_NONE);
    cr_assert_eq(apply(), 0);
    return res.id;
}

static uint64_t exchange_id(const char *name)
{
    const struct topo_exchange *x = topo_exchange_find(&s.v, slice_str("/"), slice_str(name));

    return x == NULL ? 0 : x->id;
}

static bool count_binding(const struct topo_binding *x, void *arg)
{
    (void)x;
    ++*(unsigned *)arg;
    return true;
}

Test(state, a_formed_cluster_has_what_clients_expect, .init = setup, .fini = teardown)
{
    cr_assert_not_null(topo_vhost_find(&s.v, slice_str("/")));
    cr_assert_neq(exchange_id("amq.topic"), 0);
    cr_assert_neq(exchange_id(""), 0);
    cr_assert(topo_user_password_ok(topo_user_find(&s.v, slice_str("guest")), slice_str("guest")));
    cr_assert_not(topo_user_password_ok(topo_user_find(&s.v, slice_str("guest")), slice_str("guess")));
    topo_cmd_form(&b, (const uint8_t *)"0123456789abcdef", 32, 1, (const uint8_t *)"salt");
    cr_assert_eq(apply(), ERR_EXISTS);
}

Test(state, declaring_again_is_the_same_and_otherwise_a_mismatch, .init = setup, .fini = teardown)
{
    uint64_t id = declare_queue("q", true, false);

    cr_assert_eq(declare_queue("q", true, false), id);
    topo_cmd_queue_declare(&b, slice_str("/"), slice_str("q"), false, false, false, 1, 1, SLICE_NONE);
    cr_assert_eq(apply(), ERR_MISMATCH);
    topo_cmd_queue_declare(&b, slice_str("nowhere"), slice_str("q"), false, false, false, 1, 1, SLICE_NONE);
    cr_assert_eq(apply(), ERR_NOT_FOUND);
    topo_cmd_exchange_declare(&b, slice_str("/"), slice_str("amq.topic"), TOPO_FANOUT, true, false, false, SLICE_NONE);
    cr_assert_eq(apply(), ERR_MISMATCH);
}

Test(state, deleting_a_queue_takes_its_bindings_and_auto_delete_exchanges, .init = setup, .fini = teardown)
{
    uint64_t q = declare_queue("q", true, false), x;
    unsigned n = 0;

    topo_cmd_exchange_declare(&b, slice_str("/"), slice_str("x"), TOPO_DIRECT, true, true, false, SLICE_NONE);
    cr_assert_eq(apply(), 0);
    x = res.id;
    topo_cmd_bind(&b, x, TOPO_TO_QUEUE, q, slice_str("k"), SLICE_NONE);
    cr_assert_eq(apply(), 0);
    topo_cmd_bind(&b, x, TOPO_TO_QUEUE, q, slice_str("k"), SLICE_NONE);
    cr_assert_eq(apply(), 0);
    topo_match_direct(&s.v, x, slice_str("k"), count_binding, &n);
    cr_assert_eq(n, 1, "binding twice is one binding");
    topo_cmd_queue_delete(&b, q);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(exchange_id("x"), 0);
    cr_assert_eq(s.v.bindings.count, 0);
    cr_assert_eq(s.v.bindings_by_destination.count, 0);
    cr_assert_eq(s.change_count, 1);
    cr_assert_eq(s.changes[0].id, q);
}

Test(state, an_exchange_in_use_is_kept_when_asked, .init = setup, .fini = teardown)
{
    uint64_t q = declare_queue("q", true, false), x;

    topo_cmd_exchange_declare(&b, slice_str("/"), slice_str("x"), TOPO_TOPIC, true, false, false, SLICE_NONE);
    cr_assert_eq(apply(), 0);
    x = res.id;
    topo_cmd_bind(&b, x, TOPO_TO_QUEUE, q, slice_str("#"), SLICE_NONE);
    cr_assert_eq(apply(), 0);
    topo_cmd_exchange_delete(&b, slice_str("/"), slice_str("x"), true);
    cr_assert_eq(apply(), ERR_IN_USE);
    topo_cmd_unbind(&b, x, TOPO_TO_QUEUE, q, slice_str("#"), SLICE_NONE);
    cr_assert_eq(apply(), 0);
    topo_cmd_exchange_delete(&b, slice_str("/"), slice_str("x"), true);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(exchange_id("x"), 0);
}

Test(state, a_node_alone_that_starts_again_drops_what_is_not_durable, .init = setup, .fini = teardown)
{
    const uint8_t *uuid = (const uint8_t *)"fedcba9876543210";
    uint64_t durable = declare_queue("durable", true, false);

    topo_cmd_node_register(&b, 0, uuid, slice_str("n"), true);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(res.id, 1);
    declare_queue("transient", false, false);
    declare_queue("exclusive", true, true);
    topo_cmd_node_register(&b, 1, uuid, slice_str("n"), true);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(topo_node_find(&s.v, 1)->epoch, 2);
    cr_assert_eq(s.v.queues.count, 1);
    cr_assert_not_null(topo_queue_by_id(&s.v, durable));
}

Test(state, deleting_a_vhost_takes_everything_in_it, .init = setup, .fini = teardown)
{
    uint64_t before = s.v.exchanges.count;

    topo_cmd_vhost_add(&b, slice_str("v"));
    cr_assert_eq(apply(), 0);
    topo_cmd_vhost_add(&b, slice_str("v"));
    cr_assert_eq(apply(), ERR_EXISTS);
    topo_cmd_queue_declare(&b, slice_str("v"), slice_str("q"), true, false, false, 0, 0, SLICE_NONE);
    cr_assert_eq(apply(), 0);
    topo_cmd_permission_put(&b, slice_str("guest"), slice_str("v"), slice_str(".*"), slice_str(""), slice_str(""));
    cr_assert_eq(apply(), 0);
    topo_cmd_vhost_delete(&b, slice_str("v"));
    cr_assert_eq(apply(), 0);
    cr_assert_eq(s.v.queues.count, 0);
    cr_assert_eq(s.v.exchanges.count, before);
    cr_assert_eq(s.v.exchanges_by_id.count, before);
    cr_assert_eq(s.v.permissions.count, 1);
    topo_cmd_vhost_delete(&b, slice_str("v"));
    cr_assert_eq(apply(), ERR_NOT_FOUND);
}

Test(state, topics_grow_and_producer_ids_are_never_given_twice, .init = setup, .fini = teardown)
{
    const uint8_t *uuid = (const uint8_t *)"aaaaaaaaaaaaaaaa";

    topo_cmd_topic_create(&b, slice_str("t"), uuid, 4, 1, SLICE_NONE);
    cr_assert_eq(apply(), 0);
    topo_cmd_topic_create(&b, slice_str("t"), uuid, 4, 1, SLICE_NONE);
    cr_assert_eq(apply(), ERR_EXISTS);
    topo_cmd_topic_partitions(&b, slice_str("t"), 4);
    cr_assert_eq(apply(), ERR_INVALID);
    topo_cmd_topic_partitions(&b, slice_str("t"), 8);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(topo_topic_by_uuid(&s.v, uuid)->partitions, 8);
    topo_cmd_allocate_producer_ids(&b, 1000);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(res.producer_id, 0);
    topo_cmd_allocate_producer_ids(&b, 1000);
    cr_assert_eq(apply(), 0);
    cr_assert_eq(res.producer_id, 1000);
}

Test(state, a_snapshot_brings_back_the_same_bytes, .init = setup, .fini = teardown)
{
    struct topo_state copy = {0};
    struct buf one = {0}, two = {0};
    uint64_t q = declare_queue("q", true, false);

    topo_cmd_bind(&b, exchange_id("amq.topic"), TOPO_TO_QUEUE, q, slice_str("a.*.#"), slice_str("args"));
    cr_assert_eq(apply(), 0);
    topo_cmd_topic_create(&b, slice_str("t"), (const uint8_t *)"aaaaaaaaaaaaaaaa", 4, 1, SLICE_NONE);
    cr_assert_eq(apply(), 0);
    topo_cmd_config_put(&b, slice_str("kv.ack"), slice_str("quorum"));
    cr_assert_eq(apply(), 0);
    topo_cmd_node_register(&b, 0, (const uint8_t *)"fedcba9876543210", slice_str("n"), true);
    cr_assert_eq(apply(), 0);
    topo_state_encode(&s.v, &one);
    cr_assert_eq(topo_state_decode(&copy, buf_slice(&one)), 0);
    topo_state_encode(&copy.v, &two);
    cr_assert(slice_eq(buf_slice(&one), buf_slice(&two)));
    topo_state_free(&copy);
    for (size_t cut = 0; cut < one.len; cut += 7) {
        copy = (struct topo_state){0};
        cr_assert_lt(topo_state_decode(&copy, slice_of(one.data, cut)), 0, "a truncated snapshot is refused");
        topo_state_free(&copy);
    }
    buf_fini(&one);
    buf_fini(&two);
}

Test(state, truncated_and_unknown_commands_are_refused, .init = setup, .fini = teardown)
{
    struct buf whole = {0};

    topo_cmd_queue_declare(&whole, slice_str("/"), slice_str("q"), true, false, false, 0, 0, SLICE_NONE);
    for (size_t cut = 0; cut < whole.len; cut++)
        cr_assert_eq(topo_state_apply(&s, slice_of(whole.data, cut), &res), ERR_CORRUPT);
    cr_assert_eq(topo_state_apply(&s, slice_of("\xfe", 1), &res), ERR_LEVEL);
    buf_fini(&whole);
}
