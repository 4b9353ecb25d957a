/* The ledger: one small file a node with the names, sync marks and segment lists of all its logs. Every sync round appends one frame and syncs it
 * (rule 4); a clean stop writes it anew with the clean mark, so that the next start opens no log at all (P19). One file instead of one a partition,
 * because a round must cost one small sync, not one a partition.
 *
 *   frame:  length of the payload be32 (0: end), CRC32C of the payload be32, payload = entries
 *   entry:  kind u8, then (v: zigzag varint, u: uvarint)
 *     1 HEAD    u version, cluster id 16, boot id 16, u8 clean, u next number          first frame only
 *     2 LOG     u number, u8 kind, u log id, lslice dir, v start, v mark offset, v mark segment, u mark position, v epoch, v last timestamp, u8 verdict,
 *               v tail_from, v tail_next, u n, n x segment
 *     3 NAME    u number, u8 kind, u log id, lslice dir
 *     4 MARK    u number, v offset, v segment, u position, v epoch, v last timestamp
 *     5 SEAL    u number, segment
 *     6 DROP    u number, v base, v next
 *     7 START   u number, v start
 *     8 DELETE  u number
 *     9 CUT     u number, v offset, v segment, u position                              segment -1: nothing is left
 *    10 EPOCHS  u number, u n, n x (v epoch, v first offset)                           the whole list, ascending
 *    11 HW      u number, v high watermark                                            of a replicated log, behind its MARK or LOG
 *   segment:    v from, v base, v next, u bytes, v max timestamp, u8 flags, CRC be32
 *
 * Zeros are written ahead, so that a frame's sync changes no metadata of the file. A frame that does not check out ends the ledger when only zeros or a torn write follow
 * (it was never acknowledged); the first frame, which is written whole before it is renamed into place, must be good. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/private.h"

#define LEDGER_VERSION 3 /* of level 2. 1 had no EPOCHS: its logs have one epoch each; 2 had no HW: its logs begin with none */
#define LEDGER_AHEAD (256u * 1024)
#define LEDGER_LOW (128u * 1024)
#define LEDGER_GROWTH (1024u * 1024) /* rewritten when it grew by this much and by its own size */
#define LEDGER_MAX (1024u << 20)

enum { L_HEAD = 1, L_LOG, L_NAME, L_MARK, L_SEAL, L_DROP, L_START, L_DELETE, L_CUT, L_EPOCHS, L_HW };

static unsigned ledger_version(const struct log_store *s)
{
    return __atomic_load_n(&s->level, __ATOMIC_RELAXED) < 2 ? 1 : LEDGER_VERSION;
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */

static void put_segment(struct buf *b, const struct segment *seg)
{
    buf_put_varint(b, seg->from);
    buf_put_varint(b, seg->base);
    buf_put_varint(b, seg->next);
    buf_put_uvarint(b, seg->bytes);
    buf_put_varint(b, seg->max_ts);
    buf_put_u8(b, (uint8_t)(seg->flags & (SEG_SEALED | SEG_SUMMED)));
    buf_put_be32(b, seg->crc);
}

static void put_entry(struct buf *b, uint8_t kind, const struct log *l)
{
    CHECK(l->number != 0);
    buf_put_u8(b, kind);
    buf_put_uvarint(b, l->number);
}

static void put_name(struct buf *b, const struct log *l)
{
    buf_put_u8(b, l->kind);
    buf_put_uvarint(b, l->log_id);
    buf_put_lslice(b, slice_str(l->dir));
}

void ledger_put_name(struct buf *b, const struct log *l)
{
    put_entry(b, L_NAME, l);
    put_name(b, l);
}

void ledger_put_mark(struct buf *b, const struct log *l, int64_t off, int64_t seg, uint64_t pos)
{
    put_entry(b, L_MARK, l);
    buf_put_varint(b, off);
    buf_put_varint(b, seg);
    buf_put_uvarint(b, pos);
    buf_put_varint(b, ALOADX(&l->epoch));
    buf_put_varint(b, ALOADX(&l->last_ts));
}

void ledger_put_seal(struct buf *b, const struct log *l, const struct segment *seg)
{
    put_entry(b, L_SEAL, l);
    put_segment(b, seg);
}

void ledger_put_drop(struct buf *b, const struct log *l, int64_t base, int64_t next)
{
    put_entry(b, L_DROP, l);
    buf_put_varint(b, base);
    buf_put_varint(b, next);
}

void ledger_put_start(struct buf *b, const struct log *l, int64_t start)
{
    put_entry(b, L_START, l);
    buf_put_varint(b, start);
}

void ledger_put_delete(struct buf *b, const struct log *l)
{
    put_entry(b, L_DELETE, l);
}

void ledger_put_cut(struct buf *b, const struct log *l, int64_t off, int64_t seg, uint64_t pos)
{
    put_entry(b, L_CUT, l);
    buf_put_varint(b, off);
    buf_put_varint(b, seg);
    buf_put_uvarint(b, pos);
}

void ledger_put_epochs(struct buf *b, const struct log *l)
{
    uint32_t n = epochs_count(l);

    if (ledger_version(l->store) < 2)
        return; /* rule 10; there are no followers and no second epochs below level 2 */
    put_entry(b, L_EPOCHS, l);
    buf_put_uvarint(b, n);
    for (uint32_t i = 0; i < n; i++) {
        struct epoch_entry e = epochs_at(l, i);

        buf_put_varint(b, e.epoch);
        buf_put_varint(b, e.start);
    }
}

void ledger_put_hw(struct buf *b, const struct log *l, int64_t end)
{
    if (ledger_version(l->store) < 3)
        return; /* rule 10 */
    put_entry(b, L_HW, l);
    buf_put_varint(b, MIN_OF(ALOAD(&l->hw), end));
}

static void put_log(struct buf *b, struct log *l, bool clean)
{
    uint32_t listed = clean ? SEG_SEALED : SEG_LISTED; /* a clean stop need not wait for a checksum that failed */
    struct segment *last;
    uint32_t n = 0;

    mutex_lock(log_stripe(l));
    last = seg_active(l);
    put_entry(b, L_LOG, l);
    put_name(b, l);
    buf_put_varint(b, ALOAD(&l->start));
    buf_put_varint(b, l->mark_off);
    buf_put_varint(b, l->mark_seg);
    buf_put_uvarint(b, l->mark_pos);
    buf_put_varint(b, ALOADX(&l->epoch));
    buf_put_varint(b, ALOADX(&l->last_ts));
    buf_put_u8(b, ALOAD(&l->ready) && ALOAD(&l->failed) == 0 ? VERDICT_CLEAN : l->verdict);
    if (last != NULL && !(last->flags & SEG_SEALED) && last->from != last->base) {
        buf_put_varint(b, last->from);
        buf_put_varint(b, last->base);
    } else {
        buf_put_varint(b, l->tail_from);
        buf_put_varint(b, l->tail_next);
    }
    for (uint32_t i = 0; i < l->seg_count; i++)
        n += (seg_at(l, i)->flags & listed) != 0;
    buf_put_uvarint(b, n);
    for (uint32_t i = 0; i < l->seg_count; i++) {
        if (seg_at(l, i)->flags & listed)
            put_segment(b, seg_at(l, i));
    }
    if (epochs_count(l) > 0)
        ledger_put_epochs(b, l);
    if (ALOAD(&l->hw) > 0)
        ledger_put_hw(b, l, l->mark_off);
    mutex_unlock(log_stripe(l));
}

static void frame_close(struct buf *b, size_t at)
{
    size_t n = b->len - at - 8;

    CHECK(n <= LEDGER_MAX);
    be32_put(b->data + at, (uint32_t)n);
    be32_put(b->data + at + 4, crc32c(0, b->data + at + 8, n));
}

static int open_file(struct log_store *s, uint64_t pos, uint64_t size)
{
    int fd = openat(s->dirfd, "ledger", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return err_from_errno(errno);
    if (s->ledger_fd >= 0)
        close(s->ledger_fd);
    s->ledger_fd = fd;
    s->ledger_pos = s->ledger_base = pos;
    s->ledger_size = size;
    return 0;
}

/* Under ledger_mutex, or before there are threads. */
static int write_snapshot(struct log_store *s, bool clean)
{
    struct buf b = {0};
    char *path = mem_printf("%s/ledger", s->data_dir);
    unsigned version = ledger_version(s);
    size_t pos;
    int err;

    buf_put_be64(&b, 0);
    buf_put_u8(&b, L_HEAD);
    buf_put_uvarint(&b, version);
    buf_put(&b, s->opt.cluster_id, 16);
    buf_put(&b, s->boot_id, 16);
    buf_put_u8(&b, clean);
    mutex_lock(&s->table_mutex);
    mutex_lock(&s->mutex);
    buf_put_uvarint(&b, s->next_number);
    mutex_unlock(&s->mutex);
    for (uint32_t i = 0; i < s->table_size; i++) {
        for (struct log *l = s->table[i]; l != NULL; l = l->table_next) {
            if (l->number != 0)
                put_log(&b, l, clean);
        }
    }
    mutex_unlock(&s->table_mutex);
    frame_close(&b, 0);
    pos = b.len;
    if (!clean) {
        memset(buf_reserve(&b, LEDGER_AHEAD), 0, LEDGER_AHEAD);
        buf_advance(&b, LEDGER_AHEAD);
    }
    err = file_replace(path, b.data, b.len);
    if (err == 0 && !clean)
        err = open_file(s, pos, b.len);
    if (err == 0)
        s->ledger_written_as = version;
    buf_fini(&b);
    mem_free(path);
    return err;
}

int ledger_snapshot(struct log_store *s, bool clean)
{
    int err;

    mutex_lock(&s->ledger_mutex);
    err = write_snapshot(s, clean);
    mutex_unlock(&s->ledger_mutex);
    return err;
}

int ledger_start(struct log_store *s)
{
    return ledger_snapshot(s, false);
}

/* Zeros from the end of the file to LEDGER_AHEAD behind `pos`. */
static int zeros_ahead(struct log_store *s, uint64_t pos)
{
    static const uint8_t zeros[32 * 1024];

    while (s->ledger_size < pos + LEDGER_AHEAD) {
        int err = file_pwrite_all(s->ledger_fd, zeros, sizeof(zeros), s->ledger_size);

        if (err != 0)
            return err;
        s->ledger_size += sizeof(zeros);
    }
    return 0;
}

int ledger_append(struct log_store *s, const struct buf *entries)
{
    struct buf b = {0};
    bool written;
    int err = 0;

    if (entries->len == 0)
        return 0;
    mutex_lock(&s->ledger_mutex);
    buf_put_be64(&b, 0);
    buf_put_slice(&b, buf_slice(entries));
    frame_close(&b, 0);
    if (s->ledger_pos + b.len + LEDGER_LOW > s->ledger_size)
        err = zeros_ahead(s, s->ledger_pos + b.len);
    /* A full disk: what was written ahead still serves for a while. */
    if (err == ERR_NOSPACE && s->ledger_pos + b.len + 8 <= s->ledger_size)
        err = 0;
    if (err == 0)
        err = file_pwrite_all(s->ledger_fd, b.data, b.len, s->ledger_pos);
    if (err == 0 && fdatasync(s->ledger_fd) < 0)
        err = err_from_errno(errno);
    written = err == 0;
    if (written)
        s->ledger_pos += b.len;
    if (err == 0 && s->ledger_pos - s->ledger_base > LEDGER_GROWTH + s->ledger_base)
        err = write_snapshot(s, false);
    if (err == ERR_NOSPACE && written) /* no room to rewrite it: it goes on growing */
        err = 0;
    mutex_unlock(&s->ledger_mutex);
    buf_fini(&b);
    return err;
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */

struct loading {
    struct log_store *s;
    struct log **by_number; /* open addressing; GONE where one was deleted */
    uint32_t cap, used;
    bool no_cluster; /* written before the node was in a cluster: it has no logs then */
    bool clean;
    uint64_t version;
    uint8_t boot_id[16];
};

#define GONE ((struct log *)1)

static struct log **number_slot(struct loading *ld, uint64_t number)
{
    for (uint64_t at = number * 0x9e3779b97f4a7c15ull >> 20;; at++) {
        struct log **slot = &ld->by_number[at & (ld->cap - 1)];

        if (*slot == NULL || (*slot != GONE && (*slot)->number == number))
            return slot;
    }
}

static struct log *by_number(struct loading *ld, uint64_t number)
{
    return ld->cap == 0 ? NULL : *number_slot(ld, number);
}

static void number_add(struct loading *ld, struct log *l)
{
    if (ld->used + 1 > ld->cap / 2) {
        struct log **old = ld->by_number;
        uint32_t n = ld->cap;

        ld->cap = n == 0 ? 64 : n * 2;
        ld->used = 0;
        ld->by_number = mem_calloc(ld->cap, sizeof(*ld->by_number));
        for (uint32_t i = 0; i < n; i++) {
            if (old[i] != NULL && old[i] != GONE) {
                *number_slot(ld, old[i]->number) = old[i];
                ld->used++;
            }
        }
        mem_free(old);
    }
    *number_slot(ld, l->number) = l;
    ld->used++;
}

static void number_remove(struct loading *ld, struct log *l)
{
    *number_slot(ld, l->number) = GONE;
}

static int read_segment(struct reader *r, struct segment *seg)
{
    *seg = (struct segment){0};
    seg->from = reader_varint(r);
    seg->base = reader_varint(r);
    seg->next = reader_varint(r);
    seg->bytes = reader_uvarint(r);
    seg->max_ts = reader_varint(r);
    seg->flags = (reader_u8(r) & (SEG_SEALED | SEG_SUMMED)) | SEG_LISTED;
    seg->crc = reader_be32(r);
    return r->bad || seg->base < 0 || seg->next < seg->base || seg->from > seg->base ? ERR_CORRUPT : 0;
}

static int add_log(struct loading *ld, struct reader *r, uint64_t number, struct log **ret)
{
    unsigned kind = reader_u8(r);
    uint64_t id = reader_uvarint(r);
    struct slice dir = reader_lslice(r);
    struct log *l;
    char *name;

    if (r->bad || dir.len == 0 || dir.len > 300 || number == 0 || number == UINT64_MAX || by_number(ld, number) != NULL)
        return ERR_CORRUPT;
    name = mem_strdup_slice(dir);
    l = log_table_find(ld->s, name);
    if (l != NULL) { /* deleted and made anew; the DELETE came later in the same round's frame than the NAME */
        number_remove(ld, l);
        log_table_remove(ld->s, l);
    }
    l = log_alloc(ld->s, name);
    mem_free(name);
    l->kind = (uint8_t)kind;
    l->log_id = id;
    l->number = number;
    l->created = true;
    log_table_add(ld->s, l);
    log_unref(l);
    number_add(ld, l);
    *ret = l;
    return 0;
}

/* A log made while the ledger was written anew is in that already, and its name came with the next round. */
static int skip_name(const struct log *l, struct reader *r)
{
    unsigned kind = reader_u8(r);
    uint64_t id = reader_uvarint(r);
    struct slice dir = reader_lslice(r);

    return !r->bad && kind == l->kind && id == l->log_id && slice_eq(dir, slice_str(l->dir)) ? 0 : ERR_CORRUPT;
}

static void push_segment(struct log *l, const struct segment *seg)
{
    struct segment *at;

    if (l->seg_count > 0 && seg_active(l)->base >= seg->base) {
        int i = segment_find(l, seg->base); /* sealed again with its checksum */

        if (i >= 0 && seg_at(l, (uint32_t)i)->base == seg->base)
            *seg_at(l, (uint32_t)i) = *seg;
        return;
    }
    at = segment_push(l, seg->base);
    *at = *seg;
}

static int read_log(struct loading *ld, struct reader *r, uint64_t number)
{
    struct segment seg;
    struct log *l;
    uint64_t n;
    int err = add_log(ld, r, number, &l);
    int64_t tail_from, tail_next;

    if (err != 0)
        return err;
    l->start = reader_varint(r);
    l->mark_off = reader_varint(r);
    l->mark_seg = reader_varint(r);
    l->mark_pos = reader_uvarint(r);
    l->epoch = (int32_t)reader_varint(r);
    l->last_ts = reader_varint(r);
    l->verdict = reader_u8(r);
    tail_from = reader_varint(r);
    tail_next = reader_varint(r);
    n = reader_uvarint(r);
    for (uint64_t i = 0; i < n && !r->bad; i++) {
        if (read_segment(r, &seg) != 0)
            return ERR_CORRUPT;
        push_segment(l, &seg);
    }
    l->tail_from = tail_from;
    l->tail_next = tail_next;
    return r->bad || l->verdict > VERDICT_CUT ? ERR_CORRUPT : 0;
}

static void replay_drop(struct log *l, int64_t base, int64_t next)
{
    int i = segment_find(l, base);
    int64_t from = base;

    if (i >= 0 && seg_at(l, (uint32_t)i)->base == base) {
        from = seg_at(l, (uint32_t)i)->from;
        segment_remove(l, (uint32_t)i);
    } else {
        i++;
    }
    if ((uint32_t)i < l->seg_count) {
        seg_at(l, (uint32_t)i)->from = MIN_OF(from, seg_at(l, (uint32_t)i)->from);
    } else {
        l->tail_from = from;
        l->tail_next = next;
    }
}

static int read_epochs(struct log *l, struct reader *r)
{
    uint64_t n = reader_uvarint(r);
    int64_t last_epoch = -1, last_start = -1;

    if (l != NULL)
        epochs_clear(l);
    for (uint64_t i = 0; i < n && !r->bad; i++) {
        int64_t epoch = reader_varint(r), start = reader_varint(r);

        if (r->bad || epoch <= last_epoch || start <= last_start || epoch > INT32_MAX)
            return ERR_CORRUPT;
        if (l != NULL)
            epochs_note(l, (int32_t)epoch, start);
        last_epoch = epoch;
        last_start = start;
    }
    return r->bad ? ERR_CORRUPT : 0;
}

static int read_entry(struct loading *ld, struct reader *r)
{
    unsigned kind = reader_u8(r);
    uint64_t number;
    struct segment seg;
    struct log *l = NULL;

    if (kind == L_HEAD)
        return ERR_CORRUPT;
    number = reader_uvarint(r);
    if (kind == L_LOG)
        return read_log(ld, r, number);
    l = by_number(ld, number);
    if (kind == L_NAME)
        return l != NULL ? skip_name(l, r) : add_log(ld, r, number, &l);
    switch (kind) {
    case L_MARK:
    case L_CUT: {
        int64_t off = reader_varint(r), base = reader_varint(r);
        uint64_t pos = reader_uvarint(r);
        int64_t epoch = kind == L_MARK ? reader_varint(r) : 0, ts = kind == L_MARK ? reader_varint(r) : 0;

        if (r->bad || l == NULL)
            break;
        l->mark_off = off;
        l->mark_seg = base;
        l->mark_pos = pos;
        if (kind == L_MARK) {
            l->verdict = VERDICT_CLEAN;
            l->epoch = (int32_t)epoch;
            l->last_ts = ts;
            break;
        }
        l->hw = MIN_OF(l->hw, off);
        while (l->seg_count > 0 && seg_active(l)->base >= base)
            segment_remove(l, l->seg_count - 1);
        if (ld->version == 1) /* later ones say it themselves */
            l->start = MIN_OF(l->start, off);
        if (l->tail_next > base)
            l->tail_from = l->tail_next = -1;
        break;
    }
    case L_EPOCHS:
        return read_epochs(l, r);
    case L_HW: {
        int64_t hw = reader_varint(r);

        if (l != NULL && !r->bad)
            l->hw = hw;
        break;
    }
    case L_SEAL:
        if (read_segment(r, &seg) != 0)
            return ERR_CORRUPT;
        if (l != NULL)
            push_segment(l, &seg);
        break;
    case L_DROP: {
        int64_t base = reader_varint(r), next = reader_varint(r);

        if (l != NULL && !r->bad)
            replay_drop(l, base, next);
        break;
    }
    case L_START: {
        int64_t start = reader_varint(r);

        if (l != NULL && !r->bad)
            l->start = start;
        break;
    }
    case L_DELETE:
        if (l != NULL) {
            number_remove(ld, l);
            log_table_remove(ld->s, l);
        }
        break;
    default:
        return ERR_LEVEL;
    }
    return r->bad ? ERR_CORRUPT : 0;
}

static int read_head(struct loading *ld, struct reader *r)
{
    static const uint8_t none[16];
    const uint8_t *cluster, *boot;
    uint64_t version;

    if (reader_u8(r) != L_HEAD)
        return ERR_CORRUPT;
    ld->version = version = reader_uvarint(r);
    if (r->bad)
        return ERR_CORRUPT;
    if (version > LEDGER_VERSION)
        return ERR_LEVEL;
    cluster = reader_take(r, 16);
    boot = reader_take(r, 16);
    ld->clean = reader_u8(r) != 0;
    ld->s->next_number = reader_uvarint(r);
    if (r->bad)
        return ERR_CORRUPT;
    memcpy(ld->boot_id, boot, 16);
    ld->no_cluster = memcmp(cluster, none, 16) == 0 && memcmp(cluster, ld->s->opt.cluster_id, 16) != 0;
    return memcmp(cluster, ld->s->opt.cluster_id, 16) == 0 || ld->no_cluster ? 0 : ERR_FOREIGN;
}

static int read_frames(struct loading *ld, const struct buf *file)
{
    size_t at = 0;

    while (at + 8 <= file->len) {
        uint32_t n = be32_get(file->data + at), crc = be32_get(file->data + at + 4);
        struct reader r;
        int err = 0;

        if (n == 0)
            break;
        if (n > file->len - at - 8 || crc32c(0, file->data + at + 8, n) != crc) {
            if (at == 0)
                return ERR_CORRUPT;
            diag_warn("the ledger ends in a torn frame; it was never acknowledged", "position=%zu", at);
            return 0;
        }
        r = reader_of(slice_of(file->data + at + 8, n));
        if (at == 0)
            err = read_head(ld, &r);
        while (err == 0 && reader_left(&r) > 0)
            err = read_entry(ld, &r);
        if (err != 0)
            return err;
        if (at != 0)
            ld->clean = false;
        at += 8 + n;
    }
    return at == 0 ? ERR_CORRUPT : 0;
}

/* What the ledger says becomes the state of its logs: with the clean mark, they end at their marks and need no look at their files. */
static void settle(struct loading *ld, enum log_verdict verdict)
{
    struct log_store *s = ld->s;

    for (uint32_t i = 0; i < s->table_size; i++) {
        for (struct log *l = s->table[i]; l != NULL; l = l->table_next) {
            if (verdict > l->verdict)
                l->verdict = (uint8_t)verdict;
            s->next_number = MAX_OF(s->next_number, l->number + 1);
            l->durable = MAX_OF(l->mark_off, 0);
            l->end = l->durable;
            if (ld->version == 1 && l->end > l->start)
                epochs_note(l, l->epoch, l->start);
            if (l->verdict != VERDICT_CLEAN) {
                l->ready = false;
                continue;
            }
            (void)epochs_cut(l, l->end); /* written, then cut off again */
            for (uint32_t k = 0; k < l->seg_count; k++)
                l->sealed_bytes += seg_at(l, k)->bytes;
            if (l->mark_seg >= 0) {
                segment_push(l, l->mark_seg);
                l->pos = l->mark_pos;
                l->index_pos = (uint32_t)l->pos;
                l->seg_max_ts = l->last_ts;
            }
        }
    }
}

int ledger_open(struct log_store *s)
{
    struct loading ld = {.s = s};
    struct buf file = {0};
    char *path = mem_printf("%s/ledger", s->data_dir);
    int err = file_read(path, LEDGER_MAX, &file);

    s->verdict = VERDICT_SCAN;
    if (err == ERR_NOT_FOUND || (err != 0 && errno == ENOENT)) {
        err = 0;
        goto done;
    }
    s->had_ledger = true;
    if (err == 0)
        err = read_frames(&ld, &file);
    if (err == 0 && ld.no_cluster && s->next_number > 1)
        err = ERR_FOREIGN;
    if (err == ERR_CORRUPT)
        diag_error("the ledger of the logs is damaged", "path=\"%s\" hint=\"moved away, all logs are scanned instead\"", path);
    if (err != 0)
        goto done;
    if (!ld.clean)
        s->verdict = memcmp(ld.boot_id, s->boot_id, 16) == 0 ? VERDICT_SCAN : VERDICT_CUT;
    settle(&ld, ld.clean ? VERDICT_CLEAN : s->verdict);
    diag_info("logs", "logs=%u stopped=%s", s->table_count,
              ld.clean ? "cleanly" : s->verdict == VERDICT_SCAN ? "killed" : "power-lost");
done:
    mem_free(ld.by_number);
    buf_fini(&file);
    mem_free(path);
    return err;
}

void log_store_set_level(struct log_store *s, uint32_t level)
{
    if (level <= __atomic_load_n(&s->level, __ATOMIC_RELAXED))
        return;
    mutex_lock(&s->ledger_mutex);
    __atomic_store_n(&s->level, level, __ATOMIC_RELAXED);
    if (s->ledger_fd >= 0 && s->ledger_written_as < ledger_version(s) && write_snapshot(s, false) != 0)
        diag_warn("the ledger could not be written anew for the new feature level; it will be when it has grown", "path=\"%s/ledger\"", s->data_dir);
    mutex_unlock(&s->ledger_mutex);
}
