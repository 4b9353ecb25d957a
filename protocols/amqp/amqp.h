/* The AMQP 0-9-1 front end: what server/ wires. Everything else of this folder is private to it.
 *
 * Made before the workers start, freed after they stopped. amqp_front_ops goes to a listener whose `arg` is
 * the front. */
#ifndef GM_AMQP_AMQP_H
#define GM_AMQP_AMQP_H

#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"
#include "cluster/topology/topology.h"
#include "io/conn.h"
#include "io/listener.h"
#include "io/worker.h"
#include "log/log.h"
#include "partition/partition.h"

struct amqp_front;
struct bus;

/* What may change while the front runs. 0: the default. A connection keeps the frame size, the channels and the heartbeat that it agreed on; the rest holds at once. */
struct amqp_limits {
    uint32_t frame_max;            /* default 131072 */
    uint16_t channel_max;          /* default 2047 */
    uint16_t heartbeat_s;          /* proposed; 0: none */
    uint32_t handshake_timeout_ms; /* default 10000 */
    uint64_t max_message_bytes;    /* default 16 MiB */
};

struct amqp_front_options {
    struct workers *workers; /* borrowed, as all of these */
    struct partitions *partitions;
    struct topology_store *topology;
    struct log_store *store;
    struct bus *bus;               /* a cluster; NULL: a node alone. The front is made before bus_start and freed after bus_close */
    struct worker *data;           /* with bus: the data worker */
    const char *cluster_name;      /* server-properties; default "gomsg" */
    struct amqp_limits limits;     /* as of the start */
    uint64_t max_content_bytes;    /* content that one connection may have under way; default 64 MiB */
};

int amqp_front_new(const struct amqp_front_options *options, struct amqp_front **ret);
void amqp_front_free(struct amqp_front *f);
void amqp_front_set_limits(struct amqp_front *f, const struct amqp_limits *limits); /* any thread */
/* Nothing is sent to other nodes any more: on the main thread, while the workers run, before bus_close. Connections stay. Does nothing for a node alone. */
void amqp_front_leave_cluster(struct amqp_front *f);
const struct conn_ops *amqp_front_ops(const struct amqp_front *f);

/* Numbers of the whole front, summed over workers; any thread. */
struct amqp_front_stats {
    uint64_t connections, channels, consumers;
    uint64_t published, returned, unroutable, confirmed, nacked;
    uint64_t delivered, got, get_empty, acked, redelivered;
    uint64_t channel_errors, connection_errors;
    uint64_t logins, login_failures;
};
void amqp_front_stats(struct amqp_front *f, struct amqp_front_stats *ret);

/* One connection as gomsgctl and the management API show it. Borrowed for the call. */
struct amqp_connection_info {
    struct slice user, vhost;
    const char *state;
    uint32_t channels, consumers, unacked;
    uint32_t frame_max;
    uint16_t heartbeat_s;
    bool blocked;
};
/* False when the connection is not one of AMQP's. On the connection's worker. */
bool amqp_connection_info(const struct conn *c, struct amqp_connection_info *ret);

/* What a queue's arguments mean to the engine; for whoever opens a queue that no client touched yet. Pure. */
struct queue_spec;
void amqp_queue_spec(const struct topo_queue *q, struct queue_spec *ret);

#endif
