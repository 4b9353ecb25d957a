/* What a change of the topology means for the engines: a deleted queue's log and a deleted topic's streams go. On the metadata thread, before the proposal is answered, so that a
 * client who was told "deleted" finds nothing of it. */
#include "base/diag.h"
#include "base/mem.h"
#include "cluster/member/member.h"
#include "cluster/topology/commands.h"
#include "queue/queue.h"
#include "server/internal.h"

void server_topology_changed(void *arg, const struct topology_change *c)
{
    struct server *s = arg;
    struct partition_guard g;

    switch (c->kind) {
    case TOPO_QUEUE_DELETED:
        partition_enter_background(partitions_get(s->partitions, c->partition), 0, &g);
        queue_delete(partition_queues(g.p), c->id);
        partition_leave(&g);
        break;
    case TOPO_TOPIC_DELETED:
        for (uint32_t i = 0; i < c->partitions; i++) {
            struct stream_place place = {.topic_id = c->id, .topic = c->name, .index = i};

            place.partition = placement_of_topic(c->name, i, partitions_count(s->partitions));
            stream_delete(s->streams, &place);
        }
        break;
    case TOPO_VHOST_DELETED:
        diag_info("virtual host deleted", "name=\"%.*s\"", (int)c->name.len, (const char *)c->name.data);
        break;
    case TOPO_PARTITION_DAMAGED:
        if (__atomic_load_n(&s->members_run, __ATOMIC_ACQUIRE))
            member_partition_damaged(s->member, (uint32_t)c->id, c->partition);
        break;
    case TOPO_TOPIC_CREATED:
    case TOPO_TOPIC_CHANGED:
    case TOPO_USER_CHANGED:
    case TOPO_CONFIG_CHANGED:
    case TOPO_NODE_CHANGED:
    case TOPO_PARTITION_CHANGED:
        break; /* read from the view where they are used */
    }
}

static void ended_done(struct topology_proposal *p)
{
    /* Already gone is as good: a client deleted it meanwhile. */
    buf_fini(&p->command);
    mem_free(p);
}

void server_queue_ended(void *arg, uint64_t queue_id, uint32_t partition)
{
    struct server *s = arg;
    struct topology_proposal *p = mem_zalloc(sizeof(*p));

    (void)partition;
    p->done = ended_done;
    topo_cmd_queue_delete(&p->command, queue_id);
    topology_propose(s->topology, p);
}
