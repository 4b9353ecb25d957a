/* The epochs of a log: where the batches of each leader begin (R1 to R5 of specs/kafka.md, rule 11).
 *
 * Most logs know one epoch only: that is last_epoch, from the log's start on, and takes no list. The list is ascending in both members; its first entry may begin below the log's start, where the start stands in for it.
 * Every change is written to the ledger as the whole list, with the next sync round; what a crash took from it recovery finds in the batch headers.
 *
 * R2's entry of an epoch in which nothing was written is not kept: log_epoch_end adds it from the epoch that the next append would get. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "log/private.h"

uint32_t epochs_count(const struct log *l)
{
    return l->last_epoch < 0 ? 0 : l->epochs == NULL ? 1 : l->epochs->n;
}

struct epoch_entry epochs_at(const struct log *l, uint32_t i)
{
    int64_t start = ALOAD(&l->start);

    if (l->epochs == NULL)
        return (struct epoch_entry){l->last_epoch, start};
    return (struct epoch_entry){l->epochs->e[i].epoch, MAX_OF(l->epochs->e[i].start, start)};
}

static void keep(struct log *l, uint32_t n)
{
    ASTORE(&l->last_epoch, n == 0 ? -1 : epochs_at(l, n - 1).epoch);
    if (l->epochs == NULL)
        return;
    l->epochs->n = n;
    if (n == 0 || (n == 1 && l->epochs->e[0].start <= ALOAD(&l->start))) {
        mem_free(l->epochs);
        l->epochs = NULL;
    }
}

static void push(struct log *l, struct epoch_entry e)
{
    struct log_epochs *x = l->epochs;

    if (x == NULL || x->n == x->cap) {
        uint32_t cap = x == NULL ? 2 : x->cap * 2;

        x = mem_realloc(x, sizeof(*x) + cap * sizeof(x->e[0]));
        if (l->epochs == NULL)
            x->n = 0;
        x->cap = cap;
        l->epochs = x;
    }
    x->e[x->n++] = e;
}

void epochs_trim(struct log *l, int64_t start)
{
    struct log_epochs *x = l->epochs;
    uint32_t gone = 0;

    if (x == NULL)
        return;
    while (gone + 1 < x->n && x->e[gone + 1].start <= start)
        gone++;
    if (gone > 0)
        memmove(x->e, x->e + gone, (x->n - gone) * sizeof(x->e[0]));
    keep(l, x->n - gone);
}

void epochs_note(struct log *l, int32_t epoch, int64_t start)
{
    uint32_t n = epochs_count(l);

    while (n > 0) {
        struct epoch_entry last = epochs_at(l, n - 1);

        if (last.epoch == epoch && last.start <= start) {
            keep(l, n);
            return;
        }
        if (last.epoch < epoch && last.start < start)
            break;
        n--;
    }
    keep(l, n);
    if (l->epochs == NULL && n == 1)
        push(l, epochs_at(l, 0));
    if (n > 0 || start > ALOAD(&l->start))
        push(l, (struct epoch_entry){epoch, start});
    ASTORE(&l->last_epoch, epoch);
    epochs_trim(l, ALOAD(&l->start));
}

bool epochs_cut(struct log *l, int64_t end)
{
    uint32_t n = epochs_count(l), was = n;

    while (n > 0 && epochs_at(l, n - 1).start >= end)
        n--;
    if (n != was)
        keep(l, n);
    return n != was;
}

void epochs_clear(struct log *l)
{
    mem_free(l->epochs);
    l->epochs = NULL;
    ASTORE(&l->last_epoch, -1);
}

int32_t log_last_epoch(const struct log *l)
{
    if (!ALOAD(&l->ready))
        log_touch((struct log *)l);
    return ALOAD(&l->last_epoch);
}

int log_epoch_end(struct log *l, int32_t epoch, int32_t *ret_epoch, int64_t *ret_end)
{
    int err = log_touch(l);
    int32_t newest;
    int64_t end;
    uint32_t n;

    if (err == ERR_CORRUPT)
        return err;
    mutex_lock(log_stripe(l));
    newest = MAX_OF(ALOADX(&l->epoch), l->last_epoch); /* that of the next append begins at the end */
    end = ALOAD(&l->end);
    n = epochs_count(l);
    if (epoch < newest) {
        while (n > 0 && epochs_at(l, n - 1).epoch > epoch)
            end = epochs_at(l, --n).start;
        *ret_epoch = n > 0 ? epochs_at(l, n - 1).epoch : epoch;
    } else {
        *ret_epoch = epoch;
    }
    *ret_end = end;
    mutex_unlock(log_stripe(l));
    return epoch < 0 || epoch > newest ? ERR_NOT_FOUND : 0;
}
