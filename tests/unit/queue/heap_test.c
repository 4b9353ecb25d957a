#include <criterion/criterion.h>

#include "base/rand.h"
#include "queue/heap.h"

Test(queue_heap, gives_the_higher_priority_and_then_the_lower_offset_first)
{
    struct queue_heap h = {0};
    struct rand r;

    rand_seed(&r, 3);
    for (unsigned round = 0; round < 50; round++) {
        size_t n = rand_below(&r, 500);
        int last_priority = 256;
        int64_t last = -1;

        for (size_t i = 0; i < n; i++)
            queue_heap_push(&h, (struct queue_entry){.offset_flags = rand_below(&r, 1000) << 16 |
                                                                     (rand_below(&r, 128) << 8) |
                                                                     rand_below(&r, 3)});
        while (h.count > 0) {
            struct queue_entry e = queue_heap_pop(&h);
            int priority = queue_entry_priority(&e);

            cr_assert_leq(priority, last_priority);
            if (priority == last_priority)
                cr_assert_geq(queue_entry_offset(&e), last);
            last_priority = priority;
            last = queue_entry_offset(&e);
        }
    }
    queue_heap_fini(&h);
}

Test(queue_ring, is_first_in_first_out_across_growth)
{
    struct queue_ring ring = {0};
    uint64_t in = 0, out = 0;
    struct rand r;

    rand_seed(&r, 4);
    for (unsigned i = 0; i < 20000; i++) {
        if (ring.count == 0 || rand_below(&r, 100) < (i < 10000 ? 60 : 40))
            queue_ring_push(&ring, (struct queue_entry){.offset_flags = in++ << 16});
        else
            cr_assert_eq(queue_ring_pop(&ring).offset_flags, out++ << 16);
    }
    cr_assert_eq(in - out, ring.count);
    queue_ring_fini(&ring);
}
