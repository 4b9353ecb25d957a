/* Reading messages back from the log: spans of whole batches, walked forward. The cursor of a queue remembers
 * how far into a batch it came, so taking 64 messages of a large batch at a time does not walk its beginning
 * again. */
#include "base/diag.h"
#include "queue/internal.h"

void queue_reader_init(struct queue_reader *r)
{
    *r = (struct queue_reader){0};
}

void queue_reader_close(struct queue_reader *r)
{
    if (r->open)
        log_span_release(&r->span);
    *r = (struct queue_reader){0};
}

static int corrupt(const struct queue *q, int64_t offset, const char *what)
{
    diag_error("a queue cannot be read", "queue=%llu dir=%s offset=%lld reason=\"%s\"",
               (unsigned long long)q->spec.id, log_dir(q->log), (long long)offset, what);
    return ERR_CORRUPT;
}

/* Opens the span that holds offset. */
static int open_span(struct queue_reader *r, struct queue *q, int64_t offset, size_t want_bytes,
                     bool read_cold, struct log_span *cold)
{
    struct log_place place = offset >= q->head ? q->cursor_place : LOG_NOWHERE;
    int err;

    queue_reader_close(r);

    if (read_cold)
        err = log_read_at(q->log, offset, place, log_end(q->log), want_bytes, false, &r->span);
    else
        err = log_read_nowait(q->log, offset, place, log_end(q->log), want_bytes, false, &r->span);
    if (err == ERR_AGAIN) {
        *cold = r->span;
        *r = (struct queue_reader){0};
    }
    if (err != 0)
        return err;
    r->open = true;
    if (r->span.len == 0)
        return corrupt(q, offset, "no batch");
    if (r->span.data != NULL) {
        r->data = r->span.data;
    } else {
        if (!read_cold && !log_span_is_warm(&r->span)) {
            *cold = r->span;
            *r = (struct queue_reader){0};
            return ERR_AGAIN;
        }
        struct buf *window = q->apart ? &q->own_window : &q->table->window;

        buf_clear(window);
        err = log_span_copy(&r->span, window);
        if (err != 0)
            return err;
        r->data = window->data;
    }
    r->len = r->span.len;
    return 0;
}

/* Steps to the next batch of the span. 0, ERR_MORE at its end, ERR_CORRUPT. */
static int next_batch(struct queue_reader *r, struct queue *q)
{
    int err;

    r->in_batch = false;
    if (r->at >= r->len)
        return ERR_MORE;
    err = batch_header_read(r->data + r->at, r->len - r->at, &r->header);
    if (err == ERR_MORE)
        return ERR_MORE;
    if (err != 0)
        return corrupt(q, r->next, "a malformed batch");
    if (r->header.length > r->len - r->at)
        return ERR_MORE;
    if (r->data != r->span.data && !batch_crc_ok(r->data + r->at, &r->header))
        return corrupt(q, r->header.base_offset, "a batch with a wrong checksum");
    record_iter_init(&r->records, &r->header,
                     slice_of(r->data + r->at + BATCH_HEADER_SIZE, r->header.length - BATCH_HEADER_SIZE));
    r->at += r->header.length;
    r->next = r->header.base_offset;
    r->in_batch = true;
    return 0;
}

int queue_reader_find(struct queue_reader *r, struct queue *q, int64_t offset, size_t want_bytes,
                      bool read_cold, struct record *ret, struct log_span *cold)
{
    bool fresh = false;
    int err;

    if (!r->open || offset < r->next) {
        err = open_span(r, q, offset, want_bytes, read_cold, cold);
        if (err != 0)
            return err;
        fresh = true;
    }
    for (;;) {
        if (r->in_batch && offset <= r->header.base_offset + r->header.last_offset_delta) {
            err = record_iter_next(&r->records, ret);
            if (err < 0)
                return corrupt(q, offset, "a malformed record");
            if (err == 0)
                return corrupt(q, offset, "no such record");
            r->next = ret->offset + 1;
            if (ret->offset == offset)
                return 0;
            if (ret->offset > offset)
                return corrupt(q, offset, "no such record");
            continue;
        }
        err = next_batch(r, q);
        if (err == ERR_MORE && !fresh) {
            err = open_span(r, q, offset, want_bytes, read_cold, cold);
            if (err != 0)
                return err;
            fresh = true;
            continue;
        }
        if (err == ERR_MORE)
            return corrupt(q, offset, "no such batch");
        if (err != 0)
            return err;
        if (r->header.base_offset > offset)
            return corrupt(q, offset, "a hole");
        if (r->header.base_offset == q->cursor_batch && q->cursor_left <= r->header.record_count &&
            q->cursor_pos <= r->header.length - BATCH_HEADER_SIZE &&
            offset >= q->cursor_batch + r->header.record_count - q->cursor_left) {
            r->records.r.p += q->cursor_pos;
            r->records.left = q->cursor_left;
            r->next = q->cursor_batch + r->header.record_count - q->cursor_left;
        }
    }
}

void queue_reader_save(struct queue_reader *r, struct queue *q)
{
    const uint8_t *start;

    if (!r->in_batch || r->next < q->head) /* read nothing, or messages that came back last */
        return;
    q->cursor_place = (struct log_place){r->span.segment, r->span.pos + r->at};
    if (r->records.left == 0)
        return;
    q->cursor_place.pos -= r->header.length;
    start = r->data + r->at - r->header.length + BATCH_HEADER_SIZE;
    q->cursor_batch = r->header.base_offset;
    q->cursor_pos = (uint32_t)(r->records.r.p - start);
    q->cursor_left = r->records.left;
}

int queue_warm(const struct log_span *span)
{
    struct buf out = {0};
    int err = log_span_copy(span, &out);

    buf_fini(&out);
    return err;
}
