"""The Kafka protocol byte by byte: version negotiation, ordering, refused batches, sequences, fetch sessions, bad frames."""
import socket
import struct
import time

from compat import main, same, test, unique, until

UNKNOWN_TOPIC_OR_PARTITION, CORRUPT_MESSAGE, OFFSET_OUT_OF_RANGE, MESSAGE_TOO_LARGE = 3, 2, 1, 10
INVALID_REQUIRED_ACKS, UNSUPPORTED_VERSION, OUT_OF_ORDER_SEQUENCE, INVALID_RECORD = 21, 35, 45, 87


def crc32c(data, _table=[]):  # pylint: disable=dangerous-default-value
    if not _table:
        for n in range(256):
            for _ in range(8):
                n = (n >> 1) ^ 0x82F63B78 if n & 1 else n >> 1
            _table.append(n)
    crc = 0xFFFFFFFF
    for b in data:
        crc = (crc >> 8) ^ _table[(crc ^ b) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(n):
    n = (n << 1) ^ (n >> 63)
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def batch(values, base=0, attributes=0, producer=(-1, -1, -1), count=None, delta=None, crc=None, magic=2):
    """A record batch, format v2; what the keywords name can be made wrong."""
    records = b""
    for i, v in enumerate(values):
        body = b"\0" + varint(0) + varint(i) + varint(-1) + varint(len(v)) + v + varint(0)
        records += varint(len(body)) + body
    now = int(time.time() * 1000)
    tail = struct.pack(">hiqqqhii", attributes, len(values) - 1 if delta is None else delta, now, now, *producer,
                       len(values) if count is None else count) + records
    return struct.pack(">qiibI", base, len(tail) + 9, -1, magic, crc32c(tail) if crc is None else crc) + tail


def string(s):
    return struct.pack(">h", len(s)) + s.encode()


class Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, fmt):
        out = struct.unpack_from(">" + fmt, self.data, self.at)
        self.at += struct.calcsize(">" + fmt)
        return out[0] if len(out) == 1 else out

    def string(self):
        n = self.take("h")
        if n < 0:
            return None
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def array(self, read):
        return [read() for _ in range(self.take("i"))]

    def bytes(self):
        n = self.take("i")
        self.at += max(n, 0)
        return self.data[self.at - n:self.at] if n >= 0 else None

    def uvarint(self):
        out = shift = 0
        while True:
            b = self.take("B")
            out |= (b & 0x7F) << shift
            shift += 7
            if not b & 0x80:
                return out

    def compact_string(self):
        n = self.uvarint() - 1
        self.at += max(n, 0)
        return self.data[self.at - n:self.at].decode() if n >= 0 else None


class Broker:
    """One connection; requests with header v1, or v2 where the API is flexible."""

    def __init__(self, t):
        self.sock = socket.create_connection((t.host, t.port), timeout=15)
        self.correlation = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, api, version, body, flexible=False):
        self.correlation += 1
        head = struct.pack(">hhi", api, version, self.correlation) + string("wire") + (b"\0" if flexible else b"")
        self.sock.sendall(struct.pack(">i", len(head + body)) + head + body)
        return self.correlation

    def read(self, n):
        out = b""
        while len(out) < n:
            part = self.sock.recv(n - len(out))
            if not part:
                raise EOFError("connection closed")
            out += part
        return out

    def answer(self, correlation=None):
        data = self.read(struct.unpack(">i", self.read(4))[0])
        got = struct.unpack(">i", data[:4])[0]
        same(got, self.correlation if correlation is None else correlation, "correlation id")
        return Reader(data[4:])

    def ask(self, api, version, body, flexible=False):
        self.send(api, version, body, flexible)
        return self.answer()

    def closed(self):
        try:
            while self.sock.recv(4096):
                pass
            return True
        except ConnectionResetError:
            return True

    # ---- the requests used below ----

    def api_versions(self):
        r = self.ask(18, 0, b"")
        same(r.take("h"), 0)
        return {key: (low, high) for key, low, high in r.array(lambda: r.take("hhh"))}

    def make_topic(self, prefix="wire"):
        topic = unique(prefix)

        def has_leaders():
            r = self.ask(3, 4, struct.pack(">i", 1) + string(topic) + b"\1")
            r.take("i")
            r.array(lambda: (r.take("i"), r.string(), r.take("i"), r.string()))
            r.string()
            r.take("i")
            topics = r.array(lambda: (r.take("h"), r.string(), r.take("b"),
                                      r.array(lambda: (r.take("hii"), r.array(lambda: r.take("i")), r.array(lambda: r.take("i"))))))
            code, name, _internal, partitions = topics[0]
            same(name, topic)
            return code == 0 and partitions and all(p[0][0] == 0 and p[0][2] >= 0 for p in partitions)

        until("the topic has leaders", has_leaders)
        # A real cluster's metadata runs ahead of the broker it names: wait until that one leads, too.
        until("the leaders answer", lambda: all(self.list_offset(topic, p, -1)[0] == 0 for p in range(4)))
        return topic

    def produce(self, topic, data, acks=-1, partition=0, version=7):
        """(error, base offset) of one partition; None without an answer."""
        self.send(0, version, struct.pack(">hhii", -1, acks, 10000, 1) + string(topic) + struct.pack(">iii", 1, partition, len(data)) +
                  data)
        if acks == 0:
            return None
        r = self.answer()
        same(r.take("i"), 1)
        same(r.string(), topic)
        same(r.take("i"), 1)
        same(r.take("i"), partition)
        return r.take("hq")

    def list_offset(self, topic, partition, timestamp):
        """(error, offset) by ListOffsets v1."""
        r = self.ask(2, 1, struct.pack(">ii", -1, 1) + string(topic) + struct.pack(">iiq", 1, partition, timestamp))
        r.take("i")
        r.string()
        r.take("i")
        _partition, error, _time, offset = r.take("ihqq")
        return error, offset

    def end_offset(self, topic, partition=0, timestamp=-1):
        error, offset = self.list_offset(topic, partition, timestamp)
        same(error, 0)
        return offset

    def producer_id(self):
        def ask():
            r = self.ask(22, 0, struct.pack(">hi", -1, 60000))
            r.take("i")
            error, pid, epoch = r.take("hqh")
            if error == 14:  # the coordinator is still loading
                return None
            same((error, epoch), (0, 0))
            return (pid,)

        return until("a producer id", ask)[0]

    def fetch(self, topic, offsets, wait=200, minimum=1, limit=1 << 20, session=(0, -1)):
        """Fetch v11: (error, session id, {partition: (error, high watermark, bytes)})."""
        body = struct.pack(">iiiibiii", -1, wait, minimum, 50 << 20, 0, *session, 1 if offsets else 0)
        if offsets:
            body += string(topic) + struct.pack(">i", len(offsets))
            for p, offset in offsets.items():
                body += struct.pack(">iiqqi", p, -1, offset, -1, limit)
        r = self.ask(1, 11, body + struct.pack(">i", 0) + string(""))
        r.take("i")
        error, session_id = r.take("hi")
        out = {}

        def partition():
            p, code, high, _stable, _start = r.take("ihqqq")
            if r.take("i") > 0:
                raise AssertionError("aborted transactions without transactions")
            r.take("i")
            out[p] = code, high, r.bytes() or b""

        r.array(lambda: (r.string(), r.array(partition)))
        return error, session_id, out


# ---- versions ---------------------------------------------------------------

@test
def versions_cover_every_client(t):
    """The ranges that Debian's librdkafka, kafkajs, aiokafka, python-kafka and sarama probe or speak at most."""
    need = {0: (3, 7), 1: (4, 11), 2: (1, 2), 3: (0, 4), 8: (2, 7), 9: (1, 7), 10: (0, 2), 11: (0, 5), 12: (0, 3), 13: (0, 1),
            14: (0, 3), 18: (0, 3), 22: (0, 4)}
    with Broker(t) as b:
        have = b.api_versions()
    for key, (low, high) in need.items():
        assert key in have, "API %d is missing" % key
        assert have[key][0] <= low and have[key][1] >= high, "API %d: %r does not cover %r" % (key, have[key], (low, high))


@test
def api_versions_in_each_version(t):
    with Broker(t) as b:
        want = b.api_versions()
        for version in (1, 2):
            r = b.ask(18, version, b"")
            same(r.take("h"), 0)
            same({k: (low, high) for k, low, high in r.array(lambda: r.take("hhh"))}, want)
            r.take("i")
            same(r.at, len(r.data))
        # v3 has a flexible body behind a header of version 0.
        r = b.ask(18, 3, b"\x05wire\x041.0\x00", flexible=True)
        same(r.take("h"), 0)
        got = {}
        for _ in range(r.uvarint() - 1):
            key, low, high = r.take("hhh")
            same(r.uvarint(), 0)
            got[key] = low, high
        same(got, want)


@test
def api_versions_of_an_unknown_version(t):
    with Broker(t) as b:
        r = b.ask(18, 99, b"\xff\xff\xff garbage", flexible=True)
        same(r.take("h"), UNSUPPORTED_VERSION)
        own = {k: (low, high) for k, low, high in r.array(lambda: r.take("hhh"))}
        assert 18 in own, own
        b.api_versions()  # the connection goes on


@test
def unknown_versions_and_apis_close(t):
    for api, version in ((3, 99), (0, 120), (9999, 0), (-5, 0)):
        with Broker(t) as b:
            b.send(api, version, b"\0" * 20)
            same(b.closed(), True)


@test
def answers_keep_their_order(t):
    with Broker(t) as b:
        topic = b.make_topic()
        first = b.correlation + 1
        for i in range(200):
            if i % 3 == 0:
                b.send(18, 0, b"")
            elif i % 3 == 1:
                b.send(0, 7, struct.pack(">hhii", -1, 1, 10000, 1) + string(topic) + struct.pack(">iii", 1, i % 4, len(batch([b"x"]))) +
                       batch([b"x"]))
            else:
                b.send(3, 1, struct.pack(">i", 1) + string(topic))
        for i in range(200):
            b.answer(first + i)


@test
def metadata_of_old_and_new_versions(t):
    with Broker(t) as b:
        topic = b.make_topic()
        r = b.ask(3, 0, struct.pack(">i", 1) + string(topic))
        brokers = r.array(lambda: (r.take("i"), r.string(), r.take("i")))
        same([(x[1], x[2]) for x in brokers], [(t.host, t.port)])
        r = b.ask(3, 1, struct.pack(">i", 0))  # v1: an empty list is no topic, a null one all
        r.array(lambda: (r.take("i"), r.string(), r.take("i"), r.string()))
        r.take("i")
        same(r.array(lambda: None), [])
        # v9, the first flexible one
        name = topic.encode()
        r = b.ask(3, 9, b"\x02" + bytes([len(name) + 1]) + name + b"\0" + b"\1\0\0\0", flexible=True)
        same(r.uvarint(), 0)
        r.take("i")
        same(r.uvarint() - 1, 1)
        r.take("i")
        n = r.uvarint() - 1
        same(r.data[r.at:r.at + n].decode(), t.host)
        r.at += n
        same(r.take("i"), t.port)


# ---- produce ----------------------------------------------------------------

@test
def produce_in_each_version(t):
    with Broker(t) as b:
        topic = b.make_topic()
        for n, version in enumerate((3, 4, 5, 6, 7)):
            same(b.produce(topic, batch([b"one", b"two"]), version=version), (0, 2 * n))
        error, _session, parts = b.fetch(topic, {0: 0})
        same(error, 0)
        code, high, data = parts[0]
        same((code, high), (0, 10))
        for value in (b"one", b"two"):
            assert data.count(value) == 5, data


@test
def batches_come_back_as_they_were(t):
    """The broker writes base offset and leader epoch; every other byte is the producer's."""
    with Broker(t) as b:
        topic = b.make_topic()
        sent = [batch([b"a%d" % i, b"b"]) for i in range(3)]
        for i, s in enumerate(sent):
            same(b.produce(topic, s), (0, 2 * i))
        data = b.fetch(topic, {0: 0})[2][0][2]
        at = 0
        for i, s in enumerate(sent):
            got = data[at:at + len(s)]
            same(struct.unpack(">q", got[:8])[0], 2 * i)
            same(got[8:12] + got[16:], s[8:12] + s[16:])
            at += len(s)
        same(at, len(data))


@test
def bad_batches_are_refused(t):
    good = batch([b"x", b"y"])
    with Broker(t) as b:
        topic = b.make_topic()
        for what, data, code in (
                ("wrong crc", batch([b"x"], crc=12345), CORRUPT_MESSAGE),
                ("count above the offsets", batch([b"x", b"y"], count=3), INVALID_RECORD),
                ("control batch", batch([b"x"], attributes=0x20), INVALID_RECORD),
                ("negative last offset delta", batch([b"x"], delta=-3), INVALID_RECORD),
        ):
            got = b.produce(topic, data)
            assert got[0] == code, "%s: error %d, expected %d" % (what, got[0], code)
            same(got[1], -1)
        for what, data in (("two batches", good + good), ("cut short", good[:40]), ("nothing", b"")):
            try:
                got = b.produce(topic, data)
                assert got[0] not in (0, -1), "%s: error %d" % (what, got[0])
            except (EOFError, ConnectionResetError):
                b.sock.close()
                b.__init__(t)
        same(b.end_offset(topic), 0)
        same(b.produce(topic, good), (0, 0))


@test
def too_large_batch(t):
    with Broker(t) as b:
        topic = b.make_topic()
        same(b.produce(topic, batch([b"x" * 1100000]))[0], MESSAGE_TOO_LARGE)
        same(b.produce(topic, batch([b"x" * 1000000])), (0, 0))


@test
def ack_levels(t):
    with Broker(t) as b:
        topic = b.make_topic()
        same(b.produce(topic, batch([b"0"]), acks=0), None)
        until("the unacknowledged one", lambda: b.end_offset(topic) == 1)
        same(b.produce(topic, batch([b"1"]), acks=1), (0, 1))
        same(b.produce(topic, batch([b"2"]), acks=-1), (0, 2))
        same(b.produce(topic, batch([b"3"]), acks=2)[0], INVALID_REQUIRED_ACKS)
        same(b.end_offset(topic), 3)


@test
def unknown_partitions(t):
    with Broker(t) as b:
        topic = b.make_topic()
        same(b.produce(topic, batch([b"x"]), partition=99)[0], UNKNOWN_TOPIC_OR_PARTITION)
        same(b.fetch(topic, {99: 0}, wait=0)[2][99][0], UNKNOWN_TOPIC_OR_PARTITION)
        same(b.fetch(unique("absent"), {0: 0}, wait=0)[2][0][0], UNKNOWN_TOPIC_OR_PARTITION)


@test
def sequences_of_an_idempotent_producer(t):
    with Broker(t) as b:
        topic = b.make_topic()
        pid, epoch = b.producer_id(), 0
        send = lambda seq, n=2: b.produce(topic, batch([b"x"] * n, producer=(pid, epoch, seq)))
        same(send(0), (0, 0))
        same(send(2), (0, 2))
        same(send(2), (0, 2))            # a repeat is answered with its first offset, and not appended
        same(send(0), (0, 0))
        same(send(7)[0], OUT_OF_ORDER_SEQUENCE)
        same(send(4), (0, 4))
        same(b.end_offset(topic), 6)
        assert b.producer_id() != pid


@test
def producers_of_a_partition(t):
    def describe(b, topic, partition):
        """DescribeProducers v0, which is flexible: compact lengths are one more, tag buffers are empty."""
        body = b"\2" + bytes([len(topic) + 1]) + topic.encode() + b"\2" + struct.pack(">i", partition) + b"\0\0"
        r = b.ask(61, 0, body, flexible=True)
        same(r.take("b"), 0)  # tags of the header
        same(r.take("i"), 0)
        same(r.uvarint(), 2)
        same(r.compact_string(), topic)
        same(r.uvarint(), 2)
        same(r.take("i"), partition)
        code = r.take("h")
        r.compact_string()  # the error in words, if there are any
        return code, [r.take("qiiqiqb") for _ in range(r.uvarint() - 1)]

    with Broker(t) as b:
        topic, pid = b.make_topic(), b.producer_id()
        same(describe(b, topic, 0), (0, []))
        begin = int(time.time() * 1000)
        for seq in (0, 2):
            same(b.produce(topic, batch([b"x", b"y"], producer=(pid, 0, seq)))[0], 0)
        same(b.produce(topic, batch([b"nobody's"]))[0], 0)
        code, ((got, epoch, last, timestamp, coordinator, txn, _tags),) = describe(b, topic, 0)
        same((code, got, epoch, last, coordinator, txn), (0, pid, 0, 3, -1, -1))
        assert begin <= timestamp <= time.time() * 1000, timestamp
        same(describe(b, topic, 1), (0, []))
        same(describe(b, topic, 1000), (UNKNOWN_TOPIC_OR_PARTITION, []))
        same(describe(b, "nosuch", 0), (UNKNOWN_TOPIC_OR_PARTITION, []))


# ---- fetch ------------------------------------------------------------------

@test
def fetch_waits_and_is_woken(t):
    with Broker(t) as b, Broker(t) as other:
        topic = b.make_topic()
        start = time.monotonic()
        same(b.fetch(topic, {0: 0}, wait=300)[2][0], (0, 0, b""))
        assert time.monotonic() - start > 0.25
        b.send(1, 11, struct.pack(">iiiibiii", -1, 600000, 1, 1 << 20, 0, 0, -1, 1) + string(topic) +
               struct.pack(">iiiqqi", 1, 0, -1, 0, -1, 1 << 20) + struct.pack(">i", 0) + string(""))
        time.sleep(0.2)
        same(other.produce(topic, batch([b"news"])), (0, 0))
        assert b"news" in b.answer().data  # within the socket's time-out, long before the fetch's own


@test
def fetch_waits_for_min_bytes(t):
    with Broker(t) as b:
        topic = b.make_topic()
        b.produce(topic, batch([b"x" * 100]))
        start = time.monotonic()
        got = b.fetch(topic, {0: 0}, wait=400, minimum=100000)[2][0]
        assert time.monotonic() - start > 0.35
        assert b"x" * 100 in got[2]


@test
def fetch_limits(t):
    with Broker(t) as b:
        topic = b.make_topic()
        for i in range(10):
            b.produce(topic, batch([b"%d" % i * 1000]))
        one = len(batch([b"0" * 1000]))
        whole = b.fetch(topic, {0: 0})[2][0][2]
        same(len(whole), 10 * one)
        # A partition's limit holds, except that the first batch always comes.
        first = b.fetch(topic, {0: 0}, limit=10)[2][0][2]
        same(first, whole[:len(first)])
        assert len(first) >= one or t.real, len(first)
        some = b.fetch(topic, {0: 0}, limit=3 * one)[2][0][2]
        assert one <= len(some) <= 3 * one, len(some)
        # An offset inside of a batch brings that batch whole.
        b.produce(topic, batch([b"a", b"b", b"c"]))
        got = b.fetch(topic, {0: 11})[2][0][2]
        same(struct.unpack(">q", got[:8])[0], 10)


@test
def offsets_outside_of_the_log(t):
    with Broker(t) as b:
        topic = b.make_topic()
        b.produce(topic, batch([b"x"] * 5))
        for offset in (6, 1000, -7):
            same(b.fetch(topic, {0: offset}, wait=0)[2][0][0], OFFSET_OUT_OF_RANGE, "offset %d" % offset)
        same(b.fetch(topic, {0: 5}, wait=0)[2][0], (0, 5, b""))
        same((b.end_offset(topic), b.end_offset(topic, timestamp=-2)), (5, 0))


@test
def fetch_session(t):
    """KIP-227: after a full fetch with epoch 0 only partitions with news are in the answers."""
    with Broker(t) as b:
        topic = b.make_topic()
        error, session, parts = b.fetch(topic, {0: 0, 1: 0, 2: 0, 3: 0}, wait=0, session=(0, 0))
        same((error, sorted(parts)), (0, [0, 1, 2, 3]))
        if session == 0:
            same(t.real, False, "Kafka makes sessions")
            return  # a broker may decline; the client then goes on with full fetches
        same(b.fetch(topic, {}, wait=0, session=(session, 1)), (0, session, {}))
        b.produce(topic, batch([b"news"]), partition=2)
        error, _id, parts = b.fetch(topic, {}, wait=1000, session=(session, 2))
        same((error, list(parts)), (0, [2]))
        assert b"news" in parts[2][2]
        error, _id, parts = b.fetch(topic, {2: 1}, wait=0, session=(session, 3))
        assert error == 0 and parts.get(2, (0, 1, b""))[2] == b"", parts
        same(b.fetch(topic, {}, wait=0, session=(session, 9))[0], 71)   # INVALID_FETCH_SESSION_EPOCH
        same(b.fetch(topic, {}, wait=0, session=(session ^ 0x55aa, 4))[0], 70)  # FETCH_SESSION_ID_NOT_FOUND


# ---- frames -----------------------------------------------------------------

@test
def bad_frames_close_the_connection(t):
    for what, data in (
            ("huge length", struct.pack(">i", 0x7FFFFFFF) + b"x" * 100),
            ("negative length", struct.pack(">i", -1) + b"x" * 100),
            ("body cut short", struct.pack(">i", 20) + struct.pack(">hhi", 3, 1, 1) + string("c") + struct.pack(">i", 1000) + b"\0" * 5),
            ("array of two thousand million", struct.pack(">i", 15) + struct.pack(">hhi", 3, 1, 1) + string("c") +
             struct.pack(">i", 0x7FFFFFF0)),
            ("string beyond the frame", struct.pack(">i", 12) + struct.pack(">hhi", 3, 1, 1) + struct.pack(">h", 32000) + b"ab"),
    ):
        with Broker(t) as b:
            b.sock.sendall(data)
            try:
                same(b.closed(), True, what)
            except (socket.timeout, TimeoutError) as exc:
                raise AssertionError("%s: not closed" % what) from exc
    with Broker(t) as b:
        b.api_versions()


@test
def bytes_may_come_one_by_one(t):
    with Broker(t) as b:
        topic = b.make_topic()
        data = batch([b"slow"])
        body = struct.pack(">hhi", 0, 7, 77) + string("c") + struct.pack(">hhii", -1, -1, 10000, 1) + string(topic) + \
            struct.pack(">iii", 1, 0, len(data)) + data
        for byte in struct.pack(">i", len(body)) + body:
            b.sock.sendall(bytes([byte]))
        b.answer(77)
        same(b.end_offset(topic), 1)


if __name__ == "__main__":
    main()
