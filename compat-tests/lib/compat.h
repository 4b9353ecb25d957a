/*
 * The frame of the C compatibility tests: a table of named tests run one after another against a server given
 * as
 * --host H --port P. Each prints `ok FAMILY/SUITE/NAME` or `not ok …` with the reason; the exit code is 1 if
 * one failed. A failed expectation leaves the test by longjmp, so tests keep what they open in static
 * variables or accept the leak: the process ends soon after.
 */
#ifndef COMPAT_COMPAT_H
#define COMPAT_COMPAT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct compat_target {
    const char *host;
    int port;
    bool real; /* the server is the real Redis, Kafka or RabbitMQ */
};

struct compat_test {
    const char *name;
    void (*run)(const struct compat_target *t);
};

static jmp_buf compat_escape;
static char compat_reason[1024];

__attribute__((noreturn, format(printf, 3, 4), unused)) static void compat_fail(const char *file, int line,
                                                                                const char *fmt, ...)
{
    int n = snprintf(compat_reason, sizeof(compat_reason), "%s:%d: ", file, line);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(compat_reason + n, sizeof(compat_reason) - (size_t)n, fmt, ap);
    va_end(ap);
    longjmp(compat_escape, 1);
}

#define FAIL(...) compat_fail(__FILE__, __LINE__, __VA_ARGS__)
#define EXPECT(cond)                                                                                         \
    do {                                                                                                     \
        if (!(cond))                                                                                         \
            FAIL("expected %s", #cond);                                                                      \
    } while (0)
#define EXPECT_INT(got, want)                                                                                \
    do {                                                                                                     \
        long long compat_g = (long long)(got), compat_w = (long long)(want);                                 \
        if (compat_g != compat_w)                                                                            \
            FAIL("%s is %lld, expected %lld", #got, compat_g, compat_w);                                     \
    } while (0)
#define EXPECT_STR(got, want)                                                                                \
    do {                                                                                                     \
        const char *compat_g = (got), *compat_w = (want);                                                    \
        if (compat_g == NULL || strcmp(compat_g, compat_w) != 0)                                             \
            FAIL("%s is \"%s\", expected \"%s\"", #got, compat_g ? compat_g : "(null)", compat_w);           \
    } while (0)

/* Runs one test; false if an expectation failed. Apart from its caller, so that longjmp finds no live locals
 * there. */
static bool compat_run(const struct compat_test *test, const struct compat_target *t)
{
    if (setjmp(compat_escape) != 0)
        return false;
    test->run(t);
    return true;
}

static int compat_main(int argc, char **argv, const char *suite, const struct compat_test *tests,
                       size_t n_tests)
{
    struct compat_target t = {.host = "127.0.0.1"};
    const char *only = "";
    int failed = 0;
    size_t i;

    for (int a = 1; a < argc; a++) {
        if (strcmp(argv[a], "--real") == 0)
            t.real = true;
        else if (a + 1 < argc && strcmp(argv[a], "--host") == 0)
            t.host = argv[++a];
        else if (a + 1 < argc && strcmp(argv[a], "--port") == 0)
            t.port = atoi(argv[++a]);
        else if (a + 1 < argc && strcmp(argv[a], "-k") == 0)
            only = argv[++a];
    }
    if (t.port == 0) {
        fprintf(stderr, "usage: %s [--host HOST] --port PORT [--real] [-k PART-OF-A-NAME]\n", argv[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (i = 0; i < n_tests; i++) {
        char name[256];

        snprintf(name, sizeof(name), "%s/%s", suite, tests[i].name);
        if (strstr(name, only) == NULL)
            continue;
        alarm(120); /* a test that hangs ends the program, which its runner reports */
        if (compat_run(&tests[i], &t)) {
            printf("ok %s\n", name);
        } else {
            printf("not ok %s\n    %s\n", name, compat_reason);
            failed++;
        }
        alarm(0);
    }
    return failed ? 1 : 0;
}

#define COMPAT_MAIN(suite, table)                                                                            \
    int main(int argc, char **argv)                                                                          \
    {                                                                                                        \
        return compat_main(argc, argv, suite, table, sizeof(table) / sizeof((table)[0]));                    \
    }

#endif
