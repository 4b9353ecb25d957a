/* After recovery: log directories of queues and topics that the topology no longer knows. A process killed between the command that deleted an object and the removal of its
 * files leaves them behind; nothing would ever open or delete them again. Ids are never reused, so what is not found is gone. */
#include <string.h>

#include "cluster/topology/topology.h"
#include "log/log.h"
#include "server/internal.h"

static bool topic_exists(const struct topology *v, const char *name, uint64_t log_id)
{
    const char *dash = strrchr(name, '-'); /* "<topic>-<index>" */
    const struct topo_topic *t = dash == NULL ? NULL : topo_topic_find(v, slice_of(name, (size_t)(dash - name)));

    return t != NULL && t->id == log_id >> 20; /* stream/table.c makes the id */
}

static bool keep(void *arg, const char *dir, uint64_t log_id)
{
    const struct topology *v = arg;
    const char *rest = strchr(dir, '/');

    if (rest != NULL && strncmp(rest, "/queue/", 7) == 0)
        return topo_queue_by_id(v, log_id) != NULL;
    if (rest != NULL && strncmp(rest, "/topic/", 7) == 0)
        return topic_exists(v, rest + 7, log_id);
    return true; /* main logs, and whatever else a newer version may have put there */
}

void server_sweep_logs(struct log_store *logs, struct topology_store *topology)
{
    const struct topology *v = topology_pin(topology);

    log_store_sweep(logs, keep, (void *)v);
    topology_unpin(topology);
}
