/* Random faults by seed under a flow of writes; see random.c. */
#ifndef GM_TESTS_UNIT_REPLICATE_RANDOM_H
#define GM_TESTS_UNIT_REPLICATE_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

/* False, with the reason on stderr: something committed was lost, or replicas differ. */
bool random_run(uint64_t seed, long *ret_commits);

#endif
