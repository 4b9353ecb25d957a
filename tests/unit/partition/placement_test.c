#include <criterion/criterion.h>

#include "partition/partition.h"

static uint32_t slot(const char *key)
{
    return placement_slot(slice_str(key));
}

Test(placement, slots_are_those_of_redis_cluster)
{
    /* CLUSTER KEYSLOT of a real Redis 7. */
    cr_assert_eq(slot("foo"), 12182);
    cr_assert_eq(slot("bar"), 5061);
    cr_assert_eq(slot("somekey"), 11058);
    cr_assert_eq(slot("foo{hash_tag}"), 2515);
    cr_assert_eq(slot(""), 0);
    cr_assert_eq(slot("{user1000}.following"), slot("{user1000}.followers"));
    cr_assert_eq(slot("foo{{bar}}zap"), slot("{bar"));
    cr_assert_eq(slot("foo{bar}{zap}"), slot("bar"));
    cr_assert_neq(slot("foo{}{bar}"), slot("bar"));
    cr_assert_neq(slot("foo{bar"), slot("bar"));
}

Test(placement, a_partition_is_one_contiguous_range_of_slots)
{
    static const uint32_t counts[] = {1, 2, 3, 7, 32, 1000, 16384};

    for (unsigned c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        uint32_t last = 0;

        for (uint32_t s = 0; s < 16384; s++) {
            uint32_t p = placement_of_slot(s, counts[c]);

            cr_assert(p == last || p == last + 1);
            last = p;
        }
        cr_assert_eq(last, counts[c] - 1);
    }
}

Test(placement, consecutive_topic_partitions_are_on_consecutive_partitions)
{
    uint32_t first = placement_of_topic(slice_str("orders"), 0, 32);

    for (uint32_t i = 0; i < 100; i++)
        cr_assert_eq(placement_of_topic(slice_str("orders"), i, 32), (first + i) % 32);
    cr_assert_lt(placement_of_queue(slice_str("/"), slice_str("q"), 32), 32);
    cr_assert_lt(placement_of_group(slice_str("g"), 32), 32);
}
