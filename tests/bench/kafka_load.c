/*
 * Load for a Kafka broker over raw sockets: one connection produces, one fetches, one thread.
 *
 *   kafka_load HOST PORT [record=1024] [batch=65536] [partitions=4] [depth=5] [acks=1] [window=64] [fetch=1]
 * [seconds=5] [mb=0]
 *
 * Produce v7 with one batch (format v2, uncompressed, made once: the CRC does not cover what the broker
 * writes) a request, `depth` requests in flight, partitions in turn; Fetch v11 of all partitions, one request
 * in flight, as clients do by default (min 1 byte, 500 ms, 1 MiB a partition). window: most MiB produced and
 * not yet fetched; mb: stop after so many MiB. Prints one line of JSON: operations are MiB produced and
 * fetched.
 */
#include <time.h>

#include "base/crc32c.h"
#include "tests/bench/load.h"

static double record_o = 1024, batch_o = 65536, partitions_o = 4, depth_o = 5, acks_o = 1, window_o = 64,
              fetch_o = 1, seconds_o = 5, mb_o = 0;
static const struct option_row rows[] = {
    {"record", &record_o}, {"batch", &batch_o},     {"partitions", &partitions_o},
    {"depth", &depth_o},   {"acks", &acks_o},       {"window", &window_o},
    {"fetch", &fetch_o},   {"seconds", &seconds_o}, {"mb", &mb_o},
};

#define MAX_PARTITIONS 64
#define MAX_DEPTH 64

static char topic[64];
static int n_partitions;

/* ---- requests ---- */

struct out {
    uint8_t *b;
    size_t n;
};

static void put8(struct out *o, int v)
{
    o->b[o->n++] = (uint8_t)v;
}
static void put16(struct out *o, int v)
{
    be16_put(o->b + o->n, (uint16_t)v);
    o->n += 2;
}
static void put32(struct out *o, int64_t v)
{
    be32_put(o->b + o->n, (uint32_t)v);
    o->n += 4;
}
static void put64(struct out *o, int64_t v)
{
    be64_put(o->b + o->n, (uint64_t)v);
    o->n += 8;
}
static void put_str(struct out *o, const char *s)
{
    put16(o, (int)strlen(s));
    memcpy(o->b + o->n, s, strlen(s));
    o->n += strlen(s);
}
static void begin(struct out *o, int api, int version, int correlation)
{
    o->n = 0;
    put32(o, 0);
    put16(o, api);
    put16(o, version);
    put32(o, correlation);
    put_str(o, "load");
}
static void finish(struct out *o)
{
    be32_put(o->b, (uint32_t)(o->n - 4));
}

/* A batch v2 of `count` records with a value of record_o bytes and no key; returns its length. */
static size_t build_batch(uint8_t *out, int count)
{
    struct out o = {.b = out};
    int64_t now = (int64_t)time(NULL) * 1000;
    size_t value = (size_t)record_o;

    put64(&o, 0);         /* base offset */
    put32(&o, 0);         /* length, below */
    put32(&o, -1);        /* leader epoch */
    put8(&o, 2);          /* magic */
    put32(&o, 0);         /* crc, below */
    put16(&o, 0);         /* attributes */
    put32(&o, count - 1); /* last offset delta */
    put64(&o, now);
    put64(&o, now);
    put64(&o, -1);
    put16(&o, -1);
    put32(&o, -1);
    put32(&o, count);
    for (int i = 0; i < count; i++) {
        uint8_t body[64];
        size_t n = 0;

        body[n++] = 0;                                /* attributes */
        body[n++] = 0;                                /* timestamp delta */
        n += uvarint_put(body + n, (uint64_t)i << 1); /* offset delta, zigzag */
        body[n++] = 1;                                /* key: null (-1, zigzag) */
        n += uvarint_put(body + n, (uint64_t)value << 1);
        o.n += uvarint_put(o.b + o.n, (uint64_t)(n + value + 1) << 1);
        memcpy(o.b + o.n, body, n);
        o.n += n;
        for (size_t k = 0; k < value; k++)
            o.b[o.n++] = (uint8_t)(k * 131 + (size_t)i * 7);
        put8(&o, 0); /* headers */
    }
    be32_put(o.b + 8, (uint32_t)(o.n - 12));
    be32_put(o.b + 17, crc32c(0, o.b + 21, o.n - 21));
    return o.n;
}

/* ---- answers ---- */

struct in {
    int fd;
    uint8_t *b;
    size_t n, room;
};

static bool in_fill(struct in *in, int flags)
{
    ssize_t n = recv(in->fd, in->b + in->n, in->room - in->n, flags);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0)
        die("the server closed the connection");
    in->n += (size_t)n;
    return true;
}

/* Length of the whole answer at the front, or 0 when it is not all there. */
static size_t in_answer(struct in *in)
{
    size_t len;

    if (in->n < 4)
        return 0;
    len = (size_t)be32_get(in->b) + 4;
    if (len > in->room) {
        in->b = realloc(in->b, len);
        in->room = len;
    }
    return in->n >= len ? len : 0;
}

static void in_drop(struct in *in, size_t len)
{
    memmove(in->b, in->b + len, in->n - len);
    in->n -= len;
}

struct reader {
    const uint8_t *p, *end;
};

static int64_t get(struct reader *r, int bytes)
{
    int64_t v = bytes == 1   ? (int8_t)r->p[0]
                : bytes == 2 ? (int16_t)be16_get(r->p)
                : bytes == 4 ? (int32_t)be32_get(r->p)
                             : (int64_t)be64_get(r->p);

    r->p += bytes;
    if (r->p > r->end)
        die("an answer is cut short");
    return v;
}
static void skip_str(struct reader *r)
{
    int64_t n = get(r, 2);

    if (n > 0)
        r->p += n;
}

/* Asks for the topic until every partition has a leader. */
static void make_topic(struct in *in)
{
    uint8_t buf[512];
    struct out o = {.b = buf};

    for (int try = 0; try < 100; try++) {
        struct reader r;
        size_t len;
        int64_t n, ready = 0, total = 0;

        begin(&o, 3, 4, 1);
        put32(&o, 1);
        put_str(&o, topic);
        put8(&o, 1);
        finish(&o);
        send_all(in->fd, o.b, o.n);
        while ((len = in_answer(in)) == 0)
            in_fill(in, 0);
        r = (struct reader){in->b + 8, in->b + len};
        get(&r, 4); /* throttle */
        n = get(&r, 4);
        for (int64_t i = 0; i < n; i++) {
            get(&r, 4);
            skip_str(&r);
            get(&r, 4);
            skip_str(&r);
        }
        skip_str(&r); /* cluster id */
        get(&r, 4);   /* controller */
        n = get(&r, 4);
        for (int64_t i = 0; i < n; i++) {
            get(&r, 2);
            skip_str(&r);
            get(&r, 1);
            total = get(&r, 4);
            for (int64_t k = 0; k < total; k++) {
                int64_t e = get(&r, 2);

                get(&r, 4);
                ready += get(&r, 4) >= 0 && e == 0;
                r.p += 4 * get(&r, 4);
                r.p += 4 * get(&r, 4);
            }
        }
        in_drop(in, len);
        if (total > 0 && ready == total) {
            n_partitions = (int)(total < partitions_o ? total : partitions_o);
            return;
        }
        usleep(100000);
    }
    die("the topic got no leaders");
}

/* A broker's metadata may run ahead of the broker: waits until each partition answers ListOffsets without an error. */
static void wait_for_leaders(struct in *in)
{
    uint8_t buf[8192];
    struct out o = {.b = buf};

    for (int try = 0; try < 100; try++) {
        struct reader r;
        size_t len;
        int64_t errors = 0, n;

        begin(&o, 2, 1, 1);
        put32(&o, -1);
        put32(&o, 1);
        put_str(&o, topic);
        put32(&o, n_partitions);
        for (int p = 0; p < n_partitions; p++) {
            put32(&o, p);
            put64(&o, -1);
        }
        finish(&o);
        send_all(in->fd, o.b, o.n);
        while ((len = in_answer(in)) == 0)
            in_fill(in, 0);
        r = (struct reader){in->b + 8, in->b + len};
        get(&r, 4);
        skip_str(&r);
        for (n = get(&r, 4); n > 0; n--) {
            get(&r, 4);
            errors += get(&r, 2) != 0;
            get(&r, 8);
            get(&r, 8);
        }
        in_drop(in, len);
        if (errors == 0)
            return;
        usleep(50000);
    }
    die("the partitions do not answer");
}

static struct in pro, con;
static uint64_t produced, fetched; /* bytes of batches */
static uint64_t window;
static struct hist produce_latency;
static uint64_t sent_at[MAX_DEPTH];
static unsigned in_flight, sent, answered;
static int64_t next_offset[MAX_PARTITIONS];
static bool fetching;

static void send_produce(uint8_t *request, size_t len, size_t partition_at, size_t batch_len)
{
    be32_put(request + 8, sent);
    be32_put(request + partition_at, sent % (unsigned)n_partitions);
    sent_at[sent % MAX_DEPTH] = clock_mono_ns();
    sent++;
    send_all(pro.fd, request, len);
    if (acks_o != 0)
        in_flight++;
    else
        answered++;
    produced += batch_len;
}

static void take_produce_answers(void)
{
    size_t len;

    while ((len = in_answer(&pro)) > 0) {
        struct reader r = {pro.b + 8, pro.b + len};

        get(&r, 4);
        skip_str(&r);
        get(&r, 4);
        get(&r, 4);
        if (get(&r, 2) != 0)
            die("produce was refused with error %d", (int16_t)be16_get(r.p - 2));
        hist_add(&produce_latency, clock_mono_ns() - sent_at[answered % MAX_DEPTH]);
        answered++;
        in_flight--;
        in_drop(&pro, len);
    }
}

static void send_fetch(void)
{
    static uint8_t buf[8192];
    struct out o = {.b = buf};

    begin(&o, 1, 11, 7);
    put32(&o, -1);
    put32(&o, 500);
    put32(&o, 1);
    put32(&o, 50 << 20);
    put8(&o, 0);
    put32(&o, 0);
    put32(&o, -1);
    put32(&o, 1);
    put_str(&o, topic);
    put32(&o, n_partitions);
    for (int p = 0; p < n_partitions; p++) {
        put32(&o, p);
        put32(&o, -1);
        put64(&o, next_offset[p]);
        put64(&o, -1);
        put32(&o, 1 << 20);
    }
    put32(&o, 0);
    put_str(&o, "");
    finish(&o);
    send_all(con.fd, o.b, o.n);
    fetching = true;
}

static void take_fetch_answer(void)
{
    size_t len = in_answer(&con);
    struct reader r;
    int64_t topics;

    if (len == 0)
        return;
    r = (struct reader){con.b + 8, con.b + len};
    get(&r, 4);
    if (get(&r, 2) != 0)
        die("fetch was refused with error %d", (int16_t)be16_get(r.p - 2));
    get(&r, 4);
    topics = get(&r, 4);
    while (topics-- > 0) {
        int64_t n;

        skip_str(&r);
        n = get(&r, 4);
        while (n-- > 0) {
            int64_t p = get(&r, 4), bytes, aborted;
            const uint8_t *end;

            if (get(&r, 2) != 0)
                die("fetch of partition %d failed with error %d", (int)p, (int16_t)be16_get(r.p - 2));
            get(&r, 8);
            get(&r, 8);
            get(&r, 8);
            aborted = get(&r, 4);
            if (aborted > 0)
                r.p += 16 * aborted;
            get(&r, 4);
            bytes = get(&r, 4);
            if (bytes < 0)
                bytes = 0;
            end = r.p + bytes;
            while (end - r.p >= 61) {
                size_t batch = (size_t)be32_get(r.p + 8) + 12;
                int64_t base = (int64_t)be64_get(r.p);

                if ((size_t)(end - r.p) < batch)
                    break;
                if (base + (int64_t)be32_get(r.p + 23) < next_offset[p])
                    die("partition %d: offset %lld came again", (int)p, (long long)base);
                next_offset[p] = base + (int64_t)be32_get(r.p + 23) + 1;
                fetched += batch;
                r.p += batch;
            }
            r.p = end;
        }
    }
    in_drop(&con, len);
    fetching = false;
}

int main(int argc, char **argv)
{
    int count;
    uint8_t *request;
    struct out o;
    size_t batch_len, partition_at;
    uint64_t start, end, now, last_progress, mib = 1 << 20;
    double seconds;

    if (argc < 3)
        die("usage: kafka_load HOST PORT [name=number]...");
    parse_options(argc, argv, 3, rows, sizeof(rows) / sizeof(rows[0]));
    if (depth_o < 1 || depth_o > MAX_DEPTH || partitions_o < 1 || partitions_o > MAX_PARTITIONS)
        die("depth is 1 to %d, partitions 1 to %d", MAX_DEPTH, MAX_PARTITIONS);
    count = (int)((batch_o - 61) / (record_o + 10));
    if (count < 1)
        count = 1;
    window = (uint64_t)window_o << 20;
    snprintf(topic, sizeof(topic), "load-%d", (int)getpid());
    pro = (struct in){.fd = tcp_connect(argv[1], atoi(argv[2])), .b = malloc(1 << 20), .room = 1 << 20};
    con = (struct in){.fd = tcp_connect(argv[1], atoi(argv[2])), .b = malloc(8 << 20), .room = 8 << 20};
    make_topic(&pro);
    wait_for_leaders(&pro);

    request = malloc((size_t)(batch_o + record_o) * 2 + 4096);
    o = (struct out){.b = request};
    begin(&o, 0, 7, 0);
    put16(&o, -1); /* no transactional id */
    put16(&o, (int)acks_o);
    put32(&o, 30000);
    put32(&o, 1);
    put_str(&o, topic);
    put32(&o, 1);
    partition_at = o.n;
    put32(&o, 0);
    put32(&o, 0);
    batch_len = build_batch(o.b + o.n, count);
    be32_put(o.b + o.n - 4, (uint32_t)batch_len);
    o.n += batch_len;
    finish(&o);

    start = now = last_progress = clock_mono_ns();
    end = start + (uint64_t)(seconds_o * 1e9);
    for (;;) {
        bool more = now < end && (mb_o == 0 || produced < (uint64_t)mb_o * mib);
        uint64_t before = fetched + answered;
        bool can_send = false;
        struct pollfd p[2] = {{.fd = pro.fd, .events = POLLIN}, {.fd = con.fd, .events = POLLIN}};

        if (fetch_o != 0 && !fetching && fetched < produced)
            send_fetch();
        if (more && in_flight < (unsigned)depth_o && (fetch_o == 0 || produced - fetched < window)) {
            send_produce(request, o.n, partition_at, batch_len);
            can_send = in_flight < (unsigned)depth_o;
        }
        if (in_flight > 0 && in_fill(&pro, MSG_DONTWAIT))
            take_produce_answers();
        if (fetching && in_fill(&con, MSG_DONTWAIT))
            take_fetch_answer();
        now = clock_mono_ns();
        if (fetched + answered != before)
            last_progress = now;
        if (!more && in_flight == 0 && (fetch_o == 0 || fetched >= produced))
            break;
        if (now > last_progress + 10000000000ull)
            die("nothing came for 10 s: produced %llu, fetched %llu bytes", (unsigned long long)produced,
                (unsigned long long)fetched);
        if (!can_send && fetched + answered == before) {
            poll(p, 2, 1);
            now = clock_mono_ns();
        }
    }
    seconds = (double)(now - start) / 1e9;
    printf("{\"operations\": %.2f, \"seconds\": %.3f, \"rate\": %.1f", (double)produced / (double)mib,
           seconds, (double)produced / (double)mib / seconds);
    if (acks_o != 0)
        hist_print(&produce_latency);
    puts("}");
    return 0;
}
