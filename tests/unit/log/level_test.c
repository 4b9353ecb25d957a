/* Rule 10 for the ledger: while the topology works at level 1, a build of level 1 could open the directory; and the change of level. The reader here knows the ledger as that build did. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/fileio.h"
#include "rig.h"

static struct rig r;

static void start(void)
{
    rig_init(&r);
    rig_close(&r);
    r.opt.level = 1;
}

static void end(void)
{
    rig_fini(&r);
}

/* As a build of level 1 reads an entry: kinds 1 to 9. False: it would stop. */
static bool old_build_reads_entry(struct reader *in)
{
    uint8_t kind = reader_u8(in);

    if (kind < 2 || kind > 9)
        return false;
    reader_uvarint(in); /* number */
    switch (kind) {
    case 2: /* LOG */
    case 3: /* NAME */
        reader_u8(in);
        reader_uvarint(in);
        reader_lslice(in);
        if (kind == 3)
            break;
        for (unsigned i = 0; i < 3; i++)
            reader_varint(in);
        reader_uvarint(in);
        reader_varint(in);
        reader_varint(in);
        reader_u8(in);
        reader_varint(in);
        reader_varint(in);
        for (uint64_t n = reader_uvarint(in); n > 0 && !in->bad; n--) {
            for (unsigned i = 0; i < 3; i++)
                reader_varint(in);
            reader_uvarint(in);
            reader_varint(in);
            reader_u8(in);
            reader_be32(in);
        }
        break;
    case 4: /* MARK */
        reader_varint(in);
        reader_varint(in);
        reader_uvarint(in);
        reader_varint(in);
        reader_varint(in);
        break;
    case 5: /* SEAL */
        for (unsigned i = 0; i < 3; i++)
            reader_varint(in);
        reader_uvarint(in);
        reader_varint(in);
        reader_u8(in);
        reader_be32(in);
        break;
    case 6: /* DROP */
        reader_varint(in);
        reader_varint(in);
        break;
    case 7: /* START */
        reader_varint(in);
        break;
    case 8: /* DELETE */
        break;
    case 9: /* CUT */
        reader_varint(in);
        reader_varint(in);
        reader_uvarint(in);
        break;
    }
    return !in->bad;
}

static uint64_t old_build_reads(bool *ret_all)
{
    struct buf file = {0};
    uint64_t version = 0;
    char path[128];

    snprintf(path, sizeof(path), "%s/ledger", r.dir);
    cr_assert_eq(file_read(path, 64 << 20, &file), 0);
    *ret_all = true;
    for (size_t at = 0; at + 8 <= file.len && be32_get(file.data + at) != 0; at += 8 + be32_get(file.data + at)) {
        struct reader in = reader_of(slice_of(file.data + at + 8, be32_get(file.data + at)));

        if (at == 0) {
            cr_assert_eq(reader_u8(&in), 1);
            version = reader_uvarint(&in);
            reader_take(&in, 33);
            reader_uvarint(&in);
        }
        while (*ret_all && reader_left(&in) > 0)
            *ret_all = old_build_reads_entry(&in);
    }
    buf_fini(&file);
    return version;
}

static void work(void)
{
    struct log *l = rig_log(&r, LOG_TOPIC, "p-0000/topic/a-0", 1);

    rig_append(&r, l, 40, 60000); /* segments are sealed */
    cr_assert_eq(log_store_sync(r.s), 0);
    rig_append(&r, l, 3, 100);
    cr_assert_eq(log_store_sync(r.s), 0);
    log_close(l);
}

Test(level, at_level_1_the_ledger_is_what_a_build_of_level_1_reads, .init = start, .fini = end)
{
    bool all;

    rig_open(&r);
    work();
    cr_assert_eq(old_build_reads(&all), 1, "while it runs");
    cr_assert(all);
    rig_close(&r);
    cr_assert_eq(old_build_reads(&all), 1, "and after a clean stop");
    cr_assert(all);
    rig_open(&r);
    struct log *l = rig_log(&r, LOG_TOPIC, "p-0000/topic/a-0", 1);

    cr_assert_eq(rig_check(l, 0, log_end(l)), 43);
    log_close(l);
    rig_close(&r);
}

Test(level, when_the_topologys_level_rises_the_ledger_is_written_anew, .init = start, .fini = end)
{
    bool all;

    rig_open(&r);
    work();
    log_store_set_level(r.s, 2);
    cr_assert_gt(old_build_reads(&all), 1);
    log_store_set_level(r.s, 1);
    work();
    cr_assert_gt(old_build_reads(&all), 1, "it never falls");
    cr_assert_not(all, "and has what level 2 brought");
    rig_close(&r);
}

/* The name of a log made since the last round waits for the next one; the ledger written anew in between has it already. */
static void make_while_it_is_rewritten(struct rig *rig)
{
    struct log *l;

    l = rig_log(rig, LOG_TOPIC, "p-0000/topic/b-0", 2);
    rig_append(rig, l, 3, 100);
    log_store_set_level(rig->s, 2);
    cr_assert_eq(log_store_sync(rig->s), 0);
}

Test(level, a_log_made_while_the_ledger_is_written_anew_is_known_once, .init = start, .fini = end)
{
    struct log *l;

    rig_crash(&r, make_while_it_is_rewritten);
    r.opt.level = 0;
    rig_open(&r);
    l = rig_log(&r, LOG_TOPIC, "p-0000/topic/b-0", 2);
    cr_assert_eq(rig_check(l, 0, log_end(l)), 3);
    log_close(l);
    rig_close(&r);
}
