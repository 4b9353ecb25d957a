#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "io/listener.h"
#include "protocols/http/http.h"

static struct http *http;
static _Atomic bool is_ready;

static void metrics(void *arg, struct buf *out)
{
    (void)arg;
    for (int i = 0; i < 10000; i++)
        buf_printf(out, "gomsg_number{n=\"%d\"} %d\n", i, i);
}

static bool ready(void *arg, struct buf *out)
{
    (void)arg;
    buf_put_str(out, is_ready ? "{\"status\":\"ready\"}" : "{\"status\":\"recovering\"}");
    return is_ready;
}

static void start(void)
{
    struct http_options options = {.address = "127.0.0.1:0", .metrics = metrics, .ready = ready};

    cr_assert_eq(http_start(&options, &http), 0);
}

static int dial(void)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(http_port(http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval tv = {10, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    return fd;
}

/* The whole answer to a request that asks to close, NUL-terminated; the caller frees. A connection closed
 * unanswered, because those before it still count, is tried again for five seconds. */
static char *ask(const char *request)
{
    struct buf b = {0};

    for (int i = 0; i < 50 && b.len == 0; i++) {
        int fd = dial();
        ssize_t n = send(fd, request, strlen(request), MSG_NOSIGNAL);

        while (n > 0) {
            n = recv(fd, buf_reserve(&b, 4096), 4096, 0);
            if (n > 0)
                buf_advance(&b, (size_t)n);
        }
        close(fd);
        if (b.len == 0)
            usleep(100000);
    }
    buf_put_u8(&b, 0);
    return (char *)b.data;
}

static void expect(const char *request, const char *status, const char *part)
{
    char *answer = ask(request);

    cr_assert_eq(strncmp(answer, status, strlen(status)), 0, "%s -> %.200s", request, answer);
    cr_assert_not_null(strstr(answer, part), "%s -> %.2000s", request, answer);
    mem_free(answer);
}

#define END " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

Test(http, answers_what_monitoring_asks)
{
    start();
    expect("GET /metrics" END, "HTTP/1.1 200", "gomsg_number{n=\"9999\"} 9999\n");
    expect("GET /metrics" END, "HTTP/1.1 200", "Content-Type: text/plain; version=0.0.4");
    expect("GET /healthz" END, "HTTP/1.1 200", "{\"status\":\"ok\"}");
    expect("GET /readyz" END, "HTTP/1.1 503", "recovering");
    is_ready = true;
    expect("GET /readyz?verbose" END, "HTTP/1.1 200", "ready");
    expect("HEAD /readyz" END, "HTTP/1.1 200", "Content-Type: application/json");
    expect("GET /" END, "HTTP/1.1 404", "/metrics");
    expect("GET /metrics/../../etc/passwd" END, "HTTP/1.1 404", "not found");
    expect("DELETE /metrics" END, "HTTP/1.1 405", "Allow: GET, HEAD");
    expect("POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
           "HTTP/1.1 405", "only GET");
    http_stop(http);
}

Test(http, bad_input_costs_its_connection_only)
{
    static const struct {
        const char *text;
        size_t len;
    } bad[] = {{"*1\r\n$4\r\nPING\r\n", 14},
               {"AMQP\0\0\11\1", 8},
               {"GET\r\n\r\n", 7},
               {"\r\n\r\n\r\n", 6},
               {"GET / HTTP/9.9\r\n\r\n", 18}};
    struct rand r;
    char noise[2000], *request;

    start();
    rand_seed(&r, 7);
    for (unsigned i = 0; i < 200; i++) {
        int fd = dial();

        if (i % 2 == 0) {
            for (unsigned k = 0; k < sizeof(noise); k++)
                noise[k] = (char)rand_u64(&r);
            send(fd, noise, rand_below(&r, sizeof(noise)), MSG_NOSIGNAL);
        } else {
            send(fd, bad[i / 2 % 5].text, bad[i / 2 % 5].len, MSG_NOSIGNAL);
        }
        close(fd);
    }
    /* a header longer than a connection may hold */
    request = mem_alloc(100000);
    memset(request, 'a', 100000);
    memcpy(request, "GET /", 5);
    {
        int fd = dial();

        send(fd, request, 100000, MSG_NOSIGNAL);
        close(fd);
    }
    mem_free(request);
    expect("GET /healthz" END, "HTTP/1.1 200", "ok");
    http_stop(http);
}

Test(http, more_connections_than_allowed_are_closed_and_the_rest_served)
{
    int fd[100];

    start();
    for (int i = 0; i < 100; i++)
        fd[i] = dial();
    usleep(200000);
    for (int i = 0; i < 100; i++)
        close(fd[i]);
    usleep(200000);
    expect("GET /healthz" END, "HTTP/1.1 200", "ok");
    http_stop(http);
}

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

Test(http, out_of_file_descriptors_it_waits_and_does_not_spin)
{
    struct rlimit limit, old;
    double before;
    char answer[16] = {0};
    int fd, other;

    start();
    other = dial();
    usleep(100000); /* so that its other end is accepted */
    fd = socket(AF_INET, SOCK_STREAM, 0);
    close(fd);
    getrlimit(RLIMIT_NOFILE, &old);
    limit = old;
    limit.rlim_cur = (rlim_t)fd + 1; /* room for the client's end, none for ours */
    setrlimit(RLIMIT_NOFILE, &limit);
    fd = dial();
    before = cpu_seconds();
    usleep(500000);
    cr_assert_lt(cpu_seconds() - before, 0.1);
    setrlimit(RLIMIT_NOFILE, &old);
    cr_assert(send(fd, "GET /healthz" END, strlen("GET /healthz" END), MSG_NOSIGNAL) > 0);
    cr_assert(recv(fd, answer, 12, MSG_WAITALL) == 12);
    cr_assert_str_eq(answer, "HTTP/1.1 200");
    close(fd);
    close(other);
    http_stop(http);
}

Test(http, a_taken_port_is_an_error_and_leaves_nothing)
{
    struct http *second = NULL;
    struct http_options options = {.metrics = metrics, .ready = ready};
    char address[32];

    start();
    snprintf(address, sizeof(address), "127.0.0.1:%u", http_port(http));
    options.address = address;
    cr_assert_eq(http_start(&options, &second), ERR_ADDR_IN_USE);
    cr_assert_null(second);
    http_stop(http);
    http_stop(NULL);
}
