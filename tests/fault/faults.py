"""The faults of the list, each a function that hurts a loaded cluster and says when it should have recovered.

A fault gets a Round: the cluster, the load that runs, a random generator, and mark() and recovered() for the timeline. When it returns, the network is healed and every
node runs again; run.py then waits until the cluster is whole, stops the load and lets the checkers look at everything. Numbers are those of the project's fault list.
"""
import os
import re
import socket
import struct
import threading
import time

from checkers import recovery
from history import FAIL, INFINITE, OK, UNKNOWN, Op
from load_amqp import USER
from load_kafka import BROKEN
from load_resp import slot_of
from logs import read_segment
from rig import PATIENCE, Node, eventually
from wire import Amqp, Kafka, Resp, RespError, batch

FAULTS = []  # rows in order


class Fault:
    def __init__(self, function, number, title, short, nodes, net):
        self.function, self.number, self.title, self.short, self.nodes, self.net = function, number, title, short, nodes, net
        self.name = function.__name__


def fault(number, title, short=True, nodes=3, net=False):
    """short: part of the short round. nodes: how many it needs. net: needs a network that can be cut."""
    def register(function):
        FAULTS.append(Fault(function, number, title, short, nodes, net))
        return function
    return register


class Round:
    def __init__(self, cluster, load, rng, long):
        self.cluster, self.load, self.history, self.rng, self.long = cluster, load, load.history, rng, long
        self.expected = []  # (what, since, limit or None, until)
        self.problems = []

    def mark(self, text):
        return self.history.mark(text)

    def recovered(self, what, since, limit=None, until=None):
        """From `since` on every lane of every protocol has to write again; limit None: the run's."""
        self.expected.append((what, since, limit, until))

    def wrong(self, text):
        self.problems.append(text)

    def wait_recovered(self, since, timeout=15):
        """Until each lane has written something begun after `since`; a lane that does not is reported by C7 later."""
        deadline = time.monotonic() + timeout * PATIENCE
        while time.monotonic() < deadline:
            if max(recovery(self.history.ops(), since).values(), default=0) < 1e9:
                return
            self.load.raise_errors()
            time.sleep(0.1)

    def leader(self):
        """A node that leads something the load writes."""
        tag = self.rng.choice(list(self.load.part("resp").tags.values()))
        node = eventually(lambda: self.cluster.leader_of_slot(slot_of("{%s}" % tag)), 10)
        return node

    def others(self, *nodes):
        return [n for n in self.cluster.nodes.values() if n not in nodes]

    def controller(self):
        return eventually(self.cluster.controller, 10)

    def sleep(self, seconds):
        """Lets the load run, and ends early when one of its threads has died of a bug."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.load.raise_errors()
            time.sleep(min(0.1, max(deadline - time.monotonic(), 0)))


# ---- 1, 2, 3: processes that die -----------------------------------------------------------------------------------------------
def kill_and_restart(r, node, away, what):
    t = r.mark("kill -9 %s (%s)" % (node.name, what))
    node.kill()
    r.recovered("%s killed" % what, t)
    r.wait_recovered(t)
    r.sleep(max(away - (time.monotonic() - t), 0))
    r.mark("restart " + node.name)
    node.start()


@fault("1", "kill -9 of a leader")
def kill_leader(r):
    kill_and_restart(r, r.leader(), 3, "leader")


@fault("2a", "kill -9 of a node that is not the controller", short=False)
def kill_replica(r):
    kill_and_restart(r, r.rng.choice(r.others(r.controller())), 3, "replica")


@fault("2b", "kill -9 of the controller")
def kill_controller(r):
    kill_and_restart(r, r.controller(), 3, "controller")


@fault("1+", "the new leader killed during failover, again and again", short=False)
def kill_in_a_row(r):
    for _ in range(6):
        node = r.leader()
        t = r.mark("kill -9 %s" % node.name)
        node.kill()
        r.sleep(r.rng.uniform(0.05, 1.5))
        node.start()
    t = r.mark("killed for the last time")
    r.recovered("leaders killed in a row", t)
    r.wait_recovered(t)


@fault("3", "kill -9 of all nodes at once")
def kill_all(r):
    r.mark("kill -9 of all")
    for n in r.cluster.nodes.values():
        n.process.kill()
    for n in r.cluster.nodes.values():
        n.reap(expected=True)
    r.sleep(0.3)
    t = r.mark("restart of all")
    r.cluster.start()
    r.recovered("all killed, from their restart", t, limit=10)
    r.wait_recovered(t, 30)


# ---- 5, 28: processes that stand still -------------------------------------------------------------------------------------------
def pause(r, node, seconds, what):
    t = r.mark("SIGSTOP %s (%s) for %g s" % (node.name, what, seconds))
    node.pause()
    r.sleep(seconds)
    woke = r.mark("SIGCONT " + node.name)
    node.resume()
    if seconds >= 4:
        r.recovered("%s paused" % what, t, until=woke)
    r.recovered("%s paused, from its waking" % what, woke)
    r.wait_recovered(woke)


@fault("5a", "a leader paused for a second", short=False)
def pause_briefly(r):
    pause(r, r.leader(), 1, "leader")


@fault("5b", "a leader paused for five seconds")
def pause_leader(r):
    pause(r, r.leader(), 5, "leader")


@fault("5c", "the controller paused for five seconds", short=False)
def pause_controller(r):
    pause(r, r.controller(), 5, "controller")


@fault("5d", "a leader paused for half a minute", short=False)
def pause_long(r):
    pause(r, r.leader(), 30, "leader")


class Late(threading.Thread):
    """Writes on connections made before the pause, into the buffers of a node that stands still, and waits for what it answers when it wakes."""

    def __init__(self, r, node):
        super().__init__(daemon=True)
        self.r, self.node = r, node
        self.tags = [t for t in r.load.part("resp").tags.values() if r.cluster.leader_of_slot(slot_of("{%s}" % t)) is node]
        self.resp = Resp(node.ports["resp"], host=node.host, timeout=25)
        self.kafka = Kafka(node.ports["kafka"], host=node.host, timeout=25)
        self.answers, self.sent = [], []

    def run(self):
        part = self.r.load.part("resp")
        lanes = {tag: lane for lane, tag in part.tags.items()}
        try:
            commands = []
            for i in range(300):
                tag = self.tags[i % len(self.tags)] if self.tags else "t0"
                key, value = "{%s}%s:set" % (tag, self.r.load.name), "late-%d" % i
                op = Op("late", "resp", lanes.get(tag, "late"), "add", key, value, time.monotonic())
                self.sent.append(op)
                commands.append(self.resp.encode("SADD", key, value))
            for op in self.sent:
                self.r.history.add(op)
            self.resp.send(b"".join(commands))
            for op in self.sent:
                reply = self.resp.reply()
                if isinstance(reply, RespError):
                    op.outcome, op.end, op.note = FAIL, time.monotonic(), str(reply)
                else:
                    op.outcome, op.end = OK, time.monotonic()
                self.answers.append(str(reply))
        except (OSError, EOFError) as e:
            self.answers.append(repr(e))
        for op in self.sent:
            if op.outcome == UNKNOWN:
                op.end = INFINITE


@fault("28", "a leader paused for ten seconds with full pipelines; a stale epoch wakes up", short=False)
def stale_leader(r):
    node = r.leader()
    late = Late(r, node)
    t = r.mark("SIGSTOP %s (leader) for 10 s, with writes in its sockets" % node.name)
    node.pause()
    late.start()
    r.sleep(10)
    woke = r.mark("SIGCONT " + node.name)
    node.resume()
    r.recovered("leader paused", t, until=woke)
    r.recovered("leader paused, from its waking", woke)
    late.join(30)
    kinds = {}
    for a in late.answers:
        kinds[a.split(" ")[0]] = kinds.get(a.split(" ")[0], 0) + 1
    r.mark("the late pipeline was answered: %s" % kinds)
    r.wait_recovered(woke)


# ---- 6, 7, 8, 9: networks that break ------------------------------------------------------------------------------------------------
def minority_refuses(r, node):
    """A node that cannot reach the majority acknowledges no write and shows no value to who did not ask for stale ones; right error codes (I4)."""
    tag = next(iter(r.load.part("resp").tags.values()))
    key = "{%s}%s:minority" % (tag, r.load.name)
    try:
        c = Resp(node.ports["resp"], host=node.host, timeout=2)
        for command in (("SET", key, "x"), ("GET", key)):
            c.send(c.encode(*command))
            reply = c.reply()
            if not isinstance(reply, RespError) or not str(reply).startswith(("CLUSTERDOWN ", "MOVED ", "NOREPLICAS ")):
                r.wrong("I4 the minority's %s answers %s with %r" % (node.name, command[0], reply))
        c.send(c.encode("CLUSTER", "SLOTS"))
        reply = c.reply()
        if not isinstance(reply, RespError):
            r.wrong("I4 the minority's %s tells clients where leaders are: %r" % (node.name, reply[:2]))
    except EOFError:
        pass  # closed: an unknown outcome, allowed
    except OSError as e:
        r.wrong("I4 the minority's %s does not answer RESP: %s" % (node.name, e))
    if r.load.part("kafka"):
        minority_refuses_produce(r, node)
    if r.load.part("amqp"):
        minority_confirms_nothing(r, node)


def minority_refuses_produce(r, node):
    kafka = r.load.part("kafka")
    try:
        for partition in range(r.load.lanes):
            k = Kafka(node.ports["kafka"], host=node.host, timeout=4)  # it closes a producer's connection behind its refusal
            kafka.streams[str(partition)].sent.add(b"minority.0")  # should it turn up after all, it is known
            error, _ = k.produce(kafka.topic, partition, batch([b"minority.0"], timestamp=int(time.time() * 1000)))
            if error not in (3, 5, 6, 19, 20, 7):
                r.wrong("I4 the minority's %s answers Produce to %s-%d with error %d" % (node.name, kafka.topic, partition, error))
    except BROKEN as e:
        r.wrong("I4 the minority's %s does not answer Produce: %r" % (node.name, e))


def minority_confirms_nothing(r, node):
    queue = next(iter(r.load.part("amqp").queues.values()))
    try:
        a = Amqp(node.ports["amqp"], host=node.host, timeout=2, **USER)
        a.confirm_select()
        body = b"minority.%d.0" % int(time.monotonic() * 1000)
        queue.sent.add(body)
        a.publish(queue.name, body)
        try:
            ok, _, _ = a.confirmed()
            if ok:
                queue.confirmed.add(body)
                r.wrong("I4 the minority's %s confirmed a publish" % node.name)
        except socket.timeout:
            pass
        a.close()
    except BROKEN:
        pass


def split(r, reject):
    loser = r.leader()
    t = r.mark("cut %s off from the other nodes%s" % (loser.name, " by REJECT" if reject else ""))
    r.cluster.net.split([loser.index], [n.index for n in r.others(loser)], reject)
    r.recovered("leader cut off", t)
    r.sleep(2.7 * PATIENCE)
    minority_refuses(r, loser)
    r.wait_recovered(t)
    r.sleep(0.5)
    t = r.mark("heal")
    r.cluster.net.heal()
    r.recovered("cut healed", t)
    r.wait_recovered(t)


@fault("6", "symmetric partition 2/1", net=True)
def partition(r):
    split(r, False)


@fault("6r", "symmetric partition 2/1 by REJECT", net=True)
def partition_reject(r):
    split(r, True)


@fault("6c", "the controller cut off", short=False, net=True)
def partition_controller(r):
    loser = r.controller()
    t = r.mark("cut %s (controller) off" % loser.name)
    r.cluster.net.split([loser.index], [n.index for n in r.others(loser)])
    r.recovered("controller cut off", t)
    r.wait_recovered(t)
    r.sleep(2)
    t = r.mark("heal")
    r.cluster.net.heal()
    r.recovered("cut healed", t)
    r.wait_recovered(t)


@fault("6+", "partition 2/2/1", short=False, nodes=5, net=True)
def partition_in_three(r):
    order = list(r.cluster.nodes)
    r.rng.shuffle(order)
    a, b, c = order[:2], order[2:4], order[4:]
    r.mark("split into %s, %s, %s" % (a, b, c))
    for x, y in ((a, b), (a, c), (b, c)):
        r.cluster.net.split(x, y)
    r.sleep(2.7 * PATIENCE)
    for i in order:
        minority_refuses(r, r.cluster.nodes[i])
    r.cluster.net.heal()
    t = r.mark("heal")
    r.recovered("three parts healed", t)
    r.wait_recovered(t)


@fault("7", "a pair cut, both see the third", short=False, net=True)
def pair_cut(r):
    a = r.leader()
    b = r.rng.choice(r.others(a))
    before = epochs(r)
    t = r.mark("cut %s from %s" % (a.name, b.name))
    r.cluster.net.cut(a.index, b.index)
    r.recovered("pair cut", t)
    r.wait_recovered(t)
    r.sleep(4)
    rose = {p: e - before.get(p, e) for p, e in epochs(r).items() if e - before.get(p, e) > 2}
    if rose:
        r.wrong("7: leaders flap while a pair is cut; partition: epochs risen %s" % rose)
    t = r.mark("heal")
    r.cluster.net.heal()
    r.recovered("pair healed", t)
    r.wait_recovered(t)


def epochs(r):
    """The highest epoch of each partition that any node has said to lead in."""
    out = {}
    for _, p, e in r.cluster.opened():
        out[p] = max(out.get(p, 0), e)
    return out


def one_way(r, reject):
    a = r.leader()
    b = r.rng.choice(r.others(a))
    t = r.mark("%s no longer hears the others%s" % (a.name, " (REJECT at the senders)" if reject else ""))
    for n in r.others(a):
        r.cluster.net.cut_one_way(n.index, a.index, reject)
    r.recovered("deaf leader", t)
    r.wait_recovered(t)
    r.sleep(1)
    r.cluster.net.heal()
    t = r.mark("heal")
    r.recovered("hearing again", t)
    r.wait_recovered(t)
    t = r.mark("%s no longer hears %s alone" % (b.name, a.name))
    r.cluster.net.cut_one_way(a.index, b.index, reject)
    r.recovered("deaf to the leader", t)
    r.wait_recovered(t)
    r.sleep(1)
    r.cluster.net.heal()
    t = r.mark("heal")
    r.recovered("hearing the leader again", t)
    r.wait_recovered(t)


@fault("8", "one-way cuts", net=True)
def one_way_cut(r):
    one_way(r, False)


@fault("8r", "one-way cuts by REJECT", short=False, net=True)
def one_way_reject(r):
    one_way(r, True)


def cable(r, node, seconds):
    t = r.mark("link of %s down for %g s" % (node.name, seconds))
    r.cluster.net.link(node.index, False)
    r.sleep(seconds)
    r.cluster.net.link(node.index, True)
    up = r.mark("link up")
    if seconds >= 5:
        r.recovered("link down", t, until=up)
    r.recovered("link up after %g s" % seconds, up)
    r.wait_recovered(up)


@fault("9", "a link down for six seconds, TCP backs off", short=False, net=True)
def link_down(r):
    cable(r, r.leader(), 6)


@fault("9+", "a link down for two and for ten seconds", short=False, net=True)
def link_down_more(r):
    cable(r, r.leader(), 2)
    cable(r, r.leader(), 10)


# ---- 14, 24, 25, 26: disks -------------------------------------------------------------------------------------------------------------
def segments(node):
    """Segment files of all logs of a node, the newest first."""
    out = []
    for folder, _, files in os.walk(node.data):
        if os.sep + "p-" in folder:
            out += [os.path.join(folder, f) for f in files if f.endswith(".log")]
    return sorted(out, key=os.path.getmtime, reverse=True)


def tear(path, rng):
    """What a torn write leaves: the last bytes that were written are cut off or zero. Hot segments have a window of zeros behind them."""
    with open(path, "r+b") as f:
        data = f.read()
        end = len(data.rstrip(b"\0"))
        if end < 2000:
            return None
        k = rng.choice((1, 17, 100, 500))
        if rng.random() < 0.5:
            f.truncate(end - k)
            return "last %d bytes cut off" % k
        f.seek(end - k)
        f.write(b"\0" * k)
        return "last %d bytes zero" % k


def kill_tear_restart(r, node, may_tear):
    """may_tear(path): whether it is one of the files to be damaged."""
    t = r.mark("kill -9 %s" % node.name)
    node.kill()
    r.recovered("leader killed", t)
    paths = [p for p in segments(node) if may_tear(p)]
    torn = {}
    for path in r.rng.sample(paths, min(6, len(paths))):
        what = tear(path, r.rng)
        if what:
            torn[os.path.relpath(path, node.data)] = what
    if not torn:
        r.wrong("no segment to tear was found in %s" % node.data)
    r.wait_recovered(t)
    r.mark("restart %s after tearing %s" % (node.name, torn))
    node.start()


@fault("14", "torn tails: writes that were not synced")
def torn_tail(r):
    """Nothing is synced for a while, so that the ends of all logs that are written lie above their sync marks (rule 4). Where a commit of one copy asked for a
    round all the same, what is torn below its mark is damage, and that copy is fetched anew."""
    node = r.leader()
    node.ctl("config", "set", "log.fsync", "never")
    r.sleep(1.5)  # the round that was due already is over
    ends = {p: len(read_segment(p)) for p in segments(node)}
    r.sleep(1.5)
    # at least 20 batches more than then: tearing off a few hundred bytes touches nothing older
    kill_tear_restart(r, node, lambda p: len(read_segment(p)) > ends.get(p, 0) + 20)


@fault("15", "damage of what was synced, in one replica", short=False)
def damaged_tail(r):
    kill_tear_restart(r, r.leader(), lambda p: True)


@fault("24", "a node comes back with an empty disk")
def empty_disk(r):
    node = r.leader()
    t = r.mark("kill -9 %s" % node.name)
    node.kill()
    r.recovered("leader killed", t)
    r.wait_recovered(t)
    node.wipe()
    r.mark("restart %s with an empty disk" % node.name)
    node.start()
    r.cluster.replaced = True


@fault("25", "an old copy of a disk comes back", short=False)
def old_disk(r):
    node = r.leader()
    node.pause()
    copy = node.copy_disk("old")
    node.resume()
    r.mark("copied the disk of %s" % node.name)
    # The topology goes on too: what the copy knows of it is old.
    eventually(lambda: r.cluster.living()[0].kafka(10).create_topic("after-%s" % r.load.name, 3) in (0, 36), 10)
    r.sleep(3)
    t = r.mark("kill -9 %s, its old disk in place of the new" % node.name)
    node.kill()
    r.recovered("leader killed", t)
    node.restore_disk(copy)
    r.wait_recovered(t)
    r.mark("restart %s with its old disk" % node.name)
    node.start()

    def verdict():
        """It is shut out when anybody can tell that it has forgotten what it vouched for; a Raft leader elected since has no word of it, and brings it up to date."""
        if "an old copy" in node.last_run():
            return "refused"
        info = node.resp().call("CLUSTER", "INFO").decode() if node.alive() else ""
        return "taken in" if "cluster_state:ok" in info else None

    said = eventually(verdict, 40)
    r.mark("%s is %s" % (node.name, said))
    if said == "refused":  # what its diagnostics tell to do
        other = r.cluster.living()[0] if r.cluster.living()[0] is not node else r.cluster.living()[1]
        ids = [x["node"] for x in other.ctl("cluster", "nodes") if x["name"] == node.name]
        if node.alive():
            node.kill()
        node.deaths = [d for d in node.deaths if d[2] or d[1] < 0]  # to end by itself is right, too, unless by a crash
        for i in ids:
            other.ctl("cluster", "remove", str(i))
        node.wipe()
        r.mark("removed, restart %s with an empty disk" % node.name)
        node.start()
        r.cluster.replaced = True


@fault("26", "two nodes with one disk", net=True)
def twin(r):
    """A copy of a running node's disk is started on the spare address: it must be refused, and the true one go on."""
    node = r.leader()
    node.pause()
    copy = node.copy_disk("twin")
    node.resume()
    index = r.cluster.net.count
    spare = Node(r.cluster, index)
    spare.name = "twin"
    spare.restore_disk(copy)
    t = r.mark("a copy of %s starts at %s" % (node.name, spare.host))
    r.cluster.nodes["twin"] = spare
    try:
        spare.start()
        r.sleep(4)
        r.recovered("twin started", t)
        r.wait_recovered(t)
        if spare.alive():
            try:
                c = spare.resp()
                c.send(c.encode("SET", "{%s}twin" % next(iter(r.load.part("resp").tags.values())), "x"))
                reply = c.reply()
                if not isinstance(reply, RespError):
                    r.wrong("26: the twin of %s acknowledged a write: %r" % (node.name, reply))
            except (OSError, EOFError):
                pass
        said = [x for x in spare.log().splitlines() if "level=warn" in x or "level=error" in x]
        r.mark("the twin %s and says: %s" % ("lives" if spare.process else "ended", " | ".join(x.split(" ", 1)[1] for x in said[-2:])))
        if not any(re.search(r"disk|twice|already|same id|another|duplicate", x) for x in said):
            r.wrong("26: the twin of %s does not say what is wrong: %s" % (node.name, spare.tail(3)))
        if not node.alive():
            r.wrong("26: the true %s ended because of its twin" % node.name)
    finally:
        spare.kill()
        spare.deaths = []
        del r.cluster.nodes["twin"]
    t = r.mark("twin killed")
    r.recovered("twin gone", t)
    r.wait_recovered(t)


# ---- 20: bad input --------------------------------------------------------------------------------------------------------------------------
HOSTILE = {
    "resp": [b"*-2\r\n", b"*2147483647\r\n", b"*1\r\n$-5\r\n", b"*1\r\n$9223372036854775807\r\n", b"x" * (1 << 20), b"*1\r\n" * 100000, b"\0\0\0\1\0\0\0\xff"],
    "kafka": [struct.pack(">i", n) for n in (-1, 0, 3, 2 ** 31 - 1)] + [struct.pack(">ihhih", 14, 0, 3, 1, -1) + b"\xff" * 4, b"GET / HTTP/1.1\r\n\r\n" * 50],
    "amqp": [b"AMQP\0\0\x09\x01" + struct.pack(">BHI", 1, 0, 2 ** 31 - 1) + b"x" * 100, b"AMQP\0\0\x09\x01" + struct.pack(">BHI", 1, 65535, 4) + b"\0\x0a\0\x0b\xcf",
             b"HTTP" * 300, b"AMQP\0\0\x09\x01" + b"\x08\0\0\0\0\0\0\xce" * 1000],
    "cluster": [b"\0" * 4096, b"\xff" * 4096, struct.pack(">I", 2 ** 32 - 1) + b"x" * 64, struct.pack("<I", 2 ** 32 - 1) + b"x" * 64, struct.pack(">I", 2 ** 31 - 1),
                struct.pack("<I", 1 << 20) + b"\0" * 1000, b"GET / HTTP/1.1\r\n\r\n", b"*1\r\n$4\r\nPING\r\n", b""],
}


def throw(host, port, data, rng):
    """Sends garbage in one or many pieces, reads a little, and leaves by FIN, by reset, or by staying for a moment."""
    with socket.create_connection((host, port), 2) as s:
        s.settimeout(0.3)
        try:
            if rng.random() < 0.3:
                for i in range(0, min(len(data), 64)):
                    s.sendall(data[i:i + 1])
                s.sendall(data[64:])
            else:
                s.sendall(data)
            s.recv(4096)
        except OSError:
            pass
        if rng.random() < 0.3:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@fault("20", "hostile input on every port, the bus included")
def hostile(r):
    t = r.mark("hostile input on every port of every node")
    before = r.cluster.resources()
    n = 0
    for node in r.cluster.nodes.values():
        for protocol, inputs in HOSTILE.items():
            noise = [bytes(r.rng.randrange(256) for _ in range(r.rng.choice((3, 40, 700)))) for _ in range(6 if r.long else 2)]
            for data in inputs + noise:
                try:
                    throw(node.host, node.ports[protocol], data, r.rng)
                    n += 1
                except OSError as e:
                    r.wrong("20: %s does not accept on its %s port: %s" % (node.name, protocol, e))
    after = r.cluster.resources()
    for name, (_, memory) in after.items():
        if name in before and memory > before[name][1] + (256 << 20):
            r.wrong("20: %s grew from %d to %d MiB" % (name, before[name][1] >> 20, memory >> 20))
    t = r.mark("%d inputs thrown" % n)
    r.recovered("hostile input", t)
    r.wait_recovered(t)


def pick(spec, short, nodes, can_cut):
    """The faults named by a comma list of numbers or names; without one, those of the short or of the long round."""
    chosen = []
    if spec:
        for word in spec.split(","):
            these = [f for f in FAULTS if word in (f.number, f.name) or f.number.rstrip("abcdr+") == word]
            if not these:
                raise ValueError("no fault %r; there are %s" % (word, " ".join(f.number for f in FAULTS)))
            chosen += [f for f in these if f not in chosen]
    else:
        chosen = [f for f in FAULTS if f.short or not short]
    can = [f for f in chosen if f.nodes <= nodes and (can_cut or not f.net)]
    return can, [f for f in chosen if f not in can]

