/* KEYS and SCAN.
 *
 * KEYS answers with the whole database, and neither its partitions nor the other clients of its worker wait for it: it goes in
 * slices of at most 200 us and 2,048 keys, one a turn, each with a lock hold of its own. What one slice answers is answered at once; else the
 * session is blocked and a job, owned by the session, goes on by mail to its own worker. Each key that is there throughout comes once, and none
 * twice (kv_walk_keys); what comes or goes meanwhile may be there or not. Inside EXEC, whose partitions are held anyway, it is one piece.
 *
 * A job is in one of three places: on the stack, in its worker's mailbox (`posted`), or in a partition's parking (`parked`). A session that
 * goes takes it out of the parking, or leaves it to the mail that is on the way. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "protocols/resp/cluster.h"
#include "protocols/resp/handlers.h"
#include "protocols/resp/keys.h"
#include "protocols/resp/slowlog.h"

enum { SLICE_US = 200, SLICE_KEYS = 2048, STEP_KEYS = 64, COPY_MAX = 16384, PIECE_BYTES = 256 << 10 };

struct keys_walk {
    struct reply *r;
    struct slice pattern; /* NULL data: all */
    enum kv_type type;    /* KV_NONE: all */
    bool no_type;         /* TYPE named none there is */
    uint64_t replied, visited;
};

static void keys_visit(struct slice key, enum kv_type type, void *arg)
{
    struct keys_walk *walk = arg;

    walk->visited++;
    if (walk->no_type || (walk->type != KV_NONE && walk->type != type))
        return;
    if (walk->pattern.data != NULL && !slice_glob(walk->pattern, key, false))
        return;
    reply_bulk(walk->r, key);
    walk->replied++;
}

static struct slice pattern_of(struct slice s)
{
    return s.len == 1 && s.data[0] == '*' ? SLICE_NONE : s;
}

/* ---- KEYS ---- */

struct keys_job {
    struct mail mail;
    struct partition_park park;
    struct resp_worker *w;
    struct session *s; /* NULL: it has gone */
    bool posted, parked;
    bool silent;       /* CLIENT REPLY OFF or SKIP */
    uint32_t db;
    uint32_t index;    /* the partition to go on with */
    struct kv_walk at; /* where in it */
    size_t mark;       /* of `out`, where this partition's keys begin */
    uint64_t mark_replied;
    struct buf *full;  /* owned array: the keys, encoded, in pieces; one buffer for all would be copied whole as it grows */
    uint32_t full_count;
    struct buf out;    /* the last piece */
    struct reply r;    /* into `out` */
    struct keys_walk walk;
    uint64_t us;       /* all slices */
    int error;
    struct keys_end *ends; /* owned, one a partition; NULL when replies wait for nothing */
    uint8_t pattern[];
};

/* What the reply tells of one partition is in its log up to here. */
struct keys_end {
    struct log *log;
    int64_t end;
};

static void job_free(struct keys_job *j)
{
    for (uint32_t i = 0; i < j->full_count; i++)
        buf_fini(&j->full[i]);
    mem_free(j->full);
    buf_fini(&j->out);
    mem_free(j->ends);
    mem_free(j);
}

/* Forgets what was gathered in the partition it is in. */
static void forget_partition(struct keys_job *j)
{
    j->out.len = j->mark;
    j->walk.replied = j->mark_replied;
}

static void next_partition(struct keys_job *j)
{
    if (j->out.len >= PIECE_BYTES) {
        if ((j->full_count & (j->full_count - 1)) == 0)
            j->full = mem_realloc(j->full, sizeof(j->full[0]) * MAX_OF(2 * j->full_count, 1u));
        j->full[j->full_count++] = j->out;
        j->out = (struct buf){0};
    }
    j->index++;
    j->at = (struct kv_walk){0};
    j->mark = j->out.len;
    j->mark_replied = j->walk.replied;
}

/* Walks on in one partition. 0, ERR_MORE when the slice is over, ERR_PARKED, or why it cannot go on. */
static int walk_partition(struct keys_job *j, uint64_t until_us, uint64_t visited_max)
{
    struct partition *p = partitions_get(j->w->front->o.partitions, j->index);
    enum kv_walk_step step = KV_WALK_MORE;
    struct partition_guard g;
    int err = partition_enter(p, j->db, &j->park, &g);

    if (err != 0)
        return err;
    while (step != KV_WALK_END && clock_mono_us() < until_us && j->walk.visited < visited_max) {
        step = kv_walk_keys(&g.kv, &j->at, STEP_KEYS, keys_visit, &j->walk);
        if (step == KV_WALK_RESTARTED)
            forget_partition(j);
    }
    err = partition_leave(&g);
    if (err != 0)
        return err;
    if (j->ends != NULL)
        j->ends[j->index] = (struct keys_end){g.main, partition_guard_end(&g)};
    return step == KV_WALK_END ? 0 : ERR_MORE;
}

/* One slice. 0: all is gathered, or j->error set. ERR_MORE, ERR_PARKED: not yet. */
static int walk_slice(struct keys_job *j)
{
    struct resp_front *f = j->w->front;
    uint64_t began = clock_mono_us(), visited_max = j->walk.visited + SLICE_KEYS;
    int err = 0;

    while (err == 0 && j->index < partitions_count(f->o.partitions)) {
        /* In a cluster each node answers for what it leads; clients ask them all. */
        err = cluster_on(f) && !cluster_leads(f, j->index) ? ERR_NOT_LEADER
                                                          : walk_partition(j, began + SLICE_US, visited_max);
        if (err == ERR_NOT_LEADER && cluster_on(f)) {
            forget_partition(j);
            err = 0;
        }
        if (err == 0)
            next_partition(j);
    }
    j->us += clock_mono_us() - began;
    if (err == ERR_MORE || err == ERR_PARKED)
        return err;
    j->error = err;
    return 0;
}

static void note_ends(struct keys_job *j)
{
    for (uint32_t i = 0; i < partitions_count(j->w->front->o.partitions); i++)
        if (j->ends[i].log != NULL)
            hold_note(j->w, j->ends[i].log, j->ends[i].end, false);
}

static void free_bytes(void *data)
{
    mem_free(data);
}

static void write_piece(struct conn *c, struct buf *piece)
{
    if (piece->len > COPY_MAX) {
        conn_write_ref(c, piece->data, piece->len, free_bytes, piece->data);
        *piece = (struct buf){0};
    } else {
        buf_put(conn_out(c), piece->data, piece->len);
    }
}

static void answer(struct exec *x, struct keys_job *j)
{
    if (j->error != 0) {
        if (cluster_on(x->w->front))
            cluster_refuse(x, x->slot, j->error, false);
        else
            reply_err(&x->r, j->error);
        return;
    }
    if (j->ends != NULL && x->w->hold != NULL)
        note_ends(j);
    reply_array(&x->r, j->walk.replied);
    for (uint32_t i = 0; i < j->full_count; i++)
        write_piece(x->s->c, &j->full[i]);
    write_piece(x->s->c, &j->out);
}

/* The reply of a blocked session. */
static void answer_later(struct keys_job *j)
{
    struct slice argv[2] = {slice_str("KEYS"), j->walk.pattern.data == NULL ? slice_str("*") : j->walk.pattern};
    struct session *s = j->s;
    struct exec x = {.s = s, .w = j->w, .argv = argv, .argc = 2, .slot = CLUSTER_NO_SLOT};

    if (j->us >= __atomic_load_n(&j->w->front->slow_us, __ATOMIC_RELAXED))
        slowlog_add(&x, j->us);
    if (j->silent)
        return;
    if (j->ends != NULL && hold_wanted(j->w->front))
        hold_begin(s);
    x.r = session_reply(s);
    answer(&x, j);
    if (j->w->hold != NULL)
        hold_arm(j->w);
}

static void go_on(struct keys_job *j)
{
    int err;

    if (conn_closing(j->s->c)) { /* nobody reads the reply */
        j->s->keys = NULL;
        job_free(j);
        return;
    }
    err = walk_slice(j);
    if (err == ERR_PARKED) {
        j->parked = true;
        return;
    }
    if (err == ERR_MORE) {
        j->posted = true;
        worker_post(j->w->worker, &j->mail);
        return;
    }
    j->s->keys = NULL;
    answer_later(j);
    session_unblock(j->s);
    job_free(j);
}

static void keys_mail(struct worker *worker, struct mail *m)
{
    struct keys_job *j = CONTAINER_OF(m, struct keys_job, mail);

    (void)worker;
    j->posted = false;
    if (j->s == NULL)
        job_free(j);
    else
        go_on(j);
}

static void keys_retry(struct worker *worker, struct partition_park *park)
{
    struct keys_job *j = CONTAINER_OF(park, struct keys_job, park);

    (void)worker;
    j->parked = false;
    go_on(j);
}

void keys_abandon(struct session *s)
{
    struct keys_job *j = s->keys;

    if (j == NULL)
        return;
    s->keys = NULL;
    j->s = NULL;
    if (j->parked)
        partition_park_cancel(&j->park);
    if (!j->posted)
        job_free(j);
}

static struct keys_job *job_new(struct exec *x)
{
    struct slice pattern = x->argv[1];
    struct keys_job *j = mem_zalloc(sizeof(*j) + pattern.len);

    j->mail.deliver = keys_mail;
    j->park.worker = x->w->worker;
    j->park.retry = keys_retry;
    j->w = x->w;
    j->s = x->s;
    j->silent = x->s->reply_off || x->s->reply_skip;
    j->db = x->s->db;
    if (pattern.len != 0)
        memcpy(j->pattern, pattern.data, pattern.len);
    j->r = (struct reply){&j->out, x->r.proto};
    j->walk = (struct keys_walk){.r = &j->r, .pattern = pattern_of(slice_of(j->pattern, pattern.len))};
    if (hold_wanted(x->w->front))
        j->ends = mem_calloc(partitions_count(x->w->front->o.partitions), sizeof(j->ends[0]));
    return j;
}

static bool keys_of_partition(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg)
{
    uint64_t cursor = 0;

    (void)x;
    (void)index;
    do {
        cursor = kv_scan(kv, cursor, 1024, keys_visit, arg);
    } while (cursor != 0);
    return true;
}

/* Nothing changes and nobody else enters meanwhile. */
static void keys_in_exec(struct exec *x)
{
    struct keys_walk walk = {.r = &x->r, .pattern = pattern_of(x->argv[1])};
    size_t at = reply_deferred_begin(&x->r);

    if (exec_each_partition(x, 0, keys_of_partition, &walk))
        reply_deferred_array(&x->r, at, walk.replied);
}

void cmd_keys(struct exec *x)
{
    struct keys_job *j;
    int err;

    if (x->in_exec) {
        keys_in_exec(x);
        return;
    }
    j = job_new(x);
    err = walk_slice(j);
    if (err == 0) {
        if (!j->silent) /* the executor could not take a reply in pieces back */
            answer(x, j);
        job_free(j);
        return;
    }
    x->s->keys = j;
    session_block(x->s);
    x->outcome = EXEC_BLOCKED;
    if (err == ERR_PARKED) {
        j->parked = true;
    } else {
        j->posted = true;
        worker_post(x->w->worker, &j->mail);
    }
}

/* ---- SCAN ---- */

struct scan_walk {
    struct keys_walk keys;
    uint32_t count, partitions;
    uint64_t inner; /* the cursor inside the partition */
    uint32_t index; /* where the next call goes on */
    bool stopped;   /* before the last partition's end */
};

/* A cursor is inner * P + partition: 0 is the beginning, and an inner cursor of 0 begins a partition. */
static bool scan_partition(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg)
{
    struct scan_walk *walk = arg;

    (void)x;
    if (index != walk->index)
        walk->inner = 0; /* its own partition is led elsewhere now */
    walk->inner = kv_scan(kv, walk->inner,
                          (uint32_t)(walk->count - MIN_OF(walk->keys.visited, (uint64_t)walk->count - 1)),
                          keys_visit, &walk->keys);
    walk->index = index;
    walk->stopped = walk->inner != 0;
    if (walk->inner != 0)
        return false;
    walk->index = index + 1;
    walk->stopped = walk->keys.visited >= walk->count && walk->index < walk->partitions;
    return !walk->stopped;
}

void cmd_scan(struct exec *x)
{
    struct scan_walk walk = {
        .keys = {.r = &x->r}, .count = 10, .partitions = partitions_count(x->w->front->o.partitions)};
    char text[24], *end;
    uint64_t cursor;
    uint8_t head[64];
    size_t at = x->r.out->len, n, head_len;

    if (x->argv[1].len == 0 || x->argv[1].len >= sizeof(text))
        goto invalid;
    memcpy(text, x->argv[1].data, x->argv[1].len);
    text[x->argv[1].len] = '\0';
    cursor = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0')
        goto invalid;
    for (uint32_t i = 2; i < x->argc; i += 2) {
        int64_t v;

        if (i + 1 >= x->argc) {
            exec_syntax_error(x);
            return;
        }
        if (exec_arg_is(x, i, "count")) {
            if (!exec_arg_int(x, i + 1, &v))
                return;
            if (v < 1) {
                exec_syntax_error(x);
                return;
            }
            walk.count = (uint32_t)MIN_OF(v, (int64_t)UINT32_MAX / 2);
        } else if (exec_arg_is(x, i, "match")) {
            walk.keys.pattern = pattern_of(x->argv[i + 1]);
        } else if (exec_arg_is(x, i, "type")) {
            walk.keys.no_type = true;
            for (enum kv_type t = KV_STRING; t <= KV_STREAM; t++) {
                if (exec_arg_is(x, i + 1, kv_type_name(t))) {
                    walk.keys.type = t;
                    walk.keys.no_type = false;
                }
            }
        } else {
            exec_syntax_error(x);
            return;
        }
    }
    walk.inner = cursor / walk.partitions;
    walk.index = (uint32_t)(cursor % walk.partitions);
    if (!exec_each_partition(x, walk.index, scan_partition, &walk)) {
        if (x->outcome == EXEC_DONE)
            exec_keep_last_error(x, at);
        return;
    }
    cursor = !walk.stopped ? 0 : walk.inner * walk.partitions + walk.index;
    /* The header stands in front of the keys: "*2 $n cursor *count". */
    n = reply_digits((uint8_t *)text, cursor);
    head_len = (size_t)snprintf((char *)head, sizeof(head), "*2\r\n$%zu\r\n%.*s\r\n*%llu\r\n", n, (int)n,
                                text, (unsigned long long)walk.keys.replied);
    buf_reserve(x->r.out, head_len);
    memmove(x->r.out->data + at + head_len, x->r.out->data + at, x->r.out->len - at);
    memcpy(x->r.out->data + at, head, head_len);
    buf_advance(x->r.out, head_len);
    return;
invalid:
    reply_error(&x->r, "ERR invalid cursor");
}
