"""The rig itself: that cuts cut, heals heal, nodes start, pause, die and are counted, and that nothing is left behind. Needs no working cluster."""
import os
import subprocess
import sys
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration")]
import netns  # noqa: E402
from node import run_tests  # noqa: E402
from rig import Cluster, Skip, need  # noqa: E402

LISTENER = "import socket,sys\ns=socket.create_server(('0.0.0.0',7000))\nprint('up',flush=True)\nwhile True:\n c,_=s.accept()\n c.sendall(b'x')\n c.close()"
CONNECT = "import socket,sys\ntry:\n s=socket.create_connection((sys.argv[1],7000),0.6); s.settimeout(0.6); sys.exit(0 if s.recv(1)==b'x' else 3)\nexcept ConnectionError: sys.exit(2)\nexcept OSError: sys.exit(1)"
ARRIVES, SILENCE, REFUSED = 0, 1, 2


def reach(net, a, b):
    return subprocess.run(net.inside(a) + [sys.executable, "-c", CONNECT, net.address(b)], timeout=10).returncode


def cuts_cut_and_heal():
    need("a network of namespaces", netns.probe())
    with netns.Network(3) as net:
        listeners = []
        try:
            for i in (1, 2, 3):
                p = subprocess.Popen(net.inside(i) + [sys.executable, "-c", LISTENER], stdout=subprocess.PIPE)
                listeners.append(p)
                assert p.stdout.readline() == b"up\n"

            def all_pairs():
                return {(a, b): reach(net, a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a < b}

            assert set(all_pairs().values()) == {ARRIVES}, all_pairs()
            net.cut(1, 2)
            assert all_pairs() == {(1, 2): SILENCE, (1, 3): ARRIVES, (2, 3): ARRIVES}, all_pairs()
            net.heal()
            net.cut(1, 2, reject=True)
            assert reach(net, 1, 2) == REFUSED and reach(net, 2, 1) == REFUSED and reach(net, 1, 3) == ARRIVES
            net.heal()
            net.cut_one_way(2, 1)  # TCP needs both ways; who hears what shows in the listener only
            assert reach(net, 1, 2) == SILENCE and reach(net, 2, 1) == SILENCE and reach(net, 2, 3) == ARRIVES
            net.heal()
            net.cut_one_way(2, 1, reject=True)
            assert reach(net, 2, 1) == REFUSED
            net.heal()
            net.link(3, up=False)
            assert reach(net, 1, 3) == SILENCE and reach(net, 1, 2) == ARRIVES
            net.link(3, up=True)
            deadline = time.monotonic() + 5
            while reach(net, 1, 3) != ARRIVES:
                assert time.monotonic() < deadline
            net.split((1,), (2, 3))
            assert all_pairs() == {(1, 2): SILENCE, (1, 3): SILENCE, (2, 3): ARRIVES}, all_pairs()
            net.heal()
            assert set(all_pairs().values()) == {ARRIVES}
        finally:
            for p in listeners:
                p.kill()
                p.wait()
        tag = net.tag
    assert "gmf%sn" % tag not in netns.sh("ip", "netns", "list").stdout
    assert "gmf%sbr" % tag not in netns.sh("ip", "link").stdout


def what_a_killed_run_left_behind_is_removed():
    need("a network of namespaces", netns.probe())
    code = "import sys,os;sys.path.insert(0,%r)\nimport netns\nn=netns.Network(1)\nprint(n.tag,flush=True)\nos.kill(os.getpid(),9)" % os.path.dirname(os.path.abspath(__file__))
    tag = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout.strip()
    assert "gmf%sn1" % tag in netns.sh("ip", "netns", "list").stdout
    with netns.Network(1) as living:
        assert living.tag == tag or "gmf%sn1" % tag not in netns.sh("ip", "netns", "list").stdout
        assert living.tag not in netns.remove_stale(), "a living one was taken for stale"
        assert reach_bridge(living)


def reach_bridge(net):
    return netns.sh(*net.inside(1), "ip", "route", "get", net.subnet + ".254", check=False).returncode == 0


def nodes_start_pause_die_and_are_counted():
    for loopback in (False, True):
        if not loopback and netns.probe() is not None:
            continue
        with Cluster(2, loopback=loopback, independent=True) as c:
            c.start()
            for n in c.nodes.values():
                n.wait_ready()
                assert n.resp().call("SET", "who", n.name) == b"OK"
            a, b = c.nodes[1], c.nodes[2]
            assert a.resp().call("GET", "who") == b"n1" and b.resp().call("GET", "who") == b"n2", "two nodes are one"
            assert isinstance(a.ctl("status"), dict)
            a.pause()
            try:
                a.resp(timeout=0.3).call("PING")
                raise AssertionError("a paused node answers")
            except OSError:
                pass
            a.resume()
            assert a.resp().call("PING") == b"PONG"
            a.kill()
            assert a.deaths[-1] == ("n1", -9, True) and not c.problems()
            a.start().wait_ready()
            assert a.resp().call("GET", "who") == b"n1"
            a.stop()
            kept = a.copy_disk()
            a.wipe()
            a.start().wait_ready()
            assert a.resp().call("GET", "who") is None
            a.stop()
            a.restore_disk(kept)
            a.start().wait_ready()
            assert a.resp().call("GET", "who") == b"n1"
            # a death that nobody ordered is a finding
            os.kill(b.pid, 6)
            b.process.wait()
            assert any("n2 died by itself" in p for p in c.problems()), c.problems()
            root = c.root
        assert not os.path.exists(root)


def a_clock_can_be_an_hour_off_and_jump():
    with Cluster(1, loopback=True, independent=True) as c:
        n = c.nodes[1]

        def off():
            return int(n.resp().call("TIME")[0]) - time.time()

        n.set_clock(3600)
        n.start().wait_ready()
        assert 3590 < off() < 3610, off()
        n.set_clock(-100.5)
        time.sleep(0.05)
        assert -110 < off() < -90, off()


if __name__ == "__main__":
    def skippable(test):
        def run():
            try:
                test()
            except Skip as why:
                print("skip %s - %s" % (test.__name__, why), flush=True)
        run.__name__ = test.__name__
        return run

    run_tests([skippable(t) for t in (cuts_cut_and_heal, what_a_killed_run_left_behind_is_removed, nodes_start_pause_die_and_are_counted, a_clock_can_be_an_hour_off_and_jump)])
