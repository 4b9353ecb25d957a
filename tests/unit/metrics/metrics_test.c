#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "metrics/metrics.h"

Test(hist, buckets_cover_every_value_without_gaps)
{
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        cr_assert_lt(hist_bucket_start(i), hist_bucket_start(i + 1));
        cr_assert_eq(hist_bucket(hist_bucket_start(i)), i);
        cr_assert_eq(hist_bucket(hist_bucket_start(i + 1) - 1), i);
    }
    cr_assert_eq(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1);
}

Test(hist, quantiles_are_within_two_percent)
{
    static struct hist h;
    static const double qs[] = {0.5, 0.9, 0.99, 0.999};

    for (uint64_t i = 1; i <= 100000; i++) {
        h.buckets[hist_bucket(i * 100)]++;
        h.max_ns = i * 100;
    }
    for (unsigned i = 0; i < 4; i++) {
        double want = qs[i] * 100000 * 100, got = (double)hist_quantile_ns(&h, qs[i]);

        cr_assert(got > want * 0.98 && got < want * 1.02, "p%g: %g, not %g", qs[i] * 100, got, want);
    }
    cr_assert_leq(hist_quantile_ns(&h, 1.0), 100000 * 100);
}

static const char *const words[] = {"get", "set", "quo\"te\\"};
static const struct metrics_family *calls, *latency;

static void *count_a_lot(void *arg)
{
    if (arg != NULL)
        metrics_thread_init((unsigned)(uintptr_t)arg);
    for (unsigned i = 0; i < 100000; i++) {
        metrics_add(METRIC_COMMANDS_PARKED, 1);
        metrics_count(calls, i % 2, 2);
        metrics_observe(latency, 0, 1000 + i % 100);
    }
    return NULL;
}

Test(metrics, threads_with_and_without_a_slot_add_up)
{
    pthread_t t[4];
    struct hist h;

    calls = metrics_counters_register("gomsg_test_total", "t", NULL, "word", words, 3);
    latency = metrics_hists_register("gomsg_test_seconds", "t", "protocol=\"x\"", "word", words, 3);
    pthread_create(&t[0], NULL, count_a_lot, (void *)1);
    pthread_create(&t[1], NULL, count_a_lot, (void *)2);
    pthread_create(&t[2], NULL, count_a_lot, NULL);
    pthread_create(&t[3], NULL, count_a_lot, NULL);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    cr_assert_eq(metrics_read(METRIC_COMMANDS_PARKED), 400000);
    cr_assert_eq(metrics_family_read(calls, 0), 400000);
    cr_assert_eq(metrics_family_read(calls, 1), 400000);
    cr_assert_eq(metrics_family_read(calls, 2), 0);
    metrics_family_read_hist(latency, 0, &h);
    cr_assert_eq(hist_count(&h), 400000);
    cr_assert_eq(h.max_ns, 1099);
}

static double forty_two(void *arg)
{
    return *(int *)arg;
}

static void must_have(const struct buf *b, const char *text)
{
    cr_assert_not_null(strstr((const char *)b->data, text), "missing: %s in\n%s", text,
                       (const char *)b->data);
}

Test(metrics, the_text_is_what_prometheus_reads)
{
    struct metrics_protocol resp, kafka;
    static const char *const apis[] = {"Produce"}, *const codes[] = {"ERR", "WRONGTYPE"};
    int value = 42;
    struct buf b = {0};
    const char *help;

    metrics_protocol_register(&resp, "resp", "command", words, 3, codes, 2);
    metrics_protocol_register(&kafka, "kafka", "api", apis, 1, codes, 1);
    metrics_request(&resp, 0, 1500, 30, 5);
    metrics_request(&resp, 2, 1500, 30, 5);
    metrics_request(&kafka, 0, 2000000, 1000, 20);
    metrics_error(&resp, 1);
    metrics_gauge_register("gomsg_connections", "Open connections", "protocol=\"resp\"", 0, forty_two,
                           &value);
    metrics_gauge_register("gomsg_up_seconds", "Up", NULL, 0, forty_two, &value);
    metrics_render(&b);
    buf_put_u8(&b, 0);
    must_have(&b,
              "gomsg_request_duration_seconds_bucket{protocol=\"resp\",command=\"get\",le=\"1e-06\"} 0\n");
    must_have(&b,
              "gomsg_request_duration_seconds_bucket{protocol=\"resp\",command=\"get\",le=\"2.5e-06\"} 1\n");
    must_have(&b, "gomsg_request_duration_seconds_bucket{protocol=\"resp\",command=\"get\",le=\"+Inf\"} 1\n");
    must_have(&b, "gomsg_request_duration_seconds_sum{protocol=\"kafka\",api=\"Produce\"} 0.002000000\n");
    must_have(&b, "gomsg_request_duration_seconds_count{protocol=\"kafka\",api=\"Produce\"} 1\n");
    must_have(
        &b, "gomsg_request_duration_seconds_quantiles{protocol=\"resp\",command=\"get\",quantile=\"0.999\"}");
    must_have(&b, "gomsg_request_bytes_total{protocol=\"resp\",command=\"quo\\\"te\\\\\"} 30\n");
    must_have(&b, "gomsg_request_errors_total{protocol=\"resp\",code=\"WRONGTYPE\"} 1\n");
    must_have(&b, "gomsg_connections{protocol=\"resp\"} 42\n");
    must_have(&b, "gomsg_up_seconds 42\n");
    must_have(&b, "# TYPE gomsg_commands_parked_total counter\ngomsg_commands_parked_total 0\n");
    help = strstr((char *)b.data, "# HELP gomsg_request_duration_seconds ");
    cr_assert_not_null(help);
    cr_assert_null(strstr(help + 1, "# HELP gomsg_request_duration_seconds "), "one HELP a name");
    buf_fini(&b);
    metrics_gauges_clear();
}

/* Names follow the convention and none is used twice. */
Test(metrics, every_counter_is_named_as_prometheus_wants)
{
    for (unsigned i = 0; i < METRICS_COUNT; i++) {
        const char *name = metrics_name((enum metric)i);
        size_t n = strlen(name);

        cr_assert_eq(strncmp(name, "gomsg_", 6), 0, "%s", name);
        cr_assert(n > 6 && strcmp(name + n - 6, "_total") == 0, "%s", name);
        for (unsigned k = 0; k < i; k++)
            cr_assert_str_neq(name, metrics_name((enum metric)k));
    }
}
