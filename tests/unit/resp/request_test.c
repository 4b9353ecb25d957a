/* The request parser: both paths, every limit with Redis' words, and their agreement. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "protocols/resp/request.h"

static const struct request_limits limits = {.bulk_max = REQUEST_BULK_MAX, .args_max = REQUEST_ARGS_MAX};

static int slow(const char *text, size_t len, struct request *r, struct request_parser *p)
{
    struct request_scan scan = {0};

    return request_parse_slow(p, &scan, &limits, (const uint8_t *)text, len, r);
}

Test(request, fast_path_reads_a_pipeline_in_place)
{
    const char *text = "*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n*2\r\n$3\r\nGET\r\n$1";
    struct request_parser *p = request_parser_new();
    struct request r[REQUEST_BATCH];
    uint32_t n = request_parse_fast(p, (const uint8_t *)text, strlen(text), r);

    cr_assert_eq(n, 2);
    cr_assert_eq(r[0].argc, 1);
    cr_assert_eq(r[0].size, 14);
    cr_assert_eq(r[1].argc, 3);
    cr_assert(slice_eq(r[1].argv[1], SLICE_LIT("k")));
    cr_assert_eq(r[1].argv[2].len, 0);
    cr_assert_eq((const char *)r[1].argv[0].data, text + 14 + 8);
    request_parser_free(p);
}

Test(request, the_key_of_a_first_command_is_peeked_at_when_it_is_whole)
{
    const char *text = "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nva";
    size_t whole = (size_t)(strchr(text, 'k') + 5 - text);
    struct slice key;

    for (size_t n = 0; n <= strlen(text); n++)
        cr_assert_eq(request_peek_key((const uint8_t *)text, n, &key), n >= whole, "%zu bytes", n);
    cr_assert_eq((const char *)key.data, strchr(text, 'k'));
    cr_assert_eq(key.len, 3);
    cr_assert_not(request_peek_key((const uint8_t *)"*1\r\n$4\r\nPING\r\n", 14, &key));
    cr_assert_not(request_peek_key((const uint8_t *)"GET key\r\n", 9, &key));
}

Test(request, slow_path_resumes_wherever_the_bytes_were_cut)
{
    char text[3000];
    int len = snprintf(text, sizeof(text), "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$2048\r\n");
    struct request_parser *p = request_parser_new();
    struct request_scan scan = {0};
    struct request r;

    memset(text + len, 'v', 2048);
    memcpy(text + len + 2048, "\r\n", 2);
    len += 2050;
    for (int i = 0; i < len; i++)
        cr_assert_eq(request_parse_slow(p, &scan, &limits, (uint8_t *)text, (size_t)i, &r), ERR_MORE, "at %d",
                     i);
    cr_assert_eq(request_parse_slow(p, &scan, &limits, (uint8_t *)text, (size_t)len, &r), 1);
    cr_assert_eq(r.argc, 3);
    cr_assert_eq(r.size, (uint32_t)len);
    cr_assert_eq(r.argv[2].len, 2048);
    cr_assert_eq(scan.at, 0);
    request_parser_free(p);
}

Test(request, hostile_input_is_refused_with_the_words_of_redis)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"*3000000000\r\n", "Protocol error: invalid multibulk length"},
        {"*x\r\n", "Protocol error: invalid multibulk length"},
        {"*\r\n", "Protocol error: invalid multibulk length"},
        {"*99999999999999999999\r\n", "Protocol error: invalid multibulk length"},
        {"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$-10\r\n", "Protocol error: invalid bulk length"},
        {"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$2000000000\r\n", "Protocol error: invalid bulk length"},
        {"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$9223372036854775807\r\n", "Protocol error: invalid bulk length"},
        {"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$blabla\r\n", "Protocol error: invalid bulk length"},
        {"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n", "Protocol error: expected '$', got 'f'"},
        {"*1\r\n*1\r\n$1\r\nx\r\n", "Protocol error: expected '$', got '*'"},
        {"set \"\"\"test-key\"\"\" test-value\r\n", "Protocol error: unbalanced quotes in request"},
        {"get 'abc\r\n", "Protocol error: unbalanced quotes in request"},
    };
    struct request_parser *p = request_parser_new();
    struct request r;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cr_assert_eq(slow(cases[i].text, strlen(cases[i].text), &r, p), ERR_MALFORMED, "%s", cases[i].text);
        cr_assert_str_eq(request_error(p), cases[i].words);
    }
    request_parser_free(p);
}

Test(request, endless_lines_are_refused_at_64_KiB)
{
    static char text[REQUEST_INLINE_MAX + 64];
    struct request_parser *p = request_parser_new();
    struct request r;

    memset(text, 'a', sizeof(text));
    cr_assert_eq(slow(text, REQUEST_INLINE_MAX, &r, p), ERR_MORE);
    cr_assert_eq(slow(text, sizeof(text), &r, p), ERR_MALFORMED);
    cr_assert_str_eq(request_error(p), "Protocol error: too big inline request");
    text[0] = '*';
    cr_assert_eq(slow(text, sizeof(text), &r, p), ERR_MALFORMED);
    cr_assert_str_eq(request_error(p), "Protocol error: too big mbulk count string");
    memcpy(text, "*1\r\n$", 5);
    cr_assert_eq(slow(text, sizeof(text), &r, p), ERR_MALFORMED);
    cr_assert_str_eq(request_error(p), "Protocol error: too big bulk count string");
    request_parser_free(p);
}

Test(request, strangers_without_a_password_get_smaller_limits)
{
    const struct request_limits strict = {
        .bulk_max = REQUEST_BULK_MAX, .args_max = REQUEST_ARGS_MAX, .unauthenticated = true};
    struct request_parser *p = request_parser_new();
    struct request_scan scan = {0};
    struct request r;
    const char *count = "*100\r\n", *bulk = "*1\r\n$100000\r\n";

    cr_assert_eq(request_parse_slow(p, &scan, &strict, (const uint8_t *)count, 6, &r), ERR_MALFORMED);
    cr_assert_str_eq(request_error(p), "Protocol error: unauthenticated multibulk length");
    cr_assert_eq(request_parse_slow(p, &scan, &strict, (const uint8_t *)bulk, strlen(bulk), &r),
                 ERR_MALFORMED);
    cr_assert_str_eq(request_error(p), "Protocol error: unauthenticated bulk length");
    request_parser_free(p);
}

Test(request, inline_commands_follow_the_quoting_of_sdssplitargs)
{
    static const struct {
        const char *line;
        int argc;
        const char *last;
        size_t last_len;
    } cases[] = {
        {"PING", 1, "PING", 4},
        {"  set  a   b  ", 3, "b", 1},
        {"set a \"x\\ny\\x41\\\"\"", 3, "x\nyA\"", 5},
        {"set a 'it\\'s'", 3, "it's", 4},
        {"set a \"\"", 3, "", 0},
        {"set a foo\"bar\"", 3, "foobar", 6},
        {"\"unclosed", -1, NULL, 0},
        {"\"a\"b", -1, NULL, 0},
        {"", 0, NULL, 0},
    };
    uint8_t text[64];
    struct slice argv[8];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int n = request_split_inline((const uint8_t *)cases[i].line, strlen(cases[i].line), text, argv, 8);

        cr_assert_eq(n, cases[i].argc, "%s: %d", cases[i].line, n);
        if (n > 0)
            cr_assert(slice_eq(argv[n - 1], slice_of(cases[i].last, cases[i].last_len)), "%s", cases[i].line);
    }
    cr_assert_eq(request_split_inline((const uint8_t *)"a b c", 5, text, argv, 2), -2);
}

Test(request, empty_commands_have_no_arguments)
{
    struct request_parser *p = request_parser_new();
    struct request r;

    cr_assert_eq(slow("\r\n", 2, &r, p), 1);
    cr_assert_eq(r.argc, 0);
    cr_assert_eq(r.size, 2);
    cr_assert_eq(slow("*0\r\nx", 5, &r, p), 1);
    cr_assert_eq(r.argc, 0);
    cr_assert_eq(r.size, 4);
    cr_assert_eq(slow("*-1\r\n", 5, &r, p), 1);
    cr_assert_eq(r.size, 5);
    request_parser_free(p);
}

Test(request, strangers_are_known_by_their_first_bytes)
{
    cr_assert_eq(request_stranger((const uint8_t *)"\x16\x03\x01\x02\x00", 5), STRANGER_TLS);
    cr_assert_eq(request_stranger((const uint8_t *)"AMQP\x00\x00\x09\x01", 8), STRANGER_AMQP);
    cr_assert_eq(request_stranger((const uint8_t *)"\0\0\0\x0e\0\x12\0\0", 8), STRANGER_KAFKA);
    cr_assert_eq(request_stranger((const uint8_t *)"APPEND a", 8), STRANGER_NONE);
}
