/* Topic partitions over a real log: produce, repeats, restarts, retention, deletion, waiters. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/hash.h"
#include "fake_workers.h"
#include "rig.h"
#include "stream/stream.h"

static struct rig r;
static struct stream_table *t;
static const struct stream_rules rules = {.max_batch_bytes = 1u << 20, .timestamp_after_max_ms = INT64_MAX};

static void open_table(void)
{
    t = stream_table_new(
        &(struct stream_table_options){.store = r.s, .workers = fake_workers(), .data_dir = r.dir});
}

static void begin(void)
{
    uint8_t zero[16] = {0};

    hash_seed(zero);
    rig_init(&r);
    open_table();
}

static void restart(void)
{
    stream_table_free(t);
    rig_close(&r);
    rig_open(&r);
    open_table();
}

static void end(void)
{
    stream_table_free(t);
    rig_fini(&r);
}

static struct stream *open_stream(uint64_t id, const char *topic, uint32_t index)
{
    struct stream_place place = {.topic_id = id, .topic = slice_str(topic), .index = index, .partition = 3};
    struct stream *s;

    cr_assert_eq(stream_open(t, &place, &s), 0);
    return s;
}

/* One batch of n records. */
static struct slice batch(unsigned n, int64_t timestamp, int64_t producer, int32_t sequence,
                          size_t value_size)
{
    static char value[100000];

    batch_begin(&r.b, timestamp);
    if (producer >= 0)
        batch_set_producer(&r.b, producer, 0, sequence);
    for (unsigned i = 0; i < n; i++)
        batch_add(&r.b, timestamp, SLICE_NONE, slice_of(value, value_size));
    return batch_finish(&r.b);
}

static int produce_at(struct stream *s, struct slice b, int64_t now, struct stream_appended *ret)
{
    struct batch_header h;
    const char *why;

    cr_assert_eq(stream_check((uint8_t *)(uintptr_t)b.data, b.len, &rules, now, &h, &why), STREAM_OK, "%s",
                 why);
    return stream_append(s, (uint8_t *)(uintptr_t)b.data, &h, now, NULL, ret);
}

static int produce(struct stream *s, struct slice b, struct stream_appended *ret)
{
    return produce_at(s, b, 1000, ret);
}

Test(stream, batches_get_offsets_in_order)
{
    struct stream_appended a;
    struct stream *s;

    begin();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(produce(s, batch(3, 1000, -1, -1, 10), &a), 0);
    cr_assert_eq(a.base, 0);
    cr_assert_eq(a.next, 3);
    cr_assert_eq(produce(s, batch(2, 1000, -1, -1, 10), &a), 0);
    cr_assert_eq(a.base, 3);
    cr_assert_eq(stream_high_watermark(s), 5);
    cr_assert_eq(a.append_time, -1);
    stream_unref(s);
    end();
}

Test(stream, checks_name_what_is_wrong)
{
    struct batch_header h;
    struct stream_rules small = {.max_batch_bytes = 100, .timestamp_after_max_ms = INT64_MAX},
                        soon = {.max_batch_bytes = 1u << 20, .timestamp_after_max_ms = 10};
    uint8_t bytes[4096];
    const char *why;
    struct slice b;

    begin();
    b = batch(3, 1000, 5, 0, 10);
#define CHECKED(data, len, rule) stream_check(data, len, rule, 1000, &h, &why)
#define FRESH() memcpy(bytes, b.data, b.len)
    FRESH();
    cr_assert_eq(CHECKED(bytes, b.len, &rules), STREAM_OK);
    cr_assert_eq(CHECKED(bytes, 10, &rules), STREAM_FAULT_INVALID);
    cr_assert_eq(CHECKED(bytes, 40, &rules), STREAM_FAULT_CORRUPT);
    cr_assert_eq(CHECKED(bytes, b.len - 1, &rules), STREAM_FAULT_CORRUPT);
    cr_assert_eq(CHECKED(bytes, b.len + 1, &rules), STREAM_FAULT_INVALID);
    cr_assert_eq(CHECKED(bytes, b.len, &small), STREAM_FAULT_TOO_LARGE);
    bytes[16] = 1;
    cr_assert_eq(CHECKED(bytes, b.len, &rules), STREAM_FAULT_FORMAT);
    FRESH();
    bytes[b.len - 1] ^= 1;
    cr_assert_eq(CHECKED(bytes, b.len, &rules), STREAM_FAULT_CORRUPT);
    FRESH();
    bytes[7] = 1;
    cr_assert_eq(CHECKED(bytes, b.len, &rules), STREAM_FAULT_INVALID, "the base offset is ours to give");
    b = batch(3, 1011, 5, 0, 10);
    FRESH();
    cr_assert_eq(CHECKED(bytes, b.len, &soon), STREAM_FAULT_TIMESTAMP);
    b = batch(3, 1000, 5, -1, 10);
    FRESH();
    cr_assert_eq(CHECKED(bytes, b.len, &rules), STREAM_FAULT_INVALID, "a producer without a sequence");
    end();
}

Test(stream, append_time_is_stamped_and_the_batch_stays_whole)
{
    struct stream_rules stamp = {
        .max_batch_bytes = 1u << 20, .log_append_time = true, .timestamp_after_max_ms = INT64_MAX};
    struct batch_header h, again;
    struct stream_appended a;
    struct stream *s;
    const char *why;
    struct slice b;

    begin();
    s = open_stream(1, "stamped", 0);
    b = batch(3, 50, -1, -1, 10);
    cr_assert_eq(stream_check((uint8_t *)(uintptr_t)b.data, b.len, &stamp, 123456, &h, &why), STREAM_OK);
    cr_assert_eq(stream_append(s, (uint8_t *)(uintptr_t)b.data, &h, 123456, NULL, &a), 0);
    cr_assert_eq(a.append_time, 123456);
    cr_assert_eq(batch_header_read(b.data, b.len, &again), 0);
    cr_assert_eq(again.max_timestamp, 123456);
    cr_assert(again.attributes & BATCH_ATTR_LOG_APPEND_TIME);
    cr_assert(batch_crc_ok(b.data, &again));
    stream_unref(s);
    end();
}

Test(stream, repeats_get_the_first_offset)
{
    struct stream_appended a;
    struct stream *s;

    begin();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(produce(s, batch(3, 1000, 42, 0, 10), &a), 0);
    cr_assert_eq(produce(s, batch(2, 1000, 42, 3, 10), &a), 0);
    cr_assert_eq(produce(s, batch(3, 1000, 42, 0, 10), &a), 0);
    cr_assert(a.duplicate);
    cr_assert_eq(a.base, 0);
    cr_assert_eq(stream_high_watermark(s), 5, "nothing was appended");
    cr_assert_eq(produce(s, batch(1, 1000, 42, 9, 10), &a), ERR_OUT_OF_ORDER);
    stream_unref(s);
    end();
}

Test(stream, producers_are_known_after_a_restart)
{
    struct stream_appended a;
    struct stream *s;

    begin();
    s = open_stream(1, "orders", 0);
    for (int i = 0; i < 10; i++)
        cr_assert_eq(produce(s, batch(2, 1000, 42, i * 2, 10), &a), 0);
    stream_unref(s);
    restart();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(stream_producer_count(s), 1);
    cr_assert_eq(produce(s, batch(2, 1000, 42, 18, 10), &a), 0);
    cr_assert(a.duplicate);
    cr_assert_eq(a.base, 18);
    cr_assert_eq(produce(s, batch(1, 1000, 42, 20, 10), &a), 0);
    stream_unref(s);
    end();
}

/* Without the snapshot, as after a crash, the headers tell. */
Test(stream, producers_are_rebuilt_from_the_headers)
{
    struct stream_appended a;
    struct stream *s;
    char path[256];

    begin();
    s = open_stream(1, "orders", 0);
    for (int i = 0; i < 10; i++)
        cr_assert_eq(produce(s, batch(2, 1000, 40 + i % 2, i / 2 * 2, 10), &a), 0);
    stream_unref(s);
    stream_table_free(t);
    rig_close(&r);
    snprintf(path, sizeof(path), "%s/p-0003/topic/orders-0/producers", r.dir);
    cr_assert_eq(unlink(path), 0, "the snapshot was written at the clean stop");
    rig_open(&r);
    open_table();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(stream_producer_count(s), 2);
    cr_assert_eq(produce(s, batch(2, 1000, 41, 8, 10), &a), 0);
    cr_assert(a.duplicate);
    cr_assert_eq(a.base, 18);
    stream_unref(s);
    end();
}

Test(stream, a_snapshot_beyond_the_end_does_not_count)
{
    struct stream_appended a;
    struct stream *s;

    begin();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(produce(s, batch(5, 1000, 42, 0, 10), &a), 0);
    cr_assert_eq(produce(s, batch(5, 1000, 42, 5, 10), &a), 0);
    stream_unref(s);
    restart(); /* the snapshot says 10 */
    s = open_stream(1, "orders", 0);
    cr_assert_eq(log_truncate(stream_log(s), 5), 0);
    stream_unref(s);
    restart();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(produce(s, batch(5, 1000, 42, 5, 10), &a), 0);
    cr_assert_not(a.duplicate, "what was cut off is not there");
    cr_assert_eq(a.base, 5);
    stream_unref(s);
    end();
}

Test(stream, offsets_by_time)
{
    struct stream_appended a;
    int64_t offset, timestamp;
    struct stream *s;

    begin();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(stream_find_time(s, 0, &offset, &timestamp), ERR_NOT_FOUND);
    cr_assert_eq(stream_find_max_time(s, &offset, &timestamp), ERR_NOT_FOUND);
    for (int i = 0; i < 10; i++)
        cr_assert_eq(produce(s, batch(2, 1000 + i * 100, -1, -1, 10), &a), 0);
    cr_assert_eq(stream_find_time(s, 0, &offset, &timestamp), 0);
    cr_assert_eq(offset, 0);
    cr_assert_eq(stream_find_time(s, 1301, &offset, &timestamp), 0);
    cr_assert_eq(offset, 8);
    cr_assert_eq(timestamp, 1400);
    cr_assert_eq(stream_find_time(s, 5000, &offset, &timestamp), ERR_NOT_FOUND);
    cr_assert_eq(stream_find_max_time(s, &offset, &timestamp), 0);
    cr_assert_eq(timestamp, 1900);
    cr_assert_eq(offset, 18);
    stream_unref(s);
    end();
}

Test(stream, deleted_records_are_gone)
{
    struct stream_appended a;
    int64_t start;
    struct stream *s;

    begin();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(produce(s, batch(10, 1000, -1, -1, 10), &a), 0);
    cr_assert_eq(stream_delete_records(s, 11, &start), ERR_OFFSET_RANGE);
    cr_assert_eq(stream_delete_records(s, 4, &start), 0);
    cr_assert_eq(start, 4);
    cr_assert_eq(stream_delete_records(s, 2, &start), 0, "already gone");
    cr_assert_eq(start, 4);
    cr_assert_eq(stream_delete_records(s, -1, &start), 0);
    cr_assert_eq(start, 10);
    stream_unref(s);
    restart();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(stream_start(s), 10);
    stream_unref(s);
    end();
}

Test(stream, retention_by_size_and_age)
{
    struct stream_retention size = {.max_age_ms = -1, .max_bytes = 2u << 20},
                            age = {.max_age_ms = 1000, .max_bytes = -1};
    struct stream_appended a;
    struct stream *s;

    begin(); /* segments of 1 MiB */
    s = open_stream(1, "orders", 0);
    for (int i = 0; i < 60; i++)
        cr_assert_eq(produce_at(s, batch(1, 1000 + i, -1, -1, 90000), 2000, &a), 0);
    cr_assert_gt(stream_retain(s, &size, 2000), 0);
    cr_assert_gt(stream_start(s), 0);
    cr_assert_geq(log_bytes(stream_log(s)), 2u << 20);
    cr_assert_lt(log_bytes(stream_log(s)), 4u << 20);
    cr_assert_eq(stream_retain(s, &size, 2000), 0);
    cr_assert_eq(stream_retain(s, &age, 2000), 0, "nothing is older than a second");
    cr_assert_gt(stream_retain(s, &age, 5000), 0);
    cr_assert_eq(stream_start(s), 60, "all of it is");
    cr_assert_eq(produce(s, batch(1, 6000, -1, -1, 10), &a), 0);
    cr_assert_eq(a.base, 60);
    stream_unref(s);
    end();
}

static unsigned news;

static void on_news(struct stream_waiter *w)
{
    (void)w;
    news++;
}

Test(stream, waiters_hear_of_appends_and_of_the_end)
{
    struct stream_waiter w = {.notify = on_news};
    struct stream_place place = {.topic_id = 1, .topic = SLICE_LIT("orders"), .index = 0, .partition = 3};
    struct stream_appended a;
    struct stream *s;

    begin();
    s = open_stream(1, "orders", 0);
    stream_wait(s, &w);
    cr_assert_eq(produce(s, batch(1, 1000, 7, 0, 10), &a), 0);
    cr_assert_eq(news, 1);
    cr_assert_eq(produce(s, batch(1, 1000, 7, 0, 10), &a), 0);
    cr_assert_eq(news, 1, "a repeat is no news");
    stream_delete(t, &place);
    cr_assert_eq(news, 2);
    cr_assert(stream_is_deleted(s));
    cr_assert_eq(produce(s, batch(1, 1000, 7, 1, 10), &a), ERR_NOT_FOUND);
    stream_unwait(&w);
    stream_unref(s);
    end();
}

Test(stream, a_topic_made_anew_waits_for_the_former_and_begins_empty)
{
    struct stream_place place = {.topic_id = 1, .topic = SLICE_LIT("orders"), .index = 0, .partition = 3};
    struct stream_appended a;
    struct stream *s, *other;

    begin();
    s = open_stream(1, "orders", 0);
    cr_assert_eq(produce(s, batch(5, 1000, -1, -1, 10), &a), 0);
    stream_delete(t, &place);
    cr_assert_null(stream_find(t, 1, 0));
    place.topic_id = 2;
    cr_assert_eq(stream_open(t, &place, &other), ERR_BUSY, "somebody still reads the former");
    stream_unref(s);
    cr_assert_eq(stream_open(t, &place, &other), 0);
    cr_assert_eq(stream_high_watermark(other), 0);
    stream_unref(other);
    place.topic_id = 1;
    cr_assert_eq(stream_open(t, &place, &other), ERR_NOT_FOUND, "an old view brings nothing back");
    end();
}

Test(stream, ten_thousand_cost_no_files)
{
    begin();
    for (uint32_t i = 0; i < 10000; i++)
        stream_unref(open_stream(1 + i / 100, "many", i % 100 + i / 100 * 1000));
    cr_assert_eq(stream_table_count(t), 10000);
    for (uint32_t i = 0; i < 10000; i++) {
        struct stream *s = stream_find(t, 1 + i / 100, i % 100 + i / 100 * 1000);

        cr_assert_not_null(s);
        stream_unref(s);
    }
    {
        struct log_store_stats st;

        log_store_stats(r.s, &st);
        cr_assert_eq(st.open_files, 0);
    }
    end();
}
