/* The keyspace by itself: memory an element (resident, table included), nanoseconds a look-up and a change, and the longest hold of a snapshot walk.
 *
 *     bench-kv-engine [elements, default 1000000]
 *
 * Each case runs in a child, so that resident memory begins anew. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "kv/snapshot.h"

static uint64_t n;

/* Of this thread: what others do with the processor is theirs. */
static uint64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}
static struct batch_builder batch;
static struct effects fx;
static struct rand rnd;
static struct kv_ctx c;

static struct slice key_of(uint64_t i, char room[32])
{
    return slice_of(room, (size_t)snprintf(room, 32, "key:%012llu", (unsigned long long)i)); /* 16 bytes */
}

static void commit(void)
{
    batch_begin(&batch, c.now_ms);
}

static void setup(void)
{
    rand_seed(&rnd, 1);
    batch_begin(&batch, 1);
    fx = (struct effects){.batch = &batch, .now_ms = 1};
    c = (struct kv_ctx){.kv = kv_new(NULL), .fx = &fx, .now_ms = 1, .rand = &rnd};
}

static const uint8_t value[32] = "thirty-two bytes of a value.....";

static void fill_strings(void)
{
    char k[32];

    for (uint64_t i = 0; i < n; i++) {
        kv_string_set(&c, key_of(i, k), slice_of(value, 32), 0);
        commit();
    }
}

static void fill_ttl(void)
{
    char k[32];

    for (uint64_t i = 0; i < n; i++) {
        kv_string_set(&c, key_of(i, k), slice_of(value, 32), 1000000 + (int64_t)i);
        commit();
    }
}

static void fill_int(void)
{
    char k[32], v[32];

    for (uint64_t i = 0; i < n; i++) {
        kv_string_set(&c, key_of(i, k), slice_of(v, (size_t)snprintf(v, sizeof(v), "%llu", (unsigned long long)i)), 0);
        commit();
    }
}

static void fill_hash(void)
{
    char k[32];
    uint64_t added;

    for (uint64_t i = 0; i < n; i++) {
        struct slice pair[2] = {key_of(i, k), slice_of(value, 32)};

        kv_hash_set(&c, slice_str("hash"), pair, 1, &added);
        commit();
    }
}

static void fill_set(void)
{
    char k[32];
    uint64_t added;

    for (uint64_t i = 0; i < n; i++) {
        struct slice member = key_of(i, k);

        kv_set_add(&c, slice_str("set"), &member, 1, &added);
        commit();
    }
}

static void fill_list(void)
{
    uint64_t len;

    for (uint64_t i = 0; i < n; i++) {
        struct slice v = slice_of(value, 32);

        kv_list_push(&c, slice_str("list"), KV_TAIL, &v, 1, false, &len);
        commit();
    }
}

static void memory(const char *name, void (*fill)(void))
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        size_t before;
        uint64_t begun;

        setup();
        before = mem_rss();
        begun = cpu_ns();
        fill();
        printf("%-24s %6.1f bytes an element   insert %6.1f ns\n", name, (double)(mem_rss() - before) / (double)n,
               (double)(cpu_ns() - begun) / (double)n);
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, &status, 0);
}

static void speed(void)
{
    enum { AHEAD = 32 };
    static char keys[1 << 16][32];
    uint64_t begun, found = 0;
    struct slice out;
    char k[32];

    setup();
    fill_strings();
    for (unsigned i = 0; i < 1 << 16; i++)
        key_of(rand_below(&rnd, n), keys[i]);
    begun = cpu_ns();
    for (unsigned i = 0; i < 1 << 16; i++)
        found += kv_string_get(&c, slice_of(keys[i], 16), &out) == 0;
    printf("%-24s %6.1f ns\n", "get", (double)(cpu_ns() - begun) / (1 << 16));
    for (unsigned i = 0; i < 1 << 16; i++)
        key_of(rand_below(&rnd, n), keys[i]);
    begun = cpu_ns();
    for (unsigned i = 0; i < 1 << 16; i += AHEAD) {
        uint64_t h[AHEAD];

        for (unsigned j = 0; j < AHEAD; j++)
            kv_prefetch_bucket(c.kv, 0, h[j] = kv_key_hash(slice_of(keys[i + j], 16)));
        for (unsigned j = 0; j < AHEAD; j++)
            kv_prefetch_entry(c.kv, 0, h[j]);
        for (unsigned j = 0; j < AHEAD; j++)
            found += kv_string_get(&c, slice_of(keys[i + j], 16), &out) == 0;
    }
    printf("%-24s %6.1f ns\n", "get, 32 prefetched", (double)(cpu_ns() - begun) / (1 << 16));
    for (unsigned i = 0; i < 1 << 16; i++)
        key_of(rand_below(&rnd, n), keys[i]);
    begun = cpu_ns();
    for (unsigned i = 0; i < 1 << 16; i++) {
        kv_string_set(&c, slice_of(keys[i], 16), slice_of(value, 32), 0);
        commit();
    }
    printf("%-24s %6.1f ns, effect included\n", "set, overwriting", (double)(cpu_ns() - begun) / (1 << 16));
    for (unsigned i = 0; i < 1 << 16; i++)
        key_of(i % 100, keys[i]);
    begun = cpu_ns();
    for (unsigned i = 0; i < 1 << 16; i++)
        found += kv_string_get(&c, slice_of(keys[i], 16), &out) == 0;
    printf("%-24s %6.1f ns\n", "get, in cache", (double)(cpu_ns() - begun) / (1 << 16));
    begun = cpu_ns();
    for (uint64_t i = 0; i < n; i++)
        kv_key_del(&c, key_of(i, k)), commit();
    printf("%-24s %6.1f ns\n", "del", (double)(cpu_ns() - begun) / (double)n);
    if (found == 0)
        abort();
    kv_free(c.kv);
}

static void nothing(void *arg)
{
    (void)arg;
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

static int64_t zero(void *arg)
{
    (void)arg;
    return 0;
}

static void snapshot(const char *name, void (*fill)(void))
{
    static const uint8_t cluster[16];
    struct kv_snapshot_lock lock = {nothing, nothing, never, zero, NULL};
    struct kv_snapshot_result r;
    char dir[] = "/var/tmp/gomsg-bench-XXXXXX";
    uint64_t begun;
    int64_t start;
    struct kv *copy;
    int err;

    setup();
    fill();
    if (mkdtemp(dir) == NULL)
        abort();
    begun = clock_mono_us();
    err = kv_snapshot_write(c.kv, &lock, dir, cluster, 0, &r);
    printf("%-24s write %llu ms, %llu MB, longest hold %llu us, error %d\n", name,
           (unsigned long long)(clock_mono_us() - begun) / 1000, (unsigned long long)r.bytes >> 20, (unsigned long long)r.hold_max_us,
           err);
    copy = kv_new(NULL);
    if (kv_snapshot_publish(dir, r.start) != 0)
        abort();
    begun = clock_mono_us();
    err = kv_snapshot_load(copy, dir, cluster, 0, &start);
    begun = clock_mono_us() - begun;
    printf("%-24s load %llu ms, %.0f MB/s, error %d, same state: %s\n", name, (unsigned long long)begun / 1000,
           (double)r.bytes / (double)begun, err, kv_state_hash(copy) == kv_state_hash(c.kv) ? "yes" : "NO");
    file_remove_tree(dir);
    kv_free(copy);
    kv_free(c.kv);
}

int main(int argc, char **argv)
{
    n = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    if (n == 0)
        return 2;
    memory("string 16 + 32", fill_strings);
    memory("string 16 + 32, TTL", fill_ttl);
    memory("string 16, integer", fill_int);
    memory("hash field 16 + 32", fill_hash);
    memory("set member 16", fill_set);
    memory("list element 32", fill_list);
    speed();
    snapshot("snapshot, strings", fill_strings);
    snapshot("snapshot, one set", fill_set);
    return 0;
}
