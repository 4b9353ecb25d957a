/* Snapshots and checkpoints for those too far behind (rule 3). */
#include "base/diag.h"
#include "cluster/replicate/private.h"

void ship_init(struct replication *r)
{
    (void)r;
}

void ship_free(struct replication *r)
{
    (void)r;
}

void ship_want(struct rlog *l)
{
    DIAG_EVERY(DIAG_WARN, "a follower is too far behind", "log=\"%s\"", log_dir(l->log));
    l->retry_us = replication_now_us() + 1000000;
    l->part->retry_appends = true;
}
