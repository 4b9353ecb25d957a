"""Ten thousand topic partitions and ten thousand durable queues in one node under `ulimit -n 4096`: they cost what they hold."""
import resource
import subprocess
import time

from node import SHORT, Node, run_tests
from wire import Amqp, Kafka, batch

COUNT = 500 if SHORT else 10000


def limited(node, **kwargs):
    real = subprocess.Popen

    def popen(*args, **kw):
        return real(*args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)), **kw)

    subprocess.Popen = popen
    try:
        node.start(**kwargs)
    finally:
        subprocess.Popen = real


def ten_thousand_topic_partitions_and_queues():
    with Node() as node:
        limited(node)
        empty = node.rss()
        k, a = Kafka(node.ports["kafka"], timeout=120), Amqp(node.ports["amqp"], timeout=120)
        begin = time.monotonic()
        topics = COUNT // 100
        for t in range(topics):
            assert k.create_topic("t%d" % t, 100) == 0
        print("%d topic partitions: %.1f s" % (COUNT, time.monotonic() - begin))
        begin = time.monotonic()
        from wire import longstr, shortstr
        for first in range(0, COUNT, 500):
            a.send(b"".join(a.frame(1, 1, b"\0\x32\0\x0a\0\0" + shortstr("q%d" % i) + b"\x02" + longstr(b"")) for i in range(first, min(first + 500, COUNT))))
            for _ in range(first, min(first + 500, COUNT)):
                a.expect(50, 11)
        print("%d durable queues: %.1f s" % (COUNT, time.monotonic() - begin))
        begin = time.monotonic()
        for t in range(topics):
            for p in range(100):
                assert k.produce("t%d" % t, p, batch([b"x"]), acks=1)[0] == 0
        for first in range(0, COUNT, 500):
            a.send(b"".join(a.publish_bytes("q%d" % i, b"m") for i in range(first, min(first + 500, COUNT))))
        a.sync()
        print("one record and one message in each: %.1f s, RSS %+.1f MiB, %d files open" % (
            time.monotonic() - begin, (node.rss() - empty) / 2**20, node.open_files()))
        assert node.open_files() < 3000
        node.kill()
        begin = time.monotonic()
        limited(node, timeout=120)
        print("restart after a kill: %.2f s" % (time.monotonic() - begin))
        k, a = Kafka(node.ports["kafka"]), Amqp(node.ports["amqp"])
        for i in range(0, COUNT, 37):
            t, p = divmod(i, 100)
            if t < topics:
                assert [v for _, v in k.read_all("t%d" % t, p)] == [b"x"], (t, p)
            assert a.get("q%d" % i)[3] == b"m", i
        node.stop(timeout=120)
        begin = time.monotonic()
        limited(node, timeout=120)
        print("restart after an orderly end: %.2f s, RSS %.1f MiB, %d files open" % (time.monotonic() - begin, node.rss() / 2**20, node.open_files()))
        assert Amqp(node.ports["amqp"]).get("q1")[3] == b"m"


if __name__ == "__main__":
    run_tests([ten_thousand_topic_partitions_and_queues])
