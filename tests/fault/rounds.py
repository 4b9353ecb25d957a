"""Runs faults against clusters under load and judges them. See run."""
import argparse
import os
import random
import shutil
import sys
import time
import traceback

import netns
from checkers import INFINITE, check_logs, check_one_leader, check_replicas, check_resources, recovery
from faults import Round, pick
from history import History
from load import Load
from logs import read_logs
from rig import BUILD, PATIENCE, REQUIRE, Cluster, eventually

CONFIG = {
    "kv.ack": "quorum",
    "cluster.replace_after": "5s",  # so that an emptied node's copies come back while we watch
    "log.segment_bytes": "16MiB",
}


class Judge:
    """One cluster after the other, one fault after the other; a cluster that failed is not used again."""

    def __init__(self, options):
        self.options = options
        self.cluster, self.nodes = None, 0
        self.passed = self.failed = self.count = 0
        self.times = {}    # (what, protocol) -> [seconds]
        self.notes = set()

    # ---- clusters -------------------------------------------------------------------------------------------------------------
    def fresh(self, nodes):
        self.drop()
        self.cluster = Cluster(nodes, config=dict(CONFIG, **self.options.config), loopback=True if self.options.loopback else None, keep=self.options.keep, spare=1,
                               independent=self.options.alone)
        self.cluster.replaced = False
        self.nodes = nodes
        self.cluster.start()
        took = self.cluster.wait_formed(60)
        self.base = self.cluster.resources()
        print("  cluster of %d formed and healthy after %.2f s (%s)" % (nodes, took, "loopback" if self.cluster.loopback else "namespaces"), flush=True)

    def drop(self):
        if self.cluster is not None:
            self.cluster.close()
            self.cluster = None

    def keep_evidence(self, name, history, problems):
        folder = os.path.join(BUILD, "fault-failures", "%d-%d-%s" % (self.options.seed, self.count, name))
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for n in self.cluster.nodes.values():
            if os.path.exists(n.log_path):
                shutil.copy(n.log_path, os.path.join(folder, "%s.log" % n.name))
        with open(os.path.join(folder, "problems"), "w") as f:
            f.write("\n".join(problems) + "\n")
        with open(os.path.join(folder, "history"), "w") as f:
            for t, text in history.marks:
                f.write("%.3f ==== %s\n" % (t, text))
            for o in sorted(history.ops(), key=lambda o: o.start):
                f.write(repr(o) + "\n")
        print("  evidence: %s" % folder, flush=True)
        if self.options.keep:
            self.cluster.failed = True

    # ---- one fault --------------------------------------------------------------------------------------------------------------
    def run(self, fault, seed):
        self.count += 1
        rng = random.Random(seed)
        history, problems, begin = History(), [], time.monotonic()
        print("fault %s: %s (seed %d)" % (fault.number, fault.title, seed), flush=True)
        try:
            want = 1 if self.options.alone else max(self.options.nodes, fault.nodes)
            if self.cluster is None or self.nodes < want:
                self.fresh(want)
            endpoints = {p: [(n.host, n.ports[p]) for n in self.cluster.nodes.values()] for p in ("resp", "kafka", "amqp")}
            load = Load(endpoints, history, seed=seed, lanes=self.options.lanes, name="f%d" % self.count, protocols=self.options.protocols.split(","),
                        wait=self.cluster.config["kv.ack"] != "quorum")
            load.setup()
            load.start()
            try:
                load.wait_writing(30 * PATIENCE)
                time.sleep(self.options.warm)
                round_ = Round(self.cluster, load, rng, not self.options.short)
                fault.function(round_)
                problems += round_.problems
                self.whole()
                time.sleep(0.5)
            finally:
                self.heal()
                load.stop()
            load.final(30 * PATIENCE)
            problems += self.judge(load, history, round_)
        except Exception as e:
            problems.append("the run broke off: %s: %s" % (type(e).__name__, e))
            if not isinstance(e, (AssertionError, OSError, TimeoutError, SystemError)) or self.options.verbose:
                traceback.print_exc(file=sys.stdout)
            if self.cluster is not None:
                problems += self.cluster.problems()
        self.report(fault, history, problems, begin)

    def heal(self):
        self.cluster.net.heal()
        for n in self.cluster.nodes.values():
            n.resume()

    def whole(self):
        """Every node runs, knows all others, and every replica is in sync again."""
        for n in self.cluster.nodes.values():
            if not n.alive():
                raise SystemError("%s does not run: %s" % (n.name, n.tail(5)))
        eventually(self.cluster.formed, 40)
        self.cluster.wait_healthy(60)

    def judge(self, load, history, round_):
        problems = load.check()
        opened = self.cluster.opened()
        problems += check_one_leader(opened)
        if not opened and not self.options.alone:
            problems.append("C6 is blind: no node has said that it opened a partition as leader")
        problems += self.check_states()
        problems += self.cluster.problems()
        problems += check_resources(self.base, self.cluster.resources())
        ops = history.ops()
        for what, since, limit, until in round_.expected:
            took = recovery(ops, since, until or INFINITE)
            for protocol, seconds in sorted(took.items()):
                self.times.setdefault((what, protocol), []).append(seconds)
                if seconds > (limit or self.options.limit) * PATIENCE:
                    problems.append("C7 %s: %s wrote again after %.2f s" % (what, protocol, seconds))
            history.mark("recovery, %s: %s" % (what, ", ".join("%s %.2f s" % x for x in sorted(took.items()))))
        return problems

    def check_states(self):
        """C5. The load has stopped; followers are given a moment to reach the end. With more nodes than copies, who holds what is not compared."""
        whole = self.nodes <= 3
        logs = {}

        def same():
            nonlocal logs
            logs = {n.name: read_logs(n.data) for n in self.cluster.living()}
            return not check_logs(logs, whole)

        try:
            eventually(same, 10, every=0.5)
        except TimeoutError:
            return check_logs(logs, whole)
        if not any(logs.values()):
            return ["C5 is blind: no log was found"]
        states = []

        def equal():
            nonlocal states
            states = self.cluster.states()
            return states is None or not check_replicas(states)

        try:
            eventually(equal, 10, every=0.3)
        except TimeoutError:
            return check_replicas(states)
        if states is None:
            self.notes.add("C5 was not checked: the nodes have no verb that tells the hash of a partition's state")
        elif not states:
            return ["C5 is blind: no node told the state of any partition"]
        return []

    def report(self, fault, history, problems, begin):
        start = min([o.start for o in history.ops()] + [t for t, _ in history.marks] + [time.monotonic()])
        for t, text in history.marks:
            print("  %7.2f %s" % (t - start, text))
        print("  operations: " + "; ".join("%s %s" % (p, " ".join("%d %s" % (n, o) for o, n in c.items())) for p, c in sorted(history.counts().items())))
        if problems:
            self.failed += 1
            for p in problems[:40]:
                print("  * %s" % p[:1500])
            print("not ok %s %s (%.1f s)" % (fault.number, fault.name, time.monotonic() - begin), flush=True)
            if self.cluster is not None:
                self.keep_evidence(fault.name, history, problems)
            self.drop()
        else:
            self.passed += 1
            print("ok %s %s (%.1f s)" % (fault.number, fault.name, time.monotonic() - begin), flush=True)

    def summary(self):
        if self.times:
            print("seconds until every lane wrote again: median, worst (rounds)")
        for (what, protocol), seconds in sorted(self.times.items()):
            s = sorted(seconds)
            print("  %-45s %-6s %6.2f %6.2f (%d)" % (what, protocol, s[len(s) // 2], s[-1], len(s)))
        for note in sorted(self.notes):
            print("note: " + note)


def main(argv=None):
    p = argparse.ArgumentParser(description="Faults against clusters of real nodes under load of all three protocols.")
    p.add_argument("--rounds", type=int, default=1, help="how often the faults are gone through")
    p.add_argument("--seed", type=int, default=None, help="of the first fault; the others count up")
    p.add_argument("--faults", default="", help="comma list of numbers or names; default: all of the short or long round")
    p.add_argument("--short", action="store_true", help="the round of make check")
    p.add_argument("--long", action="store_true", help="all faults (the default)")
    p.add_argument("--shuffle", action="store_true", help="in random order")
    p.add_argument("--nodes", type=int, default=3)
    p.add_argument("--protocols", default="resp,kafka,amqp", help="of the load; resp must be among them")
    p.add_argument("--lanes", type=int, default=4, help="keys' partitions, topic partitions and queues under load")
    p.add_argument("--limit", type=float, default=5.0, help="seconds until every lane must write again (C7)")
    p.add_argument("--warm", type=float, default=1.0, help="seconds of load before the fault")
    p.add_argument("--loopback", action="store_true", help="without namespaces: kills and pauses only")
    p.add_argument("--config", action="append", default=[], metavar="NAME=VALUE", help="an option of all nodes")
    p.add_argument("--alone", action="store_true", help="one node without a cluster: tries the rounds themselves out with faults 3, 5a and 20")
    p.add_argument("--fresh", action="store_true", help="a new cluster for every fault")
    p.add_argument("--keep", action="store_true", help="keep the data directories of a cluster that failed")
    p.add_argument("--list", action="store_true")
    p.add_argument("--verbose", action="store_true")
    o = p.parse_args(argv)
    o.config = dict(x.split("=", 1) for x in o.config)
    o.seed = o.seed if o.seed is not None else int(time.time()) % 1000000
    if o.list:
        from faults import FAULTS

        for f in FAULTS:
            print("%-4s %-22s %s%s%s" % (f.number, f.name, f.title, "" if f.short else " (long round)", " (needs namespaces)" if f.net else ""))
        return 0
    why = "asked for loopback" if o.loopback else netns.probe()
    if why is not None and REQUIRE and not o.loopback and not netns.kernel_lacks(why):
        print("namespaces are required (GOMSG_REQUIRE_RIG=1), but: %s\n0 passed, 1 failed" % why)
        return 1
    chosen, left_out = pick(o.faults, o.short, max(o.nodes, 5 if not o.short else o.nodes), why is None)
    for f in left_out:
        print("skip %s %s - %s" % (f.number, f.name, why or "needs %d nodes" % f.nodes))
    judge = Judge(o)
    seed = o.seed
    print("seed %d" % seed, flush=True)
    try:
        for _ in range(o.rounds):
            order = sorted(chosen, key=lambda f: f.nodes)
            if o.shuffle:
                random.Random(seed).shuffle(order)
            for f in order:
                if o.fresh:
                    judge.drop()
                judge.run(f, seed)
                seed += 1
            if o.rounds > 1:
                judge.drop()
    finally:
        judge.drop()
    judge.summary()
    print("%d passed, %d failed" % (judge.passed, judge.failed))
    return 1 if judge.failed or not judge.passed else 0


