#include "protocols/resp/pubsub.h"

#include "base/hash.h"
#include "base/mem.h"
#include "protocols/resp/handlers.h"
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
};

/* A channel or pattern as a worker has it. */
struct topic {
    struct strnode node;
    struct list sessions; /* struct subscription.peers */
    bool pattern;
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
    struct strmap topics[2]; /* channels, patterns */
    struct strmap subscriptions;
};

/* A published message, one for all workers. */
struct message {
    uint32_t refs; /* atomic */
    struct resp_front *front;
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
    for (int i = 0; i < STRIPES; i++)
        mutex_init(&ps->stripes[i].mu);
    mutex_init(&ps->patterns.mu);
    list_init(&ps->pattern_list);
    return ps;
}

void pubsub_free(struct pubsub *ps)
{
    if (ps == NULL)
        return;
    for (int i = 0; i < STRIPES; i++) {
        CHECK(ps->stripes[i].channels.count == 0);
        mutex_fini(&ps->stripes[i].mu);
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

static struct stripe *stripe_of(struct pubsub *ps, struct slice name, bool pattern)
{
    return pattern ? &ps->patterns : &ps->stripes[hash_bytes(name.data, name.len) >> 58];
}

static void directory_add(struct pubsub *ps, struct slice name, bool pattern, unsigned worker)
{
    struct stripe *st = stripe_of(ps, name, pattern);
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
        if (pattern) {
            list_push_back(&ps->pattern_list, &ch->link);
            __atomic_add_fetch(&ps->pattern_count, 1, __ATOMIC_RELEASE);
        } else {
            __atomic_add_fetch(&ps->channel_count, 1, __ATOMIC_RELAXED);
        }
    }
    ch->per_worker[worker]++;
    ch->total++;
    mutex_unlock(&st->mu);
}

static void directory_remove(struct pubsub *ps, struct slice name, bool pattern, unsigned worker)
{
    struct stripe *st = stripe_of(ps, name, pattern);
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
        if (pattern)
            __atomic_sub_fetch(&ps->pattern_count, 1, __ATOMIC_RELEASE);
        else
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

static void write_message(struct session *s, struct slice pattern, struct slice channel, struct slice payload)
{
    struct reply r = session_reply(s);

    reply_push(&r, pattern.data != NULL ? 4 : 3);
    if (pattern.data != NULL) {
        reply_bulk(&r, SLICE_LIT("pmessage"));
        reply_bulk(&r, pattern);
    } else {
        reply_bulk(&r, SLICE_LIT("message"));
    }
    reply_bulk(&r, channel);
    reply_bulk(&r, payload);
}

static uint64_t write_to_topic(struct topic *t, struct message *m)
{
    uint64_t n = 0;

    LIST_FOREACH (node, &t->sessions) {
        write_message(LIST_ENTRY(node, struct subscription, peers)->s, t->pattern ? t->node.key : SLICE_NONE,
                      m->channel, m->payload);
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

    if (d->to_channel && (n = strmap_find(&pw->topics[0], m->channel)) != NULL)
        walk.n += write_to_topic(CONTAINER_OF(n, struct topic, node), m);
    if (d->to_patterns)
        strmap_each(&pw->topics[1], write_if_matching, &walk);
    metrics_add(METRIC_PUBSUB_MESSAGES, walk.n);
    message_unref(m);
}

uint64_t pubsub_publish(struct resp_front *f, struct slice channel, struct slice payload)
{
    struct pubsub *ps = f->pubsub;
    struct stripe *st = stripe_of(ps, channel, false);
    struct message *m = NULL;
    uint64_t total = 0;
    struct strnode *n;
    bool patterns = __atomic_load_n(&ps->pattern_count, __ATOMIC_ACQUIRE) != 0;

    mutex_lock(&st->mu);
    n = strmap_find(&st->channels, channel);
    if (n == NULL && !patterns) {
        mutex_unlock(&st->mu);
        return 0;
    }
    m = mem_zalloc(sizeof(*m) + sizeof(m->deliveries[0]) * ps->workers + channel.len + payload.len);
    m->refs = 1;
    m->front = f;
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
static struct slice subscription_key(struct session *s, struct slice name, bool pattern, struct buf *b)
{
    buf_clear(b);
    buf_put(b, &s->c->id, 8);
    buf_put_u8(b, pattern);
    buf_put_slice(b, name);
    return buf_slice(b);
}

static bool subscribe(struct session *s, struct slice name, bool pattern)
{
    struct pubsub_worker *pw = s->w->pubsub;
    struct buf b = {0};
    struct slice key = subscription_key(s, name, pattern, &b);
    struct subscription *sub;
    struct strnode *n;
    struct topic *t;

    if (strmap_find(&pw->subscriptions, key) != NULL) {
        buf_fini(&b);
        return false;
    }
    n = strmap_find(&pw->topics[pattern], name);
    if (n != NULL) {
        t = CONTAINER_OF(n, struct topic, node);
    } else {
        t = mem_zalloc(sizeof(*t) + name.len);
        if (name.len != 0)
            memcpy(t + 1, name.data, name.len);
        t->node.key = slice_of(t + 1, name.len);
        t->pattern = pattern;
        list_init(&t->sessions);
        strmap_add(&pw->topics[pattern], &t->node);
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
    directory_add(s->w->front->pubsub, name, pattern, worker_index(s->w->worker));
    if (pattern)
        s->patterns++;
    else
        s->channels++;
    return true;
}

static void unsubscribe(struct subscription *sub)
{
    struct session *s = sub->s;
    struct pubsub_worker *pw = s->w->pubsub;
    struct topic *t = sub->topic;

    directory_remove(s->w->front->pubsub, t->node.key, t->pattern, worker_index(s->w->worker));
    if (t->pattern)
        s->patterns--;
    else
        s->channels--;
    strmap_remove(&pw->subscriptions, &sub->node);
    list_remove(&sub->peers);
    list_remove(&sub->mine);
    if (list_empty(&t->sessions)) {
        strmap_remove(&pw->topics[t->pattern], &t->node);
        mem_free(t);
    }
    mem_free(sub);
}

void pubsub_drop(struct session *s)
{
    while (!list_empty(&s->subscriptions))
        unsubscribe(LIST_ENTRY(s->subscriptions.next, struct subscription, mine));
}

/* ---- the commands ---- */

static void confirm(struct exec *x, const char *kind, struct slice name)
{
    reply_push(&x->r, 3);
    reply_bulk_str(&x->r, kind);
    if (name.data == NULL)
        reply_null(&x->r);
    else
        reply_bulk(&x->r, name);
    reply_int(&x->r, (int64_t)x->s->channels + x->s->patterns);
}

static void subscribe_all(struct exec *x, bool pattern)
{
    for (uint32_t i = 1; i < x->argc; i++) {
        subscribe(x->s, x->argv[i], pattern);
        confirm(x, pattern ? "psubscribe" : "subscribe", x->argv[i]);
    }
}

static void unsubscribe_all(struct exec *x, bool pattern)
{
    const char *kind = pattern ? "punsubscribe" : "unsubscribe";
    struct session *s = x->s;
    struct buf b = {0};
    bool any = false;

    for (uint32_t i = 1; i < x->argc; i++) {
        struct strnode *n =
            strmap_find(&s->w->pubsub->subscriptions, subscription_key(s, x->argv[i], pattern, &b));

        if (n != NULL)
            unsubscribe(CONTAINER_OF(n, struct subscription, node));
        confirm(x, kind, x->argv[i]);
    }
    if (x->argc == 1) {
        LIST_FOREACH_SAFE (node, &s->subscriptions) {
            struct subscription *sub = LIST_ENTRY(node, struct subscription, mine);

            if (sub->topic->pattern != pattern)
                continue;
            any = true;
            buf_clear(&b);
            buf_put_slice(&b, sub->topic->node.key);
            unsubscribe(sub);
            confirm(x, kind, slice_of(b.data != NULL ? b.data : (const uint8_t *)"", b.len));
        }
        if (!any)
            confirm(x, kind, SLICE_NONE);
    }
    buf_fini(&b);
}

void cmd_subscribe(struct exec *x)
{
    subscribe_all(x, false);
}

void cmd_psubscribe(struct exec *x)
{
    subscribe_all(x, true);
}

void cmd_unsubscribe(struct exec *x)
{
    unsubscribe_all(x, false);
}

void cmd_punsubscribe(struct exec *x)
{
    unsubscribe_all(x, true);
}

void cmd_publish(struct exec *x)
{
    reply_int(&x->r, (int64_t)pubsub_publish(x->w->front, x->argv[1], x->argv[2]));
}

struct channels_walk {
    struct reply *r;
    struct slice pattern;
    size_t n;
};

static void list_channel(struct strnode *n, void *arg)
{
    struct channels_walk *walk = arg;

    if (walk->pattern.data != NULL && !slice_glob(walk->pattern, n->key, false))
        return;
    reply_bulk(walk->r, n->key);
    walk->n++;
}

void cmd_pubsub_channels(struct exec *x)
{
    struct channels_walk walk = {&x->r, x->argc > 2 ? x->argv[2] : SLICE_NONE, 0};
    size_t at = reply_deferred_begin(&x->r);

    if (x->argc > 3) {
        reply_error(&x->r,
                    "ERR unknown subcommand or wrong number of arguments for 'CHANNELS'. Try PUBSUB HELP.");
        return;
    }
    for (int i = 0; i < STRIPES; i++) {
        struct stripe *st = &x->w->front->pubsub->stripes[i];

        mutex_lock(&st->mu);
        strmap_each(&st->channels, list_channel, &walk);
        mutex_unlock(&st->mu);
    }
    reply_deferred_array(&x->r, at, walk.n);
}

void cmd_pubsub_numpat(struct exec *x)
{
    reply_int(&x->r, (int64_t)pubsub_pattern_count(x->w->front));
}

void cmd_pubsub_numsub(struct exec *x)
{
    reply_array(&x->r, (x->argc - 2) * 2);
    for (uint32_t i = 2; i < x->argc; i++) {
        struct stripe *st = stripe_of(x->w->front->pubsub, x->argv[i], false);
        struct strnode *n;

        mutex_lock(&st->mu);
        n = strmap_find(&st->channels, x->argv[i]);
        reply_bulk(&x->r, x->argv[i]);
        reply_int(&x->r, n != NULL ? (int64_t)CONTAINER_OF(n, struct channel, node)->total : 0);
        mutex_unlock(&st->mu);
    }
}
