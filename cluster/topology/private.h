/* The store's parts, as its own files see them. Private to cluster/topology.
 *
 *   store.c       life, views, what other threads may ask
 *   host.c        the Raft core's host: its disk, its messages, applying what is committed
 *   proposals.c   proposals on their way into the log, here or through the leader, and when they are answered (rule 17)
 *   again.c       the leader's memory of those that it was asked for again
 *   changes.c     the thread that tells the server what changed, since the engines may have to be waited for
 *   forming.c     an empty node: finds its seeds, forms a cluster with them or joins one (rule 22); form_plan.c decides
 *   join.c        the member's side of that: answering probes, taking nodes in
 *   members.c     this node's registration; on the leader: voters and learners; voters_plan.c decides
 *
 * Everything belongs to the control worker (before topology_start: to the thread that opened the store) unless a comment says otherwise. */
#ifndef GM_CLUSTER_TOPOLOGY_PRIVATE_H
#define GM_CLUSTER_TOPOLOGY_PRIVATE_H

#include <pthread.h>

#include "base/mutex.h"
#include "cluster/bus/bus.h"
#include "cluster/raft/raft.h"
#include "cluster/raft/raft_store.h"
#include "cluster/topology/form_plan.h"
#include "cluster/topology/identity.h"
#include "cluster/topology/state.h"
#include "cluster/topology/topology.h"
#include "cluster/topology/voters_plan.h"

#define STORE_MAGIC 0x544f504fu
#define COMPACT_BYTES (4u << 20)
#define STORE_TICK_MS 50 /* deadlines, repeated news, the membership */
#define TICK_ALONE_MS 1000

/* A proposal's mark in the log, before the command: u8 ENVELOPE | be64 process | be64 seq. No command has this number. */
#define ENVELOPE 0xf0u
#define ENVELOPE_SIZE 17u

struct proposal_list {
    struct topology_proposal *head, **tail;
    size_t count;
};

/* A command another node wants proposed. */
struct remote_proposal {
    struct remote_proposal *next;
    struct bus_request *request;
    uint64_t term; /* only in this one */
    struct buf bytes;
};

struct topology_store {
    uint32_t magic;
    struct topology_options o; /* strings are owned copies */
    char **seeds;              /* owned */
    struct workers *own_workers; /* when no control worker was given */
    struct worker *control;
    bool started; /* the control worker has taken over */
    bool left;    /* topology_leave: the bus is about to go */
    char *raft_dir;
    struct identity identity;

    /* the core and the state machine */
    struct raft *raft; /* NULL: not a member of a group yet */
    struct raft_store *disk;
    struct raft_recovered recovered; /* until the core is made */
    struct topo_state state;
    uint64_t applied, applied_term;
    uint64_t config_index; /* of the configuration the bus knows */
    bool starts_changed;   /* the bus has yet to be told which epochs the nodes have */
    uint64_t snapshot_index; /* of the newest snapshot that was asked for */
    int failed;            /* the node takes part no more */
    struct raft_decoder decoder;
    struct buf scratch;
    struct io_timer timer, tick;
    struct worker_hook hook;
    const struct topology *view; /* atomic; what readers see */
    pthread_rwlock_t pins;

    /* the group, as others may look at it */
    uint32_t leader;   /* atomic */
    uint64_t term;     /* atomic */
    bool leading;      /* atomic */
    bool give_up;      /* atomic: hand leadership away */
    uint32_t gone;     /* atomic: a node whose process is no more, 0: none */
    bool transferring;
    uint32_t node_id;    /* atomic */
    uint64_t node_epoch; /* atomic */

    /* proposals */
    uint64_t process; /* chance: which process a mark is of */
    uint64_t last_seq;
    struct proposal_list queue;   /* not proposed yet, by seq */
    struct proposal_list sent;    /* in the log of a leader, perhaps; by seq */
    struct proposal_list applied_list; /* applied here, not everywhere; by index */
    struct remote_proposal *remote_head, **remote_tail;
    struct again_mark *again; /* owned array: again.c */
    size_t again_count, again_cap;
    uint64_t again_term;
    bool ask_again; /* some of `sent` have no answer and will get none */
    uint64_t retry_us;       /* forwarding pauses until then */
    uint64_t everywhere;     /* every node that is not fenced has applied up to here, as far as known */
    uint64_t everywhere_told;
    uint64_t remote_wanted;  /* the leader: others wait for this index */
    uint64_t remote_until_us, told_us;
    struct topology_read *reads_new, *reads;
    uint64_t read_ctx;

    /* telling changes: changes.c */
    struct mutex changes_lock;
    pthread_cond_t changes_news;
    struct change_batch *changes_head GUARDED_BY(changes_lock), **changes_tail GUARDED_BY(changes_lock);
    bool changes_stop GUARDED_BY(changes_lock);
    bool changes_thread_runs;
    pthread_t changes_thread;
    uint64_t changes_made; /* the control worker's: number of the last batch handed over */
    uint64_t changes_told, changes_told_index; /* atomic: of the last batch the server was told */
    uint64_t applied_told; /* what the core was told by RAFT_APPLIED */

    /* the other threads' side */
    struct mutex lock;
    struct proposal_list inbox GUARDED_BY(lock);
    struct mail wake_mail;
    bool wake_posted; /* atomic */
    struct topology_group group GUARDED_BY(lock);
    uint8_t cluster_id[16] GUARDED_BY(lock);
    struct topo_endpoint endpoints[TOPO_LISTENERS] GUARDED_BY(lock); /* hosts owned */
    bool endpoints_changed GUARDED_BY(lock);
    bool unclean GUARDED_BY(lock);
    enum topology_phase phase;
    char phase_text[400];

    /* forming.c */
    struct form_seed *form_seeds; /* owned array, seed_count long */
    struct form_call *form_calls; /* owned, one a seed */
    struct io_timer form_timer;
    bool forming;
    char own_address[300]; /* "": not found yet */
    struct form_word *form_word GUARDED_BY(lock); /* the waiting administrator's */
    bool joining;
    struct bus_call join_call;
    struct buf join_members; /* a configuration: whom a node that was just taken in may listen to */
    uint64_t form_said_us, form_begun_us;
    char form_said[400];

    /* members.c */
    struct topology_proposal registration;
    bool registering, registered;
    uint64_t register_after_us, loading_said_us;
    struct topology_proposal own_proposal; /* the controller's */
    bool own_proposing;
    uint32_t shut_out; /* who forgot what it had vouched for, last, and when it was shut out */
    uint64_t shut_out_us;
    uint64_t reconcile_after_us;
    struct topology_proposal endpoints_proposal;
    bool endpoints_proposing;
    struct join_wait *joins; /* nodes being taken in */
};

/* ---- store.c */
void store_publish(struct topology_store *t);
void store_set_phase(struct topology_store *t, enum topology_phase phase, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void store_wake(struct topology_store *t); /* any thread: a turn soon */
void store_soon(struct topology_store *t); /* the control worker: a turn at the end of this loop turn */
void store_turn(struct topology_store *t);
void store_retire_state(struct topology_store *t, struct topo_state *old);

/* ---- host.c */
/* Makes the core out of what the disk held. */
void host_begin(struct topology_store *t);
/* One event. <0: refused, or the store failed. `ret` (may be NULL) keeps the scalars of the update. */
int host_step(struct topology_store *t, struct raft_event *ev, struct raft_update *ret);
void host_turn(struct topology_store *t);
void host_fail(struct topology_store *t, int err, const char *what);
void host_handle_raft(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);
void host_set_targets(struct topology_store *t);
void host_applied(struct topology_store *t); /* tells the leader how far this node is */

/* ---- proposals.c */
void proposals_init(struct topology_store *t);
void proposals_turn(struct topology_store *t);     /* takes the inbox, proposes or forwards */
void proposals_applied(struct topology_store *t, uint64_t process, uint64_t seq, uint64_t index, const struct topo_result *result);
void proposals_term_over(struct topology_store *t); /* an entry of applied_term was applied */
void proposals_complete(struct topology_store *t);  /* answers what is done */
void proposals_expire(struct topology_store *t, uint64_t now_us);
void proposals_fail(struct topology_store *t, int err);
void proposals_drop(struct topology_store *t); /* at the end: nobody runs any more but this thread */
void proposals_everywhere(struct topology_store *t); /* the leader: looks again how far everybody is */
void proposals_refuse_remote(struct topology_store *t);
void proposals_handle(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);
void proposals_handle_applied(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);
void proposals_submit(struct topology_store *t, struct topology_proposal *p); /* the control worker's own */

void proposals_handle_again(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);

/* ---- again.c: on the leader */
/* 1: it has this one (marked command), do not append it; 0: append it; ERR_AGAIN: cannot tell. `again`: it is asked for again. */
int again_judge(struct topology_store *t, struct slice marked, bool again);
void again_forget(struct topology_store *t);

/* ---- changes.c */
void changes_init(struct topology_store *t);
int changes_start(struct topology_store *t);
void changes_stop(struct topology_store *t);
/* Hands over what the state gathered; *_told follows by itself. */
void changes_tell(struct topology_store *t);
/* The index up to which the server knows everything. */
uint64_t changes_told_upto(struct topology_store *t);

/* ---- forming.c and join.c */
void forming_open(struct topology_store *t);
void forming_start(struct topology_store *t);
void forming_close(struct topology_store *t);
/* This node is one of the founders of that cluster: persists it and begins. */
int forming_adopt(struct topology_store *t, const uint8_t cluster_id[16], const struct raft_member *members, size_t n);
void forming_handle_probe(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);
void forming_handle_commit(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);
void join_handle(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);
void join_turn(struct topology_store *t);
void join_fail(struct topology_store *t, int err);
void join_drop(struct topology_store *t);

/* ---- members.c */
void members_turn(struct topology_store *t, uint64_t now_us);
void members_know_cluster(struct topology_store *t);
void members_begin(struct topology_store *t); /* the core exists */
/* Alone, on the caller's thread: a group of one, forms if need be, registers. */
int members_open_alone(struct topology_store *t, char *why, size_t why_size);
void members_handle_read_index(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);

#endif
