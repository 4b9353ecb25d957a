/* The topology's state machine: apply(command) -> a new version of the maps. Private to cluster/topology. One thread writes; what a command makes unreachable is
 * gathered in `retired` and freed by the store after a grace period. Deterministic: no clock, no chance, no I/O. */
#ifndef GM_CLUSTER_TOPOLOGY_STATE_H
#define GM_CLUSTER_TOPOLOGY_STATE_H

#include "cluster/topology/commands.h"

struct topo_retired {
    struct pmap_retired nodes;
    void **objects;
    size_t count, cap;
};
void topo_retired_free(struct topo_retired *r);

struct topo_state {
    struct topology v;            /* the version being written */
    struct topo_retired retired;
    struct topology_change *changes; /* since topo_state_clear_changes; names are owned copies */
    size_t change_count, change_cap;
};

struct topo_result {
    int err;
    uint64_t id;
    int64_t producer_id;
};

/* Applies one command. A malformed or unknown one is ERR_CORRUPT / ERR_LEVEL: the caller stops. Every other error is the command's answer and changes nothing. */
int topo_state_apply(struct topo_state *s, struct slice command, struct topo_result *ret);
void topo_state_clear_changes(struct topo_state *s);
/* Frees everything reachable; nobody reads any more. */
void topo_state_free(struct topo_state *s);

/* The whole state as bytes, and back into an empty state. ERR_CORRUPT, ERR_LEVEL. */
void topo_state_encode(const struct topology *v, struct buf *out);
int topo_state_decode(struct topo_state *s, struct slice in);

/* keys.c: how objects are found in the maps. Each appends to b. */
void topo_key_scoped(struct buf *b, struct slice vhost, struct slice name); /* exchanges, queues */
void topo_key_permission(struct buf *b, struct slice user, struct slice vhost);
void topo_key_routing(struct buf *b, struct slice routing_key); /* words ended by 01, the key by 00 */
void topo_key_binding(struct buf *b, const struct topo_binding *x);
void topo_key_binding_to(struct buf *b, const struct topo_binding *x);
void topo_key_word(struct buf *b, struct slice word); /* one word, escaped, no terminator */

struct topo_config_item {
    struct slice name, value;
};

#endif
