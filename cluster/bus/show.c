/* What the bus tells Prometheus: gauges of each peer that got a node id, registered the first time it is reachable. */
#include <stdio.h>

#include "base/mem.h"
#include "cluster/bus/private.h"
#include "metrics/metrics.h"

enum { SHOWN_MAX = 32 }; /* nodes: gauges are registered once and for all, and their number is bounded */

struct shown {
    struct shown *next;
    struct bus *bus;
    uint32_t node_id;
    char labels[32];
};

static bool find(struct shown *s, struct bus_peer_info *ret)
{
    struct bus_peer_info all[64];
    unsigned n = bus_peers(s->bus, all, ARRAY_LEN(all));

    for (unsigned i = 0; i < n && i < ARRAY_LEN(all); i++) {
        if (all[i].node_id == s->node_id) {
            *ret = all[i];
            return true;
        }
    }
    return false;
}

#define GAUGES(X)                                                                                             \
    X(up, "gomsg_bus_up", "1 while both connections to the node are up", 0, i.control_up &&i.data_up)         \
    X(bytes_in, "gomsg_bus_received_bytes_total", "Bytes received over connections opened to the node", 1, i.bytes_in)  \
    X(bytes_out, "gomsg_bus_sent_bytes_total", "Bytes sent over connections opened to the node", 1, i.bytes_out)        \
    X(frames_in, "gomsg_bus_received_messages_total", "Frames received over connections opened to the node", 1, i.frames_in) \
    X(frames_out, "gomsg_bus_sent_messages_total", "Messages sent over connections opened to the node", 1, i.frames_out)     \
    X(reconnects, "gomsg_bus_reconnects_total", "Connections to the node that were lost", 1, i.reconnects)    \
    X(round_trip, "gomsg_bus_round_trip_seconds", "Round trip of the last heartbeat to the node", 0, i.round_trip_us / 1e6)

#define X(name, metric, help, counter, value)                                                                 \
    static double read_##name(void *arg)                                                                      \
    {                                                                                                         \
        struct bus_peer_info i = {0};                                                                         \
                                                                                                              \
        return find(arg, &i) ? (double)(value) : 0;                                                           \
    }
GAUGES(X)
#undef X

void bus_show_metrics(struct bus *b)
{
    b->metrics = true;
}

/* Control worker. */
void show_peer(struct bus *b, uint32_t node_id)
{
    struct shown *s;
    unsigned n = 0;

    if (!b->metrics || node_id == 0)
        return;
    for (s = b->shown; s != NULL; s = s->next, n++) {
        if (s->node_id == node_id)
            return;
    }
    if (n >= SHOWN_MAX)
        return;
    s = mem_zalloc(sizeof(*s));
    s->bus = b;
    s->node_id = node_id;
    s->next = b->shown;
    b->shown = s;
    snprintf(s->labels, sizeof(s->labels), "node=\"%u\"", node_id);
#define X(name, metric, help, counter, value) metrics_gauge_register(metric, help, s->labels, counter, read_##name, s);
    GAUGES(X)
#undef X
}

void show_free(struct bus *b)
{
    while (b->shown != NULL) {
        struct shown *s = b->shown;

        b->shown = s->next;
        mem_free(s);
    }
}
