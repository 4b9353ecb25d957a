"""Partitions on three nodes (specs/cluster.md 5, rules 2, 3, 12, 13): what is acknowledged at level quorum survives its leader, replicas are equal, who was away comes back by log or by snapshot."""
import glob
import os
import re
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cluster_form_test import Cluster
from node import eventually, run_tests
from wire import Amqp, AmqpClosed, Resp, RespError

UNKNOWN = object()
SHORT = os.environ.get("GOMSG_TEST_SHORT") == "1"


class Client:
    """Goes from node to node until one takes the command. An answer that means "not done" is tried again elsewhere; a connection that breaks leaves the outcome open."""

    def __init__(self, cluster):
        self.cluster, self.conns = cluster, {}
        self.last = {}

    def _conn(self, member):
        if member not in self.conns:
            self.conns[member] = Resp(member.ports["resp"], timeout=3)
        return self.conns[member]

    def _drop(self, member):
        c = self.conns.pop(member, None)
        if c is not None:
            c.close()

    def call(self, key, *command, timeout=20):
        """The reply, or UNKNOWN when the connection broke behind the command."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            members = sorted(self.cluster.members, key=lambda m: m is not self.last.get(key))
            for m in members:
                if not m.alive():
                    continue
                try:
                    r = self._conn(m).call(*command)
                except RespError as e:
                    word = str(e).split(" ")[0]
                    assert word in ("MOVED", "CLUSTERDOWN", "LOADING", "TRYAGAIN", "NOREPLICAS", "READONLY", "MASTERDOWN", "BUSY"), e
                    continue
                except (ConnectionRefusedError, FileNotFoundError):
                    self._drop(m)
                    continue
                except (OSError, EOFError, AssertionError):
                    self._drop(m)
                    return UNKNOWN
                self.last[key] = m
                return r
            time.sleep(0.01)
        raise AssertionError("nobody took %r within %d s" % (command, timeout))

    def get(self, key):
        while True:
            r = self.call(key, "GET", key)
            if r is not UNKNOWN:
                return r

    def close(self):
        for m in list(self.conns):
            self._drop(m)


def hashes(member):
    return {h["partition"]: (h["offset"], h["hash"]) for h in member.gomsg("partitions", "hash")}


def equal(cluster):
    try:
        all_ = [hashes(m) for m in cluster.members if m.alive()]
    except (OSError, RespError):
        return False
    return all(h == all_[0] for h in all_)


def led_by(cluster, client, keys):
    """Which member leads most of these keys."""
    count = {}
    for k in keys:
        client.get(k)
        count[client.last[k]] = count.get(client.last[k], 0) + 1
    return max(count, key=count.get)


def replicas_hold_the_same():
    with Cluster() as c:
        client = Client(c)
        for i in range(300):
            assert client.call("k%d" % i, "SET", "k%d" % i, "v") == b"OK"
            client.call("l%d" % (i % 20), "RPUSH", "l%d" % (i % 20), str(i))
            client.call("h%d" % (i % 20), "HSET", "h%d" % (i % 20), "f%d" % i, "x" * (i % 50))
            client.call("s%d" % (i % 20), "SADD", "s%d" % (i % 20), str(i))
        eventually(lambda: equal(c), timeout=10)
        for m in c.members:  # what each is to each partition, for dashboards
            page, n = m.http("/metrics"), len(m.gomsg("cluster", "partitions"))
            assert len(re.findall(r'^gomsg_partition_role\{partition="\d+",role="(?:leader|follower)"\} 1$', page, re.M)) == n
            assert len(re.findall(r'^gomsg_partition_epoch\{partition="\d+"\} [1-9]', page, re.M)) == n
            led = int(m.metric("gomsg_partitions_led"))
            assert len(re.findall(r'^gomsg_partition_lag_records\{partition="\d+",node="[123]"\} \d+$', page, re.M)) == 2 * led
        client.close()


def what_is_acknowledged_at_quorum_survives_its_leader():
    rounds, writers = (3, 4) if SHORT else (8, 6)
    with Cluster(3, "--kv.ack=quorum") as c:
        stop = threading.Event()
        acked = [dict() for _ in range(writers)]
        failures = []
        gaps = []

        def write(w):
            client = Client(c)
            n = 0
            last = time.monotonic()
            try:
                while not stop.is_set():
                    key = "key:%d:%d" % (w, n % 40)
                    n += 1
                    if client.call(key, "SET", key, str(n)) == b"OK":
                        acked[w][key] = n
                        gaps.append(time.monotonic() - last)
                        last = time.monotonic()
            except Exception as e:  # told by the test's thread
                failures.append(e)
            client.close()

        threads = [threading.Thread(target=write, args=(w,)) for w in range(writers)]
        for t in threads:
            t.start()
        probe = Client(c)
        time.sleep(1)
        for r in range(rounds):
            victim = led_by(c, probe, ["key:%d:%d" % (w, i) for w in range(writers) for i in range(5)])
            victim.kill()
            time.sleep(2.5)
            victim.begin()
            eventually(victim.is_ready, timeout=20)
            time.sleep(1)
        stop.set()
        for t in threads:
            t.join()
        assert not failures, failures[0]
        for w in range(writers):
            for key, n in acked[w].items():
                assert int(probe.get(key) or 0) >= n, "%s was acknowledged as %d" % (key, n)
        total = sum(max(a.values(), default=0) for a in acked)
        print("%d writes, longest gap %.2f s" % (total, max(gaps)))
        eventually(lambda: equal(c), timeout=20)
        probe.close()


def who_asks_for_two_copies_gets_them_of_two():
    """Rule 12: with two replicas the bar is 1 when nobody asked; cluster.min_insync: 2 in so many words is 2."""
    for asked, health in ((False, "degraded"), (True, "below min_insync")):
        with Cluster(3, "--cluster.replication_factor=2", *(["--cluster.min_insync=2"] if asked else [])) as c:
            rows = lambda: c.members[0].gomsg("cluster", "partitions")
            eventually(lambda: len(rows()) > 0 and all(r["health"] == "ok" for r in rows()), timeout=20)
            c.members[2].kill()
            eventually(lambda: {r["health"] for r in rows() if "3" in r["replicas"].split(",")} == {health}, timeout=20)
            assert {r["health"] for r in rows() if "3" not in r["replicas"].split(",")} <= {"ok"}


def who_was_away_gets_a_snapshot():
    with Cluster(3, "--log.segment_bytes=1mb", "--kv.snapshot_log_bytes=4mb", "--kv.snapshot_keep_bytes=1mb") as c:
        client = Client(c)
        away = c.members[2]
        client.call("a", "SET", "a", "b")
        eventually(lambda: equal(c), timeout=10)
        away.kill()
        time.sleep(2)
        for i in range(4000):
            client.call("k%d" % (i % 500), "SET", "k%d" % (i % 500), "v" * 8000)
        for m in c.members[:2]:
            m.gomsg("snapshot")
        client.call("a", "SET", "a", "c")
        away.begin()
        eventually(away.is_ready, timeout=20)
        eventually(lambda: equal(c), timeout=40)
        assert away.metric("gomsg_replica_snapshots_total") > 0
        client.close()


def followers_drop_what_is_settled_in_a_queue():
    """One message stays, all that come after it are acknowledged: the segments in between go on every node, not on the leader alone (rule 7)."""
    with Cluster(3, "--log.segment_bytes=1mb") as c:
        for m in c.members:
            eventually(lambda: "protocol=amqp" in m.log(), timeout=20)
        ports = [int(re.findall(r'protocol=amqp address=\S+:(\d+)', m.log())[-1]) for m in c.members]
        a = Amqp(ports[0])
        a.declare("q")
        a.confirm_select()
        a.publish("q", b"stays")
        a.confirmed()
        holder = Amqp(ports[0])
        assert holder.get("q", no_ack=False)[3] == b"stays"
        size = lambda m: sum(os.path.getsize(f) for f in glob.glob(os.path.join(m.data, "p-*/queue/*/*.log")) if os.path.exists(f))
        peak, published, settled = 0, 1, {1}

        def one_round():
            nonlocal peak, published
            for _ in range(60):
                a.publish("q", b"x" * 50000)
            published += 60
            while len(settled) < published:
                ok, tag, multiple = a.confirmed()
                assert ok
                settled.update(range(1, tag + 1) if multiple else [tag])
            for _ in range(60):
                assert a.get("q", no_ack=True) is not None
            sizes = [size(m) for m in c.members]
            peak = max(peak, *sizes)
            return published > 1000 and max(sizes) < published * 50000 // 2
        eventually(one_round, timeout=90, every=0.3)
        print("%d MB went through; at most %.1f MB lay on a node" % (published // 20, peak / 1e6))
        holder.close()
        a.close()
        for m in c.members:  # whoever leads has the one that was kept
            m.kill()
        for m in c.members:
            m.begin()
        for m in c.members:
            eventually(m.is_ready, timeout=30)
        ports = [int(re.findall(r'protocol=amqp address=\S+:(\d+)', m.log())[-1]) for m in c.members]

        def kept():
            try:
                b = Amqp(ports[1])
                got = b.get("q")
                b.close()
                return got is not None and got[3] == b"stays"
            except (OSError, EOFError, AmqpClosed):
                return False
        eventually(kept, timeout=30, every=0.1)


def who_is_stopped_hands_over_first():
    with Cluster() as c:
        client = Client(c)
        keys = ["key:%d" % i for i in range(40)]
        for k in keys:
            assert client.call(k, "SET", k, "1") == b"OK"
        leaver = led_by(c, client, keys)
        stopping = threading.Thread(target=leaver.stop)
        stopping.start()
        gap, last, n = 0, time.monotonic(), 1
        while stopping.is_alive() or n < 3:
            n += 1
            for k in keys:
                while client.call(k, "SET", k, str(n)) is UNKNOWN:
                    pass
                gap, last = max(gap, time.monotonic() - last), time.monotonic()
        print("longest gap %.2f s" % gap)
        assert " msg=\"hands over\"" in leaver.log() and "a handover is given up" not in leaver.log()
        for k in keys:
            assert int(client.get(k)) == n
        client.close()


def a_paused_leader_takes_nothing_with_it():
    """Cut off by a pause: whoever led comes back as a follower, and what it took without its lease is nobody's promise."""
    with Cluster(3, "--kv.ack=quorum") as c:
        client = Client(c)
        keys = ["key:%d" % i for i in range(40)]
        for i, k in enumerate(keys):
            assert client.call(k, "SET", k, str(i)) == b"OK"
        victim = led_by(c, client, keys)
        victim.signal(signal.SIGSTOP)
        others = Cluster.__new__(Cluster)
        others.members = [m for m in c.members if m is not victim]
        rest = Client(others)
        begin = time.monotonic()
        for i, k in enumerate(keys):
            while rest.call(k, "SET", k, str(1000 + i)) is UNKNOWN:
                pass
        print("paused leader: all keys written after %.2f s" % (time.monotonic() - begin))
        victim.signal(signal.SIGCONT)
        eventually(lambda: equal(c), timeout=20)
        for i, k in enumerate(keys):
            assert int(rest.get(k)) == 1000 + i
        client.close()
        rest.close()


if __name__ == "__main__":
    run_tests([replicas_hold_the_same, who_is_stopped_hands_over_first, what_is_acknowledged_at_quorum_survives_its_leader, a_paused_leader_takes_nothing_with_it, followers_drop_what_is_settled_in_a_queue, who_asks_for_two_copies_gets_them_of_two, who_was_away_gets_a_snapshot])
