/* The Raft core's disk: a thread of its own that writes what updates ask for, in order, with one fdatasync for all that has gathered, so that the metadata thread answers
 * heartbeats while a disk is slow. What became durable comes back as events for raft_step.
 *
 *   raft_store_open  -> raft_new -> (submit, chunk, snapshot, next)* -> raft_store_close
 *
 * All functions: the metadata thread. The files are raft_log.h's. Any error is final: raft_store_next returns it, the node must stop (rule 6). The one exception is a full disk: the
 * file is put back to where it was and the write tried again until there is room, which for the group is a slow disk; raft_store_full says so, and the host refuses proposals. */
#ifndef GM_CLUSTER_RAFT_STORE_H
#define GM_CLUSTER_RAFT_STORE_H

#include "cluster/raft/raft.h"

struct raft_store;

/* Opens or creates dir and reads it. rec and the snapshot's payload stay valid until raft_store_loaded. `wake` is called on the store's thread when raft_store_next has news (what was written
 * inline is not announced).
 * ERR_CORRUPT, ERR_IO, ... */
int raft_store_open(const char *dir, void (*wake)(void *arg), void *arg, struct raft_store **ret, struct raft_recovered *rec, struct slice *ret_snapshot_payload);
/* After raft_new and loading the state machine: frees what raft_store_open gave. */
void raft_store_loaded(struct raft_store *s);
void raft_store_close(struct raft_store *s); /* writes what is queued */

/* Forms a group: appends the configuration to the log, durably, when neither log nor snapshot has one (else ERR_EXISTS). Every founding member calls it with the same list, on an
 * empty directory; a node alone may have entries of a version before configurations. Before raft_new; rec is brought up to date. */
int raft_store_form(struct raft_store *s, const struct raft_member *members, size_t n, struct raft_recovered *rec);

/* Takes over what up->seq asks for (copied). inline_ok (raft_is_alone): written and synced on this thread when nothing else is queued; the event is there at once. */
void raft_store_submit(struct raft_store *s, const struct raft_update *up, bool inline_ok);
/* The disk is full: proposals would wait until it is not. */
bool raft_store_full(const struct raft_store *s);
/* A piece of a snapshot that is received (up->chunk); copied. */
void raft_store_chunk(struct raft_store *s, const struct raft_chunk *c);
/* Saves a snapshot of the state after `index`; takes over the payload's memory. Comes back as RAFT_SNAPSHOT_SAVED. One at a time: ERR_BUSY. */
int raft_store_snapshot(struct raft_store *s, uint64_t index, uint64_t term, struct slice config, struct buf *payload);
bool raft_store_snapshotting(const struct raft_store *s);

/* 1: *ev is the next event to step; a payload it carries is valid until the next call. 0: none now. <0: the disk failed, stop the node. */
int raft_store_next(struct raft_store *s, struct raft_event *ev);

/* For how long the running write has been under way, 0: none (rule 25: a node whose disk hangs gives its work away). Any thread. */
uint64_t raft_store_busy_us(struct raft_store *s);

/* Fills in m->data of a RAFT_MSG_SNAPSHOT message from the snapshot's file; valid until the next call. ERR_NOT_FOUND: that snapshot is gone, drop the message. */
int raft_store_snapshot_read(struct raft_store *s, struct raft_message *m);

#endif
