/* Class tx, in RabbitMQ's meaning: publishes and settlements of a transactional channel are kept until
 * tx.commit, which runs them in order and answers when they are at level quorum; tx.rollback forgets the
 * publishes and makes the deliveries unsettled again. Atomic per queue and read event only: a crash in the
 * middle of a commit may leave a part, as in RabbitMQ. */
#include "base/mem.h"
#include "protocols/amqp/batch.h"
#include "protocols/amqp/content.h"
#include "protocols/amqp/session.h"

struct tx_settle {
    uint64_t tag;
    struct queue_handle handle;
    enum queue_settle how;
};

struct amqp_tx {
    struct amqp_content *publishes; /* each owns its bytes */
    uint32_t publish_count, publish_cap;
    struct tx_settle *settles;
    uint32_t settle_count, settle_cap;
};

#define TX_SETTLES_MAX 1000000

int amqp_tx_publish(struct amqp_channel *ch)
{
    struct amqp_session *s = ch->session;
    struct amqp_tx *tx = ch->tx;

    amqp_content_own(ch);
    if (s->content_bytes > s->front->o.max_content_bytes)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "a transaction of more than %llu octets",
                         (unsigned long long)s->front->o.max_content_bytes);
    if (tx->publish_count == tx->publish_cap) {
        tx->publish_cap = tx->publish_cap == 0 ? 8 : tx->publish_cap * 2;
        tx->publishes = mem_realloc(tx->publishes, tx->publish_cap * sizeof(*tx->publishes));
    }
    tx->publishes[tx->publish_count++] = ch->content;
    ch->content = (struct amqp_content){0};
    return 0;
}

int amqp_tx_settle(struct amqp_channel *ch, enum queue_settle how, uint64_t tag, const struct queue_handle *h)
{
    struct amqp_tx *tx = ch->tx;

    if (tx->settle_count == tx->settle_cap) {
        tx->settle_cap = tx->settle_cap == 0 ? 16 : tx->settle_cap * 2;
        tx->settles = mem_realloc(tx->settles, tx->settle_cap * sizeof(*tx->settles));
    }
    tx->settles[tx->settle_count++] = (struct tx_settle){tag, *h, how};
    if (tx->settle_count > TX_SETTLES_MAX)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "a transaction of more than %u acknowledgements",
                         TX_SETTLES_MAX);
    return 0;
}

static void drop_publishes(struct amqp_channel *ch)
{
    struct amqp_tx *tx = ch->tx;

    for (uint32_t i = 0; i < tx->publish_count; i++) {
        ch->session->content_bytes -= tx->publishes[i].held.len;
        buf_fini(&tx->publishes[i].held);
    }
    tx->publish_count = 0;
}

void amqp_tx_rollback(struct amqp_channel *ch)
{
    struct amqp_tx *tx = ch->tx;

    if (tx == NULL)
        return;
    drop_publishes(ch);
    for (uint32_t i = 0; i < tx->settle_count; i++)
        amqp_unacked_restore(&ch->unacked, tx->settles[i].tag, &tx->settles[i].handle);
    tx->settle_count = 0;
}

void amqp_tx_free(struct amqp_channel *ch)
{
    if (ch->tx == NULL)
        return;
    drop_publishes(ch);
    mem_free(ch->tx->publishes);
    mem_free(ch->tx->settles);
    mem_free(ch->tx);
    ch->tx = NULL;
}

int amqp_on_tx_select(struct amqp_channel *ch, const struct amqp_tx_select *m)
{
    (void)m;
    if (ch->confirming)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "cannot switch from confirm to tx mode");
    if (ch->tx == NULL)
        ch->tx = mem_zalloc(sizeof(*ch->tx));
    amqp_put_tx_select_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_tx_select_ok){});
    return 0;
}

/* Moves what was kept into a batch. When it must wait for a partition the handler runs again with nothing
 * left to move. */
int amqp_on_tx_commit(struct amqp_channel *ch, const struct amqp_tx_commit *m)
{
    struct amqp_session *s = ch->session;
    struct amqp_tx *tx = ch->tx;

    (void)m;
    if (tx == NULL)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "channel is not transactional");
    if (tx->publish_count != 0 || tx->settle_count != 0) {
        uint32_t publishes = tx->publish_count, settles = tx->settle_count;

        amqp_batch_get(s)->transaction = true;
        tx->settle_count = 0;
        for (uint32_t i = 0; i < settles; i++)
            amqp_batch_settle(ch, tx->settles[i].how, &tx->settles[i].handle);
        for (uint32_t i = 0; i < publishes && ch->state == AMQP_CHANNEL_OPEN && s->state == AMQP_RUNNING;
             i++) {
            ch->content = tx->publishes[i];
            tx->publishes[i].held = (struct buf){0};
            amqp_content_publish(ch);
        }
        drop_publishes(ch);
        s->method = AMQP_ID_tx_commit;
    }
    if (amqp_batch_flush(s) == ERR_PARKED || amqp_channel_settle_acks(ch) == AMQP_AGAIN)
        return AMQP_AGAIN;
    if (ch->state == AMQP_CHANNEL_OPEN && s->state == AMQP_RUNNING)
        amqp_put_tx_commit_ok(conn_out(s->conn), ch->number, &(struct amqp_tx_commit_ok){});
    return 0;
}

int amqp_on_tx_rollback(struct amqp_channel *ch, const struct amqp_tx_rollback *m)
{
    (void)m;
    if (ch->tx == NULL)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "channel is not transactional");
    amqp_tx_rollback(ch);
    amqp_put_tx_rollback_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_tx_rollback_ok){});
    return 0;
}
