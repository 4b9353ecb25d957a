/* Direct reply-to (RabbitMQ): a client consumes from the pseudo-queue amq.rabbitmq.reply-to and publishes
 * requests with that reply-to, which becomes amq.rabbitmq.reply-to.<16 hex digits>; whoever answers publishes
 * to the default exchange with that key and the message goes straight to the channel that asked, through no
 * queue and no log. At most once: a reply to a channel that has gone, or that does not read, is dropped.
 *
 * The front knows of each reply consumer its worker and connection (amqp_ids, any thread); everything else is
 * the worker's. */
#ifndef GM_AMQP_REPLY_H
#define GM_AMQP_REPLY_H

#include "protocols/amqp/session.h"

#define AMQP_REPLY_QUEUE "amq.rabbitmq.reply-to"
#define AMQP_REPLY_NAME_LEN (sizeof(AMQP_REPLY_QUEUE) + 16)

/* The pseudo-queue, with or without a key behind it. */
bool amqp_reply_is_name(struct slice name);
/* basic.consume of it. */
int amqp_reply_consume(struct amqp_channel *ch, const struct amqp_basic_consume *m);
/* True: the tag was the reply consumer's, which is no more. */
bool amqp_reply_cancel(struct amqp_channel *ch, struct slice tag);
void amqp_reply_free(struct amqp_channel *ch);
/* The channel's full name into text; it has a reply consumer. */
struct slice amqp_reply_queue_name(const struct amqp_channel *ch, char text[AMQP_REPLY_NAME_LEN + 1]);
/* True when the consumer behind this name lives. */
bool amqp_reply_lives(struct amqp_front *f, struct slice name);
/* Sends a reply on its way; false: nobody is there. */
bool amqp_reply_send(struct amqp_session *from, const struct amqp_content *c);

#endif
