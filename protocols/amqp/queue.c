/* Class queue: declare, bind, unbind, purge, delete. Metadata goes through the topology; a handler proposes,
 * waits, and runs again (session.h). */
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/commands.h"
#include "protocols/amqp/batch.h"
#include "protocols/amqp/forward.h"
#include "protocols/amqp/queues.h"
#include "protocols/amqp/remote.h"
#include "protocols/amqp/reply.h"

/* ---- helpers ------------------------------------------------------------------------------------------- */

void amqp_generate_name(char name[AMQP_NAME_MAX], const char *prefix)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t random[22];
    size_t n = strlen(prefix);

    CHECK(n + sizeof(random) < AMQP_NAME_MAX);
    memcpy(name, prefix, n);
    rand_secure(random, sizeof(random));
    for (size_t i = 0; i < sizeof(random); i++)
        name[n + i] = alphabet[random[i] & 63];
    name[n + sizeof(random)] = '\0';
}

bool amqp_queue_name(struct amqp_channel *ch, struct slice *name)
{
    if (name->len != 0)
        return true;
    if (ch->last_queue.len == 0) {
        amqp_fail(ch, AMQP_NOT_FOUND, "no previously declared queue");
        return false;
    }
    *name = ch->last_queue;
    return true;
}

static bool locked(struct amqp_channel *ch, struct slice name)
{
    char text[AMQP_RS_MAX];

    amqp_fail(ch, AMQP_RESOURCE_LOCKED,
              "cannot obtain exclusive access to locked %s. It could be originally declared on another "
              "connection or the exclusive property value does not match that "
              "of the original declaration.",
              amqp_rs(text, AMQP_QUEUE, name, ch->session->vhost));
    return false;
}

static bool mine(struct amqp_channel *ch, const struct topo_queue *q)
{
    return !q->exclusive || amqp_exclusive_is_mine(ch->session, q->id);
}

const struct topo_queue *amqp_queue_usable(struct amqp_channel *ch, struct slice name)
{
    const struct topo_queue *q = topo_queue_find(amqp_session_view(ch->session), ch->session->vhost, name);
    char text[AMQP_RS_MAX];

    if (q == NULL) {
        amqp_fail(ch, AMQP_NOT_FOUND, "no %s", amqp_rs(text, AMQP_QUEUE, name, ch->session->vhost));
        return NULL;
    }
    return mine(ch, q) || locked(ch, name) ? q : NULL;
}

int amqp_queue_unavailable(struct amqp_channel *ch, struct slice name, int err)
{
    char text[AMQP_RS_MAX];

    amqp_rs(text, AMQP_QUEUE, name, ch->session->vhost);
    if (err == ERR_NOT_FOUND)
        return amqp_fail(ch, AMQP_NOT_FOUND, "no %s", text);
    if (err == ERR_TIMEOUT)
        return amqp_fail(ch, AMQP_INTERNAL_ERROR, "timed out waiting for the leader of %s", text);
    return amqp_fail(ch, AMQP_NOT_FOUND, "%s is unavailable: %s", text, err_text(err));
}

struct queue *amqp_queue_enter(struct amqp_session *s, struct queue_table *t, uint64_t queue_id, int *ret_err)
{
    struct queue *q = queue_find(t, queue_id);
    const struct topo_queue *tq;
    struct queue_spec spec;

    *ret_err = 0;
    if (GM_LIKELY(q != NULL))
        return q;
    tq = topo_queue_by_id(amqp_session_view(s), queue_id);
    if (tq == NULL) {
        *ret_err = ERR_NOT_FOUND;
        return NULL;
    }
    amqp_queue_spec(tq, &spec);
    *ret_err = queue_open(t, &spec, worker_wall_ms(s->aw->worker), &q);
    return *ret_err == 0 ? q : NULL;
}

static void answered(struct topology_proposal *p)
{
    struct amqp_wait *w = CONTAINER_OF(p, struct amqp_wait, proposal);

    w->answered = true;
    amqp_session_continue(w->session);
}

int amqp_propose(struct amqp_session *s)
{
    struct amqp_wait *w = amqp_session_wait(s);

    w->proposed = true;
    w->answered = false;
    w->proposal.worker = s->aw->worker;
    w->proposal.done = answered;
    amqp_session_park(s);
    topology_propose(s->front->o.topology, &w->proposal);
    return AMQP_AGAIN;
}

/* A proposal failed in a way no handler explains: the topology could not store it. */
static int proposal_failed(struct amqp_channel *ch, int err)
{
    return amqp_fail(ch, AMQP_INTERNAL_ERROR, "the metadata store refused the change: %s", err_text(err));
}

/* ---- declare ------------------------------------------------------------------------------------------- */

static void remember(struct amqp_channel *ch, struct slice name)
{
    char *copy;

    if (slice_eq(ch->last_queue, name))
        return;
    copy = mem_strdup_slice(name);
    mem_free((void *)ch->last_queue.data);
    ch->last_queue = slice_of(copy, name.len);
}

/* Counts, or how many were purged, of a queue that another node leads. 0, AMQP_AGAIN, or the channel was failed and *ret_ok is false. */
static int ask_remote(struct amqp_channel *ch, const struct topo_queue *tq, enum forward_control what, uint64_t *ret_count, uint32_t *ret_consumers, bool *ret_ok)
{
    struct reader r;
    int err;

    *ret_ok = false;
    if (amqp_remote_control(ch->session, tq, (uint8_t)what, &err, &r) == AMQP_AGAIN)
        return AMQP_AGAIN;
    *ret_count = reader_be64(&r);
    *ret_consumers = reader_be32(&r);
    if (err == 0 && !forward_is_whole(&r))
        err = ERR_MALFORMED;
    *ret_ok = err == 0;
    return err == 0 ? 0 : amqp_queue_unavailable(ch, tq->name, err);
}

static int declare_ok_remote(struct amqp_channel *ch, const struct topo_queue *tq, bool nowait)
{
    struct amqp_queue_declare_ok m = {.queue = tq->name};
    uint64_t count;
    bool ok;
    int r = ask_remote(ch, tq, FORWARD_TOUCH, &count, &m.consumer_count, &ok);

    if (!ok)
        return r;
    remember(ch, tq->name);
    m.message_count = (uint32_t)MIN_OF(count, UINT32_MAX);
    if (!nowait)
        amqp_put_queue_declare_ok(conn_out(ch->session->conn), ch->number, &m);
    return 0;
}

/* Answers for an existing queue, with its counts unless nobody waits for them. */
static int declare_ok(struct amqp_channel *ch, const struct topo_queue *tq, bool nowait)
{
    struct amqp_session *s = ch->session;
    struct amqp_queue_declare_ok ok = {.queue = tq->name};
    struct partition_guard g;
    struct queue *q;
    int err;

    if ((s->wait != NULL && s->wait->asked) || amqp_queue_is_remote(s->aw, tq))
        return declare_ok_remote(ch, tq, nowait);
    err = amqp_session_enter_queue(s, tq, &g);
    if (err == ERR_PARKED)
        return AMQP_AGAIN;
    if (amqp_is_role_error(s->aw, err))
        return declare_ok_remote(ch, tq, nowait);
    if (err < 0)
        return amqp_queue_unavailable(ch, tq->name, err);
    q = amqp_queue_enter(s, partition_queues(g.p), tq->id, &err);
    if (q != NULL) {
        queue_touch(q, worker_wall_ms(s->aw->worker));
        ok.message_count = (uint32_t)MIN_OF(queue_ready(q), UINT32_MAX);
        ok.consumer_count = queue_consumers(q);
    }
    (void)partition_leave(&g);
    if (q == NULL)
        return amqp_queue_unavailable(ch, tq->name, err);
    remember(ch, tq->name);
    if (!nowait)
        amqp_put_queue_declare_ok(conn_out(s->conn), ch->number, &ok);
    return 0;
}

static const char *const compared_args[] = {"x-expires",
                                            "x-message-ttl",
                                            "x-dead-letter-exchange",
                                            "x-dead-letter-routing-key",
                                            "x-max-length",
                                            "x-max-length-bytes",
                                            "x-max-priority",
                                            "x-overflow",
                                            "x-queue-type",
                                            "x-single-active-consumer",
                                            NULL};

static bool equivalent(struct amqp_channel *ch, const struct topo_queue *q,
                       const struct amqp_queue_declare *m)
{
    if (q->exclusive != m->exclusive || !mine(ch, q))
        return locked(ch, q->name);
    return amqp_bit_equivalent(ch, AMQP_QUEUE, q->name, "durable", q->durable, m->durable && !m->exclusive) &&
           amqp_bit_equivalent(ch, AMQP_QUEUE, q->name, "auto_delete", q->auto_delete, m->auto_delete) &&
           amqp_args_equivalent(ch, AMQP_QUEUE, q->name, q->args, m->arguments, compared_args);
}

static int declare_passive(struct amqp_channel *ch, const struct amqp_queue_declare *m)
{
    struct slice name = m->queue;
    const struct topo_queue *q;
    char text[AMQP_RS_MAX];

    if (!amqp_queue_name(ch, &name))
        return 0;
    /* Any permission will do. */
    if (!amqp_allowed(ch->session, AMQP_CONFIGURE, name) && !amqp_allowed(ch->session, AMQP_WRITE, name) &&
        !amqp_allowed(ch->session, AMQP_READ, name))
        return amqp_fail(ch, AMQP_ACCESS_REFUSED, "access to %s refused for user '%.*s'",
                         amqp_rs(text, AMQP_QUEUE, name, ch->session->vhost), SLICE_FMT(ch->session->user));
    q = amqp_queue_usable(ch, name);
    return q == NULL ? 0 : declare_ok(ch, q, m->nowait);
}

int amqp_on_queue_declare(struct amqp_channel *ch, const struct amqp_queue_declare *m)
{
    struct amqp_session *s = ch->session;
    struct amqp_wait *w = s->wait;
    const struct topo_queue *q;
    struct slice name = m->queue;

    if (amqp_reply_is_name(name)) { /* always passive: it is there with one consumer, or it is not */
        char text[AMQP_RS_MAX];

        if (!amqp_reply_lives(s->front, name))
            return amqp_fail(ch, AMQP_NOT_FOUND, "no %s", amqp_rs(text, AMQP_QUEUE, name, s->vhost));
        if (!m->nowait)
            amqp_put_queue_declare_ok(conn_out(s->conn), ch->number,
                                      &(struct amqp_queue_declare_ok){name, 0, 1});
        return 0;
    }
    if (m->passive)
        return declare_passive(ch, m);
    if (name.len == 0) {
        w = amqp_session_wait(s);
        if (w->name[0] == '\0')
            amqp_generate_name(w->name, "amq.gen-");
        name = slice_str(w->name);
    }
    q = topo_queue_find(amqp_session_view(s), s->vhost, name);
    if (w != NULL && w->answered) {
        int err = w->proposal.err;

        w->answered = w->proposed = false;
        if (err < 0 && err != ERR_MISMATCH && err != ERR_EXISTS && err != ERR_LOCKED)
            return proposal_failed(ch, err);
        /* Whoever comes first of two connections that declared it at once owns it. */
        if (err == 0 && m->exclusive && amqp_exclusive_claim(s, w->proposal.id))
            buf_put_be64(&s->exclusive, w->proposal.id);
    }
    if (q == NULL && m->queue.len >= 4 && memcmp(m->queue.data, "amq.", 4) == 0)
        return amqp_fail(ch, AMQP_ACCESS_REFUSED, "queue name '%.*s' contains reserved prefix 'amq.*'",
                         SLICE_FMT(m->queue));
    if (!amqp_permitted(ch, AMQP_CONFIGURE, AMQP_QUEUE, name))
        return 0;
    if (q != NULL)
        return equivalent(ch, q, m) ? declare_ok(ch, q, m->nowait) : 0;
    if (!amqp_queue_args_check(ch, name, m))
        return 0;
    w = amqp_session_wait(s);
    buf_clear(&w->proposal.command);
    topo_cmd_queue_declare(&w->proposal.command, s->vhost, name, m->durable && !m->exclusive, m->exclusive,
                           m->auto_delete, m->exclusive ? topology_node_id(s->front->o.topology) : 0,
                           m->exclusive ? topology_node_epoch(s->front->o.topology) : 0, m->arguments);
    return amqp_propose(s);
}

/* ---- bind and unbind ----------------------------------------------------------------------------------- */

/* What queue.bind, queue.unbind, exchange.bind and exchange.unbind have in common. */
int amqp_bind(struct amqp_channel *ch, bool add, enum amqp_kind kind, struct slice destination,
              struct slice source, struct slice routing_key, struct slice args, bool *ret_done)
{
    struct amqp_session *s = ch->session;
    const struct topology *v = amqp_session_view(s);
    struct amqp_wait *w = s->wait;
    const struct topo_exchange *x, *dx = NULL;
    const struct topo_queue *q = NULL;
    struct amqp_value mode;
    struct slice missing = SLICE_NONE;
    enum amqp_kind missing_kind = AMQP_EXCHANGE;
    char text[AMQP_RS_MAX];
    enum topo_binding_kind to = kind == AMQP_QUEUE ? TOPO_TO_QUEUE : TOPO_TO_EXCHANGE;
    uint64_t destination_id;

    *ret_done = false;
    if (w != NULL && w->answered) {
        int err = w->proposal.err;

        w->answered = w->proposed = false;
        *ret_done = err == 0;
        if (err == 0)
            return 0;
        if (err != ERR_NOT_FOUND)
            return proposal_failed(ch, err);
        /* Something went away meanwhile: look again, and say what. */
    }
    if (kind == AMQP_QUEUE && amqp_reply_is_name(destination))
        return amqp_fail(ch, AMQP_ACCESS_REFUSED,
                         "cannot bind or unbind to a volatile (direct reply-to) queue");
    if (!amqp_permitted(ch, AMQP_WRITE, kind, destination))
        return 0;
    if (source.len == 0 || (kind == AMQP_EXCHANGE && destination.len == 0))
        return amqp_fail(ch, AMQP_ACCESS_REFUSED, "operation not permitted on the default exchange");
    if (!amqp_permitted(ch, AMQP_READ, AMQP_EXCHANGE, source))
        return 0;
    x = topo_exchange_find(v, s->vhost, source);
    if (kind == AMQP_QUEUE) {
        q = topo_queue_find(v, s->vhost, destination);
        if (q == NULL) {
            missing = destination;
            missing_kind = AMQP_QUEUE;
        }
    } else {
        dx = topo_exchange_find(v, s->vhost, destination);
        if (dx == NULL)
            missing = destination;
    }
    if (x == NULL) {
        missing = source;
        missing_kind = AMQP_EXCHANGE;
    }
    if (missing.data != NULL)
        return amqp_fail(ch, AMQP_NOT_FOUND, "no %s", amqp_rs(text, missing_kind, missing, s->vhost));
    if (q != NULL && !mine(ch, q)) {
        locked(ch, destination);
        return 0;
    }
    if (x->type == TOPO_HEADERS && !amqp_headers_args_check(args, &mode)) {
        struct buf value = {0};

        amqp_value_text(&mode, &value);
        amqp_fail(ch, AMQP_PRECONDITION_FAILED,
                  "Invalid x-match field value <<\"%.*s\">>; expected all, any, all-with-x, or any-with-x",
                  SLICE_FMT(buf_slice(&value)));
        buf_fini(&value);
        return 0;
    }
    destination_id = q != NULL ? q->id : dx->id;
    w = amqp_session_wait(s);
    buf_clear(&w->proposal.command);
    if (add)
        topo_cmd_bind(&w->proposal.command, x->id, to, destination_id, routing_key, args);
    else
        topo_cmd_unbind(&w->proposal.command, x->id, to, destination_id, routing_key, args);
    return amqp_propose(s);
}

/* A queue named "" is the last declared one; an empty key beside it is that name, too (section 1.7.2.3). */
static bool bind_names(struct amqp_channel *ch, struct slice *queue, struct slice *key)
{
    bool shortcut = queue->len == 0;

    if (!amqp_queue_name(ch, queue))
        return false;
    if (shortcut && key->len == 0)
        *key = *queue;
    return true;
}

int amqp_on_queue_bind(struct amqp_channel *ch, const struct amqp_queue_bind *m)
{
    struct slice queue = m->queue, key = m->routing_key;
    bool done;
    int r;

    if (!bind_names(ch, &queue, &key))
        return 0;
    r = amqp_bind(ch, true, AMQP_QUEUE, queue, m->exchange, key, m->arguments, &done);
    if (done && !m->nowait)
        amqp_put_queue_bind_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_queue_bind_ok){});
    return r;
}

int amqp_on_queue_unbind(struct amqp_channel *ch, const struct amqp_queue_unbind *m)
{
    struct slice queue = m->queue, key = m->routing_key;
    bool done;
    int r;

    if (!bind_names(ch, &queue, &key))
        return 0;
    r = amqp_bind(ch, false, AMQP_QUEUE, queue, m->exchange, key, m->arguments, &done);
    if (done)
        amqp_put_queue_unbind_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_queue_unbind_ok){});
    return r;
}

/* ---- purge and delete ---------------------------------------------------------------------------------- */

static int purge_ok(struct amqp_channel *ch, const struct amqp_queue_purge *m, uint64_t count)
{
    if (!m->nowait)
        amqp_put_queue_purge_ok(conn_out(ch->session->conn), ch->number,
                                &(struct amqp_queue_purge_ok){(uint32_t)MIN_OF(count, UINT32_MAX)});
    return 0;
}

static int purge_remote(struct amqp_channel *ch, const struct amqp_queue_purge *m, const struct topo_queue *tq)
{
    uint64_t count;
    uint32_t consumers;
    bool ok;
    int r = ask_remote(ch, tq, FORWARD_PURGE, &count, &consumers, &ok);

    return ok ? purge_ok(ch, m, count) : r;
}

int amqp_on_queue_purge(struct amqp_channel *ch, const struct amqp_queue_purge *m)
{
    struct amqp_session *s = ch->session;
    struct slice name = m->queue;
    const struct topo_queue *tq;
    struct partition_guard g;
    struct queue *q;
    uint64_t count = 0;
    int err;

    if (!amqp_queue_name(ch, &name) || !amqp_permitted(ch, AMQP_READ, AMQP_QUEUE, name))
        return 0;
    tq = amqp_queue_usable(ch, name);
    if (tq == NULL)
        return 0;
    if ((s->wait != NULL && s->wait->asked) || amqp_queue_is_remote(s->aw, tq))
        return purge_remote(ch, m, tq);
    err = amqp_session_enter_queue(s, tq, &g);
    if (err == ERR_PARKED)
        return AMQP_AGAIN;
    if (amqp_is_role_error(s->aw, err))
        return purge_remote(ch, m, tq);
    if (err < 0)
        return amqp_queue_unavailable(ch, name, err);
    q = amqp_queue_enter(s, partition_queues(g.p), tq->id, &err);
    if (q != NULL) {
        struct amqp_round *round = amqp_round_new(s);
        bool waits;

        count = queue_purge(q);
        (void)queue_table_flush(partition_queues(g.p),
                                tq->durable ? &round->commit
                                            : NULL); /* a full disk: settled in memory, logged later */
        waits = tq->durable && !log_commit_arm(&round->commit);
        if (waits) {
            round->hold = conn_hold(s->conn);
            round->held = true;
        }
        amqp_round_submit(round, waits);
    }
    (void)partition_leave(&g);
    if (q == NULL)
        return amqp_queue_unavailable(ch, name, err);
    return purge_ok(ch, m, count);
}

static int delete_ok(struct amqp_channel *ch, const struct amqp_queue_delete *m, uint64_t count)
{
    if (!m->nowait)
        amqp_put_queue_delete_ok(conn_out(ch->session->conn), ch->number,
                                 &(struct amqp_queue_delete_ok){(uint32_t)MIN_OF(count, UINT32_MAX)});
    return 0;
}

int amqp_on_queue_delete(struct amqp_channel *ch, const struct amqp_queue_delete *m)
{
    struct amqp_session *s = ch->session;
    struct amqp_wait *w = s->wait;
    struct slice name = m->queue;
    const struct topo_queue *tq;
    struct partition_guard g;
    struct queue *q;
    uint64_t ready = 0;
    uint32_t consumers = 0;
    char text[AMQP_RS_MAX];
    bool remote;
    int err;

    if (w != NULL && w->answered) {
        int answer = w->proposal.err;
        uint64_t count = w->count;

        w->answered = w->proposed = false;
        if (answer < 0 && answer != ERR_NOT_FOUND)
            return proposal_failed(ch, answer);
        amqp_exclusive_drop(s->front, w->queue_id);
        return delete_ok(ch, m, count);
    }
    if (!amqp_queue_name(ch, &name) || !amqp_permitted(ch, AMQP_CONFIGURE, AMQP_QUEUE, name))
        return 0;
    tq = topo_queue_find(amqp_session_view(s), s->vhost, name);
    if (tq == NULL)
        return delete_ok(ch, m, 0); /* idempotent since RabbitMQ 3.2 */
    if (!mine(ch, tq)) {
        locked(ch, name);
        return 0;
    }
    remote = (w != NULL && w->asked) || amqp_queue_is_remote(s->aw, tq);
    err = remote ? ERR_NOT_LEADER : amqp_session_enter_queue(s, tq, &g);
    if (err == ERR_PARKED)
        return AMQP_AGAIN;
    if ((remote || amqp_is_role_error(s->aw, err)) && (m->if_unused || m->if_empty || !m->nowait)) {
        bool ok;
        int r = ask_remote(ch, tq, FORWARD_COUNTS, &ready, &consumers, &ok);

        if (!ok)
            return r;
    } else if (err == 0) { /* a failed partition's queue can still be deleted */
        q = amqp_queue_enter(s, partition_queues(g.p), tq->id, &err);
        if (q != NULL) {
            ready = queue_ready(q);
            consumers = queue_consumers(q);
        }
        (void)partition_leave(&g);
    }
    amqp_rs(text, AMQP_QUEUE, name, s->vhost);
    if (m->if_unused && consumers != 0)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "%s in use", text);
    if (m->if_empty && ready != 0)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "%s not empty", text);
    w = amqp_session_wait(s);
    w->count = ready;
    w->queue_id = tq->id;
    buf_clear(&w->proposal.command);
    topo_cmd_queue_delete(&w->proposal.command, tq->id);
    return amqp_propose(s);
}
