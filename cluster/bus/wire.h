/* The bytes of the bus: frames, hellos, refusals. Pure; any thread. What a peer sent is decoded strictly: nothing is read beyond its end, nothing is left over, nothing is allocated.
 *
 *   frame     be32 length of what follows | be32 CRC32C of what follows it | u16 type | u16 flags | be64 request id | payload
 *   chunk     the payload of a frame with FRAME_CHUNK begins: be32 bytes of the whole message | be32 where this piece goes; then the piece
 *   LZ4       the (rest of the) payload is: be32 length when unpacked | one LZ4 block
 *   error     the payload of a reply with FRAME_ERROR: uvarint length and name of the error as in base/err.def | text for people */
#ifndef GM_CLUSTER_BUS_WIRE_H
#define GM_CLUSTER_BUS_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"

enum {
    FRAME_HEADER = 20,
    FRAME_AFTER_LENGTH = FRAME_HEADER - 4, /* the least value of the length field */
    CHUNK_HEADER = 8,
    LZ4_HEADER = 4,
    CONTROL_FRAME_MAX = 1 << 20,
    CHUNK_MAX = 256 << 10,
    DATA_FRAME_MAX = CHUNK_MAX + FRAME_HEADER + CHUNK_HEADER + LZ4_HEADER,
    HELLO_FRAME_MAX = 1024, /* of anything read before the proof */
};

enum frame_flag { FRAME_REPLY = 1, FRAME_LZ4 = 2, FRAME_ERROR = 4, FRAME_CHUNK = 8, FRAME_FLAGS = 15 };

/* Types of the handshake, beside those of messages.def. */
enum { FRAME_HELLO = 0xfff0, FRAME_PROOF = 0xfff1, FRAME_REFUSED = 0xfff2 };

struct frame {
    uint16_t type, flags;
    uint64_t id;
    struct slice payload; /* borrowed from the input */
};

/* Reads the frame at data. 0: *ret_used is its size. ERR_MORE: so many bytes (*ret_used) are needed before it is worth asking again. ERR_TOO_LARGE above max (the whole frame); ERR_MALFORMED: too short, unknown flags;
 * ERR_CORRUPT: the sum is wrong. */
int frame_decode(const uint8_t *data, size_t len, size_t max, struct frame *ret, size_t *ret_used);
/* The header into 20 bytes; the payload consists of two parts (either may be empty). */
void frame_header(uint8_t out[FRAME_HEADER], uint16_t type, uint16_t flags, uint64_t id, struct slice first, struct slice second);
void frame_put(struct buf *out, uint16_t type, uint16_t flags, uint64_t id, struct slice payload);

/* ---- hello ---- */

enum { BUS_VERSION = 1, NONCE_SIZE = 32, PROOF_SIZE = 32, HELLO_ADDRESS_MAX = 299 };

struct hello {
    uint16_t version;        /* of this format */
    uint8_t channel;         /* enum bus_channel; of the answer: the same */
    uint8_t cluster_id[16];  /* zero: none yet */
    uint8_t uuid[16];
    uint64_t process;        /* chance: which start of that node; two at once have the same disk, or a copy of it */
    uint32_t node_id;        /* 0: none yet */
    uint64_t node_epoch; /* the latest its disk knows it may have been registered with; 0: none yet, or not known */
    uint32_t total_partitions;
    uint32_t level_min, level_max;
    uint32_t heartbeat_ms;
    uint8_t nonce[NONCE_SIZE];
    char address[HELLO_ADDRESS_MAX + 1]; /* where it can be dialled, "" when it does not say */
};
void hello_put(struct buf *out, const struct hello *h); /* the payload */
/* ERR_MALFORMED. A later version may append fields: they are ignored when version is above ours. */
int hello_get(struct slice payload, struct hello *ret);

/* HMAC-SHA256(secret, who | dialler's hello | acceptor's hello), the hellos as payloads with their lengths. */
void hello_proof(const char *secret, bool acceptor, struct slice dialler, struct slice accepted, uint8_t ret[PROOF_SIZE]);
bool proof_equal(const uint8_t a[PROOF_SIZE], struct slice b); /* in constant time */

/* ---- refusals: X(NAME, number, what to do) ---- */
#define BUS_REFUSALS(X)                                                                                                                         \
    X(VERSION, 1, "it speaks another version of the bus: run builds of neighbouring releases")                                                  \
    X(LEVEL, 2, "its feature levels and ours do not overlap: upgrade the older node")                                                           \
    X(CLUSTER, 3, "it is another cluster's node: correct cluster.seeds, or give the node an empty data directory")                              \
    X(PARTITIONS, 4, "its cluster.total_partitions is another: the number is fixed when a cluster is formed and must be the same on every node") \
    X(OURSELVES, 5, "this is the node itself")                                                                                                  \
    X(DISK, 6, "another disk has this node id: the data directory was replaced or copied; remove the old node or start with an empty directory") \
    X(SECRET, 7, "the secrets differ: cluster.secret must be the same on every node")                                                           \
    X(COPY, 9, "another process with this node's identity is connected: is a copy of its data directory in use? stop one, and give it an empty directory to join anew") \
    X(OLD, 10, "the node's disk is older than what the cluster knows of it (an old copy?): run gomsgctl cluster remove for it, then start it with an empty data directory") \
    X(MALFORMED, 8, "what it says is not the bus protocol: is another server listening there?")

enum bus_refusal {
    REFUSAL_NONE,
#define X(name, number, text) REFUSAL_##name = number,
    BUS_REFUSALS(X)
#undef X
};
const char *refusal_text(unsigned code); /* never NULL */

/* Would a node that is `mine` talk to one that is `theirs`? A refusal code, 0: yes. Both ends decide alike. */
enum bus_refusal hello_judge(const struct hello *mine, const struct hello *theirs);

#endif
