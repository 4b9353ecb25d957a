/* What other threads see of followers: WAIT, WAITAOF, and people. */
#include "base/list.h"
#include "cluster/replicate/private.h"

uint32_t replication_acked(struct replication *r, struct partition *p, int64_t end, bool durable)
{
    struct rpart *part = &r->parts[partition_index(p)];
    uint32_t n = 0;

    if (log_hw(partition_main_log(p)) < end)
        return 0; /* rule 13 */
    mutex_lock(&r->wait_mutex);
    for (unsigned i = 0; i < part->follower_count; i++) {
        struct follower *f = &part->followers[i];
        int64_t has = ALOAD(durable ? &f->main_durable : &f->main_end);

        if ((ALOADX(&part->insync_seen) >> f->member & 1) && has >= end)
            n++;
    }
    mutex_unlock(&r->wait_mutex);
    return n;
}

static void deliver(struct worker *w, struct mail *m)
{
    struct replication_waiter *waiter = CONTAINER_OF(m, struct replication_waiter, mail);

    (void)w;
    __atomic_store_n(&waiter->posted, false, __ATOMIC_RELEASE);
    waiter->changed(waiter);
}

void replication_wait(struct replication *r, struct partition *p, struct replication_waiter *w)
{
    w->mail.deliver = deliver;
    mutex_lock(&r->wait_mutex);
    if (w->node.next == NULL) {
        list_push_back(&r->parts[partition_index(p)].waiters, &w->node);
        __atomic_add_fetch(&r->parts[partition_index(p)].waiter_count, 1, __ATOMIC_SEQ_CST);
        w->count = &r->parts[partition_index(p)].waiter_count;
    }
    mutex_unlock(&r->wait_mutex);
}

void replication_unwait(struct replication *r, struct replication_waiter *w)
{
    mutex_lock(&r->wait_mutex);
    if (w->node.next != NULL) {
        list_remove(&w->node);
        __atomic_sub_fetch(w->count, 1, __ATOMIC_SEQ_CST);
    }
    mutex_unlock(&r->wait_mutex);
}

void waiters_notify(struct rpart *part)
{
    if (ALOADX(&part->waiter_count) == 0)
        return;
    mutex_lock(&part->r->wait_mutex);
    LIST_FOREACH(node, &part->waiters)
    {
        struct replication_waiter *w = LIST_ENTRY(node, struct replication_waiter, node);

        if (!__atomic_exchange_n(&w->posted, true, __ATOMIC_ACQ_REL))
            worker_post(w->worker, &w->mail);
    }
    mutex_unlock(&part->r->wait_mutex);
}

unsigned replication_replicas(struct replication *r, uint32_t partition, struct replica_info *ret, unsigned max)
{
    struct rpart *part;
    unsigned n = 0;
    uint64_t now = replication_now_us();

    if (partition >= r->count)
        return 0;
    part = &r->parts[partition];
    mutex_lock(&r->wait_mutex);
    for (; n < part->follower_count; n++) {
        struct follower *f = &part->followers[n];
        uint64_t caught = ALOADX(&f->caught_us);

        if (n >= max)
            continue;
        ret[n] = (struct replica_info){
            .node_id = f->node_id,
            .in_sync = ALOADX(&part->insync_seen) >> f->member & 1,
            .end = ALOAD(&f->main_end),
            .lag_records = ALOADX(&f->lag_records),
            .lag_ms = caught == 0 ? now / 1000 : caught >= now || ALOADX(&f->behind) == 0 ? 0 : (now - caught) / 1000,
        };
    }
    mutex_unlock(&r->wait_mutex);
    return n;
}

void replication_totals(struct replication *r, struct replication_totals *ret)
{
    uint64_t now = replication_now_us();

    *ret = (struct replication_totals){0};
    for (uint32_t i = 0; i < r->count; i++) {
        struct rpart *part = &r->parts[i];
        enum partition_role role = partition_role(part->p);

        ret->led += role >= PARTITION_LEADER;
        ret->followed += role == PARTITION_FOLLOWER;
        ret->damaged += ALOADX(&part->damaged);
        if (role < PARTITION_LEADER)
            continue;
        ret->below_min_insync += !partition_quorum_ok(part->p);
        mutex_lock(&r->wait_mutex);
        for (unsigned k = 0; k < part->follower_count; k++) {
            const struct follower *f = &part->followers[k];
            uint64_t caught = ALOADX(&f->caught_us);

            ret->out_of_sync += !(ALOADX(&part->insync_seen) >> f->member & 1);
            ret->lag_records_max = MAX_OF(ret->lag_records_max, ALOADX(&f->lag_records));
            if (ALOADX(&f->behind) != 0 && caught != 0 && caught < now)
                ret->lag_ms_max = MAX_OF(ret->lag_ms_max, (now - caught) / 1000);
        }
        mutex_unlock(&r->wait_mutex);
    }
}
