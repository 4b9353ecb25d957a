#!/usr/bin/env python3
"""How long a failover takes, seen by the clients people use: redis-py Cluster, librdkafka (confluent-kafka), pika.

    failover_bench.py [--rounds 20] [--levels leader,quorum] [--faults kill,pause,cut,isolate] [--seed N] [--clients resp,kafka,amqp] [--trace DIR]

A round: each client writes to something that one node leads; that node is killed with -9, paused, cut off from the other nodes, or isolated from them and from the clients; the longest time without a
successful write from then on. The AMQP publisher is connected to another node (amqp) and, for kills, one more to the leader
itself (amqp-direct). Prints median and worst. Not part of any check: it measures.

--trace leaves, a file each round, what the nodes said and, in librdkafka's own debug log, what its producer sent to whom: it tells where the time went. Its stamps are wall clock.
"""
import argparse
import datetime
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration")]
from load_kafka import KafkaCluster  # noqa: E402
from load_resp import slot_of  # noqa: E402
from rig import BUILD, Cluster, QUEUE_PARTITIONS, eventually, partition_of_queue  # noqa: E402
from wire import Amqp, batch  # noqa: E402

TOPIC, PARTITIONS = "failover", 12
LIMIT_S = 30   # for an outage that does not end
WATCH_S = 3.5  # an outage begins within this time


def python():
    """The interpreter of a virtual environment with the pinned clients, made once."""
    venv = os.path.join(BUILD, "venv-fault")
    mark, files = os.path.join(venv, "installed"), [os.path.join(HERE, "..", "..", "compat-tests", "requirements.txt"), os.path.join(HERE, "requirements.txt")]
    want = "".join(open(f).read() for f in files)
    exe = os.path.join(venv, "bin", "python")
    if not (os.path.exists(mark) and open(mark).read() == want):
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([exe, "-m", "pip", "install", "-q", "--no-deps"] + [x for f in files for x in ("-r", f)], check=True)
        with open(mark, "w") as f:
            f.write(want)
    return exe


class Client:
    """A failover_client.py and what it told."""

    def __init__(self, exe, kind, nodes, target, acks, debug=False, settings=None):
        options = json.dumps({"nodes": nodes, "target": target, "acks": acks, "debug": debug, "settings": settings or {}})
        self.process = subprocess.Popen([exe, os.path.join(HERE, "failover_client.py"), kind, options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.writes, self.said = [], []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            try:
                begin, end = map(float, line.split())
                self.writes.append((begin, end))
            except ValueError:
                self.said.append(line.rstrip())

    def outage(self, t):
        """The longest time without a success that began at t or soon after it: a leader that is cut off still serves while its lease runs. None while it lasts."""
        ends = [t] + [end for _, end in self.writes if end > t]
        if time.monotonic() < t + WATCH_S or time.monotonic() - ends[-1] > 0.3:
            return None
        return max(b - a for a, b in zip(ends, ends[1:]) if a < t + WATCH_S - 0.5)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.reader.join(5)


def targets(cluster, victim, number, wanted):
    """A key, a topic partition and a queue that the victim leads; None for what is not wanted."""
    key = next(k for k in ("{%d}failover" % (number * 1000 + i) for i in range(100000)) if cluster.leader_of_slot(slot_of(k)) is victim)
    topic = None
    if "kafka" in wanted:
        leaders = KafkaCluster([(n.host, n.ports["kafka"]) for n in cluster.nodes.values()], 5, random).refresh(TOPIC)
        topic = "%s:%d" % (TOPIC, next(p for p, (host, _) in leaders.items() if host == victim.host))
    if "amqp" not in wanted:
        return key, topic, None
    for i in range(100000):
        queue = "failover-%d-%d" % (number, i)
        if cluster.leader_of_slot(queue_slot(queue)) is victim:
            return key, topic, queue


def queue_slot(queue):
    """The first slot of the partition that owns a queue."""
    return (partition_of_queue(queue) * 16384 + QUEUE_PARTITIONS - 1) // QUEUE_PARTITIONS


def still_led(cluster, victim, key, topic, queue):
    """Leaderships move back to nodes that came back; a round measures what its victim leads."""
    if cluster.leader_of_slot(slot_of(key)) is not victim or (queue is not None and cluster.leader_of_slot(queue_slot(queue)) is not victim):
        return False
    if topic is None:
        return True
    leaders = KafkaCluster([(n.host, n.ports["kafka"]) for n in cluster.nodes.values()], 5, random).refresh(TOPIC)
    return leaders[int(topic.rsplit(":", 1)[1])][0] == victim.host


def fill(cluster, partitions):
    """Many topic partitions with a record in each, so that a takeover has as many logs to look after."""
    begin = time.monotonic()
    client = KafkaCluster([(n.host, n.ports["kafka"]) for n in cluster.nodes.values()], 20, random)
    for t in range((partitions + 99) // 100):
        topic, count = "many-%d" % t, min(100, partitions - t * 100)
        assert client.connection(client.any_nodes()[0]).create_topic(topic, count) in (0, 36)
        eventually(lambda topic=topic, count=count: len(client.refresh(topic)) == count, 20)
        for p, node in client.leaders.items():
            assert eventually(lambda p=p, node=node, topic=topic: client.connection(node).produce(topic, p, batch([b"x"], timestamp=int(time.time() * 1000)))[0] == 0, 20)
    client.close()
    print("%d topic partitions with a record each after %.1f s" % (partitions, time.monotonic() - begin), flush=True)


class Moved(Exception):
    """Something was led by another node when the fault was to come."""


class Bench:
    def __init__(self, options):
        self.o, self.exe, self.results, self.number = options, python(), {}, 0

    def level(self, level):
        with Cluster(3, config={"kv.ack": level}, spare=0) as cluster:
            cluster.start()
            print("level %s: cluster healthy after %.2f s" % (level, cluster.wait_formed(60)), flush=True)
            if "kafka" in self.o.clients:
                assert cluster.nodes[1].kafka(10).create_topic(TOPIC, PARTITIONS) == 0
            if self.o.topic_partitions:
                fill(cluster, self.o.topic_partitions)
            for fault in self.o.faults.split(","):
                done = 0
                while done < self.o.rounds:
                    try:
                        self.round(cluster, level, fault)
                        done += 1
                    except Moved:
                        pass

    def round(self, cluster, level, fault):
        self.number += 1
        cluster.wait_healthy(60)
        victim = random.choice(list(cluster.nodes.values()))
        others = [n for n in cluster.nodes.values() if n is not victim]
        wanted = self.o.clients.split(",")
        key, topic, queue = targets(cluster, victim, self.number, wanted)
        if queue is not None:
            c = Amqp(others[0].ports["amqp"], host=others[0].host, user="rig", password="rig")
            c.declare(queue)
            c.close()

        def nodes(protocol, order):
            return [[n.host, n.ports[protocol]] for n in order]

        acks = "all" if level == "quorum" else "1"
        everybody = random.sample(list(cluster.nodes.values()), 3)
        clients = {}
        if "resp" in wanted:
            clients["resp"] = Client(self.exe, "resp", nodes("resp", everybody), key, acks)
        if "kafka" in wanted:
            clients["kafka"] = Client(self.exe, "kafka", nodes("kafka", everybody), topic, acks, debug=self.o.trace is not None, settings=dict(x.split("=", 1) for x in self.o.librdkafka))
        if "amqp" in wanted:
            clients["amqp"] = Client(self.exe, "amqp", nodes("amqp", others), queue, acks)
            if fault == "kill":
                clients["amqp-direct"] = Client(self.exe, "amqp", nodes("amqp", [victim] + others), queue, acks)
        controller = cluster.controller()
        try:
            eventually(lambda: all(len(x.writes) > 20 for x in clients.values()), 20)
            time.sleep(random.uniform(0, 0.3))
            if not still_led(cluster, victim, key, topic, queue):
                raise Moved()
            t, wall = time.monotonic(), time.time()
            if fault == "kill":
                victim.kill()
            elif fault == "pause":
                victim.pause()
            elif fault == "isolate":
                cluster.net.link(victim.index, False)
            else:
                cluster.net.split([victim.index], [n.index for n in others])
            try:
                eventually(lambda: all(x.outage(t) is not None for x in clients.values()), LIMIT_S)
            except TimeoutError:
                pass
            took = {name: x.outage(t) or LIMIT_S for name, x in clients.items()}
        finally:
            for x in clients.values():
                x.end()
            victim.resume()
            if fault == "isolate":
                cluster.net.link(victim.index, True)
            cluster.net.heal()
        for name, seconds in took.items():
            self.results.setdefault((level, fault, name), []).append(seconds)
        print("round %d %s %s %s%s: %s" % (self.number, level, fault, victim.name, " (controller)" if victim is controller else "",
                                          ", ".join("%s %.2f s" % x for x in took.items())), flush=True)
        for name, x in clients.items():
            if took[name] > self.o.tell:
                print("\n".join("    %s %s" % (name, line) for line in x.said[-12:]))
        if self.o.trace is not None:
            self.leave_trace(cluster, clients, wall, "%03d-%s-%s" % (self.number, level, fault), took)
        if not victim.alive():
            victim.start()
        eventually(cluster.formed, 30)

    def leave_trace(self, cluster, clients, wall, name, took):
        """What was said from just before the fault on, seconds after it in front."""
        os.makedirs(self.o.trace, exist_ok=True)
        with open(os.path.join(self.o.trace, name + ".log"), "w") as out:
            out.write("fault at %.3f; %s\n" % (wall, ", ".join("%s %.2f s" % x for x in took.items())))
            lines = []
            for who, x in clients.items():
                lines += [(float(line.split("|")[1]) - wall, who, line) for line in list(x.said) if line.startswith("%") and line.count("|") > 2]
            for n in cluster.nodes.values():
                for line in n.last_run().splitlines():
                    stamp = re.search(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+)Z", line)
                    if stamp:
                        at = datetime.datetime.strptime(stamp.group(1), "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=datetime.timezone.utc).timestamp()
                        lines.append((at - wall, n.name, line))
            out.write("".join("%7.3f %s %s\n" % line for line in sorted(lines, key=lambda x: x[0]) if line[0] > -0.1))

    def summary(self):
        print("seconds without a successful write: median, worst (rounds)")
        for (level, fault, name), seconds in self.results.items():
            print("  %-7s %-6s %-12s %6.2f %6.2f (%d)" % (level, fault, name, statistics.median(seconds), max(seconds), len(seconds)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--levels", default="leader,quorum")
    p.add_argument("--faults", default="kill,pause,cut")
    p.add_argument("--topic-partitions", type=int, default=0, help="so many more, with a record each")
    p.add_argument("--clients", default="resp,kafka,amqp")
    p.add_argument("--librdkafka", metavar="KEY=VALUE", action="append", default=[], help="another setting of the Kafka producer, to see what it changes")
    p.add_argument("--trace", metavar="DIR", help="leave what everybody said in each round there")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--tell", type=float, default=2.5, help="print what a client said when it took longer")
    o = p.parse_args()
    random.seed(o.seed)
    bench = Bench(o)
    try:
        for level in o.levels.split(","):
            bench.level(level)
    finally:
        bench.summary()


if __name__ == "__main__":
    main()
