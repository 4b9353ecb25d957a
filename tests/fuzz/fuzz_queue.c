/* What a queue reads from its disk. The first byte chooses: 'm', the value of a message record; 'c', a
 * checkpoint without its magic and checksum, which are put in front so that its fields are reached. The live
 * offsets of a checkpoint that decodes are counted in three ways. */
#include "base/crc32c.h"
#include "queue/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void message(struct slice value)
{
    struct queue_message_view v;

    if (queue_message_decode(value, &v) != 0)
        return;
    CHECK(v.body.data + v.body.len == value.data + value.len);
    CHECK(v.exchange.len <= 255 && v.routing_key.len <= 255);
}

static void wrap(struct slice body, struct buf *out)
{
    buf_put(out, "GMQC", 4);
    buf_put_be32(out, crc32c(0, body.data, body.len));
    buf_put_slice(out, body);
}

static void checkpoint(struct slice body)
{
    static struct queue q;
    struct reader r = reader_of(body);
    struct buf whole = {0};

    reader_take(&r, 1 + 8);
    if (reader_uvarint(&r) > 1u << 26) /* its memory follows the span of what is live */
        return;
    q = (struct queue){.spec.id = 1};
    ackmap_init(&q.acks, 0);
    wrap(body, &whole);
    if (queue_checkpoint_decode(&q, buf_slice(&whole)) == 0) {
        uint64_t live = 0;

        for (int64_t o = ackmap_next_live(&q.acks, 0); o < q.acks.end; o = ackmap_next_live(&q.acks, o + 1))
            live++;
        CHECK(live == q.acks.live);
        CHECK(ackmap_count_live(&q.acks, 0, INT64_MAX) == live);
        CHECK(ackmap_settle_range(&q.acks, 0, INT64_MAX) == live);
    }
    ackmap_fini(&q.acks);
    buf_fini(&whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rest;

    if (size == 0)
        return 0;
    rest = slice_of(data + 1, size - 1);
    if (data[0] == 'm')
        message(rest);
    else
        checkpoint(rest);
    return 0;
}
