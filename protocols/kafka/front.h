/* The Kafka front end: one object a node, made after recovery; its connections come through kafka_front_ops.
 *
 *   kafka_front_new -> kafka_front_start -> listener_open(ops = kafka_front_ops, arg = front) -> workers run
 * -> listeners closed, workers stopped -> kafka_front_free
 *
 * The data of a deleted topic is the server's to delete (stream_delete), on the metadata thread, before the
 * deletion is answered.
 *
 * Any thread unless said otherwise. */
#ifndef GM_KAFKA_FRONT_H
#define GM_KAFKA_FRONT_H

#include "base/slice.h"
#include "config/config.h"
#include "cluster/topology/topology.h"
#include "io/conn.h"
#include "partition/partition.h"

struct kafka_front;

struct kafka_front_options {
    const struct config *config; /* borrowed: kafka.*, log.retention* */
    struct workers *workers;     /* borrowed, as all that follow */
    struct partitions *partitions;
    struct stream_table *streams;
    struct topology_store *topology;
    struct log_store *logs;
    uint32_t group_initial_rebalance_delay_ms; /* Kafka's default is 3000 */
    uint32_t farewell_ms; /* Metadata goes on naming a node that was fenced for so long */
};

struct kafka_front *kafka_front_new(const struct kafka_front_options *options);
/* What listener_open takes; the listener's arg is the front. Valid as long as the front. */
const struct conn_ops *kafka_front_ops(const struct kafka_front *f);
/* Starts the timers (sessions of groups, retention) on worker 0: before workers_start or on worker 0. */
void kafka_front_start(struct kafka_front *f);
/* The bus reached another node, or lost it, or waits for its answer: what it leads may soon have another leader. */
void kafka_front_peer(struct kafka_front *f, uint32_t node, bool reachable);
/* This node's lease has ended: who waits for a commit is sent away. */
void kafka_front_lease_ended(struct kafka_front *f);
/* No worker runs any more. */
void kafka_front_free(struct kafka_front *f);

/* For the admin commands: calls fn for each consumer group this node has, taking the partitions one after
 * another. On any thread but a worker. */
struct kafka_group_info {
    struct slice id, protocol_type, protocol;
    const char *state;
    unsigned members;
    int32_t generation;
};
void kafka_front_each_group(struct kafka_front *f, void (*fn)(const struct kafka_group_info *g, void *arg),
                            void *arg);

#endif
