"""A cluster of real gomsgd processes that can be killed, paused, cut off, emptied and restarted, and looked at from outside.

    with Cluster(3, config={"kv.ack": "quorum"}) as cluster:
        cluster.start()
        cluster.wait_formed()
        cluster.nodes[1].kill() ...

In namespaces (netns.py) when this machine can have them, else on loopback addresses, where nothing can be cut. Every node runs from the same gomsg.yaml, as the manual
promises; only node.name and node.data_dir, and on loopback the addresses, are its own. The processes are children of ours and end with us: by the context manager, by
atexit, and, if we are killed, by PR_SET_PDEATHSIG.
"""
import atexit
import ctypes
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [p for p in (HERE, os.path.join(HERE, "..", "integration")) if p not in sys.path]
import netns  # noqa: E402
from checkers import check_deaths, check_lines, leaderships  # noqa: E402
from node import stop_process  # noqa: E402
from wire import Kafka, Resp, RespError  # noqa: E402

BUILD = os.environ.get("build") or os.path.abspath(os.path.join(HERE, "..", "..", "build"))
REQUIRE = os.environ.get("GOMSG_REQUIRE_RIG") == "1"
PATIENCE = float(os.environ.get("GOMSG_TEST_PATIENCE", "3" if os.environ.get("GOMSG_TEST_SHORT") else "1"))  # of every wait: sanitized builds are slow
PROTOCOLS = ("resp", "kafka", "amqp", "http")
PORTS = {"resp": 6379, "kafka": 9092, "amqp": 5672, "http": 15672, "cluster": 9000}
QUEUE_PARTITIONS = 32  # cluster.total_partitions where a test does not say otherwise
PR_SET_PDEATHSIG = 1


class Skip(Exception):
    """This machine cannot do it; str() says why."""


class NotFormed(Exception):
    pass


def need(what, why):
    """A feature the machine lacks: a skip, or with GOMSG_REQUIRE_RIG=1 a failure unless the kernel itself lacks it."""
    if why is None:
        return
    if REQUIRE and not netns.kernel_lacks(why):
        raise AssertionError("%s is required (GOMSG_REQUIRE_RIG=1), but: %s" % (what, why))
    raise Skip("%s: %s" % (what, why))


def clock_shim(directory):
    """The library that sets one process's clock, compiled into this directory."""
    path = os.path.join(directory, "clock_shim.so")
    if not os.path.exists(path):
        try:
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", path, os.path.join(HERE, "clock_shim.c")], check=True)
        except (OSError, subprocess.CalledProcessError) as e:
            need("a clock of one's own", "clock_shim.c does not compile: %s" % e)
    return path


def _die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def eventually(check, timeout, every=0.05):
    """Repeats check() until it returns something true; its last exception, or TimeoutError, when the time is over."""
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        try:
            result = check()
            if result:
                return result
            error = TimeoutError("not true after %.1f s" % (timeout * PATIENCE))
        except (AssertionError, OSError, EOFError, RespError, ValueError, NotFormed) as e:
            error = e
        if time.monotonic() > deadline:
            raise error
        time.sleep(every)


def partition_of_queue(queue, vhost="/"):
    """By FNV-1a of its name, as src/partition/placement.c."""
    h = 0x811C9DC5
    for b in (vhost + "/" + queue).encode():
        h = (h ^ b) * 0x01000193 & 0xFFFFFFFF
    return h % QUEUE_PARTITIONS


# ---- a node -------------------------------------------------------------------------------------------------------------------
class Node:
    def __init__(self, cluster, index):
        self.cluster, self.index, self.name = cluster, index, "n%d" % index
        self.root = os.path.join(cluster.root, self.name)
        self.data = os.path.join(self.root, "data")
        self.log_path = os.path.join(self.root, "gomsgd.log")
        os.makedirs(self.root)
        self.host = cluster.net.address(index)
        self.ports = dict(cluster.ports)
        self.process = None
        self.paused = False
        self.deaths = []   # (name, code, expected)
        self.extra = []    # arguments of this node alone
        self.env = {}
        self.program = os.path.join(BUILD, "gomsgd")

    def command(self):
        own = ["--config=" + self.cluster.config_path, "--node.name=" + self.name, "--node.data_dir=" + self.data]
        if self.cluster.loopback:
            own += ["--%s.listen=%s:%d" % (p, self.host, self.ports[p]) for p in PORTS if p != "cluster" or self.cluster.seeds]
        return self.cluster.net.inside(self.index) + [self.program] + own + self.extra

    def start(self):
        """Starts the process and does not wait for anything."""
        assert self.process is None, "%s runs already" % self.name
        with open(self.log_path, "ab") as log:
            log.write(b"---- start %f\n" % time.monotonic())
            log.flush()
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=dict(os.environ, **self.env),
                                            preexec_fn=_die_with_parent)
        self.paused = False
        return self

    def wait_ready(self, timeout=30):
        """Until the process says that it is ready. A node of a cluster that is not formed yet may not say so."""
        def ready():
            if self.process.poll() is not None:
                self.reap()
                raise SystemError("%s ended at its start:\n%s" % (self.name, self.tail()))
            return 'msg="ready"' in self.last_run()
        try:
            eventually(ready, timeout)
        except TimeoutError:
            raise TimeoutError("%s is not ready after %d s:\n%s" % (self.name, timeout, self.tail())) from None
        return self

    def reap(self, expected=False):
        """Takes note of how the process ended."""
        code = self.process.wait()
        self.deaths.append((self.name, code, expected))
        self.process = None
        self.paused = False
        return code

    def alive(self):
        if self.process is not None and self.process.poll() is not None:
            self.reap()
        return self.process is not None

    def kill(self):
        """kill -9. That it was dead before is a finding of its own (check C8)."""
        if self.alive():
            self.process.kill()
            self.reap(expected=True)

    def stop(self, timeout=30):
        """SIGTERM; an end that is not orderly is a finding (C8)."""
        if not self.alive():
            return
        self.resume()
        self.process.terminate()
        try:
            self.process.wait(timeout * PATIENCE)
            self.reap(expected=self.process.returncode == 0)
        except subprocess.TimeoutExpired:
            self.deaths.append((self.name, "none: SIGTERM did not end it within %d s" % timeout, False))
            self.process.kill()
            self.reap(expected=True)

    def pause(self):
        stop_process(self.pid)
        self.paused = True

    def resume(self):
        if self.process is not None and self.paused:
            self.process.send_signal(signal.SIGCONT)
            self.paused = False

    @property
    def pid(self):
        return self.process.pid

    # ---- its disk -------------------------------------------------------------------------------------------------------------
    def wipe(self):
        """An empty disk in place of the old one; the process must have ended."""
        assert self.process is None
        shutil.rmtree(self.data, ignore_errors=True)

    def copy_disk(self, name="copy"):
        """Copies the data directory of a node that does not run (or is paused); restore_disk puts it back."""
        assert self.process is None or self.paused
        target = os.path.join(self.root, name)
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", self.data, target], check=True)
        for leaf in ("ctl.sock", "gomsgd.pid"):
            path = os.path.join(target, leaf)
            if os.path.exists(path):
                os.unlink(path)
        return target

    def restore_disk(self, path):
        assert self.process is None
        shutil.rmtree(self.data, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", path, self.data], check=True)

    # ---- its clock ------------------------------------------------------------------------------------------------------------
    def set_clock(self, offset_s):
        """The wall clock is off by so much: from the next start on the first time, at once afterwards. Monotonic clocks are left alone."""
        path = os.path.join(self.root, "clock")
        if "CLOCK_SHIM" not in self.env:
            self.env.update(LD_PRELOAD=clock_shim(self.cluster.root), CLOCK_SHIM=path,
                            ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
            with open(path, "wb") as f:
                f.truncate(4096)
        with open(path, "r+b") as f:  # in one write, as the process reads it at any time
            f.write((b"%+d" % int(offset_s * 1e6)).ljust(64, b"\0"))

    # ---- looking at it ----------------------------------------------------------------------------------------------------------
    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def last_run(self):
        return self.log().rsplit("---- start ", 1)[-1]

    def tail(self, n=30):
        return "\n".join(self.log().splitlines()[-n:])

    def resp(self, timeout=2):
        return Resp(self.ports["resp"], host=self.host, timeout=timeout)

    def kafka(self, timeout=2):
        return Kafka(self.ports["kafka"], host=self.host, timeout=timeout)

    def ctl(self, *verb, timeout=10, check=True):
        """gomsgctl over the node's control socket: the JSON it answers, or the text when it is none. `check`: an exit code that is not 0 is an error."""
        argv = [os.path.join(BUILD, "gomsgctl"), "--data-dir=" + self.data, "--json"] + [str(v) for v in verb]
        r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout * PATIENCE, stdin=subprocess.DEVNULL)
        if r.returncode != 0 and (check or not r.stdout):
            raise OSError("gomsgctl %s on %s: %s" % (" ".join(map(str, verb)), self.name, (r.stderr or r.stdout).strip()[:500]))
        try:
            return json.loads(r.stdout)
        except ValueError:
            return r.stdout

    def rss(self):
        with open("/proc/%d/statm" % self.pid) as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def open_sockets(self):
        """Descriptors of files come and go with the logs; those of clients must go with them."""
        n, folder = 0, "/proc/%d/fd" % self.pid
        for fd in os.listdir(folder):
            try:
                n += os.readlink(os.path.join(folder, fd)).startswith("socket:")
            except OSError:
                pass
        return n


# ---- a cluster --------------------------------------------------------------------------------------------------------------------
class Cluster:
    """count nodes; `independent` starts them as nodes alone (no seeds), for tests of the rig itself."""

    def __init__(self, count=3, config=None, loopback=None, independent=False, keep=False, spare=0):
        why = netns.probe() if not loopback else None
        if loopback is None:
            loopback = why is not None
        elif not loopback:
            need("a network of namespaces", why)
        self.loopback, self.why_loopback, self.keep = loopback, why, keep
        self.root = tempfile.mkdtemp(prefix="gomsg-fault-")
        self.net = netns.Loopback(count + spare) if loopback else netns.Network(count + spare)
        self.ports = dict(PORTS) if not loopback else self._free_ports()
        self.seeds = [] if independent else ["%s:%d" % (self.net.address(i), self.ports["cluster"]) for i in range(1, count + 1)]
        self.config = dict(config or {})
        self.config_path = os.path.join(self.root, "gomsg.yaml")
        self.write_config()
        self.nodes = {i: Node(self, i) for i in range(1, count + 1)}
        self.failed = False
        atexit.register(self.close)

    def _free_ports(self):
        """A port a protocol that is free on every node's address."""
        out = {}
        for p in PORTS:
            while p not in out:
                port = random.randint(20000, 32000)
                try:
                    for i in range(1, self.net.count + 1):
                        with socket.socket() as s:
                            s.bind((self.net.address(i), port))
                except OSError:
                    continue
                if port not in out.values():
                    out[p] = port
        return out

    def write_config(self, **changes):
        """gomsg.yaml, the same for every node."""
        self.config.update(changes)
        settings = {"cluster.secret": "the rig's", "cluster.seeds": self.seeds, "security.allow_unauthenticated": True}
        if not self.loopback:
            settings.update({p + ".listen": ["0.0.0.0:%d" % self.ports[p]] for p in PORTS if p != "cluster" or self.seeds})
        if not self.seeds:
            del settings["cluster.seeds"], settings["cluster.secret"]
        settings.update(self.config)
        sections = {}
        for name, value in settings.items():
            section, key = name.split(".", 1)
            sections.setdefault(section, {})[key] = value
        with open(self.config_path, "w") as f:
            for section, values in sections.items():
                f.write("%s:\n" % section)
                for key, value in values.items():
                    f.write("  %s: %s\n" % (key, json.dumps(value)))

    # ---- life -----------------------------------------------------------------------------------------------------------------------
    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.failed = True
            for n in self.nodes.values():
                if os.path.exists(n.log_path):
                    sys.stdout.write("---- %s (last lines)\n%s\n" % (n.log_path, n.tail(12)))
        self.close()

    def close(self):
        for n in self.nodes.values():
            if n.process is not None:
                n.process.kill()
                n.reap(expected=True)
        self.net.close()
        atexit.unregister(self.close)
        if self.failed and self.keep:
            print("kept: %s" % self.root)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    def start(self, *indexes):
        for i in indexes or self.nodes:
            self.nodes[i].start()
        return self

    def stop(self):
        for n in self.nodes.values():
            n.stop()

    def living(self):
        return [n for n in self.nodes.values() if n.alive() and not n.paused]

    # ---- what it is, from outside ------------------------------------------------------------------------------------------------------
    def formed(self, members=None):
        """True when every living node says over RESP that the cluster is ok and knows all members, and over Kafka that all brokers are there."""
        members = members or len(self.nodes)
        if not self.seeds:
            return all('msg="ready"' in n.last_run() for n in self.living())
        for n in self.living():
            info = n.resp().call("CLUSTER", "INFO").decode()
            fields = dict(line.split(":", 1) for line in info.split("\r\n") if ":" in line)
            if fields.get("cluster_state") != "ok":
                raise NotFormed("%s: cluster_state:%s" % (n.name, fields.get("cluster_state")))
            if int(fields.get("cluster_known_nodes", 0)) < members:
                raise NotFormed("%s knows %s nodes" % (n.name, fields.get("cluster_known_nodes")))
            if int(fields.get("cluster_slots_ok", 0)) != 16384:
                raise NotFormed("%s: %s slots ok" % (n.name, fields.get("cluster_slots_ok")))
        return True

    def wait_formed(self, timeout=30, members=None):
        for n in self.living():
            eventually(lambda n=n: n.process.poll() is None and n.resp().call("PING") == b"PONG", timeout)
        for n in self.nodes.values():
            if not n.alive() and n.deaths and not n.deaths[-1][2]:
                raise SystemError("%s ended:\n%s" % (n.name, n.tail()))
        begin = time.monotonic()
        eventually(lambda: self.formed(members), timeout)
        self.wait_healthy(timeout)
        took = time.monotonic() - begin
        eventually(lambda: self.add_user() is None, 10)
        return took

    def add_user(self):
        """The user of the AMQP clients: guest may come from loopback only."""
        for n in self.living():
            if "rig" in json.dumps(n.ctl("user", "list")):
                continue
            n.ctl("user", "add", "rig", "rig", "administrator")

    def wait_healthy(self, timeout=30):
        """Until every partition has its leader and all its replicas in sync, as `CLUSTER SHARDS` and Kafka's metadata cannot tell exactly: asks gomsgctl."""
        return eventually(self.healthy, timeout)

    def healthy(self):
        for n in self.living() if self.seeds else ():
            health = n.ctl("cluster", "health", check=False)
            # A node that was emptied leaves its old self behind, fenced until it is removed, so "healthy" asks for too much.
            if health["whole"] != health["partitions"]:
                raise NotFormed("%s: %s" % (n.name, json.dumps(health)[:300]))
        return True

    def by_host(self, host):
        return next((n for n in self.nodes.values() if n.host == host), None)

    def leader_of_slot(self, slot):
        """The node that leads a slot, as the living nodes say; the first answer counts."""
        if not self.seeds:
            return self.nodes[1]
        for n in self.living():
            try:
                for row in n.resp().call("CLUSTER", "SLOTS"):
                    if row[0] <= slot <= row[1]:
                        return self.by_host(row[2][0].decode())
            except (OSError, EOFError, RespError):
                continue
        return None

    def leader_of_queue(self, queue):
        """The node that leads a queue's partition, as the first living node says; None: nobody does."""
        for n in self.living():
            names = {x["node"]: x["name"] for x in n.ctl("cluster", "nodes")}
            leader = next(x["leader"] for x in n.ctl("cluster", "partitions") if x["partition"] == partition_of_queue(queue))
            return next((m for m in self.nodes.values() if m.name == names.get(leader)), None)
        return None

    def controller(self):
        """The node whose Raft core leads, or None: who said last, in the highest term, that it is the controller."""
        if not self.seeds:
            return self.nodes[1]
        terms = [(int(t), n) for n in self.living() for t in re.findall(r'msg="this node is the controller" term=(\d+)', n.last_run())]
        return max(terms, key=lambda x: x[0])[1] if terms else None

    # ---- findings ------------------------------------------------------------------------------------------------------------------------
    def problems(self):
        """C8 as far as processes and their diagnostics tell."""
        out = []
        for n in self.nodes.values():
            n.alive()
            out += check_deaths(n.deaths)
            if os.path.exists(n.log_path):
                out += check_lines(n.name, n.log().splitlines())
        return out

    def opened(self):
        """(node, partition, epoch) of every leadership the nodes' diagnostics tell of (C6)."""
        return [x for n in self.nodes.values() if os.path.exists(n.log_path) for x in leaderships(n.name, n.log().splitlines())]

    def resources(self):
        return {n.name: (n.open_sockets(), n.rss()) for n in self.living()}

    def states(self):
        """(node, partition, epoch, offset, hash) of every replica (C5), through the admin verb that tells it; None when there is no such verb."""
        out = []
        for n in self.living():
            try:
                rows = n.ctl("partitions", "hash", timeout=30)
            except OSError as e:
                if re.search(r"[Uu]nknown|no such|usage", str(e)):
                    return None
                raise
            rows = rows.get("partitions", rows) if isinstance(rows, dict) else rows
            out += [(n.name, r["partition"], r["epoch"], r["offset"], r["hash"]) for r in rows]
        return out
