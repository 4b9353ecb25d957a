/* Threads against each other, for ThreadSanitizer (which Criterion's output does not survive): clients that
 * connect, talk, hang up and reset; mail, background jobs and grace periods between four workers; a view
 * replaced under readers. A plain program: 0 is success. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "io/conn.h"
#include "io/listener.h"

enum { WORKERS = 4, CLIENTS = 6, ROUNDS = 150 };

struct view {
    uint64_t a, b; /* equal as long as nobody freed it */
};

static struct workers *ws;
static struct listener *listener;
static struct view *_Atomic view;
static _Atomic uint64_t opened, closed, pings, jobs, freed;

struct ping {
    struct mail mail;
    uint64_t conn_id;
    struct worker *home;
    unsigned hops;
    uint64_t hold;
};

static void ping_home(struct ping *p)
{
    struct conn *c = worker_find_conn(p->home, p->conn_id);

    if (c != NULL && !conn_closing(c)) {
        conn_hold_release(c, p->hold);
        conn_resume_input(c);
    }
    pings++;
    mem_free(p);
}

/* Three hops over the other workers, then home to the connection that waits. */
static void ping_deliver(struct worker *w, struct mail *m)
{
    struct ping *p = CONTAINER_OF(m, struct ping, mail);

    if (p->hops-- > 0)
        worker_post(workers_get(ws, (worker_index(w) + 1) % WORKERS), m);
    else if (w != p->home)
        worker_post(p->home, m);
    else
        ping_home(p);
}

static int on_open(struct conn *c)
{
    opened++;
    c->session = mem_zalloc(64);
    return 0;
}

static ssize_t on_input(struct conn *c, const uint8_t *data, size_t len)
{
    const struct view *v = atomic_load_explicit(&view, memory_order_acquire);
    struct ping *p;

    CHECK(v->a == v->b);
    for (size_t i = 0; i < len; i++) {
        switch (data[i]) {
        case 'e':
            conn_write(c, "e", 1);
            break;
        case 'p':
            p = mem_zalloc(sizeof(*p));
            p->mail.deliver = ping_deliver;
            p->conn_id = c->id;
            p->home = c->worker;
            p->hops = 3;
            p->hold = conn_hold(c);
            conn_write(c, "p", 1);
            conn_pause_input(c);
            worker_post(workers_get(ws, (worker_index(c->worker) + 1) % WORKERS), &p->mail);
            return (ssize_t)i + 1;
        case 'q':
            conn_close_soon(c, ERR_CLOSED);
            return (ssize_t)len;
        default:
            return ERR_MALFORMED;
        }
    }
    return (ssize_t)len;
}

static void on_closed(struct conn *c, int reason)
{
    (void)reason;
    mem_free(c->session);
    closed++;
}

static const struct conn_ops ops = {.protocol = CONN_RESP,
                                    .name = "stress",
                                    .open = on_open,
                                    .input = on_input,
                                    .closed = on_closed,
                                    .input_max = 65536};

static void client_round(struct rand *r)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(listener_port(listener)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval tv = {10, 0};
    struct linger reset = {1, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char text[64], back[64];
    size_t n = 1 + rand_below(r, 60), got = 0;

    CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    for (size_t i = 0; i < n; i++)
        text[i] = rand_below(r, 4) == 0 ? 'p' : 'e';
    CHECK(send(fd, text, n, MSG_NOSIGNAL) == (ssize_t)n);
    switch (rand_below(r, 4)) {
    case 0: /* gone without reading */
        break;
    case 1: /* gone with a reset */
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        break;
    case 2:
        shutdown(fd, SHUT_WR);
        __attribute__((fallthrough));
    default:
        while (got < n) {
            ssize_t k = recv(fd, back + got, n - got, 0);

            CHECK(k > 0);
            got += (size_t)k;
        }
        CHECK(memcmp(text, back, n) == 0);
        if (rand_below(r, 2) == 0)
            send(fd, "q", 1, MSG_NOSIGNAL);
    }
    close(fd);
}

static void *client_main(void *arg)
{
    struct rand r;

    rand_seed(&r, (uint64_t)(uintptr_t)arg);
    for (int i = 0; i < ROUNDS; i++)
        client_round(&r);
    return NULL;
}

static void free_view(void *arg)
{
    struct view *v = arg;

    v->a = 0;
    v->b = 1;
    mem_free(v);
    freed++;
}

static void job_run(struct bg_job *j)
{
    (void)j;
    jobs++;
}

static void job_done(struct bg_job *j)
{
    mem_free(j);
    jobs++;
}

static void replace_view(void)
{
    struct view *v = mem_zalloc(sizeof(*v)), *old;
    struct bg_job *j = mem_zalloc(sizeof(*j));

    v->a = v->b = clock_mono_us();
    old = atomic_exchange(&view, v);
    workers_after_grace(ws, free_view, old);
    j->run = job_run;
    j->done = job_done;
    j->reply_to = workers_get(ws, (unsigned)(v->a % WORKERS));
    bg_submit(ws, v->a % 2 == 0 ? BG_DISK : BG_FREE, j);
}

static void look(struct worker *w, void *arg)
{
    struct worker_stats s;

    (void)arg;
    worker_get_stats(w, &s);
    CHECK(s.closed <= s.opened);
}

int main(void)
{
    struct workers_options options = {.count = WORKERS, .coalesce_us = 100};
    struct listener_options lo = {.address = "127.0.0.1:0", .ops = &ops};
    pthread_t clients[CLIENTS];
    uint64_t views = 0;

    clock_calibrate();
    view = mem_zalloc(sizeof(struct view));
    CHECK(workers_new(&options, &ws) == 0 && listener_open(ws, &lo, &listener) == 0 &&
          workers_start(ws) == 0);
    for (uintptr_t i = 0; i < CLIENTS; i++)
        CHECK(pthread_create(&clients[i], NULL, client_main, (void *)(i + 1)) == 0);
    for (uint64_t end = clock_mono_us() + 1500000; clock_mono_us() < end; views++) {
        replace_view();
        workers_run_each(ws, look, NULL);
        usleep(500);
    }
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL);
    workers_stop(ws);
    listener_close(listener);
    workers_free(ws);
    CHECK(opened == closed && opened > 0 && freed == views && jobs == 2 * views);
    free_view(view);
    printf("%llu connections, %llu pings, %llu views\n", (unsigned long long)opened,
           (unsigned long long)pings, (unsigned long long)views);
    return 0;
}
