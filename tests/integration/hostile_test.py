"""Bad input and bad peers: one clear protocol error, at most that connection closed, nobody else disturbed."""
import os
import random
import resource
import socket
import struct
import time

from node import SHORT, Node, eventually, run_tests
from wire import Amqp, AmqpClosed, Kafka, Resp, Stream, batch, longstr, shortstr


def still_serves(node):
    assert node.alive(), "the node died"
    assert Resp(node.ports["resp"]).call("PING") == b"PONG"
    Kafka(node.ports["kafka"]).close()
    Amqp(node.ports["amqp"]).close()


def answer_to(port, data, half_close=False):
    """What comes back until the server closes."""
    s = Stream(port, timeout=5)
    s.send(data)
    if half_close:
        s.sock.shutdown(socket.SHUT_WR)
    s.at_end()
    return s.buffer


def resp_lengths_that_lie():
    with Node() as node:
        node.start()
        port = node.ports["resp"]
        for data, text in ((b"*1\r\n$-5\r\n", b"-ERR Protocol error: invalid bulk length"),
                           (b"*1\r\n$99999999999999999999\r\n", b"-ERR Protocol error: invalid bulk length"),
                           (b"*1\r\n$9223372036854775807\r\n", b"-ERR Protocol error: invalid bulk length"),
                           (b"*99999999999\r\n", b"-ERR Protocol error: invalid multibulk length"),
                           (b"*2147483648\r\n", b"-ERR Protocol error: invalid multibulk length"),
                           (b"*1\r\n:5\r\n", b"-ERR Protocol error: expected '$', got ':'"),
                           (b'set "unbalanced\r\n', b"-ERR Protocol error: unbalanced quotes in request"),
                           (b"x" * 70000, b"-ERR Protocol error: too big inline request"),
                           (b"*1\r\n$" + b"1" * 70000, b"-ERR Protocol error: too big bulk count string")):
            got = answer_to(port, data)
            assert got.startswith(text), (data[:40], got[:100])
        c = Resp(port)
        c.send(b"*-1\r\n*0\r\n\r\n*1\r\n$4\r\nPING\r\n")
        assert c.reply() == b"PONG", "empty commands are passed over"
        still_serves(node)


def kafka_lengths_that_lie():
    with Node() as node:
        node.start()
        port = node.ports["kafka"]
        for data in (struct.pack(">i", -1), struct.pack(">i", 0x7FFFFFFF), struct.pack(">i", 2) + b"xx",
                     struct.pack(">ihhih", 20, 3, 1, 1, 20000) + b"x" * 10,  # client id longer than the request
                     struct.pack(">ihhih", 14, 3, 1, 1, -1) + struct.pack(">i", 0x7FFFFFFF),  # an array of two billion
                     struct.pack(">ihhih", 10, 999, 0, 1, -1),  # no such API
                     struct.pack(">ihhih", 14, 0, 3, 1, -1) + b"\xff" * 4):
            got = answer_to(port, data, half_close=True)
            assert len(got) < 1000, got
        # a batch whose CRC is wrong, that claims more records than it has, that is cut short
        k = Kafka(port)
        assert k.create_topic("t", 1) == 0
        good = batch([b"x" * 100])
        flipped = good[:-1] + bytes([good[-1] ^ 1])
        assert k.produce("t", 0, flipped)[0] == 2, "CORRUPT_MESSAGE"
        assert k.produce("t", 0, good[:-10])[0] in (2, 87)
        assert k.produce("t", 0, good[:40])[0] in (2, 87)
        assert k.produce("t", 0, good[:16] + b"\x01" + good[17:])[0] in (43, 2, 87)
        assert k.produce("t", 5, good)[0] == 3, "UNKNOWN_TOPIC_OR_PARTITION"
        assert k.produce("t", 0, good) == (0, 0)
        assert k.fetch("t", 0, 99)[0] == 1, "OFFSET_OUT_OF_RANGE"
        still_serves(node)


def amqp_frames_that_lie():
    with Node() as node:
        node.start()
        port = node.ports["amqp"]
        header = b"AMQP\0\0\x09\x01"
        got = answer_to(port, b"AMQP\x01\x01\x00\x0a")
        assert got == header, got
        got = answer_to(port, b"AMQP\0\0\x08\x00")
        assert got == header, got
        # frames before and after the handshake
        for data in (header + struct.pack(">BHI", 1, 0, 0xFFFFFFFF), header + struct.pack(">BHI", 9, 0, 4) + b"abcd\xce",
                     header + struct.pack(">BHI", 1, 0, 4) + b"\0\x0a\0\x0bX"):
            answer_to(port, data, half_close=True)

        def closes(send, codes):
            c = Amqp(port)
            c.send(send(c))
            try:
                while True:
                    c.step()
            except AmqpClosed as e:
                assert e.code in codes, e
            except (EOFError, ConnectionResetError):
                assert None in codes, "closed without a word"

        closes(lambda c: c.frame(1, 1, struct.pack(">HH", 60, 999)), (540, 503, 501))
        closes(lambda c: c.frame(1, 1, struct.pack(">HH", 50, 10) + b"\0\0\xffshort"), (501, 502))
        closes(lambda c: struct.pack(">BHI", 1, 1, 4) + b"\0\x14\0\x0aX", (501,))
        closes(lambda c: struct.pack(">BHI", 1, 1, 1 << 30), (501,))
        closes(lambda c: c.frame(1, 7, struct.pack(">HH", 60, 40) + b"\0\0\0\0\0"), (504,))
        closes(lambda c: c.frame(2, 1, struct.pack(">HHQH", 60, 0, 5, 0)), (505,))
        closes(lambda c: c.frame(3, 1, b"body"), (505,))
        closes(lambda c: c.frame(1, 1, struct.pack(">HH", 60, 40) + b"\0\0\0\0\0") + c.frame(2, 1, struct.pack(">HHQH", 60, 0, 1 << 62, 0)), (501, 311, 406))
        # a table that nests without end
        nest = b""
        for _ in range(2000):
            nest = shortstr("k") + b"F" + longstr(nest)
        closes(lambda c: c.frame(1, 1, struct.pack(">HH", 50, 10) + b"\0\0" + shortstr("q") + b"\0" + longstr(nest))[:100000], (501, 502, None))
        still_serves(node)


def random_bytes_do_no_harm():
    with Node() as node:
        node.start()
        rng = random.Random(7)
        for _ in range(20 if SHORT else 100):
            for p in ("resp", "kafka", "amqp", "http"):
                s = Stream(node.ports[p], timeout=5)
                try:
                    s.send(bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400))))
                except OSError:
                    pass
                s.close()
        still_serves(node)


def the_wrong_protocol_is_answered_by_what_it_is():
    with Node() as node:
        node.start()
        http, amqp = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"AMQP\0\0\x09\x01"
        tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 60
        redis = b"*1\r\n$4\r\nPING\r\n"
        for protocol, data in (("resp", amqp), ("resp", tls), ("resp", http), ("kafka", redis), ("kafka", http), ("kafka", tls), ("amqp", redis), ("amqp", http), ("amqp", tls)):
            got = answer_to(node.ports[protocol], data, half_close=True)
            print("%s <- %r: %r" % (protocol, data[:8], got[:100]))
            assert len(got) < 2000
            if protocol != "kafka":
                assert got, "something is said before closing"
        still_serves(node)


def memory_does_not_follow_a_promise():
    """Lengths announce gigabytes; nothing above 64 KiB may be allocated before the bytes come."""
    with Node() as node:
        node.start()
        still_serves(node)
        before, held = node.rss(), []
        for _ in range(100):
            s = Stream(node.ports["resp"])
            s.send(b"*2\r\n$3\r\nSET\r\n$500000000\r\nabc")
            held.append(s)
            s = Stream(node.ports["kafka"])
            s.send(struct.pack(">i", 100 << 20) + b"abc")
            held.append(s)
            s = Amqp(node.ports["amqp"])
            s.send(s.frame(1, 1, struct.pack(">HHH", 60, 40, 0) + shortstr("") + shortstr("q") + b"\0") + s.frame(2, 1, struct.pack(">HHQH", 60, 0, 100 << 20, 0)))
            held.append(s)
        time.sleep(0.5)
        grown = node.rss() - before
        print("300 promises of 200 GiB: %.1f MiB" % (grown / 2**20))
        assert grown < (300 if SHORT else 40) << 20, grown
        for s in held:
            s.close()
        still_serves(node)


def a_client_that_never_reads_costs_a_bound():
    with Node("--resp.output_max_bytes=16MiB") as node:
        node.start()
        c = Resp(node.ports["resp"])
        c.call("SET", "big", b"x" * 1000000)
        before = node.rss()
        s = Stream(node.ports["resp"], timeout=1)
        s.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one = c.encode("GET", "big")
        try:
            for _ in range(3000):
                s.send(one * 10)
        except OSError:
            pass
        assert c.call("PING") == b"PONG"
        grown = node.rss() - before
        print("never reads: %.1f MiB" % (grown / 2**20))
        assert grown < (400 if SHORT else 120) << 20, grown
        s.close()
        still_serves(node)


def a_subscriber_that_never_reads_is_let_go():
    with Node("--resp.output_max_bytes=4MiB") as node:
        node.start()
        sub = Resp(node.ports["resp"])
        sub.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sub.call("SUBSCRIBE", "news")
        c = Resp(node.ports["resp"])

        def gone():
            c.pipeline([("PUBLISH", "news", b"x" * 100000)] * 20)
            return c.call("PUBLISH", "news", "?") == 0

        eventually(gone, timeout=20)
        still_serves(node)


def consumers_that_never_read_do_not_stop_the_others():
    with Node() as node:
        node.start()
        slow, fast = Amqp(node.ports["amqp"]), Amqp(node.ports["amqp"])
        slow.declare("slow")
        fast.declare("fast")
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.consume("slow", no_ack=True)
        fast.consume("fast", no_ack=True)
        p = Amqp(node.ports["amqp"])
        body = b"x" * 10000
        for i in range(1000):
            p.send(p.publish_bytes("slow", body) + p.publish_bytes("fast", b"%d" % i))
        for i in range(1000):
            assert fast.delivery()[2] == b"%d" % i
        still_serves(node)


def peers_that_vanish():
    """Connections cut in the middle of anything: blocked pops, subscriptions, long polls, half a publish, transactions."""
    with Node() as node:
        node.start()
        k = Kafka(node.ports["kafka"])
        assert k.create_topic("t", 1) == 0
        Amqp(node.ports["amqp"]).declare("q")
        rng = random.Random(3)
        for i in range(30 if SHORT else 150):
            s = [Resp(node.ports["resp"]) for _ in range(3)]
            s[0].send(s[0].encode("BLPOP", "a", "b", 0))
            s[1].send(s[1].encode("SUBSCRIBE", "x", "y"))
            s[2].send(s[2].encode("WATCH", "a") + s[2].encode("MULTI") + s[2].encode("SET", "a", i))
            f = Kafka(node.ports["kafka"])
            f.request(1, 4, struct.pack(">iiiibi", -1, 5000, 1, 1 << 20, 0, 1) + f.string("t") + struct.pack(">iiqi", 1, 0, 0, 1 << 20))
            a = Amqp(node.ports["amqp"])
            a.consume("q")
            whole = a.publish_bytes("q", b"half")
            a.send(whole[:rng.randrange(len(whole))])
            for c in s + [f, a]:
                if rng.random() < 0.5:
                    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                c.close()
        r = Resp(node.ports["resp"])
        assert r.call("RPUSH", "a", "1") == 1, "nobody who is gone takes it"
        eventually(lambda: r.call("LLEN", "a") == 1)
        assert r.call("PUBLISH", "x", "m") == 0
        eventually(lambda: node.metric("gomsg_connections") <= 2)
        still_serves(node)


def file_descriptors_run_out_and_come_back():
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))

    import subprocess
    real = subprocess.Popen

    def limited(*args, **kwargs):
        return real(*args, preexec_fn=limit, **kwargs)

    with Node() as node:
        subprocess.Popen = limited
        try:
            node.start()
        finally:
            subprocess.Popen = real
        first = Resp(node.ports["resp"])
        held = []
        turns = node.metric("gomsg_worker_turns_total")
        for _ in range(300):
            held.append(socket.create_connection(("127.0.0.1", node.ports["resp"])))
        assert first.call("PING") == b"PONG", "those who are in are served"
        time.sleep(1)
        assert first.call("SET", "k", "v") == b"OK"
        for s in held:
            s.close()
        eventually(lambda: Resp(node.ports["resp"]).call("PING") == b"PONG")
        turns = node.metric("gomsg_worker_turns_total") - turns
        assert turns < 20000, "accepting spins: %d turns of the loop, where a failed accept waits 100 ms" % turns
        still_serves(node)


def ten_thousand_idle_connections():
    count = 1000 if SHORT else 10000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    count = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
    with Node("--resp.max_connections=20000") as node:
        node.start()
        before, held = node.rss(), []
        for _ in range(count):
            held.append(socket.create_connection(("127.0.0.1", node.ports["resp"])))
        eventually(lambda: node.metric("gomsg_connections") >= count)
        per = (node.rss() - before) / count
        print("%d idle connections: %.0f bytes each" % (count, per))
        if not SHORT:
            assert per < 2048, per
        turns = node.metric("gomsg_worker_turns_total")
        time.sleep(1)
        turns = node.metric("gomsg_worker_turns_total") - turns
        assert turns < 5000, "%d turns of the loop with nothing to do" % turns
        still_serves(node)
        for s in held:
            s.close()


if __name__ == "__main__":
    run_tests([resp_lengths_that_lie, kafka_lengths_that_lie, amqp_frames_that_lie, random_bytes_do_no_harm,
               the_wrong_protocol_is_answered_by_what_it_is, memory_does_not_follow_a_promise, a_client_that_never_reads_costs_a_bound,
               a_subscriber_that_never_reads_is_let_go, consumers_that_never_read_do_not_stop_the_others, peers_that_vanish,
               file_descriptors_run_out_and_come_back, ten_thousand_idle_connections])
