/* Batches that other nodes number, and deliveries claimed after a change of leader. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/err.h"
#include "fixture.h"

static struct fixture f;

static void set_up(void)
{
    fixture_init(&f);
    fixture_open(&f);
}

static void tear_down(void)
{
    fixture_fini(&f);
}

TestSuite(forward, .init = set_up, .fini = tear_down);

/* n messages as one numbered batch. */
static int forward(struct queue *q, int64_t producer, int16_t epoch, int32_t sequence, uint64_t first, uint64_t n, int32_t *expected)
{
    int err = queue_forward_begin(q, producer, epoch, sequence, expected);

    if (err != 0)
        return err;
    for (uint64_t i = 0; i < n; i++)
        publish(&f, q, first + i, 16);
    return queue_forward_end(q, producer, epoch, sequence);
}

Test(forward, batches_are_taken_once_and_in_order)
{
    struct queue *q = fixture_queue(&f, 7, true);
    int32_t expected;

    cr_assert_eq(forward(q, 100, 0, 1, 0, 3, &expected), ERR_OUT_OF_ORDER);
    cr_assert_eq(expected, 0);
    cr_assert_eq(forward(q, 100, 0, 0, 0, 3, &expected), 0);
    cr_assert_eq(forward(q, 100, 0, 0, 0, 3, &expected), ERR_DUPLICATE);
    cr_assert_eq(forward(q, 100, 0, 2, 3, 3, &expected), ERR_OUT_OF_ORDER);
    cr_assert_eq(expected, 1);
    cr_assert_eq(forward(q, 200, 0, 0, 3, 2, &expected), 0, "another producer has its own numbers");
    cr_assert_eq(forward(q, 100, 0, 1, 5, 1, &expected), 0);
    cr_assert_eq(queue_ready(q), 6u);
    cr_assert_eq(queue_producers(q), 2u);
}

/* Who refuses for a reason of its own must know first whether it has the batch: a refusal frees the number, and what got it next would be taken for the repeat. */
Test(forward, looking_at_a_number_tells_what_beginning_would_and_changes_nothing)
{
    struct queue *q = fixture_queue(&f, 7, true);
    int32_t expected;

    cr_assert_eq(queue_forward_look(q, 100, 0, 0, &expected), 0);
    cr_assert_eq(queue_producers(q), 0u);
    cr_assert_eq(forward(q, 100, 0, 0, 0, 3, &expected), 0);
    cr_assert_eq(queue_forward_look(q, 100, 0, 0, &expected), ERR_DUPLICATE);
    cr_assert_eq(queue_forward_look(q, 100, 0, 2, &expected), ERR_OUT_OF_ORDER);
    cr_assert_eq(expected, 1);
    cr_assert_eq(queue_forward_look(q, 100, 1, 0, &expected), 0);
    cr_assert_eq(queue_forward_look(q, 100, 0, 1, &expected), 0);
    cr_assert_eq(forward(q, 100, 0, 1, 3, 3, &expected), 0, "nothing was begun");
    cr_assert_eq(queue_ready(q), 6u);
}

Test(forward, a_later_incarnation_begins_again_and_fences_the_former)
{
    struct queue *q = fixture_queue(&f, 7, true);
    int32_t expected;

    cr_assert_eq(forward(q, 100, 0, 0, 0, 1, &expected), 0);
    cr_assert_eq(forward(q, 100, 1, 1, 1, 1, &expected), ERR_OUT_OF_ORDER);
    cr_assert_eq(expected, 0);
    cr_assert_eq(forward(q, 100, 1, 0, 1, 1, &expected), 0);
    cr_assert_eq(forward(q, 100, 0, 1, 2, 1, &expected), ERR_FENCED);
    cr_assert_eq(queue_ready(q), 2u);
}

static void numbers_are_known_after(void (*restart)(struct fixture *f))
{
    struct queue *q = fixture_queue(&f, 7, true);
    int32_t expected;

    publish_n(&f, q, 1000, 5);
    for (int32_t i = 0; i < 20; i++)
        cr_assert_eq(forward(q, 100, 0, i, (uint64_t)i * 3, 3, &expected), 0);
    cr_assert_eq(forward(q, 100, 3, 0, 60, 1, &expected), 0);
    restart(&f);
    q = fixture_queue(&f, 7, true);
    cr_assert_eq(queue_ready(q), 66u);
    cr_assert_eq(forward(q, 100, 3, 0, 60, 1, &expected), ERR_DUPLICATE);
    cr_assert_eq(forward(q, 100, 0, 20, 60, 1, &expected), ERR_FENCED);
    cr_assert_eq(forward(q, 100, 3, 1, 61, 1, &expected), 0);
    cr_assert_eq(queue_ready(q), 67u);
}

static void stop_and_start(struct fixture *fx)
{
    fixture_close(fx);
    fixture_open(fx);
}

Test(forward, numbers_survive_a_kill_by_the_batches_themselves)
{
    numbers_are_known_after(fixture_crash);
}

Test(forward, numbers_survive_a_stop_by_the_checkpoint)
{
    numbers_are_known_after(stop_and_start);
}

Test(forward, a_batch_whose_messages_are_all_refused_uses_up_its_number)
{
    struct queue_spec spec;
    struct queue *q;
    int32_t expected;

    queue_spec_init(&spec, 9);
    spec.durable = true;
    spec.max_length = 2;
    spec.overflow = QUEUE_REJECT_PUBLISH;
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), 0);
    cr_assert(queue_refuses_when_full(q));
    cr_assert_eq(forward(q, 100, 0, 0, 0, 5, &expected), 0);
    cr_assert_eq(queue_ready(q), 2u);
    cr_assert_eq(forward(q, 100, 0, 1, 5, 2, &expected), 0);
    cr_assert_eq(queue_ready(q), 2u);
    cr_assert_eq(forward(q, 100, 0, 1, 5, 2, &expected), ERR_DUPLICATE);
    fixture_crash(&f);
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), 0);
    cr_assert_eq(forward(q, 100, 0, 1, 5, 2, &expected), ERR_DUPLICATE);
}

Test(forward, a_large_batch_with_a_length_limit_is_one_batch)
{
    struct queue_spec spec;
    struct queue *q;
    int32_t expected;

    queue_spec_init(&spec, 9);
    spec.durable = true;
    spec.max_length_bytes = 100 << 10;
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), 0);
    cr_assert_eq(queue_forward_begin(q, 100, 0, 0, &expected), 0);
    for (uint64_t i = 0; i < 300; i++) /* more than a pending batch may hold by itself */
        cr_assert_eq(publish(&f, q, i, 8 << 10), 0);
    cr_assert_eq(log_end(queue_log(q)), 0, "nothing is written before its end");
    cr_assert_eq(queue_forward_end(q, 100, 0, 0), 0);
    cr_assert_leq(queue_ready(q), 13u);
    cr_assert_gt(queue_ready(q), 8u);
}

static bool is_odd(void *arg, int64_t id)
{
    (void)arg;
    return id % 2 != 0;
}

Test(forward, producers_that_ended_are_forgotten)
{
    struct queue *q = fixture_queue(&f, 7, false);
    int32_t expected;

    for (int64_t id = 0; id < 10; id++)
        cr_assert_eq(forward(q, id, 0, 0, (uint64_t)id, 1, &expected), 0);
    queue_producers_forget(q, is_odd, NULL);
    cr_assert_eq(queue_producers(q), 5u);
    cr_assert_eq(forward(q, 4, 0, 0, 0, 1, &expected), ERR_DUPLICATE);
    cr_assert_eq(forward(q, 5, 0, 0, 0, 1, &expected), 0);
}

/* Ten messages, of which a client holds those in `held`; the queue's memory is lost and found again. */
static struct queue *taken_over(struct taster *client, struct queue_handle *held, size_t n)
{
    struct queue *q = fixture_queue(&f, 7, true);

    taster_init(client, &f);
    publish_n(&f, q, 0, 10);
    cr_assert_eq(queue_consumer_add(q, &client->c, f.now_ms), 0);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(taster_drain(client), 10u);
    for (size_t i = 0; i < n; i++)
        held[i] = client->got[i * 2].handle; /* 0, 2, 4 ... */
    queue_consumer_remove(&client->c, f.now_ms);
    fixture_crash(&f);
    return fixture_queue(&f, 7, true);
}

Test(forward, claimed_deliveries_are_held_and_the_rest_comes_again)
{
    static struct taster before, holder, other;
    struct queue_handle held[3];
    struct queue *q = taken_over(&before, held, 3);

    taster_init(&holder, &f);
    taster_init(&other, &f);
    holder.c.prefetch = 3;
    cr_assert_eq(queue_consumer_add(q, &holder.c, f.now_ms), 0);
    for (unsigned i = 0; i < 3; i++)
        cr_assert(queue_claim(q, &holder.c, &held[2 - i])); /* in any order */
    cr_assert_not(queue_claim(q, &holder.c, &held[0]), "it has it already");
    cr_assert_eq(queue_ready(q), 7u);
    cr_assert_eq(queue_unacked(q), 3u);
    cr_assert_eq(queue_consumer_add(q, &other.c, f.now_ms), 0);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(taster_drain(&holder), 0u, "its prefetch is used up");
    cr_assert_eq(taster_drain(&other), 7u);
    for (unsigned i = 0; i < 7; i++) {
        static const uint64_t rest[] = {1, 3, 5, 6, 7, 8, 9};

        cr_assert_eq(other.got[i].number, rest[i]);
        cr_assert(other.got[i].redelivered);
    }
    queue_settle(q, &holder.c, QUEUE_ACK, held, 2);
    queue_settle(q, &holder.c, QUEUE_REQUEUE, held + 2, 1);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(taster_drain(&holder) + taster_drain(&other), 1u);
    cr_assert_eq(queue_unacked(q), 8u);
    queue_consumer_remove(&holder.c, f.now_ms);
    queue_consumer_remove(&other.c, f.now_ms);
}

Test(forward, what_was_settled_or_never_delivered_cannot_be_claimed)
{
    static struct taster before;
    struct queue_handle held[2], wrong;
    struct queue *q = taken_over(&before, held, 2);

    wrong = held[0];
    wrong.offset_flags += 100000ull << 16;
    cr_assert_not(queue_claim(q, NULL, &wrong));
    cr_assert(queue_claim(q, NULL, &held[0]));
    queue_settle(q, NULL, QUEUE_ACK, held, 1);
    cr_assert_not(queue_claim(q, NULL, &held[0]));
    cr_assert_eq(queue_ready(q), 9u);
    cr_assert_eq(queue_unacked(q), 0u);
}
