/* The identity file of a log directory (rule 9), 64 bytes:
 *
 *   offset size field
 *        0    8 "GMLOGID1"
 *        8    8 log id, be
 *       16   16 cluster id
 *       32    4 replica revision, be
 *       36   24 zeros
 *       60    4 CRC32C of what stands before, be
 *
 * Written before the first segment; the round that makes the first batch durable is a syncfs, so it covers this file and its name. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/private.h"

int identity_write(struct log *l)
{
    struct log_store *s = l->store;
    uint8_t data[IDENTITY_SIZE] = {0};
    char path[512];
    int err, fd;

    if (mkdirat(s->dirfd, l->dir, 0750) < 0 && errno != EEXIST) {
        snprintf(path, sizeof(path), "%s/%s", s->data_dir, l->dir);
        err = file_make_dirs(path);
        if (err != 0)
            return err;
    }
    memcpy(data, "GMLOGID1", 8);
    be64_put(data + 8, l->log_id);
    memcpy(data + 16, s->opt.cluster_id, 16);
    be32_put(data + 60, crc32c(0, data, 60));
    snprintf(path, sizeof(path), "%s/identity", l->dir);
    fd = openat(s->dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return err_from_errno(errno);
    err = file_pwrite_all(fd, data, sizeof(data), 0);
    close(fd);
    if (err != 0)
        unlinkat(s->dirfd, path, 0);
    return err;
}

int identity_check(struct log_store *s, const char *dir, uint64_t log_id)
{
    uint8_t data[IDENTITY_SIZE];
    char path[512];
    int fd, err;

    snprintf(path, sizeof(path), "%s/identity", dir);
    fd = openat(s->dirfd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        struct stat st;

        if (errno != ENOENT)
            return err_from_errno(errno);
        return fstatat(s->dirfd, dir, &st, 0) == 0 ? ERR_CORRUPT : ERR_NOT_FOUND;
    }
    err = file_pread_all(fd, data, sizeof(data), 0);
    close(fd);
    if (err != 0 || memcmp(data, "GMLOGID1", 8) != 0 || be32_get(data + 60) != crc32c(0, data, 60))
        return ERR_CORRUPT;
    if (memcmp(data + 16, s->opt.cluster_id, 16) != 0)
        return ERR_FOREIGN;
    return be64_get(data + 8) == log_id ? 0 : ERR_MISMATCH;
}
