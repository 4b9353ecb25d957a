/* The Raft log on disk: its own format, since the CRC must cover term and index (rule 4). One file with one writer, replaced when a snapshot makes its older half needless.
 *
 *   dir/log-<base>         "GMRAFT02", be64 base index (of the entry before the first), be64 base term, be32 CRC32C of these 24 bytes, then entries:
 *                            be32 CRC32C of the next 32 bytes | be32 length | be64 index | be64 term | be32 kind | be32 back | be32 CRC32C of the payload | payload
 *                          back: bytes from the start of the batch that was written and synced together
 *   dir/snapshot-<index>   "GMRSNP02", be64 index, be64 term, be64 size, be32 CRC32C of the payload, be32 length of the configuration,
 *                          be32 CRC32C of these 40 bytes and of the configuration | configuration | payload
 *   dir/vote               two slots, at 0 and 4096: "GMVOTE02", be64 number, be64 term, be32 voted for, its disk's uuid, be32 CRC32C; the higher number counts
 *
 * The formats ending in 01 (no kinds, no configurations, one vote) are read, and rewritten when opened.
 *
 * Torn or damaged? Only what the last sync wrote can be torn, for nothing is written before it is over. An entry that is no good is torn when the file ends in it or a disk sector of it
 * was never written (zeros), and no batch was begun behind it (`back` tells); then the log is cut there. All else is damage: ERR_CORRUPT, and this disk's vote is lost until it is
 * replaced, because a node that forgets what it acknowledged breaks the group (D6). A damaged slot of the vote is damage too: a slot lies in one sector.
 *
 * One thread at a time (the store's), but for raft_log_snapshot_read: any thread. Errors: ERR_IO, ERR_NOSPACE, ERR_CORRUPT; after one that is not ERR_NOSPACE the log stays failed
 * (rule 6). */
#ifndef GM_CLUSTER_RAFT_LOG_H
#define GM_CLUSTER_RAFT_LOG_H

#include <stdint.h>

#include "base/buf.h"
#include "cluster/raft/raft.h"

#define RAFT_ENTRY_MAX (16u << 20) /* what may stand in a log; proposals are smaller (RAFT_PROPOSAL_MAX) */
#define RAFT_KEEP_BYTES (1u << 20) /* of entries that stay behind a snapshot, so that a short outage needs none */
#define RAFT_KEEP_ENTRIES 10000u

struct raft_log;

/* What was read. */
struct raft_log_loaded {
    struct raft_recovered rec;
    struct slice snapshot_payload; /* SLICE_NONE without a snapshot */
    struct buf log_file, snapshot_file;
    struct raft_entry *entries;
};
void raft_log_loaded_fini(struct raft_log_loaded *l);

/* Opens or creates dir, reads it, cuts a torn tail. */
int raft_log_load(const char *dir, struct raft_log **ret, struct raft_log_loaded *out);
void raft_log_close(struct raft_log *l);

/* Buffers an entry; its index is raft_log_last + 1 afterwards. */
void raft_log_add(struct raft_log *l, const struct raft_entry *e);
/* Writes and fdatasyncs what was added. ERR_NOSPACE: the file is as before, what was added is kept for another try. */
int raft_log_flush(struct raft_log *l);
/* Drops what was added and not flushed. */
void raft_log_forget(struct raft_log *l);
/* Drops the entries from this index on; durable when it returns. Flushes what was added below it. */
int raft_log_truncate(struct raft_log *l, uint64_t from);
int raft_log_vote(struct raft_log *l, uint64_t term, const struct raft_node *vote);

/* Stores a snapshot of the state after s->index (which the log holds; nothing may wait for raft_log_flush) and drops what is further behind than RAFT_KEEP_*. *ret_first: the log's first
 * index now. */
int raft_log_save(struct raft_log *l, const struct raft_snapshot *s, struct slice payload, uint64_t *ret_first);
/* Stores a received snapshot; an empty log follows it. Whatever was added is dropped. */
int raft_log_install(struct raft_log *l, const struct raft_snapshot *s, struct slice payload);
/* Appends n bytes at offset of the payload to out: of the newest snapshot or the one before. ERR_NOT_FOUND: neither is it. Any thread. */
int raft_log_snapshot_read(struct raft_log *l, uint64_t index, uint64_t offset, size_t n, struct buf *out);

uint64_t raft_log_last(const struct raft_log *l); /* index, 0: none ever */
uint64_t raft_log_last_term(const struct raft_log *l);
uint64_t raft_log_file_bytes(const struct raft_log *l);
const char *raft_log_dir(const struct raft_log *l);

#endif
