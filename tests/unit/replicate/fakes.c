/* Stand-ins for the topology's store and the bus, with their functions: the test links them in place of the real ones. */
#include "fakes.h"

#include <pthread.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"

/* ---- topology ----------------------------------------------------------------------------------------------------------- */

struct topology_store {
    struct sim *sim;
    uint32_t id;
    const struct topology *view; /* atomic; owned by the sim */
};

struct topology_store *fake_topology_new(struct sim *s, uint32_t id)
{
    struct topology_store *t = mem_zalloc(sizeof(*t));

    t->sim = s;
    t->id = id;
    return t;
}

void fake_topology_publish(struct topology_store *t, const struct topology *v)
{
    __atomic_store_n(&t->view, v, __ATOMIC_RELEASE);
}

void fake_topology_free(struct topology_store *t)
{
    mem_free(t);
}

const struct topology *topology_view(struct topology_store *t)
{
    return __atomic_load_n(&t->view, __ATOMIC_ACQUIRE);
}

uint32_t topology_node_id(const struct topology_store *t)
{
    return t->id;
}

uint64_t topology_node_epoch(const struct topology_store *t)
{
    return topo_node_find(topology_view((struct topology_store *)t), t->id)->epoch;
}

static void deliver_proposal(struct worker *w, struct mail *m)
{
    struct topology_proposal *p = CONTAINER_OF(m, struct topology_proposal, mail);

    (void)w;
    p->done(p);
}

void topology_propose(struct topology_store *t, struct topology_proposal *p)
{
    struct buf copy = {0};

    buf_put_slice(&copy, buf_slice(&p->command));
    /* A node that is cut off reaches no controller: the fourth node's column stands for it. */
    p->err = __atomic_load_n(&t->sim->cut[t->id][0], __ATOMIC_SEQ_CST) ? ERR_TIMEOUT : sim_apply(t->sim, &copy);
    if (p->err == ERR_TIMEOUT)
        buf_fini(&copy);
    p->mail.deliver = deliver_proposal;
    worker_post(p->worker, &p->mail);
}

/* ---- bus ------------------------------------------------------------------------------------------------------------------ */

struct handler {
    bus_handler *fn;
    void *arg;
};

struct bus {
    struct sim *sim;
    uint32_t id;
    struct worker *data;
    bool up; /* under lock */
    struct bus *next;
    struct handler handlers[128];
};

struct bus_request {
    struct mail mail;
    struct list node; /* of all that are under way, under lock */
    struct bus *from, *to;
    struct bus_call *call; /* NULL: one way */
    struct worker *worker; /* the caller's */
    enum bus_type type;
    struct buf payload;
    int err;
    bool replied, handed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list under_way = {&under_way, &under_way};
static struct rand chance;
static uint64_t seeded_for;
static struct bus *current[SIM_NODES + 1]; /* by node */

struct bus *fake_bus_new(struct sim *s, uint32_t id, struct worker *data)
{
    struct bus *b = mem_zalloc(sizeof(*b));

    b->sim = s;
    b->id = id;
    b->data = data;
    pthread_mutex_lock(&lock);
    if (seeded_for != s->seed || s->seed == 0)
        rand_seed(&chance, s->seed);
    seeded_for = s->seed;
    current[id] = b;
    pthread_mutex_unlock(&lock);
    return b;
}

static struct bus *old; /* buses of nodes that were stopped: what is under way may name them */

static void free_request(struct bus_request *q)
{
    buf_fini(&q->payload);
    mem_free(q);
}

static void deliver_reply(struct worker *w, struct mail *m)
{
    struct bus_request *q = CONTAINER_OF(m, struct bus_request, mail);

    (void)w;
    pthread_mutex_lock(&lock);
    list_remove(&q->node);
    pthread_mutex_unlock(&lock);
    q->call->done(q->call, q->err, buf_slice(&q->payload));
    free_request(q);
}

/* Under lock. */
static void post_reply(struct bus_request *q)
{
    list_remove(&q->node);
    q->replied = true;
    if (!q->from->up || q->call == NULL) {
        free_request(q); /* nobody is there to hear it */
        return;
    }
    list_push_back(&under_way, &q->node);
    q->mail.deliver = deliver_reply;
    worker_post(q->worker, &q->mail);
}

static bool broken(struct bus *a, struct bus *b)
{
    struct sim *s = a->sim;

    return !a->up || !b->up || __atomic_load_n(&s->cut[a->id][b->id], __ATOMIC_SEQ_CST) || rand_below(&chance, 1000) < __atomic_load_n(&s->loss, __ATOMIC_SEQ_CST);
}

static void deliver_request(struct worker *w, struct mail *m)
{
    struct bus_request *q = CONTAINER_OF(m, struct bus_request, mail);
    struct bus_peer peer;
    struct handler *h = &q->to->handlers[q->type];
    struct buf payload;

    (void)w;
    pthread_mutex_lock(&lock);
    if (broken(q->from, q->to)) {
        q->err = ERR_CLOSED;
        buf_clear(&q->payload);
        post_reply(q);
        pthread_mutex_unlock(&lock);
        return;
    }
    q->handed = true;
    peer = (struct bus_peer){.node_id = q->from->id, .address = "fake"};
    payload = q->payload;
    q->payload = (struct buf){0};
    pthread_mutex_unlock(&lock);
    CHECK(h->fn != NULL);
    if (q->call == NULL) {
        h->fn(h->arg, &peer, NULL, buf_slice(&payload));
        pthread_mutex_lock(&lock);
        list_remove(&q->node);
        pthread_mutex_unlock(&lock);
        free_request(q);
    } else {
        h->fn(h->arg, &peer, q, buf_slice(&payload));
    }
    buf_fini(&payload);
}

void fake_bus_up(struct bus *b, bool up)
{
    pthread_mutex_lock(&lock);
    b->up = up;
    pthread_mutex_unlock(&lock);
}

/* Its workers are stopped. */
void fake_bus_free(struct bus *b)
{
    pthread_mutex_lock(&lock);
    for (struct list *n = under_way.next, *next; n != &under_way; n = next) {
        struct bus_request *q = LIST_ENTRY(n, struct bus_request, node);

        next = n->next;
        if (q->from == b && q->replied) {
            list_remove(&q->node);
            free_request(q);
        } else if (q->to == b && !q->handed && !q->replied) {
            q->err = ERR_CLOSED;
            buf_clear(&q->payload);
            post_reply(q);
        }
    }
    if (current[b->id] == b)
        current[b->id] = NULL;
    b->next = old;
    old = b;
    pthread_mutex_unlock(&lock);
}

void bus_handle(struct bus *b, enum bus_type type, bus_handler *fn, void *arg)
{
    b->handlers[type] = (struct handler){fn, arg};
}

void bus_reply(struct bus *b, struct bus_request *q, int err, struct slice payload)
{
    (void)b;
    pthread_mutex_lock(&lock);
    q->err = err;
    buf_clear(&q->payload);
    if (broken(q->to, q->from))
        q->err = ERR_CLOSED;
    else
        buf_put_slice(&q->payload, payload);
    post_reply(q);
    pthread_mutex_unlock(&lock);
}

void bus_call(struct bus *b, uint32_t node_id, enum bus_type type, struct slice payload, uint32_t timeout_ms, struct bus_call *c)
{
    struct bus_request *q = mem_zalloc(sizeof(*q));
    struct bus *to;

    (void)timeout_ms;
    q->from = b;
    q->call = c;
    q->worker = c->worker;
    q->type = type;
    buf_put_slice(&q->payload, payload);
    pthread_mutex_lock(&lock);
    q->to = to = current[node_id];
    list_push_back(&under_way, &q->node);
    if (to == NULL || broken(b, to)) {
        q->err = ERR_NOT_FOUND;
        buf_clear(&q->payload);
        post_reply(q);
    } else {
        q->mail.deliver = deliver_request;
        worker_post(to->data, &q->mail);
    }
    pthread_mutex_unlock(&lock);
}

bool bus_send(struct bus *b, uint32_t node_id, enum bus_type type, struct slice payload)
{
    struct bus_request *q;
    struct bus *to;

    pthread_mutex_lock(&lock);
    to = current[node_id];
    if (to == NULL || broken(b, to)) {
        pthread_mutex_unlock(&lock);
        return false;
    }
    q = mem_zalloc(sizeof(*q));
    q->from = b;
    q->to = to;
    q->type = type;
    buf_put_slice(&q->payload, payload);
    q->mail.deliver = deliver_request;
    list_push_back(&under_way, &q->node);
    worker_post(to->data, &q->mail);
    pthread_mutex_unlock(&lock);
    return true;
}
