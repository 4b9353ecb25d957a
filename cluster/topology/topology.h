/* The topology: what a cluster knows of itself (nodes, vhosts, users, exchanges, bindings, queues, topics, configs). One state machine
 * behind one propose call and one immutable view.
 *
 * Writing: encode a command (commands.h), topology_propose it; the control worker has it appended to the Raft log, applies it once it is committed and answers by mail.
 * Reading: topology_view gives an immutable snapshot through an atomic pointer; a worker may use it, and everything reached from it, until its turn ends (it is
 * reclaimed by a grace period over all workers, P6). Trees are persistent: a change copies one path, O(log n), never the whole (rule 17).
 *
 * Exact counts and contents (messages, groups, offsets) are data, not topology. */
#ifndef GM_CLUSTER_TOPOLOGY_H
#define GM_CLUSTER_TOPOLOGY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "cluster/topology/pmap.h"
#include "io/worker.h"

/* ---- objects: immutable once published ------------------------------------------------------------------------------------ */

struct topo_vhost {
    uint64_t id;
    struct slice name;
};

struct topo_user {
    struct slice name;
    uint8_t salt[4];
    uint8_t hash[32];  /* SHA-256(salt + password), as RabbitMQ stores it */
    struct slice tags; /* "administrator,monitoring" */
};

/* Compares in constant time. */
bool topo_user_password_ok(const struct topo_user *u, struct slice password);

/* POSIX extended regular expressions on object names, "" allows nothing. */
struct topo_permission {
    struct slice user, vhost;
    struct slice configure, write, read;
};

enum topo_exchange_type { TOPO_DIRECT, TOPO_FANOUT, TOPO_TOPIC, TOPO_HEADERS };

struct topo_exchange {
    uint64_t id;
    uint64_t vhost_id;
    struct slice vhost, name;
    enum topo_exchange_type type;
    bool durable, auto_delete, internal;
    struct slice args; /* an AMQP table's bytes without the length, as declared */
    bool had_binding;  /* auto-delete takes effect after the first */
};

struct topo_queue {
    uint64_t id; /* never reused; the queue log's identity */
    uint64_t vhost_id;
    struct slice vhost, name;
    bool durable, exclusive, auto_delete;
    uint32_t owner_node;       /* exclusive: the node and node epoch its connection lives in */
    uint64_t owner_node_epoch;
    struct slice args;
    uint32_t partition;        /* placement, fixed when declared */
};

enum topo_binding_kind { TOPO_TO_QUEUE, TOPO_TO_EXCHANGE };

struct topo_binding {
    uint64_t source_id; /* exchange */
    enum topo_binding_kind kind;
    uint64_t destination_id;
    struct slice routing_key;
    struct slice args; /* AMQP table bytes */
};

struct topo_topic {
    uint64_t id;        /* never reused */
    uint8_t uuid[16];   /* Kafka's topic id */
    struct slice name;
    uint32_t partitions;
    int16_t replication_factor; /* as asked */
    struct slice configs;       /* pairs: lslice name, lslice value; sorted by name */
};
/* The value of a topic config, SLICE_NONE when not set on the topic. */
struct slice topo_topic_config(const struct topo_topic *t, const char *name);

/* A node's listeners as it tells others of them; where `host` is empty, who shows it to a client uses the rule of addresses (topo_node_address). */
enum topo_listener { TOPO_RESP, TOPO_KAFKA, TOPO_AMQP, TOPO_HTTP, TOPO_BUS };
#define TOPO_LISTENERS 5
struct topo_endpoint {
    struct slice host; /* as advertised; empty: none */
    uint16_t port;     /* 0: that listener is off */
};

enum topo_node_state {
    TOPO_NODE_JOINING,  /* registered, not yet heard of by the controller */
    TOPO_NODE_ACTIVE,   /* unfenced: may lead and be in sync */
    TOPO_NODE_FENCED,   /* silent, or restarted and not yet back ("failed" for people) */
    TOPO_NODE_DRAINING, /* active, and an administrator wants it emptied: enum topo_drain */
};

/* What an administrator wants taken off a node, for maintenance or for good; kept through its restarts until he says otherwise. */
enum topo_drain {
    TOPO_DRAIN_NONE,
    TOPO_DRAIN_LEADERS,  /* it leads only what nobody else can; its replicas stay and keep up */
    TOPO_DRAIN_REPLICAS, /* and its replicas are placed elsewhere */
};

struct topo_node {
    uint32_t id; /* small, never reused: Kafka's broker id */
    uint8_t uuid[16];
    struct slice name, rack;
    uint64_t epoch; /* raised at each registration (start) */
    uint32_t level; /* the highest feature level it can work at (rule 10) */
    enum topo_node_state state;
    bool unclean;   /* its last start was not behind a clean stop and on another boot: its tails cannot be trusted (D7) */
    /* Fenced by the fast path for dead processes: if a firewall lied, its lease may run for cluster.lease more, and a successor answers at level quorum only after that (rule 20). */
    bool lease_may_run;
    enum topo_drain drain;
    bool slow;      /* rule 25: leaves in-sync sets and joins none, leads only what nobody else can */
    bool clock_off; /* rule 26: leads only what nobody else can */
    struct topo_endpoint endpoints[TOPO_LISTENERS];
};
/* Where clients (or peers: TOPO_BUS) reach a node: the listener's advertised host, else the host the node registered for its bus (advertised, or its host in cluster.seeds), with that listener's port. Never empty, never
 * a wildcard; false when the listener is off or no host is known. `host` into text of `size`. */
bool topo_node_address(const struct topo_node *n, enum topo_listener listener, char *host, size_t size, uint16_t *ret_port);

/* ---- partitions ---------------------------------------------------------------------------------------------------------------- */
/* Replicas of a partition and those being added, together. A factor of up to one less leaves room to move a replica. */
#define TOPO_REPLICAS_MAX 8
struct topo_replica_set {
    uint8_t count;
    uint32_t nodes[TOPO_REPLICAS_MAX];
};
bool topo_set_has(const struct topo_replica_set *s, uint32_t node);
bool topo_set_add(struct topo_replica_set *s, uint32_t node);    /* false: full; adding twice is adding once */
void topo_set_remove(struct topo_replica_set *s, uint32_t node); /* keeps the order of the others */
bool topo_set_equal(const struct topo_replica_set *a, const struct topo_replica_set *b); /* in any order */

/* One record a partition; every change raises `version` and is a compare-and-set on it (Kafka's partition epoch), a change of leader raises `epoch` too (R27). Small, because a node keeps all of them: the sets are bits
 * over one list of members; read them by the functions below. */
struct topo_partition {
    uint32_t index;
    uint32_t leader; /* node id; 0: none (offline) */
    int32_t epoch;   /* leader epoch, stamped into batches */
    uint32_t version;
    uint8_t replica_count, adding_count; /* of members: first the replicas in order of preference, then those being added */
    uint8_t insync, eligible, last_known; /* bit i: members[i] */
    uint32_t members[TOPO_REPLICAS_MAX];
};
struct topo_replica_set topo_replicas(const struct topo_partition *p);   /* in order of preference */
struct topo_replica_set topo_insync(const struct topo_partition *p);     /* committed */
struct topo_replica_set topo_eligible(const struct topo_partition *p);   /* left the in-sync set below min_insync and cleanly: may be elected (R28) */
struct topo_replica_set topo_last_known(const struct topo_partition *p); /* after unclean restarts of all: rule 19 */
struct topo_replica_set topo_adding(const struct topo_partition *p);     /* being filled; not counted by rule 12b; becomes a replica when its leader reports it in sync */
bool topo_is_replica(const struct topo_partition *p, uint32_t node);     /* or one that is being added: it fetches */
bool topo_is_insync(const struct topo_partition *p, uint32_t node);
/* Its leader was elected without a set that allowed it, and is in last_known still: before it opens, it pulls from the others of last_known every log in which they are ahead (rule 19); its first INSYNC request, be the set
 * the same, ends this. Any in-sync request of a leader clears last_known. */
bool topo_is_recovering(const struct topo_partition *p);

/* ---- the view ---------------------------------------------------------------------------------------------------------------- */

struct topology {
    uint64_t index; /* of the last applied command: the view's version */
    uint8_t cluster_id[16];
    uint32_t level;            /* feature level, rule 10 */
    uint32_t total_partitions; /* fixed when the cluster formed */
    uint64_t next_id;
    int64_t next_producer_id;
    uint32_t next_node_id;
    /* persistent maps; use the finders below */
    /* total_partitions records by index, replaced in chunks of eight; NULL before the first placement. Lock-free: topo_partition_at is two loads. */
    struct topo_partition_table *partitions;
    uint32_t replication_factor, min_insync; /* as the cluster keeps them; 0: the defaults, 3 and rule 12's */
    struct pmap nodes, vhosts, users, permissions, exchanges, exchanges_by_id, queues, queues_by_id, bindings, bindings_by_destination, topics,
        topics_by_id, configs;
};

struct topology_store;
struct bus;

/* Never NULL after topology_open. On a worker: valid until the turn's end. On another thread: between topology_pin and topology_unpin. */
const struct topology *topology_view(struct topology_store *t);
/* For threads that are not workers (HTTP, tests): holds reclamation off meanwhile; keep it short. */
const struct topology *topology_pin(struct topology_store *t);
void topology_unpin(struct topology_store *t);

const struct topo_vhost *topo_vhost_find(const struct topology *v, struct slice name);
const struct topo_user *topo_user_find(const struct topology *v, struct slice name);
const struct topo_permission *topo_permission_find(const struct topology *v, struct slice user, struct slice vhost);
const struct topo_exchange *topo_exchange_find(const struct topology *v, struct slice vhost, struct slice name);
const struct topo_exchange *topo_exchange_by_id(const struct topology *v, uint64_t id);
const struct topo_queue *topo_queue_find(const struct topology *v, struct slice vhost, struct slice name);
const struct topo_queue *topo_queue_by_id(const struct topology *v, uint64_t id);
const struct topo_topic *topo_topic_find(const struct topology *v, struct slice name);
const struct topo_topic *topo_topic_by_uuid(const struct topology *v, const uint8_t uuid[16]);
const struct topo_node *topo_node_find(const struct topology *v, uint32_t id);
/* NULL: not placed yet. */
const struct topo_partition *topo_partition_at(const struct topology *v, uint32_t index);
/* min_insync that counts for this partition: rule 12b. */
uint32_t topo_partition_min_insync(const struct topology *v, const struct topo_partition *p);
struct slice topo_config(const struct topology *v, const char *name); /* cluster-wide setting, SLICE_NONE when unset */

/* Listings in order of name; stop when fn returns false. An empty vhost slice (data NULL) means all. */
void topo_each_vhost(const struct topology *v, bool (*fn)(const struct topo_vhost *, void *arg), void *arg);
void topo_each_user(const struct topology *v, bool (*fn)(const struct topo_user *, void *arg), void *arg);
void topo_each_permission(const struct topology *v, bool (*fn)(const struct topo_permission *, void *arg), void *arg);
void topo_each_exchange(const struct topology *v, struct slice vhost, bool (*fn)(const struct topo_exchange *, void *arg), void *arg);
void topo_each_queue(const struct topology *v, struct slice vhost, bool (*fn)(const struct topo_queue *, void *arg), void *arg);
void topo_each_topic(const struct topology *v, bool (*fn)(const struct topo_topic *, void *arg), void *arg);
void topo_each_node(const struct topology *v, bool (*fn)(const struct topo_node *, void *arg), void *arg);

/* Routing: calls fn for each binding of the exchange that matches. Direct: equal keys. Topic: `*` one word, `#` any number, walked as a trie over the ordered
 * map, so the work depends on matches and wildcards, not on the number of bindings. All: fanout and headers (the caller compares the arguments). The same
 * destination may come more than once. */
void topo_match_direct(const struct topology *v, uint64_t exchange_id, struct slice routing_key, bool (*fn)(const struct topo_binding *, void *arg), void *arg);
void topo_match_topic(const struct topology *v, uint64_t exchange_id, struct slice routing_key, bool (*fn)(const struct topo_binding *, void *arg), void *arg);
void topo_match_all(const struct topology *v, uint64_t exchange_id, bool (*fn)(const struct topo_binding *, void *arg), void *arg);
/* Bindings whose destination is this queue or exchange. */
void topo_bindings_to(const struct topology *v, enum topo_binding_kind kind, uint64_t destination_id, bool (*fn)(const struct topo_binding *, void *arg), void *arg);

/* ---- changes: told to the server as they are applied, on the control worker, before the proposal is answered and after the new view is published ------------ */
enum topology_change_kind { TOPO_QUEUE_DELETED, TOPO_TOPIC_CREATED, TOPO_TOPIC_DELETED, TOPO_TOPIC_CHANGED, TOPO_VHOST_DELETED, TOPO_USER_CHANGED, TOPO_CONFIG_CHANGED, TOPO_NODE_CHANGED, TOPO_PARTITION_CHANGED, TOPO_PARTITION_DAMAGED };
struct topology_change {
    enum topology_change_kind kind;
    uint64_t id;            /* queue, topic or node; PARTITION_DAMAGED: whose copy */
    struct slice name;      /* topic, vhost, user or config; borrowed for the call */
    uint32_t partition;     /* of a queue, or which changed */
    uint32_t partitions;    /* of a topic */
};

/* ---- proposing --------------------------------------------------------------------------------------------------------------- */
/* Embedded in its owner, which keeps it until `done` ran.
 *
 * A proposal is proposed exactly once, on whatever node it is made: it carries a mark (process, sequence) into the Raft log, by which its proposer finds it when it is applied. When the connection to the leader is lost
 * with it, it is asked for again, and the leader knows by the mark whether it has it. When the leader goes, the proposer
 * waits for the first entry of a later term: what has not come by then is lost for certain and is proposed again. It is answered when this node has applied it (its own view shows it) and, rule 17, every node that is
 * not fenced has. Bound: TOPOLOGY_PROPOSE_MS. After that ERR_NO_LEADER says that it was surely not proposed, ERR_TIMEOUT that its outcome is unknown: then declaring, binding, unbinding and configs may simply be
 * repeated, and who creates or deletes may find it done (ERR_EXISTS, ERR_NOT_FOUND). */
#define TOPOLOGY_PROPOSE_MS 5000
struct topology_proposal {
    struct mail mail; /* private */
    struct topology_proposal *next;
    struct worker *worker;   /* where `done` runs; NULL: on the control worker */
    void (*done)(struct topology_proposal *p);
    struct buf command;      /* owned: the encoded command; the proposer frees it in `done` */
    /* 0, or the only term of the group in which it may be appended, by this node as its leader: a decision of the controller is worth nothing in a later term, whose controller knows better.
     * Then ERR_NOT_LEADER: it was not done. */
    uint64_t only_term;
    /* the answer */
    int err;                 /* 0 or ERR_*: what applying said (ERR_EXISTS, ERR_NOT_FOUND, ERR_MISMATCH, …), ERR_NO_LEADER, ERR_TIMEOUT or ERR_IO */
    uint64_t index;          /* the topology index it was applied at */
    uint64_t id;             /* of what was created, or found equal */
    int64_t producer_id;     /* ALLOCATE_PRODUCER_IDS: first of the block */
    uint64_t seq, term, deadline_us; /* private */
    bool answered;           /* private: of topology_propose_wait */
    bool unsure;             /* private: it was sent, and whether it arrived is not known */
};
/* Any thread. Commands proposed in order by one thread are applied in that order while one node leads; many are synced together. */
void topology_propose(struct topology_store *t, struct topology_proposal *p);
/* Proposes and waits; for start-up, the admin thread and tests, not on a worker. Frees nothing. */
int topology_propose_wait(struct topology_store *t, struct topology_proposal *p);

/* ---- opening ------------------------------------------------------------------------------------------------------------------ */
enum topology_phase {
    TOPOLOGY_LOADING, /* its own log is read, the group is not reached yet */
    TOPOLOGY_FORMING, /* an empty node that waits for its seeds or for a member to take it in */
    TOPOLOGY_MEMBER,  /* registered: node id, node epoch and cluster id are known, the view is as new as this start */
    TOPOLOGY_FAILED,  /* refused or broken: the text says why and what to do; the node serves nothing */
};

struct topology_options {
    const char *data_dir;         /* keeps data_dir/raft/ and data_dir/node.id */
    struct workers *workers;      /* who reads views; NULL in tests that pin */
    struct worker *control;       /* where the Raft core lives: an extra worker. NULL: the store makes one of its own */
    const char *node_name, *rack; /* rack may be NULL */
    uint32_t total_partitions;    /* of a new cluster; an existing one keeps its own (ERR_MISMATCH with the reason in `why`) */
    bool unclean;                 /* log_store's verdict: another boot and no clean stop (D7); or topology_set_unclean */
    struct topo_endpoint endpoints[TOPO_LISTENERS]; /* as registered; borrowed during topology_open */
    /* A cluster; bus NULL: a node alone. Borrowed for the store's life. */
    struct bus *bus;
    const char *const *seeds;
    unsigned seed_count;
    const char *address;          /* "HOST:PORT" of this node's bus for its peers: advertised; NULL: its entry in seeds */
    const char *listen;           /* the same as listened on, for a node that is no seed; NULL when that is no address for others */
    uint32_t election_timeout_ms, heartbeat_ms; /* 0: the core's defaults */
    uint32_t replace_after_ms;    /* a voter away for longer is replaced by a learner; 0: 30 s */
    /* All on the control worker (before topology_start: on the caller's thread). */
    void (*changed)(void *arg, const struct topology_change *change);
    void *changed_arg;
    void (*published)(void *arg); /* a new version of the view is there */
    /* This node began to lead the group and has applied all of former terms (it is the controller now), or ended to. */
    void (*leading)(void *arg, bool leading, uint64_t term);
    /* For /readyz and people; `text` is borrowed for the call. */
    void (*phase)(void *arg, enum topology_phase phase, const char *text);
    void *arg;                    /* of the three above */
};
/* First start of a node alone: makes the cluster id and the node identity (rule 22: a node alone is a group of one). Later starts replay. ERR_FOREIGN, ERR_LEVEL, ERR_CORRUPT,
 * ERR_MISMATCH with the reason in why[size]. Alone, this registers the node: a new node epoch, which also removes the exclusive queues of its former epochs and the other non-durable queues and exchanges.
 * In a cluster that, and forming or joining, happens after topology_start; `phase` tells. The view is never NULL, but empty until then. */
int topology_open(const struct topology_options *options, char *why, size_t why_size, struct topology_store **ret);
/* Goes on on the control worker; the workers run or will run. */
int topology_start(struct topology_store *t);
/* Gives leadership away and waits, bounded by timeout_ms, until another node leads; at once when there is none that could. Not on a worker. Before topology_close, while workers and bus run. */
void topology_give_up_leading(struct topology_store *t, uint32_t timeout_ms);
/* Any thread: this node's process is known to be gone ("connection refused", never a timeout alone). If it is the controller, this node stands for election without waiting for the
 * election timeout; those who still hear it refuse. */
void topology_node_gone(struct topology_store *t, uint32_t node_id);
/* The store takes part no more and leaves the bus alone: what others asked of it is answered, what is proposed from now on is answered by topology_close. Not on a worker; before bus_close, while the workers run. */
void topology_leave(struct topology_store *t);
/* Answers what waits with ERR_CLOSED; after workers_stop (or with a control worker of its own). */
void topology_close(struct topology_store *t);
uint32_t topology_node_id(const struct topology_store *t);       /* any thread; 0: none yet */
uint64_t topology_node_epoch(const struct topology_store *t);    /* any thread */
void topology_cluster_id(const struct topology_store *t, uint8_t ret[16]); /* any thread; zeros: none yet */
/* The registered endpoints change (a listener opened on a port the system chose). Any thread; repeats the registration within the same epoch. */
void topology_set_endpoints(struct topology_store *t, const struct topo_endpoint endpoints[TOPO_LISTENERS]);
/* log_store's verdict, when it is known later than topology_open; before topology_start. */
void topology_set_unclean(struct topology_store *t, bool unclean);
/* An administrator's word: form the cluster without these seeds (rule 22), or with none named: whoever answers now must be all. Not on a worker. 0 or ERR_* with the reason. */
int topology_form_without(struct topology_store *t, const char *const *without, unsigned n, char *why, size_t why_size);

/* ---- the group; the control worker unless it says any thread ------------------------------------------------------------------- */
uint32_t topology_controller(const struct topology_store *t); /* any thread: the node that leads, as far as known; 0: none known */
bool topology_is_leading(const struct topology_store *t);     /* any thread: between leading(true) and leading(false) */
uint64_t topology_term(const struct topology_store *t);       /* any thread */
/* On the leader: an index that is committed, confirmed by a round to a majority that began after this call (ReadIndex, 6.4). */
struct topology_read {
    struct topology_read *next; /* private */
    uint64_t ctx, index;        /* private */
    int err;                    /* private */
    bool answered;              /* private */
    void (*done)(struct topology_read *r, int err, uint64_t index); /* ERR_NOT_LEADER; on the control worker, never inside topology_read_index */
};
void topology_read_index(struct topology_store *t, struct topology_read *r);
void topology_read_cancel(struct topology_store *t, struct topology_read *r);

struct topology_group_member {
    uint32_t node_id;
    bool voter;
    uint64_t match, applied; /* the leader's knowledge, else 0 */
    int64_t heard_ms_ago;    /* -1: not known */
};
struct topology_group {
    uint32_t leader;
    uint64_t term, commit, applied;
    unsigned count;
    struct topology_group_member members[64]; /* the first ones */
    enum topology_phase phase;
    char text[400]; /* of the phase */
};
/* Rule 25; any thread: for how long the running write of the topology's log has been under way, 0: none. */
uint32_t topology_disk_busy_ms(const struct topology_store *t);
/* For people; any thread. */
void topology_group_get(struct topology_store *t, struct topology_group *ret);

#endif
