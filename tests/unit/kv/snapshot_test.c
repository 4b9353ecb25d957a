/* Snapshots taken at random moments under random changes: loading one and replaying the log from its S must give the state that is there (P17, P18). The changes
 * happen where the walk gives the lock up, in this one thread, so that a failing seed fails again. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "kv/snapshot.h"
#include "kv/state.h"
#include "model.h"

static const uint8_t cluster[16] = "test cluster id";

struct busy {
    struct fixture *f;
    struct model *m;
    struct rand r;
    unsigned steps; /* at most so many changes each time the lock is free */
    bool held;
    unsigned restart_after; /* count down, 0: never */
};

static void busy_lock(void *arg)
{
    struct busy *b = arg;

    cr_assert_not(b->held);
    b->held = true;
}

static void busy_unlock(void *arg)
{
    struct busy *b = arg;

    cr_assert(b->held);
    b->held = false;
    for (uint64_t n = b->steps == 0 ? 0 : rand_below(&b->r, b->steps); n > 0; n--)
        model_step(b->m, b->f, &b->r);
    if (b->restart_after != 0 && --b->restart_after == 0)
        kv_snapshot_restart(b->f->kv);
}

static bool busy_wanted(void *arg)
{
    return rand_below(&((struct busy *)arg)->r, 3) == 0;
}

static int64_t busy_end(void *arg)
{
    struct busy *b = arg;

    cr_assert(b->held);
    return (int64_t)b->f->n;
}

static char *temp_dir(void)
{
    char *dir = mem_strdup("/tmp/gomsg-kv-XXXXXX");

    cr_assert_not_null(mkdtemp(dir));
    return dir;
}

static void remove_dir(char *dir)
{
    file_remove_tree(dir);
    mem_free(dir);
}

static void round_trip(uint64_t seed, const struct kv_options *options, unsigned keys, unsigned restart_after)
{
    struct fixture f;
    struct busy b = {.f = &f, .m = model_new(keys), .steps = 12, .restart_after = restart_after};
    struct kv_snapshot_lock lock = {busy_lock, busy_unlock, busy_wanted, busy_end, &b};
    struct kv_snapshot_result result;
    char *dir = temp_dir();
    struct kv *copy = kv_new(NULL);
    int64_t start;
    uint64_t state;

    fixture_init(&f, options);
    rand_seed(&b.r, seed);
    for (uint64_t n = rand_below(&b.r, 3000); n > 0; n--)
        model_step(b.m, &f, &b.r);
    cr_assert_eq(kv_snapshot_write(f.kv, &lock, dir, cluster, 7, &result), 0);
    cr_assert_eq(result.restarts, restart_after != 0);
    cr_assert_not(kv_snapshot_running(f.kv));
    cr_assert_geq(result.end, result.start);
    cr_assert_eq(kv_snapshot_load(copy, dir, cluster, 7, &start), ERR_NOT_FOUND, "not yet published");
    cr_assert_eq(kv_snapshot_publish(dir, result.start), 0);
    cr_assert_eq(kv_snapshot_load(copy, dir, cluster, 7, &start), 0);
    cr_assert_eq(start, result.start);
    for (int n = 0; n < 50; n++)
        model_step(b.m, &f, &b.r);
    fixture_replay(&f, (size_t)start, copy);
    state = kv_state_hash(f.kv);
    cr_assert_eq(kv_state_hash(copy), state, "seed %llu: S %lld E %lld of %zu", (unsigned long long)seed,
                 (long long)result.start, (long long)result.end, f.n);
    model_compare(b.m, &f);
    kv_free(copy);
    model_free(b.m);
    fixture_fini(&f);
    remove_dir(dir);
}

Test(snapshot, loaded_and_replayed_gives_the_state_whatever_changed_meanwhile)
{
    struct kv_options tiny = {.hash_listpack_max_entries = 2, .hash_listpack_max_value = 8, .set_listpack_max_entries = 2,
                              .set_intset_max_entries = 4, .list_chunk_bytes = 128};

    for (uint64_t seed = 1; seed <= 60; seed++)
        round_trip(seed, seed % 2 ? &tiny : NULL, 4 + (unsigned)seed % 20, 0);
}

/* Every element counts as large here, so that each is copied while commands change and remove it, its key and its database. */
Test(snapshot, elements_copied_without_the_lock_stay_what_they_were)
{
    struct kv_options tiny = {.hash_listpack_max_entries = 2, .hash_listpack_max_value = 8, .set_listpack_max_entries = 2,
                              .set_intset_max_entries = 4, .list_chunk_bytes = 128, .element_copy_max = 1};

    for (uint64_t seed = 1000; seed <= 1060; seed++)
        round_trip(seed, &tiny, 2 + (unsigned)seed % 6, 0);
}

Test(snapshot, a_restart_begins_anew)
{
    for (uint64_t seed = 100; seed < 105; seed++)
        round_trip(seed, NULL, 20, 3);
}

Test(snapshot, of_an_empty_keyspace)
{
    struct fixture f;
    struct busy b = {.f = &f};
    struct kv_snapshot_lock lock = {busy_lock, busy_unlock, busy_wanted, busy_end, &b};
    struct kv_snapshot_result result;
    char *dir = temp_dir();
    struct kv *copy = kv_new(NULL);
    int64_t start;

    fixture_init(&f, NULL);
    rand_seed(&b.r, 1);
    cr_assert_eq(kv_snapshot_write(f.kv, &lock, dir, cluster, 7, &result), 0);
    cr_assert_eq(kv_snapshot_publish(dir, result.start), 0);
    cr_assert_eq(kv_snapshot_load(copy, dir, cluster, 7, &start), 0);
    cr_assert_eq(start, 0);
    cr_assert_eq(result.keys, 0);
    kv_free(copy);
    fixture_fini(&f);
    remove_dir(dir);
}

Test(snapshot, every_flipped_byte_and_every_truncation_is_found)
{
    struct fixture f;
    struct busy b = {.f = &f, .m = model_new(6)};
    struct kv_snapshot_lock lock = {busy_lock, busy_unlock, busy_wanted, busy_end, &b};
    struct kv_snapshot_result result;
    char *dir = temp_dir(), path[200];
    uint8_t *bytes;
    uint64_t good;
    int fd;
    size_t n;

    fixture_init(&f, NULL);
    rand_seed(&b.r, 77);
    for (int i = 0; i < 300; i++)
        model_step(b.m, &f, &b.r);
    cr_assert_eq(kv_snapshot_write(f.kv, &lock, dir, cluster, 7, &result), 0);
    cr_assert_eq(kv_snapshot_publish(dir, result.start), 0);
    snprintf(path, sizeof(path), "%s/snapshot-%020lld", dir, (long long)result.start);
    fd = open(path, O_RDWR);
    cr_assert_geq(fd, 0);
    n = (size_t)result.bytes;
    bytes = mem_alloc(n);
    cr_assert_eq(file_pread_all(fd, bytes, n, 0), 0);
    good = kv_state_hash(f.kv);
    for (size_t i = 0; i <= n; i += n < 4000 ? 1 : 1 + n / 4000) {
        struct kv *copy = kv_new(NULL);

        if (i < n) {
            uint8_t flipped = bytes[i] ^ (uint8_t)(1u << (i % 8));

            cr_assert_eq(file_pwrite_all(fd, &flipped, 1, i), 0);
            cr_assert_neq(kv_snapshot_read(copy, fd, cluster, 7, result.start), 0, "byte %zu of %zu", i, n);
            cr_assert_eq(file_pwrite_all(fd, &bytes[i], 1, i), 0);
            kv_free(copy);
            copy = kv_new(NULL);
            cr_assert_eq(ftruncate(fd, (off_t)i), 0);
            cr_assert_eq(kv_snapshot_read(copy, fd, cluster, 7, result.start), ERR_CORRUPT, "cut at %zu of %zu", i, n);
            cr_assert_eq(file_pwrite_all(fd, bytes + i, n - i, i), 0);
        } else {
            cr_assert_eq(kv_snapshot_read(copy, fd, cluster, 7, result.start), 0);
            cr_assert_eq(kv_state_hash(copy), good);
        }
        kv_free(copy);
    }
    close(fd);
    mem_free(bytes);
    model_free(b.m);
    fixture_fini(&f);
    remove_dir(dir);
}

Test(snapshot, of_another_cluster_partition_or_a_newer_level_is_refused)
{
    struct fixture f;
    struct busy b = {.f = &f};
    struct kv_snapshot_lock lock = {busy_lock, busy_unlock, busy_wanted, busy_end, &b};
    struct kv_snapshot_result result;
    static const uint8_t other[16] = "another cluster";
    char *dir = temp_dir();
    struct kv *copy = kv_new(NULL);
    int64_t start;

    fixture_init(&f, NULL);
    rand_seed(&b.r, 1);
    kv_string_set(&f.c, S("k"), S("v"), 0);
    fixture_commit(&f);
    cr_assert_eq(kv_snapshot_write(f.kv, &lock, dir, cluster, 7, &result), 0);
    cr_assert_eq(kv_snapshot_publish(dir, result.start), 0);
    cr_assert_eq(kv_snapshot_load(copy, dir, other, 7, &start), ERR_FOREIGN);
    cr_assert_eq(kv_snapshot_load(copy, dir, cluster, 8, &start), ERR_FOREIGN);
    cr_assert_eq(kv_db_size(copy, 0), 0);
    kv_free(copy);
    fixture_fini(&f);
    remove_dir(dir);
}

Test(snapshot, a_damaged_newest_one_falls_back_to_an_older)
{
    struct fixture f;
    struct busy b = {.f = &f};
    struct kv_snapshot_lock lock = {busy_lock, busy_unlock, busy_wanted, busy_end, &b};
    struct kv_snapshot_result result;
    char *dir = temp_dir(), path[200];
    struct kv *copy = kv_new(NULL);
    int64_t start;
    int fd;

    fixture_init(&f, NULL);
    rand_seed(&b.r, 1);
    kv_string_set(&f.c, S("k"), S("v"), 0);
    fixture_commit(&f);
    cr_assert_eq(kv_snapshot_write(f.kv, &lock, dir, cluster, 7, &result), 0);
    cr_assert_eq(kv_snapshot_publish(dir, result.start), 0);
    snprintf(path, sizeof(path), "%s/snapshot-%020d", dir, 99);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    cr_assert_eq(file_pwrite_all(fd, "GMSNAP01 and nothing else", 25, 0), 0);
    close(fd);
    cr_assert_eq(kv_snapshot_load(copy, dir, cluster, 7, &start), 0);
    cr_assert_eq(start, result.start);
    /* Once published, the newer removes the older; damaged and alone it is corruption. */
    snprintf(path, sizeof(path), "%s/snapshot-%020lld", dir, (long long)result.start);
    cr_assert_eq(unlink(path), 0);
    kv_free(copy);
    copy = kv_new(NULL);
    cr_assert_eq(kv_snapshot_load(copy, dir, cluster, 7, &start), ERR_CORRUPT);
    kv_free(copy);
    fixture_fini(&f);
    remove_dir(dir);
}
