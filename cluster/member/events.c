/* What happened to nodes and partitions, for people: each new version of the view is compared with what was told last. Every node tells the same, since every node sees the same topology; the controller adds its reasons. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/mem.h"
#include "cluster/member/private.h"
#include "metrics/metrics.h"

struct told_node {
    uint32_t id;
    uint64_t epoch;
    enum topo_node_state state;
    bool seen;
    char refused[200]; /* told last */
};

void events_init(struct member *m)
{
    m->events = mem_zalloc(EVENTS_MAX * sizeof(m->events[0]));
}

void events_fini(struct member *m)
{
    mem_free(m->events);
    mem_free(m->told);
}

void events_add(struct member *m, const char *fmt, ...)
{
    struct member_event *e;
    char text[sizeof(e->text)];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    diag_info("cluster", "event=\"%s\"", text);
    mutex_lock(&m->lock);
    e = &m->events[(m->event_first + m->event_count) % EVENTS_MAX];
    if (m->event_count < EVENTS_MAX)
        m->event_count++;
    else
        m->event_first = (m->event_first + 1) % EVENTS_MAX;
    e->wall_ms = clock_wall_ms();
    memcpy(e->text, text, sizeof(text));
    mutex_unlock(&m->lock);
}

unsigned member_events(struct member *m, struct member_event *ret, unsigned max)
{
    unsigned n, from;

    mutex_lock(&m->lock);
    n = MIN_OF(m->event_count, max);
    from = m->event_count - n;
    for (unsigned i = 0; i < n; i++)
        ret[i] = m->events[(m->event_first + from + i) % EVENTS_MAX];
    mutex_unlock(&m->lock);
    return n;
}

/* ---- nodes ---------------------------------------------------------------------------------------------------------------- */

static const char *state_text(enum topo_node_state s)
{
    static const char *const texts[] = {"joins", "is active", "is fenced", "is draining"};

    return texts[s];
}

static bool look_at_node(const struct topo_node *n, void *arg)
{
    struct member *m = arg;
    struct told_node *t = NULL;

    for (unsigned i = 0; i < m->told_count; i++)
        if (m->told[i].id == n->id)
            t = &m->told[i];
    if (t == NULL) {
        m->told = mem_realloc(m->told, (m->told_count + 1) * sizeof(m->told[0]));
        t = &m->told[m->told_count++];
        *t = (struct told_node){.id = n->id, .state = TOPO_NODE_JOINING};
    }
    t->seen = true;
    if (t->epoch != n->epoch)
        t->refused[0] = '\0';
    if (t->epoch != n->epoch)
        events_add(m, "node %u (%.*s) started, epoch %llu%s", n->id, (int)MIN_OF(n->name.len, 64u), (const char *)n->name.data, (unsigned long long)n->epoch, n->unclean ? ", after a crash of its system" : "");
    if (t->state != n->state && !(t->epoch != n->epoch && n->state == TOPO_NODE_FENCED)) {
        events_add(m, "node %u %s", n->id, state_text(n->state));
        if (n->state == TOPO_NODE_FENCED)
            metrics_add(METRIC_CLUSTER_FENCINGS, 1);
    }
    t->epoch = n->epoch;
    t->state = n->state;
    return true;
}

static void look_at_nodes(struct member *m, const struct topology *v)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < m->told_count; i++)
        m->told[i].seen = false;
    topo_each_node(v, look_at_node, m);
    for (unsigned i = 0; i < m->told_count; i++) {
        if (m->told[i].seen)
            m->told[kept++] = m->told[i];
        else
            events_add(m, "node %u was removed", m->told[i].id);
    }
    m->told_count = kept;
}

/* A node and this one do not talk to each other; told once for each reason. */
void events_refused(struct member *m, uint32_t node_id)
{
    struct bus_peer_info peers[64];
    unsigned n = MIN_OF(bus_peers(m->o.bus, peers, ARRAY_LEN(peers)), (unsigned)ARRAY_LEN(peers));

    for (unsigned i = 0; i < m->told_count; i++) {
        struct told_node *t = &m->told[i];

        for (unsigned k = 0; k < n && t->id == node_id; k++) {
            if (peers[k].node_id != node_id || peers[k].refused[0] == '\0' || strcmp(peers[k].refused, t->refused) == 0)
                continue;
            memcpy(t->refused, peers[k].refused, sizeof(t->refused));
            events_add(m, "node %u: no connection: %s", node_id, t->refused);
        }
    }
}

/* ---- partitions -------------------------------------------------------------------------------------------------------------- */

/* Changes of many partitions at once are one line a kind and pair of nodes. */
struct tally {
    uint32_t from, to;
    unsigned count;
    uint32_t first;
};
struct tallies {
    struct tally list[64];
    unsigned count;
};

static void tally(struct tallies *t, uint32_t from, uint32_t to, uint32_t partition)
{
    for (unsigned i = 0; i < t->count; i++) {
        if (t->list[i].from == from && t->list[i].to == to) {
            t->list[i].count++;
            return;
        }
    }
    if (t->count < 64)
        t->list[t->count++] = (struct tally){from, to, 1, partition};
}

static const char *which(const struct tally *t, char *text, size_t size)
{
    if (t->count == 1)
        snprintf(text, size, "partition %u", t->first);
    else
        snprintf(text, size, "%u partitions", t->count);
    return text;
}

static void tell_leaders(struct member *m, const struct tallies *t)
{
    char text[48];

    for (unsigned i = 0; i < t->count; i++) {
        const struct tally *x = &t->list[i];

        which(x, text, sizeof(text));
        if (x->to == 0)
            events_add(m, "%s: no leader, node %u led", text, x->from);
        else if (x->from == 0)
            events_add(m, "%s: led by node %u", text, x->to);
        else
            events_add(m, "%s: led by node %u instead of node %u", text, x->to, x->from);
    }
}

static void look_at_partition(struct member *m, const struct topo_partition *p, struct tallies *leaders, struct tallies *left, struct tallies *joined)
{
    struct mark *mark = &m->marks[p->index];
    struct topo_replica_set now = topo_insync(p);

    if (mark->epoch != 0 && mark->leader != p->leader) {
        tally(leaders, mark->leader, p->leader, p->index);
        if (p->leader != 0)
            metrics_add(METRIC_CLUSTER_ELECTIONS, 1);
    }
    if (mark->epoch != 0) {
        for (unsigned i = 0; i < mark->insync.count; i++)
            if (!topo_set_has(&now, mark->insync.nodes[i]))
                tally(left, mark->insync.nodes[i], 0, p->index);
        for (unsigned i = 0; i < now.count; i++)
            if (!topo_set_has(&mark->insync, now.nodes[i]))
                tally(joined, now.nodes[i], 0, p->index);
    }
    mark->leader = p->leader;
    mark->epoch = p->epoch;
    mark->insync = now;
}

void events_view_changed(struct member *m, const struct topology *v)
{
    struct tallies leaders = {.count = 0}, left = {.count = 0}, joined = {.count = 0};
    char text[48];

    look_at_nodes(m, v);
    if (v->partitions == NULL || v->partitions == m->told_table)
        return;
    m->told_table = v->partitions;
    if (m->marks == NULL) {
        m->marks = mem_zalloc(v->total_partitions * sizeof(m->marks[0]));
        m->mark_count = v->total_partitions;
        if (m->o.bus != NULL)
            events_add(m, "%u partitions are placed", v->total_partitions);
    }
    for (uint32_t i = 0; i < m->mark_count; i++)
        look_at_partition(m, topo_partition_at(v, i), &leaders, &left, &joined);
    tell_leaders(m, &leaders);
    for (unsigned i = 0; i < left.count; i++)
        events_add(m, "node %u left the in-sync set of %s", left.list[i].from, which(&left.list[i], text, sizeof(text)));
    for (unsigned i = 0; i < joined.count; i++)
        events_add(m, "node %u joined the in-sync set of %s", joined.list[i].from, which(&joined.list[i], text, sizeof(text)));
}

void member_partition_damaged(struct member *m, uint32_t node, uint32_t partition)
{
    const struct topo_partition *p = topo_partition_at(topology_pin(m->o.topology), partition);
    uint32_t leader = p == NULL ? 0 : p->leader;
    bool waits = p != NULL && (p->insync | p->eligible | p->last_known) != 0;

    topology_unpin(m->o.topology);
    if (leader != 0)
        events_add(m, "partition %u: the copy on node %u is damaged and is fetched anew from node %u", partition, node, leader);
    else if (waits)
        events_add(m, "partition %u: the copy on node %u is damaged; it is fetched anew when another that has everything is back", partition, node);
    else
        events_add(m, "partition %u: the copy on node %u is damaged and was the last that may lead; gomsgctl partitions recover elects the best of what is left", partition, node);
}
