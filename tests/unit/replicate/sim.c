#include "sim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "fakes.h"

void sim_nap(void)
{
    struct timespec ts = {0, 1000000};

    nanosleep(&ts, NULL);
}

void sim_init(struct sim *s, uint32_t nodes, uint32_t partitions)
{
    memset(s, 0, sizeof(*s));
    diag_set_level(DIAG_ERROR);
    if (getenv("SIM_TRACE") != NULL)
        diag_set_level(DIAG_INFO);
    strcpy(s->dir, "/tmp/gomsg-replicate-XXXXXX");
    CHECK(mkdtemp(s->dir) != NULL);
    s->nodes = nodes;
    s->partitions = partitions;
    s->lag_max_ms = 500;
    s->sync_ms = 20;
    s->segment_bytes = 1 << 20;
    s->snapshot_log_bytes = UINT64_C(1) << 40;
    s->snapshot_keep_bytes = 1;
    pthread_mutex_init(&s->mutex, NULL);
}

static void publish(struct sim *s)
{
    struct topology *v = mem_zalloc(sizeof(*v));

    *v = s->state.v;
    v->index = s->view_count + 1;
    if (s->view_count == s->view_cap) {
        s->view_cap = s->view_cap == 0 ? 64 : s->view_cap * 2;
        s->views = mem_realloc(s->views, s->view_cap * sizeof(s->views[0]));
    }
    s->views[s->view_count++] = v;
    for (uint32_t i = 1; i <= s->nodes; i++)
        if (s->node[i].up)
            fake_topology_publish(s->node[i].topology, v);
    for (uint32_t i = 1; i <= s->nodes; i++)
        if (s->node[i].up && s->node[i].r != NULL)
            replication_topology_changed(s->node[i].r);
}

int sim_apply(struct sim *s, struct buf *command)
{
    struct topo_result result = {0};
    int err;

    pthread_mutex_lock(&s->mutex);
    err = topo_state_apply(&s->state, buf_slice(command), &result);
    topo_state_clear_changes(&s->state);
    if (err == 0 && result.err == 0)
        publish(s);
    pthread_mutex_unlock(&s->mutex);
    buf_fini(command);
    return err != 0 ? err : result.err;
}

static void enter(struct sim *s, uint32_t id)
{
    struct topo_node n = {.id = id, .level = EFFECT_LEVEL_MAX};
    struct buf b = {0};
    char name[16];

    snprintf(name, sizeof(name), "node-%u", id);
    n.name = slice_str(name);
    n.rack = SLICE_LIT("");
    memset(n.uuid, (int)id, sizeof(n.uuid));
    if (topo_node_find(&s->state.v, id) == NULL)
        n.id = 0; /* a new one; they are numbered in order */
    topo_cmd_node_enter(&b, &n, false);
    CHECK(sim_apply(s, &b) == 0);
}

static uint64_t epoch_of(struct sim *s, uint32_t id)
{
    const struct topo_node *n;
    uint64_t epoch;

    pthread_mutex_lock(&s->mutex);
    n = topo_node_find(&s->state.v, id);
    epoch = n == NULL ? 0 : n->epoch;
    pthread_mutex_unlock(&s->mutex);
    return epoch;
}

static void set_state(struct sim *s, uint32_t id, enum topo_node_state state, bool lease_may_run)
{
    struct buf b = {0};

    topo_cmd_node_state(&b, id, epoch_of(s, id), state, lease_may_run);
    CHECK(sim_apply(s, &b) == 0);
}

void sim_fence(struct sim *s, uint32_t id, bool lease_may_run)
{
    set_state(s, id, TOPO_NODE_FENCED, lease_may_run);
}

void sim_activate(struct sim *s, uint32_t id)
{
    set_state(s, id, TOPO_NODE_ACTIVE, false);
}

struct gate {
    pthread_mutex_t m;
    pthread_cond_t c;
    bool open;
};

static void recovered(void *arg)
{
    struct gate *g = arg;

    pthread_mutex_lock(&g->m);
    g->open = true;
    pthread_cond_signal(&g->c);
    pthread_mutex_unlock(&g->m);
}

void sim_start(struct sim *s, uint32_t id)
{
    struct sim_node *n = &s->node[id];
    struct gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    struct log_store_options so = {.fsync = s->fsync, .sync_interval_ms = s->sync_ms, .segment_bytes = s->segment_bytes};
    struct partitions_options po = {.count = s->partitions, .clustered = true, .snapshot_log_bytes = s->snapshot_log_bytes,
                                    .snapshot_keep_bytes = s->snapshot_keep_bytes};
    struct replication_options ro = {.replica_lag_max_ms = s->lag_max_ms, .lease_ms = 200, .queue_segment_bytes = s->segment_bytes};

    n->sim = s;
    n->id = id;
    n->dir = mem_printf("%s/node-%u", s->dir, id);
    memcpy(so.cluster_id, "the test cluster", 16);
    memcpy(po.cluster_id, "the test cluster", 16);
    CHECK(workers_new(&(struct workers_options){.count = 1, .extra = 1}, &n->ws) == 0);
    CHECK(workers_start(n->ws) == 0);
    so.data_dir = po.data_dir = n->dir;
    CHECK(log_store_open(&so, n->ws, &n->store) == 0);
    po.store = n->store;
    po.workers = n->ws;
    CHECK(partitions_new(&po, &n->ps) == 0);
    n->streams = stream_table_new(&(struct stream_table_options){n->store, n->ws, n->dir});
    partitions_recover(n->ps, NULL, recovered, &gate);
    pthread_mutex_lock(&gate.m);
    while (!gate.open)
        pthread_cond_wait(&gate.c, &gate.m);
    pthread_mutex_unlock(&gate.m);
    enter(s, id);
    n->topology = fake_topology_new(s, id);
    n->bus = fake_bus_new(s, id, workers_extra(n->ws, 0));
    ro.workers = n->ws;
    ro.data_dir = n->dir;
    ro.data = workers_extra(n->ws, 0);
    ro.bus = n->bus;
    ro.topology = n->topology;
    ro.partitions = n->ps;
    ro.streams = n->streams;
    ro.logs = n->store;
    CHECK(replication_new(&ro, &n->r) == 0);
    pthread_mutex_lock(&s->mutex);
    fake_topology_publish(n->topology, s->views[s->view_count - 1]);
    n->up = true;
    pthread_mutex_unlock(&s->mutex);
    fake_bus_up(n->bus, true);
    replication_start(n->r);
    sim_activate(s, id);
}

void sim_stop(struct sim *s, uint32_t id)
{
    struct sim_node *n = &s->node[id];

    fake_bus_up(n->bus, false);
    pthread_mutex_lock(&s->mutex);
    n->up = false;
    pthread_mutex_unlock(&s->mutex);
    replication_stop(n->r);
    workers_stop(n->ws);
    fake_topology_free(n->topology);
    replication_free(n->r);
    stream_table_free(n->streams);
    partitions_free(n->ps);
    log_store_close(n->store);
    workers_free(n->ws);
    fake_bus_free(n->bus);
    n->r = NULL;
    mem_free(n->dir);
}

void sim_begin(struct sim *s, uint32_t factor)
{
    struct topo_replica_set *sets = mem_calloc(s->partitions, sizeof(sets[0]));
    struct buf b = {0};

    topo_cmd_form(&b, (const uint8_t *)"the test cluster", s->partitions, EFFECT_LEVEL_MAX, (const uint8_t *)"salt");
    CHECK(sim_apply(s, &b) == 0);
    for (uint32_t i = 1; i <= s->nodes; i++)
        sim_start(s, i);
    for (uint32_t p = 0; p < s->partitions; p++) {
        for (uint32_t k = 0; k < factor; k++)
            sets[p].nodes[sets[p].count++] = (p + k) % s->nodes + 1;
    }
    topo_cmd_partitions_place(&b, sets, s->partitions);
    CHECK(sim_apply(s, &b) == 0);
    mem_free(sets);
    for (uint32_t p = 0; p < s->partitions; p++)
        CHECK(SIM_WAIT(partition_role(sim_partition(s, sim_leader(s, p), p)) == PARTITION_LEADER));
}

void sim_end(struct sim *s)
{
    for (uint32_t i = 1; i <= s->nodes; i++)
        if (s->node[i].up)
            sim_stop(s, i);
    topo_state_free(&s->state);
    for (size_t i = 0; i < s->view_count; i++)
        mem_free(s->views[i]);
    mem_free(s->views);
    file_remove_tree(s->dir);
}

void sim_isolate(struct sim *s, uint32_t id, bool cut)
{
    for (uint32_t i = 1; i <= s->nodes; i++) {
        __atomic_store_n(&s->cut[i][id], cut, __ATOMIC_SEQ_CST);
        __atomic_store_n(&s->cut[id][i], cut, __ATOMIC_SEQ_CST);
    }
}

static struct topo_partition record_of(struct sim *s, uint32_t partition)
{
    struct topo_partition p;

    pthread_mutex_lock(&s->mutex);
    p = *topo_partition_at(&s->state.v, partition);
    pthread_mutex_unlock(&s->mutex);
    return p;
}

uint32_t sim_leader(struct sim *s, uint32_t partition)
{
    return record_of(s, partition).leader;
}

uint32_t sim_insync(struct sim *s, uint32_t partition)
{
    struct topo_partition p = record_of(s, partition);

    return topo_insync(&p).count;
}

bool sim_is_insync(struct sim *s, uint32_t partition, uint32_t node)
{
    struct topo_partition p = record_of(s, partition);

    return topo_is_insync(&p, node);
}

struct partition *sim_partition(struct sim *s, uint32_t id, uint32_t partition)
{
    return partitions_get(s->node[id].ps, partition);
}

uint32_t sim_partition_of(struct sim *s, const char *key)
{
    return placement_of_key(slice_str(key), s->partitions);
}

int sim_set(struct sim *s, uint32_t id, const char *key, const char *value, int64_t *ret_end)
{
    struct partition_guard g;
    int err;

    err = partition_enter(sim_partition(s, id, sim_partition_of(s, key)), 0, NULL, &g);
    if (err != 0)
        return err;
    kv_string_set(&g.kv, slice_str(key), slice_str(value), 0);
    err = partition_leave(&g);
    if (ret_end != NULL)
        *ret_end = g.end;
    return err;
}

int sim_get(struct sim *s, uint32_t id, const char *key, char *out, size_t size, bool stale)
{
    struct partition *p = sim_partition(s, id, sim_partition_of(s, key));
    struct partition_guard g;
    struct slice v;
    int err;

    do {
        err = stale ? partition_enter_stale(p, 0, NULL, &g) : partition_enter(p, 0, NULL, &g);
    } while (err == ERR_BUSY);
    if (err != 0)
        return err;
    out[0] = '\0';
    if (kv_string_get(&g.kv, slice_str(key), &v) == 0)
        snprintf(out, size, "%.*s", (int)v.len, (const char *)v.data);
    return partition_leave(&g);
}

uint64_t sim_hash(struct sim *s, uint32_t id, uint32_t partition, int64_t *ret_applied)
{
    struct partition *p = sim_partition(s, id, partition);
    struct partition_guard g;
    uint64_t hash;

    partition_enter_background(p, 0, &g);
    *ret_applied = partition_applied(p);
    hash = kv_state_hash(partition_kv(p));
    partition_leave(&g);
    return hash;
}

bool sim_equal(struct sim *s)
{
    for (uint32_t p = 0; p < s->partitions; p++) {
        struct topo_partition rec = record_of(s, p);
        struct topo_replica_set set = topo_replicas(&rec);
        int64_t end, at;
        uint64_t hash;

        if (rec.leader == 0 || !s->node[rec.leader].up)
            return false;
        hash = sim_hash(s, rec.leader, p, &end);
        for (unsigned i = 0; i < set.count; i++) {
            if (!s->node[set.nodes[i]].up || set.nodes[i] == rec.leader)
                continue;
            if (sim_hash(s, set.nodes[i], p, &at) != hash || at != end || log_end(partition_main_log(sim_partition(s, set.nodes[i], p))) != end)
                return false;
        }
    }
    return true;
}

void sim_print(struct sim *s)
{
    for (uint32_t p = 0; p < s->partitions; p++) {
        struct topo_partition rec = record_of(s, p);

        fprintf(stderr, "partition %u leader %u epoch %d version %u in sync %x\n", p, rec.leader, rec.epoch, rec.version, rec.insync);
        for (uint32_t n = 1; n <= s->nodes; n++) {
            struct partition *at = s->node[n].up ? sim_partition(s, n, p) : NULL;
            struct log *l = at == NULL ? NULL : partition_main_log(at);
            int64_t applied;
            uint64_t hash;

            if (l == NULL)
                continue;
            hash = sim_hash(s, n, p, &applied);
            fprintf(stderr, "  node %u %s epoch %d start %lld end %lld hw %lld last epoch %d applied %lld hash %llx\n", n,
                    partition_role_name(partition_role(at)), partition_epoch(at), (long long)log_start(l), (long long)log_end(l),
                    (long long)log_hw(l), log_last_epoch(l), (long long)applied, (unsigned long long)hash);
        }
    }
}
