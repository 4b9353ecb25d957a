/* ReadIndex (dissertation 6.4): the commit index may be read once a majority has answered a round that began after the read did, in a term of which an entry is committed.
 * Rounds are numbered and ride on APPEND; reads that come while one is under way share the next. */
#include "cluster/raft/private.h"

static void answer(struct raft *r, uint64_t ctx, int err)
{
    if (r->answer_n == r->answer_cap) {
        r->answer_cap = r->answer_cap == 0 ? 16 : 2 * r->answer_cap;
        r->answers = mem_realloc(r->answers, r->answer_cap * sizeof(*r->answers));
    }
    r->answers[r->answer_n++] = (struct raft_read_answer){ctx, err < 0 ? 0 : r->commit, err};
}

static uint64_t round_of(const struct raft *r, const struct peer *p)
{
    return node_eq(&p->node, &r->o.self) ? r->round : p->round;
}

void read_advance(struct raft *r)
{
    size_t k = 0;

    if (r->commit < r->term_start)
        return;
    for (;;) {
        r->round_acked = raft_majority_of(r, round_of);
        while (k < r->read_n && r->reads[k].round <= r->round_acked)
            answer(r, r->reads[k++].ctx, 0);
        if (k == r->read_n || r->reads[k].round <= r->round || r->round_acked < r->round)
            break;
        r->round++;
        replicate_all(r, true);
    }
    if (k != 0)
        memmove(r->reads, r->reads + k, (r->read_n - k) * sizeof(*r->reads));
    r->read_n -= k;
}

int read_begin(struct raft *r, uint64_t ctx)
{
    if (r->role != RAFT_LEADER)
        return ERR_NOT_LEADER;
    if (RAFT_BUG == BUG_STALE_READ) {
        answer(r, ctx, 0);
        return 0;
    }
    if (r->read_n == r->read_cap) {
        r->read_cap = r->read_cap == 0 ? 16 : 2 * r->read_cap;
        r->reads = mem_realloc(r->reads, r->read_cap * sizeof(*r->reads));
    }
    r->reads[r->read_n++] = (struct pending_read){ctx, r->round + 1};
    read_advance(r);
    return 0;
}

void read_fail_all(struct raft *r)
{
    for (size_t i = 0; i < r->read_n; i++)
        answer(r, r->reads[i].ctx, ERR_NOT_LEADER);
    r->read_n = 0;
}
