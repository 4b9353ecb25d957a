/* Changes of members, one server at a time (dissertation 4.1 to 4.3), and leadership transfer (3.10).
 *
 * Single-server changes are safe while majorities of the old and the new configuration overlap, hence one voter a change; and only if the change before is committed and the leader has
 * committed something in its own term: without that a deposed leader's half-done change could still win with disjoint majorities (the bug found in 2015). */
#include "cluster/raft/private.h"

static size_t find(const struct raft_member *v, size_t n, uint32_t id)
{
    size_t i = 0;

    while (i < n && v[i].node.id < id)
        i++;
    return i;
}

static int caught_up(struct raft *r, const struct raft_member *m)
{
    struct peer *p = raft_peer_exact(r, &m->node);

    if (p == NULL || p->heard_us + r->o.election_timeout_us < r->now)
        return ERR_AGAIN;
    return p->match + PROMOTE_LAG_MAX >= entries_last(&r->log) ? 0 : ERR_AGAIN;
}

static int add_learner(struct raft *r, struct raft_member *v, size_t *n, size_t at, bool exists, const struct raft_member *m)
{
    if (m->address.len > RAFT_ADDRESS_MAX || m->node.id == 0)
        return ERR_INVALID;
    if (exists && node_eq(&v[at].node, &m->node)) {
        if (slice_eq(v[at].address, m->address))
            return ERR_EXISTS;
        v[at].address = m->address;
        return 0;
    }
    if (m->node.id == r->o.self.id)
        return ERR_INVALID; /* this disk is here and alive */
    if (!exists) {
        if (*n == RAFT_MEMBERS_MAX)
            return ERR_LIMIT;
        memmove(v + at + 1, v + at, (*n - at) * sizeof(*v));
        (*n)++;
    }
    v[at] = *m;
    v[at].voter = false;
    return 0;
}

static int change_members(struct raft *r, uint8_t change, const struct raft_member *m, struct raft_member *v, size_t *n)
{
    static const uint8_t any[16];
    size_t at = find(v, *n, m->node.id);
    bool exists = at < *n && v[at].node.id == m->node.id;
    int err;

    if (change == RAFT_ADD_LEARNER)
        return add_learner(r, v, n, at, exists, m);
    if (!exists || (memcmp(m->node.uuid, any, 16) != 0 && !node_eq(&v[at].node, &m->node)))
        return ERR_NOT_FOUND;
    switch (change) {
    case RAFT_PROMOTE:
        if (v[at].voter)
            return ERR_EXISTS;
        err = caught_up(r, &v[at]);
        v[at].voter = true;
        return err;
    case RAFT_DEMOTE:
        if (!v[at].voter)
            return ERR_EXISTS;
        v[at].voter = false;
        return 0;
    case RAFT_REMOVE:
        memmove(v + at, v + at + 1, (*n - at - 1) * sizeof(*v));
        (*n)--;
        return 0;
    default:
        return ERR_INVALID;
    }
}

int change_propose(struct raft *r, uint8_t change, const struct raft_member *m)
{
    const struct config *c = configs_now(&r->configs);
    struct raft_member *v;
    struct buf b = {0};
    size_t n = c->n;
    bool voter = false;
    int err;

    if (r->role != RAFT_LEADER)
        return ERR_NOT_LEADER;
    if (RAFT_BUG != BUG_TWO_CHANGES && (c->index > r->commit || r->commit < r->term_start))
        return ERR_BUSY;
    if (r->transfer_to != 0)
        return ERR_BUSY;
    v = mem_calloc(n + 1, sizeof(*v));
    memcpy(v, c->members, n * sizeof(*v));
    err = change_members(r, change, m, v, &n);
    for (size_t i = 0; i < n; i++)
        voter |= v[i].voter;
    if (err == 0 && !voter)
        err = ERR_INVALID;
    if (err == 0) {
        raft_config_encode(v, n, &b);
        raft_append_entry(r, r->term, RAFT_ENTRY_CONFIG, buf_slice(&b));
    }
    buf_fini(&b);
    mem_free(v);
    return err;
}

/* ---- transfer -------------------------------------------------------------------------------------------------------- */

static struct peer *furthest_voter(struct raft *r)
{
    struct peer *best = NULL;

    for (size_t i = 0; i < r->peer_n; i++) {
        struct peer *p = &r->peers[i];

        if (p->voter && !node_eq(&p->node, &r->o.self) && (best == NULL || p->match > best->match))
            best = p;
    }
    return best;
}

int change_transfer(struct raft *r, uint32_t target)
{
    struct peer *p;

    if (r->role != RAFT_LEADER)
        return ERR_NOT_LEADER;
    if (r->transfer_to != 0)
        return ERR_BUSY;
    p = target == 0 ? furthest_voter(r) : raft_peer(r, target);
    if (p == NULL || !p->voter)
        return ERR_NOT_FOUND;
    if (node_eq(&p->node, &r->o.self))
        return 0;
    r->transfer_to = p->node.id;
    r->transfer_until = r->now + r->o.election_timeout_us;
    r->transfer_sent = false;
    replicate_to(r, p, false);
    change_transfer_step(r, p);
    return 0;
}

void change_transfer_step(struct raft *r, const struct peer *p)
{
    if (r->transfer_to != p->node.id || r->transfer_sent || p->match < entries_last(&r->log))
        return;
    raft_send(r, RAFT_MSG_TIMEOUT_NOW, &p->node);
    r->transfer_sent = true;
}

void change_transfer_tick(struct raft *r)
{
    if (r->transfer_to == 0 || r->now < r->transfer_until)
        return;
    r->transfer_to = 0; /* proposals go on here */
    r->transfer_failed = true;
}
