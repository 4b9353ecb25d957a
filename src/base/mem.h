/* Memory. Running out aborts with a report: a server that overcommits cannot recover from a failed malloc in the
 * middle of a command, and everything a peer sizes is bounded by an option long before. Any thread. */
#ifndef GM_BASE_MEM_H
#define GM_BASE_MEM_H

#include <stddef.h>

#include "base/slice.h"

void *mem_alloc(size_t n) __attribute__((malloc, alloc_size(1), returns_nonnull));
void *mem_zalloc(size_t n) __attribute__((malloc, alloc_size(1), returns_nonnull));
void *mem_calloc(size_t count, size_t size) __attribute__((malloc, alloc_size(1, 2), returns_nonnull));
void *mem_realloc(void *p, size_t n) __attribute__((alloc_size(2), returns_nonnull));
void mem_free(void *p); /* NULL is fine */
char *mem_strdup(const char *s) __attribute__((malloc, returns_nonnull));
/* A NUL-terminated copy of a slice. */
char *mem_strdup_slice(struct slice s) __attribute__((malloc, returns_nonnull));
char *mem_printf(const char *fmt, ...) __attribute__((malloc, returns_nonnull, format(printf, 1, 2)));
/* The bytes an allocation really takes (jemalloc's size class); n where the allocator does not tell. */
size_t mem_usable(const void *p);
/* Bytes handed out by the allocator now, and the most there ever were, process-wide; refreshed on the call. */
size_t mem_allocated(void);
/* Gives the calling thread an arena of its own: workers do not share one. Nothing without jemalloc. */
void mem_thread_own_arena(void);
/* The arena that threads share which fill the engines beside the workers (recovery, replicas): P22's one more. The small things of all other
 * threads are in the arena everybody has without asking. */
void mem_thread_common_arena(void);
/* Frees *slot (and sets it to NULL) when the calling thread ends: for scratch memory a thread keeps and grows. Call it once a thread and slot; the slot is thread-local. */
void mem_free_at_thread_exit(void **slot);
/* VmRSS of this process in bytes. */
size_t mem_rss(void);

#endif
