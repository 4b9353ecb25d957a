/* What this node is to a partition, and the node's lease. */
#include "base/clock.h"
#include "partition/private.h"

enum partition_role partition_role(const struct partition *p)
{
    return (enum partition_role)ALOAD(&p->role);
}

int32_t partition_epoch(const struct partition *p)
{
    return ALOAD(&p->epoch);
}

void partitions_set_lease(struct partitions *ps, uint64_t until_us)
{
    ASTORE(&ps->lease_until_us, until_us);
}

bool partitions_lease_ok(const struct partitions *ps)
{
    uint64_t until = ALOAD(&ps->lease_until_us);

    return until == UINT64_MAX || clock_boot_us() < until;
}

bool partition_quorum_ok(const struct partition *p)
{
    return !ALOADX(&p->quorum_missing);
}

void partition_set_quorum_ok(struct partition *p, bool ok)
{
    ASTOREX(&p->quorum_missing, !ok);
}
