/* The table of open streams: 64 stripes by (topic id, index), each with a mutex for look-ups and one that
 * makes openers of a stripe take turns, so that a slow recovery delays no request that finds its stream open.
 */
#include "stream/stream_priv.h"

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

#define STRIPES 64
#define GONE_MAX 1024
#define PARTITIONS_MAX 16384

struct stripe {
    struct mutex mu;
    struct mutex opening; /* before mu */
    struct stream **buckets;
    uint32_t bucket_count, count;
    struct stream *dying; /* deleted, but referenced */
};

struct stream_table {
    struct log_store *store;
    struct workers *workers;
    char *data_dir;
    struct stripe stripes[STRIPES];
    struct mutex gone_mu;    /* after opening */
    uint64_t gone[GONE_MAX]; /* ids of topics deleted of late, a ring: a request with an older view must not
                                bring one back */
    unsigned gone_next;
    _Atomic uint64_t shut[PARTITIONS_MAX / 64]; /* a bit a partition: its streams take no appends */
    _Atomic uint32_t closings; /* raised by stream_table_close_partition: what was being opened then is read anew */
};

struct stream_table *stream_table_new(const struct stream_table_options *options)
{
    struct stream_table *t = mem_zalloc(sizeof(*t));

    t->store = options->store;
    t->workers = options->workers;
    t->data_dir = mem_strdup(options->data_dir);
    mutex_init(&t->gone_mu);
    for (unsigned i = 0; i < STRIPES; i++) {
        mutex_init(&t->stripes[i].mu);
        mutex_init(&t->stripes[i].opening);
    }
    return t;
}

static uint64_t hash_of(uint64_t topic_id, uint32_t index)
{
    uint64_t h = (topic_id * 0x9e3779b97f4a7c15u) ^ ((uint64_t)index * 0xc2b2ae3d27d4eb4fu);

    return h ^ (h >> 29);
}

static struct stripe *stripe_of(struct stream_table *t, uint64_t hash)
{
    return &t->stripes[hash & (STRIPES - 1)];
}

static struct stream **slot_of(struct stripe *st, uint64_t hash)
{
    return &st->buckets[(hash >> 6) & (st->bucket_count - 1)];
}

static void stripe_grow(struct stripe *st)
{
    uint32_t was = st->bucket_count;
    struct stream **old = st->buckets;

    st->bucket_count = was == 0 ? 8 : was * 2;
    st->buckets = mem_calloc(st->bucket_count, sizeof(*st->buckets));
    for (uint32_t i = 0; i < was; i++)
        for (struct stream *s = old[i], *next; s != NULL; s = next) {
            struct stream **slot = slot_of(st, hash_of(s->topic_id, s->index));

            next = s->next;
            s->next = *slot;
            *slot = s;
        }
    mem_free(old);
}

static struct stream *stripe_find(struct stripe *st, uint64_t hash, uint64_t topic_id, uint32_t index)
{
    if (st->count == 0)
        return NULL;
    for (struct stream *s = *slot_of(st, hash); s != NULL; s = s->next)
        if (s->topic_id == topic_id && s->index == index)
            return s;
    return NULL;
}

struct stream *stream_find(struct stream_table *t, uint64_t topic_id, uint32_t index)
{
    uint64_t hash = hash_of(topic_id, index);
    struct stripe *st = stripe_of(t, hash);
    struct stream *s;

    mutex_lock(&st->mu);
    s = stripe_find(st, hash, topic_id, index);
    if (s != NULL)
        stream_ref(s);
    mutex_unlock(&st->mu);
    return s;
}

/* A dying stream of the same directory, whatever its topic id: same topic name, same index. They are few, and
 * of any stripe. */
static bool directory_in_use(struct stream_table *t, const struct stream_place *place)
{
    bool found = false;

    for (unsigned i = 0; i < STRIPES && !found; i++) {
        struct stripe *st = &t->stripes[i];

        mutex_lock(&st->mu);
        for (struct stream *s = st->dying; s != NULL && !found; s = s->next)
            found = s->index == place->index && slice_eq(slice_str(s->topic), place->topic);
        mutex_unlock(&st->mu);
    }
    return found;
}

static void stream_destroy(struct stream *s)
{
    MAGIC_FINI(s, STREAM_MAGIC);
    producers_fini(&s->producers);
    mutex_fini(&s->mu);
    mutex_fini(&s->wait_mu);
    mem_free(s->topic);
    mem_free(s);
}

void stream_notify(struct stream *s)
{
    mutex_lock(&s->wait_mu);
    LIST_FOREACH_SAFE (n, &s->waiters) {
        struct stream_waiter *w = LIST_ENTRY(n, struct stream_waiter, node);

        w->notify(w);
    }
    mutex_unlock(&s->wait_mu);
}

static void hw_moved(struct log_watch *w, struct log *l)
{
    (void)l;
    stream_notify(CONTAINER_OF(w, struct stream, hw_watch));
}

/* Its log goes on without it. */
static void let_go(struct stream *s)
{
    log_unset_hw_watch(s->log, &s->hw_watch);
    log_close(s->log);
    stream_destroy(s);
}

static int open_log(struct stream_table *t, const struct stream_place *place, struct log **ret)
{
    char *dir = mem_printf("p-%04u/topic/%.*s-%u", place->partition, (int)place->topic.len,
                           (const char *)place->topic.data, place->index);
    struct log_options lo = {
        .kind = LOG_TOPIC,
        .dir = dir,
        .log_id = place->topic_id << 20 | place->index,
        .segment_bytes = place->segment_bytes,
    };
    int err;

    *ret = NULL;
    err = log_open(t->store, &lo, ret);
    mem_free(dir);
    return err;
}

static int make_stream(struct stream_table *t, const struct stream_place *place, struct stream **ret)
{
    struct stream *s = mem_zalloc(sizeof(*s));
    int err;

    MAGIC_INIT(s, STREAM_MAGIC);
    mutex_init(&s->mu);
    mutex_init(&s->wait_mu);
    s->refs = 1;
    s->table = t;
    s->topic_id = place->topic_id;
    s->index = place->index;
    s->partition = place->partition;
    s->topic = mem_strdup_slice(place->topic);
    list_init(&s->waiters);
    err = open_log(t, place, &s->log);
    if (err == 0)
        err = log_recover(s->log);
    if (err == 0)
        err = stream_load_producers(s);
    if (err != 0) {
        if (s->log != NULL)
            log_close(s->log);
        stream_destroy(s);
        return err;
    }
    s->hw_watch.changed = hw_moved;
    *ret = s;
    return 0;
}

static bool topic_is_gone(struct stream_table *t, uint64_t topic_id)
{
    bool gone = false;

    mutex_lock(&t->gone_mu);
    for (unsigned i = 0; i < GONE_MAX && !gone; i++)
        gone = t->gone[i] == topic_id;
    mutex_unlock(&t->gone_mu);
    return gone;
}

static void note_topic_gone(struct stream_table *t, uint64_t topic_id)
{
    if (topic_is_gone(t, topic_id))
        return;
    mutex_lock(&t->gone_mu);
    t->gone[t->gone_next++ % GONE_MAX] = topic_id;
    mutex_unlock(&t->gone_mu);
}

/* Puts a stream that was read into the table, unless the partition's role changed meanwhile: what was read may not be so any more. */
static bool publish(struct stream_table *t, struct stripe *st, uint64_t hash, struct stream *s, uint32_t closings)
{
    struct stream **slot;
    bool current;

    mutex_lock(&st->mu);
    current = t->closings == closings;
    if (current) {
        if (st->count >= st->bucket_count)
            stripe_grow(st);
        slot = slot_of(st, hash);
        s->next = *slot;
        *slot = s;
        st->count++;
        stream_ref(s); /* the table's */
        log_set_hw_watch(s->log, &s->hw_watch);
    }
    mutex_unlock(&st->mu);
    return current;
}

int stream_open(struct stream_table *t, const struct stream_place *place, struct stream **ret)
{
    uint64_t hash = hash_of(place->topic_id, place->index);
    struct stripe *st = stripe_of(t, hash);
    struct stream *s;
    int err = 0;

    mutex_lock(&st->opening);
    s = stream_find(t, place->topic_id, place->index);
    while (s == NULL && err == 0) {
        uint32_t closings = t->closings;

        if (topic_is_gone(t, place->topic_id))
            err = ERR_NOT_FOUND;
        else if (directory_in_use(t, place))
            err = ERR_BUSY;
        else
            err = make_stream(t, place, &s);
        if (err == 0 && !publish(t, st, hash, s, closings)) {
            let_go(s);
            s = NULL;
        }
    }
    mutex_unlock(&st->opening);
    if (err == 0)
        *ret = s;
    return err;
}

void stream_ref(struct stream *s)
{
    MAGIC_CHECK(s, STREAM_MAGIC);
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

void stream_unref(struct stream *s)
{
    struct stripe *st;

    if (s == NULL)
        return;
    MAGIC_CHECK(s, STREAM_MAGIC);
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    /* Only a stream that left the table gets here. A deleted one's directory goes before the name is free again. */
    CHECK((s->deleted || s->closed) && list_empty(&s->waiters));
    if (!s->deleted) {
        let_go(s);
        return;
    }
    log_unset_hw_watch(s->log, &s->hw_watch);
    st = stripe_of(s->table, hash_of(s->topic_id, s->index));
    log_delete(s->log);
    mutex_lock(&st->mu);
    for (struct stream **at = &st->dying; *at != NULL; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    mutex_unlock(&st->mu);
    stream_destroy(s);
}

/* Takes an open stream out of the table; its directory goes with the last reference. */
static void bury(struct stripe *st, uint64_t hash, struct stream *s)
{
    mutex_lock(&st->mu);
    for (struct stream **at = slot_of(st, hash); *at != NULL; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            s->next = st->dying;
            st->dying = s;
            st->count--;
            break;
        }
    mutex_unlock(&st->mu);
    mutex_lock(&s->mu);
    s->deleted = true;
    mutex_unlock(&s->mu);
    stream_notify(s);
    stream_unref(s); /* the table's */
}

/* Takes the streams of the partition out of one stripe; their references pass to `ret`. */
static uint32_t take_out(struct stripe *st, uint32_t partition, struct stream ***ret)
{
    struct stream **all;
    uint32_t n = 0;

    mutex_lock(&st->mu);
    all = mem_calloc(st->count + 1, sizeof(*all));
    for (uint32_t b = 0; b < st->bucket_count; b++)
        for (struct stream **at = &st->buckets[b]; *at != NULL;) {
            struct stream *s = *at;

            if (s->partition != partition) {
                at = &s->next;
                continue;
            }
            *at = s->next;
            st->count--;
            all[n++] = s;
        }
    mutex_unlock(&st->mu);
    *ret = all;
    return n;
}

bool stream_table_admits(const struct stream_table *t, uint32_t partition)
{
    return !(atomic_load(&t->shut[partition / 64]) >> partition % 64 & 1);
}

static void wait_for_append(struct stream *s, void *arg)
{
    if (s->partition != *(const uint32_t *)arg)
        return;
    mutex_lock(&s->mu);
    mutex_unlock(&s->mu);
}

/* A stream that is put into the table behind the walk takes its stripe's mutex after it, and sees the bit. */
void stream_table_admit(struct stream_table *t, uint32_t partition, bool appends)
{
    uint64_t bit = (uint64_t)1 << partition % 64;

    CHECK(partition < PARTITIONS_MAX);
    if (appends) {
        atomic_fetch_and(&t->shut[partition / 64], ~bit);
        return;
    }
    if (!(atomic_fetch_or(&t->shut[partition / 64], bit) & bit))
        stream_table_each(t, wait_for_append, &partition);
}

void stream_table_close_partition(struct stream_table *t, uint32_t partition)
{
    atomic_fetch_add(&t->closings, 1);
    for (unsigned i = 0; i < STRIPES; i++) {
        struct stream **all;
        uint32_t n = take_out(&t->stripes[i], partition, &all);

        for (uint32_t k = 0; k < n; k++) {
            struct stream *s = all[k];

            mutex_lock(&s->mu); /* an append is over, or finds it closed */
            s->closed = true;
            mutex_unlock(&s->mu);
            log_fail_commits(s->log, ERR_NOT_LEADER); /* the replication may not know this log yet */
            stream_notify(s);
            stream_unref(s);
        }
        mem_free(all);
    }
}

void stream_delete(struct stream_table *t, const struct stream_place *place)
{
    uint64_t hash = hash_of(place->topic_id, place->index);
    struct stripe *st = stripe_of(t, hash);
    struct stream *s;
    struct log *l;

    note_topic_gone(t, place->topic_id);
    mutex_lock(&st->opening); /* nobody opens it meanwhile, nor after: the id is noted */
    s = stream_find(t, place->topic_id, place->index);
    if (s != NULL) {
        bury(st, hash, s);
    } else if (!directory_in_use(t, place)) {
        (void)open_log(t, place, &l); /* a damaged log can be deleted as well */
        if (l != NULL)
            log_delete(l);
    }
    mutex_unlock(&st->opening);
    stream_unref(s);
}

void stream_table_each(struct stream_table *t, void (*fn)(struct stream *s, void *arg), void *arg)
{
    for (unsigned i = 0; i < STRIPES; i++) {
        struct stripe *st = &t->stripes[i];
        struct stream **all;
        uint32_t n = 0;

        mutex_lock(&st->mu);
        all = mem_calloc(st->count + 1, sizeof(*all));
        for (uint32_t b = 0; b < st->bucket_count; b++)
            for (struct stream *s = st->buckets[b]; s != NULL; s = s->next) {
                stream_ref(s);
                all[n++] = s;
            }
        mutex_unlock(&st->mu);
        for (uint32_t k = 0; k < n; k++) {
            fn(all[k], arg);
            stream_unref(all[k]);
        }
        mem_free(all);
    }
}

uint64_t stream_table_count(struct stream_table *t)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < STRIPES; i++) {
        mutex_lock(&t->stripes[i].mu);
        n += t->stripes[i].count;
        mutex_unlock(&t->stripes[i].mu);
    }
    return n;
}

void stream_table_free(struct stream_table *t)
{
    if (t == NULL)
        return;
    for (unsigned i = 0; i < STRIPES; i++) {
        struct stripe *st = &t->stripes[i];

        CHECK(st->dying == NULL);
        for (uint32_t b = 0; b < st->bucket_count; b++)
            for (struct stream *s = st->buckets[b], *next; s != NULL; s = next) {
                next = s->next;
                CHECK(s->refs == 1 && list_empty(&s->waiters));
                (void)stream_save_producers(s); /* without it the next start reads the headers */
                let_go(s);
            }
        mem_free(st->buckets);
        mutex_fini(&st->mu);
        mutex_fini(&st->opening);
    }
    mutex_fini(&t->gone_mu);
    mem_free(t->data_dir);
    mem_free(t);
}

/* ---- one stream --------------------------------------------------------------------------------------- */

uint64_t stream_topic_id(const struct stream *s)
{
    return s->topic_id;
}
struct slice stream_topic(const struct stream *s)
{
    return slice_str(s->topic);
}
uint32_t stream_index(const struct stream *s)
{
    return s->index;
}
uint32_t stream_partition(const struct stream *s)
{
    return s->partition;
}
struct log *stream_log(const struct stream *s)
{
    return s->log;
}
bool stream_is_deleted(const struct stream *s)
{
    return s->deleted;
}
bool stream_is_closed(const struct stream *s)
{
    return s->closed;
}
int64_t stream_start(const struct stream *s)
{
    return log_start(s->log);
}
int64_t stream_high_watermark(const struct stream *s)
{
    return log_hw(s->log);
}
int32_t stream_epoch(const struct stream *s)
{
    return log_epoch(s->log);
}

void stream_wait(struct stream *s, struct stream_waiter *w)
{
    CHECK(w->stream == NULL);
    stream_ref(s);
    w->stream = s;
    mutex_lock(&s->wait_mu);
    list_push_back(&s->waiters, &w->node);
    mutex_unlock(&s->wait_mu);
}

void stream_unwait(struct stream_waiter *w)
{
    struct stream *s = w->stream;

    if (s == NULL)
        return;
    mutex_lock(&s->wait_mu);
    list_remove(&w->node);
    mutex_unlock(&s->wait_mu);
    w->stream = NULL;
    stream_unref(s);
}

const char *stream_table_data_dir(const struct stream_table *t)
{
    return t->data_dir;
}
