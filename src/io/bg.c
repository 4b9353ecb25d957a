/* Background threads and deferred reclamation.
 *
 * Two classes of job threads (worker.h), started as jobs come and kept; one more thread waits for grace
 * periods. A grace period: remember every worker's quiescent counter; whoever was asleep (even) or whose
 * counter has moved since cannot still hold what was unpublished before. The calls that come in while one
 * period is waited for share the next one.
 *
 * Lock: bg->mutex guards queues and counts; nothing is called under it. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "io/internal.h"

enum { BG_CLASSES = 2, BG_THREADS_MAX = 64 };

struct bg_queue {
    struct bg *bg;
    enum bg_class klass;
    struct list jobs;
    pthread_cond_t wake;
    pthread_t threads[BG_THREADS_MAX];
    unsigned count, idle, max;
};

struct grace {
    struct grace *next;
    void (*fn)(void *arg);
    void *arg;
};

struct bg {
    struct workers *ws;
    struct mutex mutex;
    bool stopping;
    struct bg_queue queues[BG_CLASSES];
    struct grace *graces, **graces_end;
    pthread_cond_t grace_wake;
    pthread_t grace_thread;
    bool grace_started;
};

struct bg *bg_new(struct workers *ws)
{
    struct bg *bg = mem_zalloc(sizeof(*bg));

    bg->ws = ws;
    mutex_init(&bg->mutex);
    for (unsigned i = 0; i < BG_CLASSES; i++) {
        struct bg_queue *q = &bg->queues[i];

        q->bg = bg;
        q->klass = (enum bg_class)i;
        list_init(&q->jobs);
        pthread_cond_init(&q->wake, NULL);
        q->max = i == BG_DISK ? 4 : MIN_OF(MAX_OF(ws->client_count, 2u), (unsigned)BG_THREADS_MAX);
    }
    bg->graces_end = &bg->graces;
    pthread_cond_init(&bg->grace_wake, NULL);
    return bg;
}

static void run_job(struct bg_job *job)
{
    void (*done)(struct bg_job *) = job->done;
    struct worker *reply_to = job->reply_to;

    job->run(job);
    if (done == NULL)
        return;
    if (reply_to != NULL)
        worker_post(reply_to, &job->mail);
    else
        done(job);
}

static void deliver_done(struct worker *w, struct mail *m)
{
    struct bg_job *job = CONTAINER_OF(m, struct bg_job, mail);

    (void)w;
    job->done(job);
}

static void *job_main(void *arg) NO_THREAD_SAFETY_ANALYSIS /* waits on a condition */
{
    struct bg_queue *q = arg;
    struct bg *bg = q->bg;

    pthread_setname_np(pthread_self(), q->klass == BG_DISK ? "bg-disk" : "bg-free");
    if (q->klass == BG_DISK)
        setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
    mem_thread_common_arena();
    mutex_lock(&bg->mutex);
    for (;;) {
        struct list *n = list_pop_front(&q->jobs);

        if (n != NULL) {
            mutex_unlock(&bg->mutex);
            run_job(LIST_ENTRY(n, struct bg_job, node));
            mutex_lock(&bg->mutex);
        } else if (bg->stopping) {
            break;
        } else {
            q->idle++;
            pthread_cond_wait(&q->wake, &bg->mutex.m);
            q->idle--;
        }
    }
    mutex_unlock(&bg->mutex);
    return NULL;
}

static int start_thread(pthread_t *thread, void *(*fn)(void *), void *arg)
{
    sigset_t all, old;
    int err;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(thread, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return err == 0 ? 0 : ERR_LIMIT;
}

void bg_submit(struct workers *ws, enum bg_class klass, struct bg_job *job)
{
    struct bg *bg = ws->bg;
    struct bg_queue *q = &bg->queues[klass];

    job->mail.deliver = deliver_done;
    job->node = (struct list){0};
    mutex_lock(&bg->mutex);
    if (bg->stopping) {
        /* The threads may be gone already; what is asked for this late is done by who asks. */
        mutex_unlock(&bg->mutex);
        run_job(job);
        return;
    }
    list_push_back(&q->jobs, &job->node);
    if (q->idle > 0)
        pthread_cond_signal(&q->wake);
    if (q->idle == 0 && q->count < q->max && start_thread(&q->threads[q->count], job_main, q) == 0)
        q->count++;
    CHECK(q->count > 0);
    mutex_unlock(&bg->mutex);
}

/* ---- grace periods ---- */

static void wait_grace(struct workers *ws)
{
    uint64_t seen[WORKERS_ALL];

    atomic_thread_fence(memory_order_seq_cst);
    for (unsigned i = 0; i < ws->count; i++)
        seen[i] = atomic_load_explicit(&ws->list[i].quiescent, memory_order_acquire);
    for (unsigned i = 0; i < ws->count; i++) {
        struct timespec ts = {0, 100000};

        while (seen[i] % 2 == 1 &&
               atomic_load_explicit(&ws->list[i].quiescent, memory_order_acquire) == seen[i]) {
            nanosleep(&ts, NULL);
            ts.tv_nsec = MIN_OF(ts.tv_nsec * 2, 5000000);
        }
    }
}

static void *grace_main(void *arg) NO_THREAD_SAFETY_ANALYSIS /* waits on a condition */
{
    struct bg *bg = arg;

    pthread_setname_np(pthread_self(), "bg-grace");
    mutex_lock(&bg->mutex);
    for (;;) {
        struct grace *g = bg->graces;

        if (g == NULL) {
            if (bg->stopping)
                break;
            pthread_cond_wait(&bg->grace_wake, &bg->mutex.m);
            continue;
        }
        bg->graces = NULL;
        bg->graces_end = &bg->graces;
        mutex_unlock(&bg->mutex);
        wait_grace(bg->ws);
        while (g != NULL) {
            struct grace *next = g->next;

            g->fn(g->arg);
            mem_free(g);
            g = next;
        }
        mutex_lock(&bg->mutex);
    }
    mutex_unlock(&bg->mutex);
    return NULL;
}

void workers_after_grace(struct workers *ws, void (*fn)(void *arg), void *arg)
{
    struct bg *bg = ws->bg;
    struct grace *g = mem_alloc(sizeof(*g));
    bool late;

    *g = (struct grace){NULL, fn, arg};
    mutex_lock(&bg->mutex);
    late = bg->stopping;
    if (!late) {
        *bg->graces_end = g;
        bg->graces_end = &g->next;
        if (!bg->grace_started) {
            CHECK(start_thread(&bg->grace_thread, grace_main, bg) == 0);
            bg->grace_started = true;
        }
        pthread_cond_signal(&bg->grace_wake);
    }
    mutex_unlock(&bg->mutex);
    if (late) {
        /* The workers are joined before the background stops: nobody holds anything. */
        fn(arg);
        mem_free(g);
    }
}

void bg_stop(struct bg *bg)
{
    mutex_lock(&bg->mutex);
    bg->stopping = true;
    for (unsigned i = 0; i < BG_CLASSES; i++)
        pthread_cond_broadcast(&bg->queues[i].wake);
    pthread_cond_broadcast(&bg->grace_wake);
    mutex_unlock(&bg->mutex);
    for (unsigned i = 0; i < BG_CLASSES; i++) {
        struct bg_queue *q = &bg->queues[i];
        struct list *n;

        for (unsigned t = 0; t < q->count; t++)
            pthread_join(q->threads[t], NULL);
        q->count = 0;
        while ((n = list_pop_front(&q->jobs)) != NULL)
            run_job(LIST_ENTRY(n, struct bg_job, node));
    }
    if (bg->grace_started)
        pthread_join(bg->grace_thread, NULL);
    bg->grace_started = false;
}

void bg_free(struct bg *bg)
{
    for (unsigned i = 0; i < BG_CLASSES; i++)
        pthread_cond_destroy(&bg->queues[i].wake);
    pthread_cond_destroy(&bg->grace_wake);
    mutex_fini(&bg->mutex);
    mem_free(bg);
}
