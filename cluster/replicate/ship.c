/* Giving snapshots and checkpoints to followers too far behind (rule 3).
 *
 *     open    a main log: its newest snapshot that the log continues, made when there is none; the log stays from its S on. A queue's log: its durable checkpoint, with where the log starts now; it may have none
 *     read    chunks by position, so that a broken transfer goes on where it was
 *     close   or forgotten after a minute without a read
 *
 * The files are opened once: what replaces them meanwhile changes nothing of what is sent. Opening and reading run on background threads. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"

#define SHIPS_MAX 16
#define IDLE_US 60000000
#define CHUNK (256u << 10)

struct ship {
    struct list node;
    uint64_t handle;
    uint32_t node_id;
    struct log_key key;
    int fd;
    int64_t start;
    uint64_t size, used_us;
    unsigned reading; /* background jobs that use fd */
};

struct ships {
    struct replication *r;
    struct list all;
    unsigned count;
    uint64_t next_handle;
};

/* ---- opening ------------------------------------------------------------------------------------------------------------------ */

struct open_job {
    struct bg_job job;
    struct replication *r;
    struct bus_request *req;
    uint32_t node_id;
    struct log_key key;
    struct log *log;  /* a queue's; borrowed: its partition keeps it while we are counted */
    char *path;       /* a queue's checkpoint */
    bool made;        /* a snapshot was made for it */
    int err, fd;
    int64_t start;
    uint64_t size;
};

static void run_open(struct bg_job *job)
{
    struct open_job *o = CONTAINER_OF(job, struct open_job, job);
    struct stat st;

    o->fd = -1;
    if (o->key.kind == LOG_MAIN) {
        o->err = partition_snapshot_open(partitions_get(o->r->o.partitions, o->key.partition), &o->fd, &o->start, &o->size);
        return;
    }
    o->fd = open(o->path, O_RDONLY | O_CLOEXEC);
    if (o->fd < 0 && errno == ENOENT)
        o->err = 0; /* nothing was dropped of it that a checkpoint would have to stand for */
    else if (o->fd < 0 || fstat(o->fd, &st) != 0)
        o->err = err_from_errno(errno);
    else
        o->size = (uint64_t)st.st_size;
}

static void submit_open(struct open_job *o)
{
    __atomic_add_fetch(&o->r->jobs, 1, __ATOMIC_ACQ_REL);
    bg_submit(o->r->o.workers, BG_FREE, &o->job);
}

static void end_open(struct open_job *o)
{
    mem_free(o->path);
    mem_free(o);
}

static void made_snapshot(void *arg, int err)
{
    struct open_job *o = arg;

    if (err != 0 && err != ERR_AGAIN)
        diag_warn("no snapshot could be made for a follower", "partition=%u error=%s", o->key.partition, err_name(err));
    /* Whatever came of it, there is one now or there is not. */
    bg_submit(o->r->o.workers, BG_FREE, &o->job);
}

static void opened(struct bg_job *job)
{
    struct open_job *o = CONTAINER_OF(job, struct open_job, job);
    struct replication *r = o->r;
    struct buf b = {0};
    struct ship *s;

    if (o->err == ERR_NOT_FOUND && !o->made && !r->stopping) {
        o->made = true;
        partitions_snapshot(r->o.partitions, o->key.partition, made_snapshot, o); /* still counted */
        return;
    }
    __atomic_sub_fetch(&r->jobs, 1, __ATOMIC_ACQ_REL);
    if (o->err != 0) {
        bus_reply(r->o.bus, o->req, o->err, SLICE_NONE);
        end_open(o);
        return;
    }
    s = mem_zalloc(sizeof(*s));
    s->handle = ++r->ships->next_handle;
    s->node_id = o->node_id;
    s->key = o->key;
    s->fd = o->fd;
    s->start = o->start;
    s->size = o->size;
    s->used_us = replication_now_us();
    list_push_back(&r->ships->all, &s->node);
    r->ships->count++;
    diag_info("a follower gets a snapshot", "partition=%u kind=%u id=%llu node=%u start=%lld bytes=%llu", o->key.partition, o->key.kind,
              (unsigned long long)o->key.id, o->node_id, (long long)o->start, (unsigned long long)o->size);
    buf_put_be64(&b, s->handle);
    buf_put_uvarint(&b, (uint64_t)o->start);
    buf_put_uvarint(&b, o->size);
    bus_reply(r->o.bus, o->req, 0, buf_slice(&b));
    buf_fini(&b);
    end_open(o);
}

static void handle_open(void *arg, const struct bus_peer *from, struct bus_request *req, struct slice payload)
{
    struct replication *r = arg;
    struct reader rd = reader_of(payload);
    struct log_key key;
    struct open_job *o;
    struct rlog *l;
    int err = log_key_get(&rd, &key);

    l = err == 0 && key.partition < r->count ? rlog_find(r, &key) : NULL;
    if (err == 0 && (l == NULL || l->log == NULL || !rpart_leads(l->part) || record_member(&l->part->rec, from->node_id) < 0))
        err = ERR_NOT_LEADER;
    if (err == 0 && key.kind == LOG_TOPIC)
        err = ERR_INVALID; /* R13 serves those */
    if (err == 0 && (r->ships->count >= SHIPS_MAX || r->stopping))
        err = ERR_BUSY;
    if (err != 0) {
        bus_reply(r->o.bus, req, err, SLICE_NONE);
        return;
    }
    o = mem_zalloc(sizeof(*o));
    o->r = r;
    o->req = req;
    o->node_id = from->node_id;
    o->key = key;
    if (key.kind == LOG_QUEUE) {
        o->path = mem_printf("%s/%s/checkpoint", r->o.data_dir, log_dir(l->log));
        o->start = log_start(l->log); /* before the checkpoint is opened: it may only cover more */
    }
    o->job.run = run_open;
    o->job.done = opened;
    o->job.reply_to = r->w;
    submit_open(o);
}

/* ---- reading ---------------------------------------------------------------------------------------------------------------------- */

struct read_job {
    struct bg_job job;
    struct replication *r;
    struct bus_request *req;
    struct ship *ship;
    uint64_t pos;
    size_t len;
    struct buf bytes;
    int err;
};

static void run_read(struct bg_job *job)
{
    struct read_job *j = CONTAINER_OF(job, struct read_job, job);

    j->err = file_pread_all(j->ship->fd, buf_reserve(&j->bytes, j->len), j->len, j->pos);
    if (j->err == 0)
        buf_advance(&j->bytes, j->len);
}

static void read_done(struct bg_job *job)
{
    struct read_job *j = CONTAINER_OF(job, struct read_job, job);
    struct replication *r = j->r;

    __atomic_sub_fetch(&r->jobs, 1, __ATOMIC_ACQ_REL);
    j->ship->reading--;
    bus_reply(r->o.bus, j->req, j->err, buf_slice(&j->bytes));
    buf_fini(&j->bytes);
    mem_free(j);
}

static struct ship *find(struct replication *r, uint64_t handle, uint32_t node)
{
    LIST_FOREACH(n, &r->ships->all)
    {
        struct ship *s = LIST_ENTRY(n, struct ship, node);

        if (s->handle == handle && s->node_id == node)
            return s;
    }
    return NULL;
}

static void handle_read(void *arg, const struct bus_peer *from, struct bus_request *req, struct slice payload)
{
    struct replication *r = arg;
    struct reader rd = reader_of(payload);
    uint64_t handle = reader_be64(&rd), pos = reader_uvarint(&rd), len = reader_uvarint(&rd);
    struct ship *s = rd.bad ? NULL : find(r, handle, from->node_id);
    struct read_job *j;

    if (s == NULL || len == 0 || len > CHUNK || pos > s->size || len > s->size - pos || r->stopping) {
        bus_reply(r->o.bus, req, s == NULL ? ERR_NOT_FOUND : ERR_INVALID, SLICE_NONE);
        return;
    }
    s->used_us = replication_now_us();
    s->reading++;
    j = mem_zalloc(sizeof(*j));
    j->r = r;
    j->req = req;
    j->ship = s;
    j->pos = pos;
    j->len = (size_t)len;
    j->job.run = run_read;
    j->job.done = read_done;
    j->job.reply_to = r->w;
    __atomic_add_fetch(&r->jobs, 1, __ATOMIC_ACQ_REL);
    bg_submit(r->o.workers, BG_DISK, &j->job);
}

/* ---- closing ------------------------------------------------------------------------------------------------------------------------ */

static void free_ship(struct replication *r, struct ship *s)
{
    uint32_t partition = s->key.partition;
    int64_t pin = INT64_MAX;

    if (s->fd >= 0)
        close(s->fd);
    list_remove(&s->node);
    r->ships->count--;
    if (s->key.kind == LOG_MAIN) {
        LIST_FOREACH(n, &r->ships->all)
        {
            struct ship *other = LIST_ENTRY(n, struct ship, node);

            if (other->key.kind == LOG_MAIN && other->key.partition == partition)
                pin = MIN_OF(pin, other->start);
        }
        partition_pin(r->parts[partition].p, INT64_MAX);
        if (pin != INT64_MAX)
            partition_pin(r->parts[partition].p, pin);
    }
    mem_free(s);
}

/* The pin stays for a while, until the follower fetches behind S: it goes with the ship when that was idle for long enough. */
static void handle_close(void *arg, const struct bus_peer *from, struct bus_request *req, struct slice payload)
{
    struct replication *r = arg;
    struct reader rd = reader_of(payload);
    struct ship *s = find(r, reader_be64(&rd), from->node_id);

    (void)req;
    if (s == NULL || s->reading != 0 || s->fd < 0)
        return;
    close(s->fd);
    s->fd = -1;
    s->size = 0;
    s->used_us = replication_now_us();
}

void ships_tick(struct replication *r, uint64_t now)
{
    LIST_FOREACH_SAFE(n, &r->ships->all)
    {
        struct ship *s = LIST_ENTRY(n, struct ship, node);

        if (s->reading == 0 && now - s->used_us > IDLE_US)
            free_ship(r, s);
    }
}

void ship_init(struct replication *r)
{
    r->ships = mem_zalloc(sizeof(*r->ships));
    r->ships->r = r;
    list_init(&r->ships->all);
    bus_handle(r->o.bus, BUS_SNAPSHOT_OPEN, handle_open, r);
    bus_handle(r->o.bus, BUS_SNAPSHOT_READ, handle_read, r);
    bus_handle(r->o.bus, BUS_SNAPSHOT_CLOSE, handle_close, r);
}

void ship_free(struct replication *r)
{
    while (!list_empty(&r->ships->all))
        free_ship(r, LIST_ENTRY(r->ships->all.next, struct ship, node));
    mem_free(r->ships);
}
