/* A pthread mutex that clang's analysis knows. Any thread; not recursive. */
#ifndef GM_BASE_MUTEX_H
#define GM_BASE_MUTEX_H

#include <pthread.h>
#include <stdbool.h>

#include "base/check.h"
#include "base/thread_annotations.h"

struct CAPABILITY("mutex") mutex {
    pthread_mutex_t m;
};

static inline void mutex_init(struct mutex *mu)
{
    CHECK(pthread_mutex_init(&mu->m, NULL) == 0);
}

static inline void mutex_fini(struct mutex *mu)
{
    CHECK(pthread_mutex_destroy(&mu->m) == 0);
}

static inline void mutex_lock(struct mutex *mu) ACQUIRE(mu) NO_THREAD_SAFETY_ANALYSIS
{
    CHECK(pthread_mutex_lock(&mu->m) == 0);
}

static inline bool mutex_trylock(struct mutex *mu) TRY_ACQUIRE(true, mu) NO_THREAD_SAFETY_ANALYSIS
{
    return pthread_mutex_trylock(&mu->m) == 0;
}

static inline void mutex_unlock(struct mutex *mu) RELEASE(mu) NO_THREAD_SAFETY_ANALYSIS
{
    CHECK(pthread_mutex_unlock(&mu->m) == 0);
}

#endif
