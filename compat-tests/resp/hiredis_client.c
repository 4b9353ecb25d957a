/*
 * hiredis, unchanged, against the server: the blocking calls, pipelining by append/get, transactions,
 * subscription.
 */
#include <hiredis/hiredis.h>

#include "compat-tests/lib/compat.h"

static redisContext *open_client(const struct compat_target *t)
{
    struct timeval limit = {.tv_sec = 10};
    redisContext *c = redisConnectWithTimeout(t->host, t->port, limit);

    if (c == NULL || c->err)
        FAIL("connect: %s", c ? c->errstr : "no memory");
    redisSetTimeout(c, limit);
    return c;
}

static redisReply *need(redisContext *c, void *reply, int type)
{
    redisReply *r = (redisReply *)reply;

    if (r == NULL)
        FAIL("no reply: %s", c->errstr);
    if (r->type != type)
        FAIL("reply type %d (%s), expected %d", r->type, r->str ? r->str : "", type);
    return r;
}

static void expect_status(redisContext *c, void *reply, const char *text)
{
    redisReply *r = need(c, reply, REDIS_REPLY_STATUS);

    EXPECT_STR(r->str, text);
    freeReplyObject(r);
}

static void expect_int(redisContext *c, void *reply, long long n)
{
    redisReply *r = need(c, reply, REDIS_REPLY_INTEGER);

    EXPECT_INT(r->integer, n);
    freeReplyObject(r);
}

static void commands_one_by_one(const struct compat_target *t)
{
    redisContext *c = open_client(t);
    redisReply *r;
    const char blob[] = "a\0b\r\nc";

    expect_status(c, redisCommand(c, "FLUSHALL"), "OK");
    expect_status(c, redisCommand(c, "PING"), "PONG");
    expect_status(c, redisCommand(c, "SET %s %b", "blob", blob, sizeof(blob)), "OK");
    r = need(c, redisCommand(c, "GET blob"), REDIS_REPLY_STRING);
    EXPECT_INT(r->len, sizeof(blob));
    EXPECT(memcmp(r->str, blob, sizeof(blob)) == 0);
    freeReplyObject(r);
    freeReplyObject(need(c, redisCommand(c, "GET absent"), REDIS_REPLY_NIL));
    expect_int(c, redisCommand(c, "INCR n"), 1);
    expect_int(c, redisCommand(c, "HSET h f v g w"), 2);
    r = need(c, redisCommand(c, "HGETALL h"), REDIS_REPLY_ARRAY);
    EXPECT_INT(r->elements, 4);
    freeReplyObject(r);
    r = need(c, redisCommand(c, "INCR blob"), REDIS_REPLY_ERROR);
    EXPECT_STR(r->str, "ERR value is not an integer or out of range");
    freeReplyObject(r);
    expect_int(c, redisCommand(c, "DBSIZE"), 3);
    redisFree(c);
}

static void pipelined_commands(const struct compat_target *t)
{
    redisContext *c = open_client(t);
    enum { N = 10000 };

    expect_status(c, redisCommand(c, "FLUSHALL"), "OK");
    for (int i = 0; i < N; i++) {
        EXPECT_INT(redisAppendCommand(c, "SET key:%d %d", i, i), REDIS_OK);
        EXPECT_INT(redisAppendCommand(c, "GET key:%d", i), REDIS_OK);
    }
    for (int i = 0; i < N; i++) {
        void *reply = NULL;
        redisReply *r;

        EXPECT_INT(redisGetReply(c, &reply), REDIS_OK);
        expect_status(c, reply, "OK");
        EXPECT_INT(redisGetReply(c, &reply), REDIS_OK);
        r = need(c, reply, REDIS_REPLY_STRING);
        EXPECT_INT(atoi(r->str), i);
        freeReplyObject(r);
    }
    expect_int(c, redisCommand(c, "DBSIZE"), N);
    redisFree(c);
}

static void transaction(const struct compat_target *t)
{
    redisContext *c = open_client(t), *other = open_client(t);
    redisReply *r;

    expect_status(c, redisCommand(c, "FLUSHALL"), "OK");
    expect_status(c, redisCommand(c, "MULTI"), "OK");
    expect_status(c, redisCommand(c, "SET a 1"), "QUEUED");
    expect_status(c, redisCommand(c, "INCR b"), "QUEUED");
    expect_status(c, redisCommand(c, "LPUSH c x y"), "QUEUED");
    freeReplyObject(need(other, redisCommand(other, "GET a"), REDIS_REPLY_NIL));
    r = need(c, redisCommand(c, "EXEC"), REDIS_REPLY_ARRAY);
    EXPECT_INT(r->elements, 3);
    EXPECT_STR(r->element[0]->str, "OK");
    EXPECT_INT(r->element[1]->integer, 1);
    EXPECT_INT(r->element[2]->integer, 2);
    freeReplyObject(r);
    expect_status(c, redisCommand(c, "WATCH a"), "OK");
    expect_status(other, redisCommand(other, "SET a 2"), "OK");
    expect_status(c, redisCommand(c, "MULTI"), "OK");
    expect_status(c, redisCommand(c, "SET a 3"), "QUEUED");
    freeReplyObject(need(c, redisCommand(c, "EXEC"), REDIS_REPLY_NIL));
    redisFree(c);
    redisFree(other);
}

static void subscription(const struct compat_target *t)
{
    redisContext *c = open_client(t), *p = open_client(t);
    redisReply *r;
    void *reply = NULL;

    r = need(c, redisCommand(c, "SUBSCRIBE hiredis-news"), REDIS_REPLY_ARRAY);
    EXPECT_STR(r->element[0]->str, "subscribe");
    EXPECT_INT(r->element[2]->integer, 1);
    freeReplyObject(r);
    expect_int(p, redisCommand(p, "PUBLISH hiredis-news hello"), 1);
    EXPECT_INT(redisGetReply(c, &reply), REDIS_OK);
    r = need(c, reply, REDIS_REPLY_ARRAY);
    EXPECT_STR(r->element[0]->str, "message");
    EXPECT_STR(r->element[2]->str, "hello");
    freeReplyObject(r);
    redisFree(c);
    redisFree(p);
}

static void big_values(const struct compat_target *t)
{
    redisContext *c = open_client(t);
    size_t len = 8u << 20;
    char *value = malloc(len);
    redisReply *r;

    EXPECT(value != NULL);
    for (size_t i = 0; i < len; i++)
        value[i] = (char)(i * 2654435761u >> 13);
    expect_status(c, redisCommand(c, "SET big %b", value, len), "OK");
    r = need(c, redisCommand(c, "GET big"), REDIS_REPLY_STRING);
    EXPECT_INT(r->len, len);
    EXPECT(memcmp(r->str, value, len) == 0);
    freeReplyObject(r);
    expect_int(c, redisCommand(c, "DEL big"), 1);
    free(value);
    redisFree(c);
}

static const struct compat_test tests[] = {
    {"commands_one_by_one", commands_one_by_one},
    {"pipelined_commands", pipelined_commands},
    {"transaction", transaction},
    {"subscription", subscription},
    {"big_values", big_values},
};

COMPAT_MAIN("resp/hiredis", tests)
