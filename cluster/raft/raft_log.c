/* Writing the Raft log: entries, votes, snapshots. */
#include "cluster/raft/raft_log_private.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"

void raft_log_encode_head(struct buf *out, uint64_t base, uint64_t base_term)
{
    size_t at = out->len;

    buf_put(out, LOG_MAGIC, 8);
    buf_put_be64(out, base);
    buf_put_be64(out, base_term);
    buf_put_be32(out, crc32c(0, out->data + at, 24));
}

void raft_log_encode_entry(struct buf *out, uint64_t index, const struct raft_entry *e, uint32_t back)
{
    size_t at = out->len;

    buf_put_be32(out, 0);
    buf_put_be32(out, e->len);
    buf_put_be64(out, index);
    buf_put_be64(out, e->term);
    buf_put_be32(out, e->kind);
    buf_put_be32(out, back);
    buf_put_be32(out, crc32c(0, e->data, e->len));
    be32_put(out->data + at, crc32c(0, out->data + at + 4, ENTRY_HEAD - 4));
    buf_put(out, e->data, e->len);
}

int raft_log_fail(struct raft_log *l, int err, const char *what)
{
    /* What reached the disk is unknown; going on could acknowledge what a restart would not find. */
    l->failed = err;
    diag_error("the Raft log failed", "dir=%s at=%s err=\"%s\"", l->dir, what, err_text(err));
    return err;
}

void raft_log_remove_others(const char *dir, const char *prefix, uint64_t keep)
{
    DIR *d = opendir(dir);
    size_t n = strlen(prefix);
    struct dirent *e;

    if (d == NULL)
        return;
    while ((e = readdir(d)) != NULL) {
        char *end;

        /* Other numbers, and what a crash left half written. */
        if (strncmp(e->d_name, prefix, n) == 0 && (strtoull(e->d_name + n, &end, 10) != keep || *end != '\0'))
            unlinkat(dirfd(d), e->d_name, 0);
    }
    closedir(d);
}

/* ---- entries -------------------------------------------------------------------------------------------------------- */

void raft_log_note(struct raft_log *l, uint64_t at, uint64_t term)
{
    size_t i = (size_t)(l->last - l->base);

    if (i == l->position_cap) {
        l->position_cap = i == 0 ? 64 : 2 * i;
        l->positions = mem_realloc(l->positions, l->position_cap * sizeof(*l->positions));
    }
    l->positions[i] = (struct position){at, term};
    l->last++;
    l->last_term = term;
}

void raft_log_add(struct raft_log *l, const struct raft_entry *e)
{
    CHECK(e->len <= RAFT_ENTRY_MAX && e->term >= l->last_term);
    raft_log_note(l, l->file_end + l->pending.len, e->term);
    raft_log_encode_entry(&l->pending, l->last, e, (uint32_t)l->pending.len);
}

static void drop_from(struct raft_log *l, uint64_t from)
{
    l->last = from - 1;
    l->last_term = l->last == l->base ? l->base_term : l->positions[l->last - l->base - 1].term;
}

void raft_log_forget(struct raft_log *l)
{
    while (l->last > l->base && l->positions[l->last - l->base - 1].at >= l->file_end)
        drop_from(l, l->last);
    buf_clear(&l->pending);
}

int raft_log_flush(struct raft_log *l)
{
    int err;

    if (l->failed != 0)
        return l->failed;
    if (l->pending.len == 0)
        return 0;
    err = file_pwrite_all(l->fd, l->pending.data, l->pending.len, l->file_end);
    if (err == ERR_NOSPACE && ftruncate(l->fd, (off_t)l->file_end) == 0)
        return err; /* the file is as before */
    if (err == 0 && fdatasync(l->fd) < 0)
        err = err_from_errno(errno);
    if (err < 0)
        return raft_log_fail(l, err == ERR_NOSPACE ? ERR_IO : err, "write");
    l->file_end += l->pending.len;
    if (l->pending.cap > 1u << 20)
        buf_fini(&l->pending);
    buf_clear(&l->pending);
    return 0;
}

int raft_log_truncate(struct raft_log *l, uint64_t from)
{
    uint64_t at;

    if (l->failed != 0)
        return l->failed;
    CHECK(from > l->base && from <= l->last + 1);
    if (from == l->last + 1)
        return 0;
    at = l->positions[from - l->base - 1].at;
    drop_from(l, from);
    if (at >= l->file_end) {
        l->pending.len = (size_t)(at - l->file_end);
        return 0;
    }
    buf_clear(&l->pending);
    /* Durable before anything is written there: else a crash could leave new entries with the rest of old ones behind them. */
    if (ftruncate(l->fd, (off_t)at) < 0 || fdatasync(l->fd) < 0)
        return raft_log_fail(l, err_from_errno(errno), "truncate");
    l->file_end = at;
    return 0;
}

int raft_log_create(struct raft_log *l, uint64_t base, uint64_t base_term)
{
    struct buf head = {0};
    char *path = mem_printf("%s/log-%llu", l->dir, (unsigned long long)base);
    int fd = -1, err;

    raft_log_encode_head(&head, base, base_term);
    err = file_replace(path, head.data, head.len);
    if (err == 0 && (fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
        err = err_from_errno(errno);
    if (err == 0) {
        if (l->fd >= 0)
            close(l->fd);
        l->fd = fd;
        l->base = l->last = base;
        l->base_term = l->last_term = base_term;
        l->file_end = HEAD_SIZE;
        buf_clear(&l->pending);
    }
    buf_fini(&head);
    mem_free(path);
    return err;
}

/* ---- snapshots ------------------------------------------------------------------------------------------------------- */

static char *snapshot_path(const struct raft_log *l, uint64_t index)
{
    return mem_printf("%s/snapshot-%llu", l->dir, (unsigned long long)index);
}

/* The one before stays open, though its name goes, for whoever is still being sent it. */
int raft_log_open_snapshot(struct raft_log *l, uint64_t index, uint64_t payload_at, uint64_t size)
{
    char *path = snapshot_path(l, index);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    mem_free(path);
    if (fd < 0)
        return err_from_errno(errno);
    mutex_lock(&l->lock);
    if (l->former.fd >= 0)
        close(l->former.fd);
    l->former = l->snapshot;
    l->snapshot = (struct snapshot_file){index, payload_at, size, fd};
    mutex_unlock(&l->lock);
    return 0;
}

static int write_snapshot(struct raft_log *l, const struct raft_snapshot *s, struct slice payload)
{
    struct buf b = {0};
    char *path = snapshot_path(l, s->index);
    int err;

    buf_reserve(&b, SNAPSHOT_HEAD + s->config.len + payload.len);
    buf_put(&b, SNAPSHOT_MAGIC, 8);
    buf_put_be64(&b, s->index);
    buf_put_be64(&b, s->term);
    buf_put_be64(&b, payload.len);
    buf_put_be32(&b, s->crc);
    buf_put_be32(&b, (uint32_t)s->config.len);
    buf_put_be32(&b, crc32c(crc32c(0, b.data, SNAPSHOT_HEAD - 4), s->config.data, s->config.len));
    buf_put_slice(&b, s->config);
    buf_put_slice(&b, payload);
    err = file_replace(path, b.data, b.len);
    if (err == 0)
        err = raft_log_open_snapshot(l, s->index, SNAPSHOT_HEAD + s->config.len, payload.len);
    buf_fini(&b);
    mem_free(path);
    return err;
}

/* The entry before the first that stays. */
static uint64_t keep_behind(const struct raft_log *l, uint64_t index)
{
    uint64_t end = index == l->last ? l->file_end : l->positions[index - l->base].at, base = index;

    while (base > l->base && index - base < RAFT_KEEP_ENTRIES && end - l->positions[base - l->base - 1].at <= RAFT_KEEP_BYTES)
        base--;
    return base;
}

/* A new file with the entries behind base. */
static int cut_front(struct raft_log *l, uint64_t base)
{
    size_t gone = (size_t)(base - l->base);
    uint64_t from = base == l->last ? l->file_end : l->positions[gone].at, term = l->positions[gone - 1].term;
    size_t n = (size_t)(l->file_end - from);
    struct buf b = {0};
    char *path = mem_printf("%s/log-%llu", l->dir, (unsigned long long)base);
    int fd = -1, err;

    raft_log_encode_head(&b, base, term);
    buf_reserve(&b, n);
    err = file_pread_all(l->fd, b.data + b.len, n, from);
    buf_advance(&b, n);
    if (err == 0)
        err = file_replace(path, b.data, b.len);
    if (err == 0 && (fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
        err = err_from_errno(errno);
    if (err == 0) {
        close(l->fd);
        l->fd = fd;
        l->file_end = b.len;
        memmove(l->positions, l->positions + gone, (size_t)(l->last - base) * sizeof(*l->positions));
        for (size_t i = 0; i < (size_t)(l->last - base); i++)
            l->positions[i].at -= from - HEAD_SIZE;
        l->base = base;
        l->base_term = term;
    }
    buf_fini(&b);
    mem_free(path);
    return err;
}

int raft_log_save(struct raft_log *l, const struct raft_snapshot *s, struct slice payload, uint64_t *ret_first)
{
    uint64_t base;
    int err;

    if (l->failed != 0)
        return l->failed;
    CHECK(l->pending.len == 0 && s->index >= l->base && s->index <= l->last);
    err = write_snapshot(l, s, payload);
    if (err == 0 && (base = keep_behind(l, s->index)) > l->base)
        err = cut_front(l, base);
    if (err == ERR_NOSPACE)
        return err; /* an old snapshot and a longer log are as good */
    if (err < 0)
        return raft_log_fail(l, err, "snapshot");
    raft_log_remove_others(l->dir, "log-", l->base);
    raft_log_remove_others(l->dir, "snapshot-", s->index);
    *ret_first = l->base + 1;
    return 0;
}

int raft_log_install(struct raft_log *l, const struct raft_snapshot *s, struct slice payload)
{
    int err;

    if (l->failed != 0)
        return l->failed;
    raft_log_forget(l);
    err = write_snapshot(l, s, payload);
    if (err == ERR_NOSPACE)
        return err;
    if (err == 0)
        err = raft_log_create(l, s->index, s->term);
    if (err < 0)
        return raft_log_fail(l, err, "install");
    raft_log_remove_others(l->dir, "log-", l->base);
    raft_log_remove_others(l->dir, "snapshot-", s->index);
    return 0;
}

int raft_log_snapshot_read(struct raft_log *l, uint64_t index, uint64_t offset, size_t n, struct buf *out)
{
    const struct snapshot_file *f = &l->snapshot;
    int err = ERR_NOT_FOUND;

    mutex_lock(&l->lock);
    if (f->fd < 0 || f->index != index)
        f = &l->former;
    if (f->fd >= 0 && f->index == index && offset <= f->size && n <= f->size - offset) {
        err = file_pread_all(f->fd, buf_reserve(out, n), n, f->payload_at + offset);
        if (err == 0)
            buf_advance(out, n);
    }
    mutex_unlock(&l->lock);
    return err;
}

void raft_log_close(struct raft_log *l)
{
    if (l == NULL)
        return;
    if (l->fd >= 0)
        close(l->fd);
    if (l->vote_fd >= 0)
        close(l->vote_fd);
    if (l->snapshot.fd >= 0)
        close(l->snapshot.fd);
    if (l->former.fd >= 0)
        close(l->former.fd);
    mutex_fini(&l->lock);
    buf_fini(&l->pending);
    mem_free(l->positions);
    mem_free(l->dir);
    mem_free(l);
}

uint64_t raft_log_last(const struct raft_log *l)
{
    return l->last;
}

uint64_t raft_log_last_term(const struct raft_log *l)
{
    return l->last_term;
}

uint64_t raft_log_file_bytes(const struct raft_log *l)
{
    return l->file_end;
}

const char *raft_log_dir(const struct raft_log *l)
{
    return l->dir;
}
