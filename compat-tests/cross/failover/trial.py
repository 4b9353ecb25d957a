"""Clients people have against a cluster of three that is hurt under them: what redis_failover/run, kafka_failover/run and amqp_failover/run beside it share.

A client program is started as ARGV ADDRESSES NAME LANES and writes 0, 1, 2, … one after the other, number n to lane n mod the number of lanes (a hash tag, a queue). It says on
its standard output, a line each:

    acked N      the server has acknowledged N
    error TEXT   what the client let its program see
    read N [AT]  N was found when everything was read back; AT: where it lies, if that can be told

When its standard input ends it stops writing, reads everything back and ends with 0. steady.py, steady.js, Steady.java and steady.go are that much, once a language.

A trial is the steps named by --faults, one after the other under one client: each waits until every lane is written again. It fails when something acknowledged is not read, when a lane
does not come back, or when the client ends otherwise. The longest pause of a lane is told for each step, as are the errors; they are to be judged by who reads them.
"""
import argparse
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "..", "lib"))
from node import DevCluster  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
RECOVER_S = 60  # for a lane to be written again
END_S = 180     # for a client to read everything back
PARTITIONS = 32


# ---- the clients' installation ---------------------------------------------------------------------------------------------------------------------------------------------------


class Tools:
    """Installs what the files beside a trial pin, each once, under BUILD/NAME-failover; a client whose tools are not here is left out."""

    def __init__(self, build, here):
        self.here, self.where = here, os.path.join(build, os.path.basename(here).replace("_", "-"))
        os.makedirs(self.where, exist_ok=True)

    def install(self, what, tool, command, pins):
        """Copies the pins and runs the command once for what they say; False: the tool is not here or fails."""
        mark = os.path.join(self.where, what + ".installed")
        want = "".join(open(os.path.join(self.here, pin)).read() for pin in pins)
        if os.path.exists(mark) and open(mark).read() == want:
            return True
        if shutil.which(tool) is None:
            return False
        for pin in pins:
            shutil.copy(os.path.join(self.here, pin), self.where)
        if subprocess.run(command, cwd=self.where).returncode != 0:
            return False
        with open(mark, "w") as f:
            f.write(want)
        return True

    def source(self, name):
        """A source file, or one that all trials share, where its language looks for what was installed."""
        at = os.path.join(self.here, name)
        shutil.copy(at if os.path.exists(at) else os.path.join(HERE, name), self.where)
        return os.path.join(self.where, name)

    def python(self, **programs):
        command = '"%s" -m venv --clear venv && venv/bin/python -m pip install -q --no-deps -r clients.txt' % sys.executable
        if not self.install("python", sys.executable, ["sh", "-c", command], ["clients.txt"]):
            return {}
        self.source("steady.py")
        return {name: [os.path.join(self.where, "venv", "bin", "python"), self.source(program)] for name, program in programs.items()}

    def node(self, **programs):
        if not self.install("node", "npm", ["npm", "ci", "--silent", "--no-audit", "--no-fund"], ["package.json", "package-lock.json"]):
            return {}
        self.source("steady.js")
        return {name: ["node", self.source(program)] for name, program in programs.items()}

    def java(self, *shared, **classes):
        jars = os.path.join(self.where, "java")
        if shutil.which("javac") is None or not self.install("java", "mvn", ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=" + jars], ["pom.xml"]):
            return {}
        sources = [self.source(name + ".java") for name in ["Steady", *shared, *classes.values()]]
        subprocess.run(["javac", "-cp", jars + "/*", "-d", jars] + sources, check=True)
        return {name: ["java", "-cp", jars + "/*:" + jars, cls] for name, cls in classes.items()}

    def go(self, **programs):
        if not self.install("go", "go", ["go", "mod", "download"], ["go.mod", "go.sum"]):
            return {}
        steady, found = self.source("steady.go"), {}
        for name, program in programs.items():
            found[name] = [os.path.join(self.where, name)]
            subprocess.run(["go", "build", "-o", name, self.source(program), steady], cwd=self.where, check=True)
        return found


# ---- what the clients speak to ---------------------------------------------------------------------------------------------------------------------------------------------------


class Cluster(DevCluster):
    """Three nodes of gomsgctl dev, at level quorum. A step of the trial is a method: it hurts and heals, and says what it did."""

    steps = ("kill", "restart", "pause", "transfer", "drain")

    def __init__(self, build, rng):
        super().__init__(os.path.join(build, "gomsgctl"))
        self.rng, self.killed = rng, None

    def __enter__(self):
        super().__enter__()
        try:
            for node in (1, 2, 3):
                self.on(node, "config", "set", "kv.ack", "quorum", check=True)
            with open(os.path.join(self.root, "c", "gomsg.yaml"), "a") as f:
                f.write("kv:\n  ack: quorum\n")
        except BaseException:
            self.__exit__()
            raise
        return self

    def on(self, node, *args, check=False):
        r = subprocess.run([self.ctl, "-d", os.path.join(self.root, "c", "n%d" % node, "data"), *args], capture_output=True, text=True, timeout=90)
        assert not check or r.returncode == 0, "gomsgctl %s: %s%s" % (" ".join(args), r.stdout, r.stderr)
        return r

    def addresses(self, protocol):
        return ",".join(r[protocol] for r in self.rows)

    def heal(self):
        """All nodes run and all replicas are in sync when it returns."""
        if self.killed is not None:
            self.dev("start", str(self.killed))
            self.killed = None
        end = time.monotonic() + RECOVER_S
        while any(self.on(node, "cluster", "health").returncode != 0 for node in (1, 2, 3)):
            assert time.monotonic() < end, "the cluster does not become healthy: " + self.on(1, "cluster", "health").stdout
            time.sleep(0.1)

    def leader(self):
        """A node that leads something: after a drain that may take a while."""
        end = time.monotonic() + RECOVER_S
        while True:
            leads = {row["node"]: row["leads"] for row in json.loads(self.on(1, "--json", "cluster", "nodes", check=True).stdout)}
            if min(leads.values()) >= PARTITIONS // 3 - 3:
                return self.rng.choice(sorted(leads))
            assert time.monotonic() < end, "the leaderships are not spread: %s" % leads
            time.sleep(0.2)

    def kill(self):
        self.killed = self.leader()
        self.dev("kill", str(self.killed))
        return "node %d" % self.killed

    def restart(self):
        node = self.killed
        self.heal()
        return "node %s" % node

    def pause(self):
        node = self.leader()
        self.dev("pause", str(node))
        time.sleep(3)
        self.dev("resume", str(node))
        self.heal()
        return "node %d for 3 s" % node

    def transfer(self):
        self.heal()
        done, end = 0, time.monotonic() + 5
        while time.monotonic() < end:
            done += self.on(1, "cluster", "transfer-leader", str(self.rng.randrange(PARTITIONS))).returncode == 0
        return "%d leaderships" % done

    def drain(self):
        self.heal()
        node = str(self.leader())
        self.on(1, "cluster", "drain", node, "--wait", check=True)
        time.sleep(1)
        self.on(1, "cluster", "undrain", node, check=True)
        self.heal()
        return "node %s" % node


# ---- a client's run --------------------------------------------------------------------------------------------------------------------------------------------------------------


class Client:
    """One client program, its lines with the time at which they came."""

    def __init__(self, argv, lanes):
        self.lanes, self.errors, self.read, self.reread, self.doubled = lanes, [], {}, 0, 0
        self.acked, self.last, self.other = {}, {}, []  # number -> time; lane -> time; lines that are none of ours
        self.lock = threading.Lock()
        self.p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.reader = threading.Thread(target=self.listen)
        self.reader.start()

    def listen(self):
        for line in self.p.stdout:
            word, _, rest = line.rstrip().partition(" ")
            now = time.monotonic()
            with self.lock:
                if word == "acked":
                    self.acked[int(rest)] = self.last[int(rest) % self.lanes] = now
                elif word == "read":
                    n, _, at = rest.partition(" ")
                    self.reread += self.read.get(int(n)) == at
                    self.doubled += self.read.setdefault(int(n), at) != at
                elif word == "error":
                    self.errors.append((now, rest))
                else:
                    self.other.append(line.rstrip())

    def written_since(self, since):
        """Every lane has had an acknowledgement since then."""
        end = time.monotonic() + RECOVER_S
        while time.monotonic() < end and self.p.poll() is None:
            with self.lock:
                if len(self.last) == self.lanes and all(t > since for t in self.last.values()):
                    return True
            time.sleep(0.02)
        return False

    def end(self):
        """Lets it read back; its exit code, None when it had to be ended."""
        try:
            self.p.stdin.close()
            code = self.p.wait(END_S)
        except (OSError, subprocess.TimeoutExpired):
            code = None
        self.p.kill()
        self.p.wait()
        self.reader.join()
        return code

    def longest_pause(self, begin, end):
        """Milliseconds between two acknowledgements of one lane, of pauses that began or ended within the step."""
        longest, before = 0, {}
        for n, t in sorted(self.acked.items(), key=lambda item: item[1]):
            last = before.get(n % self.lanes, t)
            before[n % self.lanes] = t
            if t >= begin and last <= end:
                longest = max(longest, t - last)
        return int(longest * 1000)

    def errors_between(self, begin, end):
        """Texts and how often, with numbers, ports and keys made alike."""
        texts = collections.Counter(re.sub(r"\d+", "#", text)[:200] for t, text in self.errors if begin <= t < end)
        return ["%d x %s" % (n, text) for text, n in texts.most_common(6)]


def trial(cluster, argv, lanes, faults, strict):
    """-> (what failed, the lines to be told); strict: an error is a failure, since the client tries again by itself and gives up after minutes only"""
    client, told, failed = Client(argv, lanes), [], []
    begin = time.monotonic()
    if not client.written_since(begin) or not client.written_since(time.monotonic() + 0.5):
        failed.append("nothing is written")
    for fault in faults:
        if failed:
            break
        begin = time.monotonic()
        did = getattr(cluster, fault)()
        if not client.written_since(time.monotonic() if fault != "kill" else time.monotonic() + 1):
            failed.append("not written again within %d s of %s" % (RECOVER_S, fault))
        end = time.monotonic()
        told.append("%-8s %-16s longest pause %5d ms" % (fault, did, client.longest_pause(begin, end)))
        told += ["           " + text for text in client.errors_between(begin, end)]
    cluster.heal()
    code = client.end()
    lost = sorted(client.acked.keys() - client.read.keys())
    told.append("acked=%d read=%d, of these again %d, at two places %d" % (len(client.acked), len(client.read), client.reread, client.doubled))
    if code != 0:
        failed.append("it had to be ended" if code is None else "it ended with %d" % code)
    if lost:
        failed.append("%d acknowledged and not read: %s" % (len(lost), lost[:10]))
    if client.doubled:
        failed.append("%d lie at two places" % client.doubled)
    if strict and client.errors:
        failed.append("%d errors" % len(client.errors))
    if failed:
        told += client.other[-30:] + ["error " + text for _, text in client.errors[-10:]]
    return failed, told


def main(doc, here, clients, lanes, protocol, faults, real=None, strict=False):
    """clients(Tools) -> name: argv; lanes(name of the trial) -> list; protocol: whose addresses; real(build, rng): the server that is imitated."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(TOP, "build"))
    p.add_argument("--clients", help="some of them, with commas")
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    p.add_argument("--faults", default=",".join(faults), help="of %s, with commas" % ", ".join(Cluster.steps))
    if real:
        p.add_argument("--real", action="store_true", help="the real server instead, to compare")
    options = p.parse_args()
    build, rng = os.path.abspath(options.build), random.Random(options.seed)
    use = real if real and options.real else Cluster
    steps = [f for f in options.faults.split(",") if f in use.steps]
    print("# seed %d, %s: %s" % (options.seed, use.__name__, ",".join(steps)), flush=True)
    found = clients(Tools(build, here))
    passed = failed = skipped = 0
    with use(build, rng) as cluster:
        for number in range(options.rounds):
            for name in options.clients.split(",") if options.clients else found:
                if name not in found:
                    print("skip %s - its tools are not here" % name)
                    skipped += 1
                    continue
                cluster.heal()
                title = "%s-%d" % (name, number)
                mine = lanes(title)
                wrong, told = trial(cluster, found[name] + [cluster.addresses(protocol), title, ",".join(mine)], len(mine), steps, strict)
                passed, failed = passed + (not wrong), failed + bool(wrong)
                print("%s %s%s" % ("not ok" if wrong else "ok", title, " - " + ", ".join(wrong) if wrong else ""))
                print("".join("    %s\n" % line for line in told), end="", flush=True)
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    sys.exit(1 if failed else 0)
