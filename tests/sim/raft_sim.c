/* raft_sim [--seeds N] [--start S] [--events N] [--expect-bug]      runs N seeds from S on
 * raft_sim --seed X [--trace] [--events N]                            replays one
 * raft_sim --list FILE                                                replays the seeds of a file, a line each: seed, events, a remark
 *
 * Exit code 0: no violation; with --expect-bug: a violation was found, as it must be with -DRAFT_BUG. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

struct run {
    uint64_t start, seeds, events;
    const char *list;
    bool trace, expect_bug, quiet;
};

/* An assertion of the core failed: the report has been written, the seed has not. */
static void aborted(int sig)
{
    (void)sig;
    fflush(stdout);
    if (sim_world != NULL)
        fprintf(stderr, "VIOLATION seed=%llu event=%llu: an assertion failed\nreplay: raft_sim --seed %llu --trace\n", (unsigned long long)sim_world->seed,
                (unsigned long long)sim_world->events, (unsigned long long)sim_world->seed);
    _Exit(1);
}

static uint64_t number(const char *s)
{
    char *end;
    uint64_t v = strtoull(s, &end, 10);

    if (*s == '\0' || *end != '\0') {
        fprintf(stderr, "raft_sim: not a number: %s\n", s);
        exit(2);
    }
    return v;
}

static void parse(int argc, char **argv, struct run *run)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(a, "--trace") == 0) {
            run->trace = true;
            continue;
        }
        if (strcmp(a, "--expect-bug") == 0) {
            run->expect_bug = true;
            continue;
        }
        if (strcmp(a, "--seeds") == 0) {
            run->seeds = number(value);
        } else if (strcmp(a, "--start") == 0) {
            run->start = number(value);
        } else if (strcmp(a, "--events") == 0) {
            run->events = number(value);
        } else if (strcmp(a, "--list") == 0) {
            run->list = value;
        } else if (strcmp(a, "--seed") == 0) {
            run->start = number(value);
            run->seeds = 1;
        } else {
            fprintf(stderr, "raft_sim: unknown argument %s\n", a);
            exit(2);
        }
        i++;
    }
}

static double seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static uint64_t run_list(const struct run *run, struct totals *t)
{
    FILE *f = fopen(run->list, "r");
    char line[512];
    uint64_t n = 0;

    if (f == NULL) {
        perror(run->list);
        exit(2);
    }
    while (fgets(line, sizeof(line), f) != NULL) {
        unsigned long long seed, events;

        if (line[0] == '#' || sscanf(line, "%llu %llu", &seed, &events) != 2)
            continue;
        world_run(seed, events, run->trace, t);
        n++;
    }
    fclose(f);
    return n;
}

static int run_seeds(const struct run *run)
{
    struct totals t = {0};
    double begin = seconds(), took;
    uint64_t n = run->seeds;

    signal(SIGABRT, aborted);
    if (run->list != NULL) {
        n = run_list(run, &t);
    } else {
        for (uint64_t s = run->start; s < run->start + run->seeds; s++)
            world_run(s, run->events, run->trace, &t);
    }
    took = seconds() - begin;
    printf("raft_sim: %llu seeds, %llu events, %llu elections, %llu commits, %llu reads, %llu changes, %llu snapshots installed, %llu transfers, %llu crashes; %.0f seeds/s, "
           "no violation\n",
           (unsigned long long)n, (unsigned long long)t.events, (unsigned long long)t.elections, (unsigned long long)t.commits, (unsigned long long)t.reads,
           (unsigned long long)t.changes, (unsigned long long)t.installs, (unsigned long long)t.transfers, (unsigned long long)t.crashes, (double)n / took);
    /* A world in which nothing happens has no violations either. */
    if (n >= 1000 && (t.elections < n || t.commits < 10 * n || t.reads < n || t.changes < n / 4 || t.installs < n / 20 || t.transfers < n / 20)) {
        fprintf(stderr, "raft_sim: too little happened to mean anything\n");
        return 1;
    }
    return 0;
}

/* The run ends at its first violation, so it is a child's. */
static int expect_bug(const struct run *run)
{
    pid_t pid = fork();
    int status;

    if (pid == 0)
        _Exit(run_seeds(run));
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return 2;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 1)
        return 0;
    fprintf(stderr, "raft_sim: the planted bug was not found in %llu seeds\n", (unsigned long long)run->seeds);
    return 1;
}

int main(int argc, char **argv)
{
    struct run run = {.start = 1, .seeds = 1000, .events = 2000};

    parse(argc, argv, &run);
    return run.expect_bug ? expect_bug(&run) : run_seeds(&run);
}
