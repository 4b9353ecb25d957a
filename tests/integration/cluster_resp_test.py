"""RESP in a cluster of three real nodes: redirects, CLUSTER, READONLY, transactions, publish and subscribe, blocked clients, WAIT; what clients that follow the
cluster protocol rely on, byte for byte."""
import os
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "fault"))
from node import PATIENCE, eventually, run_tests  # noqa: E402
from rig import Cluster  # noqa: E402
from wire import RespError  # noqa: E402

SLOTS = 16384


def crc16(data):
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def slot_of(key):
    key = key.encode()
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1:end]
    return crc16(key) % SLOTS


def refused(c, *command):
    """The error a command is answered with."""
    try:
        r = c.call(*command)
    except RespError as e:
        return str(e)
    raise AssertionError("%r was answered %r" % (command, r))


def formed(**config):
    cluster = Cluster(3, loopback=True, config={k.replace("_", ".", 1): v for k, v in config.items()})
    cluster.start()
    cluster.wait_formed()
    return cluster


def node_of(cluster, key):
    return cluster.leader_of_slot(slot_of(key))


def other_than(cluster, *nodes):
    return next(n for n in cluster.living() if n not in nodes)


def key_led_by(cluster, node, tag=""):
    """A key whose slot that node leads."""
    return next(k for k in ("%skey:%d" % (tag, i) for i in range(10000)) if node_of(cluster, k) is node)


# ---- what the nodes say of the cluster --------------------------------------------------------------------------------
def every_slot_has_one_leader_and_nodes_have_addresses():
    with formed() as cluster:
        for n in cluster.nodes.values():
            c = n.resp()
            seen = {}
            for first, last, leader, *replicas in c.call("CLUSTER", "SLOTS"):
                assert len(leader) == 4 and leader[0] and leader[1] and len(leader[2]) == 40, leader
                for slot in range(first, last + 1):
                    assert slot not in seen, slot
                    seen[slot] = leader[2]
                for r in replicas:
                    assert r[0] and r[2] != leader[2], r
            assert len(seen) == SLOTS and len(set(seen.values())) == 3
            me = c.call("CLUSTER", "MYID")
            lines = c.call("CLUSTER", "NODES").decode().strip().split("\n")
            assert len(lines) == 3 and sum("myself,master" in line for line in lines) == 1
            mine = next(line for line in lines if "myself" in line).split(" ")
            assert mine[0] == me.decode() and mine[1].startswith("%s:%d@" % (n.host, n.ports["resp"])), mine
            listed = set()
            for r in (r for line in lines for r in line.split(" ")[8:]):
                a, _, b = r.partition("-")
                listed |= set(range(int(a), int(b or a) + 1))
            assert len(listed) == SLOTS
            shards = [dict(zip(s[::2], s[1::2])) for s in c.call("CLUSTER", "SHARDS")]
            assert sum(sum(b - a + 1 for a, b in zip(s[b"slots"][::2], s[b"slots"][1::2])) for s in shards) == SLOTS
            assert all(len(s[b"nodes"]) == 3 for s in shards)
            info = c.call("CLUSTER", "INFO").decode()
            assert "cluster_state:ok" in info and "cluster_known_nodes:3" in info and "cluster_size:3" in info
            assert c.call("CLUSTER", "KEYSLOT", "{user}:1") == slot_of("user")
            assert b"mode" in c.call("HELLO", "3") and c.call("HELLO", "3")[b"mode"] == b"cluster"
            assert len(c.call("CLUSTER", "REPLICAS", me)) == 2
        ids = {bytes(n.resp().call("CLUSTER", "MYID")) for n in cluster.nodes.values()}
        assert len(ids) == 3


def links_are_listed_both_ways():
    with formed() as cluster:
        ids = {i: bytes(n.resp().call("CLUSTER", "MYID")) for i, n in cluster.nodes.items()}
        for i, n in cluster.nodes.items():
            def whole():
                links = [dict(zip(x[::2], x[1::2])) for x in n.resp().call("CLUSTER", "LINKS")]
                ends = [(x[b"direction"], x[b"node"]) for x in links]
                return len(links) == 8 and all(ends.count((d, ids[o])) == 2 for d in (b"to", b"from") for o in ids if o != i) and links

            eventually(whole)
            now = time.time() * 1000
            for x in whole():
                assert list(x) == [b"direction", b"node", b"create-time", b"events", b"send-buffer-allocated", b"send-buffer-used"], x
                assert now - 3600000 < x[b"create-time"] <= now + 5000 and x[b"events"] in (b"r", b"rw") and x[b"send-buffer-used"] <= x[b"send-buffer-allocated"], x
        c = cluster.nodes[1].resp()
        c.call("HELLO", "3")
        assert all(isinstance(x, dict) for x in c.call("CLUSTER", "LINKS"))
        cluster.nodes[3].kill()
        eventually(lambda: not any(x[b"node"] == ids[3] for x in c.call("CLUSTER", "LINKS")))


def what_the_controller_does_is_refused_with_a_hint():
    with formed() as cluster:
        c = cluster.nodes[1].resp()
        for command in (("ADDSLOTS", "1"), ("SETSLOT", "1", "STABLE"), ("MEET", "127.0.0.1", "1"), ("FAILOVER",), ("RESET",)):
            assert "is not done by clients here" in refused(c, "CLUSTER", *command), command
        assert refused(c, "MIGRATE", "127.0.0.1", "6379", "k", "0", "100") == "ERR migrate is not done by clients here: partitions are moved whole; use gomsgctl cluster transfer-leader"
        assert refused(c, "SELECT", "1") == "ERR SELECT is not allowed in cluster mode"
        assert c.call("SELECT", "0") == b"OK" and c.call("ASKING") == b"OK"


# ---- redirects -----------------------------------------------------------------------------------------------------------
def keys_are_redirected_to_their_leader():
    with formed() as cluster:
        for i in range(60):
            key = "k:%d" % i
            leader = node_of(cluster, key)
            wrong = other_than(cluster, leader)
            assert refused(wrong.resp(), "SET", key, i) == "MOVED %d %s:%d" % (slot_of(key), leader.host, leader.ports["resp"])
            assert leader.resp().call("SET", key, i) == b"OK"
            assert leader.resp().call("GET", key) == b"%d" % i
        c = cluster.nodes[1].resp()
        assert refused(c, "MSET", "a", "1", "b", "2") == "CROSSSLOT Keys in request don't hash to the same slot"
        assert node_of(cluster, "{t}a").resp().call("MSET", "{t}a", "1", "{t}b", "2") == b"OK"
        # a pipeline mixes what is here and what is not
        here, away = key_led_by(cluster, cluster.nodes[1]), key_led_by(cluster, cluster.nodes[2])
        replies = c.pipeline([("SET", here, "x"), ("SET", away, "y"), ("GET", here), ("GET", away)])
        assert replies[0] == b"OK" and replies[2] == b"x"
        assert all(str(r).startswith("MOVED ") for r in (replies[1], replies[3])), replies
        sizes = [n.resp().call("DBSIZE") for n in cluster.nodes.values()]
        assert sum(sizes) == 63, sizes
        found = set()
        for n in cluster.nodes.values():
            cursor = b"0"
            while True:
                cursor, keys = n.resp().call("SCAN", cursor, "COUNT", "7")
                found |= set(keys)
                if cursor == b"0":
                    break
        assert len(found) == 63
        slot = slot_of("{t}a")
        owner = node_of(cluster, "{t}a").resp()
        assert owner.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 2
        assert set(owner.call("CLUSTER", "GETKEYSINSLOT", slot, 10)) == {b"{t}a", b"{t}b"}
        assert len(owner.call("CLUSTER", "GETKEYSINSLOT", slot, 1)) == 1


def transactions_stay_in_a_slot():
    with formed() as cluster:
        leader = node_of(cluster, "{t}a")
        c = leader.resp()
        assert c.pipeline([("MULTI",), ("SET", "{t}a", "1"), ("INCR", "{t}a"), ("EXEC",)])[-1] == [b"OK", 2]
        wrong = other_than(cluster, leader).resp()
        replies = wrong.pipeline([("MULTI",), ("SET", "{t}a", "1"), ("EXEC",)])
        assert str(replies[1]).startswith("MOVED ") and str(replies[2]).startswith("EXECABORT"), replies
        second = key_led_by(cluster, leader, "other:")
        replies = c.pipeline([("MULTI",), ("SET", "{t}a", "5"), ("SET", second, "5"), ("EXEC",)])
        assert str(replies[3]).startswith("CROSSSLOT"), replies
        assert c.call("GET", "{t}a") == b"2"
        assert c.call("WATCH", "{t}a") == b"OK"
        assert leader.resp().call("SET", "{t}a", "9") == b"OK"
        assert c.pipeline([("MULTI",), ("SET", "{t}a", "8"), ("EXEC",)])[-1] is None


def replicas_answer_reads_that_allow_it():
    with formed() as cluster:
        leader = node_of(cluster, "r")
        assert leader.resp().call("SET", "r", "1") == b"OK"
        replica = other_than(cluster, leader).resp()
        assert refused(replica, "GET", "r").startswith("MOVED ")
        assert replica.call("READONLY") == b"OK"
        eventually(lambda: replica.call("GET", "r") == b"1")
        assert refused(replica, "SET", "r", "2").startswith("MOVED ")
        replies = replica.pipeline([("GET", "r"), ("SET", "r", "2"), ("GET", "r")])
        assert replies[0] == b"1" and str(replies[1]).startswith("MOVED ") and replies[2] == b"1", replies
        assert replica.call("READWRITE") == b"OK"
        assert refused(replica, "GET", "r").startswith("MOVED ")


# ---- publish and subscribe ---------------------------------------------------------------------------------------------
def messages_reach_subscribers_on_every_node():
    with formed() as cluster:
        subscribers = [n.resp(timeout=10 * PATIENCE) for n in cluster.nodes.values()]
        for c in subscribers:
            assert c.call("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
            c.send(c.encode("PSUBSCRIBE", "n*"))
            assert c.reply() == [b"psubscribe", b"n*", 2]
        for i, n in cluster.nodes.items():
            assert n.resp().call("PUBLISH", "news", "from %d" % i) == 2
        for c in subscribers:
            got = [tuple(c.reply()) for _ in range(6)]
            for i in cluster.nodes:
                assert (b"message", b"news", b"from %d" % i) in got and (b"pmessage", b"n*", b"news", b"from %d" % i) in got, got


def shard_channels_belong_to_a_slot():
    with formed() as cluster:
        leader = node_of(cluster, "sc")
        other = other_than(cluster, leader)
        assert refused(other.resp(), "SPUBLISH", "sc", "x").startswith("MOVED %d " % slot_of("sc"))
        at_leader, at_replica = leader.resp(timeout=10 * PATIENCE), other.resp(timeout=10 * PATIENCE)
        assert at_leader.call("SSUBSCRIBE", "sc") == [b"ssubscribe", b"sc", 1]
        assert at_replica.call("SSUBSCRIBE", "sc") == [b"ssubscribe", b"sc", 1]
        assert str(refused(leader.resp(), "SSUBSCRIBE", "sc", "elsewhere")).startswith("CROSSSLOT")
        assert leader.resp().call("SPUBLISH", "sc", "hello") == 1
        assert at_leader.reply() == [b"smessage", b"sc", b"hello"] == at_replica.reply()
        assert leader.resp().call("PUBSUB", "SHARDNUMSUB", "sc") == [b"sc", 1]
        assert leader.resp().call("PUBSUB", "SHARDCHANNELS") == [b"sc"] and leader.resp().call("PUBSUB", "CHANNELS") == []


# ---- failures -------------------------------------------------------------------------------------------------------------
def shard_channels_end_where_the_last_replica_goes():
    with formed() as cluster:
        number = 3
        gone = cluster.nodes[number]
        channel = next("c%d" % i for i in range(10000) if node_of(cluster, "c%d" % i) is not gone)
        # A replica serves subscribers too.
        c = gone.resp(timeout=60 * PATIENCE)
        c.call("READONLY")
        assert c.call("SSUBSCRIBE", channel) == [b"ssubscribe", channel.encode(), 1]
        # A follower that holds nothing any more.
        other = cluster.nodes[1]
        assert b"replicas" in other.resp().call("GOMSG", "cluster", "drain", str(number), "--replicas")
        assert c.reply() == [b"sunsubscribe", channel.encode(), 0]
        eventually(lambda: refused(gone.resp(), "SSUBSCRIBE", channel).startswith("MOVED "))


def blocked_clients_are_sent_on():
    """The partition of a client that waits in BLPOP is handed to another node: it is told where, and an element pushed there is not lost."""
    with formed() as cluster:
        leader = node_of(cluster, "jobs")
        waiting = leader.resp(timeout=20 * PATIENCE)
        waiting.send(waiting.encode("BLPOP", "jobs", "0"))
        time.sleep(0.2)
        partition = slot_of("jobs") * 32 // SLOTS
        target = other_than(cluster, leader)
        target_id = next(n["node"] for n in leader.ctl("cluster", "nodes") if n["name"] == target.name)
        leader.ctl("cluster", "transfer-leader", partition, target_id)
        answer = waiting.reply()
        assert str(answer) == "MOVED %d %s:%d" % (slot_of("jobs"), target.host, target.ports["resp"]), answer
        eventually(lambda: target.resp().call("LPUSH", "jobs", "one") == 1)
        assert target.resp().call("LRANGE", "jobs", 0, -1) == [b"one"]


def a_killed_leader_is_replaced_and_clients_find_the_next():
    with formed(kv_ack="quorum") as cluster:
        keys = ["key:%d" % i for i in range(200)]
        for k in keys:
            node_of_k = node_of(cluster, k)
            assert node_of_k.resp().call("SET", k, "before " + k) == b"OK"
        dead = node_of(cluster, keys[0])
        dead.kill()
        for k in keys:
            def read(k=k):
                n = node_of(cluster, k)
                return n is not None and n is not dead and n.resp().call("GET", k) == b"before " + k.encode()
            eventually(read, timeout=15)
        for k in keys[:20]:
            eventually(lambda k=k: node_of(cluster, k).resp().call("SET", k, "after") == b"OK", timeout=15)
        dead.start()
        dead.wait_ready()
        cluster.wait_healthy()
        for k in keys[:20]:
            assert node_of(cluster, k).resp().call("GET", k) == b"after"


def the_minority_refuses():
    with formed(kv_ack="quorum") as cluster:
        survivor = cluster.nodes[1]
        mine, rest = key_led_by(cluster, survivor), [n for n in cluster.nodes.values() if n is not survivor]
        assert survivor.resp().call("SET", mine, "1") == b"OK"
        for n in rest:
            n.kill()

        def down():
            return refused(survivor.resp(timeout=10 * PATIENCE), "SET", mine, "2").startswith("CLUSTERDOWN")
        eventually(down, timeout=15)
        assert "cluster_state:fail" in survivor.resp().call("CLUSTER", "INFO").decode()
        c = survivor.resp()
        for n in rest:
            n.start()
        for n in rest:
            n.wait_ready()
        cluster.wait_healthy()
        # "2" was never acknowledged; where its client got no answer it may have been kept
        eventually(lambda: node_of(cluster, mine).resp().call("GET", mine) in (b"1", b"2"), timeout=15)
        c.close()


# ---- unchanged clients ---------------------------------------------------------------------------------------------------
def redis_cli_follows_redirects():
    with formed() as cluster:
        n = cluster.nodes[2]
        for i in range(20):
            r = subprocess.run(["redis-cli", "-c", "-h", n.host, "-p", str(n.ports["resp"]), "SET", "cli:%d" % i, str(i)],
                               stdout=subprocess.PIPE, text=True, timeout=20 * PATIENCE)
            assert r.stdout.strip() == "OK", r
        out = subprocess.run(["redis-cli", "--cluster", "check", "%s:%d" % (n.host, n.ports["resp"])], stdout=subprocess.PIPE, text=True,
                             timeout=60 * PATIENCE).stdout
        assert "All 16384 slots covered" in out, out


def many_writers_at_level_leader_see_their_own_writes():
    with formed() as cluster:
        leaders = {i: node_of(cluster, "w:%d" % i) for i in range(30)}
        failures = []

        def write(worker):
            try:
                conns = {n.name: n.resp(timeout=10 * PATIENCE) for n in cluster.nodes.values()}
                for round_ in range(40):
                    for i in range(worker, 30, 3):
                        c = conns[leaders[i].name]
                        assert c.call("INCR", "w:%d" % i) == round_ + 1
            except Exception as e:  # pylint: disable=broad-except
                failures.append(repr(e))
        threads = [threading.Thread(target=write, args=(w,)) for w in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failures, failures
        # WAIT: both followers have it
        c = leaders[0].resp(timeout=10 * PATIENCE)
        assert c.call("INCR", "w:0") == 41 and c.call("WAIT", 2, 5000) == 2


run_tests([every_slot_has_one_leader_and_nodes_have_addresses, links_are_listed_both_ways, what_the_controller_does_is_refused_with_a_hint, keys_are_redirected_to_their_leader,
           transactions_stay_in_a_slot, replicas_answer_reads_that_allow_it, messages_reach_subscribers_on_every_node, shard_channels_belong_to_a_slot, shard_channels_end_where_the_last_replica_goes,
           blocked_clients_are_sent_on, a_killed_leader_is_replaced_and_clients_find_the_next, the_minority_refuses, redis_cli_follows_redirects,
           many_writers_at_level_leader_see_their_own_writes])
