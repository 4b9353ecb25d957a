#include "base/mem.h"

#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef HAVE_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifdef SANITIZED
size_t __sanitizer_get_current_allocated_bytes(void); /* mallinfo2 tells nothing then; not every compiler brings the header */
#endif

#include "base/check.h"

#ifdef HAVE_JEMALLOC
/* One arena to begin with; freed pages go back to the system after a second, by a thread of jemalloc's own. */
const char *malloc_conf = "narenas:1,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,"
                          /* The sizes of entries and buckets, in runs of 512 instead of one page: jemalloc keeps 128 bytes a run. */
                          "slab_sizes:32-32:4|48-48:6|64-64:8|128-128:8|4096-4096:4";

/* An arena that has grown past HUGE_FROM bytes asks for huge pages: a keyspace is read at random, and with pages of 4 KiB every
 * bucket and entry costs a walk of the page tables. Nothing here forks, so the reason to do without them (copies of 2 MiB for a
 * byte written beside a child) does not exist. Small arenas keep small pages, so that a node that holds nothing stays small. Where the
 * system says never, this does nothing. */
enum { HUGE_FROM = 4 << 20, ARENAS_MAX = 4096 };

static extent_hooks_t default_hooks, hooks;
static pthread_once_t hooks_once = PTHREAD_ONCE_INIT, common_once = PTHREAD_ONCE_INIT;
static unsigned common_arena; /* 0: none */
static _Atomic size_t mapped[ARENAS_MAX];

static void *map_extent(extent_hooks_t *h, void *at, size_t size, size_t alignment, bool *zero, bool *commit, unsigned arena)
{
    void *p = default_hooks.alloc(h, at, size, alignment, zero, commit, arena);

    if (p != NULL && arena < ARENAS_MAX &&
        atomic_fetch_add_explicit(&mapped[arena], size, memory_order_relaxed) + size > HUGE_FROM)
        madvise(p, size, MADV_HUGEPAGE);
    return p;
}

static void make_hooks(void)
{
    extent_hooks_t *now;
    size_t len = sizeof(now);

    if (mallctl("arena.0.extent_hooks", &now, &len, NULL, 0) != 0)
        return;
    default_hooks = hooks = *now;
    hooks.alloc = map_extent;
}

/* Arena 0 is never given hooks: jemalloc allocates from it while it calls those of others, and would wait for itself. */
static unsigned make_arena(void)
{
    extent_hooks_t *ours = &hooks;
    unsigned arena = 0;
    size_t len = sizeof(arena);
    bool hooked;

    CHECK(pthread_once(&hooks_once, make_hooks) == 0);
    hooked = hooks.alloc != NULL;
    return mallctl("arenas.create", &arena, &len, hooked ? &ours : NULL, hooked ? sizeof(ours) : 0) == 0 ? arena : 0;
}

static void make_common(void)
{
    common_arena = make_arena();
}

static void use_arena(unsigned arena)
{
    if (arena != 0)
        mallctl("thread.arena", NULL, NULL, &arena, sizeof(arena));
}
#endif

void mem_thread_own_arena(void)
{
#ifdef HAVE_JEMALLOC
    use_arena(make_arena());
#endif
}

void mem_thread_common_arena(void)
{
#ifdef HAVE_JEMALLOC
    CHECK(pthread_once(&common_once, make_common) == 0);
    use_arena(common_arena);
#endif
}

struct at_exit {
    struct at_exit *next;
    void **slot;
};

static pthread_key_t at_exit_key;
static pthread_once_t at_exit_once = PTHREAD_ONCE_INIT;

static void run_at_exit(void *arg)
{
    struct at_exit *a = arg;

    while (a != NULL) {
        struct at_exit *next = a->next;

        free(*a->slot);
        *a->slot = NULL;
        free(a);
        a = next;
    }
}

static void make_at_exit_key(void)
{
    CHECK(pthread_key_create(&at_exit_key, run_at_exit) == 0);
}

void mem_free_at_thread_exit(void **slot)
{
    struct at_exit *a = mem_alloc(sizeof(*a));

    CHECK(pthread_once(&at_exit_once, make_at_exit_key) == 0);
    a->slot = slot;
    a->next = pthread_getspecific(at_exit_key);
    CHECK(pthread_setspecific(at_exit_key, a) == 0);
}

void *mem_alloc(size_t n)
{
    void *p = malloc(n == 0 ? 1 : n);

    CHECK(p != NULL);
    return p;
}

void *mem_zalloc(size_t n)
{
    return mem_calloc(1, n);
}

void *mem_calloc(size_t count, size_t size)
{
    void *p = calloc(count == 0 ? 1 : count, size == 0 ? 1 : size);

    CHECK(p != NULL);
    return p;
}

void *mem_realloc(void *old, size_t n)
{
    void *p = realloc(old, n == 0 ? 1 : n);

    CHECK(p != NULL);
    return p;
}

void mem_free(void *p)
{
    free(p);
}

char *mem_strdup(const char *s)
{
    return mem_strdup_slice(slice_str(s));
}

char *mem_strdup_slice(struct slice s)
{
    char *p = mem_alloc(s.len + 1);

    if (s.len != 0)
        memcpy(p, s.data, s.len);
    p[s.len] = '\0';
    return p;
}

char *mem_printf(const char *fmt, ...)
{
    char *p;
    va_list ap;

    va_start(ap, fmt);
    CHECK(vasprintf(&p, fmt, ap) >= 0);
    va_end(ap);
    return p;
}

size_t mem_usable(const void *p)
{
    return p == NULL ? 0 : malloc_usable_size((void *)p);
}

size_t mem_allocated(void)
{
#ifdef HAVE_JEMALLOC
    uint64_t epoch = 1;
    size_t allocated = 0, len = sizeof(epoch);

    mallctl("epoch", &epoch, &len, &epoch, sizeof(epoch));
    len = sizeof(allocated);
    mallctl("stats.allocated", &allocated, &len, NULL, 0);
    return allocated;
#elif defined(SANITIZED)
    return __sanitizer_get_current_allocated_bytes();
#else
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
#endif
}

size_t mem_rss(void)
{
    unsigned long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f != NULL) {
        if (fscanf(f, "%lu %lu", &size, &resident) != 2)
            resident = 0;
        fclose(f);
    }
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}
