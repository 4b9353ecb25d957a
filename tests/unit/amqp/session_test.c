/* The whole front end over a socket: what clients' libraries hide. Texts and codes are RabbitMQ's. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "rig.h"

static struct rig *start(void)
{
    return rig_start(&(struct rig_options){.max_message_bytes = 1 << 20});
}

static void declare(struct client *c, const char *queue, const char *flags, struct slice args)
{
    struct amqp_queue_declare m = {.queue = slice_str(queue),
                                   .passive = strchr(flags, 'p') != NULL,
                                   .durable = strchr(flags, 'd') != NULL,
                                   .exclusive = strchr(flags, 'x') != NULL,
                                   .auto_delete = strchr(flags, 'a') != NULL,
                                   .arguments = args};

    amqp_put_queue_declare(&c->out, 1, &m);
}

Test(amqp_session, exceptions_have_rabbitmqs_codes_and_words, .timeout = 60)
{
    struct rig *r = start();
    struct client c, other;
    struct buf args = {0};

    client_login(&c, rig_port(r));
    client_login(&other, rig_port(r));
    declare(&c, "q", "d", SLICE_NONE);
    client_expect(&c, 1, AMQP_ID_queue_declare_ok);

    declare(&c, "nope", "p", SLICE_NONE);
    client_expect_error(&c, 404, "NOT_FOUND - no queue 'nope' in vhost '/'");
    declare(&c, "q", "", SLICE_NONE);
    client_expect_error(&c, 406,
                        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': "
                        "received 'false' but current is 'true'");
    declare(&c, "amq.mine", "", SLICE_NONE);
    client_expect_error(&c, 403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'");
    amqp_table_put_i32(&args, "x-message-ttl", 10);
    declare(&c, "q", "d", buf_slice(&args));
    client_expect_error(&c, 406,
                        "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': "
                        "received the value '10' of type 'signedint' but current is none");
    declare(&c, "ttl", "d", buf_slice(&args));
    client_expect(&c, 1, AMQP_ID_queue_declare_ok);
    buf_clear(&args);
    amqp_table_put_i64(&args, "x-message-ttl", 10);
    declare(&c, "ttl", "d", buf_slice(&args));
    client_expect(&c, 1, AMQP_ID_queue_declare_ok); /* integers are equal by value */
    buf_clear(&args);
    amqp_table_put_i32(&args, "x-message-ttl", -1);
    declare(&c, "bad", "d", buf_slice(&args));
    client_expect_error(&c, 406,
                        "PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue 'bad' in vhost '/': "
                        "{value_negative,-1}");

    declare(&c, "mine", "x", SLICE_NONE);
    client_expect(&c, 1, AMQP_ID_queue_declare_ok);
    declare(&other, "mine", "p", SLICE_NONE);
    client_expect_error(&other, 405,
                        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'mine' in vhost "
                        "'/'. It could be originally declared on another connection or the exclusive "
                        "property value does not match that of the original declaration.");

    amqp_put_basic_ack(&c.out, 1, &(struct amqp_basic_ack){7, false});
    client_expect_error(&c, 406, "PRECONDITION_FAILED - unknown delivery tag 7");
    amqp_put_exchange_declare(
        &c.out, 1, &(struct amqp_exchange_declare){.exchange = SLICE_LIT("e"), .type = SLICE_LIT("foo")});
    client_expect_error(&c, 406, "PRECONDITION_FAILED - unknown exchange type 'foo'");
    amqp_put_exchange_delete(&c.out, 1, &(struct amqp_exchange_delete){.exchange = SLICE_LIT("amq.direct")});
    client_expect_error(&c, 403,
                        "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed");
    client_publish(&c, 1, "none", "k", NULL, 0, SLICE_LIT("x"));
    client_expect_error(&c, 404, "NOT_FOUND - no exchange 'none' in vhost '/'");
    client_publish(&c, 1, "", "q",
                   "\x01\x00\x03"
                   "abc",
                   6, SLICE_LIT("x"));
    client_expect_error(&c, 406, "PRECONDITION_FAILED - invalid expiration 'abc': no_integer");
    client_publish(&c, 1, "", "q",
                   "\x00\x10\x03"
                   "eve",
                   6, SLICE_LIT("x"));
    client_expect_error(
        &c, 406, "PRECONDITION_FAILED - user_id property set to 'eve' but authenticated user was 'guest'");
    amqp_put_tx_commit(&c.out, 1, &(struct amqp_tx_commit){});
    client_expect_error(&c, 406, "PRECONDITION_FAILED - channel is not transactional");
    client_publish(&c, 1, "", "q", NULL, 0, SLICE_LIT("x"));
    amqp_put_basic_publish(&c.out, 1, &(struct amqp_basic_publish){.immediate = true});
    client_expect_error(&c, 540, "NOT_IMPLEMENTED - immediate=true");
    client_close(&c);
    client_close(&other);
    buf_fini(&args);
    rig_stop(r);
}

Test(amqp_session, content_that_comes_byte_by_byte_or_interleaved_arrives_whole, .timeout = 60)
{
    struct rig *r = start();
    struct client c;
    struct buf body = {0}, whole = {0};
    bool redelivered;
    static uint8_t big[200000];

    for (size_t i = 0; i < sizeof(big); i++)
        big[i] = (uint8_t)(i * 7);
    client_login(&c, rig_port(r));
    client_open_channel(&c, 2);
    client_declare(&c, 1, "q", true);

    client_publish(&c, 1, "", "q", NULL, 0, SLICE_LIT("slow"));
    buf_put_slice(&whole, buf_slice(&c.out));
    buf_clear(&c.out);
    for (size_t i = 0; i < whole.len; i++) {
        buf_put_u8(&c.out, whole.data[i]);
        client_flush(&c);
        usleep(500);
    }
    /* Two channels whose frames interleave, one in many small frames. */
    amqp_put_basic_publish(&c.out, 1, &(struct amqp_basic_publish){.routing_key = SLICE_LIT("q")});
    amqp_put_basic_publish(&c.out, 2, &(struct amqp_basic_publish){.routing_key = SLICE_LIT("q")});
    amqp_put_content_header(&c.out, 2, 5, SLICE_LIT("\0\0"));
    amqp_put_content_header(&c.out, 1, sizeof(big), SLICE_LIT("\0\0"));
    amqp_put_frame_header(&c.out, AMQP_FRAME_BODY, 2, 5);
    buf_put_str(&c.out, "inter\xce");
    for (size_t at = 0; at < sizeof(big); at += 1000) {
        amqp_put_frame_header(&c.out, AMQP_FRAME_BODY, 1, 1000);
        buf_put(&c.out, big + at, 1000);
        buf_put_u8(&c.out, AMQP_FRAME_END);
    }
    static const char *const want[] = {"slow", "inter"};
    for (int i = 0; i < 3; i++) {
        amqp_put_basic_get(&c.out, 1, &(struct amqp_basic_get){.queue = SLICE_LIT("q"), .no_ack = true});
        client_read_content(&c, AMQP_ID_basic_get_ok, &body, &redelivered);
        if (i < 2)
            cr_assert(slice_eq(buf_slice(&body), slice_str(want[i])), "%.*s", (int)body.len,
                      (char *)body.data);
        else
            cr_assert(slice_eq(buf_slice(&body), slice_of(big, sizeof(big))));
    }
    client_close(&c);
    buf_fini(&body);
    buf_fini(&whole);
    rig_stop(r);
}

Test(amqp_session, a_body_larger_than_allowed_is_refused_before_it_comes, .timeout = 60)
{
    struct rig *r = start();
    struct client c;

    client_login(&c, rig_port(r));
    amqp_put_basic_publish(&c.out, 1, &(struct amqp_basic_publish){.routing_key = SLICE_LIT("q")});
    amqp_put_content_header(&c.out, 1, 2 << 20, SLICE_LIT("\0\0"));
    client_expect_error(
        &c, 406, "PRECONDITION_FAILED - message size 2097152 is larger than configured max size 1048576");
    amqp_put_basic_publish(&c.out, 1, &(struct amqp_basic_publish){.routing_key = SLICE_LIT("q")});
    amqp_put_content_header(&c.out, 1, 2, SLICE_LIT("\0\0"));
    amqp_put_frame_header(&c.out, AMQP_FRAME_BODY, 1, 3);
    buf_put_str(&c.out, "abc\xce");
    client_expect_error(&c, 501,
                        "FRAME_ERROR - content body of 3 octets is larger than the 2 its header announced");
    client_close(&c);
    rig_stop(r);
}

Test(amqp_session, confirms_come_in_order_and_a_refusal_is_a_nack, .timeout = 60)
{
    struct rig *r = start();
    struct client c;
    struct buf args = {0};
    uint64_t confirmed = 0;
    unsigned nacks = 0;

    client_login(&c, rig_port(r));
    amqp_table_put_i32(&args, "x-max-length", 5);
    amqp_table_put_str(&args, "x-overflow", SLICE_LIT("reject-publish"));
    declare(&c, "full", "d", buf_slice(&args));
    client_expect(&c, 1, AMQP_ID_queue_declare_ok);
    client_declare(&c, 1, "q", true);
    amqp_put_confirm_select(&c.out, 1, &(struct amqp_confirm_select){false});
    client_expect(&c, 1, AMQP_ID_confirm_select_ok);
    /* Durable and persistent, to a queue with room for five, and to nobody. */
    for (int i = 0; i < 300; i++)
        client_publish(&c, 1, "",
                       i % 3 == 0   ? "q"
                       : i % 3 == 1 ? "full"
                                    : "nobody",
                       "\x10\x00\x02", 3, SLICE_LIT("x"));
    while (confirmed < 300) {
        struct frame f = client_read(&c);

        if (f.id == AMQP_ID_basic_ack) {
            struct amqp_basic_ack m;

            cr_assert_eq(amqp_get_basic_ack(f.payload, &m), 0);
            cr_assert_gt(m.delivery_tag, confirmed);
            cr_assert(m.multiple || m.delivery_tag == confirmed + 1);
            confirmed = m.delivery_tag;
        } else {
            struct amqp_basic_nack m;

            cr_assert_eq(f.id, AMQP_ID_basic_nack);
            cr_assert_eq(amqp_get_basic_nack(f.payload, &m), 0);
            cr_assert_eq(m.delivery_tag, confirmed + 1);
            cr_assert_eq(m.delivery_tag % 3, 2, "only the full queue refuses");
            confirmed++;
            nacks++;
        }
    }
    cr_assert_eq(nacks, 95);
    client_close(&c);
    buf_fini(&args);
    rig_stop(r);
}

Test(amqp_session, what_a_vanished_client_held_comes_again, .timeout = 60)
{
    struct rig *r = start();
    struct client a, b;
    struct buf body = {0};
    bool redelivered;

    client_login(&a, rig_port(r));
    client_login(&b, rig_port(r));
    client_declare(&a, 1, "q", true);
    for (int i = 0; i < 100; i++)
        client_publish(&a, 1, "", "q", NULL, 0, slice_of(&i, sizeof(i)));
    amqp_put_basic_consume(
        &a.out, 1, &(struct amqp_basic_consume){.queue = SLICE_LIT("q"), .consumer_tag = SLICE_LIT("c")});
    client_expect(&a, 1, AMQP_ID_basic_consume_ok);
    for (int i = 0; i < 100; i++) {
        uint64_t tag = client_read_content(&a, AMQP_ID_basic_deliver, &body, &redelivered);

        cr_assert_eq(tag, (uint64_t)i + 1);
        cr_assert_not(redelivered);
        if (i % 2 == 0)
            amqp_put_basic_ack(&a.out, 1, &(struct amqp_basic_ack){tag, false});
    }
    amqp_put_basic_qos(&a.out, 1, &(struct amqp_basic_qos){.prefetch_count = 1});
    client_expect(&a, 1, AMQP_ID_basic_qos_ok);
    client_close(&a);
    amqp_put_basic_consume(&b.out, 1, &(struct amqp_basic_consume){.queue = SLICE_LIT("q"), .no_ack = true});
    client_expect(&b, 1, AMQP_ID_basic_consume_ok);
    for (int i = 1; i < 100; i += 2) {
        int got;

        client_read_content(&b, AMQP_ID_basic_deliver, &body, &redelivered);
        memcpy(&got, body.data, sizeof(got));
        cr_assert_eq(got, i);
        cr_assert(redelivered);
    }
    cr_assert_not(client_readable(&b, 50));
    client_close(&b);
    buf_fini(&body);
    rig_stop(r);
}

Test(amqp_session, recover_brings_everything_unsettled_again_before_its_answer, .timeout = 60)
{
    struct rig *r = start();
    struct client a, b;
    struct buf body = {0};
    bool redelivered;
    int got;

    client_login(&a, rig_port(r));
    client_login(&b, rig_port(r));
    client_declare(&a, 1, "q", true);
    rig_disturb(r, 8000); /* handlers are parked and run again */
    for (int round = 0; round < 20 || (round < 200 && rig_parked(r) == 0); round++) {
        for (int i = 0; i < 6; i++)
            client_publish(&a, 1, "", "q", NULL, 0, slice_of(&i, sizeof(i)));
        for (int i = 0; i < 6; i++)
            amqp_put_basic_get(&a.out, 1, &(struct amqp_basic_get){.queue = SLICE_LIT("q")});
        for (int i = 0; i < 6; i++) {
            uint64_t tag = client_read_content(&a, AMQP_ID_basic_get_ok, &body, &redelivered);

            cr_assert_not(redelivered);
            if (i % 2 == 0)
                amqp_put_basic_ack(&a.out, 1, &(struct amqp_basic_ack){tag, false});
        }
        amqp_put_basic_recover(&a.out, 1, &(struct amqp_basic_recover){.requeue = true});
        client_expect(&a, 1, AMQP_ID_basic_recover_ok);
        for (int i = 1; i < 6; i += 2) { /* another connection finds them, in their order */
            amqp_put_basic_get(&b.out, 1, &(struct amqp_basic_get){.queue = SLICE_LIT("q"), .no_ack = true});
            client_read_content(&b, AMQP_ID_basic_get_ok, &body, &redelivered);
            memcpy(&got, body.data, sizeof(got));
            cr_assert_eq(got, i);
            cr_assert(redelivered);
        }
        amqp_put_basic_get(&b.out, 1, &(struct amqp_basic_get){.queue = SLICE_LIT("q"), .no_ack = true});
        client_expect(&b, 1, AMQP_ID_basic_get_empty);
    }
    rig_calm(r);
    amqp_put_basic_recover(&a.out, 1, &(struct amqp_basic_recover){.requeue = false});
    client_expect_error(&a, 540, "NOT_IMPLEMENTED - requeue=false");
    client_close(&a);
    client_close(&b);
    buf_fini(&body);
    rig_stop(r);
}

Test(amqp_session, messages_and_acks_survive_a_restart, .timeout = 60)
{
    char dir[] = "/tmp/gomsg-amqp-XXXXXX", command[64];
    struct rig *r;
    struct client c;
    struct buf body = {0};
    bool redelivered;

    cr_assert_not_null(mkdtemp(dir));
    r = rig_start(&(struct rig_options){.data_dir = dir});
    client_login(&c, rig_port(r));
    client_declare(&c, 1, "q", true);
    amqp_put_exchange_declare(&c.out, 1,
                              &(struct amqp_exchange_declare){
                                  .exchange = SLICE_LIT("x"), .type = SLICE_LIT("topic"), .durable = true});
    client_expect(&c, 1, AMQP_ID_exchange_declare_ok);
    amqp_put_queue_bind(&c.out, 1,
                        &(struct amqp_queue_bind){.queue = SLICE_LIT("q"),
                                                  .exchange = SLICE_LIT("x"),
                                                  .routing_key = SLICE_LIT("a.#")});
    client_expect(&c, 1, AMQP_ID_queue_bind_ok);
    amqp_put_confirm_select(&c.out, 1, &(struct amqp_confirm_select){false});
    client_expect(&c, 1, AMQP_ID_confirm_select_ok);
    for (uint32_t i = 0; i < 10; i++)
        client_publish(&c, 1, "x", "a.b", "\x10\x00\x02", 3, slice_of(&i, sizeof(i)));
    for (uint64_t acked = 0; acked < 10;) {
        struct frame f = client_expect(&c, 1, AMQP_ID_basic_ack);

        acked = be64_get(f.payload.data);
    }
    for (int i = 0; i < 3; i++) {
        amqp_put_basic_get(&c.out, 1, &(struct amqp_basic_get){.queue = SLICE_LIT("q"), .no_ack = i != 1});
        client_read_content(&c, AMQP_ID_basic_get_ok, &body, &redelivered);
    }
    client_close(&c);
    rig_stop(r);

    r = rig_start(&(struct rig_options){.data_dir = dir});
    client_login(&c, rig_port(r));
    for (uint32_t i = 1; i < 10; i++) {
        uint32_t got;

        if (i == 2)
            continue; /* 0 and 2 were settled, 1 was not */
        amqp_put_basic_get(&c.out, 1, &(struct amqp_basic_get){.queue = SLICE_LIT("q"), .no_ack = true});
        client_read_content(&c, AMQP_ID_basic_get_ok, &body, &redelivered);
        memcpy(&got, body.data, sizeof(got));
        cr_assert_eq(got, i);
        cr_assert(i != 1 || redelivered);
    }
    amqp_put_basic_get(&c.out, 1, &(struct amqp_basic_get){.queue = SLICE_LIT("q")});
    client_expect(&c, 1, AMQP_ID_basic_get_empty);
    client_close(&c);
    rig_stop(r);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
    buf_fini(&body);
}

Test(amqp_session, shared_and_own_prefetch_hold, .timeout = 60)
{
    struct rig *r = start();
    struct client c;
    struct buf body = {0};
    bool redelivered;
    uint64_t tag = 0;

    client_login(&c, rig_port(r));
    client_declare(&c, 1, "q", false);
    for (int i = 0; i < 50; i++)
        client_publish(&c, 1, "", "q", NULL, 0, SLICE_LIT("x"));
    amqp_put_basic_qos(&c.out, 1, &(struct amqp_basic_qos){.prefetch_count = 5, .global = true});
    client_expect(&c, 1, AMQP_ID_basic_qos_ok);
    amqp_put_basic_qos(&c.out, 1, &(struct amqp_basic_qos){.prefetch_count = 4});
    client_expect(&c, 1, AMQP_ID_basic_qos_ok);
    amqp_put_basic_consume(&c.out, 1,
                           &(struct amqp_basic_consume){
                               .queue = SLICE_LIT("q"), .consumer_tag = SLICE_LIT("a"), .nowait = true});
    for (int i = 0; i < 4; i++)
        tag = client_read_content(&c, AMQP_ID_basic_deliver, &body, &redelivered);
    cr_assert_not(client_readable(&c, 50), "its own prefetch is used up");
    amqp_put_basic_consume(&c.out, 1,
                           &(struct amqp_basic_consume){
                               .queue = SLICE_LIT("q"), .consumer_tag = SLICE_LIT("b"), .nowait = true});
    tag = client_read_content(&c, AMQP_ID_basic_deliver, &body, &redelivered);
    cr_assert_eq(tag, 5);
    cr_assert_not(client_readable(&c, 50), "the channel's is used up");
    for (; tag < 50; tag += 5) {
        amqp_put_basic_ack(&c.out, 1, &(struct amqp_basic_ack){tag, true});
        for (int i = 0; i < 5; i++)
            client_read_content(&c, AMQP_ID_basic_deliver, &body, &redelivered);
        cr_assert_not(client_readable(&c, 20));
    }
    client_close(&c);
    buf_fini(&body);
    rig_stop(r);
}

Test(amqp_session, a_client_that_does_not_read_stops_its_deliveries_only, .timeout = 60)
{
    struct rig *r = start();
    struct client slow, other;
    struct buf body = {0};
    static uint8_t big[16000];
    bool redelivered;

    client_login(&slow, rig_port(r));
    client_login(&other, rig_port(r));
    client_declare(&other, 1, "q", false);
    client_declare(&other, 1, "p", false);
    amqp_put_basic_consume(&slow.out, 1,
                           &(struct amqp_basic_consume){.queue = SLICE_LIT("q"), .no_ack = true});
    client_expect(&slow, 1, AMQP_ID_basic_consume_ok);
    for (int i = 0; i < 2000; i++) { /* 32 MB: more than sockets and the soft limit hold */
        memcpy(big, &i, sizeof(i));
        client_publish(&other, 1, "", "q", NULL, 0, slice_of(big, sizeof(big)));
        client_flush(&other);
    }
    client_publish(&other, 1, "", "p", NULL, 0, SLICE_LIT("quick"));
    amqp_put_basic_get(&other.out, 1, &(struct amqp_basic_get){.queue = SLICE_LIT("p"), .no_ack = true});
    client_read_content(&other, AMQP_ID_basic_get_ok, &body, &redelivered);
    declare(&other, "q", "p", SLICE_NONE);
    struct frame f = client_expect(&other, 1, AMQP_ID_queue_declare_ok);
    struct amqp_queue_declare_ok ok;
    cr_assert_eq(amqp_get_queue_declare_ok(f.payload, &ok), 0);
    cr_assert_gt(ok.message_count, 100, "most waits in the queue, not in memory");
    for (int i = 0; i < 2000; i++) {
        int got;

        client_read_content(&slow, AMQP_ID_basic_deliver, &body, &redelivered);
        memcpy(&got, body.data, sizeof(got));
        cr_assert_eq(got, i);
    }
    client_close(&slow);
    client_close(&other);
    buf_fini(&body);
    rig_stop(r);
}

Test(amqp_session, bad_bytes_cost_one_connection, .timeout = 60)
{
    struct rig *r = start();
    struct client c;
    static const struct {
        const char *bytes;
        size_t n;
        const char *answer;
    } wrong[] = {{"GET / HTTP/1.1\r\n\r\n", 18, "HTTP/1.1 400"},
                 {"*1\r\n$4\r\nPING\r\n", 14, "-ERR"},
                 {"AMQP\x03\x01\x00\x00", 8, "AMQP\0\0\x09\x01"},
                 {"\x16\x03\x01\x02\x00\x01\x00\x01", 8, "\x15\x03"}};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        uint8_t got[256];
        ssize_t n = 0, k;

        client_connect(&c, rig_port(r));
        buf_put(&c.out, wrong[i].bytes, wrong[i].n);
        client_flush(&c);
        while ((k = read(c.fd, got + n, sizeof(got) - (size_t)n)) > 0)
            n += k;
        cr_assert_eq(k, 0);
        cr_assert_eq(memcmp(got, wrong[i].answer, i == 2 ? 8 : strlen(wrong[i].answer)), 0);
        client_close(&c);
    }
    client_login(&c, rig_port(r));
    buf_put(&c.out, "\x01\0\x01\x7f\xff\xff\xff", 7);
    client_expect_error(&c, 501,
                        "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,2147483647,131064}");
    client_close(&c);
    client_login(&c, rig_port(r));
    amqp_put_queue_declare(&c.out, 5, &(struct amqp_queue_declare){.queue = SLICE_LIT("q")});
    client_expect_error(&c, 504, "CHANNEL_ERROR - expected 'channel.open'");
    client_close(&c);
    client_login(&c, rig_port(r));
    amqp_put_content_header(&c.out, 1, 1, SLICE_LIT("\0\0"));
    client_expect_error(&c, 505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead");
    client_close(&c);
    client_login(&c, rig_port(r));
    client_declare(&c, 1, "still-there", false);
    client_close(&c);
    rig_stop(r);
}

Test(amqp_session, a_transaction_shows_nothing_before_its_commit, .timeout = 60)
{
    struct rig *r = start();
    struct client c;
    struct buf body = {0};
    bool redelivered;
    uint64_t tags[3];

    client_login(&c, rig_port(r));
    client_open_channel(&c, 2);
    client_declare(&c, 1, "q", true);
    for (int i = 0; i < 3; i++)
        client_publish(&c, 1, "", "q", "\x10\x00\x02", 3, slice_of(&i, sizeof(i)));
    amqp_put_tx_select(&c.out, 1, &(struct amqp_tx_select){});
    client_expect(&c, 1, AMQP_ID_tx_select_ok);
    for (int i = 0; i < 3; i++) {
        amqp_put_basic_get(&c.out, 1, &(struct amqp_basic_get){.queue = SLICE_LIT("q")});
        tags[i] = client_read_content(&c, AMQP_ID_basic_get_ok, &body, &redelivered);
    }
    /* Rolled back: the publish is gone, both tags can be settled again. */
    client_publish(&c, 1, "", "q", NULL, 0, SLICE_LIT("never"));
    amqp_put_basic_ack(&c.out, 1, &(struct amqp_basic_ack){tags[1], true});
    amqp_put_tx_rollback(&c.out, 1, &(struct amqp_tx_rollback){});
    client_expect(&c, 1, AMQP_ID_tx_rollback_ok);
    client_publish(&c, 1, "", "q", "\x10\x00\x02", 3, SLICE_LIT("kept"));
    amqp_put_basic_ack(&c.out, 1, &(struct amqp_basic_ack){tags[1], true});
    amqp_put_basic_get(&c.out, 2, &(struct amqp_basic_get){.queue = SLICE_LIT("q"), .no_ack = true});
    client_expect(&c, 2, AMQP_ID_basic_get_empty);
    amqp_put_tx_commit(&c.out, 1, &(struct amqp_tx_commit){});
    client_expect(&c, 1, AMQP_ID_tx_commit_ok);
    amqp_put_basic_get(&c.out, 2, &(struct amqp_basic_get){.queue = SLICE_LIT("q"), .no_ack = true});
    client_read_content(&c, AMQP_ID_basic_get_ok, &body, &redelivered);
    cr_assert(slice_eq(buf_slice(&body), SLICE_LIT("kept")));
    /* Acknowledged but not committed: the end of the channel brings it back. */
    amqp_put_basic_ack(&c.out, 1, &(struct amqp_basic_ack){tags[2], false});
    amqp_put_channel_close(&c.out, 1, &(struct amqp_channel_close){.reply_code = 200});
    client_expect(&c, 1, AMQP_ID_channel_close_ok);
    amqp_put_basic_get(&c.out, 2, &(struct amqp_basic_get){.queue = SLICE_LIT("q"), .no_ack = true});
    client_read_content(&c, AMQP_ID_basic_get_ok, &body, &redelivered);
    cr_assert(redelivered && body.data[0] == 2);
    amqp_put_basic_get(&c.out, 2, &(struct amqp_basic_get){.queue = SLICE_LIT("q"), .no_ack = true});
    client_expect(&c, 2, AMQP_ID_basic_get_empty);
    client_close(&c);
    buf_fini(&body);
    rig_stop(r);
}

Test(amqp_session, a_direct_reply_finds_its_channel_on_another_worker, .timeout = 60)
{
    struct rig *r = start();
    struct client asks, answers;
    struct amqp_properties p = {.flags = AMQP_HAS_reply_to | AMQP_HAS_correlation_id,
                                .reply_to = SLICE_LIT("amq.rabbitmq.reply-to"),
                                .correlation_id = SLICE_LIT("7")};
    struct buf body = {0}, properties = {0};
    struct amqp_properties got;
    struct slice raw;
    char name[64];
    uint64_t size;
    uint16_t class_id;
    bool redelivered;

    client_login(&asks, rig_port(r));
    client_login(&answers, rig_port(r));
    client_declare(&answers, 1, "rpc", false);
    amqp_properties_write(&p, &properties);
    client_publish(&asks, 1, "", "rpc", (const char *)properties.data, properties.len, SLICE_LIT("early"));
    client_expect_error(&asks, 406, "PRECONDITION_FAILED - fast reply consumer does not exist");
    amqp_put_basic_consume(&asks.out, 1,
                           &(struct amqp_basic_consume){.queue = SLICE_LIT("amq.rabbitmq.reply-to")});
    client_expect_error(&asks, 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge");
    amqp_put_basic_consume(
        &asks.out, 1,
        &(struct amqp_basic_consume){.queue = SLICE_LIT("amq.rabbitmq.reply-to"), .no_ack = true});
    client_expect(&asks, 1, AMQP_ID_basic_consume_ok);
    client_publish(&asks, 1, "", "rpc", (const char *)properties.data, properties.len, SLICE_LIT("question"));
    client_flush(&asks);
    struct frame f;
    do {
        amqp_put_basic_get(&answers.out, 1,
                           &(struct amqp_basic_get){.queue = SLICE_LIT("rpc"), .no_ack = true});
        f = client_read(&answers);
    } while (f.id == AMQP_ID_basic_get_empty);
    f = client_read(&answers);
    cr_assert_eq(amqp_content_header_read(f.payload, &class_id, &size, &raw), 0);
    cr_assert_eq(amqp_properties_read(raw, &got), 0);
    cr_assert(slice_eq(got.correlation_id, SLICE_LIT("7")));
    cr_assert_eq(got.reply_to.len, 38);
    snprintf(name, sizeof(name), "%.*s", (int)got.reply_to.len, (const char *)got.reply_to.data);
    client_read(&answers);
    declare(&answers, name, "p", SLICE_NONE);
    client_expect(&answers, 1, AMQP_ID_queue_declare_ok);
    client_publish(&answers, 1, "", name, NULL, 0, SLICE_LIT("answer"));
    client_flush(&answers);
    client_read_content(&asks, AMQP_ID_basic_deliver, &body, &redelivered);
    cr_assert(slice_eq(buf_slice(&body), SLICE_LIT("answer")));
    /* Gone with its channel: unroutable, and not to be declared. */
    amqp_put_channel_close(&asks.out, 1, &(struct amqp_channel_close){.reply_code = 200});
    client_expect(&asks, 1, AMQP_ID_channel_close_ok);
    declare(&answers, name, "p", SLICE_NONE);
    f = client_read(&answers);
    cr_assert_eq(f.id, AMQP_ID_channel_close);
    client_close(&asks);
    client_close(&answers);
    buf_fini(&body);
    buf_fini(&properties);
    rig_stop(r);
}

Test(amqp_session, held_partitions_delay_but_change_nothing, .timeout = 120)
{
    enum { QUEUES = 8, MESSAGES = 60 };
    struct rig *r = start();
    struct client p, c;
    char name[16];
    int next[QUEUES] = {0};
    uint64_t confirmed = 0;

    client_login(&p, rig_port(r));
    client_login(&c, rig_port(r));
    rig_disturb(r, 8000);
    for (int q = 0; q < QUEUES; q++) { /* over the partitions; exclusive ones go with their connection */
        snprintf(name, sizeof(name), "q%d", q);
        declare(&p, name, q % 2 == 0 ? "d" : "", SLICE_NONE);
        client_expect(&p, 1, AMQP_ID_queue_declare_ok);
        amqp_put_queue_bind(
            &p.out, 1,
            &(struct amqp_queue_bind){.queue = slice_str(name), .exchange = SLICE_LIT("amq.fanout")});
        client_expect(&p, 1, AMQP_ID_queue_bind_ok);
        amqp_put_basic_consume(
            &c.out, 1,
            &(struct amqp_basic_consume){.queue = slice_str(name), .consumer_tag = slice_str(name)});
        client_expect(&c, 1, AMQP_ID_basic_consume_ok);
    }
    amqp_put_confirm_select(&p.out, 1, &(struct amqp_confirm_select){false});
    client_expect(&p, 1, AMQP_ID_confirm_select_ok);
    for (int i = 0; i < MESSAGES; i++)
        client_publish(&p, 1, "amq.fanout", "", "\x10\x00\x02", 3, slice_of(&i, sizeof(i)));
    client_flush(&p);
    for (int i = 0; i < QUEUES * MESSAGES; i++) {
        struct frame f = client_expect(&c, 1, AMQP_ID_basic_deliver);
        struct amqp_basic_deliver d;
        uint64_t tag;
        int q, got;

        cr_assert_eq(amqp_get_basic_deliver(f.payload, &d), 0);
        q = d.consumer_tag.data[1] - '0';
        tag = d.delivery_tag;
        client_read(&c);
        memcpy(&got, client_read(&c).payload.data, sizeof(got));
        cr_assert_eq(got, next[q]++, "each queue in order");
        cr_assert_eq(tag, (uint64_t)i + 1);
        if (i % 3 == 0)
            amqp_put_basic_ack(&c.out, 1, &(struct amqp_basic_ack){tag, false});
    }
    while (confirmed < MESSAGES)
        confirmed = be64_get(client_expect(&p, 1, AMQP_ID_basic_ack).payload.data);
    amqp_put_basic_cancel(&c.out, 1, &(struct amqp_basic_cancel){SLICE_LIT("q3"), false});
    client_expect(&c, 1, AMQP_ID_basic_cancel_ok);
    amqp_put_channel_close(&c.out, 1, &(struct amqp_channel_close){.reply_code = 200});
    client_expect(&c, 1, AMQP_ID_channel_close_ok);
    for (int q = 0; q < QUEUES; q++) { /* a third was settled, the rest is there again, in order */
        int last = -1, n = 0;

        snprintf(name, sizeof(name), "q%d", q);
        for (;; n++) {
            struct frame f;
            int got;

            amqp_put_basic_get(&p.out, 1, &(struct amqp_basic_get){.queue = slice_str(name), .no_ack = true});
            f = client_read(&p);
            if (f.id == AMQP_ID_basic_get_empty)
                break;
            cr_assert_eq(f.id, AMQP_ID_basic_get_ok);
            client_read(&p);
            memcpy(&got, client_read(&p).payload.data, sizeof(got));
            cr_assert_gt(got, last);
            last = got;
        }
        next[q] = n;
    }
    for (int q = 1; q < QUEUES; q++)
        next[0] += next[q];
    cr_assert_eq(next[0], QUEUES * MESSAGES - (QUEUES * MESSAGES + 2) / 3);
    /* Connections that vanish while everything is held. */
    for (int i = 0; i < 10; i++) {
        client_publish(&p, 1, "amq.fanout", "", NULL, 0, SLICE_LIT("x"));
        client_flush(&p);
        client_close(&p);
        client_login(&p, rig_port(r));
    }
    rig_calm(r);
    cr_assert_gt(rig_parked(r), 0, "nothing had to wait");
    client_close(&p);
    client_close(&c);
    rig_stop(r);
}
