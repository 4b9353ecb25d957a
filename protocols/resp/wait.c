#include "protocols/resp/wait.h"

#include "base/err.h"
#include "base/mem.h"
#include "cluster/replicate/replicate.h"
#include "protocols/resp/blocked.h"
#include "protocols/resp/cluster.h"
#include "protocols/resp/handlers.h"

struct write_end {
    uint32_t partition;
    int64_t end;
};

/* What a session wrote since a WAIT was last satisfied, in ascending order of partitions. */
struct writes {
    uint32_t count, cap;
    uint32_t latest; /* index of the last one noted */
    struct write_end *ends; /* owned */
};

void wait_note_write(struct session *s, uint32_t partition, int64_t end)
{
    struct writes *w = s->writes;
    uint32_t low = 0, high;

    if (w == NULL)
        w = s->writes = mem_zalloc(sizeof(*w));
    if (w->latest < w->count && w->ends[w->latest].partition == partition) {
        w->ends[w->latest].end = end;
        return;
    }
    high = w->count;
    while (low < high) {
        uint32_t mid = (low + high) / 2;

        if (w->ends[mid].partition < partition)
            low = mid + 1;
        else
            high = mid;
    }
    w->latest = low;
    if (low < w->count && w->ends[low].partition == partition) {
        w->ends[low].end = end;
        return;
    }
    if (w->count == w->cap) {
        w->cap = MAX_OF(w->cap * 2, 4u);
        w->ends = mem_realloc(w->ends, w->cap * sizeof(w->ends[0]));
    }
    memmove(w->ends + low + 1, w->ends + low, (w->count - low) * sizeof(w->ends[0]));
    w->ends[low] = (struct write_end){partition, end};
    w->count++;
}

void wait_forget(struct session *s)
{
    if (s->writes == NULL)
        return;
    mem_free(s->writes->ends);
    mem_free(s->writes);
    s->writes = NULL;
}

/* ---- a wait ---- */

struct replica_wait;

struct watched_partition {
    struct replication_waiter waiter;
    struct replica_wait *owner;
    struct partition *p;
    int64_t end;
};

/* One client's wait. It outlives the wait by the mails that are under way. */
struct replica_wait {
    struct blocked_condition condition;
    struct replication *replication;
    struct partitions *partitions;
    struct log_commit commit; /* a node alone: the sync round that covers its logs */
    bool committed;
    uint32_t replicas;        /* asked for */
    bool local, aof;          /* WAITAOF; and whether it asked for the local disk */
    uint32_t count;
    uint32_t mails; /* when the wait is over: still under way */
    struct watched_partition watched[];
};

/* How many replicas have everything (on disk); *ret_local: whether this node's disk has. */
static uint32_t count_acked(const struct replica_wait *w, bool *ret_local)
{
    uint32_t least = UINT32_MAX;

    *ret_local = w->count > 0 || w->committed;
    for (uint32_t i = 0; i < w->count; i++) {
        const struct watched_partition *wp = &w->watched[i];
        uint32_t n = replication_acked(w->replication, wp->p, wp->end, w->aof);

        least = MIN_OF(least, n);
        *ret_local = *ret_local && log_durable(partition_main_log(wp->p)) >= wp->end;
    }
    return least == UINT32_MAX ? 0 : least;
}

static bool is_met(const struct replica_wait *w)
{
    bool local;
    uint32_t n = count_acked(w, &local);

    return n >= w->replicas && (!w->local || local);
}

static void write_counts(struct blocked_condition *c, struct reply *r)
{
    struct replica_wait *w = CONTAINER_OF(c, struct replica_wait, condition);
    bool local;
    uint32_t n = count_acked(w, &local);

    if (w->aof) {
        reply_array(r, 2);
        reply_int(r, local);
    }
    reply_int(r, n);
    /* Satisfied: the next WAIT covers what is written from now on. */
    if (is_met(w) && c->session != NULL && c->session->writes != NULL)
        c->session->writes->count = c->session->writes->latest = 0;
}

static void release(struct blocked_condition *c)
{
    struct replica_wait *w = CONTAINER_OF(c, struct replica_wait, condition);

    for (uint32_t i = 0; i < w->count; i++) {
        replication_unwait(w->replication, &w->watched[i].waiter);
        w->mails += __atomic_load_n(&w->watched[i].waiter.posted, __ATOMIC_ACQUIRE);
    }
    log_commit_cancel(&w->commit);
    if (w->mails == 0)
        mem_free(w);
}

static void moved(struct replication_waiter *waiter)
{
    struct replica_wait *w = CONTAINER_OF(waiter, struct watched_partition, waiter)->owner;

    if (w->condition.session == NULL) {
        if (--w->mails == 0)
            mem_free(w);
    } else if (is_met(w)) {
        blocked_end(w->condition.session, false);
    }
}

static void synced(struct log_commit *commit, int err)
{
    struct replica_wait *w = CONTAINER_OF(commit, struct replica_wait, commit);

    w->committed = err == 0;
    if (is_met(w))
        blocked_end(w->condition.session, false);
}

static void watch_end(struct replica_wait *w, struct worker *worker, uint32_t partition, int64_t end)
{
    struct watched_partition *wp = &w->watched[w->count++];

    wp->owner = w;
    wp->p = partitions_get(w->partitions, partition);
    wp->end = end;
    wp->waiter.worker = worker;
    wp->waiter.changed = moved;
}

/* What there is to wait for: the partitions written to, or, when nothing was, all that are led here, from their beginning. */
static struct replica_wait *wait_new(struct exec *x, int64_t replicas, bool local, bool aof)
{
    struct resp_front *f = x->w->front;
    const struct writes *writes = x->s->writes;
    uint32_t written = writes != NULL ? writes->count : 0, all = partitions_count(f->o.partitions);
    uint32_t room = !cluster_on(f) ? 0 : written != 0 ? written : all;
    struct replica_wait *w = mem_zalloc(sizeof(*w) + sizeof(w->watched[0]) * room);

    w->condition.reply = write_counts;
    w->condition.release = release;
    w->replication = f->replication;
    w->partitions = f->o.partitions;
    w->replicas = (uint32_t)MIN_OF(replicas, (int64_t)UINT32_MAX);
    w->local = local;
    w->aof = aof;
    log_commit_init(&w->commit, x->w->worker, synced);
    for (uint32_t i = 0; i < written && cluster_on(f); i++)
        watch_end(w, x->w->worker, writes->ends[i].partition, writes->ends[i].end);
    for (uint32_t i = 0; i < all && written == 0 && cluster_on(f); i++)
        if (cluster_leads(f, i))
            watch_end(w, x->w->worker, i, 0);
    return w;
}

/* On a node alone the sync round that follows covers whatever was written before. */
static void wait_for_disk(struct exec *x, struct replica_wait *w)
{
    struct partitions *ps = x->w->front->o.partitions;

    for (uint32_t i = 0; i < partitions_count(ps); i++) {
        struct log *l = partition_main_log(partitions_get(ps, i));

        if (partition_state(partitions_get(ps, i)) == PARTITION_OPEN && log_durable(l) < log_end(l))
            log_commit_add(&w->commit, l, log_end(l));
    }
    w->committed = log_commit_arm(&w->commit);
}

static void wait_for(struct exec *x, int64_t replicas, bool local, bool aof, uint64_t timeout_ms)
{
    struct replica_wait *w = wait_new(x, replicas, local, aof);
    bool alone = !cluster_on(x->w->front);

    if (alone && local)
        wait_for_disk(x, w);
    if (is_met(w) || x->in_exec) {
        w->condition.session = x->s;
        write_counts(&w->condition, &x->r);
        w->count = 0; /* none is registered */
        release(&w->condition);
        return;
    }
    for (uint32_t i = 0; i < w->count; i++) {
        replication_wait(w->replication, w->watched[i].p, &w->watched[i].waiter);
        if (local)
            log_request_sync(partition_main_log(w->watched[i].p));
    }
    blocked_on_condition(x, timeout_ms, &w->condition);
    /* It may have come true while it was registered. */
    if (is_met(w))
        blocked_end(x->s, false);
}

/* ---- the commands ---- */

static bool arg_timeout(struct exec *x, uint32_t i, uint64_t *ret)
{
    int64_t v;

    if (!slice_to_i64(x->argv[i], &v)) {
        reply_error(&x->r, "ERR timeout is not an integer or out of range");
        return false;
    }
    if (v < 0) {
        reply_error(&x->r, "ERR timeout is negative");
        return false;
    }
    *ret = (uint64_t)v;
    return true;
}

void cmd_wait(struct exec *x)
{
    int64_t replicas;
    uint64_t timeout_ms;

    if (exec_arg_int(x, 1, &replicas) && arg_timeout(x, 2, &timeout_ms))
        wait_for(x, MAX_OF(replicas, (int64_t)0), false, false, timeout_ms);
}

void cmd_waitaof(struct exec *x)
{
    int64_t local, replicas;
    uint64_t timeout_ms;

    if (!exec_arg_int(x, 1, &local))
        return;
    if (local < 0 || local > 1) {
        reply_error(&x->r, "ERR value is out of range, must be between 0 and 1");
        return;
    }
    if (!exec_arg_int(x, 2, &replicas))
        return;
    if (replicas < 0) {
        reply_error(&x->r, "ERR value is out of range, must be positive");
        return;
    }
    if (arg_timeout(x, 3, &timeout_ms))
        wait_for(x, replicas, local == 1, true, timeout_ms);
}
