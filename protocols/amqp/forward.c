#include "protocols/amqp/forward.h"

#include "base/err.h"

void forward_put_head(struct buf *out, const struct forward_head *h)
{
    buf_put_be64(out, h->queue_id);
    buf_put_be32(out, h->partition);
    buf_put_be32(out, (uint32_t)h->epoch);
    buf_put_u8(out, h->flags);
}

void forward_get_head(struct reader *r, struct forward_head *ret)
{
    ret->queue_id = reader_be64(r);
    ret->partition = reader_be32(r);
    ret->epoch = (int32_t)reader_be32(r);
    ret->flags = reader_u8(r);
    if ((ret->flags & ~FORWARD_FLAGS) != 0)
        r->bad = 1;
}

static void put_content(struct buf *out, struct slice exchange, struct slice key, struct slice properties, struct slice body)
{
    buf_put_lslice(out, exchange);
    buf_put_lslice(out, key);
    buf_put_lslice(out, properties);
    buf_put_lslice(out, body);
}

/* Exchange and key go into short strings of AMQP: longer ones cannot have come from one. */
static void get_content(struct reader *r, struct slice *exchange, struct slice *key, struct slice *properties, struct slice *body)
{
    *exchange = reader_lslice(r);
    *key = reader_lslice(r);
    *properties = reader_lslice(r);
    *body = reader_lslice(r);
    if (exchange->len > 255 || key->len > 255 || properties->len < 2)
        r->bad = 1;
}

void forward_put_message(struct buf *out, const struct forward_message *m)
{
    buf_put_u8(out, (uint8_t)((m->persistent ? QUEUE_MESSAGE_PERSISTENT : 0) | (m->expiration_ms >= 0 ? QUEUE_MESSAGE_EXPIRES : 0) |
                              (m->priority != 0 ? QUEUE_MESSAGE_PRIORITY : 0)));
    if (m->expiration_ms >= 0)
        buf_put_uvarint(out, (uint64_t)m->expiration_ms);
    if (m->priority != 0)
        buf_put_u8(out, m->priority);
    put_content(out, m->exchange, m->routing_key, m->properties, m->body);
}

void forward_get_message(struct reader *r, struct forward_message *ret)
{
    uint8_t flags = reader_u8(r);
    uint64_t ms = flags & QUEUE_MESSAGE_EXPIRES ? reader_uvarint(r) : 0;

    if ((flags & ~QUEUE_MESSAGE_FLAGS) != 0 || ms > INT64_MAX / 4)
        r->bad = 1;
    ret->persistent = (flags & QUEUE_MESSAGE_PERSISTENT) != 0;
    ret->expiration_ms = flags & QUEUE_MESSAGE_EXPIRES ? (int64_t)ms : -1;
    ret->priority = flags & QUEUE_MESSAGE_PRIORITY ? reader_u8(r) : 0;
    get_content(r, &ret->exchange, &ret->routing_key, &ret->properties, &ret->body);
}

void forward_put_handle(struct buf *out, const struct queue_handle *h)
{
    buf_put_be64(out, h->offset_flags);
    buf_put_be32(out, h->size);
}

void forward_get_handle(struct reader *r, struct queue_handle *ret)
{
    *ret = (struct queue_handle){.offset_flags = reader_be64(r), .size = reader_be32(r)};
    if (ret->offset_flags >> 63 != 0) /* offsets have 47 bits, and all ones is a hole of who holds it */
        r->bad = 1;
}

void forward_put_delivery(struct buf *out, const struct queue_delivery *d)
{
    forward_put_handle(out, &d->handle);
    buf_put_u8(out, d->redelivered);
    put_content(out, d->exchange, d->routing_key, d->properties, d->body);
}

void forward_get_delivery(struct reader *r, struct queue_delivery *ret)
{
    uint8_t redelivered;

    *ret = (struct queue_delivery){.timestamp_ms = 0};
    forward_get_handle(r, &ret->handle);
    redelivered = reader_u8(r);
    if (redelivered > 1)
        r->bad = 1;
    ret->redelivered = redelivered == 1;
    get_content(r, &ret->exchange, &ret->routing_key, &ret->properties, &ret->body);
}

uint64_t forward_get_count(struct reader *r, size_t least)
{
    uint64_t n = reader_uvarint(r);

    if (n > reader_left(r) / least) {
        r->bad = 1;
        return 0;
    }
    return n;
}

void forward_put_refused(struct buf *out, int err)
{
    buf_put_u8(out, FORWARD_REFUSED);
    buf_put_lslice(out, slice_str(err_name(err)));
}

int forward_get_refused(struct reader *r)
{
    struct slice name = reader_lslice(r);

    for (int err = ERR__FIRST + 1; err < ERR__END; err++) {
        if (slice_eq(name, slice_str(err_name(err))))
            return err;
    }
    return ERR_IO;
}
