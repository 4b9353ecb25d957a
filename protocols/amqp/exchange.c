/* Class exchange: declare, delete, bind, unbind. */
#include "cluster/topology/commands.h"
#include "protocols/amqp/queues.h"

static const struct {
    const char *name;
    enum topo_exchange_type type;
} types[] = {
    {"direct", TOPO_DIRECT}, {"fanout", TOPO_FANOUT}, {"topic", TOPO_TOPIC}, {"headers", TOPO_HEADERS}};

static const char *type_name(enum topo_exchange_type type)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (types[i].type == type)
            return types[i].name;
    }
    return "unknown";
}

static int proposal_failed(struct amqp_channel *ch, int err)
{
    return amqp_fail(ch, AMQP_INTERNAL_ERROR, "the metadata store refused the change: %s", err_text(err));
}

static bool is_reserved(struct slice name)
{
    return name.len >= 4 && memcmp(name.data, "amq.", 4) == 0;
}

static int default_exchange(struct amqp_channel *ch)
{
    return amqp_fail(ch, AMQP_ACCESS_REFUSED, "operation not permitted on the default exchange");
}

static int declare_ok(struct amqp_channel *ch, bool nowait)
{
    if (!nowait)
        amqp_put_exchange_declare_ok(conn_out(ch->session->conn), ch->number,
                                     &(struct amqp_exchange_declare_ok){});
    return 0;
}

static bool equivalent(struct amqp_channel *ch, const struct topo_exchange *x, enum topo_exchange_type type,
                       const struct amqp_exchange_declare *m)
{
    static const char *const compared_args[] = {"alternate-exchange", NULL};
    char text[AMQP_RS_MAX];

    if (x->type != type) {
        amqp_fail(
            ch, AMQP_PRECONDITION_FAILED, "inequivalent arg 'type' for %s: received '%s' but current is '%s'",
            amqp_rs(text, AMQP_EXCHANGE, x->name, ch->session->vhost), type_name(type), type_name(x->type));
        return false;
    }
    return amqp_bit_equivalent(ch, AMQP_EXCHANGE, x->name, "durable", x->durable, m->durable) &&
           amqp_bit_equivalent(ch, AMQP_EXCHANGE, x->name, "auto_delete", x->auto_delete, m->auto_delete) &&
           amqp_bit_equivalent(ch, AMQP_EXCHANGE, x->name, "internal", x->internal, m->internal) &&
           amqp_args_equivalent(ch, AMQP_EXCHANGE, x->name, x->args, m->arguments, compared_args);
}

static int declare_passive(struct amqp_channel *ch, const struct amqp_exchange_declare *m)
{
    struct amqp_session *s = ch->session;
    char text[AMQP_RS_MAX];

    if (m->exchange.len == 0)
        return default_exchange(ch);
    amqp_rs(text, AMQP_EXCHANGE, m->exchange, s->vhost);
    if (!amqp_allowed(s, AMQP_CONFIGURE, m->exchange) && !amqp_allowed(s, AMQP_WRITE, m->exchange) &&
        !amqp_allowed(s, AMQP_READ, m->exchange))
        return amqp_fail(ch, AMQP_ACCESS_REFUSED, "access to %s refused for user '%.*s'", text,
                         SLICE_FMT(s->user));
    if (topo_exchange_find(amqp_session_view(s), s->vhost, m->exchange) == NULL)
        return amqp_fail(ch, AMQP_NOT_FOUND, "no %s", text);
    return declare_ok(ch, m->nowait);
}

int amqp_on_exchange_declare(struct amqp_channel *ch, const struct amqp_exchange_declare *m)
{
    struct amqp_session *s = ch->session;
    struct amqp_wait *w = s->wait;
    const struct topo_exchange *x;
    struct amqp_value alternate;
    char text[AMQP_RS_MAX];
    size_t t = 0;

    if (m->passive)
        return declare_passive(ch, m);
    while (t < ARRAY_LEN(types) && !slice_eq(m->type, slice_str(types[t].name)))
        t++;
    if (t == ARRAY_LEN(types))
        return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "unknown exchange type '%.*s'", SLICE_FMT(m->type));
    if (m->exchange.len == 0)
        return default_exchange(ch);
    if (w != NULL && w->answered) {
        int err = w->proposal.err;

        w->answered = w->proposed = false;
        if (err < 0 && err != ERR_MISMATCH && err != ERR_EXISTS)
            return proposal_failed(ch, err);
    }
    if (!amqp_permitted(ch, AMQP_CONFIGURE, AMQP_EXCHANGE, m->exchange))
        return 0;
    x = topo_exchange_find(amqp_session_view(s), s->vhost, m->exchange);
    if (x != NULL)
        return equivalent(ch, x, types[t].type, m) ? declare_ok(ch, m->nowait) : 0;
    if (is_reserved(m->exchange))
        return amqp_fail(ch, AMQP_ACCESS_REFUSED, "exchange name '%.*s' contains reserved prefix 'amq.*'",
                         SLICE_FMT(m->exchange));
    if (amqp_table_find(m->arguments, "alternate-exchange", &alternate)) {
        if (alternate.type != 'S')
            return amqp_fail(
                ch, AMQP_PRECONDITION_FAILED, "invalid type '%s' for arg 'alternate-exchange' in %s",
                amqp_value_type_name(&alternate), amqp_rs(text, AMQP_EXCHANGE, m->exchange, s->vhost));
        if (!amqp_permitted(ch, AMQP_READ, AMQP_EXCHANGE, m->exchange) ||
            !amqp_permitted(ch, AMQP_WRITE, AMQP_EXCHANGE, alternate.bytes))
            return 0;
    }
    w = amqp_session_wait(s);
    buf_clear(&w->proposal.command);
    topo_cmd_exchange_declare(&w->proposal.command, s->vhost, m->exchange, types[t].type, m->durable,
                              m->auto_delete, m->internal, m->arguments);
    return amqp_propose(s);
}

int amqp_on_exchange_delete(struct amqp_channel *ch, const struct amqp_exchange_delete *m)
{
    struct amqp_session *s = ch->session;
    struct amqp_wait *w = s->wait;
    char text[AMQP_RS_MAX];
    bool done = false;

    amqp_rs(text, AMQP_EXCHANGE, m->exchange, s->vhost);
    if (w != NULL && w->answered) {
        int err = w->proposal.err;

        w->answered = w->proposed = false;
        if (err == ERR_IN_USE)
            return amqp_fail(ch, AMQP_PRECONDITION_FAILED, "%s in use", text);
        if (err < 0 && err != ERR_NOT_FOUND)
            return proposal_failed(ch, err);
        done = true;
    }
    if (m->exchange.len == 0)
        return default_exchange(ch);
    if (is_reserved(m->exchange))
        return amqp_fail(ch, AMQP_ACCESS_REFUSED, "deletion of system %s not allowed", text);
    if (!amqp_permitted(ch, AMQP_CONFIGURE, AMQP_EXCHANGE, m->exchange))
        return 0;
    /* An absent one counts as deleted, since RabbitMQ 3.2. */
    if (done || topo_exchange_find(amqp_session_view(s), s->vhost, m->exchange) == NULL) {
        if (!m->nowait)
            amqp_put_exchange_delete_ok(conn_out(s->conn), ch->number, &(struct amqp_exchange_delete_ok){});
        return 0;
    }
    w = amqp_session_wait(s);
    buf_clear(&w->proposal.command);
    topo_cmd_exchange_delete(&w->proposal.command, s->vhost, m->exchange, m->if_unused);
    return amqp_propose(s);
}

int amqp_on_exchange_bind(struct amqp_channel *ch, const struct amqp_exchange_bind *m)
{
    bool done;
    int r =
        amqp_bind(ch, true, AMQP_EXCHANGE, m->destination, m->source, m->routing_key, m->arguments, &done);

    if (done && !m->nowait)
        amqp_put_exchange_bind_ok(conn_out(ch->session->conn), ch->number, &(struct amqp_exchange_bind_ok){});
    return r;
}

int amqp_on_exchange_unbind(struct amqp_channel *ch, const struct amqp_exchange_unbind *m)
{
    bool done;
    int r =
        amqp_bind(ch, false, AMQP_EXCHANGE, m->destination, m->source, m->routing_key, m->arguments, &done);

    if (done && !m->nowait)
        amqp_put_exchange_unbind_ok(conn_out(ch->session->conn), ch->number,
                                    &(struct amqp_exchange_unbind_ok){});
    return r;
}
