/* The topology's store: one metadata thread that takes proposals, appends them to the Raft log, syncs once for all that were waiting, applies them and
 * publishes one new view. Here the group has one member, so what is synced is committed.
 *
 * Life: open (identity, replay, register this node) -> start (thread) -> close. A log that cannot be written fails every later proposal with its error while reads go on.
 *
 * A published version is freed when no reader can hold it: workers by a grace period (io/worker.h), other threads by the pin lock, which the freeing side takes exclusively. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "base/rand.h"
#include "cluster/raft/raft_log.h"
#include "cluster/topology/identity.h"
#include "cluster/topology/state.h"
#include "log/effect.h"

#define STORE_MAGIC 0x544f504fu
#define COMPACT_BYTES (4u << 20)
#define TERM_ALONE 1

struct topology_store {
    uint32_t magic;
    struct workers *workers; /* borrowed; NULL in tests: nothing reads concurrently but pins */
    void (*changed)(void *arg, const struct topology_change *change);
    void *changed_arg;
    char *raft_dir;
    struct raft_log *log;
    struct identity identity;
    uint32_t node_id;
    uint64_t node_epoch;

    struct topo_state state;       /* the metadata thread's */
    const struct topology *view;   /* atomic; what readers see */
    pthread_rwlock_t pins;

    struct mutex lock;
    pthread_cond_t news;
    struct topology_proposal *head GUARDED_BY(lock);
    struct topology_proposal **tail GUARDED_BY(lock);
    bool stopping GUARDED_BY(lock);
    bool started;
    pthread_t thread;
};

/* ---- views ------------------------------------------------------------------------------------------------------------ */

const struct topology *topology_view(struct topology_store *t)
{
    return __atomic_load_n(&t->view, __ATOMIC_ACQUIRE);
}

const struct topology *topology_pin(struct topology_store *t)
{
    CHECK(pthread_rwlock_rdlock(&t->pins) == 0);
    return topology_view(t);
}

void topology_unpin(struct topology_store *t)
{
    CHECK(pthread_rwlock_unlock(&t->pins) == 0);
}

struct garbage {
    struct topology_store *store;
    struct topology *view;
    struct topo_retired retired;
};

static void free_garbage(void *arg)
{
    struct garbage *g = arg;

    CHECK(pthread_rwlock_wrlock(&g->store->pins) == 0);
    CHECK(pthread_rwlock_unlock(&g->store->pins) == 0);
    topo_retired_free(&g->retired);
    mem_free(g->view);
    mem_free(g);
}

/* Makes the state's maps what readers see; what only the former version reaches is freed after the grace period. */
static void publish(struct topology_store *t)
{
    struct topology *view = mem_alloc(sizeof(*view));
    struct garbage *g = mem_zalloc(sizeof(*g));

    *view = t->state.v;
    g->store = t;
    g->view = (struct topology *)t->view;
    g->retired = t->state.retired;
    t->state.retired = (struct topo_retired){0};
    __atomic_store_n(&t->view, view, __ATOMIC_RELEASE);
    if (t->workers != NULL && t->started)
        workers_after_grace(t->workers, free_garbage, g);
    else
        free_garbage(g);
}

static void tell_changes(struct topology_store *t)
{
    for (size_t i = 0; t->changed != NULL && i < t->state.change_count; i++)
        t->changed(t->changed_arg, &t->state.changes[i]);
    topo_state_clear_changes(&t->state);
}

/* ---- the metadata thread ------------------------------------------------------------------------------------------------ */

static void answer_mail(struct worker *w, struct mail *m)
{
    struct topology_proposal *p = CONTAINER_OF(m, struct topology_proposal, mail);

    (void)w;
    p->done(p);
}

static void answer(struct topology_proposal *p)
{
    if (p->worker == NULL) {
        p->done(p);
        return;
    }
    p->mail.deliver = answer_mail;
    worker_post(p->worker, &p->mail);
}

static void compact(struct topology_store *t)
{
    struct buf b = {0};
    int err;

    topo_state_encode(&t->state.v, &b);
    err = raft_log_compact(t->log, buf_slice(&b));
    if (err < 0)
        diag_error("the topology's snapshot cannot be written", "err=\"%s\"", err_text(err));
    buf_fini(&b);
}

/* Appends, syncs and applies a list of proposals; answers them in order. */
static void commit(struct topology_store *t, struct topology_proposal *list)
{
    struct topology_proposal *next;
    struct topo_result result;
    int err;

    for (struct topology_proposal *p = list; p != NULL; p = p->next)
        raft_log_append(t->log, TERM_ALONE, buf_slice(&p->command));
    err = raft_log_sync(t->log);
    for (struct topology_proposal *p = list; p != NULL; p = p->next) {
        if (err < 0) {
            p->err = err;
            continue;
        }
        /* Our own encoders made it: what does not parse is a bug. */
        CHECK(topo_state_apply(&t->state, buf_slice(&p->command), &result) == 0);
        p->err = result.err;
        p->id = result.id;
        p->producer_id = result.producer_id;
        p->index = t->state.v.index;
    }
    if (err == 0) {
        publish(t);
        tell_changes(t);
    }
    for (struct topology_proposal *p = list; p != NULL; p = next) {
        next = p->next; /* the proposal is its owner's again once answered */
        answer(p);
    }
    if (err == 0 && raft_log_file_bytes(t->log) > COMPACT_BYTES)
        compact(t);
}

static void *metadata_thread(void *arg)
{
    struct topology_store *t = arg;

    MAGIC_CHECK(t, STORE_MAGIC);
    for (;;) {
        struct topology_proposal *list;

        mutex_lock(&t->lock);
        while (t->head == NULL && !t->stopping)
            pthread_cond_wait(&t->news, &t->lock.m);
        list = t->head;
        t->head = NULL;
        t->tail = &t->head;
        mutex_unlock(&t->lock);
        if (list == NULL)
            return NULL;
        commit(t, list);
    }
}

void topology_propose(struct topology_store *t, struct topology_proposal *p)
{
    p->next = NULL;
    p->err = 0;
    p->id = p->index = 0;
    p->producer_id = 0;
    mutex_lock(&t->lock);
    *t->tail = p;
    t->tail = &p->next;
    pthread_cond_signal(&t->news);
    mutex_unlock(&t->lock);
}


static pthread_mutex_t waiter_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t waiter_cond = PTHREAD_COND_INITIALIZER;

/* `next` is free once answered: it marks the proposal as done for the thread that waits. */
static void wake_waiter(struct topology_proposal *p)
{
    CHECK(pthread_mutex_lock(&waiter_lock) == 0);
    p->next = p;
    CHECK(pthread_cond_broadcast(&waiter_cond) == 0);
    CHECK(pthread_mutex_unlock(&waiter_lock) == 0);
}

int topology_propose_wait(struct topology_store *t, struct topology_proposal *p)
{
    CHECK(worker_current() == NULL);
    p->worker = NULL;
    p->done = wake_waiter;
    topology_propose(t, p);
    CHECK(pthread_mutex_lock(&waiter_lock) == 0);
    while (p->next != p)
        pthread_cond_wait(&waiter_cond, &waiter_lock);
    CHECK(pthread_mutex_unlock(&waiter_lock) == 0);
    return p->err;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------- */

static int replay_snapshot(void *arg, uint64_t index, uint64_t term, struct slice payload)
{
    struct topology_store *t = arg;

    (void)index;
    (void)term;
    return topo_state_decode(&t->state, payload);
}

static int replay_entry(void *arg, uint64_t index, uint64_t term, struct slice payload)
{
    struct topology_store *t = arg;
    struct topo_result result;
    int err = topo_state_apply(&t->state, payload, &result);

    (void)index;
    (void)term;
    topo_retired_free(&t->state.retired);
    topo_state_clear_changes(&t->state);
    return err;
}

static int apply_now(struct topology_store *t, const struct buf *command, struct topo_result *ret)
{
    int err;

    raft_log_append(t->log, TERM_ALONE, buf_slice(command));
    err = raft_log_sync(t->log);
    if (err == 0)
        err = topo_state_apply(&t->state, buf_slice(command), ret);
    topo_retired_free(&t->state.retired);
    return err;
}

static bool find_me(const struct topo_node *n, void *arg)
{
    struct topology_store *t = arg;

    if (memcmp(n->uuid, t->identity.node_uuid, 16) == 0)
        t->node_id = n->id;
    return t->node_id == 0;
}

static int form(struct topology_store *t, uint32_t total_partitions)
{
    struct buf b = {0};
    struct topo_result result = {0};
    uint8_t salt[4];
    int err;

    rand_secure(salt, sizeof(salt));
    topo_cmd_form(&b, t->identity.cluster_id, total_partitions, EFFECT_LEVEL_MAX, salt);
    err = apply_now(t, &b, &result);
    buf_fini(&b);
    return err < 0 ? err : result.err;
}

static int register_node(struct topology_store *t, const struct topology_options *o)
{
    struct topo_node n = {.name = slice_str(o->node_name), .level = EFFECT_LEVEL_MAX, .unclean = o->unclean};
    struct buf b = {0};
    struct topo_result result = {0};
    int err;

    topo_each_node(&t->state.v, find_me, t);
    n.id = t->node_id;
    memcpy(n.uuid, t->identity.node_uuid, 16);
    n.rack = o->rack == NULL ? SLICE_NONE : slice_str(o->rack);
    memcpy(n.endpoints, o->endpoints, sizeof(n.endpoints));
    topo_cmd_node_enter(&b, &n, t->node_id == 0 ? t->state.v.nodes.count == 0 : t->state.v.nodes.count == 1);
    err = apply_now(t, &b, &result);
    buf_fini(&b);
    if (err == 0)
        err = result.err;
    if (err == 0) {
        t->node_id = (uint32_t)result.id;
        t->node_epoch = topo_node_find(&t->state.v, t->node_id)->epoch;
    }
    return err;
}

/* The first start of a node alone, or its first with a build that knows placement: everything is here. */
static int place_here(struct topology_store *t)
{
    uint32_t count = t->state.v.total_partitions;
    struct topo_replica_set *sets;
    struct topo_result result = {0};
    struct buf b = {0};
    int err;

    if (t->state.v.partitions != NULL)
        return 0;
    sets = mem_zalloc(count * sizeof(sets[0]));
    for (uint32_t i = 0; i < count; i++)
        topo_set_add(&sets[i], t->node_id);
    topo_cmd_partitions_place(&b, sets, count);
    err = apply_now(t, &b, &result);
    buf_fini(&b);
    mem_free(sets);
    return err < 0 ? err : result.err;
}

static int open_identity(struct topology_store *t, const char *data_dir, char *why, size_t why_size)
{
    int err = identity_load(data_dir, &t->identity);

    if (err == ERR_NOT_FOUND) {
        /* A crash between here and the forming leaves an identity that is not formed yet; it is used again. */
        rand_secure(t->identity.cluster_id, 16);
        rand_secure(t->identity.node_uuid, 16);
        t->identity.level = EFFECT_LEVEL_MAX;
        t->identity.formed = false;
        err = identity_save(data_dir, &t->identity);
    }
    if (err == ERR_LEVEL)
        snprintf(why, why_size, "%s was written by a newer version (feature level %u, this one knows %u)", data_dir,
                 t->identity.level, EFFECT_LEVEL_MAX);
    else if (err < 0)
        snprintf(why, why_size, "%s/node.id: %s", data_dir, err_text(err));
    return err;
}

static int check_state(struct topology_store *t, const struct topology_options *o, char *why, size_t why_size)
{
    const struct topology *v = &t->state.v;
    char theirs[33], ours[33];

    if (v->total_partitions == 0) {
        if (t->identity.formed) {
            snprintf(why, why_size, "%s belongs to a formed cluster but its topology (raft/) is missing", o->data_dir);
            return ERR_CORRUPT;
        }
        return form(t, o->total_partitions);
    }
    if (memcmp(v->cluster_id, t->identity.cluster_id, 16) != 0) {
        identity_hex(v->cluster_id, theirs);
        identity_hex(t->identity.cluster_id, ours);
        snprintf(why, why_size, "%s: node.id names cluster %s but raft/ belongs to cluster %s", o->data_dir, ours, theirs);
        return ERR_FOREIGN;
    }
    if (v->total_partitions != o->total_partitions) {
        snprintf(why, why_size, "cluster.total_partitions is %u, but this cluster was formed with %u and keeps that",
                 o->total_partitions, v->total_partitions);
        return ERR_MISMATCH;
    }
    return 0;
}

int topology_open(const struct topology_options *o, char *why, size_t why_size, struct topology_store **ret)
{
    struct topology_store *t = mem_zalloc(sizeof(*t));
    struct raft_log_handlers handlers = {replay_snapshot, replay_entry, t};
    int err;

    MAGIC_INIT(t, STORE_MAGIC);
    why[0] = '\0';
    t->workers = o->workers;
    t->changed = o->changed;
    t->changed_arg = o->changed_arg;
    t->raft_dir = mem_printf("%s/raft", o->data_dir);
    mutex_init(&t->lock);
    CHECK(pthread_cond_init(&t->news, NULL) == 0 && pthread_rwlock_init(&t->pins, NULL) == 0);
    t->tail = &t->head;
    err = file_make_dirs(o->data_dir);
    if (err == 0)
        err = open_identity(t, o->data_dir, why, why_size);
    if (err == 0 && t->identity.formed && access(t->raft_dir, F_OK) != 0) {
        snprintf(why, why_size, "%s belongs to a formed cluster but its topology (raft/) is missing", o->data_dir);
        err = ERR_CORRUPT;
    }
    if (err == 0)
        err = raft_log_open(t->raft_dir, &handlers, &t->log);
    if (err == 0)
        err = check_state(t, o, why, why_size);
    if (err == 0 && t->identity.level < EFFECT_LEVEL_MAX) {
        t->identity.level = EFFECT_LEVEL_MAX; /* before the log has anything of it, so that an older build says why it refuses */
        err = identity_save(o->data_dir, &t->identity);
    }
    if (err == 0)
        err = register_node(t, o);
    if (err == 0)
        err = place_here(t);
    if (err == 0 && !t->identity.formed) {
        t->identity.formed = true;
        err = identity_save(o->data_dir, &t->identity);
    }
    if (err < 0) {
        if (why[0] == '\0')
            snprintf(why, why_size, "%s: %s", t->raft_dir, err_text(err));
        topology_close(t);
        return err;
    }
    publish(t);
    *ret = t;
    return 0;
}

int topology_start(struct topology_store *t)
{
    tell_changes(t); /* queues that went with this node's former epoch */
    t->started = true;
    if (pthread_create(&t->thread, NULL, metadata_thread, t) != 0) {
        t->started = false;
        return ERR_LIMIT;
    }
    pthread_setname_np(t->thread, "metadata");
    return 0;
}

void topology_close(struct topology_store *t)
{
    if (t == NULL)
        return;
    if (t->started) {
        mutex_lock(&t->lock);
        t->stopping = true;
        pthread_cond_signal(&t->news);
        mutex_unlock(&t->lock);
        CHECK(pthread_join(t->thread, NULL) == 0);
    }
    raft_log_close(t->log);
    topo_state_free(&t->state);
    mem_free((void *)t->view);
    mem_free(t->raft_dir);
    pthread_cond_destroy(&t->news);
    pthread_rwlock_destroy(&t->pins);
    mutex_fini(&t->lock);
    MAGIC_FINI(t, STORE_MAGIC);
    mem_free(t);
}

uint32_t topology_node_id(const struct topology_store *t)
{
    return t->node_id;
}

uint64_t topology_node_epoch(const struct topology_store *t)
{
    return t->node_epoch;
}

void topology_cluster_id(const struct topology_store *t, uint8_t ret[16])
{
    memcpy(ret, t->identity.cluster_id, 16);
}
