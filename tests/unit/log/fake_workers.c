/* Workers without threads: posted mail waits in a list until the test delivers it. */
#include "fake_workers.h"

#include "base/mutex.h"

struct worker {
    unsigned index;
};
struct workers {
    int nothing;
};

static struct worker the_worker;
static struct workers the_workers;
static struct mutex lock = {PTHREAD_MUTEX_INITIALIZER};
static struct mail *first;

struct workers *fake_workers(void)
{
    return &the_workers;
}

struct worker *fake_worker(void)
{
    return &the_worker;
}

unsigned fake_deliver(void)
{
    unsigned n = 0;
    struct mail *m;

    for (;;) {
        mutex_lock(&lock);
        m = first;
        if (m != NULL)
            first = m->next;
        mutex_unlock(&lock);
        if (m == NULL)
            return n;
        m->deliver(&the_worker, m);
        n++;
    }
}

void worker_post(struct worker *to, struct mail *m)
{
    struct mail **at = &first;

    (void)to;
    mutex_lock(&lock);
    m->next = NULL;
    while (*at != NULL)
        at = &(*at)->next;
    *at = m;
    mutex_unlock(&lock);
}

unsigned workers_count(const struct workers *ws)
{
    (void)ws;
    return 1;
}

struct worker *workers_get(struct workers *ws, unsigned index)
{
    (void)ws;
    (void)index;
    return &the_worker;
}

unsigned worker_index(const struct worker *w)
{
    return w->index;
}
