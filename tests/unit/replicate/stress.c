/* The random run as a plain program, for --enable-sanitize=thread: stress-replicate [first seed [count]]. */
#include <stdio.h>
#include <stdlib.h>

#include "random.h"

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, count = argc > 2 ? strtoull(argv[2], NULL, 10) : 2;

    for (uint64_t seed = first; seed < first + count; seed++) {
        long commits = 0;

        if (!random_run(seed, &commits))
            return 1;
        printf("seed %llu: %ld commits\n", (unsigned long long)seed, commits);
    }
    return 0;
}
