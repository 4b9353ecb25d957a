/* The Raft log on disk: its own format, since the CRC must cover term and index (rule 4). Entries are small and every answer waits for fdatasync, so it is one file with
 * one writer, replaced when a snapshot makes its entries needless.
 *
 *   dir/log-<base>         "GMRAFT01", be64 base index (of the entry before the first), be64 base term, then entries:
 *                          be32 length of the payload | be32 CRC32C of what follows | be64 index | be64 term | payload
 *   dir/snapshot-<index>   "GMRSNP01", be64 index, be64 term, be32 CRC32C of the payload, payload
 *   dir/vote               "GMVOTE01", be64 term, be32 voted for, be32 CRC32C
 *
 * One thread (the metadata thread). Errors: ERR_IO, ERR_NOSPACE, ERR_CORRUPT; after a failed sync the log stays failed (rule 6). */
#ifndef GM_CLUSTER_RAFT_LOG_H
#define GM_CLUSTER_RAFT_LOG_H

#include <stdint.h>

#include "base/buf.h"

#define RAFT_ENTRY_MAX (16u << 20)

struct raft_log;

struct raft_log_handlers {
    /* The newest snapshot, if there is one; before any entry. <0 stops the opening with that error. */
    int (*snapshot)(void *arg, uint64_t index, uint64_t term, struct slice payload);
    int (*entry)(void *arg, uint64_t index, uint64_t term, struct slice payload);
    void *arg;
};

/* Opens or creates dir, replays, cuts a torn tail. A damaged entry with whole entries behind it is ERR_CORRUPT. */
int raft_log_open(const char *dir, const struct raft_log_handlers *handlers, struct raft_log **ret);
void raft_log_close(struct raft_log *l);

/* Buffers one entry behind the last; its index is raft_log_last + 1 afterwards. */
void raft_log_append(struct raft_log *l, uint64_t term, struct slice payload);
/* Writes and fdatasyncs what was appended. ERR_NOSPACE: nothing of it counts and a later try may succeed. Any other error: the log stays failed. */
int raft_log_sync(struct raft_log *l);
/* Stores a snapshot of everything up to the last entry and starts an empty log behind it. Nothing may be unsynced. */
int raft_log_compact(struct raft_log *l, struct slice snapshot);

uint64_t raft_log_last(const struct raft_log *l);      /* index, 0: none ever */
uint64_t raft_log_last_term(const struct raft_log *l);
uint64_t raft_log_file_bytes(const struct raft_log *l); /* since the last snapshot */

/* The vote survives a crash before it is told (Raft 5.2). */
int raft_vote_save(const char *dir, uint64_t term, uint32_t voted_for);
int raft_vote_load(const char *dir, uint64_t *ret_term, uint32_t *ret_voted_for); /* ERR_NOT_FOUND */

#endif
