/* Opening a queue's log: the checkpoint, then every record behind it. All that is live is ready again; what
 * may have been delivered says so (rule 8). */
#include "base/diag.h"
#include "queue/internal.h"

#define WINDOW (256u << 10)

static int apply_ack(struct queue *q, struct slice value)
{
    struct reader r = reader_of(value);
    int64_t at = 0;

    while (reader_left(&r) > 0) {
        uint64_t gap = reader_uvarint(&r), count = reader_uvarint(&r);

        if (r.bad || gap > INT64_MAX >> 16 || count > INT64_MAX >> 16 || at > INT64_MAX >> 2)
            return ERR_CORRUPT;
        at += (int64_t)gap;
        ackmap_settle_range(&q->acks, at, at + (int64_t)count);
        at += (int64_t)count;
    }
    return 0;
}

static int apply(struct queue *q, const struct record *record)
{
    struct effect e;
    struct queue_message_view m;
    struct reader r;
    uint64_t reserve;
    int err = effect_read(record, &e);

    if (err != 0)
        return err;
    switch (e.kind) {
    case EFFECT_QUEUE_MESSAGE:
        if ((err = queue_message_decode(e.value, &m)) != 0)
            return err;
        ackmap_add_live(&q->acks, record->offset);
        q->average_size = (uint32_t)MIN_OF(m.body.len, 1u << 20) + 64;
        return 0;
    case EFFECT_QUEUE_ACK:
        err = apply_ack(q, e.value);
        break;
    case EFFECT_QUEUE_RESERVE:
        r = reader_of(e.value);
        reserve = reader_uvarint(&r);
        if (r.bad || reserve > INT64_MAX >> 8)
            return ERR_CORRUPT;
        q->reserve_logged = (int64_t)reserve; /* the latest counts: a leader that hands over draws it back */
        break;
    case EFFECT_NOOP:
        break;
    default:
        return ERR_CORRUPT;
    }
    ackmap_add_settled(&q->acks, record->offset);
    return err;
}

static int replay_batch(struct queue *q, const struct batch_header *h, struct slice bytes, uint64_t *records)
{
    struct record_iter it;
    struct record record;
    int err;

    record_iter_init(&it, h, slice_of(bytes.data + BATCH_HEADER_SIZE, bytes.len - BATCH_HEADER_SIZE));
    while ((err = record_iter_next(&it, &record)) == 1) {
        if (record.offset < q->acks.end) /* the checkpoint lies within this batch */
            continue;
        ++*records;
        err = apply(q, &record);
        if (err != 0)
            return err;
    }
    return err;
}

int queue_replay(struct queue *q, int64_t to, uint64_t budget, bool *ret_more)
{
    struct queue_table *t = q->table;
    _Atomic uint64_t *count = q->followed ? &t->replayed_followed : q->apart ? &t->replayed_background : &t->replayed_locked;
    int64_t from = q->acks.end;
    struct log_cursor c;
    struct batch_header h;
    struct slice bytes;
    uint64_t used = 0, records = 0;
    int err;

    *ret_more = false;
    log_cursor_init(&c, q->log, from, WINDOW);
    while ((err = log_cursor_next(&c, &h, &bytes)) == 1) {
        if (h.base_offset + h.last_offset_delta >= to)
            break;
        if (atomic_load_explicit(&q->stop, memory_order_relaxed)) {
            err = ERR_CANCELLED;
            break;
        }
        if (used >= budget) {
            *ret_more = true;
            break;
        }
        used += bytes.len;
        q->bytes_since += bytes.len;
        if (h.producer_id >= 0 && h.base_offset >= from)
            queue_producer_note(q, h.producer_id, h.producer_epoch, h.base_sequence);
        err = replay_batch(q, &h, bytes, &records);
        if (err < 0) {
            diag_error("a queue's log cannot be replayed", "dir=%s offset=%lld error=\"%s\"", log_dir(q->log),
                       (long long)q->acks.end, err_text(err));
            break;
        }
    }
    log_cursor_fini(&c);
    atomic_fetch_add_explicit(count, records, memory_order_relaxed);
    return MIN_OF(err, 0);
}

int queue_load_state(struct queue *q, bool *ret_found)
{
    int err;

    ackmap_init(&q->acks, log_start(q->log));
    err = queue_checkpoint_load(q, ret_found);
    if (err != 0)
        return err;
    if (*ret_found)
        q->checkpoint_end = q->acks.end;
    else
        q->bytes_inexact = true;
    return 0;
}

/* The start of a follower's log follows its leader's, perhaps beyond what the state at hand still says to be live. */
void queue_follow_start(struct queue *q)
{
    int64_t start = log_start(q->log);

    (void)ackmap_settle_range(&q->acks, q->acks.origin, MIN_OF(start, q->acks.end));
    if (q->acks.end < start)
        ackmap_add_hole(&q->acks, start);
}

/* What this node kept while it followed, when the log still holds all of that. */
static bool take_followed(struct queue *q)
{
    struct queue *f = queue_followed_take(q->table, q->spec.id);
    bool good = f != NULL && f->acks.end <= log_end(q->log);

    if (good) {
        ackmap_fini(&q->acks);
        q->acks = f->acks;
        f->acks = (struct ackmap){0};
        q->producers = f->producers;
        q->producer_count = f->producer_count;
        q->producer_cap = f->producer_cap;
        f->producers = NULL;
        q->reserve_logged = f->reserve_logged;
        q->average_size = f->average_size;
        q->checkpoint_end = f->checkpoint_end;
        q->bytes_since = f->bytes_since;
        q->bytes_inexact = true;
    }
    if (f != NULL)
        queue_free(f);
    return good;
}

int queue_recover(struct queue *q)
{
    int64_t end;
    bool found, more;
    int err = log_recover(q->log);

    if (err != 0)
        return err;
    if (!take_followed(q) && (err = queue_load_state(q, &found)) != 0)
        return err;
    end = log_end(q->log);
    queue_follow_start(q);
    if (q->acks.end > end) {
        diag_warn("a queue's log ends before its checkpoint: the tail was lost",
                  "dir=%s end=%lld checkpoint=%lld", log_dir(q->log), (long long)end, (long long)q->acks.end);
        ackmap_cut(&q->acks, end);
        q->bytes_inexact = true;
        /* What is appended next is not what the checkpoint knows by these offsets: after another crash it would be believed. */
        err = queue_checkpoint_write(q, true);
        if (err != 0)
            return err;
        q->checkpoint_end = q->acks.end;
    } else if (q->acks.end < end) {
        q->bytes_inexact = true;
        err = queue_replay(q, INT64_MAX, UINT64_MAX, &more);
        if (err != 0)
            return err;
        ackmap_add_hole(&q->acks, end);
    }
    q->redeliver_below = MIN_OF(q->reserve_logged, end);
    q->reserve_end = q->reserve_logged > 0 ? end : 0;
    return queue_rebuild_ready(q);
}
