/* Three buses, each with two workers that call one another with all sizes while connections are torn down and built up; meant for ThreadSanitizer, and short enough for make check. Every call ends once, with a right answer
 * or with an error that a lost connection explains. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/bus/bus.h"

enum { NODES = 3, WORKERS = 2, CALLERS = 4, CALLS = 1500 };

struct node {
    struct workers *ws;
    struct bus *bus;
    char address[64];
    uint8_t uuid[16];
};
static struct node nodes[NODES];
static _Atomic int finished, answered, lost;

struct caller {
    struct bus_call call;
    unsigned node, left;
    uint32_t sum;
    struct rand rand;
};
static struct caller callers[NODES][WORKERS][CALLERS];

static uint32_t sum_of(struct slice s)
{
    uint32_t sum = (uint32_t)s.len;

    for (size_t i = 0; i < s.len; i += 97)
        sum = sum * 31 + s.data[i];
    return sum;
}

static void answer(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct node *n = arg;

    (void)from;
    if (r != NULL)
        bus_reply(n->bus, r, 0, payload);
}

static void call_again(struct caller *c)
{
    size_t n = rand_below(&c->rand, 20) == 0 ? rand_below(&c->rand, 1 << 20) : rand_below(&c->rand, 2000);
    uint32_t to = 1 + (uint32_t)rand_below(&c->rand, NODES);
    bool data = rand_below(&c->rand, 2) == 0;
    uint8_t *p;

    if (c->left-- == 0) {
        finished++;
        return;
    }
    if (!data)
        n %= 500000;
    p = mem_alloc(n + 1);
    memset(p, (int)rand_below(&c->rand, 256), n);
    c->sum = sum_of(slice_of(p, n));
    bus_call(nodes[c->node].bus, to, data ? BUS_QUEUE_CONTROL : BUS_PROPOSE, slice_of(p, n), 5000, &c->call);
    if (rand_below(&c->rand, 50) == 0) {
        bus_call_cancel(&c->call);
        bus_call(nodes[c->node].bus, to, data ? BUS_QUEUE_CONTROL : BUS_PROPOSE, slice_of(p, n), 5000, &c->call);
    }
    bus_send(nodes[c->node].bus, to, BUS_QUEUE_DELIVER, slice_of(p, n % 3000));
    mem_free(p);
}

static void done(struct bus_call *call, int err, struct slice payload)
{
    struct caller *c = CONTAINER_OF(call, struct caller, call);

    CHECK(worker_current() == call->worker);
    if (err == 0) {
        CHECK(sum_of(payload) == c->sum);
        answered++;
    } else {
        CHECK(err == ERR_CLOSED || err == ERR_NOT_FOUND || err == ERR_TIMEOUT);
        lost++;
    }
    call_again(c);
}

static void begin(struct worker *w, void *arg)
{
    unsigned i = (unsigned)((struct node *)arg - nodes), k = worker_index(w);

    for (unsigned j = 0; k < WORKERS && j < CALLERS; j++) {
        struct caller *c = &callers[i][k][j];

        rand_seed(&c->rand, i * 100 + k * 10 + j);
        c->node = i;
        c->left = CALLS;
        c->call.worker = w;
        c->call.done = done;
        call_again(c);
    }
}

static void set_targets(unsigned i, unsigned mask)
{
    struct bus_target t[NODES];
    unsigned n = 0;

    for (unsigned k = 0; k < NODES; k++) {
        if ((mask & 1u << k) == 0)
            continue;
        t[n].address = nodes[k].address;
        t[n].node_id = k + 1;
        memcpy(t[n++].uuid, nodes[k].uuid, 16);
    }
    bus_set_targets(nodes[i].bus, t, n);
}

struct flap {
    unsigned node, mask;
};

static void flap(struct worker *w, void *arg)
{
    const struct flap *f = arg;

    (void)w;
    set_targets(f->node, f->mask);
}

static void open_node(unsigned i)
{
    static const uint8_t cluster[16] = {1};
    struct workers_options wo = {.count = WORKERS, .extra = 2};
    struct bus_options bo = {.listen = "127.0.0.1:0", .level_min = 1, .level_max = 1, .secret = "s", .total_partitions = 8};
    struct node *n = &nodes[i];

    memset(n->uuid, (int)i + 1, sizeof(n->uuid));
    CHECK(workers_new(&wo, &n->ws) == 0 && workers_start(n->ws) == 0);
    bo.workers = n->ws;
    bo.control = workers_extra(n->ws, 0);
    bo.data = workers_extra(n->ws, 1);
    memcpy(bo.node_uuid, n->uuid, sizeof(n->uuid));
    CHECK(bus_open(&bo, &n->bus) == 0);
    snprintf(n->address, sizeof(n->address), "127.0.0.1:%u", bus_port(n->bus));
    bus_handle(n->bus, BUS_PROPOSE, answer, n);
    bus_handle(n->bus, BUS_QUEUE_CONTROL, answer, n);
    bus_handle(n->bus, BUS_QUEUE_DELIVER, answer, n);
    bus_set_identity(n->bus, cluster, i + 1, 1);
}

int main(void)
{
    clock_calibrate();
    for (unsigned i = 0; i < NODES; i++)
        open_node(i);
    for (unsigned i = 0; i < NODES; i++) {
        set_targets(i, 7);
        bus_start(nodes[i].bus);
    }
    for (unsigned i = 0; i < NODES; i++)
        workers_run_each(nodes[i].ws, begin, &nodes[i]);
    for (unsigned round = 0; round < 20000 && finished < NODES * WORKERS * CALLERS; round++) {
        struct flap f = {round / 20 % NODES, round % 40 == 0 ? 7u & ~(1u << round / 40 % NODES) : 7u};

        usleep(5000);
        if (round % 20 == 0)
            worker_run(workers_extra(nodes[f.node].ws, 0), flap, &f);
    }
    CHECK(finished == NODES * WORKERS * CALLERS);
    printf("%d calls answered, %d lost with their connection\n", answered, lost);
    CHECK(answered > 1000);
    for (unsigned i = 0; i < NODES; i++) {
        bus_close(nodes[i].bus);
        workers_stop(nodes[i].ws);
        workers_free(nodes[i].ws);
    }
    return 0;
}
