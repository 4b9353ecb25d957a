/* Writing a snapshot: see snapshot.h.
 *
 * The walk goes over each database's buckets in families (table_visit_family) so that what is there from S to E is seen at least once however the table splits, and copies entries as the effects that
 * make them. What is larger than 64 KiB is only noted in its bucket and copied afterwards in slices, found again by name after each time the lock was given up: if it was replaced meanwhile, everything about
 * it stands in the log behind S, and whatever was copied is corrected by the replay. A single field or member above 64 KiB is pinned instead (pin.c) and copied without the lock.
 *
 * The lock is given up when somebody waits, after 200 us, or when a block is full; encoding is the copying itself, CRC and write happen outside. */
#include "kv/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "kv/state.h"

#define HOLD_US 200
#define SLICE (32u << 10)        /* of a value larger than this, copied in one hold */
#define RESTARTS_MAX 3
#define WRITEBACK (8u << 20)

struct big {
    struct big *next;
    size_t key_len;
    uint8_t key[];
};

struct walk {
    struct kv *kv;
    const struct kv_snapshot_lock *lock;
    int fd;
    int err;                /* of the first write that failed */
    uint64_t pos, written_back;
    struct buf out;         /* blocks, each behind room for its head; the last is being filled */
    size_t block;           /* where that begins */
    struct buf value;       /* of the collection effect being filled */
    uint32_t crc;           /* over the block CRCs */
    uint64_t blocks, keys;
    uint32_t db;
    uint64_t held_since, held_since_cpu;
    struct big *bigs;
    struct kv_snapshot_result *result;
};

/* ---- lock ----------------------------------------------------------------------------------------------------------- */

static void take(struct walk *w)
{
    w->lock->lock(w->lock->arg);
    w->held_since = clock_mono_us();
    w->held_since_cpu = clock_thread_cpu_us();
}

static void give(struct walk *w)
{
    uint64_t held = clock_mono_us() - w->held_since, cpu = clock_thread_cpu_us() - w->held_since_cpu;

    w->lock->unlock(w->lock->arg);
    if (cpu > w->result->hold_cpu_max_us)
        w->result->hold_cpu_max_us = cpu;
    if (held > w->result->hold_max_us)
        w->result->hold_max_us = held;
}

/* ---- file ------------------------------------------------------------------------------------------------------------- */

static void write_bytes(struct walk *w, const void *data, size_t n)
{
    if (w->err == 0)
        w->err = file_pwrite_all(w->fd, data, n, w->pos);
    w->pos += n;
    if (w->err == 0 && w->pos - w->written_back >= WRITEBACK) {
        sync_file_range(w->fd, (off_t)w->written_back, (off_t)(w->pos - w->written_back), SYNC_FILE_RANGE_WRITE);
        w->written_back = w->pos;
    }
}

/* Ends the block being filled and begins another behind it. */
static void close_block(struct walk *w)
{
    size_t n = w->out.len - w->block - SNAPSHOT_BLOCK_HEAD;

    if (n == 0)
        return;
    be32_put(w->out.data + w->block, (uint32_t)n);
    w->block = w->out.len;
    buf_reserve(&w->out, SNAPSHOT_BLOCK_HEAD);
    w->out.len += SNAPSHOT_BLOCK_HEAD;
}

/* Sums and writes all blocks. Never under the lock: a write may wait for the disk. */
static void flush_blocks(struct walk *w)
{
    size_t at = 0;

    close_block(w);
    while (at < w->block) {
        uint8_t *p = w->out.data + at;
        uint32_t n = be32_get(p);

        be32_put(p + 4, crc32c(crc32c(0, p, 4), p + SNAPSHOT_BLOCK_HEAD, n));
        w->crc = crc32c(w->crc, p + 4, 4);
        w->blocks++;
        at += SNAPSHOT_BLOCK_HEAD + n;
    }
    if (at != 0)
        write_bytes(w, w->out.data, at);
    w->block = 0;
    w->out.len = SNAPSHOT_BLOCK_HEAD;
}

static void make_room(struct walk *w, size_t n)
{
    if (w->out.len - w->block - SNAPSHOT_BLOCK_HEAD + n > SNAPSHOT_BLOCK)
        close_block(w);
    buf_reserve(&w->out, n);
}

static void put_effect(struct walk *w, enum effect_kind kind, struct slice name, const struct slice *parts, size_t n)
{
    size_t len = 0;

    for (size_t i = 0; i < n; i++)
        len += parts[i].len;
    make_room(w, 1 + 3 * VARINT_MAX + name.len + len);
    buf_put_u8(&w->out, (uint8_t)kind);
    buf_put_uvarint(&w->out, w->db);
    buf_put_lslice(&w->out, name);
    buf_put_uvarint(&w->out, len);
    for (size_t i = 0; i < n; i++)
        buf_put_slice(&w->out, parts[i]);
}

static void put_value(struct walk *w, enum effect_kind kind, struct slice name)
{
    struct slice v = buf_slice(&w->value);

    put_effect(w, kind, name, &v, 1);
    buf_clear(&w->value);
}

/* True when the lock was given up. Called with it, returns with it. */
static bool pause_walk(struct walk *w, bool always)
{
    bool full = w->out.len > SNAPSHOT_BLOCK / 2;

    if (!always && !full && !w->lock->wanted(w->lock->arg) && clock_mono_us() - w->held_since < HOLD_US)
        return false;
    give(w);
    if (full)
        flush_blocks(w);
    take(w);
    return true;
}

/* ---- entries ------------------------------------------------------------------------------------------------------------ */

static void put_expire(struct walk *w, const struct kv_entry *e, struct slice key)
{
    uint8_t b[VARINT_MAX];
    struct slice v;

    if (!(e->flags & ENTRY_TTL))
        return;
    v = slice_of(b, varint_put(b, entry_expire_at(e)));
    put_effect(w, EFFECT_KV_EXPIRE, key, &v, 1);
}

static void put_string(struct walk *w, const struct kv_entry *e, struct slice key, struct slice bytes)
{
    uint8_t b[VARINT_MAX];
    struct slice parts[2] = {slice_of(b, varint_put(b, entry_expire_at(e))), bytes};

    put_effect(w, EFFECT_KV_STRING_SET, key, parts, 2);
}

static void gather_field(struct slice field, struct slice value, void *arg)
{
    struct walk *w = arg;

    buf_put_lslice(&w->value, field);
    buf_put_lslice(&w->value, value);
}

static void gather_member(struct slice member, void *arg)
{
    buf_put_lslice(&((struct walk *)arg)->value, member);
}

static void note_big(struct walk *w, struct slice key)
{
    struct big *b = mem_alloc(sizeof(*b) + key.len);

    b->next = w->bigs;
    b->key_len = key.len;
    if (key.len != 0)
        memcpy(b->key, key.data, key.len);
    w->bigs = b;
}

static void copy_entry(void *entry, void *arg)
{
    struct walk *w = arg;
    const struct kv_entry *e = entry;
    struct slice key = entry_key(e);

    w->keys++;
    switch (entry_encoding(e)) {
    case ENC_BLOB:
        if (((struct blob *)entry_object(e))->len > SLICE) {
            note_big(w, key);
            break;
        }
        /* fall through */
    case ENC_RAW:
    case ENC_INT:
        put_string(w, e, key, kv_string_bytes(w->kv, e));
        break;
    case ENC_COMPACT:
        if (entry_type(e) == KV_HASH)
            kv_hash_walk(e, gather_field, w);
        else
            kv_set_walk(e, gather_member, w);
        put_value(w, entry_type(e) == KV_HASH ? EFFECT_KV_HASH_SET : EFFECT_KV_SET_ADD, key);
        put_expire(w, e, key);
        break;
    case ENC_TABLE:
    case ENC_LIST:
        note_big(w, key);
        break;
    }
}

/* A long string, in slices. */
static void copy_blob(struct walk *w, struct slice key)
{
    uint64_t at = 0;
    struct kv_ref r;

    for (;; pause_walk(w, false)) {
        struct slice bytes;
        size_t n;

        kv_ref_find(w->kv, w->db, key, &r);
        if (r.e == NULL || entry_type(r.e) != KV_STRING)
            return;
        bytes = kv_string_bytes(w->kv, r.e);
        if (at >= bytes.len && at != 0)
            return;
        n = MIN_OF((size_t)SLICE, bytes.len - (size_t)at);
        if (at == 0) {
            put_string(w, r.e, key, slice_of(bytes.data, n));
        } else {
            uint8_t b[VARINT_MAX];
            struct slice parts[2] = {slice_of(b, uvarint_put(b, at)), slice_of(bytes.data + at, n)};

            put_effect(w, EFFECT_KV_STRING_RANGE, key, parts, 2);
        }
        at += n;
        if (at >= bytes.len)
            return;
    }
}

struct element_walk {
    struct walk *w;
    const struct members *m;
};

static void gather_element(void *element, void *arg)
{
    struct element_walk *g = arg;
    struct slice name, value;

    members_parts(g->m, element, &name, &value);
    if (name.len + value.len > g->w->kv->o.element_copy_max) {
        kv_pin(g->w->kv, element);
        return;
    }
    buf_put_lslice(&g->w->value, name);
    if (g->m->pairs)
        buf_put_lslice(&g->w->value, value);
}

/* Copies the elements that were pinned, one effect each, without the lock. Called with it, returns with it; the key may be gone then. */
static void copy_pinned(struct walk *w, struct slice key, enum effect_kind kind)
{
    bool pairs = kind == EFFECT_KV_HASH_SET;

    give(w);
    for (uint32_t i = 0; i < w->kv->pins_count; i++) {
        struct slice name, value;

        members_element_parts(w->kv->pins[i], pairs, &name, &value);
        gather_member(name, w);
        if (pairs)
            gather_member(value, w);
        put_value(w, kind, key);
        flush_blocks(w);
    }
    buf_fini(&w->value); /* both were as large as they are */
    buf_fini(&w->out);
    buf_reserve(&w->out, SNAPSHOT_BLOCK_HEAD);
    w->out.len = SNAPSHOT_BLOCK_HEAD;
    take(w);
    kv_unpin_all(w->kv);
}

/* A large hash or set, by bucket families. */
static void copy_members(struct walk *w, struct slice key, enum kv_type type)
{
    enum effect_kind kind = type == KV_HASH ? EFFECT_KV_HASH_SET : EFFECT_KV_SET_ADD;
    unsigned level = 0;
    uint32_t v = 0;
    bool begun = false, written;
    struct kv_ref r;

    for (bool again = true; again;) {
        struct element_walk g = {w, NULL};
        uint32_t families;

        kv_ref_find(w->kv, w->db, key, &r);
        if (r.e == NULL || entry_type(r.e) != type || entry_encoding(r.e) != ENC_TABLE)
            return; /* replaced: the log says by what */
        g.m = entry_object(r.e);
        if (v == 0)
            level = g.m->table.level;
        families = UINT32_C(1) << level;
        do {
            table_prefetch_family(&g.m->table, v);
            table_visit_family(&g.m->table, level, v++, gather_element, &g);
        } while (v < families && w->value.len < SLICE && w->kv->pins_count == 0 && !w->lock->wanted(w->lock->arg) &&
                 clock_mono_us() - w->held_since < HOLD_US);
        again = v < families;
        written = w->value.len != 0;
        if (written)
            put_value(w, kind, key);
        if (w->kv->pins_count != 0) {
            copy_pinned(w, key, kind);
            written = true;
            kv_ref_find(w->kv, w->db, key, &r);
            if (r.e == NULL || entry_type(r.e) != type)
                return;
        }
        if (written && !begun)
            put_expire(w, r.e, key); /* now that there is a key to take it */
        begun = begun || written;
        if (again)
            pause_walk(w, false);
    }
}

struct run {
    struct walk *w;
    int64_t next; /* index expected; a gap ends the run */
    uint32_t n;
    bool more;
};

static bool gather_item(int64_t index, struct slice value, void *arg)
{
    struct run *g = arg;

    if (g->n != 0 && index != g->next)
        return false;
    if (g->n != 0 && (g->w->value.len + value.len > SLICE ||
                      (g->n % 16 == 0 && (g->w->lock->wanted(g->w->lock->arg) || clock_mono_us() - g->w->held_since >= HOLD_US))))
        return false;
    if (g->n == 0) {
        buf_put_varint(&g->w->value, index);
    }
    buf_put_lslice(&g->w->value, value);
    g->next = index + 1;
    g->n++;
    return true;
}

static void copy_list(struct walk *w, struct slice key)
{
    int64_t from = -KV_LIST_INDEX_MAX;
    bool begun = false;
    struct kv_ref r;

    for (;; pause_walk(w, false)) {
        struct run g = {w, 0, 0, false};

        kv_ref_find(w->kv, w->db, key, &r);
        if (r.e == NULL || entry_type(r.e) != KV_LIST)
            return;
        list_walk(entry_object(r.e), from, gather_item, &g);
        if (g.n == 0)
            return;
        put_value(w, EFFECT_KV_LIST_PUT, key);
        if (!begun)
            put_expire(w, r.e, key);
        begun = true;
        from = g.next;
        if (from >= list_tail(entry_object(r.e)))
            return;
    }
}

static void copy_big(struct walk *w, struct slice key)
{
    struct kv_ref r;

    kv_ref_find(w->kv, w->db, key, &r);
    if (r.e == NULL)
        return;
    switch (entry_type(r.e)) {
    case KV_STRING:
        copy_blob(w, key);
        break;
    case KV_LIST:
        copy_list(w, key);
        break;
    default:
        if (entry_encoding(r.e) == ENC_TABLE)
            copy_members(w, key, entry_type(r.e));
        break; /* small again, so deleted and made anew behind S: in the log */
    }
}

static void free_bigs(struct walk *w)
{
    while (w->bigs != NULL) {
        struct big *b = w->bigs;

        w->bigs = b->next;
        mem_free(b);
    }
}

/* Under the lock. False: to be begun anew. */
static bool walk_database(struct walk *w)
{
    struct table *t = &w->kv->dbs[w->db].keys;
    unsigned level = t->level;

    if (t->buckets == 0)
        return true;
    for (uint64_t v = 0; v < UINT64_C(1) << level && w->err == 0; v++) {
        table_prefetch_family(t, (uint32_t)v);
        table_visit_family(t, level, (uint32_t)v, copy_entry, w);
        while (w->bigs != NULL) {
            struct big *b = w->bigs;

            copy_big(w, slice_of(b->key, b->key_len));
            w->bigs = b->next;
            mem_free(b);
            pause_walk(w, false);
        }
        pause_walk(w, false);
        if (w->kv->walk_restart)
            return false;
    }
    return true;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------ */

static void write_header(struct walk *w, const uint8_t cluster_id[16], uint32_t partition, int64_t start)
{
    uint8_t h[SNAPSHOT_HEADER] = {0};

    memcpy(h, SNAPSHOT_MAGIC, 8);
    memcpy(h + 8, cluster_id, 16);
    be32_put(h + 24, partition);
    be32_put(h + 28, SNAPSHOT_LEVEL);
    be64_put(h + 32, (uint64_t)start);
    be64_put(h + 40, (uint64_t)clock_wall_ms());
    be32_put(h + 52, crc32c(0, h, 52));
    write_bytes(w, h, sizeof(h));
}

static void write_footer(struct walk *w, int64_t end)
{
    uint8_t f[SNAPSHOT_FOOTER];

    be32_put(f, SNAPSHOT_END);
    be64_put(f + 4, (uint64_t)end);
    be64_put(f + 12, w->keys);
    be64_put(f + 20, w->blocks);
    be32_put(f + 28, w->crc);
    be32_put(f + 32, crc32c(0, f, 32));
    write_bytes(w, f, sizeof(f));
}

/* One attempt. ERR_AGAIN: a change came that needs a new beginning. */
static int walk_once(struct walk *w, const uint8_t cluster_id[16], uint32_t partition)
{
    bool whole = true;

    w->pos = w->written_back = w->blocks = w->keys = 0;
    w->crc = 0;
    w->out.len = SNAPSHOT_BLOCK_HEAD;
    w->block = 0;
    buf_clear(&w->value);
    if (ftruncate(w->fd, 0) != 0)
        return err_from_errno(errno);
    take(w);
    w->kv->walking = true;
    w->kv->walk_restart = false;
    w->result->start = w->lock->log_end(w->lock->arg);
    give(w);
    write_header(w, cluster_id, partition, w->result->start);
    take(w);
    for (w->db = 0; whole && w->err == 0 && w->db < KV_DB_COUNT; w->db++)
        whole = walk_database(w);
    w->result->end = w->lock->log_end(w->lock->arg);
    w->kv->walking = false;
    give(w);
    free_bigs(w);
    if (!whole)
        return ERR_AGAIN;
    flush_blocks(w);
    write_footer(w, w->result->end);
    w->result->keys = w->keys;
    w->result->bytes = w->pos;
    if (w->err == 0 && fdatasync(w->fd) != 0)
        w->err = err_from_errno(errno);
    return w->err;
}

int kv_snapshot_write(struct kv *kv, const struct kv_snapshot_lock *lock, const char *dir, const uint8_t cluster_id[16],
                      uint32_t partition, struct kv_snapshot_result *ret)
{
    struct walk w = {.kv = kv, .lock = lock, .result = ret};
    char *working = mem_printf("%s/snapshot.tmp", dir), *final = NULL;
    int err;

    *ret = (struct kv_snapshot_result){0};
    err = file_make_dirs(dir);
    if (err != 0)
        goto done;
    w.fd = open(working, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (w.fd < 0) {
        err = err_from_errno(errno);
        goto done;
    }
    buf_reserve(&w.out, 2 * SNAPSHOT_BLOCK); /* growing it under the lock is rare then */
    do {
        err = walk_once(&w, cluster_id, partition);
    } while (err == ERR_AGAIN && ++ret->restarts < RESTARTS_MAX);
    close(w.fd);
    buf_fini(&w.out);
    buf_fini(&w.value);
    if (err == 0) {
        final = mem_printf("%s/snapshot-%020lld.tmp", dir, (long long)ret->start);
        if (rename(working, final) != 0)
            err = err_from_errno(errno);
    }
    if (err != 0)
        unlink(working);
done:
    mem_free(final);
    mem_free(working);
    return err;
}

void kv_snapshot_restart(struct kv *kv)
{
    kv->walk_restart = true;
}

bool kv_snapshot_running(const struct kv *kv)
{
    return kv->walking;
}

int kv_snapshot_name(const char *name, int64_t *ret_start)
{
    char *end;
    long long start;

    if (strncmp(name, "snapshot-", 9) != 0 || strlen(name) != 29)
        return ERR_NOT_FOUND;
    errno = 0;
    start = strtoll(name + 9, &end, 10);
    if (errno != 0 || *end != '\0' || start < 0)
        return ERR_NOT_FOUND;
    *ret_start = start;
    return 0;
}

int kv_snapshot_publish(const char *dir, int64_t start)
{
    char *from = mem_printf("%s/snapshot-%020lld.tmp", dir, (long long)start);
    char *to = mem_printf("%s/snapshot-%020lld", dir, (long long)start);
    int err = rename(from, to) == 0 ? 0 : err_from_errno(errno);
    DIR *d;

    if (err == 0)
        err = file_sync_dir(dir);
    /* Only now that the new name is durable may the old ones go. */
    d = err == 0 ? opendir(dir) : NULL;
    if (d != NULL) {
        struct dirent *de;
        int64_t other;

        while ((de = readdir(d)) != NULL)
            if (kv_snapshot_name(de->d_name, &other) == 0 && other < start)
                unlinkat(dirfd(d), de->d_name, 0);
        closedir(d);
    }
    mem_free(from);
    mem_free(to);
    return err;
}

void kv_snapshot_discard(const char *dir, int64_t start)
{
    char *path = mem_printf("%s/snapshot-%020lld.tmp", dir, (long long)start);

    unlink(path);
    mem_free(path);
}
