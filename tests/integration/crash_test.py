"""kill -9 under load of all three protocols: nothing acknowledged is lost, nothing settled comes back, commands over several partitions stay whole.

    crash_test.py [--rounds=N] [--seed=N] [--seconds=S]

Each round: start, check everything that was acknowledged before, load for a random fraction of a second, SIGKILL.
"""
import random
import sys
import threading
import time

from node import SHORT, Node, run_tests
from wire import Amqp, Kafka, Resp, batch, batch_values

SPREAD = ["spread:%d" % i for i in range(8)]  # keys that hash to several partitions


def option(name, default):
    for a in sys.argv[1:]:
        if a.startswith("--%s=" % name):
            return type(default)(a.split("=", 1)[1])
    return default


class Load(threading.Thread):
    """One client that works until its connection dies; what it learned stays for the check."""

    def __init__(self, node, stop):
        super().__init__(daemon=True)
        self.node, self.stop, self.error = node, stop, None

    def run(self):
        try:
            self.work()
        except (OSError, EOFError):
            pass
        except Exception as e:
            self.error = e


class RespLoad(Load):
    """INCR, RPUSH and MSET over several partitions. `at_least` is what was acknowledged, `at_most` what was sent."""

    def __init__(self, node, stop, state):
        super().__init__(node, stop)
        self.state = state

    def work(self):
        c, s = Resp(self.node.ports["resp"]), self.state
        while not self.stop.is_set():
            n = s["sent"] = s["sent"] + 1
            replies = c.pipeline([("INCR", "counter"), ("RPUSH", "list", n), ("HSET", "hash", "f%d" % (n % 1000), n),
                                  ["MSET"] + [x for k in SPREAD for x in (k, n)]])
            assert replies[0] == n and replies[1] == n and replies[3] == b"OK", (n, replies)
            s["acked"] = n

    @staticmethod
    def check(node, s):
        c = Resp(node.ports["resp"])
        counter = int(c.call("GET", "counter") or 0)
        assert s["acked"] <= counter <= s["sent"], ("counter", counter, s)
        length = c.call("LLEN", "list")
        assert s["acked"] <= length <= s["sent"], ("list", length, s)
        assert c.call("LRANGE", "list", 0, -1) == [b"%d" % (i + 1) for i in range(length)], "the list has a hole"
        values = set(c.call("MGET", *SPREAD))
        assert len(values) == 1, ("MSET was torn apart", values)
        n = int(values.pop() or 0)
        assert s["acked"] <= n <= s["sent"], ("MSET", n, s)
        # go on from what is there
        c.call("SET", "counter", n)
        if length < n:
            c.call("RPUSH", "list", *range(length + 1, n + 1))
        elif length > n:
            c.call("RPOP", "list", length - n)
        c.close()
        s["acked"] = s["sent"] = n


class KafkaLoad(Load):
    def __init__(self, node, stop, state, acks):
        super().__init__(node, stop)
        self.state, self.acks = state, acks

    def work(self):
        c, s = Kafka(self.node.ports["kafka"]), self.state
        while not self.stop.is_set():
            values = [b"%d" % (s["sent"] + i + 1) for i in range(random.randint(1, 20))]
            s["sent"] += len(values)
            error, offset = c.produce("crash", s["partition"], batch(values), acks=self.acks)
            assert error == 0, error
            s["acked"] += [(offset + i, v) for i, v in enumerate(values)]

    @staticmethod
    def check(node, s):
        c = Kafka(node.ports["kafka"])
        there = dict(c.read_all("crash", s["partition"]))
        for offset, value in s["acked"]:
            assert there.get(offset) == value, ("record", s["partition"], offset, value, there.get(offset), len(there))
        assert sorted(there) == list(range(len(there))), "the offsets have a hole"
        c.close()


class AmqpPublish(Load):
    def __init__(self, node, stop, state):
        super().__init__(node, stop)
        self.state = state

    def work(self):
        c, s = Amqp(self.node.ports["amqp"]), self.state
        c.confirm_select()
        while not self.stop.is_set():
            bodies = [b"m%d" % (s["sent"] + i + 1) for i in range(random.randint(1, 30))]
            s["sent"] += len(bodies)
            c.send(b"".join(c.publish_bytes("crash", b) for b in bodies))
            waiting = dict(enumerate(bodies, s["tag"] + 1))
            s["tag"] += len(bodies)
            while waiting:
                ok, tag, multiple = c.confirmed()
                assert ok
                for t in [t for t in waiting if t == tag or (multiple and t <= tag)]:
                    s["confirmed"].add(waiting.pop(t))


class AmqpConsume(Load):
    def __init__(self, node, stop, state):
        super().__init__(node, stop)
        self.state = state

    def work(self):
        c, s = Amqp(self.node.ports["amqp"]), self.state
        c.qos(50)
        c.consume("crash")
        while not self.stop.is_set():
            batch_, tag = [], 0
            for _ in range(random.randint(1, 40)):
                tag, redelivered, body = c.delivery()
                # A redelivery must say so; one that was settled for good must never come.
                assert body not in s["settled"], ("settled, came back", body)
                if body in s["seen"]:
                    assert redelivered, ("came again without saying so", body)
                s["seen"].add(body)
                batch_.append(body)
            if random.random() < 0.2:
                c.nack(tag, multiple=True)
                continue
            s["maybe"].update(batch_)
            c.ack(tag, multiple=True)
            if random.random() < 0.7:
                c.sync()
                s["settled"] |= s["maybe"]
                s["maybe"].clear()

    @staticmethod
    def check(node, s):
        """Drains the queue: what was confirmed and not acknowledged must be in it, what was settled must not."""
        c = Amqp(node.ports["amqp"])
        there = []
        while True:
            got = c.get("crash")
            if got is None:
                break
            there.append(got[3])
        assert len(set(there)) == len(there), "a message is in the queue twice"
        lost = s["confirmed"] - set(there) - s["settled"] - s["maybe"]
        assert not lost, ("confirmed messages are gone", len(lost), sorted(lost)[:5])
        back = s["settled"] & set(there)
        assert not back, ("settled messages came back", len(back), sorted(back)[:5])
        # what was acknowledged without a later answer may be in either state: now it is known
        s["settled"] |= s["maybe"] - set(there)
        s["maybe"].clear()
        s["seen"].update(there)
        c.close()


def nothing_acknowledged_is_lost():
    rounds = option("rounds", 4 if SHORT else 10)
    seed = option("seed", int(time.time()))
    seconds = option("seconds", 0.6)
    print("rounds=%d seed=%d" % (rounds, seed), flush=True)
    random.seed(seed)
    resp = {"sent": 0, "acked": 0}
    topics = [{"partition": p, "sent": 0, "acked": []} for p in range(2)]
    amqp = {"sent": 0, "tag": 0, "confirmed": set(), "settled": set(), "maybe": set(), "seen": set()}
    with Node("--kafka.num_partitions=2") as node:
        node.start()
        assert Kafka(node.ports["kafka"]).create_topic("crash", 2) == 0
        Amqp(node.ports["amqp"]).declare("crash")
        for r in range(rounds):
            stop = threading.Event()
            amqp["tag"] = 0
            load = [RespLoad(node, stop, resp), KafkaLoad(node, stop, topics[0], 1), KafkaLoad(node, stop, topics[1], -1),
                    AmqpPublish(node, stop, amqp), AmqpConsume(node, stop, amqp)]
            for t in load:
                t.start()
            time.sleep(random.uniform(0.1, 1.0) * seconds)
            assert node.alive(), "the node died by itself"
            node.kill()
            stop.set()
            for t in load:
                t.join(30)
                if t.error:
                    raise t.error
            begin = time.monotonic()
            node.start()
            took = time.monotonic() - begin
            RespLoad.check(node, resp)
            for s in topics:
                KafkaLoad.check(node, s)
            AmqpConsume.check(node, amqp)
            print("round %d: %d commands, %d records, %d confirmed, %d settled, restart %.2f s" % (
                r + 1, resp["acked"], sum(len(s["acked"]) for s in topics), len(amqp["confirmed"]), len(amqp["settled"]), took), flush=True)


if __name__ == "__main__":
    run_tests([nothing_acknowledged_is_lost])
