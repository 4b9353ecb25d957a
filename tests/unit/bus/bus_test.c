#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/worker.h"
#include "rig.h"

Test(bus, a_request_is_answered_on_both_channels_by_each_of_three_nodes_and_by_ourselves)
{
    start_nodes(3);
    for (unsigned from = 0; from < 3; from++) {
        for (unsigned to = 1; to <= 3; to++) {
            call_ok(from, to, BUS_PROPOSE, "echo control");
            cr_assert_eq(nodes[to - 1].last_from, from + 1);
            call_ok(from, to, BUS_QUEUE_CONTROL, "echo data that is longer than the few bytes that fit into the call itself");
        }
    }
    stop_nodes(3);
}

Test(bus, an_error_comes_with_its_text_and_an_unknown_node_is_not_found)
{
    struct result r;

    start_nodes(2);
    call_begin(&r, 0, 2, BUS_PROPOSE, SLICE_LIT("fail"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_NOT_EMPTY);
    cr_assert(slice_eq(buf_slice(&r.payload), SLICE_LIT("there is something in it")));
    buf_fini(&r.payload);
    call_begin(&r, 0, 1, BUS_PROPOSE, SLICE_LIT("fail"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_NOT_EMPTY);
    buf_fini(&r.payload);
    call_begin(&r, 0, 9, BUS_PROPOSE, SLICE_LIT("echo"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_NOT_FOUND);
    call_begin(&r, 0, 2, BUS_FETCH, SLICE_LIT("nobody handles it"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_UNSUPPORTED);
    buf_fini(&r.payload);
    stop_nodes(2);
}

Test(bus, a_call_that_is_not_answered_times_out_and_its_late_answer_harms_nobody)
{
    struct result r;

    start_nodes(2);
    for (uint32_t to = 1; to <= 2; to++) {
        call_begin(&r, 0, to, BUS_PROPOSE, SLICE_LIT("keep"), 50);
        call_wait(&r);
        cr_assert_eq(r.err, ERR_TIMEOUT);
        bus_reply(nodes[to - 1].bus, nodes[to - 1].kept, 0, SLICE_LIT("late"));
        call_ok(0, to, BUS_PROPOSE, "echo");
        cr_assert_eq(r.done, 1);
    }
    stop_nodes(2);
}

Test(bus, a_cancelled_call_is_never_done)
{
    struct result r;

    start_nodes(2);
    call_begin(&r, 0, 2, BUS_PROPOSE, SLICE_LIT("keep"), 100);
    WAIT_UNTIL(nodes[1].kept != NULL);
    call_cancel(&r, 0);
    bus_reply(nodes[1].bus, nodes[1].kept, 0, SLICE_LIT("late"));
    call_ok(0, 2, BUS_PROPOSE, "echo");
    usleep(150000);
    cr_assert_eq(r.done, 0);
    call_cancel(&r, 0); /* again is fine */
    stop_nodes(2);
}

Test(bus, calls_under_way_end_when_the_peer_goes_and_when_the_bus_closes)
{
    struct result lost, cancelled;

    start_nodes(2);
    call_begin(&lost, 0, 2, BUS_PROPOSE, SLICE_LIT("keep"), 10000);
    WAIT_UNTIL(nodes[1].kept != NULL);
    bus_reply(nodes[1].bus, nodes[1].kept, 0, SLICE_NONE);
    call_wait(&lost);
    cr_assert_eq(lost.err, 0);
    nodes[1].kept = NULL;
    call_begin(&lost, 0, 2, BUS_PROPOSE, SLICE_LIT("keep"), 10000);
    WAIT_UNTIL(nodes[1].kept != NULL);
    call_begin(&cancelled, 1, 2, BUS_PROPOSE, SLICE_LIT("keep"), 10000);
    WAIT_UNTIL(nodes[1].got == 3);
    bus_close(nodes[1].bus);
    call_wait(&lost);
    cr_assert_eq(lost.err, ERR_CLOSED);
    call_wait(&cancelled);
    cr_assert_eq(cancelled.err, ERR_CANCELLED);
    nodes[1].bus = NULL;
    wait_at_least(&nodes[0].downs, 2); /* it went, and nobody listens there any more */
    WAIT_UNTIL(nodes[0].last_down == BUS_DOWN_REFUSED);
    workers_stop(nodes[1].ws);
    workers_free(nodes[1].ws);
    node_stop(0);
}

static void send_many(struct worker *w, void *arg)
{
    struct bus *b = arg;

    (void)w;
    for (uint32_t i = 0; i < 20000; i++) {
        /* Large ones among small ones: within a type nothing overtakes. */
        size_t n = i % 1000 == 500 ? 700000 : 4 + i % 100;
        uint8_t *p = mem_zalloc(n);

        be32_put(p, i);
        cr_assert(bus_send(b, 2, BUS_QUEUE_DELIVER, slice_of(p, n)));
        mem_free(p);
    }
}

Test(bus, messages_of_a_type_arrive_in_order_whatever_their_size)
{
    start_nodes(2);
    worker_run(workers_get(nodes[0].ws, 0), send_many, nodes[0].bus);
    wait_at_least(&nodes[1].got, 20000);
    cr_assert(nodes[1].in_order);
    stop_nodes(2);
}

Test(bus, large_answers_come_whole_and_small_ones_do_not_wait_behind_them)
{
    enum { SIZE = 20 << 20 };
    struct result big, small;
    uint8_t *want = mem_alloc(SIZE);

    fill_pattern(want, SIZE);
    start_nodes(2);
    call_begin(&big, 0, 2, BUS_QUEUE_CONTROL, SLICE_LIT("big 20971520"), 20000);
    call_begin(&small, 0, 2, BUS_FETCH, SLICE_LIT("nobody handles it"), 10000);
    call_wait(&small);
    call_wait(&big);
    cr_assert_eq(big.err, 0);
    cr_assert_eq(big.payload.len, (size_t)SIZE);
    cr_assert_eq(memcmp(big.payload.data, want, SIZE), 0);
    buf_fini(&big.payload);
    buf_fini(&small.payload);
    /* to ourselves, and with something that LZ4 makes small */
    call_begin(&big, 0, 1, BUS_QUEUE_CONTROL, SLICE_LIT("big 20971520"), 20000);
    call_wait(&big);
    cr_assert_eq(big.payload.len, (size_t)SIZE);
    buf_fini(&big.payload);
    memcpy(want, "echo", 4);
    memset(want + 4, 'x', SIZE - 4);
    call_begin(&big, 0, 2, BUS_QUEUE_CONTROL, slice_of(want, SIZE), 20000);
    call_wait(&big);
    cr_assert_eq(big.err, 0);
    cr_assert(slice_eq(buf_slice(&big.payload), slice_of(want, SIZE)));
    buf_fini(&big.payload);
    mem_free(want);
    stop_nodes(2);
}

Test(bus, what_is_too_large_is_refused_at_once)
{
    static uint8_t data[3 << 20];
    struct node_options small = {.message_max = 2 << 20};
    struct result r;

    node_open(0, &small);
    node_open(1, &small);
    for (unsigned i = 0; i < 2; i++) {
        node_targets(i, 3, true);
        node_start(i);
    }
    wait_at_least(&nodes[0].ups, 1);
    call_begin(&r, 0, 2, BUS_QUEUE_CONTROL, slice_of(data, sizeof(data)), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_TOO_LARGE);
    call_begin(&r, 0, 2, BUS_PROPOSE, slice_of(data, 1 << 20), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_TOO_LARGE);
    /* an answer that is too large is an error of the answer */
    call_begin(&r, 0, 2, BUS_QUEUE_CONTROL, SLICE_LIT("big 2500000"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_TOO_LARGE);
    buf_fini(&r.payload);
    call_ok(0, 2, BUS_QUEUE_CONTROL, "echo");
    stop_nodes(2);
}

Test(bus, many_large_messages_share_a_small_bound_of_half_received_ones)
{
    struct node_options tight = {.assembly_max = 1 << 20, .no_compression = true};
    struct result r[8];

    node_open(0, &tight);
    node_open(1, &tight);
    for (unsigned i = 0; i < 2; i++) {
        node_targets(i, 3, true);
        node_start(i);
    }
    wait_at_least(&nodes[0].ups, 1);
    worker_run(workers_get(nodes[1].ws, 0), send_many, nodes[0].bus); /* another stream at the same time */
    for (unsigned i = 0; i < 8; i++)
        call_begin(&r[i], 0, 2, BUS_QUEUE_CONTROL, SLICE_LIT("big 5000000"), 20000);
    for (unsigned i = 0; i < 8; i++) {
        call_wait(&r[i]);
        cr_assert_eq(r[i].err, 0);
        cr_assert_eq(r[i].payload.len, 5000000u);
        buf_fini(&r[i].payload);
    }
    WAIT_UNTIL(nodes[1].next_number == 20000);
    cr_assert(nodes[1].in_order);
    stop_nodes(2);
}

Test(bus, a_cast_reaches_all_the_others)
{
    uint8_t zero[4] = {0};

    start_nodes(3);
    bus_cast(nodes[0].bus, BUS_QUEUE_DELIVER, slice_of(zero, sizeof(zero)));
    wait_at_least(&nodes[1].got, 1);
    wait_at_least(&nodes[2].got, 1);
    cr_assert_eq(nodes[0].got, 0);
    stop_nodes(3);
}

static void rename_it(struct worker *w, void *arg)
{
    static const uint8_t cluster[16] = {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7};

    (void)w;
    bus_set_identity(arg, cluster, 12, 5);
}

Test(bus, seeds_find_who_they_are_ourselves_included_and_ids_become_known_without_a_reconnect)
{
    static const uint8_t none[16];
    struct bus_peer_info info[4];
    struct result r;

    node_open(0, NULL);
    node_open(1, NULL);
    for (unsigned i = 0; i < 2; i++) {
        bus_set_identity(nodes[i].bus, none, 0, 0);
        node_targets(i, 3, false);
        node_start(i);
    }
    wait_at_least(&nodes[0].ups, 1);
    wait_at_least(&nodes[1].ups, 1);
    WAIT_UNTIL(bus_peers(nodes[0].bus, info, 4) == 1); /* our own address was recognised */
    call_to_begin(&r, 0, nodes[1].address, BUS_PROPOSE, SLICE_LIT("echo seed"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, 0);
    buf_fini(&r.payload);
    call_to_begin(&r, 0, nodes[0].address, BUS_PROPOSE, SLICE_LIT("echo ourselves"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, 0);
    cr_assert_eq(nodes[0].got, 1);
    buf_fini(&r.payload);
    call_to_begin(&r, 0, "127.0.0.1:1", BUS_PROPOSE, SLICE_LIT("echo"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_NOT_FOUND);
    worker_run(workers_extra(nodes[1].ws, 0), rename_it, nodes[1].bus);
    WAIT_UNTIL(bus_peers(nodes[0].bus, info, 4) == 1 && info[0].node_id == 12);
    call_ok(0, 12, BUS_PROPOSE, "echo by id");
    call_ok(0, 12, BUS_QUEUE_CONTROL, "echo by id");
    cr_assert_eq(info[0].reconnects, 0u);
    stop_nodes(2);
}

Test(bus, a_node_under_two_addresses_is_one_peer)
{
    struct bus_peer_info info[4];
    struct bus_target t[2];
    char other[64];

    node_open(0, NULL);
    node_open(1, NULL);
    snprintf(other, sizeof(other), "localhost:%u", bus_port(nodes[1].bus));
    memset(t, 0, sizeof(t));
    t[0].address = nodes[1].address;
    t[1].address = other;
    bus_set_targets(nodes[0].bus, t, 2);
    node_start(0);
    node_start(1);
    wait_at_least(&nodes[0].ups, 1);
    WAIT_UNTIL(bus_peers(nodes[0].bus, info, 4) == 1 && info[0].control_up && info[0].data_up);
    call_ok(0, 2, BUS_PROPOSE, "echo");
    stop_nodes(2);
}

Test(bus, a_target_taken_away_goes_down_and_comes_up_when_named_again)
{
    start_nodes(2);
    node_targets(0, 0, true); /* forgotten */
    wait_at_least(&nodes[0].downs, 1);
    node_targets(0, 2, true);
    wait_at_least(&nodes[0].ups, 2);
    call_ok(0, 2, BUS_PROPOSE, "echo again");
    stop_nodes(2);
}

/* A node whose control worker stands still until it may go on. */
struct standstill {
    struct mail mail;
    _Atomic bool may_go, gone;
};

static void stand_still(struct worker *w, struct mail *m)
{
    struct standstill *s = CONTAINER_OF(m, struct standstill, mail);

    (void)w;
    while (!s->may_go)
        usleep(1000);
    s->gone = true;
}

Test(bus, a_peer_that_leaves_a_ping_unanswered_is_silent_until_it_answers)
{
    static const struct node_options slow = {.heartbeat_ms = 1000}; /* it is down after three of them */
    struct standstill s = {.mail.deliver = stand_still};

    for (unsigned i = 0; i < 2; i++)
        node_open(i, &slow);
    for (unsigned i = 0; i < 2; i++) {
        node_targets(i, 3, true);
        node_start(i);
    }
    wait_at_least(&nodes[0].ups, 1);
    cr_assert_eq(nodes[0].silences, 0);
    worker_post(workers_extra(nodes[1].ws, 0), &s.mail);
    wait_at_least(&nodes[0].silences, 1);
    cr_assert_eq(nodes[0].last_from, 2);
    cr_assert_eq(nodes[0].heard, 0);
    s.may_go = true;
    wait_at_least(&nodes[0].heard, 1);
    cr_assert_eq(nodes[0].downs, 0);
    WAIT_UNTIL(s.gone);
    stop_nodes(2);
}
