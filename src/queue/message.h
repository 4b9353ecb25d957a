/* The message record: the value of a QUEUE_MESSAGE effect. Its key is the kind and database 0 with an empty
 * name; its record timestamp is the time of publishing, which x-message-ttl counts from.
 *
 *   u8       flags: 1 persistent (delivery-mode 2), 2 expires, 4 has a priority; other bits zero
 *   uvarint  expire_at_ms            when flag 2: absolute, from the property `expiration`
 *   u8       priority                when flag 4
 *   lslice   exchange
 *   lslice   routing key
 *   lslice   properties: the AMQP content header from its property flags on, exactly as they came
 *   bytes    body, to the end of the value
 *
 * Pure functions. */
#ifndef GM_QUEUE_MESSAGE_H
#define GM_QUEUE_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"

enum {
    QUEUE_MESSAGE_PERSISTENT = 1,
    QUEUE_MESSAGE_EXPIRES = 2,
    QUEUE_MESSAGE_PRIORITY = 4,
    QUEUE_MESSAGE_FLAGS = 7,
};

/* What a publisher hands over; everything is borrowed for the call. */
struct queue_message {
    struct slice exchange;    /* at most 255 bytes, as all short strings of AMQP */
    struct slice routing_key; /* at most 255 bytes */
    struct slice properties;  /* AMQP: property flags and list, as they came */
    const struct slice *body; /* in pieces, as the frames came */
    size_t body_count;
    bool persistent;
    uint8_t priority;      /* 0: none */
    int64_t expiration_ms; /* relative, from the property `expiration`; -1: none. 0: expires unless it can be
                              delivered at once */
};

/* A decoded record; slices borrow from its bytes. */
struct queue_message_view {
    uint8_t flags, priority;
    int64_t expire_at_ms; /* -1: never */
    struct slice exchange, routing_key, properties, body;
};

/* Puts a record's value together for a gathered append: `head` receives everything up to the length of the
 * properties, then come the properties and the pieces of the body. Returns the number of parts put into
 * `parts`, for which the caller has room: QUEUE_MESSAGE_PARTS + m->body_count. `head` and `m` must outlive
 * them. */
#define QUEUE_MESSAGE_PARTS 3
#define QUEUE_MESSAGE_HEAD_MAX (1 + VARINT_MAX + 1 + 2 * (VARINT_MAX + 255) + VARINT_MAX)
size_t queue_message_encode(const struct queue_message *m, int64_t now_ms,
                            uint8_t head[QUEUE_MESSAGE_HEAD_MAX], struct slice *parts);
/* ERR_CORRUPT. */
int queue_message_decode(struct slice value, struct queue_message_view *ret);

#endif
