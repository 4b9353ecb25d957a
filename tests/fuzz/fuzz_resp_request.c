/* The request parser of RESP: whatever the fast path accepts the slow path must read the same way, byte for
 * byte, and cutting the input anywhere must only ever mean "more bytes are needed". */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "protocols/resp/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct request_limits limits = {.bulk_max = REQUEST_BULK_MAX, .args_max = REQUEST_ARGS_MAX};
    struct request_parser *fast_parser = request_parser_new(), *slow_parser = request_parser_new();
    struct request fast[REQUEST_BATCH], slow;
    size_t at = 0;
    int steps = 0;

    while (at < size && steps++ < 64) {
        struct request_scan whole = {0}, stepwise = {0};
        uint32_t n = request_parse_fast(fast_parser, data + at, size - at, fast);
        size_t end = at;
        struct slice key = SLICE_NONE;
        bool peeked = request_peek_key(data + at, size - at, &key);
        int got;

        /* Whatever it guesses lies within the input, and of what the fast path takes it guesses right. */
        CHECK(!peeked || (key.data >= data + at && key.data + key.len <= data + size));
        if (n > 0)
            CHECK(peeked == (fast[0].argc >= 2) && (!peeked || (key.data == fast[0].argv[1].data && key.len == fast[0].argv[1].len)));
        for (uint32_t i = 0; i < n; i++) {
            struct request_scan scan = {0};

            CHECK(request_parse_slow(slow_parser, &scan, &limits, data + end, size - end, &slow) == 1);
            CHECK(slow.size == fast[i].size && slow.argc == fast[i].argc);
            for (uint32_t a = 0; a < slow.argc; a++)
                CHECK(slice_eq(slow.argv[a], fast[i].argv[a]));
            end += slow.size;
        }
        got = request_parse_slow(slow_parser, &whole, &limits, data + at, size - at, &slow);
        if (got != 1) {
            CHECK(n == 0);
            CHECK(got == ERR_MORE ||
                  (got == ERR_MALFORMED && strncmp(request_error(slow_parser), "Protocol error: ", 16) == 0));
            break;
        }
        CHECK(slow.size > 0 && slow.size <= size - at);
        /* The same command arriving in pieces ends at the same byte. */
        for (size_t len = 1, step = 1 + slow.size / 64; len < slow.size; len += step)
            CHECK(request_parse_slow(slow_parser, &stepwise, &limits, data + at, len, &fast[0]) == ERR_MORE);
        CHECK(request_parse_slow(slow_parser, &stepwise, &limits, data + at, slow.size, &fast[0]) == 1);
        CHECK(fast[0].size == slow.size && fast[0].argc == slow.argc);
        at += slow.size;
    }
    request_parser_free(fast_parser);
    request_parser_free(slow_parser);
    return 0;
}
