/* A partition's role follows its record. What the record says now is compared with what is played; where they differ a step runs as work:
 *
 *     to follow or leave   stop appending (the role goes first, under the partition's lock), fail what waits for commits, close engines; then fetch from the new leader from this log's end (R7)
 *     to lead              OPENING: apply what is left of the main log (rule 2), the new epoch on every log; LEADER. Nothing is truncated (R8). At level leader it serves at once; at level quorum answers need
 *                          HW >= the end at their time (D2), and HW stands still while a former leader's lease may run (rule 20)
 *
 * A newer record at the same role and epoch (in-sync set, members) needs no step. */
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"

static enum partition_role wanted(const struct replication *r, const struct part_record *rec)
{
    if (!rec->placed || !rec->mine)
        return PARTITION_NONE;
    return rec->leader == r->node_id ? PARTITION_LEADER : PARTITION_FOLLOWER;
}

static bool plays(const struct rpart *part, const struct part_record *rec)
{
    enum partition_role want = wanted(part->r, rec);

    if (want == PARTITION_LEADER)
        return rpart_leads(part) && part->epoch == rec->epoch;
    return part->role == (uint32_t)want && (want == PARTITION_NONE || (part->epoch == rec->epoch && part->leader == rec->leader));
}

/* ---- leading: followers ---------------------------------------------------------------------------------------------------- */

static void followers_set(struct rpart *part)
{
    struct replication *r = part->r;
    const struct part_record *rec = &part->rec;
    struct follower *old = part->followers, *now = mem_calloc(MAX_OF(rec->count, 1u), sizeof(now[0]));
    unsigned n = 0, old_n = part->follower_count;
    uint64_t at = replication_now_us();

    for (unsigned i = 0; i < rec->count; i++) {
        if (rec->nodes[i] == r->node_id)
            continue;
        /* R6: members of the in-sync set begin as caught up now, others never were. */
        now[n] = (struct follower){.node_id = rec->nodes[i], .member = i, .caught_us = rec->insync >> i & 1 ? at : 0, .main_end = -1, .main_durable = -1};
        now[n].peer = peer_get(r, rec->nodes[i]);
        n++;
    }
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);
        struct rpos *was = l->pos;

        for (unsigned i = 0; was != NULL && i < old_n; i++)
            list_remove(&was[i].ready);
        l->pos = NULL;
        mem_free(was);
    }
    mutex_lock(&r->wait_mutex);
    part->followers = now;
    part->follower_count = n;
    mutex_unlock(&r->wait_mutex);
    mem_free(old);
    LIST_FOREACH(node, &part->logs)
    {
        rlog_positions_reset(LIST_ENTRY(node, struct rlog, node));
    }
    session_expect(part);
    /* Their sessions tell everything anew. */
    for (unsigned i = 0; i < n; i++)
        session_resubscribe(now[i].peer->session, part);
}

static void followers_clear(struct rpart *part)
{
    struct follower *old;

    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        for (unsigned i = 0; l->pos != NULL && i < part->follower_count; i++)
            list_remove(&l->pos[i].ready);
        mem_free(l->pos);
        l->pos = NULL;
    }
    mutex_lock(&part->r->wait_mutex);
    old = part->followers;
    part->followers = NULL;
    part->follower_count = 0;
    mutex_unlock(&part->r->wait_mutex);
    mem_free(old);
    part->pending = 0;
}

static bool same_members(const struct part_record *a, const struct part_record *b)
{
    if (a->count != b->count)
        return false;
    for (unsigned i = 0; i < a->count; i++)
        if (a->nodes[i] != b->nodes[i])
            return false;
    return true;
}

/* ---- planning ---------------------------------------------------------------------------------------------------------------------- */

/* The same role and epoch, another record. */
static void adjust(struct rpart *part, const struct part_record *before)
{
    if (rpart_leads(part)) {
        bool replicated = part->rec.count > 1;

        if (!same_members(before, &part->rec))
            followers_set(part);
        if (replicated != ALOADX(&part->replicated)) {
            part->step_wanted = true; /* whatever serialises appends keeps writes from slipping in between */
            return;
        }
        insync_note_record(part);
        handover_progress(part);
    }
}

void step_plan(struct rpart *part)
{
    const struct topology *v = topology_view(part->r->o.topology);
    const struct topo_partition *tp = topo_partition_at(v, part->index);
    struct part_record before = part->rec;

    if (tp == NULL || tp->version == part->seen)
        return;
    record_read(part->r, v, part->index, &part->rec);
    part->seen = tp->version;
    repair_mask(part);
    ASTOREX(&part->insync_seen, part->rec.insync);
    if (part->working == WORK_STEP)
        return; /* looked at again when it is done */
    if (plays(part, &part->rec)) {
        adjust(part, &before);
        if (!part->step_wanted)
            return;
    } else {
        part->step_wanted = true;
        pull_forget(part);
        if (part->role == PARTITION_FOLLOWER)
            fetcher_unfollow(part); /* R14: what comes from the old leader is not taken any more */
    }
    work_kick(part);
}

/* ---- the step, on a background thread -------------------------------------------------------------------------------------------- */

static void each_log(struct rpart *part, void (*fn)(struct rpart *part, struct rlog *l))
{
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        if (l->log != NULL && log_failed(l->log) == 0)
            fn(part, l);
    }
}

/* Also where the log has failed. */
static void fail_commits(struct rpart *part)
{
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        if (l->log != NULL)
            log_fail_commits(l->log, ERR_NOT_LEADER);
    }
}

/* Ends and epochs of a log that was not closed cleanly are known when it was scanned. */
static void recover(struct rpart *part, struct rlog *l)
{
    int err = log_recover(l->log);

    if (err != 0)
        diag_error("a log cannot be recovered", "partition=%u log=\"%s\" error=%s", part->index, log_dir(l->log), err_name(err));
}

static void replicate_on(struct rpart *part, struct rlog *l)
{
    bool replicated = part->target.count > 1;

    if (log_replicated(l->log) != replicated)
        log_set_replicated(l->log, replicated, part->was_none ? log_hw_stored(l->log) : log_hw(l->log));
}

static void set_epoch(struct rpart *part, struct rlog *l)
{
    log_set_epoch(l->log, part->target.epoch);
    l->epoch_start = log_end(l->log);
}

static int open_leader(struct rpart *part)
{
    struct partition *p = part->p;
    int err;

    partition_set_role(p, PARTITION_OPENING, part->target.epoch);
    each_log(part, recover);
    if (repair_is_due(part, &part->target))
        return ERR_CORRUPT; /* D6: a copy with a hole does not lead */
    each_log(part, replicate_on);
    err = partition_apply(p, INT64_MAX);
    if (err != 0 || partition_state(p) != PARTITION_OPEN)
        return err != 0 ? err : ERR_AGAIN;
    stream_table_close_partition(part->r->o.streams, part->index); /* what was read of them as a follower's is read anew */
    each_log(part, set_epoch);
    ASTORE(&part->replicated, part->target.count > 1);
    stream_table_admit(part->r->o.streams, part->index, true);
    partition_set_role(p, PARTITION_LEADER, part->target.epoch);
    return 0;
}

void step_run(struct rpart *part)
{
    enum partition_role want = wanted(part->r, &part->target);
    struct partition *p = part->p;

    part->was_none = part->role == PARTITION_NONE;
    if (want == PARTITION_LEADER) {
        part->work_err = open_leader(part);
        return;
    }
    partition_set_role(p, want, MAX_OF(part->target.epoch, partition_epoch(p)));
    stream_table_admit(part->r->o.streams, part->index, false);
    if (want == PARTITION_NONE)
        queue_unfollow(partition_queues(p), 0);
    if (rpart_leads(part)) {
        /* Nothing is appended any more, and then: who waits for what was may be undone. */
        stream_table_close_partition(part->r->o.streams, part->index);
        fail_commits(part);
    }
    each_log(part, recover);
    if (want == PARTITION_FOLLOWER)
        each_log(part, replicate_on);
    ASTORE(&part->replicated, want == PARTITION_FOLLOWER && part->target.count > 1);
}

/* ---- after it, on the data worker --------------------------------------------------------------------------------------------------- */

static void begin_leading(struct rpart *part)
{
    struct replication *r = part->r;

    followers_set(part);
    part->hold_until_us = part->target.lease_may_run ? replication_now_us() + r->lease_us : 0;
    insync_note_record(part);
    diag_info("leads", "partition=%u epoch=%d end=%lld hw=%lld replicas=%u", part->index, part->epoch,
              (long long)log_end(part->main->log), (long long)log_hw(part->main->log), part->rec.count);
}

static void end_leading(struct rpart *part)
{
    handover_forget(part);
    insync_forget(part);
    session_forget(part);
    followers_clear(part);
    partition_set_quorum_ok(part->p, true);
}

void step_done(struct rpart *part)
{
    struct replication *r = part->r;
    bool led = rpart_leads(part), held = part->role != PARTITION_NONE, leads;

    if (part->work_err != 0) {
        if (part->work_err == ERR_AGAIN)
            part->step_wanted = !plays(part, &part->rec);
        else
            diag_error("a partition cannot be opened", "partition=%u epoch=%d error=%s", part->index, part->target.epoch,
                       err_name(part->work_err));
        if (led)
            end_leading(part);
        part->role = partition_role(part->p);
        part->epoch = part->target.epoch;
        part->retry_step_us = replication_now_us() + 1000000;
        if (r->o.role_changed != NULL && led)
            r->o.role_changed(r->o.arg, part->index, false);
        repair_look(part);
        return;
    }
    if (led)
        end_leading(part);
    part->role = partition_role(part->p);
    part->epoch = part->target.epoch;
    part->leader = part->role == PARTITION_FOLLOWER ? part->target.leader : 0;
    leads = rpart_leads(part);
    if (leads)
        begin_leading(part);
    if (r->o.role_changed != NULL && (led != leads || (held && part->role == PARTITION_NONE)))
        r->o.role_changed(r->o.arg, part->index, leads);
    if (!plays(part, &part->rec)) {
        part->step_wanted = true; /* the record went on meanwhile */
        return;
    }
    if (part->role == PARTITION_FOLLOWER) {
        fetcher_follow(part);
        part->apply_wanted = part->main != NULL && part->main->log != NULL; /* as far as it is known to be committed */
    }
    if (part->repair == NULL)
        repair_look(part);
    else
        repair_go_on(part, replication_now_us());
    if (part->step_wanted)
        return; /* it is damaged */
    part->pulled_epoch = leads ? part->epoch : part->pulled_epoch;
    if (leads && !same_members(&part->target, &part->rec))
        followers_set(part);
    insync_note_record(part);
}

void step_forget(struct rpart *part)
{
    handover_forget(part);
    followers_clear(part);
    insync_forget(part);
    fetcher_unfollow(part);
}
