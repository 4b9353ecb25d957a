#include "rig.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"

void rig_init(struct rig *r, uint32_t partitions)
{
    memset(r, 0, sizeof(*r));
    diag_set_level(DIAG_ERROR);
    strcpy(r->dir, "/tmp/gomsg-partition-XXXXXX");
    CHECK(mkdtemp(r->dir) != NULL);
    r->worker_count = 2;
    r->so = (struct log_store_options){.data_dir = r->dir, .fsync = LOG_FSYNC_INTERVAL, .sync_interval_ms = 20,
                                       .segment_bytes = 1 << 20};
    memcpy(r->so.cluster_id, "the test cluster", 16);
    r->po = (struct partitions_options){.count = partitions, .data_dir = r->dir};
    memcpy(r->po.cluster_id, "the test cluster", 16);
}

struct gate {
    pthread_mutex_t m;
    pthread_cond_t c;
    bool open;
};

static void recovered(void *arg)
{
    struct gate *g = arg;

    pthread_mutex_lock(&g->m);
    g->open = true;
    pthread_cond_signal(&g->c);
    pthread_mutex_unlock(&g->m);
}

int rig_try_open_store(struct rig *r)
{
    CHECK(workers_new(&(struct workers_options){.count = r->worker_count}, &r->ws) == 0);
    CHECK(workers_start(r->ws) == 0);
    return log_store_open(&r->so, r->ws, &r->store);
}

void rig_open(struct rig *r)
{
    struct gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};

    CHECK(rig_try_open_store(r) == 0);
    r->po.store = r->store;
    r->po.workers = r->ws;
    CHECK(partitions_new(&r->po, &r->ps) == 0);
    partitions_recover(r->ps, NULL, recovered, &gate);
    pthread_mutex_lock(&gate.m);
    while (!gate.open)
        pthread_cond_wait(&gate.c, &gate.m);
    pthread_mutex_unlock(&gate.m);
    CHECK(partitions_ready(r->ps));
}

void rig_close(struct rig *r)
{
    workers_stop(r->ws);
    partitions_free(r->ps);
    log_store_close(r->store);
    workers_free(r->ws);
    r->ps = NULL;
    r->store = NULL;
    r->ws = NULL;
}

void rig_fini(struct rig *r)
{
    file_remove_tree(r->dir);
}

size_t rig_crash(struct rig *r, void (*work)(struct rig *r, int out), void *ret, size_t room)
{
    int fds[2], status;
    size_t n = 0;
    pid_t pid;

    CHECK(pipe(fds) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(fds[0]);
        rig_open(r);
        work(r, fds[1]);
        kill(getpid(), SIGKILL);
    }
    close(fds[1]);
    for (ssize_t got; n < room && (got = read(fds[0], (char *)ret + n, room - n)) > 0;)
        n += (size_t)got;
    close(fds[0]);
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return n;
}

static struct partition *of_key(struct rig *r, const char *key)
{
    return partitions_get(r->ps, placement_of_key(slice_str(key), r->po.count));
}

int rig_set(struct rig *r, const char *key, const char *value)
{
    struct partition_guard g;
    int err;

    do {
        err = partition_enter(of_key(r, key), 0, NULL, &g);
    } while (err == ERR_BUSY);
    if (err != 0)
        return err;
    kv_string_set(&g.kv, slice_str(key), slice_str(value), 0);
    return partition_leave(&g);
}

const char *rig_get(struct rig *r, const char *key)
{
    static char value[8][64];
    static unsigned at;
    struct partition_guard g;
    struct slice s;
    int err;

    do {
        err = partition_enter(of_key(r, key), 0, NULL, &g);
    } while (err == ERR_BUSY);
    CHECK(err == 0);
    at = (at + 1) % 8;
    value[at][0] = '\0';
    if (kv_string_get(&g.kv, slice_str(key), &s) == 0)
        snprintf(value[at], sizeof(value[at]), "%.*s", (int)s.len, (const char *)s.data);
    CHECK(partition_leave(&g) == 0);
    return value[at];
}

const char *rig_key_in(struct rig *r, uint32_t p)
{
    static char keys[8][32];
    static unsigned at;

    at = (at + 1) % 8;
    for (int i = 0;; i++) {
        snprintf(keys[at], sizeof(keys[at]), "key:%u:%d", p, i);
        if (placement_of_key(slice_str(keys[at]), r->po.count) == p)
            return keys[at];
    }
}

int rig_set_all(struct rig *r, uint32_t n, const char *value)
{
    struct partition_guard guards[16];
    uint32_t indexes[16];
    int err;

    CHECK(n <= 16);
    for (uint32_t i = 0; i < n; i++)
        indexes[i] = i;
    do {
        err = partition_enter_set(r->ps, indexes, n, 0, NULL, guards);
    } while (err == ERR_BUSY);
    if (err != 0)
        return err;
    for (uint32_t i = 0; i < n; i++)
        kv_string_set(&guards[i].kv, slice_str(rig_key_in(r, i)), slice_str(value), 0);
    return partition_leave_set(r->ps, guards, n);
}

uint64_t rig_state(struct rig *r)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < r->po.count; i++) {
        struct partition *p = partitions_get(r->ps, i);
        struct partition_guard g;

        partition_enter_background(p, 0, &g);
        sum = sum * 31 + kv_state_hash(partition_kv(p));
        CHECK(partition_leave(&g) == 0);
    }
    return sum;
}
