/* Queues led elsewhere: which they are, their numbered publishes, and what wakes all of it. */
#include "protocols/amqp/remote_private.h"

#include "base/diag.h"

/* ---- whose is it --------------------------------------------------------------------------------------- */

static struct amqp_remote *find(struct amqp_worker *aw, uint64_t queue_id)
{
    if (aw->remotes == NULL)
        return NULL;
    LIST_FOREACH (n, &aw->remotes->buckets[queue_id % REMOTE_BUCKETS]) {
        struct amqp_remote *q = LIST_ENTRY(n, struct amqp_remote, node);

        if (q->queue_id == queue_id)
            return q;
    }
    return NULL;
}

bool amqp_is_remote_slow(const struct amqp_worker *aw, uint32_t partition, uint32_t home, uint64_t queue_id)
{
    const struct amqp_front_options *o = &aw->front->o;
    uint32_t me = topology_node_id(o->topology);
    const struct topo_partition *p;
    struct amqp_remote *q;

    if (home != 0)
        return home != me;
    p = topo_partition_at(topology_view(o->topology), partition);
    if (p == NULL)
        return false;
    if (p->leader != me)
        return true;
    /* It came to us; what was published before goes before. */
    q = find((struct amqp_worker *)(uintptr_t)aw, queue_id);
    return q != NULL && !list_empty(&q->batches);
}

uint32_t remote_target(const struct amqp_remote *q, int32_t *ret_epoch)
{
    const struct topology *v = topology_view(q->aw->front->o.topology);
    const struct topo_partition *p;

    *ret_epoch = -1;
    if (q->home != 0)
        return q->home;
    p = topo_partition_at(v, q->partition);
    if (p == NULL)
        return 0;
    *ret_epoch = p->epoch;
    return p->leader;
}

bool remote_exists(const struct amqp_remote *q)
{
    return topo_queue_by_id(topology_view(q->aw->front->o.topology), q->queue_id) != NULL;
}

void remote_put_head(const struct amqp_remote *q, struct buf *out, int32_t epoch, uint8_t flags)
{
    forward_put_head(out, &(struct forward_head){q->queue_id, q->partition, epoch, (uint8_t)(flags | (q->home != 0 ? FORWARD_HOME : 0))});
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static void publish_done(struct bus_call *call, int err, struct slice payload);
static void tick(struct worker *w, struct io_timer *t);

struct remotes_timer {
    struct amqp_remotes remotes; /* first */
    struct amqp_worker *aw;
};

static struct amqp_remotes *remotes_of(struct amqp_worker *aw)
{
    struct remotes_timer *t;

    if (aw->remotes != NULL)
        return aw->remotes;
    t = mem_zalloc(sizeof(*t));
    t->aw = aw;
    for (unsigned i = 0; i < REMOTE_BUCKETS; i++) {
        list_init(&t->remotes.buckets[i]);
        list_init(&t->remotes.attachments[i]);
    }
    list_init(&t->remotes.dirty);
    list_init(&t->remotes.full);
    io_timer_init(&t->remotes.timer, tick);
    aw->remotes = &t->remotes;
    return aw->remotes;
}

struct amqp_remote *remote_get(struct amqp_worker *aw, uint64_t queue_id, uint32_t partition, uint32_t home, bool durable)
{
    struct amqp_remotes *all = remotes_of(aw);
    struct amqp_remote *q = find(aw, queue_id);

    if (q == NULL) {
        q = mem_zalloc(sizeof(*q));
        q->aw = aw;
        q->queue_id = queue_id;
        q->partition = partition;
        q->home = home;
        q->durable = durable;
        list_init(&q->batches);
        list_init(&q->ops);
        list_init(&q->waits);
        list_init(&q->attachments);
        list_push_back(&all->buckets[queue_id % REMOTE_BUCKETS], &q->node);
        if (all->count++ == 0)
            io_timer_start(aw->worker, &all->timer, REMOTE_TICK_MS, REMOTE_TICK_MS);
    }
    q->used_us = worker_now_us(aw->worker);
    return q;
}

/* Its numbers must not be used again, so it stays while the leader may remember them... as long as this node epoch lives, unless it never published. */
static bool may_go(const struct amqp_remote *q, uint64_t now_us)
{
    return list_empty(&q->batches) && list_empty(&q->ops) && list_empty(&q->attachments) && list_empty(&q->waits) && !q->publishing && !q->op_running && !list_linked(&q->dirty) &&
           now_us - q->used_us > REMOTE_IDLE_US && ((q->number == 0 && q->incarnation == 0) || !remote_exists(q));
}

static void remote_free(struct amqp_remote *q)
{
    struct amqp_remotes *all = q->aw->remotes;

    list_remove(&q->node);
    list_remove(&q->dirty);
    if (--all->count == 0)
        io_timer_stop(q->aw->worker, &all->timer);
    mem_free(q);
}

void remote_mark_dirty(struct amqp_remote *q)
{
    if (!list_linked(&q->dirty))
        list_push_back(&q->aw->remotes->dirty, &q->dirty);
    worker_hook_once(q->aw->worker, &q->aw->hook);
}

/* A leader that is about to change tells by every kind of error; looking again soon costs little. */
void remote_retry_later(struct amqp_remote *q, int err)
{
    q->retry_us = err == ERR_BUSY ? 0 : worker_now_us(q->aw->worker) + REMOTE_RETRY_US;
    if (err == ERR_BUSY)
        remote_mark_dirty(q);
}

/* ---- rounds -------------------------------------------------------------------------------------------- */

void remote_round_step(struct amqp_round *r)
{
    CHECK(r->remote_left > 0);
    if (--r->remote_left == 0)
        amqp_round_try(r);
}

void amqp_remote_round_forget(struct amqp_round *r)
{
    struct list *n;

    if (r->remote_parts.next == NULL)
        return;
    while ((n = list_pop_front(&r->remote_parts)) != NULL)
        LIST_ENTRY(n, struct remote_part, round_node)->round = NULL;
    while ((n = list_pop_front(&r->remote_waits)) != NULL) {
        struct remote_wait *w = LIST_ENTRY(n, struct remote_wait, round_node);

        list_remove(&w->node);
        mem_free(w);
    }
}

/* ---- publishing ---------------------------------------------------------------------------------------- */

static struct remote_batch *open_batch(struct amqp_remote *q)
{
    struct remote_batch *b = list_empty(&q->batches) ? NULL : LIST_ENTRY(q->batches.prev, struct remote_batch, node);

    if (b != NULL && !b->closed && b->messages.len < REMOTE_BATCH_BYTES && b->count < REMOTE_BATCH_COUNT)
        return b;
    if (b != NULL)
        b->closed = true;
    b = mem_zalloc(sizeof(*b));
    list_init(&b->parts);
    list_push_back(&q->batches, &b->node);
    return b;
}

static void add_part(struct remote_batch *b, struct amqp_session *s, const struct amqp_publish *p, struct amqp_round *round)
{
    struct remote_part *part = list_empty(&b->parts) ? NULL : LIST_ENTRY(b->parts.prev, struct remote_part, node);

    if (part == NULL || part->round != round || part->conn_id != s->conn_id || part->serial != p->channel->serial || part->first + part->count != b->count) {
        part = mem_zalloc(sizeof(*part));
        part->round = round;
        part->conn_id = s->conn_id;
        part->serial = p->channel->serial;
        part->channel = p->channel->number;
        part->first = b->count;
        list_push_back(&b->parts, &part->node);
        if (round != NULL) {
            round->remote_left++;
            list_push_back(&round->remote_parts, &part->round_node);
        }
    }
    part->count++;
}

void amqp_remote_publish(struct amqp_session *s, const struct amqp_publish *p, const struct amqp_target *t, struct amqp_round *round)
{
    struct amqp_remote *q = remote_get(s->aw, t->queue_id, t->partition, t->home, t->durable);
    struct remote_batch *b = open_batch(q);
    size_t before = b->messages.len;

    if (b->count == b->confirm_cap) {
        b->confirm_cap = b->confirm_cap == 0 ? 8 : b->confirm_cap * 2;
        b->confirms = mem_realloc(b->confirms, b->confirm_cap * sizeof(b->confirms[0]));
    }
    b->confirms[b->count] = p->confirm;
    add_part(b, s, p, round);
    forward_put_message(&b->messages, &(struct forward_message){p->exchange, p->routing_key, p->properties, p->body, p->persistent, p->priority, p->expiration_ms});
    b->count++;
    b->commit |= round != NULL && p->persistent && t->durable;
    s->aw->remotes->bytes += b->messages.len - before;
    remote_mark_dirty(q);
}

static void send_batch(struct amqp_remote *q)
{
    struct amqp_worker *aw = q->aw;
    struct buf *text = &aw->scratch;
    struct remote_batch *b;
    struct topology_store *topology = aw->front->o.topology;
    uint32_t node;
    int32_t epoch;

    if (q->publishing || aw->left_cluster || list_empty(&q->batches) || worker_now_us(aw->worker) < q->retry_us)
        return;
    node = remote_target(q, &epoch);
    if (node == 0 || topology_node_id(topology) == 0)
        return;
    b = LIST_ENTRY(q->batches.next, struct remote_batch, node);
    b->closed = true;
    buf_clear(text);
    remote_put_head(q, text, epoch, b->commit ? FORWARD_COMMIT : 0);
    buf_put_be64(text, (uint64_t)AMQP_PRODUCER_ID(topology_node_id(topology), worker_index(aw->worker), topology_node_epoch(topology)));
    buf_put_be16(text, (uint16_t)q->incarnation);
    buf_put_be32(text, (uint32_t)q->number);
    buf_put_uvarint(text, b->count);
    buf_put_slice(text, buf_slice(&b->messages));
    q->publishing = true;
    q->publish_node = node;
    q->publish_epoch = epoch;
    q->publish_call.worker = aw->worker;
    q->publish_call.done = publish_done;
    bus_call(aw->front->o.bus, node, BUS_QUEUE_PUBLISH, buf_slice(text), REMOTE_CALL_MS, &q->publish_call);
}

static void note_nack(struct amqp_round *r, const struct remote_part *part, uint64_t confirm)
{
    if (confirm != 0)
        amqp_round_nack(r, part->serial, confirm);
    else if (r->err == 0)
        r->err = ERR_IO; /* a transaction's: the connection is not told that it is done */
}

/* Nobody waits for it, but the client is not to believe that its messages are kept. */
static void fail_channel(struct amqp_remote *q, const struct remote_part *part, int err)
{
    struct conn *conn = worker_find_conn(q->aw->worker, part->conn_id);
    struct amqp_session *s = conn == NULL ? NULL : conn->session;
    struct amqp_channel *ch;

    if (s == NULL || s->state != AMQP_RUNNING)
        return;
    ch = amqp_channel_find(s, part->channel);
    if (ch == NULL || ch->serial != part->serial || ch->state != AMQP_CHANNEL_OPEN)
        return;
    s->method = AMQP_ID_basic_publish;
    amqp_fail(ch, AMQP_PRECONDITION_FAILED, "the queue refused the message: %s", err_text(err));
}

/* `refused`: indices in ascending order, taken as they are needed; err: all of them. */
static void finish_part(struct amqp_remote *q, struct remote_batch *b, struct remote_part *part, int err, struct reader *refused, uint64_t *next_refused, uint64_t *left)
{
    for (uint32_t i = part->first; i < part->first + part->count; i++) {
        bool is_refused = err != 0;

        if (*next_refused == i) {
            is_refused = true;
            *next_refused = *left > 0 ? (--*left, reader_uvarint(refused)) : UINT64_MAX;
        }
        if (is_refused && part->round != NULL)
            note_nack(part->round, part, b->confirms[i]);
    }
    if (part->round == NULL && err != 0 && err != ERR_LIMIT)
        fail_channel(q, part, err);
    if (part->round != NULL) {
        struct amqp_round *r = part->round;

        part->round = NULL;
        list_remove(&part->round_node);
        remote_round_step(r);
    }
}

static void finish_batch(struct amqp_remote *q, int err, struct reader *refused)
{
    struct remote_batch *b = LIST_ENTRY(q->batches.next, struct remote_batch, node);
    uint64_t left = refused == NULL ? 0 : reader_uvarint(refused), next = left > 0 ? (left--, reader_uvarint(refused)) : UINT64_MAX;
    struct list *n;

    list_remove(&b->node);
    q->aw->remotes->bytes -= b->messages.len;
    while ((n = list_pop_front(&b->parts)) != NULL) {
        struct remote_part *part = LIST_ENTRY(n, struct remote_part, node);

        finish_part(q, b, part, err, refused, &next, &left);
        mem_free(part);
    }
    buf_fini(&b->messages);
    mem_free(b->confirms);
    mem_free(b);
}

static void let_clients_go_on(struct amqp_worker *aw)
{
    struct list *n;

    if (aw->remotes->bytes > REMOTE_KEPT_MAX / 2)
        return;
    while ((n = list_pop_front(&aw->remotes->full)) != NULL)
        amqp_session_continue(LIST_ENTRY(n, struct amqp_session, remote_full));
}

/* The leader has no memory of our numbers (it was lost with a queue in memory, or with writes that nobody waited for): begin again under a new incarnation. */
static void begin_again(struct amqp_remote *q)
{
    q->incarnation++;
    q->number = 0;
    CHECK(q->incarnation > 0);
}

static void take_answer(struct amqp_remote *q, struct reader *r)
{
    switch (reader_u8(r)) {
    case FORWARD_OK:
        q->number = q->number == INT32_MAX ? 0 : q->number + 1;
        finish_batch(q, 0, r);
        break;
    case FORWARD_NO_QUEUE:
        if (remote_exists(q)) { /* the leader's view is behind ours */
            remote_retry_later(q, ERR_NOT_FOUND);
            return;
        }
        while (!list_empty(&q->batches))
            finish_batch(q, 0, NULL); /* rule 16: deleted counts as taken */
        break;
    case FORWARD_EXPECTED:
    case FORWARD_FENCED:
        begin_again(q);
        break;
    case FORWARD_REFUSED: {
        bool unsure = LIST_ENTRY(q->batches.next, struct remote_batch, node)->unsure;

        finish_batch(q, forward_get_refused(r), NULL);
        /* This leader has not taken it; one that was asked before may have, and come to lead again. What got its number then would be taken for its repeat, and confirmed without being there. */
        if (unsure)
            begin_again(q);
        break;
    }
    default:
        r->bad = 1;
    }
    if (r->bad) {
        DIAG_EVERY(DIAG_ERROR, "amqp: an answer of a queue's leader makes no sense", "queue=%llu", (unsigned long long)q->queue_id);
        remote_retry_later(q, ERR_MALFORMED);
    }
}

static void publish_done(struct bus_call *call, int err, struct slice payload)
{
    struct amqp_remote *q = CONTAINER_OF(call, struct amqp_remote, publish_call);
    struct reader r = reader_of(payload);

    q->publishing = false;
    if (err == ERR_TOO_LARGE) {
        finish_batch(q, err, NULL);
    } else if (err != 0) {
        LIST_ENTRY(q->batches.next, struct remote_batch, node)->unsure |= err != ERR_NOT_FOUND && err != ERR_LIMIT; /* else it was not sent */
        remote_retry_later(q, err);
    } else {
        take_answer(q, &r);
    }
    let_clients_go_on(q->aw);
    remote_mark_dirty(q);
}

void amqp_remote_take_part(struct amqp_session *s, struct amqp_batch *b, const struct amqp_batch_part *part)
{
    for (uint32_t i = part->first; i != 0; i = b->ops[i].next) {
        struct amqp_op *op = &b->ops[i];

        if (op->kind == AMQP_OP_PUBLISH) {
            const struct topo_queue *q = topo_queue_by_id(amqp_session_view(s), op->queue_id);
            const struct amqp_publish *p = &b->publishes[op->item];

            if (q == NULL || (q->exclusive && q->owner_node == topology_node_id(s->front->o.topology)))
                continue; /* deleted meanwhile; or ours, whoever leads */
            if ((p->confirm != 0 || b->transaction) && b->round == NULL)
                b->round = amqp_round_new(s);
            amqp_remote_publish(s, p, &(struct amqp_target){q->id, q->partition, q->exclusive ? q->owner_node : 0, q->durable && !q->exclusive},
                                p->confirm != 0 || b->transaction ? b->round : NULL);
            op->kind = AMQP_OP_DONE;
        }
        /* Settlements stay: without a lease the engine still has what they are of, and where it has not, run_settle finds out. */
    }
}

bool amqp_remote_is_full(const struct amqp_worker *aw)
{
    return aw->remotes != NULL && aw->remotes->bytes > REMOTE_KEPT_MAX;
}

struct list *amqp_remote_full_list(struct amqp_worker *aw)
{
    return &aw->remotes->full;
}

/* ---- what wakes it ------------------------------------------------------------------------------------- */

void amqp_remote_turn(struct amqp_worker *aw)
{
    struct list now, *n;

    list_init(&now);
    list_splice(&now, &aw->remotes->dirty);
    while ((n = list_pop_front(&now)) != NULL) {
        struct amqp_remote *q = LIST_ENTRY(n, struct amqp_remote, dirty);

        send_batch(q);
        attach_run(q);
    }
}

/* The leader that was asked leads no more: whether it answers or is silent, the next one is asked, with the same number (rule 16). Waiting for the old one's connection to be given up would cost seconds. */
static void turn_to_new_leader(struct amqp_remote *q)
{
    int32_t epoch;
    uint32_t node = remote_target(q, &epoch);

    if (!q->publishing || node == 0 || (node == q->publish_node && epoch == q->publish_epoch))
        return;
    bus_call_cancel(&q->publish_call);
    LIST_ENTRY(q->batches.next, struct remote_batch, node)->unsure = true;
    q->publishing = false;
    q->retry_us = 0;
}

static void tick_one(struct amqp_remote *q, uint64_t now_us)
{
    turn_to_new_leader(q);
    if ((!list_empty(&q->batches) || !list_empty(&q->ops) || !list_empty(&q->attachments)) && !remote_exists(q)) {
        while (!q->publishing && !list_empty(&q->batches))
            finish_batch(q, 0, NULL);
        attach_queue_is_gone(q);
    }
    attach_tick(q, now_us);
    send_batch(q);
    attach_run(q);
    if (may_go(q, now_us))
        remote_free(q);
}

static void tick(struct worker *w, struct io_timer *t)
{
    struct amqp_remotes *all = CONTAINER_OF(t, struct amqp_remotes, timer);

    for (unsigned i = 0; i < REMOTE_BUCKETS; i++) {
        LIST_FOREACH_SAFE (n, &all->buckets[i])
            tick_one(LIST_ENTRY(n, struct amqp_remote, node), worker_now_us(w));
    }
    let_clients_go_on(CONTAINER_OF(all, struct remotes_timer, remotes)->aw);
}

void amqp_remote_init(struct amqp_front *f)
{
    attach_init(f);
}

void amqp_remote_stop(struct amqp_worker *aw)
{
    aw->left_cluster = true;
    for (unsigned i = 0; aw->remotes != NULL && i < REMOTE_BUCKETS; i++) {
        LIST_FOREACH (n, &aw->remotes->buckets[i]) {
            struct amqp_remote *q = LIST_ENTRY(n, struct amqp_remote, node);

            bus_call_cancel(&q->publish_call);
            attach_stop(q);
        }
    }
}

void amqp_remote_fini(struct amqp_worker *aw)
{
    struct amqp_remotes *all = aw->remotes;

    if (all == NULL)
        return;
    for (unsigned i = 0; i < REMOTE_BUCKETS; i++) {
        struct list *n;

        while ((n = list_pop_front(&all->buckets[i])) != NULL) {
            struct amqp_remote *q = LIST_ENTRY(n, struct amqp_remote, node);

            while (!list_empty(&q->batches))
                finish_batch(q, 0, NULL); /* no session is left to hear it */
            attach_fini(q);
            mem_free(q);
        }
    }
    mem_free(CONTAINER_OF(all, struct remotes_timer, remotes));
    aw->remotes = NULL;
}
