/* A Raft group in memory, moved by hand: a test says which messages arrive and what becomes durable, and when. */
#ifndef GM_TESTS_UNIT_RAFT_GROUP_H
#define GM_TESTS_UNIT_RAFT_GROUP_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/raft/raft.h"

#define MAX 6
#define ELECTION 300000u
#define HEARTBEAT 30000u

struct server {
    uint32_t id;
    struct raft_node self;
    struct raft *r;
    struct raft_update up; /* of the last step; its slices are gone */
    uint64_t asked_seq;    /* to persist */
    bool slow;             /* persists by hand */
    uint64_t applied;
    uint64_t sum;          /* the state machine: sum of payload bytes */
    struct raft_read_answer reads[16];
    size_t read_n;
    struct buf recv; /* a snapshot that is received */
    struct raft_snapshot snapshot; /* own; payload is the sum, 8 bytes, four times */
    uint8_t payload[32];
    uint64_t steps_chunk;
};

struct letter {
    struct buf bytes;
    uint32_t from, to;
    uint8_t type;
};

struct group {
    struct server s[MAX + 1]; /* by id */
    unsigned n;
    uint64_t now;
    struct letter letters[4096];
    size_t letter_n;
    bool cut[MAX + 1][MAX + 1];
};

/* n voters, all with the configuration at index 1, term 1. */
void group_new(struct group *g, unsigned n);
/* A server with the given log: terms[i] of entry i+1 (the first is the configuration), of `voters` members. */
void group_server(struct group *g, uint32_t id, unsigned voters, uint64_t term, const uint64_t *terms, size_t n);
/* One without log or configuration, to be added. */
void group_blank(struct group *g, uint32_t id, uint8_t uuid);
void group_free(struct group *g);

int step(struct group *g, uint32_t id, struct raft_event ev);
void tick(struct group *g, uint32_t id, uint64_t us); /* time passes, for this one */
void persist(struct group *g, uint32_t id);           /* all that was asked so far is durable */
/* Delivers everything, also what it brings about. */
void deliver(struct group *g);
size_t deliver_type(struct group *g, uint8_t type); /* only this type, once; the rest stays */
void drop_all(struct group *g);
size_t count(struct group *g, uint8_t type, uint32_t to); /* under way */
void isolate(struct group *g, uint32_t id, bool cut);
/* Elections by the clock of one server. */
void elect(struct group *g, uint32_t id);
uint64_t propose(struct group *g, uint32_t id, uint8_t value);
int change(struct group *g, uint32_t id, uint8_t change, uint32_t who, uint8_t uuid);
void heartbeat(struct group *g, uint32_t leader); /* and all its consequences */
void save_snapshot(struct group *g, uint32_t id, uint64_t keep);
struct raft_node node_of(uint32_t id, uint8_t uuid);

struct raft_message message(struct group *g, uint8_t type, uint32_t from, uint32_t to, uint64_t term);
int give(struct group *g, const struct raft_message *m); /* hands it to m->to */

#endif
