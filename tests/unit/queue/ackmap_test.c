#include <criterion/criterion.h>

#include "base/rand.h"
#include "queue/ackmap.h"

Test(ackmap, begins_settled_and_counts_what_is_live)
{
    struct ackmap m;

    ackmap_init(&m, 5000);
    cr_assert_not(ackmap_is_live(&m, 4999));
    cr_assert_not(ackmap_is_live(&m, 5000));
    ackmap_add_live(&m, 5000);
    ackmap_add_settled(&m, 5001);
    ackmap_add_live(&m, 5002);
    cr_assert_eq(m.live, 2);
    cr_assert_eq(ackmap_next_live(&m, 0), 5000);
    cr_assert_eq(ackmap_next_live(&m, 5001), 5002);
    cr_assert(ackmap_settle(&m, 5000));
    cr_assert_not(ackmap_settle(&m, 5000));
    cr_assert(ackmap_settle(&m, 5002));
    cr_assert_eq(ackmap_next_live(&m, 0), 5003);
    ackmap_fini(&m);
}

Test(ackmap, chunk_borders)
{
    static const int64_t at[] = {0,
                                 1,
                                 63,
                                 64,
                                 65,
                                 ACKMAP_CHUNK - 1,
                                 ACKMAP_CHUNK,
                                 ACKMAP_CHUNK + 1,
                                 3 * ACKMAP_CHUNK - 1,
                                 3 * ACKMAP_CHUNK};

    for (size_t i = 0; i < sizeof(at) / sizeof(*at); i++) {
        struct ackmap m;

        ackmap_init(&m, at[i]);
        for (int64_t o = at[i]; o < at[i] + 2 * ACKMAP_CHUNK; o++)
            ackmap_add_live(&m, o);
        cr_assert_eq(m.live, 2 * ACKMAP_CHUNK);
        cr_assert_eq(ackmap_count_live(&m, 0, INT64_MAX), 2 * ACKMAP_CHUNK);
        cr_assert_eq(ackmap_settle_range(&m, at[i] + 1, at[i] + 2 * ACKMAP_CHUNK - 1), 2 * ACKMAP_CHUNK - 2);
        cr_assert_eq(ackmap_next_live(&m, at[i] + 1), at[i] + 2 * ACKMAP_CHUNK - 1);
        cr_assert(ackmap_is_live(&m, at[i]));
        cr_assert_eq(ackmap_settle_range(&m, 0, INT64_MAX), 2);
        cr_assert_eq(m.live, 0);
        ackmap_fini(&m);
    }
}

Test(ackmap, a_million_live_messages_cost_next_to_nothing_and_acknowledged_ones_a_bit)
{
    struct ackmap m;

    ackmap_init(&m, 0);
    for (int64_t o = 0; o < 1000000; o++)
        ackmap_add_live(&m, o);
    cr_assert_leq(ackmap_memory(&m), 32 << 10);
    for (int64_t o = 0; o < 1000000; o += 2)
        ackmap_settle(&m, o);
    cr_assert_leq(ackmap_memory(&m), 1000000 / 8 + (36 << 10));
    for (int64_t o = 1; o < 1000000; o += 2)
        ackmap_settle(&m, o);
    cr_assert_eq(m.live, 0);
    ackmap_trim(&m);
    cr_assert_eq(ackmap_memory(&m), 0);
    cr_assert_eq(m.end, 1000000);
    ackmap_add_live(&m, 1000000);
    cr_assert_not(ackmap_is_live(&m, 999999));
    cr_assert(ackmap_is_live(&m, 1000000));
    ackmap_fini(&m);
}

/* Against an array of bytes: 0 settled, 1 live. */
Test(ackmap, agrees_with_an_array)
{
    enum { SPACE = 40000 };
    static uint8_t model[SPACE];

    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct rand r;
        struct ackmap m;
        int64_t start, end;
        uint64_t live = 0;

        rand_seed(&r, seed);
        memset(model, 0, sizeof(model));
        start = end = (int64_t)rand_below(&r, 5000);
        ackmap_init(&m, start);
        for (unsigned step = 0; step < 3000; step++) {
            int64_t from = (int64_t)rand_below(&r, (uint64_t)end + 10),
                    to = from + (int64_t)rand_below(&r, rand_below(&r, 2) ? 100 : 6000);
            uint64_t n = 0;

            switch (rand_below(&r, 9)) {
            case 0:
            case 1:
            case 2:
                for (uint64_t k = rand_below(&r, 200); k > 0 && end < SPACE - 1; k--) {
                    ackmap_add_live(&m, end);
                    model[end++] = 1;
                    live++;
                }
                break;
            case 3:
                if (end < SPACE - 1) {
                    ackmap_add_settled(&m, end);
                    end++;
                }
                break;
            case 4:
                if (end < SPACE - 5000 && rand_below(&r, 4) == 0) {
                    end += (int64_t)rand_below(&r, 4500);
                    ackmap_add_hole(&m, end);
                }
                break;
            case 5:
                for (uint64_t k = rand_below(&r, 300); k > 0; k--) {
                    int64_t o = (int64_t)rand_below(&r, (uint64_t)end + 1);
                    bool was = o < end && model[o];

                    cr_assert_eq(ackmap_settle(&m, o), was);
                    if (was) {
                        model[o] = 0;
                        live--;
                    }
                }
                break;
            case 6:
                for (int64_t o = from; o < to && o < end; o++) {
                    n += model[o];
                    model[o] = 0;
                }
                live -= n;
                cr_assert_eq(ackmap_settle_range(&m, from, to), n);
                break;
            case 7:
                if (rand_below(&r, 6) == 0) {
                    int64_t cut = end - (int64_t)rand_below(&r, 3000);

                    if (cut < start)
                        cut = start;
                    for (int64_t o = cut; o < end; o++) {
                        n += model[o];
                        model[o] = 0;
                    }
                    live -= n;
                    end = cut;
                    cr_assert_eq(ackmap_cut(&m, cut), n);
                }
                break;
            default:
                for (int64_t o = from; o < to && o < end; o++)
                    n += model[o];
                cr_assert_eq(ackmap_count_live(&m, from, to), n);
                for (; from < end && !model[from]; from++)
                    ;
                if (from < end)
                    cr_assert_eq(ackmap_next_live(&m, from), from);
                break;
            }
            cr_assert_eq(m.live, live, "seed %d step %u", (int)seed, step);
            cr_assert_eq(m.end, end);
        }
        for (int64_t o = 0, next = ackmap_next_live(&m, 0); o <= end; o++) {
            cr_assert_eq(ackmap_is_live(&m, o), o < end && model[o]);
            if (o < end && model[o]) {
                cr_assert_eq(next, o);
                next = ackmap_next_live(&m, o + 1);
            }
        }
        ackmap_fini(&m);
    }
}
