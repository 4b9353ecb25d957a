/* A 64 KiB log, cut and flipped at every byte: a cut gives a prefix, a flip is noticed, nothing is made up. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/raft/raft_log.h"

#define HEAD 28
#define ENTRY_HEAD 36

static char dir[64], *path;
static struct buf whole;
static size_t ends[4096], entry_n; /* where entries end */
static size_t last_batch;          /* where the last batch begins */

/* Batches of one to nine entries of all lengths, without runs of zeros. */
static void build(void)
{
    struct raft_log *l;
    struct raft_log_loaded in;
    struct rand rand;
    uint8_t payload[700];

    /* In memory where there is such a place: each of these opens syncs. */
    strcpy(dir, "/dev/shm/gomsg-unit-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        strcpy(dir, "/tmp/gomsg-unit-XXXXXX");
        cr_assert_not_null(mkdtemp(dir));
    }
    path = mem_printf("%s/log-0", dir);
    rand_seed(&rand, 42);
    cr_assert_eq(raft_log_load(dir, &l, &in), 0);
    raft_log_loaded_fini(&in);
    for (size_t at = HEAD; at < 65536;) {
        last_batch = at;
        for (size_t n = 1 + rand_below(&rand, 9); n > 0; n--) {
            struct raft_entry e = {.term = 1 + at / 9000, .kind = RAFT_ENTRY_COMMAND, .data = payload, .len = (uint32_t)rand_below(&rand, sizeof(payload))};

            for (size_t i = 0; i < e.len; i++)
                payload[i] = (uint8_t)(1 + rand_below(&rand, 255));
            raft_log_add(l, &e);
            at += ENTRY_HEAD + e.len;
            ends[entry_n++] = at;
        }
        cr_assert_eq(raft_log_flush(l), 0);
    }
    raft_log_close(l);
    cr_assert_eq(file_read(path, 1u << 20, &whole), 0);
    cr_assert_eq(whole.len, ends[entry_n - 1]);
    diag_set_level((enum diag_level)(DIAG_ERROR + 1)); /* 130,000 complaints */
}

static void clean(void)
{
    file_remove_tree(dir);
    mem_free(path);
    buf_fini(&whole);
}

static void put_file(const void *data, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);

    cr_assert_eq(write(fd, data, n), (ssize_t)n);
    close(fd);
}

/* The number of entries, or the error. Compares what is there with what was written. */
static int reopen(void)
{
    struct raft_log *l;
    struct raft_log_loaded in;
    int err = raft_log_load(dir, &l, &in), n;

    if (err < 0)
        return err;
    n = (int)in.rec.entry_count;
    for (int i = 0; i < n; i++) {
        size_t end = ends[i], start = i == 0 ? HEAD : ends[i - 1];

        cr_assert_eq(in.entries[i].len, end - start - ENTRY_HEAD);
        cr_assert_eq(memcmp(in.entries[i].data, whole.data + start + ENTRY_HEAD, in.entries[i].len), 0);
    }
    raft_log_loaded_fini(&in);
    raft_log_close(l);
    return n;
}

Test(raft_log_damage, cut_at_any_byte_the_whole_entries_before_remain, .init = build, .fini = clean, .timeout = 300)
{
    size_t expect = 0;

    for (size_t cut = 0; cut < whole.len; cut++) {
        while (expect < entry_n && ends[expect] <= cut)
            expect++;
        put_file(whole.data, cut);
        cr_assert_eq(reopen(), cut < HEAD ? ERR_CORRUPT : (int)expect, "cut at %zu", cut);
    }
}

Test(raft_log_damage, a_flip_of_any_byte_is_noticed, .init = build, .fini = clean, .timeout = 300)
{
    for (size_t at = 0; at < whole.len; at++) {
        uint8_t old = whole.data[at];

        whole.data[at] ^= (uint8_t)(1u << at % 8);
        put_file(whole.data, whole.len);
        whole.data[at] = old;
        cr_assert_eq(reopen(), ERR_CORRUPT, "flip at %zu of %zu", at, whole.len);
    }
}

/* The last write reached the disk in part: some of its sectors are zeros. */
Test(raft_log_damage, sectors_the_last_write_left_out_are_a_torn_tail, .init = build, .fini = clean, .timeout = 300)
{
    size_t before = 0;

    while (ends[before] < last_batch)
        before++;
    before++;
    for (size_t sector = last_batch / 512; sector <= (whole.len - 1) / 512; sector++) {
        struct buf copy = {0};
        size_t from = sector * 512 < last_batch ? last_batch : sector * 512, to = (sector + 1) * 512 > whole.len ? whole.len : (sector + 1) * 512;
        int n;

        if (to - from < 4)
            continue; /* too few zeros to prove anything: refused, to be safe */
        buf_put_slice(&copy, buf_slice(&whole));
        memset(copy.data + from, 0, to - from);
        put_file(copy.data, copy.len);
        n = reopen();
        cr_assert(n >= (int)before && n < (int)entry_n, "sector %zu: %d, %zu", sector, n, before);
        buf_fini(&copy);
    }
}

/* The same zeros in front of a later batch are damage: that sector had been synced. */
Test(raft_log_damage, a_lost_sector_of_an_earlier_write_is_damage, .init = build, .fini = clean, .timeout = 300)
{
    for (size_t sector = 1; (sector + 1) * 512 <= last_batch; sector++) {
        struct buf copy = {0};

        buf_put_slice(&copy, buf_slice(&whole));
        memset(copy.data + sector * 512, 0, 512);
        put_file(copy.data, copy.len);
        cr_assert_eq(reopen(), ERR_CORRUPT, "sector %zu", sector);
        buf_fini(&copy);
    }
}
