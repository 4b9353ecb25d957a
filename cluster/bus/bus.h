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
 * Without the proof nothing but hello is read. A peer of another cluster, with a wrong secret, with another total_partitions, with our own uuid, or a second process with the identity of one that is connected (a copied disk), one whose disk knows of fewer starts than the topology (an old copy), or a uuid that is not the one the topology has
 * for its id, is refused with a reason, which both sides write to diag (once in a while) and bus_peer_info tells.
 *
 * Frames are drawn in wire.h. One that is too long, of an unknown type or channel, or with a wrong sum ends the connection.
 *
 * Threads: bus_send, bus_call, bus_cast and bus_reply are for any worker thread and for the control and data worker; handlers run on the worker of their channel. Messages of one sender thread to one peer and
 * channel arrive in order while the connection lives; when it goes, calls under way end with ERR_CLOSED (outcome unknown) and one-way messages may be lost. */
#ifndef GM_CLUSTER_BUS_H
#define GM_CLUSTER_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/list.h"
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
    const char *advertise;        /* where others can dial us, told in the hello; NULL or "": not told */
    const char *secret;           /* borrowed; "" when security.allow_unauthenticated */
    uint8_t node_uuid[16];
    uint32_t total_partitions;
    uint32_t level_min, level_max; /* feature levels this build can work at */
    uint32_t heartbeat_ms;        /* of the bus itself; default 500, a connection silent for 3 of them (control) or 10 (data) is down */
    uint32_t message_max;         /* bytes of a message of the data channel; default 160 MiB */
    uint64_t assembly_max;        /* half-received large messages of one connection; above it they come one after the other; default 256 MiB */
    bool no_compression;
    /* On the control worker, by mail of its own. A peer became reachable (both its channels are up) or is not any more; down is told once for each failed attempt too, so that REFUSED is seen soon. */
    void (*peer_up)(void *arg, const struct bus_peer *peer);
    void (*peer_down)(void *arg, const struct bus_peer *peer, enum bus_down why);
    /* A peer that is up left a ping unanswered for half a heartbeat, or answers again. No verdict: for those who can wait a little before they send somebody there. A peer that goes or comes is told by the other two alone. NULL: nobody wants to know. */
    void (*peer_silent)(void *arg, const struct bus_peer *peer, bool silent);
    void *arg;
};
/* Binds the address; what can go wrong goes wrong here (ERR_ADDR_IN_USE, ERR_ACCESS, ERR_INVALID, ERR_NOT_FOUND, ERR_NOFILE). On the main thread, workers may run or not. Then register handlers, give identity and targets, and
 * start: from then on connections are accepted and dialled. */
int bus_open(const struct bus_options *options, struct bus **ret);
void bus_start(struct bus *b); /* main thread */
/* On the main thread, workers still run. Calls under way end with ERR_CANCELLED; no handler and no callback runs after it, and nothing of the bus may be called any more. */
void bus_close(struct bus *b);
uint16_t bus_port(const struct bus *b);

/* Who we are, once known; before it is registered with a new one, a node says the epoch that it is about to ask for. Later hellos carry it, and those who are connected are told (their peer_up runs again). Control worker, or before bus_start. */
void bus_set_identity(struct bus *b, const uint8_t cluster_id[16], uint32_t node_id, uint64_t node_epoch);
/* The peers to keep connections to: replaces the list; control worker, or before bus_start. Connections to nodes that stay in the list stay, also when their address, id or uuid becomes known. uuid all zero: not known yet (a seed). Two addresses that turn out to be the same node, or ourselves, are found by uuid
 * and kept as one; what is sent to an address of ourselves is handled here. */
struct bus_target {
    const char *address;
    uint32_t node_id; /* 0: unknown */
    uint8_t uuid[16];
    /* The epoch it is registered with, 0: unknown. Whoever comes with that uuid and an earlier epoch than this lives on an old copy of the disk and is refused, also when he is connected already: he may have promised what he
     * does not know of any more. */
    uint64_t node_epoch;
};
void bus_set_targets(struct bus *b, const struct bus_target *targets, unsigned n);

/* ---- handling: registered before bus_start, one handler a type ---- */
/* `payload` and `from` are valid during the call. A request (r not NULL) is answered exactly once by bus_reply, also later and from another worker. */
typedef void bus_handler(void *arg, const struct bus_peer *from, struct bus_request *r, struct slice payload);
void bus_handle(struct bus *b, enum bus_type type, bus_handler *fn, void *arg);
/* err != 0: an error answer; `payload` is then a text for people. Any worker; it is dropped when the connection went meanwhile. */
void bus_reply(struct bus *b, struct bus_request *r, int err, struct slice payload);

/* ---- sending ---- */
/* Order: messages of one type from one thread to one peer arrive in the order they were sent. One of the data channel above 256 KiB goes in pieces between which messages of other types may overtake it.
 * Bounds: control 1 MiB, data message_max; and when a peer does not take what waits for it (64 MiB, 512 MiB), more is refused. */
/* One-way; false: no connection, too large, or too much waits (dropped). */
bool bus_send(struct bus *b, uint32_t node_id, enum bus_type type, struct slice payload);
/* To the address of a target that has no node id yet (forming, joining). */
bool bus_send_to(struct bus *b, const char *address, enum bus_type type, struct slice payload);
/* To all peers that are up. */
void bus_cast(struct bus *b, enum bus_type type, struct slice payload);

/* A request. Embedded in its owner, all zero before its first use, which keeps it until `done` ran on `worker` or bus_call_cancel returned; it may call anew from `done`. */
struct bus_call {
    struct worker *worker; /* where `done` runs: the caller's */
    /* Never from within bus_call. err: 0, what the handler said, ERR_CLOSED (the connection went: outcome unknown), ERR_TIMEOUT (unknown too), ERR_CANCELLED (the bus closes), ERR_NOT_FOUND (no connection: nothing was sent),
     * ERR_LIMIT (the peer does not take what waits already: not sent), ERR_TOO_LARGE (not sent). `payload` is valid during the call; with an error of the handler it is its text. */
    void (*done)(struct bus_call *c, int err, struct slice payload);
    /* private, calls.c */
    struct list node, wheel;
    struct bus *bus;
    const void *link;
    uint64_t id, deadline_us;
    int state, err;
    uint8_t *payload; /* owned, when larger than small */
    size_t len;
    uint8_t small[48];
};
void bus_call(struct bus *b, uint32_t node_id, enum bus_type type, struct slice payload, uint32_t timeout_ms, struct bus_call *c);
void bus_call_to(struct bus *b, const char *address, enum bus_type type, struct slice payload, uint32_t timeout_ms, struct bus_call *c);
void bus_call_cancel(struct bus_call *c); /* on its worker; `done` does not run any more; one that never called is fine */

/* ---- for people ---- */
struct bus_peer_info {
    uint32_t node_id;
    char address[300];
    bool control_up, data_up;
    uint64_t bytes_in, bytes_out, frames_in, frames_out, reconnects;
    uint32_t round_trip_us; /* of the last heartbeat on control */
    char refused[200];      /* why the last hello was refused and what to do about it, "" */
};
/* Registers gauges of every peer, as it appears, with metrics (one bus a process). Before bus_start. */
void bus_show_metrics(struct bus *b);
/* Any thread; returns how many there are, at most max are filled in. */
unsigned bus_peers(struct bus *b, struct bus_peer_info *ret, unsigned max);

/* One connection that is up, opened by us (requests go there) or by the peer. */
struct bus_link_info {
    uint32_t node_id;
    enum bus_channel channel;
    bool ours;
    int64_t since_wall_ms;
    uint64_t waiting_bytes;   /* what waits to be given to the socket */
    uint64_t allocated_bytes; /* memory for that */
};
/* Any thread; those of nodes with an id, in no order; returns how many there are, at most max are filled in. */
unsigned bus_links(struct bus *b, struct bus_link_info *ret, unsigned max);

#endif
