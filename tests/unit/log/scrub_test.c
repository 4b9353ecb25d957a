/* Sealed segments are read again: what a disk changed is found, the log goes on serving and is suspect until what is bad is gone. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "rig.h"

#define DIR "p-0001/topic/a-0"

/* Three sealed segments and one that is open, of which `bad` has a flipped bit; the store is open again. */
static struct log *with_flip(struct rig *r, unsigned bad)
{
    struct log_segment_info segs[8];
    struct log *l;

    rig_init(r);
    l = rig_log(r, LOG_TOPIC, DIR, 7);
    rig_append(r, l, 3500, 1000);
    cr_assert_eq(log_segments(l, segs, 8), 4);
    log_close(l);
    rig_close(r);
    rig_flip(rig_segment(r, DIR, segs[bad].base), 5000);
    rig_open(r);
    return rig_log(r, LOG_TOPIC, DIR, 7);
}

static void until_passes(struct rig *r, uint64_t n)
{
    struct log_store_stats st;

    for (unsigned i = 0; i < 30000; i++) {
        log_store_stats(r->s, &st);
        if (st.scrub_passes >= n)
            return;
        usleep(1000);
    }
    cr_assert(false, "%llu passes in 30 s", (unsigned long long)st.scrub_passes);
}

Test(scrub, a_log_with_a_bad_segment_is_suspect_and_serves_on)
{
    struct rig r;
    struct log *l = with_flip(&r, 1);
    struct log_segment_info segs[8];

    cr_assert_not(log_suspect(l));
    cr_assert_eq(log_verify(l), ERR_CORRUPT);
    cr_assert(log_suspect(l));
    cr_assert_eq(log_failed(l), 0);
    cr_assert_eq(log_store_suspects(r.s), 1);
    cr_assert_eq(log_verify(l), ERR_CORRUPT);
    cr_assert_eq(log_store_suspects(r.s), 1, "counted once");
    rig_append(&r, l, 10, 1000);
    cr_assert_eq(log_end(l), 3510);
    /* Behind the bad segment all is well. */
    log_segments(l, segs, 8);
    cr_assert_eq(log_advance_start(l, segs[2].base), 0);
    cr_assert_eq(log_store_sync(r.s), 0);
    cr_assert_eq(log_verify(l), 0);
    cr_assert_not(log_suspect(l));
    cr_assert_eq(log_store_suspects(r.s), 0);
    log_close(l);
    rig_fini(&r);
}

Test(scrub, what_is_shorter_or_gone_or_bad_at_its_end_is_found)
{
    for (unsigned how = 0; how < 3; how++) {
        struct log_segment_info segs[8];
        struct rig r;
        struct log *l = with_flip(&r, 0);
        const char *path;

        log_segments(l, segs, 8);
        rig_flip(rig_segment(&r, DIR, segs[0].base), 5000); /* sound again */
        cr_assert_eq(log_verify(l), 0);
        path = rig_segment(&r, DIR, segs[2].base);
        if (how == 0)
            cr_assert_eq(truncate(path, (off_t)segs[2].bytes - 1), 0);
        else if (how == 1)
            cr_assert_eq(unlink(path), 0);
        else
            rig_flip(path, segs[2].bytes - 1);
        cr_assert_eq(log_verify(l), ERR_CORRUPT);
        log_close(l);
        rig_fini(&r);
    }
}

Test(scrub, the_thread_finds_it_in_a_log_that_nobody_has_open)
{
    struct log_store_stats st;
    struct rig r;
    struct log *l = with_flip(&r, 2);

    log_close(l);
    log_store_set_scrub(r.s, 1, 1u << 30);
    until_passes(&r, 1);
    log_store_stats(r.s, &st);
    cr_assert_eq(st.suspects, 1);
    cr_assert_geq(st.scrub_bytes, 3u * 1000 * 1000);
    l = rig_log(&r, LOG_TOPIC, DIR, 7);
    cr_assert(log_suspect(l));
    cr_assert_eq(log_failed(l), 0);
    log_delete(l);
    cr_assert_eq(log_store_suspects(r.s), 0);
    rig_fini(&r);
}

Test(scrub, a_damaged_log_that_begins_anew_is_not_suspect_any_more)
{
    struct rig r;
    struct log *l = with_flip(&r, 1);

    cr_assert_eq(log_verify(l), ERR_CORRUPT);
    log_damaged(l, "a test");
    cr_assert_eq(log_begin_anew(l, false), 0);
    cr_assert_not(log_suspect(l));
    cr_assert_eq(log_store_suspects(r.s), 0);
    log_close(l);
    rig_fini(&r);
}

/* The time of the last pass survives restarts, so that a node that is restarted weekly is read all the same. */
Test(scrub, a_pass_that_came_due_while_the_node_was_down_is_made)
{
    char path[128];
    long long ended = 0;
    struct rig r;
    FILE *f;

    rig_init(&r);
    snprintf(path, sizeof(path), "%s/scrub", r.dir);
    rig_close(&r);
    f = fopen(path, "w");
    cr_assert_not_null(f);
    fprintf(f, "%lld\n", (long long)(clock_wall_ms() / 1000) - 7200);
    fclose(f);
    rig_open(&r);
    log_store_set_scrub(r.s, 3600 * 1000, 1u << 30);
    until_passes(&r, 1);
    rig_close(&r);
    f = fopen(path, "r");
    cr_assert_not_null(f);
    cr_assert_eq(fscanf(f, "%lld", &ended), 1);
    fclose(f);
    cr_assert_gt(ended, clock_wall_ms() / 1000 - 3600);
    rig_open(&r);
    rig_fini(&r);
}
