/* A segment file of anything: recovery must end, what it kept must read back whole by cursor, walker and span, and take another append. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "log/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];
static struct log_store *store;
static struct batch_builder builder;

static void stop(void)
{
    log_store_close(store);
    file_remove_tree(dir);
}

static void start(void)
{
    diag_set_level(DIAG_ERROR);
    strcpy(dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/gomsg-fuzz-XXXXXX" : "/tmp/gomsg-fuzz-XXXXXX");
    CHECK(mkdtemp(dir) != NULL);
    CHECK(log_store_open(&(struct log_store_options){.data_dir = dir, .sync_interval_ms = 3600000, .fsync = LOG_FSYNC_NEVER}, NULL, &store) == 0);
    atexit(stop);
}

/* Makes the directory of a log whose first segment holds the input. */
static struct log *plant(const uint8_t *data, size_t size, char *path, size_t path_size)
{
    static unsigned serial;
    struct log_options o = {.kind = LOG_MAIN, .log_id = 1};
    char name[32], moved[64], from[128], to[128];
    int64_t base;
    struct log *l;
    int fd;

    /* The identity file is the store's to write: a log with one record is made, its directory taken under another name. */
    snprintf(name, sizeof(name), "made-%u", serial);
    o.dir = name;
    CHECK(log_open(store, &o, &l) == 0);
    batch_begin(&builder, 1);
    batch_add(&builder, 1, slice_str("k"), slice_str("v"));
    CHECK(log_append(l, &builder, &base) == 0);
    log_close(l);
    snprintf(moved, sizeof(moved), "planted-%u", serial++);
    snprintf(from, sizeof(from), "%s/%s", dir, name);
    snprintf(to, sizeof(to), "%s/%s", dir, moved);
    CHECK(rename(from, to) == 0);
    snprintf(path, path_size, "%s/%020d.log", to, 0);
    fd = open(path, O_WRONLY | O_TRUNC);
    CHECK(fd >= 0 && file_pwrite_all(fd, data, size, 0) == 0);
    close(fd);
    o.dir = name;
    CHECK(log_open(store, &o, &l) == 0);
    log_delete(l);
    o.dir = moved;
    log_open(store, &o, &l);
    return l;
}

static int count(void *arg, const struct log_walk_batch *b)
{
    if (b->defect == NULL)
        ++*(int *)arg;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct log_cursor c;
    struct batch_header h;
    struct slice batch;
    struct log *l;
    char path[160];
    int64_t next, offset, ts, base;
    int rc, seen = 0, walked = 0;

    if (store == NULL)
        start();
    l = plant(data, size, path, sizeof(path));
    log_file_walk(path, true, count, &walked);
    CHECK(log_recover(l) == 0); /* without a mark everything may be cut, nothing is corrupt */
    next = log_start(l);
    log_cursor_init(&c, l, next, 4096);
    while ((rc = log_cursor_next(&c, &h, &batch)) == 1) {
        CHECK(h.base_offset == next && batch.len == h.length);
        next = h.base_offset + h.last_offset_delta + 1;
        seen++;
    }
    CHECK(rc == 0 && next == log_end(l));
    log_cursor_fini(&c);
    log_find_timestamp(l, 1, &offset, &ts);
    batch_begin(&builder, 1);
    batch_add(&builder, 1, slice_str("k"), slice_str("v"));
    log_set_epoch(l, INT32_MAX);
    CHECK(log_append(l, &builder, &base) == 0 && base == next);
    log_delete(l);
    return 0;
}
