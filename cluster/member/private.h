/* Membership's parts, as its own files see them. Private to cluster/member.
 *
 *   member.c       life; this node's side: heartbeats, the lease
 *   controller.c   the controller's side: hearing, answering, states, partitions; acts out what plan.c decides
 *   ends.c         the controller asks replicas for the ends of their main logs (rule 19)
 *   events.c       what changed, told to people: a ring, counters
 *   people.c       questions from other threads and other nodes
 *   wire.c         payloads */
#ifndef GM_CLUSTER_MEMBER_PRIVATE_H
#define GM_CLUSTER_MEMBER_PRIVATE_H

#include "base/list.h"
#include "base/mutex.h"
#include "cluster/member/member.h"
#include "cluster/member/plan.h"
#include "cluster/member/wire.h"

#define TICK_MS 50
#define EVENTS_MAX 1000
#define HEARTBEATS_MAX 16 /* under way at once */
#define SKEWS 8

/* One heartbeat of this node on its way. */
struct beat {
    struct bus_call call;
    struct topology_read read; /* when this node is the controller */
    struct member *m;
    uint64_t sent_us; /* CLOCK_BOOTTIME */
    uint64_t seq;
    bool busy;
};

/* A lease that was given and holds once this node has applied `index`. */
struct grant {
    uint64_t until_us, index;
};

/* Another node's heartbeat, waiting for the round that makes its answer true. */
struct waiting {
    struct list node;
    struct topology_read read;
    struct member *m;
    struct bus_request *request;
    uint32_t node_id;
    uint64_t node_epoch;
    uint64_t term;
};

/* What the controller knows of a node. */
struct peer {
    uint32_t id;
    uint64_t epoch;         /* of the view */
    enum topo_node_state state;
    uint64_t state_since_us;
    bool heard;             /* since the last change of epoch or state, in this term */
    uint64_t heard_us;
    bool refused;           /* the bus's last attempt */
    bool connected;
    unsigned refuse_count;
    uint32_t refuses[REFUSED_MAX];
    uint32_t sync_age_ms, replication_age_ms;
    bool slow;
    int64_t skews[SKEWS];   /* its clock less ours, lessened by the way: the greatest is the best */
    unsigned skew_count;
    int64_t skew_ms;        /* against the median */
    bool clock_off;
    bool fencing;           /* proposed: it gets no lease any more */
    uint64_t proposed_us;   /* of a change of its state; 0: none under way */
};

/* A command of the controller's on its way. */
struct order {
    struct topology_proposal proposal;
    struct list node;
    struct member *m;
    uint32_t node_id; /* 0: partitions */
    uint64_t term;
};

/* The end of a main log as its node told it. */
struct end {
    uint32_t partition, node_id;
    uint64_t node_epoch;
    int32_t epoch;
    int64_t end;
};
struct end_call {
    struct bus_call call;
    struct list node;
    struct member *m;
    uint32_t partition, node_id;
    uint64_t node_epoch;
};

/* Per partition: what was asked for lately, and what people were told last. */
struct mark {
    uint32_t version;      /* a change from this one was proposed */
    uint64_t proposed_us;
    uint64_t handover_us;
    uint32_t leader;       /* told */
    int32_t epoch;
    struct topo_replica_set insync;
};

struct member {
    uint32_t magic;
    struct member_options o;
    bool started, serving, stopping;
    bool taken_in;           /* alive in the last view */
    bool alone;              /* a group of one: the lease is for ever */
    struct io_timer beat_timer, tick;

    /* this node */
    struct beat beats[HEARTBEATS_MAX];
    uint64_t beat_seq;
    struct grant grants[HEARTBEATS_MAX];
    unsigned grant_count;
    uint64_t lease_until_us;
    bool lease_ended;              /* and told */
    uint32_t refused[REFUSED_MAX]; /* nodes whose port refuses us */
    unsigned refused_count;

    /* the controller */
    bool leading;
    uint64_t term, lead_since_us;
    struct peer *peers;
    unsigned peer_count, peer_cap;
    struct list waiting; /* struct waiting */
    struct list orders;  /* struct order */
    struct end *ends;
    unsigned end_count, end_cap;
    struct list end_calls;
    uint64_t planned_us, settled_us;
    bool dirty;              /* something that a plan depends on changed */
    struct plan_options plan;

    /* what is shown */
    struct mark *marks;
    uint32_t mark_count;
    struct mutex lock;
    struct member_event *events GUARDED_BY(lock);
    unsigned event_first GUARDED_BY(lock), event_count GUARDED_BY(lock);
    struct told_node *told; /* events.c */
    unsigned told_count;
    const void *told_table; /* of partitions, compared only */
};

uint64_t member_now_us(void);
/* controller.c */
void controller_begin(struct member *m, uint64_t term);
void controller_end(struct member *m);
void controller_view_changed(struct member *m);
void controller_tick(struct member *m);
void controller_heartbeat(struct member *m, const struct heartbeat *h, uint64_t now_us);
/* Whether the node may have a lease now: alive, of this epoch, and no fencing under way. */
int controller_may_grant(struct member *m, uint32_t node_id, uint64_t node_epoch);
void controller_handle_heartbeat(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);
void controller_peer_refused(struct member *m, uint32_t node_id, bool refused);
void controller_order(struct member *m, struct buf *command, uint32_t node_id);
struct plan_input controller_input(struct member *m, struct plan_node *facts, unsigned max);
struct peer *controller_peer(struct member *m, uint32_t id);
unsigned controller_infos(struct member *m, struct member_node_info *ret, unsigned max);
/* member.c */
bool member_hand_over(struct member *m, uint32_t partition, int32_t epoch, uint32_t leader, uint32_t to);

/* ends.c */
void ends_want(struct member *m, uint32_t partition);
bool ends_get(void *arg, uint32_t partition, uint32_t node, int32_t *ret_epoch, int64_t *ret_end);
void ends_prune(struct member *m, const struct topology *v);
void ends_forget(struct member *m);

/* events.c */
void events_init(struct member *m);
void events_fini(struct member *m);
void events_add(struct member *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void events_view_changed(struct member *m, const struct topology *v);
void events_refused(struct member *m, uint32_t node_id);

/* people.c */
void people_handle(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);

#endif
