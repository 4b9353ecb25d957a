/* Channels: finding, dispatching methods, ending. Class channel, access and confirm. */
#include "protocols/amqp/batch.h"
#include "protocols/amqp/content.h"
#include "protocols/amqp/remote.h"
#include "protocols/amqp/reply.h"
#include "protocols/amqp/session.h"

#include "base/mem.h"

/* ---- the sorted array of channels ---------------------------------------------------------------------- */

static uint32_t channel_seek(const struct amqp_session *s, uint16_t number)
{
    uint32_t a = 0, b = s->channel_count;

    while (a < b) {
        uint32_t m = (a + b) / 2;

        if (s->channels[m]->number < number)
            a = m + 1;
        else
            b = m;
    }
    return a;
}

struct amqp_channel *amqp_channel_find(struct amqp_session *s, uint16_t number)
{
    uint32_t i;

    if (GM_LIKELY(s->last != NULL && s->last->number == number))
        return s->last;
    i = channel_seek(s, number);
    if (i == s->channel_count || s->channels[i]->number != number)
        return NULL;
    s->last = s->channels[i];
    return s->last;
}

struct amqp_channel *amqp_channel_new(struct amqp_session *s, uint16_t number)
{
    struct amqp_channel *ch = mem_zalloc(sizeof(*ch));
    uint32_t i = channel_seek(s, number);

    ch->session = s;
    ch->number = number;
    ch->serial = ++s->aw->serial;
    list_init(&ch->consumers);
    if (s->channel_count == s->channel_cap) {
        s->channel_cap = s->channel_cap == 0 ? 1 : s->channel_cap * 2;
        s->channels = mem_realloc(s->channels, s->channel_cap * sizeof(*s->channels));
    }
    memmove(&s->channels[i + 1], &s->channels[i], (s->channel_count - i) * sizeof(*s->channels));
    s->channels[i] = ch;
    s->channel_count++;
    amqp_count(&s->aw->count.channels, 1);
    return ch;
}

void amqp_channel_free(struct amqp_channel *ch)
{
    struct amqp_session *s = ch->session;
    uint32_t i = channel_seek(s, ch->number);

    CHECK(s->channels[i] == ch && ch->drained);
    memmove(&s->channels[i], &s->channels[i + 1], (s->channel_count - i - 1) * sizeof(*s->channels));
    s->channel_count--;
    if (s->last == ch)
        s->last = NULL;
    amqp_count(&s->aw->count.channels, (uint64_t)-1);
    amqp_content_drop(ch);
    amqp_tx_free(ch);
    amqp_unacked_fini(&ch->unacked);
    for (size_t k = 0; k < ARRAY_LEN(ch->routes); k++)
        amqp_route_free(ch->routes[k]);
    mem_free(ch->sources);
    mem_free((void *)ch->last_queue.data);
    mem_free(ch);
}

/* ---- ending -------------------------------------------------------------------------------------------- */

/* Takes what one source still has unsettled out of the tags, in their order, and requeues it in one go. */
static int requeue_source(struct amqp_channel *ch, uint16_t source)
{
    struct amqp_source *src = &ch->sources[source];
    struct queue_handle *handles;
    struct amqp_unacked *u = &ch->unacked;
    struct partition_guard g;
    struct queue *q;
    uint32_t n = 0;
    int err;

    err = amqp_session_enter_upkeep(ch->session, src->partition, &g);
    if (err == ERR_PARKED)
        return err;
    handles = mem_alloc(src->outstanding * sizeof(*handles));
    for (uint32_t i = u->old_first; i < u->old_count; i++) {
        if (u->old[i].handle.consumer == source)
            handles[n++] = u->old[i].handle;
    }
    for (uint64_t tag = u->base; tag < u->next; tag++) {
        const struct queue_handle *h = &u->ring[tag & (u->cap - 1)];

        if (h->offset_flags != UINT64_MAX && h->consumer == source)
            handles[n++] = *h;
    }
    CHECK(n == src->outstanding);
    if (err == 0) {
        q = queue_find(partition_queues(g.p), src->queue_id);
        /* After another leadership in between everything unsettled is ready already. */
        if (q != NULL && src->opened == queue_opened(q))
            queue_settle(q, NULL, QUEUE_REQUEUE, handles, n);
        (void)partition_leave(&g);
    }
    mem_free(handles);
    src->outstanding = 0;
    src->used = false;
    return 0;
}

/* What follows on this connection (close-ok) waits until other nodes have taken everything back, unless nobody leads them now. */
static void drain_remote(struct amqp_channel *ch)
{
    struct amqp_session *s = ch->session;
    struct amqp_round *round = NULL;

    for (uint32_t i = 0; i < ch->source_cap; i++) {
        struct amqp_source *src = &ch->sources[i];
        struct amqp_attachment *a = src->attachment;
        bool wait;

        if (!src->used || a == NULL)
            continue;
        wait = s->conn != NULL && amqp_remote_is_led(a);
        amqp_remote_source_end(ch, (uint16_t)i);
        src->outstanding = 0;
        src->used = src->dirty = false;
        if (!wait)
            continue;
        if (round == NULL)
            round = amqp_round_new(s);
        amqp_remote_wait(a, round);
    }
    if (round == NULL)
        return;
    round->hold = conn_hold(s->conn);
    round->held = true;
    amqp_round_submit(round, false);
}

int amqp_channel_drain(struct amqp_channel *ch)
{
    struct amqp_session *s = ch->session;

    ch->state = AMQP_CHANNEL_CLOSING;
    amqp_tx_rollback(ch);
    amqp_reply_free(ch);
    while (!list_empty(&ch->consumers)) {
        struct amqp_consumer *c = LIST_ENTRY(ch->consumers.next, struct amqp_consumer, node);
        struct partition_guard g;
        int err;

        if (c->remote != NULL) {
            amqp_remote_consumer_end(c);
            continue;
        }
        err = amqp_session_enter_upkeep(s, c->partition, &g);
        if (err == ERR_PARKED)
            return err;
        if (err <
            0) { /* nobody delivers from a failed partition any more, and what it holds is on its disk */
            amqp_consumer_abandon(c);
            continue;
        }
        amqp_consumer_detach(c, worker_wall_ms(s->aw->worker));
        (void)partition_leave(&g);
    }
    drain_remote(ch);
    for (uint32_t i = 0; i < ch->source_cap; i++) {
        if (ch->sources[i].used && ch->sources[i].outstanding != 0 &&
            requeue_source(ch, (uint16_t)i) == ERR_PARKED)
            return ERR_PARKED;
    }
    ch->drained = true;
    return 0;
}

int amqp_channel_settle_acks(struct amqp_channel *ch)
{
    struct amqp_session *s = ch->session;
    struct amqp_round *round;
    bool waits;

    if (ch->dirty_sources == 0)
        return 0;
    round = amqp_round_new(s);
    for (uint32_t i = 0; i < ch->source_cap; i++) {
        struct amqp_source *src = &ch->sources[i];
        struct partition_guard g;
        struct queue *q;
        int err;

        if (!src->dirty || !src->durable)
            continue;
        if (src->attachment != NULL) {
            amqp_remote_wait(src->attachment, round);
            continue;
        }
        err = amqp_session_enter(s, src->partition, &g);
        if (err == ERR_PARKED) {
            amqp_round_discard(round);
            return AMQP_AGAIN;
        }
        if (amqp_is_role_error(s->aw, err) && round->err == 0)
            round->err = err; /* whether they are settled is not known: the connection ends rather than say so */
        if (err < 0)
            continue;
        q = queue_find(partition_queues(g.p), src->queue_id);
        /* Lost and led again in between: what was acknowledged then may have been cut off. */
        if (GM_UNLIKELY(s->front->o.bus != NULL && !src->home && (q == NULL || src->opened != queue_opened(q)) && topo_queue_by_id(amqp_session_view(s), src->queue_id) != NULL)) {
            if (round->err == 0)
                round->err = ERR_NOT_LEADER;
        } else if (q != NULL) {
            log_commit_add(&round->commit, queue_log(q), log_end(queue_log(q)));
        }
        (void)partition_leave(&g);
    }
    for (uint32_t i = 0; i < ch->source_cap; i++) {
        if (ch->sources[i].dirty) {
            ch->sources[i].dirty = false;
            amqp_source_release(ch, (uint16_t)i);
        }
    }
    ch->dirty_sources = 0;
    waits = !log_commit_arm(&round->commit);
    if (waits || round->remote_left != 0 || round->err != 0) {
        round->hold = conn_hold(s->conn);
        round->held = true;
    }
    amqp_round_submit(round, waits);
    return 0;
}

/* ---- dispatch ------------------------------------------------------------------------------------------ */

static int undecodable(struct amqp_session *s, const char *name)
{
    return amqp_connection_fail(s, AMQP_FRAME_ERROR, "cannot decode method %s", name);
}

/* Publishes and acknowledgements gather; they are one-way, so the worker may nap (P5). */
static int gathered_method(struct amqp_channel *ch, uint32_t id, struct slice fields)
{
    struct amqp_session *s = ch->session;

    switch (id) {
#define ON(class, method)                                                                                    \
    case AMQP_ID_##class##_##method: {                                                                       \
        struct amqp_##class##_##method m;                                                                    \
                                                                                                             \
        if (amqp_get_##class##_##method(fields, &m) < 0)                                                     \
            return undecodable(s, #class "." #method);                                                       \
        return amqp_on_##class##_##method(ch, &m);                                                           \
    }
        ON(basic, publish)
        ON(basic, ack)
        ON(basic, nack)
        ON(basic, reject)
    }
    UNREACHABLE();
}

/* Every method a client may send on a channel: one case a row of methods.def. */
static int other_method(struct amqp_channel *ch, uint32_t id, struct slice fields)
{
    struct amqp_session *s = ch->session;

    switch (id) {
#define ON_connection(method)
#define ON_channel(method) ON(channel, method)
#define ON_access(method) ON(access, method)
#define ON_exchange(method) ON(exchange, method)
#define ON_queue(method) ON(queue, method)
#define ON_basic(method) ON(basic, method)
#define ON_tx(method) ON(tx, method)
#define ON_confirm(method) ON(confirm, method)
#define CLIENT(class, class_id, method, method_id, sync, list) ON_##class(method)
#define SERVER(class, class_id, method, method_id, sync, list)
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef CLIENT
#undef SERVER
#undef BOTH
#undef ON
    default:
        return amqp_connection_fail(s, AMQP_COMMAND_INVALID, "unimplemented method {%u,%u}", id >> 16,
                                    id & 0xffff);
    }
}

/* channel.close was sent: only the end of that handshake counts (section 1.5.2.5). */
static int closing_method(struct amqp_channel *ch, uint32_t id)
{
    if (id == AMQP_ID_channel_close)
        amqp_put_channel_close_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_channel_close_ok){});
    if (id == AMQP_ID_channel_close_ok) {
        if (amqp_channel_drain(ch) == ERR_PARKED)
            return AMQP_AGAIN;
        amqp_channel_free(ch);
    }
    return 0;
}

static int channel_open(struct amqp_session *s, uint16_t number, uint32_t id, struct slice fields)
{
    struct amqp_channel_open m;

    s->method = id;
    if (id != AMQP_ID_channel_open)
        return amqp_connection_fail(s, AMQP_CHANNEL_ERROR, "expected 'channel.open'");
    if (amqp_get_channel_open(fields, &m) < 0)
        return undecodable(s, "channel.open");
    if (s->channel_count >= s->channel_max)
        return amqp_connection_fail(
            s, AMQP_NOT_ALLOWED, "number of channels opened (%u) has reached the negotiated channel_max (%u)",
            s->channel_count, s->channel_max);
    amqp_channel_new(s, number);
    worker_note_reply(s->aw->worker);
    amqp_put_channel_open_ok(conn_out(s->conn), number, &(struct amqp_channel_open_ok){});
    return 0;
}

int amqp_channel_frame(struct amqp_session *s, const struct amqp_frame *f)
{
    struct amqp_channel *ch = amqp_channel_find(s, f->channel);
    const struct amqp_method_info *info;
    struct slice fields;
    uint32_t id;
    int r;

    if (f->type != AMQP_FRAME_METHOD) {
        if (ch != NULL)
            return ch->state == AMQP_CHANNEL_OPEN ? amqp_content_frame(ch, f) : 0;
        s->method = 0;
        return amqp_connection_fail(s, AMQP_CHANNEL_ERROR, "expected 'channel.open'");
    }
    id = be32_get(f->payload.data);
    fields = slice_of(f->payload.data + 4, f->payload.len - 4);
    if (ch == NULL)
        return channel_open(s, f->channel, id, fields);
    if (ch->state != AMQP_CHANNEL_OPEN)
        return closing_method(ch, id);
    s->method = id;
    if (GM_UNLIKELY(ch->content.stage != AMQP_CONTENT_NONE))
        return amqp_connection_fail(
            s, AMQP_UNEXPECTED_FRAME,
            ch->content.stage == AMQP_CONTENT_HEADER
                ? "expected content header for class 60, got non content header frame instead"
                : "expected content body, got non content body frame instead");
    if (id == AMQP_ID_basic_publish || id == AMQP_ID_basic_ack || id == AMQP_ID_basic_nack ||
        id == AMQP_ID_basic_reject)
        return gathered_method(ch, id, fields);
    if (amqp_batch_flush(s) == ERR_PARKED)
        return AMQP_AGAIN;
    if (ch->state != AMQP_CHANNEL_OPEN) /* by what was flushed */
        return closing_method(ch, id);
    s->method = id;
    info = amqp_method_find(id);
    if (info != NULL && info->synchronous) {
        worker_note_reply(s->aw->worker);
        if (amqp_channel_settle_acks(ch) == AMQP_AGAIN)
            return AMQP_AGAIN;
    }
    r = other_method(ch, id, fields);
    if (r == AMQP_AGAIN)
        amqp_session_park(s);
    else
        amqp_session_wait_drop(s);
    return r;
}

/* ---- class channel ------------------------------------------------------------------------------------- */

int amqp_on_channel_open(struct amqp_channel *ch, const struct amqp_channel_open *m)
{
    (void)m;
    return amqp_fail(ch, AMQP_CHANNEL_ERROR, "second 'channel.open' seen");
}

int amqp_on_channel_flow(struct amqp_channel *ch, const struct amqp_channel_flow *m)
{
    if (!m->active)
        return amqp_fail(ch, AMQP_NOT_IMPLEMENTED, "active=false");
    amqp_put_channel_flow_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_channel_flow_ok){true});
    return 0;
}

/* We never send channel.flow; RabbitMQ calls its answer an unknown command, too. */
int amqp_on_channel_flow_ok(struct amqp_channel *ch, const struct amqp_channel_flow_ok *m)
{
    (void)m;
    return amqp_fail(ch, AMQP_COMMAND_INVALID, "unimplemented method");
}

int amqp_on_channel_close(struct amqp_channel *ch, const struct amqp_channel_close *m)
{
    struct amqp_session *s = ch->session;
    uint16_t number = ch->number;

    (void)m;
    if (amqp_channel_drain(ch) == ERR_PARKED) {
        ch->state = AMQP_CHANNEL_OPEN; /* so that this frame is handled again */
        return AMQP_AGAIN;
    }
    amqp_channel_free(ch);
    amqp_put_channel_close_ok(conn_out(s->conn), number, &(struct amqp_channel_close_ok){});
    return 0;
}

int amqp_on_channel_close_ok(struct amqp_channel *ch, const struct amqp_channel_close_ok *m)
{
    (void)m;
    return amqp_fail(ch, AMQP_COMMAND_INVALID, "unimplemented method");
}

/* Left from AMQP 0-8; tickets mean nothing, RabbitMQ answers 1. */
int amqp_on_access_request(struct amqp_channel *ch, const struct amqp_access_request *m)
{
    (void)m;
    amqp_put_access_request_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_access_request_ok){1});
    return 0;
}

/* ---- confirm ------------------------------------------------------------------------------------------- */

int amqp_on_confirm_select(struct amqp_channel *ch, const struct amqp_confirm_select *m)
{
    if (ch->tx != NULL)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "cannot switch from tx to confirm mode");
    ch->confirming = true;
    if (!m->nowait)
        amqp_put_confirm_select_ok(conn_out(ch->session->conn), ch->number,
                                   &(struct amqp_confirm_select_ok){});
    return 0;
}
