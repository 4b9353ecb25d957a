/* Timers, roles and votes: pre-vote (dissertation 9.6), leader stickiness (4.2.3), elections (3.4).
 *
 * Life of a term here: follower -> pre-candidate (asks whether it would be elected; no term is spent) -> candidate (new term and own vote on disk, then it asks) -> leader. */
#include "cluster/raft/private.h"

void election_reset_timer(struct raft *r)
{
    r->election_at = r->now + r->o.election_timeout_us + rand_below(&r->rand, r->o.election_timeout_us);
}

/* Whoever hears a leader does not help to depose it, whatever the term: a node that comes back from a cut or was removed cannot disturb (4.2.3). */
bool election_sticky(const struct raft *r)
{
    if (r->role == RAFT_LEADER)
        return true;
    return r->leader != 0 && r->now < r->leader_heard_us + r->o.election_timeout_us;
}

static void forget_leader(struct raft *r)
{
    r->leader = 0;
    r->leader_node = (struct raft_node){0};
    r->leader_heard_us = 0;
    r->leader_round = 0;
    r->respond = false;
}

void election_follow(struct raft *r, uint64_t term, const struct raft_node *leader)
{
    CHECK(term >= r->term);
    if (r->role == RAFT_LEADER) {
        read_fail_all(r);
        r->transfer_to = 0;
    }
    if (r->role != RAFT_FOLLOWER) {
        r->role = RAFT_FOLLOWER;
        election_reset_timer(r);
    }
    if (term > r->term) {
        r->term = term;
        r->vote = (struct raft_node){0};
        r->vote_changed = true;
        r->vote_due = false;
        forget_leader(r);
        r->verified = r->commit;
    }
    if (leader == NULL) {
        forget_leader(r);
    } else if (!node_eq(&r->leader_node, leader)) {
        forget_leader(r);
        r->leader = leader->id;
        r->leader_node = *leader;
        /* What is committed is in every later leader's log; of the rest nothing is known (Figure 3, leader completeness). */
        r->verified = r->commit;
    }
}

static bool log_is_current(const struct raft *r, uint64_t index, uint64_t term)
{
    uint64_t own = entries_last_term(&r->log);

    return term > own || (term == own && index >= entries_last(&r->log));
}

static void ask(struct raft *r, uint8_t type, uint64_t term)
{
    for (size_t i = 0; i < r->peer_n; i++) {
        struct raft_message *m;

        if (!r->peers[i].voter || node_eq(&r->peers[i].node, &r->o.self))
            continue;
        m = raft_send(r, type, &r->peers[i].node);
        m->term = term;
        m->index = entries_last(&r->log);
        m->index_term = entries_last_term(&r->log);
        m->transfer = r->by_transfer;
    }
}

static void clear_grants(struct raft *r)
{
    for (size_t i = 0; i < r->peer_n; i++)
        r->peers[i].granted = false;
}

static bool elected(const struct raft *r)
{
    size_t n = 0;

    for (size_t i = 0; i < r->peer_n; i++)
        n += r->peers[i].voter && r->peers[i].granted;
    return n >= raft_quorum(r);
}

static void become_leader(struct raft *r)
{
    r->role = RAFT_LEADER;
    forget_leader(r);
    r->leader = r->o.self.id;
    r->leader_node = r->o.self;
    replicate_start(r);
}

static void become_candidate(struct raft *r)
{
    r->role = RAFT_CANDIDATE;
    forget_leader(r);
    r->term++;
    r->vote = r->o.self;
    r->vote_changed = true;
    r->vote_due = false;
    r->asked = false;
    clear_grants(r);
    election_reset_timer(r);
    /* Asking waits for the disk: had this node asked first and forgotten the term in a crash, it could win the same term twice, with different logs. */
}

/* A voter of the configuration in force, or of one that may yet return: whoever was removed by an entry that is not committed may be the only one whose log is long enough to
 * lead the group that removes it (4.2.2). It does not count its own vote then.
 *
 * A learner may, as a last resort: it can hold the newest log of all whose disks are left, and no voter could win against it. Who leads matters nothing for safety, whose votes count does.
 * It gives the leadership back with the first entry it commits. */
static bool may_campaign(const struct raft *r)
{
    if (r->lonely >= LONELY && raft_peer_exact((struct raft *)r, &r->o.self) != NULL)
        return true;
    for (size_t i = r->configs.n; i > 0; i--) {
        const struct config *c = &r->configs.v[i - 1];

        for (size_t k = 0; k < c->n; k++) {
            if (c->members[k].voter && node_eq(&c->members[k].node, &r->o.self))
                return true;
        }
        if (c->index <= r->commit)
            return false;
    }
    return false;
}

void election_campaign(struct raft *r, bool transfer)
{
    struct peer *self = raft_peer_exact(r, &r->o.self);

    if (!may_campaign(r) || r->installing)
        return;
    r->by_transfer = transfer;
    clear_grants(r);
    if (transfer || (raft_quorum(r) == 1 && raft_is_voter(r))) {
        become_candidate(r);
        return;
    }
    r->role = RAFT_PRE_CANDIDATE;
    forget_leader(r);
    if (self != NULL)
        self->granted = true;
    election_reset_timer(r);
    ask(r, RAFT_MSG_PRE_VOTE, r->term + 1);
}

void election_tick(struct raft *r)
{
    if (r->now < r->election_at)
        return;
    r->lonely++;
    /* Learners, strangers and who is about to exchange its log for a snapshot wait for a leader. */
    if (!may_campaign(r) || r->installing) {
        election_follow(r, r->term, NULL);
        election_reset_timer(r);
        return;
    }
    election_campaign(r, false);
}

/* A hint for liveness alone: being wrong costs a pre-vote that whoever hears the leader refuses. A little chance keeps the followers from standing against each other. */
void election_leader_gone(struct raft *r, uint32_t id)
{
    if (r->role != RAFT_FOLLOWER || r->leader != id || id == 0)
        return;
    forget_leader(r);
    uint64_t soon = r->now + rand_below(&r->rand, 2 * r->o.heartbeat_us);

    r->election_at = MIN_OF(r->election_at, soon);
}

static bool own_vote_durable(const struct raft *r)
{
    return r->persisted_term == r->term && node_eq(&r->persisted_vote, &r->vote);
}

static void send_grant(struct raft *r)
{
    raft_send(r, RAFT_MSG_VOTE_RESP, &r->vote)->granted = true;
    r->vote_due = false;
}

void election_persisted(struct raft *r)
{
    if (!own_vote_durable(r))
        return;
    if (r->vote_due)
        send_grant(r);
    if (r->role != RAFT_CANDIDATE || r->asked)
        return;
    struct peer *self = raft_peer_exact(r, &r->o.self);

    r->asked = true;
    if (self != NULL)
        self->granted = true;
    if (elected(r))
        become_leader(r);
    else
        ask(r, RAFT_MSG_VOTE, r->term);
}

static void recv_pre_vote(struct raft *r, const struct raft_message *m)
{
    bool grant = m->term > r->term && !election_sticky(r) && log_is_current(r, m->index, m->index_term);
    struct raft_message *a = raft_send(r, RAFT_MSG_PRE_VOTE_RESP, &m->from);

    a->granted = grant;
    if (grant)
        a->term = m->term;
}

void election_recv_request(struct raft *r, const struct raft_message *m, bool pre)
{
    if (pre) {
        recv_pre_vote(r, m);
        return;
    }
    if (m->term > r->term) {
        if (election_sticky(r) && !m->transfer)
            return;
        election_follow(r, m->term, NULL);
    }
    bool free_vote = r->vote.id == 0 || node_eq(&r->vote, &m->from);

    if (m->term < r->term || r->leader != 0 || !free_vote || !log_is_current(r, m->index, m->index_term)) {
        raft_send(r, RAFT_MSG_VOTE_RESP, &m->from);
        return;
    }
    if (r->vote.id == 0) {
        r->vote = m->from;
        r->vote_changed = true;
    }
    election_follow(r, r->term, NULL); /* a pre-candidate waits now */
    election_reset_timer(r);
    r->vote_due = true;
    if (own_vote_durable(r) || RAFT_BUG == BUG_VOTE_NOT_PERSISTED)
        send_grant(r);
}

void election_recv_answer(struct raft *r, const struct raft_message *m, bool pre)
{
    struct peer *p = raft_peer_exact(r, &m->from);
    uint64_t awaited = pre ? r->term + 1 : r->term;

    if (!m->granted) {
        if (m->term > r->term)
            election_follow(r, m->term, NULL);
        return;
    }
    if (p == NULL || m->term != awaited || r->role != (pre ? RAFT_PRE_CANDIDATE : RAFT_CANDIDATE) || (!pre && !r->asked))
        return;
    p->granted = true;
    if (!elected(r))
        return;
    if (pre)
        become_candidate(r);
    else
        become_leader(r);
}
