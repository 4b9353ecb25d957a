/* The controller's side. Life of a term: begin (nobody was heard yet, what the former one knew is gone) -> heartbeats, ticks, new views -> end (the group has another leader; orders on their way come to whatever end).
 *
 *   a heartbeat   is noted when it arrives and answered after a round to a majority that began then: only then is it sure that this node still was the controller when the heartbeat came. Whoever is being fenced gets no answer
 *                 that grants anything, from the moment the fencing is proposed: otherwise a lease could outlive it.
 *   a tick        who is silent, who is refused: states. What is to be done about partitions: the plan, run when something changed and every quarter of a second.
 *   an order      is proposed once and marked; it is proposed again only when the view shows that it came to nothing, or has not shown it for a while. */
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/member/private.h"
#include "cluster/topology/partition.h"

enum {
    PLAN_EVERY_US = 250000,
    ORDER_AGAIN_US = 2000000,
    HANDOVER_AGAIN_US = 3000000,
    PLACE_WAIT_US = 5000000, /* for founders that are late */
    SLOW_MS = 2000,          /* rule 25 */
    NOT_SLOW_MS = 1000,
    CLOCK_WARN_MS = 500,     /* rule 26 */
    CLOCK_OFF_MS = 10000,
    NODES_MAX = 1024,
};

/* ---- what is known of the nodes --------------------------------------------------------------------------------------------- */

struct peer *controller_peer(struct member *m, uint32_t id)
{
    for (unsigned i = 0; i < m->peer_count; i++)
        if (m->peers[i].id == id)
            return &m->peers[i];
    return NULL;
}

static struct peer *add_peer(struct member *m, uint32_t id)
{
    if (m->peer_count == m->peer_cap) {
        m->peer_cap = m->peer_cap == 0 ? 8 : m->peer_cap * 2;
        m->peers = mem_realloc(m->peers, m->peer_cap * sizeof(m->peers[0]));
    }
    m->peers[m->peer_count] = (struct peer){.id = id};
    return &m->peers[m->peer_count++];
}

static bool look_at_node(const struct topo_node *n, void *arg)
{
    struct member *m = arg;
    struct peer *p = controller_peer(m, n->id);

    if (p == NULL)
        p = add_peer(m, n->id);
    if (p->epoch != n->epoch || p->state != n->state || p->state_since_us == 0) {
        /* What was heard before the change says nothing about who came back. One that was taken in is heard already. */
        if (p->epoch != n->epoch || n->state == TOPO_NODE_FENCED)
            p->heard = false;
        if (p->epoch != n->epoch)
            p->skew_count = 0;
        p->epoch = n->epoch;
        p->state = n->state;
        p->state_since_us = member_now_us();
        p->fencing = false;
        p->proposed_us = 0;
        m->dirty = true;
    }
    return true;
}

static void look_at_nodes(struct member *m, const struct topology *v)
{
    unsigned kept = 0;

    topo_each_node(v, look_at_node, m);
    for (unsigned i = 0; i < m->peer_count; i++)
        if (topo_node_find(v, m->peers[i].id) != NULL)
            m->peers[kept++] = m->peers[i];
    m->peer_count = kept;
}

void controller_peer_refused(struct member *m, uint32_t node_id, bool refused)
{
    struct peer *p = controller_peer(m, node_id);

    if (p != NULL && p->refused != refused) {
        p->refused = refused;
        m->dirty = true;
    }
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

/* Rule 26: against the median, so that one clock, be it ours, does not make all others wrong. */
static void judge_clocks(struct member *m)
{
    int64_t all[NODES_MAX], median;
    unsigned n = 0;

    for (unsigned i = 0; i < m->peer_count && n < NODES_MAX; i++) {
        struct peer *p = &m->peers[i];

        if (p->skew_count == 0 || !p->heard)
            continue;
        p->skew_ms = p->skews[0];
        for (unsigned k = 1; k < p->skew_count && k < SKEWS; k++)
            p->skew_ms = MAX_OF(p->skew_ms, p->skews[k]);
        all[n++] = p->skew_ms;
    }
    if (n == 0)
        return;
    qsort(all, n, sizeof(all[0]), by_value);
    median = all[(n - 1) / 2];
    for (unsigned i = 0; i < m->peer_count; i++) {
        struct peer *p = &m->peers[i];
        int64_t off;

        if (p->skew_count < 3 || !p->heard)
            continue; /* one late message proves nothing */
        p->skew_ms -= median;
        off = p->skew_ms < 0 ? -p->skew_ms : p->skew_ms;
        p->clock_off = n > 2 && off > CLOCK_OFF_MS;
        if (off > CLOCK_WARN_MS)
            DIAG_EVERY(DIAG_WARN, "a node's clock differs from the others'", "node=%u ms=%lld hint=\"let NTP set the clocks of all nodes\"", p->id, (long long)p->skew_ms);
    }
}

void controller_heartbeat(struct member *m, const struct heartbeat *h, uint64_t now_us)
{
    struct peer *p = controller_peer(m, h->node_id);
    bool slow;

    if (p == NULL || p->epoch != h->node_epoch)
        return;
    m->dirty |= !p->heard || p->refuse_count != h->refuse_count;
    p->heard = true;
    p->heard_us = now_us;
    p->refuse_count = h->refuse_count;
    memcpy(p->refuses, h->refuses, h->refuse_count * sizeof(h->refuses[0]));
    p->sync_age_ms = h->sync_age_ms;
    p->replication_age_ms = h->replication_age_ms;
    slow = h->sync_age_ms > (p->slow ? NOT_SLOW_MS : SLOW_MS) || h->replication_age_ms > (p->slow ? NOT_SLOW_MS : SLOW_MS);
    m->dirty |= slow != p->slow;
    p->slow = slow;
    p->skews[p->skew_count++ % SKEWS] = h->wall_ms - clock_wall_ms();
}

/* ---- answering heartbeats ------------------------------------------------------------------------------------------------------ */

int controller_may_grant(struct member *m, uint32_t node_id, uint64_t node_epoch)
{
    const struct topo_node *n = topo_node_find(topology_view(m->o.topology), node_id);
    const struct peer *p = controller_peer(m, node_id);

    if (n == NULL)
        return ERR_NOT_FOUND;
    if (n->epoch != node_epoch)
        return n->epoch > node_epoch ? ERR_FENCED : ERR_AGAIN;
    return topo_node_alive(n) && p != NULL && !p->fencing ? 0 : ERR_AGAIN;
}

static void answer(struct topology_read *r, int err, uint64_t index)
{
    struct waiting *w = CONTAINER_OF(r, struct waiting, read);
    struct member *m = w->m;
    struct heartbeat_answer a = {.index = index};
    struct buf b = {0};

    list_remove(&w->node);
    if (err == 0 && (!m->leading || m->term != w->term))
        err = ERR_NOT_LEADER;
    if (err == 0) {
        int may = controller_may_grant(m, w->node_id, w->node_epoch);

        a.granted = may == 0;
        err = may == ERR_AGAIN ? 0 : may;
    }
    heartbeat_answer_put(&b, &a);
    bus_reply(m->o.bus, w->request, err, err < 0 ? SLICE_NONE : buf_slice(&b));
    buf_fini(&b);
    mem_free(w);
}

void controller_handle_heartbeat(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct member *m = arg;
    struct heartbeat h;
    struct waiting *w;
    int err = heartbeat_get(payload, &h);

    if (err == 0 && (m->stopping || !m->leading))
        err = ERR_NOT_LEADER;
    if (err == 0 && h.node_id != from->node_id)
        err = ERR_FOREIGN; /* the bus proved who it is */
    if (err < 0) {
        bus_reply(m->o.bus, r, err, SLICE_NONE);
        return;
    }
    controller_heartbeat(m, &h, member_now_us());
    w = mem_zalloc(sizeof(*w));
    *w = (struct waiting){.m = m, .request = r, .node_id = h.node_id, .node_epoch = h.node_epoch, .term = m->term, .read = {.done = answer}};
    list_push_back(&m->waiting, &w->node);
    topology_read_index(m->o.topology, &w->read);
}

/* ---- orders ------------------------------------------------------------------------------------------------------------------------ */

static void order_done(struct topology_proposal *p)
{
    struct order *o = CONTAINER_OF(p, struct order, proposal);
    struct member *m = o->m;

    if (m->leading && m->term == o->term) {
        struct peer *peer = o->node_id == 0 ? NULL : controller_peer(m, o->node_id);

        /* Refused by the state machine: it will not come later. Of an unknown outcome, a fencing stays under way until the view shows it. */
        if (peer != NULL && (p->err == ERR_FENCED || p->err == ERR_NOT_FOUND || p->err == ERR_NO_LEADER || p->err == ERR_UNSUPPORTED)) {
            peer->fencing = false;
            peer->proposed_us = 0;
        }
        if (p->err < 0 && p->err != ERR_MISMATCH && p->err != ERR_FENCED)
            diag_warn("a decision of the controller was not taken", "node=%u err=\"%s\"", o->node_id, err_text(p->err));
        m->dirty = true;
    }
    list_remove(&o->node);
    buf_fini(&p->command);
    mem_free(o);
}

void controller_order(struct member *m, struct buf *command, uint32_t node_id)
{
    struct order *o = mem_zalloc(sizeof(*o));

    o->m = m;
    o->node_id = node_id;
    o->term = m->term;
    o->proposal = (struct topology_proposal){.worker = m->o.control, .done = order_done, .command = *command, .only_term = m->term};
    *command = (struct buf){0};
    list_push_back(&m->orders, &o->node);
    topology_propose(m->o.topology, &o->proposal);
}

/* ---- states ------------------------------------------------------------------------------------------------------------------------- */

static uint32_t ms_since(uint64_t now, uint64_t then)
{
    uint64_t ms = now > then ? (now - then) / 1000 : 0;

    return ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

struct plan_input controller_input(struct member *m, struct plan_node *facts, unsigned max)
{
    uint64_t now = member_now_us();
    uint32_t self = topology_node_id(m->o.topology);
    unsigned n = 0;

    for (unsigned i = 0; i < m->peer_count && n < max; i++) {
        const struct peer *p = &m->peers[i];

        facts[n++] = (struct plan_node){
            .id = p->id,
            .self = p->id == self,
            .heard = p->heard,
            .silent_ms = ms_since(now, p->heard ? p->heard_us : m->lead_since_us),
            .state_ms = ms_since(now, p->state_since_us),
            .refused = p->refused,
            .refuses = p->refuses,
            .refuse_count = p->refuse_count,
            .slow = p->slow,
            .clock_off = p->clock_off,
        };
    }
    return (struct plan_input){.view = topology_view(m->o.topology), .nodes = facts, .node_count = n, .options = &m->plan, .ends = {ends_get, m}};
}

static void decide_states(struct member *m, const struct plan_input *in)
{
    static const char *const why[] = {[PLAN_HEARD] = "heard again", [PLAN_SILENT] = "silent", [PLAN_REFUSED] = "connection refused", [PLAN_FITNESS] = "fitness"};
    struct plan_state d[64];
    unsigned n = plan_states(in, d, ARRAY_LEN(d));
    uint64_t now = member_now_us();

    for (unsigned i = 0; i < n; i++) {
        struct peer *p = controller_peer(m, d[i].node);
        struct buf b = {0};

        if (p == NULL || (p->proposed_us != 0 && now - p->proposed_us < ORDER_AGAIN_US))
            continue;
        p->proposed_us = now;
        p->fencing |= d[i].state == TOPO_NODE_FENCED && topo_node_alive(topo_node_find(in->view, d[i].node));
        if (p->fencing)
            events_add(m, "node %u is to be fenced: %s for %u ms", d[i].node, why[d[i].reason], ms_since(now, p->heard ? p->heard_us : m->lead_since_us));
        else if (d[i].reason == PLAN_FITNESS)
            events_add(m, "node %u %s", d[i].node, d[i].flags & TOPO_NODE_SLOW ? "is slow: its disk or its replication stands still" : d[i].flags & TOPO_NODE_CLOCK_OFF ? "has another time than most: it may not lead" : "is fit again");
        topo_cmd_node_state(&b, d[i].node, d[i].epoch, d[i].state, d[i].flags);
        controller_order(m, &b, d[i].node);
    }
}

/* ---- partitions ----------------------------------------------------------------------------------------------------------------------- */

static unsigned founders(struct member *m)
{
    struct topology_group g;

    topology_group_get(m->o.topology, &g);
    return g.count;
}

static bool count_active(const struct topo_node *n, void *arg)
{
    *(unsigned *)arg += n->state == TOPO_NODE_ACTIVE;
    return true;
}

/* A new cluster: once all founders are there, or those that are after a while. */
static void place(struct member *m, const struct plan_input *in)
{
    const struct topology *v = in->view;
    uint64_t now = member_now_us();
    struct topo_replica_set *sets;
    struct buf b = {0};
    unsigned active = 0;

    topo_each_node(v, count_active, &active);
    if (v->total_partitions == 0 || active == 0 || (active < founders(m) && now - m->lead_since_us < PLACE_WAIT_US))
        return;
    if (m->planned_us != 0 && now - m->planned_us < ORDER_AGAIN_US)
        return;
    m->planned_us = now;
    sets = mem_zalloc(v->total_partitions * sizeof(sets[0]));
    if (plan_place(in, sets)) {
        topo_cmd_partitions_place(&b, sets, v->total_partitions);
        controller_order(m, &b, 0);
    }
    mem_free(sets);
}

/* The configuration's wishes, for a cluster that has none of its own yet. */
static void settle_settings(struct member *m, const struct topology *v)
{
    struct buf b = {0};
    uint64_t now = member_now_us();

    if (v->replication_factor != 0 || v->level < 2 || m->o.replication_factor == 0 || m->o.replication_factor >= TOPO_REPLICAS_MAX || (m->settled_us != 0 && now - m->settled_us < ORDER_AGAIN_US))
        return;
    m->settled_us = now;
    topo_cmd_cluster_settings(&b, m->o.replication_factor, MIN_OF(m->o.min_insync, m->o.replication_factor));
    controller_order(m, &b, 0);
}

static void act(struct member *m, const struct plan_input *in, const struct plan *plan)
{
    uint64_t now = member_now_us();
    struct topo_partition_change *fresh = mem_alloc((plan->change_count + 1) * sizeof(fresh[0]));
    unsigned n = 0;

    for (unsigned i = 0; i < plan->change_count; i++) {
        const struct topo_partition_change *c = &plan->changes[i];
        struct mark *mark = &m->marks[c->index];

        if (mark->version == c->version && mark->proposed_us != 0 && now - mark->proposed_us < ORDER_AGAIN_US)
            continue;
        mark->version = c->version;
        mark->proposed_us = now;
        fresh[n++] = *c;
    }
    if (n != 0) {
        struct buf b = {0};

        topo_cmd_partition_change(&b, topology_node_id(m->o.topology), fresh, n);
        controller_order(m, &b, 0);
    }
    mem_free(fresh);
    for (unsigned i = 0; i < plan->handover_count; i++) {
        const struct plan_handover *h = &plan->handovers[i];
        struct mark *mark = &m->marks[h->partition];

        if (mark->handover_us != 0 && now - mark->handover_us < HANDOVER_AGAIN_US)
            continue;
        mark->handover_us = now;
        member_hand_over(m, h->partition, topo_partition_at(in->view, h->partition)->epoch, h->from, h->to);
    }
    for (unsigned i = 0; i < plan->end_count; i++)
        ends_want(m, plan->ends[i]);
}

static void decide_partitions(struct member *m, struct plan_input *in)
{
    struct plan_options o = m->plan;
    struct plan plan;

    if (in->view->partitions == NULL) {
        place(m, in);
        return;
    }
    if (in->view->replication_factor != 0)
        o.replication_factor = in->view->replication_factor;
    in->options = &o;
    plan_partitions(in, &plan);
    act(m, in, &plan);
    plan_free(&plan);
}

/* ---- a term -------------------------------------------------------------------------------------------------------------------------------- */

void controller_tick(struct member *m)
{
    struct plan_node *facts = mem_alloc((m->peer_count + 1) * sizeof(facts[0]));
    struct plan_input in;
    uint64_t now = member_now_us();

    judge_clocks(m);
    settle_settings(m, topology_view(m->o.topology)); /* the level may have been raised only now */
    in = controller_input(m, facts, m->peer_count);
    decide_states(m, &in);
    if (m->dirty || now - m->planned_us >= PLAN_EVERY_US) {
        m->dirty = false;
        decide_partitions(m, &in);
        if (in.view->partitions != NULL)
            m->planned_us = now;
    }
    mem_free(facts);
}

void controller_view_changed(struct member *m)
{
    look_at_nodes(m, topology_view(m->o.topology));
    ends_prune(m, topology_view(m->o.topology));
    m->dirty = true;
}

void controller_begin(struct member *m, uint64_t term)
{
    const struct topology *v = topology_view(m->o.topology);

    m->term = term;
    m->lead_since_us = member_now_us();
    m->planned_us = 0;
    m->peer_count = 0;
    look_at_nodes(m, v);
    for (unsigned i = 0; i < m->refused_count; i++)
        controller_peer_refused(m, m->refused[i], true);
    for (uint32_t i = 0; i < m->mark_count; i++)
        m->marks[i].proposed_us = m->marks[i].handover_us = 0;
    m->dirty = true;
    m->settled_us = 0;
    events_add(m, "node %u is the controller in term %llu", topology_node_id(m->o.topology), (unsigned long long)term);
}

void controller_end(struct member *m)
{
    ends_forget(m);
    while (!list_empty(&m->waiting)) {
        struct waiting *w = LIST_ENTRY(m->waiting.next, struct waiting, node);

        topology_read_cancel(m->o.topology, &w->read);
        list_remove(&w->node);
        bus_reply(m->o.bus, w->request, ERR_NOT_LEADER, SLICE_NONE);
        mem_free(w);
    }
}

unsigned controller_infos(struct member *m, struct member_node_info *ret, unsigned max)
{
    uint64_t now = member_now_us();
    unsigned n = MIN_OF(m->peer_count, max);

    for (unsigned i = 0; i < n; i++) {
        const struct peer *p = &m->peers[i];

        ret[i] = (struct member_node_info){p->id, p->heard ? (int64_t)ms_since(now, p->heard_us) : -1, p->sync_age_ms, p->replication_age_ms, p->skew_ms};
    }
    return n;
}
