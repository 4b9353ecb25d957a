#include "queue/message.h"

#include "base/check.h"
#include "base/err.h"

size_t queue_message_encode(const struct queue_message *m, int64_t now_ms,
                            uint8_t head[QUEUE_MESSAGE_HEAD_MAX], struct slice *parts)
{
    uint8_t *p = head + 1;
    uint8_t flags = 0;
    size_t n = 0;

    CHECK(m->exchange.len <= 255 && m->routing_key.len <= 255);
    if (m->persistent)
        flags |= QUEUE_MESSAGE_PERSISTENT;
    if (m->expiration_ms >= 0) {
        flags |= QUEUE_MESSAGE_EXPIRES;
        p += uvarint_put(p, (uint64_t)now_ms + (uint64_t)m->expiration_ms);
    }
    if (m->priority != 0) {
        flags |= QUEUE_MESSAGE_PRIORITY;
        *p++ = m->priority;
    }
    head[0] = flags;
    p += uvarint_put(p, m->exchange.len);
    if (m->exchange.len != 0)
        memcpy(p, m->exchange.data, m->exchange.len);
    p += m->exchange.len;
    p += uvarint_put(p, m->routing_key.len);
    if (m->routing_key.len != 0)
        memcpy(p, m->routing_key.data, m->routing_key.len);
    p += m->routing_key.len;
    p += uvarint_put(p, m->properties.len);
    parts[n++] = slice_of(head, (size_t)(p - head));
    if (m->properties.len != 0)
        parts[n++] = m->properties;
    for (size_t i = 0; i < m->body_count; i++)
        parts[n++] = m->body[i];
    return n;
}

int queue_message_decode(struct slice value, struct queue_message_view *ret)
{
    struct reader r = reader_of(value);

    ret->flags = reader_u8(&r);
    ret->expire_at_ms = -1;
    ret->priority = 0;
    if (ret->flags & QUEUE_MESSAGE_EXPIRES) {
        uint64_t at = reader_uvarint(&r);

        if (at > INT64_MAX)
            return ERR_CORRUPT;
        ret->expire_at_ms = (int64_t)at;
    }
    if (ret->flags & QUEUE_MESSAGE_PRIORITY)
        ret->priority = reader_u8(&r);
    ret->exchange = reader_lslice(&r);
    ret->routing_key = reader_lslice(&r);
    ret->properties = reader_lslice(&r);
    if (r.bad || (ret->flags & ~QUEUE_MESSAGE_FLAGS) || ret->exchange.len > 255 || ret->routing_key.len > 255)
        return ERR_CORRUPT;
    ret->body = slice_of(r.p, reader_left(&r));
    return 0;
}
