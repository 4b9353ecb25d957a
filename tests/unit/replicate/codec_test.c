#include <criterion/criterion.h>
#include <string.h>

#include "base/err.h"
#include "base/rand.h"
#include "cluster/replicate/codec.h"

Test(codec, a_request_comes_back_as_it_was_put)
{
    struct buf b = {0};
    struct fetch_request q = {.session = 0x1122334455667788, .wait_ms = 500, .max_bytes = 1 << 20, .parts = 1}, got;
    struct fetch_position p = {.key = {7, LOG_TOPIC, 3, UINT64_C(1) << 40}, .end = INT64_C(1) << 50, .durable = 5, .epoch = -1}, gotp;
    struct reader r;
    uint32_t partition;
    unsigned flags;
    int32_t epoch;

    fetch_request_put(&b, &q);
    fetch_part_put(&b, 16383, FETCH_SUBSCRIBE, 42);
    fetch_position_put(&b, &p);
    r = reader_of(buf_slice(&b));
    cr_assert_eq(fetch_request_get(&r, &got), 0);
    cr_assert(got.session == q.session && got.wait_ms == 500 && got.max_bytes == 1 << 20 && got.parts == 1);
    cr_assert_eq(fetch_part_get(&r, &partition, &flags, &epoch), 0);
    cr_assert(partition == 16383 && flags == FETCH_SUBSCRIBE && epoch == 42);
    cr_assert_eq(fetch_position_get(&r, &gotp), 0);
    cr_assert(gotp.key.partition == 7 && gotp.key.kind == LOG_TOPIC && gotp.key.index == 3 && gotp.key.id == p.key.id);
    cr_assert(gotp.end == p.end && gotp.durable == 5 && gotp.epoch == -1);
    cr_assert_eq(reader_left(&r), 0);
    buf_fini(&b);
}

Test(codec, an_answer_comes_back_as_it_was_put)
{
    struct buf b = {0};
    struct fetch_log data = {.key = {1, LOG_MAIN, 0, 1}, .epoch = 9, .status = FETCH_DATA, .start = 3, .hw = 4};
    struct fetch_log diverged = {.key = {2, LOG_QUEUE, 0, 77}, .epoch = 9, .status = FETCH_DIVERGED, .diverged_epoch = 8, .end = 100}, got;
    struct fetch_answer a = {.session = 5, .parts = 1}, gota;
    struct reader r;
    uint32_t partition;
    enum fetch_verdict verdict;
    int32_t epoch;

    fetch_answer_put(&b, &a);
    fetch_verdict_put(&b, 3, FETCH_AHEAD, 11);
    fetch_log_put(&b, &data);
    buf_put_lslice(&b, SLICE_LIT("batches"));
    fetch_log_put(&b, &diverged);
    r = reader_of(buf_slice(&b));
    cr_assert_eq(fetch_answer_get(&r, &gota), 0);
    cr_assert(gota.session == 5 && !gota.unknown_session && gota.parts == 1);
    cr_assert_eq(fetch_verdict_get(&r, &partition, &verdict, &epoch), 0);
    cr_assert(partition == 3 && verdict == FETCH_AHEAD && epoch == 11);
    cr_assert_eq(fetch_log_get(&r, &got), 0);
    cr_assert(got.status == FETCH_DATA && got.start == 3 && got.hw == 4 && slice_eq(got.data, SLICE_LIT("batches")));
    cr_assert_eq(fetch_log_get(&r, &got), 0);
    cr_assert(got.status == FETCH_DIVERGED && got.diverged_epoch == 8 && got.end == 100 && got.key.id == 77);
    buf_fini(&b);
}

Test(codec, garbage_is_refused_and_never_read_beyond_its_end)
{
    struct rand rnd;
    uint8_t bytes[64];

    rand_seed(&rnd, 1);
    for (int i = 0; i < 200000; i++) {
        size_t n = rand_below(&rnd, sizeof(bytes)), steps = 0;
        struct reader r;
        struct fetch_request q;
        struct fetch_answer a;
        struct fetch_log l;
        struct fetch_position p;
        struct log_end_entry e;

        for (size_t k = 0; k < n; k++)
            bytes[k] = (uint8_t)rand_below(&rnd, 256);
        if (n > 0)
            bytes[0] = FETCH_VERSION;
        r = reader_of(slice_of(bytes, n));
        if (fetch_request_get(&r, &q) == 0) {
            while (reader_left(&r) > 0 && fetch_position_get(&r, &p) == 0) {
                cr_assert(p.end >= 0 && p.durable >= 0 && p.epoch >= -1 && p.key.kind <= LOG_TOPIC);
                cr_assert_lt(steps++, sizeof(bytes));
            }
        }
        r = reader_of(slice_of(bytes, n));
        if (fetch_answer_get(&r, &a) == 0) {
            while (reader_left(&r) > 0 && fetch_log_get(&r, &l) == 0)
                cr_assert(l.start >= 0 && l.hw >= 0 && l.data.len <= n);
        }
        r = reader_of(slice_of(bytes, n));
        while (reader_left(&r) > 0 && log_end_get(&r, 1, &e) == 0)
            cr_assert(e.end >= 0 && e.start >= 0);
    }
}
