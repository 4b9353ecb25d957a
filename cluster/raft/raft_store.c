/* The core's disk: a queue of what was asked, a thread that does it in groups, a queue of what became of it.
 *
 * A group is everything that was queued when the thread came back: votes first, then the entries with one write and one fdatasync. Whoever does the work (the thread, or the metadata
 * thread itself when the group has one member) holds `busy`, so the log has one user at a time. */
#include "cluster/raft/raft_store.h"

#include <pthread.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "cluster/raft/raft_log.h"

#define STORE_MAGIC 0x52535452u
#define RETRY_MS 200

enum op_type { OP_WRITE, OP_SAVE, OP_INSTALL };

struct op {
    struct op *next;
    uint8_t type;
    /* WRITE */
    uint64_t seq;
    bool vote_changed;
    uint64_t term;
    struct raft_node vote;
    uint64_t truncate_from;
    struct raft_entry *entries; /* owned; data in payload */
    size_t entry_count;
    /* SAVE, INSTALL; and the answer */
    struct raft_snapshot snapshot; /* config points into config */
    struct buf config, payload;
    uint64_t log_first;
    int err;
};

struct queue {
    struct op *head, **tail;
};

struct raft_store {
    uint32_t magic;
    struct raft_log *log;
    struct raft_log_loaded loaded; /* until raft_store_loaded */
    struct raft_entry *form_entries; /* owned: what raft_store_form made of loaded.rec */
    struct buf form_config;
    void (*wake)(void *arg);
    void *wake_arg;

    struct mutex lock;
    pthread_cond_t news;
    struct queue asked GUARDED_BY(lock);
    struct queue done GUARDED_BY(lock);
    bool busy GUARDED_BY(lock);
    bool stopping GUARDED_BY(lock);
    int failed GUARDED_BY(lock);
    uint64_t busy_since_us;              /* atomic */
    int full;                            /* atomic */
    pthread_t thread;
    bool started;

    /* the metadata thread's */
    struct op *current; /* whose event raft_store_next gave last */
    struct buf recv;    /* a snapshot that is received */
    struct buf chunk;   /* a piece that is sent */
    bool snapshotting;
};

static void queue_init(struct queue *q)
{
    q->head = NULL;
    q->tail = &q->head;
}

static void queue_put(struct queue *q, struct op *op)
{
    op->next = NULL;
    *q->tail = op;
    q->tail = &op->next;
}

static struct op *queue_take(struct queue *q)
{
    struct op *op = q->head;

    if (op != NULL && (q->head = op->next) == NULL)
        q->tail = &q->head;
    return op;
}

static void op_free(struct op *op)
{
    if (op == NULL)
        return;
    buf_fini(&op->config);
    buf_fini(&op->payload);
    mem_free(op->entries);
    mem_free(op);
}

/* ---- the work: whoever holds `busy` ----------------------------------------------------------------------------------------- */

struct group {
    struct raft_store *s;
    struct op *vote;   /* the last that changed it, not yet written */
    struct op *writes; /* the last write, not yet durable */
    bool here;         /* on the metadata thread: nobody is to be woken */
};

static void finish(struct group *g, struct op *op)
{
    struct raft_store *s = g->s;

    mutex_lock(&s->lock);
    queue_put(&s->done, op);
    mutex_unlock(&s->lock);
    if (s->wake != NULL && !g->here)
        s->wake(s->wake_arg);
}

static int flush(struct group *g)
{
    int err = 0;

    if (g->vote != NULL)
        err = raft_log_vote(g->s->log, g->vote->term, &g->vote->vote);
    if (err == 0) {
        g->vote = NULL;
        err = raft_log_flush(g->s->log);
    }
    if (err < 0 || g->writes == NULL)
        return err;
    finish(g, g->writes);
    g->writes = NULL;
    return 0;
}

/* A later write's event speaks for the earlier ones. */
static void add_write(struct group *g, struct op *op)
{
    struct op *before = g->writes;

    for (size_t i = 0; i < op->entry_count; i++)
        raft_log_add(g->s->log, &op->entries[i]);
    if (op->vote_changed)
        g->vote = op;
    if (before != NULL && before == g->vote) {
        /* its vote is still needed */
        op->vote_changed = true;
        op->term = before->term;
        op->vote = before->vote;
        g->vote = op;
    }
    g->writes = op;
    op_free(before);
}

static int run_snapshot(struct group *g, struct op *op)
{
    struct raft_store *s = g->s;
    int err;

    if (op->type == OP_SAVE)
        err = raft_log_save(s->log, &op->snapshot, buf_slice(&op->payload), &op->log_first);
    else if (op->payload.len != op->snapshot.size || crc32c(0, op->payload.data, op->payload.len) != op->snapshot.crc)
        err = op->err = ERR_MISMATCH; /* damaged on its way */
    else
        err = raft_log_install(s->log, &op->snapshot, buf_slice(&op->payload));
    if (err == ERR_NOSPACE)
        diag_warn("no room for a Raft snapshot", "dir=%s index=%llu", raft_log_dir(s->log), (unsigned long long)op->snapshot.index);
    if (err < 0 && err != ERR_NOSPACE && err != ERR_MISMATCH) {
        op_free(op);
        return err;
    }
    op->err = err;
    finish(g, op);
    return 0;
}

/* Waits until the disk has room or the store stops. */
static bool wait_for_room(struct raft_store *s)
{
    struct timespec until;
    bool stopping;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += RETRY_MS * 1000000l;
    until.tv_sec += until.tv_nsec / 1000000000l;
    until.tv_nsec %= 1000000000l;
    mutex_lock(&s->lock);
    if (!s->stopping)
        pthread_cond_timedwait(&s->news, &s->lock.m, &until);
    stopping = s->stopping;
    mutex_unlock(&s->lock);
    return !stopping;
}

/* The group's thread may wait here for as long as the disk is full; nothing was promised of what waits. */
static int flush_at_last(struct group *g)
{
    struct raft_store *s = g->s;
    int err = flush(g);

    while (err == ERR_NOSPACE) {
        if (__atomic_exchange_n(&s->full, 1, __ATOMIC_RELAXED) == 0)
            diag_error("the disk is full: the topology cannot change until there is room", "dir=%s", raft_log_dir(s->log));
        if (!wait_for_room(s))
            return err;
        err = flush(g);
    }
    if (err == 0 && __atomic_exchange_n(&s->full, 0, __ATOMIC_RELAXED) != 0)
        diag_info("the disk has room again", "dir=%s", raft_log_dir(s->log));
    return err;
}

static int run_op(struct group *g, struct op *op)
{
    int err = 0;

    if (op->type != OP_WRITE) {
        err = flush_at_last(g);
        if (err < 0) {
            op_free(op);
            return err;
        }
        return run_snapshot(g, op);
    }
    if (op->truncate_from != 0 && (err = flush_at_last(g)) == 0)
        err = raft_log_truncate(g->s->log, op->truncate_from);
    if (err < 0) {
        op_free(op);
        return err;
    }
    add_write(g, op);
    return 0;
}

static void set_busy(struct raft_store *s, bool busy)
{
    __atomic_store_n(&s->busy_since_us, busy ? MAX_OF(clock_mono_us(), 1u) : 0, __ATOMIC_RELAXED);
}

static void group_fini(struct group *g)
{
    op_free(g->writes);
}

static void fail(struct raft_store *s, int err)
{
    mutex_lock(&s->lock);
    s->failed = err;
    s->busy = false;
    mutex_unlock(&s->lock);
    if (s->wake != NULL)
        s->wake(s->wake_arg);
}

static int run_group(struct raft_store *s, struct queue *q)
{
    struct group g = {.s = s};
    struct op *op;
    int err = 0;

    set_busy(s, true);
    while (err == 0 && (op = queue_take(q)) != NULL)
        err = run_op(&g, op);
    if (err == 0)
        err = flush_at_last(&g);
    set_busy(s, false);
    group_fini(&g);
    while ((op = queue_take(q)) != NULL)
        op_free(op);
    return err;
}

static void *store_thread(void *arg)
{
    struct raft_store *s = arg;
    struct queue q;
    int err = 0;

    MAGIC_CHECK(s, STORE_MAGIC);
    while (err == 0) {
        mutex_lock(&s->lock);
        while ((s->asked.head == NULL || s->busy) && !(s->stopping && s->asked.head == NULL))
            pthread_cond_wait(&s->news, &s->lock.m);
        if (s->asked.head == NULL) {
            mutex_unlock(&s->lock);
            return NULL;
        }
        q = s->asked;
        if (q.tail == &s->asked.head)
            q.tail = &q.head;
        queue_init(&s->asked);
        s->busy = true;
        mutex_unlock(&s->lock);
        err = run_group(s, &q);
        mutex_lock(&s->lock);
        s->busy = false;
        mutex_unlock(&s->lock);
    }
    fail(s, err);
    return NULL;
}

/* ---- asking ---------------------------------------------------------------------------------------------------------------------- */

static void ask(struct raft_store *s, struct op *op)
{
    mutex_lock(&s->lock);
    queue_put(&s->asked, op);
    pthread_cond_signal(&s->news);
    mutex_unlock(&s->lock);
}

static struct op *write_op(const struct raft_update *up)
{
    struct op *op = mem_zalloc(sizeof(*op));
    size_t bytes = 0;

    op->type = OP_WRITE;
    op->seq = up->seq;
    op->vote_changed = up->vote_changed;
    op->term = up->term;
    op->vote = up->vote;
    op->truncate_from = up->truncate_from;
    op->entry_count = up->entry_count;
    if (up->entry_count == 0)
        return op;
    op->entries = mem_calloc(up->entry_count, sizeof(*op->entries));
    for (size_t i = 0; i < up->entry_count; i++)
        bytes += up->entries[i].len;
    buf_reserve(&op->payload, bytes + 1);
    for (size_t i = 0; i < up->entry_count; i++) {
        op->entries[i] = up->entries[i];
        op->entries[i].data = op->payload.data + op->payload.len;
        buf_put(&op->payload, up->entries[i].data, up->entries[i].len);
    }
    return op;
}

/* Takes the log for this thread if nobody else has it and nothing waits before. */
static bool take_log(struct raft_store *s)
{
    bool got;

    mutex_lock(&s->lock);
    got = s->asked.head == NULL && !s->busy && s->failed == 0;
    if (got)
        s->busy = true;
    mutex_unlock(&s->lock);
    return got;
}

/* One write on the calling thread. What finds no room goes to the store's thread, which waits for it. */
static void write_here(struct raft_store *s, struct op *op)
{
    struct group g = {.s = s, .here = true};
    int err = 0;

    set_busy(s, true);
    if (op->truncate_from != 0)
        err = raft_log_truncate(s->log, op->truncate_from);
    if (err == 0) {
        add_write(&g, op);
        err = flush(&g);
    }
    set_busy(s, false);
    if (err == ERR_NOSPACE) {
        raft_log_forget(s->log);
        op->truncate_from = 0;
        g.writes = NULL;
        ask(s, op);
        err = 0;
    }
    group_fini(&g);
    if (err < 0) {
        fail(s, err);
        return;
    }
    mutex_lock(&s->lock);
    s->busy = false;
    pthread_cond_signal(&s->news);
    mutex_unlock(&s->lock);
}

void raft_store_submit(struct raft_store *s, const struct raft_update *up, bool inline_ok)
{
    struct op *op = write_op(up);

    MAGIC_CHECK(s, STORE_MAGIC);
    CHECK(up->seq != 0);
    if (inline_ok && take_log(s))
        write_here(s, op);
    else
        ask(s, op);
}

static void set_snapshot(struct op *op, const struct raft_snapshot *snapshot)
{
    op->snapshot = *snapshot;
    buf_put_slice(&op->config, snapshot->config);
    op->snapshot.config = buf_slice(&op->config);
}

void raft_store_chunk(struct raft_store *s, const struct raft_chunk *c)
{
    struct op *op;

    if (c->offset == 0)
        buf_clear(&s->recv);
    CHECK(s->recv.len == c->offset);
    buf_put_slice(&s->recv, c->data);
    if (!c->last)
        return;
    op = mem_zalloc(sizeof(*op));
    op->type = OP_INSTALL;
    set_snapshot(op, &c->snapshot);
    op->payload = s->recv;
    s->recv = (struct buf){0};
    ask(s, op);
}

int raft_store_snapshot(struct raft_store *s, uint64_t index, uint64_t term, struct slice config, struct buf *payload)
{
    struct raft_snapshot snapshot = {.index = index, .term = term, .config = config, .size = payload->len, .crc = crc32c(0, payload->data, payload->len)};
    struct op *op;

    if (s->snapshotting)
        return ERR_BUSY;
    op = mem_zalloc(sizeof(*op));
    op->type = OP_SAVE;
    set_snapshot(op, &snapshot);
    op->payload = *payload;
    *payload = (struct buf){0};
    s->snapshotting = true;
    ask(s, op);
    return 0;
}

bool raft_store_snapshotting(const struct raft_store *s)
{
    return s->snapshotting;
}

bool raft_store_full(const struct raft_store *s)
{
    return __atomic_load_n(&s->full, __ATOMIC_RELAXED) != 0;
}

uint64_t raft_store_busy_us(struct raft_store *s)
{
    uint64_t since = __atomic_load_n(&s->busy_since_us, __ATOMIC_RELAXED);

    return since == 0 ? 0 : clock_mono_us() - since;
}

/* ---- answers ----------------------------------------------------------------------------------------------------------------------- */

static bool make_event(struct raft_store *s, const struct op *op, struct raft_event *ev)
{
    *ev = (struct raft_event){0};
    switch (op->type) {
    case OP_WRITE:
        ev->type = RAFT_PERSISTED;
        ev->seq = op->seq;
        return true;
    case OP_SAVE:
        s->snapshotting = false;
        ev->type = RAFT_SNAPSHOT_SAVED;
        ev->snapshot = op->snapshot;
        ev->log_first = op->log_first;
        return op->err == 0;
    default:
        ev->type = RAFT_SNAPSHOT_INSTALLED;
        ev->snapshot = op->snapshot;
        ev->err = op->err;
        ev->snapshot_payload = buf_slice(&op->payload);
        return true;
    }
}

int raft_store_next(struct raft_store *s, struct raft_event *ev)
{
    int failed;

    do {
        op_free(s->current);
        mutex_lock(&s->lock);
        s->current = queue_take(&s->done);
        failed = s->failed;
        mutex_unlock(&s->lock);
        if (s->current == NULL)
            return failed;
    } while (!make_event(s, s->current, ev));
    return 1;
}

int raft_store_snapshot_read(struct raft_store *s, struct raft_message *m)
{
    int err;

    buf_clear(&s->chunk);
    err = raft_log_snapshot_read(s->log, m->snapshot.index, m->offset, m->chunk, &s->chunk);
    if (err == 0)
        m->data = buf_slice(&s->chunk);
    return err;
}

/* ---- life -------------------------------------------------------------------------------------------------------------------------- */

int raft_store_open(const char *dir, void (*wake)(void *arg), void *arg, struct raft_store **ret, struct raft_recovered *rec, struct slice *ret_snapshot_payload)
{
    struct raft_store *s = mem_zalloc(sizeof(*s));
    int err = raft_log_load(dir, &s->log, &s->loaded);

    if (err < 0) {
        mem_free(s);
        return err;
    }
    MAGIC_INIT(s, STORE_MAGIC);
    s->wake = wake;
    s->wake_arg = arg;
    mutex_init(&s->lock);
    CHECK(pthread_cond_init(&s->news, NULL) == 0);
    mutex_lock(&s->lock);
    queue_init(&s->asked);
    queue_init(&s->done);
    mutex_unlock(&s->lock);
    if (pthread_create(&s->thread, NULL, store_thread, s) != 0) {
        raft_store_close(s);
        return ERR_LIMIT;
    }
    s->started = true;
    pthread_setname_np(s->thread, "raft-store");
    *rec = s->loaded.rec;
    *ret_snapshot_payload = s->loaded.snapshot_payload;
    *ret = s;
    return 0;
}

void raft_store_loaded(struct raft_store *s)
{
    raft_log_loaded_fini(&s->loaded);
    mem_free(s->form_entries);
    s->form_entries = NULL;
    buf_fini(&s->form_config);
}

/* The configuration as an entry behind what there is. */
static int form_by_entry(struct raft_store *s, struct raft_recovered *rec)
{
    uint64_t term = MAX_OF(raft_log_last_term(s->log), 1u);
    struct raft_entry e = {.term = term, .data = s->form_config.data, .len = (uint32_t)s->form_config.len, .kind = RAFT_ENTRY_CONFIG};
    int err;

    raft_log_add(s->log, &e);
    err = raft_log_flush(s->log);
    if (err < 0) {
        raft_log_forget(s->log);
        return err;
    }
    s->form_entries = mem_calloc(rec->entry_count + 1, sizeof(*s->form_entries));
    if (rec->entry_count != 0)
        memcpy(s->form_entries, rec->entries, rec->entry_count * sizeof(*s->form_entries));
    s->form_entries[rec->entry_count] = e;
    rec->entries = s->form_entries;
    rec->entry_count++;
    return 0;
}

/* Written into the snapshot of a node that was alone before there were configurations: a follower could not do without. */
static int form_by_snapshot(struct raft_store *s, struct raft_recovered *rec)
{
    uint64_t first;
    int err;

    rec->snapshot.config = buf_slice(&s->form_config);
    err = raft_log_save(s->log, &rec->snapshot, s->loaded.snapshot_payload, &first);
    if (err < 0)
        return err;
    while (rec->base + 1 < first) {
        rec->base_term = rec->entries->term;
        rec->base++;
        rec->entries++;
        rec->entry_count--;
    }
    return 0;
}

int raft_store_form(struct raft_store *s, const struct raft_member *members, size_t n, struct raft_recovered *rec)
{
    if (raft_has_config(rec))
        return ERR_EXISTS;
    CHECK(s->form_entries == NULL && take_log(s));
    raft_config_encode(members, n, &s->form_config);
    int err = rec->snapshot.index != 0 ? form_by_snapshot(s, rec) : form_by_entry(s, rec);

    mutex_lock(&s->lock);
    s->busy = false;
    mutex_unlock(&s->lock);
    return err;
}

void raft_store_close(struct raft_store *s)
{
    struct op *op;

    if (s == NULL)
        return;
    if (s->started) {
        mutex_lock(&s->lock);
        s->stopping = true;
        pthread_cond_signal(&s->news);
        mutex_unlock(&s->lock);
        CHECK(pthread_join(s->thread, NULL) == 0);
    }
    raft_store_loaded(s);
    op_free(s->current);
    mutex_lock(&s->lock);
    while ((op = queue_take(&s->asked)) != NULL || (op = queue_take(&s->done)) != NULL)
        op_free(op);
    mutex_unlock(&s->lock);
    raft_log_close(s->log);
    buf_fini(&s->recv);
    buf_fini(&s->chunk);
    pthread_cond_destroy(&s->news);
    mutex_fini(&s->lock);
    MAGIC_FINI(s, STORE_MAGIC);
    mem_free(s);
}
