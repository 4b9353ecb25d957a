"""kill -9 under AMQP load heavy enough that queue logs roll, write checkpoints and drop segments between the kills (rules 7 and 8).

    amqp_crash_test.py [--rounds=N] [--seed=N] [--seconds=S]

Per queue one publisher with confirms and two consumers that acknowledge, requeue and reject at random. After each kill: nothing confirmed is lost, nothing whose
acknowledgement was followed by an answered method on its channel comes back, what comes again says so, and no message is there twice. In the end, when all is
acknowledged, the disk is given back.
"""
import os
import random
import struct
import sys
import threading
import time

from node import PATIENCE, SHORT, Node, eventually, run_tests
from wire import Amqp, AmqpClosed, longstr, shortstr

QUEUES = {"small": 24, "middle": 1024, "large": 20000}


def option(name, default):
    for a in sys.argv[1:]:
        if a.startswith("--%s=" % name):
            return type(default)(a.split("=", 1)[1])
    return default


class State:
    """What the clients of one queue know. Message n of a queue is the number, padded."""

    def __init__(self, queue, size):
        self.queue, self.size = queue, size
        self.lock = threading.Lock()
        self.sent = 0
        self.confirmed, self.settled, self.maybe, self.seen = set(), set(), set(), set()

    def body(self, n):
        return (b"%d " % n).ljust(self.size, b"x")

    @staticmethod
    def number(body):
        return int(body.split(b" ", 1)[0])


class Load(threading.Thread):
    def __init__(self, node, stop, state, seed):
        super().__init__(daemon=True)
        self.node, self.stop, self.state, self.error = node, stop, state, None
        self.random = random.Random(seed)

    def run(self):
        try:
            self.work()
        except (OSError, EOFError):
            pass
        except Exception as e:
            self.error = e


class Publish(Load):
    def work(self):
        c, s, tag = Amqp(self.node.ports["amqp"]), self.state, 0
        c.confirm_select()
        while not self.stop.is_set():
            numbers = range(s.sent + 1, s.sent + 1 + self.random.randint(1, 60))
            s.sent = numbers[-1]
            c.send(b"".join(c.publish_bytes(s.queue, s.body(n)) for n in numbers))
            waiting = {tag + 1 + i: n for i, n in enumerate(numbers)}
            tag += len(numbers)
            while waiting:
                ok, t, multiple = c.confirmed()
                assert ok, "a publish was refused"
                done = [w for w in waiting if w == t or (multiple and w <= t)]
                with s.lock:
                    s.confirmed.update(waiting.pop(w) for w in done)


class Consume(Load):
    def work(self):
        c, s, r = Amqp(self.node.ports["amqp"]), self.state, self.random
        c.qos(r.choice((10, 50, 200)))
        c.consume(s.queue)
        maybe = set()  # acknowledged on this channel, no answer since
        while not self.stop.is_set():
            held = {}
            for _ in range(r.randint(1, 9)):
                tag, redelivered, body = c.delivery()
                n = s.number(body)
                assert len(body) == s.size, (n, len(body))
                with s.lock:
                    assert n not in s.settled, ("settled, came back", s.queue, n)
                    assert redelivered or n not in s.seen, ("came again without saying so", s.queue, n)
                    s.seen.add(n)
                held[tag] = n
            last = max(held)
            choice = r.random()
            if choice < 0.15:
                c.nack(last, multiple=True)
                continue
            if choice < 0.3:  # out of order, one kept for later
                kept = r.choice(list(held))
                for tag in held:
                    if tag != kept:
                        with s.lock:
                            s.maybe.add(held[tag])
                        maybe.add(held[tag])
                        c.ack(tag)
                c.nack(kept)
            else:
                with s.lock:
                    s.maybe.update(held.values())
                maybe.update(held.values())
                c.ack(last, multiple=True)
            if r.random() < 0.5:
                c.sync()
                with s.lock:
                    s.settled |= maybe
                    s.maybe -= maybe
                maybe.clear()


def drain(c, s, ack):
    """Everything in the queue, in order; acknowledged for good, or left unacknowledged (and so given back when the channel ends)."""
    there = []
    while True:
        got = c.get(s.queue)
        if got is None:
            break
        n = s.number(got[3])
        assert got[1] or n not in s.seen, ("came again without saying so", s.queue, n)
        s.seen.add(n)
        there.append(n)
        if ack:
            c.ack(got[0])
    if ack:
        c.sync()
    return there


def check(node, s, ack):
    c = Amqp(node.ports["amqp"])
    _, messages, consumers = c.declare(s.queue)
    there = drain(c, s, ack)
    c.close()
    assert consumers == 0, consumers
    assert messages == len(there), ("declare counts", messages, len(there))
    assert there == sorted(there), ("out of order", s.queue)
    assert len(set(there)) == len(there), ("twice in the queue", s.queue)
    there = set(there)
    lost = s.confirmed - there - s.settled - s.maybe
    assert not lost, ("confirmed messages are gone", s.queue, len(lost), sorted(lost)[:5])
    back = s.settled & there
    assert not back, ("settled messages came back", s.queue, len(back), sorted(back)[:5])
    s.settled |= s.maybe - there  # now it is known which way these went
    s.maybe.clear()
    if ack:
        s.settled |= there
    return len(there)


def disk_usage(path):
    total = 0
    for root, _, files in os.walk(path):
        for name in files:
            if "/queue/" in root + "/":
                try:
                    total += os.stat(os.path.join(root, name)).st_blocks * 512
                except FileNotFoundError:
                    pass
    return total


def queues_survive_kills_between_checkpoints():
    rounds = option("rounds", 2 if SHORT else 6)
    seed = option("seed", int(time.time()))
    seconds = option("seconds", 2.0)
    print("rounds=%d seed=%d" % (rounds, seed), flush=True)
    random.seed(seed)
    states = [State(q, size) for q, size in QUEUES.items()]
    with Node() as node:
        node.start()
        c = Amqp(node.ports["amqp"])
        for s in states:
            c.declare(s.queue)
        c.close()
        for r in range(rounds):
            stop = threading.Event()
            load = [t(node, stop, s, random.random()) for s in states for t in (Publish, Consume, Consume)]
            for t in load:
                t.start()
            time.sleep(random.uniform(0.2, 1.0) * seconds)
            assert node.alive(), "the node died by itself"
            node.kill()
            stop.set()
            for t in load:
                t.join(30)
                if t.error is not None:
                    raise t.error
            node.start()
            left = [check(node, s, r % 3 == 2 or r == rounds - 1) for s in states]
            print("round %d: %s sent, %s settled, %s left" % (r + 1, [s.sent for s in states], [len(s.settled) for s in states], left), flush=True)
        written = sum(s.sent * s.size for s in states)
        eventually(lambda: disk_usage(node.data) < 12 << 20, timeout=40, every=0.5)
        print("%d MB published, %d MB on disk" % (written >> 20, disk_usage(node.data) >> 20))
        node.stop()
        node.start()
        for s in states:
            assert check(node, s, True) == 0
        node.stop()


def an_unused_queue_expires_after_a_restart_too():
    expires = shortstr("x-expires") + b"I" + struct.pack(">i", 1500)
    with Node() as node:
        node.start()
        c = Amqp(node.ports["amqp"])
        c.declare("short-lived", arguments=expires)
        c.declare("lasting")
        for q in ("short-lived", "lasting"):
            c.publish(q, b"x")
        c.sync()
        c.close()
        node.restart()
        time.sleep(4 * PATIENCE)  # nobody asks for it: a declare would be a use
        try:
            Amqp(node.ports["amqp"]).declare("short-lived", passive=True, arguments=expires)
            raise AssertionError("it is still there")
        except AmqpClosed as e:
            assert e.code == 404, e
        assert Amqp(node.ports["amqp"]).declare("lasting", passive=True)[1] == 1
        node.stop()


if __name__ == "__main__":
    run_tests([queues_survive_kills_between_checkpoints, an_unused_queue_expires_after_a_restart_too])
