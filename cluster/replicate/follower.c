/* Following: one fetcher a leader node, for all partitions followed from it.
 *
 *     subscribe   a partition's logs with their ends go into the next request (R7: from this log's end, with the epoch of its last batch)
 *     fetch       one request is long-polled by the leader; news that should not wait for it overtakes it in a second one, and the leader answers the first at once
 *     take        of an answer: R14 (only of the epoch that is played), R12 (only what begins at the end), R11 (cut where epochs part), R13 and rule 3 (out of range), R18 (high watermark)
 *     report      whatever was sent for a log is answered by its position in the next request, also when it could not be taken
 *
 * A request that fails, or a leader that forgot the session, begins it anew: all positions are told again. */
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"
#include "metrics/metrics.h"
#include "queue/queue.h"

#define BACKOFF_US 20000
#define BACKOFF_MAX_US 500000
#define RETRY_APPEND_US 1000000
#define FOLLOW_BYTES (1u << 20)   /* a queue's log grown by this is followed (queue_follow); one of this size is, once, though it does not grow */
#define FOLLOW_AGAIN_US 1000000   /* for a checkpoint of this queue that says enough to follow its leader's start */
#define FOLLOW_KEPT_US 60000000   /* what is kept of a partition's queues is let go when they rest */

static void fetched(struct bus_call *c, int err, struct slice payload);

struct fetcher *fetcher_of(struct replication *r, uint32_t node_id)
{
    struct rpeer *peer = peer_get(r, node_id);
    struct fetcher *f = peer->fetcher;

    if (f != NULL)
        return f;
    f = peer->fetcher = mem_zalloc(sizeof(*f));
    f->r = r;
    f->peer = peer;
    list_init(&f->report);
    list_init(&f->subscribe);
    list_init(&f->refused);
    list_init(&f->followed);
    for (unsigned i = 0; i < ARRAY_LEN(f->calls); i++) {
        f->calls[i].f = f;
        f->calls[i].call.worker = r->w;
        f->calls[i].call.done = fetched;
    }
    return f;
}

static void forget_reports(struct rpart *part)
{
    LIST_FOREACH(node, &part->logs)
    {
        list_remove(&LIST_ENTRY(node, struct rlog, node)->report);
    }
}

void fetcher_unfollow(struct rpart *part)
{
    struct list *n;

    /* What was to be cut for this leader must not be cut for the next, or for none. */
    while ((n = list_pop_front(&part->cuts)) != NULL) {
        struct rlog *l = LIST_ENTRY(n, struct rlog, cut_node);

        l->busy = l->restart = false;
        if (l->install != NULL)
            install_drop(l);
    }
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        l->missed_hw = -1;
        l->leader_start = 0;
        install_cancel(l);
    }
    forget_reports(part);
    while (list_pop_front(&part->follows) != NULL)
        ; /* the next leader's news bring them back */
    list_remove(&part->fetch_node);
    if (part->following != NULL)
        list_remove(&part->followed_node);
    part->following = NULL;
    part->subscribed = false;
}

static void subscribe(struct rpart *part)
{
    struct fetcher *f = part->following;

    forget_reports(part);
    part->subscribed = false;
    list_remove(&part->fetch_node);
    list_push_back(&f->subscribe, &part->fetch_node);
    f->urgent = true;
}

void fetcher_resubscribe(struct rpart *part)
{
    if (part->following == NULL)
        return;
    subscribe(part);
    fetcher_kick(part->following);
}

void fetcher_follow(struct rpart *part)
{
    fetcher_unfollow(part);
    if (part->leader == 0)
        return;
    part->following = fetcher_of(part->r, part->leader);
    list_push_back(&part->following->followed, &part->followed_node);
    subscribe(part);
    fetcher_kick(part->following);
}

void fetcher_report(struct rlog *l, bool urgent)
{
    struct rpart *part = l->part;
    struct fetcher *f = part->following;

    if (f == NULL || !part->subscribed || l->log == NULL || l->busy)
        return; /* a subscription tells all positions; a log at work tells its own when it is done */
    if (l->report.next == NULL)
        list_push_back(&f->report, &l->report);
    if (urgent) {
        f->urgent = true;
        fetcher_kick(f);
    } else {
        replication_arm_soon(part->r);
    }
}

/* ---- asking ------------------------------------------------------------------------------------------------------------------ */

/* D6: a copy that cannot be trusted any more is told of as empty, so that it leaves the in-sync set and is never elected; nothing of it is cut. */
static bool has_failed(const struct rlog *l)
{
    return log_failed(l->log) != 0 || log_store_health(l->part->r->o.logs) != 0 ||
           (l->key.kind == LOG_MAIN && partition_state(l->part->p) == PARTITION_FAILED);
}

static void put_position(struct buf *b, struct rlog *l)
{
    struct fetch_position p = {.key = l->key, .end = log_end(l->log), .durable = log_durable(l->log), .epoch = log_last_epoch(l->log)};

    if (has_failed(l)) {
        p.end = p.durable = 0;
        p.epoch = -1;
    }
    p.durable = MIN_OF(p.durable, p.end);
    l->told_durable = p.durable;
    fetch_position_put(b, &p);
}

/* Tells of all logs of a partition but those that work cuts; they tell when they are done. */
static unsigned put_subscription(struct buf *positions, struct rpart *part)
{
    unsigned n = 0;

    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        if (l->log == NULL || l->busy)
            continue;
        l->covers_read = false; /* this node may have led since, and written one */
        l->looked = false;
        put_position(positions, l);
        n++;
    }
    return n;
}

static void put_request(struct fetcher *f, struct buf *b, bool wait)
{
    struct fetch_request q = {.session = f->session, .wait_ms = wait ? FETCH_WAIT_MS : 0, .max_bytes = FETCH_BYTES};
    struct buf parts = {0}, positions = {0};
    struct list *n;
    unsigned count = 0;

    while (count < POSITIONS_MAX && (n = list_pop_front(&f->subscribe)) != NULL) {
        struct rpart *part = LIST_ENTRY(n, struct rpart, fetch_node);

        fetch_part_put(&parts, part->index, FETCH_SUBSCRIBE, part->epoch);
        q.parts++;
        count += put_subscription(&positions, part);
        part->subscribed = true;
        part->subscribed_in = f->requests;
    }
    while (count < POSITIONS_MAX && (n = list_pop_front(&f->report)) != NULL) {
        put_position(&positions, LIST_ENTRY(n, struct rlog, report));
        count++;
    }
    fetch_request_put(b, &q);
    buf_put_slice(b, buf_slice(&parts));
    buf_put_slice(b, buf_slice(&positions));
    buf_fini(&parts);
    buf_fini(&positions);
}

/* Everything is told again. */
static void begin_anew(struct fetcher *f)
{
    f->session = 0;
    LIST_FOREACH(node, &f->followed)
    {
        subscribe(LIST_ENTRY(node, struct rpart, followed_node));
    }
}

void fetcher_kick(struct fetcher *f)
{
    struct replication *r = f->r;
    struct fetch_call *idle = NULL;
    unsigned under_way = 0;
    struct buf b = {0};
    bool more;

    if (r->stopping || !r->started)
        return;
    for (unsigned i = 0; i < ARRAY_LEN(f->calls); i++) {
        if (f->calls[i].busy)
            under_way++;
        else
            idle = &f->calls[i];
    }
    /* A session begins with one request; what overtakes needs its id. */
    if (idle == NULL || list_empty(&f->followed) || (under_way != 0 && (!f->urgent || f->session == 0)))
        return;
    if (replication_now_us() < f->not_before_us) {
        replication_arm_soon(r);
        return;
    }
    f->urgent = false;
    more = false;
    f->requests++;
    idle->number = f->requests;
    put_request(f, &b, true);
    more = !list_empty(&f->report) || !list_empty(&f->subscribe);
    idle->busy = true;
    idle->session = f->session;
    if (more)
        f->urgent = true; /* the rest overtakes it when the session is known */
    bus_call(r->o.bus, f->peer->node_id, BUS_FETCH, buf_slice(&b), FETCH_TIMEOUT_MS, &idle->call);
    buf_fini(&b);
}

/* ---- taking -------------------------------------------------------------------------------------------------------------------- */

/* R11, in two steps where the follower has epochs the leader's answer does not know of. */
static int64_t cut_point(struct log *log, int32_t epoch, int64_t end)
{
    int64_t leo = log_end(log), own_end;
    int32_t own;

    if (log_epoch_end(log, epoch, &own, &own_end) != 0)
        return MIN_OF(end, leo);
    if (own != epoch)
        return MIN_OF(own_end, leo);
    return MIN_OF(MIN_OF(own_end, end), leo);
}

static void cut(struct rlog *l, int64_t to)
{
    int64_t end = log_end(l->log);

    if (to >= end) {
        fetcher_report(l, true);
        return;
    }
    to = MAX_OF(to, log_start(l->log));
    diag_info("a follower's log parts from its leader's and is cut", "log=\"%s\" end=%lld to=%lld hw=%lld", log_dir(l->log), (long long)end,
              (long long)to, (long long)log_hw(l->log));
    metrics_add(METRIC_REPLICA_CUTS, 1);
    work_cut(l, to);
}

void follower_cut(struct rlog *l, int32_t epoch, int64_t end)
{
    cut(l, cut_point(l->log, epoch, end));
}

static void out_of_range(struct rlog *l, const struct fetch_log *a)
{
    int64_t end = log_end(l->log);

    if (a->end < end) {
        cut(l, a->end); /* R13 */
    } else if (a->start > end) {
        if (l->key.kind == LOG_TOPIC)
            work_restart(l, a->start);
        else
            install_want(l, true);
    } else {
        fetcher_report(l, true);
    }
}

/* Whether this queue's checkpoint explains that its leader has nothing between two offsets below `end`: only what was settled at S was dropped (rule 7). */
static bool covers(struct rlog *l, int64_t end)
{
    if (l->covers < end && !l->covers_read) {
        l->covers_read = true; /* it changes only by what is installed */
        l->covers = queue_checkpoint_covers(l->part->r->o.data_dir, l->key.partition, l->key.id);
    }
    return l->covers >= end;
}

/* The end of the last hole in front of or between batches, -1: none. */
static int64_t last_hole(struct rlog *l, struct slice data)
{
    int64_t next = log_end(l->log), hole = -1;

    for (size_t at = 0; at < data.len;) {
        struct batch_header h;

        if (batch_header_read(data.data + at, data.len - at, &h) != 0)
            break; /* the append finds out */
        if (h.base_offset > next)
            hole = h.base_offset;
        next = h.base_offset + h.last_offset_delta + 1;
        at += h.length;
    }
    return hole;
}

/* What it holds is followed up to the high watermark, so that this node can lead it at once, and what is dead of it goes. */
static void queue_grew(struct rlog *l, size_t bytes)
{
    l->grown += bytes;
    if (l->grown < FOLLOW_BYTES)
        return;
    l->grown = 0;
    work_follow(l, false);
}

static void append(struct rlog *l, struct slice data)
{
    struct partition *p = l->part->p;
    struct batch_header h;
    int64_t end;
    int err = batch_header_read(data.data, data.len, &h);

    if (err != 0 || h.base_offset < log_end(l->log)) {
        fetcher_report(l, true); /* R12: it does not begin where this log ends */
        return;
    }
    if (h.leader_epoch > l->part->epoch) {
        fetcher_report(l, true); /* R12: a late answer of a later epoch */
        return;
    }
    if (l->key.kind == LOG_QUEUE && last_hole(l, data) >= 0 && !covers(l, last_hole(l, data))) {
        install_want(l, false);
        return;
    }
    err = l->key.kind == LOG_MAIN ? partition_append_replica(p, data.data, data.len, &end) : log_append_replica(l->log, data.data, data.len, &end);
    if (err == 0) {
        metrics_add(METRIC_REPLICA_FETCHED_BYTES, data.len);
        fetcher_report(l, true);
        if (l->key.kind == LOG_QUEUE)
            queue_grew(l, data.len);
        return;
    }
    DIAG_EVERY(DIAG_WARN, "a follower cannot append", "log=\"%s\" error=%s", log_dir(l->log), err_name(err));
    l->retry_us = replication_now_us() + RETRY_APPEND_US;
    l->part->retry_appends = true;
}

/* The leader has dropped what is settled; with a checkpoint that says so, so may we. Ours will, when it is written at the high watermark. */
void follower_follow_start(struct rlog *l)
{
    if (l->key.kind != LOG_QUEUE || l->busy || l->leader_start <= log_start(l->log) || l->leader_start > log_hw(l->log))
        return;
    if (l->part->working == WORK_FOLLOW && l->part->work_log == l)
        return; /* it is being read; looked at again when that is done */
    if (covers(l, l->leader_start)) {
        log_advance_start(l->log, l->leader_start);
    } else if (replication_now_us() >= l->follow_us) {
        l->follow_us = replication_now_us() + FOLLOW_AGAIN_US;
        work_follow(l, true);
    } else {
        l->retry_us = l->follow_us;
        l->part->retry_appends = true;
    }
}

static void take_watermark(struct rlog *l, const struct fetch_log *a)
{
    struct rpart *part = l->part;
    int64_t hw = MIN_OF(a->hw, log_end(l->log)); /* R18 */

    if (hw > log_hw(l->log))
        log_set_hw(l->log, hw);
    if (l->key.kind == LOG_TOPIC && a->start > log_start(l->log) && a->start <= log_end(l->log))
        log_advance_start(l->log, a->start); /* R20 */
    l->leader_start = a->start;
    follower_follow_start(l);
    if (l->key.kind == LOG_QUEUE && !l->looked && !l->busy) {
        l->looked = true;
        if (log_bytes(l->log) >= FOLLOW_BYTES)
            work_follow(l, false);
    }
    if (l->key.kind == LOG_MAIN && log_hw(l->log) > partition_applied(part->p)) {
        part->apply_wanted = true;
        replication_arm_soon(part->r);
    }
}

void follower_work_done(struct rlog *l)
{
    struct rpart *part = l->part;

    if (part->role != PARTITION_FOLLOWER || l->log == NULL)
        return;
    fetcher_report(l, true);
    if (l->missed_hw >= 0 && MIN_OF(l->missed_hw, log_end(l->log)) > log_hw(l->log))
        log_set_hw(l->log, MIN_OF(l->missed_hw, log_end(l->log)));
    l->missed_hw = -1;
    follower_follow_start(l);
    if (l->key.kind == LOG_MAIN)
        part->apply_wanted = true; /* memory may have been rebuilt */
}

static void take_log(struct fetcher *f, const struct fetch_log *a)
{
    struct replication *r = f->r;
    struct rpart *part;
    struct rlog *l;
    int err;

    if (a->key.partition >= r->count)
        return;
    part = &r->parts[a->key.partition];
    if (part->following != f || part->role != PARTITION_FOLLOWER || part->epoch != a->epoch || part->working == WORK_STEP || part->step_wanted)
        return; /* R14 */
    l = rlog_get(part, &a->key);
    if (l->busy) {
        l->missed_hw = a->hw; /* it is told once: taken when the work is done */
        l->leader_start = a->start;
        return;
    }
    if (l->log == NULL) {
        err = rlog_open(l);
        if (err != 0) {
            /* The topology will name it in a moment (logs.c looks again), or the object is gone. */
            if (err != ERR_NOT_FOUND)
                DIAG_EVERY(DIAG_WARN, "a log cannot be opened", "partition=%u kind=%u id=%llu error=%s", part->index, a->key.kind,
                           (unsigned long long)a->key.id, err_name(err));
            return;
        }
    }
    if (has_failed(l)) {
        repair_look(part);
        if (a->status != FETCH_POSITION) {
            l->retry_us = replication_now_us() + RETRY_APPEND_US;
            part->retry_appends = true;
        }
        return;
    }
    switch (a->status) {
    case FETCH_DATA:
        if (a->data.len != 0)
            append(l, a->data);
        break;
    case FETCH_DIVERGED:
        follower_cut(l, a->diverged_epoch, a->end);
        break;
    case FETCH_RANGE:
        out_of_range(l, a);
        break;
    case FETCH_POSITION:
        break;
    }
    if (!l->busy)
        take_watermark(l, a);
}

static void take_verdict(struct fetcher *f, uint32_t index, enum fetch_verdict verdict, int32_t epoch)
{
    struct rpart *part = index < f->r->count ? &f->r->parts[index] : NULL;

    (void)epoch;
    if (part == NULL || part->following != f || verdict == FETCH_OK)
        return;
    /* One of us has not heard of the newest record yet. */
    part->subscribed = false;
    forget_reports(part);
    part->subscribe_not_before_us = replication_now_us() + BACKOFF_US;
    list_remove(&part->fetch_node);
    list_push_back(&f->refused, &part->fetch_node);
    replication_arm_soon(f->r);
}

static int take(struct fetcher *f, struct slice payload)
{
    struct reader rd = reader_of(payload);
    struct fetch_answer a;
    int err = fetch_answer_get(&rd, &a);

    if (err != 0)
        return err;
    if (a.unknown_session) {
        begin_anew(f);
        return 0;
    }
    f->session = a.session;
    for (uint64_t i = 0; i < a.parts && err == 0; i++) {
        uint32_t partition;
        enum fetch_verdict verdict;
        int32_t epoch;

        err = fetch_verdict_get(&rd, &partition, &verdict, &epoch);
        if (err == 0)
            take_verdict(f, partition, verdict, epoch);
    }
    while (err == 0 && reader_left(&rd) > 0) {
        struct fetch_log l;

        err = fetch_log_get(&rd, &l);
        if (err == 0)
            take_log(f, &l);
    }
    return err;
}

static void fetched(struct bus_call *c, int err, struct slice payload)
{
    struct fetch_call *call = CONTAINER_OF(c, struct fetch_call, call);
    struct fetcher *f = call->f;
    bool stale = call->session != f->session && call->session != 0;

    call->busy = false;
    if (f->r->stopping)
        return;
    if (err == 0 && !stale)
        err = take(f, payload);
    if (err != 0 && !stale) {
        uint64_t wait = MIN_OF((uint64_t)BACKOFF_US << MIN_OF(f->failures, 5u), (uint64_t)BACKOFF_MAX_US);

        f->failures++;
        f->not_before_us = replication_now_us() + wait;
        begin_anew(f);
    } else if (err == 0) {
        f->failures = 0;
        if (!stale)
            f->answered = MAX_OF(f->answered, call->number);
    }
    fetcher_kick(f);
}

/* ---- timers ------------------------------------------------------------------------------------------------------------------------ */

static void look_again(struct fetcher *f, uint64_t now)
{
    LIST_FOREACH_SAFE(node, &f->refused)
    {
        struct rpart *part = LIST_ENTRY(node, struct rpart, fetch_node);

        if (now >= part->subscribe_not_before_us)
            subscribe(part);
    }
    if (!list_empty(&f->refused))
        replication_arm_soon(f->r);
    if (!list_empty(&f->report) || !list_empty(&f->subscribe))
        f->urgent = true;
    fetcher_kick(f);
}

void fetchers_soon(struct replication *r, uint64_t now)
{
    LIST_FOREACH(node, &r->peers)
    {
        struct rpeer *peer = LIST_ENTRY(node, struct rpeer, node);

        if (peer->fetcher != NULL)
            look_again(peer->fetcher, now);
    }
}

/* Logs whose append failed are asked for again. */
void fetchers_tick(struct replication *r, uint64_t now)
{
    for (uint32_t i = 0; i < r->count; i++) {
        struct rpart *part = &r->parts[i];

        if (part->followed_us != 0 && now - part->followed_us > FOLLOW_KEPT_US && part->working == WORK_NONE) {
            part->followed_us = 0;
            queue_unfollow(partition_queues(part->p), 0);
        }
        if (part->following == NULL || !part->retry_appends)
            continue;
        part->retry_appends = false;
        LIST_FOREACH(node, &part->logs)
        {
            struct rlog *l = LIST_ENTRY(node, struct rlog, node);

            if (l->retry_us == 0)
                continue;
            if (now < l->retry_us) {
                part->retry_appends = true;
                continue;
            }
            l->retry_us = 0;
            fetcher_report(l, true);
            if (l->log != NULL)
                follower_follow_start(l);
            if (l->follow_waits)
                work_follow(l, false);
            l->follow_waits = false;
        }
    }
}

void fetcher_free(struct fetcher *f)
{
    if (f == NULL)
        return;
    mem_free(f);
}
