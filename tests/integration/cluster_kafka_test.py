"""Kafka clients in a cluster of three: any node is a way in, a leader's death loses nothing that was acknowledged and repeats nothing of an idempotent producer,
and a group goes on with its members, generation and offsets at its next coordinator. kcat is librdkafka; requests where exactness counts are our own."""
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time

from cluster_form_test import Cluster
from node import PATIENCE, eventually, run_tests
from wire import Kafka, batch

NOT_LEADER = 6


class KafkaCluster(Cluster):
    """Ports of the fronts are known once they listen; a restart keeps them."""

    def form(self, order=None):
        super().form(order)
        self.learn()
        eventually(lambda: len(self.metadata()["brokers"]) == len(self.members), timeout=20)

    def learn(self):
        for m in self.members:
            eventually(lambda: "protocol=kafka" in m.log())
            for p, port in re.findall(r'msg="listening" protocol=(\w+) address=\S+:(\d+)', m.log()):
                m.ports[p] = int(port)

    def ports(self):
        return [m.ports["kafka"] for m in self.members if m.alive()]

    def bootstrap(self):
        return ",".join("127.0.0.1:%d" % p for p in self.ports())

    def member(self, node_id):
        return self.members[node_id - 1]

    def kcat(self, *args, data=None, port=None, timeout=60):
        at = "127.0.0.1:%d" % port if port else self.bootstrap()
        r = subprocess.run(["kcat", "-b", at, *args], input=data, capture_output=True, timeout=timeout * PATIENCE)
        assert r.returncode == 0, (args, r.returncode, r.stderr.decode()[-2000:])
        return r.stdout.decode()

    def metadata(self, topic=None, port=None):
        return json.loads(self.kcat("-L", "-J", *(["-t", topic] if topic else []), port=port))

    def leaders(self, topic, port=None):
        parts = self.metadata(topic, port)["topics"][0]["partitions"]
        return {p["partition"]: p["leader"] for p in parts}

    def coordinator(self, group):
        """The node that coordinates the group, once it is one that lives."""
        found = []

        def ask():
            k = Kafka(self.ports()[0])
            k.request(10, 2, Kafka.string(group) + b"\0")
            body = k.response()
            k.close()
            code, n = struct.unpack(">hh", body[4:8])
            at = 8 + max(n, 0)
            found[:] = struct.unpack(">i", body[at:at + 4])
            return code == 0 and self.member(found[0]).alive()

        eventually(ask, timeout=20)
        return found[0]

    def create(self, topic, partitions=4):
        code = Kafka(self.ports()[0]).create_topic(topic, partitions)
        assert code in (0, None), code
        for port in self.ports():  # rule 17: whoever is asked knows it
            eventually(lambda: set(self.leaders(topic, port).values()) - {-1, 0} and len(self.leaders(topic, port)) == partitions, timeout=10)


def need_kcat():
    if shutil.which("kcat") is None:
        print("no kcat: left out")
        return False
    return True


def read_all(c, topic, **kwargs):
    return c.kcat("-C", "-t", topic, "-e", "-q", **kwargs).split()


def any_node_is_a_way_in():
    if not need_kcat():
        return
    with KafkaCluster() as c:
        c.create("orders")
        seen = [c.metadata("orders", port) for port in c.ports()]
        for m in seen:
            assert sorted(b["id"] for b in m["brokers"]) == [1, 2, 3], m["brokers"]
            assert all(len(p["replicas"]) == 3 for p in m["topics"][0]["partitions"]), m
        assert c.leaders("orders", c.ports()[0]) == c.leaders("orders", c.ports()[2])
        want = set()
        for i, port in enumerate(c.ports()):
            lines = ["%d-%d" % (i, k) for k in range(200)]
            want |= set(lines)
            c.kcat("-P", "-t", "orders", "-X", "acks=all", data="\n".join(lines).encode(), port=port)
        for port in c.ports():
            got = read_all(c, "orders", port=port)
            assert len(got) == 600 and set(got) == want, (len(got), len(set(got)))


def what_another_leads_is_refused_and_named():
    with KafkaCluster() as c:
        c.create("t")
        for index, leader in c.leaders("t").items():
            for m in c.members:
                node = c.members.index(m) + 1
                code = Kafka(m.ports["kafka"]).produce("t", index, batch([b"v"]), acks=1)[0]
                assert code == (0 if node == leader else NOT_LEADER), (index, leader, node, code)


class Producer:
    """kcat fed line by line; what it could not deliver it says at its end, and its debug output with it when it does not end."""

    def __init__(self, cluster, topic, *args, partition=None):
        self.lines = []
        self.cluster, self.topic = cluster, topic
        self.said = tempfile.NamedTemporaryFile(prefix="gomsg-it-kcat-")
        self.process = subprocess.Popen(
            ["kcat", "-b", cluster.bootstrap(), "-P", "-t", topic, "-X", "acks=all", "-X", "linger.ms=2", "-X", "topic.metadata.refresh.interval.ms=500",
             # It ends when it has no connection at all, and by default does not look for a node that came back until it needs it.
             "-X", "enable.sparse.connections=false", "-X", "reconnect.backoff.max.ms=200", "-d", "broker,topic,metadata,eos,msg",
             *(["-p", str(partition)] if partition is not None else []), *args],
            stdin=subprocess.PIPE, stderr=self.said, stdout=subprocess.DEVNULL)

    def errors(self):
        """What it said, but for its debug output."""
        with open(self.said.name, errors="replace") as f:
            return "".join(line for line in f if not line.startswith("%7|"))[-2000:]

    def feed(self, n, every=0.001):
        for _ in range(n):
            line = "m%07d" % len(self.lines)
            self.lines.append(line)
            try:
                self.process.stdin.write(line.encode() + b"\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                raise AssertionError("the producer gave up: " + self.errors())
            if every:
                time.sleep(every)

    def finish(self, timeout=90):
        self.process.stdin.close()
        try:
            self.process.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            why = "the producer does not end\n" + self.where_it_stands()
            self.process.kill()
            self.process.wait()
            raise AssertionError(why)
        err = self.errors()
        assert self.process.returncode == 0, err
        assert "Delivery failed" not in err, err

    def where_it_stands(self):
        """Of each partition what every node says, of the topic's the watermarks and whether a record can be added; the producer's threads and last words."""
        said = []
        for m in self.cluster.members:
            said.append("%s alive=%s" % (m.name, m.alive()))
            try:
                said += ["  " + json.dumps(row) for row in m.gomsg("cluster", "partitions")]
            except (OSError, EOFError, AssertionError) as e:
                said.append("  " + repr(e))
        try:
            for index, leader in sorted(self.cluster.leaders(self.topic).items()):
                m, line = self.cluster.members[leader - 1] if leader > 0 else None, "%s[%d] leader=%d" % (self.topic, index, leader)
                if m is not None:
                    k = Kafka(m.ports["kafka"], timeout=15)
                    error, hw, _ = k.fetch(self.topic, index, 0)
                    line += " fetch error=%d hw=%d produce acks=all: %s" % (error, hw, k.produce(self.topic, index, batch([b"probe"])))
                    k.close()
                said.append(line)
        except (OSError, EOFError, AssertionError, subprocess.TimeoutExpired) as e:
            said.append(repr(e))
        for task in sorted(os.listdir("/proc/%d/task" % self.process.pid)):
            at = "/proc/%d/task/%s/" % (self.process.pid, task)
            try:
                said.append("thread %s %s: %s" % (task, open(at + "comm").read().strip(), open(at + "syscall").read().split(" ")[0]))
            except OSError as e:
                said.append(repr(e))
        with open(self.said.name, errors="replace") as f:
            said += [line.rstrip() for line in f.readlines()[-60:]]
        return "\n".join(said)


def a_leaders_death_loses_nothing_and_repeats_nothing():
    if not need_kcat():
        return
    with KafkaCluster() as c:
        c.create("t", 1)
        p = Producer(c, "t", "-X", "enable.idempotence=true", partition=0)
        p.feed(1500)
        old = c.leaders("t")[0]
        c.member(old).kill()
        begin = time.monotonic()
        p.feed(3000)
        p.finish()
        new = c.leaders("t")[0]
        assert new not in (old, 0, -1), (old, new)
        print("delivered on %.1f s after the kill" % (time.monotonic() - begin))
        assert read_all(c, "t") == p.lines, "in order, each once"
        # it comes back, catches up and is a way in again
        c.member(old).begin()
        eventually(c.member(old).is_ready, timeout=20)
        c.learn()
        eventually(lambda: old in [r["id"] for r in c.metadata("t")["topics"][0]["partitions"][0]["isrs"]], timeout=30)
        assert read_all(c, "t", port=c.member(old).ports["kafka"]) == p.lines


def every_node_dies_in_turn_under_load():
    if not need_kcat():
        return
    with KafkaCluster() as c:
        c.create("t", 8)
        p = Producer(c, "t", "-X", "enable.idempotence=true")
        p.feed(300)
        for m in c.members:
            m.kill()
            p.feed(500)
            m.begin()
            eventually(m.is_ready, timeout=30)
            c.learn()
            eventually(lambda: all(len(x["isrs"]) == 3 for x in c.metadata("t")["topics"][0]["partitions"]), timeout=60)
        p.finish()
        got = read_all(c, "t")
        assert sorted(got) == p.lines, (len(got), len(p.lines), sorted(set(p.lines) - set(got))[:5])


def a_group_goes_on_with_its_next_coordinator():
    if not need_kcat():
        return
    with KafkaCluster() as c:
        c.create("t", 4)
        group = "readers"
        consumer = subprocess.Popen(["kcat", "-b", c.bootstrap(), "-G", group, "-X", "auto.offset.reset=earliest", "-X", "auto.commit.interval.ms=200",
                                     "-X", "heartbeat.interval.ms=300", "-u", "t"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        got, said = [], []
        threads = [threading.Thread(target=lambda: got.extend(l.decode().strip() for l in iter(consumer.stdout.readline, b""))),
                   threading.Thread(target=lambda: said.extend(l.decode() for l in iter(consumer.stderr.readline, b"")))]
        for t in threads:
            t.start()
        try:
            p = Producer(c, "t", "-X", "enable.idempotence=true")
            p.feed(500)
            eventually(lambda: len(got) >= 300, timeout=30)  # kcat reads its input in blocks
            time.sleep(0.5)  # offsets are committed every 200 ms
            coordinator = c.coordinator(group)
            c.member(coordinator).kill()
            p.feed(1000)
            p.finish()
            eventually(lambda: set(got) >= set(p.lines), timeout=60)
            assert c.coordinator(group) != coordinator
            assert len(got) < len(p.lines) + 500, "it does not begin anew"
            assert sum("assigned" in l for l in said) == 1, said  # the same generation
            consumer.terminate()  # commits, and leaves
            consumer.wait(timeout=30)
        finally:
            consumer.kill()
            consumer.wait()
            for t in threads:
                t.join()
        # who comes later begins where the group left off
        eventually(lambda: committed(c, group, "t") == len(p.lines), timeout=20)


def committed(c, group, topic):
    """The sum of the group's offsets."""
    k = Kafka(c.member(c.coordinator(group)).ports["kafka"])
    k.request(9, 1, Kafka.string(group) + struct.pack(">i", 1) + Kafka.string(topic) + struct.pack(">i4i", 4, 0, 1, 2, 3))
    body = k.response()
    at = 4 + 2 + len(topic) + 4
    total = 0
    for _ in range(4):
        _, offset, n = struct.unpack(">iqh", body[at:at + 14])
        total += max(offset, 0)
        at += 14 + max(n, 0) + 2
    k.close()
    return total


def without_a_majority_nothing_is_acknowledged():
    with KafkaCluster() as c:
        c.create("t", 4)
        leaders = c.leaders("t")
        alone = c.members[0]
        index = [i for i, l in leaders.items() if l == 1][0]
        k = Kafka(alone.ports["kafka"])
        assert k.produce("t", index, batch([b"before"]))[0] == 0
        for m in c.members[1:]:
            m.kill()
        # Its lease runs out within a second; then acks=1 is refused as well.
        eventually(lambda: Kafka(alone.ports["kafka"]).produce("t", index, batch([b"x"]), acks=1)[0] == NOT_LEADER, timeout=10)
        code = Kafka(alone.ports["kafka"]).produce("t", index, batch([b"x"]))[0]
        assert code in (NOT_LEADER, 19), code
        for m in c.members[1:]:
            m.begin()
        for m in c.members:
            eventually(m.is_ready, timeout=30)
        c.learn()

        def back():
            leader = c.leaders("t")[index]
            return leader > 0 and Kafka(c.member(leader).ports["kafka"]).produce("t", index, batch([b"after"]))[0] == 0

        eventually(back, timeout=30)
        values = [v for _, v in Kafka(c.member(c.leaders("t")[index]).ports["kafka"]).read_all("t", index)]
        assert values[0] == b"before" and b"after" in values, values


def who_waits_at_a_leader_that_is_cut_off_is_sent_away():
    """However long the client would wait: the answer cannot come any more, and another node knows more. Whoever comes back is sent away when it asks who leads."""
    with KafkaCluster() as c:
        c.create("t", 4)
        index = [i for i, l in c.leaders("t").items() if l == 1][0]
        alone = c.members[0]
        k = Kafka(alone.ports["kafka"], timeout=60)
        assert k.produce("t", index, batch([b"before"]))[0] == 0
        for m in c.members[1:]:
            m.signal(signal.SIGSTOP)
        try:
            try:
                code = k.produce("t", index, batch([b"x"]), wait_ms=3600000)[0]
                assert code == NOT_LEADER, code  # only a machine that stood still sends it that late
            except (EOFError, ConnectionError):
                pass
            k = Kafka(alone.ports["kafka"])
            k.request(3, 4, struct.pack(">i", 1) + Kafka.string("t") + b"\0")
            assert k.at_end() and not k.buffer, "an answer where nobody can know it"
        finally:
            for m in c.members[1:]:
                m.signal(signal.SIGCONT)
        eventually(lambda: Kafka(c.member(c.leaders("t")[index]).ports["kafka"]).produce("t", index, batch([b"after"]))[0] == 0, timeout=30)


if __name__ == "__main__":
    run_tests([
        any_node_is_a_way_in,
        what_another_leads_is_refused_and_named,
        a_leaders_death_loses_nothing_and_repeats_nothing,
        every_node_dies_in_turn_under_load,
        a_group_goes_on_with_its_next_coordinator,
        without_a_majority_nothing_is_acknowledged,
        who_waits_at_a_leader_that_is_cut_off_is_sent_away,
    ])
