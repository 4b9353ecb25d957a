"""Membership and the controller with real processes: placement, dead processes, silent ones, the controller itself, all at once. What happens is waited for, not timed; how long it took is printed."""
import json
import os
import signal
import subprocess
import time

from cluster_form_test import Cluster, Member
from node import BUILD, eventually, run_tests
from wire import Resp, RespError

PARTITIONS = 8  # as Member forms them


def slot_of(key):
    crc = 0
    for byte in key.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xffff
    return crc % 16384


def key_of(partition):
    return next(k for k in ("k%d" % i for i in range(100000)) if slot_of(k) * PARTITIONS // 16384 == partition)


def partitions(member):
    return member.gomsg("cluster", "partitions")


def node_id(member):
    return member.gomsg("cluster", "status")["node_id"]


def is_healthy(member):
    return member.gomsg("cluster", "health")["healthy"]


def members(text):
    return {int(n) for n in text.split(",")} if text else set()


def by_id(cluster, number):
    return next(m for m in cluster.members if m.alive() and node_id(m) == number)


def others(cluster, *but):
    return [m for m in cluster.members if m not in but]


def no_longer_leads(member, dead):
    return all(p["leader"] not in (0, dead) for p in partitions(member))


def events(member):
    return [e["event"] for e in member.gomsg("cluster", "events", "1000")]


def ask(member, *command):
    """The answer, an error among them."""
    try:
        return Resp(member.ports["resp"]).call(*command)
    except RespError as e:
        return e


def write(member, key, value):
    """Writes at this node until it takes it."""
    return eventually(lambda: ask(member, "SET", key, value) == b"OK", timeout=20)


def ctl(member, *words):
    return subprocess.run([os.path.join(BUILD, "gomsgctl"), "-d", member.data] + list(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, text=True)


def healthy(cluster):
    for m in cluster.members:
        eventually(lambda m=m: is_healthy(m), timeout=30)


def three_nodes_hold_every_partition_and_share_the_leaderships():
    with Cluster(3) as c:
        healthy(c)
        rows = partitions(c.members[0])
        assert len(rows) == PARTITIONS
        for p in rows:
            assert members(p["replicas"]) == members(p["insync"]) == {1, 2, 3}, p
            assert p["epoch"] == 1, p
        led = [sum(p["leader"] == n for p in rows) for n in (1, 2, 3)]
        assert max(led) - min(led) <= 1, led
        for m in c.members:
            eventually(lambda m=m: [p["role"] for p in partitions(m)].count("leader") == led[node_id(m) - 1], timeout=20)
            assert m.metric("gomsg_cluster_lease") == 1
        assert sum(m.metric("gomsg_cluster_controller") for m in c.members) == 1
        for n in (1, 2, 3):
            m = by_id(c, n)
            p = next(p for p in rows if p["leader"] == n)
            write(m, key_of(p["partition"]), "v%d" % n)
        # The same through gomsgctl, on any node.
        assert ctl(c.members[1], "cluster", "health", "--wait").returncode == 0
        table = ctl(c.members[2], "--no-header", "cluster", "nodes")
        assert table.returncode == 0 and table.stdout.count("active") == 3, table
        assert ctl(c.members[0], "cluster", "transfer-leader", "99").returncode == 1


def a_dead_process_is_fenced_when_all_see_it_and_returns_to_the_in_sync_sets():
    with Cluster(3) as c:
        healthy(c)
        victim = others(c, c.controller())[0]
        watcher = others(c, victim)[0]
        number, before = node_id(victim), {p["partition"]: p for p in partitions(watcher)}
        begin = time.monotonic()
        victim.kill()
        eventually(lambda: no_longer_leads(watcher, number), timeout=20, every=0.005)
        print("   leaders elsewhere after %.0f ms" % ((time.monotonic() - begin) * 1000))
        for p in partitions(watcher):
            old = before[p["partition"]]
            assert p["epoch"] == old["epoch"] + (old["leader"] == number), (old, p)
            assert members(p["insync"]) == {1, 2, 3} - {number}, p
        assert any("connection refused" in e for m in others(c, victim) for e in events(m)), "not by the fast path"
        assert ctl(watcher, "cluster", "health").returncode == 1
        moved = next(p for p in partitions(watcher) if before[p["partition"]]["leader"] == number)
        write(by_id(c, moved["leader"]), key_of(moved["partition"]), "after")
        victim.start()
        healthy(c)
        assert node_id(victim) == number
        assert "node %d is active" % number in events(watcher)
        assert watcher.metric("gomsg_cluster_elections_total") >= 1
        assert watcher.metric("gomsg_cluster_fencings_total") >= 1


def leaderships_move_by_hand_and_return_to_the_first_choice():
    with Cluster(3) as c:
        healthy(c)
        row = partitions(c.members[0])[0]
        first, key = row["leader"], key_of(0)
        write(by_id(c, first), key, "v1")
        target = min({1, 2, 3} - {first})
        # The balance may call it back a moment later; the answer says that it was there.
        answer = c.members[1].gomsg("cluster", "transfer-leader", "0", str(target))
        assert answer == {"partition": 0, "leader": target}, answer
        assert any("led by node %d instead of node %d" % (target, first) in e for e in events(c.members[0]))
        eventually(lambda: partitions(c.members[0])[0]["leader"] == first, timeout=40)
        eventually(lambda: ask(by_id(c, first), "GET", key) == b"v1", timeout=20)
        # One that was away comes back to what it is the first choice of.
        victim = others(c, c.controller())[0]
        number, watcher = node_id(victim), others(c, victim)[0]
        led = {p["partition"] for p in partitions(watcher) if members(p["replicas"][:1]) == {number}}
        assert led
        victim.kill()
        eventually(lambda: no_longer_leads(watcher, number), timeout=20)
        victim.start()
        eventually(lambda: {p["partition"] for p in partitions(watcher) if p["leader"] == number} >= led, timeout=60)
        healthy(c)


def a_silent_node_is_fenced_and_does_not_serve_by_what_it_believed():
    with Cluster(3) as c:
        healthy(c)
        victim = others(c, c.controller())[0]
        watcher = others(c, victim)[0]
        number = node_id(victim)
        led = next(p for p in partitions(watcher) if p["leader"] == number)
        key = key_of(led["partition"])
        write(victim, key, "old")
        conn = Resp(victim.ports["resp"])
        begin = time.monotonic()
        victim.signal(signal.SIGSTOP)
        try:
            eventually(lambda: no_longer_leads(watcher, number), timeout=30, every=0.01)
            print("   leaders elsewhere after %.0f ms" % ((time.monotonic() - begin) * 1000))
            leader = by_id_of(watcher, c, led["partition"], victim)
            write(leader, key, "new")
            # What was sent to it while it slept it executes when it wakes: it must know by then that its lease is over.
            conn.send(conn.encode("SET", key, "stale"))
            conn.send(conn.encode("GET", key))
        finally:
            victim.signal(signal.SIGCONT)
        for _ in range(2):
            try:
                answer = conn.reply()
            except (EOFError, OSError):
                break
            assert isinstance(answer, RespError), answer
        healthy(c)
        leader = by_id(c, partitions(watcher)[led["partition"]]["leader"])
        eventually(lambda: ask(leader, "GET", key) == b"new", timeout=20)
        assert any("is to be fenced: silent" in e for e in events(c.controller()))


def by_id_of(watcher, cluster, partition, *but):
    number = partitions(watcher)[partition]["leader"]
    return next(m for m in others(cluster, *but) if node_id(m) == number)


def the_controller_that_leads_partitions_is_replaced_in_both():
    with Cluster(3) as c:
        healthy(c)
        victim = c.controller()
        watcher = others(c, victim)[0]
        number = node_id(victim)
        assert any(p["leader"] == number for p in partitions(watcher))
        begin = time.monotonic()
        victim.kill()
        eventually(lambda: no_longer_leads(watcher, number), timeout=30, every=0.005)
        print("   leaders elsewhere after %.0f ms" % ((time.monotonic() - begin) * 1000))
        status = watcher.gomsg("cluster", "status")
        assert status["controller"] not in (0, number), status
        victim.start()
        healthy(c)


def the_controller_that_sleeps_is_replaced_and_loses_its_lease():
    with Cluster(3) as c:
        healthy(c)
        victim = c.controller()
        watcher = others(c, victim)[0]
        number = node_id(victim)
        begin = time.monotonic()
        victim.signal(signal.SIGSTOP)
        try:
            eventually(lambda: no_longer_leads(watcher, number), timeout=30, every=0.01)
            print("   leaders elsewhere after %.0f ms" % ((time.monotonic() - begin) * 1000))
        finally:
            victim.signal(signal.SIGCONT)
        healthy(c)


def a_minority_of_one_has_no_lease_and_gets_it_back():
    with Cluster(3) as c:
        healthy(c)
        last = c.members[0]
        for m in others(c, last):
            m.signal(signal.SIGSTOP)
        try:
            eventually(lambda: not last.gomsg("cluster", "status")["lease"], timeout=20)
            led = [p for p in partitions(last) if p["leader"] == node_id(last)]
            assert led, "nobody could take anything from it"
            answer = ask(last, "SET", key_of(led[0]["partition"]), "x")
            assert isinstance(answer, RespError), answer
        finally:
            for m in others(c, last):
                m.signal(signal.SIGCONT)
        healthy(c)


def all_processes_killed_come_back_with_a_leader_for_everything():
    with Cluster(3) as c:
        healthy(c)
        for p in partitions(c.members[0]):
            write(by_id(c, p["leader"]), key_of(p["partition"]), "kept")
        # Quorum is not asked for here: what each leader had is on its own disk, and that one or an equal leads again.
        before = {p["partition"]: p["epoch"] for p in partitions(c.members[0])}
        for m in c.members:
            m.kill()
        for m in c.members:
            m.start(wait="resp")
        # What a node reads from its disk tells of leaders that are no more, and looks healthy: every partition gets a new epoch first.
        eventually(lambda: all(p["leader"] != 0 and p["epoch"] > before[p["partition"]] for p in partitions(c.members[0])), timeout=30)
        healthy(c)


def a_node_that_joins_gets_replicas_and_one_is_enough_to_begin_with():
    with Cluster(1) as c:
        healthy(c)
        assert all(members(p["replicas"]) == {1} for p in partitions(c.members[0]))
        for m in c.members:
            assert m.gomsg("cluster", "status")["lease"]
        write(c.members[0], "k", "v")
        c.add("n2").start()
        eventually(lambda: all(members(p["replicas"]) == {1, 2} == members(p["insync"]) for p in partitions(c.members[0])), timeout=40)
        c.add("n3").start()
        eventually(lambda: all(members(p["insync"]) == {1, 2, 3} for p in partitions(c.members[0])), timeout=40)
        healthy(c)


def a_node_that_joins_gets_nothing_below_the_threshold():
    """cluster.rebalance_threshold: how far below the mean (here of six) a node has to be; none can be further than the whole of it."""
    with Cluster(3, "--cluster.rebalance_threshold=1") as c:
        healthy(c)
        c.add("n4", "--cluster.rebalance_threshold=1").start()

        def newcomer():
            return next((n for n in c.members[0].gomsg("cluster", "nodes") if n["node"] == 4 and n["state"] == "active"), None)

        eventually(newcomer, timeout=30)
        time.sleep(9)  # with the default it gets its first replica five seconds after it is active
        assert newcomer()["replicas"] == 0, newcomer()
    with Cluster(3) as c:
        healthy(c)
        c.add("n4").start()
        eventually(lambda: next(n for n in c.members[0].gomsg("cluster", "nodes") if n["node"] == 4)["replicas"] >= 4, timeout=60)


def a_node_is_drained_for_maintenance_and_takes_its_share_again():
    with Cluster(3) as c:
        healthy(c)
        victim = c.controller()
        number, watcher = node_id(victim), others(c, victim)[0]
        assert any(p["leader"] == number for p in partitions(watcher))
        done = ctl(watcher, "cluster", "drain", str(number), "--wait")
        assert done.returncode == 0, done
        assert all(p["leader"] not in (0, number) for p in partitions(watcher))
        assert all(members(p["insync"]) == {1, 2, 3} for p in partitions(watcher))
        row = next(n for n in watcher.gomsg("cluster", "nodes") if n["node"] == number)
        assert row["state"] == "draining" and "leaderships" in row["notes"] and row["leads"] == 0 and row["replicas"] == PARTITIONS, row
        eventually(lambda: c.controller() is not victim, timeout=20)
        assert any("node %d is draining" % number in e for e in events(watcher))
        # It restarts, and the wish stands.
        victim.stop()
        victim.start(wait="resp")

        def again():
            now = next(n for n in watcher.gomsg("cluster", "nodes") if n["node"] == number)
            return now["epoch"] > row["epoch"] and now["state"] in ("active", "draining") and now

        assert eventually(again, timeout=30)["state"] == "draining"
        eventually(lambda: all(members(p["insync"]) == {1, 2, 3} for p in partitions(watcher)), timeout=30)
        time.sleep(1)
        assert all(p["leader"] != number for p in partitions(watcher))
        assert ctl(watcher, "cluster", "undrain", str(number)).returncode == 0
        eventually(lambda: any(p["leader"] == number for p in partitions(watcher)), timeout=60)
        healthy(c)
        # The others would be left alone.
        assert ctl(watcher, "cluster", "drain", "9").returncode == 1


def a_node_is_emptied_and_removed():
    with Cluster(3) as c:
        healthy(c)
        c.add("n4").start()
        eventually(lambda: any(4 in members(p["replicas"]) for p in partitions(c.members[0])), timeout=60)
        for i in range(PARTITIONS):
            p = partitions(c.members[0])[i]
            write(by_id(c, p["leader"]), key_of(i), "v%d" % i)
        victim = c.members[2]
        refused = ctl(c.members[0], "cluster", "remove", "3")
        assert refused.returncode == 1 and "drain 3 --replicas" in refused.stderr, refused
        done = ctl(c.members[0], "cluster", "drain", "3", "--replicas", "--wait")
        assert done.returncode == 0, done
        assert all(3 not in members(p["replicas"]) for p in partitions(c.members[0]))
        assert ctl(c.members[0], "cluster", "remove", "3").returncode == 0
        eventually(lambda: not victim.alive() and "was removed from its cluster" in victim.log(), timeout=20)
        eventually(lambda: all(members(p["insync"]) == {1, 2, 4} for p in partitions(c.members[0])), timeout=30)
        for i in range(PARTITIONS):
            p = partitions(c.members[0])[i]
            eventually(lambda: ask(by_id(c, p["leader"]), "GET", key_of(i)) == b"v%d" % i, timeout=20)
        victim.kill()


def a_node_whose_disk_fails_leads_no_more_and_counts_no_more():
    with Cluster(3) as c:
        healthy(c)
        victim = others(c, c.controller())[0]
        number = node_id(victim)
        victim.stop()
        victim.start(wait="resp", env={"GOMSG_FAILPOINT": "sync:8:eio"})
        healthy(c)
        survivor = others(c, victim)[0]
        # Writes to its partitions make it sync, until a round fails.
        keys = [key_of(p["partition"]) for p in partitions(survivor)]
        eventually(lambda: [by.append(ask(m, "SET", k, "v")) for by in ([],) for m in c.members for k in keys] and "it stops leading" in victim.log(), timeout=30, every=0.2)
        for m in others(c, victim):
            eventually(lambda m=m: all(p["leader"] not in (0, number) and number not in members(p["insync"]) for p in partitions(m)), timeout=20)
        for k in keys:
            eventually(lambda k=k: any(ask(m, "SET", k, "w") == b"OK" for m in others(c, victim)), timeout=10)
        assert isinstance(ask(victim, "SET", keys[0], "x"), RespError)
        victim.kill()
        victim.start(wait="resp")
        healthy(c)


if __name__ == "__main__":
    run_tests([three_nodes_hold_every_partition_and_share_the_leaderships, a_dead_process_is_fenced_when_all_see_it_and_returns_to_the_in_sync_sets,
               leaderships_move_by_hand_and_return_to_the_first_choice, a_silent_node_is_fenced_and_does_not_serve_by_what_it_believed, the_controller_that_leads_partitions_is_replaced_in_both,
               the_controller_that_sleeps_is_replaced_and_loses_its_lease, a_minority_of_one_has_no_lease_and_gets_it_back,
               all_processes_killed_come_back_with_a_leader_for_everything, a_node_that_joins_gets_replicas_and_one_is_enough_to_begin_with,
               a_node_that_joins_gets_nothing_below_the_threshold, a_node_is_drained_for_maintenance_and_takes_its_share_again, a_node_is_emptied_and_removed,
               a_node_whose_disk_fails_leads_no_more_and_counts_no_more])
