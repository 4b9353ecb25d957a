/* Assertions. CHECK stays on in every build: it states an invariant whose violation is a bug of ours, and aborts
 * with a report. DCHECK is for what is too dear for the hot path and runs in --enable-debug builds only.
 * Magic words guard long-lived structs where they enter by void *; nothing that exists per key, message or
 * record carries one. */
#ifndef GM_BASE_CHECK_H
#define GM_BASE_CHECK_H

#include <stdint.h>

#define GM_LIKELY(x) __builtin_expect(!!(x), 1)
#define GM_UNLIKELY(x) __builtin_expect(!!(x), 0)

#define CHECK(cond)                                                                                          \
    do {                                                                                                     \
        if (GM_UNLIKELY(!(cond)))                                                                            \
            check_failed(#cond, __FILE__, __LINE__, __func__);                                               \
    } while (0)

#ifdef GM_DEBUG
#define DCHECK(cond) CHECK(cond)
#else
#define DCHECK(cond)                                                                                         \
    do {                                                                                                     \
        if (0)                                                                                               \
            (void)(cond);                                                                                    \
    } while (0)
#endif

#define UNREACHABLE() check_failed("unreachable", __FILE__, __LINE__, __func__)

/* A magic word is the first member: `uint32_t magic;`. */
#define MAGIC_INIT(obj, word) ((obj)->magic = (word))
#define MAGIC_CHECK(obj, word) CHECK((obj) != NULL && (obj)->magic == (word))
#define MAGIC_FINI(obj, word)                                                                                \
    do {                                                                                                     \
        MAGIC_CHECK(obj, word);                                                                              \
        (obj)->magic = 0xdeaddeadu;                                                                          \
    } while (0)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr) - __builtin_offsetof(type, member)))
#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))

/* Writes the report (condition, place, backtrace) to stderr and aborts. */
_Noreturn void check_failed(const char *cond, const char *file, int line, const char *func)
    __attribute__((cold));

#endif
