/* Helpers that the methods on queues and exchanges share. */
#ifndef GM_AMQP_QUEUES_H
#define GM_AMQP_QUEUES_H

#include "protocols/amqp/session.h"

#define AMQP_NAME_MAX 64

/* prefix + 22 characters of base64url, as RabbitMQ names what a client leaves unnamed. */
void amqp_generate_name(char name[AMQP_NAME_MAX], const char *prefix);
/* "" means the queue declared last on this channel. False: the channel was failed (404). */
bool amqp_queue_name(struct amqp_channel *ch, struct slice *name);
/* The queue, if it is there and not another connection's; NULL: the channel was failed (404, 405). */
const struct topo_queue *amqp_queue_usable(struct amqp_channel *ch, struct slice name);
/* Fails the channel because a queue's partition or log has failed, or the queue vanished. Returns 0. */
int amqp_queue_unavailable(struct amqp_channel *ch, struct slice name, int err);
/* Sends the wait's command to the topology; the handler returns AMQP_AGAIN and finds wait->answered. */
int amqp_propose(struct amqp_session *s);
/* Checks a declaration's arguments. False: the channel was failed (406). */
bool amqp_queue_args_check(struct amqp_channel *ch, struct slice name, const struct amqp_queue_declare *m);
/* False: an argument differs from the existing one's; the channel was failed (406). */
bool amqp_args_equivalent(struct amqp_channel *ch, enum amqp_kind kind, struct slice name,
                          struct slice current, struct slice received, const char *const *names);
bool amqp_bit_equivalent(struct amqp_channel *ch, enum amqp_kind kind, struct slice name, const char *arg,
                         bool current, bool received);
/* What binding and unbinding of queues and exchanges have in common. *ret_done: send the -ok. 0 or
 * AMQP_AGAIN. */
int amqp_bind(struct amqp_channel *ch, bool add, enum amqp_kind kind, struct slice destination,
              struct slice source, struct slice routing_key, struct slice args, bool *ret_done);

#endif
