/* Before a partition opens that nobody could lead by what its sets said (rule 19): the elected one has the greatest main log, but of other logs another of the last known replicas may have more. It asks them for their ends, and
 * pulls what they are ahead in as a follower would, by divergence and appends. Only then does it open.
 *
 *     asking    LOG_ENDS at each of them
 *     pulling   LOG_READ of one log after the other, until the ends are equal; a log that parts is cut first, as work
 *     done      the step that opens the partition runs
 *
 * Who does not answer for PATIENCE is left out: what only it had is lost, and that is said. */
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"

#define CALL_TIMEOUT_MS 5000
#define PATIENCE_US 10000000
#define AGAIN_US 200000
#define READ_BYTES (1u << 20)

struct pull_item {
    uint32_t node;
    struct log_key key;
    int64_t end;
    int32_t epoch;
};

struct pull {
    struct rpart *part; /* NULL: forgotten; it ends with its call */
    struct replication *r;
    struct list node;   /* r->pulls */
    uint32_t nodes[TOPO_REPLICAS_MAX];
    unsigned count, asked;
    struct pull_item *items; /* owned */
    size_t n, cap, at;
    bool busy;          /* a call is under way */
    struct bus_call call;
    uint64_t since_us, not_before_us; /* of the node that is asked now */
};

static void go_on(struct pull *p);

static void end(struct pull *p)
{
    list_remove(&p->node);
    mem_free(p->items);
    mem_free(p);
}

bool pull_is_due(const struct rpart *part)
{
    const struct part_record *rec = &part->rec;
    int me = record_member(rec, part->r->node_id);

    return rec->leader == part->r->node_id && me >= 0 && (rec->last_known & ~(1u << me)) != 0 && part->pulled_epoch != rec->epoch;
}

void pull_begin(struct rpart *part)
{
    struct replication *r = part->r;
    struct pull *p;

    if (part->pull != NULL)
        return;
    p = mem_zalloc(sizeof(*p));
    p->part = part;
    p->r = r;
    for (unsigned i = 0; i < part->rec.count; i++)
        if ((part->rec.last_known >> i & 1) && part->rec.nodes[i] != r->node_id)
            p->nodes[p->count++] = part->rec.nodes[i];
    p->since_us = replication_now_us();
    part->pull = p;
    list_push_back(&r->pulls, &p->node);
    diag_info("asks the other replicas for what they have more of", "partition=%u epoch=%d replicas=%u", part->index, part->rec.epoch, p->count);
    go_on(p);
}

void pull_forget(struct rpart *part)
{
    struct pull *p = part->pull;

    if (p == NULL)
        return;
    part->pull = NULL;
    p->part = NULL;
    if (!p->busy)
        end(p);
}

/* ---- ends ---------------------------------------------------------------------------------------------------------------------- */

static bool is_ahead(struct log *log, int32_t epoch, int64_t end_there)
{
    int32_t mine = log_last_epoch(log);

    return epoch > mine || (epoch == mine && end_there > log_end(log));
}

static void add_item(struct pull *p, uint32_t node, const struct log_end_entry *e)
{
    if (p->n == p->cap) {
        p->cap = p->cap == 0 ? 16 : p->cap * 2;
        p->items = mem_realloc(p->items, p->cap * sizeof(p->items[0]));
    }
    p->items[p->n++] = (struct pull_item){node, e->key, e->end, e->epoch};
}

/* True: failed for good, the node is left out. */
static bool try_later(struct pull *p, uint32_t node, int err)
{
    uint64_t now = replication_now_us();

    p->not_before_us = now + AGAIN_US;
    if (now - p->since_us < PATIENCE_US)
        return false;
    diag_warn("a replica cannot be asked for its logs; what only it has is lost", "partition=%u node=%u error=%s", p->part->index, node,
              err_name(err));
    p->since_us = now;
    return true;
}

static void got_ends(struct bus_call *c, int err, struct slice payload)
{
    struct pull *p = CONTAINER_OF(c, struct pull, call);
    struct reader rd = reader_of(payload);

    p->busy = false;
    if (p->part == NULL || p->r->stopping) {
        if (p->part == NULL)
            end(p);
        return;
    }
    if (err == 0)
        (void)reader_varint(&rd);
    while (err == 0 && reader_left(&rd) > 0) {
        struct log_end_entry e;

        err = log_end_get(&rd, p->part->index, &e);
        if (err == 0 && e.key.kind != LOG_MAIN && e.end > 0)
            add_item(p, p->nodes[p->asked], &e);
    }
    if (err == 0 || try_later(p, p->nodes[p->asked], err)) {
        p->asked++;
        p->since_us = replication_now_us();
    }
    go_on(p);
}

/* ---- reading ---------------------------------------------------------------------------------------------------------------------- */

static void take(struct pull *p, struct pull_item *it, struct rlog *l, const struct fetch_log *a)
{
    struct batch_header h;
    int64_t end_now;
    int err;

    switch (a->status) {
    case FETCH_DATA:
        if (a->data.len == 0) {
            p->at++;
            return;
        }
        err = batch_header_read(a->data.data, a->data.len, &h);
        if (err == 0 && h.base_offset >= log_end(l->log))
            err = log_append_replica(l->log, a->data.data, a->data.len, &end_now);
        if (err != 0) {
            diag_error("a log cannot be pulled", "log=\"%s\" node=%u error=%s", log_dir(l->log), it->node, err_name(err));
            p->at++;
        }
        return;
    case FETCH_DIVERGED:
        follower_cut(l, a->diverged_epoch, a->end);
        if (!l->busy)
            p->at++;
        return;
    case FETCH_RANGE:
        if (a->start > log_end(l->log) && l->key.kind == LOG_TOPIC) {
            work_restart(l, a->start);
            return;
        }
        diag_warn("a replica's log cannot be continued here", "log=\"%s\" node=%u end=%lld start_there=%lld end_there=%lld", log_dir(l->log), it->node,
                  (long long)log_end(l->log), (long long)a->start, (long long)a->end);
        p->at++;
        return;
    case FETCH_POSITION:
        p->at++;
        return;
    }
}

static void got_read(struct bus_call *c, int err, struct slice payload)
{
    struct pull *p = CONTAINER_OF(c, struct pull, call);
    struct reader rd = reader_of(payload);
    struct fetch_log a;
    struct pull_item *it;
    struct rlog *l;

    p->busy = false;
    if (p->part == NULL || p->r->stopping) {
        if (p->part == NULL)
            end(p);
        return;
    }
    it = &p->items[p->at];
    l = rlog_find(p->r, &it->key);
    if (err == 0)
        err = fetch_log_get(&rd, &a);
    if (err != 0 || l == NULL || l->log == NULL) {
        if (l == NULL || l->log == NULL || try_later(p, it->node, err))
            p->at++;
    } else {
        p->since_us = replication_now_us();
        take(p, it, l, &a);
    }
    go_on(p);
}

static void ask_read(struct pull *p, struct pull_item *it, struct rlog *l)
{
    struct fetch_position pos = {.key = it->key, .end = log_end(l->log), .epoch = log_last_epoch(l->log), .durable = 0};
    struct buf b = {0};

    fetch_position_put(&b, &pos);
    p->busy = true;
    p->call = (struct bus_call){.worker = p->r->w, .done = got_read};
    bus_call(p->r->o.bus, it->node, BUS_LOG_READ, buf_slice(&b), CALL_TIMEOUT_MS, &p->call);
    buf_fini(&b);
}

/* ---- steps ------------------------------------------------------------------------------------------------------------------------ */

static void go_on(struct pull *p)
{
    struct rpart *part = p->part;

    if (p->busy || p->r->stopping)
        return;
    if (replication_now_us() < p->not_before_us)
        return; /* the tick comes back */
    if (p->asked < p->count) {
        struct buf b = {0};

        buf_put_uvarint(&b, part->index);
        buf_put_varint(&b, part->rec.epoch);
        p->busy = true;
        p->call = (struct bus_call){.worker = p->r->w, .done = got_ends};
        bus_call(p->r->o.bus, p->nodes[p->asked], BUS_LOG_ENDS, buf_slice(&b), CALL_TIMEOUT_MS, &p->call);
        buf_fini(&b);
        return;
    }
    for (; p->at < p->n; p->at++) {
        struct pull_item *it = &p->items[p->at];
        struct rlog *l = rlog_get(part, &it->key);

        if (l->busy)
            return; /* work comes back */
        if (rlog_open(l) != 0 || !is_ahead(l->log, it->epoch, it->end))
            continue;
        ask_read(p, it, l);
        return;
    }
    diag_info("has what the other replicas had", "partition=%u epoch=%d logs=%zu", part->index, part->rec.epoch, p->n);
    part->pulled_epoch = part->rec.epoch;
    part->pull = NULL;
    end(p);
    part->step_wanted = true;
    work_kick(part);
}

void pull_continue(struct rpart *part)
{
    if (part->pull != NULL)
        go_on(part->pull);
}

void pulls_tick(struct replication *r)
{
    LIST_FOREACH_SAFE(n, &r->pulls)
    {
        struct pull *p = LIST_ENTRY(n, struct pull, node);

        if (p->part != NULL)
            go_on(p);
    }
}

void pulls_free(struct replication *r)
{
    while (!list_empty(&r->pulls)) {
        struct pull *p = LIST_ENTRY(r->pulls.next, struct pull, node);

        if (p->part != NULL)
            p->part->pull = NULL;
        end(p);
    }
}

/* ---- the other side ---------------------------------------------------------------------------------------------------------------- */

/* LOG_READ: a position, answered by one log of a fetch's answer. Nobody leads the partition, so nothing else is served from here; a read that waits for the disk may hold this worker up. */
void pull_handle_read(void *arg, const struct bus_peer *from, struct bus_request *req, struct slice payload)
{
    struct replication *r = arg;
    struct reader rd = reader_of(payload);
    struct fetch_position pos;
    struct fetch_log a = {0};
    struct log_span span;
    struct buf b = {0}, bytes = {0};
    struct rlog *l = NULL;
    int err = fetch_position_get(&rd, &pos);

    if (err == 0)
        l = rlog_find(r, &pos.key);
    if (err == 0 && (l == NULL || l->log == NULL || l->part->working == WORK_STEP || record_member(&l->part->rec, from->node_id) < 0))
        err = ERR_NOT_FOUND;
    if (err == 0) {
        a.key = pos.key;
        a.start = log_start(l->log);
        a.hw = log_hw(l->log);
        a.epoch = MAX_OF(l->part->epoch, 0);
        if (!session_agrees(l->log, pos.end, pos.epoch)) {
            session_tell_where(l->log, pos.end, pos.epoch, &a);
        } else {
            a.status = FETCH_DATA;
            err = log_read(l->log, pos.end, log_end(l->log), READ_BYTES, false, &span);
            if (err == 0) {
                err = span.len == 0 ? 0 : log_span_copy(&span, &bytes);
                log_span_release(&span);
            }
        }
    }
    if (err == 0) {
        fetch_log_put(&b, &a);
        if (a.status == FETCH_DATA)
            buf_put_lslice(&b, buf_slice(&bytes));
    }
    bus_reply(r->o.bus, req, err, buf_slice(&b));
    buf_fini(&bytes);
    buf_fini(&b);
}
