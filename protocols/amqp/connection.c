/* Class connection: login, tuning, opening a vhost, ending. Section 2.2.4 and RabbitMQ's rabbit_reader. */
#include "base/diag.h"
#include "base/mem.h"
#include "protocols/amqp/batch.h"
#include "protocols/amqp/session.h"

static const char *state_name(enum amqp_state state)
{
    static const char *const names[] = {"pre_init", "starting", "tuning", "opening",
                                        "running",  "closing",  "closed"};

    return names[state];
}

int amqp_connection_method(struct amqp_session *s, uint32_t id, struct slice fields)
{
    s->method = id;
    worker_note_reply(s->aw->worker);
    switch (id) {
#define ON(class, method)                                                                                    \
    case AMQP_ID_##class##_##method: {                                                                       \
        struct amqp_##class##_##method m;                                                                    \
                                                                                                             \
        if (amqp_get_##class##_##method(fields, &m) < 0)                                                     \
            return amqp_connection_fail(s, AMQP_FRAME_ERROR, "cannot decode method %s.%s", #class, #method); \
        return amqp_on_##class##_##method(s, &m);                                                            \
    }
#define ON_connection(method) ON(connection, method)
#define ON_channel(method)
#define ON_access(method)
#define ON_exchange(method)
#define ON_queue(method)
#define ON_basic(method)
#define ON_tx(method)
#define ON_confirm(method)
#define CLIENT(class, class_id, method, method_id, sync, list) ON_##class(method)
#define SERVER(class, class_id, method, method_id, sync, list)
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef CLIENT
#undef SERVER
#undef BOTH
#undef ON
    default:
        if (amqp_method_find(id) == NULL)
            return amqp_connection_fail(s, AMQP_COMMAND_INVALID, "unknown method {%u,%u}", id >> 16,
                                        id & 0xffff);
        return amqp_connection_fail(s, AMQP_CHANNEL_ERROR, "unexpected method in connection state %s",
                                    state_name(s->state));
    }
}

static int wrong_state(struct amqp_session *s)
{
    return amqp_connection_fail(s, AMQP_CHANNEL_ERROR, "unexpected method in connection state %s",
                                state_name(s->state));
}

static void read_capabilities(struct amqp_session *s, struct slice client_properties)
{
    static const struct {
        const char *name;
        uint8_t bit;
    } known[] = {{"authentication_failure_close", AMQP_CAP_AUTH_FAILURE_CLOSE},
                 {"connection.blocked", AMQP_CAP_BLOCKED},
                 {"consumer_cancel_notify", AMQP_CAP_CANCEL_NOTIFY}};
    struct amqp_value capabilities, v;

    if (!amqp_table_find(client_properties, "capabilities", &capabilities) || capabilities.type != 'F')
        return;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (amqp_table_find(capabilities.bytes, known[i].name, &v) && v.type == 't' && v.i)
            s->capabilities |= known[i].bit;
    }
}

/* A client that declared it wants to know is told; others just lose the connection, as they expect from
 * RabbitMQ. */
static int login_refused(struct amqp_session *s, struct slice mechanism)
{
    amqp_count(&s->aw->count.login_failures, 1);
    s->method = 0;
    if (s->capabilities & AMQP_CAP_AUTH_FAILURE_CLOSE) {
        amqp_connection_fail(
            s, AMQP_ACCESS_REFUSED,
            "Login was refused using authentication mechanism %.*s. For details see the broker logfile.",
            SLICE_FMT(mechanism));
        return 0;
    }
    s->state = AMQP_CLOSED;
    conn_close_soon(s->conn, ERR_AUTH);
    return 0;
}

int amqp_on_connection_start_ok(struct amqp_session *s, const struct amqp_connection_start_ok *m)
{
    int err = 0;

    if (s->state != AMQP_STARTING)
        return wrong_state(s);
    read_capabilities(s, m->client_properties);
    if (!slice_eq(m->mechanism, SLICE_LIT("PLAIN")) && !slice_eq(m->mechanism, SLICE_LIT("AMQPLAIN")))
        return amqp_connection_fail(s, AMQP_COMMAND_INVALID, "unknown authentication mechanism '%.*s'",
                                    SLICE_FMT(m->mechanism));
    if (!amqp_authenticate(s, m->mechanism, m->response, &err)) {
        if (err == ERR_SYNTAX)
            return amqp_connection_fail(s, AMQP_SYNTAX_ERROR, "response of %zu octets invalid",
                                        m->response.len);
        return login_refused(s, m->mechanism);
    }
    amqp_count(&s->aw->count.logins, 1);
    s->state = AMQP_TUNING;
    amqp_put_connection_tune(conn_out(s->conn), 0,
                             &(struct amqp_connection_tune){s->channel_max, s->frame_max, AMQP_LIMIT(s, heartbeat_s)});
    return 0;
}

/* Only a multi-step mechanism would ask for it. */
int amqp_on_connection_secure_ok(struct amqp_session *s, const struct amqp_connection_secure_ok *m)
{
    (void)m;
    return wrong_state(s);
}

int amqp_on_connection_tune_ok(struct amqp_session *s, const struct amqp_connection_tune_ok *m)
{
    /* As the session began, which is what was offered. */
    const uint32_t frame_max = s->frame_max;
    const uint16_t channel_max = s->channel_max;

    if (s->state != AMQP_TUNING)
        return wrong_state(s);
    s->method = AMQP_ID_connection_tune;
    if (m->frame_max != 0 && m->frame_max < AMQP_FRAME_MIN)
        return amqp_connection_fail(s, AMQP_NOT_ALLOWED,
                                    "negotiated frame_max = %u is lower than the minimum allowed value (%u)",
                                    m->frame_max, AMQP_FRAME_MIN);
    if (m->frame_max == 0 || m->frame_max > frame_max)
        return amqp_connection_fail(
            s, AMQP_NOT_ALLOWED, "negotiated frame_max = %u%s is higher than the maximum allowed value (%u)",
            m->frame_max, m->frame_max == 0 ? " (no limit)" : "", frame_max);
    if (m->channel_max == 0 || m->channel_max > channel_max)
        return amqp_connection_fail(
            s, AMQP_NOT_ALLOWED,
            "negotiated channel_max = %u%s is higher than the maximum allowed value (%u)", m->channel_max,
            m->channel_max == 0 ? " (no limit)" : "", channel_max);
    s->frame_max = m->frame_max;
    s->channel_max = m->channel_max;
    s->heartbeat_s = m->heartbeat;
    s->last_sent_us = worker_now_us(s->aw->worker);
    s->state = AMQP_OPENING;
    return 0;
}

/* The vhost must exist and the user must have an entry of permissions in it; what it may do there is asked at
 * each use. */
static bool vhost_allowed(struct amqp_session *s, struct slice vhost)
{
    const struct topology *v = amqp_session_view(s);

    if (topo_vhost_find(v, vhost) == NULL) {
        amqp_connection_fail(s, AMQP_NOT_ALLOWED, "vhost %.*s not found", SLICE_FMT(vhost));
        return false;
    }
    if (topo_permission_find(v, s->user, vhost) == NULL) {
        amqp_connection_fail(s, AMQP_NOT_ALLOWED, "access to vhost '%.*s' refused for user '%.*s'",
                             SLICE_FMT(vhost), SLICE_FMT(s->user));
        return false;
    }
    return true;
}

int amqp_on_connection_open(struct amqp_session *s, const struct amqp_connection_open *m)
{
    if (s->state != AMQP_OPENING)
        return wrong_state(s);
    if (!vhost_allowed(s, m->virtual_host))
        return 0;
    s->vhost = slice_of(mem_strdup_slice(m->virtual_host), m->virtual_host.len);
    s->state = AMQP_RUNNING;
    amqp_put_connection_open_ok(conn_out(s->conn), 0, &(struct amqp_connection_open_ok){});
    return 0;
}

/* Unsettled deliveries are requeued and exclusive queues deleted before close-ok goes out, so that who waits
 * for it finds it done. */
int amqp_on_connection_close(struct amqp_session *s, const struct amqp_connection_close *m)
{
    (void)m;
    if (amqp_batch_flush(s) == ERR_PARKED)
        return AMQP_AGAIN;
    while (s->channel_count != 0) {
        struct amqp_channel *ch = s->channels[s->channel_count - 1];

        if (amqp_channel_drain(ch) == ERR_PARKED)
            return AMQP_AGAIN;
        amqp_channel_free(ch);
    }
    if (!amqp_exclusive_delete_all(s, true)) {
        amqp_session_park(s);
        return AMQP_AGAIN;
    }
    amqp_put_connection_close_ok(conn_out(s->conn), 0, &(struct amqp_connection_close_ok){});
    s->state = AMQP_CLOSED;
    conn_close_soon(s->conn, ERR_CLOSED);
    return 0;
}

/* We are not closing (session.c sees those), so nobody asked. */
int amqp_on_connection_close_ok(struct amqp_session *s, const struct amqp_connection_close_ok *m)
{
    (void)m;
    return wrong_state(s);
}

/* RabbitMQ's renewal of a credential. Its internal users have none that expires, so any secret will do, as
 * there; access to the vhost is asked again. */
int amqp_on_connection_update_secret(struct amqp_session *s, const struct amqp_connection_update_secret *m)
{
    (void)m;
    if (s->state != AMQP_RUNNING)
        return wrong_state(s);
    if (topo_user_find(amqp_session_view(s), s->user) == NULL)
        return amqp_connection_fail(s, AMQP_NOT_ALLOWED, "New secret was refused by one of the backends");
    if (!vhost_allowed(s, s->vhost))
        return 0;
    amqp_put_connection_update_secret_ok(conn_out(s->conn), 0, &(struct amqp_connection_update_secret_ok){});
    return 0;
}
