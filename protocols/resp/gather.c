#include "protocols/resp/gather.h"

#include "base/mem.h"

struct gather *gather_new(void)
{
    return mem_zalloc(sizeof(struct gather));
}

void gather_free(struct gather *g)
{
    mem_free(g->filter.ids);
    buf_fini(&g->filter.addr);
    buf_fini(&g->filter.laddr);
    buf_fini(&g->filter.user);
    buf_fini(&g->text);
    mem_free(g);
}

static void arrive(struct worker *worker, struct mail *mail)
{
    struct gather *g = CONTAINER_OF(mail, struct gather, mail);
    struct resp_worker *w = &g->front->workers[worker_index(worker)];
    struct session *s;

    if (g->at != g->home) {
        g->visit(g, w);
        g->at = (g->at + 1) % g->front->workers_count;
        worker_post(g->front->workers[g->at].worker, &g->mail);
        return;
    }
    s = session_find(w, g->conn_id);
    if (s != NULL) {
        g->finish(g, s);
        session_unblock(s);
    }
    gather_free(g);
}

void gather_start(struct exec *x, struct gather *g)
{
    g->front = x->w->front;
    g->home = worker_index(x->w->worker);
    g->conn_id = x->s->c->id;
    g->visit(g, x->w);
    if (g->front->workers_count == 1) {
        g->finish(g, x->s);
        gather_free(g);
        return;
    }
    g->at = (g->home + 1) % g->front->workers_count;
    g->mail.deliver = arrive;
    session_block(x->s);
    x->outcome = EXEC_BLOCKED;
    worker_post(g->front->workers[g->at].worker, &g->mail);
}
