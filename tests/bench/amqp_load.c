/*
 * Load for an AMQP 0-9-1 broker over raw sockets: one publisher and one consumer connection, one queue, one
 * thread.
 *
 *   amqp_load HOST PORT [size=16] [write=1] [ack=1] [window=5000] [persistent=0] [confirm=0] [prefetch=500]
 * [rate=0] [seconds=5]
 *
 * write: messages in one send; ack: deliveries acknowledged by one basic.ack (multiple when above 1), each
 * ack a send of its own; window: most messages published and not yet delivered; confirm: publish so many,
 * then wait for all their confirms; rate: messages a second, latencies then count from the intended time of
 * sending; 0 is as fast as it goes. Prints one line of JSON. A client library needs several sends a message
 * and would be what is measured.
 */
#include "tests/bench/load.h"

#define FRAME_MAX 131072
#define BURST 64 /* sends before the sockets are read again */

static double size_o = 16, write_o = 1, ack_o = 1, window_o = 5000, persistent_o = 0, confirm_o = 0,
              prefetch_o = 500, rate_o = 0, seconds_o = 5;
static const struct option_row rows[] = {
    {"size", &size_o},
    {"write", &write_o},
    {"ack", &ack_o},
    {"window", &window_o},
    {"persistent", &persistent_o},
    {"confirm", &confirm_o},
    {"prefetch", &prefetch_o},
    {"rate", &rate_o},
    {"seconds", &seconds_o},
};

static char queue[64];

/* ---- frames ---- */

struct out {
    uint8_t b[1024];
    size_t n;
};

static void put8(struct out *o, unsigned v)
{
    o->b[o->n++] = (uint8_t)v;
}
static void put16(struct out *o, unsigned v)
{
    be16_put(o->b + o->n, (uint16_t)v);
    o->n += 2;
}
static void put32(struct out *o, uint32_t v)
{
    be32_put(o->b + o->n, v);
    o->n += 4;
}
static void put_short(struct out *o, const char *s)
{
    put8(o, (unsigned)strlen(s));
    memcpy(o->b + o->n, s, strlen(s));
    o->n += strlen(s);
}
static void begin_method(struct out *o, unsigned channel, unsigned class_id, unsigned method_id)
{
    o->n = 0;
    put8(o, 1);
    put16(o, channel);
    put32(o, 0);
    put16(o, class_id);
    put16(o, method_id);
}
static void end_frame(struct out *o)
{
    be32_put(o->b + 3, (uint32_t)(o->n - 7));
    put8(o, 0xCE);
}

struct in {
    int fd;
    uint8_t *b;
    size_t start, end, room;
};

static void in_init(struct in *in, int fd)
{
    *in = (struct in){.fd = fd, .room = 4 << 20, .b = malloc(4 << 20)};
}

/* Reads what is there; false when nothing was. */
static bool in_fill(struct in *in, bool wait)
{
    ssize_t n;

    if (in->start > 0) {
        memmove(in->b, in->b + in->start, in->end - in->start);
        in->end -= in->start;
        in->start = 0;
    }
    n = recv(in->fd, in->b + in->end, in->room - in->end, wait ? 0 : MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0)
        die("the server closed the connection");
    in->end += (size_t)n;
    return true;
}

struct frame {
    unsigned type, channel;
    const uint8_t *p;
    size_t len;
};

static bool in_frame(struct in *in, struct frame *f)
{
    size_t have = in->end - in->start;
    uint8_t *h = in->b + in->start;

    if (have < 8)
        return false;
    f->len = be32_get(h + 3);
    if (have < f->len + 8)
        return false;
    f->type = h[0];
    f->channel = be16_get(h + 1);
    f->p = h + 7;
    if (h[7 + f->len] != 0xCE)
        die("a frame does not end with 0xCE");
    in->start += f->len + 8;
    if (f->type == 1) {
        unsigned c = be16_get(f->p), m = be16_get(f->p + 2);

        if ((c == 10 && m == 50) || (c == 20 && m == 40))
            die("closed by the server: %u %.*s", be16_get(f->p + 4), f->p[6], (const char *)f->p + 7);
    }
    return true;
}

/* Waits for one method; returns its arguments. */
static const uint8_t *expect(struct in *in, unsigned class_id, unsigned method_id)
{
    struct frame f;

    for (;;) {
        while (!in_frame(in, &f))
            in_fill(in, true);
        if (f.type == 8)
            continue;
        if (f.type != 1 || be16_get(f.p) != class_id || be16_get(f.p + 2) != method_id)
            die("expected method %u.%u, got frame type %u with %u.%u", class_id, method_id, f.type,
                be16_get(f.p), be16_get(f.p + 2));
        return f.p + 4;
    }
}

static void open_connection(struct in *in, const char *host, int port)
{
    struct out o;

    in_init(in, tcp_connect(host, port));
    send_all(in->fd, "AMQP\0\0\11\1", 8);
    expect(in, 10, 10);
    begin_method(&o, 0, 10, 11);
    put32(&o, 0);
    put_short(&o, "PLAIN");
    put32(&o, 12);
    memcpy(o.b + o.n, "\0guest\0guest", 12);
    o.n += 12;
    put_short(&o, "en_US");
    end_frame(&o);
    send_all(in->fd, o.b, o.n);
    expect(in, 10, 30);
    begin_method(&o, 0, 10, 31);
    put16(&o, 2047);
    put32(&o, FRAME_MAX);
    put16(&o, 0);
    end_frame(&o);
    send_all(in->fd, o.b, o.n);
    begin_method(&o, 0, 10, 40);
    put_short(&o, "/");
    put8(&o, 0);
    put8(&o, 0);
    end_frame(&o);
    send_all(in->fd, o.b, o.n);
    expect(in, 10, 41);
    begin_method(&o, 1, 20, 10);
    put8(&o, 0);
    end_frame(&o);
    send_all(in->fd, o.b, o.n);
    expect(in, 20, 11);
}

static void declare_queue(struct in *in)
{
    struct out o;

    begin_method(&o, 1, 50, 10);
    put16(&o, 0);
    put_short(&o, queue);
    put8(&o, persistent_o != 0 ? 2 : 0);
    put32(&o, 0);
    end_frame(&o);
    send_all(in->fd, o.b, o.n);
    expect(in, 50, 11);
}

static void start_consumer(struct in *in)
{
    struct out o;

    begin_method(&o, 1, 60, 10);
    put32(&o, 0);
    put16(&o, (unsigned)prefetch_o);
    put8(&o, 0);
    end_frame(&o);
    send_all(in->fd, o.b, o.n);
    expect(in, 60, 11);
    begin_method(&o, 1, 60, 20);
    put16(&o, 0);
    put_short(&o, queue);
    put_short(&o, "load");
    put8(&o, 0);
    put32(&o, 0);
    end_frame(&o);
    send_all(in->fd, o.b, o.n);
    expect(in, 60, 21);
}

static void delete_queue(struct in *in)
{
    struct out o;

    begin_method(&o, 1, 50, 40);
    put16(&o, 0);
    put_short(&o, queue);
    put8(&o, 0);
    end_frame(&o);
    send_all(in->fd, o.b, o.n);
    expect(in, 50, 41);
}

/* ---- the messages ---- */

static uint8_t *unit; /* write_o messages, ready to send but for their times */
static size_t message_len, body_at;

static void build_unit(void)
{
    struct out o;
    size_t body = (size_t)size_o, n = (size_t)write_o;

    begin_method(&o, 1, 60, 40);
    put16(&o, 0);
    put_short(&o, "");
    put_short(&o, queue);
    put8(&o, 0);
    end_frame(&o);
    {
        size_t at = o.n;

        put8(&o, 2);
        put16(&o, 1);
        put32(&o, 0);
        put16(&o, 60);
        put16(&o, 0);
        put32(&o, 0);
        put32(&o, (uint32_t)body);
        put16(&o, 1 << 12); /* delivery-mode */
        put8(&o, persistent_o != 0 ? 2 : 1);
        be32_put(o.b + at + 3, (uint32_t)(o.n - at - 7));
        put8(&o, 0xCE);
    }
    put8(&o, 3);
    put16(&o, 1);
    put32(&o, (uint32_t)body);
    body_at = o.n;
    message_len = o.n + body + 1;
    unit = malloc(message_len * n);
    for (size_t i = 0; i < n; i++) {
        uint8_t *m = unit + i * message_len;

        memcpy(m, o.b, o.n);
        memset(m + body_at, 'x', body);
        m[message_len - 1] = 0xCE;
    }
}

static struct in pub, con;
static uint64_t published, confirmed, delivered, acked_to, last_tag;
static struct hist latency;
static bool body_next;

static void send_ack(uint64_t tag, bool multiple)
{
    struct out o;

    begin_method(&o, 1, 60, 80);
    put32(&o, (uint32_t)(tag >> 32));
    put32(&o, (uint32_t)tag);
    put8(&o, multiple);
    end_frame(&o);
    send_all(con.fd, o.b, o.n);
    acked_to = tag;
}

static void take_deliveries(void)
{
    struct frame f;

    while (in_frame(&con, &f)) {
        if (f.type == 1 && be16_get(f.p) == 60 && be16_get(f.p + 2) == 60) {
            last_tag = be64_get(f.p + 5 + f.p[4]);
            body_next = true;
        } else if (f.type == 3) {
            if (body_next) {
                hist_add(&latency, clock_mono_ns() - be64_get(f.p));
                body_next = false;
                delivered++;
                if (ack_o <= 1)
                    send_ack(last_tag, false);
                else if (last_tag - acked_to >= (uint64_t)ack_o)
                    send_ack(last_tag, true);
            }
        }
    }
}

static void take_confirms(void)
{
    struct frame f;

    while (in_frame(&pub, &f)) {
        if (f.type == 1 && be16_get(f.p) == 60 && be16_get(f.p + 2) == 80)
            confirmed = (f.p[12] & 1) ? be64_get(f.p + 4) : confirmed + 1;
        else if (f.type == 1 && be16_get(f.p) == 60 && be16_get(f.p + 2) == 120)
            die("a publish was refused (basic.nack)");
    }
}

int main(int argc, char **argv)
{
    uint64_t start, end, now, step, last_progress;
    uint64_t n_write;
    double seconds;

    if (argc < 3)
        die("usage: amqp_load HOST PORT [name=number]...");
    parse_options(argc, argv, 3, rows, sizeof(rows) / sizeof(rows[0]));
    if (size_o < 8 || size_o > FRAME_MAX - 8 || write_o < 1)
        die("size must be 8 to %d, write at least 1", FRAME_MAX - 8);
    n_write = (uint64_t)write_o;
    snprintf(queue, sizeof(queue), "load-%d", (int)getpid());
    open_connection(&pub, argv[1], atoi(argv[2]));
    open_connection(&con, argv[1], atoi(argv[2]));
    declare_queue(&pub);
    if (confirm_o > 0) {
        struct out o;

        begin_method(&o, 1, 85, 10);
        put8(&o, 0);
        end_frame(&o);
        send_all(pub.fd, o.b, o.n);
        expect(&pub, 85, 11);
    }
    start_consumer(&con);
    build_unit();

    start = now = clock_mono_ns();
    last_progress = start;
    end = start + (uint64_t)(seconds_o * 1e9);
    step = rate_o > 0 ? (uint64_t)(1e9 * (double)n_write / rate_o) : 0;
    for (;;) {
        uint64_t before = delivered + confirmed;
        bool idle = true;
        struct pollfd p[2] = {{.fd = con.fd, .events = POLLIN}, {.fd = pub.fd, .events = POLLIN}};

        for (int i = 0; i < BURST && now < end; i++) {
            uint64_t stamp = now;

            if (published + n_write > delivered + (uint64_t)window_o)
                break;
            /* A batch of confirms: the next one starts when the last one is whole. */
            if (confirm_o > 0 && published - confirmed >= (uint64_t)confirm_o)
                break;
            if (confirm_o > 0 && published % (uint64_t)confirm_o == 0 && confirmed < published)
                break;
            if (step) {
                stamp = start + published / n_write * step;
                if (stamp > now)
                    break;
            } else {
                stamp = now = clock_mono_ns();
            }
            for (uint64_t k = 0; k < n_write; k++)
                be64_put(unit + k * message_len + body_at, stamp);
            send_all(pub.fd, unit, message_len * n_write);
            published += n_write;
            idle = false;
        }
        if (confirm_o > 0 && in_fill(&pub, false))
            take_confirms();
        if (in_fill(&con, false))
            take_deliveries();
        now = clock_mono_ns();
        if (delivered + confirmed != before) {
            last_progress = now;
            idle = false;
        }
        if (now >= end && delivered >= published && (confirm_o == 0 || confirmed >= published))
            break;
        if (now > last_progress + 10000000000ull)
            die("nothing came for 10 s: published %llu, delivered %llu, confirmed %llu",
                (unsigned long long)published, (unsigned long long)delivered, (unsigned long long)confirmed);
        if (idle) {
            struct timespec wait = {.tv_nsec = 1000000};

            if (step) {
                uint64_t next = start + published / n_write * step;

                wait.tv_nsec = next > now ? (long)(next - now) : 0;
                if (wait.tv_nsec > 1000000)
                    wait.tv_nsec = 1000000;
            }
            ppoll(p, confirm_o > 0 ? 2 : 1, &wait, NULL);
            now = clock_mono_ns();
        }
    }
    seconds = (double)(now - start) / 1e9;
    if (last_tag > acked_to)
        send_ack(last_tag, true);
    delete_queue(&con);
    printf("{\"operations\": %llu, \"seconds\": %.3f, \"rate\": %.0f", (unsigned long long)delivered, seconds,
           (double)delivered / seconds);
    if (step || confirm_o > 0) /* otherwise the time in the queue depends on `window` alone */
        hist_print(&latency);
    puts("}");
    return 0;
}
