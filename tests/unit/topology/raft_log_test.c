#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "cluster/raft/raft_log.h"

static char dir[64];
static uint64_t entries, snapshots;

static int on_snapshot(void *arg, uint64_t index, uint64_t term, struct slice payload)
{
    (void)arg;
    (void)index;
    (void)term;
    (void)payload;
    snapshots++;
    return 0;
}

static int on_entry(void *arg, uint64_t index, uint64_t term, struct slice payload)
{
    (void)arg;
    (void)index;
    (void)term;
    cr_assert_eq(payload.len, 100);
    entries++;
    return 0;
}

static const struct raft_log_handlers handlers = {on_snapshot, on_entry, NULL};

static void setup(void)
{
    strcpy(dir, "/tmp/gomsg-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
}

static void teardown(void)
{
    file_remove_tree(dir);
}

static int reopen(struct raft_log **l)
{
    raft_log_close(*l);
    *l = NULL;
    entries = snapshots = 0;
    return raft_log_open(dir, &handlers, l);
}

static void append(struct raft_log *l, int n)
{
    uint8_t payload[100] = {7};

    for (int i = 0; i < n; i++)
        raft_log_append(l, 1, slice_of(payload, sizeof(payload)));
    cr_assert_eq(raft_log_sync(l), 0);
}

static char *log_path(uint64_t base)
{
    return mem_printf("%s/log-%llu", dir, (unsigned long long)base);
}

Test(raft_log, entries_and_snapshots_come_back, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;

    cr_assert_eq(reopen(&l), 0);
    append(l, 10);
    cr_assert_eq(reopen(&l), 0);
    cr_assert_eq(entries, 10);
    cr_assert_eq(raft_log_compact(l, slice_str("state")), 0);
    append(l, 3);
    cr_assert_eq(reopen(&l), 0);
    cr_assert_eq(snapshots, 1);
    cr_assert_eq(entries, 3);
    cr_assert_eq(raft_log_last(l), 13);
    raft_log_close(l);
}

Test(raft_log, a_torn_tail_is_cut_wherever_it_tears, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;
    char *path = log_path(0);

    for (int cut = 1; cut < 124; cut += 11) {
        struct stat st;

        unlink(path);
        cr_assert_eq(reopen(&l), 0);
        append(l, 5);
        cr_assert_eq(stat(path, &st), 0);
        cr_assert_eq(truncate(path, st.st_size - cut), 0);
        cr_assert_eq(reopen(&l), 0);
        cr_assert_eq(entries, 4);
        append(l, 1);
        cr_assert_eq(reopen(&l), 0);
        cr_assert_eq(entries, 5);
    }
    raft_log_close(l);
    mem_free(path);
}

Test(raft_log, a_flip_in_the_middle_is_corruption_not_a_tail, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;
    char *path = log_path(0);
    int fd;

    cr_assert_eq(reopen(&l), 0);
    append(l, 5);
    fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, "x", 1, 24 + 124 + 60), 1);
    close(fd);
    cr_assert_eq(reopen(&l), ERR_CORRUPT);
    mem_free(path);
}

Test(raft_log, the_vote_survives_and_a_damaged_one_is_noticed, .init = setup, .fini = teardown)
{
    uint64_t term;
    uint32_t who;
    char *path = mem_printf("%s/vote", dir);
    int fd;

    cr_assert_eq(raft_vote_load(dir, &term, &who), ERR_NOT_FOUND);
    cr_assert_eq(raft_vote_save(dir, 9, 2), 0);
    cr_assert_eq(raft_vote_load(dir, &term, &who), 0);
    cr_assert_eq(term, 9);
    cr_assert_eq(who, 2);
    fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, "x", 1, 15), 1);
    close(fd);
    cr_assert_eq(raft_vote_load(dir, &term, &who), ERR_CORRUPT);
    mem_free(path);
}
