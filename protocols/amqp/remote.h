/* The gateway's side of forwarding: queues that another node leads (or, exclusive ones, keeps), as the sessions of one worker use them. AMQP has no redirect: the client stays here, its publishes, settlements and questions go
 * to the leader over the bus, deliveries come back.
 *
 *   publishes      numbered batches, one under way a queue and worker, kept until answered and sent again after a failover (rule 16)
 *   operations     settlements, detachments, gets, counts: in order, one under way, sent again too; all are idempotent or made so by attaching anew
 *   attachments    of consumers and of holders of deliveries; made anew at each leader, with what the client holds (rule 8)
 *
 * Everything of a worker's runs on that worker. A node alone never comes here. */
#ifndef GM_AMQP_REMOTE_H
#define GM_AMQP_REMOTE_H

#include "protocols/amqp/batch.h"
#include "protocols/amqp/session.h"

struct amqp_attachment;
struct amqp_remote;

/* Who takes care of this queue now: an exclusive queue's `home` is its node (0: no exclusive one). False: this node may try by itself. */
bool amqp_is_remote_slow(const struct amqp_worker *aw, uint32_t partition, uint32_t home, uint64_t queue_id);
static inline bool amqp_is_remote(const struct amqp_worker *aw, uint32_t partition, uint32_t home, uint64_t queue_id)
{
    return GM_UNLIKELY(aw->front->o.bus != NULL) && amqp_is_remote_slow(aw, partition, home, queue_id);
}
static inline bool amqp_queue_is_remote(const struct amqp_worker *aw, const struct topo_queue *q)
{
    return amqp_is_remote(aw, q->partition, q->exclusive ? q->owner_node : 0, q->id);
}
/* Errors of entering that say "not here, or not now": the queue's leader will answer. */
static inline bool amqp_is_role_error(const struct amqp_worker *aw, int err)
{
    return aw->front->o.bus != NULL && (err == ERR_NOT_LEADER || err == ERR_NO_LEASE || err == ERR_NO_LEADER || err == ERR_AGAIN);
}

/* Copies one publish into the queue's batch of this turn. `round` (may be NULL) waits for its answer. */
void amqp_remote_publish(struct amqp_session *s, const struct amqp_publish *p, const struct amqp_target *t, struct amqp_round *round);
/* Everything of a partition's part, which could not be entered. */
void amqp_remote_take_part(struct amqp_session *s, struct amqp_batch *b, const struct amqp_batch_part *part);
/* Settles a delivery of a source that is attached. */
void amqp_remote_settle(struct amqp_channel *ch, uint16_t source, enum queue_settle how, const struct queue_handle *h);
/* The source's queue is led elsewhere from now on. */
void amqp_remote_adopt(struct amqp_channel *ch, uint16_t source);
/* The round waits until the operations so far of the source's queue are answered. */
void amqp_remote_wait(struct amqp_attachment *a, struct amqp_round *round);
bool amqp_remote_is_led(const struct amqp_attachment *a); /* somebody will answer soon */
void amqp_remote_round_forget(struct amqp_round *r); /* it goes */

/* A question that a handler waits for: the first time it is asked and the session parked (AMQP_AGAIN); when the handler runs again, 0 with *ret_err (0, or ERR_NOT_FOUND, ERR_LOCKED, ERR_TIMEOUT, what the queue said) and
 * the rest of the answer. */
int amqp_remote_control(struct amqp_session *s, const struct topo_queue *q, uint8_t what, int *ret_err, struct reader *ret_answer);
int amqp_remote_get(struct amqp_channel *ch, const struct topo_queue *q, bool no_ack, uint16_t *ret_source, int *ret_err, struct reader *ret_answer);
void amqp_remote_forget(struct amqp_session *s); /* it does not wait any more */

/* Consumers. `begin` makes the attachment and parks the session; amqp_wait.asked tells when it was answered. */
void amqp_remote_consume_begin(struct amqp_consumer *c, const struct topo_queue *q);
void amqp_remote_consume_announced(struct amqp_consumer *c); /* consume-ok was written: deliveries may follow */
void amqp_remote_consumer_serve(struct amqp_consumer *c);    /* its client reads again */
void amqp_remote_prefetch_changed(struct amqp_consumer *c);  /* its channel's shared one */
/* No more deliveries; what it took stays with its source. Frees the consumer. */
void amqp_remote_consumer_end(struct amqp_consumer *c);
/* The source is used no more: what it holds is ready again. */
void amqp_remote_source_end(struct amqp_channel *ch, uint16_t source);

bool amqp_remote_is_full(const struct amqp_worker *aw);       /* more waits for leaders than should */
struct list *amqp_remote_full_list(struct amqp_worker *aw);   /* who waits for that to change: amqp_session.remote_full */
void amqp_remote_turn(struct amqp_worker *aw);          /* the turn's end: what was gathered is sent */
void amqp_remote_init(struct amqp_front *f);            /* before bus_start */
void amqp_remote_stop(struct amqp_worker *aw);           /* before bus_close: nothing of the bus is called any more */
void amqp_remote_fini(struct amqp_worker *aw);          /* the bus is closed and the workers have stopped */

/* The id of who numbers batches: node, worker, node epoch. */
#define AMQP_PRODUCER_ID(node, worker, epoch) ((int64_t)((uint64_t)(node) << 40 | (uint64_t)(worker) << 32 | (uint32_t)(epoch)))
#define AMQP_PRODUCER_NODE(id) ((uint32_t)((uint64_t)(id) >> 40))
#define AMQP_PRODUCER_EPOCH(id) ((uint32_t)(id))

#endif
