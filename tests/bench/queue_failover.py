#!/usr/bin/env python3
"""What a queue with a backlog costs its partition when its leader goes.

    queue_failover.py [--count 300000] [--size 1024] [--seed 1] [--how kill,stop,alone] [--rounds 3] [--rest 0.3]

Three nodes on loopback, a durable queue of `count` messages of `size` bytes, published with confirms; half of the messages, drawn by seed, are acknowledged. Then, `rest` seconds later, the leader is
killed with -9 (`kill`) or stopped in order (`stop`); `alone` is one node that is killed with -9 and started again. Printed are, in milliseconds since the
kill (alone: since the node was ready): the first answer of a RESP GET on the queue's partition, the first confirm, the first basic.get; and the longest time that
partition left a GET waiting from its first answer on. Run it in a build directory. Not part of any check: it measures.
"""
import argparse
import os
import random
import statistics
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(HERE, "..", "fault"), os.path.join(HERE, "..", "integration")]
from load_resp import slot_of  # noqa: E402
from rig import Cluster, QUEUE_PARTITIONS, eventually, partition_of_queue  # noqa: E402
from wire import Amqp, Resp  # noqa: E402

WATCH_S = 6  # how long the partition is watched from the failure on


def amqp(node):
    return Amqp(node.ports["amqp"], host=node.host, timeout=120, user="rig", password="rig")


def fill(node, queue, count, size):
    c = amqp(node)
    c.declare(queue)
    c.confirm_select()
    batch, answered, sent = 500, 0, 0
    while answered < count:
        while sent < count and sent - answered < 4 * batch:
            n = min(batch, count - sent)
            c.send(b"".join(c.publish_bytes(queue, b"%012d" % (sent + i) + b"x" * (size - 12)) for i in range(n)))
            sent += n
        ok, tag, _ = c.confirmed()
        assert ok
        answered = max(answered, tag)
    c.sock.close()


def settle(node, queue, count, rng):
    c = amqp(node)
    c.consume(queue)
    seen, acks, settled = 0, [], 0
    while seen < count:
        tag, _, _ = c.delivery()
        seen += 1
        if rng.random() < 0.5:
            acks.append(tag)
            settled += 1
        if len(acks) >= 200 or seen == count:
            c.send(b"".join(c.frame(1, 1, b"\0\x3c\0\x50" + tag.to_bytes(8, "big") + b"\0") for tag in acks))
            acks.clear()
    c.sync()
    c.sock.close()
    return settled


class Watch(threading.Thread):
    """GETs of one key, one after the other, on whichever node answers."""

    def __init__(self, nodes, key, since):
        super().__init__(daemon=True)
        self.nodes, self.key, self.since = nodes, key, since
        self.first = None
        self.answers = []
        self.start()

    def run(self):
        links = {}
        while time.monotonic() - self.since < WATCH_S:
            for n in self.nodes:
                try:
                    if n not in links:
                        links[n] = Resp(n.ports["resp"], host=n.host, timeout=30)
                    begin = time.monotonic()
                    answer = links[n].call("GET", self.key)
                except Exception as e:
                    if not str(e).startswith(("MOVED", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "ERR")):
                        links.pop(n, None)
                    continue
                if answer == b"v":
                    self.answers.append((begin, time.monotonic()))
                break
            time.sleep(0.0005)

    def result(self):
        self.join()
        first = self.answers[0][1]
        return (first - self.since) * 1000, max(b - a for a, b in self.answers[1:]) * 1000


def first_confirm(node, queue, since, out):
    while True:
        try:
            c = amqp(node)
            c.confirm_select()
            c.publish(queue, b"after")
            ok, _, _ = c.confirmed()
            if ok:
                out["confirm"] = (time.monotonic() - since) * 1000
                return
        except Exception:
            time.sleep(0.005)


def first_get(node, queue, since, out):
    while True:
        try:
            c = amqp(node)
            got = c.get(queue)
            if got is not None:
                out["get"] = (time.monotonic() - since) * 1000
                c.sock.close()
                return
        except Exception:
            time.sleep(0.005)


def measure(cluster, how, queue, key, rng):
    leader = cluster.leader_of_queue(queue)
    others = [n for n in cluster.living() if n is not leader]
    clients = others
    if how == "alone":
        leader.kill()
        leader.start()
        leader.wait_ready()
        clients = [leader]
        since = time.monotonic()
    elif how == "kill":
        since = time.monotonic()
        leader.kill()
    else:
        since = time.monotonic()
        threading.Thread(target=leader.stop, daemon=True).start()
    out = {}
    watch = Watch(clients, key, since)
    threads = [threading.Thread(target=f, args=(clients[-1], queue, since, out), daemon=True) for f in (first_confirm, first_get)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    out["resp"], out["stall"] = watch.result()
    return out


def one(how, count, size, seed, rest):
    rng = random.Random(seed)
    with Cluster(1 if how == "alone" else 3, loopback=True) as cluster:
        cluster.start()
        eventually(lambda: all(n.ctl("cluster", "health").get("healthy") for n in cluster.living()), 60)
        cluster.add_user()
        queue = "backlog%d" % seed
        p = partition_of_queue(queue)
        key = next(k for k in ("k%d" % i for i in range(100000)) if slot_of(k) * QUEUE_PARTITIONS // 16384 == p)
        node = cluster.leader_of_queue(queue)
        r = Resp(node.ports["resp"], host=node.host, timeout=30)
        r.call("SET", key, "v")
        fill(node, queue, count, size)
        settled = settle(node, queue, count, rng)
        time.sleep(rest)
        out = measure(cluster, how, queue, key, rng)
        out["settled"] = settled
        for n in cluster.living():
            if how == "stop":
                eventually(lambda: len(cluster.living()) == 2, 30)
        return out


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--count", type=int, default=300000)
    a.add_argument("--size", type=int, default=1024)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--rest", type=float, default=0.3)
    a.add_argument("--how", default="kill,stop,alone")
    o = a.parse_args()
    for how in o.how.split(","):
        rows = [one(how, o.count, o.size, o.seed + i, o.rest) for i in range(o.rounds)]
        print("%-6s %d x %d B, %d settled:" % (how, o.count, o.size, rows[0]["settled"]),
              "  ".join("%s %.0f (%.0f)" % (name, statistics.median(r[k] for r in rows), max(r[k] for r in rows))
                        for name, k in (("first GET", "resp"), ("first confirm", "confirm"), ("first get", "get"), ("longest GET", "stall"))),
              "ms, median (worst)", flush=True)


if __name__ == "__main__":
    main()
