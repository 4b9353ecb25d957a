/* Random numbers. rand_secure comes from the kernel; the rest is xoshiro256** with the caller's state. */
#ifndef GM_BASE_RAND_H
#define GM_BASE_RAND_H

#include <stddef.h>
#include <stdint.h>

struct rand {
    uint64_t s[4];
};

void rand_seed(struct rand *r, uint64_t seed); /* the same seed gives the same numbers */
uint64_t rand_u64(struct rand *r);
uint64_t rand_below(struct rand *r, uint64_t bound); /* 0 <= x < bound, bound > 0, unbiased */
void rand_secure(void *data, size_t len);            /* getrandom(2); any thread */

#endif
