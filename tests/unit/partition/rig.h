/* Partitions over a real store in a temporary directory, with ways to kill and reopen them. */
#ifndef GM_TESTS_UNIT_PARTITION_RIG_H
#define GM_TESTS_UNIT_PARTITION_RIG_H

#include "partition/partition.h"

struct rig {
    char dir[64];
    struct workers *ws;
    struct log_store *store;
    struct partitions *ps;
    struct log_store_options so;
    struct partitions_options po;
    unsigned worker_count;
};

void rig_init(struct rig *r, uint32_t partitions); /* makes the directory; change so and po, then rig_open */
void rig_open(struct rig *r);                      /* opens, recovers, waits */
int rig_try_open_store(struct rig *r);
void rig_close(struct rig *r); /* a clean stop */
void rig_fini(struct rig *r);  /* removes the directory */
/* Runs work(r, out) in a child that opens the directory first and is killed when work returns, or by a failpoint. What it writes to `out` is returned in *ret (at most room
 * bytes); the number of bytes. */
size_t rig_crash(struct rig *r, void (*work)(struct rig *r, int out), void *ret, size_t room);

/* Commands; 0 or what entering or leaving said. */
int rig_set(struct rig *r, const char *key, const char *value);
/* The value, or "" for none; static. */
const char *rig_get(struct rig *r, const char *key);
/* MSET key:<p> = value in every partition p < n, as one command. */
int rig_set_all(struct rig *r, uint32_t n, const char *value);
/* A key that hashes to partition p; static, a few at a time. */
const char *rig_key_in(struct rig *r, uint32_t p);
uint64_t rig_state(struct rig *r); /* over all partitions */

#endif
