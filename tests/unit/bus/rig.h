/* Several nodes' buses in one process, each with workers of its own, over loopback. */
#ifndef GM_TESTS_BUS_RIG_H
#define GM_TESTS_BUS_RIG_H

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "cluster/bus/bus.h"

enum { NODES_MAX = 3 };

struct node {
    unsigned index;
    struct workers *ws;
    struct bus *bus;
    char address[64];
    uint8_t uuid[16];
    _Atomic int ups, downs, last_down;
    _Atomic int silences, heard; /* peer_silent */
    _Atomic int got;      /* messages handled */
    _Atomic uint32_t last_from;
    _Atomic bool in_order; /* of NOTE messages that carry a be32 counter */
    _Atomic uint32_t next_number;
    struct bus_request *_Atomic kept; /* of a request that said "keep" */
};
extern struct node nodes[NODES_MAX];

/* What may differ from the default of a node. */
struct node_options {
    const char *secret;
    uint8_t cluster; /* repeated 16 times */
    uint32_t id;     /* default index + 1 */
    uint32_t partitions;
    uint8_t uuid;    /* repeated; default index + 1 */
    uint32_t heartbeat_ms;
    uint32_t message_max;
    uint64_t assembly_max;
    bool no_compression;
};
void node_open(unsigned i, const struct node_options *o); /* workers run, the bus is bound, not started */
void node_start(unsigned i);
void node_stop(unsigned i);
/* Node i keeps connections to the nodes in the mask, by address alone or with id and uuid. */
void node_targets(unsigned i, unsigned mask, bool by_id);
void start_nodes(unsigned n); /* with defaults, all knowing all, and waits until all are up */
void stop_nodes(unsigned n);

/* Waits at most 10 s until *counter >= n. */
void wait_at_least(_Atomic int *counter, int n);
#define WAIT_UNTIL(cond)                                                                                     \
    do {                                                                                                     \
        for (int i_ = 0; i_ < 10000 && !(cond); i_++)                                                        \
            usleep(1000);                                                                                    \
        cr_assert(cond, #cond);                                                                              \
    } while (0)

/* A call made from worker 0 of a node, waited for. The handler of PROPOSE (control) and QUEUE_CONTROL (data) answers: "echo..." with itself, "keep" not at all (kept), "fail" with ERR_NOT_EMPTY and a text, "big N" with
 * N bytes of a pattern. */
struct result {
    _Atomic int done;
    int err;
    struct buf payload;
    struct bus_call call;
};
void call_begin(struct result *r, unsigned node, uint32_t to, enum bus_type type, struct slice payload, uint32_t timeout_ms);
void call_to_begin(struct result *r, unsigned node, const char *address, enum bus_type type, struct slice payload, uint32_t timeout_ms);
void call_cancel(struct result *r, unsigned node);
void call_wait(struct result *r);
void call_ok(unsigned node, uint32_t to, enum bus_type type, const char *text);
void fill_pattern(uint8_t *p, size_t n);

#endif
