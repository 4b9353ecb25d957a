/* This node in its cluster, and the controller's share of it: the first commands of a new cluster, and who votes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/private.h"
#include "log/effect.h"

static const char refusal_of_old_copies[] = "this data directory is an older copy of this node's disk than the one the cluster knows; remove the node (gomsgctl cluster remove on another node) and start it with an empty data directory: what it held comes back from the others";

enum {
    REGISTER_RETRY_US = 100000,
    RECONCILE_US = 200000,
    ALIVE_US = 1500000,
    HEARD_NOW_US = 500000,
    SHUT_OUT_US = 5000000,
    SAY_US = 5000000,
    FIRST_SAY_US = 2000000, /* an election takes its time */
};

static const char *bus_address(struct topology_store *t, char *space, size_t size)
{
    struct raft_member *members;
    size_t n;

    if (t->o.address != NULL)
        return t->o.address;
    if (t->own_address[0] != '\0')
        return t->own_address;
    if (t->raft != NULL && raft_config(t->raft).len != 0 && raft_config_decode(raft_config(t->raft), &members, &n) == 0) {
        space[0] = '\0';
        for (size_t i = 0; i < n; i++) {
            if (members[i].node.id == t->identity.node_id)
                snprintf(space, size, "%.*s", (int)members[i].address.len, (const char *)members[i].address.data);
        }
        mem_free(members);
        if (space[0] != '\0')
            return space;
    }
    return t->o.listen;
}

/* "HOST:PORT" or "[HOST]:PORT" into its parts. */
static bool split(const char *address, struct topo_endpoint *ret)
{
    const char *colon = address == NULL ? NULL : strrchr(address, ':');
    size_t n;

    if (colon == NULL || colon == address)
        return false;
    n = (size_t)(colon - address);
    ret->port = (uint16_t)atoi(colon + 1);
    ret->host = address[0] == '[' && n > 2 ? slice_of(address + 1, n - 2) : slice_of(address, n);
    return true;
}

static void encode_enter(struct topology_store *t, struct buf *out, bool alone)
{
    struct topo_node n = {.id = t->identity.node_id, .name = slice_str(t->o.node_name), .rack = slice_str(t->o.rack), .level = EFFECT_LEVEL_MAX};
    char space[300];

    memcpy(n.uuid, t->identity.node_uuid, 16);
    mutex_lock(&t->lock);
    n.unclean = t->unclean;
    memcpy(n.endpoints, t->endpoints, sizeof(n.endpoints));
    t->endpoints_changed = false;
    if (n.endpoints[TOPO_BUS].host.len == 0)
        split(bus_address(t, space, sizeof(space)), &n.endpoints[TOPO_BUS]);
    if (alone && topo_node_find(&t->state.v, n.id) == NULL)
        n.id = 0;
    topo_cmd_node_enter(out, &n, alone);
    mutex_unlock(&t->lock);
}

void members_know_cluster(struct topology_store *t)
{
    mutex_lock(&t->lock);
    memcpy(t->cluster_id, t->identity.cluster_id, 16);
    mutex_unlock(&t->lock);
}

static void set_self(struct topology_store *t)
{
    const struct topo_node *n = topo_node_find(&t->state.v, t->identity.node_id);

    CHECK(n != NULL);
    __atomic_store_n(&t->node_epoch, n->epoch, __ATOMIC_RELEASE);
    __atomic_store_n(&t->node_id, n->id, __ATOMIC_RELEASE);
    if (t->o.bus != NULL)
        bus_set_identity(t->o.bus, t->identity.cluster_id, n->id, n->epoch);
}

void members_begin(struct topology_store *t)
{
    members_know_cluster(t);
    __atomic_store_n(&t->node_id, t->identity.node_id, __ATOMIC_RELEASE);
    t->loading_said_us = clock_mono_us() - SAY_US + FIRST_SAY_US;
    if (t->o.bus != NULL)
        store_set_phase(t, TOPOLOGY_LOADING, "waiting for the cluster's controller");
}

/* ---- starts, counted -------------------------------------------------------------------------------------------------------
 * A node epoch is written to node.id before it is asked for, so that the topology never knows a later one than the disk, unless the disk is an old copy: one that was put back from a backup, whose node may have promised in
 * votes and appends what this disk knows nothing of. Peers refuse it (bus.h); where none of them knows enough yet, this node finds out itself, by the log that it gets or by the epoch that it is given. */

static bool is_old_copy(struct topology_store *t)
{
    const struct topo_node *n = topo_node_find(&t->state.v, t->identity.node_id);

    if (n == NULL || t->identity.epoch == 0 || n->epoch <= t->identity.epoch)
        return false;
    diag_error("this data directory is an old copy", "its_epoch=%llu registered=%llu", (unsigned long long)t->identity.epoch, (unsigned long long)n->epoch);
    host_fail(t, ERR_FENCED, refusal_of_old_copies);
    return true;
}

static int claim_epoch(struct topology_store *t)
{
    const struct topo_node *n = topo_node_find(&t->state.v, t->identity.node_id);

    t->identity.epoch = MAX_OF(t->identity.epoch, n == NULL ? 0 : n->epoch) + 1;
    return identity_save(t->o.data_dir, &t->identity);
}

/* ---- a node alone -------------------------------------------------------------------------------------------------------- */

static int propose_now(struct topology_store *t, struct buf *command)
{
    struct topology_proposal p = {.command = *command};
    int err = topology_propose_wait(t, &p);

    buf_fini(&p.command);
    *command = (struct buf){0};
    return err;
}

static int form_alone(struct topology_store *t)
{
    struct buf b = {0};
    uint8_t salt[4];

    rand_secure(salt, sizeof(salt));
    topo_cmd_form(&b, t->identity.cluster_id, t->o.total_partitions, EFFECT_LEVEL_MAX, salt);
    return propose_now(t, &b);
}

/* The first start of a node alone, or its first with a build that knows placement: everything is here. */
static int place_here(struct topology_store *t)
{
    uint32_t count = t->state.v.total_partitions;
    struct topo_replica_set *sets = mem_zalloc(count * sizeof(sets[0]));
    struct buf b = {0};

    for (uint32_t i = 0; i < count; i++)
        topo_set_add(&sets[i], t->identity.node_id);
    topo_cmd_partitions_place(&b, sets, count);
    mem_free(sets);
    return propose_now(t, &b);
}

static int found_alone(struct topology_store *t, char *why, size_t why_size)
{
    struct raft_member self = {.node = {.id = t->identity.node_id}, .voter = true, .address = SLICE_LIT("")};
    struct raft_member *members = NULL;
    size_t n = 1;
    int err = 0;

    memcpy(self.node.uuid, t->identity.node_uuid, 16);
    if (!t->identity.formed)
        err = identity_save(t->o.data_dir, &t->identity);
    if (err == 0 && !raft_has_config(&t->recovered))
        err = raft_store_form(t->disk, &self, 1, &t->recovered);
    if (err < 0)
        return err;
    host_begin(t);
    if (raft_config_decode(raft_config(t->raft), &members, &n) < 0)
        n = 0;
    mem_free(members);
    if (n == 1)
        return 0;
    snprintf(why, why_size, "%s belongs to a node of a cluster of %zu: name its nodes in cluster.seeds", t->o.data_dir, n);
    return ERR_MISMATCH;
}

int members_open_alone(struct topology_store *t, char *why, size_t why_size)
{
    struct buf b = {0};
    int err = found_alone(t, why, why_size);

    if (err < 0)
        return err;
    for (int i = 0; i < 16 && !t->leading && t->failed == 0; i++)
        store_turn(t); /* term, vote, first entry: each a turn, on this thread */
    if (!t->leading)
        return t->failed < 0 ? t->failed : ERR_IO;
    if (t->state.v.total_partitions == 0)
        err = form_alone(t);
    if (err == 0)
        err = claim_epoch(t);
    if (err == 0) {
        encode_enter(t, &b, t->state.v.nodes.count <= 1);
        err = propose_now(t, &b);
    }
    if (err == 0 && t->state.v.partitions == NULL)
        err = place_here(t);
    if (err == 0 && !t->identity.formed) {
        t->identity.formed = true;
        err = identity_save(t->o.data_dir, &t->identity);
    }
    if (err < 0)
        return err;
    set_self(t);
    t->registered = true;
    store_set_phase(t, TOPOLOGY_MEMBER, "alone");
    return 0;
}

/* ---- registration in a cluster --------------------------------------------------------------------------------------------- */

static void registration_done(struct topology_proposal *p)
{
    struct topology_store *t = CONTAINER_OF(p, struct topology_store, registration);

    buf_fini(&p->command);
    t->registering = false;
    t->register_after_us = clock_mono_us() + REGISTER_RETRY_US;
    switch (p->err) {
    case 0:
        break;
    case ERR_MISMATCH:
        host_fail(t, p->err, "another disk is registered with this node's id; remove that node, or start here with an empty data directory");
        return;
    case ERR_UNSUPPORTED:
        host_fail(t, p->err, "the cluster works at a feature level this build does not know; run the build of the other nodes");
        return;
    default:
        return; /* tried again when there is a leader */
    }
    if (t->failed < 0 || is_old_copy(t))
        return;
    if (t->state.v.total_partitions != t->o.total_partitions) {
        host_fail(t, ERR_MISMATCH, "cluster.total_partitions differs from the cluster's, which was fixed when it was formed; set it to that");
        return;
    }
    t->registered = true;
    set_self(t);
    diag_info("this node is a member of its cluster", "node=%u epoch=%llu nodes=%llu", t->node_id, (unsigned long long)t->node_epoch, (unsigned long long)t->state.v.nodes.count);
    store_set_phase(t, TOPOLOGY_MEMBER, "member of a cluster of %llu", (unsigned long long)t->state.v.nodes.count);
}

static void say_whom_we_miss(struct topology_store *t, uint64_t now_us)
{
    struct bus_peer_info peers[64];
    unsigned n = MIN_OF(bus_peers(t->o.bus, peers, ARRAY_LEN(peers)), (unsigned)ARRAY_LEN(peers));
    char text[380] = "waiting for the cluster's controller";
    bool any = false;

    for (unsigned i = 0; i < n; i++) {
        size_t at = strlen(text);

        if (peers[i].control_up)
            continue;
        snprintf(text + at, sizeof(text) - at, "%s %s%s%s%s", any ? "," : "; not reached:", peers[i].address, peers[i].refused[0] != '\0' ? " (" : "", peers[i].refused, peers[i].refused[0] != '\0' ? ")" : "");
        any = true;
    }
    store_set_phase(t, TOPOLOGY_LOADING, "%s", text);
    if (now_us - t->loading_said_us < SAY_US)
        return;
    t->loading_said_us = now_us;
    diag_warn("the cluster cannot be reached yet", "state=\"%s\" hint=\"a majority of the voters must run and reach each other\"", text);
}

static void register_self(struct topology_store *t, uint64_t now_us)
{
    struct topology_proposal *p = &t->registration;

    if (t->registering || now_us < t->register_after_us)
        return;
    if (t->leader == 0) {
        say_whom_we_miss(t, now_us);
        return;
    }
    /* The controller gives a new node its place first; until the log with it has come, there is nothing to register for. */
    if (topo_node_find(&t->state.v, t->identity.node_id) == NULL || is_old_copy(t))
        return;
    if (claim_epoch(t) < 0) {
        host_fail(t, ERR_IO, "node.id cannot be written");
        return;
    }
    bus_set_identity(t->o.bus, t->identity.cluster_id, t->identity.node_id, t->identity.epoch);
    *p = (struct topology_proposal){.done = registration_done};
    encode_enter(t, &p->command, false);
    t->registering = true;
    topology_propose(t, p);
}

/* Somebody else lives with this node's identity, or it was removed: it must not go on. */
static void check_self(struct topology_store *t)
{
    const struct topo_node *n = topo_node_find(&t->state.v, t->identity.node_id);

    if (n == NULL)
        host_fail(t, ERR_FENCED, "this node was removed from its cluster; to bring it back, start it with an empty data directory");
    else if (n->epoch > t->node_epoch)
        host_fail(t, ERR_FENCED, "this node's identity was registered again by another process: is a copy of its data directory in use?");
}

static void endpoints_done(struct topology_proposal *p)
{
    struct topology_store *t = CONTAINER_OF(p, struct topology_store, endpoints_proposal);

    buf_fini(&p->command);
    t->endpoints_proposing = false;
    if (p->err == 0)
        return;
    mutex_lock(&t->lock);
    t->endpoints_changed = true; /* again at the next tick */
    mutex_unlock(&t->lock);
}

static void register_endpoints(struct topology_store *t)
{
    struct topology_proposal *p = &t->endpoints_proposal;
    struct topo_endpoint endpoints[TOPO_LISTENERS];
    char space[300];

    mutex_lock(&t->lock);
    if (t->endpoints_changed && !t->endpoints_proposing) {
        t->endpoints_changed = false;
        t->endpoints_proposing = true;
        memcpy(endpoints, t->endpoints, sizeof(endpoints));
        if (endpoints[TOPO_BUS].host.len == 0)
            split(bus_address(t, space, sizeof(space)), &endpoints[TOPO_BUS]);
        *p = (struct topology_proposal){.done = endpoints_done};
        topo_cmd_node_endpoints(&p->command, t->node_id, t->node_epoch, endpoints);
    } else {
        p = NULL;
    }
    mutex_unlock(&t->lock);
    if (p != NULL)
        topology_propose(t, p);
}

/* ---- the controller -------------------------------------------------------------------------------------------------------- */

static void own_done(struct topology_proposal *p)
{
    struct topology_store *t = CONTAINER_OF(p, struct topology_store, own_proposal);

    buf_fini(&p->command);
    t->own_proposing = false;
    t->reconcile_after_us = 0;
    if (p->err < 0)
        t->reconcile_after_us = clock_mono_us() + RECONCILE_US;
}

/* A new cluster: the command that forms it, then its founders in order of their ids, which the topology gives in the same order. */
static bool complete_founding(struct topology_store *t, const struct raft_member *members, size_t n)
{
    struct topology_proposal *p = &t->own_proposal;
    uint8_t salt[4];

    if (t->own_proposing)
        return false;
    *p = (struct topology_proposal){.done = own_done};
    if (t->state.v.total_partitions == 0) {
        rand_secure(salt, sizeof(salt));
        topo_cmd_form(&p->command, t->identity.cluster_id, t->o.total_partitions, EFFECT_LEVEL_MAX, salt);
    } else {
        const struct raft_member *m = NULL;

        for (size_t i = 0; i < n && m == NULL; i++) {
            if (members[i].node.id >= t->state.v.next_node_id)
                m = &members[i];
        }
        if (m == NULL)
            return true;
        struct topo_node node = {.name = m->address, .rack = SLICE_LIT(""), .level = EFFECT_LEVEL_MAX};

        memcpy(node.uuid, m->node.uuid, 16);
        topo_cmd_node_enter(&p->command, &node, false);
    }
    t->own_proposing = true;
    topology_propose(t, p);
    return false;
}

static void plan_voters(struct topology_store *t, const struct raft_member *members, size_t n, uint64_t now_us)
{
    struct voter_candidate c[RAFT_MEMBERS_MAX];
    struct raft_peer_status peers[RAFT_MEMBERS_MAX];
    size_t peer_n = raft_peers(t->raft, peers, RAFT_MEMBERS_MAX);
    static const uint8_t changes[] = {[VOTERS_PROMOTE] = RAFT_PROMOTE, [VOTERS_DEMOTE] = RAFT_DEMOTE, [VOTERS_REMOVE] = RAFT_REMOVE};
    static const char *const words[] = {[VOTERS_PROMOTE] = "votes", [VOTERS_DEMOTE] = "votes no more", [VOTERS_REMOVE] = "is no member any more"};
    struct raft_event ev = {.type = RAFT_CHANGE};
    enum voter_change change;
    uint32_t id = 0;

    for (size_t i = 0; i < n; i++) {
        c[i] = (struct voter_candidate){.id = members[i].node.id, .voter = members[i].voter};
        c[i].known = topo_node_find(&t->state.v, members[i].node.id) != NULL;
        c[i].registered = members[i].node.id < t->state.v.next_node_id;
        c[i].alive = members[i].node.id == t->identity.node_id;
        for (size_t k = 0; k < peer_n; k++) {
            if (peers[k].node.id == members[i].node.id && !c[i].alive) {
                c[i].away_us = now_us > peers[k].heard_us ? now_us - peers[k].heard_us : 0;
                c[i].alive = c[i].away_us < ALIVE_US;
            }
        }
    }
    change = voters_plan(c, (unsigned)n, t->identity.node_id, t->o.replace_after_ms * 1000ull, &id);
    if (change == VOTERS_KEEP)
        return;
    ev.change = changes[change];
    ev.member.node.id = id;
    if (host_step(t, &ev, NULL) == 0)
        diag_info("the controller changes who votes", "node=%u now=\"%s\"", id, words[change]);
    store_soon(t);
}

/* The group's configuration says where a node that has no view yet finds the others: it follows what they register. False: a change was made, or cannot be made now. */
static bool addresses_are_known(struct topology_store *t, const struct raft_member *members, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct topo_node *node = topo_node_find(&t->state.v, members[i].node.id);
        struct raft_event ev = {.type = RAFT_CHANGE, .change = RAFT_ADD_LEARNER};
        char host[256], text[300];
        uint16_t port;

        if (node == NULL || !topo_node_address(node, TOPO_BUS, host, sizeof(host), &port))
            continue;
        snprintf(text, sizeof(text), strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
        if (slice_eq(members[i].address, slice_str(text)))
            continue;
        ev.member.node = members[i].node;
        ev.member.address = slice_str(text);
        host_step(t, &ev, NULL);
        store_soon(t);
        return false;
    }
    return true;
}

/* A follower that forgot what it vouched for, by a disk that was put back without a start in between, so that its epoch says nothing: its epoch is raised, as if it had started on another disk. From then on everybody refuses it. */
static bool fence_who_forgot(struct topology_store *t, uint64_t now_us)
{
    struct raft_peer_status peers[RAFT_MEMBERS_MAX];
    size_t n = raft_peers(t->raft, peers, RAFT_MEMBERS_MAX);

    for (size_t i = 0; i < n && !t->own_proposing; i++) {
        const struct topo_node *node = topo_node_find(&t->state.v, peers[i].node.id);
        struct topology_proposal *p = &t->own_proposal;
        struct topo_node again;

        if (!peers[i].lost || node == NULL || memcmp(node->uuid, peers[i].node.uuid, 16) != 0 || now_us - peers[i].heard_us > HEARD_NOW_US)
            continue;
        if (t->shut_out == node->id && now_us - t->shut_out_us < SHUT_OUT_US) /* what it said before is still on its way */
            continue;
        t->shut_out = node->id;
        t->shut_out_us = now_us;
        diag_error("a node forgot what it had written: is its disk an old copy? It is shut out", "node=%u had=%llu hint=\"gomsgctl cluster remove %u, then start it with an empty data directory\"", node->id,
                   (unsigned long long)peers[i].match, node->id);
        again = *node;
        again.unclean = true;
        *p = (struct topology_proposal){.done = own_done, .only_term = raft_current_term(t->raft)};
        topo_cmd_node_enter(&p->command, &again, false);
        t->own_proposing = true;
        topology_propose(t, p);
    }
    return !t->own_proposing;
}

/* A node that is to be emptied leads the group only while no other voter is well. */
static void hand_over_when_draining(struct topology_store *t, uint64_t now_us)
{
    const struct topo_node *self = topo_node_find(&t->state.v, t->identity.node_id);
    struct raft_event ev = {.type = RAFT_TRANSFER};
    struct raft_peer_status peers[RAFT_MEMBERS_MAX];
    size_t peer_n = raft_peers(t->raft, peers, RAFT_MEMBERS_MAX);

    if (self == NULL || self->drain == TOPO_DRAIN_NONE || t->transferring)
        return;
    for (size_t i = 0; i < peer_n; i++) {
        const struct topo_node *node = topo_node_find(&t->state.v, peers[i].node.id);

        if (peers[i].node.id != self->id && peers[i].voter && node != NULL && node->state == TOPO_NODE_ACTIVE && now_us - peers[i].heard_us < HEARD_NOW_US)
            ev.target = peers[i].node.id;
    }
    if (ev.target == 0)
        return;
    t->transferring = true;
    if (host_step(t, &ev, NULL) < 0)
        t->transferring = false;
    store_soon(t);
}

static void lead(struct topology_store *t, uint64_t now_us)
{
    struct raft_member *members;
    size_t n;

    if (now_us < t->reconcile_after_us)
        return;
    t->reconcile_after_us = now_us + RECONCILE_US;
    if (raft_config_decode(raft_config(t->raft), &members, &n) < 0)
        return;
    if (complete_founding(t, members, n) && fence_who_forgot(t, now_us) && raft_config_index(t->raft) <= t->applied && addresses_are_known(t, members, n))
        plan_voters(t, members, n, now_us);
    if (t->failed == 0 && raft_role(t->raft) == RAFT_LEADER)
        hand_over_when_draining(t, now_us);
    mem_free(members);
}

void members_turn(struct topology_store *t, uint64_t now_us)
{
    if (t->raft == NULL || t->failed < 0)
        return;
    if (t->registered)
        register_endpoints(t);
    if (t->o.bus == NULL)
        return;
    if (t->registered) {
        check_self(t);
        if (t->failed == 0)
            store_set_phase(t, TOPOLOGY_MEMBER, "member of a cluster of %llu", (unsigned long long)t->state.v.nodes.count);
    } else {
        register_self(t, now_us);
    }
    if (t->leading && t->failed == 0)
        lead(t, now_us);
}

/* ---- READ_INDEX ------------------------------------------------------------------------------------------------------------- */

struct remote_read {
    struct topology_read read;
    struct bus *bus;
    struct bus_request *request;
};

static void read_done(struct topology_read *r, int err, uint64_t index)
{
    struct remote_read *x = CONTAINER_OF(r, struct remote_read, read);
    uint8_t b[8];

    be64_put(b, index);
    bus_reply(x->bus, x->request, err, err < 0 ? SLICE_NONE : slice_of(b, 8));
    mem_free(x);
}

void members_handle_read_index(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct topology_store *t = arg;
    struct remote_read *x;

    (void)from, (void)payload;
    if (t->raft == NULL || t->failed < 0) {
        bus_reply(t->o.bus, r, ERR_NOT_LEADER, SLICE_NONE);
        return;
    }
    x = mem_zalloc(sizeof(*x));
    x->bus = t->o.bus;
    x->request = r;
    x->read.done = read_done;
    topology_read_index(t, &x->read);
}
