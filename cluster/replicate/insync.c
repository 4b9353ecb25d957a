/* Who is in sync (R21 to R25, rules 1 and 25): a follower that had not everything of every log for cluster.replica_lag_max leaves the set; one that has reached the high watermark, and where this epoch began, in every log joins it.
 *
 * A change is a compare-and-set on the record's version, one in flight a partition. While it is, members that would join count for the watermark already, members that would leave still do (D3): nothing changes here until the
 * topology says so. */
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"
#include "cluster/topology/commands.h"
#include "metrics/metrics.h"

#define AGAIN_US 100000
#define HEARD_US 1500000 /* an idle session asks about every 600 ms */

struct insync {
    struct topology_proposal proposal;
    struct list node; /* r->proposals */
    struct replication *r;
    struct rpart *part; /* NULL: forgotten */
    uint32_t version;
};

static void free_proposal(struct insync *i)
{
    list_remove(&i->node);
    buf_fini(&i->proposal.command);
    mem_free(i);
}

static void proposed(struct topology_proposal *p)
{
    struct insync *i = CONTAINER_OF(p, struct insync, proposal);
    struct rpart *part = i->part;

    if (part != NULL) {
        part->proposal = NULL;
        if (p->err == ERR_TIMEOUT || p->err == ERR_IO)
            part->unsure = i->version; /* it may still be applied: who it adds counts until the record has gone on */
        if (p->err != 0) {
            if (part->unsure != i->version)
                part->pending = 0;
            part->proposal_not_before_us = replication_now_us() + AGAIN_US;
            if (p->err != ERR_MISMATCH && p->err != ERR_AGAIN)
                diag_warn("a change of the in-sync set was refused", "partition=%u version=%u error=%s", part->index, i->version,
                          err_name(p->err));
            watermark_update_all(part);
        }
    }
    free_proposal(i);
}

static void propose(struct rpart *part, uint32_t insync)
{
    struct replication *r = part->r;
    const struct part_record *rec = &part->rec;
    struct topo_insync_request q = {.node = r->node_id, .node_epoch = topology_node_epoch(r->o.topology), .partition = part->index,
                                    .leader_epoch = part->epoch, .version = rec->version};
    struct insync *i;

    for (unsigned k = 0; k < rec->count; k++) {
        uint64_t epoch = 0;

        if (!(insync >> k & 1))
            continue;
        if (rec->nodes[k] == r->node_id)
            epoch = q.node_epoch;
        else
            (void)record_node_active(r, rec->nodes[k], &epoch);
        q.epochs[q.insync.count] = epoch;
        q.insync.nodes[q.insync.count++] = rec->nodes[k];
    }
    i = mem_zalloc(sizeof(*i));
    i->r = r;
    i->part = part;
    i->version = rec->version;
    i->proposal.worker = r->w;
    i->proposal.done = proposed;
    topo_cmd_partition_insync(&i->proposal.command, &q);
    part->proposal = i;
    part->pending = (part->unsure == rec->version ? part->pending : 0) | (insync & ~rec->insync);
    list_push_back(&r->proposals, &i->node);
    topology_propose(r->o.topology, &i->proposal);
}

static bool may_propose(const struct rpart *part)
{
    return rpart_leads(part) && part->working != WORK_STEP && part->proposal == NULL && part->rec.epoch == part->epoch &&
           part->rec.leader == part->r->node_id && replication_now_us() >= part->proposal_not_before_us;
}

/* Rule 1: in every log. */
static bool reached_all(struct rpart *part, unsigned slot)
{
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);
        struct rpos *pos = l->log == NULL || l->pos == NULL ? NULL : &l->pos[slot];
        int64_t end;

        if (pos == NULL || log_failed(l->log) != 0 || (!pos->behind && pos->known))
            continue;
        end = pos->known ? pos->end : 0;
        if (end < log_hw(l->log) || end < l->epoch_start || (!pos->known && log_end(l->log) > 0))
            return false;
    }
    return true;
}

static uint64_t lag_max_us(const struct replication *r)
{
    return (uint64_t)r->o.replica_lag_max_ms * 1000;
}

/* The time since a follower had everything, over all logs. */
static uint64_t lag_us(struct rpart *part, struct follower *f, uint64_t now)
{
    uint64_t oldest = now, records = 0;

    if (!f->subscribed) { /* R21: with nothing to fetch it is in sync */
        if (f->behind != 0 || f->caught_us == 0)
            return now - f->caught_us;
        ASTOREX(&f->caught_us, now);
        return 0;
    }
    if (f->behind == 0) {
        ASTOREX(&f->caught_us, now);
        ASTOREX(&f->lag_records, 0);
        return 0;
    }
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);
        struct rpos *pos = l->pos == NULL ? NULL : &l->pos[f - part->followers];

        if (pos == NULL || !pos->behind || l->log == NULL)
            continue;
        oldest = MIN_OF(oldest, pos->caught_us);
        records += (uint64_t)(log_end(l->log) - (pos->known ? MIN_OF(pos->end, log_end(l->log)) : log_start(l->log)));
    }
    ASTOREX(&f->caught_us, oldest);
    ASTOREX(&f->lag_records, records);
    return now - oldest;
}

void insync_joined(struct rpart *part, struct follower *f)
{
    uint64_t now = replication_now_us();

    if (((part->rec.insync | part->pending) >> f->member & 1) || !f->subscribed || !may_propose(part))
        return;
    /* Who has not been heard of for a while only seems to have everything. */
    if (lag_us(part, f, now) > lag_max_us(part->r) || f->peer->session == NULL || now - f->peer->session->heard_us > HEARD_US)
        return;
    if (!record_node_may_join(part->r, f->node_id) || !reached_all(part, (unsigned)(f - part->followers)))
        return;
    diag_info("a follower has caught up", "partition=%u node=%u", part->index, f->node_id);
    propose(part, part->rec.insync | 1u << f->member);
}

void insync_scan(struct rpart *part, uint64_t now)
{
    uint32_t leaving = 0;

    if (!rpart_leads(part) || part->working == WORK_STEP)
        return;
    if (part->recent) {
        part->recent = false;
        watermark_update_all(part);
    }
    for (unsigned i = 0; i < part->follower_count; i++) {
        struct follower *f = &part->followers[i];
        uint64_t lag = lag_us(part, f, now);

        if ((part->rec.insync >> f->member & 1) && lag > lag_max_us(part->r)) {
            leaving |= 1u << f->member;
            if (may_propose(part))
                diag_warn("a follower lags and leaves the in-sync set", "partition=%u node=%u lag_ms=%llu logs=%u", part->index, f->node_id,
                          (unsigned long long)(lag / 1000), f->behind);
        }
    }
    /* A change without an answer is settled by one more, be it none: only one of them can be applied. */
    if ((leaving != 0 || (part->unsure != 0 && part->unsure == part->rec.version)) && may_propose(part)) {
        propose(part, part->rec.insync & ~leaving);
        return;
    }
    for (unsigned i = 0; i < part->follower_count && part->proposal == NULL; i++)
        insync_joined(part, &part->followers[i]);
}

void insync_note_record(struct rpart *part)
{
    const struct part_record *rec = &part->rec;

    if (!rpart_leads(part))
        return;
    if (part->proposal == NULL || part->proposal->version < rec->version) {
        /* Answered by the topology itself; what comes of the proposal later changes nothing. */
        if (part->proposal != NULL)
            part->proposal->part = NULL;
        part->proposal = NULL;
        if (part->unsure != rec->version)
            part->pending = part->unsure = 0;
    }
    if (part->insync_known != rec->insync) {
        part->insync_known = rec->insync;
        part->insync_changes++;
        metrics_add(METRIC_REPLICA_INSYNC_CHANGES, 1);
    }
    partition_set_quorum_ok(part->p, (unsigned)__builtin_popcount(rec->insync) >= rec->min_insync);
    watermark_update_all(part);
    waiters_notify(part);
}

void insync_forget(struct rpart *part)
{
    if (part->proposal != NULL)
        part->proposal->part = NULL;
    part->proposal = NULL;
    part->pending = part->unsure = 0;
}

/* The topology is closed: what it did not answer it will not. */
void insync_free_all(struct replication *r)
{
    while (!list_empty(&r->proposals))
        free_proposal(LIST_ENTRY(r->proposals.next, struct insync, node));
}
