/* Leading: one session a follower node, for all partitions it follows from here (KIP-227 in spirit).
 *
 *     position   a follower told where its log ends: R10 finds whether it parts from ours, R15 takes its end, the watermark is computed
 *     ready      logs with news for the follower stand in a list: data, a divergence to be told, a watermark or start that moved
 *     inflight   what was sent for a log is answered by a position; until then nothing more is sent for it
 *     parked     a request that finds no news waits for some, for as long as it said; the next request of the session lets it go at once
 *
 * Watermarks alone wait for SOON_MS, since they usually go with the next data. What is not in the page cache is read on a background thread first (P16). */
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/replicate/private.h"
#include "metrics/metrics.h"

static struct follower *follower_of(struct rpart *part, uint32_t node, unsigned *ret_slot)
{
    for (unsigned i = 0; i < part->follower_count; i++) {
        if (part->followers[i].node_id == node) {
            *ret_slot = i;
            return &part->followers[i];
        }
    }
    return NULL;
}

/* ---- news ------------------------------------------------------------------------------------------------------------------------ */

void session_answer_later(struct session *s)
{
    if (s->parked == NULL || s->answer_queued)
        return;
    s->answer_queued = true;
    list_push_back(&s->r->answers, &s->answer_node);
    worker_hook_once(s->r->w, &s->r->turn_end);
}

static void note_behind(struct follower *f, struct rpos *pos, bool behind)
{
    if (pos->behind != behind)
        ASTOREX(&f->behind, f->behind + (behind ? 1 : -1)); /* read by whoever asks for the lag */
    pos->behind = behind;
}

/* Puts a log on the session's list if there is something to tell. */
static void consider(struct rlog *l, struct rpos *pos)
{
    struct follower *f = &l->part->followers[pos->slot];
    struct session *s = f->peer->session;
    int64_t end = log_end(l->log);
    bool data = pos->wrong || !pos->known || end > pos->end;

    note_behind(f, pos, data && end > 0);
    if (s == NULL || !f->subscribed || pos->inflight || pos->cold)
        return;
    /* A log the follower did not name has end 0 there (rule 1): nothing to tell before it holds something. */
    if (!pos->known && !pos->wrong && end == 0)
        return;
    if (data) {
        if (pos->ready.next == NULL)
            list_push_back(&s->ready, &pos->ready);
        s->urgent = true;
        session_answer_later(s);
    } else if (log_hw(l->log) != pos->hw_sent || log_start(l->log) != pos->start_sent) {
        if (pos->ready.next == NULL)
            list_push_back(&s->ready, &pos->ready);
        s->hw_news = true;
        replication_arm_soon(s->r);
    }
}

void session_news(struct rlog *l)
{
    uint64_t now = replication_now_us();

    for (unsigned i = 0; l->pos != NULL && i < l->part->follower_count; i++) {
        struct rpos *pos = &l->pos[i];

        if (pos->known && !pos->behind)
            pos->caught_us = now; /* up to this append it had everything */
        consider(l, pos);
    }
}

void session_expect(struct rpart *part)
{
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        for (unsigned i = 0; l->log != NULL && l->pos != NULL && i < part->follower_count; i++) {
            l->pos[i].caught_us = part->followers[i].caught_us;
            consider(l, &l->pos[i]);
        }
    }
}

/* ---- positions -------------------------------------------------------------------------------------------------------------------- */

/* R10. True: what the follower has is a prefix of ours. */
bool session_agrees(struct log *log, int64_t end, int32_t epoch)
{
    int32_t known;
    int64_t known_end;

    if (end > log_end(log) || end < log_start(log))
        return false;
    if (epoch < 0 || end == 0)
        return true;
    if (log_epoch_end(log, epoch, &known, &known_end) != 0)
        return end == log_start(log); /* all of it was dropped here; it continues at our start */
    return known == epoch && known_end >= end;
}

static void note_main(struct rlog *l, struct follower *f)
{
    struct rpos *pos = &l->pos[f - l->part->followers];

    __atomic_store_n(&f->main_end, pos->known ? pos->end : -1, __ATOMIC_RELEASE);
    __atomic_store_n(&f->main_durable, pos->known ? pos->durable : -1, __ATOMIC_RELEASE);
}

/* The follower did not take what it was sent, and asks for it again. Perhaps it has no room; perhaps what lies here is damaged, which nobody saw yet: a log that was closed cleanly is not scanned, and what is shipped is
 * not looked at. Reading it checks it, and fails the log;
 * what no CRC covers is looked at here, as recovery does (rule 4). */
static void doubt(struct rlog *l, int64_t from)
{
    struct log_cursor c;
    struct batch_header h;
    struct slice batch;
    size_t seen = 0;
    int64_t next = -1, segment = -1;
    int32_t epoch = -1;

    log_cursor_init(&c, l->log, from, FETCH_LOG_BYTES);
    while (seen < FETCH_BYTES && log_cursor_next(&c, &h, &batch) == 1) {
        if (h.base_offset < next || (h.base_offset != next && c.place.segment == segment && next >= 0) || h.leader_epoch < epoch) {
            log_damaged(l->log, "offsets or epochs of its batches do not follow each other");
            break;
        }
        next = h.base_offset + h.last_offset_delta + 1;
        segment = c.place.segment;
        epoch = h.leader_epoch;
        seen += batch.len;
    }
    log_cursor_fini(&c);
    if (log_failed(l->log) != 0)
        repair_look(l->part);
}

static void take_position(struct rlog *l, struct follower *f, struct rpos *pos, const struct fetch_position *p)
{
    uint64_t now = replication_now_us();
    int64_t leo = log_end(l->log);

    if (pos->sent_data && pos->known && p->end == pos->end)
        doubt(l, p->end);
    pos->inflight = pos->sent_data = false;
    pos->ask_end = p->end;
    pos->ask_epoch = p->epoch;
    pos->wrong = !session_agrees(l->log, p->end, p->epoch);
    if (pos->wrong) {
        pos->known = false;
    } else {
        pos->known = true;
        pos->end = p->end;
        pos->durable = p->durable;
        /* R21 */
        if (p->end >= leo)
            pos->caught_us = now;
        else if (pos->prev_us != 0 && p->end >= pos->prev_end)
            pos->caught_us = MAX_OF(pos->caught_us, pos->prev_us);
        pos->prev_end = leo;
        pos->prev_us = now;
    }
    if (l->key.kind == LOG_MAIN)
        note_main(l, f);
    watermark_update(l);
    if (l->key.kind == LOG_MAIN)
        waiters_notify(l->part); /* behind the watermark, which they look at */
    consider(l, pos);
    if (pos->known)
        insync_joined(l->part, f);
}

/* ---- subscriptions ----------------------------------------------------------------------------------------------------------------- */

static void reset_positions(struct rpart *part, struct follower *f, unsigned slot)
{
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);
        struct rpos *pos = &l->pos[slot];

        list_remove(&pos->ready);
        if (pos->behind)
            ASTOREX(&f->behind, f->behind - 1);
        *pos = (struct rpos){.log = l, .slot = slot, .hw_sent = -1, .start_sent = -1, .caught_us = f->caught_us, .cold = pos->cold};
    }
    __atomic_store_n(&f->main_end, -1, __ATOMIC_RELEASE);
    __atomic_store_n(&f->main_durable, -1, __ATOMIC_RELEASE);
}

static void put_verdict(struct session *s, uint32_t partition, enum fetch_verdict verdict, int32_t epoch)
{
    fetch_verdict_put(&s->verdicts, partition, verdict, epoch);
    s->verdict_count++;
}

static void take_subscription(struct session *s, uint32_t index, int32_t epoch)
{
    struct replication *r = s->r;
    struct rpart *part;
    struct follower *f;
    unsigned slot = 0;

    if (index >= r->count)
        return;
    part = &r->parts[index];
    f = rpart_leads(part) && part->working != WORK_STEP ? follower_of(part, s->peer->node_id, &slot) : NULL;
    /* R9 */
    if (f == NULL || epoch != part->epoch) {
        bool ahead = epoch > part->epoch || (part->rec.leader == r->node_id && epoch >= part->rec.epoch);

        put_verdict(s, index, ahead ? FETCH_AHEAD : FETCH_FENCED, MAX_OF(part->epoch, part->rec.epoch));
        return;
    }
    f->subscribed = false;
    reset_positions(part, f, slot);
    f->fresh = true;
    list_remove(&part->fresh_node);
    list_push_back(&r->fresh, &part->fresh_node);
}

/* All positions of what was subscribed are taken: what was not named has end 0. */
static void end_subscriptions(struct session *s)
{
    struct list *n;

    while ((n = list_pop_front(&s->r->fresh)) != NULL) {
        struct rpart *part = LIST_ENTRY(n, struct rpart, fresh_node);
        unsigned slot = 0;
        struct follower *f = follower_of(part, s->peer->node_id, &slot);

        if (f == NULL || !f->fresh)
            continue;
        f->fresh = false;
        f->subscribed = true;
        LIST_FOREACH(node, &part->logs)
        {
            struct rlog *l = LIST_ENTRY(node, struct rlog, node);

            if (l->log == NULL)
                continue;
            watermark_update(l);
            consider(l, &l->pos[slot]);
        }
        insync_joined(part, f);
    }
}

void session_resubscribe(struct session *s, struct rpart *part)
{
    if (s == NULL)
        return;
    put_verdict(s, part->index, FETCH_AHEAD, part->epoch);
    session_answer_later(s);
}

void session_forget(struct rpart *part)
{
    for (unsigned i = 0; i < part->follower_count; i++) {
        struct session *s = part->followers[i].peer->session;

        if (s == NULL || !part->followers[i].subscribed)
            continue;
        part->followers[i].subscribed = false;
        put_verdict(s, part->index, FETCH_FENCED, part->rec.epoch);
        session_answer_later(s);
    }
}

/* ---- cold data ------------------------------------------------------------------------------------------------------------------------ */

struct cold_read {
    struct bg_job job;
    struct replication *r;
    struct log_span span;
    struct log_key key;
    uint32_t node;
    int32_t epoch;
};

static void read_cold(struct bg_job *job)
{
    struct cold_read *c = CONTAINER_OF(job, struct cold_read, job);
    struct buf b = {0};

    (void)log_span_copy(&c->span, &b); /* an error shows again where it is read for good */
    buf_fini(&b);
    log_span_release(&c->span);
}

static void cold_done(struct bg_job *job)
{
    struct cold_read *c = CONTAINER_OF(job, struct cold_read, job);
    struct replication *r = c->r;
    struct rlog *l = rlog_find(r, &c->key);
    unsigned slot = 0;

    __atomic_sub_fetch(&r->jobs, 1, __ATOMIC_ACQ_REL);
    if (l != NULL && l->pos != NULL && follower_of(l->part, c->node, &slot) != NULL && l->pos[slot].cold) {
        l->pos[slot].cold = false;
        l->pos[slot].read_cold = true;
        if (l->log != NULL)
            consider(l, &l->pos[slot]);
    }
    mem_free(c);
}

static void read_elsewhere(struct session *s, struct rpos *pos, const struct log_span *span)
{
    struct cold_read *c = mem_zalloc(sizeof(*c));

    *c = (struct cold_read){.r = s->r, .span = *span, .key = pos->log->key, .node = s->peer->node_id};
    c->job.run = read_cold;
    c->job.done = cold_done;
    c->job.reply_to = s->r->w;
    pos->cold = true;
    __atomic_add_fetch(&s->r->jobs, 1, __ATOMIC_ACQ_REL);
    bg_submit(s->r->o.workers, BG_DISK, &c->job);
}

/* ---- answering ------------------------------------------------------------------------------------------------------------------------- */

/* Where a follower that diverged is told to look (R10): the end of its epoch here, or that its offsets are not ours. */
void session_tell_where(struct log *log, int64_t end, int32_t epoch, struct fetch_log *a)
{
    int32_t known;
    int64_t known_end;

    a->status = FETCH_RANGE;
    a->end = log_end(log);
    if (end < a->start || epoch < 0 || log_epoch_end(log, epoch, &known, &known_end) != 0)
        return;
    if (known == epoch && known_end >= end)
        return; /* beyond our end, in the same epoch */
    a->status = FETCH_DIVERGED;
    a->diverged_epoch = known;
    a->end = known_end;
}

/* Data of one log into the answer; false: none now (it is cold, or cannot be read). */
static bool put_data(struct session *s, struct rpos *pos, struct fetch_log *a, size_t max, struct buf *out)
{
    struct rlog *l = pos->log;
    struct log_span span;
    struct buf bytes = {0};
    int64_t from = pos->known ? pos->end : 0, end = log_end(l->log);
    int err;

    if (from < log_start(l->log) || from > end) {
        a->status = FETCH_RANGE;
        a->end = end;
        fetch_log_put(out, a);
        return true;
    }
    err = pos->read_cold ? log_read(l->log, from, end, max, false, &span)
                         : log_read_nowait(l->log, from, LOG_NOWHERE, end, max, false, &span);
    if (err == ERR_AGAIN || (err == 0 && span.len != 0 && !pos->read_cold && !log_span_is_warm(&span))) {
        read_elsewhere(s, pos, &span);
        return false;
    }
    pos->read_cold = false;
    if (err == 0 && span.len != 0) {
        err = log_span_copy(&span, &bytes);
        log_span_release(&span);
    } else if (err == 0) {
        log_span_release(&span);
    }
    if (err != 0) {
        DIAG_EVERY(DIAG_ERROR, "a log cannot be read for a follower", "log=\"%s\" offset=%lld error=%s", log_dir(l->log), (long long)from,
                   err_name(err));
        buf_fini(&bytes);
        return false;
    }
    fetch_log_put(out, a);
    buf_put_lslice(out, buf_slice(&bytes));
    metrics_add(METRIC_REPLICA_SERVED_BYTES, bytes.len);
    buf_fini(&bytes);
    return true;
}

static void put_log(struct session *s, struct rpos *pos, size_t max, struct buf *out)
{
    struct rlog *l = pos->log;
    struct fetch_log a = {.key = l->key, .epoch = l->part->epoch, .start = log_start(l->log), .hw = log_hw(l->log)};
    bool told = true;

    if (pos->wrong) {
        session_tell_where(l->log, pos->ask_end, pos->ask_epoch, &a);
        fetch_log_put(out, &a);
        pos->wrong = false;
        pos->inflight = true;
    } else if (!pos->known || log_end(l->log) > pos->end) {
        a.status = FETCH_DATA;
        told = put_data(s, pos, &a, max, out);
        pos->inflight = pos->sent_data = told;
    } else {
        a.status = FETCH_POSITION;
        fetch_log_put(out, &a);
    }
    /* Who is told to cut takes nothing else of the answer. */
    if (told && (a.status == FETCH_DATA || a.status == FETCH_POSITION)) {
        pos->hw_sent = a.hw;
        pos->start_sent = a.start;
    }
}

static void answer(struct session *s)
{
    struct replication *r = s->r;
    struct bus_request *req = s->parked;
    struct fetch_answer head = {.session = s->id, .parts = s->verdict_count};
    size_t max = MIN_OF(s->max_bytes, FETCH_BYTES);
    struct buf b = {0};
    struct list *n;

    s->parked = NULL;
    fetch_answer_put(&b, &head);
    buf_put_slice(&b, buf_slice(&s->verdicts));
    buf_clear(&s->verdicts);
    s->verdict_count = 0;
    while (b.len < max && (n = list_pop_front(&s->ready)) != NULL) {
        bool alone = list_empty(&s->ready);
        struct rpos *pos = LIST_ENTRY(n, struct rpos, ready);

        if (pos->log->log == NULL || log_failed(pos->log->log) == ERR_NOT_FOUND)
            continue;
        put_log(s, pos, alone ? max - b.len : MIN_OF(max - b.len, (size_t)FETCH_LOG_BYTES), &b);
    }
    s->urgent = s->hw_news = !list_empty(&s->ready);
    bus_reply(r->o.bus, req, 0, buf_slice(&b));
    buf_fini(&b);
}

void sessions_turn_end(struct replication *r)
{
    struct list *n;

    while ((n = list_pop_front(&r->answers)) != NULL) {
        struct session *s = LIST_ENTRY(n, struct session, answer_node);

        s->answer_queued = false;
        if (s->parked != NULL)
            answer(s);
    }
}

/* ---- requests ------------------------------------------------------------------------------------------------------------------------------ */

static struct session *session_begin(struct replication *r, uint32_t node)
{
    struct rpeer *peer = peer_get(r, node);
    struct session *s = peer->session;

    if (s == NULL) {
        s = peer->session = mem_zalloc(sizeof(*s));
        s->r = r;
        s->peer = peer;
        list_init(&s->ready);
    }
    if (s->parked != NULL)
        answer(s);
    s->id = ++r->next_session;
    buf_clear(&s->verdicts);
    s->verdict_count = 0;
    /* What the node followed it tells again. */
    for (uint32_t i = 0; i < r->count; i++) {
        unsigned slot = 0;
        struct follower *f = follower_of(&r->parts[i], node, &slot);

        if (f != NULL)
            f->subscribed = false;
    }
    while (list_pop_front(&s->ready) != NULL)
        ;
    return s;
}

static int take_request(struct session *s, struct reader *rd, uint64_t parts)
{
    struct replication *r = s->r;
    int err = 0;

    for (uint64_t i = 0; i < parts && err == 0; i++) {
        uint32_t partition;
        unsigned flags;
        int32_t epoch;

        err = fetch_part_get(rd, &partition, &flags, &epoch);
        if (err == 0)
            take_subscription(s, partition, epoch);
    }
    while (err == 0 && reader_left(rd) > 0) {
        struct fetch_position p;
        struct rlog *l;
        struct follower *f;
        unsigned slot = 0;
        struct rpart *part;

        err = fetch_position_get(rd, &p);
        if (err != 0 || p.key.partition >= r->count)
            continue;
        part = &r->parts[p.key.partition];
        f = rpart_leads(part) && part->working != WORK_STEP ? follower_of(part, s->peer->node_id, &slot) : NULL;
        if (f == NULL || (!f->subscribed && !f->fresh))
            continue;
        l = rlog_get(part, &p.key);
        if (l->log == NULL && rlog_open(l) != 0)
            continue;
        take_position(l, f, &l->pos[slot], &p);
    }
    end_subscriptions(s);
    return err;
}

void session_handle_fetch(void *arg, const struct bus_peer *from, struct bus_request *req, struct slice payload)
{
    struct replication *r = arg;
    struct reader rd = reader_of(payload);
    struct fetch_request q;
    struct rpeer *peer;
    struct session *s;
    int err = fetch_request_get(&rd, &q);

    if (err != 0 || from->node_id == 0 || r->stopping) {
        bus_reply(r->o.bus, req, err != 0 ? err : ERR_CLOSED, SLICE_NONE);
        return;
    }
    peer = peer_get(r, from->node_id);
    s = peer->session;
    if (q.session == 0) {
        s = session_begin(r, from->node_id);
    } else if (s == NULL || s->id != q.session) {
        struct buf b = {0};

        fetch_answer_put(&b, &(struct fetch_answer){.unknown_session = true});
        bus_reply(r->o.bus, req, 0, buf_slice(&b));
        buf_fini(&b);
        return;
    }
    s->heard_us = replication_now_us();
    if (s->parked != NULL)
        answer(s);
    err = take_request(s, &rd, q.parts);
    if (err != 0) {
        s->id = ++r->next_session; /* it begins anew */
        bus_reply(r->o.bus, req, err, SLICE_NONE);
        return;
    }
    s->parked = req;
    s->max_bytes = q.max_bytes;
    s->parked_until_us = replication_now_us() + (uint64_t)MIN_OF(q.wait_ms, FETCH_WAIT_MS) * 1000;
    /* A new session learns its id at once. */
    if (q.session == 0 || q.wait_ms == 0 || s->verdict_count != 0 || s->urgent)
        session_answer_later(s);
    else if (s->hw_news)
        replication_arm_soon(r);
}

/* ---- timers ------------------------------------------------------------------------------------------------------------------------------ */

void sessions_soon(struct replication *r, uint64_t now)
{
    (void)now;
    LIST_FOREACH(node, &r->peers)
    {
        struct session *s = LIST_ENTRY(node, struct rpeer, node)->session;

        if (s != NULL && s->hw_news)
            session_answer_later(s);
    }
}

void sessions_tick(struct replication *r, uint64_t now)
{
    LIST_FOREACH(node, &r->peers)
    {
        struct session *s = LIST_ENTRY(node, struct rpeer, node)->session;

        if (s != NULL && s->parked != NULL && now >= s->parked_until_us)
            session_answer_later(s);
    }
}

void sessions_stop(struct replication *r)
{
    LIST_FOREACH(node, &r->peers)
    {
        struct session *s = LIST_ENTRY(node, struct rpeer, node)->session;

        if (s == NULL || s->parked == NULL)
            continue;
        bus_reply(r->o.bus, s->parked, ERR_CLOSED, SLICE_NONE);
        s->parked = NULL;
    }
}

void session_free(struct session *s)
{
    if (s == NULL)
        return;
    buf_fini(&s->verdicts);
    mem_free(s);
}
