/* Raft messages from a peer: what decodes survives being encoded and decoded again, and a core that is given it neither falls over nor forgets what it has committed. The input is
 * frames: be16 length, message. */
#include <stdint.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/raft/raft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SELF 1

struct host {
    struct raft *r;
    uint64_t applied, seq;
    struct buf recv;
};

static void step(struct host *h, struct raft_event ev, uint64_t now)
{
    struct raft_event again = {0};
    struct raft_snapshot s;
    struct raft_update up;
    struct buf out = {0}, config = {0};
    int err;

    ev.now_us = now;
    err = raft_step(h->r, &ev, &up);
    if (err == ERR_CORRUPT)
        return; /* it claimed what cannot be: the node would stop */
    CHECK(up.commit >= h->applied || up.chunk != NULL);
    for (size_t i = 0; i < up.message_count; i++) {
        struct raft_message m = up.messages[i];

        if (m.type == RAFT_MSG_SNAPSHOT)
            continue;
        buf_clear(&out);
        raft_encode(&m, &out);
    }
    buf_fini(&out);
    h->seq = up.seq != 0 ? up.seq : h->seq;
    if (up.chunk != NULL) {
        if (up.chunk->offset == 0)
            buf_clear(&h->recv);
        CHECK(h->recv.len == up.chunk->offset);
        buf_put_slice(&h->recv, up.chunk->data);
        if (up.chunk->last) {
            s = up.chunk->snapshot;
            buf_put_slice(&config, s.config);
            s.config = buf_slice(&config);
            again = (struct raft_event){.type = RAFT_SNAPSHOT_INSTALLED, .snapshot = s};
            h->applied = s.index;
            step(h, again, now);
            buf_fini(&config);
            return;
        }
    }
    if (up.commit > h->applied) {
        h->applied = up.commit;
        step(h, (struct raft_event){.type = RAFT_APPLIED, .applied = h->applied}, now);
    }
}

static void host_start(struct host *h)
{
    struct raft_member m[3] = {0};
    struct raft_entry e = {.term = 1, .kind = RAFT_ENTRY_CONFIG};
    struct raft_recovered rec = {.term = 1, .entries = &e, .entry_count = 1};
    struct raft_options o = {.self = {.id = SELF}, .seed = 1, .now_us = 1};
    struct buf b = {0};

    for (uint32_t i = 0; i < 3; i++)
        m[i] = (struct raft_member){.node.id = i + 1, .voter = true};
    raft_config_encode(m, 3, &b);
    e.data = b.data;
    e.len = (uint32_t)b.len;
    *h = (struct host){.r = raft_new(&o, &rec)};
    buf_fini(&b);
}

/* The second encoding is the first's own, whatever the peer's looked like. */
static void round_trip(const struct raft_message *m)
{
    struct raft_decoder d = {0};
    struct buf one = {0}, two = {0};

    raft_encode(m, &one);
    CHECK(raft_decode(buf_slice(&one), &d) == 0);
    raft_encode(&d.m, &two);
    CHECK(slice_eq(buf_slice(&one), buf_slice(&two)));
    raft_decoder_fini(&d);
    buf_fini(&one);
    buf_fini(&two);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader in = reader_of(slice_of(data, size));
    struct raft_decoder d = {0};
    struct host h;
    uint64_t now = 1;

    host_start(&h);
    while (reader_left(&in) >= 2) {
        size_t n = reader_be16(&in);
        struct slice frame = reader_slice(&in, MIN_OF(n, reader_left(&in)));

        now += 50000;
        step(&h, (struct raft_event){.type = RAFT_TICK}, now);
        if (raft_decode(frame, &d) == 0) {
            round_trip(&d.m);
            d.m.to = (struct raft_node){.id = SELF}; /* else nearly everything would be for somebody else */
            step(&h, (struct raft_event){.type = RAFT_MSG, .message = &d.m}, now);
        }
        step(&h, (struct raft_event){.type = RAFT_PERSISTED, .seq = h.seq}, now);
    }
    raft_decoder_fini(&d);
    buf_fini(&h.recv);
    raft_free(h.r);
    return 0;
}
