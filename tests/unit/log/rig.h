/* A store in a temporary directory, appends with known content, and ways to kill it. */
#ifndef GM_TESTS_LOG_RIG_H
#define GM_TESTS_LOG_RIG_H

#include <stdint.h>

#include "log/log.h"

struct rig {
    char dir[64];
    struct log_store *s;
    struct log_store_options opt;
    struct batch_builder b;
};

void rig_init(struct rig *r); /* makes the directory and opens the store; 1 MiB segments, rounds only on demand */
void rig_open(struct rig *r);
void rig_close(struct rig *r); /* a clean stop */
void rig_fini(struct rig *r);  /* removes the directory */
struct log *rig_log(struct rig *r, enum log_kind kind, const char *dir, uint64_t id);
/* Appends `n` batches of one record of `size` bytes, whose content follows from its offset. */
void rig_append(struct rig *r, struct log *l, unsigned n, size_t size);
/* Reads [from, to) by a cursor and checks every record's content; how many offsets were seen. */
int64_t rig_check(struct log *l, int64_t from, int64_t to);
/* Runs `work` in a child on this directory, which is killed by SIGKILL when work returns. */
void rig_crash(struct rig *r, void (*work)(struct rig *r));
/* The path of a segment file; static. */
const char *rig_segment(const struct rig *r, const char *dir, int64_t base);
void rig_flip(const char *path, uint64_t pos);
uint64_t rig_size(const char *path);

#endif
