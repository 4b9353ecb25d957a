/* What a durable queue is after a stop and after a crash; checkpoints; segments that go. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/rand.h"
#include "fixture.h"
#include "queue/internal.h"

static struct fixture f;
static struct taster a;

static void open_fixture(void)
{
    fixture_init(&f);
    f.segment_bytes = 64 << 10;
    f.checkpoint_bytes = 32 << 10;
    fixture_open(&f);
    taster_init(&a, &f);
}

static void close_fixture(void)
{
    queue_consumer_remove(&a.c, f.now_ms);
    fixture_fini(&f);
}

TestSuite(queue_restart, .init = open_fixture, .fini = close_fixture);

static void restart(bool crash)
{
    if (a.c.queue != NULL)
        queue_consumer_remove(&a.c, f.now_ms);
    if (crash) {
        queue_table_flush(f.table, NULL);
        fixture_crash(&f);
    } else {
        fixture_close(&f);
        fixture_open(&f);
    }
    taster_init(&a, &f);
}

Test(queue_restart, acked_stays_acked_and_unacked_comes_back_redelivered)
{
    for (int crash = 0; crash < 2; crash++) {
        uint64_t id = 1 + (uint64_t)crash;
        struct queue *q = fixture_queue(&f, id, true);

        publish_n(&f, q, 0, 100);
        a.c.prefetch = 50;
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 50);
        taster_settle(&a, QUEUE_ACK, 0, 20);
        taster_settle(&a, QUEUE_ACK, 30, 1);
        taster_settle(&a, QUEUE_REQUEUE, 40, 2);
        restart(crash);
        q = fixture_queue(&f, id, true);
        cr_assert_eq(queue_ready(q), 79);
        cr_assert_eq(queue_unacked(q), 0);
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 79);
        for (size_t i = 0; i < 79; i++) {
            uint64_t number = i < 10 ? 20 + i : 21 + i;

            cr_assert_eq(a.got[i].number, number);
            if (number < 50)
                cr_assert(a.got[i].redelivered);
            else if (!crash)
                cr_assert_not(a.got[i].redelivered, "%d was never delivered", (int)number);
        }
        publish_n(&f, q, 100, 1);
        cr_assert_eq(taster_drain(&a), 1);
        cr_assert_not(a.got[79].redelivered);
        taster_settle(&a, QUEUE_ACK, 0, 80);
        restart(crash);
        cr_assert_eq(queue_ready(fixture_queue(&f, id, true)), 0);
        restart(false);
    }
}

Test(queue_restart, a_purge_is_kept)
{
    for (int crash = 0; crash < 2; crash++) {
        uint64_t id = 1 + (uint64_t)crash;
        struct queue *q = fixture_queue(&f, id, true);

        publish_n(&f, q, 0, 100);
        a.c.prefetch = 10;
        queue_consumer_add(q, &a.c, f.now_ms);
        taster_drain(&a);
        taster_settle(&a, QUEUE_REQUEUE, 5, 1);
        cr_assert_eq(queue_purge(q), 91);
        publish_n(&f, q, 100, 3);
        restart(crash);
        q = fixture_queue(&f, id, true);
        cr_assert_eq(queue_ready(q), 12);
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 12);
        cr_assert_eq(a.got[5].number, 6);
        cr_assert_eq(a.got[9].number, 100);
        restart(crash);
    }
}

Test(queue_restart, what_a_queue_in_memory_held_is_gone)
{
    publish_n(&f, fixture_queue(&f, 1, false), 0, 100);
    restart(false);
    cr_assert_eq(queue_ready(fixture_queue(&f, 1, false)), 0);
}

Test(queue_restart, priorities_and_bytes_are_found_again)
{
    for (int crash = 0; crash < 2; crash++) {
        struct queue_spec s;
        struct queue_info i;
        struct queue *q;

        queue_spec_init(&s, 1 + (uint64_t)crash);
        s.durable = true;
        s.max_priority = 9;
        s.max_length_bytes = 100000;
        cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
        for (uint64_t n = 0; n < 30; n++)
            publish_with(&f, q, n, (uint8_t)(n % 3), -1);
        queue_table_flush(f.table, NULL);
        taster_get(&a, q, true);
        restart(crash);
        cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), 0);
        queue_info(q, &i);
        cr_assert_eq(i.ready, 29);
        cr_assert_eq(i.ready_bytes, 29 * 16);
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 29);
        for (size_t k = 0; k < 29; k++)
            cr_assert_eq(a.got[k].number, k < 9 ? 5 + 3 * k : k < 19 ? 1 + 3 * (k - 9) : 3 * (k - 19));
        restart(false);
    }
}

static uint64_t bytes_on_disk(uint64_t id)
{
    struct queue_info i;

    queue_info(queue_find(f.table, id), &i);
    return i.log_bytes;
}

Test(queue_restart, acknowledged_segments_go_and_a_held_message_survives_between_holes)
{
    struct queue *q = fixture_queue(&f, 1, true);
    uint64_t next = 0, held;

    queue_consumer_add(q, &a.c, f.now_ms);
    publish_n(&f, q, next, 1);
    next++;
    cr_assert_eq(taster_drain(&a), 1); /* held: the first segment must stay */
    held = 1;
    for (unsigned round = 0; round < 100; round++) {
        for (unsigned i = 0; i < 20; i++)
            cr_assert_eq(publish(&f, q, next++, 1000), 0);
        queue_table_flush(f.table, NULL);
        cr_assert_eq(taster_drain(&a), 20);
        if (round == 50) { /* and one in the middle */
            taster_settle(&a, QUEUE_ACK, held, 19);
            held += 1;
            a.got[1] = a.got[a.count - 1];
        } else {
            taster_settle(&a, QUEUE_ACK, held, 20);
        }
        a.count = held;
        queue_table_flush(f.table, NULL);
        queue_table_tick(f.table, f.now_ms);
    }
    cr_assert_leq(bytes_on_disk(1), 300000, "%d bytes of about 2,000,000 are left", (int)bytes_on_disk(1));
    cr_assert_eq(queue_unacked(q), 2);
    for (int crash = 1; crash >= 0; crash--) {
        restart(crash);
        q = fixture_queue(&f, 1, true);
        cr_assert_eq(queue_ready(q), 2);
        queue_consumer_add(q, &a.c, f.now_ms);
        cr_assert_eq(taster_drain(&a), 2);
        cr_assert_eq(a.got[0].number, 0);
        cr_assert(a.got[0].redelivered);
        cr_assert_eq(a.got[1].number, 1020);
    }
    taster_settle(&a, QUEUE_ACK, 0, 2);
    for (unsigned i = 0; i < 200; i++)
        cr_assert_eq(publish(&f, q, next++, 1000), 0);
    cr_assert_eq(queue_purge(q), 200);
    queue_table_flush(f.table, NULL);
    queue_table_tick(f.table, f.now_ms);
    cr_assert_leq(bytes_on_disk(1), 300000);
    restart(true);
    cr_assert_eq(queue_ready(fixture_queue(&f, 1, true)), 0);
}

Test(queue_restart, deleting_an_unopened_queue_takes_its_directory)
{
    char path[200];
    struct stat st;

    publish_n(&f, fixture_queue(&f, 5, true), 0, 10);
    restart(false);
    snprintf(path, sizeof(path), "%s/p-0007/queue/0000000000000005", f.dir);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_not(queue_delete(f.table, 5));
    cr_assert_neq(stat(path, &st), 0);
    cr_assert_eq(queue_ready(fixture_queue(&f, 5, true)), 0);
}

Test(queue_restart, a_queue_that_never_held_a_message_has_no_directory)
{
    char path[200];
    struct stat st;
    struct queue *q = fixture_queue(&f, 5, true);

    queue_consumer_add(q, &a.c, f.now_ms);
    queue_table_flush(f.table, NULL);
    taster_drain(&a);
    queue_table_tick(f.table, f.now_ms);
    restart(false);
    snprintf(path, sizeof(path), "%s/p-0007/queue/0000000000000005", f.dir);
    cr_assert_neq(stat(path, &st), 0);
}

Test(queue_restart, a_torn_clean_checkpoint_is_ignored_and_a_broken_durable_one_refused)
{
    char path[200], durable[200];
    struct queue_spec s;
    struct queue *q = fixture_queue(&f, 5, true);

    publish_n(&f, q, 0, 10);
    taster_get(&a, q, true);
    restart(false);
    snprintf(path, sizeof(path), "%s/p-0007/queue/0000000000000005/checkpoint.clean", f.dir);
    cr_assert_eq(truncate(path, 20), 0);
    q = fixture_queue(&f, 5, true);
    cr_assert_eq(queue_ready(q), 9);
    restart(false);
    snprintf(durable, sizeof(durable), "%s/p-0007/queue/0000000000000005/checkpoint", f.dir);
    cr_assert_eq(truncate(path, 20), 0);
    FILE *out = fopen(durable, "w");
    fputs("GMQC, but not really", out);
    fclose(out);
    queue_spec_init(&s, 5);
    s.durable = true;
    cr_assert_eq(queue_open(f.table, &s, f.now_ms, &q), ERR_CORRUPT);
}

Test(queue_restart, checkpoints_decode_to_what_was_encoded_and_garbage_is_refused)
{
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct queue *q = fixture_queue(&f, seed, true);
        struct ackmap was;
        struct buf out = {0};
        struct rand r;

        rand_seed(&r, seed);
        for (unsigned i = 0; i < 8; i++) {
            for (uint64_t k = rand_below(&r, 3000); k > 0; k--)
                cr_assert_eq(publish(&f, q, 1, 8), 0);
            if (rand_below(&r, 2))
                queue_note_settled(q, (int64_t)rand_below(&r, 100), 1); /* a record that is no message */
            cr_assert_eq(queue_flush(q), 0);
            if (rand_below(&r, 3) == 0)
                ackmap_settle_range(&q->acks, (int64_t)rand_below(&r, (uint64_t)q->acks.end),
                                    q->acks.end - 5);
            for (uint64_t k = rand_below(&r, 3000); k > 0; k--)
                ackmap_settle(&q->acks, (int64_t)rand_below(&r, (uint64_t)q->acks.end));
        }
        queue_checkpoint_encode(q, &out);
        was = q->acks;
        ackmap_init(&q->acks, 0);
        cr_assert_eq(queue_checkpoint_decode(q, buf_slice(&out)), 0);
        cr_assert_eq(q->acks.live, was.live);
        cr_assert_eq(q->acks.end, was.end);
        for (int64_t o = 0; o < was.end; o++)
            cr_assert_eq(ackmap_is_live(&q->acks, o), ackmap_is_live(&was, o), "seed %d offset %d", (int)seed,
                         (int)o);
        for (unsigned i = 0; i < 300; i++) {
            size_t at = rand_below(&r, out.len), n = out.len;
            uint8_t old = out.data[at];

            if (rand_below(&r, 4) == 0)
                n = at;
            out.data[at] ^= (uint8_t)(1 + rand_below(&r, 255));
            cr_assert_neq(queue_checkpoint_decode(q, slice_of(out.data, n)), 0);
            if (n > 8) { /* past the checksum: still no read outside, no crash */
                uint32_t crc = be32_get(out.data + 4);

                be32_put(out.data + 4, crc32c(0, out.data + 8, n - 8));
                (void)queue_checkpoint_decode(q, slice_of(out.data, n));
                be32_put(out.data + 4, crc);
            }
            out.data[at] = old;
        }
        ackmap_fini(&q->acks);
        q->acks = was;
        q->reserve_logged = 0;
        buf_fini(&out);
        q->ready = q->acks.live;
    }
}
