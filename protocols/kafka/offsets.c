/* ListOffsets 1-11, OffsetForLeaderEpoch 2-4, DeleteRecords 0-2: all of them may read the disk or move files,
 * so what is more than a look at a number runs on a background thread over a copy of the request; the reply
 * is encoded there and sent from the worker. */
#include "protocols/kafka/session.h"

#include "base/err.h"
#include "base/mem.h"

/* Timestamps of ListOffsets that are places (KIP-79, KIP-734, KIP-405, KIP-1005, KIP-1023). */
enum {
    AT_LATEST = -1,
    AT_EARLIEST = -2,
    AT_MAX_TIMESTAMP = -3,
    AT_EARLIEST_LOCAL = -4,
    AT_LATEST_TIERED = -5,
    AT_EARLIEST_PENDING = -6
};

struct offsets_job {
    struct kafka_async async;
    struct bg_job job;
    struct kafka_front *front;
    struct stream **streams; /* one a partition of the request, in its order; NULL with a code */
    int16_t *codes;
    unsigned count, cap;
    struct buf reply;
    void (*write)(struct offsets_job *j, struct kout *o);
};

static void add_stream(struct offsets_job *j, struct stream *st, int16_t code)
{
    if (j->count == j->cap) {
        j->cap = j->cap == 0 ? 8 : j->cap * 2;
        j->streams = mem_realloc(j->streams, j->cap * sizeof(*j->streams));
        j->codes = mem_realloc(j->codes, j->cap * sizeof(*j->codes));
    }
    j->streams[j->count] = st;
    j->codes[j->count++] = code;
}

/* All three requests are topics of partitions; only names differ. */
static void gather(struct kafka_session *s, const struct kafka_request *rq, struct offsets_job *j,
                   const char *topic_name, const char *index_name, struct kafka_open **open)
{
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Topics");
    while (kin_item(&in)) {
        struct slice name = kin_string(&in, topic_name);
        const struct topo_topic *t = topo_topic_find(kafka_view(s), name);

        (void)kin_array(&in, "Partitions");
        while (kin_item(&in)) {
            int16_t code;
            struct stream *st = kafka_stream_of(s, t, kin_i32(&in, index_name, -1), open, &code);

            add_stream(j, st, code);
        }
    }
}

static void job_free(struct offsets_job *j)
{
    for (unsigned i = 0; i < j->count; i++)
        stream_unref(j->streams[i]);
    mem_free(j->streams);
    mem_free(j->codes);
    buf_fini(&j->reply);
    mem_free(j);
}

static void job_run(struct bg_job *job)
{
    struct offsets_job *j = CONTAINER_OF(job, struct offsets_job, job);
    struct kafka_reply r;

    kafka_frame_begin(&r, &j->async.rq, &j->reply);
    j->write(j, &r.out);
    kafka_frame_end(&r);
    kafka_count_error(j->front, r.out.error, r.out.error_count);
}

static void job_done(struct bg_job *job)
{
    struct offsets_job *j = CONTAINER_OF(job, struct offsets_job, job);

    if (j->async.session != NULL)
        conn_write(j->async.session->conn, j->reply.data, j->reply.len);
    kafka_async_end(&j->async);
    job_free(j);
}

static int run(struct kafka_session *s, struct kafka_request *rq, const char *topic_name,
               const char *index_name, bool background, void (*write)(struct offsets_job *j, struct kout *o))
{
    struct offsets_job *j = mem_zalloc(sizeof(*j));
    struct kafka_open *open = NULL;

    j->front = s->front;
    j->write = write;
    gather(s, rq, j, topic_name, index_name, &open);
    if (open != NULL) {
        job_free(j);
        return kafka_open_start(s, open);
    }
    if (!background) {
        struct kafka_reply r;

        j->async.rq = *rq;
        write(j, kafka_reply_begin(s, rq, &r));
        kafka_reply_end(s, &r);
        job_free(j);
        return KAFKA_DONE;
    }
    kafka_async_begin(&j->async, s, rq, true);
    j->job.reply_to = s->conn->worker;
    j->job.run = job_run;
    j->job.done = job_done;
    bg_submit(s->front->options.workers, BG_FREE, &j->job);
    return KAFKA_WAIT;
}

static struct partition *owner(const struct offsets_job *j, const struct stream *st)
{
    return partitions_get(j->front->options.partitions, stream_partition(st));
}

/* R9. */
static int16_t check_epoch(const struct offsets_job *j, const struct stream *st, int32_t epoch)
{
    int32_t mine = partition_epoch(owner(j, st));

    if (epoch < 0 || epoch == mine)
        return 0;
    return epoch < mine ? KAFKA_ERR_FENCED_LEADER_EPOCH : KAFKA_ERR_UNKNOWN_LEADER_EPOCH;
}

/* R19: a new leader does not know yet how far its predecessor committed, until its own high watermark reaches the epoch's first offset. */
static bool watermark_is_known(const struct offsets_job *j, struct stream *st)
{
    int32_t epoch;
    int64_t began;

    if (!log_replicated(stream_log(st)))
        return true;
    if (log_epoch_end(stream_log(st), partition_epoch(owner(j, st)) - 1, &epoch, &began) != 0)
        return true;
    return stream_high_watermark(st) >= began;
}

/* ---- ListOffsets -------------------------------------------------------------------------------------- */

static int16_t find_offset(struct stream *st, int64_t at, int64_t *ret_offset, int64_t *ret_timestamp)
{
    int err = 0;

    *ret_offset = *ret_timestamp = -1;
    switch (at) {
    case AT_LATEST:
        *ret_offset = stream_high_watermark(st);
        return 0;
    case AT_EARLIEST:
    case AT_EARLIEST_LOCAL: /* all of a log is local */
        *ret_offset = stream_start(st);
        return 0;
    case AT_LATEST_TIERED:
    case AT_EARLIEST_PENDING:
        return 0; /* there is no second tier: none */
    case AT_MAX_TIMESTAMP:
        err = stream_find_max_time(st, ret_offset, ret_timestamp);
        break;
    default:
        if (at < 0)
            return KAFKA_ERR_INVALID_REQUEST;
        err = stream_find_time(st, at, ret_offset, ret_timestamp);
        break;
    }
    if (err == ERR_NOT_FOUND || (err == 0 && *ret_offset >= stream_high_watermark(st))) {
        *ret_offset = *ret_timestamp = -1;
        return 0;
    }
    return kafka_error_of(err);
}

static void write_list(struct offsets_job *j, struct kout *o)
{
    const struct kafka_request *rq = &j->async.rq;
    unsigned i = 0;
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    kout_i32(o, "ThrottleTimeMs", 0);
    (void)kin_array(&in, "Topics");
    kout_array(o, "Topics");
    while (kin_item(&in)) {
        kout_item(o);
        kout_string(o, "Name", kin_string(&in, "Name"));
        (void)kin_array(&in, "Partitions");
        kout_array(o, "Partitions");
        for (; kin_item(&in); i++) {
            struct stream *st = j->streams[i];
            int16_t code = j->codes[i];
            int64_t offset = -1, timestamp = -1, at;

            kout_item(o);
            kout_i32(o, "PartitionIndex", kin_i32(&in, "PartitionIndex", 0));
            if (code == 0)
                code = check_epoch(j, st, kin_i32(&in, "CurrentLeaderEpoch", -1));
            at = kin_i64(&in, "Timestamp", AT_LATEST);
            if (code == 0 && (at >= 0 || at == AT_LATEST || at == AT_MAX_TIMESTAMP) && !watermark_is_known(j, st))
                code = rq->version >= 5 ? KAFKA_ERR_OFFSET_NOT_AVAILABLE : KAFKA_ERR_LEADER_NOT_AVAILABLE;
            if (code == 0)
                code = find_offset(st, at, &offset, &timestamp);
            kout_i16(o, "ErrorCode", code);
            kout_i64(o, "Timestamp", timestamp);
            kout_i64(o, "Offset", offset);
            kout_i32(o, "LeaderEpoch", code == 0 && offset >= 0 ? partition_epoch(owner(j, st)) : -1);
        }
        kout_array_end(o);
    }
    kout_array_end(o);
}

static bool asks_for_time(const struct kafka_request *rq)
{
    struct kin in;
    bool time = false;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Topics");
    while (kin_item(&in)) {
        (void)kin_array(&in, "Partitions");
        while (kin_item(&in)) {
            int64_t at = kin_i64(&in, "Timestamp", AT_LATEST);

            time = time || at >= 0 || at == AT_MAX_TIMESTAMP;
        }
    }
    return time;
}

int kafka_handle_list_offsets(struct kafka_session *s, struct kafka_request *rq)
{
    return run(s, rq, "Name", "PartitionIndex", asks_for_time(rq), write_list);
}

/* ---- OffsetForLeaderEpoch (KIP-320) ------------------------------------------------------------------- */

/* R4, by the log's own list. */
static void write_epochs(struct offsets_job *j, struct kout *o)
{
    const struct kafka_request *rq = &j->async.rq;
    unsigned i = 0;
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    kout_i32(o, "ThrottleTimeMs", 0);
    (void)kin_array(&in, "Topics");
    kout_array(o, "Topics");
    while (kin_item(&in)) {
        kout_item(o);
        kout_string(o, "Topic", kin_string(&in, "Topic"));
        (void)kin_array(&in, "Partitions");
        kout_array(o, "Partitions");
        for (; kin_item(&in); i++) {
            struct stream *st = j->streams[i];
            int16_t code = j->codes[i];
            int32_t index = kin_i32(&in, "Partition", 0), current = kin_i32(&in, "CurrentLeaderEpoch", -1),
                    epoch = kin_i32(&in, "LeaderEpoch", -1);
            int32_t found = -1;
            int64_t end = -1;

            if (code == 0)
                code = check_epoch(j, st, current);
            if (code == 0 && log_epoch_end(stream_log(st), epoch, &found, &end) != 0) {
                found = -1;
                end = -1;
            }
            kout_item(o);
            kout_i16(o, "ErrorCode", code);
            kout_i32(o, "Partition", index);
            kout_i32(o, "LeaderEpoch", code == 0 ? found : -1);
            kout_i64(o, "EndOffset", code == 0 ? end : -1);
        }
        kout_array_end(o);
    }
    kout_array_end(o);
}

int kafka_handle_offset_for_leader_epoch(struct kafka_session *s, struct kafka_request *rq)
{
    return run(s, rq, "Topic", "Partition", false, write_epochs);
}

/* ---- DeleteRecords (KIP-107) -------------------------------------------------------------------------- */

static void write_deleted(struct offsets_job *j, struct kout *o)
{
    const struct kafka_request *rq = &j->async.rq;
    unsigned i = 0;
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    kout_i32(o, "ThrottleTimeMs", 0);
    (void)kin_array(&in, "Topics");
    kout_array(o, "Topics");
    while (kin_item(&in)) {
        kout_item(o);
        kout_string(o, "Name", kin_string(&in, "Name"));
        (void)kin_array(&in, "Partitions");
        kout_array(o, "Partitions");
        for (; kin_item(&in); i++) {
            int16_t code = j->codes[i];
            int32_t index = kin_i32(&in, "PartitionIndex", 0);
            int64_t offset = kin_i64(&in, "Offset", -1), start = -1;

            if (code == 0) {
                int err = stream_delete_records(j->streams[i], offset, &start);

                code = kafka_error_of(err);
                if (err != 0)
                    start = -1;
            }
            kout_item(o);
            kout_i32(o, "PartitionIndex", index);
            kout_i64(o, "LowWatermark", start);
            kout_i16(o, "ErrorCode", code);
        }
        kout_array_end(o);
    }
    kout_array_end(o);
}

int kafka_handle_delete_records(struct kafka_session *s, struct kafka_request *rq)
{
    return run(s, rq, "Name", "PartitionIndex", true, write_deleted);
}
