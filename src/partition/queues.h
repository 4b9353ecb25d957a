/* The queues of a partition: their table with its background work and its clock. Part of struct partition,
 * used by partition.c:
 *
 *   partition_queues_init    when the partition is made; the log store is open, no queue log is touched
 *   queue_table_flush        in partition_leave, under the lock, before it is released
 *   partition_queues_tick    a few times a second from a background thread; enters the partition by itself,
 * and only when something is due partition_queues_fini    when the partition closes: waits for its background
 * work, writes clean checkpoints */
#ifndef GM_PARTITION_QUEUES_H
#define GM_PARTITION_QUEUES_H

#include <stdatomic.h>

#include "partition/partition.h"
#include "queue/queue.h"

struct partition_queues {
    struct queue_table *table; /* owned; NULL before init */
    struct partition *partition;
    struct workers *workers;
    void (*ended)(void *arg, uint64_t queue_id, uint32_t partition);
    void *ended_arg;
    struct mail hw_mail; /* high watermarks moved that consumers wait for */
    struct partition_park hw_park;
    _Atomic bool hw_posted, hw_missed;
    _Atomic uint32_t busy; /* background jobs that have not ended */
};

void partition_queues_init(struct partition_queues *pq, struct partition *p,
                           const struct partitions_options *options);
/* True: something was due and was done. Not on a worker: it waits for the lock (P1). */
bool partition_queues_tick(struct partition_queues *pq, int64_t now_ms);
/* Something is due within a second. Any thread. */
bool partition_queues_due_soon(struct partition_queues *pq, int64_t now_ms);
/* Leadership is lost: the queues' memory goes, their logs stay. Under the partition's lock. */
void partition_queues_close(struct partition_queues *pq);
/* Nobody enters the partition any more but its own background jobs. */
void partition_queues_fini(struct partition_queues *pq);

#endif
