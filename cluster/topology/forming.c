/* An empty node: asks its seeds who they are, forms a cluster with them or joins the one they belong to (rule 22). form_plan.c decides; here is what it decides from and what follows.
 *
 * FORM_PROBE    request  uuid, be32 total_partitions, uvarint n, n x lslice seed
 *               answer   uuid, u8 flags (1 member, 2 promised), cluster id, be32 total_partitions, lslice founders, uvarint n, n x lslice seed
 * FORM_COMMIT   request  cluster id, be32 total_partitions, lslice founders. Answer: empty, once it is on disk
 *
 * Founding. One node, the one with the lowest uuid, draws the cluster id. Every founder persists cluster id and founders (as the first entry of its Raft log) before it takes part, so a group can exist only of those that did.
 * A founder that missed FORM_COMMIT learns of it from a probe: a member that still has the founding configuration tells it. A uuid is made with the disk, so one that stands among the founders of a group and has an empty log has never
 * acted in it, and may begin from the founding list.
 *
 *     node.id: formed no                        empty
 *     node.id: formed no, node_id and cluster   promised: FORM_COMMIT arrived; only that cluster counts from now on
 *     raft/: the founders' configuration        counts
 *     node.id: formed yes                       member
 *
 * The seeds' addresses are asked one by one, this node's own among them: that is how it finds out which one it is. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/address.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/private.h"

enum {
    PROBE_EVERY_MS = 100,
    PROBE_TIMEOUT_MS = 1000,
    COMMIT_TIMEOUT_MS = 2000,
    JOIN_TIMEOUT_MS = 6000,
    STALE_US = 3000000, /* an answer counts for so long */
    SAY_US = 10000000,
    FIRST_SAY_US = 500000,
    SETTLE_US = 500000,
    SEEDS_MAX = 64,
};

enum { PROBE_MEMBER = 1, PROBE_PROMISED = 2 };

struct form_call {
    struct bus_call call;
    struct topology_store *store;
    unsigned seed;
    bool under_way;
    uint64_t answered_us;
    struct buf founders; /* of a member: the founding configuration, if it still has it */
};

struct form_word {
    const char *const *without;
    unsigned count;
    char *why;
    size_t why_size;
    int err; /* 1: not looked at yet */
};

static const uint8_t no_cluster[16];

static bool is_promised(const struct topology_store *t)
{
    return t->identity.node_id != 0 && memcmp(t->identity.cluster_id, no_cluster, 16) != 0;
}

/* ---- answering probes -------------------------------------------------------------------------------------------------- */

static void put_seeds(struct topology_store *t, struct buf *b)
{
    buf_put_uvarint(b, t->o.seed_count);
    for (unsigned i = 0; i < t->o.seed_count; i++)
        buf_put_lslice(b, slice_str(t->o.seeds[i]));
}

static bool same_seeds(struct topology_store *t, struct reader *r)
{
    uint64_t n = reader_uvarint(r);
    unsigned found = 0;

    if (r->bad || n > SEEDS_MAX)
        return false;
    for (uint64_t i = 0; i < n; i++) {
        struct slice s = reader_lslice(r);

        for (unsigned k = 0; k < t->o.seed_count; k++)
            found += slice_eq(s, slice_str(t->o.seeds[k]));
    }
    return !r->bad && n == t->o.seed_count && found == n;
}

void forming_handle_probe(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct topology_store *t = arg;
    struct buf b = {0};
    bool member = t->raft != NULL;

    (void)from, (void)payload;
    buf_put(&b, t->identity.node_uuid, 16);
    buf_put_u8(&b, (uint8_t)((member ? PROBE_MEMBER : 0) | (is_promised(t) ? PROBE_PROMISED : 0)));
    buf_put(&b, t->identity.cluster_id, 16);
    buf_put_be32(&b, t->o.total_partitions);
    /* Only while nothing but the founding has ever changed the group. */
    buf_put_lslice(&b, member && raft_config_index(t->raft) == 1 ? raft_config(t->raft) : SLICE_LIT(""));
    put_seeds(t, &b);
    bus_reply(t->o.bus, r, 0, buf_slice(&b));
    buf_fini(&b);
}

/* ---- probing ------------------------------------------------------------------------------------------------------------- */

/* Whether this node is among those founders. */
static uint32_t founder_id(struct topology_store *t, const struct raft_member *members, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (memcmp(members[i].node.uuid, t->identity.node_uuid, 16) == 0)
            return members[i].node.id;
    }
    return 0;
}

static void take_answer(struct topology_store *t, struct form_call *c, struct slice payload)
{
    struct form_seed *s = &t->form_seeds[c->seed];
    struct reader in = reader_of(payload);
    const uint8_t *uuid = reader_take(&in, 16);
    uint8_t flags = reader_u8(&in);
    const uint8_t *cluster = reader_take(&in, 16);
    uint32_t total = reader_be32(&in);
    struct slice founders = reader_lslice(&in);
    bool same = same_seeds(t, &in);
    struct raft_member *members;
    size_t n;

    if (in.bad) {
        snprintf(s->problem, sizeof(s->problem), "what it answers cannot be read; does it run this version?");
        return;
    }
    s->answered = true;
    memcpy(s->uuid, uuid, 16);
    s->member = flags & PROBE_MEMBER;
    s->promised = flags & PROBE_PROMISED;
    memcpy(s->cluster_id, cluster, 16);
    s->total_partitions = total;
    s->same_list = same;
    s->founding = false;
    buf_clear(&c->founders);
    if (founders.len != 0 && raft_config_decode(founders, &members, &n) == 0) {
        s->founding = founder_id(t, members, n) != 0;
        buf_put_slice(&c->founders, founders);
        mem_free(members);
    }
    c->answered_us = clock_mono_us();
    if (memcmp(uuid, t->identity.node_uuid, 16) == 0)
        snprintf(t->own_address, sizeof(t->own_address), "%s", s->address);
}

static void decide(struct topology_store *t);

static void probe_done(struct bus_call *call, int err, struct slice payload)
{
    struct form_call *c = CONTAINER_OF(call, struct form_call, call);
    struct topology_store *t = c->store;

    c->under_way = false;
    if (!t->forming)
        return;
    if (err == 0)
        take_answer(t, c, payload);
    decide(t);
}

static void find_problems(struct topology_store *t, uint64_t now_us)
{
    struct bus_peer_info peers[SEEDS_MAX];
    unsigned n = MIN_OF(bus_peers(t->o.bus, peers, SEEDS_MAX), (unsigned)SEEDS_MAX);

    for (unsigned i = 0; i < t->o.seed_count; i++) {
        struct form_seed *s = &t->form_seeds[i];

        if (s->answered && now_us - t->form_calls[i].answered_us > STALE_US)
            s->answered = false;
        s->problem[0] = '\0';
        for (unsigned k = 0; k < n && !s->answered; k++) {
            if (strcmp(peers[k].address, s->address) == 0)
                snprintf(s->problem, sizeof(s->problem), "%s", peers[k].refused);
        }
    }
}

static void probe(struct topology_store *t)
{
    struct buf b = {0};

    buf_put(&b, t->identity.node_uuid, 16);
    buf_put_be32(&b, t->o.total_partitions);
    put_seeds(t, &b);
    for (unsigned i = 0; i < t->o.seed_count; i++) {
        struct form_call *c = &t->form_calls[i];

        if (c->under_way)
            continue;
        c->under_way = true;
        c->call.worker = t->control;
        c->call.done = probe_done;
        bus_call_to(t->o.bus, t->o.seeds[i], BUS_FORM_PROBE, buf_slice(&b), PROBE_TIMEOUT_MS, &c->call);
    }
    buf_fini(&b);
}

/* ---- founding -------------------------------------------------------------------------------------------------------------- */

static void end_forming(struct topology_store *t)
{
    t->forming = false;
    io_timer_stop(t->control, &t->form_timer);
    host_begin(t);
    host_set_targets(t);
    store_soon(t);
}

static int become_formed(struct topology_store *t)
{
    t->identity.formed = true;
    return identity_save(t->o.data_dir, &t->identity);
}

int forming_adopt(struct topology_store *t, const uint8_t cluster_id[16], const struct raft_member *members, size_t n)
{
    uint32_t id = founder_id(t, members, n);
    int err;

    if (id == 0)
        return ERR_INVALID;
    memcpy(t->identity.cluster_id, cluster_id, 16);
    t->identity.node_id = id;
    err = identity_save(t->o.data_dir, &t->identity);
    if (err == 0 && !raft_has_config(&t->recovered))
        err = raft_store_form(t->disk, members, n, &t->recovered);
    if (err == 0)
        err = become_formed(t);
    if (err < 0) {
        host_fail(t, err, "the founding of the cluster cannot be written to the data directory");
        return err;
    }
    diag_info("a cluster is founded", "node=%u of=%zu%s", id, n, n == 2 ? " hint=\"two nodes survive the loss of neither; three survive the loss of one\"" : "");
    end_forming(t);
    return 0;
}

struct commit_call {
    struct bus_call call;
    char *address; /* owned */
};

static void commit_done(struct bus_call *call, int err, struct slice payload)
{
    struct commit_call *c = CONTAINER_OF(call, struct commit_call, call);

    if (err < 0) /* it learns of it when it asks */
        diag_warn("a founder has not confirmed the founding yet", "address=%s err=\"%s\" text=\"%.*s\"", c->address, err_text(err), (int)payload.len, (const char *)payload.data);
    mem_free(c->address);
    mem_free(c);
}

static void tell_founders(struct topology_store *t, const struct raft_member *members, size_t n)
{
    struct buf b = {0}, config = {0};

    raft_config_encode(members, n, &config);
    buf_put(&b, t->identity.cluster_id, 16);
    buf_put_be32(&b, t->o.total_partitions);
    buf_put_lslice(&b, buf_slice(&config));
    for (size_t i = 0; i < n; i++) {
        struct commit_call *c;

        if (memcmp(members[i].node.uuid, t->identity.node_uuid, 16) == 0)
            continue;
        c = mem_zalloc(sizeof(*c));
        c->address = mem_strdup_slice(members[i].address);
        c->call.worker = t->control;
        c->call.done = commit_done;
        bus_call_to(t->o.bus, c->address, BUS_FORM_COMMIT, buf_slice(&b), COMMIT_TIMEOUT_MS, &c->call);
    }
    buf_fini(&config);
    buf_fini(&b);
}

/* Ids from 1 in the order of the list, so that people find them where they expect them. */
static void found(struct topology_store *t, const struct form_view *v)
{
    struct raft_member members[SEEDS_MAX] = {0};
    uint8_t cluster_id[16];
    size_t n = 0;

    for (unsigned i = 0; i < v->count; i++) {
        if (!form_counts(v, i))
            continue;
        members[n].node.id = (uint32_t)n + 1;
        memcpy(members[n].node.uuid, v->seeds[i].uuid, 16);
        members[n].address = slice_str(v->seeds[i].address);
        members[n].voter = n < 5;
        n++;
    }
    for (size_t i = 0; i < n; i++)
        members[i].voter = i < (n >= 5 ? 5u : 3u);
    rand_secure(cluster_id, sizeof(cluster_id));
    if (forming_adopt(t, cluster_id, members, n) == 0)
        tell_founders(t, members, n);
}

void forming_handle_commit(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct topology_store *t = arg;
    struct reader in = reader_of(payload);
    const uint8_t *cluster = reader_take(&in, 16);
    uint32_t total = reader_be32(&in);
    struct slice config = reader_lslice(&in);
    struct raft_member *members = NULL;
    size_t n = 0;
    int err = 0;

    if (in.bad || raft_config_decode(config, &members, &n) < 0) {
        bus_reply(t->o.bus, r, ERR_MALFORMED, SLICE_LIT("the founding cannot be read"));
        return;
    }
    if ((t->raft != NULL || is_promised(t)) && memcmp(cluster, t->identity.cluster_id, 16) != 0)
        err = ERR_FOREIGN;
    else if (total != t->o.total_partitions)
        err = ERR_MISMATCH;
    else if (t->raft == NULL && t->failed < 0)
        err = t->failed;
    else if (t->raft == NULL)
        err = forming_adopt(t, cluster, members, n);
    if (err == ERR_FOREIGN)
        diag_warn("a founding of another cluster was refused", "from=%s", from->address);
    bus_reply(t->o.bus, r, err, err == 0 ? SLICE_NONE : slice_str(err_text(err)));
    mem_free(members);
}

/* ---- joining ---------------------------------------------------------------------------------------------------------------- */

static void say(struct topology_store *t, const char *text)
{
    uint64_t now = clock_mono_us();
    bool same = t->phase == TOPOLOGY_FORMING && strcmp(t->form_said, text) == 0;

    store_set_phase(t, TOPOLOGY_FORMING, "%s", text);
    if (now - t->form_said_us < (same || t->form_said[0] == '\0' ? SAY_US : FIRST_SAY_US))
        return;
    t->form_said_us = now;
    snprintf(t->form_said, sizeof(t->form_said), "%s", text);
    diag_info("this node is in no cluster yet", "state=\"%s\"", text);
}

/* The address by which this machine reaches a seed, which is the one it is reached by where nobody translates addresses: of a connected datagram socket, over which nothing is sent. Only of seeds written as numbers, since
 * names would have to be asked for. */
static bool address_towards(struct topology_store *t, const char *seed)
{
    char host[300], port[8], text[INET6_ADDRSTRLEN];
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_DGRAM}, *to = NULL;
    struct sockaddr_storage local;
    socklen_t size = sizeof(local);
    struct address a;
    bool found = false;
    int fd = -1;

    if (address_parse(seed, &a) < 0 || a.is_unix)
        return false;
    snprintf(host, sizeof(host), "%s", a.host);
    snprintf(port, sizeof(port), "%u", a.port);
    if (getaddrinfo(host, port, &hints, &to) != 0)
        return false;
    fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, to->ai_addr, to->ai_addrlen) == 0 && getsockname(fd, (struct sockaddr *)&local, &size) == 0 &&
        getnameinfo((struct sockaddr *)&local, size, text, sizeof(text), NULL, 0, NI_NUMERICHOST) == 0) {
        snprintf(t->own_address, sizeof(t->own_address), strchr(text, ':') != NULL ? "[%s]:%u" : "%s:%u", text, bus_port(t->o.bus));
        found = true;
    }
    if (fd >= 0)
        close(fd);
    freeaddrinfo(to);
    return found;
}

static void joined(struct bus_call *call, int err, struct slice payload)
{
    struct topology_store *t = CONTAINER_OF(call, struct topology_store, join_call);
    struct reader in = reader_of(payload);
    const uint8_t *cluster;
    uint32_t id;

    t->joining = false;
    if (!t->forming)
        return;
    if (err < 0) {
        store_set_phase(t, TOPOLOGY_FORMING, "joining is not possible yet: %.*s", (int)MIN_OF(payload.len, (size_t)300), payload.len == 0 ? err_text(err) : (const char *)payload.data);
        return;
    }
    cluster = reader_take(&in, 16);
    id = reader_be32(&in);
    buf_clear(&t->join_members);
    buf_put_slice(&t->join_members, reader_lslice(&in));
    if (in.bad || id == 0)
        return;
    memcpy(t->identity.cluster_id, cluster, 16);
    t->identity.node_id = id;
    err = become_formed(t);
    if (err < 0) {
        host_fail(t, err, "the cluster's identity cannot be written to the data directory");
        return;
    }
    diag_info("taken into a cluster", "node=%u", id);
    end_forming(t);
}

static void join(struct topology_store *t, unsigned seed)
{
    const char *own = t->o.address != NULL ? t->o.address : t->own_address[0] != '\0' ? t->own_address : t->o.listen;
    struct buf b = {0};

    if (t->joining)
        return;
    if (own == NULL && address_towards(t, t->o.seeds[seed]))
        own = t->own_address;
    if (own == NULL) {
        say(t, "this node is none of cluster.seeds and listens on every interface: set cluster.advertise to the address the others reach it by");
        return;
    }
    store_set_phase(t, TOPOLOGY_FORMING, "joining the cluster of %s", t->o.seeds[seed]);
    t->joining = true;
    buf_put(&b, t->identity.node_uuid, 16);
    buf_put_lslice(&b, slice_str(own));
    buf_put_lslice(&b, slice_str(t->o.node_name));
    buf_put_be32(&b, t->o.total_partitions);
    t->join_call.worker = t->control;
    t->join_call.done = joined;
    bus_call_to(t->o.bus, t->o.seeds[seed], BUS_JOIN, buf_slice(&b), JOIN_TIMEOUT_MS, &t->join_call);
    buf_fini(&b);
}

/* ---- deciding ------------------------------------------------------------------------------------------------------------- */

static void adopt_from(struct topology_store *t, unsigned seed)
{
    struct raft_member *members;
    uint8_t cluster[16];
    size_t n;

    if (raft_config_decode(buf_slice(&t->form_calls[seed].founders), &members, &n) < 0)
        return;
    memcpy(cluster, t->form_seeds[seed].cluster_id, 16);
    forming_adopt(t, cluster, members, n);
    mem_free(members);
}

static pthread_mutex_t word_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t word_cond = PTHREAD_COND_INITIALIZER;

static void answer_word(struct form_word *w, int err, const char *text)
{
    CHECK(pthread_mutex_lock(&word_lock) == 0);
    snprintf(w->why, w->why_size, "%s", text);
    w->err = err;
    CHECK(pthread_cond_broadcast(&word_cond) == 0);
    CHECK(pthread_mutex_unlock(&word_lock) == 0);
}

static void decide(struct topology_store *t)
{
    struct form_view v = {.promised = is_promised(t), .total_partitions = t->o.total_partitions, .seeds = t->form_seeds, .count = t->o.seed_count};
    enum form_action action;
    struct form_word *word;
    char text[sizeof(t->phase_text)];
    unsigned seed = 0;

    v.settled = clock_mono_us() - t->form_begun_us >= SETTLE_US;
    find_problems(t, clock_mono_us());
    memcpy(v.own_uuid, t->identity.node_uuid, 16);
    memcpy(v.cluster_id, t->identity.cluster_id, 16);
    mutex_lock(&t->lock);
    word = t->form_word;
    t->form_word = NULL;
    mutex_unlock(&t->lock);
    if (word != NULL) {
        v.now = true;
        v.without = word->without;
        v.without_count = word->count;
    }
    action = form_decide(&v, &seed, text, sizeof(text));
    switch (action) {
    case FORM_FOUND:
        found(t, &v);
        break;
    case FORM_ADOPT:
        adopt_from(t, seed);
        break;
    case FORM_JOIN:
        join(t, seed);
        break;
    case FORM_WAIT:
    case FORM_REFUSED:
        say(t, text);
        break;
    }
    if (word == NULL)
        return;
    /* Last: what it points to is the administrator's again. */
    if (action == FORM_JOIN || action == FORM_ADOPT)
        answer_word(word, ERR_EXISTS, "a seed belongs to a cluster; this node joins it");
    else
        answer_word(word, action == FORM_FOUND ? t->failed : ERR_AGAIN, text);
}

static void probe_again(struct worker *w, struct io_timer *timer)
{
    struct topology_store *t = CONTAINER_OF(timer, struct topology_store, form_timer);

    (void)w;
    if (!t->forming)
        return;
    if (t->form_said_us == 0)
        t->form_said_us = clock_mono_us() - SAY_US + FIRST_SAY_US; /* whoever is there is given the time to answer */
    else
        decide(t);
    if (t->forming)
        probe(t);
}

int topology_form_without(struct topology_store *t, const char *const *without, unsigned n, char *why, size_t why_size)
{
    struct form_word word = {without, n, why, why_size, 1};

    CHECK(worker_current() == NULL);
    why[0] = '\0';
    if (t->o.bus == NULL) {
        snprintf(why, why_size, "cluster.seeds is empty: this node runs alone");
        return ERR_INVALID;
    }
    for (unsigned i = 0; i < n; i++) {
        bool known = false;

        for (unsigned k = 0; k < t->o.seed_count; k++)
            known |= strcmp(without[i], t->o.seeds[k]) == 0;
        if (!known) {
            snprintf(why, why_size, "%s is not in cluster.seeds", without[i]);
            return ERR_INVALID;
        }
    }
    mutex_lock(&t->lock);
    if (t->group.phase != TOPOLOGY_FORMING || t->form_word != NULL) {
        snprintf(why, why_size, t->form_word != NULL ? "the same is asked already" : "this node belongs to a cluster already");
        mutex_unlock(&t->lock);
        return ERR_EXISTS;
    }
    t->form_word = &word;
    mutex_unlock(&t->lock);
    CHECK(pthread_mutex_lock(&word_lock) == 0);
    while (word.err == 1) {
        struct timespec at;

        clock_gettime(CLOCK_REALTIME, &at);
        at.tv_sec += 1;
        if (pthread_cond_timedwait(&word_cond, &word_lock, &at) == 0 || word.err != 1)
            continue;
        CHECK(pthread_mutex_unlock(&word_lock) == 0);
        mutex_lock(&t->lock);
        if (t->form_word == &word) { /* it became a member meanwhile */
            t->form_word = NULL;
            word.err = ERR_EXISTS;
            snprintf(why, why_size, "this node belongs to a cluster already");
        }
        mutex_unlock(&t->lock);
        CHECK(pthread_mutex_lock(&word_lock) == 0);
    }
    CHECK(pthread_mutex_unlock(&word_lock) == 0);
    return word.err;
}

/* ---- life -------------------------------------------------------------------------------------------------------------------- */

void forming_open(struct topology_store *t)
{
    t->form_seeds = mem_calloc(t->o.seed_count + 1, sizeof(*t->form_seeds));
    t->form_calls = mem_calloc(t->o.seed_count + 1, sizeof(*t->form_calls));
    for (unsigned i = 0; i < t->o.seed_count; i++) {
        t->form_seeds[i].address = t->o.seeds[i];
        t->form_calls[i].store = t;
        t->form_calls[i].seed = i;
    }
    io_timer_init(&t->form_timer, probe_again);
}

void forming_start(struct topology_store *t)
{
    /* Killed between the founders' list and the last word of node.id: it counted already. */
    if (is_promised(t) && raft_has_config(&t->recovered)) {
        if (become_formed(t) < 0)
            host_fail(t, ERR_IO, "node.id cannot be written");
        else
            end_forming(t);
        return;
    }
    t->forming = true;
    t->form_begun_us = clock_mono_us();
    store_set_phase(t, TOPOLOGY_FORMING, "asking cluster.seeds");
    io_timer_start(t->control, &t->form_timer, 1, PROBE_EVERY_MS);
}

void forming_close(struct topology_store *t)
{
    for (unsigned i = 0; i < t->o.seed_count; i++)
        buf_fini(&t->form_calls[i].founders);
    buf_fini(&t->join_members);
    mem_free(t->form_seeds);
    mem_free(t->form_calls);
}
