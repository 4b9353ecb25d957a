/* Files: whole reads and writes, durable replacement. Returns ERR_* with errno kept. Any thread. */
#ifndef GM_BASE_FILEIO_H
#define GM_BASE_FILEIO_H

#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"

/* Reads exactly n bytes at pos; ERR_MORE when the file ends before. */
int file_pread_all(int fd, void *data, size_t n, uint64_t pos);
/* Writes all n bytes at pos, through short writes and EINTR. */
int file_pwrite_all(int fd, const void *data, size_t n, uint64_t pos);
/* Appends the file's content to out; ERR_TOO_LARGE above max bytes. */
int file_read(const char *path, size_t max, struct buf *out);
/* Writes path.tmp, fdatasync, rename, fsync of the directory: after a crash either the old or the new content. */
int file_replace(const char *path, const void *data, size_t n);
/* fsync of a directory, so that names created or removed in it survive a crash. */
int file_sync_dir(const char *path);
/* mkdir -p, mode 0750. */
int file_make_dirs(const char *path);
/* Removes a tree; missing is fine. */
int file_remove_tree(const char *path);

#endif
