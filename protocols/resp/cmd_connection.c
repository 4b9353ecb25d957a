/* Connections: HELLO, AUTH and what a client says about itself; https://redis.io/commands/?group=connection.
 * CLIENT's walks are in cmd_client.c. */
#include "base/err.h"
#include "base/mem.h"
#include "protocols/resp/blocked.h"
#include "protocols/resp/handlers.h"
#include "protocols/resp/pubsub.h"
#include "protocols/resp/transaction.h"

void cmd_ping(struct exec *x)
{
    if (x->argc > 2) {
        reply_errorf(&x->r, "ERR wrong number of arguments for '%s' command", x->cmd->name);
        return;
    }
    /* RESP2 subscribers only understand messages. */
    if (session_is_subscribed(x->s) && x->s->proto == 2) {
        reply_array(&x->r, 2);
        reply_bulk(&x->r, SLICE_LIT("pong"));
        reply_bulk(&x->r, x->argc == 2 ? x->argv[1] : SLICE_LIT(""));
    } else if (x->argc == 2) {
        reply_bulk(&x->r, x->argv[1]);
    } else {
        REPLY_LIT(&x->r, "+PONG\r\n");
    }
}

void cmd_echo(struct exec *x)
{
    reply_bulk(&x->r, x->argv[1]);
}

void cmd_select(struct exec *x)
{
    int64_t db;

    if (!exec_arg_int(x, 1, &db))
        return;
    if (db < 0 || db >= KV_DATABASES) {
        reply_error(&x->r, "ERR DB index is out of range");
        return;
    }
    if (db != 0 && x->w->front->o.cluster_mode) {
        reply_error(&x->r, "ERR SELECT is not allowed in cluster mode");
        return;
    }
    x->s->db = (uint32_t)db;
    reply_ok(&x->r);
}

void cmd_quit(struct exec *x)
{
    reply_ok(&x->r);
    conn_close_soon(x->s->c, ERR_CLOSED);
}

/* ---- who the client is ---- */

static bool login(struct exec *x, struct slice user, struct slice password)
{
    struct session *s = x->s;
    const struct resp_options *o = &x->w->front->o;
    /* The user "default" has no password: any is right, as for `nopass` users of Redis. */
    bool is_default = slice_eq(user, SLICE_LIT("default"));

    if (!is_default && (o->login == NULL || !o->login(o->login_arg, user, password))) {
        reply_err(&x->r, ERR_AUTH);
        return false;
    }
    mem_free(s->user);
    s->user = is_default ? NULL : mem_strdup_slice(user);
    s->authenticated = true;
    return true;
}

void cmd_auth(struct exec *x)
{
    if (x->argc > 3) {
        exec_syntax_error(x);
        return;
    }
    if (x->argc == 2) {
        reply_error(&x->r, "ERR AUTH <password> called without any password configured for the default user. "
                           "Are you sure your configuration is correct?");
        return;
    }
    if (login(x, x->argv[1], x->argv[2]))
        reply_ok(&x->r);
}

static bool printable(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i] < '!' || s.data[i] > '~')
            return false;
    return true;
}

static void set_text(char **at, struct slice s)
{
    mem_free(*at);
    *at = s.len == 0 ? NULL : mem_strdup_slice(s);
}

static bool set_name(struct exec *x, struct slice name)
{
    if (!printable(name) || name.len > 4096) {
        reply_error(&x->r, "ERR Client names cannot contain spaces, newlines or special characters.");
        return false;
    }
    set_text(&x->s->name, name);
    return true;
}

void cmd_hello(struct exec *x)
{
    struct session *s = x->s;
    int64_t proto = s->proto;
    uint32_t auth = 0, name = 0;

    if (x->argc > 1) {
        if (!slice_to_i64(x->argv[1], &proto)) {
            reply_error(&x->r, "ERR Protocol version is not an integer or out of range");
            return;
        }
        if (proto < 2 || proto > 3) {
            reply_error(&x->r, "NOPROTO unsupported protocol version");
            return;
        }
    }
    for (uint32_t i = 2; i < x->argc; i++) {
        if (exec_arg_is(x, i, "auth") && i + 2 < x->argc) {
            auth = i + 1;
            i += 2;
        } else if (exec_arg_is(x, i, "setname") && i + 1 < x->argc) {
            name = ++i;
        } else {
            reply_errorf(&x->r, "ERR Syntax error in HELLO option '%.*s'",
                         (int)MIN_OF(x->argv[i].len, (size_t)128), (const char *)x->argv[i].data);
            return;
        }
    }
    if (auth != 0 && !login(x, x->argv[auth], x->argv[auth + 1]))
        return;
    if (!s->authenticated) {
        reply_error(&x->r, "NOAUTH HELLO must be called with the client already authenticated, otherwise the "
                           "HELLO <proto> AUTH "
                           "<user> <pass> option can be used to authenticate the client and select the RESP "
                           "protocol version at the same time");
        return;
    }
    if (name != 0 && !set_name(x, x->argv[name]))
        return;
    s->proto = (uint8_t)proto;
    x->r.proto = s->proto;
    reply_map(&x->r, 7);
    reply_bulk_str(&x->r, "server");
    reply_bulk_str(&x->r, "redis");
    reply_bulk_str(&x->r, "version");
    reply_bulk_str(&x->r, RESP_REDIS_VERSION);
    reply_bulk_str(&x->r, "proto");
    reply_int(&x->r, s->proto);
    reply_bulk_str(&x->r, "id");
    reply_int(&x->r, (int64_t)s->c->id);
    reply_bulk_str(&x->r, "mode");
    reply_bulk_str(&x->r, x->w->front->o.cluster_mode ? "cluster" : "standalone");
    reply_bulk_str(&x->r, "role");
    reply_bulk_str(&x->r, "master");
    reply_bulk_str(&x->r, "modules");
    reply_array(&x->r, 0);
}

void cmd_reset(struct exec *x)
{
    struct session *s = x->s;

    transaction_drop(s);
    pubsub_drop(s);
    set_text(&s->name, SLICE_NONE);
    mem_free(s->user);
    s->user = NULL;
    s->db = 0;
    s->proto = 2;
    s->no_evict = s->no_touch = s->reply_off = s->reply_skip = s->readonly = false;
    x->r.proto = 2;
    REPLY_LIT(&x->r, "+RESET\r\n");
}

/* ---- CLIENT, about this connection ---- */

void cmd_client_id(struct exec *x)
{
    reply_int(&x->r, (int64_t)x->s->c->id);
}

void cmd_client_setname(struct exec *x)
{
    if (set_name(x, x->argv[2]))
        reply_ok(&x->r);
}

void cmd_client_getname(struct exec *x)
{
    if (x->s->name == NULL)
        reply_null(&x->r);
    else
        reply_bulk_str(&x->r, x->s->name);
}

void cmd_client_setinfo(struct exec *x)
{
    bool is_name = exec_arg_is(x, 2, "lib-name");

    if (!is_name && !exec_arg_is(x, 2, "lib-ver")) {
        reply_errorf(&x->r, "ERR Unrecognized option '%.*s'", (int)MIN_OF(x->argv[2].len, (size_t)128),
                     (const char *)x->argv[2].data);
        return;
    }
    if (!printable(x->argv[3]) || x->argv[3].len > 4096) {
        reply_errorf(&x->r, "ERR %s cannot contain spaces, newlines or special characters.",
                     is_name ? "lib-name" : "lib-ver");
        return;
    }
    set_text(is_name ? &x->s->lib_name : &x->s->lib_ver, x->argv[3]);
    reply_ok(&x->r);
}

static bool on_off(struct exec *x, bool *ret)
{
    if (exec_arg_is(x, 2, "on") || exec_arg_is(x, 2, "off")) {
        *ret = exec_arg_is(x, 2, "on");
        reply_ok(&x->r);
        return true;
    }
    exec_syntax_error(x);
    return false;
}

/* Noted and shown in CLIENT LIST's flags; what it asks for always holds here: output buffers are bounded one
 * by one, no client is closed for another's. */
void cmd_client_no_evict(struct exec *x)
{
    on_off(x, &x->s->no_evict);
}

/* Noted and shown in CLIENT LIST's flags; keys carry no time of use that could be touched. */
void cmd_client_no_touch(struct exec *x)
{
    on_off(x, &x->s->no_touch);
}

void cmd_client_reply(struct exec *x)
{
    struct session *s = x->s;

    if (exec_arg_is(x, 2, "on")) {
        s->reply_off = s->reply_skip = false;
        reply_ok(&x->r);
    } else if (exec_arg_is(x, 2, "off")) {
        s->reply_off = true;
    } else if (exec_arg_is(x, 2, "skip")) {
        s->reply_skip = !s->reply_off;
    } else {
        exec_syntax_error(x);
    }
}
