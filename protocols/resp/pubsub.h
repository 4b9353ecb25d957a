/* Classic publish and subscribe (P9).
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

struct pubsub *pubsub_new(unsigned workers);
void pubsub_free(struct pubsub *ps);
struct pubsub_worker *pubsub_worker_new(void);
void pubsub_worker_free(struct pubsub_worker *pw);

/* Any worker; returns how many subscribers there are. */
uint64_t pubsub_publish(struct resp_front *f, struct slice channel, struct slice payload);
/* Ends all subscriptions of a session without a word. */
void pubsub_drop(struct session *s);
uint64_t pubsub_pattern_count(struct resp_front *f);
uint64_t pubsub_channel_count(struct resp_front *f);

#endif
