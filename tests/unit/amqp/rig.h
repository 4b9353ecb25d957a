/* A node that speaks AMQP alone, in this process, in a temporary directory: for tests that talk to it over a
 * socket, byte by byte. */
#ifndef GM_TEST_AMQP_RIG_H
#define GM_TEST_AMQP_RIG_H

#include <stdint.h>

#include "protocols/amqp/codec.h"

struct rig;

struct rig_options {
    unsigned workers;     /* default 2 */
    const char *data_dir; /* kept and used again; NULL: a temporary one that goes with the rig */
    uint16_t port;        /* 0: any */
    uint64_t max_message_bytes;
    uint32_t sync_interval_ms; /* default 10 */
    unsigned coalesce_us;
};
struct rig *rig_start(const struct rig_options *options);
void rig_stop(struct rig *r);
uint16_t rig_port(const struct rig *r);
/* From now until rig_calm, a thread holds one partition after the other for `us` each: whoever wants in is
 * parked. */
void rig_disturb(struct rig *r, unsigned us);
void rig_calm(struct rig *r);
uint64_t rig_parked(const struct rig *r); /* commands that waited for a partition so far */

/* ---- a client: blocking, one frame at a time ----------------------------------------------------------- */
struct client {
    int fd;
    struct buf in;   /* unread */
    struct buf out;  /* to be sent */
    struct buf held; /* the payload of the last frame */
};
struct frame {
    uint8_t type; /* 0: the connection has ended */
    uint16_t channel;
    uint32_t id;          /* of a method */
    struct slice payload; /* of a method: its fields; good until the next frame */
};

void client_connect(struct client *c, uint16_t port);
void client_close(struct client *c);
void client_flush(struct client *c);
/* The next frame but heartbeats; fails the test after 5 s. */
struct frame client_read(struct client *c);
/* True when something comes within ms. */
bool client_readable(struct client *c, int ms);
/* Reads until a method of this id on this channel comes; fails the test when something else does. */
struct frame client_expect(struct client *c, uint16_t channel, uint32_t id);
/* channel.close or connection.close with this code, whose text is *text; answers it. */
void client_expect_error(struct client *c, unsigned code, const char *text);
/* Header, login as guest, tune, open "/", channel 1. */
void client_login(struct client *c, uint16_t port);
void client_open_channel(struct client *c, uint16_t channel);
void client_declare(struct client *c, uint16_t channel, const char *queue, bool durable);
void client_publish(struct client *c, uint16_t channel, const char *exchange, const char *key,
                    const char *properties, size_t properties_len, struct slice body);
/* basic.deliver or get-ok, its header and body. Returns the delivery tag; the body goes to *ret_body (a buf
 * of the caller's, cleared first). */
uint64_t client_read_content(struct client *c, uint32_t id, struct buf *ret_body, bool *ret_redelivered);

#endif
