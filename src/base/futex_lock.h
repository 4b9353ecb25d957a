/* A lock of one word, for those that are taken several times a command: trying is one compare-and-swap, giving back
 * one exchange, both in line, where a pthread mutex costs two calls into the C library. Who waits sleeps in futex(2)
 * (Drepper, "Futexes Are Tricky", the second mutex). Zeroed memory is a free lock. Any thread; not recursive; who
 * holds it is not known, so a mistake shows only as a deadlock.
 *
 * Trying and giving back are sequentially consistent: who finds the lock taken after it stored something is seen to
 * have stored it by who gives it back (the parking of partition/lock.c leans on that). */
#ifndef GM_BASE_FUTEX_LOCK_H
#define GM_BASE_FUTEX_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"
#include "base/thread_annotations.h"

struct CAPABILITY("mutex") futex_lock {
    uint32_t word; /* atomic: 0 free, 1 taken, 2 taken and somebody may sleep */
};

/* The slow halves. until_ns: CLOCK_MONOTONIC, 0 for as long as it takes; false: it was not free by then. */
bool futex_lock_wait(struct futex_lock *l, uint64_t until_ns);
void futex_lock_wake(struct futex_lock *l);

static inline bool futex_lock_try(struct futex_lock *l) TRY_ACQUIRE(true, l) NO_THREAD_SAFETY_ANALYSIS
{
    uint32_t unlocked = 0;

    return __atomic_compare_exchange_n(&l->word, &unlocked, 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

static inline void futex_lock_take(struct futex_lock *l) ACQUIRE(l) NO_THREAD_SAFETY_ANALYSIS
{
    if (!futex_lock_try(l))
        futex_lock_wait(l, 0);
}

static inline bool futex_lock_take_until(struct futex_lock *l, uint64_t until_ns) TRY_ACQUIRE(true, l) NO_THREAD_SAFETY_ANALYSIS
{
    return futex_lock_try(l) || futex_lock_wait(l, until_ns);
}

static inline void futex_lock_release(struct futex_lock *l) RELEASE(l) NO_THREAD_SAFETY_ANALYSIS
{
    uint32_t was = __atomic_exchange_n(&l->word, 0, __ATOMIC_SEQ_CST);

    DCHECK(was != 0);
    if (GM_UNLIKELY(was == 2))
        futex_lock_wake(l);
}

#endif
