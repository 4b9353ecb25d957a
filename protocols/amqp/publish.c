/* basic.publish: method, header and body frames become one gathered publish (content.h, batch.h). */
#include "base/mem.h"
#include "protocols/amqp/batch.h"
#include "protocols/amqp/content.h"
#include "protocols/amqp/reply.h"
#include "protocols/amqp/session.h"

/* ---- content ------------------------------------------------------------------------------------------- */

static void content_reset(struct amqp_channel *ch)
{
    struct amqp_session *s = ch->session;

    if (s->borrowing == ch)
        s->borrowing = NULL;
    ch->content.stage = AMQP_CONTENT_NONE;
    ch->content.borrowed = false;
}

void amqp_content_drop(struct amqp_channel *ch)
{
    ch->session->content_bytes -= ch->content.held.len;
    buf_fini(&ch->content.held);
    content_reset(ch);
}

static void own_slice(struct buf *b, struct slice *s)
{
    struct slice copy = slice_of(b->data + b->len, s->len);

    buf_put_slice(b, *s);
    *s = copy;
}

/* Exchange, key and properties go first, in `held`; then the body grows behind them. As the buffer may move,
 * the slices are offsets from its start, resolved when the message is complete. Here the first three are
 * copied and remembered by length. */
void amqp_content_own(struct amqp_channel *ch)
{
    struct amqp_content *c = &ch->content;
    struct buf held = {0};

    if (!c->borrowed)
        return;
    CHECK(c->held.len == 0);
    buf_reserve(&held, c->exchange.len + c->routing_key.len + c->properties.len + c->body.len + 1);
    own_slice(&held, &c->exchange);
    own_slice(&held, &c->routing_key);
    own_slice(&held, &c->properties);
    buf_put_slice(&held, c->body);
    c->body = SLICE_NONE;
    buf_fini(&c->held);
    c->held = held;
    c->borrowed = false;
    ch->session->content_bytes += held.len;
    ch->session->borrowing = NULL;
}

/* Makes the slices of an owned content point into `held`, wherever it lies now. */
static void content_resolve(struct amqp_content *c)
{
    const uint8_t *p = c->held.data;

    c->exchange.data = p;
    p += c->exchange.len;
    c->routing_key.data = p;
    p += c->routing_key.len;
    c->properties.data = p;
    p += c->properties.len;
    c->body = slice_of(p, (size_t)(c->held.data + c->held.len - p));
}

/* ---- routes -------------------------------------------------------------------------------------------- */

static uint32_t route_slot(struct slice exchange, struct slice key)
{
    uint32_t h = 2166136261u ^ (uint32_t)exchange.len;

    /* The ends of both names tell most of them apart; a collision only costs a route. */
    for (size_t i = key.len > 8 ? key.len - 8 : 0; i < key.len; i++)
        h = (h ^ key.data[i]) * 16777619u;
    for (size_t i = exchange.len > 4 ? exchange.len - 4 : 0; i < exchange.len; i++)
        h = (h ^ exchange.data[i]) * 16777619u;
    return (h ^ h >> 15) % AMQP_ROUTE_CACHE;
}

/* The route of a message, from the channel's cache or made anew; NULL: the channel was failed.
 * *ret_temporary: free it after use. */
static const struct amqp_route *route_find(struct amqp_channel *ch, const struct amqp_content *c,
                                           struct slice headers, struct amqp_route **ret_temporary)
{
    const struct topology *v = amqp_session_view(ch->session);
    struct amqp_route **cached = &ch->routes[route_slot(c->exchange, c->routing_key)];
    struct amqp_route *route = *cached;
    struct amqp_value copies;
    char text[AMQP_RS_MAX];
    bool special; /* further routing keys in the headers */
    int err;

    *ret_temporary = NULL;
    special = headers.len != 0 &&
              (amqp_table_find(headers, "CC", &copies) || amqp_table_find(headers, "BCC", &copies));
    if (GM_LIKELY(route != NULL && route->index == v->index && !special &&
                  slice_eq(route->routing_key, c->routing_key) && slice_eq(route->exchange, c->exchange)))
        return route;
    if (!amqp_permitted(ch, AMQP_WRITE, AMQP_EXCHANGE, c->exchange))
        return NULL;
    err = amqp_route_make(v, ch->session->vhost, c->exchange, c->routing_key, headers, &route);
    if (err == ERR_NOT_FOUND) {
        amqp_fail(ch, AMQP_NOT_FOUND, "no %s", amqp_rs(text, AMQP_EXCHANGE, c->exchange, ch->session->vhost));
        return NULL;
    }
    if (err == ERR_ACCESS) {
        amqp_fail(ch, AMQP_ACCESS_REFUSED, "cannot publish to internal %s",
                  amqp_rs(text, AMQP_EXCHANGE, c->exchange, ch->session->vhost));
        return NULL;
    }
    if (route->by_headers) {
        *ret_temporary = route;
    } else {
        amqp_route_free(*cached);
        *cached = route;
    }
    return route;
}

/* ---- a whole message ----------------------------------------------------------------------------------- */

/* RabbitMQ's rabbit_basic:parse_expiration: decimal milliseconds. False: the channel was failed. */
static bool read_expiration(struct amqp_channel *ch, struct slice text, int64_t *ret)
{
    int64_t v = 0;
    size_t i = 0;
    bool negative = text.len > 1 && text.data[0] == '-';
    const char *why = NULL;
    char value[64];

    for (i = negative; i < text.len && text.data[i] >= '0' && text.data[i] <= '9' && i < 18; i++)
        v = v * 10 + (text.data[i] - '0');
    if (i == (size_t)negative) {
        why = "no_integer";
    } else if (i < text.len) {
        snprintf(value, sizeof(value), "{leftover_string,\"%.*s\"}", (int)MIN_OF(text.len - i, 32),
                 (const char *)text.data + i);
        why = value;
    } else if (negative || v > 315360000000) {
        snprintf(value, sizeof(value), "{%s,%s%lld}", negative ? "value_negative" : "value_too_large",
                 negative ? "-" : "", (long long)v);
        why = value;
    }
    if (why != NULL) {
        amqp_fail(ch, AMQP_PRECONDITION_FAILED, "invalid expiration '%.*s': %s", SLICE_FMT(text), why);
        return false;
    }
    *ret = v;
    return true;
}

/* user-id, expiration and CC/BCC must hold. False: the channel was failed. */
static bool check_properties(struct amqp_channel *ch, const struct amqp_properties *p,
                             int64_t *ret_expiration)
{
    struct amqp_session *s = ch->session;
    const char *name, *type;

    if (p->flags & AMQP_HAS_user_id && !slice_eq(p->user_id, s->user)) {
        amqp_fail(ch, AMQP_PRECONDITION_FAILED,
                  "user_id property set to '%.*s' but authenticated user was '%.*s'", SLICE_FMT(p->user_id),
                  SLICE_FMT(s->user));
        return false;
    }
    if (p->flags & AMQP_HAS_expiration && !read_expiration(ch, p->expiration, ret_expiration))
        return false;
    if (p->flags & AMQP_HAS_reply_to && ch->reply == NULL &&
        slice_eq(p->reply_to, SLICE_LIT(AMQP_REPLY_QUEUE))) {
        amqp_fail(ch, AMQP_PRECONDITION_FAILED, "fast reply consumer does not exist");
        return false;
    }
    if (p->headers.len != 0 && amqp_route_check_cc(p->headers, &name, &type) < 0) {
        amqp_fail(ch, AMQP_PRECONDITION_FAILED, "invalid message: {unacceptable_type_in_header,\"%s\",%s}",
                  name, type);
        return false;
    }
    return true;
}

/* What is stored differs from what was sent in two ways: BCC is removed (RabbitMQ's sender-selected
 * distribution), and a direct reply-to gets the name of this channel. False: stored as it came; else the new
 * properties are in the worker's scratch. */
static bool rewrite_properties(struct amqp_channel *ch, const struct amqp_properties *p)
{
    struct amqp_properties copy = *p;
    struct buf headers = {0}, *out = &ch->session->aw->scratch;
    char name[AMQP_REPLY_NAME_LEN + 1];
    struct amqp_value v;
    bool changed = false;

    if (p->headers.len != 0 && amqp_table_find(p->headers, "BCC", &v)) {
        amqp_table_copy_without(&headers, p->headers, "BCC");
        copy.headers = buf_slice(&headers);
        changed = true;
    }
    if (ch->reply != NULL && slice_eq(p->reply_to, SLICE_LIT(AMQP_REPLY_QUEUE))) {
        copy.reply_to = amqp_reply_queue_name(ch, name);
        changed = true;
    }
    if (changed) {
        buf_clear(out);
        amqp_properties_write(&copy, out);
    }
    buf_fini(&headers);
    return changed;
}

static void return_message(struct amqp_channel *ch, const struct amqp_content *c)
{
    struct amqp_session *s = ch->session;
    struct buf *out = conn_out(s->conn);

    amqp_count(&s->aw->count.returned, 1);
    amqp_put_basic_return(
        out, ch->number,
        &(struct amqp_basic_return){AMQP_NO_ROUTE, SLICE_LIT("NO_ROUTE"), c->exchange, c->routing_key});
    amqp_put_content(out, ch->number, s->frame_max, c->properties, c->body);
}

int amqp_content_publish(struct amqp_channel *ch)
{
    struct amqp_session *s = ch->session;
    struct amqp_content *c = &ch->content;
    struct amqp_route *temporary;
    const struct amqp_route *route;
    struct amqp_properties properties = {0};
    struct amqp_publish p = {.channel = ch, .expiration_ms = -1};
    bool plain, owned = !c->borrowed;
    struct buf rewritten = {0};
    bool replied = false;

    if (owned)
        content_resolve(c);
    s->method = AMQP_ID_basic_publish;
    plain = c->properties.len == 2 && c->properties.data[0] == 0 && c->properties.data[1] == 0;
    if (!plain) {
        if (amqp_properties_read(c->properties, &properties) < 0) {
            s->method = 0;
            return amqp_connection_fail(s, AMQP_FRAME_ERROR,
                                        "cannot decode the properties of a content header");
        }
        if ((properties.flags &
             (AMQP_HAS_user_id | AMQP_HAS_expiration | AMQP_HAS_headers | AMQP_HAS_reply_to)) &&
            !check_properties(ch, &properties, &p.expiration_ms))
            return 0;
    }
    route = route_find(ch, c, properties.headers, &temporary);
    if (route == NULL)
        return 0;
    amqp_count(&s->aw->count.published, 1);
    s->published = true;
    if (ch->confirming)
        p.confirm = ++ch->published;
    if (route->count == 0 && c->exchange.len == 0 && amqp_reply_is_name(c->routing_key))
        replied = amqp_reply_send(s, c);
    if (route->count == 0 && !replied) {
        amqp_count(&s->aw->count.unroutable, 1);
        if (c->mandatory)
            return_message(ch, c);
    }
    p.exchange = c->exchange;
    p.routing_key = c->routing_key;
    p.properties = c->properties;
    p.body = c->body;
    p.persistent = properties.delivery_mode == 2;
    p.priority = properties.flags & AMQP_HAS_priority ? properties.priority : 0;
    if (properties.flags & (AMQP_HAS_headers | AMQP_HAS_reply_to) && rewrite_properties(ch, &properties)) {
        struct slice cut = buf_slice(&s->aw->scratch);

        /* The rewritten properties take the place of what was held. */
        buf_reserve(&rewritten, c->exchange.len + c->routing_key.len + cut.len + c->body.len + 1);
        p.properties = cut;
        own_slice(&rewritten, &p.exchange);
        own_slice(&rewritten, &p.routing_key);
        own_slice(&rewritten, &p.properties);
        own_slice(&rewritten, &p.body);
    }
    if (route->count != 0 || p.confirm != 0) {
        if (rewritten.data != NULL) {
            amqp_batch_publish(s, &p, route, &rewritten);
        } else if (owned) {
            s->content_bytes -= c->held.len;
            amqp_batch_publish(s, &p, route, &c->held);
        } else {
            amqp_batch_publish(s, &p, route, NULL);
        }
    }
    buf_fini(&rewritten);
    amqp_route_free(temporary);
    if (owned)
        amqp_content_drop(ch);
    else
        content_reset(ch);
    worker_note_oneway(s->aw->worker, 1);
    return 0;
}

/* ---- frames -------------------------------------------------------------------------------------------- */

int amqp_on_basic_publish(struct amqp_channel *ch, const struct amqp_basic_publish *m)
{
    struct amqp_session *s = ch->session;
    struct amqp_content *c = &ch->content;

    if (GM_UNLIKELY(m->immediate))
        return amqp_fail(ch, AMQP_NOT_IMPLEMENTED, "immediate=true");
    if (s->borrowing != NULL)
        amqp_content_own(s->borrowing);
    c->stage = AMQP_CONTENT_HEADER;
    c->mandatory = m->mandatory;
    c->exchange = m->exchange;
    c->routing_key = m->routing_key;
    c->properties = SLICE_NONE;
    c->body = SLICE_NONE;
    c->body_size = c->body_got = 0;
    c->borrowed = true;
    s->borrowing = ch;
    return 0;
}

/* The message is complete. A transaction keeps it, after the checks that do not wait for the commit. */
static int complete(struct amqp_channel *ch)
{
    struct amqp_content *c = &ch->content;
    struct amqp_route *temporary;

    if (GM_LIKELY(ch->tx == NULL))
        return amqp_content_publish(ch);
    if (!c->borrowed)
        content_resolve(c);
    if (route_find(ch, c, SLICE_NONE, &temporary) == NULL)
        return 0;
    amqp_route_free(temporary);
    return amqp_tx_publish(ch);
}

static int content_header(struct amqp_channel *ch, const struct amqp_frame *f)
{
    struct amqp_session *s = ch->session;
    struct amqp_content *c = &ch->content;
    const uint64_t body_max = AMQP_LIMIT(s, max_message_bytes);
    struct slice properties;
    uint16_t class_id;

    if (amqp_content_header_read(f->payload, &class_id, &c->body_size, &properties) < 0) {
        s->method = 0;
        return amqp_connection_fail(s, AMQP_FRAME_ERROR, "cannot decode a content header");
    }
    if (class_id != AMQP_CLASS_BASIC)
        return amqp_connection_fail(s, AMQP_UNEXPECTED_FRAME,
                                    "expected content header for class 60, got one for class %u instead",
                                    class_id);
    if (c->body_size > body_max)
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED,
                         "message size %llu is larger than configured max size %llu",
                         (unsigned long long)c->body_size, (unsigned long long)body_max);
    c->properties = properties;
    if (!c->borrowed) {
        /* Only exchange and key are held so far. */
        buf_put_slice(&c->held, properties);
        s->content_bytes += properties.len;
    }
    c->stage = AMQP_CONTENT_BODY;
    return c->body_size == 0 ? complete(ch) : 0;
}

static int content_body(struct amqp_channel *ch, const struct amqp_frame *f)
{
    struct amqp_session *s = ch->session;
    struct amqp_content *c = &ch->content;

    c->body_got += f->payload.len;
    if (c->body_got > c->body_size) {
        s->method = 0;
        return amqp_connection_fail(
            s, AMQP_FRAME_ERROR, "content body of %llu octets is larger than the %llu its header announced",
            (unsigned long long)c->body_got, (unsigned long long)c->body_size);
    }
    if (c->borrowed && c->body.len == 0 && c->body_got == c->body_size) {
        c->body = f->payload;
        return complete(ch);
    }
    amqp_content_own(ch);
    if (s->content_bytes + f->payload.len > s->front->o.max_content_bytes && s->content_bytes > c->held.len)
        return amqp_connection_fail(
            s, AMQP_NOT_ALLOWED,
            "more than %llu octets of unfinished messages on the channels of this connection",
            (unsigned long long)s->front->o.max_content_bytes);
    buf_put_slice(&c->held, f->payload);
    s->content_bytes += f->payload.len;
    return c->body_got == c->body_size ? complete(ch) : 0;
}

int amqp_content_frame(struct amqp_channel *ch, const struct amqp_frame *f)
{
    struct amqp_session *s = ch->session;

    s->method = 0;
    switch (ch->content.stage) {
    case AMQP_CONTENT_HEADER:
        if (f->type == AMQP_FRAME_CONTENT_HEADER)
            return content_header(ch, f);
        return amqp_connection_fail(
            s, AMQP_UNEXPECTED_FRAME,
            "expected content header for class 60, got non content header frame instead");
    case AMQP_CONTENT_BODY:
        if (f->type == AMQP_FRAME_BODY)
            return content_body(ch, f);
        return amqp_connection_fail(s, AMQP_UNEXPECTED_FRAME,
                                    "expected content body, got non content body frame instead");
    case AMQP_CONTENT_NONE:
        break;
    }
    return amqp_connection_fail(s, AMQP_UNEXPECTED_FRAME,
                                "expected method frame, got non method frame instead");
}
