"""What clients did: one record an operation, on one clock. The load writes it, the checkers read it.

An outcome is one of three. OK: the server said so. FAIL: surely not applied (refused before anything was sent, or by an answer that promises it). UNKNOWN:
anything else; it may have been applied, may be applied later, or never, so its end is infinite for a checker.
"""
import math
import threading
import time

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"
INFINITE = math.inf


class Op:
    """One operation. `lane` names what fails over as one thing (a key's partition, a topic partition, a queue); start and end are seconds of time.monotonic."""

    __slots__ = ("client", "protocol", "lane", "kind", "key", "value", "start", "end", "outcome", "note")

    def __init__(self, client, protocol, lane, kind, key, value, start, end=INFINITE, outcome=UNKNOWN, note=""):
        self.client, self.protocol, self.lane = client, protocol, lane
        self.kind, self.key, self.value = kind, key, value
        self.start, self.end, self.outcome, self.note = start, end, outcome, note

    def __repr__(self):
        return "%s %s %s %s=%r [%.3f, %.3f] %s %s" % (self.client, self.protocol, self.kind, self.key, self.value, self.start, self.end, self.outcome, self.note)


class History:
    """All operations of a run. Appending is safe from any thread; read it when the load has ended (or take a copy by ops())."""

    def __init__(self):
        self.lock = threading.Lock()
        self.list = []
        self.marks = []  # (time, text): what the test did to the cluster

    def add(self, op):
        with self.lock:
            self.list.append(op)
        return op

    def ops(self, protocol=None, kind=None):
        with self.lock:
            copy = list(self.list)
        return [o for o in copy if (protocol is None or o.protocol == protocol) and (kind is None or o.kind == kind)]

    def mark(self, text):
        now = time.monotonic()
        with self.lock:
            self.marks.append((now, text))
        return now

    def counts(self):
        """{protocol: {outcome: number}}"""
        out = {}
        for o in self.ops():
            out.setdefault(o.protocol, {OK: 0, FAIL: 0, UNKNOWN: 0})[o.outcome] += 1
        return out
