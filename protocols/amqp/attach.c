/* Attachments at a remote queue's leader, the operations behind them, and the deliveries that come back.
 *
 * At each new leader every attachment is made anew before the next operation is sent, telling what its client still holds: deliveries that are unsettled on the channel, and those whose settlement was sent and not answered
 * yet. Whatever the leader believed beyond that was lost on the way and is ready again. */
#include "base/diag.h"
#include "protocols/amqp/queues.h"
#include "protocols/amqp/remote_private.h"

static void op_done(struct bus_call *call, int err, struct slice payload);
static void attach_done(struct bus_call *call, int err, struct slice payload);

/* ---- attachments --------------------------------------------------------------------------------------- */

/* A prefetch that the channel shares is kept here, where all its deliveries come by; no leader needs to send more than that. */
static uint32_t prefetch_of(const struct amqp_channel *ch, const struct amqp_consumer *c)
{
    uint32_t own = c->qc.prefetch, shared = ch->prefetch_global;

    return shared != 0 && !c->qc.no_ack && (own == 0 || own > shared) ? shared : own;
}

static struct amqp_attachment *attachment_new(struct amqp_remote *q, struct amqp_channel *ch, uint16_t source, struct amqp_consumer *consumer)
{
    struct amqp_worker *aw = q->aw;
    struct amqp_attachment *a = mem_zalloc(sizeof(*a));

    a->remote = q;
    a->id = (uint64_t)worker_index(aw->worker) << 48 | ++aw->remotes->serial;
    a->channel = ch;
    a->source = source;
    a->consumer = consumer;
    if (consumer != NULL) {
        a->no_ack = consumer->qc.no_ack;
        a->exclusive = consumer->qc.exclusive;
        a->prefetch = consumer->qc.prefetch;
        a->priority = consumer->qc.priority;
        a->prefetch = prefetch_of(ch, consumer);
        consumer->remote = a;
    }
    list_init(&a->held);
    list_push_back(&q->attachments, &a->node);
    list_push_back(&aw->remotes->attachments[a->id % REMOTE_BUCKETS], &a->hash);
    ch->sources[source].attachment = a;
    return a;
}

static struct amqp_attachment *find(struct amqp_worker *aw, uint64_t id)
{
    if (aw->remotes == NULL)
        return NULL;
    LIST_FOREACH (n, &aw->remotes->attachments[id % REMOTE_BUCKETS]) {
        struct amqp_attachment *a = LIST_ENTRY(n, struct amqp_attachment, hash);

        if (a->id == id)
            return a;
    }
    return NULL;
}

static void reply_status(struct amqp_worker *aw, struct bus_request *r, enum forward_status status)
{
    uint8_t byte = (uint8_t)status;

    bus_reply(aw->front->o.bus, r, 0, slice_of(&byte, 1));
}

static void drop_held(struct amqp_attachment *a)
{
    struct list *n;

    while ((n = list_pop_front(&a->held)) != NULL) {
        struct remote_delivery *d = LIST_ENTRY(n, struct remote_delivery, node);

        reply_status(d->aw, d->request, FORWARD_OK); /* what it held is given back with the rest */
        mem_free(d);
    }
}

static void attachment_free(struct amqp_attachment *a)
{
    drop_held(a);
    list_remove(&a->node);
    list_remove(&a->hash);
    mem_free(a);
}

/* ---- operations ---------------------------------------------------------------------------------------- */

static struct remote_op *op_new(struct amqp_remote *q, enum bus_type type, uint8_t flags, struct amqp_attachment *a)
{
    struct remote_op *op = mem_zalloc(sizeof(*op));

    op->type = type;
    op->flags = flags;
    op->attachment = a;
    op->seq = ++q->issued;
    list_push_back(&q->ops, &op->node);
    remote_mark_dirty(q);
    return op;
}

static void op_free(struct remote_op *op)
{
    mem_free(op->settles);
    mem_free(op);
}

static void check_waits(struct amqp_remote *q)
{
    uint64_t done = list_empty(&q->ops) ? q->issued : LIST_ENTRY(q->ops.next, struct remote_op, node)->seq - 1;

    while (!list_empty(&q->waits)) {
        struct remote_wait *w = LIST_ENTRY(q->waits.next, struct remote_wait, node);
        struct amqp_round *round = w->round;

        if (w->until > done)
            break;
        list_remove(&w->node);
        list_remove(&w->round_node);
        mem_free(w);
        remote_round_step(round);
    }
}

bool amqp_remote_is_led(const struct amqp_attachment *a)
{
    int32_t epoch;

    return remote_target(a->remote, &epoch) != 0 && partitions_lease_ok(a->remote->aw->front->o.partitions);
}

void amqp_remote_wait(struct amqp_attachment *a, struct amqp_round *round)
{
    struct amqp_remote *q = a->remote;
    struct remote_wait *w;

    if (list_empty(&q->ops))
        return;
    w = mem_zalloc(sizeof(*w));
    w->round = round;
    w->until = q->issued;
    round->remote_left++;
    list_push_back(&q->waits, &w->node);
    list_push_back(&round->remote_waits, &w->round_node);
}

static void tell_asker(struct amqp_session *s, int err, struct slice rest)
{
    struct amqp_wait *w = s->wait;

    CHECK(w != NULL && w->asking);
    w->asking = false;
    w->asked = true;
    w->ask_err = err;
    buf_clear(&w->ask_answer);
    buf_put_slice(&w->ask_answer, rest);
    amqp_session_continue(s);
}

/* The first operation is over. */
static void finish_op(struct amqp_remote *q, int err, struct slice rest)
{
    struct remote_op *op = LIST_ENTRY(q->ops.next, struct remote_op, node);
    struct amqp_session *asker = op->asker;
    struct amqp_attachment *ended = op->last ? op->attachment : NULL;

    list_remove(&op->node);
    op_free(op);
    if (ended != NULL)
        attachment_free(ended);
    if (asker != NULL)
        tell_asker(asker, err, rest);
    check_waits(q);
}

static void put_settles(struct buf *out, const struct remote_op *op)
{
    uint32_t groups = 0;

    for (uint32_t i = 0; i < op->settle_count; i++)
        groups += i == 0 || op->settles[i].consumer != op->settles[i - 1].consumer || op->settles[i].how != op->settles[i - 1].how;
    buf_put_uvarint(out, groups);
    for (uint32_t i = 0, k; i < op->settle_count; i = k) {
        for (k = i + 1; k < op->settle_count && op->settles[k].consumer == op->settles[i].consumer && op->settles[k].how == op->settles[i].how; k++)
            ;
        buf_put_be64(out, op->settles[i].consumer);
        buf_put_u8(out, (uint8_t)op->settles[i].how);
        buf_put_uvarint(out, k - i);
        for (uint32_t j = i; j < k; j++)
            forward_put_handle(out, &op->settles[j].handle);
    }
}

/* Sends what is in the worker's scratch. attaching: what is attached by it, NULL for an operation. */
static void call_leader(struct amqp_remote *q, uint32_t node, int32_t epoch, struct amqp_attachment *attaching, enum bus_type type,
                        void (*done)(struct bus_call *call, int err, struct slice payload))
{
    q->op_running = true;
    q->attaching = attaching;
    q->op_node = node;
    q->op_epoch = epoch;
    q->op_call.worker = q->aw->worker;
    q->op_call.done = done;
    bus_call(q->aw->front->o.bus, node, type, buf_slice(&q->aw->scratch), REMOTE_CALL_MS, &q->op_call);
}

static void send_op(struct amqp_remote *q, struct remote_op *op, uint32_t node, int32_t epoch)
{
    struct amqp_worker *aw = q->aw;
    struct buf *text = &aw->scratch;

    buf_clear(text);
    remote_put_head(q, text, epoch, op->flags);
    switch (op->type) {
    case BUS_QUEUE_SETTLE:
        put_settles(text, op);
        break;
    case BUS_QUEUE_DETACH:
    case BUS_QUEUE_GET:
        buf_put_be64(text, op->attachment->id);
        break;
    case BUS_QUEUE_CONTROL:
        buf_put_u8(text, op->what);
        break;
    default:
        UNREACHABLE();
    }
    call_leader(q, node, epoch, NULL, op->type, op_done);
}

/* ---- attaching ----------------------------------------------------------------------------------------- */

static uint64_t put_claims(struct buf *out, const struct amqp_attachment *a)
{
    const struct amqp_unacked *u = a->channel == NULL ? NULL : &a->channel->unacked;
    uint64_t n = 0;

    if (a->no_ack)
        return 0;
    for (uint32_t i = u == NULL ? 0 : u->old_first; u != NULL && i < u->old_count; i++) {
        if (u->old[i].handle.consumer == a->source) {
            forward_put_handle(out, &u->old[i].handle);
            n++;
        }
    }
    for (uint64_t tag = u == NULL ? 0 : u->base; u != NULL && tag < u->next; tag++) {
        const struct queue_handle *h = &u->ring[tag & (u->cap - 1)];

        if (h->offset_flags != UINT64_MAX && h->consumer == a->source) {
            forward_put_handle(out, h);
            n++;
        }
    }
    LIST_FOREACH (i, &a->remote->ops) {
        const struct remote_op *op = LIST_ENTRY(i, struct remote_op, node);

        for (uint32_t k = 0; k < op->settle_count; k++) {
            if (op->settles[k].consumer == a->id) {
                forward_put_handle(out, &op->settles[k].handle);
                n++;
            }
        }
    }
    return n;
}

static void send_attach(struct amqp_remote *q, struct amqp_attachment *a, uint32_t node, int32_t epoch)
{
    struct amqp_worker *aw = q->aw;
    struct buf *text = &aw->scratch, claims = {0};
    uint64_t n = put_claims(&claims, a);

    drop_held(a); /* the leader takes back what is not claimed */
    a->generation++;
    a->as_holder = a->consumer == NULL;
    buf_clear(text);
    remote_put_head(q, text, epoch,
                    (uint8_t)((a->consumer == NULL ? FORWARD_HOLD : 0) | (a->no_ack ? FORWARD_NO_ACK : 0) | (a->exclusive ? FORWARD_EXCLUSIVE : 0)));
    buf_put_be64(text, a->id);
    buf_put_be32(text, a->generation);
    buf_put_be32(text, a->prefetch);
    buf_put_be32(text, (uint32_t)a->priority);
    buf_put_uvarint(text, n);
    buf_put_slice(text, buf_slice(&claims));
    buf_fini(&claims);
    call_leader(q, node, epoch, a, BUS_QUEUE_ATTACH, attach_done);
}

static void detach_all(struct amqp_remote *q)
{
    LIST_FOREACH (n, &q->attachments)
        LIST_ENTRY(n, struct amqp_attachment, node)->attached = false;
}

void attach_run(struct amqp_remote *q)
{
    uint32_t node;
    int32_t epoch;

    if (q->op_running || q->aw->left_cluster || (list_empty(&q->ops) && list_empty(&q->attachments)) || worker_now_us(q->aw->worker) < q->retry_us)
        return;
    node = remote_target(q, &epoch);
    if (node == 0)
        return;
    q->used_us = worker_now_us(q->aw->worker);
    if (node != q->at_node || epoch != q->at_epoch) {
        q->at_node = node;
        q->at_epoch = epoch;
        detach_all(q);
    }
    LIST_FOREACH (n, &q->attachments) {
        struct amqp_attachment *a = LIST_ENTRY(n, struct amqp_attachment, node);

        if (!a->attached) {
            send_attach(q, a, node, epoch);
            return;
        }
    }
    if (!list_empty(&q->ops))
        send_op(q, LIST_ENTRY(q->ops.next, struct remote_op, node), node, epoch);
}

/* The consumer came to its end at the leader: the client is told, if it said that it understands. */
static void consumer_is_gone(struct amqp_attachment *a)
{
    struct amqp_consumer *c = a->consumer;
    struct amqp_channel *ch;
    struct amqp_session *s;

    if (c == NULL || a->asker != NULL)
        return;
    ch = c->channel;
    s = ch->session;
    if (s->conn != NULL && s->capabilities & AMQP_CAP_CANCEL_NOTIFY && ch->state == AMQP_CHANNEL_OPEN && s->state == AMQP_RUNNING)
        amqp_put_basic_cancel(conn_out(s->conn), ch->number, &(struct amqp_basic_cancel){c->tag, true});
    amqp_remote_consumer_end(c);
}

static void attach_answered(struct amqp_remote *q, struct amqp_attachment *a, int err)
{
    struct amqp_session *asker = a->asker;

    /* A consumer that ended meanwhile is attached anew, as a holder. With an error it is not attached, and not asked again. */
    a->attached = err != 0 || a->as_holder == (a->consumer == NULL);
    a->asker = NULL;
    if (asker != NULL)
        tell_asker(asker, err, SLICE_NONE);
    else if (err != 0)
        consumer_is_gone(a);
    remote_mark_dirty(q);
}

static void attach_done(struct bus_call *call, int err, struct slice payload)
{
    struct amqp_remote *q = CONTAINER_OF(call, struct amqp_remote, op_call);
    struct amqp_attachment *a = q->attaching;
    struct reader r = reader_of(payload);

    q->op_running = false;
    q->attaching = NULL;
    if (err != 0) {
        remote_retry_later(q, err);
        return;
    }
    switch (reader_u8(&r)) {
    case FORWARD_OK:
        attach_answered(q, a, 0);
        break;
    case FORWARD_NO_QUEUE:
        if (remote_exists(q))
            remote_retry_later(q, ERR_NOT_FOUND);
        else
            attach_answered(q, a, ERR_NOT_FOUND);
        break;
    case FORWARD_LOCKED:
        attach_answered(q, a, ERR_LOCKED);
        break;
    case FORWARD_REFUSED:
        attach_answered(q, a, forward_get_refused(&r));
        break;
    default:
        remote_retry_later(q, ERR_MALFORMED);
    }
}

static void op_done(struct bus_call *call, int err, struct slice payload)
{
    struct amqp_remote *q = CONTAINER_OF(call, struct amqp_remote, op_call);
    struct remote_op *op = LIST_ENTRY(q->ops.next, struct remote_op, node);
    struct reader r = reader_of(payload);

    q->op_running = false;
    if (err != 0) {
        if (op->type == BUS_QUEUE_GET && err != ERR_BUSY)
            op->attachment->attached = false; /* what it may have been given is taken back */
        remote_retry_later(q, err);
        return;
    }
    switch (reader_u8(&r)) {
    case FORWARD_OK:
        finish_op(q, 0, slice_of(r.p, reader_left(&r)));
        break;
    case FORWARD_NO_QUEUE:
        if (remote_exists(q)) {
            remote_retry_later(q, ERR_NOT_FOUND);
            return;
        }
        finish_op(q, ERR_NOT_FOUND, SLICE_NONE);
        break;
    case FORWARD_NOT_ATTACHED:
        detach_all(q);
        break;
    case FORWARD_LOCKED:
        finish_op(q, ERR_LOCKED, SLICE_NONE);
        break;
    case FORWARD_REFUSED:
        finish_op(q, forward_get_refused(&r), SLICE_NONE);
        break;
    default:
        remote_retry_later(q, ERR_MALFORMED);
        return;
    }
    remote_mark_dirty(q);
}

/* Another leads: the one that was asked may be silent for long, and whatever it did counts once, or is taken back by attaching anew. */
static void turn_to_new_leader(struct amqp_remote *q)
{
    int32_t epoch;
    uint32_t node = remote_target(q, &epoch);

    if (!q->op_running || node == 0 || (node == q->op_node && epoch == q->op_epoch))
        return;
    bus_call_cancel(&q->op_call);
    q->op_running = false;
    q->attaching = NULL;
    q->retry_us = 0;
}

/* Who waits for too long is told; the operation goes on by itself, or is dropped when it was not sent. */
void attach_tick(struct amqp_remote *q, uint64_t now_us)
{
    /* Cut off for so long, this node may have been fenced, and leaders may have given away what its clients hold: whoever it finds then is told anew. */
    if (!partitions_lease_ok(q->aw->front->o.partitions))
        q->at_node = 0;
    turn_to_new_leader(q);
    LIST_FOREACH_SAFE (n, &q->ops) {
        struct remote_op *op = LIST_ENTRY(n, struct remote_op, node);
        struct amqp_session *asker = op->asker;

        if (asker == NULL || now_us < op->deadline_us)
            continue;
        op->asker = NULL;
        if (!(q->op_running && q->attaching == NULL && n == q->ops.next)) {
            list_remove(n);
            op_free(op);
        }
        tell_asker(asker, ERR_TIMEOUT, SLICE_NONE);
    }
    LIST_FOREACH_SAFE (n, &q->attachments) {
        struct amqp_attachment *a = LIST_ENTRY(n, struct amqp_attachment, node);
        struct amqp_session *asker = a->asker;

        if (asker == NULL || now_us < a->deadline_us)
            continue;
        a->asker = NULL;
        tell_asker(asker, ERR_TIMEOUT, SLICE_NONE);
    }
    check_waits(q);
}

void attach_queue_is_gone(struct amqp_remote *q)
{
    LIST_FOREACH_SAFE (n, &q->attachments) {
        struct amqp_attachment *a = LIST_ENTRY(n, struct amqp_attachment, node);

        if (a != q->attaching && a->asker != NULL) {
            a->attached = true;
            attach_answered(q, a, ERR_NOT_FOUND);
        } else {
            consumer_is_gone(a);
        }
    }
    while (!q->op_running && !list_empty(&q->ops))
        finish_op(q, ERR_NOT_FOUND, SLICE_NONE);
}

/* ---- what sessions do ---------------------------------------------------------------------------------- */

void amqp_remote_settle(struct amqp_channel *ch, uint16_t source, enum queue_settle how, const struct queue_handle *h)
{
    struct amqp_attachment *a = ch->sources[source].attachment;
    struct amqp_remote *q = a->remote;
    struct remote_op *op = list_empty(&q->ops) ? NULL : LIST_ENTRY(q->ops.prev, struct remote_op, node);

    if (op == NULL || op->type != BUS_QUEUE_SETTLE || op->settle_count >= 4096 || (q->op_running && q->attaching == NULL && q->ops.next == q->ops.prev))
        op = op_new(q, BUS_QUEUE_SETTLE, 0, NULL);
    if (op->settle_count == op->settle_cap) {
        op->settle_cap = op->settle_cap == 0 ? 16 : op->settle_cap * 2;
        op->settles = mem_realloc(op->settles, op->settle_cap * sizeof(op->settles[0]));
    }
    op->settles[op->settle_count++] = (struct remote_settle){a->id, *h, how};
    amqp_source_settled(ch, source, true);
}

void amqp_remote_adopt(struct amqp_channel *ch, uint16_t source)
{
    struct amqp_source *src = &ch->sources[source];
    struct amqp_worker *aw = ch->session->aw;
    struct amqp_consumer *c = src->consumer;
    struct amqp_attachment *a;

    if (src->attachment != NULL)
        return;
    CHECK(c == NULL || c->qc.queue == NULL); /* as a remote one it is freed without the engine hearing of it */
    if (c != NULL && c->committing) {
        log_commit_cancel(&c->commit);
        c->committing = false;
    }
    a = attachment_new(remote_get(aw, src->queue_id, src->partition, 0, src->durable), ch, source, c);
    a->announced = true;
    remote_mark_dirty(a->remote);
}

static int answer_of(struct amqp_session *s, int *ret_err, struct reader *ret_answer)
{
    struct amqp_wait *w = s->wait;

    w->asked = false;
    *ret_err = w->ask_err;
    *ret_answer = reader_of(buf_slice(&w->ask_answer));
    return 0;
}

static int ask(struct amqp_session *s, struct remote_op *op)
{
    op->asker = s;
    op->deadline_us = worker_now_us(s->aw->worker) + REMOTE_ASK_US;
    amqp_session_wait(s)->asking = true;
    amqp_session_park(s);
    return AMQP_AGAIN;
}

int amqp_remote_control(struct amqp_session *s, const struct topo_queue *q, uint8_t what, int *ret_err, struct reader *ret_answer)
{
    struct remote_op *op;

    if (s->wait != NULL && s->wait->asked)
        return answer_of(s, ret_err, ret_answer);
    op = op_new(remote_get(s->aw, q->id, q->partition, q->exclusive ? q->owner_node : 0, q->durable && !q->exclusive), BUS_QUEUE_CONTROL, 0, NULL);
    op->what = what;
    return ask(s, op);
}

int amqp_remote_get(struct amqp_channel *ch, const struct topo_queue *tq, bool no_ack, uint16_t *ret_source, int *ret_err, struct reader *ret_answer)
{
    struct amqp_session *s = ch->session;
    struct amqp_remote *q;
    struct amqp_attachment *a;

    *ret_source = amqp_source_new(ch, tq, NULL, 0);
    if (s->wait != NULL && s->wait->asked)
        return answer_of(s, ret_err, ret_answer);
    q = remote_get(s->aw, tq->id, tq->partition, tq->exclusive ? tq->owner_node : 0, tq->durable && !tq->exclusive);
    a = ch->sources[*ret_source].attachment;
    if (a == NULL)
        a = attachment_new(q, ch, *ret_source, NULL);
    return ask(s, op_new(q, BUS_QUEUE_GET, no_ack ? FORWARD_NO_ACK : 0, a));
}

void amqp_remote_forget(struct amqp_session *s)
{
    struct amqp_remotes *all = s->aw->remotes;

    for (unsigned i = 0; all != NULL && i < REMOTE_BUCKETS; i++) {
        LIST_FOREACH (n, &all->buckets[i]) {
            struct amqp_remote *q = LIST_ENTRY(n, struct amqp_remote, node);

            LIST_FOREACH (k, &q->ops) {
                struct remote_op *op = LIST_ENTRY(k, struct remote_op, node);

                if (op->asker == s)
                    op->asker = NULL;
            }
            LIST_FOREACH (k, &q->attachments) {
                struct amqp_attachment *a = LIST_ENTRY(k, struct amqp_attachment, node);

                if (a->asker == s)
                    a->asker = NULL;
            }
        }
    }
    s->wait->asking = false;
}

/* ---- consumers ----------------------------------------------------------------------------------------- */

void amqp_remote_consume_begin(struct amqp_consumer *c, const struct topo_queue *tq)
{
    struct amqp_session *s = c->channel->session;
    struct amqp_remote *q = remote_get(s->aw, tq->id, tq->partition, tq->exclusive ? tq->owner_node : 0, tq->durable && !tq->exclusive);
    struct amqp_attachment *a = attachment_new(q, c->channel, c->source, c);

    a->asker = s;
    a->deadline_us = worker_now_us(s->aw->worker) + REMOTE_ASK_US;
    amqp_session_wait(s)->asking = true;
    amqp_session_park(s);
    remote_mark_dirty(q);
}

void amqp_remote_prefetch_changed(struct amqp_consumer *c)
{
    struct amqp_attachment *a = c->remote;
    uint32_t prefetch = prefetch_of(c->channel, c);

    if (a->prefetch == prefetch)
        return;
    a->prefetch = prefetch;
    a->attached = false;
    remote_mark_dirty(a->remote);
}

void amqp_remote_consumer_end(struct amqp_consumer *c)
{
    struct amqp_attachment *a = c->remote;
    struct amqp_channel *ch = c->channel;
    uint16_t source = c->source;

    a->consumer = NULL;
    c->remote = NULL;
    drop_held(a); /* the leader has them as held by the client: they are given back when the source ends */
    list_remove(&c->ready);
    list_remove(&c->node);
    ch->consumer_count--;
    amqp_count(&c->aw->count.consumers, (uint64_t)-1);
    c->channel = NULL;
    ch->sources[source].consumer = NULL;
    amqp_consumer_release(c);
    a->attached = false; /* anew, as a holder, telling what really arrived */
    remote_mark_dirty(a->remote);
    amqp_source_release(ch, source);
}

void amqp_remote_source_end(struct amqp_channel *ch, uint16_t source)
{
    struct amqp_attachment *a = ch->sources[source].attachment;

    ch->sources[source].attachment = NULL;
    a->channel = NULL;
    a->consumer = NULL;
    op_new(a->remote, BUS_QUEUE_DETACH, FORWARD_REQUEUE, a)->last = true;
}

/* ---- deliveries ---------------------------------------------------------------------------------------- */

/* Writes what the connection takes. True: all of it. */
static bool write_delivery(struct amqp_consumer *c, struct remote_delivery *d)
{
    struct reader r = reader_of(slice_of(d->payload + d->at, d->len - d->at));

    while (d->left > 0) {
        struct queue_delivery one;

        if (conn_output_full(c->channel->session->conn)) {
            c->full = true;
            return false;
        }
        if (!c->qc.no_ack && amqp_channel_shared_room(c->channel) == 0) {
            c->shared_out = true;
            return false;
        }
        forward_get_delivery(&r, &one);
        amqp_consumer_deliver(c, &one);
        d->left--;
        d->at = (size_t)(r.p - d->payload);
    }
    return true;
}

void amqp_remote_consumer_serve(struct amqp_consumer *c)
{
    struct amqp_attachment *a = c->remote;
    struct amqp_session *s = c->channel->session;

    c->full = c->shared_out = false;
    if (s->conn == NULL || s->state != AMQP_RUNNING || c->channel->state != AMQP_CHANNEL_OPEN || !a->announced)
        return;
    while (!list_empty(&a->held)) {
        struct remote_delivery *d = LIST_ENTRY(a->held.next, struct remote_delivery, node);

        if (!write_delivery(c, d))
            return;
        list_remove(&d->node);
        reply_status(d->aw, d->request, FORWARD_OK);
        mem_free(d);
    }
}

void amqp_remote_consume_announced(struct amqp_consumer *c)
{
    c->remote->announced = true;
    amqp_remote_consumer_serve(c);
}

static void take_delivery(struct worker *w, struct mail *m)
{
    struct remote_delivery *d = CONTAINER_OF(m, struct remote_delivery, mail);
    struct amqp_attachment *a = find(d->aw, d->consumer);

    (void)w;
    if (d->aw->left_cluster) {
        mem_free(d);
        return;
    }
    if (a == NULL || a->consumer == NULL || a->generation != d->generation) {
        /* Of a consumer that was cancelled meanwhile: its detachment is on the way and gives them back. */
        reply_status(d->aw, d->request, a != NULL ? FORWARD_OK : FORWARD_NOT_ATTACHED);
        mem_free(d);
        return;
    }
    list_push_back(&a->held, &d->node);
    if (a->held.next == &d->node)
        amqp_remote_consumer_serve(a->consumer);
}

static void take_gone(struct worker *w, struct mail *m)
{
    struct remote_delivery *d = CONTAINER_OF(m, struct remote_delivery, mail);
    struct amqp_attachment *a = find(d->aw, d->consumer);

    (void)w;
    if (d->aw->left_cluster) {
        mem_free(d);
        return;
    }
    reply_status(d->aw, d->request, a == NULL ? FORWARD_NOT_ATTACHED : FORWARD_OK);
    if (a != NULL && a->generation == d->generation) {
        if (d->why == FORWARD_DELETED) {
            consumer_is_gone(a);
        } else {
            a->attached = false;
            remote_mark_dirty(a->remote);
        }
    }
    mem_free(d);
}

static bool deliveries_are_sound(struct reader r, uint64_t n)
{
    struct queue_delivery d;

    while (n-- > 0)
        forward_get_delivery(&r, &d);
    return forward_is_whole(&r);
}

/* On the data worker: to the worker whose consumer it is. */
static void hand_over(struct amqp_front *f, struct bus_request *r, bool gone, struct slice payload)
{
    struct reader in = reader_of(payload);
    struct remote_delivery *d;
    uint64_t consumer = reader_be64(&in), n = 0;
    uint32_t generation = reader_be32(&in);
    uint8_t why = 0;
    unsigned index = (unsigned)(consumer >> 48);

    if (r == NULL)
        return;
    if (gone)
        why = reader_u8(&in);
    else
        n = forward_get_count(&in, FORWARD_HANDLE_SIZE + 5);
    if (in.bad || index >= workers_count(f->o.workers) || why > FORWARD_ATTACH_ANEW || (gone ? reader_left(&in) != 0 : !deliveries_are_sound(in, n))) {
        bus_reply(f->o.bus, r, ERR_MALFORMED, SLICE_NONE);
        return;
    }
    d = mem_zalloc(sizeof(*d) + reader_left(&in));
    d->mail.deliver = gone ? take_gone : take_delivery;
    d->aw = &f->workers[index];
    d->request = r;
    d->consumer = consumer;
    d->generation = generation;
    d->why = why;
    d->left = n;
    d->len = reader_left(&in);
    memcpy(d->payload, in.p, d->len);
    worker_post(d->aw->worker, &d->mail);
}

static void on_deliver(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    (void)from;
    hand_over(arg, r, false, payload);
}

static void on_gone(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    (void)from;
    hand_over(arg, r, true, payload);
}

void attach_init(struct amqp_front *f)
{
    bus_handle(f->o.bus, BUS_QUEUE_DELIVER, on_deliver, f);
    bus_handle(f->o.bus, BUS_QUEUE_GONE, on_gone, f);
}

/* Requests that are not answered go with the bus. */
void attach_stop(struct amqp_remote *q)
{
    bus_call_cancel(&q->op_call);
    LIST_FOREACH (n, &q->attachments) {
        struct amqp_attachment *a = LIST_ENTRY(n, struct amqp_attachment, node);
        struct list *k;

        while ((k = list_pop_front(&a->held)) != NULL)
            mem_free(LIST_ENTRY(k, struct remote_delivery, node));
    }
}

void attach_fini(struct amqp_remote *q)
{
    struct list *n;

    while ((n = list_pop_front(&q->ops)) != NULL)
        op_free(LIST_ENTRY(n, struct remote_op, node));
    while ((n = list_pop_front(&q->waits)) != NULL)
        mem_free(LIST_ENTRY(n, struct remote_wait, node));
    while ((n = list_pop_front(&q->attachments)) != NULL) {
        struct amqp_attachment *a = LIST_ENTRY(n, struct amqp_attachment, node);
        struct list *k;

        while ((k = list_pop_front(&a->held)) != NULL)
            mem_free(LIST_ENTRY(k, struct remote_delivery, node));
        list_remove(&a->hash);
        mem_free(a);
    }
}
