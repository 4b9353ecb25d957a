/* Idempotent producers of one topic partition (KIP-98, KIP-360): per producer id the epoch and the last five
 * batches, so that a batch sent again is answered with its first offset and a gap is refused. Deterministic:
 * rebuilt from batch headers.
 *
 * The snapshot file: magic "GMPS", version 1, then be64 offset (state of everything below it), be32 count, a
 * row a producer, and a CRC32C of all before. Guarded by the stream's mutex. */
#ifndef GM_STREAM_PRODUCERS_H
#define GM_STREAM_PRODUCERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "log/batch.h"

#define PRODUCER_BATCHES 5

struct producer_batch {
    int32_t first_sequence, last_sequence;
    int64_t base_offset;
    int64_t timestamp; /* the batch's max timestamp */
};

#define PRODUCER_LOADED INT64_MAX
struct producer {
    struct producer *next; /* in its bucket */
    int64_t id;
    int16_t epoch;
    uint8_t count; /* batches known of this epoch */
    int64_t last_ms; /* when it last appended, by this node's clock; PRODUCER_LOADED: before this node looked, its idle time begins when it is first looked for */
    struct producer_batch batches[PRODUCER_BATCHES]; /* oldest first */
};

struct producers {
    struct producer **buckets; /* owned; NULL until the first producer */
    uint32_t bucket_count, count;
};

void producers_fini(struct producers *ps);
const struct producer *producers_find(const struct producers *ps, int64_t id);
/* What a batch of a producer means: 0 it is next; ERR_DUPLICATE with the batch it repeats; ERR_OUT_OF_ORDER;
 * ERR_FENCED (older epoch). */
int producers_check(const struct producers *ps, const struct batch_header *h,
                    const struct producer_batch **ret_repeated);
/* Notes an appended batch (h->base_offset is final). Batches without a producer are ignored. */
void producers_note(struct producers *ps, const struct batch_header *h, int64_t now_ms);
/* Forgets who last appended before `before_ms`; those that were loaded are taken to have appended at `now_ms`. */
unsigned producers_expire(struct producers *ps, int64_t before_ms, int64_t now_ms);
/* The sequence `n` behind `first`, wrapping from 2^31-1 to 0. */
int32_t producer_sequence_add(int32_t first, int32_t n);

/* As of `offset`, the last batch below which is of `epoch`: whoever reads it finds out whether its log still has that batch. */
void producers_encode(const struct producers *ps, int64_t offset, int32_t epoch, struct buf *out);
/* Into an empty table. ERR_CORRUPT. */
int producers_decode(struct producers *ps, struct slice bytes, int64_t *ret_offset, int32_t *ret_epoch);

#endif
