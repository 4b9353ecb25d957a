/* Publish and subscribe (P9): classic channels, patterns, and shard channels, which belong to a slot.
 *
 * Who subscribes is known twice. The *directory*, shared by all workers, has for each channel how many
 * subscribers every worker has: 64 stripes with a mutex each, by the channel's hash; patterns have one mutex
 * of their own and a count that is looked at without it. Each worker has its own map from channel to
 * sessions, which only it touches. PUBLISH looks into one stripe, makes one counted message and posts one
 * mail to each worker that has subscribers, still under the stripe's mutex: all workers see a channel's
 * messages in one order. The worker writes the message to its sessions' outputs.
 *
 * A subscription is in the directory before its confirmation is written, so a message published after the
 * confirmation was read always arrives. Lock order: partition, then stripe, then patterns. */
#ifndef GM_RESP_PUBSUB_H
#define GM_RESP_PUBSUB_H

#include "protocols/resp/exec.h"

enum pubsub_kind { PUBSUB_CHANNEL, PUBSUB_PATTERN, PUBSUB_SHARD, PUBSUB_KINDS };

struct pubsub *pubsub_new(unsigned workers);
void pubsub_free(struct pubsub *ps);
struct pubsub_worker *pubsub_worker_new(void);
void pubsub_worker_free(struct pubsub_worker *pw);

/* To the subscribers on this node. Any worker; returns how many there are. kind: a channel (patterns get it too) or
 * a shard channel. */
uint64_t pubsub_publish(struct resp_front *f, enum pubsub_kind kind, struct slice channel, struct slice payload);
/* False: it was subscribed already. On the session's worker, as are the next four. */
bool pubsub_subscribe(struct session *s, enum pubsub_kind kind, struct slice name);
bool pubsub_unsubscribe(struct session *s, enum pubsub_kind kind, struct slice name); /* false: it was not subscribed */
/* Ends one subscription of this kind, whose name is copied; false: there is none. */
bool pubsub_unsubscribe_any(struct session *s, enum pubsub_kind kind, struct buf *ret_name);
/* Writes "subscribe", name (null when SLICE_NONE) and count to the session. */
void pubsub_confirm(struct session *s, const char *kind, struct slice name, uint32_t count);
/* Ends all subscriptions of a session without a word. */
void pubsub_drop(struct session *s);
/* Ends the shard channels of this worker's sessions for which `gone` says so, telling them. */
void pubsub_end_shards(struct resp_worker *w, bool (*gone)(struct slice name, void *arg), void *arg);
/* Calls fn for every channel of a kind that has subscribers (not patterns), holding a stripe's mutex. */
void pubsub_each(struct resp_front *f, enum pubsub_kind kind, void (*fn)(struct slice name, void *arg), void *arg);
uint64_t pubsub_subscribers(struct resp_front *f, enum pubsub_kind kind, struct slice name);
uint64_t pubsub_pattern_count(struct resp_front *f);
uint64_t pubsub_channel_count(struct resp_front *f);

#endif
