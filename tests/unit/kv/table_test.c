#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/mem.h"
#include "kv/table.h"

struct item {
    uint64_t id;
    uint32_t seen;
};

static uint64_t item_hash(const void *p)
{
    return hash_bytes(p, sizeof(uint64_t));
}

static bool item_matches(const void *p, const void *arg)
{
    return ((const struct item *)p)->id == *(const uint64_t *)arg;
}

static table_slot *find(struct table *t, uint64_t id)
{
    return table_find(t, item_hash(&id), item_matches, &id);
}

static void see(void *p, void *arg)
{
    (void)arg;
    ((struct item *)p)->seen++;
}

Test(table, random_inserts_and_removals_keep_it_sound)
{
    enum { N = 20000 };
    struct item *items = mem_calloc(N, sizeof(*items));
    bool *in = mem_calloc(N, sizeof(*in));
    struct table t;
    struct rand r;
    uint64_t count = 0;

    rand_seed(&r, 3);
    table_init(&t, item_hash);
    for (uint64_t i = 0; i < N; i++)
        items[i].id = i;
    for (int round = 0; round < 12; round++) {
        /* Odd rounds remove more than they add. */
        for (int step = 0; step < N; step++) {
            uint64_t id = rand_below(&r, N);
            bool remove = rand_below(&r, 10) < (round & 1 ? 9 : 2);
            table_slot *s = find(&t, id);

            cr_assert_eq(s != NULL, in[id]);
            if (remove && in[id]) {
                cr_assert_eq(table_slot_entry(*s), &items[id]);
                table_remove(&t, item_hash(&id), s, true);
                in[id] = false;
                count--;
            } else if (!remove && !in[id]) {
                table_insert(&t, item_hash(&id), &items[id]);
                in[id] = true;
                count++;
            }
        }
        cr_assert_eq(t.count, count);
        cr_assert(table_is_sound(&t));
    }
    for (uint64_t id = 0; id < N; id++) {
        if (in[id])
            table_remove(&t, item_hash(&id), find(&t, id), true);
    }
    cr_assert(table_is_sound(&t));
    cr_assert_leq(t.buckets, 8);
    table_fini(&t, NULL, NULL);
    mem_free(items);
    mem_free(in);
}

Test(table, scan_sees_what_stays_whatever_comes_and_goes)
{
    enum { STAY = 3000, COME = 30000 };
    struct item *items = mem_calloc(STAY + COME, sizeof(*items));
    struct rand r;

    rand_seed(&r, 4);
    for (uint64_t i = 0; i < STAY + COME; i++)
        items[i].id = i;
    for (int round = 0; round < 6; round++) {
        struct table t;
        uint64_t cursor = 0, at = STAY;
        bool growing = round % 2 == 0;

        table_init(&t, item_hash);
        for (uint64_t i = 0; i < STAY + COME; i++) {
            items[i].seen = 0;
            if (i < STAY || !growing)
                table_insert(&t, item_hash(&items[i].id), &items[i]);
        }
        do {
            cursor = table_scan(&t, cursor, see, NULL);
            for (uint64_t k = rand_below(&r, 60); k > 0 && at < STAY + COME; k--, at++) {
                if (growing)
                    table_insert(&t, item_hash(&items[at].id), &items[at]);
                else
                    table_remove(&t, item_hash(&items[at].id), find(&t, at), true);
            }
        } while (cursor != 0);
        for (uint64_t i = 0; i < STAY; i++)
            cr_assert_geq(items[i].seen, 1, "round %d: %llu was missed", round, (unsigned long long)i);
        table_fini(&t, NULL, NULL);
    }
    mem_free(items);
}

Test(table, a_family_walk_sees_everything_while_the_table_grows)
{
    enum { STAY = 5000, COME = 60000 };
    struct item *items = mem_calloc(STAY + COME, sizeof(*items));
    struct table t;
    uint64_t at = STAY;
    unsigned level;

    table_init(&t, item_hash);
    for (uint64_t i = 0; i < STAY + COME; i++) {
        items[i].id = i;
        if (i < STAY)
            table_insert(&t, item_hash(&items[i].id), &items[i]);
    }
    level = t.level;
    for (uint32_t v = 0; v < 1u << level; v++) {
        table_visit_family(&t, level, v, see, NULL);
        for (int k = 0; k < 40 && at < STAY + COME; k++, at++)
            table_insert(&t, item_hash(&items[at].id), &items[at]);
    }
    for (uint64_t i = 0; i < STAY; i++)
        cr_assert_eq(items[i].seen, 1);
    table_fini(&t, NULL, NULL);
    mem_free(items);
}

Test(table, random_finds_every_entry_in_time)
{
    struct item items[50] = {{0}};
    struct table t;
    struct rand r;

    rand_seed(&r, 9);
    table_init(&t, item_hash);
    cr_assert_null(table_random(&t, &r));
    for (uint64_t i = 0; i < 50; i++) {
        items[i].id = i;
        table_insert(&t, item_hash(&items[i].id), &items[i]);
    }
    for (int i = 0; i < 5000; i++)
        ((struct item *)table_random(&t, &r))->seen++;
    for (int i = 0; i < 50; i++)
        cr_assert_gt(items[i].seen, 0);
    table_fini(&t, NULL, NULL);
}
