/* Peers that are no friends: wrong ones, strangers, liars, and those who fall silent. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/bus/wire.h"
#include "rig.h"

/* ---- nodes that do not belong together ---- */

/* Starts two nodes that refuse each other and returns what node 0 says about it. */
static void refused_pair(const struct node_options *a, const struct node_options *b, const char *words)
{
    struct bus_peer_info info[2];
    struct result r;

    node_open(0, a);
    node_open(1, b);
    for (unsigned i = 0; i < 2; i++) {
        node_targets(i, 2u >> i, false);
        node_start(i);
    }
    for (unsigned i = 0; i < 2; i++) {
        WAIT_UNTIL(nodes[i].downs >= 1 && nodes[i].last_down == BUS_DOWN_REJECTED);
        WAIT_UNTIL(bus_peers(nodes[i].bus, info, 2) == 1 && info[0].refused[0] != '\0');
        cr_assert_not_null(strstr(info[0].refused, words), "%s", info[0].refused);
        cr_assert_eq(nodes[i].ups, 0);
    }
    call_to_begin(&r, 0, nodes[1].address, BUS_PROPOSE, SLICE_LIT("echo"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_NOT_FOUND);
    cr_assert_eq(nodes[1].got, 0);
    stop_nodes(2);
}

Test(hostile, a_node_with_another_secret_is_refused)
{
    refused_pair(&(struct node_options){.secret = "one"}, &(struct node_options){.secret = "two"}, "the secrets differ");
}

Test(hostile, an_empty_secret_does_not_open_a_door)
{
    refused_pair(&(struct node_options){.secret = "one"}, &(struct node_options){.secret = ""}, "the secrets differ");
}

Test(hostile, a_node_of_another_cluster_is_refused)
{
    refused_pair(&(struct node_options){.cluster = 1}, &(struct node_options){.cluster = 2}, "another cluster's node");
}

Test(hostile, a_node_with_another_number_of_partitions_is_refused)
{
    refused_pair(&(struct node_options){.partitions = 32}, &(struct node_options){.partitions = 64}, "total_partitions");
}

Test(hostile, a_second_node_with_our_id_is_refused)
{
    refused_pair(&(struct node_options){.id = 5}, &(struct node_options){.id = 5}, "another disk has this node id");
}

Test(hostile, a_node_whose_disk_was_replaced_is_refused_by_who_knows_the_old_one)
{
    struct bus_peer_info info[2];
    struct bus_target t = {0};

    node_open(0, NULL);
    node_open(1, &(struct node_options){.uuid = 77});
    t.address = nodes[1].address;
    t.node_id = 2;
    memset(t.uuid, 2, sizeof(t.uuid));
    bus_set_targets(nodes[0].bus, &t, 1);
    node_targets(1, 1, true);
    node_start(0);
    node_start(1);
    WAIT_UNTIL(bus_peers(nodes[0].bus, info, 2) == 1 && strstr(info[0].refused, "another disk") != NULL);
    WAIT_UNTIL(bus_peers(nodes[1].bus, info, 2) == 1 && strstr(info[0].refused, "another disk") != NULL);
    cr_assert_eq(nodes[0].ups + nodes[1].ups, 0);
    stop_nodes(2);
}

/* ---- strangers: sockets that speak by hand ---- */

static int dial(unsigned node)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(bus_port(nodes[node].bus)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval tv = {10, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert(fd >= 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    return fd;
}

static void say(int fd, const struct buf *b)
{
    for (size_t at = 0; at < b->len;) {
        ssize_t n = send(fd, b->data + at, b->len - at, MSG_NOSIGNAL);

        if (n <= 0)
            return; /* it hung up; the test looks at that */
        at += (size_t)n;
    }
}

static bool hung_up(int fd)
{
    char rest[4096];
    ssize_t n;

    while ((n = recv(fd, rest, sizeof(rest), 0)) > 0)
        ;
    return n == 0 || errno == ECONNRESET;
}

/* Reads one frame; false: none came. */
static bool hear(int fd, struct buf *in, struct frame *f)
{
    size_t used = FRAME_HEADER;
    int err;

    buf_clear(in);
    while ((err = frame_decode(in->data, in->len, DATA_FRAME_MAX, f, &used)) == ERR_MORE) {
        ssize_t n = recv(fd, buf_reserve(in, used), used - in->len, 0);

        if (n <= 0)
            return false;
        buf_advance(in, (size_t)n);
    }
    cr_assert_eq(err, 0);
    return true;
}

static struct hello stranger(enum bus_channel channel)
{
    struct hello h = {.version = BUS_VERSION, .channel = (uint8_t)channel, .node_id = 50, .total_partitions = 32, .level_min = 1, .level_max = 1, .heartbeat_ms = 100};

    memset(h.uuid, 99, sizeof(h.uuid));
    memset(h.cluster_id, 7, sizeof(h.cluster_id));
    return h;
}

/* A connection that is up: this one knows the secret. */
static int friendly(unsigned node, enum bus_channel channel)
{
    struct hello h = stranger(channel);
    struct buf mine = {0}, out = {0}, in = {0}, theirs = {0};
    uint8_t proof[PROOF_SIZE];
    struct frame f;
    int fd = dial(node);

    hello_put(&mine, &h);
    frame_put(&out, FRAME_HELLO, 0, 0, buf_slice(&mine));
    say(fd, &out);
    cr_assert(hear(fd, &in, &f) && f.type == FRAME_HELLO);
    buf_put_slice(&theirs, f.payload);
    hello_proof("a secret", false, buf_slice(&mine), buf_slice(&theirs), proof);
    buf_clear(&out);
    frame_put(&out, FRAME_PROOF, 0, 0, slice_of(proof, sizeof(proof)));
    say(fd, &out);
    cr_assert(hear(fd, &in, &f) && f.type == FRAME_PROOF);
    hello_proof("a secret", true, buf_slice(&mine), buf_slice(&theirs), proof);
    cr_assert(proof_equal(proof, f.payload));
    buf_fini(&mine);
    buf_fini(&out);
    buf_fini(&in);
    buf_fini(&theirs);
    return fd;
}

Test(hostile, garbage_and_other_protocols_are_hung_up_on_without_an_answer)
{
    static const char *const words[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "*1\r\n$4\r\nPING\r\n", "AMQP\0\0\x9\x1", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\0\0\0\x0f" "aaaaaaaaaaaaaaaa"};

    start_nodes(2);
    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        int fd = dial(0);
        char byte;

        send(fd, words[i], i == 2 ? 8 : strlen(words[i]) + (i == 4 ? 20 : 0), MSG_NOSIGNAL);
        cr_assert_leq(recv(fd, &byte, 1, 0), 0, "%u", i);
        close(fd);
    }
    call_ok(1, 1, BUS_PROPOSE, "echo");
    stop_nodes(2);
}

Test(hostile, who_says_nothing_or_half_a_hello_is_hung_up_on_after_two_seconds)
{
    struct hello h = stranger(BUS_CONTROL);
    struct buf mine = {0}, out = {0};
    uint64_t began;
    int silent, half;

    start_nodes(2);
    hello_put(&mine, &h);
    frame_put(&out, FRAME_HELLO, 0, 0, buf_slice(&mine));
    out.len /= 2;
    began = clock_mono_us();
    silent = dial(0);
    half = dial(0);
    say(half, &out);
    cr_assert(hung_up(silent) && hung_up(half));
    cr_assert(clock_mono_us() - began >= 1900000);
    close(silent);
    close(half);
    buf_fini(&mine);
    buf_fini(&out);
    stop_nodes(2);
}

Test(hostile, nothing_is_read_before_the_proof)
{
    struct hello h = stranger(BUS_CONTROL);
    struct buf mine = {0}, out = {0}, in = {0};
    struct frame f;
    uint8_t text[PROOF_SIZE] = {0};
    int fd;

    start_nodes(2);
    hello_put(&mine, &h);
    /* hello, and a request instead of the proof */
    fd = dial(0);
    frame_put(&out, FRAME_HELLO, 0, 0, buf_slice(&mine));
    say(fd, &out);
    cr_assert(hear(fd, &in, &f) && f.type == FRAME_HELLO);
    buf_clear(&out);
    frame_put(&out, BUS_PROPOSE, 0, 1, SLICE_LIT("echo"));
    say(fd, &out);
    cr_assert(hung_up(fd));
    close(fd);
    /* hello with something behind it */
    fd = dial(0);
    buf_clear(&out);
    frame_put(&out, FRAME_HELLO, 0, 0, buf_slice(&mine));
    frame_put(&out, FRAME_PROOF, 0, 0, slice_of(text, sizeof(text)));
    say(fd, &out);
    cr_assert(hung_up(fd));
    close(fd);
    /* a wrong proof is told why and gets none back */
    fd = dial(0);
    buf_clear(&out);
    frame_put(&out, FRAME_HELLO, 0, 0, buf_slice(&mine));
    say(fd, &out);
    cr_assert(hear(fd, &in, &f) && f.type == FRAME_HELLO);
    buf_clear(&out);
    frame_put(&out, FRAME_PROOF, 0, 0, slice_of(text, sizeof(text)));
    say(fd, &out);
    cr_assert(hear(fd, &in, &f) && f.type == FRAME_REFUSED && f.payload.len == 1 && f.payload.data[0] == REFUSAL_SECRET);
    cr_assert(hung_up(fd));
    close(fd);
    cr_assert_eq(nodes[0].got, 0);
    buf_fini(&mine);
    buf_fini(&out);
    buf_fini(&in);
    stop_nodes(2);
}

static void broken(enum bus_channel channel, const struct buf *bytes, const char *what)
{
    int fd = friendly(0, channel);

    say(fd, bytes);
    cr_assert(hung_up(fd), "%s", what);
    close(fd);
}

static void chunk(struct buf *b, uint16_t flags, uint32_t total, uint32_t at, size_t n)
{
    struct buf p = {0};

    buf_put_be32(&p, total);
    buf_put_be32(&p, at);
    memset(buf_reserve(&p, n), 'c', n);
    buf_advance(&p, n);
    frame_put(b, BUS_QUEUE_CONTROL, (uint16_t)(FRAME_CHUNK | flags), 9, buf_slice(&p));
    buf_fini(&p);
}

Test(hostile, a_proven_peer_that_breaks_the_protocol_loses_its_connection_and_nothing_else)
{
    struct node_options patient = {.heartbeat_ms = 60000}; /* or silence would end them all */
    struct buf b = {0};

    for (unsigned i = 0; i < 2; i++) {
        node_open(i, &patient);
        node_targets(i, 2u >> i, true);
        node_start(i);
    }
    wait_at_least(&nodes[1].ups, 1);
#define BROKEN(channel, what, ...)                                                                                                            \
    do {                                                                                                                                      \
        buf_clear(&b);                                                                                                                        \
        __VA_ARGS__;                                                                                                                          \
        broken(channel, &b, what);                                                                                                            \
    } while (0)
    BROKEN(BUS_CONTROL, "unknown type", frame_put(&b, 127, 0, 0, SLICE_NONE));
    BROKEN(BUS_CONTROL, "type far out", frame_put(&b, 65000, 0, 0, SLICE_NONE));
    BROKEN(BUS_CONTROL, "a type of the other channel", frame_put(&b, BUS_FETCH, 0, 1, SLICE_NONE));
    BROKEN(BUS_DATA, "a type of the other channel", frame_put(&b, BUS_RAFT, 0, 0, SLICE_NONE));
    BROKEN(BUS_CONTROL, "unknown flags", frame_put(&b, BUS_PROPOSE, 64, 1, SLICE_LIT("echo")));
    BROKEN(BUS_CONTROL, "an answer where none was asked for", frame_put(&b, BUS_PROPOSE, FRAME_REPLY, 1, SLICE_LIT("echo")));
    BROKEN(BUS_CONTROL, "a giant", buf_put_be32(&b, 0x7fffffff));
    BROKEN(BUS_CONTROL, "above the control channel's frame", buf_put_be32(&b, CONTROL_FRAME_MAX - 3));
    BROKEN(BUS_DATA, "above the data channel's frame", buf_put_be32(&b, DATA_FRAME_MAX - 3));
    BROKEN(BUS_CONTROL, "shorter than a header", buf_put_be32(&b, FRAME_AFTER_LENGTH - 1));
    BROKEN(BUS_CONTROL, "a wrong sum", frame_put(&b, BUS_PROPOSE, 0, 1, SLICE_LIT("echo")); b.data[FRAME_HEADER] ^= 1);
    BROKEN(BUS_CONTROL, "a chunk on control", frame_put(&b, BUS_PROPOSE, FRAME_CHUNK, 1, SLICE_LIT("\0\0\0\1\0\0\0\0x")));
    BROKEN(BUS_CONTROL, "LZ4 on control", frame_put(&b, BUS_PROPOSE, FRAME_LZ4, 1, SLICE_LIT("\0\0\0\1xx")));
    BROKEN(BUS_CONTROL, "a ping of the wrong size", frame_put(&b, BUS_PING, 0, 0, SLICE_LIT("1234567")));
    BROKEN(BUS_CONTROL, "a pong nobody asked for", frame_put(&b, BUS_PONG, 0, 0, SLICE_LIT("12345678")));
    BROKEN(BUS_CONTROL, "an identity that is none", frame_put(&b, BUS_IDENTITY, 0, 0, SLICE_LIT("1234")));
    BROKEN(BUS_DATA, "credit nobody needs", frame_put(&b, BUS_CREDIT, 0, 0, SLICE_LIT("\0\1\0\0\1\0")));
    BROKEN(BUS_DATA, "credit for a stream that cannot be", frame_put(&b, BUS_CREDIT, 0, 0, SLICE_LIT("\xff\1\0\0\1\0")));
    BROKEN(BUS_DATA, "a bomb", frame_put(&b, BUS_QUEUE_CONTROL, FRAME_LZ4, 1, SLICE_LIT("\x7f\xff\xff\xff\x1f\x61\x01\x00")));
    BROKEN(BUS_DATA, "no LZ4", frame_put(&b, BUS_QUEUE_CONTROL, FRAME_LZ4, 1, SLICE_LIT("\0\0\1\0garbage")));
    BROKEN(BUS_DATA, "a chunk of nothing", chunk(&b, 0, 100, 0, 0));
    BROKEN(BUS_DATA, "a chunk of a giant", chunk(&b, 0, 0xffffffff, 0, 10));
    BROKEN(BUS_DATA, "a chunk longer than its message", chunk(&b, 0, 9, 0, 10));
    BROKEN(BUS_DATA, "a chunk that does not begin at 0", chunk(&b, 0, 100, 10, 10));
    BROKEN(BUS_DATA, "a hole between chunks", chunk(&b, 0, 100, 0, 10); chunk(&b, 0, 100, 20, 10));
    BROKEN(BUS_DATA, "the same chunk twice", chunk(&b, 0, 100, 0, 10); chunk(&b, 0, 100, 0, 10));
    BROKEN(BUS_DATA, "a message that changes its length", chunk(&b, 0, 100, 0, 10); chunk(&b, 0, 101, 10, 10));
    call_ok(1, 1, BUS_PROPOSE, "echo");
    call_ok(1, 1, BUS_QUEUE_CONTROL, "echo");
    cr_assert_eq(nodes[0].got, 2);
    buf_fini(&b);
    stop_nodes(2);
}

Test(hostile, a_proven_peer_that_falls_silent_is_down_after_a_few_heartbeats)
{
    int fd;

    start_nodes(2);
    fd = friendly(0, BUS_CONTROL);
    cr_assert(hung_up(fd)); /* three heartbeats of 100 ms */
    close(fd);
    fd = friendly(0, BUS_DATA);
    cr_assert(hung_up(fd));
    close(fd);
    stop_nodes(2);
}

/* ---- a listener that accepts and says nothing: a half-open or stopped node ---- */

static int listen_somewhere(char *address, size_t size)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    cr_assert_eq(listen(fd, 16), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    snprintf(address, size, "127.0.0.1:%u", ntohs(at.sin_port));
    return fd;
}

Test(hostile, a_peer_that_accepts_and_never_answers_is_a_timeout_and_one_that_is_gone_a_refusal)
{
    char address[64];
    int fd = listen_somewhere(address, sizeof(address));
    struct bus_target t = {.address = address};
    struct result r;

    node_open(0, NULL);
    bus_set_targets(nodes[0].bus, &t, 1);
    node_start(0);
    WAIT_UNTIL(nodes[0].downs >= 1);
    cr_assert_eq(nodes[0].last_down, BUS_DOWN_TIMEOUT);
    cr_assert_eq(nodes[0].ups, 0);
    call_to_begin(&r, 0, address, BUS_PROPOSE, SLICE_LIT("echo"), 5000);
    call_wait(&r);
    cr_assert_eq(r.err, ERR_NOT_FOUND);
    close(fd);
    WAIT_UNTIL(nodes[0].last_down == BUS_DOWN_REFUSED);
    node_stop(0);
}

Test(hostile, a_name_that_does_not_exist_is_unreachable)
{
    struct bus_target t = {.address = "no-such-host.invalid:9000"};

    node_open(0, NULL);
    bus_set_targets(nodes[0].bus, &t, 1);
    node_start(0);
    WAIT_UNTIL(nodes[0].downs >= 1);
    cr_assert(nodes[0].last_down == BUS_DOWN_UNREACHABLE || nodes[0].last_down == BUS_DOWN_TIMEOUT);
    node_stop(0);
}

/* A peer that says the right things up to the proof, then lies: it does not know the secret. */
Test(hostile, an_impostor_at_a_peers_address_gets_no_messages)
{
    char address[64];
    int fd = listen_somewhere(address, sizeof(address)), c;
    struct bus_target t = {.address = address};
    struct hello h = stranger(BUS_CONTROL);
    struct buf mine = {0}, out = {0}, in = {0};
    uint8_t proof[PROOF_SIZE] = {1};
    struct frame f;

    node_open(0, NULL);
    bus_set_targets(nodes[0].bus, &t, 1);
    node_start(0);
    do {
        c = accept(fd, NULL, NULL);
        cr_assert(c >= 0);
        cr_assert(hear(c, &in, &f) && f.type == FRAME_HELLO);
        if (f.payload.data[2] == BUS_CONTROL)
            break;
        close(c);
    } while (true);
    hello_put(&mine, &h);
    frame_put(&out, FRAME_HELLO, 0, 0, buf_slice(&mine));
    say(c, &out);
    cr_assert(hear(c, &in, &f) && f.type == FRAME_PROOF);
    buf_clear(&out);
    frame_put(&out, FRAME_PROOF, 0, 0, slice_of(proof, sizeof(proof)));
    say(c, &out);
    cr_assert(hear(c, &in, &f) && f.type == FRAME_REFUSED);
    cr_assert(hung_up(c));
    WAIT_UNTIL(nodes[0].last_down == BUS_DOWN_REJECTED);
    cr_assert_eq(nodes[0].ups, 0);
    close(c);
    close(fd);
    buf_fini(&mine);
    buf_fini(&out);
    buf_fini(&in);
    node_stop(0);
}

/* ---- an old copy of a disk ---- */

static void know_epoch(struct worker *w, void *arg)
{
    struct bus_target t = {.address = nodes[1].address, .node_id = 2, .node_epoch = *(uint64_t *)arg};

    (void)w;
    memcpy(t.uuid, nodes[1].uuid, 16);
    bus_set_targets(nodes[0].bus, &t, 1);
}

static void start_anew(struct worker *w, void *arg)
{
    uint8_t cluster[16];

    (void)w;
    memset(cluster, 7, sizeof(cluster));
    bus_set_identity(nodes[1].bus, cluster, 2, *(uint64_t *)arg);
}

static bool is_refused(unsigned node)
{
    struct bus_peer_info i = {0};

    return bus_peers(nodes[node].bus, &i, 1) == 1 && !i.control_up && !i.data_up && strstr(i.refused, "older than what the cluster knows") != NULL;
}

static bool is_up(unsigned node)
{
    struct bus_peer_info i = {0};

    return bus_peers(nodes[node].bus, &i, 1) == 1 && i.control_up && i.data_up;
}

Test(hostile, a_topology_that_is_faster_than_the_word_of_who_registered_costs_no_connection)
{
    struct node_options patient = {.heartbeat_ms = 60000};
    struct bus_peer_info before = {0}, after = {0};
    uint64_t epoch = 2;

    for (unsigned i = 0; i < 2; i++)
        node_open(i, &patient);
    for (unsigned i = 0; i < 2; i++) {
        node_targets(i, 2u >> i, true);
        node_start(i);
    }
    WAIT_UNTIL(is_up(0) && is_up(1));
    bus_peers(nodes[0].bus, &before, 1);
    worker_run(workers_extra(nodes[0].ws, 0), know_epoch, &epoch);
    usleep(100000);
    worker_run(workers_extra(nodes[1].ws, 0), start_anew, &epoch);
    usleep(100000);
    bus_peers(nodes[0].bus, &after, 1);
    cr_assert(is_up(0) && is_up(1));
    cr_assert_eq(before.reconnects, after.reconnects);
    stop_nodes(2);
}

Test(hostile, a_node_on_an_old_copy_of_its_disk_is_refused_also_when_it_is_found_out_later)
{
    uint64_t epoch = 1;

    start_nodes(2); /* both of epoch 1 */
    worker_run(workers_extra(nodes[0].ws, 0), know_epoch, &epoch);
    cr_assert(is_up(0), "as old as it should be");
    epoch = 2; /* the topology tells of another start */
    worker_run(workers_extra(nodes[0].ws, 0), know_epoch, &epoch);
    WAIT_UNTIL(is_refused(0));
    WAIT_UNTIL(is_refused(1));
    /* The true disk knows of it. */
    worker_run(workers_extra(nodes[1].ws, 0), start_anew, &epoch);
    WAIT_UNTIL(is_up(0) && is_up(1));
    stop_nodes(2);
}
