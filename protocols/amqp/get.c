/* basic.get. May wait for the disk (cold messages, P16) or for a reservation (rule 8); the frame is then
 * handled again. */
#include "base/mem.h"
#include "protocols/amqp/forward.h"
#include "protocols/amqp/queues.h"
#include "protocols/amqp/remote.h"
#include "protocols/amqp/session.h"

struct getting {
    struct amqp_channel *channel;
    const struct topo_queue *queue;
    uint64_t opened; /* of the engine's queue */
    size_t count_at; /* of message-count, in the worker's scratch */
    bool no_ack;
};

static bool deliver_get(void *arg, const struct queue_delivery *d)
{
    struct getting *get = arg;
    struct amqp_channel *ch = get->channel;
    struct amqp_session *s = ch->session;
    struct queue_handle h = d->handle;
    struct amqp_basic_get_ok m = {
        .redelivered = d->redelivered, .exchange = d->exchange, .routing_key = d->routing_key};
    struct buf *out = &s->aw->scratch;

    if (get->no_ack) {
        m.delivery_tag = amqp_unacked_skip(&ch->unacked);
    } else {
        h.consumer = amqp_source_new(ch, get->queue, NULL, get->opened);
        ch->sources[h.consumer].outstanding++;
        m.delivery_tag = amqp_unacked_push(&ch->unacked, &h);
    }
    /* The count of what is left is known only after the taking; it stands before the frame's end octet. */
    buf_clear(out);
    amqp_put_basic_get_ok(out, ch->number, &m);
    get->count_at = out->len - 5;
    amqp_put_content(out, ch->number, s->frame_max, d->properties, d->body);
    amqp_count(&s->aw->count.redelivered, d->redelivered);
    return true;
}

struct warm_get {
    struct bg_job job;
    struct log_span span;
    struct amqp_session *session;
};

static void warm_run(struct bg_job *job)
{
    (void)queue_warm(&CONTAINER_OF(job, struct warm_get, job)->span);
}

static void warm_done(struct bg_job *job)
{
    struct warm_get *w = CONTAINER_OF(job, struct warm_get, job);
    struct amqp_session *s = w->session;

    log_span_release(&w->span);
    mem_free(w);
    s->wait->warming = false;
    s->wait->read_cold = true;
    amqp_session_continue(s);
}

static int wait_for_disk(struct amqp_session *s, const struct log_span *span)
{
    struct warm_get *w = mem_zalloc(sizeof(*w));

    w->span = *span;
    w->session = s;
    w->job.reply_to = s->aw->worker;
    w->job.run = warm_run;
    w->job.done = warm_done;
    amqp_session_wait(s)->warming = true;
    bg_submit(s->front->o.workers, BG_DISK, &w->job);
    return AMQP_AGAIN;
}

static void reserved(struct log_commit *commit, int err)
{
    struct amqp_wait *w = CONTAINER_OF(commit, struct amqp_wait, commit);
    struct amqp_session *s = w->session;

    w->committing = false;
    if (err < 0 && s->conn != NULL)
        conn_abort(s->conn, err);
    else
        amqp_session_continue(s);
}

static int locked(struct amqp_channel *ch, struct slice name)
{
    char text[AMQP_RS_MAX];

    return amqp_fail(ch, AMQP_RESOURCE_LOCKED,
                     "cannot obtain access to locked %s. basic.get operations are not supported by "
                     "classic queues with single active consumer",
                     amqp_rs(text, AMQP_QUEUE, name, ch->session->vhost));
}

static int get_empty(struct amqp_channel *ch)
{
    amqp_count(&ch->session->aw->count.get_empty, 1);
    amqp_put_basic_get_empty(conn_out(ch->session->conn), ch->number, &(struct amqp_basic_get_empty){});
    return 0;
}

/* Of a queue that another node leads. */
static int get_remote(struct amqp_channel *ch, const struct amqp_basic_get *m, const struct topo_queue *tq, struct slice name)
{
    struct amqp_session *s = ch->session;
    struct amqp_basic_get_ok ok;
    struct queue_delivery d;
    struct queue_handle h;
    struct reader r;
    uint16_t source;
    int err;

    if (amqp_remote_get(ch, tq, m->no_ack, &source, &err, &r) == AMQP_AGAIN)
        return AMQP_AGAIN;
    if (err == ERR_LOCKED)
        return locked(ch, name);
    if (err < 0)
        return amqp_queue_unavailable(ch, name, err);
    if (reader_u8(&r) == 0)
        return get_empty(ch);
    ok = (struct amqp_basic_get_ok){.message_count = reader_be32(&r)};
    forward_get_delivery(&r, &d);
    if (!forward_is_whole(&r))
        return amqp_queue_unavailable(ch, name, ERR_MALFORMED);
    h = d.handle;
    h.consumer = source;
    if (m->no_ack) {
        ok.delivery_tag = amqp_unacked_skip(&ch->unacked);
    } else {
        ch->sources[source].outstanding++;
        ok.delivery_tag = amqp_unacked_push(&ch->unacked, &h);
    }
    ok.redelivered = d.redelivered;
    ok.exchange = d.exchange;
    ok.routing_key = d.routing_key;
    amqp_put_basic_get_ok(conn_out(s->conn), ch->number, &ok);
    amqp_put_content(conn_out(s->conn), ch->number, s->frame_max, d.properties, d.body);
    amqp_count(&s->aw->count.redelivered, d.redelivered);
    amqp_count(&s->aw->count.got, 1);
    return 0;
}

int amqp_on_basic_get(struct amqp_channel *ch, const struct amqp_basic_get *m)
{
    struct amqp_session *s = ch->session;
    struct amqp_wait *wait = amqp_session_wait(s);
    struct getting get = {.channel = ch, .no_ack = m->no_ack};
    struct queue_take take = {
        .max = 1, .deliver = deliver_get, .arg = &get, .commit = &wait->commit, .read_cold = wait->read_cold};
    struct partition_guard g;
    struct slice name = m->queue;
    struct queue *q;
    int err;

    if (!amqp_queue_name(ch, &name) || !amqp_permitted(ch, AMQP_READ, AMQP_QUEUE, name))
        return 0;
    get.queue = amqp_queue_usable(ch, name);
    if (get.queue == NULL)
        return 0;
    if (wait->asked || amqp_queue_is_remote(s->aw, get.queue))
        return get_remote(ch, m, get.queue, name);
    err = amqp_session_enter_queue(s, get.queue, &g);
    if (err == ERR_PARKED)
        return AMQP_AGAIN;
    if (amqp_is_role_error(s->aw, err))
        return get_remote(ch, m, get.queue, name);
    if (err < 0)
        return amqp_queue_unavailable(ch, name, err);
    log_commit_init(&wait->commit, s->aw->worker, reserved);
    q = amqp_queue_enter(s, partition_queues(g.p), get.queue->id, &err);
    if (q != NULL)
        get.opened = queue_opened(q);
    if (q != NULL)
        err = queue_get(q, m->no_ack, &take, worker_wall_ms(s->aw->worker));
    (void)partition_leave(&g);
    if (q == NULL)
        return amqp_queue_unavailable(ch, name, err);
    if (err == ERR_LOCKED)
        return locked(ch, name);
    if (take.count != 0) {
        be32_put(s->aw->scratch.data + get.count_at, (uint32_t)MIN_OF(take.ready, UINT32_MAX));
        conn_write(s->conn, s->aw->scratch.data, s->aw->scratch.len);
        amqp_count(&s->aw->count.got, 1);
        return 0;
    }
    if (err == ERR_AGAIN)
        return wait_for_disk(s, &take.cold);
    if (err < 0)
        return amqp_queue_unavailable(ch, name, err);
    if (take.stalled) {
        if (!take.commit_added)
            return amqp_queue_unavailable(ch, name, ERR_NOSPACE); /* the reservation could not be logged */
        if (!log_commit_arm(&wait->commit)) {
            wait->committing = true;
            return AMQP_AGAIN;
        }
        return amqp_on_basic_get(ch, m); /* committed meanwhile */
    }
    return get_empty(ch);
}
