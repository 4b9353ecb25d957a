#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "cluster/raft/raft_log.h"

static char dir[64];
static void setup(void)
{
    strcpy(dir, "/tmp/gomsg-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
}

static void teardown(void)
{
    file_remove_tree(dir);
}

static char *log_path(uint64_t base)
{
    return mem_printf("%s/log-%llu", dir, (unsigned long long)base);
}

static void load(struct raft_log **l, struct raft_log_loaded *in)
{
    raft_log_close(*l);
    *l = NULL;
    cr_assert_eq(raft_log_load(dir, l, in), 0);
}

static void add(struct raft_log *l, uint64_t term, uint8_t kind, const char *text)
{
    raft_log_add(l, &(struct raft_entry){.term = term, .kind = kind, .data = (const uint8_t *)text, .len = (uint32_t)strlen(text)});
}

Test(raft_log, kinds_terms_and_payloads_come_back, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;
    struct raft_log_loaded in;

    load(&l, &in);
    cr_assert_eq(in.rec.entry_count, 0);
    raft_log_loaded_fini(&in);
    add(l, 1, RAFT_ENTRY_NOOP, "");
    add(l, 1, RAFT_ENTRY_COMMAND, "one");
    cr_assert_eq(raft_log_flush(l), 0);
    add(l, 4, RAFT_ENTRY_CONFIG, "two");
    cr_assert_eq(raft_log_flush(l), 0);
    load(&l, &in);
    cr_assert_eq(in.rec.entry_count, 3);
    cr_assert_eq(in.rec.base, 0);
    cr_assert_eq(in.entries[0].kind, RAFT_ENTRY_NOOP);
    cr_assert_eq(in.entries[0].len, 0);
    cr_assert_eq(in.entries[1].term, 1);
    cr_assert(slice_eq(slice_of(in.entries[1].data, in.entries[1].len), SLICE_LIT("one")));
    cr_assert_eq(in.entries[2].term, 4);
    cr_assert_eq(in.entries[2].kind, RAFT_ENTRY_CONFIG);
    raft_log_loaded_fini(&in);
    raft_log_close(l);
}

Test(raft_log, a_suffix_is_dropped_and_written_over, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;
    struct raft_log_loaded in;

    load(&l, &in);
    raft_log_loaded_fini(&in);
    for (int i = 0; i < 10; i++)
        add(l, 1, RAFT_ENTRY_COMMAND, "an entry of the first term");
    cr_assert_eq(raft_log_flush(l), 0);
    add(l, 1, RAFT_ENTRY_COMMAND, "not flushed");
    cr_assert_eq(raft_log_truncate(l, 11), 0); /* in memory only */
    cr_assert_eq(raft_log_last(l), 10);
    cr_assert_eq(raft_log_truncate(l, 5), 0);
    cr_assert_eq(raft_log_last(l), 4);
    add(l, 2, RAFT_ENTRY_COMMAND, "short");
    cr_assert_eq(raft_log_flush(l), 0);
    load(&l, &in);
    cr_assert_eq(in.rec.entry_count, 5);
    cr_assert_eq(in.entries[3].term, 1);
    cr_assert_eq(in.entries[4].term, 2);
    cr_assert_eq(raft_log_last_term(l), 2);
    raft_log_loaded_fini(&in);
    raft_log_close(l);
}

static struct raft_snapshot snapshot_at(struct raft_log *l, uint64_t index, uint64_t term, struct slice payload)
{
    (void)l;
    return (struct raft_snapshot){.index = index, .term = term, .config = SLICE_LIT("who"), .size = payload.len, .crc = crc32c(0, payload.data, payload.len)};
}

Test(raft_log, a_snapshot_leaves_entries_behind_it_for_short_outages, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;
    struct raft_log_loaded in;
    struct slice payload = SLICE_LIT("state");
    struct raft_snapshot s;
    struct buf piece = {0};
    uint64_t first;
    char big[3000];

    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    load(&l, &in);
    raft_log_loaded_fini(&in);
    for (int i = 0; i < 1000; i++)
        add(l, 3, RAFT_ENTRY_COMMAND, big); /* 3 MB */
    cr_assert_eq(raft_log_flush(l), 0);
    s = snapshot_at(l, 900, 3, payload);
    cr_assert_eq(raft_log_save(l, &s, payload, &first), 0);
    cr_assert(first > 500 && first < 600, "first is %llu", (unsigned long long)first); /* 1 MiB behind 900 */
    add(l, 3, RAFT_ENTRY_COMMAND, "behind the cut");
    cr_assert_eq(raft_log_flush(l), 0);
    load(&l, &in);
    cr_assert_eq(in.rec.base, first - 1);
    cr_assert_eq(in.rec.base_term, 3);
    cr_assert_eq(in.rec.base + in.rec.entry_count, 1001);
    cr_assert_eq(in.rec.snapshot.index, 900);
    cr_assert(slice_eq(in.rec.snapshot.config, SLICE_LIT("who")));
    cr_assert(slice_eq(in.snapshot_payload, payload));
    raft_log_loaded_fini(&in);
    cr_assert_eq(raft_log_snapshot_read(l, 900, 1, 3, &piece), 0);
    cr_assert(slice_eq(buf_slice(&piece), SLICE_LIT("tat")));
    cr_assert_eq(raft_log_snapshot_read(l, 900, 1, 5, &piece), ERR_NOT_FOUND);
    cr_assert_eq(raft_log_snapshot_read(l, 899, 0, 1, &piece), ERR_NOT_FOUND);
    s = snapshot_at(l, 1001, 3, SLICE_LIT("later"));
    cr_assert_eq(raft_log_save(l, &s, SLICE_LIT("later"), &first), 0);
    buf_clear(&piece);
    cr_assert_eq(raft_log_snapshot_read(l, 900, 0, 5, &piece), 0, "the one before is still there for whoever is being sent it");
    cr_assert(slice_eq(buf_slice(&piece), payload));
    buf_fini(&piece);
    raft_log_close(l);
}

Test(raft_log, a_received_snapshot_replaces_the_log, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;
    struct raft_log_loaded in;
    struct slice payload = SLICE_LIT("theirs");
    struct raft_snapshot s;

    load(&l, &in);
    raft_log_loaded_fini(&in);
    add(l, 1, RAFT_ENTRY_COMMAND, "ours");
    cr_assert_eq(raft_log_flush(l), 0);
    s = snapshot_at(l, 50, 7, payload);
    cr_assert_eq(raft_log_install(l, &s, payload), 0);
    add(l, 8, RAFT_ENTRY_COMMAND, "next");
    cr_assert_eq(raft_log_flush(l), 0);
    load(&l, &in);
    cr_assert_eq(in.rec.base, 50);
    cr_assert_eq(in.rec.base_term, 7);
    cr_assert_eq(in.rec.entry_count, 1);
    cr_assert(slice_eq(in.snapshot_payload, payload));
    raft_log_loaded_fini(&in);
    raft_log_close(l);
}

/* A crash between the two renames of an installation: snapshot new, log old. */
Test(raft_log, a_half_done_installation_is_finished_when_opened, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;
    struct raft_log_loaded in;
    struct raft_snapshot s = snapshot_at(l, 50, 7, SLICE_LIT("theirs"));
    char *old = log_path(0), *copy = mem_printf("%s/copy", dir);
    struct buf b = {0};

    load(&l, &in);
    raft_log_loaded_fini(&in);
    for (int i = 0; i < 60; i++)
        add(l, 1, RAFT_ENTRY_COMMAND, "ours, longer but of another history");
    cr_assert_eq(raft_log_flush(l), 0);
    cr_assert_eq(file_read(old, 1u << 20, &b), 0);
    cr_assert_eq(raft_log_install(l, &s, SLICE_LIT("theirs")), 0);
    char *new = log_path(50);
    unlink(new);
    cr_assert_eq(file_replace(old, b.data, b.len), 0);
    load(&l, &in);
    cr_assert_eq(in.rec.base, 50);
    cr_assert_eq(in.rec.base_term, 7);
    cr_assert_eq(in.rec.entry_count, 0);
    cr_assert_eq(raft_log_last(l), 50);
    raft_log_loaded_fini(&in);
    raft_log_close(l);
    buf_fini(&b);
    mem_free(old);
    mem_free(new);
    mem_free(copy);
}

Test(raft_log, the_vote_survives_in_turn_and_a_damaged_one_is_noticed, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;
    struct raft_log_loaded in;
    char *path = mem_printf("%s/vote", dir);
    struct raft_node who = {.id = 2, .uuid = "fifteen letters"};
    int fd;

    load(&l, &in);
    cr_assert_eq(in.rec.term, 0);
    raft_log_loaded_fini(&in);
    for (uint64_t term = 1; term < 8; term++) {
        who.id = (uint32_t)term % 3;
        cr_assert_eq(raft_log_vote(l, term, &who), 0);
        load(&l, &in);
        cr_assert_eq(in.rec.term, term);
        cr_assert_eq(in.rec.vote.id, who.id);
        cr_assert_eq(memcmp(in.rec.vote.uuid, who.uuid, 16), 0);
        raft_log_loaded_fini(&in);
    }
    raft_log_close(l);
    for (off_t at = 0; at < 48; at++) {
        for (int slot = 0; slot < 2; slot++) {
            uint8_t c;

            fd = open(path, O_RDWR);
            cr_assert_eq(pread(fd, &c, 1, slot * 4096 + at), 1);
            c ^= 0x10;
            cr_assert_eq(pwrite(fd, &c, 1, slot * 4096 + at), 1);
            cr_assert_eq(raft_log_load(dir, &l, &in), ERR_CORRUPT, "slot %d byte %d", slot, (int)at);
            c ^= 0x10;
            cr_assert_eq(pwrite(fd, &c, 1, slot * 4096 + at), 1);
            close(fd);
        }
    }
    unlink(path);
    cr_assert_eq(raft_log_load(dir, &l, &in), ERR_CORRUPT, "a log whose vote is gone has forgotten something");
    mem_free(path);
}

/* ---- format 01 -------------------------------------------------------------------------------------------------------- */

static void put_01(struct buf *b, uint64_t index, const char *text)
{
    size_t at = b->len;

    buf_put_be32(b, (uint32_t)strlen(text));
    buf_put_be32(b, 0);
    buf_put_be64(b, index);
    buf_put_be64(b, 1);
    buf_put_str(b, text);
    be32_put(b->data + at + 4, crc32c(0, b->data + at + 8, 16 + strlen(text)));
}

Test(raft_log, directories_of_the_first_format_open_and_are_rewritten, .init = setup, .fini = teardown)
{
    struct raft_log *l = NULL;
    struct raft_log_loaded in;
    struct buf log = {0}, snapshot = {0};
    char *path = log_path(20), *snapshot_path = mem_printf("%s/snapshot-20", dir);

    buf_put_str(&snapshot, "GMRSNP01");
    buf_put_be64(&snapshot, 20);
    buf_put_be64(&snapshot, 1);
    buf_put_be32(&snapshot, crc32c(0, "state", 5));
    buf_put_str(&snapshot, "state");
    buf_put_str(&log, "GMRAFT01");
    buf_put_be64(&log, 20);
    buf_put_be64(&log, 1);
    put_01(&log, 21, "first");
    put_01(&log, 22, "second");
    cr_assert_eq(file_replace(snapshot_path, snapshot.data, snapshot.len), 0);
    cr_assert_eq(file_replace(path, log.data, log.len - 3), 0); /* the second is torn */
    for (int round = 0; round < 3; round++) {
        load(&l, &in);
        cr_assert_eq(in.rec.snapshot.index, 20);
        cr_assert(slice_eq(in.snapshot_payload, SLICE_LIT("state")));
        cr_assert_eq(in.rec.snapshot.config.len, 0);
        cr_assert_eq(in.rec.base, 20);
        cr_assert_eq(in.rec.entry_count, 1u + (unsigned)round);
        cr_assert(slice_eq(slice_of(in.entries[0].data, in.entries[0].len), SLICE_LIT("first")));
        raft_log_loaded_fini(&in);
        add(l, 2, RAFT_ENTRY_COMMAND, "more");
        cr_assert_eq(raft_log_flush(l), 0);
    }
    raft_log_close(l);
    buf_fini(&log);
    buf_fini(&snapshot);
    mem_free(path);
    mem_free(snapshot_path);
}
