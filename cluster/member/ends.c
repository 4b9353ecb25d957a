/* Rule 19: how far the main log of a partition goes at each replica. Asked of the nodes by LOG_ENDS, kept for as long as their epoch lasts: until somebody leads, nobody writes. */
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/member/private.h"
#include "cluster/replicate/codec.h"
#include "cluster/topology/partition.h"

#define ASK_TIMEOUT_MS 2000

static struct end *find_end(struct member *m, uint32_t partition, uint32_t node)
{
    for (unsigned i = 0; i < m->end_count; i++)
        if (m->ends[i].partition == partition && m->ends[i].node_id == node)
            return &m->ends[i];
    return NULL;
}

bool ends_get(void *arg, uint32_t partition, uint32_t node, int32_t *ret_epoch, int64_t *ret_end)
{
    struct member *m = arg;
    const struct end *e = find_end(m, partition, node);
    const struct topo_node *n = topo_node_find(topology_view(m->o.topology), node);

    if (e == NULL || n == NULL || n->epoch != e->node_epoch)
        return false;
    *ret_epoch = e->epoch;
    *ret_end = e->end;
    return true;
}

/* What has a leader is written to: what was told before is true no more. */
void ends_prune(struct member *m, const struct topology *v)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < m->end_count; i++) {
        const struct topo_partition *p = topo_partition_at(v, m->ends[i].partition);

        if (p != NULL && p->leader == 0)
            m->ends[kept++] = m->ends[i];
    }
    m->end_count = kept;
}

static void learn(struct member *m, uint32_t partition, uint32_t node, uint64_t node_epoch, int32_t epoch, int64_t end)
{
    struct end *e = find_end(m, partition, node);

    if (e == NULL) {
        if (m->end_count == m->end_cap) {
            m->end_cap = m->end_cap == 0 ? 32 : m->end_cap * 2;
            m->ends = mem_realloc(m->ends, m->end_cap * sizeof(m->ends[0]));
        }
        e = &m->ends[m->end_count++];
    }
    *e = (struct end){partition, node, node_epoch, epoch, end};
    m->dirty = true;
}

static void told(struct bus_call *call, int err, struct slice payload)
{
    struct end_call *c = CONTAINER_OF(call, struct end_call, call);
    struct reader r = reader_of(payload);
    struct log_end_entry e;
    int32_t epoch = 0;
    int64_t end = 0;

    list_remove(&c->node);
    if (err == 0) {
        reader_varint(&r); /* the epoch it knows: nobody leads, so it is no newer than ours */
        while (reader_left(&r) > 0 && (err = log_end_get(&r, c->partition, &e)) == 0) {
            if (e.key.kind == LOG_MAIN) {
                epoch = e.epoch;
                end = e.end;
            }
        }
        if (r.bad)
            err = ERR_MALFORMED;
    }
    if (err == 0)
        learn(c->m, c->partition, c->node_id, c->node_epoch, epoch, end);
    else
        DIAG_EVERY(DIAG_WARN, "a replica did not tell where its log ends", "partition=%u node=%u err=\"%s\"", c->partition, c->node_id, err_text(err));
    mem_free(c);
}

static bool is_asked(struct member *m, uint32_t partition, uint32_t node)
{
    LIST_FOREACH(at, &m->end_calls)
    {
        struct end_call *c = LIST_ENTRY(at, struct end_call, node);

        if (c->partition == partition && c->node_id == node)
            return true;
    }
    return false;
}

void ends_want(struct member *m, uint32_t partition)
{
    const struct topology *v = topology_view(m->o.topology);
    const struct topo_partition *p = topo_partition_at(v, partition);
    struct topo_replica_set set = topo_replicas(p);
    int32_t epoch;
    int64_t end;

    for (unsigned i = 0; i < set.count; i++) {
        const struct topo_node *n = topo_node_find(v, set.nodes[i]);
        struct buf b = {0};
        struct end_call *c;

        if (!topo_node_alive(n) || is_asked(m, partition, n->id) || ends_get(m, partition, n->id, &epoch, &end))
            continue;
        if (n->id == topology_node_id(m->o.topology)) {
            struct log *log = partition_main_log(partitions_get(m->o.partitions, partition));

            if (log_failed(log) != 0 || partition_state(partitions_get(m->o.partitions, partition)) == PARTITION_FAILED)
                learn(m, partition, n->id, n->epoch, -1, 0); /* D6: it counts as empty */
            else
                learn(m, partition, n->id, n->epoch, log_last_epoch(log), log_end(log));
            continue;
        }
        c = mem_zalloc(sizeof(*c));
        *c = (struct end_call){.m = m, .partition = partition, .node_id = n->id, .node_epoch = n->epoch, .call = {.worker = m->o.control, .done = told}};
        list_push_back(&m->end_calls, &c->node);
        buf_put_uvarint(&b, partition);
        buf_put_varint(&b, p->epoch);
        bus_call(m->o.bus, n->id, BUS_LOG_ENDS, buf_slice(&b), ASK_TIMEOUT_MS, &c->call);
        buf_fini(&b);
    }
}

void ends_forget(struct member *m)
{
    while (!list_empty(&m->end_calls)) {
        struct end_call *c = LIST_ENTRY(m->end_calls.next, struct end_call, node);

        bus_call_cancel(&c->call);
        list_remove(&c->node);
        mem_free(c);
    }
    m->end_count = 0;
}
