/* Proposals: from whoever makes them into the log of the leader, wherever that is, exactly once; and answering them when it is time (rule 17).
 *
 *     inbox (any thread) -> queue -> sent -> applied_list -> done
 *                             ^        |
 *                             +--------+   refused for certain, or an entry of a later term was applied and it was not among those before
 *
 * Exactly once. A proposal is sent for one term: the leader of another term refuses it. Terms in a log never go down, so when an entry of a later term is applied, whatever of that proposal could ever be in the log
 * has been applied before. Its mark (process, seq) tells.
 *
 * Within a term a request can be lost with its connection. Then it is asked for again (again.c).
 *
 * PROPOSE     request   u64 term | marked command. Answer: empty when it was appended; an error: it was surely not
 * PROPOSE_AGAIN  the same bytes, of a request whose answer did not come. Answer: empty when it is in the log; an error tells nothing
 * APPLIED     one-way, from the leader: u64 index; every node that is not fenced has applied up to there
 * READ_INDEX  request   empty. Answer: u64 index */
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/private.h"

enum {
    BATCH_MAX = 256,
    BATCH_BYTES = 512 << 10,
    RETRY_US = 20000,
    FORWARD_MS = 1000, /* an append takes no longer while all is well; then it is asked for again */
    AGAIN_LEVEL = 2,
    JOINING_HEARD_MS = 1500, /* a node that was not heard of since it registered holds nobody up for longer */
    TELL_MS = 200,
};

static void list_clear(struct proposal_list *l)
{
    l->head = NULL;
    l->tail = &l->head;
    l->count = 0;
}

static void list_append(struct proposal_list *l, struct topology_proposal *p)
{
    p->next = NULL;
    *l->tail = p;
    l->tail = &p->next;
    l->count++;
}

static void list_unlink(struct proposal_list *l, struct topology_proposal **at)
{
    struct topology_proposal *p = *at;

    *at = p->next;
    if (l->tail == &p->next)
        l->tail = at;
    l->count--;
}

static struct topology_proposal *list_take_first(struct proposal_list *l)
{
    struct topology_proposal *p = l->head;

    list_unlink(l, &l->head);
    return p;
}

/* Where it belongs by its number; what comes back to the queue was there first. */
static void list_insert(struct proposal_list *l, struct topology_proposal *p)
{
    struct topology_proposal **at = &l->head;

    while (*at != NULL && (*at)->seq < p->seq)
        at = &(*at)->next;
    p->next = *at;
    if (*at == NULL)
        l->tail = &p->next;
    *at = p;
    l->count++;
}

void proposals_init(struct topology_store *t)
{
    list_clear(&t->inbox);
    list_clear(&t->queue);
    list_clear(&t->sent);
    list_clear(&t->applied_list);
    t->remote_tail = &t->remote_head;
    rand_secure(&t->process, sizeof(t->process));
}

/* ---- answering ---------------------------------------------------------------------------------------------------------- */

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

static void answer_list(struct proposal_list *l, int err)
{
    struct topology_proposal *p = l->head, *next;

    list_clear(l);
    for (; p != NULL; p = next) {
        next = p->next; /* the proposal is its owner's again once answered */
        p->err = err;
        answer(p);
    }
}

/* ---- proposing ------------------------------------------------------------------------------------------------------------ */

void topology_propose(struct topology_store *t, struct topology_proposal *p)
{
    p->err = 0;
    p->id = p->index = 0;
    p->producer_id = 0;
    p->seq = p->term = 0;
    p->unsure = false;
    p->deadline_us = clock_mono_us() + TOPOLOGY_PROPOSE_MS * 1000ull;
    mutex_lock(&t->lock);
    list_append(&t->inbox, p);
    mutex_unlock(&t->lock);
    store_wake(t);
}

static void take_inbox(struct topology_store *t)
{
    struct topology_proposal *p, *next;

    mutex_lock(&t->lock);
    p = t->inbox.head;
    list_clear(&t->inbox);
    mutex_unlock(&t->lock);
    for (; p != NULL; p = next) {
        next = p->next;
        if (p->command.len > RAFT_PROPOSAL_MAX - ENVELOPE_SIZE) {
            p->err = ERR_TOO_LARGE;
            answer(p);
            continue;
        }
        p->seq = ++t->last_seq;
        list_append(&t->queue, p);
    }
}

static void put_marked(const struct topology_store *t, const struct topology_proposal *p, struct buf *out)
{
    buf_put_u8(out, ENVELOPE);
    buf_put_be64(out, t->process);
    buf_put_be64(out, p->seq);
    buf_put_slice(out, buf_slice(&p->command));
}

/* One batch into this leader's own log, local proposals and those of others together. False: not now. */
static bool append_batch(struct topology_store *t)
{
    struct raft_event ev = {.type = RAFT_PROPOSE};
    struct slice payloads[BATCH_MAX];
    size_t at[BATCH_MAX + 1], n = 0, local = 0;
    struct remote_proposal *r;
    struct buf b = {0};
    int err;

    for (struct topology_proposal *p = t->queue.head; p != NULL && n < BATCH_MAX && b.len < BATCH_BYTES; p = p->next) {
        at[n++] = b.len;
        put_marked(t, p, &b);
        local++;
    }
    for (r = t->remote_head; r != NULL && n < BATCH_MAX && b.len < BATCH_BYTES; r = r->next) {
        at[n++] = b.len;
        buf_put_slice(&b, buf_slice(&r->bytes));
    }
    if (n == 0)
        return false;
    at[n] = b.len;
    for (size_t i = 0; i < n; i++)
        payloads[i] = slice_of(b.data + at[i], at[i + 1] - at[i]);
    ev.payloads = payloads;
    ev.payload_count = n;
    /* They may be applied within the step. */
    for (size_t i = 0; i < local; i++) {
        struct topology_proposal *p = list_take_first(&t->queue);

        p->term = raft_current_term(t->raft);
        list_insert(&t->sent, p);
    }
    struct raft_update up;
    uint64_t term = raft_current_term(t->raft);

    err = host_step(t, &ev, &up);
    buf_fini(&b);
    if (t->failed < 0)
        return false;
    if (err < 0) { /* nothing of it was appended */
        for (struct topology_proposal **p = &t->sent.head; *p != NULL;) {
            struct topology_proposal *back = *p;

            if (back->term != term || local == 0) {
                p = &(*p)->next;
                continue;
            }
            list_unlink(&t->sent, p);
            list_insert(&t->queue, back);
        }
        return false;
    }
    for (size_t i = local; i < n; i++) {
        r = t->remote_head;
        t->remote_head = r->next;
        if (r->next == NULL)
            t->remote_tail = &t->remote_head;
        t->remote_wanted = up.first_index + i;
        t->remote_until_us = clock_mono_us() + TOPOLOGY_PROPOSE_MS * 1000ull;
        bus_reply(t->o.bus, r->request, 0, SLICE_NONE);
        buf_fini(&r->bytes);
        mem_free(r);
    }
    return true;
}

/* ---- through the leader ------------------------------------------------------------------------------------------------------ */

struct forward {
    struct bus_call call;
    struct topology_store *store;
    uint64_t seq, term;
};

/* Back to the queue: it was surely not appended, and never will be. */
static void take_back(struct topology_store *t, uint64_t seq, uint64_t term)
{
    for (struct topology_proposal **at = &t->sent.head; *at != NULL; at = &(*at)->next) {
        struct topology_proposal *p = *at;

        if (p->seq != seq || p->term != term)
            continue;
        list_unlink(&t->sent, at);
        list_insert(&t->queue, p);
        return;
    }
}

/* Whether it arrived is not known: asked for again soon. */
static void ask_again_soon(struct topology_store *t, uint64_t seq, uint64_t term)
{
    for (struct topology_proposal *p = t->sent.head; p != NULL; p = p->next) {
        if (p->seq != seq || p->term != term)
            continue;
        p->unsure = true;
        t->ask_again = true;
        t->retry_us = clock_mono_us() + RETRY_US;
        return;
    }
}

static void asked_again(struct bus_call *c, int err, struct slice payload)
{
    struct forward *f = CONTAINER_OF(c, struct forward, call);

    (void)payload;
    /* Of an error of the leader's nothing follows: the first request may have arrived. It leads no more, then a later term tells, or cannot tell, then the deadline comes. */
    if (err == ERR_CLOSED || err == ERR_TIMEOUT || err == ERR_NOT_FOUND || err == ERR_LIMIT)
        ask_again_soon(f->store, f->seq, f->term);
    mem_free(f);
}

static void forwarded(struct bus_call *c, int err, struct slice payload)
{
    struct forward *f = CONTAINER_OF(c, struct forward, call);
    struct topology_store *t = f->store;

    (void)payload;
    switch (err) {
    case 0:
        break; /* in its log; what becomes of it is seen when it is applied */
    case ERR_CLOSED:
    case ERR_TIMEOUT:
        ask_again_soon(t, f->seq, f->term);
        break;
    case ERR_CANCELLED:
        break; /* the bus closes */
    default:
        take_back(t, f->seq, f->term);
        t->retry_us = clock_mono_us() + RETRY_US;
        break;
    }
    mem_free(f);
    store_soon(t);
}

static void send_to_leader(struct topology_store *t, const struct topology_proposal *p, uint32_t leader, enum bus_type type, void (*done)(struct bus_call *c, int err, struct slice payload))
{
    struct forward *f = mem_zalloc(sizeof(*f));
    struct buf b = {0};

    f->call.worker = t->control;
    f->call.done = done;
    f->store = t;
    f->seq = p->seq;
    f->term = p->term;
    buf_put_be64(&b, p->term);
    put_marked(t, p, &b);
    bus_call(t->o.bus, leader, type, buf_slice(&b), FORWARD_MS, &f->call);
    buf_fini(&b);
}

static void forward_one(struct topology_store *t, struct topology_proposal *p, uint32_t leader)
{
    p->term = t->term;
    p->unsure = false;
    list_insert(&t->sent, p);
    send_to_leader(t, p, leader, BUS_PROPOSE, forwarded);
}

/* Those of another term than the present leader's are settled by that leader's first entry. */
static void ask_again(struct topology_store *t, uint32_t leader)
{
    if (t->state.v.level < AGAIN_LEVEL)
        return; /* a later term tells, or the deadline comes */
    t->ask_again = false;
    for (struct topology_proposal *p = t->sent.head; p != NULL; p = p->next) {
        if (!p->unsure || p->term != t->term)
            continue;
        p->unsure = false;
        send_to_leader(t, p, leader, BUS_PROPOSE_AGAIN, asked_again);
    }
}

/* Decisions of a term that is over, or of this one when another leads it. */
static void drop_outdated(struct topology_store *t)
{
    for (struct topology_proposal **at = &t->queue.head; *at != NULL;) {
        struct topology_proposal *p = *at;

        if (p->only_term == 0 || (raft_role(t->raft) == RAFT_LEADER && raft_current_term(t->raft) == p->only_term)) {
            at = &p->next;
            continue;
        }
        list_unlink(&t->queue, at);
        p->err = ERR_NOT_LEADER;
        answer(p);
    }
}

void proposals_turn(struct topology_store *t)
{
    uint32_t leader = t->leader;

    take_inbox(t);
    drop_outdated(t);
    if (raft_role(t->raft) == RAFT_LEADER) {
        if (raft_store_full(t->disk) && t->queue.head != NULL)
            answer_list(&t->queue, ERR_NOSPACE);
        while (!raft_store_full(t->disk) && append_batch(t))
            ;
        return;
    }
    proposals_refuse_remote(t);
    if (leader == 0 || t->o.bus == NULL || clock_mono_us() < t->retry_us)
        return;
    if (t->ask_again)
        ask_again(t, leader);
    while (t->queue.head != NULL && t->retry_us <= clock_mono_us())
        forward_one(t, list_take_first(&t->queue), leader);
}

void proposals_refuse_remote(struct topology_store *t)
{
    struct remote_proposal *r = t->remote_head, *next;

    t->remote_head = NULL;
    t->remote_tail = &t->remote_head;
    for (; r != NULL; r = next) {
        next = r->next;
        bus_reply(t->o.bus, r->request, ERR_NOT_LEADER, SLICE_NONE);
        buf_fini(&r->bytes);
        mem_free(r);
    }
}

static void handle(struct topology_store *t, struct bus_request *request, struct slice payload, bool again)
{
    struct reader in = reader_of(payload);
    uint64_t term = reader_be64(&in);
    struct slice bytes = reader_slice(&in, reader_left(&in));
    struct remote_proposal *r;
    int have;

    if (in.bad || bytes.len <= ENVELOPE_SIZE || bytes.data[0] != ENVELOPE || topo_command_name(bytes.data[ENVELOPE_SIZE]) == NULL) {
        bus_reply(t->o.bus, request, ERR_MALFORMED, SLICE_LIT("not a proposal this build understands"));
        return;
    }
    if (t->raft == NULL || t->failed < 0 || raft_role(t->raft) != RAFT_LEADER || raft_current_term(t->raft) != term) {
        bus_reply(t->o.bus, request, ERR_NOT_LEADER, SLICE_NONE);
        return;
    }
    have = again_judge(t, bytes, again);
    if (have != 0) {
        bus_reply(t->o.bus, request, have < 0 ? have : 0, SLICE_NONE);
        return;
    }
    if (raft_store_full(t->disk)) {
        bus_reply(t->o.bus, request, ERR_NOSPACE, SLICE_LIT("the controller's disk is full"));
        return;
    }
    r = mem_zalloc(sizeof(*r));
    r->request = request;
    r->term = term;
    buf_put_slice(&r->bytes, bytes);
    *t->remote_tail = r;
    t->remote_tail = &r->next;
    store_soon(t);
}

void proposals_handle(void *arg, const struct bus_peer *from, struct bus_request *request, struct slice payload)
{
    (void)from;
    handle(arg, request, payload, false);
}

void proposals_handle_again(void *arg, const struct bus_peer *from, struct bus_request *request, struct slice payload)
{
    (void)from;
    handle(arg, request, payload, true);
}

/* ---- applied ----------------------------------------------------------------------------------------------------------------- */

void proposals_applied(struct topology_store *t, uint64_t process, uint64_t seq, uint64_t index, const struct topo_result *result)
{
    if (process != t->process)
        return;
    for (struct topology_proposal **at = &t->sent.head; *at != NULL; at = &(*at)->next) {
        struct topology_proposal *p = *at;

        if (p->seq != seq)
            continue;
        list_unlink(&t->sent, at);
        p->err = result->err;
        p->id = result->id;
        p->producer_id = result->producer_id;
        p->index = index;
        list_append(&t->applied_list, p);
        return;
    }
}

void proposals_term_over(struct topology_store *t)
{
    for (struct topology_proposal **at = &t->sent.head; *at != NULL;) {
        struct topology_proposal *p = *at;

        if (p->term >= t->applied_term) {
            at = &p->next;
            continue;
        }
        list_unlink(&t->sent, at);
        list_insert(&t->queue, p);
    }
}

static void tell_everywhere(struct topology_store *t)
{
    uint8_t b[8];

    be64_put(b, t->everywhere);
    bus_cast(t->o.bus, BUS_APPLIED, slice_of(b, 8));
    t->everywhere_told = t->everywhere;
}

/* The least index that every node that is not fenced has applied. A registered node that nobody has heard yet counts while it is heard here. */
void proposals_everywhere(struct topology_store *t)
{
    struct raft_peer_status peers[RAFT_MEMBERS_MAX];
    uint64_t least = changes_told_upto(t), now = clock_mono_us();
    size_t n;

    if (t->raft == NULL || raft_role(t->raft) != RAFT_LEADER)
        return;
    if (raft_is_alone(t->raft)) {
        t->everywhere = MAX_OF(t->everywhere, least);
        return;
    }
    n = raft_peers(t->raft, peers, RAFT_MEMBERS_MAX);
    for (size_t i = 0; i < n; i++) {
        const struct topo_node *node = topo_node_find(&t->state.v, peers[i].node.id);

        if (peers[i].node.id == t->identity.node_id || node == NULL || node->state == TOPO_NODE_FENCED)
            continue;
        if (node->state == TOPO_NODE_JOINING && now - peers[i].heard_us > JOINING_HEARD_MS * 1000ull)
            continue;
        least = MIN_OF(least, peers[i].applied);
    }
    if (least <= t->everywhere)
        return;
    t->everywhere = least;
    if (t->everywhere_told < t->remote_wanted)
        tell_everywhere(t);
    store_soon(t);
}

void proposals_handle_applied(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct topology_store *t = arg;

    (void)from, (void)r;
    if (payload.len != 8)
        return;
    t->everywhere = MAX_OF(t->everywhere, be64_get(payload.data));
    store_soon(t);
}

void proposals_complete(struct topology_store *t)
{
    uint64_t upto = MIN_OF(t->everywhere, changes_told_upto(t));

    while (t->applied_list.head != NULL && t->applied_list.head->index <= upto)
        answer(list_take_first(&t->applied_list));
}

static void expire(struct proposal_list *l, uint64_t now_us, int err)
{
    for (struct topology_proposal **at = &l->head; *at != NULL;) {
        struct topology_proposal *p = *at;

        if (p->deadline_us > now_us) {
            at = &p->next;
            continue;
        }
        list_unlink(l, at);
        if (err < 0)
            p->err = err;
        answer(p);
    }
}

void proposals_expire(struct topology_store *t, uint64_t now_us)
{
    take_inbox(t);
    expire(&t->queue, now_us, ERR_NO_LEADER);
    expire(&t->sent, now_us, ERR_TIMEOUT);
    /* Applied here; who has not applied it by now is being fenced. */
    expire(&t->applied_list, now_us, 0);
    if (t->leading && t->o.bus != NULL && now_us < t->remote_until_us && now_us - t->told_us >= TELL_MS * 1000ull) {
        t->told_us = now_us; /* a one-way message may have been lost with its connection */
        tell_everywhere(t);
    }
}

void proposals_fail(struct topology_store *t, int err)
{
    take_inbox(t);
    answer_list(&t->queue, err);
    answer_list(&t->sent, err);
    for (struct topology_proposal *p = t->applied_list.head, *next; p != NULL; p = next) {
        next = p->next;
        answer(p);
    }
    list_clear(&t->applied_list);
    if (t->o.bus != NULL)
        proposals_refuse_remote(t);
}

void proposals_drop(struct topology_store *t)
{
    struct proposal_list *lists[] = {&t->queue, &t->sent, &t->applied_list};

    take_inbox(t);
    /* Those of workers that have ended are their owners' to free. */
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        for (struct topology_proposal *p = lists[i]->head, *next; p != NULL; p = next) {
            next = p->next;
            p->err = p->index != 0 ? p->err : ERR_CLOSED;
            if (p->worker == NULL)
                p->done(p);
        }
        list_clear(lists[i]);
    }
    for (struct remote_proposal *r = t->remote_head, *next; r != NULL; r = next) {
        next = r->next;
        buf_fini(&r->bytes); /* its connection is gone, and the request with it */
        mem_free(r);
    }
    t->remote_head = NULL;
}
