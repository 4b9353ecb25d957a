/* Clients, administrators and faults. A seed draws its own mixture: some actions never, some often, since faults that always come together hide each other. */
#include "sim.h"

struct action {
    const char *name;
    unsigned weight; /* at most */
    void (*run)(struct world *w);
};

static struct node *random_node(struct world *w)
{
    return &w->nodes[below(w, w->node_n)];
}

static struct node *random_up(struct world *w)
{
    struct node *n = random_node(w);

    return n->up && n->paused_until <= w->now ? n : NULL;
}

/* Mostly whoever thinks it leads; there may be two. */
static struct node *random_leader(struct world *w)
{
    struct node *found = NULL;
    unsigned k = 0;

    for (unsigned i = 0; i < w->node_n; i++) {
        struct node *n = &w->nodes[i];

        if (n->up && n->paused_until <= w->now && raft_role(n->r) == RAFT_LEADER && below(w, ++k) == 0)
            found = n;
    }
    return found;
}

/* ---- clients ---------------------------------------------------------------------------------------------------------- */

static void propose(struct world *w)
{
    struct node *n = random_leader(w);
    struct slice payloads[8];
    uint64_t values[8];
    struct raft_event ev = {.type = RAFT_PROPOSE, .payloads = payloads, .payload_count = 1 + (size_t)below(w, 8)};

    if (n == NULL)
        return;
    for (size_t i = 0; i < ev.payload_count; i++) {
        values[i] = ++w->next_value;
        payloads[i] = slice_of(&values[i], 8);
    }
    TRACE(w, "n%u is asked for %zu entries", n->id, ev.payload_count);
    host_step(w, n, &ev);
}

static void read_index(struct world *w)
{
    struct node *n = random_leader(w);
    struct raft_event ev = {.type = RAFT_READ, .ctx = ++w->next_ctx};

    if (n == NULL)
        return;
    check_read_begin(w, ev.ctx);
    TRACE(w, "n%u is asked for a read", n->id);
    if (host_step(w, n, &ev) < 0)
        w->read_n--; /* refused at once: it is the last */
}

static void transfer(struct world *w)
{
    struct node *n = random_leader(w);
    struct raft_event ev = {.type = RAFT_TRANSFER, .target = (uint32_t)below(w, w->node_n + 1)};

    if (n == NULL)
        return;
    TRACE(w, "n%u is asked to hand over to n%u", n->id, ev.target);
    w->transfers += host_step(w, n, &ev) == 0;
}

static void snapshot(struct world *w)
{
    struct node *n = random_up(w);

    if (n != NULL)
        host_snapshot(w, n);
}

/* ---- members ------------------------------------------------------------------------------------------------------------ */

static const struct raft_member *member_of(const struct raft_member *m, size_t n, uint32_t id)
{
    for (size_t i = 0; i < n; i++) {
        if (m[i].node.id == id)
            return &m[i];
    }
    return NULL;
}

/* Changes that would leave the group without a majority of disks are legal, and final: no administrator of ours makes them. */
static bool survivable(struct world *w, const struct raft_member *m, size_t n, const struct raft_event *ev)
{
    struct raft_member *v = mem_calloc(n + 1, sizeof(*v));
    struct buf b = {0};
    size_t k = 0;
    bool ok;

    for (size_t i = 0; i < n; i++) {
        if (m[i].node.id != ev->member.node.id || ev->change == RAFT_PROMOTE) {
            v[k] = m[i];
            v[k].voter |= m[i].node.id == ev->member.node.id;
            k++;
        }
    }
    raft_config_encode(v, k, &b);
    ok = check_quorum_left(w, buf_slice(&b));
    buf_fini(&b);
    mem_free(v);
    return ok;
}

static void choose_change(struct world *w, const struct raft_member *m, struct node *x, struct raft_event *ev)
{
    bool same = m != NULL && memcmp(m->node.uuid, x->self.uuid, 16) == 0;

    ev->member = (struct raft_member){.node = x->self, .address = SLICE_LIT("a")};
    if (!same)
        ev->change = RAFT_ADD_LEARNER;
    else if (m->voter)
        ev->change = below(w, 3) == 0 ? RAFT_DEMOTE : RAFT_REMOVE;
    else
        ev->change = below(w, 6) == 0 ? RAFT_REMOVE : RAFT_PROMOTE;
}

static void change_once(struct world *w, struct node *leader)
{
    struct raft_event ev = {.type = RAFT_CHANGE};
    struct node *x = random_node(w);
    struct raft_member *m;
    size_t n;

    if (!x->exists) {
        host_wipe(w, x);
        host_start(w, x);
    }
    CHECK(raft_config_decode(raft_config(leader->r), &m, &n) == 0);
    choose_change(w, member_of(m, n, x->id), x, &ev);
    if (survivable(w, m, n, &ev)) {
        TRACE(w, "n%u is asked for change %u of n%u", leader->id, ev.change, x->id);
        w->changes += host_step(w, leader, &ev) == 0;
    }
    mem_free(m);
}

static void change(struct world *w)
{
    struct node *n = random_leader(w);
    unsigned times = 1 + (unsigned)below(w, 3);

    for (unsigned i = 0; n != NULL && i < times && raft_role(n->r) == RAFT_LEADER; i++)
        change_once(w, n);
}

/* ---- faults --------------------------------------------------------------------------------------------------------------- */

static void crash(struct world *w)
{
    struct node *n = random_node(w);

    if (!n->up)
        return;
    host_crash(w, n);
    if (below(w, 2) == 0)
        n->restart_at = w->now + below(w, 400000) + 1;
}

static void crash_leader(struct world *w)
{
    struct node *n = random_leader(w);

    if (n == NULL)
        return;
    host_crash(w, n);
    n->restart_at = w->now + below(w, 600000) + 1;
}

/* Somebody believes, rightly or not, that the leader's process is gone; or everybody does, and they stand against each other. */
static void leader_gone(struct world *w)
{
    bool all = below(w, 2) == 0;
    struct node *one = random_node(w);

    for (unsigned i = 0; i < w->node_n; i++) {
        struct node *n = &w->nodes[i];
        struct raft_event ev = {.type = RAFT_LEADER_GONE};

        if (!n->up || n->paused_until > w->now || (!all && n != one))
            continue;
        ev.target = raft_leader(n->r);
        TRACE(w, "n%u gives n%u up", n->id, ev.target);
        host_step(w, n, &ev);
    }
}

/* kill -9 and at once back: what was in memory only is gone, the others have noticed nothing. */
static void bounce(struct world *w)
{
    struct node *n = random_node(w);

    if (!n->up)
        return;
    host_crash(w, n);
    host_start(w, n);
}

static void crash_all(struct world *w)
{
    for (unsigned i = 0; i < w->node_n; i++) {
        struct node *n = &w->nodes[i];

        if (!n->up)
            continue;
        host_crash(w, n);
        n->restart_at = w->now + below(w, 500000) + 1;
    }
}

static void restart(struct world *w)
{
    struct node *n = random_node(w);

    if (n->exists && !n->up)
        host_start(w, n);
}

static void cut_link(struct world *w)
{
    unsigned a = (unsigned)below(w, w->node_n), b = (unsigned)below(w, w->node_n);

    TRACE(w, "cut n%u -> n%u", a + 1, b + 1);
    w->cut[a][b] = true;
}

static void isolate(struct world *w)
{
    struct node *n = below(w, 2) == 0 ? random_leader(w) : random_node(w);
    unsigned ways = 1 + (unsigned)below(w, 3);

    if (n == NULL)
        return;
    TRACE(w, "cut off n%u, ways %u", n->id, ways);
    for (unsigned i = 0; i < w->node_n; i++) {
        w->cut[n->id - 1][i] |= ways & 1;
        w->cut[i][n->id - 1] |= ways >> 1 & 1;
    }
}

static void split(struct world *w)
{
    unsigned side = (unsigned)below(w, 1u << w->node_n);

    TRACE(w, "split %x", side);
    for (unsigned a = 0; a < w->node_n; a++) {
        for (unsigned b = 0; b < w->node_n; b++)
            w->cut[a][b] = (side >> a & 1) != (side >> b & 1);
    }
}

static void heal(struct world *w)
{
    TRACE(w, "heal");
    memset(w->cut, 0, sizeof(w->cut));
}

static void pause_node(struct world *w)
{
    struct node *n = below(w, 2) == 0 ? random_leader(w) : random_node(w);

    if (n == NULL || !n->up)
        return;
    n->paused_until = w->now + below(w, 1000000);
    TRACE(w, "n%u stands still", n->id);
}

/* A disk is replaced by an empty one: only where a majority keeps its own. */
static void wipe(struct world *w)
{
    struct node *n = random_node(w);

    if (!n->exists)
        return;
    n->exists = false;
    if (!check_quorum_left_everywhere(w)) {
        n->exists = true;
        return;
    }
    host_wipe(w, n);
    host_start(w, n);
}

static const struct action actions[] = {
    {"propose", 400, propose},     {"read", 200, read_index},   {"transfer", 30, transfer},  {"snapshot", 80, snapshot},
    {"change", 120, change},       {"crash", 60, crash},        {"crash leader", 60, crash_leader}, {"bounce", 80, bounce},
    {"crash all", 15, crash_all},  {"restart", 120, restart},   {"cut link", 60, cut_link},  {"isolate", 60, isolate},
    {"split", 40, split},          {"heal", 120, heal},         {"pause", 60, pause_node},   {"wipe", 30, wipe},
    {"leader gone", 40, leader_gone},
};

void actions_profile(struct world *w)
{
    static const uint64_t periods_us[] = {2000, 8000, 20000, 60000};
    struct profile *p = &w->p;

    p->latency_us = 50 + below(w, 2000);
    p->jitter_us = below(w, 3) == 0 ? below(w, 100000) : below(w, 3000);
    p->disk_us = 50 + below(w, 2000);
    p->disk_jitter_us = below(w, 3) == 0 ? below(w, 60000) : below(w, 3000);
    p->action_us = periods_us[below(w, 4)];
    p->loss = below(w, 2) == 0 ? (unsigned)below(w, 200) : 0;
    p->dup = below(w, 2) == 0 ? (unsigned)below(w, 150) : 0;
    p->slow_disk = below(w, 3) == 0 ? (unsigned)below(w, 100) : 0;
    p->big_snapshots = below(w, 2) == 0;
    p->stingy = below(w, 3) == 0;
    /* A fifth of all worlds is Figure 8's: leaders whose entries stay with them, and come back to lead, an entry a message. */
    p->figure_8 = below(w, 5) == 0;
    p->strand = p->figure_8 ? 512 : below(w, 2) == 0 ? (unsigned)below(w, 600) : 0;
    p->sharp = p->figure_8 ? 256 : below(w, 2) == 0 ? (unsigned)below(w, 600) : 0;
    for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
        /* Proposals and heals are in every mixture, of the rest a third is left out. */
        bool always = actions[i].run == propose || actions[i].run == restart || actions[i].run == heal;

        p->weight[i] = always || below(w, 3) != 0 ? 1 + (unsigned)below(w, actions[i].weight) : 0;
        p->weight_sum += p->weight[i];
    }
}

void actions_run(struct world *w)
{
    unsigned x = (unsigned)below(w, w->p.weight_sum);
    size_t i = 0;

    while (x >= w->p.weight[i])
        x -= w->p.weight[i++];
    actions[i].run(w);
}

void actions_stop(struct world *w)
{
    TRACE(w, "faults stop");
    w->calm = true;
    heal(w);
    w->p.latency_us = 500;
    w->p.jitter_us = 500;
    w->p.disk_us = 1000;
    w->p.disk_jitter_us = 1000;
    for (unsigned i = 0; i < w->node_n; i++) {
        struct node *n = &w->nodes[i];

        n->paused_until = 0;
        if (n->exists && !n->up)
            host_start(w, n);
    }
}
