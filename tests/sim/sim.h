/* A deterministic simulator of whole Raft groups: the real core, and a network, disks, time and clients that are made up from one seed.
 *
 *   raft_sim.c   the command line, runs of seeds            disk.c    what a disk keeps of what was asked, crashes included
 *   world.c      one seed: events in order of time          net.c     loss, delay, duplicates, reordering, cuts
 *   host.c       a node: the loop of raft.h                 check.c   the invariants, checked at every event
 *   actions.c    clients, administrators and faults
 *
 * Nothing here reads a clock or the environment: the same seed gives the same run, with --trace line by line. A violation prints the seed and ends the process. */
#ifndef GM_TESTS_SIM_H
#define GM_TESTS_SIM_H

#include <stdarg.h>
#include <stdio.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/raft/raft.h"

#define NODES_MAX 6
#define ELECTION_US 300000u
#define HEARTBEAT_US 30000u

/* ---- disk --------------------------------------------------------------------------------------------------------- */

struct sim_entry {
    uint64_t term;
    uint64_t value; /* a command's payload */
    uint8_t *blob;  /* owned: another kind's */
    uint32_t len;
    uint8_t kind;
};

struct sim_entries {
    struct sim_entry *v;
    size_t n, cap;
};

struct sim_snapshot {
    struct raft_snapshot s; /* config points into config */
    struct buf config, payload;
};

enum op_type { OP_WRITE, OP_SAVE, OP_INSTALL };

struct op {
    uint8_t type;
    bool vote_changed;
    uint64_t seq, term;
    struct raft_node vote;
    uint64_t truncate_from, first;
    struct sim_entries entries;
    struct sim_snapshot snapshot;
    int err; /* INSTALL: the CRC did not fit */
};

struct disk {
    /* durable */
    uint64_t term;
    struct raft_node vote;
    uint64_t base, base_term;
    struct sim_entries log;
    struct sim_snapshot snapshot, former;
    /* asked, not durable yet; the first `busy` are being synced */
    struct op **ops;
    size_t n, cap, busy;
};

void disk_init(struct disk *d);
void disk_fini(struct disk *d);
void disk_form(struct disk *d, struct slice config);
void disk_submit(struct disk *d, const struct raft_update *up);
void disk_save(struct disk *d, const struct raft_snapshot *s, const struct buf *payload);
void disk_install(struct disk *d, const struct raft_snapshot *s, const struct buf *payload);
void disk_apply(struct disk *d, const struct op *op);
void op_free(struct op *op);
/* Power goes: of what was not durable an arbitrary part survives, of the log a prefix, torn inside a batch too. */
void disk_crash(struct disk *d, struct rand *rand);
/* What a restart finds; entries are to be freed by the caller. */
void disk_recover(const struct disk *d, struct raft_recovered *rec);

/* ---- nodes -------------------------------------------------------------------------------------------------------- */

struct node {
    uint32_t id;
    struct raft_node self;
    bool exists;   /* has a disk */
    bool up;
    uint32_t life; /* counts starts: events of a former life are dropped */
    uint64_t clock_offset;
    uint64_t paused_until;
    uint64_t restart_at; /* 0: by an action */
    struct raft *r;
    struct disk disk;
    struct buf recv; /* a snapshot that is received */
    uint64_t applied, hash;
    bool saving;
    bool was_leader;
    uint64_t led_term;
    uint64_t tick_at; /* cache of raft_deadline, world time */
};

/* ---- the world ------------------------------------------------------------------------------------------------------- */

struct msg {
    struct msg *next; /* free list */
    uint32_t len;
    uint8_t bytes[];
};

enum { EV_DELIVER, EV_DISK, EV_BOUNCE };

struct qev {
    uint64_t at, order;
    uint32_t life;
    uint8_t type, node;
    struct msg *msg;
};

struct read {
    uint64_t ctx, floor;
};

struct entry_seen {
    uint64_t term, prev_term, hash;
};

struct index_seen {
    struct entry_seen *v; /* every entry that ever stood at this index */
    uint32_t n, cap;
    uint64_t committed_term, chain; /* 0: not committed yet */
    uint64_t known_term;            /* the term in which it was committed */
};

struct config_seen { /* a configuration that is, or may yet be, in force somewhere */
    uint64_t index;
    struct buf encoded;
};

struct profile { /* what this seed's world is like */
    uint64_t latency_us, jitter_us, disk_us, disk_jitter_us, action_us;
    unsigned loss, dup, slow_disk; /* in 1/1024 */
    unsigned weight[24];           /* of each action, actions.c */
    unsigned weight_sum;
    bool big_snapshots;
    unsigned sharp; /* of 1024: a node dies shortly after a vote, a change of role or a truncation, where it hurts most */
    unsigned strand; /* of 1024: a new leader's first entry reaches one other node at most, then it dies: what Figure 8 is made of */
    bool figure_8;
    bool stingy; /* few entries a message, few messages under way: what takes one step elsewhere takes many */
};

struct world {
    uint64_t seed;
    struct rand rand;
    bool trace;
    uint64_t now, order, events, actions_at;
    struct node nodes[NODES_MAX];
    unsigned node_n;
    bool cut[NODES_MAX][NODES_MAX];
    struct profile p;
    bool calm; /* faults have stopped */
    struct qev *heap;
    size_t heap_n, heap_cap;
    struct msg *free_msgs;
    struct raft_decoder decoder;
    struct buf scratch;
    uint64_t next_value, next_ctx, next_uuid;
    /* checks */
    struct index_seen *seen; /* by index */
    size_t seen_cap, seen_last;
    uint64_t commit; /* the highest any node knows */
    struct config_seen *configs; /* the first is the latest committed one */
    size_t config_n, config_cap;
    struct raft_node *leaders; /* by term */
    size_t leaders_cap;
    struct read *reads;
    size_t read_n, read_cap;
    /* what happened, for the summary: a simulator that never elects or never reads proves nothing */
    uint64_t elections, commits, reads_served, changes, installs, transfers, crashes;
};

struct totals {
    uint64_t events, elections, commits, reads, changes, installs, transfers, crashes;
};

/* One seed; a violation does not return. */
void world_run(uint64_t seed, uint64_t events, bool trace, struct totals *t);
void world_push(struct world *w, uint64_t at, uint8_t type, struct node *n, struct msg *m);
bool chance(struct world *w, unsigned of_1024);
uint64_t below(struct world *w, uint64_t bound);
struct node *world_node(struct world *w, uint32_t id);

void host_start(struct world *w, struct node *n);
void host_crash(struct world *w, struct node *n);
int host_step(struct world *w, struct node *n, struct raft_event *ev);
void host_deliver(struct world *w, struct node *n, const struct msg *m);
void host_disk_done(struct world *w, struct node *n);
void host_snapshot(struct world *w, struct node *n);
void host_wipe(struct world *w, struct node *n);

void net_send(struct world *w, struct node *from, struct raft_message *m);
void net_drop(struct world *w, struct msg *m);

void actions_profile(struct world *w);
void actions_run(struct world *w);
void actions_stop(struct world *w); /* heals everything and starts every node */

void check_appended(struct world *w, const struct node *n, uint64_t index, const struct raft_entry *e, uint64_t prev_term);
void check_committed(struct world *w, const struct node *n, uint64_t index, const struct raft_entry *e, uint64_t chain);
void check_snapshot(struct world *w, const struct node *n, uint64_t index, uint64_t term, uint64_t chain);
void check_leader(struct world *w, const struct node *n);
/* Whether a majority of voters would have their disks in this configuration; in each that may be in force. */
bool check_quorum_left(struct world *w, struct slice config);
bool check_quorum_left_everywhere(struct world *w);
void check_config(struct world *w, uint64_t index, struct slice config);
void check_read_begin(struct world *w, uint64_t ctx);
void check_read_end(struct world *w, const struct node *n, const struct raft_read_answer *a);
uint64_t check_chain(uint64_t chain, const struct raft_entry *e);
void check_fini(struct world *w);

_Noreturn void violation(struct world *w, const struct node *n, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
extern struct world *sim_world; /* the one that runs, for the report of a failed assertion */

#define TRACE(w, ...)                                                                                                                                      \
    do {                                                                                                                                                   \
        if (__builtin_expect((w)->trace, 0)) {                                                                                                             \
            printf("%9llu.%03llu ", (unsigned long long)(w)->now / 1000, (unsigned long long)(w)->now % 1000);                                             \
            printf(__VA_ARGS__);                                                                                                                           \
            putchar('\n');                                                                                                                                 \
        }                                                                                                                                                  \
    } while (0)

#endif
