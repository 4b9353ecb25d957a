/* Reading a main log into a partition's memory; see replay.c. One thread at a time. */
#ifndef GM_PARTITION_REPLAY_H
#define GM_PARTITION_REPLAY_H

#include "kv/kv.h"
#include "log/log.h"

struct partition;

struct replay {
    struct partition *p;
    struct log_cursor cursor;
    struct buf bytes;      /* whole batches, gathered and not applied yet */
    struct kv_replay *kv;  /* owned; NULL: not begun */
    int64_t next;          /* behind what was gathered */
};
void replay_init(struct replay *r, struct partition *p, int64_t from, size_t window);
void replay_fini(struct replay *r);
/* Without the lock: whole batches below `to`. 1: there are some; 0: none; ERR_CORRUPT, ERR_IO. */
int replay_gather(struct replay *r, int64_t to);
/* Under the lock, or where nobody else is. */
int replay_apply(struct replay *r);

#endif
