#include "protocols/amqp/stats.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "metrics/metrics.h"

static const char *const methods[] = {
#define CLIENT(c, cid, m, mid, sync, fields) #c "." #m,
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef CLIENT
#undef SERVER
#undef BOTH
};

static const char *const codes[] = {
#define X(name, code, level) #name,
#include "protocols/amqp/replies.def"
#undef X
    "OTHER",
};

static struct metrics_protocol metrics;

void amqp_stats_register(void)
{
    metrics_protocol_register(&metrics, "amqp", "method", methods, AMQP_STATS, codes, ARRAY_LEN(codes));
}

static int stat_of(uint32_t id)
{
    switch (id) {
#define CLIENT(c, cid, m, mid, sync, fields)                                                                 \
    case (uint32_t)(cid) << 16 | (mid):                                                                      \
        return AMQP_STAT_##c##_##m;
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef CLIENT
#undef SERVER
#undef BOTH
    default:
        return -1;
    }
}

void amqp_stats_frame(struct amqp_tally *t, const struct amqp_frame *f, size_t in, size_t out)
{
    int i = AMQP_STAT_basic_publish;

    if (f->type == AMQP_FRAME_METHOD) {
        i = f->payload.len < 4 ? -1 : stat_of(be32_get(f->payload.data));
        if (i < 0)
            return; /* answered as an error, counted as one */
        if (i != AMQP_STAT_basic_publish)
            t->calls[i]++;
        t->bytes_out[i] += out;
    } else if (f->type != AMQP_FRAME_CONTENT_HEADER && f->type != AMQP_FRAME_BODY) {
        return;
    }
    t->touched[i / 64] |= 1ull << (i % 64);
    t->bytes_in[i] += in;
}

void amqp_stats_flush(struct amqp_tally *t, uint64_t began, uint64_t published)
{
    uint64_t ns = 0;

    t->calls[AMQP_STAT_basic_publish] += (uint32_t)(published - t->published);
    t->published = published;

    for (unsigned w = 0; w < ARRAY_LEN(t->touched); w++) {
        if (t->touched[w] != 0 && ns == 0)
            ns = clock_ticks_to_ns(clock_ticks() - began);
        while (t->touched[w] != 0) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(t->touched[w]);

            t->touched[w] &= t->touched[w] - 1;
            if (t->calls[i] != 0)
                metrics_observe_n(metrics.latency, i, ns, t->calls[i]);
            metrics_count(metrics.bytes_in, i, t->bytes_in[i]);
            metrics_count(metrics.bytes_out, i, t->bytes_out[i]);
            t->calls[i] = 0;
            t->bytes_in[i] = t->bytes_out[i] = 0;
        }
    }
}

void amqp_stats_delivered(size_t bytes)
{
    metrics_count(metrics.bytes_out, AMQP_STAT_basic_deliver, bytes);
}

void amqp_stats_error(unsigned code)
{
    static const uint16_t numbers[] = {
#define X(name, code, level) code,
#include "protocols/amqp/replies.def"
#undef X
    };
    unsigned i;

    for (i = 0; i < ARRAY_LEN(numbers) && numbers[i] != code; i++)
        ;
    metrics_error(&metrics, i);
}
