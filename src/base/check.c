#include "base/check.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void check_failed(const char *cond, const char *file, int line, const char *func)
{
    void *frames[32];
    int n;

    dprintf(STDERR_FILENO, "level=fatal msg=\"assertion failed\" cond=\"%s\" at=%s:%d in=%s\n", cond, file, line,
            func);
    n = backtrace(frames, ARRAY_LEN(frames));
    backtrace_symbols_fd(frames, n, STDERR_FILENO);
    abort();
}
