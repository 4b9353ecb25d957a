/* What a follower keeps of a queue: the same as its leader, up to the high watermark, whatever is cut, dropped or killed on the way. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/rand.h"
#include "fixture.h"
#include "queue/internal.h"

#define DIR_NAME "p-0007/queue/0000000000000001"

static struct fixture f; /* the leader */
static struct taster a;
static struct queue *q;

/* The follower. */
static char dir[96];
static struct log_store *store;
static struct queue_table *table;
static struct log *copy;
static struct queue_followed got;

static void follower_open(void)
{
    struct log_store_options so = {.data_dir = dir, .fsync = LOG_FSYNC_NEVER, .segment_bytes = 1 << 20};

    cr_assert_eq(log_store_open(&so, NULL, &store), 0);
    cr_assert_eq(log_open(store, &(struct log_options){.kind = LOG_QUEUE, .dir = DIR_NAME, .log_id = 1, .segment_bytes = 20000}, &copy), 0);
    cr_assert_eq(log_recover(copy), 0);
    log_set_replicated(copy, true, log_hw_stored(copy));
    table = queue_table_new(
        &(struct queue_table_options){.data_dir = dir, .partition = 7, .store = store, .segment_bytes = 20000, .checkpoint_bytes = 16384, .commit_at_end = true});
}

static void follower_close(void)
{
    log_set_replicated(copy, false, 0);
    queue_table_free(table);
    log_close(copy);
    log_store_close(store);
}

static void begin(void)
{
    fixture_init(&f);
    f.segment_bytes = 8192;
    f.checkpoint_bytes = 1 << 30; /* the leader drops nothing, so that everything can be fetched at any time */
    fixture_open(&f);
    snprintf(dir, sizeof(dir), "%s/other", f.dir);
    q = fixture_queue(&f, 1, true);
    taster_init(&a, &f);
    queue_consumer_add(q, &a.c, f.now_ms);
    follower_open();
}

static void end(void)
{
    queue_consumer_remove(&a.c, f.now_ms);
    follower_close();
    fixture_fini(&f);
}

/* Up to `bytes` of the leader's log; the watermark stays. */
static void fetch(size_t bytes)
{
    struct buf b = {0};
    struct log_span span;
    int64_t now;

    if (log_end(copy) == log_end(queue_log(q)))
        return;
    cr_assert_eq(log_read(queue_log(q), log_end(copy), log_end(queue_log(q)), bytes, false, &span), 0);
    cr_assert_eq(log_span_copy(&span, &b), 0);
    log_span_release(&span);
    cr_assert_eq(log_append_replica(copy, b.data, b.len, &now), 0);
    buf_fini(&b);
}

static void fetch_all(void)
{
    while (log_end(copy) != log_end(queue_log(q)))
        fetch(1 << 20);
    log_set_hw(copy, log_end(copy));
}

static int follow(bool durable)
{
    int err;

    do
        err = queue_follow(table, 1, copy, durable, &got);
    while (err == 0 && got.more);
    return err;
}

static void is_what_the_leader_has(void)
{
    struct queue *kept = queue_followed_take(table, 1);

    cr_assert_not_null(kept);
    cr_assert_eq(kept->acks.live, q->acks.live);
    for (int64_t o = 0; o < kept->acks.end; o++)
        cr_assert_eq(ackmap_is_live(&kept->acks, o), ackmap_is_live(&q->acks, o), "offset %lld", (long long)o);
    cr_assert_eq(kept->reserve_logged, q->reserve_logged);
    cr_assert_eq(kept->producer_count, q->producer_count);
    for (uint32_t i = 0; i < kept->producer_count; i++)
        cr_assert_eq(queue_producer_find(q, kept->producers[i].id)->sequence, kept->producers[i].sequence);
    list_push_back(&table->followed, &kept->follow_node);
}

static int64_t on_disk(const char *name)
{
    struct queue_spec spec;
    struct queue *r;
    int64_t s = -1;
    char path[160];
    bool found;

    snprintf(path, sizeof(path), "%s/" DIR_NAME "/%s", dir, name);
    if (access(path, F_OK) != 0)
        return -1;
    queue_spec_init(&spec, 1);
    spec.durable = true;
    r = queue_new(table, &spec);
    r->log = copy;
    cr_assert_eq(queue_load_state(r, &found), 0);
    s = r->acks.end;
    queue_free(r);
    return s;
}

Test(follow, goes_to_the_high_watermark_and_no_further)
{
    begin();
    publish_n(&f, q, 0, 10);
    publish_n(&f, q, 10, 10);
    fetch(1 << 20);
    log_set_hw(copy, 13); /* within the second batch */
    cr_assert_eq(follow(false), 0);
    cr_assert_leq(got.end, 13);
    cr_assert_gt(got.end, 0);
    log_set_hw(copy, log_end(copy));
    cr_assert_eq(follow(false), 0);
    cr_assert_eq(got.end, log_end(copy));
    is_what_the_leader_has();
    end();
}

Test(follow, writes_a_checkpoint_when_what_it_says_is_durable)
{
    begin();
    for (unsigned i = 0; i < 100; i++)
        cr_assert_eq(publish(&f, q, i, 500), 0);
    queue_table_flush(f.table, NULL);
    fetch_all();
    cr_assert_eq(follow(false), 0);
    cr_assert(got.waits);
    cr_assert_eq(on_disk("checkpoint.clean"), -1);
    cr_assert_eq(log_store_sync(store), 0);
    cr_assert_eq(follow(false), 0);
    cr_assert_not(got.waits);
    cr_assert_eq(got.covers, -1, "nothing can be dropped, so it is not synced");
    cr_assert_eq(on_disk("checkpoint.clean"), log_end(copy));
    cr_assert_eq(on_disk("checkpoint"), -1);
    cr_assert_eq(follow(true), 0);
    cr_assert_eq(got.covers, log_end(copy));
    cr_assert_eq(queue_checkpoint_covers(dir, 7, 1), log_end(copy));
    end();
}

Test(follow, drops_what_is_dead_behind_a_durable_checkpoint)
{
    uint64_t before;

    begin();
    for (unsigned i = 0; i < 200; i++) {
        cr_assert_eq(publish(&f, q, i, 500), 0);
        queue_table_flush(f.table, NULL);
        fetch_all();
    }
    while (taster_drain(&a) > 0)
        ;
    cr_assert_eq(a.count, 200);
    taster_settle(&a, QUEUE_ACK, 1, 150); /* the first stays */
    queue_table_flush(f.table, NULL);
    fetch_all();
    cr_assert_eq(log_store_sync(store), 0);
    before = log_bytes(copy);
    cr_assert_eq(follow(false), 0);
    cr_assert_gt(got.dropped, 1u);
    cr_assert_eq(got.covers, log_end(copy));
    cr_assert_lt(log_bytes(copy), before);
    is_what_the_leader_has();
    follower_close();
    follower_open();
    cr_assert_eq(follow(false), 0);
    is_what_the_leader_has();
    end();
}

/* An unclean election may cut what was committed. */
Test(follow, a_cut_below_a_checkpoint_takes_it_away)
{
    bool gone;
    int64_t s;

    begin();
    for (unsigned i = 0; i < 100; i++)
        cr_assert_eq(publish(&f, q, i, 500), 0);
    queue_table_flush(f.table, NULL);
    fetch_all();
    cr_assert_eq(log_store_sync(store), 0);
    cr_assert_eq(follow(true), 0);
    s = got.covers;
    cr_assert_gt(s, 0);
    cr_assert_eq(queue_checkpoint_cut(dir, 7, 1, s, &gone), 0);
    cr_assert_not(gone, "all that it knows is still there");
    cr_assert_eq(queue_checkpoint_covers(dir, 7, 1), s);
    for (unsigned i = 0; i < 100; i++)
        cr_assert_eq(publish(&f, q, 100 + i, 500), 0);
    queue_table_flush(f.table, NULL);
    fetch_all();
    cr_assert_eq(log_store_sync(store), 0);
    cr_assert_eq(follow(false), 0);
    cr_assert_gt(on_disk("checkpoint.clean"), s);
    cr_assert_eq(queue_checkpoint_cut(dir, 7, 1, s, &gone), 0);
    cr_assert(gone);
    cr_assert_eq(on_disk("checkpoint.clean"), -1);
    cr_assert_eq(queue_checkpoint_covers(dir, 7, 1), s);
    cr_assert_eq(queue_checkpoint_cut(dir, 7, 1, s - 1, &gone), 0);
    cr_assert(gone);
    cr_assert_eq(queue_checkpoint_covers(dir, 7, 1), -1);
    queue_unfollow(table, 1);
    cr_assert_null(queue_followed_take(table, 1));
    end();
}

static void drain(struct taster *s, struct queue *from, struct queue_table *t)
{
    taster_init(s, &f);
    queue_consumer_add(from, &s->c, f.now_ms);
    do {
        queue_table_flush(t, NULL);
        if (log_replicated(queue_log(from)))
            log_set_hw(queue_log(from), log_end(queue_log(from)));
        queue_table_hw_advanced(t);
        s->taken = 0;
        s->take.max = QUEUE_TAKE_MAX;
        queue_table_flush(t, NULL);
        cr_assert_eq(queue_take(&s->c, &s->take, f.now_ms), 0);
    } while (s->take.count > 0 || s->take.stalled);
    queue_consumer_remove(&s->c, f.now_ms);
}

/* Whatever happens in between, who comes to lead has exactly the leader's messages and replays only what it has not followed. */
static void wander(uint64_t seed)
{
    uint64_t number = 0, settled = 0;
    struct queue_spec spec;
    struct queue *next;
    struct rand r;
    int32_t sequence = 0, expected;
    int err;
    static struct taster b;

    rand_seed(&r, seed);
    begin();
    for (unsigned step = 0; step < 300; step++) {
        switch (rand_below(&r, 10)) {
        case 0:
        case 1:
        case 2:
            for (uint64_t n = rand_below(&r, 20); n > 0 && number < 1000; n--)
                cr_assert_eq(publish(&f, q, number++, 8 + rand_below(&r, 300)), 0);
            queue_table_flush(f.table, NULL);
            break;
        case 3:
            cr_assert_eq(queue_forward_begin(q, 77, 0, sequence, &expected), 0);
            for (uint64_t n = rand_below(&r, 5); n > 0 && number < 1000; n--)
                cr_assert_eq(publish(&f, q, number++, 8 + rand_below(&r, 300)), 0);
            cr_assert_eq(queue_forward_end(q, 77, 0, sequence++), 0);
            break;
        case 4:
            taster_take(&a, (uint32_t)rand_below(&r, 60));
            break;
        case 5:
            while (settled < a.count && rand_below(&r, 20) != 0) {
                taster_settle(&a, rand_below(&r, 5) == 0 ? QUEUE_REQUEUE : QUEUE_ACK, settled, 1);
                settled++;
            }
            queue_table_flush(f.table, NULL);
            break;
        case 6:
            if (rand_below(&r, 8) == 0) {
                queue_purge(q);
                queue_table_flush(f.table, NULL);
            }
            break;
        case 7:
            fetch(1 + rand_below(&r, 20000));
            log_set_hw(copy, log_hw(copy) + (int64_t)rand_below(&r, (uint64_t)(log_end(copy) - log_hw(copy) + 1)));
            break;
        case 8:
            if (rand_below(&r, 2) == 0)
                cr_assert_eq(log_store_sync(store), 0);
            err = follow(rand_below(&r, 6) == 0);
            cr_assert_eq(err, 0, "seed %llu step %u: %s", (unsigned long long)seed, step, err_name(err));
            break;
        case 9:
            if (rand_below(&r, 6) == 0) {
                follower_close();
                follower_open();
            } else if (rand_below(&r, 4) == 0) { /* an election: what is not committed is cut */
                int64_t to = log_hw(copy) + (int64_t)rand_below(&r, (uint64_t)(log_end(copy) - log_hw(copy) + 1));
                bool gone;

                cr_assert_eq(queue_checkpoint_cut(dir, 7, 1, to, &gone), 0);
                cr_assert_not(gone);
                cr_assert_eq(log_truncate(copy, to), 0);
            }
            break;
        }
        if (a.count > GOT_MAX - 100)
            break;
    }
    fetch_all();
    if (rand_below(&r, 2) == 0)
        cr_assert_eq(follow(false), 0);
    queue_spec_init(&spec, 1);
    spec.durable = true;
    cr_assert_eq(queue_open(table, &spec, f.now_ms, &next), 0);
    cr_assert_eq(queue_ready(next), q->acks.live);
    for (int64_t o = 0; o < log_end(copy); o++)
        cr_assert_eq(ackmap_is_live(&next->acks, o), ackmap_is_live(&q->acks, o), "seed %llu offset %lld", (unsigned long long)seed, (long long)o);
    cr_assert_eq(next->reserve_logged, q->reserve_logged);
    drain(&b, next, table);
    /* The leader, were it to lead again, would deliver the same. */
    queue_consumer_remove(&a.c, f.now_ms);
    queue_table_close(f.table);
    q = fixture_queue(&f, 1, true);
    drain(&a, q, f.table);
    cr_assert_eq(a.count, b.count);
    for (size_t i = 0; i < a.count; i++) {
        cr_assert_eq(a.got[i].number, b.got[i].number);
        cr_assert_eq(a.got[i].redelivered, b.got[i].redelivered, "seed %llu message %llu", (unsigned long long)seed, (unsigned long long)a.got[i].number);
    }
    end();
}

Test(follow, a_leader_to_be_has_what_its_leader_has_by_seed)
{
    for (uint64_t seed = 1; seed <= 40; seed++)
        wander(seed);
}

Test(follow, who_followed_replays_what_arrived_since)
{
    struct queue_spec spec;
    struct queue *next;

    begin();
    for (unsigned i = 0; i < 500; i++)
        cr_assert_eq(publish(&f, q, i, 100), 0);
    queue_table_flush(f.table, NULL);
    fetch_all();
    cr_assert_eq(follow(false), 0);
    publish_n(&f, q, 500, 7);
    fetch_all();
    queue_spec_init(&spec, 1);
    spec.durable = true;
    cr_assert_eq(queue_open(table, &spec, f.now_ms, &next), 0);
    cr_assert_eq(queue_ready(next), 507);
    cr_assert_eq(queue_table_replayed(table).locked, 7);
    cr_assert_null(queue_followed_take(table, 1), "it is the queue's now");
    end();
}
