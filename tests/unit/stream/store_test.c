/* Groups and offsets in the keyspace: what is stored comes back, also from the effects alone. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "base/hash.h"
#include "fixture.h"
#include "stream/group_store.h"

static void ignore(void *wait, struct group *g, struct group_member *m, enum group_error err)
{
    (void)wait;
    (void)g;
    (void)m;
    (void)err;
}

static struct fixture f;
static struct groups gs;

static void begin(void)
{
    static struct group_ops quiet;
    uint8_t zero[16] = {0};

    hash_seed(zero);
    quiet = (struct group_ops){ignore, ignore};
    fixture_init(&f, NULL);
    f.c.db = KV_DB_INTERNAL;
    groups_init(&gs, &quiet, 0);
}

static void end(void)
{
    groups_fini(&gs);
    fixture_fini(&f);
}

static struct group *stable_group(const char *id)
{
    struct group *g = group_add(&gs, slice_str(id));
    struct slice names[] = {SLICE_LIT("range"), SLICE_LIT("sticky")},
                 metadata[] = {SLICE_LIT("m1"), SLICE_LIT("")}, member = SLICE_LIT("a"),
                 assigned = SLICE_LIT("p0");
    static char wait;
    struct group_join j = {
        .member_id = SLICE_LIT(""),
        .instance = SLICE_LIT("inst"),
        .client_id = SLICE_LIT("client"),
        .client_host = SLICE_LIT("/h"),
        .new_member_id = SLICE_LIT("a"),
        .rebalance_timeout_ms = 300000,
        .session_timeout_ms = 45000,
        .protocol_type = SLICE_LIT("consumer"),
        .names = names,
        .metadata = metadata,
        .protocol_count = 2,
        .wait = &wait,
    };
    struct group_sync y = {.member_id = member,
                           .generation = 1,
                           .members = &member,
                           .assignments = &assigned,
                           .assignment_count = 1,
                           .wait = &wait};

    cr_assert_eq(group_join(&gs, g, &j, 0), GROUP_OK);
    cr_assert_eq(group_sync(&gs, g, &y, 1), GROUP_OK);
    return g;
}

Test(group_store, a_group_comes_back_from_its_effects)
{
    struct group *g, *back;
    struct group_member *m;
    struct kv *kv = kv_new(NULL);
    struct groups others;
    struct kv_ctx c;

    begin();
    g = stable_group("my-group");
    group_save(&f.c, g, 1700000000000);
    fixture_commit(&f);
    fixture_replay(&f, 0, kv);
    groups_init(&others, gs.ops, 0);
    c = f.c;
    c.kv = kv;
    back = group_load(&c, &others, SLICE_LIT("my-group"), 5000);
    cr_assert_not_null(back);
    cr_assert_eq(back->state, GROUP_STABLE);
    cr_assert_eq(back->generation, 1);
    cr_assert_str_eq(back->protocol, "range");
    cr_assert_str_eq(back->leader, "a");
    m = group_member_find(back, SLICE_LIT("a"));
    cr_assert_not_null(m);
    cr_assert_str_eq(m->instance, "inst");
    cr_assert_eq(m->session_timeout_ms, 45000);
    cr_assert_eq(m->deadline_ms, 50000, "its session begins anew");
    cr_assert(slice_eq(group_member_metadata(back, m), SLICE_LIT("m1")));
    cr_assert(slice_eq(buf_slice(&m->assignment), SLICE_LIT("p0")));
    cr_assert_eq(group_heartbeat(&others, back, SLICE_LIT("a"), SLICE_LIT("inst"), 1, 6000), GROUP_OK);
    cr_assert_null(group_load(&c, &others, SLICE_LIT("other"), 0));
    groups_fini(&others);
    kv_free(kv);
    end();
}

Test(group_store, an_unchanged_group_writes_nothing)
{
    struct group *g;

    begin();
    g = stable_group("g");
    group_save(&f.c, g, 1);
    fixture_commit(&f);
    cr_assert_eq(f.n, 1);
    group_save(&f.c, g, 2);
    cr_assert_eq(f.batch.count, 0);
    end();
}

Test(group_store, damaged_state_is_refused)
{
    struct buf bytes = {0};
    struct group *g;

    begin();
    group_encode(stable_group("g"), &bytes);
    for (size_t n = 0; n < bytes.len; n++) {
        char id[32];

        snprintf(id, sizeof(id), "cut-%zu", n);
        g = group_add(&gs, slice_str(id));
        cr_assert_lt(group_decode(g, slice_of(bytes.data, n)), 0, "%zu of %zu bytes pass", n, bytes.len);
        group_remove(&gs, g);
    }
    buf_fini(&bytes);
    end();
}

static void count(struct slice topic, uint32_t partition, const struct group_offset *o, void *arg)
{
    (void)topic;
    (void)partition;
    *(int64_t *)arg += o->offset;
}

Test(group_store, offsets_are_kept_with_their_metadata)
{
    struct group_offset o = {.topic_id = 7,
                             .offset = 100,
                             .leader_epoch = 0,
                             .commit_ms = 5,
                             .metadata = SLICE_LIT("note")},
                        back;
    struct slice group = SLICE_LIT("g"), topic = SLICE_LIT("orders");
    int64_t sum = 0;

    begin();
    cr_assert_not(group_offset_get(&f.c, group, topic, 0, &back));
    group_offset_put(&f.c, group, topic, 0, &o);
    o.offset = 20;
    group_offset_put(&f.c, group, topic, 1, &o);
    o.offset = 3;
    o.metadata = SLICE_NONE;
    group_offset_put(&f.c, group, SLICE_LIT("other"), 0, &o);
    cr_assert(group_offset_get(&f.c, group, topic, 0, &back));
    cr_assert_eq(back.offset, 100);
    cr_assert_eq(back.topic_id, 7);
    cr_assert(slice_eq(back.metadata, SLICE_LIT("note")));
    group_offset_each(&f.c, group, count, &sum);
    cr_assert_eq(sum, 123);
    cr_assert(group_offset_delete(&f.c, group, topic, 0));
    cr_assert_not(group_offset_delete(&f.c, group, topic, 0));
    cr_assert_not(group_offset_get(&f.c, group, topic, 0, &back));
    group_erase(&f.c, group);
    sum = 0;
    group_offset_each(&f.c, group, count, &sum);
    cr_assert_eq(sum, 0);
    end();
}

Test(group_store, a_listing_loads_every_group)
{
    struct groups others;

    begin();
    for (int i = 0; i < 300; i++) {
        char id[32];

        snprintf(id, sizeof(id), "g%d", i);
        group_save(&f.c, stable_group(id), 1);
    }
    groups_init(&others, gs.ops, 0);
    group_load_all(&f.c, &others, 0);
    cr_assert_eq(others.count, 300);
    groups_fini(&others);
    end();
}
