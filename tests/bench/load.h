/*
 * What the load drivers share: sockets, options, a histogram of latencies. A driver is one thread on one
 * core; errors end the program with a message, since a benchmark that goes on after an error measures
 * something else.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

/* ---- latencies: 64 buckets a power of two of nanoseconds, at most 1.6 % off ---- */

#define HIST_SUB 64
struct hist {
    uint64_t n;
    uint64_t bucket[64 * HIST_SUB];
};

static inline size_t hist_index(uint64_t v)
{
    unsigned e;

    if (v < HIST_SUB)
        return (size_t)v;
    e = 63u - (unsigned)__builtin_clzll(v);
    return (size_t)(e - 5) * HIST_SUB + (size_t)((v >> (e - 6)) & (HIST_SUB - 1));
}

static inline void hist_add(struct hist *h, uint64_t ns)
{
    h->n++;
    h->bucket[hist_index(ns)]++;
}

/* The upper end, in microseconds, of the bucket in which the share q of all samples is reached. */
static inline double hist_us(const struct hist *h, double q)
{
    uint64_t want = (uint64_t)((double)h->n * q), seen = 0;

    for (size_t i = 0; i < 64 * HIST_SUB; i++) {
        seen += h->bucket[i];
        if (h->bucket[i] && seen > want) {
            size_t e = i / HIST_SUB;

            if (e == 0)
                return (double)i / 1e3;
            return (double)((((uint64_t)(i % HIST_SUB) + HIST_SUB + 1) << (e - 1))) / 1e3;
        }
    }
    return 0;
}

static inline void hist_print(const struct hist *h)
{
    printf(", \"latency\": {\"50\": %.1f, \"99\": %.1f, \"99.9\": %.1f}", hist_us(h, .5), hist_us(h, .99),
           hist_us(h, .999));
}

/* ---- sockets ---- */

static inline int tcp_connect(const char *host, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
        die("%s is not an IPv4 address", host);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        die("connect %s:%d: %s", host, port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static inline void send_all(int fd, const void *data, size_t len)
{
    const char *p = (const char *)data;

    while (len > 0) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            die("send: %s", strerror(errno));
        p += n;
        len -= (size_t)n;
    }
}

static inline void recv_all(int fd, void *data, size_t len)
{
    char *p = (char *)data;

    while (len > 0) {
        ssize_t n = recv(fd, p, len, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            die("the server closed the connection");
        p += n;
        len -= (size_t)n;
    }
}

/* ---- options: name=number on the command line ---- */

struct option_row {
    const char *name;
    double *value;
};

static inline void parse_options(int argc, char **argv, int first, const struct option_row *rows,
                                 size_t n_rows)
{
    for (int a = first; a < argc; a++) {
        char *eq = strchr(argv[a], '=');
        size_t i;

        for (i = 0; eq && i < n_rows; i++)
            if (strlen(rows[i].name) == (size_t)(eq - argv[a]) &&
                memcmp(rows[i].name, argv[a], (size_t)(eq - argv[a])) == 0)
                break;
        if (!eq || i == n_rows) {
            fprintf(stderr, "unknown option %s; known:", argv[a]);
            for (i = 0; i < n_rows; i++)
                fprintf(stderr, " %s=%g", rows[i].name, *rows[i].value);
            die("%s", "");
        }
        *rows[i].value = atof(eq + 1);
    }
}

#endif
