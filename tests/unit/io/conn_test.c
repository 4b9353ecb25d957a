#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "harness.h"

Test(conn, lines_are_answered_whole_or_in_pieces)
{
    int fd;

    server_start(2, 0);
    fd = client_connect();
    client_say(fd, "one\ntwo\nthr");
    client_expect(fd, "one\ntwo\n");
    client_say(fd, "ee\n");
    client_expect(fd, "three\n");
    for (const char *p = "slow\n"; *p != '\0'; p++) {
        client_send(fd, p, 1);
        usleep(2000);
    }
    client_expect(fd, "slow\n");
    close(fd);
    wait_for(&server.closed, 1);
    cr_assert_eq(server.last_reason, ERR_CLOSED);
    server_stop();
}

Test(conn, a_long_line_grows_with_what_arrives_and_a_longer_one_is_refused)
{
    size_t n = 900000;
    char *line = mem_alloc(n + 200000), *back = mem_alloc(n);
    int fd;

    server_start(1, 0);
    fd = client_connect();
    memset(line, 'y', n + 200000);
    line[n - 1] = '\n';
    client_send(fd, line, n);
    cr_assert_eq(client_read(fd, back, n), n);
    cr_assert_eq(memcmp(line, back, n), 0);
    line[n - 1] = 'y';
    for (size_t i = 0; i < n + 200000; i += 50000) {
        if (send(fd, line + i, 50000, MSG_NOSIGNAL) < 0)
            break;
    }
    wait_for(&server.closed, 1);
    cr_assert_eq(server.last_reason, ERR_TOO_LARGE);
    close(fd);
    mem_free(line);
    mem_free(back);
    server_stop();
}

Test(conn, quit_flushes_and_an_error_flushes_and_both_close)
{
    int fd;

    server_start(1, 0);
    fd = client_connect();
    client_say(fd, "a\nquit\nnot read\n");
    client_expect(fd, "a\nbye\n");
    cr_assert(client_at_end(fd));
    close(fd);
    fd = client_connect();
    client_say(fd, "bad\nnot read\n");
    client_expect(fd, "error\n");
    cr_assert(client_at_end(fd));
    close(fd);
    wait_for(&server.closed, 2);
    cr_assert_eq(server.last_reason, ERR_MALFORMED);
    fd = client_connect();
    client_say(fd, "die\n");
    cr_assert(client_at_end(fd));
    close(fd);
    server_stop();
}

Test(conn, a_half_closed_client_gets_its_replies)
{
    int fd;

    server_start(1, 0);
    fd = client_connect();
    client_say(fd, "big 3000000\nlast\n");
    shutdown(fd, SHUT_WR);
    usleep(20000);
    for (unsigned i = 0; i < 3000000; i += 1000) {
        char part[1000];
        cr_assert_eq(client_read(fd, part, sizeof(part)), sizeof(part));
    }
    client_expect(fd, "last\n");
    cr_assert(client_at_end(fd));
    close(fd);
    server_stop();
}

static void resume(struct conn *c, void *arg)
{
    (void)arg;
    cr_assert_not_null(c);
    cr_assert(conn_input_paused(c));
    conn_resume_input(c);
}

Test(conn, paused_input_waits_and_comes_back_in_order)
{
    int fd;

    server_start(2, 0);
    fd = client_connect();
    client_say(fd, "1\npause\n2\n3\n");
    client_expect(fd, "1\n");
    usleep(10000);
    cr_assert_eq(server.lines, 2);
    client_say(fd, "4\npau");
    usleep(10000);
    cr_assert_eq(server.lines, 2);
    on_conn(resume, NULL);
    client_expect(fd, "2\n3\n4\n");
    client_say(fd, "se\n5\n");
    usleep(10000);
    on_conn(resume, NULL);
    client_expect(fd, "5\n");
    close(fd);
    server_stop();
}

/* ---- reading ahead ---- */

enum { AHEAD_CLIENTS = 24 };
static struct {
    const uint8_t *data;
    size_t len;
    int calls;
} foreseen[64]; /* by connection; the one worker's */
static _Atomic int foreseen_given;
static ssize_t (*line_protocol)(struct conn *c, const uint8_t *data, size_t len);
static _Atomic bool worker_goes_on;

static void foresee(struct conn *c, const uint8_t *data, size_t len, enum conn_foresight which)
{
    size_t i = c->id % ARRAY_LEN(foreseen);

    if (which == FORESEE_FIRST) {
        cr_assert_eq(foreseen[i].calls, 0);
        foreseen[i].data = data;
        foreseen[i].len = len;
    } else {
        cr_assert(foreseen[i].data == data && foreseen[i].len == len);
    }
    foreseen[i].calls++;
}

static ssize_t foreseen_input(struct conn *c, const uint8_t *data, size_t len)
{
    size_t i = c->id % ARRAY_LEN(foreseen);

    if (foreseen[i].calls != 0) {
        cr_assert(foreseen[i].calls == 2 && foreseen[i].data == data && foreseen[i].len == len);
        foreseen[i].calls = 0;
        foreseen_given++;
    }
    return line_protocol(c, data, len);
}

static void stand_still(struct worker *w, void *arg)
{
    (void)w;
    (void)arg;
    for (int i = 0; i < 10000 && !worker_goes_on; i++)
        usleep(1000);
}

static void *hold_the_worker(void *arg)
{
    workers_run_each(server.ws, stand_still, arg);
    return NULL;
}

/* Many connections are ready in one turn, among them some that end, pause, or say more or less than one small message. */
Test(conn, who_is_read_ahead_of_others_gets_the_same_bytes_in_the_same_order)
{
    static char line[9001], back[9000];
    int fd[AHEAD_CLIENTS];
    pthread_t holder;

    server.ops.foresee = foresee;
    server_start(1, 0);
    line_protocol = server.ops.input;
    server.ops.input = foreseen_input;
    memset(line, 'z', 8999);
    line[8999] = '\n';
    for (int i = 0; i < AHEAD_CLIENTS; i++) {
        fd[i] = client_connect();
        client_say(fd[i], "in\n");
        client_expect(fd[i], "in\n");
    }
    for (int round = 0; round < 3; round++) {
        worker_goes_on = false;
        cr_assert_eq(pthread_create(&holder, NULL, hold_the_worker, NULL), 0);
        usleep(20000);
        for (int i = 0; i < AHEAD_CLIENTS; i++) {
            if (i == 5)
                client_send(fd[i], line, 9000); /* more than is read ahead */
            else if (i == 9)
                client_say(fd[i], "hal");
            else if (i == 11)
                client_say(fd[i], round == 0 ? "die\nnever\n" : "");
            else
                client_say(fd[i], "one\ntwo\n");
        }
        worker_goes_on = true;
        pthread_join(holder, NULL);
        client_say(fd[9], "f\n");
        for (int i = 0; i < AHEAD_CLIENTS; i++) {
            if (i == 5) {
                cr_assert_eq(client_read(fd[i], back, 9000), 9000);
                cr_assert_eq(memcmp(line, back, 9000), 0);
            } else if (i == 9) {
                client_expect(fd[i], "half\n");
            } else if (i == 11) {
                cr_assert(client_at_end(fd[i]));
            } else {
                client_expect(fd[i], "one\ntwo\n");
            }
        }
    }
    cr_assert_gt(foreseen_given, AHEAD_CLIENTS, "most of them were read ahead");
    for (int i = 0; i < AHEAD_CLIENTS; i++)
        close(fd[i]);
    wait_for(&server.closed, AHEAD_CLIENTS);
    server_stop();
}

Test(conn, who_hangs_up_while_paused_is_noticed)
{
    int fd;

    server_start(1, 0);
    fd = client_connect();
    client_say(fd, "pause\n");
    usleep(10000);
    close(fd);
    wait_for(&server.closed, 1);
    cr_assert_eq(server.hangups, 1);
    server_stop();
}

Test(conn, a_peer_that_resets_while_paused_with_unread_input_is_noticed_within_two_seconds)
{
    struct linger linger = {1, 0};
    int fd;

    server_start(1, 0);
    fd = client_connect();
    client_say(fd, "pause\n");
    usleep(10000);
    client_say(fd, "more\n");
    usleep(10000);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    close(fd); /* a reset: what a peer's kernel sends when its process vanished */
    wait_for(&server.closed, 1);
    cr_assert_eq(server.last_reason, ERR_CLOSED);
    server_stop();
}

static uint64_t holds[3];

static void write_with_holds(struct conn *c, void *arg)
{
    (void)arg;
    conn_write(c, "0\n", 2);
    for (int i = 0; i < 3; i++) {
        char text[3] = {(char)('1' + i), '\n', 0};

        holds[i] = conn_hold(c);
        conn_write(c, text, 2);
    }
    cr_assert(conn_held(c));
}

static void release_hold(struct conn *c, void *arg)
{
    conn_hold_release(c, *(uint64_t *)arg);
}

static void nothing_came(int fd)
{
    char byte;

    usleep(10000);
    cr_assert_eq(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
    cr_assert_eq(errno, EAGAIN);
}

Test(conn, holds_open_in_any_order_and_output_leaves_in_its_own)
{
    int fd;

    server_start(1, 0);
    fd = client_connect();
    wait_for(&server.opened, 1);
    on_conn(write_with_holds, NULL);
    client_expect(fd, "0\n");
    nothing_came(fd);
    on_conn(release_hold, &holds[1]);
    nothing_came(fd);
    on_conn(release_hold, &holds[0]);
    client_expect(fd, "1\n2\n");
    nothing_came(fd);
    client_say(fd, "behind\n");
    nothing_came(fd);
    on_conn(release_hold, &holds[2]);
    client_expect(fd, "3\nbehind\n");
    close(fd);
    server_stop();
}

static void many_holds(struct conn *c, void *arg)
{
    uint64_t h[1000];

    (void)arg;
    for (int i = 0; i < 1000; i++) {
        h[i] = conn_hold(c);
        conn_write(c, "z", 1);
    }
    for (int i = 999; i >= 0; i--)
        conn_hold_release(c, h[i]);
    cr_assert(!conn_held(c));
}

Test(conn, a_thousand_holds_released_backwards)
{
    char got[1000];
    int fd;

    server_start(1, 0);
    fd = client_connect();
    wait_for(&server.opened, 1);
    on_conn(many_holds, NULL);
    cr_assert_eq(client_read(fd, got, 1000), 1000);
    close(fd);
    server_stop();
}

static _Atomic int released;

static void count_release(void *arg)
{
    (void)arg;
    released++;
}

static char borrowed[300000];
static int file_fd;

static void write_mixed(struct conn *c, void *arg)
{
    (void)arg;
    memset(borrowed, 'r', sizeof(borrowed));
    for (int i = 0; i < 3; i++) {
        conn_write(c, "head", 4);
        conn_write_file(c, file_fd, 1000, 200000, count_release, NULL);
        conn_write(c, "mid", 3);
        conn_write_ref(c, borrowed, sizeof(borrowed), count_release, NULL);
    }
    conn_write_ref(c, borrowed, 0, count_release, NULL);
}

Test(conn, memory_borrowed_memory_and_files_leave_in_order)
{
    char path[] = "/tmp/gomsg-unit-XXXXXX";
    char *file = mem_alloc(300000), *got = mem_alloc(300000);
    int fd;

    file_fd = mkstemp(path);
    for (int i = 0; i < 300000; i++)
        file[i] = (char)(i * 31 >> 3);
    cr_assert_eq(file_pwrite_all(file_fd, file, 300000, 0), 0);
    unlink(path);
    server_start(1, 0);
    fd = client_connect();
    wait_for(&server.opened, 1);
    on_conn(write_mixed, NULL);
    for (int i = 0; i < 3; i++) {
        client_expect(fd, "head");
        cr_assert_eq(client_read(fd, got, 200000), 200000);
        cr_assert_eq(memcmp(got, file + 1000, 200000), 0);
        client_expect(fd, "mid");
        cr_assert_eq(client_read(fd, got, 300000), 300000);
        cr_assert_eq(memcmp(got, borrowed, 300000), 0);
    }
    wait_for(&released, 7);
    close(fd);
    server_stop();
    cr_assert_eq(released, 7);
    mem_free(file);
    mem_free(got);
    close(file_fd);
}

static void write_beyond_file(struct conn *c, void *arg)
{
    (void)arg;
    conn_write_file(c, file_fd, 0, 1000, count_release, NULL);
    conn_write_ref(c, borrowed, 10, count_release, NULL);
}

Test(conn, a_file_shorter_than_promised_ends_the_connection_and_everything_is_released)
{
    char path[] = "/tmp/gomsg-unit-XXXXXX";
    int fd;

    file_fd = mkstemp(path);
    cr_assert_eq(file_pwrite_all(file_fd, "short", 5, 0), 0);
    unlink(path);
    server_start(1, 0);
    fd = client_connect();
    wait_for(&server.opened, 1);
    on_conn(write_beyond_file, NULL);
    client_expect(fd, "short");
    cr_assert(client_at_end(fd));
    wait_for(&server.closed, 1);
    cr_assert_eq(server.last_reason, ERR_IO);
    cr_assert_eq(released, 2);
    close(fd);
    server_stop();
}

static void check_full(struct conn *c, void *arg)
{
    *(bool *)arg = conn_output_full(c);
    if (conn_output_full(c))
        cr_assert(conn_output_pending(c) > 1 << 20);
}

Test(conn, a_client_that_does_not_read_is_full_then_writable_again)
{
    char *sink = mem_alloc(20000000);
    bool full = false;
    int fd;

    server_start(1, 0);
    fd = client_connect();
    client_say(fd, "big 20000000\n");
    wait_for(&server.opened, 1);
    usleep(50000);
    on_conn(check_full, &full);
    cr_assert(full);
    cr_assert_eq(client_read(fd, sink, 20000000), 20000000);
    wait_for(&server.writables, 1);
    on_conn(check_full, &full);
    cr_assert(!full);
    client_say(fd, "still here\n");
    client_expect(fd, "still here\n");
    close(fd);
    mem_free(sink);
    server_stop();
}

Test(conn, a_client_that_never_reads_costs_a_bounded_amount)
{
    size_t before;
    int fd;

    server.ops.output_soft_max = 1 << 20;
    server.ops.output_hard_max = 8 << 20;
    server_start(1, 0);
    fd = client_connect();
    before = mem_rss();
    for (int i = 0; i < 200 && server.closed == 0; i++) {
        if (send(fd, "big 1000000\n", 12, MSG_NOSIGNAL) < 0)
            break;
        usleep(1000);
    }
    wait_for(&server.closed, 1);
    cr_assert_eq(server.last_reason, ERR_LIMIT);
    cr_assert_lt(mem_rss() - before, 40 << 20);
    close(fd);
    /* One huge reply is cut too, in the middle of being written. */
    fd = client_connect();
    client_say(fd, "big 900000000\n");
    wait_for(&server.closed, 2);
    cr_assert_lt(mem_rss() - before, 40 << 20);
    close(fd);
    server_stop();
}

static void abort_it(struct conn *c, void *arg)
{
    (void)arg;
    conn_abort(c, ERR_TIMEOUT);
    conn_write(c, "into the void", 13);
    conn_write_ref(c, borrowed, 10, count_release, NULL);
    conn_pause_input(c);
    conn_resume_input(c);
    cr_assert(conn_closing(c));
    cr_assert_eq(conn_output_pending(c), 0);
    cr_assert_null(worker_find_conn(c->worker, c->id));
}

static void expect_none(struct conn *c, void *arg)
{
    (void)arg;
    cr_assert_null(c);
}

Test(conn, an_aborted_connection_takes_calls_until_the_turn_ends)
{
    int fd;

    server_start(2, 0);
    fd = client_connect();
    wait_for(&server.opened, 1);
    on_conn(abort_it, NULL);
    cr_assert(client_at_end(fd));
    wait_for(&server.closed, 1);
    cr_assert_eq(server.last_reason, ERR_TIMEOUT);
    cr_assert_eq(released, 1);
    on_conn(expect_none, NULL);
    close(fd);
    server_stop();
}

Test(conn, ticks_come_once_a_second)
{
    int fd;

    server_start(1, 0);
    fd = client_connect();
    wait_for(&server.opened, 1);
    usleep(2500000);
    cr_assert(server.ticks >= 2 && server.ticks <= 3, "%d ticks in 2.5 s", server.ticks);
    close(fd);
    server_stop();
}

static void texts(struct conn *c, void *arg)
{
    char peer[64], local[64];

    (void)arg;
    conn_peer_text(c, peer, sizeof(peer));
    conn_local_text(c, local, sizeof(local));
    cr_assert_eq(strncmp(peer, "127.0.0.1:", 10), 0, "%s", peer);
    cr_assert_str_eq(local, listener_address(server.l));
    cr_assert(conn_peer_is_loopback(c));
    cr_assert_eq(listener_connections(server.l), 1);
}

Test(conn, it_knows_both_ends)
{
    int fd;

    server_start(1, 0);
    fd = client_connect();
    wait_for(&server.opened, 1);
    on_conn(texts, NULL);
    close(fd);
    wait_for(&server.closed, 1);
    server_stop();
}

static void adopt(struct worker *w, void *arg)
{
    cr_assert_eq(conn_adopt(w, *(int *)arg, &server.ops, NULL, NULL), 0);
}

Test(conn, a_socketpair_can_be_adopted)
{
    int pair[2];

    server_start(1, 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    workers_run_each(server.ws, adopt, &pair[0]);
    client_send(pair[1], "hello\n", 6);
    for (int i = 0; i < 1000 && server.lines == 0; i++)
        usleep(1000);
    usleep(5000);
    client_expect(pair[1], "hello\n");
    close(pair[1]);
    wait_for(&server.closed, 1);
    server_stop();
}

struct taken {
    int fd;
    _Atomic int done;
};

static void take_it(struct conn *c, void *arg)
{
    struct taken *t = arg;

    if (c == NULL)
        return;
    t->fd = conn_take_socket(c);
    t->done = 1;
}

static void adopt_on_second(struct worker *w, void *arg)
{
    if (worker_index(w) == 1)
        adopt(w, arg);
}

Test(conn, its_socket_moves_to_another_worker_and_the_peer_notices_nothing)
{
    struct taken t = {.fd = -1};
    int fd;

    server_start(2, 0);
    fd = client_connect();
    client_say(fd, "here\n");
    client_expect(fd, "here\n");
    on_conn(take_it, &t);
    wait_for(&t.done, 1);
    cr_assert_geq(t.fd, 0);
    wait_for(&server.closed, 1); /* the connection ended, */
    cr_assert_eq(server.last_reason, ERR_CANCELLED);
    client_say(fd, "on the way\n"); /* the socket did not: what comes meanwhile waits in it */
    workers_run_each(server.ws, adopt_on_second, &t.fd);
    client_expect(fd, "on the way\n");
    client_say(fd, "there\n");
    client_expect(fd, "there\n");
    cr_assert_eq(server.opened, 2);
    close(fd);
    wait_for(&server.closed, 2);
    server_stop();
}
