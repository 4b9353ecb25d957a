"""The checkers themselves: each accepts what is right and reports each kind of violation that is planted. A checker that cannot fail is worthless.

    checkers_test.py [--seed=N]
"""
import copy
import itertools
import os
import random
import sys

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration")]
import checkers as c  # noqa: E402
from history import FAIL, INFINITE, OK, UNKNOWN, Op  # noqa: E402
from logs import Batch  # noqa: E402
from node import run_tests  # noqa: E402

SEED = next((int(a.split("=", 1)[1]) for a in sys.argv[1:] if a.startswith("--seed=")), 20261)
HISTORIES = 300


def one(problems, *words):
    """Exactly the planted problem is reported, in words that name it."""
    assert len(problems) == 1, problems
    for w in words:
        assert w in problems[0], (w, problems[0])


# ---- histories -----------------------------------------------------------------------------------------------------------------
def history(rng, length=100, clients=4, unknown=0.1, counter=False):
    """What clients of a right register see: every operation takes place at one moment between start and end; some answers are lost."""
    plan, ops = [], []
    clock = {i: rng.uniform(0, 1) for i in range(clients)}
    for n in range(length):
        who = rng.randrange(clients)
        start = clock[who] + rng.uniform(0, 0.3)
        end = start + rng.uniform(0.01, 1.5)
        clock[who] = end
        kind = "r" if rng.random() < 0.5 else "incr" if counter else "w"
        op = Op("c%d" % who, "resp", 0, kind, "k", "v%d" % n if kind == "w" else None, start, end, OK)
        happens = rng.uniform(start, end)
        chance = rng.random()
        if chance < unknown:
            op.outcome, op.end = UNKNOWN, INFINITE
            happens = None if rng.random() < 0.5 else start + rng.uniform(0, 6)  # perhaps never, perhaps long after the client gave up
        elif chance < unknown + 0.05:
            op.outcome, happens = FAIL, None
        ops.append(op)
        if happens is not None:
            plan.append((happens, op))
    value = None
    for _, op in sorted(plan, key=lambda x: x[0]):
        if op.kind == "w":
            value = op.value
        elif op.kind == "incr":
            value = int(value or 0) + 1
            op.value = value if op.outcome == OK else None
        elif op.outcome == OK:
            op.value = value
    return ops


def brute_force(ops):
    """Linearizability by trying every order of every subset; for a handful of operations."""
    must = [o for o in ops if o.outcome == OK]
    may = [o for o in ops if o.outcome == UNKNOWN and o.kind != "r"]
    for k in range(len(may) + 1):
        for chosen in itertools.combinations(may, k):
            for order in itertools.permutations(must + list(chosen)):
                end = {id(o): o.end if o.outcome == OK else INFINITE for o in order}
                if any(end[id(b)] < a.start for i, a in enumerate(order) for b in order[i + 1:]):
                    continue
                value, fits = None, True
                for o in order:
                    fits, value = c._apply(o, value)
                    if not fits:
                        break
                if fits:
                    return True
    return False


def linearizable_histories_are_accepted():
    rng = random.Random(SEED)
    for i in range(HISTORIES):
        wrong = c.linearizable(history(rng, length=rng.choice((20, 100, 200)), unknown=rng.choice((0, 0.1, 0.2))))
        assert wrong is None, (i, wrong)
    for i in range(60):
        wrong = c.linearizable(history(rng, length=60, unknown=0.05, counter=True))
        assert wrong is None, (i, wrong)


def stale_read(rng, ops):
    """Turns a read into one of a value that was surely overwritten before it began; None when the history has no place for it."""
    writes = [o for o in ops if o.kind == "w" and o.outcome == OK]
    places = []
    for r in ops:
        if r.kind != "r" or r.outcome != OK:
            continue
        before = [w for w in writes if w.end < r.start]
        for old in before:
            if old.value != r.value and any(old.end < w.start for w in before):
                places.append((r, old.value))
    if not places:
        return None
    read, value = rng.choice(places)
    read.value = value
    return read


def planted_stale_reads_are_all_found():
    rng = random.Random(SEED + 1)
    planted = 0
    while planted < HISTORIES:
        ops = history(rng, length=100)
        if stale_read(rng, ops) is None:
            continue
        planted += 1
        assert c.linearizable(ops), ("not found", planted)
        one(c.check_linearizable(ops), "C2 k")


def a_lost_write_a_lost_increment_and_a_value_from_a_refused_write_are_found():
    w = Op("a", "resp", 0, "w", "k", "x", 0, 1, OK)
    one(c.check_linearizable([w, Op("a", "resp", 0, "r", "k", None, 2, 3, OK)]), "C2")
    one(c.check_linearizable([Op("a", "resp", 0, "w", "k", "x", 0, 1, FAIL), Op("a", "resp", 0, "r", "k", "x", 2, 3, OK)]), "C2")
    one(c.check_linearizable([Op("a", "resp", 0, "incr", "k", 1, 0, 1, OK), Op("b", "resp", 0, "incr", "k", 1, 2, 3, OK)]), "C2")
    # an increment without an answer may have happened once, not twice
    unknown = Op("a", "resp", 0, "incr", "k", None, 0)
    assert not c.check_linearizable([unknown, Op("b", "resp", 0, "incr", "k", 2, 2, 3, OK)])
    one(c.check_linearizable([unknown, Op("b", "resp", 0, "incr", "k", 3, 2, 3, OK)]), "C2")
    # a write without an answer may take effect late, but no read may see it and then lose it again
    unknown = Op("a", "resp", 0, "w", "k", "y", 0)
    late = [w, unknown, Op("b", "resp", 0, "r", "k", "x", 5, 6, OK), Op("b", "resp", 0, "r", "k", "y", 7, 8, OK)]
    assert not c.check_linearizable(late)
    one(c.check_linearizable(late + [Op("b", "resp", 0, "r", "k", "x", 9, 10, OK)]), "C2")


def the_search_agrees_with_brute_force():
    rng = random.Random(SEED + 2)
    verdicts = {True: 0, False: 0}
    for _ in range(1500):
        ops = history(rng, length=6, clients=3, unknown=0.2)
        for o in ops:  # half of them are made wrong, or not, by chance
            if o.kind == "r" and o.outcome == OK and rng.random() < 0.4:
                o.value = rng.choice([None] + [w.value for w in ops if w.kind == "w"])
        want = brute_force([o for o in ops if o.outcome != FAIL])
        assert (c.linearizable(ops) is None) == want, ops
        verdicts[want] += 1
    assert min(verdicts.values()) > 200, verdicts


def too_large_a_search_is_a_problem():
    kept, c.STATES_MAX = c.STATES_MAX, 50
    try:
        assert "undecided" in c.linearizable(history(random.Random(SEED), length=200))
    finally:
        c.STATES_MAX = kept


def stale_reads_go_forward_only():
    written = {"k": ["a", "b", "c"]}
    assert not c.check_stale_reads([("1", "k", None), ("1", "k", "a"), ("2", "k", "c"), ("1", "k", "b"), ("1", "k", "b")], written)
    one(c.check_stale_reads([("1", "k", "b"), ("1", "k", "a")], written), "went back")
    one(c.check_stale_reads([("1", "k", "b"), ("1", "k", None)], written), "went back")
    one(c.check_stale_reads([("1", "k", "z")], written), "nobody wrote")


def acknowledged_writes_must_be_there():
    ops = [Op("a", "resp", 0, "add", "s", i, i, i + 1, OK) for i in range(10)] + [
        Op("a", "resp", 0, "add", "s", 10, 10), Op("a", "resp", 0, "add", "s", 11, 11, 12, FAIL)]
    everything = set(range(10))
    assert not c.check_acknowledged(ops, {"s": everything}, "sets")
    assert not c.check_acknowledged(ops, {"s": everything | {10}}, "sets")
    one(c.check_acknowledged(ops, {"s": everything - {3}}, "sets"), "lost", "3")
    one(c.check_acknowledged(ops, {}, "sets"), "lost")
    one(c.check_acknowledged(ops, {"s": everything | {99}}, "sets"), "nobody wrote 99")
    one(c.check_acknowledged(ops, {"s": everything | {11}}, "sets"), "refused", "11")


def elements_of_lists_come_out_once():
    push = [Op("a", "resp", 0, "push", "l", i, i, i + 1, OK) for i in range(6)]
    pops = [Op("b", "resp", 0, "pop", "l", i, 10 + i, 11 + i, OK) for i in range(3)] + [Op("b", "resp", 0, "pop", "l", None, 20, 21, OK)]
    assert not c.check_list("l", push + pops, [3, 4, 5])
    one(c.check_list("l", push + pops, [3, 4]), "gone", "5")
    assert not c.check_list("l", push + pops + [Op("b", "resp", 0, "pop", "l", None, 30)], [3, 4])
    one(c.check_list("l", push + pops, [2, 3, 4, 5]), "twice", "2")
    one(c.check_list("l", push + pops + [Op("b", "resp", 0, "pop", "l", 2, 30, 31, OK)], [3, 4, 5]), "twice", "2")
    one(c.check_list("l", push + pops, [3, 4, 5, 9]), "nobody pushed 9")
    one(c.check_list("l", push + pops + [Op("a", "resp", 0, "push", "l", 7, 7, 8, FAIL)], [3, 4, 5, 7]), "refused", "7")


# ---- streams, queues -------------------------------------------------------------------------------------------------------------
def stream():
    p = c.StreamPartition("t-0")
    p.idempotent = {"p"}
    for i in range(20):
        v = b"p.%d" % i
        p.sent.add(v)
        p.acked[v] = i
        p.final.append((i, v))
    p.sent.add(b"p.20")
    p.consumers = {"a": list(p.final), "b": p.final[5:15]}
    return p


def every_kind_of_damage_to_a_stream_is_found():
    assert not c.check_stream(stream())

    def damaged(damage):
        p = copy.deepcopy(stream())
        damage(p)
        return c.check_stream(p)

    def shift(p):
        p.final = [(o + (o >= 10), v) for o, v in p.final]
        p.acked = {v: o for o, v in p.final}
        p.consumers = {}

    def swap(p):
        p.final[4], p.final[5] = (4, p.final[5][1]), (5, p.final[4][1])
        p.acked = {v: o for o, v in p.final}
        p.consumers = {}

    def twice(p):
        p.final.append((20, b"p.7"))

    def other(p):
        p.final[19] = (19, b"p.20")

    one(damaged(shift), "not dense")
    one(damaged(swap), "order")
    one(damaged(twice), "twice")
    found = damaged(other)
    assert any("lost" in x for x in found) and any("consumer a saw" in x for x in found), found
    one(damaged(lambda p: p.final.append((20, b"x.0"))), "nobody sent")
    one(damaged(lambda p: p.acked.update({b"p.3": 4})), "found at another")
    one(damaged(lambda p: p.consumers["b"].append((15, b"p.20"))), "consumer b saw")
    one(damaged(lambda p: p.consumers["b"].append((25, b"p.20"))), "consumer b saw")
    one(damaged(lambda p: p.consumers["b"].append((5, b"p.5"))), "consumer b did not go forward")
    # what is not idempotent may come twice
    p = stream()
    p.idempotent = set()
    p.final.append((20, b"p.7"))
    assert not c.check_stream(p)


def queue():
    q = c.QueueLog("q")
    for i in range(20):
        body = b"p.0.%d" % i
        q.sent.add(body)
        q.confirmed.add(body)
        q.deliveries.append((float(i), "c", body, False))
    for i in range(10):
        q.settled[b"p.0.%d" % i] = 30.0
    q.deliveries.append((40.0, "d", b"p.0.15", True))
    return q


def every_kind_of_damage_to_a_queue_is_found():
    assert not c.check_queue(queue())

    def damaged(damage):
        q = queue()
        damage(q)
        return c.check_queue(q)

    one(damaged(lambda q: q.deliveries.pop(12)), "never delivered", "p.0.12")
    one(damaged(lambda q: q.deliveries.append((41.0, "d", b"p.0.3", True))), "settled for good")
    one(damaged(lambda q: q.deliveries.append((41.0, "d", b"p.0.16", False))), "without the redelivered flag")
    one(damaged(lambda q: q.deliveries.append((41.0, "d", b"x.0.1", False))), "nobody published")

    def order(q):
        q.deliveries[11], q.deliveries[12] = (11.0, "c", b"p.0.12", False), (12.0, "c", b"p.0.11", False)

    one(damaged(order), "out of order")

    def another_connection(q):  # a publisher's new connection begins anew
        q.sent.add(b"p.1.0")
        q.deliveries.append((50.0, "c", b"p.1.0", False))

    assert not damaged(another_connection)

    def through_several_nodes(q):  # connections of one name (the minority's publishes) have no order among each other
        for i, connection in enumerate((7, 3, 5)):
            body = b"minority.%d.0" % connection
            q.sent.add(body)
            q.deliveries.append((60.0 + i, "c", body, False))

    assert not damaged(through_several_nodes)


# ---- replicas, leaders, times, crashes -----------------------------------------------------------------------------------------------
def differing_replicas_are_found():
    same = [(n, p, 3, 100, "h%d" % p) for n in (1, 2, 3) for p in range(4)]
    assert not c.check_replicas(same)
    one(c.check_replicas(same[:-1] + [(3, 3, 3, 100, "other")]), "partition 3", "differ")
    one(c.check_replicas(same[:-1] + [(3, 3, 3, 99, "other")]), "partition 3", "did not reach")


def differing_logs_are_found():
    def log(*epochs, start=0, crc=7):
        return [Batch(start + 2 * i, start + 2 * i + 1, e, 100, crc + i) for i, e in enumerate(epochs)]

    def three(name="p-0001/main"):
        return {n: {name: log(1, 1, 2, 2)} for n in ("n1", "n2", "n3")}

    assert not c.check_logs(three())
    logs = three()
    logs["n2"]["p-0001/main"] = log(1, 2, 2, start=2, crc=8)  # retention dropped the first batch: fine
    assert not c.check_logs(logs)
    logs = three()
    logs["n3"]["p-0001/main"][2].epoch = 1
    one(c.check_logs(logs), "differ", "epoch 2", "epoch 1")
    logs = three()
    logs["n3"]["p-0001/main"][1].crc = 0
    one(c.check_logs(logs), "differ")
    logs = three()
    logs["n3"]["p-0001/main"].pop()
    one(c.check_logs(logs), "same end")
    assert not c.check_logs(logs, whole=False)
    logs = three()
    del logs["n2"]["p-0001/main"]
    one(c.check_logs(logs), "same end", "'n2': 0")
    for x in (logs := three()).values():
        x["p-0001/main"][3].epoch = 1
    assert all("falls" in p for p in c.check_logs(logs)) and len(c.check_logs(logs)) == 3
    for x in (logs := three()).values():
        del x["p-0001/main"][1]
    assert all("does not follow" in p for p in c.check_logs(logs)) and len(c.check_logs(logs)) == 3
    logs = three("p-0001/queue/a")
    del logs["n3"]["p-0001/queue/a"][1]  # a segment without live messages is gone
    assert not c.check_logs(logs)
    logs["n3"]["p-0001/queue/a"][1].crc = 0
    one(c.check_logs(logs), "differ")


def two_leaders_of_an_epoch_are_found():
    line = 'ts=1 level=info msg="leads" partition=%d epoch=%d end=5'
    opened = c.leaderships("n1", [line % (7, 1), line % (7, 3), "msg=ready"]) + c.leaderships("n2", [line % (7, 2), line % (8, 3)])
    assert opened == [("n1", 7, 1), ("n1", 7, 3), ("n2", 7, 2), ("n2", 8, 3)], opened
    assert not c.check_one_leader(opened)
    one(c.check_one_leader(opened + c.leaderships("n2", [line % (7, 3)])), "partition 7", "n1", "n2", "epoch 3")


def recovery_counts_the_slowest_lane():
    ops = [Op("a", "resp", lane, "w", "k", 0, t / 10, t / 10 + 0.05, OK) for lane in (0, 1) for t in range(100) if lane == 0 or not 20 <= t < 35]
    ops += [Op("a", "resp", 1, "w", "k", 0, 2.5, 2.6, FAIL), Op("a", "resp", 1, "r", "k", 0, 2.5, 2.6, OK)]
    assert abs(c.recovery(ops, 2.0)["resp"] - 1.55) < 0.001
    assert not c.check_recovery(ops, 2.0, 2.5, "kill")
    one(c.check_recovery(ops, 2.0, 1.0, "kill"), "1.55")
    dead = [Op("a", "amqp", 0, "w", "k", 0, 1.0, 1.1, OK), Op("a", "amqp", 0, "w", "k", 0, 3.0)]
    one(c.check_recovery(dead, 2.0, 2.5, "kill"), "amqp", "inf")


def crashes_and_leaks_are_found():
    assert not c.check_lines("n1", ['level=info msg="ready"'])
    for line in ("==1==ERROR: AddressSanitizer: heap-use-after-free", "x.c:3:5: runtime error: signed integer overflow",
                 "gomsgd: src/log/log.c:17: log_append: assertion failed: a == b", "double free or corruption"):
        one(c.check_lines("n1", [line]), "C8")
    assert not c.check_deaths([("n1", -9, True)])
    one(c.check_deaths([("n1", -6, False)]), "-6")
    base = {"n1": (50, 30 << 20)}
    assert not c.check_resources(base, {"n1": (60, 100 << 20)})
    one(c.check_resources(base, {"n1": (500, 30 << 20)}), "open sockets")
    one(c.check_resources(base, {"n1": (50, 900 << 20)}), "resident")


if __name__ == "__main__":
    run_tests([linearizable_histories_are_accepted, planted_stale_reads_are_all_found,
               a_lost_write_a_lost_increment_and_a_value_from_a_refused_write_are_found, the_search_agrees_with_brute_force,
               too_large_a_search_is_a_problem, stale_reads_go_forward_only, acknowledged_writes_must_be_there, elements_of_lists_come_out_once,
               every_kind_of_damage_to_a_stream_is_found, every_kind_of_damage_to_a_queue_is_found, differing_replicas_are_found, differing_logs_are_found,
               two_leaders_of_an_epoch_are_found, recovery_counts_the_slowest_lane, crashes_and_leaks_are_found])
