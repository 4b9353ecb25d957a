"""Starting and ending: refusals name their reason, an orderly end loses nothing and reads nothing back, the configuration is checked and reloaded."""
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from node import BUILD, SHORT, Node, StartError, eventually, run_tests
from wire import Amqp, Kafka, Resp, RespError, batch

GOMSGD = os.path.join(BUILD, "gomsgd")


def refused(node, *words, **kwargs):
    try:
        node.start(**kwargs)
    except StartError as e:
        for w in words:
            assert w in str(e), (w, str(e))
        return
    raise AssertionError("the node started")


def a_first_start_makes_little():
    with Node() as node:
        node.start()
        assert re.search(r'msg="ready" start_ms=(\d+)', node.log())
        if not SHORT:  # sanitizers cost memory
            assert node.rss() < 40 << 20, node.rss()
        files = [f for f in os.listdir(node.data) if f.startswith("p-")]
        assert not files, ("a first start makes nothing a partition", files)


def an_orderly_end_keeps_everything():
    with Node() as node:
        node.start()
        Resp(node.ports["resp"]).call("SET", "k", "v")
        assert Kafka(node.ports["kafka"]).create_topic("t", 1) == 0
        assert Kafka(node.ports["kafka"]).produce("t", 0, batch([b"a", b"b"]))[0] == 0
        c = Amqp(node.ports["amqp"])
        c.declare("q")
        c.confirm_select()
        c.publish("q", b"m")
        assert c.confirmed()[0]
        node.stop()
        assert not os.path.exists(os.path.join(node.data, "ctl.sock")), "the control socket is removed"
        node.start()
        assert Resp(node.ports["resp"]).call("GET", "k") == b"v"
        assert [v for _, v in Kafka(node.ports["kafka"]).read_all("t", 0)] == [b"a", b"b"]
        tag, redelivered, left, body = Amqp(node.ports["amqp"]).get("q")
        assert (body, redelivered) == (b"m", False)


def a_directory_in_use_is_refused_with_the_pid():
    with Node() as one:
        one.start()
        with Node(data=tempfile.mkdtemp(prefix="gomsg-it-")) as two:
            two.data = one.data
            refused(two, "in use by another gomsgd", "pid=%d" % one.pid)
        assert one.alive()


def a_taken_port_is_named():
    with socket.socket() as s, Node() as node:
        s.bind(("127.0.0.1", 0))
        s.listen()
        node.ports["kafka"] = s.getsockname()[1]
        refused(node, "address already in use", "protocol=kafka", str(node.ports["kafka"]))


def foreign_newer_and_headless_directories_are_refused():
    with Node() as node:
        node.start()
        node.stop()
        path = os.path.join(node.data, "node.id")
        with open(path) as f:
            text = f.read()
        for change, words in (((r"level: \d+", "level: 99"), "newer version"),
                              ((r"cluster_id: .", "cluster_id: g"), "node.id"),
                              ((r"cluster_id: (.*)\n", "cluster_id: " + "0" * 32 + "\n"), "belongs to cluster")):
            with open(path, "w") as f:
                f.write(re.sub(change[0], change[1], text))
            refused(node, words)
        with open(path, "w") as f:
            f.write(text)
        shutil.move(os.path.join(node.data, "raft"), os.path.join(node.root, "raft"))
        refused(node, "topology", "missing")
        shutil.move(os.path.join(node.root, "raft"), os.path.join(node.data, "raft"))
        node.args = ["--cluster.total_partitions=64"]
        refused(node, "formed with 32")
        node.args = []
        node.start()


def configuration_errors_have_a_place_and_a_hint():
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("resp:\n  listen: 127.0.0.1:0\nlog:\n  fsnyc: always\n  segment_bytes: lots\n")
        f.flush()
        r = subprocess.run([GOMSGD, "--config", f.name, "--check-config"], capture_output=True, text=True)
        assert r.returncode == 2, r
        assert f.name + ":4" in r.stderr and "fsync" in r.stderr, r.stderr
        assert f.name + ":5" in r.stderr, r.stderr
    r = subprocess.run([GOMSGD, "--resp.lsiten=x"], capture_output=True, text=True)
    assert r.returncode == 2 and "resp.listen" in r.stderr, r
    r = subprocess.run([GOMSGD, "--resp.listen=0.0.0.0:0", "--check-config"], capture_output=True, text=True)
    assert r.returncode == 2 and "allow_unauthenticated" in r.stderr, r
    r = subprocess.run([GOMSGD, "--print-config", "--log.fsync=always"], capture_output=True, text=True)
    assert r.returncode == 0 and "fsync: always" in r.stdout, r
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write(r.stdout)
        f.flush()
        again = subprocess.run([GOMSGD, "--config", f.name, "--print-config"], capture_output=True, text=True)
        assert again.stdout == r.stdout, "what is printed is read back"


def sighup_reloads_what_can_be():
    with Node() as node:
        path = os.path.join(node.root, "gomsg.yaml")
        with open(path, "w") as f:
            f.write("kafka:\n  num_partitions: 2\n")
        node.args = ["--config", path]
        node.start()
        assert b'"value":"2"' in Resp(node.ports["resp"]).call("GOMSG", "config", "get", "kafka.num_partitions").replace(b" ", b"")
        with open(path, "w") as f:
            f.write("kafka:\n  num_partitions: 7\n")
        node.signal(signal.SIGHUP)
        eventually(lambda: b'"value":"7"' in Resp(node.ports["resp"]).call("GOMSG", "config", "get", "kafka.num_partitions"))
        with open(path, "w") as f:
            f.write("kafka:\n  num_partitions: many\n")
        node.signal(signal.SIGHUP)
        eventually(lambda: "was not reloaded" in node.log())
        assert Resp(node.ports["resp"]).call("PING") == b"PONG"


def systemd_is_told():
    with tempfile.TemporaryDirectory() as d, Node() as node:
        path = os.path.join(d, "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.bind(path)
            s.settimeout(20)
            node.start(env={"NOTIFY_SOCKET": path})
            seen = b""
            while b"READY=1" not in seen:
                seen += s.recv(4096) + b"\n"
            node.stop()
            while b"STOPPING=1" not in seen:
                seen += s.recv(4096) + b"\n"


def health_and_metrics_answer():
    with Node() as node:
        node.start()
        Resp(node.ports["resp"]).call("SET", "a", "b")
        assert '"ready":true' in node.http("/readyz").replace(" ", "")
        assert node.http("/healthz")
        text = node.http("/metrics")
        for name in ("gomsg_up 1", "gomsg_kv_keys 1", "gomsg_connections{", 'gomsg_request_duration_seconds', 'command="set"'):
            assert name in text, name
        for line in text.splitlines():
            assert line.startswith("#") or re.match(r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^}]*\})? [-+0-9.eEInfNa]+$', line), line


def signals_and_connections_together_end_within_reason():
    with Node() as node:
        node.start()
        stop = threading.Event()

        def load():
            try:
                c = Resp(node.ports["resp"])
                while not stop.is_set():
                    c.call("INCR", "n")
            except (OSError, EOFError):
                pass

        threads = [threading.Thread(target=load) for _ in range(4)]
        for t in threads:
            t.start()
        blocked = Resp(node.ports["resp"])
        blocked.send(blocked.encode("BLPOP", "nothing", 0))
        time.sleep(0.2)
        node.stop(timeout=10)
        stop.set()
        for t in threads:
            t.join()


if __name__ == "__main__":
    run_tests([a_first_start_makes_little, an_orderly_end_keeps_everything, a_directory_in_use_is_refused_with_the_pid,
               a_taken_port_is_named, foreign_newer_and_headless_directories_are_refused, configuration_errors_have_a_place_and_a_hint,
               sighup_reloads_what_can_be, systemd_is_told, health_and_metrics_answer, signals_and_connections_together_end_within_reason])
