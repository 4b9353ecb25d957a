/* The Raft core's host: steps it, writes and sends what it asks for, applies what is committed. Follows the loop drawn in raft.h.
 *
 * The core answers each event with an update whose slices live until the next step; host_step uses them up at once, in this order: disk, messages, reads, commits, role. Applying ends in another step
 * (RAFT_APPLIED), which is why it comes late. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/private.h"
#include "cluster/topology/state_private.h"

void host_fail(struct topology_store *t, int err, const char *what)
{
    if (t->failed < 0)
        return;
    t->failed = err;
    diag_error("this node leaves the group until it is restarted", "reason=\"%s\" err=\"%s\"", what, err_text(err));
    store_set_phase(t, TOPOLOGY_FAILED, "%s: %s", what, err_text(err));
    __atomic_store_n(&t->leader, 0, __ATOMIC_RELEASE);
    if (t->leading) {
        __atomic_store_n(&t->leading, false, __ATOMIC_RELEASE);
        if (t->o.leading != NULL)
            t->o.leading(t->o.arg, false, t->term);
    }
    proposals_fail(t, err);
}

/* ---- messages --------------------------------------------------------------------------------------------------------- */

static void send_messages(struct topology_store *t, const struct raft_update *up)
{
    if (t->o.bus == NULL)
        return;
    for (size_t i = 0; i < up->message_count; i++) {
        struct raft_message m = up->messages[i];

        if (m.type == RAFT_MSG_SNAPSHOT && raft_store_snapshot_read(t->disk, &m) < 0)
            continue; /* a newer one is there; the core will offer it */
        buf_clear(&t->scratch);
        raft_encode(&m, &t->scratch);
        bus_send(t->o.bus, m.to.id, BUS_RAFT, buf_slice(&t->scratch)); /* lost is lost: the core repeats */
    }
}

void host_handle_raft(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct topology_store *t = arg;
    struct raft_event ev = {.type = RAFT_MSG};

    (void)r;
    if (t->raft == NULL || t->failed < 0)
        return;
    if (raft_decode(payload, &t->decoder) < 0) {
        DIAG_EVERY(DIAG_WARN, "a Raft message cannot be read; it is dropped", "from=%s", from->address);
        return;
    }
    if (memcmp(t->decoder.m.from.uuid, from->uuid, 16) != 0)
        return; /* the bus proved who it is; nobody speaks for another */
    ev.message = &t->decoder.m;
    host_step(t, &ev, NULL);
    store_soon(t);
}

/* Whom to keep connections to: the members, and those seeds that are none of them (a node that moved is found again there). */
void host_set_targets(struct topology_store *t)
{
    struct raft_member *members = NULL;
    struct bus_target *targets;
    char(*addresses)[320];
    size_t n = 0;
    unsigned count = 0;

    if (t->o.bus == NULL)
        return;
    if (t->raft != NULL) {
        struct slice config = raft_config(t->raft);

        if (config.len == 0)
            config = buf_slice(&t->join_members);
        if (config.len == 0 || raft_config_decode(config, &members, &n) < 0)
            n = 0;
    }
    targets = mem_calloc(n + t->o.seed_count + 1, sizeof(*targets));
    addresses = mem_calloc(n + 1, sizeof(*addresses));
    for (size_t i = 0; i < n; i++) {
        const struct topo_node *node = topo_node_find(&t->state.v, members[i].node.id);
        struct bus_target *x = &targets[count];
        char host[256];
        uint16_t port;

        if (members[i].node.id == t->identity.node_id)
            continue;
        if (node != NULL && topo_node_address(node, TOPO_BUS, host, sizeof(host), &port))
            snprintf(addresses[count], sizeof(addresses[0]), strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
        else
            snprintf(addresses[count], sizeof(addresses[0]), "%.*s", (int)members[i].address.len, (const char *)members[i].address.data);
        x->address = addresses[count];
        x->node_id = members[i].node.id;
        memcpy(x->uuid, members[i].node.uuid, 16);
        if (node != NULL && memcmp(node->uuid, members[i].node.uuid, 16) == 0)
            x->node_epoch = node->epoch;
        count++;
    }
    for (unsigned i = 0, known = count; i < t->o.seed_count; i++) {
        bool have = false;

        for (unsigned k = 0; k < known; k++)
            have |= strcmp(targets[k].address, t->o.seeds[i]) == 0;
        if (!have)
            targets[count++].address = t->o.seeds[i];
    }
    bus_set_targets(t->o.bus, targets, count);
    mem_free(addresses);
    mem_free(targets);
    mem_free(members);
}

/* ---- applying --------------------------------------------------------------------------------------------------------- */

static void apply_command(struct topology_store *t, uint64_t index, struct slice data)
{
    struct topo_result result = {0};
    uint64_t process = 0, seq = 0;
    int err;

    if (data.len >= ENVELOPE_SIZE && data.data[0] == ENVELOPE) {
        process = be64_get(data.data + 1);
        seq = be64_get(data.data + 9);
        data = slice_of(data.data + ENVELOPE_SIZE, data.len - ENVELOPE_SIZE);
    }
    err = topo_state_apply(&t->state, data, &result);
    t->starts_changed |= data.len != 0 && data.data[0] == TOPO_CMD_NODE_ENTER;
    if (err < 0) {
        /* Rule 10: what cannot be understood is never skipped. */
        host_fail(t, err, "an entry of the topology's log cannot be applied; is this build older than the cluster's?");
        return;
    }
    proposals_applied(t, process, seq, index, &result);
}

/* Rule 10. Before the view shows the level, so before anybody here writes by it. */
static void note_level(struct topology_store *t)
{
    int err;

    if (t->state.v.level <= t->identity.level || t->failed < 0)
        return;
    t->identity.level = t->state.v.level;
    err = identity_save(t->o.data_dir, &t->identity);
    if (err < 0)
        host_fail(t, err, "the feature level cannot be written to node.id");
    else
        diag_info("the cluster works at another feature level", "level=%u", t->identity.level);
}

static bool same_configuration(struct topology_store *t)
{
    return t->config_index == raft_config_index(t->raft);
}

static void apply_committed(struct topology_store *t, uint64_t commit)
{
    uint64_t before = t->applied;

    while (t->applied < commit && t->failed == 0) {
        struct raft_entry e;

        CHECK(raft_entry(t->raft, t->applied + 1, &e));
        t->applied++;
        if (e.kind == RAFT_ENTRY_COMMAND)
            apply_command(t, t->applied, slice_of(e.data, e.len));
        t->state.v.index = t->applied;
        if (e.term != t->applied_term) {
            t->applied_term = e.term;
            proposals_term_over(t);
        }
    }
    note_level(t);
    if (t->applied == before || t->failed < 0)
        return;
    store_publish(t);
    changes_tell(t);
    if (t->o.published != NULL)
        t->o.published(t->o.arg);
    host_applied(t);
}

/* "Applied" is what the leader answers clients by (rule 17): the engines must know too. */
void host_applied(struct topology_store *t)
{
    struct raft_event ev = {.type = RAFT_APPLIED, .applied = changes_told_upto(t)};

    if (t->raft == NULL || t->failed < 0 || ev.applied <= t->applied_told)
        return;
    t->applied_told = ev.applied;
    host_step(t, &ev, NULL);
    store_soon(t);
}

static bool find_queue(const struct topo_queue *q, void *arg)
{
    struct topo_state *s = ((void **)arg)[1];
    const struct topology *now = ((void **)arg)[0];

    if (topo_queue_by_id(now, q->id) == NULL) {
        struct topology_change *c = topo_add_change(s, TOPO_QUEUE_DELETED, q->name);

        c->id = q->id;
        c->partition = q->partition;
    }
    return true;
}

static bool find_topic(const struct topo_topic *x, void *arg)
{
    struct topo_state *s = ((void **)arg)[1];
    const struct topology *now = ((void **)arg)[0];

    if (topo_topic_by_uuid(now, x->uuid) == NULL) {
        struct topology_change *c = topo_add_change(s, TOPO_TOPIC_DELETED, x->name);

        c->id = x->id;
        c->partitions = x->partitions;
    }
    return true;
}

/* A received snapshot replaces everything. What is gone in it was deleted meanwhile: the engines are told of that as of any deletion. */
static int load_snapshot(struct topology_store *t, uint64_t index, uint64_t term, struct slice payload)
{
    struct topo_state fresh = {0}, old = t->state;
    void *arg[2] = {&fresh.v, &fresh};
    int err = topo_state_decode(&fresh, payload);

    if (err < 0) {
        topo_state_free(&fresh);
        host_fail(t, err, "the topology's snapshot cannot be read; is this build older than the cluster's?");
        return err;
    }
    topo_each_queue(&old.v, SLICE_NONE, find_queue, arg);
    topo_each_topic(&old.v, find_topic, arg);
    t->state = fresh;
    t->state.v.index = index;
    t->applied = index;
    t->starts_changed = true;
    if (term != t->applied_term) {
        t->applied_term = term;
        proposals_term_over(t);
    }
    note_level(t);
    store_retire_state(t, &old);
    changes_tell(t);
    if (t->o.published != NULL)
        t->o.published(t->o.arg);
    return 0;
}

/* ---- steps ---------------------------------------------------------------------------------------------------------------- */

static void take_reads(struct topology_store *t, const struct raft_update *up)
{
    for (size_t i = 0; i < up->read_count; i++) {
        for (struct topology_read *r = t->reads; r != NULL; r = r->next) {
            if (r->ctx == up->reads[i].ctx) {
                r->answered = true;
                r->err = up->reads[i].err;
                r->index = up->reads[i].index;
            }
        }
    }
}

static void stop_leading(struct topology_store *t)
{
    proposals_refuse_remote(t);
    join_fail(t, ERR_NOT_LEADER);
    t->transferring = false;
    if (!t->leading)
        return;
    __atomic_store_n(&t->leading, false, __ATOMIC_RELEASE);
    if (t->o.leading != NULL)
        t->o.leading(t->o.arg, false, t->term);
}

static void take_role(struct topology_store *t, const struct raft_update *up)
{
    uint64_t term = raft_current_term(t->raft);
    bool was = t->leading && (up->role != RAFT_LEADER || term != t->term);

    if (was || up->role != RAFT_LEADER)
        stop_leading(t);
    if (up->leader != t->leader && up->leader != 0 && t->o.bus != NULL)
        diag_info("the cluster has a controller", "node=%u term=%llu", up->leader, (unsigned long long)term);
    __atomic_store_n(&t->term, term, __ATOMIC_RELEASE);
    __atomic_store_n(&t->leader, up->leader, __ATOMIC_RELEASE);
    t->retry_us = 0;
    if (up->role == RAFT_LEADER) {
        t->remote_wanted = raft_last_index(t->raft); /* others may wait for any of them */
        t->remote_until_us = clock_mono_us() + TOPOLOGY_PROPOSE_MS * 1000ull;
    }
}

/* The controller begins when its state holds everything former terms committed, which the first entry of its own shows. */
static void begin_leading(struct topology_store *t)
{
    if (t->leading || t->failed < 0 || raft_role(t->raft) != RAFT_LEADER || t->applied_term != raft_current_term(t->raft))
        return;
    __atomic_store_n(&t->leading, true, __ATOMIC_RELEASE);
    if (t->o.leading != NULL)
        t->o.leading(t->o.arg, true, t->term);
}

int host_step(struct topology_store *t, struct raft_event *ev, struct raft_update *ret)
{
    struct raft_update up = {0};
    int err;

    if (t->failed < 0)
        return t->failed;
    ev->now_us = clock_mono_us();
    err = raft_step(t->raft, ev, &up);
    if (err == ERR_CORRUPT) {
        host_fail(t, err, "the log contradicts what the group committed");
        return err;
    }
    if (ret != NULL)
        *ret = up;
    if (up.seq != 0)
        raft_store_submit(t->disk, &up, raft_is_alone(t->raft));
    if (up.chunk != NULL)
        raft_store_chunk(t->disk, up.chunk);
    send_messages(t, &up);
    take_reads(t, &up);
    if (up.role_changed)
        take_role(t, &up);
    if (up.transfer_failed)
        t->transferring = false;
    apply_committed(t, up.commit);
    begin_leading(t);
    if (up.progress || t->leading)
        proposals_everywhere(t);
    return err;
}

static int take_disk_events(struct topology_store *t)
{
    struct raft_event ev = {0};
    int err;

    while ((err = raft_store_next(t->disk, &ev)) == 1) {
        if (ev.type == RAFT_SNAPSHOT_INSTALLED && ev.err == 0 &&
            load_snapshot(t, ev.snapshot.index, ev.snapshot.term, ev.snapshot_payload) < 0)
            return t->failed;
        host_step(t, &ev, NULL);
        if (ev.type == RAFT_SNAPSHOT_INSTALLED && ev.err == 0)
            host_applied(t);
        if (t->failed < 0)
            return t->failed;
        ev = (struct raft_event){0};
    }
    if (err < 0)
        host_fail(t, err, "the topology's log cannot be written");
    return err;
}

static void compact(struct topology_store *t)
{
    struct buf b = {0};
    int err;

    if (raft_store_snapshotting(t->disk) || raft_log_bytes_above(t->raft, t->snapshot_index) < COMPACT_BYTES)
        return;
    topo_state_encode(&t->state.v, &b);
    err = raft_store_snapshot(t->disk, t->applied, raft_term_at(t->raft, t->applied), raft_config_at(t->raft, t->applied), &b);
    if (err < 0)
        diag_error("the topology's snapshot cannot be written", "err=\"%s\"", err_text(err));
    else
        t->snapshot_index = t->applied;
    buf_fini(&b);
}

static void begin_reads(struct topology_store *t)
{
    struct topology_read *r = t->reads_new;
    struct raft_event ev = {.type = RAFT_READ};
    int err;

    if (r == NULL)
        return;
    t->reads_new = NULL;
    ev.ctx = ++t->read_ctx; /* one round serves all that came meanwhile */
    for (struct topology_read *next; r != NULL; r = next) {
        next = r->next;
        r->ctx = ev.ctx;
        r->next = t->reads;
        t->reads = r;
    }
    err = t->raft == NULL ? ERR_NOT_LEADER : host_step(t, &ev, NULL);
    for (r = t->reads; err < 0 && r != NULL; r = r->next) {
        if (r->ctx == ev.ctx) {
            r->answered = true;
            r->err = err;
        }
    }
}

static void end_reads(struct topology_store *t)
{
    for (struct topology_read **at = &t->reads; *at != NULL;) {
        struct topology_read *r = *at;

        if (!r->answered || (r->err == 0 && t->applied < r->index && t->failed == 0)) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        r->done(r, t->failed < 0 ? t->failed : r->err, r->index);
        at = &t->reads; /* done may have changed the list */
    }
}

static void give_up(struct topology_store *t)
{
    struct raft_event ev = {.type = RAFT_TRANSFER};

    if (!__atomic_load_n(&t->give_up, __ATOMIC_ACQUIRE) || t->transferring || raft_role(t->raft) != RAFT_LEADER)
        return;
    t->transferring = true;
    if (host_step(t, &ev, NULL) < 0)
        __atomic_store_n(&t->give_up, false, __ATOMIC_RELEASE); /* nobody could */
}

static void leader_gone(struct topology_store *t)
{
    struct raft_event ev = {.type = RAFT_LEADER_GONE, .target = __atomic_exchange_n(&t->gone, 0, __ATOMIC_ACQ_REL)};

    if (ev.target != 0)
        host_step(t, &ev, NULL);
}

void host_turn(struct topology_store *t)
{
    if (t->raft == NULL || t->failed < 0)
        return;
    if (take_disk_events(t) < 0)
        return;
    leader_gone(t);
    if (clock_mono_us() >= raft_deadline(t->raft)) {
        struct raft_event ev = {.type = RAFT_TICK};

        host_step(t, &ev, NULL);
        if (take_disk_events(t) < 0)
            return;
    }
    begin_reads(t);
    proposals_turn(t);
    /* Alone the disk was written inline, and its event is here already. */
    if (take_disk_events(t) < 0)
        return;
    end_reads(t);
    give_up(t);
    if (!same_configuration(t) || t->starts_changed) {
        t->config_index = raft_config_index(t->raft);
        t->starts_changed = false;
        host_set_targets(t);
    }
    compact(t);
}

void host_begin(struct topology_store *t)
{
    struct raft_options o = {.self = {.id = t->identity.node_id},
                             .now_us = clock_mono_us(),
                             .election_timeout_us = t->o.election_timeout_ms * 1000ull,
                             .heartbeat_us = t->o.heartbeat_ms * 1000ull};

    CHECK(t->raft == NULL && t->identity.node_id != 0);
    rand_secure(&o.seed, sizeof(o.seed));
    memcpy(o.self.uuid, t->identity.node_uuid, 16);
    t->raft = raft_new(&o, &t->recovered);
    t->applied = t->snapshot_index = t->recovered.snapshot.index;
    t->applied_term = t->recovered.snapshot.term;
    t->config_index = UINT64_MAX;
    raft_store_loaded(t->disk);
    t->recovered = (struct raft_recovered){0};
    __atomic_store_n(&t->term, raft_current_term(t->raft), __ATOMIC_RELEASE);
    if (t->o.bus != NULL)
        bus_set_identity(t->o.bus, t->identity.cluster_id, t->identity.node_id, t->identity.epoch);
    members_begin(t);
}
