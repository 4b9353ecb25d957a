#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "fake_workers.h"
#include "rig.h"

Test(log, a_declared_log_makes_no_file)
{
    struct rig r;
    struct log *l;
    char path[128];

    rig_init(&r);
    l = rig_log(&r, LOG_TOPIC, "p-0001/topic/a-0", 7);
    snprintf(path, sizeof(path), "%s/p-0001", r.dir);
    cr_assert_neq(access(path, F_OK), 0);
    cr_assert_eq(log_end(l), 0);
    rig_append(&r, l, 1, 10);
    cr_assert_eq(access(path, F_OK), 0);
    log_close(l);
    rig_fini(&r);
}

Test(log, appended_batches_are_read_back_over_segments_and_a_restart)
{
    struct rig r;
    struct log *l;
    struct log_segment_info segs[32];
    size_t n;

    rig_init(&r);
    l = rig_log(&r, LOG_TOPIC, "p-0001/topic/a-0", 7);
    rig_append(&r, l, 3000, 1000);
    n = log_segments(l, segs, 32);
    cr_assert_eq(n, 4, "%zu segments", n);
    for (size_t i = 1; i < n; i++)
        cr_assert_eq(segs[i].base, segs[i - 1].next);
    cr_assert_eq(rig_check(l, 0, 3000), 3000);
    cr_assert_eq(rig_check(l, 1717, 3000), 3000 - 1717);
    log_close(l);
    rig_close(&r);
    rig_open(&r);
    l = rig_log(&r, LOG_TOPIC, "p-0001/topic/a-0", 7);
    cr_assert_eq(log_end(l), 3000);
    cr_assert_eq(log_durable(l), 3000);
    cr_assert_eq(log_segments(l, segs, 32), n);
    rig_append(&r, l, 100, 1000);
    cr_assert_eq(rig_check(l, 0, 3100), 3100);
    cr_assert_eq(log_verify(l), 0);
    log_close(l);
    rig_fini(&r);
}

Test(log, a_clean_start_opens_no_file_of_a_log)
{
    struct rig r;
    struct log *l;
    struct log_store_stats st;
    char dir[64];

    rig_init(&r);
    for (int i = 0; i < 50; i++) {
        snprintf(dir, sizeof(dir), "p-0001/queue/%d", i);
        l = rig_log(&r, LOG_QUEUE, dir, (uint64_t)i);
        rig_append(&r, l, 3, 100);
        log_close(l);
    }
    rig_close(&r);
    rig_open(&r);
    for (int i = 0; i < 50; i++) {
        snprintf(dir, sizeof(dir), "p-0001/queue/%d", i);
        l = rig_log(&r, LOG_QUEUE, dir, (uint64_t)i);
        cr_assert_eq(log_end(l), 3);
        cr_assert_eq(log_last_timestamp(l), 1002);
        log_close(l);
    }
    log_store_stats(r.s, &st);
    cr_assert_eq(st.open_files, 0);
    cr_assert_eq(st.logs, 50);
    rig_fini(&r);
}

Test(log, a_span_is_whole_batches_within_its_bounds)
{
    struct rig r;
    struct log *l;
    struct log_span span;
    struct buf out = {0};
    struct batch_header h;

    rig_init(&r);
    l = rig_log(&r, LOG_TOPIC, "p-0001/topic/a-0", 7);
    rig_append(&r, l, 500, 1000);
    cr_assert_eq(log_read(l, 500, 500, 1000, false, &span), 0);
    cr_assert_eq(span.len, 0);
    cr_assert_eq(log_read(l, 501, 501, 1000, false, &span), ERR_OFFSET_RANGE);
    for (int64_t at = 0; at < 500; at += 7) {
        int64_t end = at + 1 + at % 50;

        end = end > 500 ? 500 : end;
        cr_assert_eq(log_read(l, at, end, 10000, false, &span), 0);
        cr_assert_eq(span.base, at);
        cr_assert_leq(span.next, end);
        cr_assert(span.next == end || span.len > 10000 - 1200, "next %lld end %lld len %zu", (long long)span.next, (long long)end, span.len);
        buf_clear(&out);
        cr_assert_eq(log_span_copy(&span, &out), 0);
        cr_assert_eq(batch_header_read(out.data, out.len, &h), 0);
        cr_assert_eq(h.base_offset, at);
        log_span_release(&span);
    }
    cr_assert_eq(log_read(l, 3, 500, 10, true, &span), 0);
    cr_assert_eq(span.len, 0, "strict: no batch above the bound");
    cr_assert_eq(log_read(l, 3, 500, 10, false, &span), 0);
    cr_assert_eq(span.next, 4, "at least one whole batch");
    log_span_release(&span);
    buf_fini(&out);
    log_close(l);
    rig_fini(&r);
}

Test(log, a_batch_larger_than_a_segment_gets_its_own)
{
    struct rig r;
    struct log *l;
    struct log_segment_info segs[8];

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    rig_append(&r, l, 3, 100);
    rig_append(&r, l, 1, 3 << 20);
    rig_append(&r, l, 3, 100);
    cr_assert_eq(log_segments(l, segs, 8), 3);
    cr_assert_eq(segs[1].base, 3);
    cr_assert_eq(segs[1].next, 4);
    cr_assert_eq(rig_check(l, 0, 7), 7);
    log_close(l);
    rig_fini(&r);
}

Test(log, other_ids_send_the_directory_to_trash)
{
    struct rig r;
    struct log *l;

    rig_init(&r);
    l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 7);
    rig_append(&r, l, 3, 100);
    log_close(l);
    l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 8);
    cr_assert_eq(log_end(l), 0);
    rig_append(&r, l, 1, 100);
    log_close(l);
    rig_close(&r);
    rig_open(&r);
    l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 8);
    cr_assert_eq(log_end(l), 1);
    log_delete(l);
    l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 8);
    cr_assert_eq(log_end(l), 0, "deleted is gone");
    log_close(l);
    rig_fini(&r);
}

Test(log, the_directory_is_locked_and_belongs_to_a_cluster)
{
    struct rig r;
    struct log_store *other;

    rig_init(&r);
    cr_assert_eq(log_store_open(&r.opt, fake_workers(), &other), ERR_IN_USE);
    rig_close(&r);
    r.opt.cluster_id[3] = 9;
    rig_open(&r); /* nothing was in it yet: as a node that has just joined */
    rig_close(&r);
    r.opt.cluster_id[3] = 8;
    cr_assert_eq(log_store_open(&r.opt, fake_workers(), &other), ERR_FOREIGN);
    r.opt.cluster_id[3] = 9;
    rig_open(&r);
    rig_fini(&r);
}

Test(log, many_small_appends_make_it_hot_and_everything_is_read_back)
{
    struct rig r;
    struct log *l;
    struct log_store_stats st;
    struct log_span span;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    rig_append(&r, l, 200, 100);
    log_store_stats(r.s, &st);
    cr_assert_eq(st.hot_logs, 1);
    usleep(50000);
    rig_append(&r, l, 100, 100); /* through the mapping */
    rig_append(&r, l, 2, 40000); /* by pwrite behind it */
    rig_append(&r, l, 5000, 100);
    cr_assert_eq(log_read(l, log_end(l) - 1, log_end(l), 1000, false, &span), 0);
    cr_assert_not_null(span.data, "the tail is read without a copy");
    log_span_release(&span);
    cr_assert_eq(log_store_sync(r.s), 0);
    cr_assert_eq(log_durable(l), log_end(l));
    rig_append(&r, l, 20000, 100); /* rolls while hot */
    cr_assert_eq(rig_check(l, 0, log_end(l)), 25302);
    log_close(l);
    log_store_stats(r.s, &st);
    cr_assert_eq(st.hot_logs, 0);
    rig_close(&r);
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    cr_assert_eq(rig_check(l, 0, log_end(l)), 25302);
    rig_append(&r, l, 10, 100);
    cr_assert_eq(rig_check(l, 25300, log_end(l)), 12);
    log_close(l);
    rig_fini(&r);
}

Test(log, a_memory_log_keeps_no_file)
{
    struct rig r;
    struct log *l;
    char path[128];
    struct log_segment_info segs[64];
    size_t n;

    rig_init(&r);
    cr_assert_eq(log_open(r.s, &(struct log_options){.kind = LOG_QUEUE, .dir = "p-0001/queue/m", .log_id = 5, .memory = true}, &l), 0);
    rig_append(&r, l, 2000, 500);
    rig_append(&r, l, 1, 200000);
    rig_append(&r, l, 20, 500);
    cr_assert_eq(rig_check(l, 0, 2021), 2021);
    cr_assert_eq(log_durable(l), 2021);
    n = log_segments(l, segs, 64);
    cr_assert_gt(n, 10);
    cr_assert_eq(log_drop_segment(l, segs[3].base), 0);
    cr_assert_eq(rig_check(l, 0, 2021), 2021 - (segs[3].next - segs[3].base), "the hole is skipped");
    cr_assert_eq(log_advance_start(l, 1500), 0);
    cr_assert_eq(rig_check(l, 1500, 2021), 521);
    cr_assert_lt(log_bytes(l), 700000);
    cr_assert_eq(log_truncate(l, 2000), 0);
    cr_assert_eq(log_end(l), 2000);
    rig_append(&r, l, 5, 100);
    cr_assert_eq(rig_check(l, 1500, 2005), 505);
    snprintf(path, sizeof(path), "%s/p-0001", r.dir);
    cr_assert_neq(access(path, F_OK), 0);
    log_close(l);
    rig_fini(&r);
}

Test(log, timestamps_are_found_in_any_segment)
{
    struct rig r;
    struct log *l;
    int64_t offset, ts;

    rig_init(&r);
    l = rig_log(&r, LOG_TOPIC, "p-0001/topic/a-0", 7);
    rig_append(&r, l, 3000, 1000);
    for (int64_t t = 1000; t < 4000; t += 131) {
        cr_assert_eq(log_find_timestamp(l, t, &offset, &ts), 0);
        cr_assert_eq(offset, t - 1000);
        cr_assert_eq(ts, t);
    }
    cr_assert_eq(log_find_timestamp(l, 0, &offset, &ts), 0);
    cr_assert_eq(offset, 0);
    cr_assert_eq(log_find_timestamp(l, 4000, &offset, &ts), ERR_NOT_FOUND);
    log_close(l);
    rig_fini(&r);
}

Test(log, files_opened_are_bounded)
{
    struct rig r;
    struct log *l[40];
    struct log_store_stats st;
    char dir[64];

    rig_init(&r);
    rig_close(&r);
    r.opt.fd_max = 16;
    rig_open(&r);
    for (int i = 0; i < 40; i++) {
        snprintf(dir, sizeof(dir), "p-0001/topic/t-%d", i);
        l[i] = rig_log(&r, LOG_TOPIC, dir, (uint64_t)i);
    }
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 40; i++)
            rig_append(&r, l[i], 1, 20000);
        log_store_stats(r.s, &st);
        cr_assert_leq(st.open_files, 17);
    }
    cr_assert_eq(log_store_sync(r.s), 0);
    for (int i = 0; i < 40; i++) {
        cr_assert_eq(rig_check(l[i], 0, 5), 5);
        cr_assert_eq(log_durable(l[i]), 5);
        log_close(l[i]);
    }
    rig_fini(&r);
}

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

Test(log, a_commit_waits_for_the_round_that_covers_it)
{
    struct rig r;
    struct log *l;
    struct log_commit c;
    struct log_store_stats st;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    log_commit_init(&c, fake_worker(), on_done);
    log_commit_add(&c, l, 0);
    cr_assert(log_commit_arm(&c), "nothing to wait for");
    rig_append(&r, l, 1, 10);
    log_commit_add(&c, l, log_end(l));
    cr_assert_not(log_commit_arm(&c));
    wait_mail();
    cr_assert_eq(done_count, 1);
    cr_assert_eq(done_err, 0);
    cr_assert_eq(log_durable(l), 1);
    log_store_stats(r.s, &st);
    cr_assert_eq(st.sync_rounds, 1);
    /* cancelled: does not run */
    rig_append(&r, l, 1, 10);
    log_commit_add(&c, l, log_end(l));
    cr_assert_not(log_commit_arm(&c));
    log_commit_cancel(&c);
    cr_assert_eq(log_store_sync(r.s), 0);
    fake_deliver();
    cr_assert_eq(done_count, 1);
    log_close(l);
    rig_fini(&r);
}

Test(log, a_commit_fails_when_leadership_was_lost_since_it_began)
{
    struct rig r;
    struct log *l;
    struct log_commit c;
    uint64_t mark;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    log_set_replicated(l, true, 0);
    /* lost between the append and adding, and found again: the same offsets may be another leader's by now */
    log_commit_init(&c, fake_worker(), on_done);
    rig_append(&r, l, 1, 10);
    log_fail_commits(l, ERR_NOT_LEADER);
    log_commit_add(&c, l, log_end(l));
    log_set_hw(l, log_end(l));
    cr_assert_not(log_commit_arm(&c));
    wait_mail();
    cr_assert_eq(done_err, ERR_NOT_LEADER);
    /* the same when it was begun late, by the mark from before the append */
    mark = log_commit_mark();
    rig_append(&r, l, 1, 10);
    log_fail_commits(l, ERR_NOT_LEADER);
    log_commit_init(&c, fake_worker(), on_done);
    log_commit_since(&c, mark);
    log_commit_add(&c, l, log_end(l));
    done_count = done_err = 0;
    cr_assert_not(log_commit_arm(&c));
    wait_mail();
    cr_assert_eq(done_err, ERR_NOT_LEADER);
    /* lost before: nothing to do with it */
    log_commit_init(&c, fake_worker(), on_done);
    rig_append(&r, l, 1, 10);
    log_commit_add(&c, l, log_end(l));
    log_set_hw(l, log_end(l));
    cr_assert(log_commit_arm(&c));
    log_close(l);
    rig_fini(&r);
}

Test(log, a_failed_round_is_told_and_never_retried)
{
    struct rig r;
    struct log *l;
    struct log_commit c;
    int64_t base;

    rig_init(&r);
    rig_close(&r);
    r.opt.failpoint = "sync:2:eio";
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    rig_append(&r, l, 1, 10);
    cr_assert_eq(log_store_sync(r.s), 0);
    rig_append(&r, l, 1, 10);
    log_commit_init(&c, fake_worker(), on_done);
    log_commit_add(&c, l, log_end(l));
    cr_assert_not(log_commit_arm(&c));
    wait_mail();
    cr_assert_eq(done_err, ERR_IO);
    cr_assert_eq(log_store_health(r.s), ERR_IO);
    cr_assert_eq(log_durable(l), 1);
    batch_begin(&r.b, 1);
    batch_add(&r.b, 1, slice_str("k"), slice_str("v"));
    cr_assert_eq(log_append(l, &r.b, &base), ERR_IO);
    cr_assert_eq(rig_check(l, 0, 2), 2, "reads go on");
    log_close(l);
    rig_fini(&r);
}

Test(log, encoded_batches_get_offsets_and_epoch)
{
    struct rig r;
    struct log *l;
    struct buf two = {0};
    struct batch_header h;
    struct log_span span;
    struct buf out = {0};
    int64_t base;

    rig_init(&r);
    l = rig_log(&r, LOG_TOPIC, "p-0001/topic/a-0", 7);
    log_set_epoch(l, 4);
    for (int i = 0; i < 2; i++) {
        batch_begin(&r.b, 1);
        batch_add(&r.b, 1, slice_str("k"), slice_str("v"));
        batch_add(&r.b, 2, slice_str("k"), slice_str("v"));
        buf_put_slice(&two, batch_finish(&r.b));
    }
    cr_assert_eq(log_append_encoded(l, two.data, two.len, &base), 0);
    cr_assert_eq(log_append_encoded(l, two.data, two.len, &base), 0);
    cr_assert_eq(base, 4);
    cr_assert_eq(log_end(l), 8);
    cr_assert_eq(log_read(l, 7, 8, 1 << 20, false, &span), 0);
    cr_assert_eq(span.base, 6, "the batch that holds the offset");
    cr_assert_eq(log_span_copy(&span, &out), 0);
    cr_assert_eq(batch_validate(out.data, out.len, 1000, &h), 0);
    cr_assert_eq(h.leader_epoch, 4);
    cr_assert_eq(log_append_encoded(l, two.data, two.len - 1, &base), ERR_MALFORMED);
    cr_assert_eq(log_end(l), 8);
    log_span_release(&span);
    buf_fini(&two);
    buf_fini(&out);
    log_close(l);
    rig_fini(&r);
}

Test(log, truncation_and_start_survive_a_restart)
{
    struct rig r;
    struct log *l;

    rig_init(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    rig_append(&r, l, 3000, 1000);
    cr_assert_eq(log_advance_start(l, 1500), 0);
    cr_assert_eq(log_start(l), 1500);
    cr_assert_eq(log_truncate(l, 2500), 0);
    cr_assert_eq(log_end(l), 2500);
    rig_append(&r, l, 10, 1000);
    cr_assert_eq(log_truncate(l, 1600), 0);
    rig_append(&r, l, 10, 1000);
    cr_assert_eq(rig_check(l, 1500, 1610), 110);
    log_close(l);
    rig_close(&r);
    rig_open(&r);
    l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    cr_assert_eq(log_start(l), 1500);
    cr_assert_eq(log_end(l), 1610);
    cr_assert_eq(rig_check(l, 1500, 1610), 110);
    cr_assert_eq(log_advance_start(l, 1610), 0);
    cr_assert_eq(log_start(l), 1610);
    log_close(l);
    rig_fini(&r);
}

Test(log, a_hole_in_front_of_an_empty_tail_reads_as_the_end)
{
    struct rig r;
    struct log *l;
    struct log_span span;
    struct log_cursor c;
    struct batch_header h;
    struct slice batch;

    rig_init(&r);
    l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 1);
    rig_append(&r, l, 10, 100);
    cr_assert_eq(log_seal(l), 0);
    rig_append(&r, l, 10, 100);
    cr_assert_eq(log_seal(l), 0);
    cr_assert_eq(log_seal(l), 0, "an empty segment stays");
    cr_assert_eq(log_drop_segment(l, 10), 0);
    cr_assert_eq(log_read(l, 12, 20, 1000, false, &span), 0);
    cr_assert_eq(span.len, 0);
    log_cursor_init(&c, l, 5, 1000);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(log_cursor_next(&c, &h, &batch), 1);
    cr_assert_eq(log_cursor_next(&c, &h, &batch), 0);
    rig_append(&r, l, 1, 100);
    cr_assert_eq(log_cursor_next(&c, &h, &batch), 1);
    cr_assert_eq(h.base_offset, 20);
    log_cursor_fini(&c);
    cr_assert_eq(log_failed(l), 0);
    log_close(l);
    rig_close(&r);
    rig_open(&r);
    l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 1);
    cr_assert_eq(rig_check(l, 0, 21), 11);
    log_close(l);
    rig_fini(&r);
}

static bool keep_even(void *arg, const char *dir, uint64_t id)
{
    (void)arg;
    (void)dir;
    return id % 2 == 0;
}

Test(log, logs_of_nothing_are_swept_but_open_ones_stay)
{
    struct rig r;
    struct log *l[6];
    struct log_store_stats st;
    char dir[64];

    rig_init(&r);
    for (int i = 0; i < 6; i++) {
        snprintf(dir, sizeof(dir), "p-0001/queue/%d", i);
        l[i] = rig_log(&r, LOG_QUEUE, dir, (uint64_t)i);
        rig_append(&r, l[i], 3, 100);
        if (i != 1)
            log_close(l[i]);
    }
    log_store_sweep(r.s, keep_even, NULL);
    log_store_stats(r.s, &st);
    cr_assert_eq(st.logs, 4);
    log_close(l[1]);
    rig_close(&r);
    cr_assert_neq(access(rig_segment(&r, "p-0001/queue/3", 0), F_OK), 0);
    cr_assert_eq(access(rig_segment(&r, "p-0001/queue/4", 0), F_OK), 0);
    rig_fini(&r);
}
