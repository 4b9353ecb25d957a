/* Clang's thread-safety attributes; nothing under gcc. A function says which lock it needs (REQUIRES), takes
 * (ACQUIRE) or gives back (RELEASE); -Wthread-safety checks it. */
#ifndef GM_BASE_THREAD_ANNOTATIONS_H
#define GM_BASE_THREAD_ANNOTATIONS_H

#if defined(__clang__)
#define GM_TSA(x) __attribute__((x))
#else
#define GM_TSA(x)
#endif

#define CAPABILITY(name) GM_TSA(capability(name))
/* In C, clang cannot name a sibling member in an attribute; these two say to readers which lock guards a member. */
#define GUARDED_BY(x)
#define PT_GUARDED_BY(x)
#define REQUIRES(...) GM_TSA(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) GM_TSA(requires_shared_capability(__VA_ARGS__))
#define ACQUIRE(...) GM_TSA(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) GM_TSA(acquire_shared_capability(__VA_ARGS__))
#define RELEASE(...) GM_TSA(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) GM_TSA(release_shared_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) GM_TSA(try_acquire_capability(__VA_ARGS__))
#define EXCLUDES(...) GM_TSA(locks_excluded(__VA_ARGS__))
#define NO_THREAD_SAFETY_ANALYSIS GM_TSA(no_thread_safety_analysis)

#endif
