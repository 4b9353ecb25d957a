/* The inside of the bus, seen by this folder alone.
 *
 *   peer    somebody to keep connections to: an address of bus_set_targets, and who was found there; control worker
 *   link    one connection's place: dialled (belongs to a peer and a channel, lives on through reconnects), accepted (lives as long as its connection), or the loopback of a channel
 *   calls   requests of ours that wait for an answer, all links together, and the inbox of each worker for their `done`
 *
 * Locks, in this order, none held while foreign code runs: bus->lock (peers as other threads see them), link->lock (outbox), calls.lock.
 * Links live on one worker; other threads only append to their outboxes, holding a reference. */
#ifndef GM_CLUSTER_BUS_PRIVATE_H
#define GM_CLUSTER_BUS_PRIVATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/mutex.h"
#include "cluster/bus/bus.h"
#include "cluster/bus/wire.h"
#include "io/conn.h"
#include "io/connect.h"
#include "io/listener.h"
#include "io/worker.h"

#define BUS_MAGIC 0x62757321u
#define LINK_MAGIC 0x6c696e6bu

enum {
    BUS_CHANNELS = 2,
    BUS_TYPES = 128,
    STREAMS = BUS_TYPES * 2, /* a type's messages and its replies */

    HANDSHAKE_MS = 2000,
    CONNECT_MS = 1500,
    CONTROL_USER_TIMEOUT_MS = 1500,
    DATA_USER_TIMEOUT_MS = 10000,
    BACKOFF_FIRST_MS = 10,
    BACKOFF_MAX_MS = 500,
    BACKOFF_REFUSED_MS = 2000, /* the same hello will be refused again */
    BACKOFF_IDLE_MS = 5000,    /* ourselves, or a second address of somebody */
    CONTROL_SILENT = 3,        /* heartbeats */
    DATA_SILENT = 10,

    STREAM_WINDOW = 1 << 20,
    CREDIT_STEP = 256 << 10,
    OUTPUT_SOFT_MAX = 1 << 20,
    ASSEMBLY_KEEP = 1 << 20,
    CONTROL_OUT_MAX = 64 << 20,
    DATA_OUT_MAX = 512 << 20,
    ACCEPTED_MAX = 1024, /* connections from others, proven or not */

    WHEEL_STEP_MS = 20,
    WHEEL_SIZE = 256,
};

struct link;
struct shown;

/* ---- calls (calls.c) ---- */

struct inbox {
    struct mail mail;
    struct bus *bus;
    struct list done; /* of bus_call.node */
    bool posted;
};

struct calls {
    struct mutex lock;
    struct list *buckets; /* owned array, by id */
    size_t bucket_mask;
    size_t count;
    uint64_t last_id;
    struct list wheel[WHEEL_SIZE];
    uint64_t wheel_at; /* the step that was looked at last */
    struct inbox *inboxes; /* owned array, one a worker */
};
void calls_init(struct bus *b);
void calls_fini(struct bus *b);
/* Enters the call; its id. */
uint64_t calls_add(struct bus *b, struct bus_call *c, const struct link *l, uint32_t timeout_ms);
/* The call with this id, if it still waits on this link, is over; `payload` is copied unless the caller is its worker, when `done` may run at once. */
void calls_complete(struct bus *b, const struct link *l, uint64_t id, int err, struct slice payload);
void calls_refuse(struct bus *b, uint64_t id, int err); /* it was not sent */
void calls_fail_link(struct bus *b, const struct link *l, int err); /* NULL: all */
void calls_tick(struct bus *b, uint64_t now_us);

/* ---- links ---- */

/* A message too large for one frame, or one that must not overtake such a one of its type. */
struct bulk {
    struct list node;
    uint16_t type, flags;
    uint64_t id;
    size_t sent;
    uint32_t refs; /* one its own, one a chunk in the connection's output */
    size_t len;
    uint8_t data[];
};

struct out_stream {
    struct list ready; /* in link->ready while it has something to send and credit for it */
    struct list bulks;
    uint64_t credit;
};

struct in_stream {
    struct buf buf;
    uint32_t total; /* of the message being put together; 0: none */
    uint16_t flags;
    uint64_t id;
    uint64_t owed;  /* credit to be given */
    uint64_t since; /* order in which assemblies began */
};

enum link_state {
    LINK_IDLE,    /* dialled links: nothing under way, a timer may run */
    LINK_CONNECT, /* TCP */
    LINK_HELLO,   /* waits for the peer's hello */
    LINK_PROOF,   /* waits for its proof */
    LINK_UP,
    LINK_GONE,    /* its peer was removed, or an accepted one ended; freed with the last reference */
};

struct link {
    uint32_t magic;
    _Atomic uint32_t refs;
    struct bus *bus;
    struct worker *worker;
    enum bus_channel channel;
    bool dialled, loopback;
    struct list node; /* bus->links[channel], of the worker */
    struct list all;  /* bus->all_links, under bus->lock */

    /* the worker's own */
    enum link_state state;
    struct conn *conn;
    struct connecting *connecting;
    struct io_timer timer; /* IDLE: dial again; HELLO, PROOF: the deadline; UP: heartbeat */
    uint32_t backoff_ms;
    bool resting;  /* dialled seldom: ourselves or a second address */
    bool was_up;
    uint64_t beat_us; /* when the heartbeat's timer fired last */
    bool half_beat;   /* the timer fires twice a heartbeat, and this was the time between */
    bool pinged;      /* and not answered yet */
    bool silent;      /* so for half a heartbeat, and told */
    unsigned doubts;  /* heartbeats until a peer that still says an epoch older than the topology's is refused; 0: no doubt */
    struct hello mine, theirs;
    struct buf my_hello, their_hello; /* payloads */
    struct bus_peer who;              /* valid when up (and kept after it) */
    char who_address[HELLO_ADDRESS_MAX + 1];
    struct list ready; /* out_streams */
    struct out_stream *out_streams[STREAMS]; /* owned */
    struct in_stream *in_streams[STREAMS];   /* owned */
    uint64_t assembling, assembly_count;
    struct peer *peer; /* dialled: the control worker's; NULL when removed */

    /* any thread */
    struct mutex lock;
    bool up;
    uint32_t up_node;  /* while up: the peer's id, */
    int64_t up_wall_ms; /* and since when */
    bool posted;
    struct mail pump;
    struct buf out, spare;
    struct list bulk_new;
    uint16_t bulk_waiting[STREAMS];
    size_t out_bytes; /* in out, bulks; not what the connection holds */
    struct list requests, requests_free;
    unsigned requests_free_count;
    char dial_address[HELLO_ADDRESS_MAX + 1];
    uint8_t expect_uuid[16];

    /* counters: written by who holds them, read by anybody */
    _Atomic uint64_t bytes_in, bytes_out, frames_in, frames_out, reconnects;
    _Atomic uint32_t round_trip_us;
};

struct bus_request {
    struct list node;
    struct link *link; /* counted */
    uint64_t id;
    uint16_t type;
};

/* link.c */
struct link *link_new(struct bus *b, enum bus_channel channel);
struct link *link_ref(struct link *l);
void link_unref(struct link *l);
void link_dial(struct link *l);                  /* on its worker, IDLE */
void link_remove(struct link *l);                /* on its worker: ends for good */
void link_rest(struct link *l);                  /* on its worker: ends now, dialled again seldom */
void link_end(struct link *l, enum bus_down why, const char *reason); /* on its worker: its connection is of no use any more */
extern const struct conn_ops link_accept_ops;
void link_say_identity(struct link *l);
void link_judge_again(struct link *l); /* on its worker: what is known of its peer changed */
void requests_drop(struct link *l); /* those that nobody answered; at the end of all */
bool link_dispatch(struct link *l, const struct frame *f); /* false: the peer broke the protocol */

/* flow.c */
enum send_result { SEND_OK, SEND_DOWN, SEND_FULL, SEND_TOO_LARGE };
enum send_result link_queue(struct link *l, uint16_t type, uint16_t flags, uint64_t id, struct slice payload); /* any thread */
void link_pump(struct worker *w, struct mail *m);
void flow_reset(struct link *l);  /* worker: nothing is under way in either direction */
void flow_continue(struct link *l);
int flow_take_chunk(struct link *l, const struct frame *f); /* <0: the peer broke the protocol */
int flow_take_credit(struct link *l, struct slice payload);
int flow_unpack(struct bus *b, enum bus_channel channel, struct frame *f); /* LZ4; the payload then lies in the channel's scratch */

/* ---- peers (peer.c): control worker; what other threads read stands under bus->lock ---- */

struct peer {
    struct list node; /* bus->peers, changed by the control worker under bus->lock */
    char address[HELLO_ADDRESS_MAX + 1]; /* as targeted */
    uint32_t target_id;
    uint8_t target_uuid[16];
    uint64_t target_epoch;
    uint32_t node_id;  /* found, or targeted */
    uint8_t uuid[16];  /* found, or targeted */
    struct link *links[BUS_CHANNELS]; /* counted */
    bool up[BUS_CHANNELS];
    bool told_up;
    bool self;              /* it is us */
    struct peer *same_as;   /* a second address of this one */
    struct bus_peer who;
    char who_address[HELLO_ADDRESS_MAX + 1];
    char refused[200];
    uint64_t refused_us; /* when that was written to diag */
    bool kept;           /* in bus_set_targets */
};

/* What happened to a dialled link; control worker, or any by mail. */
enum link_event { EVENT_UP, EVENT_IDENTITY, EVENT_DOWN, EVENT_SILENT, EVENT_HEARD };
void peer_tell(struct link *l, enum link_event event, enum bus_down why, const char *reason);
struct link *peer_link(struct bus *b, uint32_t node_id, enum bus_channel channel); /* counted; NULL; any thread */
struct link *peer_link_at(struct bus *b, const char *address, enum bus_channel channel);
void peer_start(struct peer *p);
void peer_free(struct peer *p);
bool peers_knows_newer(struct bus *b, const struct hello *h); /* its disk is an old copy; any thread */
bool peers_id_taken(struct bus *b, const struct hello *h); /* the topology says another uuid has its id; any thread */

/* show.c */
void show_peer(struct bus *b, uint32_t node_id);
void show_free(struct bus *b);

/* ---- the bus ---- */

struct bus {
    uint32_t magic;
    struct bus_options options;
    char *secret; /* owned */
    char *advertise;
    struct worker *workers[BUS_CHANNELS];
    struct listener *listener;
    uint16_t port;
    struct calls calls;
    struct io_timer wheel_timer; /* control worker */
    bool metrics;
    struct shown *shown; /* owned */
    struct list links[BUS_CHANNELS]; /* each of its worker */
    struct buf scratch[BUS_CHANNELS]; /* each of its worker: what was unpacked */
    struct link *loop[BUS_CHANNELS];
    struct {
        bus_handler *fn;
        void *arg;
    } handlers[BUS_TYPES];
    bool started;
    _Atomic bool closing;

    struct mutex lock;
    struct list peers;
    uint8_t cluster_id[16];
    uint32_t node_id;
    uint64_t node_epoch;
    uint64_t process; /* see struct hello */
    struct list all_links; /* of link.all: each that is still referenced */
};

struct bus_row {
    const char *name;
    enum bus_channel channel;
    bool known;
};
void bus_judge_again(struct bus *b); /* control worker: all links */
const struct bus_row *bus_row(unsigned type); /* never NULL */
void bus_identity(struct bus *b, enum bus_channel channel, struct hello *ret); /* any thread; without a nonce */

static inline unsigned stream_key(uint16_t type, uint16_t flags)
{
    return type * 2u + ((flags & FRAME_REPLY) != 0);
}

#endif
