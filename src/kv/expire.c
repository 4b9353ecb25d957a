/* Active expiry: samples keys with a TTL as Redis does (expire.c: twenty a round, again while more than a tenth of them were expired) and removes
 * those that are due as one effect of up to 1,000 names. */
#include "kv/state.h"

#define SAMPLE 20
#define BATCH 64 /* names gathered from one look at the index */

struct sample {
    int64_t now_ms;
    uint32_t seen, n;
    struct kv_entry *due[BATCH];
};

static void look(void *entry, void *arg)
{
    struct sample *s = arg;

    s->seen++;
    if (s->n < BATCH && entry_is_expired(entry, s->now_ms))
        s->due[s->n++] = entry;
}

uint32_t kv_expire_cycle(struct kv_ctx *c, uint32_t max)
{
    struct kv *kv = c->kv;
    uint32_t total = 0, saved = c->db;

    max = MIN_OF(max, 1000u);
    for (uint32_t db = 0; db < KV_DB_COUNT && total < max; db++) {
        struct kv_db *d = &kv->dbs[db];
        uint32_t seen, gone, in_db = 0;

        if (d->expires.count == 0)
            continue;
        buf_clear(&kv->scratch);
        do {
            unsigned buckets = 0;

            seen = gone = 0;
            do {
                struct sample s = {.now_ms = c->now_ms};

                d->expire_cursor = table_scan(&d->expires, d->expire_cursor, look, &s);
                seen += s.seen;
                for (uint32_t i = 0; i < s.n && total < max; i++, total++, gone++, in_db++) {
                    struct slice key = entry_key(s.due[i]);
                    struct kv_ref r;

                    buf_put_lslice(&kv->scratch, key);
                    kv_ref_find(kv, db, key, &r);
                    CHECK(r.e == s.due[i]);
                    kv_ref_touch(&r);
                    kv_ref_remove(&r);
                }
            } while (seen < SAMPLE && ++buckets < SAMPLE * 10 && d->expire_cursor != 0 && total < max);
        } while (gone * 10 > seen && total < max && d->expires.count != 0);
        if (in_db != 0)
            effect_add(c->fx, EFFECT_KV_DEL_MANY, db, SLICE_NONE, buf_slice(&kv->scratch));
    }
    kv->expired_total += total;
    c->db = saved;
    return total;
}
