#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "cluster/topology/commands.h"
#include "cluster/topology/identity.h"
#include "log/effect.h"

static char dir[64], why[256];
static unsigned deleted;

static void on_change(void *arg, const struct topology_change *change)
{
    (void)arg;
    if (change->kind == TOPO_QUEUE_DELETED)
        deleted++;
}

static struct topology_options options(void)
{
    return (struct topology_options){.data_dir = dir, .node_name = "n1", .total_partitions = 32, .changed = on_change};
}

static void setup(void)
{
    strcpy(dir, "/tmp/gomsg-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
}

static void teardown(void)
{
    file_remove_tree(dir);
}

static struct topology_store *start(void)
{
    struct topology_options o = options();
    struct topology_store *t;

    cr_assert_eq(topology_open(&o, why, sizeof(why), &t), 0, "%s", why);
    cr_assert_eq(topology_start(t), 0);
    return t;
}

static int declare(struct topology_store *t, const char *name, bool durable, uint64_t *ret_id)
{
    struct topology_proposal p = {0};
    int err;

    topo_cmd_queue_declare(&p.command, slice_str("/"), slice_str(name), durable, false, false, 0, 0, SLICE_NONE);
    err = topology_propose_wait(t, &p);
    *ret_id = p.id;
    buf_fini(&p.command);
    return err;
}

Test(store, what_was_answered_is_there_after_a_restart_and_the_node_is_the_same, .init = setup, .fini = teardown)
{
    struct topology_store *t = start();
    uint8_t cluster[16], again[16];
    uint64_t id, transient;

    topology_cluster_id(t, cluster);
    cr_assert_eq(topology_node_id(t), 1);
    cr_assert_eq(declare(t, "q", true, &id), 0);
    cr_assert_eq(declare(t, "transient", false, &transient), 0);
    topology_close(t);
    deleted = 0;
    t = start();
    topology_cluster_id(t, again);
    cr_assert_arr_eq(cluster, again, 16);
    cr_assert_eq(topology_node_id(t), 1);
    cr_assert_eq(topology_node_epoch(t), 2);
    cr_assert_not_null(topo_queue_by_id(topology_pin(t), id));
    cr_assert_null(topo_queue_by_id(topology_view(t), transient));
    topology_unpin(t);
    cr_assert_eq(deleted, 1, "the engine is told of what went with the former epoch");
    topology_close(t);
}

Test(store, the_directory_says_a_level_only_once_the_topology_has_it, .init = setup, .fini = teardown)
{
    struct identity id;
    struct topology_store *t;

    cr_assert_eq(identity_open(dir, &id, why, sizeof(why)), 0);
    cr_assert_eq(id.level, 1, "an older build could still be put back");
    t = start();
    cr_assert_eq(topology_pin(t)->level, EFFECT_LEVEL_MAX);
    topology_unpin(t);
    cr_assert_eq(identity_load(dir, &id), 0);
    cr_assert_eq(id.level, EFFECT_LEVEL_MAX);
    topology_close(t);
    /* As if the process had died in between: the next start says it. */
    id.level = 1;
    cr_assert_eq(identity_save(dir, &id), 0);
    t = start();
    cr_assert_eq(identity_load(dir, &id), 0);
    cr_assert_eq(id.level, EFFECT_LEVEL_MAX);
    topology_close(t);
}

Test(store, a_foreign_newer_or_headless_directory_is_refused_with_the_reason, .init = setup, .fini = teardown)
{
    struct topology_options o = options();
    struct topology_store *t = start();
    struct identity id;
    char *raft = mem_printf("%s/raft", dir);

    topology_close(t);
    o.total_partitions = 64;
    cr_assert_eq(topology_open(&o, why, sizeof(why), &t), ERR_MISMATCH);
    cr_assert_not_null(strstr(why, "formed with 32"));
    o.total_partitions = 32;
    cr_assert_eq(identity_load(dir, &id), 0);
    id.cluster_id[0] ^= 1;
    identity_save(dir, &id);
    cr_assert_eq(topology_open(&o, why, sizeof(why), &t), ERR_FOREIGN);
    cr_assert_not_null(strstr(why, "belongs to cluster"));
    id.cluster_id[0] ^= 1;
    id.level = 99;
    identity_save(dir, &id);
    cr_assert_eq(topology_open(&o, why, sizeof(why), &t), ERR_LEVEL);
    cr_assert_not_null(strstr(why, "newer version"));
    id.level = 1;
    identity_save(dir, &id);
    file_remove_tree(raft);
    cr_assert_eq(topology_open(&o, why, sizeof(why), &t), ERR_CORRUPT);
    cr_assert_not_null(strstr(why, "is missing"));
    mem_free(raft);
}

static void *declare_many(void *arg)
{
    struct topology_store *t = arg;
    char name[32];
    uint64_t id;

    for (int i = 0; i < 50; i++) {
        snprintf(name, sizeof(name), "q%lx-%d", (unsigned long)pthread_self(), i);
        cr_assert_eq(declare(t, name, true, &id), 0);
        cr_assert_not_null(topo_queue_by_id(topology_pin(t), id), "an answered proposal is in the view");
        topology_unpin(t);
    }
    return NULL;
}

Test(store, many_threads_propose_and_read_at_once, .init = setup, .fini = teardown)
{
    struct topology_store *t = start();
    pthread_t threads[8];

    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, declare_many, t);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(topology_pin(t)->queues.count, 400);
    topology_unpin(t);
    topology_close(t);
}
