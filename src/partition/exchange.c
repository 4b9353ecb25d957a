/* Snapshots that go from a leader to a follower too far behind (rule 3): opening the newest here, and installing one from elsewhere whole.
 *
 * Order of an install: the file is synced, then renamed, then the main log begins anew at its S, then memory is built from it. After a crash in between the log ends below S, which recovery takes for what it is
 * (partition_reload). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "kv/snapshot.h"
#include "partition/private.h"

static int newest(const char *dir, int64_t *ret_start)
{
    DIR *d = opendir(dir);
    int64_t best = -1, one;

    if (d == NULL)
        return errno == ENOENT ? ERR_NOT_FOUND : err_from_errno(errno);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (kv_snapshot_name(e->d_name, &one) == 0)
            best = MAX_OF(best, one);
    closedir(d);
    *ret_start = best;
    return best < 0 ? ERR_NOT_FOUND : 0;
}

int partition_snapshot_open(struct partition *p, int *ret_fd, int64_t *ret_start, uint64_t *ret_size)
{
    char *dir = partition_kv_dir(p), *path = NULL;
    struct stat st;
    int err = newest(dir, ret_start);

    *ret_fd = -1;
    if (err != 0)
        goto done;
    partition_pin(p, *ret_start); /* before looking: from here on the log is not cut above it */
    if (log_start(p->main) > *ret_start) {
        err = ERR_NOT_FOUND;
        goto done;
    }
    path = mem_printf("%s/snapshot-%020lld", dir, (long long)*ret_start);
    *ret_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*ret_fd < 0 || fstat(*ret_fd, &st) != 0)
        err = errno == ENOENT ? ERR_NOT_FOUND : err_from_errno(errno);
    else
        *ret_size = (uint64_t)st.st_size;
done:
    if (err != 0 && *ret_fd >= 0) {
        close(*ret_fd);
        *ret_fd = -1;
    }
    mem_free(path);
    mem_free(dir);
    return err;
}

void partition_pin(struct partition *p, int64_t start)
{
    mutex_lock(&p->replica_mutex);
    if (start < p->pinned || start == INT64_MAX)
        ASTORE(&p->pinned, start);
    mutex_unlock(&p->replica_mutex);
}

int partition_snapshot_create(struct partition *p, int64_t start, bool keep, int *ret_fd)
{
    char *dir = partition_kv_dir(p), *path = mem_printf("%s/snapshot-%020lld.tmp", dir, (long long)start);
    int err = file_make_dirs(dir);

    if (err == 0) {
        *ret_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (keep ? 0 : O_TRUNC), 0640);
        err = *ret_fd < 0 ? err_from_errno(errno) : 0;
    }
    mem_free(path);
    mem_free(dir);
    return err;
}

int partition_snapshot_install(struct partition *p, int64_t start, int fd)
{
    char *dir = partition_kv_dir(p);
    int err = fdatasync(fd) == 0 ? 0 : err_from_errno(errno);

    if (err == 0)
        err = kv_snapshot_publish(dir, start);
    if (err == 0) {
        mutex_lock(&p->replica_mutex);
        err = log_restart_at(p->main, start);
        mutex_unlock(&p->replica_mutex);
    }
    if (err == 0)
        err = partition_apply_snapshot(p);
    if (err == 0)
        diag_info("a leader's snapshot is installed", "partition=%u start=%lld keys=%llu", p->index, (long long)start,
                  (unsigned long long)ALOADX(&p->keys));
    mem_free(dir);
    return err;
}
