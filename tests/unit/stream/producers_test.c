/* Idempotent producers: KIP-98's rules, and the snapshot. */
#include <criterion/criterion.h>

#include "base/err.h"
#include "stream/producers.h"

static struct batch_header batch(int64_t id, int16_t epoch, int32_t sequence, int32_t count)
{
    return (struct batch_header){.producer_id = id,
                                 .producer_epoch = epoch,
                                 .base_sequence = sequence,
                                 .last_offset_delta = count - 1,
                                 .record_count = count};
}

static int check(struct producers *ps, struct batch_header h)
{
    const struct producer_batch *repeated;

    return producers_check(ps, &h, &repeated);
}

static int64_t next_offset;

static void note(struct producers *ps, struct batch_header h)
{
    h.base_offset = next_offset;
    next_offset += h.record_count;
    producers_note(ps, &h, 1000);
}

Test(producers, an_unknown_producer_may_begin_anywhere)
{
    struct producers ps = {0};

    cr_assert_eq(check(&ps, batch(1, 0, 0, 5)), 0);
    cr_assert_eq(check(&ps, batch(1, 3, 77, 5)), 0);
}

Test(producers, sequences_follow_without_gap)
{
    struct producers ps = {0};

    note(&ps, batch(1, 0, 0, 5));
    cr_assert_eq(check(&ps, batch(1, 0, 5, 1)), 0);
    cr_assert_eq(check(&ps, batch(1, 0, 6, 1)), ERR_OUT_OF_ORDER);
    cr_assert_eq(check(&ps, batch(1, 0, 4, 1)), ERR_OUT_OF_ORDER, "part of a batch is no repeat");
    cr_assert_eq(check(&ps, batch(2, 0, 6, 1)), 0, "another producer");
    producers_fini(&ps);
}

Test(producers, any_of_the_last_five_is_a_repeat)
{
    struct producers ps = {0};
    const struct producer_batch *repeated;
    struct batch_header h;

    next_offset = 100;
    for (int i = 0; i < 7; i++)
        note(&ps, batch(9, 0, i * 10, 10));
    for (int i = 0; i < 7; i++) {
        h = batch(9, 0, i * 10, 10);
        cr_assert_eq(producers_check(&ps, &h, &repeated), i < 2 ? ERR_OUT_OF_ORDER : ERR_DUPLICATE,
                     "batch %d", i);
        if (i >= 2)
            cr_assert_eq(repeated->base_offset, 100 + i * 10);
    }
    producers_fini(&ps);
}

Test(producers, epochs_fence_and_begin_anew)
{
    struct producers ps = {0};

    note(&ps, batch(1, 3, 0, 5));
    cr_assert_eq(check(&ps, batch(1, 2, 5, 1)), ERR_FENCED);
    cr_assert_eq(check(&ps, batch(1, 4, 5, 1)), ERR_OUT_OF_ORDER, "a new epoch begins at 0");
    cr_assert_eq(check(&ps, batch(1, 4, 0, 1)), 0);
    note(&ps, batch(1, 4, 0, 1));
    cr_assert_eq(check(&ps, batch(1, 4, 1, 1)), 0);
    cr_assert_eq(check(&ps, batch(1, 3, 5, 1)), ERR_FENCED);
    producers_fini(&ps);
}

Test(producers, sequences_wrap_to_zero)
{
    struct producers ps = {0};

    cr_assert_eq(producer_sequence_add(INT32_MAX, 1), 0);
    note(&ps, batch(1, 0, INT32_MAX - 1, 2));
    cr_assert_eq(check(&ps, batch(1, 0, 0, 3)), 0);
    note(&ps, batch(1, 0, 0, 3));
    note(&ps, batch(1, 0, INT32_MAX - 1, 4)); /* a batch across the end */
    cr_assert_eq(check(&ps, batch(1, 0, 2, 1)), 0);
    producers_fini(&ps);
}

Test(producers, idle_ones_are_forgotten)
{
    struct producers ps = {0};
    struct batch_header h = batch(2, 0, 0, 1);

    note(&ps, batch(1, 0, 0, 1));
    producers_note(&ps, &h, 2000);
    cr_assert_eq(producers_expire(&ps, 1500, 3000), 1);
    cr_assert_null(producers_find(&ps, 1));
    cr_assert_not_null(producers_find(&ps, 2));
    /* read from the log: its batches' timestamps say nothing of when they came */
    h = batch(3, 0, 0, 1);
    producers_note(&ps, &h, PRODUCER_LOADED);
    cr_assert_eq(producers_expire(&ps, 1500, 3000), 0);
    cr_assert_eq(producers_expire(&ps, 3000, 4000), 1, "2 goes");
    cr_assert_not_null(producers_find(&ps, 3));
    cr_assert_eq(producers_expire(&ps, 3001, 4000), 1);
    producers_fini(&ps);
}

Test(producers, snapshot_round_trip_and_damage)
{
    struct producers ps = {0}, copy = {0};
    struct buf bytes = {0};
    int64_t at = 0;
    int32_t epoch;

    for (int i = 0; i < 1000; i++)
        for (int k = 0; k < i % 7; k++)
            note(&ps, batch(i, (int16_t)(i % 3), k * 2, 2));
    producers_encode(&ps, 4711, 3, &bytes);
    cr_assert_eq(producers_decode(&copy, buf_slice(&bytes), &at, &epoch), 0);
    cr_assert_eq(at, 4711);
    cr_assert_eq(epoch, 3);
    cr_assert_eq(copy.count, ps.count);
    for (int i = 0; i < 1000; i++) {
        const struct producer *a = producers_find(&ps, i), *b = producers_find(&copy, i);

        cr_assert_eq(a == NULL, b == NULL);
        if (a == NULL)
            continue;
        cr_assert_eq(a->epoch, b->epoch);
        cr_assert_eq(a->count, b->count);
        cr_assert_eq(memcmp(a->batches, b->batches, a->count * sizeof(a->batches[0])), 0);
    }
    producers_fini(&copy);
    for (size_t i = 0; i < bytes.len; i += 97) {
        bytes.data[i] ^= 1;
        cr_assert_eq(producers_decode(&copy, buf_slice(&bytes), &at, &epoch), ERR_CORRUPT, "flip at %zu", i);
        bytes.data[i] ^= 1;
    }
    cr_assert_eq(producers_decode(&copy, slice_of(bytes.data, 20), &at, &epoch), ERR_CORRUPT);
    producers_fini(&ps);
    buf_fini(&bytes);
}
