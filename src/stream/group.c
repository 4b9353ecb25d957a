/* Groups: the table, heartbeats, syncs, leaving and deadlines. Joining is in group_join.c. */
#include "stream/group_priv.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

const char *group_state_name(enum group_state s)
{
    static const char *const names[] = {"Empty", "PreparingRebalance", "CompletingRebalance", "Stable",
                                        "Dead"};

    return names[s];
}

void group_set_text(char **at, struct slice s)
{
    char *copy = s.data == NULL ? NULL : mem_strdup_slice(s);

    mem_free(*at);
    *at = copy;
}

/* ---- the table ---------------------------------------------------------------------------------------- */

void groups_init(struct groups *gs, const struct group_ops *ops, uint32_t initial_rebalance_delay_ms)
{
    *gs = (struct groups){.ops = ops, .initial_rebalance_delay_ms = initial_rebalance_delay_ms};
}

static void group_free(struct group *g)
{
    struct list *n;

    while ((n = list_pop_front(&g->members)) != NULL)
        group_member_free(LIST_ENTRY(n, struct group_member, node));
    while ((n = list_pop_front(&g->pending)) != NULL)
        group_pending_free(LIST_ENTRY(n, struct group_pending, node));
    mem_free(g->id);
    mem_free(g->protocol_type);
    mem_free(g->protocol);
    mem_free(g->leader);
    mem_free(g);
}

void groups_fini(struct groups *gs)
{
    for (uint32_t i = 0; i < gs->bucket_count; i++)
        for (struct group *g = gs->buckets[i], *next; g != NULL; g = next) {
            next = g->next;
            group_free(g);
        }
    mem_free(gs->buckets);
    gs->buckets = NULL;
    gs->bucket_count = gs->count = 0;
}

static struct group **slot_of(const struct groups *gs, struct slice id)
{
    return &gs->buckets[hash_bytes(id.data, id.len) & (gs->bucket_count - 1)];
}

struct group *group_find(struct groups *gs, struct slice id)
{
    if (gs->count == 0)
        return NULL;
    for (struct group *g = *slot_of(gs, id); g != NULL; g = g->next)
        if (slice_eq(slice_str(g->id), id))
            return g;
    return NULL;
}

static void grow(struct groups *gs)
{
    struct groups bigger = *gs;

    bigger.bucket_count = gs->bucket_count == 0 ? 8 : gs->bucket_count * 2;
    bigger.buckets = mem_calloc(bigger.bucket_count, sizeof(*bigger.buckets));
    for (uint32_t i = 0; i < gs->bucket_count; i++)
        for (struct group *g = gs->buckets[i], *next; g != NULL; g = next) {
            struct group **slot = slot_of(&bigger, slice_str(g->id));

            next = g->next;
            g->next = *slot;
            *slot = g;
        }
    mem_free(gs->buckets);
    *gs = bigger;
}

struct group *group_add(struct groups *gs, struct slice id)
{
    struct group *g = mem_zalloc(sizeof(*g)), **slot;

    if (gs->count >= gs->bucket_count)
        grow(gs);
    g->id = mem_strdup_slice(id);
    g->state = GROUP_EMPTY;
    g->empty_since_ms = -1;
    list_init(&g->members);
    list_init(&g->pending);
    slot = slot_of(gs, id);
    g->next = *slot;
    *slot = g;
    gs->count++;
    return g;
}

static void end_waits(struct groups *gs, struct group *g, enum group_error err)
{
    g->state = GROUP_DEAD;
    LIST_FOREACH (n, &g->members) {
        struct group_member *m = LIST_ENTRY(n, struct group_member, node);
        void *join = m->join_wait, *sync = m->sync_wait;

        m->join_wait = m->sync_wait = NULL;
        if (join != NULL)
            gs->ops->joined(join, g, NULL, err);
        if (sync != NULL)
            gs->ops->synced(sync, g, NULL, err);
    }
}

void groups_clear(struct groups *gs)
{
    for (uint32_t i = 0; i < gs->bucket_count; i++)
        for (struct group *g = gs->buckets[i], *next; g != NULL; g = next) {
            next = g->next;
            end_waits(gs, g, GROUP_ERR_MOVED);
        }
    groups_fini(gs);
}

void group_remove(struct groups *gs, struct group *g)
{
    end_waits(gs, g, GROUP_ERR_NOT_AVAILABLE);
    for (struct group **at = slot_of(gs, slice_str(g->id)); *at != NULL; at = &(*at)->next)
        if (*at == g) {
            *at = g->next;
            gs->count--;
            break;
        }
    group_free(g);
}

void groups_each(struct groups *gs, void (*fn)(struct group *g, void *arg), void *arg)
{
    for (uint32_t i = 0; i < gs->bucket_count; i++)
        for (struct group *g = gs->buckets[i], *next; g != NULL; g = next) {
            next = g->next;
            fn(g, arg);
        }
}

/* ---- members ------------------------------------------------------------------------------------------ */

struct slice group_member_id(const struct group_member *m)
{
    return slice_str(m->id);
}

void group_member_free(struct group_member *m)
{
    for (unsigned i = 0; i < m->protocol_count; i++) {
        mem_free(m->protocols[i].name);
        buf_fini(&m->protocols[i].metadata);
    }
    mem_free(m->protocols);
    buf_fini(&m->assignment);
    mem_free(m->id);
    mem_free(m->instance);
    mem_free(m->client_id);
    mem_free(m->client_host);
    mem_free(m);
}

void group_pending_free(struct group_pending *p)
{
    mem_free(p->id);
    mem_free(p);
}

struct group_member *group_member_find(const struct group *g, struct slice id)
{
    LIST_FOREACH (n, &g->members) {
        struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        if (slice_eq(slice_str(m->id), id))
            return m;
    }
    return NULL;
}

struct group_member *group_static_member(const struct group *g, struct slice instance)
{
    LIST_FOREACH (n, &g->members) {
        struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        if (m->instance != NULL && slice_eq(slice_str(m->instance), instance))
            return m;
    }
    return NULL;
}

struct slice group_member_metadata(const struct group *g, const struct group_member *m)
{
    for (unsigned i = 0; g->protocol != NULL && i < m->protocol_count; i++)
        if (strcmp(m->protocols[i].name, g->protocol) == 0)
            return buf_slice(&m->protocols[i].metadata);
    return slice_str("");
}

bool group_is_leader(const struct group *g, const struct group_member *m)
{
    return g->leader != NULL && strcmp(g->leader, m->id) == 0;
}

void group_session_restart(struct group_member *m, uint64_t now_ms)
{
    m->deadline_ms =
        now_ms + (m->is_new ? MAX_OF((uint32_t)m->session_timeout_ms, GROUP_NEW_MEMBER_JOIN_TIMEOUT_MS)
                            : (uint32_t)m->session_timeout_ms);
}

/* Who asks, by member id and, for a static member, its instance id: an instance taken over by another member
 * is fenced (KIP-345). */
enum group_error group_check_member(struct group *g, struct slice member_id, struct slice instance,
                                    struct group_member **ret)
{
    struct group_member *m;

    if (g->state == GROUP_DEAD)
        return GROUP_ERR_NOT_AVAILABLE;
    if (instance.data != NULL) {
        m = group_static_member(g, instance);
        if (m == NULL)
            return GROUP_ERR_UNKNOWN_MEMBER;
        if (!slice_eq(slice_str(m->id), member_id))
            return GROUP_ERR_FENCED_INSTANCE;
    } else {
        m = group_member_find(g, member_id);
        if (m == NULL)
            return GROUP_ERR_UNKNOWN_MEMBER;
    }
    *ret = m;
    return GROUP_OK;
}

void group_member_drop(struct groups *gs, struct group *g, struct group_member *m, uint64_t now_ms)
{
    void *join = m->join_wait, *sync = m->sync_wait;

    list_remove(&m->node);
    g->member_count--;
    g->changed = true;
    if (group_is_leader(g, m))
        group_set_text(&g->leader,
                       list_empty(&g->members)
                           ? SLICE_NONE
                           : slice_str(LIST_ENTRY(g->members.next, struct group_member, node)->id));
    group_member_free(m);
    if (join != NULL)
        gs->ops->joined(join, g, NULL, GROUP_ERR_UNKNOWN_MEMBER);
    if (sync != NULL)
        gs->ops->synced(sync, g, NULL, GROUP_ERR_UNKNOWN_MEMBER);
    if (g->state == GROUP_STABLE || g->state == GROUP_COMPLETING)
        group_prepare(gs, g, now_ms);
    else if (g->state == GROUP_PREPARING)
        group_try_complete_join(gs, g, now_ms);
}

/* ---- requests ----------------------------------------------------------------------------------------- */

static void answer_sync(struct groups *gs, struct group *g, struct group_member *m)
{
    void *wait = m->sync_wait;

    m->sync_wait = NULL;
    m->synced = true;
    if (wait != NULL)
        gs->ops->synced(wait, g, m, GROUP_OK);
}

/* The leader's assignment holds for everyone: members it leaves out get nothing. */
static void take_assignment(struct groups *gs, struct group *g, const struct group_sync *y, uint64_t now_ms)
{
    LIST_FOREACH (n, &g->members)
        buf_clear(&LIST_ENTRY(n, struct group_member, node)->assignment);
    for (unsigned i = 0; i < y->assignment_count; i++) {
        struct group_member *m = group_member_find(g, y->members[i]);

        if (m == NULL)
            continue;
        buf_clear(&m->assignment);
        buf_put_slice(&m->assignment, y->assignments[i]);
    }
    g->state = GROUP_STABLE;
    g->changed = true;
    LIST_FOREACH (n, &g->members) {
        struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        if (m->sync_wait == NULL)
            continue;
        group_session_restart(m, now_ms);
        answer_sync(gs, g, m);
    }
}

/* Members that have not synced when a group becomes Stable have until the sync deadline, set when the joining
 * phase ended. */
enum group_error group_sync(struct groups *gs, struct group *g, const struct group_sync *y, uint64_t now_ms)
{
    struct group_member *m;
    enum group_error err = group_check_member(g, y->member_id, y->instance, &m);

    if (err != GROUP_OK)
        return err;
    if (y->generation != g->generation)
        return GROUP_ERR_ILLEGAL_GENERATION;
    if (y->protocol_type.data != NULL &&
        (g->protocol_type == NULL || !slice_eq(y->protocol_type, slice_str(g->protocol_type))))
        return GROUP_ERR_INCONSISTENT_PROTOCOL;
    if (y->protocol.data != NULL && (g->protocol == NULL || !slice_eq(y->protocol, slice_str(g->protocol))))
        return GROUP_ERR_INCONSISTENT_PROTOCOL;
    switch (g->state) {
    case GROUP_EMPTY:
    case GROUP_DEAD:
        return GROUP_ERR_UNKNOWN_MEMBER;
    case GROUP_PREPARING:
        return GROUP_ERR_REBALANCING;
    case GROUP_COMPLETING:
        if (m->sync_wait != NULL) { /* sent again over another connection: the former is told to ask again */
            void *former = m->sync_wait;

            m->sync_wait = NULL;
            gs->ops->synced(former, g, NULL, GROUP_ERR_REBALANCING);
        }
        m->sync_wait = y->wait;
        m->synced = true;
        if (group_is_leader(g, m))
            take_assignment(gs, g, y, now_ms);
        return GROUP_OK;
    case GROUP_STABLE:
        m->sync_wait = y->wait;
        group_session_restart(m, now_ms);
        answer_sync(gs, g, m);
        return GROUP_OK;
    }
    UNREACHABLE();
}

enum group_error group_heartbeat(struct groups *gs, struct group *g, struct slice member_id,
                                 struct slice instance, int32_t generation, uint64_t now_ms)
{
    struct group_member *m;
    enum group_error err = group_check_member(g, member_id, instance, &m);

    (void)gs;
    if (err != GROUP_OK)
        return err;
    if (generation != g->generation)
        return GROUP_ERR_ILLEGAL_GENERATION;
    if (g->state == GROUP_EMPTY)
        return GROUP_ERR_UNKNOWN_MEMBER;
    group_session_restart(m, now_ms);
    return g->state == GROUP_PREPARING ? GROUP_ERR_REBALANCING : GROUP_OK;
}

enum group_error group_leave(struct groups *gs, struct group *g, struct slice member_id,
                             struct slice instance, uint64_t now_ms)
{
    struct group_member *m;

    if (g->state == GROUP_DEAD)
        return GROUP_ERR_NOT_AVAILABLE;
    if (instance.data != NULL) {
        m = group_static_member(g, instance);
        if (m == NULL)
            return GROUP_ERR_UNKNOWN_MEMBER;
        if (member_id.len != 0 && !slice_eq(slice_str(m->id), member_id))
            return GROUP_ERR_FENCED_INSTANCE;
    } else {
        LIST_FOREACH (n, &g->pending) {
            struct group_pending *p = LIST_ENTRY(n, struct group_pending, node);

            if (slice_eq(slice_str(p->id), member_id)) {
                list_remove(&p->node);
                group_pending_free(p);
                if (g->state == GROUP_PREPARING)
                    group_try_complete_join(gs, g, now_ms);
                return GROUP_OK;
            }
        }
        m = group_member_find(g, member_id);
        if (m == NULL)
            return GROUP_ERR_UNKNOWN_MEMBER;
    }
    group_member_drop(gs, g, m, now_ms);
    return GROUP_OK;
}

enum group_error group_may_commit(struct groups *gs, struct group *g, struct slice member_id,
                                  struct slice instance, int32_t generation, uint64_t now_ms)
{
    struct group_member *m;
    enum group_error err;

    (void)gs;
    if (g->state == GROUP_DEAD)
        return GROUP_ERR_NOT_AVAILABLE;
    if (generation < 0 &&
        g->state == GROUP_EMPTY) /* an administrator, or a consumer that only keeps its offsets here */
        return GROUP_OK;
    err = group_check_member(g, member_id, instance, &m);
    if (err != GROUP_OK)
        return err;
    if (generation != g->generation)
        return GROUP_ERR_ILLEGAL_GENERATION;
    if (g->state == GROUP_EMPTY)
        return GROUP_ERR_UNKNOWN_MEMBER;
    /* In PreparingRebalance a member still commits what it consumed; in CompletingRebalance its generation
     * has nothing yet. */
    group_session_restart(m, now_ms);
    return g->state == GROUP_COMPLETING ? GROUP_ERR_REBALANCING : GROUP_OK;
}

/* ---- deadlines ---------------------------------------------------------------------------------------- */

/* A member whose request waits for us is alive; one that is new has its own, longer deadline even then. */
static bool member_is_lost(const struct group *g, const struct group_member *m, uint64_t now_ms)
{
    if (m->join_wait != NULL)
        return m->is_new && now_ms >= m->deadline_ms && g->state == GROUP_PREPARING;
    return m->sync_wait == NULL && now_ms >= m->deadline_ms;
}

static void drop_lost_members(struct groups *gs, struct group *g, uint64_t now_ms)
{
    bool again = true;

    while (again) { /* dropping one may change every other */
        again = false;
        LIST_FOREACH (n, &g->members) {
            struct group_member *m = LIST_ENTRY(n, struct group_member, node);

            if (member_is_lost(g, m, now_ms)) {
                group_member_drop(gs, g, m, now_ms);
                again = true;
                break;
            }
        }
    }
}

static void drop_lost_pending(struct groups *gs, struct group *g, uint64_t now_ms)
{
    bool gone = false;

    LIST_FOREACH_SAFE (n, &g->pending) {
        struct group_pending *p = LIST_ENTRY(n, struct group_pending, node);

        if (now_ms >= p->deadline_ms) {
            list_remove(&p->node);
            group_pending_free(p);
            gone = true;
        }
    }
    if (gone && g->state == GROUP_PREPARING)
        group_try_complete_join(gs, g, now_ms);
}

/* Those that never sent SyncGroup are out, and the rest rebalances. */
static void sync_phase_is_over(struct groups *gs, struct group *g, uint64_t now_ms)
{
    bool again = true;

    g->sync_deadline_ms = 0;
    while (again && (g->state == GROUP_COMPLETING || g->state == GROUP_STABLE)) {
        again = false;
        LIST_FOREACH (n, &g->members) {
            struct group_member *m = LIST_ENTRY(n, struct group_member, node);

            if (!m->synced) {
                group_member_drop(gs, g, m, now_ms);
                again = true;
                break;
            }
        }
    }
}

void group_tick(struct groups *gs, struct group *g, uint64_t now_ms)
{
    drop_lost_pending(gs, g, now_ms);
    drop_lost_members(gs, g, now_ms);
    if (g->state == GROUP_PREPARING && now_ms >= g->join_deadline_ms)
        group_complete_join(gs, g, now_ms);
    if (g->sync_deadline_ms != 0 && now_ms >= g->sync_deadline_ms)
        sync_phase_is_over(gs, g, now_ms);
}

uint64_t group_deadline(const struct group *g)
{
    uint64_t at = UINT64_MAX;

    if (g->state == GROUP_PREPARING)
        at = g->join_deadline_ms;
    if (g->sync_deadline_ms != 0)
        at = MIN_OF(at, g->sync_deadline_ms);
    LIST_FOREACH (n, &g->members) {
        const struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        if ((m->join_wait == NULL && m->sync_wait == NULL) ||
            (m->is_new && m->join_wait != NULL && g->state == GROUP_PREPARING))
            at = MIN_OF(at, m->deadline_ms);
    }
    LIST_FOREACH (n, &g->pending)
        at = MIN_OF(at, LIST_ENTRY(n, struct group_pending, node)->deadline_ms);
    return at;
}

void group_forget_wait(struct group *g, void *wait)
{
    LIST_FOREACH (n, &g->members) {
        struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        if (m->join_wait == wait)
            m->join_wait = NULL;
        if (m->sync_wait == wait)
            m->sync_wait = NULL;
    }
}
