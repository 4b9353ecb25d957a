/* Replication of data logs: those of topics and queues, opened by engines on whoever leads. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "log/effect.h"
#include "queue/queue.h"
#include "stream/stream.h"
#include "sim.h"

static struct sim s;

static void create_topic(const char *name, uint32_t partitions, const char *min_insync)
{
    uint8_t uuid[16] = {0};
    struct buf b = {0}, configs = {0};

    memcpy(uuid, name, MIN_OF(strlen(name), sizeof(uuid)));
    if (min_insync != NULL) {
        buf_put_lslice(&configs, SLICE_LIT("min.insync.replicas"));
        buf_put_lslice(&configs, slice_str(min_insync));
    }
    topo_cmd_topic_create(&b, slice_str(name), uuid, partitions, 3, buf_slice(&configs));
    buf_fini(&configs);
    cr_assert_eq(sim_apply(&s, &b), 0);
}

static void delete_topic(const char *name)
{
    struct buf b = {0};

    topo_cmd_topic_delete(&b, slice_str(name));
    cr_assert_eq(sim_apply(&s, &b), 0);
}

static uint64_t topic_id(const char *name)
{
    uint64_t id;

    pthread_mutex_lock(&s.mutex);
    id = topo_topic_find(&s.state.v, slice_str(name))->id;
    pthread_mutex_unlock(&s.mutex);
    return id;
}

static uint32_t partition_of(const char *name, uint32_t index)
{
    return placement_of_topic(slice_str(name), index, s.partitions);
}

static bool exists(uint32_t node, const char *name, uint32_t index)
{
    char *path = mem_printf("%s/p-%04u/topic/%s-%u", s.node[node].dir, partition_of(name, index), name, index);
    bool yes = access(path, F_OK) == 0;

    mem_free(path);
    return yes;
}

/* As an engine does. */
static struct log *open_topic(uint32_t node, const char *name, uint32_t index)
{
    char *dir = mem_printf("p-%04u/topic/%s-%u", partition_of(name, index), name, index);
    struct log *l;

    cr_assert_eq(log_open(s.node[node].store, &(struct log_options){.kind = LOG_TOPIC, .dir = dir, .log_id = topic_id(name) << 20 | index}, &l), 0);
    mem_free(dir);
    return l;
}

static void append(struct log *l, int n, size_t size)
{
    struct batch_builder b = {0};
    char *value = mem_zalloc(size);
    int64_t base;

    for (int i = 0; i < n; i++) {
        struct slice v = slice_of(value, size);

        batch_begin(&b, 1000);
        batch_add(&b, 1000, SLICE_LIT("k"), v);
        cr_assert_eq(log_append(l, &b, &base), 0);
    }
    batch_builder_fini(&b);
    mem_free(value);
}

static bool same_ends(const char *name, uint32_t index, uint32_t leader, int64_t end)
{
    for (uint32_t n = 1; n <= s.nodes; n++) {
        struct log *l;
        bool same;

        if (!s.node[n].up || n == leader)
            continue;
        if (!exists(n, name, index))
            return false;
        l = open_topic(n, name, index);
        same = log_end(l) == end && log_hw(l) == end;
        log_close(l);
        if (!same)
            return false;
    }
    return true;
}

Test(data, a_topics_log_opened_by_the_leader_is_replicated_and_committed)
{
    uint32_t leader;
    struct log *l;

    sim_init(&s, 3, 4);
    sim_begin(&s, 3);
    create_topic("orders", 2, NULL);
    for (uint32_t i = 0; i < 2; i++) {
        leader = sim_leader(&s, partition_of("orders", i));
        l = open_topic(leader, "orders", i);
        cr_assert(log_replicated(l));
        cr_assert_eq(log_hw(l), 0);
        append(l, 100, 2000);
        cr_assert(SIM_WAIT(log_hw(l) == 100));
        cr_assert(SIM_WAIT(same_ends("orders", i, leader, 100)));
        append(l, 1, 10);
        cr_assert(SIM_WAIT(same_ends("orders", i, leader, 101)));
        log_close(l);
    }
    sim_end(&s);
}

Test(data, a_topic_that_asks_for_more_in_sync_replicas_gets_them)
{
    uint32_t leader, away;
    struct log *l;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    create_topic("t", 1, "3");
    leader = sim_leader(&s, 0);
    away = leader % 3 + 1;
    l = open_topic(leader, "t", 0);
    append(l, 10, 10);
    cr_assert(SIM_WAIT(log_hw(l) == 10));
    sim_isolate(&s, away, true);
    append(l, 1, 10);
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 2));
    for (int i = 0; i < 50; i++)
        sim_nap();
    cr_assert_eq(log_hw(l), 10);
    sim_isolate(&s, away, false);
    cr_assert(SIM_WAIT(log_hw(l) == 11));
    log_close(l);
    sim_end(&s);
}

/* Appends to a topic wherever its partition is led, without ever looking at a role: as who looked just before it changed. */
struct appender {
    pthread_t thread;
    const char *topic;
    bool stop; /* atomic */
    int64_t appended;
};

static void append_until_refused(struct appender *a, struct stream *st)
{
    static const struct stream_rules rules = {.max_batch_bytes = 1u << 20, .timestamp_after_max_ms = INT64_MAX};
    struct batch_builder b = {0};
    int err = 0;

    while (err == 0 && !__atomic_load_n(&a->stop, __ATOMIC_ACQUIRE)) {
        struct stream_appended done;
        struct batch_header h;
        struct slice bytes;
        const char *why;

        batch_begin(&b, 1000);
        batch_add(&b, 1000, SLICE_NONE, SLICE_LIT("v"));
        bytes = batch_finish(&b);
        cr_assert_eq(stream_check((uint8_t *)(uintptr_t)bytes.data, bytes.len, &rules, 1000, &h, &why), STREAM_OK);
        err = stream_append(st, (uint8_t *)(uintptr_t)bytes.data, &h, 1000, NULL, &done);
        a->appended += err == 0;
        if (a->appended % 16 == 0)
            sim_nap();
    }
    batch_builder_fini(&b);
}

static void *run_appender(void *arg)
{
    struct appender *a = arg;
    struct stream_place place = {.topic_id = topic_id(a->topic), .topic = slice_str(a->topic), .partition = partition_of(a->topic, 0)};

    while (!__atomic_load_n(&a->stop, __ATOMIC_ACQUIRE)) {
        uint32_t leader = sim_leader(&s, place.partition);
        struct stream *st;

        if (leader == 0 || stream_open(s.node[leader].streams, &place, &st) != 0)
            continue;
        append_until_refused(a, st);
        stream_unref(st);
    }
    return NULL;
}

/* Rule 21. */
Test(data, appends_at_level_leader_survive_a_planned_handover)
{
    struct appender a = {.topic = "orders"};
    uint32_t leader, partition;
    struct log *l;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    create_topic("orders", 1, NULL);
    partition = partition_of("orders", 0);
    cr_assert_eq(pthread_create(&a.thread, NULL, run_appender, &a), 0);
    for (int round = 0; round < 30; round++) {
        leader = sim_leader(&s, partition);
        for (int i = 0; i < 1000 && sim_leader(&s, partition) == leader; i++) {
            replication_hand_over(s.node[leader].r, partition, leader % 3 + 1); /* those that cannot drain in time are given up */
            for (int k = 0; k < 250 && sim_leader(&s, partition) == leader; k++)
                sim_nap();
        }
        cr_assert_neq(sim_leader(&s, partition), leader);
        cr_assert(SIM_WAIT(sim_insync(&s, partition) == 3));
    }
    __atomic_store_n(&a.stop, true, __ATOMIC_RELEASE);
    pthread_join(a.thread, NULL);
    leader = sim_leader(&s, partition);
    l = open_topic(leader, "orders", 0);
    cr_assert_eq(log_end(l), a.appended, "%lld of %lld are there", (long long)log_end(l), (long long)a.appended);
    cr_assert(SIM_WAIT(same_ends("orders", 0, leader, a.appended)));
    log_close(l);
    sim_end(&s);
}

Test(data, a_replica_is_in_sync_only_when_it_is_in_every_log)
{
    uint32_t leader, away;
    struct log *l;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    create_topic("t", 1, NULL);
    leader = sim_leader(&s, 0);
    away = leader % 3 + 1;
    sim_isolate(&s, away, true);
    l = open_topic(leader, "t", 0);
    append(l, 1, 10); /* the main log stays as it is: it lags in this one only */
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 2));
    cr_assert(!sim_is_insync(&s, 0, away));
    sim_isolate(&s, away, false);
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    cr_assert(SIM_WAIT(same_ends("t", 0, leader, 1)));
    log_close(l);
    sim_end(&s);
}

Test(data, a_follower_is_not_late_in_a_log_that_was_just_made)
{
    uint32_t leader, away;
    struct log *l;

    sim_init(&s, 3, 1);
    s.lag_max_ms = 60000;
    sim_begin(&s, 3);
    create_topic("t", 1, NULL);
    leader = sim_leader(&s, 0);
    away = leader % 3 + 1;
    sim_isolate(&s, away, true);
    l = open_topic(leader, "t", 0);
    append(l, 1, 10);
    for (unsigned i = 0; i < 1000; i++) { /* several scans */
        sim_nap();
        cr_assert(sim_is_insync(&s, 0, away));
    }
    sim_isolate(&s, away, false);
    cr_assert(SIM_WAIT(same_ends("t", 0, leader, 1)));
    log_close(l);
    sim_end(&s);
}

Test(data, a_follower_behind_a_topics_start_begins_anew_there)
{
    uint32_t leader, away;
    struct log *l;

    sim_init(&s, 3, 1);
    s.segment_bytes = 64 << 10;
    sim_begin(&s, 3);
    create_topic("t", 1, NULL);
    leader = sim_leader(&s, 0);
    away = leader % 3 + 1;
    l = open_topic(leader, "t", 0);
    append(l, 10, 1000);
    cr_assert(SIM_WAIT(same_ends("t", 0, leader, 10)));
    sim_isolate(&s, away, true);
    append(l, 500, 1000);
    cr_assert(SIM_WAIT(log_hw(l) == 510));
    cr_assert_eq(log_advance_start(l, 400), 0);
    sim_isolate(&s, away, false);
    cr_assert(SIM_WAIT(same_ends("t", 0, leader, 510)));
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    log_close(l);
    l = open_topic(away, "t", 0);
    cr_assert_geq(log_start(l), 300);
    log_close(l);
    sim_end(&s);
}

Test(data, many_logs_are_told_of_once_and_then_by_news)
{
    enum { N = 2000 };
    uint32_t leader, node;
    struct log *some;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    create_topic("many", N, NULL);
    leader = sim_leader(&s, 0);
    node = leader % 3 + 1;
    for (uint32_t i = 0; i < N; i += 10) {
        some = open_topic(leader, "many", i);
        append(some, 1, 100);
        log_close(some);
    }
    cr_assert(SIM_WAIT(same_ends("many", N - 10, leader, 1)));
    cr_assert(SIM_WAIT(same_ends("many", 0, leader, 1)));
    /* Their leader goes: all of them are there at the next one. */
    sim_stop(&s, leader);
    sim_fence(&s, leader, false);
    leader = sim_leader(&s, 0);
    cr_assert(SIM_WAIT(partition_role(sim_partition(&s, leader, 0)) == PARTITION_LEADER));
    for (uint32_t i = 0; i < N; i += 10) {
        some = open_topic(leader, "many", i);
        cr_assert_eq(log_end(some), 1);
        append(some, 1, 100);
        cr_assert(SIM_WAIT(log_hw(some) == 2));
        log_close(some);
    }
    (void)node;
    sim_end(&s);
}

Test(data, a_deleted_topics_log_goes_from_its_replicas)
{
    uint32_t leader, follower;
    struct log *l;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    create_topic("gone", 1, NULL);
    leader = sim_leader(&s, 0);
    follower = leader % 3 + 1;
    l = open_topic(leader, "gone", 0);
    append(l, 5, 10);
    cr_assert(SIM_WAIT(same_ends("gone", 0, leader, 5)));
    delete_topic("gone");
    log_delete(l);
    cr_assert(SIM_WAIT(!exists(follower, "gone", 0)));
    create_topic("gone", 1, NULL);
    l = open_topic(leader, "gone", 0);
    append(l, 3, 10);
    cr_assert(SIM_WAIT(same_ends("gone", 0, leader, 3)));
    log_close(l);
    sim_end(&s);
}

static uint64_t declare_queue(const char *name)
{
    struct buf b = {0};
    uint64_t id;

    topo_cmd_vhost_add(&b, SLICE_LIT("/"));
    sim_apply(&s, &b);
    topo_cmd_queue_declare(&b, SLICE_LIT("/"), slice_str(name), true, false, false, 0, 0, SLICE_NONE);
    cr_assert_eq(sim_apply(&s, &b), 0);
    pthread_mutex_lock(&s.mutex);
    id = topo_queue_find(&s.state.v, SLICE_LIT("/"), slice_str(name))->id;
    pthread_mutex_unlock(&s.mutex);
    return id;
}

static struct log *open_queue(uint32_t node, uint64_t id)
{
    char *dir = mem_printf("p-0000/queue/%016llx", (unsigned long long)id);
    struct log *l;

    cr_assert_eq(log_open(s.node[node].store, &(struct log_options){.kind = LOG_QUEUE, .dir = dir, .log_id = id}, &l), 0);
    mem_free(dir);
    return l;
}

/* As src/queue/checkpoint.c draws it, without a live message. */
static void write_checkpoint(uint32_t node, uint64_t id, int64_t end)
{
    char *path = mem_printf("%s/p-0000/queue/%016llx/checkpoint", s.node[node].dir, (unsigned long long)id);
    struct buf b = {0};

    buf_put(&b, "GMQC\0\0\0\0", 8);
    buf_put_u8(&b, 1);
    buf_put_be64(&b, id);
    buf_put_uvarint(&b, (uint64_t)end);
    for (int i = 0; i < 4; i++)
        buf_put_uvarint(&b, 0);
    be32_put(b.data + 4, crc32c(0, b.data + 8, b.len - 8));
    cr_assert_eq(file_replace(path, b.data, b.len), 0);
    buf_fini(&b);
    mem_free(path);
}

static bool queue_is(uint32_t node, uint64_t id, int64_t start, int64_t end, int64_t covered)
{
    struct log *l = open_queue(node, id);
    bool yes = log_start(l) >= start && log_end(l) == end && log_hw(l) == end && queue_checkpoint_covers(s.node[node].dir, 0, id) >= covered;

    log_close(l);
    return yes;
}

/* Rules 3 and 7: what the leader has dropped of a queue is explained by its checkpoint, which followers get before they follow its start, and whoever was away before it begins anew. */
Test(data, a_queues_followers_get_its_checkpoint_with_what_was_dropped)
{
    struct log_segment_info segs[64];
    uint32_t leader, away, third;
    uint64_t id;
    struct log *l;
    size_t n;

    sim_init(&s, 3, 1);
    s.segment_bytes = 64 << 10;
    sim_begin(&s, 3);
    id = declare_queue("q");
    leader = sim_leader(&s, 0);
    away = leader % 3 + 1;
    third = away % 3 + 1;
    l = open_queue(leader, id);
    append(l, 10, 1000);
    cr_assert(SIM_WAIT(queue_is(away, id, 0, 10, -1) && queue_is(third, id, 0, 10, -1)));
    sim_isolate(&s, away, true);
    append(l, 500, 1000);
    cr_assert(SIM_WAIT(log_hw(l) == 510));
    write_checkpoint(leader, id, 450);
    n = log_segments(l, segs, 64);
    cr_assert(n > 4 && n <= 64);
    for (size_t i = 0; i < n && segs[i].next <= 300; i++)
        cr_assert_eq(log_drop_segment(l, segs[i].base), 0);
    append(l, 1, 10);
    if (!SIM_WAIT(queue_is(third, id, 200, 511, 450))) {
        struct log *f = open_queue(third, id);

        cr_assert(false, "start %lld end %lld hw %lld covers %lld leader's hw %lld end %lld", (long long)log_start(f), (long long)log_end(f), (long long)log_hw(f),
                  (long long)queue_checkpoint_covers(s.node[third].dir, 0, id), (long long)log_hw(l), (long long)log_end(l));
    }
    sim_isolate(&s, away, false);
    cr_assert(SIM_WAIT(queue_is(away, id, 200, 511, 450)));
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    log_close(l);
    sim_end(&s);
}

/* Rule 19: nobody may lead by what the sets say, and a word of the controller makes it one that lacks records of a data log. */
Test(data, who_is_elected_after_a_power_cut_pulls_what_others_have_more_of)
{
    struct topo_partition_change c;
    uint32_t leader, third, chosen;
    struct buf b = {0};
    struct log *l;

    sim_init(&s, 3, 1);
    sim_begin(&s, 3);
    create_topic("t", 1, NULL);
    leader = sim_leader(&s, 0);
    chosen = leader % 3 + 1;
    third = chosen % 3 + 1;
    l = open_topic(leader, "t", 0);
    append(l, 5, 10);
    cr_assert(SIM_WAIT(same_ends("t", 0, leader, 5)));
    sim_isolate(&s, chosen, true);
    append(l, 5, 10);
    cr_assert(SIM_WAIT(log_hw(l) == 10));
    log_close(l);
    cr_assert(SIM_WAIT(!sim_is_insync(&s, 0, chosen)));
    sim_fence(&s, leader, false);
    sim_fence(&s, third, false);
    cr_assert_eq(sim_leader(&s, 0), 0);
    sim_isolate(&s, chosen, false);
    pthread_mutex_lock(&s.mutex);
    topo_change_of(&c, topo_partition_at(&s.state.v, 0));
    pthread_mutex_unlock(&s.mutex);
    c.unclean = true;
    c.leader = chosen;
    c.insync = c.eligible = (struct topo_replica_set){0};
    topo_set_add(&c.insync, chosen);
    c.last_known = c.replicas;
    topo_cmd_partition_change(&b, 0, &c, 1);
    cr_assert_eq(sim_apply(&s, &b), 0);
    cr_assert(SIM_WAIT(partition_role(sim_partition(&s, chosen, 0)) == PARTITION_LEADER));
    l = open_topic(chosen, "t", 0);
    cr_assert_eq(log_end(l), 10);
    log_close(l);
    sim_activate(&s, leader);
    sim_activate(&s, third);
    cr_assert(SIM_WAIT(sim_insync(&s, 0) == 3));
    sim_end(&s);
}
