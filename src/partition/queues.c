#include "partition/queues.h"

#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "partition/private.h"

struct background {
    struct bg_job bg;
    struct queue_job *job;
    struct partition_queues *queues;
};

/* Two halves on one background thread: the work without a lock, then its result under the partition's. */
static void run(struct bg_job *bg)
{
    struct background *b = CONTAINER_OF(bg, struct background, bg);
    struct partition_guard g;

    b->job->run(b->job);
    partition_enter_background(b->queues->partition, 0, &g);
    b->job->done(b->job);
    (void)partition_leave(&g); /* what it appends are settled offsets, which a full disk only delays; a failed
                                  log says so at its next use */
    atomic_fetch_sub(&b->queues->busy, 1);
    mem_free(b);
}

static void background(void *arg, struct queue_job *job)
{
    struct partition_queues *pq = arg;
    struct background *b = mem_zalloc(sizeof(*b));

    b->bg.run = run;
    b->job = job;
    b->queues = pq;
    atomic_fetch_add(&pq->busy, 1);
    bg_submit(pq->workers, BG_FREE, &b->bg);
}

static void ended(void *arg, uint64_t queue_id, enum queue_end reason)
{
    struct partition_queues *pq = arg;

    (void)reason;
    if (pq->ended != NULL)
        pq->ended(pq->ended_arg, queue_id, partition_index(pq->partition));
}

/* ---- high watermarks ----------------------------------------------------------------------------- */

/* On one of the workers, which enters as a command does. */
static void hw_enter(struct partition_queues *pq)
{
    struct partition_guard g;
    int err = partition_enter(pq->partition, 0, &pq->hw_park, &g);

    if (err == ERR_PARKED)
        return;
    if (err != 0) {
        atomic_store(&pq->hw_missed, true); /* no lease, say: the tick looks again */
        return;
    }
    queue_table_hw_advanced(pq->table);
    (void)partition_leave(&g);
}

static void hw_retry(struct worker *w, struct partition_park *park)
{
    (void)w;
    hw_enter(CONTAINER_OF(park, struct partition_queues, hw_park));
}

static void hw_news(struct worker *w, struct mail *m)
{
    struct partition_queues *pq = CONTAINER_OF(m, struct partition_queues, hw_mail);

    (void)w;
    atomic_store(&pq->hw_posted, false);
    if (!partition_is_parked(&pq->hw_park))
        hw_enter(pq);
}

static void hw_moved(void *arg)
{
    struct partition_queues *pq = arg;

    if (!atomic_exchange(&pq->hw_posted, true))
        worker_post(pq->hw_park.worker, &pq->hw_mail);
}

static void opened(void *arg)
{
    partition_unpark_opened(((struct partition_queues *)arg)->partition);
}

void partition_queues_init(struct partition_queues *pq, struct partition *p,
                           const struct partitions_options *options)
{
    struct queue_table_options o = {
        .store = options->store,
        .partition = partition_index(p),
        .data_dir = options->data_dir,
        .arg = pq,
        .ended = ended,
        .background = background,
        .opened = opened,
        .hw_moved = options->workers == NULL ? NULL : hw_moved,
        .stirred = &p->queues_stirred,
    };

    pq->hw_mail.deliver = hw_news;
    pq->hw_park.retry = hw_retry;
    pq->hw_park.worker = options->workers == NULL ? NULL : workers_get(options->workers, partition_index(p) % workers_client_count(options->workers));
    pq->partition = p;
    pq->workers = options->workers;
    pq->ended = options->queue_ended;
    pq->ended_arg = options->queue_ended_arg;
    atomic_init(&pq->busy, 0);
    pq->table = queue_table_new(&o);
}

bool partition_queues_tick(struct partition_queues *pq, int64_t now_ms)
{
    struct partition_guard g;

    bool missed = pq->table != NULL && atomic_exchange(&pq->hw_missed, false);

    if (pq->table == NULL || (!missed && queue_table_next_tick(pq->table) > now_ms))
        return false;
    partition_enter_background(pq->partition, 0, &g);
    if (missed)
        queue_table_hw_advanced(pq->table);
    queue_table_tick(pq->table, now_ms);
    (void)partition_leave(&g);
    return true;
}

bool partition_queues_due_soon(struct partition_queues *pq, int64_t now_ms)
{
    return pq->table != NULL && (atomic_load(&pq->hw_missed) || queue_table_next_tick(pq->table) - 1000 <= now_ms);
}

void partition_queues_close(struct partition_queues *pq)
{
    if (pq->table != NULL)
        queue_table_close(pq->table);
}

void partition_queues_fini(struct partition_queues *pq)
{
    while (atomic_load(&pq->busy) != 0)
        usleep(1000);
    queue_table_free(pq->table);
    pq->table = NULL;
}
