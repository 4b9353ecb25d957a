/* Metrics: counters and latency histograms, kept a thread, summed when asked.
 *
 * Hot path. Every worker has a slot of its own (metrics_thread_init); counting is an add in memory that no
 * other core writes (P6). Threads without a slot share one and add atomically: right, only slower. Readers
 * sum all slots with relaxed loads; a sum may be a few events behind.
 *
 * Families are arrays of counters or histograms with one label that varies (command, API, method, error
 * code), addressed by a small index: the index of the row in the table that owns it. They are registered at
 * start and live as long as the process; several families of one name (one a protocol) are shown as one
 * metric.
 *
 * Any thread, no locks held or needed; registering takes a mutex of its own. */
#ifndef GM_METRICS_METRICS_H
#define GM_METRICS_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum metric {
#define COUNTER(id, name, help) METRIC_##id,
#include "metrics/metrics.def"
#undef COUNTER
    METRICS_COUNT
};

enum { METRICS_FAMILIES_MAX = 64, METRICS_SLOTS_MAX = 257 };

/* ---- histograms: 32 linear steps an octave of nanoseconds, at most 1.6 % off; up to 274 s ---- */
enum {
    HIST_STEP_BITS = 5,
    HIST_MAX_BITS = 38,
    HIST_BUCKETS = (HIST_MAX_BITS - HIST_STEP_BITS + 1) << HIST_STEP_BITS,
};

struct hist {
    uint64_t sum_ns, max_ns;
    uint64_t buckets[HIST_BUCKETS];
};

static inline unsigned hist_bucket(uint64_t ns)
{
    unsigned shift;

    if (ns >> HIST_MAX_BITS != 0)
        ns = (1ull << HIST_MAX_BITS) - 1;
    shift = ns < (2u << HIST_STEP_BITS) ? 0 : 63u - (unsigned)__builtin_clzll(ns) - HIST_STEP_BITS;
    return (shift << HIST_STEP_BITS) + (unsigned)(ns >> shift);
}
/* The first value of a bucket; that of bucket i + 1 ends it. */
static inline uint64_t hist_bucket_start(unsigned i)
{
    unsigned shift = i < (2u << HIST_STEP_BITS) ? 0 : (i >> HIST_STEP_BITS) - 1;

    return (uint64_t)(i - (shift << HIST_STEP_BITS)) << shift;
}
void hist_add(struct hist *into, const struct hist *h);
uint64_t hist_count(const struct hist *h);
/* The value at quantile q (0 to 1), the middle of its bucket; 0 when empty. */
uint64_t hist_quantile_ns(const struct hist *h, double q);

/* ---- the hot path ---- */

struct metrics_cell {
    uint64_t *counters;  /* one an index; NULL in a histogram family */
    struct hist **hists; /* one an index, each NULL until first observed */
};

struct metrics_slot {
    uint64_t counters[METRICS_COUNT];
    struct metrics_cell cells[METRICS_FAMILIES_MAX];
};

struct metrics_family {
    unsigned id, count;
    int is_hist;
    const char *name, *help;
    const char *const_labels; /* "protocol=\"resp\"", may be NULL */
    const char *label;        /* "command" */
    const char *const *values;
};

extern __thread struct metrics_slot *metrics_here;

/* Gives this thread the slot `index` (1..METRICS_SLOTS_MAX-1) for itself: a worker takes its index + 1. */
void metrics_thread_init(unsigned index);

void metrics_add_shared(enum metric id, uint64_t n);
void metrics_count_shared(const struct metrics_family *f, unsigned index, uint64_t n);
void metrics_observe_slow(const struct metrics_family *f, unsigned index, uint64_t ns, uint64_t n);

static inline void metrics_own_add(uint64_t *p, uint64_t n)
{
    __atomic_store_n(p, *p + n, __ATOMIC_RELAXED);
}

static inline void metrics_add(enum metric id, uint64_t n)
{
    if (metrics_here != NULL)
        metrics_own_add(&metrics_here->counters[id], n);
    else
        metrics_add_shared(id, n);
}

/* Counts n under one label value of a counter family. */
static inline void metrics_count(const struct metrics_family *f, unsigned index, uint64_t n)
{
    if (metrics_here != NULL)
        metrics_own_add(&metrics_here->cells[f->id].counters[index], n);
    else
        metrics_count_shared(f, index, n);
}

static inline void metrics_hist_add(struct hist *h, uint64_t ns, uint64_t n)
{
    metrics_own_add(&h->buckets[hist_bucket(ns)], n);
    metrics_own_add(&h->sum_ns, ns * n);
    if (ns > h->max_ns)
        __atomic_store_n(&h->max_ns, ns, __ATOMIC_RELAXED);
}

/* Notes n equal latencies under one label value of a histogram family. */
static inline void metrics_observe_n(const struct metrics_family *f, unsigned index, uint64_t ns, uint64_t n)
{
    struct hist *h;

    if (metrics_here == NULL || (h = metrics_here->cells[f->id].hists[index]) == NULL) {
        metrics_observe_slow(f, index, ns, n);
        return;
    }
    metrics_hist_add(h, ns, n);
}

static inline void metrics_observe(const struct metrics_family *f, unsigned index, uint64_t ns)
{
    metrics_observe_n(f, index, ns, 1);
}

/* ---- registering, at start ---- */

/* Counters with a label. All texts are borrowed for ever; values[i] is the label's value of index i. */
const struct metrics_family *metrics_counters_register(const char *name, const char *help,
                                                       const char *const_labels, const char *label,
                                                       const char *const *values, unsigned count);
/* Latencies; `name` ends in _seconds. Memory is taken for what is observed only (8.6 KiB an index and
 * thread). */
const struct metrics_family *metrics_hists_register(const char *name, const char *help,
                                                    const char *const_labels, const char *label,
                                                    const char *const *values, unsigned count);

/* What every protocol counts: calls with their latency, bytes of requests and of replies a command (API,
 * method), errors by code. The same names for all three, told apart by the label protocol. */
struct metrics_protocol {
    const struct metrics_family *latency;   /* gomsg_request_duration_seconds{protocol,command} */
    const struct metrics_family *bytes_in;  /* gomsg_request_bytes_total */
    const struct metrics_family *bytes_out; /* gomsg_response_bytes_total */
    const struct metrics_family *errors;    /* gomsg_request_errors_total{protocol,code} */
};
/* `label`: "command", "api" or "method". */
void metrics_protocol_register(struct metrics_protocol *ret, const char *protocol, const char *label,
                               const char *const *requests, unsigned request_count, const char *const *codes,
                               unsigned code_count);
static inline void metrics_request(const struct metrics_protocol *p, unsigned index, uint64_t ns,
                                   uint64_t bytes_in, uint64_t bytes_out)
{
    const struct metrics_slot *here = metrics_here;
    struct hist *h;

    if (here == NULL || (h = here->cells[p->latency->id].hists[index]) == NULL) {
        metrics_observe(p->latency, index, ns);
        metrics_count(p->bytes_in, index, bytes_in);
        metrics_count(p->bytes_out, index, bytes_out);
        return;
    }
    metrics_hist_add(h, ns, 1);
    metrics_own_add(&here->cells[p->bytes_in->id].counters[index], bytes_in);
    metrics_own_add(&here->cells[p->bytes_out->id].counters[index], bytes_out);
}
static inline void metrics_error(const struct metrics_protocol *p, unsigned code)
{
    metrics_count(p->errors, code, 1);
}

/* A value asked for at each scrape, on the scraping thread: must take no partition lock for long. `labels` is
 * the text between the braces, NULL for none. With `counter`, the value only grows and is shown as a counter.
 */
void metrics_gauge_register(const char *name, const char *help, const char *labels, int counter,
                            double (*read)(void *arg), void *arg);
/* The same for a name whose series are known at the scrape only: `write` adds a line "name{labels} value" for each, and bounds their number. */
void metrics_collector_register(const char *name, const char *help, int counter, void (*write)(struct buf *out, const char *name, void *arg), void *arg);
/* Forgets all gauges, before what their callbacks look at goes away; waits for a scrape under way. */
void metrics_gauges_clear(void);

/* ---- reading ---- */
uint64_t metrics_read(enum metric id);
const char *metrics_name(enum metric id);
uint64_t metrics_family_read(const struct metrics_family *f, unsigned index);
/* Sums the histogram of one index into *ret (zeroed first). */
void metrics_family_read_hist(const struct metrics_family *f, unsigned index, struct hist *ret);
/* Prometheus text format 0.0.4. Counters of zero are shown, label values never seen are not. */
void metrics_render(struct buf *out);

#endif
