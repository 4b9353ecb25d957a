#include "rig.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "fake_workers.h"

void rig_init(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    strcpy(r->dir, "/tmp/gomsg-log-XXXXXX");
    cr_assert_not_null(mkdtemp(r->dir));
    r->opt = (struct log_store_options){.data_dir = r->dir, .segment_bytes = 1 << 20, .sync_interval_ms = 3600000};
    rig_open(r);
}

void rig_open(struct rig *r)
{
    int err = log_store_open(&r->opt, fake_workers(), &r->s);

    cr_assert_eq(err, 0, "log_store_open: %s", err_text(err));
}

void rig_close(struct rig *r)
{
    log_store_close(r->s);
    r->s = NULL;
}

void rig_fini(struct rig *r)
{
    if (r->s != NULL)
        rig_close(r);
    batch_builder_fini(&r->b);
    cr_assert_eq(file_remove_tree(r->dir), 0);
}

struct log *rig_log(struct rig *r, enum log_kind kind, const char *dir, uint64_t id)
{
    struct log *l = NULL;

    log_open(r->s, &(struct log_options){.kind = kind, .dir = dir, .log_id = id}, &l);
    cr_assert_not_null(l);
    return l;
}

static void fill(uint8_t *p, size_t size, int64_t offset)
{
    uint64_t x = (uint64_t)offset * 0x9e3779b97f4a7c15ull + 1;

    for (size_t i = 0; i < size; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)x;
    }
}

void rig_append(struct rig *r, struct log *l, unsigned n, size_t size)
{
    uint8_t *p = malloc(size + 1);

    for (unsigned i = 0; i < n; i++) {
        int64_t base = -1, want = log_end(l);
        int err;

        fill(p, size, want);
        batch_begin(&r->b, 1000 + want);
        batch_add(&r->b, 1000 + want, slice_str("k"), slice_of(p, size));
        err = log_append(l, &r->b, &base);
        cr_assert_eq(err, 0, "append %u: %s", i, err_text(err));
        cr_assert_eq(base, want);
        cr_assert_eq(log_end(l), want + 1);
    }
    free(p);
}

int64_t rig_check(struct log *l, int64_t from, int64_t to)
{
    struct log_cursor c;
    struct batch_header h;
    struct slice batch;
    int64_t seen = 0;
    int rc;

    log_cursor_init(&c, l, from, 100000);
    while (c.offset < to && (rc = log_cursor_next(&c, &h, &batch)) == 1) {
        struct record_iter it;
        struct record rec;

        record_iter_init(&it, &h, slice_of(batch.data + BATCH_HEADER_SIZE, batch.len - BATCH_HEADER_SIZE));
        while (record_iter_next(&it, &rec) == 1) {
            uint8_t *want = malloc(rec.value.len + 1);

            fill(want, rec.value.len, rec.offset);
            cr_assert(memcmp(want, rec.value.data, rec.value.len) == 0, "content of offset %lld", (long long)rec.offset);
            cr_assert_eq(rec.timestamp, 1000 + rec.offset);
            free(want);
            seen++;
        }
    }
    log_cursor_fini(&c);
    return seen;
}

void rig_crash(struct rig *r, void (*work)(struct rig *r))
{
    pid_t pid;
    int status;

    cr_assert_null(r->s, "the store must be closed: a child inherits no threads");
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        rig_open(r);
        work(r);
        raise(SIGKILL);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child ended with %x", status);
}

const char *rig_segment(const struct rig *r, const char *dir, int64_t base)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s/%s/%020lld.log", r->dir, dir, (long long)base);
    return path;
}

void rig_flip(const char *path, uint64_t pos)
{
    int fd = open(path, O_RDWR);
    uint8_t b;

    cr_assert_geq(fd, 0, "%s", path);
    cr_assert_eq(pread(fd, &b, 1, (off_t)pos), 1);
    b ^= 0x10;
    cr_assert_eq(pwrite(fd, &b, 1, (off_t)pos), 1);
    close(fd);
}

uint64_t rig_size(const char *path)
{
    struct stat st;

    cr_assert_eq(stat(path, &st), 0, "%s", path);
    return (uint64_t)st.st_size;
}
