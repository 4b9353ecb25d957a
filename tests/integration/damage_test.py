"""What a disk does: torn tails, flips on either side of the sync mark, foreign batches behind the tail, a full disk; and kills between any two appends of a
command over several partitions."""
import glob
import os
import random
import subprocess
import sys
import time

from node import SHORT, Node, eventually, run_tests
from wire import Amqp, AmqpClosed, Kafka, Resp, RespError, batch

KEYS = ["k:%d" % i for i in range(12)]


def segments(node, kind):
    """Segment files of main logs, queue logs or topic logs, largest first."""
    pattern = {"main": "p-*/main/*.log", "queue": "p-*/queue/*/*.log", "topic": "p-*/topic/*/*.log"}[kind]
    files = glob.glob(os.path.join(node.data, pattern))
    return sorted(files, key=os.path.getsize, reverse=True)


def tail_of(path):
    """Where the written batches of a segment end: what follows is zeros or the end of the file."""
    import struct
    with open(path, "rb") as f:
        data = f.read()
    at = 0
    last = 0
    while at + 61 <= len(data):
        (length,) = struct.unpack(">i", data[at + 8:at + 12])
        if data[at + 16] != 2 or length <= 0 or at + 12 + length > len(data):
            break
        last = at
        at += 12 + length
    return last, at


def kills_between_appends_of_one_command():
    """MSET and EXEC over several partitions, killed after the first, second, … append: all of it or nothing."""
    for n in range(1, 6 if SHORT else 13):
        for command in ("MSET", "EXEC"):
            with Node() as node:
                node.start()
                c = Resp(node.ports["resp"])
                c.call("MSET", *[x for k in KEYS for x in (k, "old")])
                node.kill()
                node.start(env={"GOMSG_FAILPOINT": "mappend:%d:kill" % n})
                c = Resp(node.ports["resp"])
                try:
                    if command == "MSET":
                        c.call("MSET", *[x for k in KEYS for x in (k, "new")])
                    else:
                        c.pipeline([("MULTI",)] + [("SET", k, "new") for k in KEYS] + [("EXEC",)])
                    answered = True
                except (OSError, EOFError):
                    answered = False
                if answered:
                    node.kill()
                else:
                    assert node.wait() == -9
                node.start()
                values = set(Resp(node.ports["resp"]).call("MGET", *KEYS))
                assert len(values) == 1, (n, command, values)
                if answered:
                    assert values == {b"new"}, (n, command)
                # and again: what was decided stays decided
                node.kill()
                node.start()
                assert set(Resp(node.ports["resp"]).call("MGET", *KEYS)) == values


def a_torn_tail_is_cut():
    """Half a batch at the end of each kind of log: everything before it is there."""
    with Node("--log.fsync=never") as node:
        node.start()
        fill(node)
        node.kill()
        for kind in ("main", "queue", "topic"):
            path = segments(node, kind)[0]
            last, end = tail_of(path)
            with open(path, "r+b") as f:
                f.seek(last)
                data = f.read(end - last)
                f.truncate(end)
                f.seek(end)
                f.write(data[:max(20, len(data) // 2)])  # the begin of a copy: what a torn write leaves
        node.start()
        check(node)


def fill(node, count=200):
    c = Resp(node.ports["resp"])
    c.pipeline([("SET", "key:%d" % i, "value:%d" % i) for i in range(count)])
    k = Kafka(node.ports["kafka"])
    assert k.create_topic("t", 1) == 0
    for i in range(20):
        assert k.produce("t", 0, batch([b"r%d" % i]))[0] == 0
    a = Amqp(node.ports["amqp"])
    a.declare("q")
    a.confirm_select()
    for i in range(20):
        a.publish("q", b"m%d" % i)
    got = 0
    while got < 20:
        _, tag, multiple = a.confirmed()
        got = tag if multiple else got + 1


def check(node, count=200):
    c = Resp(node.ports["resp"])
    assert c.pipeline([("GET", "key:%d" % i) for i in range(count)]) == [b"value:%d" % i for i in range(count)]
    assert [v for _, v in Kafka(node.ports["kafka"]).read_all("t", 0)] == [b"r%d" % i for i in range(20)]
    a = Amqp(node.ports["amqp"])
    assert [a.get("q", no_ack=False)[3] for _ in range(20)] == [b"m%d" % i for i in range(20)]
    assert a.get("q") is None


def foreign_batches_behind_the_tail_are_not_taken():
    """Whole, valid batches of the same size from earlier in the log behind its end: their offsets do not fit."""
    with Node("--log.fsync=never") as node:
        node.start()
        fill(node)
        node.kill()
        for kind in ("main", "queue", "topic"):
            path = segments(node, kind)[0]
            _, end = tail_of(path)
            import struct
            with open(path, "r+b") as f:
                head = f.read(12)
                size = 12 + struct.unpack(">i", head[8:])[0]
                f.seek(0)
                first = f.read(size)
                f.truncate(end)
                f.seek(end)
                f.write(first)
        node.start()
        check(node)


def a_flip_below_the_mark_stops_that_partition_only():
    with Node("--log.fsync_interval=50ms") as node:
        node.start()
        fill(node)
        time.sleep(0.5)  # several sync rounds: all of it is below the mark
        node.kill()
        path = segments(node, "main")[0]
        with open(path, "r+b") as f:
            f.seek(100)
            b = f.read(1)
            f.seek(100)
            f.write(bytes([b[0] ^ 0x10]))
        index = int(path.split("p-")[1][:4])
        node.start()
        c = Resp(node.ports["resp"])
        good = bad = 0
        for i in range(200):
            try:
                assert c.call("GET", "key:%d" % i) == b"value:%d" % i
                good += 1
            except RespError as e:
                assert "corrupt" in str(e).lower(), e
                bad += 1
        assert good > 0 and bad > 0, (good, bad)
        assert "partition=%d" % index in node.log() or "p-%04d" % index in node.log(), "the diagnostics say which"
        answer = c.call("GOMSG", "partitions")
        assert b'"failed"' in answer
        # and it is not "repaired" by another start
        node.kill()
        node.start()
        failed = 0
        c = Resp(node.ports["resp"])
        for i in range(200):
            try:
                c.call("GET", "key:%d" % i)
            except RespError:
                failed += 1
        assert failed == bad


def a_flip_above_the_mark_is_a_torn_tail():
    with Node("--log.fsync=never") as node:
        node.start()
        c = Resp(node.ports["resp"])
        for i in range(50):
            c.call("SET", "{one}:%d" % i, "v")
        node.kill()
        path = segments(node, "main")[0]
        last, end = tail_of(path)
        with open(path, "r+b") as f:
            f.seek(last + 70)
            b = f.read(1)
            f.seek(last + 70)
            f.write(bytes([b[0] ^ 1]))
        node.start()
        c = Resp(node.ports["resp"])
        values = c.pipeline([("GET", "{one}:%d" % i) for i in range(50)])
        assert values[:49] == [b"v"] * 49 and values[49] is None, values.count(b"v")


def snapshots_at_random_moments_agree_with_replay():
    rng = random.Random(11)
    with Node() as node:
        node.start()
        c = Resp(node.ports["resp"])
        ctl = Resp(node.ports["resp"])
        for round_ in range(3 if SHORT else 5):
            for _ in range(20):
                commands = []
                for _ in range(200):
                    k = "k%d" % rng.randrange(300)
                    commands.append(rng.choice([("SET", "s" + k, rng.random()), ("DEL", "s" + k), ("INCR", "i" + k), ("HSET", "h" + k, rng.randrange(50), rng.random()),
                                                ("HDEL", "h" + k, rng.randrange(50)), ("RPUSH", "l" + k, rng.random()), ("LPOP", "l" + k), ("LPUSH", "l" + k, 1),
                                                ("SADD", "e" + k, rng.randrange(100)), ("SREM", "e" + k, rng.randrange(100)), ("EXPIRE", "s" + k, 10000)]))
                c.send(b"".join(c.encode(*x) for x in commands))
                if rng.random() < 0.1:
                    ctl.send(ctl.encode("GOMSG", "snapshot"))
                    for _ in commands:
                        c.reply()
                    ctl.reply()
                else:
                    for _ in commands:
                        c.reply()
            want = dump(c)
            node.kill()
            node.start()
            c, ctl = Resp(node.ports["resp"]), Resp(node.ports["resp"])
            got = dump(c)
            assert got == want, [(k, want.get(k), got.get(k)) for k in set(want) | set(got) if want.get(k) != got.get(k)][:3]


def dump(c):
    out, cursor = {}, b"0"
    while True:
        cursor, keys = c.call("SCAN", cursor, "COUNT", 1000)
        for k in keys:
            read = {"s": ("GET", k), "i": ("GET", k), "h": ("HGETALL", k), "l": ("LRANGE", k, 0, -1), "e": ("SMEMBERS", k)}[chr(k[0])]
            value = c.call(*read)
            if chr(k[0]) == "h":
                value = dict(zip(value[::2], value[1::2]))
            if chr(k[0]) == "e":
                value = set(value)
            out[k] = value, c.call("TTL", k) > 0
        if cursor == b"0":
            return out


def a_full_disk_refuses_growth_and_serves_the_rest():
    """On a small tmpfs, in a mount namespace of its own."""
    if os.environ.get("GOMSG_IN_NAMESPACE") is None:
        env = dict(os.environ, GOMSG_IN_NAMESPACE="1")
        unshare = ["unshare", "-m" if os.getuid() == 0 else "-rm"]
        if subprocess.run(unshare + ["true"], capture_output=True).returncode != 0:
            print("skipped: no mount namespace can be made here (a chroot, or a kernel without user namespaces), so there is no small disk to fill")
            return
        r = subprocess.run(unshare + [sys.executable, os.path.abspath(__file__), "a_full_disk_refuses_growth_and_serves_the_rest"], env=env,
                           capture_output=True, text=True, timeout=300)
        assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
        return
    import tempfile
    root = tempfile.mkdtemp(prefix="gomsg-it-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", root], check=True)
    with Node("--log.segment_bytes=1MiB", "--log.disk_reserve=16MiB", data=root) as node:
        node.start()
        c, k, a = Resp(node.ports["resp"]), Kafka(node.ports["kafka"]), Amqp(node.ports["amqp"])
        assert k.create_topic("t", 1) == 0
        a.declare("q")
        a.confirm_select()
        for i in range(20):
            a.publish("q", b"m%d" % i)
        c.call("SET", "small", "v")
        c.call("RPUSH", "list", *range(100))
        value = b"x" * 100000
        refused = None
        for i in range(2000):
            try:
                c.call("SET", "fill:%d" % i, value)
            except RespError as e:
                refused = str(e)
                break
        assert refused and ("No space" in refused or "disk" in refused.lower()), refused
        print(refused)
        # reads, deletes, pops, acknowledgements and purges go on
        assert c.call("GET", "small") == b"v"
        assert c.call("DEL", "fill:0") == 1
        assert c.call("LPOP", "list") == b"0"
        a2 = Amqp(node.ports["amqp"])
        tag, _, _, body = a2.get("q")
        a2.ack(tag)
        a2.sync()
        assert a2.purge("q") >= 1
        error, _ = k.produce("t", 0, batch([value]))
        assert error != 0, "the record was refused"
        assert k.fetch("t", 0, 0)[0] == 0
        acked = {i for i in range(2000) if c.call("EXISTS", "fill:%d" % i)}
        node.kill()
        node.start()
        c = Resp(node.ports["resp"])
        assert c.call("GET", "small") == b"v" and c.call("EXISTS", "fill:0") == 0 and c.call("LRANGE", "list", 0, 0) == [b"1"]
        assert acked == {i for i in range(2000) if c.call("EXISTS", "fill:%d" % i)}


if __name__ == "__main__":
    run_tests([kills_between_appends_of_one_command, a_torn_tail_is_cut, foreign_batches_behind_the_tail_are_not_taken,
               a_flip_below_the_mark_stops_that_partition_only, a_flip_above_the_mark_is_a_torn_tail, snapshots_at_random_moments_agree_with_replay,
               a_full_disk_refuses_growth_and_serves_the_rest])
