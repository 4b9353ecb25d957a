/* The text format of Prometheus, 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats): families of one
 * name stand together under one HELP and TYPE, label values are escaped.
 *
 * A latency family is shown twice: as a histogram, whose few boundaries make rates and aggregation over nodes
 * possible, and as quantiles since the start, computed from the fine buckets, which answer at a glance. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/registry.h"

/* Upper bounds of the histogram shown, ns: 1, 2.5 and 5 a decade, from 1 us to 10 s. */
static const uint64_t bounds_ns[] = {
    1000,      2500,      5000,       10000,      25000,      50000,       100000,   250000,
    500000,    1000000,   2500000,    5000000,    10000000,   25000000,    50000000, 100000000,
    250000000, 500000000, 1000000000, 2500000000, 5000000000, 10000000000,
};
static const double quantiles[] = {0.5, 0.9, 0.99, 0.999};

static void put_value(struct buf *out, double v)
{
    if (isnan(v))
        buf_put_str(out, "NaN\n");
    else if (isinf(v))
        buf_put_str(out, v > 0 ? "+Inf\n" : "-Inf\n");
    else if (v == floor(v) && fabs(v) < 9e15)
        buf_printf(out, "%.0f\n", v);
    else
        buf_printf(out, "%.9g\n", v);
}

static void put_head(struct buf *out, const char *name, const char *suffix, const char *help,
                     const char *type)
{
    buf_printf(out, "# HELP %s%s %s\n# TYPE %s%s %s\n", name, suffix, help, name, suffix, type);
}

static void put_label_value(struct buf *out, const char *v)
{
    for (; *v != '\0'; v++) {
        if (*v == '\\' || *v == '"')
            buf_put_u8(out, '\\');
        if (*v == '\n')
            buf_put_str(out, "\\n");
        else
            buf_put_u8(out, (uint8_t)*v);
    }
}

/* name{const,label="value" — without the closing brace. */
static void put_series(struct buf *out, const struct metrics_family *f, const char *suffix, unsigned index)
{
    buf_printf(out, "%s%s{", f->name, suffix);
    if (f->const_labels != NULL)
        buf_printf(out, "%s,", f->const_labels);
    buf_printf(out, "%s=\"", f->label);
    put_label_value(out, f->values[index]);
    buf_put_str(out, "\"");
}

static void render_counter_values(struct buf *out, const struct metrics_family *f)
{
    for (unsigned i = 0; i < f->count; i++) {
        uint64_t v = metrics_family_read(f, i);

        if (v == 0)
            continue;
        put_series(out, f, "", i);
        buf_printf(out, "} %llu\n", (unsigned long long)v);
    }
}

static void render_hist(struct buf *out, const struct metrics_family *f, unsigned index, const struct hist *h)
{
    uint64_t seen = 0;
    unsigned b = 0;

    for (unsigned i = 0; i < sizeof(bounds_ns) / sizeof(bounds_ns[0]); i++) {
        for (; b < HIST_BUCKETS && hist_bucket_start(b + 1) <= bounds_ns[i] + 1; b++)
            seen += h->buckets[b];
        put_series(out, f, "_bucket", index);
        buf_printf(out, ",le=\"%g\"} %llu\n", (double)bounds_ns[i] / 1e9, (unsigned long long)seen);
    }
    for (; b < HIST_BUCKETS; b++)
        seen += h->buckets[b];
    put_series(out, f, "_bucket", index);
    buf_printf(out, ",le=\"+Inf\"} %llu\n", (unsigned long long)seen);
    put_series(out, f, "_sum", index);
    buf_printf(out, "} %.9f\n", (double)h->sum_ns / 1e9);
    put_series(out, f, "_count", index);
    buf_printf(out, "} %llu\n", (unsigned long long)seen);
}

static void render_hist_values(struct buf *out, const struct metrics_family *f, bool as_quantiles)
{
    struct hist *h = mem_alloc(sizeof(*h));

    for (unsigned i = 0; i < f->count; i++) {
        metrics_family_read_hist(f, i, h);
        if (hist_count(h) == 0)
            continue;
        if (!as_quantiles) {
            render_hist(out, f, i, h);
            continue;
        }
        for (unsigned q = 0; q < sizeof(quantiles) / sizeof(quantiles[0]); q++) {
            put_series(out, f, "_quantiles", i);
            buf_printf(out, ",quantile=\"%g\"} %.9f\n", quantiles[q],
                       (double)hist_quantile_ns(h, quantiles[q]) / 1e9);
        }
        put_series(out, f, "_quantiles", i);
        buf_printf(out, ",quantile=\"1\"} %.9f\n", (double)h->max_ns / 1e9);
    }
    mem_free(h);
}

static void render_families(struct buf *out)
{
    const struct metrics_family *all;
    unsigned n = metrics_families(&all);

    for (unsigned i = 0; i < n; i++) {
        bool first = true;

        for (unsigned k = 0; k < i && first; k++)
            first = strcmp(all[k].name, all[i].name) != 0;
        if (!first)
            continue;
        put_head(out, all[i].name, "", all[i].help, all[i].is_hist ? "histogram" : "counter");
        for (unsigned k = i; k < n; k++) {
            if (strcmp(all[k].name, all[i].name) != 0)
                continue;
            if (all[k].is_hist)
                render_hist_values(out, &all[k], false);
            else
                render_counter_values(out, &all[k]);
        }
        if (!all[i].is_hist)
            continue;
        put_head(out, all[i].name, "_quantiles", all[i].help, "gauge");
        for (unsigned k = i; k < n; k++) {
            if (strcmp(all[k].name, all[i].name) == 0)
                render_hist_values(out, &all[k], true);
        }
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct metrics_gauge *)a)->name, ((const struct metrics_gauge *)b)->name);
}

static void render_gauges(struct buf *out)
{
    struct metrics_gauge *g = mem_alloc(METRICS_GAUGES_MAX * sizeof(*g));
    unsigned n = metrics_gauges_begin(g);

    qsort(g, n, sizeof(*g), by_name);
    for (unsigned i = 0; i < n; i++) {
        if (i == 0 || strcmp(g[i].name, g[i - 1].name) != 0)
            put_head(out, g[i].name, "", g[i].help, g[i].counter ? "counter" : "gauge");
        if (g[i].write != NULL) {
            g[i].write(out, g[i].name, g[i].arg);
            continue;
        }
        if (g[i].labels != NULL)
            buf_printf(out, "%s{%s} ", g[i].name, g[i].labels);
        else
            buf_printf(out, "%s ", g[i].name);
        put_value(out, g[i].read(g[i].arg));
    }
    metrics_gauges_done();
    mem_free(g);
}

void metrics_render(struct buf *out)
{
    for (unsigned i = 0; i < METRICS_COUNT; i++) {
        put_head(out, metrics_name((enum metric)i), "", metrics_help((enum metric)i), "counter");
        buf_printf(out, "%s %llu\n", metrics_name((enum metric)i),
                   (unsigned long long)metrics_read((enum metric)i));
    }
    render_families(out);
    render_gauges(out);
}
