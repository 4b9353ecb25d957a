/* High watermarks and watches: what the replication tells a log, and what it is told.
 *
 * A high watermark is stored with the log's sync marks (R18: restored at the start), so that what was known to be committed need not wait for the others after a restart. A move marks the log for the next round.
 *
 * The wait mutex of a log orders moves of its high watermark against commits that are about to wait for it, and calls of watches against their removal. */
#include "base/err.h"
#include "log/private.h"

static void call(struct log *l, struct log_watch *w)
{
    if (w != NULL)
        w->changed(w, l);
}

void watch_call(struct log *l)
{
    mutex_lock(log_wait_mutex(l));
    call(l, l->watch);
    mutex_unlock(log_wait_mutex(l));
}

void log_set_watch(struct log *l, struct log_watch *w)
{
    mutex_lock(log_wait_mutex(l));
    __atomic_store_n(&l->watch, w, __ATOMIC_RELEASE);
    mutex_unlock(log_wait_mutex(l));
}

void log_set_hw_watch(struct log *l, struct log_watch *w)
{
    mutex_lock(log_wait_mutex(l));
    l->hw_watch = w;
    mutex_unlock(log_wait_mutex(l));
}

void log_unset_hw_watch(struct log *l, struct log_watch *w)
{
    mutex_lock(log_wait_mutex(l));
    if (l->hw_watch == w)
        l->hw_watch = NULL;
    mutex_unlock(log_wait_mutex(l));
}

bool log_replicated(const struct log *l)
{
    return ALOAD(&l->replicated);
}

int64_t log_hw(const struct log *l)
{
    if (GM_UNLIKELY(!ALOAD(&l->ready)))
        log_touch((struct log *)l);
    return ALOAD(&l->replicated) ? ALOAD(&l->hw) : ALOAD(&l->end);
}

static int64_t bounded(const struct log *l, int64_t hw);

int64_t log_hw_stored(const struct log *l)
{
    if (GM_UNLIKELY(!ALOAD(&l->ready)))
        log_touch((struct log *)l);
    return bounded(l, ALOAD(&l->hw));
}

static int64_t bounded(const struct log *l, int64_t hw)
{
    hw = MIN_OF(hw, ALOAD(&l->end));
    return MAX_OF(hw, ALOAD(&l->start));
}

/* Under the wait mutex. */
static void publish(struct log *l, int64_t hw)
{
    if (hw > ALOADX(&l->hw) && hw > ALOAD(&l->start))
        log_mark_dirty(l);
    ASTORE(&l->hw, hw);
    commits_hw(l, hw);
    call(l, l->hw_watch);
}

void log_set_replicated(struct log *l, bool replicated, int64_t hw)
{
    if (l->memory)
        return;
    (void)log_touch(l);
    mutex_lock(log_wait_mutex(l));
    if (replicated) {
        ASTORE(&l->replicated, true);
        publish(l, bounded(l, hw));
    } else if (l->replicated) {
        ASTORE(&l->replicated, false);
        commits_convert(l);
        call(l, l->hw_watch);
    }
    call(l, l->watch);
    mutex_unlock(log_wait_mutex(l));
}

void log_set_hw(struct log *l, int64_t hw)
{
    mutex_lock(log_wait_mutex(l));
    hw = bounded(l, hw);
    if (l->replicated && hw > l->hw) {
        publish(l, hw);
        call(l, l->watch);
    }
    mutex_unlock(log_wait_mutex(l));
}

void hw_bound(struct log *l)
{
    int64_t hw;

    mutex_lock(log_wait_mutex(l));
    hw = bounded(l, l->hw);
    if (l->replicated && hw != l->hw)
        publish(l, hw);
    call(l, l->watch);
    mutex_unlock(log_wait_mutex(l));
}

void log_fail_commits(struct log *l, int err)
{
    mutex_lock(log_wait_mutex(l));
    l->lost = commits_lose();
    commits_end(l, err);
    mutex_unlock(log_wait_mutex(l));
}

void log_request_sync(struct log *l)
{
    if (!l->memory)
        sync_request(l->store, __atomic_load_n(&l->store->round_open, __ATOMIC_SEQ_CST));
}
