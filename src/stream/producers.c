/* See producers.h. A chained hash table that doubles when it is full; a node is 160 bytes. */
#include "stream/producers.h"

#include "base/check.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/mem.h"

#define SNAPSHOT_MAGIC 0x474d5053u
#define SNAPSHOT_VERSION 2 /* 1 did not say the epoch */

static uint32_t bucket_of(const struct producers *ps, int64_t id)
{
    return (uint32_t)(((uint64_t)id * 0x9e3779b97f4a7c15u) >> 32) & (ps->bucket_count - 1);
}

static void clear(struct producers *ps)
{
    for (uint32_t i = 0; i < ps->bucket_count; i++)
        for (struct producer *p = ps->buckets[i], *next; p != NULL; p = next) {
            next = p->next;
            mem_free(p);
        }
    mem_free(ps->buckets);
    *ps = (struct producers){0};
}

void producers_fini(struct producers *ps)
{
    clear(ps);
}

static struct producer *find(const struct producers *ps, int64_t id)
{
    if (ps->count == 0)
        return NULL;
    for (struct producer *p = ps->buckets[bucket_of(ps, id)]; p != NULL; p = p->next)
        if (p->id == id)
            return p;
    return NULL;
}

const struct producer *producers_find(const struct producers *ps, int64_t id)
{
    return find(ps, id);
}

static void grow(struct producers *ps)
{
    struct producers bigger = {.bucket_count = ps->bucket_count == 0 ? 4 : ps->bucket_count * 2,
                               .count = ps->count};

    bigger.buckets = mem_calloc(bigger.bucket_count, sizeof(struct producer *));
    for (uint32_t i = 0; i < ps->bucket_count; i++)
        for (struct producer *p = ps->buckets[i], *next; p != NULL; p = next) {
            struct producer **head = &bigger.buckets[bucket_of(&bigger, p->id)];

            next = p->next;
            p->next = *head;
            *head = p;
        }
    mem_free(ps->buckets);
    *ps = bigger;
}

static struct producer *find_or_add(struct producers *ps, int64_t id)
{
    struct producer *p = find(ps, id), **head;

    if (p != NULL)
        return p;
    if (ps->count >= ps->bucket_count)
        grow(ps);
    p = mem_zalloc(sizeof(*p));
    p->id = id;
    head = &ps->buckets[bucket_of(ps, id)];
    p->next = *head;
    *head = p;
    ps->count++;
    return p;
}

int32_t producer_sequence_add(int32_t first, int32_t n)
{
    return (int32_t)(((uint32_t)first + (uint32_t)n) & 0x7fffffffu);
}

int producers_check(const struct producers *ps, const struct batch_header *h,
                    const struct producer_batch **ret_repeated)
{
    const struct producer *p = find(ps, h->producer_id);
    int32_t last = producer_sequence_add(h->base_sequence, h->last_offset_delta);

    if (p == NULL)
        return 0; /* retention or expiry may have taken what came before */
    if (h->producer_epoch < p->epoch)
        return ERR_FENCED;
    if (h->producer_epoch > p->epoch)
        return h->base_sequence == 0 ? 0 : ERR_OUT_OF_ORDER;
    for (unsigned i = 0; i < p->count; i++)
        if (p->batches[i].first_sequence == h->base_sequence && p->batches[i].last_sequence == last) {
            *ret_repeated = &p->batches[i];
            return ERR_DUPLICATE;
        }
    if (p->count == 0)
        return 0;
    return h->base_sequence == producer_sequence_add(p->batches[p->count - 1].last_sequence, 1)
               ? 0
               : ERR_OUT_OF_ORDER;
}

void producers_note(struct producers *ps, const struct batch_header *h, int64_t now_ms)
{
    struct producer *p;

    if (h->producer_id < 0 || (h->attributes & BATCH_ATTR_CONTROL))
        return;
    p = find_or_add(ps, h->producer_id);
    if (h->producer_epoch != p->epoch) {
        p->epoch = h->producer_epoch;
        p->count = 0;
    }
    if (p->count == PRODUCER_BATCHES)
        memmove(&p->batches[0], &p->batches[1], sizeof(p->batches[0]) * --p->count);
    p->batches[p->count++] = (struct producer_batch){
        .first_sequence = h->base_sequence,
        .last_sequence = producer_sequence_add(h->base_sequence, h->last_offset_delta),
        .base_offset = h->base_offset,
        .timestamp = h->max_timestamp,
    };
    p->last_ms = now_ms;
}

unsigned producers_expire(struct producers *ps, int64_t before_ms, int64_t now_ms)
{
    unsigned gone = 0;

    for (uint32_t i = 0; i < ps->bucket_count; i++)
        for (struct producer **at = &ps->buckets[i], *p; (p = *at) != NULL;) {
            if (p->last_ms == PRODUCER_LOADED)
                p->last_ms = now_ms;
            if (p->last_ms >= before_ms) {
                at = &p->next;
                continue;
            }
            *at = p->next;
            mem_free(p);
            ps->count--;
            gone++;
        }
    return gone;
}

void producers_encode(const struct producers *ps, int64_t offset, int32_t epoch, struct buf *out)
{
    size_t from = out->len;

    buf_put_be32(out, SNAPSHOT_MAGIC);
    buf_put_u8(out, SNAPSHOT_VERSION);
    buf_put_be64(out, (uint64_t)offset);
    buf_put_be32(out, (uint32_t)epoch);
    buf_put_be32(out, ps->count);
    for (uint32_t i = 0; i < ps->bucket_count; i++)
        for (const struct producer *p = ps->buckets[i]; p != NULL; p = p->next) {
            buf_put_be64(out, (uint64_t)p->id);
            buf_put_be16(out, (uint16_t)p->epoch);
            buf_put_be64(out, (uint64_t)p->last_ms);
            buf_put_u8(out, p->count);
            for (unsigned k = 0; k < p->count; k++) {
                buf_put_be32(out, (uint32_t)p->batches[k].first_sequence);
                buf_put_be32(out, (uint32_t)p->batches[k].last_sequence);
                buf_put_be64(out, (uint64_t)p->batches[k].base_offset);
                buf_put_be64(out, (uint64_t)p->batches[k].timestamp);
            }
        }
    buf_put_be32(out, crc32c(0, out->data + from, out->len - from));
}

int producers_decode(struct producers *ps, struct slice bytes, int64_t *ret_offset, int32_t *ret_epoch)
{
    struct reader r;
    int64_t offset;
    int32_t epoch;
    uint32_t count;

    CHECK(ps->count == 0);
    if (bytes.len < 25 || crc32c(0, bytes.data, bytes.len - 4) != be32_get(bytes.data + bytes.len - 4))
        return ERR_CORRUPT;
    r = reader_of(slice_of(bytes.data, bytes.len - 4));
    if (reader_be32(&r) != SNAPSHOT_MAGIC || reader_u8(&r) != SNAPSHOT_VERSION)
        return ERR_CORRUPT;
    offset = (int64_t)reader_be64(&r);
    epoch = (int32_t)reader_be32(&r);
    count = reader_be32(&r);
    while (count-- > 0 && !r.bad) {
        int64_t id = (int64_t)reader_be64(&r);
        struct producer *p;

        if (r.bad || id < 0 || find(ps, id) != NULL)
            break;
        p = find_or_add(ps, id);
        p->epoch = (int16_t)reader_be16(&r);
        p->last_ms = (int64_t)reader_be64(&r);
        p->count = reader_u8(&r);
        if (p->count > PRODUCER_BATCHES) {
            r.bad = 1;
            p->count = 0;
        }
        for (unsigned k = 0; k < p->count; k++) {
            p->batches[k].first_sequence = (int32_t)reader_be32(&r);
            p->batches[k].last_sequence = (int32_t)reader_be32(&r);
            p->batches[k].base_offset = (int64_t)reader_be64(&r);
            p->batches[k].timestamp = (int64_t)reader_be64(&r);
        }
    }
    if (r.bad || reader_left(&r) != 0) {
        clear(ps);
        return ERR_CORRUPT;
    }
    *ret_offset = offset;
    *ret_epoch = epoch;
    return 0;
}
