/* Snapshots to followers whose log this leader no longer has (dissertation 5.3): pieces of the payload, one at a time, each answered with the offset wanted next, so that a transfer
 * resumes where it was after a cut. Index, term, size and CRC name a snapshot; pieces of another one begin anew. */
#include "cluster/raft/private.h"

void snap_set(struct snap *to, const struct raft_snapshot *s)
{
    struct buf config = {0};

    buf_put_slice(&config, s->config);
    buf_fini(&to->config);
    to->s = *s;
    to->config = config;
    to->s.config = buf_slice(&to->config);
}

/* ---- sending -------------------------------------------------------------------------------------------------------- */

/* The snapshot this peer is being sent: one that was begun is finished although a newer one may exist. */
static const struct raft_snapshot *of_peer(struct raft *r, struct peer *p)
{
    if (p->snap_index != 0 && p->snap_index == r->former.s.index)
        return &r->former.s;
    if (p->snap_index == 0 || p->snap_index != r->snap.s.index) {
        p->snap_index = r->snap.s.index;
        p->snap_offset = p->snap_sent_us = 0;
    }
    return &r->snap.s;
}

void snapshot_send(struct raft *r, struct peer *p, bool again)
{
    const struct raft_snapshot *s = of_peer(r, p);
    struct raft_message *m;

    /* One piece is under way; a lost one is sent again after a while. */
    if (p->snap_sent_us != 0 && !again && r->now < p->snap_sent_us + r->o.election_timeout_us)
        return;
    m = raft_send(r, RAFT_MSG_SNAPSHOT, &p->node);
    m->round = r->round;
    m->snapshot = *s;
    m->offset = p->snap_offset;
    m->chunk = (size_t)MIN_OF((uint64_t)r->o.chunk_bytes, s->size - p->snap_offset);
    p->snap_sent_us = MAX_OF(r->now, 1u);
}

void snapshot_recv_answer(struct raft *r, const struct raft_message *m)
{
    struct peer *p = raft_peer_exact(r, &m->from);
    const struct raft_snapshot *s;

    if (p == NULL)
        return;
    p->heard_us = r->now;
    p->round = MAX_OF(p->round, MIN_OF(m->round, r->round));
    read_advance(r);
    if (p->state != PEER_SNAPSHOT)
        return;
    s = of_peer(r, p);
    if (m->snapshot.index != s->index || m->snapshot.term != s->term || m->offset > s->size || m->offset == p->snap_offset)
        return;
    p->snap_offset = m->offset;
    if (m->offset < s->size)
        snapshot_send(r, p, true);
    else
        p->snap_sent_us = MAX_OF(r->now, 1u); /* it makes it durable; an APPEND_RESP will tell */
}

void snapshot_saved(struct raft *r, const struct raft_snapshot *s, uint64_t log_first)
{
    if (s->index <= r->snap.s.index)
        return;
    CHECK(s->index <= r->commit && log_first > r->log.base && log_first <= s->index + 1);
    buf_fini(&r->former.config);
    r->former = r->snap;
    r->former.s.config = buf_slice(&r->former.config);
    r->snap = (struct snap){0};
    snap_set(&r->snap, s);
    entries_drop_below(&r->log, log_first);
    configs_drop_below(&r->configs, s->index);
}

/* ---- receiving -------------------------------------------------------------------------------------------------------- */

static bool same(const struct raft_snapshot *a, const struct raft_snapshot *b)
{
    return a->index == b->index && a->term == b->term && a->size == b->size && a->crc == b->crc;
}

static void want(struct raft *r, const struct raft_snapshot *s, uint64_t offset)
{
    struct raft_message *a = raft_send(r, RAFT_MSG_SNAPSHOT_RESP, &r->leader_node);

    a->snapshot.index = s->index;
    a->snapshot.term = s->term;
    a->offset = offset;
    a->round = r->leader_round;
}

int snapshot_recv(struct raft *r, const struct raft_message *m)
{
    const struct raft_snapshot *s = &m->snapshot;

    if (r->installing) {
        if (same(s, &r->recv.s))
            want(r, s, s->size);
        return 0;
    }
    if (s->index <= r->commit || entries_has(&r->log, s->index, s->term)) {
        /* Committed there, hence here: the log has it all. */
        r->verified = MAX_OF(r->verified, s->index);
        r->commit = MAX_OF(r->commit, s->index);
        r->respond = true;
        return 0;
    }
    if (!same(s, &r->recv.s)) {
        snap_set(&r->recv, s);
        r->recv_offset = 0;
    }
    if (m->offset == r->recv_offset) {
        r->recv_offset += m->data.len;
        r->installing = r->recv_offset == s->size;
        r->chunk = (struct raft_chunk){r->recv.s, m->offset, m->data, r->installing};
        r->have_chunk = true;
    }
    want(r, s, r->recv_offset);
    return 0;
}

void snapshot_installed(struct raft *r, const struct raft_snapshot *s, int err)
{
    if (!r->installing || !same(s, &r->recv.s))
        return;
    r->installing = false;
    r->recv_offset = 0;
    if (err < 0) {
        /* Not asked for at once: if it is damaged where it comes from, that would never end. The leader asks after an election timeout. */
        r->recv.s = (struct raft_snapshot){0};
        return;
    }
    CHECK(s->index > r->commit);
    snap_set(&r->snap, &r->recv.s);
    r->recv.s = (struct raft_snapshot){0};
    entries_reset(&r->log, r->snap.s.index, r->snap.s.term);
    configs_truncate(&r->configs, 0);
    if (r->snap.s.config.len != 0 && configs_push(&r->configs, r->snap.s.index, r->snap.s.config) < 0) {
        raft_contradiction(r);
        return;
    }
    raft_peers_rebuild(r);
    r->commit = r->persisted = r->snap.s.index; /* applied is what the host says */
    r->verified = MAX_OF(r->verified, r->snap.s.index);
    for (size_t i = 0; i < r->out_n; i++)
        r->out[r->out_head + i].last = r->persisted;
    r->respond = true;
}
