/* Life, and this node's side: heartbeats to the controller, the lease that its answers give (rule 20).
 *
 * The lease runs from the moment a heartbeat was *sent*, on CLOCK_BOOTTIME. An answer names an index of the topology: the grant counts from when this node has applied that, so that a node that was fenced and taken back never
 * serves by what it believed before. */
#include "cluster/member/member.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/member/private.h"

#define MEMBER_MAGIC 0x6d656d62u

uint64_t member_now_us(void)
{
    return clock_mono_us();
}

/* ---- the lease ------------------------------------------------------------------------------------------------------------- */

static void set_lease(struct member *m, uint64_t until_us)
{
    if (until_us <= m->lease_until_us)
        return;
    m->lease_until_us = until_us;
    m->lease_ended = false;
    partitions_set_lease(m->o.partitions, until_us);
}

static void end_lease(struct member *m)
{
    if (m->lease_ended)
        return;
    m->lease_ended = true;
    if (m->o.lease_ended != NULL)
        m->o.lease_ended(m->o.arg);
}

/* The lease that was running ends now: somebody said that this process is not the node any more, or that it is fenced. */
static void drop_lease(struct member *m)
{
    m->grant_count = 0;
    if (m->lease_until_us == 0)
        return;
    m->lease_until_us = 0;
    partitions_set_lease(m->o.partitions, 0);
    end_lease(m);
}

static bool is_healthy(struct member *m)
{
    if (m->o.healthy == NULL || m->o.healthy(m->o.arg))
        return true;
    if (m->lease_until_us != 0)
        diag_error("this node's logs take nothing any more: it stops leading", "hint=\"replace the disk and start with an empty data directory; the other nodes go on\"");
    drop_lease(m);
    return false;
}

static void take_grants(struct member *m)
{
    uint64_t applied = topology_view(m->o.topology)->index;
    unsigned kept = 0;

    for (unsigned i = 0; i < m->grant_count; i++) {
        if (m->grants[i].index <= applied)
            set_lease(m, m->grants[i].until_us);
        else
            m->grants[kept++] = m->grants[i];
    }
    m->grant_count = kept;
}

static void granted(struct member *m, uint64_t sent_us, uint64_t index)
{
    if (!is_healthy(m))
        return;
    if (m->grant_count == HEARTBEATS_MAX) {
        memmove(m->grants, m->grants + 1, (HEARTBEATS_MAX - 1) * sizeof(m->grants[0]));
        m->grant_count--;
    }
    m->grants[m->grant_count++] = (struct grant){sent_us + m->o.lease_ms * 1000ull, index};
    take_grants(m);
}

/* ---- heartbeats -------------------------------------------------------------------------------------------------------------- */

static void answered(struct bus_call *c, int err, struct slice payload)
{
    struct beat *b = CONTAINER_OF(c, struct beat, call);
    struct heartbeat_answer a;

    b->busy = false;
    if (b->m->stopping)
        return;
    if (err == ERR_FENCED) {
        DIAG_EVERY(DIAG_WARN, "the controller knows a newer start of this node", "controller=%u", topology_controller(b->m->o.topology));
        drop_lease(b->m);
    }
    if (err < 0 || heartbeat_answer_get(payload, &a) < 0 || !a.granted)
        return;
    granted(b->m, b->sent_us, a.index);
}

/* The controller's own: no message, the same round. */
static void round_done(struct topology_read *r, int err, uint64_t index)
{
    struct beat *b = CONTAINER_OF(r, struct beat, read);
    struct member *m = b->m;

    b->busy = false;
    if (err == 0 && !m->stopping && m->leading && controller_may_grant(m, topology_node_id(m->o.topology), topology_node_epoch(m->o.topology)) == 0)
        granted(m, b->sent_us, index);
}

static struct beat *free_beat(struct member *m)
{
    for (unsigned i = 0; i < HEARTBEATS_MAX; i++)
        if (!m->beats[i].busy)
            return &m->beats[i];
    return NULL;
}

static void fill(struct member *m, struct heartbeat *h)
{
    *h = (struct heartbeat){.node_id = topology_node_id(m->o.topology), .node_epoch = topology_node_epoch(m->o.topology), .applied = topology_view(m->o.topology)->index, .wall_ms = clock_wall_ms()};
    if (m->o.ages != NULL)
        m->o.ages(m->o.arg, &h->sync_age_ms, &h->replication_age_ms);
    h->refuse_count = m->refused_count;
    memcpy(h->refuses, m->refused, m->refused_count * sizeof(m->refused[0]));
}

static void send_beat(struct member *m)
{
    uint32_t controller = topology_controller(m->o.topology);
    struct beat *b = free_beat(m);
    struct heartbeat h;
    struct buf payload = {0};

    if (!is_healthy(m) || !m->serving || m->stopping || m->alone || topology_node_epoch(m->o.topology) == 0 || controller == 0 || b == NULL)
        return;
    b->busy = true;
    b->sent_us = clock_boot_us(); /* before anything that takes time: the lease counts from here */
    fill(m, &h);
    if (controller == h.node_id) {
        if (m->leading)
            controller_heartbeat(m, &h, member_now_us());
        b->read = (struct topology_read){.done = round_done};
        topology_read_index(m->o.topology, &b->read);
        return;
    }
    heartbeat_put(&payload, &h);
    b->read = (struct topology_read){0};
    b->call = (struct bus_call){.worker = m->o.control, .done = answered};
    bus_call(m->o.bus, controller, BUS_HEARTBEAT, buf_slice(&payload), m->o.lease_ms, &b->call);
    buf_fini(&payload);
}

static void fire_beat(struct worker *w, struct io_timer *t)
{
    (void)w;
    send_beat(CONTAINER_OF(t, struct member, beat_timer));
}

static void fire_tick(struct worker *w, struct io_timer *t)
{
    struct member *m = CONTAINER_OF(t, struct member, tick);

    (void)w;
    if (m->lease_until_us != 0 && clock_boot_us() >= m->lease_until_us)
        end_lease(m);
    if (m->leading)
        controller_tick(m);
}

/* ---- handing over -------------------------------------------------------------------------------------------------------------- */

static void ignore_answer(struct bus_call *c, int err, struct slice payload)
{
    (void)err;
    (void)payload;
    mem_free(c);
}

bool member_hand_over(struct member *m, uint32_t partition, int32_t epoch, uint32_t leader, uint32_t to)
{
    struct handover h = {partition, epoch, to};
    struct buf payload = {0};
    struct bus_call *c;

    if (leader == topology_node_id(m->o.topology)) {
        if (m->o.hand_over != NULL)
            m->o.hand_over(m->o.arg, partition, to);
        return m->o.hand_over != NULL;
    }
    c = mem_zalloc(sizeof(*c));
    *c = (struct bus_call){.worker = m->o.control, .done = ignore_answer};
    handover_put(&payload, &h);
    bus_call(m->o.bus, leader, BUS_HANDOVER, buf_slice(&payload), 1000, c);
    buf_fini(&payload);
    return true;
}

static void handle_handover(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct member *m = arg;
    const struct topo_partition *p;
    struct handover h;
    int err = handover_get(payload, &h);

    (void)from;
    if (err == 0) {
        p = topo_partition_at(topology_view(m->o.topology), h.partition);
        if (p == NULL)
            err = ERR_NOT_FOUND;
        else if (p->leader != topology_node_id(m->o.topology) || p->epoch != h.epoch)
            err = ERR_NOT_LEADER;
        else if (m->o.hand_over == NULL)
            err = ERR_UNSUPPORTED;
        else
            m->o.hand_over(m->o.arg, h.partition, h.to);
    }
    bus_reply(m->o.bus, r, err, SLICE_NONE);
}

/* ---- news ----------------------------------------------------------------------------------------------------------------------- */

static bool set_refused(struct member *m, uint32_t node_id, bool refused)
{
    for (unsigned i = 0; i < m->refused_count; i++) {
        if (m->refused[i] != node_id)
            continue;
        if (!refused)
            m->refused[i] = m->refused[--m->refused_count];
        return !refused;
    }
    if (!refused || node_id == 0 || m->refused_count == REFUSED_MAX)
        return false;
    m->refused[m->refused_count++] = node_id;
    return true;
}

void member_peer_up(struct member *m, const struct bus_peer *peer)
{
    set_refused(m, peer->node_id, false);
    controller_peer_refused(m, peer->node_id, false);
}

void member_peer_down(struct member *m, const struct bus_peer *peer, enum bus_down why)
{
    bool refused = why == BUS_DOWN_REFUSED;

    if (why == BUS_DOWN_CLOSED)
        return; /* the attempt that follows at once tells more */
    if (why == BUS_DOWN_REJECTED)
        events_refused(m, peer->node_id);
    controller_peer_refused(m, peer->node_id, refused);
    if (refused && peer->node_id != 0)
        topology_node_gone(m->o.topology, peer->node_id);
    if (set_refused(m, peer->node_id, refused) && refused)
        send_beat(m); /* the controller waits for what a successor saw */
}

/* A group of one has nobody to lose its leadership to. Once a second node is there, the lease is a lease. */
static void look_whether_alone(struct member *m, const struct topology *v)
{
    bool alone = m->o.bus == NULL || (v->nodes.count == 1 && topology_node_epoch(m->o.topology) != 0);

    if (alone == m->alone)
        return;
    m->alone = alone;
    if (alone) {
        partitions_set_lease(m->o.partitions, UINT64_MAX);
        m->lease_until_us = 0;
    } else {
        m->lease_until_us = 0;
        partitions_set_lease(m->o.partitions, 0);
        set_lease(m, clock_boot_us() + m->o.lease_ms * 1000ull); /* nobody can lead in its place before it is fenced */
    }
}

/* Taken in just now: what is led here waits for the lease, which the next heartbeat would bring only after a while. */
static void look_whether_taken_in(struct member *m, const struct topology *v)
{
    const struct topo_node *n = topo_node_find(v, topology_node_id(m->o.topology));
    bool in = n != NULL && n->epoch == topology_node_epoch(m->o.topology) && (n->state == TOPO_NODE_ACTIVE || n->state == TOPO_NODE_DRAINING);

    if (in && !m->taken_in)
        send_beat(m);
    m->taken_in = in;
}

void member_topology_changed(struct member *m)
{
    const struct topology *v = topology_view(m->o.topology);

    if (!m->started || m->stopping)
        return;
    look_whether_alone(m, v);
    take_grants(m);
    events_view_changed(m, v);
    if (m->leading)
        controller_view_changed(m);
    look_whether_taken_in(m, v);
}

void member_leading(struct member *m, bool leading, uint64_t term)
{
    if (m->leading)
        controller_end(m);
    m->leading = false;
    if (!leading || m->stopping)
        return;
    m->leading = true;
    controller_begin(m, term);
    send_beat(m);
}

/* ---- life --------------------------------------------------------------------------------------------------------------------------- */

int member_new(const struct member_options *options, struct member **ret)
{
    struct member *m = mem_zalloc(sizeof(*m));

    MAGIC_INIT(m, MEMBER_MAGIC);
    m->o = *options;
    m->plan = plan_defaults;
    if (m->o.heartbeat_ms == 0)
        m->o.heartbeat_ms = 100;
    if (m->o.lease_ms == 0)
        m->o.lease_ms = 1000;
    if (m->o.failure_timeout_ms == 0)
        m->o.failure_timeout_ms = 1500;
    m->plan.failure_timeout_ms = m->o.failure_timeout_ms;
    m->plan.first_fence_ms = m->o.lease_ms + m->o.lease_ms / 5; /* clock rates within 20 % (rule 20) */
    if (m->o.replace_after_ms != 0)
        m->plan.replace_after_ms = m->o.replace_after_ms;
    m->plan.replication_factor = m->o.replication_factor;
    m->plan.rebalance_permille = m->o.rebalance_permille;
    for (unsigned i = 0; i < HEARTBEATS_MAX; i++)
        m->beats[i].m = m;
    list_init(&m->waiting);
    list_init(&m->orders);
    list_init(&m->end_calls);
    mutex_init(&m->lock);
    io_timer_init(&m->beat_timer, fire_beat);
    io_timer_init(&m->tick, fire_tick);
    events_init(m);
    if (m->o.bus != NULL) {
        bus_handle(m->o.bus, BUS_HEARTBEAT, controller_handle_heartbeat, m);
        bus_handle(m->o.bus, BUS_HANDOVER, handle_handover, m);
        bus_handle(m->o.bus, BUS_ASK_CONTROLLER, people_handle, m);
        partitions_set_lease(m->o.partitions, 0);
    }
    *ret = m;
    return 0;
}

static void start_here(struct member *m)
{
    if (m->started)
        return;
    m->started = true;
    if (m->o.bus != NULL)
        io_timer_start(m->o.control, &m->tick, TICK_MS, TICK_MS);
    member_topology_changed(m);
}

static void serve_here(struct member *m)
{
    m->serving = true;
    if (m->o.bus != NULL && !m->stopping)
        io_timer_start(m->o.control, &m->beat_timer, 1, m->o.heartbeat_ms);
}

static void stop_here(struct member *m)
{
    if (m->leading)
        controller_end(m);
    m->leading = false;
    m->stopping = true;
    if (m->o.bus == NULL)
        return;
    io_timer_stop(m->o.control, &m->beat_timer);
    io_timer_stop(m->o.control, &m->tick);
    for (unsigned i = 0; i < HEARTBEATS_MAX; i++) {
        if (!m->beats[i].busy)
            continue;
        if (m->beats[i].read.done != NULL)
            topology_read_cancel(m->o.topology, &m->beats[i].read);
        else
            bus_call_cancel(&m->beats[i].call);
        m->beats[i].busy = false;
    }
}

/* Timers and calls belong to the control worker; whoever starts and stops us may be the main thread. */
struct on_control {
    struct member *m;
    void (*fn)(struct member *m);
};

static void run_on_control(struct worker *w, void *arg)
{
    struct on_control *o = arg;

    if (w == o->m->o.control)
        o->fn(o->m);
}

static void on_control(struct member *m, void (*fn)(struct member *m))
{
    struct on_control o = {m, fn};

    if (m->o.control == NULL || worker_current() == m->o.control)
        fn(m);
    else
        workers_run_each(worker_set(m->o.control), run_on_control, &o);
}

void member_start(struct member *m)
{
    on_control(m, start_here);
}

void member_serve(struct member *m)
{
    on_control(m, serve_here);
}

void member_stop(struct member *m)
{
    if (m != NULL && m->started && !m->stopping)
        on_control(m, stop_here);
}

void member_free(struct member *m)
{
    if (m == NULL)
        return;
    events_fini(m);
    while (!list_empty(&m->orders)) {
        struct order *o = CONTAINER_OF(m->orders.next, struct order, node);

        list_remove(&o->node);
        buf_fini(&o->proposal.command);
        mem_free(o);
    }
    mem_free(m->ends);
    mem_free(m->peers);
    mem_free(m->marks);
    mutex_fini(&m->lock);
    MAGIC_FINI(m, MEMBER_MAGIC);
    mem_free(m);
}
