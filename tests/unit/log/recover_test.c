/* Rule 4: what a log holds after a kill, a power cut, a flipped bit, a torn write. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "rig.h"

static const uint8_t other_boot[16] = {1, 2, 3};

/* The child dies with 20 synced batches and 15 more; all of one size. */
static void synced_20_then_15(struct rig *r)
{
    struct log *l = rig_log(r, LOG_MAIN, "p-0001/main", 1);

    rig_append(r, l, 20, 500);
    cr_assert_eq(log_store_sync(r->s), 0);
    rig_append(r, l, 15, 500);
}

static uint64_t batch_size(struct rig *r)
{
    return rig_size(rig_segment(r, "p-0001/main", 0)) / 35;
}

static struct log *reopen(struct rig *r, int *ret_err)
{
    struct log *l;

    rig_open(r);
    l = rig_log(r, LOG_MAIN, "p-0001/main", 1);
    *ret_err = log_recover(l);
    return l;
}

static void start(struct rig *r, void (*work)(struct rig *r))
{
    rig_init(r);
    rig_close(r);
    rig_crash(r, work);
}

static void finish(struct rig *r, struct log *l)
{
    log_close(l);
    rig_fini(r);
}

Test(recover, a_killed_process_loses_nothing_it_appended)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, synced_20_then_15);
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 35);
    cr_assert_eq(log_durable(l), 20);
    cr_assert_eq(rig_check(l, 0, 35), 35);
    rig_append(&r, l, 5, 500);
    cr_assert_eq(log_store_sync(r.s), 0);
    cr_assert_eq(log_durable(l), 40);
    log_close(l);
    rig_close(&r);
    l = reopen(&r, &err);
    cr_assert_eq(rig_check(l, 0, 40), 40);
    finish(&r, l);
}

Test(recover, a_torn_tail_is_cut_at_the_last_whole_batch)
{
    struct rig r;
    struct log *l;
    uint64_t size;
    int err;

    for (uint64_t torn = 1; torn < 500; torn += 97) {
        start(&r, synced_20_then_15);
        size = batch_size(&r);
        cr_assert_eq(truncate(rig_segment(&r, "p-0001/main", 0), (off_t)(35 * size - torn)), 0);
        l = reopen(&r, &err);
        cr_assert_eq(err, 0);
        cr_assert_eq(log_end(l), 34);
        cr_assert_eq(rig_size(rig_segment(&r, "p-0001/main", 0)), 34 * size);
        rig_append(&r, l, 3, 500);
        cr_assert_eq(rig_check(l, 0, 37), 37);
        finish(&r, l);
    }
}

Test(recover, a_flip_above_the_mark_cuts_there)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, synced_20_then_15);
    rig_flip(rig_segment(&r, "p-0001/main", 0), 27 * batch_size(&r) + 100);
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 27);
    cr_assert_eq(rig_check(l, 0, 27), 27);
    finish(&r, l);
}

Test(recover, a_flip_below_the_mark_is_corruption_and_stops_that_log_alone)
{
    struct rig r;
    struct log *l, *other;
    uint64_t size;
    int err;

    start(&r, synced_20_then_15);
    size = rig_size(rig_segment(&r, "p-0001/main", 0));
    rig_flip(rig_segment(&r, "p-0001/main", 0), 13 * batch_size(&r) + 100);
    l = reopen(&r, &err);
    cr_assert_eq(err, ERR_CORRUPT);
    cr_assert_eq(log_failed(l), ERR_CORRUPT);
    cr_assert_eq(rig_size(rig_segment(&r, "p-0001/main", 0)), size, "the evidence stays");
    other = rig_log(&r, LOG_MAIN, "p-0002/main", 1);
    rig_append(&r, other, 3, 10);
    cr_assert_eq(rig_check(other, 0, 3), 3);
    log_close(other);
    log_close(l);
    rig_close(&r);
    l = reopen(&r, &err); /* also after a clean stop */
    cr_assert_eq(err, ERR_CORRUPT);
    finish(&r, l);
}

static unsigned put_aside(const struct rig *r)
{
    char path[128];
    glob_t g = {0};
    unsigned n;

    snprintf(path, sizeof(path), "%s/damaged/*/*.log", r->dir);
    n = glob(path, 0, NULL, &g) == 0 ? (unsigned)g.gl_pathc : 0;
    globfree(&g);
    return n;
}

/* D6: what was damaged is kept aside, and nothing of it is in the log that begins anew, whatever happens next. */
Test(recover, a_damaged_log_begins_anew_and_its_files_are_put_aside)
{
    for (int how = 0; how < 3; how++) {
        struct rig r;
        struct log *l;
        uint64_t size;
        int err;

        start(&r, synced_20_then_15);
        rig_flip(rig_segment(&r, "p-0001/main", 0), 13 * batch_size(&r) + 100);
        l = reopen(&r, &err);
        cr_assert_eq(err, ERR_CORRUPT);
        cr_assert_eq(log_begin_anew(l, false), 0);
        cr_assert_eq(log_failed(l), 0);
        cr_assert(log_start(l) == 0 && log_end(l) == 0 && log_durable(l) == 0 && log_last_epoch(l) == -1);
        cr_assert_eq(put_aside(&r), 1);
        cr_assert_eq(log_begin_anew(l, false), 0, "nothing happens to a whole log");
        cr_assert_eq(put_aside(&r), 1);
        size = 0;
        if (how > 0) {
            rig_append(&r, l, 7, 500);
            size = 7;
        }
        if (how > 1)
            cr_assert_eq(log_store_sync(r.s), 0);
        cr_assert_eq(rig_check(l, 0, (int64_t)size), (int64_t)size);
        log_close(l);
        rig_close(&r);
        l = reopen(&r, &err);
        cr_assert_eq(err, 0);
        cr_assert_eq(log_end(l), (int64_t)size);
        cr_assert_eq(rig_check(l, 0, (int64_t)size), (int64_t)size);
        finish(&r, l);
    }
}

static void begin_anew_and_write(struct rig *r)
{
    struct log *l = rig_log(r, LOG_MAIN, "p-0001/main", 1);

    (void)log_recover(l);
    if (log_begin_anew(l, false) == 0)
        rig_append(r, l, 9, 500);
}

Test(recover, a_log_that_began_anew_is_found_so_after_a_kill)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, synced_20_then_15);
    rig_flip(rig_segment(&r, "p-0001/main", 0), 13 * batch_size(&r) + 100);
    rig_crash(&r, begin_anew_and_write);
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 9);
    cr_assert_eq(rig_check(l, 0, 9), 9);
    finish(&r, l);
}

Test(recover, only_the_newest_of_what_is_damaged_is_kept)
{
    struct rig r;
    char path[128], dir[32];

    rig_init(&r);
    for (int i = 0; i < 12; i++) {
        FILE *f;

        snprintf(dir, sizeof(dir), "p-%04d/kv", i);
        snprintf(path, sizeof(path), "%s/%s", r.dir, dir);
        cr_assert_eq(file_make_dirs(path), 0);
        snprintf(path, sizeof(path), "%s/%s/x.log", r.dir, dir);
        f = fopen(path, "w");
        cr_assert(f != NULL && fclose(f) == 0);
        log_store_put_aside(r.s, dir);
    }
    cr_assert_eq(put_aside(&r), 8);
    snprintf(path, sizeof(path), "%s/damaged/*-p-0011_kv/x.log", r.dir);
    cr_assert_eq(glob(path, 0, NULL, &(glob_t){0}), 0, "the last one is there");
    rig_close(&r);
    rig_fini(&r);
}

Test(recover, a_log_shorter_than_its_mark_is_corruption)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, synced_20_then_15);
    cr_assert_eq(truncate(rig_segment(&r, "p-0001/main", 0), (off_t)(12 * batch_size(&r))), 0);
    l = reopen(&r, &err);
    cr_assert_eq(err, ERR_CORRUPT);
    finish(&r, l);
}

Test(recover, a_missing_segment_below_the_mark_is_corruption)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, synced_20_then_15);
    cr_assert_eq(unlink(rig_segment(&r, "p-0001/main", 0)), 0);
    l = reopen(&r, &err);
    cr_assert_eq(err, ERR_CORRUPT);
    finish(&r, l);
}

Test(recover, a_foreign_batch_of_equal_size_behind_the_tail_is_not_taken)
{
    struct rig r;
    struct log *l;
    uint64_t size;
    uint8_t *batch;
    int err, fd;

    start(&r, synced_20_then_15);
    size = batch_size(&r);
    batch = malloc(size);
    fd = open(rig_segment(&r, "p-0001/main", 0), O_RDWR);
    /* a sound batch with a sound CRC, from elsewhere in the log */
    cr_assert_eq(file_pread_all(fd, batch, size, 30 * size), 0);
    cr_assert_eq(file_pwrite_all(fd, batch, size, 35 * size), 0);
    close(fd);
    free(batch);
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 35);
    cr_assert_eq(rig_size(rig_segment(&r, "p-0001/main", 0)), 35 * size);
    finish(&r, l);
}

Test(recover, an_epoch_that_goes_back_ends_the_log)
{
    struct rig r;
    struct log *l;
    uint8_t epoch[4] = {0, 0, 0, 9};
    int err, fd;

    start(&r, synced_20_then_15);
    fd = open(rig_segment(&r, "p-0001/main", 0), O_RDWR);
    cr_assert_eq(file_pwrite_all(fd, epoch, 4, 30 * batch_size(&r) + 12), 0);
    close(fd);
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 31, "the next batch has a lower one");
    finish(&r, l);
}

Test(recover, after_another_boot_every_log_is_cut_exactly_at_its_mark)
{
    struct rig r;
    struct log *l;
    uint64_t size;
    int err;

    start(&r, synced_20_then_15);
    size = batch_size(&r);
    r.opt.boot_id = other_boot;
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 20);
    cr_assert_eq(rig_size(rig_segment(&r, "p-0001/main", 0)), 20 * size);
    cr_assert_eq(rig_check(l, 0, 20), 20);
    rig_append(&r, l, 2, 500);
    cr_assert_eq(rig_check(l, 0, 22), 22);
    finish(&r, l);
}

Test(recover, a_log_not_looked_at_after_a_power_cut_is_cut_when_it_is)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, synced_20_then_15);
    r.opt.boot_id = other_boot;
    rig_open(&r);
    rig_close(&r); /* a clean stop, but nobody opened the log */
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 20);
    finish(&r, l);
}

static void touch_nothing(struct rig *r)
{
    (void)r;
}

Test(recover, kills_in_a_row_lose_nothing)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, synced_20_then_15);
    rig_crash(&r, touch_nothing);
    rig_crash(&r, touch_nothing);
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(rig_check(l, 0, 35), 35);
    finish(&r, l);
}

static void never_synced(struct rig *r)
{
    rig_append(r, rig_log(r, LOG_MAIN, "p-0001/main", 1), 35, 500);
}

Test(recover, a_log_without_a_mark_is_scanned_or_empty)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, never_synced);
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 35, "same boot: the page cache kept it");
    finish(&r, l);

    start(&r, never_synced);
    r.opt.boot_id = other_boot;
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 0, "another boot: nothing was promised");
    rig_append(&r, l, 3, 500);
    cr_assert_eq(rig_check(l, 0, 3), 3);
    finish(&r, l);
}

static void hot_and_killed(struct rig *r)
{
    struct log *l = rig_log(r, LOG_MAIN, "p-0001/main", 1);

    rig_append(r, l, 100, 100);
    usleep(20000);
    rig_append(r, l, 500, 100);
    cr_assert_eq(log_store_sync(r->s), 0);
    rig_append(r, l, 11000, 100); /* rolls */
    usleep(20000);
    rig_append(r, l, 77, 100);
}

Test(recover, a_mapped_tail_survives_a_kill)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, hot_and_killed);
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 11677);
    cr_assert_eq(rig_check(l, 0, 11677), 11677);
    rig_append(&r, l, 100, 100);
    cr_assert_eq(rig_check(l, 11600, 11777), 177);
    finish(&r, l);

    start(&r, hot_and_killed);
    r.opt.boot_id = other_boot;
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 600);
    cr_assert_eq(rig_check(l, 0, 600), 600);
    finish(&r, l);
}

static void with_hole(struct rig *r)
{
    struct log *l = rig_log(r, LOG_QUEUE, "p-0001/queue/q", 1);
    struct log_segment_info segs[16];
    size_t n;

    rig_append(r, l, 5000, 1000);
    n = log_segments(l, segs, 16);
    cr_assert_eq(n, 6);
    cr_assert_eq(log_drop_segment(l, segs[1].base), 0);
    cr_assert_eq(log_drop_segment(l, segs[2].base), 0);
    cr_assert_eq(log_drop_segment(l, segs[4].base), 0);
    cr_assert_eq(log_drop_segment(l, segs[5].base), ERR_INVALID);
    cr_assert_eq(log_drop_segment(l, 1), ERR_NOT_FOUND);
    cr_assert_eq(log_store_sync(r->s), 0);
    rig_append(r, l, 10, 1000);
    usleep(100000); /* the janitor unlinks */
}

Test(recover, holes_are_explained_by_the_ledger)
{
    struct rig r;
    struct log *l;
    struct log_segment_info segs[16];

    start(&r, with_hole);
    for (int round = 0; round < 3; round++) { /* killed, then twice cleanly stopped */
        rig_open(&r);
        l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 1);
        cr_assert_eq(log_recover(l), 0);
        cr_assert_eq(log_end(l), 5010);
        cr_assert_eq(log_start(l), 0);
        cr_assert_eq(log_segments(l, segs, 16), 3);
        cr_assert_eq(rig_check(l, 0, 5010), segs[0].next + segs[1].next - segs[1].base + 5010 - segs[2].base);
        log_close(l);
        rig_close(&r);
    }
    rig_fini(&r);
}

Test(recover, a_hole_that_nothing_explains_is_corruption)
{
    struct rig r;
    struct log *l;
    char path[256];

    start(&r, with_hole);
    rig_open(&r);
    l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 1);
    cr_assert_eq(log_recover(l), 0);
    struct log_segment_info segs[16];
    log_segments(l, segs, 16);
    strcpy(path, rig_segment(&r, "p-0001/queue/q", segs[1].base));
    log_close(l);
    rig_close(&r);
    rig_crash(&r, touch_nothing);
    unlink(path);
    rig_open(&r);
    l = rig_log(&r, LOG_QUEUE, "p-0001/queue/q", 1);
    cr_assert_eq(log_recover(l), ERR_CORRUPT);
    finish(&r, l);
}

static void truncated(struct rig *r)
{
    struct log *l = rig_log(r, LOG_MAIN, "p-0001/main", 1);

    rig_append(r, l, 3000, 1000);
    cr_assert_eq(log_store_sync(r->s), 0);
    cr_assert_eq(log_truncate(l, 700), 0);
    rig_append(r, l, 5, 1000);
}

Test(recover, a_truncation_lowers_the_mark)
{
    struct rig r;
    struct log *l;
    int err;

    start(&r, truncated);
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 705);
    cr_assert_eq(rig_check(l, 0, 705), 705);
    finish(&r, l);
}

Test(recover, a_torn_frame_at_the_ledgers_end_is_ignored)
{
    struct rig r;
    struct log *l;
    char path[128];
    struct buf b = {0};
    size_t end;
    int err;

    start(&r, synced_20_then_15);
    snprintf(path, sizeof(path), "%s/ledger", r.dir);
    cr_assert_eq(file_read(path, 1 << 24, &b), 0);
    for (end = 0; be32_get(b.data + end) != 0; end += 8 + be32_get(b.data + end))
        ;
    rig_flip(path, end - 1); /* the last frame: the mark of 20 */
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 35);
    cr_assert_eq(log_durable(l), 0);
    buf_fini(&b);
    finish(&r, l);
}

Test(recover, a_damaged_ledger_is_refused)
{
    struct rig r;
    struct log_store *s;
    char path[128];

    start(&r, synced_20_then_15);
    snprintf(path, sizeof(path), "%s/ledger", r.dir);
    rig_flip(path, 20);
    cr_assert_eq(log_store_open(&r.opt, NULL, &s), ERR_CORRUPT);
    cr_assert_eq(unlink(path), 0);
    rig_open(&r); /* as the hint says: every log is scanned */
    struct log *l = rig_log(&r, LOG_MAIN, "p-0001/main", 1);
    cr_assert_eq(log_end(l), 35);
    finish(&r, l);
}

/* ---- failpoints and rule 5 -------------------------------------------------------------------------------------------- */

static void append_participants(struct rig *r, struct log *l)
{
    struct buf v = {0};
    uint8_t key[2] = {1, 0};
    int64_t base;

    buf_put_uvarint(&v, 2);
    buf_put_uvarint(&v, 1);
    buf_put_uvarint(&v, (uint64_t)log_end(l));
    buf_put_uvarint(&v, 3);
    buf_put_uvarint(&v, 77);
    batch_begin(&r->b, 1);
    batch_add(&r->b, 1, slice_of(key, 2), buf_slice(&v));
    batch_add(&r->b, 1, slice_str("k"), slice_str("v"));
    buf_fini(&v);
    cr_assert_eq(log_append_prepare(l, r->b.bytes.len), 0);
    cr_assert_eq(log_append(l, &r->b, &base), 0);
}

static void spans_twice(struct rig *r)
{
    struct log *l = rig_log(r, LOG_MAIN, "p-0001/main", 1);

    rig_append(r, l, 5, 10);
    append_participants(r, l);
    rig_append(r, l, 5, 10);
    append_participants(r, l); /* killed here */
    rig_append(r, l, 5, 10);
}

Test(recover, the_last_batch_names_its_participants_and_can_be_dropped)
{
    struct rig r;
    struct log *l;
    struct log_participant p[4];
    int64_t base = -1;
    int err;

    rig_init(&r);
    rig_close(&r);
    r.opt.failpoint = "mappend:2:kill";
    rig_crash(&r, spans_twice);
    r.opt.failpoint = NULL;
    l = reopen(&r, &err);
    cr_assert_eq(err, 0);
    cr_assert_eq(log_end(l), 14);
    cr_assert_eq(log_last_batch_participants(l, p, 4, &base), 2);
    cr_assert_eq(base, 12);
    cr_assert_eq(p[0].partition, 1);
    cr_assert_eq(p[0].offset, 12);
    cr_assert_eq(p[1].partition, 3);
    cr_assert_eq(p[1].offset, 77);
    cr_assert_eq(log_truncate(l, base), 0);
    cr_assert_eq(log_end(l), 12);
    cr_assert_eq(log_last_batch_participants(l, p, 4, &base), 0);
    finish(&r, l);
}

static void plain_appends(struct rig *r)
{
    rig_append(r, rig_log(r, LOG_MAIN, "p-0001/main", 1), 100, 10);
}

Test(recover, a_failpoint_kills_right_after_the_nth_append)
{
    struct rig r;
    struct log *l;
    int err;

    rig_init(&r);
    rig_close(&r);
    r.opt.failpoint = "append:17:kill";
    rig_crash(&r, plain_appends);
    r.opt.failpoint = NULL;
    l = reopen(&r, &err);
    cr_assert_eq(log_end(l), 17);
    finish(&r, l);
}
