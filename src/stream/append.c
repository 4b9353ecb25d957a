/* Appending what clients produce: the checks before the mutex, then sequence, log and news under it. */
#include "stream/stream_priv.h"

#include "base/check.h"
#include "base/crc32c.h"
#include "base/err.h"

static enum stream_fault fault(enum stream_fault f, const char *phrase, const char **why)
{
    *why = phrase;
    return f;
}

/* The records of an uncompressed batch parse, are as many as the header says and number 0, 1, 2...: whoever
 * reads the log later relies on it. */
static bool records_ok(const uint8_t *data, const struct batch_header *h)
{
    struct record_iter it;
    struct record rec;
    int32_t n = 0;
    int got;

    record_iter_init(&it, h, slice_of(data + BATCH_HEADER_SIZE, h->length - BATCH_HEADER_SIZE));
    while ((got = record_iter_next(&it, &rec)) == 1)
        if (rec.offset != h->base_offset + n++)
            return false;
    return got == 0 && n == h->record_count;
}

/* LogAppendTime: maximum timestamp and the type bit change, hence the CRC. The records' own deltas stay;
 * readers go by the maximum. */
static void stamp_append_time(uint8_t *data, struct batch_header *h, int64_t now_ms)
{
    h->attributes |= BATCH_ATTR_LOG_APPEND_TIME;
    h->max_timestamp = now_ms;
    be16_put(data + 21, h->attributes);
    be64_put(data + 35, (uint64_t)now_ms);
    h->crc = crc32c(0, data + 21, h->length - 21);
    be32_put(data + 17, h->crc);
}

enum stream_fault stream_check(uint8_t *data, size_t len, const struct stream_rules *rules, int64_t now_ms,
                               struct batch_header *ret, const char **why)
{
    struct batch_header *h = ret;
    int err;

    if (len < 17)
        return fault(STREAM_FAULT_INVALID, "a partition's data holds no batch", why);
    if (data[16] < 2)
        return fault(STREAM_FAULT_FORMAT, "record batches have magic 2", why);
    err = batch_header_read(data, len, h);
    if (err == ERR_MORE)
        return fault(STREAM_FAULT_CORRUPT, "the batch is shorter than its header", why);
    if (err != 0 && be32_get(data + 8) < BATCH_HEADER_SIZE - 12)
        return fault(STREAM_FAULT_CORRUPT, "the batch is shorter than its header", why);
    if (err != 0)
        return fault(STREAM_FAULT_INVALID, "the batch header is malformed", why);
    if (h->length > len)
        return fault(STREAM_FAULT_CORRUPT, "the batch is longer than the bytes sent", why);
    if (h->length < len)
        return fault(STREAM_FAULT_INVALID, "a partition's data is exactly one batch", why);
    if (len > rules->max_batch_bytes)
        return fault(STREAM_FAULT_TOO_LARGE, "the batch is larger than max.message.bytes", why);
    if (!batch_crc_ok(data, h))
        return fault(STREAM_FAULT_CORRUPT, "the batch failed its checksum", why);
    if (h->base_offset != 0)
        return fault(STREAM_FAULT_INVALID, "the base offset of a produced batch is 0", why);
    if (h->record_count <= 0 || h->last_offset_delta != h->record_count - 1)
        return fault(STREAM_FAULT_INVALID, "the batch's record count and last offset differ", why);
    if (h->attributes & BATCH_ATTR_CONTROL)
        return fault(STREAM_FAULT_INVALID, "clients write no control batches", why);
    if (h->attributes & BATCH_ATTR_TRANSACTIONAL)
        return fault(STREAM_FAULT_TRANSACTION, "transactions are not served by this version", why);
    if ((h->attributes & BATCH_ATTR_CODEC) > BATCH_ZSTD)
        return fault(STREAM_FAULT_INVALID, "the batch names an unknown codec", why);
    if (h->producer_id >= 0 && (h->base_sequence < 0 || h->producer_epoch < 0))
        return fault(STREAM_FAULT_INVALID, "a producer id comes with an epoch and a sequence", why);
    if ((h->attributes & BATCH_ATTR_CODEC) == BATCH_NONE && !records_ok(data, h))
        return fault(STREAM_FAULT_INVALID, "the batch's records do not parse", why);
    if (rules->log_append_time)
        stamp_append_time(data, h, now_ms);
    else if (rules->timestamp_after_max_ms != INT64_MAX &&
             h->max_timestamp - rules->timestamp_after_max_ms > now_ms)
        return fault(STREAM_FAULT_TIMESTAMP, "a timestamp is too far in the future", why);
    *why = NULL;
    return STREAM_OK;
}

static int append_locked(struct stream *s, uint8_t *data, const struct batch_header *h, int64_t now_ms,
                         struct log_commit *commit, struct stream_appended *ret) REQUIRES(s->mu)
{
    const struct producer_batch *repeated = NULL;
    struct batch_header appended = *h;
    int err = 0;

    ret->append_time = h->attributes & BATCH_ATTR_LOG_APPEND_TIME ? h->max_timestamp : -1;
    ret->duplicate = false;
    if (s->deleted)
        return ERR_NOT_FOUND;
    if (s->closed || !stream_table_admits(s->table, s->partition))
        return ERR_NOT_LEADER;
    if (h->producer_id >= 0)
        err = producers_check(&s->producers, h, &repeated);
    if (err == ERR_DUPLICATE) {
        ret->base = repeated->base_offset;
        ret->next = repeated->base_offset + h->record_count;
        if (ret->append_time >= 0)
            ret->append_time = repeated->timestamp;
        ret->duplicate = true;
    } else if (err != 0) {
        return err;
    } else {
        err = log_append_encoded(s->log, data, h->length, &ret->base);
        if (err != 0)
            return err;
        ret->next = ret->base + h->record_count;
        appended.base_offset = ret->base;
        producers_note(&s->producers, &appended, now_ms);
        s->bytes_since_snapshot += h->length;
        if (!log_replicated(s->log)) /* else when the high watermark moves */
            stream_notify(s);
    }
    ret->start = log_start(s->log);
    if (commit != NULL)
        log_commit_add(commit, s->log, ret->next);
    return 0;
}

int stream_append(struct stream *s, uint8_t *data, const struct batch_header *h, int64_t now_ms,
                  struct log_commit *commit, struct stream_appended *ret)
{
    int err;

    MAGIC_CHECK(s, STREAM_MAGIC);
    mutex_lock(&s->mu);
    err = append_locked(s, data, h, now_ms, commit, ret);
    mutex_unlock(&s->mu);
    return err;
}
