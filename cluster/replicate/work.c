/* What takes time, a partition's lock or the disk: one piece at a time a partition, on a background thread. A step goes before cuts, cuts before applying, applying before following
 * queues. */
#include "base/diag.h"
#include "base/err.h"
#include "cluster/replicate/private.h"
#include "queue/queue.h"

/* What of a queue stands for offsets that go must go first. */
static int prepare_cut(struct rlog *l, bool *ret_gone)
{
    struct replication *r = l->part->r;
    int err;

    queue_await_writers(partition_queues(l->part->p));
    queue_unfollow(partition_queues(l->part->p), l->key.id);
    err = queue_checkpoint_cut(r->o.data_dir, l->key.partition, l->key.id, l->cut_to, ret_gone);
    if (*ret_gone)
        diag_warn("a queue's log is cut below its checkpoint, which goes with it", "log=\"%s\" to=%lld", log_dir(l->log), (long long)l->cut_to);
    return err;
}

static void run(struct bg_job *job)
{
    struct rpart *part = CONTAINER_OF(job, struct rpart, job);

    switch (part->working) {
    case WORK_STEP:
        step_run(part);
        break;
    case WORK_PARK:
        handover_park(part);
        break;
    case WORK_UNPARK:
        handover_unpark(part);
        break;
    case WORK_REPAIR:
        queue_await_writers(partition_queues(part->p));
        queue_unfollow(partition_queues(part->p), 0);
        part->work_err = repair_run(part);
        break;
    case WORK_CUT: {
        struct rlog *l = part->work_log;

        l->needs_checkpoint = false;
        if (l->key.kind == LOG_QUEUE)
            part->work_err = prepare_cut(l, &l->needs_checkpoint);
        if (part->work_err == 0)
            part->work_err = l->restart ? log_restart_at(l->log, l->cut_to) : log_truncate(l->log, l->cut_to);
        if (part->work_err == 0 && l->key.kind == LOG_MAIN)
            part->work_err = partition_apply_cut(part->p, l->cut_to);
        break;
    }
    case WORK_INSTALL:
        if (part->work_log->key.kind == LOG_QUEUE) {
            queue_await_writers(partition_queues(part->p));
            queue_unfollow(partition_queues(part->p), part->work_log->key.id);
        }
        part->work_err = install_run(part->work_log);
        break;
    case WORK_APPLY:
        part->work_err = partition_apply(part->p, part->apply_to);
        break;
    case WORK_FOLLOW:
        part->work_err = queue_follow(partition_queues(part->p), part->work_log->key.id, part->work_log->log, part->follow_durable, &part->followed);
        break;
    case WORK_NONE:
        break;
    }
}

static void cut_done(struct rlog *l, int err)
{
    if (err != 0)
        diag_error("a log of a follower cannot be cut", "log=\"%s\" end=%lld error=%s", log_dir(l->log), (long long)l->cut_to,
                   err_name(err));
    l->busy = false;
    l->restart = false;
    if (l->needs_checkpoint) {
        l->covers = -1;
        l->covers_read = true;
        if (l->part->role == PARTITION_FOLLOWER && l->part->leader != 0)
            install_want(l, false);
    }
    pull_continue(l->part);
    follower_work_done(l);
}

static void follow_done(struct rlog *l, int err)
{
    struct rpart *part = l->part;

    part->followed_us = replication_now_us();
    if (err != 0) {
        /* A log that fails says so by itself; a checkpoint that cannot be read is another matter: its leader's is as good. */
        if (err == ERR_CORRUPT && log_failed(l->log) == 0 && part->role == PARTITION_FOLLOWER && part->following != NULL && !l->busy)
            install_want(l, false);
        else if (err != ERR_NOT_FOUND)
            DIAG_EVERY(DIAG_WARN, "a queue cannot be followed", "log=\"%s\" error=%s", log_dir(l->log), err_name(err));
        return;
    }
    if (part->followed.covers >= 0) {
        l->covers = part->followed.covers;
        l->covers_read = true;
    }
    l->follow_waits = part->followed.waits;
    if (l->follow_waits) {
        l->retry_us = replication_now_us() + 1000000;
        part->retry_appends = true;
    }
    if (part->followed.more)
        work_follow(l, part->follow_durable);
    else
        follower_follow_start(l);
}

static void done(struct bg_job *job)
{
    struct rpart *part = CONTAINER_OF(job, struct rpart, job);
    struct replication *r = part->r;
    enum work_kind was = part->working;
    int err = part->work_err; /* what follows may begin the next piece */

    part->working = WORK_NONE;
    __atomic_sub_fetch(&r->jobs, 1, __ATOMIC_ACQ_REL);
    if (was == WORK_STEP)
        step_done(part);
    else if (was == WORK_PARK || was == WORK_UNPARK)
        handover_worked(part);
    else if (was == WORK_REPAIR)
        repair_done(part, err);
    else if (was == WORK_CUT)
        cut_done(part->work_log, err);
    else if (was == WORK_INSTALL)
        install_done(part->work_log, err);
    else if (was == WORK_FOLLOW)
        follow_done(part->work_log, err);
    else if (was == WORK_APPLY && err == ERR_AGAIN)
        part->apply_wanted = true;
    else if (was == WORK_APPLY && err != 0 && part->main != NULL)
        fetcher_report(part->main, true); /* the partition has failed: its leader must know */
    if (was != WORK_STEP && err != 0)
        repair_look(part);
    if (was == WORK_STEP && r->opened_waiting)
        rlogs_adopt(r);
    work_kick(part);
}

static void submit(struct rpart *part, enum work_kind kind)
{
    part->working = kind;
    part->work_err = 0;
    __atomic_add_fetch(&part->r->jobs, 1, __ATOMIC_ACQ_REL);
    bg_submit(part->r->o.workers, BG_FREE, &part->job);
}

void work_init(struct rpart *part)
{
    part->job.run = run;
    part->job.done = done;
    part->job.reply_to = part->r->w;
    list_init(&part->cuts);
    list_init(&part->follows);
}

/* The next of them that may be worked on. */
static struct rlog *pop_follow(struct rpart *part)
{
    struct list *n;

    while (part->role == PARTITION_FOLLOWER && (n = list_pop_front(&part->follows)) != NULL) {
        struct rlog *l = LIST_ENTRY(n, struct rlog, follow_node);

        if (l->log != NULL && !l->busy && log_failed(l->log) == 0)
            return l;
    }
    return NULL;
}

void work_kick(struct rpart *part)
{
    struct list *n;
    struct rlog *l;

    if (part->working != WORK_NONE || part->r->stopping)
        return;
    if (part->step_wanted && pull_is_due(part) && part->role == PARTITION_FOLLOWER && list_empty(&part->cuts)) {
        part->step_wanted = false; /* it comes back when that is done */
        pull_begin(part);
    } else if (part->step_wanted && part->pull == NULL) {
        part->step_wanted = false;
        part->target = part->rec;
        if (pull_is_due(part))
            part->target.leader = 0; /* first a follower, whose logs are scanned */
        submit(part, WORK_STEP);
    } else if (part->park_wanted) {
        part->park_wanted = false;
        submit(part, WORK_PARK);
    } else if (part->unpark_wanted) {
        part->unpark_wanted = false;
        submit(part, WORK_UNPARK);
    } else if (part->repair_wanted) {
        part->repair_wanted = false;
        submit(part, WORK_REPAIR);
    } else if ((n = list_pop_front(&part->cuts)) != NULL) {
        part->work_log = LIST_ENTRY(n, struct rlog, cut_node);
        submit(part, part->work_log->install != NULL ? WORK_INSTALL : WORK_CUT);
    } else if (part->apply_wanted && part->role == PARTITION_FOLLOWER && part->main != NULL && part->main->log != NULL) {
        part->apply_wanted = false;
        part->apply_to = log_hw(part->main->log);
        if (part->apply_to > partition_applied(part->p))
            submit(part, WORK_APPLY);
    }
    if (part->working == WORK_NONE && (l = pop_follow(part)) != NULL) {
        part->work_log = l;
        part->follow_durable = l->follow_durable;
        l->follow_durable = false;
        submit(part, WORK_FOLLOW);
    }
}

void work_follow(struct rlog *l, bool durable)
{
    l->follow_durable |= durable;
    if (list_linked(&l->follow_node))
        return;
    list_push_back(&l->part->follows, &l->follow_node);
    work_kick(l->part);
}

void work_cut(struct rlog *l, int64_t to)
{
    l->busy = true;
    l->cut_to = to;
    list_push_back(&l->part->cuts, &l->cut_node);
    work_kick(l->part);
}

void work_restart(struct rlog *l, int64_t start)
{
    diag_info("a follower's log begins anew at its leader's start", "log=\"%s\" end=%lld start=%lld", log_dir(l->log), (long long)log_end(l->log),
              (long long)start);
    l->restart = true;
    work_cut(l, start);
}

void work_install(struct rlog *l)
{
    list_push_back(&l->part->cuts, &l->cut_node);
    work_kick(l->part);
}
