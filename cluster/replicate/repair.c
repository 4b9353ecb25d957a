/* A copy that is damaged below what it vouched for is thrown away and fetched anew; it is never cut and vouched for again (rule 4, D6).
 *
 *     found       a log failed with ERR_CORRUPT, or memory cannot be built from snapshot and log. From here on this node reads the record as if it did not lead: it stops serving before it says anything
 *     telling     the leader, if there is one, is told that the damaged logs are empty, and has answered: what it proposes from now on does not count this copy in
 *     proposing   PARTITION_DAMAGED: the copy leaves every set, and another that has what was committed leads. The record's version rises, which ends what the leader proposed before
 *     waiting     until the topology counts this copy nowhere and somebody else leads. The last copy waits here for an administrator, its files untouched
 *     repairing   as work: the files go to damaged/, the logs begin anew at 0. From then on it is a follower far behind, like any other (rule 3)
 *
 * A partition with one replica has nobody to fetch from: it stays refused. */
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"
#include "cluster/topology/commands.h"
#include "metrics/metrics.h"
#include "stream/stream.h"

#define AGAIN_US 1000000
#define REFUSED_AGAIN_US 10000000
#define SUSPECT_AGAIN_US 2000000

enum stage { FOUND, TELLING, PROPOSING, WAITING, REPAIRING };

struct repair {
    struct topology_proposal proposal;
    struct list node;   /* r->repairs */
    struct replication *r;
    struct rpart *part; /* NULL: forgotten; it ends with its proposal */
    enum stage stage;
    uint64_t not_before_us;
    bool said;          /* that it waits for people */
    struct rlog **logs; /* owned: the damaged ones but the main log, while REPAIRING */
    unsigned count;
    bool memory;        /* the main log, and what is built from it */
};

/* ---- finding ------------------------------------------------------------------------------------------------------------------ */

static bool memory_is_damaged(const struct rpart *part)
{
    return (partition_state(part->p) == PARTITION_FAILED && partition_error(part->p) == ERR_CORRUPT) ||
           (part->main != NULL && part->main->log != NULL && log_failed(part->main->log) == ERR_CORRUPT);
}

bool repair_is_due(const struct rpart *part, const struct part_record *rec)
{
    int me = record_member(rec, part->r->node_id);

    if (!rec->placed || me < 0 || (rec->count - (uint32_t)__builtin_popcount(rec->adding) < 2 && !(rec->adding >> me & 1)))
        return false;
    if (memory_is_damaged(part))
        return true;
    LIST_FOREACH(node, &part->logs)
    {
        const struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        if (l->log != NULL && log_failed(l->log) == ERR_CORRUPT)
            return true;
    }
    return false;
}

void repair_mask(struct rpart *part)
{
    if (part->repair != NULL && part->rec.leader == part->r->node_id)
        part->rec.leader = 0;
}

void repair_look(struct rpart *part)
{
    struct replication *r = part->r;
    struct repair *p;

    if (part->repair != NULL || r->stopping || !repair_is_due(part, &part->rec))
        return;
    p = mem_zalloc(sizeof(*p));
    p->r = r;
    p->part = part;
    list_push_back(&r->repairs, &p->node);
    part->repair = p;
    ASTORE(&part->damaged, true);
    metrics_add(METRIC_REPLICA_DAMAGED, 1);
    diag_error("this node's copy of a partition is damaged; it serves no more and will be fetched anew", "partition=%u role=%s memory=%d", part->index,
               partition_role_name((enum partition_role)part->role), memory_is_damaged(part));
    part->retry_step_us = 0;
    if (part->rec.leader == r->node_id || part->role >= PARTITION_OPENING) {
        repair_mask(part);
        pull_forget(part);
        part->step_wanted = true;
        work_kick(part);
    } else {
        repair_go_on(part, replication_now_us());
    }
}

/* ---- proposing ------------------------------------------------------------------------------------------------------------------ */

static void end(struct repair *p)
{
    list_remove(&p->node);
    buf_fini(&p->proposal.command);
    mem_free(p->logs);
    mem_free(p);
}

static void proposed(struct topology_proposal *proposal)
{
    struct repair *p = CONTAINER_OF(proposal, struct repair, proposal);
    int err = proposal->err;

    buf_fini(&proposal->command);
    proposal->command = (struct buf){0};
    if (p->part == NULL) {
        end(p);
        return;
    }
    if (err == 0) {
        p->stage = WAITING;
        repair_go_on(p->part, replication_now_us());
        return;
    }
    /* Once more from the beginning: whoever leads by then must know first. */
    p->stage = FOUND;
    p->not_before_us = replication_now_us() + (err == ERR_UNSUPPORTED || err == ERR_IN_USE ? REFUSED_AGAIN_US : AGAIN_US);
    diag_warn("the cluster does not know yet that a copy is damaged", "partition=%u error=%s", p->part->index, err_name(err));
}

static void propose(struct repair *p)
{
    struct replication *r = p->r;

    p->stage = PROPOSING;
    p->proposal.worker = r->w;
    p->proposal.done = proposed;
    topo_cmd_partition_damaged(&p->proposal.command, r->node_id, topology_node_epoch(r->o.topology), p->part->index);
    topology_propose(r->o.topology, &p->proposal);
}

/* ---- repairing ------------------------------------------------------------------------------------------------------------------ */

/* False: one of them is in use by work that has to come first. */
static bool collect(struct repair *p)
{
    struct rpart *part = p->part;
    unsigned n = 0;

    p->memory = memory_is_damaged(part);
    p->count = 0;
    LIST_FOREACH(node, &part->logs)
    {
        n++;
    }
    mem_free(p->logs);
    p->logs = mem_calloc(MAX_OF(n, 1u), sizeof(p->logs[0]));
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);
        bool main = l->key.kind == LOG_MAIN;

        if (l->log == NULL || (main ? !p->memory : log_failed(l->log) != ERR_CORRUPT))
            continue;
        if (l->busy)
            return false;
        if (!main)
            p->logs[p->count++] = l;
    }
    return true;
}

static void set_busy(struct repair *p, bool busy)
{
    for (unsigned i = 0; i < p->count; i++)
        p->logs[i]->busy = busy;
    if (p->memory && p->part->main != NULL)
        p->part->main->busy = busy;
}

/* On a background thread. */
int repair_run(struct rpart *part)
{
    struct repair *p = part->repair;
    int err = 0;

    stream_table_close_partition(part->r->o.streams, part->index); /* what was read of their logs is true no more */
    for (unsigned i = 0; i < p->count && err == 0; i++)
        err = log_begin_anew(p->logs[i]->log, false);
    if (err == 0 && p->memory)
        err = partition_begin_anew(part->p);
    for (unsigned i = 0; i < p->count && err == 0; i++)
        if (!log_replicated(p->logs[i]->log))
            log_set_replicated(p->logs[i]->log, true, 0);
    if (err == 0 && p->memory && part->main != NULL && part->main->log != NULL && !log_replicated(part->main->log))
        log_set_replicated(part->main->log, true, 0);
    return err;
}

void repair_done(struct rpart *part, int err)
{
    struct repair *p = part->repair;

    set_busy(p, false);
    if (err != 0) {
        diag_error("a damaged copy cannot be put aside; it is tried again", "partition=%u error=%s", part->index, err_name(err));
        p->stage = WAITING;
        p->not_before_us = replication_now_us() + AGAIN_US;
        return;
    }
    for (unsigned i = 0; i < p->count; i++) {
        p->logs[i]->covers = -1;
        p->logs[i]->covers_read = false;
        p->logs[i]->missed_hw = -1;
    }
    diag_info("a damaged copy is put aside and fetched anew", "partition=%u leader=%u memory=%d logs=%u", part->index, part->leader, p->memory, p->count);
    metrics_add(METRIC_REPLICA_REPAIRED, 1);
    part->repair = NULL;
    ASTORE(&part->damaged, false);
    end(p);
    if (part->role == PARTITION_FOLLOWER)
        fetcher_follow(part);
    repair_look(part); /* another log may have failed meanwhile */
}

/* ---- what the scrubber finds ---------------------------------------------------------------------------------------------------- */

static struct rlog *suspect_log(const struct rpart *part)
{
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        if (l->log != NULL && log_suspect(l->log) && log_failed(l->log) == 0)
            return l;
    }
    return NULL;
}

/* All but a batch of a suspect log is sound: it is better than nothing, so it is given up only where there is a leader to fetch from. A leader hands over first, to somebody in sync, and is a follower then: nobody waits. */
void repair_suspects(struct rpart *part, uint64_t now)
{
    struct replication *r = part->r;
    struct rlog *l;
    int me = record_member(&part->rec, r->node_id);

    if (part->repair != NULL || part->handover != NULL || part->working != WORK_NONE || part->step_wanted || r->stopping || me < 0 ||
        now < part->suspect_not_before_us || (l = suspect_log(part)) == NULL)
        return;
    part->suspect_not_before_us = now + SUSPECT_AGAIN_US;
    if (part->role == PARTITION_LEADER) {
        handover_to_any(part);
    } else if (part->role == PARTITION_FOLLOWER && part->leader != 0 && part->leader != r->node_id) {
        log_damaged(l->log, "a sealed segment differs from its checksum");
        repair_look(part);
    }
}

/* ---- steps ---------------------------------------------------------------------------------------------------------------------- */

/* The view holds what was proposed. */
static void look_at_record(struct repair *p)
{
    struct rpart *part = p->part;
    struct replication *r = p->r;
    struct part_record rec;
    int me;

    record_read(r, topology_view(r->o.topology), part->index, &rec);
    me = record_member(&rec, r->node_id);
    if (me < 0 || rec.version != part->seen)
        return; /* the step that follows from it comes first */
    if ((rec.insync | rec.eligible | rec.last_known) >> me & 1) {
        p->stage = FOUND; /* by an administrator's word, say */
        p->not_before_us = replication_now_us() + AGAIN_US;
        return;
    }
    if (rec.leader == 0) {
        if (!p->said && (rec.insync | rec.eligible | rec.last_known) == 0) {
            p->said = true;
            diag_error("the last copy of a partition that may lead is damaged; nothing of it is deleted. With its files brought back and this node restarted first, the command loses nothing; otherwise what only this copy had is given up", "partition=%u dir=\"%s/p-%04u\" command=\"gomsgctl partitions recover %u --accept-loss\"",
                       part->index, r->o.data_dir, part->index, part->index);
        }
        return;
    }
    if (part->role != PARTITION_FOLLOWER || part->leader != rec.leader || part->epoch != rec.epoch || !collect(p))
        return;
    p->stage = REPAIRING;
    set_busy(p, true);
    part->repair_wanted = true;
    work_kick(part);
}

void repair_go_on(struct rpart *part, uint64_t now)
{
    struct repair *p = part->repair;
    const struct fetcher *f = part->following;

    if (p == NULL || part->r->stopping || part->working != WORK_NONE || part->step_wanted || part->role != PARTITION_FOLLOWER || now < p->not_before_us)
        return;
    if (p->stage == FOUND && f != NULL) {
        p->stage = TELLING;
        fetcher_resubscribe(part);
    } else if (p->stage == FOUND || (p->stage == TELLING && (f == NULL || (part->subscribed && f->answered >= part->subscribed_in)))) {
        propose(p);
    } else if (p->stage == WAITING) {
        look_at_record(p);
    }
}

void repairs_free(struct replication *r)
{
    while (!list_empty(&r->repairs)) {
        struct repair *p = LIST_ENTRY(r->repairs.next, struct repair, node);

        if (p->part != NULL)
            p->part->repair = NULL;
        end(p);
    }
}
