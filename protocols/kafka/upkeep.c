/* What happens by itself: deadlines of groups ten times a second on worker 0; and on a background thread the
 * producers' snapshots, retention and forgotten groups. */
#include "protocols/kafka/session.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"

#define GROUP_TICK_MS 100
#define UPKEEP_MS 5000
#define RETENTION_EVERY 12                    /* upkeeps: a minute */
#define OFFSETS_EVERY 120                     /* ten minutes */
#define PRODUCER_IDLE_MS 86400000             /* producer.id.expiration.ms */
#define OFFSETS_RETENTION_MS (7 * 86400000ll) /* offsets.retention.minutes */

/* ---- producers ---------------------------------------------------------------------------------------- */

static void tend_stream(struct stream *st, void *arg)
{
    stream_tend_producers(st, *(int64_t *)arg, PRODUCER_IDLE_MS);
}

/* ---- retention ---------------------------------------------------------------------------------------- */

struct kept_topic {
    uint64_t id;
    char *name;
    uint32_t partitions;
    uint64_t segment_bytes;
    struct stream_retention retention;
};

struct kept_topics {
    struct kafka_front *front;
    struct kept_topic *rows;
    size_t count, cap;
};

static bool keep_topic(const struct topo_topic *t, void *arg)
{
    struct kept_topics *all = arg;
    const struct config *cfg = all->front->options.config;
    struct stream_place place;

    kafka_stream_place(all->front, t, 0, &place);
    if (all->count == all->cap) {
        all->cap = all->cap == 0 ? 64 : all->cap * 2;
        all->rows = mem_realloc(all->rows, all->cap * sizeof(*all->rows));
    }
    all->rows[all->count++] = (struct kept_topic){
        .id = t->id,
        .name = mem_strdup_slice(t->name),
        .partitions = t->partitions,
        .segment_bytes = place.segment_bytes,
        .retention = {.max_age_ms = kafka_topic_number(cfg, t, "retention.ms"),
                      .max_bytes = kafka_topic_number(cfg, t, "retention.bytes")},
    };
    return true;
}

static void retain_topic(struct kafka_front *f, const struct kept_topic *k, int64_t now_ms)
{
    if (k->retention.max_age_ms < 0 && k->retention.max_bytes < 0)
        return;
    for (uint32_t i = 0; i < k->partitions; i++) {
        struct stream_place place = {
            .topic_id = k->id,
            .topic = slice_str(k->name),
            .index = i,
            .partition = placement_of_topic(slice_str(k->name), i, f->partition_count),
            .segment_bytes = k->segment_bytes,
        };
        struct stream *st;
        unsigned gone;

        if (partition_role(partitions_get(f->options.partitions, place.partition)) != PARTITION_LEADER)
            continue; /* followers follow their leader's start */
        st = stream_find(f->options.streams, k->id, i);
        if (st == NULL && stream_open(f->options.streams, &place, &st) != 0)
            continue;
        gone = stream_retain(st, &k->retention, now_ms);
        if (gone != 0)
            diag_debug("old segments of a topic partition were dropped", "topic=%s index=%u segments=%u",
                       k->name, i, gone);
        stream_unref(st);
    }
}

static void retain_all(struct kafka_front *f, int64_t now_ms)
{
    struct kept_topics all = {.front = f};

    topo_each_topic(topology_pin(f->options.topology), keep_topic, &all);
    topology_unpin(f->options.topology);
    for (size_t i = 0; i < all.count; i++) {
        retain_topic(f, &all.rows[i], now_ms);
        mem_free(all.rows[i].name);
    }
    mem_free(all.rows);
}

/* ---- forgotten groups --------------------------------------------------------------------------------- */

struct forgotten {
    struct kafka_group_part *part;
    struct kv_ctx *kv;
    int64_t now_ms, newest_commit_ms;
};

static void newest_commit(struct slice topic, uint32_t index, const struct group_offset *o, void *arg)
{
    struct forgotten *x = arg;

    (void)topic;
    (void)index;
    x->newest_commit_ms = MAX_OF(x->newest_commit_ms, o->commit_ms);
}

/* Kafka's rule (KIP-211): a week after a group became empty, or after the last commit of a consumer that only
 * keeps offsets. */
static void forget_group(struct group *g, void *arg)
{
    struct forgotten *x = arg;

    if (g->state != GROUP_EMPTY || !list_empty(&g->pending))
        return;
    if (g->empty_since_ms < 0) { /* in memory only: asked for, never joined */
        group_remove(&x->part->groups, g);
        return;
    }
    x->newest_commit_ms = g->empty_since_ms;
    group_offset_each(x->kv, slice_str(g->id), newest_commit, x);
    if (x->newest_commit_ms > x->now_ms - OFFSETS_RETENTION_MS)
        return;
    group_erase(x->kv, slice_str(g->id));
    group_remove(&x->part->groups, g);
}

static void forget_groups(struct kafka_front *f, int64_t now_ms)
{
    for (uint32_t i = 0; i < f->partition_count; i++) {
        struct partition *p = partitions_get(f->options.partitions, i);
        struct partition_guard g;
        struct forgotten x = {.part = &f->parts[i], .kv = &g.kv, .now_ms = now_ms};

        if (partition_state(p) != PARTITION_OPEN)
            continue;
        partition_enter_background(p, KV_DB_INTERNAL, &g);
        if (partition_role(p) != PARTITION_LEADER || partition_epoch(p) != atomic_load(&x.part->epoch)) { /* their coordinator's to forget */
            (void)partition_leave(&g);
            continue;
        }
        if (!x.part->all_loaded)
            group_load_all(&g.kv, &x.part->groups, clock_mono_us() / 1000);
        x.part->all_loaded = true;
        groups_each(&x.part->groups, forget_group, &x);
        (void)partition_leave(&g);
    }
}

/* ---- running ------------------------------------------------------------------------------------------ */

static void upkeep_run(struct bg_job *job)
{
    struct kafka_front *f = CONTAINER_OF(job, struct kafka_front, upkeep_job);
    int64_t now_ms = clock_wall_ms();

    stream_table_each(f->options.streams, tend_stream, &now_ms);
    f->upkeep_count++;
    if (f->upkeep_count % RETENTION_EVERY == 0)
        retain_all(f, now_ms);
    if (f->upkeep_count % OFFSETS_EVERY == 0)
        forget_groups(f, now_ms);
}

static void upkeep_done(struct bg_job *job)
{
    CONTAINER_OF(job, struct kafka_front, upkeep_job)->upkeep_running = false;
}

static void upkeep_tick(struct worker *w, struct io_timer *t)
{
    struct kafka_front *f = CONTAINER_OF(t, struct kafka_front, upkeep_timer);

    if (f->upkeep_running)
        return;
    f->upkeep_running = true;
    f->upkeep_job = (struct bg_job){.reply_to = w, .run = upkeep_run, .done = upkeep_done};
    bg_submit(f->options.workers, BG_FREE, &f->upkeep_job);
}

static void group_tick_timer(struct worker *w, struct io_timer *t)
{
    struct kafka_front *f = CONTAINER_OF(t, struct kafka_front, group_timer);

    kafka_groups_tick(f, w);
    kafka_away_tick(f);
}

void kafka_front_start(struct kafka_front *f)
{
    struct worker *w = workers_get(f->options.workers, 0);

    io_timer_init(&f->group_timer, group_tick_timer);
    io_timer_init(&f->upkeep_timer, upkeep_tick);
    io_timer_start(w, &f->group_timer, GROUP_TICK_MS, GROUP_TICK_MS);
    io_timer_start(w, &f->upkeep_timer, UPKEEP_MS, UPKEEP_MS);
}
