/* Taking nodes in, the member's side. A member that is not the controller passes the request on.
 *
 * JOIN   request  uuid, lslice address, lslice name, be32 total_partitions. Answer: cluster id, be32 node id, lslice configuration
 *
 *   entering   the topology gives the id (NODE_ENTER of a uuid it does not know; one that it knows keeps its id, so asking again is harmless)
 *   adding     the group gets a learner (one change at a time: others wait)
 *   settling   until that change is applied; then the answer
 *
 * The node registers by itself once the log has reached it, and becomes a voter when the plan wants one more. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/private.h"
#include "log/effect.h"

enum { JOIN_MS = 5000 };

enum join_state { JOIN_ENTERING, JOIN_ADDING, JOIN_SETTLING };

struct join_wait {
    struct join_wait *next;
    struct topology_store *store;
    struct bus_request *request; /* NULL: answered, only the proposal is still on its way */
    enum join_state state;
    struct raft_node node;
    char *address; /* owned */
    struct topology_proposal proposal;
    bool proposing;
    uint64_t index, deadline_us;
};

static void reply(struct join_wait *j, int err, struct slice payload)
{
    if (j->request != NULL)
        bus_reply(j->store->o.bus, j->request, err, payload);
    j->request = NULL;
}

static void join_free(struct join_wait *j)
{
    mem_free(j->address);
    mem_free(j);
}

static void entered(struct topology_proposal *p)
{
    struct join_wait *j = CONTAINER_OF(p, struct join_wait, proposal);

    buf_fini(&p->command);
    j->proposing = false;
    if (p->err < 0)
        reply(j, p->err, SLICE_LIT("the controller could not enter the node"));
    j->node.id = (uint32_t)p->id;
    j->state = JOIN_ADDING;
    store_soon(j->store);
}

struct by_uuid {
    const uint8_t *uuid;
    uint32_t id;
};

static bool match_uuid(const struct topo_node *n, void *arg)
{
    struct by_uuid *b = arg;

    if (memcmp(n->uuid, b->uuid, 16) == 0)
        b->id = n->id;
    return b->id == 0;
}

static void enter(struct topology_store *t, struct join_wait *j, struct slice name)
{
    struct by_uuid by = {.uuid = j->node.uuid};
    struct topo_node node = {.name = name, .rack = SLICE_LIT(""), .level = EFFECT_LEVEL_MAX};

    topo_each_node(&t->state.v, match_uuid, &by);
    if (by.id != 0) {
        j->node.id = by.id;
        j->state = JOIN_ADDING;
        return;
    }
    memcpy(node.uuid, j->node.uuid, 16);
    j->proposal.done = entered;
    j->proposing = true;
    topo_cmd_node_enter(&j->proposal.command, &node, false);
    topology_propose(t, &j->proposal);
}

/* The address of a node whose disk was replaced: the old identity stays, fenced, until somebody removes it. */
static void warn_of_replaced(const struct raft_member *members, size_t n, const struct join_wait *j)
{
    for (size_t i = 0; i < n; i++) {
        if (members[i].node.id != j->node.id && slice_eq(members[i].address, slice_str(j->address)))
            diag_warn("a node joins with an empty disk at the address of another", "address=%s new_node=%u old_node=%u hint=\"the old one stays fenced until it is removed: gomsgctl cluster remove %u\"", j->address, j->node.id,
                      members[i].node.id, members[i].node.id);
    }
}

static void answer(struct topology_store *t, struct join_wait *j)
{
    struct buf b = {0};

    buf_put(&b, t->identity.cluster_id, 16);
    buf_put_be32(&b, j->node.id);
    buf_put_lslice(&b, raft_config(t->raft));
    reply(j, 0, buf_slice(&b));
    buf_fini(&b);
}

static void add(struct topology_store *t, struct join_wait *j)
{
    struct raft_event ev = {.type = RAFT_CHANGE, .change = RAFT_ADD_LEARNER};
    struct raft_member *members;
    struct raft_update up = {0};
    bool member = false;
    size_t n;
    int err;

    if (raft_config_decode(raft_config(t->raft), &members, &n) < 0)
        return;
    for (size_t i = 0; i < n; i++)
        member |= members[i].node.id == j->node.id && memcmp(members[i].node.uuid, j->node.uuid, 16) == 0;
    if (member) {
        j->index = raft_config_index(t->raft);
        j->state = JOIN_SETTLING;
        mem_free(members);
        return;
    }
    ev.member.node = j->node;
    ev.member.address = slice_str(j->address);
    err = host_step(t, &ev, &up);
    if (err == 0) {
        warn_of_replaced(members, n, j);
        diag_info("a node joins", "node=%u address=%s", j->node.id, j->address);
        j->index = up.first_index;
        j->state = JOIN_SETTLING;
        store_soon(t);
    } else if (err != ERR_BUSY && err != ERR_AGAIN) {
        reply(j, err, SLICE_LIT("the group could not take the node in"));
    }
    mem_free(members);
}

void join_turn(struct topology_store *t)
{
    uint64_t now = t->joins == NULL ? 0 : clock_mono_us();

    for (struct join_wait **at = &t->joins, *j; (j = *at) != NULL;) {
        if (j->request != NULL && now >= j->deadline_us)
            reply(j, ERR_AGAIN, SLICE_LIT("taking the node in takes longer; ask again"));
        if (j->request != NULL && j->state == JOIN_ADDING && t->failed == 0 && raft_role(t->raft) == RAFT_LEADER)
            add(t, j);
        if (j->request != NULL && j->state == JOIN_SETTLING && t->applied >= j->index)
            answer(t, j);
        if (j->request == NULL && !j->proposing) {
            *at = j->next;
            join_free(j);
            continue;
        }
        at = &j->next;
    }
}

void join_fail(struct topology_store *t, int err)
{
    for (struct join_wait *j = t->joins; j != NULL; j = j->next)
        reply(j, err, SLICE_LIT("the controller changed; ask again"));
}

void join_drop(struct topology_store *t)
{
    for (struct join_wait *j = t->joins, *next; j != NULL; j = next) {
        next = j->next;
        join_free(j);
    }
    t->joins = NULL;
}

/* ---- passing it on ---------------------------------------------------------------------------------------------------------- */

struct relay {
    struct bus_call call;
    struct bus *bus;
    struct bus_request *request;
};

static void relayed(struct bus_call *c, int err, struct slice payload)
{
    struct relay *r = CONTAINER_OF(c, struct relay, call);

    bus_reply(r->bus, r->request, err, payload);
    mem_free(r);
}

static void pass_on(struct topology_store *t, struct bus_request *request, struct slice payload)
{
    struct relay *r = mem_zalloc(sizeof(*r));

    r->call.worker = t->control;
    r->call.done = relayed;
    r->bus = t->o.bus;
    r->request = request;
    bus_call(t->o.bus, t->leader, BUS_JOIN, payload, JOIN_MS, &r->call);
}

/* Founders are entered first, so that their ids are those the group knows. */
static bool founded(struct topology_store *t)
{
    struct raft_member *members;
    bool all = t->leading && t->state.v.total_partitions != 0;
    size_t n;

    if (!all || raft_config_decode(raft_config(t->raft), &members, &n) < 0)
        return false;
    for (size_t i = 0; i < n; i++)
        all &= members[i].node.id < t->state.v.next_node_id;
    mem_free(members);
    return all;
}

void join_handle(void *arg, const struct bus_peer *from, struct bus_request *request, struct slice payload)
{
    struct topology_store *t = arg;
    struct reader in = reader_of(payload);
    const uint8_t *uuid = reader_take(&in, 16);
    struct slice address = reader_lslice(&in), name = reader_lslice(&in);
    uint32_t total = reader_be32(&in);
    struct join_wait *j;
    char text[160];

    (void)from;
    if (in.bad || address.len == 0 || address.len > RAFT_ADDRESS_MAX || name.len > 255) {
        bus_reply(t->o.bus, request, ERR_MALFORMED, SLICE_LIT("the request to join cannot be read"));
        return;
    }
    if (t->raft == NULL || t->failed < 0 || t->leader == 0) {
        bus_reply(t->o.bus, request, ERR_NO_LEADER, SLICE_LIT("the cluster has no controller at the moment"));
        return;
    }
    if (t->leader != t->identity.node_id) {
        pass_on(t, request, payload);
        return;
    }
    if (!founded(t)) {
        bus_reply(t->o.bus, request, ERR_AGAIN, SLICE_LIT("the cluster is being formed"));
        return;
    }
    if (total != t->state.v.total_partitions) {
        snprintf(text, sizeof(text), "the cluster has cluster.total_partitions %u, the node %u: set it to %u there", t->state.v.total_partitions, total, t->state.v.total_partitions);
        bus_reply(t->o.bus, request, ERR_MISMATCH, slice_str(text));
        return;
    }
    j = mem_zalloc(sizeof(*j));
    j->store = t;
    j->request = request;
    memcpy(j->node.uuid, uuid, 16);
    j->address = mem_strdup_slice(address);
    j->deadline_us = clock_mono_us() + JOIN_MS * 1000ull - 500000;
    j->next = t->joins;
    t->joins = j;
    enter(t, j, name);
    store_soon(t);
}
