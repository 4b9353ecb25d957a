#include <criterion/criterion.h>
#include <stdio.h>

#include "base/err.h"
#include "kv/state.h"
#include "model.h"

/* Everything that all keys own together is what the kv says it is: freeing the databases one by one leaves nothing. */
static void bytes_come_back_to_zero(struct fixture *f)
{
    struct kv_stats s;

    kv_stats(f->kv, &s);
    cr_assert_eq(s.keys, kv_db_size(f->kv, 0) + kv_db_size(f->kv, 1));
    cr_assert_eq(s.expires, kv_db_expires(f->kv, 0) + kv_db_expires(f->kv, 1));
    for (f->c.db = 0; f->c.db < KV_DATABASES; f->c.db++)
        kv_db_flush(&f->c);
    f->c.db = 0;
    kv_stats(f->kv, &s);
    cr_assert_eq(s.entry_bytes, 0);
    cr_assert_eq(s.keys, 0);
    cr_assert_eq(s.expires, 0);
}

static void run_model(uint64_t seed, const struct kv_options *options, unsigned keys, int steps)
{
    struct fixture f;
    struct model *m = model_new(keys);
    struct rand r;
    struct kv *other;

    fixture_init(&f, options);
    rand_seed(&r, seed);
    for (int i = 0; i < steps; i++) {
        model_step(m, &f, &r);
        if (i % 500 == 0)
            model_compare(m, &f);
    }
    model_compare(m, &f);
    for (int db = 0; db < 2; db++) {
        cr_assert(table_is_sound(&f.kv->dbs[db].keys));
        cr_assert(table_is_sound(&f.kv->dbs[db].expires));
    }

    other = kv_new(NULL);
    fixture_replay(&f, 0, other);
    cr_assert_eq(kv_state_hash(other), kv_state_hash(f.kv), "replay gives another state");
    /* Effects are idempotent: the whole log, or its second half, over the final state gives that state (P17). */
    fixture_replay(&f, f.n / 2, other);
    cr_assert_eq(kv_state_hash(other), kv_state_hash(f.kv), "half of the log again");
    fixture_replay(&f, 0, other);
    cr_assert_eq(kv_state_hash(other), kv_state_hash(f.kv), "all of the log again");
    kv_free(other);
    bytes_come_back_to_zero(&f);
    fixture_fini(&f);
    model_free(m);
}

Test(kv, random_commands_agree_with_the_model_and_replay_to_the_same_state)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        run_model(seed, NULL, 12, 6000);
}

Test(kv, the_same_with_tiny_limits_of_the_compact_forms)
{
    struct kv_options o = {.hash_listpack_max_entries = 4, .hash_listpack_max_value = 8, .set_listpack_max_entries = 4,
                           .set_intset_max_entries = 8, .list_chunk_bytes = 128};

    for (uint64_t seed = 11; seed <= 14; seed++)
        run_model(seed, &o, 5, 6000);
}

Test(kv, effects_of_each_kind_were_written)
{
    struct fixture f;
    struct model *m = model_new(8);
    struct rand r;
    bool seen[256] = {false};

    fixture_init(&f, NULL);
    rand_seed(&r, 5);
    for (int i = 0; i < 20000; i++)
        model_step(m, &f, &r);
    for (size_t i = 0; i < f.n; i++) {
        const uint8_t *p = f.log.data + f.starts[i];
        struct batch_header h;
        struct record_iter it;
        struct record rec;

        cr_assert_eq(batch_header_read(p, f.log.len - f.starts[i], &h), 0);
        record_iter_init(&it, &h, slice_of(p + BATCH_HEADER_SIZE, h.length - BATCH_HEADER_SIZE));
        while (record_iter_next(&it, &rec) == 1)
            seen[rec.key.data[0]] = true;
    }
    for (unsigned k = EFFECT_KV_DEL; k <= EFFECT_KV_SET_REM; k++)
        if (effect_kind_name(k) != NULL)
            cr_assert(seen[k], "%s", effect_kind_name(k));
    fixture_fini(&f);
    model_free(m);
}

Test(kv, malformed_and_unknown_effects_are_refused)
{
    struct kv *kv = kv_new(NULL);
    struct effect e = {EFFECT_KV_STRING_SET, 0, S("k"), SLICE_NONE};

    cr_assert_eq(kv_apply(kv, &e), ERR_CORRUPT);
    e = (struct effect){EFFECT_KV_STRING_SET, KV_DB_COUNT, S("k"), SLICE_LIT("\0x")};
    cr_assert_eq(kv_apply(kv, &e), ERR_CORRUPT);
    e = (struct effect){EFFECT_KV_HASH_SET, 0, S("k"), SLICE_LIT("\5ab")};
    cr_assert_eq(kv_apply(kv, &e), ERR_CORRUPT);
    e = (struct effect){EFFECT_KV_LIST_PUT, 0, S("l"), SLICE_LIT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\1a")};
    cr_assert_eq(kv_apply(kv, &e), ERR_CORRUPT);
    e = (struct effect){EFFECT_KV_STRING_RANGE, 0, S("k"), SLICE_LIT("\xff\xff\xff\xff\x0fzz")};
    cr_assert_eq(kv_apply(kv, &e), ERR_CORRUPT);
    e = (struct effect){EFFECT_QUEUE_ACK, 0, S("k"), SLICE_NONE};
    cr_assert_eq(kv_apply(kv, &e), ERR_LEVEL);
    kv_free(kv);
}

Test(kv, an_element_effect_that_meets_another_type_is_ignored)
{
    struct fixture f;
    struct slice out;
    struct effect e = {EFFECT_KV_SET_ADD, 0, S("k"), SLICE_LIT("\1a")};

    fixture_init(&f, NULL);
    kv_string_set(&f.c, S("k"), S("v"), 0);
    cr_assert_eq(kv_apply(f.kv, &e), 0);
    cr_assert_eq(kv_string_get(&f.c, S("k"), &out), 0);
    cr_assert(slice_eq(out, S("v")));
    fixture_fini(&f);
}

Test(kv, encodings_are_named_as_redis_names_them)
{
    struct fixture f;
    char long_value[600];
    struct slice one = S("1"), word = S("word");
    uint64_t ret;

    fixture_init(&f, NULL);
    memset(long_value, 'x', sizeof(long_value));
    kv_string_set(&f.c, S("i"), S("12345"), 0);
    kv_string_set(&f.c, S("e"), S("short"), 0);
    kv_string_set(&f.c, S("r"), slice_of(long_value, 45), 0);
    kv_string_set(&f.c, S("b"), slice_of(long_value, 600), 0);
    kv_string_set(&f.c, S("z"), S("007"), 0);
    kv_set_add(&f.c, S("s"), &one, 1, &ret);
    cr_assert_str_eq(kv_key_encoding(&f.c, S("i")), "int");
    cr_assert_str_eq(kv_key_encoding(&f.c, S("e")), "embstr");
    cr_assert_str_eq(kv_key_encoding(&f.c, S("r")), "raw");
    cr_assert_str_eq(kv_key_encoding(&f.c, S("b")), "raw");
    cr_assert_str_eq(kv_key_encoding(&f.c, S("z")), "embstr");
    cr_assert_str_eq(kv_key_encoding(&f.c, S("s")), "intset");
    kv_set_add(&f.c, S("s"), &word, 1, &ret);
    cr_assert_str_eq(kv_key_encoding(&f.c, S("s")), "listpack");
    kv_list_push(&f.c, S("l"), KV_TAIL, &one, 1, false, &ret);
    cr_assert_str_eq(kv_key_encoding(&f.c, S("l")), "listpack");
    for (int i = 0; i < 200; i++) {
        struct slice v = slice_of(long_value, 100);

        kv_list_push(&f.c, S("l"), KV_TAIL, &v, 1, false, &ret);
    }
    cr_assert_str_eq(kv_key_encoding(&f.c, S("l")), "quicklist");
    cr_assert_null(kv_key_encoding(&f.c, S("missing")));
    fixture_fini(&f);
}

static void count_key(struct slice key, enum kv_type type, void *arg)
{
    (void)type;
    cr_assert_geq(key.len, 1);
    ++*(unsigned *)arg;
}

Test(kv, scan_and_random_leave_out_the_expired)
{
    struct fixture f;
    unsigned n = 0;
    uint64_t cursor = 0;
    struct slice key;

    fixture_init(&f, NULL);
    cr_assert_not(kv_key_random(&f.c, &key));
    for (int i = 0; i < 1000; i++) {
        char k[20];

        kv_string_set(&f.c, slice_of(k, (size_t)sprintf(k, "k%d", i)), S("v"), i % 2 ? 2000 : 0);
    }
    f.c.now_ms = 2000;
    do {
        cursor = kv_scan(&f.c, cursor, 10, count_key, &n);
    } while (cursor != 0);
    cr_assert_eq(n, 500);
    for (int i = 0; i < 100; i++) {
        cr_assert(kv_key_random(&f.c, &key));
        cr_assert_eq(key.data[key.len - 1] % 2, 0);
    }
    fixture_fini(&f);
}

enum { WALK_STABLE = 3000, WALK_PASSING = 20000 };
struct walk_seen {
    unsigned stable[WALK_STABLE], passing[WALK_PASSING];
};

static void note_walked(struct slice key, enum kv_type type, void *arg)
{
    struct walk_seen *seen = arg;
    unsigned i = 0;

    for (size_t at = 1; at < key.len; at++)
        i = i * 10 + (key.data[at] - '0');
    cr_assert_eq(type, KV_STRING);
    if (key.data[0] == 's')
        seen->stable[i]++;
    else
        seen->passing[i]++;
}

static void put_numbered(struct fixture *f, char kind, unsigned i)
{
    char k[20];

    kv_string_set(&f->c, slice_of(k, (size_t)sprintf(k, "%c%u", kind, i)), S("v"), 0);
}

static void drop_numbered(struct fixture *f, char kind, unsigned i)
{
    char k[20];

    (void)kv_key_del(&f->c, slice_of(k, (size_t)sprintf(k, "%c%u", kind, i)));
}

/* Between two steps the table may grow and shrink by more than it holds. */
Test(kv, a_walk_in_slices_sees_what_stays_once_and_nothing_twice)
{
    static struct walk_seen seen;
    unsigned restarts = 0;

    for (unsigned round = 0; round < 60; round++) {
        struct fixture f;
        struct kv_walk walk = {0};
        enum kv_walk_step step;
        unsigned passing = 0;

        fixture_init(&f, NULL);
        for (unsigned i = 0; i < WALK_STABLE; i++)
            put_numbered(&f, 's', i);
        for (; round % 2 != 0 && passing < WALK_PASSING; passing++) /* so that the table may fall below where the walk began */
            put_numbered(&f, 'p', passing);
        memset(&seen, 0, sizeof(seen));
        do {
            unsigned target = (unsigned)rand_below(&f.rand, 6) == 0 ? (unsigned)rand_below(&f.rand, WALK_PASSING) : passing;

            for (; passing < target; passing++)
                put_numbered(&f, 'p', passing);
            for (; passing > target; passing--)
                drop_numbered(&f, 'p', passing - 1);
            step = kv_walk_keys(&f.c, &walk, 100, note_walked, &seen);
            if (step == KV_WALK_RESTARTED) {
                restarts++;
                memset(&seen, 0, sizeof(seen));
            }
        } while (step != KV_WALK_END);
        for (unsigned i = 0; i < WALK_STABLE; i++)
            cr_assert_eq(seen.stable[i], 1, "round %u: key %u was seen %u times", round, i, seen.stable[i]);
        for (unsigned i = 0; i < WALK_PASSING; i++)
            cr_assert_leq(seen.passing[i], 1, "round %u: passing key %u was seen %u times", round, i, seen.passing[i]);
        fixture_fini(&f);
    }
    cr_assert_gt(restarts, 0);
}

Test(kv, a_walk_in_slices_outlives_a_flush)
{
    static struct walk_seen seen;
    struct fixture f;
    struct kv_walk walk = {0};

    fixture_init(&f, NULL);
    cr_assert_eq(kv_walk_keys(&f.c, &walk, 100, note_walked, &seen), KV_WALK_END);
    walk = (struct kv_walk){0};
    for (unsigned i = 0; i < WALK_STABLE; i++)
        put_numbered(&f, 's', i);
    cr_assert_eq(kv_walk_keys(&f.c, &walk, 100, note_walked, &seen), KV_WALK_MORE);
    kv_db_flush(&f.c);
    for (unsigned i = 0; i < 10; i++)
        put_numbered(&f, 'p', i);
    memset(&seen, 0, sizeof(seen));
    cr_assert_eq(kv_walk_keys(&f.c, &walk, 100, note_walked, &seen), KV_WALK_RESTARTED);
    cr_assert_eq(kv_walk_keys(&f.c, &walk, 100, note_walked, &seen), KV_WALK_END);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(seen.passing[i], 1);
    fixture_fini(&f);
}

Test(kv, the_expiry_cycle_removes_what_is_due_and_nothing_else)
{
    struct fixture f;
    uint32_t n, total = 0;
    struct kv *other;
    struct kv_stats s;

    fixture_init(&f, NULL);
    for (int i = 0; i < 5000; i++) {
        char k[20];

        kv_string_set(&f.c, slice_of(k, (size_t)sprintf(k, "k%d", i)), S("v"), i < 4000 ? 1500 : 9000);
    }
    fixture_commit(&f);
    cr_assert_eq(kv_expire_cycle(&f.c, 1000), 0);
    f.c.now_ms = 1500;
    while ((n = kv_expire_cycle(&f.c, 1000)) != 0) {
        cr_assert_leq(n, 1000);
        total += n;
        fixture_commit(&f);
    }
    /* It stops when few are left, as Redis does; the next calls find those. */
    for (int i = 0; i < 3000; i++) {
        total += kv_expire_cycle(&f.c, 1000);
        fixture_commit(&f);
    }
    cr_assert_eq(total, 4000);
    cr_assert_eq(kv_db_size(f.kv, 0), 1000);
    cr_assert_eq(kv_db_expires(f.kv, 0), 1000);
    kv_stats(f.kv, &s);
    cr_assert_eq(s.expired_total, 4000);
    other = kv_new(NULL);
    fixture_replay(&f, 0, other);
    cr_assert_eq(kv_state_hash(other), kv_state_hash(f.kv));
    kv_free(other);
    fixture_fini(&f);
}

Test(watch, a_change_an_expiry_and_a_flush_are_seen)
{
    struct fixture f;
    struct kv_watch w[5] = {{.dirty = true}};
    uint64_t ret;

    fixture_init(&f, NULL);
    kv_string_set(&f.c, S("a"), S("1"), 0);
    kv_string_set(&f.c, S("b"), S("1"), 1500);
    kv_watch_add(&f.c, &w[0], S("a"));
    kv_watch_add(&f.c, &w[1], S("a"));
    kv_watch_add(&f.c, &w[2], S("b"));
    kv_watch_add(&f.c, &w[3], S("missing"));
    f.c.db = 1;
    kv_watch_add(&f.c, &w[4], S("a"));
    f.c.db = 0;
    kv_string_append(&f.c, S("a"), S("2"), &ret);
    cr_assert(w[0].dirty && w[1].dirty);
    cr_assert_not(w[2].dirty || w[3].dirty || w[4].dirty);
    cr_assert_not(kv_watch_is_dirty(&f.c, &w[2]));
    f.c.now_ms = 1500;
    cr_assert(kv_watch_is_dirty(&f.c, &w[2]));
    kv_db_flush(&f.c);
    cr_assert(w[2].dirty);
    cr_assert_not(w[3].dirty);
    kv_string_set(&f.c, S("missing"), S("x"), 0);
    cr_assert(w[3].dirty);
    for (int i = 0; i < 4; i++)
        kv_watch_remove(f.kv, &w[i]);
    cr_assert_eq(f.kv->watched.count, 1);
    kv_watch_remove(f.kv, &w[4]);
    kv_watch_remove(f.kv, &w[4]);
    cr_assert_eq(f.kv->watched.count, 0);
    fixture_fini(&f);
}

struct waiter {
    struct kv_blocked b;
    struct buf got;
    bool declines;
    struct waiter *also_removes;
};

static bool serve(struct kv_ctx *c, struct kv_blocked *b, struct slice key)
{
    struct waiter *w = CONTAINER_OF(b, struct waiter, b);

    if (w->declines)
        return false;
    cr_assert_eq(kv_list_pop(c, key, KV_HEAD, &w->got), 0);
    if (w->also_removes != NULL)
        kv_blocked_remove(c->kv, &w->also_removes->b);
    return true;
}

Test(blocked, waiters_are_served_in_order_and_what_they_pop_is_in_the_effects)
{
    struct fixture f;
    struct waiter w[5] = {{.b = {.type = KV_LIST}}};
    struct slice values[3] = {S("1"), S("2"), S("3")};
    struct kv *other;
    uint64_t ret;

    fixture_init(&f, NULL);
    for (int i = 0; i < 5; i++) {
        w[i].b.type = KV_LIST;
        w[i].b.serve = serve;
        kv_blocked_add(&f.c, &w[i].b, i == 4 ? S("other") : S("l"));
    }
    w[1].declines = true;
    w[0].also_removes = &w[2]; /* the next in line goes away while the first is served */
    kv_list_push(&f.c, S("l"), KV_TAIL, values, 3, false, &ret);
    cr_assert_eq(ret, 3);
    kv_blocked_serve(&f.c);
    fixture_commit(&f);
    cr_assert(slice_eq(buf_slice(&w[0].got), S("1")));
    cr_assert_eq(w[1].got.len, 0);
    cr_assert_eq(w[2].got.len, 0);
    cr_assert(slice_eq(buf_slice(&w[3].got), S("2")));
    kv_list_len(&f.c, S("l"), &ret);
    cr_assert_eq(ret, 1);
    cr_assert(list_linked(&w[1].b.node));
    kv_blocked_remove(f.kv, &w[1].b);
    kv_blocked_remove(f.kv, &w[4].b);
    cr_assert_eq(f.kv->blocked.count, 0);
    other = kv_new(NULL);
    fixture_replay(&f, 0, other);
    cr_assert_eq(kv_state_hash(other), kv_state_hash(f.kv));
    kv_free(other);
    for (int i = 0; i < 5; i++)
        buf_fini(&w[i].got);
    fixture_fini(&f);
}
