/* systemd's notification protocol (sd_notify(3)): one datagram to $NOTIFY_SOCKET. Without it, nothing happens. Any thread. */
#ifndef GM_SERVER_NOTIFY_H
#define GM_SERVER_NOTIFY_H

#include <stdint.h>

/* "READY=1", "STOPPING=1", "STATUS=…", "WATCHDOG=1", "RELOADING=1\nMONOTONIC_USEC=…", several joined by newlines. */
void notify_send(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* How often systemd wants to hear WATCHDOG=1, in microseconds (half of its limit); 0: never. */
uint64_t notify_watchdog_us(void);

#endif
