"""Forming a cluster and keeping it (rule 22): seeds in any order, one missing, restarts, the controller killed, a fourth node, and everybody who does not belong."""
import json
import os
import random
import re
import shutil
import signal
import socket
import threading
import time

from node import Node, StartError, eventually, run_tests
from wire import Amqp, Resp, RespError

TIMERS = []  # the defaults


def free_ports(n):
    """Ports nobody has at the moment, outside of those the system gives to whoever asks for any."""
    ports = []
    while len(ports) < n:
        port = random.randrange(20000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


class Member(Node):
    def __init__(self, cluster, name, bus, *args, seeds=None):
        super().__init__(*args)
        self.cluster, self.name, self.bus = cluster, name, bus
        self.seeds = cluster.seeds if seeds is None else seeds

    def command(self):
        return super().command() + ["--node.name=" + self.name, "--node.threads=1", "--cluster.listen=127.0.0.1:%d" % self.bus,
                                    "--cluster.seeds=" + ",".join(self.seeds), "--cluster.total_partitions=8"] + TIMERS + self.args

    @property
    def address(self):
        return "127.0.0.1:%d" % self.bus

    def begin(self):
        return self.start(wait="resp")

    def ready(self):
        try:
            return json.loads(self.http("/readyz"))
        except OSError as e:
            return json.loads(e.read().decode()) if hasattr(e, "read") else {}

    def state(self):
        return self.ready().get("cluster", "")

    def is_ready(self):
        return self.ready().get("ready", False)

    def gomsg(self, *words):
        c = Resp(self.ports["resp"])
        answer = c.call("GOMSG", *words)
        return json.loads(answer)

    def status(self):
        return self.gomsg("cluster", "group")


class Cluster:
    def __init__(self, n=3, *args, start=True):
        ports = free_ports(n + 2)
        self.seeds = ["127.0.0.1:%d" % p for p in ports[:n]]
        self.spare = ports[n:]
        self.members = [Member(self, "n%d" % (i + 1), ports[i], *args) for i in range(n)]
        if start:
            self.form()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for m in self.members:
            m.__exit__(kind, value, trace)

    def add(self, name, *args, seeds=None):
        m = Member(self, name, self.spare.pop(0), *args, seeds=seeds)
        self.members.append(m)
        return m

    def form(self, order=None):
        for i in order or range(len(self.members)):
            self.members[i].begin()
        for m in self.members:
            eventually(m.is_ready, timeout=15)

    def cluster_ids(self):
        ids = set()
        for m in self.members:
            with open(os.path.join(m.data, "node.id")) as f:
                ids.add(re.search(r"cluster_id: (\w+)", f.read()).group(1))
        return ids

    def controller(self):
        for m in self.members:
            if m.alive():
                s = m.status()
                if s["leader"] != 0 and s["leader"] == s["node_id"]:
                    return m
        raise AssertionError("no controller")


def add_vhost(member, name, timeout=10):
    """A change of the topology through this node; how long it took."""
    begin = time.monotonic()
    eventually(lambda: member.gomsg("vhost", "add", name) is not None, timeout=timeout)
    return time.monotonic() - begin


def vhosts(member):
    return {v["name"] for v in member.gomsg("vhost", "list")}


def three_start_in_any_order_and_form_one_cluster():
    for order in ((0, 1, 2), (2, 0, 1)):
        with Cluster(start=False) as c:
            begin = time.monotonic()
            c.form(order)
            print("formed in %.2f s" % (time.monotonic() - begin))
            assert len(c.cluster_ids()) == 1
            assert sorted(m.status()["node_id"] for m in c.members) == [1, 2, 3]
            # In the order of the list, whatever the order of starting.
            assert [m.status()["node_id"] for m in c.members] == [1, 2, 3]
            assert all(sum(x["voter"] for x in m.status()["members"]) == 3 for m in c.members)
            for i, m in enumerate(c.members):
                add_vhost(m, "v%d" % i)
                # Rule 17 is for nodes that are not fenced; these are alive, so they have it soon.
                for other in c.members:
                    eventually(lambda: "v%d" % i in vhosts(other))


def one_missing_is_waited_for_by_name():
    with Cluster(start=False) as c:
        a, b, late = c.members
        a.begin()
        b.begin()
        for m in (a, b):
            eventually(lambda: late.address in m.state() and "waiting for" in m.state())
        assert "--without" in a.state()
        try:
            Resp(a.ports["resp"]).call("GET", "k")
            raise AssertionError("an answer without a cluster")
        except Exception as e:
            assert "LOADING" in str(e), e
        eventually(lambda: "in no cluster yet" in a.log() and late.address in a.log())
        late.begin()
        for m in c.members:
            eventually(m.is_ready, timeout=15)
        assert len(c.cluster_ids()) == 1


def an_administrator_may_leave_one_out_and_it_joins_later():
    with Cluster(start=False) as c:
        a, b, late = c.members
        a.begin()
        b.begin()
        eventually(lambda: "waiting for " + late.address in a.state())
        assert a.gomsg("cluster", "form", late.address)["formed"]
        eventually(a.is_ready)
        eventually(b.is_ready)
        late.begin()
        eventually(late.is_ready, timeout=15)
        assert len(c.cluster_ids()) == 1
        assert late.status()["node_id"] == 3
        eventually(lambda: sum(x["voter"] for x in a.status()["members"]) == 3)


def a_seed_that_names_only_itself_is_a_cluster_of_one():
    with Cluster(n=1) as c:
        c.members[0].status()["leader"] == 1
        other = c.add("n2")
        other.begin()
        eventually(other.is_ready, timeout=15)
        assert other.status()["node_id"] == 2
        assert len(c.cluster_ids()) == 1


def a_node_that_was_alone_becomes_a_cluster_with_what_it_has():
    with Cluster(n=1, start=False) as c:
        one = c.members[0]
        one.seeds = []
        one.start()
        add_vhost(one, "old")
        one.stop()
        one.seeds = c.seeds
        one.begin()
        eventually(one.is_ready, timeout=15)
        assert "old" in vhosts(one)
        other = c.add("n2")
        other.begin()
        eventually(other.is_ready, timeout=15)
        assert "old" in vhosts(other)
        assert len(c.cluster_ids()) == 1
        # Back alone it would have half a cluster's topology for its own.
        other.stop()
        seeds, other.seeds = other.seeds, []
        try:
            other.start(wait="resp")
            raise AssertionError("a node of two went on alone")
        except StartError as e:
            assert "cluster.seeds" in str(e), str(e)
        other.seeds = seeds
        other.start()


def each_restarts_and_comes_back_with_what_it_knew():
    with Cluster() as c:
        add_vhost(c.members[0], "kept")
        for m in c.members:
            m.stop()
            m.start()
            eventually(lambda: "kept" in vhosts(m))
        for m in c.members:
            m.kill()
        for m in c.members:
            m.begin()
        for m in c.members:
            eventually(m.is_ready, timeout=20)
            eventually(lambda: "kept" in vhosts(m))


def a_killed_controller_is_replaced_within_two_seconds():
    with Cluster() as c:
        worst = 0
        for i in range(3):
            lead = c.controller()
            rest = [m for m in c.members if m is not lead]
            lead.kill()
            begin = time.monotonic()
            add_vhost(rest[i % 2], "after%d" % i)
            worst = max(worst, time.monotonic() - begin)
            lead.begin()
            eventually(lead.is_ready, timeout=20)
            eventually(lambda: "after%d" % i in vhosts(lead))
        print("worst %.2f s" % worst)
        assert worst < 8, worst


def a_controller_that_stops_hands_over_first():
    with Cluster() as c:
        lead = c.controller()
        term = lead.status()["term"]
        rest = [m for m in c.members if m is not lead]
        lead.stop()
        eventually(lambda: c.controller() is not lead)
        assert c.controller().status()["term"] == term + 1, "one election, no more"


def without_a_majority_a_change_is_refused_in_bounded_time():
    with Cluster() as c:
        a, b, x = c.members
        b.kill()
        x.kill()
        begin = time.monotonic()
        try:
            a.gomsg("vhost", "add", "lost")
            raise AssertionError("accepted by one of three")
        except Exception as e:
            assert "leader" in str(e) or "timed out" in str(e), e
        assert time.monotonic() - begin < 30
        b.begin()
        eventually(b.is_ready, timeout=20)
        add_vhost(a, "found")


def a_fourth_joins_and_learns():
    with Cluster() as c:
        add_vhost(c.members[0], "before")
        four = c.add("n4")
        four.begin()
        eventually(four.is_ready, timeout=15)
        assert four.status()["node_id"] == 4
        assert "before" in vhosts(four)
        assert [x["voter"] for x in four.status()["members"]] == [True, True, True, False]
        add_vhost(four, "through")
        for m in c.members:
            eventually(lambda: "through" in vhosts(m))
        four.kill()
        four.start()
        assert four.status()["node_id"] == 4


def an_empty_disk_at_the_address_of_a_member_is_a_new_node():
    with Cluster() as c:
        lost = c.members[2]
        lost.stop()
        shutil.rmtree(lost.data)
        lost.begin()
        eventually(lost.is_ready, timeout=15)
        assert lost.status()["node_id"] == 4
        assert len(c.cluster_ids()) == 1
        eventually(lambda: any("joins with an empty disk at the address of another" in m.log() and "old_node=3" in m.log() for m in c.members[:2]))


# ---- who does not belong ----------------------------------------------------------------------------------------------------
def unharmed(c):
    for m in c.members[:3]:
        assert m.alive() and m.is_ready()
    add_vhost(c.members[0], "still%d" % time.monotonic_ns())


def stranger(c, *args, words=(), seeds=None):
    m = c.add("stranger", *args, seeds=seeds)
    m.begin()
    for w in words:
        eventually(lambda: w in m.log() + m.state(), timeout=15)
    assert not m.is_ready()
    unharmed(c)
    return m


def another_number_of_partitions_is_refused():
    with Cluster() as c:
        stranger(c, "--cluster.total_partitions=16", words=("total_partitions",))


def a_wrong_or_missing_secret_is_refused():
    with Cluster(3, "--cluster.secret=right") as c:
        stranger(c, "--cluster.secret=wrong", words=("cluster.secret",))
        stranger(c, words=("cluster.secret",))


def two_clusters_never_merge():
    with Cluster() as c, Cluster(n=1) as d:
        one = d.members[0]
        add_vhost(one, "mine")
        one.stop()
        one.seeds = c.seeds + one.seeds
        one.begin()
        eventually(lambda: "another cluster" in one.log(), timeout=15)
        eventually(lambda: one.is_ready(), timeout=15)  # it goes on as what it is
        assert "mine" in vhosts(one) and "mine" not in vhosts(c.members[0])
        unharmed(c)
        # An empty node that sees both keeps out of either.
        lost = c.add("lost", seeds=[c.seeds[0], one.address])
        lost.begin()
        eventually(lambda: "never merge" in lost.state(), timeout=15)
        unharmed(c)


def another_list_of_seeds_is_named():
    with Cluster(start=False) as c:
        a, b, x = c.members
        b.seeds = list(reversed(c.seeds))
        x.seeds = c.seeds[:2] + ["127.0.0.1:%d" % c.spare[0]]
        for m in c.members:
            m.begin()
        eventually(lambda: "another list" in a.state() and x.address in a.state(), timeout=15)
        assert not a.is_ready() and not b.is_ready()
        x.kill()
        x.seeds = c.seeds
        x.begin()
        for m in c.members:
            eventually(m.is_ready, timeout=15)


def a_node_that_is_no_seed_never_forms():
    with Cluster(n=2, start=False) as c:
        extra = c.add("extra")
        extra.begin()
        c.members[0].begin()
        eventually(lambda: c.members[1].address in extra.state(), timeout=15)
        c.members[1].begin()
        for m in c.members:
            eventually(m.is_ready, timeout=15)
        assert extra.status()["node_id"] == 3
        assert len(c.cluster_ids()) == 1


def a_copy_of_a_disk_that_is_in_use_is_refused():
    with Cluster() as c:
        m = c.members[2]
        copy = c.add("copy")
        shutil.copytree(m.data, copy.data, ignore=shutil.ignore_patterns("ctl.sock", "gomsgd.pid", "lock"))
        copy.begin()
        eventually(lambda: "another process with this node's identity" in copy.log() + copy.state(), timeout=15)
        time.sleep(1)
        assert not copy.is_ready()
        unharmed(c)
        assert m.status()["node_id"] == 3


def keep(m):
    """A copy of a node's disk, as a backup makes it."""
    to = m.data + ".kept"
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(m.data, to, ignore=shutil.ignore_patterns("ctl.sock", "gomsgd.pid", "lock"))
    return to


def put_back(m, kept):
    shutil.rmtree(m.data)
    os.rename(kept, m.data)


def is_shut_out(c, m):
    """The node says what to do, the others too, and they lose nothing by it."""
    others = [x for x in c.members if x is not m]

    def says_so():
        # It ended by itself, or waits, refused.
        if not m.alive():
            return "older copy of this node's disk" in m.log()
        return "disk is older" in m.state() and "gomsgctl cluster remove" in m.state()

    def seen(x):
        finding = any("disk is older" in f["finding"] for f in x.gomsg("doctor"))
        return finding and any("disk is older" in e["event"] for e in x.gomsg("cluster", "events"))

    eventually(says_so, timeout=20)
    assert not m.alive() or not m.is_ready()
    for x in others:
        add_vhost(x, "still%d" % time.monotonic_ns())
        if m.alive():
            eventually(lambda: seen(x), timeout=20)


def removed(m, number):
    """Refused until the node is fenced."""
    try:
        return m.gomsg("cluster", "remove", number) == {"ok": True}
    except RespError as e:
        assert "is active and holds partitions" in str(e), e
        return False


def comes_back_empty(c, m):
    other = next(x for x in c.members if x is not m)
    m.kill()  # it may have ended by itself
    eventually(lambda: removed(other, "3"), timeout=30)
    shutil.rmtree(m.data)
    m.begin()
    eventually(m.is_ready, timeout=30)
    assert m.status()["node_id"] == 4, m.status()
    eventually(lambda: "second" in vhosts(m))


def a_disk_put_back_from_a_backup_is_refused_and_says_what_to_do():
    with Cluster() as c:
        m = c.members[2]
        m.stop()
        kept = keep(m)
        m.begin()
        eventually(m.is_ready, timeout=20)
        add_vhost(m, "second")
        eventually(lambda: all("second" in vhosts(x) for x in c.members))
        m.stop()
        put_back(m, kept)
        m.begin()
        is_shut_out(c, m)
        # Nor after all others began anew and know only what is on their disks.
        m.kill()
        for x in c.members:
            if x is not m:
                x.stop()
        m.begin()
        for x in c.members:
            if x is not m:
                x.begin()
        for x in c.members:
            if x is not m:
                eventually(x.is_ready, timeout=30)
        is_shut_out(c, m)
        comes_back_empty(c, m)


def a_disk_that_forgot_within_one_start_is_shut_out_too():
    with Cluster() as c:
        m = c.members[2]
        if c.controller() is m:
            m.stop()
            m.begin()
            eventually(m.is_ready, timeout=20)
        lead = c.controller()
        assert lead is not m
        m.signal(signal.SIGSTOP)
        kept = keep(m)
        os.kill(m.process.pid, signal.SIGCONT)
        eventually(lambda: c.controller() is lead)
        add_vhost(m, "second")
        eventually(lambda: all("second" in vhosts(x) for x in c.members))
        m.kill()
        put_back(m, kept)
        m.begin()
        is_shut_out(c, m)
        comes_back_empty(c, m)


def garbage_on_the_bus_harms_nobody():
    with Cluster() as c:
        for text in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\x00" * 4096, b"\xff" * 64):
            with socket.create_connection(("127.0.0.1", c.members[0].bus)) as s:
                s.sendall(text)
                s.settimeout(5)
                try:
                    while s.recv(4096):
                        pass
                except OSError:
                    pass
        unharmed(c)


def a_non_loopback_bus_needs_a_secret_or_the_word():
    with Node("--cluster.seeds=192.0.2.1:9000", "--cluster.listen=0.0.0.0:0") as node:
        try:
            node.start(wait="resp")
            raise AssertionError("it started")
        except StartError as e:
            assert "cluster.secret" in str(e) and "allow_unauthenticated" in str(e), str(e)


if __name__ == "__main__":
    run_tests([three_start_in_any_order_and_form_one_cluster, one_missing_is_waited_for_by_name, an_administrator_may_leave_one_out_and_it_joins_later,
               a_seed_that_names_only_itself_is_a_cluster_of_one, a_node_that_was_alone_becomes_a_cluster_with_what_it_has, each_restarts_and_comes_back_with_what_it_knew,
               a_killed_controller_is_replaced_within_two_seconds, a_controller_that_stops_hands_over_first,
               without_a_majority_a_change_is_refused_in_bounded_time, a_fourth_joins_and_learns,
               an_empty_disk_at_the_address_of_a_member_is_a_new_node, another_number_of_partitions_is_refused, a_wrong_or_missing_secret_is_refused,
               two_clusters_never_merge, another_list_of_seeds_is_named, a_node_that_is_no_seed_never_forms, a_copy_of_a_disk_that_is_in_use_is_refused,
               a_disk_put_back_from_a_backup_is_refused_and_says_what_to_do, a_disk_that_forgot_within_one_start_is_shut_out_too, garbage_on_the_bus_harms_nobody,
               a_non_loopback_bus_needs_a_secret_or_the_word])
