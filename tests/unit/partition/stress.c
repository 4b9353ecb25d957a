/* Entering and leaving partitions from workers and background threads at once, for ThreadSanitizer (which Criterion does not work under): clients that increment counters
 * in one partition or in all of them, parked and woken, while background holders, snapshots, expiry and sync rounds go on. In the end every counter is what its clients were told.
 *
 *     stress-partition [rounds a client, default 300] */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "rig.h"

#define PARTITIONS 4
#define CLIENTS 12

struct client {
    struct mail mail;
    struct partition_park park;
    struct rig *r;
    struct rand rand;
    char name[16];
    unsigned left;
    uint32_t in_all, target;
    bool decided;
    int64_t singles[PARTITIONS], sets;
    uint64_t parked;
};

static int running;  /* atomic */
static bool stopping; /* atomic */

static void next(struct client *c);

static void incr(struct partition_guard *g, const char *name, const char *what)
{
    char key[40];
    int64_t value;

    snprintf(key, sizeof(key), "%s:%s", name, what);
    CHECK(kv_string_incr(&g->kv, slice_str(key), 1, &value) == 0);
    kv_string_set(&g->kv, slice_str("fleeting"), slice_str("x"), g->kv.now_ms + 1);
}

/* 0, or ERR_PARKED: then the same again when woken. */
static int act(struct client *c)
{
    struct partition_guard guards[PARTITIONS];
    uint32_t all[PARTITIONS] = {0, 1, 2, 3};
    int err;

    if (c->in_all) {
        err = partition_enter_set(c->r->ps, all, PARTITIONS, 0, &c->park, guards);
        if (err != 0)
            return err;
        for (int i = 0; i < PARTITIONS; i++)
            incr(&guards[i], c->name, "set");
        CHECK(partition_leave_set(c->r->ps, guards, PARTITIONS) == 0);
        c->sets++;
    } else {
        err = partition_enter(partitions_get(c->r->ps, c->target), 0, &c->park, guards);
        if (err != 0)
            return err;
        incr(guards, c->name, "one");
        CHECK(partition_leave(guards) == 0);
        c->singles[c->target]++;
    }
    return 0;
}

static void next(struct client *c)
{
    int err;

    if (!c->decided) {
        c->in_all = rand_below(&c->rand, 4) == 0;
        c->target = (uint32_t)rand_below(&c->rand, PARTITIONS);
        c->decided = true;
    }
    err = act(c);
    if (err == ERR_PARKED) {
        c->parked++;
        /* Sometimes it goes away and comes again by another way. */
        if (rand_below(&c->rand, 3) == 0) {
            partition_park_cancel(&c->park);
            worker_post(c->park.worker, &c->mail);
        }
        return;
    }
    CHECK(err == 0);
    c->decided = false;
    if (--c->left > 0)
        worker_post(c->park.worker, &c->mail);
    else
        __atomic_sub_fetch(&running, 1, __ATOMIC_RELEASE);
}

static void deliver(struct worker *w, struct mail *m)
{
    (void)w;
    next(CONTAINER_OF(m, struct client, mail));
}

static void retry(struct worker *w, struct partition_park *park)
{
    (void)w;
    next(CONTAINER_OF(park, struct client, park));
}

/* Holds partitions as background work should, and now and then much longer. */
static void *hold(void *arg)
{
    struct rig *r = arg;
    struct rand rand;

    rand_seed(&rand, (uint64_t)(uintptr_t)&rand);
    while (!__atomic_load_n(&stopping, __ATOMIC_ACQUIRE)) {
        struct partition *p = partitions_get(r->ps, (uint32_t)rand_below(&rand, PARTITIONS));
        struct partition_guard g;
        uint64_t begun, max_us = rand_below(&rand, 20) == 0 ? 3000 : 200;

        partition_enter_background(p, 0, &g);
        begun = clock_mono_us();
        while (clock_mono_us() - begun < max_us && (max_us > 200 || !partition_is_wanted(p)))
            kv_expire_cycle(&g.kv, 10);
        CHECK(partition_leave(&g) == 0);
    }
    return NULL;
}

static void *snap(void *arg)
{
    struct rig *r = arg;

    while (!__atomic_load_n(&stopping, __ATOMIC_ACQUIRE)) {
        partitions_snapshot(r->ps, UINT32_MAX, NULL, NULL);
        usleep(20000);
    }
    return NULL;
}

static int64_t counter(struct rig *r, uint32_t p, const char *name, const char *what)
{
    struct partition_guard g;
    struct slice s;
    char key[40];
    int64_t value = 0;

    snprintf(key, sizeof(key), "%s:%s", name, what);
    partition_enter_background(partitions_get(r->ps, p), 0, &g);
    if (kv_string_get(&g.kv, slice_str(key), &s) == 0)
        CHECK(slice_to_i64(s, &value));
    CHECK(partition_leave(&g) == 0);
    return value;
}

static void verify(struct rig *r, struct client *clients)
{
    for (int i = 0; i < CLIENTS; i++) {
        for (uint32_t p = 0; p < PARTITIONS; p++) {
            CHECK(counter(r, p, clients[i].name, "one") == clients[i].singles[p]);
            CHECK(counter(r, p, clients[i].name, "set") == clients[i].sets);
        }
    }
}

int main(int argc, char **argv)
{
    static struct client clients[CLIENTS];
    struct rig r;
    pthread_t threads[3];
    uint64_t parked = 0;
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 300;

    rig_init(&r, PARTITIONS);
    r.worker_count = 3;
    r.so.sync_interval_ms = 5;
    r.so.segment_bytes = 256 << 10;
    r.po.snapshot_keep_bytes = 1;
    rig_open(&r);
    running = CLIENTS;
    for (int i = 0; i < CLIENTS; i++) {
        clients[i].r = &r;
        clients[i].left = rounds;
        clients[i].mail.deliver = deliver;
        clients[i].park.retry = retry;
        clients[i].park.worker = workers_get(r.ws, (unsigned)i % 3);
        snprintf(clients[i].name, sizeof(clients[i].name), "client%d", i);
        rand_seed(&clients[i].rand, (uint64_t)i);
        worker_post(clients[i].park.worker, &clients[i].mail);
    }
    CHECK(pthread_create(&threads[0], NULL, hold, &r) == 0);
    CHECK(pthread_create(&threads[1], NULL, hold, &r) == 0);
    CHECK(pthread_create(&threads[2], NULL, snap, &r) == 0);
    for (int n = 0; __atomic_load_n(&running, __ATOMIC_ACQUIRE) != 0; n++) {
        usleep(1000);
        CHECK(n < 300000);
    }
    __atomic_store_n(&stopping, true, __ATOMIC_RELEASE);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    verify(&r, clients);
    rig_close(&r);
    rig_open(&r);
    verify(&r, clients);
    rig_close(&r);
    rig_fini(&r);
    for (int i = 0; i < CLIENTS; i++)
        parked += clients[i].parked;
    printf("partition stress: %d clients, %u rounds, parked %llu times\n", CLIENTS, rounds, (unsigned long long)parked);
    return 0;
}
