#include "random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/rand.h"
#include "sim.h"

static struct sim s;

static uint32_t leader_of(const char *key)
{
    return sim_leader(&s, sim_partition_of(&s, key));
}

/* On whoever leads; a leader that is just being stepped is asked again. */
static int set(const char *key, const char *value, int64_t *ret_end)
{
    int err = 0;

    for (int i = 0; i < 5000; i++) {
        err = sim_set(&s, leader_of(key), key, value, ret_end);
        if (err != ERR_NOT_LEADER && err != ERR_AGAIN && err != ERR_BUSY)
            return err;
        sim_nap();
    }
    return err;
}

static struct log *main_log(uint32_t node, uint32_t partition)
{
    return partition_main_log(sim_partition(&s, node, partition));
}

static bool fail(uint64_t seed, const char *why)
{
    fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed, why);
    sim_print(&s);
    return false;
}

/* Leaders are fenced, cut off, stopped and come back in random order under a flow of writes: whatever was committed is there in the end, and all replicas hold the same. */
bool random_run(uint64_t seed, long *ret_commits)
{
    struct rand rnd;
    long last[16] = {0}; /* the last committed value of a key */
    long commits = 0, counter = 0;

    rand_seed(&rnd, seed);
    sim_init(&s, 3, 2);
    s.seed = seed;
    sim_begin(&s, 3);
    for (int round = 0; round < 12; round++) {
        uint32_t victim = 1 + (uint32_t)rand_below(&rnd, 3);
        unsigned how = (unsigned)rand_below(&rnd, 3);

        __atomic_store_n(&s.loss, (uint32_t)rand_below(&rnd, 3) * 20, __ATOMIC_SEQ_CST);
        for (int i = 0; i < 60; i++) {
            unsigned k = (unsigned)rand_below(&rnd, 16);
            char key[16], value[24];
            int64_t end;

            snprintf(key, sizeof(key), "key:%u", k);
            snprintf(value, sizeof(value), "%ld", ++counter);
            if (set(key, value, &end) != 0)
                continue;
            /* One in four waits for level quorum. */
            if (rand_below(&rnd, 4) == 0) {
                uint32_t p = sim_partition_of(&s, key), leader = sim_leader(&s, p);

                for (int w = 0; w < 300; w++) {
                    if (partition_role(sim_partition(&s, leader, p)) == PARTITION_LEADER && log_hw(main_log(leader, p)) >= end) {
                        last[k] = counter;
                        commits++;
                        break;
                    }
                    sim_nap();
                }
            }
        }
        if (how == 0) {
            sim_stop(&s, victim);
            sim_fence(&s, victim, false);
            sim_nap();
            sim_start(&s, victim);
        } else if (how == 1) {
            sim_isolate(&s, victim, true);
            sim_fence(&s, victim, false);
            for (int i = 0; i < 20; i++)
                sim_nap();
            sim_isolate(&s, victim, false);
            sim_activate(&s, victim);
        } else {
            sim_isolate(&s, victim, true);
            for (int i = 0; i < 20; i++)
                sim_nap();
            sim_isolate(&s, victim, false);
        }
        if (!SIM_WAIT(sim_insync(&s, 0) >= 2 && sim_insync(&s, 1) >= 2))
            return fail(seed, "no second replica came into sync");
    }
    __atomic_store_n(&s.loss, 0, __ATOMIC_SEQ_CST);
    if (!SIM_WAIT(sim_equal(&s)))
        return fail(seed, "replicas differ");
    if (commits == 0)
        return fail(seed, "nothing was committed");
    for (unsigned k = 0; k < 16; k++) {
        char key[16], value[24] = "";

        snprintf(key, sizeof(key), "key:%u", k);
        if (sim_get(&s, leader_of(key), key, value, sizeof(value), false) != 0 || atol(value) < last[k])
            return fail(seed, "something committed was lost");
    }
    sim_end(&s);
    if (ret_commits != NULL)
        *ret_commits = commits;
    return true;
}
