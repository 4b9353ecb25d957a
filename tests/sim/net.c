/* The network: every message is bytes, so that the codec is under test too. */
#include "sim.h"

#define SMALL 240u

static struct msg *msg_new(struct world *w, const struct buf *b)
{
    struct msg *m = w->free_msgs;

    if (b->len <= SMALL && m != NULL)
        w->free_msgs = m->next;
    else
        m = mem_alloc(sizeof(*m) + MAX_OF(b->len, (size_t)SMALL));
    m->len = (uint32_t)b->len;
    memcpy(m->bytes, b->data, b->len);
    return m;
}

void net_drop(struct world *w, struct msg *m)
{
    if (m->len > SMALL) {
        mem_free(m);
        return;
    }
    m->next = w->free_msgs;
    w->free_msgs = m;
}

void net_send(struct world *w, struct node *from, struct raft_message *m)
{
    struct node *to = world_node(w, m->to.id);
    unsigned copies = 1;

    if (to == NULL)
        return;
    if (!w->calm) {
        if (w->cut[from->id - 1][to->id - 1] || chance(w, w->p.loss))
            return;
        copies += chance(w, w->p.dup);
    }
    buf_clear(&w->scratch);
    raft_encode(m, &w->scratch);
    while (copies-- > 0) {
        uint64_t delay = w->p.latency_us + below(w, w->p.jitter_us + 1);

        world_push(w, w->now + delay, EV_DELIVER, to, msg_new(w, &w->scratch));
    }
}
