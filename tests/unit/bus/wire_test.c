#include <criterion/criterion.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "cluster/bus/wire.h"

static struct hello example(void)
{
    struct hello h = {.version = BUS_VERSION, .channel = 1, .node_id = 3, .node_epoch = 9, .total_partitions = 32, .level_min = 1, .level_max = 2, .heartbeat_ms = 500, .address = "10.0.0.3:9000"};

    memset(h.cluster_id, 1, sizeof(h.cluster_id));
    memset(h.uuid, 3, sizeof(h.uuid));
    memset(h.nonce, 5, sizeof(h.nonce));
    return h;
}

Test(wire, a_frame_comes_back_and_each_cut_of_it_wants_more)
{
    struct buf b = {0};
    struct frame f;
    size_t used;

    frame_put(&b, 42, FRAME_REPLY, 77, SLICE_LIT("payload"));
    cr_assert_eq(b.len, (size_t)FRAME_HEADER + 7);
    for (size_t n = 0; n < b.len; n++) {
        cr_assert_eq(frame_decode(b.data, n, 1024, &f, &used), ERR_MORE);
        cr_assert(used > n);
    }
    cr_assert_eq(frame_decode(b.data, b.len, 1024, &f, &used), 0);
    cr_assert_eq(used, b.len);
    cr_assert(f.type == 42 && f.flags == FRAME_REPLY && f.id == 77 && slice_eq(f.payload, SLICE_LIT("payload")));
    cr_assert_eq(frame_decode(b.data, b.len, b.len - 1, &f, &used), ERR_TOO_LARGE);
    buf_fini(&b);
}

Test(wire, each_flipped_bit_of_a_frame_is_found)
{
    struct buf b = {0};
    struct frame f;
    size_t used;

    frame_put(&b, 42, 0, 77, SLICE_LIT("some bytes of payload"));
    for (size_t i = 0; i < b.len * 8; i++) {
        b.data[i / 8] ^= (uint8_t)(1u << i % 8);
        cr_assert_neq(frame_decode(b.data, b.len, 1024, &f, &used), 0, "bit %zu", i);
        b.data[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    cr_assert_eq(frame_decode(b.data, b.len, 1024, &f, &used), 0);
    buf_fini(&b);
}

Test(wire, a_hello_comes_back_and_no_cut_or_longer_one_does)
{
    struct hello h = example(), back;
    struct buf b = {0};

    hello_put(&b, &h);
    cr_assert_eq(hello_get(buf_slice(&b), &back), 0);
    cr_assert_eq(memcmp(&h, &back, sizeof(h)), 0);
    for (size_t n = 0; n < b.len; n++)
        cr_assert_eq(hello_get(slice_of(b.data, n), &back), ERR_MALFORMED);
    buf_put_u8(&b, 0);
    cr_assert_eq(hello_get(buf_slice(&b), &back), ERR_MALFORMED);
    b.data[1] = BUS_VERSION + 1; /* a later version may say more */
    cr_assert_eq(hello_get(buf_slice(&b), &back), 0);
    buf_fini(&b);
}

Test(wire, an_address_that_would_garble_a_diagnostic_line_is_refused)
{
    struct hello h = example(), back;
    static const char *const bad[] = {"a b", "a\nb", "a\"b", "a\x7f"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct buf b = {0};

        strcpy(h.address, bad[i]);
        hello_put(&b, &h);
        cr_assert_eq(hello_get(buf_slice(&b), &back), ERR_MALFORMED);
        buf_fini(&b);
    }
}

Test(wire, a_proof_depends_on_the_secret_the_side_and_both_hellos)
{
    uint8_t p[5][PROOF_SIZE];

    hello_proof("s", false, SLICE_LIT("ab"), SLICE_LIT("c"), p[0]);
    hello_proof("t", false, SLICE_LIT("ab"), SLICE_LIT("c"), p[1]);
    hello_proof("s", true, SLICE_LIT("ab"), SLICE_LIT("c"), p[2]);
    hello_proof("s", false, SLICE_LIT("a"), SLICE_LIT("bc"), p[3]);
    hello_proof("s", false, SLICE_LIT("ab"), SLICE_LIT("d"), p[4]);
    for (unsigned i = 0; i < 5; i++) {
        for (unsigned k = 0; k < 5; k++)
            cr_assert_eq(proof_equal(p[i], slice_of(p[k], PROOF_SIZE)), i == k);
        cr_assert_not(proof_equal(p[i], slice_of(p[i], PROOF_SIZE - 1)));
    }
}

Test(wire, both_sides_judge_a_pair_of_hellos_alike)
{
    struct hello a = example(), b = example();

    memset(b.uuid, 4, sizeof(b.uuid));
    b.node_id = 4;
    cr_assert_eq(hello_judge(&a, &b), REFUSAL_NONE);
    memset(b.cluster_id, 0, sizeof(b.cluster_id)); /* wants to join */
    cr_assert_eq(hello_judge(&a, &b), REFUSAL_NONE);
    memset(b.cluster_id, 9, sizeof(b.cluster_id));
    cr_assert(hello_judge(&a, &b) == REFUSAL_CLUSTER && hello_judge(&b, &a) == REFUSAL_CLUSTER);
    b.cluster_id[0] = 0;
    memset(b.cluster_id, 1, sizeof(b.cluster_id));
    b.total_partitions = 64;
    cr_assert(hello_judge(&a, &b) == REFUSAL_PARTITIONS && hello_judge(&b, &a) == REFUSAL_PARTITIONS);
    b.total_partitions = 32;
    b.level_min = b.level_max = 3;
    cr_assert(hello_judge(&a, &b) == REFUSAL_LEVEL && hello_judge(&b, &a) == REFUSAL_LEVEL);
    b.level_min = 1;
    b.node_id = 3;
    cr_assert(hello_judge(&a, &b) == REFUSAL_DISK && hello_judge(&b, &a) == REFUSAL_DISK);
    cr_assert_eq(hello_judge(&a, &a), REFUSAL_OURSELVES);
    for (unsigned code = 0; code < 10; code++)
        cr_assert_not_null(refusal_text(code));
}
