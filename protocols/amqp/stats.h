/* What /metrics says of AMQP: calls with their latency and bytes by method, errors by reply code.
 *
 * The latency of a method is the time from having read its bytes to the end of that read event, when its
 * batch is in the log and its reply made: so one clock pair serves all that one read brought, a publish costs
 * an addition. Numbers gather in the worker's tally and go to the metrics once a read event. On the session's
 * worker. */
#ifndef GM_AMQP_STATS_H
#define GM_AMQP_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "protocols/amqp/codec.h"

enum amqp_stat {
#define CLIENT(c, cid, m, mid, sync, fields) AMQP_STAT_##c##_##m,
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef CLIENT
#undef SERVER
#undef BOTH
    AMQP_STATS
};

struct amqp_tally {
    uint64_t published; /* the worker's count at the last flush */
    uint64_t touched[(AMQP_STATS + 63) / 64];
    uint32_t calls[AMQP_STATS];
    uint64_t bytes_in[AMQP_STATS], bytes_out[AMQP_STATS];
};

void amqp_stats_register(void);
/* A frame was consumed: its bytes with overhead, and those it made us write. Content belongs to
 * basic.publish. */
void amqp_stats_frame(struct amqp_tally *t, const struct amqp_frame *f, size_t in, size_t out);
/* The read event that began at clock_ticks() `began` is over. A publish counts when its content is whole,
 * which may be some events after its method: `published` is the worker's count of those. */
void amqp_stats_flush(struct amqp_tally *t, uint64_t began, uint64_t published);
/* Bytes written as deliveries. */
void amqp_stats_delivered(size_t bytes);
/* A channel or connection was closed with this reply code. */
void amqp_stats_error(unsigned code);

#endif
