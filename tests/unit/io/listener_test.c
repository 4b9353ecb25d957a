#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/times.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "harness.h"

Test(address, texts_are_parsed_or_refused)
{
    static const char *const bad[] = {"",        "1234",   "host",    "host:",   "host:99999",
                                      "host:-1", "::1:80", "[::1]",   "[::1]80", "[zz]:1",
                                      "a b:1",   "unix:",  "host:1x", "host/x:1"};
    struct address a;

    cr_assert_eq(address_parse("127.0.0.1:6379", &a), 0);
    cr_assert(!a.is_unix && a.port == 6379 && address_is_loopback(&a));
    cr_assert_eq(address_parse("[::1]:1", &a), 0);
    cr_assert_str_eq(a.host, "::1");
    cr_assert(address_is_loopback(&a));
    cr_assert_eq(address_parse(":9092", &a), 0);
    cr_assert_str_eq(a.host, "");
    cr_assert(!address_is_loopback(&a));
    cr_assert_eq(address_parse("example.org:0", &a), 0);
    cr_assert(!address_is_loopback(&a));
    cr_assert_eq(address_parse("unix:/tmp/x:y", &a), 0);
    cr_assert(a.is_unix && address_is_loopback(&a));
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        cr_assert_eq(address_parse(bad[i], &a), ERR_INVALID, "%s", bad[i]);
}

Test(listener, refuses_what_it_cannot_open_with_the_right_error)
{
    struct listener *second;
    struct listener_options lo = {.ops = &server.ops};

    server_start(1, 0);
    workers_stop(server.ws);
    lo.address = listener_address(server.l);
    cr_assert_eq(listener_open(server.ws, &lo, &second), ERR_ADDR_IN_USE);
    lo.address = "no port";
    cr_assert_eq(listener_open(server.ws, &lo, &second), ERR_INVALID);
    lo.address = "192.0.2.1:1"; /* TEST-NET-1: nobody's */
    cr_assert_eq(listener_open(server.ws, &lo, &second), ERR_NOT_FOUND);
    lo.address = "unix:/nonexistent/x.sock";
    cr_assert_eq(listener_open(server.ws, &lo, &second), ERR_NOT_FOUND);
    lo.address = ":0";
    cr_assert_eq(listener_open(server.ws, &lo, &second), 0);
    cr_assert_neq(listener_port(second), 0);
    listener_close(second);
    listener_close(server.l);
    workers_free(server.ws);
}

static struct workers_options one = {.count = 1};

Test(listener, a_unix_socket_is_private_and_replaces_a_dead_one)
{
    char dir[] = "/tmp/gomsg-unit-XXXXXX";
    char *path, *address;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct listener *second;
    struct stat st;
    int fd;

    cr_assert_not_null(mkdtemp(dir));
    path = mem_printf("%s/ctl.sock", dir);
    address = mem_printf("unix:%s", path);
    strcpy(un.sun_path, path);
    /* left behind: bound, never removed */
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    close(fd);

    server_start(1, 0);
    server_stop();
    cr_assert_eq(workers_new(&one, &server.ws), 0);
    {
        struct listener_options lo = {.address = address, .ops = &server.ops};

        cr_assert_eq(listener_open(server.ws, &lo, &server.l), 0);
        cr_assert_eq(listener_open(server.ws, &lo, &second), ERR_ADDR_IN_USE);
    }
    cr_assert_eq(workers_start(server.ws), 0);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    client_say(fd, "by unix\n");
    client_expect(fd, "by unix\n");
    close(fd);
    server_stop();
    cr_assert_eq(access(path, F_OK), -1, "the name goes with the listener");
    rmdir(dir);
    mem_free(path);
    mem_free(address);
}

Test(listener, beyond_the_maximum_it_says_so)
{
    int fd[3];

    server_start(2, 2);
    fd[0] = client_connect();
    fd[1] = client_connect();
    wait_for(&server.opened, 2);
    fd[2] = client_connect();
    client_expect(fd[2], "full\n");
    cr_assert(client_at_end(fd[2]));
    cr_assert_eq(listener_refused(server.l), 1);
    close(fd[2]);
    close(fd[0]);
    wait_for(&server.closed, 1);
    for (int i = 0; i < 1000 && listener_connections(server.l) > 1; i++)
        usleep(1000);
    fd[2] = client_connect();
    client_say(fd[2], "room again\n");
    client_expect(fd[2], "room again\n");
    close(fd[1]);
    close(fd[2]);
    server_stop();
}

static void count_conn(struct conn *c, void *arg)
{
    (void)c;
    (*(int *)arg)++;
}

static int least, most;

static void count_here(struct worker *w, void *arg)
{
    static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    int n = 0;

    (void)arg;
    worker_each_conn(w, count_conn, &n);
    pthread_mutex_lock(&m);
    least = n < least ? n : least;
    most = n > most ? n : most;
    pthread_mutex_unlock(&m);
}

Test(listener, connections_are_spread_evenly)
{
    int fd[40];

    server_start(4, 0);
    for (int i = 0; i < 40; i++)
        fd[i] = client_connect();
    wait_for(&server.opened, 40);
    least = 1000;
    workers_run_each(server.ws, count_here, NULL);
    cr_assert_eq(least, 10);
    cr_assert_eq(most, 10);
    for (int i = 0; i < 40; i++)
        close(fd[i]);
    wait_for(&server.closed, 40);
    server_stop();
}

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

Test(listener, out_of_file_descriptors_it_waits_and_does_not_spin)
{
    struct rlimit limit;
    int fd[64], n = 0, late;
    double before;

    server_start(1, 0);
    for (; n < 5; n++)
        fd[n] = client_connect();
    wait_for(&server.opened, 5);
    late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    {
        /* No descriptor is left for the server's end of this one. */
        struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_port = htons(listener_port(server.l)),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        struct timeval tv = {10, 0};

        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = (rlim_t)dup(0);
        close((int)limit.rlim_cur);
        setrlimit(RLIMIT_NOFILE, &limit);
        setsockopt(late, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
        cr_assert_eq(connect(late, (struct sockaddr *)&to, sizeof(to)), 0);
    }
    client_say(late, "waiting\n");
    before = cpu_seconds();
    usleep(700000);
    cr_assert_lt(cpu_seconds() - before, 0.1);
    client_say(fd[0], "others are served\n");
    client_expect(fd[0], "others are served\n");
    close(fd[4]); /* its two ends give back two */
    client_expect(late, "waiting\n");
    for (int i = 0; i < 4; i++)
        close(fd[i]);
    close(late);
    server_stop();
}

/* The clients are another process: each side has its own table of descriptors. Says on `ready` when all are
 * connected and a tenth has been served, then waits for the end of `stop`. */
static _Noreturn void be_clients(int n, int ready, int stop)
{
    char byte = 0;
    int fd = -1;

    for (int i = 0; i < n; i++) {
        char answer[6];

        fd = client_connect();
        if (i % 10 == 0) {
            client_say(fd, "awake\n");
            if (client_read(fd, answer, 6) != 6)
                _exit(1);
        }
    }
    if (write(ready, &byte, 1) != 1 || read(stop, &byte, 1) != 0)
        _exit(1);
    client_say(fd, "last\n");
    if (client_read(fd, &byte, 1) != 1)
        _exit(1);
    _exit(0);
}

static pid_t start_clients(int n, int *ret_stop)
{
    int ready[2], stop[2];
    char byte;
    pid_t pid;

    cr_assert_eq(pipe(ready), 0);
    cr_assert_eq(pipe(stop), 0);
    pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        close(stop[1]);
        be_clients(n, ready[1], stop[0]);
    }
    close(ready[1]);
    close(stop[0]);
    cr_assert_eq(read(ready[0], &byte, 1), 1, "the clients failed");
    close(ready[0]);
    *ret_stop = stop[1];
    return pid;
}

static void stop_clients(pid_t pid, int stop)
{
    int status;

    close(stop);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
}

Test(listener, ten_thousand_idle_connections_cost_at_most_one_kib_each, .timeout = 60)
{
    enum { WARM = 500, N = 10000 };
    struct rlimit limit;
    int stop;
    size_t before;
    double per, cpu;
    pid_t pid;

    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < N + WARM + 100)
        cr_skip_test("needs %d file descriptors", N + WARM + 100);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    server_start(2, 0);
    pid = start_clients(WARM, &stop);
    wait_for(&server.opened, WARM);
    stop_clients(pid, stop);
    wait_for(&server.closed, WARM);
    before = mem_rss();
    pid = start_clients(N, &stop);
    wait_for(&server.opened, WARM + N);
    usleep(1200000); /* spare buffers are given back once a second */
    per = (double)(mem_rss() - before) / N;
    cpu = cpu_seconds();
    usleep(1000000);
    cpu = cpu_seconds() - cpu;
    fprintf(stderr, "10,000 idle connections: %.0f bytes and %.2f us of CPU a second each\n", per,
            cpu * 1e6 / N);
#ifndef GM_SANITIZE
    cr_assert_lt(per, 1024);
#endif
    stop_clients(pid, stop);
    wait_for(&server.closed, WARM + N);
    server_stop();
}
