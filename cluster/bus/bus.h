/* The bus: what the nodes of a cluster say to each other. Two connections a pair and direction of opening (rule 24):
 *
 *   control   Raft, heartbeats, topology; frames of at most 1 MiB; on the control worker; TCP_USER_TIMEOUT 1.5 s, an own heartbeat
 *   data      fetches of logs, forwarded requests, snapshots; on the data worker; bulk in chunks of at most 256 KiB, LZ4 where it pays, flow by
 *             credit so that a slow receiver of one stream never closes the window for the others; longer timeout
 *
 * Each node opens both connections to every peer it knows and uses those it opened for its requests and one-way messages; a reply goes back on the connection the
 * request came on. A lost connection is opened anew at once, then with a short back-off (10 ms to 500 ms).
 *
 * Life of a connection: hello (versions, cluster id or none yet, node id, node uuid, nonce) -> proof (HMAC-SHA256 of cluster.secret over both nonces and both hellos, each way) -> up -> down.
 * Without the proof nothing but hello is read. A peer of another cluster, with a wrong secret, with another total_partitions, with our own uuid, or a uuid that is not the one the topology has
 * for its id, is refused with a reason, which both sides write to diag (once in a while) and bus_peer_info tells.
 *
 * Frame: be32 length of what follows | be32 CRC32C of what follows | u16 type | u16 flags (reply, LZ4, error) | be64 request id (0: one-way) | payload. A frame that is too long, of an unknown
 * type, or with a wrong sum ends the connection.
 *
 * Threads: bus_send, bus_call, bus_cast and bus_reply are for any worker thread and for the control and data worker; handlers run on the worker of their channel. Messages of one sender thread to one peer and
 * channel arrive in order while the connection lives; when it goes, calls under way end with ERR_CLOSED (outcome unknown) and one-way messages may be lost. */
#ifndef GM_CLUSTER_BUS_H
#define GM_CLUSTER_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"
#include "io/worker.h"

struct bus;
struct bus_request; /* a request that was received and is not answered yet */

enum bus_channel { BUS_CONTROL, BUS_DATA };

enum bus_type {
#define X(name, number, channel, since, text) BUS_##name = number,
#include "cluster/bus/messages.def"
#undef X
};
const char *bus_type_name(unsigned type); /* NULL: unknown */

/* Who sent something: stable for the life of its connection. node_id is 0 while the peer has none yet (a node that wants to join). */
struct bus_peer {
    uint32_t node_id;
    uint64_t node_epoch;
    uint8_t uuid[16];
    const char *address; /* "HOST:PORT" as it advertises itself, or as it was dialled */
};

enum bus_down {
    BUS_DOWN_REFUSED, /* "connection refused": nobody listens there (rule 20's fast path needs exactly this) */
    BUS_DOWN_CLOSED,  /* FIN or RST of a connection that was up */
    BUS_DOWN_TIMEOUT,
    BUS_DOWN_REJECTED, /* its hello or ours was refused; see bus_peer_info */
    BUS_DOWN_UNREACHABLE,
};

struct bus_options {
    struct workers *workers;
    struct worker *control, *data;
    const char *listen;           /* "HOST:PORT" */
    const char *secret;           /* borrowed; "" when security.allow_unauthenticated */
    uint8_t node_uuid[16];
    uint32_t total_partitions;
    uint32_t level_min, level_max; /* feature levels this build can work at */
    uint32_t heartbeat_ms;        /* of the bus itself; default 500, a connection silent for 3 of them is down (control) */
    /* On the control worker. A peer became reachable (both its channels are up) or is not any more; down is told once for each failed attempt too, so that REFUSED is seen soon. */
    void (*peer_up)(void *arg, const struct bus_peer *peer);
    void (*peer_down)(void *arg, const struct bus_peer *peer, enum bus_down why);
    void *arg;
};
int bus_open(const struct bus_options *options, struct bus **ret);
void bus_close(struct bus *b); /* on the main thread, workers still run; calls under way end with ERR_CANCELLED */
uint16_t bus_port(const struct bus *b);

/* Who we are, once known; later hellos carry it. Control worker, or before the workers start. */
void bus_set_identity(struct bus *b, const uint8_t cluster_id[16], uint32_t node_id, uint64_t node_epoch);
/* The peers to keep connections to: replaces the list; control worker (or before the start). uuid all zero: not known yet (a seed). Two addresses that turn out to be the same node, or ourselves, are found by uuid
 * and kept as one. */
struct bus_target {
    const char *address;
    uint32_t node_id; /* 0: unknown */
    uint8_t uuid[16];
};
void bus_set_targets(struct bus *b, const struct bus_target *targets, unsigned n);

/* ---- handling: registered before bus_open's workers run, one handler a type ---- */
/* `payload` is valid during the call. A request (r not NULL) is answered exactly once by bus_reply, also later and from another worker. */
typedef void bus_handler(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);
void bus_handle(struct bus *b, enum bus_type type, bus_handler *fn, void *arg);
/* err != 0: an error answer; `payload` is then a text for people. */
void bus_reply(struct bus *b, struct bus_request *r, int err, struct slice payload);

/* ---- sending ---- */
/* One-way; false: no connection (dropped). */
bool bus_send(struct bus *b, uint32_t node_id, enum bus_type type, struct slice payload);
/* To an address that has no node id yet (forming, joining). */
bool bus_send_to(struct bus *b, const char *address, enum bus_type type, struct slice payload);
/* To all peers that are up. */
void bus_cast(struct bus *b, enum bus_type type, struct slice payload);

/* A request. Embedded in its owner, which keeps it until `done` ran on `worker` or bus_call_cancel returned. */
struct bus_call {
    struct mail mail; /* private */
    struct worker *worker; /* where `done` runs: the caller's */
    void (*done)(struct bus_call *c, int err, struct slice payload); /* err: 0, what the handler said, ERR_CLOSED, ERR_TIMEOUT, ERR_CANCELLED, ERR_NOT_FOUND (no connection) */
    void *private[8];
};
void bus_call(struct bus *b, uint32_t node_id, enum bus_type type, struct slice payload, uint32_t timeout_ms, struct bus_call *c);
void bus_call_to(struct bus *b, const char *address, enum bus_type type, struct slice payload, uint32_t timeout_ms, struct bus_call *c);
void bus_call_cancel(struct bus_call *c); /* on its worker; `done` does not run any more */

/* ---- for people ---- */
struct bus_peer_info {
    uint32_t node_id;
    char address[300];
    bool control_up, data_up;
    uint64_t bytes_in, bytes_out, frames_in, frames_out, reconnects;
    uint32_t round_trip_us; /* of the last heartbeat on control */
    char refused[200];      /* why the last hello was refused, "" */
};
/* Any thread; returns how many there are, at most max are filled in. */
unsigned bus_peers(struct bus *b, struct bus_peer_info *ret, unsigned max);

#endif
