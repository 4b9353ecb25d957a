/* Arguments of queue.declare: which are known, what they may be, what they mean to the engine. Texts are
 * rabbit_amqqueue's. */
#include <inttypes.h>

#include "protocols/amqp/queues.h"

#define EXPIRY_MAX_MS 315360000000 /* ten years */

enum arg_type {
    ARG_EXPIRES,
    ARG_TTL,
    ARG_NON_NEGATIVE,
    ARG_PRIORITY,
    ARG_BOOL,
    ARG_OVERFLOW,
    ARG_TYPE,
    ARG_TEXT,
    ARG_REFUSED
};

static const struct {
    const char *name;
    enum arg_type type;
} known_args[] = {
    {"x-expires", ARG_EXPIRES},
    {"x-message-ttl", ARG_TTL},
    {"x-max-length", ARG_NON_NEGATIVE},
    {"x-max-length-bytes", ARG_NON_NEGATIVE},
    {"x-max-priority", ARG_PRIORITY},
    {"x-single-active-consumer", ARG_BOOL},
    {"x-overflow", ARG_OVERFLOW},
    {"x-queue-type", ARG_TYPE},
    {"x-queue-mode", ARG_TEXT},
    {"x-queue-master-locator", ARG_TEXT},
    {"x-queue-leader-locator", ARG_TEXT},
    {"x-queue-version", ARG_NON_NEGATIVE},
    {"x-quorum-initial-group-size", ARG_NON_NEGATIVE},
    /* What would change what happens to messages but is not served is refused, not ignored. */
    {"x-dead-letter-exchange", ARG_REFUSED},
    {"x-dead-letter-routing-key", ARG_REFUSED},
    {"x-dead-letter-strategy", ARG_REFUSED},
    {"x-delivery-limit", ARG_REFUSED},
};

static bool is_word(const struct amqp_value *v, const char *word)
{
    return v->type == 'S' && slice_eq(v->bytes, slice_str(word));
}

/* Writes why a value is wrong; "" when it is right. */
static void check_value(enum arg_type type, const struct amqp_value *v, char *why, size_t size)
{
    bool integer = amqp_value_is_integer(v);

    why[0] = '\0';
    switch (type) {
    case ARG_EXPIRES:
    case ARG_TTL:
    case ARG_NON_NEGATIVE:
    case ARG_PRIORITY:
        if (!integer)
            snprintf(why, size, "\"expected integer, got %s\"", amqp_value_type_name(v));
        else if (v->i < 0)
            snprintf(why, size, "{value_negative,%" PRId64 "}", v->i);
        else if (type == ARG_EXPIRES && v->i == 0)
            snprintf(why, size, "{value_zero,0}");
        else if (type == ARG_PRIORITY && v->i > 255)
            snprintf(why, size, "{max_value_exceeded,%" PRId64 "}", v->i);
        else if ((type == ARG_EXPIRES || type == ARG_TTL) && v->i > EXPIRY_MAX_MS)
            snprintf(why, size, "{value_too_large,%" PRId64 "}", v->i);
        break;
    case ARG_BOOL:
        if (v->type != 't')
            snprintf(why, size, "{unacceptable_type,%s}", amqp_value_type_name(v));
        break;
    case ARG_OVERFLOW:
        if (v->type != 'S')
            snprintf(why, size, "{unacceptable_type,%s}", amqp_value_type_name(v));
        else if (!is_word(v, "drop-head") && !is_word(v, "reject-publish"))
            snprintf(why, size, "invalid_overflow");
        break;
    case ARG_TYPE:
        if (v->type != 'S')
            snprintf(why, size, "{unacceptable_type,%s}", amqp_value_type_name(v));
        else if (!is_word(v, "classic") && !is_word(v, "quorum"))
            snprintf(why, size, "\"unsupported queue type '%.*s'\"", (int)MIN_OF(v->bytes.len, 100),
                     (const char *)v->bytes.data);
        break;
    case ARG_TEXT:
        if (v->type != 'S')
            snprintf(why, size, "{unacceptable_type,%s}", amqp_value_type_name(v));
        break;
    case ARG_REFUSED:
        snprintf(why, size, "not supported by this server");
        break;
    }
}

static bool is_quorum(struct slice args)
{
    struct amqp_value v;

    return amqp_table_find(args, "x-queue-type", &v) && is_word(&v, "quorum");
}

bool amqp_queue_args_check(struct amqp_channel *ch, struct slice name, const struct amqp_queue_declare *m)
{
    char text[AMQP_RS_MAX], why[160];
    const char *property = NULL;
    struct amqp_value v;

    amqp_rs(text, AMQP_QUEUE, name, ch->session->vhost);
    for (size_t i = 0; i < ARRAY_LEN(known_args); i++) {
        if (!amqp_table_find(m->arguments, known_args[i].name, &v))
            continue;
        check_value(known_args[i].type, &v, why, sizeof(why));
        if (why[0] != '\0') {
            amqp_fail(ch, AMQP_PRECONDITION_FAILED, "invalid arg '%s' for %s: %s", known_args[i].name, text,
                      why);
            return false;
        }
    }
    if (is_quorum(m->arguments)) {
        if (!m->durable)
            property = "non-durable";
        else if (m->exclusive)
            property = "exclusive-owner";
        else if (m->auto_delete)
            property = "auto-delete";
        if (property != NULL) {
            amqp_fail(ch, AMQP_PRECONDITION_FAILED, "invalid property '%s' for %s", property, text);
            return false;
        }
        if (m->queue.len == 0) {
            amqp_fail(ch, AMQP_PRECONDITION_FAILED, "Cannot declare a server-named queue for type quorum");
            return false;
        }
        if (amqp_table_find(m->arguments, "x-max-priority", &v)) {
            amqp_fail(ch, AMQP_PRECONDITION_FAILED,
                      "invalid arg 'x-max-priority' for %s of queue type rabbit_quorum_queue", text);
            return false;
        }
    }
    return true;
}

static int64_t integer_arg(struct slice args, const char *name)
{
    struct amqp_value v;

    return amqp_table_find(args, name, &v) && amqp_value_is_integer(&v) ? v.i : -1;
}

void amqp_queue_spec(const struct topo_queue *q, struct queue_spec *ret)
{
    struct amqp_value v;
    int64_t priority = integer_arg(q->args, "x-max-priority");

    queue_spec_init(ret, q->id);
    ret->durable = q->durable;
    ret->exclusive = q->exclusive;
    ret->auto_delete = q->auto_delete;
    ret->single_active = amqp_table_find(q->args, "x-single-active-consumer", &v) && v.type == 't' && v.i;
    ret->max_priority = priority > 0 && priority <= 255 ? (uint8_t)priority : 0;
    ret->overflow = amqp_table_find(q->args, "x-overflow", &v) && is_word(&v, "reject-publish")
                        ? QUEUE_REJECT_PUBLISH
                        : QUEUE_DROP_HEAD;
    ret->message_ttl_ms = integer_arg(q->args, "x-message-ttl");
    ret->expires_ms = integer_arg(q->args, "x-expires");
    ret->max_length = integer_arg(q->args, "x-max-length");
    ret->max_length_bytes = integer_arg(q->args, "x-max-length-bytes");
}

/* ---- equivalence with what exists: rabbit_misc's assert_args_equivalence ------------------------------- */

bool amqp_bit_equivalent(struct amqp_channel *ch, enum amqp_kind kind, struct slice name, const char *arg,
                         bool current, bool received)
{
    char text[AMQP_RS_MAX];

    if (current == received)
        return true;
    amqp_fail(ch, AMQP_PRECONDITION_FAILED, "inequivalent arg '%s' for %s: received '%s' but current is '%s'",
              arg, amqp_rs(text, kind, name, ch->session->vhost), received ? "true" : "false",
              current ? "true" : "false");
    return false;
}

static void value_phrase(struct buf *out, const struct amqp_value *v, bool with_type)
{
    if (v->type == 0) {
        buf_put_str(out, "none");
        return;
    }
    buf_put_str(out, with_type ? "the value '" : "'");
    amqp_value_text(v, out);
    buf_put_str(out, "'");
    if (with_type)
        buf_printf(out, " of type '%s'", amqp_value_type_name(v));
}

bool amqp_args_equivalent(struct amqp_channel *ch, enum amqp_kind kind, struct slice name,
                          struct slice current, struct slice received, const char *const *names)
{
    char text[AMQP_RS_MAX];

    for (; *names != NULL; names++) {
        struct amqp_value have, want;
        struct buf phrase = {0};
        bool with_type;

        amqp_table_find(current, *names, &have);
        amqp_table_find(received, *names, &want);
        if (have.type == want.type ? have.type == 0 || amqp_value_eq(&have, &want)
                                   : have.type != 0 && want.type != 0 && amqp_value_eq(&have, &want))
            continue;
        with_type = have.type == 0 || want.type == 0;
        value_phrase(&phrase, &want, with_type);
        buf_put_str(&phrase, " but current is ");
        value_phrase(&phrase, &have, with_type);
        amqp_fail(ch, AMQP_PRECONDITION_FAILED, "inequivalent arg '%s' for %s: received %.*s", *names,
                  amqp_rs(text, kind, name, ch->session->vhost), SLICE_FMT(buf_slice(&phrase)));
        buf_fini(&phrase);
        return false;
    }
    return true;
}
