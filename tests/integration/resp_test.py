"""RESP under concurrency: many clients at once on several workers, with the invariants that would show a lost, doubled or reordered effect; at every
level of acknowledgement."""
import random
import socket
import threading
import time

from node import SHORT, Node, run_tests
from wire import Resp, RespError

SECONDS = 2 if SHORT else 5
QUEUES = ["queue:%d" % i for i in range(6)]


class Crowd:
    """Threads that run until a moment and collect what went wrong."""

    def __init__(self, port):
        self.port = port
        self.until = time.monotonic() + SECONDS
        self.lock = threading.Lock()
        self.sums, self.failures, self.threads, self.seen = {}, [], [], []

    def going(self, extra=0.0):
        return time.monotonic() < self.until + extra and not self.failures

    def add(self, what, n):
        with self.lock:
            self.sums[what] = self.sums.get(what, 0) + n

    def fail(self, text):
        with self.lock:
            self.failures.append(text)

    def start(self, fn, *args):
        def run():
            try:
                fn(self, Resp(self.port), *args)
            except Exception as e:  # pylint: disable=broad-except
                self.fail("%s: %r" % (fn.__name__, e))
        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def finish(self):
        for t in self.threads:
            t.join()
        assert not self.failures, self.failures[:5]


def count_up(crowd, c):
    n = 0
    while crowd.going():
        commands = [("INCR", "counter:%d" % random.randrange(40)) for _ in range(50)]
        assert all(isinstance(r, int) for r in c.pipeline(commands))
        n += len(commands)
    crowd.add("counted", n)


def compare_and_set(crowd, c):
    """Two keys of different partitions that are always changed together."""
    n = 0
    while crowd.going():
        c.call("WATCH", "cas:a", "cas:b")
        a, b = int(c.call("GET", "cas:a") or 0), int(c.call("GET", "cas:b") or 0)
        c.pipeline([("MULTI",), ("SET", "cas:a", a + 1), ("SET", "cas:b", b + 1)])
        done = c.call("EXEC")
        if done is not None:
            assert a == b, (a, b)
            n += 1
    crowd.add("swapped", n)


def write_together(crowd, c):
    keys = ["together:%d" % i for i in range(20)]
    while crowd.going():
        value = "%d" % random.getrandbits(60)
        c.call("MSET", *[x for k in keys for x in (k, value)])
        assert len(set(c.call("MGET", *keys))) == 1
        assert c.pipeline([("MULTI",), ("MGET", *keys)])[1] == b"QUEUED"
        assert len(set(c.call("EXEC")[0])) == 1


def produce(crowd, c, who):
    n = 0
    while crowd.going(-0.5):
        c.call("RPUSH", random.choice(QUEUES), "%d-%d" % (who, n))
        n += 1
    crowd.add("pushed", n)


def consume(crowd, c):
    mine = []
    while crowd.going(1):
        got = c.call("BLPOP", *random.sample(QUEUES, 3), random.choice(["0.05", "0.2"]))
        if got is not None:
            mine.append(got[1])
    with crowd.lock:
        crowd.seen += mine


def publish(crowd, c):
    n = 0
    while crowd.going(-0.5):
        c.call("PUBLISH", "channel:%d" % (n % 3), n)
        n += 1


def listen(crowd, c):
    last, n = {}, 0
    c.send(c.encode("SUBSCRIBE", "channel:0", "channel:1") + c.encode("PSUBSCRIBE", "channel:*"))
    c.sock.settimeout(0.2)
    while crowd.going():
        try:
            m = c.reply()
        except socket.timeout:
            continue
        if m[0] in (b"message", b"pmessage"):
            key, value = (m[0], m[-2]), int(m[-1])
            assert last.get(key, -1) < value, (key, last[key], value)
            last[key] = value
            n += 1
    crowd.add("heard", n)


def come_and_go(crowd, _):
    what = [b"BLPOP none1 none2 none3 0\r\n", b"WATCH cas:a cas:b C D\r\nMULTI\r\nSET never 1\r\n",
            b"SUBSCRIBE a b channel:0\r\nPSUBSCRIBE *\r\n", b"CLIENT LIST\r\nKEYS *\r\nSCAN 0 COUNT 1000\r\nINFO all\r\nDBSIZE\r\n",
            b"*3\r\n$3\r\nSET\r\n$5\r\nnever\r\n$100000\r\nabc", b"BLPOP " + QUEUES[0].encode() + b"x 0\r\nPING\r\n"]
    while crowd.going():
        s = socket.create_connection(("127.0.0.1", crowd.port))
        s.sendall(random.choice(what))
        time.sleep(random.random() * 0.02)
        s.close()


def flush_another_database(crowd, c):
    c.call("SELECT", 1)
    while crowd.going():
        c.call("MSET", *[x for i in range(100) for x in ("k%d" % i, i)])
        c.call("FLUSHDB")
        assert c.call("DBSIZE") == 0
        time.sleep(0.01)


def crowd_of_clients(*args):
    with Node("--node.threads=3", *args) as node:
        node.start()
        crowd = Crowd(node.ports["resp"])
        for fn in (count_up, count_up, compare_and_set, compare_and_set, write_together, write_together, consume, consume, consume,
                   publish, listen, listen, come_and_go, flush_another_database):
            crowd.start(fn)
        for i in range(2):
            crowd.start(produce, i)
        crowd.finish()

        def check(c):
            total = sum(int(c.call("GET", "counter:%d" % i) or 0) for i in range(40))
            assert total == crowd.sums["counted"], (total, crowd.sums)
            assert int(c.call("GET", "cas:a")) == int(c.call("GET", "cas:b")) == crowd.sums["swapped"]
            left = [x for q in QUEUES for x in c.call("LRANGE", q, 0, -1)]
            everything = crowd.seen + left
            assert len(set(everything)) == len(everything) == crowd.sums["pushed"], (len(everything), crowd.sums)
            assert c.call("EXISTS", "never") == 0

        c = Resp(node.ports["resp"])
        check(c)
        assert crowd.sums["counted"] > 0 and crowd.sums["swapped"] > 0 and crowd.sums["heard"] > 0 and crowd.seen
        print(" ".join("%s %d" % kv for kv in sorted(crowd.sums.items())))
        # Nobody waits any more, and nothing of those who went is left behind.
        assert b"blocked_clients:0" in c.call("INFO", "clients")
        assert c.call("PUBSUB", "NUMPAT") == 0 and c.call("PUBSUB", "CHANNELS") == []
        node.kill()
        node.start()
        if "--log.fsync=never" not in args:
            check(Resp(node.ports["resp"]))


def many_clients_at_level_leader():
    crowd_of_clients()


def many_clients_at_level_quorum():
    crowd_of_clients("--kv.ack=quorum")


def many_clients_with_a_sync_before_every_answer():
    crowd_of_clients("--log.fsync=always")


def a_blocked_client_is_served_in_order_and_across_workers():
    with Node("--node.threads=3") as node:
        node.start()
        port = node.ports["resp"]
        waiters = [Resp(port) for _ in range(9)]
        pusher = Resp(port)
        for i, w in enumerate(waiters):
            w.send(w.encode("BLPOP", "first", "second", 0))
            while b"blocked_clients:%d\r\n" % (i + 1) not in pusher.call("INFO", "clients"):
                time.sleep(0.001)
        pusher.call("RPUSH", "second", *range(9))
        assert [int(w.reply()[1]) for w in waiters] == list(range(9))
        assert pusher.call("EXISTS", "first", "second") == 0
        # What was sent behind the blocking command runs after it; the connection is whole.
        w = waiters[0]
        w.send(w.encode("BLPOP", "first", 0) + w.encode("PING"))
        pusher.call("LPUSH", "first", "x")
        assert w.reply() == [b"first", b"x"] and w.reply() == b"PONG"
        # CLIENT UNBLOCK reaches a client of another worker, once.
        ids = [w.call("CLIENT", "ID") for w in waiters]
        for w in waiters:
            w.send(w.encode("BRPOP", "first", 0))
        while b"blocked_clients:9\r\n" not in pusher.call("INFO", "clients"):
            time.sleep(0.001)
        assert [pusher.call("CLIENT", "UNBLOCK", i) for i in ids] == [1] * 9
        assert [w.reply() for w in waiters] == [None] * 9
        assert pusher.call("CLIENT", "UNBLOCK", ids[0], "ERROR") == 0
        assert pusher.call("CLIENT", "KILL", "SKIPME", "yes") == 9
        assert all(w.at_end() for w in waiters)


def very_many_keys_cost_in_proportion():
    keys = ["k%d" % i for i in range(100000)]
    with Node("--node.threads=2") as node:
        node.start()
        waiter, pusher = Resp(node.ports["resp"]), Resp(node.ports["resp"])
        begun = time.monotonic()
        assert waiter.call("BLPOP", *keys, "0.1") is None
        waiter.send(waiter.encode("BLPOP", *keys, 0))
        while b"blocked_clients:1\r\n" not in pusher.call("INFO", "clients"):
            time.sleep(0.01)
        pusher.call("RPUSH", "k77777", "x")
        assert waiter.reply() == [b"k77777", b"x"]
        waiter.call("WATCH", *keys)
        pusher.call("SET", "k99999", 1)
        assert waiter.pipeline([("MULTI",), ("PING",), ("EXEC",)])[2] is None
        assert time.monotonic() - begun < 20, time.monotonic() - begun


def a_transaction_that_fails_to_queue_runs_nothing():
    with Node() as node:
        node.start()
        c = Resp(node.ports["resp"])
        c.call("MULTI")
        assert c.call("SET", "a", 1) == b"QUEUED"
        for bad in (("NOSUCH",), ("GET",)):
            try:
                c.call(*bad)
                raise AssertionError("%r was queued" % (bad,))
            except RespError:
                pass
        try:
            c.call("EXEC")
            raise AssertionError("EXEC ran")
        except RespError as e:
            assert str(e) == "EXECABORT Transaction discarded because of previous errors.", e
        assert c.call("EXISTS", "a") == 0


def a_pipeline_answers_each_command_in_its_place():
    """Commands of one partition run under one acquisition: what is refused among them, or fails, is answered where it stands, and
    the rest runs."""
    with Node("--node.threads=2") as node:
        node.start()
        c = Resp(node.ports["resp"])
        c.call("SET", "{t}a", "1")
        c.call("LPUSH", "{t}list", "x")

        def told(replies):
            return [str(r).split(" ")[0] if isinstance(r, RespError) else r for r in replies]
        mixed = [("GET", "{t}a"), ("INCR", "{t}a"), ("GET", "{t}list"), ("NOSUCH", "{t}a"), ("GET", "{t}a", "b"), ("get", "{t}a"),
                 ("PING",), ("GET", "other"), ("INCR", "{t}list"), ("MGET", "{t}a", "other"), ("GET", "{t}a")]
        assert told(c.pipeline(mixed)) == [b"1", 2, "WRONGTYPE", "ERR", "ERR", b"2", b"PONG", None, "WRONGTYPE", [b"2", None], b"2"]
        # Behind the limit of memory writes are refused and reads are not, also between each other.
        c.call("CONFIG", "SET", "maxmemory", 1)
        while not isinstance(c.pipeline([("SET", "{t}b", 1)])[0], RespError):
            time.sleep(0.01)
        c.call("DEL", "{t}b")
        refused = [("GET", "{t}a"), ("SET", "{t}b", 1), ("SET", "{t}b", 2), ("GET", "{t}b"), ("DEL", "{t}list"), ("INCR", "{t}a"), ("GET", "{t}a"),
                   ("SET", "other", 1), ("GET", "other"), ("GET", "{t}list")]
        assert told(c.pipeline(refused * 5)) == ([b"2", "OOM", "OOM", None, 1, "OOM", b"2", "OOM", None, None] +
                                                 [b"2", "OOM", "OOM", None, 0, "OOM", b"2", "OOM", None, None] * 4)
        c.call("CONFIG", "SET", "maxmemory", 0)
        while isinstance(c.pipeline([("SET", "{t}b", 1)])[0], RespError):
            time.sleep(0.01)
        # Who ends the connection in the middle is answered so far; nothing behind that runs.
        assert c.pipeline([("SET", "{t}c", 1), ("QUIT",)]) == [b"OK", b"OK"] and c.at_end()
        c = Resp(node.ports["resp"])
        c.send(b"".join(c.encode(*x) for x in (("INCR", "{t}c"), ("QUIT",), ("INCR", "{t}c"), ("INCR", "{t}c"))))
        assert c.reply() == 2 and c.reply() == b"OK" and c.at_end()
        assert Resp(node.ports["resp"]).call("GET", "{t}c") == b"2"


def every_command_may_stand_in_a_transaction():
    """Nothing of the table ends the server or the connection when it is queued and run with plain arguments."""
    with Node("--node.threads=2") as node:
        node.start()
        c = Resp(node.ports["resp"])
        names = []
        for row in c.call("COMMAND"):
            names += [sub[0].decode().split("|") + [sub[1]] for sub in row[9]] or [[row[0].decode(), row[1]]]
        assert len(names) > 100
        for *name, arity in names:
            if name[0] in ("quit", "reset", "multi", "exec", "discard", "watch", "subscribe", "ssubscribe", "psubscribe", "hello"):
                continue
            for args in ("1", "key", "0"):
                command = name + [args] * (abs(arity) - len(name))
                before = c.call("PING")
                replies = c.pipeline([("MULTI",), command, ("EXEC",)])
                assert before == b"PONG" and replies[0] == b"OK", (command, replies)
                if name[0] in ("unsubscribe", "punsubscribe", "sunsubscribe"):
                    continue
                assert isinstance(replies[2], (list, RespError)), (command, replies)
                assert c.call("PING") == b"PONG", command
        c.call("MULTI")
        for command in (("INFO",), ("DBSIZE",), ("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",), ("FLUSHALL",), ("INFO", "keyspace")):
            assert c.call(*command) == b"QUEUED", command
        assert len(c.call("EXEC")) == 7


def fill(c, prefix, n):
    for first in range(0, n, 500):
        c.call("MSET", *[x for i in range(first, first + 500) for x in ("%s%d" % (prefix, i), i)])


def add_and_remove(crowd, c):
    """Lets the tables grow and shrink: more keys come and go than are there for good."""
    while crowd.going():
        for first in range(0, 40000, 500):
            c.call("MSET", *[x for i in range(first, first + 500) for x in ("passing:%d" % i, i)])
        for first in range(0, 40000, 500):
            c.call("DEL", *["passing:%d" % i for i in range(first, first + 500)])


def list_keys(crowd, c, stable):
    while crowd.going():
        got = c.call("KEYS", "*")
        unique = set(got)
        assert len(unique) == len(got), "a key came twice"
        assert stable <= unique, "%d keys were missing" % len(stable - unique)
        assert all(k in stable or k.startswith(b"passing:") for k in unique)
        crowd.add("listed", 1)


def keys_goes_in_slices_and_is_exact():
    n = 60000
    for options in (["--node.threads=1"], ["--node.threads=2", "--kv.ack=quorum"]):
        with Node(*options) as node:
            node.start()
            port = node.ports["resp"]
            c = Resp(port)
            fill(c, "stable:", n)
            stable = {b"stable:%d" % i for i in range(n)}
            c.call("CONFIG", "SET", "slowlog-log-slower-than", 0)
            c.call("SLOWLOG", "RESET")
            before = node.metric("gomsg_worker_turns_total")
            assert set(c.call("KEYS", "*")) == stable
            # A slice is 2,048 keys at most, and others have their turn between two.
            assert node.metric("gomsg_worker_turns_total") - before >= n // 2048
            assert [b"KEYS", b"*"] in [row[3] for row in c.call("SLOWLOG", "GET", -1)]
            assert set(c.call("KEYS", "stable:12?4*")) == {k for k in stable if k.startswith(b"stable:12") and k[10:11] == b"4"}
            assert c.pipeline([("KEYS", "*"), ("PING",), ("KEYS", "none"), ("PING",)])[1:] == [b"PONG", [], b"PONG"]
            crowd = Crowd(port)
            crowd.start(add_and_remove)
            for _ in range(2):
                crowd.start(list_keys, stable)
            crowd.finish()
            assert crowd.sums["listed"] > 0
            # Who leaves without waiting costs nothing but that; who says that nothing more comes still reads the reply.
            for _ in range(20):
                gone = Resp(port)
                gone.send(gone.encode("KEYS", "*"))
                gone.sock.close()
            # CLIENT REPLY leaves its reply out, too, short or long.
            for pattern in ("*", "none"):
                c.send(c.encode("CLIENT", "REPLY", "SKIP") + c.encode("KEYS", pattern) + c.encode("PING"))
                assert c.reply() == b"PONG"
                c.send(c.encode("CLIENT", "REPLY", "OFF") + c.encode("KEYS", pattern) + c.encode("CLIENT", "REPLY", "ON") + c.encode("PING"))
                assert c.reply() == b"OK" and c.reply() == b"PONG"
            half = Resp(port)
            half.send(half.encode("KEYS", "stable:*"))
            half.sock.shutdown(socket.SHUT_WR)
            assert len(half.reply()) == n and half.at_end()
            assert c.call("PING") == b"PONG"


if __name__ == "__main__":
    run_tests([many_clients_at_level_leader, many_clients_at_level_quorum, many_clients_with_a_sync_before_every_answer,
               a_blocked_client_is_served_in_order_and_across_workers, very_many_keys_cost_in_proportion,
               a_transaction_that_fails_to_queue_runs_nothing, keys_goes_in_slices_and_is_exact,
               every_command_may_stand_in_a_transaction, a_pipeline_answers_each_command_in_its_place])
