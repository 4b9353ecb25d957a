"""Real gomsgd processes for the integration tests: start, kill, restart, look at what they say.

Python's standard library only. A Node owns a data directory (removed at the end unless asked to be kept) and at most one process. Everything listens on
loopback on free ports; a restart keeps the ports, so that clients can come back.
"""
import fcntl
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
import urllib.request

BUILD = os.environ.get("build") or os.path.join(os.getcwd())
SHORT = bool(os.environ.get("GOMSG_TEST_SHORT"))
# Sanitized builds are slow; every wait is scaled.
PATIENCE = float(os.environ.get("GOMSG_TEST_PATIENCE", "3" if SHORT else "1"))
PROTOCOLS = ("resp", "kafka", "amqp", "http")


class StartError(Exception):
    """The node refused to start; str() is what it said."""


def sanitizer_report(said):
    """What a sanitizer (address, leak, undefined, thread) has said in these diagnostics, from its first line on; None: nothing."""
    found = re.search(r"^.*(Sanitizer|runtime error:)", said, re.MULTILINE)
    return None if found is None else said[found.start():][:6000]


class Ports:
    """Ports for nodes that may be restarted: not of those that the system gives to outgoing connections, one of which could have it while its node is down; and of a block that no
    other test process of this machine uses at the same time."""
    FIRST, BLOCK, BLOCKS = 10000, 250, 40

    def __init__(self):
        for n in random.sample(range(self.BLOCKS), self.BLOCKS):
            self.lock = open(os.path.join(tempfile.gettempdir(), "gomsg-it-ports-%d.lock" % n), "a")  # held while this process lives
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                self.lock.close()
        self.first, self.next = self.FIRST + n * self.BLOCK, 0

    def take(self):
        for _ in range(self.BLOCK):
            port = self.first + self.next % self.BLOCK
            self.next += 1
            with socket.socket() as s:
                try:
                    s.bind(("127.0.0.1", port))
                    return port
                except OSError:
                    pass
        raise AssertionError("no free port from %d on" % self.first)


ports = None


def free_port():
    global ports
    if ports is None:
        ports = Ports()
    return ports.take()


class Node:
    def __init__(self, *args, data=None, env=None, prefix=(), keep=False):
        self.args = list(args)
        self.env = dict(os.environ, **(env or {}))
        self.prefix = list(prefix)
        self.keep = keep
        self.root = data or tempfile.mkdtemp(prefix="gomsg-it-")
        self.data = os.path.join(self.root, "data")
        self.log_path = os.path.join(self.root, "gomsgd.log")
        self.ports = {p: free_port() for p in PROTOCOLS}
        self.process = None
        self.starts = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            # Nothing is wrong: end it in order, which also tells what a sanitizer has to say.
            if kind is None and self.alive():
                self.stop()
            report = sanitizer_report(self.log())
            assert report is None, report
        finally:
            self.kill()
            if kind is None and not self.keep:
                shutil.rmtree(self.root, ignore_errors=True)
        if kind is not None:
            sys.stderr.write("---- %s (last lines)\n" % self.log_path)
            sys.stderr.write("\n".join(self.log().splitlines()[-30:]) + "\n")
        if not self.keep:
            shutil.rmtree(self.root, ignore_errors=True)

    # ---- the process -----------------------------------------------------------------------------------------------
    def command(self):
        listens = ["--%s.listen=127.0.0.1:%d" % (p, self.ports[p]) for p in PROTOCOLS]
        return self.prefix + [os.path.join(BUILD, "gomsgd"), "--node.data_dir=" + self.data] + listens + self.args

    def start(self, wait="ready", timeout=30, env=None):
        """Starts the process and waits until it is ready (or only listening for RESP, or not at all)."""
        assert self.process is None
        mark = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stderr=log, stdout=log, stdin=subprocess.DEVNULL,
                                            env=dict(self.env, **(env or {})))
        self.starts += 1
        deadline = time.monotonic() + timeout * PATIENCE
        pattern = {"ready": 'msg="ready"', "resp": 'msg="listening" protocol=resp', None: ""}[wait]
        while True:
            said = self.log()[mark:] if mark == 0 else self._log_from(mark)
            if pattern in said:
                break
            if self.process.poll() is not None:
                self.process = None
                raise StartError(self._log_from(mark))
            if time.monotonic() > deadline:
                raise StartError("not %s after %d s:\n%s" % (wait, timeout, self._log_from(mark)))
            time.sleep(0.01)
        for p, address in re.findall(r'msg="listening" protocol=(\w+) address=\S+:(\d+)', self._log_from(mark)):
            self.ports[p] = int(address)
        return self

    def _log_from(self, mark):
        with open(self.log_path, "rb") as f:
            f.seek(mark)
            return f.read().decode(errors="replace")

    def log(self):
        return self._log_from(0) if os.path.exists(self.log_path) else ""

    @property
    def pid(self):
        return self.process.pid

    def signal(self, number):
        if number == signal.SIGSTOP:
            stop_process(self.pid)
        else:
            self.process.send_signal(number)

    def kill(self):
        """SIGKILL, as a crash would end it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wait(self, timeout=30):
        """Waits for the process to end by itself; its exit code (negative: the signal)."""
        code = self.process.wait(timeout * PATIENCE)
        self.process = None
        return code

    def stop(self, timeout=30):
        """SIGTERM, an orderly end."""
        self.signal(signal.SIGTERM)
        code = self.wait(timeout)
        assert code == 0, "exit code %d\n%s" % (code, self.log()[-3000:])

    def restart(self, **kwargs):
        self.kill()
        return self.start(**kwargs)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    # ---- looking at it ------------------------------------------------------------------------------------------------
    def http(self, path):
        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (self.ports["http"], path), timeout=10) as r:
            return r.read().decode()

    def metric(self, name):
        """The sum of a metric over its labels; 0 when it was never seen."""
        total = 0.0
        for line in self.http("/metrics").splitlines():
            m = re.match(r"^%s(\{[^}]*\})? (\S+)" % re.escape(name), line)
            if m:
                total += float(m.group(2))
        return total

    def rss(self):
        with open("/proc/%d/statm" % self.pid) as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def cpu_seconds(self):
        with open("/proc/%d/stat" % self.pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))


# ---- a test program -----------------------------------------------------------------------------------------------------
def stop_process(pid, patience=10):
    """SIGSTOP, and waits until every thread stands: each stops by itself, at its next way out of the kernel, so kill() returns before."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + patience * PATIENCE
    while True:
        running = []
        for thread in os.listdir("/proc/%d/task" % pid):
            try:
                with open("/proc/%d/task/%s/stat" % (pid, thread)) as f:
                    running += [thread] if f.read().rsplit(")", 1)[1].split()[0] != "T" else []
            except FileNotFoundError:
                pass
        if not running:
            return
        assert time.monotonic() < deadline, "threads %s of %d do not stop" % (running, pid)
        time.sleep(0.001)


def run_tests(tests, argv=None):
    """Runs the functions, one line each, ends with `N passed, N failed`; exits 1 when one failed. Arguments name tests to run."""
    import traceback

    names = [a for a in (sys.argv[1:] if argv is None else argv) if not a.startswith("-")]
    passed = failed = 0
    for test in tests:
        if names and test.__name__ not in names:
            continue
        begin = time.monotonic()
        try:
            test()
            passed += 1
            print("ok %s (%.1f s)" % (test.__name__, time.monotonic() - begin), flush=True)
        except Exception:
            failed += 1
            print("not ok %s (%.1f s)" % (test.__name__, time.monotonic() - begin), flush=True)
            traceback.print_exc(file=sys.stdout)
    print("%d passed, %d failed" % (passed, failed))
    sys.exit(1 if failed else 0)


def eventually(check, timeout=10, every=0.02):
    """Repeats check() until it is true or raises nothing; the last failure counts."""
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        try:
            result = check()
            if result:
                return result
            error = AssertionError("not true after %.1f s" % timeout)
        except (AssertionError, OSError, EOFError) as e:
            error = e
        if time.monotonic() > deadline:
            raise error
        time.sleep(every)
