/* Clocks. Engines never call these: they are given the time. Any thread. */
#ifndef GM_BASE_CLOCK_H
#define GM_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_thread_cpu_us(void); /* what this thread has used of a processor; a system call */
uint64_t clock_mono_us(void);  /* CLOCK_MONOTONIC, microseconds */
uint64_t clock_mono_ns(void);  /* CLOCK_MONOTONIC, nanoseconds */
uint64_t clock_boot_us(void);  /* CLOCK_BOOTTIME: goes on through suspend; for leases */
int64_t clock_wall_ms(void);   /* CLOCK_REALTIME, ms since 1970 */
int64_t clock_wall_us(void);
/* Ticks of the cheapest steady counter, for latencies; clock_ticks_to_ns converts a difference. */
static inline uint64_t clock_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t v;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
    return v;
#else
    return clock_mono_ns();
#endif
}
extern double clock_ns_per_tick; /* set by clock_calibrate */
static inline uint64_t clock_ticks_to_ns(uint64_t ticks)
{
    return (uint64_t)(int64_t)((double)(int64_t)ticks * clock_ns_per_tick);
}
/* Calibrates clock_ticks_to_ns in 2 ms; call once at start, before any thread. */
void clock_calibrate(void);

#endif
