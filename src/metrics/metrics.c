/* The registry: slots, families, gauges. See metrics.h.
 *
 * Lock: registry_lock guards what registering changes. A slot's pointers are published with release stores,
 * so the scraper may walk slots while threads and families come. Slots and families are never freed: they
 * live as long as the process. */
#include "metrics/metrics.h"

#include <string.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "metrics/registry.h"

__thread struct metrics_slot *metrics_here;

/* Held while gauges are read, so that clearing them waits for a scrape under way. Before registry_lock. */
static struct mutex reading_lock = {.m = PTHREAD_MUTEX_INITIALIZER};
static struct mutex registry_lock = {.m = PTHREAD_MUTEX_INITIALIZER};
static struct metrics_slot shared_slot;
static struct metrics_slot *slots[METRICS_SLOTS_MAX] = {&shared_slot};
static struct metrics_family families[METRICS_FAMILIES_MAX];
static unsigned family_count;
static struct metrics_gauge gauges[METRICS_GAUGES_MAX];
static unsigned gauge_count;

static const struct {
    const char *name, *help;
} counters[METRICS_COUNT] = {
#define COUNTER(id, n, h) [METRIC_##id] = {n, h},
#include "metrics/metrics.def"
#undef COUNTER
};

/* ---- slots ---- */

static void fill_cell(struct metrics_slot *s, const struct metrics_family *f)
{
    struct metrics_cell *cell = &s->cells[f->id];

    if (f->is_hist)
        __atomic_store_n(&cell->hists, mem_calloc(f->count, sizeof(struct hist *)), __ATOMIC_RELEASE);
    else
        __atomic_store_n(&cell->counters, mem_calloc(f->count, sizeof(uint64_t)), __ATOMIC_RELEASE);
}

void metrics_thread_init(unsigned index)
{
    CHECK(index > 0 && index < METRICS_SLOTS_MAX && metrics_here == NULL);
    mutex_lock(&registry_lock);
    /* Taken again by the worker of that index of a later set: counts go on. */
    if (slots[index] == NULL) {
        struct metrics_slot *s = mem_zalloc(sizeof(*s));

        for (unsigned i = 0; i < family_count; i++)
            fill_cell(s, &families[i]);
        __atomic_store_n(&slots[index], s, __ATOMIC_RELEASE);
    }
    metrics_here = slots[index];
    mutex_unlock(&registry_lock);
}

void metrics_add_shared(enum metric id, uint64_t n)
{
    __atomic_fetch_add(&shared_slot.counters[id], n, __ATOMIC_RELAXED);
}

void metrics_count_shared(const struct metrics_family *f, unsigned index, uint64_t n)
{
    __atomic_fetch_add(&shared_slot.cells[f->id].counters[index], n, __ATOMIC_RELAXED);
}

/* First observation of this index in this slot, or a thread without one. */
void metrics_observe_slow(const struct metrics_family *f, unsigned index, uint64_t ns, uint64_t n)
{
    struct metrics_slot *s = metrics_here != NULL ? metrics_here : &shared_slot;
    struct hist **at = &s->cells[f->id].hists[index], *h, *none = NULL;
    uint64_t max_ns;

    DCHECK(index < f->count);
    h = __atomic_load_n(at, __ATOMIC_ACQUIRE);
    if (h == NULL) {
        h = mem_zalloc(sizeof(*h));
        if (!__atomic_compare_exchange_n(at, &none, h, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            mem_free(h);
            h = none;
        }
    }
    __atomic_fetch_add(&h->buckets[hist_bucket(ns)], n, __ATOMIC_RELAXED);
    __atomic_fetch_add(&h->sum_ns, ns * n, __ATOMIC_RELAXED);
    max_ns = __atomic_load_n(&h->max_ns, __ATOMIC_RELAXED);
    while (ns > max_ns &&
           !__atomic_compare_exchange_n(&h->max_ns, &max_ns, ns, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

/* ---- registering ---- */

static const struct metrics_family *add_family(int is_hist, const char *name, const char *help,
                                               const char *const_labels, const char *label,
                                               const char *const *values, unsigned count)
{
    struct metrics_family *f;

    CHECK(count > 0);
    mutex_lock(&registry_lock);
    /* The same family again (a server started twice in one process, as tests do) is the same family. */
    for (unsigned i = 0; i < family_count; i++) {
        f = &families[i];
        if (strcmp(f->name, name) == 0 && f->count == count && f->values == values &&
            strcmp(f->const_labels != NULL ? f->const_labels : "",
                   const_labels != NULL ? const_labels : "") == 0) {
            mutex_unlock(&registry_lock);
            return f;
        }
    }
    CHECK(family_count < METRICS_FAMILIES_MAX);
    f = &families[family_count];
    *f = (struct metrics_family){family_count, count, is_hist, name, help, const_labels, label, values};
    for (unsigned i = 0; i < METRICS_SLOTS_MAX; i++) {
        if (slots[i] != NULL)
            fill_cell(slots[i], f);
    }
    __atomic_store_n(&family_count, family_count + 1, __ATOMIC_RELEASE);
    mutex_unlock(&registry_lock);
    return f;
}

const struct metrics_family *metrics_counters_register(const char *name, const char *help,
                                                       const char *const_labels, const char *label,
                                                       const char *const *values, unsigned count)
{
    return add_family(0, name, help, const_labels, label, values, count);
}

const struct metrics_family *metrics_hists_register(const char *name, const char *help,
                                                    const char *const_labels, const char *label,
                                                    const char *const *values, unsigned count)
{
    return add_family(1, name, help, const_labels, label, values, count);
}

void metrics_protocol_register(struct metrics_protocol *ret, const char *protocol, const char *label,
                               const char *const *requests, unsigned request_count, const char *const *codes,
                               unsigned code_count)
{
    const char *labels = mem_printf("protocol=\"%s\"", protocol); /* lives as long as the process */

    ret->latency = metrics_hists_register("gomsg_request_duration_seconds",
                                          "Time from having read a request to having made its reply", labels,
                                          label, requests, request_count);
    ret->bytes_in = metrics_counters_register("gomsg_request_bytes_total", "Bytes of requests", labels, label,
                                              requests, request_count);
    ret->bytes_out =
        metrics_counters_register("gomsg_response_bytes_total", "Bytes of replies and deliveries", labels,
                                  label, requests, request_count);
    ret->errors = metrics_counters_register("gomsg_request_errors_total", "Errors answered, by their code",
                                            labels, "code", codes, code_count);
}

static void add_gauge(struct metrics_gauge g)
{
    const char *name = g.name, *labels = g.labels;
    unsigned i;

    for (i = 0; i < METRICS_COUNT; i++)
        CHECK(strcmp(metrics_name((enum metric)i), name) !=
              0); /* shown twice, Prometheus refuses the whole page */
    mutex_lock(&registry_lock);
    for (i = 0; i < gauge_count; i++) {
        if (strcmp(gauges[i].name, name) == 0 &&
            strcmp(gauges[i].labels != NULL ? gauges[i].labels : "", labels != NULL ? labels : "") == 0)
            break; /* registered anew: the old owner is gone */
    }
    CHECK(i < METRICS_GAUGES_MAX);
    gauges[i] = g;
    if (i == gauge_count)
        gauge_count++;
    mutex_unlock(&registry_lock);
}

void metrics_gauge_register(const char *name, const char *help, const char *labels, int counter,
                            double (*read)(void *arg), void *arg)
{
    add_gauge((struct metrics_gauge){.name = name, .help = help, .labels = labels, .counter = counter, .read = read, .arg = arg});
}

void metrics_collector_register(const char *name, const char *help, int counter,
                                void (*write)(struct buf *out, const char *name, void *arg), void *arg)
{
    add_gauge((struct metrics_gauge){.name = name, .help = help, .counter = counter, .write = write, .arg = arg});
}

void metrics_gauges_clear(void)
{
    mutex_lock(&reading_lock);
    mutex_lock(&registry_lock);
    gauge_count = 0;
    mutex_unlock(&registry_lock);
    mutex_unlock(&reading_lock);
}

/* ---- reading ---- */

#define EACH_SLOT(s)                                                                                         \
    for (unsigned s##_i = 0; s##_i < METRICS_SLOTS_MAX; s##_i++)                                             \
        if (((s) = __atomic_load_n(&slots[s##_i], __ATOMIC_ACQUIRE)) != NULL)

uint64_t metrics_read(enum metric id)
{
    const struct metrics_slot *s;
    uint64_t sum = 0;

    EACH_SLOT(s)
    sum += __atomic_load_n(&s->counters[id], __ATOMIC_RELAXED);
    return sum;
}

const char *metrics_name(enum metric id)
{
    return counters[id].name;
}

const char *metrics_help(enum metric id)
{
    return counters[id].help;
}

uint64_t metrics_family_read(const struct metrics_family *f, unsigned index)
{
    const struct metrics_slot *s;
    uint64_t sum = 0;

    CHECK(!f->is_hist && index < f->count);
    EACH_SLOT(s)
    {
        const uint64_t *counters_here = __atomic_load_n(&s->cells[f->id].counters, __ATOMIC_ACQUIRE);

        if (counters_here != NULL)
            sum += __atomic_load_n(&counters_here[index], __ATOMIC_RELAXED);
    }
    return sum;
}

void metrics_family_read_hist(const struct metrics_family *f, unsigned index, struct hist *ret)
{
    const struct metrics_slot *s;

    CHECK(f->is_hist && index < f->count);
    memset(ret, 0, sizeof(*ret));
    EACH_SLOT(s)
    {
        struct hist **hists = __atomic_load_n(&s->cells[f->id].hists, __ATOMIC_ACQUIRE);
        struct hist *h = hists == NULL ? NULL : __atomic_load_n(&hists[index], __ATOMIC_ACQUIRE);

        if (h != NULL)
            hist_add(ret, h);
    }
}

unsigned metrics_families(const struct metrics_family **ret)
{
    *ret = families;
    return __atomic_load_n(&family_count, __ATOMIC_ACQUIRE);
}

void metrics_gauges_done(void) NO_THREAD_SAFETY_ANALYSIS
{
    mutex_unlock(&reading_lock);
}

unsigned metrics_gauges_begin(struct metrics_gauge *ret) NO_THREAD_SAFETY_ANALYSIS
{
    unsigned n;

    mutex_lock(&reading_lock);
    mutex_lock(&registry_lock);
    n = gauge_count;
    memcpy(ret, gauges, n * sizeof(gauges[0]));
    mutex_unlock(&registry_lock);
    return n;
}
