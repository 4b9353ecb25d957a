#include "protocols/resp/cluster.h"

#include <stdio.h>
#include <string.h>

#include "base/address.h"
#include "base/err.h"
#include "base/mem.h"
#include "config/config.h"

enum {
    RETRY_MS = 3,          /* between two tries of a partition that is being opened */
    OPENING_MAX_MS = 1000, /* so long a client waits for one */
};

/* Made when a session first waits for an opening partition; most never do. */
struct cluster_retry {
    struct session *s;
    struct io_timer timer;
    uint64_t since_us; /* 0: not waiting */
};

bool cluster_leads(const struct resp_front *f, uint32_t partition)
{
    return partition_role(partitions_get(f->o.partitions, partition)) == PARTITION_LEADER;
}

void cluster_partition_slots(uint32_t partition, uint32_t partitions, uint32_t *ret_first, uint32_t *ret_last)
{
    /* partition = slot * P / 16384, rounded down */
    *ret_first = (uint32_t)(((uint64_t)partition * CLUSTER_SLOTS + partitions - 1) / partitions);
    *ret_last = (uint32_t)(((uint64_t)(partition + 1) * CLUSTER_SLOTS + partitions - 1) / partitions) - 1;
}

/* ---- addresses ---- */

bool cluster_node_address(struct session *s, const struct topo_node *n, char *host, size_t size,
                          uint16_t *ret_port)
{
    const struct resp_front *f = s->w->front;

    if (n->id == topology_node_id(f->o.topology) &&
        (f->o.config == NULL || f->o.config->resp_advertise[0] == '\0')) {
        struct address local;
        char text[160];

        /* ctl.sock has no address that a client could be told. */
        conn_local_text(s->c, text, sizeof(text));
        if (address_parse(text, &local) == 0 && !local.is_unix && local.host[0] != '\0') {
            snprintf(host, size, "%s", local.host);
            *ret_port = local.port;
            return true;
        }
    }
    return topo_node_address(n, TOPO_RESP, host, size, ret_port);
}

/* ---- waiting for a partition that is being opened ---- */

static void retry_fire(struct worker *w, struct io_timer *t)
{
    struct cluster_retry *r = CONTAINER_OF(t, struct cluster_retry, timer);

    (void)w;
    CHECK(r->s->parked);
    r->s->parked = false;
    conn_resume_input(r->s->c);
}

/* False: it has waited long enough. */
static bool retry_later(struct exec *x)
{
    struct session *s = x->s;
    struct cluster_retry *r = s->retry;
    uint64_t now = worker_now_us(x->w->worker);

    if (r == NULL) {
        r = s->retry = mem_zalloc(sizeof(*r));
        r->s = s;
        io_timer_init(&r->timer, retry_fire);
    }
    if (r->since_us == 0)
        r->since_us = now;
    if (now - r->since_us > OPENING_MAX_MS * 1000ull) {
        r->since_us = 0;
        return false;
    }
    io_timer_start(x->w->worker, &r->timer, RETRY_MS, 0);
    x->outcome = EXEC_PARKED;
    return true;
}

void cluster_retry_end(struct session *s)
{
    if (s->retry != NULL)
        s->retry->since_us = 0;
}

void cluster_retry_free(struct session *s)
{
    if (s->retry == NULL)
        return;
    io_timer_stop(s->w->worker, &s->retry->timer);
    mem_free(s->retry);
    s->retry = NULL;
}

/* ---- redirecting ---- */

static void write_moved(struct exec *x, const struct topology *v, uint32_t slot, uint32_t leader)
{
    const struct topo_node *n = topo_node_find(v, leader);
    char host[256];
    uint16_t port;

    if (n == NULL || !cluster_node_address(x->s, n, host, sizeof(host), &port)) {
        reply_err(&x->r, ERR_NO_LEADER);
        return;
    }
    reply_errorf(&x->r, "MOVED %u %s:%u", slot, host, port);
}

void cluster_refuse(struct exec *x, uint32_t slot, int err, bool may_wait)
{
    const struct resp_front *f = x->w->front;
    const struct topology *v = topology_view(f->o.topology);
    const struct topo_partition *tp;
    uint32_t partition, me = topology_node_id(f->o.topology);

    x->error_at = x->r.out->len;
    if (err == ERR_AGAIN && may_wait && retry_later(x))
        return;
    if ((err != ERR_NOT_LEADER && err != ERR_NO_LEADER) || slot == CLUSTER_NO_SLOT) {
        reply_err(&x->r, err);
        return;
    }
    partition = placement_of_slot(slot, partitions_count(f->o.partitions));
    tp = topo_partition_at(v, partition);
    if (tp == NULL || tp->leader == 0) {
        reply_err(&x->r, ERR_NO_LEADER);
        return;
    }
    if (tp->leader == me) {
        /* Elected, but the role has not stepped yet. */
        if (may_wait && retry_later(x))
            return;
        reply_err(&x->r, ERR_NO_LEADER);
        return;
    }
    write_moved(x, v, slot, tp->leader);
}

bool cluster_common_slot(struct exec *x, uint32_t first, uint32_t last, uint32_t step, uint32_t *ret_slot)
{
    uint32_t slot = placement_slot(x->argv[first]);

    for (uint32_t i = first + step; i <= last; i += step) {
        if (placement_slot(x->argv[i]) != slot) {
            reply_error(&x->r, "CROSSSLOT Keys in request don't hash to the same slot");
            return false;
        }
    }
    *ret_slot = slot;
    return true;
}

bool cluster_check_here(struct exec *x, uint32_t slot, bool replica_too)
{
    const struct resp_front *f = x->w->front;
    uint32_t partition = placement_of_slot(slot, partitions_count(f->o.partitions));
    enum partition_role role = partition_role(partitions_get(f->o.partitions, partition));

    if (role == PARTITION_LEADER || role == PARTITION_OPENING || role == PARTITION_PARKED)
        return true;
    if (role == PARTITION_FOLLOWER && replica_too)
        return true;
    cluster_refuse(x, slot, ERR_NOT_LEADER, false);
    return false;
}
