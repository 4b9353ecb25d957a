#!/usr/bin/env python3
"""Forming and joining, and those who must not: wrong secret, wrong number of partitions, another cluster's disk, a clock an hour off, a seed that is not there (rule 22).

Each misfit is refused, or kept from leading, with words that tell what is wrong, and without harm to the rest: the cluster stays healthy and writable throughout.
"""
import os
import re
import sys
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration")]
from node import run_tests  # noqa: E402
from rig import Cluster, Node, Skip, eventually  # noqa: E402
from wire import RespError  # noqa: E402


def write(cluster, value):
    """A write through the cluster succeeds on some living node."""
    def done():
        for n in cluster.living():
            try:
                if n.resp().call("SET", "alive", value) == b"OK":
                    return True
            except RespError as e:
                if not str(e).startswith("MOVED "):
                    raise
        return False
    eventually(done, 10)


def misfit(cluster, index, *extra, data=None):
    """A node beside the cluster's, at a spare address, with arguments of its own."""
    n = Node(cluster, index)
    n.extra = list(extra)
    if data is not None:
        n.restore_disk(data)
    return n.start()


def acknowledges(node):
    """Whether a node says OK to a write."""
    try:
        return node.resp().call("SET", "misfit", "x") == b"OK"
    except (RespError, OSError, EOFError):
        return False


def is_refused(cluster, node, *words):
    """It says why, in a warning or error with these words, acknowledges nothing, and the others do not mind."""
    def said():
        lines = [x for x in node.last_run().splitlines() if re.search(r"level=(warn|error|fatal)", x)]
        return any(all(re.search(w, x) for w in words) for x in lines)
    try:
        eventually(said, 15)
    except TimeoutError:
        raise AssertionError("it does not say %s:\n%s" % (words, node.tail())) from None
    assert not node.alive() or not acknowledges(node), "a misfit acknowledged a write"
    write(cluster, node.name)
    assert cluster.formed(3)
    node.kill()


def misfits_are_refused_without_harm():
    with Cluster(3, spare=4) as c:
        c.start()
        c.wait_formed(60)
        write(c, "before")
        is_refused(c, misfit(c, 4, "--cluster.secret=wrong"), "secret")
        is_refused(c, misfit(c, 5, "--cluster.total_partitions=64"), "total_partitions")
        # A cluster of one with data of its own does not merge with another.
        own = "%s:%d" % (c.net.address(6), c.ports["cluster"])
        other = misfit(c, 6, "--cluster.seeds=" + own)
        eventually(lambda: acknowledges(other), 15)
        other.stop()
        other.extra = []
        other.start()
        is_refused(c, other, "cluster")
        problems = c.problems()
        assert not problems, problems


def a_node_with_a_clock_an_hour_off_does_not_lead():
    with Cluster(3) as c:
        bad = c.nodes[3]
        bad.set_clock(3600)
        c.start()
        c.wait_formed(60)

        def leads_nothing():
            return all(c.leader_of_slot(slot) is not bad for slot in range(0, 16384, 512))
        eventually(leads_nothing, 30)
        assert re.search(r"level=(warn|error).*clock", "".join(n.log() for n in c.nodes.values())), "nobody warns of the clock"
        write(c, "skewed")
        bad.set_clock(0)
        eventually(lambda: not leads_nothing(), 60)
        assert not c.problems(), c.problems()


def a_cluster_forms_only_when_all_seeds_are_there():
    with Cluster(3) as c:
        c.start(1, 2)
        time.sleep(3)
        for n in c.living():
            assert not acknowledges(n), "%s serves without the third seed" % n.name
            assert re.search(re.escape(c.net.address(3)), n.log()), "%s does not say who is missing:\n%s" % (n.name, n.tail())
        c.start(3)
        c.wait_formed(30)
        write(c, "formed")
        # ids are small, and stay over a restart of all
        before = sorted(n.resp().call("CLUSTER", "MYID") for n in c.living())
        for n in c.nodes.values():
            n.kill()
        c.start()
        c.wait_formed(30)
        assert before == sorted(n.resp().call("CLUSTER", "MYID") for n in c.living())
        assert not c.problems(), c.problems()


def a_later_node_joins():
    with Cluster(3, spare=1) as c:
        c.start()
        c.wait_formed(60)
        c.nodes[4] = Node(c, 4)
        c.start(4)
        eventually(lambda: c.formed(4), 30)
        write(c, "four")
        assert not c.problems(), c.problems()


def skippable(test):
    def run():
        try:
            test()
        except Skip as why:
            print("skip %s - %s" % (test.__name__, why), flush=True)
    run.__name__ = test.__name__
    return run


if __name__ == "__main__":
    if os.environ.get("GOMSG_TEST_SHORT"):
        print("skipped: a sanitized build keeps none of these clocks; cluster_form_test.py runs with it")
        sys.exit(77)
    run_tests([skippable(t) for t in (a_cluster_forms_only_when_all_seeds_are_there, misfits_are_refused_without_harm, a_later_node_joins,
                                      a_node_with_a_clock_an_hour_off_does_not_lead)])
