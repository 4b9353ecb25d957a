/* Getting a snapshot or checkpoint from the leader (rule 3), when this log ends before the leader's begins.
 *
 *     wanted -> opening -> reading (a chunk at a time, written as it comes) -> installing, as work of the partition -> the log is asked for from S on
 *
 * A queue's checkpoint is also fetched alone: when its leader has dropped segments that this log would have to explain (rule 7), when this log was cut below its own, and when its own cannot be read. What it says to be settled goes
 * here, too.
 *
 * The log is busy meanwhile: what the leader sends for it is dropped, and its position is told when it is done. A broken transfer goes on where it was if the leader still has the same snapshot, and begins anew otherwise. At most
 * two at a time. Whoever follows another leader meanwhile gives up. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"
#include "metrics/metrics.h"
#include "queue/queue.h"

#define CHUNK (256u << 10)
#define AT_ONCE 2
#define CALL_TIMEOUT_MS 30000
#define OPEN_TIMEOUT_MS 600000 /* the leader may have to make one first */
#define AGAIN_US 1000000
#define CHECKPOINT_MAX (1u << 30)

struct install {
    struct list node; /* r->installs */
    struct replication *r;
    struct rlog *l;   /* NULL: given up; it ends when what is under way does */
    struct log_key key;
    uint32_t from;
    bool active, under_way, installing;
    bool restart; /* the log begins anew at S; else a queue's checkpoint only explains what its leader has dropped */
    struct bus_call call;
    struct bg_job job;
    uint64_t handle, size, pos;
    int64_t start;    /* -1: not known yet */
    int fd;
    char *path;       /* a checkpoint's temporary file; owned */
    struct buf chunk;
    int err;
    uint64_t not_before_us;
};

static void go_on(struct install *i);

static void end(struct install *i)
{
    struct replication *r = i->r;

    if (i->active)
        r->installs_running--;
    if (i->fd >= 0)
        close(i->fd);
    if (i->l != NULL) {
        i->l->install = NULL;
        i->l->busy = false;
    }
    list_remove(&i->node);
    mem_free(i->path);
    buf_fini(&i->chunk);
    mem_free(i);
}

static void close_there(struct install *i)
{
    struct buf b = {0};

    if (i->handle == 0)
        return;
    buf_put_be64(&b, i->handle);
    bus_send(i->r->o.bus, i->from, BUS_SNAPSHOT_CLOSE, buf_slice(&b));
    buf_fini(&b);
    i->handle = 0;
}

static void fail(struct install *i, int err)
{
    DIAG_EVERY(DIAG_WARN, "a snapshot of the leader could not be fetched; it is tried again", "partition=%u kind=%u bytes=%llu of=%llu error=%s",
               i->key.partition, i->key.kind, (unsigned long long)i->pos, (unsigned long long)i->size, err_name(err));
    i->handle = 0;
    i->not_before_us = replication_now_us() + AGAIN_US;
}

/* ---- chunks -------------------------------------------------------------------------------------------------------------------- */

static void run_write(struct bg_job *job)
{
    struct install *i = CONTAINER_OF(job, struct install, job);

    i->err = file_pwrite_all(i->fd, i->chunk.data, i->chunk.len, i->pos);
}

static void written(struct bg_job *job)
{
    struct install *i = CONTAINER_OF(job, struct install, job);

    __atomic_sub_fetch(&i->r->jobs, 1, __ATOMIC_ACQ_REL);
    i->under_way = false;
    if (i->err == 0)
        i->pos += i->chunk.len;
    else
        fail(i, i->err);
    go_on(i);
}

static void got_chunk(struct bus_call *c, int err, struct slice payload)
{
    struct install *i = CONTAINER_OF(c, struct install, call);

    i->under_way = false;
    if (err == 0 && payload.len != MIN_OF((uint64_t)CHUNK, i->size - i->pos))
        err = ERR_MALFORMED;
    if (err != 0 || i->l == NULL || i->r->stopping) {
        if (err != 0)
            fail(i, err);
        go_on(i);
        return;
    }
    buf_clear(&i->chunk);
    buf_put_slice(&i->chunk, payload);
    i->job.run = run_write;
    i->job.done = written;
    i->job.reply_to = i->r->w;
    i->under_way = true;
    __atomic_add_fetch(&i->r->jobs, 1, __ATOMIC_ACQ_REL);
    bg_submit(i->r->o.workers, BG_DISK, &i->job);
}

static void ask_chunk(struct install *i)
{
    struct buf b = {0};

    buf_put_be64(&b, i->handle);
    buf_put_uvarint(&b, i->pos);
    buf_put_uvarint(&b, MIN_OF((uint64_t)CHUNK, i->size - i->pos));
    i->call = (struct bus_call){.worker = i->r->w, .done = got_chunk};
    i->under_way = true;
    bus_call(i->r->o.bus, i->from, BUS_SNAPSHOT_READ, buf_slice(&b), CALL_TIMEOUT_MS, &i->call);
    buf_fini(&b);
}

/* ---- opening ---------------------------------------------------------------------------------------------------------------------- */

static int create(struct install *i, bool keep)
{
    char *dir;
    int err;

    if (i->fd >= 0)
        close(i->fd);
    i->fd = -1;
    if (i->key.kind == LOG_MAIN)
        return partition_snapshot_create(i->l->part->p, i->start, keep, &i->fd);
    dir = mem_printf("%s/%s", i->r->o.data_dir, log_dir(i->l->log));
    err = file_make_dirs(dir);
    mem_free(i->path);
    i->path = mem_printf("%s/checkpoint.tmp", dir);
    mem_free(dir);
    if (err != 0)
        return err;
    i->fd = open(i->path, O_RDWR | O_CREAT | O_CLOEXEC | (keep ? 0 : O_TRUNC), 0640);
    return i->fd < 0 ? ERR_IO : 0;
}

static void got_open(struct bus_call *c, int err, struct slice payload)
{
    struct install *i = CONTAINER_OF(c, struct install, call);
    struct reader rd = reader_of(payload);
    uint64_t handle = reader_be64(&rd), start = reader_uvarint(&rd), size = reader_uvarint(&rd);
    bool same;

    i->under_way = false;
    if (err == 0 && (rd.bad || start > INT64_MAX / 2 || (i->key.kind != LOG_MAIN && size > CHECKPOINT_MAX)))
        err = ERR_MALFORMED;
    if (err == 0 && i->l != NULL) {
        same = i->key.kind == LOG_MAIN && i->fd >= 0 && i->start == (int64_t)start && i->size == size;
        i->handle = handle;
        i->start = (int64_t)start;
        i->size = size;
        if (!same) {
            i->pos = 0;
            err = create(i, false);
        }
    }
    if (err != 0)
        fail(i, err);
    go_on(i);
}

static void ask_open(struct install *i)
{
    struct buf b = {0};

    log_key_put(&b, &i->key);
    i->call = (struct bus_call){.worker = i->r->w, .done = got_open};
    i->under_way = true;
    bus_call(i->r->o.bus, i->from, BUS_SNAPSHOT_OPEN, buf_slice(&b), OPEN_TIMEOUT_MS, &i->call);
    buf_fini(&b);
}

/* ---- installing: work of the partition ---------------------------------------------------------------------------------------------- */

static int install_checkpoint(struct install *i)
{
    char *path = mem_printf("%.*s", (int)(strlen(i->path) - 4), i->path), *clean = mem_printf("%s.clean", path);
    char *dir = mem_printf("%s/%s", i->r->o.data_dir, log_dir(i->l->log));
    int err = fdatasync(i->fd) == 0 ? 0 : ERR_IO;

    if (err == 0 && unlink(clean) != 0 && errno != ENOENT)
        err = err_from_errno(errno);
    /* The leader had none: whatever lies here stands for another log's beginning. */
    if (err == 0 && i->size == 0)
        err = (unlink(path) == 0 || errno == ENOENT) && unlink(i->path) == 0 ? 0 : ERR_IO;
    else if (err == 0 && rename(i->path, path) != 0)
        err = err_from_errno(errno);
    if (err == 0)
        err = file_sync_dir(dir);
    if (err == 0 && i->restart)
        err = log_restart_at(i->l->log, i->start);
    i->l->covers_read = true;
    if (err == 0)
        i->l->covers = queue_checkpoint_covers(i->r->o.data_dir, i->key.partition, i->key.id);
    if (err == 0 && !i->restart)
        (void)queue_checkpoint_drop_dead(i->l->log, i->r->o.data_dir, i->key.partition, i->key.id);
    mem_free(dir);
    mem_free(path);
    mem_free(clean);
    return err;
}

int install_run(struct rlog *l)
{
    struct install *i = l->install;

    return i->key.kind == LOG_MAIN ? partition_snapshot_install(l->part->p, i->start, i->fd) : install_checkpoint(i);
}

void install_done(struct rlog *l, int err)
{
    struct install *i = l->install;

    if (err != 0)
        diag_error("a leader's snapshot could not be installed", "log=\"%s\" start=%lld error=%s", log_dir(l->log), (long long)i->start,
                   err_name(err));
    else
        metrics_add(METRIC_REPLICA_SNAPSHOTS, 1);
    end(i);
    follower_work_done(l);
}

/* ---- steps ------------------------------------------------------------------------------------------------------------------------------ */

static void go_on(struct install *i)
{
    if (i->under_way || i->r->stopping)
        return;
    if (i->l == NULL) {
        close_there(i);
        end(i);
        return;
    }
    if (replication_now_us() < i->not_before_us)
        return; /* the tick comes back */
    if (i->handle == 0) {
        ask_open(i);
    } else if (i->pos < i->size) {
        ask_chunk(i);
    } else {
        close_there(i);
        i->installing = true;
        work_install(i->l);
    }
}

void install_want(struct rlog *l, bool restart)
{
    struct replication *r = l->part->r;
    struct install *i;

    if (l->install != NULL) {
        l->install->restart |= restart;
        return;
    }
    i = mem_zalloc(sizeof(*i));
    i->r = r;
    i->l = l;
    i->restart = restart;
    i->key = l->key;
    i->from = l->part->leader;
    i->fd = -1;
    i->start = -1;
    l->install = i;
    l->busy = true;
    list_push_back(&r->installs, &i->node);
    installs_tick(r);
}

/* Its partition follows somebody else, or nobody. */
void install_cancel(struct rlog *l)
{
    struct install *i = l->install;

    if (i == NULL || i->installing)
        return; /* what is being installed is finished before the next step */
    i->l = NULL;
    l->install = NULL;
    l->busy = false;
    if (!i->active)
        end(i);
    else
        go_on(i);
}

/* It was ready to be installed, and is not any more. */
void install_drop(struct rlog *l)
{
    l->install->installing = false;
    l->install->under_way = false;
    end(l->install);
}

void installs_tick(struct replication *r)
{
    LIST_FOREACH_SAFE(n, &r->installs)
    {
        struct install *i = LIST_ENTRY(n, struct install, node);

        if (!i->active) {
            if (r->installs_running >= AT_ONCE)
                continue;
            i->active = true;
            r->installs_running++;
        }
        if (!i->installing)
            go_on(i);
    }
}

void installs_free(struct replication *r)
{
    while (!list_empty(&r->installs))
        end(LIST_ENTRY(r->installs.next, struct install, node));
}
