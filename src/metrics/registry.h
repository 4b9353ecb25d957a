/* What the renderer sees of the registry; private to src/metrics. */
#ifndef GM_METRICS_REGISTRY_H
#define GM_METRICS_REGISTRY_H

#include "metrics/metrics.h"

enum { METRICS_GAUGES_MAX = 512 };

struct metrics_gauge {
    const char *name, *help, *labels;
    int counter;
    double (*read)(void *arg);
    void *arg;
    void (*write)(struct buf *out, const char *name, void *arg); /* instead of read */
};

const char *metrics_help(enum metric id);
unsigned metrics_families(const struct metrics_family **ret);
/* Copies the gauges, room for METRICS_GAUGES_MAX; what they look at stays until metrics_gauges_done. */
unsigned metrics_gauges_begin(struct metrics_gauge *ret);
void metrics_gauges_done(void);

#endif
