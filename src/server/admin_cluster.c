/* GOMSG cluster: forming by an administrator's word, the Raft group, removing nodes. On the admin thread. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/commands.h"
#include "server/internal.h"

/* cluster form [--without HOST:PORT ...]: without those seeds. */
json_t *admin_cluster_form(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    char **without = mem_calloc(argc + 1, sizeof(*without));
    unsigned n = 0;
    char text[400];
    int err;

    for (unsigned i = 0; i < argc; i++) {
        if (!slice_eq(argv[i], SLICE_LIT("--without")))
            without[n++] = mem_strdup_slice(argv[i]);
    }
    err = topology_form_without(s->topology, (const char *const *)without, n, text, sizeof(text));
    for (unsigned i = 0; i < n; i++)
        mem_free(without[i]);
    mem_free(without);
    if (err == 0)
        return json_pack("{s:b}", "formed", 1);
    buf_put_str(why, text);
    return NULL;
}

/* cluster group: Raft as this node sees it. */
json_t *admin_cluster_group(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    static const char *const phases[] = {"loading", "forming", "member", "failed"};
    json_t *members = json_array();
    struct topology_group g;

    (void)argc, (void)argv, (void)why;
    topology_group_get(s->topology, &g);
    for (unsigned i = 0; i < g.count && i < sizeof(g.members) / sizeof(g.members[0]); i++) {
        const struct topology_group_member *m = &g.members[i];

        json_array_append_new(members, json_pack("{s:i, s:b, s:I, s:I, s:I}", "node_id", (int)m->node_id, "voter", (int)m->voter, "match", (json_int_t)m->match, "applied", (json_int_t)m->applied, "heard_ms_ago",
                                                 (json_int_t)m->heard_ms_ago));
    }
    return json_pack("{s:s, s:s, s:i, s:I, s:i, s:I, s:I, s:I, s:o}", "phase", phases[g.phase], "text", g.text, "node_id", (int)topology_node_id(s->topology), "node_epoch", (json_int_t)topology_node_epoch(s->topology), "leader",
                     (int)g.leader, "term", (json_int_t)g.term, "commit", (json_int_t)g.commit, "applied", (json_int_t)g.applied, "members", members);
}

/* What a node leads and holds now. */
static json_t *drain_answer(struct server *s, uint32_t id)
{
    static const char *const words[] = {"none", "leaderships", "replicas"};
    const struct topology *v = topology_pin(s->topology);
    const struct topo_node *n = topo_node_find(v, id);
    int leads = 0, replicas = 0;
    enum topo_drain drain = n == NULL ? TOPO_DRAIN_NONE : n->drain;

    for (uint32_t i = 0; i < v->total_partitions; i++) {
        const struct topo_partition *p = topo_partition_at(v, i);

        leads += p != NULL && p->leader == id;
        replicas += p != NULL && topo_is_replica(p, id);
    }
    topology_unpin(s->topology);
    return json_pack("{s:i, s:s, s:i, s:i}", "node", (int)id, "drain", words[drain], "leads", leads, "replicas", replicas);
}

static json_t *set_drain(struct server *s, struct slice arg, enum topo_drain drain, struct buf *why)
{
    struct topology_proposal p = {0};
    int64_t id;
    int err;

    if (!slice_to_i64(arg, &id) || id < 1 || id > UINT32_MAX) {
        buf_put_str(why, "a node id is a number from 1; gomsgctl cluster nodes lists them");
        return NULL;
    }
    topo_cmd_node_drain(&p.command, (uint32_t)id, drain);
    err = topology_propose_wait(s->topology, &p);
    buf_fini(&p.command);
    switch (err) {
    case 0:
        return drain_answer(s, (uint32_t)id);
    case ERR_NOT_FOUND:
        buf_printf(why, "there is no node %lld", (long long)id);
        break;
    case ERR_IN_USE:
        buf_printf(why, "no node but %lld is active: there is nobody to give to", (long long)id);
        break;
    case ERR_UNSUPPORTED:
        buf_put_str(why, "not before every node runs a build that knows draining");
        break;
    default:
        buf_put_str(why, err_text(err));
        break;
    }
    return NULL;
}

/* cluster drain NODE [--replicas] */
json_t *admin_cluster_drain(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    if (argc == 2 && !slice_ieq(argv[1], "--replicas")) {
        buf_put_str(why, "the second argument is --replicas or nothing");
        return NULL;
    }
    return set_drain(s, argv[0], argc == 2 ? TOPO_DRAIN_REPLICAS : TOPO_DRAIN_LEADERS, why);
}

json_t *admin_cluster_undrain(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    (void)argc;
    return set_drain(s, argv[0], TOPO_DRAIN_NONE, why);
}

/* cluster remove ID: for good. */
json_t *admin_cluster_remove(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct topology_proposal p = {0};
    int64_t id;
    int err;

    (void)argc;
    if (!slice_to_i64(argv[0], &id) || id < 1 || id > UINT32_MAX) {
        buf_printf(why, "a node id is a number from 1");
        return NULL;
    }
    topo_cmd_node_remove(&p.command, (uint32_t)id);
    err = topology_propose_wait(s->topology, &p);
    buf_fini(&p.command);
    switch (err) {
    case 0:
        return json_pack("{s:b}", "ok", 1);
    case ERR_NOT_FOUND:
        buf_printf(why, "there is no node %lld", (long long)id);
        break;
    case ERR_IN_USE:
        buf_printf(why, "node %lld is active and holds partitions, or holds the last copy of one; gomsgctl cluster drain %lld --replicas --wait first", (long long)id, (long long)id);
        break;
    default:
        buf_printf(why, "node %lld was not removed: %s", (long long)id, err_text(err));
        break;
    }
    return NULL;
}
