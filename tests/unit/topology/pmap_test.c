#include <criterion/criterion.h>
#include <stdio.h>

#include "base/rand.h"
#include "cluster/topology/pmap.h"

#define KEYS 500

static struct slice key_of(char text[16], unsigned i)
{
    return slice_of(text, (size_t)snprintf(text, 16, "k%u", i));
}

static bool count_in_order(struct slice key, void *value, void *arg)
{
    struct slice *last = arg;

    (void)value;
    cr_assert(last->data == NULL || slice_cmp(*last, key) < 0);
    *last = key;
    return true;
}

Test(pmap, random_changes_match_a_plain_array_and_old_versions_stay)
{
    static char values[KEYS];
    void *now[KEYS] = {0}, *then[KEYS];
    struct pmap m = {0}, old = {0};
    struct pmap_retired retired = {0};
    struct slice last = SLICE_NONE;
    struct rand r;
    char text[16];

    rand_seed(&r, 42);
    for (int round = 0; round < 20000; round++) {
        unsigned i = (unsigned)rand_below(&r, KEYS);
        struct slice key = key_of(text, i);

        if (rand_below(&r, 3) == 0) {
            cr_assert_eq(pmap_remove(&m, key, &retired), now[i]);
            now[i] = NULL;
        } else {
            void *value = &values[rand_below(&r, KEYS)];

            cr_assert_eq(pmap_put(&m, key, value, &retired), now[i]);
            now[i] = value;
        }
        if (round == 10000) {
            pmap_retired_free(&retired);
            old = m;
            memcpy(then, now, sizeof(then));
        }
    }
    for (unsigned i = 0; i < KEYS; i++) {
        cr_assert_eq(pmap_get(&m, key_of(text, i)), now[i]);
        cr_assert_eq(pmap_get(&old, key_of(text, i)), then[i], "an old root reads as it was");
    }
    cr_assert(pmap_each_prefix(&m, SLICE_NONE, count_in_order, &last));
    pmap_retired_free(&retired);
    pmap_free(&m);
}

static bool count_prefix(struct slice key, void *value, void *arg)
{
    (void)key;
    (void)value;
    ++*(unsigned *)arg;
    return true;
}

Test(pmap, prefixes_and_seek)
{
    struct pmap m = {0};
    struct pmap_retired retired = {0};
    const char *keys[] = {"a", "ab", "abc", "b", "ba", "c"};
    struct slice found;
    unsigned n = 0;
    void *value;

    for (size_t i = 0; i < 6; i++)
        pmap_put(&m, slice_str(keys[i]), &keys[i], &retired);
    pmap_each_prefix(&m, slice_str("ab"), count_prefix, &n);
    cr_assert_eq(n, 2);
    cr_assert(pmap_seek(&m, slice_str("abd"), &found, &value));
    cr_assert(slice_eq(found, slice_str("b")));
    cr_assert_not(pmap_seek(&m, slice_str("d"), &found, &value));
    pmap_retired_free(&retired);
    pmap_free(&m);
}
