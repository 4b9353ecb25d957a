#include "protocols/resp/blocked.h"

#include <math.h>

#include "base/err.h"
#include "base/mem.h"
#include "protocols/resp/cluster.h"
#include "protocols/resp/handlers.h"

enum wait_state { WAITING, SERVED, ENDED };

struct blocked_key {
    struct kv_blocked b;
    struct blocked *owner;
    uint32_t index; /* partition */
    bool linked;    /* in the keyspace's list; under the partition's lock */
    bool settled;   /* the worker's: its partition was entered for the last time */
};

struct blocked {
    int state;         /* atomic, enum wait_state */
    struct session *s; /* NULL: nobody waits for the reply any more */
    struct resp_worker *w;
    struct mail mail;
    struct io_timer timer;
    struct partition_park park;
    enum kv_end end;
    uint32_t slot; /* in a cluster: of its keys */
    bool lists; /* else it waits for time and answers `answer` */
    int64_t answer;
    struct blocked_condition *condition; /* its owner's; NULL mostly */
    /* what serve left, under the lock of partition `served` */
    uint32_t served;
    struct buf key, value;
    /* settling */
    uint32_t at;
    bool leaks; /* a failed partition still knows one of the keys */
    int error;
    struct log *log;
    int64_t log_end;
    uint64_t mark; /* of when it was popped */
    uint32_t count;
    struct blocked_key keys[];
};

static bool leave_waiting(struct blocked *b, enum wait_state to)
{
    int from = WAITING;

    return __atomic_compare_exchange_n(&b->state, &from, (int)to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static void count_blocked(struct resp_worker *w, int64_t by)
{
    __atomic_store_n(&w->blocked_now, w->blocked_now + (uint64_t)by, __ATOMIC_RELAXED);
}

/* ---- ending ---- */

static void write_pop(struct blocked *b)
{
    struct resp_front *f = b->w->front;
    struct session *s = b->s;
    struct reply r;

    /* The element is taken from the list by an effect that nobody can answer for any more. */
    if (cluster_on(f) && (!cluster_leads(f, b->served) || !partitions_lease_ok(f->o.partitions))) {
        conn_abort(s->c, ERR_NOT_LEADER);
        return;
    }
    if (hold_wanted(b->w->front))
        hold_begin(s);
    r = session_reply(s);
    if (b->error != 0) {
        reply_err(&r, b->error);
    } else {
        reply_array(&r, 2);
        reply_bulk(&r, buf_slice(&b->key));
        reply_bulk(&r, buf_slice(&b->value));
        if (b->w->hold != NULL) {
            hold_since(b->w, b->mark);
            hold_note(b->w, b->log, b->log_end, true);
        }
    }
    if (b->w->hold != NULL)
        hold_arm(b->w);
}

/* The session no longer waits; its input goes on. */
static struct session *detach(struct blocked *b)
{
    struct session *s = b->s;

    io_timer_stop(b->w->worker, &b->timer);
    if (s == NULL)
        return NULL;
    b->s = NULL;
    s->blocked = NULL;
    count_blocked(b->w, -1);
    if (b->condition != NULL) {
        b->condition->session = NULL;
        b->condition->release(b->condition);
        b->condition = NULL;
    }
    return s;
}

static void finish(struct blocked *b)
{
    struct session *s;

    if (b->s != NULL && b->state == SERVED)
        write_pop(b);
    s = detach(b);
    if (s != NULL)
        session_unblock(s);
    buf_fini(&b->key);
    buf_fini(&b->value);
    if (!b->leaks)
        mem_free(b);
}

/* Enters the partitions one after another and takes the keys out of their lists; parked where it must be. */
static void settle(struct blocked *b)
{
    struct partitions *ps = b->w->front->o.partitions;

    for (; b->at < b->count; b->at++) {
        uint32_t index = b->keys[b->at].index;
        struct partition_guard g;
        int err;

        if (b->keys[b->at].settled)
            continue;
        err = partition_enter_upkeep(partitions_get(ps, index), &b->park, &g);
        if (err == ERR_PARKED)
            return;
        for (uint32_t i = b->at; i < b->count; i++)
            b->keys[i].settled = b->keys[i].settled || b->keys[i].index == index;
        if (err != 0) {
            if (b->state == SERVED && index == b->served)
                b->error = err;
            b->leaks = true;
            continue;
        }
        for (uint32_t i = b->at; i < b->count; i++) {
            struct blocked_key *k = &b->keys[i];

            if (k->index == index && k->linked) {
                kv_blocked_remove(g.kv.kv, &k->b);
                k->linked = false;
            }
        }
        err = partition_leave(&g);
        if (b->state == SERVED && index == b->served) {
            b->error = err;
            b->log = g.main;
            b->log_end = partition_guard_end(&g);
        }
    }
    finish(b);
}

static void settle_retry(struct worker *w, struct partition_park *park)
{
    (void)w;
    settle(CONTAINER_OF(park, struct blocked, park));
}

static void served(struct worker *w, struct mail *mail)
{
    (void)w;
    settle(CONTAINER_OF(mail, struct blocked, mail));
}

/* Any worker, under the partition's lock. */
static bool serve(struct kv_ctx *c, struct kv_blocked *kb, struct slice key)
{
    struct blocked_key *k = CONTAINER_OF(kb, struct blocked_key, b);
    struct blocked *b = k->owner;
    uint64_t len = 0;

    if (__atomic_load_n(&b->state, __ATOMIC_ACQUIRE) == WAITING) {
        if (kv_list_len(c, key, &len) != 0 || len == 0)
            return false;
        if (leave_waiting(b, SERVED)) {
            b->served = k->index;
            b->mark = log_commit_mark();
            buf_put_slice(&b->key, key);
            CHECK(kv_list_pop(c, key, b->end, &b->value) == 0);
            worker_post(b->w->worker, &b->mail);
        }
    }
    k->linked = false;
    return true;
}

bool blocked_end(struct session *s, bool with_error)
{
    struct blocked *b = s->blocked;
    struct reply r;

    if (b == NULL || !leave_waiting(b, ENDED))
        return false;
    r = session_reply(s);
    if (with_error)
        reply_error(&r, "UNBLOCKED client unblocked via CLIENT UNBLOCK");
    else if (b->condition != NULL)
        b->condition->reply(b->condition, &r);
    else if (b->lists)
        reply_null_array(&r);
    else if (b->answer == BLOCKED_ANSWER_OK)
        reply_ok(&r);
    else
        reply_int(&r, b->answer);
    detach(b);
    session_unblock(s);
    settle(b);
    return true;
}

void blocked_redirect(struct session *s, uint32_t partition)
{
    struct blocked *b = s->blocked;
    bool there = false;
    struct exec x;

    if (b == NULL)
        return;
    for (uint32_t i = 0; i < b->count; i++)
        there = there || b->keys[i].index == partition;
    if (!there || !leave_waiting(b, ENDED))
        return;
    x = (struct exec){.s = s, .w = s->w, .r = session_reply(s)};
    cluster_refuse(&x, b->slot, ERR_NOT_LEADER, false);
    detach(b);
    session_unblock(s);
    settle(b);
}

static void timed_out(struct worker *w, struct io_timer *t)
{
    struct blocked *b = CONTAINER_OF(t, struct blocked, timer);

    (void)w;
    if (b->s != NULL)
        blocked_end(b->s, false);
}

void blocked_abandon(struct session *s)
{
    struct blocked *b = s->blocked;

    if (b == NULL)
        return;
    detach(b);
    /* Served just now: its mail is on the way and frees it. */
    if (leave_waiting(b, ENDED))
        settle(b);
}

/* ---- beginning ---- */

bool blocked_parse_timeout(struct exec *x, uint32_t i, uint64_t *ret_ms)
{
    double seconds;

    if (!slice_to_double(x->argv[i], &seconds) || !isfinite(seconds) || seconds * 1000 > 9e15) {
        reply_error(&x->r, "ERR timeout is not a float or out of range");
        return false;
    }
    if (seconds < 0) {
        reply_error(&x->r, "ERR timeout is negative");
        return false;
    }
    *ret_ms = (uint64_t)ceil(seconds * 1000);
    return true;
}

static struct blocked *blocked_new(struct exec *x, uint32_t count, uint64_t timeout_ms)
{
    struct blocked *b = mem_zalloc(sizeof(*b) + sizeof(b->keys[0]) * count);

    b->state = WAITING;
    b->s = x->s;
    b->w = x->w;
    b->mail.deliver = served;
    b->park.worker = x->w->worker;
    b->park.retry = settle_retry;
    io_timer_init(&b->timer, timed_out);
    if (timeout_ms != 0)
        io_timer_start(x->w->worker, &b->timer, timeout_ms, 0);
    x->s->blocked = b;
    count_blocked(x->w, 1);
    session_block(x->s);
    x->outcome = EXEC_BLOCKED;
    return b;
}

void blocked_on_lists(struct exec *x, uint32_t first, uint32_t last, enum kv_end end, uint64_t timeout_ms)
{
    struct blocked *b = blocked_new(x, last - first + 1, timeout_ms);

    b->end = end;
    b->lists = true;
    b->slot = x->slot;
    for (uint32_t i = first; i <= last; i++) {
        struct blocked_key *k = &b->keys[b->count++];

        k->owner = b;
        k->index = exec_index_of_key(x, x->argv[i]);
        k->b.type = KV_LIST;
        k->b.serve = serve;
        k->linked = true;
        kv_blocked_add(exec_kv(x, x->argv[i]), &k->b, x->argv[i]);
    }
}

void blocked_on_time(struct exec *x, uint64_t timeout_ms, int64_t answer)
{
    blocked_new(x, 0, timeout_ms)->answer = answer;
}

void blocked_on_condition(struct exec *x, uint64_t timeout_ms, struct blocked_condition *c)
{
    c->session = x->s;
    blocked_new(x, 0, timeout_ms)->condition = c;
}
