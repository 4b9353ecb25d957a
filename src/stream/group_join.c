/* Joining a group, and the rebalance that follows. Comments name the rules of KIP-62, KIP-134 (initial
 * delay), KIP-345 (static members), KIP-394 and KIP-814. */
#include "stream/group_priv.h"

#include "base/check.h"
#include "base/mem.h"

/* ---- protocols ---------------------------------------------------------------------------------------- */

static bool member_has_protocol(const struct group_member *m, const char *name)
{
    for (unsigned i = 0; i < m->protocol_count; i++)
        if (strcmp(m->protocols[i].name, name) == 0)
            return true;
    return false;
}

static bool all_have_protocol(const struct group *g, const char *name, const struct group_member *but)
{
    LIST_FOREACH (n, &g->members) {
        const struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        if (m != but && !member_has_protocol(m, name))
            return false;
    }
    return true;
}

/* A member fits when its type is the group's and one of its protocols is known to all the others. */
static bool fits(const struct group *g, const struct group_join *j, const struct group_member *but)
{
    bool others = false;

    if (j->protocol_type.len == 0 || j->protocol_count == 0)
        return false;
    LIST_FOREACH (n, &g->members)
        others = others || LIST_ENTRY(n, struct group_member, node) != but;
    if (!others)
        return true;
    if (g->protocol_type == NULL || !slice_eq(j->protocol_type, slice_str(g->protocol_type)))
        return false;
    for (unsigned i = 0; i < j->protocol_count; i++) {
        char *name = mem_strdup_slice(j->names[i]);
        bool all = all_have_protocol(g, name, but);

        mem_free(name);
        if (all)
            return true;
    }
    return false;
}

static void set_protocols(struct group_member *m, const struct group_join *j)
{
    for (unsigned i = 0; i < m->protocol_count; i++) {
        mem_free(m->protocols[i].name);
        buf_fini(&m->protocols[i].metadata);
    }
    mem_free(m->protocols);
    m->protocols = mem_calloc(j->protocol_count, sizeof(*m->protocols));
    m->protocol_count = j->protocol_count;
    for (unsigned i = 0; i < j->protocol_count; i++) {
        m->protocols[i].name = mem_strdup_slice(j->names[i]);
        buf_put_slice(&m->protocols[i].metadata, j->metadata[i]);
    }
}

static bool same_protocols(const struct group_member *m, const struct group_join *j)
{
    if (m->protocol_count != j->protocol_count)
        return false;
    for (unsigned i = 0; i < j->protocol_count; i++)
        if (!slice_eq(slice_str(m->protocols[i].name), j->names[i]) ||
            !slice_eq(buf_slice(&m->protocols[i].metadata), j->metadata[i]))
            return false;
    return true;
}

static const char *vote_of(const struct group *g, const struct group_member *m)
{
    for (unsigned i = 0; i < m->protocol_count; i++)
        if (all_have_protocol(g, m->protocols[i].name, NULL))
            return m->protocols[i].name;
    return NULL;
}

/* Every member votes for the first of its protocols that all support; most votes win, an earlier member's
 * choice on a tie. */
static const char *select_protocol(const struct group *g)
{
    const char *best = NULL;
    unsigned best_votes = 0;

    LIST_FOREACH (n, &g->members) {
        const char *candidate = vote_of(g, LIST_ENTRY(n, struct group_member, node));
        unsigned votes = 0;

        if (candidate == NULL)
            continue;
        LIST_FOREACH (k, &g->members) {
            const char *v = vote_of(g, LIST_ENTRY(k, struct group_member, node));

            votes += v != NULL && strcmp(v, candidate) == 0;
        }
        if (votes > best_votes) {
            best_votes = votes;
            best = candidate;
        }
    }
    return best;
}

/* ---- the rebalance ------------------------------------------------------------------------------------ */

static uint32_t longest_rebalance_timeout(const struct group *g)
{
    int32_t longest = 0;

    LIST_FOREACH (n, &g->members)
        longest = MAX_OF(longest, LIST_ENTRY(n, struct group_member, node)->rebalance_timeout_ms);
    return (uint32_t)longest;
}

void group_prepare(struct groups *gs, struct group *g, uint64_t now_ms)
{
    uint32_t longest = longest_rebalance_timeout(g);

    if (g->state == GROUP_PREPARING)
        return;
    if (g->state == GROUP_COMPLETING)
        LIST_FOREACH (n, &g->members) {
            struct group_member *m = LIST_ENTRY(n, struct group_member, node);
            void *wait = m->sync_wait;

            buf_clear(&m->assignment);
            m->sync_wait = NULL;
            if (wait != NULL)
                gs->ops->synced(wait, g, NULL, GROUP_ERR_REBALANCING);
        }
    g->sync_deadline_ms = 0;
    g->newcomer = false;
    if (g->state == GROUP_EMPTY &&
        gs->initial_rebalance_delay_ms != 0) { /* KIP-134: let the rest of a starting group arrive */
        g->initial_delay_ms = MIN_OF(gs->initial_rebalance_delay_ms, longest);
        g->join_deadline_ms = now_ms + g->initial_delay_ms;
        g->join_hard_deadline_ms = now_ms + longest;
    } else {
        g->initial_delay_ms = 0;
        g->join_deadline_ms = now_ms + longest;
    }
    g->state = GROUP_PREPARING;
    group_try_complete_join(gs, g, now_ms);
}

void group_try_complete_join(struct groups *gs, struct group *g, uint64_t now_ms)
{
    if (g->state != GROUP_PREPARING)
        return;
    if (g->initial_delay_ms != 0 && g->member_count != 0)
        return; /* it ends by time alone */
    if (!list_empty(&g->pending))
        return;
    LIST_FOREACH (n, &g->members)
        if (LIST_ENTRY(n, struct group_member, node)->join_wait == NULL)
            return;
    group_complete_join(gs, g, now_ms);
}

static void become_empty(struct group *g)
{
    g->state = GROUP_EMPTY;
    g->sync_deadline_ms = 0;
    group_set_text(&g->protocol, SLICE_NONE);
    group_set_text(&g->leader, SLICE_NONE);
    g->changed = true;
}

static void answer_join(struct groups *gs, struct group *g, struct group_member *m)
{
    void *wait = m->join_wait;

    m->join_wait = NULL;
    gs->ops->joined(wait, g, m, GROUP_OK);
}

/* The leader of the new generation has joined it: a static leader that is away hands over to the first that
 * is there. */
static bool settle_leader(struct group *g)
{
    struct group_member *leader = g->leader == NULL ? NULL : group_member_find(g, slice_str(g->leader));

    if (leader != NULL && leader->join_wait != NULL)
        return true;
    LIST_FOREACH (n, &g->members) {
        struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        if (m->join_wait != NULL) {
            group_set_text(&g->leader, slice_str(m->id));
            return true;
        }
    }
    return false;
}

static void drop_absent_members(struct group *g)
{
    LIST_FOREACH_SAFE (n, &g->members) {
        struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        if (m->join_wait != NULL || m->instance != NULL)
            continue;
        list_remove(&m->node);
        g->member_count--;
        if (group_is_leader(g, m))
            group_set_text(&g->leader, SLICE_NONE);
        group_member_free(m);
    }
}

void group_complete_join(struct groups *gs, struct group *g, uint64_t now_ms)
{
    uint32_t longest;

    if (g->initial_delay_ms != 0 && g->newcomer && now_ms < g->join_hard_deadline_ms &&
        g->member_count != 0) {
        g->newcomer = false; /* members keep arriving: another delay, within the longest rebalance timeout */
        g->join_deadline_ms = MIN_OF(now_ms + g->initial_delay_ms, g->join_hard_deadline_ms);
        return;
    }
    g->initial_delay_ms = 0;
    drop_absent_members(g);
    if (g->member_count != 0 && !settle_leader(g)) { /* only static members, all away: wait for one */
        g->join_deadline_ms = now_ms + MAX_OF(longest_rebalance_timeout(g), 1u);
        return;
    }
    g->generation = g->generation == INT32_MAX ? 1 : g->generation + 1;
    g->changed = true;
    if (g->member_count == 0) {
        become_empty(g);
        return;
    }
    longest = longest_rebalance_timeout(g);
    {
        const char *chosen = select_protocol(g);

        group_set_text(&g->protocol, chosen == NULL ? slice_str("") : slice_str(chosen));
    }
    g->state = GROUP_COMPLETING;
    g->sync_deadline_ms = now_ms + MAX_OF(longest, 1u);
    LIST_FOREACH (n, &g->members) {
        struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        m->synced = false;
        m->skip_assignment = false;
        m->is_new = false;
        group_session_restart(m, now_ms);
        if (m->join_wait != NULL)
            answer_join(gs, g, m);
    }
}

/* ---- joining ------------------------------------------------------------------------------------------ */

static void park_join(struct groups *gs, struct group *g, struct group_member *m, void *wait)
{
    void *former = m->join_wait;

    m->join_wait = wait;
    if (former != NULL) /* sent again over another connection */
        gs->ops->joined(former, g, NULL, GROUP_ERR_UNKNOWN_MEMBER);
}

static void add_and_rebalance(struct groups *gs, struct group *g, struct slice id, const struct group_join *j,
                              uint64_t now_ms)
{
    struct group_member *m = mem_zalloc(sizeof(*m));

    m->id = mem_strdup_slice(id);
    group_set_text(&m->instance, j->instance);
    m->client_id = mem_strdup_slice(j->client_id);
    m->client_host = mem_strdup_slice(j->client_host);
    m->rebalance_timeout_ms = j->rebalance_timeout_ms;
    m->session_timeout_ms = j->session_timeout_ms;
    m->is_new = true;
    set_protocols(m, j);
    if (g->member_count == 0)
        group_set_text(&g->protocol_type, j->protocol_type);
    list_push_back(&g->members, &m->node);
    g->member_count++;
    g->empty_since_ms = -1;
    if (g->leader == NULL)
        group_set_text(&g->leader, id);
    group_session_restart(m, now_ms);
    m->join_wait = j->wait;
    g->newcomer = g->newcomer || g->state == GROUP_PREPARING;
    group_prepare(gs, g, now_ms);
    group_try_complete_join(gs, g, now_ms);
}

static void update_and_rebalance(struct groups *gs, struct group *g, struct group_member *m,
                                 const struct group_join *j, uint64_t now_ms)
{
    set_protocols(m, j);
    if (g->member_count == 1)
        group_set_text(&g->protocol_type, j->protocol_type);
    m->rebalance_timeout_ms = j->rebalance_timeout_ms;
    m->session_timeout_ms = j->session_timeout_ms;
    park_join(gs, g, m, j->wait);
    group_prepare(gs, g, now_ms);
    group_try_complete_join(gs, g, now_ms);
}

/* KIP-345: a known instance comes back under a new member id; the former id is fenced. When nothing changed
 * for a Stable group, it goes on with its assignment, and only the leader of a client that cannot be told to
 * skip the assignment (KIP-814) sees itself as a plain member. */
static void replace_static_member(struct groups *gs, struct group *g, struct group_member *m,
                                  const struct group_join *j, uint64_t now_ms)
{
    bool was_leader = group_is_leader(g, m), keep;
    void *join = m->join_wait, *sync = m->sync_wait;

    m->join_wait = m->sync_wait = NULL;
    if (join != NULL)
        gs->ops->joined(join, g, NULL, GROUP_ERR_FENCED_INSTANCE);
    if (sync != NULL)
        gs->ops->synced(sync, g, NULL, GROUP_ERR_FENCED_INSTANCE);
    group_set_text(&m->id, j->new_member_id);
    group_set_text(&m->client_id, j->client_id);
    group_set_text(&m->client_host, j->client_host);
    if (was_leader)
        group_set_text(&g->leader, j->new_member_id);
    g->changed = true;
    keep = g->state == GROUP_STABLE;
    if (keep) {
        struct group_protocol *former = m->protocols;
        unsigned former_count = m->protocol_count;
        const char *chosen;

        m->protocols = NULL;
        m->protocol_count = 0;
        set_protocols(m, j);
        chosen = select_protocol(g);
        keep = chosen != NULL && g->protocol != NULL && strcmp(chosen, g->protocol) == 0;
        for (unsigned i = 0; i < former_count; i++) {
            mem_free(former[i].name);
            buf_fini(&former[i].metadata);
        }
        mem_free(former);
    }
    m->rebalance_timeout_ms = j->rebalance_timeout_ms;
    m->session_timeout_ms = j->session_timeout_ms;
    if (!keep) {
        update_and_rebalance(gs, g, m, j, now_ms);
        return;
    }
    group_session_restart(m, now_ms);
    m->join_wait = j->wait;
    if (was_leader && !j->may_skip_assignment) {
        char *leader = g->leader;

        g->leader = mem_strdup("");
        answer_join(gs, g, m);
        mem_free(g->leader);
        g->leader = leader;
    } else {
        m->skip_assignment = was_leader;
        answer_join(gs, g, m);
    }
    m->skip_assignment = false;
}

static enum group_error join_new(struct groups *gs, struct group *g, const struct group_join *j,
                                 uint64_t now_ms)
{
    struct group_member *m = j->instance.data == NULL ? NULL : group_static_member(g, j->instance);

    if (!fits(g, j, m))
        return GROUP_ERR_INCONSISTENT_PROTOCOL;
    if (m != NULL) {
        replace_static_member(gs, g, m, j, now_ms);
        return GROUP_OK;
    }
    if (j->instance.data == NULL && j->id_required) {
        struct group_pending *p = mem_zalloc(sizeof(*p));

        p->id = mem_strdup_slice(j->new_member_id);
        p->deadline_ms = now_ms + (uint32_t)j->session_timeout_ms;
        list_push_back(&g->pending, &p->node);
        return GROUP_ERR_MEMBER_ID_REQUIRED;
    }
    add_and_rebalance(gs, g, j->new_member_id, j, now_ms);
    return GROUP_OK;
}

static enum group_error join_known(struct groups *gs, struct group *g, const struct group_join *j,
                                   uint64_t now_ms)
{
    struct group_member *m;
    enum group_error err;

    LIST_FOREACH (n, &g->pending) {
        struct group_pending *p = LIST_ENTRY(n, struct group_pending, node);

        if (j->instance.data != NULL || !slice_eq(slice_str(p->id), j->member_id))
            continue;
        if (!fits(g, j, NULL))
            return GROUP_ERR_INCONSISTENT_PROTOCOL;
        list_remove(&p->node);
        add_and_rebalance(gs, g, j->member_id, j, now_ms);
        group_pending_free(p);
        return GROUP_OK;
    }
    err = group_check_member(g, j->member_id, j->instance, &m);
    if (err != GROUP_OK)
        return err;
    if (!fits(g, j, m))
        return GROUP_ERR_INCONSISTENT_PROTOCOL;
    switch (g->state) {
    case GROUP_PREPARING:
        update_and_rebalance(gs, g, m, j, now_ms);
        return GROUP_OK;
    case GROUP_COMPLETING:
    case GROUP_STABLE:
        /* The answer to its join may have been lost: then nothing changed, and it is told again. A leader
         * that joins a Stable group anew wants a rebalance. */
        if (!same_protocols(m, j) || (g->state == GROUP_STABLE && group_is_leader(g, m))) {
            update_and_rebalance(gs, g, m, j, now_ms);
        } else {
            group_session_restart(m, now_ms);
            m->join_wait = j->wait;
            answer_join(gs, g, m);
        }
        return GROUP_OK;
    case GROUP_EMPTY:
    case GROUP_DEAD:
        break;
    }
    return GROUP_ERR_UNKNOWN_MEMBER;
}

enum group_error group_join(struct groups *gs, struct group *g, const struct group_join *j, uint64_t now_ms)
{
    if (g->state == GROUP_DEAD)
        return GROUP_ERR_NOT_AVAILABLE;
    return j->member_id.len == 0 ? join_new(gs, g, j, now_ms) : join_known(gs, g, j, now_ms);
}
