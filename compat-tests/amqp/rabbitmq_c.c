/*
 * rabbitmq-c, unchanged, against the server: login, declare, publish with confirms, consume, get, exceptions.
 */
#include <sys/time.h>

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif

#include "compat-tests/lib/compat.h"

static void need_ok(amqp_rpc_reply_t r, const char *what)
{
    if (r.reply_type == AMQP_RESPONSE_NORMAL)
        return;
    if (r.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && r.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
        amqp_channel_close_t *m = r.reply.decoded;

        FAIL("%s: %d %.*s", what, m->reply_code, (int)m->reply_text.len, (char *)m->reply_text.bytes);
    }
    if (r.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && r.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
        amqp_connection_close_t *m = r.reply.decoded;

        FAIL("%s: %d %.*s", what, m->reply_code, (int)m->reply_text.len, (char *)m->reply_text.bytes);
    }
    FAIL("%s: %s", what, amqp_error_string2(r.library_error));
}

static amqp_connection_state_t open_connection(const struct compat_target *t)
{
    amqp_connection_state_t c = amqp_new_connection();
    amqp_socket_t *s = amqp_tcp_socket_new(c);

    EXPECT_INT(amqp_socket_open(s, t->host, t->port), 0);
    need_ok(amqp_login(c, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login");
    amqp_channel_open(c, 1);
    need_ok(amqp_get_rpc_reply(c), "channel.open");
    return c;
}

static void close_connection(amqp_connection_state_t c)
{
    need_ok(amqp_channel_close(c, 1, AMQP_REPLY_SUCCESS), "channel.close");
    need_ok(amqp_connection_close(c, AMQP_REPLY_SUCCESS), "connection.close");
    EXPECT_INT(amqp_destroy_connection(c), AMQP_STATUS_OK);
}

/* A queue with a name from the server; the name is the caller's to free with amqp_bytes_free. */
static amqp_bytes_t own_queue(amqp_connection_state_t c)
{
    amqp_queue_declare_ok_t *ok = amqp_queue_declare(c, 1, amqp_empty_bytes, 0, 0, 1, 1, amqp_empty_table);

    need_ok(amqp_get_rpc_reply(c), "queue.declare");
    return amqp_bytes_malloc_dup(ok->queue);
}

static void get_one(const struct compat_target *t)
{
    amqp_connection_state_t c = open_connection(t);
    amqp_bytes_t q = own_queue(c);
    amqp_rpc_reply_t r;
    amqp_message_t m;
    amqp_basic_properties_t p = {._flags = AMQP_BASIC_CONTENT_TYPE_FLAG,
                                 .content_type = amqp_cstring_bytes("text/plain")};

    r = amqp_basic_get(c, 1, q, 1);
    need_ok(r, "basic.get");
    EXPECT_INT(r.reply.id, AMQP_BASIC_GET_EMPTY_METHOD);
    EXPECT_INT(amqp_basic_publish(c, 1, amqp_empty_bytes, q, 0, 0, &p, amqp_cstring_bytes("hello")), 0);
    for (int i = 0; i < 500; i++) {
        r = amqp_basic_get(c, 1, q, 1);
        need_ok(r, "basic.get");
        if (r.reply.id == AMQP_BASIC_GET_OK_METHOD)
            break;
        usleep(2000);
    }
    EXPECT_INT(r.reply.id, AMQP_BASIC_GET_OK_METHOD);
    need_ok(amqp_read_message(c, 1, &m, 0), "read");
    EXPECT_INT(m.body.len, 5);
    EXPECT(memcmp(m.body.bytes, "hello", 5) == 0);
    EXPECT_INT(m.properties.content_type.len, 10);
    amqp_destroy_message(&m);
    amqp_bytes_free(q);
    close_connection(c);
}

static void confirms_come_for_each(const struct compat_target *t)
{
    amqp_connection_state_t c = open_connection(t);
    amqp_bytes_t q = own_queue(c);
    amqp_basic_properties_t p = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};
    uint64_t confirmed = 0;
    enum { N = 500 };

    amqp_confirm_select(c, 1);
    need_ok(amqp_get_rpc_reply(c), "confirm.select");
    for (int i = 0; i < N; i++)
        EXPECT_INT(amqp_basic_publish(c, 1, amqp_empty_bytes, q, 0, 0, &p, amqp_cstring_bytes("x")), 0);
    while (confirmed < N) {
        struct timeval limit = {.tv_sec = 10};
        amqp_frame_t f;
        amqp_basic_ack_t *ack;

        EXPECT_INT(amqp_simple_wait_frame_noblock(c, &f, &limit), AMQP_STATUS_OK);
        EXPECT_INT(f.frame_type, AMQP_FRAME_METHOD);
        EXPECT_INT(f.payload.method.id, AMQP_BASIC_ACK_METHOD);
        ack = f.payload.method.decoded;
        EXPECT(ack->delivery_tag <= N);
        confirmed = ack->multiple ? ack->delivery_tag : confirmed + 1;
        amqp_maybe_release_buffers(c);
    }
    amqp_bytes_free(q);
    close_connection(c);
}

static void consume_and_ack(const struct compat_target *t)
{
    amqp_connection_state_t c = open_connection(t);
    amqp_bytes_t q = own_queue(c);
    enum { N = 2000 };

    for (int i = 0; i < N; i++) {
        char body[32];

        snprintf(body, sizeof(body), "%d", i);
        EXPECT_INT(amqp_basic_publish(c, 1, amqp_empty_bytes, q, 0, 0, NULL, amqp_cstring_bytes(body)), 0);
    }
    amqp_basic_qos(c, 1, 0, 100, 0);
    need_ok(amqp_get_rpc_reply(c), "basic.qos");
    amqp_basic_consume(c, 1, q, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    need_ok(amqp_get_rpc_reply(c), "basic.consume");
    for (int i = 0; i < N; i++) {
        amqp_envelope_t e;
        struct timeval limit = {.tv_sec = 10};
        char body[32];

        amqp_maybe_release_buffers(c);
        need_ok(amqp_consume_message(c, &e, &limit, 0), "deliver");
        snprintf(body, sizeof(body), "%.*s", (int)e.message.body.len, (char *)e.message.body.bytes);
        EXPECT_INT(atoi(body), i);
        EXPECT_INT(e.delivery_tag, i + 1);
        if (i % 10 == 9)
            EXPECT_INT(amqp_basic_ack(c, 1, e.delivery_tag, 1), 0);
        amqp_destroy_envelope(&e);
    }
    amqp_bytes_free(q);
    close_connection(c);
}

static void exception_closes_the_channel_only(const struct compat_target *t)
{
    amqp_connection_state_t c = open_connection(t);
    amqp_rpc_reply_t r;
    amqp_channel_close_t *m;
    char text[256];

    amqp_queue_declare(c, 1, amqp_cstring_bytes("rabbitmq-c-absent"), 1, 0, 0, 0, amqp_empty_table);
    r = amqp_get_rpc_reply(c);
    EXPECT_INT(r.reply_type, AMQP_RESPONSE_SERVER_EXCEPTION);
    EXPECT_INT(r.reply.id, AMQP_CHANNEL_CLOSE_METHOD);
    m = r.reply.decoded;
    snprintf(text, sizeof(text), "%.*s", (int)m->reply_text.len, (char *)m->reply_text.bytes);
    EXPECT_INT(m->reply_code, 404);
    EXPECT_STR(text, "NOT_FOUND - no queue 'rabbitmq-c-absent' in vhost '/'");
    EXPECT_INT(m->class_id, 50);
    EXPECT_INT(m->method_id, 10);
    {
        amqp_channel_close_ok_t ok;

        memset(&ok, 0, sizeof(ok));
        EXPECT_INT(amqp_send_method(c, 1, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok), 0);
    }
    /* The number may be used again at once. */
    amqp_channel_open(c, 1);
    need_ok(amqp_get_rpc_reply(c), "channel.open");
    close_connection(c);
}

static void wrong_password(const struct compat_target *t)
{
    amqp_connection_state_t c = amqp_new_connection();
    amqp_socket_t *s = amqp_tcp_socket_new(c);
    amqp_rpc_reply_t r;
    amqp_connection_close_t *m;

    EXPECT_INT(amqp_socket_open(s, t->host, t->port), 0);
    r = amqp_login(c, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "wrong");
    EXPECT_INT(r.reply_type, AMQP_RESPONSE_SERVER_EXCEPTION);
    EXPECT_INT(r.reply.id, AMQP_CONNECTION_CLOSE_METHOD);
    m = r.reply.decoded;
    EXPECT_INT(m->reply_code, 403);
    amqp_destroy_connection(c);
}

static const struct compat_test tests[] = {
    {"get_one", get_one},
    {"confirms_come_for_each", confirms_come_for_each},
    {"consume_and_ack", consume_and_ack},
    {"exception_closes_the_channel_only", exception_closes_the_channel_only},
    {"wrong_password", wrong_password},
};

COMPAT_MAIN("amqp/rabbitmq_c", tests)
