/* What server-properties tell of the cluster (connection.start's table "gomsg"), for clients that want to connect to the node that leads their queue; everybody else ignores it.
 *
 *   version      l   of the topology this is of
 *   partitions   I   the partition of a queue is FNV-1a-32(vhost + "/" + name) mod partitions
 *   nodes        F   node id -> "HOST:PORT" of its AMQP listener
 *   leaders      S   node ids of the partitions' leaders in order, blanks between; 0: none. Left out above 1,024 partitions: connection.start must fit the smallest frame
 */
#include "base/mem.h"
#include "protocols/amqp/session.h"

enum { LEADERS_MAX = 1024, NODES_MAX = 32 };

struct nodes {
    struct buf *out;
    unsigned count;
};

static bool put_node(const struct topo_node *n, void *arg)
{
    struct nodes *nodes = arg;
    char name[16], host[256], *address;
    uint16_t port;

    if (nodes->count >= NODES_MAX || n->state == TOPO_NODE_FENCED || !topo_node_address(n, TOPO_AMQP, host, sizeof(host), &port))
        return true;
    nodes->count++;
    snprintf(name, sizeof(name), "%u", n->id);
    address = mem_printf(strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
    amqp_table_put_str(nodes->out, name, slice_str(address));
    mem_free(address);
    return true;
}

void amqp_put_hint(const struct topology *v, struct buf *out)
{
    struct buf hint = {0}, part = {0};
    struct nodes nodes = {&part, 0};

    amqp_table_put_i64(&hint, "version", (int64_t)v->index);
    amqp_table_put_i32(&hint, "partitions", (int32_t)v->total_partitions);
    topo_each_node(v, put_node, &nodes);
    amqp_table_put_table(&hint, "nodes", buf_slice(&part));
    buf_clear(&part);
    for (uint32_t i = 0; i < v->total_partitions && v->total_partitions <= LEADERS_MAX; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);

        buf_printf(&part, i == 0 ? "%u" : " %u", p == NULL ? 0 : p->leader);
    }
    if (part.len != 0)
        amqp_table_put_str(&hint, "leaders", buf_slice(&part));
    amqp_table_put_table(out, "gomsg", buf_slice(&hint));
    buf_fini(&part);
    buf_fini(&hint);
}
