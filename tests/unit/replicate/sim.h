/* A cluster in one process: nodes with real stores, partitions and workers, over a bus that delivers, loses and is cut as the test says, and one topology that all see at once. */
#ifndef GM_TESTS_UNIT_REPLICATE_SIM_H
#define GM_TESTS_UNIT_REPLICATE_SIM_H

#include "cluster/replicate/replicate.h"
#include "cluster/topology/state.h"

#define SIM_NODES 4

struct sim;
struct sim_node {
    struct sim *sim;
    uint32_t id;
    char *dir; /* owned while it runs */
    bool up;
    struct workers *ws;
    struct log_store *store;
    struct partitions *ps;
    struct stream_table *streams;
    struct topology_store *topology;
    struct bus *bus;
    struct replication *r;
};

struct sim {
    char dir[64];
    uint32_t nodes, partitions;
    uint32_t lag_max_ms;
    enum log_fsync fsync;
    uint32_t sync_ms;
    uint64_t segment_bytes, snapshot_log_bytes, snapshot_keep_bytes;
    struct sim_node node[SIM_NODES + 1]; /* by id */
    pthread_mutex_t mutex; /* the topology's state */
    struct topo_state state;
    struct topology **views; /* all that were ever published */
    size_t view_count, view_cap;
    /* the network */
    bool cut[SIM_NODES + 1][SIM_NODES + 1]; /* atomic: from, to */
    uint32_t loss;                          /* atomic: of 1000 messages so many end as a broken connection */
    uint64_t seed;
};

void sim_init(struct sim *s, uint32_t nodes, uint32_t partitions); /* change fields, then sim_begin */
void sim_begin(struct sim *s, uint32_t factor);                    /* places, starts all nodes, waits until every partition has a leader that serves */
void sim_end(struct sim *s);
void sim_start(struct sim *s, uint32_t id);
void sim_stop(struct sim *s, uint32_t id); /* it answers nobody any more, then is stopped cleanly */
int sim_apply(struct sim *s, struct buf *command); /* frees it */
void sim_fence(struct sim *s, uint32_t id, bool lease_may_run);
void sim_activate(struct sim *s, uint32_t id);
void sim_isolate(struct sim *s, uint32_t id, bool cut);
uint32_t sim_leader(struct sim *s, uint32_t partition);
uint32_t sim_insync(struct sim *s, uint32_t partition); /* how many */
bool sim_is_insync(struct sim *s, uint32_t partition, uint32_t node);
struct partition *sim_partition(struct sim *s, uint32_t id, uint32_t partition);

int sim_set(struct sim *s, uint32_t id, const char *key, const char *value, int64_t *ret_end); /* on that node, at level leader */
int sim_get(struct sim *s, uint32_t id, const char *key, char *out, size_t size, bool stale);
uint64_t sim_hash(struct sim *s, uint32_t id, uint32_t partition, int64_t *ret_applied);
uint32_t sim_partition_of(struct sim *s, const char *key);
/* False: not within ten seconds. */
#define SIM_WAIT(cond)                                       \
    ({                                                       \
        bool ok_ = false;                                    \
        for (int i_ = 0; i_ < 10000 && !(ok_ = (cond)); i_++) \
            sim_nap();                                       \
        ok_;                                                 \
    })
void sim_nap(void);
/* All replicas of all partitions have the leader's log and memory. */
bool sim_equal(struct sim *s);
void sim_print(struct sim *s); /* to stderr, for people */

#endif
