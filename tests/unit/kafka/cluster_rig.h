/* The front end of one node of three: the others exist in the topology alone. One node, one client, one request under way a test: Criterion runs each test in
 * a process of its own. */
#ifndef GM_TESTS_KAFKA_CLUSTER_RIG_H
#define GM_TESTS_KAFKA_CLUSTER_RIG_H

#include "cluster/topology/commands.h"
#include "node.h"

#define PARTITIONS 8

extern struct node n;
extern struct client c;
extern struct buf out; /* the request that is being written, through o */
extern struct kout o;

/* ---- the cluster ---- */
void set_state(uint32_t id, enum topo_node_state state);
struct topo_partition record(uint32_t partition);
void change(uint32_t partition, uint32_t leader, const uint32_t *insync, unsigned count);
uint32_t leader_of(uint32_t partition);
/* This node plays what the topology says. */
void play(uint32_t partition, enum partition_role role);
void lead_again(uint32_t partition);
/* Three nodes, of which this is the first; partition i of PARTITIONS is led by leader_of(i). */
void cluster_begin(void);
void cluster_end(void);

/* ---- requests ---- */
void request(int key, int version);
void exchange(int key, int version);
void create(const char *name, int32_t partitions, int16_t factor, const char *config, const char *value, int16_t want, int16_t want_factor);
uint32_t owner(const char *topic, uint32_t index);
/* An index of the topic whose partition this node leads, or that another one leads. */
int32_t index_led(const char *topic, uint32_t leader);
struct slice one_record(int64_t producer, int32_t sequence);
void send_produce(int version, int16_t acks, int32_t timeout_ms, const char *topic, int32_t index, struct slice records);
int16_t produce(int16_t acks, const char *topic, int32_t index);
bool answered(int within_ms);
bool frame_has(const char *text);
struct log *log_of(const char *topic, int32_t index);
/* Creates the topic; *ret_index is led here, and its log answers acks=all when its high watermark is moved. */
struct log *create_replicated(const char *topic, int32_t *ret_index);
struct fetched {
    int16_t code;
    int64_t high_watermark;
    int32_t preferred;
    size_t bytes;
};
void send_fetch(int version, int32_t wait_ms, const char *topic, int32_t index, int64_t offset, int32_t leader_epoch, int32_t last_epoch, const char *rack);
struct fetched read_fetched(int version);
struct fetched fetch(int version, const char *topic, int32_t index, int64_t offset, int32_t leader_epoch, int32_t last_epoch, const char *rack);
void send_metadata(const char *topic); /* NULL: of all */
void metadata(const char *topic);

/* ---- groups ---- */
/* A group whose partition this node leads, or another does. */
const char *group_led(uint32_t leader);
int16_t heartbeat(const char *group, const char *member, int32_t generation);
int32_t find_coordinator(const char *group, int16_t *ret_code, int32_t *ret_port);

#endif
