#include "base/mem.h"

#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef HAVE_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

#include "base/check.h"

#ifdef HAVE_JEMALLOC
/* One shared arena to begin with; freed pages go back to the system after a second, by a thread of jemalloc's own. */
const char *malloc_conf = "narenas:1,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0";
#endif

void mem_thread_own_arena(void)
{
#ifdef HAVE_JEMALLOC
    unsigned arena = 0;
    size_t len = sizeof(arena);

    if (mallctl("arenas.create", &arena, &len, NULL, 0) == 0)
        mallctl("thread.arena", NULL, NULL, &arena, sizeof(arena));
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
