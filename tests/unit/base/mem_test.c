#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

#define PIECES 200000

/* Is the mapping that holds this address one that may have huge pages? */
static bool may_be_huge(const void *p)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    unsigned long from, to, at = (unsigned long)p;
    bool inside = false, huge = false;
    char line[512];

    cr_assert(f != NULL);
    while (fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = at >= from && at < to;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            huge = strstr(line, " hg") != NULL;
    }
    fclose(f);
    return huge;
}

Test(mem, an_arena_that_has_grown_asks_for_huge_pages_and_a_small_one_does_not)
{
#ifndef HAVE_JEMALLOC
    cr_skip("built without jemalloc");
#else
    static void *pieces[PIECES];

    if (access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) != 0)
        cr_skip("this kernel has no huge pages");
    mem_thread_own_arena();
    for (unsigned i = 0; i < PIECES; i++)
        pieces[i] = mem_alloc(100);
    cr_assert(!may_be_huge(pieces[0]), "the first of them");
    cr_assert(may_be_huge(pieces[PIECES - 1]), "the last of 20 MB");
    for (unsigned i = 0; i < PIECES; i++)
        mem_free(pieces[i]);
#endif
}
