#include "fixture.h"

#include <criterion/criterion.h>

void fixture_init(struct fixture *f, const struct kv_options *options)
{
    memset(f, 0, sizeof(*f));
    f->kv = kv_new(options);
    rand_seed(&f->rand, 1);
    batch_begin(&f->batch, 1000);
    f->fx = (struct effects){.batch = &f->batch, .now_ms = 1000};
    f->c = (struct kv_ctx){.kv = f->kv, .fx = &f->fx, .now_ms = 1000, .rand = &f->rand};
}

void fixture_fini(struct fixture *f)
{
    kv_free(f->kv);
    batch_builder_fini(&f->batch);
    buf_fini(&f->log);
    mem_free(f->starts);
}

void fixture_commit(struct fixture *f)
{
    f->fx.now_ms = f->c.now_ms;
    if (!batch_is_empty(&f->batch)) {
        if ((f->n & (f->n - 1)) == 0)
            f->starts = mem_realloc(f->starts, (f->n == 0 ? 1 : f->n * 2) * sizeof(f->starts[0]));
        f->starts[f->n++] = f->log.len;
        buf_put_slice(&f->log, batch_finish(&f->batch));
    }
    batch_begin(&f->batch, f->c.now_ms);
}

void fixture_replay(const struct fixture *f, size_t from, struct kv *into)
{
    for (size_t i = from; i < f->n; i++) {
        const uint8_t *p = f->log.data + f->starts[i];
        struct batch_header h;
        struct record_iter it;
        struct record r;
        struct effect e;
        int more;

        cr_assert_eq(batch_header_read(p, f->log.len - f->starts[i], &h), 0);
        cr_assert(batch_crc_ok(p, &h));
        record_iter_init(&it, &h, slice_of(p + BATCH_HEADER_SIZE, h.length - BATCH_HEADER_SIZE));
        while ((more = record_iter_next(&it, &r)) == 1) {
            cr_assert_eq(effect_read(&r, &e), 0);
            cr_assert_eq(kv_apply(into, &e), 0, "%s", effect_kind_name(e.kind));
        }
        cr_assert_eq(more, 0);
    }
}
