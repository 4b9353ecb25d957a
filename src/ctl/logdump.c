#include "ctl/logdump.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "log/effect.h"
#include "log/log.h"

#define SHOWN 48 /* bytes of a key or value */

struct dump {
    const char *file;
    bool json, verify;
    bool effects; /* a main or queue log's: keys are kinds */
    uint64_t batches, records, defects;
};

/* Printable bytes as they are, the rest as \xNN, cut to SHOWN. */
static void show_bytes(struct slice s, char *text)
{
    size_t n = 0;

    for (size_t i = 0; i < s.len && i < SHOWN; i++) {
        if (s.data[i] >= 0x20 && s.data[i] < 0x7f && s.data[i] != '\\')
            text[n++] = (char)s.data[i];
        else
            n += (size_t)sprintf(text + n, "\\x%02x", s.data[i]);
    }
    if (s.len > SHOWN)
        n += (size_t)sprintf(text + n, "...");
    text[n] = '\0';
}

static void show_record(const struct dump *d, const struct record *r)
{
    char name[SHOWN * 4 + 4], value[SHOWN * 4 + 4];
    struct effect e;

    show_bytes(r->value, value);
    if (d->effects && effect_read(r, &e) == 0) {
        show_bytes(e.name, name);
        if (d->json) {
            json_t *o = json_pack("{s:I, s:s, s:i, s:s, s:I, s:s}", "offset", (json_int_t)r->offset, "kind", effect_kind_name(e.kind),
                                  "db", (int)e.db, "name", name, "size", (json_int_t)r->value.len, "value", value);

            json_dumpf(o, stdout, JSON_COMPACT);
            putchar('\n');
            json_decref(o);
        } else {
            printf("  %-10lld %-16s db=%u name=%s value[%zu]=%s\n", (long long)r->offset, effect_kind_name(e.kind), e.db, name, r->value.len,
                   value);
        }
        return;
    }
    show_bytes(r->key, name);
    if (d->json) {
        json_t *o = json_pack("{s:I, s:I, s:s, s:I, s:s}", "offset", (json_int_t)r->offset, "timestamp", (json_int_t)r->timestamp, "key", name,
                              "size", (json_int_t)r->value.len, "value", value);

        json_dumpf(o, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(o);
    } else {
        printf("  %-10lld key=%s value[%zu]=%s\n", (long long)r->offset, r->key.data == NULL ? "(none)" : name, r->value.len, value);
    }
}

static int show_batch(void *arg, const struct log_walk_batch *b)
{
    struct dump *d = arg;
    struct record_iter it;
    struct record r;

    d->batches++;
    d->records += (uint64_t)(b->header.record_count > 0 ? b->header.record_count : 0);
    if (b->defect != NULL) {
        d->defects++;
        fprintf(stderr, "%s: at byte %llu, offset %lld: %s\n", d->file, (unsigned long long)b->pos, (long long)b->header.base_offset,
                b->defect);
    }
    if (d->verify)
        return 0;
    if (!d->json)
        printf("batch at %llu: offsets %lld..%lld, %d records, %u bytes, epoch %d, time %lld%s\n", (unsigned long long)b->pos,
               (long long)b->header.base_offset, (long long)b->header.base_offset + b->header.last_offset_delta, b->header.record_count,
               b->header.length, b->header.leader_epoch, (long long)b->header.base_timestamp,
               b->header.producer_id >= 0 ? ", idempotent" : "");
    if (b->records.data == NULL || b->defect != NULL)
        return 0;
    record_iter_init(&it, &b->header, b->records);
    while (record_iter_next(&it, &r) == 1)
        show_record(d, &r);
    return 0;
}

int logdump_main(int argc, char **argv, bool json)
{
    struct dump d = {.json = json};
    int err;

    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--verify") == 0)
            d.verify = true;
        else if (d.file == NULL && argv[i][0] != '-')
            d.file = argv[i];
        else
            d.file = NULL, i = argc;
    }
    if (d.file == NULL) {
        fprintf(stderr, "usage: gomsgctl log dump [--verify] FILE\n");
        return 2;
    }
    d.effects = strstr(d.file, "/topic/") == NULL;
    err = log_file_walk(d.file, d.verify, show_batch, &d);
    if (err < 0 && d.defects == 0)
        fprintf(stderr, "gomsgctl: %s: %s\n", d.file, err_text(err));
    if (d.verify && json)
        printf("{\"batches\":%llu,\"records\":%llu,\"defects\":%llu}\n", (unsigned long long)d.batches, (unsigned long long)d.records,
               (unsigned long long)d.defects);
    else if (d.verify)
        printf("%s: %llu batches, %llu records, %llu defects\n", d.file, (unsigned long long)d.batches, (unsigned long long)d.records,
               (unsigned long long)d.defects);
    return err < 0 || d.defects > 0 ? 1 : 0;
}
