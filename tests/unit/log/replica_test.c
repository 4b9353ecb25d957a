/* Logs that are replicated: high watermarks, commits that wait for them, epochs, batches as a leader has them, beginning anew. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "fake_workers.h"
#include "rig.h"

#define DIR "p-0001/main"
#define COPY "p-0002/main"

static const uint8_t other_boot[16] = {1, 2, 3};

static int done_count, done_err;
static void on_done(struct log_commit *c, int err)
{
    (void)c;
    done_count++;
    done_err = err;
}

static void wait_mail(void)
{
    for (int i = 0; i < 20000 && done_count == 0; i++) {
        fake_deliver();
        usleep(1000);
    }
}

static void expect_epoch(struct log *l, int32_t ask, int32_t epoch, int64_t end)
{
    int32_t e = -7;
    int64_t at = -7;
    int err = log_epoch_end(l, ask, &e, &at);

    if (epoch < 0) {
        cr_assert_eq(err, ERR_NOT_FOUND, "epoch %d is known as (%d, %lld)", ask, e, (long long)at);
        return;
    }
    cr_assert_eq(err, 0);
    cr_assert(e == epoch && at == end, "epoch %d: (%d, %lld), not (%d, %lld)", ask, e, (long long)at, epoch, (long long)end);
}

/* Appends in `epoch` up to offset `to`. */
static void lead(struct rig *r, struct log *l, int32_t epoch, int64_t to, size_t size)
{
    log_set_epoch(l, epoch);
    if (to > log_end(l))
        rig_append(r, l, (unsigned)(to - log_end(l)), size);
}

/* What a follower does: appends from the leader's log up to `to`, `bytes` at a time. */
static void follow(struct log *from, struct log *to, int64_t end, size_t bytes)
{
    struct buf b = {0};

    while (log_end(to) < end) {
        struct log_span span;
        int64_t now;

        cr_assert_eq(log_read(from, log_end(to), end, bytes, false, &span), 0);
        cr_assert_gt(span.len, 0);
        buf_clear(&b);
        cr_assert_eq(log_span_copy(&span, &b), 0);
        log_span_release(&span);
        cr_assert_eq(log_append_replica(to, b.data, b.len, &now), 0);
        cr_assert_eq(now, log_end(to));
    }
    buf_fini(&b);
}

/* ---- high watermark and commits -------------------------------------------------------------------------------- */

Test(replica, a_log_alone_has_its_end_as_high_watermark)
{
    struct rig r;
    struct log *l;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    rig_append(&r, l, 3, 10);
    cr_assert_eq(log_hw(l), 3);
    log_set_hw(l, 1);
    cr_assert_eq(log_hw(l), 3);
    log_set_replicated(l, true, 2);
    cr_assert_eq(log_hw(l), 2);
    log_set_hw(l, 1);
    cr_assert_eq(log_hw(l), 2, "it never goes back");
    log_set_hw(l, 100);
    cr_assert_eq(log_hw(l), 3, "nor beyond the end");
    rig_append(&r, l, 1, 10);
    cr_assert_eq(log_hw(l), 3);
    cr_assert_eq(log_truncate(l, 2), 0);
    cr_assert_eq(log_hw(l), 2, "but a truncation takes it along");
    cr_assert_eq(log_advance_start(l, 2), 0);
    log_set_replicated(l, false, 0);
    cr_assert_eq(log_hw(l), 2);
    log_close(l);
    rig_fini(&r);
}

Test(replica, commits_wait_for_the_high_watermark_in_order_and_not_for_the_disk)
{
    struct rig r;
    struct log *l;
    struct log_commit c[3];
    struct log_store_stats st;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    log_set_replicated(l, true, 0);
    rig_append(&r, l, 10, 10);
    for (int i = 0; i < 3; i++) {
        log_commit_init(&c[i], fake_worker(), on_done);
        log_commit_add(&c[i], l, i == 0 ? 9 : i == 1 ? 3 : 6);
        cr_assert_not(log_commit_arm(&c[i]));
    }
    fake_deliver();
    cr_assert_eq(done_count, 0);
    log_set_hw(l, 2);
    cr_assert_eq(fake_deliver(), 0, "nobody waited for it");
    log_set_hw(l, 3);
    cr_assert_eq(fake_deliver(), 1);
    cr_assert_eq(done_count, 1);
    cr_assert_not(c[1].armed);
    log_set_hw(l, 7);
    log_set_hw(l, 9);
    cr_assert_eq(fake_deliver(), 1, "one mail for both");
    cr_assert_eq(done_count, 3);
    cr_assert_eq(done_err, 0);
    log_commit_add(&c[0], l, 9);
    cr_assert(log_commit_arm(&c[0]), "it is there already");
    log_store_stats(r.s, &st);
    cr_assert_eq(st.sync_rounds, 0);
    log_close(l);
    rig_fini(&r);
}

Test(replica, a_commit_over_many_logs_waits_for_all_of_them)
{
    struct rig r;
    struct log *l[6];
    struct log_commit c;
    char dir[32];

    rig_init(&r);
    log_commit_init(&c, fake_worker(), on_done);
    for (int i = 0; i < 6; i++) { /* the last is not replicated: a sync round */
        snprintf(dir, sizeof(dir), "p-%04d/main", i);
        l[i] = rig_log(&r, LOG_MAIN, dir, (uint64_t)i);
        log_set_replicated(l[i], i < 5, 0);
        rig_append(&r, l[i], 2, 10);
        log_commit_add(&c, l[i], 1);
        log_commit_add(&c, l[i], 2);
    }
    cr_assert_not(log_commit_arm(&c));
    for (int i = 0; i < 5; i++) {
        fake_deliver();
        cr_assert_eq(done_count, 0);
        log_set_hw(l[i], 2);
    }
    wait_mail();
    cr_assert_eq(done_count, 1);
    cr_assert_eq(done_err, 0);
    cr_assert_eq(log_durable(l[5]), 2);
    /* the round first, the high watermark then */
    done_count = 0;
    rig_append(&r, l[0], 1, 10);
    rig_append(&r, l[5], 1, 10);
    log_commit_add(&c, l[0], 3);
    log_commit_add(&c, l[5], 3);
    cr_assert_not(log_commit_arm(&c));
    cr_assert_eq(log_store_sync(r.s), 0);
    fake_deliver();
    cr_assert_eq(done_count, 0);
    log_set_hw(l[0], 3);
    fake_deliver();
    cr_assert_eq(done_count, 1);
    for (int i = 0; i < 6; i++)
        log_close(l[i]);
    rig_fini(&r);
}

Test(replica, with_fsync_always_a_commit_waits_for_both)
{
    struct rig r;
    struct log *l;
    struct log_commit c;

    rig_init(&r);
    rig_close(&r);
    r.opt.fsync = LOG_FSYNC_ALWAYS;
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    log_set_replicated(l, true, 0);
    rig_append(&r, l, 1, 10);
    log_commit_init(&c, fake_worker(), on_done);
    log_commit_add(&c, l, 1);
    log_set_hw(l, 1);
    cr_assert_not(log_commit_arm(&c));
    wait_mail();
    cr_assert_eq(done_count, 1);
    cr_assert_eq(log_durable(l), 1);
    log_close(l);
    rig_fini(&r);
}

Test(replica, lost_leadership_fails_what_waits_and_what_is_about_to)
{
    struct rig r;
    struct log *l;
    struct log_commit a, b;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    log_set_replicated(l, true, 0);
    rig_append(&r, l, 2, 10);
    log_commit_init(&a, fake_worker(), on_done);
    log_commit_init(&b, fake_worker(), on_done);
    log_commit_add(&a, l, 1);
    log_commit_add(&b, l, 2);
    cr_assert_not(log_commit_arm(&a));
    log_fail_commits(l, ERR_NOT_LEADER);
    /* now a follower, whose end and high watermark say nothing about those records */
    cr_assert_eq(log_truncate(l, 0), 0);
    rig_append(&r, l, 5, 10);
    log_set_hw(l, 5);
    cr_assert_eq(fake_deliver(), 1);
    cr_assert_eq(done_count, 1);
    cr_assert_eq(done_err, ERR_NOT_LEADER);
    done_err = 0;
    cr_assert_not(log_commit_arm(&b), "it was added before");
    fake_deliver();
    cr_assert_eq(done_count, 2);
    cr_assert_eq(done_err, ERR_NOT_LEADER);
    log_commit_add(&b, l, 5);
    cr_assert(log_commit_arm(&b));
    log_close(l);
    rig_fini(&r);
}

Test(replica, a_cancelled_commit_is_not_told)
{
    struct rig r;
    struct log *l;
    struct log_commit c;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    log_set_replicated(l, true, 0);
    rig_append(&r, l, 2, 10);
    log_commit_init(&c, fake_worker(), on_done);
    log_commit_add(&c, l, 2);
    log_commit_cancel(&c);
    cr_assert(log_commit_arm(&c), "it forgot what it was told");
    log_commit_add(&c, l, 2);
    cr_assert_not(log_commit_arm(&c));
    log_set_hw(l, 2); /* the mail is under way */
    log_commit_cancel(&c);
    fake_deliver();
    cr_assert_eq(done_count, 0);
    log_close(l);
    rig_fini(&r);
}

Test(replica, commits_end_well_when_the_log_is_deleted_and_by_a_round_when_it_is_alone_again)
{
    struct rig r;
    struct log *l, *gone;
    struct log_commit c, d;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    gone = rig_log(&r, LOG_QUEUE, "p-0001/queue/1", 2);
    log_set_replicated(l, true, 0);
    log_set_replicated(gone, true, 0);
    rig_append(&r, l, 1, 10);
    rig_append(&r, gone, 1, 10);
    log_commit_init(&c, fake_worker(), on_done);
    log_commit_init(&d, fake_worker(), on_done);
    log_commit_add(&c, gone, 1);
    log_commit_add(&d, l, 1);
    cr_assert_not(log_commit_arm(&c));
    cr_assert_not(log_commit_arm(&d));
    log_delete(gone);
    fake_deliver();
    cr_assert_eq(done_count, 1);
    cr_assert_eq(done_err, 0);
    done_count = 0;
    log_set_replicated(l, false, 0);
    wait_mail();
    cr_assert_eq(done_count, 1);
    cr_assert_eq(done_err, 0);
    cr_assert_eq(log_durable(l), 1);
    log_close(l);
    rig_fini(&r);
}

/* ---- opened by several ------------------------------------------------------------------------------------------------ */

Test(replica, a_log_opened_twice_is_one_log_until_the_last_close)
{
    struct rig r;
    struct log *a, *b;
    int64_t base;

    rig_init(&r);
    a = rig_log(&r, LOG_TOPIC, "p-0001/topic/x-0", 5);
    b = rig_log(&r, LOG_TOPIC, "p-0001/topic/x-0", 5);
    cr_assert_eq(a, b);
    rig_append(&r, a, 3, 10);
    log_close(a);
    rig_append(&r, b, 3, 10);
    cr_assert_eq(rig_check(b, 0, 6), 6);
    /* deleted by one, and a new object of the same name: the other holder finds out */
    a = rig_log(&r, LOG_TOPIC, "p-0001/topic/x-0", 5);
    log_delete(a);
    batch_begin(&r.b, 1);
    batch_add(&r.b, 1, slice_str("k"), slice_str("v"));
    cr_assert_eq(log_append(b, &r.b, &base), ERR_NOT_FOUND);
    a = rig_log(&r, LOG_TOPIC, "p-0001/topic/x-0", 6);
    cr_assert_neq(a, b);
    cr_assert_eq(log_end(a), 0);
    rig_append(&r, a, 1, 10);
    log_close(b);
    cr_assert_eq(rig_check(a, 0, 1), 1);
    /* another identity while it is held */
    b = rig_log(&r, LOG_TOPIC, "p-0001/topic/x-0", 7);
    cr_assert_eq(log_failed(a), ERR_NOT_FOUND);
    log_close(a);
    log_close(b);
    rig_fini(&r);
}

/* ---- watches ------------------------------------------------------------------------------------------------------------- */

static unsigned changes, hw_changes;
static void on_change(struct log_watch *w, struct log *l)
{
    (void)w;
    (void)l;
    __atomic_add_fetch(&changes, 1, __ATOMIC_RELAXED);
}
static void on_hw(struct log_watch *w, struct log *l)
{
    (void)w;
    (void)l;
    hw_changes++;
}

Test(replica, a_watch_is_told_of_everything_that_moves)
{
    struct log_watch w = {on_change}, hw = {on_hw};
    struct rig r;
    struct log *l;
    unsigned was;

    rig_init(&r);
    l = rig_log(&r, LOG_QUEUE, DIR, 1);
    log_set_watch(l, &w);
    log_set_hw_watch(l, &hw);
    rig_append(&r, l, 1, 10);
    cr_assert_eq(changes, 1);
    cr_assert_eq(hw_changes, 0);
    log_set_replicated(l, true, 0);
    rig_append(&r, l, 1, 10);
    was = changes;
    cr_assert_eq(hw_changes, 1);
    log_set_hw(l, 2);
    cr_assert_eq(changes, was + 1);
    cr_assert_eq(hw_changes, 2);
    log_set_hw(l, 2);
    cr_assert_eq(changes, was + 1);
    log_request_sync(l);
    for (int i = 0; i < 20000 && __atomic_load_n(&changes, __ATOMIC_RELAXED) == was + 1; i++)
        usleep(1000);
    cr_assert_eq(log_durable(l), 2);
    was = changes;
    cr_assert_eq(log_truncate(l, 1), 0);
    cr_assert_gt(changes, was);
    cr_assert_eq(hw_changes, 3);
    was = changes;
    cr_assert_eq(log_advance_start(l, 1), 0);
    cr_assert_gt(changes, was);
    log_set_watch(l, NULL);
    log_set_hw_watch(l, NULL);
    was = changes;
    rig_append(&r, l, 1, 10);
    log_set_hw(l, 2);
    cr_assert_eq(changes, was);
    log_close(l);
    rig_fini(&r);
}

/* ---- epochs ---------------------------------------------------------------------------------------------------------------- */

Test(replica, the_end_of_an_epoch_is_where_the_next_begins)
{
    struct rig r;
    struct log *l;

    rig_init(&r);
    l = rig_log(&r, LOG_TOPIC, DIR, 1);
    cr_assert_eq(log_last_epoch(l), -1);
    expect_epoch(l, 1, -1, 0);
    lead(&r, l, 2, 5, 10);
    cr_assert_eq(log_last_epoch(l), 2);
    expect_epoch(l, -1, -1, 0);
    expect_epoch(l, 1, 1, 0); /* R4: before the first there is nothing */
    expect_epoch(l, 2, 2, 5);
    expect_epoch(l, 3, -1, 0);
    lead(&r, l, 5, 9, 10);
    lead(&r, l, 6, 12, 10);
    expect_epoch(l, 1, 1, 0);
    expect_epoch(l, 2, 2, 5);
    expect_epoch(l, 3, 2, 5);
    expect_epoch(l, 4, 2, 5);
    expect_epoch(l, 5, 5, 9);
    expect_epoch(l, 6, 6, 12);
    expect_epoch(l, 7, -1, 0);
    /* R2: a leader whose epoch has no record yet */
    log_set_epoch(l, 9);
    expect_epoch(l, 6, 6, 12);
    expect_epoch(l, 8, 6, 12);
    expect_epoch(l, 9, 9, 12);
    /* R5 */
    cr_assert_eq(log_truncate(l, 9), 0);
    cr_assert_eq(log_last_epoch(l), 5);
    expect_epoch(l, 6, 5, 9);
    cr_assert_eq(log_truncate(l, 7), 0);
    expect_epoch(l, 5, 5, 7);
    cr_assert_eq(log_advance_start(l, 6), 0);
    expect_epoch(l, 2, 2, 6);
    expect_epoch(l, 5, 5, 7);
    cr_assert_eq(log_truncate(l, 0), 0);
    cr_assert_eq(log_last_epoch(l), -1);
    log_close(l);
    rig_fini(&r);
}

static void three_epochs(struct rig *r)
{
    struct log *l = rig_log(r, LOG_MAIN, DIR, 1);

    lead(r, l, 1, 4, 300000); /* several segments */
    lead(r, l, 3, 11, 300000);
    cr_assert_eq(log_store_sync(r->s), 0);
    lead(r, l, 4, 15, 300000);
    log_set_epoch(l, 9);
}

static void check_three_epochs(struct log *l)
{
    cr_assert_eq(log_end(l), 15);
    cr_assert_eq(log_last_epoch(l), 4);
    expect_epoch(l, 0, 0, 0);
    expect_epoch(l, 1, 1, 4);
    expect_epoch(l, 2, 1, 4);
    expect_epoch(l, 3, 3, 11);
    expect_epoch(l, 4, 4, 15);
}

Test(replica, epochs_survive_a_clean_stop_without_reading_the_log)
{
    struct rig r;
    struct log *l;

    rig_init(&r);
    three_epochs(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    log_close(l);
    log_close(l);
    rig_close(&r);
    cr_assert_eq(rename(rig_segment(&r, DIR, 0), rig_segment(&r, DIR, 77)), 0); /* it would not find them there */
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    check_three_epochs(l);
    log_close(l);
    rig_fini(&r);
}

Test(replica, epochs_survive_a_kill_and_a_power_cut)
{
    struct rig r;
    struct log *l;

    rig_init(&r);
    rig_close(&r);
    rig_crash(&r, three_epochs);
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    check_three_epochs(l);
    cr_assert_eq(log_store_sync(r.s), 0);
    log_close(l);
    rig_close(&r);

    rig_crash(&r, three_epochs); /* finds 15, appends nothing in epochs 1 to 4; then power is lost */
    r.opt.boot_id = other_boot;
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    check_three_epochs(l);
    log_close(l);
    rig_fini(&r);
}

static void cut_and_continued(struct rig *r)
{
    struct log *l = rig_log(r, LOG_MAIN, DIR, 1);

    lead(r, l, 1, 10, 100000);
    lead(r, l, 2, 30, 100000);
    cr_assert_eq(log_store_sync(r->s), 0);
    lead(r, l, 4, 50, 100000);
    cr_assert_eq(log_truncate(l, 8), 0); /* below epoch 2, whose entry the ledger has */
    lead(r, l, 5, 9, 100000);
    lead(r, l, 6, 40, 100000);
    cr_assert_eq(log_store_sync(r->s), 0);
    cr_assert_eq(log_truncate(l, 35), 0);
    lead(r, l, 6, 37, 100000);
}

Test(replica, a_truncation_across_epochs_survives_a_kill)
{
    struct rig r;
    struct log *l;

    rig_init(&r);
    rig_close(&r);
    rig_crash(&r, cut_and_continued);
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    cr_assert_eq(log_recover(l), 0);
    cr_assert_eq(log_end(l), 37);
    cr_assert_eq(rig_check(l, 0, 37), 37);
    expect_epoch(l, 1, 1, 8);
    expect_epoch(l, 4, 1, 8);
    expect_epoch(l, 5, 5, 9);
    expect_epoch(l, 6, 6, 37);
    log_close(l);
    rig_fini(&r);
}

/* ---- a leader's batches ---------------------------------------------------------------------------------------------------------- */

Test(replica, a_follower_has_what_its_leader_has)
{
    static const size_t sizes[] = {1, 5000, 100000, 3 << 20};
    struct rig r;
    struct log *a, *b;
    int64_t ts, offset;

    for (unsigned i = 0; i < 4; i++) {
        rig_init(&r);
        a = rig_log(&r, LOG_TOPIC, DIR, 1);
        b = rig_log(&r, LOG_TOPIC, COPY, 2);
        lead(&r, a, 1, 300, 40);
        lead(&r, a, 3, 400, 30000);
        lead(&r, a, 4, 1000, 10);
        follow(a, b, 1000, sizes[i]);
        cr_assert_eq(log_end(b), 1000);
        cr_assert_eq(rig_check(b, 0, 1000), 1000);
        cr_assert_eq(rig_check(b, 377, 1000), 623);
        expect_epoch(b, 2, 1, 300);
        expect_epoch(b, 3, 3, 400);
        cr_assert_eq(log_last_epoch(b), 4);
        cr_assert_eq(log_last_timestamp(b), log_last_timestamp(a));
        cr_assert_eq(log_find_timestamp(b, 1000 + 350, &offset, &ts), 0);
        cr_assert_eq(offset, 350);
        log_close(a);
        log_close(b);
        rig_close(&r);
        rig_open(&r);
        b = rig_log(&r, LOG_TOPIC, COPY, 2);
        cr_assert_eq(rig_check(b, 0, 1000), 1000);
        cr_assert_eq(log_verify(b), 0);
        log_close(b);
        rig_fini(&r);
    }
}

Test(replica, a_run_that_does_not_fit_is_refused_whole)
{
    struct rig r;
    struct log *a, *b;
    struct log_span span;
    struct buf bytes = {0};
    int64_t end;

    rig_init(&r);
    a = rig_log(&r, LOG_TOPIC, DIR, 1);
    b = rig_log(&r, LOG_TOPIC, COPY, 2);
    lead(&r, a, 5, 10, 100);
    cr_assert_eq(log_read(a, 0, 10, 1 << 20, false, &span), 0);
    cr_assert_eq(log_span_copy(&span, &bytes), 0);
    log_span_release(&span);
    size_t one = bytes.len / 10;

    cr_assert_eq(log_append_replica(b, bytes.data, 0, &end), ERR_MALFORMED);
    cr_assert_eq(log_append_replica(b, bytes.data, bytes.len - 1, &end), ERR_MALFORMED);
    cr_assert_eq(log_append_replica(b, bytes.data + one, one, &end), ERR_OUT_OF_ORDER, "behind a hole, which topics do not have");
    bytes.data[bytes.len - 1] ^= 1;
    cr_assert_eq(log_append_replica(b, bytes.data, bytes.len, &end), ERR_MALFORMED, "the last CRC");
    bytes.data[bytes.len - 1] ^= 1;
    cr_assert_eq(end, 0);
    cr_assert_eq(log_append_replica(b, bytes.data, 3 * one, &end), 0);
    cr_assert_eq(end, 3);
    cr_assert_eq(log_append_replica(b, bytes.data, 3 * one, &end), ERR_OUT_OF_ORDER, "again");
    batch_assign(bytes.data + 3 * one, 3, 4);
    cr_assert_eq(log_append_replica(b, bytes.data + 3 * one, one, &end), ERR_OUT_OF_ORDER, "an epoch that goes down");
    batch_assign(bytes.data + 3 * one, 3, 6);
    cr_assert_eq(log_append_replica(b, bytes.data + 3 * one, one, &end), 0);
    cr_assert_eq(log_append_replica(b, bytes.data + 4 * one, one, &end), ERR_OUT_OF_ORDER);
    cr_assert_eq(end, 4);
    buf_fini(&bytes);
    log_close(a);
    log_close(b);
    rig_fini(&r);
}

/* A queue's log at the leader, with holes; the follower's segments are not the leader's. */
static void with_holes(struct rig *r)
{
    struct log *a = rig_log(r, LOG_QUEUE, DIR, 1), *b = rig_log(r, LOG_QUEUE, COPY, 2);
    struct log_segment_info segs[16];
    size_t n;

    lead(r, a, 1, 60, 100000);
    lead(r, a, 2, 100, 100000);
    n = log_segments(a, segs, 16);
    cr_assert_gt(n, 8);
    cr_assert_eq(log_drop_segment(a, segs[2].base), 0);
    cr_assert_eq(log_drop_segment(a, segs[3].base), 0);
    cr_assert_eq(log_drop_segment(a, segs[6].base), 0);
    cr_assert_eq(log_store_sync(r->s), 0);
    follow(a, b, 75, 250000);
    cr_assert_eq(log_store_sync(r->s), 0);
    follow(a, b, 100, 250000);
    cr_assert_eq(rig_check(b, 0, 100), rig_check(a, 0, 100));
    cr_assert_lt(rig_check(b, 0, 100), 75);
}

Test(replica, the_holes_of_a_queue_log_are_its_followers_too)
{
    struct rig r;
    struct log *a, *b;

    for (int clean = 0; clean < 3; clean++) {
        rig_init(&r);
        if (clean) {
            with_holes(&r);
            for (int i = 0; i < 2; i++) {
                struct log *l = rig_log(&r, LOG_QUEUE, i ? COPY : DIR, (uint64_t)i + 1);

                log_close(l);
                log_close(l);
            }
            rig_close(&r);
        } else {
            rig_close(&r);
            rig_crash(&r, with_holes);
        }
        rig_open(&r);
        a = rig_log(&r, LOG_QUEUE, DIR, 1);
        b = rig_log(&r, LOG_QUEUE, COPY, 2);
        cr_assert_eq(log_recover(b), 0);
        cr_assert_geq(log_end(b), 75, "synced");
        if (clean)
            cr_assert_eq(log_end(b), 100);
        follow(a, b, 100, 1 << 20);
        cr_assert_eq(rig_check(b, 0, 100), rig_check(a, 0, 100));
        expect_epoch(b, 1, 1, 70); /* what the leader dropped was the first of epoch 2 */
        log_close(a);
        log_close(b);
        rig_fini(&r);
    }
}

static void hole_in_front(struct rig *r)
{
    struct log *a = rig_log(r, LOG_QUEUE, DIR, 1), *b = rig_log(r, LOG_QUEUE, COPY, 2);
    struct log_span span;
    struct buf bytes = {0};
    int64_t end;

    lead(r, a, 1, 20, 1000);
    cr_assert_eq(log_read(a, 12, 20, 1 << 20, false, &span), 0);
    cr_assert_eq(log_span_copy(&span, &bytes), 0);
    log_span_release(&span);
    cr_assert_eq(log_append_replica(b, bytes.data, bytes.len, &end), 0);
    buf_fini(&bytes);
    cr_assert_eq(log_start(b), 12);
    cr_assert_eq(end, 20);
}

static void hole_in_front_synced(struct rig *r)
{
    hole_in_front(r);
    cr_assert_eq(log_store_sync(r->s), 0);
}

/* The first segment was there, and empty again, when the mark was taken. */
static void hole_in_front_of_an_emptied_log(struct rig *r)
{
    struct log *b = rig_log(r, LOG_QUEUE, COPY, 2);

    rig_append(r, b, 3, 1000);
    cr_assert_eq(log_truncate(b, 0), 0);
    cr_assert_eq(log_store_sync(r->s), 0);
    hole_in_front(r);
}

Test(replica, a_queue_log_may_begin_behind_a_hole)
{
    struct rig r;
    struct log *b;

    for (int synced = 0; synced < 3; synced++) {
        rig_init(&r);
        rig_close(&r);
        rig_crash(&r, synced == 0 ? hole_in_front : synced == 1 ? hole_in_front_synced : hole_in_front_of_an_emptied_log);
        rig_open(&r);
        b = rig_log(&r, LOG_QUEUE, COPY, 2);
        cr_assert_eq(log_recover(b), 0);
        if (synced == 1)
            cr_assert_eq(log_end(b), 20);
        cr_assert_eq(log_end(b), log_start(b) + rig_check(b, log_start(b), 20));
        log_close(b);
        rig_fini(&r);
    }
}

/* KIP-279's figure, and R11: two leaders after another wrote what the other lacks; the follower finds the common prefix in two steps. */
Test(replica, logs_that_diverged_converge_by_epochs)
{
    struct rig r;
    struct log *a, *b;
    int32_t e;
    int64_t end;

    rig_init(&r);
    a = rig_log(&r, LOG_MAIN, DIR, 1);
    b = rig_log(&r, LOG_MAIN, COPY, 2);
    lead(&r, a, 1, 10, 50);
    follow(a, b, 6, 1000);
    lead(&r, b, 2, 9, 50);     /* b leads in epoch 2, and again in 4 */
    lead(&r, a, 3, 14, 50);    /* a in 3 */
    lead(&r, b, 4, 12, 50);
    log_set_epoch(a, 5);       /* now a leads, b follows */
    log_set_epoch(b, 5);
    for (unsigned round = 0;; round++) {
        int32_t own;
        int64_t own_end;

        cr_assert_lt(round, 5);
        cr_assert_eq(log_epoch_end(a, log_last_epoch(b), &e, &end), 0);
        if (e == log_last_epoch(b) && end >= log_end(b))
            break;
        cr_assert_eq(log_epoch_end(b, e, &own, &own_end), 0);
        cr_assert_eq(log_truncate(b, own == e ? MIN_OF(own_end, end) : own_end), 0);
    }
    cr_assert_eq(log_end(b), 6);
    cr_assert_eq(log_last_epoch(b), 1);
    follow(a, b, 14, 300);
    cr_assert_eq(rig_check(b, 0, 14), 14);
    expect_epoch(b, 2, 1, 10);
    expect_epoch(b, 3, 3, 14);
    log_close(a);
    log_close(b);
    rig_fini(&r);
}

/* ---- beginning anew ----------------------------------------------------------------------------------------------------------------- */

static int64_t restart_at;
static void restarted(struct rig *r)
{
    struct log *a = rig_log(r, LOG_TOPIC, DIR, 1);

    lead(r, a, 1, 40, 100000);
    cr_assert_eq(log_store_sync(r->s), 0);
    lead(r, a, 2, 60, 100000);
    cr_assert_eq(log_restart_at(a, restart_at), 0);
    cr_assert_eq(log_start(a), restart_at);
    cr_assert_eq(log_end(a), restart_at);
    cr_assert_eq(log_durable(a), restart_at);
    cr_assert_eq(log_last_epoch(a), -1);
    cr_assert_eq(log_bytes(a), 0);
}

static void restarted_and_filled(struct rig *r)
{
    struct log *a;

    restarted(r);
    a = rig_log(r, LOG_TOPIC, DIR, 1);
    lead(r, a, 7, restart_at + 30, 100000);
    cr_assert_eq(log_store_sync(r->s), 0);
    lead(r, a, 7, restart_at + 35, 100000);
    cr_assert_eq(rig_check(a, restart_at, restart_at + 35), 35);
}

Test(replica, a_log_begins_anew_where_it_is_told)
{
    static const int64_t at[] = {1000, 60, 20, 0};
    struct rig r;
    struct log *l;

    for (unsigned i = 0; i < 4; i++) {
        restart_at = at[i];
        rig_init(&r);
        rig_close(&r);
        rig_crash(&r, restarted);
        rig_open(&r);
        l = rig_log(&r, LOG_TOPIC, DIR, 1);
        cr_assert_eq(log_recover(l), 0);
        cr_assert_eq(log_start(l), at[i]);
        cr_assert_eq(log_end(l), at[i]);
        cr_assert_eq(log_last_epoch(l), -1);
        log_close(l);
        rig_close(&r);
        cr_assert_eq(file_remove_tree(r.dir), 0);

        rig_crash(&r, restarted_and_filled);
        rig_open(&r);
        l = rig_log(&r, LOG_TOPIC, DIR, 1);
        cr_assert_eq(log_recover(l), 0);
        cr_assert_eq(log_end(l), at[i] + 35);
        cr_assert_eq(rig_check(l, at[i], at[i] + 35), 35);
        expect_epoch(l, 7, 7, at[i] + 35);
        log_close(l);
        rig_fini(&r);
    }
}

/* A crash between the ledger and the files of a restart leaves files that nothing lists. */
Test(replica, files_from_before_a_restart_are_removed)
{
    struct rig r;
    struct log *l;
    char keep[300], path[300];

    rig_init(&r);
    rig_close(&r);
    restart_at = 500;
    rig_crash(&r, restarted);
    snprintf(path, sizeof(path), "%s", rig_segment(&r, DIR, 0));
    snprintf(keep, sizeof(keep), "%s", rig_segment(&r, DIR, 700));
    for (int i = 0; i < 2; i++) {
        int fd = open(i ? keep : path, O_CREAT | O_WRONLY, 0600);

        cr_assert_eq(write(fd, "left over", 9), 9);
        close(fd);
    }
    rig_open(&r);
    l = rig_log(&r, LOG_TOPIC, DIR, 1);
    cr_assert_eq(log_recover(l), 0);
    cr_assert_eq(log_end(l), 500);
    cr_assert_neq(access(path, F_OK), 0);
    cr_assert_neq(access(keep, F_OK), 0);
    rig_append(&r, l, 3, 10);
    cr_assert_eq(rig_check(l, 500, 503), 3);
    log_close(l);
    rig_fini(&r);
}

/* R18: what was known to be committed is known after a restart, and never more. */
Test(replica, a_high_watermark_is_stored_with_the_marks)
{
    struct rig r;
    struct log *l;
    int64_t hw[] = {0, 7, 20, 20};

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    cr_assert_eq(log_hw_stored(l), 0);
    log_set_replicated(l, true, 0);
    rig_append(&r, l, 20, 100);
    for (int i = 0; i < 4; i++) {
        log_set_hw(l, hw[i]);
        if (i == 3)
            rig_append(&r, l, 5, 100);
        if (i == 2)
            cr_assert_eq(log_store_sync(r.s), 0); /* nothing was appended since the last one */
        log_close(l);
        if (i == 0)
            cr_assert_eq(log_store_sync(r.s), 0);
        rig_close(&r);
        rig_open(&r);
        l = rig_log(&r, LOG_MAIN, DIR, 1);
        cr_assert_eq(log_hw_stored(l), hw[i], "%d: %lld", i, (long long)log_hw_stored(l));
        cr_assert_eq(log_hw(l), log_end(l), "it is not replicated yet");
        log_set_replicated(l, true, log_hw_stored(l));
        cr_assert_eq(log_hw(l), hw[i]);
    }
    cr_assert_eq(log_truncate(l, 12), 0);
    log_close(l);
    rig_close(&r);
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, DIR, 1);
    cr_assert_eq(log_hw_stored(l), 12);
    log_close(l);
    rig_fini(&r);
}

static void committed_and_killed(struct rig *r)
{
    struct log *l = rig_log(r, LOG_MAIN, DIR, 1);

    log_set_replicated(l, true, 0);
    rig_append(r, l, 20, 100);
    cr_assert_eq(log_store_sync(r->s), 0);
    log_set_hw(l, 15);
    cr_assert_eq(log_store_sync(r->s), 0);
    rig_append(r, l, 20, 100);
    log_set_hw(l, 40); /* of which no mark tells */
}

Test(replica, a_high_watermark_is_known_after_a_kill_and_a_power_cut)
{
    for (int power = 0; power < 2; power++) {
        struct rig r;
        struct log *l;

        rig_init(&r);
        rig_close(&r);
        rig_crash(&r, committed_and_killed);
        if (power)
            r.opt.boot_id = other_boot;
        rig_open(&r);
        l = rig_log(&r, LOG_MAIN, DIR, 1);
        cr_assert_eq(log_recover(l), 0);
        cr_assert_eq(log_end(l), power ? 20 : 40);
        cr_assert_eq(log_hw_stored(l), 15);
        log_close(l);
        rig_fini(&r);
    }
}
