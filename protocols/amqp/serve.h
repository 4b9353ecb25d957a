/* The leader's side of forwarding: what gateways of other nodes (and of this one, whose queue's leader came back to it) ask of the queues led here. Everything runs on the data worker, under the same partition locks as the
 * sessions of this node. */
#ifndef GM_AMQP_SERVE_H
#define GM_AMQP_SERVE_H

struct amqp_front;
struct amqp_serve;

/* Before bus_start. */
struct amqp_serve *amqp_serve_new(struct amqp_front *f);
void amqp_serve_stop(struct amqp_serve *v); /* on the data worker, before bus_close: nothing of the bus is called any more */
void amqp_serve_free(struct amqp_serve *v); /* the bus is closed, the workers have stopped, the partitions are still there; NULL is fine */

#endif
