/* The Raft core: the algorithm and nothing else. No I/O, no clock, no thread, no chance of its own: the host gives it events (time, messages, what became durable, proposals)
 * and does what the update says (persist, send, apply). The same code runs in the server, in the simulator (tests/sim/raft_sim.c) and step by step in the unit tests.
 *
 * Sections of "the dissertation" are those of D. Ongaro, Consensus: Bridging Theory and Practice (2014); "Figure 2" and "Figure 8" are the Raft paper's.
 *
 * What it does: pre-vote (9.6) and leader stickiness (4.2.3); check-quorum step-down (6.2); a no-op at the start of a term; commit by counting current-term entries only (Figure 8);
 * learners and single-server changes, one at a time and only after an entry of the current term is committed (4.1-4.2); leadership transfer (3.10); ReadIndex (6.4); pipelined
 * AppendEntries with a window; chunked, resumable snapshots.
 *
 * Identity. A member is (id, disk uuid). Every message names both ends by both; answers count only from the identity the configuration names, and a message for another disk than
 * this one is dropped. A node that came back with an empty disk has a new uuid and so has no vote until it is added again (as learner) by a change.
 *
 * Durability. What the update wants on disk has a number, `seq`; RAFT_PERSISTED(seq) says that everything up to it is durable, in order. Messages that promise something (a vote, a
 * request for votes, an append's answer) are held inside until then, so that the host may send all it is given at once. A leader's entries leave before its own disk has them;
 * its own vote for them counts only afterwards. There is no event for a failed write: after any I/O error the host stops stepping and the node leaves the group until restarted.
 *
 * Memory. The core keeps all entries from the log's first index on; the host bounds them by snapshots (RAFT_SNAPSHOT_SAVED says what was dropped), some MiB.
 *
 * ---- A host's loop, complete (one thread, the metadata thread; raft_store.h does the disk) ----
 *
 *     raft_store_open(dir, wake, arg, &store, &recovered);          // snapshot payload -> state machine; applied = recovered.snapshot.index
 *     if (recovered holds no configuration && forming)              // first start: alone, or as one of the seeds that agreed (rule 22)
 *         raft_store_form(store, members, n, &recovered);           // the same list on each of them
 *     r = raft_new(&options, &recovered); raft_store_loaded(store);
 *     for (;;) {
 *         wait until woken (mail: proposals, messages, store) or clock_mono_us() >= raft_deadline(r);
 *         while ((err = raft_store_next(store, &ev)) == 1)          // RAFT_PERSISTED, RAFT_SNAPSHOT_SAVED, RAFT_SNAPSHOT_INSTALLED
 *             step(&ev);                                            // INSTALLED: load ev.snapshot_payload into the state machine first
 *         if (err < 0) stop the node;
 *         for each bus message: raft_decode(payload, &decoder) == 0 ? step(RAFT_MSG) : drop it;
 *         for the proposals that wait (refused when raft_store_full): step(RAFT_PROPOSE, all payloads) and remember (up.first_index + i, up.term) for each;
 *         step(RAFT_TICK);
 *     }
 *     step(ev): ev.now_us = clock_mono_us();
 *         err = raft_step(r, &ev, &up);                             // <0: refused (ERR_NOT_LEADER, ...), the update is still valid; ERR_CORRUPT: stop the node
 *         if (up.seq != 0) raft_store_submit(store, &up, raft_is_alone(r)); // alone: RAFT_PERSISTED is there at once
 *         if (up.chunk != NULL) raft_store_chunk(store, up.chunk);
 *         for each up.messages: raft_encode; SNAPSHOT messages: fill data by raft_store_snapshot_read first; send on the control connection to m->to.id
 *         while (applied < up.commit) { raft_entry(r, ++applied, &e); RAFT_ENTRY_COMMAND -> state machine; answer the proposal remembered for `applied` if e.term is
 *             its term, else fail it as unknown; the other kinds change nothing }
 *         if it advanced: step(RAFT_APPLIED, applied);              // tells the leader (rule 17)
 *         for each up.reads: answer ctx when applied >= index, or err
 *         if (up.role_changed && up.role != RAFT_LEADER): proposals not yet applied have an unknown outcome: keep those until their index is applied or their
 *             time is up; a different term at their index means they are lost
 *         when the log is large: raft_store_snapshot(store, applied, raft_term_at(r, applied), raft_config_at(r, applied), payload)
 *
 * One thread. Slices and arrays in an update are valid until the next raft_step. All times in microseconds of one monotonic clock. */
#ifndef GM_CLUSTER_RAFT_H
#define GM_CLUSTER_RAFT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

#define RAFT_MEMBERS_MAX 512
#define RAFT_ADDRESS_MAX 255
#define RAFT_PROPOSAL_MAX ((1u << 20) - 4096) /* so that one entry fits a bus message of 1 MiB */
#define RAFT_MESSAGE_MAX (1u << 20)

/* ---- members ------------------------------------------------------------------------------------------------------ */

struct raft_node {
    uint32_t id; /* > 0 */
    uint8_t uuid[16];
};

struct raft_member {
    struct raft_node node;
    bool voter; /* else a learner: gets the log, counts for nothing */
    struct slice address; /* text, opaque to the core: where its bus listens */
};

/* A configuration, as in an entry of kind CONFIG and in snapshots:  uvarint n, then n times: be32 id, uuid, u8 voter, lslice address. */
void raft_config_encode(const struct raft_member *members, size_t n, struct buf *out);
/* ERR_MALFORMED; at most RAFT_MEMBERS_MAX, ids ascending. Addresses point into `in`. *ret_members is the caller's to mem_free. */
int raft_config_decode(struct slice in, struct raft_member **ret_members, size_t *ret_n);

/* ---- entries ------------------------------------------------------------------------------------------------------- */

enum raft_entry_kind {
    RAFT_ENTRY_COMMAND = 0, /* the host's */
    RAFT_ENTRY_NOOP = 1,    /* a leader's first */
    RAFT_ENTRY_CONFIG = 2,
};

struct raft_entry {
    uint64_t term;
    const uint8_t *data;
    uint32_t len;
    uint8_t kind; /* enum raft_entry_kind */
};

/* A snapshot as the core knows it: the state after `index`, the configuration then, and the payload's size and CRC32C. index 0: none. */
struct raft_snapshot {
    uint64_t index, term;
    struct slice config;
    uint64_t size;
    uint32_t crc;
};

/* ---- messages (encoded by raft_encode, raft_wire.c) ------------------------------------------------------------------- */

enum raft_message_type {
    RAFT_MSG_PRE_VOTE = 1,
    RAFT_MSG_PRE_VOTE_RESP,
    RAFT_MSG_VOTE,
    RAFT_MSG_VOTE_RESP,
    RAFT_MSG_APPEND, /* also the heartbeat */
    RAFT_MSG_APPEND_RESP,
    RAFT_MSG_SNAPSHOT,
    RAFT_MSG_SNAPSHOT_RESP,
    RAFT_MSG_TIMEOUT_NOW,
    RAFT_MSG__END,
};

struct raft_message {
    uint8_t type;
    bool granted;   /* the votes' answers; APPEND_RESP: not rejected */
    bool transfer;  /* VOTE: by the leader's wish, stickiness does not apply */
    struct raft_node from, to;
    uint64_t term;  /* the sender's; PRE_VOTE and a granted answer to it: the term that would be */
    uint64_t index; /* votes: last of the log. APPEND: previous. APPEND_RESP: granted: durable and equal up to here, else the previous that did not fit */
    uint64_t index_term;
    uint64_t commit; /* APPEND */
    uint64_t round;  /* APPEND, SNAPSHOT and their answers: the reads' round */
    uint64_t applied; /* APPEND_RESP */
    uint64_t hint, hint_term; /* APPEND_RESP, rejected: where to try next */
    const struct raft_entry *entries; /* APPEND */
    size_t entry_count;
    struct raft_snapshot snapshot; /* SNAPSHOT; SNAPSHOT_RESP: index and term only */
    uint64_t offset;               /* SNAPSHOT: of `data` in the payload. SNAPSHOT_RESP: wanted next */
    size_t chunk;                  /* SNAPSHOT to send: the length the host shall fill in as `data` */
    struct slice data;
};

/* Appends the message to out, at most RAFT_MESSAGE_MAX bytes. */
void raft_encode(const struct raft_message *m, struct buf *out);

/* Decodes into m; what it points to lies in `in` and in the decoder, until the next raft_decode. Zero-initialised is valid. ERR_MALFORMED: drop the message (and the connection). */
struct raft_decoder {
    struct raft_message m;
    struct raft_entry *entries; /* owned */
    size_t cap;
};
int raft_decode(struct slice in, struct raft_decoder *d);
void raft_decoder_fini(struct raft_decoder *d);

/* ---- events -------------------------------------------------------------------------------------------------------- */

enum raft_event_type {
    RAFT_TICK, /* at raft_deadline at the latest */
    RAFT_MSG,
    RAFT_PERSISTED,
    RAFT_SNAPSHOT_SAVED,     /* this node's own snapshot is durable; the log now begins at log_first */
    RAFT_SNAPSHOT_INSTALLED, /* a received one is durable and loaded, the old log is gone; or `err`: it was damaged, receive it again */
    RAFT_APPLIED,
    RAFT_PROPOSE,
    RAFT_CHANGE,
    RAFT_TRANSFER,
    RAFT_READ,
    RAFT_LEADER_GONE, /* the host has seen that this leader's process is no more ("connection refused", never a timeout alone): an election without waiting */
};

enum raft_change_type {
    RAFT_ADD_LEARNER, /* a new id; a known id with another uuid: the disk was replaced, the old one loses its vote in the same entry; same uuid: a new address */
    RAFT_PROMOTE,     /* a learner that has caught up becomes a voter, else ERR_AGAIN */
    RAFT_DEMOTE,      /* a voter becomes a learner */
    RAFT_REMOVE,
};

struct raft_event {
    uint8_t type;
    uint64_t now_us; /* never goes back */
    union {
        const struct raft_message *message; /* borrowed for the call */
        uint64_t seq;                       /* PERSISTED */
        struct {
            struct raft_snapshot snapshot;
            uint64_t log_first;             /* SAVED */
            int err;                        /* INSTALLED */
            struct slice snapshot_payload;  /* INSTALLED: for the host's state machine; the core does not look at it. RAFT_APPLIED follows when the host is through with it */
        };
        uint64_t applied; /* what the leader is told (rule 17); it may lag behind what the state machine has */
        struct {
            const struct slice *payloads; /* commands; copied */
            size_t payload_count;
        };
        struct {
            uint8_t change; /* enum raft_change_type */
            struct raft_member member; /* PROMOTE, DEMOTE, REMOVE: node.id only, or uuid too: then it must be that one */
        };
        uint32_t target; /* TRANSFER: a voter's id; 0: the one that is furthest. LEADER_GONE: who; not the present leader: nothing happens */
        uint64_t ctx;    /* READ: the host's, comes back in up.reads */
    };
};

/* ---- the update ---------------------------------------------------------------------------------------------------- */

enum raft_role { RAFT_FOLLOWER, RAFT_PRE_CANDIDATE, RAFT_CANDIDATE, RAFT_LEADER };

struct raft_read_answer {
    uint64_t ctx;
    uint64_t index; /* the read may be served once this is applied */
    int err;        /* 0, or ERR_NOT_LEADER: leadership was lost before it could be confirmed */
};

/* A piece of a snapshot that is being received. Pieces come in order; offset 0 begins anew. Not durable, not answered for, until RAFT_SNAPSHOT_INSTALLED. */
struct raft_chunk {
    struct raft_snapshot snapshot;
    uint64_t offset;
    struct slice data;
    bool last; /* now verify the CRC, make it durable, drop the log, start a new one behind it, answer with RAFT_SNAPSHOT_INSTALLED */
};

struct raft_update {
    /* to persist, in this order; answered by RAFT_PERSISTED(seq). 0: nothing */
    uint64_t seq;
    bool vote_changed;
    uint64_t term;
    struct raft_node vote;   /* id 0: none */
    uint64_t truncate_from;  /* 0: nothing; drop this index and all behind it */
    uint64_t first_index;    /* of `entries`; for PROPOSE and CHANGE also of what was proposed (one entry each payload, in order) */
    const struct raft_entry *entries;
    size_t entry_count;

    const struct raft_message *messages;
    size_t message_count;
    const struct raft_chunk *chunk; /* or NULL */

    uint64_t commit;
    const struct raft_read_answer *reads;
    size_t read_count;

    bool role_changed; /* role, leader or term are not what they were */
    bool progress;     /* on a leader: some member's match or applied index moved */
    bool transfer_failed;
    uint8_t role;
    uint32_t leader; /* id, 0: unknown */
};

/* ---- the core -------------------------------------------------------------------------------------------------------- */

struct raft_options {
    struct raft_node self;
    uint64_t seed;
    uint64_t now_us;
    /* 0 means the default */
    uint64_t election_timeout_us; /* 300 ms; randomised up to twice that */
    uint64_t heartbeat_us;        /* 30 ms */
    uint32_t append_bytes_max;    /* 256 KiB a message (one larger entry goes alone) */
    uint32_t window;              /* 32 unanswered messages a member */
    uint32_t chunk_bytes;         /* 256 KiB */
    uint64_t uncommitted_bytes_max; /* 64 MiB; above it PROPOSE answers ERR_LIMIT */
};

/* What the disk held. Borrowed for raft_new. */
struct raft_recovered {
    uint64_t term;
    struct raft_node vote;
    struct raft_snapshot snapshot;
    uint64_t base, base_term; /* the log's entries follow this one; base <= snapshot.index */
    const struct raft_entry *entries;
    size_t entry_count;
};

struct raft;

struct raft *raft_new(const struct raft_options *o, const struct raft_recovered *rec);
void raft_free(struct raft *r);

/* 0, or why the event was refused (the update is valid all the same):
 * PROPOSE, CHANGE, TRANSFER, READ: ERR_NOT_LEADER. PROPOSE: ERR_TOO_LARGE, ERR_LIMIT, ERR_BUSY (a transfer is under way). CHANGE: ERR_BUSY (another change, or nothing of this
 * term committed yet), ERR_NOT_FOUND, ERR_EXISTS, ERR_AGAIN, ERR_INVALID (would leave no voter), ERR_LIMIT. TRANSFER: ERR_NOT_FOUND, ERR_BUSY.
 * Always: ERR_CORRUPT, a contradiction to what is committed: the node must stop; every later step answers the same. */
int raft_step(struct raft *r, const struct raft_event *ev, struct raft_update *up);
/* When the next RAFT_TICK is due. */
uint64_t raft_deadline(const struct raft *r);

/* An entry of the log; its data is valid until the next raft_step. False: not in the log. */
bool raft_entry(const struct raft *r, uint64_t index, struct raft_entry *ret);
uint64_t raft_term_at(const struct raft *r, uint64_t index); /* 0: not known (or index 0) */
uint64_t raft_first_index(const struct raft *r);             /* last + 1 when the log is empty */
uint64_t raft_last_index(const struct raft *r);
uint64_t raft_log_bytes_above(const struct raft *r, uint64_t index); /* what they take in memory: when to snapshot */
uint64_t raft_commit(const struct raft *r);
uint64_t raft_current_term(const struct raft *r);
enum raft_role raft_role(const struct raft *r);
uint32_t raft_leader(const struct raft *r);
/* The only voter and nobody else in the configuration: the host may sync on its own thread. */
bool raft_is_alone(const struct raft *r);

/* The configuration in force (the latest in the log, committed or not), encoded; and that of an index not below the newest snapshot's. Valid until the next raft_step. */
struct slice raft_config(const struct raft *r);
struct slice raft_config_at(const struct raft *r, uint64_t index);
uint64_t raft_config_index(const struct raft *r); /* above raft_commit: a change is under way */

/* A leader's knowledge of the members, itself included. */
struct raft_peer_status {
    struct raft_node node;
    bool voter;
    uint64_t match, applied;
    uint64_t heard_us; /* when it answered last; own: now */
    bool snapshot;     /* being sent one */
    /* It denies, again and again, to have entries that it vouched for in this term: its disk is an old copy, or has forgotten. Nothing is sent to it but heartbeats. It must neither vote nor count: the host sees to that. */
    bool lost;
};
size_t raft_peers(const struct raft *r, struct raft_peer_status *ret, size_t max);
/* Whether recovered entries or the snapshot hold a configuration: if not, the group is not formed here (or this node is to be added as a learner, which needs none). */
bool raft_has_config(const struct raft_recovered *rec);

#endif
