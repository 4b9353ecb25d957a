/* What a queue does, once over a log in memory and once over one on disk. */
#include <criterion/criterion.h>

#include "base/err.h"
#include "fixture.h"

#define BOTH(durable) for (int durable = 0; durable < 2; durable++)

static struct fixture f;
static struct taster a, b;

static void open_fixture(void)
{
    fixture_init(&f);
    fixture_open(&f);
    taster_init(&a, &f);
    taster_init(&b, &f);
}

static void close_fixture(void)
{
    queue_consumer_remove(&a.c, f.now_ms);
    queue_consumer_remove(&b.c, f.now_ms);
    fixture_fini(&f);
}

TestSuite(queue, .init = open_fixture, .fini = close_fixture);

static struct queue_info info(struct queue *q)
{
    struct queue_info i;

    queue_info(q, &i);
    return i;
}

Test(queue, messages_come_in_order_and_acknowledged_ones_are_gone)
{
    BOTH (durable) {
        struct queue *q = fixture_queue(&f, 1 + (uint64_t)durable, durable);

        publish_n(&f, q, 0, 1000);
        cr_assert_eq(queue_ready(q), 1000);
        taster_init(&a, &f);
        cr_assert_eq(queue_consumer_add(q, &a.c, f.now_ms), 0);
        queue_table_flush(f.table, NULL);
        cr_assert_eq(a.news, 1);
        cr_assert_eq(taster_drain(&a), 1000);
        for (size_t i = 0; i < 1000; i++) {
            cr_assert_eq(a.got[i].number, i);
            cr_assert_not(a.got[i].redelivered);
        }
        cr_assert_eq(queue_ready(q), 0);
        cr_assert_eq(queue_unacked(q), 1000);
        taster_settle(&a, QUEUE_ACK, 0, 500);
        taster_settle(&a, QUEUE_DISCARD, 500, 500);
        cr_assert_eq(queue_unacked(q), 0);
        cr_assert_eq(info(q).acked, 500);
        cr_assert_eq(queue_table_flush(f.table, NULL), 0);
        cr_assert_eq(taster_drain(&a), 0);
        queue_consumer_remove(&a.c, f.now_ms);
    }
}

Test(queue, bodies_of_every_size_come_back_whole)
{
    static const size_t sizes[] = {8, 9, 100, 4000, 16384, 65535, 70000};

    BOTH (durable) {
        struct queue *q = fixture_queue(&f, 1 + (uint64_t)durable, durable);

        for (uint64_t i = 0; i < 70; i++) {
            cr_assert_eq(publish(&f, q, i, sizes[i % 7]), 0);
            if (i % 3 == 0)
                cr_assert_eq(queue_table_flush(f.table, NULL), 0);
        }
        cr_assert_eq(queue_table_flush(f.table, NULL), 0);
        taster_init(&a, &f);
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 70);
        for (size_t i = 0; i < 70; i++)
            cr_assert_eq(a.got[i].handle.size, sizes[i % 7]);
        queue_consumer_remove(&a.c, f.now_ms);
    }
}

Test(queue, get_sees_what_the_same_acquisition_published)
{
    BOTH (durable) {
        struct queue *q = fixture_queue(&f, 1 + (uint64_t)durable, durable);

        taster_init(&a, &f);
        cr_assert_eq(taster_get(&a, q, false), 0);
        cr_assert_eq(a.take.count, 0);
        publish(&f, q, 5, 16);
        publish(&f, q, 6, 16);
        cr_assert_eq(taster_get(&a, q, true), 0);
        cr_assert_eq(a.take.count, 1);
        cr_assert_eq(a.take.ready, 1);
        cr_assert_eq(a.got[0].number, 5);
        cr_assert_eq(queue_unacked(q), 0);
        cr_assert_eq(taster_get(&a, q, false), 0);
        cr_assert_eq(a.got[1].number, 6);
        cr_assert_eq(queue_unacked(q), 1);
        queue_settle(q, NULL, QUEUE_ACK, &a.got[1].handle, 1);
        cr_assert_eq(queue_unacked(q), 0);
    }
}

Test(queue, requeued_messages_return_to_their_position_marked_redelivered)
{
    BOTH (durable) {
        struct queue *q = fixture_queue(&f, 1 + (uint64_t)durable, durable);

        publish_n(&f, q, 0, 10);
        taster_init(&a, &f);
        a.c.prefetch = 5;
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 5);
        taster_settle(&a, QUEUE_REQUEUE, 3, 1); /* out of order: 3, 1, 0 */
        taster_settle(&a, QUEUE_REQUEUE, 0, 2);
        cr_assert_eq(queue_ready(q), 8);
        cr_assert_eq(taster_drain(&a), 3);
        cr_assert_eq(a.got[5].number, 0);
        cr_assert_eq(a.got[6].number, 1);
        cr_assert_eq(a.got[7].number, 3);
        cr_assert(a.got[7].redelivered);
        cr_assert_eq(a.got[7].delivery_count, 1);
        taster_settle(&a, QUEUE_REQUEUE, 7, 1);
        taster_settle(&a, QUEUE_ACK, 5, 2);
        taster_settle(&a, QUEUE_ACK, 2, 1);
        taster_settle(&a, QUEUE_ACK, 4, 1);
        cr_assert_eq(taster_drain(&a), 5);
        cr_assert_eq(a.got[8].number, 3);
        cr_assert_eq(a.got[8].delivery_count, 2);
        cr_assert_eq(a.got[9].number, 5);
        cr_assert_not(a.got[9].redelivered);
        queue_consumer_remove(&a.c, f.now_ms);
    }
}

Test(queue, two_consumers_get_one_message_each_in_turn)
{
    struct queue *q = fixture_queue(&f, 1, false);

    queue_consumer_add(q, &a.c, f.now_ms);
    queue_consumer_add(q, &b.c, f.now_ms);
    publish_n(&f, q, 0, 10);
    cr_assert_eq(a.news, 1);
    cr_assert_eq(b.news, 1);
    cr_assert_eq(taster_take(&a, 64), 0);
    cr_assert_eq(taster_take(&b, 64), 0);
    cr_assert_eq(a.count, 5);
    cr_assert_eq(b.count, 5);
    publish_n(&f, q, 10, 1);
    cr_assert_eq(a.news + b.news, 3, "one message wakes one consumer");
}

Test(queue, prefetch_bounds_what_is_unsettled)
{
    struct queue *q = fixture_queue(&f, 1, false);

    a.c.prefetch = 3;
    publish_n(&f, q, 0, 100);
    queue_consumer_add(q, &a.c, f.now_ms);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(taster_drain(&a), 3);
    cr_assert_eq(a.news, 1);
    taster_settle(&a, QUEUE_ACK, 1, 1);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(a.news, 2);
    cr_assert_eq(taster_drain(&a), 1);
    taster_settle(&a, QUEUE_ACK, 0, 1);
    taster_settle(&a, QUEUE_ACK, 2, 2);
    cr_assert_eq(taster_drain(&a), 3);
}

Test(queue, the_higher_consumer_priority_is_served_while_it_has_credit)
{
    struct queue *q = fixture_queue(&f, 1, false);

    b.c.priority = 10;
    b.c.prefetch = 4;
    queue_consumer_add(q, &a.c, f.now_ms);
    queue_consumer_add(q, &b.c, f.now_ms);
    publish_n(&f, q, 0, 10);
    cr_assert_eq(taster_take(&a, 64), 0);
    cr_assert_eq(taster_take(&b, 64), 0);
    cr_assert_eq(b.count, 4);
    cr_assert_eq(a.count, 6);
}

Test(queue, an_exclusive_consumer_is_alone)
{
    struct queue *q = fixture_queue(&f, 1, false);

    a.c.exclusive = true;
    cr_assert_eq(queue_consumer_add(q, &a.c, f.now_ms), 0);
    cr_assert_eq(queue_consumer_add(q, &b.c, f.now_ms), ERR_LOCKED);
    queue_consumer_remove(&a.c, f.now_ms);
    cr_assert_eq(queue_consumer_add(q, &b.c, f.now_ms), 0);
    cr_assert_eq(queue_consumer_add(q, &a.c, f.now_ms), ERR_LOCKED);
    cr_assert_null(a.c.queue);
}

Test(queue, what_a_leaving_consumer_was_granted_goes_to_another)
{
    struct queue *q = fixture_queue(&f, 1, false);

    queue_consumer_add(q, &a.c, f.now_ms);
    publish_n(&f, q, 0, 10);
    cr_assert_eq(a.news, 1);
    queue_consumer_add(q, &b.c, f.now_ms);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(b.news, 0);
    cr_assert(queue_consumer_remove(&a.c, f.now_ms), "its news is still on the way");
    queue_table_flush(f.table, NULL);
    cr_assert_eq(b.news, 1);
    cr_assert_eq(taster_drain(&b), 10);
    cr_assert_eq(taster_take(&a, 64), 0);
    cr_assert_eq(a.count, 0);
    cr_assert_not(queue_consumer_remove(&a.c, f.now_ms));
}

Test(queue, a_refused_delivery_stays_ready_and_pauses_the_consumer)
{
    struct queue *q = fixture_queue(&f, 1, true);

    publish_n(&f, q, 0, 10);
    queue_consumer_add(q, &a.c, f.now_ms);
    a.refuse_after = 4;
    cr_assert_eq(taster_take(&a, 64), 0);
    cr_assert_eq(a.count, 4);
    cr_assert_eq(queue_ready(q), 6);
    cr_assert_eq(a.news, 0);
    cr_assert_eq(taster_take(&a, 64), 0);
    cr_assert_eq(a.count, 4);
    queue_consumer_resume(&a.c);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(a.news, 1);
    a.refuse_after = UINT32_MAX;
    cr_assert_eq(taster_drain(&a), 6);
    cr_assert_eq(a.got[4].number, 4);
    cr_assert_not(a.got[4].redelivered);
}

Test(queue, purging_leaves_what_is_unacked)
{
    BOTH (durable) {
        struct queue *q = fixture_queue(&f, 1 + (uint64_t)durable, durable);

        taster_init(&a, &f);
        a.c.prefetch = 4;
        publish_n(&f, q, 0, 10);
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 4);
        taster_settle(&a, QUEUE_REQUEUE, 1, 1);
        publish(&f, q, 10, 16); /* not even flushed */
        cr_assert_eq(queue_purge(q), 8);
        cr_assert_eq(queue_ready(q), 0);
        cr_assert_eq(queue_unacked(q), 3);
        cr_assert_eq(queue_purge(q), 0);
        cr_assert_eq(taster_drain(&a), 0);
        taster_settle(&a, QUEUE_REQUEUE, 2, 1);
        cr_assert_eq(taster_drain(&a), 1);
        cr_assert_eq(a.got[4].number, 2);
        publish_n(&f, q, 11, 1);
        taster_settle(&a, QUEUE_ACK, 0, 1);
        cr_assert_eq(taster_drain(&a), 1);
        cr_assert_eq(a.got[5].number, 11);
        queue_consumer_remove(&a.c, f.now_ms);
    }
}

Test(queue, a_full_queue_drops_its_head)
{
    BOTH (durable) {
        struct queue_spec s;
        struct queue *q;

        queue_spec_init(&s, 1 + (uint64_t)durable);
        s.durable = durable;
        s.max_length = 3;
        cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
        publish_n(&f, q, 0, 10);
        cr_assert_eq(queue_ready(q), 3);
        cr_assert_eq(info(q).dropped, 7);
        taster_init(&a, &f);
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 3);
        cr_assert_eq(a.got[0].number, 7);
        publish_n(&f, q, 10, 5);
        cr_assert_eq(queue_ready(q), 3, "unacked messages do not count");
        queue_consumer_remove(&a.c, f.now_ms);
    }
}

Test(queue, a_length_in_bytes_counts_ready_bodies)
{
    BOTH (durable) {
        struct queue_spec s;
        struct queue *q;

        queue_spec_init(&s, 1 + (uint64_t)durable);
        s.durable = durable;
        s.max_length_bytes = 1000;
        cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
        for (uint64_t i = 0; i < 10; i++)
            cr_assert_eq(publish(&f, q, i, 300), 0);
        cr_assert_eq(queue_ready(q), 3);
        cr_assert_eq(info(q).ready_bytes, 900);
        taster_init(&a, &f);
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 3);
        cr_assert_eq(a.got[0].number, 7);
        cr_assert_eq(info(q).ready_bytes, 0);
        taster_settle(&a, QUEUE_REQUEUE, 0, 2);
        cr_assert_eq(info(q).ready_bytes, 600);
        queue_consumer_remove(&a.c, f.now_ms);
    }
}

Test(queue, a_full_queue_may_refuse_instead)
{
    struct queue_spec s;
    struct queue *q;

    queue_spec_init(&s, 1);
    s.max_length = 2;
    s.overflow = QUEUE_REJECT_PUBLISH;
    cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
    cr_assert_eq(publish(&f, q, 0, 16), 0);
    cr_assert_eq(publish(&f, q, 1, 16), 0);
    cr_assert_eq(publish(&f, q, 2, 16), ERR_LIMIT);
    taster_get(&a, q, true);
    cr_assert_eq(publish(&f, q, 3, 16), 0);
    cr_assert_eq(queue_ready(q), 2);
}

Test(queue, messages_expire_at_the_head)
{
    BOTH (durable) {
        struct queue_spec s;
        struct queue *q;

        queue_spec_init(&s, 1 + (uint64_t)durable);
        s.durable = durable;
        s.message_ttl_ms = 1000;
        cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
        publish_with(&f, q, 0, 0, 200);
        publish_with(&f, q, 1, 0, -1);
        queue_table_flush(f.table, NULL);
        cr_assert_leq(queue_table_next_tick(f.table), f.now_ms + 200);
        f.now_ms += 100;
        publish_with(&f, q, 2, 0, 5000); /* the queue's is less */
        queue_table_flush(f.table, NULL);
        queue_table_tick(f.table, f.now_ms);
        cr_assert_eq(queue_ready(q), 3);
        f.now_ms += 100;
        queue_table_tick(f.table, f.now_ms);
        cr_assert_eq(queue_ready(q), 2);
        cr_assert_eq(info(q).expired, 1);
        cr_assert_eq(queue_table_next_tick(f.table), f.now_ms + 800);
        f.now_ms += 800;
        taster_init(&a, &f);
        cr_assert_eq(taster_get(&a, q, false), 0); /* no tick is needed to be rid of them */
        cr_assert_eq(a.take.count, 1);
        cr_assert_eq(a.got[0].number, 2);
        f.now_ms += 5000;
        queue_settle(q, NULL, QUEUE_REQUEUE, &a.got[0].handle, 1); /* keeps its expiry */
        queue_table_flush(f.table, NULL);
        cr_assert_leq(queue_table_next_tick(f.table), f.now_ms);
        queue_table_tick(f.table, f.now_ms);
        cr_assert_eq(queue_ready(q), 0);
        cr_assert_eq(info(q).expired, 3);
    }
}

Test(queue, a_message_without_time_to_live_reaches_a_waiting_consumer_only)
{
    struct queue *q = fixture_queue(&f, 1, false);

    queue_consumer_add(q, &a.c, f.now_ms);
    publish_with(&f, q, 0, 0, 0);
    queue_table_flush(f.table, NULL);
    f.now_ms += 2;
    cr_assert_eq(taster_drain(&a), 1);
    queue_consumer_remove(&a.c, f.now_ms);
    publish_with(&f, q, 1, 0, 0);
    queue_table_flush(f.table, NULL);
    f.now_ms += 25;
    queue_table_tick(f.table, f.now_ms);
    cr_assert_eq(queue_ready(q), 0);
}

Test(queue, an_unused_queue_expires_and_one_without_its_last_consumer_is_deleted)
{
    struct queue_spec s;
    struct queue *q;

    queue_spec_init(&s, 1);
    s.expires_ms = 1000;
    cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
    f.now_ms += 900;
    queue_touch(q, f.now_ms);
    f.now_ms += 900;
    queue_table_tick(f.table, f.now_ms);
    cr_assert_eq(f.ended_count, 0);
    queue_consumer_add(q, &a.c, f.now_ms);
    f.now_ms += 5000;
    queue_table_tick(f.table, f.now_ms);
    cr_assert_eq(f.ended_count, 0);
    queue_consumer_remove(&a.c, f.now_ms);
    f.now_ms += 1000;
    cr_assert_leq(queue_table_next_tick(f.table), f.now_ms);
    queue_table_tick(f.table, f.now_ms);
    queue_table_tick(f.table, f.now_ms + 10000);
    cr_assert_eq(f.ended_count, 1);
    cr_assert_eq(f.ended_id, 1);
    cr_assert_eq(f.ended, QUEUE_END_EXPIRED);

    queue_spec_init(&s, 2);
    s.auto_delete = true;
    cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
    queue_consumer_add(q, &a.c, f.now_ms);
    queue_consumer_add(q, &b.c, f.now_ms);
    queue_consumer_remove(&a.c, f.now_ms);
    cr_assert_eq(f.ended_count, 1);
    queue_consumer_remove(&b.c, f.now_ms);
    cr_assert_eq(f.ended_count, 2);
    cr_assert_eq(f.ended_id, 2);
    cr_assert_eq(f.ended, QUEUE_END_AUTO_DELETE);
}

Test(queue, priorities_go_first_and_requeued_ones_keep_theirs)
{
    BOTH (durable) {
        struct queue_spec s;
        struct queue *q;

        queue_spec_init(&s, 1 + (uint64_t)durable);
        s.durable = durable;
        s.max_priority = 5;
        cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
        for (uint64_t i = 0; i < 20; i++)
            publish_with(&f, q, i, (uint8_t)(i % 10), -1); /* 5 to 9 count as 5 */
        queue_table_flush(f.table, NULL);
        taster_init(&a, &f);
        a.c.prefetch = 12;
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 12);
        for (size_t i = 0; i < 10; i++)
            cr_assert_eq(a.got[i].number, (i < 5 ? 5 : 10) + i);
        cr_assert_eq(a.got[10].number, 4);
        cr_assert_eq(a.got[11].number, 14);
        taster_settle(&a, QUEUE_REQUEUE, 10, 2);
        taster_settle(&a, QUEUE_REQUEUE, 3, 1);
        cr_assert_eq(taster_drain(&a), 3);
        cr_assert_eq(a.got[12].number, 8);
        cr_assert_eq(a.got[13].number, 4);
        cr_assert_eq(a.got[14].number, 14);
        cr_assert(a.got[14].redelivered);
        cr_assert_eq(queue_purge(q), 8);
        queue_consumer_remove(&a.c, f.now_ms);
    }
}

Test(queue, a_single_active_consumer_is_followed_by_the_next)
{
    struct queue_spec s;
    struct queue *q;

    queue_spec_init(&s, 1);
    s.single_active = true;
    cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
    queue_consumer_add(q, &a.c, f.now_ms);
    queue_consumer_add(q, &b.c, f.now_ms);
    publish_n(&f, q, 0, 10);
    cr_assert_eq(taster_drain(&b), 0);
    cr_assert_eq(taster_drain(&a), 10);
    cr_assert_eq(taster_get(&a, q, false), ERR_LOCKED);
    queue_consumer_remove(&a.c, f.now_ms);
    publish_n(&f, q, 10, 2);
    cr_assert_eq(b.news, 1);
    cr_assert_eq(taster_drain(&b), 2);
}

Test(queue, deleting_tells_the_consumers)
{
    struct queue *q = fixture_queue(&f, 1, true);

    publish_n(&f, q, 0, 10);
    queue_consumer_add(q, &a.c, f.now_ms);
    cr_assert_eq(taster_drain(&a), 10);
    cr_assert(queue_delete(f.table, 1));
    cr_assert_eq(a.news, 1);
    cr_assert(a.c.cancelled);
    cr_assert_null(a.c.queue);
    cr_assert_null(queue_find(f.table, 1));
    cr_assert_eq(taster_take(&a, 64), 0);
    cr_assert_not(queue_consumer_remove(&a.c, f.now_ms));
    cr_assert_not(queue_delete(f.table, 1));
    q = fixture_queue(&f, 1, true);
    cr_assert_eq(queue_ready(q), 0);
}

Test(queue, many_queues_are_found_by_id_and_cost_at_most_a_kibibyte)
{
    struct queue *q;

    for (uint64_t id = 1; id <= 3000; id++) {
        q = fixture_queue(&f, id * 37, true);
        cr_assert_eq(queue_id(q), id * 37);
    }
    cr_assert_eq(queue_table_count(f.table), 3000);
    for (uint64_t id = 1; id <= 3000; id++)
        cr_assert_not_null(queue_find(f.table, id * 37));
    cr_assert_null(queue_find(f.table, 38));
    cr_assert_leq(info(queue_find(f.table, 37)).memory_bytes, 640);
    for (uint64_t id = 1; id <= 3000; id += 2)
        cr_assert(queue_delete(f.table, id * 37));
    for (uint64_t id = 1; id <= 3000; id++)
        cr_assert_eq(queue_find(f.table, id * 37) != NULL, id % 2 == 0);
}

Test(queue, an_expiring_message_behind_one_that_does_not_is_noticed_when_its_turn_comes)
{
    struct queue *q = fixture_queue(&f, 1, true);

    publish_with(&f, q, 0, 0, -1);
    publish_with(&f, q, 1, 0, 1000);
    publish_with(&f, q, 2, 0, -1);
    queue_table_flush(f.table, NULL);
    f.now_ms += 2000;
    for (int64_t now = f.now_ms; queue_table_next_tick(f.table) <= now;)
        queue_table_tick(f.table, now++);
    cr_assert_eq(queue_ready(q), 3, "it is not at the head");
    taster_get(&a, q, true);
    cr_assert_lt(queue_table_next_tick(f.table), f.now_ms + 1000);
    f.now_ms += 1000;
    queue_table_tick(f.table, f.now_ms);
    cr_assert_eq(queue_ready(q), 1);
    taster_get(&a, q, true);
    cr_assert_eq(a.got[1].number, 2);
    queue_table_flush(f.table, NULL);
    queue_table_tick(f.table, f.now_ms);
    cr_assert_eq(queue_table_next_tick(f.table), INT64_MAX);
}
