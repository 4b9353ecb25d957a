/* The topology's store: its life, its views, and what other threads ask of it. private.h lists the other files.
 *
 *     topology_open    identity, the disk's log and snapshot. Alone: the core, a group of one, and this node's registration, all on the caller's thread
 *     topology_start   the control worker takes over. In a cluster: forms or joins one if need be, registers once there is a leader
 *     topology_close   what waits is answered, the disk is closed
 *
 * A turn (store_turn) looks at everything: disk events, the core's timer, proposals, answers. It runs at the end of each loop turn in which something happened (store_soon), when another thread asks
 * (store_wake) and when the core's deadline comes. Before the start whoever waits turns by hand.
 *
 * A published version is freed when no reader can hold it: workers by a grace period (io/worker.h), other threads by the pin lock, which the freeing side takes exclusively. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/private.h"
#include "log/effect.h"

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
    struct topo_state state; /* a whole one that a snapshot replaced */
};

static void free_garbage(void *arg)
{
    struct garbage *g = arg;

    CHECK(pthread_rwlock_wrlock(&g->store->pins) == 0);
    CHECK(pthread_rwlock_unlock(&g->store->pins) == 0);
    topo_retired_free(&g->retired);
    topo_state_free(&g->state);
    mem_free(g->view);
    mem_free(g);
}

static void publish(struct topology_store *t, struct topo_state *old)
{
    struct topology *view = mem_alloc(sizeof(*view));
    struct garbage *g = mem_zalloc(sizeof(*g));

    *view = t->state.v;
    g->store = t;
    g->view = (struct topology *)t->view;
    g->retired = t->state.retired;
    t->state.retired = (struct topo_retired){0};
    if (old != NULL)
        g->state = *old;
    __atomic_store_n(&t->view, view, __ATOMIC_RELEASE);
    if (t->o.workers != NULL && t->started)
        workers_after_grace(t->o.workers, free_garbage, g);
    else
        free_garbage(g);
}

/* Makes the state's maps what readers see; what only the former version reaches is freed after the grace period. */
void store_publish(struct topology_store *t)
{
    publish(t, NULL);
}

void store_retire_state(struct topology_store *t, struct topo_state *old)
{
    publish(t, old);
}

/* ---- turns ------------------------------------------------------------------------------------------------------------ */

static void copy_group(struct topology_store *t)
{
    struct raft_peer_status peers[64];
    struct topology_group g = {.phase = t->phase, .leader = t->leader, .term = t->term, .applied = t->applied};
    uint64_t now = clock_mono_us();
    size_t n = 0;

    memcpy(g.text, t->phase_text, sizeof(g.text));
    if (t->raft != NULL) {
        g.commit = raft_commit(t->raft);
        n = raft_peers(t->raft, peers, ARRAY_LEN(peers));
    }
    g.count = (unsigned)n;
    for (size_t i = 0; i < n && i < ARRAY_LEN(g.members); i++) {
        bool heard = raft_role(t->raft) == RAFT_LEADER && peers[i].heard_us <= now;

        g.members[i] = (struct topology_group_member){peers[i].node.id, peers[i].voter, peers[i].match, peers[i].applied, heard ? (int64_t)((now - peers[i].heard_us) / 1000) : -1};
    }
    mutex_lock(&t->lock);
    t->group = g;
    mutex_unlock(&t->lock);
}

static void arm_timer(struct topology_store *t)
{
    uint64_t now = clock_mono_us(), at = t->raft == NULL || t->failed < 0 ? UINT64_MAX : raft_deadline(t->raft);

    if (t->retry_us > now && (t->queue.head != NULL || t->ask_again))
        at = MIN_OF(at, t->retry_us);
    if (at == UINT64_MAX)
        io_timer_stop(t->control, &t->timer);
    else
        io_timer_start(t->control, &t->timer, at <= now ? 1 : (at - now + 999) / 1000, 0);
}

void store_turn(struct topology_store *t)
{
    if (t->left)
        return;
    if (t->failed < 0)
        proposals_fail(t, t->failed);
    host_turn(t);
    host_applied(t);
    proposals_everywhere(t);
    join_turn(t);
    proposals_complete(t);
    if (t->started)
        arm_timer(t);
}

static void run_hook(struct worker *w, struct worker_hook *h)
{
    (void)w;
    store_turn(CONTAINER_OF(h, struct topology_store, hook));
}

void store_soon(struct topology_store *t)
{
    if (t->started)
        worker_hook_once(t->control, &t->hook);
}

static void woken(struct worker *w, struct mail *m)
{
    struct topology_store *t = CONTAINER_OF(m, struct topology_store, wake_mail);

    (void)w;
    __atomic_store_n(&t->wake_posted, false, __ATOMIC_SEQ_CST);
    store_soon(t);
}

void store_wake(struct topology_store *t)
{
    if (!__atomic_load_n(&t->started, __ATOMIC_ACQUIRE) || __atomic_exchange_n(&t->wake_posted, true, __ATOMIC_SEQ_CST))
        return;
    t->wake_mail.deliver = woken;
    worker_post(t->control, &t->wake_mail);
}

static void wake_from_disk(void *arg)
{
    store_wake(arg);
}

static void timer_fired(struct worker *w, struct io_timer *timer)
{
    (void)w;
    store_turn(CONTAINER_OF(timer, struct topology_store, timer));
}

static void ticked(struct worker *w, struct io_timer *timer)
{
    struct topology_store *t = CONTAINER_OF(timer, struct topology_store, tick);
    uint64_t now = clock_mono_us();

    (void)w;
    if (t->left)
        return;
    proposals_expire(t, now);
    members_turn(t, now);
    copy_group(t);
    store_turn(t);
}

void store_set_phase(struct topology_store *t, enum topology_phase phase, const char *fmt, ...)
{
    char text[sizeof(t->phase_text)];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (t->phase == phase && strcmp(text, t->phase_text) == 0)
        return;
    t->phase = phase;
    memcpy(t->phase_text, text, sizeof(text));
    copy_group(t);
    if (t->o.phase != NULL)
        t->o.phase(t->o.arg, phase, t->phase_text);
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------ */

static pthread_mutex_t waiter_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t waiter_cond = PTHREAD_COND_INITIALIZER;

static void wake_waiter(struct topology_proposal *p)
{
    CHECK(pthread_mutex_lock(&waiter_lock) == 0);
    p->answered = true;
    CHECK(pthread_cond_broadcast(&waiter_cond) == 0);
    CHECK(pthread_mutex_unlock(&waiter_lock) == 0);
}

int topology_propose_wait(struct topology_store *t, struct topology_proposal *p)
{
    CHECK(worker_current() == NULL);
    p->worker = NULL;
    p->done = wake_waiter;
    p->answered = false;
    topology_propose(t, p);
    if (!t->started) {
        /* Alone the disk is written on this thread: a turn or two, and it is done. */
        for (int i = 0; i < 8 && !p->answered; i++)
            store_turn(t);
        if (!p->answered)
            proposals_expire(t, UINT64_MAX);
        return p->err;
    }
    CHECK(pthread_mutex_lock(&waiter_lock) == 0);
    while (!p->answered)
        pthread_cond_wait(&waiter_cond, &waiter_lock);
    CHECK(pthread_mutex_unlock(&waiter_lock) == 0);
    return p->err;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------- */

static int open_identity(struct topology_store *t, char *why, size_t why_size)
{
    static const uint8_t none[16];
    const char *dir = t->o.data_dir;
    int err = identity_open(dir, &t->identity, why, why_size);

    if (err == 0 && t->identity.formed && access(t->raft_dir, F_OK) != 0) {
        snprintf(why, why_size, "%s belongs to a formed cluster but its topology (raft/) is missing", dir);
        err = ERR_CORRUPT;
    }
    if (err == 0 && !t->identity.formed && t->o.bus == NULL && memcmp(t->identity.cluster_id, none, 16) == 0)
        rand_secure(t->identity.cluster_id, 16);
    if (err == 0 && t->identity.node_id == 0 && (t->identity.formed || t->o.bus == NULL))
        t->identity.node_id = 1; /* a node alone is the first; versions before clusters did not write it */
    return err;
}

/* The cluster and its size: from the snapshot's state, else from the command that formed it, which stands in the log. */
static bool find_cluster(struct topology_store *t, uint8_t ret_id[16], uint32_t *ret_total)
{
    if (t->state.v.total_partitions != 0) {
        memcpy(ret_id, t->state.v.cluster_id, 16);
        *ret_total = t->state.v.total_partitions;
        return true;
    }
    for (size_t i = 0; i < t->recovered.entry_count; i++) {
        const struct raft_entry *e = &t->recovered.entries[i];
        size_t at = e->len > ENVELOPE_SIZE && e->data[0] == ENVELOPE ? ENVELOPE_SIZE : 0;

        if (e->kind != RAFT_ENTRY_COMMAND || e->len < at + 21 || e->data[at] != TOPO_CMD_FORM)
            continue;
        memcpy(ret_id, e->data + at + 1, 16);
        *ret_total = be32_get(e->data + at + 17);
        return true;
    }
    return false;
}

/* What the log says against what the identity and the configuration say; before anything is written. */
static int check_recovered(struct topology_store *t, char *why, size_t why_size)
{
    char theirs[33], ours[33];
    uint8_t cluster[16];
    uint32_t total;

    if (!find_cluster(t, cluster, &total)) {
        /* A node that was taken in and has not heard the leader yet has nothing; a node alone that was formed always has. */
        if (t->o.bus != NULL || !t->identity.formed)
            return 0;
        snprintf(why, why_size, "%s belongs to a formed cluster but its topology (raft/) is missing", t->o.data_dir);
        return ERR_CORRUPT;
    }
    if (memcmp(cluster, t->identity.cluster_id, 16) != 0) {
        identity_hex(cluster, theirs);
        identity_hex(t->identity.cluster_id, ours);
        snprintf(why, why_size, "%s: node.id names cluster %s but raft/ belongs to cluster %s", t->o.data_dir, ours, theirs);
        return ERR_FOREIGN;
    }
    if (total != t->o.total_partitions) {
        snprintf(why, why_size, "cluster.total_partitions is %u, but this cluster was formed with %u and keeps that", t->o.total_partitions, total);
        return ERR_MISMATCH;
    }
    return 0;
}

static int open_disk(struct topology_store *t)
{
    struct slice payload = SLICE_NONE;
    int err = raft_store_open(t->raft_dir, wake_from_disk, t, &t->disk, &t->recovered, &payload);

    if (err == 0 && t->recovered.snapshot.index != 0) {
        err = topo_state_decode(&t->state, payload);
        t->state.v.index = t->recovered.snapshot.index;
    }
    return err;
}

static void add_seed(struct topology_store *t, unsigned i, const char *address)
{
    t->seeds[i] = mem_strdup(address);
}

static void copy_options(struct topology_store *t, const struct topology_options *o)
{
    t->o = *o;
    t->o.data_dir = mem_strdup(o->data_dir);
    t->o.node_name = mem_strdup(o->node_name == NULL ? "" : o->node_name);
    t->o.rack = mem_strdup(o->rack == NULL ? "" : o->rack);
    t->o.address = o->address == NULL ? NULL : mem_strdup(o->address);
    t->o.listen = o->listen == NULL ? NULL : mem_strdup(o->listen);
    if (t->o.replace_after_ms == 0)
        t->o.replace_after_ms = 30000;
    t->seeds = mem_calloc(o->seed_count + 1, sizeof(*t->seeds));
    for (unsigned i = 0; i < o->seed_count; i++)
        add_seed(t, i, o->seeds[i]);
    t->o.seeds = (const char *const *)t->seeds;
    t->unclean = o->unclean;
    for (unsigned i = 0; i < TOPO_LISTENERS; i++) {
        t->endpoints[i] = o->endpoints[i];
        t->endpoints[i].host = slice_of(mem_strdup_slice(o->endpoints[i].host), o->endpoints[i].host.len);
    }
}

static void handle_bus(struct topology_store *t)
{
    bus_handle(t->o.bus, BUS_RAFT, host_handle_raft, t);
    bus_handle(t->o.bus, BUS_PROPOSE, proposals_handle, t);
    bus_handle(t->o.bus, BUS_PROPOSE_AGAIN, proposals_handle_again, t);
    bus_handle(t->o.bus, BUS_APPLIED, proposals_handle_applied, t);
    bus_handle(t->o.bus, BUS_READ_INDEX, members_handle_read_index, t);
    bus_handle(t->o.bus, BUS_FORM_PROBE, forming_handle_probe, t);
    bus_handle(t->o.bus, BUS_FORM_COMMIT, forming_handle_commit, t);
    bus_handle(t->o.bus, BUS_JOIN, join_handle, t);
}

int topology_open(const struct topology_options *o, char *why, size_t why_size, struct topology_store **ret)
{
    struct topology_store *t = mem_zalloc(sizeof(*t));
    int err;

    MAGIC_INIT(t, STORE_MAGIC);
    why[0] = '\0';
    copy_options(t, o);
    t->raft_dir = mem_printf("%s/raft", o->data_dir);
    mutex_init(&t->lock);
    CHECK(pthread_rwlock_init(&t->pins, NULL) == 0);
    proposals_init(t);
    changes_init(t);
    io_timer_init(&t->timer, timer_fired);
    io_timer_init(&t->tick, ticked);
    t->hook.run = run_hook;
    forming_open(t);
    store_publish(t);
    err = open_identity(t, why, why_size);
    if (err == 0)
        err = open_disk(t);
    if (err == 0)
        err = check_recovered(t, why, why_size);
    if (err == 0 && t->o.bus == NULL)
        err = members_open_alone(t, why, why_size);
    if (err < 0) {
        if (why[0] == '\0')
            snprintf(why, why_size, "%s: %s", t->raft_dir, err_text(err));
        topology_close(t);
        return err;
    }
    if (t->o.bus != NULL) {
        handle_bus(t);
        if (t->identity.formed) {
            bus_set_identity(t->o.bus, t->identity.cluster_id, t->identity.node_id, t->identity.epoch);
            members_know_cluster(t);
        }
    }
    *ret = t;
    return 0;
}

static void begin(struct worker *w, struct mail *m)
{
    struct topology_store *t = CONTAINER_OF(m, struct topology_store, wake_mail);

    (void)w;
    __atomic_store_n(&t->wake_posted, false, __ATOMIC_SEQ_CST);
    if (t->o.bus != NULL && t->identity.formed)
        host_begin(t);
    else if (t->o.bus != NULL)
        forming_start(t);
    io_timer_start(t->control, &t->tick, STORE_TICK_MS, t->o.bus == NULL ? TICK_ALONE_MS : STORE_TICK_MS);
    host_set_targets(t);
    store_turn(t);
}

int topology_start(struct topology_store *t)
{
    struct workers_options wo = {.count = 1};
    int err = 0;

    t->control = t->o.control;
    if (t->control == NULL) {
        err = workers_new(&wo, &t->own_workers);
        if (err == 0)
            t->control = workers_get(t->own_workers, 0);
    }
    if (err == 0)
        err = changes_start(t); /* queues that went with this node's former epoch */
    if (err < 0)
        return err;
    t->wake_posted = true; /* this mail is the first */
    __atomic_store_n(&t->started, true, __ATOMIC_RELEASE);
    t->wake_mail.deliver = begin;
    worker_post(t->control, &t->wake_mail);
    return t->own_workers == NULL ? 0 : workers_start(t->own_workers);
}

void topology_give_up_leading(struct topology_store *t, uint32_t timeout_ms)
{
    struct timespec pause = {0, 2000000};
    uint64_t until = clock_mono_us() + timeout_ms * 1000ull;

    if (t == NULL || !t->started || t->o.bus == NULL)
        return;
    CHECK(worker_current() == NULL);
    __atomic_store_n(&t->give_up, true, __ATOMIC_RELEASE);
    store_wake(t);
    while (clock_mono_us() < until && __atomic_load_n(&t->give_up, __ATOMIC_ACQUIRE) && __atomic_load_n(&t->leader, __ATOMIC_ACQUIRE) == topology_node_id(t))
        nanosleep(&pause, NULL);
    /* Elected again, it stays: two nodes that both give it up would hand it to and fro for ever. */
    __atomic_store_n(&t->give_up, false, __ATOMIC_RELEASE);
}

void topology_node_gone(struct topology_store *t, uint32_t node_id)
{
    if (t == NULL || !__atomic_load_n(&t->started, __ATOMIC_ACQUIRE) || __atomic_load_n(&t->leader, __ATOMIC_ACQUIRE) != node_id)
        return;
    __atomic_store_n(&t->gone, node_id, __ATOMIC_RELEASE);
    store_wake(t);
}

static void leave_here(struct worker *w, void *arg)
{
    struct topology_store *t = arg;
    struct topology_read **lists[] = {&t->reads, &t->reads_new}, *r;

    if (w != t->control || t->left)
        return;
    proposals_fail(t, ERR_CLOSED);
    join_fail(t, ERR_CLOSED);
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        while ((r = *lists[i]) != NULL) {
            *lists[i] = r->next;
            r->done(r, ERR_CLOSED, 0);
        }
    }
    io_timer_stop(t->control, &t->timer);
    io_timer_stop(t->control, &t->tick);
    io_timer_stop(t->control, &t->form_timer);
    t->forming = false; /* its calls end when the bus is closed, and ask nothing more */
    t->left = true;
}

void topology_leave(struct topology_store *t)
{
    if (t != NULL && t->started && t->o.bus != NULL)
        workers_run_each(worker_set(t->control), leave_here, t);
}

void topology_close(struct topology_store *t)
{
    if (t == NULL)
        return;
    if (t->own_workers != NULL)
        workers_stop(t->own_workers);
    __atomic_store_n(&t->started, false, __ATOMIC_RELEASE); /* whoever wakes it from another thread does nothing any more */
    if (t->raft != NULL && t->o.bus == NULL && t->failed == 0)
        store_turn(t); /* what was proposed before this call is still done */
    changes_stop(t);
    if (t->raft != NULL && t->o.bus == NULL && t->failed == 0)
        proposals_complete(t);
    t->failed = t->failed < 0 ? t->failed : ERR_CLOSED;
    proposals_drop(t);
    join_drop(t);
    again_forget(t);
    forming_close(t);
    if (t->own_workers != NULL)
        workers_free(t->own_workers);
    raft_free(t->raft);
    if (t->disk != NULL)
        raft_store_close(t->disk);
    raft_decoder_fini(&t->decoder);
    topo_state_free(&t->state);
    mem_free((void *)t->view);
    buf_fini(&t->scratch);
    mem_free(t->raft_dir);
    for (unsigned i = 0; i < t->o.seed_count; i++)
        mem_free(t->seeds[i]);
    mem_free(t->seeds);
    for (unsigned i = 0; i < TOPO_LISTENERS; i++)
        mem_free((void *)t->endpoints[i].host.data);
    mem_free((void *)t->o.data_dir);
    mem_free((void *)t->o.node_name);
    mem_free((void *)t->o.rack);
    mem_free((void *)t->o.address);
    mem_free((void *)t->o.listen);
    pthread_rwlock_destroy(&t->pins);
    mutex_fini(&t->lock);
    MAGIC_FINI(t, STORE_MAGIC);
    mem_free(t);
}

/* ---- what others ask ------------------------------------------------------------------------------------------------------ */

uint32_t topology_node_id(const struct topology_store *t)
{
    return __atomic_load_n(&t->node_id, __ATOMIC_ACQUIRE);
}

uint64_t topology_node_epoch(const struct topology_store *t)
{
    return __atomic_load_n(&t->node_epoch, __ATOMIC_ACQUIRE);
}

void topology_cluster_id(const struct topology_store *t, uint8_t ret[16])
{
    struct topology_store *w = (struct topology_store *)t;

    mutex_lock(&w->lock);
    memcpy(ret, w->cluster_id, 16);
    mutex_unlock(&w->lock);
}

uint32_t topology_controller(const struct topology_store *t)
{
    return __atomic_load_n(&t->leader, __ATOMIC_ACQUIRE);
}

bool topology_is_leading(const struct topology_store *t)
{
    return __atomic_load_n(&t->leading, __ATOMIC_ACQUIRE);
}

uint64_t topology_term(const struct topology_store *t)
{
    return __atomic_load_n(&t->term, __ATOMIC_ACQUIRE);
}

void topology_set_endpoints(struct topology_store *t, const struct topo_endpoint endpoints[TOPO_LISTENERS])
{
    mutex_lock(&t->lock);
    for (unsigned i = 0; i < TOPO_LISTENERS; i++) {
        mem_free((void *)t->endpoints[i].host.data);
        t->endpoints[i].host = slice_of(mem_strdup_slice(endpoints[i].host), endpoints[i].host.len);
        t->endpoints[i].port = endpoints[i].port;
    }
    t->endpoints_changed = true;
    mutex_unlock(&t->lock);
    store_wake(t);
}

void topology_set_unclean(struct topology_store *t, bool unclean)
{
    mutex_lock(&t->lock);
    t->unclean = unclean;
    mutex_unlock(&t->lock);
}

void topology_read_index(struct topology_store *t, struct topology_read *r)
{
    r->answered = false;
    r->err = 0;
    r->next = t->reads_new;
    t->reads_new = r;
    store_soon(t);
}

void topology_read_cancel(struct topology_store *t, struct topology_read *r)
{
    struct topology_read **lists[] = {&t->reads_new, &t->reads};

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        for (struct topology_read **at = lists[i]; *at != NULL; at = &(*at)->next) {
            if (*at == r) {
                *at = r->next;
                return;
            }
        }
    }
}

void topology_group_get(struct topology_store *t, struct topology_group *ret)
{
    mutex_lock(&t->lock);
    *ret = t->group;
    mutex_unlock(&t->lock);
}

uint32_t topology_disk_busy_ms(const struct topology_store *t)
{
    uint64_t ms = raft_store_busy_us(t->disk) / 1000;

    return (uint32_t)MIN_OF(ms, (uint64_t)UINT32_MAX);
}
