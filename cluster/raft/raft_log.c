#include "cluster/raft/raft_log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"

#define LOG_MAGIC "GMRAFT01"
#define SNAPSHOT_MAGIC "GMRSNP01"
#define VOTE_MAGIC "GMVOTE01"
#define HEAD_SIZE 24u
#define ENTRY_HEAD 24u
#define SNAPSHOT_MAX ((size_t)4 << 30)

struct raft_log {
    char *dir; /* owned */
    int fd;
    uint64_t file_end; /* synced bytes */
    uint64_t last, last_term;
    uint64_t synced_last, synced_term;
    struct buf pending; /* appended, not yet written */
    int failed;
};

/* ---- names ------------------------------------------------------------------------------------------------------ */

static bool parse_name(const char *name, const char *prefix, uint64_t *ret)
{
    size_t n = strlen(prefix);
    char *end;

    if (strncmp(name, prefix, n) != 0 || name[n] == '\0')
        return false;
    *ret = strtoull(name + n, &end, 10);
    return *end == '\0';
}

/* The highest number among the files "prefix<number>"; false when there is none. */
static bool newest(const char *dir, const char *prefix, uint64_t *ret)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    bool found = false;
    uint64_t n;

    if (d == NULL)
        return false;
    while ((e = readdir(d)) != NULL) {
        if (parse_name(e->d_name, prefix, &n) && (!found || n > *ret)) {
            *ret = n;
            found = true;
        }
    }
    closedir(d);
    return found;
}

static void remove_others(const char *dir, const char *prefix, uint64_t keep)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    uint64_t n;

    if (d == NULL)
        return;
    while ((e = readdir(d)) != NULL) {
        if (parse_name(e->d_name, prefix, &n) && n != keep)
            unlinkat(dirfd(d), e->d_name, 0);
    }
    closedir(d);
}

/* ---- opening ------------------------------------------------------------------------------------------------------ */

static int load_snapshot(struct raft_log *l, const struct raft_log_handlers *h)
{
    struct buf b = {0};
    uint64_t index = 0;
    char *path;
    int err;

    if (!newest(l->dir, "snapshot-", &index))
        return 0;
    path = mem_printf("%s/snapshot-%llu", l->dir, (unsigned long long)index);
    err = file_read(path, SNAPSHOT_MAX, &b);
    if (err == 0 && (b.len < 28 || memcmp(b.data, SNAPSHOT_MAGIC, 8) != 0 || be64_get(b.data + 8) != index ||
                     be32_get(b.data + 24) != crc32c(0, b.data + 28, b.len - 28)))
        err = ERR_CORRUPT;
    if (err == 0) {
        l->last = index;
        l->last_term = be64_get(b.data + 16);
        err = h->snapshot(h->arg, index, l->last_term, slice_of(b.data + 28, b.len - 28));
    }
    if (err < 0)
        diag_error("the topology's snapshot cannot be read", "file=%s err=\"%s\"", path, err_text(err));
    mem_free(path);
    buf_fini(&b);
    return err;
}

/* The length of a whole, valid entry at p, 0 when there is none. */
static size_t entry_at(const uint8_t *p, size_t left)
{
    uint32_t len;

    if (left < ENTRY_HEAD)
        return 0;
    len = be32_get(p);
    if (len > RAFT_ENTRY_MAX || len > left - ENTRY_HEAD)
        return 0;
    if (be32_get(p + 4) != crc32c(0, p + 8, 16 + (size_t)len))
        return 0;
    return ENTRY_HEAD + len;
}

/* Something valid behind a bad entry means damage, not a torn tail: only the last sync's bytes can be torn. */
static bool anything_behind(const uint8_t *p, size_t left, uint64_t above)
{
    for (size_t i = 1; i + ENTRY_HEAD <= left; i++) {
        uint64_t index = be64_get(p + i + 8);

        if (index > above && index - above < 1u << 20 && entry_at(p + i, left - i) != 0)
            return true;
    }
    return false;
}

static int replay(struct raft_log *l, const struct raft_log_handlers *h, const char *path, uint64_t base)
{
    struct buf b = {0};
    size_t at = HEAD_SIZE, n;
    int err = file_read(path, SNAPSHOT_MAX, &b);

    if (err < 0)
        goto done;
    if (b.len < HEAD_SIZE || memcmp(b.data, LOG_MAGIC, 8) != 0 || be64_get(b.data + 8) != base || base > l->last) {
        err = ERR_CORRUPT;
        goto done;
    }
    if (base == l->last)
        l->last_term = be64_get(b.data + 16);
    uint64_t index = base;
    while ((n = entry_at(b.data + at, b.len - at)) != 0) {
        const uint8_t *p = b.data + at;

        if (be64_get(p + 8) != index + 1 || be64_get(p + 16) < l->last_term) {
            err = ERR_CORRUPT;
            goto done;
        }
        index++;
        /* Entries a newer snapshot already holds are passed over: a crash between snapshot and new log leaves both. */
        if (index > l->last) {
            l->last = index;
            l->last_term = be64_get(p + 16);
            err = h->entry(h->arg, index, l->last_term, slice_of(p + ENTRY_HEAD, n - ENTRY_HEAD));
            if (err < 0)
                goto done;
        }
        at += n;
    }
    if (at < b.len) {
        if (anything_behind(b.data + at, b.len - at, index)) {
            err = ERR_CORRUPT;
            goto done;
        }
        diag_warn("the topology's log had a torn tail", "cut_bytes=%zu index=%llu", b.len - at,
                  (unsigned long long)index);
        if (ftruncate(l->fd, (off_t)at) < 0 || fdatasync(l->fd) < 0) {
            err = err_from_errno(errno);
            goto done;
        }
    }
    l->file_end = at;
done:
    if (err < 0)
        diag_error("the topology's log cannot be read", "file=%s at=%zu err=\"%s\"", path, at, err_text(err));
    buf_fini(&b);
    return err;
}

static int create_file(struct raft_log *l)
{
    uint8_t head[HEAD_SIZE];
    char *path = mem_printf("%s/log-%llu", l->dir, (unsigned long long)l->last);
    int err, fd;

    memcpy(head, LOG_MAGIC, 8);
    be64_put(head + 8, l->last);
    be64_put(head + 16, l->last_term);
    err = file_replace(path, head, sizeof(head));
    if (err < 0)
        goto done;
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        err = err_from_errno(errno);
        goto done;
    }
    if (l->fd >= 0)
        close(l->fd);
    l->fd = fd;
    l->file_end = HEAD_SIZE;
done:
    mem_free(path);
    return err;
}

int raft_log_open(const char *dir, const struct raft_log_handlers *handlers, struct raft_log **ret)
{
    struct raft_log *l = mem_zalloc(sizeof(*l));
    uint64_t base;
    int err;

    l->dir = mem_strdup(dir);
    l->fd = -1;
    err = file_make_dirs(dir);
    if (err == 0)
        err = load_snapshot(l, handlers);
    if (err < 0)
        goto fail;
    if (newest(dir, "log-", &base)) {
        char *path = mem_printf("%s/log-%llu", dir, (unsigned long long)base);

        l->fd = open(path, O_RDWR | O_CLOEXEC);
        err = l->fd < 0 ? err_from_errno(errno) : replay(l, handlers, path, base);
        if (err == 0)
            remove_others(dir, "log-", base);
        mem_free(path);
    } else if (l->last != 0) {
        diag_error("the topology's log is missing beside its snapshot", "dir=%s", dir);
        err = ERR_CORRUPT;
    } else {
        err = create_file(l);
    }
    if (err < 0)
        goto fail;
    l->synced_last = l->last;
    l->synced_term = l->last_term;
    *ret = l;
    return 0;
fail:
    raft_log_close(l);
    return err;
}

void raft_log_close(struct raft_log *l)
{
    if (l == NULL)
        return;
    if (l->fd >= 0)
        close(l->fd);
    buf_fini(&l->pending);
    mem_free(l->dir);
    mem_free(l);
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */

void raft_log_append(struct raft_log *l, uint64_t term, struct slice payload)
{
    size_t at = l->pending.len;

    CHECK(payload.len <= RAFT_ENTRY_MAX && term >= l->last_term);
    l->last++;
    l->last_term = term;
    buf_put_be32(&l->pending, (uint32_t)payload.len);
    buf_put_be32(&l->pending, 0);
    buf_put_be64(&l->pending, l->last);
    buf_put_be64(&l->pending, term);
    buf_put_slice(&l->pending, payload);
    be32_put(l->pending.data + at + 4, crc32c(0, l->pending.data + at + 8, 16 + payload.len));
}

int raft_log_sync(struct raft_log *l)
{
    int err;

    if (l->failed != 0)
        return l->failed;
    if (l->pending.len == 0)
        return 0;
    err = file_pwrite_all(l->fd, l->pending.data, l->pending.len, l->file_end);
    if (err == ERR_NOSPACE && ftruncate(l->fd, (off_t)l->file_end) == 0) {
        /* Nothing was promised and the file is as before: the disk may have room again later. */
        l->last = l->synced_last;
        l->last_term = l->synced_term;
        buf_clear(&l->pending);
        return err;
    }
    if (err == 0 && fdatasync(l->fd) < 0)
        err = err_from_errno(errno);
    if (err < 0) {
        /* What reached the disk is unknown; going on could acknowledge what a restart would not find. */
        l->failed = err;
        diag_error("the topology's log cannot be written", "err=\"%s\"", err_text(err));
        return err;
    }
    l->file_end += l->pending.len;
    l->synced_last = l->last;
    l->synced_term = l->last_term;
    if (l->pending.cap > 1u << 20)
        buf_fini(&l->pending);
    buf_clear(&l->pending);
    return 0;
}

int raft_log_compact(struct raft_log *l, struct slice snapshot)
{
    struct buf b = {0};
    char *path = mem_printf("%s/snapshot-%llu", l->dir, (unsigned long long)l->last);
    int err;

    CHECK(l->pending.len == 0);
    buf_put(&b, SNAPSHOT_MAGIC, 8);
    buf_put_be64(&b, l->last);
    buf_put_be64(&b, l->last_term);
    buf_put_be32(&b, crc32c(0, snapshot.data, snapshot.len));
    buf_put_slice(&b, snapshot);
    err = file_replace(path, b.data, b.len);
    if (err == 0)
        err = create_file(l);
    if (err == 0) {
        remove_others(l->dir, "log-", l->last);
        remove_others(l->dir, "snapshot-", l->last);
    }
    mem_free(path);
    buf_fini(&b);
    return err;
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

/* ---- the vote -------------------------------------------------------------------------------------------------------- */

int raft_vote_save(const char *dir, uint64_t term, uint32_t voted_for)
{
    uint8_t b[24];
    char *path = mem_printf("%s/vote", dir);
    int err;

    memcpy(b, VOTE_MAGIC, 8);
    be64_put(b + 8, term);
    be32_put(b + 16, voted_for);
    be32_put(b + 20, crc32c(0, b, 20));
    err = file_replace(path, b, sizeof(b));
    mem_free(path);
    return err;
}

int raft_vote_load(const char *dir, uint64_t *ret_term, uint32_t *ret_voted_for)
{
    struct buf b = {0};
    char *path = mem_printf("%s/vote", dir);
    int err = file_read(path, 64, &b);

    if (err == 0 && (b.len != 24 || memcmp(b.data, VOTE_MAGIC, 8) != 0 || be32_get(b.data + 20) != crc32c(0, b.data, 20)))
        err = ERR_CORRUPT;
    if (err == 0) {
        *ret_term = be64_get(b.data + 8);
        *ret_voted_for = be32_get(b.data + 16);
    }
    mem_free(path);
    buf_fini(&b);
    return err;
}
