#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

struct node nodes[NODES_MAX];

void wait_at_least(_Atomic int *counter, int n)
{
    for (int i = 0; i < 10000 && *counter < n; i++)
        usleep(1000);
    cr_assert(*counter >= n, "waited for %d, is %d", n, *counter);
}

void fill_pattern(uint8_t *p, size_t n)
{
    uint32_t x = 1;

    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        p[i] = (uint8_t)(x >> 24);
    }
}

static void answer(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct node *n = arg;
    char text[32] = "";

    n->last_from = from->node_id;
    n->got++;
    if (payload.len >= 4 && memcmp(payload.data, "echo", 4) == 0) {
        bus_reply(n->bus, r, 0, payload);
    } else if (slice_eq(payload, SLICE_LIT("keep"))) {
        n->kept = r;
    } else if (payload.len > 4 && memcmp(payload.data, "big ", 4) == 0) {
        size_t size;
        uint8_t *p;

        memcpy(text, payload.data, payload.len < sizeof(text) - 1 ? payload.len : sizeof(text) - 1);
        size = strtoul(text + 4, NULL, 10);
        p = mem_alloc(size + 1);
        fill_pattern(p, size);
        bus_reply(n->bus, r, 0, slice_of(p, size));
        mem_free(p);
    } else if (slice_eq(payload, SLICE_LIT("fail"))) {
        bus_reply(n->bus, r, ERR_NOT_EMPTY, SLICE_LIT("there is something in it"));
    } else {
        bus_reply(n->bus, r, 0, slice_of(&payload.len, sizeof(payload.len)));
    }
}

static void note(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct node *n = arg;

    n->last_from = from->node_id;
    if (r != NULL || payload.len < 4 || be32_get(payload.data) != n->next_number)
        n->in_order = false;
    n->next_number++;
    n->got++;
}

static void peer_up(void *arg, const struct bus_peer *peer)
{
    struct node *n = arg;

    (void)peer;
    n->ups++;
}

static void peer_down(void *arg, const struct bus_peer *peer, enum bus_down why)
{
    struct node *n = arg;

    (void)peer;
    n->last_down = (int)why;
    n->downs++;
}

static void peer_silent(void *arg, const struct bus_peer *peer, bool silent)
{
    struct node *n = arg;

    n->last_from = peer->node_id;
    if (silent)
        n->silences++;
    else
        n->heard++;
}

void node_open(unsigned i, const struct node_options *o)
{
    static const struct node_options none;
    struct workers_options wo = {.count = 2, .extra = 2};
    struct bus_options bo = {.listen = "127.0.0.1:0", .level_min = 1, .level_max = 1};
    struct node *n = &nodes[i];
    uint8_t cluster[16];

    if (o == NULL)
        o = &none;
    clock_calibrate();
    n->index = i;
    n->in_order = true;
    memset(n->uuid, o->uuid != 0 ? o->uuid : (int)i + 1, sizeof(n->uuid));
    memset(cluster, o->cluster != 0 ? o->cluster : 7, sizeof(cluster));
    cr_assert_eq(workers_new(&wo, &n->ws), 0);
    cr_assert_eq(workers_start(n->ws), 0);
    bo.workers = n->ws;
    bo.control = workers_extra(n->ws, 0);
    bo.data = workers_extra(n->ws, 1);
    bo.secret = o->secret != NULL ? o->secret : "a secret";
    memcpy(bo.node_uuid, n->uuid, sizeof(n->uuid));
    bo.total_partitions = o->partitions != 0 ? o->partitions : 32;
    bo.heartbeat_ms = o->heartbeat_ms != 0 ? o->heartbeat_ms : 100;
    bo.message_max = o->message_max;
    bo.assembly_max = o->assembly_max;
    bo.no_compression = o->no_compression;
    bo.peer_up = peer_up;
    bo.peer_down = peer_down;
    bo.peer_silent = peer_silent;
    bo.arg = n;
    cr_assert_eq(bus_open(&bo, &n->bus), 0);
    snprintf(n->address, sizeof(n->address), "127.0.0.1:%u", bus_port(n->bus));
    bus_handle(n->bus, BUS_PROPOSE, answer, n);
    bus_handle(n->bus, BUS_QUEUE_CONTROL, answer, n);
    bus_handle(n->bus, BUS_QUEUE_DELIVER, note, n);
    bus_handle(n->bus, BUS_RAFT, note, n);
    bus_set_identity(n->bus, cluster, o->id != 0 ? o->id : i + 1, 1);
}

void node_start(unsigned i)
{
    bus_start(nodes[i].bus);
}

void node_stop(unsigned i)
{
    bus_close(nodes[i].bus);
    workers_stop(nodes[i].ws);
    workers_free(nodes[i].ws);
    nodes[i].bus = NULL;
}

struct targets {
    struct bus *bus;
    struct bus_target list[NODES_MAX];
    unsigned count;
};

static void set_targets(struct worker *w, void *arg)
{
    struct targets *t = arg;

    (void)w;
    bus_set_targets(t->bus, t->list, t->count);
}

void node_targets(unsigned i, unsigned mask, bool by_id)
{
    struct targets t = {.bus = nodes[i].bus};

    for (unsigned k = 0; k < NODES_MAX; k++) {
        if ((mask & 1u << k) == 0)
            continue;
        t.list[t.count].address = nodes[k].address;
        if (by_id) {
            t.list[t.count].node_id = k + 1;
            memcpy(t.list[t.count].uuid, nodes[k].uuid, 16);
        }
        t.count++;
    }
    worker_run(workers_extra(nodes[i].ws, 0), set_targets, &t);
}

void start_nodes(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        node_open(i, NULL);
    for (unsigned i = 0; i < n; i++) {
        node_targets(i, (1u << n) - 1, true);
        node_start(i);
    }
    for (unsigned i = 0; i < n; i++)
        wait_at_least(&nodes[i].ups, (int)n - 1);
}

void stop_nodes(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        node_stop(i);
}

/* ---- calls ---- */

static void call_done(struct bus_call *c, int err, struct slice payload)
{
    struct result *r = (struct result *)((char *)c - offsetof(struct result, call));

    cr_assert_eq(worker_current(), c->worker);
    r->err = err;
    buf_put_slice(&r->payload, payload);
    r->done++;
}

struct begin {
    struct result *r;
    struct bus *bus;
    uint32_t to;
    const char *address;
    enum bus_type type;
    struct slice payload;
    uint32_t timeout_ms;
};

static void begin(struct worker *w, void *arg)
{
    struct begin *b = arg;

    b->r->call.worker = w;
    b->r->call.done = call_done;
    if (b->address != NULL)
        bus_call_to(b->bus, b->address, b->type, b->payload, b->timeout_ms, &b->r->call);
    else
        bus_call(b->bus, b->to, b->type, b->payload, b->timeout_ms, &b->r->call);
}

void call_begin(struct result *r, unsigned node, uint32_t to, enum bus_type type, struct slice payload, uint32_t timeout_ms)
{
    struct begin b = {r, nodes[node].bus, to, NULL, type, payload, timeout_ms};

    memset(r, 0, sizeof(*r));
    worker_run(workers_get(nodes[node].ws, 0), begin, &b);
}

void call_to_begin(struct result *r, unsigned node, const char *address, enum bus_type type, struct slice payload, uint32_t timeout_ms)
{
    struct begin b = {r, nodes[node].bus, 0, address, type, payload, timeout_ms};

    memset(r, 0, sizeof(*r));
    worker_run(workers_get(nodes[node].ws, 0), begin, &b);
}

static void cancel(struct worker *w, void *arg)
{
    (void)w;
    bus_call_cancel(arg);
}

void call_cancel(struct result *r, unsigned node)
{
    worker_run(workers_get(nodes[node].ws, 0), cancel, &r->call);
}

void call_wait(struct result *r)
{
    wait_at_least(&r->done, 1);
}

void call_ok(unsigned node, uint32_t to, enum bus_type type, const char *text)
{
    struct result r;

    call_begin(&r, node, to, type, slice_str(text), 10000);
    call_wait(&r);
    cr_assert_eq(r.err, 0, "%s", err_text(r.err));
    cr_assert(slice_eq(buf_slice(&r.payload), slice_str(text)));
    buf_fini(&r.payload);
}
