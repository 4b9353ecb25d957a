#include "base/futex_lock.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

bool futex_lock_wait(struct futex_lock *l, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000)};

    /* Whoever gets it here leaves it marked: others may sleep behind, and a wake-up too many is cheap. */
    while (__atomic_exchange_n(&l->word, 2, __ATOMIC_SEQ_CST) != 0) {
        /* The bitset form takes an absolute time, of CLOCK_MONOTONIC. */
        if (syscall(SYS_futex, &l->word, FUTEX_WAIT_BITSET_PRIVATE, 2, until_ns == 0 ? NULL : &until, NULL,
                    FUTEX_BITSET_MATCH_ANY) < 0 &&
            errno == ETIMEDOUT)
            return __atomic_exchange_n(&l->word, 2, __ATOMIC_SEQ_CST) == 0;
    }
    return true;
}

void futex_lock_wake(struct futex_lock *l)
{
    syscall(SYS_futex, &l->word, FUTEX_WAKE_PRIVATE, 1);
}
