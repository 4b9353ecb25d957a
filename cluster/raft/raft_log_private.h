/* What raft_log.c (writing) and raft_log_load.c (reading) share. */
#ifndef GM_CLUSTER_RAFT_LOG_PRIVATE_H
#define GM_CLUSTER_RAFT_LOG_PRIVATE_H

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "cluster/raft/raft_log.h"

#define LOG_MAGIC "GMRAFT02"
#define LOG_MAGIC_01 "GMRAFT01"
#define SNAPSHOT_MAGIC "GMRSNP02"
#define SNAPSHOT_MAGIC_01 "GMRSNP01"
#define VOTE_MAGIC "GMVOTE02"
#define VOTE_MAGIC_01 "GMVOTE01"
#define HEAD_SIZE 28u
#define HEAD_SIZE_01 24u
#define ENTRY_HEAD 36u
#define ENTRY_HEAD_01 24u
#define SNAPSHOT_HEAD 44u
#define SNAPSHOT_HEAD_01 28u
#define VOTE_SLOT 48u
#define VOTE_STRIDE 4096u
#define FILE_MAX ((size_t)4 << 30)

struct snapshot_file {
    uint64_t index;
    uint64_t payload_at, size;
    int fd;
};

struct raft_log {
    char *dir; /* owned */
    int fd, vote_fd;
    uint64_t vote_number;
    uint64_t base, base_term;
    uint64_t last, last_term; /* what was added included */
    uint64_t file_end;        /* synced bytes */
    struct buf pending;       /* added, not yet written */
    struct position {
        uint64_t at, term;
    } *positions; /* owned: of entry base+1+i; in the file, or where it will be */
    size_t position_cap;
    int failed;
    struct mutex lock; /* guards the snapshot files */
    struct snapshot_file snapshot, former;
};

/* Appends the entry as it stands in the file. */
void raft_log_encode_entry(struct buf *out, uint64_t index, const struct raft_entry *e, uint32_t back);
void raft_log_encode_head(struct buf *out, uint64_t base, uint64_t base_term);
/* Starts an empty log behind base. */
int raft_log_create(struct raft_log *l, uint64_t base, uint64_t base_term);
void raft_log_note(struct raft_log *l, uint64_t at, uint64_t term); /* the position of the next entry; last grows */
int raft_log_fail(struct raft_log *l, int err, const char *what);
void raft_log_remove_others(const char *dir, const char *prefix, uint64_t keep);
int raft_log_open_snapshot(struct raft_log *l, uint64_t index, uint64_t payload_at, uint64_t size);

/* raft_vote.c */
int raft_vote_load(struct raft_log *l, struct raft_recovered *rec, bool must_exist);

#endif
