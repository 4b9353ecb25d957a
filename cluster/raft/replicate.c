/* The leader's side: a peer is probed until it is known where its log agrees, then entries are streamed to it with a window of unanswered messages, or it gets a snapshot.
 *
 *     PROBE      one message at a time; a rejection moves `next` back
 *     REPLICATE  `next` runs ahead of what is acknowledged; a rejection (something was lost) goes back to PROBE
 *     SNAPSHOT   the log it needs is gone; heartbeats only, until its match is within the log again
 *
 * A heartbeat is an APPEND at next-1: it also finds out that the last message was lost. */
#include "cluster/raft/private.h"

void replicate_peer_reset(struct raft *r, struct peer *p)
{
    p->granted = p->paused = false;
    p->state = PEER_PROBE;
    p->match = p->applied = p->commit_sent = 0;
    p->next = entries_last(&r->log) + 1;
    p->heard_us = r->now; /* the benefit of the doubt: one election timeout */
    p->round = 0;
    p->inflight_head = p->inflight_n = 0;
    p->snap_index = p->snap_offset = p->snap_sent_us = 0;
    p->lost_at = 0;
    p->lost = false;
}

void replicate_start(struct raft *r)
{
    for (size_t i = 0; i < r->peer_n; i++)
        replicate_peer_reset(r, &r->peers[i]);
    r->round = r->round_acked = 0;
    r->read_n = 0;
    r->transfer_to = 0;
    r->heartbeat_at = r->now + r->o.heartbeat_us;
    /* Entries of former terms are committed by this one (Figure 8); until then nothing is known of the commit index (6.4) and no change is allowed (4.2). */
    r->term_start = entries_last(&r->log) + 1;
    raft_append_entry(r, r->term, RAFT_ENTRY_NOOP, SLICE_NONE);
}

static void inflight_push(struct peer *p, uint64_t last)
{
    p->inflight[(p->inflight_head + p->inflight_n++) % WINDOW_MAX] = last;
}

static void inflight_free_to(struct peer *p, uint64_t match)
{
    while (p->inflight_n > 0 && p->inflight[p->inflight_head] <= match) {
        p->inflight_head = (p->inflight_head + 1) % WINDOW_MAX;
        p->inflight_n--;
    }
}

static void to_probe(struct peer *p, uint64_t next)
{
    p->state = PEER_PROBE;
    p->next = MAX_OF(next, p->match + 1);
    p->paused = false;
    p->inflight_head = p->inflight_n = 0;
}

static size_t count_entries(const struct raft *r, uint64_t from)
{
    size_t n = 0, bytes = 0;

    for (uint64_t i = from; i <= entries_last(&r->log); i++) {
        bytes += entries_at(&r->log, i)->len + 16;
        if (n > 0 && bytes > r->o.append_bytes_max)
            break;
        n++;
    }
    return n;
}

static bool silent(const struct raft *r, const struct peer *p)
{
    return p->heard_us + r->o.election_timeout_us < r->now;
}

static void send_append(struct raft *r, struct peer *p, size_t n)
{
    struct raft_message *m = raft_send(r, RAFT_MSG_APPEND, &p->node);

    m->index = p->next - 1;
    m->index_term = entries_term(&r->log, m->index);
    m->commit = r->commit;
    m->round = r->round;
    m->entry_count = n;
    if (n != 0)
        m->entries = entries_at(&r->log, p->next);
    p->commit_sent = r->commit;
}

/* To a peer that gets a snapshot: equal at index 0 in any case. */
static void send_bare_heartbeat(struct raft *r, struct peer *p)
{
    raft_send(r, RAFT_MSG_APPEND, &p->node)->round = r->round;
}

static bool needs_snapshot(struct raft *r, const struct peer *p)
{
    if (p->next <= r->log.base)
        return true;
    /* Versions before the bus wrote entries that no message can carry. */
    return p->next <= entries_last(&r->log) && entries_at(&r->log, p->next)->len > RAFT_PROPOSAL_MAX;
}

void replicate_to(struct raft *r, struct peer *p, bool heartbeat)
{
    if (node_eq(&p->node, &r->o.self))
        return;
    if (p->state != PEER_SNAPSHOT && needs_snapshot(r, p)) {
        if (r->snap.s.index < p->next)
            return; /* the host has yet to make one */
        p->state = PEER_SNAPSHOT;
        p->snap_index = 0;
    }
    if (p->state == PEER_SNAPSHOT) {
        if (heartbeat)
            send_bare_heartbeat(r, p);
        snapshot_send(r, p, false);
        return;
    }
    if (p->state == PEER_PROBE) {
        if (p->paused && !heartbeat)
            return;
        send_append(r, p, silent(r, p) ? 0 : count_entries(r, p->next));
        p->paused = true;
        return;
    }
    for (;;) {
        size_t n = p->inflight_n < r->o.window ? count_entries(r, p->next) : 0;

        if (n == 0 && !heartbeat && p->commit_sent >= r->commit)
            return;
        send_append(r, p, n);
        if (n == 0)
            return;
        p->next += n;
        inflight_push(p, p->next - 1);
        heartbeat = false;
    }
}

void replicate_all(struct raft *r, bool heartbeat)
{
    for (size_t i = 0; i < r->peer_n; i++)
        replicate_to(r, &r->peers[i], heartbeat);
}

/* Check quorum (6.2): a leader that has not heard from a majority for an election timeout is none. */
static bool has_quorum(const struct raft *r)
{
    size_t n = 0;

    for (size_t i = 0; i < r->peer_n; i++) {
        const struct peer *p = &r->peers[i];

        n += p->voter && (node_eq(&p->node, &r->o.self) || !silent(r, p));
    }
    return n >= raft_quorum(r);
}

void replicate_tick(struct raft *r)
{
    change_transfer_tick(r);
    if (r->now < r->heartbeat_at)
        return;
    if (!has_quorum(r)) {
        election_follow(r, r->term, NULL);
        return;
    }
    r->heartbeat_at = r->now + r->o.heartbeat_us;
    replicate_all(r, true);
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

/* "I have no such entry", of one it vouched for. Once that is a message that was long under way; over an election timeout, with nothing granted in between, it is a follower that forgot. */
static void denied(struct raft *r, struct peer *p)
{
    if (p->lost_at == 0)
        p->lost_at = r->now;
    else if (r->now - p->lost_at > r->o.election_timeout_us)
        p->lost = true;
}

static void rejected(struct raft *r, struct peer *p, const struct raft_message *m)
{
    uint64_t next;

    if (p->state == PEER_SNAPSHOT)
        return; /* an old one */
    if (m->index <= p->match) {
        denied(r, p);
        return;
    }
    if (p->state == PEER_PROBE && m->index != p->next - 1)
        return;
    next = MIN_OF(m->hint, m->index - 1);
    /* Where the terms differ, this log's last entry of a term not above the follower's is the first that can agree. */
    while (next > p->match && next > r->log.base && next <= entries_last(&r->log) && entries_term(&r->log, next) > m->hint_term)
        next--;
    to_probe(p, next + 1);
}

static void granted(struct raft *r, struct peer *p, const struct raft_message *m)
{
    if (m->index > entries_last(&r->log) || m->hint > entries_last(&r->log)) {
        raft_contradiction(r); /* it vouches for what this leader never wrote */
        return;
    }
    p->lost_at = 0;
    p->lost = false;
    if (m->index > p->match) {
        p->match = m->index;
        r->progress = true;
    }
    inflight_free_to(p, p->match);
    if (p->state == PEER_SNAPSHOT) {
        if (p->match < r->log.base) {
            if (p->match >= p->snap_index)
                p->snap_index = 0; /* it has what it was sent, and meanwhile the log moved on: the next one */
            return;
        }
        to_probe(p, p->match + 1);
    }
    if (p->state == PEER_PROBE) {
        /* `hint` says how far the logs are equal, whichever message this answers. */
        p->next = MAX_OF(m->hint, p->match) + 1;
        if (p->next > r->log.base) {
            p->state = PEER_REPLICATE;
            p->paused = false;
        }
    }
    p->next = MAX_OF(p->next, p->match + 1);
}

void replicate_recv(struct raft *r, const struct raft_message *m)
{
    struct peer *p = raft_peer_exact(r, &m->from);

    if (p == NULL)
        return;
    p->heard_us = r->now;
    p->round = MAX_OF(p->round, MIN_OF(m->round, r->round));
    if (m->applied > p->applied) {
        p->applied = m->applied;
        r->progress = true;
    }
    if (m->granted)
        granted(r, p, m);
    else
        rejected(r, p, m);
    if (r->failed < 0)
        return;
    change_transfer_step(r, p);
    replicate_to(r, p, false);
    replicate_commit(r);
    if (r->role == RAFT_LEADER)
        read_advance(r);
}

/* ---- commit --------------------------------------------------------------------------------------------------------- */

static uint64_t match_of(const struct raft *r, const struct peer *p)
{
    if (!node_eq(&p->node, &r->o.self))
        return p->match;
    /* The leader's own vote counts once its disk has the entry. */
    return RAFT_BUG == BUG_COMMIT_BEFORE_STORE ? entries_last(&r->log) : r->persisted;
}

void replicate_commit(struct raft *r)
{
    uint64_t n = raft_majority_of(r, match_of);
    const struct config *c = configs_now(&r->configs);

    if (n <= r->commit || (entries_term(&r->log, n) != r->term && RAFT_BUG != BUG_COMMIT_OLD_TERM))
        return;
    r->commit = n;
    r->verified = n;
    replicate_all(r, false); /* followers apply at once, not at the next heartbeat (rule 17 waits for them) */
    /* A leader that was removed has led until its removal was committed (4.2.2). */
    if (c->index <= r->commit && !raft_is_voter(r))
        election_follow(r, r->term, NULL);
    else
        read_advance(r);
}
