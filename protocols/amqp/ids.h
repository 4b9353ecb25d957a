/* Which connection something belongs to: exclusive queues by queue id, direct reply-to by its random id. An
 * open hash table under a mutex of its own. Any thread. */
#ifndef GM_AMQP_IDS_H
#define GM_AMQP_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mutex.h"

struct amqp_ids {
    struct mutex lock;
    struct amqp_ids_entry *entries; /* owned; under lock, as the rest */
    size_t cap, used;               /* used: also those dropped, until the next rebuild */
};

void amqp_ids_init(struct amqp_ids *ids);
void amqp_ids_fini(struct amqp_ids *ids);
/* False: somebody else's. `id` is neither 0 nor UINT64_MAX. */
bool amqp_ids_claim(struct amqp_ids *ids, uint64_t id, uint64_t conn_id, unsigned worker);
bool amqp_ids_find(struct amqp_ids *ids, uint64_t id, uint64_t *ret_conn_id, unsigned *ret_worker);
void amqp_ids_drop(struct amqp_ids *ids, uint64_t id);

#endif
