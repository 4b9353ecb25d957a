/* The store without workers: proposals are answered on the metadata thread and garbage is freed at once. */
#include "base/check.h"
#include "io/worker.h"

struct worker *worker_current(void)
{
    return NULL;
}

void worker_post(struct worker *to, struct mail *m)
{
    (void)to;
    (void)m;
    UNREACHABLE();
}

void workers_after_grace(struct workers *ws, void (*fn)(void *arg), void *arg)
{
    (void)ws;
    (void)fn;
    (void)arg;
    UNREACHABLE();
}
