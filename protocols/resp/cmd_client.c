/* CLIENT, about all connections: LIST, INFO, KILL, UNBLOCK. */
#include "base/err.h"
#include "base/mem.h"
#include "protocols/resp/blocked.h"
#include "protocols/resp/gather.h"
#include "protocols/resp/handlers.h"

/* One line as CLIENT LIST of Redis 7.2 has it (catClientInfoString); sizes of buffers Redis has and this
 * server has not are 0. */
static void describe(struct session *s, struct buf *out)
{
    struct conn *c = s->c;
    char peer[128], local[128], flags[16];
    uint64_t now = worker_now_us(s->w->worker);
    size_t n = 0;

    conn_peer_text(c, peer, sizeof(peer));
    conn_local_text(c, local, sizeof(local));
    if (session_is_subscribed(s))
        flags[n++] = 'P';
    if (s->in_multi)
        flags[n++] = 'x';
    if (s->blocked != NULL)
        flags[n++] = 'b';
    if (conn_closing(c))
        flags[n++] = 'c';
    if (s->no_evict)
        flags[n++] = 'e';
    if (s->no_touch)
        flags[n++] = 'T';
    if (s->readonly)
        flags[n++] = 'r';
    if (strncmp(peer, "unix:", 5) == 0)
        flags[n++] = 'U';
    if (n == 0)
        flags[n++] = 'N';
    flags[n] = '\0';
    buf_printf(out,
               "id=%llu addr=%s laddr=%s fd=%d name=%s age=%llu idle=%llu flags=%s db=%u sub=%u psub=%u "
               "ssub=%u multi=%d qbuf=0 "
               "qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=%zu tot-mem=%zu events=r "
               "cmd=%s user=%s redir=-1 resp=%d "
               "lib-name=%s lib-ver=%s\n",
               (unsigned long long)c->id, peer, local, conn_fd(c), s->name != NULL ? s->name : "",
               (unsigned long long)((now - MIN_OF(now, c->opened_us)) / 1000000),
               (unsigned long long)((now - MIN_OF(now, c->last_input_us)) / 1000000), flags, s->db,
               s->channels, s->patterns, s->shard_channels, s->in_multi ? 0 : -1, conn_output_pending(c),
               conn_output_pending(c) + sizeof(*s), command_table[s->last_command].fullname,
               s->user != NULL ? s->user : "default", s->proto, s->lib_name != NULL ? s->lib_name : "",
               s->lib_ver != NULL ? s->lib_ver : "");
}

static bool matches(const struct gather *g, struct session *s)
{
    const struct gather_filter *f = &g->filter;
    char text[128];
    bool found = f->ids_count == 0;

    for (uint32_t i = 0; i < f->ids_count; i++)
        found = found || f->ids[i] == s->c->id;
    if (!found || (f->skip_me && s->c->id == g->conn_id))
        return false;
    if (f->type != 0 && f->type != (session_is_subscribed(s) ? 2 : 1))
        return false;
    if (f->addr.len != 0) {
        conn_peer_text(s->c, text, sizeof(text));
        if (!slice_eq(buf_slice(&f->addr), slice_str(text)))
            return false;
    }
    if (f->laddr.len != 0) {
        conn_local_text(s->c, text, sizeof(text));
        if (!slice_eq(buf_slice(&f->laddr), slice_str(text)))
            return false;
    }
    return f->user.len == 0 ||
           slice_eq(buf_slice(&f->user), slice_str(s->user != NULL ? s->user : "default"));
}

struct visit {
    struct gather *g;
    struct resp_worker *w;
    void (*fn)(struct gather *g, struct session *s);
};

static void visit_conn(struct conn *c, void *arg)
{
    struct visit *v = arg;
    struct session *s = session_find(v->w, c->id);

    if (s != NULL && matches(v->g, s))
        v->fn(v->g, s);
}

static void visit_all(struct gather *g, struct resp_worker *w,
                      void (*fn)(struct gather *g, struct session *s))
{
    struct visit v = {g, w, fn};

    worker_each_conn(w->worker, visit_conn, &v);
}

static bool parse_type(struct exec *x, uint32_t i, int *ret)
{
    if (exec_arg_is(x, i, "normal")) {
        *ret = 1;
    } else if (exec_arg_is(x, i, "pubsub")) {
        *ret = 2;
    } else if (exec_arg_is(x, i, "master") || exec_arg_is(x, i, "replica") || exec_arg_is(x, i, "slave")) {
        *ret = 3;
    } else {
        reply_errorf(&x->r, "ERR Unknown client type '%.*s'", (int)MIN_OF(x->argv[i].len, (size_t)128),
                     (const char *)x->argv[i].data);
        return false;
    }
    return true;
}

static bool add_id(struct exec *x, struct gather *g, uint32_t i)
{
    int64_t id;

    if (!slice_to_i64(x->argv[i], &id) || id <= 0) {
        reply_error(&x->r, "ERR Invalid client ID");
        return false;
    }
    g->filter.ids = mem_realloc(g->filter.ids, sizeof(g->filter.ids[0]) * (g->filter.ids_count + 1));
    g->filter.ids[g->filter.ids_count++] = (uint64_t)id;
    return true;
}

/* ---- LIST, INFO ---- */

static void list_one(struct gather *g, struct session *s)
{
    describe(s, &g->text);
}

static void list_visit(struct gather *g, struct resp_worker *w)
{
    visit_all(g, w, list_one);
}

static void list_finish(struct gather *g, struct session *s)
{
    struct reply r = session_reply(s);

    reply_verbatim(&r, "txt", buf_slice(&g->text));
}

void cmd_client_list(struct exec *x)
{
    struct gather *g = gather_new();

    g->visit = list_visit;
    g->finish = list_finish;
    if (x->argc == 4 && exec_arg_is(x, 2, "type")) {
        if (!parse_type(x, 3, &g->filter.type))
            goto out;
    } else if (x->argc > 3 && exec_arg_is(x, 2, "id")) {
        for (uint32_t i = 3; i < x->argc; i++)
            if (!add_id(x, g, i))
                goto out;
    } else if (x->argc != 2) {
        exec_syntax_error(x);
        goto out;
    }
    gather_start(x, g);
    return;
out:
    gather_free(g);
}

void cmd_client_info(struct exec *x)
{
    struct buf text = {0};

    describe(x->s, &text);
    reply_verbatim(&x->r, "txt", buf_slice(&text));
    buf_fini(&text);
}

/* ---- KILL ---- */

static void kill_one(struct gather *g, struct session *s)
{
    g->count++;
    /* The one that asked still gets its answer. */
    if (s->c->id != g->conn_id)
        conn_abort(s->c, ERR_CLOSED);
    else
        s->kill_me = true;
}

static void kill_visit(struct gather *g, struct resp_worker *w)
{
    visit_all(g, w, kill_one);
}

static void kill_finish(struct gather *g, struct session *s)
{
    struct reply r = session_reply(s);

    if (!g->filter.old_form)
        reply_int(&r, (int64_t)g->count);
    else if (g->count > 0)
        reply_ok(&r);
    else
        reply_error(&r, "ERR No such client");
    if (s->kill_me)
        conn_close_soon(s->c, ERR_CLOSED);
}

void cmd_client_kill(struct exec *x)
{
    struct gather *g = gather_new();
    struct gather_filter *f = &g->filter;

    g->visit = kill_visit;
    g->finish = kill_finish;
    if (x->argc == 3) {
        f->old_form = true;
        buf_put_slice(&f->addr, x->argv[2]);
    } else {
        f->skip_me = true;
        for (uint32_t i = 2; i < x->argc; i += 2) {
            if (i + 1 >= x->argc)
                goto syntax;
            if (exec_arg_is(x, i, "id")) {
                int64_t id;

                if (!slice_to_i64(x->argv[i + 1], &id) || id <= 0) {
                    reply_error(&x->r, "ERR client-id should be greater than 0");
                    goto out;
                }
                f->ids_count = 0;
                if (!add_id(x, g, i + 1))
                    goto out;
            } else if (exec_arg_is(x, i, "type")) {
                if (!parse_type(x, i + 1, &f->type))
                    goto out;
            } else if (exec_arg_is(x, i, "addr") || exec_arg_is(x, i, "laddr") || exec_arg_is(x, i, "user")) {
                struct buf *b = exec_arg_is(x, i, "addr")    ? &f->addr
                                : exec_arg_is(x, i, "laddr") ? &f->laddr
                                                             : &f->user;

                buf_clear(b);
                buf_put_slice(b, x->argv[i + 1]);
            } else if (exec_arg_is(x, i, "skipme") &&
                       (exec_arg_is(x, i + 1, "yes") || exec_arg_is(x, i + 1, "no"))) {
                f->skip_me = exec_arg_is(x, i + 1, "yes");
            } else {
                goto syntax;
            }
        }
    }
    gather_start(x, g);
    return;
syntax:
    exec_syntax_error(x);
out:
    gather_free(g);
}

/* ---- UNBLOCK ---- */

static void unblock_one(struct gather *g, struct session *s)
{
    g->count += blocked_end(s, g->filter.with_error);
}

static void unblock_visit(struct gather *g, struct resp_worker *w)
{
    visit_all(g, w, unblock_one);
}

static void unblock_finish(struct gather *g, struct session *s)
{
    struct reply r = session_reply(s);

    reply_int(&r, g->count > 0);
}

void cmd_client_unblock(struct exec *x)
{
    struct gather *g = gather_new();
    int64_t id;

    if (x->argc > 4 || (x->argc == 4 && !exec_arg_is(x, 3, "timeout") && !exec_arg_is(x, 3, "error"))) {
        reply_error(&x->r, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
        gather_free(g);
        return;
    }
    if (!exec_arg_int(x, 2, &id)) {
        gather_free(g);
        return;
    }
    g->visit = unblock_visit;
    g->finish = unblock_finish;
    g->filter.with_error = x->argc == 4 && exec_arg_is(x, 3, "error");
    if (id > 0) {
        add_id(x, g, 2);
        gather_start(x, g);
    } else {
        reply_int(&x->r, 0);
        gather_free(g);
    }
}

/* ---- GOMSG ---- */

struct admin_wait {
    struct resp_admin_call call;
    struct resp_worker *w;
    uint64_t conn_id;
};

static void admin_done(struct resp_admin_call *call)
{
    struct admin_wait *a = CONTAINER_OF(call, struct admin_wait, call);
    struct session *s = session_find(a->w, a->conn_id);

    if (s != NULL) {
        struct reply r = session_reply(s);

        if (call->err == 0)
            reply_bulk(&r, buf_slice(&call->answer));
        else
            reply_errorf(&r, "ERR %.*s", (int)MIN_OF(call->answer.len, (size_t)400),
                         (const char *)call->answer.data);
        session_unblock(s);
    }
    buf_fini(&call->answer);
    mem_free(call->argv);
    mem_free(a);
}

void cmd_gomsg(struct exec *x)
{
    const struct resp_options *o = &x->w->front->o;
    struct admin_wait *a;
    size_t bytes = sizeof(struct slice) * (x->argc - 1);
    uint8_t *p;

    if (o->admin == NULL) {
        reply_error(&x->r, "ERR administration is off on this server");
        return;
    }
    if (!session_is_trusted(x->s)) {
        reply_error(&x->r, "NOPERM administration is for local connections");
        return;
    }
    for (uint32_t i = 1; i < x->argc; i++)
        bytes += x->argv[i].len;
    a = mem_zalloc(sizeof(*a));
    a->w = x->w;
    a->conn_id = x->s->c->id;
    a->call.worker = x->w->worker;
    a->call.done = admin_done;
    a->call.trusted = true;
    a->call.argc = x->argc - 1;
    a->call.argv = mem_alloc(bytes);
    p = (uint8_t *)(a->call.argv + a->call.argc);
    for (uint32_t i = 0; i < a->call.argc; i++) {
        struct slice arg = x->argv[i + 1];

        if (arg.len != 0)
            memcpy(p, arg.data, arg.len);
        a->call.argv[i] = slice_of(p, arg.len);
        p += arg.len;
    }
    session_block(x->s);
    x->outcome = EXEC_BLOCKED;
    o->admin(o->admin_arg, &a->call);
}
