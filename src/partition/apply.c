/* A follower's memory: applied from its main log up to the high watermark, so that taking over is quick and replica reads never show what may vanish (rule 2).
 *
 *     applied   memory is exactly the log up to here. While this node leads that is the log's end; a leader that stops leaves its memory at the end it had
 *     cut       the log was cut below `applied`: memory is thrown away and built from snapshot and log again
 *
 * The cursor is kept from one call to the next: it may have read ahead what is cut later, so every cut makes it begin anew. */
#include <stdio.h>

#include "base/diag.h"
#include "kv/snapshot.h"
#include "partition/private.h"

#define WINDOW (64u << 10)

int64_t partition_applied(const struct partition *p)
{
    return partition_writes(p) ? log_end(p->main) : ALOAD(&p->applied);
}

/* Under the lock. */
int partition_reload(struct partition *p)
{
    int64_t from, whole;
    int err;

    kv_snapshot_restart(p->kv); /* a walk that is under way begins anew */
    kv_clear(p->kv);
    err = partition_load_snapshot(p, &from, &whole);
    if (err != 0)
        return err;
    /* A leader's snapshot was installed, and the node died before the log began anew behind it. */
    if (log_end(p->main) < from)
        err = log_restart_at(p->main, from);
    if (err != 0)
        return err;
    if (log_start(p->main) > from)
        return ERR_CORRUPT;
    ASTORE(&p->stale_from, whole);
    ASTORE(&p->applied, from);
    __atomic_fetch_add(&p->cuts, 1, __ATOMIC_RELEASE);
    return 0;
}

int partition_apply(struct partition *p, int64_t to) NO_THREAD_SAFETY_ANALYSIS /* partition_unlock gives it back */
{
    uint32_t cuts = ALOAD(&p->cuts);
    int err = 0;

    to = MIN_OF(to, log_end(p->main));
    /* While this node led, memory went on without it. */
    if (p->apply.kv == NULL || cuts != p->apply_cuts || p->apply.next != ALOAD(&p->applied)) {
        replay_fini(&p->apply);
        replay_init(&p->apply, p, ALOAD(&p->applied), WINDOW);
        p->apply_cuts = cuts;
    }
    while (err == 0 && ALOADX(&p->applied) < to && partition_state(p) == PARTITION_OPEN && !ALOAD(&p->ps->stopping)) {
        int64_t from = p->apply.next;
        int more = replay_gather(&p->apply, to);

        if (more <= 0) {
            err = more;
            break;
        }
        partition_lock_background(p);
        if (ALOADX(&p->applied) == from && ALOAD(&p->cuts) == cuts) {
            err = replay_apply(&p->apply);
            if (err == 0)
                ASTORE(&p->applied, p->apply.next);
        } else {
            err = ERR_AGAIN; /* it was rebuilt meanwhile */
        }
        partition_note_counts(p);
        partition_unlock(p);
    }
    if (err != 0)
        replay_fini(&p->apply);
    if (err == ERR_CORRUPT || err == ERR_LEVEL || err == ERR_IO)
        partition_fail(p, err, err == ERR_LEVEL ? "an effect of a kind this version does not know" : "its main log cannot be applied");
    return err;
}

int partition_apply_cut(struct partition *p, int64_t end) NO_THREAD_SAFETY_ANALYSIS
{
    int err = 0;

    __atomic_fetch_add(&p->cuts, 1, __ATOMIC_RELEASE);
    if (ALOAD(&p->applied) <= end)
        return 0;
    diag_info("the log was cut below what memory held; memory is rebuilt", "partition=%u applied=%lld end=%lld", p->index,
              (long long)ALOAD(&p->applied), (long long)end);
    partition_lock_background(p);
    err = partition_reload(p);
    if (err != 0)
        partition_fail(p, err, "its memory could not be rebuilt from its snapshot and log");
    partition_note_counts(p);
    partition_unlock(p);
    return err;
}

int partition_apply_snapshot(struct partition *p) NO_THREAD_SAFETY_ANALYSIS
{
    int err;

    partition_lock_background(p);
    err = partition_reload(p);
    if (err != 0)
        partition_fail(p, err, "a snapshot that was installed cannot be read");
    partition_note_counts(p);
    partition_unlock(p);
    return err;
}

int partition_append_replica(struct partition *p, const uint8_t *data, size_t len, int64_t *ret_end)
{
    int err;

    mutex_lock(&p->replica_mutex);
    err = log_append_replica(p->main, data, len, ret_end);
    mutex_unlock(&p->replica_mutex);
    return err;
}

int partition_begin_anew(struct partition *p) NO_THREAD_SAFETY_ANALYSIS
{
    char dir[32];
    int64_t shown;
    int err;

    if (p->main == NULL)
        return partition_error(p);
    snprintf(dir, sizeof(dir), "p-%04u/kv", p->index);
    partition_lock_background(p);
    CHECK(!partition_writes(p));
    shown = MAX_OF(ALOAD(&p->applied), log_replicated(p->main) ? log_hw(p->main) : 0);
    kv_snapshot_restart(p->kv);
    mutex_lock(&p->replica_mutex);
    err = log_begin_anew(p->main, true);
    mutex_unlock(&p->replica_mutex);
    if (err == 0) {
        log_store_put_aside(p->ps->o.store, dir);
        kv_clear(p->kv);
        ASTOREX(&p->snapshot_start, -1);
        ASTOREX(&p->snapshot_bytes, 0);
        ASTORE(&p->stale_from, shown); /* nobody reads less than was shown before */
        ASTORE(&p->applied, 0);
        __atomic_fetch_add(&p->cuts, 1, __ATOMIC_RELEASE);
        ASTORE(&p->error, 0);
        ASTORE(&p->state, (uint32_t)PARTITION_OPEN);
    }
    partition_note_counts(p);
    partition_unlock(p);
    return err;
}
