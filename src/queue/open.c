/* Opening a queue.
 *
 * Reading a queue back from its log takes as long as what follows the last checkpoint, and for queues with priorities or a limit of bytes as long as all that is live. Under the partition's lock
 * that would stop everything else there, in three protocols. So a log of some size is opened on a background thread without the lock:
 *
 *     waits  -> runs -> ran     the thread's part: checkpoint and replay into a queue that is not in the table. Nobody else appends to this log or cuts it, since whoever would has to enter the queue, or
 *                               to take the leadership away, and both wait for this
 *     done                      under the lock again: the queue enters the table, or its error is told to who asks within a second; who waited is woken
 *     cancelled                 the queue was deleted, or leadership lost: the thread is told to stop and waited for, at most one read and the replay of it; what it read is thrown away
 *
 * A short log is opened at once: the way to another thread and back would take longer. */
#include "queue/internal.h"

#define FAILED_MS 1000

struct queue_opening {
    struct queue_job job;
    struct list node; /* table->openings; under the partition's lock */
    struct queue_table *table;
    uint64_t id;
    struct queue *q; /* owned; NULL: cancelled, or failed */
    bool stop;       /* this and `state` under table->opening_mutex */
    enum { OPENING_WAITS, OPENING_RUNS, OPENING_RAN } state;
    int err;
    int64_t failed_ms; /* when it failed; 0: under way */
};

static struct queue_opening *find(const struct queue_table *t, uint64_t id)
{
    LIST_FOREACH (n, &t->openings) {
        struct queue_opening *o = LIST_ENTRY(n, struct queue_opening, node);

        if (o->id == id)
            return o;
    }
    return NULL;
}

static void discard(struct queue *q)
{
    if (q->log != NULL)
        log_close(q->log);
    queue_free(q);
}

/* What was read is the queue, or no queue. Under the lock. */
static int settle(struct queue *q, int err)
{
    if (err == ERR_CORRUPT && q->on_disk)
        log_damaged(q->log, "its queue cannot be read back"); /* the checkpoint, say: where there are replicas, a whole copy is fetched */
    if (err != 0) {
        discard(q);
        return err;
    }
    q->apart = false;
    buf_fini(&q->own_window);
    queue_enter(q->table, q);
    return 0;
}

static void run(struct queue_job *job)
{
    struct queue_opening *o = CONTAINER_OF(job, struct queue_opening, job);
    struct queue_table *t = o->table;
    int err = ERR_CANCELLED;

    mutex_lock(&t->opening_mutex);
    if (!o->stop)
        o->state = OPENING_RUNS;
    mutex_unlock(&t->opening_mutex);
    if (o->state == OPENING_RUNS)
        err = queue_recover(o->q);
    mutex_lock(&t->opening_mutex);
    o->err = err;
    o->state = OPENING_RAN;
    pthread_cond_broadcast(&t->opening_ran);
    mutex_unlock(&t->opening_mutex);
}

static void done(struct queue_job *job)
{
    struct queue_opening *o = CONTAINER_OF(job, struct queue_opening, job);
    struct queue_table *t = o->table;
    bool cancelled = o->q == NULL;

    t->jobs--;
    if (!cancelled) {
        o->err = settle(o->q, o->err);
        o->q = NULL;
    }
    if (cancelled || o->err == 0) {
        list_remove(&o->node);
        mem_free(o);
    } else {
        o->failed_ms = MAX_OF(t->now_ms, 1);
    }
    if (!cancelled && t->options.opened != NULL)
        t->options.opened(t->options.arg);
}

static void start(struct queue_table *t, struct queue *q)
{
    struct queue_opening *o = mem_zalloc(sizeof(*o));

    q->apart = true;
    o->job.run = run;
    o->job.done = done;
    o->table = t;
    o->id = q->spec.id;
    o->q = q;
    list_push_back(&t->openings, &o->node);
    queue_submit(t, &o->job);
}

/* Known without reading a file. */
static bool is_short(const struct queue *q)
{
    return log_is_ready(q->log) && log_bytes(q->log) <= q->table->options.open_at_once_bytes;
}

int queue_open(struct queue_table *t, const struct queue_spec *spec, int64_t now_ms, struct queue **ret)
{
    struct queue *q = queue_find(t, spec->id);
    struct queue_opening *o;
    struct log_options lo = {.kind = LOG_QUEUE, .log_id = spec->id};
    char dir[64];
    int err;

    queue_see_time(t, now_ms);
    if (q != NULL) {
        *ret = q;
        return 0;
    }
    o = list_empty(&t->openings) ? NULL : find(t, spec->id);
    if (o != NULL && o->failed_ms == 0)
        return ERR_AGAIN;
    if (o != NULL && t->now_ms < o->failed_ms + FAILED_MS)
        return o->err;
    if (o != NULL) {
        list_remove(&o->node);
        mem_free(o);
    }
    q = queue_new(t, spec);
    queue_dir(t, spec->id, dir, sizeof(dir));
    lo.dir = dir;
    lo.memory = !q->on_disk;
    lo.segment_bytes = q->on_disk ? t->options.segment_bytes : 0;
    err = log_open(t->options.store, &lo, &q->log);
    if (err == 0 && q->on_disk && t->options.background != NULL && !is_short(q)) {
        start(t, q);
        return ERR_AGAIN;
    }
    if (err == 0 && q->on_disk)
        err = queue_recover(q);
    else if (err == 0)
        ackmap_init(&q->acks, log_end(q->log));
    err = settle(q, err);
    if (err == 0)
        *ret = q;
    return err;
}

static void cancel(struct queue_opening *o)
{
    struct queue_table *t = o->table;

    atomic_store(&o->q->stop, true);
    mutex_lock(&t->opening_mutex);
    o->stop = true;
    while (o->state == OPENING_RUNS)
        pthread_cond_wait(&t->opening_ran, &t->opening_mutex.m);
    mutex_unlock(&t->opening_mutex);
    discard(o->q);
    o->q = NULL;
    o->id = 0; /* its job has yet to end */
}

static bool forget(struct queue_opening *o)
{
    if (o->failed_ms != 0) {
        list_remove(&o->node);
        mem_free(o);
        return false;
    }
    if (o->q == NULL)
        return false;
    cancel(o);
    return true;
}

bool queue_opening_cancel(struct queue_table *t, uint64_t id)
{
    struct queue_opening *o = find(t, id);
    bool was = o != NULL && forget(o);

    if (was && t->options.opened != NULL)
        t->options.opened(t->options.arg);
    return was;
}

void queue_openings_cancel(struct queue_table *t)
{
    bool any = false;

    LIST_FOREACH_SAFE (n, &t->openings) {
        any |= forget(LIST_ENTRY(n, struct queue_opening, node));
    }
    if (any && t->options.opened != NULL)
        t->options.opened(t->options.arg);
}

void queue_openings_free(struct queue_table *t)
{
    LIST_FOREACH_SAFE (n, &t->openings) {
        struct queue_opening *o = LIST_ENTRY(n, struct queue_opening, node);

        CHECK(o->failed_ms != 0);
        list_remove(&o->node);
        mem_free(o);
    }
}
