#include "metrics/metrics.h"

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)

void hist_add(struct hist *into, const struct hist *h)
{
    uint64_t max_ns = LOAD(h->max_ns);

    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        into->buckets[i] += LOAD(h->buckets[i]);
    into->sum_ns += LOAD(h->sum_ns);
    if (max_ns > into->max_ns)
        into->max_ns = max_ns;
}

uint64_t hist_count(const struct hist *h)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        n += h->buckets[i];
    return n;
}

uint64_t hist_quantile_ns(const struct hist *h, double q)
{
    uint64_t count = hist_count(h), seen = 0, rank;

    if (count == 0)
        return 0;
    rank = (uint64_t)(q * (double)count + 0.5);
    rank = rank < 1 ? 1 : rank > count ? count : rank;
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen >= rank) {
            uint64_t middle = (hist_bucket_start(i) + hist_bucket_start(i + 1)) / 2;

            return middle < h->max_ns || h->max_ns == 0 ? middle : h->max_ns;
        }
    }
    return h->max_ns;
}
