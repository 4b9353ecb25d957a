#include "fixture.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fileio.h"

void fixture_init(struct fixture *f)
{
    *f = (struct fixture){.now_ms = 1000000, .commit_at_end = true};
    strcpy(f->dir, "/tmp/gomsg-queue-XXXXXX");
    cr_assert_not_null(mkdtemp(f->dir));
}

static void ended(void *arg, uint64_t queue_id, enum queue_end reason)
{
    struct fixture *f = arg;

    f->ended_id = queue_id;
    f->ended = reason;
    f->ended_count++;
}

static void background(void *arg, struct queue_job *job)
{
    struct fixture *f = arg;

    cr_assert_null(f->jobs);
    f->jobs = job;
}

void fixture_run_job(struct fixture *f)
{
    struct queue_job *job = f->jobs;

    cr_assert_not_null(job);
    f->jobs = NULL;
    job->run(job);
    job->done(job);
}

static void opened(void *arg)
{
    ((struct fixture *)arg)->opened++;
}

void fixture_open(struct fixture *f)
{
    struct log_store_options so = {
        .data_dir = f->dir,
        .fsync = f->commit_at_end ? LOG_FSYNC_NEVER : LOG_FSYNC_INTERVAL,
        .sync_interval_ms = 1000,
        .segment_bytes = 1 << 20,
        .failpoint = f->failpoint,
    };
    struct queue_table_options o = {
        .data_dir = f->dir,
        .partition = 7,
        .segment_bytes = f->segment_bytes,
        .checkpoint_bytes = f->checkpoint_bytes,
        .commit_at_end = f->commit_at_end,
        .arg = f,
        .ended = ended,
        .background = f->background ? background : NULL,
        .opened = opened,
    };

    cr_assert_eq(log_store_open(&so, f->workers, &f->store), 0);
    o.store = f->store;
    f->table = queue_table_new(&o);
}

void fixture_close(struct fixture *f)
{
    if (f->store == NULL)
        return;
    queue_table_free(f->table);
    log_store_close(f->store);
    f->table = NULL;
    f->store = NULL;
}

void fixture_fini(struct fixture *f)
{
    fixture_close(f);
    file_remove_tree(f->dir);
}

void fixture_crash(struct fixture *f)
{
    char old[64], command[200];
    int err;

    strcpy(old, f->dir);
    strcpy(f->dir, "/tmp/gomsg-queue-XXXXXX");
    cr_assert_not_null(mkdtemp(f->dir));
    snprintf(command, sizeof(command), "cp -a %s/. %s/ 2>/dev/null", old, f->dir);
    /* A temporary file of the store's own threads may go while it is copied. */
    for (unsigned i = 0; (err = system(command)) != 0 && i < 20; i++)
        ;
    cr_assert_eq(err, 0);
    queue_table_free(f->table);
    log_store_close(f->store);
    file_remove_tree(old);
    fixture_open(f);
}

struct queue *fixture_queue(struct fixture *f, uint64_t id, bool durable)
{
    struct queue_spec s;
    struct queue *q = NULL;

    queue_spec_init(&s, id);
    s.durable = durable;
    cr_assert_eq(queue_open(f->table, &s, f->now_ms, &q), 0);
    return q;
}

static void news(struct queue_consumer *c)
{
    CONTAINER_OF(c, struct taster, c)->news++;
}

static bool deliver(void *arg, const struct queue_delivery *d)
{
    struct taster *s = arg;
    uint64_t number;

    if (s->taken == s->refuse_after)
        return false;
    s->taken++;
    cr_assert_geq(d->body.len, 8);
    memcpy(&number, d->body.data, 8);
    for (size_t i = 8; i < d->body.len; i++)
        cr_assert_eq(d->body.data[i], (uint8_t)number);
    cr_assert(slice_eq(d->exchange, slice_str("ex")));
    cr_assert(slice_eq(d->routing_key, slice_str("key")));
    cr_assert(slice_eq(d->properties, slice_of("\x10\x00\x02", 3)));
    cr_assert_eq(d->handle.size, d->body.len);
    cr_assert_lt(s->count, GOT_MAX);
    s->got[s->count].handle = d->handle;
    s->got[s->count].number = number;
    s->got[s->count].delivery_count = d->delivery_count;
    s->got[s->count].redelivered = d->redelivered;
    s->count++;
    return true;
}

void taster_init(struct taster *s, struct fixture *f)
{
    memset(s, 0, sizeof(*s));
    s->f = f;
    s->c.news = news;
    s->refuse_after = UINT32_MAX;
    s->take.deliver = deliver;
    s->take.arg = s;
}

int taster_take(struct taster *s, uint32_t max)
{
    int err;

    s->taken = 0;
    s->take.max = max;
    err = queue_take(&s->c, &s->take, s->f->now_ms);
    queue_table_flush(s->f->table, NULL);
    return err;
}

size_t taster_drain(struct taster *s)
{
    size_t before = s->count;

    do {
        cr_assert_eq(taster_take(s, QUEUE_TAKE_MAX), 0);
    } while (s->take.count > 0);
    return s->count - before;
}

int taster_get(struct taster *s, struct queue *q, bool no_ack)
{
    s->taken = 0;
    s->take.max = 1;
    return queue_get(q, no_ack, &s->take, s->f->now_ms);
}

void taster_settle(struct taster *s, enum queue_settle how, size_t first, size_t n)
{
    struct queue_handle h[GOT_MAX];

    for (size_t i = 0; i < n; i++)
        h[i] = s->got[first + i].handle;
    queue_settle(s->c.queue, &s->c, how, h, n);
}

static int publish_full(struct fixture *f, struct queue *q, uint64_t number, size_t size, uint8_t priority,
                        int64_t expiration_ms)
{
    uint8_t bytes[70000];
    struct slice body[2];
    struct queue_message m = {
        .exchange = SLICE_LIT("ex"),
        .routing_key = SLICE_LIT("key"),
        .properties = slice_of("\x10\x00\x02", 3),
        .body = body,
        .body_count = 2,
        .persistent = true,
        .priority = priority,
        .expiration_ms = expiration_ms,
    };

    cr_assert(size >= 8 && size <= sizeof(bytes));
    memset(bytes, (uint8_t)number, size);
    memcpy(bytes, &number, 8);
    body[0] = slice_of(bytes, size / 2);
    body[1] = slice_of(bytes + size / 2, size - size / 2);
    return queue_publish(q, &m, f->now_ms, NULL);
}

int publish(struct fixture *f, struct queue *q, uint64_t number, size_t size)
{
    return publish_full(f, q, number, size, 0, -1);
}

int publish_with(struct fixture *f, struct queue *q, uint64_t number, uint8_t priority, int64_t expiration_ms)
{
    return publish_full(f, q, number, 16, priority, expiration_ms);
}

void publish_n(struct fixture *f, struct queue *q, uint64_t first, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        cr_assert_eq(publish(f, q, first + i, 16), 0);
    cr_assert_eq(queue_table_flush(f->table, NULL), 0);
}
