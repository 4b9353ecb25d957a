"""kcat, unchanged, against the server: metadata, producing with every level and codec, consuming, consumer groups."""
import json
import os
import signal
import subprocess
import tempfile
import time

from compat import command, contains, main, same, test, unique, until

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def kcat(t, *args, stdin=None, check=True, timeout=90):
    return command(["kcat", "-b", "%s:%d" % (t.host, t.port)] + list(args), stdin=stdin, check=check, timeout=timeout)


def produce(t, topic, lines, *args, partition=0):
    if isinstance(lines, (list, tuple)):
        lines = "".join("%s\n" % x for x in lines)
    return kcat(t, "-P", "-t", topic, "-p", str(partition), *args, stdin=lines)


def consume(t, topic, *args, partition=0, offset="beginning"):
    return kcat(t, "-C", "-q", "-e", "-t", topic, "-p", str(partition), "-o", str(offset), *args).decode()


def metadata(t, *args):
    return json.loads(kcat(t, "-L", "-J", *args))


class Running:
    """A kcat that goes on; its output is read from a file as it comes."""

    def __init__(self, t, *args):
        self.out = tempfile.NamedTemporaryFile()
        self.err = tempfile.NamedTemporaryFile()
        self.process = subprocess.Popen(["kcat", "-b", "%s:%d" % (t.host, t.port), "-u"] + list(args), stdout=self.out,
                                        stderr=self.err, stdin=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(signal.SIGKILL)
        self.out.close()
        self.err.close()

    def lines(self):
        with open(self.out.name, encoding="utf-8") as f:
            return f.read().splitlines()

    def errors(self):
        with open(self.err.name, encoding="utf-8") as f:
            return f.read()

    def stop(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


# ---- metadata ---------------------------------------------------------------

@test
def lists_the_broker(t):
    m = metadata(t)
    same(len(m["brokers"]), 1)
    host, _, port = m["brokers"][0]["name"].rpartition(":")
    same((host, int(port)), (t.host, t.port))
    same(m["controllerid"], m["brokers"][0]["id"])


@test
def topic_appears_with_the_first_message(t):
    topic = unique("auto")
    produce(t, topic, ["x"])
    found = metadata(t, "-t", topic)["topics"]
    same(len(found), 1)
    same(found[0]["topic"], topic)
    partitions = sorted(p["partition"] for p in found[0]["partitions"])
    same(partitions, [0, 1, 2, 3])
    for p in found[0]["partitions"]:
        same(len(p["replicas"]), 1)
        same(p["leader"], p["replicas"][0]["id"])
    assert topic in [x["topic"] for x in metadata(t)["topics"]]


@test
def bad_topic_names_are_refused(t):
    for name in ("with space", "a/b", "x" * 250):
        done = kcat(t, "-P", "-t", name, "-X", "message.timeout.ms=5000", stdin="x\n", check=False)
        assert done.returncode != 0, name


# ---- producing and consuming ------------------------------------------------

def ack_levels(t, acks):
    topic = unique("acks")
    for codec in CODECS:
        lines = ["%s %d" % (codec, i) for i in range(200)]
        produce(t, topic, lines, "-X", "acks=%s" % acks, "-z", codec)
        if acks == "0":
            until("all of %s arrived" % codec, lambda want=lines: consume(t, topic).splitlines()[-200:] == want, 15)
        else:
            same(consume(t, topic).splitlines()[-200:] == lines, True, codec)
    same(len(consume(t, topic).splitlines()), 1000)


@test
def acks_none_every_codec(t):
    ack_levels(t, "0")


@test
def acks_leader_every_codec(t):
    ack_levels(t, "1")


@test
def acks_all_every_codec(t):
    ack_levels(t, "all")


@test
def idempotent_producer(t):
    topic = unique("idem")
    for codec in CODECS:
        lines = ["%s %d" % (codec, i) for i in range(500)]
        produce(t, topic, lines, "-X", "enable.idempotence=true", "-X", "linger.ms=1", "-X", "batch.num.messages=20", "-z", codec)
        same(consume(t, topic).splitlines()[-500:] == lines, True, codec)
    same(len(consume(t, topic).splitlines()), 2500)


@test
def keys_headers_and_offsets(t):
    topic = unique("keys")
    produce(t, topic, ["k1:v1", "k2:v2", ":empty key", "k4:"], "-K", ":", "-H", "h=one", "-H", "other=two", "-H", "h=again")
    got = consume(t, topic, "-f", "%p|%o|%K|%k|%S|%s|%h\\n").splitlines()
    headers = "h=one,other=two,h=again"
    same(got, ["0|0|2|k1|2|v1|" + headers, "0|1|2|k2|2|v2|" + headers, "0|2|0||9|empty key|" + headers, "0|3|2|k4|0||" + headers])


@test
def null_values_stay_null(t):
    topic = unique("null")
    produce(t, topic, ["gone:", "here:x"], "-K", ":", "-Z")
    got = [json.loads(x) for x in consume(t, topic, "-J").splitlines()]
    same([(m["key"], m["payload"]) for m in got], [("gone", None), ("here", "x")])


@test
def timestamps_are_the_producers(t):
    topic = unique("time")
    before = int(time.time() * 1000)
    produce(t, topic, ["x"])
    after = int(time.time() * 1000)
    m = json.loads(consume(t, topic, "-J"))
    same(m["tstype"], "create")
    assert before <= m["ts"] <= after, m


@test
def partitions_are_apart(t):
    topic = unique("parts")
    for p in range(4):
        produce(t, topic, ["p%d m%d" % (p, i) for i in range(p + 1)], partition=p)
    for p in range(4):
        same(consume(t, topic, partition=p).splitlines(), ["p%d m%d" % (p, i) for i in range(p + 1)])
    everything = kcat(t, "-C", "-q", "-e", "-t", topic, "-o", "beginning").decode().splitlines()
    same(sorted(everything), sorted("p%d m%d" % (p, i) for p in range(4) for i in range(p + 1)))


@test
def keyed_messages_keep_their_partition(t):
    topic = unique("keyed")
    produce(t, topic, ["x"])
    lines = "".join("key%d:%d\n" % (i % 20, i) for i in range(400))
    kcat(t, "-P", "-t", topic, "-K", ":", stdin=lines)
    got = kcat(t, "-C", "-q", "-e", "-t", topic, "-o", "beginning", "-f", "%p %k %s\\n").decode().splitlines()
    where, last = {}, {}
    for line in got:
        p, _, rest = line.partition(" ")
        key, _, value = rest.partition(" ")
        if not key:
            continue
        same(where.setdefault(key, p), p)
        assert last.get(key, -1) < int(value), line
        last[key] = int(value)
    same(len(where), 20)


@test
def consume_from_any_offset(t):
    topic = unique("from")
    for start in (0, 40, 80):  # three batches at least, so that offsets lie inside of them
        produce(t, topic, ["m%d" % i for i in range(start, start + 40)], "-z", "gzip" if start == 40 else "none")
    for offset in (0, 1, 39, 40, 57, 119):
        same(consume(t, topic, offset=offset).splitlines(), ["m%d" % i for i in range(offset, 120)], "from %d" % offset)
    same(consume(t, topic, offset=120), "")
    same(consume(t, topic, offset=-5).splitlines(), ["m%d" % i for i in range(115, 120)])
    same(consume(t, topic, offset="end"), "")
    same(consume(t, topic, "-c", "3", offset=50).splitlines(), ["m50", "m51", "m52"])


@test
def offset_out_of_range_resets(t):
    topic = unique("range")
    produce(t, topic, ["a", "b"])
    same(consume(t, topic, "-X", "topic.auto.offset.reset=earliest", offset=1000).splitlines(), ["a", "b"])
    done = kcat(t, "-C", "-q", "-e", "-t", topic, "-p", "0", "-o", "1000", "-X", "topic.auto.offset.reset=error", check=False)
    assert done.returncode != 0
    contains(done.stderr.decode(), "ffset out of range")


@test
def offsets_by_time(t):
    topic = unique("when")
    produce(t, topic, ["old %d" % i for i in range(10)])
    time.sleep(0.05)
    middle = int(time.time() * 1000)
    time.sleep(0.05)
    produce(t, topic, ["new %d" % i for i in range(10)])
    same(kcat(t, "-Q", "-t", "%s:0:%d" % (topic, middle)), b"%s [0] offset 10\n" % topic.encode())
    same(kcat(t, "-Q", "-t", "%s:0:-1" % topic), b"%s [0] offset 20\n" % topic.encode())
    same(kcat(t, "-Q", "-t", "%s:0:-2" % topic), b"%s [0] offset 0\n" % topic.encode())
    same(kcat(t, "-Q", "-t", "%s:0:%d" % (topic, middle + 3600000)), b"%s [0] offset -1\n" % topic.encode())
    same(consume(t, topic, offset="s@%d" % middle).splitlines(), ["new %d" % i for i in range(10)])


@test
def consumer_waits_for_news(t):
    topic = unique("wait")
    produce(t, topic, ["first"])
    with Running(t, "-C", "-q", "-t", topic, "-p", "0", "-o", "beginning", "-X", "fetch.wait.max.ms=240000", "-X", "socket.timeout.ms=300000") as c:
        until("the first message", lambda: c.lines() == ["first"], 15)
        time.sleep(0.3)
        produce(t, topic, ["second"])
        until("the long poll ends with the first news", lambda: c.lines() == ["first", "second"], 30)


@test
def unknown_topic(t):
    done = kcat(t, "-C", "-e", "-t", unique("absent"), "-p", "0", "-X", "allow.auto.create.topics=false", check=False, timeout=90)
    assert done.returncode != 0
    contains(done.stderr.decode(), "Unknown topic or partition")


@test
def big_messages(t):
    topic = unique("big")
    body = "".join(chr(33 + (i * 7919 >> 5) % 90) for i in range(900000))
    with tempfile.NamedTemporaryFile("w") as f:
        f.write(body)
        f.flush()
        kcat(t, "-P", "-t", topic, "-p", "0", f.name)
        same(consume(t, topic) == body + "\n", True)
        f.write(body)
        f.flush()
        done = kcat(t, "-P", "-t", topic, "-p", "0", "-X", "message.max.bytes=3000000", "-X", "message.timeout.ms=5000", f.name,
                    check=False)
        contains(done.stderr.decode(), "Message size too large")
    same(len(consume(t, topic)), 900001)


@test
def many_messages_in_order(t):
    topic = unique("many")
    n = 100000
    produce(t, topic, ["message number %d" % i for i in range(n)], "-X", "acks=all")
    same(consume(t, topic).splitlines() == ["message number %d" % i for i in range(n)], True)


@test
def small_fetches(t):
    topic = unique("fetch")
    for _ in range(5):
        produce(t, topic, ["%d %s" % (i, "x" * 500) for i in range(100)])
    got = consume(t, topic, "-X", "fetch.message.max.bytes=1000", "-X", "fetch.max.bytes=100000", "-X", "message.max.bytes=2000")
    same(len(got.splitlines()), 500)


@test
def both_isolation_levels(t):
    topic = unique("iso")
    produce(t, topic, ["a", "b", "c"])
    for level in ("read_uncommitted", "read_committed"):
        same(consume(t, topic, "-X", "isolation.level=%s" % level).splitlines(), ["a", "b", "c"], level)


# ---- consumer groups --------------------------------------------------------

GROUP = ("-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=500",
         "-X", "auto.commit.interval.ms=200")


def fill(t, topic, n, tag=""):
    for p in range(4):
        produce(t, topic, ["%sp%d m%d" % (tag, p, i) for i in range(n)], partition=p)


@test
def group_reads_everything_and_remembers(t):
    topic, group = unique("grp"), unique("group")
    fill(t, topic, 25)
    got = kcat(t, "-G", group, "-q", "-e", *GROUP, topic).decode().splitlines()
    same(sorted(got), sorted("p%d m%d" % (p, i) for p in range(4) for i in range(25)))
    same(kcat(t, "-G", group, "-q", "-e", *GROUP, topic), b"")
    fill(t, topic, 5, "new ")
    got = kcat(t, "-G", group, "-q", "-e", *GROUP, topic).decode().splitlines()
    same(sorted(got), sorted("new p%d m%d" % (p, i) for p in range(4) for i in range(5)))
    # Another group starts from the beginning.
    same(len(kcat(t, "-G", unique("group"), "-q", "-e", *GROUP, topic).decode().splitlines()), 120)


@test
def two_members_share_the_partitions(t):
    topic, group = unique("grp"), unique("group")
    fill(t, topic, 1)
    args = ("-G", group, "-q") + GROUP + ("-f", "%p %s\\n", topic)
    with Running(t, *args) as a:
        until("the first member reads all four", lambda: len(a.lines()) == 4, 20)
        with Running(t, *args) as b:
            # After the rebalance each of the two has two partitions: messages of all four reach both.
            turn = [0]

            def both():
                turn[0] += 1
                fill(t, topic, 1, "turn%d " % turn[0])
                time.sleep(0.2)
                mine = {x.split()[0] for x in b.lines()}
                return len(mine) == 2

            until("the second member got two partitions", both, 30)
            before_a, before_b = len(a.lines()), len(b.lines())
            fill(t, topic, 3, "after ")
            until("twelve more in all", lambda: len(a.lines()) + len(b.lines()) - before_a - before_b >= 12, 20)
            parts_a = {x.split()[0] for x in a.lines()[before_a:]}
            parts_b = {x.split()[0] for x in b.lines()[before_b:]}
            same((len(parts_a), len(parts_b), len(parts_a | parts_b)), (2, 2, 4))
            b.stop()
        # The one that stays takes over.
        before_a = len(a.lines())
        fill(t, topic, 2, "alone ")
        until("the first member has all again", lambda: sum("alone" in x for x in a.lines()[before_a:]) >= 8, 30)
        a.stop()


@test
def killed_member_is_replaced(t):
    topic, group = unique("grp"), unique("group")
    fill(t, topic, 1)
    args = ("-G", group, "-q") + GROUP + ("-f", "%p %s\\n", topic)
    with Running(t, *args) as a:
        until("the first member reads all four", lambda: len(a.lines()) == 4, 20)
        a.stop(signal.SIGKILL)
        with Running(t, *args) as b:
            fill(t, topic, 1, "more ")
            # Its session (6 s) must run out first.
            until("the second member takes over", lambda: len({x.split()[0] for x in b.lines() if "more" in x}) == 4, 30)


@test
def group_over_two_topics(t):
    one, two, group = unique("grp-a"), unique("grp-b"), unique("group")
    fill(t, one, 3)
    fill(t, two, 3)
    got = kcat(t, "-G", group, "-q", "-e", *GROUP, "-f", "%t\\n", one, two).decode().splitlines()
    same((got.count(one), got.count(two)), (12, 12))


@test
def cooperative_assignor(t):
    topic, group = unique("grp"), unique("group")
    fill(t, topic, 5)
    got = kcat(t, "-G", group, "-q", "-e", *GROUP, "-X", "partition.assignment.strategy=cooperative-sticky", topic).decode().splitlines()
    same(len(got), 20)


@test
def static_member(t):
    topic, group = unique("grp"), unique("group")
    fill(t, topic, 5)
    for want in (20, 0):
        got = kcat(t, "-G", group, "-q", "-e", *GROUP, "-X", "group.instance.id=static-1", topic).decode().splitlines()
        same(len(got), want)


if __name__ == "__main__":
    os.environ["KCAT_CONFIG"] = "/dev/null"
    main()
