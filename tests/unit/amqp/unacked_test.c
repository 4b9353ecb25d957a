/* Unsettled deliveries: tags, holes, multiple, and a forgotten one that must not hold memory for those after
 * it. */
#include <criterion/criterion.h>

#include "protocols/amqp/session.h"

static uint64_t push(struct amqp_unacked *u, uint32_t size)
{
    struct queue_handle h = {.offset_flags = (uint64_t)size << 16, .size = size};

    return amqp_unacked_push(u, &h);
}

Test(amqp_unacked, tags_count_from_one_and_are_taken_once)
{
    struct amqp_unacked u = {0};
    struct queue_handle h;

    cr_assert_eq(push(&u, 10), 1);
    cr_assert_eq(push(&u, 20), 2);
    cr_assert_eq(push(&u, 30), 3);
    cr_assert_not(amqp_unacked_take(&u, 0, &h));
    cr_assert_not(amqp_unacked_take(&u, 4, &h));
    cr_assert(amqp_unacked_take(&u, 2, &h) && h.size == 20);
    cr_assert_not(amqp_unacked_take(&u, 2, &h));
    cr_assert_eq(amqp_unacked_count(&u), 2);
    cr_assert(amqp_unacked_take(&u, 1, &h) && h.size == 10);
    cr_assert(amqp_unacked_take(&u, 3, &h) && h.size == 30);
    cr_assert_eq(amqp_unacked_count(&u), 0);
    amqp_unacked_fini(&u);
}

Test(amqp_unacked, multiple_takes_everything_up_to_the_tag_in_order)
{
    struct amqp_unacked u = {0};
    struct queue_handle h;
    uint64_t tag, want = 1;

    for (uint32_t i = 1; i <= 100; i++)
        push(&u, i);
    amqp_unacked_take(&u, 7, &h);
    while (amqp_unacked_pop(&u, 50, &tag, &h)) {
        want += want == 7;
        cr_assert_eq(tag, want);
        cr_assert_eq(h.size, want);
        want++;
    }
    cr_assert_eq(want, 51);
    cr_assert_eq(amqp_unacked_count(&u), 50);
    while (amqp_unacked_pop(&u, UINT64_MAX, &tag, &h))
        ;
    cr_assert_eq(amqp_unacked_count(&u), 0);
    amqp_unacked_fini(&u);
}

Test(amqp_unacked, a_forgotten_delivery_does_not_make_the_ring_grow)
{
    struct amqp_unacked u = {0};
    struct queue_handle h;
    uint64_t tag;

    push(&u, 1);
    for (uint32_t i = 2; i <= 200000; i++) {
        cr_assert_eq(push(&u, i), i);
        if (i % 50000 != 0)
            cr_assert(amqp_unacked_take(&u, i, &h));
    }
    cr_assert_leq(u.cap, 2048);
    cr_assert_eq(amqp_unacked_count(&u), 5);
    cr_assert(amqp_unacked_known(&u, 1));
    cr_assert(amqp_unacked_take(&u, 50000, &h) && h.size == 50000);
    cr_assert_not(amqp_unacked_take(&u, 50000, &h));
    cr_assert(amqp_unacked_pop(&u, UINT64_MAX, &tag, &h) && tag == 1);
    cr_assert(amqp_unacked_pop(&u, UINT64_MAX, &tag, &h) && tag == 100000);
    cr_assert(amqp_unacked_pop(&u, UINT64_MAX, &tag, &h) && tag == 150000);
    cr_assert(amqp_unacked_pop(&u, UINT64_MAX, &tag, &h) && tag == 200000);
    cr_assert_not(amqp_unacked_pop(&u, UINT64_MAX, &tag, &h));
    amqp_unacked_fini(&u);
}

Test(amqp_unacked, skipped_tags_need_no_memory_and_are_unknown)
{
    struct amqp_unacked u = {0};
    struct queue_handle h;
    uint64_t tag;

    for (uint64_t i = 1; i <= 1000; i++)
        cr_assert_eq(amqp_unacked_skip(&u), i);
    cr_assert_eq(u.cap, 0);
    cr_assert_eq(push(&u, 5), 1001);
    cr_assert_eq(amqp_unacked_skip(&u), 1002);
    cr_assert_not(amqp_unacked_known(&u, 1000));
    cr_assert_not(amqp_unacked_known(&u, 1002));
    cr_assert(amqp_unacked_pop(&u, UINT64_MAX, &tag, &h) && tag == 1001);
    cr_assert_not(amqp_unacked_pop(&u, UINT64_MAX, &tag, &h));
    for (int i = 0; i < 100000; i++) {
        push(&u, 1);
        amqp_unacked_skip(&u);
        cr_assert(amqp_unacked_pop(&u, UINT64_MAX, &tag, &h));
    }
    cr_assert_leq(u.cap, 64);
    amqp_unacked_fini(&u);
}
