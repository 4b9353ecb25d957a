/* The log: segments of record batches v2, with one writer, one recovery, one checksum and one reader for every engine.
 *
 * Life cycle of a log
 *   1. log_open: knows its directory and what the checkpoint says; touches no file of a log that was cleanly closed, and creates none.
 *   2. cold: the first append creates the directory with its identity file (rule 9) and the first segment; appends go by pwrite.
 *   3. hot (P11): after 64 small appends within a second a 64 MiB segment is fallocated, mapped, prefaulted; cold again after 10 s idle.
 *   4. rolled, retained: whole segments are sealed (whole-file checksum) and later unlinked in the background; never recycled (P13).
 *   5. failed: a write or sync error or corruption found; appends return ERR_IO / ERR_CORRUPT from then on, nothing is retried (rule 6).
 *   6. log_close (keeps files) or log_delete (moves the directory to trash/, unlinked in the background).
 *
 * Threads: appends, truncation and close of one log are serialised by its owner (the partition's lock for main and queue logs,
 * the topic partition's mutex for topic logs: P15). Readers take no lock: they read up to the atomically published log_end. The sync thread
 * reads the published end. log_start/end/durable are atomics, any thread. */
#ifndef GM_LOG_LOG_H
#define GM_LOG_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "io/worker.h"
#include "log/batch.h"

struct log;
struct log_store;

/* ---- the store: all logs of a data directory ------------------------------------------------------------------- */

enum log_fsync { LOG_FSYNC_INTERVAL, LOG_FSYNC_ALWAYS, LOG_FSYNC_NEVER };

struct log_store_options {
    const char *data_dir;         /* created when missing */
    enum log_fsync fsync;
    uint32_t sync_interval_ms;    /* default 1000 */
    uint64_t segment_bytes;       /* default 64 MiB; at least 1 MiB in production, tests go lower */
    uint64_t disk_reserve_bytes;  /* below this much free space growth is refused (log_store_may_grow) */
    uint32_t hot_max;             /* default 256 */
    uint32_t hot_idle_s;          /* a hot log cools after so many idle seconds; default 10 */
    uint32_t fd_max;              /* open segment files kept; default RLIMIT_NOFILE / 4 */
    uint8_t cluster_id[16];       /* stamped into identity files, rule 9 */
    const char *failpoint;        /* tests: GOMSG_FAILPOINT (failpoint.c); NULL otherwise */
    uint32_t level;               /* feature level to write at (rule 10), as log_store_set_level; 0: the newest */
    const uint8_t *boot_id;       /* tests: 16 bytes, pretends that boot; NULL: the kernel's */
};

/* Another policy while it runs; what waits already is served as it was told. Any thread. */
void log_store_set_fsync(struct log_store *s, enum log_fsync fsync, uint32_t interval_ms);
/* Takes data_dir/lock (ERR_IN_USE when another process has it), reads the sync marks and boot id, starts the sync thread. The recovery verdict
 * (clean, crash on the same boot, other boot: rule 4) holds for every log opened from then on. */
int log_store_open(const struct log_store_options *options, struct workers *ws, struct log_store **ret);
/* A clean stop: syncs everything, writes checkpoints with the clean mark, joins the threads. All logs must be closed. */
/* Age of the sync round that is running, 0: none (rule 25). Any thread, cheap. */
uint32_t log_store_sync_age_ms(const struct log_store *s);
/* The directory was last used in another boot and not closed cleanly: what was not synced may be lost (rule 4, D7). */
bool log_store_power_lost(const struct log_store *s);
/* A store that was opened with no cluster id (all zero: the node was in no cluster yet) gets it, before any log is opened. ERR_IO, ERR_NOSPACE. */
int log_store_set_cluster(struct log_store *s, const uint8_t cluster_id[16]);
/* The topology's feature level rose; what is written from now on may be of it. Any thread. */
void log_store_set_level(struct log_store *s, uint32_t level);
void log_store_close(struct log_store *s);
/* False while free space is below the reserve: commands that grow data are refused, deletes, acks and trims go on. Any thread; cheap
 * (an atomic refreshed by a statvfs a second, and at once after an ENOSPC). */
bool log_store_may_grow(const struct log_store *s);
/* The error of the last failed sync round, 0 when healthy; any thread. Once failed, appends to every log are refused (rule 6). */
int log_store_health(const struct log_store *s);
/* `log.fsync: always`: every acknowledgement of a write waits for a log_commit. Any thread. */
bool log_store_sync_always(const struct log_store *s);
bool log_store_never_syncs(const struct log_store *s); /* log.fsync: never, as of now; any thread */
/* Called around taking the positions of a sync round, on the sync thread: the partition layer holds its multi-partition lock exclusively in between, so that the
 * marks of a round are a consistent cut (rule 5). Microseconds. */
void log_store_set_cut(struct log_store *s, void (*begin)(void *arg), void (*end)(void *arg), void *arg);
/* Waits for a whole sync round that began after this call; not on a worker. 0, the store's health, or ERR_NOSPACE when the marks
 * found no room (the round is tried again until they do). */
int log_store_sync(struct log_store *s);
/* Moves the directories of logs to trash/ that are not open and for which `keep` says false: what a crash between deleting an object and its files left behind.
 * After the topology was read and the logs that exist may be told. */
void log_store_sweep(struct log_store *s, bool (*keep)(void *arg, const char *dir, uint64_t log_id), void *arg);

/* Told of every log on disk that log_open opens while nobody holds it, before log_open returns; any thread, under the locks of who opens. May set what replication needs of it, and post. */
void log_store_set_opened(struct log_store *s, void (*fn)(void *arg, struct log *l, uint64_t log_id), void *arg);
/* All logs on disk the store knows, open or not. `fn` may open none. */
void log_store_each(struct log_store *s, void (*fn)(void *arg, const char *dir, uint64_t log_id), void *arg);

/* Every sealed segment is read and compared with its checksum once in `interval_ms` (0: never), at most `bytes_per_s` of them a second. Off until this is called. Any thread. */
void log_store_set_scrub(struct log_store *s, uint64_t interval_ms, uint64_t bytes_per_s);
/* How many logs are suspect now (log_suspect). Any thread, cheap. */
uint32_t log_store_suspects(const struct log_store *s);

struct log_store_stats {
    uint64_t logs, hot_logs, open_files, sync_rounds, sync_last_us, sync_max_us, unprefaulted, bytes_appended, disk_free;
    uint64_t sync_running_us; /* age of the round that is running, 0: none (rule 25) */
    uint64_t scrub_bytes, scrub_passes, suspects;
};
void log_store_stats(struct log_store *s, struct log_store_stats *ret); /* any thread */

/* ---- opening --------------------------------------------------------------------------------------------------- */

enum log_kind { LOG_MAIN, LOG_QUEUE, LOG_TOPIC };

struct log_options {
    enum log_kind kind;
    const char *dir;       /* relative to data_dir: "p-0007/main", "p-0007/queue/00000000000000c1", "p-0007/topic/orders-3" */
    uint64_t log_id;       /* topic or queue id of the topology (with the partition index for topics), identity of the directory */
    uint64_t segment_bytes; /* 0: the store's */
    bool memory;           /* transient: 64 KiB chunks in memory, never on disk (P24) */
};

/* Ids differing from the directory's: the directory goes to trash/ and the log starts empty (rule 9). Corruption below the sync mark: ERR_CORRUPT,
 * with the reason in diag; *ret is still set so that it can be described and closed. */
int log_open(struct log_store *s, const struct log_options *options, struct log **ret);
/* For logs that were not cleanly closed, log_open only notes it; the first touch (or this call) scans, verifies and cuts. Any thread that owns the log. */
int log_recover(struct log *l);
/* That has been done, or need not be: nothing of its state waits for a file to be read. Any thread. */
bool log_is_ready(const struct log *l);
/* Opening and closing are counted; the last close lets go of the files. */
void log_close(struct log *l);
/* Closes too. Who else holds the log finds it failed with ERR_NOT_FOUND and closes it when convenient; what waits for its high watermark is told that it is done. */
void log_delete(struct log *l);

/* ---- state ------------------------------------------------------------------------------------------------------ */
int64_t log_start(const struct log *l);   /* first offset that can be read */
int64_t log_end(const struct log *l);     /* next offset; everything below is readable */
int64_t log_durable(const struct log *l); /* everything below survives power loss */
uint64_t log_bytes(const struct log *l);  /* of all segments */
int32_t log_epoch(const struct log *l);   /* leader epoch stamped into appends */
void log_set_epoch(struct log *l, int32_t epoch);
int64_t log_last_timestamp(const struct log *l); /* max timestamp appended, -1 when empty: rule 10's "last effect's time" */
int log_failed(const struct log *l);      /* 0 or the error that stopped it */
bool log_suspect(const struct log *l);    /* a sealed segment was found to differ from its checksum; it goes on serving */
const char *log_dir(const struct log *l);
struct log_store *log_store_of(const struct log *l);

/* ---- appending: by the owner ------------------------------------------------------------------------------------ */
/* Finishes and appends the builder's batch at log_end. *ret_base gets its base offset. ERR_NOSPACE (nothing visible; the batch is dropped), ERR_IO. The batch is
 * readable when this returns. */
int log_append(struct log *l, struct batch_builder *b, int64_t *ret_base);
/* Appends whole encoded batches (Kafka produce): base offsets and epoch are assigned in place in `data`; `count` is the offsets they span together.
 * CRCs were checked by the caller. */
int log_append_encoded(struct log *l, uint8_t *data, size_t len, int64_t *ret_base);
/* Makes sure that the next append of at most `bytes` finds its space (blocks allocated, or zeroed and faulted in; rolled when it does not fit). A command over several
 * partitions prepares all its logs before the first append: after that none can fail with ERR_NOSPACE. */
int log_append_prepare(struct log *l, size_t bytes);
/* Seals the active segment (nothing when it is empty), so that it can be dropped. */
int log_seal(struct log *l);
/* Moves the start up (DeleteRecords, retention, snapshot): whole segments behind it are dropped. `start` <= end. */
int log_advance_start(struct log *l, int64_t start);
/* Cuts everything at and above `end`, zeroing what it cuts. */
int log_truncate(struct log *l, int64_t end);

/* Segments as the owner of a queue log sees them (rule 7): base offset, next base, bytes; oldest first. The active one is last. */
struct log_segment_info {
    int64_t base, next;
    uint64_t bytes;
    int64_t max_timestamp;
    bool active;
};
size_t log_segments(const struct log *l, struct log_segment_info *ret, size_t max); /* returns how many there are */
/* Drops one sealed segment, leaving a hole that recovery finds explained in the segment list. ERR_NOT_FOUND, ERR_INVALID (active). */
int log_drop_segment(struct log *l, int64_t base);

/* ---- reading: any thread, no lock -------------------------------------------------------------------------------- */
/* A run of whole batches in one segment file. The fd is referenced and stays valid until log_span_release, also if the segment is dropped meanwhile. */
struct log_span {
    int fd;              /* -1 for a memory log: use data */
    uint64_t pos;
    size_t len;
    const uint8_t *data; /* memory logs and mapped tails: the bytes; may be NULL */
    int64_t base, next;  /* offsets covered: the first batch holds `base` or begins after the asked offset (holes) */
    int64_t segment;     /* base of the segment; (segment, pos) is the place of the first batch */
    bool warm;           /* private */
    void *ref;           /* private */
};
/* Where a batch begins: found again without index or walk, whatever the log holds. A wrong or stale place costs the lookup it would have saved. */
struct log_place {
    int64_t segment; /* its base; -1: unknown */
    uint64_t pos;
};
#define LOG_NOWHERE ((struct log_place){-1, 0})
/* The batches from the one holding `offset` up to `max_bytes` (at least one whole batch, whatever its size, unless `strict`). ERR_OFFSET_RANGE below log_start or above
 * log_end; 0 with len 0 at log_end. `end` bounds it (a high watermark); pass log_end(). */
int log_read(struct log *l, int64_t offset, int64_t end, size_t max_bytes, bool strict, struct log_span *ret);
/* The same, with the place of the batch that holds `offset`. */
int log_read_at(struct log *l, int64_t offset, struct log_place hint, int64_t end, size_t max_bytes, bool strict, struct log_span *ret);
/* The same without waiting for the disk to find its place: ERR_AGAIN when a batch header it needs is not in the page cache; *ret is then the range to read first, elsewhere
 * (log_span_copy, log_span_release), and holds no whole batches. The bytes of a span that is returned may still be cold: log_span_is_warm. */
int log_read_nowait(struct log *l, int64_t offset, struct log_place hint, int64_t end, size_t max_bytes, bool strict, struct log_span *ret);
void log_span_release(struct log_span *span);
/* Copies a span's bytes into out (pread or memcpy). ERR_IO. */
int log_span_copy(const struct log_span *span, struct buf *out);
/* P16: true when a span lies in the page cache; else hand it to a background job before touching it. */
bool log_span_is_warm(const struct log_span *span);
/* The offset of the first record at or after a timestamp, and that timestamp; ERR_NOT_FOUND when none. May read the disk: background for cold logs. */
int log_find_timestamp(struct log *l, int64_t timestamp_ms, int64_t *ret_offset, int64_t *ret_timestamp);

/* A sequential reader of batches; for replay, queue cursors, dump. Not shared between threads. */
struct log_cursor {
    struct log *log;
    int64_t offset; /* next to read */
    struct log_span span;
    struct buf bytes;   /* window of whole batches */
    size_t at;          /* in the window */
    size_t window_bytes;
    struct log_place hint;  /* private */
    struct log_place place; /* of the batch returned last */
};
void log_cursor_init(struct log_cursor *c, struct log *l, int64_t offset, size_t window_bytes);
/* 1: the next batch (header and its whole bytes, CRC checked, valid until the next call); 0: log_end reached, call again later; ERR_*. A cursor below log_start: ERR_OFFSET_RANGE. */
int log_cursor_next(struct log_cursor *c, struct batch_header *ret_header, struct slice *ret_batch);
void log_cursor_fini(struct log_cursor *c);

/* ---- durability --------------------------------------------------------------------------------------------------
 * A commit waits until everything it was told of is at level quorum: in a replicated log, below the high watermark (rule 12; with `log.fsync: always` synced here too); in any other, covered by a
 * finished sync round (rule 12c), of which one a node serves all waiters (rule 6, P14). A waiter's worker gets one mail a round, or a pass of the replication. Embedded in its owner, which may not move while it is
 * armed; no allocation for up to two replicated logs. With `log.fsync: never` the position in the log is enough where there is no replica. */
/* One log a commit waits for: [.., end) below its high watermark. Private. */
struct log_wait {
    struct list node; /* in the log's list, ascending by end */
    struct log *log;  /* counted */
    struct log_commit *commit;
    int64_t end;
};
#define LOG_COMMIT_INLINE 2
struct log_commit {
    struct list node;    /* private, like all that follows but `worker` and `armed` */
    struct worker *worker;
    struct log_store *store;
    uint64_t round;      /* the sync round needed; 0: none */
    void (*done)(struct log_commit *c, int err); /* on `worker` */
    struct log_wait *more; /* owned: the waits when they are more than fit inside */
    uint32_t wait_count;
    uint32_t left;       /* under the worker's queue: waits still to come, one more while it is armed */
    int err;
    uint8_t state;
    bool armed;
    uint64_t mark; /* when it began: leadership of one of its logs that was lost since then fails it */
    struct log_wait inside[LOG_COMMIT_INLINE];
};
/* Begins a commit, before what it will wait for is appended: when the leadership of a log is lost in between (or any time before the commit is done), other records may take the place of those that it waits for, and it fails. */
void log_commit_init(struct log_commit *c, struct worker *w, void (*done)(struct log_commit *c, int err));
/* Who begins a commit only after the append takes a mark before it, under whatever serialises appends, and hands it over. Costs a load. */
uint64_t log_commit_mark(void);
/* A commit made long ago that waits for nothing yet begins now. */
void log_commit_begin(struct log_commit *c);
void log_commit_since(struct log_commit *c, uint64_t mark);
/* Waits for [.., end) of this log. Several logs may be added before arming; whoever added must arm or cancel. */
void log_commit_add(struct log_commit *c, struct log *l, int64_t end);
/* Whether a commit of [.., end) would have nothing to wait for; any thread. */
bool log_committed(const struct log *l, int64_t end);
/* True: already satisfied, `done` will not be called. False: `done` is called later on the worker. */
bool log_commit_arm(struct log_commit *c);
/* Forgets a commit, armed or not (its connection is going away); after this `done` does not run. On its worker. */
void log_commit_cancel(struct log_commit *c);

/* ---- replication ----------------------------------------------------------------------------------------------------------
 * A log is replicated while its partition has more than one replica. Then its high watermark (HW) is set by the leader's replication or told by the leader, commits wait for it, and readers that may see committed records only
 * (Kafka consumers, deliveries of queues, replica reads) read up to log_hw. A log that is not replicated has its end as HW, and commits wait for a sync round as ever.
 *
 * Opening a log twice (same directory and id) gives the same log, counted: a follower's fetcher and an engine may both hold it. Who appends is decided by the partition's role, never by who holds it. */
int64_t log_hw(const struct log *l); /* any thread */
bool log_replicated(const struct log *l);
/* Whatever serialises the log's appends keeps a write from slipping in between. Commits that wait when a log stops being replicated go on to wait for a sync round. */
void log_set_replicated(struct log *l, bool replicated, int64_t hw);
/* What was last known of it on this disk, for a log that is about to be replicated: everything below was committed. The start when nothing was. */
int64_t log_hw_stored(const struct log *l);
/* Bounded by the log's start and end; never goes back but by log_truncate. Wakes commits that waited for it and calls the watch. Any one thread. */
void log_set_hw(struct log *l, int64_t hw);
/* Commits that wait in this log end with err (leadership lost), also those that were added and not armed yet; outcome unknown to who waited. Call it when nobody can append as leader any more. */
void log_fail_commits(struct log *l, int err);
/* Appends whole batches as a leader has them: offsets and epochs stay, every CRC is checked. The first must begin at log_end, or above it in a main or queue log that has holes there (LOG_QUEUE; the hole is recorded and explained to
 * recovery); epochs must not go down. ERR_MALFORMED, ERR_OUT_OF_ORDER, ERR_NOSPACE, ERR_IO. */
int log_append_replica(struct log *l, const uint8_t *data, size_t len, int64_t *ret_end);
/* An empty log that begins at `start`: everything it had goes (a snapshot was installed, R13 of topic logs). */
int log_restart_at(struct log *l, int64_t start);
/* A log that failed with ERR_CORRUPT begins anew: its directory goes to damaged/, and it is empty, at 0 and whole. For a replica that vouches for nothing of it any more (D6) and fetches it again; the caller sees to it that nobody
 * appends. Nothing happens to a log that has not failed, unless `whole_too`; one that failed otherwise stays so. Background. ERR_NOSPACE, ERR_IO: still failed, may be tried again. */
int log_begin_anew(struct log *l, bool whole_too);
/* Its owner found that this log, or what it keeps beside it, cannot be what was written: it has failed with ERR_CORRUPT from here on. Any thread. */
void log_damaged(struct log *l, const char *why);
/* The same for another directory of this data directory, named relative to it. */
void log_store_put_aside(struct log_store *s, const char *dir);
/* The epochs of a log: (epoch, first offset) pairs, ascending in both; kept with the log, rebuilt by recovery (R1 to R5, rule 11). */
int32_t log_last_epoch(const struct log *l); /* of the last batch, -1: empty */
/* R4: the end of `epoch` here: *ret_epoch the greatest known epoch <= epoch, *ret_end where it ended. ERR_NOT_FOUND: undefined. */
int log_epoch_end(struct log *l, int32_t epoch, int32_t *ret_epoch, int64_t *ret_end);
/* Called after an append, a truncation, a move of start, HW or (by the sync thread) of the durable end, when it is visible; on the thread that did it, under its locks and one of the log's own: it may only flag and post,
 * and call nothing of a log but what reads its state. One watch a log; NULL takes it away, and when log_set_watch returns the old one is not called any more: do not hold a lock that `changed` takes. Costs a branch when
 * there is none. */
struct log_watch {
    void (*changed)(struct log_watch *w, struct log *l);
};
void log_set_watch(struct log *l, struct log_watch *w);
/* A second one for the log's engine, under the same rules: called when the HW of a replicated log moved, and when `replicated` changed. */
void log_set_hw_watch(struct log *l, struct log_watch *w);
void log_unset_hw_watch(struct log *l, struct log_watch *w); /* if it is the one */
/* Asks for a sync round soon; durable positions are then told through the watch too. */
void log_request_sync(struct log *l);

/* ---- commands over several partitions (rule 5) ----------------------------------------------------------------------------------------------------
 * Their batch in each main log has a record of kind PARTICIPANTS (kinds.def): uvarint n, n x (uvarint partition, uvarint offset), where offset is the base
 * offset of that partition's batch. */
struct log_participant {
    uint32_t partition;
    int64_t offset;
};
/* The participants of the last batch: how many there are (at most `max` are filled in), 0 when it is of one partition or the log is empty; ERR_*. *ret_base is its base offset:
 * the partition layer drops it by log_truncate(l, base) where some participant's log end is not above its offset. */
int log_last_batch_participants(struct log *l, struct log_participant *ret, size_t max, int64_t *ret_base);

/* ---- files, offline ------------------------------------------------------------------------------------------------------------------------------------ */
struct log_walk_batch {
    uint64_t pos;
    struct batch_header header;
    struct slice records;  /* decompressed; NULL when they cannot be */
    const char *defect;    /* NULL: sound */
};
/* Walks one segment file: every batch, sound or not, in order; `fn` returns 0 to go on. Behind a batch whose end cannot be told the walk ends. `verify`: CRCs and records too. Zeros at the end
 * are a tail written ahead. 0, what `fn` returned, ERR_CORRUPT when there was a defect, ERR_*. */
int log_file_walk(const char *path, bool verify, int (*fn)(void *arg, const struct log_walk_batch *b), void *arg);
/* Reads the sealed segments again and compares them with the checksums taken when they were sealed, now and as fast as it can. Background. ERR_CORRUPT (the log is suspect), ERR_*. */
int log_verify(struct log *l);

#endif
