/* Running commands: checks, entering and leaving partitions, statistics. */
#include "protocols/resp/exec.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "config/config.h"
#include "protocols/resp/cluster.h"
#include "protocols/resp/run.h"
#include "protocols/resp/slowlog.h"
#include "protocols/resp/transaction.h"
#include "protocols/resp/wait.h"

/* ---- scratch ---- */

struct slice *exec_slices(struct exec *x, uint32_t n)
{
    struct resp_worker *w = x->w;

    if (n > w->slices_cap) {
        w->slices = mem_realloc(w->slices, sizeof(w->slices[0]) * n);
        w->slices_cap = n;
    }
    return w->slices;
}

static void index_room(struct resp_worker *w, uint32_t n)
{
    if (n <= w->guards_cap)
        return;
    n = MIN_OF(MAX_OF(n, w->guards_cap * 2), partitions_count(w->front->o.partitions));
    w->indexes = mem_realloc(w->indexes, sizeof(w->indexes[0]) * n);
    w->guards = mem_realloc(w->guards, sizeof(w->guards[0]) * n);
    w->guards_cap = n;
}

uint32_t exec_index_add(struct exec *x, uint32_t n, uint32_t index)
{
    struct resp_worker *w = x->w;
    uint32_t low = 0, high = n;

    while (low < high) {
        uint32_t mid = (low + high) / 2;

        if (w->indexes[mid] < index)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < n && w->indexes[low] == index)
        return n;
    index_room(w, n + 1);
    memmove(w->indexes + low + 1, w->indexes + low, sizeof(w->indexes[0]) * (n - low));
    w->indexes[low] = index;
    return n + 1;
}

uint32_t exec_index_of_key(struct exec *x, struct slice key)
{
    return placement_of_key(key, partitions_count(x->w->front->o.partitions));
}

/* ---- entering and leaving ---- */

struct kv_ctx *exec_kv(struct exec *x, struct slice key)
{
    struct partition_guard *g = x->guards;

    if (x->guards_count != 1) {
        uint32_t index = exec_index_of_key(x, key), low = 0, high = x->guards_count;

        while (low < high) {
            uint32_t mid = (low + high) / 2;

            if (partition_index(x->guards[mid].p) < index)
                low = mid + 1;
            else
                high = mid;
        }
        CHECK(low < x->guards_count && partition_index(x->guards[low].p) == index);
        g = &x->guards[low];
    }
    g->kv.db = x->s->db;
    return &g->kv;
}

/* What partition_enter says when it did not enter: parks or writes the error. */
static void not_entered(struct exec *x, int err)
{
    if (err == ERR_PARKED) {
        x->outcome = EXEC_PARKED;
        return;
    }
    if (cluster_on(x->w->front)) {
        cluster_refuse(x, x->slot, err, true);
        return;
    }
    x->error_at = x->r.out->len;
    reply_err(&x->r, err);
}

/* A client that said READONLY reads from a replica, too (rule 2: what it sees there is committed). */
static bool may_be_stale(const struct exec *x)
{
    return x->s->readonly && x->cmd != NULL && (x->cmd->flags & CMD_READONLY);
}

static int enter_one(struct exec *x, uint32_t index, struct partition_guard *g)
{
    struct partition *p = partitions_get(x->w->front->o.partitions, index);
    int err = partition_enter(p, x->s->db, &x->s->park, g);

    if (GM_UNLIKELY(err == ERR_NOT_LEADER) && may_be_stale(x))
        err = partition_enter_stale(p, x->s->db, &x->s->park, g);
    return err;
}

bool exec_lacks_replicas(const struct exec *x, uint32_t index)
{
    const struct resp_front *f = x->w->front;

    return GM_UNLIKELY(!partition_quorum_ok(partitions_get(f->o.partitions, index))) &&
           f->o.config != NULL && CONFIG_GET(f->o.config, kv_ack) == CONFIG_ACK_QUORUM && cluster_leads(f, index);
}

static bool lacks_replicas(const struct exec *x, uint32_t index)
{
    return x->cmd != NULL && (x->cmd->flags & CMD_WRITE) && exec_lacks_replicas(x, index);
}

bool exec_enter_indexes(struct exec *x, uint32_t n)
{
    struct resp_worker *w = x->w;
    struct partitions *ps = w->front->o.partitions;
    int err;

    index_room(w, n);
    for (uint32_t i = 0; i < n; i++) {
        if (lacks_replicas(x, w->indexes[i])) {
            not_entered(x, ERR_NO_REPLICAS);
            return false;
        }
    }
    if (n == 1)
        err = enter_one(x, w->indexes[0], &w->guards[0]);
    else
        err = partition_enter_set(ps, w->indexes, n, x->s->db, &x->s->park, w->guards);
    if (err != 0) {
        not_entered(x, err);
        return false;
    }
    x->guards = w->guards;
    x->guards_count = n;
    return true;
}

bool exec_enter_keys(struct exec *x, uint32_t first, uint32_t last, uint32_t step)
{
    uint32_t n = 0;

    if (cluster_on(x->w->front)) {
        if (!cluster_common_slot(x, first, last, step, &x->slot))
            return false;
        last = first;
    }
    for (uint32_t i = first; i <= last; i += step)
        n = exec_index_add(x, n, exec_index_of_key(x, x->argv[i]));
    return exec_enter_indexes(x, n);
}

int exec_leave(struct exec *x)
{
    struct resp_worker *w = x->w;
    uint32_t n = x->guards_count;
    int err;

    if (n == 0)
        return 0;
    if (n == 1)
        err = partition_leave(&x->guards[0]);
    else
        err = partition_leave_set(w->front->o.partitions, x->guards, n);
    if (GM_UNLIKELY(err != 0))
        for (uint32_t i = 0; i < n; i++)
            x->unknown = x->unknown || x->guards[i].wrote;
    if (GM_UNLIKELY(cluster_on(w->front)) && err == 0)
        for (uint32_t i = 0; i < n; i++)
            if (x->guards[i].wrote)
                wait_note_write(x->s, partition_index(x->guards[i].p), x->guards[i].end);
    if (w->hold != NULL && err == 0)
        for (uint32_t i = 0; i < n; i++)
            hold_note(w, x->guards[i].main, partition_guard_end(&x->guards[i]), x->guards[i].wrote);
    x->guards = NULL;
    x->guards_count = 0;
    return err;
}

bool exec_each_partition(struct exec *x, uint32_t from,
                         bool (*fn)(struct exec *x, struct kv_ctx *kv, uint32_t index, void *arg), void *arg)
{
    struct partitions *ps = x->w->front->o.partitions;
    uint32_t n = partitions_count(ps);
    bool cluster = cluster_on(x->w->front);

    if (x->in_exec) {
        CHECK(cluster || x->guards_count == n);
        for (uint32_t i = 0; i < x->guards_count; i++) {
            uint32_t index = partition_index(x->guards[i].p);

            if (index < from)
                continue;
            x->guards[i].kv.db = x->s->db;
            if (!fn(x, &x->guards[i].kv, index, arg))
                break;
        }
        return true;
    }
    for (uint32_t i = from; i < n; i++) {
        struct partition_guard g;
        bool more;
        int err;

        /* In a cluster each node answers for what it leads; clients ask them all. */
        if (cluster && !cluster_leads(x->w->front, i))
            continue;
        if (lacks_replicas(x, i))
            err = ERR_NO_REPLICAS;
        else
            err = partition_enter(partitions_get(ps, i), x->s->db, &x->s->park, &g);
        if (cluster && err == ERR_NOT_LEADER)
            continue;
        if (err != 0) {
            not_entered(x, err);
            return false;
        }
        more = fn(x, &g.kv, i, arg);
        err = partition_leave(&g);
        if (err != 0) {
            if (g.wrote)
                conn_abort(x->s->c, err);
            not_entered(x, err);
            return false;
        }
        if (cluster && g.wrote)
            wait_note_write(x->s, i, g.end);
        if (x->w->hold != NULL)
            hold_note(x->w, g.main, partition_guard_end(&g), g.wrote);
        if (!more)
            break;
    }
    return true;
}

void exec_keep_last_error(struct exec *x, size_t at)
{
    struct buf *b = x->r.out;

    memmove(b->data + at, b->data + x->error_at, b->len - x->error_at);
    b->len -= x->error_at - at;
}

/* ---- checks ---- */

static void unknown_command(struct exec *x)
{
    char args[160];
    size_t n = 0;

    args[0] = '\0';
    for (uint32_t i = 1; i < x->argc && n < 128; i++)
        n += (size_t)snprintf(args + n, sizeof(args) - n, "'%.*s' ", (int)MIN_OF(x->argv[i].len, 128 - n),
                              (const char *)x->argv[i].data);
    reply_errorf(&x->r, "ERR unknown command '%.*s', with args beginning with: %s",
                 (int)MIN_OF(x->argv[0].len, (size_t)128), (const char *)x->argv[0].data, args);
}

static bool refuse_shape(struct exec *x)
{
    const struct command *c = x->cmd;

    if (c == NULL) {
        unknown_command(x);
        return true;
    }
    if (c->has_subcommands && x->argc > 1) {
        char upper[32];
        size_t n = 0;

        for (; c->name[n] != '\0'; n++)
            upper[n] = (char)(c->name[n] & ~0x20);
        upper[n] = '\0';
        reply_errorf(&x->r, "ERR unknown subcommand '%.*s'. Try %s HELP.",
                     (int)MIN_OF(x->argv[1].len, (size_t)128), (const char *)x->argv[1].data, upper);
        return true;
    }
    if (c->handler == NULL) {
        reply_errorf(&x->r, "ERR wrong number of arguments for '%s' command", c->name);
        return true;
    }
    if (!command_arity_ok(c, x->argc)) {
        reply_errorf(&x->r, "ERR wrong number of arguments for '%s' command", c->fullname);
        return true;
    }
    return false;
}

static bool allowed_while_subscribed(const struct command *c)
{
    switch (c->id) {
    case COMMAND_SUBSCRIBE:
    case COMMAND_UNSUBSCRIBE:
    case COMMAND_PSUBSCRIBE:
    case COMMAND_PUNSUBSCRIBE:
    case COMMAND_SSUBSCRIBE:
    case COMMAND_SUNSUBSCRIBE:
    case COMMAND_PING:
    case COMMAND_QUIT:
    case COMMAND_RESET:
        return true;
    default:
        return false;
    }
}

bool exec_refuse(struct exec *x)
{
    struct resp_front *f = x->w->front;
    struct session *s = x->s;
    const struct command *c = x->cmd;

    if (refuse_shape(x))
        return true;
    if (GM_UNLIKELY(!s->authenticated) && !(c->flags & CMD_NO_AUTH)) {
        reply_error(&x->r, "NOAUTH Authentication required.");
        return true;
    }
    if (GM_UNLIKELY(!partitions_ready(f->o.partitions)) && !(c->flags & CMD_LOADING)) {
        reply_error(&x->r, "LOADING Redis is loading the dataset in memory");
        return true;
    }
    if (GM_UNLIKELY(session_is_subscribed(s) && s->proto == 2) && !allowed_while_subscribed(c)) {
        reply_errorf(&x->r,
                     "ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET "
                     "are allowed in this context",
                     c->fullname);
        return true;
    }
    if (c->flags & CMD_DENYOOM) {
        if (GM_UNLIKELY(__atomic_load_n(&f->over_memory, __ATOMIC_RELAXED))) {
            reply_err(&x->r, ERR_NOMEM);
            return true;
        }
        if (GM_UNLIKELY(f->o.store != NULL && !log_store_may_grow(f->o.store))) {
            reply_err(&x->r, ERR_NOSPACE);
            return true;
        }
    }
    return false;
}

/* ---- calling ---- */

void session_count_error(struct resp_worker *w, const uint8_t *text, size_t len)
{
    static const char *const names[] = {
#define X(name) #name,
        RESP_CODES(X)
#undef X
    };
    const uint8_t *blank = memchr(text, ' ', MIN_OF(len, (size_t)32));
    size_t n = blank != NULL ? (size_t)(blank - text) : 0;
    unsigned code = CODE_OTHER;

    for (unsigned i = 0; i < CODE_OTHER; i++)
        if (n == strlen(names[i]) && memcmp(names[i], text, n) == 0)
            code = i;
    metrics_error(&w->front->metrics, code);
    __atomic_store_n(&w->error_replies, w->error_replies + 1, __ATOMIC_RELAXED);
}

uint64_t exec_call(struct exec *x, uint64_t began)
{
    struct resp_worker *w = x->w;
    size_t mark = x->r.out->len;
    uint64_t ended, ns, bytes = 0;

    x->cmd->handler(x);
    ended = clock_ticks();
    if (GM_UNLIKELY(x->outcome == EXEC_PARKED))
        return ended;
    ns = clock_ticks_to_ns(ended - began);
    for (uint32_t i = 0; i < x->argc; i++)
        bytes += x->argv[i].len;
    metrics_request(&w->front->metrics, x->cmd->id, ns, bytes,
                    x->r.out->len > mark ? x->r.out->len - mark : 0);
    if (GM_UNLIKELY(x->r.out->len > mark && x->r.out->data[mark] == '-')) {
        session_count_error(w, x->r.out->data + mark + 1, x->r.out->len - mark - 1);
        metrics_count(w->front->failed, x->cmd->id, 1);
    }
    if (GM_UNLIKELY(ns / 1000 >= __atomic_load_n(&w->front->slow_us, __ATOMIC_RELAXED)) &&
        !(x->cmd->flags & CMD_SKIP_SLOWLOG))
        slowlog_add(x, ns / 1000);
    return ended;
}

bool exec_arg_int(struct exec *x, uint32_t i, int64_t *ret)
{
    if (slice_to_i64(x->argv[i], ret))
        return true;
    reply_err(&x->r, ERR_NOT_INTEGER);
    return false;
}

void exec_syntax_error(struct exec *x)
{
    reply_err(&x->r, ERR_SYNTAX);
}

/* ---- one command, and runs of commands ---- */

#define REPLIES_SMALL 16384 /* less than this in the buffer: the connection's output cannot have filled since it was looked at */

/* An EXEC that is refused ends its transaction and says so (execCommandAbort in Redis' multi.c). */
static void abort_exec(struct exec *x, size_t mark)
{
    char why[256];
    size_t skip = x->r.out->len - mark > 5 && memcmp(x->r.out->data + mark, "-ERR ", 5) == 0 ? 5 : 1;

    snprintf(why, sizeof(why), "%.*s", (int)(x->r.out->len - mark - skip - 2),
             (const char *)x->r.out->data + mark + skip);
    x->r.out->len = mark;
    reply_errorf(&x->r, "EXECABORT Transaction discarded because of: %s", why);
    transaction_drop(x->s);
}

static void after_refusal(struct exec *x, size_t mark)
{
    if (x->cmd != NULL && x->cmd->id == COMMAND_EXEC)
        abort_exec(x, mark);
    session_count_error(x->w, x->r.out->data + mark + 1, x->r.out->len - mark - 1);
    if (x->cmd != NULL)
        metrics_count(x->w->front->rejected, x->cmd->id, 1);
    if (x->s->in_multi)
        transaction_fail(x->s);
}

/* Takes back what was written since `mark` and answers the error instead. */
static void take_back(struct exec *x, size_t mark, int err)
{
    x->r.out->len = mark;
    if (cluster_on(x->w->front))
        cluster_refuse(x, x->slot, err, false);
    else
        reply_err(&x->r, err);
    session_count_error(x->w, x->r.out->data + mark + 1, x->r.out->len - mark - 1);
}

static void exec_init(struct exec *x, struct session *s, const struct request *q)
{
    *x = (struct exec){.s = s,
                       .w = s->w,
                       .argv = q->argv,
                       .argc = q->argc,
                       .r = session_reply(s),
                       .slot = CLUSTER_NO_SLOT};
}

static void note_command(struct exec *x)
{
    struct session *s = x->s;

    if (GM_UNLIKELY(s->retry != NULL))
        cluster_retry_end(s);
    s->last_command = x->cmd->id;
    s->last_command_us = worker_now_us(x->w->worker);
    __atomic_store_n(&x->w->commands, x->w->commands + 1, __ATOMIC_RELAXED);
}

enum exec_outcome run_one(struct session *s, const struct request *q, const struct command *cmd)
{
    struct exec x;
    uint32_t first, last, step;
    size_t mark;
    int err;

    exec_init(&x, s, q);
    x.cmd = cmd;
    mark = x.r.out->len;
    if (exec_refuse(&x)) {
        after_refusal(&x, mark);
        goto suppress;
    }
    if (GM_UNLIKELY(s->in_multi) && transaction_queues(cmd)) {
        transaction_queue(&x);
        goto suppress;
    }
    if (command_keys(cmd, x.argc, &first, &last, &step)) {
        if (!exec_enter_keys(&x, first, last, step)) {
            if (x.outcome == EXEC_PARKED)
                return EXEC_PARKED;
            session_count_error(x.w, x.r.out->data + mark + 1, x.r.out->len - mark - 1);
            goto suppress;
        }
        mark = x.r.out->len;
    }
    exec_call(&x, clock_ticks());
    err = exec_leave(&x);
    if (x.outcome == EXEC_PARKED) {
        x.r.out->len = mark;
        return EXEC_PARKED;
    }
    note_command(&x);
    if (GM_UNLIKELY(err != 0)) {
        /* A client that waits now must not get two answers; one whose write is in the log but not answered for
         * must not read an error that means "not done". */
        if (x.outcome == EXEC_BLOCKED || x.unknown)
            conn_abort(s->c, err);
        else
            take_back(&x, mark, err);
    }
suppress:
    if (GM_UNLIKELY(s->reply_off || s->reply_skip)) {
        if (cmd == NULL || cmd->id != COMMAND_CLIENT_REPLY)
            s->reply_skip = false;
        if (x.outcome == EXEC_DONE)
            conn_out(s->c)->len = MIN_OF(mark, conn_out(s->c)->len);
    }
    return x.outcome;
}

/* A command that may join others of its partition: one key, nothing that waits or spans, and nothing refused.
 */
static bool may_join(struct session *s, const struct request *q, const struct command *cmd)
{
    return cmd != NULL && cmd->one_key && q->argc >= 2 && command_arity_ok(cmd, q->argc) && !s->in_multi &&
           !s->reply_off && !s->reply_skip;
}

/* In a cluster, writes do not join reads: a replica may have been entered for these (READONLY), and too few
 * replicas refuse those. */
static bool joins(const struct exec *x, const struct command *first, const struct command *next)
{
    return !cluster_on(x->w->front) || !((first->flags ^ next->flags) & CMD_WRITE);
}

/* P6: first the buckets of all keys of the pipeline, then their entries, then those of the few whose bucket is the second of a
 * chain, so that their cache misses overlap. A partition somebody else holds is left out. */
static void prefetch(struct session *s, uint32_t n, const uint32_t *index, const uint64_t *hashes)
{
    enum { BUCKETS, ENTRIES, CHAINED, STEPS };
    struct partitions *ps = s->w->front->o.partitions;
    uint32_t wanted[STEPS] = {0}; /* a bit a command */

    _Static_assert(REQUEST_BATCH <= 32, "a bit a command");
    for (uint32_t k = 0; k < n; k++)
        wanted[BUCKETS] |= (index[k] != UINT32_MAX ? UINT32_C(1) : 0) << k;
    wanted[ENTRIES] = wanted[BUCKETS];
    for (int step = BUCKETS; step < STEPS; step++) {
        for (uint32_t m = wanted[step]; m != 0; m &= m - 1) {
            unsigned k = (unsigned)__builtin_ctz(m);
            struct partition *p = partitions_get(ps, index[k]);
            struct kv *kv = partition_peek(p);

            if (kv == NULL)
                continue;
            if (step == BUCKETS)
                kv_prefetch_bucket(kv, s->db, hashes[k]);
            else if (step == CHAINED)
                kv_prefetch_chained(kv, s->db, hashes[k]);
            else if (!kv_prefetch_entry(kv, s->db, hashes[k]))
                wanted[CHAINED] |= UINT32_C(1) << k;
            partition_unpeek(p);
        }
    }
}

/* The bytes of a name as one number, a different one for each name of 3 to 8 bytes that ends in no NUL; 0 for others. */
static inline uint64_t name_word(struct slice name)
{
    uint32_t head, tail;

    if (name.len == 3)
        return name.data[0] | (uint64_t)name.data[1] << 8 | (uint64_t)name.data[2] << 16;
    if (name.len < 4 || name.len > 8 || name.data[name.len - 1] == 0)
        return 0;
    memcpy(&head, name.data, 4);
    memcpy(&tail, name.data + name.len - 4, 4);
    return head | (uint64_t)tail << (name.len - 4) * 8;
}

/* Clients mostly say what they said before. */
static inline const struct command *resolve(struct session *s, const struct request *q)
{
    uint64_t word = name_word(q->argv[0]);
    const struct command *c;

    if (word == s->last_word && s->last_resolved != NULL)
        return s->last_resolved;
    c = command_resolve(q->argv, q->argc);
    if (word != 0 && c != NULL && !c->has_subcommands && c->container < 0) {
        s->last_word = word;
        s->last_resolved = c;
    }
    return c;
}

/* What a batch of commands is about: looked at once, before any of them runs. */
struct plan {
    const struct command *cmds[REQUEST_BATCH];
    uint32_t index[REQUEST_BATCH]; /* partition of the one key; UINT32_MAX: no such */
    uint64_t hashes[REQUEST_BATCH];
};

static void plan_batch(struct session *s, const struct request *q, uint32_t n, struct plan *plan)
{
    uint32_t partitions = partitions_count(s->w->front->o.partitions);

    for (uint32_t k = 0; k < n; k++) {
        const struct command *c = plan->cmds[k] = resolve(s, &q[k]);

        plan->index[k] = UINT32_MAX;
        if (c == NULL || !c->one_key || q[k].argc < 2)
            continue;
        if (q[k].argv[1].data == s->foreseen.data) {
            plan->index[k] = s->foreseen_index;
            plan->hashes[k] = s->foreseen_hash;
        } else {
            plan->index[k] = placement_of_key(q[k].argv[1], partitions);
            plan->hashes[k] = kv_key_hash(q[k].argv[1]);
        }
    }
    if (n > 1)
        prefetch(s, n, plan->index, plan->hashes);
}

/* The commands from `i` on that share a partition and may join, under one acquisition. Where the run ends; `i` itself when it
 * is parked. `x` is set up for the first of them, which was not refused; x->cmd is NULL behind one that was, or that failed.
 * *ticks: since when the first is under way; a command's time begins where that of the one before ended, or its append. */
static uint32_t run_joined(struct exec *x, const struct request *q, uint32_t i, uint32_t n, const struct plan *plan, uint64_t *ticks)
{
    struct session *s = x->s;
    struct partition_guard g;
    size_t mark = x->r.out->len;
    uint32_t k = i;
    int err = lacks_replicas(x, plan->index[i]) ? ERR_NO_REPLICAS : enter_one(x, plan->index[i], &g);

    if (GM_UNLIKELY(err != 0)) {
        x->slot = placement_slot(q[i].argv[1]);
        not_entered(x, err);
        if (x->outcome == EXEC_PARKED)
            return i;
        session_count_error(x->w, x->r.out->data + mark + 1, x->r.out->len - mark - 1);
        return i + 1;
    }
    x->guards = &g;
    x->guards_count = 1;
    for (;;) {
        g.kv.known = q[k].argv[1];
        g.kv.known_hash = plan->hashes[k];
        *ticks = exec_call(x, *ticks);
        note_command(x);
        if (++k == n || plan->index[k] != plan->index[i] || !may_join(s, &q[k], plan->cmds[k]) || !joins(x, plan->cmds[i], plan->cmds[k]))
            break;
        x->argv = q[k].argv;
        x->argc = q[k].argc;
        if (x->cmd != plan->cmds[k]) {
            size_t before = x->r.out->len;

            x->cmd = plan->cmds[k];
            if (GM_UNLIKELY(exec_refuse(x))) {
                after_refusal(x, before);
                x->cmd = NULL;
                k++;
                break;
            }
        }
    }
    err = exec_leave(x);
    if (g.wrote) /* the append is not the next command's time */
        *ticks = clock_ticks();
    if (GM_UNLIKELY(err != 0)) {
        x->cmd = NULL;
        x->r.out->len = mark;
        if (x->unknown)
            conn_abort(s->c, err);
        for (uint32_t t = i; t < k && !x->unknown; t++) {
            x->slot = placement_slot(q[t].argv[1]);
            take_back(x, x->r.out->len, err);
        }
    }
    return k;
}

uint32_t run_batch(struct session *s, const struct request *q, uint32_t n, enum exec_outcome *ret_outcome)
{
    const struct command *admitted = NULL; /* was not refused, and nothing ran since that changes what is */
    struct plan plan;
    uint64_t ticks;
    uint32_t i = 0;

    *ret_outcome = EXEC_DONE;
    plan_batch(s, q, n, &plan);
    ticks = clock_ticks();
    while (i < n) {
        struct exec x;
        uint32_t end;

        /* Looked at before the batch, too; a command that joins others ends no connection, and many small replies fill no output. */
        if (GM_UNLIKELY(i > 0 && admitted == NULL) && (conn_closing(s->c) || conn_output_full(s->c)))
            return i;
        if (!may_join(s, &q[i], plan.cmds[i])) {
            admitted = NULL;
            *ret_outcome = run_one(s, &q[i], plan.cmds[i]);
            if (*ret_outcome == EXEC_PARKED)
                return i;
            i++;
            if (*ret_outcome == EXEC_BLOCKED)
                return i;
            ticks = clock_ticks();
            continue;
        }
        exec_init(&x, s, &q[i]);
        x.cmd = plan.cmds[i];
        if (x.cmd != admitted) {
            size_t mark = x.r.out->len;

            if (GM_UNLIKELY(exec_refuse(&x))) {
                admitted = NULL;
                after_refusal(&x, mark);
                i++;
                continue;
            }
        }
        end = run_joined(&x, q, i, n, &plan, &ticks);
        if (end == i) {
            *ret_outcome = EXEC_PARKED;
            return i;
        }
        i = end;
        admitted = x.outcome == EXEC_DONE && x.r.out->len < REPLIES_SMALL ? x.cmd : NULL;
    }
    return i;
}
