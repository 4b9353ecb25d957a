/* A whole node with only the Kafka front end, in this process and a temporary directory, and a client that
 * speaks frames. Criterion runs each test in a process of its own. */
#ifndef GM_TESTS_KAFKA_NODE_H
#define GM_TESTS_KAFKA_NODE_H

#include <stdint.h>

#include "base/buf.h"
#include "protocols/kafka/api.h"
#include "protocols/kafka/front.h"
#include "stream/stream.h"

struct node {
    char dir[64];
    struct config *config;
    struct workers *workers;
    struct log_store *logs;
    struct partitions *partitions;
    struct topology_store *topology;
    struct stream_table *streams;
    struct kafka_front *front;
    struct listener *listener;
    uint16_t port;
};

extern uint32_t node_farewell_ms; /* kafka_front_options' for nodes started from now on; 0 at first */
/* `port` 0: a free one. A directory that holds data is recovered. */
void node_start(struct node *n, const char *dir, uint16_t port);
void node_stop(struct node *n); /* a clean stop; the directory stays */
void node_init(struct node *n); /* a fresh directory, and start */
void node_fini(struct node *n); /* stop, and remove it */

struct client {
    int fd;
    int32_t next;
    struct buf frame; /* of the last answer, without its size */
    struct reader body;
    struct kin in; /* at the body of the last answer, when it was checked against its table */
};

void client_open(struct client *c, const struct node *n);
void client_close(struct client *c);
/* Begins a request in `out`: body written by the caller through *o. */
void client_begin(struct client *c, struct buf *out, struct kout *o, int key, int version);
/* Sends what was begun. */
void client_send(struct client *c, struct buf *out);
/* Reads an answer, checks its correlation id, its header and, against the table, its body; c->in is at the
 * body. */
void client_read(struct client *c, int key, int version);
/* The same without a table: c->body is at the body. False when the connection ended instead. */
int client_read_raw(struct client *c);
void client_send_raw(struct client *c, const void *data, size_t n);

/* ---- bodies that several tests write and read ---- */
/* CreateTopics, of one topic, with one config or NULL. */
void put_create_topic(struct kout *o, const char *name, int32_t partitions, int16_t factor, const char *config, const char *value);
/* Produce to one partition. */
void put_produce(struct buf *out, int version, int16_t acks, int32_t timeout_ms, const char *topic, int32_t index, struct slice records);
int16_t read_produced(struct client *c, int version, int64_t *ret_base); /* the code of its one partition */

#endif
