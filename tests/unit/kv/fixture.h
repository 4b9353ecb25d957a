/* A keyspace whose effects are kept as the batches a log would hold, to be replayed into another. */
#ifndef GM_TESTS_UNIT_KV_FIXTURE_H
#define GM_TESTS_UNIT_KV_FIXTURE_H

#include "base/buf.h"
#include "base/mem.h"
#include "kv/kv.h"
#include "log/batch.h"

struct fixture {
    struct kv *kv;
    struct batch_builder batch;
    struct effects fx;
    struct rand rand;
    struct kv_ctx c;
    struct buf log;   /* batches, one after another */
    size_t *starts;   /* of each batch in log */
    size_t n;
};

void fixture_init(struct fixture *f, const struct kv_options *options);
void fixture_fini(struct fixture *f);
/* Ends a command: what it added becomes a batch. */
void fixture_commit(struct fixture *f);
/* Applies the batches from number `from` on. */
void fixture_replay(const struct fixture *f, size_t from, struct kv *into);

static inline struct slice S(const char *s)
{
    return slice_str(s);
}

#endif
