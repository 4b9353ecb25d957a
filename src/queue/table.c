/* The table: queues by id, what is dirty, what is timed. */
#include "queue/internal.h"

#include <stdio.h>
#include <sys/stat.h>

#define CHECKPOINT_BYTES (4u << 20)
#define OPEN_AT_ONCE_BYTES (64u << 10)
#define RETRY_MS 1000
#define TICK_QUEUES 256

struct queue_table *queue_table_new(const struct queue_table_options *options)
{
    struct queue_table *t = mem_zalloc(sizeof(*t));

    MAGIC_INIT(t, QUEUE_TABLE_MAGIC);
    t->options = *options;
    if (t->options.segment_bytes == 0)
        t->options.segment_bytes = QUEUE_SEGMENT_BYTES;
    if (t->options.checkpoint_bytes == 0)
        t->options.checkpoint_bytes = CHECKPOINT_BYTES;
    if (t->options.open_at_once_bytes == 0)
        t->options.open_at_once_bytes = OPEN_AT_ONCE_BYTES;
    t->options.data_dir = mem_strdup(options->data_dir);
    t->stirred = options->stirred != NULL ? options->stirred : &t->unlooked;
    t->bucket_count = 16;
    t->buckets = mem_calloc(t->bucket_count, sizeof(*t->buckets));
    list_init(&t->dirty);
    list_init(&t->timed);
    atomic_init(&t->next_tick, INT64_MAX);
    mutex_init(&t->hw_mutex);
    list_init(&t->hw_news);
    list_init(&t->openings);
    list_init(&t->followed);
    mutex_init(&t->opening_mutex);
    mutex_init(&t->follow_mutex);
    mutex_init(&t->files_mutex);
    CHECK(pthread_cond_init(&t->opening_ran, NULL) == 0);
    return t;
}

/* ---- news of high watermarks ----------------------------------------------------------------- */

static void hw_moved(struct log_watch *w, struct log *l)
{
    struct queue *q = CONTAINER_OF(w, struct queue, hw_watch);
    struct queue_table *t = q->table;
    bool tell = false;

    (void)l;
    if (!atomic_load(&q->hw_wanted))
        return;
    mutex_lock(&t->hw_mutex);
    if (!list_linked(&q->hw_node))
        list_push_back(&t->hw_news, &q->hw_node);
    if (!t->hw_told)
        t->hw_told = tell = true;
    mutex_unlock(&t->hw_mutex);
    if (tell && t->options.hw_moved != NULL)
        t->options.hw_moved(t->options.arg);
}

void queue_table_hw_advanced(struct queue_table *t)
{
    struct list *n;

    mutex_lock(&t->hw_mutex);
    t->hw_told = false;
    while ((n = list_pop_front(&t->hw_news)) != NULL) {
        struct queue *q = LIST_ENTRY(n, struct queue, hw_node);

        atomic_store(&q->hw_wanted, false); /* granting says so again when more is hidden */
        queue_mark_dirty(q);
    }
    mutex_unlock(&t->hw_mutex);
}

/* Closes its log, or deletes it. */
static void forget_log(struct queue *q, bool delete)
{
    log_unset_hw_watch(q->log, &q->hw_watch);
    mutex_lock(&q->table->hw_mutex);
    list_remove(&q->hw_node);
    mutex_unlock(&q->table->hw_mutex);
    if (delete)
        log_delete(q->log);
    else
        log_close(q->log);
}

static inline uint32_t bucket_of(const struct queue_table *t, uint64_t id)
{
    return (uint32_t)((id * 0x9e3779b97f4a7c15ull) >> 32) & (t->bucket_count - 1);
}

struct queue *queue_find(const struct queue_table *t, uint64_t id)
{
    struct queue *q = t->buckets[bucket_of(t, id)];

    while (q != NULL && q->spec.id != id)
        q = q->hash_next;
    return q;
}

static void insert(struct queue_table *t, struct queue *q)
{
    uint32_t b;

    if (t->count >= t->bucket_count) {
        uint32_t old_count = t->bucket_count;
        struct queue **old = t->buckets;

        t->bucket_count *= 2;
        t->buckets = mem_calloc(t->bucket_count, sizeof(*t->buckets));
        for (uint32_t i = 0; i < old_count; i++)
            for (struct queue *e = old[i], *next; e != NULL; e = next) {
                next = e->hash_next;
                b = bucket_of(t, e->spec.id);
                e->hash_next = t->buckets[b];
                t->buckets[b] = e;
            }
        mem_free(old);
    }
    b = bucket_of(t, q->spec.id);
    q->hash_next = t->buckets[b];
    t->buckets[b] = q;
    t->count++;
}

static void unlink_queue(struct queue_table *t, struct queue *q)
{
    struct queue **at = &t->buckets[bucket_of(t, q->spec.id)];

    while (*at != q)
        at = &(*at)->hash_next;
    *at = q->hash_next;
    t->count--;
    list_remove(&q->dirty_node);
    list_remove(&q->timed_node);
}

void queue_mark_dirty(struct queue *q)
{
    if (q->dirty)
        return;
    q->dirty = true;
    list_push_back(&q->table->dirty, &q->dirty_node);
    *q->table->stirred = true;
}

void queue_mark_timed(struct queue *q, int64_t at_ms)
{
    if (!q->timed) {
        q->timed = true;
        list_push_back(&q->table->timed, &q->timed_node);
    }
    if (at_ms < atomic_load_explicit(&q->table->next_tick, memory_order_relaxed))
        atomic_store_explicit(&q->table->next_tick, at_ms, memory_order_relaxed);
}

void queue_see_time(struct queue_table *t, int64_t now_ms)
{
    if (now_ms > t->now_ms)
        t->now_ms = now_ms;
}

void queue_submit(struct queue_table *t, struct queue_job *job)
{
    t->jobs++;
    if (t->options.background != NULL) {
        t->options.background(t->options.arg, job);
        return;
    }
    job->run(job);
    job->done(job);
}

void queue_dir(const struct queue_table *t, uint64_t id, char *out, size_t size)
{
    snprintf(out, size, "p-%04u/queue/%016llx", t->options.partition, (unsigned long long)id);
}

void queue_free(struct queue *q)
{
    MAGIC_FINI(q, QUEUE_MAGIC);
    if (q->pending != NULL)
        queue_pending_free(q->pending);
    ackmap_fini(&q->acks);
    queue_heap_fini(&q->heap);
    if (q->rings != NULL)
        for (unsigned p = 0; p <= q->spec.max_priority; p++)
            queue_ring_fini(&q->rings[p]);
    mem_free(q->rings);
    mem_free(q->producers);
    buf_fini(&q->own_window);
    queue_frozen_free(q->frozen);
    mem_free(q);
}

void queue_table_free(struct queue_table *t)
{
    if (t == NULL)
        return;
    MAGIC_FINI(t, QUEUE_TABLE_MAGIC);
    for (uint32_t i = 0; i < t->bucket_count; i++)
        for (struct queue *q = t->buckets[i], *next; q != NULL; q = next) {
            next = q->hash_next;
            CHECK(q->consumer_count == 0);
            queue_flush(q);
            queue_checkpoint_forget(q);
            if (q->on_disk && q->failed == 0)
                queue_checkpoint_write_clean(q);
            forget_log(q, false);
            queue_free(q);
        }
    CHECK(t->jobs == 0);
    queue_openings_free(t);
    queue_unfollow(t, 0);
    mutex_fini(&t->hw_mutex);
    mutex_fini(&t->opening_mutex);
    mutex_fini(&t->follow_mutex);
    mutex_fini(&t->files_mutex);
    pthread_cond_destroy(&t->opening_ran);
    for (struct queue_pending *p = t->pool, *next; p != NULL; p = next) {
        next = p->next;
        queue_pending_free(p);
    }
    buf_fini(&t->window);
    buf_fini(&t->scratch);
    mem_free(t->buckets);
    mem_free((char *)t->options.data_dir);
    mem_free(t);
}

void queue_table_close(struct queue_table *t)
{
    queue_openings_cancel(t);
    for (uint32_t i = 0; i < t->bucket_count; i++)
        for (struct queue *q = t->buckets[i], *next; q != NULL; q = next) {
            next = q->hash_next;
            if (q->spec.exclusive) /* its home is this node (rule 18) */
                continue;
            queue_detach_all(q, true);
            queue_checkpoint_forget(q);
            unlink_queue(t, q);
            forget_log(q, false);
            queue_free(q);
        }
    t->flush_error = 0;
    mutex_lock(&t->hw_mutex);
    t->hw_told = false;
    mutex_unlock(&t->hw_mutex);
}

int queue_table_flush(struct queue_table *t, struct log_commit *commit)
{
    struct list again;
    struct list *n;
    int err = t->flush_error;

    t->flush_error = 0;
    list_init(&again);
    while ((n = list_pop_front(&t->dirty)) != NULL) {
        struct queue *q = LIST_ENTRY(n, struct queue, dirty_node);

        q->dirty = false;
        queue_flush(q);
        queue_grant(q); /* may want a reservation, which makes it dirty again */
        if (q->wrote && commit != NULL && q->on_disk)
            log_commit_add(commit, q->log, log_end(q->log));
        q->wrote = false;
        if (!q->on_disk)
            queue_drop_settled(q);
        if (q->pending != NULL && q->pending->batch.count == 0) {
            /* The disk is full even for acknowledgements: they wait for the next acquisition, or for the
             * tick. */
            list_remove(&q->dirty_node);
            q->dirty = true;
            list_push_back(&again, &q->dirty_node);
            queue_mark_timed(q, t->now_ms + RETRY_MS);
        }
    }
    list_splice(&t->dirty, &again);
    *t->stirred = !list_empty(&t->dirty);
    if (t->flush_error != 0)
        err = t->flush_error;
    t->flush_error = 0;
    return err;
}

/* When this queue wants its next tick; INT64_MAX: not at all. */
static int64_t due_at(const struct queue *q)
{
    const struct queue_table *t = q->table;
    int64_t due = INT64_MAX;

    if (q->has_ttl && q->ready > 0 && q->warm == NULL)
        due = q->next_expiry;
    if (q->spec.expires_ms >= 0 && q->consumer_count == 0 && !q->ending)
        due = MIN_OF(due, q->unused_since + q->spec.expires_ms);
    if (q->checkpoint != NULL || queue_checkpoint_due(q))
        due = MIN_OF(due, t->now_ms + RETRY_MS);
    if (q->pending != NULL || (q->waiter != NULL && !q->wait_cold && q->reserve_end == 0))
        due = MIN_OF(due, t->now_ms + RETRY_MS);
    return due;
}

static void tick_queue(struct queue *q, int64_t now_ms)
{
    struct queue_table *t = q->table;

    queue_expire_head(q, now_ms);
    if (q->spec.expires_ms >= 0 && q->consumer_count == 0 && !q->ending &&
        q->unused_since + q->spec.expires_ms <= now_ms) {
        q->ending = true;
        if (t->options.ended != NULL)
            t->options.ended(t->options.arg, q->spec.id, QUEUE_END_EXPIRED);
    }
    if (q->waiter != NULL && !q->wait_cold && q->reserve_end == 0) {
        q->waiter = NULL; /* its reservation found the disk full: try again */
        queue_mark_dirty(q);
    }
    queue_checkpoint_tick(q);
}

/* The lock is held for at most TICK_QUEUES of them; the list turns, so all have their turn. */
void queue_table_tick(struct queue_table *t, int64_t now_ms)
{
    int64_t next = INT64_MAX;
    unsigned budget = TICK_QUEUES;
    struct list later;
    struct list *n;

    queue_see_time(t, now_ms);
    atomic_store_explicit(&t->next_tick, INT64_MAX, memory_order_relaxed);
    list_init(&later);
    while (budget-- > 0 && (n = list_pop_front(&t->timed)) != NULL) {
        struct queue *q = LIST_ENTRY(n, struct queue, timed_node);
        int64_t due;

        tick_queue(q, now_ms);
        due = due_at(q);
        if (due == INT64_MAX) {
            q->timed = false;
            continue;
        }
        list_push_back(&later, &q->timed_node);
        if (due < next)
            next = MAX_OF(due, now_ms + 1); /* expiry has a budget; what is left goes with the next tick */
    }
    if (!list_empty(&t->timed))
        next = now_ms + 1;
    list_splice(&t->timed, &later);
    if (next < atomic_load_explicit(&t->next_tick, memory_order_relaxed))
        atomic_store_explicit(&t->next_tick, next, memory_order_relaxed);
    queue_table_flush(t, NULL);
}

int64_t queue_table_next_tick(const struct queue_table *t)
{
    return atomic_load_explicit(&((struct queue_table *)t)->next_tick, memory_order_relaxed);
}

uint64_t queue_table_count(const struct queue_table *t)
{
    return t->count;
}

void queue_spec_init(struct queue_spec *s, uint64_t id)
{
    *s = (struct queue_spec){
        .id = id, .message_ttl_ms = -1, .expires_ms = -1, .max_length = -1, .max_length_bytes = -1};
}

static _Atomic uint64_t openings;

struct queue *queue_new(struct queue_table *t, const struct queue_spec *spec)
{
    struct queue *q = mem_zalloc(sizeof(*q));

    MAGIC_INIT(q, QUEUE_MAGIC);
    q->table = t;
    q->spec = *spec;
    q->opened = atomic_fetch_add(&openings, 1) + 1;
    q->on_disk = spec->durable && !spec->exclusive;
    q->cursor_batch = -1;
    q->cursor_place = LOG_NOWHERE;
    q->reserve_ahead = QUEUE_RESERVE_AHEAD;
    q->hw_watch.changed = hw_moved;
    list_init(&q->consumers);
    list_init(&q->turn);
    if (spec->max_priority > 0)
        q->rings = mem_calloc((size_t)spec->max_priority + 1, sizeof(*q->rings));
    return q;
}

void queue_enter(struct queue_table *t, struct queue *q)
{
    if (!q->on_disk)
        q->reserve_committed = INT64_MAX;
    q->unused_since = t->now_ms;
    log_set_hw_watch(q->log, &q->hw_watch);
    insert(t, q);
    if (q->spec.expires_ms >= 0)
        queue_mark_timed(q, q->unused_since + q->spec.expires_ms);
    if (q->has_ttl && q->ready > 0)
        queue_mark_timed(q, t->now_ms);
}

struct queue_replayed queue_table_replayed(const struct queue_table *t)
{
    struct queue_table *m = (struct queue_table *)t;

    return (struct queue_replayed){.background = atomic_load(&m->replayed_background),
                                   .locked = atomic_load(&m->replayed_locked),
                                   .followed = atomic_load(&m->replayed_followed)};
}

/* A durable queue nobody used in this run: its directory goes with its log. */
static void delete_unopened(struct queue_table *t, uint64_t id)
{
    struct log_options lo = {.kind = LOG_QUEUE, .log_id = id};
    struct log *l = NULL;
    struct stat st;
    char dir[64], *path;
    bool there;

    queue_dir(t, id, dir, sizeof(dir));
    path = mem_printf("%s/%s", t->options.data_dir, dir);
    there = stat(path, &st) == 0;
    mem_free(path);
    if (!there)
        return;
    lo.dir = dir;
    log_open(t->options.store, &lo, &l);
    if (l != NULL)
        log_delete(l);
}

bool queue_delete(struct queue_table *t, uint64_t id)
{
    struct queue *q = queue_find(t, id);

    queue_unfollow(t, id);
    if (q == NULL) {
        queue_opening_cancel(t, id);
        delete_unopened(t, id);
        return false;
    }
    queue_detach_all(q, false);
    queue_checkpoint_forget(q);
    unlink_queue(t, q);
    forget_log(q, true);
    queue_free(q);
    return true;
}

void queue_touch(struct queue *q, int64_t now_ms)
{
    queue_see_time(q->table, now_ms);
    if (q->consumer_count == 0)
        q->unused_since = q->table->now_ms;
}

void queue_info(const struct queue *q, struct queue_info *ret)
{
    size_t memory = sizeof(*q) + ackmap_memory(&q->acks) + q->heap.cap * sizeof(struct queue_entry);

    if (q->rings != NULL)
        for (unsigned p = 0; p <= q->spec.max_priority; p++)
            memory += sizeof(*q->rings) + q->rings[p].cap * sizeof(struct queue_entry);
    *ret = (struct queue_info){
        .id = q->spec.id,
        .ready = q->ready,
        .unacked = q->unacked,
        .consumers = q->consumer_count,
        .log_bytes = log_bytes(q->log),
        .memory_bytes = memory,
        .ready_bytes = q->bytes_inexact ? 0 : q->ready_bytes,
        .log_start = log_start(q->log),
        .log_end = log_end(q->log),
        .log_durable = log_durable(q->log),
        .published = q->published,
        .delivered = q->delivered,
        .redelivered = q->redelivered,
        .acked = q->acked,
        .expired = q->expired,
        .dropped = q->dropped,
        .durable = q->on_disk,
        .failed = q->failed,
    };
}

uint64_t queue_id(const struct queue *q)
{
    return q->spec.id;
}

uint64_t queue_opened(const struct queue *q)
{
    return q->opened;
}

uint64_t queue_ready(const struct queue *q)
{
    return q->ready;
}

uint64_t queue_unacked(const struct queue *q)
{
    return q->unacked;
}

uint32_t queue_consumers(const struct queue *q)
{
    return q->consumer_count;
}

struct log *queue_log(const struct queue *q)
{
    return q->log;
}

void queue_each(struct queue_table *t, bool (*fn)(struct queue *q, void *arg), void *arg)
{
    for (uint32_t i = 0; i < t->bucket_count; i++)
        for (struct queue *q = t->buckets[i], *next; q != NULL; q = next) {
            next = q->hash_next;
            if (!fn(q, arg))
                return;
        }
}
