/* Routing: from (exchange, routing key, headers) to queues, over the topology's immutable view.
 *
 * What an exchange and a routing key lead to is remembered per channel with the topology's index, so that a
 * publish costs one comparison; a route that depends on a message's headers (headers exchanges, CC and BCC)
 * is computed each time. */
#ifndef GM_AMQP_ROUTE_H
#define GM_AMQP_ROUTE_H

#include "cluster/topology/topology.h"
#include "protocols/amqp/codec.h"

struct amqp_target {
    uint64_t queue_id;
    uint32_t partition;
    uint32_t home; /* the node of an exclusive queue; 0: none */
    bool durable;
};

struct amqp_route {
    uint64_t index;                     /* of the topology it was made from */
    struct slice exchange, routing_key; /* owned by the route */
    bool by_headers;                    /* looked at the headers: good for one message only */
    bool durable;                       /* some target is durable */
    uint32_t count;
    struct amqp_target *targets;
};

/* 0; ERR_NOT_FOUND: no such exchange; ERR_ACCESS: the exchange is internal. CC and BCC in `headers` count.
 * *ret is freed with amqp_route_free. */
int amqp_route_make(const struct topology *v, struct slice vhost, struct slice exchange,
                    struct slice routing_key, struct slice headers, struct amqp_route **ret);
void amqp_route_free(struct amqp_route *r);
/* ERR_WRONG_TYPE when CC or BCC is not an array of long strings: *ret_name says which, *ret_type what it is.
 */
int amqp_route_check_cc(struct slice headers, const char **ret_name, const char **ret_type);
/* Whether a headers binding's arguments match a message's headers. Pure. */
bool amqp_headers_match(struct slice binding_args, struct slice headers);
/* False: *ret is the offending x-match value. */
bool amqp_headers_args_check(struct slice binding_args, struct amqp_value *ret);

#endif
