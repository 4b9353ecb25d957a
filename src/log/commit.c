/* Commits: who waits for level quorum.
 *
 * A commit waits for a sync round, for the high watermarks of some logs, or for both. Its place is
 *
 *     log->waits          a node of each log it waits in, ascending by offset: a high watermark that moves pops from the front
 *     queue->armed        of its worker, while it needs a round that is not over: looked through once a round
 *     queue->ready        of its worker, when nothing is left to wait for or something failed, until the worker's mail comes
 *
 * and its state, under the queue's mutex: IDLE (not armed), ARMING (on its way into the lists: ends of waits only count down), WAITING, READY. Whoever ends a wait holds the wait mutex of
 * that log, so that a commit that walked through the mutexes of all its logs is known to nobody but its queue: that is how it is taken apart, by its worker alone.
 *
 * Leadership can be lost between the append and arming, when other records already take the place of those that were waited for. So every loss has a number, a log knows that of its last one, and a commit the number of the
 * last loss before it began, which was before it appended: a log that lost its leadership since then fails it. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "log/private.h"

enum { COMMIT_IDLE, COMMIT_ARMING, COMMIT_WAITING, COMMIT_READY };

static struct commit_queue *queue_of(const struct log_commit *c)
{
    return &c->store->queues[worker_index(c->worker)];
}

static struct log_wait *waits_of(struct log_commit *c)
{
    return c->more != NULL ? c->more : c->inside;
}

static void deliver(struct worker *w, struct mail *m);

/* Under the queue's mutex. True: the caller posts the mail when it has let go. */
static bool want_mail(struct commit_queue *q)
{
    if (q->posted)
        return false;
    q->posted = true;
    q->mail.deliver = deliver;
    return true;
}

/* Under the queue's mutex: nothing is left, or something failed. */
static bool make_ready(struct commit_queue *q, struct log_commit *c)
{
    list_remove(&c->node);
    list_push_back(&q->ready, &c->node);
    c->state = COMMIT_READY;
    return want_mail(q);
}

static bool round_is_over(const struct log_commit *c)
{
    return c->round == 0 || c->round <= ALOAD(&c->store->round_done);
}

/* ---- ends of waits; under the wait mutex of their log -------------------------------------------------------------- */

/* `round` != 0: from now on a sync round is needed instead. */
static void end_wait(struct log_wait *wt, int err, uint64_t round)
{
    struct log_commit *c = wt->commit;
    struct commit_queue *q = queue_of(c);
    bool post = false;

    list_remove(&wt->node);
    mutex_lock(&q->mutex);
    c->left--;
    if (err != 0 && c->err == 0)
        c->err = err;
    if (round > c->round) {
        c->round = round;
        if (c->state == COMMIT_WAITING && !list_linked(&c->node))
            list_push_back(&q->armed, &c->node);
    }
    if (c->state == COMMIT_WAITING && (c->err != 0 || (c->left == 0 && round_is_over(c))))
        post = make_ready(q, c);
    mutex_unlock(&q->mutex);
    if (post)
        worker_post(q->worker, &q->mail);
}

void commits_hw(struct log *l, int64_t hw)
{
    LIST_FOREACH_SAFE(n, &l->waits)
    {
        struct log_wait *wt = LIST_ENTRY(n, struct log_wait, node);

        if (wt->end > hw)
            break;
        end_wait(wt, 0, 0);
    }
}

void commits_end(struct log *l, int err)
{
    LIST_FOREACH_SAFE(n, &l->waits)
    {
        end_wait(LIST_ENTRY(n, struct log_wait, node), err, 0);
    }
}

void commits_convert(struct log *l)
{
    uint64_t round = store_fsync(l->store) == LOG_FSYNC_NEVER ? 0 : __atomic_load_n(&l->store->round_open, __ATOMIC_SEQ_CST);

    if (list_empty(&l->waits))
        return;
    LIST_FOREACH_SAFE(n, &l->waits)
    {
        end_wait(LIST_ENTRY(n, struct log_wait, node), 0, round);
    }
    if (round != 0)
        sync_request(l->store, round);
}

void commits_round_over(struct log_store *s)
{
    for (unsigned i = 0; i < s->queue_count; i++) {
        struct commit_queue *q = &s->queues[i];
        bool post = false;

        mutex_lock(&q->mutex);
        q->round_over = true;
        if (!list_empty(&q->armed))
            post = want_mail(q);
        mutex_unlock(&q->mutex);
        if (post)
            worker_post(q->worker, &q->mail);
    }
}

/* ---- on the commit's worker ------------------------------------------------------------------------------------------- */

/* Takes it out of all logs; afterwards only its queue knows it. */
static void leave_logs(struct log_commit *c)
{
    struct log_wait *wt = waits_of(c);

    for (uint32_t i = 0; i < c->wait_count; i++) {
        struct log *l = wt[i].log;

        mutex_lock(log_wait_mutex(l));
        list_remove(&wt[i].node);
        mutex_unlock(log_wait_mutex(l));
    }
}

/* Nobody else knows it any more. */
static void disarm(struct log_commit *c)
{
    struct log_wait *wt = waits_of(c);

    for (uint32_t i = 0; i < c->wait_count; i++)
        log_unref(wt[i].log);
    mem_free(c->more);
    c->more = NULL;
    c->wait_count = 0;
    c->round = 0;
    c->err = 0;
    c->left = 0;
    c->state = COMMIT_IDLE;
    c->armed = false;
    c->mark = log_commit_mark(); /* of what it waits for next */
}

/* Under the queue's mutex: what needed the rounds that are over. */
static void look_through(struct commit_queue *q)
{
    struct log_store *s = q->store;
    int health = log_store_health(s);

    q->round_over = false;
    LIST_FOREACH_SAFE(n, &q->armed)
    {
        struct log_commit *c = LIST_ENTRY(n, struct log_commit, node);

        if (round_is_over(c)) {
            list_remove(n); /* what is left to wait for are high watermarks */
            if (c->left == 0)
                (void)make_ready(q, c);
        } else if (health != 0) {
            c->err = health;
            (void)make_ready(q, c);
        }
    }
}

static void deliver(struct worker *w, struct mail *m)
{
    struct commit_queue *q = CONTAINER_OF(m, struct commit_queue, mail);
    struct list due;

    (void)w;
    list_init(&due);
    mutex_lock(&q->mutex);
    if (q->round_over)
        look_through(q);
    list_splice(&due, &q->ready);
    q->posted = false;
    mutex_unlock(&q->mutex);
    for (struct list *n; (n = list_pop_front(&due)) != NULL;) {
        struct log_commit *c = LIST_ENTRY(n, struct log_commit, node);
        int err;

        leave_logs(c);
        err = c->err;
        disarm(c);
        c->done(c, err);
    }
}

void log_commit_init(struct log_commit *c, struct worker *w, void (*done)(struct log_commit *c, int err))
{
    memset(c, 0, sizeof(*c));
    c->worker = w;
    c->done = done;
    c->mark = log_commit_mark();
}

static uint64_t losses; /* atomic: of leadership, in this process */

uint64_t log_commit_mark(void)
{
    return ALOAD(&losses);
}

void log_commit_begin(struct log_commit *c)
{
    CHECK(!c->armed && c->wait_count == 0);
    c->mark = log_commit_mark();
}

uint64_t commits_lose(void)
{
    return __atomic_add_fetch(&losses, 1, __ATOMIC_ACQ_REL);
}

void log_commit_since(struct log_commit *c, uint64_t mark)
{
    c->mark = MIN_OF(c->mark, mark);
}

static void add_wait(struct log_commit *c, struct log *l, int64_t end)
{
    struct log_wait *wt = waits_of(c);

    for (uint32_t i = 0; i < c->wait_count; i++) {
        if (wt[i].log == l) {
            wt[i].end = MAX_OF(wt[i].end, end);
            return;
        }
    }
    if (c->wait_count >= LOG_COMMIT_INLINE && (c->wait_count & (c->wait_count - 1)) == 0) {
        struct log_wait *more = mem_alloc(2 * c->wait_count * sizeof(*more));

        memcpy(more, wt, c->wait_count * sizeof(*more));
        mem_free(c->more);
        c->more = wt = more;
    }
    log_ref(l);
    wt[c->wait_count++] = (struct log_wait){.log = l, .commit = c, .end = end};
}

void log_commit_add(struct log_commit *c, struct log *l, int64_t end)
{
    bool replicated = ALOAD(&l->replicated);

    CHECK(!c->armed);
    if (l->memory)
        return;
    c->store = l->store;
    if (replicated)
        add_wait(c, l, end);
    if (end <= ALOAD(&l->durable) || store_fsync(l->store) == LOG_FSYNC_NEVER || (replicated && store_fsync(l->store) != LOG_FSYNC_ALWAYS))
        return;
    /* The append happened before this: if its round was not cut yet it is in it, else in the next, which is then the open one. */
    c->round = MAX_OF(c->round, __atomic_load_n(&l->store->round_open, __ATOMIC_SEQ_CST));
}

bool log_committed(const struct log *l, int64_t end)
{
    enum log_fsync fsync = l->memory ? LOG_FSYNC_NEVER : store_fsync(l->store);

    if (!ALOAD(&l->replicated))
        return fsync == LOG_FSYNC_NEVER || end <= ALOAD(&l->durable);
    return end <= ALOAD(&l->hw) && (fsync != LOG_FSYNC_ALWAYS || end <= ALOAD(&l->durable));
}

/* 1: it waits there now; 0: satisfied, but perhaps for *ret_round; ERR_NOT_LEADER. */
static int join(struct log_wait *wt, uint64_t *ret_round)
{
    struct log *l = wt->log;
    struct list *at;
    int rc = 0;

    mutex_lock(log_wait_mutex(l));
    if (ALOAD(&l->deleted)) {
        ;
    } else if (l->lost > wt->commit->mark) {
        rc = ERR_NOT_LEADER;
    } else if (!ALOAD(&l->replicated)) { /* since it was added */
        if (store_fsync(l->store) != LOG_FSYNC_NEVER && wt->end > ALOAD(&l->durable))
            *ret_round = __atomic_load_n(&l->store->round_open, __ATOMIC_SEQ_CST);
    } else if (wt->end > ALOAD(&l->hw)) {
        for (at = l->waits.prev; at != &l->waits && LIST_ENTRY(at, struct log_wait, node)->end > wt->end; at = at->prev)
            ;
        list_push_front(at, &wt->node); /* behind `at` */
        rc = 1;
    }
    mutex_unlock(log_wait_mutex(l));
    return rc;
}

/* All waits that were to be joined are: what is it now? *ret_post: the mail is to be posted, *ret_round: a round to be asked for. False: satisfied. */
static bool settle(struct log_commit *c, uint32_t passed, uint64_t round, int err, bool *ret_post, uint64_t *ret_round)
{
    struct commit_queue *q = queue_of(c);
    bool waits = true;

    mutex_lock(&q->mutex);
    c->left -= passed + 1;
    c->round = MAX_OF(c->round, round);
    if (c->err == 0)
        c->err = err;
    if (c->err != 0) {
        *ret_post = make_ready(q, c);
    } else if (!round_is_over(c)) {
        c->state = COMMIT_WAITING;
        list_push_back(&q->armed, &c->node);
        *ret_round = c->round;
        if (log_store_health(c->store) != 0) { /* no round comes any more to end it */
            q->round_over = true;
            *ret_post = want_mail(q);
        }
    } else if (c->left > 0) {
        c->state = COMMIT_WAITING;
    } else {
        waits = false;
    }
    mutex_unlock(&q->mutex);
    return waits;
}

bool log_commit_arm(struct log_commit *c)
{
    struct log_wait *wt = waits_of(c);
    struct log_store *s = c->store;
    uint32_t passed = 0;
    uint64_t round = 0, wanted = 0;
    bool post = false;
    int err = 0;

    CHECK(!c->armed);
    if (c->round == 0 && c->wait_count == 0)
        return true;
    c->armed = true;
    c->left = c->wait_count + 1; /* nobody can see it ready before all are in */
    c->state = COMMIT_ARMING;
    for (uint32_t i = 0; i < c->wait_count; i++) {
        int rc = join(&wt[i], &round);

        passed += rc != 1;
        if (rc < 0)
            err = rc;
    }
    if (!settle(c, passed, round, err, &post, &wanted)) {
        disarm(c);
        return true;
    }
    if (post)
        worker_post(c->worker, &s->queues[worker_index(c->worker)].mail);
    if (wanted != 0)
        sync_request(s, wanted);
    return false;
}

void log_commit_cancel(struct log_commit *c)
{
    struct commit_queue *q;

    if (c->armed) {
        q = queue_of(c);
        leave_logs(c);
        mutex_lock(&q->mutex);
        list_remove(&c->node);
        mutex_unlock(&q->mutex);
    }
    disarm(c);
}
