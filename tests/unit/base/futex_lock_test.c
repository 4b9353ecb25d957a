#include <criterion/criterion.h>
#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/futex_lock.h"

#ifdef __clang__ /* whose analysis does not see through Criterion's macros what was taken */
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

static struct futex_lock lock;
static uint64_t guarded;

static void *add(void *arg)
{
    for (unsigned i = 0; i < 200000; i++) {
        if (i % 3 == 0)
            while (!futex_lock_try(&lock))
                ;
        else if (i % 3 == 1)
            futex_lock_take(&lock);
        else
            cr_assert(futex_lock_take_until(&lock, clock_mono_ns() + 60000000000u));
        guarded++;
        futex_lock_release(&lock);
    }
    return arg;
}

Test(futex_lock, lets_in_one_at_a_time_and_forgets_nobody)
{
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, add, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(guarded, 800000);
    cr_assert(futex_lock_try(&lock), "everybody gave it back");
}

static void *wait_for_it(void *arg)
{
    bool *got = arg;

    *got = futex_lock_take_until(&lock, clock_mono_ns() + 60000000000u);
    if (*got)
        futex_lock_release(&lock);
    return NULL;
}

Test(futex_lock, waits_until_the_time_given_and_is_woken_before)
{
    uint64_t begun;
    bool got = false;
    pthread_t thread;

    cr_assert(futex_lock_try(&lock));
    cr_assert_not(futex_lock_try(&lock));
    begun = clock_mono_ns();
    cr_assert_not(futex_lock_take_until(&lock, begun + 20000000), "it is taken");
    cr_assert_geq(clock_mono_ns() - begun, 20000000u);
    cr_assert_not(futex_lock_take_until(&lock, 1), "a time that has passed");

    pthread_create(&thread, NULL, wait_for_it, &got);
    nanosleep(&(struct timespec){0, 50000000}, NULL); /* mostly it sleeps by now */
    begun = clock_mono_ns();
    futex_lock_release(&lock);
    pthread_join(thread, NULL);
    cr_assert(got);
    cr_assert_lt(clock_mono_ns() - begun, 30000000000u, "nobody woke it, its time ran out");
}
