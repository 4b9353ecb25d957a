/* Three stores in one process, each with its own workers and bus, over loopback: what the integration tests do with processes, here under a debugger's and a sanitizer's eyes. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "cluster/bus/bus.h"
#include "cluster/topology/commands.h"
#include "cluster/topology/identity.h"
#include "cluster/topology/private.h"
#include "log/effect.h"

enum { NODES = 3, PATIENCE_MS = 20000 };

struct node {
    char dir[64];
    struct workers *workers;
    struct bus *bus;
    struct topology_store *topology;
    _Atomic unsigned deleted, published;
};

static char root[32], addresses[NODES + 1][32];
static const char *seeds[NODES];
static struct node nodes[NODES + 1];

static void nap(void)
{
    struct timespec t = {0, 2000000};

    nanosleep(&t, NULL);
}

#define eventually(condition)                                                                                \
    do {                                                                                                     \
        uint64_t until_ = clock_mono_us() + PATIENCE_MS * 1000ull;                                           \
        while (!(condition)) {                                                                               \
            cr_assert_lt(clock_mono_us(), until_, "never: %s", #condition);                                  \
            nap();                                                                                           \
        }                                                                                                    \
    } while (0)

static void changed(void *arg, const struct topology_change *c)
{
    struct node *n = arg;

    if (c->kind == TOPO_QUEUE_DELETED)
        n->deleted++;
}

static void published(void *arg)
{
    ((struct node *)arg)->published++;
}

static void node_open(unsigned i)
{
    struct node *n = &nodes[i];
    struct workers_options wo = {.count = 1, .extra = 2};
    struct bus_options bo = {.listen = addresses[i], .secret = "s", .total_partitions = 8, .level_min = 1, .level_max = EFFECT_LEVEL_MAX};
    struct topology_options to = {.data_dir = n->dir, .node_name = addresses[i], .total_partitions = 8, .seeds = seeds, .seed_count = NODES, .listen = addresses[i],
                                  .changed = changed, .changed_arg = n, .published = published, .arg = n};
    struct identity id;
    char why[400] = "";

    cr_assert_eq(workers_new(&wo, &n->workers), 0);
    cr_assert_eq(identity_open(n->dir, &id, why, sizeof(why)), 0, "%s", why);
    memcpy(bo.node_uuid, id.node_uuid, 16);
    bo.workers = to.workers = n->workers;
    bo.control = to.control = workers_extra(n->workers, 0);
    bo.data = workers_extra(n->workers, 1);
    cr_assert_eq(bus_open(&bo, &n->bus), 0);
    to.bus = n->bus;
    cr_assert_eq(topology_open(&to, why, sizeof(why), &n->topology), 0, "%s", why);
    cr_assert_eq(workers_start(n->workers), 0);
    bus_start(n->bus);
    cr_assert_eq(topology_start(n->topology), 0);
}

static void node_close(unsigned i)
{
    struct node *n = &nodes[i];

    if (n->topology == NULL)
        return;
    topology_leave(n->topology);
    bus_close(n->bus);
    workers_stop(n->workers);
    topology_close(n->topology);
    workers_free(n->workers);
    n->topology = NULL;
}

/* Ports that were free a moment ago. */
static void pick_addresses(void)
{
    struct workers_options wo = {.count = 1, .extra = 2};
    struct workers *w;
    struct bus *b[NODES + 1];

    cr_assert_eq(workers_new(&wo, &w), 0);
    for (unsigned i = 0; i <= NODES; i++) {
        struct bus_options bo = {.workers = w, .control = workers_extra(w, 0), .data = workers_extra(w, 1), .listen = "127.0.0.1:0", .secret = "", .total_partitions = 8, .level_min = 1, .level_max = EFFECT_LEVEL_MAX};

        bo.node_uuid[0] = (uint8_t)(i + 1);
        cr_assert_eq(bus_open(&bo, &b[i]), 0);
        snprintf(addresses[i], sizeof(addresses[i]), "127.0.0.1:%u", bus_port(b[i]));
    }
    cr_assert_eq(workers_start(w), 0);
    for (unsigned i = 0; i <= NODES; i++)
        bus_close(b[i]);
    workers_stop(w);
    workers_free(w);
}

static void setup(void)
{
    strcpy(root, "/tmp/gomsg-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(root));
    pick_addresses();
    for (unsigned i = 0; i <= NODES; i++) {
        nodes[i] = (struct node){0};
        snprintf(nodes[i].dir, sizeof(nodes[i].dir), "%s/n%u", root, i);
        if (i < NODES)
            seeds[i] = addresses[i];
    }
}

static void teardown(void)
{
    for (unsigned i = 0; i <= NODES; i++)
        node_close(i);
    file_remove_tree(root);
}

static struct topology_group group(unsigned i)
{
    struct topology_group g;

    topology_group_get(nodes[i].topology, &g);
    return g;
}

static bool is_member(unsigned i)
{
    return group(i).phase == TOPOLOGY_MEMBER;
}

static void form(void)
{
    for (unsigned i = 0; i < NODES; i++)
        node_open(i);
    for (unsigned i = 0; i < NODES; i++)
        eventually(is_member(i));
}

static int declare(unsigned i, const char *name, uint64_t *ret_id)
{
    struct topology_proposal p = {0};
    int err;

    topo_cmd_queue_declare(&p.command, slice_str("/"), slice_str(name), true, false, false, 0, 0, SLICE_NONE);
    err = topology_propose_wait(nodes[i].topology, &p);
    *ret_id = p.id;
    buf_fini(&p.command);
    return err;
}

static bool knows(unsigned i, uint64_t id)
{
    bool yes = topo_queue_by_id(topology_pin(nodes[i].topology), id) != NULL;

    topology_unpin(nodes[i].topology);
    return yes;
}

static uint64_t queue_count(unsigned i)
{
    uint64_t n = topology_pin(nodes[i].topology)->queues.count;

    topology_unpin(nodes[i].topology);
    return n;
}

static unsigned leader(void)
{
    for (;;) {
        for (unsigned i = 0; i < NODES; i++) {
            if (nodes[i].topology != NULL && topology_is_leading(nodes[i].topology))
                return i;
        }
        nap();
    }
}

Test(group, three_form_one_cluster_and_whoever_proposes_sees_its_own_change, .init = setup, .fini = teardown)
{
    uint8_t first[16], other[16];
    uint64_t id;
    char name[16];

    form();
    topology_cluster_id(nodes[0].topology, first);
    for (unsigned i = 0; i < NODES; i++) {
        topology_cluster_id(nodes[i].topology, other);
        cr_assert_arr_eq(first, other, 16);
        cr_assert_eq(topology_node_id(nodes[i].topology), i + 1, "in the order of the seeds");
        snprintf(name, sizeof(name), "q%u", i);
        cr_assert_eq(declare(i, name, &id), 0);
        cr_assert(knows(i, id), "answered, so it is in this node's view");
        for (unsigned k = 0; k < NODES; k++)
            eventually(knows(k, id));
    }
}

static void activate(unsigned i)
{
    struct topology_proposal p = {0};

    topo_cmd_node_state(&p.command, topology_node_id(nodes[i].topology), topology_node_epoch(nodes[i].topology), TOPO_NODE_ACTIVE, false);
    cr_assert_eq(topology_propose_wait(nodes[0].topology, &p), 0);
    buf_fini(&p.command);
}

/* The last guard against two processes with one identity: the bus refuses the older one where it can. */
Test(group, a_node_whose_identity_is_registered_again_leaves_and_says_why, .init = setup, .fini = teardown)
{
    struct topology_proposal p = {0};
    unsigned victim, other;
    const struct topo_node *n;

    form();
    victim = (leader() + 1) % NODES;
    other = (victim + 1) % NODES;
    n = topo_node_find(topology_pin(nodes[other].topology), topology_node_id(nodes[victim].topology));
    cr_assert_not_null(n);
    topo_cmd_node_enter(&p.command, n, false);
    topology_unpin(nodes[other].topology);
    cr_assert_eq(topology_propose_wait(nodes[other].topology, &p), 0);
    buf_fini(&p.command);
    eventually(group(victim).phase == TOPOLOGY_FAILED);
    cr_assert_not_null(strstr(group(victim).text, "registered again by another process"), "%s", group(victim).text);
    cr_assert(is_member(other));
}

Test(group, an_answer_means_that_every_unfenced_node_has_it, .init = setup, .fini = teardown)
{
    uint64_t id;
    char name[16];

    form();
    for (unsigned i = 0; i < NODES; i++)
        activate(i);
    for (unsigned round = 0; round < 60; round++) {
        snprintf(name, sizeof(name), "q%u", round);
        cr_assert_eq(declare(round % NODES, name, &id), 0);
        for (unsigned k = 0; k < NODES; k++)
            cr_assert(knows(k, id), "rule 17: node %u in round %u", k, round);
    }
}

struct proposer {
    unsigned node, from;
    _Atomic bool *stop;
    unsigned declared;
    pthread_t thread;
};

static void *propose_on(void *arg)
{
    struct proposer *p = arg;
    uint64_t id;
    char name[32];

    while (!*p->stop) {
        snprintf(name, sizeof(name), "p%u-%u", p->from, p->declared);
        /* Declaring is repeated until it is known to be done. */
        while (declare(p->node, name, &id) != 0)
            nap();
        cr_assert(knows(p->node, id));
        p->declared++;
    }
    return NULL;
}

Test(group, proposals_go_on_exactly_once_while_leaders_change, .init = setup, .fini = teardown)
{
    struct proposer p[NODES];
    _Atomic bool stop = false;
    uint64_t sum = 0;

    form();
    for (unsigned i = 0; i < NODES; i++) {
        p[i] = (struct proposer){.node = i, .from = i, .stop = &stop};
        cr_assert_eq(pthread_create(&p[i].thread, NULL, propose_on, &p[i]), 0);
    }
    for (unsigned round = 0; round < 4; round++) {
        unsigned l = leader();
        uint64_t until = clock_mono_us() + 250000;

        while (clock_mono_us() < until)
            nap();
        topology_give_up_leading(nodes[l].topology, 2000);
    }
    stop = true;
    for (unsigned i = 0; i < NODES; i++) {
        pthread_join(p[i].thread, NULL);
        sum += p[i].declared;
    }
    cr_assert_gt(sum, 0);
    for (unsigned i = 0; i < NODES; i++)
        eventually(queue_count(i) == sum);
}

static int declare_in_term(unsigned i, const char *name, uint64_t term)
{
    struct topology_proposal p = {.only_term = term};
    int err;

    topo_cmd_vhost_add(&p.command, slice_str(name));
    err = topology_propose_wait(nodes[i].topology, &p);
    buf_fini(&p.command);
    return err;
}

/* A controller that was frozen wakes up with decisions of its own time: its successor must not act them out. */
Test(group, what_is_bound_to_a_term_is_not_done_in_another_or_by_another_leader, .init = setup, .fini = teardown)
{
    uint64_t term;
    unsigned l;

    form();
    do { /* until the term held still meanwhile */
        l = leader();
        term = topology_term(nodes[l].topology);
        cr_assert_eq(declare_in_term((l + 1) % NODES, "by-a-follower", term), ERR_NOT_LEADER);
        cr_assert_eq(declare_in_term(l, "in-a-former-term", term - 1), ERR_NOT_LEADER);
        cr_assert_eq(declare_in_term(l, "in-a-later-term", term + 1000), ERR_NOT_LEADER);
    } while (declare_in_term(l, "now", term) == ERR_NOT_LEADER);
    for (unsigned i = 0; i < NODES; i++) {
        const struct topology *v = topology_pin(nodes[i].topology);

        cr_assert_null(topo_vhost_find(v, SLICE_LIT("by-a-follower")));
        cr_assert_null(topo_vhost_find(v, SLICE_LIT("in-a-former-term")));
        cr_assert_null(topo_vhost_find(v, SLICE_LIT("in-a-later-term")));
        topology_unpin(nodes[i].topology);
    }
}

/* The proposer's connections end and are made anew: what was under way is lost, or has arrived. */
static void cut_connections(struct worker *w, void *arg)
{
    struct topology_store *t = arg;

    (void)w;
    store_turn(t); /* what was proposed lies in the connections' buffers now, or is on its way */
    bus_set_targets(t->o.bus, NULL, 0);
    host_set_targets(t);
}

enum { LOST_AT_ONCE = 8, LOST_ROUNDS = 60 };

struct lost {
    struct topology_proposal p;
    _Atomic bool done;
};

static void lost_done(struct topology_proposal *p)
{
    CONTAINER_OF(p, struct lost, p)->done = true;
}

Test(group, a_forwarded_proposal_that_is_lost_within_a_term_is_asked_for_again_and_done_once, .init = setup, .fini = teardown)
{
    struct lost lost[LOST_AT_ONCE];
    uint64_t term, slowest = 0;
    unsigned l, from;

    form();
    l = leader();
    from = (l + 1) % NODES;
    term = topology_term(nodes[l].topology);
    for (unsigned round = 0; round < LOST_ROUNDS; round++) {
        uint64_t begun = clock_mono_us(), pause = (round % 6) * 40;
        char name[32];

        memset(lost, 0, sizeof(lost));
        for (unsigned i = 0; i < LOST_AT_ONCE; i++) {
            snprintf(name, sizeof(name), "v%u-%u", round, i);
            topo_cmd_vhost_add(&lost[i].p.command, slice_str(name));
            lost[i].p.done = lost_done;
            topology_propose(nodes[from].topology, &lost[i].p);
        }
        while (clock_mono_us() < begun + pause)
            ;
        worker_run(workers_extra(nodes[from].workers, 0), cut_connections, nodes[from].topology);
        for (unsigned i = 0; i < LOST_AT_ONCE; i++) {
            eventually(lost[i].done);
            cr_assert_eq(lost[i].p.err, 0, "round %u: %s", round, err_text(lost[i].p.err)); /* a second one would exist already */
            buf_fini(&lost[i].p.command);
        }
        slowest = MAX_OF(slowest, clock_mono_us() - begun);
    }
    fprintf(stderr, "slowest round %llu ms\n", (unsigned long long)slowest / 1000);
    if (topology_term(nodes[l].topology) == term) /* no election helped */
        cr_assert_lt(slowest, TOPOLOGY_PROPOSE_MS * 1000ull);
}

Test(group, a_restarted_node_catches_up_and_a_late_one_joins, .init = setup, .fini = teardown)
{
    uint64_t id;

    form();
    node_close(2);
    cr_assert_eq(declare(0, "while-away", &id), 0);
    node_open(2);
    eventually(is_member(2));
    cr_assert(knows(2, id));
    node_open(3);
    eventually(is_member(3));
    cr_assert(knows(3, id));
    cr_assert_eq(topology_node_id(nodes[3].topology), 4);
    cr_assert_eq(group(3).count, 4);
}

Test(group, without_a_majority_a_proposal_ends_in_bounded_time, .init = setup, .fini = teardown)
{
    uint64_t id;
    int err;

    form();
    node_close(1);
    node_close(2);
    err = declare(0, "lost", &id);
    cr_assert(err == ERR_NO_LEADER || err == ERR_TIMEOUT, "%s", err_name(err));
    node_open(1);
    eventually(is_member(1));
    while (declare(0, "found", &id) != 0)
        nap();
}

Test(group, a_node_far_behind_is_sent_a_snapshot, .init = setup, .fini = teardown)
{
    static char args[64 << 10];
    struct topology_proposal p = {0};
    uint64_t doomed, id;
    char name[32];

    form();
    cr_assert_eq(declare(0, "doomed", &doomed), 0);
    eventually(knows(2, doomed));
    node_close(2);
    topo_cmd_queue_delete(&p.command, doomed);
    cr_assert_eq(topology_propose_wait(nodes[0].topology, &p), 0);
    buf_fini(&p.command);
    memset(args, 'x', sizeof(args));
    /* Twice what a log may hold before it is replaced by a snapshot, and more than is kept behind one. */
    for (unsigned i = 0; i < 200; i++) {
        p = (struct topology_proposal){0};
        topo_cmd_config_put(&p.command, slice_str("big"), slice_of(args, sizeof(args)));
        cr_assert_eq(topology_propose_wait(nodes[i % 2].topology, &p), 0);
        buf_fini(&p.command);
    }
    snprintf(name, sizeof(name), "after");
    cr_assert_eq(declare(0, name, &id), 0);
    node_open(2);
    eventually(is_member(2));
    cr_assert(knows(2, id));
    cr_assert(!knows(2, doomed));
    eventually(nodes[0].deleted == 1 && nodes[1].deleted == 1);
}
