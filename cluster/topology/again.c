/* Proposals that are asked for again (rule 17's "exactly once", within a term). A forwarded proposal whose answer was lost with its connection may be in the leader's log, may be on its way still, or may have come to nothing; its
 * proposer asks again, by PROPOSE_AGAIN with the same bytes, and the leader appends it unless it has. Then the first request may arrive after all: so the marks of those that were asked for again are kept for the rest of the term, and
 * nothing that bears one is appended a second time. There are few of them: one for each connection that was lost at the wrong moment. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/private.h"

enum { AGAIN_MAX = 65536 };

struct again_mark {
    uint8_t mark[ENVELOPE_SIZE];
};

void again_forget(struct topology_store *t)
{
    mem_free(t->again);
    t->again = NULL;
    t->again_count = t->again_cap = 0;
}

static bool was_asked_again(const struct topology_store *t, struct slice marked)
{
    for (size_t i = 0; i < t->again_count; i++) {
        if (memcmp(t->again[i].mark, marked.data, ENVELOPE_SIZE) == 0)
            return true;
    }
    return false;
}

/* 1: it is in this term's log; 0: it is not; ERR_AGAIN: the log does not reach back to the beginning of the term any more. */
static int find_in_log(const struct topology_store *t, struct slice marked)
{
    uint64_t term = raft_current_term(t->raft), i = raft_last_index(t->raft);
    struct raft_entry e;

    for (; raft_entry(t->raft, i, &e); i--) {
        if (e.term != term)
            return 0;
        if (e.kind == RAFT_ENTRY_COMMAND && e.len >= ENVELOPE_SIZE && memcmp(e.data, marked.data, ENVELOPE_SIZE) == 0)
            return 1;
    }
    return i != 0 && raft_term_at(t->raft, i) == term ? ERR_AGAIN : 0;
}

int again_judge(struct topology_store *t, struct slice marked, bool again)
{
    uint64_t term = raft_current_term(t->raft);
    int found;

    if (t->again_term != term)
        again_forget(t);
    t->again_term = term;
    if (was_asked_again(t, marked))
        return 1;
    if (!again)
        return 0;
    found = find_in_log(t, marked);
    for (const struct remote_proposal *r = t->remote_head; r != NULL && found == 0; r = r->next)
        found = memcmp(r->bytes.data, marked.data, ENVELOPE_SIZE) == 0;
    if (found < 0 || t->again_count == AGAIN_MAX)
        return ERR_AGAIN;
    if (t->again_count == t->again_cap) {
        t->again_cap = t->again_cap == 0 ? 16 : 2 * t->again_cap;
        t->again = mem_realloc(t->again, t->again_cap * sizeof(t->again[0]));
    }
    memcpy(t->again[t->again_count++].mark, marked.data, ENVELOPE_SIZE);
    return found;
}
