"""A queue with a backlog changes its leader: the next one serves it with what it kept while it followed, holds exactly what the former one held, and reads nothing back under its partition's lock."""
import os
import re
import sys
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "fault"))
from node import PATIENCE, SHORT, eventually, run_tests  # noqa: E402
from rig import Cluster  # noqa: E402
from wire import Amqp, AmqpClosed  # noqa: E402

SIZE = 1024
COUNT = 8000 if SHORT else 16000  # several times what a follower leaves to be read (a mebibyte, and what is on its way)
LEFT = 3000                       # records that an opening may read


def amqp(node):
    return Amqp(node.ports["amqp"], host=node.host, timeout=60 * PATIENCE, user="rig", password="rig")


def replayed(node, when):
    with urllib.request.urlopen("http://%s:%d/metrics" % (node.host, node.ports["http"]), timeout=20 * PATIENCE) as r:
        page = r.read().decode()
    return int(float(re.search(r'^gomsg_queue_replayed_records_total\{when="%s"\} (\S+)$' % when, page, re.M).group(1)))


def publish(node, queue, first, n):
    c = amqp(node)
    c.confirm_select()
    done = sent = 0
    while done < n:
        while sent < n and sent - done < 1000:
            k = min(250, n - sent)
            c.send(b"".join(c.publish_bytes(queue, (b"%08d" % (first + sent + i)).ljust(SIZE, b"x")) for i in range(k)))
            sent += k
        ok, tag, _ = c.confirmed()
        assert ok
        done = max(done, tag)
    c.sock.close()


def take(node, queue, n, settle):
    """Takes n messages; settles those for which `settle` says so, finally. Returns [(number, redelivered)]."""
    c = amqp(node)
    c.consume(queue)
    got = []
    while len(got) < n:
        tag, redelivered, body = c.delivery()
        assert len(body) == SIZE
        got.append((int(body[:8]), redelivered))
        if settle(got[-1][0]):
            c.ack(tag)
    c.sync()
    c.sock.close()
    return got


def formed():
    cluster = Cluster(3, loopback=True)
    cluster.start()
    eventually(lambda: all(n.ctl("cluster", "health").get("healthy") for n in cluster.living()), 60)
    cluster.add_user()
    return cluster


def whole(cluster):
    return eventually(lambda: all(n.ctl("cluster", "health").get("healthy") for n in cluster.living()), 60)


def killed_leaders_of_a_backlog_are_followed_by_exact_copies():
    queue = "backlog"
    with formed() as cluster:
        amqp(cluster.nodes[1]).declare(queue)
        publish(cluster.nodes[1], queue, 0, COUNT)
        take(cluster.nodes[2], queue, COUNT, lambda i: i % 2 == 0)
        expected = list(range(1, COUNT, 2))
        last = COUNT
        for turn in range(2):
            leader = cluster.leader_of_queue(queue)
            followers = [n for n in cluster.living() if n is not leader]
            # Followed but for what a call leaves; before the kill, since what it is about to do is not what is measured. (Who was started since has it from its files, as far as they go.)
            if turn == 0:
                eventually(lambda: all(replayed(n, "following") >= COUNT - LEFT for n in followers), 60)
            leader.kill()
            eventually(lambda: cluster.leader_of_queue(queue) not in (None, leader), 30)
            now = cluster.leader_of_queue(queue)
            before = replayed(now, "opening"), replayed(now, "opening_locked")
            publish(now, queue, last, 10)
            expected += range(last, last + 10)
            last += 10
            assert replayed(now, "opening_locked") == before[1], "read back under the partition's lock"
            assert turn > 0 or replayed(now, "opening") - before[0] <= LEFT, (replayed(now, "opening"), before)
            got = take(followers[0], queue, len(expected), lambda i: i % 5 == 0)
            assert [i for i, _ in got] == expected
            assert all(redelivered for i, redelivered in got if i < COUNT), "what was delivered before does not say so"
            expected = [i for i in expected if i % 5 != 0]
            eventually(lambda: amqp(now).declare(queue, passive=True)[1] == len(expected), 20)
            leader.start()
            leader.wait_ready()
            whole(cluster)
        # Whoever leads now: what is purged stays purged.
        now = cluster.leader_of_queue(queue)
        assert amqp(now).purge(queue) == len(expected)
        now.kill()
        eventually(lambda: cluster.leader_of_queue(queue) not in (None, now), 30)
        assert amqp(cluster.leader_of_queue(queue)).declare(queue, passive=True)[1] == 0


def a_stopped_leader_hands_over_and_only_what_was_delivered_says_so():
    queue = "handed"
    with formed() as cluster:
        amqp(cluster.nodes[1]).declare(queue)
        publish(cluster.nodes[1], queue, 0, COUNT)
        leader = cluster.leader_of_queue(queue)
        other = next(n for n in cluster.living() if n is not leader)
        c = amqp(other)
        assert [int(c.get(queue)[3][:8]) for _ in range(3)] == [0, 1, 2]
        c.sock.close()
        leader.stop()
        eventually(lambda: cluster.leader_of_queue(queue) not in (None, leader), 30)
        now = cluster.leader_of_queue(queue)
        got = take(now, queue, COUNT, lambda i: True)
        assert [i for i, _ in got] == list(range(COUNT))
        assert replayed(now, "opening_locked") == 0
        assert [i for i, redelivered in got if redelivered] == [0, 1, 2]


def a_queue_is_deleted_and_declared_anew_around_a_failover():
    queue = "renewed"
    with formed() as cluster:
        amqp(cluster.nodes[1]).declare(queue)
        publish(cluster.nodes[1], queue, 0, COUNT // 2)
        leader = cluster.leader_of_queue(queue)
        leader.kill()
        eventually(lambda: cluster.leader_of_queue(queue) not in (None, leader), 30)
        now = cluster.leader_of_queue(queue)
        c, d = amqp(now), amqp(next(n for n in cluster.living() if n is not now))
        d.method(1, 60, 20, b"\0\0" + bytes([len(queue)]) + queue.encode() + b"\0\0\0\0\0\0")  # a consumer attaches while it is being opened, or before, or never
        c.method(1, 50, 40, b"\0\0" + bytes([len(queue)]) + queue.encode() + b"\0")
        c.expect(50, 41)
        assert c.declare(queue) == (queue, 0, 0)
        try:
            d.sock.close()
        except (OSError, AmqpClosed):
            pass
        publish(now, queue, 0, 100)
        assert [i for i, _ in take(now, queue, 100, lambda i: True)] == list(range(100))


def a_node_alone_opens_a_backlog_beside_its_lock():
    queue = "alone"
    with Cluster(1, loopback=True) as cluster:
        cluster.start()
        node = cluster.nodes[1]
        eventually(lambda: node.ctl("cluster", "health").get("healthy"), 60)
        cluster.add_user()
        amqp(node).declare(queue)
        publish(node, queue, 0, COUNT)
        take(node, queue, COUNT, lambda i: i % 3 != 0)
        node.kill()
        node.start()
        node.wait_ready()
        eventually(lambda: cluster.leader_of_queue(queue) is node, 30)
        rows = node.ctl("queues")
        assert [x["ready"] for x in rows if x["name"] == queue] == [len(range(0, COUNT, 3))], rows
        got = take(node, queue, len(range(0, COUNT, 3)), lambda i: True)
        assert [i for i, _ in got] == list(range(0, COUNT, 3))
        assert all(redelivered for _, redelivered in got)
        assert replayed(node, "opening_locked") == 0


run_tests([killed_leaders_of_a_backlog_are_followed_by_exact_copies, a_stopped_leader_hands_over_and_only_what_was_delivered_says_so,
           a_queue_is_deleted_and_declared_anew_around_a_failover, a_node_alone_opens_a_backlog_beside_its_lock])
