/* Making, starting and stopping; timers, mails, news of logs. See replicate.h and private.h. */
#include "cluster/replicate/replicate.h"

#include <time.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"

uint64_t replication_now_us(void)
{
    return clock_mono_us();
}

struct rpeer *peer_get(struct replication *r, uint32_t node_id)
{
    struct rpeer *p;

    LIST_FOREACH(node, &r->peers)
    {
        p = LIST_ENTRY(node, struct rpeer, node);
        if (p->node_id == node_id)
            return p;
    }
    p = mem_zalloc(sizeof(*p));
    p->node_id = node_id;
    list_push_back(&r->peers, &p->node);
    return p;
}

void replication_arm_soon(struct replication *r)
{
    if (r->soon_armed || r->stopping)
        return;
    r->soon_armed = true;
    io_timer_start(r->w, &r->soon, SOON_MS, 0);
}

/* ---- news of logs ------------------------------------------------------------------------------------------------------------ */

static void take_news(struct rlog *l)
{
    struct rpart *part = l->part;

    if (l->log == NULL || part->working == WORK_STEP)
        return; /* begin_leading and subscriptions look at all logs */
    if (rpart_leads(part)) {
        session_news(l);
        watermark_update(l);
        if (l->key.kind == LOG_MAIN)
            waiters_notify(part); /* WAITAOF looks at this node's disk too */
        handover_progress(part);
    } else if (part->role == PARTITION_FOLLOWER && log_durable(l->log) > l->told_durable) {
        fetcher_report(l, false);
    }
}

static void deliver_news(struct worker *w, struct mail *m)
{
    struct replication *r = CONTAINER_OF(m, struct replication, news_mail);
    struct rlog *l, *next;

    (void)w;
    __atomic_store_n(&r->news_posted, false, __ATOMIC_SEQ_CST);
    l = __atomic_exchange_n(&r->news, NULL, __ATOMIC_SEQ_CST);
    for (; l != NULL && !r->stopping; l = next) {
        next = l->news_next;
        __atomic_store_n(&l->flagged, false, __ATOMIC_SEQ_CST); /* before its state is read: later news comes again */
        take_news(l);
    }
}

/* ---- the topology ---------------------------------------------------------------------------------------------------------------- */

static void plan_all(struct replication *r)
{
    for (uint32_t i = 0; i < r->count; i++)
        step_plan(&r->parts[i]);
}

static void deliver_topology(struct worker *w, struct mail *m)
{
    struct replication *r = CONTAINER_OF(m, struct replication, topology_mail);

    (void)w;
    __atomic_store_n(&r->topology_posted, false, __ATOMIC_SEQ_CST);
    if (r->stopping)
        return;
    if (r->node_id == 0)
        r->node_id = topology_node_id(r->o.topology);
    if (!r->started || r->node_id == 0)
        return;
    plan_all(r);
    rlogs_sweep(r, r->unnamed != 0 ? r->hash_size : 0);
}

void replication_topology_changed(struct replication *r)
{
    if (!__atomic_exchange_n(&r->topology_posted, true, __ATOMIC_SEQ_CST))
        worker_post(r->w, &r->topology_mail);
}

/* ---- timers -------------------------------------------------------------------------------------------------------------------------- */

static void fire_soon(struct worker *w, struct io_timer *t)
{
    struct replication *r = CONTAINER_OF(t, struct replication, soon);
    uint64_t now = replication_now_us();

    (void)w;
    r->soon_armed = false;
    sessions_soon(r, now);
    fetchers_soon(r, now);
    for (uint32_t i = 0; i < r->count; i++) {
        struct rpart *part = &r->parts[i];

        if (part->apply_wanted)
            work_kick(part);
        handover_progress(part);
        if (part->held) {
            part->held = false;
            watermark_update_all(part);
        }
    }
}

static void fire_tick(struct worker *w, struct io_timer *t)
{
    struct replication *r = CONTAINER_OF(t, struct replication, tick);
    uint64_t now = replication_now_us();
    bool suspects = log_store_suspects(r->o.logs) != 0;

    (void)w;
    ASTORE(&r->pass_us, now);
    for (uint32_t i = 0; i < r->count; i++) {
        struct rpart *part = &r->parts[i];

        insync_scan(part, now);
        handover_progress(part);
        if (part->repair != NULL)
            repair_go_on(part, now);
        else if (partition_state(part->p) == PARTITION_FAILED || (part->main != NULL && part->main->log != NULL && log_failed(part->main->log) != 0))
            repair_look(part);
        else if (suspects)
            repair_suspects(part, now);
        if (part->retry_step_us != 0 && now >= part->retry_step_us) {
            part->retry_step_us = 0;
            part->step_wanted = true;
            work_kick(part);
        }
    }
    sessions_tick(r, now);
    fetchers_tick(r, now);
    ships_tick(r, now);
    installs_tick(r);
    pulls_tick(r);
    rlogs_sweep(r, 512);
}

static void run_turn_end(struct worker *w, struct worker_hook *h)
{
    (void)w;
    sessions_turn_end(CONTAINER_OF(h, struct replication, turn_end));
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------------ */

int replication_new(const struct replication_options *options, struct replication **ret)
{
    struct replication *r = mem_zalloc(sizeof(*r));

    MAGIC_INIT(r, REPLICATION_MAGIC);
    r->o = *options;
    r->w = options->data;
    r->count = partitions_count(options->partitions);
    r->lease_us = (uint64_t)(options->lease_ms == 0 ? 1000 : options->lease_ms) * 1200; /* clocks may differ in rate by a fifth (rule 20) */
    list_init(&r->peers);
    list_init(&r->answers);
    list_init(&r->fresh);
    list_init(&r->opened);
    list_init(&r->proposals);
    list_init(&r->installs);
    list_init(&r->pulls);
    list_init(&r->repairs);
    list_init(&r->handovers);
    mutex_init(&r->opened_mutex);
    mutex_init(&r->wait_mutex);
    r->news_mail.deliver = deliver_news;
    r->topology_mail.deliver = deliver_topology;
    r->turn_end.run = run_turn_end;
    io_timer_init(&r->tick, fire_tick);
    io_timer_init(&r->soon, fire_soon);
    r->parts = mem_calloc(r->count, sizeof(r->parts[0]));
    for (uint32_t i = 0; i < r->count; i++) {
        struct rpart *part = &r->parts[i];

        part->r = r;
        part->index = i;
        part->p = partitions_get(options->partitions, i);
        part->seen = UINT32_MAX;
        part->pulled_epoch = -1;
        list_init(&part->logs);
        list_init(&part->waiters);
        work_init(part);
    }
    bus_handle(options->bus, BUS_FETCH, session_handle_fetch, r);
    bus_handle(options->bus, BUS_LOG_ENDS, ends_handle, r);
    bus_handle(options->bus, BUS_LOG_READ, pull_handle_read, r);
    ship_init(r);
    *ret = r;
    return 0;
}

static void deliver_start(struct worker *w, struct mail *m)
{
    struct replication *r = CONTAINER_OF(m, struct replication, start_mail);

    r->node_id = topology_node_id(r->o.topology);
    rlogs_start(r);
    r->started = true;
    ASTORE(&r->pass_us, replication_now_us());
    io_timer_start(w, &r->tick, TICK_MS, TICK_MS);
    if (r->node_id != 0)
        plan_all(r);
}

void replication_start(struct replication *r)
{
    r->start_mail.deliver = deliver_start;
    worker_post(r->w, &r->start_mail);
}

static void deliver_stop(struct worker *w, struct mail *m)
{
    struct replication *r = CONTAINER_OF(m, struct replication, start_mail);

    io_timer_stop(w, &r->tick);
    io_timer_stop(w, &r->soon);
    r->stopping = true;
    sessions_stop(r);
    ASTORE(&r->stopped, true);
}

void replication_stop(struct replication *r)
{
    struct timespec nap = {0, 1000000};

    if (r == NULL || ALOAD(&r->stopped))
        return;
    r->start_mail.deliver = deliver_stop;
    worker_post(r->w, &r->start_mail);
    while (!ALOAD(&r->stopped) || ALOAD(&r->jobs) != 0)
        nanosleep(&nap, NULL);
}

void replication_free(struct replication *r)
{
    struct list *n;

    if (r == NULL)
        return;
    MAGIC_CHECK(r, REPLICATION_MAGIC);
    for (uint32_t i = 0; i < r->count; i++)
        step_forget(&r->parts[i]);
    installs_free(r);
    pulls_free(r);
    repairs_free(r);
    rlogs_stop(r);
    insync_free_all(r);
    handovers_free(r);
    ship_free(r);
    while ((n = list_pop_front(&r->peers)) != NULL) {
        struct rpeer *p = LIST_ENTRY(n, struct rpeer, node);

        fetcher_free(p->fetcher);
        session_free(p->session);
        mem_free(p);
    }
    mem_free(r->topics);
    mem_free(r->parts);
    mutex_fini(&r->opened_mutex);
    mutex_fini(&r->wait_mutex);
    MAGIC_FINI(r, REPLICATION_MAGIC);
    mem_free(r);
}

uint32_t replication_age_ms(const struct replication *r)
{
    uint64_t now = replication_now_us(), pass = ALOAD(&r->pass_us);

    return pass == 0 || now <= pass ? 0 : (uint32_t)MIN_OF((now - pass) / 1000, (uint64_t)UINT32_MAX);
}
