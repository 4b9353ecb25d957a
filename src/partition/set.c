/* Commands over several partitions (rule 5).
 *
 * All locks are taken in ascending order under the spanning lock held shared, and held until the last append. If more than one partition was
 * written, each batch ends with a PARTICIPANTS record that names all of them as (partition, offset of its batch). Space is reserved in every log before the first
 * append, so that a full disk fails the command as a whole; a kill between two appends leaves batches that recovery drops, because each is the last of its log and
 * some participant's log does not reach the offset it names. */
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "partition/private.h"

int partition_enter_set(struct partitions *ps, const uint32_t *indexes, uint32_t n, uint32_t db, struct partition_park *park,
                        struct partition_guard *guards) NO_THREAD_SAFETY_ANALYSIS
{
    uint32_t locked = 0;
    int err;

    CHECK(n > 0);
    err = spanning_lock_shared(ps, park);
    if (err != 0)
        return err;
    for (; locked < n; locked++) {
        struct partition *p = partitions_get(ps, indexes[locked]);

        CHECK(locked == 0 || indexes[locked - 1] < indexes[locked]);
        err = partition_admit(p, park);
        if (err == 0)
            err = partition_lock_worker(p, park);
        if (err != 0)
            break;
        err = partition_admit(p, park);
        if (err != 0) {
            partition_unlock(p);
            break;
        }
    }
    if (err != 0) {
        while (locked > 0)
            partition_unlock(partitions_get(ps, indexes[--locked]));
        spanning_unlock_shared(ps);
        return err;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct partition *p = partitions_get(ps, indexes[i]);

        guard_fill(&guards[i], p, db, &p->builder);
        guards[i].in_set = true;
        guards[i].set_at = i;
    }
    return 0;
}

/* Ends each written batch with the list of them all. */
static void name_participants(struct partition_guard *guards, uint32_t n, uint32_t written)
{
    struct buf b = {0};

    buf_put_uvarint(&b, written);
    for (uint32_t i = 0; i < n; i++) {
        if (!batch_is_empty(guards[i].fx.batch)) {
            buf_put_uvarint(&b, guards[i].p->index);
            buf_put_uvarint(&b, (uint64_t)log_end(guards[i].main));
        }
    }
    for (uint32_t i = 0; i < n; i++)
        if (!batch_is_empty(guards[i].fx.batch))
            effect_add(&guards[i].fx, EFFECT_PARTICIPANTS, 0, SLICE_NONE, buf_slice(&b));
    buf_fini(&b);
}

/* Appends to all or to none. */
static int append_all(struct partition_guard *guards, uint32_t n)
{
    int64_t base;
    int err = 0;

    for (uint32_t i = 0; i < n && err == 0; i++)
        if (!batch_is_empty(guards[i].fx.batch))
            err = log_append_prepare(guards[i].main, guards[i].fx.batch->bytes.len);
    for (uint32_t i = 0; i < n && err == 0; i++) {
        if (batch_is_empty(guards[i].fx.batch))
            continue;
        guards[i].end = log_end(guards[i].main);
        err = log_append(guards[i].main, guards[i].fx.batch, &base);
        guards[i].wrote = err == 0;
    }
    if (err == 0)
        return 0;
    /* An incomplete batch may be the last of its log only until the next append: those that were appended are cut off again. */
    for (uint32_t i = 0; i < n; i++) {
        struct partition *p = guards[i].p;
        bool changed = !batch_is_empty(guards[i].fx.batch);

        if (guards[i].wrote && log_truncate(guards[i].main, guards[i].end) != 0)
            partition_fail(p, ERR_IO, "an incomplete command could not be cut off its log");
        guards[i].wrote = false;
        if (changed)
            partition_rebuild(p, log_failed(guards[i].main) != 0 ? log_failed(guards[i].main) : ERR_NOSPACE);
    }
    return err;
}

int partition_leave_set(struct partitions *ps, struct partition_guard *guards, uint32_t n) NO_THREAD_SAFETY_ANALYSIS
{
    uint32_t written = 0;
    int err;

    for (uint32_t i = 0; i < n; i++) {
        struct partition *p = guards[i].p;

        CHECK(guards[i].in_set && guards[i].set_at == i);
        kv_blocked_serve(&guards[i].kv);
        if (p->queues_stirred)
            queue_table_flush(p->queues.table, NULL);
        written += !batch_is_empty(guards[i].fx.batch);
    }
    if (written > 1)
        name_participants(guards, n, written);
    err = written == 0 ? 0 : append_all(guards, n);
    for (uint32_t i = 0; i < n; i++) {
        if (guards[i].wrote) {
            guards[i].end = log_end(guards[i].main);
            guards[i].p->floor_ms = guards[i].fx.now_ms;
            partition_note_counts(guards[i].p);
        }
        if (guards[i].fx.batch->bytes.cap > PARTITION_BUILDER_KEPT)
            batch_builder_fini(guards[i].fx.batch);
    }
    for (uint32_t i = n; i > 0; i--)
        partition_unlock(guards[i - 1].p);
    spanning_unlock_shared(ps);
    if (err == 0) {
        err = partition_still_leased(guards[0].p);
        for (uint32_t i = 0; err != 0 && i < n; i++)
            guards[i].unknown = written != 0;
    }
    return err;
}
