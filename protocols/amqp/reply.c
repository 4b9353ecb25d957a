#include "protocols/amqp/reply.h"

#include "base/mem.h"
#include "base/rand.h"
#include "protocols/amqp/queues.h"

struct amqp_reply_consumer {
    uint64_t id;      /* in the name; random, so that nobody guesses it */
    struct slice tag; /* owned */
};

/* A reply on its way to another worker; one allocation. */
struct reply_mail {
    struct mail mail;
    struct amqp_front *front;
    uint64_t id, conn_id;
    size_t key_len, properties_len, body_len;
    uint8_t bytes[];
};

bool amqp_reply_is_name(struct slice name)
{
    size_t n = sizeof(AMQP_REPLY_QUEUE) - 1;

    return name.len >= n && memcmp(name.data, AMQP_REPLY_QUEUE, n) == 0;
}

/* The id in "amq.rabbitmq.reply-to.0123456789abcdef"; 0: there is none. */
static uint64_t name_id(struct slice name)
{
    uint64_t id = 0;

    if (name.len != AMQP_REPLY_NAME_LEN || !amqp_reply_is_name(name) ||
        name.data[sizeof(AMQP_REPLY_QUEUE) - 1] != '.')
        return 0;
    for (size_t i = sizeof(AMQP_REPLY_QUEUE); i < name.len; i++) {
        uint8_t c = name.data[i];

        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
            return 0;
        id = id << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return id;
}

struct slice amqp_reply_queue_name(const struct amqp_channel *ch, char text[AMQP_REPLY_NAME_LEN + 1])
{
    snprintf(text, AMQP_REPLY_NAME_LEN + 1, "%s.%016llx", AMQP_REPLY_QUEUE,
             (unsigned long long)ch->reply->id);
    return slice_of(text, AMQP_REPLY_NAME_LEN);
}

int amqp_reply_consume(struct amqp_channel *ch, const struct amqp_basic_consume *m)
{
    struct amqp_session *s = ch->session;
    char generated[AMQP_NAME_MAX];
    struct slice tag = m->consumer_tag;
    struct amqp_reply_consumer *r;

    if (!m->no_ack)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "reply consumer cannot acknowledge");
    if (ch->reply != NULL)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "reply consumer already set");
    if (tag.len == 0) {
        amqp_generate_name(generated, "amq.ctag-");
        tag = slice_str(generated);
    }
    r = mem_zalloc(sizeof(*r));
    do {
        rand_secure(&r->id, sizeof(r->id));
    } while (r->id == 0 ||
             !amqp_ids_claim(&s->front->replies, r->id, s->conn_id, worker_index(s->aw->worker)));
    r->tag = slice_of(mem_strdup_slice(tag), tag.len);
    ch->reply = r;
    if (!m->nowait)
        amqp_put_basic_consume_ok(conn_out(s->conn), ch->number, &(struct amqp_basic_consume_ok){r->tag});
    return 0;
}

void amqp_reply_free(struct amqp_channel *ch)
{
    if (ch->reply == NULL)
        return;
    amqp_ids_drop(&ch->session->front->replies, ch->reply->id);
    mem_free((void *)ch->reply->tag.data);
    mem_free(ch->reply);
    ch->reply = NULL;
}

bool amqp_reply_cancel(struct amqp_channel *ch, struct slice tag)
{
    if (ch->reply == NULL || !slice_eq(ch->reply->tag, tag))
        return false;
    amqp_reply_free(ch);
    return true;
}

bool amqp_reply_lives(struct amqp_front *f, struct slice name)
{
    uint64_t id = name_id(name), conn_id;
    unsigned worker;

    return id != 0 && amqp_ids_find(&f->replies, id, &conn_id, &worker);
}

/* On the worker of the channel that asked. */
static void deliver(struct worker *w, struct mail *mail)
{
    struct reply_mail *m = CONTAINER_OF(mail, struct reply_mail, mail);
    struct conn *c = worker_find_conn(w, m->conn_id);
    struct amqp_session *s = c == NULL || c->ops != amqp_front_ops(m->front) ? NULL : c->session;
    struct slice key = slice_of(m->bytes, m->key_len),
                 properties = slice_of(m->bytes + m->key_len, m->properties_len);

    for (uint32_t i = 0; s != NULL && s->state == AMQP_RUNNING && i < s->channel_count; i++) {
        struct amqp_channel *ch = s->channels[i];

        if (ch->reply == NULL || ch->reply->id != m->id || ch->state != AMQP_CHANNEL_OPEN ||
            conn_output_full(c))
            continue;
        amqp_put_basic_deliver(conn_out(c), ch->number,
                               &(struct amqp_basic_deliver){.consumer_tag = ch->reply->tag,
                                                            .delivery_tag = amqp_unacked_skip(&ch->unacked),
                                                            .routing_key = key});
        amqp_put_content(conn_out(c), ch->number, s->frame_max, properties,
                         slice_of(properties.data + properties.len, m->body_len));
        amqp_count(&s->aw->count.delivered, 1);
        break;
    }
    mem_free(m);
}

bool amqp_reply_send(struct amqp_session *from, const struct amqp_content *c)
{
    struct amqp_front *f = from->front;
    uint64_t id = name_id(c->routing_key), conn_id;
    struct reply_mail *m;
    unsigned worker;
    uint8_t *p;

    if (id == 0 || !amqp_ids_find(&f->replies, id, &conn_id, &worker))
        return false;
    m = mem_alloc(sizeof(*m) + c->routing_key.len + c->properties.len + c->body.len);
    *m = (struct reply_mail){.mail.deliver = deliver,
                             .front = f,
                             .id = id,
                             .conn_id = conn_id,
                             .key_len = c->routing_key.len,
                             .properties_len = c->properties.len,
                             .body_len = c->body.len};
    p = m->bytes;
    memcpy(p, c->routing_key.data, c->routing_key.len);
    memcpy(p + c->routing_key.len, c->properties.data, c->properties.len);
    if (c->body.len != 0)
        memcpy(p + c->routing_key.len + c->properties.len, c->body.data, c->body.len);
    worker_post(f->workers[worker].worker, &m->mail);
    return true;
}
