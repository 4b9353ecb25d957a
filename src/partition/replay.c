/* From a main log to memory: recovery and followers.
 *
 * Batches are gathered without any lock, as many as it takes to have 32 records ahead (P19), then applied together, on a follower under a short hold of the partition's lock. */
#include "partition/replay.h"

#include "base/err.h"
#include "base/mem.h"
#include "partition/private.h"

#define GATHER_BYTES (64u << 10)

void replay_init(struct replay *r, struct partition *p, int64_t from, size_t window)
{
    *r = (struct replay){.p = p, .next = from};
    r->kv = mem_zalloc(sizeof(*r->kv));
    r->kv->kv = p->kv;
    log_cursor_init(&r->cursor, p->main, from, window);
}

void replay_fini(struct replay *r)
{
    if (r->kv == NULL)
        return;
    log_cursor_fini(&r->cursor);
    buf_fini(&r->bytes);
    mem_free(r->kv);
    r->kv = NULL;
}

int replay_gather(struct replay *r, int64_t to)
{
    struct batch_header h;
    struct slice batch;
    int more = 0;

    r->bytes.len = 0;
    while (r->next < to && r->bytes.len < GATHER_BYTES && (more = log_cursor_next(&r->cursor, &h, &batch)) == 1) {
        int64_t next = h.base_offset + h.last_offset_delta + 1;

        if (next > to) {
            /* Half of it is not ours yet: it is read again from here. */
            size_t window = r->cursor.window_bytes;

            log_cursor_fini(&r->cursor);
            log_cursor_init(&r->cursor, r->p->main, h.base_offset, window);
            break;
        }
        if (!batch_crc_ok(batch.data, &h) || (h.attributes & BATCH_ATTR_CODEC) != 0)
            return ERR_CORRUPT;
        buf_put_slice(&r->bytes, batch);
        r->next = next;
    }
    if (more < 0)
        return more;
    return r->bytes.len != 0;
}

static int add_records(struct kv_replay *replay, const struct batch_header *h, const uint8_t *batch)
{
    struct record_iter it;
    struct record rec;
    struct effect e;
    int more;

    record_iter_init(&it, h, slice_of(batch + BATCH_HEADER_SIZE, h->length - BATCH_HEADER_SIZE));
    while ((more = record_iter_next(&it, &rec)) == 1) {
        int err = effect_read(&rec, &e);

        if (err == 0)
            err = kv_replay_add(replay, &e);
        if (err != 0)
            return err;
    }
    return more;
}

int replay_apply(struct replay *r)
{
    size_t at = 0;
    int err = 0;

    while (err == 0 && at < r->bytes.len) {
        struct batch_header h;

        err = batch_header_read(r->bytes.data + at, r->bytes.len - at, &h);
        if (err == 0)
            err = add_records(r->kv, &h, r->bytes.data + at);
        at += h.length;
    }
    if (err == 0)
        err = kv_replay_flush(r->kv);
    if (r->bytes.cap > 4 * GATHER_BYTES)
        buf_fini(&r->bytes);
    return err;
}
