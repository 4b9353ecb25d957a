/* Replies that wait for the log.
 *
 * With `kv.ack: quorum` every reply waits until the logs of its partitions are committed up to where they
 * ended when the command ran (rule 13); with `log.fsync: always` a reply to a write waits for the sync. The
 * replies of one input call wait together: one barrier in the connection's output (P8), one commit over the
 * logs it touched. Nothing to wait for is found out when it is armed, and costs nothing but that.
 *
 * A hold outlives its connection: it finds it again by its id. On the session's worker. */
#include "base/err.h"
#include "base/mem.h"
#include "config/config.h"
#include "protocols/resp/session.h"

struct reply_hold {
    struct log_commit commit;
    struct list node;
    struct resp_worker *w;
    uint64_t conn_id, barrier;
    bool noted;
};

bool hold_wanted(const struct resp_front *f)
{
    const struct config *cfg = f->o.config;

    if (cfg == NULL || CONFIG_GET(cfg, kv_ack) == CONFIG_ACK_NONE)
        return false;
    return CONFIG_GET(cfg, kv_ack) == CONFIG_ACK_QUORUM || CONFIG_GET(cfg, log_fsync) == CONFIG_FSYNC_ALWAYS;
}

static void hold_end(struct reply_hold *h, int err)
{
    struct conn *c = worker_find_conn(h->w->worker, h->conn_id);

    if (c != NULL) {
        /* What was promised is not safe: the client must not read that it is. */
        if (err != 0)
            conn_abort(c, err);
        else
            conn_hold_release(c, h->barrier);
    }
    list_push_back(&h->w->free_holds, &h->node);
}

static void committed(struct log_commit *commit, int err)
{
    hold_end(CONTAINER_OF(commit, struct reply_hold, commit), err);
}

void hold_begin(struct session *s)
{
    struct resp_worker *w = s->w;
    struct list *n = list_pop_front(&w->free_holds);
    struct reply_hold *h;

    CHECK(w->hold == NULL);
    h = n != NULL ? LIST_ENTRY(n, struct reply_hold, node) : mem_zalloc(sizeof(*h));
    h->w = w;
    h->conn_id = s->c->id;
    h->noted = false;
    h->barrier = conn_hold(s->c);
    log_commit_init(&h->commit, w->worker, committed);
    w->hold = h;
}

void hold_note(struct resp_worker *w, struct log *log, int64_t end, bool wrote)
{
    struct reply_hold *h = w->hold;

    if (!wrote && CONFIG_GET(w->front->o.config, kv_ack) != CONFIG_ACK_QUORUM)
        return;
    if (log_committed(log, end))
        return;
    log_commit_add(&h->commit, log, end);
    h->noted = true;
}

/* What the replies tell of was appended before the hold began. */
void hold_since(struct resp_worker *w, uint64_t mark)
{
    log_commit_since(&w->hold->commit, mark);
}

void hold_arm(struct resp_worker *w)
{
    struct reply_hold *h = w->hold;

    w->hold = NULL;
    if (h != NULL && (!h->noted || log_commit_arm(&h->commit)))
        hold_end(h, 0);
}

void hold_free_all(struct resp_worker *w)
{
    struct list *n;

    while ((n = list_pop_front(&w->free_holds)) != NULL)
        mem_free(LIST_ENTRY(n, struct reply_hold, node));
}
