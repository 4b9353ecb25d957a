/* Streams of a replicated partition: who may read what, and what happens when the node's role changes. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/hash.h"
#include "fake_workers.h"
#include "rig.h"
#include "stream/stream.h"

static struct rig r;
static struct stream_table *t;
static const struct stream_rules rules = {.max_batch_bytes = 1u << 20, .timestamp_after_max_ms = INT64_MAX};

static void begin(void)
{
    uint8_t zero[16] = {0};

    hash_seed(zero);
    rig_init(&r);
    t = stream_table_new(&(struct stream_table_options){.store = r.s, .workers = fake_workers(), .data_dir = r.dir});
}

static void end(void)
{
    stream_table_free(t);
    rig_fini(&r);
}

static struct stream *open_stream(uint32_t index)
{
    struct stream_place place = {.topic_id = 7, .topic = slice_str("orders"), .index = index, .partition = index};
    struct stream *s;

    cr_assert_eq(stream_open(t, &place, &s), 0);
    return s;
}

static int produce(struct stream *s, int64_t producer, int32_t sequence, struct log_commit *commit, struct stream_appended *ret)
{
    struct batch_header h;
    struct slice b;
    const char *why;

    batch_begin(&r.b, 1000);
    if (producer >= 0)
        batch_set_producer(&r.b, producer, 0, sequence);
    batch_add(&r.b, 1000, SLICE_NONE, slice_str("value"));
    b = batch_finish(&r.b);
    cr_assert_eq(stream_check((uint8_t *)(uintptr_t)b.data, b.len, &rules, 1000, &h, &why), STREAM_OK);
    return stream_append(s, (uint8_t *)(uintptr_t)b.data, &h, 1000, commit, ret);
}

static int notified;
static void on_notify(struct stream_waiter *w)
{
    (void)w;
    notified++;
}

Test(stream_replica, waiting_fetches_are_told_of_the_high_watermark_not_of_the_append)
{
    struct stream_waiter w = {.notify = on_notify};
    struct stream_appended a;
    struct stream *s;

    begin();
    s = open_stream(0);
    stream_wait(s, &w);
    cr_assert_eq(produce(s, -1, 0, NULL, &a), 0);
    cr_assert_eq(notified, 1, "alone, an append is what they wait for");
    log_set_replicated(stream_log(s), true, 1);
    notified = 0;
    cr_assert_eq(produce(s, -1, 0, NULL, &a), 0);
    cr_assert_eq(notified, 0);
    cr_assert_eq(stream_high_watermark(s), 1);
    log_set_hw(stream_log(s), 2);
    cr_assert_eq(notified, 1);
    cr_assert_eq(stream_high_watermark(s), 2);
    stream_unwait(&w);
    log_set_replicated(stream_log(s), false, 0);
    stream_unref(s);
    end();
}

Test(stream_replica, records_above_the_high_watermark_cannot_be_deleted)
{
    struct stream_retention all = {.max_age_ms = 0, .max_bytes = -1};
    struct stream_appended a;
    struct stream *s;
    int64_t start;

    begin();
    s = open_stream(0);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(produce(s, -1, 0, NULL, &a), 0);
    log_set_replicated(stream_log(s), true, 3);
    cr_assert_eq(stream_delete_records(s, 4, &start), ERR_OFFSET_RANGE);
    cr_assert_eq(stream_delete_records(s, 2, &start), 0);
    (void)stream_retain(s, &all, 1 << 30);
    cr_assert_leq(stream_start(s), 3);
    cr_assert_eq(stream_delete_records(s, -1, &start), 0);
    cr_assert_eq(start, 3);
    stream_unref(s);
    end();
}

Test(stream_replica, a_deposed_leader_appends_no_more_and_its_waiters_are_told)
{
    struct stream_waiter w = {.notify = on_notify};
    struct stream_appended a;
    struct stream *s, *other, *again;

    begin();
    s = open_stream(0);
    other = open_stream(1);
    cr_assert_eq(produce(s, 9, 0, NULL, &a), 0);
    stream_wait(s, &w);
    stream_table_close_partition(t, 0);
    cr_assert_eq(notified, 1);
    cr_assert(stream_is_closed(s));
    cr_assert_not(stream_is_closed(other));
    cr_assert_eq(produce(s, 9, 1, NULL, &a), ERR_NOT_LEADER);
    cr_assert_null(stream_find(t, 7, 0));
    cr_assert_eq(produce(other, 9, 0, NULL, &a), 0);
    /* opened anew while the old one is still held: one log, and its news go to the new one */
    again = open_stream(0);
    cr_assert_neq(again, s);
    cr_assert_eq(stream_log(again), stream_log(s));
    stream_unwait(&w);
    stream_unref(s);
    log_set_replicated(stream_log(again), true, 0);
    notified = 0;
    stream_wait(again, &w);
    log_set_hw(stream_log(again), 1);
    cr_assert_eq(notified, 1);
    stream_unwait(&w);
    cr_assert_eq(produce(again, 9, 1, NULL, &a), 0);
    cr_assert_eq(a.base, 1);
    stream_unref(again);
    stream_unref(other);
    end();
}

/* A leader with producers' state, deposed; what it had not replicated is cut off and others write in its place. */
Test(stream_replica, a_new_leader_knows_producers_from_its_log_alone)
{
    struct stream_place place = {.topic_id = 7, .topic = slice_str("orders"), .index = 0, .partition = 0};
    struct stream_appended a;
    struct stream *s;
    struct log *l;

    begin();
    s = open_stream(0);
    l = stream_log(s);
    log_set_epoch(l, 1);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(produce(s, 5, i, NULL, &a), 0);
    cr_assert_eq(produce(s, 6, 0, NULL, &a), 0);
    stream_unref(s);
    stream_table_free(t); /* writes the snapshot: as of 5, epoch 1 */
    t = stream_table_new(&(struct stream_table_options){.store = r.s, .workers = fake_workers(), .data_dir = r.dir});
    l = rig_log(&r, LOG_TOPIC, "p-0000/topic/orders-0", 7 << 20);
    cr_assert_eq(log_truncate(l, 2), 0);
    log_set_epoch(l, 2);
    rig_append(&r, l, 9, 10); /* no producer */
    cr_assert_eq(stream_open(t, &place, &s), 0);
    cr_assert_eq(stream_producer_count(s), 1, "what was cut off is forgotten, the snapshot notwithstanding");
    cr_assert_eq(produce(s, 5, 2, NULL, &a), 0, "it goes on where the log has it");
    cr_assert_not(a.duplicate);
    cr_assert_eq(a.base, 11);
    cr_assert_eq(produce(s, 5, 1, NULL, &a), 0);
    cr_assert(a.duplicate);
    stream_unref(s);
    /* and one that is still right is used */
    stream_table_free(t);
    t = stream_table_new(&(struct stream_table_options){.store = r.s, .workers = fake_workers(), .data_dir = r.dir});
    log_set_epoch(l, 3);
    rig_append(&r, l, 1, 10);
    cr_assert_eq(stream_open(t, &place, &s), 0);
    cr_assert_eq(produce(s, 5, 2, NULL, &a), 0);
    cr_assert(a.duplicate);
    stream_unref(s);
    log_close(l);
    end();
}

static int done, done_err;
static void on_done(struct log_commit *c, int err)
{
    (void)c;
    done++;
    done_err = err;
}

Test(stream_replica, acknowledgements_wait_for_the_high_watermark_or_the_end_of_leadership)
{
    struct stream_appended a;
    struct log_commit c;
    struct stream *s;

    begin();
    s = open_stream(0);
    log_set_replicated(stream_log(s), true, 0);
    log_commit_init(&c, fake_worker(), on_done);
    cr_assert_eq(produce(s, 5, 0, &c, &a), 0);
    cr_assert_not(log_commit_arm(&c));
    log_set_hw(stream_log(s), 1);
    fake_deliver();
    cr_assert_eq(done, 1);
    cr_assert_eq(done_err, 0);
    /* a repeat of what is not committed yet waits as well */
    cr_assert_eq(produce(s, 5, 1, NULL, &a), 0);
    cr_assert_eq(produce(s, 5, 1, &c, &a), 0);
    cr_assert(a.duplicate);
    cr_assert_not(log_commit_arm(&c));
    fake_deliver();
    cr_assert_eq(done, 1);
    stream_table_close_partition(t, 0); /* whether or not the replication knows the log */
    fake_deliver();
    cr_assert_eq(done, 2);
    cr_assert_eq(done_err, ERR_NOT_LEADER);
    stream_unref(s);
    end();
}

/* Rule 21: who hands over shuts the partition, then looks at the ends of its logs. */
Test(stream_replica, a_partition_that_is_shut_takes_no_appends_whoever_opened_the_stream_when)
{
    struct stream_appended a;
    struct stream *before, *after, *other;

    begin();
    before = open_stream(0);
    other = open_stream(1);
    cr_assert_eq(produce(before, 9, 0, NULL, &a), 0);
    stream_table_admit(t, stream_partition(before), false);
    cr_assert_eq(produce(before, 9, 1, NULL, &a), ERR_NOT_LEADER);
    cr_assert_eq(produce(before, 9, 0, NULL, &a), ERR_NOT_LEADER, "a repeat is the next leader's to answer");
    cr_assert_eq(produce(other, 9, 0, NULL, &a), 0, "of another partition");
    stream_table_close_partition(t, stream_partition(before));
    after = open_stream(0);
    cr_assert_eq(produce(after, 9, 1, NULL, &a), ERR_NOT_LEADER);
    stream_table_admit(t, stream_partition(after), true);
    cr_assert_eq(produce(after, 9, 1, NULL, &a), 0);
    cr_assert_eq(a.base, 1);
    cr_assert_eq(produce(before, 9, 2, NULL, &a), ERR_NOT_LEADER, "it is closed for good");
    stream_unref(before);
    stream_unref(after);
    stream_unref(other);
    end();
}
