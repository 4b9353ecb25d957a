/* What nodes tell each other about queues: the decoders of forwarded requests and deliveries. First byte: which; what is understood comes back the same when written again. */
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "protocols/amqp/forward.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void messages(struct reader r, struct slice whole)
{
    struct buf again = {0};

    while (!r.bad && reader_left(&r) > 0) {
        struct forward_message m;

        forward_get_message(&r, &m);
        if (r.bad)
            break;
        CHECK(m.exchange.len <= 255 && m.routing_key.len <= 255 && m.properties.len >= 2 && m.expiration_ms >= -1);
        forward_put_message(&again, &m);
    }
    CHECK(again.len <= 2 * whole.len + 64); /* varints may have been longer than they need to be, and a priority of 0 goes */
    buf_fini(&again);
}

static void deliveries(struct reader r, struct slice whole)
{
    struct buf again = {0};

    while (!r.bad && reader_left(&r) > 0) {
        struct queue_delivery d;

        forward_get_delivery(&r, &d);
        if (r.bad)
            break;
        CHECK(d.handle.offset_flags >> 63 == 0 && queue_handle_offset(&d.handle) >= 0);
        forward_put_delivery(&again, &d);
    }
    CHECK(again.len <= 2 * whole.len + 64);
    buf_fini(&again);
}

static void heads(struct reader r)
{
    struct forward_head h, back;
    struct buf again = {0};
    struct reader b;

    forward_get_head(&r, &h);
    if (r.bad)
        return;
    forward_put_head(&again, &h);
    b = reader_of(buf_slice(&again));
    forward_get_head(&b, &back);
    CHECK(forward_is_whole(&b) && back.queue_id == h.queue_id && back.partition == h.partition && back.epoch == h.epoch && back.flags == h.flags);
    buf_fini(&again);
    CHECK(forward_get_count(&r, FORWARD_HANDLE_SIZE) <= reader_left(&r) / FORWARD_HANDLE_SIZE);
    (void)forward_get_refused(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rest;

    if (size == 0)
        return 0;
    rest = slice_of(data + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        messages(reader_of(rest), rest);
        break;
    case 1:
        deliveries(reader_of(rest), rest);
        break;
    default:
        heads(reader_of(rest));
    }
    return 0;
}
