/* What the files of src/log share. Nobody else includes this.
 *
 * Locks, in order:  append lock of a log (spin; the owner, and the prefault thread when it cools a log)
 *                   -> hot->mutex (the zeroing of a window)
 *                   -> stripe (segment list, open files and sparse index of the logs that hash to it; never held over I/O)
 *                   -> wait mutex (commits that wait for a high watermark, watches) -> commit queue of a worker
 *                   -> store->files_mutex (LRU of open files) / store->table_mutex (names of logs) / store->mutex (the ledger's pending entries,
 *                      queues of the store's threads): leaves.
 * aside_mutex (what lies in damaged/) -> store->mutex.
 * files_mutex -> stripe only by trylock. store->recover_mutex[] is taken before everything. store->ledger_mutex (the file itself) is taken before store->mutex.
 *
 * Publishing an append: bytes first, then, between two increments of `seq`, position and end. Whoever needs the pair (readers, the sync thread) loops until seq is
 * even and unchanged; who needs the end only loads it (acquire). */
#ifndef GM_LOG_PRIVATE_H
#define GM_LOG_PRIVATE_H

#include <pthread.h>

#include "base/mutex.h"
#include "log/log.h"

#define SMALL_APPEND (16u * 1024)     /* from here on always pwrite (P11) */
#define HOT_APPENDS 64                /* small appends within a second make a log hot */
#define PREFAULT_STEP (64u * 1024)
#define PREFAULT_WINDOW (128u * 1024)
#define PREFAULT_WINDOW_MAX (1024u * 1024)
#define INDEX_INTERVAL (64u * 1024)
#define WRITEBACK_STEP (1024u * 1024)
#define STRIPES 64
#define SEGMENT_BYTES_MAX (1u << 30)
#define MEMORY_CHUNK (64u * 1024)
#define IDENTITY_SIZE 64

/* ---- open segment files ---------------------------------------------------------------------------------------- */

/* An open segment, or a chunk of a memory log. Counted: one for the segment list while it is open there, one a span, one for each
 * thread that works on it. The last reference closes and unmaps. */
struct segfile {
    int refs; /* atomic */
    int fd;   /* -1: memory */
    uint8_t *map; /* atomic: set when the log becomes hot; the chunk of a memory log */
    size_t map_len;
    struct log_store *store;
    struct log *log; /* borrowed; valid while in the LRU */
    int64_t base;
    struct list lru; /* under files_mutex; unlinked: not evictable */
    bool used;       /* atomic: second chance */
    bool memory;
};

/* Sparse index: entries in ascending order, learned while appending or walking; losing it costs a walk, never an answer. */
struct index_entry {
    uint32_t rel; /* offset of the batch at pos, minus the segment's base */
    uint32_t pos;
    int64_t max_ts; /* of all batches before pos in this segment */
};
struct log_index {
    uint32_t n, cap;
    struct index_entry e[];
};

enum { SEG_SEALED = 1, SEG_SUMMED = 2, SEG_LISTED = 4 /* the ledger knows it */, SEG_GOING = 8 /* being cut off: not to be listed any more */ };

struct segment {
    int64_t base, next; /* next and bytes of the active one are the log's end and pos */
    int64_t from;       /* == base, or where the hole in front of it begins */
    int64_t max_ts;
    uint64_t bytes;
    uint32_t crc; /* of the whole file, when SEG_SUMMED */
    uint32_t flags;
    struct segfile *file;    /* counted; NULL: not open */
    struct log_index *index; /* owned; may be NULL */
};

/* ---- hot logs --------------------------------------------------------------------------------------------------- */

struct hot {
    int refs; /* atomic */
    struct log *log; /* borrowed: a hot log is open */
    struct segfile *file; /* counted */
    struct mutex mutex;   /* who extends the zeroed range */
    uint64_t zeroed;  /* atomic: [pos, zeroed) is zeros in the file and faulted in */
    uint64_t synced;  /* the sync thread's */
    uint64_t dropped; /* atomic: below, the mapping was given back */
    uint32_t window;  /* atomic */
    bool queued;      /* atomic: stands in the prefault queue */
    uint64_t asked_us;
    int64_t seen_end; /* the prefault thread's */
    unsigned idle_ticks;
    bool tried; /* in this tick */
    bool rests; /* the thread's: most of its window is not mapped now */
    struct list node;  /* store->hot_list, under store->mutex */
    struct list queue; /* store->prefault_queue, under store->mutex */
};

/* ---- a log ------------------------------------------------------------------------------------------------------ */

enum log_verdict { VERDICT_CLEAN, VERDICT_SCAN, VERDICT_CUT };

struct log {
    /* the append path */
    uint8_t append_lock; /* atomic */
    uint8_t stripe;
    uint8_t kind;
    uint8_t verdict;
    bool ready;    /* atomic: recovered, or nothing to recover */
    bool memory;
    bool dirty;    /* atomic: stands in the store's dirty stack */
    bool created, checked;
    bool replicated; /* atomic */
    bool deleted; /* atomic */
    bool new_names; /* atomic: files were created since the last round */
    int32_t epoch; /* atomic */
    uint32_t seq;  /* atomic */
    int failed;    /* atomic */
    int64_t end;   /* atomic */
    uint64_t pos;  /* atomic: bytes of the active segment */
    int64_t seg_max_ts; /* atomic: max timestamp in the active segment */
    int64_t last_ts;    /* atomic */
    struct hot *hot;    /* under append_lock, changed under the stripe too */
    struct log_store *store;
    uint64_t segment_bytes;
    uint32_t small_count;
    uint32_t small_since_ms;
    uint32_t index_pos;     /* position of the active segment's last index entry */
    uint32_t reserved;      /* blocks are allocated up to here (log_append_prepare) */
    uint64_t written_back;  /* write-back was started up to here */

    int64_t start;   /* atomic */
    int64_t durable; /* atomic */
    uint64_t sealed_bytes; /* atomic */
    uint64_t appended;     /* atomic: bytes ever, for statistics */

    /* under the stripe */
    struct segment *segs;
    uint32_t seg_first, seg_count, seg_cap; /* the list is segs[seg_first .. seg_first + seg_count) */
    bool suspect; /* atomic: one of them, sealed, differs from its checksum */

    /* the ledger's view: the sync thread's, and recovery's before it is ready */
    int64_t mark_off, mark_seg; /* -1: none */
    uint64_t mark_pos;
    int64_t tail_from; /* a hole in front of the segment that begins at tail_next; -1: none */
    int64_t tail_next;
    uint64_t number; /* in the ledger, never reused; 0: not yet */

    /* replication */
    int64_t hw;                 /* atomic */
    struct list waits;          /* log_wait by end, under the store's wait mutex of this stripe */
    struct log_watch *watch;    /* atomic; called under that mutex */
    struct log_watch *hw_watch;
    struct log_epochs *epochs;  /* owned; under the stripe. NULL: one epoch at most, last_epoch since the start */
    int32_t last_epoch;         /* atomic; of the last batch, -1: empty */
    uint64_t lost;              /* under the wait mutex: the number of the last loss of its leadership */

    uint32_t opens; /* under table_mutex */
    int refs; /* atomic: table, everybody who opened it, dirty stack, janitor, commits that wait */
    struct log *dirty_next;
    struct log *table_next;
    uint64_t log_id;
    char *dir; /* owned */
};

/* ---- the store -------------------------------------------------------------------------------------------------- */

struct failpoint {
    uint64_t at; /* 0: off */
    uint64_t count; /* atomic */
};

struct commit_queue {
    struct mutex mutex;
    struct list armed; /* need a round */
    struct list ready; /* done or failed: waiting for the mail */
    struct mail mail;
    bool posted;
    bool round_over; /* since the last mail */
    struct log_store *store;
    struct worker *worker;
};

enum job_kind { JOB_SEAL, JOB_UNLINK, JOB_RMTREE, JOB_UNMAP };
struct job {
    struct list node;
    enum job_kind kind;
    uint64_t after_round; /* not before this round is complete */
    char *path;           /* owned; relative to the data directory */
    struct log *log;      /* counted */
    int64_t base;
    void *map;
    size_t map_len;
};

struct sealed_file {
    struct list node;
    struct segfile *file; /* counted */
};

struct log_store {
    uint32_t magic;
    struct log_store_options opt;
    char *data_dir; /* owned */
    int dirfd, lockfd;
    uint32_t level;             /* atomic: feature level to write at */
    unsigned ledger_written_as; /* version of its file; under ledger_mutex */
    uint8_t boot_id[16];
    enum log_verdict verdict; /* of logs the ledger does not know */
    bool had_ledger;
    struct workers *ws;

    struct mutex stripes[STRIPES];
    struct mutex recover_mutex[STRIPES];
    struct mutex wait_mutex[STRIPES];

    struct mutex table_mutex;
    struct log **table;
    uint32_t table_size, table_count;
    uint64_t next_number; /* under mutex */

    struct mutex files_mutex;
    struct list lru; /* most recent first */
    uint32_t open_files; /* atomic */
    uint32_t fd_max;

    struct log *dirty; /* atomic stack */
    uint64_t memory_appended;

    struct mutex mutex; /* pending, sealed, queues, lists, conditions */
    struct buf pending;       /* ledger entries for the next round */
    struct list sealed;       /* files sealed since the last cut */
    struct list hot_list;
    uint32_t hot_count; /* atomic */
    bool hot_wanted;    /* somebody found the hot set full */
    struct list prefault_queue;
    struct list jobs;
    uint32_t jobs_running;
    bool new_names; /* atomic: some directory entry is not synced */

    /* rounds: `round_open` covers what is appended now; all up to `round_done` are complete */
    uint64_t round_open; /* atomic */
    uint64_t round_done; /* atomic */
    uint64_t round_wanted; /* under mutex */
    uint64_t sync_requests; /* atomic: how often somebody asked for a round */
    uint64_t postponed;    /* rounds that found no space, under mutex */
    uint64_t round_began_us; /* atomic: 0 when none is running */
    int health; /* atomic */
    bool stopping;
    pthread_t sync_thread, prefault_thread, janitor_thread, scrub_thread;
    bool threads;
    pthread_cond_t sync_cond, prefault_cond, janitor_cond, scrub_cond, done_cond;
    uint64_t scrub_interval_ms; /* under mutex; 0: off */
    uint64_t scrub_rate;        /* atomic: bytes a second */
    uint64_t scrub_bytes, scrub_passes; /* atomics */
    uint32_t suspects;          /* atomic: logs that are suspect */
    void (*cut_begin)(void *arg);
    void (*cut_end)(void *arg);
    void *cut_arg;
    bool cutting; /* under mutex: they are being called */
    void (*opened)(void *arg, struct log *l, uint64_t log_id); /* under table_mutex */
    void *opened_arg;

    struct mutex aside_mutex; /* who looks into damaged/ */
    struct mutex round_mutex; /* a round from its cut to its end; a truncation. Before ledger_mutex, behind the cut's callback */
    struct mutex ledger_mutex;
    int ledger_fd;
    uint64_t ledger_pos, ledger_size, ledger_base; /* write position; zeros written up to; size of the snapshot in front */

    struct commit_queue *queues;
    unsigned queue_count;

    bool may_grow; /* atomic */
    uint64_t unchecked_bytes; /* atomic: written since the free space was looked at */
    uint64_t disk_free; /* atomic */
    uint64_t sync_rounds, sync_last_us, sync_max_us, unprefaulted; /* atomics */
    struct failpoint fp_append_kill, fp_mappend_kill, fp_sync_eio, fp_append_enospc;
    bool fp_any;
};

#define ALOAD(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ALOADX(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define ASTORE(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define ASTOREX(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)

static inline enum log_fsync store_fsync(const struct log_store *s)
{
    return ALOADX(&s->opt.fsync);
}
static inline struct segment *seg_at(const struct log *l, uint32_t i)
{
    return &l->segs[l->seg_first + i];
}
static inline struct segment *seg_active(const struct log *l)
{
    return l->seg_count == 0 ? NULL : seg_at(l, l->seg_count - 1);
}
static inline struct mutex *log_stripe(const struct log *l)
{
    return &l->store->stripes[l->stripe];
}
static inline struct mutex *log_wait_mutex(const struct log *l)
{
    return &l->store->wait_mutex[l->stripe];
}

void log_append_lock(struct log *l);
static inline void log_append_unlock(struct log *l)
{
    ASTORE(&l->append_lock, 0);
}

/* store.c */
void log_ref(struct log *l);
void log_unref(struct log *l);
struct log *log_table_find(struct log_store *s, const char *dir); /* under table_mutex */
void log_table_add(struct log_store *s, struct log *l);           /* under table_mutex; takes a reference */
void log_table_remove(struct log_store *s, struct log *l);        /* gives the table's back */
struct log *log_alloc(struct log_store *s, const char *dir);
void log_fail(struct log *l, int err, const char *why, int64_t offset);
void store_submit(struct log_store *s, struct job *job);
void store_refresh_disk(struct log_store *s);
void *store_janitor_main(void *arg);
void *store_scrub_main(void *arg);
void scrub_absolve(struct log *l); /* it begins anew, or is deleted */
bool failpoint_hit(struct failpoint *fp);
void failpoint_parse(struct log_store *s, const char *text);
int log_touch(struct log *l); /* recovers when that is due; 0 or what stopped it */
/* Takes the directory to trash/. */
void store_trash(struct log_store *s, const char *dir);
/* To damaged/, where an administrator can look at it; the newest few stay, and none while space is short. */
void store_put_aside(struct log_store *s, const char *dir);

/* segment.c */
void segment_path(const struct log *l, int64_t base, char *out, size_t size);
int segment_create(struct log *l, int64_t base, struct segfile **ret); /* counted */
/* The open file of the segment with this base, opening it when needed. ERR_NOT_FOUND when there is none. Counted. */
int segment_open(struct log *l, int64_t base, struct segfile **ret);
struct segfile *segfile_new_memory(struct log_store *s, size_t size);
struct segfile *segfile_new(struct log *l, int64_t base, int fd);
void segfile_ref(struct segfile *f);
void segfile_unref(struct segfile *f);
void segfile_lru_add(struct segfile *f); /* under the stripe that made it a segment's */
void segfile_evict(struct log_store *s); /* without it: closes what is too many */
void segfile_lru_remove(struct segfile *f);
/* Under the stripe. */
struct segment *segment_push(struct log *l, int64_t base);
void segment_remove(struct log *l, uint32_t i); /* frees its index, lets go of its file */
int segment_find(const struct log *l, int64_t offset); /* the last with base <= offset, -1 */
void index_add(struct segment *seg, int64_t offset, uint64_t pos, int64_t max_ts);
/* The last entry at or before an offset (by_pos: at or before a position); zeros when none. */
struct index_entry index_before(const struct segment *seg, int64_t offset, uint64_t pos);
struct index_entry index_before_time(const struct segment *seg, int64_t ts);

/* Headers one after another, in one file between two positions. */
struct header_walk {
    struct segfile *file;
    const uint8_t *map; /* of a hot log, good from map_from on; NULL: by pread */
    uint64_t map_from;
    bool nowait; /* ERR_AGAIN instead of waiting for the disk (P16) */
    uint64_t pos, limit;
    uint64_t buf_pos;
    size_t buf_len;
    uint8_t buf[8192];
};
void header_walk_init(struct header_walk *w, struct segfile *f, uint64_t pos, uint64_t limit);
/* 1: header of the batch at w->pos (call header_walk_skip to go on); 0: at the limit; ERR_CORRUPT, ERR_IO. */
int header_walk_at(struct header_walk *w, struct batch_header *ret);
static inline void header_walk_skip(struct header_walk *w, const struct batch_header *h)
{
    w->pos += h->length;
}
/* A consistent (end, pos) of the active segment. */
void log_tail(const struct log *l, int64_t *ret_end, uint64_t *ret_pos, int64_t *ret_max_ts);
/* The checksum at the end of an index file. */
uint32_t index_file_sum(const void *data, size_t len);
/* The whole-file checksum of [0, bytes). */
int segment_sum(struct segfile *f, uint64_t bytes, uint32_t *ret);

/* append.c */
int log_create_files(struct log *l);
int log_roll(struct log *l);
/* Lists sealed segments the ledger has not heard of, up to `base`. Under the stripe and store->mutex. */
void log_list_sealed(struct log *l, int64_t base);
void log_mark_dirty(struct log *l);

/* hot.c */
void hot_promote(struct log *l);             /* under the append lock */
void hot_demote(struct log *l, bool truncate); /* under the append lock */
void hot_want(struct log *l, struct hot *h);   /* asks for prefault */
int hot_extend(struct log *l, struct hot *h, uint64_t to); /* zeroes up to `to` at once; h->mutex is taken */
void hot_unref(struct hot *h);
void *hot_thread_main(void *arg);

/* ledger.c: one file with the sync marks, segment lists and names of all logs */
int ledger_open(struct log_store *s);  /* reads; fills the table */
int ledger_start(struct log_store *s); /* writes a snapshot that is not clean */
int ledger_append(struct log_store *s, const struct buf *entries);
int ledger_snapshot(struct log_store *s, bool clean);
void ledger_put_name(struct buf *b, const struct log *l);
void ledger_put_mark(struct buf *b, const struct log *l, int64_t off, int64_t seg, uint64_t pos);
void ledger_put_seal(struct buf *b, const struct log *l, const struct segment *seg);
void ledger_put_drop(struct buf *b, const struct log *l, int64_t base, int64_t next);
void ledger_put_start(struct buf *b, const struct log *l, int64_t start);
void ledger_put_delete(struct buf *b, const struct log *l);
void ledger_put_cut(struct buf *b, const struct log *l, int64_t off, int64_t seg, uint64_t pos);
void ledger_put_hw(struct buf *b, const struct log *l, int64_t end); /* not above what its mark covers */
void ledger_put_epochs(struct buf *b, const struct log *l); /* under the stripe */

/* recover.c */
int log_recover_files(struct log *l);

/* sync.c */
void *sync_thread_main(void *arg);
void sync_request(struct log_store *s, uint64_t round);

/* commit.c */
void commits_round_over(struct log_store *s); /* a round is complete, or the store has failed */
uint64_t commits_lose(void); /* the number of one more loss of leadership */
void commits_hw(struct log *l, int64_t hw);   /* under the wait mutex: ends what waits for at most hw */
/* Under the wait mutex: all that wait in this log end with err, or with 0 go on to wait for a sync round. */
void commits_end(struct log *l, int err);
void commits_convert(struct log *l);

/* replica.c */
void watch_call(struct log *l);
static inline void log_changed(struct log *l)
{
    if (__atomic_load_n(&l->watch, __ATOMIC_RELAXED) != NULL)
        watch_call(l);
}
/* Under the append lock, when start or end moved: keeps the HW between them. Calls the watches. */
void hw_bound(struct log *l);

/* epochs.c; each under the stripe */
struct epoch_entry {
    int32_t epoch;
    int64_t start;
};
struct log_epochs {
    uint32_t n, cap;
    struct epoch_entry e[];
};
void epochs_note(struct log *l, int32_t epoch, int64_t start); /* R3; a batch of `epoch` begins at `start` */
bool epochs_cut(struct log *l, int64_t end);                   /* R5; true: something went */
void epochs_trim(struct log *l, int64_t start);                /* R5 at the front */
uint32_t epochs_count(const struct log *l);
struct epoch_entry epochs_at(const struct log *l, uint32_t i);
void epochs_clear(struct log *l);

/* identity.c */
int identity_write(struct log *l);
/* 0 fine, ERR_NOT_FOUND, ERR_MISMATCH, ERR_FOREIGN, ERR_CORRUPT */
int identity_check(struct log_store *s, const char *dir, uint64_t log_id);

#endif
