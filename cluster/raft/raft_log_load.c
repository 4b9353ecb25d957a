/* Opening the Raft log: the newest snapshot, the log, the vote; telling a torn tail from damage. */
#include "cluster/raft/raft_log_private.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"

#define SECTOR 512u

void raft_log_loaded_fini(struct raft_log_loaded *l)
{
    buf_fini(&l->log_file);
    buf_fini(&l->snapshot_file);
    mem_free(l->entries);
    *l = (struct raft_log_loaded){0};
}

/* The highest number among the files "prefix<number>"; false when there is none. */
static bool newest(const char *dir, const char *prefix, uint64_t *ret)
{
    DIR *d = opendir(dir);
    size_t n = strlen(prefix);
    struct dirent *e;
    bool found = false;

    if (d == NULL)
        return false;
    while ((e = readdir(d)) != NULL) {
        char *end;
        uint64_t v;

        if (strncmp(e->d_name, prefix, n) != 0 || e->d_name[n] == '\0')
            continue;
        v = strtoull(e->d_name + n, &end, 10);
        if (*end == '\0' && (!found || v > *ret)) {
            *ret = v;
            found = true;
        }
    }
    closedir(d);
    return found;
}

/* ---- the snapshot ------------------------------------------------------------------------------------------------------ */

static int read_snapshot(const struct buf *b, struct raft_snapshot *s, struct slice *ret_payload)
{
    const uint8_t *p = b->data;
    uint32_t config;

    if (b->len >= SNAPSHOT_HEAD_01 && memcmp(p, SNAPSHOT_MAGIC_01, 8) == 0) {
        s->crc = be32_get(p + 24);
        *ret_payload = slice_of(p + SNAPSHOT_HEAD_01, b->len - SNAPSHOT_HEAD_01);
    } else {
        if (b->len < SNAPSHOT_HEAD || memcmp(p, SNAPSHOT_MAGIC, 8) != 0)
            return ERR_CORRUPT;
        config = be32_get(p + 36);
        if (config > b->len - SNAPSHOT_HEAD || be64_get(p + 24) != b->len - SNAPSHOT_HEAD - config ||
            be32_get(p + 40) != crc32c(crc32c(0, p, SNAPSHOT_HEAD - 4), p + SNAPSHOT_HEAD, config))
            return ERR_CORRUPT;
        s->crc = be32_get(p + 32);
        s->config = slice_of(p + SNAPSHOT_HEAD, config);
        *ret_payload = slice_of(p + SNAPSHOT_HEAD + config, b->len - SNAPSHOT_HEAD - config);
    }
    s->index = be64_get(p + 8);
    s->term = be64_get(p + 16);
    s->size = ret_payload->len;
    return s->crc == crc32c(0, ret_payload->data, ret_payload->len) ? 0 : ERR_CORRUPT;
}

static int load_snapshot(struct raft_log *l, struct raft_log_loaded *out)
{
    struct raft_snapshot *s = &out->rec.snapshot;
    uint64_t index = 0;
    char *path;
    int err;

    if (!newest(l->dir, "snapshot-", &index))
        return 0;
    path = mem_printf("%s/snapshot-%llu", l->dir, (unsigned long long)index);
    err = file_read(path, FILE_MAX, &out->snapshot_file);
    if (err == 0)
        err = read_snapshot(&out->snapshot_file, s, &out->snapshot_payload);
    if (err == 0 && s->index != index)
        err = ERR_CORRUPT;
    if (err == 0)
        err = raft_log_open_snapshot(l, index, (uint64_t)(out->snapshot_payload.data - out->snapshot_file.data), s->size);
    if (err < 0)
        diag_error("the Raft snapshot cannot be read", "file=%s err=\"%s\"", path, err_text(err));
    mem_free(path);
    return err;
}

/* ---- entries of the present format ---------------------------------------------------------------------------------------- */

static bool head_ok(const uint8_t *p, size_t left)
{
    return left >= ENTRY_HEAD && be32_get(p) == crc32c(0, p + 4, ENTRY_HEAD - 4) && be32_get(p + 4) <= RAFT_ENTRY_MAX;
}

/* The length of a whole, valid entry at p, 0 when there is none. */
static size_t entry_at(const uint8_t *p, size_t left)
{
    uint32_t len;

    if (!head_ok(p, left))
        return 0;
    len = be32_get(p + 4);
    if (len > left - ENTRY_HEAD || be32_get(p + 32) != crc32c(0, p + ENTRY_HEAD, len))
        return 0;
    return ENTRY_HEAD + len;
}

/* Was a batch begun behind `at`? Then what stands there had been synced. */
static bool later_batch(const struct buf *b, size_t at)
{
    for (size_t i = at + 1; i + ENTRY_HEAD <= b->len; i++) {
        if (head_ok(b->data + i, b->len - i) && i - MIN_OF(i, (size_t)be32_get(b->data + i + 28)) > at)
            return true;
    }
    return false;
}

/* Is there a sector between these bytes that was never written? A few zeros prove nothing. */
static bool has_unwritten_sector(const struct buf *b, size_t from, size_t to)
{
    for (size_t i = from; i < to;) {
        size_t end = MIN_OF((i / SECTOR + 1) * SECTOR, b->len), zeros = 0;

        while (i + zeros < end && b->data[i + zeros] == 0)
            zeros++;
        if (i + zeros == end && zeros >= 4)
            return true;
        i = end;
    }
    return false;
}

static bool is_torn(const struct buf *b, size_t at)
{
    size_t left = b->len - at, end = at + ENTRY_HEAD;

    if (later_batch(b, at))
        return false;
    if (left < ENTRY_HEAD)
        return true;
    if (head_ok(b->data + at, left)) {
        if (be32_get(b->data + at + 4) > left - ENTRY_HEAD)
            return true;
        end += be32_get(b->data + at + 4);
    }
    return has_unwritten_sector(b, at, end);
}

static void take_entry(struct raft_log *l, struct raft_log_loaded *out, size_t *cap, const struct raft_entry *e, size_t at)
{
    if (out->rec.entry_count == *cap) {
        *cap = *cap == 0 ? 64 : 2 * *cap;
        out->entries = mem_realloc(out->entries, *cap * sizeof(*out->entries));
    }
    out->entries[out->rec.entry_count++] = *e;
    raft_log_note(l, at, e->term);
}

/* Returns where the last good entry ends. */
static int read_entries(struct raft_log *l, struct raft_log_loaded *out, size_t *ret_end)
{
    const struct buf *b = &out->log_file;
    size_t at = HEAD_SIZE, n, cap = 0;

    while ((n = entry_at(b->data + at, b->len - at)) != 0) {
        const uint8_t *p = b->data + at;
        struct raft_entry e = {.term = be64_get(p + 16), .data = p + ENTRY_HEAD, .len = be32_get(p + 4), .kind = (uint8_t)be32_get(p + 24)};

        *ret_end = at;
        if (be64_get(p + 8) != l->last + 1 || e.term < l->last_term || be32_get(p + 24) > RAFT_ENTRY_CONFIG)
            return ERR_CORRUPT;
        take_entry(l, out, &cap, &e, at);
        at += n;
    }
    *ret_end = at;
    return at < b->len && !is_torn(b, at) ? ERR_CORRUPT : 0;
}

/* ---- entries of format 01 --------------------------------------------------------------------------------------------------- */

static size_t entry_at_01(const uint8_t *p, size_t left)
{
    uint32_t len;

    if (left < ENTRY_HEAD_01)
        return 0;
    len = be32_get(p);
    if (len > RAFT_ENTRY_MAX || len > left - ENTRY_HEAD_01 || be32_get(p + 4) != crc32c(0, p + 8, 16 + (size_t)len))
        return 0;
    return ENTRY_HEAD_01 + len;
}

static bool anything_behind_01(const uint8_t *p, size_t left, uint64_t above)
{
    for (size_t i = 1; i + ENTRY_HEAD_01 <= left; i++) {
        uint64_t index = be64_get(p + i + 8);

        if (index > above && index - above < 1u << 20 && entry_at_01(p + i, left - i) != 0)
            return true;
    }
    return false;
}

/* Reads a file of format 01 and leaves in its place one of the present format. */
static int upgrade(struct raft_log_loaded *out, const char *path)
{
    const struct buf *b = &out->log_file;
    struct buf new = {0};
    size_t at = HEAD_SIZE_01, n;
    uint64_t index = be64_get(b->data + 8), term = be64_get(b->data + 16);
    int err = 0;

    raft_log_encode_head(&new, index, term);
    while ((n = entry_at_01(b->data + at, b->len - at)) != 0) {
        const uint8_t *p = b->data + at;
        struct raft_entry e = {.term = be64_get(p + 16), .data = p + ENTRY_HEAD_01, .len = be32_get(p), .kind = RAFT_ENTRY_COMMAND};

        if (be64_get(p + 8) != ++index || e.term < term) {
            err = ERR_CORRUPT;
            break;
        }
        term = e.term;
        raft_log_encode_entry(&new, index, &e, (uint32_t)MIN_OF(new.len - HEAD_SIZE, (size_t)UINT32_MAX));
        at += n;
    }
    if (err == 0 && at < b->len && anything_behind_01(b->data + at, b->len - at, index))
        err = ERR_CORRUPT;
    if (err == 0)
        err = file_replace(path, new.data, new.len);
    if (err == 0) {
        buf_fini(&out->log_file);
        out->log_file = new;
        diag_info("the Raft log was rewritten in the present format", "file=%s entries=%llu", path,
                  (unsigned long long)(index - be64_get(new.data + 8)));
    } else {
        buf_fini(&new);
    }
    return err;
}

/* ---- the log ------------------------------------------------------------------------------------------------------------------ */

static int read_head(struct raft_log *l, struct raft_log_loaded *out, const char *path, uint64_t base)
{
    struct buf *b = &out->log_file;
    int err = file_read(path, FILE_MAX, b);

    if (err == 0 && b->len >= HEAD_SIZE_01 && memcmp(b->data, LOG_MAGIC_01, 8) == 0)
        err = be64_get(b->data + 8) == base ? upgrade(out, path) : ERR_CORRUPT;
    if (err < 0)
        return err;
    if (b->len < HEAD_SIZE || memcmp(b->data, LOG_MAGIC, 8) != 0 || be64_get(b->data + 8) != base || be32_get(b->data + 24) != crc32c(0, b->data, 24))
        return ERR_CORRUPT;
    l->base = l->last = base;
    l->base_term = l->last_term = be64_get(b->data + 16);
    return 0;
}

static int cut_tail(struct raft_log *l, struct raft_log_loaded *out, size_t end)
{
    if (end < out->log_file.len) {
        diag_warn("the Raft log had a torn tail", "dir=%s cut_bytes=%zu index=%llu", l->dir, out->log_file.len - end, (unsigned long long)l->last);
        if (ftruncate(l->fd, (off_t)end) < 0 || fdatasync(l->fd) < 0)
            return err_from_errno(errno);
    }
    l->file_end = end;
    return 0;
}

static int load_log(struct raft_log *l, struct raft_log_loaded *out, uint64_t base)
{
    char *path = mem_printf("%s/log-%llu", l->dir, (unsigned long long)base);
    const struct raft_snapshot *s = &out->rec.snapshot;
    size_t end = 0;
    int err = read_head(l, out, path, base);

    if (err == 0)
        err = read_entries(l, out, &end);
    if (err == 0 && base > s->index)
        err = ERR_CORRUPT;
    if (err == 0 && (l->fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
        err = err_from_errno(errno);
    if (err == 0)
        err = cut_tail(l, out, end);
    if (err < 0)
        diag_error("the Raft log cannot be read", "file=%s at=%zu err=\"%s\"", path, end, err_text(err));
    mem_free(path);
    return err;
}

static bool log_holds(const struct raft_log *l, const struct raft_snapshot *s)
{
    if (s->index == l->base)
        return s->term == l->base_term;
    return s->index > l->base && s->index <= l->last && l->positions[s->index - l->base - 1].term == s->term;
}

static bool is_format_01(const struct raft_log *l, uint64_t base)
{
    char *path = mem_printf("%s/log-%llu", l->dir, (unsigned long long)base), magic[8] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    mem_free(path);
    if (fd < 0)
        return false;
    (void)file_pread_all(fd, magic, 8, 0);
    close(fd);
    return memcmp(magic, LOG_MAGIC_01, 8) == 0;
}

static int load_files(struct raft_log *l, struct raft_log_loaded *out)
{
    const struct raft_snapshot *s = &out->rec.snapshot;
    uint64_t base;
    bool exists = newest(l->dir, "log-", &base);
    int err = load_snapshot(l, out);

    if (err < 0)
        return err;
    /* The vote is there before the log, so that a log without one has lost it. */
    err = raft_vote_load(l, &out->rec, exists && !is_format_01(l, base));
    if (err < 0) {
        diag_error("the Raft vote cannot be read", "dir=%s err=\"%s\"", l->dir, err_text(err));
        return err;
    }
    if (!exists) {
        if (s->index != 0) {
            diag_error("the Raft log is missing beside its snapshot", "dir=%s", l->dir);
            return ERR_CORRUPT;
        }
        return raft_log_create(l, 0, 0);
    }
    err = load_log(l, out, base);
    if (err == 0 && !log_holds(l, s)) {
        /* A received snapshot had become durable, the log behind it had not been begun. */
        out->rec.entry_count = 0;
        err = raft_log_create(l, s->index, s->term);
    }
    if (err == 0) {
        raft_log_remove_others(l->dir, "log-", l->base);
        if (s->index != 0)
            raft_log_remove_others(l->dir, "snapshot-", s->index);
    }
    return err;
}

int raft_log_load(const char *dir, struct raft_log **ret, struct raft_log_loaded *out)
{
    struct raft_log *l = mem_zalloc(sizeof(*l));
    int err;

    *out = (struct raft_log_loaded){0};
    l->dir = mem_strdup(dir);
    l->fd = l->vote_fd = l->snapshot.fd = l->former.fd = -1;
    mutex_init(&l->lock);
    err = file_make_dirs(dir);
    if (err == 0)
        err = load_files(l, out);
    if (err < 0) {
        raft_log_close(l);
        raft_log_loaded_fini(out);
        return err;
    }
    out->rec.base = l->base;
    out->rec.base_term = l->base_term;
    out->rec.entries = out->entries;
    *ret = l;
    return 0;
}
