"""AMQP 0-9-1: publishers with confirms through any node, consumers that acknowledge by hand, give back now and then, and know which acks are final (rule 8)."""
import select
import struct
import time

from checkers import QueueLog, check_queue
from history import OK, UNKNOWN, Op
from load import Client
from wire import Amqp, AmqpClosed

USER = {"user": "rig", "password": "rig"}  # guest may come from loopback only; Cluster.add_user makes this one
BROKEN = (OSError, EOFError, AssertionError, struct.error, IndexError)


class AmqpNode:
    """Connects to one node after the other."""

    def __init__(self, nodes, timeout, first):
        self.nodes, self.timeout, self.at = list(nodes), timeout, first

    def connect(self):
        host, port = self.nodes[self.at % len(self.nodes)]
        try:
            return Amqp(port, host=host, timeout=self.timeout, **USER)
        except BROKEN + (AmqpClosed,):
            self.at += 1
            raise

    def next(self):
        self.at += 1


def ready(c, seconds):
    """True when there is something to read; a read after that only fails when the connection does."""
    return bool(c.buffer or c.deliveries) or bool(select.select([c.sock], [], [], max(seconds, 0))[0])


class Publisher(Client):
    """A few persistent messages at a time, confirmed before the next; what is not confirmed in time is unknown, and the next node is tried."""

    def __init__(self, part, load, name, lane, queue, first):
        super().__init__(load, name, lane)
        self.queue, self.nodes = queue, AmqpNode(load.endpoints["amqp"], load.timeout, first)
        self.c, self.connections, self.sequence, self.tag = None, 0, 0, 0

    def step(self):
        if self.c is None and not self.connect():
            time.sleep(0.03)
            return
        waiting = {}
        data = b""
        for i in range(self.rng.randint(1, 5)):
            body = b"%s.%d.%d" % (self.name.encode(), self.connections, self.sequence)
            self.sequence += 1
            self.tag += 1
            self.queue.sent.add(body)
            waiting[self.tag] = self.history.add(Op(self.name, "amqp", self.lane, "w", self.queue.name, body, time.monotonic()))
            data += self.c.publish_bytes(self.queue.name, body)
        deadline = time.monotonic() + self.load.timeout
        try:
            self.c.send(data)
            while waiting:
                if not self.c.confirms:
                    if not ready(self.c, deadline - time.monotonic()):
                        raise TimeoutError("no confirm")
                    self.c.step()
                    continue
                ok, tag, multiple = self.c.confirms.pop(0)
                for t in [t for t in waiting if t == tag or (multiple and t <= tag)]:
                    op = waiting.pop(t)
                    if ok:
                        op.end, op.outcome = time.monotonic(), OK
                        self.queue.confirmed.add(op.value)
                    else:
                        op.note = "basic.nack"
        except BROKEN + (AmqpClosed,) as e:
            for op in waiting.values():
                op.note = str(e)
            if isinstance(e, AmqpClosed) and e.code not in (320, 541):
                self.strange("publishing to %s: %s" % (self.queue.name, e))
            self.hang_up()
            self.nodes.next()

    def connect(self):
        try:
            self.c = self.nodes.connect()
            self.c.confirm_select()
        except BROKEN + (AmqpClosed,):
            self.hang_up()
            return False
        self.tag, self.connections, self.sequence = 0, self.connections + 1, 0
        return True

    def hang_up(self):
        if self.c is not None:
            self.c.close()
            self.c = None

    def leave(self):
        self.hang_up()


class Consumer(Client):
    def __init__(self, part, load, name, lane, queue, first):
        super().__init__(load, name, lane)
        self.queue, self.nodes = queue, AmqpNode(load.endpoints["amqp"], load.timeout, first)
        self.c, self.connections, self.acked = None, 0, []
        self.quiet = 0

    def step(self):
        try:
            if self.c is None:
                self.c = self.nodes.connect()
                self.c.qos(20)
                self.c.consume(self.queue.name)
                self.connections += 1
                self.acked, self.quiet = [], time.monotonic()
            self.work()
        except BROKEN + (AmqpClosed,) as e:
            if isinstance(e, AmqpClosed) and e.code not in (320, 541):
                self.strange("consuming %s: %s" % (self.queue.name, e))
            self.hang_up()
            self.nodes.next()
            time.sleep(0.03)

    def take(self, c=None):
        c = c or self.c
        tag, redelivered, body = c.delivery()
        self.queue.deliveries.append((time.monotonic(), "%s.%d" % (self.name, self.connections), body, redelivered))
        return tag, body

    def work(self):
        if not ready(self.c, 0.2):
            # A queue that is alive is never silent for long; a consumer that was forgotten would be.
            if time.monotonic() > self.quiet + 5:
                self.hang_up()
                self.nodes.next()
            return
        if not self.c.deliveries:
            self.c.step()
            if not self.c.deliveries:
                return
        self.quiet = time.monotonic()
        bodies, tag = [], 0
        for _ in range(min(self.rng.randint(1, 10), len(self.c.deliveries))):
            tag, body = self.take()
            bodies.append(body)
        dice = self.rng.random()
        if dice < 0.05:
            self.c.nack(tag, multiple=True)
            return
        self.queue.maybe.update(bodies)
        self.acked += bodies
        self.c.ack(tag, multiple=True)
        if dice < 0.5:
            self.c.sync()
            now = time.monotonic()
            for body in self.acked:
                self.queue.settled[body] = now
            self.queue.maybe.difference_update(self.acked)
            self.acked = []

    def hang_up(self):
        if self.c is not None:
            self.c.close()
            self.c = None

    def leave(self):
        self.hang_up()


class AmqpLoad:
    protocol = "amqp"

    def __init__(self, load):
        self.load = load
        self.queues = {"q%d" % i: QueueLog("fault-%s-%d" % (load.name, i)) for i in range(load.lanes)}

    def lane_names(self):
        return list(self.queues)

    def setup(self):
        deadline = time.monotonic() + 20
        nodes = AmqpNode(self.load.endpoints["amqp"], 10, 0)
        for q in self.queues.values():
            while True:
                try:
                    c = nodes.connect()
                    c.declare(q.name)
                    c.close()
                    break
                except BROKEN + (AmqpClosed,) as e:
                    if time.monotonic() > deadline:
                        raise TimeoutError("queue %s cannot be declared: %s" % (q.name, e)) from None
                    nodes.next()
                    time.sleep(0.1)

    def clients(self):
        out = []
        for i, (lane, queue) in enumerate(self.queues.items()):
            out.append(Publisher(self, self.load, "pub%d" % i, lane, queue, i))
            out.append(Consumer(self, self.load, "sub%d" % i, lane, queue, i + 1))
        return out

    def final(self, timeout):
        """Takes everything that is left; all other consumers are gone, so all of it is ready or becomes so."""
        for i, q in enumerate(self.queues.values()):
            deadline = time.monotonic() + timeout
            nodes = AmqpNode(self.load.endpoints["amqp"], max(self.load.timeout, 5), i)
            empty_since = None
            while True:
                try:
                    c = nodes.connect()
                    while True:
                        got = c.get(q.name)
                        if got is not None:
                            tag, redelivered, _, body = got
                            q.deliveries.append((time.monotonic(), "final", body, redelivered))
                            c.ack(tag)
                            empty_since = None
                        else:
                            # The server may still be noticing that a consumer's connection is gone.
                            empty_since = empty_since or time.monotonic()
                            if time.monotonic() > empty_since + 0.5:
                                break
                            time.sleep(0.1)
                    c.sync()
                    c.close()
                    break
                except BROKEN + (AmqpClosed,) as e:
                    if time.monotonic() > deadline:
                        raise TimeoutError("queue %s cannot be emptied: %s" % (q.name, e)) from None
                    nodes.next()
                    time.sleep(0.1)

    def check(self):
        problems = []
        for q in self.queues.values():
            problems += check_queue(q)
        return problems
