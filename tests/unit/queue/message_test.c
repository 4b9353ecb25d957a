#include <criterion/criterion.h>

#include "base/err.h"
#include "base/rand.h"
#include "queue/message.h"

static struct buf encode(const struct queue_message *m, int64_t now_ms)
{
    uint8_t head[QUEUE_MESSAGE_HEAD_MAX];
    struct slice parts[QUEUE_MESSAGE_PARTS + 8];
    size_t n = queue_message_encode(m, now_ms, head, parts);
    struct buf out = {0};

    for (size_t i = 0; i < n; i++)
        buf_put_slice(&out, parts[i]);
    return out;
}

Test(queue_message, what_goes_in_comes_out)
{
    struct slice body[] = {SLICE_LIT("hello, "), SLICE_NONE, SLICE_LIT("world")};
    struct queue_message m = {
        .exchange = SLICE_LIT("amq.topic"),
        .routing_key = SLICE_LIT("a.b.c"),
        .properties = SLICE_LIT("\x80\x00\x04text"),
        .body = body,
        .body_count = 3,
        .persistent = true,
        .priority = 9,
        .expiration_ms = 5000,
    };
    struct buf b = encode(&m, 1000);
    struct queue_message_view v;

    cr_assert_eq(queue_message_decode(buf_slice(&b), &v), 0);
    cr_assert_eq(v.flags, QUEUE_MESSAGE_PERSISTENT | QUEUE_MESSAGE_EXPIRES | QUEUE_MESSAGE_PRIORITY);
    cr_assert_eq(v.expire_at_ms, 6000);
    cr_assert_eq(v.priority, 9);
    cr_assert(slice_eq(v.exchange, m.exchange));
    cr_assert(slice_eq(v.routing_key, m.routing_key));
    cr_assert(slice_eq(v.properties, m.properties));
    cr_assert(slice_eq(v.body, slice_str("hello, world")));
    buf_fini(&b);
}

Test(queue_message, a_bare_one_has_no_expiry_and_an_empty_body)
{
    struct queue_message m = {.expiration_ms = -1};
    struct buf b = encode(&m, 1000);
    struct queue_message_view v;

    cr_assert_eq(b.len, 4);
    cr_assert_eq(queue_message_decode(buf_slice(&b), &v), 0);
    cr_assert_eq(v.flags, 0);
    cr_assert_eq(v.expire_at_ms, -1);
    cr_assert_eq(v.body.len, 0);
    buf_fini(&b);
}

Test(queue_message, every_cut_before_the_body_is_refused)
{
    struct slice body = SLICE_LIT("x");
    struct queue_message m = {.exchange = SLICE_LIT("ex"),
                              .routing_key = SLICE_LIT("key"),
                              .properties = SLICE_LIT("props"),
                              .body = &body,
                              .body_count = 1,
                              .priority = 1,
                              .expiration_ms = 70000};
    struct buf b = encode(&m, 1);
    struct queue_message_view v;

    for (size_t n = 0; n < b.len - 1; n++)
        cr_assert_eq(queue_message_decode(slice_of(b.data, n), &v), ERR_CORRUPT, "%zu bytes", n);
    cr_assert_eq(queue_message_decode(slice_of(b.data, b.len - 1), &v), 0);
    buf_fini(&b);
}

Test(queue_message, unknown_flags_are_refused)
{
    struct queue_message m = {.expiration_ms = -1};
    struct buf b = encode(&m, 1);
    struct queue_message_view v;

    for (unsigned bit = 3; bit < 8; bit++) {
        b.data[0] = (uint8_t)(1u << bit);
        cr_assert_eq(queue_message_decode(buf_slice(&b), &v), ERR_CORRUPT);
    }
    buf_fini(&b);
}

Test(queue_message, random_bytes_never_reach_outside)
{
    struct rand r;

    rand_seed(&r, 42);
    for (unsigned i = 0; i < 200000; i++) {
        size_t n = rand_below(&r, 64);
        uint8_t *exact = malloc(n + 1); /* sanitizers see a read behind it */
        struct queue_message_view v;

        for (size_t j = 0; j < n; j++)
            exact[j] = rand_below(&r, 3) ? (uint8_t)rand_below(&r, 16) : (uint8_t)rand_u64(&r);
        if (queue_message_decode(slice_of(exact, n), &v) == 0) {
            cr_assert_eq(v.body.data + v.body.len, exact + n);
            cr_assert_leq(v.exchange.len + v.routing_key.len + v.properties.len + v.body.len, n);
        }
        free(exact);
    }
}
