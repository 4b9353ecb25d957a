/* Content: the header and body frames behind basic.publish. Usually all three frames stand in the input
 * buffer and nothing is copied; what does not fit is gathered in content.held as it arrives. */
#ifndef GM_AMQP_CONTENT_H
#define GM_AMQP_CONTENT_H

#include "protocols/amqp/session.h"

/* A header or body frame of an open channel. */
int amqp_content_frame(struct amqp_channel *ch, const struct amqp_frame *f);
/* The input buffer is about to go: copies what is borrowed from it. */
void amqp_content_own(struct amqp_channel *ch);
/* The content is complete: routes it and gathers the publish. */
int amqp_content_publish(struct amqp_channel *ch);
/* Forgets a message that is under way. */
void amqp_content_drop(struct amqp_channel *ch);

#endif
