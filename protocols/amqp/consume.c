/* basic.consume, cancel and qos; the sources of a channel. */
#include "base/mem.h"
#include "cluster/topology/commands.h"
#include "protocols/amqp/batch.h"
#include "protocols/amqp/queues.h"
#include "protocols/amqp/remote.h"
#include "protocols/amqp/reply.h"
#include "protocols/amqp/session.h"

#define CONSUMERS_PER_CHANNEL_MAX 16384

/* ---- sources ------------------------------------------------------------------------------------------- */

uint16_t amqp_source_new(struct amqp_channel *ch, const struct topo_queue *q, struct amqp_consumer *consumer, uint64_t opened)
{
    uint32_t i;

    if (consumer == NULL) {
        for (i = 0; i < ch->source_cap; i++) {
            if (ch->sources[i].used && ch->sources[i].get && ch->sources[i].queue_id == q->id && ch->sources[i].opened == opened &&
                (opened == 0 || ch->sources[i].attachment == NULL))
                return (uint16_t)i;
        }
    }
    for (i = 0; i < ch->source_cap && ch->sources[i].used; i++)
        ;
    if (i == ch->source_cap) {
        uint32_t cap = ch->source_cap == 0 ? 1 : ch->source_cap * 2;

        CHECK(cap <= 65536);
        ch->sources = mem_realloc(ch->sources, cap * sizeof(*ch->sources));
        memset(ch->sources + ch->source_cap, 0, (cap - ch->source_cap) * sizeof(*ch->sources));
        ch->source_cap = cap;
    }
    ch->sources[i] = (struct amqp_source){.queue_id = q->id,
                                          .partition = q->partition,
                                          .consumer = consumer,
                                          .used = true,
                                          .get = consumer == NULL,
                                          .durable = q->durable && !q->exclusive,
                                          .home = q->exclusive,
                                          .opened = opened};
    return (uint16_t)i;
}

void amqp_source_release(struct amqp_channel *ch, uint16_t index)
{
    struct amqp_source *src = &ch->sources[index];

    if (src->consumer != NULL || src->outstanding != 0 || src->dirty)
        return;
    if (GM_UNLIKELY(src->attachment != NULL)) {
        if (src->get) /* kept for the next one */
            return;
        amqp_remote_source_end(ch, index);
    }
    src->used = false;
}

void amqp_source_settled(struct amqp_channel *ch, uint16_t index, bool dirty)
{
    struct amqp_source *src = &ch->sources[index];

    CHECK(src->outstanding > 0);
    src->outstanding--;
    if (!src->get) {
        bool was_out = ch->prefetch_global != 0 && ch->global_outstanding >= ch->prefetch_global;

        ch->global_outstanding--;
        if (was_out && ch->global_outstanding < ch->prefetch_global)
            amqp_channel_wake(ch);
    }
    if (dirty && src->durable && !src->dirty) {
        src->dirty = true;
        ch->dirty_sources++;
    }
    if (src->outstanding == 0)
        amqp_source_release(ch, index);
}

void amqp_channel_wake(struct amqp_channel *ch)
{
    LIST_FOREACH (n, &ch->consumers) {
        struct amqp_consumer *c = LIST_ENTRY(n, struct amqp_consumer, node);

        if (c->shared_out)
            amqp_consumer_ready(c);
    }
}

/* ---- consume ------------------------------------------------------------------------------------------- */

static struct amqp_consumer *consumer_find(struct amqp_channel *ch, struct slice tag)
{
    LIST_FOREACH (n, &ch->consumers) {
        struct amqp_consumer *c = LIST_ENTRY(n, struct amqp_consumer, node);

        if (slice_eq(c->tag, tag))
            return c;
    }
    return NULL;
}

static struct amqp_consumer *consumer_new(struct amqp_channel *ch, const struct topo_queue *q,
                                          const struct amqp_basic_consume *m, int32_t priority)
{
    struct amqp_consumer *c = mem_zalloc(sizeof(*c));
    char generated[AMQP_NAME_MAX];
    struct slice tag = m->consumer_tag;

    if (tag.len == 0) {
        amqp_generate_name(generated, "amq.ctag-");
        tag = slice_str(generated);
    }
    c->aw = ch->session->aw;
    c->channel = ch;
    c->partition = q->partition;
    c->home = q->exclusive;
    c->tag = slice_of(mem_strdup_slice(tag), tag.len);
    amqp_put_frame_header(&c->prefix, AMQP_FRAME_METHOD, ch->number, 0);
    buf_put_be32(&c->prefix, AMQP_ID_basic_deliver);
    buf_put_u8(&c->prefix, (uint8_t)tag.len);
    buf_put_slice(&c->prefix, tag);
    c->qc.prefetch = m->no_ack ? 0 : ch->prefetch;
    c->qc.priority = priority;
    c->qc.no_ack = m->no_ack;
    c->qc.exclusive = m->exclusive;
    amqp_consumer_init(c);
    return c;
}

static void consumer_discard(struct amqp_consumer *c)
{
    mem_free((void *)c->tag.data);
    buf_fini(&c->prefix);
    mem_free(c);
}

static void consumer_enlist(struct amqp_consumer *c, const struct topo_queue *tq, uint64_t opened)
{
    struct amqp_channel *ch = c->channel;

    c->source = amqp_source_new(ch, tq, c, opened);
    list_push_back(&ch->consumers, &c->node);
    ch->consumer_count++;
    amqp_count(&c->aw->count.consumers, 1);
}

static int exclusive_use(struct amqp_channel *ch, struct slice name)
{
    char text[AMQP_RS_MAX];

    return amqp_fail(ch, AMQP_ACCESS_REFUSED, "%s in exclusive use", amqp_rs(text, AMQP_QUEUE, name, ch->session->vhost));
}

static void consume_ok(struct amqp_channel *ch, const struct amqp_basic_consume *m, const struct amqp_consumer *c)
{
    if (!m->nowait)
        amqp_put_basic_consume_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_basic_consume_ok){c->tag});
}

/* The leader has answered. */
static int consume_attached(struct amqp_channel *ch, const struct amqp_basic_consume *m, struct slice name)
{
    struct amqp_wait *w = ch->session->wait;
    struct amqp_consumer *c = w->consumer;
    int err = w->ask_err;

    w->asked = false;
    w->consumer = NULL;
    if (err == 0) {
        consume_ok(ch, m, c);
        amqp_remote_consume_announced(c);
        return 0;
    }
    amqp_remote_consumer_end(c);
    return err == ERR_LOCKED ? exclusive_use(ch, name) : amqp_queue_unavailable(ch, name, err);
}

static int consume_remote(struct amqp_channel *ch, const struct amqp_basic_consume *m, const struct topo_queue *tq, int32_t priority)
{
    struct amqp_consumer *c = consumer_new(ch, tq, m, priority);

    consumer_enlist(c, tq, 0);
    amqp_session_wait(ch->session)->consumer = c;
    amqp_remote_consume_begin(c, tq);
    return AMQP_AGAIN;
}

int amqp_on_basic_consume(struct amqp_channel *ch, const struct amqp_basic_consume *m)
{
    struct amqp_session *s = ch->session;
    const struct topo_queue *tq;
    struct amqp_consumer *c;
    struct partition_guard g;
    struct queue *q;
    struct amqp_value priority;
    char text[AMQP_RS_MAX];
    struct slice name = m->queue;
    int32_t rank;
    int err, added = 0;

    if (s->wait != NULL && s->wait->asked && s->wait->consumer != NULL)
        return amqp_queue_name(ch, &name) ? consume_attached(ch, m, name) : 0;
    if (m->consumer_tag.len != 0 && consumer_find(ch, m->consumer_tag) != NULL)
        return amqp_fail(ch, AMQP_NOT_ALLOWED, "attempt to reuse consumer tag '%.*s'",
                         SLICE_FMT(m->consumer_tag));
    if (ch->consumer_count >= CONSUMERS_PER_CHANNEL_MAX)
        return amqp_fail(ch, AMQP_NOT_ALLOWED, "reached maximum (%u) of consumers per channel",
                         CONSUMERS_PER_CHANNEL_MAX);
    if (slice_eq(name, SLICE_LIT(AMQP_REPLY_QUEUE)))
        return amqp_reply_consume(ch, m);
    if (!amqp_queue_name(ch, &name) || !amqp_permitted(ch, AMQP_READ, AMQP_QUEUE, name))
        return 0;
    tq = amqp_queue_usable(ch, name);
    if (tq == NULL)
        return 0;
    if (amqp_table_find(m->arguments, "x-priority", &priority) && !amqp_value_is_integer(&priority))
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED,
                         "invalid arg 'x-priority' for %s: \"expected integer, got %s\"",
                         amqp_rs(text, AMQP_QUEUE, name, s->vhost), amqp_value_type_name(&priority));
    rank = priority.type == 0 ? 0 : (int32_t)MAX_OF(MIN_OF(priority.i, INT32_MAX), INT32_MIN);
    if (amqp_queue_is_remote(s->aw, tq))
        return consume_remote(ch, m, tq, rank);
    err = amqp_session_enter_queue(s, tq, &g);
    if (err == ERR_PARKED)
        return AMQP_AGAIN;
    if (amqp_is_role_error(s->aw, err))
        return consume_remote(ch, m, tq, rank);
    if (err < 0)
        return amqp_queue_unavailable(ch, name, err);
    c = consumer_new(ch, tq, m, rank);
    q = amqp_queue_enter(s, partition_queues(g.p), tq->id, &err);
    if (q != NULL) {
        /* Deliveries are encoded at the turn's end, behind consume-ok. */
        added = queue_consumer_add(q, &c->qc, worker_wall_ms(s->aw->worker));
        if (added == 0)
            consumer_enlist(c, tq, queue_opened(q));
    }
    (void)partition_leave(&g);
    if (q == NULL || added < 0) {
        consumer_discard(c);
        if (q == NULL)
            return amqp_queue_unavailable(ch, name, err);
        return exclusive_use(ch, name);
    }
    consume_ok(ch, m, c);
    return 0;
}

/* What it took stays unsettled on the channel. An unknown tag is fine. When the last consumer of an
 * auto-delete queue goes, cancel-ok waits for the queue to go, too: then the handler runs again and finds no
 * consumer. */
int amqp_on_basic_cancel(struct amqp_channel *ch, const struct amqp_basic_cancel *m)
{
    struct amqp_session *s = ch->session;
    struct amqp_consumer *c = consumer_find(ch, m->consumer_tag);

    if (c == NULL)
        (void)amqp_reply_cancel(ch, m->consumer_tag);
    if (c != NULL && c->remote != NULL) {
        amqp_remote_consumer_end(c);
    } else if (c != NULL) {
        const struct topo_queue *tq;
        struct partition_guard g;
        struct queue *q;
        uint64_t id;
        bool unused;
        int err = amqp_session_enter_upkeep(s, c->partition, &g);

        if (err == ERR_PARKED)
            return AMQP_AGAIN;
        if (err < 0)
            return amqp_fail(ch, AMQP_INTERNAL_ERROR, "the queue's partition has failed: %s", err_text(err));
        id = c->qc.queue_id;
        amqp_consumer_detach(c, worker_wall_ms(s->aw->worker));
        q = queue_find(partition_queues(g.p), id);
        unused = q != NULL && queue_consumers(q) == 0;
        (void)partition_leave(&g);
        tq = topo_queue_by_id(amqp_session_view(s), id);
        if (unused && tq != NULL && tq->auto_delete && !m->nowait) {
            struct amqp_wait *w = amqp_session_wait(s);

            buf_clear(&w->proposal.command);
            topo_cmd_queue_delete(&w->proposal.command,
                                  id); /* the engine asks for it, too; the second finds nothing */
            return amqp_propose(s);
        }
    }
    if (!m->nowait)
        amqp_put_basic_cancel_ok(conn_out(s->conn), ch->number,
                                 &(struct amqp_basic_cancel_ok){m->consumer_tag});
    return 0;
}

/* A client's answer to our cancel; we sent it with nowait, but some answer all the same. */
int amqp_on_basic_cancel_ok(struct amqp_channel *ch, const struct amqp_basic_cancel_ok *m)
{
    (void)ch, (void)m;
    return 0;
}

/* global=false: for each consumer started later; global=true: shared by all consumers of the channel
 * (RabbitMQ's meaning, not the specification's). */
int amqp_on_basic_qos(struct amqp_channel *ch, const struct amqp_basic_qos *m)
{
    if (m->prefetch_size != 0)
        return amqp_fail(ch, AMQP_NOT_IMPLEMENTED, "prefetch_size!=0 (%u)", m->prefetch_size);
    if (m->global) {
        ch->prefetch_global = m->prefetch_count;
        LIST_FOREACH (n, &ch->consumers) {
            struct amqp_consumer *c = LIST_ENTRY(n, struct amqp_consumer, node);

            if (c->remote != NULL)
                amqp_remote_prefetch_changed(c);
        }
        amqp_channel_wake(ch);
    } else {
        ch->prefetch = m->prefetch_count;
    }
    amqp_put_basic_qos_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_basic_qos_ok){});
    return 0;
}
