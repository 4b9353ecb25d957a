"""Small clients of the three protocols on raw sockets, for tests that must see every byte and survive a server's death.

They know just what the tests need; the compatibility tests use real clients. Every method raises OSError or EOFError when the connection dies.
"""
import socket
import struct


class Stream:
    def __init__(self, port, host="127.0.0.1", timeout=20):
        self.sock = socket.create_connection((host, port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, data):
        self.sock.sendall(data)

    def read(self, n):
        while len(self.buffer) < n:
            self.fill()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def line(self):
        while b"\r\n" not in self.buffer:
            self.fill()
        data, self.buffer = self.buffer.split(b"\r\n", 1)
        return data

    def fill(self):
        more = self.sock.recv(65536)
        if not more:
            raise EOFError("closed by the server")
        self.buffer += more

    def at_end(self):
        """True when the server closed the connection (whatever else it had to say is read)."""
        try:
            while True:
                self.fill()
        except (EOFError, ConnectionResetError):
            return True
        except socket.timeout:
            return False

    def close(self):
        self.sock.close()


# ---- RESP ---------------------------------------------------------------------------------------------------------------
class RespError(Exception):
    pass


class Resp(Stream):
    def encode(self, *args):
        parts = [b"*%d\r\n" % len(args)]
        for a in args:
            a = a if isinstance(a, bytes) else str(a).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(a), a))
        return b"".join(parts)

    def reply(self):
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return RespError(rest.decode())
        if kind in (b":",):
            return int(rest)
        if kind == b"$":
            if rest == b"-1":
                return None
            data = self.read(int(rest) + 2)
            return data[:-2]
        if kind in (b"*", b"~", b">"):
            if rest == b"-1":
                return None
            return [self.reply() for _ in range(int(rest))]
        if kind == b"%":
            return {self.reply(): self.reply() for _ in range(int(rest))}
        if kind == b"_":
            return None
        if kind == b"#":
            return rest == b"t"
        if kind == b",":
            return float(rest)
        raise AssertionError("unknown reply %r" % line)

    def call(self, *args):
        """One command; an error reply is raised as RespError."""
        self.send(self.encode(*args))
        r = self.reply()
        if isinstance(r, RespError):
            raise r
        return r

    def pipeline(self, commands):
        self.send(b"".join(self.encode(*c) for c in commands))
        return [self.reply() for _ in commands]


# ---- Kafka --------------------------------------------------------------------------------------------------------------
def _crc32c_table():
    table = []
    for n in range(256):
        c = n
        for _ in range(8):
            c = (c >> 1) ^ 0x82F63B78 if c & 1 else c >> 1
        table.append(c)
    return table


_TABLE = _crc32c_table()


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = _TABLE[(c ^ b) & 0xFF] ^ (c >> 8)
    return c ^ 0xFFFFFFFF


def varint(n):
    z = (n << 1) ^ (n >> 63)
    out = b""
    while z >= 0x80:
        out += bytes([z & 0x7F | 0x80])
        z >>= 7
    return out + bytes([z])


def unvarint(data, at):
    shift = value = 0
    while True:
        b = data[at]
        at += 1
        value |= (b & 0x7F) << shift
        shift += 7
        if b < 0x80:
            return (value >> 1) ^ -(value & 1), at


def batch(values, producer=(-1, -1, -1), timestamp=1_700_000_000_000):
    """A record batch v2 of keyless records; producer = (id, epoch, first sequence)."""
    records = b""
    for i, v in enumerate(values):
        body = b"\0" + varint(0) + varint(i) + varint(-1) + varint(len(v)) + v + varint(0)
        records += varint(len(body)) + body
    tail = struct.pack(">hiqqqhii", 0, len(values) - 1, timestamp, timestamp, producer[0], producer[1], producer[2], len(values)) + records
    return struct.pack(">qiibI", 0, len(tail) + 9, -1, 2, crc32c(tail)) + tail


def batch_values(data):
    """(offset, value) of each record in a run of uncompressed batches; a truncated last one is left out."""
    out, at = [], 0
    while at + 61 <= len(data):
        base, length = struct.unpack(">qi", data[at:at + 12])
        if at + 12 + length > len(data):
            break
        (count,) = struct.unpack(">i", data[at + 57:at + 61])
        p = at + 61
        for _ in range(count):
            size, p = unvarint(data, p)
            q = p + 1
            _, q = unvarint(data, q)
            delta, q = unvarint(data, q)
            klen, q = unvarint(data, q)
            q += max(klen, 0)
            vlen, q = unvarint(data, q)
            out.append((base + delta, data[q:q + vlen]))
            p += size
        at += 12 + length
    return out


class Kafka(Stream):
    def __init__(self, port, **kwargs):
        super().__init__(port, **kwargs)
        self.correlation = 0

    def request(self, api, version, body):
        self.correlation += 1
        head = struct.pack(">hhih", api, version, self.correlation, 4) + b"test"
        self.send(struct.pack(">i", len(head) + len(body)) + head + body)

    def response(self):
        (size,) = struct.unpack(">i", self.read(4))
        data = self.read(size)
        assert struct.unpack(">i", data[:4])[0] == self.correlation
        return data[4:]

    @staticmethod
    def string(s):
        s = s.encode()
        return struct.pack(">h", len(s)) + s

    def create_topic(self, name, partitions, factor=1):
        """CreateTopics v2; the error code."""
        body = struct.pack(">i", 1) + self.string(name) + struct.pack(">ihii", partitions, factor, 0, 0) + struct.pack(">ib", 10000, 0)
        self.request(19, 2, body)
        data = self.response()
        (n,) = struct.unpack(">h", data[8:10])
        return struct.unpack(">h", data[10 + n:12 + n])[0]

    def produce(self, topic, partition, data, acks=-1, wait_ms=10000):
        """Produce v3 of one encoded batch: (error, base offset)."""
        body = struct.pack(">hhii", -1, acks, wait_ms, 1) + self.string(topic) + struct.pack(">iii", 1, partition, len(data)) + data
        self.request(0, 3, body)
        if acks == 0:
            return 0, -1
        d = self.response()
        at = 4 + 2 + len(topic.encode()) + 4
        _, error, offset = struct.unpack(">ihq", d[at:at + 14])
        return error, offset

    def fetch(self, topic, partition, offset, wait_ms=1, max_bytes=8 << 20):
        """Fetch v4 of one partition: (error, high watermark, record bytes)."""
        body = struct.pack(">iiiibi", -1, wait_ms, 1, max_bytes, 0, 1) + self.string(topic) + struct.pack(">iiqi", 1, partition, offset, max_bytes)
        self.request(1, 4, body)
        d = self.response()
        at = 4 + 4 + 2 + len(topic.encode()) + 4
        _, error, hw, _, aborted = struct.unpack(">ihqqi", d[at:at + 26])
        at += 26 + max(aborted, 0) * 16
        (size,) = struct.unpack(">i", d[at:at + 4])
        return error, hw, d[at + 4:at + 4 + max(size, 0)]

    def read_all(self, topic, partition):
        out, offset = [], 0
        while True:
            error, hw, data = self.fetch(topic, partition, offset)
            assert error == 0, error
            got = [x for x in batch_values(data) if x[0] >= offset]
            out += got
            if not got:
                assert offset >= hw, (offset, hw)
                return out
            offset = got[-1][0] + 1


# ---- AMQP 0-9-1 ---------------------------------------------------------------------------------------------------------
class AmqpClosed(Exception):
    """The server closed the channel or connection: (code, text)."""

    def __init__(self, code, text):
        super().__init__("%d %s" % (code, text))
        self.code, self.text = code, text


def shortstr(s):
    s = s if isinstance(s, bytes) else s.encode()
    return bytes([len(s)]) + s


def longstr(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack(">I", len(s)) + s


class Amqp(Stream):
    """One connection, channel 1. Deliveries and confirms that come between are kept in lists."""

    def __init__(self, port, user="guest", password="guest", vhost="/", heartbeat=0, **kwargs):
        super().__init__(port, **kwargs)
        self.deliveries, self.confirms, self.returns = [], [], []
        self.send(b"AMQP\0\0\x09\x01")
        self.expect(10, 10)
        self.method(0, 10, 11, struct.pack(">I", 0) + shortstr("PLAIN") + longstr("\0%s\0%s" % (user, password)) + shortstr("en_US"))
        tune = self.expect(10, 30)
        channels, frame_max, _ = struct.unpack(">HIH", tune[:8])
        self.method(0, 10, 31, struct.pack(">HIH", channels, frame_max, heartbeat))
        self.method(0, 10, 40, shortstr(vhost) + b"\0\0")
        self.expect(10, 41)
        self.open_channel(1)

    def open_channel(self, channel):
        self.method(channel, 20, 10, b"\0")
        self.expect(20, 11)

    def frame(self, kind, channel, payload):
        return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"

    def method(self, channel, klass, method, args=b""):
        self.send(self.frame(1, channel, struct.pack(">HH", klass, method) + args))

    def read_frame(self):
        kind, channel, size = struct.unpack(">BHI", self.read(7))
        payload = self.read(size)
        assert self.read(1) == b"\xce"
        return kind, channel, payload

    def content(self):
        kind, _, header = self.read_frame()
        assert kind == 2, kind
        (size,) = struct.unpack(">Q", header[4:12])
        body = b""
        while len(body) < size:
            kind, _, part = self.read_frame()
            assert kind == 3, kind
            body += part
        return body

    def step(self):
        """Reads one method; asynchronous ones are kept, the rest returned as (class, method, arguments)."""
        while True:
            kind, channel, payload = self.read_frame()
            if kind == 8:
                continue
            assert kind == 1, kind
            break
        klass, method = struct.unpack(">HH", payload[:4])
        args = payload[4:]
        if (klass, method) == (60, 60):  # basic.deliver
            n = args[0]
            tag, redelivered = struct.unpack(">QB", args[1 + n:10 + n])
            self.deliveries.append((tag, bool(redelivered), self.content()))
        elif (klass, method) in ((60, 80), (60, 120)):  # basic.ack, basic.nack of publishes
            tag, flags = struct.unpack(">QB", args[:9])
            self.confirms.append((method == 80, tag, bool(flags & 1)))
        elif (klass, method) == (60, 50):  # basic.return
            (code,) = struct.unpack(">H", args[:2])
            self.returns.append((code, self.content()))
        elif (klass, method) in ((10, 50), (20, 40)):  # close
            code, n = struct.unpack(">HB", args[:3])
            text = args[3:3 + n].decode()
            self.method(channel, klass, method + 1)
            raise AmqpClosed(code, text)
        return klass, method, args

    def expect(self, klass, method):
        while True:
            k, m, args = self.step()
            if (k, m) == (klass, method):
                return args
            assert (k, m) in ((60, 60), (60, 80), (60, 120), (60, 50), (10, 60), (10, 61)), (k, m)

    def declare(self, queue, durable=True, exclusive=False, auto_delete=False, passive=False, arguments=b""):
        flags = passive | durable << 1 | exclusive << 2 | auto_delete << 3
        self.method(1, 50, 10, b"\0\0" + shortstr(queue) + bytes([flags]) + longstr(arguments))
        args = self.expect(50, 11)
        n = args[0]
        messages, consumers = struct.unpack(">II", args[1 + n:9 + n])
        return args[1:1 + n].decode(), messages, consumers

    def confirm_select(self):
        self.method(1, 85, 10, b"\0")
        self.expect(85, 11)

    def publish_bytes(self, queue, body, exchange="", persistent=True, mandatory=False):
        properties = struct.pack(">HB", 0x1000, 2 if persistent else 1)
        return (self.frame(1, 1, struct.pack(">HHH", 60, 40, 0) + shortstr(exchange) + shortstr(queue) + bytes([mandatory]))
                + self.frame(2, 1, struct.pack(">HHQ", 60, 0, len(body)) + properties)
                + (self.frame(3, 1, body) if body else b""))

    def publish(self, queue, body, **kwargs):
        self.send(self.publish_bytes(queue, body, **kwargs))

    def get(self, queue, no_ack=False):
        """(delivery tag, redelivered, messages left, body) or None."""
        self.method(1, 60, 70, b"\0\0" + shortstr(queue) + bytes([no_ack]))
        while True:
            k, m, args = self.step()
            if (k, m) == (60, 72):
                return None
            if (k, m) == (60, 71):
                tag, redelivered = struct.unpack(">QB", args[:9])
                at = 9
                for _ in range(2):
                    at += 1 + args[at]
                (left,) = struct.unpack(">I", args[at:at + 4])
                return tag, bool(redelivered), left, self.content()

    def consume(self, queue, no_ack=False, exclusive=False):
        self.method(1, 60, 20, b"\0\0" + shortstr(queue) + shortstr("") + bytes([no_ack << 1 | exclusive << 2]) + longstr(b""))
        args = self.expect(60, 21)
        return args[1:1 + args[0]].decode()

    def qos(self, count):
        self.method(1, 60, 10, struct.pack(">IHB", 0, count, 0))
        self.expect(60, 11)

    def ack(self, tag, multiple=False):
        self.method(1, 60, 80, struct.pack(">QB", tag, multiple))

    def nack(self, tag, multiple=False, requeue=True):
        self.method(1, 60, 120, struct.pack(">QB", tag, multiple | requeue << 1))

    def purge(self, queue):
        self.method(1, 50, 30, b"\0\0" + shortstr(queue) + b"\0")
        return struct.unpack(">I", self.expect(50, 31))[0]

    def sync(self):
        """A method that is answered: what was sent before it on this channel is settled when it returns (rule 8)."""
        self.method(1, 20, 20, b"\1")
        self.expect(20, 21)

    def delivery(self):
        while not self.deliveries:
            self.step()
        return self.deliveries.pop(0)

    def confirmed(self):
        while not self.confirms:
            self.step()
        return self.confirms.pop(0)
