/* What of a queue's log is still live: one bit an offset, in chunks of 2,048 offsets that exist only where
 * something is live.
 *
 * An offset is live (a message nobody settled), settled (a settled message, or a record that is no message)
 * or unknown (at or above `end`). Offsets come in order: ackmap_add_* moves `end`. Invariants: offsets below
 * `origin` are settled; chunks cover [base, end) without gaps; a chunk without bits is live throughout (live
 * > 0) or settled throughout (live == 0); the first chunk is never complete and settled. Not synchronised. */
#ifndef GM_QUEUE_ACKMAP_H
#define GM_QUEUE_ACKMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACKMAP_CHUNK 2048 /* offsets a chunk */
#define ACKMAP_WORDS (ACKMAP_CHUNK / 64)

struct ackmap_chunk {
    uint64_t *bits; /* owned; set: settled. NULL: all alike, see above */
    uint32_t live;
};

struct ackmap {
    struct ackmap_chunk *chunks; /* owned: cap entries, count used from `first` on */
    uint32_t first, count, cap;
    int64_t base; /* number (offset / ACKMAP_CHUNK) of the first chunk */
    int64_t origin, end;
    uint64_t live;
};

void ackmap_init(struct ackmap *m, int64_t end); /* all below end is settled */
void ackmap_fini(struct ackmap *m);
/* Everything between end and offset is settled; offset is live, or settled. offset >= end. */
void ackmap_add_live(struct ackmap *m, int64_t offset);
void ackmap_add_settled(struct ackmap *m, int64_t offset);
void ackmap_add_hole(struct ackmap *m, int64_t end); /* everything from m->end to end is settled */
bool ackmap_is_live(const struct ackmap *m, int64_t offset);
bool ackmap_settle(struct ackmap *m, int64_t offset);                     /* true: it was live */
uint64_t ackmap_settle_range(struct ackmap *m, int64_t from, int64_t to); /* [from, to): how many were live */
int64_t ackmap_next_live(const struct ackmap *m, int64_t from);           /* m->end when there is none */
uint64_t ackmap_count_live(const struct ackmap *m, int64_t from, int64_t to); /* in [from, to) */
/* Forgets everything at and above end, as if never added. Returns how many live offsets went. */
uint64_t ackmap_cut(struct ackmap *m, int64_t end);
/* Frees what an empty map need not keep. */
void ackmap_trim(struct ackmap *m);
size_t ackmap_memory(const struct ackmap *m);

#endif
