"""The Kafka protocol: idempotent producers with acks=all that repeat a batch until it is answered, consumers that follow, and committed offsets of groups."""
import struct
import time

from checkers import StreamPartition, check_linearizable, check_stream
from history import FAIL, OK, UNKNOWN, Op
from load import Client
from wire import Kafka, batch, batch_values

# Errors that a hurt cluster may answer; all mean "ask again", and all but REQUEST_TIMED_OUT and ..._AFTER_APPEND mean "not done".
RETRIABLE = {3: "UNKNOWN_TOPIC_OR_PARTITION", 5: "LEADER_NOT_AVAILABLE", 6: "NOT_LEADER_OR_FOLLOWER", 7: "REQUEST_TIMED_OUT", 9: "REPLICA_NOT_AVAILABLE",
             13: "NETWORK_EXCEPTION", 14: "COORDINATOR_LOAD_IN_PROGRESS", 15: "COORDINATOR_NOT_AVAILABLE", 16: "NOT_COORDINATOR",
             19: "NOT_ENOUGH_REPLICAS", 20: "NOT_ENOUGH_REPLICAS_AFTER_APPEND", 56: "KAFKA_STORAGE_ERROR", 74: "FENCED_LEADER_EPOCH", 75: "UNKNOWN_LEADER_EPOCH",
             78: "OFFSET_NOT_AVAILABLE"}
DUPLICATE_SEQUENCE = 46
BROKEN = (OSError, EOFError, AssertionError, struct.error, IndexError)


class Reader:
    """Fields of a Kafka response, one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, form):
        (value,) = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return value

    def text(self):
        n = self.number("h")
        if n < 0:
            return None
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def ints(self):
        return [self.number("i") for _ in range(self.number("i"))]


class KafkaCluster:
    """One thread's client: metadata from any node, a connection a node."""

    def __init__(self, nodes, timeout, rng):
        self.nodes, self.timeout, self.rng = list(nodes), timeout, rng
        self.connections, self.leaders, self.avoid = {}, {}, None
        self.controller = None

    def connection(self, node):
        c = self.connections.get(node)
        if c is None:
            c = self.connections[node] = Kafka(node[1], host=node[0], timeout=self.timeout)
        return c

    def drop(self, node):
        c = self.connections.pop(node, None)
        if c is not None:
            c.close()

    def failed(self, node):
        self.drop(node)
        self.avoid, self.leaders = node, {}

    def any_nodes(self):
        order = list(self.nodes)
        self.rng.shuffle(order)
        order.sort(key=lambda n: n == self.avoid)
        return order

    def refresh(self, topic):
        """Metadata v1 from the first node that answers; {partition: (host, port)} of those with a leader."""
        for node in self.any_nodes():
            try:
                c = self.connection(node)
                c.request(3, 1, struct.pack(">i", 1) + c.string(topic))
                r = Reader(c.response())
                brokers = {}
                for _ in range(r.number("i")):
                    number, host, port, _ = r.number("i"), r.text(), r.number("i"), r.text()
                    brokers[number] = (host, port)
                self.controller = brokers.get(r.number("i"))
                leaders = {}
                for _ in range(r.number("i")):
                    r.number("h"), r.text(), r.number("b")
                    for _ in range(r.number("i")):
                        _, partition, leader = r.number("h"), r.number("i"), r.number("i")
                        r.ints(), r.ints()
                        if leader in brokers:
                            leaders[partition] = brokers[leader]
                self.leaders = leaders
                if leaders:
                    return leaders
            except BROKEN:
                self.drop(node)
        return {}

    def leader(self, topic, partition):
        node = self.leaders.get(partition)
        return node if node is not None else self.refresh(topic).get(partition)

    def close(self):
        for node in list(self.connections):
            self.drop(node)


class Producer(Client):
    """Batches of one producer id to one partition, one in flight; each is repeated with the same sequence until it is answered (KIP-98)."""

    def __init__(self, part, load, name, lane, stream):
        super().__init__(load, name, lane)
        self.topic = part.topic
        self.stream, self.client = stream, KafkaCluster(load.endpoints["kafka"], load.timeout, self.rng)
        self.identity, self.sequence, self.base = None, 0, 0  # sequence: of the producer id; base: what earlier ids sent

    def init(self):
        for node in self.client.any_nodes():
            try:
                c = self.client.connection(node)
                c.request(22, 0, struct.pack(">hi", -1, 60000))
                error, pid, epoch = struct.unpack(">hqh", c.response()[4:16])
                if error == 0:
                    self.identity = pid, epoch
                    return True
                if error not in RETRIABLE:
                    self.strange("InitProducerId: error %d" % error)
            except BROKEN:
                self.client.failed(node)
        return False

    def step(self):
        if self.identity is None and not self.init():
            time.sleep(0.1)
            return
        values = [b"%s.%d" % (self.name.encode(), self.base + self.sequence + i) for i in range(self.rng.randint(1, 4))]
        self.stream.sent.update(values)
        data = batch(values, (self.identity[0], self.identity[1], self.sequence), int(time.time() * 1000))  # what is old goes by retention
        op = self.history.add(Op(self.name, "kafka", self.lane, "w", self.stream.name, values[0].decode(), time.monotonic()))
        while not self.asked_to_stop.is_set():
            answer = self.once(data)
            if answer is not None:
                error, offset = answer
                if error in (0, DUPLICATE_SEQUENCE):
                    for i, v in enumerate(values):
                        self.stream.acked[v] = offset + i if error == 0 and offset >= 0 else None
                    op.end, op.outcome = time.monotonic(), OK
                    self.sequence += len(values)
                    return
                if error not in RETRIABLE:
                    self.strange("Produce to %s, sequence %d: error %d" % (self.stream.name, self.sequence, error))
                    self.identity = None  # a new producer; its values go on where this one's ended
                    self.base += len(values) + self.sequence
                    self.sequence = 0
                    return
                op.note = RETRIABLE[error]
                self.client.leaders = {}
            time.sleep(0.03)

    def once(self, data):
        partition = int(self.lane)
        node = self.client.leader(self.topic, partition)
        if node is None:
            return None
        try:
            return self.client.connection(node).produce(self.topic, partition, data)
        except BROKEN:
            self.client.failed(node)
            return None

    def leave(self):
        self.client.close()


class Consumer(Client):
    """Reads one partition from its leader and remembers everything."""

    def __init__(self, part, load, name, lane, stream):
        super().__init__(load, name, lane)
        self.topic = part.topic
        self.stream, self.client = stream, KafkaCluster(load.endpoints["kafka"], load.timeout, self.rng)
        self.offset = 0
        self.got = stream.consumers.setdefault(name, [])

    def step(self):
        partition = int(self.lane)
        node = self.client.leader(self.topic, partition)
        if node is None:
            time.sleep(0.05)
            return
        try:
            error, _, data = self.client.connection(node).fetch(self.topic, partition, self.offset, wait_ms=100)
        except BROKEN:
            self.client.failed(node)
            return
        if error == 0:
            self.got += [x for x in batch_values(data) if x[0] >= self.offset]
            if self.got:
                self.offset = self.got[-1][0] + 1
            return
        if error not in RETRIABLE:
            self.strange("Fetch of %s at %d: error %d" % (self.stream.name, self.offset, error))
        self.client.leaders = {}
        time.sleep(0.05)

    def leave(self):
        self.client.close()


class Committer(Client):
    """Commits offsets of a group from outside and reads them back: the coordinator's state as a register (rule 14: always level quorum)."""

    def __init__(self, part, load, name, lane):
        super().__init__(load, name, lane)
        self.topic = part.topic
        self.client = KafkaCluster(load.endpoints["kafka"], load.timeout, self.rng)
        self.coordinator, self.n = None, 0

    def find(self):
        """FindCoordinator v0."""
        for node in self.client.any_nodes():
            try:
                c = self.client.connection(node)
                c.request(10, 0, c.string(self.group))
                r = Reader(c.response())
                error, _, host, port = r.number("h"), r.number("i"), r.text(), r.number("i")
                if error == 0:
                    return host, port
                if error not in RETRIABLE:
                    self.strange("FindCoordinator: error %d" % error)
            except BROKEN:
                self.client.failed(node)
        return None

    @property
    def group(self):
        return "%s-%s-%d" % (self.topic, self.lane, self.n // 150)

    def step(self):
        self.coordinator = self.coordinator or self.find()
        if self.coordinator is None:
            time.sleep(0.05)
            return
        self.n += 1
        kind = "w" if self.rng.random() < 0.6 else "r"
        op = Op(self.name, "group", self.lane, kind, self.group, self.n if kind == "w" else None, time.monotonic())
        try:
            c = self.client.connection(self.coordinator)
        except OSError:
            self.client.failed(self.coordinator)
            self.coordinator = None
            return
        try:
            error, value = self.commit(c, op.value) if kind == "w" else self.fetch(c)
        except BROKEN as e:
            self.client.failed(self.coordinator)
            self.coordinator, op.note = None, str(e)
            self.history.add(op)
            return
        if error == 0:
            op.outcome, op.end = OK, time.monotonic()
            if kind == "r":
                op.value = value
        else:
            op.outcome, op.end, op.note = (UNKNOWN, op.end, "error 7") if error == 7 else (FAIL, time.monotonic(), RETRIABLE.get(error, str(error)))
            self.coordinator = None
            if error not in RETRIABLE:
                self.strange("offset of %s (%s): error %d" % (self.group, kind, error))
        self.history.add(op)

    def commit(self, c, offset):
        """OffsetCommit v2."""
        body = c.string(self.group) + struct.pack(">i", -1) + c.string("") + struct.pack(">qi", -1, 1) + c.string(self.topic)
        c.request(8, 2, body + struct.pack(">iiq", 1, 0, offset) + c.string(""))
        return struct.unpack(">h", c.response()[-2:])[0], None

    def fetch(self, c):
        """OffsetFetch v1; None when nothing was committed."""
        c.request(9, 1, c.string(self.group) + struct.pack(">i", 1) + c.string(self.topic) + struct.pack(">ii", 1, 0))
        r = Reader(c.response())
        r.number("i"), r.text(), r.number("i"), r.number("i")
        offset, _, error = r.number("q"), r.text(), r.number("h")
        return error, offset if offset >= 0 else None

    def leave(self):
        self.client.close()


class Member(Client):
    """The only member of a consumer group: joins once and sends heartbeats. Failovers of its coordinator keep member, generation and all (its session is long)."""

    SESSION_MS = 60000

    def __init__(self, part, load, name, lane):
        super().__init__(load, name, lane)
        self.topic = part.topic
        self.client = KafkaCluster(load.endpoints["kafka"], load.timeout, self.rng)
        self.coordinator, self.joins, self.member, self.generation, self.last_ok = None, 0, None, None, 0

    group = property(lambda self: "%s-%s-%d" % (self.topic, self.name, self.joins))
    find = Committer.find

    def step(self):
        self.coordinator = self.coordinator or self.find()
        if self.coordinator is None:
            time.sleep(0.05)
            return
        try:
            c = self.client.connection(self.coordinator)
            if self.member is None:
                self.enter(c)
            else:
                self.heartbeat(c)
                time.sleep(0.05)
        except BROKEN:
            self.client.failed(self.coordinator)
            self.coordinator = None
            if self.generation is None:
                self.member = None
                self.joins += 1  # the join may have happened: another group, not a second member

    def enter(self, c):
        """JoinGroup v0, SyncGroup v0."""
        c.request(11, 0, c.string(self.group) + struct.pack(">i", self.SESSION_MS) + c.string("") + c.string("consumer") + struct.pack(">i", 1) + c.string("range")
                  + struct.pack(">i", 0))
        r = Reader(c.response())
        error = r.number("h")
        if error == 0:
            generation, _, _, member = r.number("i"), r.text(), r.text(), r.text()
            c.request(14, 0, c.string(self.group) + struct.pack(">i", generation) + c.string(member) + struct.pack(">i", 1) + c.string(member) + struct.pack(">i", 1) + b"x")
            error = Reader(c.response()).number("h")
        if error == 0:
            self.member, self.generation = member, generation
            return
        self.joins += 1
        self.again(error, "join")

    def heartbeat(self, c):
        """Heartbeat v0."""
        c.request(12, 0, c.string(self.group) + struct.pack(">i", self.generation) + c.string(self.member))
        error = Reader(c.response()).number("h")
        if error != 0:
            self.again(error, "heartbeat in generation %d" % self.generation)

    def again(self, error, what):
        self.coordinator = None
        if error not in RETRIABLE:
            self.strange("%s of %s: error %d (member and generation do not survive)" % (what, self.group, error))
            self.member = self.generation = None
            self.joins += 1
        time.sleep(0.05)

    def leave(self):
        self.client.close()


class KafkaLoad:
    protocol = "kafka"

    def __init__(self, load):
        self.load = load
        self.topic = "fault-" + load.name
        self.streams = {str(p): StreamPartition("%s-%d" % (self.topic, p)) for p in range(load.lanes)}

    def lane_names(self):
        return list(self.streams)

    def setup(self):
        client = KafkaCluster(self.load.endpoints["kafka"], 10, self.load.rng_for("setup"))
        deadline = time.monotonic() + 20
        while True:
            error = None
            try:
                error = client.connection(client.any_nodes()[0]).create_topic(self.topic, self.load.lanes)
            except BROKEN as e:
                error = e
            if error in (0, 36) and len(client.refresh(self.topic)) == self.load.lanes:
                break
            if time.monotonic() > deadline:
                raise TimeoutError("topic %s cannot be created: %s" % (self.topic, error))
            time.sleep(0.1)
        client.close()

    def clients(self):
        out = []
        for lane, stream in self.streams.items():
            name = "kafka%s" % lane
            stream.idempotent.add(name)
            out.append(Producer(self, self.load, name, lane, stream))
            out.append(Consumer(self, self.load, "reader%s" % lane, lane, stream))
        return out + [Committer(self, self.load, "group%d" % i, "g%d" % i) for i in range(2)] + [
            Member(self, self.load, "member%d" % i, "m%d" % i) for i in range(2)]

    def final(self, timeout):
        client = KafkaCluster(self.load.endpoints["kafka"], max(self.load.timeout, 5), self.load.rng_for("final"))
        deadline = time.monotonic() + timeout
        for lane, stream in self.streams.items():
            while True:
                node = client.leader(self.topic, int(lane))
                try:
                    stream.final = self.read_all(client.connection(node), node, int(lane))
                    break
                except BROKEN + (TypeError,) as e:
                    if node is not None:
                        client.failed(node)
                    if time.monotonic() > deadline:
                        raise TimeoutError("the last read of %s: %r" % (stream.name, e)) from None
                    time.sleep(0.1)
        client.close()

    def read_all(self, c, node, partition):
        """From offset 0 to the high watermark."""
        out, offset = [], 0
        while True:
            error, hw, data = c.fetch(self.topic, partition, offset)
            assert error == 0, "Fetch of %s-%d at %d from %s:%d: error %d, high watermark %d" % ((self.topic, partition, offset) + node + (error, hw))
            got = [x for x in batch_values(data) if x[0] >= offset]
            out += got
            if not got:
                assert offset >= hw, "nothing at %d below the high watermark %d of %s-%d" % (offset, hw, self.topic, partition)
                return out
            offset = got[-1][0] + 1

    def check(self):
        problems = []
        for stream in self.streams.values():
            problems += check_stream(stream)
        return problems + check_linearizable(self.load.history.ops("group"))
