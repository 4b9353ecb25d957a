"""Options that can be changed while the node runs (RELOAD in options.def): each is set, and what it is for is looked for before and after. What copies an option when it is made and never
looks again is found here: a value that config get shows and nobody follows."""
import glob
import json
import os
import re
import signal
import struct
import subprocess
import time
import urllib.request

from node import BUILD, Node, eventually, run_tests
from wire import Amqp, AmqpClosed, Kafka, Resp, RespError, Stream, batch, longstr, shortstr

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
names = ("r%d" % i for i in range(1 << 30))


def ask(node, *words):
    return json.loads(Resp(node.ports["resp"]).call("GOMSG", *words))


# ---- effects: true when the value of the row below is followed ---------------------------------------------------------------
def resp_refuses(node, *command):
    try:
        Resp(node.ports["resp"]).call(*command)
        return False
    except RespError:
        return True


def closes(stream):
    """Within a time that is shorter than any default."""
    return stream.at_end()


def idle_client_is_closed(node):
    c = Resp(node.ports["resp"], timeout=3)
    assert c.call("PING") == b"PONG"
    return closes(c)


def metric(node, name):
    text = urllib.request.urlopen("http://127.0.0.1:%d/metrics" % node.ports["http"], timeout=20).read().decode()
    return float(re.search(r"^%s (\S+)" % name, text, re.M).group(1))


def rounds(node):
    return metric(node, "gomsg_log_sync_rounds_total")


def scrubs(node, seconds):
    before = metric(node, "gomsg_log_scrub_passes_total")
    time.sleep(seconds)
    return metric(node, "gomsg_log_scrub_passes_total") > before


def much_is_scrubbed_fast(node):
    """A pass over sealed segments that would take half a minute at the rate of the start."""
    sealed_segments(node)
    ctl_sets(node, "log.scrub_interval", "100ms")
    try:
        return scrubs(node, 3)
    finally:
        ctl_sets(node, "log.scrub_interval", "168h")


def write_waits_for_a_sync(node):
    before = rounds(node)
    Resp(node.ports["resp"]).call("SET", next(names), "v")
    return rounds(node) > before


def written_is_synced_soon(node):
    Resp(node.ports["resp"]).call("SET", next(names), "v")
    before = rounds(node)
    time.sleep(1)
    return rounds(node) > before


def snapshot_is_written(node):
    c = Resp(node.ports["resp"])
    for _ in range(20):
        c.call("SET", "snapshot", "x" * 100000)
    time.sleep(1)
    return any(os.path.isfile(f) for f in glob.glob(os.path.join(node.data, "p-*", "kv", "*snap*")))


def topic(node):
    """A topic of one partition, its client."""
    k, name = Kafka(node.ports["kafka"]), next(names)
    assert k.create_topic(name, 1) == 0
    return k, name


def long_batch_is_refused(node):
    k, name = topic(node)
    return k.produce(name, 0, batch([b"x" * 4000]))[0] == 10


def made_by_metadata(node):
    """What asking for a topic's metadata makes of it: its row, or None."""
    k, name = Kafka(node.ports["kafka"]), next(names)
    k.request(3, 4, struct.pack(">i", 1) + k.string(name) + b"\1")
    k.response()
    return next((t for t in ask(node, "topics") if t["name"] == name), None)


def sealed_segments(node):
    k, name = topic(node)
    for _ in range(4):
        assert k.produce(name, 0, batch([b"x" * 600000]))[0] == 0


def topics_have(node, setting, value):
    """What a topic without a setting of its own is said to have, by what retention reads too; it acts but once a minute."""
    k, name = topic(node)
    k.request(32, 1, struct.pack(">ib", 1, 2) + k.string(name) + struct.pack(">ib", -1, 0))
    return k.string(setting) + k.string(value) in k.response()


def tune(node):
    """What is offered to a connection: channels, frame size, heartbeat."""
    a = Amqp.__new__(Amqp)
    Stream.__init__(a, node.ports["amqp"])
    a.send(b"AMQP\0\0\x09\x01")
    a.expect(10, 10)
    a.method(0, 10, 11, struct.pack(">I", 0) + shortstr("PLAIN") + longstr("\0guest\0guest") + shortstr("en_US"))
    return struct.unpack(">HIH", a.expect(10, 30)[:8])


def long_message_is_refused(node):
    a, name = Amqp(node.ports["amqp"]), next(names)
    a.declare(name)
    a.publish(name, b"x" * 4000)
    try:
        a.sync()
        return False
    except AmqpClosed as e:
        assert e.code == 406, e
        return True


def debug_is_logged(node):
    before = node.log().count("amqp channel error")
    try:
        Amqp(node.ports["amqp"]).declare(next(names), passive=True)
    except AmqpClosed:
        pass
    time.sleep(0.2)
    return node.log().count("amqp channel error") > before


ROWS = {
    "log.scrub_interval": ("100ms", lambda n: scrubs(n, 1)),
    "resp.max_bulk_bytes": ("16KiB", lambda n: resp_refuses(n, "SET", "k", "x" * 20000)),
    "resp.max_arguments": ("64", lambda n: resp_refuses(n, "DEL", *["k%d" % i for i in range(70)])),
    "resp.idle_timeout": ("500ms", idle_client_is_closed),
    # No script runs here that could be too long: what is told of it follows.
    "resp.busy_reply_threshold": ("777ms", lambda n: Resp(n.ports["resp"]).call("CONFIG", "GET", "busy-reply-threshold")[1] == b"777"),
    "kafka.message_max_bytes": ("2000", long_batch_is_refused),
    "kafka.num_partitions": ("9", lambda n: made_by_metadata(n)["partitions"] == 9),
    "kafka.auto_create_topics": ("false", lambda n: made_by_metadata(n) is None),
    "amqp.heartbeat": ("7s", lambda n: tune(n)[2] == 7),
    "amqp.frame_max_bytes": ("8KiB", lambda n: tune(n)[1] == 8192),
    "amqp.channel_max": ("33", lambda n: tune(n)[0] == 33),
    "amqp.message_max_bytes": ("2000", long_message_is_refused),
    "amqp.handshake_timeout": ("100ms", lambda n: closes(Stream(n.ports["amqp"], timeout=3))),
    "kv.ack": ("quorum", write_waits_for_a_sync),
    "kv.snapshot_log_bytes": ("1MiB", snapshot_is_written),
    "log.fsync": ("always", write_waits_for_a_sync),
    "log.fsync_interval": ("50ms", written_is_synced_soon),
    "log.scrub_rate": ("1GiB", much_is_scrubbed_fast),
    "log.retention": ("1m", lambda n: topics_have(n, "retention.ms", "60000")),
    "log.retention_bytes": ("1", lambda n: topics_have(n, "retention.bytes", "1")),
    "diag.level": ("debug", debug_is_logged),
    "kv.maxmemory": ("1", lambda n: resp_refuses(n, "SET", "k", "v")),  # looked at ten times a second: the last, so that nobody meets it
}


def ctl_sets(node, name, value):
    r = subprocess.run([os.path.join(BUILD, "gomsgctl"), "-d", node.data, "config", "set", name, value], capture_output=True, text=True)
    assert r.returncode == 0, r


def client_sets(node, name, value):
    assert Resp(node.ports["resp"]).call("CONFIG", "SET", name, value) == b"OK"


def sighup_sets(node, name, value):
    section, _, key = name.partition(".")
    with open(os.path.join(node.root, "gomsg.yaml"), "w") as f:
        f.write("%s:\n  %s: %s\n" % (section, key, value))
    node.signal(signal.SIGHUP)
    eventually(lambda: value_of(node, name) == value)


def value_of(node, name):
    return ask(node, "config", "get", name)[0]["value"]


def follows(node, name, sets):
    value, effect = ROWS[name]
    before = value_of(node, name)
    eventually(lambda: not effect(node))
    sets(node, name, value)
    try:
        eventually(lambda: effect(node), timeout=30)
    except AssertionError as e:
        raise AssertionError("%s is set to %s and nothing comes of it" % (name, value)) from e
    sets(node, name, before)


def started(node):
    path = os.path.join(node.root, "gomsg.yaml")
    open(path, "w").close()
    # Rounds come only when somebody waits for one; segments are small.
    node.args = ["--config", path, "--log.fsync_interval=1h", "--log.segment_bytes=1MiB", "--log.scrub_rate=64KiB"]
    node.start()
    return node


def every_option_that_can_be_changed_has_a_row():
    with open(os.path.join(TOP, "src", "config", "options.def")) as f:
        table = re.findall(r"^OPTION\((\w+), (\w+), [^\n]* RELOAD, ", f.read(), re.M)
    assert sorted(ROWS) == sorted("%s.%s" % o for o in table)


def each_is_followed_when_gomsgctl_sets_it():
    with Node() as node:
        started(node)
        for name in ROWS:
            follows(node, name, ctl_sets)


def what_has_copies_is_followed_when_a_client_sets_it():
    with Node() as node:
        started(node)
        for name in ("amqp.heartbeat", "amqp.message_max_bytes", "log.fsync", "log.fsync_interval", "diag.level"):
            follows(node, name, client_sets)
        eventually(lambda: not write_waits_for_a_sync(node))
        assert Resp(node.ports["resp"]).call("CONFIG", "SET", "appendfsync", "always") == b"OK"
        eventually(lambda: write_waits_for_a_sync(node))


def what_has_copies_is_followed_after_sighup():
    with Node() as node:
        started(node)
        for name in ("amqp.heartbeat", "amqp.message_max_bytes", "log.fsync", "diag.level"):
            follows(node, name, sighup_sets)


if __name__ == "__main__":
    run_tests([every_option_that_can_be_changed_has_a_row, each_is_followed_when_gomsgctl_sets_it, what_has_copies_is_followed_when_a_client_sets_it,
               what_has_copies_is_followed_after_sighup])
