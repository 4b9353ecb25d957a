#include "cluster/topology/voters_plan.h"

static const struct voter_candidate *first(const struct voter_candidate *m, unsigned n, bool (*fits)(const struct voter_candidate *, uint64_t), uint64_t arg)
{
    for (unsigned i = 0; i < n; i++) {
        if (fits(&m[i], arg))
            return &m[i];
    }
    return 0;
}

static bool may_vote(const struct voter_candidate *c, uint64_t unused)
{
    (void)unused;
    return !c->voter && c->known && c->alive;
}

static bool is_away(const struct voter_candidate *c, uint64_t replace_after_us)
{
    return c->voter && !c->alive && c->away_us >= replace_after_us;
}

static bool is_removed(const struct voter_candidate *c, uint64_t self)
{
    return c->registered && !c->known && c->id != self;
}

enum voter_change voters_plan(const struct voter_candidate *members, unsigned n, uint32_t self, uint64_t replace_after_us, uint32_t *ret_id)
{
    const struct voter_candidate *next = first(members, n, may_vote, 0), *away = first(members, n, is_away, replace_after_us);
    const struct voter_candidate *gone = first(members, n, is_removed, self);
    unsigned voters = 0, nodes = 0, wanted;

    for (unsigned i = 0; i < n; i++) {
        nodes += members[i].known;
        voters += members[i].voter;
    }
    wanted = nodes >= 5 ? 5 : nodes >= 3 ? 3 : nodes;
    if (gone != 0) {
        *ret_id = gone->id;
        return VOTERS_REMOVE;
    }
    /* A replacement votes before the one that is away stops to: the majority needed grows by none, since three of four is what two of three and one more are. */
    if (next != 0 && (voters < wanted || (away != 0 && voters == wanted))) {
        *ret_id = next->id;
        return VOTERS_PROMOTE;
    }
    for (unsigned i = n; voters > wanted && away == 0 && i > 0; i--) {
        if (members[i - 1].voter && members[i - 1].id != self)
            away = &members[i - 1]; /* it came back after it was replaced */
    }
    if (voters > wanted && away != 0) {
        *ret_id = away->id;
        return VOTERS_DEMOTE;
    }
    return VOTERS_KEEP;
}
