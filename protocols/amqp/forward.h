/* What a gateway (the node a client is connected to) and the leader of a queue say to each other: the payloads of QUEUE_* (cluster/bus/messages.def). Both ends encode and decode by these functions; decoding is strict:
 * every byte is accounted for, counts are bounded by the bytes that are there.
 *
 *   request    u64 queue id | u32 partition | i32 leader epoch, as the gateway's view has it | u8 flags | then
 *     PUBLISH    i64 producer | i16 incarnation | i32 number | uvarint n, n x message
 *     ATTACH     u64 consumer | u32 generation | u32 prefetch | i32 priority | uvarint n, n x handle (what its client holds)
 *     DETACH     u64 consumer
 *     SETTLE     uvarint n, n x (u64 consumer | u8 how | uvarint k, k x handle)
 *     GET        u64 consumer
 *     CONTROL    u8 what
 *   request, leader to gateway
 *     DELIVER    u64 consumer | u32 generation | uvarint n, n x (u64 offset and flags | u32 size | u8 redelivered | content)
 *     GONE       u64 consumer | u32 generation | u8 why
 *   answer     u8 status | then, for FORWARD_OK (the rest of statuses: an error's name as lslice, for FORWARD_REFUSED)
 *     PUBLISH    uvarint n, n x uvarint index of a message that was refused; FORWARD_EXPECTED: i32 number
 *     DETACH     u32 consumers that are left
 *     GET        u8 found | u32 ready | u64 offset and flags | u32 size | u8 redelivered | content
 *     CONTROL    u64 ready, or purged | u32 consumers
 *
 *   message    u8 flags: 1 persistent, 2 expires, 4 has a priority | uvarint ms (2) | u8 priority (4) | content
 *   content    lslice exchange | lslice routing key | lslice properties | lslice body
 *   handle     u64 offset and flags | u32 size */
#ifndef GM_AMQP_FORWARD_H
#define GM_AMQP_FORWARD_H

#include "base/buf.h"
#include "queue/queue.h"

enum forward_flag {
    FORWARD_HOME = 1,      /* an exclusive queue of the node that is asked (rule 18): there is no leader */
    FORWARD_COMMIT = 2,    /* PUBLISH: answer when it is committed */
    FORWARD_NO_ACK = 4,    /* ATTACH, GET */
    FORWARD_EXCLUSIVE = 8, /* ATTACH: the only consumer */
    FORWARD_HOLD = 16,     /* ATTACH: only to hold deliveries (basic.get, a cancelled consumer) */
    FORWARD_REQUEUE = 32,  /* DETACH: what it holds is ready again */
    FORWARD_FLAGS = 63,
};

enum forward_status {
    FORWARD_OK,
    FORWARD_NO_QUEUE,     /* deleted */
    FORWARD_NOT_ATTACHED, /* the consumer is not known (any more): attach it anew */
    FORWARD_LOCKED,       /* exclusive use; single active consumer */
    FORWARD_EXPECTED,     /* PUBLISH: another number is next */
    FORWARD_FENCED,       /* PUBLISH: a later incarnation has written */
    FORWARD_REFUSED,      /* for a reason of the queue's own; nothing was done */
    FORWARD_STATUSES,
};

enum forward_control { FORWARD_COUNTS, FORWARD_TOUCH /* counts, as a declaration asks for */, FORWARD_PURGE };
enum forward_gone { FORWARD_DELETED, FORWARD_ATTACH_ANEW };

struct forward_head {
    uint64_t queue_id;
    uint32_t partition;
    int32_t epoch;
    uint8_t flags;
};
void forward_put_head(struct buf *out, const struct forward_head *h);
void forward_get_head(struct reader *r, struct forward_head *ret);

struct forward_message {
    struct slice exchange, routing_key, properties, body;
    bool persistent;
    uint8_t priority;
    int64_t expiration_ms; /* -1: none */
};
void forward_put_message(struct buf *out, const struct forward_message *m);
void forward_get_message(struct reader *r, struct forward_message *ret); /* r->bad when malformed */

void forward_put_handle(struct buf *out, const struct queue_handle *h);
void forward_get_handle(struct reader *r, struct queue_handle *ret);
#define FORWARD_HANDLE_SIZE 12

void forward_put_delivery(struct buf *out, const struct queue_delivery *d);
void forward_get_delivery(struct reader *r, struct queue_delivery *ret);

/* A count that is followed by items of at least `least` bytes; bad when there cannot be so many. */
uint64_t forward_get_count(struct reader *r, size_t least);
void forward_put_refused(struct buf *out, int err);
int forward_get_refused(struct reader *r); /* the ERR_* */
static inline bool forward_is_whole(const struct reader *r)
{
    return !r->bad && reader_left(r) == 0;
}

#endif
