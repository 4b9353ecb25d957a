/* Checkpoints: what of a queue's log is live at an offset S, so that recovery replays only what follows S,
 * and segments without a live message can go (rule 7).
 *
 * Two files beside the log's segments, the one with the greater S that reads whole counts:
 *   checkpoint         replaced durably; only behind it are segments dropped
 *   checkpoint.clean   written without syncing: when the table is freed, so that a restart replays nothing, and by followers (follow.c)
 *
 * A clean one that was torn by a power cut, or lies beyond the end of a log that lost its tail, is ignored. Nothing is cut below a checkpoint (queue_checkpoint_cut).
 *
 *   4   "GMQC"
 *   4   CRC32C of everything behind it
 *   1   version = 2
 *   8   queue id
 *       uvarint S: the offset the next record gets
 *       uvarint M: the last reservation (rule 8)
 *       uvarint bytes of live bodies + 1; 0: unknown
 *       uvarint number of live offsets
 *       uvarint n, n x chunk: uvarint number (offset / 2048), minus the one before it; u8 form; its data
 *           form 0: everything in [chunk start or origin, chunk end or S) is live
 *           form 1: 256 bytes, bit i of byte i/8 set: live
 *           form 2: uvarint k, k x (uvarint gap, uvarint count) of live offsets, from the chunk's start
 *       uvarint n, n x producer: 8 id; 2 incarnation; 4 number of its last batch (rule 16). Version 1 ends before this
 *
 * Deleting goes by what was live at S, never by what was settled since: those acknowledgements may yet be
 * lost. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/diag.h"
#include "base/fileio.h"
#include "queue/internal.h"

#define CHECKPOINT_VERSION 2
#define PRODUCERS_MAX 65536
#define CHECKPOINT_MAX (1u << 30)
#define SEGMENTS_MAX 4096 /* dropped by one checkpoint */
/* Chunks from the first live offset to the last: memory follows it, 16 bytes each. */
#define SPAN_MAX (1u << 26)
#define CHUNK_BYTES (ACKMAP_CHUNK / 8)

static char *path_of(const struct queue *q, const char *name)
{
    char dir[64];

    queue_dir(q->table, q->spec.id, dir, sizeof(dir));
    return mem_printf("%s/%s/%s", q->table->options.data_dir, dir, name);
}

/* The live bits of a chunk, unknown and settled ones cleared. */
static void live_words(const struct ackmap *m, const struct ackmap_chunk *c, int64_t number,
                       uint64_t live[ACKMAP_WORDS])
{
    int64_t start = number * ACKMAP_CHUNK;

    for (unsigned i = 0; i < ACKMAP_WORDS; i++) {
        int64_t from = start + 64 * i;
        uint64_t w = c->bits == NULL ? ~0ull : ~c->bits[i];

        if (m->origin > from)
            w &= m->origin - from >= 64 ? 0 : ~0ull << (m->origin - from);
        if (m->end < from + 64)
            w &= m->end <= from ? 0 : (1ull << (m->end - from)) - 1;
        live[i] = w;
    }
}

/* Ranges; when those would be longer than the bits, the bits. Under the partition's lock, hence by words. */
static void encode_chunk(const struct ackmap *m, const struct ackmap_chunk *c, int64_t number,
                         struct buf *out)
{
    uint64_t live[ACKMAP_WORDS], ranges = 0;
    int64_t at = 0, first = -1;

    live_words(m, c, number, live);
    for (unsigned i = 0; i < ACKMAP_WORDS; i++)
        ranges += (uint64_t)__builtin_popcountll(live[i] & ~(live[i] << 1 | (i > 0 ? live[i - 1] >> 63 : 0)));
    if (ranges * 3 > CHUNK_BYTES) {
        buf_put_u8(out, 1);
        for (unsigned i = 0; i < ACKMAP_WORDS; i++) {
            uint64_t swapped = __builtin_bswap64(live[i]); /* bytes in ascending order */

            buf_put_be64(out, swapped);
        }
        return;
    }
    buf_put_u8(out, 2);
    buf_put_uvarint(out, ranges);
    for (int64_t o = 0; o <= ACKMAP_CHUNK;) {
        uint64_t w = o == ACKMAP_CHUNK ? 0 : live[o / 64] >> (o % 64);
        int64_t run;

        if (first < 0) {
            if (o == ACKMAP_CHUNK)
                break;
            o = w == 0 ? (o / 64 + 1) * 64 : o + __builtin_ctzll(w);
            if (w != 0)
                first = o;
            continue;
        }
        run = ~w == 0 ? 64 : __builtin_ctzll(~w);
        run = MIN_OF(run, 64 - o % 64);
        o += run;
        if (o % 64 == 0 && o < ACKMAP_CHUNK && (live[o / 64] & 1) && run > 0)
            continue; /* goes on in the next word */
        buf_put_uvarint(out, (uint64_t)(first - at));
        buf_put_uvarint(out, (uint64_t)(o - first));
        at = o;
        first = -1;
    }
}

void queue_checkpoint_encode(struct queue *q, struct buf *out)
{
    const struct ackmap *m = &q->acks;
    uint64_t chunks = 0;
    int64_t before = 0;
    size_t start = out->len;

    buf_put(out, "GMQC\0\0\0\0", 8);
    buf_put_u8(out, CHECKPOINT_VERSION);
    buf_put_be64(out, q->spec.id);
    buf_put_uvarint(out, (uint64_t)m->end);
    buf_put_uvarint(out, (uint64_t)q->reserve_logged);
    buf_put_uvarint(out, q->bytes_inexact || q->unacked > 0 ? 0 : q->ready_bytes + 1);
    buf_put_uvarint(out, m->live);
    for (uint32_t i = 0; i < m->count; i++)
        chunks += m->chunks[m->first + i].live != 0;
    buf_put_uvarint(out, chunks);
    for (uint32_t i = 0; i < m->count; i++) {
        int64_t number = m->base + i;
        const struct ackmap_chunk *c = &m->chunks[m->first + i];

        if (c->live == 0)
            continue;
        buf_put_uvarint(out, (uint64_t)(number - before));
        before = number;
        if (c->bits == NULL && m->origin <= number * ACKMAP_CHUNK)
            buf_put_u8(out, 0);
        else
            encode_chunk(m, c, number, out);
    }
    buf_put_uvarint(out, q->producer_count);
    for (uint32_t i = 0; i < q->producer_count; i++) {
        buf_put_be64(out, (uint64_t)q->producers[i].id);
        buf_put_be16(out, (uint16_t)q->producers[i].epoch);
        buf_put_be32(out, (uint32_t)q->producers[i].sequence);
    }
    be32_put(out->data + start + 4, crc32c(0, out->data + start + 8, out->len - start - 8));
}

static int decode_chunk(struct ackmap *m, int64_t number, struct reader *r, int64_t end)
{
    int64_t start = number * ACKMAP_CHUNK, stop = MIN_OF(start + ACKMAP_CHUNK, end), at = start;
    const uint8_t *raw;
    uint64_t n;

    switch (reader_u8(r)) {
    case 0:
        for (int64_t o = start; o < stop; o++)
            ackmap_add_live(m, o);
        return 0;
    case 1:
        raw = reader_take(r, CHUNK_BYTES);
        if (raw == NULL)
            return ERR_CORRUPT;
        for (int64_t o = start; o < stop; o++)
            if ((raw[(o - start) / 8] >> ((o - start) % 8)) & 1)
                ackmap_add_live(m, o);
        return 0;
    case 2:
        n = reader_uvarint(r);
        if (n > ACKMAP_CHUNK)
            return ERR_CORRUPT;
        while (n-- > 0) {
            uint64_t gap = reader_uvarint(r), count = reader_uvarint(r);

            if (r->bad || gap > (uint64_t)(stop - at) || count > (uint64_t)(stop - at) - gap)
                return ERR_CORRUPT;
            at += (int64_t)gap;
            for (; count > 0; count--)
                ackmap_add_live(m, at++);
        }
        return 0;
    default:
        return ERR_CORRUPT;
    }
}

static int decode_producers(struct queue *q, struct reader *r)
{
    uint64_t n = reader_uvarint(r);

    if (r->bad || n > PRODUCERS_MAX || n > reader_left(r) / 14)
        return ERR_CORRUPT;
    while (n-- > 0) {
        int64_t id = (int64_t)reader_be64(r);
        int16_t epoch = (int16_t)reader_be16(r);
        int32_t sequence = (int32_t)reader_be32(r);

        if (id < 0 || epoch < 0 || sequence < 0 || queue_producer_find(q, id) != NULL)
            return ERR_CORRUPT;
        queue_producer_note(q, id, epoch, sequence);
    }
    return 0;
}

int queue_checkpoint_decode(struct queue *q, struct slice in)
{
    struct reader r = reader_of(in);
    struct ackmap m;
    uint64_t end, reserve, bytes, live, chunks, first = 0, last = 0;
    const uint8_t *magic = reader_take(&r, 4);
    uint32_t crc = reader_be32(&r);
    uint8_t version;
    int err = 0;

    if (r.bad || memcmp(magic, "GMQC", 4) != 0 || crc32c(0, r.p, reader_left(&r)) != crc)
        return ERR_CORRUPT;
    version = reader_u8(&r);
    if (version < 1 || version > CHECKPOINT_VERSION)
        return ERR_LEVEL;
    if (reader_be64(&r) != q->spec.id)
        return ERR_FOREIGN;
    end = reader_uvarint(&r);
    reserve = reader_uvarint(&r);
    bytes = reader_uvarint(&r);
    live = reader_uvarint(&r);
    chunks = reader_uvarint(&r);
    if (r.bad || end > INT64_MAX >> 17 || reserve > INT64_MAX >> 8 || live > end)
        return ERR_CORRUPT;
    ackmap_init(&m, 0);
    for (uint64_t i = 0; i < chunks && err == 0; i++) {
        uint64_t gap = reader_uvarint(&r);

        if (r.bad || (i > 0 && gap == 0) || gap > end || (last + gap) > end / ACKMAP_CHUNK) {
            err = ERR_CORRUPT;
            break;
        }
        last += gap;
        first = i == 0 ? last : first;
        if (last - first > SPAN_MAX) {
            err = ERR_CORRUPT;
            break;
        }
        err = decode_chunk(&m, (int64_t)last, &r, (int64_t)end);
    }
    q->producer_count = 0;
    if (err == 0 && version >= 2)
        err = decode_producers(q, &r);
    if (err == 0 && (r.bad || reader_left(&r) != 0 || m.live != live))
        err = ERR_CORRUPT;
    if (err != 0) {
        ackmap_fini(&m);
        return err;
    }
    ackmap_add_hole(&m, (int64_t)end);
    ackmap_fini(&q->acks);
    q->acks = m;
    q->reserve_logged = (int64_t)reserve;
    q->ready_bytes = bytes == 0 ? 0 : bytes - 1;
    q->bytes_inexact = bytes == 0;
    return 0;
}

/* S of an encoded checkpoint, -1 when it is none. */
static int64_t end_of(struct slice in)
{
    struct reader r = reader_of(in);
    uint64_t end;

    reader_take(&r, 4 + 4 + 1 + 8);
    end = reader_uvarint(&r);
    return r.bad || end > INT64_MAX ? -1 : (int64_t)end;
}

static int load(struct queue *q, const char *name, struct buf *out)
{
    char *path = path_of(q, name);
    int err;

    buf_clear(out);
    err = access(path, F_OK) != 0 ? ERR_NOT_FOUND : file_read(path, CHECKPOINT_MAX, out);
    mem_free(path);
    return err;
}

int queue_checkpoint_load(struct queue *q, bool *ret_found)
{
    struct buf clean = {0}, durable = {0};
    int64_t end = log_end(q->log);
    int err_durable = load(q, "checkpoint", &durable);
    int err_clean = load(q, "checkpoint.clean", &clean);
    int err = 0;

    *ret_found = false;
    if (err_clean == 0 && end_of(buf_slice(&clean)) <= end &&
        (err_durable != 0 || end_of(buf_slice(&clean)) >= end_of(buf_slice(&durable))) &&
        queue_checkpoint_decode(q, buf_slice(&clean)) == 0) {
        *ret_found = true;
    } else if (err_durable == 0) {
        err = queue_checkpoint_decode(q, buf_slice(&durable));
        *ret_found = err == 0;
        if (err != 0)
            diag_error("a queue's checkpoint cannot be read", "queue=%llu dir=%s error=\"%s\"",
                       (unsigned long long)q->spec.id, log_dir(q->log), err_text(err));
    } else if (err_durable != ERR_NOT_FOUND) {
        err = err_durable;
    }
    buf_fini(&clean);
    buf_fini(&durable);
    return err;
}

static char *file_path(const char *data_dir, uint32_t partition, uint64_t queue_id, const char *suffix)
{
    return mem_printf("%s/p-%04u/queue/%016llx/checkpoint%s", data_dir, partition, (unsigned long long)queue_id, suffix);
}

/* S of a file that reads whole, -1: none. */
static int64_t covered_by(const char *path)
{
    struct buf bytes = {0};
    int64_t end = -1;

    if (access(path, F_OK) == 0 && file_read(path, CHECKPOINT_MAX, &bytes) == 0 && bytes.len > 8 && memcmp(bytes.data, "GMQC", 4) == 0 &&
        crc32c(0, bytes.data + 8, bytes.len - 8) == be32_get(bytes.data + 4))
        end = end_of(buf_slice(&bytes));
    buf_fini(&bytes);
    return end;
}

int64_t queue_checkpoint_covers(const char *data_dir, uint32_t partition, uint64_t queue_id)
{
    char *path = file_path(data_dir, partition, queue_id, "");
    int64_t end = covered_by(path);

    mem_free(path);
    return end;
}

int queue_checkpoint_cut(const char *data_dir, uint32_t partition, uint64_t queue_id, int64_t end, bool *ret_gone)
{
    static const char *const suffixes[] = {".clean", ""};
    char *dir = mem_printf("%s/p-%04u/queue/%016llx", data_dir, partition, (unsigned long long)queue_id);
    int err = 0;

    *ret_gone = false;
    for (unsigned i = 0; i < ARRAY_LEN(suffixes) && err == 0; i++) {
        char *path = file_path(data_dir, partition, queue_id, suffixes[i]);

        if (covered_by(path) > end) {
            err = unlink(path) == 0 ? 0 : err_from_errno(errno);
            *ret_gone = true;
        }
        mem_free(path);
    }
    if (err == 0 && *ret_gone)
        err = file_sync_dir(dir);
    mem_free(dir);
    return err;
}

int64_t *queue_checkpoint_dead(struct queue *q, size_t *ret_n)
{
    struct log_segment_info *segments = mem_calloc(SEGMENTS_MAX, sizeof(*segments));
    size_t n = MIN_OF(log_segments(q->log, segments, SEGMENTS_MAX), (size_t)SEGMENTS_MAX);
    int64_t *dead = mem_calloc(n + 1, sizeof(*dead));

    *ret_n = 0;
    for (size_t i = 0; i < n; i++)
        if (!segments[i].active && segments[i].next <= q->acks.end && ackmap_count_live(&q->acks, segments[i].base, segments[i].next) == 0)
            dead[(*ret_n)++] = segments[i].base;
    mem_free(segments);
    return dead;
}

unsigned queue_checkpoint_drop_dead(struct log *log, const char *data_dir, uint32_t partition, uint64_t queue_id)
{
    char *path = file_path(data_dir, partition, queue_id, "");
    struct queue q = {.spec.id = queue_id, .log = log}; /* only what decoding fills in */
    struct buf bytes = {0};
    unsigned dropped = 0;

    ackmap_init(&q.acks, 0);
    if (access(path, F_OK) == 0 && file_read(path, CHECKPOINT_MAX, &bytes) == 0 && queue_checkpoint_decode(&q, buf_slice(&bytes)) == 0) {
        size_t n;
        int64_t *dead = queue_checkpoint_dead(&q, &n);

        for (size_t i = 0; i < n; i++)
            dropped += log_drop_segment(log, dead[i]) == 0;
        mem_free(dead);
    }
    ackmap_fini(&q.acks);
    mem_free(q.producers);
    buf_fini(&bytes);
    mem_free(path);
    return dropped;
}

/* Replaced without syncing: what a power cut makes of it is found out when it is read. */
static int replace_unsynced(const char *path, struct slice bytes)
{
    char *tmp = mem_printf("%s.tmp", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    int err = fd < 0 ? err_from_errno(errno) : file_pwrite_all(fd, bytes.data, bytes.len, 0);

    if (fd >= 0 && close(fd) < 0 && err == 0)
        err = err_from_errno(errno);
    if (err == 0 && rename(tmp, path) < 0)
        err = err_from_errno(errno);
    if (err != 0 && fd >= 0)
        unlink(tmp);
    mem_free(tmp);
    return err;
}

int queue_checkpoint_put(struct queue *q, struct slice bytes, int64_t end, bool durable)
{
    char *path = path_of(q, durable ? "checkpoint" : "checkpoint.clean"), *clean = path_of(q, "checkpoint.clean");
    int err = 0;

    /* One with a greater S would be believed instead. */
    if (durable && covered_by(clean) > end && unlink(clean) != 0)
        err = err_from_errno(errno);
    if (err == 0)
        err = durable ? file_replace(path, bytes.data, bytes.len) : replace_unsynced(path, bytes);
    mem_free(path);
    mem_free(clean);
    return err;
}

int queue_checkpoint_write(struct queue *q, bool durable)
{
    struct buf out = {0};
    int err;

    queue_checkpoint_encode(q, &out);
    err = queue_checkpoint_put(q, buf_slice(&out), q->acks.end, durable);
    buf_fini(&out);
    return err;
}

int queue_checkpoint_write_clean(struct queue *q)
{
    int err;

    /* What is not committed may be cut off and written differently, and nobody would notice that the checkpoint is of another log. */
    if (log_end(q->log) == 0 || q->checkpoint_end == log_end(q->log) || log_hw(q->log) < log_end(q->log))
        return 0;
    /* Nobody holds a delivery any more: what was passed may have been delivered, in this run or before; what
     * lies ahead surely not. */
    q->reserve_logged = queue_reserve_exact(q);
    err = queue_checkpoint_write(q, false);
    if (err != 0)
        diag_warn("a queue's checkpoint was not written; its log will be replayed", "dir=%s", log_dir(q->log));
    return err;
}

struct queue_checkpoint_job {
    struct queue_job job;
    struct queue_table *table;
    uint64_t queue_id;
    int64_t end;
    int64_t start; /* the first live offset at `end`, or `end` */
    struct buf bytes;
    char *path;
    int64_t *drop; /* bases of segments without a live message at `end` */
    size_t drop_count;
    bool submitted;
    _Atomic bool forgotten; /* this node does not lead any more, or the queue is gone: the file is others' business now */
    int err;
};

static void job_free(struct queue_checkpoint_job *j)
{
    buf_fini(&j->bytes);
    mem_free(j->path);
    mem_free(j->drop);
    mem_free(j);
}

static void job_run(struct queue_job *job)
{
    struct queue_checkpoint_job *j = CONTAINER_OF(job, struct queue_checkpoint_job, job);

    mutex_lock(&j->table->files_mutex);
    j->err = atomic_load(&j->forgotten) ? ERR_CANCELLED : file_replace(j->path, j->bytes.data, j->bytes.len);
    mutex_unlock(&j->table->files_mutex);
}

static void job_done(struct queue_job *job)
{
    struct queue_checkpoint_job *j = CONTAINER_OF(job, struct queue_checkpoint_job, job);
    struct queue *q = queue_find(j->table, j->queue_id);

    j->table->jobs--;
    if (q != NULL && q->checkpoint == j) {
        q->checkpoint = NULL;
        if (j->err == 0) {
            q->checkpoint_end = j->end;
            log_advance_start(q->log, j->start);
            for (size_t i = 0; i < j->drop_count; i++)
                log_drop_segment(q->log, j->drop[i]); /* gone already: as well */
        } else {
            diag_warn("a queue's checkpoint failed; it will be tried again", "path=%s error=\"%s\"", j->path,
                      err_text(j->err));
        }
    }
    job_free(j);
}

void queue_checkpoint_forget(struct queue *q)
{
    struct queue_checkpoint_job *j = q->checkpoint;

    q->checkpoint = NULL;
    q->warm = NULL;
    if (j != NULL && !j->submitted)
        job_free(j);
    else if (j != NULL)
        atomic_store(&j->forgotten, true);
}

static struct queue_checkpoint_job *job_new(struct queue *q)
{
    struct queue_checkpoint_job *j = mem_zalloc(sizeof(*j));

    j->job.run = job_run;
    j->job.done = job_done;
    j->table = q->table;
    j->queue_id = q->spec.id;
    j->end = log_end(q->log);
    j->path = path_of(q, "checkpoint");
    j->start = MIN_OF(ackmap_next_live(&q->acks, q->acks.origin), j->end);
    queue_checkpoint_encode(q, &j->bytes);
    j->drop = queue_checkpoint_dead(q, &j->drop_count);
    return j;
}

/* When replaying would take long, or when about as much could be given back; an empty queue keeps little. */
bool queue_checkpoint_due(const struct queue *q)
{
    uint64_t limit = q->table->options.checkpoint_bytes;

    if (!q->on_disk || q->bytes_since == 0)
        return false;
    return q->bytes_since >= limit || q->settled_since * q->average_size >= limit ||
           (q->acks.live == 0 && log_bytes(q->log) >= limit / 2);
}

void queue_checkpoint_tick(struct queue *q)
{
    struct queue_table *t = q->table;
    struct queue_checkpoint_job *j;

    if (!q->on_disk || q->failed != 0)
        return;
    if (q->checkpoint == NULL && queue_checkpoint_due(q)) {
        if (queue_flush(q) != 0 || q->pending != NULL)
            return;
        q->checkpoint = job_new(q);
        q->bytes_since = q->settled_since = 0;
    }
    j = q->checkpoint;
    if (j != NULL && !j->submitted &&
        (t->options.commit_at_end || log_store_never_syncs(t->options.store) || log_durable(q->log) >= j->end) && log_hw(q->log) >= j->end) { /* rule 7: S <= HW */
        j->submitted = true;
        queue_submit(t, &j->job);
    }
}

void queue_drop_settled(struct queue *q)
{
    int64_t start = ackmap_next_live(&q->acks, q->acks.origin);

    start = MIN_OF(start, log_end(q->log));
    if (start > log_start(q->log))
        log_advance_start(q->log, start);
}
