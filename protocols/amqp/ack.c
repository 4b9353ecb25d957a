/* basic.ack, nack, reject and recover: settling deliveries. */
#include "protocols/amqp/batch.h"
#include "protocols/amqp/session.h"

static void settle_one(struct amqp_channel *ch, enum queue_settle how, uint64_t tag,
                       const struct queue_handle *h)
{
    if (GM_LIKELY(ch->tx == NULL))
        amqp_batch_settle(ch, how, h);
    else
        amqp_tx_settle(ch, how, tag, h);
}

/* Section 1.8.3.13: tag 0 with `multiple` means all; RabbitMQ accepts it even when nothing is outstanding. */
static int settle(struct amqp_channel *ch, enum queue_settle how, uint64_t tag, bool multiple)
{
    struct amqp_session *s = ch->session;
    struct queue_handle h;
    uint64_t at;
    unsigned n = 0;

    if (!multiple) {
        if (!amqp_unacked_take(&ch->unacked, tag, &h))
            return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "unknown delivery tag %llu",
                             (unsigned long long)tag);
        settle_one(ch, how, tag, &h);
        n = 1;
    } else {
        if (tag != 0 && !amqp_unacked_known(&ch->unacked, tag))
            return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "unknown delivery tag %llu",
                             (unsigned long long)tag);
        while (amqp_unacked_pop(&ch->unacked, tag == 0 ? UINT64_MAX : tag, &at, &h)) {
            settle_one(ch, how, at, &h);
            n++;
        }
    }
    if (how == QUEUE_ACK)
        amqp_count(&s->aw->count.acked, n);
    worker_note_oneway(s->aw->worker, 1);
    return 0;
}

int amqp_on_basic_ack(struct amqp_channel *ch, const struct amqp_basic_ack *m)
{
    return settle(ch, QUEUE_ACK, m->delivery_tag, m->multiple);
}

int amqp_on_basic_nack(struct amqp_channel *ch, const struct amqp_basic_nack *m)
{
    return settle(ch, m->requeue ? QUEUE_REQUEUE : QUEUE_DISCARD, m->delivery_tag, m->multiple);
}

int amqp_on_basic_reject(struct amqp_channel *ch, const struct amqp_basic_reject *m)
{
    return settle(ch, m->requeue ? QUEUE_REQUEUE : QUEUE_DISCARD, m->delivery_tag, false);
}

/* Requeues everything unsettled on the channel. A handler may run twice; the second time nothing is left to
 * requeue. */
static int recover(struct amqp_channel *ch, bool requeue)
{
    struct queue_handle h;
    uint64_t tag;

    if (!requeue)
        return amqp_fail(ch, AMQP_NOT_IMPLEMENTED, "requeue=false");
    while (amqp_unacked_pop(&ch->unacked, UINT64_MAX, &tag, &h))
        amqp_batch_settle(ch, QUEUE_REQUEUE, &h);
    return amqp_batch_flush(ch->session) == ERR_PARKED ? AMQP_AGAIN : 0;
}

int amqp_on_basic_recover_async(struct amqp_channel *ch, const struct amqp_basic_recover_async *m)
{
    return recover(ch, m->requeue);
}

/* The older method with an answer, as in RabbitMQ's channel. */
int amqp_on_basic_recover(struct amqp_channel *ch, const struct amqp_basic_recover *m)
{
    int r = recover(ch, m->requeue);

    /* An exception, also one that the requeueing raised, is the answer then. */
    if (r == 0 && ch->state == AMQP_CHANNEL_OPEN && ch->session->state == AMQP_RUNNING)
        amqp_put_basic_recover_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_basic_recover_ok){});
    return r;
}
