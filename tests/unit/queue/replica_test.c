/* Queues of a replicated partition: nothing above the high watermark is delivered; what a loss of leadership takes and leaves. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "fixture.h"
#include "queue/internal.h"

static struct fixture f;
static struct taster a;
static struct queue *q;
static unsigned told;

static void on_hw(void *arg)
{
    (void)arg;
    told++;
}

static void hide(int64_t hw)
{
    log_set_replicated(queue_log(q), true, hw);
}

static void open_it(void)
{
    fixture_open(&f);
    f.table->options.hw_moved = on_hw;
}

static void begin(void)
{
    fixture_init(&f);
    open_it();
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
}

Test(queue_replica, consumers_get_what_is_committed_and_news_of_the_rest)
{
    begin();
    hide(0);
    queue_consumer_add(q, &a.c, f.now_ms);
    publish_n(&f, q, 0, 10); /* offset 0 is the reservation's, or 10 */
    cr_assert_eq(a.news, 0);
    cr_assert_eq(taster_drain(&a), 0);
    cr_assert_eq(queue_ready(q), 10);
    log_set_hw(queue_log(q), 5);
    cr_assert_eq(told, 1);
    log_set_hw(queue_log(q), 6);
    cr_assert_eq(told, 1, "told once until it looks");
    queue_table_hw_advanced(f.table);
    queue_table_flush(f.table, NULL);
    (void)taster_drain(&a); /* once the reservation of rule 8 is committed too */
    for (unsigned i = 0; i < a.count; i++)
        cr_assert_lt(queue_handle_offset(&a.got[i].handle), 6);
    log_set_hw(queue_log(q), log_end(queue_log(q)));
    queue_table_hw_advanced(f.table);
    queue_table_flush(f.table, NULL);
    (void)taster_drain(&a);
    cr_assert_eq(a.count, 10);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(a.got[i].number, i);
    publish_n(&f, q, 10, 4);
    cr_assert_eq(taster_drain(&a), 0);
    log_set_hw(queue_log(q), log_end(queue_log(q)) - 2);
    queue_table_hw_advanced(f.table);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(taster_drain(&a), 2);
    log_set_hw(queue_log(q), log_end(queue_log(q)));
    queue_table_hw_advanced(f.table);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(taster_drain(&a), 2);
    told = 0;
    publish_n(&f, q, 20, 1);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}

Test(queue_replica, requeued_messages_come_though_new_ones_are_hidden)
{
    begin();
    queue_consumer_add(q, &a.c, f.now_ms);
    publish_n(&f, q, 0, 4);
    cr_assert_eq(taster_drain(&a), 4);
    hide(log_end(queue_log(q)));
    publish_n(&f, q, 4, 4);
    cr_assert_eq(taster_drain(&a), 0);
    taster_settle(&a, QUEUE_REQUEUE, 1, 2);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(queue_ready(q), 6);
    cr_assert_eq(queue_visible_ready(q), 2);
    cr_assert_eq(taster_drain(&a), 2);
    cr_assert_eq(a.got[4].number, 1);
    cr_assert_eq(a.got[5].number, 2);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}

Test(queue_replica, a_hidden_message_of_high_priority_does_not_hide_a_low_one)
{
    struct queue_spec spec;

    fixture_init(&f);
    open_it();
    queue_spec_init(&spec, 1);
    spec.durable = true;
    spec.max_priority = 5;
    cr_assert_eq(queue_open(f.table, &spec, f.now_ms, &q), 0);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    a.c.prefetch = 1;
    cr_assert_eq(publish_with(&f, q, 0, 1, -1), 0);
    cr_assert_eq(publish_with(&f, q, 1, 1, -1), 0);
    cr_assert_eq(queue_table_flush(f.table, NULL), 0);
    hide(log_end(queue_log(q)));
    cr_assert_eq(publish_with(&f, q, 2, 5, -1), 0);
    cr_assert_eq(queue_table_flush(f.table, NULL), 0);
    cr_assert_eq(taster_drain(&a), 1);
    cr_assert_eq(a.got[0].number, 0);
    log_set_hw(queue_log(q), log_end(queue_log(q)));
    taster_settle(&a, QUEUE_ACK, 0, 1);
    queue_table_hw_advanced(f.table);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(taster_drain(&a), 1);
    cr_assert_eq(a.got[1].number, 2);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}

Test(queue_replica, a_get_waits_for_the_commit_of_what_was_published_before_it)
{
    begin();
    hide(0);
    publish_n(&f, q, 0, 3);
    a.take.commit = NULL;
    cr_assert_eq(taster_get(&a, q, false), 0);
    cr_assert(a.take.stalled);
    cr_assert_eq(a.take.count, 0);
    log_set_hw(queue_log(q), log_end(queue_log(q)));
    cr_assert_eq(taster_get(&a, q, false), 0);
    if (a.take.stalled) { /* its reservation, which get wrote */
        log_set_hw(queue_log(q), log_end(queue_log(q)));
        cr_assert_eq(taster_get(&a, q, false), 0);
    }
    cr_assert_eq(a.take.count, 1);
    fixture_fini(&f);
}

Test(queue_replica, a_deposed_leader_drops_its_memory_and_tells_consumers_apart_from_deletion)
{
    struct taster b;
    struct queue *other;

    begin();
    queue_consumer_add(q, &a.c, f.now_ms);
    publish_n(&f, q, 0, 20);
    cr_assert_eq(taster_drain(&a), 20);
    taster_settle(&a, QUEUE_ACK, 0, 5);
    queue_table_flush(f.table, NULL);
    other = fixture_queue(&f, 2, false);
    taster_init(&b, &f);
    queue_consumer_add(other, &b.c, f.now_ms);
    publish_n(&f, other, 0, 3);
    queue_table_close(f.table);
    cr_assert_eq(queue_table_count(f.table), 0);
    cr_assert(a.c.lost);
    cr_assert_not(a.c.cancelled);
    cr_assert(b.c.lost);
    cr_assert(a.c.told);
    queue_consumer_remove(&a.c, f.now_ms);
    queue_consumer_remove(&b.c, f.now_ms);
    /* leads again: what was not acknowledged is ready, redelivered */
    q = fixture_queue(&f, 1, true);
    cr_assert_eq(queue_ready(q), 15);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    cr_assert_eq(taster_drain(&a), 15);
    cr_assert_eq(a.got[0].number, 5);
    cr_assert(a.got[0].redelivered);
    other = fixture_queue(&f, 2, false);
    cr_assert_eq(queue_ready(other), 0, "memory is gone");
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}

Test(queue_replica, after_a_handover_only_what_was_delivered_is_redelivered)
{
    for (int handover = 0; handover < 2; handover++) {
        begin();
        queue_consumer_add(q, &a.c, f.now_ms);
        publish_n(&f, q, 0, 20);
        cr_assert_eq(taster_take(&a, 5), 0);
        cr_assert_eq(a.count, 5);
        if (handover)
            queue_table_rest(f.table);
        queue_table_flush(f.table, NULL);
        queue_table_close(f.table);
        q = fixture_queue(&f, 1, true);
        taster_init(&a, &f);
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 20);
        for (unsigned i = 0; i < 20; i++)
            cr_assert_eq(a.got[i].redelivered, i < 5 || !handover, "%u", i);
        queue_consumer_remove(&a.c, f.now_ms);
        fixture_fini(&f);
    }
}

/* The handover is given up: what is delivered from then on needs a reservation of its own. */
Test(queue_replica, a_handover_that_is_given_up_forgets_no_delivery)
{
    begin();
    queue_consumer_add(q, &a.c, f.now_ms);
    publish_n(&f, q, 0, 20);
    cr_assert_eq(taster_take(&a, 5), 0);
    queue_table_rest(f.table);
    queue_table_flush(f.table, NULL);
    cr_assert_eq(taster_drain(&a), 15);
    queue_table_close(f.table);
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    cr_assert_eq(taster_take(&a, 3), 0);
    /* Again: what may have been delivered before it was opened stays so. */
    queue_table_rest(f.table);
    queue_table_flush(f.table, NULL);
    queue_table_close(f.table);
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    cr_assert_eq(taster_drain(&a), 20);
    for (unsigned i = 0; i < 20; i++)
        cr_assert(a.got[i].redelivered);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}

/* Its news is a mail that may still be in a box: a second one would be the same mail twice in it. */
Test(queue_replica, who_is_attached_anew_with_news_on_its_way_is_not_told_again_before_it_came)
{
    begin();
    queue_consumer_add(q, &a.c, f.now_ms);
    publish_n(&f, q, 0, 3);
    cr_assert_eq(a.news, 1);
    queue_table_close(f.table);
    cr_assert(a.c.lost);
    cr_assert_eq(a.news, 1);
    cr_assert(queue_consumer_remove(&a.c, f.now_ms), "its news is not answered");
    q = fixture_queue(&f, 1, true);
    cr_assert_eq(queue_consumer_add(q, &a.c, f.now_ms), 0);
    queue_table_flush(f.table, NULL);
    publish_n(&f, q, 3, 2);
    cr_assert_eq(a.news, 1);
    cr_assert_eq(taster_drain(&a), 5);
    cr_assert_not(a.c.told);
    publish_n(&f, q, 5, 1);
    cr_assert_eq(a.news, 2);
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}

Test(queue_replica, what_a_follower_has_is_what_its_leader_had)
{
    struct queue_table *t;
    struct log_store *store;
    struct queue_spec spec;
    struct queue *copy;
    struct taster c;
    struct log *l;
    struct buf b = {0};
    struct log_span span;
    char dir[80], command[400];
    unsigned holes = 0;
    int64_t end;

    fixture_init(&f);
    f.segment_bytes = 8192;
    f.checkpoint_bytes = 16384;
    open_it();
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    for (unsigned i = 0; i < 20; i++)
        for (unsigned k = 0; k < 10; k++) {
            cr_assert_eq(publish(&f, q, i * 10 + k, 500), 0);
            queue_table_flush(f.table, NULL);
        }
    while (taster_drain(&a) > 0)
        ;
    cr_assert_eq(a.count, 200);
    taster_settle(&a, QUEUE_ACK, 1, 100); /* the first stays: holes behind it */
    taster_settle(&a, QUEUE_ACK, 120, 60);
    queue_table_flush(f.table, NULL);
    f.now_ms += 5000;
    queue_table_tick(f.table, f.now_ms);
    cr_assert_gt(queue_checkpoint_covers(f.dir, 7, 1), 0);
    cr_assert_eq(queue_checkpoint_covers(f.dir, 7, 2), -1);
    cr_assert_gt(log_end(queue_log(q)), queue_checkpoint_covers(f.dir, 7, 1) - 1);
    taster_settle(&a, QUEUE_ACK, 199, 1); /* behind the checkpoint */
    queue_table_flush(f.table, NULL);

    /* another node's store gets the log run by run, and the checkpoint that explains its holes */
    snprintf(dir, sizeof(dir), "%s/other", f.dir);
    cr_assert_eq(log_store_open(&(struct log_store_options){.data_dir = dir, .fsync = LOG_FSYNC_NEVER, .segment_bytes = 1 << 20}, NULL, &store), 0);
    cr_assert_eq(log_open(store, &(struct log_options){.kind = LOG_QUEUE, .dir = "p-0007/queue/0000000000000001", .log_id = 1, .segment_bytes = 20000}, &l), 0);
    while ((end = log_end(l)) < log_end(queue_log(q))) {
        int64_t now;

        cr_assert_eq(log_read(queue_log(q), end, log_end(queue_log(q)), 3000, false, &span), 0);
        buf_clear(&b);
        cr_assert_eq(log_span_copy(&span, &b), 0);
        if (span.base > end) {
            holes++;
            cr_assert_leq(span.base, queue_checkpoint_covers(f.dir, 7, 1), "the checkpoint explains the hole");
        }
        log_span_release(&span);
        cr_assert_eq(log_append_replica(l, b.data, b.len, &now), 0);
    }
    cr_assert_gt(holes, 0);
    snprintf(command, sizeof(command), "cp %s/p-0007/queue/0000000000000001/checkpoint %s/p-0007/queue/0000000000000001/", f.dir, dir);
    cr_assert_eq(system(command), 0);
    t = queue_table_new(&(struct queue_table_options){.data_dir = dir, .partition = 7, .store = store, .segment_bytes = 20000, .commit_at_end = true});
    queue_spec_init(&spec, 1);
    spec.durable = true;
    cr_assert_eq(queue_open(t, &spec, f.now_ms, &copy), 0);
    cr_assert_eq(queue_ready(copy), 39);
    cr_assert_eq(queue_ready(q) + queue_unacked(q), 39);
    taster_init(&c, &f);
    queue_consumer_add(copy, &c.c, f.now_ms);
    queue_table_flush(t, NULL);
    while (taster_drain(&c) > 0)
        ;
    cr_assert_eq(c.count, 39);
    cr_assert_eq(c.got[0].number, 0);
    cr_assert_eq(c.got[1].number, 101);
    cr_assert_eq(c.got[38].number, 198);
    queue_consumer_remove(&c.c, f.now_ms);
    log_close(l);
    queue_table_free(t);
    log_store_close(store);
    queue_consumer_remove(&a.c, f.now_ms);
    buf_fini(&b);
    fixture_fini(&f);
}
