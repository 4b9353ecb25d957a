"""Starting and stopping servers for tests and benchmarks: one gomsgd, or one of the real ones."""
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PEERS = os.path.join(TOP, "tests", "bench", "peers")


class NotReady(Exception):
    pass


def free_port(n=1):
    """The first of n free ports in a row. Below the range from which the kernel takes the ports of outgoing connections:
    there one that was free a moment ago may be taken, or wait in TIME_WAIT, when the server binds it."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        low = int(f.read().split()[0])
    while True:
        first = random.randrange(10000, max(low, 12000) - n)
        sockets = [socket.socket() for _ in range(n)]
        try:
            for i, s in enumerate(sockets):
                s.bind(("127.0.0.1", first + i))
            return first
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()


class DevCluster:
    """Three nodes made by gomsgctl dev for the length of a block; `rows` are their addresses."""

    def __init__(self, ctl):
        self.ctl = ctl

    def __enter__(self):
        self.root = tempfile.mkdtemp(prefix="gomsg-cluster-")
        try:
            self.rows = json.loads(self.dev("up", "-n", "3", "--base-port", "auto"))
        except Exception:
            self.__exit__(None)
            raise
        return self

    def __exit__(self, *_):
        try:
            self.dev("down")
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def dev(self, *args):
        r = subprocess.run([self.ctl, "--json", "dev"] + list(args) + ["--dir", os.path.join(self.root, "c")], capture_output=True, text=True, timeout=120)
        if r.returncode != 0:
            raise AssertionError("gomsgctl dev %s: %s" % (" ".join(args), r.stderr))
        return r.stdout


class Gomsgd:
    """One node with its own data directory, on free ports of 127.0.0.1."""

    def __init__(self, program, args=(), prefix=()):
        self.program = program
        self.args = list(args)
        self.prefix = list(prefix)
        self.dir = tempfile.mkdtemp(prefix="gomsg-test-")
        self.ports = {name: free_port() for name in ("resp", "kafka", "amqp", "http")}
        self.process = None
        self.log = os.path.join(self.dir, "log")

    def start(self, limit_s=60):
        argv = self.prefix + [self.program] + ["--%s.listen=127.0.0.1:%d" % item for item in self.ports.items()]
        argv += ["--node.data_dir=%s" % os.path.join(self.dir, "data")] + self.args
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + limit_s
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise NotReady("gomsgd did not become ready:\n" + self.tail())
            time.sleep(0.005)

    def ready(self):
        try:
            with urllib.request.urlopen("http://127.0.0.1:%d/readyz" % self.ports["http"], timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    @property
    def pid(self):
        return self.process.pid

    def tail(self):
        with open(self.log, errors="replace") as f:
            return f.read()[-3000:]

    def kill(self):
        """As a power cut for the process; the data directory stays for the next start."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def end(self):
        """Asks the node to end and returns what was wrong with how it did, or None; its data stays."""
        if self.process is None:
            return None
        code = self.process.poll()
        wrong = None
        if code is not None:
            wrong = "gomsgd ended by itself with code %d:\n%s" % (code, self.tail())
        else:
            self.process.send_signal(signal.SIGTERM)
            try:
                code = self.process.wait(20)
                if code != 0:
                    wrong = "gomsgd answered SIGTERM with exit code %d:\n%s" % (code, self.tail())
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                wrong = "gomsgd did not end within 20 s of SIGTERM:\n%s" % self.tail()
        self.process = None
        return wrong

    def stop(self):
        """Ends the node and removes its data."""
        wrong = self.end()
        shutil.rmtree(self.dir, ignore_errors=True)
        return wrong


class Peer:
    """A real server, started and stopped by tests/bench/peers."""

    def __init__(self, name, build, cpu=""):
        self.name = name
        self.port = free_port(3)  # RabbitMQ and Kafka take the next ones too
        self.cpu = cpu
        self.env = dict(os.environ, PEERS_DIR=os.path.join(build, "peers"))
        self.pid = 0

    def start(self):
        subprocess.run([PEERS, "install", self.name], check=True, env=self.env)
        argv = [PEERS, "start", self.name, str(self.port)] + ([self.cpu] if self.cpu else [])
        # The server inherits our stdout unless it goes to a file: a pipe would stay open for as long as it lives.
        with tempfile.TemporaryFile() as out:
            done = subprocess.run(argv, env=self.env, stdout=out, check=False)
            if done.returncode != 0:
                self.stop(keep=True)
                raise NotReady("%s did not start on port %d" % (self.name, self.port))
            out.seek(0)
            self.pid = int(out.read().split()[-1])

    def stop(self, keep=False):
        subprocess.run([PEERS, "stop", self.name, str(self.port)], check=False, env=self.env)
        if not keep:
            shutil.rmtree(os.path.join(self.env["PEERS_DIR"], "%s-%d" % (self.name, self.port)), ignore_errors=True)
        return None
