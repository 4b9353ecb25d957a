/* Questions of people: asked on the admin thread of any node, answered by the controller. */
#include <pthread.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/member/private.h"
#include "cluster/topology/partition.h"

#define ASK_MS 3000
#define RECOVER_MS 5000

/* ---- a thread that waits ------------------------------------------------------------------------------------------------------ */

/* One question on its way: the thread waits, the control worker asks and answers. */
struct asking {
    struct mail mail;
    struct bus_call call;
    struct member *m;
    enum question question;
    uint32_t partition;
    struct buf answer; /* as on the wire */
    int err;
    bool done; /* under lock */
    pthread_mutex_t lock;
    pthread_cond_t news;
};

static void finish(struct asking *a, int err, struct slice answer)
{
    CHECK(pthread_mutex_lock(&a->lock) == 0);
    a->err = err;
    buf_put_slice(&a->answer, answer);
    a->done = true;
    pthread_cond_signal(&a->news);
    CHECK(pthread_mutex_unlock(&a->lock) == 0);
}

static void answered(struct bus_call *c, int err, struct slice payload)
{
    finish(CONTAINER_OF(c, struct asking, call), err, err < 0 ? SLICE_NONE : payload);
}

static int recover(struct member *m, uint32_t partition, struct buf *out);

static void answer_nodes(struct member *m, struct buf *out)
{
    struct member_node_info infos[256];

    node_infos_put(out, infos, controller_infos(m, infos, ARRAY_LEN(infos)));
}

static int answer(struct member *m, enum question q, uint32_t partition, struct buf *out)
{
    if (m->stopping || !m->leading)
        return ERR_NOT_LEADER;
    switch (q) {
    case ASK_NODES:
        answer_nodes(m, out);
        return 0;
    case ASK_RECOVER:
        return recover(m, partition, out);
    }
    return ERR_UNSUPPORTED;
}

static void ask_here(struct worker *w, struct mail *mail)
{
    struct asking *a = CONTAINER_OF(mail, struct asking, mail);
    struct member *m = a->m;
    uint32_t controller = topology_controller(m->o.topology);
    struct buf b = {0};
    int err;

    if (controller == 0) {
        finish(a, ERR_NO_LEADER, SLICE_NONE);
        return;
    }
    if (controller == topology_node_id(m->o.topology)) {
        err = answer(m, a->question, a->partition, &b);
        finish(a, err, buf_slice(&b));
    } else {
        question_put(&b, a->question);
        buf_put_be32(&b, a->partition);
        a->call = (struct bus_call){.worker = w, .done = answered};
        bus_call(m->o.bus, controller, BUS_ASK_CONTROLLER, buf_slice(&b), ASK_MS, &a->call);
    }
    buf_fini(&b);
}

static int ask(struct member *m, enum question q, uint32_t partition, struct buf *answer_bytes)
{
    struct asking a = {.m = m, .question = q, .partition = partition, .mail.deliver = ask_here};

    CHECK(worker_current() == NULL);
    if (m->o.bus == NULL)
        return ERR_UNSUPPORTED;
    CHECK(pthread_mutex_init(&a.lock, NULL) == 0 && pthread_cond_init(&a.news, NULL) == 0);
    worker_post(m->o.control, &a.mail);
    CHECK(pthread_mutex_lock(&a.lock) == 0);
    while (!a.done)
        pthread_cond_wait(&a.news, &a.lock);
    CHECK(pthread_mutex_unlock(&a.lock) == 0);
    pthread_mutex_destroy(&a.lock);
    pthread_cond_destroy(&a.news);
    *answer_bytes = a.answer;
    return a.err;
}

void people_handle(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload)
{
    struct member *m = arg;
    struct reader in = reader_of(payload);
    enum question q;
    uint32_t partition;
    struct buf b = {0};
    int err = question_get(&in, &q);

    (void)from;
    partition = reader_be32(&in);
    if (err == 0)
        err = in.bad ? ERR_MALFORMED : answer(m, q, partition, &b);
    bus_reply(m->o.bus, r, err, err < 0 ? slice_str(err_text(err)) : buf_slice(&b));
    buf_fini(&b);
}

/* ---- questions ------------------------------------------------------------------------------------------------------------------- */

int member_nodes(struct member *m, struct member_node_info *ret, unsigned max)
{
    struct buf b = {0};
    int err = ask(m, ASK_NODES, 0, &b);

    if (err == 0)
        err = node_infos_get(buf_slice(&b), ret, max);
    buf_fini(&b);
    return err;
}

/* On the controller: proposes what it can say now, asks for the ends of the rest. */
static int recover(struct member *m, uint32_t partition, struct buf *out)
{
    struct plan_node *facts = mem_alloc((m->peer_count + 1) * sizeof(facts[0]));
    struct plan_input in = controller_input(m, facts, m->peer_count);
    uint32_t total = in.view->partitions == NULL ? 0 : in.view->total_partitions, left = 0, n = 0;
    struct topo_partition_change *changes = mem_alloc((total + 1) * sizeof(changes[0]));
    int err = partition != UINT32_MAX && partition >= total ? ERR_NOT_FOUND : 0;

    for (uint32_t i = 0; i < total && err == 0; i++) {
        int one;

        if (partition != UINT32_MAX && i != partition)
            continue;
        one = plan_recover(&in, i, &changes[n]);
        n += one == 0;
        left += one == ERR_AGAIN || one == ERR_NOT_FOUND;
        if (one == ERR_AGAIN)
            ends_want(m, i);
    }
    if (n != 0) {
        struct buf b = {0};

        topo_cmd_partition_change(&b, topology_node_id(m->o.topology), changes, n);
        controller_order(m, &b, 0);
        events_add(m, "%u partitions recovered by an administrator's word: what only absent replicas had is lost", n);
    }
    buf_put_uvarint(out, n);
    buf_put_uvarint(out, left);
    mem_free(changes);
    mem_free(facts);
    return err;
}

int member_recover(struct member *m, uint32_t partition, uint32_t *ret_recovered, uint32_t *ret_left)
{
    uint64_t until = clock_mono_us() + RECOVER_MS * 1000ull;
    int err;

    *ret_recovered = 0;
    do {
        struct buf b = {0};
        struct reader r;

        err = ask(m, ASK_RECOVER, partition, &b);
        if (err == 0) {
            r = reader_of(buf_slice(&b));
            *ret_recovered += (uint32_t)reader_uvarint(&r);
            *ret_left = (uint32_t)reader_uvarint(&r);
        }
        buf_fini(&b);
        if (err < 0 || *ret_left == 0)
            return err;
        nanosleep(&(struct timespec){0, 300000000}, NULL); /* the ends come meanwhile */
    } while (clock_mono_us() < until);
    return 0;
}

/* A handover begins at the leader; who asks sends it there. */
struct transfer {
    struct mail mail;
    struct member *m;
    uint32_t partition, leader, to;
    int32_t epoch;
};

static void send_transfer(struct worker *w, struct mail *mail)
{
    struct transfer *t = CONTAINER_OF(mail, struct transfer, mail);

    (void)w;
    if (!t->m->stopping)
        member_hand_over(t->m, t->partition, t->epoch, t->leader, t->to);
    mem_free(t);
}

int member_transfer(struct member *m, uint32_t partition, uint32_t to, uint32_t *ret_to)
{
    const struct topology *v = topology_pin(m->o.topology);
    const struct topo_partition *p = topo_partition_at(v, partition);
    struct plan_input in = {.view = v, .options = &m->plan};
    struct transfer *t = NULL;
    int err = p == NULL ? ERR_NOT_FOUND : p->leader == 0 ? ERR_NO_LEADER : 0;

    if (err == 0 && to == p->leader) {
        *ret_to = to;
    } else if (err == 0) {
        *ret_to = plan_handover_target(&in, partition, to);
        if (*ret_to == 0)
            err = ERR_INELIGIBLE;
    }
    if (err == 0 && *ret_to != p->leader) {
        t = mem_zalloc(sizeof(*t));
        *t = (struct transfer){.m = m, .partition = partition, .leader = p->leader, .to = *ret_to, .epoch = p->epoch, .mail.deliver = send_transfer};
    }
    topology_unpin(m->o.topology);
    if (t != NULL)
        worker_post(m->o.control, &t->mail);
    return err;
}
