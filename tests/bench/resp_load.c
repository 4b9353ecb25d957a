/*
 * GET or SET on several RESP servers in turn, in slices of a tenth of a second, and what each server used of a processor
 * for an operation: medians over the slices, and medians of each slice's ratio to the last server's in the same round.
 * Servers beside one another drift together, so that a difference of one per cent shows where runs of seconds differ by
 * five.
 *
 *   resp_load get|set NAME:PORT:PID... [connections=50] [pipeline=1] [ms=100] [rounds=100] [rest_us=0]
 *
 * rest_us: a pause behind each look at the connections, so that a server finds many of them ready at once, as one at its limit does.
 * Without, the load is what is at its limit, and the quicker of two servers polls more often for the same work.
 *
 * CPU time is that of all living threads of PID, in nanoseconds (schedstat). Each connection has one request, or pipeline of
 * them, under way; it answers readiness with the system calls of redis-benchmark (a watch for writing, write, a watch for
 * reading, read), so that the servers meet the same pattern. Keys are those of redis-benchmark's -r 100000, all filled first;
 * values have 32 bytes. Prints one line of JSON.
 */
#include "tests/bench/load.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/epoll.h>

#define KEYS 100000
#define SERVERS_MAX 8
#define PIPELINE_MAX 64
#define FILL_PIPELINE 20
#define REQUEST_MAX 128
#define VALUE "value of thirty-two bytes, xxxxx"
_Static_assert(sizeof(VALUE) == 32 + 1, "a byte more would be an inline command of its own to either server");

static double connections_o = 50, pipeline_o = 1, ms_o = 100, rounds_o = 100, rest_us_o = 0;
static const struct option_row rows[] = {
    {"connections", &connections_o},
    {"pipeline", &pipeline_o},
    {"ms", &ms_o},
    {"rounds", &rounds_o},
    {"rest_us", &rest_us_o},
};

struct client {
    int fd;
    size_t got; /* bytes of the replies under way */
};

struct server {
    char name[32];
    int port, pid, epoll;
    struct client *clients;
    double *us; /* CPU an operation, a round */
    uint64_t operations;
    double seconds;
};

struct work {
    bool get, fill;
    unsigned pipeline;
    size_t reply;
    uint32_t next; /* key to fill */
    uint64_t random;
};

/* ---- what a process used ---- */

static uint64_t cpu_ns(int pid)
{
    char path[300];
    uint64_t sum = 0;
    struct dirent *e;
    DIR *d;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    d = opendir(path);
    if (d == NULL)
        die("%s: %s", path, strerror(errno));
    while ((e = readdir(d)) != NULL) {
        unsigned long long ns;
        FILE *f;

        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/schedstat", pid, e->d_name);
        f = fopen(path, "r");
        if (f == NULL)
            continue; /* the thread has ended */
        if (fscanf(f, "%llu", &ns) == 1)
            sum += ns;
        fclose(f);
    }
    closedir(d);
    return sum;
}

/* ---- load ---- */

static void watch(const struct server *s, struct client *c, uint32_t events, bool anew)
{
    struct epoll_event e = {.events = events, .data.ptr = c};

    if (anew && epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->fd, NULL) < 0)
        die("epoll_ctl: %s", strerror(errno));
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, c->fd, &e) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

static size_t make_requests(struct work *w, char *to)
{
    size_t n = 0;

    for (unsigned i = 0; i < w->pipeline; i++) {
        uint32_t key;

        w->random = w->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        key = w->fill ? w->next++ % KEYS : (uint32_t)(w->random >> 33) % KEYS;
        if (w->get)
            n += (size_t)sprintf(to + n, "*2\r\n$3\r\nGET\r\n$16\r\nkey:%012u\r\n", key);
        else
            n += (size_t)sprintf(to + n, "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012u\r\n$32\r\n" VALUE "\r\n", key);
    }
    return n;
}

static void ask(struct server *s, struct client *c, struct work *w)
{
    static char out[PIPELINE_MAX * REQUEST_MAX];

    c->got = 0;
    send_all(c->fd, out, make_requests(w, out));
    watch(s, c, EPOLLIN, true);
}

/* True when all replies are there. */
static bool answered(struct client *c, const struct work *w)
{
    static char in[65536];
    ssize_t n = read(c->fd, in, sizeof(in));

    if (n <= 0)
        die("the server closed the connection");
    if (c->got == 0 && in[0] == '-')
        die("the server says %.*s", (int)n, in);
    c->got += (size_t)n;
    return c->got >= w->reply * w->pipeline;
}

/* Runs for so many milliseconds and until every reply is there; returns operations. */
static uint64_t run_slice(struct server *s, struct work *w, double ms)
{
    unsigned live = (unsigned)connections_o;
    uint64_t operations = 0, end = clock_mono_us() + (uint64_t)(ms * 1000);

    for (unsigned i = 0; i < live; i++)
        watch(s, &s->clients[i], EPOLLOUT, false);
    while (live > 0) {
        struct epoll_event events[256];
        bool over;
        int n;

        if (rest_us_o > 0)
            usleep((unsigned)rest_us_o);
        n = epoll_wait(s->epoll, events, 256, 10000);
        over = clock_mono_us() >= end;

        if (n <= 0)
            die("%s does not answer", s->name);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;

            if (events[i].events & EPOLLOUT) {
                ask(s, c, w);
            } else if (answered(c, w)) {
                operations += w->pipeline;
                if (!over) {
                    watch(s, c, EPOLLOUT, true);
                } else {
                    epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->fd, NULL);
                    live--;
                }
            }
        }
    }
    return operations;
}

static void open_server(struct server *s, const char *text)
{
    struct work fill = {.fill = true, .pipeline = FILL_PIPELINE, .reply = 5};

    if (sscanf(text, "%31[^:]:%d:%d", s->name, &s->port, &s->pid) != 3)
        die("%s is not NAME:PORT:PID", text);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->clients = calloc((size_t)connections_o, sizeof(*s->clients));
    s->us = calloc((size_t)rounds_o, sizeof(*s->us));
    if (s->epoll < 0 || s->clients == NULL || s->us == NULL)
        die("%s: %s", s->name, strerror(errno));
    for (unsigned i = 0; i < (unsigned)connections_o; i++)
        s->clients[i].fd = tcp_connect("127.0.0.1", s->port);
    while (fill.next < KEYS)
        run_slice(s, &fill, 100);
}

/* ---- results ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(const double *values, const double *divisors, unsigned n)
{
    double *sorted = calloc(n, sizeof(*sorted)), m;

    if (sorted == NULL)
        die("out of memory");
    for (unsigned i = 0; i < n; i++)
        sorted[i] = values[i] / (divisors == NULL ? 1 : divisors[i]);
    qsort(sorted, n, sizeof(*sorted), compare);
    m = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
    free(sorted);
    return m;
}

int main(int argc, char **argv)
{
    struct server servers[SERVERS_MAX] = {0};
    struct work work = {.random = 88172645463325252u};
    unsigned n = 0, rounds;
    int arg = 2;

    if (argc < 3 || (strcmp(argv[1], "get") != 0 && strcmp(argv[1], "set") != 0))
        die("usage: resp_load get|set NAME:PORT:PID... [connections=50] [pipeline=1] [ms=100] [rounds=100] [rest_us=0]");
    for (; arg < argc && strchr(argv[arg], ':') != NULL; arg++)
        ;
    parse_options(argc, argv, arg, rows, sizeof(rows) / sizeof(rows[0]));
    if (connections_o < 1 || rounds_o < 1 || pipeline_o < 1 || pipeline_o > PIPELINE_MAX || arg - 2 > SERVERS_MAX)
        die("at least one connection and round, at most %d in a pipeline and %d servers", PIPELINE_MAX, SERVERS_MAX);
    rounds = (unsigned)rounds_o;
    for (int i = 2; i < arg; i++)
        open_server(&servers[n++], argv[i]);
    work.get = argv[1][0] == 'g';
    work.pipeline = (unsigned)pipeline_o;
    work.reply = work.get ? 39 : 5;
    for (unsigned r = 0; r <= rounds; r++) { /* the first warms up */
        for (unsigned i = 0; i < n; i++) {
            struct server *s = &servers[(i + r) % n];
            uint64_t cpu = cpu_ns(s->pid), began = clock_mono_us(), operations = run_slice(s, &work, ms_o);

            if (r == 0)
                continue;
            s->us[r - 1] = (double)(cpu_ns(s->pid) - cpu) / 1e3 / (double)operations;
            s->operations += operations;
            s->seconds += (double)(clock_mono_us() - began) / 1e6;
        }
    }
    for (unsigned i = 0; i < n; i++)
        printf("%s\"%s\": {\"cpu us/op\": %.3f, \"rate\": %.0f, \"ratio\": %.4f}", i == 0 ? "{" : ", ", servers[i].name,
               median(servers[i].us, NULL, rounds), (double)servers[i].operations / servers[i].seconds,
               median(servers[i].us, servers[n - 1].us, rounds));
    printf("}\n");
    return 0;
}
