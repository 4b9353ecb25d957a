#include "base/fileio.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"

int file_pread_all(int fd, void *data, size_t n, uint64_t pos)
{
    uint8_t *p = data;

    while (n > 0) {
        ssize_t k = pread(fd, p, n, (off_t)pos);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_from_errno(errno);
        if (k == 0)
            return ERR_MORE;
        p += k;
        pos += (uint64_t)k;
        n -= (size_t)k;
    }
    return 0;
}

int file_pwrite_all(int fd, const void *data, size_t n, uint64_t pos)
{
    const uint8_t *p = data;

    while (n > 0) {
        ssize_t k = pwrite(fd, p, n, (off_t)pos);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_from_errno(errno);
        p += k;
        pos += (uint64_t)k;
        n -= (size_t)k;
    }
    return 0;
}

int file_read(const char *path, size_t max, struct buf *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t got = 0;
    int err = 0;

    if (fd < 0)
        return err_from_errno(errno);
    for (;;) {
        ssize_t k = read(fd, buf_reserve(out, 4096), 4096);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            err = err_from_errno(errno);
        if (k <= 0)
            break;
        buf_advance(out, (size_t)k);
        got += (size_t)k;
        if (got > max) {
            err = ERR_TOO_LARGE;
            break;
        }
    }
    close(fd);
    return err;
}

int file_sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int err = 0;

    if (fd < 0)
        return err_from_errno(errno);
    if (fsync(fd) < 0)
        err = err_from_errno(errno);
    close(fd);
    return err;
}

static int sync_parent(const char *path)
{
    char *dir = mem_strdup(path), *slash = strrchr(dir, '/');
    int err;

    if (slash == NULL) {
        err = file_sync_dir(".");
    } else {
        slash[slash == dir] = '\0';
        err = file_sync_dir(dir);
    }
    mem_free(dir);
    return err;
}

int file_replace(const char *path, const void *data, size_t n)
{
    char *tmp = mem_printf("%s.tmp", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    int err = 0;

    if (fd < 0) {
        err = err_from_errno(errno);
        goto done;
    }
    err = file_pwrite_all(fd, data, n, 0);
    if (err == 0 && fdatasync(fd) < 0)
        err = err_from_errno(errno);
    if (close(fd) < 0 && err == 0)
        err = err_from_errno(errno);
    if (err == 0 && rename(tmp, path) < 0)
        err = err_from_errno(errno);
    if (err == 0)
        err = sync_parent(path);
    else
        unlink(tmp);
done:
    mem_free(tmp);
    return err;
}

int file_make_dirs(const char *path)
{
    char *p = mem_strdup(path);
    int err = 0;

    for (char *s = p + 1; err == 0; s++) {
        char c = *s;

        if (c != '/' && c != '\0')
            continue;
        *s = '\0';
        if (mkdir(p, 0750) < 0 && errno != EEXIST)
            err = err_from_errno(errno);
        *s = c;
        if (c == '\0')
            break;
    }
    mem_free(p);
    return err;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

int file_remove_tree(const char *path)
{
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0 && errno != ENOENT)
        return err_from_errno(errno);
    return 0;
}
