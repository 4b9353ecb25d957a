/* The high watermark of a log led here (R16 to R18, rule 12): up to where level quorum holds. It passes an offset only when
 *
 *     a   every member of the maximal in-sync set has it: the committed set, who is being added to it (D3), and who has caught up and is about to ask (R16)
 *     b   the committed in-sync set has min_insync members (for a topic that asks for more, that many)
 *     c   two replicas have it, or this node's durable position covers it: what is alone in the set is synced before it counts
 *
 * and while a former leader may believe in its lease, nothing is committed (rule 20). It never goes back here. */
#include "cluster/replicate/private.h"

#define RECENT_US 1000000 /* caught up so lately that it is waited for until it is in the set (R16) */

static unsigned count_bits(uint32_t bits)
{
    return (unsigned)__builtin_popcount(bits);
}

static bool counts(struct rpart *part, const struct follower *f, const struct rpos *pos, uint64_t now)
{
    if ((part->rec.insync | part->pending) >> f->member & 1)
        return true;
    if (!f->subscribed || !pos->known || f->caught_us == 0 || now - f->caught_us >= MIN_OF((uint64_t)RECENT_US, (uint64_t)part->r->o.replica_lag_max_ms * 500) || !record_node_may_join(part->r, f->node_id))
        return false;
    part->recent = true; /* nothing tells when it is not any more: the scan looks again */
    return true;
}

static uint32_t needed(const struct rpart *part, const struct rlog *l)
{
    uint32_t replicas = part->rec.count - count_bits(part->rec.adding);

    return MIN_OF(MAX_OF(part->rec.min_insync, l->min_insync), MAX_OF(replicas, 1u));
}

void watermark_update(struct rlog *l)
{
    struct rpart *part = l->part;
    uint64_t now = replication_now_us();
    int64_t end, hw, copied = 0;
    bool alone = true;

    if (l->log == NULL || l->pos == NULL || !rpart_leads(part) || part->working == WORK_STEP || !log_replicated(l->log))
        return;
    hw = end = log_end(l->log);
    if (log_hw(l->log) >= end)
        return;
    if (count_bits(part->rec.insync) < needed(part, l))
        return;
    if (part->hold_until_us != 0) {
        if (now < part->hold_until_us) {
            replication_arm_soon(part->r);
            part->held = true;
            return;
        }
        part->hold_until_us = 0;
    }
    for (unsigned i = 0; i < part->follower_count; i++) {
        const struct rpos *pos = &l->pos[i];
        int64_t has = pos->known ? pos->end : 0;

        copied = MAX_OF(copied, has);
        if (!counts(part, &part->followers[i], pos, now))
            continue;
        alone = false;
        hw = MIN_OF(hw, has);
    }
    if (alone) {
        hw = MIN_OF(hw, MAX_OF(copied, log_durable(l->log)));
        if (hw < end)
            log_request_sync(l->log);
    }
    if (hw <= log_hw(l->log))
        return;
    log_set_hw(l->log, hw);
    if (l->key.kind == LOG_MAIN)
        waiters_notify(part);
}

void watermark_update_all(struct rpart *part)
{
    LIST_FOREACH(node, &part->logs)
    {
        watermark_update(LIST_ENTRY(node, struct rlog, node));
    }
}
