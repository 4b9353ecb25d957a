#include "base/clock.h"

#include <time.h>

double clock_ns_per_tick = 1.0;

static uint64_t read_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t clock_mono_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_mono_us(void)
{
    return read_ns(CLOCK_MONOTONIC) / 1000;
}

uint64_t clock_boot_us(void)
{
    return read_ns(CLOCK_BOOTTIME) / 1000;
}

int64_t clock_wall_ms(void)
{
    return (int64_t)(read_ns(CLOCK_REALTIME) / 1000000);
}

int64_t clock_wall_us(void)
{
    return (int64_t)(read_ns(CLOCK_REALTIME) / 1000);
}

void clock_calibrate(void)
{
    uint64_t ns0 = clock_mono_ns(), t0 = clock_ticks(), ns1, t1;

    do {
        ns1 = clock_mono_ns();
        t1 = clock_ticks();
    } while (ns1 - ns0 < 2000000);
    if (t1 > t0)
        clock_ns_per_tick = (double)(ns1 - ns0) / (double)(t1 - t0);
}

uint64_t clock_thread_cpu_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}
