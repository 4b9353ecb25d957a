"""The Redis protocol: registers and counters for linearizability, sets for what must not be lost, and a cluster client of our own that knows outcomes exactly."""
import random
import re
import time

from checkers import check_acknowledged, check_linearizable, check_list
from history import FAIL, INFINITE, OK, UNKNOWN, Op
from load import Client
from wire import Resp, RespError

OPS_PER_KEY = 180  # a key is given up then: the search for an order is bounded
# An error reply means "not done" (a write with an unknown outcome closes its connection). These may be met while nodes fail; any other is strange.
EXPECTED = ("MOVED ", "CLUSTERDOWN ", "NOREPLICAS ", "LOADING ", "TRYAGAIN ", "READONLY ", "MASTERDOWN ")


def slot_of(key):
    """CRC16 (XMODEM) of the hash tag, as every Redis Cluster client computes it."""
    key = key.encode() if isinstance(key, str) else key
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1:end]
    crc = 0
    for byte in key:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


def tag_of_partition(partition, partitions):
    """A hash tag whose slot lies in that partition."""
    n = 0
    while slot_of("t%d" % n) * partitions // 16384 != partition:
        n += 1
    return "t%d" % n


class RespCluster:
    """One thread's client: finds the leader of a slot, follows MOVED, and says of each call whether it happened."""

    def __init__(self, nodes, timeout, rng=random):
        self.nodes, self.timeout, self.rng = list(nodes), timeout, rng
        self.slots = []   # (first, last, (host, port))
        self.moved = {}   # slot -> (host, port), newer than `slots`
        self.connections = {}
        self.avoid = None  # the node that failed last: not asked first for the map

    def refresh(self):
        order = list(self.nodes)
        self.rng.shuffle(order)
        order.sort(key=lambda n: n == self.avoid)
        for node in order:
            try:
                rows = self.connection(node).call("CLUSTER", "SLOTS")
                self.slots = [(r[0], r[1], (r[2][0].decode(), r[2][1])) for r in rows if len(r) > 2]
                self.moved = {}
                return
            except RespError as e:
                if re.search("cluster support disabled|unknown command", str(e)):  # a node alone
                    self.slots, self.moved = [(0, 16383, node)], {}
                    return
            except (OSError, EOFError, AssertionError):
                self.drop(node)
        self.slots = []

    def leader(self, slot):
        if slot in self.moved:
            return self.moved[slot]
        for first, last, node in self.slots:
            if first <= slot <= last:
                return node
        return None

    def connection(self, node):
        c = self.connections.get(node)
        if c is None:
            c = self.connections[node] = Resp(node[1], host=node[0], timeout=self.timeout)
        return c

    def drop(self, node):
        c = self.connections.pop(node, None)
        if c is not None:
            c.close()

    def failed(self, node):
        self.drop(node)
        self.avoid, self.slots, self.moved = node, [], {}

    def call(self, key, *args):
        """(outcome, reply or reason). At most one node executes it."""
        return self.together(key, [args], lambda replies: replies[0])

    def together(self, key, commands, answer):
        """Commands sent in one piece to the leader of key; answer(replies) is the one that counts, an error among them or a value."""
        slot = slot_of(key)
        why = "no leader known"
        for _ in range(5):
            node = self.leader(slot)
            if node is None:
                self.refresh()
                node = self.leader(slot)
                if node is None:
                    return FAIL, why
            try:
                c = self.connection(node)
            except OSError as e:  # nothing was sent
                self.failed(node)
                return FAIL, "connect: %s" % e
            try:
                c.send(b"".join(c.encode(*args) for args in commands))
                reply = answer([c.reply() for _ in commands])
            except (OSError, EOFError) as e:
                self.failed(node)
                return UNKNOWN, "%s:%d %s" % (node[0], node[1], e)
            if not isinstance(reply, RespError):
                return OK, reply
            why = str(reply)
            if why.startswith("MOVED "):
                host, _, port = why.split()[2].rpartition(":")
                self.moved[slot] = (host, int(port))
                continue
            if why.startswith(EXPECTED):
                self.slots, self.moved = [], {}
                return FAIL, why
            return UNKNOWN, why
        self.slots, self.moved = [], {}
        return FAIL, "moved about: " + why

    def close(self):
        for node in list(self.connections):
            self.drop(node)


class Worker(Client):
    """Reads and writes the keys of its lane. Keys are shared by the lane's workers and replaced when they have had enough operations."""

    def __init__(self, part, load, name, lane, tag, shared):
        super().__init__(load, name, lane)
        self.part, self.tag, self.shared = part, tag, shared
        self.client = RespCluster(load.endpoints["resp"], load.timeout, self.rng)
        self.n = 0

    def key(self, kind):
        self.shared[kind] = self.shared.get(kind, 0) + 1  # a lost race only makes a key a little longer
        return self.named(kind)

    def named(self, kind):
        return "{%s}%s:%s:%d" % (self.tag, self.load.name, kind, self.shared.get(kind, 0) // OPS_PER_KEY)

    def step(self):
        dice = self.rng.random()
        self.n += 1
        value = "%s-%d" % (self.name, self.n)
        if dice < 0.45:
            self.do("r", self.key("reg"), None, "GET")
        elif dice < 0.75:
            self.do("w", self.key("reg"), value, "SET", value)
        elif dice < 0.85:
            self.do("incr", self.key("count"), None, "INCR")
        elif dice < 0.88:
            self.do("r", self.named("count"), None, "GET")
        elif dice < 0.92:
            self.transaction("w" if self.rng.random() < 0.5 else "r", self.key("tx"), value)
        elif dice < 0.96:
            self.do("push", "{%s}%s:list" % (self.tag, self.load.name), value, "RPUSH", value)
        else:
            self.do("add", "{%s}%s:set" % (self.tag, self.load.name), value, "SADD", value)

    def transaction(self, kind, key, value):
        """Two keys of one slot, always written together and read together, are one register: half of it is never to be seen."""
        pair = (key + ":a", key + ":b")
        body = [("SET", k, value) for k in pair] if kind == "w" else [("GET", k) for k in pair]
        op = Op(self.name, "resp", self.lane, kind, key, value if kind == "w" else None, time.monotonic())

        def answer(replies):
            # A command that was refused while it was queued says why better than EXECABORT does.
            return next((r for r in replies[:-1] if isinstance(r, RespError)), replies[-1])

        op.outcome, reply = self.client.together(key, [("MULTI",)] + body + [("EXEC",)], answer)
        if op.outcome == OK and kind == "r":
            if reply[0] != reply[1]:
                self.strange("half of a transaction: %s holds %r" % (key, reply))
            reply = reply[0]
        self.finish(op, reply, "EXEC")

    def do(self, kind, key, value, command, *args):
        op = Op(self.name, "resp", self.lane, kind, key, value, time.monotonic())
        if kind == "add" and self.load.wait:
            op.outcome, reply = self.with_wait(key, command, *args)
        else:
            op.outcome, reply = self.client.call(key, command, key, *args)
        self.finish(op, reply, command)

    def with_wait(self, key, command, *args):
        """A write at level leader that asks for more: acknowledged when WAIT says that another replica has it (rule 13)."""
        outcome, reply = self.client.together(key, [(command, key) + args, ("WAIT", 1, int(self.load.timeout * 700))],
                                              lambda replies: replies[0] if isinstance(replies[0], RespError) else replies[1])
        if outcome == OK and reply < 1:
            return UNKNOWN, "wait: %d replicas" % reply
        return outcome, reply

    def finish(self, op, reply, command):
        kind, key = op.kind, op.key
        if op.outcome == OK:
            op.end = time.monotonic()
            if kind == "r":
                op.value = self.part.decode(key, reply)
            elif kind == "incr":
                op.value = reply
        else:
            op.note = str(reply)
            op.end = time.monotonic() if op.outcome == FAIL else INFINITE
            if op.outcome == UNKNOWN and isinstance(reply, str) and reply[:1].isupper():
                self.strange("%s %s is answered: %s" % (command, key, reply))
        self.history.add(op)
        if op.outcome != OK:
            time.sleep(0.03)

    def leave(self):
        self.client.close()


class Popper(Client):
    """Waits in BLPOP for what the lane's workers push: a client blocked at a leader that goes away must be let go, and must not take an element with it."""

    def __init__(self, part, load, name, lane, tag):
        super().__init__(load, name, lane)
        self.client = RespCluster(load.endpoints["resp"], load.timeout + 1, self.rng)
        self.list = "{%s}%s:list" % (tag, load.name)

    def step(self):
        op = Op(self.name, "resp", self.lane, "pop", self.list, None, time.monotonic())
        op.outcome, reply = self.client.call(self.list, "BLPOP", self.list, 1)
        if op.outcome == OK:
            op.end = time.monotonic()
            op.value = reply[1].decode() if reply is not None else None
        else:
            op.note = str(reply)
            if op.outcome == UNKNOWN and op.note.startswith("UNBLOCKED "):
                op.outcome = FAIL  # says itself that nothing was taken
            if op.outcome == FAIL:
                op.end = time.monotonic()
            elif op.note[:1].isupper() and " " in op.note:
                self.strange("BLPOP %s is answered: %s" % (self.list, op.note))
        self.history.add(op)
        if op.outcome != OK:
            time.sleep(0.03)

    def leave(self):
        self.client.close()


class RespLoad:
    protocol = "resp"

    def __init__(self, load, workers_per_lane=2):
        self.load, self.workers_per_lane = load, workers_per_lane
        rng = load.rng_for("resp lanes")
        first = rng.randrange(load.partitions)
        step = max(load.partitions // load.lanes, 1)
        step -= step % 3 == 0 and step > 1  # neighbours lie on different leaders however they are dealt out
        self.tags = {}
        for i in range(load.lanes):
            p = (first + i * step) % load.partitions
            self.tags["p%d" % p] = tag_of_partition(p, load.partitions)
        self.found = {}

    @staticmethod
    def decode(key, reply):
        if reply is None:
            return None
        return int(reply) if ":count:" in key else reply.decode()

    def lane_names(self):
        return list(self.tags)

    def setup(self):
        pass

    def clients(self):
        out = []
        for lane, tag in self.tags.items():
            shared = {}
            out += [Worker(self, self.load, "resp-%s-%d" % (lane, i), lane, tag, shared) for i in range(self.workers_per_lane)]
            out.append(Popper(self, self.load, "pop-%s" % lane, lane, tag))
        return out

    def final(self, timeout):
        """A last read of every key: registers as operations like any other, sets and lists for their checkers."""
        client = RespCluster(self.load.endpoints["resp"], max(self.load.timeout, 5))
        deadline = time.monotonic() + timeout
        commands = {"add": ("SMEMBERS",), "push": ("LRANGE", 0, -1)}
        for lane, key, kind in sorted({(o.lane, o.key, o.kind if o.kind in commands else "r") for o in self.load.history.ops("resp") if o.kind != "pop"}):
            asked = key + ":a" if ":tx:" in key else key
            command, *args = commands.get(kind, ("GET",))
            while True:
                start = time.monotonic()
                outcome, reply = client.call(asked, command, asked, *args)
                if outcome == OK:
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError("the last read of %s: %s" % (asked, reply))
                time.sleep(0.1)
            if kind == "r":
                self.load.history.add(Op("final", "resp", lane, "r", key, self.decode(key, reply), start, time.monotonic(), OK))
            else:
                self.found[key] = [v.decode() for v in reply]
        client.close()

    def check(self):
        ops = self.load.history.ops("resp")
        sets, lists, registers = ([o for o in ops if o.kind in kinds] for kinds in (("add",), ("push", "pop"), ("r", "w", "incr")))
        problems = check_acknowledged(sets, {o.key: self.found.get(o.key, ()) for o in sets}, "set")
        if self.load.wait:
            return problems  # at level leader a failover takes back what nobody waited for
        for key in sorted({o.key for o in lists}):
            problems += check_list(key, [o for o in lists if o.key == key], self.found.get(key, ()))
        return problems + check_linearizable(registers)
