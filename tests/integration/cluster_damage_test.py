"""Damage below the sync mark in a cluster (rule 4, D6): the copy is put aside and fetched anew from its leader, whoever led; nothing that was acknowledged is lost, and the last copy waits for people."""
import glob
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cluster_form_test import Cluster
from cluster_replicate_test import UNKNOWN, Client, equal
from damage_test import tail_of
from node import eventually, run_tests
from wire import Amqp, AmqpClosed, Kafka, RespError, batch


class DamageCluster(Cluster):
    def form(self, order=None):
        super().form(order)
        for m in self.members:
            eventually(lambda: "protocol=amqp" in m.log())
            for p, port in re.findall(r'msg="listening" protocol=(\w+) address=\S+:(\d+)', m.log()):
                m.ports[p] = int(port)


ARGS = ("--cluster.total_partitions=4", "--log.fsync_interval=20ms", "--kv.ack=quorum")
KEYS = ["key:%d" % i for i in range(60)]
N = 30


def on_some(cluster, what):
    """The first answer that is not None, of the members that live."""
    def once():
        for m in cluster.members:
            if not m.alive():
                continue
            try:
                r = what(m)
            except (OSError, EOFError, AssertionError, AmqpClosed, RespError):
                continue
            if r is not None:
                return r
        return None
    found = []
    eventually(lambda: (found.append(once()), found[-1] is not None)[1], timeout=40, every=0.1)
    return found[-1]


def fill(cluster):
    client = Client(cluster)
    for k in KEYS:
        while client.call(k, "SET", k, "value of " + k) is UNKNOWN:
            pass
    client.close()
    on_some(cluster, lambda m: True if Kafka(m.ports["kafka"]).create_topic("t", 1, factor=-1) in (0, 36) else None)
    for i in range(N):
        on_some(cluster, lambda m, i=i: True if Kafka(m.ports["kafka"]).produce("t", 0, batch([b"r%d" % i]))[0] == 0 else None)

    def publish(m):
        a = Amqp(m.ports["amqp"])
        a.declare("q")
        a.confirm_select()
        for i in range(N):
            a.publish("q", b"m%d" % i)
        got = 0
        while got < N:
            ok, tag, multiple = a.confirmed()
            assert ok
            got = tag if multiple else got + 1
        return True
    on_some(cluster, publish)


def check(cluster, keys=True, topic=True, queue=True):
    if keys:
        client = Client(cluster)
        for k in KEYS:
            assert client.get(k) == ("value of " + k).encode(), k
        client.close()
    if topic:
        def read(m):
            got = [v for _, v in Kafka(m.ports["kafka"]).read_all("t", 0)]
            return got if len(got) >= N else None
        got = on_some(cluster, read)
        assert list(dict.fromkeys(got)) == [b"r%d" % i for i in range(N)], got
    if queue:
        def get(m):
            a = Amqp(m.ports["amqp"])
            first = a.get("q")
            if first is None:
                a.close()
                return None
            got = [first[3]]
            while len(got) < N:
                one = a.get("q")
                if one is None:
                    break
                got.append(one[3])
            a.close()  # what was not acknowledged is there again
            return got
        assert sorted(set(on_some(cluster, get))) == sorted(b"m%d" % i for i in range(N))


def files(member, kind):
    pattern = {"main": "p-*/main/*.log", "queue": "p-*/queue/*/*.log", "topic": "p-*/topic/*/*.log"}[kind]
    return sorted(glob.glob(os.path.join(member.data, pattern)), key=os.path.getsize, reverse=True)


def written(path):
    with open(path, "rb") as f:
        return f.read(tail_of(path)[1])


def flip(path, at=100):
    with open(path, "r+b") as f:
        f.seek(at)
        b = f.read(1)
        f.seek(at)
        f.write(bytes([b[0] ^ 0x40]))


def whole(cluster):
    """Every partition has all its replicas in sync, as each node sees it, and no copy is damaged."""
    def look():
        try:
            for m in cluster.members:
                rows = m.gomsg("cluster", "partitions")
                if len(rows) != 4 or any(r["health"] != "ok" for r in rows) or m.metric("gomsg_replicas_damaged") != 0:
                    return False
        except (OSError, EOFError, AssertionError, RespError, KeyError):
            return False
        return True
    eventually(look, timeout=60, every=0.1)


def synced(cluster):
    """A sync round that began after this was called is over on every node: all that was written before lies below the marks. Rounds need something to sync, and a busy disk takes its time."""
    rounds = lambda m: m.metric("gomsg_log_sync_rounds_total")
    members = [m for m in cluster.members if m.alive()]
    before = [rounds(m) for m in members]
    client = Client(cluster)

    def poke():
        for i in range(8):
            client.call("poke%d" % i, "SET", "poke%d" % i, "x")
        return all(rounds(m) >= b + 2 for m, b in zip(members, before))
    eventually(poke, timeout=60, every=0.05)
    client.close()


def row_of(member, partition):
    """What this node knows of the partition, as far as it knows it yet."""
    try:
        return member.gomsg("cluster", "partitions")[partition]
    except (OSError, EOFError, IndexError, RespError):
        return {"insync": "", "eligible": "", "health": "", "leader": -1}


def partition_of(path):
    return int(path.split("/p-")[1][:4])


def leader_of(cluster, partition):
    rows = cluster.members[0].gomsg("cluster", "partitions")
    return next(m for m in cluster.members if m.status()["node_id"] == rows[partition]["leader"])


def a_damaged_copy_is_fetched_anew():
    """Of a follower and of a leader that was killed, in each kind of log: what comes back is equal to the leader's, byte for byte."""
    with DamageCluster(3, *ARGS) as c:
        fill(c)
        whole(c)
        eventually(lambda: equal(c), timeout=20)
        repaired = 0
        for kind in ("main", "topic", "queue"):
            path = files(c.members[0], kind)[0]
            leader = leader_of(c, partition_of(path))
            for member in (leader, next(m for m in c.members if m is not leader and m is not leader_of(c, partition_of(path)))):
                relative = os.path.relpath(path, c.members[0].data)
                mine = os.path.join(member.data, relative)
                synced(c)
                member.kill()
                flip(mine)
                member.begin()
                eventually(member.is_ready, timeout=30)
                eventually(lambda: member.metric("gomsg_replica_repaired_total") > 0, timeout=40)
                repaired += 1
                whole(c)
                assert glob.glob(os.path.join(member.data, "damaged", "*-" + os.path.dirname(relative).replace("/", "_"))), kind
                log = member.log()
                assert "is damaged" in log and "begins anew" not in log.split("is damaged")[0][-200:]
                other = next(m for m in c.members if m is not member)
                eventually(lambda: written(mine) == written(os.path.join(other.data, relative)), timeout=20)
                eventually(lambda: equal(c), timeout=20)
                texts = [e["event"] for e in other.gomsg("cluster", "events")]
                assert any("the copy on node %d is damaged" % member.status()["node_id"] in t for t in texts), texts
        assert repaired == 6
        check(c)


def a_damaged_snapshot_is_fetched_anew():
    """A snapshot that cannot be read, and a log that begins above the only snapshot there is."""
    with DamageCluster(3, "--log.segment_bytes=1mb", "--kv.snapshot_log_bytes=2mb", "--kv.snapshot_keep_bytes=1mb", *ARGS) as c:
        client = Client(c)
        for i in range(600):
            while client.call("k%d" % (i % 50), "SET", "k%d" % (i % 50), "%d:" % i + "v" * 20000) is UNKNOWN:
                pass
        for m in c.members:
            m.gomsg("snapshot")
        eventually(lambda: equal(c), timeout=20)
        victim = c.members[1]
        snapshots = lambda: glob.glob(os.path.join(victim.data, "p-*/kv/snapshot-*"))
        eventually(lambda: len(snapshots()) > 0, timeout=20)
        for how in ("flip", "gone"):
            victim.kill()
            for s in snapshots():
                if how == "flip":
                    flip(s, os.path.getsize(s) // 2)
                else:
                    os.unlink(s)
            victim.begin()
            eventually(victim.is_ready, timeout=30)
            whole(c)
            eventually(lambda: equal(c), timeout=30)
            victim.gomsg("snapshot")
            eventually(lambda: len(snapshots()) > 0, timeout=20)
        for i in range(550, 600):
            assert client.get("k%d" % (i % 50)) == ("%d:" % i + "v" * 20000).encode()
        client.close()


def a_leaders_damage_is_found_by_whoever_copies_it():
    """A log that was closed cleanly is not scanned, so its leader serves without knowing that it is damaged; a follower that has to fetch all of it cannot take it, and then the leader looks."""
    with DamageCluster(3, *ARGS) as c:
        fill(c)
        whole(c)
        synced(c)
        path = files(c.members[0], "topic")[0]
        partition = partition_of(path)
        relative = os.path.relpath(path, c.members[0].data)
        leader = leader_of(c, partition)
        copier = next(m for m in c.members if m is not leader)
        me = leader.status()["node_id"]
        leader.stop()
        flip(os.path.join(leader.data, relative), at=tail_of(os.path.join(leader.data, relative))[1] // 2)
        leader.begin()
        eventually(leader.is_ready, timeout=30)
        whole(c)

        def leads():
            if row_of(leader, partition)["leader"] != me and leader.metric("gomsg_replica_damaged_total") == 0:
                try:
                    leader.gomsg("cluster", "transfer-leader", str(partition), str(me))
                except RespError:
                    pass
                return False
            return True
        eventually(leads, timeout=40, every=0.2)
        synced(c)
        copier.kill()
        flip(os.path.join(copier.data, relative))
        copier.begin()
        eventually(copier.is_ready, timeout=30)
        eventually(lambda: copier.metric("gomsg_replica_repaired_total") > 0, timeout=40)
        eventually(lambda: leader.metric("gomsg_replica_repaired_total") > 0, timeout=40)
        whole(c)
        third = next(m for m in c.members if m is not leader and m is not copier)
        for m in (leader, copier):
            eventually(lambda: written(os.path.join(m.data, relative)) == written(os.path.join(third.data, relative)), timeout=20)
        check(c)


def what_a_disk_changed_is_found_before_anybody_reads_it():
    """Sealed segments are read again in the background (log.scrub_interval). A follower's copy is fetched anew; a leader hands over first and refuses nobody."""
    with DamageCluster(3, "--log.segment_bytes=1MiB", "--log.scrub_interval=200ms", "--log.scrub_rate=1GiB", *ARGS) as c:
        fill(c)
        body = os.urandom(100000)
        for i in range(40):
            on_some(c, lambda m: True if Kafka(m.ports["kafka"]).produce("t", 0, batch([body]))[0] == 0 else None)
        whole(c)
        synced(c)
        partition = partition_of(files(c.members[0], "topic")[0])
        for who in ("follower", "leader"):
            leader = leader_of(c, partition)
            victim = leader if who == "leader" else next(m for m in c.members if m is not leader)
            path = sorted(p for p in files(victim, "topic") if partition_of(p) == partition)[1]
            repaired = victim.metric("gomsg_replica_repaired_total")
            said_before = len(victim.log())
            flip(path, 700000)
            eventually(lambda: victim.metric("gomsg_replica_repaired_total") > repaired, timeout=60)
            eventually(lambda: victim.metric("gomsg_logs_suspect") == 0, timeout=20)
            said = victim.log()[said_before:]
            assert "a sealed segment differs from its checksum: its disk" in said
            assert ("hands over" in said.split("copy of a partition is damaged")[0]) == (who == "leader"), said
            whole(c)
        got = on_some(c, lambda m: [v for _, v in Kafka(m.ports["kafka"]).read_all("t", 0)])
        assert got[-40:] == [body] * 40 and len(got) == N + 40, len(got)
        check(c, topic=False)


def a_queue_that_cannot_be_read_back_is_led_elsewhere():
    """Found when the queue is opened, by its leader: a checkpoint that is none. The leader steps back, another serves, and its own copy becomes whole again."""
    with DamageCluster(3, *ARGS) as c:
        fill(c)
        whole(c)
        path = files(c.members[0], "queue")[0]
        partition = partition_of(path)
        victim = next(m for m in c.members if m is not leader_of(c, partition))
        victim.kill()
        with open(os.path.join(os.path.dirname(os.path.join(victim.data, os.path.relpath(path, c.members[0].data))), "checkpoint"), "wb") as f:
            f.write(b"GMQC" + b"?" * 100)
        victim.begin()
        eventually(victim.is_ready, timeout=30)
        whole(c)
        me = victim.status()["node_id"]

        def lead():
            if victim.metric("gomsg_replica_damaged_total") > 0:
                return True
            try:
                if row_of(victim, partition)["leader"] != me:
                    victim.gomsg("cluster", "transfer-leader", str(partition), str(me))
                a = Amqp(victim.ports["amqp"])
                a.get("q")
                a.close()
            except (OSError, EOFError, AssertionError, AmqpClosed, RespError):
                pass
            return False
        eventually(lead, timeout=40, every=0.2)
        eventually(lambda: victim.metric("gomsg_replica_repaired_total") > 0, timeout=40)
        whole(c)
        check(c)


def damage_found_when_all_come_back():
    """All nodes die at once and one of them is damaged: the others lead, whoever led before."""
    with DamageCluster(3, *ARGS) as c:
        fill(c)
        whole(c)
        for victim in c.members[:2]:
            synced(c)
            for m in c.members:
                m.kill()
            flip(files(victim, "main")[0])
            flip(files(victim, "topic")[0])
            for m in c.members:
                m.begin()
            for m in c.members:
                eventually(m.is_ready, timeout=40)
            whole(c)
            eventually(lambda: equal(c), timeout=30)
        check(c)


def the_last_copies_wait_for_people():
    """min_insync 1: two of three go on without the third, and both are damaged then. What the third has is older, so nobody leads until somebody decides, and nothing is deleted until then."""
    with DamageCluster(3, "--cluster.min_insync=1", *ARGS) as c:
        fill(c)
        whole(c)
        path = files(c.members[0], "topic")[0]
        partition = partition_of(path)
        row = lambda m: row_of(m, partition)
        old, others = c.members[2], c.members[:2]
        synced(c)
        old.kill()
        eventually(lambda: row(others[0])["insync"] in ("1,2", "2,1") and row(others[0])["eligible"] == "", timeout=20)
        main = files(others[0], "main")
        main = os.path.relpath(next(f for f in main if partition_of(f) == partition), others[0].data)
        for m in others:
            m.kill()
        for m in others:
            flip(os.path.join(m.data, main))
        kept = [written(os.path.join(m.data, main)) for m in others]
        for m in c.members:
            m.begin()
        for m in c.members:
            eventually(lambda: row(m)["health"] == "offline: the last copies are damaged; gomsgctl partitions recover", timeout=40)
        time.sleep(2)  # nothing happens by itself
        assert row(old)["leader"] == 0
        for m, bytes_ in zip(others, kept):
            assert written(os.path.join(m.data, main)) == bytes_
            eventually(lambda: "gomsgctl partitions recover %d --accept-loss" % partition in m.log(), timeout=10)
            assert any(f["level"] == "bad" and "damaged" in f["finding"] for f in m.gomsg("doctor"))
        assert any("was the last that may lead" in e["event"] for e in old.gomsg("cluster", "events"))
        eventually(lambda: old.gomsg("partitions", "recover", str(partition), "--accept-loss") is not None, timeout=20)
        whole(c)
        eventually(lambda: equal(c), timeout=30)
        check(c)  # all of it was acknowledged before the third went


if __name__ == "__main__":
    run_tests([a_damaged_copy_is_fetched_anew, a_damaged_snapshot_is_fetched_anew, a_leaders_damage_is_found_by_whoever_copies_it, what_a_disk_changed_is_found_before_anybody_reads_it, a_queue_that_cannot_be_read_back_is_led_elsewhere, damage_found_when_all_come_back, the_last_copies_wait_for_people])
