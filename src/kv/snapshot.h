/* Fuzzy snapshots (P17, P18): a walk from log offset S to E copies raw bytes bucket by bucket under short holds of the partition's lock and encodes, CRCs and writes outside it.
 * Replaying S..E over the snapshot converges because effects are idempotent.
 *
 * File, big endian: header (magic "GMSNAP01", cluster id, partition, level, S, time, CRC32C), blocks of at most 64 KiB (length, CRC32C, payload), a footer (E, key count, block count, CRC of
 * the block CRCs, CRC). A payload is a run of effects: kind u8, database uvarint, name lslice, value lslice; the reader applies them like those of a log, so there is one encoding of
 * state, with one set of levels (rule 10). A block is longer only where a single effect is. Written as snapshot-<S>.tmp, synced, renamed when valid. Corruption of any byte is found by
 * the reader. */
#ifndef GM_KV_SNAPSHOT_H
#define GM_KV_SNAPSHOT_H

#include "kv/kv.h"

/* How the walk gets and gives up the partition's lock; filled in by the partition layer. */
struct kv_snapshot_lock {
    void (*lock)(void *arg);
    void (*unlock)(void *arg);       /* and wait until nobody waits (P1) */
    bool (*wanted)(void *arg);       /* somebody waits: looked at after every bucket or 16 elements */
    int64_t (*log_end)(void *arg);   /* of the main log, under the lock */
    void *arg;
};
struct kv_snapshot_result {
    int64_t start, end;    /* S, E */
    uint64_t keys, bytes;
    uint64_t hold_max_us;     /* longest single hold of the lock */
    uint64_t hold_cpu_max_us; /* the same in CPU time: without what the scheduler adds when it takes the thread away */
    uint32_t restarts;
};
/* Walks and writes dir/snapshot-<S>.tmp, fsyncs it, and leaves it for kv_snapshot_publish. On a background thread, without the lock. ERR_AGAIN: given up after three restarts; ERR_NOSPACE, ERR_IO. */
int kv_snapshot_write(struct kv *kv, const struct kv_snapshot_lock *lock, const char *dir, const uint8_t cluster_id[16], uint32_t partition,
                      struct kv_snapshot_result *ret);
/* Under the lock: a change that replay could not repeat over a fuzzy copy (a RENAME of something large) sends the walk back to its beginning. */
void kv_snapshot_restart(struct kv *kv);
bool kv_snapshot_running(const struct kv *kv); /* under the lock */
/* Renames it to snapshot-<S> and removes older ones. */
int kv_snapshot_publish(const char *dir, int64_t start);
/* Removes it instead. */
void kv_snapshot_discard(const char *dir, int64_t start);
/* Loads the newest valid snapshot of dir into an empty kv: *ret_start is the offset to replay from (0 and ERR_NOT_FOUND when there is none). ERR_CORRUPT when the newest is damaged and no older one
 * serves, ERR_FOREIGN, ERR_LEVEL; the kv is empty then. */
#define KV_SNAPSHOT_ANY UINT32_MAX /* in place of a partition: whichever (tools) */
int kv_snapshot_load(struct kv *kv, const char *dir, const uint8_t cluster_id[16], uint32_t partition, int64_t *ret_start);
/* The E of a published snapshot: from there on its log makes it whole. */
int kv_snapshot_end(const char *dir, int64_t start, int64_t *ret_end);
/* One file; on error the kv holds what came before it. */
int kv_snapshot_read(struct kv *kv, int fd, const uint8_t cluster_id[16], uint32_t partition, int64_t start);
/* The S of a published snapshot's file name; ERR_NOT_FOUND for another name. */
int kv_snapshot_name(const char *name, int64_t *ret_start);

#endif
