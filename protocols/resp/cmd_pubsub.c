/* Publish and subscribe, classic and sharded: https://redis.io/commands/?group=pubsub
 *
 * In a cluster a classic message goes to every node, whichever was asked (cluster bus of Redis: the same). A
 * shard channel belongs to a slot: who subscribes or publishes is sent to its leader; replicas serve
 * subscribers too. The number PUBLISH answers counts this node's subscribers, as Redis has it. */
#include "base/err.h"
#include "protocols/resp/cluster.h"
#include "protocols/resp/handlers.h"
#include "protocols/resp/pubsub.h"

static const struct {
    const char *subscribe, *unsubscribe;
} words[PUBSUB_KINDS] = {
    [PUBSUB_CHANNEL] = {"subscribe", "unsubscribe"},
    [PUBSUB_PATTERN] = {"psubscribe", "punsubscribe"},
    [PUBSUB_SHARD] = {"ssubscribe", "sunsubscribe"},
};

/* Shard channels are counted apart. */
static uint32_t count_shown(const struct session *s, enum pubsub_kind kind)
{
    return kind == PUBSUB_SHARD ? s->shard_channels : s->channels + s->patterns;
}

static void confirm(struct exec *x, const char *word, enum pubsub_kind kind, struct slice name)
{
    pubsub_confirm(x->s, word, name, count_shown(x->s, kind));
}

static void subscribe_all(struct exec *x, enum pubsub_kind kind)
{
    for (uint32_t i = 1; i < x->argc; i++) {
        pubsub_subscribe(x->s, kind, x->argv[i]);
        confirm(x, words[kind].subscribe, kind, x->argv[i]);
    }
}

static void unsubscribe_all(struct exec *x, enum pubsub_kind kind)
{
    const char *word = words[kind].unsubscribe;
    struct buf name = {0};
    bool any = false;

    for (uint32_t i = 1; i < x->argc; i++) {
        pubsub_unsubscribe(x->s, kind, x->argv[i]);
        confirm(x, word, kind, x->argv[i]);
    }
    while (x->argc == 1 && pubsub_unsubscribe_any(x->s, kind, &name)) {
        any = true;
        confirm(x, word, kind, slice_of(name.data != NULL ? name.data : (const uint8_t *)"", name.len));
    }
    if (x->argc == 1 && !any)
        confirm(x, word, kind, SLICE_NONE);
    buf_fini(&name);
}

void cmd_subscribe(struct exec *x)
{
    subscribe_all(x, PUBSUB_CHANNEL);
}

void cmd_psubscribe(struct exec *x)
{
    subscribe_all(x, PUBSUB_PATTERN);
}

/* True: this node serves the slot of the channels; else the redirect was written. */
static bool shard_is_here(struct exec *x, bool replica_too)
{
    uint32_t last = x->cmd->last < 0 ? x->argc - 1 : (uint32_t)x->cmd->last, slot;

    return !cluster_on(x->w->front) ||
           (cluster_common_slot(x, 1, last, 1, &slot) && cluster_check_here(x, slot, replica_too));
}

void cmd_ssubscribe(struct exec *x)
{
    if (shard_is_here(x, true))
        subscribe_all(x, PUBSUB_SHARD);
}

void cmd_unsubscribe(struct exec *x)
{
    unsubscribe_all(x, PUBSUB_CHANNEL);
}

void cmd_punsubscribe(struct exec *x)
{
    unsubscribe_all(x, PUBSUB_PATTERN);
}

void cmd_sunsubscribe(struct exec *x)
{
    unsubscribe_all(x, PUBSUB_SHARD);
}

/* ---- publishing ---- */

/* To other nodes: u8 kind, lslice channel, the rest is the payload. */
static void cast(struct exec *x, enum pubsub_kind kind)
{
    const struct resp_options *o = &x->w->front->o;
    struct buf b = {0};

    if (o->cast == NULL)
        return;
    buf_put_u8(&b, (uint8_t)kind);
    buf_put_lslice(&b, x->argv[1]);
    buf_put_slice(&b, x->argv[2]);
    o->cast(o->cast_arg, buf_slice(&b));
    buf_fini(&b);
}

int resp_front_receive(struct resp_front *f, struct slice message)
{
    struct reader r = reader_of(message);
    uint8_t kind = reader_u8(&r);
    struct slice channel = reader_lslice(&r);

    if (r.bad || (kind != PUBSUB_CHANNEL && kind != PUBSUB_SHARD))
        return ERR_MALFORMED;
    pubsub_publish(f, (enum pubsub_kind)kind, channel, reader_slice(&r, reader_left(&r)));
    return 0;
}

void cmd_publish(struct exec *x)
{
    cast(x, PUBSUB_CHANNEL);
    reply_int(&x->r, (int64_t)pubsub_publish(x->w->front, PUBSUB_CHANNEL, x->argv[1], x->argv[2]));
}

void cmd_spublish(struct exec *x)
{
    if (!shard_is_here(x, false))
        return;
    cast(x, PUBSUB_SHARD);
    reply_int(&x->r, (int64_t)pubsub_publish(x->w->front, PUBSUB_SHARD, x->argv[1], x->argv[2]));
}

/* ---- PUBSUB ---- */

struct channels_walk {
    struct reply *r;
    struct slice pattern;
    size_t n;
};

static void list_channel(struct slice name, void *arg)
{
    struct channels_walk *walk = arg;

    if (walk->pattern.data != NULL && !slice_glob(walk->pattern, name, false))
        return;
    reply_bulk(walk->r, name);
    walk->n++;
}

static void list_channels(struct exec *x, enum pubsub_kind kind)
{
    struct channels_walk walk = {&x->r, x->argc > 2 ? x->argv[2] : SLICE_NONE, 0};
    size_t at;

    if (x->argc > 3) {
        reply_errorf(&x->r,
                     "ERR unknown subcommand or wrong number of arguments for '%s'. Try PUBSUB HELP.",
                     kind == PUBSUB_SHARD ? "SHARDCHANNELS" : "CHANNELS");
        return;
    }
    at = reply_deferred_begin(&x->r);
    pubsub_each(x->w->front, kind, list_channel, &walk);
    reply_deferred_array(&x->r, at, walk.n);
}

void cmd_pubsub_channels(struct exec *x)
{
    list_channels(x, PUBSUB_CHANNEL);
}

void cmd_pubsub_shardchannels(struct exec *x)
{
    list_channels(x, PUBSUB_SHARD);
}

void cmd_pubsub_numpat(struct exec *x)
{
    reply_int(&x->r, (int64_t)pubsub_pattern_count(x->w->front));
}

static void count_subscribers(struct exec *x, enum pubsub_kind kind)
{
    reply_array(&x->r, (x->argc - 2) * 2);
    for (uint32_t i = 2; i < x->argc; i++) {
        reply_bulk(&x->r, x->argv[i]);
        reply_int(&x->r, (int64_t)pubsub_subscribers(x->w->front, kind, x->argv[i]));
    }
}

void cmd_pubsub_numsub(struct exec *x)
{
    count_subscribers(x, PUBSUB_CHANNEL);
}

void cmd_pubsub_shardnumsub(struct exec *x)
{
    count_subscribers(x, PUBSUB_SHARD);
}
