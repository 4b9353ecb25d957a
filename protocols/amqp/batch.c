#include "protocols/amqp/batch.h"

#include "base/diag.h"
#include "base/mem.h"
#include "protocols/amqp/remote.h"

#define BATCH_KEEP_PUBLISHES 1024 /* larger arrays are not kept for reuse */

/* Grows an array to hold one more. */
#define ARRAY_ROOM(array, count, cap)                                                                        \
    do {                                                                                                     \
        if ((count) == (cap)) {                                                                              \
            (cap) = (cap) == 0 ? 16 : (cap)*2;                                                               \
            (array) = mem_realloc((array), (cap) * sizeof((array)[0]));                                      \
        }                                                                                                    \
    } while (0)

struct amqp_batch *amqp_batch_get(struct amqp_session *s)
{
    if (s->batch == NULL) {
        s->batch = s->aw->spare;
        s->aw->spare = NULL;
        if (s->batch == NULL)
            s->batch = mem_zalloc(sizeof(*s->batch));
    }
    return s->batch;
}

void amqp_batch_free(struct amqp_batch *b)
{
    if (b == NULL)
        return;
    for (uint32_t i = 0; i < b->body_count; i++)
        buf_fini(&b->bodies[i]);
    mem_free(b->publishes);
    mem_free(b->ops);
    mem_free(b->handles);
    mem_free(b->parts);
    mem_free(b->bodies);
    buf_fini(&b->owned);
    mem_free(b);
}

/* Empties it and gives it back to the worker. */
static void batch_retire(struct amqp_session *s)
{
    struct amqp_batch *b = s->batch;

    s->batch = NULL;
    for (uint32_t i = 0; i < b->body_count; i++)
        buf_fini(&b->bodies[i]);
    if (s->aw->spare != NULL || b->publish_cap > BATCH_KEEP_PUBLISHES ||
        b->handle_cap > 16 * BATCH_KEEP_PUBLISHES || b->owned.cap != 0) {
        b->body_count = 0;
        amqp_batch_free(b);
        return;
    }
    b->publish_count = b->op_count = b->handle_count = b->part_count = b->done_parts = b->last_part =
        b->body_count = 0;
    b->confirming = b->transaction = false;
    b->round = NULL;
    s->aw->spare = b;
}

static struct amqp_batch_part *part_of(struct amqp_batch *b, uint32_t partition)
{
    if (b->last_part < b->part_count && b->parts[b->last_part].partition == partition)
        return &b->parts[b->last_part];
    for (uint32_t i = 0; i < b->part_count; i++) {
        if (b->parts[i].partition == partition) {
            b->last_part = i;
            return &b->parts[i];
        }
    }
    ARRAY_ROOM(b->parts, b->part_count, b->part_cap);
    b->last_part = b->part_count;
    b->parts[b->part_count] = (struct amqp_batch_part){.partition = partition};
    return &b->parts[b->part_count++];
}

static struct amqp_op *add_op(struct amqp_batch *b, struct amqp_batch_part *part)
{
    uint32_t index;

    if (b->op_count == 0)
        b->op_count = 1;
    if (b->op_count >= b->op_cap) {
        b->op_cap = b->op_cap == 0 ? 64 : b->op_cap * 2;
        b->ops = mem_realloc(b->ops, b->op_cap * sizeof(*b->ops));
    }
    index = b->op_count++;
    if (part->first == 0)
        part->first = index;
    else
        b->ops[part->last].next = index;
    part->last = index;
    b->ops[index].next = 0;
    return &b->ops[index];
}

void amqp_batch_publish(struct amqp_session *s, const struct amqp_publish *p, const struct amqp_route *route,
                        struct buf *body)
{
    struct amqp_batch *b = amqp_batch_get(s);
    uint32_t item = b->publish_count;

    ARRAY_ROOM(b->publishes, b->publish_count, b->publish_cap);
    b->publishes[b->publish_count++] = *p;
    if (body != NULL) {
        ARRAY_ROOM(b->bodies, b->body_count, b->body_cap);
        b->bodies[b->body_count++] = *body;
        *body = (struct buf){0};
    }
    b->confirming |= p->confirm != 0;
    for (uint32_t i = 0; i < route->count; i++) {
        const struct amqp_target *t = &route->targets[i];
        struct amqp_batch_part *part;
        struct amqp_op *op;

        if (amqp_is_remote(s->aw, t->partition, t->home, t->queue_id)) {
            bool wait = p->confirm != 0 || b->transaction;

            if (wait && b->round == NULL)
                b->round = amqp_round_new(s);
            amqp_remote_publish(s, p, t, wait ? b->round : NULL);
            continue;
        }
        part = part_of(b, t->partition);
        op = add_op(b, part);
        part->commit |= (p->confirm != 0 || b->transaction) && p->persistent && route->targets[i].durable;
        op->kind = AMQP_OP_PUBLISH;
        op->queue_id = route->targets[i].queue_id;
        op->item = item;
        op->channel = p->channel;
    }
}

void amqp_batch_settle(struct amqp_channel *ch, enum queue_settle how, const struct queue_handle *h)
{
    const struct amqp_source *source = &ch->sources[h->consumer];
    struct amqp_batch *b;
    struct amqp_batch_part *part;
    struct amqp_op *op;

    if (GM_UNLIKELY(source->attachment != NULL)) {
        amqp_remote_settle(ch, h->consumer, how, h);
        return;
    }
    b = amqp_batch_get(ch->session);
    part = part_of(b, source->partition);
    op = part->first == 0 ? NULL : &b->ops[part->last];

    ARRAY_ROOM(b->handles, b->handle_count, b->handle_cap);
    b->handles[b->handle_count++] = *h;
    if (op == NULL || op->kind != AMQP_OP_SETTLE || op->how != how || op->channel != ch ||
        op->source != h->consumer || op->item + op->count != b->handle_count - 1) {
        op = add_op(b, part);
        op->kind = AMQP_OP_SETTLE;
        op->how = how;
        op->source = h->consumer;
        op->queue_id = source->queue_id;
        op->item = b->handle_count - 1;
        op->count = 0;
        op->channel = ch;
    }
    op->count++;
}

static void round_free(struct amqp_round *r);

/* ---- running ------------------------------------------------------------------------------------------- */

static void own_slice(struct buf *owned, struct slice *s)
{
    struct slice copy = slice_of(owned->data + owned->len, s->len);

    buf_put_slice(owned, *s);
    *s = copy;
}

/* Copies what borrows from the input buffer. Bodies that were assembled are the batch's already. */
static void batch_own(struct amqp_batch *b)
{
    size_t need = 0;

    if (b->owned.cap != 0)
        return;
    for (uint32_t i = 0; i < b->publish_count; i++) {
        const struct amqp_publish *p = &b->publishes[i];

        need += p->exchange.len + p->routing_key.len + p->properties.len + p->body.len;
    }
    buf_reserve(&b->owned, need + 1);
    for (uint32_t i = 0; i < b->publish_count; i++) {
        struct amqp_publish *p = &b->publishes[i];

        own_slice(&b->owned, &p->exchange);
        own_slice(&b->owned, &p->routing_key);
        own_slice(&b->owned, &p->properties);
        own_slice(&b->owned, &p->body);
    }
    CHECK(b->owned.len == need);
    for (uint32_t i = 0; i < b->body_count; i++)
        buf_fini(&b->bodies[i]);
    b->body_count = 0;
}

static void publish_failed(struct amqp_batch *b, const struct amqp_op *op, int err)
{
    struct amqp_publish *p = &b->publishes[op->item];

    if (p->err == 0) {
        p->err = err;
        p->err_queue = op->queue_id;
    }
}

static void part_failed(struct amqp_batch *b, const struct amqp_batch_part *part, int err)
{
    for (uint32_t i = part->first; i != 0; i = b->ops[i].next) {
        if (b->ops[i].kind == AMQP_OP_PUBLISH) /* what was forwarded is answered by itself */
            publish_failed(b, &b->ops[i], err);
    }
}

static void run_publish(struct amqp_batch *b, const struct amqp_op *op, struct queue *q, int64_t now_ms)
{
    const struct amqp_publish *p = &b->publishes[op->item];
    struct queue_message m = {.exchange = p->exchange,
                              .routing_key = p->routing_key,
                              .properties = p->properties,
                              .body = &p->body,
                              .body_count = 1,
                              .persistent = p->persistent,
                              .priority = p->priority,
                              .expiration_ms = p->expiration_ms};
    int err = queue_publish(q, &m, now_ms, NULL);

    if (err < 0)
        publish_failed(b, op, err);
}

static void run_settle(struct amqp_batch *b, const struct amqp_op *op, struct queue *q, bool clustered)
{
    struct amqp_channel *ch = op->channel;
    struct amqp_consumer *c = ch->sources[op->source].consumer;

    /* Led elsewhere in between: what the engine knew of these deliveries is gone, they must be claimed. */
    if (GM_UNLIKELY(clustered && !ch->sources[op->source].home && (q == NULL || ch->sources[op->source].opened != queue_opened(q)))) {
        amqp_remote_adopt(ch, op->source);
        for (uint32_t i = 0; i < op->count; i++)
            amqp_remote_settle(ch, op->source, op->how, &b->handles[op->item + i]);
        return;
    }
    if (q != NULL)
        queue_settle(q, c == NULL ? NULL : &c->qc, op->how, &b->handles[op->item], op->count);
    for (uint32_t i = 0; i < op->count; i++)
        amqp_source_settled(ch, op->source, true);
}

static void run_part(struct amqp_session *s, struct amqp_batch *b, const struct amqp_batch_part *part,
                     struct partition_guard *g)
{
    struct queue_table *t = partition_queues(g->p);
    struct queue *q = NULL;
    uint64_t last_id = 0;
    int64_t now_ms = worker_wall_ms(s->aw->worker);
    struct log_commit *commit = NULL;
    bool short_of_replicas = part->commit && !partition_quorum_ok(g->p);
    int err;

    for (uint32_t i = part->first; i != 0; i = b->ops[i].next) {
        const struct amqp_op *op = &b->ops[i];

        if (GM_UNLIKELY(op->kind == AMQP_OP_DONE))
            continue;
        if (op->queue_id != last_id || q == NULL) {
            last_id = op->queue_id;
            err = 0;
            q = op->kind == AMQP_OP_PUBLISH ? amqp_queue_enter(s, t, last_id, &err) : queue_find(t, last_id);
            /* A queue that was deleted meanwhile counts as having taken the message (rule 16). */
            if (q == NULL && op->kind == AMQP_OP_PUBLISH && err != ERR_NOT_FOUND)
                publish_failed(b, op, err);
        }
        if (op->kind == AMQP_OP_SETTLE)
            run_settle(b, op, q, s->front->o.bus != NULL);
        else if (q != NULL && short_of_replicas && b->publishes[op->item].persistent && (b->publishes[op->item].confirm != 0 || b->transaction))
            publish_failed(b, op, ERR_NO_REPLICAS);
        else if (q != NULL)
            run_publish(b, op, q, now_ms);
    }
    if (part->commit) {
        if (b->round == NULL)
            b->round = amqp_round_new(s);
        commit = &b->round->commit;
    }
    err = queue_table_flush(t, commit);
    if (err < 0)
        part_failed(b, part, err);
}

/* Describes the batch's confirms in a round: contiguous numbers of one channel are one part. */
static void round_fill(struct amqp_round *r, const struct amqp_batch *b)
{
    for (uint32_t i = 0; i < b->publish_count; i++) {
        const struct amqp_publish *p = &b->publishes[i];
        struct amqp_round_part *part = r->part_count == 0 ? NULL : &r->parts[r->part_count - 1];

        if (p->confirm == 0)
            continue;
        if (part == NULL || part->serial != p->channel->serial || part->last + 1 != p->confirm) {
            ARRAY_ROOM(r->parts, r->part_count, r->part_cap);
            part = &r->parts[r->part_count++];
            *part = (struct amqp_round_part){p->channel->serial, p->channel->number, p->confirm, p->confirm};
        }
        part->last = p->confirm;
        if (p->err < 0) {
            ARRAY_ROOM(r->nacks, r->nack_count, r->nack_cap);
            r->nacks[r->nack_count++] = (struct amqp_nack){p->channel->serial, p->confirm};
        }
    }
}

/* Without confirms a refusal is silent when the queue asked for it (x-overflow=reject-publish); anything else
 * ends the channel, so that the client does not believe its messages are kept. */
static void report_failures(struct amqp_session *s, struct amqp_batch *b)
{
    for (uint32_t i = 0; i < b->publish_count; i++) {
        const struct amqp_publish *p = &b->publishes[i];
        const struct topo_queue *q;
        char text[AMQP_RS_MAX];

        if (p->err == 0 || p->err == ERR_LIMIT || p->confirm != 0 || p->channel->state != AMQP_CHANNEL_OPEN ||
            s->conn == NULL)
            continue;
        q = topo_queue_by_id(amqp_session_view(s), p->err_queue);
        s->method = AMQP_ID_basic_publish;
        amqp_fail(p->channel, AMQP_PRECONDITION_FAILED, "%s refused the message: %s",
                  q == NULL ? "the queue" : amqp_rs(text, AMQP_QUEUE, q->name, q->vhost), err_text(p->err));
    }
}

static bool all_done(const struct amqp_batch *b, const struct amqp_batch_part *part)
{
    for (uint32_t i = part->first; i != 0; i = b->ops[i].next) {
        if (b->ops[i].kind != AMQP_OP_DONE)
            return false;
    }
    return true;
}

/* Before anything of a part is executed: 0, or ERR_PARKED when a queue it publishes to is being opened. */
static int await_queues(struct amqp_session *s, const struct amqp_batch *b, const struct amqp_batch_part *part, struct partition_guard *g)
{
    uint64_t last_id = 0;

    for (uint32_t i = part->first; i != 0; i = b->ops[i].next) {
        const struct amqp_op *op = &b->ops[i];

        if (op->kind != AMQP_OP_PUBLISH || op->queue_id == last_id)
            continue;
        last_id = op->queue_id;
        if (GM_UNLIKELY(amqp_session_await_opening(s, last_id, g) != 0))
            return ERR_PARKED;
    }
    return 0;
}

int amqp_batch_flush(struct amqp_session *s)
{
    struct amqp_batch *b = s->batch;
    struct amqp_round *round;
    bool failed = false;

    if (b == NULL)
        return 0;
    for (; b->done_parts < b->part_count; b->done_parts++) {
        struct amqp_batch_part *part = &b->parts[b->done_parts];
        struct partition_guard g;
        int err = amqp_session_enter(s, part->partition, &g);

        if (err < 0 && amqp_is_role_error(s->aw, err)) {
            /* Led elsewhere, or not for the moment: whoever leads answers. What is left are exclusive queues of this node. */
            amqp_remote_take_part(s, b, part);
            err = all_done(b, part) ? 0 : amqp_session_enter_upkeep(s, part->partition, &g);
            if (err == 0 && all_done(b, part))
                continue;
        }
        if (err == 0)
            err = await_queues(s, b, part, &g);
        if (err == ERR_PARKED) {
            batch_own(b);
            return ERR_PARKED;
        }
        if (err < 0) {
            part_failed(b, part, err);
            continue;
        }
        run_part(s, b, part, &g);
        err = partition_leave(&g);
        if (err < 0)
            part_failed(b, part, err);
    }
    round = b->round;
    if (b->confirming && s->conn != NULL) {
        bool waits = round != NULL && !log_commit_arm(&round->commit);

        if (round == NULL)
            round = amqp_round_new(s);
        round_fill(round, b);
        amqp_round_submit(round, waits);
    } else if (round != NULL && s->conn != NULL) {
        bool waits = !log_commit_arm(&round->commit);

        if (waits || round->remote_left != 0) {
            round->hold = conn_hold(s->conn);
            round->held = true;
        }
        amqp_round_submit(round, waits);
    } else if (round != NULL) {
        amqp_round_discard(round); /* the connection is gone, nobody waits */
    }
    for (uint32_t i = 0; i < b->publish_count && !failed; i++)
        failed = b->publishes[i].err < 0 && b->publishes[i].confirm == 0;
    if (failed) {
        s->batch = NULL; /* raising an exception flushes */
        report_failures(s, b);
        s->batch = b;
    }
    batch_retire(s);
    return 0;
}

/* ---- rounds -------------------------------------------------------------------------------------------- */

static void round_free(struct amqp_round *r)
{
    amqp_remote_round_forget(r);
    mem_free(r->parts);
    mem_free(r->nacks);
    mem_free(r);
}

static void put_ack(struct amqp_session *s, uint16_t channel, uint64_t number, bool multiple)
{
    amqp_put_basic_ack(conn_out(s->conn), channel, &(struct amqp_basic_ack){number, multiple});
}

static void put_nack(struct amqp_session *s, uint16_t channel, uint64_t number, bool multiple)
{
    /* requeue has no meaning towards a publisher; RabbitMQ sends false. */
    amqp_put_basic_nack(conn_out(s->conn), channel, &(struct amqp_basic_nack){number, multiple, false});
}

/* The first refused number of a part at or above `from`; last + 1 when there is none. */
static uint64_t next_nack(const struct amqp_round *r, const struct amqp_round_part *part, uint64_t from)
{
    uint64_t next = part->last + 1;

    for (uint32_t i = 0; i < r->nack_count; i++) {
        if (r->nacks[i].serial == part->serial && r->nacks[i].number >= from && r->nacks[i].number < next)
            next = r->nacks[i].number;
    }
    return next;
}

/* Answers one part: everything before it on the channel was answered before, so one ack with `multiple`
 * covers a run of successes. */
static void round_answer_part(struct amqp_session *s, const struct amqp_round *r,
                              const struct amqp_round_part *part)
{
    uint64_t from = part->first;

    if (r->err < 0) {
        put_nack(s, part->channel, part->last, part->last != part->first);
        amqp_count(&s->aw->count.nacked, part->last - part->first + 1);
        return;
    }
    while (from <= part->last) {
        uint64_t nack = next_nack(r, part, from);

        if (nack > from) {
            put_ack(s, part->channel, nack - 1, nack - 1 != from);
            amqp_count(&s->aw->count.confirmed, nack - from);
        }
        if (nack <= part->last) {
            put_nack(s, part->channel, nack, false);
            amqp_count(&s->aw->count.nacked, 1);
        }
        from = nack + 1;
    }
}

/* Answers the rounds that are done, oldest first, and stops at one that is not. Neighbouring rounds of one
 * channel without failures share one ack. */
static void rounds_answer(struct amqp_session *s)
{
    struct amqp_round_part pending = {0};
    const struct amqp_round none = {0};

    while (!list_empty(&s->rounds)) {
        struct amqp_round *r = LIST_ENTRY(s->rounds.next, struct amqp_round, node);

        if (!r->done || r->remote_left != 0)
            break;
        list_remove(&r->node);
        for (uint32_t i = 0; i < r->part_count && s->conn != NULL; i++) {
            const struct amqp_round_part *part = &r->parts[i];
            struct amqp_channel *ch = amqp_channel_find(s, part->channel);

            if (ch == NULL || ch->serial != part->serial || ch->state != AMQP_CHANNEL_OPEN)
                continue;
            if (r->err == 0 && r->nack_count == 0 && pending.serial == part->serial &&
                pending.last + 1 == part->first) {
                pending.last = part->last;
                continue;
            }
            if (pending.serial != 0)
                round_answer_part(s, &none, &pending);
            pending = *part;
            if (r->err < 0 || r->nack_count != 0) {
                round_answer_part(s, r, part);
                pending.serial = 0;
            }
        }
        if (r->held && s->conn != NULL) {
            if (pending.serial != 0)
                round_answer_part(s, &none, &pending);
            pending.serial = 0;
            if (r->err < 0)
                conn_abort(s->conn, r->err);
            else
                conn_hold_release(s->conn, r->hold);
        }
        round_free(r);
    }
    if (pending.serial != 0 && s->conn != NULL)
        round_answer_part(s, &none, &pending);
}

static void round_done(struct log_commit *c, int err)
{
    struct amqp_round *r = CONTAINER_OF(c, struct amqp_round, commit);

    r->done = true;
    r->err = err;
    rounds_answer(r->session);
}

struct amqp_round *amqp_round_new(struct amqp_session *s)
{
    struct amqp_round *r = mem_zalloc(sizeof(*r));

    r->session = s;
    list_init(&r->remote_parts);
    list_init(&r->remote_waits);
    log_commit_init(&r->commit, s->aw->worker, round_done);
    return r;
}

void amqp_round_submit(struct amqp_round *r, bool waits)
{
    struct amqp_session *s = r->session;

    list_push_back(&s->rounds, &r->node);
    r->done = !waits;
    if (!waits)
        rounds_answer(s);
}

void amqp_round_discard(struct amqp_round *r)
{
    log_commit_cancel(&r->commit);
    round_free(r);
}

/* Before it was submitted the rest of its batch is still to come. */
void amqp_round_try(struct amqp_round *r)
{
    if (list_linked(&r->node) && r->done)
        rounds_answer(r->session);
}

void amqp_round_nack(struct amqp_round *r, uint64_t serial, uint64_t number)
{
    ARRAY_ROOM(r->nacks, r->nack_count, r->nack_cap);
    r->nacks[r->nack_count++] = (struct amqp_nack){serial, number};
}

void amqp_rounds_cancel(struct amqp_session *s)
{
    struct list *n;

    while ((n = list_pop_front(&s->rounds)) != NULL) {
        struct amqp_round *r = LIST_ENTRY(n, struct amqp_round, node);

        if (!r->done)
            log_commit_cancel(&r->commit);
        round_free(r);
    }
}
