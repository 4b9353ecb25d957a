/* The follower's side of AppendEntries (Figure 2). An answer tells how far the log is durable and equal to the leader's; one is made a step, after the term is durable. */
#include "cluster/raft/private.h"

void follow_heard(struct raft *r, const struct raft_message *m)
{
    election_follow(r, m->term, &m->from);
    r->leader_heard_us = r->now;
    r->lonely = 0;
    r->leader_round = MAX_OF(r->leader_round, m->round);
    r->vote_due = false; /* that election is over */
    election_reset_timer(r);
}

/* Where the leader may try next: the last index whose term is not above that of the entry it wanted; skips a term a round trip instead of an entry (5.3). */
static void reject(struct raft *r, const struct raft_message *m)
{
    struct raft_message *a = raft_send(r, RAFT_MSG_APPEND_RESP, &m->from);
    uint64_t hint = MIN_OF(m->index - 1, entries_last(&r->log));

    while (hint > r->commit && entries_term(&r->log, hint) > m->index_term)
        hint--;
    a->index = m->index;
    a->hint = hint;
    a->hint_term = entries_term(&r->log, hint);
    a->round = r->leader_round;
    a->applied = r->applied;
}

/* Skips what is there already, drops what differs, appends the rest. */
static int take_entries(struct raft *r, uint64_t prev, const struct raft_entry *e, size_t n)
{
    size_t i = 0;

    while (i < n && prev + 1 + i <= entries_last(&r->log) && entries_term(&r->log, prev + 1 + i) == e[i].term)
        i++;
    if (i == n)
        return 0;
    if (prev + 1 + i <= entries_last(&r->log)) {
        if (prev + 1 + i <= r->commit)
            return raft_contradiction(r);
        raft_drop_from(r, prev + 1 + i);
    }
    for (; i < n; i++)
        raft_append_entry(r, e[i].term, e[i].kind, slice_of(e[i].data, e[i].len));
    return r->failed;
}

int follow_recv_append(struct raft *r, const struct raft_message *m)
{
    uint64_t prev = m->index, prev_term = m->index_term;
    const struct raft_entry *e = m->entries;
    size_t n = m->entry_count;
    int err;

    r->respond = true;
    if (r->installing)
        return 0; /* the log is about to be replaced */
    if (prev < r->log.base) {
        /* Below the log's start all is committed, hence equal. */
        size_t skip = (size_t)MIN_OF(r->log.base - prev, (uint64_t)n);

        e += skip;
        n -= skip;
        prev = r->log.base;
        prev_term = r->log.base_term;
        if (n == 0)
            return 0;
    }
    if (!entries_has(&r->log, prev, prev_term)) {
        if (prev <= r->commit)
            return raft_contradiction(r);
        r->respond = false;
        reject(r, m);
        return 0;
    }
    err = take_entries(r, prev, e, n);
    if (err < 0)
        return err;
    r->verified = MAX_OF(r->verified, prev + n);
    r->commit = MAX_OF(r->commit, MIN_OF(m->commit, r->verified));
    return 0;
}

/* Persist before send: the answer vouches for what the disk has, no more, and only in a term that the disk knows. */
void follow_respond(struct raft *r)
{
    struct raft_message *a;

    if (!r->respond || r->role != RAFT_FOLLOWER || r->leader == 0 || r->persisted_term != r->term)
        return;
    a = raft_send(r, RAFT_MSG_APPEND_RESP, &r->leader_node);
    a->granted = true;
    a->index = MIN_OF(r->persisted, r->verified);
    if (RAFT_BUG == BUG_COMMIT_BEFORE_STORE)
        a->index = r->verified;
    a->hint = r->verified;
    a->round = r->leader_round;
    a->applied = r->applied;
    r->respond = false;
}
