#include "protocols/resp/transaction.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "protocols/resp/cluster.h"
#include "protocols/resp/handlers.h"

/* A key watched already is not watched again, as far as that is found quickly; twice does no harm. */
#define WATCH_LOOK_MAX 128
#define QUEUE_BYTES_MAX (512ull << 20) /* of one transaction */

struct queued {
    const struct command *cmd;
    struct slice *argv; /* owned: one allocation with the bytes behind */
    uint32_t argc;
};

struct watched {
    struct list node;
    struct kv_watch watch;
    uint32_t index; /* partition */
};

struct transaction {
    struct queued *queue; /* owned */
    uint32_t count, cap;
    uint64_t bytes;
    bool writes; /* one of the queued commands does */
    struct list watched;
};

struct reaper {
    struct partition_park park;
    struct partitions *ps;
    struct list watched;
};

/* ---- letting go of watches ---- */

static void reap(struct reaper *r)
{
    while (!list_empty(&r->watched)) {
        struct partition_guard g;
        uint32_t index = LIST_ENTRY(r->watched.next, struct watched, node)->index;
        int err = partition_enter_upkeep(partitions_get(r->ps, index), &r->park, &g);

        if (err == ERR_PARKED)
            return;
        LIST_FOREACH_SAFE (n, &r->watched) {
            struct watched *wd = LIST_ENTRY(n, struct watched, node);

            if (wd->index != index)
                continue;
            list_remove(n);
            /* A failed partition is never entered again but still knows the watch: its memory stays. */
            if (err != 0)
                continue;
            kv_watch_remove(g.kv.kv, &wd->watch);
            mem_free(wd);
        }
        if (err == 0)
            partition_leave(&g);
    }
    mem_free(r);
}

static void reaper_retry(struct worker *w, struct partition_park *park)
{
    (void)w;
    reap(CONTAINER_OF(park, struct reaper, park));
}

static void unwatch(struct session *s)
{
    struct reaper *r;

    if (s->tx == NULL || list_empty(&s->tx->watched))
        return;
    r = mem_zalloc(sizeof(*r));
    r->ps = s->w->front->o.partitions;
    r->park.worker = s->w->worker;
    r->park.retry = reaper_retry;
    list_init(&r->watched);
    list_splice(&r->watched, &s->tx->watched);
    reap(r);
}

/* ---- the queue ---- */

static struct transaction *transaction_of(struct session *s)
{
    if (s->tx == NULL) {
        s->tx = mem_zalloc(sizeof(*s->tx));
        list_init(&s->tx->watched);
    }
    return s->tx;
}

static void queue_clear(struct session *s)
{
    struct transaction *tx = s->tx;

    if (tx == NULL)
        return;
    for (uint32_t i = 0; i < tx->count; i++)
        mem_free(tx->queue[i].argv);
    tx->count = 0;
    tx->bytes = 0;
    tx->writes = false;
    if (tx->cap > 64) {
        mem_free(tx->queue);
        tx->queue = NULL;
        tx->cap = 0;
    }
}

static void leave_multi(struct session *s)
{
    queue_clear(s);
    s->in_multi = s->multi_failed = false;
}

/* Gives back what an idle session need not have. */
static void transaction_trim(struct session *s)
{
    if (s->tx == NULL || s->in_multi || !list_empty(&s->tx->watched))
        return;
    mem_free(s->tx->queue);
    mem_free(s->tx);
    s->tx = NULL;
}

void transaction_drop(struct session *s)
{
    leave_multi(s);
    unwatch(s);
    transaction_trim(s);
}

void transaction_fail(struct session *s)
{
    s->multi_failed = true;
}

bool transaction_queues(const struct command *c)
{
    switch (c->id) {
    case COMMAND_EXEC:
    case COMMAND_DISCARD:
    case COMMAND_MULTI:
    case COMMAND_WATCH:
    case COMMAND_QUIT:
    case COMMAND_RESET:
        return false;
    default:
        return true;
    }
}

/* In a cluster a command that is not for this node fails the transaction when it is queued (Redis' getNodeByQuery). */
static bool queue_here(struct exec *x)
{
    uint32_t first, last, step, slot;

    if (!cluster_on(x->w->front) || !command_keys(x->cmd, x->argc, &first, &last, &step))
        return true;
    return cluster_common_slot(x, first, last, step, &slot) &&
           cluster_check_here(x, slot, x->s->readonly && (x->cmd->flags & CMD_READONLY));
}

void transaction_queue(struct exec *x)
{
    struct transaction *tx = transaction_of(x->s);
    struct queued *q;
    size_t bytes = sizeof(struct slice) * x->argc;
    uint8_t *p;

    if (x->cmd->flags & (CMD_NO_MULTI | CMD_WALKS)) {
        reply_error(&x->r, "ERR Command not allowed inside a transaction");
        transaction_fail(x->s);
        return;
    }
    if (!queue_here(x)) {
        transaction_fail(x->s);
        return;
    }
    for (uint32_t i = 0; i < x->argc; i++)
        bytes += x->argv[i].len;
    if (tx->bytes + bytes > QUEUE_BYTES_MAX) {
        reply_error(&x->r, "ERR the commands of this transaction are larger than allowed");
        transaction_fail(x->s);
        return;
    }
    if (tx->count == tx->cap) {
        tx->cap = MAX_OF(8u, tx->cap * 2);
        tx->queue = mem_realloc(tx->queue, sizeof(tx->queue[0]) * tx->cap);
    }
    q = &tx->queue[tx->count++];
    tx->bytes += bytes;
    tx->writes = tx->writes || (x->cmd->flags & CMD_WRITE);
    q->cmd = x->cmd;
    q->argc = x->argc;
    q->argv = mem_alloc(bytes);
    p = (uint8_t *)(q->argv + x->argc);
    for (uint32_t i = 0; i < x->argc; i++) {
        if (x->argv[i].len != 0)
            memcpy(p, x->argv[i].data, x->argv[i].len);
        q->argv[i] = slice_of(p, x->argv[i].len);
        p += x->argv[i].len;
    }
    REPLY_LIT(&x->r, "+QUEUED\r\n");
}

/* ---- the commands ---- */

void cmd_multi(struct exec *x)
{
    if (x->s->in_multi) {
        reply_error(&x->r, "ERR MULTI calls can not be nested");
        return;
    }
    x->s->in_multi = true;
    x->s->multi_failed = false;
    reply_ok(&x->r);
}

void cmd_discard(struct exec *x)
{
    if (!x->s->in_multi) {
        reply_error(&x->r, "ERR DISCARD without MULTI");
        return;
    }
    transaction_drop(x->s);
    reply_ok(&x->r);
}

void cmd_unwatch(struct exec *x)
{
    /* Inside EXEC the locks are held and EXEC has let go of the watches already. */
    if (!x->in_exec) {
        unwatch(x->s);
        transaction_trim(x->s);
    }
    reply_ok(&x->r);
}

void cmd_watch(struct exec *x)
{
    struct transaction *tx;

    if (x->s->in_multi) {
        reply_error(&x->r, "ERR WATCH inside MULTI is not allowed");
        return;
    }
    tx = transaction_of(x->s);
    for (uint32_t i = 1; i < x->argc; i++) {
        bool known = false;
        unsigned looked = 0;
        struct watched *wd;
        struct kv_ctx *kv;

        LIST_FOREACH (n, &tx->watched) {
            const struct kv_watch *w = &LIST_ENTRY(n, struct watched, node)->watch;

            if (known || looked++ == WATCH_LOOK_MAX)
                break;
            known = w->db == x->s->db && slice_eq(slice_of(w->key, w->key_len), x->argv[i]);
        }
        if (known)
            continue;
        kv = exec_kv(x, x->argv[i]);
        wd = mem_zalloc(sizeof(*wd));
        wd->index = exec_index_of_key(x, x->argv[i]);
        kv_watch_add(kv, &wd->watch, x->argv[i]);
        list_push_back(&tx->watched, &wd->node);
    }
    reply_ok(&x->r);
}

/* The partitions of everything EXEC may touch, into w->indexes. */
static uint32_t collect_indexes(struct exec *x, struct transaction *tx)
{
    uint32_t n = 0, first, last, step, all = partitions_count(x->w->front->o.partitions);

    for (uint32_t i = 0; i < tx->count; i++) {
        const struct queued *q = &tx->queue[i];

        if (q->cmd->flags & CMD_SPAN) {
            for (uint32_t k = 0; k < all; k++)
                if (!cluster_on(x->w->front) || cluster_leads(x->w->front, k))
                    n = exec_index_add(x, n, k);
            if (!cluster_on(x->w->front))
                return n;
            continue;
        }
        if (command_keys(q->cmd, q->argc, &first, &last, &step))
            for (uint32_t k = first; k <= last; k += step)
                n = exec_index_add(x, n, exec_index_of_key(x, q->argv[k]));
    }
    LIST_FOREACH (node, &tx->watched)
        n = exec_index_add(x, n, LIST_ENTRY(node, struct watched, node)->index);
    return n;
}

/* In a cluster: all keys, the watched ones too, have one slot, which becomes the command's. */
static bool one_slot(struct exec *x, struct transaction *tx)
{
    uint32_t first, last, step, slot;

    for (uint32_t i = 0; i < tx->count; i++) {
        const struct queued *q = &tx->queue[i];

        if (!command_keys(q->cmd, q->argc, &first, &last, &step))
            continue;
        slot = placement_slot(q->argv[first]);
        if (x->slot != CLUSTER_NO_SLOT && slot != x->slot)
            return false;
        x->slot = slot;
    }
    LIST_FOREACH (node, &tx->watched) {
        const struct kv_watch *w = &LIST_ENTRY(node, struct watched, node)->watch;

        slot = placement_slot(slice_of(w->key, w->key_len));
        if (x->slot != CLUSTER_NO_SLOT && slot != x->slot)
            return false;
        x->slot = slot;
    }
    return true;
}

/* What refuses a transaction as a whole before anything of it runs; true: an error was written. */
static bool refuse_whole(struct exec *x, struct transaction *tx, uint32_t n)
{
    if (!cluster_on(x->w->front))
        return false;
    if (!one_slot(x, tx)) {
        reply_error(&x->r, "CROSSSLOT Keys in request don't hash to the same slot");
        return true;
    }
    for (uint32_t i = 0; i < n && tx->writes; i++) {
        if (exec_lacks_replicas(x, x->w->indexes[i])) {
            reply_err(&x->r, ERR_NO_REPLICAS);
            return true;
        }
    }
    return false;
}

static struct partition_guard *guard_of(struct exec *x, uint32_t index)
{
    for (uint32_t i = 0; i < x->guards_count; i++)
        if (partition_index(x->guards[i].p) == index)
            return &x->guards[i];
    return NULL;
}

/* Asks and lets go of the watches, whose partitions are all held. */
static bool watches_dirty(struct exec *x, struct transaction *tx)
{
    bool dirty = false;
    struct list *n;

    while ((n = list_pop_front(&tx->watched)) != NULL) {
        struct watched *wd = LIST_ENTRY(n, struct watched, node);
        struct partition_guard *g = guard_of(x, wd->index);

        CHECK(g != NULL);
        g->kv.db = wd->watch.db;
        dirty = kv_watch_is_dirty(&g->kv, &wd->watch) || dirty;
        kv_watch_remove(g->kv.kv, &wd->watch);
        mem_free(wd);
    }
    return dirty;
}

void cmd_exec(struct exec *x)
{
    struct session *s = x->s;
    struct transaction *tx = s->tx;
    size_t mark = x->r.out->len;
    uint32_t n, db = s->db;
    int proto = s->proto, err;

    if (!s->in_multi) {
        reply_error(&x->r, "ERR EXEC without MULTI");
        return;
    }
    if (s->multi_failed) {
        transaction_drop(s);
        reply_error(&x->r, "EXECABORT Transaction discarded because of previous errors.");
        return;
    }
    tx = transaction_of(s);
    n = collect_indexes(x, tx);
    if (refuse_whole(x, tx, n)) {
        transaction_drop(s);
        return;
    }
    if (n > 0 && !exec_enter_indexes(x, n)) {
        if (x->outcome != EXEC_PARKED)
            transaction_drop(s);
        return;
    }
    if (watches_dirty(x, tx)) {
        reply_null_array(&x->r);
    } else {
        struct exec inner = {.s = s,
                             .w = x->w,
                             .r = x->r,
                             .guards = x->guards,
                             .guards_count = x->guards_count,
                             .in_exec = true};
        uint64_t ticks = clock_ticks();

        reply_array(&x->r, tx->count);
        s->in_multi = false;
        for (uint32_t i = 0; i < tx->count; i++) {
            inner.cmd = tx->queue[i].cmd;
            inner.argv = tx->queue[i].argv;
            inner.argc = tx->queue[i].argc;
            inner.outcome = EXEC_DONE;
            inner.r.proto = s->proto;
            ticks = exec_call(&inner, ticks);
            CHECK(inner.outcome == EXEC_DONE);
        }
    }
    err = exec_leave(x);
    if (err != 0) {
        if (x->unknown)
            conn_abort(s->c, err);
        x->r.out->len = mark;
        s->db = db;
        s->proto = (uint8_t)proto;
        if (cluster_on(x->w->front))
            cluster_refuse(x, x->slot, err, false);
        else
            reply_err(&x->r, err);
    }
    leave_multi(s);
    transaction_trim(s);
}
