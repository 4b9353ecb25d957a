/* Consumer groups: the classic protocol (KIP-62, static members KIP-345, member ids first KIP-394) as a state
 * machine without clock, socket or storage.
 *
 *   Empty --join--> PreparingRebalance --all rejoined, or time is up--> CompletingRebalance --leader syncs-->
 * Stable ^                 |    ^                                              | |
 *     +--nobody is left-+    +------- member joins anew, leaves, is lost
 * ---+-----------------------------------+ Dead: deleted; whoever still asks is told to look for the
 * coordinator again.
 *
 * A member whose JoinGroup or SyncGroup has no answer yet holds the asker's `wait` pointer; it comes back
 * through struct group_ops exactly once. Time comes in as `now_ms` (monotonic: it is never stored);
 * group_deadline says when group_tick wants to run.
 *
 * Threads: a group is guarded by the lock of the partition its id hashes to; so is struct groups, the table
 * of one partition. */
#ifndef GM_STREAM_GROUP_H
#define GM_STREAM_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/slice.h"

enum group_state { GROUP_EMPTY, GROUP_PREPARING, GROUP_COMPLETING, GROUP_STABLE, GROUP_DEAD };
const char *
group_state_name(enum group_state s); /* "Empty", "PreparingRebalance"..., as DescribeGroups says */

/* What a request to a group may be answered with; the front end has a code for each. */
enum group_error {
    GROUP_OK = 0,
    GROUP_ERR_UNKNOWN_MEMBER,
    GROUP_ERR_ILLEGAL_GENERATION,
    GROUP_ERR_REBALANCING,
    GROUP_ERR_INCONSISTENT_PROTOCOL,
    GROUP_ERR_FENCED_INSTANCE,
    GROUP_ERR_MEMBER_ID_REQUIRED,
    GROUP_ERR_NOT_AVAILABLE, /* Dead: ask for the coordinator again */
    GROUP_ERR_MOVED,         /* another node coordinates it now */
};

struct group_protocol {
    char *name;          /* owned */
    struct buf metadata; /* owned */
};

struct group_member {
    struct list node;
    char *id;
    char *instance; /* NULL: dynamic */
    char *client_id, *client_host;
    int32_t rebalance_timeout_ms, session_timeout_ms;
    struct group_protocol *protocols; /* in order of preference */
    unsigned protocol_count;
    struct buf assignment;
    bool is_new;                 /* has never been given a generation: waits up to 5 minutes for it */
    bool synced;                 /* in CompletingRebalance: has sent its SyncGroup */
    uint64_t deadline_ms;        /* session */
    void *join_wait, *sync_wait; /* the front end's, given back through group_ops */
    bool skip_assignment;        /* KIP-814: of the answer being given */
};

struct group_pending { /* a member id handed out and not used yet (KIP-394) */
    struct list node;
    char *id;
    uint64_t deadline_ms;
};

struct group;
struct group_ops {
    /* Answers a JoinGroup: on success the member and the group's generation, protocol, leader are as they
     * stand; m is NULL when the member is gone. */
    void (*joined)(void *wait, struct group *g, struct group_member *m, enum group_error err);
    /* Answers a SyncGroup with m->assignment. */
    void (*synced)(void *wait, struct group *g, struct group_member *m, enum group_error err);
};

struct group {
    struct group *next; /* in its bucket */
    char *id;
    enum group_state state;
    int32_t generation;
    char *protocol_type; /* NULL until the first member */
    char *protocol;      /* chosen; NULL while Empty */
    char *leader;        /* member id; NULL */
    struct list members; /* in order of arrival */
    unsigned member_count;
    struct list pending;
    uint64_t join_deadline_ms;      /* Preparing: when it completes without those missing */
    uint64_t join_hard_deadline_ms; /* of an initial delay, which arrivals extend up to this */
    uint32_t initial_delay_ms;      /* 0: not in an initial delay */
    bool newcomer;                  /* somebody arrived during this initial delay */
    uint64_t sync_deadline_ms; /* Completing: members that have not synced by then are dropped; 0 otherwise */
    int64_t empty_since_ms;    /* wall clock, for offset retention; -1 while it has members */
    bool changed; /* generation, members or assignment must be stored: the owner does and clears it */
};

struct groups {
    struct group **buckets;
    uint32_t bucket_count, count;
    const struct group_ops *ops; /* borrowed */
    uint32_t initial_rebalance_delay_ms;
};

void groups_init(struct groups *gs, const struct group_ops *ops, uint32_t initial_rebalance_delay_ms);
void groups_fini(struct groups *gs); /* waits are forgotten, not answered */
struct group *group_find(struct groups *gs, struct slice id);
struct group *group_add(struct groups *gs, struct slice id); /* Empty, generation 0 */
/* Answers all waits with NOT_AVAILABLE and frees it. */
void group_remove(struct groups *gs, struct group *g);
/* This node no longer coordinates them: answers all waits with MOVED and frees all groups; what is stored of them stays. */
void groups_clear(struct groups *gs);
void groups_each(struct groups *gs, void (*fn)(struct group *g, void *arg), void *arg);

struct group_member *group_member_find(const struct group *g, struct slice id);
struct group_member *group_static_member(const struct group *g, struct slice instance);
/* The chosen protocol's metadata of a member; empty when it has none. */
struct slice group_member_metadata(const struct group *g, const struct group_member *m);
bool group_is_leader(const struct group *g, const struct group_member *m);

/* ---- requests ----------------------------------------------------------------------------------------- */
struct group_join {
    struct slice member_id; /* empty: unknown yet */
    struct slice instance;  /* data NULL: dynamic */
    struct slice client_id, client_host;
    struct slice new_member_id; /* what a new member is to be called: unique, made by the caller */
    int32_t rebalance_timeout_ms, session_timeout_ms;
    struct slice protocol_type;
    const struct slice *names, *metadata; /* the protocols, in order of preference */
    unsigned protocol_count;
    bool id_required;         /* JoinGroup 4 and newer: a new dynamic member is told its id first */
    bool may_skip_assignment; /* JoinGroup 9 and newer */
    void *wait;
};
/* GROUP_OK: `wait` is or will be answered through ops->joined. Otherwise wait is the caller's again. With
 * MEMBER_ID_REQUIRED the caller tells new_member_id. */
enum group_error group_join(struct groups *gs, struct group *g, const struct group_join *j, uint64_t now_ms);

struct group_sync {
    struct slice member_id, instance;
    int32_t generation;
    struct slice protocol_type, protocol; /* data NULL: not checked */
    const struct slice *members, *assignments;
    unsigned assignment_count;
    void *wait;
};
enum group_error group_sync(struct groups *gs, struct group *g, const struct group_sync *y, uint64_t now_ms);
enum group_error group_heartbeat(struct groups *gs, struct group *g, struct slice member_id,
                                 struct slice instance, int32_t generation, uint64_t now_ms);
/* `instance` with data: by it, and member_id may be empty. */
enum group_error group_leave(struct groups *gs, struct group *g, struct slice member_id,
                             struct slice instance, uint64_t now_ms);
/* Whether offsets may be committed by this member; keeps its session alive. generation < 0: from outside,
 * allowed while nobody is in the group. */
enum group_error group_may_commit(struct groups *gs, struct group *g, struct slice member_id,
                                  struct slice instance, int32_t generation, uint64_t now_ms);

/* Session, join and sync deadlines that have passed. */
void group_tick(struct groups *gs, struct group *g, uint64_t now_ms);
/* The next time group_tick has something to do; UINT64_MAX: never. */
uint64_t group_deadline(const struct group *g);
/* A wait whose asker has gone: it is not answered any more; the member stays until its session ends. */
void group_forget_wait(struct group *g, void *wait);

#endif
