/* What the core's files share. One file an idea:
 *   core.c        life, the step, what is durable            election.c   timers, votes, roles
 *   entries.c     the log in memory                           replicate.c  the leader's side of AppendEntries, commit
 *   configs.c     configurations of the log                   follow.c     the follower's side
 *   change.c      changes of members, transfer                snapshot.c   both sides of snapshots
 *   read.c        ReadIndex                                   raft_wire.c  messages as bytes
 *
 * -DRAFT_BUG=1..5 plants one of five classic bugs; `make check-sim` proves that the simulator finds each. */
#ifndef GM_CLUSTER_RAFT_PRIVATE_H
#define GM_CLUSTER_RAFT_PRIVATE_H

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/raft/raft.h"

#ifndef RAFT_BUG
#define RAFT_BUG 0
#endif
enum {
    BUG_COMMIT_OLD_TERM = 1, /* Figure 8 */
    BUG_VOTE_NOT_PERSISTED,
    BUG_COMMIT_BEFORE_STORE,
    BUG_TWO_CHANGES,
    BUG_STALE_READ,
};

#define WINDOW_MAX 64
#define LONELY 6 /* election timeouts after which a learner stands too */
#define PROMOTE_LAG_MAX 64 /* entries a learner may be behind when it becomes a voter */

/* The log in memory: entries base+1 .. base+n, contiguous. */
struct entries {
    struct raft_entry *v; /* owned, and so is each data */
    uint64_t *sums;       /* owned, beside v: bytes of all entries up to this one, since ever */
    size_t head, n, cap;  /* v[head .. head+n) */
    uint64_t base, base_term, base_sum;
};

uint64_t entries_bytes_above(const struct entries *l, uint64_t index);
uint64_t entries_last(const struct entries *l);
uint64_t entries_last_term(const struct entries *l);
uint64_t entries_term(const struct entries *l, uint64_t index); /* 0: below base, above last, or index 0 */
bool entries_has(const struct entries *l, uint64_t index, uint64_t term); /* or is it the base; index 0 is always there */
const struct raft_entry *entries_at(const struct entries *l, uint64_t index); /* base < index <= last */
void entries_append(struct entries *l, uint64_t term, uint8_t kind, struct slice data); /* copies */
void entries_truncate(struct entries *l, uint64_t from);
void entries_drop_below(struct entries *l, uint64_t first);
void entries_reset(struct entries *l, uint64_t base, uint64_t base_term);
void entries_fini(struct entries *l);

struct config {
    uint64_t index; /* of its entry, or of the snapshot that held it */
    struct buf encoded;
    struct raft_member *members; /* owned; addresses point into encoded */
    size_t n;
};

/* Configurations from the newest snapshot's on, ascending; the last is in force, committed or not (dissertation 4.1). */
struct configs {
    struct config *v;
    size_t n, cap;
};

int configs_push(struct configs *c, uint64_t index, struct slice encoded); /* ERR_MALFORMED */
bool configs_truncate(struct configs *c, uint64_t from);                   /* true: the one in force is another now */
void configs_drop_below(struct configs *c, uint64_t index);                /* keeps the one in force at index */
const struct config *configs_now(const struct configs *c);                 /* never NULL */
const struct config *configs_at(const struct configs *c, uint64_t index);
void configs_fini(struct configs *c);

enum peer_state { PEER_PROBE, PEER_REPLICATE, PEER_SNAPSHOT };

struct peer {
    struct raft_node node;
    bool voter;
    bool granted;   /* candidates: its vote */
    bool paused;    /* PROBE: one message is under way */
    uint8_t state;
    uint64_t match, next;
    uint64_t applied;
    uint64_t commit_sent;
    uint64_t heard_us;
    uint64_t round; /* the latest it echoed */
    uint64_t lost_at; /* since when it has denied what it had vouched for; 0: it has not */
    bool lost;
    uint64_t inflight[WINDOW_MAX]; /* last index of each unanswered message, a ring */
    uint32_t inflight_head, inflight_n;
    /* SNAPSHOT */
    uint64_t snap_index, snap_offset, snap_sent_us;
};

struct snap {
    struct raft_snapshot s; /* config points into config */
    struct buf config;
};

struct outstanding {
    uint64_t seq, last, term;
    struct raft_node vote;
};

struct pending_read {
    uint64_t ctx, round;
};

struct raft {
    struct raft_options o;
    struct rand rand;
    uint64_t now;
    int failed;

    /* what Figure 2 calls persistent; how far it is so stands below */
    uint64_t term;
    struct raft_node vote;
    struct entries log;
    struct configs configs;
    struct snap snap, former; /* the newest snapshot; the one before, while it is still being sent */

    uint64_t seq; /* last given out */
    struct outstanding *out; /* a queue of what the disk has not confirmed */
    size_t out_head, out_n, out_cap;
    uint64_t persisted;      /* the log, as it is now, is durable up to here */
    uint64_t persisted_term; /* and this term with this vote */
    struct raft_node persisted_vote;

    enum raft_role role;
    uint32_t leader;
    struct raft_node leader_node;
    uint64_t leader_heard_us; /* 0: not since the last leader was given up */
    uint64_t election_at;
    uint32_t lonely; /* election timeouts in a row without a leader */
    uint64_t commit, applied;

    struct peer *peers; /* all members of the configuration in force, this node too */
    size_t peer_n;

    /* follower */
    uint64_t verified; /* the log equals the leader's up to here; at least commit */
    uint64_t leader_round;
    bool respond;      /* an APPEND_RESP is due once the term is durable */
    bool vote_due;     /* a granted vote waits for the disk */
    struct snap recv;  /* being received; index 0: none */
    uint64_t recv_offset;
    bool installing;   /* the last piece is with the host */

    /* candidate */
    bool by_transfer;
    bool asked; /* votes were requested (the own one is durable) */

    /* leader */
    uint64_t term_start; /* index of this term's no-op */
    uint64_t heartbeat_at;
    uint32_t transfer_to; /* id, 0: none */
    uint64_t transfer_until;
    bool transfer_sent;
    uint64_t round, round_acked;
    struct pending_read *reads;
    size_t read_n, read_cap;

    /* the update being made */
    bool vote_changed;
    uint64_t truncated; /* 0: not */
    uint64_t appended;  /* first new index, 0: none */
    bool progress, transfer_failed;
    struct raft_message *messages;
    size_t message_n, message_cap;
    struct raft_read_answer *answers;
    size_t answer_n, answer_cap;
    struct raft_chunk chunk;
    bool have_chunk;
};

static inline bool node_eq(const struct raft_node *a, const struct raft_node *b)
{
    return a->id == b->id && memcmp(a->uuid, b->uuid, 16) == 0;
}

/* core.c */
struct raft_message *raft_send(struct raft *r, uint8_t type, const struct raft_node *to); /* zeroed but for type, ends and term; valid until the next raft_send */
struct peer *raft_peer(struct raft *r, uint32_t id);
struct peer *raft_peer_exact(struct raft *r, const struct raft_node *node);
bool raft_is_voter(const struct raft *r);
size_t raft_quorum(const struct raft *r);
void raft_peers_rebuild(struct raft *r);
void raft_append_entry(struct raft *r, uint64_t term, uint8_t kind, struct slice data);
void raft_drop_from(struct raft *r, uint64_t from);
int raft_contradiction(struct raft *r);
/* The value that a majority of voters has reached. */
uint64_t raft_majority_of(struct raft *r, uint64_t (*value)(const struct raft *, const struct peer *));

/* election.c */
void election_reset_timer(struct raft *r);
void election_tick(struct raft *r);
void election_follow(struct raft *r, uint64_t term, const struct raft_node *leader); /* leader NULL: unknown */
void election_leader_gone(struct raft *r, uint32_t id);
void election_campaign(struct raft *r, bool transfer);
void election_persisted(struct raft *r);
void election_recv_request(struct raft *r, const struct raft_message *m, bool pre);
void election_recv_answer(struct raft *r, const struct raft_message *m, bool pre);
bool election_sticky(const struct raft *r);

/* replicate.c */
void replicate_start(struct raft *r); /* became leader */
void replicate_tick(struct raft *r);
void replicate_peer_reset(struct raft *r, struct peer *p);
void replicate_to(struct raft *r, struct peer *p, bool heartbeat);
void replicate_all(struct raft *r, bool heartbeat);
void replicate_recv(struct raft *r, const struct raft_message *m);
void replicate_commit(struct raft *r);

/* follow.c */
int follow_recv_append(struct raft *r, const struct raft_message *m);
void follow_respond(struct raft *r);
void follow_heard(struct raft *r, const struct raft_message *m);

/* snapshot.c */
void snapshot_send(struct raft *r, struct peer *p, bool again);
void snapshot_recv_answer(struct raft *r, const struct raft_message *m);
int snapshot_recv(struct raft *r, const struct raft_message *m);
void snapshot_saved(struct raft *r, const struct raft_snapshot *s, uint64_t log_first);
void snapshot_installed(struct raft *r, const struct raft_snapshot *s, int err);
void snap_set(struct snap *to, const struct raft_snapshot *s);

/* change.c */
int change_propose(struct raft *r, uint8_t change, const struct raft_member *m);
int change_transfer(struct raft *r, uint32_t target);
void change_transfer_step(struct raft *r, const struct peer *p);
void change_transfer_tick(struct raft *r);

/* read.c */
int read_begin(struct raft *r, uint64_t ctx);
void read_advance(struct raft *r); /* answers what is confirmed, starts the next round */
void read_fail_all(struct raft *r);

#endif
