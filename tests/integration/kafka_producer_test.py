"""Kafka's promises across kill -9: an idempotent producer that sends again what was not answered has every record once and in order; committed offsets of a
group never go back."""
import random
import struct
import threading
import time

from node import Node, eventually, run_tests
from wire import Kafka, batch

RETRIABLE = (3, 5, 6, 14, 15, 56)


def connected(node):
    """A connection, however often the node dies meanwhile."""
    return eventually(lambda: Kafka(node.ports["kafka"], timeout=5), timeout=30)


def insist(node, state, ask):
    """Repeats ask(connection) until it is answered without a retriable error; returns the answer."""
    while True:
        try:
            if state.get("c") is None:
                state["c"] = connected(node)
            answer = ask(state["c"])
            if answer[0] not in RETRIABLE:
                return answer
            time.sleep(0.02)
        except (OSError, EOFError, AssertionError, struct.error):
            state["c"] = None
            state["again"] = state.get("again", 0) + 1


def producer_id(c):
    c.request(22, 0, struct.pack(">hi", -1, 60000))
    return struct.unpack(">hqh", c.response()[4:16])


def commit(c, group, topic, offset):
    """OffsetCommit v2 from outside of the group."""
    body = c.string(group) + struct.pack(">i", -1) + c.string("") + struct.pack(">qi", -1, 1) + c.string(topic)
    c.request(8, 2, body + struct.pack(">iiq", 1, 0, offset) + c.string(""))
    return (struct.unpack(">h", c.response()[-2:])[0],)


def committed(c, group, topic):
    """OffsetFetch v1."""
    c.request(9, 1, c.string(group) + struct.pack(">i", 1) + c.string(topic) + struct.pack(">ii", 1, 0))
    d = c.response()
    at = 4 + 2 + len(topic) + 4 + 4
    return struct.unpack(">q", d[at:at + 8])[0]


def kill_rounds(node, rounds):
    for _ in range(rounds):
        time.sleep(random.uniform(0.3, 1.0))
        node.kill()
        node.start()


def idempotent_producer_has_everything_once():
    with Node("--kafka.num_partitions=1") as node:
        node.start()
        state, sent, stop = {}, [0], threading.Event()
        assert insist(node, state, lambda c: (c.create_topic("once", 1),))[0] == 0
        _, pid, epoch = insist(node, state, producer_id)

        def work():
            while not stop.is_set():
                first = sent[0]
                data = batch([b"%d" % (first + i) for i in range(10)], producer=(pid, epoch, first))
                error, offset = insist(node, state, lambda c: c.produce("once", 0, data))
                assert (error, offset) == (0, first), (error, offset, first)
                sent[0] += 10

        worker = threading.Thread(target=work)
        worker.start()
        kill_rounds(node, 8)
        stop.set()
        worker.join()
        values = [v for _, v in Kafka(node.ports["kafka"]).read_all("once", 0)]
        assert values == [b"%d" % i for i in range(sent[0])], (len(values), sent[0])
        assert sent[0] > 100 and state.get("again", 0) >= 1, (sent, state)


def committed_offsets_never_go_back():
    with Node("--kafka.num_partitions=1") as node:
        node.start()
        state, done, stop = {}, [0], threading.Event()
        assert insist(node, state, lambda c: (c.create_topic("t", 1),))[0] == 0

        def work():
            while not stop.is_set():
                assert insist(node, state, lambda c: commit(c, "g", "t", done[0] + 1))[0] == 0
                done[0] += 1

        worker = threading.Thread(target=work)
        worker.start()
        for _ in range(6):
            time.sleep(random.uniform(0.3, 1.0))
            node.kill()
            known = done[0]
            node.start()
            assert committed(connected(node), "g", "t") >= known
        stop.set()
        worker.join()
        assert committed(connected(node), "g", "t") == done[0] > 10


if __name__ == "__main__":
    run_tests([idempotent_producer_has_everything_once, committed_offsets_never_go_back])
