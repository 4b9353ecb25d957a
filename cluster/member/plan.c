#include "cluster/member/plan.h"

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/partition.h"

#define FACTOR_DEFAULT 3

const struct plan_options plan_defaults = {
    .failure_timeout_ms = 1500,
    .first_fence_ms = 1200,
    .refused_ms = 200,
    .replace_after_ms = 30000,
    .settle_ms = 5000,
    .rebalance_permille = 100,
    .moves_max = 2,
    .adding_max = 8,
    .handovers_max = 4,
};

/* ---- what is known of the nodes -------------------------------------------------------------------------------------------- */

/* A node as the planning sees it. */
struct seat {
    const struct topo_node *n;
    const struct plan_node *f; /* NULL: never heard */
    unsigned load;             /* replicas it has or will have, without those that are about to leave it */
    unsigned preferred;        /* partitions it is the first choice of */
    unsigned adding;           /* being filled on it */
};

struct work {
    const struct plan_input *in;
    const struct topology *v;
    struct plan *out;
    struct seat *seats;
    unsigned count, cap;
    unsigned desired;  /* replicas a partition should have */
    uint32_t *slots;   /* partition -> 1 + its index in out->changes */
    unsigned moving;   /* partitions that have something being added */
};

static const struct plan_node *fact(const struct plan_input *in, uint32_t id)
{
    for (unsigned i = 0; i < in->node_count; i++)
        if (in->nodes[i].id == id)
            return &in->nodes[i];
    return NULL;
}

static bool add_seat(const struct topo_node *n, void *arg)
{
    struct work *w = arg;

    if (w->count == w->cap) {
        w->cap = w->cap == 0 ? 8 : w->cap * 2;
        w->seats = mem_realloc(w->seats, w->cap * sizeof(w->seats[0]));
    }
    w->seats[w->count++] = (struct seat){.n = n, .f = fact(w->in, n->id)};
    return true;
}

/* The nodes come in order of id. */
static struct seat *seat_of(const struct work *w, uint32_t id)
{
    unsigned low = 0, high = w->count;

    while (low < high) {
        unsigned mid = (low + high) / 2;

        if (w->seats[mid].n->id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low < w->count && w->seats[low].n->id == id ? &w->seats[low] : NULL;
}

static bool is_active(const struct seat *s)
{
    return s->n->state == TOPO_NODE_ACTIVE;
}

/* Away for so long that its replicas are placed elsewhere. */
static bool is_gone(const struct work *w, const struct seat *s)
{
    return s->n->state == TOPO_NODE_FENCED && s->f != NULL && s->f->state_ms >= w->in->options->replace_after_ms;
}

/* Its replicas are to leave it. */
static bool is_leaving(const struct work *w, const struct seat *s)
{
    return s == NULL || topo_node_leaves(s->n) || is_gone(w, s);
}

static bool may_lead(const struct seat *s)
{
    return s != NULL && is_active(s) && !s->n->slow && !s->n->clock_off;
}

static bool settled(const struct work *w, const struct seat *s)
{
    return s->f != NULL && s->f->state_ms >= w->in->options->settle_ms;
}

unsigned plan_effective_factor(const struct plan_input *in)
{
    struct work w = {.in = in, .v = in->view};
    unsigned nodes = 0, asked = in->options->replication_factor != 0 ? in->options->replication_factor : FACTOR_DEFAULT;

    topo_each_node(in->view, add_seat, &w);
    for (unsigned i = 0; i < w.count; i++)
        nodes += w.seats[i].n->state != TOPO_NODE_JOINING && !topo_node_leaves(w.seats[i].n);
    mem_free(w.seats);
    return nodes < asked ? (nodes == 0 ? 1 : nodes) : asked;
}

/* ---- node states ------------------------------------------------------------------------------------------------------------ */

static bool sees_refused(const struct plan_node *f, uint32_t node)
{
    for (unsigned i = 0; f != NULL && i < f->refuse_count; i++)
        if (f->refuses[i] == node)
            return true;
    return false;
}

/* Rule 20: everybody who would lead in the node's place must have seen it too. */
static bool successors_agree(const struct plan_input *in, uint32_t node)
{
    const struct topology *v = in->view;

    for (uint32_t i = 0; v->partitions != NULL && i < v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);
        struct topo_partition_change c;
        const struct plan_node *f;

        if (p->leader != node)
            continue;
        topo_change_of(&c, p);
        topo_change_drop(v, &c, node, false);
        topo_change_elect(v, &c, node);
        f = fact(in, c.leader);
        if (c.leader != 0 && (f == NULL || (!f->self && !sees_refused(f, node))))
            return false;
    }
    return true;
}

struct states {
    const struct plan_input *in;
    struct plan_state *ret;
    unsigned count, max;
};

static bool decide_state(const struct topo_node *n, void *arg)
{
    struct states *s = arg;
    const struct plan_options *o = s->in->options;
    const struct plan_node *f = fact(s->in, n->id);
    struct plan_state d = {.node = n->id, .epoch = n->epoch, .state = n->state, .flags = topo_node_flags_of(n)};

    if (f == NULL)
        return true;
    if (f->heard && f->silent_ms < o->failure_timeout_ms) {
        d.flags = (d.flags & TOPO_NODE_LEASE_MAY_RUN) | (f->slow ? TOPO_NODE_SLOW : 0u) | (f->clock_off ? TOPO_NODE_CLOCK_OFF : 0u);
        d.reason = PLAN_FITNESS;
    }
    if (!topo_node_alive(n)) {
        if (f->heard && f->silent_ms < o->failure_timeout_ms && !f->clock_off) {
            d.state = TOPO_NODE_ACTIVE;
            d.flags &= ~(unsigned)TOPO_NODE_LEASE_MAY_RUN;
            d.reason = PLAN_HEARD;
        }
    } else if (!f->self) {
        if (f->silent_ms >= (f->heard ? o->failure_timeout_ms : o->first_fence_ms)) {
            d.state = TOPO_NODE_FENCED;
            d.reason = PLAN_SILENT;
        } else if (f->refused && f->silent_ms >= o->refused_ms && successors_agree(s->in, n->id)) {
            d.state = TOPO_NODE_FENCED;
            d.reason = PLAN_REFUSED;
            d.flags |= TOPO_NODE_LEASE_MAY_RUN;
        }
    }
    if ((d.state != n->state || d.flags != topo_node_flags_of(n)) && s->count < s->max)
        s->ret[s->count++] = d;
    return true;
}

unsigned plan_states(const struct plan_input *in, struct plan_state *ret, unsigned max)
{
    struct states s = {.in = in, .ret = ret, .max = max};

    topo_each_node(in->view, decide_state, &s);
    return s.count;
}

/* ---- choosing nodes ------------------------------------------------------------------------------------------------------------ */

static unsigned rack_mates(const struct work *w, const struct topo_replica_set *set, const struct seat *s, uint32_t without)
{
    unsigned n = 0;

    if (s->n->rack.len == 0)
        return 0;
    for (unsigned i = 0; i < set->count; i++) {
        const struct seat *other = seat_of(w, set->nodes[i]);

        n += other != NULL && other != s && set->nodes[i] != without && slice_eq(other->n->rack, s->n->rack);
    }
    return n;
}

static struct topo_replica_set all_members(const struct topo_partition_change *c)
{
    struct topo_replica_set all = c->replicas;

    for (unsigned i = 0; i < c->adding.count; i++)
        topo_set_add(&all, c->adding.nodes[i]);
    return all;
}

/* The best node for one more replica: of the fewest racks met twice, then the least loaded, then the first after the partition's number (so that equals take turns). */
static struct seat *choose(const struct work *w, const struct topo_partition_change *c)
{
    struct topo_replica_set all = all_members(c), staying = {0};
    struct seat *best = NULL;
    unsigned best_mates = 0;

    for (unsigned i = 0; i < all.count; i++)
        if (!is_leaving(w, seat_of(w, all.nodes[i])))
            topo_set_add(&staying, all.nodes[i]);
    for (unsigned i = 0; i < w->count; i++) {
        struct seat *s = &w->seats[(i + c->index) % w->count];
        unsigned mates;

        if (!is_active(s) || s->n->slow || topo_set_has(&all, s->n->id) || s->adding >= w->in->options->adding_max)
            continue;
        mates = rack_mates(w, &staying, s, 0);
        if (best == NULL || mates < best_mates || (mates == best_mates && s->load < best->load)) {
            best = s;
            best_mates = mates;
        }
    }
    return best;
}

static unsigned staying(const struct work *w, const struct topo_replica_set *set)
{
    unsigned n = 0;

    for (unsigned i = 0; i < set->count; i++)
        n += !is_leaving(w, seat_of(w, set->nodes[i]));
    return n;
}

/* Which replica goes when there is one too many: one of a leaving node, then one that is not alive, then one whose rack is met twice, then of the most loaded node. Never the leader, nor one whose going would leave
 * fewer in sync than the bar; and when the one too many is a leaving leader, its handover is waited for. NULL: none may. */
static struct seat *victim(const struct work *w, const struct topo_partition_change *c, uint32_t *ret_id)
{
    struct seat *best = NULL;
    unsigned best_rank = 0;

    *ret_id = 0;
    for (unsigned i = 0; i < c->replicas.count; i++) {
        uint32_t id = c->replicas.nodes[i];
        struct seat *s = seat_of(w, id);
        unsigned rank;

        if (id == c->leader)
            continue;
        if (topo_set_has(&c->insync, id) && c->insync.count - 1u < topo_min_insync_of(w->v, c->replicas.count - 1u))
            continue;
        if (!is_leaving(w, s) && staying(w, &c->replicas) <= w->desired)
            continue;
        rank = is_leaving(w, s) ? 3 : !topo_node_alive(s->n) ? 2 : rack_mates(w, &c->replicas, s, 0) > 0 ? 1 : 0;
        if (*ret_id == 0 || rank > best_rank || (rank == best_rank && s != NULL && best != NULL && s->load > best->load)) {
            best = s;
            best_rank = rank;
            *ret_id = id;
        }
    }
    return best;
}

/* ---- one partition --------------------------------------------------------------------------------------------------------------- */

/* The change under way of a partition; the first use copies its record. */
static struct topo_partition_change *touch(struct work *w, uint32_t index)
{
    struct plan *o = w->out;

    if (w->slots[index] == 0) {
        if (o->change_count == o->change_cap) {
            o->change_cap = o->change_cap == 0 ? 16 : o->change_cap * 2;
            o->changes = mem_realloc(o->changes, o->change_cap * sizeof(o->changes[0]));
        }
        topo_change_of(&o->changes[o->change_count], topo_partition_at(w->v, index));
        w->slots[index] = ++o->change_count;
    }
    return &o->changes[w->slots[index] - 1];
}

/* As it will be. */
static struct topo_partition_change current(const struct work *w, uint32_t index)
{
    struct topo_partition_change c;

    if (w->slots[index] != 0)
        return w->out->changes[w->slots[index] - 1];
    topo_change_of(&c, topo_partition_at(w->v, index));
    return c;
}

static void ask_handover(struct work *w, uint32_t partition, uint32_t from, uint32_t to)
{
    struct plan *o = w->out;

    if (o->handover_count >= w->in->options->handovers_max)
        return;
    if (o->handover_count == o->handover_cap) {
        o->handover_cap = o->handover_cap == 0 ? 8 : o->handover_cap * 2;
        o->handovers = mem_realloc(o->handovers, o->handover_cap * sizeof(o->handovers[0]));
    }
    o->handovers[o->handover_count++] = (struct plan_handover){partition, from, to};
}

static void want_ends(struct work *w, uint32_t partition)
{
    struct plan *o = w->out;

    if (o->end_count == o->end_cap) {
        o->end_cap = o->end_cap == 0 ? 8 : o->end_cap * 2;
        o->ends = mem_realloc(o->ends, o->end_cap * sizeof(o->ends[0]));
    }
    o->ends[o->end_count++] = partition;
}

/* The member with the greatest main log, by (epoch, end), the first of equals in order of preference. 0: somebody's is not known. */
static uint32_t greatest(const struct plan_input *in, const struct topo_partition_change *c, const struct topo_replica_set *of)
{
    uint32_t best = 0;
    int32_t best_epoch = 0;
    int64_t best_end = 0;

    for (unsigned i = 0; i < c->replicas.count; i++) {
        uint32_t id = c->replicas.nodes[i];
        int32_t epoch;
        int64_t end;

        if (!topo_set_has(of, id))
            continue;
        if (in->ends.get == NULL || !in->ends.get(in->ends.arg, c->index, id, &epoch, &end))
            return 0;
        if (best == 0 || epoch > best_epoch || (epoch == best_epoch && end > best_end)) {
            best = id;
            best_epoch = epoch;
            best_end = end;
        }
    }
    return best;
}

static void elect_by_word(struct topo_partition_change *c, uint32_t leader)
{
    c->unclean = true;
    c->leader = leader;
    c->eligible.count = 0;
    c->insync.count = 0;
    topo_set_add(&c->insync, leader);
}

/* Rule 19: nobody may lead by what the sets say; when all who were last known are back, the greatest log does. They stay in last_known, which tells the leader to pull what they have more of. */
static void recover(struct work *w, uint32_t index)
{
    struct topo_partition_change c = current(w, index);
    uint32_t leader;

    if (c.leader != 0 || c.insync.count != 0 || c.eligible.count != 0 || c.last_known.count == 0)
        return;
    for (unsigned i = 0; i < c.last_known.count; i++) {
        const struct seat *s = seat_of(w, c.last_known.nodes[i]);

        if (s == NULL || !topo_node_alive(s->n))
            return;
    }
    leader = greatest(w->in, &c, &c.last_known);
    if (leader == 0)
        want_ends(w, index);
    else
        elect_by_word(touch(w, index), leader);
}

/* Rule 25. It stays while the others alone would be below the bar. */
static void drop_slow(struct work *w, uint32_t index)
{
    struct topo_partition_change c = current(w, index), *change;

    for (unsigned i = 0; i < c.replicas.count; i++) {
        const struct seat *s = seat_of(w, c.replicas.nodes[i]);

        if (s == NULL || !s->n->slow || s->n->id == c.leader || !topo_set_has(&c.insync, s->n->id))
            continue;
        if (c.insync.count < 2 || c.insync.count - 1u < topo_min_insync_of(w->v, c.replicas.count))
            continue;
        change = touch(w, index);
        topo_change_drop(w->v, change, s->n->id, false);
        topo_change_settle(w->v, change);
        c = *change;
    }
}

static void drop_adding(struct work *w, uint32_t index, uint32_t node)
{
    struct seat *s = seat_of(w, node);

    topo_set_remove(&touch(w, index)->adding, node);
    if (s != NULL) {
        s->load--;
        s->adding--;
    }
}

/* Those being added that are gone, or were wanted in place of a node that came back. One that is added for balance is a replica too many on purpose, and stays. */
static void review_adding(struct work *w, uint32_t index)
{
    struct topo_partition_change c = current(w, index);

    if (c.leader == 0)
        return;
    for (unsigned i = 0; i < c.adding.count; i++) {
        const struct seat *s = seat_of(w, c.adding.nodes[i]);

        if (s == NULL || is_leaving(w, s))
            drop_adding(w, index, c.adding.nodes[i]);
    }
    c = current(w, index);
    while (c.adding.count > 1 && staying(w, &c.replicas) + c.adding.count > w->desired + 1) {
        drop_adding(w, index, c.adding.nodes[c.adding.count - 1]);
        c = current(w, index);
    }
}

static void trim(struct work *w, uint32_t index)
{
    for (;;) {
        struct topo_partition_change c = current(w, index), *change;
        struct seat *s;
        uint32_t id;

        if (c.replicas.count <= w->desired || c.leader == 0)
            return;
        s = victim(w, &c, &id);
        if (id == 0)
            return;
        if (s != NULL)
            s->load--;
        change = touch(w, index);
        topo_set_remove(&change->replicas, id);
        topo_set_remove(&change->insync, id);
        topo_set_remove(&change->eligible, id);
        topo_set_remove(&change->last_known, id);
        topo_change_settle(w->v, change);
    }
}

static void add_replica(struct work *w, uint32_t index, struct seat *s)
{
    topo_set_add(&touch(w, index)->adding, s->n->id);
    s->load++;
    s->adding++;
    w->moving++;
}

static void add_missing(struct work *w, uint32_t index)
{
    for (;;) {
        struct topo_partition_change c = current(w, index);
        struct seat *s;

        if (c.leader == 0)
            return;
        if (staying(w, &c.replicas) + c.adding.count >= w->desired || c.replicas.count + c.adding.count >= TOPO_REPLICAS_MAX)
            return;
        s = choose(w, &c);
        if (s == NULL)
            return;
        add_replica(w, index, s);
    }
}

static uint32_t handover_target(const struct work *w, const struct topo_partition_change *c)
{
    for (unsigned i = 0; i < c->replicas.count; i++) {
        uint32_t id = c->replicas.nodes[i];

        if (id != c->leader && topo_set_has(&c->insync, id) && may_lead(seat_of(w, id)))
            return id;
    }
    return 0;
}

/* A leader that may not lead hands over to who may; one that is not the first choice to that one, once it has settled. */
static void place_leader(struct work *w, uint32_t index)
{
    struct topo_partition_change c = current(w, index);
    const struct seat *now = seat_of(w, c.leader), *first = seat_of(w, c.replicas.nodes[0]);
    uint32_t to;

    if (c.leader == 0)
        return;
    if (!may_lead(now)) {
        to = handover_target(w, &c);
        if (to != 0)
            ask_handover(w, index, c.leader, to);
    } else if (first != now && may_lead(first) && settled(w, first) && topo_set_has(&c.insync, first->n->id)) {
        ask_handover(w, index, c.leader, first->n->id);
    }
}

/* ---- the whole ---------------------------------------------------------------------------------------------------------------------- */

static void count_loads(struct work *w)
{
    for (uint32_t i = 0; i < w->v->total_partitions; i++) {
        struct topo_partition_change c = current(w, i);
        struct topo_replica_set all = all_members(&c);
        struct seat *s;

        for (unsigned k = 0; k < all.count; k++) {
            s = seat_of(w, all.nodes[k]);
            if (s != NULL) {
                s->load++;
                s->adding += k >= c.replicas.count;
            }
        }
        s = seat_of(w, c.replicas.nodes[0]);
        if (s != NULL)
            s->preferred++;
        w->moving += c.adding.count != 0;
    }
}

/* What will be one too many when those being added have caught up counts as gone already from whom it will be taken. */
static void discount_surplus(struct work *w, uint32_t index)
{
    struct topo_partition_change c = current(w, index);

    if (c.leader == 0)
        return;
    for (unsigned i = 0; i < c.adding.count; i++) {
        topo_set_add(&c.replicas, c.adding.nodes[i]);
        topo_set_add(&c.insync, c.adding.nodes[i]);
    }
    while (c.replicas.count > w->desired) {
        uint32_t id;
        struct seat *s = victim(w, &c, &id);

        if (id == 0)
            return;
        if (s != NULL)
            s->load--;
        topo_set_remove(&c.replicas, id);
        topo_set_remove(&c.insync, id);
    }
}

/* The walks come one after another, since each goes by the loads that the former left. */
static void walk(struct work *w, void (*fn)(struct work *w, uint32_t index))
{
    for (uint32_t i = 0; i < w->v->total_partitions; i++)
        fn(w, i);
}

/* Who would go if `low` were added and had caught up, and were it a gain. */
static struct seat *who_leaves(const struct work *w, struct topo_partition_change c, struct seat *low)
{
    struct topo_replica_set before = c.replicas;
    struct seat *s;
    uint32_t id;

    topo_set_add(&c.replicas, low->n->id);
    topo_set_add(&c.insync, low->n->id);
    low->load++;
    s = victim(w, &c, &id);
    low->load--;
    if (s == NULL || s->load < low->load + 2 || rack_mates(w, &before, low, id) > rack_mates(w, &before, s, 0))
        return NULL;
    return s;
}

/* The partition of which a replica may go from the most loaded node to `low`: it is whole and at rest. */
static bool find_move(const struct work *w, struct seat *low, uint32_t *ret, struct seat **ret_from)
{
    *ret_from = NULL;
    for (uint32_t i = 0; i < w->v->total_partitions; i++) {
        struct topo_partition_change c = current(w, i);
        struct seat *from;

        if (c.leader == 0 || c.adding.count != 0 || c.replicas.count != w->desired || c.insync.count != c.replicas.count || topo_set_has(&c.replicas, low->n->id))
            continue;
        from = who_leaves(w, c, low);
        if (from != NULL && (*ret_from == NULL || from->load > (*ret_from)->load)) {
            *ret_from = from;
            *ret = i;
        }
    }
    return *ret_from != NULL;
}

static bool all_settled(const struct work *w)
{
    for (unsigned i = 0; i < w->count; i++)
        if (!is_active(&w->seats[i]) && !is_leaving(w, &w->seats[i]))
            return false;
    return true;
}

static bool is_balanced(const struct work *w)
{
    const uint64_t permille = w->in->options->rebalance_permille;
    uint64_t sum = 0, seats = 0, high = 0, low = UINT64_MAX;

    for (unsigned i = 0; i < w->count; i++) {
        const struct seat *s = &w->seats[i];

        if (!may_lead(s))
            continue;
        sum += s->load;
        seats++;
        high = s->load > high ? s->load : high;
        low = s->load < low ? s->load : low;
    }
    return seats < 2 || high < low + 2 || (high * seats * 1000 <= sum * (1000 + permille) && low * seats * 1000 >= sum * (1000 - permille));
}

/* The least loaded that may take one more, of those that were not `tried` in vain. */
static struct seat *least_loaded(const struct work *w, const struct topo_replica_set *tried)
{
    struct seat *low = NULL;

    for (unsigned i = 0; i < w->count; i++) {
        struct seat *s = &w->seats[i];

        if (may_lead(s) && s->adding < w->in->options->adding_max && !topo_set_has(tried, s->n->id) && (low == NULL || s->load < low->load))
            low = s;
    }
    return low;
}

/* Replicas go from who has most to who has least, a few at a time. Who is away for a moment is waited for. */
static void rebalance(struct work *w)
{
    struct topo_replica_set tried = {0};

    while (all_settled(w) && w->moving < w->in->options->moves_max && !is_balanced(w) && tried.count < TOPO_REPLICAS_MAX) {
        struct seat *low = least_loaded(w, &tried), *from;
        uint32_t index;

        if (low == NULL)
            return;
        if (!find_move(w, low, &index, &from)) {
            topo_set_add(&tried, low->n->id);
            continue;
        }
        add_replica(w, index, low);
        from->load--;
    }
}

/* First choices spread over the replicas there are: a record's order changes, nothing moves; the leadership follows by handover. Each step takes one from a node that has two more than the node it gives it to. */
static bool spread_one(struct work *w, uint32_t index)
{
    struct topo_partition_change c = current(w, index), *change;
    struct seat *first = seat_of(w, c.replicas.nodes[0]), *best = NULL;
    struct topo_replica_set order = {0};

    if (c.leader == 0 || !may_lead(first))
        return false;
    for (unsigned k = 1; k < c.replicas.count; k++) {
        struct seat *s = seat_of(w, c.replicas.nodes[k]);

        if (may_lead(s) && topo_set_has(&c.insync, s->n->id) && (best == NULL || s->preferred < best->preferred))
            best = s;
    }
    if (best == NULL || first->preferred < best->preferred + 2)
        return false;
    change = touch(w, index);
    topo_set_add(&order, best->n->id);
    for (unsigned k = 0; k < change->replicas.count; k++)
        topo_set_add(&order, change->replicas.nodes[k]);
    change->replicas = order;
    first->preferred--;
    best->preferred++;
    return true;
}

static void spread_preferred(struct work *w)
{
    bool moved = true;

    while (moved) {
        moved = false;
        for (uint32_t i = 0; i < w->v->total_partitions; i++)
            moved |= spread_one(w, i);
    }
}

/* Takes out what was touched without being changed in the end. */
static void drop_unchanged(struct work *w)
{
    struct plan *o = w->out;
    unsigned kept = 0;

    for (unsigned i = 0; i < o->change_count; i++) {
        struct topo_partition_change old, *c = &o->changes[i];

        topo_change_of(&old, topo_partition_at(w->v, c->index));
        if (old.leader == c->leader && old.replicas.count == c->replicas.count && memcmp(old.replicas.nodes, c->replicas.nodes, c->replicas.count * sizeof(uint32_t)) == 0 &&
            topo_set_equal(&old.adding, &c->adding) && topo_set_equal(&old.insync, &c->insync) && topo_set_equal(&old.eligible, &c->eligible) && topo_set_equal(&old.last_known, &c->last_known))
            continue;
        o->changes[kept++] = *c;
    }
    o->change_count = kept;
}

void plan_partitions(const struct plan_input *in, struct plan *ret)
{
    struct work w = {.in = in, .v = in->view, .out = ret};

    *ret = (struct plan){0};
    if (w.v->partitions == NULL)
        return;
    topo_each_node(w.v, add_seat, &w);
    w.desired = plan_effective_factor(in);
    w.slots = mem_zalloc(w.v->total_partitions * sizeof(w.slots[0]));
    count_loads(&w);
    walk(&w, recover);
    walk(&w, drop_slow);
    walk(&w, review_adding);
    walk(&w, trim);
    walk(&w, discount_surplus);
    walk(&w, add_missing);
    rebalance(&w);
    spread_preferred(&w);
    walk(&w, place_leader);
    drop_unchanged(&w);
    mem_free(w.slots);
    mem_free(w.seats);
}

void plan_free(struct plan *p)
{
    mem_free(p->changes);
    mem_free(p->handovers);
    mem_free(p->ends);
    *p = (struct plan){0};
}

/* ---- the first placement ------------------------------------------------------------------------------------------------------------ */

struct placing {
    unsigned *leads, *pairs; /* pairs[leader * count + follower]: how often that one would follow it */
};

static bool better(const unsigned a[4], const unsigned b[4])
{
    for (unsigned i = 0; i < 4; i++)
        if (a[i] != b[i])
            return a[i] < b[i];
    return false;
}

/* The next replica of a partition: of racks not met yet, then the least loaded; the first by how much it leads, the second by how often it would follow that leader, so that a failed node's partitions go to many. */
static unsigned choose_placed(const struct work *w, const struct placing *g, uint32_t index, const struct topo_replica_set *set, unsigned leader)
{
    unsigned best = w->count, best_cost[4] = {0};

    for (unsigned i = 0; i < w->count; i++) {
        unsigned at = (i + index) % w->count, cost[4];
        const struct seat *s = &w->seats[at];

        if (!is_active(s) || topo_set_has(set, s->n->id))
            continue;
        cost[0] = rack_mates(w, set, s, 0);
        cost[1] = set->count == 0 ? g->leads[at] : s->load;
        cost[2] = set->count == 0 ? s->load : set->count == 1 ? g->pairs[leader * w->count + at] : 0;
        cost[3] = i;
        if (best == w->count || better(cost, best_cost)) {
            best = at;
            memcpy(best_cost, cost, sizeof(cost));
        }
    }
    return best;
}

bool plan_place(const struct plan_input *in, struct topo_replica_set *ret)
{
    struct work w = {.in = in, .v = in->view, .desired = plan_effective_factor(in)};
    struct placing g;
    bool placed = true;

    topo_each_node(w.v, add_seat, &w);
    g.leads = mem_zalloc((w.count + 1) * sizeof(g.leads[0]));
    g.pairs = mem_zalloc((w.count * w.count + 1) * sizeof(g.pairs[0]));
    for (uint32_t i = 0; i < w.v->total_partitions && placed; i++) {
        unsigned leader = 0;

        ret[i].count = 0;
        while (ret[i].count < w.desired) {
            unsigned at = choose_placed(&w, &g, i, &ret[i], leader);

            if (at == w.count)
                break;
            if (ret[i].count == 0)
                g.leads[leader = at]++;
            else if (ret[i].count == 1)
                g.pairs[leader * w.count + at]++;
            topo_set_add(&ret[i], w.seats[at].n->id);
            w.seats[at].load++;
        }
        placed = ret[i].count != 0;
    }
    mem_free(g.leads);
    mem_free(g.pairs);
    mem_free(w.seats);
    return placed;
}

/* ---- by an administrator's word -------------------------------------------------------------------------------------------------------- */

int plan_recover(const struct plan_input *in, uint32_t partition, struct topo_partition_change *ret)
{
    const struct topo_partition *p = topo_partition_at(in->view, partition);
    struct topo_replica_set alive = {0};
    uint32_t leader;

    if (p == NULL)
        return ERR_NOT_FOUND;
    if (p->leader != 0)
        return ERR_EXISTS;
    topo_change_of(ret, p);
    for (unsigned i = 0; i < ret->replicas.count; i++)
        if (topo_node_alive(topo_node_find(in->view, ret->replicas.nodes[i])))
            topo_set_add(&alive, ret->replicas.nodes[i]);
    if (alive.count == 0)
        return ERR_NOT_FOUND;
    leader = alive.count == 1 ? alive.nodes[0] : greatest(in, ret, &alive);
    if (leader == 0)
        return ERR_AGAIN;
    elect_by_word(ret, leader);
    ret->last_known.count = 0;
    if (alive.count > 1)
        ret->last_known = alive; /* it pulls what they have more of */
    return 0;
}

uint32_t plan_handover_target(const struct plan_input *in, uint32_t partition, uint32_t to)
{
    const struct topo_partition *p = topo_partition_at(in->view, partition);
    struct work w = {.in = in, .v = in->view};
    struct topo_partition_change c;

    if (p == NULL || p->leader == 0)
        return 0;
    topo_change_of(&c, p);
    topo_each_node(w.v, add_seat, &w);
    if (to == 0)
        to = handover_target(&w, &c);
    else if (to == p->leader || !topo_set_has(&c.insync, to) || !may_lead(seat_of(&w, to)))
        to = 0;
    mem_free(w.seats);
    return to;
}
