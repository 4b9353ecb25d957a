"""What must be true of a cluster after faults: the checkers C1 to C8.

Each is a function over plain data (histories, lists, log lines) that returns a list of problems in words; an empty list means that nothing was found. None of
them knows processes or sockets, so that checkers_test.py can plant violations and prove that each checker can fail.
"""
import collections
import re

from history import FAIL, INFINITE, OK, UNKNOWN

STATES_MAX = 3_000_000  # of one key's search; more is reported as undecided, which counts as a problem


def some(items, n=5):
    """The first few of many, for a message."""
    items = sorted(items, key=repr)
    return ", ".join(repr(i) for i in items[:n]) + (", … (%d in all)" % len(items) if len(items) > n else "")


# ---- C1: no acknowledged write is lost ------------------------------------------------------------------------------------
def check_acknowledged(ops, found, what):
    """Unordered collections: each op added op.value to op.key; found = {key: set of values} read after everything healed."""
    problems = []
    acked, sent, refused, unsure = (collections.defaultdict(set) for _ in range(4))
    for o in ops:
        sent[o.key].add(o.value)
        if o.outcome == OK:
            acked[o.key].add(o.value)
        elif o.outcome == FAIL:
            refused[o.key].add(o.value)
        else:
            unsure[o.key].add(o.value)
    for key in sorted(set(acked) | set(found)):
        there = set(found.get(key, ()))
        lost = acked[key] - there
        if lost:
            problems.append("C1 %s %s: %d of %d acknowledged writes are lost: %s" % (what, key, len(lost), len(acked[key]), some(lost)))
        strange = there - sent[key]
        if strange:
            problems.append("C1 %s %s: nobody wrote %s" % (what, key, some(strange)))
        # What was refused with "surely not applied" and sent once only must not be there.
        ghosts = (refused[key] & there) - acked[key] - unsure[key]
        if ghosts:
            problems.append("C1 %s %s: refused as not applied, but there: %s" % (what, key, some(ghosts)))
    return problems


def check_list(key, ops, left):
    """A list as a queue: each pushed value (kind push) comes out (kind pop, value None: there was nothing) at most once, and what was acknowledged is out or still there;
    a pop without an answer may have taken one with it. left: the list read at the end."""
    problems = []
    pushed = {o.value for o in ops if o.kind == "push" and o.outcome == OK}
    sent = {o.value for o in ops if o.kind == "push"}
    popped = collections.Counter(o.value for o in ops if o.kind == "pop" and o.outcome == OK and o.value is not None)
    swallowed = sum(o.kind == "pop" and o.outcome == UNKNOWN for o in ops)
    out = collections.Counter(left) + popped
    twice = [v for v, n in out.items() if n > 1]
    if twice:
        problems.append("C1 list %s: there twice, or popped twice: %s" % (key, some(twice)))
    strange = set(out) - sent
    if strange:
        problems.append("C1 list %s: nobody pushed %s" % (key, some(strange)))
    lost = pushed - set(out)
    if len(lost) > swallowed:
        problems.append("C1 list %s: %d of %d acknowledged elements are gone, but only %d pops went unanswered: %s" % (
            key, len(lost), len(pushed), swallowed, some(lost)))
    refused = {o.value for o in ops if o.kind == "push" and o.outcome == FAIL} & set(out)
    if refused:
        problems.append("C1 list %s: refused as not pushed, but there: %s" % (key, some(refused)))
    return problems


# ---- C2: every key is linearizable -------------------------------------------------------------------------------------------
def _apply(op, value):
    """The register after op when it was `value` before; None as first result: op cannot have run at this point."""
    if op.kind == "r":
        return (value == op.value, value)
    if op.kind == "w":
        return True, op.value
    if op.kind == "incr":
        after = int(value or 0) + 1
        return (op.outcome != OK or op.value == after, after)
    raise ValueError(op.kind)


def linearizable(ops, initial=None):
    """Wing and Gong's search with memory over (operations done, value): None, or what is wrong. ops: one key's; kinds r, w, incr.

    Refused operations never happened. A read without an answer says nothing. A write without an answer whose value nobody read (values are unique) can be
    thought never to have happened, unless the key is a counter; the others may happen at any time after their start.
    """
    read = {o.value for o in ops if o.kind == "r" and o.outcome == OK}
    counter = any(o.kind == "incr" for o in ops)
    todo = [o for o in ops if o.outcome == OK or (o.outcome == UNKNOWN and o.kind != "r" and (counter or o.value in read))]
    todo.sort(key=lambda o: o.start)
    ends = [o.end if o.outcome == OK else INFINITE for o in todo]
    must = 0  # the operations that have to be in the order
    for i, o in enumerate(todo):
        if o.outcome == OK:
            must |= 1 << i
    n = len(todo)
    seen = set()
    stack = [(0, initial)]
    deepest, deepest_mask = -1, 0
    while stack:
        done, value = stack.pop()
        if done & must == must:
            return None
        if (done, value) in seen:
            continue
        seen.add((done, value))
        if len(seen) > STATES_MAX:
            return "undecided after %d states" % STATES_MAX
        depth = bin(done & must).count("1")
        if depth > deepest:
            deepest, deepest_mask = depth, done
        limit = INFINITE
        first = ((~done) & (done + 1)).bit_length() - 1  # the lowest operation not done
        for i in range(first, n):
            if done >> i & 1:
                continue
            o = todo[i]
            if o.start > limit:
                break
            limit = min(limit, ends[i])
            fits, after = _apply(o, value)
            if fits:
                stack.append((done | 1 << i, after))
    stuck = [o for i, o in enumerate(todo) if not deepest_mask >> i & 1][:4]
    before = [o for i, o in enumerate(todo) if deepest_mask >> i & 1][-4:]
    return "no order explains it; got as far as %d of %d; before: %s; stuck at: %s" % (
        deepest, bin(must).count("1"), "; ".join(map(repr, before)), "; ".join(map(repr, stuck)))


def check_linearizable(ops):
    problems = []
    by_key = collections.defaultdict(list)
    for o in ops:
        by_key[o.key].append(o)
    for key in sorted(by_key):
        wrong = linearizable(by_key[key])
        if wrong:
            problems.append("C2 %s (%d operations): %s" % (key, len(by_key[key]), wrong))
    return problems


def check_stale_reads(reads, written):
    """Reads that asked for stale data go forward only: reads = [(connection, key, value or None)] in their order, written = {key: values in their order}."""
    problems, seen = [], {}
    rank = {key: {v: i + 1 for i, v in enumerate(values)} for key, values in written.items()}
    for connection, key, value in reads:
        at = 0 if value is None else rank.get(key, {}).get(value)
        if at is None:
            problems.append("C2 stale read of %s: nobody wrote %r" % (key, value))
            continue
        if at < seen.get((connection, key), 0):
            problems.append("C2 stale read of %s on %s went back to %r" % (key, connection, value))
        seen[connection, key] = max(at, seen.get((connection, key), 0))
    return problems


# ---- C3: streams -----------------------------------------------------------------------------------------------------------------
class StreamPartition:
    """What is known of one topic partition. Values are bytes `producer.sequence...`; sequences of one producer rise by one."""

    def __init__(self, name):
        self.name = name
        self.sent = set()         # every value that was ever sent
        self.acked = {}           # value -> offset (None: acknowledged as a duplicate, its offset is not known)
        self.idempotent = set()   # producers that retry the same sequence until it is answered
        self.final = []           # (offset, value) read after everything healed, from the first offset on
        self.consumers = {}       # name -> [(offset, value)] in the order they were read


def producer_of(value):
    name, sequence = value.split(b".", 2)[:2]
    return name.decode(), int(sequence)


def check_stream(p):
    problems = []

    def wrong(text, *args):
        problems.append("C3 %s: %s" % (p.name, text % args))

    offsets = [o for o, _ in p.final]
    if offsets != list(range(len(offsets))):
        holes = [a for a, b in zip(offsets, range(len(offsets))) if a != b]
        wrong("offsets are not dense from 0, first at %s", holes[:1])
    at = dict(p.final)
    places = collections.defaultdict(list)
    for offset, value in p.final:
        places[value].append(offset)
    lost = [v for v, offset in p.acked.items() if v not in places]
    if lost:
        wrong("%d of %d acknowledged records are lost: %s", len(lost), len(p.acked), some((p.acked[v], v) for v in lost))
    moved = [(v, offset, at.get(offset)) for v, offset in p.acked.items() if offset is not None and v in places and at.get(offset) != v]
    if moved:
        wrong("acknowledged at one offset, found at another: %s", some(moved))
    strange = [v for v in places if v not in p.sent]
    if strange:
        wrong("nobody sent %s", some(strange))
    twice = [(v, o) for v, o in places.items() if len(o) > 1 and producer_of(v)[0] in p.idempotent]
    if twice:
        wrong("idempotent, but there twice: %s", some(twice))
    last = {}
    for offset, value in p.final:
        name, sequence = producer_of(value)
        if name in p.idempotent and len(places[value]) == 1:
            if sequence <= last.get(name, -1):
                wrong("out of the producer's order at %d: %r after %s.%d", offset, value, name, last[name])
                break
            last[name] = sequence
    for name, got in sorted(p.consumers.items()):
        different = [(o, v, at.get(o)) for o, v in got if at.get(o) != v]
        if different:
            wrong("consumer %s saw what is not there (offset, seen, there): %s", name, some(different))
        if any(b <= a for (a, _), (b, _) in zip(got, got[1:])):
            wrong("consumer %s did not go forward", name)
    return problems


# ---- C4: queues ------------------------------------------------------------------------------------------------------------------
class QueueLog:
    """What is known of one queue. Bodies are unique bytes `publisher.connection.sequence...`."""

    def __init__(self, name):
        self.name = name
        self.sent = set()
        self.confirmed = set()
        self.settled = {}      # body -> time at which a later synchronous answer made its ack final
        self.maybe = set()     # acked or rejected without such an answer: may be gone, may come again
        self.deliveries = []   # (time, consumer channel, body, redelivered), each channel's in its order


def check_queue(q):
    problems = []

    def wrong(text, *args):
        problems.append("C4 %s: %s" % (q.name, text % args))

    seen = set()
    delivered = {body for _, _, body, _ in q.deliveries}
    lost = q.confirmed - delivered
    if lost:
        wrong("%d of %d confirmed messages were never delivered: %s", len(lost), len(q.confirmed), some(lost))
    strange = delivered - q.sent
    if strange:
        wrong("nobody published %s", some(strange))
    back, unflagged, order = [], [], []
    last = {}
    for when, channel, body, redelivered in sorted(q.deliveries, key=lambda d: d[0]):
        if body in q.settled and when > q.settled[body]:
            back.append((body, channel, round(when - q.settled[body], 3)))
        if body in seen and not redelivered:
            unflagged.append((body, channel))
        seen.add(body)
        if not redelivered:
            publisher, connection, sequence = body.split(b".", 3)[:3]
            key = channel, publisher, connection
            if int(sequence) <= last.get(key, -1):
                order.append((channel, body, last[key]))
            last[key] = max(int(sequence), last.get(key, -1))
    if back:
        wrong("settled for good, came again (body, channel, seconds later): %s", some(back))
    if unflagged:
        wrong("came again without the redelivered flag: %s", some(unflagged))
    if order:
        wrong("first deliveries out of order (channel, body, after): %s", some(order))
    return problems


# ---- C5: replicas are equal ----------------------------------------------------------------------------------------------------------
def check_replicas(states):
    """states: [(node, partition, epoch, offset, hash)]. Equal (partition, epoch, offset) must have an equal hash, and at rest all replicas the same end."""
    problems = []
    by_place, ends = collections.defaultdict(dict), collections.defaultdict(dict)
    for node, partition, epoch, offset, digest in states:
        by_place[partition, epoch, offset][node] = digest
        ends[partition][node] = (epoch, offset)
    for (partition, epoch, offset), digests in sorted(by_place.items()):
        if len(set(digests.values())) > 1:
            problems.append("C5 partition %s at (%s, %s): replicas differ: %s" % (partition, epoch, offset, sorted(digests.items())))
    for partition, where in sorted(ends.items()):
        if len(set(where.values())) > 1:
            problems.append("C5 partition %s: replicas did not reach the same (epoch, end): %s" % (partition, sorted(where.items())))
    return problems


def check_logs(logs, whole=True):
    """logs: {node: {log name: batches}} at rest. Where two replicas both have an offset they have the same batch; epochs never go down; if whole, they end alike.

    The main and topic logs have no holes; queue logs may (their acknowledged segments go, at each node in its own time), so there only equal offsets are compared.
    """
    problems = []
    names = sorted({name for of_node in logs.values() for name in of_node})
    for name in names:
        holders = {node: of_node[name] for node, of_node in sorted(logs.items()) if of_node.get(name)}
        for node, batches in holders.items():
            for a, b in zip(batches, batches[1:]):
                if b.epoch < a.epoch:
                    problems.append("C5 %s on %s: the epoch falls from %r to %r" % (name, node, a, b))
                    break
                if b.base <= a.last or ("/queue/" not in name and b.base != a.last + 1):
                    problems.append("C5 %s on %s: %r does not follow %r" % (name, node, b, a))
                    break
        nodes = list(holders)
        for other in nodes[1:]:
            difference = _first_difference(name, holders[nodes[0]], holders[other])
            if difference:
                problems.append("C5 %s: %s and %s differ: %s" % (name, nodes[0], other, difference))
        ends = {node: batches[-1].last + 1 for node, batches in holders.items()}
        if whole and (len(set(ends.values())) > 1 or len(ends) < len(logs)):
            problems.append("C5 %s: replicas did not reach the same end: %s" % (name, {node: ends.get(node, 0) for node in logs}))
    return problems


def _first_difference(name, one, other):
    a, b = {x.base: x for x in one}, {x.base: x for x in other}
    low, high = max(one[0].base, other[0].base), min(one[-1].last, other[-1].last)
    for base in sorted(set(a) & set(b) if "/queue/" in name else (x for x in set(a) | set(b) if low <= x <= high)):
        if base not in a or base not in b or a[base].same() != b[base].same():
            return "%r against %r" % (a.get(base), b.get(base))
    return None


# ---- C6: one leader a (partition, epoch) ------------------------------------------------------------------------------------------------
OPENED = re.compile(r'msg="leads".*?\bpartition=(\d+).*?\bepoch=(\d+)')


def leaderships(node, lines):
    """(node, partition, epoch) of each line that says so."""
    out = []
    for line in lines:
        m = OPENED.search(line)
        if m:
            out.append((node, int(m.group(1)), int(m.group(2))))
    return out


def check_one_leader(opened):
    """opened: [(node, partition, epoch)] of all nodes, in any order."""
    leaders = collections.defaultdict(set)
    for node, partition, epoch in opened:
        leaders[partition, epoch].add(node)
    return ["C6 partition %d has leaders %s in epoch %d" % (p, sorted(nodes), e) for (p, e), nodes in sorted(leaders.items()) if len(nodes) > 1]


# ---- C7: time to the next successful write --------------------------------------------------------------------------------------------------
def recovery(ops, since, until=INFINITE):
    """{protocol: seconds} from `since` until the first write begun after it succeeded, the slowest lane counting; infinite when a lane never did."""
    first = {}
    for o in ops:
        if o.kind in ("r", "pop"):
            continue
        lane = o.protocol, o.lane
        first.setdefault(lane, INFINITE)
        if o.outcome == OK and since <= o.start and o.end <= until:
            first[lane] = min(first[lane], o.end)
    out = {}
    for (protocol, _), end in first.items():
        out[protocol] = max(out.get(protocol, 0), end - since)
    return out


def check_recovery(ops, since, limit, what, until=INFINITE):
    problems = []
    for protocol, seconds in sorted(recovery(ops, since, until).items()):
        if seconds > limit:
            problems.append("C7 %s: %s wrote again after %.2f s, the limit is %.2f" % (what, protocol, seconds, limit))
    return problems


# ---- C8: nothing crashed or leaked ----------------------------------------------------------------------------------------------------------
# What the process says when it ends by a bug of its own: assertions (level=fatal), sanitizers, glibc.
CRASH = re.compile(r"Sanitizer|runtime error:|level=fatal|[Aa]ssertion|stack smashing|double free|Segmentation fault")


def check_lines(node, lines):
    return ["C8 node %s says: %s" % (node, line.strip()[:300]) for line in lines if CRASH.search(line)][:5]


def check_deaths(deaths):
    """deaths: [(node, exit code, expected)]; expected is whether the test ended it."""
    return ["C8 node %s died by itself with code %s" % (node, code) for node, code, expected in deaths if not expected]


def check_resources(before, after, sockets_slack=32, memory_factor=2.0, memory_slack=256 << 20):
    """before, after: {node: (open sockets, resident bytes)}, both without clients."""
    problems = []
    for node, (sockets, memory) in sorted(after.items()):
        if node not in before:
            continue
        if sockets > before[node][0] + sockets_slack:
            problems.append("C8 node %s: %d open sockets, %d before the load" % (node, sockets, before[node][0]))
        if memory > before[node][1] * memory_factor + memory_slack:
            problems.append("C8 node %s: %d MiB resident, %d before the load" % (node, memory >> 20, before[node][1] >> 20))
    return problems
