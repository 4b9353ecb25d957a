/* Requests that propose changes of the topology: one item an entry of the request, in its order; those that
 * need no proposal have their answer at once. When all proposals are answered, `finish` writes the reply from
 * the copied request and the items. On the connection's worker. */
#ifndef GM_KAFKA_ADMIN_H
#define GM_KAFKA_ADMIN_H

#include "protocols/kafka/session.h"

#define KAFKA_ADMIN_WHY 200
#define KAFKA_ADMIN_ITEMS_MAX 20000 /* entries of one request; more close the connection */

struct kafka_admin;

struct kafka_admin_item {
    struct topology_proposal proposal;
    struct kafka_admin *all;
    int16_t code;
    char why[KAFKA_ADMIN_WHY]; /* "": none */
    uint8_t uuid[16];
    int32_t partitions;
    bool proposed;
};

struct kafka_admin {
    struct kafka_async async;
    struct kafka_admin_item *items; /* owned */
    unsigned count, open;
    void (*finish)(struct kafka_session *s, const struct kafka_request *rq, struct kafka_admin *a);
};

/* Copies the request and makes `count` items. The caller walks a->async.rq then, so that what it keeps stays.
 */
struct kafka_admin *kafka_admin_begin(struct kafka_session *s, const struct kafka_request *rq, unsigned count,
                                      void (*finish)(struct kafka_session *s, const struct kafka_request *rq,
                                                     struct kafka_admin *a));
/* item->proposal.command is filled in. */
void kafka_admin_propose(struct kafka_admin *a, struct kafka_admin_item *item);
__attribute__((format(printf, 3, 4))) void kafka_admin_fail(struct kafka_admin_item *item, int16_t code,
                                                            const char *fmt, ...);
/* All items are settled or proposed. KAFKA_WAIT, or KAFKA_DONE when nothing had to be proposed. */
int kafka_admin_run(struct kafka_admin *a);

#endif
