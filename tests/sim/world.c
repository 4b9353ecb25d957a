/* One seed: a group is formed, lives through its events, then the faults stop and it has to come to rest. */
#include <string.h>

#include "sim.h"

#define LEADER_WITHIN_US (10u * 2 * ELECTION_US) /* ten of the longest election timeouts */
#define SETTLE_WITHIN_US 20000000u
#define CALM_EVENTS_MAX 400000u

bool chance(struct world *w, unsigned of_1024)
{
    return of_1024 != 0 && (rand_u64(&w->rand) & 1023) < of_1024;
}

uint64_t below(struct world *w, uint64_t bound)
{
    return rand_below(&w->rand, bound);
}

struct node *world_node(struct world *w, uint32_t id)
{
    return id >= 1 && id <= w->node_n ? &w->nodes[id - 1] : NULL;
}

/* ---- the queue: a binary heap by (time, order) ------------------------------------------------------------------------- */

static bool earlier(const struct qev *a, const struct qev *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void world_push(struct world *w, uint64_t at, uint8_t type, struct node *n, struct msg *m)
{
    struct qev e = {.at = at, .order = w->order++, .life = n->life, .type = type, .node = (uint8_t)(n->id - 1), .msg = m};
    size_t i = w->heap_n++;

    if (w->heap_n > w->heap_cap) {
        w->heap_cap = w->heap_cap == 0 ? 256 : 2 * w->heap_cap;
        w->heap = mem_realloc(w->heap, w->heap_cap * sizeof(*w->heap));
    }
    while (i > 0 && earlier(&e, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = e;
}

static struct qev pop(struct world *w)
{
    struct qev top = w->heap[0], e = w->heap[--w->heap_n];
    size_t i = 0, k;

    while ((k = 2 * i + 1) < w->heap_n) {
        if (k + 1 < w->heap_n && earlier(&w->heap[k + 1], &w->heap[k]))
            k++;
        if (!earlier(&w->heap[k], &e))
            break;
        w->heap[i] = w->heap[k];
        i = k;
    }
    w->heap[i] = e;
    return top;
}

/* ---- forming ------------------------------------------------------------------------------------------------------------ */

static void form(struct world *w)
{
    static const uint8_t sizes[] = {1, 2, 3, 3, 3, 3, 4, 5};
    unsigned founders = sizes[below(w, ARRAY_LEN(sizes))];
    struct raft_member members[NODES_MAX] = {0};
    struct buf config = {0};

    w->node_n = founders + (unsigned)below(w, NODES_MAX - founders < 2 ? 2 : 3);
    for (unsigned i = 0; i < w->node_n; i++) {
        struct node *n = &w->nodes[i];

        n->id = n->self.id = i + 1;
        n->tick_at = UINT64_MAX;
        n->clock_offset = 1 + below(w, 1000000000);
        if (i >= founders)
            continue;
        n->exists = true;
        be64_put(n->self.uuid, ++w->next_uuid);
        members[i] = (struct raft_member){.node = n->self, .voter = true, .address = SLICE_LIT("a")};
    }
    raft_config_encode(members, founders, &config);
    check_appended(w, NULL, 1, &(struct raft_entry){1, config.data, (uint32_t)config.len, RAFT_ENTRY_CONFIG}, 0);
    for (unsigned i = 0; i < founders; i++) {
        disk_form(&w->nodes[i].disk, buf_slice(&config));
        host_start(w, &w->nodes[i]);
    }
    buf_fini(&config);
}

/* ---- one event -------------------------------------------------------------------------------------------------------------- */

static void run_queued(struct world *w)
{
    struct qev e = pop(w);
    struct node *n = &w->nodes[e.node];

    w->now = MAX_OF(w->now, e.at);
    if (e.life != n->life && e.type != EV_DELIVER)
        return;
    if (!n->up) {
        if (e.msg != NULL)
            net_drop(w, e.msg);
        return;
    }
    if (e.type == EV_BOUNCE) {
        if (w->calm)
            return;
        host_crash(w, n);
        memset(w->cut[n->id - 1], 0, sizeof(w->cut[0]));
        if (below(w, 3) == 0)
            host_start(w, n);
        else
            n->restart_at = w->now + 1 + below(w, 900000);
        return;
    }
    if (n->paused_until > w->now) {
        e.life = n->life;
        world_push(w, n->paused_until, e.type, n, e.msg);
        return;
    }
    if (e.type == EV_DISK) {
        host_disk_done(w, n);
        return;
    }
    host_deliver(w, n, e.msg);
    net_drop(w, e.msg);
}

static void run_tick(struct world *w, struct node *n, uint64_t at)
{
    struct raft_event ev = {.type = RAFT_TICK};

    w->now = MAX_OF(w->now, at);
    host_step(w, n, &ev);
}

enum { NEXT_QUEUED, NEXT_TICK, NEXT_ACTION, NEXT_RESTART };

/* Whatever comes next. */
static void world_event(struct world *w)
{
    uint64_t at = w->heap_n > 0 ? w->heap[0].at : UINT64_MAX;
    int what = NEXT_QUEUED;
    struct node *who = NULL;

    for (unsigned i = 0; i < w->node_n; i++) {
        struct node *n = &w->nodes[i];
        uint64_t t = n->up ? MAX_OF(n->tick_at, n->paused_until) : n->restart_at != 0 && !w->calm ? n->restart_at : UINT64_MAX;

        if (n->up && n->tick_at == UINT64_MAX)
            continue;
        if (t < at) {
            at = t;
            who = n;
            what = n->up ? NEXT_TICK : NEXT_RESTART;
        }
    }
    if (!w->calm && w->actions_at < at) {
        at = w->actions_at;
        what = NEXT_ACTION;
    }
    w->events++;
    if (what == NEXT_ACTION) {
        w->now = MAX_OF(w->now, at);
        w->actions_at = w->now + 1 + below(w, 2 * w->p.action_us);
        actions_run(w);
    } else if (what == NEXT_TICK) {
        run_tick(w, who, at);
    } else if (what == NEXT_RESTART) {
        w->now = MAX_OF(w->now, at);
        host_start(w, who);
    } else if (w->heap_n > 0) {
        run_queued(w);
    } else {
        w->now += HEARTBEAT_US; /* a node alone has nothing to do */
    }
}

/* ---- coming to rest ----------------------------------------------------------------------------------------------------------- */

static struct node *leader_at_work(struct world *w)
{
    for (unsigned i = 0; i < w->node_n; i++) {
        struct node *n = &w->nodes[i];

        if (n->up && raft_role(n->r) == RAFT_LEADER && raft_term_at(n->r, raft_commit(n->r)) == raft_current_term(n->r))
            return n;
    }
    return NULL;
}

/* Every member that has the disk the configuration names has applied this much. */
static bool all_applied(struct world *w, const struct node *leader, uint64_t index)
{
    struct raft_member *m;
    size_t n;
    bool all = true;

    CHECK(raft_config_decode(raft_config(leader->r), &m, &n) == 0);
    for (size_t i = 0; i < n && all; i++) {
        const struct node *node = world_node(w, m[i].node.id);

        if (node->up && memcmp(node->self.uuid, m[i].node.uuid, 16) == 0)
            all = node->applied >= index;
    }
    mem_free(m);
    return all;
}

static void come_to_rest(struct world *w)
{
    uint64_t stopped, value = 0, index = 0, term = 0, first_event;
    struct node *leader = NULL, *now;

    actions_stop(w);
    stopped = w->now;
    first_event = w->events;
    while ((leader = leader_at_work(w)) == NULL) {
        if (w->now > stopped + LEADER_WITHIN_US + 1000000)
            violation(w, NULL, "liveness: no leader %llu ms after the faults stopped", (unsigned long long)(w->now - stopped) / 1000);
        world_event(w);
    }
    leader = NULL;
    for (;;) {
        now = leader_at_work(w);
        if (now != NULL && (now != leader || raft_current_term(now->r) != term)) {
            struct slice payload = slice_of(&value, 8);
            struct raft_event ev = {.type = RAFT_PROPOSE, .payloads = &payload, .payload_count = 1};

            value = ++w->next_value;
            if (host_step(w, now, &ev) == 0) {
                leader = now;
                index = raft_last_index(now->r);
                term = raft_current_term(now->r);
            }
        }
        if (leader != NULL && now == leader && all_applied(w, leader, index))
            return;
        if (w->now > stopped + SETTLE_WITHIN_US || w->events > first_event + CALM_EVENTS_MAX)
            violation(w, leader, "liveness: entry %llu is not applied everywhere %llu ms after the faults stopped", (unsigned long long)index,
                      (unsigned long long)(w->now - stopped) / 1000);
        world_event(w);
    }
}

static void world_fini(struct world *w)
{
    struct msg *m;

    for (unsigned i = 0; i < w->node_n; i++) {
        raft_free(w->nodes[i].r);
        disk_fini(&w->nodes[i].disk);
        buf_fini(&w->nodes[i].recv);
    }
    while (w->heap_n > 0) {
        struct qev e = pop(w);

        if (e.msg != NULL)
            net_drop(w, e.msg);
    }
    while ((m = w->free_msgs) != NULL) {
        w->free_msgs = m->next;
        mem_free(m);
    }
    mem_free(w->heap);
    raft_decoder_fini(&w->decoder);
    buf_fini(&w->scratch);
    check_fini(w);
}

void world_run(uint64_t seed, uint64_t events, bool trace, struct totals *t)
{
    struct world *w = mem_zalloc(sizeof(*w));

    sim_world = w;
    w->seed = seed;
    w->trace = trace;
    rand_seed(&w->rand, seed);
    actions_profile(w);
    w->actions_at = below(w, 700000);
    form(w);
    while (w->events < events)
        world_event(w);
    come_to_rest(w);
    t->events += w->events;
    t->elections += w->elections;
    t->commits += w->commits;
    t->reads += w->reads_served;
    t->changes += w->changes;
    t->installs += w->installs;
    t->transfers += w->transfers;
    t->crashes += w->crashes;
    world_fini(w);
    sim_world = NULL;
    mem_free(w);
}
