/* Handing a partition's leadership over (rule 21).
 *
 *     asked     the successor is in sync and active, no other handover is under way
 *     parking   as work: who enters waits from now on, and the HANDOVER record goes into the main log
 *     draining  every in-sync member has reached the end of every log; given up 200 ms after parking began
 *     sent      the record's compare-and-set is proposed: from here on only a definite refusal lets this node go on; no answer means that it stays parked until the topology says who leads, or its lease has ended
 *     ended     the topology moved the leadership (a step follows, which wakes the parked), or work opens the partition again
 *
 * Nothing is lost either way: what is parked was never executed. */
#include <time.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"
#include "cluster/topology/commands.h"
#include "log/effect.h"
#include "queue/queue.h"

#define DRAIN_US 200000

enum handover_state { PARKING, DRAINING, SENT, RESUMING };

struct handover {
    enum handover_state state;
    uint32_t to;
    uint64_t begun_us;
    struct buf record; /* of the HANDOVER effect */
    uint32_t version;  /* the proposal's */
    struct handover_proposal *proposal;
};

struct handover_proposal {
    struct topology_proposal proposal;
    struct list node; /* r->handovers */
    struct rpart *part; /* NULL: forgotten */
};

/* ---- work: parking and going on ------------------------------------------------------------------------------------------------ */

void handover_park(struct rpart *part)
{
    struct partition_guard g;

    partition_set_role(part->p, PARTITION_PARKED, part->epoch);
    stream_table_admit(part->r->o.streams, part->index, false); /* who looked at the role before is waited for, or refused */
    partition_enter_background(part->p, 0, &g);
    queue_table_rest(partition_queues(part->p));
    effect_add(&g.fx, EFFECT_HANDOVER, 0, SLICE_NONE, buf_slice(&part->handover->record));
    part->work_err = partition_leave(&g);
}

void handover_unpark(struct rpart *part)
{
    stream_table_admit(part->r->o.streams, part->index, true);
    partition_set_role(part->p, PARTITION_LEADER, part->epoch);
}

/* ---- the proposal ---------------------------------------------------------------------------------------------------------------- */

static void free_proposal(struct handover_proposal *h)
{
    list_remove(&h->node);
    buf_fini(&h->proposal.command);
    mem_free(h);
}

void handovers_free(struct replication *r)
{
    while (!list_empty(&r->handovers))
        free_proposal(LIST_ENTRY(r->handovers.next, struct handover_proposal, node));
}

static void resume(struct rpart *part, const char *why)
{
    struct handover *h = part->handover;

    diag_warn("a handover is given up", "partition=%u to=%u reason=\"%s\" ms=%llu", part->index, h->to, why,
              (unsigned long long)((replication_now_us() - h->begun_us) / 1000));
    h->state = RESUMING;
    part->unpark_wanted = true;
    work_kick(part);
}

/* What the answer leaves open the topology will tell. */
static bool is_definite(int err)
{
    return err != 0 && err != ERR_TIMEOUT && err != ERR_CLOSED && err != ERR_CANCELLED;
}

static void proposed(struct topology_proposal *p)
{
    struct handover_proposal *hp = CONTAINER_OF(p, struct handover_proposal, proposal);
    struct rpart *part = hp->part;

    if (part != NULL) {
        part->handover->proposal = NULL;
        if (is_definite(p->err))
            resume(part, err_name(p->err));
    }
    free_proposal(hp);
}

static void send(struct rpart *part)
{
    struct replication *r = part->r;
    struct handover *h = part->handover;
    const struct topo_partition *tp = topo_partition_at(topology_view(r->o.topology), part->index);
    struct topo_partition_change c;
    struct handover_proposal *hp;

    if (tp == NULL || tp->version != part->rec.version || !(part->rec.insync >> record_member(&part->rec, h->to) & 1)) {
        resume(part, "the partition's record changed");
        return;
    }
    topo_change_of(&c, tp);
    c.leader = h->to;
    hp = mem_zalloc(sizeof(*hp));
    hp->part = part;
    hp->proposal.worker = r->w;
    hp->proposal.done = proposed;
    topo_cmd_partition_change(&hp->proposal.command, r->node_id, &c, 1);
    list_push_back(&r->handovers, &hp->node);
    h->proposal = hp;
    h->version = tp->version;
    h->state = SENT;
    topology_propose(r->o.topology, &hp->proposal);
}

/* ---- progress -------------------------------------------------------------------------------------------------------------------------- */

static bool drained(struct rpart *part)
{
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        if (l->log == NULL || log_failed(l->log) != 0)
            continue;
        if (log_hw(l->log) < log_end(l->log))
            return false;
        /* The successor itself, in case it counts for nothing yet. */
        for (unsigned i = 0; i < part->follower_count; i++)
            if (part->followers[i].node_id == part->handover->to && (!l->pos[i].known || l->pos[i].end < log_end(l->log)) && log_end(l->log) > 0)
                return false;
    }
    return true;
}

void handover_progress(struct rpart *part)
{
    struct handover *h = part->handover;
    uint64_t now = replication_now_us();

    if (h == NULL || part->working != WORK_NONE)
        return;
    switch (h->state) {
    case PARKING:
    case RESUMING:
        break;
    case DRAINING:
        if (drained(part))
            send(part);
        else if (now - h->begun_us > DRAIN_US)
            resume(part, "in-sync members did not reach the ends in time");
        else
            replication_arm_soon(part->r);
        break;
    case SENT:
        if (part->rec.version != h->version && part->rec.leader == part->r->node_id)
            resume(part, "another change of the record came first"); /* the compare-and-set is refused for certain */
        else if (!partitions_lease_ok(part->r->o.partitions))
            resume(part, "the lease has ended");
        break;
    }
}

void handover_worked(struct rpart *part)
{
    struct handover *h = part->handover;

    if (h == NULL)
        return;
    part->role = partition_role(part->p);
    if (h->state == RESUMING) {
        handover_forget(part);
        return;
    }
    if (part->work_err != 0) {
        resume(part, err_name(part->work_err));
        return;
    }
    h->state = DRAINING;
    handover_progress(part);
}

void handover_forget(struct rpart *part)
{
    struct handover *h = part->handover;

    if (h == NULL)
        return;
    if (h->proposal != NULL)
        h->proposal->part = NULL;
    part->park_wanted = part->unpark_wanted = false;
    part->handover = NULL;
    __atomic_sub_fetch(&part->r->handing_over, 1, __ATOMIC_ACQ_REL);
    buf_fini(&h->record);
    mem_free(h);
}

/* ---- asking ------------------------------------------------------------------------------------------------------------------------------ */

static void put_record(struct rpart *part, struct buf *b, uint32_t to)
{
    buf_put_uvarint(b, to);
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        if (l->log == NULL || l->key.kind == LOG_MAIN || log_hw(l->log) >= log_end(l->log))
            continue;
        buf_put_u8(b, l->key.kind);
        buf_put_uvarint(b, l->key.id);
        buf_put_uvarint(b, l->key.index);
        buf_put_uvarint(b, (uint64_t)log_end(l->log));
    }
}

static void begin(struct replication *r, uint32_t partition, uint32_t to)
{
    struct rpart *part = &r->parts[partition];
    int member = record_member(&part->rec, to);
    uint64_t epoch;

    if (part->role != PARTITION_LEADER || part->handover != NULL || part->step_wanted || part->working == WORK_STEP || to == r->node_id || member < 0 ||
        !(part->rec.insync >> member & 1) || !record_node_active(r, to, &epoch)) {
        diag_info("a handover is refused", "partition=%u to=%u role=%s", partition, to, partition_role_name((enum partition_role)part->role));
        return;
    }
    __atomic_add_fetch(&r->handing_over, 1, __ATOMIC_ACQ_REL);
    part->handover = mem_zalloc(sizeof(*part->handover));
    part->handover->to = to;
    part->handover->begun_us = replication_now_us();
    put_record(part, &part->handover->record, to);
    diag_info("hands over", "partition=%u to=%u", partition, to);
    part->park_wanted = true;
    work_kick(part);
}

struct asked {
    struct mail mail;
    struct replication *r;
    uint32_t partition, to;
};

static void deliver(struct worker *w, struct mail *m)
{
    struct asked *a = CONTAINER_OF(m, struct asked, mail);

    (void)w;
    if (a->r->started && !a->r->stopping && a->partition < a->r->count)
        begin(a->r, a->partition, a->to);
    mem_free(a);
}

void replication_hand_over(struct replication *r, uint32_t partition, uint32_t to_node)
{
    struct asked *a = mem_zalloc(sizeof(*a));

    *a = (struct asked){.r = r, .partition = partition, .to = to_node};
    a->mail.deliver = deliver;
    worker_post(r->w, &a->mail);
}

/* ---- to whoever can -------------------------------------------------------------------------------------------------------------------- */

/* The first in-sync member that is active, in order of preference; 0: none. */
static uint32_t any_successor(struct rpart *part)
{
    for (unsigned i = 0; i < part->rec.count; i++) {
        uint64_t epoch;

        if (part->rec.nodes[i] != part->r->node_id && (part->rec.insync >> i & 1) && record_node_active(part->r, part->rec.nodes[i], &epoch))
            return part->rec.nodes[i];
    }
    return 0;
}

void handover_to_any(struct rpart *part)
{
    uint32_t to = part->role == PARTITION_LEADER ? any_successor(part) : 0;

    if (to != 0)
        begin(part->r, part->index, to);
}

static void deliver_leave(struct worker *w, struct mail *m)
{
    struct replication *r = CONTAINER_OF(m, struct replication, leave_mail);

    (void)w;
    for (uint32_t i = 0; r->started && !r->stopping && i < r->count; i++) {
        handover_to_any(&r->parts[i]);
    }
    ASTORE(&r->left, true);
}

void replication_leave(struct replication *r, uint32_t timeout_ms)
{
    uint64_t until = replication_now_us() + (uint64_t)timeout_ms * 1000;
    struct timespec nap = {0, 1000000};

    r->leave_mail.deliver = deliver_leave;
    worker_post(r->w, &r->leave_mail);
    while ((!ALOAD(&r->left) || ALOAD(&r->handing_over) != 0) && replication_now_us() < until)
        nanosleep(&nap, NULL);
}
