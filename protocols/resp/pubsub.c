#include "protocols/resp/pubsub.h"

#include "base/hash.h"
#include "base/mem.h"
#include "protocols/resp/strmap.h"

enum { STRIPES = 64 };

/* A channel or pattern in the directory. */
struct channel {
    struct strnode node;
    struct list link; /* patterns: in the list that PUBLISH walks */
    uint64_t total;
    uint32_t per_worker[]; /* subscribers on each worker; the name behind */
};

struct stripe {
    struct mutex mu;
    struct strmap channels;
} __attribute__((aligned(64)));

struct pubsub {
    unsigned workers;
    struct stripe stripes[STRIPES];
    struct stripe patterns;
    struct list pattern_list; /* under patterns.mu */
    uint64_t pattern_count;   /* atomic: PUBLISH looks before it locks */
    uint64_t channel_count;   /* atomic */
    struct stripe shards[STRIPES];
};

/* A channel or pattern as a worker has it. */
struct topic {
    struct strnode node;
    struct list sessions; /* struct subscription.peers */
    enum pubsub_kind kind;
    /* the name behind */
};

struct subscription {
    struct strnode node; /* by session id, kind and name */
    struct list peers;   /* in its topic */
    struct list mine;    /* in its session */
    struct topic *topic;
    struct session *s;
    /* the key behind: 8 bytes of connection id, 1 of kind, the name */
};

struct pubsub_worker {
    struct strmap topics[PUBSUB_KINDS];
    struct strmap subscriptions;
};

/* A published message, one for all workers. */
struct message {
    uint32_t refs; /* atomic */
    struct resp_front *front;
    enum pubsub_kind kind; /* PUBSUB_CHANNEL (patterns too) or PUBSUB_SHARD */
    struct slice channel, payload; /* in the same allocation */
    struct delivery {
        struct mail mail;
        struct message *message;
        bool to_channel, to_patterns;
    } deliveries[];
};

struct pubsub *pubsub_new(unsigned workers)
{
    struct pubsub *ps = mem_zalloc(sizeof(*ps));

    ps->workers = workers;
    for (int i = 0; i < STRIPES; i++) {
        mutex_init(&ps->stripes[i].mu);
        mutex_init(&ps->shards[i].mu);
    }
    mutex_init(&ps->patterns.mu);
    list_init(&ps->pattern_list);
    return ps;
}

void pubsub_free(struct pubsub *ps)
{
    if (ps == NULL)
        return;
    for (int i = 0; i < STRIPES; i++) {
        CHECK(ps->stripes[i].channels.count == 0 && ps->shards[i].channels.count == 0);
        mutex_fini(&ps->stripes[i].mu);
        mutex_fini(&ps->shards[i].mu);
    }
    mutex_fini(&ps->patterns.mu);
    mem_free(ps);
}

struct pubsub_worker *pubsub_worker_new(void)
{
    return mem_zalloc(sizeof(struct pubsub_worker));
}

void pubsub_worker_free(struct pubsub_worker *pw)
{
    if (pw == NULL)
        return;
    CHECK(pw->subscriptions.count == 0);
    mem_free(pw);
}

/* ---- the directory ---- */

static struct stripe *stripe_of(struct pubsub *ps, struct slice name, enum pubsub_kind kind)
{
    if (kind == PUBSUB_PATTERN)
        return &ps->patterns;
    return &(kind == PUBSUB_SHARD ? ps->shards : ps->stripes)[hash_bytes(name.data, name.len) >> 58];
}

static void directory_add(struct pubsub *ps, struct slice name, enum pubsub_kind kind, unsigned worker)
{
    struct stripe *st = stripe_of(ps, name, kind);
    struct strnode *n;
    struct channel *ch;

    mutex_lock(&st->mu);
    n = strmap_find(&st->channels, name);
    if (n != NULL) {
        ch = CONTAINER_OF(n, struct channel, node);
    } else {
        size_t head = sizeof(*ch) + sizeof(ch->per_worker[0]) * ps->workers;

        ch = mem_zalloc(head + name.len);
        if (name.len != 0)
            memcpy((uint8_t *)ch + head, name.data, name.len);
        ch->node.key = slice_of((uint8_t *)ch + head, name.len);
        strmap_add(&st->channels, &ch->node);
        if (kind == PUBSUB_PATTERN) {
            list_push_back(&ps->pattern_list, &ch->link);
            __atomic_add_fetch(&ps->pattern_count, 1, __ATOMIC_RELEASE);
        } else if (kind == PUBSUB_CHANNEL) {
            __atomic_add_fetch(&ps->channel_count, 1, __ATOMIC_RELAXED);
        }
    }
    ch->per_worker[worker]++;
    ch->total++;
    mutex_unlock(&st->mu);
}

static void directory_remove(struct pubsub *ps, struct slice name, enum pubsub_kind kind, unsigned worker)
{
    struct stripe *st = stripe_of(ps, name, kind);
    struct channel *ch;
    struct strnode *n;

    mutex_lock(&st->mu);
    n = strmap_find(&st->channels, name);
    CHECK(n != NULL);
    ch = CONTAINER_OF(n, struct channel, node);
    CHECK(ch->per_worker[worker] > 0);
    ch->per_worker[worker]--;
    if (--ch->total == 0) {
        strmap_remove(&st->channels, n);
        list_remove(&ch->link);
        if (kind == PUBSUB_PATTERN)
            __atomic_sub_fetch(&ps->pattern_count, 1, __ATOMIC_RELEASE);
        else if (kind == PUBSUB_CHANNEL)
            __atomic_sub_fetch(&ps->channel_count, 1, __ATOMIC_RELAXED);
        mem_free(ch);
    }
    mutex_unlock(&st->mu);
}

uint64_t pubsub_pattern_count(struct resp_front *f)
{
    return __atomic_load_n(&f->pubsub->pattern_count, __ATOMIC_ACQUIRE);
}

uint64_t pubsub_channel_count(struct resp_front *f)
{
    return __atomic_load_n(&f->pubsub->channel_count, __ATOMIC_RELAXED);
}

/* ---- publishing ---- */

static void message_unref(struct message *m)
{
    if (__atomic_sub_fetch(&m->refs, 1, __ATOMIC_ACQ_REL) == 0)
        mem_free(m);
}

static void write_message(struct session *s, const struct topic *t, const struct message *m)
{
    struct reply r = session_reply(s);

    reply_push(&r, t->kind == PUBSUB_PATTERN ? 4 : 3);
    if (t->kind == PUBSUB_PATTERN) {
        reply_bulk(&r, SLICE_LIT("pmessage"));
        reply_bulk(&r, t->node.key);
    } else {
        reply_bulk_str(&r, t->kind == PUBSUB_SHARD ? "smessage" : "message");
    }
    reply_bulk(&r, m->channel);
    reply_bulk(&r, m->payload);
}

static uint64_t write_to_topic(struct topic *t, struct message *m)
{
    uint64_t n = 0;

    LIST_FOREACH (node, &t->sessions) {
        write_message(LIST_ENTRY(node, struct subscription, peers)->s, t, m);
        n++;
    }
    return n;
}

struct pattern_walk {
    struct message *m;
    uint64_t n;
};

static void write_if_matching(struct strnode *n, void *arg)
{
    struct pattern_walk *walk = arg;
    struct topic *t = CONTAINER_OF(n, struct topic, node);

    if (slice_glob(n->key, walk->m->channel, false))
        walk->n += write_to_topic(t, walk->m);
}

static void deliver(struct worker *worker, struct mail *mail)
{
    struct delivery *d = CONTAINER_OF(mail, struct delivery, mail);
    struct message *m = d->message;
    struct pubsub_worker *pw = m->front->workers[worker_index(worker)].pubsub;
    struct pattern_walk walk = {m, 0};
    struct strnode *n;

    if (d->to_channel && (n = strmap_find(&pw->topics[m->kind], m->channel)) != NULL)
        walk.n += write_to_topic(CONTAINER_OF(n, struct topic, node), m);
    if (d->to_patterns)
        strmap_each(&pw->topics[PUBSUB_PATTERN], write_if_matching, &walk);
    metrics_add(METRIC_PUBSUB_MESSAGES, walk.n);
    message_unref(m);
}

uint64_t pubsub_publish(struct resp_front *f, enum pubsub_kind kind, struct slice channel, struct slice payload)
{
    struct pubsub *ps = f->pubsub;
    struct stripe *st = stripe_of(ps, channel, kind);
    struct message *m = NULL;
    uint64_t total = 0;
    struct strnode *n;
    bool patterns = kind == PUBSUB_CHANNEL && __atomic_load_n(&ps->pattern_count, __ATOMIC_ACQUIRE) != 0;

    mutex_lock(&st->mu);
    n = strmap_find(&st->channels, channel);
    if (n == NULL && !patterns) {
        mutex_unlock(&st->mu);
        return 0;
    }
    m = mem_zalloc(sizeof(*m) + sizeof(m->deliveries[0]) * ps->workers + channel.len + payload.len);
    m->refs = 1;
    m->front = f;
    m->kind = kind;
    {
        uint8_t *p = (uint8_t *)&m->deliveries[ps->workers];

        if (channel.len != 0)
            memcpy(p, channel.data, channel.len);
        if (payload.len != 0)
            memcpy(p + channel.len, payload.data, payload.len);
        m->channel = slice_of(p, channel.len);
        m->payload = slice_of(p + channel.len, payload.len);
    }
    if (n != NULL) {
        struct channel *ch = CONTAINER_OF(n, struct channel, node);

        total += ch->total;
        for (unsigned w = 0; w < ps->workers; w++)
            m->deliveries[w].to_channel = ch->per_worker[w] != 0;
    }
    if (patterns) {
        mutex_lock(&ps->patterns.mu);
        LIST_FOREACH (node, &ps->pattern_list) {
            struct channel *ch = LIST_ENTRY(node, struct channel, link);

            if (!slice_glob(ch->node.key, channel, false))
                continue;
            total += ch->total;
            for (unsigned w = 0; w < ps->workers; w++)
                m->deliveries[w].to_patterns = m->deliveries[w].to_patterns || ch->per_worker[w] != 0;
        }
        mutex_unlock(&ps->patterns.mu);
    }
    for (unsigned w = 0; w < ps->workers; w++) {
        struct delivery *d = &m->deliveries[w];

        if (!d->to_channel && !d->to_patterns)
            continue;
        d->message = m;
        d->mail.deliver = deliver;
        __atomic_add_fetch(&m->refs, 1, __ATOMIC_RELAXED);
        worker_post(f->workers[w].worker, &d->mail);
    }
    mutex_unlock(&st->mu);
    message_unref(m);
    return total;
}

/* ---- subscribing ---- */

/* The key of a subscription in the worker's map: connection id, kind, name. */
static struct slice subscription_key(struct session *s, struct slice name, enum pubsub_kind kind, struct buf *b)
{
    buf_clear(b);
    buf_put(b, &s->c->id, 8);
    buf_put_u8(b, (uint8_t)kind);
    buf_put_slice(b, name);
    return buf_slice(b);
}

static uint32_t *count_of(struct session *s, enum pubsub_kind kind)
{
    return kind == PUBSUB_CHANNEL ? &s->channels : kind == PUBSUB_PATTERN ? &s->patterns : &s->shard_channels;
}

bool pubsub_subscribe(struct session *s, enum pubsub_kind kind, struct slice name)
{
    struct pubsub_worker *pw = s->w->pubsub;
    struct buf b = {0};
    struct slice key = subscription_key(s, name, kind, &b);
    struct subscription *sub;
    struct strnode *n;
    struct topic *t;

    if (strmap_find(&pw->subscriptions, key) != NULL) {
        buf_fini(&b);
        return false;
    }
    n = strmap_find(&pw->topics[kind], name);
    if (n != NULL) {
        t = CONTAINER_OF(n, struct topic, node);
    } else {
        t = mem_zalloc(sizeof(*t) + name.len);
        if (name.len != 0)
            memcpy(t + 1, name.data, name.len);
        t->node.key = slice_of(t + 1, name.len);
        t->kind = kind;
        list_init(&t->sessions);
        strmap_add(&pw->topics[kind], &t->node);
    }
    sub = mem_zalloc(sizeof(*sub) + key.len);
    memcpy(sub + 1, key.data, key.len);
    sub->node.key = slice_of(sub + 1, key.len);
    sub->topic = t;
    sub->s = s;
    strmap_add(&pw->subscriptions, &sub->node);
    list_push_back(&t->sessions, &sub->peers);
    list_push_back(&s->subscriptions, &sub->mine);
    buf_fini(&b);
    directory_add(s->w->front->pubsub, name, kind, worker_index(s->w->worker));
    ++*count_of(s, kind);
    return true;
}

static void unsubscribe(struct subscription *sub)
{
    struct session *s = sub->s;
    struct pubsub_worker *pw = s->w->pubsub;
    struct topic *t = sub->topic;

    directory_remove(s->w->front->pubsub, t->node.key, t->kind, worker_index(s->w->worker));
    --*count_of(s, t->kind);
    strmap_remove(&pw->subscriptions, &sub->node);
    list_remove(&sub->peers);
    list_remove(&sub->mine);
    if (list_empty(&t->sessions)) {
        strmap_remove(&pw->topics[t->kind], &t->node);
        mem_free(t);
    }
    mem_free(sub);
}

void pubsub_drop(struct session *s)
{
    while (!list_empty(&s->subscriptions))
        unsubscribe(LIST_ENTRY(s->subscriptions.next, struct subscription, mine));
}

bool pubsub_unsubscribe(struct session *s, enum pubsub_kind kind, struct slice name)
{
    struct buf b = {0};
    struct strnode *n = strmap_find(&s->w->pubsub->subscriptions, subscription_key(s, name, kind, &b));

    buf_fini(&b);
    if (n == NULL)
        return false;
    unsubscribe(CONTAINER_OF(n, struct subscription, node));
    return true;
}

bool pubsub_unsubscribe_any(struct session *s, enum pubsub_kind kind, struct buf *ret_name)
{
    LIST_FOREACH_SAFE (node, &s->subscriptions) {
        struct subscription *sub = LIST_ENTRY(node, struct subscription, mine);

        if (sub->topic->kind != kind)
            continue;
        buf_clear(ret_name);
        buf_put_slice(ret_name, sub->topic->node.key);
        unsubscribe(sub);
        return true;
    }
    return false;
}

/* ---- looking ---- */

struct name_walk {
    void (*fn)(struct slice name, void *arg);
    void *arg;
};

static void visit_name(struct strnode *n, void *arg)
{
    struct name_walk *walk = arg;

    walk->fn(n->key, walk->arg);
}

void pubsub_each(struct resp_front *f, enum pubsub_kind kind, void (*fn)(struct slice name, void *arg), void *arg)
{
    struct stripe *all = kind == PUBSUB_SHARD ? f->pubsub->shards : f->pubsub->stripes;

    CHECK(kind != PUBSUB_PATTERN);
    for (int i = 0; i < STRIPES; i++) {
        struct name_walk walk = {fn, arg};

        mutex_lock(&all[i].mu);
        strmap_each(&all[i].channels, visit_name, &walk);
        mutex_unlock(&all[i].mu);
    }
}

uint64_t pubsub_subscribers(struct resp_front *f, enum pubsub_kind kind, struct slice name)
{
    struct stripe *st = stripe_of(f->pubsub, name, kind);
    struct strnode *n;
    uint64_t total;

    mutex_lock(&st->mu);
    n = strmap_find(&st->channels, name);
    total = n != NULL ? CONTAINER_OF(n, struct channel, node)->total : 0;
    mutex_unlock(&st->mu);
    return total;
}

/* ---- a node's shard channels end ---- */

struct shard_walk {
    bool (*gone)(struct slice name, void *arg);
    void *arg;
    struct topic **topics;
    size_t count, cap;
};

static void collect_gone(struct strnode *n, void *arg)
{
    struct shard_walk *walk = arg;

    if (!walk->gone(n->key, walk->arg))
        return;
    if (walk->count == walk->cap) {
        walk->cap = MAX_OF(walk->cap * 2, (size_t)16);
        walk->topics = mem_realloc(walk->topics, walk->cap * sizeof(walk->topics[0]));
    }
    walk->topics[walk->count++] = CONTAINER_OF(n, struct topic, node);
}

void pubsub_end_shards(struct resp_worker *w, bool (*gone)(struct slice name, void *arg), void *arg)
{
    struct shard_walk walk = {.gone = gone, .arg = arg};
    struct buf name = {0};

    strmap_each(&w->pubsub->topics[PUBSUB_SHARD], collect_gone, &walk);
    for (size_t i = 0; i < walk.count; i++) {
        struct topic *t = walk.topics[i];
        bool last;

        buf_clear(&name);
        buf_put_slice(&name, t->node.key);
        do {
            struct subscription *sub = LIST_ENTRY(t->sessions.next, struct subscription, peers);
            struct session *s = sub->s;

            last = t->sessions.next == t->sessions.prev; /* the topic goes with it */
            unsubscribe(sub);
            pubsub_confirm(s, "sunsubscribe", buf_slice(&name), s->shard_channels);
        } while (!last);
    }
    mem_free(walk.topics);
    buf_fini(&name);
}

void pubsub_confirm(struct session *s, const char *kind, struct slice name, uint32_t count)
{
    struct reply r = session_reply(s);

    reply_push(&r, 3);
    reply_bulk_str(&r, kind);
    if (name.data == NULL)
        reply_null(&r);
    else
        reply_bulk(&r, name);
    reply_int(&r, (int64_t)count);
}
