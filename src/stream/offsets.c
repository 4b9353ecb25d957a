/* Offsets by time, deletion and retention, and the upkeep of producers. */
#include <stdio.h>
#include <unistd.h>

#include "stream/stream_priv.h"

#include "base/check.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"

#define SNAPSHOT_EVERY_BYTES (32u << 20) /* what a restart after a crash reads again, at most and about */
#define SNAPSHOT_BYTES_MAX (256u << 20)

int stream_find_time(struct stream *s, int64_t timestamp_ms, int64_t *ret_offset, int64_t *ret_timestamp)
{
    return log_find_timestamp(s->log, timestamp_ms, ret_offset, ret_timestamp);
}

int stream_find_max_time(struct stream *s, int64_t *ret_offset, int64_t *ret_timestamp)
{
    int64_t newest = log_last_timestamp(s->log);

    if (log_end(s->log) == log_start(s->log) || newest < 0)
        return ERR_NOT_FOUND;
    return log_find_timestamp(s->log, newest, ret_offset, ret_timestamp);
}

int stream_delete_records(struct stream *s, int64_t offset, int64_t *ret_start)
{
    int err = 0;

    mutex_lock(&s->mu);
    if (offset == -1)
        offset = log_hw(s->log);
    if (s->closed)
        err = ERR_NOT_LEADER;
    else if (offset < 0 || offset > log_hw(s->log))
        err = ERR_OFFSET_RANGE;
    else if (offset > log_start(s->log))
        err = log_advance_start(s->log, offset);
    *ret_start = log_start(s->log);
    mutex_unlock(&s->mu);
    return err;
}

/* The new start: behind the segments that are too old, then behind those that are too many bytes. The active
 * segment goes, by age only, when everything before it has gone: the start moves to the end, as Kafka rolls
 * such a segment and drops it. */
static int64_t retained_start(const struct log_segment_info *segments, size_t n,
                              const struct stream_retention *r, int64_t now_ms, unsigned *ret_dropped)
{
    uint64_t bytes = 0;
    size_t i = 0;

    for (size_t k = 0; k < n; k++)
        bytes += segments[k].bytes;
    for (; i < n; i++) {
        bool old = r->max_age_ms >= 0 && segments[i].max_timestamp < now_ms - r->max_age_ms;
        bool much =
            r->max_bytes >= 0 && bytes - segments[i].bytes >= (uint64_t)r->max_bytes && !segments[i].active;

        if ((!old && !much) || segments[i].next == segments[i].base)
            break;
        bytes -= segments[i].bytes;
    }
    *ret_dropped = (unsigned)i;
    return i == 0 ? -1 : segments[i - 1].next;
}

unsigned stream_retain(struct stream *s, const struct stream_retention *r, int64_t now_ms)
{
    struct log_segment_info *segments;
    size_t n;
    unsigned dropped = 0;
    int64_t start;

    if ((r->max_age_ms < 0 && r->max_bytes < 0) || log_end(s->log) == log_start(s->log))
        return 0;
    mutex_lock(&s->mu);
    n = log_segments(s->log, NULL, 0);
    segments = mem_calloc(n + 1, sizeof(*segments));
    n = MIN_OF(log_segments(s->log, segments, n), n);
    start = MIN_OF(retained_start(segments, n, r, now_ms, &dropped), log_hw(s->log));
    if (start > log_start(s->log) && !s->deleted && !s->closed && log_advance_start(s->log, start) != 0)
        dropped = 0;
    mutex_unlock(&s->mu);
    mem_free(segments);
    return dropped;
}

/* ---- producers ---------------------------------------------------------------------------------------- */

static char *snapshot_path(const struct stream *s)
{
    return mem_printf("%s/p-%04u/topic/%s-%u/producers", stream_table_data_dir(s->table), s->partition,
                      s->topic, s->index);
}

/* Was the log, as the snapshot saw it, a part of what it is now? A crash or a truncation may have taken its end away, and others may have written there since. */
static bool snapshot_fits(struct stream *s, int64_t at, int32_t epoch)
{
    int32_t known;
    int64_t end;

    return at <= log_end(s->log) && log_epoch_end(s->log, epoch, &known, &end) == 0 && (known == epoch || at <= log_start(s->log)) && at <= end;
}

/* One below the start is as good as one at it, for the producers themselves. */
static int64_t read_snapshot(struct stream *s) NO_THREAD_SAFETY_ANALYSIS
{
    char *path = snapshot_path(s);
    struct buf bytes = {0};
    int64_t at = 0;
    int32_t epoch = -1;

    if (file_read(path, SNAPSHOT_BYTES_MAX, &bytes) == 0 &&
        producers_decode(&s->producers, buf_slice(&bytes), &at, &epoch) == 0 && !snapshot_fits(s, at, epoch)) {
        producers_fini(&s->producers);
        (void)unlink(path);
        at = 0;
    }
    buf_fini(&bytes);
    mem_free(path);
    return MAX_OF(at, log_start(s->log));
}

/* Before the stream is published, hence without its mutex. */
int stream_load_producers(struct stream *s) NO_THREAD_SAFETY_ANALYSIS
{
    struct batch_header h;
    struct log_cursor c;
    struct slice batch;
    int64_t from;
    int got;

    if (log_end(s->log) == 0)
        return 0;
    from = read_snapshot(s);
    if (from >= log_end(s->log))
        return 0;
    log_cursor_init(&c, s->log, from, 1u << 20);
    while ((got = log_cursor_next(&c, &h, &batch)) == 1) {
        /* Not the batch's timestamp: that is the client's, who may send again what is years old. */
        producers_note(&s->producers, &h, PRODUCER_LOADED);
        s->bytes_since_snapshot += h.length;
    }
    log_cursor_fini(&c);
    return got;
}

int stream_save_producers(struct stream *s)
{
    struct buf bytes = {0};
    uint64_t since;
    char *path;
    int err;

    mutex_lock(&s->mu);
    since = s->bytes_since_snapshot;
    if (since != 0 && !s->deleted && !s->closed && log_failed(s->log) == 0)
        producers_encode(&s->producers, log_end(s->log), log_last_epoch(s->log), &bytes);
    mutex_unlock(&s->mu);
    if (bytes.len == 0)
        return 0;
    path = snapshot_path(s);
    err = file_replace(path, bytes.data, bytes.len);
    mem_free(path);
    buf_fini(&bytes);
    if (err != 0)
        return err;
    mutex_lock(&s->mu);
    s->bytes_since_snapshot -= since;
    mutex_unlock(&s->mu);
    return 0;
}

void stream_tend_producers(struct stream *s, int64_t now_ms, int64_t max_idle_ms)
{
    bool save;
    int err;

    mutex_lock(&s->mu);
    (void)producers_expire(&s->producers, now_ms - max_idle_ms, now_ms);
    save = s->bytes_since_snapshot >= SNAPSHOT_EVERY_BYTES;
    mutex_unlock(&s->mu);
    err = save ? stream_save_producers(s) : 0;
    if (err != 0)
        DIAG_EVERY(DIAG_WARN, "the producers' snapshot was not written", "topic=%s index=%u err=%s", s->topic,
                   s->index, err_name(err));
}

size_t stream_producer_count(struct stream *s)
{
    size_t n;

    mutex_lock(&s->mu);
    n = s->producers.count;
    mutex_unlock(&s->mu);
    return n;
}

void stream_each_producer(struct stream *s, void (*fn)(const struct stream_producer *p, void *arg), void *arg)
{
    mutex_lock(&s->mu);
    for (uint32_t i = 0; i < s->producers.bucket_count; i++)
        for (const struct producer *p = s->producers.buckets[i]; p != NULL; p = p->next) {
            const struct producer_batch *last = p->count == 0 ? NULL : &p->batches[p->count - 1];
            struct stream_producer told = {
                .id = p->id,
                .epoch = p->epoch,
                .last_sequence = last == NULL ? -1 : last->last_sequence,
                .last_timestamp = last == NULL ? -1 : last->timestamp,
            };

            fn(&told, arg);
        }
    mutex_unlock(&s->mu);
}
