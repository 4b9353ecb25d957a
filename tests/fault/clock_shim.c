/* LD_PRELOAD for fault tests: the wall clock of one process is off by what the file named by CLOCK_SHIM says (signed decimal microseconds), and can jump while it
 * runs, because the file is mapped. CLOCK_MONOTONIC and CLOCK_BOOTTIME are left alone. (libfaketime ends in a recursion with jemalloc, which asks for the time
 * before it can serve dlsym; so nothing is looked up here, the system calls are made directly.) */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char *volatile offset_text;

__attribute__((constructor)) static void shim_open(void)
{
    const char *path = getenv("CLOCK_SHIM");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map;

    if (fd < 0)
        return;
    map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED)
        offset_text = map;
    close(fd);
}

static long long offset_us(void)
{
    const char *p = offset_text;
    long long n = 0;
    int negative;

    if (p == NULL)
        return 0;
    negative = *p == '-';
    for (p += *p == '-' || *p == '+'; *p >= '0' && *p <= '9'; p++)
        n = n * 10 + (*p - '0');
    return negative ? -n : n;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
    long r = syscall(SYS_clock_gettime, clock, ts);

    if (r == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long ns = ts->tv_nsec + offset_us() % 1000000 * 1000;

        ts->tv_sec += offset_us() / 1000000 + (ns < 0 ? -1 : ns / 1000000000);
        ts->tv_nsec = (ns % 1000000000 + 1000000000) % 1000000000;
    }
    return (int)r;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    struct timespec ts;

    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
        return -1;
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *ret)
{
    struct timespec ts;

    if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
        return -1;
    if (ret != NULL)
        *ret = ts.tv_sec;
    return ts.tv_sec;
}
