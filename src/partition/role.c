/* What this node is to a partition, and the node's lease.
 *
 * Roles are stepped by cluster/replicate, one step at a time a partition, on a background thread under the partition's lock; who enters looks at role and lease with one branch on a node alone. */
#include "base/clock.h"
#include "kv/snapshot.h"
#include "partition/private.h"

/* From the row's role to the column's. The same role again is a new epoch. */
static const bool allowed[5][5] = {
    /*                      NONE   FOLLOWER OPENING LEADER PARKED */
    [PARTITION_NONE] =     {true,  true,    true,   false, false},
    [PARTITION_FOLLOWER] = {true,  true,    true,   false, false},
    [PARTITION_OPENING] =  {true,  true,    true,   true,  false},
    [PARTITION_LEADER] =   {true,  true,    true,   true,  true},
    [PARTITION_PARKED] =   {true,  true,    true,   true,  true},
};

static const char *const names[] = {"none", "follower", "opening", "leader", "parked"};

const char *partition_role_name(enum partition_role role)
{
    return names[role];
}

enum partition_role partition_role(const struct partition *p)
{
    return (enum partition_role)ALOAD(&p->role);
}

int32_t partition_epoch(const struct partition *p)
{
    return ALOAD(&p->epoch);
}

/* What was promised to wait in this partition's logs is not known to be done; the queues forget their memory, which belongs to the leader. */
static void stop_leading(struct partition *p)
{
    ASTORE(&p->applied, log_end(p->main));
    log_fail_commits(p->main, ERR_NOT_LEADER);
    partition_queues_close(&p->queues);
    kv_snapshot_restart(p->kv);
}

void partition_set_role(struct partition *p, enum partition_role role, int32_t epoch) NO_THREAD_SAFETY_ANALYSIS
{
    enum partition_role from;

    partition_lock_background(p);
    from = (enum partition_role)ALOADX(&p->role);
    CHECK(allowed[from][role]);
    CHECK(epoch >= ALOADX(&p->epoch));
    ASTORE(&p->epoch, epoch);
    if (from < PARTITION_LEADER && role >= PARTITION_OPENING)
        partition_note_time(p); /* others wrote the log so far */
    ASTORE(&p->role, (uint32_t)role);
    if (from >= PARTITION_LEADER && role < PARTITION_LEADER)
        stop_leading(p);
    else if (role == PARTITION_OPENING)
        partition_queues_close(&p->queues); /* whatever was opened to be looked at: it knows nothing of what was appended since */
    partition_unlock(p);
    if (from == PARTITION_PARKED || role != PARTITION_PARKED)
        partition_unpark_all(p);
}

int partition_admit_slow(struct partition *p, struct partition_park *park)
{
    switch (ALOAD(&p->state)) {
    case PARTITION_OPEN:
        break;
    case PARTITION_FAILED:
        /* Who leads can serve, whatever became of this copy. */
        return ALOAD(&p->role) < PARTITION_OPENING ? ERR_NOT_LEADER : ALOAD(&p->error);
    default:
        return ERR_AGAIN;
    }
    switch (ALOAD(&p->role)) {
    case PARTITION_LEADER:
        return partition_still_leased(p);
    case PARTITION_PARKED:
        if (park == NULL)
            return ERR_BUSY;
        partition_park_here(p, park);
        return ERR_PARKED;
    case PARTITION_OPENING:
        return ERR_AGAIN;
    default:
        return ERR_NOT_LEADER;
    }
}

/* A follower shows what it has applied, which is below the high watermark (rule 2); a former leader's memory may hold more until it is rebuilt, a fuzzy snapshot's less than it needs to be consistent. */
int partition_stale_refusal(const struct partition *p)
{
    int64_t applied = ALOAD(&p->applied);

    switch (ALOAD(&p->role)) {
    case PARTITION_LEADER:
        return 0; /* without a lease too: stale reads were asked for */
    case PARTITION_FOLLOWER:
        return applied >= ALOADX(&p->stale_from) && applied <= log_hw(p->main) ? 0 : ERR_AGAIN;
    case PARTITION_NONE:
        return ERR_NOT_LEADER;
    default:
        return ERR_AGAIN;
    }
}

void partitions_set_lease(struct partitions *ps, uint64_t until_us)
{
    bool leased = until_us != UINT64_MAX;

    ASTORE(&ps->lease_until_us, until_us);
    if (ps->o.count != 0 && ALOADX(&ps->all[0].leased) != leased) {
        for (uint32_t i = 0; i < ps->o.count; i++)
            __atomic_store_n(&ps->all[i].leased, leased, __ATOMIC_SEQ_CST);
    }
}

bool partitions_lease_ok(const struct partitions *ps)
{
    uint64_t until = ALOAD(&ps->lease_until_us);

    return until == UINT64_MAX || clock_boot_us() < until;
}

bool partitions_lease_over(const struct partitions *ps)
{
    return ALOAD(&ps->lease_until_us) != 0 && !partitions_lease_ok(ps);
}

bool partition_quorum_ok(const struct partition *p)
{
    return !ALOADX(&p->quorum_missing);
}

void partition_set_quorum_ok(struct partition *p, bool ok)
{
    ASTOREX(&p->quorum_missing, !ok);
}
