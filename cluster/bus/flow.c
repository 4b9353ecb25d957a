/* The bytes of a link that is up: the outbox that any thread appends to, bulk messages in chunks, credit.
 *
 *   out        frames of any thread, in order; taken by the worker once a turn and written with everything else of the turn in one write
 *   bulk       messages above CHUNK_MAX of the data channel. A stream (a type's messages, or its replies) sends its bulk messages one after the other; streams with credit take turns, chunk by chunk, while the socket
 *              takes more, so that a small message never waits for more than what the connection holds already. While a stream has a bulk message, its later messages queue behind it: order within a type is kept.
 *   credit     a stream may have STREAM_WINDOW bytes on their way; the receiver gives more as it takes chunks. When it holds more half-assembled messages than it wants to, only the oldest one goes on. */
#include <lz4.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "cluster/bus/private.h"

/* ---- LZ4 ---- */

enum { COMPRESS_MIN = 8 << 10, SAMPLE = 4 << 10 };

static __thread char *scratch; /* of LZ4_compressBound(CHUNK_MAX) + LZ4_HEADER bytes */

/* Packs data into this thread's scratch, with its header, where that saves at least an eighth; a sample decides whether to try. */
static struct slice pack(const struct link *l, struct slice data)
{
    char *to;
    int n;

    if (l->channel != BUS_DATA || l->bus->options.no_compression || data.len < COMPRESS_MIN || data.len > CHUNK_MAX)
        return SLICE_NONE;
    if (scratch == NULL) {
        scratch = mem_alloc((size_t)LZ4_compressBound(CHUNK_MAX) + LZ4_HEADER);
        mem_free_at_thread_exit((void **)&scratch);
    }
    to = scratch + LZ4_HEADER;
    /* From the middle: the beginning of a batch or a message is its most regular part. */
    if (data.len > 4 * SAMPLE && LZ4_compress_default((const char *)data.data + data.len / 2, to, SAMPLE, SAMPLE - SAMPLE / 8) == 0)
        return SLICE_NONE;
    n = LZ4_compress_default((const char *)data.data, to, (int)data.len, (int)(data.len - data.len / 8));
    if (n <= 0)
        return SLICE_NONE;
    be32_put(scratch, (uint32_t)data.len);
    return slice_of(scratch, (size_t)n + LZ4_HEADER);
}

int flow_unpack(struct bus *b, enum bus_channel channel, struct frame *f)
{
    struct slice from = f->payload;
    size_t head = (f->flags & FRAME_CHUNK) != 0 ? CHUNK_HEADER : 0;
    struct buf *to = &b->scratch[channel];
    uint32_t len;

    if (from.len < head + LZ4_HEADER)
        return ERR_MALFORMED;
    len = be32_get(from.data + head);
    if (len > CHUNK_MAX || len == 0)
        return ERR_TOO_LARGE;
    buf_clear(to);
    buf_put(to, from.data, head);
    buf_reserve(to, len);
    if (LZ4_decompress_safe((const char *)from.data + head + LZ4_HEADER, (char *)to->data + head, (int)(from.len - head - LZ4_HEADER), (int)len) != (int)len)
        return ERR_MALFORMED;
    buf_advance(to, len);
    f->payload = buf_slice(to);
    f->flags &= (uint16_t)~FRAME_LZ4;
    return 0;
}

/* ---- any thread: into the outbox ---- */

static struct bulk *bulk_new(uint16_t type, uint16_t flags, uint64_t id, struct slice payload)
{
    struct bulk *k = mem_alloc(sizeof(*k) + payload.len);

    *k = (struct bulk){.type = type, .flags = flags, .id = id, .refs = 1, .len = payload.len};
    if (payload.len != 0)
        memcpy(k->data, payload.data, payload.len);
    return k;
}

static void bulk_unref(void *arg)
{
    struct bulk *k = arg;

    if (--k->refs == 0)
        mem_free(k);
}

static size_t message_max(const struct link *l)
{
    return l->channel == BUS_CONTROL ? CONTROL_FRAME_MAX - FRAME_HEADER : l->bus->options.message_max;
}

/* Under the link's lock. */
static void post_pump(struct link *l)
{
    if (!l->posted) {
        l->posted = true;
        link_ref(l);
        worker_post(l->worker, &l->pump);
    }
}

enum send_result link_queue(struct link *l, uint16_t type, uint16_t flags, uint64_t id, struct slice payload)
{
    unsigned key = stream_key(type, flags);
    bool bulk = !l->loopback && payload.len > CHUNK_MAX && l->channel == BUS_DATA;
    struct slice body = payload, packed = SLICE_NONE;
    uint8_t header[FRAME_HEADER];
    enum send_result result = SEND_OK;
    struct bulk *k = NULL;

    if (payload.len > message_max(l))
        return SEND_TOO_LARGE;
    if (bulk) {
        k = bulk_new(type, flags, id, payload);
    } else {
        if (!l->loopback)
            packed = pack(l, payload);
        if (packed.len != 0)
            body = packed;
        frame_header(header, type, (uint16_t)(flags | (packed.len != 0 ? FRAME_LZ4 : 0)), id, body, SLICE_NONE);
    }
    mutex_lock(&l->lock);
    if (!l->up) {
        result = SEND_DOWN;
    } else if (l->out_bytes > (l->channel == BUS_CONTROL ? CONTROL_OUT_MAX : DATA_OUT_MAX)) {
        result = SEND_FULL;
    } else {
        if (k == NULL && l->bulk_waiting[key] != 0)
            k = bulk_new(type, flags, id, payload);
        if (k != NULL) {
            list_push_back(&l->bulk_new, &k->node);
            l->bulk_waiting[key]++;
            l->out_bytes += k->len;
            k = NULL;
        } else {
            buf_put(&l->out, header, sizeof(header));
            buf_put_slice(&l->out, body);
            l->out_bytes += sizeof(header) + body.len;
        }
        atomic_fetch_add_explicit(&l->frames_out, 1, memory_order_relaxed);
        post_pump(l);
    }
    mutex_unlock(&l->lock);
    mem_free(k);
    return result;
}

/* ---- the worker: out of the outbox ---- */

static struct out_stream *out_stream(struct link *l, unsigned key)
{
    struct out_stream *s = l->out_streams[key];

    if (s == NULL) {
        s = l->out_streams[key] = mem_zalloc(sizeof(*s));
        list_init(&s->bulks);
        s->credit = STREAM_WINDOW;
    }
    return s;
}

static void make_ready(struct link *l, struct out_stream *s)
{
    if (!list_empty(&s->bulks) && s->credit != 0 && !list_linked(&s->ready))
        list_push_back(&l->ready, &s->ready);
}

static void write_chunk(struct link *l, struct bulk *k, size_t n)
{
    uint8_t head[FRAME_HEADER + CHUNK_HEADER];
    struct slice piece = slice_of(k->data + k->sent, n), packed = pack(l, piece);
    uint16_t flags = (uint16_t)(k->flags | FRAME_CHUNK | (packed.len != 0 ? FRAME_LZ4 : 0));

    be32_put(head + FRAME_HEADER, (uint32_t)k->len);
    be32_put(head + FRAME_HEADER + 4, (uint32_t)k->sent);
    frame_header(head, k->type, flags, k->id, slice_of(head + FRAME_HEADER, CHUNK_HEADER), packed.len != 0 ? packed : piece);
    conn_write(l->conn, head, sizeof(head));
    if (packed.len != 0) {
        conn_write(l->conn, packed.data, packed.len);
    } else {
        k->refs++;
        conn_write_ref(l->conn, piece.data, piece.len, bulk_unref, k);
    }
    atomic_fetch_add_explicit(&l->bytes_out, sizeof(head) + (packed.len != 0 ? packed.len : n), memory_order_relaxed);
    k->sent += n;
}

static void bulk_sent(struct link *l, struct bulk *k)
{
    list_remove(&k->node);
    mutex_lock(&l->lock);
    l->bulk_waiting[stream_key(k->type, k->flags)]--;
    l->out_bytes -= k->len;
    mutex_unlock(&l->lock);
    bulk_unref(k);
}

static void send_chunks(struct link *l)
{
    struct list *n;

    while (l->conn != NULL && !conn_closing(l->conn) && !conn_output_full(l->conn) && (n = list_pop_front(&l->ready)) != NULL) {
        struct out_stream *s = LIST_ENTRY(n, struct out_stream, ready);
        struct bulk *k = LIST_ENTRY(s->bulks.next, struct bulk, node);
        size_t piece = MIN_OF(MIN_OF(k->len - k->sent, (size_t)CHUNK_MAX), (size_t)s->credit);

        write_chunk(l, k, piece);
        s->credit -= piece;
        if (k->sent == k->len)
            bulk_sent(l, k);
        make_ready(l, s);
    }
}

static void take_bulks(struct link *l, struct list *fresh)
{
    struct list *n;

    while ((n = list_pop_front(fresh)) != NULL) {
        struct bulk *k = LIST_ENTRY(n, struct bulk, node);
        struct out_stream *s = out_stream(l, stream_key(k->type, k->flags));

        list_push_back(&s->bulks, n);
        make_ready(l, s);
    }
}

struct out_ref {
    struct buf buf;
};

static void out_ref_free(void *arg)
{
    struct out_ref *r = arg;

    buf_fini(&r->buf);
    mem_free(r);
}

/* Little is copied, so that its buffer is used again at once; much is lent to the connection. */
static void write_out(struct link *l)
{
    struct buf *out = &l->spare;

    atomic_fetch_add_explicit(&l->bytes_out, out->len, memory_order_relaxed);
    if (out->len <= 32 << 10) {
        conn_write(l->conn, out->data, out->len);
        buf_clear(out);
    } else {
        struct out_ref *r = mem_alloc(sizeof(*r));

        r->buf = *out;
        *out = (struct buf){0};
        conn_write_ref(l->conn, r->buf.data, r->buf.len, out_ref_free, r);
    }
}

static void dispatch_loopback(struct link *l)
{
    struct buf in = l->spare;
    struct frame f;
    size_t used, pos = 0;

    l->spare = (struct buf){0};
    while (pos < in.len) {
        CHECK(frame_decode(in.data + pos, in.len - pos, SIZE_MAX, &f, &used) == 0);
        pos += used;
        link_dispatch(l, &f);
    }
    if (in.cap <= 64 << 10 && l->spare.data == NULL) {
        buf_clear(&in);
        l->spare = in;
    } else {
        buf_fini(&in);
    }
}

void flow_continue(struct link *l)
{
    struct list fresh;
    struct buf t;

    if (!l->loopback && (l->state != LINK_UP || conn_closing(l->conn) || conn_output_full(l->conn)))
        return; /* `writable` calls again */
    list_init(&fresh);
    mutex_lock(&l->lock);
    t = l->out;
    l->out = l->spare;
    l->spare = t;
    l->out_bytes -= t.len;
    list_splice(&fresh, &l->bulk_new);
    mutex_unlock(&l->lock);
    if (l->spare.len != 0) {
        if (l->loopback)
            dispatch_loopback(l);
        else
            write_out(l);
    }
    if (!list_empty(&fresh))
        take_bulks(l, &fresh);
    if (!list_empty(&l->ready))
        send_chunks(l);
}

void link_pump(struct worker *w, struct mail *m)
{
    struct link *l = CONTAINER_OF(m, struct link, pump);

    (void)w;
    mutex_lock(&l->lock);
    l->posted = false;
    mutex_unlock(&l->lock);
    flow_continue(l);
    link_unref(l);
}

static void free_bulks(struct list *bulks)
{
    struct list *n;

    while ((n = list_pop_front(bulks)) != NULL)
        bulk_unref(LIST_ENTRY(n, struct bulk, node));
}

void flow_reset(struct link *l)
{
    struct list fresh;

    list_init(&fresh);
    mutex_lock(&l->lock);
    buf_clear(&l->out);
    l->out_bytes = 0;
    memset(l->bulk_waiting, 0, sizeof(l->bulk_waiting));
    list_splice(&fresh, &l->bulk_new);
    mutex_unlock(&l->lock);
    free_bulks(&fresh);
    for (unsigned i = 0; i < STREAMS; i++) {
        if (l->out_streams[i] != NULL) {
            free_bulks(&l->out_streams[i]->bulks);
            list_remove(&l->out_streams[i]->ready);
            mem_free(l->out_streams[i]);
            l->out_streams[i] = NULL;
        }
        if (l->in_streams[i] != NULL) {
            buf_fini(&l->in_streams[i]->buf);
            mem_free(l->in_streams[i]);
            l->in_streams[i] = NULL;
        }
    }
    l->assembling = 0;
}

/* ---- receiving ---- */

static void give_credit(struct link *l)
{
    uint64_t oldest = UINT64_MAX;

    for (unsigned i = 0; i < STREAMS; i++) {
        const struct in_stream *s = l->in_streams[i];

        if (s != NULL && s->total != 0)
            oldest = MIN_OF(oldest, s->since);
    }
    for (unsigned i = 0; i < STREAMS; i++) {
        struct in_stream *s = l->in_streams[i];
        uint8_t text[6];

        if (s == NULL || s->owed < CREDIT_STEP)
            continue;
        if (l->assembling > l->bus->options.assembly_max && s->total != 0 && s->since != oldest)
            continue;
        be16_put(text, (uint16_t)i);
        be32_put(text + 2, (uint32_t)s->owed);
        s->owed = 0;
        frame_put(conn_out(l->conn), BUS_CREDIT, 0, 0, slice_of(text, sizeof(text)));
        atomic_fetch_add_explicit(&l->bytes_out, FRAME_HEADER + sizeof(text), memory_order_relaxed);
    }
}

int flow_take_credit(struct link *l, struct slice payload)
{
    struct reader r = reader_of(payload);
    unsigned key = reader_be16(&r);
    uint32_t n = reader_be32(&r);
    struct out_stream *s;

    if (r.bad || reader_left(&r) != 0 || key >= STREAMS || (s = l->out_streams[key]) == NULL || s->credit + n > STREAM_WINDOW)
        return ERR_MALFORMED;
    s->credit += n;
    make_ready(l, s);
    flow_continue(l);
    return 0;
}

static int begin_assembly(struct link *l, struct in_stream *s, const struct frame *f, uint32_t total)
{
    if (total == 0 || total > l->bus->options.message_max)
        return ERR_TOO_LARGE;
    s->total = total;
    s->flags = f->flags;
    s->id = f->id;
    s->since = ++l->assembly_count;
    return 0;
}

static bool deliver_assembly(struct link *l, struct in_stream *s, uint16_t type)
{
    struct buf whole = s->buf;
    struct frame f = {type, (uint16_t)(s->flags & ~FRAME_CHUNK), s->id, buf_slice(&whole)};
    unsigned key = stream_key(type, s->flags);
    bool fine;

    s->buf = (struct buf){0};
    s->total = 0;
    l->assembling -= whole.len;
    fine = link_dispatch(l, &f);
    s = l->in_streams[key]; /* the handler may have ended the link */
    if (s != NULL && s->buf.data == NULL && whole.cap <= ASSEMBLY_KEEP) {
        buf_clear(&whole);
        s->buf = whole;
    } else {
        buf_fini(&whole);
    }
    return fine;
}

int flow_take_chunk(struct link *l, const struct frame *f)
{
    struct reader r = reader_of(f->payload);
    uint32_t total = reader_be32(&r), at = reader_be32(&r);
    struct slice piece = slice_of(r.p, reader_left(&r));
    unsigned key = stream_key(f->type, f->flags);
    struct in_stream *s = l->in_streams[key];
    int err = 0;

    if (r.bad || piece.len == 0 || piece.len > CHUNK_MAX)
        return ERR_MALFORMED;
    if (s == NULL)
        s = l->in_streams[key] = mem_zalloc(sizeof(*s));
    if (s->total == 0)
        err = begin_assembly(l, s, f, total);
    if (err < 0)
        return err;
    if (total != s->total || at != s->buf.len || f->id != s->id || f->flags != s->flags || piece.len > total - at)
        return ERR_MALFORMED;
    buf_put_slice(&s->buf, piece);
    s->owed += piece.len;
    l->assembling += piece.len;
    if (s->buf.len == total && !deliver_assembly(l, s, f->type))
        return ERR_MALFORMED;
    if (l->state == LINK_UP)
        give_credit(l);
    return 0;
}
