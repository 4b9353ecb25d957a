/* Reading a snapshot: see snapshot.h. Lengths are believed only as far as the file reaches; every byte lies under a CRC or is compared. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "kv/snapshot.h"
#include "kv/state.h"

static int apply_block(struct kv *kv, struct slice payload)
{
    struct kv_replay replay = {.kv = kv};
    struct reader rd = reader_of(payload);

    while (reader_left(&rd) > 0) {
        struct effect e;
        unsigned kind = reader_u8(&rd);
        uint64_t db = reader_uvarint(&rd);
        int err;

        e.name = reader_lslice(&rd);
        e.value = reader_lslice(&rd);
        if (rd.bad || db > UINT32_MAX)
            return ERR_CORRUPT;
        if (effect_kind_since(kind) == 0 || effect_kind_since(kind) > EFFECT_LEVEL_MAX)
            return ERR_LEVEL;
        e.kind = (enum effect_kind)kind;
        e.db = (uint32_t)db;
        err = kv_replay_add(&replay, &e);
        if (err != 0)
            return err;
    }
    return kv_replay_flush(&replay);
}

static int read_header(int fd, uint64_t size, const uint8_t cluster_id[16], uint32_t partition, int64_t start)
{
    uint8_t h[SNAPSHOT_HEADER];
    int err = size < SNAPSHOT_HEADER + SNAPSHOT_FOOTER ? ERR_CORRUPT : file_pread_all(fd, h, sizeof(h), 0);

    if (err != 0)
        return err == ERR_MORE ? ERR_CORRUPT : err;
    if (memcmp(h, SNAPSHOT_MAGIC, 8) != 0 || be32_get(h + 52) != crc32c(0, h, 52) || be32_get(h + 48) != 0)
        return ERR_CORRUPT;
    if (memcmp(h + 8, cluster_id, 16) != 0 || (partition != KV_SNAPSHOT_ANY && be32_get(h + 24) != partition))
        return ERR_FOREIGN;
    if (be32_get(h + 28) > EFFECT_LEVEL_MAX)
        return ERR_LEVEL;
    return (int64_t)be64_get(h + 32) == start ? 0 : ERR_CORRUPT;
}

int kv_snapshot_read(struct kv *kv, int fd, const uint8_t cluster_id[16], uint32_t partition, int64_t start)
{
    struct stat st;
    struct buf block = {0};
    uint64_t pos = SNAPSHOT_HEADER, blocks = 0, size;
    uint32_t crc = 0;
    int err;

    if (fstat(fd, &st) != 0)
        return err_from_errno(errno);
    size = (uint64_t)st.st_size;
    err = read_header(fd, size, cluster_id, partition, start);
    while (err == 0) {
        uint8_t head[SNAPSHOT_FOOTER];
        uint32_t n;

        /* The footer is the longest head, and always behind any block. */
        if (size - pos < SNAPSHOT_FOOTER) {
            err = ERR_CORRUPT;
            break;
        }
        err = file_pread_all(fd, head, sizeof(head), pos);
        if (err != 0)
            break;
        n = be32_get(head);
        if (n == SNAPSHOT_END) {
            if (pos + SNAPSHOT_FOOTER != size || be32_get(head + 32) != crc32c(0, head, 32) || be32_get(head + 28) != crc ||
                be64_get(head + 20) != blocks)
                err = ERR_CORRUPT;
            break;
        }
        if (n == 0 || n > size - pos - SNAPSHOT_FOOTER) {
            err = ERR_CORRUPT;
            break;
        }
        buf_clear(&block);
        err = file_pread_all(fd, buf_reserve(&block, n), n, pos + SNAPSHOT_BLOCK_HEAD);
        if (err != 0)
            break;
        buf_advance(&block, n);
        if (be32_get(head + 4) != crc32c(crc32c(0, head, 4), block.data, n)) {
            err = ERR_CORRUPT;
            break;
        }
        crc = crc32c(crc, head + 4, 4);
        blocks++;
        pos += SNAPSHOT_BLOCK_HEAD + n;
        err = apply_block(kv, buf_slice(&block));
    }
    buf_fini(&block);
    return err == ERR_MORE ? ERR_CORRUPT : err;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

int kv_snapshot_load(struct kv *kv, const char *dir, const uint8_t cluster_id[16], uint32_t partition, int64_t *ret_start)
{
    int64_t starts[16];
    size_t n = 0;
    int err = ERR_NOT_FOUND, first = 0;
    DIR *d = opendir(dir);
    struct dirent *de;

    *ret_start = 0;
    if (d == NULL)
        return errno == ENOENT ? ERR_NOT_FOUND : err_from_errno(errno);
    while ((de = readdir(d)) != NULL && n < ARRAY_LEN(starts))
        if (kv_snapshot_name(de->d_name, &starts[n]) == 0)
            n++;
    closedir(d);
    qsort(starts, n, sizeof(starts[0]), newest_first);
    for (size_t i = 0; i < n; i++) {
        char *path = mem_printf("%s/snapshot-%020lld", dir, (long long)starts[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        mem_free(path);
        err = fd < 0 ? err_from_errno(errno) : kv_snapshot_read(kv, fd, cluster_id, partition, starts[i]);
        if (fd >= 0)
            close(fd);
        if (err == 0) {
            *ret_start = starts[i];
            return 0;
        }
        for (uint32_t db = 0; db < KV_DB_COUNT; db++)
            kv_db_clear(kv, db);
        if (first == 0)
            first = err;
        if (err != ERR_CORRUPT)
            break;
    }
    return first != 0 ? first : err;
}

int kv_snapshot_end(const char *dir, int64_t start, int64_t *ret_end)
{
    char *path = mem_printf("%s/snapshot-%020lld", dir, (long long)start);
    int fd = open(path, O_RDONLY | O_CLOEXEC), err = fd < 0 ? err_from_errno(errno) : 0;
    uint8_t f[SNAPSHOT_FOOTER];
    struct stat st;

    mem_free(path);
    if (err == 0 && fstat(fd, &st) != 0)
        err = err_from_errno(errno);
    if (err == 0)
        err = st.st_size < SNAPSHOT_FOOTER ? ERR_CORRUPT : file_pread_all(fd, f, sizeof(f), (uint64_t)st.st_size - sizeof(f));
    if (err == 0 && (be32_get(f) != SNAPSHOT_END || be32_get(f + 32) != crc32c(0, f, 32)))
        err = ERR_CORRUPT;
    if (err == 0)
        *ret_end = (int64_t)be64_get(f + 4);
    if (fd >= 0)
        close(fd);
    return err;
}
